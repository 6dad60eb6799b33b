//! What is mounted below the data directory and is no part of a snapshot: pseudo filesystems, and everything that is mounted there
//! with `--one-file-system`.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counter::without_terminal;
use crate::support::process::Running;
use crate::support::requirements::{Mounted, as_nobody};
use crate::support::tree::set_mode;
use crate::support::{World, id, paths};

/// Takes a snapshot, which must be good, and returns the report with what is in the snapshot.
fn backup(world: &World, more: &[&str]) -> (Value, Vec<String>) {
    let report = world.json([&["backup"], more].concat(), 0);
    assert_eq!(report["state"], "complete", "{report}");
    let listed = world.json(["ls", "-R", id(&report)], 0);
    let found = paths(&listed).into_iter().map(str::to_owned).collect();
    (report, found)
}

fn warnings(report: &Value) -> Vec<&str> {
    report["warnings"].as_array().into_iter().flatten().map(|warning| warning.as_str().unwrap()).collect()
}

/// The mounts that a snapshot says it holds.
fn held(world: &World, report: &Value) -> Value {
    let root = fs::read(world.vault().join("snapshots").join(format!("{}.json", id(report)))).unwrap();
    let root: Value = serde_json::from_slice(&root).unwrap();
    root["mounts"].as_array().into_iter().flatten().map(|mount| mount["path"].clone()).collect()
}

#[test]
fn pseudo_filesystems_are_left_out_by_what_they_are() {
    let world = World::new();
    // A folder of that name is data.
    world.write("x/proc/1/status", "mine");
    let Some(proc) = Mounted::of("proc", world.data().join("kernel")) else { return };
    let others = ["sysfs", "devtmpfs", "cgroup2", "mqueue", "debugfs", "tracefs", "securityfs", "devpts", "bpf"];
    // Not every machine has all of them.
    let mounted: Vec<_> =
        others.iter().filter_map(|kind| Mounted::try_of(kind, world.data().join(format!("is {kind}")))).collect();
    let Some(_memory) = Mounted::new(world.data().join("memory"), "1m") else { return };
    world.write("memory/kept", "kept");
    world.write("version", "");
    let Some(_file) = Mounted::bind("/proc/version".as_ref(), world.data().join("version")) else { return };
    let (report, found) = backup(&world, &[]);
    let mut expected: Vec<String> =
        ["kernel", "memory", "memory/kept", "x", "x/proc", "x/proc/1"].map(String::from).into();
    expected.push("x/proc/1/status".into());
    expected.extend(others.map(|kind| format!("is {kind}")));
    let sorted = |mut all: Vec<String>| {
        all.sort();
        all
    };
    assert_eq!(sorted(found), sorted(expected));
    let told = warnings(&report);
    assert!(told.len() == 1 && told[0].contains("left out") && told[0].contains("proc"), "{told:?}");
    assert_eq!(held(&world, &report), json!(["memory"]));
    // `doctor` measures what a backup would read.
    let told = world.json(["doctor"], 0).to_string();
    assert!(!told.contains("could not be read"), "{told}");
    // A restore has the folders, so that they can be mounted there again.
    world.restore("out");
    assert!(world.path("out/kernel").read_dir().unwrap().next().is_none());
    // It is no volume that is missed.
    drop((proc, mounted));
    let (report, _) = backup(&world, &[]);
    assert!(report["suspect"].is_null(), "{report}");
}

/// A world with a volume mounted in the data, a folder of the same filesystem that is mounted there once more, and a file.
fn with_volumes(world: &World) -> Option<[Mounted; 3]> {
    world.write("a", "a");
    world.write("sub/b", "b");
    world.write("config", "below");
    fs::create_dir_all(world.path("shared/c")).unwrap();
    fs::create_dir(world.data().join("shared")).unwrap();
    fs::write(world.path("one"), "of the host").unwrap();
    let volume = Mounted::new(world.data().join("sub/uploads"), "1m")?;
    world.write("sub/uploads/x/picture", "picture");
    let shared = Mounted::bind(&world.path("shared"), world.data().join("shared"))?;
    let file = Mounted::bind(&world.path("one"), world.data().join("config"))?;
    Some([volume, shared, file])
}

