//! Single objects that cannot be read or created, for as long as the instance lives.

use super::*;

const FAULTS: [Fault; 2] = [Fault::Away, Fault::Refused];

/// Has every read of an object fail.
fn unread(place: &Place, name: &'static str, fault: Fault) {
    place.plan(move |verb, asked| (verb == "get" && asked == name).then_some(fault));
}

#[test]
fn a_holder_that_cannot_read_one_end_stops_its_app_for_its_successor() {
    for (name, fault) in
        ["epochs/1.end.json", "epochs/2.end.json"].into_iter().flat_map(|name| FAULTS.map(|fault| (name, fault)))
    {
        let stage = Stage::new(1);
        let (one, two) = (stage.one(1), stage.one(2));
        stage.run(&one);
        unread(&one.places[0], name, fault);
        stage.clock.go_on(5 * SECOND);
        one.driver.tick(&stage.ctx());
        let (held, ctx) = (one.clone(), stage.ctx());
        stage.clock.meanwhile(move |since| {
            if since == 5 * SECOND {
                assert_eq!(held.driver.tick(&ctx), Hold::Superseded { by: 2 }, "{name} {fault:?}");
                held.driver.tick(&ctx);
                held.driver.end(None, &ctx).unwrap();
            }
        });
        assert_eq!(stage.run(&two), Begun { epoch: 2, forced: false }, "{name} {fault:?}");
    }
}

#[test]
fn an_end_that_cannot_be_read_is_asked_for_with_each_look_and_keeps_no_successor_from_being_seen() {
    let stage = Stage::new(1);
    let one = stage.one(1);
    stage.run(&one);
    unread(&one.places[0], "epochs/1.end.json", Fault::Away);
    one.places[0].calls();
    for since in [0, 5] {
        stage.clock.go_on(5 * SECOND);
        let hold = one.driver.tick(&stage.ctx());
        assert!(matches!(&hold, Hold::Unknown { since: told, .. } if *told == since * SECOND), "{hold:?}");
        assert_eq!(one.places[0].calls(), ["get epochs/2.json", "get epochs/1.end.json"]);
    }
    // A snapshot is neither committed nor told as the app's then.
    for asked in [one.driver.before_commit(&stage.ctx()), one.driver.after_commit(&stage.ctx())] {
        assert_eq!(asked.unwrap_err().kind(), Kind::Unreachable);
    }
    one.places[0].plan(|_, _| None);
    assert_eq!(one.driver.after_commit(&stage.ctx()).unwrap(), Commit::Good);
    one.driver.look(&stage.ctx());
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Held);
}

#[test]
fn no_app_is_started_while_it_cannot_be_read_whether_there_is_a_successor() {
    for name in ["epochs/2.json", "epochs/1.end.json"] {
        let stage = Stage::new(1);
        let one = stage.one(1);
        begun(one.driver.begin(&stage.ctx()));
        unread(&one.places[0], name, Fault::Away);
        assert_eq!(one.driver.decided(None, &stage.ctx()).unwrap_err().kind(), Kind::Unreachable, "{name}");
        one.places[0].plan(|_, _| None);
        assert_eq!(one.driver.decided(None, &stage.ctx()).unwrap(), Go::Start, "{name}");
    }
}

#[test]
fn a_predecessor_is_not_taken_for_dead_while_it_cannot_be_read_whether_it_yields() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    unread(&two.places[0], "epochs/1.yields.json", Fault::Away);
    assert_eq!(two.driver.begin(&stage.ctx()).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(stage.epochs(0), ["1", "1.runs", "2", "2.end"]);
    // It has the time of the handover from when that is known.
    let three = stage.one(3);
    one.driver.look(&stage.ctx());
    let (yields, ctx, place) = (one.clone(), stage.ctx(), three.places[0].clone());
    unread(&place, "epochs/1.yields.json", Fault::Away);
    stage.clock.meanwhile(move |since| {
        if let Hold::Superseded { .. } = yields.driver.tick(&ctx) {
            yields.driver.tick(&ctx);
        }
        if since >= 20 * SECOND {
            place.plan(|_, _| None);
        }
    });
    let began = stage.clock.now();
    assert_eq!(stage.run(&three), Begun { epoch: 3, forced: true });
    assert_eq!((stage.clock.now() - began, stage.end(1)), ((20 + 90) * SECOND, 3));
}

