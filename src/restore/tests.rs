//! Tests of restores from vaults that are sound, damaged, or made to do harm.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::sample::{SampleVault, context};
use super::*;
use crate::lineage::OWN_FOLDER;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::Hash;
use crate::vault::root::SnapshotState;

mod ahead;
mod choice;
mod damage;
mod kinds;
mod lineage;
mod swapped;
mod targets;

pub fn options(target: &Path) -> RestoreOptions {
    RestoreOptions::latest(target.to_path_buf())
}

/// Windows and reads so small that every way of cutting happens.
pub fn tiny() -> WindowLimits {
    WindowLimits { entries: 3, pieces: 2, memory: 4000, read: 150, gap: 30 }
}

/// The content of a tree, without lastgood's own folder: for each path, its kind and everything that is kept of it.
pub fn look(folder: &Path) -> BTreeMap<Vec<u8>, String> {
    fn walk(folder: &Path, at: &Path, out: &mut BTreeMap<Vec<u8>, String>) {
        let meta = at.symlink_metadata().unwrap();
        let kind = match meta.file_type() {
            t if t.is_dir() => "folder".to_owned(),
            t if t.is_symlink() => format!("symlink {:?}", fs::read_link(at).unwrap()),
            t if t.is_fifo() => "fifo".to_owned(),
            _ => format!("file {}", Hash::of(&fs::read(at).unwrap())),
        };
        let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
        let path = at.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
        if path == OWN_FOLDER.as_bytes() {
            return;
        }
        out.insert(path, format!("{kind} {mode:o} {}.{:09}", meta.mtime(), meta.mtime_nsec()));
        if meta.is_dir() {
            fs::read_dir(at).unwrap().for_each(|entry| walk(folder, &entry.unwrap().path(), out));
        }
    }
    let mut out = BTreeMap::new();
    walk(folder, folder, &mut out);
    out
}

pub fn expected(sample: &SampleVault) -> BTreeMap<Vec<u8>, String> {
    let describe = |entry: &Entry| {
        let kind = match entry.kind {
            EntryKind::Folder => "folder".to_owned(),
            EntryKind::Fifo => "fifo".to_owned(),
            EntryKind::Symlink => format!("symlink {:?}", OsStr::from_bytes(&entry.target.as_ref().unwrap().0)),
            EntryKind::File => format!("file {}", entry.hash.unwrap()),
        };
        let mode = if entry.kind == EntryKind::Symlink { 0 } else { entry.mode };
        let (seconds, nanos) = (entry.mtime.div_euclid(1_000_000_000), entry.mtime.rem_euclid(1_000_000_000));
        format!("{kind} {mode:o} {seconds}.{nanos:09}")
    };
    sample.entries.iter().map(|e| (e.path.bytes().to_vec(), describe(e))).collect()
}

pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A small tree: two folders with two files each.
pub fn small() -> SampleVault {
    let mut sample = SampleVault::new();
    for folder in ["a", "b"] {
        sample.folder(folder);
        for name in ["one", "two"] {
            sample.file(format!("{folder}/{name}"), &noise(350, u64::from(folder.as_bytes()[0]) + name.len() as u64));
        }
    }
    sample
}

pub fn old_tree(target: &Path) -> BTreeMap<Vec<u8>, String> {
    fs::create_dir_all(target.join("a")).unwrap();
    fs::write(target.join("a/one"), "old").unwrap();
    fs::write(target.join("mine"), "mine").unwrap();
    look(target)
}

/// Damages an object.
type Harm = fn(&SampleVault, &str);

/// The ways in which an object can be damaged.
pub fn damages() -> [(&'static str, Harm); 4] {
    [
        ("delete", |sample, name| _ = sample.store.objects().remove(name).unwrap()),
        ("truncate", |sample, name| {
            let mut objects = sample.store.objects();
            let bytes = objects.get_mut(name).unwrap();
            bytes.truncate(bytes.len() / 2);
        }),
        ("flip", |sample, name| {
            let mut objects = sample.store.objects();
            let bytes = objects.get_mut(name).unwrap();
            let at = bytes.len() / 3;
            // All of its bits: zstd's frame header has one that means nothing.
            bytes[at] ^= 0xff;
        }),
        ("replace", |sample, name| {
            let mut objects = sample.store.objects();
            // Another object of its kind with other bytes: some files of the samples are alike.
            let like = |(n, b): &(&String, &Vec<u8>)| n[..4] == name[..4] && **b != objects[name];
            let other = objects.iter().find(like).map(|(_, b)| b.clone());
            objects.insert(name.to_owned(), other.unwrap_or(b"{}".to_vec()));
        }),
    ]
}
