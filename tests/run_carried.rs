//! What snapshots leave out of a directory that `lastgood run` restores, where carrying it over fails or is killed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::support::counter::without_terminal;
use crate::support::http::Service;
use crate::support::requirements::Mounted;
use crate::support::skipped::skipped;
use crate::support::strace::killed_at;
use crate::support::{Ran, World, is_root};

/// No start of these tests makes this many calls of one kind.
const MOST: usize = 400;
const RUN: [&str; 5] = ["run", "--every", "off", "--handover-poll", "100ms"];

/// The user that runs the program where it is to be somebody else than root.
const USER: u32 = 65_534;

/// Runs the program as a user who is not root, if this is root.
fn as_user(world: &World, args: &[&str]) -> Command {
    let mut command = world.command(args);
    if is_root() {
        std::os::unix::process::CommandExt::uid(&mut command, USER);
        std::os::unix::process::CommandExt::gid(&mut command, USER);
    }
    command
}

/// Gives all that is in a world to that user.
fn hand_over(world: &World) {
    if is_root() {
        let all = world.shell(&format!("chown -R {USER}:{USER} . && chmod 755 ."));
        all.ended(0);
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory that comes from nowhere, has entries that are left out in folders of many kinds, and is about to be restored over.
fn unknown() -> World {
    let world = World::new();
    ["a", "shut/data"].iter().for_each(|path| world.write(path, "good"));
    mode(&world.data().join("shut"), 0o500);
    world.run(["backup", "--init"]).ended(0);
    mode(&world.data().join("shut"), 0o700);
    fs::remove_dir_all(world.data()).unwrap();
    for path in ["a", "spool/1.tmp", "spool/2.tmp", "spool/deep/3.tmp", "shut/4.tmp", "cache/5"] {
        world.write(path, "image");
    }
    let spool = world.data().join("spool");
    if is_root() {
        chown(&spool, Some(1234), Some(1234)).unwrap();
    }
    mode(&spool, 0o2750);
    mode(&spool.join("deep"), 0o511);
    mode(&world.data().join("cache"), 0o555);
    // Not every filesystem has them.
    let _ = setxattr(&spool, "user.k", b"v", XattrFlags::empty());
    world
}

/// What is told of a folder: its owner, mode, modification time in ns, and an attribute.
fn told(path: &Path) -> (u32, u32, i128, Vec<u8>) {
    let meta = fs::metadata(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let mut value = vec![0; 16];
    let length = getxattr(path, "user.k", &mut value[..]).unwrap_or(0);
    value.truncate(length);
    let modified = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    (meta.uid(), meta.mode() & 0o7777, modified, value)
}

fn start() -> Vec<&'static str> {
    [&RUN[..], &["--exclude", "*.tmp", "--exclude", "cache", "--", "true"]].concat()
}

/// Kills starts at each of these calls while something is carried over, and shows that the next start leaves what an undisturbed one
/// leaves. Returns how often it was killed while it was carried over.
fn kill_at_each(call: &str) -> usize {
    let mut halves = 0;
    for n in 1..MOST {
        let world = unknown();
        let data = world.data();
        let before = ["spool", "spool/deep", "cache"].map(|path| told(&data.join(path)));
        let Some(ended) = killed_at(&world.command(start()), call, n) else { return 1 };
        let is_half = data.join(".lastgood/carry.json").exists();
        halves += usize::from(is_half);
        if !ended {
            if !is_half && halves == 0 {
                // Nothing is moved yet: other tests are about that.
                continue;
            }
            // Without an epoch: it waits for nobody.
            let next = [&["run", "--detached"][..], &start()[1..]].concat();
            world.run(next).ended(0);
        }
        let at = format!("{call} {n}");
        let after = ["spool", "spool/deep", "cache"].map(|path| told(&data.join(path)));
        assert_eq!(after, before, "{at}");
        assert_eq!(told(&data.join("shut")).1, 0o500, "{at}");
        for path in ["spool/1.tmp", "spool/2.tmp", "spool/deep/3.tmp", "shut/4.tmp", "cache/5"] {
            assert_eq!(fs::read_to_string(data.join(path)).unwrap(), "image", "{at}: {path}");
        }
        assert_eq!(fs::read_to_string(data.join("a")).unwrap(), "good", "{at}");
        let left = data.join(".lastgood");
        assert!(!left.join("carry.json").exists() && !left.join("carry.json.new").exists(), "{at}");
        assert!(!data.join(".lastgood-restoring-carry").exists(), "{at}");
        if ended {
            return halves;
        }
    }
    panic!("it never ends");
}

#[test]
fn a_start_that_is_killed_at_a_rename_leaves_folders_as_they_were() {
    assert!(kill_at_each("renameat2") > 0);
}

#[test]
fn a_start_that_is_killed_when_it_makes_a_folder_or_changes_one_leaves_folders_as_they_were() {
    for call in ["mkdirat", "fchmod", "utimensat"] {
        assert!(kill_at_each(call) > 0, "{call}");
    }
}

#[test]
fn a_start_that_is_killed_while_it_fills_a_folder_of_an_image_leaves_nothing_aside() {
    // The directory cannot be exchanged, and its folders move entry by entry.
    let mut halves = 0;
    for n in 1..MOST {
        let world = World::new();
        ["a", "s/f"].iter().for_each(|path| world.write(path, "good"));
        world.run(["backup", "--init"]).ended(0);
        for path in ["a", "s/f", "only.tmp", "s/x.tmp"] {
            let path = world.path("layers/lower/data").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "image").unwrap();
        }
        let image = Mounted::overlay(&world.path("layers"), world.path("image"), ",redirect_dir=off");
        let Some(_image) = image else { return };
        let data = world.path("image/data");
        let start = |world: &World| {
            let mut command = world.command(start());
            command.env("LASTGOOD_DATA", &data);
            command
        };
        let Some(ended) = killed_at(&start(&world), "renameat2", n) else { return };
        halves += usize::from(data.join(".lastgood-in-place").exists());
        let next = Ran::of(start(&world));
        next.ended(0);
        for (path, content) in [("a", "good"), ("s/f", "good"), ("only.tmp", "image"), ("s/x.tmp", "image")] {
            let there = fs::read_to_string(data.join(path)).unwrap_or_default();
            assert_eq!(there, content, "renameat2 {n}: {path}: {next:?}");
        }
        if ended {
            assert!(halves > 3, "{halves}");
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn the_next_start_takes_nothing_that_a_restore_by_hand_moved_aside() {
    let world = World::new();
    ["cache/index", "a"].iter().for_each(|path| world.write(path, "good"));
    let backup = world.json(["backup", "--init"], 0);
    world.write("cache/entry-bad", "poison");
    world.write("a", "2");
    let mut command = world.command(
        [&RUN[..], &["--exclude", "cache", "--listen", "127.0.0.1:0", "--allow-restore", "--", "sleep", "600"]]
            .concat(),
    );
    command.env("LASTGOOD_DATA", world.data()).env("PORT", "1");
    let mut run = Service::of(without_terminal(&command));
    run.log_with("the app has started");
    // It is refused: a program uses the data.
    let mut user = Command::new("tail").args(["-f", "data/a"]).current_dir(world.path("")).spawn().unwrap();
    let snapshot = backup["snapshot"].as_str().unwrap();
    let asked = format!("{{\"snapshot\":\"{snapshot}\"}}");
    let refused = run.post("/backup/restore?wait=true", &asked);
    assert!(refused.text().contains("in-use"), "{}", refused.text());
    user.kill().unwrap();
    user.wait().unwrap();
    run.end(rustix::process::Signal::TERM);
    assert!(!world.data().join(".lastgood/carry.json").exists());
    world.run(["restore", "--snapshot", snapshot, "--path", "cache", "data"]).ended(0);
    let seen = world.run([&RUN[..], &["--", "ls", "data/cache"]].concat());
    assert_eq!(seen.ended(0).text(), "index\n", "{seen:?}");
}

#[test]
fn what_cannot_be_looked_into_or_moved_stays_aside_and_keeps_no_app_from_starting() {
    if !is_root() {
        return skipped("root", "only root can make what another user may not change");
    }
    for options in [&[][..], &["--exclude", "*.tmp"]] {
        let world = World::new();
        ["a", "open/x", "priv/y"].iter().for_each(|path| world.write(path, "good"));
        hand_over(&world);
        let mut backup = as_user(&world, &["backup", "--init"]);
        assert!(backup.output().unwrap().status.success());
        // Another directory, that comes from nowhere.
        fs::remove_dir_all(world.data()).unwrap();
        ["a", "shipped/x.tmp", "open/z.tmp", "priv/y"].iter().for_each(|path| world.write(path, "image"));
        hand_over(&world);
        for (path, bits) in [("shipped", 0o555), ("priv", 0o755)] {
            chown(world.data().join(path), Some(0), Some(0)).unwrap();
            mode(&world.data().join(path), bits);
        }
        let args = [&RUN[..], options, &["--", "cat", "data/a"]].concat();
        let first = as_user(&world, &args).output().unwrap();
        let said = String::from_utf8_lossy(&first.stderr).into_owned();
        assert_eq!((first.status.code(), &first.stdout[..]), (Some(0), &b"good"[..]), "{said}");
        if options.is_empty() {
            assert!(!said.contains("is only in"), "{said}");
        } else {
            assert!(said.contains("is only in") && said.contains("shipped/x.tmp: "), "{said}");
            assert!(world.data().join("open/z.tmp").exists() && !world.data().join("shipped").exists(), "{said}");
        }
        assert!(!world.data().join(".lastgood/carry.json").exists());
    }
}

#[test]
fn a_restore_that_is_asked_for_is_complete_where_something_stays_aside() {
    let world = World::new();
    world.write("a", "good");
    let backup = world.json(["backup", "--init"], 0);
    world.write("a", "2");
    world.write("sub", "snapshots have none");
    let saved = world.json(["backup"], 0);
    fs::remove_file(world.data().join("sub")).unwrap();
    world.write("sub/x.tmp", "left out");
    let options = ["--exclude", "*.tmp", "--listen", "127.0.0.1:0", "--allow-restore", "--", "sleep", "600"];
    let mut command = world.command([&RUN[..], &options].concat());
    command.env("LASTGOOD_DATA", world.data()).env("PORT", "1");
    let mut run = Service::of(without_terminal(&command));
    run.log_with("the app has started");
    let asked = format!("{{\"snapshot\":{}}}", saved["snapshot"]);
    let mut answer = run.post("/backup/restore?wait=true", &asked);
    // The log says that the app has started a moment before that counts.
    while answer.status == 503 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        answer = run.post("/backup/restore?wait=true", &asked);
    }
    let report = answer.is(200);
    assert_eq!(report["result"], "complete", "{report}");
    assert!(report.to_string().contains("is only in") && report["restore"]["way_back"].is_string(), "{report}");
    assert_eq!(fs::read_to_string(world.data().join("sub")).unwrap(), "snapshots have none");
    drop(backup);
    run.end(rustix::process::Signal::TERM);
}

#[test]
fn a_deep_tree_is_carried_over_with_few_descriptors() {
    let world = World::new();
    world.write("a", "good");
    world.run(["backup", "--init"]).ended(0);
    fs::remove_dir_all(world.data()).unwrap();
    let deep = ["d"; 600].join("/");
    let made = world
        .shell("mkdir -p data; cd data; i=0; while [ $i -lt 600 ]; do mkdir d; cd d; i=$((i+1)); done; echo > x.tmp");
    made.ended(0);
    let ran = world.shell("ulimit -n 1024; exec $LASTGOOD run --every off --exclude '*.tmp' -- true");
    ran.ended(0);
    let there = world.shell(&format!("cd data; for part in {}; do cd $part; done; ls", deep.replace('/', " ")));
    assert_eq!(there.ended(0).text(), "x.tmp\n", "{ran:?}");
}
