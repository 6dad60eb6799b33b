//! `export --format plain` writes an archive that other programs read: GNU tar, bsdtar, and Python's tarfile; and what holds for
//! both formats.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use lastgood::backup::{self, backup};
use lastgood::error::Kind;
use lastgood::export::{self, ArchiveFormat, export};
use lastgood::inspect::cat;
use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::path::EntryPath;
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;
use lastgood::vault::root::{Root, SnapshotName};
use tempfile::TempDir;

use crate::support::compare::differences;
use crate::support::database;
use crate::support::requirements::skipped;
use crate::support::tree::{everything, noise, set_mtime};

struct World {
    folder: TempDir,
    vault: Vault,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().join("vault"));
        let vault = Vault::init(Box::new(store), system_random).unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        World { folder, vault }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn backup(&self) -> SnapshotName {
        let options = backup::BackupOptions { data: self.path("data"), ..Default::default() };
        with_context(|ctx| backup(&self.vault, &options, ctx)).unwrap().snapshot
    }

    fn root(&self, name: SnapshotName) -> Root {
        self.vault.root(name).unwrap()
    }

    /// Exports a snapshot to `archive.tar.zst`, plainly.
    fn export(&self, name: SnapshotName) -> lastgood::error::Result<(export::ExportReport, PathBuf)> {
        self.export_as(name, ArchiveFormat::Plain)
    }

    fn export_as(
        &self,
        name: SnapshotName,
        format: ArchiveFormat,
    ) -> lastgood::error::Result<(export::ExportReport, PathBuf)> {
        let archive = self.path("archive.tar.zst");
        let mut out = BufWriter::new(File::create(&archive).unwrap());
        let report = with_context(|ctx| export(&self.vault, &self.root(name), format, &mut out, ctx))?;
        drop(out);
        assert_eq!(fs::metadata(&archive).unwrap().len(), report.written);
        Ok((report, archive))
    }

    fn data_packs(&self) -> Vec<PathBuf> {
        let mut packs: Vec<_> = fs::read_dir(self.path("vault/packs")).unwrap().map(|f| f.unwrap().path()).collect();
        packs.sort_by_key(|path| fs::metadata(path).unwrap().len());
        packs
    }
}

fn with_context<T>(work: impl FnOnce(&Context) -> T) -> T {
    let stop = AtomicBool::new(false);
    work(&Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor })
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs `command` with the decompressed archive as its input.
fn piped(archive: &Path, command: &mut Command) -> Vec<u8> {
    let mut zstd = Command::new("zstd").arg("-dcq").arg(archive).stdout(Stdio::piped()).spawn().unwrap();
    let out = run(command.stdin(zstd.stdout.take().unwrap()));
    assert!(zstd.wait().unwrap().success());
    out
}

fn lines(output: &[u8]) -> u64 {
    output.split(|&b| b == b'\n').filter(|line| !line.is_empty()).count() as u64
}

/// Gives every entry a time of whole seconds, which is what tar headers hold.
fn whole_seconds(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            whole_seconds(&entry.path());
        }
    }
    let children = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in children.chain([folder.to_owned()]) {
        let meta = fs::symlink_metadata(&path).unwrap();
        set_mtime(&path, std::os::unix::fs::MetadataExt::mtime(&meta), 0);
    }
}

/// Asserts that two trees are equal but for holes, which an archive has as zeros, and what `but` names.
#[track_caller]
fn same(expected: &Path, found: &Path, but: &[&str]) {
    let mut found = differences(expected, found);
    found.retain(|difference| !but.iter().chain(&[": holes: "]).any(|what| difference.contains(what)));
    assert!(found.is_empty(), "{found:#?}");
}

/// Exports a snapshot of everything that a data directory can have, the second of its vault.
fn everything_exported() -> (World, export::ExportReport, PathBuf) {
    let world = World::new();
    let data = world.path("data");
    everything(&data);
    whole_seconds(&data);
    world.backup();
    // Content in two packs, and in another order than the entries.
    let large = fs::read(data.join("sizes/large")).unwrap();
    fs::write(data.join("sizes/large"), [&large[..1 << 20], b"more", &large[1 << 20..]].concat()).unwrap();
    fs::write(data.join("a new one"), "new").unwrap();
    whole_seconds(&data);
    let name = world.backup();
    let (report, archive) = world.export(name).unwrap();
    assert_eq!(report.entries, world.root(name).totals.entries);
    assert_eq!(piped(&archive, Command::new("wc").arg("-c")), format!("{}\n", report.bytes).into_bytes());
    fs::create_dir(world.path("out")).unwrap();
    (world, report, archive)
}

#[test]
fn gnu_tar_reads_it() {
    let (world, report, archive) = everything_exported();
    let listed = run(Command::new("tar").args(["--zstd", "--quoting-style=escape", "-tf"]).arg(&archive));
    assert_eq!(lines(&listed), report.entries);
    let mut extract = Command::new("tar");
    extract.args(["--zstd", "--xattrs", "--numeric-owner", "-xpf"]).arg(&archive).arg("-C").arg(world.path("out"));
    run(&mut extract);
    same(&world.path("data"), &world.path("out"), &[]);
}

