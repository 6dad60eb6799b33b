//! Vaults of every released format are read: a sample of each lies in `vaults/`, with what its snapshots hold.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lastgood::path::escape;
use lastgood::vault::root::FORMAT;

use crate::support::World;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vaults")
}

/// Returns a tree as text, a line for each entry: type and mode, mtime, size, content or target, path.
fn manifest(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        let content = match () {
            () if meta.is_symlink() => escape(fs::read_link(&path).unwrap().as_os_str().as_bytes()).into_owned(),
            () if meta.is_file() => blake3::hash(&fs::read(&path).unwrap()).to_hex()[..32].to_owned(),
            () => "-".to_owned(),
        };
        // What a restore keeps for itself is no part of the snapshot.
        if path == root.join(".lastgood") {
            continue;
        }
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let size = if meta.is_file() { meta.len() } else { 0 };
        let name = escape(path.strip_prefix(root).unwrap().as_os_str().as_bytes()).replace('\n', "\\n");
        let links = if meta.is_file() { meta.nlink() } else { 1 };
        let (mode, mtime) = (meta.mode(), format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()));
        lines.push(format!("{name}\t{mode:o}\t{links}\t{mtime}\t{size}\t{content}\n"));
    }
    lines.sort();
    lines.concat()
}

#[test]
fn the_samples_of_all_formats_are_read() {
    for format in 1..=FORMAT {
        let sample = samples().join(format.to_string());
        let world = World::new();
        // A copy: a test must not be able to change the sample.
        let copied = std::process::Command::new("cp").arg("-a").arg(&sample).arg(world.vault()).status();
        assert!(copied.unwrap().success());
        world.run(["verify", "--read-data"]).ended(0);
        let list = world.json(["list"], 0);
        let mut found = String::new();
        for (n, snapshot) in list.as_array().unwrap().iter().enumerate() {
            let id = snapshot["id"].as_str().unwrap();
            world.restore_snapshot(id, &format!("out{n}"));
            found += &format!("snapshot {id} {} {}\n", snapshot["reason"], snapshot["state"]);
            found += &manifest(&world.path(format!("out{n}")));
        }
        let expected = fs::read_to_string(samples().join(format!("{format}.txt"))).unwrap_or_default();
        assert!(found == expected, "format {format}: expected\n{expected}\nfound\n{found}");
    }
}

#[test]
fn there_is_a_sample_of_every_format_and_no_other() {
    let folders = fs::read_dir(samples()).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<_> = folders
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap().parse::<u32>().unwrap())
        .collect();
    found.sort_unstable();
    assert_eq!(found, (1..=FORMAT).collect::<Vec<_>>());
}

#[test]
fn a_strangers_files_stay_and_a_link_in_a_vault_leads_nowhere() {
    let world = World::with_files();
    let old = |path: PathBuf| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        let three_days = std::time::Duration::from_secs(3 * 24 * 3600);
        let time = std::time::SystemTime::now() - three_days;
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        path
    };
    let thesis = old(world.vault().join("tmp/thesis.txt"));
    world.run(["init"]).ended(0);
    world.backup();
    assert!(thesis.exists());

    fs::remove_file(thesis).unwrap();
    let far = old(world.path("far/other"));
    let swept = old(world.path("far/0123456789abcdef-7"));
    for name in ["tmp", "packs", "snapshots"] {
        fs::rename(world.vault().join(name), world.path("moved")).unwrap();
        std::os::unix::fs::symlink("../far", world.vault().join(name)).unwrap();
        world.write("new", name);
        let told = format!("{name}: it is a symbolic link");
        world.run(["backup"]).ended(1).says(&told).says("Remove the link");
        assert!(far.exists() && swept.exists(), "{name}");
        assert_eq!(fs::read_dir(world.path("far")).unwrap().count(), 2, "{name}");
        fs::remove_file(world.vault().join(name)).unwrap();
        fs::rename(world.path("moved"), world.vault().join(name)).unwrap();
    }
    world.backup();
    world.run(["verify", "--read-data"]).ended(0);
}
