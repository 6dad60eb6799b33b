//! Makes snapshots of old archives, so that the backups of scripts before lastgood are a part of the history.
//!
//! An archive is unpacked into a folder of its own ([`unpack`]), which is backed up like a data directory and then removed: so its
//! databases are read and checked as databases, and what equals an earlier archive is stored once. The snapshot has the archive's time
//! and the number [`IMPORTED`](crate::vault::seq::IMPORTED): it is older than every snapshot that was taken of the data itself, and
//! the newest one only in a vault of imports alone.
//!
//! Archives are taken for hostile: nothing is written outside that folder, memory does not grow with what they say, and the disk is not
//! filled to its end.

pub mod found;
pub mod tar;
pub mod unpack;
pub mod when;
pub mod zip;

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions, set_permissions};
use std::io::{BufReader, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use tempfile::Builder;

use self::unpack::Unpacked;
use crate::backup::options::{BackupOptions, Past};
use crate::error::{Code, Doing, Error, Result};
use crate::fs::Folder;
use crate::monitor::Context;
use crate::path::{EntryPath, shown};
use crate::replicas::backup::{ReplicaReport, back_up};
use crate::replicas::pool::VaultPool;
use crate::vault::Vault;
use crate::vault::root::{IMPORT, SnapshotName};
use crate::vault::seq::IMPORTED;

/// The label that names the archive of a snapshot.
pub const ARCHIVE: &str = "archive";
/// The label that names the folder in the archive that was imported, if one was asked for.
pub const FOLDER: &str = "folder";
/// The beginning of the names of folders that archives are unpacked into.
const SCRATCH: &str = "lastgood-import-";
/// For how long such a folder is let alone, as a process may be about to lock it.
const YOUNG: Duration = Duration::from_secs(60);

/// Where the time of an archive is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportTime {
    /// The modification time of its file.
    File,
    /// A date in its file's name.
    Name,
    /// It was given.
    At(Timestamp),
}

/// What is imported, and how.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The archives.
    pub archives: Vec<PathBuf>,
    /// Where their times are taken from.
    pub time: ImportTime,
    /// The folder in the archives that the data is in. `None` for the one with the data directory's name if nothing is beside it, else
    /// for the top.
    pub folder: Option<EntryPath>,
    /// The folder in which they are unpacked, one after the other.
    pub scratch: PathBuf,
    /// How snapshots are taken; of which data directory, and of which service.
    pub backup: BackupOptions,
    /// Whether a vault may be made if there is none.
    pub init: bool,
}

/// What became of archives.
#[derive(Debug, Serialize)]
pub struct ImportReport {
    /// Every archive, the one with the oldest time first.
    pub archives: Vec<ImportedArchive>,
}

impl ImportReport {
    /// Returns how many archives could not be imported.
    pub fn failed(&self) -> usize {
        self.archives.iter().filter(|archive| archive.error.is_some()).count()
    }
}

/// What became of an archive.
#[derive(Debug, Serialize)]
pub struct ImportedArchive {
    /// Its path, as it was given.
    pub archive: String,
    /// Its time. `None` if that could not be told.
    pub time: Option<Timestamp>,
    /// Its snapshot. `None` if there is none.
    pub snapshot: Option<SnapshotName>,
    /// Whether it was imported before, and nothing was done.
    pub known: bool,
    /// The folder in it that counts as the data directory.
    pub folder: Option<EntryPath>,
    /// Whether the snapshot is good.
    pub good: bool,
    /// Number of the snapshot's entries.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that were stored for it.
    pub uploaded_bytes: u64,
    /// What was left out of the archive, and warnings of the backup.
    pub warnings: Vec<String>,
    /// The vaults, and whether they hold the snapshot.
    pub vaults: Vec<ReplicaReport>,
    /// Why it was not imported.
    pub error: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
}

impl ImportedArchive {
    fn new(archive: &Path) -> Self {
        ImportedArchive {
            archive: shown(archive),
            time: None,
            snapshot: None,
            known: false,
            folder: None,
            good: false,
            entries: 0,
            bytes: 0,
            uploaded_bytes: 0,
            warnings: Vec::new(),
            vaults: Vec::new(),
            error: None,
            hint: None,
        }
    }
}

