//! The folders of a vault: opened one in the other without following a link, and made durably.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, Stat, fstat, fsync};
use rustix::io::Errno;

use super::access::Ownership;
use super::{CONFIG, LocalStore, Result, StoreError, failed};
use crate::error::Code;
use crate::fs::{Folder, is_folder, what};
use crate::path::shown;

impl LocalStore {
    /// Opens the folder of the vault. `None` if it does not exist.
    pub(super) fn top(&self) -> Result<Option<Folder>> {
        match Folder::open(&self.folder) {
            Err(Errno::NOENT) => Ok(None),
            opened => opened.map(Some).map_err(failed(|| format!("open the folder {}", shown(&self.folder)))),
        }
    }

    /// Opens a folder of the vault, or the vault's own if `name` is empty. `None` if it does not exist.
    fn enter(&self, top: &Folder, name: &str) -> Result<Option<Folder>> {
        let mut at = reopen(top)?;
        for part in parts(name) {
            at = match at.enter(part) {
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::ACCESS) => return Err(self.denied_to_us(name)),
                entered => entered.map_err(|why| in_the_way(&at, part, why))?,
            };
        }
        Ok(Some(at))
    }

    /// Calls `find` on a folder of the vault, or on the vault's own if `name` is empty. `None` if the folder or what is
    /// looked for does not exist. It is then missing in the vault itself, and not in something that has taken the
    /// vault's place.
    pub(super) fn within<T>(&self, name: &str, find: impl FnOnce(&Folder) -> Result<Option<T>>) -> Result<Option<T>> {
        let top = self.top()?;
        let folder = top.as_ref().map_or(Ok(None), |top| self.enter(top, name))?;
        let found = folder.as_ref().map_or(Ok(None), find)?;
        if found.is_none() {
            self.check_there(top.as_ref(), || format!("read in the folder {}", shown(&self.folder)))?;
        }
        Ok(found)
    }

    /// Checks that the folder is still that of the vault, if one was read from it. This asks the opened folder, and not
    /// the path: there may be something else at the path by now.
    fn check_there(&self, top: Option<&Folder>, doing: impl Fn() -> String) -> Result<()> {
        if !self.opened.load(Ordering::Relaxed) {
            return Ok(());
        }
        let there = top.map_or(Ok(None), |top| top.look(CONFIG)).map_err(failed(&doing))?;
        let why = format!("{CONFIG} was there and is gone; if it is on a volume, is that mounted?");
        there.map(drop).ok_or_else(|| StoreError::Unreachable { doing: doing(), why })
    }

    /// Opens the folder of the vault. If it is missing and nothing has been read from it, makes it durably.
    pub(super) fn make_top(&self) -> Result<Folder> {
        let top = self.top()?;
        self.check_there(top.as_ref(), || format!("write in the folder {}", shown(&self.folder)))?;
        if let Some(top) = top {
            return Ok(top);
        }
        let doing = || format!("create the folder {}", shown(&self.folder));
        let missing = |at: &&Path| !at.as_os_str().is_empty() && at.try_exists().is_ok_and(|there| !there);
        let missing: Vec<&Path> = self.folder.ancestors().take_while(missing).collect();
        let failure = |source| StoreError::Failed { doing: doing(), source };
        fs::create_dir_all(self.folder.parent().unwrap_or(Path::new(""))).map_err(failure)?;
        match fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            // Another process made it just now.
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failure)?,
        }
        for above in missing.iter().filter_map(|made| made.parent()) {
            sync(&Folder::open(above).map_err(failed(doing))?)?;
        }
        self.top()?.ok_or_else(|| failed(doing)(Errno::NOENT))
    }
}

/// Returns the names of the folders in a path of the vault.
fn parts(name: &str) -> impl Iterator<Item = &str> {
    name.split('/').filter(|part| !part.is_empty())
}

/// Returns why a folder of the vault cannot be entered and, if something else is in its place, what to do.
fn in_the_way(above: &Folder, name: &str, why: Errno) -> StoreError {
    let path = above.path().join(name);
    match above.look(name) {
        Ok(Some(there)) if !is_folder(&there) => not_followed(&path, &there, ", not a folder"),
        _ => failed(|| format!("open the folder {}", shown(path)))(why),
    }
}

pub(super) fn not_followed(path: &Path, there: &Stat, not: &str) -> StoreError {
    let shown = shown(path);
    let hint = match FileType::from_raw_mode(there.st_mode) {
        FileType::Symlink => format!(
            "Nothing in a vault is reached through links: others could have this program write or delete elsewhere by them. \
             Remove the link {shown}; if what it leads to is the vault's own, move that there."
        ),
        _ => format!("Move {shown} away."),
    };
    StoreError::Refused {
        doing: format!("use {shown}"),
        why: format!("it is {}{not}", what(there)),
        hint,
        code: Code::Failed,
    }
}

/// Gives something that was just made in a vault to those who share the vault, and to nobody else.
pub(super) fn set_ownership(top: &Folder, path: &Path, made: rustix::io::Result<impl AsFd>) {
    let given = fstat(top).and_then(|top| Ownership::in_vault(&top).apply_to(made?));
    if let Err(why) = given {
        tracing::debug!("could not give {} the owner and the permissions of its vault: {why}", shown(path));
    }
}

/// Opens the same folder once more.
fn reopen(top: &Folder) -> Result<Folder> {
    top.enter_all(Path::new("")).map_err(failed(|| format!("open the folder {}", shown(top.path()))))
}

/// Opens a folder of the vault, and makes it durably if it is missing.
pub(super) fn make(top: &Folder, name: &str) -> Result<Folder> {
    let mut at = reopen(top)?;
    for part in parts(name) {
        at = match at.enter(part) {
            Err(Errno::NOENT) => {
                let path = at.path().join(part);
                let made = at.make_all(Path::new(part), 0o700);
                let made = made.map_err(failed(|| format!("create the folder {}", shown(&path))))?;
                set_ownership(top, &path, made.readable());
                sync(&made)?;
                sync(&at)?;
                made
            }
            entered => entered.map_err(|why| in_the_way(&at, part, why))?,
        };
    }
    Ok(at)
}

pub(super) fn sync(folder: &Folder) -> Result<()> {
    folder.readable().and_then(fsync).map_err(failed(|| format!("fsync the folder {}", shown(folder.path()))))
}

/// Splits an object's name into its folder and its last name.
///
/// # Errors
/// A name that no object has, such as one that leads out of the vault.
pub(super) fn split(name: &str) -> Result<(&str, &str)> {
    if name.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.contains('\0')) {
        return Err(StoreError::Refused {
            doing: format!("use the object {name:?}"),
            why: "no object of a vault has such a name".into(),
            hint: "Nothing was done. `lastgood verify` looks at what is in the vault.".into(),
            code: Code::Failed,
        });
    }
    Ok(name.rsplit_once('/').unwrap_or(("", name)))
}
