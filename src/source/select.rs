//! Selects which entries of the data directory a snapshot holds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::apart::LeftOutMounts;
use super::found::SourceEntry;
use crate::error::{Code, Error, Result};
use crate::fs::answer::{self, Identity};
use crate::fs::beneath::Directory;
use crate::fs::location;
use crate::lineage;
use crate::path::EntryPath;
use crate::vault::entry::EntryKind;
use crate::vault::root::Filters;

/// Selects entries by patterns and by folder.
#[derive(Debug)]
pub struct Select {
    include: Option<Patterns>,
    exclude: Patterns,
    not_walked: NotWalked,
    /// Folders that were left out because of their names.
    restore_leftovers: Mutex<BTreeSet<EntryPath>>,
    /// What is mounted below the data directory and was left out.
    pub left_out_mounts: LeftOutMounts,
    /// Whether databases are recognised by their content.
    pub sqlite: bool,
    /// Whether everything is left out that is mounted below the data directory.
    pub one_file_system: bool,
}

/// Most left-out folders that are named in a message.
const NAMED: usize = 3;

impl Select {
    /// Selects files that match one of `include`, or are in a folder that does (all files if `include` is empty), and
    /// that are not in or below what matches `exclude`. A pattern is matched against the path below the data directory,
    /// and a pattern without a slash against the name alone. With `sqlite`, what lies beside a database is selected
    /// with it.
    ///
    /// # Errors
    /// A pattern that is not valid.
    pub fn new(
        data: &Path,
        include: &[String],
        exclude: &[String],
        not_walked: &[PathBuf],
        sqlite: bool,
    ) -> Result<Self> {
        Ok(Select {
            include: if include.is_empty() { None } else { Some(Patterns::new(include, data)?) },
            exclude: Patterns::new(exclude, data)?,
            not_walked: NotWalked::new(data, not_walked),
            restore_leftovers: Mutex::default(),
            left_out_mounts: LeftOutMounts::default(),
            sqlite,
            one_file_system: false,
        })
    }

    /// Selects by the patterns that a snapshot was taken with, and by whether it holds what was mounted below.
    ///
    /// # Errors
    /// A pattern that is not valid.
    pub fn by(data: &Path, filters: &Filters, not_walked: &[PathBuf], sqlite: bool) -> Result<Self> {
        let Filters { include, exclude, one_file_system } = filters;
        Ok(Select { one_file_system: *one_file_system, ..Select::new(data, include, exclude, not_walked, sqlite)? })
    }

    /// Whether patterns leave anything out, and not only names that restores give.
    pub fn leaves_out_by_pattern(&self) -> bool {
        self.include.is_some() || !self.exclude.texts.is_empty()
    }

    /// Whether an entry, and what is below it, may be in the snapshot.
    pub fn selects(&self, found: &SourceEntry) -> bool {
        let is_vault = || self.not_walked.has(found.path.as_path(), (found.device, found.inode));
        let here = || found.kind != EntryKind::Folder || !is_vault();
        self.exclude.meet(&found.path);
        self.include.iter().for_each(|include| include.meet(&found.path));
        if found.kind == EntryKind::Folder && is_ours(found.path.name()) && !self.excludes(&found.path) {
            self.restore_leftovers().insert(found.path.clone());
        }
        self.selects_path(&found.path, found.kind) && here()
    }

    /// Whether an entry of this kind, and what is below it, may be in the snapshot according to its path.
    pub fn selects_path(&self, path: &EntryPath, kind: EntryKind) -> bool {
        if self.excludes(path) || lineage::is_own(path) {
            return false;
        }
        match kind {
            EntryKind::Folder => !is_ours(path.name()),
            _ => self.include.as_ref().is_none_or(|include| include.set.is_match(path.as_path())),
        }
    }

    /// Whether a file with this path may be in the snapshot, and all folders above it.
    pub fn selects_file(&self, path: &EntryPath) -> bool {
        path.folders().filter(|folder| !folder.is_root()).all(|folder| self.selects_path(&folder, EntryKind::Folder))
            && self.selects_path(path, EntryKind::File)
    }

