//! What is done before an epoch is taken: the directory is looked at, and where another instance has to be waited for and the newest
//! snapshot will be restored, its files are made in staging meanwhile ([`ahead`](crate::restore::ahead)).
//!
//! The old instance's app runs on while they are made. Between the end of that app and the start of the new one, the restore then
//! makes only what has changed since. All is decided anew once the epoch is held: what was made beforehand is used only if the
//! newest snapshot of then is restored beside the directory, and is removed otherwise. A failure of it is a note in the log, since the
//! restore that follows does without.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use indicatif::BinaryBytes;

use super::Around;
use crate::epochs::driver::{Begun, EpochDriver, Start};
use crate::error::{Code, Error, Kind, Result};
use crate::fs::filesystem;
use crate::job::Job;
use crate::lineage;
use crate::monitor::Context;
use crate::replicas;
use crate::replicas::restore::ReplicatedRestoreReport;
use crate::report::JobOutput;
use crate::restore::ahead::FilledAhead;
use crate::restore::options::RestoreOptions;
use crate::restore::stage;
use crate::start::decide::{OnUnreachable, StartAction};
use crate::start::known::VaultFacts;
use crate::text::count_of;

/// What is known, and there, before an epoch is taken.
#[derive(Default)]
pub(super) struct Beforehand {
    /// Why no epoch can be taken, if that shows.
    pub away: Option<String>,
    /// Whether the newest snapshot is to be restored, as it looks.
    restores: bool,
    /// What a vault has told that forbids to start the app on what is there once that vault does not answer any more.
    pub told: Option<String>,
    /// Its files, and how long it took to make them, in seconds.
    ahead: Option<(Arc<FilledAhead>, f64)>,
}

impl Beforehand {
    /// What is known where the epoch is held already.
    pub fn of_returned() -> Self {
        Beforehand { told: Some("another instance may have gone on since".into()), ..Beforehand::default() }
    }

    /// Notes that another instance may run, by what was seen when this one asked for an epoch.
    fn note_live(&mut self, driver: &EpochDriver) {
        if let Some(live) = driver.saw_live() {
            self.told = Some(format!("the instance of epoch {live} had not told its end"));
        }
    }

    /// Removes what is left over of the files, and what killed restores of the directory have left, in a thread of its own: nothing is to
    /// wait for it. If this program ends before that, the next start removes it.
    pub fn remove_left_over(&mut self, data: PathBuf) {
        let ahead = self.ahead.take();
        let remove = move || {
            drop(ahead);
            stage::sweep(&data).iter().for_each(|left| tracing::warn!("{left}"));
        };
        // Without a thread, the files are removed here, when the closure is dropped.
        if let Err(why) = thread::Builder::new().name("staged".into()).spawn(remove) {
            tracing::debug!("no thread for what is left in staging: {why}");
        }
    }
}

impl Around {
    /// Looks at the directory before an epoch is taken, and refuses where the app would not be started anyway: an epoch would stop
    /// another instance's app in vain. All is decided once more when the epoch is held.
    pub(super) fn refuse_beforehand(&self, ctx: &Context) -> Result<Beforehand> {
        let (decision, gathered) = self.look_beforehand(ctx)?;
        self.heard_of_damage(&gathered)?;
        let fails = self.settings.start.on_unreachable == Some(OnUnreachable::Fail);
        let mut before = Beforehand::default();
        match (&decision.action, gathered.facts.vault) {
            // That has an error of its own.
            (_, VaultFacts::Unreachable { .. }) if fails => {}
            (StartAction::Refuse { advice }, _) => return Err(self.refusal(&decision, advice)),
            (_, VaultFacts::Unreachable { why, .. }) => before.away = Some(why),
            (StartAction::Restore { named, .. }, _) => {
                before.restores = !named;
                before.told = Some(format!(
                    "a moment ago, a snapshot was to be restored, since the state of the data was `{}`: {}",
                    decision.state, decision.why
                ));
            }
            _ => {}
        }
        let in_place =
            || self.settings.rules.restore.in_place || filesystem::is_mount(&self.settings.data).unwrap_or(false);
        // A directory that is exchanged takes what is in the way along.
        if !matches!(decision.action, StartAction::Restore { .. }) || in_place() {
            lineage::check_place(&self.settings.data)?;
        }
        Ok(before)
    }

    /// Whether another instance has an epoch, now that this one has ended its own: it came after that, and its app is about to start, or
    /// runs. One that was begun here would stop it. `false` if that cannot be told: it shows when an epoch is taken.
    pub(super) fn is_followed(&self, ctx: &Context) -> bool {
        let look = || -> Result<bool> {
            let options = self.epoch_options(self.try_to_lock()?, ctx)?;
            self.epoch_driver(self.vaults.sites(false)?, options).would_wait(ctx)
        };
        look().unwrap_or(false)
    }

