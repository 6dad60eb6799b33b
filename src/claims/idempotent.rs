//! At least once becomes once: a run under a claim.
//!
//! Claims live in the first configured vault that opens and takes one. If that vault is away at one delivery and there at
//! the next, neither knows of the other, and the event is served twice: for a backup that is wasteful, never harmful. The
//! same goes for a run of a Cloud Run job that makes the vault: its claim is entered when it is done. A service makes the vault
//! before it claims what asks for the first backup.

use std::sync::Arc;
use std::time::Duration;

use super::ended_runs::{Before, before, copy_report};
pub use super::ended_runs::{Kept, find_served, report_of};
use super::execution::{Execution, LONGEST_ATTEMPT};
use super::lease::{self, Asker, Claim, Entry, Followed, Identity, Name, Served};
use super::recover::{self, Left, done, kept};
use crate::backup::options::BeforeCommit;
use crate::error::{Error, Result};
use crate::job::{Cause, Ran};
use crate::monitor::Context;
use crate::replicas::pool::Vaults;
use crate::report::{Action, Outcome, Report, RunId};
use crate::store::Store;
use crate::store::address::Address;
use crate::vault::Vault;

/// How many claims of one run are entered or settled at the same time.
pub const AT_ONCE: usize = 16;

/// What became of an event.
pub enum Answer {
    /// A run has just served it, or failed to.
    Now(Box<Ran>),
    /// It was served before.
    Before(Before),
    /// Another run is serving it.
    Elsewhere {
        /// That run.
        run: RunId,
        /// After this time at the latest it has ended, and the event may be asked for again.
        retry_after: Duration,
    },
}

/// What came of asking for a claim.
pub enum Taken {
    /// It is held.
    Held(Arc<Held>),
    /// It is not, and that is the answer.
    Not(Answer),
    /// No vault opens, so there is nothing to hold.
    NoVault,
}

/// How far a claim's run is, which another process does.
pub enum Standing {
    /// It is not over.
    Running,
    /// It ended without serving the event.
    Failed,
    /// Another run has taken over.
    Elsewhere,
    /// The event is served, by this run or another.
    Done(Before),
}

/// What came of going on with a claim of another process.
pub enum Resumed {
    /// It is held.
    Held(Arc<Held>),
    /// The event is served.
    Before(Before),
    /// The claim was given up.
    GivenUp,
    /// Another run has taken over.
    Elsewhere(RunId),
}

/// What came of noting in a claim how its run ended.
pub struct Noted {
    /// The answer, where it is another than the run itself.
    pub other: Option<Answer>,
    /// Whether the claim says it now. What was done is not noted before there is a report of it.
    pub is_noted: bool,
}

/// A claim, and the vault that it is in.
pub struct Held {
    claim: Claim,
    vault: Vault,
    address: Address,
}

impl Asker {
    /// The task of a Cloud Run job that this process is, where it is one.
    pub fn task(run: RunId, action: Action, cause: &Cause) -> Option<Self> {
        let identity = Identity::Execution(Execution::of(&cause.place)?);
        Some(Asker { identity, action, run, host: cause.place.host.clone(), timeout: LONGEST_ATTEMPT, promise: None })
    }
}

/// Runs `work` for an event, unless that is served elsewhere or was before. Work is given what to ask before a commit, and
/// whether it served the event is noted when it has ended.
///
/// # Errors
/// A vault that opens and takes no claim; a claim that is damaged.
pub fn once(
    vaults: &Vaults,
    asker: &Asker,
    cause: &Cause,
    ctx: &Context,
    work: impl FnOnce(Option<BeforeCommit>) -> Ran,
) -> Result<Answer> {
    match take(vaults, asker, cause, ctx)? {
        Taken::Held(held) => {
            let ran = work(Some(held.gate()));
            Ok(held.settle(ran, vaults, ctx))
        }
        Taken::Not(answer) => Ok(answer),
        Taken::NoVault => {
            let ran = work(None);
            let other = late(&ran, vaults, asker, cause, ctx);
            ran.tell(ctx);
            Ok(other.unwrap_or_else(|| Answer::Now(Box::new(ran))))
        }
    }
}