    /// Whether a folder above a path is excluded.
    pub fn excludes_above(&self, path: &EntryPath) -> bool {
        path.folders().any(|folder| self.excludes(&folder))
    }

    /// Whether a path, and what is below it, is excluded, whatever lies there.
    pub fn excludes(&self, path: &EntryPath) -> bool {
        self.exclude.set.is_match(path.as_path())
    }

    fn restore_leftovers(&self) -> MutexGuard<'_, BTreeSet<EntryPath>> {
        // The set is whole between any two statements.
        self.restore_leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells which folders were left out because of their names, and whether somebody should see to it: only what
    /// begins with the program's own name is certain to come from a restore. What a program is at work in, or has removed by now, is
    /// not told.
    pub fn left_out(&self, root: &Directory) -> Option<(String, bool)> {
        let mut leftovers = self.restore_leftovers();
        leftovers.retain(|path| !is_staging(path.name()) || is_abandoned(root, path));
        let doubtful = |path: &&EntryPath| !path.name().starts_with(OWN.as_bytes());
        let wrong = leftovers.iter().any(|path| doubtful(&path));
        let (first, others): (Vec<_>, Vec<_>) = leftovers.iter().partition(doubtful);
        let named: Vec<_> = first.into_iter().chain(others).take(NAMED).map(EntryPath::to_string).collect();
        let more = match leftovers.len().checked_sub(named.len())? {
            0 if named.is_empty() => return None,
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let what = "left out, since by its name a restore moved it aside or did not finish it";
        let what = format!(
            "{}{more}: {what}; delete it if no restore is under way, or rename it to have it in snapshots",
            named.join(", ")
        );
        Some((what, wrong))
    }

    /// Tells which patterns matched nothing that was met so far, and for each whether somebody should see to it: a name
    /// that is mistyped, or several patterns that are given as one. If nothing is there to be left out, that may be as
    /// it should be.
    pub fn unmet(&self) -> Vec<(String, bool)> {
        let include = self.include.iter().flat_map(Patterns::unmet).map(|pattern| ("include", pattern));
        let exclude = self.exclude.unmet().map(|pattern| ("exclude", pattern));
        let tell = |(option, pattern): (&str, &str)| {
            let comma = if has_comma(pattern) {
                format!("; the comma is part of the pattern: give several as --{option} A --{option} B, or as {{A,B}}")
            } else {
                String::new()
            };
            let wrong = option == "include" || has_comma(pattern);
            (format!("nothing in the data directory matches --{option} {pattern}{comma}"), wrong)
        };
        include.chain(exclude).map(tell).collect()
    }
}

/// The folders that are not walked: vaults, which may lie in the data directory.
#[derive(Debug, Clone, Default)]
pub struct NotWalked {
    /// Their devices and inodes: each may be reached by several mounts.
    folders: Vec<(u64, u64)>,
    /// The paths below the data directory of those that do not answer.
    silent: Vec<PathBuf>,
}

impl NotWalked {
    /// Finds out which folders these are. All paths are absolute, those of the folders without symlinks.
    pub fn new(data: &Path, folders: &[PathBuf]) -> Self {
        let mut found = NotWalked::default();
        for folder in folders {
            match answer::identity(folder) {
                Identity::Is(device, inode) => found.folders.push((device, inode)),
                Identity::Nothing => {}
                Identity::Unknown => {
                    let at = location::resolve(data).unwrap_or_else(|_| data.to_owned());
                    found.silent.extend(folder.strip_prefix(at).map(Path::to_owned));
                }
            }
        }
        found
    }

