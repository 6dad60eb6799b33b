//! Watches whether the app still writes, and whether critical files are there.
//!
//! The data directory is looked at by a thread of its own, as `/health` of `serve` looks at it: for 3 s at most, and no
//! symlink is followed. That is done ten times in the time after which data counts as stale, and less often where a look
//! takes long. If a look does not see all of a large tree, only what it has seen tells anything: what it has not is not stale,
//! and not gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::error::{Doing, Result};
use crate::server::health_data::{DataFindings, DataProbeSettings, probe_data};

/// How often critical files are looked at where nothing says how fresh the data has to be.
const CRITICAL: Duration = Duration::from_secs(60);
/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(200);
/// How long after a look that finds a critical file gone or empty another one follows, which decides: many programs empty a file
/// before they write it.
const AGAIN: Duration = Duration::from_secs(1);
/// How many times as long as a look the pause after it is at least.
const PAUSE: u32 = 20;
/// How often the thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(100);

/// What is watched.
#[derive(Debug, Clone, Default)]
pub struct FreshnessRules {
    /// After how long without a write the data is stale. `None`: never.
    pub freshness: Option<Duration>,
    /// The data directory, and the critical files.
    pub place: DataProbeSettings,
    /// Whether what is wrong has a critical snapshot taken.
    pub saves: bool,
}

impl FreshnessRules {
    /// Whether there is anything to watch.
    pub fn is_empty(&self) -> bool {
        self.freshness.is_none() && self.place.critical.is_empty()
    }

    /// How long it is waited after a look that took so long.
    fn pause(&self, look: Duration) -> Duration {
        let every = self.freshness.map_or(CRITICAL, |freshness| freshness / 10);
        every.max(look * PAUSE).max(SHORTEST)
    }
}

/// News of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreshnessNews {
    /// Something is wrong.
    Wrong(String),
    /// It is well again.
    Well(String),
}

/// What is known of the data.
#[derive(Debug, Default)]
struct FreshnessState {
    stale: bool,
    critical: Vec<CriticalState>,
}

/// What is known of a critical file.
#[derive(Debug, Clone, Copy, Default)]
struct CriticalState {
    /// Whether it was there once, and whether it had any content.
    was_there: bool,
    was_filled: bool,
    /// Whether the last look found it gone, or empty.
    suspected: bool,
    /// Whether it was told that it is gone, or empty.
    wrong: bool,
}

impl FreshnessState {
    /// Takes what a look has seen. The app has run for `runs`: what was restored is as old as it was, and is no fault of the app.
    fn look(
        &mut self,
        rules: &FreshnessRules,
        seen: &DataFindings,
        (runs, now): (Duration, Timestamp),
    ) -> Vec<FreshnessNews> {
        let mut news = Vec::new();
        if let Some(freshness) = rules.freshness {
            let age = seen.newest.map(|newest| Duration::try_from(now.duration_since(newest)).unwrap_or_default());
            let is_fresh = age.is_some_and(|age| age <= freshness);
            // Nothing may be there, or the directory may be gone.
            let is_stale = !is_fresh && seen.whole && runs > freshness;
            if is_stale && !self.stale {
                self.stale = true;
                let age = age.map_or("there is no file in it".to_owned(), |age| {
                    format!("its newest file is {} s old", age.as_secs())
                });
                let limit = freshness.as_secs();
                news.push(FreshnessNews::Wrong(format!(
                    "nothing was written to the data directory for more than {limit} s (--data-freshness): {age}"
                )));
            } else if is_fresh && self.stale {
                self.stale = false;
                news.push(FreshnessNews::Well("the data directory is written to again".into()));
            }
        }
        self.critical.resize(seen.critical.len(), CriticalState::default());
        for (critical, known) in seen.critical.iter().zip(&mut self.critical) {
            let Some(present) = critical.present else { continue };
            let is_gone = known.was_there && !present;
            let is_empty = known.was_filled && present && critical.filled == Some(false);
            known.was_there |= present;
            known.was_filled |= critical.filled == Some(true);
            let pattern = &critical.pattern;
            let was_suspected = std::mem::replace(&mut known.suspected, is_gone || is_empty);
            if is_gone || is_empty {
                if was_suspected && !std::mem::replace(&mut known.wrong, true) {
                    let what = if is_gone { "is gone" } else { "is empty, and was not before" };
                    news.push(FreshnessNews::Wrong(format!("the critical file {pattern} {what} (--critical-file)")));
                }
            } else if std::mem::replace(&mut known.wrong, false) {
                news.push(FreshnessNews::Well(format!("the critical file {pattern} is there again")));
            }
        }
        news
    }

    /// Whether the next look decides about a critical file.
    fn is_undecided(&self) -> bool {
        self.critical.iter().any(|critical| critical.suspected && !critical.wrong)
    }
}

/// Watches for as long as it lives.
#[derive(Debug)]
pub struct FreshnessWatch {
    over: Arc<AtomicBool>,
    /// Since when the app runs. `None`: it does not.
    since: Arc<Mutex<Option<Instant>>>,
}

