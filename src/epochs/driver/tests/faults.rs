//! Calls that fail, answers that are lost, and instances that were away.

use std::sync::atomic::Ordering;

use super::*;

/// Has the `n`th creation of an instance fail.
fn fail_creation(place: &Place, n: usize, fault: Fault) {
    let mut count = 0;
    place.plan(move |verb, _| {
        count += usize::from(verb == "create");
        (verb == "create" && count == n).then_some(fault)
    });
}

#[test]
fn a_lost_answer_changes_nothing() {
    for fault in [Fault::Away, Fault::AnswerLost] {
        for n in 1..=4 {
            let stage = Stage::new(1);
            let (one, two) = (stage.one(1), stage.one(2));
            fail_creation(&one.places[0], n, fault);
            assert_eq!(stage.run(&one).epoch, 1, "{fault:?} {n}");
            stage.lives(&one);
            assert_eq!(stage.run(&two), Begun { epoch: 2, forced: false }, "{fault:?} {n}");
            assert_eq!(stage.epochs(0), ["1", "1.end", "1.runs", "1.yields", "2", "2.runs"], "{fault:?} {n}");
            assert_eq!(stage.end(1), 1);
            // The same for an end by force.
            let three = stage.one(3);
            fail_creation(&three.places[0], n, fault);
            stage.clock.meanwhile(|_| {});
            assert_eq!(stage.run(&three), Begun { epoch: 3, forced: true }, "{fault:?} {n}");
            assert_eq!(stage.end(2), 3);
        }
    }
}

#[test]
fn a_vault_that_is_away_for_a_while_ends_no_epoch() {
    let stage = Stage::new(1);
    let one = stage.one(1);
    stage.run(&one);
    one.places[0].plan(|_, _| Some(Fault::Away));
    let mut unknown = Vec::new();
    for _ in 0..4 {
        stage.clock.go_on(5 * SECOND);
        match one.driver.tick(&stage.ctx()) {
            Hold::Unknown { since, why } => {
                assert!(why.contains("no answer"), "{why}");
                unknown.push(since.as_secs());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(unknown, [0, 5, 10, 15]);
    assert!(one.driver.before_commit(&stage.ctx()).is_err() && one.driver.end(None, &stage.ctx()).is_err());
    one.places[0].plan(|_, _| None);
    stage.clock.go_on(5 * SECOND);
    // The end that could not be told is told now.
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Ended { by: 1 });
    assert_eq!(one.driver.end(None, &stage.ctx()).unwrap(), Commit::Good);
    assert_eq!(stage.end(1), 1);
}

#[test]
fn a_holder_that_cannot_write_stops_its_app_as_soon_as_its_successor_shows_and_learns_of_its_end() {
    for fault in [Fault::Away, Fault::Refused] {
        let stage = Stage::new(1);
        let (one, two) = (stage.one(1), stage.one(2));
        stage.run(&one);
        one.places[0].plan(move |verb, _| (verb == "create").then_some(fault));
        let (held, ctx, mut told) = (one.clone(), stage.ctx(), Vec::new());
        let seen: Arc<Mutex<Vec<Hold>>> = Arc::default();
        let all = seen.clone();
        stage.clock.meanwhile(move |_| {
            told.extend(Some(held.driver.tick(&ctx)).filter(|hold| *hold != Hold::Held && !told.contains(hold)));
            *all.lock().unwrap() = told.clone();
        });
        // It is not known to yield, so that it is given the time of a silent one.
        assert_eq!(stage.run(&two), Begun { epoch: 2, forced: true }, "{fault:?}");
        assert_eq!((stage.clock.now(), stage.epochs(0).contains(&"1.yields".to_owned())), (15 * SECOND, false));
        assert_eq!(*seen.lock().unwrap(), [Hold::Superseded { by: 2 }], "{fault:?}");
        // Nothing that it cannot write keeps it from asking.
        assert_eq!(one.driver.before_commit(&stage.ctx()).unwrap(), Commit::Diverged { by: 2 }, "{fault:?}");
        assert_eq!(one.driver.tick(&stage.ctx()), Hold::Ended { by: 2 }, "{fault:?}");
        let warnings = stage.monitor.warnings();
        assert!(
            warnings.iter().filter(|what| what.contains("not told how this one stands")).count() == 1,
            "{warnings:?}"
        );
    }
}

#[test]
fn a_holder_whose_end_cannot_be_written_reads_that_it_was_ended() {
    for fault in [Fault::Away, Fault::Refused] {
        let stage = Stage::new(1);
        let (one, two) = (stage.one(1), stage.one(2));
        stage.run(&one);
        one.places[0].plan(move |verb, _| (verb == "create").then_some(fault));
        assert!(one.driver.end(None, &stage.ctx()).is_err(), "{fault:?}");
        stage.run(&two);
        assert_eq!(one.driver.tick(&stage.ctx()), Hold::Ended { by: 2 }, "{fault:?}");
    }
}

#[test]
fn an_instance_that_cannot_tell_that_its_app_runs_looks_and_commits_all_the_same_and_tells_it_later() {
    let stage = Stage::new(1);
    let one = stage.one(1);
    begun(one.driver.begin(&stage.ctx()));
    assert_eq!(one.driver.decided(None, &stage.ctx()).unwrap(), Go::Start);
    one.places[0].plan(|verb, name| (verb == "create" && name.contains("runs")).then_some(Fault::Refused));
    one.driver.running(None, &stage.ctx());
    stage.clock.go_on(5 * SECOND);
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Held);
    assert_eq!(one.driver.before_commit(&stage.ctx()).unwrap(), Commit::Good);
    assert_eq!(stage.epochs(0), ["1"]);
    one.places[0].plan(|_, _| None);
    stage.clock.go_on(5 * SECOND);
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Held);
    assert_eq!(stage.epochs(0), ["1", "1.runs"]);
}

