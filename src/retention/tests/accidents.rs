//! Accidents and attacks that took snapshots from others.

use std::fmt::Write;

use jiff::SignedDuration;

use super::table::{check, check_at, kept, now, snapshot, snapshots, time};
use crate::retention::plan::plan;
use crate::retention::policy::Policy;
use crate::retention::snapshot::{Occasion, Snapshot};

fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

#[test]
fn a_scheduler_that_stopped_and_a_clock_ahead_let_nothing_go() {
    let table = "
        60d | keep: last=1; within=7d; newest good; newest whole; newest scheduled or manual
        61d | keep: within=7d; newest that is a day older than the newest
        66d | keep: within=7d
        66d partial | keep: bad=7d
        66d critical | keep: critical=7d
        100d pin=149d | keep
        67d | go
        ";
    check("last=1", table);
    check_at(time("+365d"), "last=1", table);
}

#[test]
fn a_crash_loop_leaves_history_alone() {
    let mut table = String::new();
    for n in 0..200 {
        let kind = ["critical", "shutdown", "start", "critical partial", "diverged critical"][n % 5];
        writeln!(table, "{n}m {kind} | keep").unwrap();
    }
    // The schedule stopped 60 days ago: what the crash loop takes makes nothing in the history older.
    table += "
        60d | keep: last=2; within=7d; daily: newest of its day; newest good; newest whole; newest scheduled or manual; newest that is a day older than the newest
        66d | keep: last=2; within=7d; newest that is a day older than the newest
        66d1h | keep: within=7d
        66d2h suspect | keep: bad=7d
        200d | go
        ";
    check("last=2,daily=1", &table);
}

#[test]
fn unchanged_ones_fill_neither_last_nor_buckets() {
    let mut table = String::from("0 holds=b | keep: newest good; newest whole; newest scheduled or manual\n");
    for n in 1..100 {
        let verdict = if n == 24 { "keep: newest that is a day older than the newest" } else { "go" };
        writeln!(table, "{n}h holds=b | {verdict}").unwrap();
    }
    table += "
        100h holds=b | keep: last=2; daily: newest of its day
        20d holds=a | keep: last=2; daily: newest of its day
        30d | go: 0 older than the newest; not one of the last 2; 2 days with newer ones
        ";
    check("last=2,daily=2,within=0", &table);
}

#[test]
fn a_schedule_in_which_nothing_changes_makes_no_history_older() {
    check(
        "last=1",
        "
        0 holds=a | keep
        6d holds=a | keep: within=7d; newest that is a day older than the newest
        7d holds=a | go: 7d older than the newest; nothing had changed
        20d holds=a | keep: last=1; within=7d
        26d holds=b | keep: within=7d
        26d30m holds=b | keep: within=7d
        26d1h partial | keep: bad=7d
        27d | go: 7d older than the newest; not one of the last 1
        27d partial | go
        ",
    );
}

#[test]
fn what_only_a_crash_captured_first_is_a_version_all_the_same() {
    // The scheduled snapshot holds what the critical one before it holds. That fills nothing, and so this one does.
    check(
        "last=2,within=0",
        "
        0 | keep: last=2; newest good; newest whole; newest scheduled or manual
        2d holds=b | keep: last=2; newest that is a day older than the newest
        2d1h holds=b critical | go
        3d holds=a | go
        ",
    );
    // The same holds for one that is not good.
    check(
        "last=2,within=0",
        "
        0 | keep: last=2; newest good; newest whole; newest scheduled or manual
        2d holds=b | keep: last=2; newest that is a day older than the newest
        2d1h holds=b unsound | go
        3d holds=a | go
        ",
    );
    // And so is what somebody went back to.
    check(
        "last=2,within=0",
        "0 | keep\n1d holds=a | keep: last=2; newest that is a day older than the newest\n1d1h holds=a rollback | go\n2d holds=b | go\n3d holds=a | go\n",
    );
}

#[test]
fn copied_imported_and_forged_ones_are_judged_among_themselves() {
    check(
        "last=1,daily=1,within=0",
        "
        0 | keep: last=1; daily: newest of its day; newest good; newest whole; newest scheduled or manual
        5h came=3h59m | go
        2h came=0 | keep: last=1; daily: newest of its day; newest good; newest whole; newest scheduled or manual
        4h came=0 | go
        3d | keep: newest that is a day older than the newest
        9d came=1h | keep: newest that is a day older than the newest
        ",
    );
    // An hour is the limit.
    check(
        "last=1,within=0",
        "0 | keep\n2h came=1h | go\n3h came=1h59m59s | keep: last=1; newest good; newest whole; newest scheduled or manual\n",
    );
}

