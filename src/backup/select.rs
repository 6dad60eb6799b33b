//! Which entries of the data directory a snapshot holds.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::found::Found;
use crate::error::{Error, Result};
use crate::vault::entry::Kind;
use crate::vault::path::EntryPath;

/// Chooses entries.
#[derive(Debug)]
pub struct Select {
    include: Option<GlobSet>,
    exclude: GlobSet,
    /// Device and inode of folders that are not walked.
    folders: Vec<(u64, u64)>,
    /// Whether databases are told by their content.
    pub sqlite: bool,
}

impl Select {
    /// Files that match one of `include` (all, when there is none) and are not in or below what matches `exclude`.
    /// A pattern is matched with the path below the data directory, and one without a slash with the name alone. With
    /// `sqlite`, what lies beside a database is selected with it.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn new(
        data: &Path,
        include: &[String],
        exclude: &[String],
        not_walked: &[PathBuf],
        sqlite: bool,
    ) -> Result<Self> {
        let set = |patterns: &[String]| {
            let mut set = GlobSetBuilder::new();
            for pattern in patterns {
                let anchored = anchor(pattern, data)?;
                let wrong = |e: globset::Error| Error::usage(format!("read the pattern {pattern:?}"), e.kind());
                set.add(GlobBuilder::new(&anchored).literal_separator(true).build().map_err(wrong)?);
            }
            set.build().map_err(|e| Error::usage("read the patterns", e.kind()))
        };
        let folders = not_walked.iter().filter_map(|folder| rustix::fs::stat(folder).ok());
        Ok(Select {
            include: if include.is_empty() { None } else { Some(set(include)?) },
            exclude: set(exclude)?,
            folders: folders.map(|stat| (stat.st_dev, stat.st_ino)).collect(),
            sqlite,
        })
    }

    /// Whether an entry, and what is below it, may be in the snapshot.
    pub fn takes(&self, found: &Found) -> bool {
        let here = || found.kind != Kind::Folder || !self.folders.contains(&(found.device, found.inode));
        self.takes_path(&found.path, found.kind) && here()
    }

    /// Whether an entry of this kind, and what is below it, may be in the snapshot by its path.
    pub fn takes_path(&self, path: &EntryPath, kind: Kind) -> bool {
        if self.excludes(path) {
            return false;
        }
        match kind {
            Kind::Folder => !is_ours(path.name()),
            _ => self.include.as_ref().is_none_or(|include| include.is_match(path.as_path())),
        }
    }

    /// Whether a folder above a path is excluded.
    pub fn excludes_above(&self, path: &EntryPath) -> bool {
        path.folders().any(|folder| self.excludes(&folder))
    }

    /// Whether a path, and what is below it, is excluded, whatever lies there.
    pub fn excludes(&self, path: &EntryPath) -> bool {
        self.exclude.is_match(path.as_path())
    }
}

/// A pattern as it is matched with paths below the data directory.
fn anchor(pattern: &str, data: &Path) -> Result<String> {
    let below = Path::new(pattern).strip_prefix(data).ok().and_then(Path::to_str).map(|below| format!("/{below}"));
    let text = below.as_deref().unwrap_or(pattern);
    let text = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
    let name = text.trim_start_matches('/');
    let why = match () {
        () if name.is_empty() || name == "." => "it means everything or nothing",
        () if name.split('/').any(|part| part == "." || part == "..") => "`.` and `..` match no path",
        () if name.starts_with('!') => "there are no exceptions; use --include and --exclude together",
        () if name.len() < text.len() || name.contains('/') || text.len() < pattern.trim_end_matches('/').len() => {
            return Ok(name.to_owned());
        }
        () => return Ok(format!("**/{name}")),
    };
    Err(Error::usage(format!("read the pattern {pattern:?}"), why)
        .hint("A name (`*.tmp`) matches at any depth, a path (`cache/**`) below the data directory."))
}

/// Whether a folder is one that a restore leaves: staging, or what it moved aside (`<name>.replaced-<UTC time>`).
pub fn is_ours(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name);
    if name.starts_with('.') && name.contains(".lastgood-restoring-") || name.starts_with(".lastgood-restoring-") {
        return true;
    }
    let Some((_, time)) = name.rsplit_once(".replaced-") else { return false };
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    // A second move within one second gets a number.
    shape.starts_with("00000000T000000Z") && shape[16..].chars().all(|c| matches!(c, '-' | '0'))
}
