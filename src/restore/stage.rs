//! The staging folder: where a snapshot is made before anything is replaced.
//!
//! It is made in a folder that is held open, and is held open itself: everything that happens in it, up to its removal,
//! goes through these descriptors. A user who may write around it can move it away, but gains nothing by putting
//! something in its place.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, openat, syncfs};
use rustix::io::Errno;

use super::attributes::pass_nothing_on;
use super::capabilities::{kept, moves_files_only};
use super::killed::{self, Leftover};
use super::staging_names::{GROUPS, MOVED, PROBE, TREE, UNPLACED, is_staging, prefix, why_foreign};
use super::write::Tree;
use crate::error::{Doing, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::filesystem::remote;
use crate::fs::rename::rename;
use crate::fs::times::{self, wait_a_tick};
use crate::fs::{Folder, SAFE, Spot, open_folder};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::vault::hex::Hex;

/// Most attempts to make a staging folder, if another restore removes it before it is locked.
const TRIES: usize = 100;

/// A folder that is ours while we hold its lock.
pub struct StagingFolder {
    /// Where it lies.
    spot: Spot,
    folder: Arc<Folder>,
    lock: OwnedFd,
    /// Folders that were made for it, and are not needed if nothing is put there.
    made: Option<CreatedFolders>,
    /// The lock of the target, if the target was made for it.
    _locked: Option<Directory>,
}

/// Folders that were made around a staging folder.
#[derive(Debug)]
pub struct CreatedFolders {
    /// The folder that was there before.
    pub base: Folder,
    /// The folders that were made, as paths below `base`, innermost first.
    pub folders: Vec<PathBuf>,
}

impl CreatedFolders {
    /// Removes the folders in which nothing else is.
    pub fn remove(self) {
        for folder in &self.folders {
            let (above, name) = (folder.parent().unwrap_or(Path::new("")), folder.file_name().unwrap_or_default());
            let removed = self.base.enter_all(above).and_then(|above| above.remove_folder(name));
            if let Err(why) = removed {
                tracing::debug!("{} stays: {why}", self.base.path().join(folder).display());
            }
        }
    }
}

impl StagingFolder {
    /// Makes a staging folder in `base` for the target `name` (empty if `base` itself is the target), and removes the
    /// ones that killed restores of the same target left. Also returns what is to be reported of them.
    ///
    /// # Errors
    /// A folder in which none can be made.
    pub fn make(base: Folder, name: &OsStr, ctx: &Context) -> Result<(StagingFolder, Vec<String>)> {
        let prefix = prefix(name);
        let mut left = Vec::new();
        // Nothing repeats these messages: if there will be no report, they go into the log.
        let untold = |left: &[String]| left.iter().for_each(|left| tracing::warn!("{left}"));
        if let Err(why) = remove_abandoned(&base, &prefix, &mut left) {
            untold(&left);
            return Err(why);
        }
        let base = Arc::new(base);
        for _ in 0..TRIES {
            match Self::try_make(&base, &prefix, ctx) {
                Ok(Some(staging)) => return Ok((staging, left)),
                Ok(None) => {}
                Err(why) => {
                    untold(&left);
                    return Err(why);
                }
            }
        }
        untold(&left);
        let doing = format!("make a staging folder in {}", base.path().display());
        Err(Error::failed(doing, "it disappears as soon as it is made")
            .hint("Another program removes it, or the folder that it is made in: stop that program, and run it again."))
    }

    /// Makes one. `None` if it is gone before it is locked: another restore took it for one that a killed restore left.
    fn try_make(base: &Arc<Folder>, prefix: &OsStr, ctx: &Context) -> Result<Option<StagingFolder>> {
        let mut random = [0; 8];
        (ctx.random)(&mut random)?;
        let mut name = prefix.to_owned();
        name.push(Hex(random).to_string());
        let spot = Spot::new(base, name);
        let path = spot.path();
        let doing = || format!("make the staging folder {}", path.display());
        let folder = match spot.folder.make(&spot.name, 0o700) {
            Err(Errno::NOENT) => return Ok(None),
            made => made.doing(doing)?,
        };
        match Self::prepare(&folder, doing) {
            _ if matches!(spot.look(), Ok(None)) => Ok(None),
            Ok(lock) => Ok(Some(StagingFolder { spot, folder: Arc::new(folder), lock, made: None, _locked: None })),
            Err(why) => {
                // Nothing but what was made here is removed.
                let made = [GROUPS, TREE].iter().try_for_each(|name| match folder.remove_folder(name) {
                    Err(Errno::NOENT) => Ok(()),
                    removed => removed,
                });
                if let Err(left) = made.and_then(|()| spot.folder.remove_folder(&spot.name)) {
                    tracing::warn!("{} stays: {left}", spot.path().display());
                }
                Err(why)
            }
        }
    }

    /// Locks a new staging folder and makes the folders in it. Returns the lock.
    fn prepare(folder: &Folder, doing: impl Fn() -> String + Copy) -> Result<OwnedFd> {
        let lock = folder.readable().doing(doing)?;
        pass_nothing_on(&lock).doing(doing)?;
        // On a filesystem without locks, nobody removes what may be in use. Another holder of this lock is about to
        // remove the folder.
        kept(flock(&lock, FlockOperation::LockExclusive)).doing(doing)?;
        let tree = folder.make(TREE, 0o700).doing(doing)?;
        folder.make(GROUPS, 0o700).doing(doing)?;
        // Between making the folder and opening it, somebody may have put another folder there, and could enter that
        // one. The owner of what is made in it says who we are: on some filesystems that is not the user who runs the
        // program.
        if fstat(&lock).doing(doing)?.st_uid != fstat(&tree).doing(doing)?.st_uid {
            let why = "somebody else has put a folder of their own there meanwhile";
            return Err(Error::failed(doing(), why).hint("Restore to a folder in which only you may write."));
        }
        Ok(lock)
    }

    /// Adds the folders that were made for it.
    pub fn with(self, made: CreatedFolders) -> Self {
        StagingFolder { made: Some(made), ..self }
    }

    /// Adds a lock that is held as long as the staging folder is there.
    pub fn locking(self, locked: Option<Directory>) -> Self {
        StagingFolder { _locked: locked, ..self }
    }

    /// Whether folders with something in them can be renamed here.
    ///
    /// # Errors
    /// A folder in which nothing can be made.
    pub fn moves_folders(&self) -> Result<bool> {
        let doing = || format!("try to rename a folder in {}", self.folder.path().display());
        let (from, to) = (Spot::new(&self.folder, PROBE), Spot::new(&self.folder, MOVED));
        let probe = self.folder.make(&from.name, 0o700).doing(doing)?;
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        openat(&probe, "file", flags, Mode::from_raw_mode(0o600)).doing(doing)?;
        let moved = match rename(&from, &to) {
            Err(why) if moves_files_only(why) => false,
            done => done.doing(doing).map(|()| true)?,
        };
        self.folder.remove_tree(if moved { &to.name } else { &from.name }).doing(doing)?;
        Ok(moved)
    }

    /// The folder that it lies in.
    pub fn base(&self) -> &Arc<Folder> {
        &self.spot.folder
    }

    /// The place of the folder that becomes the target.
    pub fn tree(&self) -> Spot {
        Spot::new(&self.folder, TREE)
    }

    /// The staging folder itself.
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// The staging folder's name in its folder.
    pub fn name(&self) -> &OsStr {
        &self.spot.name
    }

    /// Begins the tree in it, which becomes the entry `top` of the snapshot.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn begin(&self, top: &EntryPath) -> Result<Tree> {
        let doing = || format!("open the staging folder {}", self.folder.path().display());
        let tree = open_folder(&self.lock, OsStr::new(TREE)).doing(doing)?;
        Tree::new(tree, top.clone(), open_folder(&self.lock, OsStr::new(GROUPS)).doing(doing)?)
    }

    /// Makes everything in it durable.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn sync(&self) -> Result<()> {
        syncfs(&self.lock).doing(|| format!("write {} to the disk", self.folder.path().display()))
    }

    /// Waits until every change in it from then on has a later time than everything that was made in it so far. Returns
    /// the last of these times, in seconds and nanoseconds since 1970.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn settle(&self) -> Result<(i64, i64)> {
        let doing = || format!("ask for the time in {}", self.folder.path().display());
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let probe = openat(&self.folder, PROBE, flags, Mode::from_raw_mode(0o600)).doing(doing)?;
        let stat = fstat(&probe).doing(doing)?;
        self.folder.remove_file(PROBE).doing(doing)?;
        wait_a_tick(&stat, times::now());
        Ok((stat.st_ctime, stat.st_ctime_nsec as i64))
    }

    /// Removes it and what is still in it.
    ///
    /// # Errors
    /// A file or folder that cannot be removed.
    pub fn remove(self) -> Result<()> {
        let doing = || format!("remove the staging folder {}", self.folder.path().display());
        self.folder.empty().doing(doing)?;
        self.spot.folder.remove_folder(&self.spot.name).doing(doing)
    }

    /// Removes it, and what was made for it, because nothing comes of it. A failure to do so is only logged: the reason
    /// for giving up matters more, and the next restore cleans up.
    pub fn abandon(mut self) {
        let made = self.made.take();
        if let Err(left) = self.remove() {
            tracing::warn!("{left}");
        }
        if let Some(made) = made {
            made.remove();
        }
    }
}

