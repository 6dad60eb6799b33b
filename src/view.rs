//! Reports and listings as text for people. The functions are pure, so that tests read the texts too.

mod doctor;
mod lists;
mod preview;
mod retention;
mod run_report;
mod short;
mod start;
mod verify;

use std::fmt::Write;
use std::path::Path;

use crate::command::RestoreCommand;
use crate::replicas::backup::ReplicaReport;
use crate::replicas::{self, InitReport};
use crate::store::Traffic;
use crate::vault::entry::CaptureMethod;
use crate::vault::root::{DatabaseRecord, Problem, SnapshotName, SnapshotState, Stale};
use crate::{backup, restore};
use indicatif::{BinaryBytes, HumanCount};
use jiff::Timestamp;

pub use self::doctor::{
    NARROW as DOCTOR_NARROW, WIDTH as DOCTOR_WIDTH, age as doctor_age, doctor, problems as doctor_problems,
};
pub use self::lists::{difference, entry, list_head, listed, run, runs_head};
pub use self::preview::preview;
pub use self::retention::{Pruning, pins, pruning};
pub use self::run_report::run_report;
pub use self::short::{distinct, runs as runs_short, snapshots as snapshots_short};
pub use self::start::{seed, state};
pub use self::verify::{verified, verify};
use crate::replicas::copy::Copied;
use crate::text::{count_of, entry_name, printable};

/// The most problems that are written out; the text says how many more there are.
const PROBLEMS: usize = 20;
/// The most snapshots that a restore passed over and that are listed.
const PASSED_OVER: usize = 5;
/// The most places that stayed as they were and that are listed.
const KEPT: usize = 5;
/// The most programs that use what was replaced and that are listed.
const IN_USE: usize = 5;

/// Describes what was backed up, where it is, and how to get it back.
pub fn backup(report: &replicas::backup::ReplicatedBackupReport, data: &Path) -> String {
    let mut text = String::new();
    let replicas::backup::ReplicatedBackupReport { taken, vault, vaults } = report;
    for replica in vaults.iter().filter(|replica| replica.made) {
        let what = if replica.vault == *vault { "new vault" } else { "replica of the vault" };
        line(&mut text, format_args!("Made a {what} in {}", printable(&replica.vault)));
    }
    let good = match (taken.good, taken.whole) {
        (true, true) => "good",
        (true, false) => "good, NOT WHOLE",
        (false, _) => "NOT GOOD",
    };
    line(&mut text, format_args!("Snapshot {} is {} ({good})", taken.snapshot.id, taken.state));
    let (entries, bytes) = (entries(taken.entries), BinaryBytes(taken.bytes));
    line(&mut text, format_args!("  holds    {entries}, {bytes}, of {}", path(data)));
    let (new, took) = (BinaryBytes(taken.uploaded_bytes), took(taken.seconds, taken.traffic));
    line(&mut text, format_args!("  new      {new} written to {} in {took}", printable(vault)));
    for replica in vaults.iter().filter(|replica| replica.vault != *vault || replica.copied_snapshots > 0) {
        let name = printable(&replica.vault);
        let bytes = BinaryBytes(replica.copied_bytes);
        let snapshots = count_of(replica.copied_snapshots, "snapshot");
        let copied = format!("{bytes} copied to {name}, {snapshots}");
        let what = if replica.holds { format!("  and      {copied}") } else { format!("  NOT IN   {name}") };
        line(&mut text, format_args!("{what}"));
    }
    if !taken.databases.is_empty() {
        line(&mut text, format_args!("  sqlite   {}", databases(&taken.databases)));
    }
    if !taken.warnings.is_empty() {
        line(&mut text, format_args!("  warnings {}", taken.warnings.len()));
    }
    let snapshot = Some(taken.snapshot.id.to_string());
    let commands = RestoreCommand::with_volumes(Some(vault), data, snapshot, |volume| taken.mounts.contains(volume));
    for (command, word) in commands.iter().zip(["restore"].into_iter().chain(std::iter::repeat("volume "))) {
        line(&mut text, format_args!("  {word}  {command}"));
    }
    text
}

/// Says which vaults do not hold a snapshot and why, a line each.
pub fn lacking_vaults(report: &replicas::backup::ReplicatedBackupReport) -> Vec<String> {
    let line = |replica: &ReplicaReport| {
        let why = replica.why.as_ref()?;
        Some(format!("the vault {} does not hold the snapshot: {}", printable(&replica.vault), printable(why)))
    };
    report.vaults.iter().filter_map(line).collect()
}

/// Says which vaults were made.
pub fn init(places: &[InitReport]) -> String {
    let mut text = String::new();
    let other = places.iter().any(|place| !place.made);
    for (at, place) in places.iter().enumerate().filter(|(_, place)| place.made) {
        let what = if at == 0 && !other { "new, empty vault" } else { "replica of the vault" };
        line(&mut text, format_args!("Made a {what} in {}", printable(&place.vault)));
    }
    text
}

