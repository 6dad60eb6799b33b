//! `lastgood doctor` with a vault in a bucket: credentials, network, clock, permissions.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::World;
use crate::support::cloud::credentials::{self, ACCOUNT};
use crate::support::cloud::emulator::{self, Emulator};
use crate::support::cloud::server::{BUCKET, Fault, Kind, Server, WRITER, When};
use crate::support::doctor::{assert_check, complaints};

/// All that both guides' Storage Admin has of what matters here.
const ADMIN: [&str; 8] = [
    "storage.objects.create",
    "storage.objects.get",
    "storage.objects.list",
    "storage.objects.delete",
    "storage.objects.update",
    "storage.buckets.setIamPolicy",
    "storage.buckets.delete",
    "storage.buckets.update",
];

const VAULT: &str = "gs://test-bucket/app";

/// Creates a world like a machine of Google's with a service account attached, and a server that wants tokens.
fn attached(server: &Server) -> World {
    server.demand_tokens();
    World::with_files()
        .with("LASTGOOD_STORAGE_ENDPOINT", server.url())
        .with("GCE_METADATA_HOST", server.host())
        .with("LASTGOOD_VAULT", VAULT)
}

/// Creates a world with this file of credentials.
fn with_file(server: &Server, path: impl Into<std::path::PathBuf>) -> World {
    server.demand_tokens();
    World::with_files()
        .with("LASTGOOD_STORAGE_ENDPOINT", server.url())
        .with("LASTGOOD_VAULT", VAULT)
        .with("GOOGLE_APPLICATION_CREDENTIALS", path.into())
}

/// Asserts that nothing was asked that a writer may not, and that nothing was written.
#[track_caller]
fn assert_harmless(server: &Server) {
    assert_eq!(server.refused(), Vec::<String>::new());
    assert_eq!(server.requests_of(Kind::Create).len(), 0);
    assert!(server.requests().iter().all(|request| !["DELETE", "PATCH", "PUT"].contains(&request.method.as_str())));
}

#[test]
fn a_good_bucket_needs_nothing() {
    let server = Server::start();
    let world = attached(&server).with("GOOGLE_CLOUD_PROJECT", "test-project");
    let report = world.json(["doctor"], 1);
    assert_check(&report, "vault", "problem", "no vault.json", "lastgood init --vault gs://test-bucket/app");
    world.run(["backup", "--init"]).ended(0);
    server.forget();
    let report = world.json(["doctor"], 0);
    assert_eq!((&report["problems"], &report["warnings"]), (&json!(0), &json!(0)), "{report:#}");
    assert_check(&report, "credentials", "ok", "attached service account", "");
    assert_check(&report, "credentials", "ok", ACCOUNT, "");
    assert_check(&report, "project", "ok", "test-project", "");
    assert_check(&report, "snapshots", "ok", "1; the newest", "");
    assert_harmless(&server);
    assert_eq!(report["parts"][0]["place"], VAULT);
    assert_eq!((&report["parts"][0]["subject"], &report["parts"][1]["subject"]), (&json!("vault"), &json!("data")));

    // The same bucket, another prefix.
    let report = world.json(["doctor", "--vault", "gs://test-bucket/wrong"], 1);
    assert_check(&report, "vault", "problem", "none at this address", "gs://test-bucket/**vault.json");
    // A prefix at which something else lies.
    server.put("old/backup_20250101.tar.gz", "x");
    let report = world.json(["doctor", "--vault", "gs://test-bucket/old"], 1);
    assert_check(&report, "other files", "problem", "backup_20250101.tar.gz", "lastgood init");
}

