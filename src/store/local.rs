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
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    Advice, AtFlags, FallocateFlags, FileType, Mode, OFlags, Stat, accessat, fadvise, fallocate, fstat, fsync, openat,
};
use rustix::io::Errno;

use super::{FreeSpace, Meta, Result, Staging, Store, StoreError};
use crate::fs::rename::give_name;
use crate::fs::{Folder, SAFE, filesystem, is_folder, location, open_file, what};

pub mod access;
mod staged;

use self::access::Ownership;
use self::staged::Staged;
use super::Unshared;

/// The folder for files that are not objects yet.
pub const TMP: &str = "tmp";
/// The age at which a file in `tmp/` can no longer belong to a running write.
const STALE: Duration = Duration::from_secs(24 * 3600);

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
            doing: format!("make a vault in {}", self.folder.display()),
            why: format!("it lies in the vault {}", other.display()),
            hint: "Name a folder of its own.".into(),
        })
    }

    /// Opens the folder of the vault. `None` if it does not exist.
    fn top(&self) -> Result<Option<Folder>> {
        match Folder::open(&self.folder) {
            Err(Errno::NOENT) => Ok(None),
            opened => opened.map(Some).map_err(failed(|| format!("open the folder {}", self.folder.display()))),
        }
    }

    /// Opens a folder of the vault, or the vault's own if `name` is empty. `None` if it does not exist.
    fn enter(&self, top: &Folder, name: &str) -> Result<Option<Folder>> {
        let mut at = again(top)?;
        for part in parts(name) {
            at = match at.enter(part) {
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::ACCESS) => return Err(self.closed_to_us(name)),
                entered => entered.map_err(|why| in_the_way(&at, part, why))?,
            };
        }
        Ok(Some(at))
    }

    /// Calls `find` on a folder of the vault, or on the vault's own if `name` is empty. `None` if the folder or what is
    /// looked for does not exist. It is then missing in the vault itself, and not in something that has taken the
    /// vault's place.
    fn within<T>(&self, name: &str, find: impl FnOnce(&Folder) -> Result<Option<T>>) -> Result<Option<T>> {
        let top = self.top()?;
        let folder = top.as_ref().map_or(Ok(None), |top| self.enter(top, name))?;
        let found = folder.as_ref().map_or(Ok(None), find)?;
        if found.is_none() {
            self.check_there(top.as_ref(), || format!("read in the folder {}", self.folder.display()))?;
        }
        Ok(found)
    }

    /// Checks that the folder is still that of the vault, if one was read from it. This asks the opened folder, and not
    /// the path: there may be something else at the path by now.
    fn check_there(&self, top: Option<&Folder>, doing: impl Fn() -> String) -> Result<()> {
        if !self.opened.load(Ordering::Relaxed) {
            return Ok(());
        }
        let there = top.map_or(Ok(None), |top| top.look(ALWAYS_THERE)).map_err(failed(&doing))?;
        let why = format!("{ALWAYS_THERE} was there, and is not any more; if it is on a volume, is that mounted?");
        there.map(drop).ok_or_else(|| StoreError::Unreachable { doing: doing(), why })
    }

    /// Returns the error that this user may not read an object or a folder of the vault.
    fn closed_to_us(&self, name: &str) -> StoreError {
        let shown = if name.is_empty() { "the vault" } else { name };
        access::denied(shown, &self.folder, &self.folder.join(name))
    }

    /// Opens the folder of the vault. If it is missing and nothing has been read from it, makes it durably.
    fn make_top(&self) -> Result<Folder> {
        let top = self.top()?;
        self.check_there(top.as_ref(), || format!("write in the folder {}", self.folder.display()))?;
        if let Some(top) = top {
            return Ok(top);
        }
        let doing = || format!("create the folder {}", self.folder.display());
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

    /// Removes what killed writers left in `tmp/` more than a day ago, recognised by the form of its name. A file that
    /// cannot be removed waits for the next time.
    fn sweep(tmp: &Folder) {
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
                tracing::debug!("could not sweep {}: {why}", tmp.path().join(&name).display());
            }
        }
    }
}

