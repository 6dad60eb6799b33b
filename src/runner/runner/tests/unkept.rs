//! Promises that one instance does not keep, and what others say of them.

use super::promises::{claim_of, expire, open_claims, over, promise, told};
use super::*;

fn restores(world: &World) -> Runner {
    let mut runner = world.runner();
    runner.rules.allow_restore = true;
    runner
}

fn restore(id: &str) -> RunRequest {
    RunRequest { action: Action::Restore, ..request(id) }
}

#[test]
fn a_report_that_is_stored_late_counts_for_more_than_one_that_says_nothing_was_done() {
    let world = World::new();
    assert_eq!(report(&serve(&world.runner(), request("0")))["result"], "complete");
    let runner = restores(&world);
    let run = promise(&runner, restore("1"));
    let (runs, away) = (world.vault().join("runs"), world.folder.path().join("away"));
    // No vault takes the report for a while, in which another instance reports the run as failed.
    fs::rename(&runs, &away).unwrap();
    fs::write(&runs, "").unwrap();
    runner.serve(runner.next().expect("a run is due"));
    assert_eq!(report(&over(&runner, run))["result"], "complete");
    fs::remove_file(&runs).unwrap();
    fs::rename(&away, &runs).unwrap();
    expire(&world, "1", 2);
    let other = world.runner();
    other.check_promises(&mut other.watch(), Instant::now());
    assert_eq!((told(&world, run).0, open_claims(&world.vault())), ("failed".to_owned(), 0));
    runner.check_promises(&mut runner.watch(), Instant::now());
    assert_eq!((world.count("runs"), told(&world, run).0), (3, "complete".to_owned()));
    let vault = other.context(|ctx| other.vaults.first(ctx)).unwrap();
    assert_eq!(crate::report::find(&*vault.store, &run.to_string()).unwrap()["result"], "complete");
    // Whoever asks either of them is told by the vault.
    assert!(other.progress(run).is_none() && runner.progress(run).is_none());
    assert!(claim_of(&world, "1").join("done.json").exists());
}

#[test]
fn what_did_not_live_to_tell_may_have_been_done() {
    let world = World::new();
    let runs = ["1", "2", "3"].map(|id| {
        let action = [Action::Backup, Action::Restore, Action::Verify][id.parse::<usize>().unwrap() - 1];
        promise(&restores(&world), RunRequest { action, ..request(id) })
    });
    ["1", "2", "3"].into_iter().for_each(|id| expire(&world, id, 1));
    let next = world.runner();
    next.check_promises(&mut next.watch(), Instant::now());
    for (run, look) in runs.into_iter().zip(["lastgood list", ".replaced-", "ask for it once more"]) {
        let kept = next
            .context(|ctx| idempotent::report_of(run, &next.vaults, ctx))
            .unwrap()
            .expect("a report")
            .report
            .value();
        let (error, hint) = (kept["error"]["error"].as_str().unwrap(), kept["error"]["hint"].as_str().unwrap());
        assert!(error.contains("it is not known whether it was done") && hint.contains(look), "{error} {hint}");
    }
}

#[test]
fn a_promise_whose_run_has_begun_meanwhile_has_its_whole_time() {
    let world = World::new();
    let runner = world.runner();
    let run = promise(&runner, request("1"));
    let other = world.runner();
    let (mut watch, now) = (other.watch(), Instant::now());
    other.check_promises(&mut watch, now);
    // It begins, and renews its claim, before its time is over.
    let group = runner.next().expect("a run is due");
    let (claims, _) = runner.context(|ctx| runner.claim_all(run, &group, ctx));
    assert!(claims.iter().all(Result::is_ok) && claim_of(&world, "1").join("2.json").exists());
    let later = now + Duration::from_secs(7 * 24 * 3600);
    other.check_promises(&mut watch, later);
    assert_eq!((watch.promised.len(), world.count("runs")), (1, 0));
    // It is killed, and the time from then on is over.
    expire(&world, "1", 2);
    other.check_promises(&mut watch, later);
    assert_eq!((watch.promised.len(), told(&world, run).0), (0, "failed".to_owned()));
    assert!(claim_of(&world, "1").join("2.failed.json").exists());
}
