//! The epoch of a term: what holds it, looks at it while the app runs, and what it makes of backups.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::{Around, RunEvent};
use crate::backup::options::{AfterCommit, BackupOptions, BeforeCommit};
use crate::epochs::clock::SystemClock;
use crate::epochs::driver::{Begun, Commit, EpochDriver, EpochOptions, Hold};
use crate::error::{Code, Doing, Error, Result};
use crate::job;
use crate::monitor::{Context, LogMonitor, system_random};
use crate::replicas::Site;
use crate::report::RunId;
use crate::run::lock::{RunLock, RunRecord};
use crate::run::process::ProcessIdentity;
use crate::runner::rules;
use crate::vault::root::{SnapshotName, SourceIdentity};

/// Why what is saved without an epoch is diverged.
const WITHOUT_EPOCH: &str =
    "it was taken by an instance that has no epoch, since the vault did not answer when its app was started";

/// The longest time between two looks at whether the epoch is due to be looked at.
const TICK: Duration = Duration::from_millis(500);
/// A vault that has not answered for this time is told of.
const SILENT: Duration = Duration::from_secs(30);

/// What happens to an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldEvent {
    /// Another instance has begun a greater one, and waits for the end of this one.
    Superseded {
        /// Its number.
        by: u32,
    },
    /// Another instance has ended this one.
    Ended {
        /// Its number.
        by: u32,
    },
    /// Nothing could be done for this time.
    Gap(Duration),
}

/// The epoch of this instance, and the lock of its directory.
#[derive(Default)]
pub struct Term {
    state: Mutex<TermHold>,
    /// Counts the threads that look at an epoch: all but the last one end. Changed while `state` is locked.
    looks: AtomicU64,
    /// Set when the begin of a term is to be given up: at a signal to stop, and when another instance takes over.
    halt: Arc<AtomicBool>,
    /// Whether there are several vaults, of which one holds the epoch.
    several: bool,
    /// The last run that created a snapshot's root, the snapshot, and whether it is good.
    committed: Mutex<Option<(RunId, SnapshotName, bool)>>,
}

#[derive(Default)]
struct TermHold {
    driver: Option<Arc<EpochDriver>>,
    epoch: Option<u32>,
    /// The epoch that ended this one by force.
    lost: Option<u32>,
    /// The epoch that takes over from this one.
    successor: Option<u32>,
    /// Whether the app runs without an epoch.
    without: bool,
    /// The last snapshot that was taken then.
    beside: Option<SnapshotName>,
    lock: Option<Arc<RunLock>>,
    /// The run of the epoch that is held, or being taken: the lock names it.
    run: Option<RunId>,
    /// Says outside of the directory what the lock says.
    record: Option<Arc<RunRecord>>,
    /// The process of the app that was started last.
    app: Option<u32>,
    /// How often the lock was set.
    lock_changes: u64,
    /// Snapshots of which it could not be asked whether the epoch was over when they were committed.
    unasked: Vec<SnapshotName>,
}

impl TermHold {
    /// Has a lock name the epoch, before it is the lock of the directory.
    fn name_run(&self, lock: Option<&RunLock>) {
        if let Some((lock, run)) = lock.zip(self.run) {
            lock.note_epoch_run(run);
        }
    }
}

/// Calls `work` with a context for the calls of an epoch, which do not end with the program's stop: the end is told then.
fn within<T>(work: impl FnOnce(&Context) -> T) -> T {
    let stop = AtomicBool::new(false);
    work(&Context { random: &system_random, threads: 1, parallel: 2, stop: &stop, monitor: &LogMonitor })
}

impl Term {
    /// Holds no epoch yet; `several` says that there are several vaults.
    pub fn new(several: bool) -> Self {
        Term { several, ..Term::default() }
    }

    fn state(&self) -> MutexGuard<'_, TermHold> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the options of each backup that the runner begins.
    pub fn for_backups(self: &Arc<Self>) -> rules::Term {
        let term = self.clone();
        rules::Term::new(move |options| {
            term.set(options);
            let term = term.clone();
            options.after_commit = Some(AfterCommit::new(move |run, snapshot, good| {
                let committed = run.map(|run| (run, snapshot, good));
                *term.committed.lock().unwrap_or_else(PoisonError::into_inner) = committed;
            }));
        })
    }

