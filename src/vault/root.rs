//! A snapshot's root: the JSON document whose existence commits the snapshot.
//!
//! The object is named `snapshots/<seq>-<UTC time>-<id>.json`, where the id is the first 8 bytes of the BLAKE3 of the
//! object's bytes. So a listing alone gives the order, and an altered root does not pass for the one that was written.

mod name;
mod origin;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::name::SnapshotName;
pub use self::origin::{Filters, Mount, SourceIdentity};
pub use super::document::FORMAT;
use super::document::{DocumentError, check_format};
use super::entry::{CaptureMethod, DatabaseCheck};
use super::frame::FrameRef;
use super::hex::{Hex, PackId};
use super::list::List;
use super::pack::PackInfo;
use super::parts::Parts;
use crate::error::{Code, Error, Result};
use crate::path::EntryPath;

/// The largest root that is read, in bytes; writers stay near 100 KB.
pub const MAX_ROOT: u64 = 4 << 20;
/// The folder of roots.
pub const SNAPSHOTS: &str = "snapshots/";
/// The folder of checkpoints: roots of backups that are not finished.
pub const CHECKPOINTS: &str = "checkpoints/";

/// The reason why a backup was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum BackupReason {
    /// Somebody asked for it.
    #[default]
    Manual,
    /// The schedule was due.
    Schedule,
    /// The app reported an error.
    Critical,
    /// The machine is going away.
    Shutdown,
}

impl fmt::Display for BackupReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackupReason::Manual => "manual",
            BackupReason::Schedule => "schedule",
            BackupReason::Critical => "critical",
            BackupReason::Shutdown => "shutdown",
        })
    }
}

/// How much of the data directory a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotState {
    /// All of it.
    Complete,
    /// Some entries could not be read, and no good snapshot was there before; `problems` names them.
    Partial,
    /// The changes since the snapshot before look like an accident.
    Suspect,
}

impl fmt::Display for SnapshotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SnapshotState::Complete => "complete",
            SnapshotState::Partial => "partial",
            SnapshotState::Suspect => "suspect",
        })
    }
}

/// A hunk, as a root lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HunkRef {
    /// Where the hunk is.
    #[serde(flatten)]
    pub frame: FrameRef,
    /// How many entries it holds.
    pub entries: u64,
    /// The path of the hunk's first entry.
    pub first: EntryPath,
    /// How many of its entries have maps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub maps: u64,
}

fn is_never(value: &i64) -> bool {
    *value == 0
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// An entry that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The path of the entry.
    pub path: EntryPath,
    /// Why it is not in the snapshot.
    pub why: String,
    /// When the capture that first reported the problem began, in an unbroken row of good snapshots that report it.
    /// `None`: this capture is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl Problem {
    /// A problem with an entry that this capture is the first to report.
    pub fn new(path: EntryPath, why: impl Into<String>) -> Self {
        Problem { path, why: why.into(), since: None }
    }
}

/// An entry that could not be read and was carried over from an older snapshot, with all that belongs to it: everything
/// below it, and, for a database that was captured together with its side files, those files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// The path of the entry.
    pub path: EntryPath,
    /// When the capture began in which it was last read, or known to be unchanged: it is as it was then.
    pub since: Timestamp,
    /// Why it could not be read now.
    pub why: String,
}

/// A SQLite database of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseRecord {
    /// The path of the database file.
    pub path: EntryPath,
    /// How it was read.
    pub taken: CaptureMethod,
    /// Why it was not read live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The result of checking it; `None` if it was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<DatabaseCheck>,
    /// The size of its content in bytes; `None` if the snapshot is from an early program, which did not store it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl DatabaseRecord {
    /// Whether it was checked and did not pass.
    pub fn failed(&self) -> bool {
        self.check.as_ref().is_some_and(|check| check.failed.is_some())
    }
}

fn is_empty<T>(list: &List<T>) -> bool {
    matches!(list, List::Items(items) if items.is_empty())
}