#[test]
fn their_durations_count_back_from_the_newest_of_them() {
    check(
        "last=1,within=7d",
        "
        0 | keep
        500d came=1d | keep: last=1; within=7d; newest good; newest whole; newest scheduled or manual
        506d came=1d | keep: within=7d; newest that is a day older than the newest
        507d came=1d | go
        ",
    );
}

#[test]
fn what_comes_here_later_displaces_nothing_in_its_bucket_or_elsewhere() {
    let archive = "
        500d came=30d | keep: last=1; within=7d; daily: newest of its day; newest good; newest whole; newest scheduled or manual
        501d came=30d | keep: within=7d; daily: newest of its day; newest that is a day older than the newest
        506d came=30d | keep: within=7d
        520d came=30d | go
        ";
    check("last=1,daily=2", archive);
    let mut with_forged = archive.to_owned();
    for days in [400, 410, 480, 499] {
        for hours in 0..30 {
            with_forged += &format!("{days}d{hours}h came={}h | keep\n", 690 - hours);
        }
    }
    with_forged += "500d came=28d23h59m holds=forged | keep\n499d23h59m came=28d | keep\n";
    let snapshots = snapshots(&with_forged);
    let planned = plan(&snapshots, &policy("last=1,daily=2"), now());
    let alone = super::table::snapshots(archive);
    let before = plan(&alone, &policy("last=1,daily=2"), now());
    assert_eq!(before.judged.len(), 4);
    for (one, other) in before.judged.iter().zip(&planned.judged) {
        assert_eq!(one.verdict, other.verdict, "{:?}", one.snapshot);
    }
}

#[test]
fn a_replica_that_is_fed_by_the_week_goes_on() {
    // What comes within a week of its own time displaces what came before it, or replicas would grow for ever.
    check(
        "daily=2,within=0",
        "
        2h came=0 | keep: daily: newest of its day; newest good; newest whole; newest scheduled or manual
        1d came=0 | keep: daily: newest of its day
        3d came=0 | keep: newest that is a day older than the newest
        40d came=35d | go: 0 older than the newest; 2 days with newer ones
        50d came=30d | go: 0 older than the newest; 2 days with newer ones
        ",
    );
    // It came when the others were there, and too late to displace them.
    check(
        "daily=1,within=0",
        "20d came=10d | keep\n25d came=20d | keep: daily: newest of its day; newest good; newest whole; newest scheduled or manual\n",
    );
}

/// Two years of snapshots, twice a day.
fn two_years() -> Vec<Snapshot> {
    let at = |n: i64| now() - SignedDuration::from_hours(12 * n);
    let mut all: Vec<_> = (0..2 * 730).map(|n| snapshot(at(n), &n.to_string())).collect();
    for (n, one) in all.iter_mut().enumerate() {
        match n % 50 {
            7 => one.occasion = Occasion::Critical,
            8 => (one.good, one.partial_or_suspect) = (false, true),
            9 => one.whole = false,
            10..20 => one.checked = true,
            _ => {}
        }
    }
    all
}

#[test]
fn a_copy_of_two_years_keeps_what_the_original_keeps() {
    let original = two_years();
    for (text, least) in [
        ("last=10,within=48h,daily=30,monthly=12", 40),
        ("hourly=24,weekly=10,yearly=3", 20),
        ("last=3,within=0,critical=200d,bad=100d", 10),
    ] {
        let policy = policy(text);
        let expected = kept(&original, &policy, now());
        // Copied in some hours, oldest first, which is what copies do, and newest first.
        for oldest_first in [true, false] {
            let later = now() + SignedDuration::from_hours(2);
            let copied = original.iter().enumerate().map(|(n, one)| {
                let seconds = 40 * if oldest_first { 1460 - n as i64 } else { n as i64 };
                Snapshot { created: later + SignedDuration::from_secs(seconds), ..one.clone() }
            });
            let copied: Vec<_> = copied.collect();
            let much_later = now() + SignedDuration::from_hours(1000);
            assert_eq!(kept(&copied, &policy, much_later), expected, "{text}, {oldest_first}");
        }
        assert!((least..200).contains(&expected.len()), "{text} keeps {}", expected.len());
    }
}

#[test]
fn a_root_of_the_future_moves_no_duration() {
    // The keeper's clock is a year ahead, and a forged root names a time in between.
    let table = "0 | keep\n1d | keep\n6d | keep: within=7d\n+200d came=0 | keep: from the future\n";
    for clock in ["0", "+100d", "+365d"] {
        check_at(time(clock), "last=1", table);
    }
}
