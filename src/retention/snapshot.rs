//! What a plan has to know of a snapshot: plain values, taken from its root and from what lies beside it.

use jiff::Timestamp;

use super::span::Span;
use crate::error::{Code, Error, Result};
use crate::vault::hex::Hash;
use crate::vault::root::{BackupReason, DatabaseRecord, IMPORT, Root, SnapshotName, SnapshotState};

/// For how long a pin under `pins/` holds, counted from its creation in this vault, and for how long a diverged snapshot is kept
/// in any case: what makes it pins it only after it is committed.
pub const PINNED: Span = Span::days(90);

/// On which occasion a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Occasion {
    /// The schedule was due.
    Schedule,
    /// Somebody asked for it.
    Manual,
    /// The app reported an error.
    Critical,
    /// The machine was going away.
    Shutdown,
    /// An app was about to be started.
    Start,
    /// Somebody went back to an older snapshot, or an occasion that this program does not know.
    Other,
}

impl Occasion {
    /// Whether the snapshot is a part of the history that a policy thins out. Snapshots that are taken at events may come by the
    /// hundred, and must not displace the history.
    pub fn is_routine(self) -> bool {
        matches!(self, Occasion::Schedule | Occasion::Manual)
    }

    /// Whether a policy's `critical` is about it.
    pub fn is_critical(self) -> bool {
        matches!(self, Occasion::Critical | Occasion::Shutdown | Occasion::Start)
    }

    /// Returns the occasion that a root tells.
    pub fn of(root: &Root) -> Self {
        match (root.origin.as_deref(), root.reason) {
            (_, BackupReason::Critical) => Occasion::Critical,
            (_, BackupReason::Shutdown) => Occasion::Shutdown,
            (Some("start"), _) => Occasion::Start,
            // An archive was made because it was time, or by hand.
            (Some(IMPORT), _) => Occasion::Manual,
            (Some(_), _) => Occasion::Other,
            (None, BackupReason::Schedule) => Occasion::Schedule,
            (None, BackupReason::Manual) => Occasion::Manual,
        }
    }
}

/// A promise that a snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// When its object was created in this vault.
    pub created: Timestamp,
    /// Until when it says that it holds. `None`: it does not say.
    pub until: Option<Timestamp>,
    /// Whether it lies under `holds/`, where no writer may create objects, and may be longer than [`PINNED`].
    pub is_hold: bool,
}

impl Pin {
    /// Returns when it ends; `None` if never.
    pub fn ends(&self) -> Option<Timestamp> {
        let longest = self.created.saturating_add(PINNED.duration()).unwrap_or(Timestamp::MAX);
        match self.is_hold {
            true => self.until,
            false => Some(self.until.map_or(longest, |until| until.min(longest))),
        }
    }
}

/// A snapshot, as a plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name; `name.time` is its own time.
    pub name: SnapshotName,
    /// When its root was created in this vault, by the store's clock.
    pub created: Timestamp,
    /// The app that the data belongs to.
    pub service: Option<String>,
    /// The data directory's path.
    pub data: String,
    /// On which occasion it was taken.
    pub occasion: Occasion,
    /// Whether it may be restored without being asked for by name, as [`Root::good`] says.
    pub good: bool,
    /// Whether nothing in it is missing, carried over or torn, as [`Root::whole`] says.
    pub whole: bool,
    /// Whether it has databases, and each of them passed its check.
    pub checked: bool,
    /// Whether a drill restored it.
    pub proven: bool,
    /// Whether it is partial or suspect.
    pub partial_or_suspect: bool,
    /// Whether its data has diverged from the history.
    pub diverged: bool,
    /// A hash of its lists of hunks and packs. Two snapshots with the same hunks hold the same. One that names fewer packs than its
    /// hunks need does not count as the same as a true one, whose packs it would not keep.
    pub content: Hash,
    /// Its pins and holds that nobody took back.
    pub pins: Vec<Pin>,
}

