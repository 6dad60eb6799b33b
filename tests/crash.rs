//! A kill, a full disk, a read-only disk and a second backup never leave less behind than there was.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::compare::{assert_same, differences};
use crate::support::requirements::Mounted;
use crate::support::seeded_random::Dice;
use crate::support::tree::{noise, set_mtime};
use crate::support::{World, id, number};

fn quiet(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs a command and kills it (SIGKILL) after `time`; whether it had ended by itself.
fn killed_after(command: Command, time: Duration) -> bool {
    let begin = Instant::now();
    let mut child = quiet(command);
    while begin.elapsed() < time {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap().success()
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

fn snapshots(world: &World) -> Vec<String> {
    let ran = world.run(["list", "--json"]);
    if ran.code != Some(0) {
        ran.says("no vault");
        return Vec::new();
    }
    let list: Value = serde_json::from_slice(&ran.stdout).unwrap();
    list.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

/// Changes a tree: some files are new, some gone, one grows.
fn edit(world: &World, dice: &mut Dice, round: u64) {
    for _ in 0..20 {
        let n = dice.roll(400);
        let size = dice.roll(20_000) as usize;
        world.write(&format!("small/{:02}/{n}", n % 20), noise(n + 1000 * round, size));
    }
    for _ in 0..3 {
        let n = dice.roll(400);
        let _ = fs::remove_file(world.data().join(format!("small/{:02}/{n}", n % 20)));
    }
    let mut log = fs::read(world.data().join("app.log")).unwrap_or_default();
    log.extend(noise(round, 400_000));
    world.write("app.log", log);
    world.write(&format!("large/{}.bin", round % 4), noise(round, 3_000_000));
}

#[test]
fn a_killed_backup_harms_nothing() {
    let world = World::new();
    let vault = world.vault();
    kill_backups(&world, &vault, "elsewhere");
}

/// Kills backups at any moment of theirs and shows that each harms nothing. The folder `vault` has the vault's objects as
/// files; `elsewhere` is a vault that does not count.
pub fn kill_backups(world: &World, vault: &Path, elsewhere: &str) {
    let mut dice = Dice(2026);
    for n in 0..400 {
        world.write(&format!("small/{:02}/{n}", n % 20), noise(n, 5_000));
    }
    world.write("large/base.bin", noise(77, 12_000_000));
    edit(world, &mut dice, 0);

    // How long a whole one takes here.
    let begin = Instant::now();
    world.json(["backup", "--vault", elsewhere, "--init"], 0);
    let mut whole = begin.elapsed().as_millis() as u64;

    let mut newest = None;
    let (mut kills, mut commits, mut checkpoints) = (0, 0, 0);
    for round in 1..=60 {
        if round > 14 && kills >= 3 {
            break;
        }
        let backup = world.command(["backup", "--checkpoint-every", "1ms"]);
        let begin = Instant::now();
        match killed_after(backup, Duration::from_millis(dice.roll(whole * 5 / 4) + 1)) {
            // It had less to do than the first one, and the machine may be busier or less so by now.
            true => whole = begin.elapsed().as_millis() as u64,
            false => kills += 1,
        }
        checkpoints += fs::read_dir(vault.join("checkpoints")).map_or(0, Iterator::count);
        let now = snapshots(world).first().cloned();
        if now != newest {
            commits += 1;
            newest = now;
            let _ = fs::remove_dir_all(world.path("was"));
            copy(&world.data(), &world.path("was"));
        }
        if newest.is_some() {
            world.run(["verify"]).ended(0);
            world.restore("out");
            assert_same(&world.path("was"), &world.path("out"));
            fs::remove_dir_all(world.path("out")).unwrap();
        }
        edit(world, &mut dice, round);
    }
    assert!(kills >= 3, "{kills} kills, {commits} commits: too few to mean anything");
    assert!(checkpoints > 0);
    let report = world.backup();
    assert_eq!(report["state"], "complete");
    world.run(["verify", "--read-data"]).ended(0);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn a_backup_goes_on_from_the_last_checkpoint() {
    let world = World::new();
    let vault = world.vault();
    go_on_from_a_checkpoint(&world, &vault);
}

/// Kills a backup after some checkpoints, and shows that the next one reads only the rest of 40 files of 1,000,000 bytes.
/// The folder `vault` has the vault's objects as files.
pub fn go_on_from_a_checkpoint(world: &World, vault: &Path) {
    for n in 0..40 {
        let path = format!("{n:02}.bin");
        world.write(&path, noise(n, 1_000_000));
        set_mtime(&world.data().join(path), 1_700_000_000, 0);
    }
    let mut backup = quiet(world.command(["backup", "--checkpoint-every", "1ms"]));
    let checkpoints = vault.join("checkpoints");
    let begin = Instant::now();
    while fs::read_dir(&checkpoints).map_or(0, Iterator::count) < 4 {
        assert!(begin.elapsed() < Duration::from_secs(60), "no checkpoints appear");
        assert!(backup.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    backup.kill().unwrap();
    backup.wait().unwrap();
    assert_eq!(snapshots(world), [""; 0]);
    let report = world.backup();
    let read = number(&report, "read_bytes");
    assert!(read <= 37_000_000, "{read} of 40,000,000 bytes are read again");
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn a_killed_restore_leaves_the_old_tree_or_the_new_one() {
    let world = World::new();
    let mut dice = Dice(7);
    for n in 0..600 {
        world.write(&format!("{:02}/{n}", n % 30), noise(n, 3_000));
    }
    world.write("large.bin", noise(1, 8_000_000));
    world.backup();
    copy(&world.data(), &world.path("new"));
    let begin = Instant::now();
    world.restore("elsewhere");
    let mut whole = begin.elapsed().as_millis() as u64;

    let (mut old, mut new) = (0, 0);
    for round in 0..100 {
        if round >= 14 && old >= 2 && new >= 1 {
            break;
        }
        fs::remove_dir_all(world.data()).unwrap();
        world.write("old/kept.txt", format!("round {round}"));
        let _ = fs::remove_dir_all(world.path("old"));
        copy(&world.data(), &world.path("old"));
        // The moments around the swap are the interesting ones.
        let time = if round % 2 == 0 { dice.roll(whole) } else { whole * 3 / 4 + dice.roll(whole * 3 / 2) };
        let begin = Instant::now();
        // The machine may be busier or less so than it was.
        whole = match killed_after(world.command(["restore", "data"]), Duration::from_millis(time)) {
            true => begin.elapsed().as_millis() as u64,
            false if time > whole => time,
            false => whole,
        };
        if differences(&world.path("new"), &world.data()).is_empty() {
            new += 1;
            // The previous content is beside it, whole.
            let aside = aside(&world, "data.replaced-");
            let kept = aside.iter().any(|folder| differences(&world.path("old"), folder).is_empty());
            assert!(kept, "round {round}: the old tree is in none of {aside:?}");
        } else {
            old += 1;
            assert_same(&world.path("old"), &world.data());
        }
    }
    assert!(old >= 2 && new >= 1, "{old} old, {new} new: too few to mean anything");
    world.restore("data");
    assert_same(&world.path("new"), &world.data());
    assert!(aside(&world, ".data.lastgood-restoring-").is_empty());
}

fn aside(world: &World, prefix: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(world.path("")).unwrap().map(|e| e.unwrap());
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect()
}

#[test]
fn two_backups_at_once_both_succeed() {
    let world = World::new();
    for n in 0..300 {
        world.write(&format!("{n}"), noise(n, 20_000));
    }
    for round in 0..3 {
        let mut both = [quiet(world.command(["backup"])), quiet(world.command(["backup"]))];
        assert!(both.iter_mut().all(|child| child.wait().unwrap().success()), "round {round}");
        world.write("more", noise(round, 100_000));
    }
    let names = snapshots(&world);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 6);
    world.run(["verify", "--read-data"]).ended(0);
    for (n, name) in names.iter().enumerate() {
        world.restore_snapshot(name, &format!("out{n}"));
    }
    let report = world.backup();
    world.restore_snapshot(id(&report), "out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn a_full_disk_harms_nothing() {
    let world = World::new();
    let Some(vault) = Mounted::new(world.vault(), "4m") else { return };
    world.write("a.bin", noise(1, 3_000_000));
    let first = world.backup();
    copy(&world.data(), &world.path("was"));
    for n in 0..6 {
        world.write(&format!("b{n}.bin"), noise(10 + n, 2_000_000));
        world.run(["backup"]).ended(1).says("No space left").says("Free some space");
        world.run(["verify", "--read-data"]).ended(0);
        assert_eq!(snapshots(&world), [id(&first)]);
    }
    world.restore("out");
    assert_same(&world.path("was"), &world.path("out"));
    vault.remount("size=64m");
    let second = world.backup();
    assert_eq!(second["parent"], first["snapshot"]);
    world.restore("out2");
    assert_same(&world.data(), &world.path("out2"));
}

/// Returns the number of files that wait in a vault's `tmp/`.
fn waiting(vault: &Path) -> usize {
    fs::read_dir(vault.join("tmp")).map_or(0, Iterator::count)
}

#[test]
fn what_does_not_fit_leaves_the_room_to_what_does() {
    let world = World::new();
    let Some(_disk) = Mounted::new(world.vault(), "70m") else { return };
    world.write("a", "1");
    let first = world.backup();
    // One file alone is too large: nothing of it stays.
    world.write("big", noise(1, 150_000_000));
    let failed = world.run(["backup"]);
    failed.ended(1).says("No space left").says("143.05 MiB so far").says("will not fit");
    assert_eq!(waiting(&world.vault()), 0);
    fs::remove_file(world.data().join("big")).unwrap();
    world.write("day", noise(2, 18_000_000));
    let second = world.backup();
    assert_eq!(second["parent"], first["snapshot"]);
    let verified = world.json(["verify", "--read-data"], 0);
    assert_eq!((number(&verified, "unused"), number(&verified, "unused_bytes")), (0, 0));
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn a_backup_that_filled_the_disk_is_gone_on_from_and_leaves_half_of_it() {
    let world = World::new();
    let Some(disk) = Mounted::new(world.vault(), "100m") else { return };
    world.write("a", "1");
    world.backup();
    for n in 0..30 {
        world.write(&format!("b{n:02}"), noise(10 + n, 5_000_000));
        set_mtime(&world.data().join(format!("b{n:02}")), 1_700_000_000, 1);
    }
    // It keeps at most half of the room, and no more when it fails again.
    for again in [false, true] {
        let ran = world.run(["backup"]);
        ran.ended(1).says("No space left");
        assert_eq!(ran.stderr.contains("goes on from there"), !again);
        assert_eq!(waiting(&world.vault()), 0);
        let verified = world.json(["verify", "--read-data"], 0);
        let counts = ["unused", "snapshots", "checkpoints"].map(|what| number(&verified, what));
        assert_eq!(counts, [0, 1, 1]);
    }
    let aside = world.path("aside");
    fs::rename(world.data(), &aside).unwrap();
    world.write("a", "1");
    world.write("other", noise(99, 30_000_000));
    let full = world.path("full");
    copy(&world.vault(), &full);
    world.backup();
    world.restore("small");
    assert_same(&world.data(), &world.path("small"));
    // With the room that it needs, it goes on from there.
    disk.remount("size=400m");
    fs::remove_dir_all(world.data()).unwrap();
    fs::rename(&aside, world.data()).unwrap();
    let report = world.json(["backup", "--vault", "full"], 0);
    assert!(number(&report, "read_bytes") <= 150_000_000 - 25_000_000, "{report}");
    world.json(["verify", "--read-data", "--vault", "full"], 0);
    world.json(["restore", "out", "--vault", "full"], 0);
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn a_backup_that_is_told_to_stop_is_gone_on_from() {
    let world = World::new();
    for n in 0..120 {
        let path = format!("{n:03}.bin");
        world.write(&path, noise(n, 2_000_000));
        set_mtime(&world.data().join(path), 1_700_000_000, 1);
    }
    let mut child = world.command(["backup"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while waiting(&world.vault()) < 4 {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing is stored");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code() == Some(1) && said.contains("Stopped. No snapshot was made."),
        "{:?} {said}",
        done.status
    );
    assert!(said.contains("goes on from there"), "{said}");
    assert_eq!((waiting(&world.vault()), snapshots(&world)), (0, vec![]));
    assert_eq!(number(&world.json(["verify", "--read-data"], 0), "unused"), 0);
    let report = world.backup();
    assert!(number(&report, "read_bytes") < 230_000_000, "{report}");
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn a_vault_that_turns_read_only_still_restores() {
    let world = World::new();
    let Some(vault) = Mounted::new(world.vault(), "32m") else { return };
    world.write("a.bin", noise(1, 3_000_000));
    world.backup();
    copy(&world.data(), &world.path("was"));
    vault.remount("ro");
    world.write("b.bin", noise(2, 3_000_000));
    world.run(["backup"]).ended(1).says("read-only");
    world.run(["verify"]).ended(0);
    world.restore("out");
    assert_same(&world.path("was"), &world.path("out"));
    vault.remount("rw");
    world.backup();
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn a_full_disk_fails_a_restore_before_the_target_is_touched() {
    let world = World::new();
    world.write("a.bin", noise(1, 6_000_000));
    let report = world.json(["backup", "--init", "--vault", "elsewhere"], 0);
    assert_eq!(number(&report, "files"), 1);
    let Some(_disk) = Mounted::new(world.vault(), "4m") else { return };
    let target = world.vault().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("old"), "old").unwrap();
    let args = ["restore", "backups/target", "--vault", "elsewhere"];
    world.run(args).ended(1).says("No space left");
    assert_eq!(fs::read_to_string(target.join("old")).unwrap(), "old");
    let left: Vec<_> = fs::read_dir(world.vault()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["target"]);
}
