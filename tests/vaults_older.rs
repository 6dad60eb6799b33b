//! A vault that an older program left is gone on with. The one in `vaults_older/` has a raw database and its journal in hunks
//! of their own, hard links that are named by device and inode alone, and a checkpoint of a backup that was killed between the
//! database and its journal.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::restore_by_hand;
use crate::support::compare::assert_same;
use crate::support::{World, number};

/// Runs a command, which must succeed.
#[track_caller]
fn done(command: &mut Command) {
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{command:?}: {ran:?}");
}

/// Writes the data directory as the first snapshot has it, or as it was when the second backup was killed.
fn make(state: &str, data: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vaults_older");
    done(Command::new("bash").arg(folder.join("make.sh")).arg(state).arg(data));
}

fn copy(from: &Path, to: &Path) {
    done(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Backs up, and restores what was taken in both ways; gives the report.
fn backup_and_compare(world: &World, name: &str) -> Value {
    let report = world.backup();
    assert_eq!((&report["state"], &report["good"]), (&"complete".into(), &true.into()), "{name}: {report}");
    world.run(["verify", "--read-data"]).ended(0);
    world.restore(name);
    assert_same(&world.data(), &world.path(name));

    // With the script that the older program put into the vault.
    fs::write(world.path("restore.py"), restore_by_hand::script(&world.vault())).unwrap();
    let target = world.path(format!("{name} by hand"));
    let mut python = Command::new("python3");
    done(python.arg(world.path("restore.py")).arg(world.vault()).arg(&target).env("TMPDIR", world.path("")));
    restore_by_hand::same(&world.data(), &target);
    report
}

#[test]
fn a_vault_of_an_older_program_is_gone_on_with() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vaults_older/vault");
    for (state, checkpoint) in [("second", true), ("second", false), ("first", true), ("first", false)] {
        let what = format!("{state}, checkpoint: {checkpoint}");
        let world = World::new();
        copy(&sample, &world.vault());
        if !checkpoint {
            fs::remove_dir_all(world.vault().join("checkpoints")).unwrap();
        }
        make("first", &world.data());
        copy(&world.data(), &world.path("first"));
        world.run(["verify", "--read-data"]).ended(0);
        let list = world.json(["list"], 0);
        let [old] = &list.as_array().unwrap()[..] else { panic!("{list}") };
        let old = old["id"].as_str().unwrap();
        world.restore_snapshot(old, "old");
        assert_same(&world.path("first"), &world.path("old"));

        if state == "second" {
            make("second", &world.data());
        }
        let report = backup_and_compare(&world, "next");
        assert_eq!(report["parent"].as_str().unwrap().rsplit('-').next(), old.rsplit('-').next(), "{what}");
        // Only the checkpoint has the 8,000 bytes of noise.
        let sent = number(&report, "uploaded_bytes");
        assert_eq!(sent > 8000, state == "second" && !checkpoint, "{what}: {report}");

        // Nothing changed; then the journal alone, and the links.
        backup_and_compare(&world, "same");
        world.write("raw.db-journal", "the journal of a third state");
        fs::remove_file(world.data().join("z-link")).unwrap();
        fs::hard_link(world.data().join("a-link"), world.data().join("b-link")).unwrap();
        world.write("z-link", fs::read(world.data().join("a-link")).unwrap());
        backup_and_compare(&world, "changed");

        world.restore_snapshot(old, "old again");
        assert_same(&world.path("first"), &world.path("old again"));
    }
}