#[test]
fn permissions_that_are_missing_and_the_command_that_grants_them() {
    let server = Server::start();
    let world = attached(&server);
    world.run(["backup", "--init"]).ended(0);
    // To create objects may be granted by a condition on their names, which nobody can ask for.
    for (missing, name, role, outcome) in [
        ("storage.objects.create", "may create", "roles/storage.objectCreator", "warning"),
        ("storage.objects.get", "may get", "roles/storage.objectViewer", "problem"),
        ("storage.objects.list", "may list", "roles/storage.objectViewer", "problem"),
    ] {
        let others: Vec<_> = WRITER.into_iter().filter(|held| *held != missing).collect();
        server.grant(&others);
        let report = world.json(["doctor"], if outcome == "problem" { 1 } else { 0 });
        let command = format!(
            "gcloud storage buckets add-iam-policy-binding gs://{BUCKET} --member=serviceAccount:{ACCOUNT} --role={role}"
        );
        assert_check(&report, name, outcome, missing, &command);
        let missing: Vec<_> = complaints(&report).into_iter().filter(|(name, _)| name.starts_with("may ")).collect();
        assert_eq!(missing, [(name, outcome)], "{report:#}");
    }
    server.grant(&[]);
    let report = world.json(["doctor"], 1);
    assert_check(&report, "bucket", "skipped", "may not be listed", "");
    assert_check(&report, "vault", "skipped", "nothing may be read", "");
    let all = [("may create", "warning"), ("may get", "problem"), ("may list", "problem")];
    assert_eq!(complaints(&report), all, "{report:#}");
    let ran = world.run(["-q", "doctor"]);
    ran.ended(1).says("Vault gs://test-bucket/app: may get: storage.objects.get is missing");
    assert_eq!(ran.text(), "");
}

#[test]
fn whoever_may_destroy_backups_is_warned() {
    let server = Server::start();
    let world = attached(&server).with("GCP_PROJECT_ID", "test-project");
    world.run(["backup", "--init"]).ended(0);
    server.grant(&ADMIN);
    let report = world.json(["doctor"], 0);
    assert_eq!(complaints(&report), [("may not destroy", "warning")], "{report:#}");
    let command = format!(
        "gcloud projects remove-iam-policy-binding test-project --member=serviceAccount:{ACCOUNT} --role=roles/storage.admin"
    );
    assert_check(&report, "may not destroy", "warning", "storage.objects.delete", &command);
    for permission in &ADMIN[3..] {
        let held: Vec<_> = WRITER.into_iter().chain([*permission]).collect();
        server.grant(&held);
        let report = world.json(["doctor"], 0);
        assert_check(&report, "may not destroy", "warning", permission, "roles/storage.objectCreator");
    }
}

#[test]
fn a_missing_bucket() {
    let server = Server::start();
    server.bucket_exists(false);
    let report = attached(&server).json(["doctor"], 1);
    assert_check(&report, "bucket", "problem", "does not exist", "gcloud storage buckets create gs://test-bucket");
    assert_check(&report, "the rest", "skipped", "vault", "");
    assert_eq!(complaints(&report), [("bucket", "problem")], "{report:#}");
}

