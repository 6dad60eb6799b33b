use std::fs;
use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;
use crate::monitor::{CollectingMonitor, system_random};
use crate::vault::hex::Hex;

/// Runs hooks of a scratch folder, in which the scripts are.
struct World {
    folder: tempfile::TempDir,
    stop: AtomicBool,
    monitor: CollectingMonitor,
}

impl World {
    fn new() -> Self {
        let (folder, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
        World { folder, stop, monitor: CollectingMonitor::default() }
    }

    fn hooks(&self, scripts: &[(Hook, &str)], time: Duration) -> Hooks {
        let script = |text: &str| OsString::from(format!("cd '{}'; {text}", self.folder.path().display()));
        let commands = scripts.iter().map(|(hook, text)| (*hook, script(text))).collect();
        Hooks::new(commands, time, Masker::new::<&str>(&[]).unwrap())
    }

    fn context(&self) -> Context<'_> {
        Context { random: &system_random, threads: 1, parallel: 1, stop: &self.stop, monitor: &self.monitor }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Runs the hook before a backup.
    fn before(&self, script: &str, time: Duration) -> Result<()> {
        self.hooks(&[(Hook::BeforeBackup, script)], time).before(&run(Action::Backup), &self.context())
    }
}

const LONG: Duration = Duration::from_secs(60);

fn run(action: Action) -> HookedRun<'static> {
    let reason = (action == Action::Backup).then(|| "schedule".to_owned());
    let data = (action != Action::Verify).then_some(Path::new("/srv/app"));
    HookedRun { action, run: Hex([1; 8]), data, vault: "/mnt/a,gs://b/c".into(), reason }
}

#[test]
fn each_hook_has_its_time() {
    const ALL: [Hook; 5] =
        [Hook::BeforeBackup, Hook::AfterBackup, Hook::BeforeRestore, Hook::AfterRestore, Hook::OnFailure];
    let why = Error::failed("back up", "the disk is gone");
    for (action, began, result, expected) in [
        (Action::Backup, true, Some(Outcome::Complete), "before-backup after-backup"),
        (Action::Backup, true, Some(Outcome::Suspect), "before-backup after-backup"),
        (Action::Backup, true, Some(Outcome::Failed), "before-backup after-backup on-failure"),
        (Action::Backup, false, Some(Outcome::Failed), "before-backup on-failure"),
        (Action::Restore, true, Some(Outcome::Refused), "before-restore after-restore on-failure"),
        (Action::Restore, true, None, "before-restore after-restore"),
        (Action::Verify, true, Some(Outcome::Complete), ""),
        (Action::Verify, true, Some(Outcome::Damaged), "on-failure"),
    ] {
        let world = World::new();
        let hooks = world.hooks(&ALL.map(|hook| (hook, "echo $LASTGOOD_HOOK >> ran")), LONG);
        hooks.before(&run(action), &world.context()).unwrap();
        let end = HookedEnd { result, error: Some(&why), ..HookedEnd::default() };
        assert_eq!(hooks.after(&run(action), &end, began, &world.context()), []);
        assert_eq!(
            world.read("ran").split_whitespace().collect::<Vec<_>>().join(" "),
            expected,
            "{action:?} {result:?}"
        );
    }
}