/// All packs that a snapshot reaches. The list of packs cannot list the packs that it is itself stored in, so these are
/// named beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PackList {
    /// Packs of content, hunks, maps and lists.
    #[serde(flatten)]
    pub list: List<PackInfo>,
    /// The index packs that hold the list's frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<PackInfo>,
}

/// Totals over a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Entries of every kind.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of all files' content.
    pub bytes: u64,
    /// Bytes of the side files of raw databases, included in `bytes`; these files disappear when SQLite recovers what
    /// they hold.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub beside: u64,
    /// The latest mtime of any file, in nanoseconds since 1970; 0 if the snapshot is from an early program, which did
    /// not store it.
    #[serde(default, skip_serializing_if = "is_never")]
    pub changed: i64,
    /// Files whose content differs from that in the snapshot before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rewritten: u64,
    /// Bytes of the objects that this backup created, without the root.
    pub uploaded_bytes: u64,
    /// Packs that this backup created.
    pub new_packs: u64,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// The version of the format.
    pub format: u32,
    /// The vault it belongs to.
    pub vault: Hex<16>,
    /// Greater than that of every earlier snapshot in the vault and in its replicas; gives the order of snapshots. See
    /// [`seq`](super::seq).
    pub seq: u64,
    /// Counts backups, and so decides which of the files that look unchanged were read all the same. `None` in roots of
    /// early programs, for which `seq` was the counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<u64>,
    /// The snapshot that this one builds on.
    pub parent: Option<SnapshotName>,
    /// When the capture began.
    pub started: Timestamp,
    /// When it was committed.
    pub finished: Timestamp,
    /// The reason why the backup was started.
    pub reason: BackupReason,
    /// The run that made it, whose report is under `runs/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Hex<8>>,
    /// Labels that the user attached.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How much of the directory it holds.
    pub state: SnapshotState,
    /// Why it is suspect, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<String>,
    /// Why the data is not of the same lineage as the newest good snapshot, for people: another instance of the app had
    /// taken over, or nothing tells where the data comes from. `None` if it is, or is not known to differ. Such a
    /// snapshot is suspect, for this reason, and stays so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// The serial of the data directory's lineage when the capture began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Hex<16>>,
    /// On which occasion it was taken, beyond its reason: `start`, when an app was about to be started; `restore` and
    /// `rollback`, when somebody went back to an older snapshot. Readers must not expect to know every value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The data directory's path, for people.
    pub data: String,
    /// The host's name, for people.
    pub host: String,
    /// The program and version that wrote it.
    pub writer: String,
    /// Where the directory was.
    pub place: SourceIdentity,
    /// Filesystems that were mounted below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// The parts of its files in which some were taken over from another place and have not been read since; `None` if
    /// that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Parts>,
    /// In a checkpoint: the last path that is covered. Every path up to this one is, and none after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers: Option<EntryPath>,
    /// Totals over the snapshot.
    pub totals: Totals,
    /// The hunks, in path order.
    pub hunks: List<HunkRef>,
    /// The packs that the snapshot reaches.
    pub packs: PackList,
    /// Entries that are missing: they could not be read, and no older snapshot had them. Some entries lack only their
    /// extended attributes.
    #[serde(default)]
    pub problems: List<Problem>,
    /// Entries that could not be read and were carried over from an older snapshot, in path order.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub stale: List<Stale>,
    /// Entries that were captured although they kept changing, and may be a mixture of what they were before and after:
    /// no older snapshot had them.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub torn: List<Problem>,
    /// Hunks that are not part of the tree. Their entries, in path order, are of what was read while it kept changing
    /// and may be such a mixture; the tree has the last good version instead.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub torn_reads: List<HunkRef>,
    /// The app that the data belongs to; `None` if the backup was not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Which entries were chosen; empty if all were.
    #[serde(default, skip_serializing_if = "Filters::is_empty")]
    pub filters: Filters,
    /// The SQLite databases, in path order.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub databases: List<DatabaseRecord>,
    /// How many of the databases did not pass their check.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_checks: u64,
}