#[test]
fn no_credentials() {
    let server = Server::start();
    server.demand_tokens();
    let world = World::with_files().with("LASTGOOD_STORAGE_ENDPOINT", server.url()).with("LASTGOOD_VAULT", VAULT);
    let began = Instant::now();
    let report = world.json(["doctor"], 1);
    assert_check(
        &report,
        "credentials",
        "problem",
        "no credentials were found",
        "gcloud auth application-default login",
    );
    assert_eq!(complaints(&report), [("credentials", "problem")], "{report:#}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // There, it is the service account that is missing.
    let report = world.with("CLOUD_RUN_JOB", "nightly").with("LASTGOOD_DATA", "data").json(["doctor"], 1);
    assert_check(&report, "credentials", "problem", "metadata server", "service account attached");
}

#[test]
fn files_that_are_no_credentials() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        std::fs::write(folder.path().join(name), content).unwrap();
        folder.path().join(name)
    };
    for (path, name, found, advice) in [
        ("config/gcs_credentials.json".into(), "credentials", "No such file", "whole path"),
        (folder.path().join("none.json"), "credentials", "No such file", "unset it"),
        (file("half.json", "{\"type\": \"service_acc"), "credentials", "not JSON", "key file"),
        (file("other.json", "{\"installed\": {}}"), "credentials", "no `type`", "key file"),
        (file("new.json", "{\"type\": \"of_tomorrow\"}"), "token", "of_tomorrow", "GOOGLE_APPLICATION_CREDENTIALS"),
    ] {
        let report = with_file(&server, path).json(["doctor"], 1);
        assert_check(&report, name, "problem", found, advice);
        assert_eq!(complaints(&report), [(name, "problem")], "{report:#}");
    }
    // A sample that nobody filled in, which is what one of the guides copies.
    let sample = credentials::key_file_with(
        folder.path(),
        "-----BEGIN PRIVATE KEY-----\nYOUR_PRIVATE_KEY\n-----END PRIVATE KEY-----\n",
    );
    let report = with_file(&server, sample).json(["doctor"], 1);
    assert_check(&report, "credentials", "problem", "its `private_key` is no key", "a key file");
    assert_eq!(complaints(&report), [("credentials", "problem")], "{report:#}");
    // Every other command says the same, and asks nothing.
    let world = with_file(&server, folder.path().join("key.json"));
    server.forget();
    world.run(["list"]).ended(1).says("its `private_key` is no key").says("GOOGLE_APPLICATION_CREDENTIALS names");
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_rule_that_deletes_by_age_is_told_where_it_may_be_asked_for() {
    let server = Server::start();
    let world = attached(&server);
    world.run(["backup", "--init"]).ended(0);
    let rules =
        |condition: Value| json!({"lifecycle": {"rule": [{"action": {"type": "Delete"}, "condition": condition}]}});
    server.set_bucket(rules(json!({"age": 30})));
    // A writer may not ask, and is not made to try.
    server.forget();
    let report = world.json(["doctor"], 0);
    assert_check(
        &report,
        "lifecycle",
        "skipped",
        "could not be asked: storage.buckets.get is not held",
        "by their age",
    );
    assert_harmless(&server);
    let may_ask: Vec<_> = WRITER.into_iter().chain(["storage.buckets.get"]).collect();
    server.grant(&may_ask);
    let report = world.json(["doctor"], 0);
    assert_check(&report, "lifecycle", "warning", "30 days old, which destroys the vault", "update gs://test-bucket");
    assert_eq!(complaints(&report), [("lifecycle", "warning")], "{report:#}");
    assert!(server.requests_of(Kind::Bucket).last().unwrap().target.contains("fields=lifecycle"));
    server.set_bucket(rules(json!({"age": 30, "matchesPrefix": ["app/runs/"]})));
    assert_check(&world.json(["doctor"], 0), "lifecycle", "ok", "no rule", "");
    server.set_bucket(rules(json!({"daysSinceCustomTime": 7})));
    assert_check(&world.json(["doctor"], 0), "lifecycle", "ok", "no rule", "");
    // A condition may grant the permission only seemingly.
    server.script(When::kind(Kind::Bucket).always(), Fault::status(403));
    assert_check(&world.json(["doctor"], 0), "lifecycle", "skipped", "could not be asked: 403", "");
}

