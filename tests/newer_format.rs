//! Snapshots that a newer lastgood wrote: they are no damage, and nothing older is taken in their place unasked.

use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use lastgood::vault::root::SnapshotName;
use serde_json::{Value, json};

use crate::support::compare::assert_same;
use crate::support::doctor::assert_check;
use crate::support::http::Service;
use crate::support::{World, id, number, short};

const TOLD: &str =
    concat!("it was written by a newer lastgood (format 2; this one, ", env!("CARGO_PKG_VERSION"), ", reads format 1)");
const BOTH: [&str; 4] = ["--vault", "one", "--vault", "two"];

/// Returns the names of the objects in a folder of a vault.
fn objects(vault: &Path, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(vault.join(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Stores a root of the next format in `folder` of a vault: of the snapshot, with the next number, and with fields that this
/// program does not know in place of those that it needs. Returns its name.
fn newer(vault: &Path, snapshot: &str, folder: &str) -> String {
    let root = fs::read(vault.join("snapshots").join(format!("{snapshot}.json"))).unwrap();
    let mut root: Value = serde_json::from_slice(&root).unwrap();
    let seq = number(&root, "seq") + 1;
    (root["format"], root["seq"]) = (json!(2), json!(seq));
    let finished: Timestamp = root["finished"].as_str().unwrap().parse().unwrap();
    let fields = root.as_object_mut().unwrap();
    fields.retain(|name, _| !["state", "hunks", "packs"].contains(&name.as_str()));
    fields.insert("sealed".into(), json!("0123"));
    let bytes = format!("{root}\n");
    let name = SnapshotName::of(seq, finished, bytes.as_bytes()).to_string();
    fs::create_dir_all(vault.join(folder)).unwrap();
    fs::write(vault.join(folder).join(format!("{name}.json")), bytes).unwrap();
    name
}

/// Spoils the bytes of every object in a folder of a vault whose name contains `part`.
fn spoil(vault: &Path, folder: &str, part: &str) {
    for name in objects(vault, folder).iter().filter(|name| name.contains(part)) {
        let path = vault.join(folder).join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 3;
        bytes[at] ^= 0xff;
        fs::remove_file(&path).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Returns the id that ends a snapshot's name.
fn id_of(name: &str) -> &str {
    name.rsplit('-').next().unwrap()
}

#[test]
fn a_restore_does_not_go_back_behind_a_newer_format_unasked() {
    let world = World::with_everything();
    let good = world.backup();
    let newer = newer(&world.vault(), id(&good), "snapshots");
    let target = world.path("target");
    for more in [
        &[][..],
        &["--if-missing"],
        &["--if-older", "1h"],
        &["--in-place"],
        &["--dry-run"],
        &["--skip-damaged"],
        &["--snapshot", "latest"],
        &["--snapshot", "2100-01-01T00:00:00Z"],
        &["--snapshot", id_of(&newer)],
    ] {
        let ran = world.run([&["restore"][..], more, &["target"]].concat());
        ran.ended(1).says(TOLD).says("[newer-format]").says("Use a version of lastgood that reads format 2.");
        let named = more.contains(&id_of(&newer));
        assert_eq!(ran.stderr.contains("`--snapshot ID`"), !named, "{more:?}: {ran:?}");
        assert!(!target.exists(), "{more:?}");
    }
    let told = world.json(["restore", "target"], 1);
    assert_eq!((&told["kind"], &told["code"]), (&json!("failed"), &json!("newer-format")), "{told}");
    // What is there is not asked for.
    world.run(["restore", "--if-missing", "data"]).ended(0);
    // An older one on purpose.
    world.restore_snapshot(short(&good), "target");
    assert_same(&world.data(), &target);
}

#[test]
fn a_backup_builds_on_nothing_that_is_older_than_a_newer_format() {
    let world = World::with_files();
    let good = world.backup();
    newer(&world.vault(), id(&good), "snapshots");
    let before = objects(&world.vault(), "snapshots");
    world.write("a.txt", "changed\n");
    let ran = world.run(["backup"]);
    ran.ended(1).says("build on the newest snapshot").says(TOLD).says("[newer-format]").says("use a new vault");
    assert_eq!(world.json(["backup"], 1)["code"], "newer-format");
    assert_eq!(objects(&world.vault(), "snapshots"), before);
    // The run's report tells the same.
    let runs = world.json(["runs"], 0);
    let failed: Vec<_> = runs.as_array().unwrap().iter().filter(|run| run["result"] == "failed").collect();
    assert_eq!(failed.len(), 2, "{runs}");
    assert!(failed.iter().all(|run| run["error"]["code"] == "newer-format"), "{runs}");
}

#[test]
fn a_newer_format_is_no_damage() {
    let world = World::with_files();
    let good = world.backup();
    let newer = newer(&world.vault(), id(&good), "snapshots");
    let object = format!("snapshots/{newer}.json");

    let verified = world.json(["verify", "--read-data"], 1);
    assert_eq!((&verified["damage"], &verified["newest_good"]), (&json!([]), &Value::Null), "{verified}");
    assert_eq!(verified["newer_format"], json!([{ "object": object, "why": TOLD }]), "{verified}");
    let text = world.run(["verify", "--databases"]);
    assert!(text.ended(1).text().contains("no damage, 1 NOT VERIFIED: of a newer format"), "{text:?}");
    assert!(text.text().contains(&format!("{object}: {TOLD}")), "{text:?}");
    let quiet = world.run(["verify", "--quiet"]);
    quiet.ended(1).says("ERROR 1 root of a newer format in ").says("a newer version of lastgood reads what it wrote");
    assert!(quiet.stdout.is_empty(), "{quiet:?}");
    assert!(!world.vault().join("doubts").exists());

    let list = world.run(["list"]);
    let row = list.ended(1).says("1 snapshot of a newer format").text().lines().nth(1).unwrap();
    assert!(row.starts_with(id_of(&newer)) && row.contains("newer format") && !row.contains("damage"), "{list:?}");
    let list = world.json(["list"], 1);
    assert_eq!((&list[0]["newer_format"], &list[0]["damage"]), (&json!(TOLD), &Value::Null), "{list}");
    assert_eq!(list[1]["state"], "complete");

    let copy = ["copy", "--init", "--from", "backups", "--to", "copy"];
    let copied = world.json(copy, 1);
    assert_eq!(copied["snapshots"], json!([good["snapshot"]]), "{copied}");
    assert_eq!(copied["not_copied"][0]["snapshot"], json!(newer), "{copied}");
    let again = world.run(copy);
    assert!(again.ended(1).text().contains("NOT COPIED") && again.text().contains(TOLD), "{again:?}");
    let quiet = world.run([&copy[..], &["--quiet"]].concat());
    quiet.ended(1).says("ERROR 1 snapshot of a newer format in ");
    assert!(quiet.stdout.is_empty(), "{quiet:?}");

    assert_check(&world.json(["doctor"], 1), "snapshots", "problem", TOLD, "reads format 2");
    assert_check(&world.json(["doctor"], 1), "restore", "problem", &newer, "restore --snapshot ID");
    assert_check(&world.json(["doctor", "--only", "age"], 1), "age", "problem", TOLD, "reads format 2");
    let told = Service::start(&world, []).get("/health").is(503);
    let why =
        format!("has no snapshot that this version may restore: could not read the root of snapshot {newer}: {TOLD}");
    assert!(told["why"].to_string().contains(&why) && !told["why"].to_string().contains("cannot be opened"), "{told}");
    let vault = &told["vaults"][0];
    assert_eq!(
        (&vault["reachable"], &vault["error"], &vault["seen_seconds_ago"]),
        (&json!(true), &Value::Null, &json!(0))
    );
}

#[test]
fn a_newer_format_matters_only_to_what_is_older() {
    let world = World::with_files();
    let first = world.backup();
    // Numbers are seconds: there is room for one between the two.
    std::thread::sleep(Duration::from_millis(2100));
    world.write("a.txt", "changed\n");
    world.write("new", "0123456789".repeat(10));
    let last = world.backup();
    let newer = newer(&world.vault(), id(&first), "snapshots");
    assert!(*id(&first) < *newer && *newer < *id(&last));
    world.restore("target");
    assert_same(&world.data(), &world.path("target"));
    let next = world.backup();
    assert_eq!(next["parent"], last["snapshot"]);
    let verified = world.json(["verify"], 1);
    assert_eq!(verified["newest_good"]["snapshot"], next["snapshot"], "{verified}");

    // What the newest two need is damaged: nothing is restored that is older than the one between.
    let packs = objects(&world.vault(), "packs");
    let first_root = fs::read_to_string(world.vault().join(format!("snapshots/{}.json", id(&first)))).unwrap();
    packs.iter().filter(|pack| !first_root.contains(&pack[..32])).for_each(|pack| spoil(&world.vault(), "packs", pack));
    let ran = world.run(["restore", "other"]);
    ran.ended(4).says("no older snapshot is restored in place of").says(&newer);
    // And their roots.
    spoil(&world.vault(), "snapshots", id_of(id(&next)));
    spoil(&world.vault(), "snapshots", id_of(id(&last)));
    let ran = world.run(["restore", "other"]);
    ran.ended(1).says(TOLD).says(id_of(&newer));
    assert!(!world.path("other").exists());
    world.run(["backup"]).ended(1).says(TOLD);
    world.restore_snapshot(short(&first), "other");
}

#[test]
fn a_newer_format_below_a_good_snapshot_of_other_data_or_in_another_vault_stops_no_backup() {
    let world = World::with_files();
    let first = world.json([&["backup", "--init"], &BOTH[..]].concat(), 0);
    std::thread::sleep(Duration::from_millis(2100));
    let last = world.json(["backup", "--vault", "two"], 0);
    let newer = newer(&world.path("one"), id(&first), "snapshots");
    assert!(*id(&first) < *newer && *newer < *id(&last));
    let next = world.json([&["backup"], &BOTH[..]].concat(), 0);
    assert_eq!(next["parent"], last["snapshot"]);

    // No snapshot of this path is there, but a good one of another: it is what a restore takes.
    fs::rename(world.data(), world.path("other")).unwrap();
    let ran = world.run(["backup", "--vault", "one", "other"]);
    ran.ended(0).says(&format!("the snapshot {newer} is passed over")).says(TOLD);
    let ran = world.run(["backup", "--vault", "one", "--service", "web", "other"]);
    assert!(!ran.ended(0).stderr.contains("passed over"), "{ran:?}");
}

#[test]
fn a_checkpoint_of_a_newer_format_is_passed_over() {
    let world = World::with_files();
    let first = world.backup();
    let newer = newer(&world.vault(), id(&first), "checkpoints");
    let verified = world.json(["verify"], 1);
    assert_eq!(verified["newer_format"][0]["object"], json!(format!("checkpoints/{newer}.json")), "{verified}");
    assert_eq!(verified["newest_good"]["snapshot"], first["snapshot"]);
    let ran = world.run(["backup"]);
    ran.ended(0).says(&format!("the checkpoint {newer} is passed over")).says(TOLD);
    world.run(["list"]).ended(0);
}

#[test]
fn a_newer_format_in_one_of_several_vaults_holds_for_all() {
    let world = World::with_files();
    let with = |args: &[&'static str]| [args, &BOTH[..]].concat();
    let good = world.json(with(&["backup", "--init"]), 0);
    let (one, two) = (world.path("one"), world.path("two"));
    let newer = newer(&one, id(&good), "snapshots");
    let before = [objects(&one, "snapshots"), objects(&two, "snapshots")];
    let refused = |world: &World| {
        for vaults in [BOTH, [BOTH[2], BOTH[3], BOTH[0], BOTH[1]]] {
            for more in [
                &["restore", "target"][..],
                &["restore", "--if-missing", "target"],
                &["restore", "--dry-run", "target"],
            ] {
                world.run([more, &vaults].concat()).ended(1).says(TOLD).says("`--snapshot ID`");
                assert!(!world.path("target").exists());
            }
            world.run([&["backup"], &vaults[..]].concat()).ended(1).says(TOLD);
            assert_eq!([objects(&one, "snapshots"), objects(&two, "snapshots")], before);
        }
    };
    refused(&world);
    // It is as well if the second vault has a damaged copy.
    fs::write(two.join(format!("snapshots/{newer}.json")), "{}").unwrap();
    world.run(with(&["restore", "target"])).ended(1).says(TOLD);
    world.run([&["restore", "--snapshot"], &[id_of(&newer), "target"], &BOTH[..]].concat()).ended(1).says(TOLD);
    fs::remove_file(two.join(format!("snapshots/{newer}.json"))).unwrap();
    let verified = world.json(with(&["verify"]), 1);
    assert_eq!(verified["vaults"][0]["newer_format"][0]["why"], json!(TOLD), "{verified}");
    assert_eq!(verified["vaults"][1]["newer_format"], json!([]), "{verified}");
    let named = [&["restore", "--snapshot"], &[short(&good), "target"], &BOTH[..]].concat();
    world.run(&named).ended(0);
    fs::remove_dir_all(world.path("target")).unwrap();

    // A newer root in the other vault that no restore takes, as it is suspect or damaged, changes nothing.
    std::thread::sleep(Duration::from_millis(2100));
    fs::rename(world.data(), world.path("kept")).unwrap();
    fs::create_dir(world.data()).unwrap();
    let suspect = world.json(["backup", "--vault", "two"], 3);
    assert!(*id(&suspect) > *newer && suspect["state"] == "suspect", "{suspect}");
    fs::remove_dir(world.data()).unwrap();
    fs::rename(world.path("kept"), world.data()).unwrap();
    let with_suspect = [objects(&one, "snapshots"), objects(&two, "snapshots")];
    for spoilt in [false, true] {
        if spoilt {
            spoil(&two, "snapshots", id_of(id(&suspect)));
        }
        for vaults in [BOTH, [BOTH[2], BOTH[3], BOTH[0], BOTH[1]]] {
            let ran = world.run([&["backup"], &vaults[..]].concat());
            ran.ended(1).says("build on the newest snapshot of the vault").says(TOLD).says("use a new vault");
            assert_eq!([objects(&one, "snapshots"), objects(&two, "snapshots")], with_suspect, "{spoilt}");
        }
    }
    fs::remove_file(two.join(format!("snapshots/{}.json", id(&suspect)))).unwrap();

    // The whole vault.
    fs::remove_file(one.join("vault.json")).unwrap();
    fs::write(one.join("vault.json"), "{\"format\":2}\n").unwrap();
    refused(&world);
    world.run(&named).ended(0);
    assert_same(&world.data(), &world.path("target"));
}
