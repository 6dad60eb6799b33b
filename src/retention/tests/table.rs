//! Snapshots and verdicts as tables of text.
//!
//! A line is a snapshot: how long before the tests' time it was taken (`3d`, `+2h` is after it), then words, then `|` and its verdict,
//! as it is shown. Without a verdict after `keep` or `go`, only that is compared.

use jiff::{SignedDuration, Timestamp};

use crate::retention::plan::plan;
use crate::retention::policy::Policy;
use crate::retention::reason::Verdict;
use crate::retention::snapshot::{Occasion, Pin, Snapshot};
use crate::retention::span::Span;
use crate::vault::hex::{Hash, Hex};
use crate::vault::root::SnapshotName;

/// The time at which tables are told: a Monday.
pub const NOW: &str = "2026-11-30T12:00:00Z";

pub fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// Returns a time as tables write it.
pub fn time(text: &str) -> Timestamp {
    let span = |text: &str| text.parse::<Span>().unwrap().duration();
    match text.strip_prefix('+') {
        Some(after) => now() + span(after),
        None => now() - span(text),
    }
}

/// Returns an ordinary snapshot: scheduled, good and whole, of the tests' one service, and created here a second after its own time.
pub fn snapshot(time: Timestamp, content: &str) -> Snapshot {
    let seq = u64::try_from(time.as_second()).unwrap();
    Snapshot {
        name: SnapshotName::of(seq, time, format!("{time} {content}").as_bytes()),
        created: time + SignedDuration::from_secs(1),
        service: Some("shop".into()),
        data: "/data".into(),
        occasion: Occasion::Schedule,
        good: true,
        whole: true,
        checked: false,
        proven: false,
        partial_or_suspect: false,
        diverged: false,
        content: Hash::of(content.as_bytes()),
        pins: Vec::new(),
    }
}

/// Returns the snapshot of a line, which is at a place in a table.
fn parse(line: &str, at: usize) -> Snapshot {
    let mut words = line.split_whitespace();
    let own = time(words.next().unwrap());
    let mut s = snapshot(own, &format!("line {at}"));
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "schedule" => s.occasion = Occasion::Schedule,
            "manual" => s.occasion = Occasion::Manual,
            "critical" => s.occasion = Occasion::Critical,
            "shutdown" => s.occasion = Occasion::Shutdown,
            "start" => s.occasion = Occasion::Start,
            "rollback" => s.occasion = Occasion::Other,
            "partial" | "suspect" => (s.good, s.partial_or_suspect) = (false, true),
            "diverged" => (s.good, s.partial_or_suspect, s.diverged) = (false, true, true),
            "unsound" => s.good = false,
            "stale" => s.whole = false,
            "checked" => s.checked = true,
            "proven" => s.proven = true,
            "holds" => s.content = Hash::of(value.as_bytes()),
            "came" => s.created = time(value),
            "of" => s.service = Some(value.into()),
            "in" => s.data = value.into(),
            "seq" => s.name.seq = value.parse().unwrap(),
            "pin" => s.pins.push(Pin { created: time(value), until: None, is_hold: false }),
            "until" => s.pins.last_mut().unwrap().until = Some(time(value)),
            "hold" => s.pins.push(Pin { created: time(value), until: None, is_hold: true }),
            _ => panic!("{word} in {line}"),
        }
    }
    s
}

/// Returns the snapshots of a table.
pub fn snapshots(table: &str) -> Vec<Snapshot> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.enumerate().map(|(at, line)| parse(line.split('|').next().unwrap(), at)).collect()
}

/// Plans a table at a time and compares the verdicts.
pub fn check_at(now: Timestamp, policy: &str, table: &str) {
    let policy: Policy = if policy.is_empty() { Policy::default() } else { policy.parse().unwrap() };
    let snapshots = snapshots(table);
    let planned = plan(&snapshots, &policy, now);
    let lines: Vec<_> = table.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let (mut expected, mut found) = (String::new(), String::new());
    for (line, judged) in lines.iter().zip(&planned.judged) {
        let (what, verdict) = line.split_once('|').unwrap_or_else(|| panic!("no verdict: {line}"));
        let kept = if judged.verdict.is_kept() { "keep" } else { "go" };
        let is_whole = verdict.contains(':');
        let shown = if is_whole { format!("{kept}: {}", judged.verdict) } else { kept.to_owned() };
        expected += &format!("{}| {}\n", what, verdict.trim());
        found += &format!("{}| {shown}\n", what);
    }
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

/// Plans a table and compares the verdicts.
pub fn check(policy: &str, table: &str) {
    check_at(now(), policy, table);
}

/// Returns the names of the kept ones.
pub fn kept(snapshots: &[Snapshot], policy: &Policy, now: Timestamp) -> Vec<SnapshotName> {
    let planned = plan(snapshots, policy, now);
    let kept = planned.judged.iter().filter(|judged| judged.verdict.is_kept());
    kept.map(|judged| judged.snapshot.name).collect()
}

/// Whether a verdict has a reason that begins with a text.
pub fn says(verdict: &Verdict, text: &str) -> bool {
    verdict.to_string().split("; ").any(|reason| reason.starts_with(text))
}

#[test]
fn a_table_is_read() {
    let read = snapshots("3d critical partial came=1d of=a in=/b seq=7 pin=2d until=+1d\n+2h");
    assert_eq!((read[0].occasion, read[0].good, read[0].created), (Occasion::Critical, false, time("1d")));
    assert_eq!((read[0].service.as_deref(), &*read[0].data, read[0].name.seq), (Some("a"), "/b", 7));
    assert_eq!(read[0].pins, [Pin { created: time("2d"), until: Some(time("+1d")), is_hold: false }]);
    assert_eq!(read[1].name.time, "2026-11-30T14:00:00Z".parse().unwrap());
    assert_ne!(read[0].name.id, Hex([0; 8]));
}
