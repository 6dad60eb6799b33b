//! A store that answers from memory what it was asked before, for a while: the begin of an app's term looks at the same objects
//! several times, each time with vaults that it opens for that.
//!
//! Objects never change, so that what was read of one stays right. Each [`RememberingStore`] takes an answer from memory only
//! once: whoever asks it a second time doubts the first answer, or waits for a new one. That an object is not there is never
//! remembered. The listing of one folder is remembered, too, until something is created, or [`StoreMemory::forget_lists`] is
//! called: what must be listed after something else was done is asked of the store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{FreeSpace, Meta, Result, Staging, Store, Traffic, pass_on};

/// The most bytes of an answer that is remembered: lists of entries, and no content of large files.
const LARGEST: u64 = 256 << 10;
/// The most bytes of all answers together.
const ROOM: u64 = 4 << 20;
/// Bytes that an object counts as in a listing, beside its name.
const LISTED: usize = 64;

/// A question to a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    /// All of an object that has at most this many bytes.
    Whole(String, u64),
    /// So many bytes of an object from there on.
    Range(String, u64, u64),
    /// A folder's objects.
    List(String),
}

#[derive(Debug, Clone)]
enum StoreAnswer {
    Bytes(Vec<u8>),
    Objects(Vec<Meta>),
}

impl StoreAnswer {
    fn bytes(&self) -> u64 {
        match self {
            StoreAnswer::Bytes(bytes) => bytes.len() as u64,
            StoreAnswer::Objects(objects) => {
                objects.iter().map(|object| (object.name.len() + LISTED) as u64).sum::<u64>()
            }
        }
    }
}

#[derive(Debug, Default)]
struct Remembered {
    /// How many have asked that answers be remembered, and still do.
    wanted: usize,
    /// How often listings were forgotten.
    lists: u64,
    answers: HashMap<Question, StoreAnswer>,
    bytes: u64,
}

impl Remembered {
    fn forget(&mut self, is_forgotten: impl Fn(&Question) -> bool) {
        let gone: u64 = self.answers.extract_if(|asked, _| is_forgotten(asked)).map(|(_, answer)| answer.bytes()).sum();
        self.bytes = self.bytes.saturating_sub(gone);
    }
}

/// What was read of one store. Empty, and filled by nothing, unless [`StoreMemory::remember`] was called.
#[derive(Debug, Default)]
pub struct StoreMemory {
    remembered: Mutex<Remembered>,
}

impl StoreMemory {
    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        // Nothing panics while it holds the lock.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers answers from now on, until [`StoreMemory::end`] is called as often as this.
    pub fn remember(&self) {
        self.remembered().wanted += 1;
    }

    /// Forgets all, and remembers nothing any more.
    pub fn end(&self) {
        let mut remembered = self.remembered();
        remembered.wanted = remembered.wanted.saturating_sub(1);
        if remembered.wanted == 0 {
            *remembered = Remembered::default();
        }
    }

    /// Forgets all listings: what is listed next is asked of the store.
    pub fn forget_lists(&self) {
        let mut remembered = self.remembered();
        remembered.lists += 1;
        remembered.forget(|asked| matches!(asked, Question::List(_)));
    }

    /// Forgets what it knows of all objects. Returns whether that was anything.
    pub fn forget(&self) -> bool {
        let mut remembered = self.remembered();
        let knew_some = !remembered.answers.is_empty();
        remembered.forget(|_| true);
        knew_some
    }
}

/// A store whose answers are taken from memory where they are there.
pub struct RememberingStore {
    store: Arc<dyn Store>,
    memory: Arc<StoreMemory>,
    /// The folder whose listing is remembered.
    listed: &'static str,
    /// The questions that were put to this one already.
    asked: Mutex<HashSet<Question>>,
}

impl RememberingStore {
    /// Returns the store, whose answers are kept in `memory`: objects, and the listing of the folder `listed`.
    pub fn new(store: Arc<dyn Store>, memory: Arc<StoreMemory>, listed: &'static str) -> Self {
        RememberingStore { store, memory, listed, asked: Mutex::default() }
    }

