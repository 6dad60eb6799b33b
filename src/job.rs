//! Jobs and the one function that runs them, for the command line, a Cloud Run job, a request or a message.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use crate::backup::options::BeforeCommit;
use crate::error::{Code, Error, Kind, Result};
use crate::hooks::{HookedEnd, HookedRun, Hooks};
use crate::monitor::Context;
use crate::notify::{self, Notifier, PingStart};
use crate::parallel::ordered::map_ordered;
use crate::replicas::pool::VaultPool;
use crate::replicas::{self};
use crate::report::{self, Action, Channel, Event, JobOutput, Outcome, Report, ReportedError, RunEnvironment, RunId};
use crate::store::Store;
use crate::store::address::Address;
use crate::text::printable;
use crate::vault::VaultUser;
use crate::vault::hex::Hex;
use crate::vault::root::BackupReason;
use crate::{backup, panics, restore, verify};

/// How many ends of runs are told at the same time.
const TOLD_AT_ONCE: usize = 16;

/// The whole of what is to be done: a request chooses little of it, the configuration the rest.
#[derive(Debug, Clone)]
pub enum Job {
    /// Take a snapshot.
    Backup {
        /// The data to back up, and how.
        options: Box<backup::options::BackupOptions>,
        /// Whether a vault may be made if there is none, also elsewhere than at the default place.
        init: bool,
    },
    /// Restore a snapshot.
    Restore(restore::options::RestoreOptions),
    /// Check whether all that a vault should hold is there.
    Verify(verify::VerifyOptions),
}

impl Job {
    /// The action that the job is for.
    pub fn action(&self) -> Action {
        match self {
            Job::Backup { .. } => Action::Backup,
            Job::Restore(_) => Action::Restore,
            Job::Verify(_) => Action::Verify,
        }
    }

    /// Why a snapshot is taken. `None` for other jobs.
    pub fn reason(&self) -> Option<BackupReason> {
        match self {
            Job::Backup { options, .. } => Some(options.reason),
            Job::Restore(_) | Job::Verify(_) => None,
        }
    }

    /// The same job, which calls `before` before it commits. Only a backup commits.
    #[must_use]
    pub fn with_before_commit(mut self, before: Option<BeforeCommit>) -> Self {
        if let Job::Backup { options, .. } = &mut self {
            options.before_commit = before;
        }
        self
    }
}

/// Why and where a job is run, and who is told how it ended.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// How the job was asked for.
    pub way: Channel,
    /// The events that asked for it.
    pub events: Vec<Event>,
    /// Where the job is run.
    pub place: RunEnvironment,
    /// The targets that are told how it ended.
    pub notify: Notifier,
    /// The commands that are run before and after it.
    pub hooks: Hooks,
}

/// The end of a run. Nobody has been told of it yet: see [`FinishedJob::notify`].
#[must_use]
pub struct FinishedJob {
    /// The run's report.
    pub report: Report,
    /// The report's object and the vault that holds it. `None` if the report could not be stored.
    pub stored: Option<(Address, String)>,
    /// The error itself; the report only describes it.
    pub error: Option<Error>,
    reason: Option<BackupReason>,
    notify: Notifier,
    start: PingStart,
    ended: Instant,
}

impl FinishedJob {
    /// Tells whom the run's origin names how the run ended. That may take some seconds, in which the process may be killed:
    /// whatever says in the vault how the run ended comes before. It needs no answer, and what goes wrong is a warning.
    pub fn notify(&self, ctx: &Context) {
        tell_all([self], ctx);
    }

    /// Stores the run's report, which could not be stored when the run ended.
    ///
    /// # Errors
    /// The report cannot be stored now either.
    pub fn store(&mut self, vaults: &VaultPool) -> Result<()> {
        self.stored = Some(store(&mut self.report, self.ended, vaults)?);
        Ok(())
    }

    /// Returns what was done.
    ///
    /// # Errors
    /// The error by which it was not done.
    pub fn into_output(self) -> Result<JobOutput> {
        match (self.error, self.report.done) {
            (Some(why), _) => Err(why),
            (None, Some(done)) => Ok(done),
            (None, None) => {
                Err(Error::failed("run the job", "it gave neither a result nor an error").with_code(Code::Internal))
            }
        }
    }
}

