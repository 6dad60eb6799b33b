//! Tests databases that cannot be read live, and checks.

use super::super::check::Checked;
use super::*;
use crate::sqlite::fd_registry::try_lock_inode;
use crate::vault::entry::CheckKind;

#[test]
fn a_hot_journal_is_left_to_others() {
    let (folder, path) = database("");
    let mut writer = Peer::with(&path);
    // With a small cache, pages go to the file before the commit.
    writer.run("pragma cache_size = 1; begin; update t set x = 0, padding = randomblob(800)").unwrap();
    writer.kill();
    assert!(beside(&path, "-journal").exists());
    let before = Peer::start().look(folder.path());
    for options in [HASTY, PATIENT, LiveOptions { patience: Duration::ZERO, ..HASTY }] {
        let mut live = try_open(&path, options).unwrap();
        raw_because(live.begin().unwrap_err(), "hot journal");
        drop(live);
    }
    assert_eq!(before, Peer::start().look(folder.path()));
    assert_eq!(Peer::with(&path).ask("select sum(x) from t"), "10000");
}

#[test]
fn a_journal_that_is_not_hot_does_not_matter() {
    for mode in ["persist", "truncate"] {
        let (folder, path) = database("");
        let mut writer = Peer::with(&path);
        assert_eq!(writer.ask(&format!("pragma journal_mode = {mode}")), mode);
        writer.run("update t set x = 1").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        // A journal in use: its writer has not begun to write to the file.
        writer.run("begin; update t set x = 2").unwrap();
        let mut live = opened(&path);
        let state = live.begin().unwrap();
        assert!(state.journal.is_some());
        assert_eq!(restored(&taken(&live, &state)), (100, 100), "{mode}");
    }
}

#[test]
fn a_journal_beside_a_database_at_rest_that_uses_a_log_matters_if_it_is_hot() {
    let (folder, path) = database("");
    let mut writer = Peer::with(&path);
    writer.run("pragma cache_size = 1; begin; update t set x = 0, padding = randomblob(800)").unwrap();
    writer.kill();
    // The state that an app leaves if it dies while it goes over to a log.
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&[2, 2], 18).unwrap();
    let before = Peer::start().look(folder.path());
    raw_because(opened(&path).begin().unwrap_err(), "hot journal");
    assert_eq!(before, Peer::start().look(folder.path()));

    let (_folder, path) = database(WAL);
    fs::write(beside(&path, "-journal"), [0; 512]).unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert!(state.logged && state.journal.is_some());
    assert_eq!(restored(&taken(&live, &state)), (100 * 100, 100));
}

#[test]
fn what_is_no_database_is_raw() {
    let (_folder, path) = database("");
    let whole = fs::read(&path).unwrap();
    let mut noise = vec![0; whole.len()];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
    for content in [&noise[..], b"", b"SQLite format"] {
        fs::write(&path, content).unwrap();
        raw_because(try_open(&path, PATIENT).err().unwrap(), "not a SQLite database");
    }
    // A header, and then noise, which is what an extension for encryption may leave readable.
    fs::write(&path, [&whole[..16], &noise[16..]].concat()).unwrap();
    let mut live = opened(&path);
    assert!(matches!(live.begin().unwrap_err(), ReadError::Raw(_)));
    drop(live);
    // A file with nothing but the header.
    fs::write(&path, &whole[..100]).unwrap();
    let mut live = opened(&path);
    assert!(matches!(live.begin().unwrap_err(), ReadError::Raw(_)));
}

#[test]
fn a_damaged_database_is_raw_and_nothing_is_created_for_it() {
    for setup in ["", WAL] {
        let (folder, path) = database(setup);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xA5; 200], 100).unwrap();
        drop(file);
        let before = Peer::start().look(folder.path());
        let mut live = opened(&path);
        raw_because(live.begin().unwrap_err(), "damaged");
        drop(live);
        assert_eq!(before, Peer::start().look(folder.path()));
    }
    let (_folder, path) = database("");
    let half = fs::metadata(&path).unwrap().len() / 2;
    fs::File::options().write(true).open(&path).unwrap().set_len(half).unwrap();
    raw_because(opened(&path).begin().unwrap_err(), "damaged");
}

