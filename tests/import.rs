//! `lastgood import`: archives of other programs become snapshots that are older than all others, and hostile ones harm nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::compare::{differences, hash};
use crate::support::database;
use crate::support::tree::{noise, set_mode, set_mtime, set_xattr, sparse};
use crate::support::{Ran, World, short};

/// A data directory as scripts back them up, with what formats have trouble with.
fn app() -> World {
    let world = World::with_files();
    let data = world.data();
    database::run(&data.join("shop.db"), "create table t (a); insert into t values (1), (2), (3)");
    fs::write(data.join("random"), noise(3 << 20, 7)).unwrap();
    fs::hard_link(data.join("a.txt"), data.join("logs/a again.txt")).unwrap();
    symlink("../a.txt", data.join("logs/link")).unwrap();
    symlink("/nowhere", data.join("dangling")).unwrap();
    fs::create_dir(data.join("empty")).unwrap();
    let long = format!("uploads/{}/{}", "n\u{f6}".repeat(60), "x".repeat(200));
    world.write(&long, "a long name");
    world.write("c:odd \\ name", "odd");
    fs::write(data.join("no bytes"), "").unwrap();
    sparse(&data.join("hole"), 9 << 20, &[(1 << 20, b"island"), (5 << 20, b"another")]);
    set_mode(&data.join("a.txt"), 0o640);
    set_mode(&data.join("uploads/x"), 0o500);
    set_mtime(&data.join("random"), 1_700_000_000, 123_456_700);
    set_mtime(&data.join("no bytes"), -250, 0);
    for path in ["empty", "logs", "uploads", "uploads/x", ""] {
        set_mtime(&data.join(path), 1_600_000_000, 0);
    }
    world
}

/// Runs a command of another program in the world's folder.
fn other(world: &World, command: &[&str]) {
    let ran = Command::new(command[0]).args(&command[1..]).current_dir(world.path("")).output().unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Writes an archive by a Python program, to which `archive` is known, a file's path.
fn by_python(world: &World, name: &str, program: &str) -> PathBuf {
    let path = world.path(name);
    let program = format!("import io, tarfile, zipfile, struct\narchive = {:?}\n{program}", path.to_str().unwrap());
    other(world, &["python3", "-c", &program]);
    path
}

fn imported(world: &World, args: &[&str], code: i32) -> Vec<Value> {
    let report = world.json([&["import", "--init"][..], args].concat(), code);
    report["archives"].as_array().unwrap().clone()
}

/// What a restore of the newest good snapshot differs in from the data directory.
fn differs(world: &World, target: &str) -> Vec<String> {
    world.restore(target);
    differences(&world.data(), &world.path(target))
}

#[test]
fn archives_of_other_programs_give_back_what_was_archived() {
    let make: [(&str, &[&str]); 8] = [
        ("gnu.tar", &["tar", "-cf", "gnu.tar", "--format=gnu", "-C", "data", "."]),
        ("sparse.tar.gz", &["tar", "-czSf", "sparse.tar.gz", "--format=gnu", "data"]),
        ("pax.tar", &["tar", "-cSf", "pax.tar", "--format=pax", "--xattrs", "data"]),
        ("top.tar.gz", &["sh", "-c", "cd data && tar -czf ../top.tar.gz *"]),
        ("far.tar", &["sh", "-c", "mkdir -p srv/app && cp -a data srv/app/ && tar -cPf far.tar $PWD/srv/app/data"]),
        ("bsd.tar.zst", &["bsdtar", "-cf", "bsd.tar.zst", "--zstd", "--format=pax", "data"]),
        (
            "python.tar.gz",
            &["python3", "-c", "import tarfile\nwith tarfile.open('python.tar.gz', 'w:gz') as out: out.add('data')"],
        ),
        ("export.tar.zst", &[]),
    ];
    let world = app();
    set_xattr(&world.data().join("random"), "user.note", b"kept");
    for (name, command) in make {
        match command {
            [] => {
                world.run(["backup", "--vault", "other", "--init"]).ended(0);
                world.run(["export", "latest", "-o", name, "--vault", "other"]).ended(0);
            }
            command => other(&world, command),
        }
        let vault = format!("vault of {name}");
        let args = ["import", name, "--init", "--vault", &vault, "--scratch", "."];
        let report = world.json(args, 0);
        let archive = &report["archives"][0];
        assert_eq!((&archive["error"], &archive["good"]), (&Value::Null, &Value::Bool(true)), "{name}: {archive}");
        let target = format!("restored of {name}");
        world.run(["restore", &target, "--vault", &vault]).ended(0);
        let mut differences = differences(&world.data(), &world.path(&target));
        // What a format, or the command here, does not tell.
        let fractions = !["gnu.tar", "sparse.tar.gz", "top.tar.gz", "far.tar", "python.tar.gz"].contains(&name);
        let holes = ["sparse.tar.gz", "pax.tar", "bsd.tar.zst", "export.tar.zst"].contains(&name);
        let attributes = ["pax.tar", "bsd.tar.zst", "export.tar.zst"].contains(&name);
        differences.retain(|line| {
            (fractions || !line.contains(": mtime: "))
                && (holes || !line.contains(": holes: "))
                && (attributes || !line.contains("user.note"))
        });
        assert!(differences.is_empty(), "{name}: {differences:#?}");
        assert_eq!(hash(&world.path(&target).join("random")), hash(&world.data().join("random")), "{name}");
    }
    let left: Vec<_> = fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("lastgood-import")), "{left:?}");
}

