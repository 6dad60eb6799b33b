//! `lastgood doctor --only age`: a schedule beside that of the backups, whose failure tells that they have stopped.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cloud::server::{Fault, Kind, Server, When};
use crate::support::cloud::vault_in;
use crate::support::doctor::{assert_check, complaints};
use crate::support::{Ran, World};

const ONLY: [&str; 3] = ["doctor", "--only", "age"];

#[test]
fn a_newest_good_snapshot_that_is_too_old_or_not_there_fails() {
    let world = World::with_files();
    let report = world.json(ONLY, 1);
    assert_check(&report, "age", "problem", "there is no vault", "lastgood init");
    assert!(!world.vault().exists());
    world.run(["init"]).ended(0);
    assert_check(&world.json(ONLY, 1), "age", "problem", "the vault has no snapshots", "lastgood backup");
    world.backup();
    // The data directory is another machine's.
    std::fs::remove_dir_all(world.data()).unwrap();
    let report = world.json(ONLY, 0);
    assert_check(&report, "age", "ok", "the newest good snapshot is", "");
    assert_eq!((report["parts"].as_array().unwrap().len(), &report["problems"]), (1, &json!(0)), "{report:#}");
    assert_eq!(report["parts"][0]["checks"].as_array().unwrap().len(), 1, "{report:#}");
    std::thread::sleep(Duration::from_millis(1100));
    let report = world.json(["doctor", "--only", "age", "--max-age", "1s"], 1);
    assert_check(&report, "age", "problem", "more than 1 s is too old", "Cloud Scheduler");
    assert!(report["parts"][0]["checks"][0]["commands"][0].as_str().unwrap().starts_with("lastgood runs --vault "));

    // A snapshot that is younger and not good counts for nothing.
    std::fs::create_dir(world.data()).unwrap();
    world.run(["backup"]).ended(3);
    let report = world.json(["doctor", "--only", "age", "--max-age", "1s"], 1);
    assert_check(&report, "age", "problem", "more than 1 s is too old", "");
    std::fs::write(world.vault().join("vault.json"), "{").unwrap();
    assert_check(&world.json(ONLY, 1), "age", "problem", "open the vault", "Put vault.json back");
}

#[test]
fn each_of_several_vaults_is_to_be_young() {
    let world = World::with_files();
    let (first, second) = (world.path("first"), world.path("second"));
    let vaults = |more: &[&str]| {
        let mut args = vec!["--vault".to_owned(), first.display().to_string()];
        args.extend(["--vault".to_owned(), second.display().to_string()]);
        [more.iter().map(|&arg| arg.to_owned()).collect(), args].concat()
    };
    world.run(vaults(&["backup", "--init"])).ended(0);
    assert_eq!(complaints(&world.json(vaults(&ONLY), 0)), []);
    std::fs::remove_dir_all(&second).unwrap();
    let report = world.json(vaults(&ONLY), 1);
    assert_eq!(complaints(&report), [("age", "problem")], "{report:#}");
    assert_eq!((&report["parts"][0]["checks"][0]["outcome"], &report["problems"]), (&json!("ok"), &json!(1)));
}

/// Returns what the lines of a JSON log have of a field.
fn logged(ran: &Ran, field: &str) -> Vec<Value> {
    let lines = ran.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line.get(field).cloned()).collect()
}

#[test]
fn metrics_that_are_made_of_the_log_have_numbers() {
    let world = World::with_files();
    let backup = world.run(["backup", "--log-format", "json"]);
    let sent = logged(backup.ended(0), "uploaded_bytes");
    assert!(matches!(&sent[..], [bytes] if bytes.as_u64().is_some_and(|bytes| bytes > 0)), "{backup:?}");
    let verified = world.run(["verify", "--log-format", "json"]);
    assert_eq!(logged(verified.ended(0), "uploaded_bytes"), [] as [Value; 0]);
    let ran = world.run(["doctor", "--only", "age", "--log-format", "json"]);
    let ages = logged(ran.ended(0), "newest_good_snapshot_age_seconds");
    assert!(ran.text().ends_with("The newest good snapshot of each vault is young enough.\n"), "{ran:?}");
    // What fails is in the log, too: an alert is sent by it.
    let failed = world.run(["doctor", "--only", "age", "--vault", "none", "--log-format", "json"]);
    let messages = logged(failed.ended(1), "message");
    assert!(messages.iter().any(|text| text.as_str().unwrap().contains("there is no vault")), "{failed:?}");
    assert!(matches!(&ages[..], [age] if age.as_f64().is_some_and(|age| (0.0..3600.0).contains(&age))), "{ran:?}");
}

#[test]
fn a_snapshot_that_is_dated_ahead_is_a_problem_and_no_negative_number() {
    let (server, world) = vault_in(World::with_files());
    server.skew(240);
    world.run(["backup"]).ended(0);
    // Ahead by less than clocks may be apart, and by more.
    for (skew, code, says) in [(0, 0, "is 0 s old"), (-240, 1, "from now: a clock was wrong")] {
        server.skew(skew);
        let ran = world.run(["doctor", "--only", "age", "--log-format", "json"]);
        let ages = logged(ran.ended(code).says(says), "newest_good_snapshot_age_seconds");
        assert!(matches!(&ages[..], [age] if age.as_f64() == Some(0.0)), "{ran:?}");
    }
    assert_check(&world.json(ONLY, 1), "age", "problem", "from now: a clock was wrong", "nothing tells whether");
}

#[test]
fn whoever_may_only_list_and_read_can_tell_the_age() {
    let server = Server::start();
    server.demand_tokens();
    let world = World::with_files()
        .with("LASTGOOD_STORAGE_ENDPOINT", server.url())
        .with("GCE_METADATA_HOST", server.host())
        .with("LASTGOOD_VAULT", "gs://test-bucket/app");
    world.run(["backup", "--init"]).ended(0);
    server.grant(&["storage.objects.get", "storage.objects.list"]);
    server.forget();
    assert_check(&world.json(ONLY, 0), "age", "ok", "old", "");
    assert_eq!((server.refused(), server.requests_of(Kind::Create).len()), (Vec::<String>::new(), 0));
    // A fault that passes wakes nobody; a bucket that does not answer does.
    server.script(When::any(), Fault::status(503));
    assert_check(&world.json(ONLY, 0), "age", "ok", "old", "");
    server.script(When::any().always(), Fault::status(503));
    let report = world.json(["doctor", "--only", "age", "--store-timeout", "1s"], 1);
    assert_check(&report, "age", "problem", "503", "");
}
