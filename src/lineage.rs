//! The lineage of a data directory: which snapshot its content comes from.
//!
//! `.lastgood` at the top of a data directory is lastgood's own folder: no snapshot holds it, and no restore writes
//! what a snapshot has there. Its `state.json` names the vault, the snapshot and the epoch that the directory comes
//! from, and a random serial that is renewed whenever the file is written. Each root records the serial that lay in the
//! directory when it was taken, so the directory and its snapshots can be told to belong together without a look at
//! times.
//!
//! The folder lies among the app's files, so nothing is expected of it: no symlink is followed, and what cannot be
//! understood is reported as [`UnclearLineage`] instead of being guessed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fstat, fsync, openat, renameat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Doing, Error, Result};
use crate::fs::{Folder, SAFE, is_file, is_folder, open_file, what};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::vault::hex::Hex;
use crate::vault::root::SnapshotName;

/// The name of lastgood's own folder at the top of a data directory.
pub const OWN_FOLDER: &str = ".lastgood";
/// The file in [`OWN_FOLDER`] that holds the [`Lineage`].
pub const STATE: &str = "state.json";
/// The file in [`OWN_FOLDER`] that `run` locks.
pub const RUN_LOCK: &str = "run.lock";
/// The file in [`OWN_FOLDER`] that says that the directory's content came with an image.
pub const SEED: &str = "seed";
/// The version of `state.json` that this program writes, and the only one that it reads.
pub const FORMAT: u32 = 1;
/// The most bytes of `state.json`.
const LONGEST: u64 = 1 << 16;
/// How much older than a new state file a temporary one is if whoever wrote it was killed, in seconds.
const ABANDONED: i64 = 60;

/// 16 random bytes that are new whenever a lineage is written.
pub type Serial = Hex<16>;

/// Where the content of a data directory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The version of the file.
    pub format: u32,
    /// The id of the vault.
    pub vault: Hex<16>,
    /// The snapshot that was restored to this directory, or taken of it; `None` if there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotName>,
    /// The epoch in which the directory is used, or that of the snapshot that was restored.
    pub epoch: u32,
    /// Renewed whenever the lineage is written.
    pub serial: Serial,
    /// Whether the snapshot was chosen by name or time, so that it may be older than the newest good one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chosen: bool,
    /// When the lineage was written.
    pub written: Timestamp,
}

/// Why the lineage of a directory cannot be known although there is something in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnclearLineage(String);

impl fmt::Display for UnclearLineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl UnclearLineage {
    fn state(why: impl fmt::Display) -> Self {
        UnclearLineage(format!("{OWN_FOLDER}/{STATE} {why}"))
    }
}

/// Draws a serial that no lineage has.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_serial(ctx: &Context) -> Result<Serial> {
    let mut serial = [0; 16];
    (ctx.random)(&mut serial)?;
    Ok(Hex(serial))
}

/// Whether an entry of a data directory is lastgood's own folder, or lies in it.
pub fn is_own(path: &EntryPath) -> bool {
    path.bytes().split(|&byte| byte == b'/').next() == Some(OWN_FOLDER.as_bytes())
}

/// Reads the lineage of a data directory; `None` if it has none, or the directory does not exist.
///
/// # Errors
/// Something is there that is no lineage, or it cannot be read.
pub fn read(directory: &Path) -> Result<Option<Lineage>, UnclearLineage> {
    match Folder::open(directory) {
        Ok(folder) => read_in(&folder),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(why) => Err(UnclearLineage::state(format_args!("cannot be read: {}", io::Error::from(why)))),
    }
}

