//! How other programs use a database, as far as their locks and open files show it.
//!
//! A program that uses a write-ahead log has the database locked for reading as long as it is open ([`locks`]). One of which there
//! is no `-shm` beside the database that it has open, has it open under another path: in a container that has this one file mounted,
//! by another hard link, or with its log renamed or removed. What it has committed may then lie in a log that is not here.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rustix::fs::{OFlags, Stat, lstat, stat};
use rustix::io::Errno;

use super::at::At;
use super::header::Header;
use super::locks::{self, Held, held};
use super::registry::{self, try_hold};
use super::side::{Id, id, is_file};
use super::wal_index;
use crate::backup::found::Found;
use crate::backup::read::read_some;
use crate::beneath::Directory;

/// Nobody waits for the files that are looked at here.
static GO_ON: AtomicBool = AtomicBool::new(false);

/// Under which names a program has the file open whose status is `of`, by the logs that it has open beside them and as far as this
/// process may know.
pub fn names_in_use(pid: u32, of: &Stat) -> impl Iterator<Item = PathBuf> {
    let logs = open_files(pid).filter_map(|descriptor| fs::read_link(descriptor).ok());
    logs.filter_map(|log| {
        let database = PathBuf::from(OsStr::from_bytes(log.as_os_str().as_bytes().strip_suffix(b"-wal")?));
        lstat(&database).is_ok_and(|found| id(&found) == id(of)).then_some(database)
    })
}

/// Whether a program has a file open; none where this process may not know.
pub fn has_open(pid: u32, file: Id) -> Option<bool> {
    let mut known = None;
    for descriptor in open_files(pid) {
        match stat(&descriptor) {
            Ok(found) if id(&found) == file => return Some(true),
            Ok(_) => known = Some(false),
            // It was closed at this moment.
            Err(Errno::NOENT) => {}
            Err(_) => return None,
        }
    }
    known
}

/// What leads to the files that a program has open.
fn open_files(pid: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Whether the log of a program lies here that has the database open: a `-shm` that it has open, and the `-wal` that this is the index
/// of. Those that cannot be asked may be so.
///
/// # Errors
/// What the system refuses.
pub fn is_log_here(at: &At) -> Result<bool, Errno> {
    let here = |ending| Ok(at.status(ending)?.filter(is_file));
    let (Some(wal), Some(shm)) = (here("-wal")?, here("-shm")?) else { return Ok(false) };
    let open = |stat: &Stat, ending| {
        let hold = try_hold(stat.st_dev, stat.st_ino)?;
        registry::open(hold, &GO_ON, || at.open(ending, OFlags::RDONLY)).ok()
    };
    let Some(shm) = open(&shm, "-shm") else { return Ok(true) };
    if !locks::is_open(&shm.file) {
        return Ok(false);
    }
    let Some(wal) = open(&wal, "-wal") else { return Ok(true) };
    let read = |at, out: &mut [u8]| read_some(&wal.file, at, out).map(|read| read == out.len());
    Ok(wal_index::is_of(&shm.file, read).unwrap_or(true))
}

/// Whether a program has a database open that uses a log, and the log is not here: then what it has committed shows in no file of
/// this folder. What cannot be asked is read, which finds out.
pub fn is_used_elsewhere(root: &Directory, found: &Found) -> bool {
    let Ok(at) = At::beneath(root, &found.path) else { return true };
    let Some(hold) = try_hold(found.device, found.inode) else { return true };
    let used = match registry::open(hold, &GO_ON, || at.open("", OFlags::RDONLY)) {
        Ok(opened) if opened.hold.id() == (found.device, found.inode) => match held(&opened.file) {
            Held::No => false,
            Held::Reading(_) => Header::read(&opened.file).ok().flatten().is_none_or(|header| header.wal),
            Held::Alone(_) => true,
        },
        _ => return true,
    };
    used && !is_log_here(&at).unwrap_or(false)
}