/// Whether a folder holds a vault of any format, or one that may not be looked into. Other programs use files of these
/// names, too.
fn is_vault(folder: &Path) -> bool {
    let [config, readme] = [ALWAYS_THERE, "README.md"].map(|name| folder.join(name));
    if !config.is_file() || !readme.is_file() {
        return false;
    }
    let mut text = Vec::new();
    let read = File::open(config).and_then(|file| file.take(LARGEST_CONFIG).read_to_end(&mut text));
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(&text) else { return read.is_err() };
    said["format"].is_u64() && said["id"].is_string() && said["hash_key"].is_string()
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

/// Returns the names of the folders in a path of the vault.
fn parts(name: &str) -> impl Iterator<Item = &str> {
    name.split('/').filter(|part| !part.is_empty())
}

fn failed<S: FnOnce() -> String>(doing: S) -> impl FnOnce(Errno) -> StoreError {
    |why| StoreError::Failed { doing: doing(), source: why.into() }
}

/// Returns why a folder of the vault cannot be entered and, if something else is in its place, what to do.
fn in_the_way(above: &Folder, name: &str, why: Errno) -> StoreError {
    let path = above.path().join(name);
    match above.look(name) {
        Ok(Some(there)) if !is_folder(&there) => not_followed(&path, &there, ", not a folder"),
        _ => failed(|| format!("open the folder {}", path.display()))(why),
    }
}

fn not_followed(path: &Path, there: &Stat, not: &str) -> StoreError {
    let shown = path.display();
    let hint = match FileType::from_raw_mode(there.st_mode) {
        FileType::Symlink => format!(
            "Nothing in a vault is reached through links: others could have this program write or delete elsewhere by them. \
             Remove the link {shown}; if what it leads to is the vault's own, move that there."
        ),
        _ => format!("Move {shown} away."),
    };
    StoreError::Refused { doing: format!("use {shown}"), why: format!("it is {}{not}", what(there)), hint }
}

/// Gives something that was just made in a vault to those who share the vault, and to nobody else.
fn give(top: &Folder, path: &Path, made: rustix::io::Result<impl AsFd>) {
    let given = fstat(top).and_then(|top| Ownership::in_vault(&top).give(made?));
    if let Err(why) = given {
        tracing::debug!("{} has the owner and the mode that it was made with: {why}", path.display());
    }
}

/// Opens the same folder once more.
fn again(top: &Folder) -> Result<Folder> {
    top.enter_all(Path::new("")).map_err(failed(|| format!("open the folder {}", top.path().display())))
}

/// Opens a folder of the vault, and makes it durably if it is missing.
fn make(top: &Folder, name: &str) -> Result<Folder> {
    let mut at = again(top)?;
    for part in parts(name) {
        at = match at.enter(part) {
            Err(Errno::NOENT) => {
                let path = at.path().join(part);
                let made = at.make_all(Path::new(part), 0o700);
                let made = made.map_err(failed(|| format!("create the folder {}", path.display())))?;
                give(top, &path, made.readable());
                sync(&made)?;
                sync(&at)?;
                made
            }
            entered => entered.map_err(|why| in_the_way(&at, part, why))?,
        };
    }
    Ok(at)
}

fn sync(folder: &Folder) -> Result<()> {
    folder.readable().and_then(fsync).map_err(failed(|| format!("fsync the folder {}", folder.path().display())))
}

/// Splits an object's name into its folder and its last name.
///
/// # Errors
/// A name that no object has, such as one that leads out of the vault.
fn split(name: &str) -> Result<(&str, &str)> {
    if name.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.contains('\0')) {
        return Err(StoreError::Refused {
            doing: format!("use the object {name:?}"),
            why: "no object of a vault has such a name".into(),
            hint: "Nothing was done. `lastgood verify` looks at what is in the vault.".into(),
        });
    }
    Ok(name.rsplit_once('/').unwrap_or(("", name)))
}

