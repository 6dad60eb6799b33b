//! The order in which things reach the disk, as the system calls show it: objects before the root that names them, a
//! restored tree before it takes the target's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::requirements::skipped;
use crate::support::tree::noise;
use crate::support::{LASTGOOD, Ran, World};

/// One system call that succeeded.
#[derive(Debug)]
struct Call {
    name: String,
    begin: f64,
    end: f64,
    text: String,
}

/// Runs the program under strace; its calls, or none with a word why.
fn trace(world: &World, args: &[&str]) -> Option<Vec<Call>> {
    let out = world.path("trace");
    fs::create_dir_all(&out).unwrap();
    let mut command = Command::new("strace");
    command.args([
        "-ff",
        "-ttt",
        "-T",
        "-y",
        "-s",
        "4096",
        "-e",
        "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2,linkat",
    ]);
    command.arg("-o").arg(out.join("t")).arg(LASTGOOD).args(args).current_dir(world.path(""));
    match Command::new("strace").args(["-o", "/dev/null", "true"]).status() {
        Ok(status) if status.success() => {}
        why => {
            skipped("strace", &format!("strace does not run: {why:?}"));
            return None;
        }
    }
    Ran::of(command).ended(0);
    let mut calls = Vec::new();
    for file in fs::read_dir(&out).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            // 1795000000.123456 fsync(5</path>) = 0 <0.000123>
            let Some((begin, rest)) = line.split_once(' ') else { continue };
            let Some((text, took)) = rest.rsplit_once(" = 0 <") else { continue };
            let Some((name, _)) = text.split_once('(') else { continue };
            let begin: f64 = begin.parse().unwrap();
            let took: f64 = took.trim_end_matches('>').parse().unwrap();
            calls.push(Call { name: name.into(), begin, end: begin + took, text: text.into() });
        }
    }
    fs::remove_dir_all(&out).unwrap();
    calls.sort_by(|a, b| a.begin.total_cmp(&b.begin));
    Some(calls)
}

impl Call {
    /// Returns the paths of a rename: each quoted name, in the folder whose descriptor stands before it.
    fn names(&self) -> Vec<PathBuf> {
        let parts: Vec<&str> = self.text.split('"').collect();
        let path = |part: &[&str]| {
            let folder =
                part[0].rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
            Path::new(folder).join(part[1].strip_prefix("./").unwrap_or(part[1]))
        };
        parts.chunks_exact(2).map(path).collect()
    }

    fn is_rename(&self) -> bool {
        self.name.starts_with("rename")
    }

    /// Whether it makes this path durable.
    fn syncs(&self, path: &Path) -> bool {
        self.name == "fsync" && self.text.contains(&format!("<{}>", path.display()))
    }
}

#[test]
fn objects_are_durable_before_the_root_that_names_them() {
    let world = World::new();
    for n in 0..30 {
        world.write(&format!("{n}.bin"), noise(n, 1_500_000));
    }
    let data = fs::canonicalize(world.path("")).unwrap();
    let Some(calls) = trace(&world, &["backup"]) else { return };
    let from_tmp = |c: &&Call| c.is_rename() && c.names()[0].parent().is_some_and(|folder| folder.ends_with("tmp"));
    let renames: Vec<&Call> = calls.iter().filter(from_tmp).collect();
    let mut durable = Vec::new();
    for rename in &renames {
        let names = rename.names();
        let (from, to) = (data.join(&names[0]), data.join(&names[1]));
        assert!(rename.text.contains("RENAME_NOREPLACE"), "{}", rename.text);
        let file = calls.iter().find(|c| c.syncs(&from) && c.end <= rename.begin);
        assert!(file.is_some(), "{} is named before its bytes are durable", to.display());
        let folder = calls.iter().find(|c| c.syncs(to.parent().unwrap()) && c.begin >= rename.end);
        durable.push((
            to.clone(),
            rename.begin,
            folder.unwrap_or_else(|| panic!("{}: no fsync of its folder", to.display())).end,
        ));
    }
    let (roots, objects): (Vec<_>, Vec<_>) =
        durable.iter().partition(|(to, ..)| to.to_string_lossy().contains("/snapshots/"));
    assert_eq!(roots.len(), 1);
    let packs = objects.iter().filter(|(to, ..)| to.to_string_lossy().contains("/packs/")).count();
    assert!(packs >= 2, "{packs} packs");
    // The report names the root, so it is written after it.
    for (object, begun, durable) in objects {
        if object.to_string_lossy().contains("/runs/") {
            assert!(*begun >= roots[0].2, "the report is named before the root is durable");
            continue;
        }
        assert!(*durable <= roots[0].1, "the root is named before {} is durable", object.display());
    }
}

#[test]
fn a_restored_tree_is_durable_before_it_takes_the_name() {
    let world = World::new();
    for n in 0..30 {
        world.write(&format!("{n}.bin"), noise(n, 100_000));
    }
    world.backup();
    for (target, flag) in [("data", "RENAME_EXCHANGE"), ("fresh", "RENAME_NOREPLACE")] {
        let Some(calls) = trace(&world, &["restore", target]) else { return };
        let named = |c: &&Call| c.is_rename() && c.text.contains(flag) && c.names().iter().any(|n| n.ends_with(target));
        let swap = calls.iter().find(named).unwrap_or_else(|| panic!("no rename to {target}: {calls:#?}"));
        let synced = calls.iter().find(|c| c.name == "syncfs" && c.end <= swap.begin);
        assert!(synced.is_some(), "{target} takes its name before its content is durable");
        let folder = fs::canonicalize(world.path("")).unwrap();
        assert!(
            calls.iter().any(|c| c.syncs(&folder) && c.begin >= swap.end),
            "the name of {target} is not made durable"
        );
    }
}