#[test]
fn another_file_at_the_path_is_noticed() {
    for setup in ["", WAL] {
        let (_folder, path) = database(setup);
        let (_other_folder, other) = database(setup);
        let stat = fs::metadata(&path).unwrap();
        let mut live = opened(&path);
        live.begin().unwrap();
        live.end().unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(live.begin().unwrap_err(), ReadError::Replaced);
        drop(live);
        let held = hold(stat.dev(), stat.ino());
        assert_eq!(Live::open(Arc::new(at(&path)), held, PATIENT).err().unwrap(), ReadError::Replaced);
        let now = fs::metadata(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(
            Live::open(Arc::new(at(&path)), hold(now.dev(), now.ino()), PATIENT).err().unwrap(),
            ReadError::Replaced
        );
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(
            Live::open(Arc::new(at(&path)), hold(now.dev(), now.ino()), PATIENT).err().unwrap(),
            ReadError::Replaced
        );
        drop(try_lock_inode(now.dev(), now.ino()).unwrap());
    }
}

#[test]
fn a_path_may_have_symlinks_before_its_name() {
    let (folder, path) = database("");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(".", &link).unwrap();
    let mut live = opened(&link.join("app.db"));
    let state = live.begin().unwrap();
    assert_eq!(taken(&live, &state), fs::read(&path).unwrap());
}

#[test]
fn a_path_that_is_too_long_for_sqlite_is_raw() {
    let (folder, path) = database("");
    let deep = folder.path().join("d".repeat(200)).join("d".repeat(200)).join("d".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::copy(&path, deep.join("app.db")).unwrap();
    raw_because(try_open(&deep.join("app.db"), PATIENT).err().unwrap(), "longer");
    // The longest path that is accepted, with all its side files.
    let mut fits = folder.path().canonicalize().unwrap();
    while super::super::live::LONGEST_PATH - fits.as_os_str().len() > 200 {
        fits.push("f".repeat(90));
    }
    fs::create_dir_all(&fits).unwrap();
    let longest = fits.join("d".repeat(super::super::live::LONGEST_PATH - fits.as_os_str().len() - 1));
    fs::copy(&path, &longest).unwrap();
    assert_eq!(Peer::with(&longest).ask(WAL), "wal");
    let mut live = opened(&longest);
    assert!(live.begin().unwrap().logged);
    drop(live);
    assert_eq!(fs::read_dir(&fits).unwrap().count(), 1);
}

#[test]
fn checks_tell_sound_from_damaged_from_unknown() {
    let (_folder, path) = database("create table i(a, b); create index ia on i(a)");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("insert into i select id, x from t").unwrap();
    drop(connection);
    let mut live = opened(&path);
    assert!(live.check(CheckKind::Quick).is_err());
    live.begin().unwrap();
    assert_eq!(live.check(CheckKind::Quick).unwrap(), Checked::Sound);
    assert_eq!(live.check(CheckKind::Full).unwrap(), Checked::Sound);
    drop(live);

    // An index with an old value: only the full check compares.
    let root: i64 = Connection::open(&path)
        .and_then(|c| c.query_row("select rootpage from sqlite_schema where name = 'ia'", [], |row| row.get(0)))
        .unwrap();
    for change in [
        "delete from sqlite_schema where name = 'ia'".to_owned(),
        "update i set a = -a where rowid = 7".to_owned(),
        format!("insert into sqlite_schema values ('index', 'ia', 'i', {root}, 'create index ia on i(a)')"),
    ] {
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(&format!("pragma writable_schema = on; {change}")).unwrap();
    }
    let mut live = opened(&path);
    live.begin().unwrap();
    assert_eq!(live.check(CheckKind::Quick).unwrap(), Checked::Sound);
    let Checked::Damaged(why) = live.check(CheckKind::Full).unwrap() else { panic!("it is damaged") };
    assert!(why.contains("ia") && !why.contains('\n'), "{why}");
    drop(live);

    let (_folder, path) = database("");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "create table u(a text); create index ua on u(a); pragma writable_schema = on;
             update sqlite_schema set sql = 'create table u(a text collate theirs)' where name = 'u'",
        )
        .unwrap();
    drop(connection);
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!(taken(&live, &state), fs::read(&path).unwrap());
    let Checked::Unknown(why) = live.check(CheckKind::Full).unwrap() else { panic!("it cannot be told") };
    assert!(why.contains("theirs"), "{why}");
}

#[test]
fn what_a_check_found_first_is_told() {
    let (_folder, path) = database("pragma page_size = 4096");
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    // A page in the middle of the table `t`: its kind of page does not exist.
    file.write_all_at(&[0x77], 9 * 4096).unwrap();
    drop(file);
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!(taken(&live, &state), fs::read(&path).unwrap());
    for kind in [CheckKind::Quick, CheckKind::Full] {
        let Checked::Damaged(why) = live.check(kind).unwrap() else { panic!("it is damaged") };
        assert!(why.contains("page 10") && !why.contains('\n'), "{why}");
    }
}

#[test]
fn extensions_do_not_disturb_a_check() {
    let (_folder, path) = database("");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "create virtual table f5 using fts5(a); insert into f5 values ('words here');
             create virtual table f4 using fts4(a); insert into f4 values ('words here');
             create virtual table r using rtree(i, a, b); insert into r values (1, 2, 3);
             create table g(a, b as (a + 1) stored, check (a > 0)); insert into g values (1)",
        )
        .unwrap();
    drop(connection);
    let mut live = opened(&path);
    live.begin().unwrap();
    assert_eq!(live.check(CheckKind::Full).unwrap(), Checked::Sound);
}

#[test]
fn a_check_can_be_stopped() {
    let (_folder, path) = database("");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "with recursive n(n) as (select 1 union all select n + 1 from n where n < 200000)
             insert into junk(b) select n from n; create index jb on junk(b)",
        )
        .unwrap();
    drop(connection);
    let stop = AtomicBool::new(false);
    let mut live = try_open(&path, LiveOptions { stop: &stop, ..PATIENT }).unwrap();
    live.begin().unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(live.check(CheckKind::Full).unwrap_err(), ReadError::Stopped);
}
