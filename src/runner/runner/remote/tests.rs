//! A runner whose runs others do: threads stand for executions of the job.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::{fs, thread};

use super::*;
use crate::claims::name::ClaimName;
use crate::events::decoded::RunRequest;
use crate::gcp::cloud::Cloud;
use crate::monitor::{LogMonitor, system_random};
use crate::replicas::pool::VaultPool;
use crate::report::{Event, Outcome, RunEnvironment};
use crate::runner::remote_worker::{self, WorkerOutcome};
use crate::runner::runner::tests::report;
use crate::runner::runner::{Rules, Ticket};
use crate::store::address::Address;
use crate::vault::Vault;
use crate::vault::root::BackupReason;

const LONG: Duration = Duration::from_secs(600);

/// A data directory, a folder for the vault, and the executions that were asked for.
struct World {
    folder: tempfile::TempDir,
    /// The names of the vaults' folders.
    names: &'static [&'static str],
    asked: Mutex<Vec<ClaimName>>,
    executions: AtomicUsize,
}

impl World {
    fn bare() -> Arc<Self> {
        World::of(&["vault"])
    }

    fn of(names: &'static [&'static str]) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("data/a"), "one").unwrap();
        Arc::new(World { folder, names, asked: Mutex::default(), executions: AtomicUsize::new(0) })
    }

    fn new() -> Arc<Self> {
        let world = World::bare();
        let vaults = world.vaults();
        Vault::init(vaults.store(&vaults.addresses()[0]).unwrap(), system_random).unwrap();
        world
    }

    fn vaults(&self) -> VaultPool {
        let folders = self.names.iter().map(|name| Address::Folder(self.folder.path().join(name)));
        VaultPool::new(folders.collect(), Cloud::default(), Arc::default())
    }

    fn rules(&self, place: RunEnvironment) -> Rules {
        Rules { allow_restore: true, place, ..Rules::plain(self.folder.path().join("data")) }
    }

    /// A runner that starts the job by this function.
    fn runner(
        self: &Arc<Self>,
        start: impl Fn(&Arc<World>, &ClaimName) -> Result<()> + Send + Sync + 'static,
    ) -> Arc<Runner> {
        self.runner_with(start, |_| {})
    }

    fn runner_with(
        self: &Arc<Self>,
        start: impl Fn(&Arc<World>, &ClaimName) -> Result<()> + Send + Sync + 'static,
        change: impl FnOnce(&mut Rules),
    ) -> Arc<Runner> {
        let world = self.clone();
        let start = move |name: &ClaimName, _: &Context| {
            world.asked.lock().unwrap().push(name.clone());
            start(&world, name).map(|()| Some("executions/long-abcde".to_owned()))
        };
        let (job, poll) = ("long".to_owned(), Duration::from_millis(10));
        let dispatch = Dispatch { job, start: Arc::new(start), wait: LONG, poll, begin: LONG };
        let mut rules = self.rules(RunEnvironment::default());
        rules.dispatch = Some(dispatch);
        change(&mut rules);
        Arc::new(Runner::new(rules, Arc::new(self.vaults()), Arc::new(LogMonitor), system_random, Arc::default()))
    }

    /// An execution of the job.
    fn execute(&self, name: &ClaimName) -> WorkerOutcome {
        let number = self.executions.fetch_add(1, Ordering::Relaxed);
        let place = RunEnvironment { execution: Some(format!("long-{number:05}")), ..RunEnvironment::default() };
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 1, parallel: 2, stop: &stop, monitor: &LogMonitor };
        remote_worker::run(name, &self.rules(place), &self.vaults(), &ctx).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.folder.path().join("vault").join(folder)).map_or(0, Iterator::count)
    }
}

/// Starts an execution as Cloud Run does: it comes some time after the answer.
fn at_once(world: &Arc<World>, name: &ClaimName) -> Result<()> {
    let (world, name) = (world.clone(), name.clone());
    thread::spawn(move || world.execute(&name));
    Ok(())
}