    /// Sets the options of a backup: its epoch, or that it is diverged.
    ///
    /// What is saved without an epoch is diverged until one is taken. The vault that did not answer may have newer snapshots, of another
    /// instance or of this very directory before its disk was put back, and a number that only the others' snapshots are asked for could
    /// hide them.
    pub fn set(&self, options: &mut BackupOptions) {
        let state = self.state();
        options.epoch = state.epoch;
        if state.without {
            options.diverged = Some(WITHOUT_EPOCH.into());
            options.first_may_be_missing = true;
            return;
        }
        if let Some(by) = state.lost {
            options.diverged = Some(lost(state.epoch, by));
            return;
        }
        let Some(driver) = state.driver.clone() else { return };
        let (before, epoch, several) = (options.before_commit.take(), state.epoch, self.several);
        options.before_commit = Some(BeforeCommit::new(move || {
            before.as_ref().map_or(Ok(()), BeforeCommit::ask)?;
            match within(|ctx| driver.before_commit(ctx)) {
                Ok(Commit::Good) => Ok(()),
                Ok(Commit::Diverged { by }) => {
                    Err(Error::failed("commit the snapshot", lost(epoch, by)).with_code(Code::OtherWriter))
                }
                // The vault that holds the epoch must not keep the others from taking a snapshot. If another instance has
                // ended the epoch, it has a greater one: by its number, this snapshot is never the newest then.
                Err(why) if several && why.of_store() && why.code() != Code::Stopped => {
                    tracing::warn!(
                        "a snapshot is taken, although it cannot be asked whether another instance has taken over: {}",
                        why.what()
                    );
                    Ok(())
                }
                Err(why) => Err(why),
            }
        }));
    }

    /// Keeps an epoch that was begun.
    pub fn hold(&self, driver: Arc<EpochDriver>, begun: Begun) {
        let mut state = self.state();
        (state.driver, state.epoch, state.lost) = (Some(driver), Some(begun.epoch), None);
        (state.successor, state.without) = (None, false);
    }

    /// Holds an epoch, and has what is saved be beside its line of snapshots all the same.
    pub fn hold_beside(&self, driver: Arc<EpochDriver>) {
        let mut state = self.state();
        (state.driver, state.epoch, state.lost) = (Some(driver), None, None);
        (state.successor, state.without) = (None, true);
    }

    /// Holds no epoch.
    pub fn hold_none(&self) {
        let mut state = self.state();
        (state.driver, state.epoch, state.lost) = (None, None, None);
        (state.successor, state.without) = (None, true);
    }

    /// Whether the app runs without an epoch, which it is to have.
    pub fn is_without_epoch(&self) -> bool {
        self.state().without
    }

    /// Notes a snapshot that was committed, which is beside the line if there is no epoch.
    pub fn note_commit(&self, snapshot: Option<SnapshotName>) {
        let mut state = self.state();
        if state.without {
            state.beside = snapshot.or(state.beside);
        }
    }

    /// The last snapshot that was taken without an epoch.
    pub fn beside(&self) -> Option<SnapshotName> {
        self.state().beside
    }

    /// The flag that has the begin of a term give up.
    pub fn halt(&self) -> &Arc<AtomicBool> {
        &self.halt
    }

    /// The epoch that takes over from this one, as far as it was seen.
    pub fn successor(&self) -> Option<u32> {
        self.state().successor
    }

    /// The driver that holds the epoch. `None` without one.
    pub fn driver(&self) -> Option<Arc<EpochDriver>> {
        self.state().driver.clone()
    }

    /// The epoch that is held, or was held last.
    pub fn epoch(&self) -> Option<u32> {
        self.state().epoch
    }

    /// Notes that another instance has ended the epoch: what is saved from now on is diverged. Returns whether that is news.
    pub fn lose(&self, by: u32) -> bool {
        let mut state = self.state();
        let is_news = state.lost.is_none();
        // The end of its own epoch, which one that goes on tells, is seen later.
        state.lost.get_or_insert(by);
        is_news
    }

    /// The same, and logs it if it is news.
    pub fn lose_and_tell(&self, by: u32) {
        if self.lose(by) {
            tracing::error!(
                "the instance of epoch {by} has taken over without waiting for this one any longer: what is saved here from now on is \
                 diverged, and is never restored by itself"
            );
        }
    }