    fn ask(&self, question: Question, ask: impl FnOnce() -> Result<StoreAnswer>) -> Result<StoreAnswer> {
        let lists = {
            let mut remembered = self.memory.remembered();
            if remembered.wanted == 0 {
                drop(remembered);
                return ask();
            }
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if !asked.insert(question.clone()) {
                remembered.forget(|doubted| *doubted == question);
            } else if let Some(answer) = remembered.answers.get(&question) {
                return Ok(answer.clone());
            }
            remembered.lists
        };
        let answer = ask()?;
        let mut remembered = self.memory.remembered();
        // A listing may have begun before they were to be forgotten.
        let is_wanted = remembered.wanted > 0 && (remembered.lists == lists || !matches!(question, Question::List(_)));
        let bytes = answer.bytes();
        if is_wanted && bytes <= LARGEST && remembered.bytes + bytes <= ROOM {
            remembered.bytes += bytes;
            let before = remembered.answers.insert(question, answer.clone());
            remembered.bytes -= before.map_or(0, |before| before.bytes());
        }
        Ok(answer)
    }

    fn read(&self, question: Question, read: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        match self.ask(question, || read().map(StoreAnswer::Bytes))? {
            StoreAnswer::Bytes(bytes) => Ok(bytes),
            // No question that is answered by bytes is answered by a listing.
            StoreAnswer::Objects(_) => Ok(Vec::new()),
        }
    }
}

