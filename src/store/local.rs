//! A store in a folder of a mounted filesystem.
//!
//! An object is created as a temporary file in `tmp/`, which is synced, renamed without replacing anything, and
//! followed by an fsync of the folder. So a crash leaves at most a file in `tmp/`, which the first writer after a day
//! sweeps away, and an object that can be seen is whole and durable.
//!
//! The folder of the vault may be reached through symlinks: its user named it. Its contents may not: each folder in it
//! is opened in the one above without following links, and objects are names in open folders. If something else lies in
//! such a folder's place, nothing is read, made or removed there, and the error says what it is.
//!
//! An object was created when its file was made, in `tmp/`: at most the length of a backup before it got its name. Filesystems that
//! tell no birth time tell when the file was last modified, which is the same, since no object is ever written to again; copies that
//! keep times (`cp -a`, `rsync -a`) keep this one, too.
//!
//! The table shows what happens if creating an object goes wrong. It fails only if nobody may rely on the object, and
//! says that the object exists only if it did before:
//!
//! | what fails | what happens |
//! |---|---|
//! | making a folder or the temporary file, writing or syncing it | an error; there is no object |
//! | giving it its name, which is not there | an error; there is no object |
//! | giving it its name, which is another file | it exists; the temporary file is removed |
//! | giving it its name, which is this very file all the same: an answer was lost | it goes on as if nothing had failed |
//! | removing the temporary file that was linked, or was not needed | nothing; it is swept later |
//! | the fsync of the folder | an error: the object is there, and a crash may take it away again. It is not removed, since others may have seen it |
//! | the fsync of the folder in which the object was before | an error: whoever is told that it exists relies on it |

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::Timestamp;
use rustix::fs::{Advice, AtFlags, accessat, fadvise, fstat};
use rustix::io::Errno;

use self::access::Ownership;
use self::folders::{make, split, sync};
use self::staged::Staged;
use super::{CONFIG, FreeSpace, Meta, Result, Staging, Store, StoreError, Unshared};
use crate::error::Code;
use crate::fs::rename::give_name;
use crate::fs::{Folder, Listed, filesystem, is_folder, location};
use crate::path::shown;
use crate::store::address::of_folder;

pub mod access;
mod folders;
mod read;
mod staged;
mod temporary;

/// The folder for files that are not objects yet.
pub const TMP: &str = "tmp";
/// The largest possible size of `vault.json`, in bytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Gives a finished file its name, as [`give_name`] does.
type Naming = fn(&File, (&Folder, &OsStr), (&Folder, &OsStr)) -> rustix::io::Result<bool>;

/// A store in a folder of a mounted filesystem.
#[derive(Debug)]
pub struct LocalStore {
    folder: PathBuf,
    serial: AtomicU64,
    naming: Naming,
    /// Whether the object that every vault has was read through this store, as whoever opens a vault does. If it is
    /// gone later, another folder has taken this one's place, such as the mount point of a volume: then nothing is
    /// written there, and a missing object there says nothing about the vault.
    opened: AtomicBool,
}

impl LocalStore {
    /// Returns a store in `folder`, which need not exist: the first object creates it.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        LocalStore {
            folder: folder.into(),
            serial: AtomicU64::new(0),
            naming: |file, from, to| give_name(file, from, to),
            opened: AtomicBool::new(false),
        }
    }

    /// Returns the folder that the objects are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Checks that the folder, in which a vault is about to be made, does not lie in another vault: it would become a
    /// part of that.
    fn check_apart(&self) -> Result<()> {
        // A path that cannot be resolved becomes an error where the folder is made.
        let at = location::resolve(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let Some(other) = at.ancestors().skip(1).find(|folder| is_vault(folder)) else { return Ok(()) };
        Err(StoreError::Refused {
            doing: format!("make a vault in {}", shown(&self.folder)),
            why: format!("it lies in the vault {}", shown(other)),
            hint: "Name a folder of its own.".into(),
            code: Code::Failed,
        })
    }

    /// Returns the error that this user may not read an object or a folder of the vault.
    fn denied_to_us(&self, name: &str) -> StoreError {
        let shown = if name.is_empty() { "the vault" } else { name };
        access::denied(shown, &self.folder, &self.folder.join(name))
    }
}

/// Whether a folder holds a vault of any format, or one that may not be looked into. Other programs use files of these
/// names, too.
fn is_vault(folder: &Path) -> bool {
    let [config, readme] = [CONFIG, "README.md"].map(|name| folder.join(name));
    if !config.is_file() || !readme.is_file() {
        return false;
    }
    let mut text = Vec::new();
    let read = File::open(config).and_then(|file| file.take(LARGEST_CONFIG).read_to_end(&mut text));
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(&text) else { return read.is_err() };
    said["format"].is_u64() && said["id"].is_string() && said["hash_key"].is_string()
}

/// Returns the time of seconds and ns since 1970; the nearest one if it is out of range.
fn time_of((seconds, nanos): (i64, u32)) -> Timestamp {
    let limit = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    i32::try_from(nanos).ok().and_then(|nanos| Timestamp::new(seconds, nanos).ok()).unwrap_or(limit)
}

fn failed<S: FnOnce() -> String>(doing: S) -> impl FnOnce(Errno) -> StoreError {
    |why| StoreError::Failed { doing: doing(), source: why.into() }
}

