//! `lastgood run` with two vaults that know of different snapshots: what only one of them has is not lost because of the other.

use std::fs;

use serde_json::Value;

use crate::support::counter::{WITHIN, until, without_terminal};
use crate::support::process::Running;
use crate::support::{Ran, World};

const RUN: [&str; 6] = ["run", "--every", "off", "--handover-poll", "100ms", "--handover=2s"];

/// Vaults `v1` and `v2`, in this order. Each change of `data` is made elsewhere, as on another machine.
struct Two(World);

impl Two {
    fn new() -> Self {
        let world = World::new();
        world.write("a", "v1");
        let two = Two(world);
        two.0.run(["init", "--vault", "v1", "--vault", "v2"]).ended(0);
        two.start("data", &[], "true").ended(0);
        two
    }

    fn command(&self, data: &str, options: &[&str], script: &str) -> std::process::Command {
        let vaults = if options.contains(&"--vault") { &[][..] } else { &["--vault", "v1", "--vault", "v2"] };
        let mut command = self.0.command([&RUN[..], vaults, options, &["--", "sh", "-c", script]].concat());
        command.env("LASTGOOD_DATA", self.0.path(data)).env_remove("LASTGOOD_VAULT");
        command
    }

    /// Runs a script as the app on a directory.
    fn start(&self, data: &str, options: &[&str], script: &str) -> Ran {
        Ran::of(self.command(data, options, script))
    }

    /// Has an app on another machine write the file `a`.
    fn elsewhere(&self, options: &[&str], content: &str) {
        self.start("elsewhere", options, &format!("echo {content} > elsewhere/a")).ended(0);
    }

    /// Takes a vault away, as a volume that is not mounted.
    fn away(&self, vault: &str) {
        fs::rename(self.0.path(vault), self.0.path(format!("{vault}-away"))).unwrap();
    }

    fn back(&self, vault: &str) {
        fs::rename(self.0.path(format!("{vault}-away")), self.0.path(vault)).unwrap();
    }

    /// What an app finds in `a`.
    #[track_caller]
    fn found(&self, options: &[&str]) -> String {
        self.start("data", options, "cat data/a").ended(0).text().trim().to_owned()
    }

    /// What an app on a new machine finds there.
    #[track_caller]
    fn found_anew(&self) -> String {
        fs::remove_dir_all(self.0.data()).unwrap();
        self.found(&[])
    }

    fn newest(&self, vault: &str) -> Value {
        let list = self.0.run(["list", "--json", "--vault", vault]);
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        list[0].clone()
    }

    /// Spoils the root of the newest snapshot in a vault. Returns its name.
    fn spoil_newest(&self, vault: &str) -> String {
        let newest = self.newest(vault)["id"].as_str().unwrap().to_owned();
        let root = self.0.path(vault).join(format!("snapshots/{newest}.json"));
        let mut bytes = fs::read(&root).unwrap();
        bytes[50] ^= 0xff;
        fs::write(root, bytes).unwrap();
        newest
    }

    fn pins(&self, vault: &str) -> usize {
        fs::read_dir(self.0.path(vault).join("pins")).map_or(0, Iterator::count)
    }
}

#[test]
fn what_run_restores_without_an_epoch_was_chosen_by_nobody() {
    let two = Two::new();
    two.elsewhere(&[], "v2");
    two.away("v2");
    two.elsewhere(&["--vault", "v1"], "v3");
    two.back("v2");
    // The directory is older than what the only vault that answers has.
    two.away("v1");
    assert_eq!(two.found(&[]), "v2");
    two.back("v1");
    assert_eq!(two.found(&[]), "v3");
    assert_eq!(two.found_anew(), "v3");
}

#[test]
fn an_empty_vault_beside_one_that_is_not_there_is_no_first_start() {
    let world = World::new();
    let two = Two(world);
    two.0.run(["init", "--vault", "v2"]).ended(0);
    two.start("data", &["--vault", "v2"], "mkdir -p data; echo v1 > data/a").ended(0);
    two.0.run(["init", "--vault", "v1", "--vault", "v2"]).ended(0);
    two.away("v2");
    fs::create_dir(two.0.path("v2")).unwrap();
    fs::remove_dir_all(two.0.data()).unwrap();
    let refused = two.start("data", &[], "mkdir -p data; echo empty > data/a");
    refused.ended(1).says("there is no vault").says("although there is one at");
    refused.says("if it was never made, `lastgood init` with each --vault");
    assert!(!two.0.path("data/a").exists());
    fs::remove_dir(two.0.path("v2")).unwrap();
    two.back("v2");
    assert_eq!(two.found(&[]), "v1");
}