/// The `origin` of a snapshot that was made of an archive.
pub const IMPORT: &str = "import";

impl Root {
    /// Whether it may be restored without being asked for by name, and be compared with.
    pub fn good(&self) -> bool {
        self.state == SnapshotState::Complete && self.covers.is_none() && self.failed_checks == 0
    }

    /// Returns the snapshot whose content it is, if it was committed again as this one: nothing was captured, so that it began when it
    /// ended.
    pub fn repeats(&self) -> Option<SnapshotName> {
        let is_again = self.origin.as_deref().is_some_and(|origin| origin != IMPORT)
            && self.started == self.finished
            && (self.totals.new_packs, self.totals.uploaded_bytes) == (0, 0);
        self.parent.filter(|_| is_again)
    }

    /// Whether it holds everything that was there: nothing is missing, carried over or torn. A snapshot may be good and
    /// not whole.
    pub fn whole(&self) -> bool {
        is_empty(&self.problems) && is_empty(&self.stale) && is_empty(&self.torn)
    }

    /// Whether it is a snapshot of this data path and service. If either side has no service, the services match.
    pub fn is_of(&self, data: &Path, service: Option<&str>) -> bool {
        let service = service.zip(self.service.as_deref());
        let here = Path::new(&self.data);
        // The path is stored as people read it; early programs stored it as it was given.
        let same = data.display().to_string() == self.data
            || here.is_relative() && data.ends_with(here.strip_prefix(".").unwrap_or(here));
        same && service.is_none_or(|(one, other)| one == other)
    }

    /// Returns the bytes of all objects that the backup created, the root itself included.
    pub fn uploaded_bytes(&self) -> u64 {
        self.totals.uploaded_bytes + self.encode().map_or(0, |(_, bytes)| bytes.len() as u64)
    }

    /// Returns the root's encoded bytes and the name that follows from them.
    ///
    /// # Errors
    /// No errors in practice: every field has a JSON form.
    pub fn encode(&self) -> Result<(SnapshotName, Vec<u8>)> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|e| Error::failed("write the snapshot's root", e).with_code(Code::Internal))?;
        bytes.push(b'\n');
        Ok((SnapshotName::of(self.seq, self.finished, &bytes), bytes))
    }

    /// Reads the root `name` from its bytes.
    ///
    /// # Errors
    /// Damage: the bytes are not the ones that were written, or are not a root. Failed, with the code of a newer format: a newer
    /// version of lastgood wrote them.
    pub fn parse(name: SnapshotName, bytes: &[u8]) -> Result<Root> {
        let doing = || format!("read the root of snapshot {name}");
        name.check_bytes(bytes).map_err(|why| Error::damage(doing(), why))?;
        let root = Self::parse_bytes(bytes).map_err(|why| why.while_doing(doing()))?;
        match SnapshotName::of(root.seq, root.finished, bytes) == name {
            true => Ok(root),
            false => Err(Error::damage(doing(), "its number and time are not those in its name")),
        }
    }

    /// Reads a root from its bytes, whatever its name.
    ///
    /// # Errors
    /// They have another format, or are not a root.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Root, DocumentError> {
        check_format(bytes)?;
        serde_json::from_slice(bytes).map_err(|e| DocumentError::Damaged(format!("it is not a root: {e}")))
    }

    /// Returns every pack that is named in the root itself, without reading list frames.
    pub fn holders(&self) -> impl Iterator<Item = &PackInfo> {
        let items = match &self.packs.list {
            List::Items(items) => items.as_slice(),
            List::Frames(_) => &[],
        };
        items.iter().chain(&self.packs.holders)
    }
}

/// Packs by id.
pub type PackBook = std::collections::HashMap<PackId, PackInfo>;

