//! `lastgood run` that does again what it did: what was saved is not saved twice, what was uploaded is not uploaded twice.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::World;
use crate::support::cloud::VAULT;
use crate::support::cloud::server::{Kind, Server};
use crate::support::counter::{Counters, WITHIN, until, without_terminal};
use crate::support::tree::noise;
use crate::support::{Ran, id};

/// Runs an app that is a script of the shell; how `lastgood run` ended.
fn script(world: &World, script: &str) -> Ran {
    Ran::of(without_terminal(&world.command(["run", "--init", "--every", "off", "--", "sh", "-c", script])))
}

/// Puts the content of an image into the data directory, as the start of a container does: all inodes are new.
fn from_image(world: &World) {
    fs::remove_dir_all(world.data()).unwrap();
    let copied = Command::new("cp").arg("-a").args([world.path("image"), world.data()]).status().unwrap();
    assert!(copied.success());
}

#[test]
fn an_app_that_fails_at_each_start_on_one_image_leaves_one_pinned_snapshot_of_it() {
    let world = World::new();
    script(&world, "mkdir data; echo 1 > data/n; echo 2 > data/m").ended(0);
    fs::create_dir_all(world.path("image/templates")).unwrap();
    fs::write(world.path("image/n"), "of the image").unwrap();
    fs::write(world.path("image/templates/page.html"), "<p>").unwrap();
    for start in 0..3 {
        from_image(&world);
        let ran = script(&world, "test -e data/m; exit 7");
        ran.ended(7);
        match start {
            0 => ran.says("is saved as the snapshot"),
            _ => ran.says("was saved before, as the snapshot"),
        };
        assert_eq!(fs::read_to_string(world.path("data/n")).unwrap(), "1\n", "it is restored each time");
    }
    let list = world.json(["list"], 0);
    let apart: Vec<_> = list.as_array().unwrap().iter().filter(|snapshot| snapshot["good"] == false).collect();
    assert_eq!(apart.len(), 1, "{list}");
    let pins: Vec<_> = fs::read_dir(world.vault().join("pins")).unwrap().map(|pin| pin.unwrap().file_name()).collect();
    assert_eq!(pins.len(), 1, "{pins:?}");
    // It is the image.
    let snapshot = apart[0]["id"].as_str().unwrap();
    world.restore_snapshot(snapshot, "out");
    assert_eq!(fs::read_to_string(world.path("out/templates/page.html")).unwrap(), "<p>");
    // Another image is saved, too.
    fs::write(world.path("image/n"), "of a new image").unwrap();
    from_image(&world);
    script(&world, "exit 7").ended(7).says("is saved as the snapshot");
    let list = world.json(["list"], 0);
    let apart = list.as_array().unwrap().iter().filter(|snapshot| snapshot["good"] == false).count();
    assert_eq!(apart, 2, "{list}");
    assert!(!id(&world.restore("newest")).is_empty());
}

#[test]
fn a_backup_that_a_handover_cuts_short_is_gone_on_from_by_the_last_snapshot() {
    const FILES: u64 = 24;
    const SIZE: usize = 2 << 20;
    let server = Server::start();
    let world = World::new().on(&server.url(), VAULT);
    world.run(["init"]).ended(0);
    for file in 0..FILES {
        world.write(&format!("big/{file:02}"), noise(file, SIZE));
    }
    let counters = Counters::within(world);
    let options = ["--every", "off", "--handover-poll", "200ms"];
    // All of it takes 12 s.
    server.bandwidth(4 << 20);
    let sent = || -> usize {
        let packs = server.names().into_iter().filter(|name| name.contains("/packs/"));
        packs.map(|name| server.object(&name).unwrap().len()).sum()
    };
    let mut a = counters.start("a", "data", &options);
    counters.begun("a", 1, &a);
    until("a few packs", WITHIN, || a.log(), || (sent() > 8 * SIZE).then_some(()));
    let b = counters.start("b", "b", &options);
    a.log_with_within("the backup that is under way is cut short", 1, WITHIN);
    server.bandwidth(0);
    counters.begun_within("b", 1, &b, Duration::from_secs(60));
    assert_eq!(counters.begun("b", 1, &b).count, counters.stopped("a"), "{}", b.log());
    assert!(a.log().contains("the next backup of this directory goes on from there"), "{}", a.log());
    assert!(!a.log().contains("ERROR"), "{}", a.log());
    // What was uploaded before is not uploaded again: it would be the same bytes once more.
    let all = FILES as usize * SIZE;
    assert!(sent() < all + all / 4, "{} of {all}: {}", sent(), a.log());
    assert!(server.requests_of(Kind::Create).len() < 200);
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}
