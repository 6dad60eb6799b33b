//! Drives instances against vaults in memory, with a clock that only goes on when somebody waits.

mod faults;
mod handovers;
mod hung;
mod unread;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::*;
use crate::monitor::CollectingMonitor;
use crate::store::testing::memory::MemoryStore;
use crate::store::{Meta, Store, StoreError};
use crate::vault::Vault;
use crate::vault::epochs::{EpochDocument, EpochMark, EpochRecord};
use crate::vault::hex::Hex;

const SECOND: Duration = Duration::from_secs(1);

/// A function that is called whenever somebody waits.
type Meanwhile = Box<dyn FnMut(Duration) + Send>;

/// A clock that goes on when somebody waits. The others act then.
#[derive(Default)]
struct TestClock {
    now: Mutex<Duration>,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl TestClock {
    fn go_on(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
    }

    /// Sets what happens while somebody waits, given the time since now.
    fn meanwhile(&self, mut what: impl FnMut(Duration) + Send + 'static) {
        let began = self.now();
        *self.meanwhile.lock().unwrap() = Some(Box::new(move |now| what(now - began)));
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn sleep(&self, time: Duration) {
        self.go_on(time);
        // Others may wait as well.
        let what = self.meanwhile.lock().unwrap().take();
        if let Some(mut what) = what {
            what(self.now());
            self.meanwhile.lock().unwrap().get_or_insert(what);
        }
    }
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing is done, and there is no answer.
    Away,
    /// It is done, and there is no answer.
    AnswerLost,
    /// Nothing is done, and it never will be.
    Refused,
}

/// A function that is called before each call, with its verb and the object's name.
type Plan = Arc<Mutex<Box<dyn FnMut(&str, &str) -> Option<Fault> + Send>>>;

/// A vault's place, as one instance reaches it.
#[derive(Clone)]
struct Place {
    objects: Arc<MemoryStore>,
    plan: Plan,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new(objects: &Arc<MemoryStore>) -> Self {
        Place { objects: objects.clone(), plan: Arc::new(Mutex::new(Box::new(|_, _| None))), calls: Arc::default() }
    }

    fn plan(&self, plan: impl FnMut(&str, &str) -> Option<Fault> + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// Returns the calls since this was asked last.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn ask<T>(&self, verb: &str, name: &str, call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.calls.lock().unwrap().push(format!("{verb} {name}"));
        let fault = (self.plan.lock().unwrap())(verb, name);
        let away = || StoreError::Unreachable { doing: format!("{verb} {name}"), why: "no answer".into() };
        match fault {
            None => call(),
            Some(Fault::Away) => Err(away()),
            Some(Fault::AnswerLost) => call().and(Err(away())),
            Some(Fault::Refused) => {
                Err(StoreError::Denied { name: name.into(), why: "no".into(), hint: String::new() })
            }
        }
    }
}

impl Store for Place {
    fn url(&self) -> String {
        "memory:".into()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<(), StoreError> {
        self.ask("create", name, || self.objects.create(name, body))
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.ask("get", name, || self.objects.get(name, limit))
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.ask("range", name, || self.objects.get_range(name, offset, length))
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>, StoreError> {
        self.ask("list", folder, || self.objects.list(folder))
    }
    fn now(&self) -> Result<jiff::Timestamp, StoreError> {
        self.objects.now()
    }
}

/// A vault, its instances, and their clock.
struct Stage {
    vaults: Vec<Arc<MemoryStore>>,
    clock: Arc<TestClock>,
    monitor: &'static CollectingMonitor,
    stop: &'static AtomicBool,
}

/// An instance.
struct One {
    driver: EpochDriver,
    places: Vec<Place>,
}

impl Stage {
    fn new(vaults: usize) -> Self {
        let vaults: Vec<Arc<MemoryStore>> = (0..vaults).map(|_| Arc::default()).collect();
        let made = Vault::init(Box::new(vaults[0].clone()), |bytes| {
            bytes.fill(7);
            Ok(())
        });
        let made = made.unwrap();
        vaults[1..].iter().for_each(|other| drop(made.replicate(Box::new(other.clone())).unwrap()));
        let (monitor, stop) = (Box::leak(Box::default()), Box::leak(Box::default()));
        Stage { vaults, clock: Arc::default(), monitor, stop }
    }

    fn ctx(&self) -> Context<'static> {
        Context { random: &|_| Ok(()), threads: 1, parallel: 1, stop: self.stop, monitor: self.monitor }
    }

    fn options(&self, run: u8) -> EpochOptions {
        EpochOptions {
            handover: 90 * SECOND,
            poll: 5 * SECOND,
            service: None,
            revision: Some(format!("revision-{run}")),
            host: format!("host-{run}"),
            locked: None,
            lock_runs: (0..run).map(|run| Hex([run; 8])).collect(),
            on_terminal: false,
            take_over: false,
            is_rollback: false,
            run: Hex([run; 8]),
        }
    }

    fn one(&self, run: u8) -> Arc<One> {
        self.one_with(self.options(run), &(0..self.vaults.len()).collect::<Vec<_>>())
    }

    /// Returns an instance that names the vaults in this order.
    fn one_with(&self, options: EpochOptions, order: &[usize]) -> Arc<One> {
        let places: Vec<Place> = order.iter().map(|vault| Place::new(&self.vaults[*vault])).collect();
        let site = |place: &Place| Site::probe("memory:".into(), false, Ok(Box::new(place.clone())));
        let driver = EpochDriver::new(places.iter().map(site).collect(), options, self.clock.clone());
        places.iter().for_each(|place| drop(place.calls()));
        Arc::new(One { driver, places })
    }

    /// Begins an epoch and starts the app.
    fn run(&self, one: &One) -> Begun {
        let begun = begun(one.driver.begin(&self.ctx()));
        assert_eq!(one.driver.decided(None, &self.ctx()).unwrap(), Go::Start);
        one.driver.running(None, &self.ctx());
        begun
    }

    /// The names of all objects of epochs in a vault, without the folder and the ending.
    fn epochs(&self, vault: usize) -> Vec<String> {
        let objects = self.vaults[vault].objects();
        let names = objects.keys().filter_map(|name| name.strip_prefix("epochs/")?.strip_suffix(".json"));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    }

    fn document<T>(&self, record: EpochRecord, number: u32, parse: impl Fn(&[u8]) -> T) -> T {
        parse(&self.vaults[0].objects()[&record.object(number)])
    }

    /// The number of the epoch that ended an epoch.
    fn end(&self, number: u32) -> u32 {
        self.document(EpochRecord::End, number, |bytes| EpochMark::parse(bytes).unwrap().by)
    }

    /// Lets an instance look again and again while somebody waits, as `run` does. When it is superseded it goes on looking while its app is
    /// stopped, and ends.
    fn lives(&self, one: &Arc<One>) {
        let (one, ctx) = (one.clone(), self.ctx());
        self.clock.meanwhile(move |_| {
            if let Hold::Superseded { .. } = one.driver.tick(&ctx) {
                one.driver.tick(&ctx);
                one.driver.end(None, &ctx).unwrap();
            }
        });
    }

    /// Adds a snapshot of an epoch, of which only the name matters.
    fn snapshot(&self, vault: usize, epoch: u32) -> SnapshotName {
        let name = SnapshotName::of(u64::from(epoch) << 32 | 5, jiff::Timestamp::UNIX_EPOCH, b"root");
        self.vaults[vault].create(&name.object("snapshots/"), &[b"root"]).unwrap();
        name
    }
}

fn begun(start: Result<Start>) -> Begun {
    match start.unwrap() {
        Start::Begun(begun) => begun,
        Start::Superseded { by } => panic!("it was superseded by {by}"),
    }
}

fn counted(calls: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        *counts.entry(call.split(' ').next().unwrap()).or_default() += 1;
    }
    counts
}
