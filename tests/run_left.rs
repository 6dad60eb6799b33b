//! A `lastgood run` that is killed, and what lives on: of other users, and beside a directory that is replaced.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use crate::support::counter::{WITHIN, gone, until, without_terminal};
use crate::support::process::Running;
use crate::support::skipped::skipped;
use crate::support::{LASTGOOD, Ran, World, id, is_root};

/// Another user.
const OTHER: u32 = 65534;
const AS_OTHER: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
/// Root as Docker has it, who cannot read the environment of another user's process.
const AS_IN_DOCKER: [&str; 5] = ["setpriv", "--bounding-set", DOCKER, "--inh-caps", DOCKER];
const DOCKER: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,\
                      +sys_chroot,+mknod,+audit_write,+setfcap";
const LEFT: &str = "is left of a `lastgood run` that was killed";
/// Starts a worker, as a user if it is to, and writes down its number.
const WITH_WORKER: &str = "import os, subprocess, sys, time
user = {'user': int(sys.argv[1])} if len(sys.argv) > 1 else {}
worker = subprocess.Popen(['sleep', '1000'], start_new_session=True, **user)
open('worker.new', 'w').write(str(worker.pid))
os.rename('worker.new', 'worker')
time.sleep(1000)";

/// A folder that another user gets through, and a data directory of that user.
fn open_to_others() -> Option<World> {
    if !is_root() {
        skipped("root", "only root starts processes of other users");
        return None;
    }
    let world = World::new();
    fs::create_dir(world.data()).unwrap();
    chown(world.data(), Some(OTHER), Some(OTHER)).unwrap();
    fs::set_permissions(world.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    Some(world)
}

/// Returns a command that runs another program with the same arguments, without a terminal and by way of `before`.
fn with(program: &OsStr, before: &[&str], command: &Command) -> Command {
    let words: Vec<_> = before.iter().map(|word| OsStr::new(*word)).chain([program]).collect();
    let mut changed = Command::new(words[0]);
    changed.args(&words[1..]).args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => changed.env(name, value),
            None => changed.env_remove(name),
        };
    }
    without_terminal(&changed)
}

fn by(before: &[&str], command: &Command) -> Command {
    with(command.get_program(), before, command)
}

fn run(world: &World, app: &[&str]) -> Command {
    world.command([&["run", "--init", "--every", "off", "--handover-poll", "200ms", "--"], app].concat())
}

fn read(world: &World, name: &str) -> Option<u32> {
    fs::read_to_string(world.path(name)).ok()?.trim().parse().ok()
}

/// Waits for the number of the process that the app has started.
fn worker(world: &World, run: &Running) -> u32 {
    until("worker", WITHIN, || run.log(), || read(world, "worker"))
}

#[track_caller]
fn lives(pid: u32) {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(!state.is_empty() && !state.contains(") Z "), "{pid} has ended: {state}");
    test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).unwrap();
}

/// Returns the records that say something.
fn records(says: &str) -> Vec<PathBuf> {
    let all = ["/run", "/dev/shm", "/tmp"].into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let paths = all.map(|entry| entry.unwrap().path());
    let is_record = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("lastgood-run-");
    // What killed programs have left may tell of a process of the same number, long ago.
    let is_new = |path: &PathBuf| {
        let modified = path.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age < Duration::from_secs(120)))
    };
    let says = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default().contains(says);
    paths.filter(is_record).filter(is_new).filter(says).collect()
}

