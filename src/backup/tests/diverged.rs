//! Snapshots of directories that do not go on from the newest good one.

use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::backup::descent::saved_before;
use crate::lineage::{self, Lineage, OWN_FOLDER, STATE};
use crate::restore::select::find;
use crate::vault::pins::{self, Pin};

fn lineage(world: &World, epoch: u32, serial: u8) -> Lineage {
    Lineage {
        format: lineage::FORMAT,
        vault: world.vault.config.id,
        snapshot: None,
        epoch,
        serial: Hex([serial; 16]),
        chosen: false,
        written: Timestamp::UNIX_EPOCH,
    }
}

/// A vault in which an instance of epoch 3 took the newest good snapshot, of a directory with the serial 3.
fn of_epoch_3() -> (World, SnapshotName) {
    let mut world = World::new();
    world.write("a", &noise(1, 5000));
    lineage::write(world.data.path(), &lineage(&world, 3, 3)).unwrap();
    world.options.epoch = Some(3);
    let good = world.backup();
    assert_eq!((good.good, seq::epoch(good.snapshot.seq)), (true, 3));
    world.options.epoch = None;
    (world, good.snapshot)
}

fn own(world: &World) -> std::path::PathBuf {
    world.data.path().join(OWN_FOLDER)
}

#[test]
fn a_directory_that_was_left_behind_never_becomes_the_newest() {
    let write = |world: &World, lineage: Lineage| lineage::write(world.data.path(), &lineage).unwrap();
    let forget = |world: &World| fs::remove_dir_all(own(world)).unwrap();
    type Change<'a> = &'a dyn Fn(&mut World);
    // What happens to the directory, whether it is another one then, the epoch of the number that is expected, and what
    // is said if it has diverged.
    let cases: [(&str, Change, bool, u32, Option<&str>); 14] = [
        ("nothing happened", &|_| (), false, 3, None),
        ("a lost state file", &|world| forget(world), false, 3, None),
        ("a reboot", &|world| world.options.boot = "next".into(), false, 3, None),
        ("another disk with all of it", &|_| (), true, 3, None),
        (
            "an old machine, without a state file",
            &|world| forget(world),
            true,
            3,
            Some("it has no .lastgood/state.json"),
        ),
        ("an old machine", &|world| write(world, lineage(world, 1, 1)), true, 1, Some("is of epoch 1")),
        (
            "the same epoch, which has ended; another job took the newest",
            &|world| {
                write(world, lineage(world, 3, 1));
                world.vault.store.create("epochs/3.end.json", &[b"{}"]).unwrap();
            },
            true,
            3,
            None,
        ),
        (
            "a copy that was restored while an instance runs",
            &|world| write(world, lineage(world, 3, 1)),
            true,
            3,
            Some("has not ended"),
        ),
        (
            "another vault's state file",
            &|world| write(world, Lineage { vault: Hex([9; 16]), ..lineage(world, 3, 1) }),
            true,
            3,
            Some("of another vault"),
        ),
        (
            "a planted link",
            &|world| {
                forget(world);
                symlink("/etc", own(world)).unwrap();
            },
            true,
            3,
            Some(".lastgood is a symbolic link"),
        ),
        (
            "a fifo",
            &|world| {
                fs::remove_file(own(world).join(STATE)).unwrap();
                let fifo = Mode::from_raw_mode(0o600);
                mknodat(CWD, own(world).join(STATE), FileType::Fifo, fifo, 0).unwrap();
            },
            true,
            3,
            Some("is neither a file nor a folder"),
        ),
        ("garbage", &|world| fs::write(own(world).join(STATE), "{").unwrap(), true, 3, Some("is not a lineage")),
        (
            "it is meant",
            &|world| {
                forget(world);
                world.options.take_over = true;
            },
            true,
            3,
            None,
        ),
        ("its own epoch is told", &|world| world.options.epoch = Some(4), true, 4, None),
    ];
    for (what, change, elsewhere, epoch, why) in cases {
        let (mut world, good) = of_epoch_3();
        if elsewhere {
            world.elsewhere();
        }
        change(&mut world);
        world.write("b", b"new");
        for _ in 0..2 {
            let report = world.backup();
            let root = world.vault.root(report.snapshot).unwrap();
            assert_eq!(seq::epoch(report.snapshot.seq), epoch, "{what}");
            assert_eq!(
                (report.diverged, root.diverged.is_some()),
                (why.is_some(), why.is_some()),
                "{what}: {report:?}"
            );
            assert_eq!((report.good, report.whole), (why.is_none(), true), "{what}");
            assert_eq!(find(&world.vault, "latest").unwrap().0, if why.is_some() { good } else { report.snapshot });
            if let Some(why) = why {
                let said = root.suspect.clone().unwrap();
                assert!(said.contains(why) && said.contains(&good.id.to_string()), "{what}: {said}");
                assert_eq!((root.state, root.diverged), (SnapshotState::Suspect, Some(said)), "{what}");
                assert!(report.snapshot < good, "{what}");
            }
            assert!(world.entries(report.snapshot).iter().all(|(entry, _)| !lineage::is_own(&entry.path)), "{what}");
            // Accepting what looks like an accident is another thing.
            world.options.accept_shrink = true;
        }
    }
}

#[test]
fn without_epochs_every_directory_goes_on() {
    let world = World::new();
    world.write("a", b"1");
    let first = world.backup();
    world.elsewhere();
    let second = world.backup();
    assert_eq!((second.good, second.diverged, seq::epoch(second.snapshot.seq)), (true, false, 0));
    assert_eq!(second.parent, Some(first.snapshot));
    assert_eq!(world.vault.root(second.snapshot).unwrap().serial, None);
}

