//! Targets in which something is mounted, and targets of a container's image: what can be exchanged, what is filled, what
//! stays.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::compare::{assert_same, differences};
use crate::support::requirements::{Mounted, skipped};
use crate::support::tree::set_mode;
use crate::support::{MARKED, World};

/// Returns the names in a folder, without what a restore keeps for itself.
fn names(folder: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lastgood").collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// A file or folder that cannot be moved, until it is dropped.
struct Immutable(PathBuf);

impl Immutable {
    /// `None`, after printing why, if it is not available.
    fn new(path: PathBuf) -> Option<Self> {
        let made = Command::new("chattr").arg("+i").arg(&path).output();
        if made.as_ref().is_ok_and(|made| made.status.success()) {
            return Some(Immutable(path));
        }
        skipped("immutable-files", &format!("nothing can be made immutable here: {made:?}"));
        None
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

/// Makes a data directory with a volume mounted in it, deep, and its snapshot.
fn with_volume(world: &World) -> Option<Mounted> {
    world.write("a.txt", "a");
    fs::create_dir(world.data().join("deep")).unwrap();
    let mounted = Mounted::new(world.data().join("deep/uploads"), "16m")?;
    world.write("deep/uploads/picture", "picture");
    world.write("deep/beside", "beside");
    set_mode(&world.data().join("deep"), 0o750);
    world.backup();
    world.write("a.txt", "later");
    world.write("deep/new", "new");
    world.write("deep/uploads/later", "later");
    fs::remove_file(world.data().join("deep/beside")).unwrap();
    Some(mounted)
}

#[test]
fn a_volume_in_the_target_is_never_moved_away() {
    let world = World::new();
    let Some(_mounted) = with_volume(&world) else { return };
    for args in [&["restore"][..], &["restore", "--in-place"], &["restore", "--path", "deep"]] {
        world.run(args).ended(2).says("deep/uploads").says("--around-mounts").says("--path deep/uploads");
    }
    assert_eq!(names(&world.data()), set(["a.txt", "deep"]));
    let told = world.json(["doctor"], 0).to_string();
    for said in ["at deep/uploads", "--around-mounts", "--path deep/uploads"] {
        assert!(told.contains(said), "{told}");
    }
    assert_eq!(text(&world.data().join("a.txt")), "later");

    let told = world.json(["restore", "--around-mounts", "--dry-run"], 0);
    assert_eq!(told["kept"], serde_json::json!(["deep/uploads"]));
    assert_eq!(told["gone"]["first"], serde_json::json!(["deep/new"]));
    let report = world.json(["restore", "--around-mounts"], 0);
    assert_eq!(report["kept"], serde_json::json!(["deep/uploads"]));
    assert_eq!(text(&world.data().join("a.txt")), "a");
    assert_eq!(names(&world.data().join("deep")), set(["beside", "uploads"]));
    assert_eq!(names(&world.data().join("deep/uploads")), set(["later", "picture"]), "the volume is as it was");
    let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
    assert_eq!((text(&aside.join("a.txt")), text(&aside.join("deep/new"))), ("later".into(), "new".into()));
    assert!(!world.data().join(".lastgood-in-place").exists());
    let mode =
        |path: &str| std::os::unix::fs::MetadataExt::mode(&fs::metadata(world.data().join(path)).unwrap()) & 0o777;
    assert_eq!(mode("deep"), 0o750);

    // The other half: what is on the volume.
    let report = world.json(["restore", "--path", "deep/uploads"], 0);
    let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
    assert!(aside.starts_with(world.data().canonicalize().unwrap().join("deep/uploads")), "{report}");
    assert_eq!(text(&aside.join("later")), "later");
    fs::remove_dir_all(aside).unwrap();
    assert_eq!(names(&world.data().join("deep/uploads")), set(["picture"]));
    fs::write(world.data().join("deep/uploads/picture"), "spoiled").unwrap();
    world.json(["restore", "--path", "deep/uploads/picture"], 0);
    assert_eq!(text(&world.data().join("deep/uploads/picture")), "picture");

    world.run(["restore", "--path", "deep/uploads/picture", "--path", "a.txt"]).ended(2).says("one after the other");
}

#[test]
fn a_mounted_file_stays_with_what_belongs_to_it() {
    let world = World::new();
    for name in ["app.db", "app.db-wal", "other"] {
        world.write(name, "snapshot");
    }
    world.backup();
    for name in ["app.db", "app.db-wal", "other"] {
        world.write(name, "now");
    }
    fs::write(world.path("elsewhere"), "mounted").unwrap();
    let Some(_mounted) = Mounted::bind(&world.path("elsewhere"), world.data().join("app.db")) else { return };
    let refused = world.run(["restore"]);
    refused.ended(2).says("app.db").says("restored to another folder");
    assert!(!refused.stderr.contains("--path app.db"), "{refused:?}");
    assert!(!world.run(["doctor", "data"]).text().contains("--path app.db"));
    let told = world.json(["restore", "--around-mounts", "--dry-run"], 0);
    assert_eq!(told["kept"], serde_json::json!(["app.db", "app.db-wal"]));
    world.run(["restore", "--path", "app.db"]).ended(2).says("mounted there by itself");
    let report = world.json(["restore", "--around-mounts"], 0);
    assert_eq!(report["kept"], serde_json::json!(["app.db", "app.db-wal"]));
    let now = ["app.db", "app.db-wal", "other"].map(|name| text(&world.data().join(name)));
    assert_eq!(now, ["mounted", "now", "snapshot"]);
}

#[test]
fn a_vault_on_a_volume_in_the_directory_is_in_nobodys_way() {
    let world = World::new();
    world.write("a.txt", "a");
    let Some(_volume) = Mounted::new(world.path("data/backups"), "16m") else { return };
    let vault = ["--vault", "data/backups"];
    let run = |args: &[&str]| world.run([args, &vault].concat());
    run(&["backup", "--init"]).ended(0);
    let held = names(&world.path("data/backups"));
    let told = run(&["doctor"]);
    assert!(!told.text().contains("lies in the directory"), "{told:?}");
    // Without it the volume would move.
    run(&["restore"]).ended(2).says("another filesystem is mounted in it, at backups").says("--around-mounts");
    run(&["restore", "--path", "backups/packs"]).ended(2).says("the vault");
    world.write("a.txt", "later");
    run(&["restore", "--path", "a.txt"]).ended(0);
    assert_eq!(text(&world.data().join("a.txt")), "a");
    // It is no data that is there already.
    fs::remove_file(world.data().join("a.txt")).unwrap();
    run(&["restore", "--if-missing", "--around-mounts"]).ended(0);
    assert_eq!(text(&world.data().join("a.txt")), "a");
    assert_eq!(names(&world.path("data/backups")), held);
    assert!(run(&["restore", "--if-missing", "--around-mounts"]).ended(0).text().contains("there are files in"));
    run(&["list"]).ended(0);
}

#[test]
fn a_vault_in_the_directory_is_known_by_whatever_mount_it_is_reached() {
    let world = World::new();
    world.write("a.txt", "a");
    for folder in ["data/backups", "vault", "app"] {
        fs::create_dir_all(world.path(folder)).unwrap();
    }
    // As a container has them: -v /srv/app:/app -v /srv/app/backups:/vault.
    let Some(_vault) = Mounted::bind(&world.path("data/backups"), world.path("vault")) else { return };
    let Some(_data) = Mounted::bind(&world.data(), world.path("app")) else { return };
    world.run(["backup", "app", "--vault", "vault", "--init"]).ended(0);
    let listed = world.run(["ls", "-R", "latest", "--vault", "vault"]);
    assert_eq!(listed.ended(0).text().lines().count(), 1, "{listed:?}");
    for (data, vault) in [("app", "vault"), ("data", "vault"), ("app", "data/backups")] {
        let told = world.run(["doctor", data, "--vault", vault]);
        assert!(told.ended(1).text().contains("lies in the directory"), "{told:?}");
        for more in [&[][..], &["--in-place"], &["--dry-run"]] {
            let ran = world.run([&["restore", data, "--vault", vault], more].concat());
            ran.ended(2).says("lies in it, and would move aside");
        }
        assert_eq!(names(&world.data()), set(["a.txt", "backups"]));
    }
    // The other way round: the directory is a folder of the vault.
    fs::create_dir_all(world.path("data/backups/tmp")).unwrap();
    for command in ["backup", "restore"] {
        world.run([command, "data/backups/tmp", "--vault", "vault"]).ended(2).says("or lies in it");
    }
    let told = world.run(["doctor", "data/backups/tmp", "--vault", "vault"]);
    assert!(told.ended(1).text().contains("is the vault"), "{told:?}");
}

#[test]
fn a_folder_of_the_target_that_is_mounted_in_it_again_is_refused() {
    let world = World::new();
    world.write("a/file", "a");
    world.write("b/file", "b");
    world.backup();
    let Some(_mounted) = Mounted::bind(&world.data().join("a"), world.data().join("b")) else { return };
    world.run(["restore", "--around-mounts"]).ended(2).says("lies in it too");
    assert_eq!(text(&world.data().join("a/file")), "a");
}

#[test]
fn a_folder_of_a_containers_image_is_replaced() {
    let world = World::with_files();
    world.write("sub/deep/file", "new");
    world.write("kind", "a file now");
    world.backup();
    let fill = |app: &Path| {
        fs::create_dir_all(app.join("data")).unwrap();
        fs::create_dir_all(app.join("full/sub/deep")).unwrap();
        fs::create_dir_all(app.join("full/only")).unwrap();
        fs::create_dir_all(app.join("full/kind")).unwrap();
        for name in ["full/a.txt", "full/sub/deep/old", "full/only/old", "full/kind/old"] {
            fs::write(app.join(name), "old").unwrap();
        }
    };
    fill(&world.path("layers/lower/app"));
    let image = Mounted::overlay(&world.path("layers"), world.path("image"), ",redirect_dir=off");
    let Some(_image) = image else { return };
    let app = world.path("image/app");
    let before = names(&app);
    let told = world.json(["doctor", "image/app/full"], 0).to_string();
    assert!(told.contains("move it into the directory"), "{told}");
    assert_eq!(names(&app), before);
    let report = world.json(["restore", "image/app/data"], 0);
    assert!(report["moved_aside"].is_null(), "{report}");
    assert_same(&world.data(), &app.join("data"));

    // With a mount that has files: first a part of it is restored, then all.
    let report = world.json(["restore", "image/app/full", "--path", "sub"], 0);
    let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
    assert_eq!(text(&aside.join("sub/deep/old")), "old");
    assert_eq!(text(&app.join("full/sub/deep/file")), "new");
    let report = world.json(["restore", "image/app/full", "--path", "kind"], 0);
    let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
    assert_eq!((text(&aside.join("kind/old")), text(&app.join("full/kind"))), ("old".into(), "a file now".into()));
    let report = world.json(["restore", "image/app/full"], 0);
    let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
    assert_eq!((text(&aside.join("a.txt")), text(&aside.join("only/old"))), ("old".into(), "old".into()));
    assert_same(&world.data(), &app.join("full"));
    let litter = names(&app).into_iter().filter(|name| name.contains("restoring")).collect::<Vec<_>>();
    assert!(litter.is_empty() && !app.join("full/.lastgood-in-place").exists(), "{litter:?}");
}

#[test]
fn a_restore_in_place_that_cannot_be_ended_changes_nothing() {
    let world = World::with_files();
    world.backup();
    let target = world.path("target");
    for name in ["a.txt", "fixed/file", "logs/old"] {
        fs::create_dir_all(target.join(name).parent().unwrap()).unwrap();
        fs::write(target.join(name), "old").unwrap();
    }
    let Some(fixed) = Immutable::new(target.join("fixed")) else { return };
    let before = world.path("before");
    assert!(Command::new("cp").arg("-a").arg(&target).arg(&before).status().unwrap().success());
    let ran = world.run(["restore", "target", "--in-place"]);
    let alone = names(&world.path(""));
    drop(fixed);
    ran.ended(1).says("fixed cannot be moved").says("chattr");
    // But for its own time: the new was made in it.
    let found = differences(&before, &target);
    assert!(found.iter().all(|difference| difference.starts_with("\"\": mtime")), "{found:?}");
    assert!(!alone.iter().any(|name| name.contains("replaced")), "{alone:?}");
    world.json(["restore", "target", "--in-place"], 0);
}

#[test]
fn what_was_done_before_a_part_that_cannot_be_replaced_is_undone() {
    let world = World::new();
    for name in ["sub/deep/file", "fixed/file"] {
        world.write(name, "new");
        let lower = world.path("layers/lower/app").join(name);
        fs::create_dir_all(lower.parent().unwrap()).unwrap();
        fs::write(lower, "old").unwrap();
    }
    world.backup();
    fs::write(world.path("layers/lower/app/sub/other"), "old").unwrap();
    let image = Mounted::overlay(&world.path("layers"), world.path("image"), ",redirect_dir=off");
    let Some(_image) = image else { return };
    let app = world.path("image/app");
    fs::write(app.join("zz"), "old").unwrap();
    let Some(fixed) = Immutable::new(app.join("fixed/file")) else { return };
    let ran = world.run(["restore", "image/app", "--path", "sub", "--path", "fixed/file"]);
    drop(fixed);
    ran.ended(1).says("fixed/file");
    assert_eq!(text(&app.join("sub/deep/file")), "old");
    assert_eq!(text(&app.join("sub/other")), "old");
    assert_eq!(names(&world.path("image")), set(["app"]));
    world.json(["restore", "image/app", "--path", "sub", "--path", "fixed/file"], 0);
    assert_eq!(text(&app.join("fixed/file")), "new");
}

#[test]
fn a_volume_that_was_left_in_the_middle_of_a_restore_is_in_no_good_snapshot() {
    let world = World::new();
    let Some(_mounted) = with_volume(&world) else { return };
    fs::write(world.data().join("deep/uploads/.lastgood-in-place"), MARKED).unwrap();
    for filters in [&[][..], &["--include", "picture"], &["--exclude", ".*"]] {
        let ran = world.run([&["backup"], filters].concat());
        ran.ended(1).says("has not been finished").says("--path deep/uploads");
    }
    let told = world.run(["doctor", "data"]);
    told.ended(1);
    for said in ["the volume deep/uploads in it is broken", "--path deep/uploads "] {
        assert!(told.text().contains(said), "{told:?}");
    }
    for more in [&["--dry-run"][..], &[]] {
        let report = world.json([&["restore", "--around-mounts"], more].concat(), 0);
        assert!(report["warnings"].to_string().contains("deep/uploads is broken"), "{report}");
    }
    world.json(["restore", "--path", "deep/uploads"], 0);
    assert!(!world.data().join("deep/uploads/.lastgood-in-place").exists());
    assert_eq!(text(&world.data().join("deep/uploads/picture")), "picture");
}

/// Runs a command that was printed, as somebody does who pastes it elsewhere.
#[track_caller]
fn paste(world: &World, command: &str) {
    world.shell(&format!("lastgood() {{ \"$LASTGOOD\" \"$@\"; }}; cd /; {command}")).ended(0);
}

#[test]
fn what_is_printed_of_a_mount_point_restores_it_wherever_it_is_pasted() {
    let world = World::new();
    let (data, vault) = (world.path("my volume"), ["--vault", "my vault"]);
    let Some(_data) = Mounted::new(data.clone(), "16m") else { return };
    let run = |args: &[&str]| world.run([args, &["my volume"], &vault].concat());
    let in_doctor = || {
        let told = world.json(["doctor", "my volume", "--vault", "my vault"], 1);
        let checks = told["parts"][1]["checks"].as_array().unwrap().clone();
        checks[0]["commands"][0].as_str().unwrap().to_owned()
    };
    let emptied = || {
        for name in names(&data) {
            let at = data.join(name);
            fs::remove_file(&at).or_else(|_| fs::remove_dir_all(&at)).unwrap();
        }
    };
    fs::write(data.join("a.txt"), "a").unwrap();
    let made = run(&["backup", "--init"]);
    emptied();
    paste(&world, made.ended(0).text().lines().last().unwrap().trim_start().strip_prefix("restore ").unwrap());
    assert_eq!(text(&data.join("a.txt")), "a");
    emptied();
    paste(&world, &in_doctor());
    assert_eq!(text(&data.join("a.txt")), "a");

    let some =
        "lastgood is restoring paths of this folder, or was stopped while it did. Restore them again to complete it.\n";
    for marker in [MARKED.to_owned(), format!("{MARKED}around mounts\0"), format!("{some}path a.txt\0")] {
        let marked = || {
            emptied();
            fs::write(data.join(".lastgood-in-place"), &marker).unwrap();
        };
        marked();
        let refused = run(&["backup"]);
        paste(&world, refused.ended(1).stderr.split('`').nth(1).unwrap());
        assert_eq!(text(&data.join("a.txt")), "a", "{marker}");
        assert!(!data.join(".lastgood-in-place").exists(), "{marker}");
        marked();
        paste(&world, &in_doctor());
        assert_eq!(text(&data.join("a.txt")), "a", "{marker}");
    }
    // Around what is mounted in it, too.
    emptied();
    fs::write(data.join("a.txt"), "a").unwrap();
    let Some(_in) = Mounted::new(data.join("uploads"), "16m") else { return };
    let made = run(&["backup"]);
    fs::write(data.join("a.txt"), "later").unwrap();
    restores(made.ended(0).text()).iter().for_each(|command| paste(&world, command));
    assert_eq!(text(&data.join("a.txt")), "a");
}

/// Returns the commands of a backup's report that bring everything back.
fn restores(report: &str) -> Vec<&str> {
    let of = |line: &'_ str| ["  restore  ", "  volume   "].iter().any(|word| line.starts_with(word));
    report.lines().filter(|line| of(line)).map(|line| &line[11..]).collect()
}

#[test]
fn what_is_printed_brings_back_what_is_on_volumes() {
    let world = World::new();
    fs::create_dir(world.data()).unwrap();
    let Some(_a) = Mounted::new(world.data().join("a"), "1m") else { return };
    let Some(_b) = Mounted::new(world.data().join("b"), "1m") else { return };
    let Some(_in) = Mounted::new(world.data().join("a/in it"), "1m") else { return };
    let Some(_left_out) = Mounted::new(world.data().join("left out"), "1m") else { return };
    let files = ["n", "a/n", "b/n", "a/in it/n"];
    let fill = || files.iter().for_each(|file| world.write(file, file));
    let emptied = || files.iter().for_each(|file| fs::remove_file(world.data().join(file)).unwrap());
    let assert_back = |what: &str| {
        files.iter().for_each(|file| assert_eq!(text(&world.data().join(file)), *file, "{what}"));
        // What was there before is no part of it.
        for folder in ["", "a", "b", "a/in it"] {
            for name in names(&world.data().join(folder)).iter().filter(|name| name.contains(".replaced-")) {
                fs::remove_dir_all(world.data().join(folder).join(name)).unwrap();
            }
        }
    };
    fill();
    let made = world.run(["backup", "--exclude", "left out"]);
    let told = restores(made.ended(0).text());
    assert_eq!(told.len(), 4, "{made:?}");
    assert!(told[1].contains("--around-mounts --path a ") && told[3].contains("--path b "), "{told:?}");
    emptied();
    told.iter().for_each(|command| paste(&world, command));
    assert_back("the report");

    let refused = world.run(["restore"]);
    refused.ended(2).says("`--path a`, `--path 'a/in it'`, `--path b` and `--path 'left out'`");
    let doctor = world.json(["doctor"], 0);
    let checks = doctor["parts"].as_array().unwrap().iter().flat_map(|part| part["checks"].as_array().unwrap());
    let check = checks.into_iter().find(|check| check["name"] == "restore").unwrap();
    assert!(check["found"].as_str().unwrap().contains("at a and 3 more"), "{check}");
    emptied();
    let commands: Vec<_> = check["commands"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    let (left_out, others): (Vec<&str>, Vec<&str>) = commands.into_iter().partition(|one| one.contains("left out"));
    assert_eq!((left_out.len(), others.len()), (1, 4), "{check}");
    others.iter().for_each(|command| paste(&world, command));
    assert_back("doctor");

    // A snapshot that has nothing of them is restored without.
    let made = world.run(["backup", "--one-file-system"]);
    assert_eq!(restores(made.ended(0).text()).len(), 1, "{made:?}");
    let told = world.json(["doctor"], 0).to_string();
    assert!(told.contains("--around-mounts") && !told.contains("--path"), "{told}");
}
