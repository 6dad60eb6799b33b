//! What the lock says, while there is no lock yet: of an app that began with an empty data directory.
//!
//! Some apps insist on a directory that is empty when they start (databases that make their files do). So `.lastgood/run.lock` is made
//! only once something is in the directory, and it takes up to 200 ms until that is seen. If `run` is killed before, nothing in the
//! directory tells of what its app has started and left, which may write to it later. So the same is written down outside of the
//! directory before the app starts: in `/dev/shm`, or in `/tmp`. It says something only as long as the numbers of processes do, and both
//! folders forget it at a boot and with the container.
//!
//! Anybody may write to these folders. So the file is named by the user, the namespace of mounts and the directory's path, and is
//! believed only if it is of this user, is no link, and nobody else can write to it. Where somebody has put something under its name,
//! or neither folder can be written to, there is no such record, and a kill in that time is not noticed, as before.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{LockWait, RunLock, end_left, noted};
use crate::error::{Code, Error, Result};
use crate::fs::{Folder, SAFE, WRITE_OF_OTHERS, is_file};
use crate::vault::hex::Hex;

/// Where the record may be: the first folder that can be written to has it.
const FOLDERS: [&str; 2] = ["/dev/shm", "/tmp"];

/// The record, until it is dropped.
#[derive(Debug)]
pub struct EarlyRecord {
    folder: Folder,
    name: String,
    /// What writes it: no lock is held.
    record: RunLock,
}

impl EarlyRecord {
    /// Writes down that this process runs an app on a directory. `None` if that cannot be written down.
    pub fn write(data: &Path, host: &str) -> Option<EarlyRecord> {
        EarlyRecord::write_in(&FOLDERS, data, host)
    }

    fn write_in(folders: &[&str], data: &Path, host: &str) -> Option<EarlyRecord> {
        let name = name(data)?;
        let write = |folder: &&str| {
            let folder = Folder::open(Path::new(folder))?;
            // One of a `run` that is gone has done its duty by now: `end_left` comes before.
            if read(&folder, &name)?.is_some() {
                folder.remove_file(&name)?;
            }
            let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            let file: File = openat(&folder, &*name, flags, Mode::RUSR | Mode::WUSR)?.into();
            let record = RunLock { file: Some(file), path: folder.path().join(&name), writing: Default::default() };
            record.note(host);
            Ok::<_, io::Error>(EarlyRecord { folder, name: name.clone(), record })
        };
        folders.iter().find_map(|folder| match write(folder) {
            Ok(record) => Some(record),
            Err(why) => {
                tracing::debug!("it is not written to {folder} who runs an app on {}: {why}", data.display());
                None
            }
        })
    }

    /// Ends what an app has left that ran on this directory when its `run` was killed, as long as the directory was empty.
    ///
    /// # Errors
    /// A process does not end: [`Code::Locked`].
    pub fn end_left(data: &Path, wait: &LockWait) -> Result<()> {
        EarlyRecord::end_left_in(&FOLDERS, data, wait)
    }

    fn end_left_in(folders: &[&str], data: &Path, wait: &LockWait) -> Result<()> {
        let Some(name) = name(data) else { return Ok(()) };
        for folder in folders {
            let Ok(folder) = Folder::open(Path::new(folder)) else { continue };
            let Ok(Some(file)) = read(&folder, &name) else { continue };
            if !noted(&file).is_some_and(|noted| noted.is_gone()) {
                continue;
            }
            end_left(&file, wait).map_err(|left| {
                let why = format!("a `lastgood run` that was killed has left processes: {left}");
                Error::failed(format!("start the app on {}", data.display()), why)
                    .with_code(Code::Locked)
                    .hint("They may write to the data: end them first.")
            })?;
            // It may be gone already: another one may do the same.
            let _ = folder.remove_file(&name);
        }
        Ok(())
    }

    /// What writes it.
    pub fn record(&self) -> &RunLock {
        &self.record
    }
}

impl Drop for EarlyRecord {
    fn drop(&mut self) {
        // Another `run` on this directory may have put its own there.
        let (Ok(Some(there)), Some(Ok(own))) = (read(&self.folder, &self.name), self.record.file().map(fstat)) else {
            return;
        };
        if fstat(&there).is_ok_and(|there| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)) {
            let _ = self.folder.remove_file(&self.name);
        }
    }
}

