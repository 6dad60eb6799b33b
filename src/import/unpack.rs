//! Unpacks an archive into an empty folder, and nowhere else.
//!
//! Every name is looked up in the open folder that it is in, and no symlink is followed. What an archive has twice, it has in its later
//! form. Times and permissions of folders are set at the end, the deepest ones first.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::found::{Found, FoundKind};
use crate::error::{Code, Error, Result};
use crate::fs::{Folder, filesystem};
use crate::monitor::Context;
use crate::path::{EntryPath, shown};
use crate::text::count_of;

/// What stays free of the filesystem that is unpacked into, in bytes: an archive of a few bytes may hold as many as it likes.
const FREE: u64 = 256 << 20;
/// The most bytes that are written in one step.
const BUFFER: u64 = 256 << 10;
/// After how many bytes it is looked whether the disk is filling up.
const LOOK: u64 = 64 << 20;

/// A folder into which an archive is unpacked.
pub struct Unpacked<'a> {
    top: Folder,
    /// Folders, and what is set of them at the end.
    folders: BTreeMap<EntryPath, Found>,
    /// Number of entries that were unpacked.
    pub entries: u64,
    /// Number of entries that were left out, by what they are.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Bytes since the last look at the disk.
    written: u64,
    is_root: bool,
    ctx: &'a Context<'a>,
}

