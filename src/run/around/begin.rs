//! The begin of a term: an epoch is taken, the data directory looked at, saved and restored where that is needed, and the app
//! started.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;

use super::ahead::Beforehand;
use super::aside::held_by;
use super::backups::BackupCause;
use super::seek::is_decidable;
use super::serve::TermState;
use super::{Around, RunEvent};
use crate::backup::BackupReport;
use crate::backup::options::BackupOptions;
use crate::epochs::driver::{Begun, EpochDriver, Go, Start};
use crate::error::{Code, Error, Kind, Result};
use crate::fs::filesystem;
use crate::job::{self, Job, Origin};
use crate::lineage::{self, Lineage};
use crate::monitor::Context;
use crate::replicas;
use crate::replicas::recommit::{NewRoot, START, recommit};
use crate::report::{Channel, Event, JobOutput};
use crate::restore::options::{RestoreOptions, Unheard};
use crate::run::app::{App, AppOptions};
use crate::run::settings::OnSuperseded;
use crate::run::signals::SignalMeaning;
use crate::runner::beside::AppState;
use crate::source::walk;
use crate::start::decide::{Decision, OnUnreachable, SaveReason, StartAction, StartState, decide};
use crate::start::facts::{self, Gathered, StartOptions};
use crate::start::known::{DirectoryContent, VaultFacts};
use crate::start::saved;
use crate::vault::root::{BackupReason, SnapshotName};

/// How the begin of a term ended.
pub enum Begin {
    /// The app runs.
    App(TermState),
    /// The program was told to stop before that.
    Stopped,
    /// Another instance has taken over before that.
    Superseded,
}

/// What the data directory comes from, once it is as it is to be.
pub(super) struct Prepared {
    /// The snapshot that the app goes on from. `None` if there is none.
    pub(super) from: Option<SnapshotName>,
    /// Whether that snapshot is of this epoch.
    pub(super) is_ours: bool,
    /// Whether a backup follows as soon as the app runs.
    pub(super) save: bool,
}

impl Around {
    /// Begins a term; `returned` is an epoch that was begun already, after a wait. If it `gives_way`, this instance has just ended its
    /// epoch by itself, and takes no other one before one that has come since.
    ///
    /// # Errors
    /// The app is not to be started: no vault, a vault that does not answer, another instance's data, a restore that fails.
    pub(super) fn begin(self: &Arc<Self>, returned: Option<Begun>, gives_way: bool) -> Result<Begin> {
        self.be_idle();
        self.beside.set(AppState::Starting);
        let _remembering = self.vaults.remember();
        let begun = self.begin_within(returned, gives_way);
        if !matches!(begun, Ok(Begin::App(_))) {
            self.end_unused_epoch();
            if self.stop.load(Ordering::SeqCst) {
                tracing::info!("told to stop before the app was started");
                return Ok(Begin::Stopped);
            }
            if let (Err(why), Some(by)) = (&begun, self.term.successor()) {
                tracing::warn!("another instance takes over (epoch {by}) before the app was started: {}", why.what());
                return Ok(Begin::Superseded);
            }
        }
        begun
    }

