//! How old the newest good snapshot of a vault is: one check of many, or the only one of `doctor --only age`.
//!
//! A schedule of its own runs that one beside the schedule that takes the backups, and somebody is told when it fails. So it needs
//! no more than to list and read the vault, and whatever keeps the age from being known is a problem.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;

use super::check::{CheckStatus, DoctorCheck, span};
use super::running::CheckRecorder;
use crate::error::Result;
use crate::gcp::cloud::Cloud;
use crate::restore::select;
use crate::store::address::{Address, argument};
use crate::store::open;
use crate::vault::Vault;

/// The check's name.
pub const AGE: &str = "age";
/// How long a vault may take to answer.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How long requests to a bucket are repeated: an outage that passes soon wakes nobody.
const PATIENCE: Duration = Duration::from_secs(45);
/// A snapshot that is further in the future than this was taken by another clock than the store's.
const AHEAD: Duration = Duration::from_secs(300);

/// The input of the check of one vault.
pub struct AgeCheckInput {
    /// Where the vault is.
    pub address: Address,
    /// The address as people are told it.
    pub name: String,
    /// How buckets are reached.
    pub cloud: Cloud,
    /// How old the newest good snapshot may be.
    pub max_age: Duration,
}

/// Runs the check, and logs the age in seconds as a number, for metrics that are made of the log. A snapshot that is dated ahead of
/// the store's clock has the age 0, as a metric of ages takes nothing below; the text of the line says that it lies ahead.
pub fn check_age(input: &AgeCheckInput, recorder: &CheckRecorder, stop: &Arc<AtomicBool>) {
    let (finished, now) = match newest_good(input, stop) {
        Ok(times) => times,
        Err(why) => return recorder.add(DoctorCheck::error(AGE, &why, stop)),
    };
    let (check, name) = (judge(finished, now, input.max_age), &input.name);
    let newest_good_snapshot_age_seconds = age(finished, now).as_secs_f64();
    tracing::info!(target: "lastgood::age", newest_good_snapshot_age_seconds, "{name}: {}", check.found);
    recorder.add(match check.outcome {
        CheckStatus::Ok => check,
        _ => DoctorCheck { outcome: CheckStatus::Problem, ..check }
            .run(format!("lastgood runs --vault {}", argument(name))),
    });
}

/// Returns when the newest good snapshot was finished, and the store's time.
fn newest_good(input: &AgeCheckInput, stop: &Arc<AtomicBool>) -> Result<(Timestamp, Timestamp)> {
    let cloud = Cloud { patience: input.cloud.patience.min(PATIENCE), ..input.cloud.clone() };
    let vault = Vault::open(open::open(&input.address, &cloud, stop.clone())?)?;
    let choice = select::newest_good(&vault, &vault.snapshots()?, "the newest good snapshot")?;
    let now = vault.store.now().map_err(|why| why.while_doing("ask for the time"))?;
    Ok((choice.root.finished, now))
}

/// Returns the check of a newest good snapshot that was finished at this time; both times are the store's.
pub fn judge(finished: Timestamp, now: Timestamp, max_age: Duration) -> DoctorCheck {
    let ahead = Duration::try_from(finished.duration_since(now)).unwrap_or_default();
    if ahead > AHEAD {
        let found = format!("the newest good snapshot was taken {} from now: a clock was wrong, or is", span(ahead));
        return DoctorCheck::warning(AGE, found).advice("Until then nothing tells whether backups are still taken.");
    }
    let age = age(finished, now);
    let found = format!("the newest good snapshot is {} old", span(age));
    if age <= max_age {
        return DoctorCheck::ok(AGE, found);
    }
    DoctorCheck::warning(AGE, format!("{found}, and more than {} is too old (--max-age)", span(max_age))).advice(
        "Does what starts the backups (cron, Cloud Scheduler, a timer) still run, and what does its log say? \
         `lastgood backup` takes one now.",
    )
}

/// Returns how long ago a snapshot was finished; zero if that time is still to come.
fn age(finished: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(finished)).unwrap_or_default()
}