/// Makes a new random id for a run.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_run(ctx: &Context) -> Result<RunId> {
    let mut id = [0; 8];
    (ctx.random)(&mut id)?;
    Ok(Hex(id))
}

/// Tells how runs ended, several at a time, within the time that there is for one.
pub fn tell_all<'r>(ended: impl IntoIterator<Item = &'r FinishedJob>, ctx: &Context) {
    let ended: Vec<_> = ended.into_iter().collect();
    let until = Instant::now() + notify::time(ctx);
    let tell = |ran: &&FinishedJob| {
        // A run that was not needed is treated as if that had been seen before it began: there is nothing to tell of.
        if ran.error.as_ref().is_none_or(|why| why.kind() != Kind::Unneeded) {
            ran.notify.tell_until(until, &ran.report, ran.reason, &ran.start, ctx);
        }
    };
    if let Err(why) = map_ordered(&ended, TOLD_AT_ONCE, tell, |_, ()| Ok(())) {
        ctx.monitor.warn(&format!("not everybody was told how the runs ended: {}", why.what()));
    }
}

/// Runs a job to its end. Its report is stored in the vault that it used, else in the first that can be opened, and a line in the
/// log tells of it.
pub fn run(run: RunId, job: &Job, cause: Origin, vaults: &VaultPool, ctx: &Context) -> FinishedJob {
    let user = VaultUser { run: Some(run), host: cause.place.host.clone() };
    run_as(run, job, cause, vaults, ctx, || carry_out(user, job, vaults, ctx))
}

/// As [`run`], but `work` carries the job out: it does something more around it.
pub fn run_as(
    run: RunId,
    job: &Job,
    cause: Origin,
    vaults: &VaultPool,
    ctx: &Context,
    work: impl FnOnce() -> Result<JobOutput>,
) -> FinishedJob {
    let start = match job.action() {
        Action::Backup => cause.notify.begin_backup(run),
        Action::Restore | Action::Verify => PingStart::default(),
    };
    let hooks = cause.hooks.clone();
    let all = |hooked: &HookedRun, began: &mut bool| {
        // A wrong path is no reason to stop an app.
        if let Job::Backup { options, .. } = job {
            check_data(options)?;
        }
        hooks.before(hooked, ctx)?;
        *began = true;
        work()
    };
    let ran = reported(run, job, cause, vaults, ctx, all);
    FinishedJob { start, ..ran }
}

/// Ends a run that could not even begin. It has a report like any other.
pub fn not_run(run: RunId, job: &Job, cause: Origin, why: Error, vaults: &VaultPool, ctx: &Context) -> FinishedJob {
    reported(run, job, cause, vaults, ctx, |_, _| Err(why))
}

fn reported(
    run: RunId,
    job: &Job,
    cause: Origin,
    vaults: &VaultPool,
    ctx: &Context,
    work: impl FnOnce(&HookedRun, &mut bool) -> Result<JobOutput>,
) -> FinishedJob {
    let (began, started) = (Instant::now(), Timestamp::now());
    let (hooked, mut work_began) = (hooked(run, job, vaults), false);
    let done = panics::caught(job.action().name(), || work(&hooked, &mut work_began));
    let (done, error) = match done {
        Ok(done) => (Some(done), None),
        Err(why) => (None, Some(why)),
    };
    let unneeded = error.as_ref().is_some_and(|why| why.kind() == Kind::Unneeded);
    let outcome = done.as_ref().map(JobOutput::outcome).or(error.as_ref().map(Outcome::of));
    let mut report = Report {
        format: Report::format(),
        run,
        action: job.action(),
        result: outcome.unwrap_or(Outcome::Failed),
        way: cause.way,
        events: cause.events,
        place: cause.place,
        started,
        finished: Timestamp::now(),
        snapshot: done.as_ref().and_then(JobOutput::snapshot),
        error: error.as_ref().map(ReportedError::from),
        hook_failures: Vec::new(),
        done,
    };
    let (reason, notify, ended) = (job.reason(), cause.notify, Instant::now());
    let end = HookedEnd {
        result: outcome.filter(|_| !unneeded),
        snapshot: report.snapshot.map(|name| name.to_string()),
        error: error.as_ref(),
    };
    report.hook_failures = cause.hooks.after(&hooked, &end, work_began, ctx);
    if unneeded {
        return FinishedJob { report, stored: None, error, reason, notify, start: PingStart::default(), ended };
    }
    let stored = store(&mut report, ended, vaults);
    let stored = stored
        .inspect_err(|why| {
            let what = format!("the report of the run is not stored: {}", why.what_with_code());
            // The run's own error tells of it, too: there is no vault, or it does not answer.
            match error.as_ref().is_some_and(|error| error.code() == why.code() && !why.code().is_general()) {
                true => tracing::debug!("{}", printable(&what)),
                false => ctx.monitor.warn(&what),
            }
        })
        .ok();
    log(&report, began.elapsed().as_secs_f64());
    FinishedJob { report, stored, error, reason, notify, start: PingStart::default(), ended }
}

