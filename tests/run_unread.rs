//! `lastgood run` with a bucket in which one object cannot be read, for as long as it lasts.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::cloud::server::{Fault, Point, When};
use crate::support::counter::{Counters, WITHIN, until};

const OPTIONS: [&str; 4] = ["--every", "off", "--handover-poll", "500ms"];

#[test]
fn an_instance_that_cannot_read_one_end_stops_its_app_for_its_successor() {
    let hangs = Fault::Stall(Point::Answer, Duration::from_secs(60));
    for (name, fault) in [("epochs/2.end.json", Fault::status(503)), ("epochs/1.end.json", hangs)] {
        let (server, counters) = Counters::in_bucket();
        let mut a = counters.started("a", "data", &OPTIONS);
        // For both instances: the new one does not start its app either.
        server.script(When::read(name).always(), fault);
        let mut b = counters.start("b", "b", &OPTIONS);
        a.log_with("another instance takes over (epoch 2)");
        until("end of its app", WITHIN, || a.log(), || (counters.said("a").len() == 2).then_some(()));
        assert_eq!(counters.starts("b"), 0, "{name}: {}", b.log());
        assert!(!a.log().contains("has not been known"), "{name}: {}", a.log());
        server.heal();
        assert_eq!(counters.begun("b", 1, &b).count, counters.stopped("a"), "{name}: {}\n{}", a.log(), b.log());
        assert_eq!(b.end(Signal::TERM).0, Some(0), "{name}: {}", b.log());
        a.end(Signal::TERM);
    }
}

#[test]
fn an_instance_that_cannot_read_whether_the_other_app_runs_comes_back_when_that_has_ended() {
    let (server, counters) = Counters::in_bucket();
    let mut a = counters.started("a", "data", &OPTIONS);
    server.script(When::read("epochs/2.runs.json").always(), Fault::status(503));
    let mut b = counters.start("b", "b", &OPTIONS);
    counters.begun("b", 1, &b);
    a.log_with("the epochs cannot be watched, and are watched on");
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    assert_eq!(counters.begun("a", 2, &a).count, counters.stopped("b"), "{}", a.log());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}