#[test]
fn a_name_that_is_left_in_a_command_hides_no_damage() {
    let two = Two::new();
    let old = two.newest("v1")["id"].as_str().unwrap().to_owned();
    two.elsewhere(&[], "v2");
    let damaged = two.spoil_newest("v1");
    two.away("v2");
    // The other vault may have it whole.
    for has_data in [true, false] {
        let refused = two.start("data", &["--snapshot", &old], "cat data/a");
        refused.ended(4).says("may have the snapshot whole");
        assert_eq!((refused.text(), two.0.data().exists()), ("", has_data));
        if has_data {
            fs::rename(two.0.data(), two.0.path("before")).unwrap();
        }
    }
    fs::rename(two.0.path("before"), two.0.data()).unwrap();
    // Nobody has it: the app goes on from what is there, and the damaged one is kept.
    let alone = ["--vault", "v1", "--snapshot", &old];
    let ran = two.start("data", &alone, "cat data/a");
    assert_eq!(ran.ended(0).says("is damaged").text().trim(), "v1");
    assert!(ran.stderr.contains(&damaged) && two.pins("v1") == 1, "{ran:?}");
}

#[test]
fn damage_that_shows_when_the_vault_is_back_is_told_and_pinned() {
    let two = Two::new();
    two.away("v2");
    two.elsewhere(&["--vault", "v1"], "v2");
    two.back("v2");
    let damaged = two.spoil_newest("v1");
    two.away("v1");
    two.0.write("a", "mine");
    let app = "trap 'exit 0' TERM; touch runs; while :; do sleep 0.1; done";
    let mut run = Running::start(without_terminal(&two.command("data", &[], app)), "");
    until("app", WITHIN, || run.log(), || two.0.path("runs").exists().then_some(()));
    two.back("v1");
    run.log_with("the vault answers: this instance is of epoch");
    let log = run.log_with("the newest snapshot is damaged");
    assert!(log.contains(&damaged), "{log}");
    until("pin", WITHIN, || run.log(), || (two.pins("v1") == 1).then_some(()));
    assert_eq!(run.end(rustix::process::Signal::TERM).0, Some(0), "{}", run.log());
    assert_eq!(two.found_anew(), "mine");
}

#[test]
fn what_one_vault_knows_to_be_suspect_is_not_the_newest_because_another_one_has_it_damaged() {
    let two = Two::new();
    for number in 0..60 {
        two.0.write(&format!("f{number}"), "x");
    }
    two.start("data", &[], "true").ended(0);
    two.start("data", &[], "rm data/f?*; echo tiny > data/f1; true").ended(0);
    assert_eq!(two.newest("v2")["state"], "suspect");
    two.spoil_newest("v1");
    let ran = two.start("data", &[], "true");
    assert!(!ran.ended(0).stderr.contains("the newest snapshot is damaged"), "{ran:?}");
    fs::remove_dir_all(two.0.data()).unwrap();
    assert_eq!(two.start("data", &[], "ls data | wc -l").ended(0).text().trim(), "61");
    // With the damaged copy alone it is not known whether it was good: the app runs on, and a new machine gets what was.
    let two = Two::new();
    let alone = ["--vault", "v1"];
    for number in 0..60 {
        two.0.write(&format!("f{number}"), "x");
    }
    two.start("data", &alone, "true").ended(0);
    two.start("data", &alone, "rm data/f?*; echo tiny > data/f1; true").ended(0);
    two.spoil_newest("v1");
    let ran = two.start("data", &alone, "cat data/f1");
    assert_eq!(ran.ended(0).says("the app starts on the data in").text(), "tiny\n");
    fs::remove_dir_all(two.0.data()).unwrap();
    assert_eq!(two.start("data", &alone, "ls data | wc -l").ended(0).text().trim(), "61");
}
