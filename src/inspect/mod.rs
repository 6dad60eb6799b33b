//! Looks into a vault without restoring: `list`, `ls`, `cat`, `diff`.

mod content;
mod diff;
mod entries;

use std::collections::BTreeMap;
use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;

pub use self::diff::{Change, ChangedProperty, Difference, diff};
use self::entries::{Entries, tell_mended};
use crate::error::{self, Code, Doing, Error, Result};
use crate::monitor::Context;
use crate::parallel::ordered::map_ordered;
use crate::path::{EntryPath, EscapedBytes};
use crate::vault::Vault;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::Hash;
use crate::vault::read::PackReader;
use crate::vault::root::{BackupReason, Filters, Root, SnapshotName, SnapshotState};
use crate::vault::stale::StaleBook;
use crate::vault::tree::Remark;

/// A snapshot as `list` shows it.
#[derive(Debug, Serialize)]
pub struct ListedSnapshot {
    /// The snapshot.
    pub id: SnapshotName,
    /// When it was committed.
    pub created: Timestamp,
    /// The summary of its root; `None` if the root cannot be read.
    #[serde(flatten)]
    pub root: Option<RootSummary>,
    /// Why its root cannot be read, if that is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Why its root cannot be read, if a newer lastgood wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_format: Option<String>,
}

/// The number of listed snapshots whose roots cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnreadRoots {
    /// Those with a damaged root.
    pub damaged: u64,
    /// Those that a newer lastgood wrote.
    pub newer_format: u64,
}

/// The part of a root that `list` shows.
#[derive(Debug, Serialize)]
pub struct RootSummary {
    /// The reason for the backup: what started it.
    pub reason: BackupReason,
    /// On which occasion it was taken, or committed again, beyond the reason: `start`, `restore` or `rollback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The snapshot that was committed again as this one, and from which the labels are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<SnapshotName>,
    /// How much of the data directory it holds.
    pub state: SnapshotState,
    /// Why its data has diverged from that of the newest good snapshot, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// Whether it may be restored without being asked for by name.
    pub good: bool,
    /// Whether all of it is what was there: nothing is missing, carried over from an older snapshot, or torn.
    pub whole: bool,
    /// Number of databases in it that failed their check.
    pub failed_checks: u64,
    /// Number of entries of every kind.
    pub entries: u64,
    /// Number of files among them.
    pub files: u64,
    /// Bytes of all files' content.
    pub bytes: u64,
    /// Bytes of the objects that the backup created.
    pub uploaded_bytes: u64,
    /// The snapshot that it was made from.
    pub parent: Option<SnapshotName>,
    /// The labels that the user attached.
    pub labels: BTreeMap<String, String>,
    /// The data directory that it was taken from.
    pub data: String,
    /// The host that took it.
    pub host: String,
    /// The app that the data belongs to.
    pub service: Option<String>,
    /// Which entries were chosen.
    pub filters: Filters,
}

impl From<Root> for RootSummary {
    fn from(root: Root) -> Self {
        let (totals, uploaded_bytes, good, whole) = (root.totals, root.uploaded_bytes(), root.good(), root.whole());
        RootSummary {
            uploaded_bytes,
            repeats: root.repeats(),
            reason: root.reason,
            origin: root.origin,
            state: root.state,
            diverged: root.diverged,
            good,
            whole,
            failed_checks: root.failed_checks,
            entries: totals.entries,
            files: totals.files,
            bytes: totals.bytes,
            parent: root.parent,
            labels: root.labels,
            data: root.data,
            host: root.host,
            service: root.service,
            filters: root.filters,
        }
    }
}

/// Calls `take` with every snapshot of a vault, newest first. A snapshot whose root is damaged or of a newer format does not
/// hide the others; returns how many such there were.
///
/// # Errors
/// A store that fails; those of `take`.
pub fn list(vault: &Vault, take: impl FnMut(ListedSnapshot) -> Result<()>, ctx: &Context) -> Result<UnreadRoots> {
    newest(vault, usize::MAX, take, ctx)
}