#[test]
fn every_kind_of_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    type File<'f> = &'f dyn Fn(&Server) -> Option<std::path::PathBuf>;
    let kinds: [(&str, File, &[&str], &str); 4] = [
        (
            "authorized user",
            &|server| Some(credentials::person_file(at, server, "good")),
            &["oauth"],
            "user:YOUR-ACCOUNT",
        ),
        ("service account", &|_| credentials::key_file(at), &[], "serviceAccount:writer@"),
        (
            "external account",
            &|server| Some(credentials::workload_file(at, server)),
            &["sts"],
            "principal://iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/ci/subject/SUBJECT",
        ),
        (
            "impersonated service account",
            &|server| Some(credentials::impersonation_file(at, server)),
            &["oauth", "impersonation"],
            "serviceAccount:writer@",
        ),
    ];
    for (kind, file, issued, member) in kinds {
        let server = Server::start();
        let Some(path) = file(&server) else { continue };
        let world = with_file(&server, path);
        server.grant(&WRITER[1..]);
        let report = world.json(["doctor"], 1);
        assert_check(&report, "credentials", "ok", kind, "");
        assert_check(&report, "token", "ok", "one was obtained", "");
        assert_check(&report, "bucket", "ok", "exists", "");
        assert_check(&report, "may create", "warning", "storage.objects.create", member);
        assert_eq!(server.tokens_issued(), issued, "{kind}");
        // A backup succeeds where the doctor finds no problem.
        server.grant(&WRITER);
        world.run(["backup", "--init"]).ended(0);
        assert_eq!(complaints(&world.json(["doctor"], 0)), []);
    }
    // The same file, where a login leaves it.
    let server = Server::start();
    server.demand_tokens();
    let world = World::with_files().with("LASTGOOD_STORAGE_ENDPOINT", server.url()).with("LASTGOOD_VAULT", VAULT);
    std::fs::create_dir_all(world.path(".config/gcloud")).unwrap();
    let login = credentials::person(&server, "good").to_string();
    std::fs::write(world.path(".config/gcloud/application_default_credentials.json"), login).unwrap();
    let report = world.json(["doctor"], 1);
    assert_check(&report, "credentials", "ok", "application_default_credentials.json", "");
    assert_eq!(complaints(&report), [("vault", "problem")], "{report:#}");
    // Owners see that their own credentials are more than a backup needs.
    server.grant(&ADMIN);
    let report = world.json(["doctor"], 1);
    assert_check(
        &report,
        "may not destroy",
        "warning",
        "storage.buckets.setIamPolicy",
        "service-accounts create lastgood-writer",
    );
}

#[test]
fn credentials_that_were_revoked() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let report = with_file(&server, credentials::person_file(folder.path(), &server, "revoked")).json(["doctor"], 1);
    assert_check(&report, "token", "problem", "expired or revoked", "gcloud auth application-default login");
    assert_eq!(complaints(&report), [("token", "problem")], "{report:#}");

    // A token that is given, and refused by the bucket.
    server.script(When::kind(Kind::List).always(), Fault::status(401));
    let Some(key) = credentials::key_file(folder.path()) else { return };
    let report = with_file(&server, key).json(["doctor"], 1);
    assert_check(
        &report,
        "bucket",
        "problem",
        "the token is refused",
        "service-accounts keys list --iam-account=writer@",
    );
}

#[test]
fn a_clock_that_is_off() {
    let server = Server::start();
    let world = attached(&server);
    world.run(["backup", "--init"]).ended(0);
    for (skew, code, outcome, found) in
        [(-30, 0, "ok", "ahead of"), (90, 0, "warning", "1 min behind"), (-600, 1, "problem", "ahead of the store's")]
    {
        server.skew(skew);
        assert_check(
            &world.json(["doctor"], code),
            "clock",
            outcome,
            found,
            if skew == -30 { "" } else { "timedatectl" },
        );
    }
}

