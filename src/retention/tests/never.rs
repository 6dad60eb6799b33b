//! What no policy lets go.

use super::table::{check, check_at, time};

/// The policy that keeps the least.
const LEAST: &str = "last=1,within=0";

#[test]
fn the_newest_good_one_stays() {
    check(LEAST, "0 suspect | keep\n1h critical | keep: newest good; newest whole\n2h critical | go\n");
    // By name, as `latest` goes, and by time: whoever forges a number does not take the place of the newest.
    check(
        LEAST,
        "
        0 critical | keep: newest good; newest whole
        2h critical seq=99999999999 | keep: newest good; newest whole
        3h critical | go
        ",
    );
}

#[test]
fn the_newest_whole_one_stays() {
    check(
        LEAST,
        "
        0 stale | keep: last=1; newest good; newest scheduled or manual
        1d stale | keep: newest that is a day older than the newest
        2d stale | go
        3d | keep: newest whole
        4d | go
        ",
    );
    // One that is whole and not good is not what anybody wants back.
    check(LEAST, "0 stale | keep\n1d stale | keep\n1d1h suspect | go\n3d | keep: newest whole\n");
}

#[test]
fn the_newest_one_with_checked_databases_stays() {
    check(
        LEAST,
        "
        0 | keep
        1d | keep
        2d | go
        3d checked | keep: newest with checked databases
        4d checked | go
        ",
    );
    check(LEAST, "0 | keep\n1d | keep\n2d unsound checked | go\n3d checked | keep: newest with checked databases\n");
}

#[test]
fn the_newest_proven_one_stays() {
    check(
        LEAST,
        "
        0 | keep
        1d | keep
        2d | go
        3d proven | keep: newest that a drill restored
        4d proven | go
        ",
    );
}

#[test]
fn the_newest_scheduled_or_manual_one_stays() {
    check(
        "daily=1,within=0",
        "
        0 critical | keep: newest good; newest whole
        1d critical | keep: newest that is a day older than the newest
        2d critical | go
        3d manual holds=x | keep: daily: newest of its day; newest good; newest whole; newest scheduled or manual
        4d schedule | keep: newest that is a day older than the newest
        5d schedule | go
        ",
    );
    // Also if nothing had changed, so that `last` and the buckets are not about it.
    check(
        "daily=1,within=0",
        "
        0 critical | keep
        2d holds=x | keep: newest good; newest whole; newest scheduled or manual; newest that is a day older than the newest
        2d1h holds=x | go: 0 older than the newest; nothing had changed
        3d holds=x | keep: newest that is a day older than the newest
        3d1h holds=x | keep: daily: newest of its day
        4d | go
        ",
    );
}

#[test]
fn the_newest_that_is_a_day_older_stays() {
    check(
        LEAST,
        "
        0 | keep
        23h59m | go
        24h | keep: newest that is a day older than the newest
        25h | go
        ",
    );
}

#[test]
fn what_is_pinned_stays_while_its_pin_holds() {
    check(
        LEAST,
        "
        0 | keep
        1d | keep
        200d pin=89d | keep: pinned until 2026-12-01T12:00:00Z
        200d pin=90d | go
        200d1h pin=9d until=1d | go
        200d2h pin=9d until=+1d | keep: pinned until 2026-12-01T12:00:00Z
        200d3h pin=9d until=+900d | keep: pinned until 2027-02-19T12:00:00Z
        200d4h hold=500d | keep: pinned
        200d5h hold=500d until=+900d | keep: pinned until 2029-05-18T12:00:00Z
        200d6h hold=500d until=0 | go
        200d7h pin=90d pin=89d pin=91d | keep: pinned until 2026-12-01T12:00:00Z
        200d8h partial pin=1d | keep
        200d10h pin=1d hold=500d | keep: pinned
        200d9h critical pin=1d | keep
        ",
    );
}

#[test]
fn what_has_diverged_stays_as_long_as_its_pin_would() {
    check(
        LEAST,
        "
        0 | keep
        1d | keep
        89d diverged manual | keep: diverged, kept until 2026-12-01T12:00:01Z
        90d1s diverged manual | go: 0 older than the newest
        200d diverged pin=10d | keep: pinned until 2027-02-18T12:00:00Z
        ",
    );
}

#[test]
fn what_is_from_the_future_stays() {
    check(
        LEAST,
        "
        0 | keep: last=1; newest good; newest whole; newest scheduled or manual
        1d | keep
        +1s came=0 partial | keep: from the future; bad=0; newest partial or suspect, and no good one is newer
        +2h came=0 | keep: from the future
        +900d came=10d | keep: from the future
        +900d came=10d partial | keep: from the future
        2d critical | go
        ",
    );
    // It stays when its time has come: nothing goes by time alone.
    check_at(time("+901d"), LEAST, "0 | keep\n1d | keep\n2d | go\n+900d came=10d | keep: from the future\n");
    // What is ahead of its creation by less than an hour makes nothing older by that.
    check("within=7d", "+50m came=0 | keep\n1d | keep\n6d23h | keep: within=7d\n6d23h59m | keep: within=7d\n7d | go\n");
    // A clock was ahead here, and so were times of creation.
    check(LEAST, "0 | keep\n1d | keep\n+30d | keep: from the future\n");
}

#[test]
fn the_newest_partial_or_suspect_one_stays_until_a_good_one_is_newer() {
    check(
        "last=1,within=0,bad=0",
        "
        0 partial | keep: bad=0; newest partial or suspect, and no good one is newer
        1h suspect | keep: bad=0
        2h | keep: last=1; newest good; newest whole; newest scheduled or manual
        3h partial | go
        ",
    );
    // What a crash loop takes does not end it.
    check("last=1,bad=0", "0 critical | keep\n1h partial | keep\n2h partial | keep\n3h | keep\n4h partial | go\n");
}

#[test]
fn where_nothing_is_good_nothing_goes() {
    check(
        "last=1,within=0,bad=1d",
        "
        0 suspect | keep: there is no good snapshot that its age is counted from; newest partial or suspect, and no good one is newer
        10d unsound | keep: there is no good snapshot that its age is counted from
        400d unsound pin=399d | keep: there is no good snapshot that its age is counted from; pinned until 2026-01-25T12:00:00Z
        90d partial | keep: there is no good snapshot that its age is counted from
        ",
    );
}

#[test]
fn all_of_it_holds_for_each_service_and_data_path() {
    for other in ["of=blog", "in=/other"] {
        check(
            LEAST,
            &format!(
                "
                0 | keep
                1d | keep
                2d proven checked | keep
                3d {other} stale | keep: last=1; newest good; newest scheduled or manual
                4d {other} stale | keep: newest that is a day older than the newest
                5d {other} | keep: newest whole
                6d {other} checked | keep: newest with checked databases
                7d {other} proven | keep: newest that a drill restored
                8d {other} | go
                "
            ),
        );
    }
}