#[test]
fn a_hook_is_told_what_it_is_about_and_no_credentials() {
    let world = World::new();
    let hooks = world.hooks(&[(Hook::BeforeBackup, "env > before"), (Hook::OnFailure, "env > after")], LONG);
    let run = run(Action::Backup);
    hooks.before(&run, &world.context()).unwrap();
    let why = Error::failed("back up", "the disk\nis gone").with_code(Code::DiskFull);
    let end = HookedEnd { result: Some(Outcome::Failed), snapshot: None, error: Some(&why) };
    hooks.after(&run, &end, true, &world.context());
    let of = |name: &str| {
        let env = world.read(name);
        let mut own: Vec<String> =
            env.lines().filter(|line| line.starts_with("LASTGOOD_")).map(str::to_owned).collect();
        // Variables of the tests themselves.
        own.retain(|line| !["LASTGOOD_TEST_", "LASTGOOD_SKIPPED="].iter().any(|own| line.starts_with(own)));
        own.sort();
        own
    };
    let both = [
        "LASTGOOD_ACTION=backup",
        "LASTGOOD_DATA=/srv/app",
        "LASTGOOD_REASON=schedule",
        "LASTGOOD_RUN=0101010101010101",
    ];
    let vault = "LASTGOOD_VAULT=/mnt/a,gs://b/c";
    let before: Vec<&str> = [&both[..2], &["LASTGOOD_HOOK=before-backup"], &both[2..], &[vault]].concat();
    assert_eq!(of("before"), before);
    let after = [
        "LASTGOOD_ACTION=backup",
        "LASTGOOD_CODE=disk-full",
        "LASTGOOD_DATA=/srv/app",
        "LASTGOOD_ERROR=could not back up: the disk\\nis gone",
        "LASTGOOD_HOOK=on-failure",
        "LASTGOOD_REASON=schedule",
        "LASTGOOD_RESULT=failed",
        "LASTGOOD_RUN=0101010101010101",
        vault,
    ];
    assert_eq!(of("after"), after);
}

#[test]
fn a_hook_that_fails_says_how() {
    let world = World::new();
    let why = world.before("echo fine; echo 'password=secret1 is wrong' >&2; exit 3", LONG).unwrap_err();
    let text = "could not run the hook before-backup: it ended with exit code 3: password=[masked] is wrong";
    assert_eq!((why.what(), why.code()), (text.to_owned(), Code::HookFailed));
    assert!(world.before("exec nothing-like-this", LONG).unwrap_err().to_string().contains("not found"));
    assert!(world.before("kill -9 $$", LONG).unwrap_err().to_string().contains("signal 9 (SIGKILL)"));
    let hooks = world.hooks(&[(Hook::AfterRestore, "exit 1")], LONG);
    let failures = hooks.after(&run(Action::Restore), &HookedEnd::default(), true, &world.context());
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].hook, "after-restore");
    assert_eq!(world.monitor.warnings(), [format!("{} [hook-failed]", failures[0].error)]);
}

#[test]
fn a_hook_has_a_time_and_ends_with_all_that_it_started() {
    let world = World::new();
    let began = Instant::now();
    let script =
        "trap '' TERM; (trap '' TERM; echo $$ > first; sleep 600; sleep 600) & echo $! > second; sleep 600; sleep 600";
    let why = world.before(script, Duration::from_millis(300)).unwrap_err();
    assert!(why.to_string().contains("it took longer than 0.3 s"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(20));
    // What it leaves behind does not live on, and keeps nobody waiting.
    let began = Instant::now();
    world.before("sleep 600 & echo $! > third", LONG).unwrap();
    assert!(began.elapsed() < Duration::from_secs(20));
    for name in ["first", "second", "third"] {
        let pid = world.read(name).trim().to_owned();
        let is_alive = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while is_alive() {
            assert!(began.elapsed() < Duration::from_secs(20), "{name}");
            thread::sleep(TICK);
        }
    }
}

#[test]
fn a_stop_leaves_a_hook_little_time() {
    let world = World::new();
    world.stop.store(true, Ordering::Relaxed);
    world.before("true", LONG).unwrap();
    let began = Instant::now();
    let why = world.before("sleep 600", LONG).unwrap_err();
    assert_eq!(why.code(), Code::Stopped);
    assert!(began.elapsed() >= AFTER_STOP && began.elapsed() < Duration::from_secs(20));
}

#[test]
fn much_output_of_any_kind_is_taken() {
    let world = World::new();
    let script = "head -c 3000000 /dev/urandom; yes | head -c 300000; head -c 100000 /dev/zero | tr '\\0' x; echo; echo end; exit 1";
    let why = world.before(script, LONG).unwrap_err().to_string();
    assert!(why.ends_with(": end"), "{why}");
}
