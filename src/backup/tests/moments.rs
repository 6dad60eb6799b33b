//! Backups during which an app does something at one exact moment.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;
use crate::backup::options::BeforeCommit;
use crate::skipped::skipped;
use crate::sqlite;
use crate::sqlite::peer::Peer;
use std::time::Duration;

/// An action for a moment and a path; returns whether it is done.
type Deed = Box<dyn FnMut(Moment, &str) -> bool + Send>;

/// Performs an action until that reports that it is done.
struct App(Mutex<Option<Deed>>);

impl Monitor for App {
    fn reached(&self, moment: Moment, path: &EntryPath) {
        let mut deed = self.0.lock().unwrap();
        if deed.as_mut().is_some_and(|deed| deed(moment, &path.to_string())) {
            *deed = None;
        }
    }
}

impl World {
    /// Makes a backup during which something is done at a moment.
    fn backup_while(
        &mut self,
        at: Moment,
        path: &'static str,
        mut deed: impl FnMut(PathBuf) + Send + 'static,
    ) -> BackupReport {
        let report = self.try_backup_while(at, path, move |data| {
            deed(data);
            true
        });
        report.unwrap()
    }

    fn try_backup_while(
        &mut self,
        at: Moment,
        path: &'static str,
        mut deed: impl FnMut(PathBuf) -> bool + Send + 'static,
    ) -> Result<BackupReport> {
        let data = self.data.path().to_path_buf();
        let deed: Deed = Box::new(move |moment, now| (moment, now) == (at, path) && deed(data.clone()));
        let app = Arc::new(App(Mutex::new(Some(deed))));
        self.monitor = app.clone();
        let report = self.try_backup();
        if report.is_ok() {
            assert!(app.0.lock().unwrap().is_none(), "{at:?} {path} was never reached");
        }
        self.monitor = Arc::new(CollectingMonitor::default());
        report
    }

    fn paths(&self, report: &BackupReport) -> Vec<String> {
        self.entries(report.snapshot).iter().map(|(entry, _)| entry.path.to_string()).collect()
    }
}

