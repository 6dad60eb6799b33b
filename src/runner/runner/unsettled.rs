//! Runs that are over, of which no vault says so yet: their reports, and the ends of their claims.
//!
//! A vault that is away when a run ends takes neither. Both are tried again until it does: else nobody could ever ask for the
//! run, and its event would be taken for one that is being served until the run's time limit is over, and then be served again
//! although it was done.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Answer, RunProgress, Runner, lock};
use crate::claims::idempotent::{self, HeldClaim};
use crate::error::{Error, Kind};
use crate::job::FinishedJob;
use crate::report::{Action, EncodedReport, Outcome, RunId};
use crate::runner::answer::how_to_look;

/// How many runs are kept that do not matter much: while a vault is away for long, others are asked for again and again.
const KEPT: usize = 256;

/// A run of this instance that is over.
pub(super) struct UnsettledRun {
    pub ran: FinishedJob,
    /// Claims that do not yet say how the run ended.
    pub claims: Vec<Arc<HeldClaim>>,
    /// Whether somebody was promised the run, and nothing but its report will tell them.
    pub promised: bool,
}

impl UnsettledRun {
    /// Whether the run did what was asked for.
    fn is_done(&self) -> bool {
        let report = &self.ran.report;
        report.result.stays(report.action) && report.result != Outcome::Refused
    }

    /// Whether harm is done if no vault ever says how the run ended: a sender who was promised it hears nothing, and a restore is
    /// done again.
    fn matters(&self) -> bool {
        self.promised || self.is_done() && self.ran.report.action == Action::Restore
    }
}

/// A vault that does not answer.
struct VaultUnreachable;

impl Runner {
    /// Keeps a run that is over until a vault says so. Does nothing if a vault says so already.
    pub(super) fn keep(&self, unsettled: UnsettledRun) {
        let UnsettledRun { ran, claims, .. } = &unsettled;
        if ran.stored.is_some() && claims.is_empty() {
            return;
        }
        let run = ran.report.run;
        let mut state = lock(&self.state);
        let owed = &mut state.obligations;
        let (kept, done) = (&mut owed.unsettled, &mut owed.done);
        if !unsettled.matters() && kept.iter().filter(|kept| !kept.matters()).count() >= KEPT {
            tracing::warn!(
                "no vault could note how the run {run} ended, and too many such runs are kept already: this one is not tried again"
            );
            return;
        }
        tracing::warn!("no vault could note how the run {run} ended: it is tried again until one can");
        if unsettled.is_done() {
            let (served, report) = (&ran.report.events, EncodedReport::of(&ran.report));
            done.extend(served.iter().filter_map(|event| Some((event.identity.clone()?, report.clone()))));
        }
        kept.push(unsettled);
    }

    /// Tries again to settle the runs for which `which` is true. Returns whether any was settled.
    pub(super) fn settle_again(&self, which: impl Fn(RunId) -> bool) -> bool {
        let one = lock(&self.state).obligations.one.clone();
        let _one = lock(&one);
        let (mut mine, runs) = {
            let owed = &mut lock(&self.state).obligations;
            let all = std::mem::take(&mut owed.unsettled);
            let (mine, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|kept| which(kept.ran.report.run));
            let runs: Vec<_> = mine.iter().map(|kept| kept.ran.report.run).collect();
            owed.unsettled = rest;
            owed.settling.extend(&runs);
            (mine, runs)
        };
        // The runs that matter come first, as there may be little time.
        mine.sort_by_key(|kept| !kept.matters());
        let (mut left, mut over, mut rest) = (Vec::new(), HashSet::new(), mine.into_iter());
        for mut unsettled in rest.by_ref() {
            match self.settle_one(&mut unsettled) {
                Ok(true) => _ = over.insert(unsettled.ran.report.run),
                Ok(false) => left.push(unsettled),
                // Each of the others would have to wait for it again.
                Err(VaultUnreachable) => {
                    left.push(unsettled);
                    break;
                }
            }
        }
        let owed = &mut lock(&self.state).obligations;
        owed.settled += over.len() as u64;
        // From now on a vault tells of these runs.
        owed.done.retain(|_, report| report.run().is_none_or(|run| !over.contains(&run)));
        // Runs that were not tried come first the next time.
        owed.unsettled.extend(rest.chain(left));
        owed.settling.retain(|run| !runs.contains(run));
        !over.is_empty()
    }

