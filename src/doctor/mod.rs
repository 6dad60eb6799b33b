//! The checks of `lastgood doctor`: what stands in the way of a backup or a restore, and what to do about it.
//!
//! ```text
//! each vault, at the same time:  credentials ► network, clock ► token ► bucket ► permissions ─┐
//!                                folder ─────────────────────────────────────────────────────┴► vault ► snapshots ► space
//! all vaults:                    are they replicas of one, and does each have the newest snapshot
//! the data directory:            there, whole, readable; can it be restored to, and is there room
//! ```
//!
//! Nothing is written anywhere: a writer could not remove it from a bucket. And an answer comes soon, whatever is broken: each
//! part has a time limit, and one that does not come back (a network mount whose server is gone) is left behind.

mod age;
mod bucket;
pub mod check;
mod data;
mod folder;
mod grants;
mod lifecycle;
mod network;
mod running;
mod space;
mod vault;
mod walk;

use std::time::Duration;

use serde::Serialize;

use self::check::{CheckStatus, DoctorCheck, DoctorSettings, VaultLocation};
pub use self::network::Proxy;
use self::running::{CheckFindings, RunningChecks};
use crate::error::Result;
use crate::fs::location::lies_in;
use crate::monitor::Context;
use crate::store::address::Address;

/// How long the checks of a vault, and those of the data directory, may take.
const LIMIT: Duration = Duration::from_secs(15);

/// The subject of a section of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// One vault.
    Vault,
    /// All vaults together.
    Vaults,
    /// The data directory.
    Data,
}

/// A section of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorSection {
    /// Its subject.
    pub subject: Subject,
    /// The place of the subject.
    pub place: String,
    /// The checks, in the order in which they were made.
    pub checks: Vec<DoctorCheck>,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// How many checks found something that stops a backup or a restore.
    pub problems: usize,
    /// How many checks found something that somebody should look at.
    pub warnings: usize,
    /// The checks, by subject.
    pub parts: Vec<DoctorSection>,
}

impl DoctorReport {
    fn new(parts: Vec<DoctorSection>) -> Self {
        let count = |wanted| parts.iter().flat_map(|part| &part.checks).filter(|check| check.outcome == wanted).count();
        DoctorReport { problems: count(CheckStatus::Problem), warnings: count(CheckStatus::Warning), parts }
    }
}

/// Runs all checks.
///
/// # Errors
/// It was told to stop. Any other failure is in the report.
pub fn examine(settings: &DoctorSettings, ctx: &Context) -> Result<DoctorReport> {
    let running: Vec<_> = settings.vaults.iter().map(|vault| (vault.shown(), begin(vault, settings))).collect();
    let found = running.into_iter().map(|(name, running)| Ok((name, running.wait(ctx)?)));
    let mut vaults = found.collect::<Result<Vec<(String, CheckFindings)>>>()?;
    vault::replicas_to_make(&mut vaults);

    let input = data::DataCheckInput::new(settings, &vaults);
    let mut data =
        RunningChecks::start("data", LIMIT, move |recorder, stop| data::check_data_directory(&input, recorder, stop))
            .wait(ctx)?;
    data.checks.extend(settings.backups_off.as_ref().map(|why| DoctorCheck::problem("backups", why.clone())));

    let together = if vaults.len() > 1 { vault::together(&vaults) } else { Vec::new() };
    let part = |subject, place, checks| DoctorSection { subject, place, checks };
    let mut parts: Vec<_> =
        vaults.into_iter().map(|(name, findings)| part(Subject::Vault, name, findings.checks)).collect();
    if !together.is_empty() {
        parts.push(part(Subject::Vaults, String::new(), together));
    }
    parts.push(part(Subject::Data, settings.data_at.display().to_string(), data.checks));
    Ok(DoctorReport::new(parts))
}

/// Checks how old the newest good snapshot of each vault is, and nothing else; an old one is a problem, as nothing else tells.
///
/// # Errors
/// It was told to stop. Any other failure is in the report.
pub fn examine_age(settings: &DoctorSettings, ctx: &Context) -> Result<DoctorReport> {
    let begin = |vault: &VaultLocation| {
        let input = age::AgeCheckInput {
            address: match &vault.at {
                Some(folder) => Address::Folder(folder.clone()),
                None => vault.address.clone(),
            },
            name: vault.shown(),
            cloud: settings.cloud.clone(),
            max_age: settings.max_age,
        };
        RunningChecks::start("vault", age::LIMIT, move |recorder, stop| age::check_age(&input, recorder, stop))
    };
    let running: Vec<_> = settings.vaults.iter().map(|vault| (vault.shown(), begin(vault))).collect();
    let parts = running.into_iter().map(|(place, running)| {
        Ok(DoctorSection { subject: Subject::Vault, place, checks: running.wait(ctx)?.checks })
    });
    Ok(DoctorReport::new(parts.collect::<Result<_>>()?))
}

fn begin(vault: &VaultLocation, settings: &DoctorSettings) -> RunningChecks {
    let in_data = vault.at.as_ref().is_some_and(|at| lies_in(at, &settings.data_at));
    let made_unasked = vault.address.is_default() && !in_data;
    let input = vault::VaultCheckInput { name: vault.shown(), max_age: settings.max_age, made_unasked };
    match &vault.address {
        Address::Folder(folder) => {
            let folder = vault.at.clone().unwrap_or_else(|| folder.clone());
            let input = folder::FolderCheckInput { vault: input, folder, in_cloud_run: settings.cloud.in_cloud_run };
            RunningChecks::start("vault", LIMIT, move |recorder, stop| folder::check_folder(&input, recorder, stop))
        }
        Address::Bucket { bucket, prefix } => {
            let input = bucket::BucketCheckInput {
                vault: input,
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                cloud: settings.cloud.clone(),
                proxy: settings.proxy.clone(),
            };
            RunningChecks::start("vault", LIMIT, move |recorder, stop| bucket::check_bucket(&input, recorder, stop))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check::span;
    use super::*;

    #[test]
    fn nobody_at_the_doctor_is_sent_to_the_doctor() {
        for (hint, advice) in [
            ("Check the bucket; `lastgood doctor` looks at both.", Some("Check the bucket.")),
            ("Are they revoked? `lastgood doctor` shows which are used.", Some("Are they revoked?")),
            ("`lastgood doctor` shows it.", None),
            ("Name it: `lastgood doctor DIR`.", Some("Name it: `lastgood doctor DIR`.")),
            ("", None),
        ] {
            assert_eq!(DoctorCheck::ok("a", "b").advice(hint).advice.as_deref(), advice, "{hint}");
        }
    }

    #[test]
    fn times_for_people() {
        for (seconds, text) in
            [(59, "59 s"), (90, "1 min"), (26 * 3600, "26 h"), (27 * 3600 + 60, "27 h 1 min"), (50 * 3600, "2 d 2 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