fn exchange(a: PathBuf, b: PathBuf) {
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn a_folder_that_moves_ahead_of_the_walk_or_behind_it_is_taken() {
    for (from, to) in [("zz", "aa"), ("aa", "zz")] {
        for moment in [Moment::Listing, Moment::Named, Moment::Listed] {
            let mut world = World::new();
            (0..20).for_each(|n| world.write(&format!("{from}/{n}"), format!("file {n}").as_bytes()));
            world.write("m/file", b"x");
            let report = world.backup_while(moment, "m", move |data| {
                fs::rename(data.join(from), data.join(to)).unwrap();
            });
            assert!(report.good, "{report:?}");
            let paths = world.paths(&report);
            let moved = |n: &i32| [from, to].iter().any(|at| paths.contains(&format!("{at}/{n}")));
            assert!((0..20).all(|n| moved(&n)), "{moment:?} {from}: {paths:?}");
            assert!(paths.contains(&"m/file".to_owned()));
        }
    }
}

#[test]
fn folders_that_are_exchanged_lose_nothing() {
    for moment in [Moment::Listing, Moment::Listed, Moment::Opening] {
        let mut world = World::new();
        for (folder, content) in [("current", "v0"), ("next", "v1")] {
            (0..10).for_each(|n| world.write(&format!("{folder}/{content}-{n}"), content.as_bytes()));
        }
        let report = world.backup_while(moment, "next", |data| exchange(data.join("current"), data.join("next")));
        assert!(report.good);
        let paths = world.paths(&report);
        for (name, n) in ["v0", "v1"].iter().flat_map(|name| (0..10).map(move |n| (name, n))) {
            let there = ["current", "next"].iter().any(|folder| paths.contains(&format!("{folder}/{name}-{n}")));
            assert!(there, "{moment:?}: {name}-{n} in {paths:?}");
        }
    }
}

#[test]
fn files_that_are_exchanged_between_their_reads_are_both_there() {
    let mut world = World::new();
    world.write("a", b"first");
    world.write("b", b"second");
    let report = world.backup_while(Moment::Opening, "b", |data| {
        // The first file has been read by then, or is being read.
        std::thread::sleep(Duration::from_millis(20));
        exchange(data.join("a"), data.join("b"));
    });
    let mut contents: Vec<_> = ["a", "b"].map(|name| world.content(report.snapshot, name)).into();
    contents.sort();
    assert_eq!(contents, [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn a_snapshot_is_of_one_directory_though_another_takes_its_place() {
    let mut world = World::new();
    let other = tempfile::tempdir().unwrap();
    for n in 0..50 {
        world.write(&format!("d{}/{n}", n % 7), b"old");
        let path = other.path().join(format!("d{}/{n}", n % 7));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "new").unwrap();
    }
    let path = other.path().to_path_buf();
    let report = world.backup_while(Moment::Opening, "d3/3", move |data| exchange(data, path.clone()));
    let files: Vec<_> = world.entries(report.snapshot).into_iter().filter(|(e, _)| e.kind == EntryKind::File).collect();
    assert_eq!(files.len(), 50);
    assert!(files.iter().all(|(_, content)| content == b"new"));

    let path = other.path().to_path_buf();
    let said = world.try_backup_while(Moment::Committing, ".", move |data| {
        exchange(data, path.clone());
        false
    });
    let said = said.unwrap_err().to_string();
    assert!(said.contains("another directory has taken its place, twice"), "{said}");
}

#[test]
fn numbers_that_come_again_make_no_links() {
    let mut world = World::new();
    for n in 0..40 {
        world.write(&format!("a/{n}"), format!("old {n}").as_bytes());
        fs::hard_link(world.data.path().join(format!("a/{n}")), world.data.path().join(format!("a/{n}.link"))).unwrap();
    }
    world.write("m/file", b"x");
    fs::create_dir(world.data.path().join("z")).unwrap();
    let report = world.backup_while(Moment::Listing, "z", |data| {
        // All of `a` has been listed, and some of it read.
        fs::remove_dir_all(data.join("a")).unwrap();
        for n in 0..40 {
            fs::write(data.join(format!("z/{n}")), format!("new {n}, another one")).unwrap();
            fs::hard_link(data.join(format!("z/{n}")), data.join(format!("z/{n}.link"))).unwrap();
        }
    });
    assert!(report.good && report.errors.is_empty(), "{report:?}");
    let entries = world.entries(report.snapshot);
    for n in 0..40 {
        for name in [format!("z/{n}"), format!("z/{n}.link")] {
            let (entry, content) = entries.iter().find(|(entry, _)| entry.path.to_string() == name).unwrap();
            assert_eq!(String::from_utf8_lossy(content), format!("new {n}, another one"));
            let named = |other: &Entry| other.link.is_some() && other.link == entry.link;
            assert!(entries.iter().filter(|(other, _)| named(other)).all(|(_, other)| other == content));
        }
    }
    // They are links again, not copies: both have one group name.
    let link = |name: &str| entries.iter().find(|(e, _)| e.path.to_string() == name).unwrap().0.link.clone();
    assert!(link("z/7").is_some() && link("z/7") == link("z/7.link"));
}

#[test]
fn links_that_vanish_are_no_problem() {
    let mut world = World::new();
    world.write("m", b"x");
    for n in 0..20 {
        world.write(&format!("z/{n}"), b"content");
        fs::hard_link(world.data.path().join(format!("z/{n}")), world.data.path().join(format!("z/{n}.link"))).unwrap();
    }
    let report = world.backup_while(Moment::Opening, "z/3", |data| fs::remove_dir_all(data.join("z")).unwrap());
    assert!(report.good && report.errors.is_empty(), "{report:?}");
}

#[test]
fn what_is_appended_and_overwritten_between_opening_and_reading_is_no_state_of_its_own() {
    for length in [1000, 3_000_000] {
        let mut world = World::new();
        world.write("log", &vec![b'1'; length]);
        let report = world.backup_while(Moment::Opened, "log", move |data| {
            let file = fs::OpenOptions::new().write(true).open(data.join("log")).unwrap();
            file.write_all_at(b"end", length as u64).unwrap();
            file.write_all_at(b"new", 500).unwrap();
        });
        let content = world.content(report.snapshot, "log");
        assert!(content == fs::read(world.data.path().join("log")).unwrap(), "{} bytes", content.len());
        assert!(report.good);
    }
}

#[test]
fn nothing_outside_is_read_through_a_symlink_that_took_a_folders_place() {
    for moment in [Moment::Opening, Moment::Opened] {
        let mut world = World::new();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("token"), "SECRET").unwrap();
        world.write("x/token", b"mine");
        world.write("w", b"w");
        symlink(outside.path(), world.data.path().join("y")).unwrap();
        let report = world.backup_while(moment, "x/token", |data| exchange(data.join("x"), data.join("y")));
        let entries = world.entries(report.snapshot);
        assert!(entries.iter().all(|(_, content)| content != b"SECRET"));
        assert!(entries.iter().any(|(_, content)| content == b"mine"), "{moment:?}: {:?}", world.paths(&report));
        assert!(report.good);
    }
}

#[test]
fn a_folder_that_is_gone_when_its_attributes_are_read_keeps_its_children() {
    let mut world = World::new();
    (0..10).for_each(|n| world.write(&format!("f/{n}"), b"x"));
    let first = world.backup();
    assert!(first.good);
    // The folder's entry changes, and its children do not.
    fs::set_permissions(world.data.path().join("f"), fs::Permissions::from_mode(0o700)).unwrap();
    let report = world.backup_while(Moment::Opening, "f", |data| {
        fs::rename(data.join("f"), data.with_extension("aside")).unwrap();
    });
    let paths = world.paths(&report);
    assert!(report.good && paths.contains(&"f".to_owned()), "{paths:?}");
    fs::remove_dir_all(world.data.path().with_extension("aside")).unwrap();
}

#[test]
fn what_is_born_while_it_is_captured_does_not_keep_it_from_ending() {
    let mut world = World::new();
    world.write("a/file", b"x");
    let mut count = 0;
    // Whenever a folder is listed, a new file appears in it and in the folder above.
    let data = world.data.path().to_path_buf();
    let deed: Deed = Box::new(move |moment, _| {
        if moment == Moment::Listed || moment == Moment::Committing {
            count += 1;
            fs::write(data.join(format!("a/new {count}")), "new").unwrap();
        }
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(deed))));
    let report = world.backup();
    assert!(report.good && report.looked_again.rounds <= 1, "{report:?}");
    assert!(!report.warnings.iter().any(|what| what.contains(NEVER_RESTS)), "{report:?}");
}

#[test]
fn a_folder_that_never_rests_is_told() {
    let mut world = World::new();
    (0..5).for_each(|n| world.write(&format!("here/{n}"), b"x"));
    world.write("there/x", b"x");
    let data = world.data.path().to_path_buf();
    let mut away = false;
    let deed: Deed = Box::new(move |moment, path| {
        if moment == Moment::Listing && path != "." {
            let (from, to) = if away { ("there/moved", "here/moved") } else { ("here/moved", "there/moved") };
            if !data.join(from).exists() {
                fs::create_dir_all(data.join(from)).unwrap();
                fs::write(data.join(from).join("file"), "moves").unwrap();
            }
            fs::rename(data.join(from), data.join(to)).unwrap();
            away = !away;
        }
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(deed))));
    let report = world.backup();
    // It ends, and what stayed where it was is in the snapshot.
    assert!(report.looked_again.rounds <= 3);
    let paths = world.paths(&report);
    assert!((0..5).all(|n| paths.contains(&format!("here/{n}"))) && paths.contains(&"there/x".to_owned()));
}

