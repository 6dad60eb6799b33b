//! Tests every kind of fault at every kind of request, by a script.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::store::requests::Page;
use crate::store::testing::memory::MemoryStore;

/// A store whose requests go wrong as a script says, one step for each request.
struct Script {
    store: MemoryStore,
    steps: Mutex<VecDeque<Step>>,
    asked: Mutex<Vec<String>>,
    heard: AtomicBool,
}

enum Step {
    Fault(Fault),
    /// The object is stored, and then this fault comes.
    Stored(Fault),
    /// This many bytes come, and then this fault.
    Cut(usize, Fault),
    /// All bytes come, one of them flipped.
    Flip,
}

impl Script {
    fn step(&self, what: String) -> Option<Step> {
        self.asked.lock().unwrap().push(what);
        self.heard.store(true, Ordering::Relaxed);
        self.steps.lock().unwrap().pop_front()
    }

    fn crc32c(&self, name: &str) -> Option<u32> {
        self.store.objects().get(name).map(|body| crc32c::crc32c(body))
    }
}

fn exists() -> Fault {
    Fault::Exists {
        why: "412 Precondition Failed: it says more".into(),
        hint: "Do something.".into(),
        code: Code::AccessDenied,
    }
}

fn fault(error: StoreError) -> Fault {
    match error {
        StoreError::NotFound { .. } => Fault::NotFound,
        StoreError::AlreadyExists { .. } => exists(),
        StoreError::OutOfRange { size, .. } => Fault::OutOfRange { size },
        other => panic!("{other}"),
    }
}

impl Requests for Script {
    fn url(&self) -> String {
        "script:".into()
    }
    fn create(&self, name: &str, body: &[&[u8]], _: u32) -> Result<(), Fault> {
        match self.step(format!("create {name}")) {
            Some(Step::Fault(fault)) => Err(fault),
            Some(Step::Stored(lost)) => self.store.create(name, body).map_err(fault).and(Err(lost)),
            _ => self.store.create(name, body).map_err(fault),
        }
    }
    fn read(&self, name: &str, span: Span, part: &mut PartialRead) -> Result<(), Fault> {
        let step = self.step(format!("read {name} {}", span.offset + part.bytes.len() as u64));
        if let Some(Step::Fault(fault)) = step {
            return Err(fault);
        }
        let whole = self.store.get(name, u64::MAX).map_err(fault)?;
        let end = span.length.map_or(whole.len(), |length| span.offset.saturating_add(length) as usize);
        let wanted = whole.get(span.offset as usize..end);
        let wanted = wanted.ok_or(Fault::OutOfRange { size: whole.len() as u64 })?;
        (part.size, part.crc32c) = (Some(whole.len() as u64), self.crc32c(name));
        if wanted.len() as u64 > span.limit {
            return Err(Fault::OutOfRange { size: whole.len() as u64 });
        }
        let rest = &wanted[part.bytes.len()..];
        match step {
            Some(Step::Cut(bytes, fault)) => {
                part.bytes.extend_from_slice(&rest[..bytes]);
                Err(fault)
            }
            Some(Step::Flip) => {
                part.bytes.extend(rest.iter().map(|byte| byte ^ 1));
                Ok(())
            }
            _ => {
                part.bytes.extend_from_slice(rest);
                Ok(())
            }
        }
    }
    fn describe(&self, name: &str) -> Result<Described, Fault> {
        match self.step(format!("describe {name}")) {
            Some(Step::Fault(fault)) => Err(fault),
            _ => {
                let size = self.store.get(name, u64::MAX).map_err(fault)?.len() as u64;
                Ok(Described { size, crc32c: self.crc32c(name) })
            }
        }
    }
    fn page(&self, folder: &str, from: &str, next: Option<&str>) -> Result<Page, Fault> {
        if let Some(Step::Fault(fault)) = self.step(format!("list {folder} {}", next.unwrap_or_default())) {
            return Err(fault);
        }
        // Each page has two objects.
        let at: usize = next.map_or(0, |next| next.parse().unwrap());
        let all = self.store.list_from(folder, from).map_err(fault)?;
        let more = (at + 2 < all.len()).then(|| (at + 2).to_string());
        Ok(Page { objects: all.into_iter().skip(at).take(2).collect(), next: more })
    }
    fn time(&self) -> Result<Option<Timestamp>, Fault> {
        Ok(self.heard.load(Ordering::Relaxed).then_some(Timestamp::UNIX_EPOCH))
    }
}

