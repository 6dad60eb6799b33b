//! Pins, and what a policy would let go: `pin`, `unpin` and `prune --dry-run`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::restore_by_hand;
use crate::support::cloud::server::{Answer, Fault, When};
use crate::support::cloud::small;
use crate::support::{Ran, World};

/// Asserts that stdout says something. Lines may be broken between any two words.
#[track_caller]
fn prints(ran: &Ran, what: &str) {
    let text = ran.text().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(what), "no {what:?} in {ran:?}");
}

/// A world with a vault of `count` snapshots, each with something new, and their ids, oldest first.
fn snapshots(count: usize) -> (World, Vec<String>) {
    let world = World::with_files();
    for n in 0..count {
        // Random bytes, so that each snapshot has a pack of some size that no other one names.
        let content: Vec<u8> = (0..20_000u64)
            .flat_map(|at| blake3::hash(&(at * 100 + n as u64).to_le_bytes()).as_bytes()[..4].to_vec())
            .collect();
        fs::write(world.data().join("new"), content).unwrap();
        world.backup();
    }
    let list = world.json(["list"], 0);
    let ids = list.as_array().unwrap().iter().rev().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    (world, ids)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect());
    entries.unwrap_or_default()
}

/// All files below a folder, but for reports.
fn tree(vault: &Path) -> Vec<String> {
    let folders = ["snapshots", "packs", "index", "pins", "holds", "unpins", "checkpoints"];
    let mut all: Vec<_> = folders.iter().flat_map(|folder| names(&vault.join(folder))).collect();
    all.sort();
    all
}

