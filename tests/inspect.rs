//! Looking into a vault: `list`, `ls`, `cat`, `diff`, and how snapshots are named.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::compare::assert_same;
use crate::support::terminal::on_terminal;
use crate::support::{World, id, number, paths, short, tree};

#[test]
fn a_list_for_people_has_the_newest_first() {
    let world = World::with_files();
    assert_eq!(World::json(&world, ["init"], 0)["vault"], world.vault().to_str().unwrap());
    assert_eq!(world.json(["list"], 0), json!([]));
    let ids = [world.backup(), world.backup()].map(|report| short(&report).to_owned());
    let ran = world.run(["list"]);
    let lines: Vec<_> = ran.ended(0).text().lines().collect();
    assert!(lines.len() == 3 && lines[1].starts_with(&ids[1]) && lines[2].starts_with(&ids[0]), "{ran:?}");
}

#[test]
fn a_damaged_root_is_listed_and_hides_no_other() {
    let world = World::with_files();
    let [first, second] = [world.backup(), world.backup()];
    let root = world.vault().join("snapshots").join(format!("{}.json", id(&second)));
    fs::set_permissions(&root, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&root, fs::read_to_string(&root).unwrap().replace("manual", "MANUAL")).unwrap();
    let ran = world.run(["list"]);
    ran.ended(4).says("damaged");
    assert!(ran.text().contains(short(&first)) && ran.text().contains("damaged"), "{ran:?}");
    let list = world.json(["list"], 4);
    assert!(list[0]["damage"].is_string() && list[0]["id"] == second["snapshot"], "{list}");
    assert_eq!(list[1]["state"], "complete");
}

#[test]
fn a_snapshot_is_named_by_id_prefix_or_time() {
    let world = World::with_files();
    let first = world.backup();
    std::thread::sleep(Duration::from_millis(1100));
    world.write("a.txt", "second\n");
    let second = world.backup();
    let list = world.json(["list"], 0);
    let read = |spec: &str| world.run(["cat", spec, "a.txt"]).ended(0).text().to_owned();
    assert_eq!(read(id(&first)), "first\n");
    assert_eq!(read(id(&second)), "second\n");
    assert_eq!(read(&short(&first)[..9]), "first\n");
    assert_eq!(read(short(&second)), "second\n");
    assert_eq!(read("latest"), "second\n");
    assert_eq!(read(list[1]["created"].as_str().unwrap()), "first\n");
    world.run(["cat", "no-such-id", "a.txt"]).ended(2);
    world.run(["cat", "1999-01-01T00:00:00Z", "a.txt"]).ended(2);
}

#[test]
fn an_empty_name_is_no_snapshot() {
    let world = World::with_files();
    for some in [false, true] {
        for args in [
            &["restore", "out", "--snapshot", ""][..],
            &["restore", "out", "--snapshot", " ", "--dry-run"],
            &["ls", ""],
            &["cat", "", "a.txt"],
            &["export", "", "-o", "x"],
            &["copy", "--from", "backups", "--to", "other", "--init", "--snapshot", ""],
        ] {
            let ran = world.run(args);
            ran.says(if some { "is empty" } else { "could not" });
            assert_eq!(ran.code, Some(if some { 2 } else { 1 }), "{ran:?}");
            assert!(!some || ran.stderr.contains("Give `latest`, the beginning of an id"), "{ran:?}");
        }
        world.backup();
    }
    for args in [&["diff", "", "latest"][..], &["diff", "latest", ""]] {
        world.run(args).ended(2).says("is empty");
    }
    // Also where no snapshot is needed.
    world.run(["run", "--snapshot", "", "--", "touch", "ran"]).ended(2).says("is empty").says("Without --snapshot");
    world.run(["state", "--snapshot", ""]).ended(2).says("is empty");
    assert!(!world.path("ran").exists());
    assert!(!world.path("out").exists() && !world.path("x").exists());
}

