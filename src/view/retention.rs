//! Pins, and what a policy would let go, as text for people.

use indicatif::{BinaryBytes, HumanCount};
use jiff::Timestamp;
use serde::Serialize;

use super::{line, time};
use crate::replicas::keep::VaultPins;
use crate::retention::gather::Unreadable;
use crate::retention::plan::Plan;
use crate::retention::reason::{Keep, Verdict};
use crate::retention::stop::{Stop, StoredBytes};
use crate::text::{columns, count_of, printable};
use crate::vault::root::SnapshotName;

/// The width of a terminal, in characters.
const WIDTH: usize = 80;
/// Where reasons begin in a line.
const REASONS: usize = 48;
/// A policy to begin with.
const EXAMPLE: &str = "--keep last=10,within=48h,daily=30,monthly=12";

/// What a policy would let go.
#[derive(Debug, Serialize)]
pub struct Pruning {
    /// The vault.
    pub vault: String,
    /// Always true: nothing is deleted.
    pub dry_run: bool,
    /// The policy as text; `None` if there is none, and nothing would go.
    pub policy: Option<String>,
    /// The policy's hash.
    pub policy_hash: Option<String>,
    /// Every snapshot, oldest first.
    pub snapshots: Vec<PrunedSnapshot>,
    /// Number of snapshots that would be kept.
    pub kept: u64,
    /// Number of snapshots that would be let go.
    pub let_go: u64,
    /// Bytes of all packs in the vault.
    pub stored_bytes: u64,
    /// Bytes of the packs that only snapshots reach which would be let go.
    pub freed_bytes: u64,
    /// Why a prune would stop before it lets anything go.
    pub stops: Vec<String>,
    /// What cannot be read, which would stop it, too.
    pub unreadable: Vec<Unreadable>,
}

/// A snapshot, and what would become of it.
#[derive(Debug, Serialize)]
pub struct PrunedSnapshot {
    /// The snapshot.
    pub id: SnapshotName,
    /// When its root was created in this vault.
    pub stored: Timestamp,
    /// Whether it would be kept.
    pub keep: bool,
    /// All reasons.
    pub reasons: Vec<String>,
    /// Whether a pin or a hold keeps it.
    pub pinned: bool,
    /// Until when; `None` without end, and where it is not pinned.
    pub pinned_until: Option<Timestamp>,
}

impl Pruning {
    /// Describes a plan and why it stops.
    pub fn new(
        vault: String,
        plan: &Plan,
        policy: Option<String>,
        bytes: StoredBytes,
        stops: &[Stop],
        unreadable: Vec<Unreadable>,
    ) -> Self {
        let one = |judged: &crate::retention::plan::Judged| {
            let (reasons, pinned) = match &judged.verdict {
                Verdict::Keep(why) => {
                    let pinned =
                        why.iter().find_map(|why| if let Keep::Pinned(until) = why { Some(*until) } else { None });
                    (why.iter().map(Keep::to_string).collect(), pinned)
                }
                Verdict::LetGo(why) => (why.iter().map(ToString::to_string).collect(), None),
            };
            PrunedSnapshot {
                id: judged.snapshot.name,
                stored: judged.snapshot.created,
                keep: judged.verdict.is_kept(),
                reasons,
                pinned: pinned.is_some(),
                pinned_until: pinned.flatten(),
            }
        };
        let let_go = plan.let_go() as u64;
        Pruning {
            vault,
            dry_run: true,
            policy_hash: policy.is_some().then(|| plan.policy.to_string()),
            policy,
            snapshots: plan.judged.iter().map(one).collect(),
            kept: plan.judged.len() as u64 - let_go,
            let_go,
            stored_bytes: bytes.all,
            freed_bytes: bytes.freed,
            stops: stops.iter().map(ToString::to_string).collect(),
            unreadable,
        }
    }
}

/// Breaks text between words, so that no line is wider than `width` unless a word is.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(last) if last.is_empty() => *last = word.to_owned(),
            Some(last) if columns(last) + 1 + columns(word) <= width => *last = format!("{last} {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Adds a paragraph, of which each line but the first is indented by two.
fn paragraph(text: &mut String, words: &str) {
    for (at, part) in wrapped(words, WIDTH - 2).iter().enumerate() {
        line(text, format_args!("{}{part}", if at == 0 { "" } else { "  " }));
    }
}

/// Describes what a policy would let go, newest snapshot first.
pub fn pruning(done: &Pruning) -> String {
    let mut text = String::new();
    if !done.snapshots.is_empty() {
        line(&mut text, format_args!("{:16}  {:20}  {:6}  REASONS", "ID", "TIME (UTC)", ""));
    }
    for snapshot in done.snapshots.iter().rev() {
        let what = if snapshot.keep { "keep" } else { "let go" };
        let mut begin = format!("{:16}  {:20}  {what:6}", snapshot.id.id, time(snapshot.id.time));
        for part in wrapped(&snapshot.reasons.join("; "), WIDTH - REASONS) {
            line(&mut text, format_args!("{begin:46}  {}", printable(&part)));
            begin = String::new();
        }
    }
    if !done.snapshots.is_empty() {
        text.push('\n');
    }
    match (&done.policy, &done.policy_hash) {
        (Some(policy), Some(hash)) => {
            paragraph(&mut text, &format!("Policy {policy}"));
            line(&mut text, format_args!("  hash {hash}"));
        }
        _ => paragraph(&mut text, &format!("There is no policy, so nothing would go. One to begin with: {EXAMPLE}")),
    }
    let (all, freed) = (BinaryBytes(done.stored_bytes), BinaryBytes(done.freed_bytes));
    let snapshots = count_of(done.kept + done.let_go, "snapshot");
    paragraph(
        &mut text,
        &format!("Would let go {} of {snapshots}, and free {freed} of {all}", HumanCount(done.let_go)),
    );
    for why in &done.stops {
        paragraph(&mut text, &format!("Would stop: {}", printable(why)));
    }
    for Unreadable { object, why, .. } in &done.unreadable {
        paragraph(&mut text, &format!("Would stop, since {} cannot be read: {}", printable(object), printable(why)));
    }
    paragraph(&mut text, "Nothing was deleted: this version of lastgood deletes nothing yet");
    text
}

/// Describes what became of a snapshot's pins in each vault.
pub fn pins(snapshot: SnapshotName, done: &[VaultPins]) -> String {
    let mut text = String::new();
    for vault in done {
        let at = if done.len() > 1 { format!(" in {}", printable(&vault.vault)) } else { String::new() };
        let until = vault.until.map_or("without end".to_owned(), |until| format!("until {}", time(until)));
        let id = snapshot.id;
        match (vault.pinned, vault.created.is_empty()) {
            (None, _) => {}
            (Some(true), false) => line(&mut text, format_args!("Pinned snapshot {id}{at} {until}")),
            (Some(true), true) => {
                line(&mut text, format_args!("Snapshot {id} is pinned{at} {until} already: a pin only extends"))
            }
            (Some(false), false) => line(&mut text, format_args!("Took back the pins of snapshot {id}{at}")),
            (Some(false), true) => line(&mut text, format_args!("Snapshot {id} is not pinned{at}")),
        }
    }
    text
}