/// Imports archives, the oldest one first. One that cannot be imported keeps the others from nothing.
///
/// # Errors
/// A scratch folder that cannot be used; no vault that can be asked or written to; being told to stop. What was imported by then stays.
pub fn import(vaults: &VaultPool, options: &ImportOptions, ctx: &Context) -> Result<ImportReport> {
    let mut archives: Vec<_> = options.archives.iter().map(|path| (path, time_of(path, options.time))).collect();
    archives.sort_by_key(|(path, time)| (time.as_ref().ok().copied(), path.as_os_str().to_owned()));
    remove_abandoned(&options.scratch);
    let mut report = ImportReport { archives: Vec::with_capacity(archives.len()) };
    for (path, time) in archives {
        let mut done = ImportedArchive::new(path);
        let imported = time.and_then(|time| {
            done.time = Some(time);
            one(vaults, path, time, options, &mut done, ctx)
        });
        match imported {
            Ok(()) => {}
            Err(why) if why.of_store() || matches!(why.code(), Code::Stopped | Code::DiskFull | Code::NoVault) => {
                return Err(why);
            }
            Err(why) => (done.error, done.hint) = (Some(why.what()), why.advice().map(str::to_owned)),
        }
        report.archives.push(done);
    }
    Ok(report)
}

/// Returns the time of an archive.
fn time_of(path: &Path, from: ImportTime) -> Result<Timestamp> {
    let doing = || format!("import {}", shown(path));
    let time = match from {
        ImportTime::At(time) => time,
        ImportTime::Name => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            when::in_name(&name).ok_or_else(|| {
                Error::failed(doing(), "its name tells no time")
                    .hint("Name the time of this one: `--at 2025-01-15T14:30:00Z`. Without both options, it is the file's modification time.")
            })?
        }
        ImportTime::File => {
            let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).doing(doing)?;
            Timestamp::try_from(modified).map_err(|why| Error::failed(doing(), why))?
        }
    };
    if time > Timestamp::now() {
        let why = format!("its time lies in the future: {}", time.strftime("%F %TZ"));
        return Err(Error::failed(doing(), why).hint("Name its true time: `--at 2025-01-15T14:30:00Z`."));
    }
    // Names of snapshots tell seconds.
    Timestamp::from_second(time.as_second()).map_err(|why| Error::failed(doing(), why))
}

/// Imports one archive.
fn one(
    vaults: &VaultPool,
    path: &Path,
    time: Timestamp,
    options: &ImportOptions,
    done: &mut ImportedArchive,
    ctx: &Context,
) -> Result<()> {
    let doing = || format!("import {}", shown(path));
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sites = vaults.sites(options.init)?;
    if let Some(vault) = sites.iter().find_map(|site| site.vault_if_open())
        && let Some(known) = known(vault, time, &file_name, options)?
    {
        (done.snapshot, done.known) = (Some(known), true);
        return Ok(());
    }
    let mut file = File::open(path).doing(doing)?;
    let scratch = Scratch::make(&options.scratch)?;
    let mut unpacked = Unpacked::into(scratch.path(), ctx)?;
    ctx.monitor.begin("unpacking", None);
    done.warnings = unpack(&mut file, &shown(path), &mut unpacked)?;
    if unpacked.entries == 0 {
        return Err(Error::failed(doing(), "it holds nothing that can be stored"));
    }
    done.warnings.extend(unpacked.finish()?);
    done.warnings.iter_mut().for_each(|what| *what = format!("left out: {what}"));
    let name = options.backup.data.file_name().map(OsStr::to_owned);
    let folder = options.folder.clone().or_else(|| unpacked.folder_of(&name?)).unwrap_or_default();
    let data = scratch.path().join(folder.as_path());
    if Folder::open(scratch.path()).and_then(|top| top.enter_all(folder.as_path())).is_err() {
        let why = format!("there is no folder {folder} in it");
        return Err(Error::failed(doing(), why)
            .with_code(Code::NoData)
            .hint("`tar tf` lists an archive, `unzip -l` a zip one."));
    }
    let mut backup = BackupOptions {
        past: Some(Past { data: options.backup.data.clone(), time }),
        data,
        origin: Some(IMPORT.into()),
        // An archive is what it is.
        accept_shrink: true,
        accept_missing: true,
        ..options.backup.clone()
    };
    backup.labels.insert(ARCHIVE.into(), file_name);
    if let Some(folder) = &options.folder {
        backup.labels.insert(FOLDER.into(), folder.to_string());
    }
    let taken = back_up(sites, &backup, ctx).map_err(|why| why.within(doing()))?;
    done.snapshot = Some(taken.taken.snapshot);
    done.folder = Some(folder);
    (done.good, done.entries, done.bytes) = (taken.taken.good, taken.taken.entries, taken.taken.bytes);
    done.uploaded_bytes = taken.taken.uploaded_bytes;
    done.warnings.extend(taken.taken.warnings);
    done.vaults = taken.vaults;
    Ok(())
}