#[test]
fn a_snapshot_that_is_committed_again_is_listed_as_what_it_is() {
    let world = World::with_files();
    let first = world.json(["backup", "--label", "message=old words"], 0);
    world.run(["run", "--every", "off", "--", "true"]).ended(0);
    let list = world.json(["list"], 0);
    let again = &list[1];
    assert_eq!(
        (&again["origin"], &again["repeats"], &again["reason"]),
        (&"start".into(), &first["snapshot"], &"manual".into())
    );
    assert!(list[0]["repeats"].is_null() && list[2]["origin"].is_null(), "{list}");
    let short = short(&first);
    let on_terminal = on_terminal(&world.command(["list"]), 80, &[]);
    for text in [world.run(["list"]).ended(0).text(), on_terminal.ended(0).text()] {
        let told: Vec<_> = text.lines().filter(|line| line.contains("  start     complete  ")).collect();
        assert_eq!((told.len(), text.matches("old words").count()), (1, 1), "{text}");
        assert_eq!(text.matches(&format!("as {short}")).count(), 1, "{text}");
    }
}

#[test]
fn ls_and_cat_look_inside() {
    let world = World::with_everything();
    let id = id(&world.backup()).to_owned();

    let top = world.json(["ls", &id], 0);
    assert_eq!(paths(&top), ["empty", "links", "modes", "names", "pipes", "sizes", "sparse", "times", "xattrs"]);
    assert_eq!((&top[4]["mode"], &top[4]["type"]), (&json!("1777"), &json!("folder")));
    assert_eq!(paths(&world.json(["ls", "latest", "empty"], 0)), ["empty/hard c", "empty/in"]);
    let below = world.json(["ls", "-R", "latest", "./empty/"], 0);
    assert_eq!(paths(&below), ["empty/hard c", "empty/in", "empty/in/empty"]);
    let one = world.json(["ls", "latest", "times/before 1970"], 0);
    assert_eq!((&one[0]["size"], &one[0]["mtime"]), (&json!(11), &json!("1968-11-27T00:00:00.000000001Z")));
    let all = world.json(["ls", "-R", "latest"], 0);
    assert_eq!(all.as_array().unwrap().len() as u64 + 1, number(&world.backup(), "entries"));

    let ran = world.run(["ls", "latest", "names"]);
    let text = ran.ended(0).text();
    for name in
        [r"names/line\x0abreak", r"names/not utf-8 \xff\xfe", r"names/back\\slash", r"names/tab\x09and \x1b[31mred"]
    {
        assert!(text.lines().any(|line| line.ends_with(name)), "no {name} in {text}");
    }
    assert!(world.run(["ls", "latest", "links/odd"]).text().ends_with("links/odd -> \\xff\\\\\\x0a\n"));

    for file in ["sizes/0", "sizes/large", "sparse/between", "links/hard b", "modes/400"] {
        let ran = world.run(["cat", &id, file]);
        assert!(ran.ended(0).stdout == fs::read(world.data().join(file)).unwrap(), "{file}");
    }
    world.run(["cat", "latest", "links"]).ended(2).says("folder");
    world.run(["cat", "latest", "links/long"]).ended(2).says("symbolic link");
    world.run(["cat", "latest", "pipes/fifo"]).ended(2).says("pipe");
    for missing in ["no such", "zzz", "sizes/0/x", "empty/in/empty/x"] {
        world.run(["cat", "latest", missing]).ended(2).says("not there");
        world.run(["ls", "latest", missing]).ended(2).says("not there");
    }
}

#[test]
fn diff_says_what_changed_how() {
    let world = World::with_files();
    ["swap", "linked"].iter().for_each(|name| symlink("here", world.data().join(name)).unwrap());
    world.write("touched", "");
    world.write("moded", "");
    tree::set_mtime(&world.data().join("touched"), 1_000_000_000, 0);
    let first = world.backup();

    let [a, linked] = ["a.txt", "linked"].map(|name| world.data().join(name));
    let times = |path: &Path| fs::symlink_metadata(path).map(|m| (m.mtime(), m.mtime_nsec())).unwrap();
    let (seconds, nanoseconds) = times(&linked);
    fs::remove_file(&linked).unwrap();
    symlink("there", &linked).unwrap();
    tree::set_mtime(&linked, seconds, nanoseconds);
    fs::write(&a, "other\n").unwrap();
    fs::remove_file(world.data().join("swap")).unwrap();
    world.write("swap/in", "");
    fs::remove_dir_all(world.data().join("logs")).unwrap();
    tree::set_mtime(&world.data().join("touched"), 1_000_000_000, 1);
    tree::set_mode(&world.data().join("moded"), 0o600);
    tree::set_mtime(&world.data(), 1_000_000_000, 0);
    let second = world.backup();

    let (x, y) = (id(&first), id(&second));
    let differences = world.json(["diff", x, y], 0);
    let short: Vec<_> = differences
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            let what: Vec<_> = d["what"].as_array().into_iter().flatten().map(|w| w.as_str().unwrap()).collect();
            (d["path"].as_str().unwrap(), d["change"].as_str().unwrap(), what.join(" "))
        })
        .collect();
    let expected = [
        (".", "modified", "time"),
        ("a.txt", "modified", "content time"),
        ("linked", "modified", "target"),
        ("logs", "removed", ""),
        ("logs/app.log", "removed", ""),
        ("moded", "modified", "mode"),
        ("swap", "modified", "type mode time"),
        ("swap/in", "added", ""),
        ("touched", "modified", "time"),
    ];
    assert_eq!(short, expected.map(|(path, change, what)| (path, change, what.to_owned())));

    let ran = world.run(["diff", x, y]);
    assert!(ran.ended(0).text().contains("M a.txt  (content, time)\nM linked  (target)\n- logs/\n"), "{ran:?}");
    assert_eq!(world.json(["diff", x, x], 0), json!([]));
    assert_eq!(world.run(["diff", y, y]).ended(0).text(), "");
}

