//! When a plan stops.

use std::fmt::Write;

use super::table::{now, snapshots};
use crate::retention::plan::{Plan, plan};
use crate::retention::policy::Policy;
use crate::retention::reason::Verdict;
use crate::retention::snapshot::Snapshot;
use crate::retention::stop::{Stop, StoredBytes};

fn planned<'s>(snapshots: &'s [Snapshot], text: &str) -> Plan<'s> {
    plan(snapshots, &text.parse::<Policy>().unwrap(), now())
}

const FEW_BYTES: StoredBytes = StoredBytes { all: 100, freed: 50 };

#[test]
fn more_than_half_of_the_good_snapshots_stops_it() {
    let all = snapshots("0\n1d\n2d\n3d\n3d1h partial\n3d2h partial");
    let half = planned(&all, "last=1,within=0");
    assert_eq!((half.let_go(), half.stops(FEW_BYTES, None)), (4, vec![]));
    let all = snapshots("0\n1d\n2d\n3d\n4d");
    let more = planned(&all, "last=1,within=0");
    let stops = more.stops(FEW_BYTES, None);
    assert_eq!(stops, [Stop::MostSnapshots { let_go: 3, of: 5, data: None }]);
    assert_eq!(stops[0].to_string(), "more than half of the good snapshots would go: 3 of 5");
    assert_eq!(more.stops(FEW_BYTES, Some(2)), stops);
    assert_eq!(more.stops(FEW_BYTES, Some(3)), []);
}

#[test]
fn more_than_half_of_the_bytes_stops_it() {
    let all = snapshots("0\n1d\n2d");
    let planned = planned(&all, "last=1,within=0");
    assert_eq!(planned.stops(FEW_BYTES, None), []);
    let bytes = StoredBytes { all: 100, freed: 51 };
    let stops = planned.stops(bytes, None);
    assert_eq!(stops, [Stop::MostBytes(bytes)]);
    assert_eq!(stops[0].to_string(), "more than half of the bytes would go: 51 of 100 bytes");
    let bytes = StoredBytes { all: u64::MAX, freed: u64::MAX / 2 + 1 };
    assert_eq!(planned.stops(bytes, None), [Stop::MostBytes(bytes)]);
    assert_eq!(planned.stops(bytes, Some(1)), []);
    assert_eq!(planned.stops(StoredBytes::default(), None), []);
}

#[test]
fn what_strangers_add_does_not_hide_it() {
    let mut true_ones = String::new();
    (0..20).for_each(|days| writeln!(true_ones, "{days}d").unwrap());
    for forged in ["of=other{n}", "came=0 in=/forged{n}"] {
        let mut table = true_ones.clone();
        (0..100).for_each(|n| writeln!(table, "{n}h {}", forged.replace("{n}", &n.to_string())).unwrap());
        let all = snapshots(&table);
        let stops = planned(&all, "last=3,within=0").stops(FEW_BYTES, None);
        let data = Some(("/data".to_owned(), Some("shop".to_owned())));
        assert_eq!(stops, [Stop::MostSnapshots { let_go: 17, of: 20, data }]);
        assert_eq!(stops[0].to_string(), "more than half of the good snapshots would go: 17 of 20 of /data of shop");
    }
    // Roots of the future are kept, whatever they are, and are not counted.
    let mut table = true_ones;
    (0..100).for_each(|n| writeln!(table, "+{}h came=0", n + 2).unwrap());
    let stops = planned(&snapshots(&table), "last=3,within=0").stops(FEW_BYTES, None);
    assert_eq!(stops, [Stop::MostSnapshots { let_go: 17, of: 20, data: None }]);
    // A directory that was backed up a few times stops nothing.
    let mut table = String::from("0 in=/once\n1d in=/once\n1d1h in=/once\n1d2h in=/once\n1d3h in=/once\n");
    (0..10).for_each(|minutes| writeln!(table, "{minutes}m").unwrap());
    assert_eq!(planned(&snapshots(&table), "last=1,within=1d").stops(FEW_BYTES, None), []);
}

#[test]
fn the_last_one_that_is_a_day_older_stops_it() {
    let all = snapshots("0\n1h\n2h\n1d\n1d partial\n+2d came=0");
    let mut planned = planned(&all, "last=9");
    assert_eq!(planned.stops(FEW_BYTES, None), []);
    // No plan lets it go. It is looked at by other code all the same.
    planned.judged[3].verdict = Verdict::LetGo(Vec::new());
    let stops = planned.stops(FEW_BYTES, None);
    assert_eq!(stops, [Stop::LastDayOlder("/data".into(), Some("shop".into()))]);
    let said = "the last good snapshot of /data of shop that is a day older than the newest would go";
    assert_eq!(stops[0].to_string(), said);
}