fn request(id: &str, action: Action) -> RunRequest {
    let identity = Some(id.to_owned()).filter(|id| !id.is_empty());
    let event = Event { identity, ..Event::default() };
    RunRequest { action, reason: BackupReason::Manual, labels: BTreeMap::new(), snapshot: None, event }
}

fn ask(runner: &Runner, request: RunRequest) -> Ticket {
    runner.submit(request, Channel::Http).unwrap_or_else(|answer| panic!("{answer:?}"))
}

fn backup(runner: &Runner, id: &str) -> Ticket {
    ask(runner, request(id, Action::Backup))
}

/// Lets a runner work while `look` is called.
fn working<T>(runner: &Runner, look: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        scope.spawn(|| runner.work());
        let stop = Stop(runner);
        let seen = look();
        drop(stop);
        seen
    })
}

/// Stops the runner, also when a test fails.
struct Stop<'d>(&'d Runner);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(ticket: Ticket) -> Arc<Answer> {
    ticket.answer.blocking_recv().unwrap()
}

#[track_caller]
fn wait_for(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: it does not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_job_does_the_run_and_the_answer_is_its_report() {
    let world = World::new();
    let runner = world.runner(at_once);
    let mut wanted = request("a", Action::Backup);
    wanted.reason = BackupReason::Critical;
    wanted.labels.insert("service".into(), "shop".into());
    let ticket = ask(&runner, wanted);
    let run = ticket.run;
    working(&runner, || {
        let answer = answer(ticket);
        assert!(matches!(&*answer, Answer::Done { outcome: Outcome::Complete, retry: false, .. }), "{answer:?}");
        let told = report(&answer).clone();
        assert_eq!((&told["run"], &told["place"]["execution"]), (&run.to_string().into(), &"long-00000".into()));
        assert!(matches!(runner.progress(run), Some(RunProgress::Over(over)) if report(&over) == told));
        // The run is counted like any other.
        let (tally, last) = (runner.stats(), runner.last().unwrap());
        assert_eq!((tally.runs[&("backup", "complete")], last.run), (1, run));
        assert!(tally.uploaded > 0 && tally.success.contains_key("backup"));
        assert_eq!(runner.running(), None);
        // A redelivery, and requests without an identity.
        assert_eq!(report(&self::answer(backup(&runner, "a"))), told);
        for _ in 0..2 {
            assert_eq!(report(&self::answer(backup(&runner, "")))["result"], "complete");
        }
    });
    assert_eq!((world.asked(), world.count("snapshots")), (3, 3));
}

#[test]
fn what_comes_while_a_backup_is_away_shares_the_next_and_a_verification_passes() {
    let world = World::new();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let through = gate.clone();
    // The first backup waits until `gate` is open; all other runs are done at once.
    let runner = world.runner(move |world, name| {
        if world.asked() > 1 {
            return at_once(world, name);
        }
        let (through, name, world) = (through.clone(), name.clone(), world.clone());
        thread::spawn(move || {
            drop(through.lock());
            world.execute(&name)
        });
        Ok(())
    });
    let first = backup(&runner, "a");
    let run = first.run;
    working(&runner, || {
        wait_for("the start", || world.asked() == 1);
        wait_for("it is away", || runner.running() == Some(run) && lock(&runner.state).remote.first() == Some(run));
        let (second, third) = (backup(&runner, "b"), backup(&runner, "c"));
        let second_again = backup(&runner, "b");
        let restore = ask(&runner, request("d", Action::Restore));
        let verify = answer(ask(&runner, request("e", Action::Verify)));
        assert_eq!((&report(&verify)["action"], &report(&verify)["result"]), (&"verify".into(), &"complete".into()));
        // The same event again waits with the others, as when its answer was lost.
        let again = backup(&runner, "a");
        assert_eq!((world.asked(), second.run, again.run), (2, third.run, third.run));
        assert!(matches!(runner.progress(second.run), Some(RunProgress::Waiting)));
        assert!(matches!(runner.progress(restore.run), Some(RunProgress::Waiting)));
        drop(closed);
        let first = answer(first);
        assert_eq!(report(&first)["run"], run.to_string());
        let (second, third) = (answer(second), answer(third));
        assert_eq!((report(&second), report(&second)["events"].as_array().unwrap().len()), (report(&third), 2));
        assert_eq!(report(&answer(again)), report(&first));
        assert_eq!(report(&answer(second_again)), report(&second));
        assert_eq!(report(&answer(restore))["result"], "complete");
    });
    assert_eq!((world.asked(), world.count("snapshots")), (4, 2));
}

#[test]
fn a_job_that_cannot_be_started_is_a_run_that_failed() {
    let world = World::new();
    let fails = Arc::new(AtomicBool::new(true));
    let failing = fails.clone();
    let runner = world.runner(move |world, name| match failing.load(Ordering::Relaxed) {
        true => Err(Error::failed("start the job long", "403 Forbidden").hint("Grant the role.")),
        false => at_once(world, name),
    });
    let tickets = [backup(&runner, "a"), backup(&runner, "b")];
    working(&runner, || {
        for answer in tickets.map(answer) {
            assert!(matches!(&*answer, Answer::Done { outcome: Outcome::Failed, retry: true, .. }), "{answer:?}");
            assert!(report(&answer)["error"]["error"].as_str().unwrap().contains("403"));
        }
        assert_eq!((world.count("runs"), runner.last().unwrap().result), (1, Outcome::Failed));
        // A redelivery tries again; and one whose job begins all the same is served.
        fails.store(false, Ordering::Relaxed);
        assert_eq!(report(&answer(backup(&runner, "a")))["result"], "complete");
    });
    let runner = world.runner(|world, name| {
        assert!(matches!(world.execute(name), WorkerOutcome::Ran(_)));
        Err(Error::unreachable("start the job long", "no answer"))
    });
    let ticket = backup(&runner, "c");
    let answer = working(&runner, || answer(ticket));
    assert_eq!(report(&answer)["result"], "complete");
    assert_eq!(world.count("snapshots"), 2);
}

#[test]
fn a_vault_that_does_not_open_is_told_for_what_it_is() {
    let world = World::bare();
    fs::write(world.folder.path().join("vault"), "no folder").unwrap();
    let runner = world.runner(at_once);
    let ticket = backup(&runner, "a");
    let answer = working(&runner, || answer(ticket));
    let Answer::Done { retry: true, report, .. } = &*answer else { panic!("{answer:?}") };
    let said = report.error().unwrap();
    assert!(said.contains("Not a directory") && said.contains("have the job long do the run"), "{said}");
    assert_eq!(world.asked(), 0);
}

#[test]
fn a_job_that_never_begins_is_given_up_and_does_nothing_later() {
    let world = World::new();
    let runner =
        world.runner_with(|_, _| Ok(()), |rules| rules.dispatch.as_mut().unwrap().begin = Duration::from_millis(50));
    let ticket = backup(&runner, "a");
    let run = ticket.run;
    working(&runner, || {
        let answer = answer(ticket);
        assert!(matches!(&*answer, Answer::Done { outcome: Outcome::Failed, retry: true, .. }), "{answer:?}");
        assert!(report(&answer)["error"]["error"].as_str().unwrap().contains("has not begun"));
        assert!(matches!(runner.progress(run), Some(RunProgress::Over(_))) && runner.running().is_none());
    });
    let name = world.asked.lock().unwrap()[0].clone();
    assert!(matches!(world.execute(&name), WorkerOutcome::Nothing(_)));
    assert_eq!(world.count("snapshots"), 0);
}

#[test]
fn a_job_that_dies_holds_up_others_no_longer_than_the_time_limit() {
    let world = World::new();
    let dies = |world: &Arc<World>, name: &ClaimName| match world.asked() {
        1 => {
            let vault = world.vaults().store(&world.vaults().addresses()[0]).and_then(Vault::open)?;
            let dispatch_request = DispatchRequest::read(&*vault.store, name)?.unwrap();
            TakenBy { run: dispatch_request.run, by: "long-abcde/0".into() }.take(&*vault.store, name).map(drop)
        }
        _ => at_once(world, name),
    };
    let runner = world.runner_with(dies, |rules| rules.run_timeout = Duration::from_secs(1));
    let ticket = backup(&runner, "a");
    working(&runner, || {
        let answer = answer(ticket);
        assert!(matches!(&*answer, Answer::Done { outcome: Outcome::Failed, retry: true, .. }), "{answer:?}");
        assert!(report(&answer)["error"]["error"].as_str().unwrap().contains("time limit"));
        assert!(runner.running().is_none());
        // The run has a report, and nobody has to wait for the end of its claim.
        let vault = Vault::open(world.vaults().store(&world.vaults().addresses()[0]).unwrap()).unwrap();
        let folder = world.asked.lock().unwrap()[0].folder();
        let objects = vault.store.list(&folder).unwrap();
        assert!(objects.iter().any(|object| object.name.ends_with("/1.failed.json")), "{objects:?}");
        assert_eq!(world.count("runs"), 1);
    });
    // An instance with more time takes over what has expired for it as well.
    let runner = world.runner_with(at_once, |rules| rules.run_timeout = Duration::from_secs(1));
    let ticket = backup(&runner, "a");
    let answer = working(&runner, || answer(ticket));
    // On a busy machine the second may run out again.
    if let Answer::Done { report, .. } = &*answer {
        assert_eq!(report.value()["result"], "complete");
    } else {
        assert!(matches!(&*answer, Answer::Later(..)), "{answer:?}");
    }
    assert_eq!(world.asked(), 2);
}

#[test]
fn a_job_that_fails_is_asked_for_again() {
    let world = World::new();
    let away = world.folder.path().join("away");
    fs::rename(world.folder.path().join("data"), &away).unwrap();
    let runner = world.runner(at_once);
    let ticket = backup(&runner, "a");
    working(&runner, || {
        let failed = answer(ticket);
        assert!(matches!(&*failed, Answer::Done { outcome: Outcome::Failed, retry: true, .. }), "{failed:?}");
        assert!(report(&failed)["error"]["error"].as_str().unwrap().contains("does not exist"));
        fs::rename(&away, world.folder.path().join("data")).unwrap();
        assert_eq!(report(&answer(backup(&runner, "a")))["result"], "complete");
    });
}

#[test]
fn when_the_service_ends_the_job_goes_on() {
    let world = World::new();
    let runner = world.runner(|_, _| Ok(()));
    let ticket = backup(&runner, "a");
    working(&runner, || wait_for("the start", || lock(&runner.state).remote.first().is_some()));
    assert!(matches!(&*answer(ticket), Answer::Elsewhere(_)));
    // Another instance finds the claim, and then the report.
    let runner = world.runner(|_, _| panic!("it is started twice"));
    let ticket = backup(&runner, "a");
    assert!(matches!(&*working(&runner, || answer(ticket)), Answer::Elsewhere(_)));
    let name = world.asked.lock().unwrap()[0].clone();
    assert!(matches!(world.execute(&name), WorkerOutcome::Ran(_)));
    let runner = world.runner(|_, _| panic!("it is started twice"));
    let ticket = backup(&runner, "a");
    let answer = working(&runner, || answer(ticket));
    assert!(matches!(&*answer, Answer::Before(report) if report.value()["result"] == "complete"), "{answer:?}");
}

#[test]
fn without_a_vault_no_job_is_started() {
    let world = World::bare();
    let runner = world.runner(|_, _| panic!("it is started"));
    let ticket = backup(&runner, "a");
    let answer = working(&runner, || answer(ticket));
    assert!(matches!(&*answer, Answer::Done { outcome: Outcome::Failed, retry: true, .. }), "{answer:?}");
    assert!(report(&answer)["error"]["hint"].as_str().unwrap().contains("lastgood init"), "{answer:?}");
}

#[tokio::test]
async fn a_request_waits_no_longer_than_it_may() {
    let world = World::new();
    let runner = world.runner(|_, _| Ok(()));
    let ticket = backup(&runner, "a");
    let answer = ticket.answer_within(Some(Duration::from_millis(20))).await;
    assert!(matches!(&*answer, Answer::Elsewhere(after) if after.as_secs() == 60), "{answer:?}");
}

#[test]
fn what_was_promised_has_its_whole_time_when_its_job_begins() {
    let world = World::new();
    let runner = world.runner(at_once);
    let run = runner.promise(request("a", Action::Backup), Channel::Http).ok().expect("it is promised");
    let path = fs::read_dir(world.folder.path().join("vault/claims")).unwrap().next().unwrap().unwrap().path();
    let claim = |n: u32| fs::read_to_string(path.join(format!("{n}.json"))).unwrap();
    // It waits for longer than a run may take.
    let first = claim(1);
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let mut old = read(&first);
    old["started"] = "2020-01-01T00:00:00Z".into();
    fs::write(path.join("1.json"), old.to_string()).unwrap();
    working(&runner, || wait_for("the run is over", || matches!(runner.progress(run), Some(RunProgress::Over(_)))));
    let Some(RunProgress::Over(answer)) = runner.progress(run) else { panic!() };
    assert_eq!((&report(&answer)["result"], &report(&answer)["run"]), (&"complete".into(), &run.to_string().into()));
    let (first, second) = (read(&first), read(&claim(2)));
    assert_eq!((&second["run"], &second["promise"]), (&first["run"], &first["promise"]));
    assert!(path.join("done.json").exists() && world.asked() == 1);
}

#[test]
fn a_job_that_was_killed_when_it_had_told_how_it_ended_is_not_reported_again() {
    let world = World::new();
    let dies = |world: &Arc<World>, name: &ClaimName| {
        assert!(matches!(world.execute(name), WorkerOutcome::Ran(_)));
        let vault = world.folder.path().join("vault");
        for object in [format!("{}done.json", name.folder()), name.object("taken")] {
            fs::remove_file(vault.join(object)).map_err(|why| Error::io("remove it", &why))?;
        }
        Ok(())
    };
    let runner = world.runner_with(dies, |rules| rules.dispatch.as_mut().unwrap().begin = Duration::ZERO);
    let ticket = backup(&runner, "a");
    let (run, vault) = (ticket.run, world.folder.path().join("vault"));
    working(&runner, || {
        let answer = answer(ticket);
        assert_eq!(
            (&report(&answer)["result"], &report(&answer)["run"]),
            (&"complete".into(), &run.to_string().into())
        );
    });
    let folder = vault.join(world.asked.lock().unwrap()[0].folder());
    assert!(folder.join("done.json").exists() && world.count("runs") == 1);
}

#[test]
fn what_was_promised_in_two_vaults_is_served_in_each() {
    let world = World::of(&["vault", "second"]);
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &system_random, threads: 1, parallel: 2, stop: &stop, monitor: &LogMonitor };
    crate::replicas::init(world.vaults().sites(true).unwrap(), &ctx).unwrap();
    let runner = world.runner(at_once);
    let promise = |id| runner.promise(request(id, Action::Backup), Channel::Http).ok().expect("it is promised");
    let first = promise("a");
    // While the first vault is away, claims are in the second.
    let (vault, away) = (world.folder.path().join("vault"), world.folder.path().join("away"));
    fs::rename(&vault, &away).unwrap();
    assert_eq!(promise("b"), first);
    fs::rename(&away, &vault).unwrap();
    let settled = |folder: &std::path::Path| {
        let claims = fs::read_dir(folder.join("claims")).unwrap().next().unwrap().unwrap().path();
        claims.join("done.json").exists()
    };
    let second = world.folder.path().join("second");
    working(&runner, || wait_for("both are served", || settled(&vault) && settled(&second)));
    // The first dispatch request was carried out after both had been asked for.
    assert_eq!(world.asked(), 1);
    for folder in [&vault, &second] {
        let reports = fs::read_dir(folder.join("runs")).unwrap().map(|report| report.unwrap().file_name());
        let names: Vec<_> = reports.map(|name| name.into_string().unwrap()).collect();
        assert!(names.iter().all(|name| name.contains(&first.to_string()) && name.ends_with("-backup-complete.json")));
        assert!(!names.is_empty(), "{names:?}");
    }
}
