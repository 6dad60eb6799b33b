//! `lastgood run --listen`: the interface of `serve` beside the app, and restores that are asked for while it runs.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::counter::{Counters, WITHIN, gone, until, without_terminal};
use crate::support::http::Service;

const LISTEN: [&str; 4] = ["--listen", "127.0.0.1:0", "--every", "off"];
const RESTORES: [&str; 5] = ["--listen", "127.0.0.1:0", "--every", "off", "--allow-restore"];

/// Starts the counter in `data`, with an interface beside it, and waits until it counts.
fn start(counters: &Counters, options: &[&str]) -> Service {
    let app = ["--", "python3", "-I", "-S", "counter.py", "a", "5"];
    let mut command = counters.world.command([&["run", "--init"], options, &app].concat());
    command.env("LASTGOOD_DATA", counters.world.path("data"));
    // It is the app's.
    command.env("PORT", "1");
    let service = Service::of(without_terminal(&command));
    counters.counts("a", "data", &service);
    service
}

/// Takes a snapshot; its id.
fn back_up(service: &Service) -> String {
    let report = service.post("/backup/trigger", "").is(200);
    assert_eq!((&report["result"], &report["way"]), (&json!("complete"), &json!("http")), "{report}");
    report["snapshot"].as_str().unwrap().rsplit('-').next().unwrap().to_owned()
}

/// Asks for a restore; the run.
fn ask(service: &Service, snapshot: &str) -> String {
    let accepted = service.post("/backup/restore", &json!({ "snapshot": snapshot }).to_string()).is(202);
    accepted["run"].as_str().unwrap().to_owned()
}

/// Waits until a run is over; its report.
fn over(service: &Service, run: &str) -> Value {
    let ended = || {
        let told = service.get(&format!("/runs/{run}")).is(200);
        (told["status"] == "over").then(|| told["report"].clone())
    };
    until(&format!("end of {run}"), WITHIN, || service.log(), ended)
}

fn app(service: &Service) -> Value {
    service.get("/backup/status").is(200)["app"].clone()
}