#[test]
fn a_checkpoint_holds_databases_with_what_lies_beside_them() {
    let mut world = World::new();
    // A program died in the middle of a transaction.
    let app = world.data.path().join("app.db");
    let scratch = tempfile::tempdir().unwrap();
    let writer = rusqlite::Connection::open(scratch.path().join("t.db")).unwrap();
    writer
        .execute_batch(
            "pragma cache_size = 5; create table t(id integer primary key, x, b);
             with recursive n(n) as (select 1 union all select n + 1 from n where n < 200)
             insert into t select n, 100, randomblob(3000) from n;
             begin; update t set x = x + 1, b = randomblob(3000);",
        )
        .unwrap();
    for ending in ["", "-journal"] {
        let name = |folder: &Path, stem: &str| folder.join(format!("{stem}{ending}"));
        fs::copy(name(scratch.path(), "t.db"), name(world.data.path(), "app.db")).unwrap();
    }
    drop(writer);
    age(&app);
    age(&app.with_extension("db-journal"));
    world.write("app.db (copy)/in between", b"x");
    world.write("zz", b"last");
    // Each batch is secured, and the run is cut off at its end.
    world.options.checkpoint_every = Duration::ZERO;
    world.options.before_commit = Some(BeforeCommit::new(|| Err(Error::failed("commit", "cut off"))));
    assert!(world.try_backup().is_err());
    assert!(!world.vault.checkpoints().unwrap().is_empty());
    world.options.before_commit = None;
    let report = world.backup();
    assert!(report.good, "{report:?}");
    let paths = world.paths(&report);
    assert!(paths.contains(&"app.db-journal".to_owned()), "{paths:?}");
    let out = tempfile::tempdir().unwrap();
    for name in ["app.db", "app.db-journal"] {
        fs::write(out.path().join(name), world.content(report.snapshot, name)).unwrap();
    }
    let restored = rusqlite::Connection::open(out.path().join("app.db")).unwrap();
    let sum: i64 = restored.query_row("select sum(x) from t", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, 20_000);
}

