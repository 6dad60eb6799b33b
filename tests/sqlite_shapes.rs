//! Databases of every shape that SQLite gives them, each restored byte for byte as it lay there at rest.

use std::fs;

use rusqlite::Connection;

use crate::support::compare::{assert_same, assert_same_but_folder_times};
use crate::support::database::{beside, number as ask, run, table, taken};
use crate::support::database_process::Other;
use crate::support::seeded_random::Dice;
use crate::support::tree::set_mtime;
use crate::support::{World, number, short};

/// Backs up, restores into `target`, and asserts that what came back is what lies there.
#[track_caller]
fn round_trip(world: &World, target: &str) -> serde_json::Value {
    let report = world.json(["backup", "--accept-shrink"], 0);
    assert!(taken(&report).values().all(|taken| *taken == "live"), "{target}: {report}");
    world.restore(target);
    assert_same_but_folder_times(&world.data(), &world.path(target));
    report
}

#[test]
fn every_page_size() {
    let world = World::new();
    for mode in ["DELETE", "WAL"] {
        for bits in 9..=16 {
            let path = world.data().join(format!("{mode}/{}.db", 1 << bits));
            run(&path, &format!("PRAGMA page_size={}; PRAGMA journal_mode={mode}; {}", 1 << bits, table(300, 1000)));
            assert_eq!(ask(&path, "PRAGMA page_size"), 1 << bits);
        }
    }
    // An odd number of pages of 512 bytes ends in half a block.
    let path = world.data().join("DELETE/512.db");
    let mut pages = Vec::new();
    for round in 0..4 {
        let report = round_trip(&world, &format!("back{round}"));
        assert_eq!(taken(&report).len(), 16);
        pages.push(ask(&path, "PRAGMA page_count") % 2);
        for mode in ["DELETE", "WAL"] {
            for bits in 9..=16 {
                let sql =
                    "UPDATE t SET x = randomblob(1000) WHERE id % 50 = 7; INSERT INTO t(x) VALUES (randomblob(400))";
                run(&world.data().join(format!("{mode}/{}.db", 1 << bits)), sql);
            }
        }
        if round == 1 {
            // One page more, whatever the table did.
            run(&path, "CREATE TABLE one_more(x)");
        }
    }
    assert!(pages.contains(&0) && pages.contains(&1), "{pages:?}");
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn every_page_size_while_the_newest_pages_are_in_the_wal() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let start = |bits: u32| {
        let path = world.data().join(format!("{}.db", 1 << bits));
        let sql = format!("PRAGMA page_size={}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; ", 1 << bits);
        (path.clone(), Other::serving(&path, &(sql + &table(200, 1000))))
    };
    let mut apps: Vec<_> = (9..=16).map(start).collect();
    for (_, app) in &mut apps {
        app.ask("PRAGMA wal_checkpoint(PASSIVE)");
        app.ask("UPDATE t SET x = 'new' WHERE id % 10 = 3");
        app.ask("DELETE FROM t WHERE id > 150");
    }
    world.backup();
    // At rest and checkpointed, the file is what SQLite made of database and WAL. The header's own counters are no part
    // of a checkpoint, so it is the same to the byte.
    apps.into_iter().for_each(|(_, app)| app.close());
    world.restore("back");
    for bits in 9..=16 {
        let name = format!("{}.db", 1 << bits);
        assert!(!beside(&world.data().join(&name), "-wal").exists());
        let (is, back) =
            (fs::read(world.data().join(&name)).unwrap(), fs::read(world.path("back").join(&name)).unwrap());
        assert!(is == back, "{name}: {} and {} bytes", is.len(), back.len());
    }
}

#[test]
fn a_page_size_that_changes() {
    let world = World::new();
    let path = world.data().join("app.db");
    run(&path, &table(500, 1000));
    round_trip(&world, "back");
    for bits in [13, 9, 16, 10, 12] {
        run(&path, &format!("PRAGMA page_size={}; VACUUM", 1 << bits));
        assert_eq!(ask(&path, "PRAGMA page_size"), 1 << bits);
        round_trip(&world, &format!("back{bits}"));
        run(&path, "UPDATE t SET x = randomblob(1000) WHERE id = 250");
        let report = round_trip(&world, &format!("again{bits}"));
        // Small again: the block is the new page.
        assert!(number(&report, "uploaded_bytes") < 16 << 10 | 4 << bits, "{report}");
    }
}

