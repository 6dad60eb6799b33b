//! Requests whose senders were promised a run, and what becomes of them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::job;
use crate::notify::{Notifier, Webhook, WebhookFilter};

/// A listener that is told of results, and what was in the vault each time: reports, and claims that are still open.
fn listener(world: &World) -> (Notifier, Receiver<(usize, usize)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (told, seen) = channel();
    let vault = world.vault();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let there = (count(&vault, "runs"), open_claims(&vault));
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1 << 16]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if told.send(there).is_err() {
                return;
            }
        }
    });
    (Notifier::new("//lastgood.dev/hosts/h".into(), None, Webhook::new(&url, WebhookFilter::All).ok(), None), seen)
}

pub fn promise(runner: &Runner, request: RunRequest) -> RunId {
    runner.promise(request, Channel::Http).ok().expect("it is promised")
}

/// The result and the number of events that the vault tells of a run.
pub fn told(world: &World, run: RunId) -> (String, usize) {
    let runner = world.runner();
    let report = runner
        .context(|ctx| idempotent::report_of(run, &runner.vaults, ctx))
        .unwrap()
        .expect("a report")
        .report
        .value();
    assert_eq!(report["run"], run.to_string());
    (report["result"].as_str().unwrap().to_owned(), report["events"].as_array().unwrap().len())
}

#[test]
fn each_run_that_was_promised_has_its_own_report_when_the_service_ends() {
    let world = World::new();
    let mut runner = world.runner();
    let (notify, seen) = listener(&world);
    runner.rules.notify = notify;
    let critical = |id| labelled(id, BackupReason::Critical, &[]);
    let verify = |id| RunRequest { action: Action::Verify, ..request(id) };
    let first = promise(&runner, request("1"));
    assert_eq!(promise(&runner, critical("2")), first);
    let others = ["3", "4", "5"].map(|id| promise(&runner, verify(id)));
    runner.stop.store(true, Ordering::Relaxed);
    runner.work();
    for (run, events) in [(first, 2), (others[0], 1), (others[1], 1), (others[2], 1)] {
        assert_eq!(told(&world, run), ("failed".to_owned(), events));
        let Some(RunProgress::Over(answer)) = runner.progress(run) else { panic!("{run} is not over") };
        assert_eq!(report(&answer)["run"], run.to_string());
    }
    let action = |run| report(&over(&runner, run))["action"].clone();
    assert_eq!((action(first), action(others[0])), ("backup".into(), "verify".into()));
    assert_eq!(runner.stats().runs, BTreeMap::from([(("backup", "failed"), 1), (("verify", "failed"), 3)]));
    // All of that was in the vault before anybody was told of anything.
    assert_eq!((seen.iter().take(4).collect::<Vec<_>>(), runner.last().is_some()), (vec![(4, 0); 4], true));
}

/// How a run ended.
pub fn over(runner: &Runner, run: RunId) -> Arc<Answer> {
    match runner.progress(run) {
        Some(RunProgress::Over(answer)) => answer,
        other => panic!("{run} is not over: {other:?}"),
    }
}

#[test]
fn whoever_is_told_of_a_run_finds_its_claim_settled() {
    let world = World::new();
    let (notify, seen) = listener(&world);
    let runner = || {
        let mut runner = world.runner();
        runner.rules.notify = notify.clone();
        runner
    };
    assert_eq!(report(&serve(&runner(), request("1")))["result"], "complete");
    assert_eq!(seen.recv().unwrap(), (1, 0));
    // A run ends when the service is told to stop: what was promised beside it has its report by then, too.
    let mut runner = runner();
    let stop = runner.stop.clone();
    let ticket = ask(&runner, request("2"));
    let verify = promise(&runner, RunRequest { action: Action::Verify, ..request("3") });
    runner.rules.backup.data = world.folder.path().join("none");
    let group = runner.next().expect("a run is due");
    stop.store(true, Ordering::Relaxed);
    runner.serve(group);
    assert!(ticket.answer.blocking_recv().is_ok());
    assert_eq!(told(&world, verify).0, "failed");
    assert_eq!([seen.recv().unwrap(), seen.recv().unwrap()], [(3, 0); 2]);
}

