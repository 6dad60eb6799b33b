//! What another program writes to a directory between the snapshot that `lastgood run` takes of it and the restore that replaces it.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::World;
use crate::support::counter::without_terminal;
use crate::support::http::Service;

const RUN: [&str; 5] = ["run", "--every", "off", "--handover-poll", "100ms"];

/// The diverged snapshots that have a file of this content.
fn saved_with(world: &World, path: &str, content: &str) -> usize {
    let list = world.json(["list"], 0);
    let diverged = list.as_array().unwrap().iter().filter(|snapshot| snapshot["good"] == false);
    let has = |snapshot: &&Value| {
        let id = snapshot["id"].as_str().unwrap();
        let ran = world.run(["cat", id, path]);
        ran.code == Some(0) && ran.text() == content
    };
    diverged.filter(has).count()
}

fn pins(world: &World) -> usize {
    fs::read_dir(world.vault().join("pins")).map_or(0, Iterator::count)
}

/// A directory that comes from nowhere, and a vault with another one.
fn unknown() -> World {
    let world = World::new();
    world.write("a", "good");
    world.run(["backup", "--init"]).ended(0);
    fs::remove_dir_all(world.data()).unwrap();
    ["a", "sub/b"].iter().for_each(|path| world.write(path, "image"));
    world
}

#[test]
fn it_is_saved_and_a_directory_that_nobody_writes_to_is_saved_once() {
    for in_place in [false, true] {
        for late in ["", "echo late > data/sub/late", "echo changed > data/a"] {
            let world = unknown();
            let hook = format!("true {late}").replace("true echo", "echo");
            let place = if in_place { &["--in-place"][..] } else { &[] };
            let run = world.run([&RUN[..], place, &["--before-restore", &hook, "--", "cat", "data/a"]].concat());
            assert_eq!(run.ended(0).text(), "good", "{run:?}");
            let at = format!("{in_place} {late:?}: {run:?}");
            assert_eq!(saved_with(&world, "sub/b", "image"), if late.is_empty() { 1 } else { 2 }, "{at}");
            assert_eq!(pins(&world), if late.is_empty() { 1 } else { 2 }, "{at}");
            assert!(run.stderr.contains("which is never restored by itself"), "{at}");
            assert_eq!(run.stderr.contains("may have been, after"), !late.is_empty(), "{at}");
            let (path, content) = if late.contains("late") { ("sub/late", "late\n") } else { ("a", "changed\n") };
            assert_eq!(saved_with(&world, path, content), usize::from(!late.is_empty()), "{at}");
        }
    }
}

#[test]
fn it_is_saved_and_named_where_a_restore_was_asked_for() {
    let world = World::new();
    world.write("a", "good");
    let backup = world.json(["backup", "--init"], 0);
    world.write("a", "newer");
    let hook = "test ! -e armed || echo late >> data/late";
    let options = ["--listen", "127.0.0.1:0", "--allow-restore", "--after-backup", hook, "--", "sleep", "600"];
    let mut command = world.command([&RUN[..], &options].concat());
    command.env("LASTGOOD_DATA", world.data()).env("PORT", "1");
    let mut run = Service::of(without_terminal(&command));
    run.log_with("the app has started");
    run.log_with("backup is complete");
    fs::write(world.path("armed"), "").unwrap();
    let asked = format!("{{\"snapshot\":{}}}", backup["snapshot"]);
    let report = run.post("/backup/restore?wait=true", &asked).is(200);
    fs::remove_file(world.path("armed")).unwrap();
    assert!(report.to_string().contains("may have been, after"), "{report}");
    // Once before the app was stopped, and once after that.
    assert_eq!(saved_with(&world, "late", "late\nlate\n"), 1, "{report}");
    assert_eq!(fs::read_to_string(world.data().join("a")).unwrap(), "good");
    run.end(Signal::TERM);
}

