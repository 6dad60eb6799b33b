//! Backups after the data directory came to another place, where inode numbers and change times say nothing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::support::World;
use crate::support::tree::set_mtime;

/// Writes to a file as tools do that keep its size and its time (`exiftool -P`, `jpegoptim -p`).
fn edit(world: &World, path: &str, content: &[u8]) {
    let path = world.data().join(path);
    File::options().write(true).open(&path).unwrap().write_all_at(content, 0).unwrap();
    set_mtime(&path, 1_700_000_000, 5);
}

/// Moves all that is in the data directory into a new one of the same path.
fn move_data(world: &World) {
    let new = world.path("new");
    fs::create_dir(&new).unwrap();
    for entry in fs::read_dir(world.data()).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), new.join(entry.file_name())).unwrap();
    }
    fs::rename(new, world.data()).unwrap();
}

#[test]
fn what_was_edited_before_the_place_changed_is_found() {
    let world = World::with_files();
    for path in ["a.txt", "logs/app.log", "uploads/x/y.bin"] {
        set_mtime(&world.data().join(path), 1_700_000_000, 5);
    }
    world.backup();
    edit(&world, "a.txt", b"other");
    move_data(&world);
    let report = world.backup();
    assert_eq!((report["good"].as_bool(), report["read_bytes"].as_u64()), (Some(true), Some(17)), "{report}");
    world.restore("out");
    assert_eq!(fs::read_to_string(world.path("out/a.txt")).unwrap(), "other\n");
    // All has been read here.
    let read: Vec<_> = (0..4).map(|_| world.backup()["read_bytes"].as_u64().unwrap()).collect();
    assert!(read.iter().filter(|read| **read == 0).count() >= 1, "{read:?}");
}