#[test]
fn the_interface_of_serve_is_beside_the_app() {
    let counters = Counters::new();
    let mut run = start(&counters, &LISTEN);
    until("app that runs", WITHIN, || run.log(), || (app(&run)["state"] == "running").then_some(()));
    assert_eq!(app(&run)["epoch"], 1);
    let snapshot = back_up(&run);
    assert_eq!(counters.snapshots()[0]["id"].as_str().unwrap().rsplit('-').next().unwrap(), snapshot);
    let health = run.get("/health").is(200);
    assert_eq!((&health["status"], &health["app"]["state"]), (&json!("healthy"), &json!("running")), "{health}");
    run.post("/backup/restore", "").is(403);

    // An address that is in use stops no other instance's app.
    let address = run.address.to_string();
    let other = ["run", "--listen", &address, "--", "sh", "-c", "echo > started"];
    counters.world.run(other).ended(1).says("could not listen on").says(&address);
    let epochs = fs::read_dir(counters.world.vault().join("epochs")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(epochs.map(|name| name.into_string().unwrap()).all(|name| name.starts_with("1.")), "{}", run.log());
    // Flags of an interface that there is not are no way to guard it.
    counters.world.run(["run", "--auth", "none", "--", "true"]).ended(2).says("--listen");

    assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
    assert!(!counters.world.path("started").exists());
    counters.nothing_is_set_aside();
}

#[test]
fn a_restore_stops_the_app_and_starts_it_on_the_snapshot_which_is_the_newest_then() {
    let counters = Counters::new();
    let mut run = start(&counters, &RESTORES);
    let old = back_up(&run);
    let then = counters.saved_in(&old);
    counters.counted_beyond("data", then + 20, &run);

    let asked = ask(&run, &old);
    assert_eq!(counters.begun("a", 2, &run).count, then, "{}", run.log());
    let stopped = counters.stopped("a");
    assert!(stopped > then + 20, "{stopped}");
    let report = over(&run, &asked);
    assert_eq!((&report["action"], &report["result"]), (&json!("restore"), &json!("complete")), "{report}");
    let way_back = report["restore"]["way_back"].as_str().unwrap_or_else(|| panic!("{report}"));
    assert_eq!(counters.saved_in(way_back), stopped);
    assert_eq!(counters.saved(), then);
    assert_eq!(app(&run)["epoch"], 2);
    let pins: Vec<_> = fs::read_dir(counters.world.vault().join("pins")).unwrap().collect();
    assert_eq!((pins.len(), counters.aside().len()), (1, 1));

    // And back again.
    let asked = ask(&run, way_back);
    assert_eq!(counters.begun("a", 3, &run).count, stopped, "{}", run.log());
    assert_eq!(over(&run, &asked)["result"], "complete");
    assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
    fs::remove_dir_all(counters.world.data()).unwrap();
    let mut run = start(&counters, &LISTEN);
    assert_eq!(counters.begun("a", 4, &run).count, counters.saved(), "{}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
}

#[test]
fn a_restore_that_fails_leaves_the_app_on_its_data() {
    let counters = Counters::new();
    let mut run = start(&counters, &RESTORES);
    fs::write(counters.world.path("data/held"), "by a program").unwrap();
    let old = back_up(&run);
    let answer = run.post("/backup/restore", r#"{"snapshot":"0123456789abcdef"}"#);
    assert!((400..500).contains(&answer.status), "{}", answer.text());

    // Another program has a file open: the app is stopped by then.
    let mut holder = std::process::Command::new("sleep");
    holder.arg("600").stdin(fs::File::open(counters.world.path("data/held")).unwrap());
    let mut holder = holder.spawn().unwrap();
    let asked = ask(&run, &old);
    let begun = counters.begun("a", 2, &run);
    assert_eq!(begun.count, counters.stopped("a"), "{}", run.log());
    let report = over(&run, &asked);
    assert_eq!((&report["result"], &report["error"]["code"]), (&json!("failed"), &json!("in-use")), "{report}");
    let status = app(&run);
    assert_eq!((&status["state"], &status["epoch"]), (&json!("running"), &json!(1)));
    holder.kill().unwrap();
    holder.wait().unwrap();

    assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
    assert!(counters.aside().is_empty(), "{:?}", counters.aside());
}

#[test]
fn a_signal_during_a_restore_stops_and_saves_the_app() {
    // Before the app is stopped for it, and after.
    for stopped in [false, true] {
        let counters = Counters::new();
        let hold = match stopped {
            false => "test ! -e armed || { touch held; sleep 60; }",
            true => "test ! -e armed || { test ! -e once || { rm armed; touch held; sleep 60; }; touch once; }",
        };
        let hook = if stopped { "--before-backup" } else { "--before-restore" };
        let options = [&RESTORES[..], &[hook, hold]].concat();
        let mut run = start(&counters, &options);
        let old = back_up(&run);
        counters.counted_beyond("data", counters.saved_in(&old) + 5, &run);
        fs::write(counters.world.path("armed"), "").unwrap();
        ask(&run, &old);
        until("hook", WITHIN, || run.log(), || counters.world.path("held").exists().then_some(()));
        let (code, time) = run.end(Signal::TERM);
        assert_eq!(code, Some(5), "{}", run.log());
        assert!(time < Duration::from_secs(12), "{time:?}: {}", run.log());
        assert_eq!((counters.starts("a"), counters.saved()), (1, counters.stopped("a")), "{}", run.log());
        assert!(counters.aside().is_empty(), "{:?}", counters.aside());
    }
}

#[test]
fn a_signal_after_the_exchange_leaves_the_new_data_as_the_newest() {
    let counters = Counters::new();
    let mut run = start(&counters, &[&RESTORES[..], &["--after-restore", "touch held; sleep 60"]].concat());
    let old = back_up(&run);
    let then = counters.saved_in(&old);
    counters.counted_beyond("data", then + 5, &run);
    ask(&run, &old);
    until("hook", WITHIN, || run.log(), || counters.world.path("held").exists().then_some(()));
    // Without the app, which was stopped for the restore.
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    assert_eq!((counters.starts("a"), counters.count("data"), counters.saved()), (1, then, then), "{}", run.log());
    let mut run = start(&counters, &LISTEN);
    assert_eq!(counters.begun("a", 2, &run).count, then, "{}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
}

#[test]
fn another_instance_that_takes_over_during_a_restore_has_what_the_app_wrote_last() {
    let counters = Counters::new();
    let hold = "test ! -e armed || { test ! -e once || { rm armed; touch held; sleep 60; }; touch once; }";
    let options = ["--handover-poll", "100ms", "--on-superseded", "exit", "--before-backup", hold];
    let mut run = start(&counters, &[&RESTORES[..], &options].concat());
    let old = back_up(&run);
    counters.counted_beyond("data", counters.saved_in(&old) + 5, &run);
    fs::write(counters.world.path("armed"), "").unwrap();
    ask(&run, &old);
    until("hook", WITHIN, || run.log(), || counters.world.path("held").exists().then_some(()));
    let mut other = counters.start("b", "elsewhere", &["--every", "off", "--handover-poll", "100ms"]);
    assert_eq!(counters.begun("b", 1, &other).count, counters.stopped("a"), "{}{}", run.log(), other.log());
    assert_eq!(run.wait().0, Some(0), "{}", run.log());
    assert_eq!(other.end(Signal::TERM).0, Some(0), "{}", other.log());
    assert!(counters.aside().is_empty(), "{:?}", counters.aside());
}

#[test]
fn an_instance_that_comes_when_a_restore_is_over_is_not_overtaken() {
    let counters = Counters::new();
    // So many files that they take time to be looked at.
    for n in 0..3000 {
        counters.world.write(&format!("many/{n}"), "");
    }
    let mut run = start(&counters, &[&RESTORES[..], &["--handover-poll", "100ms"]].concat());
    let old = back_up(&run);
    ask(&run, &old);
    // Its epoch has ended, and it has not looked at the directory for the next one.
    let ended = counters.world.vault().join("epochs/1.end.json");
    until("end of the epoch", WITHIN, || run.log(), || ended.exists().then_some(()));
    run.signal(Signal::STOP);
    let mut other = counters.start("b", "elsewhere", &["--every", "off", "--handover-poll", "100ms"]);
    let begun = counters.begun("b", 1, &other).count;
    assert_eq!(begun, counters.saved_in(&old), "{}", other.log());
    run.signal(Signal::CONT);
    run.log_with("another instance runs the app: this one waits");
    std::thread::sleep(Duration::from_secs(1));
    assert!(!counters.world.vault().join("epochs/3.json").exists(), "{}{}", run.log(), other.log());
    assert!(!other.log().contains("another instance runs the app"), "{}", other.log());
    assert_eq!(other.end(Signal::TERM).0, Some(0), "{}", other.log());
    // It is needed again then.
    assert_eq!(counters.begun("a", 2, &run).count, counters.stopped("b"), "{}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
}

#[test]
fn what_a_killed_restore_has_staged_goes_at_the_next_start_whatever_that_does() {
    let counters = Counters::new();
    let mut run = counters.started("a", "data", &["--every", "off"]);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    let staged = [".data.lastgood-restoring-0123456789abcdef", "data/.lastgood-restoring-0123456789abcdef"];
    let staged = staged.map(|name| counters.world.path(name));
    for staged in &staged {
        fs::create_dir_all(staged.join("tree")).unwrap();
        fs::write(staged.join("tree/n"), "1").unwrap();
        fs::set_permissions(staged, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    // Another directory's.
    let other = counters.world.path(".database.lastgood-restoring-0123456789abcdef");
    fs::create_dir(&other).unwrap();
    let mut run = counters.started("b", "data", &["--every", "off"]);
    run.log_with("is fresh");
    let gone = || staged.iter().all(|staged| !staged.exists()).then_some(());
    until("end of what was staged", WITHIN, || run.log(), gone);
    assert!(other.exists());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
}

#[test]
fn a_kill_during_a_restore_leaves_the_old_data_or_the_new() {
    for (round, wait) in [0, 150, 300, 500, 800].into_iter().enumerate() {
        let counters = Counters::new();
        let options = [&RESTORES[..], &["--handover-poll", "100ms"]].concat();
        let mut run = start(&counters, &options);
        let old = back_up(&run);
        let then = counters.saved_in(&old);
        assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
        let far = 1_000_000;
        fs::write(counters.world.path("data/n"), far.to_string()).unwrap();
        let mut run = start(&counters, &options);
        let app = counters.begun("a", 2, &run);
        back_up(&run);
        ask(&run, &old);
        std::thread::sleep(Duration::from_millis(wait));
        run.end(Signal::KILL);
        gone(app.pid);
        if let Some(next) = counters.said("a").iter().rev().find(|said| said.what == "begins") {
            gone(next.pid);
        }
        if round % 2 == 1 {
            fs::remove_dir_all(counters.world.data()).unwrap();
        }
        let starts = counters.starts("a");
        let mut run = start(&counters, &options);
        let count = counters.begun("a", starts + 1, &run).count;
        assert!(count >= far || (then..then + 1000).contains(&count), "{count} {then}: {}", run.log());
        assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
        assert_eq!(counters.saved(), counters.stopped("a"));
    }
}

#[test]
fn a_snapshot_that_only_the_second_vault_has_is_restored() {
    let counters = Counters::new();
    let vaults = ["--vault", "backups", "--vault", "second"];
    counters.world.run([&["init"], &vaults[..]].concat()).ended(0);
    let options = [&RESTORES[..], &vaults].concat();
    let mut run = start(&counters, &options);
    counters.begun("a", 1, &run);
    counters.counted_beyond("data", 3, &run);
    let old = back_up(&run);
    let then = counters.saved_in(&old);
    let lost = fs::read_dir(counters.world.vault().join("snapshots")).unwrap().map(|entry| entry.unwrap().path());
    let lost: Vec<_> = lost.filter(|path| path.to_str().unwrap().contains(&old)).collect();
    assert_eq!(lost.len(), 1);
    fs::remove_file(&lost[0]).unwrap();
    counters.counted_beyond("data", then + 20, &run);
    assert_eq!(run.post("/backup/restore", r#"{"snapshot":"ffff"}"#).status, 404);
    let asked = ask(&run, &old);
    assert_eq!(counters.begun("a", 2, &run).count, then, "{}", run.log());
    assert_eq!(over(&run, &asked)["result"], "complete");
    assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());

    // And without an app.
    let mut service = Service::start(&counters.world, [&vaults[..], &["--allow-restore"]].concat());
    let restored = service.post("/backup/restore", &json!({ "snapshot": old }).to_string()).is(200);
    assert_eq!(restored["result"], "complete", "{restored}");
    assert_eq!(counters.count("data"), then);
    assert_eq!(service.end(Signal::TERM).0, Some(0), "{}", service.log());
}

#[test]
fn an_instance_that_begins_unseen_during_a_restore_is_not_overtaken() {
    let counters = Counters::new();
    // It looks once a minute.
    let options = ["--handover-poll", "60s", "--on-superseded", "exit", "--after-restore"];
    let hold = "touch held; until test -e go; do sleep 0.05; done";
    let mut run = start(&counters, &[&RESTORES[..], &options, &[hold]].concat());
    counters.begun("a", 1, &run);
    counters.counted_beyond("data", 3, &run);
    let old = back_up(&run);
    let then = counters.saved_in(&old);
    counters.counted_beyond("data", then + 5, &run);
    ask(&run, &old);
    until("hook", WITHIN, || run.log(), || counters.world.path("held").exists().then_some(()));
    let mut other = counters.start("b", "elsewhere", &["--every", "off", "--handover-poll", "100ms"]);
    other.log_with("waiting for the end of epoch 1");
    fs::write(counters.world.path("go"), "").unwrap();
    assert_eq!(counters.begun("b", 1, &other).count, then, "{}{}", run.log(), other.log());
    assert_eq!(run.wait().0, Some(0), "{}", run.log());
    assert_eq!(other.end(Signal::TERM).0, Some(0), "{}", other.log());
    assert_eq!((counters.starts("a"), counters.starts("b")), (1, 1));
}
