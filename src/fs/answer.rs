//! Asks the system about places that may hang: a folder on a mount whose server is gone keeps a caller for as long as it likes.
//!
//! Each question is asked on a thread of its own, which is left alone if no answer comes in time. Until the answer comes after all,
//! further questions about that place get none, at once. So a vault that hangs costs a few seconds in all, and never keeps a snapshot
//! from other vaults, or an app from its start. All else that is done in a vault's folder goes through its store.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

/// How long a place may take that has never answered: a share may have to be connected first.
const FIRST: Duration = Duration::from_secs(5);
/// How long a place may take that has answered before.
const LATER: Duration = Duration::from_secs(1);

/// Which folder is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The folder of this device and inode. A place that does not answer now has the one that it had before.
    Is(u64, u64),
    /// There is none.
    Nothing,
    /// It has never answered.
    Unknown,
}

/// What is known of a place.
#[derive(Default)]
struct Place {
    has_answered: bool,
    /// How many questions are not answered that nobody waits for any more.
    late: usize,
    /// The folder that was there last.
    folder: Option<(u64, u64)>,
}

static PLACES: Mutex<BTreeMap<PathBuf, Place>> = Mutex::new(BTreeMap::new());

fn places() -> MutexGuard<'static, BTreeMap<PathBuf, Place>> {
    // Nothing panics while it holds the lock.
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks something about a place. `None` if there is no answer in time, or the system gives no thread.
pub fn about<T: Send + 'static>(place: &Path, ask: impl FnOnce(&Path) -> T + Send + 'static) -> Option<T> {
    let limit = match places().entry(place.to_owned()).or_default() {
        Place { late: 1.., .. } => return None,
        Place { has_answered: true, .. } => LATER,
        Place { .. } => FIRST,
    };
    let (tell, answer) = bounded(1);
    let (asked, is_late) = (place.to_owned(), Arc::new(AtomicBool::new(false)));
    let is_given_up = is_late.clone();
    let work = move || {
        let found = ask(&asked);
        let mut places = places();
        let known = places.entry(asked).or_default();
        known.has_answered = true;
        match is_given_up.load(Ordering::Relaxed) {
            true => known.late -= 1,
            // It is waited for, by whoever takes the lock before this is seen to be late.
            false => _ = tell.send(found),
        }
    };
    thread::Builder::new().name("answer".into()).spawn(work).ok()?;
    if let Ok(found) = answer.recv_timeout(limit) {
        return Some(found);
    }
    let mut places = places();
    if let Ok(found) = answer.try_recv() {
        return Some(found);
    }
    is_late.store(true, Ordering::Relaxed);
    places.entry(place.to_owned()).or_default().late += 1;
    None
}

/// Returns which folder is at a place, whatever it is called and by whatever mount it is reached.
pub fn identity(place: &Path) -> Identity {
    let found = about(place, |place| place.metadata().ok().map(|meta| (meta.dev(), meta.ino())));
    let mut places = places();
    let known = places.entry(place.to_owned()).or_default();
    match found {
        Some(found) => {
            known.folder = found;
            found.map_or(Identity::Nothing, |(device, inode)| Identity::Is(device, inode))
        }
        None => known.folder.map_or(Identity::Unknown, |(device, inode)| Identity::Is(device, inode)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_place_that_hangs_is_waited_for_once_and_is_what_it_was_before() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let Identity::Is(_, inode) = identity(at) else { panic!("it is there") };
        assert_eq!(inode, at.metadata().unwrap().ino());
        assert_eq!(identity(&at.join("none")), Identity::Nothing);

        let (let_go, held) = bounded::<()>(0);
        let began = Instant::now();
        assert_eq!(about(at, move |_| held.recv().is_err()), None);
        assert!((LATER..FIRST).contains(&began.elapsed()), "{:?}", began.elapsed());
        let began = Instant::now();
        assert!(matches!(identity(at), Identity::Is(_, same) if same == inode));
        assert_eq!(about(at, |_| 1), None);
        // Another place is asked all the same.
        assert_eq!(identity(&at.join("none")), Identity::Nothing);
        assert!(began.elapsed() < LATER, "{:?}", began.elapsed());

        drop(let_go);
        let until = Instant::now() + Duration::from_secs(20);
        while about(at, |_| 1).is_none() {
            assert!(Instant::now() < until, "it is asked again once it has answered");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_place_that_has_never_answered_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        let (let_go, held) = bounded::<()>(0);
        let asked = at.clone();
        let asking = thread::spawn(move || about(&asked, move |_| held.recv().is_err()));
        assert_eq!(asking.join().unwrap(), None);
        assert_eq!(identity(&at), Identity::Unknown);
        drop(let_go);
    }
}
