//! What a data directory is before an app starts in it: `state` and `seed`.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{World, id, short};

/// The state, action and reason of a directory that is told with this exit code.
fn state<'a>(world: &World, args: impl IntoIterator<Item = &'a str>, code: i32) -> Value {
    world.json(["state"].into_iter().chain(args), code)
}

#[test]
fn a_directory_is_told_from_its_first_start_on() {
    let world = World::new();
    let none = state(&world, [], 1);
    assert!(none["state"] == "no-vault" && none["action"] == "refuse", "{none}");
    world.json(["init"], 0);
    let first = state(&world, [], 5);
    assert_eq!(
        (&first["state"], &first["action"], &first["save"]),
        (&json!("first-start"), &json!("start"), &json!(false))
    );
    world.write("a.txt", "first\n");
    assert_eq!(state(&world, [], 5)["save"], true);
    let taken = world.backup();
    let fresh = state(&world, [], 0);
    assert_eq!((&fresh["state"], &fresh["save"]), (&json!("fresh"), &json!(false)), "{fresh}");
    world.write("a.txt", "second\n");
    let ahead = state(&world, [], 0);
    assert_eq!((&ahead["state"], &ahead["save"]), (&json!("ahead"), &json!(true)), "{ahead}");
    assert!(ahead["compared"].to_string().contains("a.txt (changed)"), "{ahead}");
    fs::remove_dir_all(world.data()).unwrap();
    let missing = state(&world, [], 3);
    assert_eq!((&missing["state"], &missing["action"]), (&json!("missing"), &json!("restore")), "{missing}");
    assert_eq!((&missing["snapshot"], &missing["save_first"]), (&json!(id(&taken)), &Value::Null));
    // Nothing was changed by looking.
    assert!(!world.data().exists());
}

#[test]
fn a_restored_directory_is_fresh_and_one_of_unknown_origin_is_saved_first() {
    let world = World::with_files();
    world.backup();
    fs::remove_dir_all(world.data()).unwrap();
    world.json(["restore"], 0);
    assert_eq!(state(&world, [], 0)["state"], "fresh");
    fs::rename(world.data(), world.path("was")).unwrap();
    world.write("a.txt", "of an image\n");
    let unknown = state(&world, [], 3);
    assert_eq!((&unknown["state"], &unknown["save_first"]), (&json!("unknown"), &json!("unknown")), "{unknown}");
    let kept = state(&world, ["--on-unknown", "keep"], 3);
    assert!(kept["action"] == "keep" && kept["pin"].is_string(), "{kept}");
    let failed = world.run(["state", "--on-unknown", "fail"]);
    failed.ended(1);
    assert!(failed.text().contains("does NOT start the app. --on-unknown fail asks"), "{failed:?}");
    for line in failed.text().lines().filter(|line| !line.contains('/')) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn the_data_of_an_image_yields_until_something_writes_to_it() {
    let world = World::with_files();
    world.backup();
    fs::rename(world.data(), world.path("was")).unwrap();
    world.run(["seed", "data"]).ended(1).says("does not exist");
    world.write("a.txt", "of an image\n");
    let marked = world.json(["seed", "data"], 0);
    assert_eq!((&marked["files"], &marked["bytes"]), (&json!(1), &json!(12)));
    let seed = state(&world, [], 3);
    assert_eq!((&seed["state"], &seed["save_first"]), (&json!("seed"), &Value::Null), "{seed}");
    world.write("rows", "1\n");
    assert_eq!(state(&world, [], 3)["save_first"], "unknown");
    // The mark is lastgood's own, and in no snapshot.
    let again = world.run(["seed", "data"]);
    again.ended(0);
    assert!(
        again.text().contains("holds    2 files") && again.text().lines().all(|line| line.len() <= 80),
        "{again:?}"
    );
}

#[test]
fn a_vault_that_cannot_be_reached_starts_no_app_without_its_data() {
    let world = World::with_files().on("http://127.0.0.1:9", "gs://nowhere/app").with("LASTGOOD_STORE_TIMEOUT", "1s");
    let there = state(&world, [], 0);
    assert_eq!((&there["state"], &there["action"]), (&json!("unreachable"), &json!("start")), "{there}");
    state(&world, ["--on-unreachable", "fail"], 1);
    fs::remove_dir_all(world.data()).unwrap();
    let missing = state(&world, [], 1);
    assert!(
        missing["action"] == "refuse" && missing["advice"].to_string().contains("--on-unreachable start"),
        "{missing}"
    );
    assert_eq!(state(&world, ["--on-unreachable", "start"], 0)["action"], "start");
}

#[test]
fn no_good_snapshot_starts_no_app_until_one_is_chosen() {
    let world = World::with_files();
    world.json(["init"], 0);
    fs::rename(world.data(), world.path("was")).unwrap();
    fs::create_dir(world.data()).unwrap();
    let empty = world.json(["backup"], 3);
    let none = state(&world, [], 1);
    assert!(none["state"] == "none-good" && none["advice"].to_string().contains(short(&empty)), "{none}");
    let chosen = state(&world, ["--snapshot", short(&empty)], 3);
    assert_eq!((&chosen["action"], &chosen["named"]), (&json!("restore"), &json!(true)), "{chosen}");
}

#[test]
fn what_is_no_directory_and_what_is_not_mounted_is_an_error() {
    let world = World::with_files();
    world.backup();
    world.run(["state", "data/a.txt"]).ended(1).says("not a directory");
    // Nothing is mounted at or above it but the root of all.
    let data = "/lastgood-no-such-folder/data";
    let unmounted = state(&world, ["--require-mount", data], 1);
    assert!(unmounted["state"] == "not-mounted" && unmounted["data"] == data, "{unmounted}");
}

#[test]
fn a_damaged_database_shows_when_it_is_asked_for() {
    let world = World::new();
    fs::create_dir(world.data()).unwrap();
    crate::support::database::orders(&world.data().join("app.db"), 4096, 500_000);
    world.backup();
    let sound = state(&world, ["--check-at-start"], 0);
    assert!(sound["compared"].to_string().contains("1 database passed the check"), "{sound}");
    let path = world.data().join("app.db");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 65536].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let broken = state(&world, ["--check-at-start=full"], 3);
    assert_eq!((&broken["state"], &broken["save_first"]), (&json!("broken"), &json!("broken")), "{broken}");
}

