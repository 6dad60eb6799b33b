//! What holds for any snapshots: an adversary, time and a second look take nothing.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::sample::select;

use super::table::{kept, now, says, snapshot};
use crate::retention::plan::{TOGETHER, plan};
use crate::retention::policy::Policy;
use crate::retention::reason::{Keep, Verdict};
use crate::retention::snapshot::{Occasion, Pin, Snapshot};
use crate::retention::span::Span;
use crate::vault::hex::Hash;
use crate::vault::root::SnapshotName;

const OCCASIONS: [Occasion; 6] =
    [Occasion::Schedule, Occasion::Manual, Occasion::Critical, Occasion::Shutdown, Occasion::Start, Occasion::Other];

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// A policy with any of the rules.
fn policies() -> impl Strategy<Value = Policy> {
    let span = || prop::option::of((0..400u32).prop_map(Span::hours));
    let count = || prop::option::weighted(0.4, 1..6u32);
    (count(), span(), prop::array::uniform5(count()), span(), span()).prop_map(
        |(last, within, buckets, critical, bad)| Policy { last, within, buckets, critical, bad, ..Policy::default() },
    )
}

/// When a snapshot comes here after its own time, in minutes.
fn lags() -> impl Strategy<Value = i64> {
    prop_oneof![6 => 0..60i64, 1 => 61..9000i64, 1 => 9000..900_000i64]
}

/// Any snapshot whose time is some minutes before the tests' time, and which was there by then.
fn any_snapshot(minutes: std::ops::Range<i64>, lag: impl Strategy<Value = i64>) -> impl Strategy<Value = Snapshot> {
    let of = (select(vec!["shop", "blog"]), select(vec!["/data", "/other"]), select(OCCASIONS.to_vec()));
    let is = (0..10u8, 0..4u8, any::<bool>(), any::<bool>(), any::<bool>());
    let pin = prop::option::weighted(0.1, (0..300i64, prop::option::of(-300..300i64), any::<bool>()));
    // Few hours and contents, so that there are equal ones.
    (minutes, lag, of, is, pin, 0..12u8, any::<u64>()).prop_map(
        |(minutes, lag, (service, data, occasion), (state, content, stale, checked, proven), pin, odd, id)| {
            let time = now() - SignedDuration::from_mins(minutes);
            let one = snapshot(time, &id.to_string());
            let at = |days: i64| now() - hours(24 * days);
            Snapshot {
                name: SnapshotName { seq: if odd == 0 { id } else { one.name.seq }, ..one.name },
                created: (time + SignedDuration::from_mins(lag)).min(now()),
                service: Some(service.into()),
                data: data.into(),
                occasion,
                good: state > 2,
                partial_or_suspect: state < 2,
                diverged: state == 0,
                whole: !stale,
                checked,
                proven,
                content: if content == 0 { one.content } else { Hash::of(&[content]) },
                pins: pin
                    .map(|(created, until, is_hold)| Pin { created: at(created), until: until.map(at), is_hold })
                    .into_iter()
                    .collect(),
            }
        },
    )
}

/// A true history of some days, or of two years.
fn histories() -> impl Strategy<Value = Vec<Snapshot>> {
    prop_oneof![
        prop::collection::vec(any_snapshot(0..15_000, lags()), 0..60),
        prop::collection::vec(any_snapshot(0..1_000_000, lags()), 0..60),
    ]
}

fn with<'s>(history: &'s [Snapshot], forged: &'s [Snapshot]) -> Vec<Snapshot> {
    // Forged first: the order in which they are given is of no matter.
    forged.iter().chain(history).cloned().collect()
}

/// Which of `before` are not in `after`.
fn lost(before: &[SnapshotName], after: &[SnapshotName]) -> Vec<SnapshotName> {
    let after: BTreeSet<_> = after.iter().collect();
    before.iter().filter(|name| !after.contains(name)).copied().collect()
}

