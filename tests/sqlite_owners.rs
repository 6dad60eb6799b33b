//! No write of an app fails because of a backup, whoever makes it: root with all rights, without that to give files away, and
//! without any; root of a user namespace in which the app's user has no number; the app's user itself. The app opens a
//! connection for each write, as scripts and many web frameworks do, so that its `-wal` and `-shm` come and go.
//!
//! ```text
//! LASTGOOD_SOAK=2000 cargo test --test all sqlite_owners::long -- --exact --ignored --nocapture
//! ```
//!
//! makes that many backups by each of them; it needs root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::database::{number, run, table, taken};
use crate::support::database_process::Other;
use crate::support::requirements::skipped;
use crate::support::tree::set_mode;
use crate::support::{LASTGOOD, Ran, World, id, is_root};

/// The app's user and group.
const APP: u32 = 65_534;
/// Backups beside one process of the app, which go into one vault.
const AT_ONCE: u64 = 25;
/// Rows that the database begins with.
const ROWS: u64 = 1500;
/// How long the app waits for a lock, in milliseconds.
const PATIENCE: u64 = 10_000;

/// The users that make backups, and the prefix that runs a command as each.
const MAKERS: [(&str, &[&str]); 5] = [
    ("root", &[]),
    ("root without CAP_CHOWN", &["setpriv", "--bounding-set=-chown", "--inh-caps=-chown"]),
    ("root without capabilities", &["setpriv", "--bounding-set=-all", "--inh-caps=-all"]),
    ("root of a user namespace", &["unshare", "--user", "--map-root-user"]),
    ("the app's user", &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]),
];

/// The users that may write to the app's files.
const MAY_WRITE: [&str; 3] = ["root", "root without CAP_CHOWN", "the app's user"];

/// A place that everybody can enter, with an app's data in it.
struct Place {
    world: World,
    /// This binary, and the program, where everybody can start them.
    tests: PathBuf,
    program: PathBuf,
}

impl Place {
    fn new(mode: &str) -> Self {
        let world = World::new();
        set_mode(&world.path(""), 0o755);
        let copied = |from: &Path, name: &str| {
            let to = world.path(name);
            fs::hard_link(from, &to).or_else(|_| fs::copy(from, &to).map(drop)).unwrap();
            to
        };
        let tests = copied(&std::env::current_exe().unwrap(), "tests");
        let program = copied(Path::new(LASTGOOD), "lastgood");
        run(&world.data().join("app.db"), &format!("PRAGMA journal_mode={mode}; {}", table(ROWS, 1000)));
        for path in [world.data(), world.data().join("app.db")] {
            chown(&path, Some(APP), Some(APP)).unwrap();
        }
        Place { world, tests, program }
    }

    /// Takes a backup as one of the users; `None`, after printing why, if they are not available.
    fn backup(&self, (name, maker): (&str, &[&str]), vault: &str) -> Option<Value> {
        let probe = maker.split_first().map(|(first, rest)| Command::new(first).args(rest).arg("true").output());
        if let Some(probed) = probe.filter(|probed| !probed.as_ref().is_ok_and(|done| done.status.success())) {
            skipped("other-user", &format!("{name} cannot be had: {probed:?}"));
            return None;
        }
        let args = [&["backup", "data", "--vault", vault, "--init", "--busy-timeout", "60s", "--json"][..]].concat();
        let mut command = match maker.split_first() {
            None => Command::new(&self.program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
        };
        command.args(args).current_dir(self.world.path("")).env_clear().env("PATH", "/usr/bin:/bin");
        let ran = Ran::of(command);
        // A user that may not write to the app's files reads them as plain files now and then, and those do not always come
        // to rest.
        let stale = ran.code == Some(3) && !MAY_WRITE.contains(&name);
        let report: Value = serde_json::from_slice(&ran.ended(if stale { 3 } else { 0 }).stdout).unwrap();
        assert_eq!(stale, report["stale"][0]["path"] == "app.db", "{report}");
        Some(report)
    }
}

/// Has someone make backups beside an app that writes in a journal mode; how many, how many of them have the database live
/// and as it was then, and how many writes there were.
fn beside_an_app(maker: (&str, &[&str]), mode: &str, backups: u64, seed: u64) -> Option<(u64, u64, u64)> {
    let place = Place::new(mode);
    let database = place.world.data().join("app.db");
    fs::create_dir(place.world.path("vault")).unwrap();
    if maker.1.contains(&"--reuid=65534") {
        chown(place.world.path("vault"), Some(APP), Some(APP)).unwrap();
    }
    let told = format!("{} beside {mode}, seed {seed}", maker.0);
    let app = Other::inserting(&place.tests, &database, PATIENCE, seed);
    let made: Option<Vec<Value>> = (0..backups).map(|_| place.backup(maker, "vault")).collect();
    let done = app.finish();
    assert_eq!(done.failures, [""; 0], "{told}: of {} writes", done.commits);
    let made = made?;
    // Nothing of anybody else is left, and nothing is in the app's way when it comes back.
    let owners =
        |folder: &Path| fs::read_dir(folder).unwrap().map(|at| at.unwrap().metadata().unwrap().uid()).collect();
    let owners: Vec<u32> = owners(&place.world.data());
    assert!(owners.iter().all(|&owner| owner == APP), "{told}: {owners:?}");
    let after = Other::inserting(&place.tests, &database, PATIENCE, seed).finish();
    assert_eq!(after.failures, [""; 0], "{told}");
    assert_eq!(fs::read_dir(place.world.data()).unwrap().count(), 1, "{told}");
    // Each is one state of the database, and one of the database at rest has all of it.
    let last = place.backup(maker, "vault")?;
    let written = ROWS + done.commits + after.commits;
    for (nth, report) in made.iter().rev().take(3).chain([&last]).enumerate() {
        let back = format!("back{nth}");
        place.world.json(["restore", &back, "--vault", "vault", "--snapshot", id(report)], 0);
        let restored = place.world.path(back).join("app.db");
        let rows = number(&restored, "SELECT count(*) FROM t") as u64;
        assert_eq!(number(&restored, "SELECT max(id) FROM t") as u64, rows, "{told}");
        assert_eq!(number(&restored, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"), 1);
        assert!(if report == &last { rows == written } else { rows <= written }, "{told}: {rows} of {written}");
    }
    assert_eq!(taken(&last)["app.db"], "live", "{told}");
    let live = |report: &&Value| taken(report)["app.db"] == "live" && report["stale"] == json!([]);
    Some((backups, made.iter().filter(live).count() as u64, done.commits))
}

fn rounds(backups: u64) {
    if !is_root() {
        skipped("root", "only root can be somebody else");
        return;
    }
    for (nth, maker) in MAKERS.into_iter().enumerate() {
        for (mode, share) in [("WAL", backups), ("DELETE", backups / 4)] {
            let mut all = (0, 0, 0);
            let mut seed = nth as u64 * 1000;
            while all.0 < share {
                seed += 1;
                let Some(more) = beside_an_app(maker, mode, AT_ONCE.min(share - all.0), seed) else { break };
                all = (all.0 + more.0, all.1 + more.1, all.2 + more.2);
            }
            println!("{} beside {mode}: {} backups, {} live, {} writes, none failed", maker.0, all.0, all.1, all.2);
        }
    }
}

#[test]
fn no_write_fails() {
    rounds(8);
}

#[test]
#[ignore = "it makes as many backups as LASTGOOD_SOAK says"]
fn long() {
    rounds(std::env::var("LASTGOOD_SOAK").ok().and_then(|count| count.parse().ok()).unwrap_or(2000));
}