/// Starts a proxy that gives every request the same answer.
fn proxy(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:secret@{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

/// Returns an address of this machine at which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn networks_that_let_nothing_through() {
    let folder = tempfile::tempdir().unwrap();
    let Some(key) = credentials::key_file(folder.path()) else { return };
    let world = || World::with_files().with("LASTGOOD_VAULT", VAULT).with("GOOGLE_APPLICATION_CREDENTIALS", &key);
    let refused = proxy("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let locked = proxy("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    let server = Server::start();
    server.latency(Duration::from_secs(60));
    for (variable, value, found, advice) in [
        ("LASTGOOD_STORAGE_ENDPOINT", format!("http://{}", nobody()), "refuses connections", "curl"),
        ("STORAGE_EMULATOR_HOST", nobody(), "no emulator answers", "STORAGE_EMULATOR_HOST"),
        ("HTTPS_PROXY", format!("http://{}", nobody()), "which refuses connections", "Is the proxy running"),
        ("HTTPS_PROXY", refused, "not let through by the proxy", "storage.googleapis.com, port 443"),
        ("https_proxy", locked, "asks for a password", "https_proxy=http://USER"),
        ("LASTGOOD_STORAGE_ENDPOINT", server.url(), "does not answer", "firewall"),
    ] {
        let began = Instant::now();
        let ran = world().with(variable, &value).run(["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&ran.ended(1).stdout).unwrap();
        assert_check(&report, "network", "problem", found, advice);
        assert!(began.elapsed() < Duration::from_secs(15), "{variable} {value}: {:?}", began.elapsed());
        assert!(!format!("{ran:?}").contains("secret"), "{ran:?}");
    }
    let world = World::with_files().with("LASTGOOD_STORAGE_ENDPOINT", "http://192.0.2.1").with("LASTGOOD_VAULT", VAULT);
    assert_check(&world.json(["doctor"], 1), "network", "problem", "not encrypted", "https://");
}

#[test]
fn an_answer_comes_soon_and_ctrl_c_ends_it() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let Some(key) = credentials::key_file(folder.path()) else { return };
    let world = with_file(&server, key);
    // It answers, in time for each request, and not for all of them.
    server.latency(Duration::from_millis(3500));
    let began = Instant::now();
    let report = world.json(["doctor"], 1);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_check(&report, "network", "ok", "answers", "");
    assert!(format!("{report}").contains("was up before it answered"), "{report:#}");

    let mut child = world.command(["doctor"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let told = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("told to stop"), "{said}");
}

#[test]
fn emulators_know_no_permissions() {
    let server = Server::start();
    let on_server = World::with_files().on(&server.url(), VAULT);
    let emulator = Emulator::start();
    let on_emulator =
        emulator.as_ref().map(|e| World::with_files().on(&e.url(), &format!("gs://{}/x", emulator::BUCKET)));
    for world in [Some(on_server), on_emulator].into_iter().flatten() {
        world.run(["backup", "--init"]).ended(0);
        let report = world.json(["doctor"], 0);
        assert_check(&report, "permissions", "skipped", "cannot be asked here", "");
        assert_check(&report, "credentials", "ok", "an emulator is used", "");
        assert_eq!(complaints(&report), [], "{report:#}");
    }
    let world = World::with_files().on(&server.url(), "gs://no-such-bucket/x");
    assert_check(&world.json(["doctor"], 1), "bucket", "problem", "does not exist", "");
}

#[test]
fn a_vault_of_another_format() {
    let server = Server::start();
    let world = attached(&server);
    server.put("app/vault.json", "{\"format\": 7}");
    assert_check(&world.json(["doctor"], 1), "vault", "problem", "(format 7;", "");
}

#[test]
fn several_vaults_are_replicas_that_have_the_newest_snapshot() {
    let server = Server::start();
    let world = attached(&server);
    let both = ["doctor", "--vault", "backups", "--vault", VAULT];
    let report = world.json(both, 1);
    assert_check(&report, "vault", "warning", "none", &format!(" --vault {VAULT}"));
    world.run(["backup", "--init", "--vault", "backups", "--vault", VAULT]).ended(0);
    let report = world.json(both, 0);
    assert_eq!(complaints(&report), [], "{report:#}");
    assert_check(&report, "replicas", "ok", "of one vault", "");
    assert_check(&report, "copies", "ok", "each has the newest", "");

    world.write("new.txt", "new");
    world.run(["backup", "--vault", "backups"]).ended(0);
    let report = world.json(both, 0);
    let command = format!("lastgood copy --from {} --to {VAULT}", world.vault().canonicalize().unwrap().display());
    assert_check(&report, "copies", "warning", "is in ", &command);
    world.run(["backup", "--init", "--vault", "other"]).ended(0);
    let report = world.json(["doctor", "--vault", "other", "--vault", VAULT], 1);
    assert_check(&report, "replicas", "problem", "different vaults", "one by one");
}