    /// Whether the folder at this path below the data directory, with this device and inode, is one of them.
    pub fn has(&self, path: &Path, folder: (u64, u64)) -> bool {
        self.folders.contains(&folder) || self.silent.iter().any(|silent| silent == path)
    }
}

/// The patterns of one option, and which of them have matched something.
#[derive(Debug)]
struct Patterns {
    /// Two globs for each pattern: for the entry itself, and for everything in it.
    set: GlobSet,
    texts: Vec<String>,
    met: Vec<AtomicBool>,
    all_met: AtomicBool,
}

impl Patterns {
    fn new(patterns: &[String], data: &Path) -> Result<Self> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let anchored = anchor(pattern, data)?;
            let wrong = |e: globset::Error| {
                Error::usage(format!("read the pattern {pattern:?}"), e.kind()).with_code(Code::BadSetting)
            };
            for glob in [format!("{anchored}/**"), anchored] {
                set.add(GlobBuilder::new(&glob).literal_separator(true).build().map_err(wrong)?);
            }
        }
        Ok(Patterns {
            set: set.build().map_err(|e| Error::usage("read the patterns", e.kind()).with_code(Code::BadSetting))?,
            texts: patterns.to_vec(),
            met: patterns.iter().map(|_| AtomicBool::new(false)).collect(),
            all_met: AtomicBool::new(patterns.is_empty()),
        })
    }

    /// Records which patterns match something that is there.
    fn meet(&self, path: &EntryPath) {
        if self.all_met.load(Ordering::Relaxed) {
            return;
        }
        for at in self.set.matches_candidate(&Candidate::new(path.as_path())) {
            self.met[at / 2].store(true, Ordering::Relaxed);
        }
        self.all_met.store(self.unmet().next().is_none(), Ordering::Relaxed);
    }

    fn unmet(&self) -> impl Iterator<Item = &str> {
        let all = self.texts.iter().zip(&self.met);
        all.filter(|(_, met)| !met.load(Ordering::Relaxed)).map(|(text, _)| text.as_str())
    }
}

/// Whether a pattern has a comma that does not separate alternatives, as in `{a,b}`, and is not in a class, as in
/// `[,;]`.
fn has_comma(pattern: &str) -> bool {
    let mut depth = 0u32;
    pattern.chars().any(|c| {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

/// Turns a pattern into one that is matched against paths below the data directory.
fn anchor(pattern: &str, data: &Path) -> Result<String> {
    let below = Path::new(pattern).strip_prefix(data).ok().and_then(Path::to_str).map(|below| format!("/{below}"));
    let text = below.as_deref().unwrap_or(pattern);
    let text = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
    let name = text.trim_start_matches('/');
    let why = match () {
        () if name.is_empty() || name == "." => "it means everything or nothing",
        () if name.split('/').any(|part| part == "." || part == "..") => "`.` and `..` match no path",
        () if name.starts_with('!') => "`!` makes no exception; use --include and --exclude together",
        () if name.len() < text.len() || name.contains('/') || text.len() < pattern.trim_end_matches('/').len() => {
            return Ok(name.to_owned());
        }
        () => return Ok(format!("**/{name}")),
    };
    Err(Error::usage(format!("read the pattern {pattern:?}"), why)
        .with_code(Code::BadSetting)
        .hint("A name (`*.tmp`) matches at any depth, a path (`cache/**`) below the data directory."))
}

/// Prefix of the names of folders that a restore makes in a directory that it fills.
pub const OWN: &str = "lastgood.replaced-";

/// Whether a folder is there that no program holds: who makes a staging folder locks it.
fn is_abandoned(root: &Directory, path: &EntryPath) -> bool {
    match root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => flock(folder, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK),
        Err(why) => why != Errno::NOENT,
    }
}

fn is_staging(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name);
    name.starts_with('.') && name.contains(".lastgood-restoring-") || name.starts_with(".lastgood-restoring-")
}

/// Whether a folder is one that a restore leaves behind: staging, or what it moved aside
/// (`<name>.replaced-<UTC time>`).
pub fn is_ours(name: &[u8]) -> bool {
    if is_staging(name) {
        return true;
    }
    let name = String::from_utf8_lossy(name);
    let Some((_, time)) = name.rsplit_once(".replaced-") else { return false };
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    // A second move within one second gets a number.
    shape.starts_with("00000000T000000Z") && shape[16..].chars().all(|c| matches!(c, '-' | '0'))
}