fn store(steps: impl IntoIterator<Item = Step>) -> RetryStore<Script> {
    let steps = Mutex::new(steps.into_iter().collect());
    let script = Script { store: MemoryStore::default(), steps, asked: Mutex::default(), heard: AtomicBool::default() };
    let pace = Backoff {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(4),
        patience: Duration::from_millis(300),
    };
    RetryStore::new(script, pace, Arc::default())
}

fn busy() -> Step {
    Step::Fault(Fault::passing("503 Service Unavailable"))
}

fn asked(store: &RetryStore<Script>) -> Vec<String> {
    std::mem::take(&mut store.requests.asked.lock().unwrap())
}

#[test]
fn keeps_the_contract() {
    crate::store::testing::contract::run(&|| (Box::new(store([])), Box::new(())));
}

#[test]
fn what_passes_is_tried_again_and_counted() {
    let store = store([busy(), busy()]);
    store.create("a", &[b"he", b"llo"]).unwrap();
    assert_eq!(asked(&store), ["create a"; 3]);
    store.requests.steps.lock().unwrap().extend([busy(), busy()]);
    assert_eq!(store.get("a", 5).unwrap(), b"hello");
    assert_eq!(store.get_range("a", 5, 0).unwrap(), b"");
    store.requests.steps.lock().unwrap().extend([busy()]);
    assert_eq!(store.list("").unwrap().len(), 1);
    let traffic = store.traffic().unwrap();
    assert_eq!(traffic.requests, RequestCounts { create: 3, read: 3, list: 2, describe: 1 });
    assert_eq!((traffic.retries, traffic.sent, traffic.received), (5, 15, 5));
}

#[test]
fn an_upload_whose_answer_was_lost_is_known_as_its_own() {
    let lost = || Step::Stored(Fault::passing("reset"));
    let ours = store([lost()]);
    ours.create("a", &[b"hello"]).unwrap();
    assert_eq!(asked(&ours), ["create a", "create a", "describe a"]);

    // Somebody else's object came in between.
    let theirs = store([busy()]);
    theirs.requests.store.create("a", &[b"jello"]).unwrap();
    assert!(matches!(theirs.create("a", &[b"hello"]), Err(StoreError::AlreadyExists { name }) if name == "a"));

    // At the first attempt it cannot be our own, whatever its bytes are.
    let first = store([]);
    first.requests.store.create("a", &[b"hello"]).unwrap();
    assert!(matches!(first.create("a", &[b"hello"]), Err(StoreError::AlreadyExists { .. })));

    // The look at it may fail, too: only the look is repeated.
    let doubtful = store([lost(), Step::Fault(exists()), busy(), busy()]);
    doubtful.create("a", &[b"hello"]).unwrap();
    assert_eq!(asked(&doubtful), ["create a", "create a", "describe a", "describe a", "describe a"]);
    assert_eq!(doubtful.traffic().unwrap().sent, 10);
}

#[test]
fn that_an_object_exists_is_believed_after_a_look() {
    let refused = store([Step::Fault(exists()), busy()]);
    let said = refused.create("a", &[b"hello"]).unwrap_err();
    assert!(
        matches!(&said, StoreError::Refused { why, hint, .. } if why.contains("it says more") && hint == "Do something.")
    );
    assert_eq!(said.while_doing("take a snapshot").word(), "access-denied");
    assert_eq!(asked(&refused), ["create a", "describe a", "describe a"]);

    let there = store([busy(), Step::Fault(exists()), busy()]);
    there.requests.store.create("a", &[b"jello"]).unwrap();
    assert!(matches!(there.create("a", &[b"hello"]), Err(StoreError::AlreadyExists { .. })));
    assert_eq!(asked(&there), ["create a", "create a", "describe a", "describe a"]);
}

