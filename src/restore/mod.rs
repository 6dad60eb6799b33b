//! Gets a snapshot back: chooses it, makes it in a staging folder, verifies every file, and only then puts it in place.
//!
//! ```text
//! select ──► plan: entries to windows ──► read: frames, ahead, each once ──► content: order and hash ──► write: staging
//!                                                             target, put: into place, noted in steps ◄──┘
//! ```
//!
//! The modules are listed in the order in which a restore uses them.

pub mod before_exchange;
pub mod options;
pub mod report;
pub mod select;
pub mod needed;
pub mod apart;
pub mod lock;
pub mod mounts;
pub mod in_place;
pub mod standing;
pub mod in_use;
pub mod target;
pub mod occupants;
pub mod preview;
pub mod attempt;
pub mod damaged;
pub mod locate;
pub mod plan;
pub mod missing;
pub mod window;
pub mod coalesce;
pub mod read;
pub mod content;
pub mod fill_staging;
pub mod file_book;
pub mod write;
pub mod open_files;
pub mod attributes;
pub mod capabilities;
pub mod stage;
pub mod ahead;
pub mod fill_ahead;
pub mod staging_names;
pub mod put;
pub mod side_files;
pub mod carried;
pub mod steps;
mod undo;
pub mod killed;

pub use self::attempt::Damaged;
use self::attempt::attempt;
use self::damaged::RestoreFailure;
pub use self::options::RestoreOptions;
pub use self::report::RestoreReport;
use self::select::{Choice, PassedOver, Unchosen};
use self::window::WindowLimits;
use crate::error::{Kind, Result};
use crate::monitor::Context;
use crate::panics;
use crate::vault::Vault;
use crate::vault::doubt::Doubts;

/// Restores a snapshot. The target is not touched before every file is there and verified.
///
/// Doubted packs that the snapshot needs are read whole before anything else. If one is damaged or missing, or turns
/// out to be so while it is read, the next older good snapshot whose packs are there is taken, unless the snapshot was
/// named or `skip_damaged` is set; the report says so. A snapshot that a newer lastgood wrote may be good, so nothing that is
/// older than it is taken unless it is named.
///
/// # Errors
/// Usage: no such snapshot, path or target. Damage, unless it is skipped. Failed: the store or the disk. In all of
/// these the target is as it was, except if an in-place restore was cut off by the disk itself: its marker is there
/// then. Unneeded: the condition in `options.only` is not met; nothing was changed.
pub fn restore(vault: &Vault, options: &RestoreOptions, ctx: &Context) -> Result<RestoreReport> {
    restore_within(vault, options, WindowLimits::suiting(&*vault.store, ctx), ctx)
}

fn restore_within(
    vault: &Vault,
    options: &RestoreOptions,
    limits: WindowLimits,
    ctx: &Context,
) -> Result<RestoreReport> {
    let (mut choice, mut doubts) = choose_with_doubts(vault, &options.snapshot).map_err(|unchosen| unchosen.why)?;
    let newest = choice.clone();
    let mut passed_over = Vec::new();
    tell_of_newer(&choice.passed_over, |what| ctx.monitor.warn(&what));
    let mut instead_of = select::newest_damaged(&choice.passed_over);
    let (mut first, mut first_untried) = (None, None);
    // Told when something older is restored: otherwise the error says it.
    let mut untold = None;
    loop {
        let (name, named) = (choice.name, choice.named || options.skip_damaged);
        passed_over.append(&mut choice.passed_over);
        let tested = Damaged::PassedOver;
        let failure = match attempt(vault, options, choice, (&mut doubts, tested), limits, ctx) {
            Ok(report) => {
                untold.iter().for_each(|what: &String| ctx.monitor.warn(what));
                if instead_of.is_some() {
                    ctx.monitor.warn(&format!("the snapshot {name}, which is older, is restored in its place"));
                }
                return Ok(RestoreReport { passed_over, instead_of, ..report });
            }
            Err(failure) => failure,
        };
        let RestoreFailure { why, wrong, untried } = failure;
        let over = damaged::passed_over(name, &wrong).filter(|_| !named);
        let untried = *first_untried.get_or_insert(untried);
        let next = if over.is_some() { damaged::older(vault, name)? } else { Err(None) };
        if let Err(Some(newer_format)) = next {
            ctx.monitor.warn(&damaged::nothing_older(name, newer_format));
        }
        let (Some(over), Ok(next)) = (over, next) else {
            if why.kind() != Kind::Damage {
                return Err(match first {
                    // The older one would go back behind what is there: the reason for doing nothing is that the newest
                    // is damaged.
                    Some(first) if why.kind() == Kind::Unneeded && options.only.older.is_some() => first,
                    _ => why,
                });
            }
            // If several are damaged, the newest is the one that was asked for. The parts of its packs that it needs
            // may be sound.
            if untried {
                let what = format!("{}; it was read anyway, because nothing else was left to try", why.what());
                let anyway = attempt(vault, options, newest, (&mut doubts, Damaged::Read), limits, ctx);
                if anyway.is_ok() {
                    ctx.monitor.warn(&what);
                }
                return anyway.map_err(|RestoreFailure { why, .. }| match first {
                    Some(first) if why.kind() != Kind::Unneeded => first,
                    _ => why,
                });
            }
            return Err(first.unwrap_or(why));
        };
        // Only the first is warned of here; the report lists the others.
        if instead_of.is_none() {
            tracing::info!("the snapshot {name} is damaged, and an older one is looked for");
            untold = Some(format!("the snapshot {name} is passed over: {}", over.why));
        }
        passed_over.push(over);
        instead_of.get_or_insert(name);
        first.get_or_insert(why);
        choice = next;
    }
}

/// Warns of newer snapshots that were not chosen: names the newest one, and says how many more there are.
pub fn tell_of_newer(passed_over: &[PassedOver], warn: impl FnOnce(String)) {
    if let Some((newest, more)) = passed_over.split_first() {
        let more = if more.is_empty() { String::new() } else { format!(", and so are {} more", more.len()) };
        warn(format!("the snapshot {} is passed over: {}{more}", newest.snapshot, newest.why));
    }
}

/// Restores one snapshot of a vault and no other. A caller that knows more vaults, or may choose, decides what comes next.
///
/// # Errors
/// As [`restore`]; the [`RestoreFailure`] says whether the snapshot's packs are the reason.
pub fn restore_chosen(
    vault: &Vault,
    options: &RestoreOptions,
    choice: Choice,
    from: (&mut Doubts, Damaged),
    ctx: &Context,
) -> Result<RestoreReport, RestoreFailure> {
    attempt(vault, options, choice, from, WindowLimits::suiting(&*vault.store, ctx), ctx)
}

/// Chooses the snapshot, and reads the doubts of the vault at the same time.
///
/// # Errors
/// As [`select::search`].
pub fn choose_with_doubts(vault: &Vault, snapshot: &str) -> Result<(Choice, Doubts), Unchosen> {
    let (choice, doubts) = std::thread::scope(|scope| {
        let doubts = scope.spawn(|| Doubts::read(&*vault.store));
        (select::search(vault, snapshot), doubts.join())
    });
    let doubts = doubts.map_err(|panic| panics::error("read the doubts about the vault's packs", &*panic));
    Ok((choice?, doubts?))
}

#[cfg(test)]
mod by_hand;

#[cfg(test)]
mod faulty;

#[cfg(test)]
mod hostile;

#[cfg(test)]
#[allow(missing_docs, reason = "for tests alone")]
pub mod sample;

#[cfg(test)]
#[allow(missing_docs, reason = "for tests alone")]
pub mod tests;
