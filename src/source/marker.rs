//! The marker: the file that says that a restore into a folder was not finished.
//!
//! A restore that does not put everything into place in one step leaves the folder half restored in between, and a
//! process that is killed then tells nobody. So the folder is marked from before the first step until after the last
//! one. The marker says which paths in the folder are affected, or that all of it is, and where the previous content
//! was moved. No backup takes such a folder, `doctor` names it, and the next restore of the same content completes it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, StatxFlags, fchmod, fstat, openat, renameat, statat, statx};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::select::is_ours;
use crate::command::RestoreCommand;
use crate::error::Code;
use crate::fs::beneath::born;
use crate::fs::filesystem::is_mount;
use crate::fs::rename::rename;
use crate::fs::{Folder, SAFE, Spot, is_file, open_file, what};
use crate::path::EntryPath;
use crate::vault::root::SnapshotName;

/// The marker's file name.
pub const MARKER: &str = ".lastgood-in-place";
/// The name under which a marker is written in a restore's own folder, before it is moved into place whole.
pub const DRAFT: &str = "marker";
/// The most bytes of a marker.
const LONGEST: u64 = 1 << 20;
/// Bytes of a marker that are reserved for all that it says besides the paths of one restore.
const ROOM: u64 = 1 << 14;
/// Most paths that are named in a message.
const NAMED: usize = 3;

/// The first line of a marker for the whole folder, and of one for some paths in it. Records follow, each made of a
/// word, a space, a path and a zero byte.
const ALL: &str = "lastgood is filling this folder, or was stopped while it did. Restore again to complete it.\n";
const SOME: &str =
    "lastgood is restoring paths of this folder, or was stopped while it did. Restore them again to complete it.\n";
const PATH: &[u8] = b"path ";
const ASIDE: &[u8] = b"aside ";
const AROUND: &[u8] = b"around mounts";
/// Programs that do not know this record skip it.
const SNAPSHOT: &[u8] = b"snapshot ";
/// When the folder that the marker was written for was made. A marker that was copied or unpacked with other files into
/// another folder says nothing about that one.
const FOLDER: &[u8] = b"folder ";

/// The unfinished part of a restore into a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// The paths that the restore was about, below the folder; empty if it was about all of it.
    pub paths: Vec<EntryPath>,
    /// Where the previous content is, as far as it had been moved: relative to the folder, in it or beside it.
    pub aside: Vec<PathBuf>,
    /// Whether the restore was to leave alone what was mounted in the content that it replaced.
    pub around: bool,
    /// The snapshot that was restored, if there was one and the marker names it (an older program leaves it out).
    pub snapshot: Option<SnapshotName>,
}

/// The content of a marker, and which folder it was written for, if it says that.
type MarkerContent = (Unfinished, Option<Vec<u8>>);

impl Unfinished {
    /// Reads a folder's marker; `None` if it has none.
    ///
    /// # Errors
    /// A file with the marker's name that is not a marker, or cannot be read: then nobody knows which part of the
    /// folder is half restored.
    pub fn read(folder: impl AsFd) -> Result<Option<Self>, Unclear> {
        Ok(Self::load(folder)?.map(|(unfinished, _)| unfinished))
    }

    /// As [`Unfinished::read`], for a folder in which anybody's files may lie: also `None` if the marker was written
    /// for another folder.
    ///
    /// # Errors
    /// As [`Unfinished::read`].
    pub fn read_own(folder: impl AsFd) -> Result<Option<Self>, Unclear> {
        // On a filesystem that does not tell when a folder was made, nothing shows that the marker is another folder's.
        let own = made(&folder).ok().flatten();
        let marker = Self::load(folder)?;
        let is_own = |(_, written_for): &MarkerContent| own.is_none() || *written_for == own;
        Ok(marker.filter(is_own).map(|(unfinished, _)| unfinished))
    }

    /// Reads a folder's marker, and which folder it was written for, unless an older program has left that out.
    fn load(folder: impl AsFd) -> Result<Option<MarkerContent>, Unclear> {
        let unclear = |why: Errno| match statat(&folder, MARKER, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            Ok(stat) if !is_file(&stat) => Err(Unclear::foreign(&stat)),
            Ok(stat) => Err(Unclear::closed(&stat, why)),
            Err(_) => Err(Unclear::unreadable(why)),
        };
        let (file, stat) = match open_file(&folder, OsStr::new(MARKER)) {
            Ok(opened) => opened,
            Err(why) => return unclear(why),
        };
        if !is_file(&stat) {
            return Err(Unclear::foreign(&stat));
        }
        let mut text = Vec::new();
        match file.take(LONGEST + 1).read_to_end(&mut text) {
            Ok(_) if text.len() as u64 <= LONGEST => {
                let unfinished = Self::parse(&text).ok_or_else(Unclear::torn)?;
                let (_, records) = records(&text).ok_or_else(Unclear::torn)?;
                let written_for = records.iter().find_map(|record| record.strip_prefix(FOLDER));
                Ok(Some((unfinished, written_for.map(<[u8]>::to_vec))))
            }
            Ok(_) => Err(Unclear::torn()),
            Err(why) => Err(Unclear::unreadable(why)),
        }
    }

