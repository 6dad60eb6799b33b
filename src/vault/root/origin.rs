//! What a snapshot was taken of: which directory, what was mounted in it, and which of its entries were chosen.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::path::EntryPath;

/// A filesystem that was mounted below the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is mounted.
    pub path: EntryPath,
    /// The kind of filesystem: `ext4`, `fuse.gcsfuse`.
    pub filesystem: String,
    /// The mounted source: a device, a bucket's name, a server's folder.
    pub source: String,
}

/// Where the data directory was. Inode numbers and change times mean something only within one place. Whether two
/// values are the same place is more than equality, and is for the writer to decide.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// The kernel's boot id; empty if there is none.
    pub boot: String,
    /// The device number of the filesystem that the directory is on.
    pub device: u64,
    /// The directory's inode number.
    pub inode: u64,
    /// When the directory was created, in nanoseconds since 1970; `None` if the filesystem does not tell.
    pub born: Option<i64>,
    /// The mounted source, if the numbers above do not identify it: a bucket's name, a server's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The directory's path within `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl SourceIdentity {
    /// Whether both are the same directory, as far as can be told and whatever has happened to the machine since. This
    /// is for telling a directory that has shrunk from another directory.
    pub fn is_where(&self, other: &SourceIdentity) -> bool {
        match (&self.source, &other.source) {
            (Some(one), Some(another)) => one == another && self.path == other.path,
            (None, None) if self.born.is_some() => (self.inode, self.born) == (other.inode, other.born),
            (None, None) => (self.device, self.inode, other.born) == (other.device, other.inode, None),
            _ => false,
        }
    }
}

/// Which entries of the data directory a snapshot was meant to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Filters {
    /// Patterns of which a file has to match one to be taken; all files are, if there is no pattern.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Patterns of what is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether everything was left out that was mounted below the data directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_file_system: bool,
}

impl Filters {
    /// Whether the filters let everything through.
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty() && !self.one_file_system
    }
}

impl fmt::Display for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("all of them");
        }
        let include = self.include.iter().map(|pattern| format!("--include {pattern}"));
        let exclude = self.exclude.iter().map(|pattern| format!("--exclude {pattern}"));
        let one = self.one_file_system.then(|| "--one-file-system".to_owned());
        f.write_str(&include.chain(exclude).chain(one).collect::<Vec<_>>().join(" "))
    }
}