/// Claims an event when its run is over, if that made the vault: a claim that comes late harms nothing, and without it a
/// redelivery would be a second run. Gives the answer, where it is another than the run itself.
pub fn late(ran: &Ran, vaults: &Vaults, asker: &Asker, cause: &Cause, ctx: &Context) -> Option<Answer> {
    if ran.stored.is_none() || !stays(&ran.report) {
        return None;
    }
    match take(vaults, asker, cause, ctx) {
        Ok(Taken::Held(held)) => held.close(ran, vaults, ctx).other,
        Ok(Taken::Not(_) | Taken::NoVault) => None,
        Err(why) => {
            ctx.monitor.warn(&format!("a redelivery would be served again: {}", why.what()));
            None
        }
    }
}

/// Claims an event in the first vault that opens and takes a claim.
///
/// # Errors
/// As [`once`].
pub fn take(vaults: &Vaults, asker: &Asker, cause: &Cause, ctx: &Context) -> Result<Taken> {
    let mut refused = None;
    for address in vaults.addresses() {
        // Why a vault does not open is told by the run, which tries again.
        let Ok(vault) = vaults.store(address).and_then(Vault::open) else { continue };
        match take_in(vault, address, asker, cause, vaults, ctx) {
            Ok(taken) => return Ok(taken),
            Err(why) if why.of_store() => {
                ctx.monitor.warn(&format!("the vault {address} takes no claim: {}", why.what()));
                refused.get_or_insert(why);
            }
            Err(why) => return Err(why),
        }
    }
    refused.map_or(Ok(Taken::NoVault), Err)
}

fn take_in(
    vault: Vault,
    address: &Address,
    asker: &Asker,
    cause: &Cause,
    vaults: &Vaults,
    ctx: &Context,
) -> Result<Taken> {
    let held = match enter(vault, address, asker)? {
        Ok(held) => held,
        Err(other) => return Ok(Taken::Not(other)),
    };
    // Nobody serves the event under it: others need not wait for its time to be over.
    hold(&held, asker.action, cause, vaults, ctx).inspect_err(|_| held.give_up(vaults, ctx))
}

/// Enters a claim, or finds the answer.
fn enter(vault: Vault, address: &Address, asker: &Asker) -> Result<std::result::Result<Arc<Held>, Answer>> {
    Ok(match lease::enter(&*vault.store, asker)? {
        Entry::Mine(claim) => Ok(Arc::new(Held { claim, vault, address: address.clone() })),
        other => Err(answer(other, &*vault.store, address).map_err(|why| recover::unseen(asker.action, why))?),
    })
}

/// Holds a claim, unless a run before has done for it what `cause` asks for. Where that cannot be seen, the claim stands.
fn hold(held: &Arc<Held>, action: Action, cause: &Cause, vaults: &Vaults, ctx: &Context) -> Result<Taken> {
    let found = match action {
        Action::Backup => held.committed(cause, ctx),
        // They leave nothing behind that could be found, but for a report.
        Action::Restore => crate::claims::idempotent::restored(held, vaults).and_then(|found| held.reported(found)),
        Action::Verify => recover::done(held.store(), held.claim.earlier()).and_then(|found| held.reported(found)),
    };
    let taken = found.and_then(|found| match found {
        None => Ok(Taken::Held(held.clone())),
        Some(served) => answer(Entry::Done(served), held.store(), &held.address).map(Taken::Not),
    });
    taken.map_err(|why| recover::unseen(action, why))
}

/// Goes on with a claim that the asker's run entered in another process; `after` an attempt that failed, under the next
/// number.
///
/// # Errors
/// A store that fails; a claim that is not what it should be.
pub fn resume(
    name: &Name,
    vault: Vault,
    address: &Address,
    asker: &Asker,
    (cause, after): (&Cause, bool),
    vaults: &Vaults,
    ctx: &Context,
) -> Result<Resumed> {
    let taken = match lease::resume(&*vault.store, name, asker, after)? {
        lease::Resumed::Mine(claim) => {
            let held = Arc::new(Held { claim, vault, address: address.clone() });
            hold(&held, asker.action, cause, vaults, ctx)?
        }
        lease::Resumed::Done(served) => return before(served, &*vault.store, address).map(Resumed::Before),
        lease::Resumed::GivenUp => return Ok(Resumed::GivenUp),
        lease::Resumed::Taken(run) => return Ok(Resumed::Elsewhere(run)),
    };
    match taken {
        Taken::Held(held) => Ok(Resumed::Held(held)),
        Taken::Not(Answer::Before(before)) => Ok(Resumed::Before(before)),
        Taken::Not(Answer::Elsewhere { run, .. }) => Ok(Resumed::Elsewhere(run)),
        Taken::Not(Answer::Now(_)) | Taken::NoVault => {
            Err(Error::failed(format!("go on with the claim {name}"), "it is neither held nor served"))
        }
    }
}

