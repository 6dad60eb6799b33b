//! The program as a Cloud Run job: what its attempts leave to each other, and that it ends in time.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::cloud::server::{Fault, Kind, Point, Server, When};
use crate::support::cloud::{self, vault_in};
use crate::support::compare::assert_same;
use crate::support::database;
use crate::support::requirements::{as_nobody, skipped};
use crate::support::tree::{noise, set_mtime};
use crate::support::webhook::{Post, Webhook};
use crate::support::{Ran, World, id, is_root, number};

/// The time that Cloud Run gives a job between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// Returns a command as an attempt of a task of an execution.
fn attempt(world: &World, execution: &str, attempt: u32, args: &[&str]) -> Command {
    let mut command = world.command(args);
    command.env("CLOUD_RUN_JOB", "nightly").env("CLOUD_RUN_EXECUTION", execution);
    command.env("CLOUD_RUN_TASK_INDEX", "0").env("CLOUD_RUN_TASK_ATTEMPT", attempt.to_string());
    command
}

fn ran(world: &World, execution: &str, number: u32, args: &[&str]) -> Ran {
    Ran::of(attempt(world, execution, number, args))
}

fn json(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|why| panic!("{why}: {ran:?}"))
}

/// Returns the names of the snapshots, newest first.
fn snapshots(world: &World) -> Vec<String> {
    let list = world.json(["list"], 0);
    list.as_array().unwrap().iter().map(id_of).collect()
}

fn id_of(snapshot: &Value) -> String {
    snapshot["id"].as_str().unwrap().to_owned()
}

/// Returns the objects of claims in a vault's folder.
fn claims(world: &World) -> Vec<PathBuf> {
    let folders = fs::read_dir(world.vault().join("claims")).map(Iterator::flatten);
    let mut all: Vec<_> = folders
        .into_iter()
        .flatten()
        .flat_map(|folder| fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()))
        .collect();
    all.sort();
    all
}

