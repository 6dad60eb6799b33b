//! Runs whose vault is away when they end, and what becomes of them.

use super::promises::{age, claim_of, over, promise, told};
use super::*;
use crate::job;

fn restores(world: &World) -> Runner {
    let mut runner = world.runner();
    runner.rules.allow_restore = true;
    runner
}

fn restore(id: &str) -> RunRequest {
    RunRequest { action: Action::Restore, ..request(id) }
}

/// Prevents reports from being stored as long as the value is kept.
struct Full(PathBuf, PathBuf);

impl Full {
    fn new(world: &World) -> Self {
        let (runs, away) = (world.vault().join("runs"), world.folder.path().join("away"));
        fs::rename(&runs, &away).unwrap();
        fs::write(&runs, "").unwrap();
        Full(runs, away)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
        fs::rename(&self.1, &self.0).unwrap();
    }
}

#[test]
fn a_restore_whose_report_no_vault_took_is_not_done_again() {
    let world = World::new();
    assert_eq!(report(&serve(&world.runner(), request("0")))["result"], "complete");
    let (runner, file) = (restores(&world), world.folder.path().join("data/a"));
    let full = Full::new(&world);
    let ticket = ask(&runner, restore("1"));
    let run = ticket.run;
    runner.serve(runner.next().expect("a run is due"));
    let done = ticket.answer.blocking_recv().unwrap();
    assert_eq!(report(&done)["result"], "complete");
    fs::write(&file, "newer").unwrap();
    // If the event is delivered again, it is answered by what is remembered.
    let again = ask(&runner, restore("1"));
    runner.serve(runner.next().expect("a run is due"));
    let again = again.answer.blocking_recv().unwrap();
    assert!(matches!(&*again, Answer::Before(before) if before.value() == report(&done)), "{again:?}");
    drop(full);
    assert!(runner.settle_again(|_| true) && claim_of(&world, "1").join("done.json").exists());
    assert_eq!(told(&world, run).0, "complete");
    assert!(matches!(&*serve(&restores(&world), restore("1")), Answer::Before(_)));
    // The instance was killed when its report was stored, and before its claim said so.
    fs::remove_file(claim_of(&world, "1").join("done.json")).unwrap();
    age(&world, "1", 1);
    assert!(matches!(&*serve(&restores(&world), restore("1")), Answer::Before(_)));
    assert_eq!((fs::read_to_string(&file).unwrap(), world.count("runs")), ("newer".to_owned(), 2));
}

#[test]
fn a_restore_that_no_vault_knows_of_is_not_done_again_when_the_time_of_its_claim_is_over() {
    let world = World::new();
    assert_eq!(report(&serve(&world.runner(), request("0")))["result"], "complete");
    let (runner, file) = (restores(&world), world.folder.path().join("data/a"));
    let full = Full::new(&world);
    let ticket = ask(&runner, restore("1"));
    runner.serve(runner.next().expect("a run is due"));
    let done = ticket.answer.blocking_recv().unwrap();
    assert_eq!(report(&done)["result"], "complete");
    fs::write(&file, "newer").unwrap();
    let known = |answer: &Answer| matches!(answer, Answer::Before(before) if before.value() == report(&done));
    // The vault was away and is back, but nothing is noted yet.
    let away = world.folder.path().join("vault-away");
    fs::rename(world.vault(), &away).unwrap();
    assert!(known(&runner.served_before("1").expect("it is known")));
    for back in [false, true] {
        if back {
            fs::rename(&away, world.vault()).unwrap();
            age(&world, "1", 1);
        }
        let again = ask(&runner, restore("1"));
        runner.serve(runner.next().expect("a run is due"));
        assert!(known(&again.answer.blocking_recv().unwrap()));
        assert!(
            matches!(runner.promise(restore("1"), Channel::Http), Err(NotPromised::Answered(answer)) if known(&answer))
        );
    }
    assert!(!claim_of(&world, "1").join("2.json").exists());
    drop(full);
    // Once the vault says so, it is asked.
    assert!(runner.settle_again(|_| true) && lock(&runner.state).obligations.done.is_empty());
    assert!(matches!(&*serve(&runner, restore("1")), Answer::Before(_)));
    assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
}