/// Fails when none of the events that a run serves is its own any more. One of which nothing is held is served by nobody
/// else.
///
/// # Errors
/// As [`Held::check`].
pub fn check_any(held: &[Arc<Held>]) -> Result<()> {
    let mut lost = Ok(());
    for held in held {
        lost = held.check();
        if lost.is_ok() {
            break;
        }
    }
    lost
}

impl Held {
    /// Asks for the claim again before its run begins, as it may have waited for so long that another run has taken it over; if it
    /// has not, the run has its whole time from now on.
    ///
    /// # Errors
    /// As [`take`]; a vault that does not open.
    pub fn again(&self, asker: &Asker, cause: &Cause, vaults: &Vaults, ctx: &Context) -> Result<Taken> {
        let take = || {
            let vault = vaults.store(&self.address).and_then(Vault::open)?;
            match enter(vault, &self.address, asker)? {
                Ok(held) => hold(&held, asker.action, cause, vaults, ctx),
                Err(other) => Ok(Taken::Not(other)),
            }
        };
        let held = match take()? {
            Taken::Held(held) => held,
            other => return Ok(other),
        };
        match held.renew(asker, vaults)? {
            Some(renewed) => Ok(Taken::Held(Arc::new(renewed))),
            // Another was faster just now.
            None => take(),
        }
    }

