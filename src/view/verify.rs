//! Reports of verifications as text for people.

use indicatif::BinaryBytes;

use super::{PROBLEMS, line, named, took};
use crate::replicas::verify::Verified;
use crate::text::{count_of, entry_name, printable};
use crate::verify::{Looked, VerifyReport};

/// Describes what was verified in each of several vaults.
pub fn verified(vaults: &[Verified]) -> String {
    let mut text = String::new();
    for Verified { vault, report, error, .. } in vaults {
        line(&mut text, format_args!("{}:", printable(vault)));
        match report {
            Some(report) => text.push_str(&verify(report)),
            None => line(&mut text, format_args!("NOT VERIFIED: {}", printable(error.as_deref().unwrap_or_default()))),
        }
    }
    text
}

/// Describes what was verified.
pub fn verify(report: &VerifyReport) -> String {
    let mut text = String::new();
    let (snapshots, objects) = (count_of(report.snapshots, "snapshot"), count_of(report.objects, "object"));
    let (bytes, took) = (BinaryBytes(report.bytes), took(report.seconds, report.traffic));
    let mut verdict = match report.damage.len() {
        0 => "no damage".to_owned(),
        n => format!("{n} DAMAGED"),
    };
    if !report.newer_format.is_empty() {
        verdict.push_str(&format!(", {} NOT VERIFIED: of a newer format", report.newer_format.len()));
    }
    let checkpoints = match report.checkpoints {
        0 => String::new(),
        n => format!(", {}", count_of(n, "checkpoint")),
    };
    line(&mut text, format_args!("Verified {snapshots}{checkpoints}, {objects}, {bytes}, in {took}: {verdict}"));
    for newer in &report.newer_format {
        line(&mut text, format_args!("  {}: {}", printable(&newer.object), printable(&newer.why)));
    }
    for damage in &report.damage {
        let (object, why) = (printable(&damage.object), printable(&damage.why));
        // The error behind it names the object once more.
        let why = why.strip_prefix(&format!("could not verify {object}: ")).unwrap_or(&why);
        line(&mut text, format_args!("  {object}: {why}"));
        for snapshot in &damage.snapshots {
            line(&mut text, format_args!("    hurts {}", named(snapshot)));
        }
    }
    if let Some(newest) = report.newest_good.filter(|_| !report.damage.is_empty()) {
        let hurt = match newest.hurt {
            true => "is HURT: the next backup stores again what it has lost, as far as it is still there",
            false => "is not hurt",
        };
        line(&mut text, format_args!("  {}, the newest good snapshot, {hurt}", named(&newest.snapshot)));
    }
    if report.unused > 0 {
        let (packs, bytes) = (count_of(report.unused, "pack"), BinaryBytes(report.unused_bytes));
        let of = "no snapshot or checkpoint names: from a backup that is under way, or from backups that were cut off";
        line(&mut text, format_args!("  {packs}, {bytes}, that {of}"));
    }
    for doubt in &report.doubts {
        for doubted in &doubt.packs {
            let state = match doubted.state {
                Looked::Damaged => "is damaged",
                Looked::Sound => "is sound",
                Looked::Unnamed => "is named by no snapshot",
            };
            line(&mut text, format_args!("  {} stays a doubt: {} {state}", printable(&doubt.object), doubted.name));
        }
    }
    for gap in report.gaps.iter().take(PROBLEMS) {
        line(&mut text, format_args!("  not here: {}, which a later snapshot was made from", named(gap)));
    }
    if report.gaps.len() > PROBLEMS {
        line(&mut text, format_args!("  not here: {} more; --json names them all", report.gaps.len() - PROBLEMS));
    }
    if let Some(first) = report.databases.first() {
        let failed = report.databases.iter().filter(|database| database.failed.is_some()).count();
        let verdict = if failed == 0 { "all sound".to_owned() } else { format!("{failed} FAILED") };
        let (count, snapshot) = (count_of(report.databases.len() as u64, "database"), named(&first.snapshot));
        line(&mut text, format_args!("Restored and checked {count} of {snapshot}: {verdict}"));
        for database in &report.databases {
            if let Some(why) = &database.failed {
                line(&mut text, format_args!("  {}: {}", entry_name(database.path.bytes()), printable(why)));
            }
        }
    }
    text
}