/// As [`read`], for an open data directory.
///
/// # Errors
/// As [`read`].
pub fn read_in(directory: impl AsFd) -> Result<Option<Lineage>, UnclearLineage> {
    let unreadable = |why: Errno| UnclearLineage::state(format_args!("cannot be read: {}", io::Error::from(why)));
    let look = |folder: BorrowedFd, name: &str| match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(Some),
    };
    match look(directory.as_fd(), OWN_FOLDER).map_err(unreadable)? {
        None => return Ok(None),
        Some(stat) if !is_folder(&stat) => {
            return Err(UnclearLineage(format!("{OWN_FOLDER} is {}, and not lastgood's folder", what(&stat))));
        }
        Some(_) => {}
    }
    let own = match openat(&directory, OWN_FOLDER, SAFE | OFlags::DIRECTORY | OFlags::PATH, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        own => own.map_err(unreadable)?,
    };
    let foreign = |stat| UnclearLineage::state(format_args!("is {}, and not a file", what(&stat)));
    let (file, stat) = match open_file(&own, STATE.as_ref()) {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Ok(None),
        Err(why) => match look(own.as_fd(), STATE) {
            Ok(Some(stat)) if !is_file(&stat) => return Err(foreign(stat)),
            _ => return Err(unreadable(why)),
        },
    };
    if !is_file(&stat) {
        return Err(foreign(stat));
    }
    let mut bytes = Vec::new();
    let read = file.take(LONGEST + 1).read_to_end(&mut bytes);
    read.map_err(|why| UnclearLineage::state(format_args!("cannot be read: {why}")))?;
    parse(&bytes).map_err(UnclearLineage::state).map(Some)
}

/// Reads a lineage. Fields that this program does not know are ignored.
fn parse(bytes: &[u8]) -> Result<Lineage, String> {
    #[derive(Deserialize)]
    struct FormatVersion {
        format: u32,
    }
    if bytes.len() as u64 > LONGEST {
        return Err(format!("has more than {LONGEST} bytes"));
    }
    let wrong = |why: serde_json::Error| format!("is not a lineage: {why}");
    let FormatVersion { format } = serde_json::from_slice(bytes).map_err(wrong)?;
    if format != FORMAT {
        let version = env!("CARGO_PKG_VERSION");
        return Err(format!("has format {format}, and lastgood {version} reads format {FORMAT}"));
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

/// Writes the lineage of a data directory, in one step, and makes it durable. The directory is no seed any more.
///
/// # Errors
/// An error of the system; something other than a folder has the name of lastgood's own.
pub fn write(directory: &Path, lineage: &Lineage) -> Result<()> {
    let doing = || format!("write {}", directory.join(OWN_FOLDER).join(STATE).display());
    write_in(&Folder::open(directory).doing(doing)?, lineage)
}

/// As [`write`](fn@write), for an open data directory.
///
/// # Errors
/// As [`write`](fn@write).
pub fn write_in(directory: &Folder, lineage: &Lineage) -> Result<()> {
    let doing = || format!("write {}", directory.path().join(OWN_FOLDER).join(STATE).display());
    let own = own_folder(directory)?;
    let mut bytes = serde_json::to_vec(lineage).map_err(|why| Error::failed(doing(), why))?;
    bytes.push(b'\n');
    put(&own, lineage.serial, &bytes).doing(doing)?;
    match own.remove_file(SEED) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(why) => return Err(why).doing(|| format!("remove {}", own.path().join(SEED).display())),
    }
    hand_over(directory);
    sync(&own).doing(doing)
}

/// Checks that nothing is in the way of a lineage in a data directory, as far as that shows without writing. There is nothing in the way
/// where there is no directory.
///
/// # Errors
/// Something is; an error of the system.
pub fn check_place(directory: &Path) -> Result<()> {
    let own = directory.join(OWN_FOLDER);
    let doing = |path: &Path| format!("look at {}", path.display());
    let directory = match Folder::open(directory) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.doing(|| doing(directory))?,
    };
    let advice = "Move it away: lastgood keeps there which snapshot the directory comes from.";
    let in_way = |path: &Path, found: &Stat| {
        let why = format!("{} has that name", what(found));
        Error::failed(format!("write {}", path.display()), why).with_code(Code::NotStarted).hint(advice)
    };
    match directory.look(OWN_FOLDER).doing(|| doing(&own))? {
        None => return Ok(()),
        Some(found) if is_folder(&found) => {}
        Some(found) => return Err(in_way(&own, &found)),
    }
    let folder = directory.enter(OWN_FOLDER).doing(|| doing(&own))?;
    for name in [STATE, SEED] {
        let path = own.join(name);
        match folder.look(name).doing(|| doing(&path))? {
            Some(found) if is_folder(&found) => return Err(in_way(&path, &found)),
            _ => {}
        }
    }
    Ok(())
}