#[test]
fn an_app_that_has_become_another_user_is_killed_with_run() {
    let Some(world) = open_to_others() else { return };
    let app = [&AS_OTHER[..], &["sh", "-c", "echo $$ > data/app; exec sleep 1000"]].concat();
    for has_data in [false, true] {
        assert_eq!(world.path("data/app").exists(), has_data);
        let before = read(&world, "data/app");
        let mut first = Running::start(by(&[], &run(&world, &app)), "");
        let found = || read(&world, "data/app").filter(|pid| Some(*pid) != before);
        let pid = until("app", WITHIN, || first.log(), found);
        let noted = || (records(&format!(r#""app":{{"pid":{pid},"#)).len() == 1).then_some(());
        until("record", WITHIN, || first.log(), noted);
        assert_eq!(first.end(Signal::KILL).0, None);
        gone(pid);
        let next = Ran::of(by(&[], &run(&world, &["true"])));
        next.ended(0);
        assert!(!next.stderr.contains(LEFT), "{next:?}");
        assert!(records(&format!(r#""pid":{pid},"#)).is_empty());
    }
}

#[test]
fn a_worker_of_another_user_is_ended_before_the_next_app_starts() {
    let Some(world) = open_to_others() else { return };
    let user = OTHER.to_string();
    let app = ["python3", "-I", "-S", "-c", WITH_WORKER, &user];
    for before in [&[][..], &AS_IN_DOCKER] {
        // Without data at first, and with data then.
        for _ in 0..2 {
            let _ = fs::remove_file(world.path("worker"));
            let mut first = Running::start(by(before, &run(&world, &app)), "");
            let pid = worker(&world, &first);
            if !before.is_empty() {
                let noted = || (!records(&format!("[{pid},")).is_empty()).then_some(());
                until("worker in the record", WITHIN, || first.log(), noted);
            }
            assert_eq!(first.end(Signal::KILL).0, None);
            lives(pid);
            let next = Ran::of(by(before, &run(&world, &["sh", "-c", "echo 1 > data/n"])));
            next.ended(0).says(&format!("process {pid} sleep {LEFT}"));
            gone(pid);
        }
        fs::remove_dir_all(world.data()).unwrap();
    }
}

/// Replaces the directory after the kill.
const REPLACED: [&str; 4] =
    ["rm -rf data", "$LASTGOOD restore --snapshot \"$SNAPSHOT\" data", "mv data/n taken", "rm -rf data; mkdir data"];

/// Kills `run` in each case, with this program for it and by way of `before`.
fn replaced(world: &World, before: &[&str], lastgood: &str) {
    for how in REPLACED {
        let _ = fs::remove_file(world.path("worker"));
        let shell = |script: &str| {
            let mut command = world.command(["-euc", script]);
            Ran::of(with("sh".as_ref(), before, command.env("LASTGOOD", lastgood)))
        };
        let start = |app: &[&str]| with(lastgood.as_ref(), before, &run(world, app));
        shell("mkdir -p data; echo 1 > data/n; $LASTGOOD init || true").ended(0);
        let saved = shell("$LASTGOOD backup --json");
        let saved: Value = serde_json::from_slice(saved.ended(0).text().as_bytes()).unwrap();
        let mut first = Running::start(start(&["python3", "-I", "-S", "-c", WITH_WORKER]), "");
        let pid = worker(world, &first);
        assert_eq!(first.end(Signal::KILL).0, None);
        lives(pid);
        shell(&how.replace("$SNAPSHOT", id(&saved))).ended(0);
        let next = Ran::of(start(&["true"]));
        next.ended(0).says(&format!("process {pid} sleep {LEFT}"));
        gone(pid);
    }
}

#[test]
fn what_is_left_is_ended_also_where_the_directory_was_replaced() {
    replaced(&World::new(), &[], LASTGOOD);
}

#[test]
fn a_plain_user_ends_what_is_left_as_root_does() {
    let Some(world) = open_to_others() else { return };
    chown(world.path(""), Some(OTHER), Some(OTHER)).unwrap();
    // The folder that cargo builds in may be closed to others.
    let program = world.path("lastgood");
    assert!(Command::new("cp").arg(LASTGOOD).arg(&program).status().unwrap().success());
    replaced(&world, &AS_OTHER, program.to_str().unwrap());
}

/// A process that has nothing to do with an app.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_lock_that_others_can_write_ends_nobody_and_names_a_process_once() {
    let Some(world) = open_to_others() else { return };
    world.write("n", "1");
    Ran::of(by(&[], &run(&world, &["true"]))).ended(0);
    let mut stranger = Command::new("setsid");
    let stranger = Stranger(stranger.args(["sleep", "1000"]).spawn().unwrap());
    let pid = stranger.0.id();
    until("sleep", WITHIN, String::new, || (fs::read(format!("/proc/{pid}/comm")).ok()? == b"sleep\n").then_some(()));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    // What the program itself would have written.
    let lock = world.path("data/.lastgood/run.lock");
    let mut forged: Value = serde_json::from_slice(&fs::read(&lock).unwrap()).unwrap();
    let app = json!({"pid": pid, "start": start});
    forged["proof"]["run"] = json!({"pid": 4_000_000, "start": 1});
    forged["proof"]["app"] = app.clone();
    forged["proof"]["group"] = json!({"app": app, "session": pid});
    forged["proof"]["unmarked"] = json!([[pid, start]]);
    fs::write(&lock, forged.to_string()).unwrap();
    for path in [world.path("data/.lastgood"), lock.clone()] {
        chown(path, Some(OTHER), Some(OTHER)).unwrap();
    }
    let next = Ran::of(by(&[], &run(&world, &["touch", "started"])));
    next.ended(1).says("[locked]").says(&format!("{pid} sleep")).says("Other users can write that file");
    assert_eq!(next.stderr.matches(&format!("{pid} sleep")).count(), 1, "{next:?}");
    lives(pid);
    assert!(!world.path("started").exists());
    fs::remove_file(&lock).unwrap();
    Ran::of(by(&[], &run(&world, &["touch", "started"]))).ended(0);
    assert!(world.path("started").exists());
    lives(pid);
}

#[test]
fn an_orderly_end_leaves_no_record() {
    let world = World::new();
    let mut running = Running::start(by(&[], &run(&world, &["sh", "-c", "echo $$ > app; exec sleep 1000"])), "");
    let pid = until("app", WITHIN, || running.log(), || read(&world, "app"));
    let names = format!(r#""app":{{"pid":{pid},"#);
    until("record", WITHIN, || running.log(), || (records(&names).len() == 1).then_some(()));
    assert_eq!(running.end(Signal::TERM).0, Some(143), "{}", running.log());
    assert!(records(&names).is_empty());
    let ran = Ran::of(by(&[], &run(&world, &["sh", "-c", "echo $$ > app; exit 7"])));
    ran.ended(7);
    assert!(records(&format!(r#""pid":{},"#, read(&world, "app").unwrap())).is_empty());
}

/// The process numbers of the children of a process, as they are seen here.
fn children(of: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn as_process_1_only_what_the_app_has_left_is_ended() {
    let alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let probed = Command::new(alone[0]).args(&alone[1..]).arg("true").output();
    if !probed.as_ref().is_ok_and(|done| done.status.success()) {
        return skipped("root", &format!("no namespace of processes can be had: {probed:?}"));
    }
    let world = World::new();
    // A daemon with the app's environment, and one with another, which `run` has seen with its parent.
    let app = "echo >> started; setsid sleep 1001 & (env -i PATH=/usr/bin:/bin setsid sleep 1002 & sleep 3) & \
               until [ -e fail ]; do sleep 0.1; done; rm fail; exit 1";
    let options = ["run", "--init", "--every", "off", "--restart", "on-failure", "--stop-timeout", "1s", "--"];
    let command = world.command([&options[..], &["sh", "-c", app]].concat());
    let running = Running::start(by(&alone, &command), "");
    let starts = |times: usize| {
        let started = || (fs::read(world.path("started")).ok()?.len() == times).then_some(());
        until(&format!("start {times}"), WITHIN, || running.log(), started);
    };
    starts(1);
    let init = until(
        "process 1",
        WITHIN,
        || running.log(),
        || {
            let found = children(running.pid()).first().copied()?;
            fs::read(format!("/proc/{found}/cmdline")).ok()?.windows(3).any(|part| part == b"run").then_some(found)
        },
    );
    // What `docker exec` does: its shell ends, and what that has started is process 1's.
    let within = ["--target", &init.to_string(), "--pid", "--mount", "sh", "-c", "setsid sleep 1003 & sleep 0.2"];
    assert!(Command::new("nsenter").args(within).status().unwrap().success());
    let sleeper = |time: &str| {
        children(init).into_iter().find(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == format!("sleep\0{time}\0").as_bytes())
        })
    };
    let foreign = until("foreign process", WITHIN, || running.log(), || sleeper("1003"));
    // Adopted once its parent has ended; it was seen before.
    let cleared = until("daemon", WITHIN, || running.log(), || sleeper("1002"));
    fs::write(world.path("fail"), "").unwrap();
    starts(2);
    gone(cleared);
    lives(foreign);
    kill_process(Pid::from_raw(init.cast_signed()).unwrap(), Signal::TERM).unwrap();
    running.log_with("the app has made no data directory");
    gone(foreign);
}