#[test]
fn a_snapshot_that_is_gone_and_that_another_was_made_from_is_a_gap() {
    let world = World::with_files();
    let names: Vec<_> = (0..3)
        .map(|n| {
            world.write("a.txt", format!("round {n}"));
            id(&world.backup()).to_owned()
        })
        .collect();
    world.run(["verify"]).ended(0);
    fs::remove_file(world.vault().join(format!("snapshots/{}.json", names[1]))).unwrap();
    let found = world.json(["verify"], 0);
    assert_eq!((&found["damage"], &found["gaps"]), (&json!([]), &json!([names[1]])));
    let ran = world.run(["verify"]);
    ran.ended(0).says("never copied here");
    assert!(ran.text().contains("no damage") && ran.text().contains(names[1].rsplit('-').next().unwrap()), "{ran:?}");
    // The others do not need it.
    world.restore_snapshot(&names[0], "first");
    world.restore_snapshot(&names[2], "last");
}

/// Packs whose frames are whole and whose seek tables are not: everything is read, and everybody says what is wrong.
#[test]
fn damaged_seek_tables_are_told_and_cost_nothing() {
    let world = World::with_files();
    let first = world.backup();
    world.write("a.txt", "second\n");
    let second = world.backup();
    let folders = ["packs", "index"].map(|folder| world.vault().join(folder));
    let packs: Vec<_> = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).collect();
    assert_eq!(packs.len(), 4);
    for pack in packs {
        let path = pack.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 0xff;
        fs::remove_file(&path).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let told = "the seek table of index/";
    let data = "the seek table of packs/";
    let ran = world.run(["ls", "latest"]);
    assert!(ran.ended(0).says(told).text().contains("a.txt"), "{ran:?}");
    assert_eq!(world.run(["cat", "latest", "a.txt"]).ended(0).says(told).says(data).text(), "second\n");
    let ran = world.run(["diff", short(&first), short(&second)]);
    assert!(ran.ended(0).says(told).text().contains("a.txt"), "{ran:?}");
    world.run(["export", "latest", "--output", "out.tar.zst"]).ended(0).says(told).says(data);
    world.run(["restore", "out"]).ended(0).says(told).says(data);
    assert_same(&world.data(), &world.path("out"));
    let report = world.json(["verify"], 4);
    let damage = report["damage"].as_array().unwrap();
    let without = |damage: &&Value| damage["why"].as_str().unwrap().contains("was found without it");
    assert_eq!((damage.len(), damage.iter().filter(without).count()), (4, 4), "{report}");

    // A backup names no index pack that is damaged, and stores its content again.
    let ran = world.run(["backup", "--json"]);
    let third: Value = serde_json::from_slice(&ran.ended(0).says("is not what was stored").stdout).unwrap();
    let report = world.json(["verify"], 4);
    let damage = report["damage"].as_array().unwrap();
    let hurt = |damage: &&Value| damage["snapshots"].as_array().unwrap().contains(&third["snapshot"]);
    assert_eq!((damage.len(), damage.iter().filter(hurt).count()), (4, 0), "{report}");
    world.restore("again");
    assert_same(&world.data(), &world.path("again"));
}
