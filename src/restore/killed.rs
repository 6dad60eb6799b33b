//! Finds what a restore left that was killed between two steps: the new content may lie where the old was to go, or
//! nothing may be under the target's name.
//!
//! Before something is put in the place of something else, the staging folder gets a note of it. If a staging folder is
//! found that nobody holds, the note tells what became of that.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::mounts;
use super::staging_names::{NOTE, is_left, why_foreign};
use super::steps::identity;
use crate::fs::{Folder, SAFE, Spot, WRITE_OF_OTHERS, is_folder, location, open_file};
use crate::path::EntryPath;
use crate::source::select::is_ours;
use crate::sqlite::side_files::SUFFIXES;

/// Most bytes of a note that are read.
const LONGEST: u64 = 1 << 17;

/// Something that is about to be put in the place of something else.
#[derive(Debug, PartialEq, Eq)]
pub struct Moving {
    /// The inode of what is put there, and when that was made, in seconds and nanoseconds since 1970.
    new: (u64, i64, u32),
    /// The place, relative to the folder that the staging folder is in.
    at: PathBuf,
    /// Where the previous content is moved; the new content passes through that name.
    aside: PathBuf,
    /// Files that belong to the previous content and move aside before it, such as the log of a database: where each
    /// is, and where it goes.
    sides: Vec<(PathBuf, PathBuf)>,
}

/// Something that a killed restore left and that is not what it looks like.
#[derive(Debug)]
pub enum Leftover {
    /// New content that did not come into place, under the name for the previous content.
    New(Spot),
    /// New content under that name that was changed since: it has been in place, and may hold what an app wrote there.
    Used(Spot),
    /// Previous content that has nothing in its place.
    Old {
        /// Where it was.
        at: Spot,
        /// Where it is.
        aside: Spot,
    },
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::New(aside) => {
                let aside = aside.path();
                write!(
                    f,
                    "{} is what a restore that was killed was about to put into place, not what was there",
                    aside.display()
                )
            }
            Leftover::Used(aside) => {
                let aside = aside.path();
                write!(f, "{} is what a restore that was killed put into place, and was changed since", aside.display())
            }
            Leftover::Old { at, aside } => {
                let (at, aside) = (at.path(), aside.path());
                write!(f, "{} is what was at {} before a restore that was killed", aside.display(), at.display())
            }
        }
    }
}

impl Leftover {
    /// Where new content lies under the name for the previous content. `None` if this is previous content.
    pub fn unplaced(&self) -> Option<PathBuf> {
        match self {
            Leftover::New(aside) | Leftover::Used(aside) => Some(aside.path()),
            Leftover::Old { .. } => None,
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        match self {
            Leftover::New(aside) | Leftover::Used(aside) | Leftover::Old { aside, .. } => aside.path(),
        }
    }

    /// Says what to do about it.
    pub fn advice(&self) -> &'static str {
        let is_side = |name: &OsStr| SUFFIXES.iter().any(|side| name.as_bytes().ends_with(side.as_bytes()));
        match self {
            Leftover::New(_) => "The next restore removes it.",
            Leftover::Used(_) => {
                "Look whether something in it is still needed, and remove it then; a restore leaves it where it is."
            }
            // SQLite would play it into a database that has gone on without it.
            Leftover::Old { at, .. } if is_side(&at.name) => {
                "Rename it back only with its database, or if no program has opened that since; a restore leaves it where it is."
            }
            Leftover::Old { .. } => {
                "If it is newer than the newest good snapshot, rename it back; a restore leaves it where it is."
            }
        }
    }
}