#[test]
fn a_read_goes_on_where_it_broke() {
    let store = store([Step::Cut(3, Fault::passing("reset")), busy(), Step::Cut(4, Fault::passing("stall"))]);
    store.requests.store.create("a", &[b"0123456789"]).unwrap();
    assert_eq!(store.get_range("a", 1, 9).unwrap(), b"123456789");
    assert_eq!(asked(&store), ["read a 1", "read a 4", "read a 4", "read a 8"]);
}

#[test]
fn flipped_bytes_are_read_again_and_never_given() {
    let store = store([Step::Flip]);
    store.requests.store.create("a", &[b"hello"]).unwrap();
    assert_eq!(store.get("a", 5).unwrap(), b"hello");
    store.requests.steps.lock().unwrap().extend([Step::Flip, Step::Flip, Step::Flip]);
    assert!(matches!(store.get("a", 5), Err(StoreError::Corrupt { name }) if name == "a"));
}

#[test]
fn what_never_passes_ends_in_time_and_says_what_it_was() {
    let store = store(std::iter::repeat_with(busy).take(100_000));
    let said = store.get("a", 5).unwrap_err();
    assert!(matches!(said, StoreError::Unreachable { .. }), "{said}");
    let said = said.to_string();
    assert!(said.contains("read a of script:: 503 Service Unavailable; tried "), "{said}");
    assert!(asked(&store).len() > 10);
}

#[test]
fn a_store_that_asks_for_a_pause_gets_it() {
    let after = |time| Step::Fault(Fault::Passing { why: "429".into(), after: Some(Duration::from_millis(time)) });
    let patient = store([after(60)]);
    patient.requests.store.create("a", &[b"hello"]).unwrap();
    let begin = Instant::now();
    patient.get("a", 5).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(60));

    let too_long = store([after(60_000)]);
    let said = too_long.get("a", 5).unwrap_err().to_string();
    assert!(said.contains("it asks to wait for 60 s") && said.contains("tried 1 time in"), "{said}");
}

#[test]
fn a_refused_token_is_replaced_once() {
    let token = || Step::Fault(Fault::Token { why: "401 Unauthorized".into() });
    let once = store([token()]);
    once.create("a", &[b"hello"]).unwrap();
    let twice = store([token(), token()]);
    assert_eq!(twice.create("a", &[b"hello"]).unwrap_err().while_doing("take a snapshot").word(), "no-credentials");
    assert_eq!(asked(&twice).len(), 2);
}

#[test]
fn what_stays_is_not_tried_again() {
    let store = store([Step::Fault(Fault::refused("403 Forbidden", "Grant it.").with_code(Code::AccessDenied))]);
    let error = store.list("packs/").unwrap_err().while_doing("take a snapshot");
    let (said, word) = (error.to_string(), error.word());
    assert_eq!(word, "access-denied");
    assert!(said.contains("list packs/ of script:: 403 Forbidden") && said.contains("Grant it."), "{said}");
    assert_eq!(asked(&store), ["list packs/ "]);
}

#[test]
fn stopping_ends_the_pauses() {
    let store = store([Step::Fault(Fault::Passing { why: "503".into(), after: Some(Duration::from_millis(250)) })]);
    store.stop.store(true, Ordering::Relaxed);
    let error = store.get("a", 5).unwrap_err().while_doing("take a snapshot");
    assert!(error.word() == "stopped" && error.of_store() && asked(&store).is_empty(), "{error}");
}

#[test]
fn pages_come_one_after_the_other() {
    let store = store([Step::Fault(Fault::passing("500"))]);
    for name in ["p/c", "p/a", "p/b", "p/e", "p/d"] {
        store.requests.store.create(name, &[b"x"]).unwrap();
    }
    let names: Vec<_> = store.list("p/").unwrap().into_iter().map(|meta| meta.name).collect();
    assert_eq!(names, ["p/a", "p/b", "p/c", "p/d", "p/e"]);
    assert_eq!(asked(&store), ["list p/ ", "list p/ ", "list p/ 2", "list p/ 4"]);
    // Objects before `from` are not asked for.
    let names: Vec<_> = store.list_from("p/", "p/bb").unwrap().into_iter().map(|meta| meta.name).collect();
    assert_eq!(names, ["p/c", "p/d", "p/e"]);
    assert_eq!(asked(&store), ["list p/ ", "list p/ 2"]);
}