/// As [`list`], for at most the newest `most` snapshots.
///
/// # Errors
/// As [`list`].
pub fn newest(
    vault: &Vault,
    most: usize,
    take: impl FnMut(ListedSnapshot) -> Result<()>,
    ctx: &Context,
) -> Result<UnreadRoots> {
    newest_of(vault, &vault.snapshots()?, most, take, ctx)
}

/// As [`newest`], if the vault was listed already; `names` are in order, oldest first.
///
/// # Errors
/// As [`list`].
pub fn newest_of(
    vault: &Vault,
    names: &[SnapshotName],
    most: usize,
    mut take: impl FnMut(ListedSnapshot) -> Result<()>,
    ctx: &Context,
) -> Result<UnreadRoots> {
    let mut unread = UnreadRoots::default();
    let names: Vec<_> = names.iter().rev().take(most).copied().collect();
    let read = |name: &SnapshotName| vault.root(*name).map(|root| (root.finished, RootSummary::from(root)));
    map_ordered(&names, ctx.parallel, read, |&id, root| {
        ctx.check("list the snapshots")?;
        let listed = ListedSnapshot { id, created: id.time, root: None, damage: None, newer_format: None };
        take(match root {
            Ok((created, summary)) => ListedSnapshot { created, root: Some(summary), ..listed },
            Err(why) if why.kind() == error::Kind::Damage => {
                unread.damaged += 1;
                ListedSnapshot { damage: Some(why.what()), ..listed }
            }
            Err(why) if why.is_newer_format() => {
                unread.newer_format += 1;
                ListedSnapshot { newer_format: Some(why.why().to_owned()), ..listed }
            }
            Err(why) => return Err(why),
        })
    })?;
    Ok(unread)
}

fn not_there(path: &EntryPath) -> Error {
    Error::usage(format!("find {path} in the snapshot"), "it is not there")
        .with_code(Code::UnknownPath)
        .hint("Paths are relative to the data directory. `lastgood ls` lists what is in a snapshot.")
}

/// An entry as `ls` shows it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Path below the data directory.
    pub path: EntryPath,
    /// The kind of entry.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// Length of its content, in bytes.
    pub size: u64,
    /// Permission bits; in JSON as four octal digits.
    #[serde(serialize_with = "octal")]
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When its content last changed.
    pub mtime: Timestamp,
    /// Where a symlink points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<EscapedBytes>,
    /// The first 16 bytes of the BLAKE3 of a file's content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// The time of its content, if it could not be read when the snapshot was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<Timestamp>,
}

fn octal<S: serde::Serializer>(mode: &u32, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{mode:04o}"))
}

impl From<Entry> for Shown {
    fn from(entry: Entry) -> Self {
        Shown {
            path: entry.path,
            kind: entry.kind,
            size: entry.size,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            // Every time that fits an entry's 64 bits of ns is in the range of a timestamp.
            mtime: Timestamp::from_nanosecond(entry.mtime.into()).unwrap_or_default(),
            target: entry.target,
            hash: entry.hash,
            stale_since: None,
        }
    }
}

/// Calls `take` with what `path` is in a snapshot: for a folder its entries in order, with `recursive` those in its
/// folders too; for anything else the entry itself. Reads only the hunks that can hold them.
///
/// # Errors
/// A path that is not in the snapshot; a store that fails; damage; those of `take`.
pub fn ls(
    vault: &Vault,
    root: &Root,
    path: &EntryPath,
    recursive: bool,
    mut take: impl FnMut(Shown) -> Result<()>,
    ctx: &Context,
) -> Result<()> {
    let packs = PackReader::for_root(&*vault.store, root)?;
    let mut entries = Entries::in_path(&packs, root, path, recursive)?;
    let first = loop {
        match entries.next_or_made()? {
            Some((entry, made)) if entry.path == *path => {
                warn_if_made(&entry, made, ctx);
                break entry;
            }
            Some((entry, _)) if entry.path < *path => {}
            _ => return Err(not_there(path)),
        }
    };
    let mut stale = StaleBook::read(&packs, root)?;
    let mut shown = |entry: Entry| {
        let since = stale.of(&entry).map(|stale| stale.since);
        Shown { stale_since: since, ..entry.into() }
    };
    if first.kind != EntryKind::Folder {
        tell_mended(&packs, ctx);
        return take(shown(first));
    }
    while let Some((entry, made)) = entries.next_or_made()? {
        if !entry.path.is_in(path) {
            break;
        }
        ctx.check("list a snapshot")?;
        if recursive || entry.path.parent() == Some(path.bytes()) {
            warn_if_made(&entry, made, ctx);
            take(shown(entry))?;
        }
    }
    tell_mended(&packs, ctx);
    Ok(())
}