/// What hooks are told of a run.
fn hooked<'j>(run: RunId, job: &'j Job, vaults: &VaultPool) -> HookedRun<'j> {
    let data = match job {
        Job::Backup { options, .. } => Some(&*options.data),
        Job::Restore(options) => Some(&*options.target),
        Job::Verify(_) => None,
    };
    let vault: Vec<String> = vaults.addresses().iter().map(Address::absolute).collect();
    let reason = job.reason().map(|reason| reason.to_string());
    HookedRun { action: job.action(), run, data, vault: vault.join(","), reason }
}

fn carry_out(user: VaultUser, job: &Job, vaults: &VaultPool, ctx: &Context) -> Result<JobOutput> {
    match job {
        Job::Backup { options, init } => {
            check_data(options)?;
            let last_words = Some(vaults.last_checkpoint());
            let options = backup::options::BackupOptions { run: user.run, last_words, ..(**options).clone() };
            replicas::backup::back_up(used_by(vaults.sites(*init)?, &user), &options, ctx)
                .map(|done| JobOutput::Backup(Box::new(done)))
        }
        Job::Restore(options) => {
            let sites = used_by(vaults.sites(false)?, &user);
            replicas::restore::restore(sites, options, ctx).map(|done| JobOutput::Restore(Box::new(done)))
        }
        Job::Verify(options) => replicas::verify::verify(vaults, options, &user, ctx).map(JobOutput::Verify),
    }
}

/// The same sites, whose vaults know who uses them.
fn used_by(mut sites: Vec<replicas::Site>, user: &VaultUser) -> Vec<replicas::Site> {
    for site in &mut sites {
        if let replicas::SiteState::Vault(vault) = &mut site.found {
            vault.user = user.clone();
        }
    }
    sites
}

/// Checks the data directory before a vault is made: a wrong path must leave nothing behind.
///
/// # Errors
/// There is no data directory.
pub fn check_data(options: &backup::options::BackupOptions) -> Result<()> {
    let data = &options.data;
    if data.is_dir() {
        return Ok(());
    }
    let why = if data.exists() { "it is not a directory" } else { "it does not exist" };
    Err(Error::failed(format!("back up {}", data.display()), why)
        .with_code(Code::NoData)
        .hint("Name the directory: `lastgood backup DIR`, or LASTGOOD_DATA. If it is a volume, is it mounted?"))
}

/// Stores the report of a run that ended at `ended`, in the vault that the run used, else in the first that opens.
fn store(report: &mut Report, ended: Instant, vaults: &VaultPool) -> Result<(Address, String)> {
    let used = match &report.done {
        Some(JobOutput::Backup(done)) => Some(done.vault.clone()),
        Some(JobOutput::Restore(done)) => Some(done.vault.clone()),
        Some(JobOutput::Verify(_)) | None => None,
    };
    let stopped = vaults.stopped();
    let mut first = None;
    for address in vaults.addresses() {
        let known = used.as_ref().is_some_and(|used| address.absolute() == *used);
        if used.is_some() && !known {
            continue;
        }
        let written = (|| {
            let store = match stopped {
                true => vaults.store_for_last_words(address)?,
                false if known => vaults.store(address)?,
                // A run that failed may not have found a vault; its report must not begin one.
                false => crate::vault::Vault::open(vaults.store(address)?)?.store,
            };
            let long = report.finished.duration_since(report.started);
            let now = store.now().map_err(|why| why.while_doing("ask the store for the time"))?;
            let ago = SignedDuration::try_from(ended.elapsed()).unwrap_or_default();
            let finished = now.saturating_sub(ago).unwrap_or(now);
            // The times are by the store's clock: names sort by one clock.
            (report.started, report.finished) = (finished.saturating_sub(long).unwrap_or(finished), finished);
            put(report, &*store)
        })();
        match written {
            Ok(object) => return Ok((address.clone(), object)),
            Err(why) => _ = first.get_or_insert(why),
        }
    }
    Err(first.unwrap_or_else(|| Error::failed("store the report", "no vault is configured")))
}