#[test]
fn what_is_promised_is_served_however_many_there_are() {
    let world = World::new();
    let mut runner = world.runner();
    runner.state.get_mut().unwrap().queue = Queue::new(Duration::ZERO, 2);
    let event = |n: usize| {
        let mut request = labelled("", BackupReason::Critical, &[]);
        request.event.message = Some(n.to_string());
        request
    };
    working(&runner, || {
        let promised = (1..=8).map(|n| runner.promise(event(n), Channel::Http).ok().expect("it is promised"));
        let runs: Vec<_> = promised.collect();
        // Events beyond the two of an hour wait; a backup that is run anyway takes them along.
        answered(&runner, request(""));
        let mut told = Vec::<usize>::new();
        for run in runs {
            let Some(RunProgress::Over(answer)) = runner.progress(run) else { panic!("{run} is not over") };
            let report = report(&answer);
            assert_eq!((&report["result"], &report["run"]), (&"complete".into(), &run.to_string().into()));
            told.extend(
                report["events"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(|event| event["message"].as_str()?.parse::<usize>().ok()),
            );
        }
        told.sort_unstable();
        told.dedup();
        assert_eq!(told, (1..=8).collect::<Vec<_>>());
    });
    // Each has its claim, and each is settled.
    assert_eq!((world.count("claims"), open_claims(&world.vault())), (8, 0));
}

/// The number of claims that are still open.
pub fn open_claims(vault: &Path) -> usize {
    let folders = fs::read_dir(vault.join("claims")).unwrap();
    folders.filter(|folder| fs::read_dir(folder.as_ref().unwrap().path()).unwrap().count() < 2).count()
}

#[test]
fn what_is_promised_and_may_not_be_served_any_more_has_a_report() {
    let world = World::new();
    let mut runner = world.runner();
    (runner.rules.allow_restore, runner.rules.restore_age) = (true, LONG);
    let mut dated = RunRequest { action: Action::Restore, ..request("1") };
    dated.event.time = Some(Timestamp::now());
    let undated = RunRequest { action: Action::Restore, ..request("") };
    let runs = [dated, undated].map(|request| promise(&runner, request));
    let asked = ask(&runner, RunRequest { action: Action::Restore, ..request("") });
    // They have waited for too long.
    runner.rules.restore_age = Duration::ZERO;
    working(&runner, || assert_eq!(report(&answered(&runner, request("2")))["result"], "complete"));
    for run in runs {
        assert_eq!(report(&over(&runner, run))["result"], "refused");
    }
    assert!(matches!(&*asked.answer.blocking_recv().unwrap(), Answer::Refused(_)));
    assert_eq!(world.count("runs"), 3);
    assert_eq!(open_claims(&world.vault()), 0);
}

#[test]
fn what_another_serves_is_not_promised() {
    let world = World::new();
    let before = serve(&world.runner(), request("1"));
    let runner = world.runner();
    let Err(NotPromised::Answered(Answer::Before(told))) = runner.promise(request("1"), Channel::Http) else {
        panic!()
    };
    assert_eq!(told.value(), report(&before));
    // Nor is a run promised that another instance has promised.
    let other = world.runner();
    other.promise(request("2"), Channel::Http).ok().expect("it is promised");
    let Err(NotPromised::Answered(Answer::Elsewhere(_))) = runner.promise(request("2"), Channel::Http) else {
        panic!()
    };
    assert!(lock(&runner.state).queue.clear().next().is_none());
}

/// Writes into a promise that its time is over, as if the instance that made it had been gone for long.
pub fn expire(world: &World, id: &str, n: u32) {
    let claim = claim_of(world, id).join(format!("{n}.json"));
    let mut body: Value = serde_json::from_slice(&fs::read(&claim).unwrap()).unwrap();
    body["promise"]["seconds"] = 0.into();
    fs::write(&claim, body.to_string()).unwrap();
}

/// The folder of an event's claims.
pub fn claim_of(world: &World, id: &str) -> PathBuf {
    world.vault().join(crate::claims::folder::folder(id))
}

#[test]
fn a_promise_whose_run_has_a_report_is_settled_by_that() {
    let world = World::new();
    assert_eq!(report(&serve(&world.runner(), request("0")))["result"], "complete");
    let runner = || {
        let mut runner = world.runner();
        runner.rules.allow_restore = true;
        runner
    };
    // The instance was killed when its report was stored, and before its claim was settled.
    let killed = runner();
    let done = promise(&killed, RunRequest { action: Action::Restore, ..request("1") });
    let failed = promise(&killed, RunRequest { action: Action::Verify, ..request("2") });
    let none = promise(&killed, RunRequest { action: Action::Verify, ..request("3") });
    for (run, id, found) in [(done, "1", true), (failed, "2", false)] {
        let action = if found { Action::Restore } else { Action::Verify };
        let mut job = killed.rules.job(&RunRequest { action, ..request(id) }, None);
        if let (job::Job::Restore(options), true) = (&mut job, found) {
            options.target = world.folder.path().join("restored");
        }
        let why = Error::failed("look", "it was so");
        killed.context(|ctx| match found {
            true => drop(job::run(run, &job, Origin::default(), &killed.vaults, ctx)),
            false => drop(job::not_run(run, &job, Origin::default(), why, &killed.vaults, ctx)),
        });
        expire(&world, id, 1);
    }
    expire(&world, "3", 1);
    let next = runner();
    working(&next, || {
        let began = Instant::now();
        while open_claims(&world.vault()) > 0 {
            assert!(began.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!([done, failed, none].map(|run| told(&world, run).0), ["complete", "failed", "failed"]);
    // There is one report for each run: of the first two nothing is reported again.
    assert_eq!(world.count("runs"), 4);
    let has = |id: &str, name: &str| claim_of(&world, id).join(name).exists();
    assert!(has("1", "done.json") && has("2", "1.failed.json") && has("3", "1.failed.json"));
}

/// Moves the beginning of a claim half an hour back: longer than a run may take, and not so long that the promise is over.
pub fn age(world: &World, id: &str, n: u32) {
    let claim = claim_of(world, id).join(format!("{n}.json"));
    let mut body: Value = serde_json::from_slice(&fs::read(&claim).unwrap()).unwrap();
    body["started"] = (Timestamp::now() - SignedDuration::from_mins(30)).to_string().into();
    fs::write(&claim, body.to_string()).unwrap();
}

#[test]
fn a_promise_that_another_instance_has_taken_over_is_not_served_again() {
    let world = World::new();
    assert_eq!(report(&serve(&world.runner(), request("0")))["result"], "complete");
    let restores = || {
        let mut runner = world.runner();
        runner.rules.allow_restore = true;
        runner
    };
    let restore = |id| RunRequest { action: Action::Restore, ..request(id) };
    // The instance is suspended, and another one gets the event.
    let suspended = restores();
    let runs = ["1", "2", "3"].map(|id| promise(&suspended, restore(id)));
    ["1", "2", "3"].into_iter().for_each(|id| age(&world, id, 1));
    assert_eq!(report(&serve(&restores(), restore("1")))["result"], "complete");
    let other = restores();
    promise(&other, restore("2"));
    // A promise that nobody has taken over is served, with its whole time.
    let file = world.folder.path().join("data/a");
    fs::write(&file, "newer").unwrap();
    let serve_next = || suspended.serve(suspended.next().expect("a run is due"));
    serve_next();
    serve_next();
    assert!(matches!(&*over(&suspended, runs[0]), Answer::Before(_)));
    assert!(matches!(&*over(&suspended, runs[1]), Answer::Elsewhere(_)));
    assert_eq!((world.count("runs"), fs::read_to_string(&file).unwrap()), (2, "newer".to_owned()));
    serve_next();
    assert_eq!(report(&over(&suspended, runs[2]))["result"], "complete");
    assert_eq!((world.count("runs"), fs::read_to_string(&file).unwrap()), (3, "one".to_owned()));
    // Each has a report, once it is clear what it came to.
    let mut watch = suspended.watch();
    suspended.check_promises(&mut watch, Instant::now());
    assert_eq!(told(&world, runs[0]), ("complete".to_owned(), 1));
    assert_eq!(report(&over(&suspended, runs[0]))["run"], runs[0].to_string());
    let none = world.runner().context(|ctx| idempotent::report_of(runs[1], &world.vaults(), ctx)).unwrap();
    assert!(none.is_none());
    other.stop.store(true, Ordering::Relaxed);
    other.work();
    suspended.check_promises(&mut watch, Instant::now());
    assert_eq!(told(&world, runs[1]), ("failed".to_owned(), 1));
    assert_eq!(report(&over(&suspended, runs[1]))["result"], "failed");
    assert_eq!(world.count("runs"), 6);
}

#[test]
fn what_was_promised_has_its_report_when_its_vault_is_back() {
    let world = World::new();
    let runner = world.runner();
    let runs = [promise(&runner, request("")), promise(&runner, request("1"))];
    let away = world.folder.path().join("away");
    fs::rename(world.vault(), &away).unwrap();
    fs::create_dir(world.vault()).unwrap();
    runner.serve(runner.next().expect("a run is due"));
    assert_eq!(report(&over(&runner, runs[0]))["result"], "failed");
    // Nothing was written, as there is no vault.
    fs::remove_dir(world.vault()).unwrap();
    let mut watch = runner.watch();
    runner.check_promises(&mut watch, Instant::now());
    assert_eq!(lock(&runner.state).obligations.unsettled.len(), 1);
    fs::rename(&away, world.vault()).unwrap();
    runner.check_promises(&mut watch, Instant::now());
    assert_eq!((told(&world, runs[0]), runs[1]), (("failed".to_owned(), 2), runs[0]));
    let left = lock(&runner.state).obligations.unsettled.len();
    assert_eq!((left, watch.promised.len(), open_claims(&world.vault())), (0, 0, 0));
}

#[test]
fn promises_are_looked_for_again_and_again() {
    let world = World::new();
    let runner = world.runner();
    let (mut watch, now) = (runner.watch(), Instant::now());
    runner.check_promises(&mut watch, now);
    // A run that begins later and is killed.
    let run = promise(&world.runner(), request("1"));
    expire(&world, "1", 1);
    runner.check_promises(&mut watch, now + Duration::from_secs(60));
    assert_eq!(open_claims(&world.vault()), 1);
    runner.check_promises(&mut watch, now + Duration::from_secs(660));
    assert_eq!((told(&world, run), open_claims(&world.vault())), (("failed".to_owned(), 1), 0));
}

/// Has another instance find that the time of all promises is over, and report them.
fn reported_elsewhere(world: &World) {
    let other = world.runner();
    let mut watch = other.watch();
    other.check_promises(&mut watch, Instant::now());
    assert_eq!((watch.promised.len(), open_claims(&world.vault())), (0, 0));
}

#[test]
fn what_another_instance_has_reported_as_not_served_is_not_run() {
    let world = World::new();
    assert_eq!(report(&serve(&world.runner(), request("0")))["result"], "complete");
    let mut suspended = world.runner();
    suspended.rules.allow_restore = true;
    // One run is promised for an event, another for a request that nobody else knows.
    let runs = ["1", ""].map(|id| promise(&suspended, RunRequest { action: Action::Restore, ..request(id) }));
    let backup = promise(&suspended, request(""));
    expire_all(&world);
    reported_elsewhere(&world);
    let file = world.folder.path().join("data/a");
    fs::write(&file, "newer").unwrap();
    for _ in 0..3 {
        suspended.serve(suspended.next().expect("a run is due"));
    }
    assert_eq!((world.snapshots(), fs::read_to_string(&file).unwrap()), (1, "newer".to_owned()));
    // There is one report for each, and none is owed.
    suspended.check_promises(&mut suspended.watch(), Instant::now());
    for run in [runs[0], runs[1], backup] {
        assert_eq!(
            (told(&world, run).0, report(&over(&suspended, run))["result"].clone()),
            ("failed".to_owned(), "failed".into())
        );
    }
    assert_eq!(world.count("runs"), 4);
}

/// Writes into all promises that their time is over.
fn expire_all(world: &World) {
    for folder in fs::read_dir(world.vault().join("claims")).unwrap() {
        let claim = folder.unwrap().path().join("1.json");
        let mut body: Value = serde_json::from_slice(&fs::read(&claim).unwrap()).unwrap();
        if body["promise"].is_object() {
            body["promise"]["seconds"] = 0.into();
            fs::write(&claim, body.to_string()).unwrap();
        }
    }
}

#[test]
fn a_promise_has_a_report_though_its_vault_fails_for_a_moment() {
    let world = World::new();
    let run = promise(&world.runner(), request("1"));
    expire(&world, "1", 1);
    // It cannot be seen whether its run left a snapshot.
    let snapshots = world.vault().join("snapshots");
    fs::write(&snapshots, "").unwrap();
    let next = world.runner();
    let mut watch = next.watch();
    next.check_promises(&mut watch, Instant::now());
    assert_eq!((watch.promised.len(), open_claims(&world.vault()), world.count("runs")), (1, 1, 0));
    fs::remove_file(&snapshots).unwrap();
    next.check_promises(&mut watch, Instant::now());
    assert_eq!((told(&world, run).0, watch.promised.len(), open_claims(&world.vault())), ("failed".to_owned(), 0, 0));
}

#[test]
fn a_promise_whose_claim_was_given_up_has_a_report() {
    let world = World::new();
    let runner = world.runner();
    let run = promise(&runner, RunRequest { action: Action::Verify, ..request("1") });
    fs::write(claim_of(&world, "1").join("1.failed.json"), format!("{{\"run\":\"{run}\"}}")).unwrap();
    runner.serve(runner.next().expect("a run is due"));
    assert_eq!((world.count("runs"), open_claims(&world.vault())), (0, 0));
    runner.check_promises(&mut runner.watch(), Instant::now());
    assert_eq!(
        (told(&world, run).0, report(&over(&runner, run))["result"].clone()),
        ("failed".to_owned(), "failed".into())
    );
}

#[test]
fn what_waits_for_a_vault_is_stored_when_the_service_ends() {
    for is_back in [true, false] {
        let world = World::new();
        let mut runner = world.runner();
        runner.rules.allow_restore = true;
        let backup = promise(&runner, request(""));
        let restore = promise(&runner, RunRequest { action: Action::Restore, ..request("") });
        let waiting = promise(&runner, RunRequest { action: Action::Verify, ..request("") });
        let away = world.folder.path().join("away");
        fs::rename(world.vault(), &away).unwrap();
        // One was run in vain, and one is not begun as its claim cannot be seen.
        runner.serve(runner.next().expect("a run is due"));
        runner.serve(runner.next().expect("a run is due"));
        if is_back {
            fs::rename(&away, world.vault()).unwrap();
        }
        runner.stop.store(true, Ordering::Relaxed);
        assert_eq!(runner.work(), is_back);
        if is_back {
            for run in [backup, restore, waiting] {
                assert_eq!(told(&world, run).0, "failed");
            }
            assert_eq!(world.count("runs"), 3);
        }
        assert!(is_back || !world.vault().exists());
    }
}

#[test]
fn what_another_instance_has_served_has_a_report_when_the_service_ends() {
    let world = World::new();
    let suspended = world.runner();
    let run = promise(&suspended, RunRequest { action: Action::Verify, ..request("1") });
    age(&world, "1", 1);
    assert_eq!(
        report(&serve(&world.runner(), RunRequest { action: Action::Verify, ..request("1") }))["result"],
        "complete"
    );
    suspended.serve(suspended.next().expect("a run is due"));
    suspended.stop.store(true, Ordering::Relaxed);
    assert!(suspended.work());
    assert_eq!(told(&world, run), ("complete".to_owned(), 1));
}

#[test]
fn what_is_answered_with_another_request_of_its_event_has_a_report() {
    let world = World::new();
    let runner = world.runner();
    let critical = |id| labelled(id, BackupReason::Critical, &[]);
    // After this run, further ones wait.
    drop(ask(&runner, critical("0")));
    runner.serve(runner.next().expect("a run is due"));
    let run = promise(&runner, critical("1"));
    age(&world, "1", 1);
    assert_eq!(report(&serve(&world.runner(), critical("1")))["result"], "complete");
    let again = ask(&runner, critical("1"));
    working(&runner, || assert!(matches!(&*again.answer.blocking_recv().unwrap(), Answer::Before(_))));
    assert_eq!(told(&world, run), ("complete".to_owned(), 1));
}