    /// Looks whether the epoch was ended between the last look and a commit: a successor may not have seen that snapshot.
    pub fn look_after_commit(&self, snapshot: Option<SnapshotName>) {
        let Some(driver) = self.driver() else { return };
        self.state().unasked.extend(snapshot);
        // It may have been under way when that was seen.
        if self.is_lost() {
            return;
        }
        match within(|ctx| driver.after_commit(ctx)) {
            // The epoch holds, and all that was committed in it.
            Ok(Commit::Good) => self.state().unasked.clear(),
            // This instance has ended it itself meanwhile.
            Ok(Commit::Diverged { by }) if self.epoch() == Some(by) => {}
            Ok(Commit::Diverged { by }) => self.lose_and_tell(by),
            Err(why) => tracing::warn!("whether the snapshot counts could not be asked: {}", why.what()),
        }
    }

    /// Takes the snapshots of which it is not known whether they were committed before the epoch was lost. They look like any other, but
    /// the successor may not have restored them, and theirs have greater numbers: nothing restores them by itself.
    pub fn take_unasked(&self) -> Vec<SnapshotName> {
        std::mem::take(&mut self.state().unasked)
    }

    /// The snapshot that a run has committed, and whether it is good, as far as that was the last one: the run need not be over.
    pub fn committed(&self, run: RunId) -> Option<(SnapshotName, bool)> {
        let committed = *self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        committed.filter(|(of, ..)| *of == run).map(|(_, snapshot, good)| (snapshot, good))
    }

    /// Whether another instance has ended the epoch.
    pub fn is_lost(&self) -> bool {
        self.lost().is_some()
    }

    /// The epoch that has ended this one by force.
    pub fn lost(&self) -> Option<u32> {
        self.state().lost
    }

    /// Has the lock name an epoch that is about to be taken, by its run, and each lock that follows.
    pub fn name_run(&self, run: RunId) {
        let mut state = self.state();
        state.run = Some(run);
        state.name_run(state.lock.as_deref());
    }

    /// The run of the epoch that is held, or being taken.
    pub fn run(&self) -> Option<RunId> {
        self.state().run
    }

    /// Keeps the lock of the directory. The one before is let go.
    pub fn set_lock(&self, lock: Option<Arc<RunLock>>) {
        let mut state = self.state();
        state.name_run(lock.as_deref());
        let before = std::mem::replace(&mut state.lock, lock);
        state.lock_changes += 1;
        drop(state);
        drop(before);
    }

    /// Keeps what says the same outside of the directory.
    pub fn set_record(&self, record: Option<Arc<RunRecord>>) {
        self.state().record = record;
    }

    /// Whether there is such a record.
    pub fn has_record(&self) -> bool {
        self.state().record.is_some()
    }

    /// Lets the lock go, and the record: no app runs on the directory any more.
    pub fn leave_directory(&self) {
        self.set_lock(None);
        let record = self.state().record.take();
        drop(record);
    }

    /// Has the lock and the record say which process the app is.
    pub fn note_app(&self, pid: u32) {
        self.state().app = Some(pid);
        let (lock, record) = self.notes();
        record.iter().for_each(|record| record.note_app(pid));
        lock.iter().for_each(|lock| lock.note_app(pid));
    }

    /// Has them say which processes the app has started that cannot be known by its mark.
    pub fn note_unmarked(&self, found: &[ProcessIdentity]) {
        let (lock, record) = self.notes();
        record.iter().for_each(|record| record.note_unmarked(found));
        lock.iter().for_each(|lock| lock.note_unmarked(found));
    }

    fn notes(&self) -> (Option<Arc<RunLock>>, Option<Arc<RunRecord>>) {
        let state = self.state();
        (state.lock.clone(), state.record.clone())
    }

    /// How often the lock was set.
    pub fn lock_changes(&self) -> u64 {
        self.state().lock_changes
    }

    /// Keeps a lock, unless that was set since it had been set this often: it is let go then. Returns whether it is kept.
    pub fn set_lock_after(&self, changes: u64, lock: Arc<RunLock>) -> bool {
        let mut state = self.state();
        if state.lock_changes != changes {
            return false;
        }
        state.name_run(Some(&lock));
        let before = state.lock.replace(lock.clone());
        state.lock_changes = changes + 1;
        let app = state.app;
        drop(state);
        drop(before);
        app.into_iter().for_each(|app| lock.note_app(app));
        true
    }

    /// The lock of the directory.
    pub fn lock(&self) -> Option<Arc<RunLock>> {
        self.state().lock.clone()
    }