/// Stores a report under its name, unless it is there already: an answer may have been lost, or two instances may report at once
/// that a run was not done. Attempts at one run that began within one second get names that differ by one second.
fn put(report: &mut Report, store: &dyn Store) -> Result<String> {
    let mut again = 2;
    loop {
        let (object, bytes) = (report.object(), report.encode()?);
        let Err(why) = store.create(&object, &[&bytes]) else { return Ok(object) };
        match report::read(store, &object) {
            // By its name, the report there is of the same run and says that it ended in the same way.
            Ok(there) if there["place"]["attempt"].as_str() == report.place.attempt.as_deref() => return Ok(object),
            Ok(_) if again > 0 => {
                again -= 1;
                report.started = report.started.saturating_add(SignedDuration::from_secs(1)).unwrap_or(report.started);
                report.finished = report.finished.max(report.started);
            }
            Ok(_) | Err(_) => return Err(why.while_doing(format!("store {object}"))),
        }
    }
}

/// Logs a run, in one line. A field that has nothing to say is not there.
pub(crate) fn log(report: &Report, seconds: f64) {
    let (run, action, result) = (report.run.to_string(), report.action.name(), report.result.name());
    let snapshot = report.snapshot.map(|name| name.to_string());
    let error = report.error.as_ref().map(|error| error.error.as_str());
    let code = report.error.as_ref().map(|error| error.code.as_str());
    // A number where there is one, for metrics that are made of the log.
    let uploaded_bytes = report.done.as_ref().and_then(JobOutput::uploaded_bytes);
    let (execution, attempt) = (&report.place.execution, &report.place.attempt);
    let (execution, attempt) = (execution.as_deref(), attempt.as_deref());
    // Nothing went wrong with a backup of data that is known to have diverged.
    let is_diverged = matches!(&report.done, Some(JobOutput::Backup(done)) if done.taken.diverged);
    let what = if is_diverged { " (of diverged data, and never the newest)" } else { "" };
    tracing::info!(
        target: "lastgood::run",
        run,
        action,
        result,
        snapshot,
        seconds,
        uploaded_bytes,
        events = report.events.len(),
        execution,
        attempt,
        error,
        code,
        "run ended: {action} is {result}{what}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use crate::store::testing::memory::MemoryStore;

    fn report(attempt: Option<&str>) -> Report {
        let started = Timestamp::from_second(1_800_000_000).unwrap();
        let place = RunEnvironment { attempt: attempt.map(str::to_owned), ..RunEnvironment::default() };
        Report { place, started, finished: started, ..sample::report(Action::Verify, Outcome::Failed) }
    }

    #[test]
    fn a_report_that_is_there_is_stored() {
        let store = MemoryStore::default();
        let first = put(&mut report(None), &store).unwrap();
        // Another instance says the same of the run, or the answer was lost.
        assert_eq!(put(&mut report(None), &store).unwrap(), first);
        // Attempts are told apart.
        let (mut second, mut third) = (report(Some("0")), report(Some("1")));
        let names = [first, put(&mut second, &store).unwrap(), put(&mut third, &store).unwrap()];
        assert!(names[0] < names[1] && names[1] < names[2], "{names:?}");
        assert_eq!((third.started.as_second(), third.finished), (1_800_000_002, third.started));
        assert_eq!(put(&mut report(Some("1")), &store).unwrap(), names[2]);
        assert!(put(&mut report(Some("2")), &store).is_err());
        assert_eq!(store.list(report::RUNS).unwrap().len(), 3);
    }
}
