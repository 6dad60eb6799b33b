//! Does the run of a dispatch request in an execution of a Cloud Run job, for the service that started it, under the claims that
//! the service entered for it.
//!
//! It settles the claims itself, so that the service need not live that long. An execution that finds nothing to do ends
//! successfully, since another attempt would do no more: a second execution for one dispatch request, an attempt after one that
//! succeeded, one whose claims were given up or taken over meanwhile.
//!
//! All attempts of an execution are one run. An attempt after one that was killed goes on with its claims, and looks first
//! whether that one has committed; an attempt after one that failed, and said so, enters the claims again under their next
//! numbers, unless a redelivery was faster.

use std::sync::Arc;
use std::time::Instant;

use super::rules::Rules;
use crate::backup::options::BeforeCommit;
use crate::claims::dispatch_request::{DispatchRequest, TakenBy};
use crate::claims::ended_runs::ServedBefore;
use crate::claims::execution::Execution;
use crate::claims::idempotent::{self, HeldClaim, ResumedClaim};
use crate::claims::lease::{self, ClaimIdentity, ClaimName, Claimant};
use crate::deadline;
use crate::error::{Error, Kind, Result};
use crate::events::decoded::RunRequest;
use crate::events::labels;
use crate::job::{self, FinishedJob, Origin};
use crate::monitor::Context;
use crate::parallel::ordered::map_ordered;
use crate::replicas::pool::VaultPool;
use crate::store::address::Address;
use crate::vault::Vault;

/// The outcome of a dispatch request.
pub enum WorkerOutcome {
    /// The run was done, or failed.
    Ran(Box<FinishedJob>),
    /// The event was served already.
    Before(ServedBefore),
    /// There was nothing to do here, for this reason.
    Nothing(String),
}

/// Does what the dispatch request beside a claim says. From the moment on that the request is known, an error is the end of a run
/// that failed, with a report: the service may be gone, and it knows nothing of a claim that cannot be taken here.
///
/// # Errors
/// No vault has the dispatch request; it is damaged or of another version; a store fails before it is read. The service that waits
/// tells of a run that does not begin.
pub fn run(name: &ClaimName, rules: &Rules, vaults: &VaultPool, ctx: &Context) -> Result<WorkerOutcome> {
    let (vault, address, dispatch_request) = find(name, vaults)?;
    let execution = Execution::of(&rules.place);
    let by = match &execution {
        Some(execution) => format!("{}/{}", execution.name, execution.task),
        None => job::new_run(ctx)?.to_string(),
    };
    let cause = Origin {
        way: dispatch_request.way,
        events: dispatch_request.events.clone(),
        place: rules.place.clone(),
        notify: rules.notify.clone(),
        hooks: rules.hooks.clone(),
    };
    let taker = TakenBy { run: dispatch_request.run, by };
    match taker.take(&*vault.store, name) {
        Ok(None) => {}
        Ok(Some(other)) => {
            return Ok(WorkerOutcome::Nothing(format!(
                "{} has taken the dispatch request",
                crate::text::one_line(&other.by, 200)
            )));
        }
        Err(why) => return Ok(not_begun(&dispatch_request, &[], cause, why, rules, vaults, ctx)),
    }
    let after = execution.is_some_and(|execution| execution.attempt > 0);
    let mut found = ResumedClaims::default();
    for name in &dispatch_request.claims {
        match resume(name, &dispatch_request, &address, (rules, &cause, after), vaults, ctx) {
            Ok(ResumedClaim::Held(held)) if held.claim().age() < held.claim().timeout() => found.held.push(held),
            Ok(ResumedClaim::Held(_)) => found.nothing.push("the run's time limit is over".into()),
            Ok(ResumedClaim::Before(before)) => _ = found.before.get_or_insert(before),
            Ok(ResumedClaim::GivenUp) => found.nothing.push(format!("the claim {name} was given up")),
            Ok(ResumedClaim::Elsewhere(run)) => {
                found.nothing.push(format!("the run {run} has taken the claim {name} over"))
            }
            // The other claims need not suffer for it.
            Err(why) if why.kind() == Kind::Damage => {
                ctx.monitor.warn(&format!("the claim {name} is passed over: {}", why.what()));
                found.damaged.get_or_insert(why);
            }
            Err(why) => return Ok(not_begun(&dispatch_request, &found.held, cause, why, rules, vaults, ctx)),
        }
    }
    found.nothing.iter().for_each(|why| ctx.monitor.warn(why));
    Ok(match found {
        ResumedClaims { held, .. } if !held.is_empty() => {
            WorkerOutcome::Ran(Box::new(carry_out(&dispatch_request, held, cause, rules, vaults, ctx)))
        }
        ResumedClaims { before: Some(before), .. } => WorkerOutcome::Before(before),
        ResumedClaims { damaged: Some(why), .. } => not_begun(&dispatch_request, &[], cause, why, rules, vaults, ctx),
        ResumedClaims { nothing, .. } => WorkerOutcome::Nothing(nothing.into_iter().next().unwrap_or_default()),
    })
}

