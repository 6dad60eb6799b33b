//! Databases over 1 GiB, where SQLite's locking page lies, and WALs that are larger than their database.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::Connection;

use crate::support::World;
use crate::support::compare::hash;
use crate::support::database::{assert_recovers_same, beside, number as ask, run, seen, table, taken};
use crate::support::database_process::Other;
use crate::support::number;

/// Makes a database of `pages` pages that takes no room on the disk: all but the first few are free. SQLite lists free
/// pages in others, here the last ones, which lie beyond the page of its locks.
fn mostly_free(path: &Path, page: u32, pages: u32) {
    run(path, &format!("PRAGMA page_size={page}; {}", table(10, 1000)));
    let used = ask(path, "PRAGMA page_count") as u32;
    let locks = (1 << 30) / page + 1;
    // The first of them says which is next and how many it lists; a few places at its end stay empty.
    let listed = page / 4 - 8;
    let lists = (pages - used).div_ceil(listed + 1);
    let free: Vec<u32> = (used + 1..=pages - lists).filter(|number| *number != locks).collect();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    file.set_len(u64::from(page) * u64::from(pages)).unwrap();
    for (list, leaves) in (pages - lists + 1..).zip(free.chunks(listed as usize)) {
        let next = if list < pages { list + 1 } else { 0 };
        let words = [next, leaves.len() as u32].into_iter().chain(leaves.iter().copied());
        let bytes: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        file.write_all_at(&bytes, u64::from(page) * u64::from(list - 1)).unwrap();
    }
    let first = pages - lists + 1;
    for (at, number) in [(28, pages), (32, first), (36, free.len() as u32 + lists)] {
        file.write_all_at(&number.to_be_bytes(), at).unwrap();
    }
}

/// Backs up and restores one database that reaches over the page of SQLite's locks.
fn over_a_gibibyte(page: u32, pages: u32) {
    let world = World::new();
    let path = world.data().join("large.db");
    mostly_free(&path, page, pages);
    let found: String =
        Connection::open(&path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
    let size = path.metadata().unwrap().len();
    assert!(size > (1 << 30) + 2 * u64::from(page), "{size} bytes do not reach over the locking page");
    let first = world.backup();
    assert_eq!(taken(&first)["large.db"], "live");
    assert_eq!(number(&first, "bytes"), size);
    run(&path, "INSERT INTO t(x) VALUES (randomblob(100000)); UPDATE t SET x = randomblob(1000) WHERE id = 3");
    let second = world.backup();
    assert!(number(&second, "uploaded_bytes") < 8 * u64::from(page) + (128 << 10), "{second}");
    world.restore("back");
    let back = world.path("back/large.db");
    assert_eq!((back.metadata().unwrap().len(), hash(&back)), (size, hash(&path)));
    assert_eq!(ask(&back, "SELECT count(*) FROM t"), 11);
}

#[test]
fn over_a_gibibyte_in_pages_of_65536() {
    over_a_gibibyte(65_536, 16_700);
}

/// `cargo test --release --test all sqlite_large::over_a_gibibyte_in_small -- --ignored`
#[test]
#[ignore = "takes long in a debug build; the command is in its comment"]
fn over_a_gibibyte_in_small_pages() {
    over_a_gibibyte(4096, 267_000);
    over_a_gibibyte(512, 2_130_000);
}

/// Rewrites a small database in one WAL again and again, until that is of `size` bytes.
fn fill(app: &mut Other, path: &Path, size: u64) {
    while beside(path, "-wal").metadata().unwrap().len() < size {
        app.ask("UPDATE t SET x = randomblob(length(x))");
        app.ask("INSERT INTO t(x) VALUES (randomblob(5000))");
    }
}

/// Backs up a database of about 9 MB beside a WAL of `size` bytes, in use and left behind by a killed writer.
fn a_large_wal(size: u64) {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let path = world.data().join("app.db");
    let first = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; ";
    let mut app = Other::serving(&path, &(first.to_owned() + &table(2000, 4000)));
    app.ask("PRAGMA wal_checkpoint(PASSIVE)");
    fill(&mut app, &path, size);
    let before = seen(&world.data());
    let report = world.backup();
    assert_eq!(taken(&report)["app.db"], "live");
    assert!(number(&report, "uploaded_bytes") < 30_000_000, "{report}");
    app.ask("UPDATE t SET x = randomblob(length(x)) WHERE id = 1000");
    app.kill();
    fs::remove_file(beside(&path, "-shm")).unwrap();
    let report = world.backup();
    assert_eq!(taken(&report)["app.db"], "live");
    assert!(number(&report, "uploaded_bytes") < 64 << 10, "{report}");
    let after = seen(&world.data());
    assert_eq!(before.get(&path), after.get(&path));
    assert_eq!(after.len(), 2, "{after:?}");
    world.restore("back");
    assert_recovers_same(&world.data(), &world.path("back"), "app.db");
}

#[test]
fn a_wal_of_50_mb() {
    a_large_wal(50_000_000);
}

/// `cargo test --release --test all sqlite_large::a_wal_of_3_gb -- --ignored`
#[test]
#[ignore = "writes several GB; the command is in its comment"]
fn a_wal_of_3_gb() {
    a_large_wal(3_000_000_000);
}
