//! What a snapshot cannot hold is told in the report of the backup: flags of `chattr`, and times after 2262.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use serde_json::Value;

use crate::support::World;
use crate::support::requirements::skipped;
use crate::support::tree::set_mtime;

/// A flag that `chattr` set; it is taken away at the end, since nothing else could remove the file.
struct Flagged(PathBuf, char);

impl Flagged {
    /// Sets a flag; `None`, after printing why, if that is not possible here.
    fn new(path: PathBuf, flag: char) -> Option<Self> {
        let chattr = Command::new("chattr").arg(format!("+{flag}")).arg(&path).output();
        if !chattr.as_ref().is_ok_and(|done| done.status.success()) {
            skipped("immutable-files", &format!("chattr +{flag} does not work where the tests are: {chattr:?}"));
            return None;
        }
        let flagged = Flagged(path, flag);
        if !is_told(&flagged.0) {
            skipped("immutable-files", "the filesystem of the tests does not tell of flags");
            return None;
        }
        Some(flagged)
    }
}

impl Drop for Flagged {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg(format!("-{}", self.1)).arg(&self.0).status();
    }
}

fn is_told(path: &Path) -> bool {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::empty()).unwrap();
    stat.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND)
}

/// The warnings of a report.
fn warnings(report: &Value) -> Vec<&str> {
    report["warnings"].as_array().map(|all| all.iter().map(|one| one.as_str().unwrap()).collect()).unwrap_or_default()
}

const FLAGS: &str = "flags that a snapshot does not keep (chattr +i or +a)";
const TIMES: &str = "a time of change at or beyond the first (1677) or last (2262) one that a snapshot can hold: it has the nearest one";

#[test]
fn flags_are_told_by_the_backup_that_reads_them() {
    let world = World::with_files();
    world.write("app.log", "a line\n");
    std::fs::create_dir(world.data().join("fixed")).unwrap();
    assert_eq!(warnings(&world.backup()), [""; 0]);
    // The content of the file is known, its metadata is new.
    let Some(log) = Flagged::new(world.data().join("app.log"), 'a') else { return };
    assert_eq!(warnings(&world.backup()), [format!("app.log has {FLAGS}")]);
    drop(log);
    // The content of the file and of the folder is new.
    world.write("tool", "a program");
    let Some(tool) = Flagged::new(world.data().join("tool"), 'i') else { return };
    let Some(folder) = Flagged::new(world.data().join("fixed"), 'i') else { return };
    assert_eq!(warnings(&world.backup()), [format!("2 entries, among them fixed, have {FLAGS}")]);
    drop((tool, folder));
    assert_eq!(warnings(&world.backup()), [""; 0]);
}

#[test]
fn a_time_that_no_snapshot_can_hold_is_told_by_every_backup() {
    let world = World::with_files();
    let path = world.data().join("far");
    world.write("far", "far away");
    set_mtime(&path, 12_000_000_000, 0);
    let held = std::os::unix::fs::MetadataExt::mtime(&path.metadata().unwrap());
    if held != 12_000_000_000 {
        return skipped("late-times", "the filesystem of the tests has no times after 2262");
    }
    for _ in 0..2 {
        assert_eq!(warnings(&world.backup()), [format!("far has {TIMES}")]);
    }
    world.restore("back");
    let back = std::os::unix::fs::MetadataExt::mtime(&world.path("back/far").metadata().unwrap());
    assert_eq!(back, i64::MAX / 1_000_000_000);
}
