//! At least once becomes once: a run is done under a claim.
//!
//! Claims live in the first configured vault that opens and takes one. If that vault is away at one delivery and there at the
//! next, neither knows of the other, and the event is served twice: for a backup that is wasteful, never harmful. The same goes
//! for a run of a Cloud Run job that makes the vault: its claim is entered when it is done. A service makes the vault before it
//! claims the event that asks for the first backup.

mod end;

use std::sync::Arc;
use std::time::Duration;

pub use self::end::SettledClaim;
pub use super::ended_runs::{FoundReport, find_served, report_of};
use super::ended_runs::{ServedBefore, before, copy_report};
use super::execution::{Execution, LONGEST_ATTEMPT};
use super::lease::{self, Claim, ClaimIdentity, ClaimName, Claimant, DoneRecord, LeaseProgress, LeaseState};
use super::recover::{self, RecoveredReport, done, kept};
use crate::backup::options::BeforeCommit;
use crate::error::{Code, Error, Result};
use crate::job::{FinishedJob, Origin};
use crate::monitor::Context;
use crate::replicas::pool::VaultPool;
use crate::report::{Action, EncodedReport, Report, RunId};
use crate::store::Store;
use crate::store::address::Address;
use crate::vault::Vault;

/// How many claims of one run are entered or settled at the same time.
pub const AT_ONCE: usize = 16;

/// The outcome for an event.
pub enum EventOutcome {
    /// A run has just served it, or failed to.
    Now(Box<FinishedJob>),
    /// It was served before.
    Before(ServedBefore),
    /// Another run is serving it.
    Elsewhere {
        /// That run.
        run: RunId,
        /// After this time at the latest it has ended, and the event may be asked for again.
        retry_after: Duration,
    },
}

/// The outcome of asking for a claim.
pub enum ClaimAttempt {
    /// The claim is held.
    Held(Arc<HeldClaim>),
    /// The claim is not held, and this is the answer.
    Not(EventOutcome),
    /// No vault opens, so there is nothing to hold.
    NoVault,
}

/// How far a claim's run is, when another process does the run.
pub enum ClaimStatus {
    /// It is not over.
    Running,
    /// It ended without serving the event.
    Failed,
    /// Another run has taken over.
    Elsewhere,
    /// The event is served, by this run or another.
    Done(ServedBefore),
}

/// The outcome of going on with a claim of another process.
pub enum ResumedClaim {
    /// The claim is held.
    Held(Arc<HeldClaim>),
    /// The event is served.
    Before(ServedBefore),
    /// The claim was given up.
    GivenUp,
    /// Another run has taken over.
    Elsewhere(RunId),
}

/// A claim, and the vault that it is in.
pub struct HeldClaim {
    claim: Claim,
    vault: Vault,
    address: Address,
}

impl Claimant {
    /// The task of a Cloud Run job that this process is. `None` if it is none.
    pub fn task(run: RunId, action: Action, cause: &Origin) -> Option<Self> {
        let identity = ClaimIdentity::Execution(Execution::of(&cause.place)?);
        Some(Claimant {
            identity,
            action,
            run,
            host: cause.place.host.clone(),
            timeout: LONGEST_ATTEMPT,
            promise: None,
        })
    }
}

/// Runs `work` for an event, unless the event is served elsewhere or was served before. `work` is given what to call before a
/// commit; when it has ended, the claim notes whether it served the event.
///
/// # Errors
/// A vault that opens and takes no claim; a claim that is damaged. `work` has not begun then, and nobody has been told of the run.
pub fn once(
    vaults: &VaultPool,
    claimant: &Claimant,
    cause: &Origin,
    ctx: &Context,
    work: impl FnOnce(Option<BeforeCommit>) -> FinishedJob,
) -> Result<EventOutcome> {
    match take(vaults, claimant, cause, ctx)? {
        ClaimAttempt::Held(held) => {
            let ran = work(Some(held.before_commit()));
            Ok(held.settle(ran, vaults, ctx))
        }
        ClaimAttempt::Not(answer) => Ok(answer),
        ClaimAttempt::NoVault => {
            let ran = work(None);
            let other = late(&ran, vaults, claimant, cause, ctx);
            ran.notify(ctx);
            Ok(other.unwrap_or_else(|| EventOutcome::Now(Box::new(ran))))
        }
    }
}

