//! The rules of a policy.

use super::table::{check, check_at, snapshots, time};
use crate::retention::plan::{Class, plan};
use crate::retention::policy::Policy;

#[test]
fn without_a_policy_nothing_goes() {
    check(
        "",
        "
        0 | keep: there is no policy
        400d | keep: there is no policy
        400d partial critical | keep: there is no policy
        +400d came=0 | keep: there is no policy
        ",
    );
}

#[test]
fn last_keeps_the_newest_and_seven_days_besides() {
    check(
        "last=2",
        "
        0 | keep: last=2; within=7d; newest good; newest whole; newest scheduled or manual
        1h | keep: last=2; within=7d
        2h | keep: within=7d
        1d | keep: within=7d; newest that is a day older than the newest
        6d23h | keep: within=7d
        7d | go: 7d older than the newest; not one of the last 2
        8d | go: 7d older than the newest; not one of the last 2
        ",
    );
    check(
        "last=3",
        "
        0 | keep
        20d | keep: last=3; newest that is a day older than the newest
        30d | keep: last=3
        31d | go: 7d older than the newest; not one of the last 3
        ",
    );
}

#[test]
fn within_may_say_less_in_so_many_words_and_more() {
    check(
        "last=1,within=0",
        "
        0 | keep: last=1; newest good; newest whole; newest scheduled or manual
        1h | go: 0 older than the newest; not one of the last 1
        1d | keep: newest that is a day older than the newest
        2d | go
        ",
    );
    check(
        "within=10d",
        "
        0 | keep
        1d | keep
        9d23h | keep: within=10d
        10d | go: 10d older than the newest
        ",
    );
}

#[test]
fn buckets_that_have_snapshots_keep_their_newest() {
    check(
        "daily=3,within=0",
        "
        0 | keep: daily: newest of its day; newest good; newest whole; newest scheduled or manual
        12h | go: 0 older than the newest; a newer one of that day
        12h1s | keep: daily: newest of its day
        1d | keep: newest that is a day older than the newest
        9d | keep: daily: newest of its day
        10d | go: 0 older than the newest; 3 days with newer ones
        ",
    );
    check(
        "hourly=2,weekly=2,monthly=2,yearly=2,within=0",
        "
        0 | keep
        30m | keep: hourly: newest of its hour
        40m | go: 0 older than the newest; a newer one of that hour; a newer one of that week; a newer one of that month; a newer one of that year
        1h40m | go: 0 older than the newest; 2 hours with newer ones; a newer one of that week; a newer one of that month; a newer one of that year
        1d | keep
        2d | go
        31d | keep: monthly: newest of its month
        8d | go
        70d | go
        340d | keep: yearly: newest of its year
        341d | go
        800d | go
        ",
    );
}

#[test]
fn buckets_are_those_of_the_time_zone() {
    // Noon in UTC is 4 in the morning of the same day in Los Angeles, and 1 in the night of the next day in Auckland.
    let table = |last| format!("0 | keep\n30h | keep\n30h10m | {last}\n");
    for (policy, last) in [
        ("daily=9,within=0", "go: 0 older than the newest; a newer one of that day"),
        ("daily=9,within=0,zone=Asia/Kolkata", "go: 0 older than the newest; a newer one of that day"),
        // Midnight there is at 05:59:59 UTC, 30 h before noon.
        ("daily=9,within=0,zone=Etc/GMT+6", "keep: daily: newest of its day"),
    ] {
        check(policy, &table(last));
    }
}

#[test]
fn what_was_taken_at_an_event_has_a_time_of_its_own() {
    let table = "
        0 | keep
        1d | keep
        2d critical | keep: critical=3d
        2d1h shutdown | keep: critical=3d
        2d2h start | keep: critical=3d
        2d3h critical partial | keep: critical=3d
        3d critical | go: 3d older than the newest; 1d older than the newest
        3d start | go: 3d older than the newest; 1d older than the newest
        3d critical partial | go: 3d older than the newest
        2d rollback | go: 1d older than the newest; taken at an event
        2d4h | go
        ";
    check("last=1,within=1d,critical=3d", table);
    // Every good snapshot younger than `within` stays, whatever `critical` says.
    check(
        "last=1,critical=1d",
        "
        0 | keep
        1d | keep
        6d critical | keep: within=7d
        6d critical partial | go: 1d older than the newest
        7d critical | go
        ",
    );
    // Where `critical` is not said, `within` holds.
    check(
        "last=1",
        "
        0 | keep
        1d | keep
        6d critical partial | keep: critical=7d
        7d critical partial | go: 7d older than the newest
        ",
    );
    check(
        "critical=5d",
        "
        0 | keep
        900d | keep
        4d critical | keep: critical=5d; newest that is a day older than the newest
        5d critical | go: 5d older than the newest
        900d partial | keep: the policy has no rule about it
        ",
    );
}

#[test]
fn what_is_partial_suspect_or_unsound_has_a_time_of_its_own() {
    check(
        "last=1,within=1d,bad=3d",
        "
        0 | keep
        1d | keep
        2d partial | keep: bad=3d
        2d suspect | keep: bad=3d
        2d unsound | keep: bad=3d
        3d partial | go: 3d older than the newest
        3d unsound | go: 3d older than the newest
        ",
    );
    check("last=1", "0 | keep\n1d | keep\n6d partial | keep: bad=7d\n7d partial | go\n");
    check("bad=5d", "0 | keep\n900d | keep\n900d critical | keep: the policy has no rule about it\n5d unsound | go\n");
}

#[test]
fn the_first_class_that_fits_is_the_one() {
    let snapshots =
        snapshots("0\n3d critical partial pin=1d\n3d critical partial\n3d partial\n3d\n3d diverged critical");
    let planned = plan(&snapshots, &"last=1".parse().unwrap(), time("0"));
    let classes: Vec<_> = planned.judged.iter().map(|judged| judged.class).collect();
    assert_eq!(classes, [Class::Rest, Class::Pinned, Class::Critical, Class::Bad, Class::Rest, Class::Pinned]);
    assert_eq!(planned.policy, "last=1".parse::<Policy>().unwrap().hash());
}

#[test]
fn each_service_and_data_path_is_judged_by_itself() {
    check(
        "last=1,within=0",
        "
        0 | keep
        3d of=blog | keep: last=1; newest good; newest whole; newest scheduled or manual
        4d of=blog | keep: newest that is a day older than the newest
        5d of=blog | go
        6d in=/other | keep: last=1; newest good; newest whole; newest scheduled or manual
        6d1h in=/other | go
        ",
    );
}

#[test]
fn max_local_backups_says_how_many_it_keeps() {
    let policy = Policy::of_max_local_backups("2").unwrap();
    let snapshots = snapshots("0\n1h\n2h\n3d\n8d\n9d");
    assert_eq!(
        plan(&snapshots, &policy, time("0")).max_local_backups(2),
        "MAX_LOCAL_BACKUPS=2 keeps 4 snapshots: the last 2, all good ones of the 7 days before the newest, and what is never let go; \
         `--keep last=2,within=0` means 2"
    );
    check_at(time("0"), "last=2,within=0", "0 | keep\n1h | keep\n2h | go\n3d | keep\n8d | go\n");
}
