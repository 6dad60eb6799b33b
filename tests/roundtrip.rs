//! Random trees, random edits between snapshots: every snapshot gives back the tree that it was taken of.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lastgood::backup::{self, backup};
use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::restore::{self, restore};
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;
use lastgood::verify::{self, verify};
use proptest::prelude::*;

use crate::support::compare::differences;
use crate::support::tree::{noise, set_mtime};

/// One change to a tree. Names come from a few, so that changes meet; what does not apply does nothing.
#[derive(Debug, Clone)]
enum Edit {
    Write(usize, u32, u64),
    Append(usize, u32),
    Insert(usize, u8),
    Truncate(usize, u32),
    Sparse(usize, u32),
    Remove(usize),
    Rename(usize, usize),
    Folder(usize),
    Symlink(usize, usize),
    HardLink(usize, usize),
    Mode(usize, u32),
    Time(usize, i64),
}

fn name(n: usize) -> PathBuf {
    const NAMES: [&str; 12] =
        ["a", "a.b", "a b", "dir/x", "dir/y", "dir/deep/z", "dir.d/x", "b\\s", "ü", "log", "log.1", "dir/deep/er/w"];
    PathBuf::from(NAMES[n % NAMES.len()])
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let n = || 0..12usize;
    // Empty, small, one block, several blocks, several reads.
    let size = || prop_oneof![Just(0u32), 1..5_000u32, 200_000..300_000u32, 300_000..900_000u32, Just(2_500_000u32)];
    let one = prop_oneof![
        6 => (n(), size(), 0..6u64).prop_map(|(n, s, seed)| Edit::Write(n, s, seed)),
        2 => (n(), size()).prop_map(|(n, s)| Edit::Append(n, s)),
        2 => (n(), any::<u8>()).prop_map(|(n, b)| Edit::Insert(n, b)),
        1 => (n(), size()).prop_map(|(n, s)| Edit::Truncate(n, s)),
        1 => (n(), size()).prop_map(|(n, s)| Edit::Sparse(n, s)),
        2 => n().prop_map(Edit::Remove),
        2 => (n(), n()).prop_map(|(a, b)| Edit::Rename(a, b)),
        1 => n().prop_map(Edit::Folder),
        1 => (n(), n()).prop_map(|(a, b)| Edit::Symlink(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Edit::HardLink(a, b)),
        1 => (n(), 0..0o1000u32).prop_map(|(n, m)| Edit::Mode(n, m)),
        1 => (n(), -2_000_000_000..4_000_000_000i64).prop_map(|(n, t)| Edit::Time(n, t)),
    ];
    prop::collection::vec(one, 1..12)
}

/// Applies an edit as far as it can be.
fn apply(data: &Path, edit: &Edit) -> std::io::Result<()> {
    let at = |n: &usize| data.join(name(*n));
    let place = |n: &usize| -> std::io::Result<PathBuf> {
        fs::create_dir_all(at(n).parent().unwrap())?;
        Ok(at(n))
    };
    // A link that leads nowhere is no file to write to.
    let file = |n: &usize| place(n).map(|p| if p.is_symlink() { p.with_extension("file") } else { p });
    match edit {
        Edit::Write(n, size, seed) => fs::write(file(n)?, noise(*seed, *size as usize)),
        Edit::Append(n, size) => {
            File::options().append(true).create(true).open(file(n)?)?.write_all(&noise(99, *size as usize))
        }
        Edit::Insert(n, byte) => {
            let mut bytes = fs::read(file(n)?)?;
            bytes.insert(0, *byte);
            fs::write(file(n)?, bytes)
        }
        Edit::Truncate(n, size) => File::options().write(true).open(file(n)?)?.set_len((*size).into()),
        Edit::Sparse(n, size) => {
            let file = File::create(file(n)?)?;
            file.set_len(u64::from(*size) * 3 + 1)?;
            file.write_all_at(b"island", u64::from(*size))
        }
        Edit::Remove(n) if at(n).is_dir() && !at(n).is_symlink() => fs::remove_dir_all(at(n)),
        Edit::Remove(n) => fs::remove_file(at(n)),
        Edit::Rename(a, b) => fs::rename(at(a), place(b)?),
        Edit::Folder(n) => fs::create_dir_all(at(n)),
        Edit::Symlink(a, b) => symlink(name(*a), place(b)?),
        // Several names of a symlink come back as several symlinks; docs/backup.md says so.
        Edit::HardLink(a, _) if at(a).is_symlink() => Ok(()),
        Edit::HardLink(a, b) => fs::hard_link(at(a), place(b)?),
        Edit::Mode(n, mode) => fs::set_permissions(at(n), fs::Permissions::from_mode(*mode | 0o400)),
        Edit::Time(n, time) => {
            if at(n).symlink_metadata().is_ok() {
                set_mtime(&at(n), *time, 123_456_789);
            }
            Ok(())
        }
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Moves all that is in a directory into another one, which takes its place: inode numbers mean nothing then.
fn move_into_another(data: &Path) {
    let new = data.with_extension("new");
    fs::create_dir(&new).unwrap();
    for entry in fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), new.join(entry.file_name())).unwrap();
    }
    fs::rename(new, data).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_snapshot_gives_its_tree_back(rounds in prop::collection::vec(edits(), 1..6), elsewhere in any::<u8>()) {
        let world = tempfile::tempdir().unwrap();
        let data = world.path().join("data");
        fs::create_dir(&data).unwrap();
        let store = Box::new(LocalStore::new(world.path().join("vault")));
        let vault = Vault::init(store, system_random).unwrap();
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor };
        let mut taken = Vec::new();
        for (n, edits) in rounds.iter().enumerate() {
            for edit in edits {
                // An edit that does not apply is part of the game.
                let _ = apply(&data, edit);
            }
            if n as u8 & elsewhere != 0 {
                move_into_another(&data);
            }
            // As if there were much, of what was taken over in another place little is read.
            let trust = backup::Trust { at_least: 0, ..Default::default() };
            let options = backup::BackupOptions {
                data: data.clone(),
                trust,
                accept_shrink: true,
                level: 1,
                // Now and then checkpoints are made all the time.
                checkpoint_every: Duration::from_secs(if elsewhere >> n & 1 == 0 { 600 } else { 0 }),
                ..Default::default()
            };
            let report = backup(&vault, &options, &ctx).unwrap();
            prop_assert!(report.errors.is_empty() && report.warnings.is_empty(), "{report:?}");
            let was = world.path().join(format!("was{n}"));
            copy(&data, &was);
            taken.push((report.snapshot, was));
        }
        let report = verify(&vault, &verify::VerifyOptions { read_data: Some(100.0), databases: None }, &ctx).unwrap();
        prop_assert!(report.damage.is_empty(), "{report:?}");
        for (snapshot, was) in taken {
            let target = world.path().join("out");
            let options =
                restore::RestoreOptions { snapshot: snapshot.to_string(), ..restore::RestoreOptions::latest(target.clone()) };
            restore(&vault, &options, &ctx).unwrap();
            prop_assert_eq!(differences(&was, &target), vec![""; 0]);
            fs::remove_dir_all(&target).unwrap();
        }
    }
}