#[test]
fn a_successor_is_known_before_anybody_is_told_of_it() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    one.places[0].calls();
    let (held, ctx) = (one.clone(), stage.ctx());
    stage.clock.meanwhile(move |since| {
        if since == 5 * SECOND {
            assert_eq!(held.driver.tick(&ctx), Hold::Superseded { by: 2 });
            // However long that creation takes, the app is being stopped.
            assert_eq!(counted(&held.places[0].calls()), [("get", 3)].into());
            assert_eq!(held.driver.tick(&ctx), Hold::Superseded { by: 2 });
            assert_eq!(held.places[0].calls(), ["create epochs/1.yields.json"]);
            held.driver.end(None, &ctx).unwrap();
        }
    });
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: false });
}

#[test]
fn a_holder_that_cannot_read_what_others_begin_learns_that_it_was_ended() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    one.places[0].plan(|verb, name| (verb == "get" && name == "epochs/2.json").then_some(Fault::Away));
    stage.clock.go_on(5 * SECOND);
    for since in [0, 1] {
        let hold = one.driver.tick(&stage.ctx());
        // Also between two looks it is not known.
        assert!(matches!(&hold, Hold::Unknown { since: told, .. } if *told == since * SECOND), "{hold:?}");
        stage.clock.go_on(SECOND);
    }
    stage.run(&two);
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Ended { by: 2 });
}

#[test]
fn an_instance_that_waits_goes_on_waiting_while_the_vault_is_away() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    let (place, ctx, lives) = (two.places[0].clone(), stage.ctx(), one.clone());
    stage.clock.meanwhile(move |since| {
        let away = since < 40 * SECOND;
        place.plan(move |_, _| away.then_some(Fault::Away));
        if let Hold::Superseded { .. } = lives.driver.tick(&ctx) {
            lives.driver.end(None, &ctx).unwrap();
        }
    });
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: false });
    assert_eq!(stage.end(1), 1);
    // It does not wait for ever.
    let three = stage.one(3);
    let place = three.places[0].clone();
    stage.clock.meanwhile(move |_| place.plan(|_, _| Some(Fault::Away)));
    let began = stage.clock.now();
    assert_eq!(three.driver.begin(&stage.ctx()).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(stage.clock.now() - began, 91 * SECOND);
}