    /// As [`Unfinished::read`], for a folder that is given by its path.
    ///
    /// # Errors
    /// As [`Unfinished::read`].
    pub fn at(folder: &Path) -> Result<Option<Self>, Unclear> {
        match Folder::open(folder) {
            Ok(opened) => Self::read(opened),
            Err(why) if folder.join(MARKER).symlink_metadata().is_ok() => Err(Unclear::unreadable(why)),
            // There is no such folder, or nobody could look into it.
            Err(_) => Ok(None),
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (some, records) = records(text)?;
        let mut unfinished = Self::default();
        for record in records {
            if let Some(path) = record.strip_prefix(PATH) {
                unfinished.paths.push(EntryPath::new(path).ok()?);
            } else if record == AROUND {
                unfinished.around = true;
            } else if let Some(name) = record.strip_prefix(SNAPSHOT) {
                unfinished.snapshot = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
            } else if let Some(aside) = record.strip_prefix(ASIDE) {
                unfinished
                    .aside
                    .extend(Some(PathBuf::from(OsString::from_vec(aside.to_vec()))).filter(|at| is_aside(at)));
            }
        }
        (some != unfinished.paths.is_empty()).then_some(unfinished)
    }

    fn text(&self) -> Vec<u8> {
        let mut text = if self.paths.is_empty() { ALL } else { SOME }.as_bytes().to_vec();
        let paths = self.paths.iter().map(|path| (PATH, path.bytes()));
        for (word, path) in paths.chain(self.aside.iter().map(|aside| (ASIDE, aside.as_os_str().as_bytes()))) {
            text.extend([word, path, b"\0"].concat());
        }
        if self.around {
            text.extend([AROUND, b"\0"].concat());
        }
        if let Some(name) = &self.snapshot {
            text.extend([SNAPSHOT, name.to_string().as_bytes(), b"\0"].concat());
        }
        text
    }

    /// Whether a marker has room for these paths, whatever else it says.
    pub fn can_name(paths: &[EntryPath]) -> bool {
        let text = Unfinished { paths: paths.to_vec(), ..Unfinished::default() }.text();
        text.len() as u64 <= LONGEST - ROOM
    }

    /// Whether the restore was about all of the folder.
    pub fn is_all(&self) -> bool {
        self.paths.is_empty()
    }

    /// Combines this with a later one.
    fn and(&self, other: &Self) -> Self {
        let mut paths = Vec::new();
        if !self.is_all() && !other.is_all() {
            paths.extend(self.paths.iter().chain(&other.paths).cloned());
            paths.sort();
            paths.dedup();
        }
        let mut aside = self.aside.clone();
        aside.extend(other.aside.iter().filter(|aside| !self.aside.contains(aside)).cloned());
        // If the two restored different snapshots, neither snapshot has the content of both, unless the later restore
        // was about all of the folder.
        let same = other.is_all() || self.snapshot == other.snapshot;
        let snapshot = other.snapshot.filter(|_| same);
        Unfinished { paths, aside, around: self.around || other.around, snapshot }
    }

    /// Returns what is left to do once the paths in `done` have been put back (all of the folder if `done` is empty)
    /// and nothing is at the paths in `gone`; `None` if nothing is left.
    pub fn without(&self, done: &[EntryPath], gone: &[EntryPath]) -> Option<Self> {
        let is_done = |path: &EntryPath| path.is_in_one_of(done) || gone.contains(path);
        let left: Vec<_> = self.paths.iter().filter(|path| !is_done(path)).cloned().collect();
        let nothing = done.is_empty() || !self.is_all() && left.is_empty();
        (!nothing).then(|| Unfinished { paths: left, ..self.clone() })
    }

    /// The restore that completes this one, as the data directory `data` is now; `folder` is where the marker lies in
    /// it. A folder that is not a volume was a target by itself.
    pub fn command<'v>(&self, vault: Option<&'v str>, data: &Path, folder: &EntryPath) -> RestoreCommand<'v> {
        let at = data.join(folder.as_path());
        match folder.is_root() || is_mount(&at).unwrap_or(false) {
            true => self.of(RestoreCommand::new(vault, data.to_owned()), folder),
            false => self.of(RestoreCommand::new(vault, at), &EntryPath::root()),
        }
    }

    /// Sets up a restore so that it completes this one, which was about `folder` in its target.
    fn of<'v>(&self, mut command: RestoreCommand<'v>, folder: &EntryPath) -> RestoreCommand<'v> {
        let below = |path: &EntryPath| EntryPath::new([folder.bytes(), path.bytes()].join(&b'/')).ok();
        // Another snapshot may not have these paths.
        command.snapshot = self.snapshot.map(|name| name.id.to_string());
        command.around_mounts = self.around;
        command.paths = match (folder.is_root(), self.is_all()) {
            (true, _) => self.paths.clone(),
            (false, true) => vec![folder.clone()],
            (false, false) => self.paths.iter().filter_map(below).collect(),
        };
        // Content is moved beside the folder only if the two could not be exchanged: that way of replacing it is tried again.
        let beside = || self.aside.iter().any(|aside| aside.starts_with(".."));
        command.in_place |= folder.is_root() && self.is_all() && !self.around && !beside();
        command
    }

    /// Where the previous content is, for messages, if the folder `at` is marked; empty if nothing was moved, or an
    /// older program did not say where to.
    pub fn was_there(&self, at: &Path) -> Vec<PathBuf> {
        let aside = self.aside.iter().filter_map(|aside| match aside.strip_prefix("..") {
            Ok(beside) => Some(at.parent()?.join(beside)),
            Err(_) => Some(at.join(aside)),
        });
        aside.filter(|aside| aside.symlink_metadata().is_ok()).collect()
    }
}

