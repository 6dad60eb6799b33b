//! Start scripts that stand in the data directory when they restore it.

use std::fs;

use crate::support::World;
use crate::support::requirements::as_nobody;
use crate::support::tree::{open_to_all, set_mode};

/// Creates a world with a backup of a few files, and another content in the data directory since.
fn changed() -> World {
    let world = World::with_files();
    world.backup();
    world.write("a.txt", "changed\n");
    world
}

#[test]
fn a_script_that_stands_in_the_target_goes_on_in_what_was_restored() {
    for (target, vault) in [(".", "../backups"), ("../data", "../backups"), ("\"$PWD\"", "\"$OLDPWD\"/backups")] {
        let world = changed();
        let ran =
            world.shell(&format!("cd data; $LASTGOOD restore --vault {vault} {target}; cat a.txt; echo row > new"));
        ran.ended(0);
        assert!(ran.text().ends_with("\nfirst\n"), "{ran:?}");
        assert_eq!(fs::read(world.data().join("new")).unwrap(), b"row\n");
        let aside = fs::read_dir(world.data()).unwrap().map(|entry| entry.unwrap().path());
        let aside = aside.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("lastgood.replaced-"));
        assert_eq!(aside.map(|aside| fs::read(aside.join("a.txt")).unwrap()).collect::<Vec<_>>(), [b"changed\n"]);
        // The report is kept, though the vault was named from there.
        let runs = world.json(["runs"], 0);
        let kept = runs.as_array().unwrap().iter().find(|run| run["action"] == "restore").unwrap();
        assert!(kept.to_string().contains("filled in place"), "{kept}");
    }
}

#[test]
fn a_preview_says_what_the_restore_does() {
    let world = changed();
    let told = world.shell("cd data; $LASTGOOD restore --dry-run --vault ../backups .");
    assert!(told.ended(0).text().contains("filled in place"), "{told:?}");
    // Files that belong to a restored database go with it.
    world.write("app.db", "new");
    world.backup();
    world.write("app.db-wal", [0x37, 0x7f, 0x06, 0x82]);
    world.write("app.db-shm", "");
    world.write("a.txt-wal", "");
    let told = world.json(["restore", "--dry-run", "--path", "app.db", "--path", "a.txt"], 0);
    let report = world.json(["restore", "--path", "app.db", "--path", "a.txt"], 0);
    assert_eq!(report["moved_beside"], serde_json::json!(["app.db-shm", "app.db-wal"]));
    let aside: Vec<_> = told["moves_aside"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    let data = world.data().canonicalize().unwrap();
    let expected = ["a.txt", "app.db", "app.db-shm", "app.db-wal"].map(|name| data.join(name).display().to_string());
    assert_eq!(aside, expected);
}

#[test]
fn where_nothing_can_be_made_it_says_what_to_do() {
    let world = changed();
    let at = |name: &str| world.path("closed").join(name);
    fs::create_dir_all(at("data")).unwrap();
    set_mode(&world.path("closed"), 0o755);
    set_mode(&at("data"), 0o777);
    open_to_all(&world.vault());
    for args in [&["--dry-run"][..], &[]] {
        let asked = |target: &str, more: &[&str]| {
            as_nobody(&world, &[&["restore", target, "--vault", "backups"], args, more].concat())
        };
        let Some(ran) = asked("closed/data", &[]) else { return };
        ran.ended(1).says("nothing can be made in").says("--in-place");
        asked("closed/other/new", &[]).unwrap().ended(1).says("nothing can be made in").says("as a user who may");
        asked("closed/data", &["--in-place"]).unwrap().ended(0);
    }
}

#[test]
fn an_empty_folder_of_an_image_is_filled_under_the_feet_of_its_app() {
    let world = World::with_files();
    world.backup();
    fs::remove_dir_all(world.data()).unwrap();
    fs::create_dir(world.data()).unwrap();
    let ran = world.shell("cd data; $LASTGOOD restore --if-missing -q --vault ../backups .; exec cat a.txt");
    assert_eq!(ran.ended(0).text(), "first\n");
}

#[test]
fn a_script_that_stands_in_a_folder_that_moves_aside_is_told() {
    let world = changed();
    let ran = world.shell("cd data/uploads/x; $LASTGOOD restore --vault ../../../backups ../..");
    ran.ended(1).says("data/uploads/x, which moves aside").says("cd ");
    let ran = world.shell("cd data/uploads; $LASTGOOD restore --vault ../../backups --path uploads ..");
    ran.ended(1).says("data/uploads, which moves aside");
    assert_eq!(fs::read(world.data().join("a.txt")).unwrap(), b"changed\n");
    // A working directory that does not move is no obstacle, and `--while-in-use` restores all the same.
    world.shell("cd data/uploads; $LASTGOOD restore --vault ../../backups --path a.txt ..").ended(0);
    let ran = world.shell("cd data/uploads; $LASTGOOD restore --while-in-use --json --vault ../../backups ..");
    let report: serde_json::Value = serde_json::from_slice(&ran.ended(0).stdout).unwrap();
    assert!(report["in_use"][0]["file"].as_str().unwrap().ends_with("data/uploads"), "{report}");
    let runs = world.json(["runs"], 0);
    let restored =
        runs.as_array().unwrap().iter().filter(|run| run["action"] == "restore" && run["result"] == "complete");
    assert_eq!(restored.count(), 2, "{runs}");
}
