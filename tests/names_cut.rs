//! bsdtar takes a drive letter and backslashes off the beginning of a name, and would extract `c:b` in the place of `b`: an export
//! and the script of a vault bring each file back in its own place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::restore_by_hand::script;
use crate::support::World;
use crate::support::compare::differences;
use crate::support::requirements::skipped;
use crate::support::tree::{set_mtime, sparse};

/// Returns a data directory with names that bsdtar cuts, and those that would be left of them; with hard links or without.
fn world(links: bool) -> World {
    let world = World::new();
    let long = format!("f:{}", "l".repeat(120));
    for name in ["b", "c:b", "\\b", "C:\\/b", "d:folder/b", "folder/b", "\\\\.\\x", "i:", "m\\b", &long, &long[2..]] {
        world.write(name, name);
    }
    sparse(&world.data().join("g:holes"), 4 << 20, &[(1 << 20, b"data")]);
    symlink("c:b", world.data().join("h:link")).unwrap();
    if links {
        for name in ["e:linked", "linked", "folder/linked"] {
            fs::hard_link(world.data().join("c:b"), world.data().join(name)).unwrap();
        }
    }
    // The header of the vault says everything of this one.
    set_mtime(&world.data().join("i:"), 1_700_000_000, 0);
    world
}

fn has_bsdtar() -> bool {
    let found = Command::new("bsdtar").arg("--version").output();
    if let Err(why) = &found {
        skipped("bsdtar", &format!("the package libarchive-tools has it: {why}"));
    }
    found.is_ok()
}

/// Asserts that everything is there but what no program extracts in the same way: times of folders, holes, and times in `plain`.
#[track_caller]
fn assert_extracted(world: &World, out: &Path, what: &str) {
    let mut found = differences(&world.data(), out);
    found.retain(|difference| !difference.contains(": mtime: ") && !difference.contains(": holes: "));
    assert!(found.is_empty(), "{what}: {found:#?}");
}

#[test]
fn an_export_brings_back_names_that_bsdtar_cuts() {
    let world = world(true);
    world.backup();
    let python = "import sys, tarfile\n\
        tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)\n\
        tarfile.open(sys.argv[1]).extractall('.', numeric_owner=True)";
    let mut programs = vec![("tar", vec!["--numeric-owner", "-xpf"]), ("python3", vec!["-c", python])];
    if has_bsdtar() {
        programs.push(("bsdtar", vec!["--numeric-owner", "-xpf"]));
    }
    for format in ["pax", "plain"] {
        let archive = world.path(format!("{format}.tar"));
        let exported = world.run(["export", "latest", "-q", "-o", "-", "--format", format]).ended(0).stdout.clone();
        fs::write(&archive, zstd::decode_all(&exported[..]).unwrap()).unwrap();
        for (program, args) in &programs {
            let out = world.path(format!("{format} {program}"));
            fs::create_dir(&out).unwrap();
            let ran = Command::new(program).args(args).arg(&archive).current_dir(&out).output().unwrap();
            assert!(ran.status.success(), "{program}: {ran:?}");
            assert_extracted(&world, &out, &format!("{format} {program}"));
        }
    }
}

/// Runs a script with a program in the place of `tar`.
fn by_hand(world: &World, script: &str, program: &str, target: &str) {
    let bin = world.path(format!("bin {target}"));
    fs::create_dir(&bin).unwrap();
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    symlink(String::from_utf8(found.stdout).unwrap().trim(), bin.join("tar")).unwrap();
    fs::write(world.path("restore.py"), script).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut python = Command::new("python3");
    python.arg(world.path("restore.py")).arg(world.vault()).arg(world.path(target)).env("PATH", path);
    let ran = python.env("LC_ALL", "C.UTF-8").env("TMPDIR", world.path("")).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_extracted(world, &world.path(target), target);
}

#[test]
fn the_script_of_a_vault_brings_back_names_that_bsdtar_cuts() {
    let world = world(true);
    world.backup();
    let script = script(&world.vault());
    by_hand(&world, &script, "tar", "GNU tar");
    if has_bsdtar() {
        by_hand(&world, &script, "bsdtar", "bsdtar");
    }
}

/// The script that a vault got from an older program extracts what a newer one stores there. With bsdtar, it gives other names to
/// the second and later names of hard links.
#[test]
fn the_script_of_an_older_vault_brings_back_names_that_bsdtar_cuts() {
    let older = script(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vaults_older/vault"));
    let linked = world(true);
    linked.backup();
    by_hand(&linked, &older, "tar", "GNU tar");
    if has_bsdtar() {
        let world = world(false);
        world.backup();
        by_hand(&world, &older, "bsdtar", "bsdtar");
    }
}
