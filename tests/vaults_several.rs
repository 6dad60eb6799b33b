//! Several vaults that are replicas of one: what each holds, which one serves, and copying between them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::compare::assert_same;
use crate::support::requirements::{Mounted, skipped};
use crate::support::tree::noise;
use crate::support::{Ran, World, id, is_root, number, paths, short};

const BOTH: [&str; 4] = ["--vault", "one", "--vault", "two"];

fn with<'a>(args: &[&'a str], vaults: &[&'a str]) -> Vec<&'a str> {
    [args, vaults].concat()
}

/// Backs up into `one` and `two`; the report, and which of them hold the snapshot.
fn backup(world: &World) -> (Value, [bool; 2]) {
    let ran = world.run(with(&["backup", "--init", "--json"], &BOTH));
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|why| panic!("{why}: {ran:?}"));
    let holds = [0, 1].map(|at| report["vaults"][at]["holds"].as_bool().unwrap());
    ran.ended(if holds == [true, true] { 0 } else { 3 });
    (report, holds)
}

/// Returns the snapshots of a vault, newest first.
fn snapshots(world: &World, vault: &str) -> Vec<String> {
    let list = world.json(["list", "--vault", vault], 0);
    list.as_array().unwrap().iter().map(|listed| listed["id"].as_str().unwrap().to_owned()).collect()
}

/// Returns the objects of a vault, with their inodes: an object that is written again has another one.
fn objects(vault: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for folder in ["packs", "index", "snapshots"] {
        for entry in fs::read_dir(vault.join(folder)).into_iter().flatten() {
            let entry = entry.unwrap();
            found.insert(entry.path().strip_prefix(vault).unwrap().to_owned(), entry.metadata().unwrap().ino());
        }
    }
    found
}

