//! Restores as they happen on real machines: by a user who is not root, onto a mount point, of one name among several, of
//! a file larger than the disk, cut off by Ctrl-C; and which snapshot a word on the command line means.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::compare::{assert_same, data, differences};
use crate::support::requirements::{Mounted, as_nobody};
use crate::support::tree::{self, noise};
use crate::support::{World, id, number, paths, short};

/// Returns the names in a folder, without what a restore keeps for itself.
fn names(folder: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lastgood").collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn who_is_not_root_gets_all_but_the_owners() {
    let world = World::with_files();
    world.write("closed/in/file", "in folders that nobody may write to");
    for (path, bits) in
        [("closed/in/file", 0o444), ("closed/in", 0o555), ("closed", 0o555), ("a.txt", 0o400), ("logs/app.log", 0o640)]
    {
        tree::set_mode(&world.data().join(path), bits);
    }
    for path in ["a.txt", "closed/in", "closed/in/file", ""] {
        let _ = lchown(world.data().join(path), Some(12), Some(13));
    }
    world.backup();
    tree::open_to_all(&world.vault());
    let Some(ran) = as_nobody(&world, &["restore", "back"]) else { return };
    ran.ended(0).says("owner");
    let found = differences(&world.data(), &world.path("back"));
    assert!(!found.is_empty() && found.iter().all(|d| d.contains(": owner: ")), "{found:?}");
    assert_eq!((mode(&world.path("back/closed/in")), mode(&world.path("back/a.txt"))), (0o555, 0o400));
    assert_eq!(world.path("back/a.txt").metadata().unwrap().uid(), 65_534);

    // And once more over what is there, with its closed folders.
    let Some(ran) = as_nobody(&world, &["restore", "back"]) else { return };
    ran.ended(0);
    let found = differences(&world.data(), &world.path("back"));
    assert!(found.iter().all(|d| d.contains(": owner: ")), "{found:?}");
    assert_eq!(names(&world.path("")).iter().filter(|name| name.starts_with("back.replaced-")).count(), 1);
    assert!(!names(&world.path("")).iter().any(|name| name.contains("lastgood-restoring")));
}

#[test]
fn a_parent_folder_that_is_not_writable_is_told_with_what_to_do() {
    let world = World::with_files();
    world.backup();
    tree::open_to_all(&world.vault());
    fs::create_dir_all(world.path("closed/old")).unwrap();
    fs::write(world.path("closed/old/file"), "old").unwrap();
    tree::set_mode(&world.path("closed"), 0o755);
    for target in ["closed/new", "closed/old"] {
        let Some(ran) = as_nobody(&world, &["restore", target]) else { return };
        ran.ended(1).says("Permission denied").says("closed").says("Run it as a user who may");
    }
    assert_eq!(names(&world.path("closed")), set(&["old"]));
    assert_eq!(names(&world.path("closed/old")), set(&["file"]));
    assert_eq!(fs::read(world.path("closed/old/file")).unwrap(), b"old");
}

#[test]
fn what_is_named_as_a_restores_own_folders_is_data_unless_it_is_a_folder() {
    let world = World::with_files();
    world.write("lastgood.replaced-20260120T180000Z", "data");
    std::os::unix::fs::symlink("nowhere", world.data().join(".lastgood-restoring-0123456789abcdef")).unwrap();
    world.backup();
    world.restore("was");
    world.write("a.txt", "later");
    world.run(["restore", "--in-place"]).ended(0);
    fs::remove_dir_all(aside_of(&world.data())).unwrap();
    // But for its own time.
    let found = differences(&world.path("was"), &world.data());
    assert!(found.iter().all(|difference| difference.starts_with("\"\": mtime")), "{found:?}");
}

/// Returns the folder to which a restore in place moved the previous content.
fn aside_of(data: &Path) -> PathBuf {
    let folders = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("lastgood.replaced-");
    folders.into_iter().find(ours).unwrap()
}