#[test]
fn what_is_said_to_have_diverged_is_numbered_below_the_newest_good_one() {
    for (newest, numbers) in
        [(None, vec![]), (Some(1), vec![9, 7 << 32]), (Some(0), vec![]), (Some(7 << 32 | 5), vec![])]
    {
        let mut world = World::new();
        world.write("a", b"1");
        let good = world.backup().snapshot;
        // As an import, or a program that counted, numbers it.
        let good = newest.map_or(good, |seq| rewrite(&world, good, |root| root.seq = seq));
        world.write("b", b"2");
        (world.options.diverged, world.options.numbers) = (Some("it was superseded".into()), numbers);
        for epoch in [None, Some(0), Some(7)] {
            world.options.epoch = epoch;
            let report = world.backup();
            assert!(report.snapshot.seq <= good.seq.saturating_sub(1), "{} is not below {good}", report.snapshot);
            assert_eq!((report.state, report.diverged, report.good), (SnapshotState::Suspect, true, false));
            assert_eq!(report.suspect.as_deref(), Some("it was superseded"));
            assert_eq!(find(&world.vault, "latest").unwrap().0, good);
        }
        assert_eq!(world.vault.snapshots().unwrap().len(), 4);
        // The next one of the directory that goes on is the newest, and is compared with the good one.
        world.options = BackupOptions { epoch: None, diverged: None, numbers: Vec::new(), ..world.options };
        let next = world.backup();
        assert_eq!((next.good, next.parent), (true, Some(good)));
        assert!(next.snapshot > good);
    }
}

#[test]
fn without_a_good_snapshot_there_is_nothing_to_be_below_of() {
    let mut world = World::new();
    world.write("a", b"1");
    (world.options.diverged, world.options.epoch) = (Some("it was superseded".into()), Some(2));
    let report = world.backup();
    assert_eq!((report.good, seq::epoch(report.snapshot.seq)), (false, 2));
    assert!(find(&world.vault, "latest").is_err());
    // What nobody has restored from leaves no directory behind.
    (world.options.diverged, world.options.epoch) = (None, None);
    world.elsewhere();
    let first = world.backup();
    assert_eq!((first.good, first.diverged, first.parent), (true, false, None));
}

#[test]
fn an_instance_builds_on_snapshots_that_are_not_newer_than_its_own() {
    let mut world = World::new();
    world.write("a", &noise(1, 300_000));
    let mut take = |epoch: u32| {
        world.options.epoch = Some(epoch);
        world.backup()
    };
    let second = take(2).snapshot;
    let fifth = take(5).snapshot;
    let (late, third) = (take(2), take(3));
    assert_eq!((late.parent, seq::epoch(late.snapshot.seq)), (Some(second), 2));
    assert_eq!((third.parent, seq::epoch(third.snapshot.seq)), (Some(late.snapshot), 3));
    assert_eq!(find(&world.vault, "latest").unwrap().0, fifth);
    world.options.epoch = None;
    assert_eq!(world.backup().parent, Some(fifth));
}

#[test]
fn what_diverged_lets_nothing_be_accepted() {
    for diverged in [true, false] {
        let world = World::new();
        for n in 0..40 {
            world.write(&format!("{n}"), b"1");
        }
        let good = world.backup().snapshot;
        for n in 3..40 {
            fs::remove_file(world.data.path().join(n.to_string())).unwrap();
        }
        let hours = |ago: i64| Timestamp::now() - SignedDuration::from_hours(ago);
        for (n, ago) in [(1, 90), (2, 40), (3, 2)] {
            let suspect = world.backup();
            assert_eq!(suspect.state, SnapshotState::Suspect);
            rewrite(&world, suspect.snapshot, |root| {
                (root.seq, root.started) = (good.seq + n, hours(ago));
                root.totals.changed = hours(ago).as_nanosecond() as i64;
                root.diverged = root.suspect.clone().filter(|_| diverged);
            });
        }
        let last = world.backup();
        assert_eq!(last.good, !diverged, "{last:?}");
        assert_eq!(last.parent, Some(good));
    }
}

#[test]
fn what_was_saved_of_diverged_directories_is_found_again() {
    let mut world = World::new();
    world.write("a", b"1");
    world.backup();
    let found = |world: &World, most| -> Vec<SnapshotName> {
        saved_before(&world.vault, most).unwrap().into_iter().map(|(name, _)| name).collect()
    };
    let until = Timestamp::now() + SignedDuration::from_hours(24);
    let pin = |world: &World, name| {
        pins::store(&world.vault, &Pin::new(name, until, "diverged", None), &system_random).unwrap();
    };
    lineage::write(world.data.path(), &lineage(&world, 0, 5)).unwrap();
    world.options.diverged = Some("it was superseded".into());
    let first = world.backup().snapshot;
    assert_eq!(found(&world, 4), [], "nothing keeps it");
    pin(&world, first);
    pin(&world, first);
    pin(&world, SnapshotName { seq: first.seq + 1, ..first });
    assert_eq!(found(&world, 4), [first]);
    world.write("a", b"22");
    let second = world.backup().snapshot;
    pin(&world, second);
    let newest = first.max(second);
    assert_eq!((found(&world, 4).len(), found(&world, 1)), (2, vec![newest]));
    // What is good is not what was saved so.
    world.options.diverged = None;
    world.elsewhere();
    let good = world.backup().snapshot;
    pin(&world, good);
    assert!(!found(&world, 4).contains(&good));
}
