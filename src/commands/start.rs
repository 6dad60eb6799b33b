//! `state` and `seed`: what a data directory is before an app starts in it.

use std::path::{Path, PathBuf};

use lastgood::error::Result;
use lastgood::monitor::Context;
use lastgood::replicas::pool::VaultPool;
use lastgood::start::decide::{Decision, StartAction, StartState, decide};
use lastgood::start::{facts, seed};
use lastgood::text::printable;
use lastgood::view;
use serde::Serialize;

use crate::ProgramOutcome;
use crate::config::StartConfig;
use crate::console::Console;

/// What a data directory is, and of which directory that is told.
#[derive(Serialize)]
struct StateReport<'a> {
    data: &'a Path,
    #[serde(flatten)]
    decision: &'a Decision,
    warnings: Vec<&'a String>,
}

/// Tells what a data directory is, and what `run` would do.
///
/// # Errors
/// A directory that cannot be read; vaults that are not replicas of each other; an output that cannot be written.
pub fn state(config: &StartConfig, vaults: &VaultPool, console: &mut Console, ctx: &Context) -> Result<ProgramOutcome> {
    let gathered = facts::gather(|| vaults.sites(false), &config.options, &config.rules, ctx)?;
    let decision = decide(&gathered.facts, &config.rules);
    // The report says why, of a vault that decides.
    let untold = gathered.away.iter().filter(|away| !away.is_named_in(&decision.why)).map(|away| &away.told);
    untold.chain(&gathered.warnings).for_each(|what| tracing::warn!("{}", printable(what)));
    let warnings: Vec<_> = gathered.away.iter().map(|away| &away.told).chain(&gathered.warnings).collect();
    let data = &*config.options.data;
    let report = StateReport { data, decision: &decision, warnings };
    console.answer(&report, || view::state(&decision, data))?;
    Ok(match (decision.state, &decision.action) {
        (_, StartAction::Refuse { .. }) => ProgramOutcome::Failed,
        (_, StartAction::Restore { .. } | StartAction::Keep { .. }) => ProgramOutcome::NotWhole,
        (StartState::FirstStart, StartAction::Start { .. }) => ProgramOutcome::NothingYet,
        (_, StartAction::Start { .. }) => ProgramOutcome::Done,
    })
}

/// Marks a directory as data that an image brings along.
///
/// # Errors
/// As [`seed::mark`].
pub fn seed(data: &Path, console: &mut Console, ctx: &Context) -> Result<ProgramOutcome> {
    #[derive(Serialize)]
    struct SeedReport {
        data: PathBuf,
        files: u64,
        bytes: u64,
    }
    let seed = seed::mark(data, ctx)?;
    let report = SeedReport { data: data.to_owned(), files: seed.files, bytes: seed.bytes };
    console.report(&report, || view::seed(&seed, data));
    Ok(ProgramOutcome::Done)
}
