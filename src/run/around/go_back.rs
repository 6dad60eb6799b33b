//! The newest snapshot is to be restored over data that is there, and is damaged.
//!
//! A machine without data starts with the next older good snapshot that is whole: the restore goes on to it by itself. Over data, that
//! could go back behind what is there, or replace it by something that it holds already. So it is decided once more, as if the damaged
//! snapshot were not there ([`gather_below`](facts::gather_below)):
//!
//! | the directory, beside the next older good snapshot | `run` |
//! |---|---|
//! | is fresh or ahead: it comes from that snapshot, or from one that is newer, or equals it | starts the app on it |
//! | is anything else | saves it first, and restores that snapshot; if that is damaged, too, decides once more, without it |
//!
//! The directory that the app starts on so becomes the newest snapshot before the app runs, as with `--on-diverged keep`, and the damaged
//! one is pinned: what can be read of it can still be had. Otherwise the next start would find a stale directory once more, and one on
//! another machine would start with something older.
//!
//! The snapshot that an instance commits once more at its start is no newer state than the one that it repeats. Where the directory comes
//! from the one that is repeated, it holds the other one, too.
//!
//! A directory that is only stale is saved as well, although a snapshot holds it: that one may share the damage.
//!
//! It is the same if the root of the newest snapshot is damaged, which is known before anything is decided.
//!
//! Nothing of this holds for a snapshot that `--snapshot` names and that is not older than the damaged one, nor while a vault that may have
//! the newest one whole does not answer, nor where no older good snapshot is left: the app is not started then, and the error says what is
//! wrong with the newest.

use std::cell::Cell;

use super::Around;
use super::ahead::Beforehand;
use super::begin::Prepared;
use crate::backup::BackupReport;
use crate::epochs::driver::Begun;
use crate::error::{Code, Error, Kind, Result};
use crate::monitor::Context;
use crate::start::decide::{Decision, OnUnreachable, SaveReason, StartAction, StartState, decide};
use crate::start::facts::{self, DamagedRoot, Gathered};
use crate::start::known::{DirectoryContent, NamedSnapshot, VaultFacts};
use crate::vault::root::SnapshotName;

impl Around {
    /// Does what was decided; if the snapshot that is to be restored over data turns out to be damaged, what is decided without it.
    pub(super) fn carry_out_or_go_back(
        &self,
        (mut decision, mut gathered): (Decision, Gathered),
        (begun, before): (Option<Begun>, &Beforehand),
        ctx: &Context,
    ) -> Result<Prepared> {
        // The newest, and why it is not restored.
        let mut first = self.damaged_root(&gathered)?;
        // Without data, the restore itself goes on to an older one, and that is told and pinned where it ends. One that is named it takes as
        // it is.
        let goes_on = matches!(decision.action, StartAction::Restore { named: false, .. });
        first = first.filter(|_| gathered.facts.content == DirectoryContent::Filled || !goes_on);
        loop {
            let is_filled = gathered.facts.content == DirectoryContent::Filled;
            if let Some((newest, _)) = first.as_ref().filter(|_| is_filled) {
                match &mut decision.action {
                    StartAction::Start { .. } => return self.go_on_here(*newest, (&decision, &gathered), begun, ctx),
                    StartAction::Restore { save_first: save @ None, named: false, .. }
                        if decision.state == StartState::Stale && !self.settings.detached =>
                    {
                        *save = Some(SaveReason::Broken);
                    }
                    _ => {}
                }
            }
            let (damaged, why) = match (self.carry_out(&decision, &gathered, (begun, before), ctx), &decision.action) {
                (Err(why), StartAction::Restore { snapshot, named: false, .. }) if is_damaged(&why) && is_filled => {
                    (*snapshot, why)
                }
                (done, _) => {
                    let done = done?;
                    if let (Some((newest, _)), Some(from)) = (first, restored(&decision).or(done.from)) {
                        tracing::error!(
                            "the app starts with the snapshot {from}, which is older than {newest}: that one is damaged"
                        );
                        self.pin_damaged(newest, begun, ctx)?;
                    }
                    return Ok(done);
                }
            };
            let (look, rules) = (&self.settings.look, &self.settings.start);
            let older = facts::gather_below(|| self.vaults.sites(false), look, rules, Some(damaged), ctx)?;
            if !matches!(older.facts.vault, VaultFacts::Good(_) | VaultFacts::Unreachable { good: Some(_), .. }) {
                return Err(why);
            }
            tracing::error!(
                "the snapshot {damaged} is damaged, and it is decided once more without it: {}",
                why.what()
            );
            first = first.or(Some((damaged, why)));
            (decision, gathered) = self.decide_upon(older)?;
        }
    }