/// Gives lastgood's own folder and what is in it to the owner of the data directory, who may be the user that an app
/// runs as. Where that is not allowed, they stay this user's.
pub fn hand_over(directory: &Folder) {
    let done = (|| {
        let owner = |stat: &Stat| (stat.st_uid, stat.st_gid);
        let to = fstat(directory)?;
        let give = |folder: &Folder, name: &OsStr| match folder.look(name)? {
            Some(stat) if owner(&stat) != owner(&to) => {
                let (uid, gid) = (Uid::from_raw(to.st_uid), Gid::from_raw(to.st_gid));
                chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
            _ => Ok(()),
        };
        let own = directory.enter(OWN_FOLDER)?;
        [STATE, RUN_LOCK].iter().try_for_each(|name| give(&own, OsStr::new(name)))?;
        give(directory, OsStr::new(OWN_FOLDER))
    })();
    if let Err(why) = done {
        tracing::debug!("{OWN_FOLDER} in {} keeps its owner: {why}", directory.path().display());
    }
}

/// Opens lastgood's own folder in a data directory, and makes it where it does not exist.
///
/// # Errors
/// An error of the system; something other than a folder has that name.
pub fn own_folder(directory: &Folder) -> Result<Folder> {
    let doing = || format!("make the folder {}", directory.path().join(OWN_FOLDER).display());
    match directory.look(OWN_FOLDER).doing(doing)? {
        Some(stat) if is_folder(&stat) => directory.enter(OWN_FOLDER).doing(doing),
        Some(stat) => Err(Error::failed(doing(), format!("{} has that name", what(&stat)))
            .hint("Move it away: lastgood keeps there which snapshot the directory comes from.")),
        None => {
            let made = match directory.make(OWN_FOLDER, 0o755) {
                Err(Errno::EXIST) => directory.enter(OWN_FOLDER),
                made => made,
            };
            let made = made.doing(doing)?;
            sync(directory).doing(doing)?;
            Ok(made)
        }
    }
}

/// Makes a folder's names durable where that can be asked for.
fn sync(folder: &Folder) -> rustix::io::Result<()> {
    match folder.readable().and_then(fsync) {
        // A mounted bucket.
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        done => done,
    }
}

/// Gives a new file with these bytes the state file's name. The old file is not written to: it may be another name of
/// some other file.
fn put(own: &Folder, serial: Serial, bytes: &[u8]) -> io::Result<()> {
    let temporary = OsString::from(format!("{STATE}.{serial}"));
    let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let mut file = File::from(openat(own, &temporary, flags, Mode::from_raw_mode(0o644))?);
    let written = (|| {
        // A backup may run as another user than the restore, whose umask applies here.
        match fchmod(&file, Mode::from_raw_mode(0o644)) {
            // A filesystem that keeps no modes.
            Ok(()) | Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => {}
            Err(why) => return Err(why.into()),
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        renameat(own, &temporary, own, STATE)?;
        Ok::<_, io::Error>(fstat(&file)?.st_mtime)
    })();
    match written {
        Ok(now) => remove_abandoned(own, now),
        Err(_) => _ = own.remove_file(&temporary),
    }
    written.map(|_| ())
}

/// Removes the temporary files of writers that were killed. What cannot be removed stays, and does no harm.
fn remove_abandoned(own: &Folder, now: i64) {
    let prefix = format!("{STATE}.");
    for name in own.names().unwrap_or_default() {
        let is_old = |stat: Stat| is_file(&stat) && stat.st_mtime + ABANDONED < now;
        if name.as_encoded_bytes().starts_with(prefix.as_bytes())
            && own.look(&name).is_ok_and(|found| found.is_some_and(is_old))
            && let Err(why) = own.remove_file(&name)
        {
            tracing::debug!("{} stays: {why}", own.path().join(&name).display());
        }
    }
}

#[cfg(test)]
mod tests;
