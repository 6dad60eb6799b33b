use std::sync::Mutex;

use super::*;
use crate::claims::promise;
use crate::store::Meta;
use crate::store::testing::fault::FaultStore;
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::recording::RecordingStore;
use crate::vault::hex::Hex;

const LIMIT: Duration = Duration::from_secs(600);

/// How a store lies about objects that it creates.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    None,
    Fails,
    Existed,
}

/// A store in memory with a clock that a test sets, whose answers get lost.
struct Clock {
    inner: RecordingStore<MemoryStore>,
    now: Mutex<Timestamp>,
    lie: Mutex<Lie>,
}

impl Clock {
    fn new() -> Self {
        let now = "2026-11-26T10:00:00Z".parse().unwrap();
        let inner = RecordingStore::new(MemoryStore::default());
        Clock { inner, now: Mutex::new(now), lie: Mutex::new(Lie::None) }
    }

    fn later(&self, seconds: i64) {
        *self.now.lock().unwrap() += jiff::SignedDuration::from_secs(seconds);
    }

    fn lies(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }

    fn names(&self) -> Vec<String> {
        let names = self.inner.inner().objects().keys().cloned().collect::<Vec<_>>();
        names.iter().map(|name| name.rsplit('/').next().unwrap().to_owned()).collect()
    }
}