/// Removes the staging folders that killed restores of a target left, beside it and in it, where no restore follows that would do it.
/// Returns what is to be reported.
pub fn sweep(target: &Path) -> Vec<String> {
    let mut messages = Vec::new();
    let Ok(target) = target.canonicalize() else { return messages };
    let beside = target.parent().zip(target.file_name());
    for (base, name) in beside.into_iter().chain([(&*target, OsStr::new(""))]) {
        let swept = Folder::straight(base)
            .doing(|| format!("look for staging folders in {}", base.display()))
            .and_then(|base| remove_abandoned(&base, &prefix(name), &mut messages));
        if let Err(why) = swept {
            tracing::debug!("{why}");
        }
    }
    messages
}

/// Removes the staging folders that nobody holds. Adds to `messages` what is to be reported: of folders that stay, because
/// they are not from this user's restores or because it cannot be known whether they are held, and of what else a
/// killed restore left.
fn remove_abandoned(base: &Folder, prefix: &OsStr, messages: &mut Vec<String>) -> Result<()> {
    for name in base.names().doing(|| format!("look for staging folders in {}", base.path().display()))? {
        if !is_staging(&name, prefix) {
            continue;
        }
        // A restore leaves nothing but folders under such a name.
        let Ok(folder) = base.enter(&name) else { continue };
        let stays = |why: &str| format!("{} stays: {why}", folder.path().display());
        let foreign = |why: &str| {
            let why = format!("it is named as a staging folder of a restore, but {why}");
            stays(&format!("{why}. Rename or remove it, if it is yours"))
        };
        let open = match folder.readable() {
            Ok(open) => open,
            Err(why) => {
                messages.push(foreign(&format!("it cannot be read: {why}")));
                continue;
            }
        };
        let locked = match flock(&open, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => continue,
            // On a remote filesystem, a lock may be valid on this machine only.
            done => done.is_ok() && remote(&open).is_ok_and(|name| name.is_none()),
        };
        // Another restore, or another one that cleans up, has just removed it.
        if matches!(base.look(&name), Ok(None)) {
            continue;
        }
        if let Some(why) = why_foreign(&folder).doing(|| format!("look at {}", folder.path().display()))? {
            messages.push(foreign(&why));
            continue;
        }
        if !locked {
            let why = "a restore is using it, or one that was killed left it; remove it once no restore is running";
            messages.push(stays(why));
        } else {
            tracing::info!("removing {}, which a killed restore left", folder.path().display());
            let folder = Arc::new(folder);
            messages.extend(killed::leftovers_of(base, &folder).into_iter().map(|left| resolved(left, &folder)));
            let removed = folder.empty().and_then(|()| Ok(base.remove_folder(&name)?));
            removed
                .doing(|| format!("remove {}", folder.path().display()))
                .map_err(|why| why.hint("A killed restore left that folder. Remove it by hand."))?;
        }
    }
    Ok(())
}

