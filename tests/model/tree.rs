//! Trees that were restored, as they are compared.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lastgood::vault::hex::Hash;

use super::history::join;

/// A tree, before anything opened what is in it.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// The content of each file.
    pub files: BTreeMap<String, Hash>,
    /// How long each file is.
    pub sizes: BTreeMap<String, u64>,
    /// Entries of every kind, the tree's own folder among them.
    pub entries: u64,
    /// The entries that are not folders.
    pub leaves: u64,
    /// Names of files that have others.
    pub linked: u64,
    /// A number that stands for all names and contents.
    pub print: u64,
}

impl Tree {
    /// Reads one.
    pub fn read(folder: &Path) -> Tree {
        let (mut tree, mut hasher) = (Tree { entries: 1, ..Tree::default() }, DefaultHasher::new());
        for path in walk(folder) {
            let whole = folder.join(&path);
            let meta = fs::symlink_metadata(&whole).unwrap();
            path.hash(&mut hasher);
            tree.entries += 1;
            tree.leaves += u64::from(!meta.is_dir());
            if meta.is_file() {
                let hash = Hash::of(&fs::read(&whole).unwrap());
                hash.0.hash(&mut hasher);
                tree.linked += u64::from(meta.nlink() > 1);
                tree.sizes.insert(path.clone(), meta.len());
                tree.files.insert(path, hash);
            }
        }
        tree.print = hasher.finish();
        tree
    }
}

/// Returns all paths beneath a folder.
pub fn walk(folder: &Path) -> Vec<String> {
    let (mut all, mut open) = (Vec::new(), vec![String::new()]);
    while let Some(at) = open.pop() {
        for found in fs::read_dir(folder.join(&at)).unwrap() {
            let found = found.unwrap();
            // What a restore keeps for itself at the top is no part of the data.
            if found.path() == folder.join(".lastgood") {
                continue;
            }
            let path = join(&at, found.file_name().to_str().unwrap());
            if found.file_type().unwrap().is_dir() {
                open.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    all
}

/// Removes a folder, if it is there.
pub fn remove(folder: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
}