fn claim_names(world: &World) -> Vec<String> {
    claims(world).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Waits until something is so while a command is running.
fn wait_for(child: &mut Child, what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < Duration::from_secs(120), "{what}: it does not happen");
        assert!(child.try_wait().unwrap().is_none(), "{what}: it ended before");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends SIGTERM; what was said, and how long it took to end.
fn terminated(child: Child) -> (Ran, Duration) {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let told = Instant::now();
    let done = child.wait_with_output().unwrap();
    let took = told.elapsed();
    println!("it ended {took:?} after SIGTERM");
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    (Ran { code: done.status.code(), stdout: done.stdout, stderr }, took)
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn an_attempt_after_one_that_succeeded_takes_no_second_snapshot() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    let first = ran(&world, "nightly-abcde", 0, &["backup", "data", "--json"]);
    first.ended(0);
    let first = json(&first);
    world.write("a.txt", "changed");
    let second = ran(&world, "nightly-abcde", 1, &["backup", "data", "--json"]);
    second.ended(0).says("committed the snapshot").says(id(&first)).says("no second one");
    let report = json(&second);
    assert_eq!((&report["snapshot"], &report["result"]), (&first["snapshot"], &"complete".into()));
    assert_eq!((&report["place"]["execution"], &report["place"]["attempt"]), (&"nightly-abcde".into(), &"0".into()));
    assert_eq!(report["way"], "cloud_run_job");
    ran(&world, "nightly-abcde", 2, &["backup", "data"]).ended(0).says("no second one");
    assert_eq!(
        (snapshots(&world), claim_names(&world)),
        (vec![id(&first).to_owned()], vec!["1.json".into(), "done.json".into()])
    );
    // Every snapshot names its run.
    let run = world.json(["runs", report["run"].as_str().unwrap()], 0);
    assert_eq!(run, report);
    // Another execution, another task, and one that happens to have the name again, are others.
    ran(&world, "nightly-fghij", 0, &["backup", "data"]).ended(0);
    let mut task = attempt(&world, "nightly-abcde", 1, &["backup", "data"]);
    task.env("CLOUD_RUN_TASK_INDEX", "1");
    Ran::of(task).ended(0);
    ran(&world, "nightly-abcde", 0, &["backup", "data"]).ended(0);
    assert_eq!(snapshots(&world).len(), 4);
    // And what is no Cloud Run job claims nothing.
    let before = claims(&world);
    world.backup();
    assert_eq!(claims(&world), before);
}

#[test]
fn an_attempt_that_was_killed_is_taken_over_at_once() {
    let world = World::new();
    for n in 0..40 {
        let path = format!("{n:02}.bin");
        world.write(&path, noise(n, 1_000_000));
        set_mtime(&world.data().join(path), 1_700_000_000, 0);
    }
    world.run(["init"]).ended(0);
    let args = ["backup", "data", "--checkpoint-every", "1ms", "--json"];
    let checkpoints = || fs::read_dir(world.vault().join("checkpoints")).map_or(0, Iterator::count);
    let mut child = spawn(attempt(&world, "nightly-abcde", 0, &args));
    wait_for(&mut child, "checkpoints", || checkpoints() >= 4);
    child.kill().unwrap();
    child.wait_with_output().unwrap();
    assert_eq!((snapshots(&world), claim_names(&world)), (vec![], vec!["1.json".to_owned()]));
    let begin = Instant::now();
    let second = ran(&world, "nightly-abcde", 1, &args);
    second.ended(0);
    let report = json(&second);
    let read = number(&report, "read_bytes");
    assert!(read <= 37_000_000, "{read} of 40,000,000 bytes are read again");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    assert_eq!(claim_names(&world), ["1.json", "2.json", "done.json"]);
    assert_eq!(snapshots(&world), [id(&report)]);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn a_snapshot_that_was_committed_just_before_the_kill_is_found() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    let first = json(&ran(&world, "nightly-abcde", 0, &["backup", "data", "--json"]));
    let done = claims(&world).pop().unwrap();
    assert!(done.ends_with("done.json"));
    // As a kill leaves it after the root and before the claim's end; then, before the report, too.
    fs::remove_file(&done).unwrap();
    let second = ran(&world, "nightly-abcde", 1, &["backup", "data", "--json"]);
    second.ended(0).says("no second one");
    assert_eq!(json(&second)["place"]["attempt"], "0");
    fs::remove_file(&done).unwrap();
    fs::remove_dir_all(world.vault().join("runs")).unwrap();
    for number in [2, 3] {
        let next = ran(&world, "nightly-abcde", number, &["backup", "data", "--json"]);
        next.ended(0).says("no second one");
        let report = json(&next);
        assert_eq!((&report["snapshot"], &report["place"]["attempt"]), (&first["snapshot"], &"2".into()));
    }
    assert_eq!(snapshots(&world), [id(&first)]);
    // The same attempt twice: the second of them cannot know that the first one is over.
    fs::remove_file(&done).unwrap();
    ran(&world, "nightly-abcde", 2, &["backup", "data"]).ended(1).says("is not over");
}

#[test]
fn a_failed_attempt_is_followed_by_another() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    fs::rename(world.data(), world.path("away")).unwrap();
    ran(&world, "nightly-abcde", 0, &["backup", "data"]).ended(1).says("does not exist");
    assert_eq!(claim_names(&world), ["1.failed.json", "1.json"]);
    fs::rename(world.path("away"), world.data()).unwrap();
    ran(&world, "nightly-abcde", 1, &["backup", "data"]).ended(0);
    assert_eq!(claim_names(&world), ["1.failed.json", "1.json", "2.json", "done.json"]);
    // A refused backup is no success, however often it is tried.
    let long = format!("k={}", "v".repeat(2000));
    let args = ["backup", "data", "--label", &long];
    ran(&world, "nightly-fghij", 0, &args).ended(2).says("1024 bytes");
    ran(&world, "nightly-fghij", 1, &args).ended(2).says("1024 bytes");
    assert_eq!(snapshots(&world).len(), 1);
}