impl Store for Clock {
    fn url(&self) -> String {
        self.inner.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> store::Result<()> {
        self.inner.create(name, body)?;
        match *self.lie.lock().unwrap() {
            Lie::None => Ok(()),
            Lie::Fails => Err(store::StoreError::Unreachable { doing: format!("create {name}"), why: "reset".into() }),
            Lie::Existed => Err(store::StoreError::AlreadyExists { name: name.into() }),
        }
    }
    fn get(&self, name: &str, limit: u64) -> store::Result<Vec<u8>> {
        self.inner.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> store::Result<Vec<u8>> {
        self.inner.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> store::Result<Vec<Meta>> {
        self.inner.list(folder)
    }
    fn now(&self) -> store::Result<Timestamp> {
        Ok(*self.now.lock().unwrap())
    }
}

fn run(n: u8) -> RunId {
    Hex([n; 8])
}

fn claimant(n: u8) -> Claimant {
    let identity = ClaimIdentity::Event("//pubsub/topics/t#17".into());
    Claimant { identity, action: Action::Backup, run: run(n), host: "host".into(), timeout: LIMIT, promise: None }
}

fn attempt(n: u8, attempt: u64) -> Claimant {
    let execution = Execution { name: "nightly-x7k2p".into(), task: "0".into(), attempt };
    Claimant { identity: ClaimIdentity::Execution(execution), ..claimant(n) }
}

#[track_caller]
fn mine(store: &dyn Store, claimant: &Claimant) -> Claim {
    match acquire(store, claimant).unwrap() {
        LeaseState::Mine(claim) => claim,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn running(store: &dyn Store, claimant: &Claimant) -> (RunId, u64) {
    match acquire(store, claimant).unwrap() {
        LeaseState::Running { run, retry_after } => (run, retry_after.as_secs()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn done(store: &dyn Store, claimant: &Claimant) -> DoneRecord {
    match acquire(store, claimant).unwrap() {
        LeaseState::Done(served) => served,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_redelivery_waits_and_is_then_answered() {
    let store = Clock::new();
    let claim = mine(&store, &claimant(1));
    assert_eq!((claim.number(), claim.earlier()), (1, &[][..]));
    assert_eq!(running(&store, &claimant(2)), (run(1), 600));
    store.later(100);
    assert_eq!(running(&store, &claimant(2)), (run(1), 500));
    // The same run asks again: it has the claim that it had, as old as it was.
    let again = mine(&store, &claimant(1));
    assert!(again.number() == 1 && again.age() >= Duration::from_secs(100));
    assert!(!claim.is_superseded(&store).unwrap());
    let served = claim.mark_done(&store, "runs/a.json").unwrap();
    assert_eq!(served, DoneRecord { run: run(1), report: "runs/a.json".into() });
    assert_eq!(done(&store, &claimant(2)), served);
    store.later(1_000_000);
    assert_eq!(done(&store, &claimant(3)), served);
    // Another event is another matter, and a claim is found by its folder alone.
    let other = Claimant { identity: ClaimIdentity::Event("another".into()), ..claimant(4) };
    store.inner.take();
    assert_eq!(mine(&store, &other).number(), 1);
    let (folder, calls) = (folder("another"), store.inner.take());
    assert!(calls.iter().all(|call| ["create", "get", "list"].contains(&call.verb)), "{calls:?}");
    assert!(calls.iter().all(|call| call.name.starts_with(&folder)), "{calls:?}");
}

#[test]
fn a_failed_run_is_followed_at_once_and_a_lost_one_after_its_time() {
    let store = Clock::new();
    let first = mine(&store, &claimant(1));
    first.mark_failed(&store).unwrap();
    first.mark_failed(&store).unwrap();
    assert!(peek(&store, &first).unwrap().is_none());
    let second = mine(&store, &claimant(2));
    assert_eq!((second.number(), second.earlier()[0].run), (2, run(1)));
    assert!(first.is_superseded(&store).unwrap() && !second.is_superseded(&store).unwrap());
    // The second run is killed.
    drop(second);
    store.later(599);
    assert_eq!(running(&store, &claimant(3)), (run(2), 1));
    store.later(1);
    let third = mine(&store, &claimant(3));
    assert_eq!(third.number(), 3);
    assert_eq!(third.earlier().iter().map(|earlier| earlier.run).collect::<Vec<_>>(), [run(1), run(2)]);
    assert_eq!(store.names(), ["1.failed.json", "1.json", "2.json", "3.json"]);
    let Some(LeaseState::Running { run: other, .. }) = peek(&store, &first).unwrap() else { panic!() };
    assert_eq!(other, run(3));
}

#[test]
fn after_nine_comes_ten() {
    let store = Clock::new();
    for n in 1..=12 {
        let claim = mine(&store, &claimant(n));
        assert_eq!(claim.number(), u64::from(n));
        claim.mark_failed(&store).unwrap();
    }
    let last = mine(&store, &claimant(13));
    assert_eq!(last.earlier().len(), 12);
    assert_eq!(running(&store, &claimant(14)).0, run(13));
}

#[test]
fn a_clock_that_goes_back_takes_nothing_over() {
    let store = Clock::new();
    mine(&store, &claimant(1));
    store.later(-5000);
    assert_eq!(running(&store, &claimant(2)), (run(1), 600));
}

#[test]
fn of_many_that_ask_at_once_one_has_it() {
    for round in 0..20 {
        let store = Clock::new();
        if round % 2 == 1 {
            mine(&store, &claimant(200)).mark_failed(&store).unwrap();
        }
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=8)
                .map(|n| {
                    scope.spawn({
                        let store = &store;
                        move || acquire(store, &claimant(n))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect::<Vec<_>>()
        });
        let won = all.iter().filter_map(|entry| match entry {
            LeaseState::Mine(claim) => Some(claim.run),
            _ => None,
        });
        let mine: Vec<_> = won.collect();
        let [winner] = mine[..] else { panic!("{all:?}") };
        for entry in &all {
            assert!(!matches!(entry, LeaseState::Running { run, .. } if *run != winner), "{all:?}");
            assert!(!matches!(entry, LeaseState::Done(_)), "{all:?}");
        }
    }
}

#[test]
fn a_claim_whose_answer_was_lost_is_ones_own() {
    for lie in [Lie::Fails, Lie::Existed] {
        let store = Clock::new();
        store.lies(lie);
        let claim = mine(&store, &claimant(1));
        assert_eq!(running(&store, &claimant(2)).0, run(1));
        let served = claim.mark_done(&store, "runs/a.json").unwrap();
        assert_eq!(served.run, run(1));
        claim.mark_failed(&store).unwrap();
        store.lies(Lie::None);
        assert_eq!(done(&store, &claimant(2)), served);
    }
}

#[test]
fn of_two_that_are_done_the_first_counts() {
    let store = Clock::new();
    let first = mine(&store, &claimant(1));
    store.later(700);
    let second = mine(&store, &claimant(2));
    let served = second.mark_done(&store, "runs/b.json").unwrap();
    assert_eq!(first.mark_done(&store, "runs/a.json").unwrap(), served);
    assert_eq!(served.report, "runs/b.json");
    assert!(first.is_superseded(&store).unwrap() && second.is_superseded(&store).unwrap());
}

/// Passes calls on, and does something else before one of them.
struct Meanwhile<'a, S>(&'a Clock, Mutex<Option<S>>);

impl<S: FnOnce(&Clock) + Send> Store for Meanwhile<'_, S> {
    fn url(&self) -> String {
        self.0.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> store::Result<()> {
        if let Some(event) = self.1.lock().unwrap().take() {
            event(self.0);
        }
        self.0.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> store::Result<Vec<u8>> {
        self.0.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> store::Result<Vec<u8>> {
        self.0.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> store::Result<Vec<Meta>> {
        self.0.list(folder)
    }
    fn now(&self) -> store::Result<Timestamp> {
        self.0.now()
    }
}

#[test]
fn a_run_that_ends_while_it_is_taken_over_is_done() {
    let store = Clock::new();
    let first = mine(&store, &claimant(1));
    store.later(700);
    let end = move |store: &Clock| drop(first.mark_done(store, "runs/a.json").unwrap());
    assert_eq!(done(&Meanwhile(&store, Mutex::new(Some(end))), &claimant(2)).run, run(1));
    // Somebody else takes the number that was chosen.
    let store = Clock::new();
    let other = |store: &Clock| drop(mine(store, &claimant(1)));
    assert_eq!(running(&Meanwhile(&store, Mutex::new(Some(other))), &claimant(2)), (run(1), 600));
}

#[test]
fn a_store_that_fails_is_an_error_and_what_is_no_claim_hinders_nobody() {
    for bad in ["list", "create", "get"] {
        let store = FaultStore::new(MemoryStore::default(), move |verb, _| verb == bad);
        let entered = acquire(&store, &claimant(1));
        assert_eq!(entered.is_err(), bad != "get", "{bad}: {entered:?}");
        assert!(entered.is_ok() || entered.unwrap_err().of_store());
    }
    let store = Clock::new();
    let folder = folder("//pubsub/topics/t#17");
    for (name, bytes) in [("3.json", "{"), ("x.json", "{}"), ("x.failed.json", "{}"), ("4.txt", ""), ("-1.json", "{}")]
    {
        store.create(&format!("{folder}{name}"), &[bytes.as_bytes()]).unwrap();
    }
    assert_eq!(mine(&store, &claimant(1)).number(), 4);
    store.create(&format!("{folder}done.json"), &[b"[]"]).unwrap();
    assert_eq!(acquire(&store, &claimant(2)).unwrap_err().kind(), crate::error::Kind::Damage);
    let store = Clock::new();
    store.create(&format!("{folder}{}.json", u64::MAX), &[b"{"]).unwrap();
    assert_eq!(acquire(&store, &claimant(2)).unwrap_err().kind(), crate::error::Kind::Damage);
}

#[test]
fn a_later_attempt_of_a_task_does_not_wait() {
    let store = Clock::new();
    let first = mine(&store, &attempt(1, 0));
    let second = mine(&store, &attempt(2, 1));
    assert_eq!((second.number(), second.earlier()[0].run), (2, run(1)));
    assert!(first.is_superseded(&store).unwrap());
    // The same attempt has to wait when it comes a second time.
    assert_eq!(running(&store, &attempt(3, 1)).0, run(2));
    let served = second.mark_done(&store, "runs/b.json").unwrap();
    assert_eq!(done(&store, &attempt(4, 2)), served);
}

#[test]
fn an_execution_that_has_the_name_of_an_old_one_is_another() {
    let store = Clock::new();
    mine(&store, &attempt(1, 0)).mark_done(&store, "runs/a.json").unwrap();
    // A first attempt has nothing before it.
    let new = mine(&store, &attempt(2, 0));
    assert_eq!((new.number(), new.earlier()), (1, &[][..]));
    // A second one goes on with the newest of the name.
    assert_eq!(mine(&store, &attempt(3, 1)).earlier()[0].run, run(2));
    // It does not go on with a claim too old to be of the same execution: the first attempt ended before it could claim anything.
    store.later(9 * 24 * 3600);
    assert_eq!(mine(&store, &attempt(4, 1)).earlier(), []);
    assert_eq!(mine(&store, &attempt(5, 2)).earlier()[0].run, run(4));
    // Another task has other claims.
    let other = Execution { name: "nightly-x7k2p".into(), task: "1".into(), attempt: 1 };
    let other = Claimant { identity: ClaimIdentity::Execution(other), ..claimant(6) };
    assert_eq!(mine(&store, &other).earlier(), []);
}

#[test]
fn promises_are_open_until_something_says_how_they_ended() {
    let store = Clock::new();
    let promise = |seconds| {
        let (action, reason, way) =
            (Action::Backup, crate::vault::root::BackupReason::Critical, crate::report::Channel::Http);
        let event = crate::report::Event { message: Some("disk full".into()), ..Default::default() };
        Promise { action, reason, way, event, seconds }
    };
    let promised = |n: u8| Claimant {
        identity: ClaimIdentity::Event(n.to_string()),
        promise: Some(Box::new(promise(100))),
        ..claimant(n)
    };
    let mine = |claimant: &Claimant| match acquire(&store, claimant).unwrap() {
        LeaseState::Mine(claim) => claim,
        other => panic!("{other:?}"),
    };
    let claims: Vec<_> = (1..=4).map(|n| mine(&promised(n))).collect();
    // A claim without a promise: its sender sends the event again.
    mine(&Claimant { promise: None, ..promised(5) });
    store.later(40);
    claims[0].mark_done(&store, "runs/x.json").unwrap();
    claims[1].mark_failed(&store).unwrap();
    let open = || {
        let mut open: Vec<_> = promise::open(&store).unwrap();
        open.sort_by_key(|open| open.run);
        open.into_iter().map(|open| (open.run, open.promise, open.left.as_secs())).collect::<Vec<_>>()
    };
    assert_eq!(open(), [(run(3), promise(100), 60), (run(4), promise(100), 60)]);
    // Another run has taken over.
    store.later(600);
    mine(&Claimant { run: run(9), promise: None, ..promised(3) });
    assert_eq!(open(), [(run(4), promise(100), 0)]);
    // Whatever is written, no promise is waited for longer than 7 days.
    mine(&Claimant { promise: Some(Box::new(promise(u64::MAX))), ..promised(10) });
    assert_eq!(open()[1].2, 7 * 24 * 3600);
}
