use super::*;
use crate::store::local::LocalStore;
use crate::store::testing::contract;
use crate::store::testing::memory::MemoryStore;

/// A store that answers nothing for as long as its gate is locked.
#[derive(Default)]
struct Gated {
    gate: Mutex<()>,
    inner: MemoryStore,
}

impl Store for Gated {
    fn url(&self) -> String {
        "gated".into()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        drop(self.gate.lock());
        self.inner.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        drop(self.gate.lock());
        self.inner.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        drop(self.gate.lock());
        self.inner.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        drop(self.gate.lock());
        self.inner.list(folder)
    }
    fn staging(&self) -> Box<dyn Staging + '_> {
        Box::new(GatedStaging(self))
    }
}

/// Its staging, whose end waits as well.
struct GatedStaging<'s>(&'s Gated);

impl Staging for GatedStaging<'_> {
    fn put(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        self.0.create(name, body)
    }
    fn publish(&self, _: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }
}

impl Drop for GatedStaging<'_> {
    fn drop(&mut self) {
        drop(self.0.gate.lock());
    }
}

fn two() -> (Arc<Awaiting>, [Arc<Gated>; 2], [AwaitedStore; 2]) {
    let calls = Awaiting::new(Arc::default());
    let gated: [Arc<Gated>; 2] = Default::default();
    let stores = gated.clone().map(|store| calls.store(store, true));
    (calls, gated, stores)
}

fn is_given_up<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(StoreError::Unreachable { .. }))
}

#[test]
fn an_awaited_store_keeps_the_contract() {
    contract::run(&|| {
        let folder = tempfile::tempdir().unwrap();
        let store = Awaiting::new(Arc::default()).store(Arc::new(LocalStore::new(folder.path())), false);
        (Box::new(store), Box::new(folder))
    });
}

#[test]
fn what_is_not_published_is_gone_when_a_staging_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let store = Awaiting::new(Arc::default()).store(Arc::new(LocalStore::new(folder.path())), false);
    let staging = store.staging();
    staging.put("packs/a", &[b"a", b"b"]).unwrap();
    staging.put("packs/b", &[b"b"]).unwrap();
    assert!(store.list("packs/").unwrap().is_empty());
    staging.publish(&|name| name == "packs/a").unwrap();
    drop(staging);
    assert_eq!(store.get("packs/a", 9).unwrap(), b"ab");
    assert_eq!(store.list("packs/").unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_store_that_hangs_is_left_out_while_little_time_is_left_if_another_one_answers() {
    let (calls, gated, [a, b]) = two();
    b.create("x", &[b"x"]).unwrap();
    let closed = gated[0].gate.lock().unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        // A call that began before gets its share, too.
        let before = scope.spawn(|| a.get("x", 1));
        thread::sleep(Duration::from_millis(100));
        calls.hurry(Instant::now() + Duration::from_secs(2));
        assert!(is_given_up(before.join().unwrap()));
    });
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(550) && took < Duration::from_millis(1600), "{took:?}");
    // From then on it is not asked any more, also if it comes back.
    let began = Instant::now();
    assert!(is_given_up(a.create("y", &[b"y"])) && is_given_up(a.staging().put("z", &[b"z"])));
    assert!(began.elapsed() < Duration::from_millis(40));
    drop(closed);
    assert!(is_given_up(a.get("x", 1)));
    assert_eq!(b.get("x", 1).unwrap(), b"x");
    calls.take_time();
    // The call that was given up may be on its way back.
    thread::sleep(Duration::from_millis(100));
    assert!(matches!(a.get("x", 1), Err(StoreError::NotFound { .. })));
}

#[test]
fn a_staging_whose_end_was_given_up_keeps_nobody_from_its_store_once_it_is_over() {
    let (calls, gated, [a, b]) = two();
    b.create("x", &[b"x"]).unwrap();
    let closed = gated[0].gate.lock().unwrap();
    let staging = a.staging();
    calls.hurry(Instant::now() + Duration::from_secs(1));
    drop(staging);
    calls.take_time();
    assert!(is_given_up(a.get("x", 1)), "its end is not answered");
    drop(closed);
    let until = Instant::now() + Duration::from_secs(10);
    while !matches!(a.get("x", 1), Err(StoreError::NotFound { .. })) {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_last_store_is_waited_for_whatever_it_does() {
    let (calls, gated, [a, b]) = two();
    b.create("x", &[b"x"]).unwrap();
    let closed = [&gated[0], &gated[1]].map(|store| store.gate.lock().unwrap());
    calls.hurry(Instant::now() + Duration::from_millis(400));
    thread::scope(|scope| {
        let hung = scope.spawn(|| a.get("x", 1));
        let slow = scope.spawn(|| b.get("x", 1));
        thread::sleep(Duration::from_millis(700));
        assert!(!hung.is_finished() && !slow.is_finished());
        let [first, second] = closed;
        drop(second);
        assert_eq!(slow.join().unwrap().unwrap(), b"x");
        // Now one answers, and the other one is given up.
        assert!(is_given_up(hung.join().unwrap()));
        drop(first);
    });
}

#[test]
fn a_call_ends_soon_once_the_program_is_told_to_stop() {
    let stop = Arc::new(AtomicBool::new(false));
    let gated = Arc::new(Gated::default());
    let store = Awaiting::new(stop.clone()).store(gated.clone(), true);
    let closed = gated.gate.lock().unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(matches!(store.list("x/"), Err(StoreError::Stopped { .. })));
    // It is not asked again as long as that call is not answered.
    let began = Instant::now();
    assert!(is_given_up(store.list("x/")) && began.elapsed() < Duration::from_millis(40));
    drop(closed);
}

#[test]
fn a_folder_has_a_limit_and_a_bucket_ends_by_itself() {
    let (calls, _, _) = two();
    calls.store(Arc::new(MemoryStore::default()), false);
    let state = calls.state();
    let limit = |at: usize, effort| {
        let call = Pending { since: Instant::now(), effort, given_up: false };
        state.limit(&state.stores[at], &call).map(|(_, limit)| limit)
    };
    assert_eq!((limit(0, Effort::Look), limit(0, Effort::Much)), (None, None));
    assert_eq!((limit(2, Effort::Look), limit(2, Effort::Much)), (Some(LOOK), Some(MUCH)));
}

#[test]
fn a_store_whose_call_ended_without_an_answer_is_not_asked_again_at_once_if_another_one_answers() {
    let (calls, _, [a, b]) = two();
    let fails = || {
        let serial = calls.begin(0, Effort::Look).unwrap();
        calls.end(0, serial, false);
    };
    fails();
    // Nothing else is known to answer.
    a.create("x", &[b"x"]).unwrap();
    b.create("x", &[b"x"]).unwrap();
    fails();
    assert!(is_given_up(a.get("x", 1)));
    calls.state().stores[0].failed = Instant::now().checked_sub(AGAIN);
    assert_eq!(a.get("x", 1).unwrap(), b"x");
}