/// Describes what was copied.
pub fn copied(done: &Copied) -> String {
    let mut text = String::new();
    let Copied { report, .. } = done;
    let (from, to) = (printable(&done.from), printable(&done.to));
    if done.made {
        line(&mut text, format_args!("Made a replica of the vault in {to}"));
    }
    let snapshots = count_of(report.snapshots.len() as u64, "snapshot");
    line(&mut text, format_args!("Copied {snapshots} from {from} to {to} in {}", seconds(report.seconds)));
    let (objects, there) = (count_of(report.objects, "object"), count_of(report.objects_there, "object"));
    line(&mut text, format_args!("  new      {objects}, {}", BinaryBytes(report.bytes)));
    if report.objects_there > 0 || report.snapshots_there > 0 {
        let (bytes, snapshots) = (BinaryBytes(report.bytes_there), report.snapshots_there);
        let roots = if snapshots > 0 { format!(", {}", count_of(snapshots, "snapshot")) } else { String::new() };
        line(&mut text, format_args!("  there    {there}, {bytes}{roots}: not sent again"));
    }
    for lost in &report.not_copied {
        line(&mut text, format_args!("  NOT COPIED {}: {}", named(&lost.snapshot), printable(&lost.why)));
    }
    for hurt in &report.hurt {
        line(&mut text, format_args!("  NOT WHOLE  {}: {}", named(&hurt.snapshot), printable(&hurt.why)));
    }
    text
}

