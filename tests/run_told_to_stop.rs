//! Instances that are told to stop in the middle of what they begin: whoever has stopped its app for them comes back at once.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::cloud::server::{Fault, Kind, Point, Server, When};
use crate::support::counter::{Counters, WITHIN, until, without_terminal};
use crate::support::process::Running;

const OPTIONS: [&str; 4] = ["--every", "off", "--handover-poll", "200ms"];

/// What became of the creation of an epoch when the signal comes.
#[derive(Debug, Clone, Copy)]
enum Creation {
    /// The object is there, and no answer comes.
    Unanswered,
    /// The request is under way: the object is made a second later.
    UnderWay,
    /// It is answered, and what follows is not.
    Answered,
}

const CREATIONS: [Creation; 3] = [Creation::Unanswered, Creation::UnderWay, Creation::Answered];

/// A bucket with a vault.
struct Bucket {
    server: Server,
    counters: Counters,
}

impl Bucket {
    fn new() -> Self {
        let (server, counters) = Counters::in_bucket();
        Bucket { server, counters }
    }

    fn has(&self, name: &str) -> bool {
        self.server.names().iter().any(|there| there.ends_with(name))
    }

    fn until_there(&self, name: &str, run: &Running) {
        until(name, WITHIN, || run.log(), || self.has(name).then_some(()));
    }

    /// Has the creation of an epoch that is made next come to this.
    fn script(&self, epoch: u32, creation: Creation) {
        let fault = match creation {
            Creation::Unanswered => Fault::Stall(Point::Answer, Duration::from_secs(8)),
            Creation::UnderWay => Fault::Stall(Point::Upload(0), Duration::from_secs(1)),
            Creation::Answered => Fault::Stall(Point::Answer, Duration::from_millis(300)),
        };
        self.server.script(When::create(&format!("epochs/{epoch}.json")), fault);
    }