#[test]
fn a_snapshot_that_is_not_good_is_not_taken_ten_times() {
    let world = World::with_files();
    // The first backup of all makes the vault, and its claim comes late.
    fs::remove_dir_all(world.data()).unwrap();
    fs::create_dir(world.data()).unwrap();
    ran(&world, "nightly-abcde", 0, &["backup", "data"]).ended(3).says("unmounted volume");
    ran(&world, "nightly-abcde", 1, &["backup", "data"]).ended(3).says("which is suspect");
    assert_eq!(snapshots(&world).len(), 1);
    // Where a job is run again whatever it ended with.
    for (tolerated, code) in [("suspect", 0), ("partial,suspect", 0), ("partial", 3), ("unsound,partial", 3)] {
        let ran = world.run(["backup", "data", "--exit-zero-on", tolerated]);
        ran.ended(code).says("ERROR").says("unmounted volume");
    }
    world.run(["backup", "data", "--exit-zero-on", "failed"]).ended(2);
    world.write("a.txt", "a");
    world.run(["backup", "gone", "--exit-zero-on", "partial,suspect,unsound"]).ended(1);
}

#[test]
fn a_partial_and_an_unsound_snapshot_may_be_enough() {
    let world = World::with_files();
    database::run(&world.data().join("orders.db"), &database::table(500, 200));
    let path = world.data().join("orders.db");
    let mut bytes = fs::read(&path).unwrap();
    let (at, page) = (bytes.len() / 2 / 4096 * 4096, [0x55; 512]);
    bytes[at..at + 512].copy_from_slice(&page);
    fs::write(&path, bytes).unwrap();
    let args = ["backup", "data", "--check-databases", "full", "--exit-zero-on", "unsound"];
    world.run(&args[..4]).ended(3);
    world.run(args).ended(0).says("failed its check");
    fs::remove_file(path).unwrap();
    if !is_root() {
        return skipped("root", "only root can be somebody else");
    }
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(world.data().join("a.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    world.write("b.txt", "b");
    let Some(ran) = as_nobody(&world, &["backup", "data", "--init", "--vault", "other"]) else { return };
    ran.ended(3);
    let ran = as_nobody(&world, &["backup", "data", "--vault", "other", "--exit-zero-on", "partial"]).unwrap();
    ran.ended(0).says("ERROR");
}

#[test]
fn sigterm_ends_a_backup_in_time_and_the_next_attempt_goes_on() {
    let (server, world) = vault_in(World::new());
    for n in 0..60 {
        let path = format!("{n:02}.bin");
        world.write(&path, noise(n, 1_000_000));
        set_mtime(&world.data().join(path), 1_700_000_000, 0);
    }
    server.bandwidth(4 << 20);
    let args = ["backup", "data", "--checkpoint-every", "1ms", "--json"];
    let count = |server: &Server, name: &str| server.names().iter().filter(|n| n.contains(name)).count();
    let mut child = spawn(attempt(&world, "nightly-abcde", 0, &args));
    wait_for(&mut child, "checkpoints", || count(&server, "/checkpoints/") >= 4);
    let (ran, took) = terminated(child);
    ran.ended(1).says("told to stop");
    assert!(took < GRACE, "{took:?}");
    assert_eq!((count(&server, "/1.failed.json"), count(&server, "/runs/")), (1, 1));
    assert_eq!(cloud::snapshots(&world), [""; 0]);
    server.bandwidth(0);
    let next = self::ran(&world, "nightly-abcde", 1, &args);
    next.ended(0);
    let read = number(&json(&next), "read_bytes");
    assert!(read <= 57_000_000, "{read} of 60,000,000 bytes are read again");
    assert_eq!((count(&server, "/2.json"), count(&server, "/done.json")), (1, 1));
    world.run(["restore", "out"]).ended(0);
    assert_same(&world.data(), &world.path("out"));
    // A writer's permissions were enough.
    assert_eq!(server.refused(), [""; 0]);
}

#[test]
fn sigterm_ends_it_in_time_when_the_store_is_silent() {
    let (server, world) = vault_in(World::new());
    world.write("a.bin", noise(1, 20 << 20));
    let mut child = spawn(attempt(&world, "nightly-abcde", 0, &["backup", "data"]));
    let silence = || Fault::Stall(Point::Upload(0), Duration::from_secs(60));
    server.script(When::create("packs/").always(), silence());
    wait_for(&mut child, "an upload", || server.faults() > 0);
    server.script(When::any().always(), silence());
    let (ran, took) = terminated(child);
    ran.ended(1).says("told to stop").says("could not be marked as failed");
    assert!(took < GRACE, "{took:?}");
    // Nobody could be told; the next attempt knows all the same.
    server.heal();
    self::ran(&world, "nightly-abcde", 1, &["backup", "data"]).ended(0);
}

#[test]
fn sigterm_ends_it_in_time_when_the_data_is_locked() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    let path = world.data().join("orders.db");
    database::run(&path, &database::table(10, 10));
    let lock = rusqlite::Connection::open(&path).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut child = spawn(attempt(&world, "nightly-abcde", 0, &["backup", "data", "--busy-timeout", "10m"]));
    wait_for(&mut child, "a claim", || !claims(&world).is_empty());
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "it does not wait for the lock");
    let (ran, took) = terminated(child);
    ran.ended(1).says("told to stop");
    assert!(took < GRACE, "{took:?}");
    assert_eq!(claim_names(&world), ["1.failed.json", "1.json"]);
    lock.execute_batch("ROLLBACK").unwrap();
    self::ran(&world, "nightly-abcde", 1, &["backup", "data"]).ended(0);
}