impl Moving {
    /// Describes that `new` is put at `at` and what is there at `aside`, after `sides`; all of them are below `base`.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn new(base: &Folder, new: &Spot, at: &Spot, aside: &Spot, sides: &[(Spot, Spot)]) -> rustix::io::Result<Self> {
        let (_, inode, seconds, nanoseconds) = identity(new)?;
        let below = |spot: &Spot| {
            let path = spot.path();
            path.strip_prefix(base.path()).map(Path::to_owned).unwrap_or(path)
        };
        let sides = sides.iter().map(|(at, aside)| (below(at), below(aside))).collect();
        Ok(Moving { new: (inode, seconds, nanoseconds), at: below(at), aside: below(aside), sides })
    }

    /// Writes it into a staging folder, durably.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn keep(&self, staging: &Folder) -> io::Result<()> {
        let flags = SAFE | OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY;
        let mut note = File::from(openat(staging, NOTE, flags, Mode::from_raw_mode(0o600))?);
        let (inode, seconds, nanoseconds) = self.new;
        let mut text = format!("{inode} {seconds} {nanoseconds}").into_bytes();
        let sides = self.sides.iter().flat_map(|(at, aside)| [at, aside]);
        for path in [&self.at, &self.aside].into_iter().chain(sides) {
            text.push(0);
            text.extend(path.as_os_str().as_bytes());
        }
        note.write_all(&text)?;
        note.sync_all()
    }

    /// Reads the note in a staging folder, and when it was written, in seconds and nanoseconds since 1970. `None` if
    /// there is no valid note, as when nothing was under way.
    fn kept(staging: &Folder) -> Option<(Self, (i64, i64))> {
        let (note, stat) = open_file(staging, OsStr::new(NOTE)).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || stat.st_uid != geteuid().as_raw() || stat.st_mode & WRITE_OF_OTHERS != 0 {
            return None;
        }
        let mut text = Vec::new();
        note.take(LONGEST).read_to_end(&mut text).ok()?;
        let mut parts = text.split(|&b| b == 0);
        let numbers = std::str::from_utf8(parts.next()?).ok()?;
        let mut numbers = numbers.split(' ');
        let new = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let mut path = || Some(PathBuf::from(OsStr::from_bytes(parts.next()?)));
        let (at, aside) = (path()?, path()?);
        let sides = std::iter::from_fn(|| Some((path()?, path()?))).collect();
        Some((Moving { new, at, aside, sides }, (stat.st_mtime, stat.st_mtime_nsec as i64)))
    }
}

/// Removes the note from a staging folder, because what it says is done.
///
/// # Errors
/// A system call that fails.
pub fn forget(staging: &Folder) -> rustix::io::Result<()> {
    match staging.remove_file(NOTE) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Whether something was changed after a time, or that cannot be determined. For the entry at the name itself, only its
/// modification time counts: it was renamed since, which is a change of its status and not of its content.
fn is_changed_since(at: &Spot, time: (i64, i64)) -> bool {
    let top = at.look();
    !matches!(top, Ok(Some(top)) if (top.st_mtime, top.st_mtime_nsec as i64) <= time) || is_changed_within(at, time)
}

/// Whether something below a folder was changed after a time, or that cannot be determined.
pub(super) fn is_changed_within(at: &Spot, time: (i64, i64)) -> bool {
    let Ok(Some(top)) = at.look() else { return true };
    let mut folders = if is_folder(&top) { vec![PathBuf::from(&at.name)] } else { Vec::new() };
    while let Some(below) = folders.pop() {
        let Ok(folder) = at.folder.enter_all(&below) else { return true };
        let Ok(names) = folder.names() else { return true };
        for name in names {
            match folder.look(&name) {
                Ok(Some(stat)) if (stat.st_ctime, stat.st_ctime_nsec as i64) <= time => {
                    if is_folder(&stat) {
                        folders.push(below.join(&name));
                    }
                }
                _ => return true,
            }
        }
    }
    false
}

/// Returns the leftovers of the restore that had this staging folder in `base`.
pub fn leftovers_of(base: &Folder, staging: &Folder) -> Vec<Leftover> {
    // A user who may write around it can make folders and notes of their own; nobody should act on what these say.
    if !matches!(why_foreign(staging), Ok(None)) {
        return Vec::new();
    }
    let Some((Moving { new, at, aside, sides }, noted)) = Moving::kept(staging) else { return Vec::new() };
    let is_new = |spot: &Spot| identity(spot).is_ok_and(|(_, inode, s, ns)| (inode, s, ns) == new);
    let at = spot(base, &at);
    let mut left = Vec::new();
    if let Some(aside) = moved_aside(base, &aside) {
        if is_new(&aside) {
            // Somebody may have let an app write to it, and exchanged the two again by hand.
            left.push(if is_changed_since(&aside, noted) { Leftover::Used(aside) } else { Leftover::New(aside) });
        } else if let Some(at) = at.clone().filter(|at| matches!(at.look(), Ok(None))) {
            left.push(Leftover::Old { at, aside });
        }
    }
    if !at.is_some_and(|at| is_new(&at)) {
        let sides = sides.iter().filter_map(|(at, aside)| Some((spot(base, at)?, moved_aside(base, aside)?)));
        left.extend(sides.map(|(at, aside)| Leftover::Old { at, aside }));
    }
    left
}

/// Resolves a note's path below `base`. `None` if it could lead elsewhere, or its folder is not there.
fn spot(base: &Folder, path: &Path) -> Option<Spot> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let above = base.enter_all(path.parent().unwrap_or(Path::new(""))).ok()?;
    Some(Spot::new(&Arc::new(above), path.file_name()?))
}