#[test]
fn a_program_that_comes_to_the_log_of_a_dead_one_while_that_is_read_is_waited_out() {
    /// Opens the database when the first part of it is read.
    struct Comes(Mutex<Option<PathBuf>>);
    impl Monitor for Comes {
        fn advance(&self, _: u64) {
            let Some(path) = self.0.lock().unwrap().take() else { return };
            let mut app = Peer::with(&path);
            app.run("update t set x = x + 1").unwrap();
            assert_eq!(app.ask("pragma wal_checkpoint(truncate)"), "0");
            app.close();
        }
    }
    let mut world = World::new();
    let path = world.data.path().canonicalize().unwrap().join("app.db");
    let mut dead = Peer::with(&path);
    dead.run(
        "pragma journal_mode = wal; pragma wal_autocheckpoint = 0; create table t(id integer primary key, x, b);
         with recursive n(n) as (select 1 union all select n + 1 from n where n < 1000)
         insert into t select n, 100, randomblob(4000) from n",
    )
    .unwrap();
    dead.kill();
    fs::remove_file(path.with_extension("db-shm")).unwrap();
    let comes = Arc::new(Comes(Mutex::new(Some(path))));
    world.monitor = comes.clone();
    let report = world.backup();
    assert!(report.good && report.whole && comes.0.lock().unwrap().is_none(), "{report:?}");
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("app.db"), world.content(report.snapshot, "app.db")).unwrap();
    let restored = rusqlite::Connection::open(out.path().join("app.db")).unwrap();
    let sum: i64 = restored.query_row("select sum(x) from t", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, 101_000);
}

#[test]
fn a_large_file_that_takes_an_earlier_name_while_it_is_read_makes_nobody_wait_for_ever() {
    let mut world = World::new();
    world.write("a", b"small");
    world.write("z", &noise(3, 8 << 20));
    let report = world.backup_while(Moment::Opening, "a", |data| {
        // By then the other thread is reading it, and waits until everything before it is taken.
        std::thread::sleep(Duration::from_millis(300));
        fs::rename(data.join("z"), data.join("a")).unwrap();
    });
    assert!(report.good, "{report:?}");
    assert!(world.content(report.snapshot, "a") == noise(3, 8 << 20));
}

#[test]
fn files_of_folders_that_were_exchanged_for_a_moment_are_their_own() {
    let mut world = World::new();
    for name in ["one", "two"] {
        (0..4).for_each(|n| world.write(&format!("{name}/{n}"), format!("{name} {n}").as_bytes()));
    }
    let data = world.data.path().to_path_buf();
    let deed: Deed = Box::new(move |moment, path| {
        if path == "one/2" && (moment == Moment::Opening || moment == Moment::Opened) {
            exchange(data.join("one"), data.join("two"));
        }
        path == "one/2" && moment == Moment::Opened
    });
    world.monitor = Arc::new(App(Mutex::new(Some(deed))));
    let report = world.backup();
    for name in ["one", "two"] {
        (0..4).for_each(|n| {
            let content = world.content(report.snapshot, &format!("{name}/{n}"));
            assert_eq!(String::from_utf8_lossy(&content), format!("{name} {n}"));
        });
    }
}

