//! `lastgood run` on data whose disk is full.

use std::fs;
use std::io::Write;

use rustix::process::Signal;

use crate::support::World;
use crate::support::counter::without_terminal;
use crate::support::process::Running;
use crate::support::requirements::Mounted;

const RUN: [&str; 5] = ["run", "--every", "off", "--handover-poll", "100ms"];

/// Fills a filesystem to its last byte.
fn fill(world: &World) {
    let mut file = fs::File::create(world.data().join("large")).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    // Names need room as well: there are few.
    let mut last = 0..100_000;
    while last.next().is_some_and(|n| fs::create_dir(world.data().join(format!("d{n}"))).is_ok()) {}
}

#[test]
fn an_app_starts_on_its_data_and_goes_on_from_it() {
    let world = World::new();
    let Some(_mounted) = Mounted::new(world.data(), "4m,nr_inodes=100") else { return };
    world.write("a", "1");
    world.run([&RUN[..], &["--init", "--", "true"]].concat()).ended(0);
    // Ahead of its snapshot, and fresh.
    for _ in 0..2 {
        fill(&world);
        let ran = world.run([&RUN[..], &["--", "cat", "data/a"]].concat());
        assert_eq!(ran.ended(0).text(), "1", "{ran:?}");
        ran.says("although its disk is full");
    }
    assert!(world.run(["state"]).ended(0).text().contains("is fresh"));
    // What the app changes meanwhile is never taken for something else.
    let ran = world.run([&RUN[..], &["--", "sh", "-c", "printf 2 1<>data/a"]].concat());
    ran.ended(0);
    assert!(world.run(["state"]).ended(0).text().contains("is fresh"));
    fs::remove_file(world.data().join("large")).unwrap();
    let ran = world.run([&RUN[..], &["--", "cat", "data/a"]].concat());
    assert_eq!(ran.ended(0).text(), "2", "{ran:?}");
    assert!(!ran.stderr.contains("disk is full"), "{ran:?}");
    let diverged = world.json(["list"], 0).as_array().unwrap().iter().filter(|one| one["good"] == false).count();
    assert_eq!(diverged, 0, "{ran:?}");
}

#[test]
fn an_app_starts_after_a_kill_too_and_older_instances_hide_nothing() {
    let world = World::new();
    let Some(_mounted) = Mounted::new(world.data(), "4m,nr_inodes=100") else { return };
    world.write("a", "1");
    let mut killed = Running::start(
        without_terminal(&world.command([&RUN[..], &["--init", "--", "sleep", "600"]].concat())),
        "backup is complete",
    );
    assert_eq!(killed.end(Signal::KILL).0, None);
    fill(&world);
    for _ in 0..2 {
        let ran = world.run([&RUN[..], &["--", "cat", "data/a"]].concat());
        assert_eq!(ran.ended(0).text(), "1", "{ran:?}");
    }
    assert!(world.run(["state"]).ended(0).text().contains("is fresh"));
    fs::remove_file(world.data().join("large")).unwrap();
    let ran = world.run([&RUN[..], &["--", "cat", "data/a"]].concat());
    assert_eq!(ran.ended(0).text(), "1", "{ran:?}");
    let list = world.json(["list"], 0);
    assert!(list.as_array().unwrap().iter().all(|snapshot| snapshot["good"] == true), "{list}");
}