fn last_came(history: &[Snapshot]) -> Timestamp {
    history.iter().map(|one| one.created).max().unwrap_or(now())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn roots_of_the_future_of_long_ago_and_of_others_take_nothing(
        history in histories(),
        policy in policies(),
        forged in prop::collection::vec((any_snapshot(-900_000..900_000, 0..1i64), 0..3u8, 0..90i64), 0..80),
    ) {
        let came = last_came(&history) + TOGETHER.duration();
        let later = came + hours(24 * 100);
        let forged: Vec<_> = forged.into_iter().map(|(mut one, kind, days)| {
            one.created = came + hours(24 * days) + SignedDuration::from_secs(1);
            match kind {
                // Of another service, at any time at all.
                0 => one.service = Some("forged".into()),
                // Of long ago, which came here too late to displace anything.
                1 => one.name.time = one.name.time.min(one.created - hours(24 * 7 + 1)),
                _ => one.name.time = one.name.time.max(one.created + hours(1) + SignedDuration::from_secs(1)),
            }
            one
        }).collect();
        let all = with(&history, &forged);
        for at in [now(), later, later + hours(24 * 1000)] {
            prop_assert_eq!(lost(&kept(&history, &policy, at), &kept(&all, &policy, at)), vec![]);
        }
    }

    #[test]
    fn a_flood_at_events_takes_nothing_of_the_history(
        history in histories(),
        policy in policies(),
        flood in prop::collection::vec((any_snapshot(0..15_000, lags()), select(OCCASIONS[2..].to_vec())), 0..80),
    ) {
        let flood: Vec<_> = flood.into_iter().map(|(one, occasion)| Snapshot { occasion, ..one }).collect();
        let all = with(&history, &flood);
        // Which one is a day older than the newest depends on what is the newest: of all, another one may be it now.
        let other_reason = |why: &Keep| *why != Keep::NewestDayOlder;
        let before = plan(&history, &policy, now());
        let kept_before = before.judged.iter().filter(|judged| {
            let is_kept = matches!(&judged.verdict, Verdict::Keep(why) if why.iter().any(other_reason));
            judged.snapshot.occasion.is_routine() && is_kept
        });
        let kept_before: Vec<_> = kept_before.map(|judged| judged.snapshot.name).collect();
        let lost = lost(&kept_before, &kept(&all, &policy, now()));
        prop_assert_eq!(lost, vec![]);
    }

    #[test]
    fn a_flood_of_bad_and_diverged_ones_takes_no_good_one(
        history in histories(),
        policy in policies(),
        flood in prop::collection::vec(any_snapshot(0..15_000, lags()), 0..80),
    ) {
        let flood: Vec<_> = flood.into_iter().map(|one| Snapshot { good: false, partial_or_suspect: true, ..one }).collect();
        let all = with(&history, &flood);
        let good: BTreeSet<_> = history.iter().filter(|one| one.good).map(|one| one.name).collect();
        let mut lost = lost(&kept(&history, &policy, now()), &kept(&all, &policy, now()));
        lost.retain(|name| good.contains(name));
        prop_assert_eq!(lost, vec![]);
    }

    #[test]
    fn a_flood_of_unchanged_ones_takes_no_choice_of_last_and_buckets(
        history in histories(),
        policy in policies(),
        hours_between in prop::collection::vec(0..48i64, 0..60),
    ) {
        let mut history = history;
        let mut at = last_came(&history) + SignedDuration::from_secs(1);
        let newest = snapshot(at, "the newest");
        history.push(newest.clone());
        let flood: Vec<_> = hours_between.iter().enumerate().map(|(n, after)| {
            at = at + hours(*after) + SignedDuration::from_secs(1);
            let one = snapshot(at, &format!("unchanged {n}"));
            Snapshot { created: at, content: newest.content, service: newest.service.clone(), data: newest.data.clone(), ..one }
        }).collect();
        let all = with(&history, &flood);
        let later = at + hours(1);
        let before = plan(&history, &policy, later);
        let is_unique = |one: &Snapshot| history.iter().filter(|other| other.content == one.content).count() == 1;
        let by_choice = ["last=", "hourly", "daily", "weekly", "monthly", "yearly"];
        let chosen = before.judged.iter().filter(|one| {
            let by_age = one.snapshot.occasion.is_routine() && is_unique(one.snapshot);
            let is_chosen = by_choice.iter().any(|text| says(&one.verdict, text));
            one.verdict.is_kept() && (is_chosen || by_age && (says(&one.verdict, "within=") || says(&one.verdict, "bad=")))
        });
        let chosen: Vec<_> = chosen.map(|judged| judged.snapshot.name).collect();
        prop_assert_eq!(lost(&chosen, &kept(&all, &policy, later)), vec![]);
    }

    #[test]
    fn time_alone_lets_nothing_go(history in histories(), policy in policies(), days in 0..1000i64) {
        let later = now() + hours(24 * days);
        prop_assert_eq!(plan(&history, &policy, now()), plan(&history, &policy, later));
    }

    #[test]
    fn a_second_plan_loses_no_content_and_lets_only_unchanged_ones_go(history in histories(), policy in policies()) {
        let first = kept(&history, &policy, now());
        let names: BTreeSet<_> = first.iter().copied().collect();
        let left: Vec<_> = history.iter().filter(|one| names.contains(&one.name)).cloned().collect();
        let second = plan(&left, &policy, now());
        for judged in second.judged.iter().filter(|judged| !judged.verdict.is_kept()) {
            prop_assert!(says(&judged.verdict, "nothing had changed"), "{:?}", judged);
        }
        let contents = |names: &[SnapshotName]| -> BTreeSet<_> {
            let names: BTreeSet<_> = names.iter().collect();
            let held = history.iter().filter(|one| one.good && one.occasion.is_routine() && names.contains(&one.name));
            held.map(|one| (one.service.clone(), one.data.clone(), one.content)).collect()
        };
        prop_assert_eq!(contents(&first), contents(&kept(&left, &policy, now())));
    }

    #[test]
    fn the_order_in_which_they_are_given_is_of_no_matter(history in histories(), policy in policies()) {
        let reversed: Vec<_> = history.iter().rev().cloned().collect();
        let mut one = kept(&history, &policy, now());
        let mut other = kept(&reversed, &policy, now());
        one.sort();
        other.sort();
        prop_assert_eq!(one, other);
    }
}