#[test]
fn a_folder_that_takes_a_databases_place_is_taken_with_all_that_is_in_it() {
    let mut world = World::new();
    let path = world.data.path().join("app.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("create table t(x); insert into t values (1)").unwrap();
    world.write("zz", b"x");
    let report = world.backup_while(Moment::Opening, "zz", |data| {
        std::thread::sleep(Duration::from_millis(100));
        fs::remove_file(data.join("app.db")).unwrap();
        fs::create_dir(data.join("app.db")).unwrap();
        fs::write(data.join("app.db/file"), "new").unwrap();
    });
    assert!(report.good, "{report:?}");
    assert_eq!(world.content(report.snapshot, "app.db/file"), b"new");
}

#[test]
fn a_panic_of_any_thread_ends_the_run_with_an_error() {
    for moment in [Moment::Listing, Moment::Opening, Moment::Opened, Moment::Reading, Moment::Read] {
        let mut world = World::new();
        (0..5).for_each(|n| world.write(&format!("f/{n}"), &noise(n, 400_000)));
        world.write("other", b"x");
        let deed: Deed = Box::new(move |now, path| {
            if now == moment && path.starts_with('f') {
                panic!("on purpose");
            }
            false
        });
        world.monitor = Arc::new(Unguarded(Mutex::new(deed)));
        match world.try_backup() {
            Err(said) => {
                let said = said.to_string();
                assert!(
                    ["ended in a panic", "ended in the middle"].iter().any(|e| said.contains(e)),
                    "{moment:?}: {said}"
                );
                assert_eq!(world.vault.snapshots().unwrap(), []);
            }
            // A thread that lists ahead of the walk reports that it could not.
            Ok(report) => assert!(moment == Moment::Listing && !report.good, "{moment:?}"),
        }
    }
}

/// Does something at every moment, from several threads at once.
struct Unguarded(Mutex<Deed>);

impl Monitor for Unguarded {
    fn reached(&self, moment: Moment, path: &EntryPath) {
        let mut deed = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        deed(moment, &path.to_string());
    }
}

#[test]
fn what_takes_a_folders_place_is_taken_in_its_new_form() {
    let mut world = World::new();
    world.write("m/file", b"x");
    world.write("zz/current/old", b"old");
    world.write("zz/release2/new", b"new");
    fs::create_dir(world.data.path().join("zz/state")).unwrap();
    let report = world.backup_while(Moment::Listed, "zz", |data| {
        fs::remove_dir_all(data.join("zz/current")).unwrap();
        symlink("release2", data.join("zz/current")).unwrap();
        fs::remove_dir(data.join("zz/state")).unwrap();
        fs::write(data.join("zz/state"), "now a file").unwrap();
    });
    let entries = world.entries(report.snapshot);
    let kind = |name: &str| entries.iter().find(|(e, _)| e.path.to_string() == name).map(|(e, _)| e.kind);
    assert_eq!(kind("zz/current"), Some(EntryKind::Symlink), "{report:?}");
    assert_eq!(kind("zz/state"), Some(EntryKind::File), "{report:?}");
}

#[test]
fn what_lies_beside_each_name_of_a_database_is_taken_with_that_name() {
    for mode in ["delete", "wal"] {
        let world = World::new();
        let at = |name: &str| world.data.path().join(name);
        let app = rusqlite::Connection::open(at("b.db")).unwrap();
        let setup =
            "create table t(x, b); with recursive n(n) as (select 1 union all select n + 1 from n where n < 300)
            insert into t select 0, randomblob(2000) from n;";
        app.execute_batch(&format!("pragma journal_mode = {mode}; pragma cache_size = 5; {setup}")).unwrap();
        fs::hard_link(at("b.db"), at("a.db")).unwrap();
        // Beside the first name is a side file of zeros, which says nothing; the app works under the second name, and
        // dies.
        fs::write(at(if mode == "wal" { "a.db-wal" } else { "a.db-journal" }), [0; 512]).unwrap();
        let half = if mode == "wal" { "" } else { "begin;" };
        app.execute_batch(&format!("{half} update t set x = 1, b = randomblob(2000)")).unwrap();
        let (dead, side) = (tempfile::tempdir().unwrap(), if mode == "wal" { "b.db-wal" } else { "b.db-journal" });
        for name in ["b.db", side] {
            fs::copy(at(name), dead.path().join(name)).unwrap();
        }
        drop(app);
        // Everything is as its death left it; both names lead to the same file.
        fs::write(at("b.db"), fs::read(dead.path().join("b.db")).unwrap()).unwrap();
        fs::copy(dead.path().join(side), at(side)).unwrap();
        let report = world.backup();
        assert!(report.good, "{report:?}");
        let out = tempfile::tempdir().unwrap();
        for (entry, content) in world.entries(report.snapshot) {
            if entry.path.to_string().starts_with("b.db") {
                fs::write(out.path().join(entry.path.as_path()), content).unwrap();
            }
        }
        let restored = rusqlite::Connection::open(out.path().join("b.db")).unwrap();
        let sum: i64 = restored.query_row("select sum(x) from t", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, if mode == "wal" { 300 } else { 0 }, "{mode}: {report:?}");
    }
}

#[test]
fn a_file_that_is_saved_anew_all_the_time_lets_it_end() {
    let mut world = World::new();
    world.write("status.json", b"saved");
    (0..30).for_each(|n| world.write(&format!("f/{n}"), b"x"));
    let data = world.data.path().to_path_buf();
    let deed: Deed = Box::new(move |_, _| {
        fs::write(data.join("status.new"), "saved").unwrap();
        fs::rename(data.join("status.new"), data.join("status.json")).unwrap();
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(deed))));
    let report = world.backup();
    assert!(report.good && report.looked_again.rounds == 0, "{report:?}");
    assert!(!report.warnings.iter().any(|what| what.contains(NEVER_RESTS)), "{report:?}");
    assert_eq!(world.content(report.snapshot, "status.json"), b"saved");
}

#[test]
fn what_was_something_else_only_while_it_was_read_is_taken() {
    let mut world = World::new();
    world.write("a/x", b"x");
    world.write("f", b"there all the time");
    world.write("zz/last", b"x");
    let data = world.data.path().to_path_buf();
    let (away, mut moved) = (data.join("a/f"), false);
    let deed: Deed = Box::new(move |moment, path| {
        if (moment, path) == (Moment::Opening, "f") && !moved {
            // Its folder has been listed, and so has the other one.
            fs::rename(data.join("f"), &away).unwrap();
            symlink("elsewhere", data.join("f")).unwrap();
            moved = true;
        } else if (moment, path) == (Moment::Opening, "zz/last") {
            std::thread::sleep(Duration::from_millis(50));
            fs::rename(&away, data.join("f")).unwrap();
            return true;
        }
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(deed))));
    let report = world.backup();
    assert!(report.good, "{report:?}");
    assert_eq!(world.content(report.snapshot, "f"), b"there all the time", "{report:?}");
}