/// Claims an event when its run is over, if that run made the vault: a claim that comes late harms nothing, and without it a
/// redelivery would be a second run. Returns the answer if it is another than the run itself.
pub fn late(
    ran: &FinishedJob,
    vaults: &VaultPool,
    claimant: &Claimant,
    cause: &Origin,
    ctx: &Context,
) -> Option<EventOutcome> {
    if ran.stored.is_none() || !stays(&ran.report) {
        return None;
    }
    match take(vaults, claimant, cause, ctx) {
        Ok(ClaimAttempt::Held(held)) => held.record_end(ran, vaults, ctx).other,
        Ok(ClaimAttempt::Not(_) | ClaimAttempt::NoVault) => None,
        Err(why) => {
            ctx.monitor.warn(&format!("a redelivery would be served again: {}", why.what()));
            None
        }
    }
}

/// Claims an event in the first vault that opens and takes a claim.
///
/// # Errors
/// Like [`once`].
pub fn take(vaults: &VaultPool, claimant: &Claimant, cause: &Origin, ctx: &Context) -> Result<ClaimAttempt> {
    let mut refused = None;
    for address in vaults.addresses() {
        // The run tells why a vault does not open, since it tries again.
        let Ok(vault) = vaults.store(address).and_then(Vault::open) else { continue };
        match take_in(vault, address, claimant, cause, vaults, ctx) {
            Ok(taken) => return Ok(taken),
            Err(why) if why.of_store() => {
                ctx.monitor.warn(&format!("the vault {address} takes no claim: {}", why.what()));
                refused.get_or_insert(why);
            }
            Err(why) => return Err(why),
        }
    }
    refused.map_or(Ok(ClaimAttempt::NoVault), Err)
}

fn take_in(
    vault: Vault,
    address: &Address,
    claimant: &Claimant,
    cause: &Origin,
    vaults: &VaultPool,
    ctx: &Context,
) -> Result<ClaimAttempt> {
    let held = match acquire_in(vault, address, claimant)? {
        Ok(held) => held,
        Err(other) => return Ok(ClaimAttempt::Not(other)),
    };
    // Nobody serves the event under this claim: others need not wait for its time to be over.
    hold(&held, claimant.action, cause, vaults, ctx).inspect_err(|_| held.give_up(vaults, ctx))
}

/// Enters a claim, or finds the answer.
fn acquire_in(
    vault: Vault,
    address: &Address,
    claimant: &Claimant,
) -> Result<std::result::Result<Arc<HeldClaim>, EventOutcome>> {
    Ok(match lease::acquire(&*vault.store, claimant)? {
        LeaseState::Mine(claim) => Ok(Arc::new(HeldClaim { claim, vault, address: address.clone() })),
        other => Err(answer(other, &*vault.store, address).map_err(|why| recover::unseen(claimant.action, why))?),
    })
}

/// Holds a claim, unless a run before has done for it what `cause` asks for. If that cannot be seen, the claim stands.
fn hold(
    held: &Arc<HeldClaim>,
    action: Action,
    cause: &Origin,
    vaults: &VaultPool,
    ctx: &Context,
) -> Result<ClaimAttempt> {
    let found = match action {
        Action::Backup => held.mark_done_if_committed(cause, ctx),
        // Restores and verifications leave nothing behind that could be found, except a report.
        Action::Restore => {
            crate::claims::idempotent::restored(held, vaults).and_then(|found| held.mark_done_by_report(found))
        }
        Action::Verify => {
            recover::done(held.store(), held.claim.earlier()).and_then(|found| held.mark_done_by_report(found))
        }
    };
    let taken = found.map(|found| match found {
        None => ClaimAttempt::Held(held.clone()),
        Some(served) => ClaimAttempt::Not(EventOutcome::Before(served)),
    });
    taken.map_err(|why| recover::unseen(action, why))
}