/// How the claims of a dispatch request stand.
#[derive(Default)]
struct ResumedClaims {
    held: Vec<Arc<HeldClaim>>,
    before: Option<ServedBefore>,
    nothing: Vec<String>,
    damaged: Option<Error>,
}

/// Ends a run that could not begin because of `why`. The claims that are held already say that it failed.
fn not_begun(
    dispatch_request: &DispatchRequest,
    held: &[Arc<HeldClaim>],
    cause: Origin,
    why: Error,
    rules: &Rules,
    vaults: &VaultPool,
    ctx: &Context,
) -> WorkerOutcome {
    let job = rules.job(&request_of(dispatch_request), None);
    let ran = job::not_run(dispatch_request.run, &job, cause, why, vaults, ctx);
    settle(held, &ran, vaults, ctx);
    ran.notify(ctx);
    WorkerOutcome::Ran(Box::new(ran))
}

/// Notes in the claims of a run how it ended.
fn settle(held: &[Arc<HeldClaim>], ran: &FinishedJob, vaults: &VaultPool, ctx: &Context) {
    let close = |held: &Arc<HeldClaim>| held.record_end(ran, vaults, ctx).other.is_some();
    let closed = map_ordered(held, idempotent::AT_ONCE, close, |held, other| {
        if other {
            ctx.monitor.warn(&format!("another run has served the event of the claim {}", held.claim().name()));
        }
        Ok(())
    });
    if let Err(why) = closed {
        ctx.monitor.warn(&format!("not all claims of the run are settled: {}", why.what()));
    }
}

/// The request that a dispatch request is for.
fn request_of(dispatch_request: &DispatchRequest) -> RunRequest {
    RunRequest {
        action: dispatch_request.action,
        reason: dispatch_request.reason,
        labels: labels::fit(dispatch_request.labels.clone(), 0),
        snapshot: dispatch_request.snapshot.clone(),
        // A restore is always asked for by a single event.
        event: dispatch_request.events.first().cloned().unwrap_or_default(),
    }
}

/// Finds the first vault that has the dispatch request.
fn find(name: &ClaimName, vaults: &VaultPool) -> Result<(Vault, Address, DispatchRequest)> {
    let mut failed = None;
    for address in vaults.addresses() {
        let read = |vault: Vault| {
            Ok(DispatchRequest::read(&*vault.store, name)?.map(|dispatch_request| (vault, dispatch_request)))
        };
        match vaults.store(address).and_then(Vault::open).and_then(read) {
            Ok(Some((vault, dispatch_request))) => return Ok((vault, address.clone(), dispatch_request)),
            Ok(None) => {}
            Err(why) => _ = failed.get_or_insert(why),
        }
    }
    Err(failed.unwrap_or_else(|| {
        Error::failed(format!("find the dispatch request of the claim {name}"), "no vault has it").hint(
            "Has the job the same vaults as the service that starts it? They are given by --vault or LASTGOOD_VAULT.",
        )
    }))
}

fn resume(
    name: &ClaimName,
    dispatch_request: &DispatchRequest,
    address: &Address,
    (rules, cause, after): (&Rules, &Origin, bool),
    vaults: &VaultPool,
    ctx: &Context,
) -> Result<ResumedClaim> {
    let vault = vaults.store(address).and_then(Vault::open)?;
    let identity: ClaimIdentity = lease::identity(&*vault.store, name)?;
    let (action, run, host, timeout) =
        (dispatch_request.action, dispatch_request.run, rules.place.host.clone(), dispatch_request.timeout());
    let claimant = Claimant { identity, action, run, host, timeout, promise: None };
    idempotent::resume(name, vault, address, &claimant, (cause, after), vaults, ctx)
}

/// Does the run within its time limit, and settles its claims.
fn carry_out(
    dispatch_request: &DispatchRequest,
    held: Vec<Arc<HeldClaim>>,
    cause: Origin,
    rules: &Rules,
    vaults: &VaultPool,
    ctx: &Context,
) -> FinishedJob {
    let left = held.iter().map(|held| held.claim().timeout().saturating_sub(held.claim().age())).max();
    let deadline = Instant::now() + left.unwrap_or_default();
    let gate = held.clone();
    let request = request_of(dispatch_request);
    let job = rules.job(&request, Some(BeforeCommit::new(move || idempotent::check_any(&gate))));
    deadline::with_deadline(deadline, ctx.stop, |over| {
        let ctx = &Context { stop: over, ..*ctx };
        let ran = match rules.refusal_error(&request) {
            None => job::run(dispatch_request.run, &job, cause, vaults, ctx),
            Some(why) => {
                let why =
                    why.hint("What the service allows, the job has to allow, too: deploy both with the same flags.");
                job::not_run(dispatch_request.run, &job, cause, why, vaults, ctx)
            }
        };
        if Instant::now() >= deadline {
            tracing::error!(
                "the run {} took longer than {} s",
                dispatch_request.run,
                dispatch_request.timeout().as_secs()
            );
        }
        settle(&held, &ran, vaults, ctx);
        ran.notify(ctx);
        ran
    })
}

#[cfg(test)]
mod tests;
