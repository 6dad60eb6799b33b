//! The start script that docs/container.md shows begins the app wherever the app can go on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::console;
use super::pages;
use crate::support::tree::{noise, set_mode};
use crate::support::{LASTGOOD, Ran, World};

/// A world in which `./start` is the script of docs/container.md, and `lastgood` is found.
fn world() -> World {
    let program = Path::new(LASTGOOD).parent().unwrap().display();
    let world = World::new().with("PATH", format!("{program}:{}", std::env::var("PATH").unwrap_or_default()));
    let files = console::files_of(&pages::page("container.md"));
    let (_, script) = files.into_iter().find(|(name, _)| name == "start").expect("the page shows the script");
    let file = world.path("start");
    fs::write(&file, script).unwrap();
    set_mode(&file, 0o755);
    world
}

/// Starts an app that says which files it finds, and ends with 7.
fn start(world: &World) -> Ran {
    world.shell("./start sh -c 'echo app runs; ls data; exit 7'")
}

/// The packs of the vault.
fn packs(world: &World) -> Vec<PathBuf> {
    fs::read_dir(world.vault().join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_app_starts_with_an_older_snapshot_if_the_newest_is_damaged() {
    let world = world();
    world.write("a.bin", noise(1, 300_000));
    world.backup();
    let known = packs(&world);
    world.write("b.bin", noise(2, 200_000));
    world.backup();
    let new: Vec<_> = packs(&world).into_iter().filter(|pack| !known.contains(pack)).collect();
    let largest = new.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    set_mode(largest, 0o600);
    fs::OpenOptions::new().write(true).open(largest).unwrap().write_all_at(&noise(3, 200), 2000).unwrap();
    fs::remove_dir_all(world.data()).unwrap();
    world.run(["restore", "--if-missing", "look"]).ended(3);

    let started = start(&world);
    started.ended(7).says("which is older");
    assert!(started.text().contains("app runs\na.bin\n"), "{started:?}");
    // The backup at the end is good, so the next restore has nothing to pass over.
    assert!(started.text().contains("is complete (good)"), "{started:?}");
    world.run(["restore", "again"]).ended(0);
}

#[test]
fn an_app_does_not_start_when_its_container_is_stopped_during_the_restore() {
    let world = world();
    for n in 0..30 {
        world.write(&format!("{n}.bin"), noise(n, 4_000_000));
    }
    world.backup();
    fs::remove_dir_all(world.data()).unwrap();
    let stop = "./start sh -c 'echo app runs' & start=$!
        until ls -d .data.lastgood-restoring-* >/dev/null 2>&1; do kill -0 $start || break; done
        kill -TERM $start; wait $start || echo ended with $?";
    // On a busy machine the restore may be over before the signal comes.
    let stopped = (0..5).find_map(|_| {
        let ran = world.shell(stop);
        let over = world.data().exists();
        _ = fs::remove_dir_all(world.data());
        (!over).then_some(ran)
    });
    let stopped = stopped.expect("five restores were not stopped");
    assert_eq!(stopped.text(), "ended with 1\n", "{stopped:?}");
    assert!(stopped.stderr.contains("Stopped. Nothing was restored"), "{stopped:?}");
}

#[test]
fn an_app_starts_without_a_snapshot_and_not_without_a_vault() {
    let world = world();
    let started = start(&world);
    started.ended(1).says("there is no vault");
    assert_eq!(started.text(), "");

    world.run(["init"]).ended(0);
    world.write("a.txt", "");
    fs::remove_file(world.data().join("a.txt")).unwrap();
    let started = start(&world);
    started.ended(7).says("the vault has no snapshots");
    assert!(started.text().starts_with("app runs\n"), "{started:?}");
}
