//! How the run of a claim ended, as the claim says it.

use super::{EventOutcome, FoundReport, HeldClaim, answer, stays};
use crate::claims::ended_runs::copy_report;
use crate::claims::lease::{self, DoneRecord, LeaseState};
use crate::error::Result;
use crate::job::FinishedJob;
use crate::monitor::Context;
use crate::replicas::pool::VaultPool;
use crate::report::Outcome;

/// The outcome of noting in a claim how its run ended.
pub struct SettledClaim {
    /// The answer, if it is another than the run itself.
    pub other: Option<EventOutcome>,
    /// Whether the claim says it now. A run that was done is not noted before there is a report of it.
    pub is_noted: bool,
}

impl HeldClaim {
    /// Notes how its run ended: as done if it must not be done again, as failed if it may be. A run that was done and left no
    /// report is marked as neither: whoever takes over looks for the snapshot. Then tells of the run.
    pub fn settle(&self, ran: FinishedJob, vaults: &VaultPool, ctx: &Context) -> EventOutcome {
        let other = self.record_end(&ran, vaults, ctx).other;
        ran.notify(ctx);
        other.unwrap_or_else(|| EventOutcome::Now(Box::new(ran)))
    }

    /// Notes how its run ended, like [`HeldClaim::settle`], but tells nobody: for a run that served other events, too.
    pub fn record_end(&self, ran: &FinishedJob, vaults: &VaultPool, ctx: &Context) -> SettledClaim {
        self.try_record_end(ran, vaults).unwrap_or_else(|why| {
            let what = if stays(&ran.report) { "done" } else { "failed" };
            ctx.monitor.warn(&format!("the run's claim could not be marked as {what}: {}", why.what()));
            SettledClaim { other: None, is_noted: false }
        })
    }

    /// Notes how its run ended by the report that it left, as it was killed before it could. A run that `stays` is not done
    /// again.
    ///
    /// # Errors
    /// A store that fails.
    pub fn record_end_by_report(&self, kept: &FoundReport, stays: bool) -> Result<()> {
        if !stays {
            return self.claim.mark_failed(self.store());
        }
        if kept.vault != self.address {
            copy_report(self.store(), kept.report.json(), &kept.object)?;
        }
        self.claim.mark_done(self.store(), &kept.object).map(drop)
    }

    /// Notes how its run ended, like [`HeldClaim::record_end`], for a caller that tries again later what cannot be noted now.
    ///
    /// # Errors
    /// A store that fails.
    pub fn try_record_end(&self, ran: &FinishedJob, vaults: &VaultPool) -> Result<SettledClaim> {
        let waits = ran.stored.is_none() && stays(&ran.report) && ran.report.result != Outcome::Refused;
        let other = if waits { None } else { self.mark(ran, vaults)? };
        Ok(SettledClaim { other, is_noted: !waits })
    }

    /// Marks the claim as done or failed. Returns the answer if it is another than the run itself.
    fn mark(&self, ran: &FinishedJob, vaults: &VaultPool) -> Result<Option<EventOutcome>> {
        let last;
        let store = if vaults.stopped() {
            last = vaults.store_for_last_words(&self.address)?;
            &*last
        } else {
            &*self.vault.store
        };
        let other = |served: DoneRecord| {
            let ours = served.run == ran.report.run;
            if ours { Ok(None) } else { answer(LeaseState::Done(served), store, &self.address).map(Some) }
        };
        match (&ran.stored, stays(&ran.report)) {
            (Some((address, object)), true) => {
                if *address != self.address {
                    copy_report(store, &ran.report.encode()?, object)?;
                }
                other(self.claim.mark_done(store, object)?)
            }
            _ => {
                self.claim.mark_failed(store)?;
                if !self.claim.is_superseded(store)? {
                    return Ok(None);
                }
                match lease::peek(store, &self.claim)? {
                    Some(entry) => answer(entry, store, &self.address).map(Some),
                    None => Ok(None),
                }
            }
        }
    }
}