const ALL: [&str; 9] =
    ["a", "config", "shared", "shared/c", "sub", "sub/b", "sub/uploads", "sub/uploads/x", "sub/uploads/x/picture"];
const ONE: [&str; 5] = ["a", "shared", "sub", "sub/b", "sub/uploads"];

#[test]
fn one_file_system_leaves_out_what_is_mounted_below() {
    let world = World::new();
    let Some(mounted) = with_volumes(&world) else { return };
    let (report, found) = backup(&world, &[]);
    assert_eq!((found, warnings(&report)), (ALL.map(String::from).into(), vec![]));
    let (report, found) = backup(&world, &["--one-file-system"]);
    assert_eq!(found, ONE);
    let told = warnings(&report).join("\n");
    assert!(told.contains("config, shared, sub/uploads: left out, since something is mounted there"), "{told}");
    assert!(told.contains("other entries are chosen") && told.contains("--one-file-system"), "{told}");
    assert_eq!(held(&world, &report), json!([]));
    assert_eq!(world.json(["list"], 0)[0]["filters"]["one_file_system"], true);
    // What changes on the volume is not looked at, neither by a backup nor by what an app's start is decided by.
    world.write("sub/uploads/later", "later");
    let (report, found) = backup(&world, &["--one-file-system"]);
    assert_eq!(found, ONE);
    assert_eq!(warnings(&report).len(), 1, "{report}");
    // The variable and the file say it as well.
    let asked = World::with(world, "LASTGOOD_ONE_FILE_SYSTEM", "true");
    assert_eq!(backup(&asked, &[]).1, ONE);
    let asked = asked.with("LASTGOOD_ONE_FILE_SYSTEM", "");
    fs::write(asked.path("lastgood.toml"), "[backup]\none-file-system = true\n").unwrap();
    assert_eq!(backup(&asked, &[]).1, ONE);
    fs::remove_file(asked.path("lastgood.toml")).unwrap();
    // What it does not have cannot be restored from it.
    let refused = asked.run(["restore", "--in-place"]);
    refused.ended(2).says("the snapshot has nothing of what was mounted there (--one-file-system)");
    assert!(!refused.stderr.contains("--path"), "{refused:?}");
    asked.restore("out");
    assert!(asked.path("out/sub/uploads").read_dir().unwrap().next().is_none());
    // A volume that the snapshot does not hold is not missed; one that it holds is.
    drop(mounted);
    let (_, found) = backup(&asked, &["--one-file-system"]);
    assert!(found.contains(&"config".to_owned()), "what was hidden is data: {found:?}");
    let [volume, shared, file] = with_mounted_again(&asked);
    backup(&asked, &[]);
    drop((volume, shared, file));
    let missed = asked.json(["backup"], 3);
    assert!(missed["suspect"].as_str().unwrap().contains("not mounted at"), "{missed}");
    backup(&asked, &["--one-file-system"]);
}

/// Mounts again what was unmounted.
fn with_mounted_again(world: &World) -> [Mounted; 3] {
    fs::create_dir_all(world.path("volume/x")).unwrap();
    let bind = |from: &str, to: &str| Mounted::bind(&world.path(from), world.data().join(to)).unwrap();
    [bind("volume", "sub/uploads"), bind("shared", "shared"), bind("one", "config")]
}

#[test]
fn a_directory_of_which_only_a_volume_changed_is_as_its_snapshot_is() {
    let world = World::new();
    let Some(_mounted) = with_volumes(&world) else { return };
    backup(&world, &["--one-file-system"]);
    world.run(["restore", "--around-mounts"]).ended(0);
    let state = || world.json(["state"], 0)["state"].as_str().unwrap().to_owned();
    assert_eq!(state(), "fresh");
    world.write("sub/uploads/later", "later");
    assert_eq!(state(), "fresh");
    world.write("a", "later");
    assert_eq!(state(), "ahead");
}