impl<'a> Unpacked<'a> {
    /// Begins with an empty folder.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn into(folder: &Path, ctx: &'a Context<'a>) -> Result<Self> {
        let top = Folder::open(folder).map_err(|why| failed("open", folder, why))?;
        let (folders, left_out) = Default::default();
        let is_root = rustix::process::geteuid().is_root();
        Ok(Unpacked { top, folders, entries: 0, left_out, written: 0, is_root, ctx })
    }

    /// Returns the folders above the data: all entries lie in the last of them, whose name is `name`. `None` if there is none such.
    pub fn folder_of(&self, name: &OsStr) -> Option<EntryPath> {
        let mut at = EntryPath::root();
        loop {
            // It ends at what is no folder.
            let names = self.top.enter_all(at.as_path()).and_then(|folder| folder.names()).ok()?;
            if at.name() == name.as_bytes() {
                return Some(at);
            }
            let [only] = &names[..] else { return None };
            at = at.join(only.as_bytes());
        }
    }

    /// Unpacks an entry.
    ///
    /// # Errors
    /// An entry that leads elsewhere, or is in the way of another; a full disk; being told to stop.
    pub fn take(&mut self, found: Found, content: &mut dyn Read) -> Result<()> {
        self.ctx.check("import an archive")?;
        let path = found.path.clone();
        let at = |why: Errno| failed("unpack", path.as_path(), why);
        if let FoundKind::Other(what) = found.kind {
            *self.left_out.entry(what).or_default() += 1;
            return Ok(());
        }
        self.entries += 1;
        if found.kind == FoundKind::Folder {
            self.top.make_all(path.as_path(), 0o755).map_err(|why| in_the_way(&path, why))?;
            self.folders.insert(path, found);
            return Ok(());
        }
        let Some(above) = path.folder() else {
            return Err(Error::failed("unpack the archive", "it says that its top is a file"));
        };
        let folder = self.top.make_all(above.as_path(), 0o755).map_err(|why| in_the_way(&path, why))?;
        let name = OsStr::from_bytes(path.name());
        match folder.look(name).map_err(at)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                return Err(in_the_way(&path, Errno::EXIST));
            }
            Some(_) => folder.remove_file(name).map_err(at)?,
            None => {}
        }
        match &found.kind {
            FoundKind::File(size, ranges) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(openat(&folder, name, flags, Mode::from_raw_mode(0o600)).map_err(at)?);
                self.write(&path, &mut file, (*size, ranges), content)?;
                self.describe(&file, &found).map_err(at)?;
            }
            FoundKind::Symlink(target) => {
                symlinkat(OsStr::from_bytes(target), &folder, name).map_err(at)?;
                if let Some((user, group)) = found.owner.filter(|_| self.is_root) {
                    chownat(
                        &folder,
                        name,
                        Some(Uid::from_raw(user)),
                        Some(Gid::from_raw(group)),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )
                    .map_err(at)?;
                }
                utimensat(&folder, name, &times(found.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(at)?;
            }
            FoundKind::HardLink(first) => {
                let lacks = |why: Errno| {
                    let why =
                        format!("it is another name of {first}, which the archive does not have before it: {why}");
                    Error::failed(format!("unpack {path}"), why)
                };
                let beside = first.folder().ok_or_else(|| lacks(Errno::ISDIR))?;
                let beside = self.top.enter_all(beside.as_path()).map_err(lacks)?;
                linkat(&beside, OsStr::from_bytes(first.name()), &folder, name, AtFlags::empty()).map_err(lacks)?;
            }
            FoundKind::Folder | FoundKind::Other(_) => {}
        }
        Ok(())
    }

    /// Writes the ranges of a file; what is between them stays a hole.
    fn write(
        &mut self,
        path: &EntryPath,
        file: &mut File,
        (size, ranges): (u64, &[(u64, u64)]),
        content: &mut dyn Read,
    ) -> Result<()> {
        let doing = || format!("unpack {path}");
        let full = |why: io::Error| Error::io(doing(), &why);
        let mut buffer = vec![0; size.clamp(1, BUFFER) as usize];
        for (offset, length) in ranges {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let read = match content.read(&mut buffer[..most]) {
                    Ok(0) => return Err(Error::failed(doing(), "the archive ends in its content")),
                    Ok(read) => read,
                    Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                    Err(why) => return Err(full(why)),
                };
                file.write_all_at(&buffer[..read], at).map_err(full)?;
                at += read as u64;
                self.written += read as u64;
                if self.written >= LOOK {
                    self.written = 0;
                    self.look_at_disk()?;
                }
            }
        }
        // Whatever is left has the wrong length, and the sum of a zip archive is checked at its end.
        match content.read(&mut buffer[..1]).map_err(full)? {
            0 => {}
            _ => return Err(Error::failed(doing(), "it has more bytes than the archive says")),
        }
        file.set_len(size).map_err(full)?;
        file.flush().map_err(full)
    }

    fn look_at_disk(&self) -> Result<()> {
        self.ctx.check("import an archive")?;
        match filesystem::free(self.top.path()) {
            Ok(Some(free)) if free < FREE => {
                let why = format!("only {} MiB are free in {}", free >> 20, shown(self.top.path()));
                let hint =
                    "Name a folder on a larger disk: `--scratch DIR`. An archive is unpacked there, and removed.";
                Err(Error::failed("unpack the archive", why).with_code(Code::DiskFull).hint(hint))
            }
            _ => Ok(()),
        }
    }

    /// Sets what an archive says of a file or a folder.
    fn describe(&mut self, at: impl AsFd, found: &Found) -> Result<(), Errno> {
        let at = at.as_fd();
        if let Some((user, group)) = found.owner.filter(|_| self.is_root) {
            fchown(at, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        for (name, value) in &found.attributes {
            // A filesystem need not have them, and some are for root alone.
            if fsetxattr(at, OsStr::from_bytes(name), value, XattrFlags::empty()).is_err() {
                *self.left_out.entry("extended attribute").or_default() += 1;
            }
        }
        fchmod(at, Mode::from_raw_mode(found.mode))?;
        futimens(at, &times(found.mtime))
    }

    /// Sets times and permissions of the folders. Returns what was left out, for the user.
    ///
    /// # Errors
    /// An error of the system.
    pub fn finish(&mut self) -> Result<Vec<String>> {
        for (path, found) in std::mem::take(&mut self.folders).into_iter().rev() {
            let at = |why| failed("set times and permissions of", path.as_path(), why);
            let folder = self.top.enter_all(path.as_path()).and_then(|folder| folder.readable()).map_err(at)?;
            self.describe(folder, &found).map_err(at)?;
        }
        Ok(self.left_out.iter().map(|(what, count)| count_of(*count, what)).collect())
    }
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let modified = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified }
}

fn failed(doing: &str, path: &Path, why: Errno) -> Error {
    let error = io::Error::from(why);
    Error::io(format!("{doing} {}", shown(path)), &error)
}

/// The error for an entry whose place is taken by one of another kind: a symlink stands where a folder should be, for example.
fn in_the_way(path: &EntryPath, why: Errno) -> Error {
    match why {
        Errno::NOTDIR | Errno::LOOP | Errno::EXIST => {
            let why = "another entry of the archive is in its way, a file or a link in place of a folder";
            Error::failed(format!("unpack {path}"), why)
        }
        why => failed("unpack", path.as_path(), why),
    }
}