    /// Looks at the epoch from now on, until it is over, and sends what happens to it. A begin that is under way gives up when another
    /// instance takes over.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn watch(self: &Arc<Self>, send: Sender<RunEvent>) -> Result<()> {
        let Some(driver) = self.driver() else { return Ok(()) };
        let (term, number) = (self.clone(), self.next_look());
        let work = move || {
            let (mut told, mut silent) = (false, false);
            while term.looks.load(Ordering::SeqCst) == number {
                let event = match within(|ctx| driver.tick(ctx)) {
                    Hold::Held => {
                        silent = false;
                        None
                    }
                    Hold::Superseded { by } => Some(HoldEvent::Superseded { by }),
                    Hold::Ended { by } => Some(HoldEvent::Ended { by }),
                    Hold::Gap(gap) => Some(HoldEvent::Gap(gap)),
                    Hold::Unknown { since, why } => {
                        if since >= SILENT && !std::mem::replace(&mut silent, true) {
                            tracing::error!(
                                "whether another instance takes over has not been known for {since:.0?}: {why}"
                            );
                        }
                        None
                    }
                };
                let is_news = match event {
                    Some(HoldEvent::Superseded { .. }) => !std::mem::replace(&mut told, true),
                    Some(_) => true,
                    None => false,
                };
                let is_end = matches!(event, Some(HoldEvent::Ended { .. }));
                if let Some(event) = event.filter(|_| is_news) {
                    let mut state = term.state();
                    // The epoch may be over by now, and another one be held.
                    if term.looks.load(Ordering::SeqCst) != number {
                        return;
                    }
                    if let HoldEvent::Superseded { by } | HoldEvent::Ended { by } = event {
                        state.successor = Some(by);
                        term.halt.store(true, Ordering::SeqCst);
                    }
                    // The receiver lives as long as the program.
                    let _ = send.send(RunEvent::Hold(event));
                }
                if is_end {
                    return;
                }
                // The successor is told at once that this instance stops its app.
                if !(is_news && matches!(event, Some(HoldEvent::Superseded { .. }))) {
                    thread::sleep(TICK);
                }
            }
        };
        thread::Builder::new().name("epoch".into()).spawn(work).doing(|| "start the thread that looks at the epoch")?;
        Ok(())
    }

    /// Does not look at the epoch any more: nothing is sent, and no begin given up because of it, from now on.
    pub fn unwatch(&self) {
        self.next_look();
    }

    fn next_look(&self) -> u64 {
        let _state = self.state();
        self.looks.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// Says that another instance has ended an epoch.
fn lost(epoch: Option<u32>, by: u32) -> String {
    let own = epoch.unwrap_or_default();
    format!("the instance of epoch {by} has taken over from this one, of epoch {own}")
}

impl Around {
    /// Returns the options by which this instance takes epochs; `locked` is the directory whose lock it holds.
    pub(super) fn epoch_options(&self, locked: Option<SourceIdentity>, ctx: &Context) -> Result<EpochOptions> {
        let settings = &self.settings;
        Ok(EpochOptions {
            handover: settings.handover,
            poll: settings.handover_poll,
            service: settings.rules.backup.service.clone(),
            revision: settings.rules.place.revision.clone(),
            host: settings.rules.backup.host.clone(),
            locked,
            lock_runs: self.term.lock().map_or_else(Vec::new, |lock| lock.epoch_runs()),
            on_terminal: self.has_terminal,
            take_over: settings.take_over,
            is_rollback: false,
            run: job::new_run(ctx)?,
        })
    }

    /// Returns what takes epochs in these vaults, and looks at the one that is held so that a successor may count on it.
    pub(super) fn epoch_driver(&self, sites: Vec<Site>, options: EpochOptions) -> EpochDriver {
        EpochDriver::new(sites, options, Arc::new(SystemClock)).with_quick_looks(self.vaults.for_quick_looks())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_without_an_epoch_is_diverged() {
        let options = |term: &Term| {
            let mut options = BackupOptions { epoch: Some(7), ..BackupOptions::default() };
            term.set(&mut options);
            options
        };
        let term = Term::default();
        // A look at a copy of the data takes no epoch, and saves nothing.
        assert_eq!(options(&term).diverged, None);
        let name: SnapshotName = "1790000000-20260921T142640Z-00112233aabbccdd".parse().unwrap();
        term.note_commit(Some(name));
        assert_eq!(term.beside(), None);
        term.hold_none();
        let without = options(&term);
        assert!(without.diverged.is_some_and(|why| why.contains("no epoch")));
        assert_eq!((without.epoch, without.first_may_be_missing), (None, true));
        term.note_commit(Some(name));
        term.note_commit(None);
        assert_eq!(term.beside(), Some(name));
    }
}
