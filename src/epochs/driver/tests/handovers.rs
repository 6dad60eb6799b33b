//! Handovers while every call succeeds.

use super::*;

#[test]
fn the_first_instance_runs_at_once_and_the_next_one_after_its_end() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    assert_eq!(stage.run(&one), Begun { epoch: 1, forced: false });
    assert_eq!(stage.epochs(0), ["1", "1.runs"]);
    assert_eq!(one.driver.end(None, &stage.ctx()).unwrap(), Commit::Good);
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: false });
    assert_eq!(stage.epochs(0), ["1", "1.end", "1.runs", "2", "2.runs"]);
    assert_eq!((stage.end(1), stage.clock.now()), (1, Duration::ZERO));
    let epoch = stage.document(EpochRecord::Epoch, 2, EpochDocument::parse);
    assert_eq!((epoch.run, epoch.host.as_str(), epoch.poll_ms, epoch.row), (Some(Hex([2; 8])), "host-2", 5000, 1));
}

#[test]
fn a_start_costs_ten_requests_and_a_poll_two_reads() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    one.driver.end(None, &stage.ctx()).unwrap();
    stage.run(&two);
    let calls = two.places[0].calls();
    assert_eq!(counted(&calls), [("create", 2), ("get", 4), ("list", 3)].into(), "{calls:?}");
    for _ in 0..20 {
        stage.clock.go_on(SECOND);
        assert_eq!(two.driver.tick(&stage.ctx()), Hold::Held);
    }
    let poll = ["get epochs/3.json", "get epochs/2.end.json"];
    assert_eq!(two.places[0].calls(), [poll; 4].concat());
}

#[test]
fn a_predecessor_that_lives_ends_by_itself() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    stage.lives(&one);
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: false });
    assert_eq!(stage.epochs(0), ["1", "1.end", "1.runs", "1.yields", "2", "2.runs"]);
    assert!(stage.end(1) == 1 && stage.clock.now() <= 7 * SECOND, "{:?}", stage.clock.now());
    // An instance that has ended commits nothing any more.
    assert_eq!(one.driver.before_commit(&stage.ctx()).unwrap(), Commit::Diverged { by: 1 });
}

#[test]
fn a_silent_predecessor_is_ended_by_force_after_two_polls_and_what_it_saves_is_diverged() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    assert_eq!(one.driver.before_commit(&stage.ctx()).unwrap(), Commit::Good);
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: true });
    assert_eq!((stage.clock.now(), stage.end(1)), (15 * SECOND, 2));
    // It was about to commit, and learns afterwards that its snapshot does not count.
    assert_eq!(one.driver.after_commit(&stage.ctx()).unwrap(), Commit::Diverged { by: 2 });
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Ended { by: 2 });
    assert_eq!(one.driver.end(None, &stage.ctx()).unwrap(), Commit::Diverged { by: 2 });
}

#[test]
fn a_predecessor_that_yields_has_the_time_of_the_handover() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    let (yields, ctx) = (one.clone(), stage.ctx());
    // It takes its last snapshot for ever.
    stage.clock.meanwhile(move |_| {
        if let Hold::Superseded { .. } = yields.driver.tick(&ctx) {
            yields.driver.tick(&ctx);
        }
    });
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: true });
    assert_eq!((stage.end(1), stage.clock.now()), (2, (5 + 90) * SECOND));
}

#[test]
fn all_predecessors_are_waited_for_at_once() {
    let stage = Stage::new(1);
    let (one, two, three) = (stage.one(1), stage.one(2), stage.one(3));
    stage.run(&one);
    // While the second one waits it is paused, and the third one comes.
    let ctx = stage.ctx();
    let (takes, clock) = (three.clone(), stage.clock.clone());
    stage.clock.meanwhile(move |since| {
        if since == SECOND {
            assert_eq!(begun(takes.driver.begin(&ctx)), Begun { epoch: 3, forced: true });
            assert_eq!(clock.now(), 16 * SECOND);
        }
    });
    assert_eq!(two.driver.begin(&stage.ctx()).unwrap(), Start::Superseded { by: 3 });
    assert_eq!((stage.end(1), stage.end(2)), (3, 3));
}