/// Moves what did not come into place back into its staging folder, which is then removed. Previous content of the
/// target stays where it is. Returns what is to be reported.
fn resolved(left: Leftover, staging: &Arc<Folder>) -> String {
    match &left {
        Leftover::New(aside) => match rename(aside, &Spot::new(staging, UNPLACED)) {
            Ok(()) => format!("{left}; it is removed"),
            Err(why) => format!("{left}; it stays: {why}"),
        },
        Leftover::Used(_) | Leftover::Old { .. } => left.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use rustix::process::geteuid;

    use super::*;
    use crate::restore::sample::context;
    use crate::restore::staging_names::{LONGEST_NAME, NOTE, is_left, shortened};
    use crate::skipped::skipped;
    use crate::source::marker::DRAFT;

    #[test]
    fn only_what_a_restore_of_this_user_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let own = [TREE, GROUPS, PROBE, MOVED, UNPLACED, NOTE, DRAFT, ".lastgood-deep-0"];
        let mut cases = vec![
            (0o700, &own[..], None, ""),
            (0o755, &[], None, ""),
            (0o700, &[TREE, "thesis.txt"], None, "no restore makes what is in it: thesis.txt"),
            (0o1777, &[TREE], None, "others may write in it"),
            (0o770, &[TREE], None, "others may write in it"),
        ];
        if geteuid().is_root() {
            cases.push((0o700, &[TREE], Some(1234), "it belongs to another user (1234)"));
        } else {
            skipped("root", "only root may change the owner of a folder");
        }
        let at = |n: usize| folder.path().join(format!(".data.lastgood-restoring-{n:016x}"));
        for (n, (mode, names, owner, _)) in cases.iter().enumerate() {
            fs::create_dir(at(n)).unwrap();
            names.iter().for_each(|name| fs::write(at(n).join(name), "").unwrap());
            fs::set_permissions(at(n), fs::Permissions::from_mode(*mode)).unwrap();
            chown(at(n), *owner, None).unwrap();
        }
        let base = Folder::open(folder.path()).unwrap();
        let (staging, told) = StagingFolder::make(base, OsStr::new("data"), &context()).unwrap();
        staging.remove().unwrap();
        for (n, (_, names, _, why)) in cases.iter().enumerate() {
            let told = told.iter().filter(|told| told.contains(&*at(n).to_string_lossy()) && told.contains(why));
            assert_eq!(told.count(), usize::from(!why.is_empty()), "{n}");
            let left = fs::read_dir(at(n)).map_or(0, Iterator::count);
            assert_eq!((at(n).exists(), left), if why.is_empty() { (false, 0) } else { (true, names.len()) }, "{n}");
        }
        assert_eq!(told.len(), cases.iter().filter(|(.., why)| !why.is_empty()).count(), "{told:?}");
    }

    #[test]
    fn a_folder_of_the_longest_name_has_a_staging_folder_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["é", "ü"].map(|last| OsString::from(format!("{}{last}", "x".repeat(253))));
        for name in [&one, &other] {
            let (staging, _) = StagingFolder::make(Folder::open(folder.path()).unwrap(), name, &context()).unwrap();
            assert!(is_left(staging.name(), name) && staging.name().len() == LONGEST_NAME, "{:?}", staging.name());
            staging.remove().unwrap();
        }
        assert_ne!(prefix(&one), prefix(&other));
        let umlauts = shortened(OsStr::new(&"ü".repeat(127)), 26);
        assert!(umlauts.to_str().is_some_and(|name| name.starts_with("üü")) && umlauts.len() <= 255 - 26);
        assert_eq!(shortened(OsStr::new("data"), 38), "data");
    }

    #[test]
    fn a_sweep_takes_no_folder_from_a_restore_that_begins_just_then() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let base = Folder::open(folder.path()).unwrap();
                        let (staging, _) = StagingFolder::make(base, OsStr::new("data"), &context()).unwrap();
                        assert!(staging.tree().look().unwrap().is_some());
                        staging.remove().unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