    /// From now on, a signal to stop ends everything at once, also one that was not taken yet: no app runs.
    pub(super) fn be_idle(&self) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = true;
        for event in self.events.try_iter() {
            if matches!(event, RunEvent::Signal(SignalMeaning::Stop(_) | SignalMeaning::AppWasTold(_))) {
                self.stop.store(true, Ordering::SeqCst);
            }
        }
        // What took over from the epoch before does not matter any more. A signal sets both while it has the lock.
        let _idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        self.term.halt().store(self.stop.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// From now on, a signal to stop is an event, which stops the app.
    pub(super) fn be_busy(&self) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    fn begin_within(self: &Arc<Self>, returned: Option<Begun>, mut gives_way: bool) -> Result<Begin> {
        let settings = &self.settings;
        // A typing error in its name takes over from no other instance.
        if settings.data.exists() {
            walk::open(&settings.data)?;
        }
        self.runner.context(|ctx| {
            // A restore may take long: it is given up when another instance takes over, too.
            let ctx = &Context { stop: self.term.halt(), ..*ctx };
            if settings.rules.init {
                match replicas::backup::make(self.vaults.sites(true)?, ctx) {
                    // The look that follows decides without it.
                    Err(why) if why.kind() == Kind::Unreachable => {
                        // What is told when no epoch can be taken, or in the end, says why.
                        tracing::warn!("no vault is made: it is not known whether there is one");
                        tracing::debug!("no vault is made: {}", why.what());
                    }
                    made => _ = made?,
                }
            }
            let mut before = match (returned, settings.detached) {
                (None, false) => self.refuse_beforehand(ctx)?,
                (None, true) => Beforehand::default(),
                (Some(_), _) => Beforehand::of_returned(),
            };
            ctx.check("start the app")?;
            let mut begun = returned;
            loop {
                // The look beforehand may have taken long.
                if std::mem::take(&mut gives_way) && self.is_followed(ctx) {
                    return Ok(Begin::Superseded);
                }
                if begun.is_none() && !settings.detached {
                    let taken = match before.away.clone() {
                        None => self.take_epoch(&mut before, ctx)?,
                        Some(why) => self.without_epoch(&why),
                    };
                    begun = match taken {
                        Some(Start::Begun(begun)) => Some(begun),
                        Some(Start::Superseded { .. }) => return Ok(Begin::Superseded),
                        None => None,
                    };
                }
                if let Err(why) = self.term.watch(self.send.clone()) {
                    tracing::error!("nobody looks whether another instance takes over: {why}");
                }
                // Only now: an instance that ran on this directory lets its lock go at the end of its epoch.
                self.lock_directory()?;
                // All that the instances before have left is listed only now.
                self.vaults.forget_lists();
                let (decision, gathered) = self.decide(ctx)?;
                if begun.is_some() && !is_decidable(&gathered) {
                    let may_start = settings.start.on_unreachable == Some(OnUnreachable::Start);
                    if let Some(told) = before.told.as_ref().filter(|_| !may_start) {
                        return Err(self.gone_meanwhile(told, &decision.why));
                    }
                    if self.term.successor().is_some() {
                        return Ok(Begin::Superseded);
                    }
                    // The vault is away again, and what it has is not known: the epoch does not count.
                    self.end_unused_epoch();
                    self.term.hold_none();
                    self.lock_directory()?;
                    begun = None;
                }
                let prepared = self.carry_out_or_go_back((decision, gathered), (begun, &before), ctx)?;
                let newest = self.go_on_from(&prepared, begun, ctx)?;
                self.lock_directory()?;
                if let (Some(_), Some(driver)) = (begun, self.term.driver()) {
                    match driver.decided(newest, ctx)? {
                        Go::Start => {}
                        Go::Again => {
                            self.term.unwatch();
                            self.be_idle();
                            ctx.check("start the app")?;
                            self.vaults.forget_lists();
                            begun = None;
                            gives_way = settings.on_superseded != OnSuperseded::Keep;
                            continue;
                        }
                        Go::Superseded { .. } => return Ok(Begin::Superseded),
                    }
                }
                let place = self.place()?;
                // Only now: what a restore puts into place is locked before.
                self.note_run()?;
                self.keep_locked()?;
                let was_empty = !self.has_data();
                // From here on a signal stops the app, and not the program; and nothing ends the term without saving.
                self.be_busy();
                ctx.check("start the app")?;
                let app = self.start_app()?;
                if let Some(driver) = self.term.driver() {
                    driver.running(place, ctx);
                }
                before.remove_left_over(settings.data.clone());
                if self.term.is_without_epoch() {
                    self.seek_epoch();
                }
                self.watch_time_of_earlier();
                if prepared.save && !settings.detached {
                    self.back_up(BackupCause::Start);
                }
                return Ok(Begin::App(TermState::of(app, was_empty)));
            }
        })
    }

    /// Goes on without an epoch, which is taken when the vault answers.
    pub(super) fn without_epoch(&self, why: &str) -> Option<Start> {
        tracing::error!("no epoch can be taken, and no other instance be asked to end: {why}");
        self.term.hold_none();
        None
    }

    /// Looks at the directory as [`Around::decide`] does, without its databases, and says nothing about it.
    pub(super) fn look_beforehand(&self, ctx: &Context) -> Result<(Decision, Gathered)> {
        // The check may take long, and the app may use them.
        let look = StartOptions { check: None, ..self.settings.look.clone() };
        let gathered = facts::gather(|| self.vaults.sites(false), &look, &self.settings.start, ctx)?;
        Ok((decide(&gathered.facts, &self.settings.start), gathered))
    }

    pub(super) fn refusal(&self, decision: &Decision, advice: &str) -> Error {
        let doing = format!("start the app on {}", self.settings.data.display());
        let code = if decision.state == StartState::NoVault { Code::NoVault } else { Code::NotStarted };
        Error::failed(doing, &decision.why).with_code(code).hint(advice.to_owned())
    }

    /// Starts the app.
    pub(super) fn start_app(&self) -> Result<App> {
        let app = App::start(&AppOptions {
            command: self.command.clone(),
            lock: self.term.lock(),
            output: self.output.clone(),
            events: self.app_events.clone(),
        })?;
        self.note_app(&app);
        Ok(app)
    }

    /// Looks at the directory and the vaults, and decides; tells what.
    fn decide(&self, ctx: &Context) -> Result<(Decision, Gathered)> {
        self.decide_by(&self.settings.look, ctx)
    }

    /// The same, with other options for the look.
    pub(super) fn decide_by(&self, look: &StartOptions, ctx: &Context) -> Result<(Decision, Gathered)> {
        let settings = &self.settings;
        let gather = || facts::gather(|| self.vaults.sites(false), look, &settings.start, ctx);
        let mut gathered = gather()?;
        // A vault that is gone by now has no snapshots either, and that is no first start: `vault.json` is asked for once more.
        if matches!(gathered.facts.vault, VaultFacts::NoSnapshot) && self.vaults.forget_read() {
            gathered = gather()?;
        }
        self.decide_upon(gathered)
    }

    /// Does what was decided.
    pub(super) fn carry_out(
        &self,
        decision: &Decision,
        gathered: &Gathered,
        (begun, before): (Option<Begun>, &Beforehand),
        ctx: &Context,
    ) -> Result<Prepared> {
        let here = matches!(gathered.facts.content, DirectoryContent::Filled);
        let good = match &gathered.facts.vault {
            VaultFacts::Good(name) => Some(*name),
            _ => None,
        };
        match &decision.action {
            StartAction::Refuse { advice } => Err(self.refusal(decision, advice)),
            StartAction::Start { save } => {
                let chosen = gathered.lineage.as_ref().is_some_and(|lineage| lineage.chosen);
                // Whoever went back on purpose must not find the newer state again after the next crash.
                if chosen && *save && begun.is_some() {
                    let saved = self.adopt(ctx)?;
                    return Ok(Prepared { from: Some(saved), is_ours: true, save: false });
                }
                Ok(Prepared { from: good, is_ours: false, save: *save && here })
            }
            StartAction::Keep { pin } => {
                if self.settings.detached || begun.is_none() {
                    return Ok(Prepared { from: None, is_ours: false, save: false });
                }
                if let Some(name) = pin {
                    self.pin(*name, "it was the newest good snapshot when another directory was adopted", ctx)?;
                }
                let saved = self.adopt(ctx)?;
                Ok(Prepared { from: Some(saved), is_ours: true, save: false })
            }
            StartAction::Restore { snapshot, save_first, named } => {
                let saved = match (save_first, self.is_left_out(gathered)) {
                    (Some(reason), _) => Some(self.save_aside(*reason, &decision.why, ctx)?),
                    (None, true) => {
                        let why = format!("{}; that snapshot left out what is to be saved now", decision.why);
                        Some(self.save_aside(SaveReason::Diverged, &why, ctx)?)
                    }
                    (None, false) => None,
                };
                // Over data that is there, no other snapshot than the one that was decided upon will do.
                let spec = if *named || here { snapshot.to_string() } else { "latest".into() };
                let unasked = !*named;
                let mut options = RestoreOptions { snapshot: spec, unasked, ..self.settings.rules.restore.clone() };
                // A mount point cannot be renamed: a volume of a container is one.
                options.in_place |= filesystem::is_mount(&options.target).unwrap_or(false);
                options.unheard = match self.settings.start.on_unreachable {
                    Some(OnUnreachable::Start) => Unheard::Ignored,
                    Some(OnUnreachable::Fail) | None => Unheard::Awaited,
                };
                let exchange = self.prepare_exchange(&mut options)?;
                let done = self.restore_at_start(options, before, ctx)?;
                if let Some(held) = held_by(saved, gathered, done.restored.snapshot) {
                    // Before anything of it is carried over: an image's mark counts all that is there.
                    self.save_late(held, done.restored.moved_aside.as_deref(), &decision.why, ctx);
                }
                self.end_exchange(&exchange);
                self.watch_start(&done.restored);
                let restored = done.restored.snapshot;
                if let Some(newer) = done.restored.instead_of {
                    tracing::error!(
                        "the app starts with the snapshot {restored}, which is older than {newer}: that one could not be had whole"
                    );
                    if let Err(why) = self.pin_damaged(newer, begun, ctx) {
                        tracing::warn!("the snapshot {newer} is not pinned: {}", why.what());
                    }
                }
                if *named && begun.is_some() {
                    let saved = self.adopt(ctx)?;
                    return Ok(Prepared { from: Some(saved), is_ours: true, save: false });
                }
                Ok(Prepared { from: Some(restored), is_ours: false, save: false })
            }
        }
    }

    /// Makes what is in the directory the newest snapshot, whatever it looks like beside the one before.
    pub(super) fn adopt(&self, ctx: &Context) -> Result<SnapshotName> {
        let options = BackupOptions { accept_shrink: true, ..self.backup_options() };
        self.save(options, "make the data the newest snapshot", |taken| taken.good, ctx)
    }

    /// Whether the snapshot that a directory comes from may have left out entries of it that are to be saved now: by other options.
    fn is_left_out(&self, gathered: &Gathered) -> bool {
        let now = self.settings.rules.backup.filters();
        gathered.saved_by.as_ref().is_some_and(|saved| !saved::holds_all(saved, &now))
    }

    /// Saves what a restore is about to replace, as a diverged snapshot that is pinned. Returns that, or the one that holds it already.
    fn save_aside(&self, reason: SaveReason, why: &str, ctx: &Context) -> Result<SnapshotName> {
        if self.settings.detached {
            let why = format!("{why}, and with --detached nothing is saved");
            return Err(Error::failed("restore the newest snapshot", why)
                .with_code(Code::NotStarted)
                .hint("Move the directory away, or go on with it: `--on-unknown keep --on-diverged keep`."));
        }
        if let Some(saved) = self.saved_before(why, ctx) {
            tracing::warn!("what is replaced was saved before, as the snapshot {saved}, and is not saved again");
            return Ok(saved);
        }
        let whole = reason.must_be_whole();
        let options = BackupOptions { diverged: Some(why.to_owned()), accept_missing: true, ..self.backup_options() };
        let saved = self.save(options, "save what the restore replaces", |taken| !whole || taken.whole, ctx)?;
        tracing::warn!(
            "what is replaced is saved as the snapshot {saved}, which is never restored by itself: `lastgood restore --snapshot {}` \
             brings it back",
            saved.id
        );
        self.pin(saved, why, ctx)?;
        Ok(saved)
    }

    /// Takes a snapshot before the app runs, and returns its name.
    pub(super) fn save(
        &self,
        options: BackupOptions,
        what: &str,
        enough: impl Fn(&BackupReport) -> bool,
        ctx: &Context,
    ) -> Result<SnapshotName> {
        let job = Job::Backup { options: Box::new(options), init: self.settings.rules.init };
        match self.run_job(&job, ctx)? {
            JobOutput::Backup(done) if enough(&done.taken) => Ok(done.taken.snapshot),
            JobOutput::Backup(done) => {
                let trouble = done.taken.trouble().unwrap_or_default();
                let why = format!("its snapshot {} is not as it has to be: {}", done.taken.snapshot, trouble);
                Err(Error::failed(what, why)
                    .with_code(Code::NotStarted)
                    .hint("Look at what could not be read, or move the directory away: nothing was replaced."))
            }
            JobOutput::Restore(_) | JobOutput::Verify(_) => {
                Err(Error::failed(what, "the run was another one").with_code(Code::Internal))
            }
        }
    }

    /// Runs a job before the app runs, and tells whom the configuration names how it ended.
    pub(super) fn run_job(&self, job: &Job, ctx: &Context) -> Result<JobOutput> {
        let rules = &self.settings.rules;
        let event =
            Event { kind: Some("dev.lastgood.run.start".into()), time: Some(Timestamp::now()), ..Event::default() };
        let origin = Origin {
            way: Channel::Run,
            events: vec![event],
            place: rules.place.clone(),
            notify: rules.notify.clone(),
            hooks: rules.hooks.clone(),
        };
        if let (true, Job::Restore(options)) = (self.settings.detached, job) {
            // Nothing is written to the vault, and nobody is told.
            let done = replicas::restore::restore(self.vaults.sites(false)?, options, ctx)?;
            return Ok(JobOutput::Restore(Box::new(done)));
        }
        let ran = job::run(job::new_run(ctx)?, job, origin, &self.vaults, ctx);
        ran.notify(ctx);
        ran.into_output()
    }

    /// The options of a backup before the app runs.
    pub(super) fn backup_options(&self) -> BackupOptions {
        let mut options = BackupOptions { reason: BackupReason::Manual, ..self.settings.rules.backup.clone() };
        self.term.set(&mut options);
        options.origin = Some(START.into());
        options
    }

    /// Commits the snapshot that the app goes on from in this epoch, and writes that into the directory's lineage. Whatever an older
    /// instance still commits is never the newest then. Returns the newest snapshot.
    fn go_on_from(&self, prepared: &Prepared, begun: Option<Begun>, ctx: &Context) -> Result<Option<SnapshotName>> {
        let (Some(begun), Some(driver)) = (begun, self.term.driver()) else { return Ok(prepared.from) };
        self.commit_anew(&driver, (prepared.from, !prepared.is_ours), begun, ctx)
    }

    /// Commits the snapshot that the data comes from in this epoch, if there is one and `anew` says so, and writes it into the lineage of
    /// the directory. Returns the newest snapshot.
    pub(super) fn commit_anew(
        &self,
        driver: &EpochDriver,
        (from, anew): (Option<SnapshotName>, bool),
        begun: Begun,
        ctx: &Context,
    ) -> Result<Option<SnapshotName>> {
        let mut serial = lineage::new_serial(ctx)?;
        let write = |lineage: &Lineage| lineage::write(&self.settings.data, lineage);
        let is_full = |why: &Error| why.code() == Code::DiskFull;
        // An app that wants an empty directory finds one.
        let lineage = self.has_data().then(|| self.lineage(from, (begun.epoch, serial), ctx)).transpose()?;
        let newest = match from.filter(|_| anew) {
            Some(from) => {
                // An epoch that is over commits nothing that could be the newest.
                driver.before_commit(ctx)?;
                // Before the root that has the serial: if this program is killed in between, the next start finds a directory that comes
                // from the newest snapshot all the same, and what was written here since is not diverged.
                match lineage.as_ref().map_or(Ok(()), write) {
                    // The snapshot is not committed again: the directory would not come from that one. No older instance commits
                    // anything more, and what the directory comes from is known by what it says already.
                    Err(why) if is_full(&why) && !begun.forced => {
                        tracing::warn!("the app starts although its disk is full: {}", why.what());
                        return Ok(Some(from));
                    }
                    // The snapshot is committed with the serial that is there: the directory comes from that one, too.
                    Err(why) if is_full(&why) => match lineage::read(&self.settings.data) {
                        Ok(Some(here)) => serial = here.serial,
                        _ => return Err(why),
                    },
                    written => written?,
                }
                let host = self.settings.rules.backup.host.clone();
                let new = NewRoot {
                    epoch: begun.epoch,
                    serial,
                    origin: START,
                    run: job::new_run(ctx)?,
                    host,
                    accepted: false,
                };
                Some(recommit(self.vaults.sites(false)?, from, &new, ctx)?)
            }
            None => from,
        };
        match lineage.map_or(Ok(()), |lineage| write(&Lineage { snapshot: newest, ..lineage })) {
            // The serial is there, or the one that the newest snapshot records.
            Err(why) if is_full(&why) => {
                tracing::warn!("the app starts although its disk is full: {}", why.what());
            }
            written => written?,
        }
        Ok(newest)
    }

    /// Pins a snapshot in every vault that can be written to.
    pub(super) fn pin(&self, name: SnapshotName, why: &str, ctx: &Context) -> Result<()> {
        replicas::pin::pin(self.vaults.sites(false)?, name, why, ctx).map(drop)
    }
}