#[test]
fn a_waiting_instance_comes_back_when_the_others_have_ended() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    stage.lives(&one);
    stage.run(&two);
    let (ends, ctx) = (two.clone(), stage.ctx());
    stage.clock.meanwhile(move |since| {
        if since >= 60 * SECOND {
            _ = ends.driver.end(None, &ctx);
        }
    });
    let began = stage.clock.now();
    assert_eq!(one.driver.wait_for_return(&stage.ctx()).unwrap(), Begun { epoch: 3, forced: false });
    assert!(stage.clock.now() - began < 70 * SECOND);
}

#[test]
fn a_waiting_instance_comes_back_when_its_successor_does_not_start_its_app() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    stage.run(&one);
    stage.lives(&one);
    assert_eq!(begun(two.driver.begin(&stage.ctx())).epoch, 2);
    stage.clock.meanwhile(|_| {});
    let began = stage.clock.now();
    assert_eq!(one.driver.wait_for_return(&stage.ctx()).unwrap(), Begun { epoch: 3, forced: true });
    let took = (stage.clock.now() - began).as_secs();
    assert!((90 + 240..90 + 240 + 25).contains(&took), "{took}");
    assert_eq!(two.driver.decided(None, &stage.ctx()).unwrap(), Go::Superseded { by: 3 });
}

#[test]
fn a_waiting_instance_asks_whether_the_other_lives_and_comes_back_when_it_does_not() {
    let place = SourceIdentity { boot: "b".into(), device: 1, inode: 2, born: Some(3), source: None, path: None };
    // On the same directory, too: the lock that it had there proves nothing any more.
    for locked in [None, Some(place)] {
        asks_until_it_is_dead(locked);
    }
}

fn asks_until_it_is_dead(locked: Option<SourceIdentity>) {
    let stage = Stage::new(1);
    let one =
        |run| stage.one_with(EpochOptions { host: "host".into(), locked: locked.clone(), ..stage.options(run) }, &[0]);
    let (one, two) = (one(1), one(2));
    stage.run(&one);
    stage.lives(&one);
    stage.run(&two);
    // It lives for half an hour, and dies.
    let (lives, ctx) = (two.clone(), stage.ctx());
    stage.clock.meanwhile(move |since| {
        if since < 1800 * SECOND {
            assert_eq!(lives.driver.tick(&ctx), Hold::Held);
        }
    });
    let began = stage.clock.now();
    let begun = one.driver.wait_for_return(&stage.ctx()).unwrap();
    // It has asked after 5 min, 10 min more and 20 min more.
    assert_eq!(begun, Begun { epoch: 5, forced: true });
    assert_eq!((stage.end(2), stage.end(3), stage.end(4)), (5, 3, 4));
    let took = (stage.clock.now() - began).as_secs();
    assert!((2100..2200).contains(&took), "{took}");
}

#[test]
fn whoever_ran_on_the_same_directory_is_not_waited_for() {
    let stage = Stage::new(1);
    let place = SourceIdentity { boot: "b".into(), device: 1, inode: 2, born: Some(3), source: None, path: None };
    let options = |run, inode| EpochOptions {
        host: "host".into(),
        locked: Some(SourceIdentity { inode, ..place.clone() }),
        ..stage.options(run)
    };
    stage.run(&stage.one_with(options(1, 2), &[0]));
    // It was killed, and another one has its lock.
    let two = stage.one_with(options(2, 2), &[0]);
    assert_eq!(begun(two.driver.begin(&stage.ctx())), Begun { epoch: 2, forced: true });
    assert_eq!(stage.clock.now(), Duration::ZERO);
    // A restore has replaced the directory before the app was started.
    two.driver.decided(None, &stage.ctx()).unwrap();
    two.driver.running(Some(SourceIdentity { inode: 9, ..place.clone() }), &stage.ctx());
    let three = stage.one_with(options(3, 9), &[0]);
    stage.run(&three);
    assert_eq!(stage.clock.now(), Duration::ZERO);
    // Another directory, a lock that it did not hold, another boot, another host, a filesystem without times of birth: it may live.
    let elsewhere = [
        EpochOptions { locked: None, ..options(4, 9) },
        EpochOptions { lock_runs: vec![Hex([2; 8])], ..options(4, 9) },
        options(4, 7),
        EpochOptions { host: "other".into(), ..options(4, 9) },
        EpochOptions { locked: Some(SourceIdentity { boot: "c".into(), inode: 9, ..place.clone() }), ..options(4, 9) },
        EpochOptions { locked: Some(SourceIdentity { born: None, inode: 9, ..place.clone() }), ..options(4, 9) },
    ];
    for options in elsewhere {
        let other = stage.one_with(options, &[0]);
        let seen = other.driver.survey(&mut other.driver.lock(Patience::Long), &stage.ctx()).unwrap();
        assert_eq!(seen.standing.live.map(|(number, _)| number), Some(3));
    }
}