#[test]
fn what_failed_as_its_vault_was_away_is_served_as_soon_as_that_is_back() {
    let world = World::new();
    let runner = world.runner();
    let run = ask(&runner, request("1")).run;
    let group = runner.next().expect("a run is due");
    let away = world.folder.path().join("away");
    runner.context(|ctx| {
        let (claims, _) = runner.claim_all(run, &group, ctx);
        let mine: Vec<_> = group.into_iter().zip(claims.into_iter().map(|claim| claim.ok().unwrap())).collect();
        fs::rename(world.vault(), &away).unwrap();
        let job = runner.job(&mine, Instant::now() + LONG).unwrap();
        let ran = job::run(run, &job, Origin::default(), &runner.vaults, ctx);
        assert_eq!((ran.report.result, ran.stored.is_some()), (Outcome::Failed, false));
        let claims: Vec<_> = runner.close_all(&mine, &ran, ctx).into_iter().filter_map(|(_, left)| left).collect();
        assert_eq!(claims.len(), 1);
        runner.know(run, RunProgress::Over(Arc::new(Answer::from_job(&ran))));
        runner.keep(UnsettledRun { ran, claims, promised: false });
    });
    assert!(!runner.settle_again(|_| true) && runner.is_unsettled(run));
    fs::rename(&away, world.vault()).unwrap();
    lock(&runner.state).running = None;
    let again = serve(&runner, request("1"));
    assert!(matches!(&*again, Answer::Done { outcome: Outcome::Complete, .. }), "{again:?}");
    assert_eq!(told(&world, run).0, "failed");
    assert!(claim_of(&world, "1").join("1.failed.json").exists() && !runner.is_unsettled(run));
}

#[test]
fn a_run_that_failed_is_not_told_as_what_another_one_did_for_one_of_its_events() {
    let world = World::new();
    let mut runner = world.runner();
    let run = promise(&runner, request(""));
    assert_eq!(promise(&runner, request("1")), run);
    age(&world, "1", 1);
    assert_eq!(report(&serve(&world.runner(), request("1")))["result"], "complete");
    runner.rules.backup.data = world.folder.path().join("none");
    let full = Full::new(&world);
    runner.serve(runner.next().expect("a run is due"));
    assert_eq!(report(&over(&runner, run))["result"], "failed");
    let mut watch = runner.watch();
    runner.check_promises(&mut watch, Instant::now());
    drop(full);
    runner.check_promises(&mut watch, Instant::now());
    assert_eq!((told(&world, run), world.count("runs")), (("failed".to_owned(), 1), 2));
}

#[test]
fn a_vault_that_is_away_is_not_waited_for_by_each_run() {
    let world = World::new();
    let mut runner = world.runner();
    let none = VaultPool::new(Vec::new(), Cloud::default(), Arc::default());
    for n in 0..200 {
        let job = runner.rules.job(&RunRequest { action: Action::Verify, ..request("") }, None);
        let (run, why) = (crate::vault::hex::Hex([n; 8]), Error::failed("look", "it was so"));
        let ran = runner.context(|ctx| job::not_run(run, &job, Origin::default(), why, &none, ctx));
        runner.keep(UnsettledRun { ran, claims: Vec::new(), promised: n == 100 });
    }
    let bucket = Address::Bucket { bucket: "nobody".into(), prefix: String::new() };
    let patience = Duration::from_secs(1);
    let cloud = Cloud { emulator: Some("http://127.0.0.1:1".into()), patience, ..Cloud::default() };
    runner.vaults = Arc::new(VaultPool::new(vec![bucket], cloud, runner.stop.clone()));
    let began = Instant::now();
    assert!(!runner.settle_again(|_| true));
    assert!(began.elapsed() < Duration::from_secs(100), "{:?}", began.elapsed());
    // The promised run was tried first, and has its turn again after the others.
    let state = lock(&runner.state);
    assert_eq!(state.obligations.unsettled.len(), 200);
    assert!(state.obligations.unsettled.last().is_some_and(|last| last.promised));
}

#[test]
fn at_the_end_a_run_counts_whose_report_no_vault_took_if_it_was_promised_or_is_a_restore() {
    let world = World::new();
    assert_eq!(report(&serve(&world.runner(), request("0")))["result"], "complete");
    let ends_well = |action, promised: bool| {
        let (runner, asked) = (restores(&world), RunRequest { action, ..request(&format!("{action:?} {promised}")) });
        let ticket = if promised { Err(promise(&runner, asked)) } else { Ok(ask(&runner, asked)) };
        let full = Full::new(&world);
        runner.serve(runner.next().expect("a run is due"));
        assert!(!runner.settle_again(|_| true));
        let well = runner.is_all_settled();
        drop((full, ticket));
        assert!(runner.settle_again(|_| true) && runner.is_all_settled());
        well
    };
    assert_eq!([true, false].map(|promised| ends_well(Action::Restore, promised)), [false, false]);
    assert_eq!([true, false].map(|promised| ends_well(Action::Verify, promised)), [false, true]);
    // It has its report, but its claim does not say so.
    let runner = world.runner();
    let (run, why) = (crate::vault::hex::Hex([7; 8]), Error::failed("look", "it was so"));
    let job = runner.rules.job(&request("7"), None);
    let ran = runner.context(|ctx| job::not_run(run, &job, Origin::default(), why, &runner.vaults, ctx));
    assert!(ran.stored.is_some());
    runner.keep(UnsettledRun { ran, claims: vec![idempotent::tests::held()], promised: true });
    assert!(runner.is_unsettled(run) && runner.is_all_settled());
}