#[test]
fn a_dry_run_shows_what_goes_and_deletes_nothing() {
    let (world, ids) = snapshots(4);
    let before = tree(&world.vault());
    // Without a policy nothing goes.
    prints(world.run(["prune", "--dry-run"]).ended(0), "There is no policy, so nothing would go");
    let all = world.json(["prune", "--dry-run"], 0);
    assert_eq!(
        (&all["policy"], &all["let_go"], &all["kept"], &all["freed_bytes"]),
        (&Value::Null, &json!(0), &json!(4), &json!(0))
    );

    let done = world.json(["prune", "--dry-run", "--keep", "last=2,within=0"], 0);
    assert_eq!(
        (&done["policy"], &done["let_go"], &done["dry_run"]),
        (&json!("last=2,within=0"), &json!(2), &json!(true))
    );
    let kept: Vec<_> = done["snapshots"].as_array().unwrap().iter().map(|one| one["keep"].as_bool().unwrap()).collect();
    assert_eq!(kept, [false, false, true, true], "{done}");
    assert_eq!(done["snapshots"][0]["reasons"], json!(["0 older than the newest", "not one of the last 2"]));
    // The pack of the second snapshot, and the hunks of both. That of the first holds what has not changed since.
    let freed = done["freed_bytes"].as_u64().unwrap();
    assert!((80_000..90_000).contains(&freed), "{done}");
    assert_eq!((&done["stops"], &done["unreadable"]), (&json!([]), &json!([])));
    // More than half.
    let most = world.run(["prune", "--dry-run", "--keep", "last=1,within=0"]);
    let text = most.ended(0).text();
    prints(&most, "Would stop: more than half of the good snapshots would go: 3 of 4");
    assert!(text.contains("Policy last=1,within=0\n  hash ") && text.contains("deletes nothing yet"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains(&format!("{}  ", ids[3].rsplit('-').next().unwrap())), "{text}");
    // Without --dry-run it says that nothing is deleted.
    world.run(["prune", "--keep", "last=1"]).ended(2).says("deletes nothing yet");
    world.run(["prune", "--dry-run", "--keep", "last=0"]).ended(2).says("last=0 would keep none");
    assert_eq!(tree(&world.vault()), before);
}

#[test]
fn the_policy_comes_from_option_variable_file_and_other_scripts_variable() {
    let (world, _) = snapshots(3);
    let policy = |world: &World, args: &[&str]| {
        let args = [&["prune", "--dry-run"], args].concat();
        world.json(args.iter().copied(), 0)["policy"].clone()
    };
    fs::write(world.path("lastgood.toml"), "keep = \"daily=7\"\n").unwrap();
    assert_eq!(policy(&world, &[]), "daily=7");
    let world = world.with("MAX_LOCAL_BACKUPS", "2");
    assert_eq!(policy(&world, &[]), "daily=7");
    fs::remove_file(world.path("lastgood.toml")).unwrap();
    assert_eq!(policy(&world, &[]), "last=2");
    world
        .run(["prune", "--dry-run"])
        .ended(0)
        .says("MAX_LOCAL_BACKUPS=2 keeps 3 snapshots")
        .says("--keep last=2,within=0");
    let world = world.with("LASTGOOD_KEEP", "weekly=4");
    assert_eq!(policy(&world, &[]), "weekly=4");
    assert_eq!(policy(&world, &["--keep", "last=9"]), "last=9");
    let settings = world.json(["config", "prune"], 0);
    let keep = settings["settings"].as_array().unwrap().iter().find(|one| one["name"] == "keep").unwrap();
    assert_eq!((&keep["value"], &keep["variable"]), (&json!("weekly=4"), &json!("LASTGOOD_KEEP")));
}

#[test]
fn a_pin_keeps_a_snapshot_and_only_extends_until_it_is_taken_back() {
    let (world, ids) = snapshots(3);
    let oldest = &*ids[0];
    let of_oldest = || world.json(["prune", "--dry-run", "--keep", "last=1,within=0"], 0)["snapshots"][0].clone();
    assert_eq!(of_oldest()["keep"], false);

    let done = world.json(["pin", oldest, "--for", "30d", "--why", "before the move"], 0);
    let until = done["vaults"][0]["until"].clone();
    assert_eq!((names(&world.vault().join("pins")).len(), &done["vaults"][0]["pinned"]), (1, &json!(true)));
    let kept = of_oldest();
    assert_eq!((&kept["keep"], &kept["pinned"], &kept["pinned_until"]), (&json!(true), &json!(true), &until), "{kept}");
    // A shorter one changes nothing.
    prints(world.run(["pin", oldest, "--for", "10d"]).ended(0), "a pin only extends");
    assert_eq!(names(&world.vault().join("pins")).len(), 1);
    // A longer one than 90 days is a hold, and so is one without end.
    world.run(["pin", oldest, "--for", "91d"]).ended(0);
    assert_eq!(names(&world.vault().join("holds")).len(), 1);
    prints(world.run(["pin", oldest]).ended(0), "without end");
    let kept = of_oldest();
    assert_eq!((&kept["pinned"], &kept["pinned_until"]), (&json!(true), &Value::Null));
    prints(world.run(["pin", oldest, "--until", "2999-01-01"]).ended(0), "without end already");
    assert_eq!(names(&world.vault().join("holds")).len(), 2);

    prints(world.run(["unpin", oldest]).ended(0), "Took back the pins");
    assert_eq!((of_oldest()["keep"].clone(), names(&world.vault().join("unpins")).len()), (json!(false), 1));
    prints(world.run(["unpin", oldest]).ended(0), "is not pinned");
    // What is pinned afterwards holds again.
    world.run(["pin", oldest, "--for", "1d"]).ended(0);
    assert_eq!(of_oldest()["pinned"], true);
    assert_eq!(names(&world.vault().join("pins")).len(), 2);

    for wrong in [
        &["pin", oldest, "--until", "2001-01-01"][..],
        &["pin", oldest, "--for", "1y"],
        &["pin", "00000000", "--for", "1d"],
    ] {
        world.run(wrong.iter().copied()).ended(2);
    }
}

#[test]
fn what_cannot_be_read_is_named_and_keeps_what_its_name_tells() {
    let (world, ids) = snapshots(3);
    world.run(["pin", &ids[0]]).ended(0);
    let hold = world.vault().join("holds").join(&names(&world.vault().join("holds"))[0]);
    let text = fs::read_to_string(&hold).unwrap();
    // Bytes are replaced as a stranger would.
    let replace = |path: &Path, text: &str| {
        fs::remove_file(path).unwrap();
        fs::write(path, text).unwrap();
    };
    replace(&hold, "{}");
    let prune = ["prune", "--dry-run", "--keep", "last=1,within=0"];
    let done = world.json(prune, 4);
    assert_eq!(
        (&done["snapshots"][0]["keep"], &done["unreadable"][0]["damaged"]),
        (&json!(true), &json!(true)),
        "{done}"
    );
    assert!(done["unreadable"][0]["object"].as_str().unwrap().starts_with("holds/"), "{done}");
    replace(&hold, &text.replace("\"format\":1", "\"format\":9"));
    prints(world.run(prune).ended(1), "Would stop, since holds/");
    replace(&hold, &text);
    let root = world.vault().join(format!("snapshots/{}.json", ids[1]));
    let text = fs::read_to_string(&root).unwrap();
    replace(&root, &text[..text.len() / 2]);
    let done = world.json(prune, 4);
    assert_eq!(done["unreadable"][0]["object"], format!("snapshots/{}.json", ids[1]));
    assert_eq!(done["snapshots"].as_array().unwrap().len(), 2);
}

#[test]
fn the_folders_of_holds_and_unpins_are_nothing_to_those_who_do_not_know_them() {
    for sample in ["vaults/1", "vaults_older/vault"] {
        let world = World::new();
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(sample);
        assert!(std::process::Command::new("cp").arg("-a").arg(&sample).arg(world.vault()).status().unwrap().success());
        let list = world.json(["list"], 0);
        let id = list[0]["id"].as_str().unwrap();
        let script = world.vault().join("README.md");
        let readme = fs::read(&script).unwrap();
        for args in [&["pin", id][..], &["unpin", id], &["pin", id, "--for", "30d"]] {
            world.run(args.iter().copied()).ended(0);
        }
        for folder in ["pins", "holds", "unpins"] {
            assert!(!names(&world.vault().join(folder)).is_empty(), "{folder}");
        }
        assert_eq!((world.json(["list"], 0), fs::read(&script).unwrap()), (list, readme));
        world.run(["verify", "--read-data"]).ended(0);
        world.run(["prune", "--dry-run", "--keep", "last=1"]).ended(0);
        // The script that an older program put there.
        fs::write(world.path("restore.py"), restore_by_hand::script(&world.vault())).unwrap();
        let mut python = std::process::Command::new("python3");
        python
            .arg(world.path("restore.py"))
            .arg(world.vault())
            .arg(world.path("by hand"))
            .env("TMPDIR", world.path(""));
        let ran = Ran::of(python);
        ran.ended(0);
        assert!(fs::read_dir(world.path("by hand")).unwrap().count() > 0, "{ran:?}");
    }
}

#[test]
fn an_identity_that_may_not_pin_for_long_is_told_which_one_may() {
    let (server, world) = small();
    let snapshot = world.json(["list"], 0)[0]["id"].as_str().unwrap().to_owned();
    for folder in ["holds/", "unpins/"] {
        let refused = Answer::error(403, "forbidden", "writer does not have storage.objects.create access.");
        server.script(When::create(folder).always(), Fault::Answer(refused));
    }
    let error = world.json(["pin", &*snapshot], 1);
    assert_eq!(error["code"], "access-denied", "{error}");
    assert!(
        error["hint"].as_str().unwrap().contains("as the keeper or as a person, or pin it for 90 days or less"),
        "{error}"
    );
    world.run(["pin", &*snapshot, "--for", "90d"]).ended(0);
    assert!(server.names().iter().any(|name| name.contains("/pins/")));
    world.run(["unpin", &*snapshot]).ended(1).says("below unpins/").says("as the keeper or as a person");
    // It is pinned, then: by the time at which the bucket has it.
    let done = world.json(["prune", "--dry-run", "--keep", "last=1,within=0"], 0);
    assert_eq!(done["snapshots"][0]["pinned"], true, "{done}");
}