/// Moves a file from the first of these names to the next one, and so on, each time that a backup comes to a moment.
fn goes_about(steps: &'static [(Moment, &'static str, &'static str, &'static str)]) -> (World, BackupReport) {
    let mut world = World::new();
    ["a", "b", "c"].iter().for_each(|folder| world.write(&format!("{folder}/stays"), b"x"));
    world.write("b/file", b"there all the time");
    let (data, mut done) = (world.data.path().to_path_buf(), 0);
    let app = Arc::new(App(Mutex::new(Some(Box::new(move |now, at: &str| {
        let (moment, path, from, to) = steps[done];
        if (now, at) == (moment, path) {
            fs::rename(data.join(from), data.join(to)).unwrap();
            done += 1;
        }
        done == steps.len()
    })))));
    world.monitor = app.clone();
    let report = world.backup();
    assert!(app.0.lock().unwrap().is_none(), "it never came to the end: {report:?}");
    (world, report)
}

#[test]
fn what_moves_past_the_look_at_the_end_is_found_by_the_next_one() {
    use Moment::{Looking, Opening};
    let all: [&[_]; 2] = [
        &[
            (Opening, "b/file", "b/file", "a/file"),
            (Looking, "a", "a/file", "c/file"),
            (Looking, "c", "c/file", "a/file"),
        ],
        // The record of its folder has the name.
        &[
            (Opening, "b/file", "b/file", "a/file"),
            (Looking, "a", "a/file", "b/file"),
            (Looking, "c", "b/file", "a/file"),
        ],
    ];
    for steps in all {
        let (world, report) = goes_about(steps);
        assert!(report.good, "{report:?}");
        assert!(world.paths(&report).contains(&"a/file".into()), "{report:?}");
        assert_eq!(world.content(report.snapshot, "a/file"), b"there all the time");
    }
    // It comes back where it was listed, after it was gone when it was to be read and after the first look.
    let (world, report) = goes_about(&[
        (Opening, "b/file", "b/file", "a/file"),
        (Looking, "a", "a/file", "b/file"),
        (Looking, "c", "b/file", "a/file"),
        (Looking, "a", "a/file", "b/file"),
    ]);
    assert_eq!(world.content(report.snapshot, "b/file"), b"there all the time", "{report:?}");
}

#[test]
fn a_folder_is_told_out_of_which_a_file_moves_during_every_look() {
    let mut world = World::new();
    ["a", "b", "c"].iter().for_each(|folder| world.write(&format!("{folder}/stays"), b"x"));
    world.write("b/file", b"there all the time");
    let data = world.data.path().to_path_buf();
    let deed: Deed = Box::new(move |moment, path| {
        let (from, to) = match (moment, path) {
            (Moment::Opening, "b/file") => ("b/file", "a/file"),
            (Moment::Looking, "a") => ("a/file", "c/file"),
            (Moment::Looking, "c") => ("c/file", "a/file"),
            _ => return false,
        };
        fs::rename(data.join(from), data.join(to)).unwrap();
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(deed))));
    let report = world.backup();
    assert!(report.good && report.looked_again.rounds == 0, "{report:?}");
    assert!(report.warnings.iter().any(|what| what.starts_with(&format!("c: {NEVER_RESTS}"))), "{report:?}");
}

#[test]
fn folders_in_which_nothing_old_moves_are_not_told_of() {
    let mut world = World::new();
    ["log", "state"].iter().for_each(|folder| (0..5).for_each(|n| world.write(&format!("{folder}/{n}"), b"x")));
    let (data, mut n) = (world.data.path().to_path_buf(), 0);
    let deed: Deed = Box::new(move |moment, _| {
        // A file that was listed, and is gone when it is read, may have been moved.
        if moment != Moment::Looking {
            return false;
        }
        n += 1;
        fs::write(data.join(format!("log/new {n}")), "new").unwrap();
        fs::write(data.join("state/lock"), "locked").unwrap();
        fs::write(data.join("state/new"), "state").unwrap();
        fs::rename(data.join("state/new"), data.join("state/3")).unwrap();
        fs::remove_file(data.join("state/lock")).unwrap();
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(deed))));
    let report = world.backup();
    assert!(report.good && report.looked_again.rounds <= 1, "{report:?}");
    assert!(!report.warnings.iter().any(|what| what.contains(NEVER_RESTS)), "{report:?}");
}

#[test]
fn what_is_moved_by_a_copy_before_its_folder_is_listed_is_taken() {
    // It is copied to another filesystem, with its time, or compressed.
    for aged in [true, false] {
        let mut world = World::new();
        world.write("z/log", b"there all the time");
        std::thread::sleep(Duration::from_millis(50));
        let report = world.backup_while(Moment::Listing, "z", move |data| {
            fs::copy(data.join("z/log"), data.join("log.1")).unwrap();
            if aged {
                age(&data.join("log.1"));
            }
            fs::remove_file(data.join("z/log")).unwrap();
        });
        assert!(report.good && report.looked_again.rounds == 1, "{report:?}");
        assert_eq!(world.content(report.snapshot, "log.1"), b"there all the time", "{report:?}");
    }
}