#[test]
fn a_claim_whose_answer_was_lost_is_ones_own() {
    for lost in [Fault::DoneBut(503), Fault::Reset(Point::Answer)] {
        let (server, world) = vault_in(World::with_files());
        server.script(When::create("claims/"), lost.clone());
        server.script(When::create("claims/").after(1), lost);
        ran(&world, "nightly-abcde", 0, &["backup", "data", "-v"]).ended(0).says("trying again");
        assert_eq!(server.faults(), 2);
        let claims: Vec<_> = server.names().into_iter().filter(|name| name.contains("/claims/")).collect();
        assert_eq!(claims.len(), 2, "{claims:?}");
        ran(&world, "nightly-abcde", 1, &["backup", "data"]).ended(0).says("no second one");
        assert_eq!(cloud::snapshots(&world).len(), 1);
    }
}

/// The posts to `hook` and `ping`: results that were told, and the ends of pinged paths.
fn told(hook: &Webhook, ping: &Webhook) -> (Vec<String>, Vec<String>) {
    let result = |post: &Post| post.json()["event"]["result"].as_str().unwrap().to_owned();
    let end = |post: &Post| post.target.split_once('?').unwrap().0.rsplit_once('/').unwrap().1.to_owned();
    (hook.posts().iter().map(result).collect(), ping.posts().iter().map(end).collect())
}

#[test]
fn an_attempt_whose_claim_cannot_be_taken_is_told_as_a_run_that_failed() {
    let (hook, ping) = (Webhook::new(&[]), Webhook::new(&[]));
    let (server, world) = vault_in(World::with_files());
    let world = world.with("LASTGOOD_WEBHOOK", hook.url()).with("LASTGOOD_PING", ping.url());
    let args = ["backup", "data", "--log-format", "json", "--json"];
    // The line by which an alert is raised.
    let lines = |ran: &Ran| -> Vec<Value> {
        let lines = ran.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["seconds"].is_number() && line["run"].is_string()).collect()
    };
    // The permission to create is held for all but claims: the report is kept.
    server.script(When::create("claims/").always(), Fault::status(403));
    let failed = ran(&world, "nightly-abcde", 0, &args);
    let shown = json(failed.ended(1));
    assert!(shown["error"].as_str().unwrap().contains("403"), "{shown}");
    let logged = lines(&failed);
    assert_eq!((logged.len(), &logged[0]["result"], &logged[0]["attempt"]), (1, &"failed".into(), &"0".into()));
    assert_eq!(told(&hook, &ping), (vec!["failed".into()], vec!["fail".into()]));
    let kept = world.json(["runs", logged[0]["run"].as_str().unwrap()], 0);
    assert_eq!((&kept["result"], &kept["place"]["execution"]), (&"failed".into(), &"nightly-abcde".into()));
    assert_eq!(hook.posts()[0].json()["event"]["data"], kept);
    // Nothing at all can be created.
    server.script(When::kind(Kind::Create).always(), Fault::status(403));
    let failed = ran(&world, "nightly-abcde", 1, &args);
    assert_eq!(lines(failed.ended(1)).len(), 1, "{failed:?}");
    assert_eq!(told(&hook, &ping), (vec!["failed".into(); 2], vec!["fail".into(); 2]));
    server.heal();
    ran(&world, "nightly-abcde", 2, &args).ended(0);
    assert_eq!(told(&hook, &ping).0[2..], ["complete".to_owned()]);
    assert_eq!(cloud::snapshots(&world).len(), 1);
}