/// Goes on with a claim that the asker's run entered in another process; `after` an attempt that failed, under the next number.
///
/// # Errors
/// A store that fails; a claim that is not what it should be.
pub fn resume(
    name: &ClaimName,
    vault: Vault,
    address: &Address,
    claimant: &Claimant,
    (cause, after): (&Origin, bool),
    vaults: &VaultPool,
    ctx: &Context,
) -> Result<ResumedClaim> {
    let taken = match lease::resume(&*vault.store, name, claimant, after)? {
        lease::ResumedLease::Mine(claim) => {
            let held = Arc::new(HeldClaim { claim, vault, address: address.clone() });
            hold(&held, claimant.action, cause, vaults, ctx)?
        }
        lease::ResumedLease::Done(served) => return before(served, &*vault.store, address).map(ResumedClaim::Before),
        lease::ResumedLease::GivenUp => return Ok(ResumedClaim::GivenUp),
        lease::ResumedLease::Taken(run) => return Ok(ResumedClaim::Elsewhere(run)),
    };
    match taken {
        ClaimAttempt::Held(held) => Ok(ResumedClaim::Held(held)),
        ClaimAttempt::Not(EventOutcome::Before(before)) => Ok(ResumedClaim::Before(before)),
        ClaimAttempt::Not(EventOutcome::Elsewhere { run, .. }) => Ok(ResumedClaim::Elsewhere(run)),
        ClaimAttempt::Not(EventOutcome::Now(_)) | ClaimAttempt::NoVault => {
            let why = "it is neither held nor served";
            Err(Error::failed(format!("go on with the claim {name}"), why).with_code(Code::Internal))
        }
    }
}

/// Fails if the run has lost the claims of all events that it serves. An event without a claim is served by nobody else.
///
/// # Errors
/// Like [`HeldClaim::check_may_commit`].
pub fn check_any(held: &[Arc<HeldClaim>]) -> Result<()> {
    let mut lost = Ok(());
    for held in held {
        lost = held.check_may_commit();
        if lost.is_ok() {
            break;
        }
    }
    lost
}

impl HeldClaim {
    /// Asks for the claim again before its run begins, as it may have waited for so long that another run has taken it over; if
    /// none has, the run has its whole time limit from now on.
    ///
    /// # Errors
    /// Like [`take`]; a vault that does not open.
    pub fn reacquire(
        &self,
        claimant: &Claimant,
        cause: &Origin,
        vaults: &VaultPool,
        ctx: &Context,
    ) -> Result<ClaimAttempt> {
        let take = || {
            let vault = vaults.store(&self.address).and_then(Vault::open)?;
            match acquire_in(vault, &self.address, claimant)? {
                Ok(held) => hold(&held, claimant.action, cause, vaults, ctx),
                Err(other) => Ok(ClaimAttempt::Not(other)),
            }
        };
        let held = match take()? {
            ClaimAttempt::Held(held) => held,
            other => return Ok(other),
        };
        match held.renew(claimant, vaults)? {
            Some(renewed) => Ok(ClaimAttempt::Held(Arc::new(renewed))),
            // Another run was faster just now.
            None => take(),
        }
    }

    /// The same claim, entered now: see [`Claim::renew`].
    ///
    /// # Errors
    /// A vault that does not open; a store that fails.
    pub fn renew(&self, claimant: &Claimant, vaults: &VaultPool) -> Result<Option<HeldClaim>> {
        let vault = vaults.store(&self.address).and_then(Vault::open)?;
        let claim = self.claim.renew(&*vault.store, claimant)?;
        Ok(claim.map(|claim| HeldClaim { claim, vault, address: self.address.clone() }))
    }

    /// The claim.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The vault that it is in.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// That vault's store.
    pub fn store(&self) -> &dyn Store {
        &*self.vault.store
    }

    /// Marks the event as served if one of the runs before committed for it. If the report of that is new, it is told; it is not
    /// read again then, so that a run that was told as done does not fail after all.
    fn mark_done_if_committed(&self, cause: &Origin, ctx: &Context) -> Result<Option<ServedBefore>> {
        let found = recover::report(&self.vault, self.claim.earlier(), self.claim.run(), cause)?;
        let Some(RecoveredReport { object, new }) = found else { return Ok(None) };
        let served = self.claim.mark_done(self.store(), &object)?;
        let Some((report, reason)) = new else { return self.before(served).map(Some) };
        cause.notify.tell(&report, Some(reason), ctx);
        if served.report != object {
            return self.before(served).map(Some);
        }
        let DoneRecord { run, report: object } = served;
        let report = Some(EncodedReport::of(&report));
        Ok(Some(ServedBefore { run, vault: self.address.clone(), object, report }))
    }

