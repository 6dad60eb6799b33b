//! Moves what lies in open folders, and gives files their names.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags, fstat, linkat, renameat, renameat_with};
use rustix::io::{Errno, Result};

use super::{Folder, Spot, single};

/// Renames without replacing anything.
///
/// # Errors
/// As `renameat`; and if `to` exists.
pub fn rename(from: &Spot, to: &Spot) -> Result<()> {
    writable_meanwhile(&[from], || rename_free(from, to))
}

/// Moves folders. A folder that moves gets a new `..`, for which it must be writable: if that is refused, folders that
/// are not writable are made so for that moment.
pub(crate) fn writable_meanwhile(folders: &[&Spot], moves: impl Fn() -> Result<()>) -> Result<()> {
    let why = match moves() {
        Err(why @ (Errno::ACCESS | Errno::PERM)) => why,
        done => return done,
    };
    let mut opened = Vec::new();
    for folder in folders.iter().filter_map(|spot| spot.enter().ok()) {
        let Ok(stat) = fstat(&folder) else { continue };
        let mode = stat.st_mode & 0o7777;
        if mode & 0o700 != 0o700 && folder.set_mode(mode | 0o700).is_ok() {
            opened.push((folder, mode));
        }
    }
    if opened.is_empty() {
        return Err(why);
    }
    let done = moves();
    opened.iter().fold(done, |done, (folder, mode)| done.and(folder.set_mode(*mode)))
}

pub(crate) fn rename_free(from: &Spot, to: &Spot) -> Result<()> {
    let (from_name, to_name) = (single(&from.name)?, single(&to.name)?);
    match renameat_with(&from.folder, from_name, &to.folder, to_name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match to.look()? {
            Some(_) => Err(Errno::EXIST),
            None => renameat(&from.folder, from_name, &to.folder, to_name),
        },
        done => done,
    }
}

/// Renames a folder over another one that is empty, in one step.
///
/// # Errors
/// As `renameat`; a target that is not empty is refused.
pub fn rename_over(folder: &Spot, empty: &Spot) -> Result<()> {
    renameat(&folder.folder, single(&folder.name)?, &empty.folder, single(&empty.name)?)
}

/// Exchanges what lies under two names.
///
/// # Errors
/// As `renameat2`.
pub fn exchange(one: &Spot, other: &Spot) -> Result<()> {
    let (name, other_name) = (single(&one.name)?, single(&other.name)?);
    let exchange = || renameat_with(&one.folder, name, &other.folder, other_name, RenameFlags::EXCHANGE);
    writable_meanwhile(&[one, other], exchange)
}

/// Gives `file`, which is finished and has the name `from`, the name `to`. Returns `false` if that name was taken
/// before; nothing is replaced then, and `from` stays.
///
/// Filesystems without `RENAME_NOREPLACE` get a hard link, and those with neither (some FUSE mounts) a plain rename
/// after a look. If the file has the name `to`, it counts as named, whatever a call said: over a network an answer may
/// be lost and the call be made once more, and what is left under `from` is not a failure.
///
/// # Errors
/// An error of the system; `to` is not this file then, as far as can be seen.
pub fn give_name(file: impl AsFd, from: (&Folder, &OsStr), to: (&Folder, &OsStr)) -> Result<bool> {
    match renameat_with(from.0, single(from.1)?, to.0, single(to.1)?, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_or_rename(file, from, to),
        Err(_) if has_name(&file, from, to) => Ok(leave(from)),
        Err(Errno::EXIST) => Ok(false),
        Err(why) => Err(why),
    }
}

/// Removes the name that a file had before it got another one. Returns `true`: the file has that one in any case.
pub(crate) fn leave(from: (&Folder, &OsStr)) -> bool {
    match from.0.remove_file(from.1) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(why) => {
            tracing::debug!("{} could not be removed, and stays behind: {why}", from.0.path().join(from.1).display())
        }
    }
    true
}

/// As [`give_name`], where a rename may replace what is there.
pub(crate) fn link_or_rename(file: impl AsFd, from: (&Folder, &OsStr), to: (&Folder, &OsStr)) -> Result<bool> {
    let linked = linkat(from.0, from.1, to.0, to.1, AtFlags::empty());
    if linked.is_ok() || has_name(&file, from, to) {
        return Ok(leave(from));
    }
    // A call that would replace what is there may be used only if it is known that nothing is there.
    if linked == Err(Errno::EXIST) || to.0.look(to.1)?.is_some() {
        return Ok(false);
    }
    match renameat(from.0, from.1, to.0, to.1) {
        Err(_) if has_name(&file, from, to) => Ok(true),
        done => done.map(|()| true),
    }
}

/// Whether `to` is this file, and not only one with its number: some filesystems give a number twice, but in that case
/// they neither moved it away from `from` nor count a second name.
pub(crate) fn has_name(file: impl AsFd, from: (&Folder, &OsStr), to: (&Folder, &OsStr)) -> bool {
    let (Ok(file), Ok(Some(there))) = (fstat(file), to.0.look(to.1)) else { return false };
    let same = (file.st_dev, file.st_ino, file.st_size) == (there.st_dev, there.st_ino, there.st_size);
    same && (file.st_nlink > 1 || matches!(from.0.look(from.1), Ok(None)))
}