impl Snapshot {
    /// Creates one from its root, when that was created in this vault, and the root's list of databases, which may lie in frames.
    /// It has no pins and is not proven.
    ///
    /// # Errors
    /// No errors in practice: every list has a JSON form.
    pub fn of(name: SnapshotName, root: &Root, created: Timestamp, databases: &[DatabaseRecord]) -> Result<Self> {
        let lists = serde_json::to_vec(&(&root.hunks, &root.packs)).map_err(|why| {
            Error::failed("hash a snapshot's lists of hunks and packs", why).with_code(Code::Internal)
        })?;
        Ok(Snapshot {
            name,
            created,
            service: root.service.clone(),
            data: root.data.clone(),
            occasion: Occasion::of(root),
            good: root.good(),
            whole: root.whole(),
            checked: !databases.is_empty() && databases.iter().all(|one| one.check.is_some() && !one.failed()),
            proven: false,
            partial_or_suspect: root.state != SnapshotState::Complete,
            diverged: root.diverged.is_some(),
            content: Hash::of(&lists),
            pins: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::path::EntryPath;
    use crate::vault::entry::{CaptureMethod, CheckKind, DatabaseCheck};

    fn root(more: serde_json::Value) -> Root {
        let mut root = json!({
            "format": 1, "vault": "01010101010101010101010101010101", "seq": 7, "parent": null,
            "started": "2026-11-21T10:00:00Z", "finished": "2026-11-21T10:00:01Z", "reason": "schedule", "state": "complete",
            "data": "/data", "host": "here", "writer": "lastgood", "service": "shop",
            "place": { "boot": "b", "device": 1, "inode": 2, "born": null },
            "totals": { "entries": 0, "files": 0, "bytes": 0, "uploaded_bytes": 0, "new_packs": 0 },
            "hunks": { "items": [] }, "packs": { "items": [] },
        });
        root.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Root::parse_bytes(root.to_string().as_bytes()).unwrap()
    }

    fn of(root: &Root, databases: &[DatabaseRecord]) -> Snapshot {
        let name = root.encode().unwrap().0;
        Snapshot::of(name, root, "2026-11-21T10:00:02Z".parse().unwrap(), databases).unwrap()
    }

    #[test]
    fn an_occasion_is_what_the_root_tells() {
        for (more, expected) in [
            (json!({}), Occasion::Schedule),
            (json!({ "reason": "manual" }), Occasion::Manual),
            (json!({ "reason": "critical" }), Occasion::Critical),
            (json!({ "reason": "shutdown" }), Occasion::Shutdown),
            (json!({ "reason": "manual", "origin": "start" }), Occasion::Start),
            (json!({ "reason": "shutdown", "origin": "start" }), Occasion::Shutdown),
            (json!({ "reason": "manual", "origin": "restore" }), Occasion::Other),
            (json!({ "reason": "manual", "origin": "rollback" }), Occasion::Other),
            (json!({ "reason": "schedule", "origin": "of a later program" }), Occasion::Other),
        ] {
            assert_eq!(Occasion::of(&root(more.clone())), expected, "{more}");
        }
        let words = OCCASIONS_AND_USES.map(|(occasion, ..)| (occasion, occasion.is_routine(), occasion.is_critical()));
        assert_eq!(words, OCCASIONS_AND_USES);
    }

    const OCCASIONS_AND_USES: [(Occasion, bool, bool); 6] = [
        (Occasion::Schedule, true, false),
        (Occasion::Manual, true, false),
        (Occasion::Critical, false, true),
        (Occasion::Shutdown, false, true),
        (Occasion::Start, false, true),
        (Occasion::Other, false, false),
    ];

    #[test]
    fn a_snapshot_is_what_its_root_says() {
        let plain = of(&root(json!({})), &[]);
        assert!(
            plain.good
                && plain.whole
                && !plain.checked
                && !plain.proven
                && !plain.partial_or_suspect
                && !plain.diverged
        );
        assert_eq!((plain.service.as_deref(), &*plain.data), (Some("shop"), "/data"));
        let diverged = of(&root(json!({ "state": "suspect", "suspect": "x", "diverged": "x" })), &[]);
        assert!(!diverged.good && diverged.partial_or_suspect && diverged.diverged);
        let unsound = of(&root(json!({ "failed_checks": 1 })), &[]);
        assert!(!unsound.good && !unsound.partial_or_suspect);
        assert!(!of(&root(json!({ "problems": { "items": [{ "path": "a", "why": "denied" }] } })), &[]).whole);
        // The same lists of hunks and packs are the same content, whatever else the roots say.
        let frame = |offset: u32| {
            let (pack, hash) = ("02020202020202020202020202020202", "03030303030303030303030303030303");
            json!({ "pack": pack, "offset": offset, "length": 10, "hash": hash })
        };
        let hunks = |offset| json!({ "hunks": { "frames": [frame(offset)] }, "host": format!("host {offset}") });
        let content = |more| of(&root(more), &[]).content;
        assert_eq!(content(json!({ "host": "other" })), plain.content);
        assert_ne!(content(hunks(1)), plain.content);
        assert_ne!(content(hunks(1)), content(hunks(2)));
        assert_ne!(content(json!({ "packs": { "frames": [frame(1)] } })), plain.content);
    }

    #[test]
    fn databases_are_checked_if_there_are_any_and_all_passed() {
        let database = |check: Option<Option<&str>>| DatabaseRecord {
            path: EntryPath::new("app.db").unwrap(),
            taken: CaptureMethod::Live,
            why: None,
            check: check.map(|failed| DatabaseCheck { kind: CheckKind::Quick, failed: failed.map(str::to_owned) }),
            size: None,
        };
        let (passed, failed, unchecked) = (database(Some(None)), database(Some(Some("torn"))), database(None));
        for (databases, expected) in [
            (vec![], false),
            (vec![passed.clone()], true),
            (vec![passed.clone(), passed.clone()], true),
            (vec![passed.clone(), unchecked.clone()], false),
            (vec![passed, failed], false),
            (vec![unchecked], false),
        ] {
            assert_eq!(of(&root(json!({})), &databases).checked, expected, "{databases:?}");
        }
    }
}