    /// The answer for an event that a run of this instance served, as long as no vault says so. This is asked before the vaults
    /// are: a vault that was away may be back and show nothing but a claim whose time is over, and another vault knows nothing of
    /// that claim.
    pub(super) fn done_here(&self, identity: &str) -> Option<Answer> {
        lock(&self.state).obligations.done.get(identity).cloned().map(Answer::Before)
    }

    /// Tries to store the report of a run and to note the end of its claims. Returns whether all of that is done.
    fn settle_one(&self, UnsettledRun { ran, claims, .. }: &mut UnsettledRun) -> Result<bool, VaultUnreachable> {
        let run = ran.report.run;
        let is_away = |why: &Error| why.kind() == Kind::Unreachable;
        if ran.stored.is_none()
            && let Err(why) = ran.store(&self.vaults)
        {
            tracing::debug!("the report of the run {run} cannot be stored yet: {}", why.what());
            return if is_away(&why) { Err(VaultUnreachable) } else { Ok(false) };
        }
        let mut away = false;
        claims.retain(|held| {
            if away {
                return true;
            }
            match held.try_record_end(ran, &self.vaults) {
                Ok(noted) => !noted.is_noted,
                Err(why) => {
                    tracing::debug!("the claim {} cannot be settled yet: {}", held.claim().name(), why.what());
                    away = is_away(&why);
                    true
                }
            }
        });
        if claims.is_empty() {
            // A vault tells of it now, and may tell better one day of a run of another instance.
            lock(&self.state).forget(run);
        }
        if away { Err(VaultUnreachable) } else { Ok(claims.is_empty()) }
    }

    /// Returns whether a vault has the report of every run of which that matters; logs the runs of which something is missing.
    pub(super) fn is_all_settled(&self) -> bool {
        let state = lock(&self.state);
        let left = &state.obligations.unsettled;
        let runs = |which: &dyn Fn(&UnsettledRun) -> bool| {
            let runs: Vec<_> =
                left.iter().filter(|left| which(left)).map(|left| left.ran.report.run.to_string()).collect();
            Some(runs.join(", ")).filter(|runs| !runs.is_empty())
        };
        let is_lost = |left: &UnsettledRun| left.ran.stored.is_none() && left.matters();
        let promised = runs(&|left| is_lost(left) && left.promised);
        let restores = runs(&|left| is_lost(left) && !left.promised);
        if let Some(others) = runs(&|left| !is_lost(left)) {
            tracing::warn!("no vault has noted all of how these runs ended: {others}");
        }
        if let Some(promised) = &promised {
            tracing::error!(
                "no vault took the reports of these runs, which were promised, so that nothing says how they ended: {promised}"
            );
        }
        if let Some(restores) = &restores {
            tracing::error!(
                "no vault took the reports of these restores, which were done: one whose event is delivered again is done again: \
                 {restores}. {}",
                how_to_look(Action::Restore).trim_end()
            );
        }
        promised.is_none() && restores.is_none()
    }

    /// How many runs have been settled some time after their end.
    pub(super) fn settled_so_far(&self) -> u64 {
        lock(&self.state).obligations.settled
    }

    /// Whether a run that is over here is one of those of which no vault says so yet.
    pub(super) fn is_unsettled(&self, run: RunId) -> bool {
        let owed = &lock(&self.state).obligations;
        owed.settling.contains(&run) || owed.unsettled.iter().any(|kept| kept.ran.report.run == run)
    }

    /// The answer to a request, by what its claim came to. A run of this instance that is over serves nothing any more, even if
    /// the vault does not know yet.
    pub(super) fn answer_by_claim(&self, answer: idempotent::EventOutcome) -> Answer {
        let idempotent::EventOutcome::Elsewhere { run, .. } = &answer else { return answer.into() };
        match self.progress(*run) {
            Some(RunProgress::Over(over)) => match &*over {
                Answer::Done { retry: false, report, .. } => Answer::Before(report.clone()),
                _ => Answer::not_noted(*run),
            },
            Some(RunProgress::Waiting | RunProgress::Running) | None => answer.into(),
        }
    }
}