#[test]
fn new_files_where_nothing_went_away_need_no_round() {
    let mut world = World::new();
    world.write("z/log", b"x");
    std::thread::sleep(Duration::from_millis(50));
    let report = world.backup_while(Moment::Listing, "z", |data| {
        // The filesystem's clock is a little behind.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(data.join("new"), "new").unwrap();
    });
    assert_eq!(report.looked_again.rounds, 0, "{report:?}");
}

/// A filesystem that a test mounted.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[test]
fn a_filesystem_that_is_mounted_at_a_new_folder_is_taken() {
    let mut world = World::new();
    world.write("z/file", b"x");
    let (to, mounted) = std::sync::mpsc::channel();
    let report = world.backup_while(Moment::Listing, "z", move |data| {
        let at = data.join("volume");
        fs::create_dir(&at).unwrap();
        let made = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&at).output();
        if made.as_ref().is_ok_and(|made| made.status.success()) {
            fs::write(at.join("file"), "on the volume").unwrap();
            return to.send(Ok(Mounted(at))).unwrap();
        }
        to.send(Err(format!("a tmpfs cannot be mounted: {made:?}"))).unwrap();
    });
    // It stays mounted until the end of the test.
    let _mounted = match mounted.recv().unwrap() {
        Ok(mounted) => mounted,
        Err(why) => return skipped("mount", &why),
    };
    assert_eq!(world.content(report.snapshot, "volume/file"), b"on the volume", "{report:?}");
}

#[test]
fn names_of_a_database_beside_which_nothing_lies_have_one_content() {
    let scratch = tempfile::tempdir().unwrap();
    let app = rusqlite::Connection::open(scratch.path().join("a.db")).unwrap();
    let setup = "pragma journal_mode = wal; create table t(x); pragma wal_checkpoint(truncate);";
    app.execute_batch(&format!("{setup} pragma wal_autocheckpoint = 0; insert into t values (1)")).unwrap();
    let world = World::new();
    for name in ["a.db", "a.db-wal"] {
        world.write(name, &fs::read(scratch.path().join(name)).unwrap());
    }
    for name in ["b.db", "c.db"] {
        fs::hard_link(world.data.path().join("a.db"), world.data.path().join(name)).unwrap();
    }
    for _ in 0..2 {
        let report = world.backup();
        let [a, b, c] = ["a.db", "b.db", "c.db"].map(|name| world.content(report.snapshot, name));
        assert!(a != b && b == c && b == fs::read(world.data.path().join("b.db")).unwrap(), "{report:?}");
    }
}

#[test]
fn a_file_that_is_written_to_and_then_replaced_while_it_is_read_is_no_mixture() {
    let size = 5_000_000;
    let mut world = World::new();
    world.write("f", &vec![b'A'; size]);
    let report = world.backup_while(Moment::Reading, "f", move |data| {
        File::options().write(true).open(data.join("f")).unwrap().write_all(&vec![b'B'; size]).unwrap();
        fs::write(data.join("new"), vec![b'C'; size]).unwrap();
        fs::rename(data.join("new"), data.join("f")).unwrap();
    });
    let content = world.content(report.snapshot, "f");
    assert!(report.good && content.len() == size && content.iter().all(|byte| *byte == content[0]), "{report:?}");
}

#[test]
fn a_log_that_is_copied_and_emptied_is_under_its_new_name() {
    let mut world = World::new();
    world.write("app.log", b"there all the time");
    world.write("z", b"x");
    std::thread::sleep(Duration::from_millis(50));
    let report = world.backup_while(Moment::Opening, "app.log", |data| {
        std::thread::sleep(Duration::from_millis(20));
        fs::copy(data.join("app.log"), data.join("app.log.1")).unwrap();
        fs::write(data.join("app.log"), "").unwrap();
    });
    assert!(report.good, "{report:?}");
    assert_eq!(world.content(report.snapshot, "app.log.1"), b"there all the time", "{report:?}");
}

#[test]
fn a_symlink_is_known_again_only_once_its_times_tell() {
    let mut world = World::new();
    symlink("target", world.data.path().join("link")).unwrap();
    let report = world.backup();
    let racy = |(entry, _): &(Entry, Vec<u8>)| entry.racy.then(|| entry.path.to_string());
    let told: Vec<_> = world.entries(report.snapshot).iter().filter_map(racy).collect();
    assert_eq!(told, ["link"]);
    world.options.trust.window = 0;
    let report = world.backup();
    assert_eq!(world.entries(report.snapshot).iter().filter_map(racy).count(), 0);
}

