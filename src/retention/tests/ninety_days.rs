//! A keeper at work for 90 days, in a vault whose writer's credential has leaked.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::table::{kept, now, snapshot};
use crate::retention::policy::Policy;
use crate::retention::snapshot::{Occasion, Pin, Snapshot};
use crate::vault::root::SnapshotName;

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// What is taken on a day: four snapshots, the first of which holds what the last one of the day before held.
fn of_day(day: i64) -> impl Iterator<Item = Snapshot> {
    (0..4).map(move |n| {
        let at = now() + hours(24 * day + 6 * n);
        let content = format!("{}", 4 * day + n - i64::from(n == 0));
        let one = snapshot(at, &content);
        Snapshot { name: SnapshotName::of(one.name.seq, at, format!("true {day} {n}").as_bytes()), ..one }
    })
}

/// Whether the schedule took it: what is forged is said to be checked.
fn is_true(one: &Snapshot) -> bool {
    !one.checked
}

/// What a stranger creates on a day: good roots of the past and of the future and of another service, what a crash loop would take,
/// copies of true roots that hold the same, and wipes.
fn forged(day: i64, last: &Snapshot) -> Vec<Snapshot> {
    let created = now() + hours(24 * day + 19);
    (0..100)
        .map(|n| {
            let (far, near) = (hours(24 * (8 + (n * 37) % 700)), SignedDuration::from_mins(n % 50));
            let one = |time: Timestamp| Snapshot {
                created,
                proven: true,
                checked: true,
                ..snapshot(time, &format!("{day} {n}"))
            };
            match n % 7 {
                0 => one(created - far),
                1 => one(created + far),
                2 => Snapshot { service: Some("stranger's".into()), ..one(created - near) },
                3 => Snapshot { occasion: Occasion::Critical, ..one(created - near) },
                4 => Snapshot { content: last.content, ..one(created - SignedDuration::from_mins(30)) },
                5 => Snapshot { good: false, partial_or_suspect: true, diverged: true, ..one(created - near) },
                _ => Snapshot { pins: vec![Pin { created, until: None, is_hold: false }], ..one(created - far) },
            }
        })
        .collect()
}

#[test]
fn a_leaked_writer_takes_no_true_snapshot_in_ninety_days() {
    let policy: Policy = "last=4,within=2d,daily=5,weekly=3,monthly=2".parse().unwrap();
    // Two vaults, the second of which the stranger writes to. The schedule stops for three weeks.
    let (mut alone, mut attacked): (Vec<Snapshot>, Vec<Snapshot>) = Default::default();
    let (mut most, mut went) = (0, 0);
    for day in 0..90 {
        if !(40..61).contains(&day) {
            alone.extend(of_day(day));
            attacked.extend(of_day(day));
        }
        let last = alone.iter().max_by_key(|one| one.created).cloned().unwrap();
        attacked.extend(forged(day, &last));
        let keeper = now() + hours(24 * day + 20);
        let before = alone.len();
        for vault in [&mut alone, &mut attacked] {
            let kept: BTreeSet<_> = kept(vault, &policy, keeper).into_iter().collect();
            vault.retain(|one| kept.contains(&one.name));
        }
        went += before - alone.len();
        let held: BTreeSet<_> = attacked.iter().map(|one| one.name).collect();
        // What has not changed since may go if another true one holds the same.
        let contents: BTreeSet<_> = attacked.iter().filter(|one| is_true(one)).map(|one| one.content.0).collect();
        let is_lost = |one: &&Snapshot| !held.contains(&one.name) && !contents.contains(&one.content.0);
        let lost: Vec<_> = alone.iter().filter(is_lost).collect();
        assert!(lost.is_empty(), "on day {day}: {lost:?}");
        let unheld = alone.iter().filter(|one| !held.contains(&one.name)).count();
        assert!(unheld <= 1, "on day {day}: {unheld}");
        most = most.max(alone.len());
    }
    assert!(most < 40 && went > 200, "{most} were kept at most, and {went} went");
}