#[test]
fn a_mount_point_is_filled_in_place_and_only_when_told_to() {
    let world = World::with_files();
    world.write("uploads/large", noise(1, 2_000_000));
    world.backup();
    let Some(_mounted) = Mounted::new(world.path("mnt"), "64m") else { return };
    let mount = &world.path("mnt");
    fs::create_dir_all(mount.join("uploads/mine")).unwrap();
    fs::write(mount.join("uploads/mine/old"), "old").unwrap();
    fs::write(mount.join("a.txt"), "changed").unwrap();
    assert!(Command::new("cp").arg("-a").arg(mount).arg(world.path("was")).status().unwrap().success());

    world.run(["restore", "mnt"]).ended(2).says("mount point").says("--in-place");
    assert_same(&world.path("was"), mount);

    let report = world.json(["restore", "mnt", "--in-place"], 0);
    let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
    let aside_name = aside.file_name().unwrap().to_str().unwrap();
    assert_eq!(names(mount), set(&["a.txt", "logs", "uploads", aside_name]));
    assert_eq!(fs::read(aside.join("a.txt")).unwrap(), b"changed");
    assert_eq!(fs::read(aside.join("uploads/mine/old")).unwrap(), b"old");
    let found = differences(&world.data(), mount);
    let others: Vec<_> = found.iter().filter(|d| !d.starts_with(&format!("\"{aside_name}"))).collect();
    assert!(others.is_empty(), "{others:?}");

    // Content that was moved aside is not backed up.
    world.json(["backup", "mnt"], 0);
    assert_eq!(paths(&world.json(["ls", "latest"], 0)), ["a.txt", "logs", "uploads"]);
}

#[test]
fn a_file_whose_attributes_cannot_be_read_is_kept_without_them() {
    let world = World::with_files();
    let Some(_mounted) = Mounted::new(world.path("mnt"), "64m") else { return };
    let (data, both) = (world.path("mnt"), ["many", "folder"]);
    fs::write(data.join("many"), "content").unwrap();
    fs::create_dir(data.join("folder")).unwrap();
    fs::write(data.join("folder/inside"), "more content").unwrap();
    // Only a list of less than 64 KiB can be had of the kernel.
    for (name, n) in both.into_iter().flat_map(|name| (0..400).map(move |n| (name, n))) {
        let attribute = format!("trusted.{n:0>240}");
        rustix::fs::setxattr(data.join(name), &attribute, b"", rustix::fs::XattrFlags::empty()).unwrap();
    }
    let report = world.json(["backup", "mnt"], 3);
    let mut told: Vec<_> = report["errors"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, ["folder", "many"]);
    assert!(report["errors"][0]["why"].as_str().unwrap().contains("extended attributes cannot be read"), "{report}");
    // And so they do the next time: what is kept without them is not known again.
    let report = world.json(["backup", "mnt"], 3);
    assert_eq!(report["errors"].as_array().unwrap().len(), 2, "{report}");
    let snapshot = report["snapshot"].as_str().unwrap();
    world.run(["restore", "out", "--snapshot", snapshot]).ended(0);
    assert_eq!(fs::read(world.path("out/many")).unwrap(), b"content");
    assert_eq!(fs::read(world.path("out/folder/inside")).unwrap(), b"more content");
}

/// Returns the folder into which GNU tar unpacked an export of the newest snapshot.
fn unpacked(world: &World) -> PathBuf {
    let folder = world.path("unpacked");
    fs::create_dir(&folder).unwrap();
    world.run(["export", "latest", "-o", "out.tar.zst"]).ended(0);
    let mut zstd =
        Command::new("zstd").args(["-dc"]).arg(world.path("out.tar.zst")).stdout(Stdio::piped()).spawn().unwrap();
    let mut tar = Command::new("tar");
    let tar = tar.args(["--numeric-owner", "-xpf", "-", "-C"]).arg(&folder).stdin(zstd.stdout.take().unwrap()).status();
    assert!(tar.unwrap().success() && zstd.wait().unwrap().success());
    folder
}