#[test]
fn instances_that_name_the_vaults_in_different_orders_meet() {
    let stage = Stage::new(2);
    let one = stage.one_with(stage.options(1), &[0, 1]);
    let two = stage.one_with(stage.options(2), &[1, 0]);
    stage.run(&one);
    stage.lives(&one);
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: false });
    assert_eq!(stage.epochs(0), ["1", "1.end", "1.runs", "1.yields", "2"]);
    assert_eq!(stage.epochs(1), ["2", "2.runs"]);
    assert_eq!(stage.document(EpochRecord::Epoch, 2, EpochDocument::parse).successor, Some(2));
    // A signpost is nobody's epoch.
    let three = stage.one_with(stage.options(3), &[0, 1]);
    stage.lives(&two);
    assert_eq!(stage.run(&three), Begun { epoch: 3, forced: false });
}

#[test]
fn numbers_go_on_above_all_snapshots_and_far_ones_are_ignored() {
    let stage = Stage::new(2);
    stage.snapshot(1, 7);
    stage.vaults[0].create("epochs/4000000.json", &[b"{}"]).unwrap();
    let one = stage.one(1);
    assert_eq!(stage.run(&one).epoch, 8);
    let warnings = stage.monitor.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("the epoch 4000000"), "{warnings:?}");
    // The signpost shows the successor to whoever holds an older number.
    let two = stage.one(2);
    stage.snapshot(0, 11);
    stage.lives(&one);
    assert_eq!(stage.run(&two), Begun { epoch: 12, forced: false });
    assert_eq!(stage.document(EpochRecord::Epoch, 9, EpochDocument::parse).successor, Some(12));
}

#[test]
fn a_snapshot_of_a_greater_epoch_that_appears_later_is_noticed() {
    let stage = Stage::new(1);
    let one = stage.one(1);
    assert_eq!(begun(one.driver.begin(&stage.ctx())).epoch, 1);
    let newest = stage.snapshot(0, 3);
    assert_eq!(one.driver.decided(Some(newest), &stage.ctx()).unwrap(), Go::Again);
    assert_eq!(stage.run(&one), Begun { epoch: 4, forced: false });
    assert_eq!(one.driver.outnumbered(newest, &stage.ctx()), Hold::Held);
    let copied = stage.snapshot(0, 9);
    assert_eq!(one.driver.outnumbered(copied, &stage.ctx()), Hold::Ended { by: 9 });
    assert_eq!(one.driver.tick(&stage.ctx()), Hold::Ended { by: 9 });
    assert_eq!(one.driver.before_commit(&stage.ctx()).unwrap(), Commit::Diverged { by: 9 });
}

#[test]
fn an_instance_that_is_superseded_while_it_restores_does_not_start_its_app() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    assert_eq!(begun(one.driver.begin(&stage.ctx())).epoch, 1);
    let (restores, ctx) = (one.clone(), stage.ctx());
    stage.clock.meanwhile(move |since| {
        if since == 6 * SECOND {
            assert_eq!(restores.driver.tick(&ctx), Hold::Superseded { by: 2 });
            assert_eq!(restores.driver.decided(None, &ctx).unwrap(), Go::Superseded { by: 2 });
        }
    });
    assert_eq!(begun(two.driver.begin(&stage.ctx())), Begun { epoch: 2, forced: false });
    assert_eq!((stage.clock.now(), stage.end(1)), (6 * SECOND, 1));
}

#[test]
fn an_epoch_that_nobody_would_count_is_not_begun() {
    let stage = Stage::new(1);
    stage.vaults[0].create(&format!("epochs/{}.json", 1 << 20), &[b"{}"]).unwrap();
    let error = stage.one(1).driver.begin(&stage.ctx()).unwrap_err();
    assert!(error.what().contains("no number is left"), "{}", error.what());
}