/// Resolves a note's path to what was moved there. `None` if restores move nothing to there, or if nothing is there.
fn moved_aside(base: &Folder, path: &Path) -> Option<Spot> {
    let is_aside = matches!(path.components().next(), Some(Component::Normal(first)) if is_ours(first.as_bytes()));
    let aside = spot(base, path).filter(|_| is_aside)?;
    identity(&aside).is_ok().then_some(aside)
}

/// Finds the leftovers of killed restores to `target`, or to a volume in it. None of them is changed.
pub fn leftovers(target: &Path) -> Vec<Leftover> {
    leftovers_outside(target, None)
}

/// As [`leftovers`], but without what lies in the folder `reported`, of which the caller reports what is left.
pub fn leftovers_outside(target: &Path, reported: Option<&Path>) -> Vec<Leftover> {
    let mut found = Vec::new();
    // If it cannot be told where the target is, or what is mounted there, a restore says what is wrong.
    let target = location::named(target).unwrap_or_else(|_| target.to_owned());
    let volumes = mounts::below(&target).unwrap_or_default();
    let beside = target.parent().zip(target.file_name()).map(|(above, name)| (above.to_owned(), name.to_owned()));
    let inside =
        [EntryPath::root()].into_iter().chain(volumes).map(|path| (target.join(path.as_path()), OsString::new()));
    for (base, name) in beside.into_iter().chain(inside).filter(|(base, _)| Some(base.as_path()) != reported) {
        let Ok(base) = Folder::open(&base) else { continue };
        for entry in base.names().unwrap_or_default() {
            if !is_left(&entry, &name) {
                continue;
            }
            let Ok(staging) = base.enter(&entry) else { continue };
            let Ok(open) = staging.readable() else { continue };
            if flock(&open, FlockOperation::NonBlockingLockShared).is_ok() {
                found.extend(leftovers_of(&base, &staging));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;
    use crate::restore::sample::{SampleVault, context};
    use crate::restore::stage::StagingFolder;
    use crate::restore::tests::options;
    use crate::restore::{RestoreReport, restore};
    use crate::skipped::skipped;
    use crate::vault::root::SnapshotState;

    const ASIDE: &str = "data.replaced-20261121T101112Z";

    /// Sets up what a restore leaves if it is killed when it has put the new content at `note`, as its own note says, and
    /// then calls `then`.
    fn killed(note: &str, then: impl FnOnce(&Path)) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("data/a"), "old").unwrap();
        let base = Folder::open(folder.path()).unwrap();
        let (staging, told) = StagingFolder::make(base, OsStr::new("data"), &context()).unwrap();
        assert_eq!(told, [""; 0]);
        fs::write(staging.tree().path().join("a"), "staged").unwrap();
        let base = staging.base();
        let moving = Moving::new(base, &staging.tree(), &Spot::new(base, "data"), &Spot::new(base, note), &[]).unwrap();
        moving.keep(staging.folder()).unwrap();
        assert_eq!(Moving::kept(staging.folder()).map(|(kept, _)| kept), Some(moving));
        fs::rename(staging.tree().path(), folder.path().join(note)).unwrap();
        assert_eq!(leftovers(&folder.path().join("data")).len(), 0, "a restore is under way");
        then(folder.path());
        folder
    }

    fn restored(folder: &Path) -> RestoreReport {
        let mut sample = SampleVault::new();
        sample.file("a", b"restored");
        sample.commit(SnapshotState::Complete);
        let report = restore(&sample.vault, &options(&folder.join("data")), &context()).unwrap();
        assert_eq!(fs::read(folder.join("data/a")).unwrap(), b"restored");
        assert!(leftovers(&folder.join("data")).is_empty());
        report
    }

    fn content(path: PathBuf) -> String {
        fs::read_to_string(path.join("a")).unwrap_or_default()
    }

    #[test]
    fn what_did_not_come_into_place_is_not_taken_for_the_old() {
        let folder = killed(ASIDE, |_| ());
        let told = leftovers(&folder.path().join("data"));
        assert!(matches!(&told[..], [Leftover::New(at)] if at.name == ASIDE), "{told:?}");
        assert_eq!(content(folder.path().join(ASIDE)), "staged");
        let report = restored(folder.path());
        assert!(report.warnings.iter().any(|what| what.contains("not what was there; it is removed")), "{report:?}");
        assert!(!folder.path().join(ASIDE).exists());
        assert_eq!(content(report.moved_aside.unwrap()), "old");
    }

    #[test]
    fn what_was_in_place_and_changed_there_is_told_and_kept() {
        let changes: [&dyn Fn(&Path); 3] = [
            &|tree| fs::write(tree.join("of the app"), "").unwrap(),
            &|tree| fs::write(tree.join("a"), "of the app").unwrap(),
            &|tree| fs::remove_file(tree.join("a")).unwrap(),
        ];
        for change in changes {
            let folder = killed(ASIDE, |at| {
                let staging = fs::read_dir(at).unwrap().map(|entry| entry.unwrap());
                let staging = staging.filter(|entry| is_left(&entry.file_name(), OsStr::new("data"))).last().unwrap();
                let note = fs::File::options().write(true).open(staging.path().join(NOTE)).unwrap();
                // The clock of a filesystem goes in steps: the next one has come.
                let staged = fs::metadata(at.join(ASIDE).join("a")).unwrap().modified().unwrap();
                note.set_modified(staged).unwrap();
                while fs::metadata(at).unwrap().modified().unwrap() <= staged {
                    fs::write(at.join("tick"), "").unwrap();
                    fs::remove_file(at.join("tick")).unwrap();
                }
                change(&at.join(ASIDE));
            });
            let told = leftovers(&folder.path().join("data"));
            assert!(matches!(&told[..], [Leftover::Used(at)] if at.name == ASIDE), "{told:?}");
            let before = fs::read_dir(folder.path().join(ASIDE)).unwrap().count();
            let report = restored(folder.path());
            assert!(report.warnings.iter().any(|what| what.contains("was changed since")), "{report:?}");
            assert_eq!(fs::read_dir(folder.path().join(ASIDE)).unwrap().count(), before);
        }
    }

    #[test]
    fn what_has_lost_its_name_is_told_and_kept() {
        let folder = killed(ASIDE, |at| {
            fs::remove_dir_all(at.join(ASIDE)).unwrap();
            fs::rename(at.join("data"), at.join(ASIDE)).unwrap();
        });
        let told = leftovers(&folder.path().join("data"));
        assert!(
            matches!(&told[..], [Leftover::Old { at, aside }] if at.name == "data" && aside.name == ASIDE),
            "{told:?}"
        );
        let report = restored(folder.path());
        assert!(report.warnings.iter().any(|what| what.contains("before a restore that was killed")), "{report:?}");
        assert_eq!(content(folder.path().join(ASIDE)), "old");
    }

    #[test]
    fn what_came_into_place_is_nothing_to_tell() {
        let folder = killed(ASIDE, |at| {
            for (from, to) in [(ASIDE, "x"), ("data", ASIDE), ("x", "data")] {
                fs::rename(at.join(from), at.join(to)).unwrap();
            }
        });
        assert!(leftovers(&folder.path().join("data")).is_empty());
        let report = restored(folder.path());
        assert_eq!(report.warnings, [""; 0]);
        assert_eq!(content(folder.path().join(ASIDE)), "old");
        assert_eq!(content(report.moved_aside.unwrap()), "staged");
    }

    #[test]
    fn a_note_leads_to_nothing_but_what_a_restore_moves_aside() {
        let folder = killed("mine", |_| ());
        assert!(leftovers(&folder.path().join("data")).is_empty());
        restored(folder.path());
        assert_eq!(content(folder.path().join("mine")), "staged");
    }

    #[test]
    fn a_note_that_others_may_have_written_leads_to_nothing() {
        let opened = |at: &Path, mode| fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
        let others: [&dyn Fn(&Path); 5] = [
            &|staging| opened(staging, 0o1777),
            &|staging| opened(&staging.join(NOTE), 0o620),
            &|staging| fs::write(staging.join("x"), "").unwrap(),
            &|staging| chown(staging, Some(1234), None).unwrap(),
            &|staging| chown(staging.join(NOTE), Some(1234), None).unwrap(),
        ];
        let possible = if geteuid().is_root() { others.len() } else { others.len() - 2 };
        if possible < others.len() {
            skipped("root", "only root may change the owner of a file");
        }
        for change in &others[..possible] {
            let folder = killed(ASIDE, |at| {
                let mut left = fs::read_dir(at).unwrap().map(|entry| entry.unwrap());
                change(&left.find(|entry| is_left(&entry.file_name(), OsStr::new("data"))).unwrap().path());
            });
            assert!(leftovers(&folder.path().join("data")).is_empty());
            restored(folder.path());
            assert_eq!(content(folder.path().join(ASIDE)), "staged");
        }
    }
}