impl Store for RememberingStore {
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.read(Question::Whole(name.to_owned(), limit), || self.store.get(name, limit))
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        if length > LARGEST {
            return self.store.get_range(name, offset, length);
        }
        let question = Question::Range(name.to_owned(), offset, length);
        self.read(question, || self.store.get_range(name, offset, length))
    }

    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        if folder != self.listed {
            return self.store.list(folder);
        }
        let list = || self.store.list(folder).map(StoreAnswer::Objects);
        match self.ask(Question::List(folder.to_owned()), list)? {
            StoreAnswer::Objects(objects) => Ok(objects),
            StoreAnswer::Bytes(_) => Ok(Vec::new()),
        }
    }

    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        let created = self.store.create(name, body);
        // Also if it failed: the object may be there.
        self.memory.forget_lists();
        created
    }

    fn forget(&self, name: &str) {
        self.memory.remembered().forget(|asked| match asked {
            Question::Whole(of, _) | Question::Range(of, ..) => of == name,
            Question::List(_) => false,
        });
        self.store.forget(name);
    }

    pass_on! {
        self.store;
        fn url(&self) -> String;
        fn list_from(&self, folder: &str, from: &str) -> Result<Vec<Meta>>;
        fn other_than(&self, known: &[&str]) -> Result<Option<String>>;
        fn prepare(&self) -> Result<()>;
        fn open_to_others(&self) -> Option<u32>;
        fn denied(&self, name: &str) -> Option<super::StoreError>;
        fn unshared(&self) -> Option<super::Unshared>;
        fn staging(&self) -> Box<dyn Staging + '_>;
        fn set_aside(&self, keep: u64) -> Option<FreeSpace>;
        fn now(&self) -> Result<Timestamp>;
        fn request_worth(&self) -> u64;
        fn traffic(&self) -> Option<Traffic>;
        fn may_answer_better(&self, name: &str, wrong: u32) -> bool;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use crate::store::testing::memory::MemoryStore;
    use crate::store::testing::recording::RecordingStore;

    /// A store with a snapshot's root and a part of a pack, its memory, and a handle of a store for each phase of a start.
    fn sample() -> (Arc<RecordingStore<MemoryStore>>, Arc<StoreMemory>, impl Fn() -> RememberingStore) {
        let store = Arc::new(RecordingStore::new(MemoryStore::default()));
        store.create("snapshots/1", &[b"root"]).unwrap();
        store.create("packs/1", &[b"frames"]).unwrap();
        store.take();
        let memory = Arc::new(StoreMemory::default());
        let (inner, of) = (store.clone(), memory.clone());
        (store, memory, move || RememberingStore::new(inner.clone(), of.clone(), "snapshots/"))
    }

    fn ask(store: &dyn Store) {
        assert_eq!(store.get("snapshots/1", 100).unwrap(), b"root");
        assert_eq!(store.get_range("packs/1", 1, 3).unwrap(), b"ram");
        assert_eq!(store.list("snapshots/").unwrap().len(), 1);
        assert!(matches!(store.get("epochs/2.json", 100), Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn what_was_read_is_asked_for_once_while_it_is_remembered() {
        let (store, memory, open) = sample();
        for asked in [4, 4] {
            ask(&open());
            assert_eq!(store.take().len(), asked, "nobody has asked to remember");
        }
        memory.remember();
        let first = open();
        for (handle, asked, what) in [
            (&first, 4, "the first one"),
            (&open(), 1, "only what is not there may have come"),
            (&first, 4, "the same one doubts what it got"),
        ] {
            ask(handle);
            assert_eq!(store.take().len(), asked, "{what}");
        }
        memory.forget_lists();
        for listed in [1, 0] {
            ask(&open());
            assert_eq!(store.take().iter().filter(|call| call.verb == "list").count(), listed);
        }
        assert!(memory.forget() && !memory.forget());
        ask(&open());
        assert_eq!(store.take().len(), 4);
        // An inner use does not end the outer one.
        memory.remember();
        memory.end();
        ask(&open());
        assert_eq!(store.take().len(), 1);
        memory.end();
        ask(&open());
        assert_eq!(store.take().len(), 4);
    }

    #[test]
    fn a_listing_is_asked_for_after_something_was_created() {
        let (store, memory, open) = sample();
        memory.remember();
        ask(&open());
        open().create("snapshots/2", &[b"root"]).unwrap();
        assert_eq!(open().list("snapshots/").unwrap().len(), 2);
        // Only one that another program created meanwhile may be missing.
        store.create("snapshots/3", &[b"root"]).unwrap();
        assert_eq!(open().list("snapshots/").unwrap().len(), 2);
        memory.forget_lists();
        assert_eq!(open().list("snapshots/").unwrap().len(), 3);
        // Of other folders, nothing says when they are to be listed again.
        store.take();
        (0..2).for_each(|_| _ = open().list("claims/").unwrap());
        assert_eq!(store.take().len(), 2);
    }

    #[test]
    fn bytes_that_flipped_on_their_way_are_read_again() {
        let (store, memory, open) = sample();
        memory.remember();
        let handle = open();
        handle.get_range("packs/1", 0, 6).unwrap();
        store.take();
        // Whoever finds them wrong asks the same store once more, or tells it to forget.
        handle.get_range("packs/1", 0, 6).unwrap();
        assert_eq!(store.take().len(), 1);
        handle.forget("packs/1");
        open().get_range("packs/1", 0, 6).unwrap();
        assert_eq!(store.take().len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let (_, memory, open) = sample();
        let large = vec![0; LARGEST as usize];
        let store = open();
        (0..20).for_each(|n| store.create(&format!("packs/large{n}"), &[&large]).unwrap());
        memory.remember();
        (0..20).for_each(|n| _ = store.get(&format!("packs/large{n}"), LARGEST).unwrap());
        let held = |memory: &StoreMemory| memory.remembered().answers.values().map(StoreAnswer::bytes).sum::<u64>();
        assert_eq!((held(&memory), memory.remembered().bytes), (ROOM, ROOM));
        store.get("packs/large0", LARGEST).unwrap();
        assert_eq!(memory.remembered().bytes, ROOM);
        store.forget("packs/large0");
        assert_eq!((held(&memory), memory.remembered().bytes), (ROOM - LARGEST, ROOM - LARGEST));
    }

    #[test]
    fn it_fulfils_the_contract_of_stores() {
        crate::store::testing::contract::run(&|| {
            let memory = Arc::new(StoreMemory::default());
            memory.remember();
            (Box::new(RememberingStore::new(Arc::new(MemoryStore::default()), memory, "packs/")), Box::new(()))
        });
    }
}