#[test]
fn an_object_of_two_pages_is_there_once_and_pages_in_a_ring_end() {
    /// Answers every listing with these pages, one after the other.
    struct Pages(Vec<(Vec<&'static str>, Option<&'static str>)>);
    impl Requests for Pages {
        fn url(&self) -> String {
            "pages:".into()
        }
        fn create(&self, _: &str, _: &[&[u8]], _: u32) -> Result<(), Fault> {
            Err(Fault::NotFound)
        }
        fn read(&self, _: &str, _: Span, _: &mut PartialRead) -> Result<(), Fault> {
            Err(Fault::NotFound)
        }
        fn describe(&self, _: &str) -> Result<Described, Fault> {
            Err(Fault::NotFound)
        }
        fn page(&self, _: &str, _: &str, next: Option<&str>) -> Result<Page, Fault> {
            let (names, next) = &self.0[next.map_or(0, |next| next.parse().unwrap())];
            let objects = names
                .iter()
                .map(|name| Meta { name: (*name).into(), size: 1, created: Timestamp::UNIX_EPOCH })
                .collect();
            Ok(Page { objects, next: next.map(str::to_owned) })
        }
        fn time(&self) -> Result<Option<Timestamp>, Fault> {
            Ok(None)
        }
    }
    let list = |pages| RetryStore::new(Pages(pages), Backoff::new(Duration::ZERO), Arc::default()).list("p/");
    let twice = list(vec![(vec!["p/a", "p/b"], Some("1")), (vec!["p/b", "p/c", "p/c"], None)]).unwrap();
    assert_eq!(twice.iter().map(|meta| &*meta.name).collect::<Vec<_>>(), ["p/a", "p/b", "p/c"]);
    for ring in [vec![(vec!["p/a"], Some("0"))], vec![(vec![], Some("1")), (vec![], Some("2")), (vec![], Some("1"))]] {
        assert!(list(ring).unwrap_err().to_string().contains("makes no sense"));
    }
}

#[test]
fn the_time_is_asked_for_once() {
    let store = store([busy()]);
    assert_eq!(store.now().unwrap(), Timestamp::UNIX_EPOCH);
    assert_eq!(asked(&store), ["describe vault.json", "describe vault.json"]);
    store.now().unwrap();
    assert!(asked(&store).is_empty());
}

#[test]
fn pauses_double_up_to_a_limit_and_are_never_all_alike() {
    let pace = Backoff::new(Duration::from_secs(60));
    assert_eq!(pace.pause(1, 0), Duration::ZERO);
    assert!(pace.pause(1, u64::MAX) > Duration::from_millis(499));
    assert!(pace.pause(3, u64::MAX) > Duration::from_millis(1999));
    assert!(pace.pause(40, u64::MAX) <= Duration::from_secs(20));
}

#[test]
fn a_pause_takes_a_share_of_the_time_that_is_left_whatever_is_asked_for() {
    let patient = |haste: &Haste| {
        let store = store([Step::Fault(Fault::Passing { why: "503".into(), after: Some(Duration::from_secs(20)) })]);
        let backoff = Backoff { patience: Duration::from_secs(60), ..store.backoff };
        RetryStore { backoff, ..store }.in_haste(haste.clone())
    };
    let haste = Haste::default();
    assert_eq!(haste.longest(), None);
    let until = Instant::now() + Duration::from_secs(2);
    haste.begin(until);
    // The earlier end counts.
    haste.begin(until + Duration::from_secs(1000));
    let began = Instant::now();
    patient(&haste).create("x", &[b"x"]).unwrap();
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    haste.end();
    assert_eq!(haste.longest(), None);

    // A pause that has begun is cut short as well.
    let store = patient(&haste);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| store.create("x", &[b"x"]));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!creating.is_finished());
        haste.begin(Instant::now() + Duration::from_secs(2));
        creating.join().unwrap().unwrap();
    });
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