#[test]
fn what_a_snapshot_left_out_is_carried_over_from_an_older_one() {
    let world = World::new();
    world.write("a", "a");
    let Some(_volume) = Mounted::new(world.data().join("volume"), "1m") else { return };
    world.write("volume/kept", "kept");
    for folder in ["", "data", "data/volume"] {
        set_mode(&world.path(folder), 0o777);
    }
    let backup = |more: &[&str], code: i32| {
        let ran = as_nobody(&world, &[&["backup", "data", "--vault", "backups", "--json"], more].concat())?;
        ran.ended(code);
        Some(serde_json::from_slice::<Value>(&ran.stdout).unwrap())
    };
    let Some(_) = backup(&[], 0) else { return };
    backup(&["--one-file-system"], 0).unwrap();
    set_mode(&world.data().join("volume/kept"), 0o000);
    let report = backup(&[], 3).unwrap();
    assert_eq!((&report["stale"][0]["path"], &report["errors"]), (&json!("volume/kept"), &json!([])), "{report}");
    assert_eq!(world.run(["cat", "latest", "volume/kept"]).ended(0).text(), "kept");
}

#[test]
fn what_is_mounted_below_a_pseudo_filesystem_is_left_out_with_it() {
    let world = World::new();
    world.write("a", "a");
    let Some(_kernel) = Mounted::of("proc", world.data().join("kernel")) else { return };
    // As a disk at `dev/shm/disk` is: the folder is one that the pseudo filesystem has.
    fs::create_dir(world.path("disk")).unwrap();
    fs::write(world.path("disk/kept"), "kept").unwrap();
    let at = world.data().join("kernel/tty");
    let Some(mounted) = Mounted::bind(&world.path("disk"), at.clone()) else { return };
    assert!(at.join("kept").exists());
    let (report, found) = backup(&world, &[]);
    assert_eq!(found, ["a", "kernel"]);
    let told = warnings(&report);
    assert!(told.len() == 1 && told[0].starts_with("kernel: left out, since what is mounted there (proc)"), "{told:?}");
    // It is held by no snapshot, and so missed by none.
    assert_eq!(held(&world, &report), json!([]));
    drop(mounted);
    let (report, _) = backup(&world, &[]);
    assert!(report["suspect"].is_null(), "{report}");
}

#[test]
fn what_one_file_system_leaves_out_is_no_fresh_data_and_no_critical_file() {
    let world = World::new();
    world.write("a", "a");
    let Some(_volume) = Mounted::new(world.data().join("volume"), "1m") else { return };
    world.write("volume/critical.csv", "1");
    let app = "n=0; while [ ! -e end ]; do n=$((n+1)); echo $n > data/volume/n; sleep 0.05; done";
    let start = |more: &[&str]| {
        let watch = ["--data-freshness", "1s", "--critical-file", "volume/critical.csv", "--critical-file", "**/*.csv"];
        let args = [&["run", "--init", "--every", "off"], &watch[..], more, &["--", "sh", "-c", app]].concat();
        Running::start(without_terminal(&world.command(args)), "the app has started")
    };
    let end = |mut run: Running| {
        fs::write(world.path("end"), "").unwrap();
        assert_eq!(run.wait().0, Some(0), "{}", run.log());
        fs::remove_file(world.path("end")).unwrap();
        run.log()
    };
    let run = start(&["--one-file-system"]);
    run.log_with("nothing was written to the data directory for more than 1 s");
    fs::remove_file(world.data().join("volume/critical.csv")).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let log = end(run);
    assert!(!log.contains("the critical file"), "{log}");
    world.write("volume/critical.csv", "1");
    let run = start(&[]);
    std::thread::sleep(Duration::from_secs(3));
    fs::remove_file(world.data().join("volume/critical.csv")).unwrap();
    run.log_with("the critical file volume/critical.csv is gone");
    let log = end(run);
    assert!(!log.contains("nothing was written"), "{log}");
}
