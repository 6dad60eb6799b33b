//! Promises that are not kept, and the reports that are owed to the senders who have them.
//!
//! An instance that is killed leaves open the claims of requests that it had promised a run, and nobody sends those requests
//! again. So each instance looks for such claims when it begins and now and then. When the time of one is over, its run is
//! reported as failed: in the vault, under the id that was promised; to whoever is told of results; and in the health, as the
//! last run. The request is not served any more: hours after a critical error a snapshot says little of it, and a restore may do
//! harm.
//!
//! If the run ends after all, or was done by an instance that could not store its report, that report counts. An instance that
//! was killed may have done the run as well: the report says how to look. Two instances that find the same promise at the same
//! moment may both report it.
//!
//! A promise is not over here before its end is in the vault, either: a report that could not be stored is kept until it is, and
//! a run that is not begun because another instance has taken its event over gets a report once it is known what that came to.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::unsettled::UnsettledRun;
use super::{Answer, RunProgress, Runner, lock};
use crate::claims::idempotent::{self, HeldClaim, ResumedClaim};
use crate::claims::promise::{self, OpenPromise};
use crate::claims::{lease, recover};
use crate::error::{Code, Error, Kind, Result};
use crate::events::decoded::RunRequest;
use crate::job;
use crate::monitor::Context;
use crate::report::{Action, EncodedReport, RunId};
use crate::runner::answer::how_to_look;
use crate::runner::queue::QueuedRequest;
use crate::store::address::Address;
use crate::vault::Vault;

/// How often it is tried again to note how runs ended that are over: until then, whoever asks for the same again has to wait.
const SOON: Duration = Duration::from_secs(5);
/// How often the runner checks whether the time of a promise is over, and looks again for what could not be seen.
const OFTEN: Duration = Duration::from_secs(60);
/// How often a vault is searched for promises of other instances, which may have been killed since.
const AGAIN: Duration = Duration::from_secs(600);
/// How often the thread checks whether the service ends.
const TICK: Duration = Duration::from_millis(100);

/// A promise that has to be looked after.
pub(super) struct WatchedPromise {
    vault: Address,
    open: OpenPromise,
    /// When its time is over.
    until: Instant,
}

/// Everything that this instance owes to the senders whom it has promised runs.
#[derive(Default)]
pub(super) struct Obligations {
    /// Runs that are over, of which no vault says so yet.
    pub unsettled: Vec<UnsettledRun>,
    /// Runs out of `unsettled` that are being tried again just now, by one thread at a time.
    pub settling: Vec<RunId>,
    pub one: Arc<Mutex<()>>,
    /// How many of the `unsettled` runs have been settled since.
    pub settled: u64,
    /// The reports of unsettled runs that did what was asked for, by the identities of the events that they served.
    pub done: HashMap<String, EncodedReport>,
    /// Promises whose events others have taken over.
    pub taken: Vec<WatchedPromise>,
    /// Whether a run of which no claim could be taken was told since a claim was held last.
    pub told_unclaimed: bool,
}

/// The state that one look at the promises leaves for the next.
pub(super) struct PromiseWatch<'d> {
    /// The vaults, and when each is searched again.
    vaults: Vec<(&'d Address, Instant)>,
    pub promised: Vec<WatchedPromise>,
}

/// Why a promise was not kept.
struct BrokenPromise {
    why: String,
    /// Whether its run may have been done all the same, by an instance that did not live to tell.
    may_be_done: bool,
    code: Code,
}

impl BrokenPromise {
    fn known(why: impl Into<String>) -> Self {
        BrokenPromise { why: why.into(), may_be_done: false, code: Code::Failed }
    }

    /// The service was told to stop before the run began.
    fn stopped(why: String) -> Self {
        BrokenPromise { why, may_be_done: false, code: Code::Stopped }
    }

    fn unknown(why: String) -> Self {
        BrokenPromise { why, may_be_done: true, code: Code::Failed }
    }
}

impl Runner {
    /// Looks after promises, of other instances and of this one, until the runner is told to stop.
    pub(super) fn watch_promises(&self) {
        let (mut watch, mut next, mut soon) = (self.watch(), Instant::now(), Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            if Instant::now() >= soon {
                self.settle_again(|_| true);
                soon = Instant::now() + SOON;
            }
            if Instant::now() >= next {
                self.check_promises(&mut watch, Instant::now());
                next = Instant::now() + OFTEN;
            }
            std::thread::sleep(TICK);
        }
        lock(&self.state).obligations.taken.append(&mut watch.promised);
    }

    /// When the runner is closed, tries once more to store what is owed, within the time for last words. Returns whether nothing
    /// is left.
    pub(super) fn settle_all(&self) -> bool {
        self.settle_again(|_| true);
        let taken = std::mem::take(&mut lock(&self.state).obligations.taken);
        // The next instance finds in their claims what other instances have promised.
        for promised in taken.iter().filter(|promised| !self.is_unsettled(promised.open.run)) {
            match self.progress(promised.open.run) {
                // It shared a run, which has its report.
                Some(RunProgress::Over(answer)) if !matches!(*answer, Answer::Done { .. }) => {
                    self.context(|ctx| self.end_at_once(promised, &answer, ctx));
                }
                _ => {}
            }
        }
        self.is_all_settled()
    }

