//! `doctor`: what could stand in the way of a backup or a restore.

use lastgood::doctor::check::DoctorSettings;
use lastgood::error::Result;
use lastgood::monitor::Context;
use lastgood::{doctor, view};

use crate::ProgramOutcome;
use crate::console::Console;

/// Runs all checks and reports what they found; with `-q`, only what stops something.
///
/// # Errors
/// Checks that end in a panic; an output that cannot be written.
pub fn doctor(settings: &DoctorSettings, console: &mut Console, ctx: &Context) -> Result<ProgramOutcome> {
    let report = match settings.only_age {
        true => doctor::examine_age(settings, ctx)?,
        false => doctor::examine(settings, ctx)?,
    };
    // Whoever reads a schedule's log reads no table.
    if console.quiet() || (settings.only_age && console.json_log()) {
        view::doctor_problems(&report).iter().for_each(|line| tracing::error!("{line}"));
    }
    let columns = if console.on_terminal() { view::DOCTOR_NARROW } else { view::DOCTOR_WIDTH };
    console.answer(&report, || match settings.only_age {
        true => view::doctor_age(&report, columns),
        false => view::doctor(&report, columns),
    })?;
    Ok(if report.problems == 0 { ProgramOutcome::Done } else { ProgramOutcome::Failed })
}