/// Spoils a byte of every object in a folder.
fn spoil(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 3;
        bytes[at] ^= 0xff;
        fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn what_one_vault_has_lost_comes_back_from_the_other() {
    let world = World::with_everything();
    let (report, holds) = backup(&world);
    assert_eq!((holds, report["vault"].as_str()), ([true, true], world.path("one").to_str()));
    assert_eq!(number(&report["vaults"][1], "copied_objects"), number(&report, "new_packs") + 1);
    let names = |vault: &str| objects(&world.path(vault)).into_keys().collect::<Vec<_>>();
    assert_eq!(names("one"), names("two"));
    fs::rename(world.path("one"), world.path("kept")).unwrap();

    type Destroy = fn(&Path);
    let ways: [(&str, Destroy, i32); 7] = [
        ("removed", |_| {}, 1),
        ("emptied", |vault| fs::create_dir(vault).unwrap(), 1),
        ("below a file", |vault| fs::write(vault, "").unwrap(), 1),
        ("without vault.json", |vault| fs::remove_file(vault.join("vault.json")).unwrap(), 4),
        ("without snapshots", |vault| fs::remove_dir_all(vault.join("snapshots")).unwrap(), 0),
        ("with damaged packs", |vault| spoil(&vault.join("packs")), 4),
        ("with damaged roots", |vault| spoil(&vault.join("snapshots")), 4),
    ];
    for (how, destroy, code) in ways {
        let one = world.path("one");
        if how.starts_with("with") {
            let mut copy = std::process::Command::new("cp");
            Ran::of({
                copy.arg("-a").arg(world.path("kept")).arg(&one);
                copy
            })
            .ended(0);
        }
        destroy(&one);
        let ran = world.run(with(&["restore", "out", "--json"], &BOTH));
        ran.ended(0).says(one.to_str().unwrap());
        let restored: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(restored["vault"].as_str(), world.path("two").to_str(), "{how}");
        assert!(restored["warnings"].to_string().contains("one"), "{how}: {restored}");
        assert_same(&world.data(), &world.path("out"));
        fs::remove_dir_all(world.path("out")).unwrap();

        let verified = world.json(with(&["verify"], &BOTH), code);
        assert_eq!(verified["vaults"][1]["damage"], json!([]), "{how}: {verified}");
        let broken = &verified["vaults"][0];
        assert_eq!(broken["error"].is_string(), code == 1, "{how}: {broken}");
        if one.is_dir() {
            fs::remove_dir_all(&one).unwrap();
        } else if one.exists() {
            fs::remove_file(&one).unwrap();
        }
    }
    // Commands that only look use the first that opens.
    let looked = world.run(with(&["ls", "latest", "--json"], &BOTH));
    looked.ended(0).says("one");
    assert!(paths(&serde_json::from_slice(&looked.stdout).unwrap()).contains(&"sizes"));
    let read = world.run(with(&["cat", "latest", "sizes/large"], &BOTH));
    assert!(read.ended(0).stdout == fs::read(world.data().join("sizes/large")).unwrap());
    for args in [&["list"][..], &["diff", "latest", "latest"], &["export", "latest", "-o", "out.tar.zst"]] {
        world.run(with(args, &BOTH)).ended(0).says("passed over");
    }
    let text = world.run(with(&["restore", "out"], &BOTH));
    assert!(text.ended(0).text().contains(&format!("from     {}", world.path("two").display())), "{text:?}");
    fs::remove_dir_all(world.path("two")).unwrap();
    world.run(with(&["restore", "none"], &BOTH)).ended(1).says("none of the 2 vaults").says("/one: ").says("/two: ");
    assert!(!world.path("none").exists());
}

#[test]
fn the_vaults_may_come_from_the_environment() {
    let world = World::with_files();
    let run = |args: &[&str]| {
        let mut command = world.command(args);
        command.env("LASTGOOD_VAULT", "one, two");
        Ran::of(command)
    };
    let text = run(&["backup", "--init"]).ended(0).text().to_owned();
    let two = world.path("two");
    assert!(text.contains(&format!("Made a replica of the vault in {}", two.display())), "{text}");
    assert!(text.contains(&format!("copied to {}, 1 snapshot", two.display())), "{text}");
    assert_eq!(snapshots(&world, "one"), snapshots(&world, "two"));
    run(&["restore", "out"]).ended(0);
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn while_the_first_vault_is_away_the_next_one_takes_the_snapshots_and_later_both_hold_them() {
    let world = World::with_files();
    let (first, _) = backup(&world);
    let (one, aside) = (world.path("one"), world.path("aside"));
    fs::rename(&one, &aside).unwrap();
    fs::write(&one, "no folder").unwrap();
    let mut taken = vec![id(&first).to_owned()];
    for round in 0..2 {
        world.write("a.txt", format!("round {round}"));
        let ran = world.run(with(&["backup", "--json", "-q"], &BOTH));
        ran.ended(3).says("ERROR").says("one does not hold the snapshot").says("Not a directory");
        let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(report["vault"].as_str(), world.path("two").to_str());
        let [away, stays] = [0, 1].map(|at| &report["vaults"][at]);
        assert!(away["holds"] == false && away["why"].as_str().unwrap().contains("Not a directory"), "{report}");
        assert!(stays["holds"] == true && stays["why"].is_null(), "{report}");
        assert_eq!(report["parent"].as_str(), taken.last().map(String::as_str));
        taken.push(id(&report).to_owned());
    }
    let text = world.run(with(&["backup", "--exit-zero-on", "incomplete-copies"], &BOTH));
    assert!(text.ended(0).text().contains("NOT IN"), "{text:?}");
    assert!(world.run(["runs", "--vault", "two"]).ended(0).text().contains(" incomplete-copies "));
    taken.push(snapshots(&world, "two")[0].clone());

    fs::remove_file(&one).unwrap();
    fs::rename(&aside, &one).unwrap();
    let ran = world.run(with(&["restore", "newest"], &BOTH));
    ran.ended(0).says(&format!("{}, is in", taken[3])).says(&format!("one has is {}", taken[0]));
    assert_eq!(fs::read_to_string(world.path("newest/a.txt")).unwrap(), "round 1");
    // It goes to the one that has the newest, and the other gets all from there.
    let (last, holds) = backup(&world);
    assert_eq!((holds, last["vault"].as_str()), ([true, true], world.path("two").to_str()));
    assert_eq!(last["parent"].as_str(), Some(&*taken[3]));
    assert_eq!(number(&last["vaults"][0], "copied_snapshots"), 4);
    taken.push(id(&last).to_owned());
    taken.reverse();
    assert_eq!((snapshots(&world, "one"), snapshots(&world, "two")), (taken.clone(), taken.clone()));
    assert!(taken.is_sorted_by(|newer, older| newer[..10] > older[..10]), "{taken:?}");
    for vault in ["one", "two"] {
        world.run(["verify", "--read-data", "--vault", vault]).ended(0);
        let restored = world.json(["restore", &format!("from-{vault}"), "--vault", vault], 0);
        assert_eq!(restored["snapshot"], last["snapshot"]);
        assert_same(&world.data(), &world.path(format!("from-{vault}")));
    }
}

#[test]
fn the_newest_is_restored_when_two_vaults_were_away_in_turn() {
    let world = World::new();
    let write = |text: &str| {
        // Vaults that do not know each other number snapshots by the second.
        std::thread::sleep(Duration::from_millis(1001));
        world.write("f1", text);
    };
    write("v1");
    backup(&world);
    let aside = world.path("aside");
    for (away, texts) in [("two", &["v2", "v3"][..]), ("one", &["the newest, v4"])] {
        let away = world.path(away);
        fs::rename(&away, &aside).unwrap();
        fs::write(&away, "no folder").unwrap();
        for text in texts {
            write(text);
            backup(&world);
        }
        fs::remove_file(&away).unwrap();
        fs::rename(&aside, &away).unwrap();
    }
    world.run(with(&["restore", "out"], &BOTH)).ended(0).says("two");
    assert_eq!(fs::read_to_string(world.path("out/f1")).unwrap(), "the newest, v4");
    world.run(["copy", "--from", "two", "--to", "one"]).ended(0);
    world.run(["restore", "out2", "--vault", "one"]).ended(0);
    assert_eq!(fs::read_to_string(world.path("out2/f1")).unwrap(), "the newest, v4");
    // The other vault gets the snapshots that it lacks with the next one, though it has a newer one.
    backup(&world);
    assert_eq!((snapshots(&world, "one"), snapshots(&world, "one").len()), (snapshots(&world, "two"), 5));
}

#[test]
fn a_vault_that_cannot_be_written_to_does_not_keep_the_next_one_from_it() {
    let world = World::with_files();
    if !is_root() {
        return skipped("root", "only root can mount a disk and make it read-only");
    }
    let Some(mounted) = Mounted::new(world.path("one"), "64m") else { return };
    let (first, holds) = backup(&world);
    assert_eq!(holds, [true, true]);
    mounted.remount("ro");
    world.write("b.txt", "second");
    let (second, holds) = backup(&world);
    assert_eq!((holds, &second["parent"]), ([false, true], &first["snapshot"]));
    assert!(second["vaults"][0]["why"].as_str().unwrap().contains("Read-only"), "{second}");
    // It is good for a restore all the same, where no other one has a newer snapshot.
    let restored = world.json(with(&["restore", "newest"], &BOTH), 0);
    assert_eq!(restored["snapshot"], second["snapshot"]);
    let restored = world.json(["restore", "old", "--vault", "one"], 0);
    assert_eq!(restored["snapshot"], first["snapshot"]);
    mounted.remount("rw");
    let (third, holds) = backup(&world);
    assert_eq!((holds, number(&third["vaults"][0], "copied_snapshots")), ([true, true], 2));
    assert_eq!(snapshots(&world, "one"), snapshots(&world, "two"));
}

#[test]
fn different_vaults_are_not_used_together() {
    let world = World::with_files();
    let made = ["one", "two"].map(|vault| world.json(["init", "--vault", vault], 0)["id"].as_str().unwrap().to_owned());
    for args in [&["backup"][..], &["restore", "out"], &["init"]] {
        let ran = world.run(with(args, &BOTH));
        ran.ended(2).says(&made[0]).says(&made[1]).says("replicas of one");
    }
    world.run(["copy", "--from", "one", "--to", "two"]).ended(2).says(&made[0]).says(&made[1]);
    for vault in ["one", "two"] {
        assert_eq!(snapshots(&world, vault), [""; 0]);
        // Each by itself is as good as ever.
        world.run(["backup", "--vault", vault]).ended(0);
    }
    // Commands that only look use the first vault.
    world.run(with(&["list"], &BOTH)).ended(0);
    assert_eq!(world.json(with(&["verify"], &BOTH), 0)["vaults"].as_array().unwrap().len(), 2);
}

#[test]
fn init_makes_one_vault_and_replicas_of_it() {
    let world = World::with_files();
    let text = world.run(with(&["init"], &BOTH));
    let (one, two) = (world.path("one"), world.path("two"));
    let expected =
        format!("Made a new, empty vault in {}\nMade a replica of the vault in {}\n", one.display(), two.display());
    assert_eq!(text.ended(0).text(), expected);
    assert_eq!(fs::read(one.join("vault.json")).unwrap(), fs::read(two.join("vault.json")).unwrap());
    world.run(with(&["init"], &BOTH)).ended(1).says("exists");
    let three = world.json(with(&["init", "--vault", "three"], &BOTH), 0);
    assert_eq!(
        three["vaults"].as_array().unwrap().iter().map(|v| v["made"] == true).collect::<Vec<_>>(),
        [true, false, false]
    );
    world.run(["backup", "--init", "--vault", "three", "--vault", "one"]).ended(0);
    assert_eq!(snapshots(&world, "three"), snapshots(&world, "one"));
}

#[test]
fn all_snapshots_are_copied_or_those_that_are_named() {
    let world = World::with_everything();
    let mut taken = vec![world.backup()];
    for round in 0..3 {
        world.write("a.txt", format!("round {round}"));
        world.write("b.bin", noise(round, 300_000));
        taken.push(world.backup());
    }
    let names: Vec<_> = taken.iter().rev().map(|report| id(report).to_owned()).collect();
    let copy = |to: &str, more: &[&str]| world.json(with(&["copy", "--from", "backups", "--to", to], more), 0);
    let some = copy("some", &["--init", "--snapshot", "latest", "--snapshot", short(&taken[1])]);
    assert_eq!((&some["made"], &some["snapshots"]), (&json!(true), &json!([names[2], names[0]])));
    assert_eq!(snapshots(&world, "some"), [names[0].clone(), names[2].clone()]);
    let verified = world.json(["verify", "--read-data", "--vault", "some"], 0);
    assert_eq!((number(&verified, "unused"), &verified["gaps"]), (0, &json!([names[3], names[1]])));

    let rest = copy("some", &[]);
    assert_eq!((&rest["made"], &rest["snapshots"]), (&json!(false), &json!([names[3], names[1]])));
    assert_eq!(snapshots(&world, "some"), names);
    assert_eq!(number(&copy("some", &[]), "objects"), 0);
    let all = copy("all/of/it", &["--init"]);
    assert_eq!(number(&all, "bytes"), number(&some, "bytes") + number(&rest, "bytes"));
    let text = world.run(["copy", "--from", "backups", "--to", "text", "--init"]);
    assert!(text.ended(0).text().contains("Copied 4 snapshots from"), "{text:?}");
    // Whatever it came through, it is the same.
    for vault in ["some", "all/of/it", "text"] {
        for (name, bytes) in ["README.md", "vault.json"].map(|name| (name, fs::read(world.vault().join(name)).unwrap()))
        {
            assert!(fs::read(world.path(vault).join(name)).unwrap() == bytes, "{name} of {vault}");
        }
        assert!(objects(&world.path(vault)).into_keys().eq(objects(&world.vault()).into_keys()));
        let target = vault.replace('/', "-") + ".out";
        world.run(["restore", &target, "--vault", vault]).ended(0);
        assert_same(&world.data(), &world.path(target));
    }
    // A replica takes backups like any vault, and what it gets goes back.
    world.write("a.txt", "in the replica");
    let report = world.json(["backup", "--vault", "some"], 0);
    assert_eq!(report["parent"].as_str(), Some(&*names[0]));
    assert_eq!(world.json(["copy", "--from", "some", "--to", "backups"], 0)["snapshots"], json!([report["snapshot"]]));
    assert_eq!(snapshots(&world, "backups"), snapshots(&world, "some"));
}

#[test]
fn a_copy_that_is_wrong_leaves_nothing_behind() {
    let world = World::with_files();
    world.backup();
    let copy = |from: &str, to: &str, more: &[&str]| world.run(with(&["copy", "--from", from, "--to", to], more));
    copy("none", "new", &["--init"]).ended(1).says("no vault");
    copy("backups", "new", &["--init", "--snapshot", "nothing"]).ended(2);
    copy("backups", "./backups/.", &[]).ended(2).says("same place");
    copy("backups", "s3://bucket", &[]).ended(2);
    world.run(["copy", "--from", "backups"]).ended(2);
    // A mistyped address is no wish for a vault.
    copy("backups", "new", &[]).ended(1).says("no vault").says("lastgood copy --init");
    assert!(!world.path("new").exists() && !world.path("none").exists());
    fs::create_dir(world.path("full")).unwrap();
    fs::write(world.path("full/thesis.tex"), "").unwrap();
    copy("backups", "full", &["--init"]).ended(1).says("thesis.tex");
    assert_eq!(fs::read_dir(world.path("full")).unwrap().count(), 1);
}

#[test]
fn what_is_damaged_is_not_copied_and_is_named() {
    let world = World::with_files();
    let first = world.backup();
    let before = objects(&world.vault());
    world.write("new.bin", noise(5, 200_000));
    let second = world.backup();
    let pack =
        objects(&world.vault()).into_keys().find(|object| object.starts_with("packs") && !before.contains_key(object));
    let pack = pack.unwrap();
    let mut bytes = fs::read(world.vault().join(&pack)).unwrap();
    bytes[1000] ^= 1;
    fs::write(world.vault().join(&pack), bytes).unwrap();

    let done = world.json(["copy", "--init", "--from", "backups", "--to", "other"], 4);
    assert_eq!((&done["snapshots"], done["not_copied"].as_array().unwrap().len()), (&json!([first["snapshot"]]), 1));
    assert_eq!(done["not_copied"][0]["snapshot"], second["snapshot"]);
    assert!(done["not_copied"][0]["why"].as_str().unwrap().contains(pack.to_str().unwrap()), "{done}");
    assert!(!world.path("other").join(&pack).exists());
    let ran = world.run(["copy", "--from", "backups", "--to", "other"]);
    ran.ended(4).says(pack.to_str().unwrap());
    assert!(ran.text().contains("NOT COPIED") && ran.text().contains(short(&second)), "{ran:?}");
    // A cron job that wants errors only is told, too, and each thing once.
    let quiet = world.run(["copy", "-q", "--from", "backups", "--to", "other"]);
    quiet.ended(4).says(pack.to_str().unwrap());
    assert_eq!(quiet.text(), "");
    let quiet = world.run(["verify", "-q", "--read-data"]);
    quiet.ended(4).says(pack.to_str().unwrap());
    assert_eq!((quiet.text(), quiet.stderr.matches(pack.to_str().unwrap()).count()), ("", 1), "{quiet:?}");
    world.run(["verify", "--read-data", "--vault", "other"]).ended(0);
    assert_eq!(snapshots(&world, "other"), [id(&first)]);
}

/// Waits until a vault has more than this many packs.
fn wait_for_packs(vault: &Path, more_than: usize, child: &mut Child) {
    let began = Instant::now();
    while fs::read_dir(vault.join("packs")).map_or(0, Iterator::count) <= more_than {
        assert!(began.elapsed() < Duration::from_secs(60), "no packs appear");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_copy_that_was_killed_or_stopped_goes_on_and_sends_nothing_twice() {
    let world = World::new();
    for n in 0..12 {
        world.write(&format!("{n}.bin"), noise(n, 16 << 20));
    }
    world.backup();
    world.write("more.bin", noise(99, 100_000));
    world.backup();
    let (from, to) = (objects(&world.vault()), world.path("to"));
    assert!(from.len() > 12, "{from:?}");
    let args = ["copy", "--init", "--from", "backups", "--to", "to", "--parallel", "1"];
    let mut before = BTreeMap::new();
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let mut child = world.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_packs(&to, before.len() + 1, &mut child);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        if signal != Signal::KILL {
            assert!(done.status.code() == Some(1) && said.contains("told to stop"), "{:?} {said}", done.status);
            assert!(said.contains("not sent again"), "{said}");
        }
        let now = objects(&to);
        assert!(before.iter().all(|(name, inode)| now.get(name) == Some(inode)), "{before:?} {now:?}");
        assert!(now.len() < from.len() && snapshots(&world, "to").is_empty());
        before = now;
    }
    let done = world.json(args, 0);
    let now = objects(&to);
    assert!(before.iter().all(|(name, inode)| now.get(name) == Some(inode)), "{before:?} {now:?}");
    assert_eq!(number(&done, "objects") as usize, from.len() - before.len());
    assert_eq!(number(&done, "objects_there") as usize, before.len());
    assert!(now.into_keys().eq(from.into_keys()));
    world.run(["verify", "--read-data", "--vault", "to"]).ended(0);
    world.run(["restore", "out", "--vault", "to"]).ended(0);
    assert_same(&world.data(), &world.path("out"));
}