    /// Reports a run that was promised and not begun, by what was known when it was not begun: there is no time to look again.
    fn end_at_once(&self, WatchedPromise { vault, open, .. }: &WatchedPromise, answer: &Answer, ctx: &Context) {
        let mut why = format!("it was not begun, and the service was told to stop: {}", answer.why());
        if let Answer::Before(report) = answer {
            // The promised run itself served the request: its work in one vault counts for a request that is claimed in another.
            if report.run() == Some(open.run) {
                return;
            }
            let cause = self.cause(open.promise.way, vec![open.promise.event.clone()]);
            let before = crate::claims::ended_runs::ServedBefore {
                run: open.run,
                vault: vault.clone(),
                object: "that report".into(),
                report: Some(report.clone()),
            };
            let stored = self.vaults.store_for_last_words(vault);
            match stored.and_then(|store| recover::served_by(&*store, &before, open.run, open.promise.action, &cause)) {
                Ok(_) => return,
                Err(unstored) => why = format!("{why}; {}", unstored.what()),
            }
        }
        self.report_broken_promise(open, BrokenPromise::stopped(why), None, ctx);
    }

    pub(super) fn watch(&self) -> PromiseWatch<'_> {
        let now = Instant::now();
        let vaults = self.vaults.addresses().iter().map(|vault| (vault, now)).collect();
        PromiseWatch { vaults, promised: Vec::new() }
    }

    /// Looks at the promises for which it is time at `now`.
    pub(super) fn check_promises(&self, watch: &mut PromiseWatch, now: Instant) {
        // First, since a run that has a report of its own gets no other.
        self.settle_again(|_| true);
        watch.promised.append(&mut lock(&self.state).obligations.taken);
        for (vault, next) in watch.vaults.iter_mut().filter(|(_, next)| *next <= now) {
            match self.promises_in(vault, &watch.promised, now) {
                Ok(found) => {
                    watch.promised.extend(found);
                    *next = now + AGAIN;
                }
                Err(why) => tracing::debug!("cannot see whether promises are open: {}", why.what()),
            }
        }
        watch.promised.retain(|promise| now < promise.until || !self.is_over(promise));
    }

    /// The promises of others that are open in a vault and are not looked after yet.
    fn promises_in(&self, vault: &Address, known: &[WatchedPromise], now: Instant) -> Result<Vec<WatchedPromise>> {
        // Without a vault there are none.
        let Ok(found) = Vault::find(self.vaults.store(vault)?)? else { return Ok(Vec::new()) };
        let is_new = |open: &OpenPromise| {
            // A run that was promised here meanwhile is in good hands.
            self.progress(open.run).is_none()
                && !known.iter().any(|known| known.open.name.folder() == open.name.folder())
                && !self.is_unsettled(open.run)
        };
        let others = promise::open(&*found.store)?.into_iter().filter(is_new);
        let promised: Vec<_> =
            others.map(|open| WatchedPromise { vault: vault.clone(), until: now + open.left, open }).collect();
        if let Some(longest) = promised.iter().map(|promised| promised.open.left.as_secs()).max() {
            let requests = crate::text::count_of(promised.len() as u64, "request");
            tracing::warn!(
                "another instance has promised to serve {requests} in {vault}: what stays open is reported as failed, the last in \
                 {longest} s"
            );
        }
        Ok(promised)
    }

    /// The promise to look after for a request that was promised a run here and is not served by it: what becomes of it is looked
    /// up later. `None` if the request was promised nothing.
    pub(super) fn watched_promise(&self, waiting: &QueuedRequest) -> Option<WatchedPromise> {
        let (held, identity) = (waiting.promised()?, waiting.request.event.identity.clone()?);
        let claimant = self.promised_claimant(identity.clone(), held.claim().run(), &waiting.request, waiting.way);
        let (name, run, left) = (held.claim().name(), held.claim().run(), Duration::ZERO);
        let open = OpenPromise { name, run, identity, host: claimant.host, promise: *claimant.promise?, left };
        Some(WatchedPromise { vault: held.address().clone(), open, until: Instant::now() })
    }

    /// Whether a promise need not be looked at any more.
    fn is_over(&self, promised: &WatchedPromise) -> bool {
        let run = promised.open.run;
        // It shares a run of this instance, whose report will tell.
        if matches!(self.progress(run), Some(RunProgress::Waiting | RunProgress::Running)) || self.is_unsettled(run) {
            return false;
        }
        self.context(|ctx| self.end_promise(promised, ctx)).unwrap_or_else(|why| {
            tracing::warn!("cannot see what became of the run {run}, which was promised: {}", why.what());
            false
        })
    }

    /// Makes sure that a report says how a promise ended. `false` while its request may still be served.
    fn end_promise(&self, promised: &WatchedPromise, ctx: &Context) -> Result<bool> {
        let WatchedPromise { vault: address, open, .. } = promised;
        let OpenPromise { name, run, identity, host, promise, .. } = open;
        let cause = self.cause(promise.way, vec![promise.event.clone()]);
        let claimant = self.claimant(identity.clone(), promise.action, *run);
        let vault = Vault::open(self.vaults.store(address)?)?;
        // A run that has begun since has renewed its claim, and has its whole time limit from then on.
        let later = lease::later(&*vault.store, name, claimant.timeout)?;
        if later.is_some_and(|by| by != *run || self.progress(by).is_none()) {
            return Ok(false);
        }
        let resumed = idempotent::resume(name, vault, address, &claimant, (&cause, false), &self.vaults, ctx)?;
        let kept = self.report_of(*run, ctx)?;
        let (held, why) = match (resumed, kept) {
            // The instance may have been killed when it had told how the run ended, and had not settled its claims.
            (ResumedClaim::Held(held), Some(kept)) => {
                held.record_end_by_report(&kept, kept.report.ended().is_some() && !kept.report.retry())?;
                self.know_by(*run, kept.report);
                return Ok(true);
            }
            (_, Some(kept)) => {
                self.know_by(*run, kept.report);
                return Ok(true);
            }
            // As an instance does that found a vault failing.
            (ResumedClaim::GivenUp, None) => {
                (None, BrokenPromise::known("its claim was given up, and nothing was reported"))
            }
            (ResumedClaim::Before(before), None) => {
                let vault = Vault::open(self.vaults.store(&before.vault)?)?;
                let report = recover::served_by(&*vault.store, &before, *run, promise.action, &cause)?;
                self.know(*run, RunProgress::Over(Arc::new(Answer::from_report(&report))));
                return Ok(true);
            }
            (ResumedClaim::Elsewhere(other), None) => {
                let why = format!("the run {other} of another instance had taken it over, and left no report");
                (None, BrokenPromise::unknown(why))
            }
            (ResumedClaim::Held(held), None) if self.progress(*run).is_some() => {
                let why = "the vault could not be asked, when the run was to begin, whether another one serves it";
                (Some(held), BrokenPromise::known(why))
            }
            (ResumedClaim::Held(held), None) => {
                let why = format!("the service at {host}, which had promised it, ended without a report of the run");
                (Some(held), BrokenPromise::unknown(why))
            }
        };
        self.report_broken_promise(open, why, held, ctx);
        Ok(true)
    }

    /// Remembers, by its report, how a run of this instance ended.
    fn know_by(&self, run: RunId, report: EncodedReport) {
        if let Some(answer) = Answer::read(report).filter(|_| self.progress(run).is_some()) {
            self.know(run, RunProgress::Over(Arc::new(answer)));
        }
    }

    /// The report of a run. `None` if there is none, or if it is damaged.
    fn report_of(&self, run: RunId, ctx: &Context) -> Result<Option<idempotent::FoundReport>> {
        match idempotent::report_of(run, &self.vaults, ctx) {
            Err(why) if why.kind() == Kind::Damage => {
                tracing::warn!("the report of the run {run}, which was promised, is passed over: {}", why.what());
                Ok(None)
            }
            other => other,
        }
    }

    /// Reports a promise as not kept.
    fn report_broken_promise(
        &self,
        open: &OpenPromise,
        BrokenPromise { why, may_be_done, code }: BrokenPromise,
        held: Option<Arc<HeldClaim>>,
        ctx: &Context,
    ) {
        let OpenPromise { run, promise, .. } = open;
        let (unknown, look) = match may_be_done {
            true => ("; it is not known whether it was done", how_to_look(promise.action)),
            false => ("", ""),
        };
        let again = match promise.action {
            Action::Backup => "Nobody sends it again: `lastgood backup` takes a snapshot now.",
            Action::Restore | Action::Verify => "Nobody sends it again: ask for it once more if it is still wanted.",
        };
        let why =
            Error::failed("serve a request", format!("{why}{unknown}")).with_code(code).hint(format!("{look}{again}"));
        tracing::error!(code = why.word(), "the run {run}, which was promised, is reported as failed: {why}");
        let (labels, snapshot) = Default::default();
        let event = promise.event.clone();
        let request = RunRequest { action: promise.action, reason: promise.reason, labels, snapshot, event };
        let cause = self.cause(promise.way, vec![promise.event.clone()]);
        let ran = job::not_run(*run, &self.rules.job(&request, None), cause, why, &self.vaults, ctx);
        self.count((&ran.report).into());
        let (_, left) = held.map_or((None, None), |held| self.settled(&held, true, &ran, ctx));
        ran.notify(ctx);
        // The vault tells of another instance's run, and may tell better one day: then nothing is remembered here.
        if ran.stored.is_none() || self.progress(*run).is_some() {
            self.know(*run, RunProgress::Over(Arc::new(Answer::from_job(&ran))));
        }
        self.keep(UnsettledRun { ran, claims: left.into_iter().collect(), promised: true });
    }
}
