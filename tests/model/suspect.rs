//! The rules by which a snapshot has to be suspect, as docs/backup.md tells them, applied to what came back of snapshots.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use lastgood::vault::root::{Root, SnapshotState};
use serde_json::Value;

use super::app::Place;
use super::tree::Tree;

/// A suspect state is accepted after this time, in this many snapshots.
const ACCEPTED: (SignedDuration, usize) = (SignedDuration::from_hours(72), 3);

/// A snapshot that was taken.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// How much of the directory it was said to hold.
    pub state: SnapshotState,
    /// Whether it was called good.
    pub good: bool,
    /// The data directory's path.
    pub data: PathBuf,
    /// The directory itself.
    pub place: Option<Place>,
    /// When its capture began, by the vault's clock.
    pub started: Timestamp,
    /// When one of its files was changed last, ns since 1970.
    pub changed: i64,
    /// Bytes of content, but for those beside raw databases.
    pub bytes: u64,
    /// Its databases, and how long each is.
    pub databases: BTreeMap<String, Option<u64>>,
    /// The restored tree.
    pub tree: Tree,
}

impl Snapshot {
    /// Creates one of which these are the root, the report and the restore.
    pub fn new(root: &Root, report: &Value, place: Option<Place>, tree: Tree) -> Self {
        let records = report["databases"].as_array().into_iter().flatten();
        let named = records.map(|record| (record["path"].as_str().unwrap().to_owned(), record["size"].as_u64()));
        Snapshot {
            state: root.state,
            good: report["good"] == true,
            data: PathBuf::from(&root.data),
            place,
            started: root.started,
            changed: root.totals.changed,
            bytes: root.totals.bytes - root.totals.beside,
            databases: named.collect(),
            tree,
        }
    }

    fn is_half_of(&self, other: &Snapshot) -> bool {
        self.tree.entries * 2 < other.tree.entries || self.bytes * 2 < other.bytes
    }

    /// Whether a database of `other` is gone, or nearly empty.
    fn lost_database(&self, other: &Snapshot) -> bool {
        other.databases.iter().any(|(path, was)| match (self.tree.sizes.get(path), was) {
            (None, _) => true,
            (Some(size), Some(was)) => size * 10 < *was,
            (Some(_), None) => false,
        })
    }
}

/// The state that a snapshot has to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not suspect.
    Sound,
    /// Suspect.
    Suspect,
    /// Not suspect any more, since it was for so long.
    Accepted,
}

/// Judges a snapshot by those that its vault had, newest first.
pub fn verdict<'a>(now: &Snapshot, earlier: impl Iterator<Item = &'a Snapshot>) -> Verdict {
    if now.tree.leaves == 0 {
        return Verdict::Suspect;
    }
    let (mut measure, mut other, mut partial, mut since) = (None, None, None, Vec::new());
    for snapshot in earlier {
        match (snapshot.state, snapshot.data == now.data) {
            (SnapshotState::Complete, true) => {
                measure = Some(snapshot);
                break;
            }
            (SnapshotState::Complete, false) => other = other.or(Some(snapshot)),
            (SnapshotState::Partial, true) => partial = partial.or(Some(snapshot)),
            (SnapshotState::Suspect, true) => since.push(snapshot),
            (SnapshotState::Partial | SnapshotState::Suspect, false) => {}
        }
    }
    let Some(measure) = measure.or(other).or(partial) else { return Verdict::Sound };
    let suspect = match measure.place == now.place {
        true => now.tree.entries * 10 < measure.tree.entries || now.lost_database(measure),
        false => now.is_half_of(measure),
    };
    match suspect {
        true if is_accepted(now, &since) => Verdict::Accepted,
        true => Verdict::Suspect,
        false => Verdict::Sound,
    }
}

/// Whether what looks suspect has done so for long enough, without becoming less, and was used meanwhile.
fn is_accepted(now: &Snapshot, since: &[&Snapshot]) -> bool {
    let (mut newer, mut chain) = (now, Vec::new());
    for older in since {
        if newer.is_half_of(older) || older.tree.entries <= 1 {
            break;
        }
        newer = older;
        chain.push(older);
    }
    let (Some(last), Some(first)) = (chain.first(), chain.last()) else { return false };
    let used = i128::from(last.changed) > first.started.as_nanosecond();
    last.started.duration_since(first.started) >= ACCEPTED.0 && chain.len() >= ACCEPTED.1 && used
}