    /// The same claim, entered now: [`Claim::renew`].
    ///
    /// # Errors
    /// A vault that does not open; a store that fails.
    pub fn renew(&self, asker: &Asker, vaults: &Vaults) -> Result<Option<Held>> {
        let vault = vaults.store(&self.address).and_then(Vault::open)?;
        let claim = self.claim.renew(&*vault.store, asker)?;
        Ok(claim.map(|claim| Held { claim, vault, address: self.address.clone() }))
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

    /// Marks the event as served if one of the runs before committed for it.
    fn committed(&self, cause: &Cause, ctx: &Context) -> Result<Option<Served>> {
        let found = recover::report(&self.vault, self.claim.earlier(), self.claim.run(), cause)?;
        let Some(Left { object, new }) = found else { return Ok(None) };
        let served = self.claim.done(self.store(), &object)?;
        if let Some((report, reason)) = new {
            cause.notify.tell(&report, Some(reason), ctx);
        }
        Ok(Some(served))
    }

    /// Marks the event as served if a report says that one of the runs before did.
    fn reported(&self, found: Option<String>) -> Result<Option<Served>> {
        found.map(|object| self.claim.done(self.store(), &object)).transpose()
    }

    /// How far its run is, which another process does.
    ///
    /// # Errors
    /// A store that fails; a `done.json` that is damaged.
    pub fn standing(&self) -> Result<Standing> {
        Ok(match lease::follow(self.store(), &self.claim)? {
            Followed::Running => Standing::Running,
            Followed::Failed => Standing::Failed,
            Followed::Taken(_) => Standing::Elsewhere,
            Followed::Done(served) => Standing::Done(before(served, self.store(), &self.address)?),
        })
    }

    /// Says that its run will not be done: another may follow at once.
    pub fn give_up(&self, vaults: &Vaults, ctx: &Context) {
        let failed = match vaults.stopped() {
            true => vaults.store_for_last_words(&self.address).and_then(|store| self.claim.failed(&*store)),
            false => self.claim.failed(self.store()),
        };
        if let Err(why) = failed {
            ctx.monitor.warn(&format!("the claim of the run is not marked failed: {}", why.what()));
        }
    }

    /// Asks whether its run may still commit.
    ///
    /// # Errors
    /// It has run for longer than it may; another run has taken over; a store that fails.
    pub fn check(&self) -> Result<()> {
        let no = |why: String| Err(Error::failed("commit the snapshot", why));
        if self.claim.age() >= self.claim.timeout() {
            let limit = self.claim.timeout().as_secs();
            return no(format!("the run has taken longer than its limit of {limit} s"));
        }
        if self.claim.superseded(&*self.vault.store)? {
            return no("another run has taken over what this one was to do".into());
        }
        Ok(())
    }

    /// What a backup asks before it commits.
    pub fn gate(self: &Arc<Self>) -> BeforeCommit {
        let held = self.clone();
        BeforeCommit::new(move || held.check())
    }

    /// Notes how its run ended. What must not be done again is marked as done, what may be as failed. What was done and
    /// left no report is neither: who takes over looks for the snapshot. Then tells of it.
    pub fn settle(&self, ran: Ran, vaults: &Vaults, ctx: &Context) -> Answer {
        let other = self.close(&ran, vaults, ctx).other;
        ran.tell(ctx);
        other.unwrap_or_else(|| Answer::Now(Box::new(ran)))
    }

    /// Notes it for a run that served other events, too, and tells nobody.
    pub fn close(&self, ran: &Ran, vaults: &Vaults, ctx: &Context) -> Noted {
        self.note(ran, vaults).unwrap_or_else(|why| {
            let what = if stays(&ran.report) { "done" } else { "failed" };
            ctx.monitor.warn(&format!("the claim of the run is not marked {what}: {}", why.what()));
            Noted { other: None, is_noted: false }
        })
    }

    /// Notes how its run ended by the report that it left, as it was killed before it could. What `stays` is not done again.
    ///
    /// # Errors
    /// A store that fails.
    pub fn close_by(&self, kept: &Kept, stays: bool) -> Result<()> {
        if !stays {
            return self.claim.failed(self.store());
        }
        if kept.vault != self.address {
            copy_report(self.store(), kept.report.json(), &kept.object)?;
        }
        self.claim.done(self.store(), &kept.object).map(drop)
    }

    /// The same, for whoever tries again later what cannot be noted now.
    ///
    /// # Errors
    /// A store that fails.
    pub fn note(&self, ran: &Ran, vaults: &Vaults) -> Result<Noted> {
        let waits = ran.stored.is_none() && stays(&ran.report) && ran.report.result != Outcome::Refused;
        let other = if waits { None } else { self.mark(ran, vaults)? };
        Ok(Noted { other, is_noted: !waits })
    }

    /// Gives the answer, where it is another than the run itself.
    fn mark(&self, ran: &Ran, vaults: &Vaults) -> Result<Option<Answer>> {
        let last;
        let store = if vaults.stopped() {
            last = vaults.store_for_last_words(&self.address)?;
            &*last
        } else {
            &*self.vault.store
        };
        let other = |served: Served| {
            let ours = served.run == ran.report.run;
            if ours { Ok(None) } else { answer(Entry::Done(served), store, &self.address).map(Some) }
        };
        match (&ran.stored, stays(&ran.report)) {
            (Some((address, object)), true) => {
                if *address != self.address {
                    copy_report(store, &ran.report.encode()?, object)?;
                }
                other(self.claim.done(store, object)?)
            }
            _ => {
                self.claim.failed(store)?;
                if !self.claim.superseded(store)? {
                    return Ok(None);
                }
                match lease::look(store, &self.claim)? {
                    Some(entry) => answer(entry, store, &self.address).map(Some),
                    None => Ok(None),
                }
            }
        }
    }
}

fn stays(report: &Report) -> bool {
    report.result.stays(report.action)
}

fn answer(entry: Entry, store: &dyn Store, address: &Address) -> Result<Answer> {
    match entry {
        Entry::Running { run, retry_after } => Ok(Answer::Elsewhere { run, retry_after }),
        Entry::Done(served) => before(served, store, address).map(Answer::Before),
        Entry::Mine(claim) => Err(Error::failed("answer", format!("the claim {} is one's own", claim.number()))),
    }
}

#[cfg(test)]
pub mod tests;

/// The same for a restore, which must not be done twice: its report may be in any of the vaults, and is copied to that of the claim. Of a
/// run that says that it failed none is waited for.
///
/// # Errors
/// A vault that may hold such a report cannot be asked; a store that fails.
pub fn restored(held: &Held, vaults: &Vaults) -> Result<Option<String>> {
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
            Err(why) => tracing::debug!("it is not seen whether {address} tells of a restore: {}", why.what()),
        }
    }
    Ok(None)
}