impl Store for LocalStore {
    fn url(&self) -> String {
        self.folder.display().to_string()
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
        let doing = || format!("look at the folder {}", self.folder.display());
        let mode = fstat(&top).map_err(failed(doing))?.st_mode & 0o7777;
        let closed = access::closed(mode);
        // A folder that cannot be closed may be somebody else's, or on a filesystem without modes. That it is open is
        // reported later.
        if mode != closed
            && let Err(why) = top.set_mode(closed)
        {
            tracing::debug!("{} keeps its mode: {why}", self.folder.display());
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

    fn closed(&self, name: &str) -> Option<StoreError> {
        let (folder, last) = split(name).ok()?;
        let closed = |folder: &Folder| {
            accessat(folder, last, rustix::fs::Access::READ_OK, AtFlags::EACCESS) == Err(Errno::ACCESS)
        };
        let denied = match self.within(folder, |folder| Ok(Some(closed(folder)))) {
            Ok(denied) => denied == Some(true),
            Err(why) => matches!(why, StoreError::Denied { .. }),
        };
        denied.then(|| self.closed_to_us(name))
    }

    fn staging(&self) -> Box<dyn Staging + '_> {
        Box::new(Staged::new(self))
    }

    fn room(&self, keep: u64) -> Option<FreeSpace> {
        let free = filesystem::free(&self.folder).ok().flatten()?;
        let kept = self.keep(keep.min(free / 16));
        let kept = kept.inspect_err(|why| tracing::debug!("no room is kept in {}: {why}", self.folder.display())).ok();
        Some(FreeSpace { free, kept })
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (file, size) = self.open(name)?;
        if size > limit {
            return Err(StoreError::OutOfRange { name: name.into(), size, wanted: limit });
        }
        let bytes = self.read(name, &file, 0, size)?;
        if name == ALWAYS_THERE {
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
            let doing = || format!("list {}", self.folder.join(&within).display());
            self.within(&within, |folder| {
                let names = match folder.names() {
                    Err(Errno::ACCESS) => return Err(self.closed_to_us(&within)),
                    names => names.map_err(failed(doing))?,
                };
                // At the top, no name is known that would have to be there.
                let mut whole = !within.is_empty();
                for last in names {
                    // A name that is not UTF-8 is not one of ours, and not an object.
                    let Ok(last) = last.into_string() else { continue };
                    let name = format!("{within}{last}");
                    let there = match folder.look(&last) {
                        Err(Errno::ACCESS) => return Err(self.closed_to_us(&within)),
                        looked => looked.map_err(failed(doing))?,
                    };
                    match there {
                        Some(stat) if is_folder(&stat) && name == TMP => {}
                        Some(stat) if is_folder(&stat) => folders.push(name + "/"),
                        Some(stat) => found.push(Meta { name, size: stat.st_size as u64 }),
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
        let doing = || format!("list {}", self.folder.display());
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
        let dropped = self.look_into(name).map(|(file, _)| fadvise(&file, 0, None, Advice::DontNeed));
        if !matches!(dropped, Ok(Ok(()))) {
            tracing::debug!("what is in memory of {name} could not be let go: {dropped:?}");
        }
    }
}

/// A file in `tmp/` that is not an object yet.
struct Temporary {
    tmp: Folder,
    name: String,
    file: File,
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
            Self::sweep(&tmp);
        }
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|e| StoreError::Failed {
            doing: "get random bytes".into(),
            source: io::Error::other(e.to_string()),
        })?;
        let name = temporary(random, serial);
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let file = File::from(openat(&tmp, &name, flags, Mode::from_raw_mode(0o600)).map_err(failed(doing))?);
        give(top, &tmp.path().join(&name), Ok(&file));
        Ok(Temporary { tmp, name, file })
    }

    /// Writes the content of the future object `name` to a temporary file, durably.
    fn write(&self, top: &Folder, name: &str, body: &[&[u8]]) -> Result<Temporary> {
        split(name)?;
        let doing = || format!("write {}", self.path(name).display());
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
    fn give_name(&self, name: &str, from: &Temporary, to: (&Folder, &str)) -> Result<bool> {
        let given = (self.naming)(&from.file, (&from.tmp, from.name.as_ref()), (to.0, to.1.as_ref()));
        if given != Ok(true) {
            from.remove();
        }
        given.map_err(failed(|| format!("write {}", self.path(name).display())))
    }

    /// Sets bytes aside in a file that has no name, so that a killed process leaves nothing behind. Not done over a
    /// network, where each file costs requests, and where bytes are rarely set aside.
    fn keep(&self, bytes: u64) -> Result<File> {
        let doing = || format!("keep {bytes} bytes of {}", self.folder.display());
        let top = self.make_top()?;
        if filesystem::remote(&top).map_err(failed(doing))?.is_some() {
            return Err(failed(doing)(Errno::NOTSUP));
        }
        let kept = self.temporary(&top, doing)?;
        kept.remove();
        fallocate(&kept.file, FallocateFlags::empty(), 0, bytes).map_err(failed(doing))?;
        Ok(kept.file)
    }

    /// Opens an object's file, as [`LocalStore::look_into`] does. If other objects can be read, the error is about this
    /// object alone.
    fn open(&self, name: &str) -> Result<(File, u64)> {
        let unreadable = |why: String| StoreError::Unreadable { name: name.into(), why };
        match self.look_into(name) {
            Err(StoreError::Failed { source, .. }) if is_denied(&source) => Err(self.closed_to_us(name)),
            Err(StoreError::Denied { .. }) => Err(self.closed_to_us(name)),
            Err(StoreError::Refused { why, .. }) if self.gives_others(name) => Err(unreadable(why)),
            Err(StoreError::Failed { source, .. }) if is_of_object(&source) && self.gives_others(name) => {
                Err(unreadable(source.to_string()))
            }
            opened => opened,
        }
    }

    /// Opens an object's file, and nothing else that lies in its place.
    fn look_into(&self, name: &str) -> Result<(File, u64)> {
        let path = self.path(name);
        let doing = || format!("open {}", path.display());
        let (folder, last) = split(name)?;
        let is_file = |there: &Stat| FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
        let no_file = |there: &Stat| not_followed(&path, there, ", not a file");
        let found = self.within(folder, |folder| {
            // Checked before it is opened: opening alone has effects on some devices.
            match folder.look(last).map_err(failed(doing))? {
                Some(there) if is_file(&there) => {}
                Some(there) => return Err(no_file(&there)),
                None => return Ok(None),
            }
            match open_file(folder, last.as_ref()) {
                Ok((file, there)) if is_file(&there) => Ok(Some((file, there.st_size as u64))),
                Ok((_, there)) => Err(no_file(&there)),
                Err(Errno::NOENT) => Ok(None),
                Err(why) => Err(failed(doing)(why)),
            }
        })?;
        found.ok_or_else(|| StoreError::NotFound { name: name.into() })
    }

    fn read(&self, name: &str, file: &File, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        let Err(first) = file.read_exact_at(&mut bytes, offset) else { return Ok(bytes) };
        if is_denied(&first) {
            return Err(access::denied(name, &self.folder, &self.path(name)));
        }
        if !is_of_object(&first) {
            return Err(self.not_read(name, offset, length, first));
        }
        self.forget(name);
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            // A disk or a file server that returns nothing at all is a different matter from one bad place on it.
            Err(why) if is_of_object(&why) && self.gives_others(name) => {
                Err(StoreError::Unreadable { name: name.into(), why: why.to_string() })
            }
            Err(why) => Err(self.not_read(name, offset, length, why)),
        }
    }

    fn not_read(&self, name: &str, offset: u64, length: u64, source: io::Error) -> StoreError {
        StoreError::Failed {
            doing: format!("read {length} bytes at {offset} of {}", self.path(name).display()),
            source,
        }
    }

    /// Whether an object other than this one can be read: the one that every vault has, from the medium and not from
    /// memory.
    fn gives_others(&self, name: &str) -> bool {
        if name == ALWAYS_THERE {
            return false;
        }
        self.forget(ALWAYS_THERE);
        self.look_into(ALWAYS_THERE).is_ok_and(|(file, _)| file.read_at(&mut [0], 0).is_ok())
    }
}

/// The name of an object that every vault has.
const ALWAYS_THERE: &str = "vault.json";
/// The largest possible size of that object, in bytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Whether the error is about permissions.
fn is_denied(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::PermissionDenied
}

/// Whether the error may be about this one object: a bad sector, a wrong checksum in the filesystem.
fn is_of_object(why: &io::Error) -> bool {
    let errno = why.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::NODATA))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::fs::rename::link_or_rename;
    use crate::store::testing::contract;

    #[test]
    fn no_name_leads_out_of_the_vault() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().join("vault"));
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        for name in ["", "/", "a/", "/a", "../secret", "a/../../secret", ".hidden", "a//b", "a\0b"] {
            assert!(matches!(store.create(name, &[b"x"]), Err(StoreError::Refused { .. })), "{name:?}");
            assert!(matches!(store.staging().put(name, &[b"x"]), Err(StoreError::Refused { .. })), "{name:?}");
            assert!(matches!(store.get(name, 100), Err(StoreError::Refused { .. })), "{name:?}");
            assert!(matches!(store.get_range(name, 0, 1), Err(StoreError::Refused { .. })), "{name:?}");
            assert!(store.closed(name).is_none());
        }
        assert!(store.list("").unwrap().is_empty());
    }

    #[test]
    fn keeps_the_contract() {
        contract::run(&|| {
            let folder = tempfile::tempdir().unwrap();
            let store = LocalStore::new(folder.path().join("deep/vault"));
            (Box::new(store), Box::new(folder))
        });
    }

    #[test]
    fn keeps_the_contract_behind_a_link_that_its_user_named() {
        contract::run(&|| {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("real")).unwrap();
            symlink("real", folder.path().join("link")).unwrap();
            (Box::new(LocalStore::new(folder.path().join("link"))), Box::new(folder))
        });
    }

    #[test]
    fn keeps_the_contract_where_a_rename_may_replace() {
        contract::run(&|| {
            let folder = tempfile::tempdir().unwrap();
            let naming: Naming = |file, from, to| link_or_rename(file, from, to);
            (Box::new(LocalStore { naming, ..LocalStore::new(folder.path()) }), Box::new(folder))
        });
    }

    #[test]
    fn a_temporary_file_that_stays_behind_is_no_failure_and_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let naming: Naming =
            |_, from, to| rustix::fs::linkat(from.0, from.1, to.0, to.1, rustix::fs::AtFlags::empty()).map(|()| true);
        let store = LocalStore { naming, ..LocalStore::new(folder.path()) };
        store.create("packs/a", &[b"x"]).unwrap();
        assert_eq!(store.list("tmp/").unwrap().len(), 1);
        let time = SystemTime::now() - 3 * STALE;
        File::options().write(true).open(folder.path().join("packs/a")).unwrap().set_modified(time).unwrap();
        let store = LocalStore::new(folder.path());
        store.create("packs/b", &[b"x"]).unwrap();
        assert_eq!(store.list("tmp/").unwrap(), []);
        assert_eq!(store.get("packs/a", 1).unwrap(), b"x");
    }

    #[test]
    fn a_name_that_cannot_be_given_is_an_error_that_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore { naming: |_, _, _| Err(Errno::IO), ..LocalStore::new(folder.path()) };
        assert!(matches!(store.create("packs/a", &[b"x"]), Err(StoreError::Failed { .. })));
        assert_eq!(store.list("tmp/").unwrap(), []);
    }

    #[test]
    fn nothing_is_written_where_the_folder_that_was_read_is_not_any_more() {
        let scratch = tempfile::tempdir().unwrap();
        let (volume, away) = (scratch.path().join("vault"), scratch.path().join("away"));
        let store = LocalStore::new(&volume);
        store.create("vault.json", &[b"{}"]).unwrap();
        store.get("vault.json", 10).unwrap();
        store.create("runs/1", &[b"1"]).unwrap();
        fs::rename(&volume, &away).unwrap();
        // The mount point of a volume that is not mounted exists, or does not.
        for there in [false, true] {
            let created = store.create("runs/2", &[b"2"]).unwrap_err().to_string();
            assert!(created.contains("vault.json was there") && created.contains("mounted"), "{created}");
            assert!(store.staging().put("packs/1", &[b"1"]).is_err());
            match there {
                false => fs::create_dir(&volume).unwrap(),
                true => assert_eq!(fs::read_dir(&volume).unwrap().count(), 0),
            }
        }
        fs::remove_dir(&volume).unwrap();
        fs::rename(&away, &volume).unwrap();
        store.create("runs/2", &[b"2"]).unwrap();
    }

    #[test]
    fn a_failed_write_leaves_no_object() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path());
        fs::write(folder.path().join("packs"), "in the way").unwrap();
        let said = store.create("packs/a", &[b"x"]).unwrap_err().to_string();
        assert!(said.contains("packs: it is a file, not a folder"), "{said}");
        assert_eq!(store.list("tmp/").unwrap(), []);
    }

    /// Makes a file that is three days old.
    fn old(path: &Path) {
        fs::write(path, "old").unwrap();
        let time = SystemTime::now() - 3 * STALE;
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_swept_are_old_files_of_this_programs_names() {
        let folder = tempfile::tempdir().unwrap();
        let (tmp, far) = (folder.path().join("vault/tmp"), folder.path().join("far"));
        fs::create_dir_all(tmp.join("00000000000000aa-3")).unwrap();
        old(&far);
        symlink(&far, tmp.join("00000000000000aa-4")).unwrap();
        fs::write(tmp.join("00000000000000aa-5"), "new").unwrap();
        let stay = [
            "00000000000000aa",
            "00000000000000aa-",
            "00000000000000aa-01",
            "00000000000000aa-+1",
            "00000000000000aa-1x",
            "00000000000000AA-1",
            "+0000000000000aa-1",
            "0000000000000aa-1",
            "thesis.txt",
        ];
        stay.iter().for_each(|name| old(&tmp.join(name)));
        let mut expected = names(&tmp);
        expected.sort();
        for name in ["00000000000000aa-0", "0123456789abcdef-18446744073709551615"] {
            old(&tmp.join(name));
        }
        LocalStore::new(folder.path().join("vault")).create("a", &[b"x"]).unwrap();
        assert_eq!(names(&tmp), expected);
        assert!(far.exists());
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_is_told_and_leads_nowhere() {
        for name in ["tmp", "packs", "claims", "claims/x"] {
            let folder = tempfile::tempdir().unwrap();
            let (vault, far) = (folder.path().join("vault"), folder.path().join("far"));
            fs::create_dir_all(far.join("x")).unwrap();
            for name in ["thesis.txt", "00000000000000aa-0", "a", "x/1"] {
                old(&far.join(name));
            }
            fs::create_dir_all(vault.join(name).parent().unwrap()).unwrap();
            symlink(&far, vault.join(name)).unwrap();
            let store = LocalStore::new(&vault);
            for object in ["packs/a", "packs/new", "claims/x/1", "claims/x/2"] {
                if name != "tmp" && !object.starts_with(name) {
                    continue;
                }
                let mut said = vec![store.create(object, &[b"x"]).unwrap_err()];
                if name != "tmp" {
                    said.push(store.get(object, 10).unwrap_err());
                    said.push(store.get_range(object, 0, 1).unwrap_err());
                    said.push(store.list(&format!("{}/", split(object).unwrap().0)).unwrap_err());
                }
                for said in said {
                    let text = said.while_doing("do it").to_string();
                    assert!(text.contains(&format!("{name}: it is a symbolic link")), "{text}");
                    assert!(text.contains("Remove the link"), "{text}");
                }
            }
            assert_eq!(names(&far), ["00000000000000aa-0", "a", "thesis.txt", "x"], "{name}");
            assert_eq!(names(&far.join("x")), ["1"], "{name}");
        }
    }

    #[test]
    fn one_object_that_cannot_be_read_is_told_from_a_store_that_fails() {
        let scratch = tempfile::tempdir().unwrap();
        let store = LocalStore::new(scratch.path());
        store.create("packs/a", &[b"x"]).unwrap();
        let path = scratch.path().join("packs/b");
        let makes: [&dyn Fn(); 3] = [
            &|| rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR).unwrap(),
            &|| symlink("a", &path).unwrap(),
            &|| std::fs::create_dir(&path).unwrap(),
        ];
        for make in makes {
            make();
            // Nothing is known of other objects yet.
            let alone = [store.get("packs/b", 9), store.get_range("packs/b", 0, 1)];
            assert!(alone.iter().all(|got| matches!(got, Err(StoreError::Refused { .. }))), "{alone:?}");
            store.create(ALWAYS_THERE, &[b"{}"]).unwrap();
            let beside = [store.get("packs/b", 9), store.get_range("packs/b", 0, 1)];
            assert!(beside.iter().all(|got| matches!(got, Err(StoreError::Unreadable { .. }))), "{beside:?}");
            std::fs::remove_file(scratch.path().join(ALWAYS_THERE)).unwrap();
            std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path)).unwrap();
        }
    }

    #[test]
    fn an_object_that_is_a_link_is_neither_read_nor_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().join("vault"));
        store.create("packs/a", &[b"x"]).unwrap();
        fs::write(folder.path().join("far"), "secret").unwrap();
        for target in ["../../far", "../../none"] {
            let link = folder.path().join("vault/packs/link");
            symlink(target, &link).unwrap();
            assert!(matches!(store.get("packs/link", 100), Err(StoreError::Refused { .. })));
            assert!(matches!(store.create("packs/link", &[b"x"]), Err(StoreError::AlreadyExists { .. })));
            fs::remove_file(link).unwrap();
        }
        assert_eq!(names(folder.path()), ["far", "vault"]);
        assert_eq!(fs::read(folder.path().join("far")).unwrap(), b"secret");
        assert_eq!(names(&folder.path().join("vault/tmp")), [""; 0]);
    }

    #[test]
    fn a_folder_that_is_swapped_for_a_link_between_two_objects_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (vault, far) = (folder.path().join("vault"), folder.path().join("far"));
        let store = LocalStore::new(&vault);
        store.create("packs/a", &[b"x"]).unwrap();
        for name in ["packs", "tmp"] {
            fs::rename(vault.join(name), &far).unwrap();
            symlink(&far, vault.join(name)).unwrap();
            let before = names(&far);
            assert!(matches!(store.create("packs/b", &[b"x"]), Err(StoreError::Refused { .. })), "{name}");
            assert_eq!(names(&far), before, "{name}");
            fs::remove_file(vault.join(name)).unwrap();
            fs::rename(&far, vault.join(name)).unwrap();
        }
        store.create("packs/b", &[b"x"]).unwrap();
    }

    #[test]
    fn nothing_is_written_where_the_vault_that_was_opened_is_not_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let vault = folder.path().join("vault");
        let store = LocalStore::new(&vault);
        for name in ["README.md", ALWAYS_THERE] {
            store.create(name, &[b"{}"]).unwrap();
            store.get(name, 9).unwrap();
        }
        // Anybody may tidy up what is not a part of the vault.
        fs::remove_file(vault.join("README.md")).unwrap();
        store.create("packs/a", &[b"x"]).unwrap();
        fs::rename(&vault, folder.path().join("unmounted")).unwrap();
        fs::create_dir(&vault).unwrap();
        fs::write(vault.join("README.md"), "of the mount point").unwrap();
        assert!(matches!(store.create("packs/b", &[b"x"]), Err(StoreError::Unreachable { .. })));
        assert_eq!(names(&vault), ["README.md"]);
    }

    #[test]
    fn what_is_missing_is_so_in_the_vault_that_was_opened() {
        let scratch = tempfile::tempdir().unwrap();
        let (volume, away) = (scratch.path().join("vault"), scratch.path().join("away"));
        let store = LocalStore::new(&volume);
        let nothing = || {
            assert!(matches!(store.get("packs/b", 1), Err(StoreError::NotFound { .. })));
            assert_eq!(store.list("runs/").unwrap(), []);
        };
        // No vault has been read yet.
        nothing();
        store.create("packs/a", &[b"x"]).unwrap();
        nothing();
        store.create(ALWAYS_THERE, &[b"{}"]).unwrap();
        store.get(ALWAYS_THERE, 9).unwrap();
        nothing();
        fs::rename(&volume, &away).unwrap();
        // The mount point of a volume that is not mounted exists, or does not, and something may lie in it.
        for below in [None, Some(""), Some("packs")] {
            if let Some(below) = below {
                fs::create_dir_all(volume.join(below)).unwrap();
            }
            let said = [
                store.get(ALWAYS_THERE, 9).map(drop),
                store.get("packs/a", 1).map(drop),
                store.get_range("packs/a", 0, 1).map(drop),
                store.list("").map(drop),
                store.list("runs/").map(drop),
                store.other_than(&["packs"]).map(drop),
            ];
            for (at, said) in said.into_iter().enumerate() {
                let text = format!("{said:?}");
                assert!(
                    matches!(said, Err(StoreError::Unreachable { .. })) && text.contains("mounted"),
                    "{at}: {text}"
                );
            }
        }
        fs::remove_dir_all(&volume).unwrap();
        fs::rename(&away, &volume).unwrap();
        nothing();
        assert_eq!(store.get("packs/a", 1).unwrap(), b"x");
    }
}