#[test]
fn an_instance_that_waits_and_cannot_read_one_object_sees_its_successor() {
    for name in ["epochs/1.yields.json", "epochs/1.end.json", "epochs/3.end.json", "epochs/2.end.json"] {
        let stage = Stage::new(1);
        let (one, two, three) = (stage.one(1), stage.one(2), stage.one(3));
        stage.run(&one);
        unread(&two.places[0], name, Fault::Away);
        let ctx = stage.ctx();
        stage.clock.meanwhile(move |since| {
            if since == 3 * SECOND {
                assert_eq!(begun(three.driver.begin(&ctx)), Begun { epoch: 3, forced: true });
            }
        });
        assert_eq!(two.driver.begin(&stage.ctx()).unwrap(), Start::Superseded { by: 3 }, "{name}");
    }
}

#[test]
fn a_waiting_instance_that_cannot_read_whether_the_other_app_runs_comes_back_when_that_has_ended() {
    for fault in FAULTS {
        let stage = Stage::new(1);
        let (one, two) = (stage.one(1), stage.one(2));
        stage.run(&one);
        stage.lives(&one);
        stage.run(&two);
        unread(&one.places[0], "epochs/2.runs.json", fault);
        // It asks, as the app may run, and is answered.
        let (lives, ctx) = (two.clone(), stage.ctx());
        stage.clock.meanwhile(move |since| match since < 400 * SECOND {
            true => assert_eq!(lives.driver.tick(&ctx), Hold::Held),
            false => drop(lives.driver.end(None, &ctx)),
        });
        let began = stage.clock.now();
        assert_eq!(one.driver.wait_for_return(&stage.ctx()).unwrap(), Begun { epoch: 4, forced: false }, "{fault:?}");
        assert!((400..=407).contains(&(stage.clock.now() - began).as_secs()), "{fault:?}");
    }
}

#[test]
fn an_end_of_the_past_that_cannot_be_read_counts_as_one_by_force() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    one.driver.end(None, &stage.ctx()).unwrap();
    unread(&two.places[0], "epochs/1.end.json", Fault::Away);
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: true });
}

/// The first instance waits for the second one, and asks it whether it lives. Returns what that one saw, and whether its epoch had ended.
fn asked(stage: &Stage, fault: Fault) -> (Begun, Vec<(Hold, bool)>) {
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    stage.lives(&one);
    stage.run(&two);
    two.places[0].plan(move |verb, name| {
        (verb == "create" && (fault != Fault::AnswerLost || name.contains("alive"))).then_some(fault)
    });
    let seen: Arc<Mutex<Vec<(Hold, bool)>>> = Arc::default();
    let (lives, ctx, all, vault) = (two.clone(), stage.ctx(), seen.clone(), stage.vaults[0].clone());
    stage.clock.meanwhile(move |since| {
        if since > 500 * SECOND {
            drop(lives.driver.end(None, &ctx));
            return;
        }
        let hold = lives.driver.tick(&ctx);
        let told = (hold, vault.objects().contains_key("epochs/2.end.json"));
        let mut all = all.lock().unwrap();
        if told.0 != Hold::Held && all.last() != Some(&told) {
            all.push(told);
        }
    });
    let begun = one.driver.wait_for_return(&stage.ctx()).unwrap();
    stage.clock.meanwhile(|_| {});
    (begun, std::mem::take(&mut *seen.lock().unwrap()))
}

#[test]
fn a_holder_that_is_asked_and_cannot_answer_stops_its_app_before_it_is_taken_for_dead() {
    for fault in FAULTS {
        let stage = Stage::new(1);
        let (begun, seen) = asked(&stage, fault);
        assert_eq!(begun, Begun { epoch: 3, forced: true }, "{fault:?}");
        assert_eq!(seen[0], (Hold::Superseded { by: 3 }, false), "{fault:?}: {seen:?}");
        assert_eq!((stage.end(2), stage.epochs(0).contains(&"3.alive".to_owned())), (3, false), "{fault:?}");
    }
}

