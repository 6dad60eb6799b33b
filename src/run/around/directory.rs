//! The data directory of a term: its lineage and its lock.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::Around;
use crate::error::{Code, Doing, Result};
use crate::fs::beneath::Directory;
use crate::fs::{Folder, filesystem};
use crate::lineage::{self, Lineage, OWN_FOLDER, RUN_LOCK, Serial};
use crate::monitor::Context;
use crate::run::app::App;
use crate::run::lock::{LockWait, RunLock, RunRecord};
use crate::run::process::ProcessIdentity;
use crate::source::place;
use crate::start::facts;
use crate::vault::root::{SnapshotName, SourceIdentity};

/// How often it is looked whether an app has begun to write to a directory that was empty.
const LOOK: Duration = Duration::from_millis(200);
/// How often it is looked whether a lock that is held still has its name.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Around {
    /// Whether the data directory has data. One that cannot be read may have some.
    pub(super) fn has_data(&self) -> bool {
        self.runner.context(|ctx| facts::has_data(&self.settings.look, ctx)).unwrap_or(true)
    }

    /// Writes that the content is that of a snapshot, at the end of a term: an instance that comes back later finds it stale, and not
    /// diverged.
    pub(super) fn write_last_lineage(&self, snapshot: SnapshotName) {
        if self.term.is_lost() || self.term.driver().is_none() {
            return;
        }
        if let Err(why) = self.runner.context(|ctx| self.renew_lineage(snapshot, ctx)) {
            tracing::debug!("the lineage of the last snapshot is not written: {why}");
        }
    }

    /// Writes where the content comes from, once the first good snapshot of a directory that was empty is taken.
    pub(super) fn write_first_lineage(&self, snapshot: SnapshotName) {
        if self.term.is_lost()
            || self.term.driver().is_none()
            || !matches!(lineage::read(&self.settings.data), Ok(None))
        {
            return;
        }
        if let Err(why) = self.runner.context(|ctx| self.renew_lineage(snapshot, ctx)) {
            tracing::warn!("the next start cannot know whose data this is: {why}");
        }
    }

    fn renew_lineage(&self, snapshot: SnapshotName, ctx: &Context) -> Result<()> {
        let epoch = self.term.epoch().unwrap_or_default();
        lineage::write(&self.settings.data, &self.lineage(Some(snapshot), (epoch, lineage::new_serial(ctx)?), ctx)?)
    }

    /// The lineage of the directory when its content comes from a snapshot, and is used in an epoch.
    pub(super) fn lineage(
        &self,
        snapshot: Option<SnapshotName>,
        (epoch, serial): (u32, Serial),
        ctx: &Context,
    ) -> Result<Lineage> {
        let vault = self.vaults.first(ctx)?;
        let written = vault.store.now().map_err(|why| why.while_doing("ask the store for the time"))?;
        let vault = vault.config.id;
        Ok(Lineage { format: lineage::FORMAT, vault, snapshot, epoch, serial, chosen: false, written })
    }

    /// Locks the directory if nobody holds its lock. Returns which directory that is.
    pub(super) fn try_to_lock(&self) -> Result<Option<SourceIdentity>> {
        match self.lock_within(Duration::ZERO) {
            Ok(()) => self.locked_place(),
            Err(why) if why.code() == Code::Locked => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// The directory that is locked, so that nobody else can run on it. `None` where there is no lock, or where another machine may
    /// have the directory, too.
    pub(super) fn locked_place(&self) -> Result<Option<SourceIdentity>> {
        match self.term.lock().is_none_or(|lock| lock.file().is_none()) {
            true => Ok(None),
            false => self.place(),
        }
    }

    /// The data directory, in which the app is started. It need not be locked: one that is empty has no lock yet, and the lock that it gets
    /// names the epoch. `None` if it is not there, or where another machine may have it, too.
    pub(super) fn place(&self) -> Result<Option<SourceIdentity>> {
        let data = &self.settings.data;
        let doing = || format!("look at {}", data.display());
        let directory = match Directory::open(data) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.doing(doing)?,
        };
        let is_remote = filesystem::remote(directory.folder()).doing(doing)?.is_some();
        let mounted = filesystem::mounted().unwrap_or_default();
        let place = place::identify(data, &self.settings.look.boot, &directory, is_remote, &mounted)?;
        Ok(Some(place).filter(|_| !is_remote))
    }

    /// Locks the directory for this `run`, unless the lock is held already. There is none where there is no data yet.
    pub(super) fn lock_directory(&self) -> Result<()> {
        self.lock_within(self.settings.handover)?;
        // Only now: nobody else does it, and nobody looks at the directory before.
        self.finish_carrying();
        Ok(())
    }

    fn lock_within(&self, patience: Duration) -> Result<()> {
        let (host, stop_timeout) = (&self.settings.rules.backup.host, self.settings.stop_timeout);
        let wait = LockWait { host, patience, stop_timeout, stop: self.term.halt() };
        let doing = || format!("open {}", self.settings.data.display());
        let directory = match Folder::open(&self.settings.data) {
            Err(Errno::NOENT) => None,
            opened => Some(opened.doing(doing)?),
        };
        let is_ours = |directory: &Folder| self.term.lock().is_some_and(|lock| lock.is_of(directory));
        if directory.as_ref().is_some_and(is_ours) {
            return Ok(());
        }
        RunRecord::end_left(&self.settings.data, &wait)?;
        // Where there is no data, none is made, but one that is there is another one's, or was: its app may have moved the data away.
        let Some(directory) = directory.filter(|directory| has_lock(directory) || self.has_data()) else {
            self.term.set_lock(None);
            return Ok(());
        };
        self.term.set_lock(Some(Arc::new(RunLock::take(&directory, &wait)?)));
        Ok(())
    }

    /// Writes down outside of the directory that an app runs on it from now on, unless it is written already.
    pub(super) fn note_run(&self) -> Result<()> {
        if !self.term.has_record() {
            let record = RunRecord::write(&self.settings.data, &self.settings.rules.backup.host)?;
            self.term.set_record(record.map(Arc::new));
        }
        Ok(())
    }

    /// Has the lock and the record say which process the app is and, while it runs, which of those that it has started cannot be
    /// known by its mark.
    pub(super) fn note_app(&self, app: &App) {
        self.term.note_app(app.pid());
        let term = self.term.clone();
        let note = move |found: &[ProcessIdentity]| term.note_unmarked(found);
        if let Err(why) = app.watch_unmarked(note) {
            tracing::warn!("what the app starts with an empty environment is not known: {why}");
        }
    }

    /// Locks the directory once more whenever its lock is gone, until the lock is set by somebody else. Where there is no data when the app
    /// is started, there is none yet, as some apps insist on an empty directory: it comes as soon as the app, or anything else, has made
    /// something. An app may also remove `.lastgood`, as `git clean -fdx` does, and another `run` would take the directory for free. The app
    /// does not inherit such a lock, but the [`RunRecord`] tells of it all the same.
    pub(super) fn keep_locked(&self) -> Result<()> {
        let (term, stop, mut changes) = (self.term.clone(), self.stop.clone(), self.term.lock_changes());
        let (runner, look) = (self.runner.clone(), self.settings.look.clone());
        let (data, host) = (self.settings.data.clone(), self.settings.rules.backup.host.clone());
        let stop_timeout = self.settings.stop_timeout;
        let work = move || {
            let mut told = false;
            while term.lock_changes() == changes {
                let held = term.lock();
                if lacks_lock(&data, held.as_deref())
                    && runner.context(|ctx| facts::has_data(&look, ctx)).unwrap_or(true)
                {
                    let wait = LockWait { host: &host, patience: Duration::ZERO, stop_timeout, stop: &stop };
                    let taken = Folder::open(&data).doing(|| format!("open {}", data.display()));
                    match taken.and_then(|directory| RunLock::take(&directory, &wait)) {
                        Ok(lock) => {
                            if !term.set_lock_after(changes, Arc::new(lock)) {
                                return;
                            }
                            (changes, told) = (changes + 1, false);
                        }
                        Err(why) if !std::mem::replace(&mut told, true) => {
                            tracing::error!("the data directory is not locked against another `lastgood run`: {why}");
                        }
                        Err(_) => {}
                    }
                }
                // One that somebody else has made meanwhile is waited for.
                thread::sleep(if held.is_some() && !told { LOOK_AGAIN } else { LOOK });
            }
        };
        thread::Builder::new().name("lock".into()).spawn(work).doing(|| "start the thread that locks the directory")?;
        Ok(())
    }
}

/// Whether a directory is there whose lock this is not.
fn lacks_lock(data: &Path, held: Option<&RunLock>) -> bool {
    let Some(held) = held else { return true };
    Folder::open(data).is_ok_and(|directory| !held.is_of(&directory))
}

/// Whether there is a file of the lock in a directory.
fn has_lock(directory: &Folder) -> bool {
    directory.enter(OWN_FOLDER).and_then(|own| own.look(RUN_LOCK)).is_ok_and(|found| found.is_some())
}