#[test]
fn a_zip_archive_gives_back_content_modes_links_and_times() {
    let world = app();
    by_python(
        &world,
        "backup_20250115_143022.zip",
        "import os, stat, time
with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as out:
    for top, folders, files in os.walk('data'):
        for name in folders + files:
            path = os.path.join(top, name)
            status = os.lstat(path)
            if status.st_mtime < 315532800 or name == 'hole': continue
            info = zipfile.ZipInfo(path, time.gmtime(status.st_mtime)[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = status.st_mode << 16
            if os.path.islink(path): out.writestr(info, os.readlink(path))
            elif os.path.isdir(path): info.filename += '/'; out.writestr(info, '')
            else: out.writestr(info, open(path, 'rb').read())",
    );
    let archives = imported(&world, &["backup_20250115_143022.zip", "--time-from-name"], 0);
    assert_eq!(archives[0]["time"], "2025-01-15T14:30:22Z");
    assert_eq!(archives[0]["folder"], "data");
    let different: Vec<_> = differs(&world, "restored")
        .into_iter()
        // Whole and even seconds, and no hard links.
        .filter(|line| {
            !line.contains("mtime") && !line.contains("a.txt") && !line.contains("again") && !line.starts_with(".:")
        })
        .collect();
    let lacks = |line: &String| line.contains("hole") || line.contains("no bytes");
    assert!(different.iter().all(lacks), "{different:#?}");
    let modified = |path: &str| fs::metadata(world.path(path)).unwrap().modified().unwrap();
    assert!(modified("data/random").duration_since(modified("restored/random")).unwrap().as_secs() < 2);
}

#[test]
fn what_is_imported_is_older_than_what_was_backed_up_and_the_newest_only_alone() {
    let world = World::with_files();
    world.write("a.txt", "of the archive");
    other(&world, &["tar", "-cf", "backup_20250102_000000.tar", "data"]);
    world.write("a.txt", "of an older archive");
    other(&world, &["tar", "-cf", "backup_20240102_000000.tar", "data"]);
    let both = ["--time-from-name", "backup_20250102_000000.tar", "backup_20240102_000000.tar"];
    let archives = imported(&world, &both, 0);
    let times: Vec<_> = archives.iter().map(|archive| archive["time"].as_str().unwrap()).collect();
    assert_eq!(times, ["2024-01-02T00:00:00Z", "2025-01-02T00:00:00Z"]);
    // Alone, the newest of them is what a restore takes.
    let restored = world.restore("alone");
    assert_eq!(restored["snapshot"], archives[1]["snapshot"]);
    assert_eq!(fs::read_to_string(world.path("alone/a.txt")).unwrap(), "of the archive");

    world.write("a.txt", "of today");
    let today = world.backup();
    assert_eq!(today["parent"], archives[1]["snapshot"], "what equals the newest archive is not sent again");
    other(&world, &["tar", "-cf", "late.tar", "data"]);
    let late = imported(&world, &["late.tar"], 0);
    assert!(late[0]["time"].as_str().unwrap() > "2026", "{late:?}");
    let restored = world.restore("newest");
    assert_eq!(restored["snapshot"], today["snapshot"]);
    let list = world.json(["list"], 0);
    let origins: Vec<_> = list.as_array().unwrap().iter().map(|one| one["origin"].as_str()).collect();
    assert_eq!(origins, [None, Some("import"), Some("import"), Some("import")]);
    assert!(list.as_array().unwrap().iter().all(|one| one["data"] == list[0]["data"]), "{list}");
    world.run(["verify"]).ended(0);
    // By its day, an imported one is found as others are.
    world.run(["restore", "then", "--snapshot", "2024-01-02"]).ended(0);
    assert_eq!(fs::read_to_string(world.path("then/a.txt")).unwrap(), "of an older archive");

    let again = imported(&world, &both, 0);
    assert!(again.iter().all(|archive| archive["known"] == true), "{again:?}");
    assert_eq!(again[0]["snapshot"], archives[0]["snapshot"]);
    assert_eq!(world.json(["list"], 0).as_array().unwrap().len(), 4);
}

#[test]
fn an_archive_that_cannot_be_imported_keeps_no_other_from_it() {
    let world = World::with_files();
    other(&world, &["tar", "-czf", "good.tar.gz", "data"]);
    other(
        &world,
        &[
            "sh",
            "-c",
            "head -c 200 good.tar.gz > cut.tar.gz; head -c 1000 /dev/zero | tr '\\0' x > text.tar; : > empty",
        ],
    );
    other(
        &world,
        &[
            "sh",
            "-c",
            "printf BZh91AY > some.tar.bz2; touch -d '2 days' future.tar; cp good.tar.gz future.tar; touch -d '2 days' future.tar",
        ],
    );
    let all = ["good.tar.gz", "cut.tar.gz", "text.tar", "empty", "some.tar.bz2", "future.tar", "missing.tar"];
    let archives = imported(&world, &all, 3);
    let errors: Vec<_> = archives.iter().filter(|archive| !archive["error"].is_null()).collect();
    assert_eq!((archives.len(), errors.len()), (7, 6), "{archives:#?}");
    let ran: Ran = world.run([&["import"][..], &all].concat());
    for said in ["good.tar.gz is there already", "bunzip2", "lies in the future", "0 archives imported, 6 not"] {
        assert!(ran.ended(3).text().contains(said), "{said}: {ran:?}");
    }
    world
        .run(["import", "--at", "2025-01-15T14:30:00Z", "good.tar.gz", "cut.tar.gz"])
        .ended(2)
        .says("--time-from-name");
    let says = |args: &[&str], said: &str| {
        let ran = world.run([&["import", "good.tar.gz"][..], args].concat());
        assert!(ran.ended(3).text().contains(said), "{ran:?}");
    };
    says(&["--time-from-name"], "tells no time");
    says(&["--at", "2025-01-15T14:30:00Z", "--folder", "data/none"], "no folder");
    // What was imported of another folder in it, or for another directory, is something else.
    let at = ["good.tar.gz", "--at", "2025-01-15T14:30:00Z"];
    assert_eq!(imported(&world, &at, 0)[0]["known"], false);
    assert_eq!(imported(&world, &at, 0)[0]["known"], true);
    assert_eq!(imported(&world, &[&at[..], &["--data", "blog/data"]].concat(), 0)[0]["known"], false);
    let part = imported(&world, &[&at[..], &["--folder", "data/uploads"]].concat(), 0);
    assert_eq!(part[0]["known"], false);
    assert_eq!(part[0]["folder"], "data/uploads");
    let listing = world.json(["ls", short(&part[0])], 0);
    assert!(listing.to_string().contains("x/y.bin") || listing.to_string().contains("\"x\""), "{listing}");
}

#[test]
fn hostile_archives_harm_nothing() {
    let world = World::new();
    fs::create_dir(world.path("scratch")).unwrap();
    fs::create_dir(world.path("outside")).unwrap();
    let outside = world.path("outside");
    let tar = |name: &str, body: &str| {
        let head = "def add(name, data=b'', **more):
    info = tarfile.TarInfo(name); info.size = len(data)
    for key, value in more.items(): setattr(info, key, value)
    out.addfile(info, io.BytesIO(data))
out = tarfile.open(archive, 'w', format=tarfile.GNU_FORMAT)\n";
        by_python(&world, name, &format!("{head}outside = {:?}\n{body}\nout.close()", outside.to_str().unwrap()))
    };
    let hostile = [
        tar("dots.tar", "add('../outside/evil', b'evil')"),
        tar("inner-dots.tar", "add('a/../../outside/evil', b'evil')"),
        tar("through-link.tar", "add('link', type=tarfile.SYMTYPE, linkname=outside)\nadd('link/evil', b'evil')"),
        tar("through-dot-link.tar", "add('a', type=tarfile.SYMTYPE, linkname='../../outside')\nadd('a/evil', b'evil')"),
        tar("hard-link.tar", "add('passwd', type=tarfile.LNKTYPE, linkname='/etc/passwd')"),
        tar("dots-hard-link.tar", "add('x', type=tarfile.LNKTYPE, linkname='../../outside')"),
        tar(
            "folder-over-link.tar",
            "add('link', type=tarfile.SYMTYPE, linkname=outside)\nadd('link', type=tarfile.DIRTYPE, mode=0o777)\nadd('link/evil', b'evil')",
        ),
        by_python(
            &world,
            "memory.tar",
            "info = tarfile.TarInfo('x'); info.type = tarfile.XHDTYPE; info.size = 1 << 40
open(archive, 'wb').write(info.tobuf(tarfile.GNU_FORMAT) + b'0' * 4096)",
        ),
        by_python(
            &world,
            "cut.tar",
            "out = tarfile.open(archive, 'w'); info = tarfile.TarInfo('a'); info.size = 512
out.addfile(info, io.BytesIO(b'x' * 512)); out.close()
whole = open(archive, 'rb').read(); open(archive, 'wb').write(whole[:1024])",
        ),
        by_python(
            &world,
            "dots.zip",
            "with zipfile.ZipFile(archive, 'w') as out: out.writestr('../outside/evil', 'evil')",
        ),
        by_python(
            &world,
            "through-link.zip",
            "with zipfile.ZipFile(archive, 'w') as out:
    info = zipfile.ZipInfo('link'); info.external_attr = 0o120777 << 16; info.create_system = 3
    out.writestr(info, '../../outside'); out.writestr('link/evil', 'evil')",
        ),
        by_python(
            &world,
            "wrong-sum.zip",
            "with zipfile.ZipFile(archive, 'w') as out: out.writestr('a', 'content of a file')
bytes = open(archive, 'rb').read().replace(b'content', b'CONTENT'); open(archive, 'wb').write(bytes)",
        ),
    ];
    world.run(["init"]).ended(0);
    for archive in &hostile {
        let name = archive.file_name().unwrap().to_str().unwrap();
        let ran = world.run(["import", "--init", name, "--scratch", "scratch"]);
        assert!(ran.ended(3).text().contains("was not imported"), "{ran:?}");
        assert_eq!(files(&outside), [] as [PathBuf; 0], "{name}");
        assert_eq!(files(&world.path("scratch")), [] as [PathBuf; 0], "{name}");
    }
    assert_eq!(world.json(["list"], 0).as_array().unwrap().len(), 0);

    // What is only odd is imported without it, and told.
    let odd = "add('device', type=tarfile.CHRTYPE, devmajor=1, devminor=3)\nadd('pipe', type=tarfile.FIFOTYPE)
add('a', b'first')\nadd('a', b'second')\nadd('locked/b', b'b')\nadd('locked', type=tarfile.DIRTYPE, mode=0o000)\nadd('up', type=tarfile.SYMTYPE, linkname='../../..')";
    tar("odd.tar", odd);
    let archives = imported(&world, &["odd.tar", "--scratch", "scratch"], 0);
    let told = archives[0]["warnings"].to_string();
    assert!(told.contains("1 device") && told.contains("1 named pipe"), "{told}");
    world.restore("restored");
    assert_eq!(fs::read_to_string(world.path("restored/a")).unwrap(), "second");
    assert_eq!(fs::read_link(world.path("restored/up")).unwrap(), Path::new("../../.."));
    assert_eq!(files(&world.path("scratch")), [] as [PathBuf; 0]);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}
