//! Databases, and what lies beside them.

use super::*;

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
fn names_of_a_database_without_side_files_have_one_content() {
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