/// Splits a marker into its records, and tells whether it is about some paths only; `None` if it is not a marker.
fn records(text: &[u8]) -> Option<(bool, Vec<&[u8]>)> {
    let (some, records) = match (text.strip_prefix(SOME.as_bytes()), text.strip_prefix(ALL.as_bytes())) {
        (Some(records), _) => (true, records),
        (_, records) => (false, records?),
    };
    let records = records.strip_suffix(b"\0").or(records.is_empty().then_some(records))?;
    Some((some, records.split(|&b| b == 0).filter(|record| !record.is_empty()).collect()))
}

/// When a folder was made, which no copy of it shares; `None` if its filesystem does not tell. Inode numbers do not
/// last everywhere: an overlay makes some up each time that it is mounted.
fn made(folder: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    let stat = statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    Ok(born(&stat).map(|(seconds, nanos)| format!("{seconds}.{nanos:09}").into_bytes()))
}

/// Finds a restore that was not finished into a folder around a data directory, and was about that directory or
/// something in it. Returns the folder and what is unfinished.
///
/// No more than that is believed of such a marker: anybody who may write there could mark other users' files.
/// Filesystems that are mounted in a target stay.
pub fn above(data: &Path) -> Option<(PathBuf, Unfinished)> {
    let at = data.canonicalize().ok()?;
    let inside = |folder: &&Path| !is_mount(folder).unwrap_or(true);
    let mut around = at.ancestors().take_while(inside).filter_map(Path::parent);
    around.find_map(|folder| {
        let opened = Folder::open(folder).ok()?;
        let unfinished = Unfinished::read_own(&opened).ok()??;
        let (marker, above) = (statat(&opened, MARKER, AtFlags::SYMLINK_NOFOLLOW).ok()?, fstat(&opened).ok()?);
        let trusted = [0, geteuid().as_raw(), above.st_uid].contains(&marker.st_uid);
        let below = EntryPath::new(at.strip_prefix(folder).ok()?.as_os_str().as_bytes()).ok()?;
        let concerns = |path: &EntryPath| path.is_in(&below) || below.is_in(path);
        let concerned = unfinished.is_all() || unfinished.paths.iter().any(concerns);
        (trusted && concerned).then(|| (folder.to_owned(), unfinished))
    })
}

/// Names the paths in the folder that the restore was about.
impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> = self.paths.iter().take(NAMED).map(EntryPath::to_string).collect();
        match self.paths.len().saturating_sub(NAMED) {
            0 => f.write_str(&named.join(", ")),
            more => write!(f, "{} and {more} more", named.join(", ")),
        }
    }
}

/// Whether a path is one that a restore moves previous content to: a name that lastgood gives, in the folder or beside
/// it.
fn is_aside(path: &Path) -> bool {
    let beside = path.strip_prefix("..").unwrap_or(path);
    let mut parts = beside.components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if is_ours(name.as_bytes()))
}

/// Why a file with the marker's name does not say what is unfinished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclear {
    why: String,
    /// The code of the error that there is one.
    pub code: Code,
    /// The advice to the user.
    pub advice: &'static str,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARKER} in it {}", self.why)
    }
}