#[test]
fn vacuum_and_auto_vacuum() {
    for auto_vacuum in ["NONE", "FULL", "INCREMENTAL"] {
        let world = World::new();
        let path = world.data().join("app.db");
        run(&path, &format!("PRAGMA auto_vacuum={auto_vacuum}; {}", table(2000, 1000)));
        round_trip(&world, "full");
        let full = ask(&path, "PRAGMA page_count");
        run(&path, "DELETE FROM t WHERE id % 4 <> 0");
        round_trip(&world, "deleted");
        run(&path, "PRAGMA incremental_vacuum(100)");
        round_trip(&world, "less");
        run(&path, "VACUUM");
        round_trip(&world, "vacuumed");
        assert!(ask(&path, "PRAGMA page_count") < full / 2);
        run(&path, "DELETE FROM t; VACUUM");
        round_trip(&world, "empty");
        run(
            &path,
            "INSERT INTO t(x) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700) SELECT randomblob(1000) FROM n",
        );
        round_trip(&world, "again");
    }
}

#[test]
fn one_that_grows_and_shrinks() {
    let world = World::new();
    let path = world.data().join("app.db");
    run(&path, &format!("PRAGMA journal_mode=WAL; PRAGMA auto_vacuum=INCREMENTAL; {}", table(1000, 900)));
    let mut dice = Dice(3);
    let mut kept = Vec::new();
    for round in 0..30 {
        let report = world.backup();
        let copy = world.path(format!("copy{round}"));
        fs::copy(&path, &copy).unwrap();
        kept.push((short(&report).to_owned(), copy));
        let sql = match dice.roll(6) {
            0 => "DELETE FROM t WHERE id % 3 = abs(random()) % 3; PRAGMA incremental_vacuum".to_owned(),
            1 => "VACUUM".to_owned(),
            2 => format!(
                "DELETE FROM t WHERE id > (SELECT max(id) - {} FROM t); PRAGMA incremental_vacuum",
                dice.roll(900)
            ),
            3 => "UPDATE t SET x = randomblob(length(x)) WHERE id % 97 = 5".to_owned(),
            _ => format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
                 INSERT INTO t(x) SELECT randomblob(900) FROM n",
                dice.roll(900) + 1
            ),
        };
        run(&path, &sql);
    }
    let sizes: Vec<_> = kept.iter().map(|(_, copy)| copy.metadata().unwrap().len()).collect();
    assert!(sizes.windows(2).filter(|pair| pair[1] < pair[0]).count() >= 4, "it never shrank: {sizes:?}");
    for (round, (snapshot, copy)) in kept.iter().enumerate() {
        let target = format!("back{round}");
        world.restore_snapshot(snapshot, &target);
        let back = fs::read(world.path(target).join("app.db")).unwrap();
        assert!(back == fs::read(copy).unwrap(), "round {round}: it is not what it was");
    }
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn databases_of_no_page_and_of_one() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    // SQLite makes no page before something is written.
    Connection::open(world.data().join("nothing.db")).unwrap().execute_batch("PRAGMA user_version").unwrap();
    assert_eq!(world.data().join("nothing.db").metadata().unwrap().len(), 0);
    // Killed while the first page was written: the journal says that the file was empty.
    world.write("begun.db", "");
    world.write("begun.db-journal", [&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7][..], &[0; 504]].concat());
    run(&world.data().join("one.db"), "PRAGMA user_version=7");
    run(&world.data().join("one wal.db"), "PRAGMA journal_mode=WAL");
    run(&world.data().join("odd.db"), "PRAGMA page_size=512; PRAGMA user_version=7");
    for name in ["one.db", "one wal.db", "odd.db"] {
        assert_eq!(ask(&world.data().join(name), "PRAGMA page_count"), 1, "{name}");
    }
    let report = round_trip(&world, "back");
    assert_eq!(taken(&report).into_keys().collect::<Vec<_>>(), ["odd.db", "one wal.db", "one.db"]);
    // From nothing to something, and back.
    run(&world.data().join("nothing.db"), &table(10, 1000));
    round_trip(&world, "back2");
    fs::write(world.data().join("nothing.db"), "").unwrap();
    round_trip(&world, "back3");
}

#[test]
fn a_file_that_becomes_a_database_and_one_that_ceases_to_be_one() {
    let world = World::new();
    world.write("a", "text\n".repeat(100_000));
    run(&world.data().join("b"), &table(500, 1000));
    round_trip(&world, "back0");
    fs::remove_file(world.data().join("a")).unwrap();
    fs::rename(world.data().join("b"), world.data().join("a")).unwrap();
    world.write("b", "text\n".repeat(100_000));
    let report = round_trip(&world, "back1");
    assert_eq!(taken(&report).into_keys().collect::<Vec<_>>(), ["a"]);
    // And stored as an ordinary file though nothing changed, then as a database again.
    set_mtime(&world.data().join("a"), 1_700_000_000, 5);
    round_trip(&world, "unchanged");
    assert_eq!(world.json(["backup", "--no-sqlite"], 0)["databases"], serde_json::json!([]));
    world.restore("back2");
    assert_same(&world.data(), &world.path("back2"));
    run(&world.data().join("a"), "DELETE FROM t WHERE id = 3");
    world.json(["backup", "--no-sqlite"], 0);
    world.restore("back3");
    assert_same(&world.data(), &world.path("back3"));
    round_trip(&world, "back4");
}
