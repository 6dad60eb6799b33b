//! Whatever happens to databases between backups, in whatever order: every snapshot gives back what SQLite saw then.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::database::{assert_recovers_same, beside, copy, run, table};
use crate::support::database_process::Other;
use crate::support::seeded_random::Dice;
use crate::support::{World, id};

/// The arguments of a backup in a round.
const ARGUMENTS: [&[&str]; 6] = [
    &[],
    &[],
    &["--verify-content"],
    &["--check-databases=full"],
    &["--check-databases=quick", "--reason", "schedule"],
    &["--no-sqlite"],
];

/// Changes some rows, adds some or takes some away.
fn rows(dice: &mut Dice) -> String {
    let (at, some) = (dice.roll(2000), dice.roll(300) + 1);
    match dice.roll(4) {
        0 => format!("DELETE FROM t WHERE id > {at} AND id <= {at} + {some}"),
        1 => format!("UPDATE t SET x = randomblob({}) WHERE id % 97 = {}", some * 4, at % 97),
        _ => format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {some})
             INSERT INTO t(x) SELECT randomblob({}) FROM n",
            at + 1
        ),
    }
}

/// Leaves a WAL, or a transaction that was being written, behind a killed program.
fn killed(path: &Path, dice: &mut Dice) {
    // Nothing of the previous mode may be left that the next one would have to recover first.
    if dice.roll(2) == 0 {
        let mut app = Other::serving(path, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0");
        (0..=dice.roll(3)).for_each(|_| _ = app.ask(&rows(dice).replace('\n', " ")));
        app.kill();
        if dice.roll(2) == 0 {
            fs::remove_file(beside(path, "-shm")).unwrap();
        }
    } else {
        let mut app = Other::serving(path, "PRAGMA journal_mode=DELETE; PRAGMA cache_size=10");
        app.ask("BEGIN IMMEDIATE");
        app.ask("UPDATE t SET x = randomblob(700)");
        app.kill();
    }
}

/// Something that may happen to one of the databases.
fn happens(path: &Path, dice: &mut Dice) {
    match dice.roll(9) {
        0 => run(path, "VACUUM"),
        1 => {
            let page = 512u64 << dice.roll(8);
            run(path, &format!("PRAGMA journal_mode=DELETE; PRAGMA page_size={page}; VACUUM"));
        }
        2 => {
            let mode = ["DELETE", "TRUNCATE", "PERSIST", "WAL"][dice.roll(4) as usize];
            run(path, &format!("PRAGMA journal_mode={mode}; {}", rows(dice)));
        }
        3 => killed(path, dice),
        4 => {
            // A program that copies a database over: of what lay beside the old one nothing may be left.
            let other = path.with_extension("new");
            run(&other, &table(dice.roll(500) + 1, 300));
            ["-wal", "-shm", "-journal"].iter().for_each(|side| _ = fs::remove_file(beside(path, side)));
            fs::rename(other, path).unwrap();
        }
        _ => run(path, &rows(dice)),
    }
}

fn rounds(seed: u64) {
    let world = World::new();
    let mut dice = Dice(seed);
    let names = ["a.db", "b", "folder/c.sqlite"];
    for name in names {
        fs::create_dir_all(world.data().join(name).parent().unwrap()).unwrap();
        run(&world.data().join(name), &table(1500, 400));
    }
    // The directory may not look halved, whatever goes; that a database does is meant.
    world.write("ballast", vec![7; 30_000_000]);
    let mut kept: Vec<(String, PathBuf)> = Vec::new();
    for round in 0..25 {
        for name in names {
            (0..dice.roll(3)).for_each(|_| happens(&world.data().join(name), &mut dice));
        }
        let arguments = ARGUMENTS[dice.roll(ARGUMENTS.len() as u64) as usize];
        let report = world.json([&["backup", "--accept-shrink"], arguments].concat(), 0);
        assert_eq!(report["good"], true, "seed {seed}, round {round}: {report}");
        let as_it_was = world.path(format!("was{round}"));
        copy(&world.data(), &as_it_was);
        kept.push((id(&report).to_owned(), as_it_was));
    }
    for (round, (snapshot, was)) in kept.iter().enumerate() {
        let target = format!("back{round}");
        world.restore_snapshot(snapshot, &target);
        for name in names {
            assert_recovers_same(was, &world.path(&target), name);
        }
    }
    // Without a log beside them, databases are what they were, byte for byte.
    for name in names {
        run(&world.data().join(name), "PRAGMA journal_mode=DELETE");
    }
    world.backup();
    world.restore("last");
    for name in names {
        let [was, is] = [world.data(), world.path("last")].map(|folder| fs::read(folder.join(name)).unwrap());
        assert!(was == is, "seed {seed}: {name}");
    }
    world.run(["verify", "--read-data", "--databases"]).ended(0);
}

#[test]
fn every_snapshot_gives_back_what_was_there() {
    for seed in [1, 2] {
        rounds(seed);
    }
}