    /// Waits until it has.
    fn until_created(&self, epoch: u32, creation: Creation, run: &Running) {
        let name = format!("epochs/{epoch}.json");
        let asked = || {
            let of_epoch =
                |name: &Option<String>| name.as_ref().is_some_and(|it| it.ends_with(&format!("epochs/{epoch}.json")));
            self.server.requests_of(Kind::Create).iter().any(|request| of_epoch(&request.name)).then_some(())
        };
        match creation {
            Creation::UnderWay => until("request", WITHIN, || run.log(), asked),
            Creation::Unanswered => self.until_there(&name, run),
            Creation::Answered => {
                self.until_there(&name, run);
                self.server.script(When::list("epochs/").always(), Fault::Stall(Point::Answer, Duration::from_secs(8)));
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }

    /// Asserts that the end of an epoch was told, also if its creation comes late.
    fn was_ended(&self, epoch: u32, what: impl std::fmt::Debug, run: &Running) {
        std::thread::sleep(Duration::from_millis(1200));
        let names = [format!("epochs/{epoch}.json"), format!("epochs/{epoch}.end.json")];
        assert!(names.iter().all(|name| self.has(name)), "{what:?}: {:?} {}", self.server.names(), run.log());
    }
}

#[test]
fn a_start_that_is_told_to_stop_while_it_creates_its_epoch_tells_its_end() {
    for creation in CREATIONS {
        let bucket = Bucket::new();
        let counters = &bucket.counters;
        let mut a = counters.started("a", "a", &OPTIONS);
        bucket.script(2, creation);
        let mut b = counters.start("b", "b", &OPTIONS);
        bucket.until_created(2, creation, &b);
        let (code, took) = b.end(Signal::TERM);
        assert_eq!(code, Some(0), "{creation:?}: {}", b.log());
        assert!(took < Duration::from_secs(6), "{creation:?}: {took:?}: {}", b.log());
        bucket.server.heal();
        bucket.was_ended(2, creation, &b);
        assert_eq!(counters.starts("b"), 0);
        // The app that ran goes on, or again.
        counters.counted_beyond("a", counters.count("a") + 5, &a);
        assert_eq!(a.end(Signal::TERM).0, Some(0), "{creation:?}: {}", a.log());
    }
}

#[test]
fn a_start_that_is_told_to_stop_while_its_vault_hangs_warns_of_nothing() {
    let bucket = Bucket::new();
    bucket.server.latency(Duration::from_secs(600));
    for init in [&["--init"][..], &[]] {
        let before = bucket.server.requests().len();
        let command = [&["run"], init, &OPTIONS, &["--", "true"]].concat();
        let mut run = Running::start(without_terminal(&bucket.counters.world.command(command)), "");
        let asked = || (bucket.server.requests().len() > before).then_some(());
        until("request", WITHIN, || run.log(), asked);
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        let log = run.log_with("told to stop before the app was started");
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{init:?}: {log}");
    }
}

#[test]
fn an_end_that_an_instance_which_goes_on_cannot_tell_is_told_of_once() {
    let bucket = Bucket::new();
    let counters = &bucket.counters;
    let mut a = counters.started("a", "a", &[&OPTIONS[..], &["--on-superseded", "keep"]].concat());
    let end = "epochs/1.end.json";
    bucket.server.script(When::create(end).always(), Fault::status(403));
    let mut b = counters.start("b", "b", &OPTIONS);
    let is_end = |name: &Option<String>| name.as_ref().is_some_and(|name| name.ends_with(end));
    let tried = || bucket.server.requests_of(Kind::Create).iter().filter(|request| is_end(&request.name)).count();
    until("four attempts", WITHIN, || a.log(), || (tried() >= 4).then_some(()));
    let log = a.log();
    assert_eq!(log.matches("epochs/1.end.json may not have been created").count(), 1, "{log}");
    b.end(Signal::TERM);
    a.end(Signal::TERM);
}

#[test]
fn an_instance_that_is_told_to_stop_while_it_comes_back_tells_the_end_of_its_epoch() {
    for creation in CREATIONS {
        let bucket = Bucket::new();
        let counters = &bucket.counters;
        let mut a = counters.started("a", "a", &OPTIONS);
        let mut b = counters.started("b", "b", &OPTIONS);
        a.log_with("this one waits until that has ended");
        bucket.script(3, creation);
        assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
        bucket.until_created(3, creation, &a);
        let (code, took) = a.end(Signal::TERM);
        assert_eq!(code, Some(0), "{creation:?}: {}", a.log());
        assert!(took < Duration::from_secs(6), "{creation:?}: {took:?}: {}", a.log());
        bucket.server.heal();
        bucket.was_ended(3, creation, &a);
        assert_eq!(counters.starts("a"), 1, "{}", a.log());
    }
}

#[test]
fn a_rollback_that_is_told_to_stop_ends_its_epoch_and_says_what_is_true_then() {
    for moment in ["epoch", "handover", "pin", "commit", "after"] {
        let bucket = Bucket::new();
        let counters = &bucket.counters;
        let mut a = counters.started_and_saved("a", "a", &OPTIONS);
        let old = counters.snapshots()[0]["id"].as_str().unwrap().to_owned();
        let unanswered = Fault::Stall(Point::Answer, Duration::from_secs(8));
        match moment {
            "epoch" => bucket.script(2, Creation::Unanswered),
            "handover" => {
                let late = Fault::Stall(Point::Upload(0), Duration::from_secs(3));
                bucket.server.script(When::create("epochs/1.end.json"), late);
            }
            "pin" => bucket.server.script(When::create("pins/"), unanswered),
            // The look at the epoch that follows the commit.
            "after" => {
                let late = Fault::Stall(Point::Answer, Duration::from_millis(1500));
                bucket.server.script(When::create("snapshots/").after(1), late);
            }
            // The first is the last one of the app.
            _ => bucket.server.script(When::create("snapshots/").after(1), unanswered),
        }
        let snapshots = || bucket.server.names().iter().filter(|name| name.contains("/snapshots/")).count();
        let before = snapshots();
        let mut rollback = Running::start(without_terminal(&counters.world.command(["rollback", &old])), "");
        match moment {
            "epoch" => bucket.until_there("epochs/2.json", &rollback),
            "handover" => _ = a.log_with("another instance takes over"),
            "pin" => {
                let pinned = || bucket.server.names().iter().any(|name| name.contains("/pins/")).then_some(());
                until("a pin", WITHIN, || rollback.log(), pinned);
            }
            "after" => {
                until("a snapshot", WITHIN, || rollback.log(), || (snapshots() == before + 2).then_some(()));
                bucket
                    .server
                    .script(When::read("epochs/").always(), Fault::Stall(Point::Answer, Duration::from_secs(60)));
                std::thread::sleep(Duration::from_millis(2500));
            }
            _ => until("a snapshot", WITHIN, || rollback.log(), || (snapshots() == before + 2).then_some(())),
        }
        let (code, took) = rollback.end(Signal::INT);
        assert_eq!(code, Some(1), "{moment}: {}", rollback.log());
        assert!(took < Duration::from_secs(6), "{moment}: {took:?}: {}", rollback.log());
        let says = match moment {
            "commit" => "was committed again is not known",
            "after" => "the rollback is done, and need not be repeated",
            _ => "Stopped. Nothing was rolled back.",
        };
        rollback.log_with(says);
        bucket.server.heal();
        bucket.was_ended(2, moment, &rollback);
        counters.counted_beyond("a", counters.count("a") + 5, &a);
        assert_eq!(a.end(Signal::TERM).0, Some(0), "{moment}: {}", a.log());
    }
}

#[test]
fn a_rollback_that_cannot_tell_its_end_says_so() {
    let bucket = Bucket::new();
    let counters = &bucket.counters;
    let mut a = counters.started_and_saved("a", "a", &OPTIONS);
    let old = counters.snapshots()[0]["id"].as_str().unwrap().to_owned();
    bucket.server.script(When::create("pins/"), Fault::Stall(Point::Answer, Duration::from_secs(8)));
    bucket.server.script(When::create("epochs/2.end.json").always(), Fault::status(503));
    let mut rollback = Running::start(without_terminal(&counters.world.command(["rollback", &old])), "");
    let pinned = || bucket.server.names().iter().any(|name| name.contains("/pins/")).then_some(());
    until("a pin", WITHIN, || rollback.log(), pinned);
    let (code, took) = rollback.end(Signal::TERM);
    assert!(code == Some(1) && took < Duration::from_secs(10), "{took:?}: {}", rollback.log());
    rollback.log_with("the end of the epoch was not told");
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}

#[test]
fn an_instance_that_is_told_to_stop_while_it_takes_an_epoch_for_its_app_tells_the_end_of_that() {
    for creation in [Creation::Unanswered, Creation::UnderWay] {
        let bucket = Bucket::new();
        let counters = &bucket.counters;
        let options = [&OPTIONS[..], &["--store-timeout", "1s"]].concat();
        let mut a = counters.started("a", "a", &options);
        assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
        bucket.server.script(When::any().always(), Fault::status(503));
        let mut a = counters.start("a", "a", &options);
        counters.begun_within("a", 2, &a, Duration::from_secs(40));
        bucket.server.heal();
        bucket.script(2, creation);
        bucket.until_created(2, creation, &a);
        assert_eq!(a.end(Signal::TERM).0, Some(0), "{creation:?}: {}", a.log());
        bucket.was_ended(2, creation, &a);
    }
}