impl Unclear {
    fn foreign(stat: &Stat) -> Self {
        let why = format!("is {}, which no restore makes", what(stat));
        Unclear { why, code: Code::Failed, advice: "Remove or rename it." }
    }

    fn torn() -> Self {
        let why = "is empty, cut off or not a restore's, so nobody knows which restore was not finished";
        let advice = "Remove it: a restore that left it like this had not moved anything yet.";
        Unclear { why: why.into(), code: Code::Failed, advice }
    }

    fn closed(stat: &Stat, why: Errno) -> Self {
        let (why, owner, mode) = (io::Error::from(why), stat.st_uid, stat.st_mode & 0o7777);
        let code = code(&why);
        let why = format!("cannot be read: {why} (it belongs to user {owner}, mode {mode:o})");
        let advice =
            "It says what a restore has not finished. Run this as its owner or as root, or have them `chmod 644` it.";
        Unclear { why, code, advice }
    }

    fn unreadable(why: impl Into<io::Error>) -> Self {
        let advice = "It says what a restore has not finished: make it readable.";
        let why = why.into();
        Unclear { why: format!("cannot be read: {why}"), code: code(&why), advice }
    }
}

/// Returns the code of a failed system call.
fn code(why: &io::Error) -> Code {
    match why.kind() {
        io::ErrorKind::PermissionDenied => Code::PermissionDenied,
        _ => Code::Failed,
    }
}

/// Marks a folder as one in which this restore is under way, in addition to what its marker says already. The new
/// marker is written in the folder `via`, which is on the same filesystem and nobody else's, and is moved into place
/// whole. Returns what the marker said before; `None` if there was none.
///
/// # Errors
/// An error of the system; something else under that name. The marker then says what it said before.
pub fn mark(folder: &Arc<Folder>, via: &Arc<Folder>, unfinished: &Unfinished) -> io::Result<Option<Unfinished>> {
    let before =
        Unfinished::read(folder).map_err(|unclear| io::Error::other(format!("{unclear}. {}", unclear.advice)))?;
    match &before {
        None => {
            let own = made(folder)?;
            let draft = write(via, own.as_deref(), unfinished)?;
            rename(&draft, &Spot::new(folder, MARKER))?;
            // For that, an overlay has copied a folder of a lower layer, which counts as made just now.
            if made(folder)? != own {
                replace(folder, via, unfinished)?;
            }
        }
        Some(before) => replace(folder, via, &before.and(unfinished))?,
    }
    Ok(before)
}

/// Replaces a folder's marker by way of the folder `via`, as [`mark`] does; `None` removes the marker.
///
/// # Errors
/// An error of the system.
pub fn set(folder: &Folder, via: &Arc<Folder>, unfinished: Option<&Unfinished>) -> io::Result<()> {
    let set = || match unfinished {
        Some(unfinished) => replace(folder, via, unfinished),
        None => match folder.remove_file(MARKER) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        },
    };
    match set() {
        // The folder already has its final mode.
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            let mode = folder.mode()?;
            folder.set_mode(mode | 0o700)?;
            let done = set();
            folder.set_mode(mode)?;
            done
        }
        done => done,
    }
}

/// Puts a marker in the place of another one, in one step. The old file is not written to: it may be another name of
/// some other file.
fn replace(folder: &Folder, via: &Arc<Folder>, unfinished: &Unfinished) -> io::Result<()> {
    let draft = write(via, made(folder)?.as_deref(), unfinished)?;
    renameat(&draft.folder, &draft.name, folder, MARKER)?;
    Ok(())
}

/// Writes a marker durably, readable by everybody, to a place where it says nothing yet; `made` is when its folder was
/// made.
fn write(via: &Arc<Folder>, made: Option<&[u8]>, unfinished: &Unfinished) -> io::Result<Spot> {
    let mut text = unfinished.text();
    if let Some(made) = made {
        text.extend([FOLDER, made, b"\0"].concat());
    }
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other("the marker would have to name too many paths"));
    }
    match via.remove_file(DRAFT) {
        Err(Errno::NOENT) => {}
        removed => removed?,
    }
    let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let mut draft = File::from(openat(via, DRAFT, flags, Mode::from_raw_mode(0o644))?);
    // The user who completes the restore may be another one than the user whose umask applies here.
    match fchmod(&draft, Mode::from_raw_mode(0o644)) {
        // A filesystem that keeps no modes.
        Ok(()) | Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => {}
        Err(why) => return Err(why.into()),
    }
    draft.write_all(&text)?;
    draft.sync_all()?;
    Ok(Spot::new(via, DRAFT))
}

#[cfg(test)]
#[allow(missing_docs, reason = "for tests alone")]
pub mod tests;
