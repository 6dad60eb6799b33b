//! Lists as text for people: snapshots, runs, the entries of a snapshot, and differences between snapshots.

use indicatif::{BinaryBytes, HumanCount};

use super::time;
use crate::inspect::{Change, Difference, ListedSnapshot, RootSummary, Shown};
use crate::report::RunSummary;
use crate::text::{entry_name, printable};
use crate::vault::entry::EntryKind;
use crate::vault::root::{BackupReason, SnapshotState};

/// Returns the header line of `runs`.
pub fn runs_head() -> String {
    format!("{:<16}  {:<20}  {:<8}  {:<17}  {:<12}  {}", "ID", "TIME (UTC)", "ACTION", "RESULT", "BY", "ABOUT")
}

/// Returns the line of a run from the summary of its report.
pub fn run(summary: &RunSummary) -> String {
    let text = |field: &Option<String>| field.as_deref().map(printable).unwrap_or_default();
    let started = text(&summary.started).parse().map(time).unwrap_or_default();
    let about = text(if summary.error.is_some() { &summary.error } else { &summary.snapshot });
    let (id, action, result, way) =
        (text(&summary.run), text(&summary.action), text(&summary.result), text(&summary.way));
    format!("{id:<16}  {started:<20}  {action:<8}  {result:<17}  {way:<12}  {about}")
}

/// Returns the header line of a list of snapshots.
pub fn list_head() -> String {
    format!(
        "{:16}  {:20}  {:8}  {:8}  {:>11}  {:>11}  {:>11}",
        "ID", "TIME (UTC)", "REASON", "STATE", "ENTRIES", "SIZE", "ADDED"
    )
}

/// Returns the line of a snapshot in a list.
pub fn listed(listed: &ListedSnapshot) -> String {
    let Some(root) = &listed.root else {
        let (state, why) = match &listed.newer_format {
            Some(why) => ("newer format  ", why.as_str()),
            None => ("damaged   ", listed.damage.as_deref().unwrap_or_default()),
        };
        return format!("{:16}  {:20}  {:8}  {state}{}", listed.id.id, time(listed.created), "", printable(why));
    };
    let (reason, state) = (reason(root), state(root));
    let (size, added) = (BinaryBytes(root.bytes).to_string(), BinaryBytes(root.uploaded_bytes).to_string());
    let entries = HumanCount(root.entries).to_string();
    let labels: String = labels(root).iter().map(|label| format!("  {label}")).collect();
    let created = time(listed.created);
    format!("{:16}  {created:20}  {reason:8}  {state:8}  {entries:>11}  {size:>11}  {added:>11}{labels}", listed.id.id)
}

/// Returns the word for why a snapshot was taken. One that `run` takes or commits by itself has the occasion for it.
pub(super) fn reason(root: &RootSummary) -> String {
    match (&root.origin, root.reason) {
        (Some(origin), BackupReason::Manual) => printable(origin),
        (_, reason) => reason.to_string(),
    }
}

/// Returns the labels of a snapshot. One that was committed again names the one that it repeats: the labels are of that.
pub(super) fn labels(root: &RootSummary) -> Vec<String> {
    match root.repeats {
        Some(repeated) => vec![format!("as {}", repeated.id)],
        None => root.labels.iter().map(|(k, v)| format!("{}={}", printable(k), printable(v))).collect(),
    }
}

/// Returns the word for what a snapshot is.
pub(super) fn state(root: &RootSummary) -> String {
    // If a complete snapshot has a database that failed its check, this is what counts.
    let unsound = root.state == SnapshotState::Complete && root.failed_checks > 0;
    match (unsound, root.good && !root.whole) {
        _ if root.diverged.is_some() => "diverged".to_owned(),
        (true, _) => "unsound".to_owned(),
        (_, true) => "stale".to_owned(),
        _ => root.state.to_string(),
    }
}

/// Returns the line of an entry, as `ls -l` shows it.
pub fn entry(entry: &Shown) -> String {
    let target = entry.target.as_ref().map(|t| format!(" -> {}", entry_name(&t.0))).unwrap_or_default();
    let (mode, name) = (permissions(entry.kind, entry.mode), entry_name(entry.path.bytes()));
    let stale = entry.stale_since.map(|since| format!("  (as of {})", time(since))).unwrap_or_default();
    format!("{mode} {:5} {:5} {:>12} {} {name}{target}{stale}", entry.uid, entry.gid, entry.size, time(entry.mtime))
}

/// Returns the line of a difference between snapshots.
pub fn difference(difference: &Difference) -> String {
    let sign = match difference.change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Modified => 'M',
    };
    let slash = if difference.kind == EntryKind::Folder && !difference.path.is_root() { "/" } else { "" };
    let what: Vec<_> = difference.what.iter().map(|what| what.name()).collect();
    let what = if what.is_empty() { String::new() } else { format!("  ({})", what.join(", ")) };
    format!("{sign} {}{slash}{what}", entry_name(difference.path.bytes()))
}

fn permissions(kind: EntryKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        EntryKind::File => '-',
        EntryKind::Folder => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (false, false) => '-',
            (true, false) => 'x',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_as_in_ls() {
        for (kind, mode, text) in [
            (EntryKind::File, 0o4755, "-rwsr-xr-x"),
            (EntryKind::File, 0o4644, "-rwSr--r--"),
            (EntryKind::Folder, 0o1777, "drwxrwxrwt"),
            (EntryKind::Folder, 0o2750, "drwxr-s---"),
            (EntryKind::Symlink, 0o777, "lrwxrwxrwx"),
            (EntryKind::Fifo, 0, "p---------"),
        ] {
            assert_eq!(permissions(kind, mode), text);
        }
    }
}
