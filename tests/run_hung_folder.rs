//! `lastgood run` with a vault in a folder that hangs: the server of its filesystem is stopped, and answers when it goes on.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::World;
use crate::support::counter::{Counters, WITHIN, until};
use crate::support::fuse_process::StoppableFuse;

const OPTIONS: [&str; 4] = ["--every", "off", "--handover-poll", "200ms"];
/// The time of `--grace`, and what a busy machine adds to it.
const GRACE: Duration = Duration::from_millis(12_500);
/// A folder is given up after 60 s.
const GIVEN_UP: Duration = Duration::from_secs(110);

/// Vaults in these folders, of which `mnt/v` is on the filesystem that can hang. None where that cannot be had.
fn world(vaults: &str) -> Option<(Counters, StoppableFuse)> {
    let world = World::new().with("LASTGOOD_VAULT", vaults);
    for name in ["behind", "mnt"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    let mounted = StoppableFuse::mount(&world.path("behind"), &world.path("mnt"))?;
    world.run(["init"]).ended(0);
    Some((Counters::within(world), mounted))
}

/// The count of the newest snapshot in the folder that does not hang.
fn saved_in_other(counters: &Counters) -> u64 {
    let out = counters.world.path("of-other");
    let _ = fs::remove_dir_all(&out);
    counters.world.run(["restore", "--vault", "other", "of-other"]).ended(0);
    fs::read_to_string(out.join("n")).unwrap().parse().unwrap()
}

#[test]
fn the_last_snapshot_is_committed_in_the_folder_that_answers_whichever_hangs() {
    for vaults in ["other,mnt/v", "mnt/v,other"] {
        let Some((counters, mounted)) = world(vaults) else { return };
        let mut run = counters.started_and_saved("a", "data", &OPTIONS);
        mounted.hang();
        let (code, took) = run.end(Signal::TERM);
        assert_eq!(code, Some(0), "{}", run.log());
        assert!(took < GRACE, "{took:?}: {}", run.log());
        run.log_with("the last snapshot is taken, and is not as it should be");
        run.log_with("incomplete-copies");
        assert_eq!(saved_in_other(&counters), counters.stopped("a"), "{}", run.log());
        mounted.go_on();
        let last = counters.stopped("a");
        counters.counts("b", "data", &counters.start("b", "data", &OPTIONS));
        assert!(counters.begun("b", 1, &run).count >= last);
    }
}

#[test]
fn backups_by_time_go_on_where_the_other_folder_answers() {
    let Some((counters, mounted)) = world("mnt/v,other") else { return };
    let run = counters.started_and_saved("a", "data", &["--every", "1s", "--handover-poll", "200ms"]);
    mounted.hang();
    let hung = counters.count("data");
    run.log_with_within("incomplete-copies", 2, GIVEN_UP);
    assert!(saved_in_other(&counters) > hung, "{}", run.log());
}

fn an_app_is_started_although_a_folder_hangs(vaults: &str) {
    let Some((counters, mounted)) = world(vaults) else { return };
    let mut run = counters.started_and_saved("a", "data", &OPTIONS);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    let last = counters.stopped("a");
    mounted.hang();
    let mut run = counters.start("a", "data", &["--every", "off", "--on-unreachable", "start"]);
    assert!(counters.begun_within("a", 2, &run, GIVEN_UP).count >= last, "{}", run.log());
    let (code, took) = run.end(Signal::TERM);
    assert_eq!(code, Some(0), "{}", run.log());
    assert!(took < GRACE, "{took:?}: {}", run.log());
}

#[test]
fn an_app_is_started_on_its_data_although_the_second_folder_hangs() {
    an_app_is_started_although_a_folder_hangs("other,mnt/v");
}

#[test]
fn an_app_is_started_on_its_data_although_the_only_folder_hangs() {
    an_app_is_started_although_a_folder_hangs("mnt/v");
}

#[test]
fn a_signal_ends_a_start_that_waits_for_a_folder() {
    let Some((counters, mounted)) = world("mnt/v") else { return };
    mounted.hang();
    let mut run = counters.start("a", "data", &OPTIONS);
    // The place is looked at, and then the vault: that takes a minute.
    std::thread::sleep(Duration::from_secs(8));
    let (code, took) = run.end(Signal::TERM);
    assert_eq!(code, Some(0), "{}", run.log());
    assert!(took < Duration::from_secs(8), "{took:?}: {}", run.log());
    assert_eq!(counters.starts("a"), 0);
}

#[test]
fn the_only_folder_hangs_and_the_end_comes_in_time() {
    let Some((counters, mounted)) = world("mnt/v") else { return };
    let mut run = counters.started_and_saved("a", "data", &OPTIONS);
    mounted.hang();
    let (code, took) = run.end(Signal::TERM);
    assert_eq!(code, Some(0), "{}", run.log());
    assert!(took < GRACE, "{took:?}: {}", run.log());
    let log = run.log_with("the last snapshot was not finished in time");
    // No setting helps.
    assert!(log.contains("A vault does not answer") && !log.contains("--every"), "{log}");
    assert!(counters.stopped("a") > 0);
}

#[test]
fn an_instance_that_waits_ends_although_the_only_folder_hangs() {
    let Some((counters, mounted)) = world("mnt/v") else { return };
    let mut first = counters.started_and_saved("a", "data", &OPTIONS);
    let second = counters.started("b", "other-data", &OPTIONS);
    first.log_with("this one waits until that has ended");
    mounted.hang();
    std::thread::sleep(Duration::from_secs(1));
    let (code, took) = first.end(Signal::TERM);
    assert_eq!(code, Some(0), "{}", first.log());
    assert!(took < Duration::from_secs(8), "{took:?}: {}", first.log());
    mounted.go_on();
    drop(second);
}

#[test]
fn an_app_that_stops_writing_is_told_of_although_a_vault_hangs() {
    let Some((counters, mounted)) = world("other,mnt/v") else { return };
    fs::create_dir_all(counters.world.path("data/sub")).unwrap();
    let options = ["--every", "off", "--handover-poll", "200ms", "--data-freshness", "3s"];
    let run = counters.started_and_saved("a", "data", &options);
    mounted.hang();
    let app = rustix::process::Pid::from_raw(counters.begun("a", 1, &run).pid as i32).unwrap();
    let began = Instant::now();
    rustix::process::kill_process(app, Signal::STOP).unwrap();
    let told = || run.log().contains("nothing was written to the data directory").then_some(());
    until("alarm", WITHIN, || run.log(), told);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    rustix::process::kill_process(app, Signal::CONT).unwrap();
}
