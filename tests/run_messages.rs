//! What `lastgood run` says: once, with the reason, and only what there is to say.

use std::fs;

use crate::support::counter::without_terminal;
use crate::support::{Ran, World};

/// Runs an app that is a script of the shell; how `lastgood run` ended.
fn script(world: &World, script: &str) -> Ran {
    Ran::of(without_terminal(&world.command(["run", "--every", "off", "--", "sh", "-c", script])))
}

/// The lines of errors in a log.
fn errors(ran: &Ran) -> Vec<&str> {
    ran.stderr.lines().filter(|line| line.contains("ERROR")).collect()
}

#[test]
fn a_last_backup_that_fails_is_told_once() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    world.run(["init"]).ended(0);
    let ran =
        script(&world, &format!("echo 1 > data/a; rm -r '{vault}'; touch '{vault}'", vault = world.vault().display()));
    ran.ended(0);
    let errors = errors(&ran);
    assert!(errors.len() == 1 && errors[0].contains("the last snapshot could not be taken"), "{errors:?}");
    assert!(errors[0].contains("ended as failed: could not"), "{errors:?}");
}

#[test]
fn an_app_that_wrote_nothing_on_its_first_start_is_a_warning() {
    let world = World::new();
    world.run(["init"]).ended(0);
    fs::create_dir_all(world.data()).unwrap();
    // A snapshot of nothing would keep the next start from being the first.
    for app in ["kill -USR1 $PPID; sleep 1", "trap '' TERM; kill $PPID; sleep 1"] {
        let ran = script(&world, app);
        ran.says("there is nothing to save: the app has written nothing to");
        let snapshots = fs::read_dir(world.vault().join("snapshots")).map_or(0, Iterator::count);
        assert_eq!((errors(&ran), snapshots), (Vec::new(), 0), "{ran:?}");
    }
    script(&world, "exit 7").ended(7).says("there is nothing to save: the app has written nothing to");
    script(&world, "echo 1 > data/a").ended(0).says("the last snapshot of the app's data is taken");
}

#[test]
fn a_snapshot_that_is_not_as_it_should_be_is_told_once_with_the_reason() {
    let world = World::new();
    world.run(["init"]).ended(0);
    world.write("a", "1");
    let ran = script(&world, "true");
    ran.ended(0);
    // A field without anything to say is not there.
    let ended = ran.stderr.lines().find(|line| line.contains("run ended: backup is complete")).unwrap();
    assert!(ended.contains("snapshot=") && !ended.contains("\"\"") && !ended.contains("error="), "{ended}");
    let ran = script(&world, "rm data/a");
    ran.ended(0);
    let errors = errors(&ran);
    assert_eq!(errors.len(), 1, "{errors:?}");
    let why = "ended as suspect: the data directory is empty: this looks like an unmounted volume";
    assert!(errors[0].contains("the last snapshot is taken") && errors[0].contains(why), "{errors:?}");
}

#[test]
fn what_is_in_the_way_of_the_lineage_is_found_before_an_epoch_is_taken() {
    let world = World::new();
    world.run(["init"]).ended(0);
    world.write("a", "1");
    for name in ["state.json", "seed"] {
        let at = world.data().join(".lastgood").join(name);
        fs::create_dir_all(&at).unwrap();
        let ran = script(&world, "touch ran");
        ran.ended(1).says(".lastgood/").says("a folder has that name");
        assert!(!world.path("ran").exists() && !world.vault().join("epochs").exists(), "{ran:?}");
        fs::remove_dir(at).unwrap();
    }
    script(&world, "true").ended(0);
}

#[test]
fn an_error_names_the_variable_or_the_line_that_said_it() {
    let world = World::new();
    let with = |name: &str, value: &str, more: &[&str]| {
        let mut command = world.command([&["run"], more, &["--", "true"]].concat());
        command.env(name, value);
        Ran::of(command)
    };
    with("LASTGOOD_CRITICAL_ON", "(", &[]).ended(2).says("LASTGOOD_CRITICAL_ON=(").says("unclosed group");
    with("LASTGOOD_CRITICAL_ON_STALE", "yes", &[]).ended(2).says("comes from LASTGOOD_CRITICAL_ON_STALE");
    with("LASTGOOD_INSECURE", "yes", &[]).ended(2).says("--insecure comes from LASTGOOD_INSECURE");
    with("CRITICAL_FILES", "/x", &[]).ended(2).says("/x of CRITICAL_FILES");
    with("LASTGOOD_WEBHOOK_ON", "now", &[]).ended(2).says("LASTGOOD_WEBHOOK_ON=now").says("it must be all or failure");
    let option = with("LASTGOOD_A", "", &["--critical-count", "0"]);
    option.ended(2).says("--critical-count").says("it must be a whole number from 1");
    fs::write(world.path("lastgood.toml"), "[run]\ngrace = \"9s\"\ncritical-on-stale = true\n").unwrap();
    with("LASTGOOD_A", "", &[]).ended(2).says("`critical-on-stale` in lastgood.toml, line 3");
}