#[test]
fn a_vault_that_refuses_is_not_asked_for_ever() {
    let stage = Stage::new(1);
    let one = stage.one(1);
    one.places[0].plan(|verb, _| (verb == "create").then_some(Fault::Refused));
    assert_eq!(one.driver.begin(&stage.ctx()).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!((stage.epochs(0).len(), stage.clock.now()), (0, Duration::ZERO));
}

#[test]
fn an_instance_that_waits_is_not_ended_by_a_vault_that_refuses_for_a_while() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    stage.lives(&one);
    stage.run(&two);
    two.driver.end(None, &stage.ctx()).unwrap();
    // The snapshots are listed only when an epoch is begun.
    let mut refusals = 3;
    one.places[0].plan(move |_, name| {
        let refuses = refusals > 0 && name.starts_with("snapshots");
        refusals -= i32::from(refuses);
        refuses.then_some(Fault::Refused)
    });
    stage.clock.meanwhile(|_| {});
    assert_eq!(one.driver.wait_for_return(&stage.ctx()).unwrap(), Begun { epoch: 3, forced: false });
    let warnings = stage.monitor.warnings();
    assert_eq!(warnings.iter().filter(|what| what.contains("it is tried again")).count(), 1, "{warnings:?}");
}

#[test]
fn only_the_first_vault_must_answer() {
    let stage = Stage::new(2);
    let one = stage.one(1);
    one.places[1].plan(|_, _| Some(Fault::Away));
    assert_eq!(stage.run(&one).epoch, 1);
    // It is told once, however often it is asked.
    let warnings = stage.monitor.warnings();
    assert_eq!(warnings.iter().filter(|what| what.contains("are not known")).count(), 1, "{warnings:?}");
    let two = stage.one(2);
    two.places[0].plan(|_, _| Some(Fault::Away));
    assert_eq!(two.driver.begin(&stage.ctx()).unwrap_err().kind(), Kind::Unreachable);
}

#[test]
fn after_a_gap_the_poll_comes_first() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    stage.clock.go_on(16 * SECOND);
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Gap(16 * SECOND));
    stage.clock.go_on(SECOND);
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Held);
    assert!(stage.run(&two).forced);
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Ended { by: 2 });
}

#[test]
fn an_instance_that_is_told_to_stop_while_it_waits_ends_its_epoch() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    let stop = stage.stop;
    stage.clock.meanwhile(move |since| stop.store(since >= 3 * SECOND, Ordering::Relaxed));
    assert_eq!(two.driver.begin(&stage.ctx()).unwrap_err().code(), Code::Stopped);
    assert_eq!((stage.end(2), stage.clock.now()), (2, 3 * SECOND));
    // The first one has not noticed, and need not.
    stop.store(false, Ordering::Relaxed);
    stage.clock.go_on(3 * SECOND);
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Held);
    assert_eq!(stage.epochs(0), ["1", "1.runs", "2", "2.end"]);
}

#[test]
fn documents_that_cannot_be_read_are_waited_for_as_long_as_any() {
    let stage = Stage::new(1);
    stage.vaults[0].create("epochs/1.json", &[b"no JSON"]).unwrap();
    stage.vaults[0].create("epochs/2.json", &[&vec![b' '; 100_000]]).unwrap();
    stage.vaults[0].create("epochs/2.end.json", &[b"?"]).unwrap();
    let one = stage.one(3);
    assert_eq!(stage.run(&one), Begun { epoch: 3, forced: true });
    assert_eq!((stage.clock.now(), stage.end(1)), (125 * SECOND, 3));
}
