//! A walk through the data directory that ends soon, however much is in it.

use std::collections::VecDeque;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::fs::{Folder, pseudo};
use crate::lineage::OWN_FOLDER;
use crate::source::marker::{MARKER, Unfinished};
use crate::source::select::is_ours;
use crate::sqlite::header::{Header, SMALLEST_PAGE};

/// The most entries that are looked at.
const ENTRIES: u64 = 5000;
/// The time limit of a walk.
const TIME: Duration = Duration::from_secs(5);
/// The most entries that cannot be read and are kept.
const KEPT: usize = 10;

/// The result of a walk.
#[derive(Debug, Default)]
pub struct WalkSummary {
    /// The number of entries of every kind.
    pub entries: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// How many of them are SQLite databases.
    pub databases: u64,
    /// How many entries cannot be read.
    pub unreadable: u64,
    /// The first of these, with their paths below the directory and the reasons.
    pub first_unreadable: Vec<(PathBuf, io::Error)>,
    /// The first folder below the directory whose restore has not finished.
    pub unfinished: Option<(PathBuf, Unfinished)>,
    /// Whether this is all that there is.
    pub whole: bool,
}

impl WalkSummary {
    fn cannot(&mut self, path: PathBuf, why: io::Error) {
        self.unreadable += 1;
        if self.first_unreadable.len() < KEPT {
            self.first_unreadable.push((path, why));
        }
    }
}

/// Walks through what a backup of `folder` would read, the entries near the top first; it skips the folders of `vaults`.
///
/// # Errors
/// The folder itself cannot be read.
pub fn walk(folder: &Path, vaults: &[&Path], stop: &AtomicBool) -> io::Result<WalkSummary> {
    let began = Instant::now();
    let mut seen = WalkSummary { whole: true, ..WalkSummary::default() };
    // The vaults may be reached by another mount here, so they are compared by device and inode.
    let vaults: Vec<_> = vaults.iter().filter_map(|vault| vault.metadata().ok()).map(|meta| identity(&meta)).collect();
    let device = folder.metadata()?.dev();
    let mut waiting = VecDeque::from([(PathBuf::new(), fs::read_dir(folder)?)]);
    while let Some((path, listing)) = waiting.pop_front() {
        for entry in listing {
            if seen.entries >= ENTRIES || began.elapsed() > TIME || stop.load(Ordering::Relaxed) {
                seen.whole = false;
                return Ok(seen);
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(why) => {
                    seen.cannot(path.clone(), why);
                    break;
                }
            };
            let (below, at) = (path.join(entry.file_name()), entry.path());
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // The entry has disappeared meanwhile.
                Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
                Err(why) => {
                    seen.entries += 1;
                    seen.cannot(below, why);
                    continue;
                }
            };
            if below == Path::new(OWN_FOLDER) {
                continue;
            }
            if meta.dev() != device && pseudo::at(&at).is_some() {
                continue;
            }
            if meta.is_dir() && (is_ours(entry.file_name().as_bytes()) || vaults.contains(&identity(&meta))) {
                continue;
            }
            if seen.unfinished.is_none() && entry.file_name() == MARKER {
                // An app's file may have that name: then it means nothing.
                let opened = Folder::open(&folder.join(&path)).ok();
                let said = opened.and_then(|opened| Unfinished::read_own(opened).unwrap_or_default());
                seen.unfinished = said.map(|unfinished| (path.clone(), unfinished));
            }
            seen.entries += 1;
            let looked = match meta.is_dir() {
                true => fs::read_dir(&at).map(|listing| waiting.push_back((below.clone(), listing))),
                false if meta.is_file() => file(&at, &meta, &mut seen),
                false => Ok(()),
            };
            match looked {
                Err(why) if why.kind() != io::ErrorKind::NotFound => seen.cannot(below, why),
                _ => {}
            }
        }
    }
    Ok(seen)
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Opens a file, as a backup has to, and checks whether it is a database.
fn file(at: &Path, meta: &Metadata, seen: &mut WalkSummary) -> io::Result<()> {
    seen.bytes += meta.len();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(at)?;
    // A database consists of whole pages, and every page size is a multiple of the smallest one.
    if meta.len() > 0 && meta.len().is_multiple_of(SMALLEST_PAGE.into()) && Header::read(&file)?.is_some() {
        seen.databases += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(folder: &Path, vaults: &[&Path]) -> WalkSummary {
        walk(folder, vaults, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn what_a_backup_would_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["sub/deep", "vault/packs", "data.replaced-20261121T101112Z"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["sub/deep/a", "vault/packs/p", "data.replaced-20261121T101112Z/old"] {
            fs::write(at(name), "abc").unwrap();
        }
        let mut database = vec![0; 4096];
        database[..16].copy_from_slice(b"SQLite format 3\0");
        fs::write(at("app.db"), &database).unwrap();
        std::os::unix::fs::symlink("/no/such", at("link")).unwrap();
        let seen = look(folder.path(), &[&at("vault")]);
        // These are sub, deep, a, app.db and link.
        assert_eq!((seen.entries, seen.bytes, seen.databases, seen.unreadable), (5, 4099, 1, 0));
        assert!(seen.whole);
        assert_eq!(look(folder.path(), &[]).entries, 8);
        assert!(walk(&at("app.db"), &[], &AtomicBool::new(false)).is_err());
        assert!(!walk(folder.path(), &[], &AtomicBool::new(true)).unwrap().whole);
    }

    #[test]
    fn it_ends_soon() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..=ENTRIES {
            fs::write(folder.path().join(n.to_string()), "").unwrap();
        }
        let seen = look(folder.path(), &[]);
        assert!(seen.entries == ENTRIES && !seen.whole, "{seen:?}");
    }
}