/// Warns about a folder of which only the path is known.
fn warn_if_made(entry: &Entry, made: bool, ctx: &Context) {
    if made {
        ctx.monitor.warn(&Remark::NoFolder(entry.path.clone()).to_string());
    }
}

/// Writes the content of one file of a snapshot, holes as zeros.
///
/// # Errors
/// A path that is not in the snapshot, or is not a file; a store or a writer that fails; damage, which shows only after
/// the last byte if the content does not hash to what was stored.
pub fn cat(vault: &Vault, root: &Root, path: &EntryPath, out: &mut dyn Write, ctx: &Context) -> Result<()> {
    let packs = PackReader::for_root(&*vault.store, root)?;
    let entry = find(&mut Entries::in_path(&packs, root, path, false)?, path)?.ok_or_else(|| not_there(path))?;
    write_content(&packs, &entry, out, ctx)?;
    if let Some(stale) = StaleBook::read(&packs, root)?.at(path) {
        let (since, why) = (stale.since, &stale.why);
        ctx.monitor.warn(&format!("{path} is as of {since}, and not as it was when the snapshot was taken: {why}"));
    }
    Ok(())
}

/// As [`cat`], for what was read of a file that changed all the while: that is kept beside the snapshot's tree if the
/// tree has an older state of the file.
///
/// # Errors
/// As [`cat`]; a file of which no such content is kept.
pub fn cat_torn(vault: &Vault, root: &Root, path: &EntryPath, out: &mut dyn Write, ctx: &Context) -> Result<()> {
    let packs = PackReader::for_root(&*vault.store, root)?;
    let entry = find(&mut Entries::torn(&packs, root)?, path)?.ok_or_else(|| {
        let why = "the snapshot has no such reads of it: the tree has its content, if the snapshot has the file at all";
        Error::usage(format!("find what was read of {path} while it changed"), why)
            .with_code(Code::UnknownPath)
            .hint("Without --torn, `lastgood cat` writes what is in the tree.")
    })?;
    write_content(&packs, &entry, out, ctx)
}

fn find(entries: &mut Entries, path: &EntryPath) -> Result<Option<Entry>> {
    loop {
        match entries.next()? {
            Some(entry) if entry.path < *path => {}
            entry => return Ok(entry.filter(|entry| entry.path == *path)),
        }
    }
}

fn write_content(packs: &PackReader, entry: &Entry, out: &mut dyn Write, ctx: &Context) -> Result<()> {
    let path = &entry.path;
    if entry.kind != EntryKind::File {
        let what = match entry.kind {
            EntryKind::Folder => "it is a folder",
            EntryKind::Symlink => "it is a symbolic link",
            _ => "it is a named pipe",
        };
        let error = Error::usage(format!("write the content of {path}"), what);
        return Err(match entry.kind {
            EntryKind::Folder => {
                error.hint("`lastgood ls SNAPSHOT PATH` lists it, `lastgood restore --path PATH` restores it.")
            }
            _ => error,
        });
    }
    let mut hasher = blake3::Hasher::new();
    content::each_piece(packs, entry, ctx, |piece| {
        ctx.check("write a file's content")?;
        hasher.update(piece);
        out.write_all(piece).doing(|| format!("write the content of {path}"))
    })?;
    out.flush().doing(|| format!("write the content of {path}"))?;
    tell_mended(packs, ctx);
    if entry.hash != Some(Hash::from(&hasher.finalize())) {
        let why = "what was written is not what was stored: its BLAKE3 differs";
        return Err(
            Error::damage(format!("read the content of {path}"), why).hint("`lastgood verify` lists all damage.")
        );
    }
    Ok(())
}