/// A directory that is stale: it is as an older snapshot has it.
fn stale() -> World {
    let world = World::new();
    world.write("a", "old");
    world.write("sub/b", "old");
    let run = |data: &str, write: &str| {
        let mut command = world.command([&RUN[..], &["--init", "--", "sh", "-c", write]].concat());
        command.env("LASTGOOD_DATA", world.path(data));
        let ran = command.output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    run("data", "true");
    run("other", "echo good > other/a");
    fs::remove_dir_all(world.path("other")).unwrap();
    world
}

#[test]
fn it_is_saved_where_a_snapshot_held_the_directory_already() {
    for in_place in [false, true] {
        for (late, path, content) in [
            ("true", "", ""),
            ("echo late > data/sub/late", "sub/late", "late\n"),
            ("echo changed > data/sub/b", "sub/b", "changed\n"),
        ] {
            let world = stale();
            let place = if in_place { &["--in-place"][..] } else { &[] };
            let run = world.run([&RUN[..], place, &["--before-restore", late, "--", "cat", "data/a"]].concat());
            assert_eq!(run.ended(0).text(), "good\n", "{run:?}");
            let at = format!("{in_place} {late:?}: {run:?}");
            assert!(run.stderr.contains("is stale: "), "{at}");
            let is_late = !path.is_empty();
            assert_eq!(pins(&world), usize::from(is_late), "{at}");
            let told = format!("after the directory was looked at and before the restore ({path}) is saved as");
            assert_eq!(run.stderr.contains(&told), is_late, "{at}");
            assert!(!is_late || saved_with(&world, path, content) == 1, "{at}");
        }
    }
}

#[test]
fn it_is_saved_where_there_was_nothing_to_save() {
    let late = "mkdir -p data; echo late > data/upload.csv";
    for (state, has) in [
        ("is missing: ", "rm -r data"),
        ("is missing: ", "rm -r data/*; mkdir data/empty; touch data/.gitkeep"),
        ("is a seed: ", "rm -r data/.lastgood data/*; echo image > data/a; \"$LASTGOOD\" seed data"),
    ] {
        for is_late in [false, true] {
            let world = World::new();
            world.write("a", "good");
            world.run([&RUN[..], &["--init", "--", "true"]].concat()).ended(0);
            world.shell(has).ended(0);
            let hook = if is_late { late } else { "true" };
            let run = world.run([&RUN[..], &["--before-restore", hook, "--", "cat", "data/a"]].concat());
            assert_eq!(run.ended(0).text(), "good", "{run:?}");
            let at = format!("{has} {is_late}: {run:?}");
            assert!(run.stderr.contains(state), "{at}");
            assert_eq!(pins(&world), usize::from(is_late), "{at}");
            assert_eq!(run.stderr.contains("may have been, after the directory was looked at"), is_late, "{at}");
            assert_eq!(saved_with(&world, "upload.csv", "late\n"), usize::from(is_late), "{at}");
            // An image's mark does not tell what is not the image's, and folders are named as well.
            let names = has == "rm -r data";
            assert!(!is_late || !names || run.stderr.contains("(upload.csv)"), "{at}");
        }
    }
}

/// Makes a database with a journal beside it that a transaction has left.
fn database(world: &World, folder: &str) {
    let (original, copy) = (world.path("original"), world.path(folder));
    fs::create_dir_all(&original).unwrap();
    fs::create_dir_all(&copy).unwrap();
    let database = rusqlite::Connection::open(original.join("app.db")).unwrap();
    database.query_row("pragma journal_mode = persist", [], |_| Ok(())).unwrap();
    database.execute_batch("create table t (a); insert into t values (1)").unwrap();
    for file in ["app.db", "app.db-journal"] {
        fs::copy(original.join(file), copy.join(file)).unwrap();
    }
    assert!(copy.join("app.db-journal").metadata().unwrap().len() > 0);
}

#[test]
fn a_seed_that_nobody_writes_to_is_replaced_in_place_as_well() {
    let world = World::new();
    world.write("z", "good");
    world.run([&RUN[..], &["--init", "--", "true"]].concat()).ended(0);
    for _ in 0..2 {
        world.shell("rm -rf data; mkdir data; echo image > data/a; \"$LASTGOOD\" seed data").ended(0);
        let run = world.run([&RUN[..], &["--in-place", "--", "cat", "data/z"]].concat());
        assert_eq!(run.ended(0).text(), "good", "{run:?}");
        assert!(run.stderr.contains("is a seed: ") && !run.stderr.contains("may have been, after"), "{run:?}");
    }
    assert_eq!(pins(&world), 0);
}

/// Starts several times on what the folder `image` has, over a vault with something else: only the first start saves it.
fn is_saved_once(world: &World, mode: &str) {
    world.write("z", "good");
    world.run([&RUN[..], &["--init", "--", "true"]].concat()).ended(0);
    for _ in 0..3 {
        world.shell("rm -rf data data.replaced-*; cp -a image data").ended(0);
        let run = world.run([&RUN[..], &["--", "cat", "data/z"]].concat());
        assert_eq!(run.ended(0).text(), "good", "{run:?}");
        assert!(!run.stderr.contains("may have been, after"), "{mode}: {run:?}");
    }
    assert_eq!(pins(world), 1, "{mode}");
}

#[test]
fn an_image_with_a_journal_is_saved_once_however_often_it_starts() {
    let world = World::new();
    database(&world, "image");
    is_saved_once(&world, "persist");
}

#[test]
fn an_image_with_a_database_in_the_middle_of_a_transaction_is_saved_once_however_often_it_starts() {
    for mode in ["delete", "wal"] {
        let world = World::new();
        let (original, image) = (world.path("original"), world.path("image"));
        fs::create_dir_all(&original).unwrap();
        fs::create_dir_all(&image).unwrap();
        let database = rusqlite::Connection::open(original.join("app.db")).unwrap();
        database.query_row(&format!("pragma journal_mode = {mode}"), [], |_| Ok(())).unwrap();
        database.execute_batch("create table t (a); insert into t values (1); pragma cache_size = 1").unwrap();
        database.execute_batch("begin; update t set a = 2").unwrap();
        database.cache_flush().unwrap();
        for file in fs::read_dir(&original).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), image.join(file.file_name())).unwrap();
        }
        assert!(fs::read_dir(&image).unwrap().count() > 1, "{mode}");
        is_saved_once(&world, mode);
    }
}

#[test]
fn a_database_whose_journal_is_kept_is_no_change() {
    let world = World::new();
    database(&world, "data");
    world.write("a", "old");
    world.run([&RUN[..], &["--init", "--", "true"]].concat()).ended(0);
    let mut other = world.command([&RUN[..], &["--", "sh", "-c", "echo good > other/a"]].concat());
    assert!(other.env("LASTGOOD_DATA", world.path("other")).output().unwrap().status.success());
    assert_eq!(world.json(["state"], 3)["state"], "stale");
}
