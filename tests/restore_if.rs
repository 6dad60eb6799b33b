//! A restore that takes place only where it is needed, what it would do, and a vault that has nothing to restore yet.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::support::compare::assert_same;
use crate::support::tree::set_mtime;
use crate::support::{World, id, number};

#[test]
fn nothing_to_restore_yet_is_told_from_all_else() {
    let world = World::with_files();
    // No vault is not that: it may be a wrong address.
    world.run(["restore", "out", "--if-missing"]).ended(1).says("there is no vault");
    world.run(["init"]).ended(0);
    for snapshot in ["latest", "2026-11-20"] {
        let told = world.json(["restore", "out", "--snapshot", snapshot], 5);
        assert_eq!(told["kind"], "nothing-yet", "{told}");
    }
    world.run(["restore", "out", "--if-missing"]).ended(5).says("the vault has no snapshots");
    world.run(["restore", "out", "--snapshot", "abcd"]).ended(2);
    world.run(["ls", "latest"]).ended(5);
    // Several vaults have nothing only if none of them has, and each says so.
    world.run(["copy", "--from", "backups", "--to", "two", "--init"]).ended(0);
    let both = ["restore", "out", "--vault", "backups", "--vault", "two"];
    world.run(both).ended(5);
    fs::rename(world.path("two"), world.path("away")).unwrap();
    world.run(both).ended(1);
    // A snapshot that is not good is one.
    fs::rename(world.data(), world.path("kept")).unwrap();
    fs::create_dir(world.data()).unwrap();
    world.run(["backup"]).ended(3);
    world.run(["restore", "out"]).ended(1).says("its only snapshot is not good").says("by its id");
    // What cannot even be read is no choice.
    for root in fs::read_dir(world.vault().join("snapshots")).unwrap() {
        fs::write(root.unwrap().path(), "junk").unwrap();
    }
    let told = world.json(["restore", "out"], 4);
    assert_eq!((&told["kind"], &told["code"]), (&json!("damage"), &json!("damage")), "{told}");
    assert!(told["hint"].as_str().unwrap().contains("lastgood verify"), "{told}");
}

#[test]
fn a_restore_that_is_not_needed_does_nothing() {
    let world = World::with_files();
    let report = world.backup();
    let restore = |args: &[&str]| world.json(["restore", "out"].iter().chain(args), 0);
    fs::create_dir_all(world.path("out/uploads/lost+found")).unwrap();
    assert_eq!(restore(&["--if-missing"])["snapshot"], report["snapshot"]);
    assert_same(&world.data(), &world.path("out"));

    fs::write(world.path("out/a.txt"), "newer").unwrap();
    let runs = world.json(["runs"], 0);
    for args in [&["--if-missing"][..], &["--if-older", "1h"], &["--if-missing", "--if-older", "1h"]] {
        let told = restore(args);
        assert!(told["snapshot"] == Value::Null && told["skipped"].is_string(), "{told}");
    }
    let text = world.run(["restore", "out", "--if-missing"]);
    assert!(text.ended(0).text().starts_with("Nothing was restored: there are files in "), "{text:?}");
    // Nothing was run, and no vault is needed for that.
    assert_eq!(world.json(["runs"], 0), runs);
    world.run(["restore", "out", "--if-missing", "--vault", "none"]).ended(0);
    assert_eq!(fs::read_to_string(world.path("out/a.txt")).unwrap(), "newer");

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for path in ["out/a.txt", "out/logs/app.log", "out/uploads/x/y.bin"] {
        set_mtime(&world.path(path), now as i64 - 7200, 0);
    }
    assert_eq!(restore(&["--if-older", "3h"])["snapshot"], Value::Null);
    assert_eq!(restore(&["--if-older", "1h"])["snapshot"], report["snapshot"]);
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn who_waited_for_another_restore_looks_again() {
    let world = World::with_files();
    world.backup();
    let runs = world.json(["runs"], 0);
    for args in [&["--if-missing"][..], &["--if-older", "1h"], &["--if-missing", "--in-place"]] {
        let out = world.path("out");
        fs::create_dir(&out).unwrap();
        let other = File::open(&out).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        let mut command = world.command(["--json", "restore", "out"].iter().chain(args));
        let mut waits = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(waits.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(said.into_iter().any(|line| line.contains("is locked by")), "{args:?}");
        // The other one has ended, and the app was started.
        fs::write(out.join("row"), "new").unwrap();
        drop(other);
        let ended = waits.wait_with_output().unwrap();
        let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert!(ended.status.success() && told["snapshot"] == Value::Null && told["skipped"].is_string(), "{told}");
        assert_eq!(fs::read(out.join("row")).unwrap(), b"new");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "{args:?}");
        let beside = fs::read_dir(out.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!beside.into_iter().any(|name| name.to_string_lossy().contains("out.")), "{args:?}");
        fs::remove_dir_all(&out).unwrap();
    }
    assert_eq!(world.json(["runs"], 0), runs);
}

#[test]
fn a_dry_run_says_what_a_restore_would_do_and_does_nothing() {
    let world = World::with_files();
    let report = world.backup();
    world.restore("out");
    fs::write(world.path("out/a.txt"), "another one").unwrap();
    fs::remove_file(world.path("out/logs/app.log")).unwrap();
    fs::write(world.path("out/new.txt"), "12345").unwrap();
    let before = crate::support::compare::hash(&world.path("out/a.txt"));
    let objects = || fs::read_dir(world.vault().join("runs")).unwrap().count();
    let runs = objects();
    let told = world.json(["restore", "out", "--dry-run"], 0);
    assert_eq!((id(&told), &told["dry_run"]), (id(&report), &json!(true)));
    let changes =
        |kind: &str| (number(&told[kind], "entries"), number(&told[kind], "bytes"), told[kind]["first"].clone());
    assert_eq!(changes("added"), (1, 8, json!(["logs/app.log"])));
    assert_eq!(changes("changed"), (1, 6, json!(["a.txt"])));
    assert_eq!(changes("gone"), (1, 5, json!(["new.txt"])));
    assert_eq!(number(&told["unchanged"], "entries"), number(&report, "entries") - 2);
    assert_eq!(told["moves_aside"], json!([world.path("out")]));
    let text = world.run(["restore", "out", "--dry-run"]);
    assert!(text.ended(0).text().contains("  changed  1 entry, 6 B: a.txt\n"), "{text:?}");
    let part = world.json(["restore", "out", "--dry-run", "--path", "logs"], 0);
    assert_eq!((number(&part["added"], "entries"), number(&part["gone"], "entries")), (1, 0));
    let all = world.json(["restore", "elsewhere", "--dry-run"], 0);
    assert_eq!((number(&all["added"], "entries"), &all["moves_aside"]), (number(&report, "entries"), &json!([])));
    assert!(!world.path("elsewhere").exists() && objects() == runs);
    assert_eq!(crate::support::compare::hash(&world.path("out/a.txt")), before);
    // A dry run fails where a restore could not begin.
    world.run(["restore", "out/a.txt", "--dry-run"]).ended(2).says("not a folder");
    world.run(["restore", "out", "--dry-run", "--path", "none"]).ended(2).says("no such entry");
}