/// Returns the snapshot of an archive that was imported before: with this name and time, of the same folder in it, and as one of the same
/// data directory.
fn known(vault: &Vault, time: Timestamp, file_name: &str, options: &ImportOptions) -> Result<Option<SnapshotName>> {
    let (data, service) = (options.backup.recorded_data(), options.backup.service.as_deref());
    let folder = options.folder.as_ref().map(ToString::to_string);
    for name in vault.snapshots()?.into_iter().filter(|name| (name.seq, name.time) == (IMPORTED, time)) {
        // What is damaged is imported again.
        let Ok(root) = vault.root(name) else { continue };
        let label = |key: &str| root.labels.get(key).map(String::as_str);
        if label(ARCHIVE) == Some(file_name) && label(FOLDER) == folder.as_deref() && root.is_of(&data, service) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Unpacks an archive of any format. Returns what was left out.
fn unpack(file: &mut File, name: &str, into: &mut Unpacked) -> Result<Vec<String>> {
    let doing = || format!("read {name}");
    let mut first = [0; 6];
    let read = file.read(&mut first).and_then(|read| file.rewind().map(|()| read)).doing(doing)?;
    let mut take = |found, content: &mut dyn Read| into.take(found, content);
    let other = |what: &str, command: &str| {
        let why = format!("it is compressed by {what}, which is not read");
        Err(Error::failed(doing(), why).hint(format!("Unpack it first: `{command} {name}`, and import the .tar file.")))
    };
    match &first[..read] {
        [0x1f, 0x8b, ..] => tar::read(&mut MultiGzDecoder::new(BufReader::new(file)), name, &mut take),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = ::zstd::stream::read::Decoder::new(file).doing(doing)?;
            tar::read(&mut decoder, name, &mut take)
        }
        [b'P', b'K', 3 | 5, 4 | 6, ..] => zip::read(BufReader::new(file), name, &mut take).map(|()| Vec::new()),
        [b'B', b'Z', b'h', ..] => other("bzip2", "bunzip2 -k"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => other("xz", "unxz -k"),
        [] => Err(Error::failed(doing(), "the file is empty")),
        _ => tar::read(&mut BufReader::new(file), name, &mut take),
    }
}

/// A folder that an archive is unpacked into, removed at the end. Its lock tells that a process uses it.
struct Scratch {
    above: Folder,
    name: OsString,
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    fn make(within: &Path) -> Result<Scratch> {
        let doing = || format!("make a folder in {}, to unpack archives there", shown(within));
        let hint = |why: Error| why.hint("Name a folder on a disk with enough space: `--scratch DIR`.");
        let folder = Builder::new().prefix(SCRATCH).tempdir_in(within).doing(doing).map_err(hint)?;
        let lock = File::open(folder.path()).doing(doing)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(std::io::Error::from).doing(doing)?;
        let above = Folder::open(within).map_err(std::io::Error::from).doing(doing)?;
        let outer = folder.keep();
        let name = outer.file_name().unwrap_or_default().to_owned();
        // The backup locks what it reads: it is another folder than the one that is locked here. Permissions there are the archive's.
        let made = Scratch { above, name, path: outer.join("unpacked"), _lock: lock };
        std::fs::create_dir(&made.path)
            .and_then(|()| set_permissions(&made.path, Permissions::from_mode(0o755)))
            .doing(doing)?;
        Ok(made)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(why) = self.above.remove_tree(&self.name) {
            tracing::warn!("{} could not be removed: {why}", shown(&self.path));
        }
    }
}

/// Removes what killed imports have left in a scratch folder.
fn remove_abandoned(within: &Path) {
    let Ok(above) = Folder::open(within) else { return };
    for name in above.readable().and_then(|_| above.names()).unwrap_or_default() {
        let is_scratch = name.as_encoded_bytes().starts_with(SCRATCH.as_bytes());
        let Some(folder) = above.enter(&name).ok().filter(|_| is_scratch) else { continue };
        // One that was made just now may not be locked yet.
        let made = std::fs::metadata(folder.path()).and_then(|metadata| metadata.modified()).ok();
        if made.and_then(|made| made.elapsed().ok()).is_none_or(|age| age < YOUNG) {
            continue;
        }
        // Another user's stays: it cannot be locked, or not be removed.
        if let Ok(lock) = folder.readable()
            && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = above.remove_tree(&name);
        }
    }
}