#[test]
fn a_copy_by_another_program_is_known_by_its_content() {
    let world = World::with_files();
    world.backup();
    let original = world.path("original");
    fs::rename(world.data(), &original).unwrap();
    assert!(Command::new("cp").arg("-a").args([&original, &world.data()]).status().unwrap().success());
    assert_eq!(state(&world, [], 0)["state"], "fresh");
}

#[test]
fn a_job_beside_the_app_leaves_the_directory_fresh_unless_it_was_put_back() {
    let world = World::with_files();
    world.backup();
    fs::remove_dir_all(world.data()).unwrap();
    world.json(["restore"], 0);
    let copy = |from: &str, to: &str| {
        let copied = Command::new("cp").arg("-a").args([world.path(from), world.path(to)]).status().unwrap();
        assert!(copied.success());
    };
    copy("data", "older");
    world.write("new.txt", "new\n");
    let taken = world.backup();
    let fresh = state(&world, [], 0);
    assert!(fresh["state"] == "fresh" && fresh["why"].to_string().contains("records the serial"), "{fresh}");
    // All of it, on a new disk.
    copy("data", "moved");
    fs::rename(world.data(), world.path("was")).unwrap();
    fs::rename(world.path("moved"), world.data()).unwrap();
    assert_eq!(state(&world, [], 0)["state"], "fresh");
    // An older state of it, with the same lineage.
    fs::rename(world.data(), world.path("was moved")).unwrap();
    copy("older", "data");
    let put_back = state(&world, [], 3);
    assert_eq!((&put_back["state"], &put_back["save_first"]), (&json!("diverged"), &json!("diverged")), "{put_back}");
    assert!(put_back["snapshot"] == id(&taken) && put_back["why"].to_string().contains("new.txt"), "{put_back}");
}
