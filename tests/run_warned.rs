//! `lastgood run` says beforehand what will not fit into the time that there is, and nothing of what is well.

use std::fs;

use rustix::process::Signal;

use crate::support::World;
use crate::support::counter::Counters;

#[test]
fn a_last_snapshot_that_will_not_fit_into_the_grace_is_warned_of() {
    for (grace, warned) in [("1s", true), ("20s", false)] {
        let counters = Counters::new();
        let mut run = counters.start("a", "data", &["--every", "1s", "--grace", grace, "--before-backup", "sleep 0.7"]);
        counters.begun("a", 1, &run);
        run.log_with_within("backup is complete", 3, crate::support::counter::WITHIN);
        let told = run.log().contains("a last snapshot will not fit into --grace");
        assert_eq!(told, warned, "{}", run.log());
        run.end(Signal::TERM);
    }
}

#[test]
fn a_restore_that_leaves_the_app_too_little_of_a_start_on_cloud_run_is_warned_of() {
    // Elsewhere nobody limits it.
    for (service, handover, warned) in [(true, "225s", true), (true, "90s", false), (false, "225s", false)] {
        let mut world = World::new();
        if service {
            world = world.with("K_SERVICE", "shop").with("K_REVISION", "shop-1");
        }
        let counters = Counters::within(world);
        let mut run = counters.start("a", "data", &["--every", "off"]);
        counters.begun("a", 1, &run);
        counters.counted_beyond("data", 3, &run);
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        fs::remove_dir_all(counters.world.data()).unwrap();
        let mut run = counters.start("a", "data", &["--every", "off", "--handover", handover]);
        counters.begun("a", 2, &run);
        let told = run.log().contains("in which Cloud Run wants it to listen");
        assert_eq!(told, warned, "{}", run.log());
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    }
}

#[test]
fn a_directory_that_run_has_just_restored_and_locked_is_not_said_to_be_unlocked() {
    let counters = Counters::new();
    let mut run = counters.start("a", "data", &["--every", "off"]);
    counters.begun("a", 1, &run);
    counters.counted_beyond("data", 3, &run);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    fs::remove_dir_all(counters.world.data()).unwrap();
    // It is in place, and locked, for so long before the restore is over.
    let mut run = counters.start("a", "data", &["--every", "off", "--after-restore", "sleep 1"]);
    counters.begun("a", 2, &run);
    assert!(!run.log().contains("is not locked"), "{}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
}