impl Store for LocalStore {
    fn url(&self) -> String {
        of_folder(&self.folder)
    }

    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        let (folder, last) = split(name)?;
        let top = self.make_top()?;
        let folder = make(&top, folder)?;
        let temporary = self.write(&top, name, body)?;
        let new = self.give_name(name, &temporary, (&folder, last))?;
        // Sync it also if another writer made the object: that writer may not have come so far yet.
        sync(&folder)?;
        if new { Ok(()) } else { Err(StoreError::AlreadyExists { name: name.into() }) }
    }

    fn prepare(&self) -> Result<()> {
        self.check_apart()?;
        let top = self.make_top()?;
        let doing = || format!("look at the folder {}", shown(&self.folder));
        let mode = fstat(&top).map_err(failed(doing))?.st_mode & 0o7777;
        let closed = access::closed_mode(mode);
        // A folder that cannot be closed may be somebody else's, or on a filesystem without modes. That it is open is
        // reported later.
        if mode != closed
            && let Err(why) = top.set_mode(closed)
        {
            tracing::debug!("could not close {} to other users: {why}", shown(&self.folder));
        }
        Ok(())
    }

    fn open_to_others(&self) -> Option<u32> {
        let top = self.top().ok()??;
        // On FUSE modes are made up, and say nothing about who can look in.
        if filesystem::remote(&top).ok()? == Some("FUSE") {
            return None;
        }
        let mode = fstat(&top).ok()?.st_mode & 0o7777;
        (mode & 0o007 != 0).then_some(mode)
    }

    fn unshared(&self) -> Option<Unshared> {
        let top = self.top().ok()??;
        if filesystem::remote(&top).ok()?.is_some() {
            return None;
        }
        let access = Ownership::in_vault(&fstat(&top).ok()?);
        let mut names = top.names().ok()?;
        names.sort();
        // `lost+found` belongs to the filesystem and is not a part of the vault.
        names.iter().filter(|name| *name != "lost+found").find_map(|name| {
            let stat = top.look(name).ok().flatten()?;
            access.unshared(&stat, name.to_string_lossy().into_owned())
        })
    }

    fn denied(&self, name: &str) -> Option<StoreError> {
        let (folder, last) = split(name).ok()?;
        let closed = |folder: &Folder| {
            accessat(folder, last, rustix::fs::Access::READ_OK, AtFlags::EACCESS) == Err(Errno::ACCESS)
        };
        let denied = match self.within(folder, |folder| Ok(Some(closed(folder)))) {
            Ok(denied) => denied == Some(true),
            Err(why) => matches!(why, StoreError::Denied { .. }),
        };
        denied.then(|| self.denied_to_us(name))
    }

    fn staging(&self) -> Box<dyn Staging + '_> {
        Box::new(Staged::new(self))
    }

    fn set_aside(&self, keep: u64) -> Option<FreeSpace> {
        let free = filesystem::free(&self.folder).ok().flatten()?;
        let kept = self.keep(keep.min(free / 16));
        let kept =
            kept.inspect_err(|why| tracing::debug!("no space is set aside in {}: {why}", shown(&self.folder))).ok();
        Some(FreeSpace { free, kept })
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (file, size) = self.open(name)?;
        if size > limit {
            return Err(StoreError::OutOfRange { name: name.into(), size, wanted: limit });
        }
        let bytes = self.read(name, &file, 0, size)?;
        if name == CONFIG {
            self.opened.store(true, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        let (file, size) = self.open(name)?;
        match offset.checked_add(length) {
            Some(end) if end <= size => self.read(name, &file, offset, length),
            end => Err(StoreError::OutOfRange { name: name.into(), size, wanted: end.unwrap_or(u64::MAX) }),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(within) = folders.pop() {
            let doing = || format!("list {}", shown(self.folder.join(&within)));
            self.within(&within, |folder| {
                let names = match folder.names() {
                    Err(Errno::ACCESS) => return Err(self.denied_to_us(&within)),
                    names => names.map_err(failed(doing))?,
                };
                // At the top, no name is known that would have to be there.
                let mut whole = !within.is_empty();
                for last in names {
                    // A name that is not UTF-8 is not one of ours, and not an object.
                    let Ok(last) = last.into_string() else { continue };
                    let name = format!("{within}{last}");
                    let there = match folder.look_at_birth(&last) {
                        Err(Errno::ACCESS) => return Err(self.denied_to_us(&within)),
                        looked => looked.map_err(failed(doing))?,
                    };
                    match there {
                        Some(listed) if listed.is_folder && name == TMP => {}
                        Some(listed) if listed.is_folder => folders.push(name + "/"),
                        Some(Listed { size, born, .. }) => found.push(Meta { name, size, created: time_of(born) }),
                        None => whole = false,
                    }
                }
                Ok(whole.then_some(()))
            })?;
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        let doing = || format!("list {}", shown(&self.folder));
        self.within("", |top| {
            for name in top.names().map_err(failed(doing))? {
                let folder = top.look(&name).is_ok_and(|stat| stat.is_some_and(|stat| is_folder(&stat)));
                let name = name.to_string_lossy().into_owned();
                // A new filesystem has `lost+found`.
                if name != "lost+found" && name != TMP && !known.contains(&name.as_str()) {
                    return Ok(Some(if folder { name + "/" } else { name }));
                }
            }
            Ok(None)
        })
    }

    fn forget(&self, name: &str) {
        // Pages that are not written back yet are not dropped. Objects have none: our writers sync them first.
        let dropped = self.open_regular_file(name).map(|(file, _)| fadvise(&file, 0, None, Advice::DontNeed));
        if !matches!(dropped, Ok(Ok(()))) {
            tracing::debug!("could not drop {name} from the system's cache: {dropped:?}");
        }
    }
}

#[cfg(test)]
mod tests;