/// The name of the file for a directory. `None` where the system does not say which mounts this process sees: one path may be two
/// directories in two containers.
fn name(data: &Path) -> Option<String> {
    let mounts = std::fs::metadata("/proc/self/ns/mnt").ok()?.ino();
    let mut hash = blake3::Hasher::new();
    hash.update(format!("{} {mounts} ", geteuid().as_raw()).as_bytes());
    hash.update(real(data).as_os_str().as_bytes());
    let mut short = [0; 16];
    hash.finalize_xof().fill(&mut short);
    Some(format!("lastgood-run-{}.json", Hex(short)))
}

/// Where a directory really is, which need not exist.
fn real(data: &Path) -> PathBuf {
    let within_parent = || Some(data.parent()?.canonicalize().ok()?.join(data.file_name()?));
    data.canonicalize().ok().or_else(within_parent).unwrap_or_else(|| data.to_owned())
}

/// Opens the file, if there is one.
///
/// # Errors
/// It is not to be believed.
fn read(folder: &Folder, name: &str) -> io::Result<Option<File>> {
    let file: File = match openat(folder, name, SAFE | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        Ok(file) => file.into(),
        Err(Errno::NOENT) => return Ok(None),
        Err(why) => return Err(why.into()),
    };
    let stat = fstat(&file)?;
    let is_own = is_file(&stat) && stat.st_uid == geteuid().as_raw() && stat.st_nlink == 1;
    match is_own && stat.st_mode & WRITE_OF_OTHERS == 0 {
        true => Ok(Some(file)),
        false => Err(io::Error::other("somebody else has made the file that is there")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_there_until_it_is_dropped_and_where_it_can_be() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = [first.path().to_str().unwrap(), second.path().to_str().unwrap()];
        let data = first.path().join("data");
        let files = |folder: &Path| -> Vec<PathBuf> {
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
        };
        let written = EarlyRecord::write_in(&folders, &data, "web-1").unwrap();
        let path = files(first.path()).remove(0);
        // The same directory has the same record once it is there, and by another name.
        fs::create_dir(&data).unwrap();
        symlink(&data, first.path().join("link")).unwrap();
        for path in [&data, &first.path().join("link")] {
            assert_eq!(name(path).unwrap(), written.name);
        }
        assert_ne!(name(&first.path().join("other")).unwrap(), written.name);
        // A `run` that is there is left alone, and its record, too.
        let (never, time) = (AtomicBool::new(false), Duration::ZERO);
        let wait = LockWait { host: "web-1", patience: time, stop_timeout: time, stop: &never };
        EarlyRecord::end_left_in(&folders, &data, &wait).unwrap();
        assert!(path.exists());
        // One that follows on the same directory has its own.
        let next = EarlyRecord::write_in(&folders, &data, "web-2").unwrap();
        drop(written);
        assert!(fs::read_to_string(&path).unwrap().contains("web-2"));
        drop(next);
        assert!(!path.exists());
        // What anybody could have written is not believed.
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let elsewhere = EarlyRecord::write_in(&folders, &data, "web-1").unwrap();
        assert_eq!(files(second.path()).len(), 1);
        drop(elsewhere);
        fs::remove_file(&path).unwrap();
        symlink(second.path().join("planted"), &path).unwrap();
        assert!(EarlyRecord::write_in(&folders[..1], &data, "web-1").is_none());
        assert!(files(second.path()).is_empty());
    }

    #[test]
    fn that_of_a_run_that_is_gone_goes() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_str().unwrap()];
        let written = EarlyRecord::write_in(&folders, Path::new("/nowhere/data"), "web-1").unwrap();
        let path = written.record().path().to_owned();
        let mut noted: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        noted["proof"]["run"]["start"] = 1.into();
        fs::write(&path, noted.to_string()).unwrap();
        let never = AtomicBool::new(false);
        let wait = LockWait { host: "", patience: Duration::ZERO, stop_timeout: Duration::ZERO, stop: &never };
        EarlyRecord::end_left_in(&folders, Path::new("/nowhere/data"), &wait).unwrap();
        assert!(!path.exists());
    }
}