#[test]
fn a_holder_whose_answer_got_there_goes_on() {
    let stage = Stage::new(1);
    let (begun, seen) = asked(&stage, Fault::AnswerLost);
    assert_eq!((begun.epoch, begun.forced), (4, false));
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!((stage.end(3), stage.end(2)), (3, 2));
}

#[test]
fn an_ended_epoch_that_cannot_be_read_keeps_nobody_away() {
    for (name, forced) in [("epochs/1.json", false), ("epochs/1.end.json", true)] {
        for fault in FAULTS {
            let stage = Stage::new(1);
            let (one, two) = (stage.one(1), stage.one(2));
            stage.run(&one);
            unread(&two.places[0], name, fault);
            // While it has not ended, it is not known whether it is another service's.
            assert_eq!(two.driver.would_wait(&stage.ctx()).is_err(), !forced, "{name} {fault:?}");
            one.driver.end(None, &stage.ctx()).unwrap();
            assert_eq!(stage.run(&two), Begun { epoch: 2, forced }, "{name} {fault:?}");
            let told =
                stage.monitor.warnings().iter().filter(|what| what.contains("an older epoch cannot be read")).count();
            assert_eq!(told, usize::from(!forced), "{name} {fault:?}");
        }
    }
}

#[test]
fn an_end_that_cannot_be_read_is_seen_in_the_listing() {
    for fault in FAULTS {
        // By a newcomer that waits for it.
        let stage = Stage::new(1);
        let (one, two) = (stage.one(1), stage.one(2));
        stage.run(&one);
        stage.lives(&one);
        unread(&two.places[0], "epochs/1.end.json", fault);
        let began = stage.clock.now();
        let start = two.driver.begin(&stage.ctx());
        match fault {
            Fault::Refused => assert_eq!(start.unwrap_err().kind(), Kind::Failed),
            _ => assert_eq!(begun(start), Begun { epoch: 2, forced: true }),
        }
        assert!(stage.clock.now() - began < 10 * SECOND, "{fault:?}");
        // By one that waits for its return.
        let stage = Stage::new(1);
        let (one, two) = (stage.one(1), stage.one(2));
        stage.run(&one);
        stage.lives(&one);
        stage.run(&two);
        unread(&one.places[0], "epochs/2.end.json", fault);
        let (ends, ctx) = (two.clone(), stage.ctx());
        stage.clock.meanwhile(move |since| {
            if since >= 60 * SECOND {
                _ = ends.driver.end(None, &ctx);
            }
        });
        let began = stage.clock.now();
        assert_eq!(one.driver.wait_for_return(&stage.ctx()).unwrap(), Begun { epoch: 3, forced: true }, "{fault:?}");
        assert!(stage.clock.now() - began < 70 * SECOND, "{fault:?}");
    }
}

#[test]
fn a_waiting_instance_that_cannot_read_the_epoch_of_a_killed_successor_comes_back() {
    for runs in [true, false] {
        let stage = Stage::new(1);
        let (one, two) = (stage.one(1), stage.one(2));
        stage.run(&one);
        stage.lives(&one);
        match runs {
            true => stage.run(&two),
            false => begun(two.driver.begin(&stage.ctx())),
        };
        stage.clock.meanwhile(|_| {});
        unread(&one.places[0], "epochs/2.json", Fault::Refused);
        let began = stage.clock.now();
        assert_eq!(one.driver.wait_for_return(&stage.ctx()).unwrap(), Begun { epoch: 3, forced: true }, "{runs}");
        // It may be one of the longest poll interval.
        let (took, silent) = ((stage.clock.now() - began).as_secs(), if runs { 300 } else { 90 + 240 });
        assert!((silent + 125..silent + 150).contains(&took), "{runs}: {took}");
    }
}

#[test]
fn a_predecessor_that_cannot_be_read_for_a_moment_is_given_the_time_of_its_own_poll() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    let mut reads = 0;
    two.places[0].plan(move |verb, name| {
        reads += usize::from((verb, name) == ("get", "epochs/1.json"));
        // The first read is that of the survey.
        (verb == "get" && name == "epochs/1.json" && (2..5).contains(&reads)).then_some(Fault::Away)
    });
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: true });
    assert!((15..20).contains(&stage.clock.now().as_secs()), "{:?}", stage.clock.now());
}
