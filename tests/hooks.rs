//! Commands of the user before and after runs.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::Service;
use crate::support::webhook::Webhook;
use crate::support::{World, id};

/// The report of the one run in the vault that ended with this result.
#[track_caller]
fn report(world: &World, result: &str) -> Value {
    let runs = world.json(["runs"], 0);
    let mut found = runs.as_array().unwrap().iter().filter(|run| run["result"] == *result);
    let report = world.json(["runs", found.next().unwrap()["run"].as_str().unwrap()], 0);
    assert!(found.next().is_none(), "{runs}");
    report
}

/// The lines of a file that hooks wrote.
fn lines(world: &World, name: &str) -> Vec<String> {
    fs::read_to_string(world.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn hooks_are_run_around_a_backup_and_a_restore() {
    let tell = r#"echo "$LASTGOOD_HOOK $LASTGOOD_RESULT $LASTGOOD_SNAPSHOT" >> told"#;
    let mut world = World::with_files();
    for name in ["BEFORE_BACKUP", "AFTER_BACKUP", "BEFORE_RESTORE", "AFTER_RESTORE", "ON_FAILURE"] {
        world = world.with(&format!("LASTGOOD_{name}"), tell);
    }
    let backup = world.json(["backup", "--before-backup", "echo made by the hook > data/dump"], 0);
    world.json(["restore", "again"], 0);
    let snapshot = id(&backup);
    let told = [
        format!("after-backup complete {snapshot}"),
        "before-restore  ".into(),
        format!("after-restore complete {snapshot}"),
    ];
    assert_eq!(lines(&world, "told"), told);
    // It was there before the backup began.
    assert_eq!(fs::read_to_string(world.path("again/dump")).unwrap(), "made by the hook\n");
    // Nothing has to be done, and a wrong path is no reason to stop an app.
    world.run(["restore", "again", "--if-missing"]).ended(0);
    world.run(["backup", "nowhere"]).ended(1);
    world.run(["verify"]).ended(0);
    assert_eq!(lines(&world, "told")[3..], ["on-failure failed "]);
}

#[test]
fn a_before_hook_that_fails_stops_the_run_and_an_after_hook_does_not() {
    let world = World::with_files();
    let fails =
        ["backup", "--before-backup", "echo 'token=abcdef'; echo no room >&2; exit 7", "--after-backup", "touch after"];
    let ran = world.run([&fails[..], &["--on-failure", "echo \"$LASTGOOD_CODE\" > failed"]].concat());
    ran.ended(1).says("could not run the hook before-backup: it ended with exit code 7: no room [hook-failed]");
    assert!(!world.path("after").exists() && !world.vault().join("vault.json").exists());
    assert_eq!(lines(&world, "failed"), ["hook-failed"]);
    world.run(["init"]).ended(0);
    let (ran, after) = (world.run([&fails[..], &["-v"]].concat()), world.path("after"));
    assert!(ran.ended(1).stderr.contains("token=[masked]") && !ran.stderr.contains("abcdef"), "{ran:?}");
    assert!(!after.exists());
    let failed = world.run(["backup", "--after-backup", "exit 1", "--hook-timeout", "20s"]);
    failed.ended(0).says("could not run the hook after-backup: it ended with exit code 1 [hook-failed]");
    let why =
        json!([{ "hook": "after-backup", "error": "could not run the hook after-backup: it ended with exit code 1" }]);
    assert_eq!(report(&world, "complete")["hook_failures"], why);
    let failed = report(&world, "failed");
    assert_eq!((&failed["error"]["code"], failed.get("hook_failures")), (&json!("hook-failed"), None));
}

#[test]
fn a_hook_gets_no_credentials_and_no_hooks() {
    let told = Webhook::new(&[]);
    let mut world = World::with_files().with("LASTGOOD_AFTER_BACKUP", "env > env");
    for (name, value) in [
        ("LASTGOOD_WEBHOOK", &*told.url()),
        ("LASTGOOD_PING", &*told.url()),
        ("LASTGOOD_TOKEN", "secret"),
        ("LASTGOOD_CLAIM", "secret"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/secret"),
    ] {
        world = world.with(name, value);
    }
    world.backup();
    let env = lines(&world, "env");
    assert!(!env.iter().any(|line| line.contains("secret") || line.contains("_BACKUP=")), "{env:?}");
    assert!(env.iter().any(|line| line.starts_with("PATH=")) && env.iter().any(|line| line.starts_with("HOME=")));
    let data = format!("LASTGOOD_DATA={}", world.data().display());
    assert!(env.contains(&data) && env.contains(&format!("LASTGOOD_VAULT={}", world.vault().display())), "{env:?}");
}

#[test]
fn a_hook_that_takes_too_long_is_ended_with_what_it_started() {
    let world = World::with_files();
    let began = Instant::now();
    let hook = "sleep 600 & echo $! > pid; sleep 600";
    let ran = world.run(["backup", "--before-backup", hook, "--hook-timeout", "1s"]);
    ran.ended(1).says("it took longer than 1 s and was ended").says("--hook-timeout");
    assert!(began.elapsed() < Duration::from_secs(60));
    let process = format!("/proc/{}/stat", lines(&world, "pid")[0]);
    while fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(began.elapsed() < Duration::from_secs(60), "it is there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn runs_of_a_service_have_hooks_too() {
    let world = World::with_files();
    let tell = r#"echo "$LASTGOOD_HOOK $LASTGOOD_REASON $LASTGOOD_RESULT" >> told; [ ! -e fail ]"#;
    let args = ["--before-backup", tell, "--after-backup", tell, "--on-failure", tell];
    world.run(["init"]).ended(0);
    let service = Service::start(&world, args);
    service.post("/backup/trigger", "").is(200);
    assert_eq!(lines(&world, "told"), ["before-backup manual ", "after-backup manual complete"]);
    fs::write(world.path("fail"), "").unwrap();
    service.post("/backup/trigger", "").is(503);
    assert_eq!(lines(&world, "told")[2..], ["before-backup manual ", "on-failure manual failed"]);
    let report = report(&world, "failed");
    assert_eq!(
        (&report["error"]["code"], &report["hook_failures"][0]["hook"]),
        (&json!("hook-failed"), &json!("on-failure"))
    );
}