#[test]
fn a_terminal_does_not_take_over_from_another_machine_unless_it_is_told_to() {
    let stage = Stage::new(1);
    let one = stage.one(1);
    stage.run(&one);
    let options = EpochOptions { on_terminal: true, ..stage.options(2) };
    let laptop = stage.one_with(options.clone(), &[0]);
    let error = laptop.driver.begin(&stage.ctx()).unwrap_err();
    assert_eq!(error.code(), Code::OtherWriter);
    assert!(error.what().contains("host-1 (revision-1), which began at"), "{}", error.what());
    assert_eq!(stage.epochs(0), ["1", "1.runs"]);
    stage.lives(&one);
    let laptop = stage.one_with(EpochOptions { take_over: true, ..options }, &[0]);
    assert_eq!(stage.run(&laptop).epoch, 2);
}

#[test]
fn two_instances_that_exit_and_are_restarted_take_turns_ever_more_slowly() {
    let stage = Stage::new(1);
    let mut runs = stage.one(1);
    stage.run(&runs);
    let mut times = Vec::new();
    for run in 2..12 {
        let next = stage.one(run);
        let (ends, ctx) = (runs.clone(), stage.ctx());
        let store = stage.vaults[0].clone();
        stage.clock.meanwhile(move |since| {
            let whole = jiff::SignedDuration::try_from(since).unwrap();
            store.set_ahead(whole);
            if let Hold::Superseded { .. } = ends.driver.tick(&ctx) {
                ends.driver.end(None, &ctx).unwrap();
            }
        });
        let began = stage.clock.now();
        stage.run(&next);
        times.push((stage.clock.now() - began).as_secs());
        stage.vaults[0].set_ahead(jiff::SignedDuration::ZERO);
        runs = next;
    }
    assert!(times[..2].iter().all(|time| *time <= 7) && times[3] >= 30 && times[9] >= 600, "{times:?}");
    assert!(stage.monitor.warnings().iter().any(|what| what.contains("two instances want to run the app at once")));
}

#[test]
fn whether_an_instance_would_wait_is_known_beforehand_and_costs_nothing_where_it_would_not() {
    let stage = Stage::new(1);
    let (one, two) = (stage.one(1), stage.one(2));
    assert!(!one.driver.would_wait(&stage.ctx()).unwrap());
    stage.run(&one);
    assert!(two.driver.would_wait(&stage.ctx()).unwrap());
    let laptop = stage.one_with(EpochOptions { on_terminal: true, ..stage.options(3) }, &[0]);
    assert!(!laptop.driver.would_wait(&stage.ctx()).unwrap(), "it is going to be refused");
    one.driver.end(None, &stage.ctx()).unwrap();
    two.places[0].calls();
    assert!(!two.driver.would_wait(&stage.ctx()).unwrap());
    assert_eq!(stage.run(&two), Begun { epoch: 2, forced: false });
    // As many as without having asked.
    let calls = two.places[0].calls();
    assert_eq!(counted(&calls), [("create", 2), ("get", 4), ("list", 3)].into(), "{calls:?}");
}

#[test]
fn an_instance_that_waits_since_two_want_to_run_starts_as_soon_as_the_other_has_ended() {
    let stage = Stage::new(1);
    let mut runs = stage.one(1);
    stage.run(&runs);
    for run in 2..=3 {
        let next = stage.one(run);
        stage.lives(&runs);
        stage.run(&next);
        runs = next;
    }
    let four = stage.one(4);
    let (ends, ctx, place) = (runs.clone(), stage.ctx(), four.places[0].clone());
    stage.clock.meanwhile(move |since| {
        // The vault is away for a moment as well.
        let is_away = (4 * SECOND..6 * SECOND).contains(&since);
        place.plan(move |_, _| is_away.then_some(Fault::Away));
        if since == 7 * SECOND {
            ends.driver.end(None, &ctx).unwrap();
        }
    });
    let began = stage.clock.now();
    assert_eq!(stage.run(&four), Begun { epoch: 4, forced: false });
    assert_eq!(stage.clock.now() - began, 10 * SECOND);
    let warnings = stage.monitor.warnings();
    assert_eq!(warnings.iter().filter(|what| what.contains("two instances want to run")).count(), 1, "{warnings:?}");
}