#[cfg(test)]
mod tests {
    use super::*;

    pub fn sample() -> Root {
        Root {
            format: FORMAT,
            vault: Hex([1; 16]),
            seq: 7,
            turn: Some(3),
            parent: None,
            started: "2026-11-21T10:00:00Z".parse().unwrap(),
            finished: "2026-11-21T10:00:01.5Z".parse().unwrap(),
            reason: BackupReason::Critical,
            run: Some(Hex([4; 8])),
            labels: [("k".into(), "v".into())].into(),
            state: SnapshotState::Complete,
            suspect: None,
            diverged: None,
            serial: None,
            origin: None,
            data: "/data".into(),
            host: "here".into(),
            writer: "lastgood".into(),
            place: SourceIdentity { boot: "b".into(), device: 1, inode: 2, born: Some(3), ..SourceIdentity::default() },
            mounts: Vec::new(),
            unread: Some(Parts::of(5)),
            covers: None,
            totals: Totals::default(),
            hunks: List::default(),
            packs: PackList::default(),
            problems: List::default(),
            stale: List::default(),
            torn: List::default(),
            torn_reads: List::default(),
            service: None,
            filters: Filters::default(),
            databases: List::default(),
            failed_checks: 0,
        }
    }

    #[test]
    fn a_root_comes_back_and_its_name_guards_its_bytes() {
        let (name, bytes) = sample().encode().unwrap();
        assert_eq!(name.to_string(), format!("0000000007-20261121T100001Z-{}", name.id));
        assert_eq!(name.to_string().parse::<SnapshotName>().unwrap(), name);
        assert_eq!(SnapshotName::parse_object(SNAPSHOTS, &name.object(SNAPSHOTS)), Some(name));
        assert_eq!(Root::parse(name, &bytes).unwrap(), sample());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Root::parse(name, &bad).unwrap_err().kind(), crate::error::Kind::Damage);
        }
        assert!(Root::parse(SnapshotName { seq: 8, ..name }, &bytes).is_err());
        let (newer, bytes) = Root { format: FORMAT + 1, ..sample() }.encode().unwrap();
        let said = Root::parse(newer, &bytes).unwrap_err();
        assert_eq!((said.kind(), said.word()), (crate::error::Kind::Failed, "newer-format"));
        // As long as its bytes are those that were written.
        assert_eq!(Root::parse(newer, &bytes[1..]).unwrap_err().kind(), crate::error::Kind::Damage);
        assert!(Root::parse_bytes(&[b'['; 100_000]).is_err());
    }

    #[test]
    fn fields_of_later_programs_are_ignored_and_those_of_earlier_ones_are_enough() {
        let of_an_instance = Root {
            state: SnapshotState::Suspect,
            suspect: Some("it has diverged".into()),
            diverged: Some("it has diverged".into()),
            serial: Some(Hex([7; 16])),
            origin: Some("start".into()),
            ..sample()
        };
        let (name, bytes) = of_an_instance.encode().unwrap();
        assert_eq!(Root::parse(name, &bytes).unwrap(), of_an_instance);
        assert!(!of_an_instance.good() && of_an_instance.whole());
        // As a program reads it that does not know them, and would read what comes later.
        let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let fields = json.as_object_mut().unwrap();
        for new in ["diverged", "serial", "origin"] {
            assert!(fields.remove(new).is_some(), "{new}");
        }
        fields.insert("of a later program".into(), serde_json::json!({"a": [1]}));
        let known = Root { diverged: None, serial: None, origin: None, ..of_an_instance };
        assert_eq!(Root::parse_bytes(json.to_string().as_bytes()).unwrap(), known);
        let as_ever = String::from_utf8(sample().encode().unwrap().1).unwrap();
        assert!(["diverged", "serial", "origin"].iter().all(|new| !as_ever.contains(new)), "{as_ever}");
    }
}
