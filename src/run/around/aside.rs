//! What is to be saved before a restore replaces it, and was saved before; and what was written until the restore replaced it.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::Around;
use crate::backup::options::BackupOptions;
use crate::error::{Code, Error, Kind, Result};
use crate::monitor::Context;
use crate::replicas::pin::PINNED;
use crate::start::facts::Gathered;
use crate::start::known::DirectoryContent;
use crate::start::late::{self, HeldBy};
use crate::start::saved;
use crate::vault::pins::{self, MAX_PIN, PINS, Pin};
use crate::vault::root::SnapshotName;

/// A pin that ends later than this before a new one would is left as it is: an app that fails at each start must not fill
/// the vault with pins either.
const LATE_ENOUGH: SignedDuration = SignedDuration::from_hours(24);

impl Around {
    /// Returns the snapshot that holds the directory already, as one that has diverged, and which is pinned for as long as a
    /// new one would be. `None` if there is none, or if that cannot be told: then the directory is saved.
    pub(super) fn saved_before(&self, why: &str, ctx: &Context) -> Option<SnapshotName> {
        let found = self.find_saved(ctx).and_then(|found| {
            let Some(found) = found else { return Ok(None) };
            if !self.is_pinned_long(found)? {
                self.pin(found, why, ctx)?;
            }
            Ok(Some(found))
        });
        found.unwrap_or_else(|why| {
            tracing::warn!("whether this was saved before cannot be told, and it is saved: {}", why.what());
            None
        })
    }

    /// Saves what was written to the directory before a restore moved it `aside`, and after it was looked at or saved: a program that is
    /// not the app's may write at any time. Most directories are not written to meanwhile, and are only compared with what holds them.
    /// Returns what somebody should know, which the log says, too; no error of this keeps the app from starting.
    pub(super) fn save_late(&self, held: HeldBy, aside: Option<&Path>, why: &str, ctx: &Context) -> Option<String> {
        let aside = aside?;
        let since = match held {
            HeldBy::Taken(saved) => format!("after {saved} was taken and before the restore"),
            HeldBy::Compared(_) | HeldBy::Image | HeldBy::Restored(_) => {
                "after the directory was looked at and before the restore".into()
            }
        };
        let found = self
            .vaults
            .sites(false)
            .and_then(|sites| late::written_since(&sites, &self.settings.look, (held, aside), ctx));
        let only_there = |is: &str, why: &Error| format!("{is} is only in {} now: {}", aside.display(), why.what());
        let told = match found {
            Ok(named) if named.is_empty() => return None,
            // No vault takes it now.
            Err(why) if why.kind() == Kind::Unreachable || why.code() == Code::Stopped => {
                only_there(&format!("what was written {since}, if anything was,"), &why)
            }
            found => {
                let named = found.map_or_else(|why| why.what(), |named| named.join(", "));
                let is = format!("what was written, or may have been, {since} ({named})");
                let kept = self.save_aside_of(aside, why, ctx).and_then(|late| self.pin(late, why, ctx).map(|()| late));
                match kept {
                    Ok(late) => format!("{is} is saved as the snapshot {late}, which is never restored by itself"),
                    Err(why) => only_there(&is, &why),
                }
            }
        };
        tracing::warn!("{told}");
        Some(told)
    }

    fn save_aside_of(&self, aside: &Path, why: &str, ctx: &Context) -> Result<SnapshotName> {
        if self.settings.detached {
            return Err(Error::failed("save what was written before the restore", "with --detached nothing is saved"));
        }
        let (data, diverged) = (aside.to_owned(), Some(why.to_owned()));
        let options = BackupOptions { data, diverged, accept_missing: true, ..self.backup_options() };
        self.save(options, "save what was written before the restore", |_| true, ctx)
    }

    fn find_saved(&self, ctx: &Context) -> Result<Option<SnapshotName>> {
        let filters = self.settings.rules.backup.filters();
        saved::saved_before(&self.vaults.sites(false)?, &self.settings.look, &filters, ctx)
    }

    /// Whether every vault that answers has a pin of a snapshot that ends about when a new one would.
    fn is_pinned_long(&self, name: SnapshotName) -> Result<bool> {
        let enough = Timestamp::now().saturating_add(PINNED).unwrap_or(Timestamp::MAX);
        let enough = enough.saturating_sub(LATE_ENOUGH).unwrap_or(Timestamp::MIN);
        for site in self.vaults.sites(false)? {
            let Ok(vault) = site.vault() else { continue };
            let listed = vault.store.list(PINS).map_err(|why| why.while_doing("list the pins"))?;
            let mut ours = listed.iter().filter(|object| pins::pinned(&object.name) == Some(name));
            let is_long = |object: &str| {
                let pin = vault.store.get(object, MAX_PIN).ok().and_then(|bytes| Pin::parse(object, &bytes).ok());
                pin.is_some_and(|pin| pin.until >= enough)
            };
            if !ours.any(|object| is_long(&object.name)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What holds the directory that a restore at a start has replaced: the snapshot that was `saved` of it before, or else what it was compared
/// with. `None` for one that a restore had filled in part: no backup takes it.
pub(super) fn held_by(saved: Option<SnapshotName>, gathered: &Gathered, restored: SnapshotName) -> Option<HeldBy> {
    let is_filled = gathered.facts.content == DirectoryContent::Filled;
    match (saved, gathered.compared_with) {
        _ if gathered.facts.content == DirectoryContent::HalfRestored => None,
        (Some(saved), _) => Some(HeldBy::Taken(saved)),
        (None, _) if is_filled && gathered.facts.is_seed() => Some(HeldBy::Image),
        (None, Some(compared)) if is_filled => Some(HeldBy::Compared(compared)),
        (None, _) => Some(HeldBy::Restored(restored)),
    }
}