    /// Marks the event as served if a report says that one of the runs before did.
    fn mark_done_by_report(&self, found: Option<String>) -> Result<Option<ServedBefore>> {
        let served = found.map(|object| self.claim.mark_done(self.store(), &object)).transpose()?;
        served.map(|served| self.before(served)).transpose()
    }

    fn before(&self, served: DoneRecord) -> Result<ServedBefore> {
        before(served, self.store(), &self.address)
    }

    /// How far its run is, when another process does the run.
    ///
    /// # Errors
    /// A store that fails; a `done.json` that is damaged.
    pub fn status(&self) -> Result<ClaimStatus> {
        Ok(match lease::observe(self.store(), &self.claim)? {
            LeaseProgress::Running => ClaimStatus::Running,
            LeaseProgress::Failed => ClaimStatus::Failed,
            LeaseProgress::Taken(_) => ClaimStatus::Elsewhere,
            LeaseProgress::Done(served) => ClaimStatus::Done(self.before(served)?),
        })
    }

    /// Notes that its run will not be done: another may follow at once. A failure is logged as a warning.
    pub fn give_up(&self, vaults: &VaultPool, ctx: &Context) {
        let failed = match vaults.stopped() {
            true => vaults.store_for_last_words(&self.address).and_then(|store| self.claim.mark_failed(&*store)),
            false => self.claim.mark_failed(self.store()),
        };
        if let Err(why) = failed {
            ctx.monitor.warn(&format!("the run's claim could not be marked as failed: {}", why.what()));
        }
    }

    /// Fails unless its run may still commit.
    ///
    /// # Errors
    /// The run has taken longer than it may; another run has taken over; a store that fails.
    pub fn check_may_commit(&self) -> Result<()> {
        let no = |why: String| Error::failed("commit the snapshot", why);
        if self.claim.age() >= self.claim.timeout() {
            let limit = self.claim.timeout().as_secs();
            return Err(no(format!("the run has taken longer than its limit of {limit} s")).with_code(Code::Stopped));
        }
        if self.claim.is_superseded(&*self.vault.store)? {
            return Err(no("another run has taken over what this one was to do".into()));
        }
        Ok(())
    }

    /// The check that a backup makes before it commits.
    pub fn before_commit(self: &Arc<Self>) -> BeforeCommit {
        let held = self.clone();
        BeforeCommit::new(move || held.check_may_commit())
    }
}

fn stays(report: &Report) -> bool {
    report.result.stays(report.action)
}

fn answer(entry: LeaseState, store: &dyn Store, address: &Address) -> Result<EventOutcome> {
    match entry {
        LeaseState::Running { run, retry_after } => Ok(EventOutcome::Elsewhere { run, retry_after }),
        LeaseState::Done(served) => before(served, store, address).map(EventOutcome::Before),
        LeaseState::Mine(claim) => {
            let why = format!("the run {} holds it itself", claim.run());
            Err(Error::failed(format!("answer for the claim {}", claim.name()), why).with_code(Code::Internal))
        }
    }
}

/// The object of the report by which a run before has done a restore, which must not be done twice: the report may be in any of
/// the vaults, and is copied to the vault of the claim. If all runs before say that they failed, a vault that cannot be asked is
/// passed over.
///
/// # Errors
/// A vault that may hold such a report cannot be asked; a store that fails.
pub fn restored(held: &HeldClaim, vaults: &VaultPool) -> Result<Option<String>> {
    let earlier = held.claim.earlier();
    if let Some(object) = done(held.store(), earlier)? {
        return Ok(Some(object));
    }
    let may_be_done = earlier.iter().any(|earlier| !earlier.failed && earlier.run != held.claim.run());
    for address in vaults.addresses().iter().filter(|address| **address != held.address && !earlier.is_empty()) {
        let found = vaults.store(address).and_then(Vault::open).and_then(|vault| {
            let object = done(&*vault.store, earlier)?;
            object.map(|object| Ok((kept(&*vault.store, &object)?, object))).transpose()
        });
        match found {
            Ok(Some((report, object))) => {
                report.map_or(Ok(()), |report| copy_report(held.store(), report.json(), &object))?;
                return Ok(Some(object));
            }
            Ok(None) => {}
            Err(why) if may_be_done => return Err(why),
            Err(why) => tracing::debug!("cannot see whether {address} has a report of the restore: {}", why.what()),
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(missing_docs, reason = "for tests alone")]
pub mod tests;