#[test]
fn a_run_that_was_told_as_done_is_not_told_as_failed_too() {
    let (hook, ping) = (Webhook::new(&[]), Webhook::new(&[]));
    let (server, world) = vault_in(World::with_files());
    server.script(When::create("runs/").always(), Fault::status(403));
    ran(&world, "nightly-abcde", 0, &["backup", "data"]).says("is not stored");
    server.heal();
    // The second attempt finds the snapshot and stores its report, which cannot be read.
    let world = world.with("LASTGOOD_WEBHOOK", hook.url()).with("LASTGOOD_PING", ping.url());
    server.script(When::read("runs/").always(), Fault::status(403));
    ran(&world, "nightly-abcde", 1, &["backup", "data"]).ended(0).says("no second one");
    assert_eq!(told(&hook, &ping).0, ["complete"]);
    assert_eq!(cloud::snapshots(&world).len(), 1);
}

#[test]
fn an_attempt_that_finds_another_at_work_tells_nobody() {
    let (hook, ping) = (Webhook::new(&[]), Webhook::new(&[]));
    let (server, world) = vault_in(World::with_files());
    server.script(When::create("snapshots/"), Fault::Stall(Point::Upload(1), Duration::from_secs(20)));
    let mut first = spawn(attempt(&world, "nightly-abcde", 1, &["backup", "data"]));
    wait_for(&mut first, "the claim", || server.names().iter().any(|name| name.ends_with("/1.json")));
    let world = world.with("LASTGOOD_WEBHOOK", hook.url()).with("LASTGOOD_PING", ping.url());
    let second = ran(&world, "nightly-abcde", 1, &["backup", "data"]);
    first.kill().unwrap();
    first.wait_with_output().unwrap();
    second.ended(1).says("of the same attempt of this task is not over");
    assert_eq!(told(&hook, &ping), (Vec::new(), Vec::new()));
}

#[test]
fn sigterm_leaves_a_last_checkpoint_and_a_report_in_time() {
    let (server, world) = vault_in(World::new());
    for n in 0..60 {
        let path = format!("{n:02}.bin");
        world.write(&path, noise(n, 1_000_000));
        set_mtime(&world.data().join(path), 1_700_000_000, 0);
    }
    server.bandwidth(4 << 20);
    let count = |name: &str| server.names().iter().filter(|n| n.contains(name)).count();
    let mut child = spawn(attempt(&world, "nightly-abcde", 0, &["backup", "data", "--parallel", "1"]));
    wait_for(&mut child, "packs", || count("/packs/") >= 2);
    let (ran, took) = terminated(child);
    ran.ended(1).says("told to stop").says("goes on from there");
    assert!(took < GRACE, "{took:?}");
    assert_eq!((count("/checkpoints/"), count("/1.failed.json"), count("/runs/")), (1, 1, 1));
    server.bandwidth(0);
    let next = self::ran(&world, "nightly-abcde", 1, &["backup", "data", "--json"]);
    next.ended(0);
    let read = number(&json(&next), "read_bytes");
    assert!(read <= 45_000_000, "{read} of 60,000,000 bytes are read again");
}
