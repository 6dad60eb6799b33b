//! Files in `tmp/`: what is to become an object, and space that is set aside.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, fallocate, openat};
use rustix::io::Errno;

use super::folders::{make, set_ownership, split};
use super::{LocalStore, Result, StoreError, TMP, failed};
use crate::fs::{Folder, SAFE, filesystem};
use crate::path::shown;

/// The age at which a file in `tmp/` can no longer belong to a running write.
pub(super) const STALE: Duration = Duration::from_secs(24 * 3600);

/// A file in `tmp/` that is not an object yet.
pub(super) struct Temporary {
    pub(super) tmp: Folder,
    pub(super) name: String,
    pub(super) file: File,
}

impl Temporary {
    /// Removes it as best it can: a file that stays behind is swept later.
    fn remove(&self) {
        let _ = self.tmp.remove_file(&self.name);
    }
}

impl LocalStore {
    /// Opens a new temporary file.
    fn temporary(&self, top: &Folder, doing: impl FnOnce() -> String) -> Result<Temporary> {
        let tmp = make(top, TMP)?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        if serial == 0 {
            remove_stale(&tmp);
        }
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|e| StoreError::Failed {
            doing: "get random bytes".into(),
            source: io::Error::other(e.to_string()),
        })?;
        let name = temporary(random, serial);
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let file = File::from(openat(&tmp, &name, flags, Mode::from_raw_mode(0o600)).map_err(failed(doing))?);
        set_ownership(top, &tmp.path().join(&name), Ok(&file));
        Ok(Temporary { tmp, name, file })
    }

    /// Writes the content of the future object `name` to a temporary file, durably.
    pub(super) fn write(&self, top: &Folder, name: &str, body: &[&[u8]]) -> Result<Temporary> {
        split(name)?;
        let doing = || format!("write {}", shown(self.path(name)));
        let mut temporary = self.temporary(top, doing)?;
        let written = body.iter().try_for_each(|chunk| temporary.file.write_all(chunk));
        match written.and_then(|()| temporary.file.sync_all()) {
            Ok(()) => Ok(temporary),
            Err(source) => {
                temporary.remove();
                Err(StoreError::Failed { doing: doing(), source })
            }
        }
    }

    /// Makes a finished temporary file the object `name`, at the place `to`. Returns `false` if there is such an object
    /// already; the file is removed then.
    pub(super) fn give_name(&self, name: &str, from: &Temporary, to: (&Folder, &str)) -> Result<bool> {
        let given = (self.naming)(&from.file, (&from.tmp, from.name.as_ref()), (to.0, to.1.as_ref()));
        if given != Ok(true) {
            from.remove();
        }
        given.map_err(failed(|| format!("write {}", shown(self.path(name)))))
    }

    /// Sets bytes aside in a file that has no name, so that a killed process leaves nothing behind. Not done over a
    /// network, where each file costs requests, and where bytes are rarely set aside.
    pub(super) fn keep(&self, bytes: u64) -> Result<File> {
        let doing = || format!("set {bytes} bytes aside in {}", shown(&self.folder));
        let top = self.make_top()?;
        if filesystem::remote(&top).map_err(failed(doing))?.is_some() {
            return Err(failed(doing)(Errno::NOTSUP));
        }
        let kept = self.temporary(&top, doing)?;
        kept.remove();
        fallocate(&kept.file, FallocateFlags::empty(), 0, bytes).map_err(failed(doing))?;
        Ok(kept.file)
    }
}

/// Removes what killed writers left in `tmp/` more than a day ago, recognised by the form of its name. A file that
/// cannot be removed waits for the next time.
fn remove_stale(tmp: &Folder) {
    for name in tmp.names().unwrap_or_default() {
        if !is_temporary(name.as_bytes()) {
            continue;
        }
        let Ok(Some(stat)) = tmp.look(&name) else { continue };
        let age = u64::try_from(stat.st_mtime)
            .ok()
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && age.is_some_and(|age| age > STALE)
            && let Err(why) = tmp.remove_file(&name)
        {
            tracing::debug!("could not remove the old temporary file {}: {why}", shown(tmp.path().join(&name)));
        }
    }
}

/// Returns the name of a temporary file.
fn temporary(random: [u8; 8], serial: u64) -> String {
    format!("{:016x}-{serial}", u64::from_be_bytes(random))
}

/// Whether a name is one that [`temporary`] returns.
fn is_temporary(name: &[u8]) -> bool {
    let Some((random, serial)) = std::str::from_utf8(name).ok().and_then(|name| name.split_once('-')) else {
        return false;
    };
    let (Ok(number), Ok(serial)) = (u64::from_str_radix(random, 16), serial.parse()) else { return false };
    // The spelling must be the one that is written: without signs, capitals or leading zeros.
    temporary(number.to_be_bytes(), serial).as_bytes() == name
}