#[test]
fn bsdtar_reads_it() {
    if let Err(why) = Command::new("bsdtar").arg("--version").output() {
        return skipped("bsdtar", &format!("the package libarchive-tools has it: {why}"));
    }
    let (world, report, archive) = everything_exported();
    let listed = run(Command::new("bsdtar").arg("-tf").arg(&archive).env("LC_ALL", "C.UTF-8"));
    assert_eq!(lines(&listed), report.entries);
    let mut extract = Command::new("bsdtar");
    run(extract
        .args(["--numeric-owner", "-xpf"])
        .arg(&archive)
        .arg("-C")
        .arg(world.path("out"))
        .env("LC_ALL", "C.UTF-8"));
    // It sets the time of a folder that exists before what is in it, and the target does.
    same(&world.path("data"), &world.path("out"), &["\"\": mtime: "]);
}

#[test]
fn python_reads_it() {
    let (world, report, archive) = everything_exported();
    let script = "import sys, tarfile\n\
        tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)\n\
        with tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as archive:\n    \
        archive.extractall(sys.argv[1], numeric_owner=True)\n    \
        print(len(archive.getmembers()))";
    let counted = piped(&archive, Command::new("python3").args(["-c", script]).arg(world.path("out")));
    assert_eq!(counted, format!("{}\n", report.entries).into_bytes());
    // It sets no extended attributes, and no times of symlinks.
    let mut found = differences(&world.path("data"), &world.path("out"));
    found.retain(|difference| {
        let path = difference.split('"').nth(1).unwrap_or_default();
        let symlink = world.path("data").join(path).is_symlink();
        let told = [": holes: ", ": xattrs: "].iter().any(|what| difference.contains(what));
        let untold_time = symlink && difference.contains(": mtime: ");
        !(told || untold_time)
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn whole_frames_are_copied() {
    let world = World::new();
    for n in 0..3 {
        fs::write(world.path("data").join(format!("noise {n}")), noise(n, 20 << 20)).unwrap();
    }
    fs::write(world.path("data/small"), "small").unwrap();
    whole_seconds(&world.path("data"));
    let (report, archive) = world.export(world.backup()).unwrap();
    // The 60 MiB are in frames of 4 MiB; a frame in which a file begins or ends may be copied in parts.
    assert!(report.frames_copied >= 8, "{report:?}");
    assert!(report.frames_recompressed > 0 && report.files_not_hashed == 3, "{report:?}");
    fs::create_dir(world.path("out")).unwrap();
    run(Command::new("tar").args(["--zstd", "-xpf"]).arg(&archive).arg("-C").arg(world.path("out")));
    same(&world.path("data"), &world.path("out"), &[]);
}

#[test]
fn damage_is_found_here_or_by_zstd() {
    let world = World::new();
    fs::write(world.path("data/noise"), noise(1, 20 << 20)).unwrap();
    fs::write(world.path("data/small"), noise(2, 2000)).unwrap();
    let name = world.backup();
    let pack = world.data_packs().pop().unwrap();
    let whole = fs::read(&pack).unwrap();
    let mut found_by_zstd = 0;
    for part in 0..20 {
        let mut bytes = whole.clone();
        bytes[whole.len() / 20 * part + 1000] ^= 4;
        fs::write(&pack, bytes).unwrap();
        match world.export_as(name, ArchiveFormat::Pax) {
            Err(why) => {
                assert_eq!(why.kind(), Kind::Damage, "{why}");
                assert!(why.advice().unwrap().contains("--skip-damaged"), "{why}");
            }
            Ok((_, archive)) => {
                let test = Command::new("zstd").arg("-tq").arg(archive).output().unwrap();
                assert!(!test.status.success(), "a flipped bit in part {part} goes unnoticed");
                found_by_zstd += 1;
            }
        }
    }
    assert!(found_by_zstd < 20, "no damage is found here");
    fs::remove_file(&pack).unwrap();
    assert_eq!(world.export(name).unwrap_err().kind(), Kind::Damage);
}

#[test]
fn an_archive_that_cannot_be_written_is_an_error() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let world = World::new();
    fs::write(world.path("data/noise"), noise(1, 30 << 20)).unwrap();
    let name = world.backup();
    let why =
        with_context(|ctx| export(&world.vault, &world.root(name), ArchiveFormat::Pax, &mut Full, ctx)).unwrap_err();
    assert_eq!(why.kind(), Kind::Failed);
    assert!(why.to_string().contains("disk is full"), "{why}");
}

/// Every page may lie in a pack of another backup.
#[test]
fn a_database_of_many_backups_is_whole_in_the_archive_and_by_itself() {
    let world = World::new();
    let path = world.path("data/app.db");
    database::orders(&path, 4096, 4 << 20);
    let mut name = world.backup();
    for n in 0..6 {
        database::run(&path, &format!("UPDATE orders SET amount = {n} WHERE abs(random()) % 40 = 0"));
        name = world.backup();
    }
    let (report, archive) = world.export_as(name, ArchiveFormat::Pax).unwrap();
    assert_eq!(report.entries, 2);
    let out = world.path("out");
    fs::create_dir(&out).unwrap();
    piped(&archive, Command::new("tar").args(["-xf", "-", "-C"]).arg(&out));
    let expected = fs::read(&path).unwrap();
    assert!(fs::read(out.join("app.db")).unwrap() == expected, "the archive has another database");
    let mut content = Vec::new();
    let entry = EntryPath::new("app.db").unwrap();
    with_context(|ctx| cat(&world.vault, &world.root(name), &entry, &mut content, ctx)).unwrap();
    assert!(content == expected, "cat gives another database");
}