impl FreshnessWatch {
    /// Watches the data of an app that has just started, and tells the news. `None` if nothing is to be watched.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn begin(rules: &FreshnessRules, tell: impl Fn(FreshnessNews) + Send + 'static) -> Result<Option<Self>> {
        if rules.is_empty() {
            return Ok(None);
        }
        let (rules, over) = (rules.clone(), Arc::new(AtomicBool::new(false)));
        let since = Arc::new(Mutex::new(Some(Instant::now())));
        let (end, started) = (over.clone(), since.clone());
        let work = move || {
            let (mut state, mut next) = (FreshnessState::default(), Instant::now());
            while !end.load(Ordering::Relaxed) {
                if Instant::now() < next {
                    thread::sleep(TICK);
                    continue;
                }
                let seen = probe_data(&rules.place, &end);
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let runs = locked(&started).map_or(Duration::ZERO, |since| since.elapsed());
                state.look(&rules, &seen, (runs, Timestamp::now())).into_iter().for_each(&tell);
                let pause = rules.pause(seen.took);
                next = Instant::now() + if state.is_undecided() { pause.min(AGAIN) } else { pause };
            }
        };
        thread::Builder::new()
            .name("freshness".into())
            .spawn(work)
            .doing(|| "start the thread that watches the data")?;
        Ok(Some(FreshnessWatch { over, since }))
    }

    /// Notes that the app runs from now on, or does not run.
    pub fn app_runs(&self, runs: bool) {
        *locked(&self.since) = runs.then(Instant::now);
    }
}

fn locked(since: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    // Nothing panics while it holds the lock.
    since.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for FreshnessWatch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::health_data::CriticalFile;

    const HOUR: Duration = Duration::from_secs(3600);

    fn seen(age: Option<u64>, critical: &[(Option<bool>, Option<bool>)]) -> DataFindings {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let critical = critical.iter().map(|(present, filled)| CriticalFile {
            pattern: "prices.csv".into(),
            present: *present,
            filled: *filled,
        });
        let newest = age.map(|age| now - jiff::SignedDuration::from_secs(age as i64));
        DataFindings { newest, whole: true, critical: critical.collect(), ..DataFindings::default() }
    }

    fn words(news: &[FreshnessNews]) -> Vec<&str> {
        let of = |news: &'_ FreshnessNews| match news {
            FreshnessNews::Wrong(what) if what.contains("is gone") => "gone",
            FreshnessNews::Wrong(what) if what.contains("is empty") => "empty",
            FreshnessNews::Wrong(_) => "stale",
            FreshnessNews::Well(what) if what.contains("critical") => "there again",
            FreshnessNews::Well(_) => "fresh again",
        };
        news.iter().map(of).collect()
    }

    #[test]
    fn data_that_is_not_written_to_is_told_of_once_and_so_is_its_recovery() {
        let rules = FreshnessRules { freshness: Some(HOUR), ..FreshnessRules::default() };
        let mut state = FreshnessState::default();
        let mut look = |hours: u32, seen: DataFindings| {
            let now = Timestamp::from_second(1_000_000).unwrap();
            words(&state.look(&rules, &seen, (hours * HOUR, now))).join(" ")
        };
        // What was restored is old.
        assert_eq!(look(0, seen(Some(90_000), &[])), "");
        assert_eq!(look(2, seen(Some(3_000), &[])), "");
        // A look that has not seen all has not seen the newest file.
        assert_eq!(look(2, DataFindings { whole: false, ..seen(Some(4_000), &[]) }), "");
        assert_eq!(look(2, seen(Some(4_000), &[])), "stale");
        assert_eq!(look(3, seen(Some(9_000), &[])), "");
        assert_eq!(look(3, seen(None, &[])), "");
        assert_eq!(look(3, DataFindings { whole: false, ..seen(Some(10), &[]) }), "fresh again");
        assert_eq!(look(4, seen(None, &[])), "stale");
    }

    #[test]
    fn a_critical_file_that_vanishes_or_is_emptied_is_told_of() {
        let rules = FreshnessRules::default();
        let mut state = FreshnessState::default();
        let mut look = |present: Option<bool>, filled: Option<bool>| {
            let now = Timestamp::from_second(1_000_000).unwrap();
            words(&state.look(&rules, &seen(Some(1), &[(present, filled)]), (HOUR, now))).join(" ")
        };
        // The app has yet to make it, and to write to it.
        assert_eq!(look(Some(false), None), "");
        assert_eq!(look(Some(true), Some(false)), "");
        assert_eq!(look(Some(true), Some(true)), "");
        assert_eq!(look(None, None), "");
        // A program may empty it before it writes it: one look tells nothing.
        assert_eq!(look(Some(true), Some(false)), "");
        assert_eq!(look(Some(true), Some(true)), "");
        assert_eq!(look(Some(true), Some(false)), "");
        assert_eq!(look(Some(true), Some(false)), "empty");
        assert_eq!(look(Some(false), None), "");
        assert_eq!(look(Some(true), Some(true)), "there again");
        assert_eq!(look(Some(false), None), "");
        assert_eq!(look(Some(false), None), "gone");
        assert_eq!(look(Some(true), Some(false)), "");
        assert_eq!(look(Some(true), Some(true)), "there again");
    }

    #[test]
    fn looks_that_take_long_are_rare() {
        let rules = FreshnessRules { freshness: Some(HOUR), ..FreshnessRules::default() };
        assert_eq!(rules.pause(Duration::from_millis(5)), HOUR / 10);
        let soon = FreshnessRules { freshness: Some(Duration::from_secs(10)), ..FreshnessRules::default() };
        assert_eq!(soon.pause(Duration::from_millis(5)), Duration::from_secs(1));
        assert_eq!(soon.pause(Duration::from_secs(3)), Duration::from_secs(60));
        assert_eq!(FreshnessRules::default().pause(Duration::ZERO), CRITICAL);
    }
}