/// Says how many databases there are, and how they were taken.
fn databases(databases: &[DatabaseRecord]) -> String {
    let count = |which: &dyn Fn(&DatabaseRecord) -> bool| databases.iter().filter(|d| which(d)).count();
    let checked = |failed| count(&|d| d.check.as_ref().is_some_and(|check| check.failed.is_some() == failed));
    let (raw, sound, failed) = (count(&|d| d.taken == CaptureMethod::Raw), checked(false), checked(true));
    let mut text = count_of(databases.len() as u64, "database");
    for (count, what) in [(raw, "raw, unchecked"), (sound, "checked"), (failed, "FAILED THE CHECK")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// Says why a snapshot is not good, a line each.
pub fn not_good(report: &backup::BackupReport) -> Vec<String> {
    let mut lines = bad_state(report);
    if report.good {
        lines.extend(problem_lines("could not back up", &report.errors));
        lines.extend(stale(&report.stale));
        lines.extend(problem_lines("may be torn:", &report.torn));
    }
    if report.databases.iter().any(DatabaseRecord::failed) {
        lines.push(
            "a database failed its check; the snapshot is kept but never restored unasked: `lastgood restore` takes the \
             newest one before it"
                .into(),
        );
    }
    lines
}

/// Says which file is in a snapshot as it was before, in one line, and how many more there are.
fn stale(stale: &[Stale]) -> Option<String> {
    let first = stale.first()?;
    let more = more(stale.len());
    let (path, since) = (entry_name(first.path.bytes()), time(first.since));
    Some(format!("{path} is in the snapshot as of {since}, and not as it is now: {}{more}", printable(&first.why)))
}

/// Says of how many more something is true, with the verb for one or for many.
pub fn more_of(count: usize, one: &str, many: &str) -> String {
    format!("{count} more {}", if count == 1 { one } else { many })
}

/// Says how many more there are than the first, which was named.
fn more(all: usize) -> String {
    if all > 1 { format!(", and {} more (--json names them all)", all - 1) } else { String::new() }
}

fn bad_state(report: &backup::BackupReport) -> Vec<String> {
    match report.state {
        SnapshotState::Complete => Vec::new(),
        SnapshotState::Partial => problem_lines("could not back up", &report.errors),
        SnapshotState::Suspect if report.diverged => vec![format!(
            "{}. The snapshot is kept, but never restored unasked. If this directory is the one that goes on, \
             `lastgood backup --take-over` makes its data the newest; if not, `lastgood restore` replaces it",
            printable(report.suspect.as_deref().unwrap_or("the data directory has diverged"))
        )],
        SnapshotState::Suspect => vec![format!(
            "{}. The snapshot is kept, but never restored unasked. If the directory is as it should be, \
             `lastgood backup --accept-shrink` takes one that is",
            printable(report.suspect.as_deref().unwrap_or("it looks like an accident"))
        )],
    }
}

/// Lists problems, a line each, and how many more there are.
pub fn problem_lines(what: &str, problems: &[Problem]) -> Vec<String> {
    let line = |p: &Problem| format!("{what} {}: {}", entry_name(p.path.bytes()), printable(&p.why));
    let mut lines: Vec<_> = problems.iter().take(PROBLEMS).map(line).collect();
    if problems.len() > PROBLEMS {
        lines.push(format!("{what} {} more; --json names them all", problems.len() - PROBLEMS));
    }
    lines
}

/// Describes what was restored, `from` which of several vaults, and where the previous content was moved.
pub fn restore(report: &restore::RestoreReport, from: Option<&str>, now: Timestamp) -> String {
    let mut text = String::new();
    let taken = report.snapshot.time;
    let target = path(&report.target);
    line(&mut text, format_args!("Restored {target} from snapshot {}", report.snapshot.id));
    line(&mut text, format_args!("  taken    {}, {} ago", time(taken), age(now, taken)));
    if let Some(from) = from {
        line(&mut text, format_args!("  from     {}", printable(from)));
    }
    let (entries, files, bytes) = (entries(report.entries), count_of(report.files, "file"), BinaryBytes(report.bytes));
    let took = took(report.seconds, report.traffic);
    line(&mut text, format_args!("  holds    {entries} ({files}), {bytes}; took {took}"));
    if let Some(aside) = &report.moved_aside {
        line(
            &mut text,
            format_args!("  before   what was there is in {}; delete it when nothing is missing", path(aside)),
        );
    }
    for kept in report.kept.iter().take(KEPT) {
        line(
            &mut text,
            format_args!("  stays    {} is as it was: something is mounted there", entry_name(kept.bytes())),
        );
    }
    if report.moved_aside.is_some() {
        line(&mut text, format_args!("  restart  programs that use it: they go on with the old files until then"));
    }
    for user in report.in_use.iter().take(IN_USE) {
        let file = path(&user.file);
        line(&mut text, format_args!("  IN USE   {} (process {}) has {file} open", printable(&user.program), user.pid));
    }
    for side in &report.moved_beside {
        let why = "it would have brought the old database's data back";
        line(&mut text, format_args!("  before   {} is there too: {why}", entry_name(side.bytes())));
    }
    if let Some(first) = report.stale.first() {
        let (path, since, why) = (entry_name(first.path.bytes()), time(first.since), printable(&first.why));
        line(&mut text, format_args!("  older    {path} is as of {since}: {why}{}", more(report.stale.len())));
    }
    for (what, list) in [("missing", &report.missing), ("torn?  ", &report.torn)] {
        if let Some(first) = list.first() {
            let (path, why) = (entry_name(first.path.bytes()), printable(&first.why));
            line(&mut text, format_args!("  {what}  {path}: {why}{}", more(list.len())));
        }
    }
    if let Some(newest) = &report.instead_of {
        let what = "is newer and could not be had whole; what was restored is OLDER than it";
        line(&mut text, format_args!("  OLDER    {} {what}", named(newest)));
    }
    for newer in report.passed_over.iter().take(PASSED_OVER) {
        let (newer, why) = (named(&newer.snapshot), printable(&newer.why));
        line(&mut text, format_args!("  newer    {newer} was passed over: {why}"));
    }
    if let Some(more @ 1..) = report.passed_over.len().checked_sub(PASSED_OVER) {
        line(
            &mut text,
            format_args!(
                "  newer    {} passed over; `--json` and the run's report name them",
                more_of(more, "was", "were")
            ),
        );
    }
    if !report.not_restored.is_empty() {
        line(&mut text, format_args!("  LEFT OUT {}", self::entries(report.not_restored.len() as u64)));
    }
    text
}

/// Returns a path of this machine on one line.
pub fn path(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// Returns a snapshot's id and time, by which a person finds it again.
fn named(snapshot: &SnapshotName) -> String {
    format!("{} of {}", snapshot.id, time(snapshot.time))
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Returns a number of entries, in words.
pub fn entries(count: u64) -> String {
    format!("{} {}", HumanCount(count), if count == 1 { "entry" } else { "entries" })
}

/// Returns the time that it took and, for a bucket, the number of requests.
fn took(time: f64, traffic: Option<Traffic>) -> String {
    let Some(Traffic { requests, retries, .. }) = traffic else { return seconds(time) };
    let again = if retries > 0 { format!(", {retries} of them retries") } else { String::new() };
    format!("{} by {}{again}", seconds(time), count_of(requests.total(), "request"))
}

fn seconds(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.1} s") } else { format!("{:.0} min", seconds / 60.0) }
}

/// Returns how long ago something was, in the two largest units.
fn age(now: Timestamp, then: Timestamp) -> String {
    let minutes = (now.as_second() - then.as_second()).max(0) / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, 0) => "less than a minute".into(),
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    // Writing to a `String` does not fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let then: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        for (now, text) in [
            ("2026-11-21T10:00:59Z", "less than a minute"),
            ("2026-11-21T10:05:00Z", "5 min"),
            ("2026-11-21T13:05:00Z", "3 h 5 min"),
            ("2026-11-23T13:05:00Z", "2 d 3 h"),
            ("2026-11-20T10:00:00Z", "less than a minute"),
        ] {
            assert_eq!(age(now.parse().unwrap(), then), text);
        }
    }
}