#[test]
fn one_name_of_several_and_the_last_one_left_have_the_content() {
    let world = World::with_files();
    let (small, large) = (noise(1, 5_000), noise(2, 1_500_000));
    for (name, content) in [("small", &small), ("large", &large)] {
        world.write(&format!("a/{name}"), content);
        world.write(&format!("z/{name} too"), "");
        fs::remove_file(world.data().join(format!("z/{name} too"))).unwrap();
        fs::hard_link(world.data().join(format!("a/{name}")), world.data().join(format!("z/{name} too"))).unwrap();
    }
    world.backup();
    world.run(["restore", "some", "--path", "z/small too", "--path", "z/large too"]).ended(0);
    assert_eq!(names(&world.path("some")), set(&["z"]));
    assert!(fs::read(world.path("some/z/small too")).unwrap() == small);
    assert!(fs::read(world.path("some/z/large too")).unwrap() == large);

    fs::remove_dir_all(world.data().join("a")).unwrap();
    world.backup();
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
    assert!(fs::read(world.path("out/z/small too")).unwrap() == small);
    assert_eq!(world.path("out/z/large too").metadata().unwrap().nlink(), 1);
    let unpacked = unpacked(&world);
    assert!(fs::read(unpacked.join("z/small too")).unwrap() == small);
    assert!(fs::read(unpacked.join("z/large too")).unwrap() == large);
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn a_sparse_file_of_9_gib_keeps_its_size_and_its_holes() {
    const SIZE: u64 = (9 << 30) + 5;
    let world = World::new();
    fs::create_dir(world.data()).unwrap();
    let (first, middle, last) = (noise(1, 100_000), noise(2, 300_000), noise(3, 1000));
    let islands: [(u64, &[u8]); 3] = [(0, &first), (5 << 30, &middle), (SIZE - 1000, &last)];
    tree::sparse(&world.data().join("disk.img"), SIZE, &islands);
    let report = world.backup();
    assert_eq!(number(&report, "bytes"), SIZE);
    assert!(number(&report, "uploaded_bytes") < 1_000_000, "{report}");
    assert_eq!(number(&world.restore("out"), "bytes"), SIZE);
    let out = world.path("out/disk.img");
    assert_eq!(out.metadata().unwrap().len(), SIZE);
    let (was, is) = (data(&world.data().join("disk.img")), data(&out));
    assert!(is <= was + (256 << 10), "{was} bytes of data became {is}");
    let file = File::open(&out).unwrap();
    for (at, bytes) in islands {
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, at).unwrap();
        assert!(found == bytes, "the island at {at} is another");
    }
}