    /// Takes an epoch, and waits until all before it have ended. `None` if the vault does not answer, and that may be so.
    pub(super) fn take_epoch(&self, before: &mut Beforehand, ctx: &Context) -> Result<Option<Start>> {
        // If the lock is free, whoever ran here is gone, and its app, which had inherited it.
        let options = self.epoch_options(self.try_to_lock()?, ctx)?;
        self.term.name_run(options.run);
        let driver = Arc::new(self.epoch_driver(self.vaults.sites(false)?, options));
        // If the vault does not answer, that shows below.
        if before.restores && before.ahead.is_none() && driver.would_wait(ctx).unwrap_or(false) {
            before.ahead = self.restore_ahead(ctx);
            ctx.check("take an epoch")?;
        }
        match driver.begin(ctx) {
            Ok(start) => {
                let begun = match start {
                    Start::Begun(begun) => {
                        tracing::info!("this instance is of epoch {}", begun.epoch);
                        begun
                    }
                    // It is kept all the same: by it, this instance sees when it is needed again.
                    Start::Superseded { .. } => Begun { epoch: driver.epoch().unwrap_or_default(), forced: false },
                };
                // The vault may still fail before the directory is decided about.
                before.note_live(&driver);
                self.term.hold(driver, begun);
                Ok(Some(start))
            }
            Err(why) => {
                // It may have been taken all the same, and is ended then.
                if why.code() == Code::Stopped || driver.is_begun() {
                    let epoch = driver.epoch().unwrap_or_default();
                    self.term.hold(driver.clone(), Begun { epoch, forced: false });
                }
                before.note_live(&driver);
                let is_away = why.kind() == Kind::Unreachable || why.code() == Code::NoVault;
                let cannot_write = matches!(why.code(), Code::DiskFull | Code::ReadOnly);
                // One that cannot be written to has told all, and what it has can be restored.
                let told = before.told.as_ref().filter(|_| is_away || driver.saw_live().is_some());
                match (told, self.settings.start.on_unreachable) {
                    (_, Some(OnUnreachable::Fail)) if why.code() != Code::NoVault => Err(why),
                    (Some(told), None) if is_away || cannot_write => Err(self.gone_meanwhile(told, &why.what())),
                    // What the directory is decides then, and what the other vaults tell of it.
                    _ if is_away || cannot_write => Ok(self.without_epoch(&why.what())),
                    _ => Err(why),
                }
            }
        }
    }

    /// The error that what a vault has told of the directory, or of other instances, forbids to start the app without that vault.
    pub(super) fn gone_meanwhile(&self, told: &str, why: &str) -> Error {
        let doing = format!("start the app on {}", self.settings.data.display());
        Error::unreachable(doing, format!("{told}. Now no epoch can be taken: {why}"))
            .hint("Start it again when the vault answers and can be written to. `--on-unreachable start` starts the app all the same.")
    }

    /// Makes the files of the newest snapshot in staging. `None` if that fails, or is not possible.
    fn restore_ahead(&self, ctx: &Context) -> Option<(Arc<FilledAhead>, f64)> {
        let mut options = RestoreOptions { snapshot: "latest".into(), ..self.settings.rules.restore.clone() };
        options.in_place |= filesystem::is_mount(&options.target).unwrap_or(false);
        tracing::info!(
            "another instance runs the app: meanwhile the newest snapshot is restored beside the data directory"
        );
        let began = Instant::now();
        let filled = self.vaults.sites(false).and_then(|sites| replicas::restore::fill_ahead(sites, &options, ctx));
        match filled {
            Ok(ahead) => {
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!("{} is restored beside the data directory, in {seconds:.1} s", ahead.snapshot);
                Some((Arc::new(ahead), seconds))
            }
            Err(why) => {
                tracing::info!("nothing is restored before the other instance has ended: {}", why.what());
                None
            }
        }
    }

    /// Restores at a start, with what was made beforehand.
    pub(super) fn restore_at_start(
        &self,
        options: RestoreOptions,
        before: &Beforehand,
        ctx: &Context,
    ) -> Result<ReplicatedRestoreReport> {
        let restore = |ahead| match self.run_job(&Job::Restore(RestoreOptions { ahead, ..options.clone() }), ctx)? {
            JobOutput::Restore(done) => Ok(*done),
            JobOutput::Backup(_) | JobOutput::Verify(_) => {
                Err(Error::failed("restore", "the run was another one").with_code(Code::Internal))
            }
        };
        let Some((ahead, seconds)) = &before.ahead else { return restore(None) };
        match restore(Some(ahead.clone())) {
            Ok(mut done) => {
                let (files, bytes) = ahead.taken();
                let read = BinaryBytes(done.restored.bytes.saturating_sub(bytes));
                tracing::info!(
                    "{} with {} had been restored before the other instance ended; {read} were read since",
                    count_of(files, "file"),
                    BinaryBytes(bytes)
                );
                // A platform that limits the time of a start counts all of it.
                done.restored.seconds += seconds;
                Ok(done)
            }
            // There may be room for one of them.
            Err(why) if why.code() == Code::DiskFull => {
                tracing::warn!("the files that were restored beforehand are removed, since the disk is full");
                ahead.remove();
                restore(None)
            }
            Err(why) => Err(why),
        }
    }
}