#[test]
fn what_lies_beside_a_file_that_could_not_be_looked_at_is_taken() {
    let mut world = World::new();
    ["z/big", "z/big-journal", "z/big-shm"].iter().for_each(|path| world.write(path, path.as_bytes()));
    let report = world.backup_while(Moment::Listing, "z", |data| {
        let (to, held) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let stat = rustix::fs::stat(data.join("z/big")).unwrap();
            let hold = sqlite::fd_registry::lock_inode(stat.st_dev, stat.st_ino, &AtomicBool::new(false)).unwrap();
            to.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(2500));
            drop(hold);
        });
        held.recv().unwrap();
    });
    assert!(report.good && report.warnings.is_empty(), "{report:?}");
    for path in ["z/big", "z/big-journal", "z/big-shm"] {
        assert_eq!(world.content(report.snapshot, path), path.as_bytes());
    }
}

#[test]
fn a_folder_that_is_moved_beside_a_database_is_taken() {
    let mut world = World::new();
    let scratch = tempfile::tempdir().unwrap();
    let app = rusqlite::Connection::open(scratch.path().join("app")).unwrap();
    app.execute_batch("create table t(x)").unwrap();
    world.write("aa/app", &fs::read(scratch.path().join("app")).unwrap());
    world.write("zz/app-journal/monday.txt", b"dear diary");
    let report = world.backup_while(Moment::Opening, "aa/app", |data| {
        fs::rename(data.join("zz/app-journal"), data.join("aa/app-journal")).unwrap();
    });
    assert!(report.good, "{report:?}");
    let paths = world.paths(&report);
    let there = ["aa", "zz"].iter().any(|above| paths.contains(&format!("{above}/app-journal/monday.txt")));
    assert!(there, "{paths:?}");
}

#[test]
fn a_log_that_was_emptied_before_it_was_listed_is_under_its_new_name() {
    let mut world = World::new();
    world.write("z/app.log", b"there all the time");
    world.backup();
    std::thread::sleep(Duration::from_millis(50));
    let report = world.backup_while(Moment::Listing, "z", |data| {
        std::thread::sleep(Duration::from_millis(20));
        fs::copy(data.join("z/app.log"), data.join("app.log.1")).unwrap();
        fs::write(data.join("z/app.log"), "").unwrap();
    });
    assert_eq!(world.content(report.snapshot, "app.log.1"), b"there all the time", "{report:?}");
}

#[test]
fn files_that_are_saved_by_another_name_give_no_warning() {
    let mut world = World::new();
    (0..20).for_each(|n| world.write(&format!("s/{n}"), b"x"));
    std::thread::sleep(Duration::from_millis(50));
    let (data, mut n) = (world.data.path().to_path_buf(), 0);
    let deed: Deed = Box::new(move |_, _| {
        n += 1;
        // At every moment, one file is half saved.
        let (last, now) = (data.join(format!("s/{}.tmp", (n - 1) % 20)), data.join(format!("s/{}.tmp", n % 20)));
        if last.exists() {
            fs::rename(last, data.join(format!("s/{}", (n - 1) % 20))).unwrap();
        }
        fs::write(now, "saved").unwrap();
        let link = data.join("s/link.tmp");
        symlink(format!("target {n}"), &link).unwrap();
        fs::rename(link, data.join("s/current")).unwrap();
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(deed))));
    let report = world.backup();
    let other = |what: &&String| !what.contains("taken as it stood");
    assert!(report.good && !report.warnings.iter().any(|what| other(&what)), "{report:?}");
}

#[test]
fn a_symlink_that_was_another_one_when_it_was_read_is_read_again() {
    // Each time it is looked at, another symlink has its name at that moment, since their folders change places.
    let mut world = World::new();
    for name in ["a", "b"] {
        fs::create_dir(world.data.path().join(name)).unwrap();
        let path = world.data.path().join(name).join("link");
        std::os::unix::fs::symlink(format!("to {name}"), &path).unwrap();
        let old = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 5 };
        let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
        rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    world.write("c", b"c");
    let (data, mut swapped) = (world.data.path().to_path_buf(), false);
    world.monitor = Arc::new(App(Mutex::new(Some(Box::new(move |moment, path| {
        if swapped || matches!((moment, path), (Moment::Opening, "a/link")) {
            renameat_with(CWD, data.join("a"), CWD, data.join("b"), RenameFlags::EXCHANGE).unwrap();
            swapped = !swapped;
        }
        false
    })))));
    world.backup();
    world.monitor = Arc::new(SilentMonitor);
    let report = world.backup();
    for (entry, _) in world.entries(report.snapshot).iter().filter(|(entry, _)| entry.kind == EntryKind::Symlink) {
        let target = entry.target.as_ref().map(|target| String::from_utf8_lossy(&target.0).into_owned());
        assert_eq!(target, entry.path.folder().map(|folder| format!("to {folder}")));
    }
}
