//! Calls that hang.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(30);

/// How long a call takes.
type Takes = dyn Fn(&str, &str) -> Duration + Send + Sync;

/// A place in which calls take long, as soon as that is wanted.
struct Hung {
    place: Place,
    takes: Box<Takes>,
    hangs: Arc<AtomicBool>,
}

impl Hung {
    fn wait(&self, verb: &str, name: &str) {
        if self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep((self.takes)(verb, name));
        }
    }
}

impl Store for Hung {
    fn url(&self) -> String {
        self.place.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<(), StoreError> {
        self.wait("create", name);
        self.place.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.wait("get", name);
        self.place.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.place.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>, StoreError> {
        self.place.list(folder)
    }
    fn now(&self) -> Result<jiff::Timestamp, StoreError> {
        self.place.now()
    }
}

#[test]
fn a_holder_whose_call_hangs_learns_of_its_end_meanwhile() {
    for call in [("get", "epochs/2.json"), ("get", "epochs/2.end.json"), ("create", "epochs/1.runs.json")] {
        let stage = Stage::new(1);
        let hangs = Arc::new(AtomicBool::new(false));
        let place = Place::new(&stage.vaults[0]);
        let takes = move |verb: &str, name: &str| if (verb, name) == call { FOR_EVER } else { Duration::ZERO };
        let hung: Arc<dyn Store> =
            Arc::new(Hung { place: place.clone(), takes: Box::new(takes), hangs: hangs.clone() });
        let site = Site::probe("memory:".into(), false, Ok(Box::new(place.clone())));
        let driver =
            EpochDriver::new(vec![site], stage.options(1), stage.clock.clone()).with_quick_looks(&[Some(hung)]);
        begun(driver.begin(&stage.ctx()));
        assert_eq!(driver.decided(None, &stage.ctx()).unwrap(), Go::Start);
        // It cannot tell that its app runs, and does so with the next look.
        place.plan(|verb, name| (verb == "create" && name == "epochs/1.runs.json").then_some(Fault::Refused));
        driver.running(None, &stage.ctx());
        assert_eq!(stage.run(&stage.one(2)), Begun { epoch: 2, forced: true });
        hangs.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let hold = driver.tick(&stage.ctx());
        // In either case its app is stopped.
        assert!(matches!(hold, Hold::Ended { by: 2 } | Hold::Superseded { by: 2 }), "{call:?}: {hold:?}");
        assert!(began.elapsed() < FOR_EVER / 3, "{call:?}: {:?}", began.elapsed());
    }
}

#[test]
fn a_slow_answer_is_taken_although_the_read_beside_it_hangs() {
    let stage = Stage::new(1);
    let hangs = Arc::new(AtomicBool::new(false));
    let place = Place::new(&stage.vaults[0]);
    let reads = AtomicBool::new(false);
    let takes = move |verb: &str, name: &str| match (verb, name) {
        ("get", "epochs/2.json") => Duration::from_millis(800),
        // Only the one that is made beside the other.
        ("get", "epochs/1.end.json") if !reads.swap(true, Ordering::SeqCst) => FOR_EVER,
        _ => Duration::ZERO,
    };
    let hung: Arc<dyn Store> = Arc::new(Hung { place: place.clone(), takes: Box::new(takes), hangs: hangs.clone() });
    let site = Site::probe("memory:".into(), false, Ok(Box::new(place)));
    let driver = EpochDriver::new(vec![site], stage.options(1), stage.clock.clone()).with_quick_looks(&[Some(hung)]);
    begun(driver.begin(&stage.ctx()));
    assert_eq!(driver.decided(None, &stage.ctx()).unwrap(), Go::Start);
    driver.running(None, &stage.ctx());
    hangs.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let hold = driver.tick(&stage.ctx());
    assert!(began.elapsed() < FOR_EVER / 3, "{hold:?}: {:?}", began.elapsed());
    assert!(!matches!(hold, Hold::Ended { .. } | Hold::Superseded { .. }), "{hold:?}");
}