    /// Decides by what is known; tells what.
    pub(super) fn decide_upon(&self, gathered: Gathered) -> Result<(Decision, Gathered)> {
        let settings = &self.settings;
        let decision = decide(&gathered.facts, &settings.start);
        // A refusal is the error at the end, and says why; that no epoch can be taken was told with the reason.
        let is_refused = matches!(decision.action, StartAction::Refuse { .. });
        let is_told = is_refused || decision.state == StartState::Unreachable && self.term.is_without_epoch();
        let untold = gathered.away.iter().filter(|away| !is_told || !away.is_named_in(&decision.why));
        untold.for_each(|away| tracing::warn!("{}", away.told));
        gathered.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let (data, state) = (settings.data.display(), decision.state.in_a_sentence());
        match is_told {
            true => tracing::info!("the data in {data} is {state}"),
            false => tracing::info!("the data in {data} is {state}: {}", decision.why),
        }
        let compared = decision.compared.iter().map(|line| line.strip_prefix("compared ").unwrap_or(line));
        compared.for_each(|line| tracing::info!("compared: {line}"));
        Ok((decision, gathered))
    }

    /// Returns the newest snapshot, if its root is damaged, and tells that.
    pub(super) fn damaged_root(&self, gathered: &Gathered) -> Result<Option<(SnapshotName, Error)>> {
        let Some(DamagedRoot { over, .. }) = self.heard_of_damage(gathered)? else { return Ok(None) };
        let why = Error::damage(format!("use the snapshot {}", over.snapshot), &over.why);
        tracing::error!("the newest snapshot is damaged, and it is decided without it: {}", why.what());
        Ok(Some((over.snapshot, why)))
    }

    /// Returns the newest snapshot, if its root is damaged. `None` also where that one or a newer one is named: a name that is left in a
    /// command does not undo what was saved since.
    ///
    /// # Errors
    /// A vault was not heard that may have it whole: an app that goes on from an older one would hide it for good.
    pub(super) fn heard_of_damage<'a>(&self, gathered: &'a Gathered) -> Result<Option<&'a DamagedRoot>> {
        let rules = &self.settings.start;
        let is_named = |damaged: &DamagedRoot| match gathered.facts.named {
            Some(NamedSnapshot::Found(named)) => named >= damaged.over.snapshot,
            Some(NamedSnapshot::NotFound(_)) | None => false,
        };
        let Some(damaged) = gathered.damaged.as_ref().filter(|damaged| !is_named(damaged)) else { return Ok(None) };
        let DamagedRoot { over, unheard } = damaged;
        let doing = format!("start the app on {}", self.settings.data.display());
        if let Some(unheard) = unheard.as_ref().filter(|_| rules.on_unreachable != Some(OnUnreachable::Start)) {
            let why = format!(
                "the snapshot {} is damaged: {}. Another vault could not be asked, and may have the snapshot whole: {unheard}",
                over.snapshot, over.why
            );
            return Err(Error::damage(doing, why).with_code(Code::Unreachable).hint(
                "Start it again when all vaults can be used. With `--on-unreachable start` it goes on from what is older.",
            ));
        }
        Ok(Some(damaged))
    }

    /// Starts on a directory that holds more than any snapshot that could be restored: it becomes the newest, unless its snapshot is one that
    /// nobody would restore unasked, as it has lost so much or was not read to its end. Whether the damaged one was accepted like that is not
    /// known.
    fn go_on_here(
        &self,
        damaged: SnapshotName,
        (decision, gathered): (&Decision, &Gathered),
        begun: Option<Begun>,
        ctx: &Context,
    ) -> Result<Prepared> {
        tracing::error!(
            "the app starts on the data in {}: the snapshot {damaged}, which is newer, is damaged, and no other one that is newer than \
             this data is whole ({})",
            self.settings.data.display(),
            decision.why
        );
        if self.settings.detached || begun.is_none() {
            return Ok(Prepared { from: None, is_ours: false, save: false });
        }
        self.pin_damaged(damaged, begun, ctx)?;
        let is_good = Cell::new(false);
        let take = |taken: &BackupReport| {
            is_good.set(taken.good);
            true
        };
        let saved = self.save(self.backup_options(), "save the data that the app starts on", take, ctx)?;
        let from = match gathered.facts.vault {
            VaultFacts::Good(good) if !is_good.get() => Some(good),
            _ => Some(saved),
        };
        Ok(Prepared { from, is_ours: is_good.get(), save: false })
    }

    /// Keeps a damaged snapshot for as long as what it replaced is kept.
    pub(super) fn pin_damaged(&self, damaged: SnapshotName, begun: Option<Begun>, ctx: &Context) -> Result<()> {
        if self.settings.detached || begun.is_none() {
            return Ok(());
        }
        self.pin(damaged, "it was the newest, and is damaged: what can be read of it may still be wanted", ctx)
    }
}

/// The snapshot that is restored by a decision.
fn restored(decision: &Decision) -> Option<SnapshotName> {
    match decision.action {
        StartAction::Restore { snapshot, .. } => Some(snapshot),
        _ => None,
    }
}

/// Whether a restore failed since the snapshot is damaged, and no vault may have it whole that could not be asked.
fn is_damaged(why: &Error) -> bool {
    why.kind() == Kind::Damage && why.code() != Code::Unreachable
}