#[test]
fn ctrl_c_and_a_terminal_that_is_closed_leave_the_target_as_it_was() {
    let world = World::new();
    for n in 0..60 {
        world.write(&format!("{n}.bin"), noise(n, 4_000_000));
    }
    world.backup();
    let begin_anew = || {
        for name in names(&world.path("")).iter().filter(|name| !["backups", "data"].contains(&name.as_str())) {
            fs::remove_dir_all(world.path(name)).unwrap();
        }
        fs::create_dir(world.path("target")).unwrap();
        fs::write(world.path("target/old"), "old").unwrap();
    };
    // A program that nohup(1) started ignores SIGHUP, and so does this one then: bit 0 of what is ignored.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let hangs_up = u64::from_str_radix(ignored, 16).unwrap() & 1 == 0;
    for (target, signal) in [("target", Signal::INT), ("new", Signal::INT), ("target", Signal::HUP)] {
        if signal == Signal::HUP && !hangs_up {
            continue;
        }
        let stopped = || {
            begin_anew();
            let mut command = world.command(["restore", target]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let staging = format!(".{target}.lastgood-restoring-");
            let begin = Instant::now();
            while !names(&world.path("")).iter().any(|name| name.starts_with(&staging)) {
                assert!(begin.elapsed() < Duration::from_secs(60), "it never began to write");
                if child.try_wait().unwrap().is_some() {
                    return None;
                }
            }
            kill_process(Pid::from_child(&child), signal).unwrap();
            let ended = child.wait().unwrap();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            (!ended.success()).then_some(said)
        };
        // On a busy machine the whole restore may take place between two looks.
        let said = (0..5).find_map(|_| stopped()).expect("five restores were not stopped");
        assert_eq!(names(&world.path("")), set(&["backups", "data", "target"]), "{said}");
        assert_eq!(names(&world.path("target")), set(&["old"]));
    }
    world.run(["verify"]).ended(0);
    world.restore("target");
    assert_same(&world.data(), &world.path("target"));
}

#[test]
fn a_snapshot_has_many_names() {
    let world = World::new();
    let mut taken = Vec::new();
    for n in 0..3 {
        world.write("file", format!("version {n}"));
        taken.push(world.backup());
        // A time names a snapshot to the second.
        std::thread::sleep(Duration::from_millis(1100));
    }
    let time = |n: usize| {
        let text = id(&taken[n]).split('-').nth(1).unwrap();
        let part = |from: usize, to: usize| text[from..to].to_owned();
        let (date, clock) =
            ([part(0, 4), part(4, 6), part(6, 8)].join("-"), [part(9, 11), part(11, 13), part(13, 15)].join(":"));
        format!("{date}T{clock}")
    };
    let specs = [
        ("latest".to_owned(), 2),
        (short(&taken[0]).to_owned(), 0),
        (short(&taken[1])[..10].to_owned(), 1),
        (id(&taken[1]).to_owned(), 1),
        (id(&taken[0])[..10].to_owned(), 0),
        (id(&taken[2])[..20].to_owned(), 2),
        (format!("{}Z", time(0)), 0),
        (time(1), 1),
        (format!("{}+00:00", time(2)), 2),
        ("2999-01-01T00:00:00Z".to_owned(), 2),
    ];
    for (n, (spec, expected)) in specs.iter().enumerate() {
        let report = world.restore_snapshot(spec, &format!("out{n}"));
        assert_eq!(report["snapshot"], taken[*expected]["snapshot"], "{spec}");
        assert_eq!(fs::read_to_string(world.path(format!("out{n}/file"))).unwrap(), format!("version {expected}"));
    }
    for (spec, why) in
        [("no-such", "not a time"), ("2001-01-01", "the first is"), ("000000000", "no id begins with it")]
    {
        world.run(["restore", "none", "--snapshot", spec]).ended(2).says(why);
    }
    assert!(!world.path("none").exists());
}

#[test]
fn a_backup_and_a_restore_of_one_directory_wait_for_each_other() {
    use rustix::fs::{FlockOperation, flock};
    let world = World::with_files();
    world.backup();
    let data = world.data();
    for (held, command) in [
        (FlockOperation::LockExclusive, vec!["backup"]),
        (FlockOperation::LockShared, vec!["restore", data.to_str().unwrap()]),
    ] {
        let folder = File::open(&data).unwrap();
        flock(&folder, held).unwrap();
        let mut child = world.command(&command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert!(child.try_wait().unwrap().is_none(), "{command:?} did not wait");
        drop(folder);
        assert!(child.wait().unwrap().success(), "{command:?}");
        // A restore that waits can be stopped.
        let folder = File::open(&data).unwrap();
        flock(&folder, held).unwrap();
        let mut child = world.command(&command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let began = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(!child.wait().unwrap().success() && began.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn folders_that_are_left_out_for_their_names_are_told_of() {
    let world = World::with_files();
    let warnings = |world: &World| world.backup()["warnings"].clone();
    world.write("lastgood.replaced-20261121T101112Z/old", "old");
    assert_eq!(warnings(&world), serde_json::json!([]));
    world.write("mine.replaced-20261121T101112Z/notes", "notes");
    let told = warnings(&world).to_string();
    assert!(told.contains("mine.replaced-20261121T101112Z, lastgood.replaced-20261121T101112Z: left out"), "{told}");
    assert!(told.contains("rename it"), "{told}");
    // Whoever leaves it out on purpose knows.
    let report = world.json(["backup", "--exclude", "mine.*"], 0);
    assert!(!report["warnings"].to_string().contains("left out"), "{report}");
    fs::rename(world.data().join("mine.replaced-20261121T101112Z"), world.data().join("mine")).unwrap();
    assert_eq!(
        warnings(&world).as_array().unwrap().iter().filter(|what| what.to_string().contains("left out")).count(),
        0
    );
    world.restore("out");
    assert_eq!(fs::read(world.path("out/mine/notes")).unwrap(), b"notes");
    assert!(!world.path("out/lastgood.replaced-20261121T101112Z").exists());
}
