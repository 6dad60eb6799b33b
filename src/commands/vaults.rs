//! The commands that may be about several vaults.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use lastgood::claims::ended_runs::ServedBefore;
use lastgood::claims::idempotent::{EventOutcome, once};
use lastgood::claims::lease::Claimant;
use lastgood::error::{Error, Kind, Result};
use lastgood::hooks::Hooks;
use lastgood::job::{self, FinishedJob, Job, Origin};
use lastgood::monitor::Context;
use lastgood::notify::Notifier;
use lastgood::parallel::ordered::map_ordered;
use lastgood::replicas;
use lastgood::replicas::copy::{self, copy_with, from_any};
use lastgood::replicas::pool::VaultPool;
use lastgood::replicas::verify::Verified;
use lastgood::report::{self, Action, Channel, EncodedReport, JobOutput, RunEnvironment, RunSummary};
use lastgood::restore::preview::Preview;
use lastgood::restore::{self, killed, needed, select};
use lastgood::runner::remote_worker::{self, WorkerOutcome};
use lastgood::store::address::Address;
use lastgood::vault::Vault;
use lastgood::vault::doubt::Doubts;
use lastgood::vault::pack::PackInfo;
use lastgood::verify::{Damage, VerifyReport};
use serde::Serialize;

use crate::config::DispatchedConfig;
use crate::console::Console;
use crate::{ProgramOutcome, absolute};
use lastgood::replicas::copy::Copied;
use lastgood::text::{count_of, printable};
use lastgood::view;

/// Damaged objects that are logged at most: the rest is in the report.
const DAMAGE: usize = 20;

/// The commands that may be about several vaults.
pub struct Commands<'v>(pub &'v VaultPool);

impl Commands<'_> {
    /// Makes a vault, and replicas of it.
    ///
    /// # Errors
    /// A place cannot be asked, or all places have a vault already.
    pub fn init(&self, console: &mut Console, ctx: &Context) -> Result<ProgramOutcome> {
        let (vault, places) = replicas::init(self.0.sites(true)?, ctx)?;
        let made = serde_json::json!({ "vault": places[0].vault, "id": vault.config.id, "vaults": places });
        console.report(&made, || view::init(&places));
        Ok(ProgramOutcome::Done)
    }

    /// Runs a job, reports how it ended, and notifies whom the configuration names. A backup as a task of a Cloud Run job is run
    /// once, however often that is tried. An attempt whose claim cannot be taken is a run that failed, and is reported like any
    /// other: nothing else would tell of it. One that finds another attempt at work is none, and that attempt's run is told.
    ///
    /// # Errors
    /// The job fails, or an attempt of the same task is not over.
    pub fn run(
        &self,
        job: Job,
        (place, notify, hooks): (RunEnvironment, Notifier, Hooks),
        exit_zero_on: &[report::Outcome],
        console: &mut Console,
        ctx: &Context,
    ) -> Result<ProgramOutcome> {
        let channel = if place.execution.is_some() { Channel::CloudRunJob } else { Channel::CommandLine };
        let origin = Origin { way: channel, events: Vec::new(), place, notify, hooks };
        let run = job::new_run(ctx)?;
        let backs_up = job.action() == Action::Backup;
        let ran = match Claimant::task(run, job.action(), &origin).filter(|_| backs_up) {
            None => {
                let ran = job::run(run, &job, origin, self.0, ctx);
                ran.notify(ctx);
                ran
            }
            Some(claimant) => {
                let work = |before| job::run(run, &job.clone().with_before_commit(before), origin.clone(), self.0, ctx);
                match once(self.0, &claimant, &origin, ctx, work) {
                    Ok(EventOutcome::Now(ran)) => *ran,
                    Ok(EventOutcome::Before(before)) => return served_before(&before, exit_zero_on, console),
                    Ok(EventOutcome::Elsewhere { run, .. }) => {
                        let why = format!("the run {run} of the same attempt of this task is not over");
                        return Err(Error::failed("back up", why).hint("Cloud Run's next attempt tries again."));
                    }
                    // No work has begun, so that nobody has been told of this run yet.
                    Err(why) => {
                        let ran = job::not_run(run, &job, origin.clone(), why, self.0, ctx);
                        ran.notify(ctx);
                        ran
                    }
                }
            }
        };
        let data = match &job {
            Job::Backup { options, .. } => absolute(&options.data),
            Job::Restore(_) | Job::Verify(_) => PathBuf::new(),
        };
        self.report_run(ran, &data, exit_zero_on, console)
    }

    /// Returns why a restore is not needed; `None` if it is, as far as can be told before it locks the target: then it asks again.
    ///
    /// # Errors
    /// The target cannot be looked at, or there is no snapshot where its time matters.
    pub fn unneeded(&self, options: &restore::options::RestoreOptions, ctx: &Context) -> Result<Option<String>> {
        let only = options.only;
        if !only.is_conditional() {
            return Ok(None);
        }
        let from = self.0.addresses().first().map(Address::absolute).unwrap_or_default();
        let there = needed::target_content_when_settled(options, &from, ctx)?;
        let newest = || replicas::restore::newest_of(self.0.sites(false)?, &options.snapshot, ctx);
        let unneeded = only.unneeded(&options.target, there, Timestamp::now(), newest)?;
        if unneeded.is_some() {
            // A restore that runs says this itself.
            killed::leftovers(&options.target).iter().for_each(|left| tracing::warn!("{left}"));
        }
        Ok(unneeded)
    }

    /// Reports what a restore would do.
    ///
    /// # Errors
    /// The restore could not begin.
    pub fn preview(
        &self,
        options: &restore::options::RestoreOptions,
        console: &mut Console,
        ctx: &Context,
    ) -> Result<ProgramOutcome> {
        let (vault, preview) = replicas::restore::preview(self.0.sites(false)?, options, ctx)?;
        let done = DryRunReport { vault, dry_run: true, preview };
        console.answer(&done, || view::preview(&done.preview, &done.vault, options.while_in_use))?;
        Ok(ProgramOutcome::Done)
    }

    /// Does what a service dispatched to this execution of a job.
    ///
    /// # Errors
    /// The run fails, or there is no request that can be carried out.
    pub fn dispatched(
        &self,
        config: &DispatchedConfig,
        exit_zero_on: &[report::Outcome],
        console: &mut Console,
        ctx: &Context,
    ) -> Result<ProgramOutcome> {
        match remote_worker::run(&config.claim, &config.rules, self.0, ctx)? {
            WorkerOutcome::Ran(ran) => {
                self.report_run(*ran, &absolute(&config.rules.backup.data), exit_zero_on, console)
            }
            WorkerOutcome::Before(before) => {
                if let Some(why) = before.report.as_ref().and_then(report::EncodedReport::error) {
                    let why = format!("the run {} ended for good: {}", before.run, printable(why));
                    return Err(Error::failed("do what was asked for", why));
                }
                tracing::warn!("the run {} has done it already; nothing is done again", before.run);
                if let Some(report) = before.report.as_ref().map(report::EncodedReport::value) {
                    console.report(&report, || view::run_report(&report, Timestamp::now()));
                }
                Ok(ProgramOutcome::Done)
            }
            WorkerOutcome::Nothing(why) => {
                tracing::warn!("nothing is done under the claim {}: {}", config.claim, printable(&why));
                Ok(ProgramOutcome::Done)
            }
        }
    }

    /// Reports how a run ended, and returns the exit code. `data` is the directory of a backup.
    fn report_run(
        &self,
        ran: FinishedJob,
        data: &Path,
        exit_zero_on: &[report::Outcome],
        console: &mut Console,
    ) -> Result<ProgramOutcome> {
        if let Some(why) = ran.error.as_ref().filter(|why| why.kind() == Kind::Unneeded) {
            return Ok(not_restored(why.why(), console));
        }
        let done = ran.into_output()?;
        match &done {
            JobOutput::Backup(done) => {
                view::not_good(&done.taken)
                    .iter()
                    .chain(&view::lacking_vaults(done))
                    .for_each(|l| tracing::error!("{l}"));
                console.report(done, || view::backup(done, data));
            }
            JobOutput::Restore(done) => {
                let left_out = &done.restored.not_restored;
                view::problem_lines("did not restore", left_out).iter().for_each(|line| tracing::error!("{line}"));
                if let Some(newer) = done.restored.instead_of {
                    let older = done.restored.snapshot;
                    tracing::error!(
                        "the restored snapshot {older} is older than {newer}, which could not be had whole"
                    );
                }
                let from = (self.0.addresses().len() > 1).then_some(&*done.vault);
                console.report(done, || view::restore(&done.restored, from, Timestamp::now()));
            }
            JobOutput::Verify(vaults) => {
                for Verified { vault, report, error, .. } in vaults {
                    error.iter().for_each(|why| tracing::error!("the vault {vault} is not verified: {why}"));
                    let newer = report.as_ref().map_or(0, |report| report.newer_format.len());
                    if newer > 0 {
                        let roots = count_of(newer as u64, "root");
                        tracing::error!(
                            "{roots} of a newer format in {vault}: a newer version of lastgood reads what it wrote"
                        );
                    }
                    // A user who wants errors only does not get the report, which says it otherwise.
                    if console.quiet() {
                        report.iter().for_each(|report| tell_damage(vault, report));
                    }
                }
                match &vaults[..] {
                    [Verified { report: Some(report), .. }] => console.report(report, || view::verify(report)),
                    _ => console.report(&serde_json::json!({ "vaults": vaults }), || view::verified(vaults)),
                }
            }
        }
        Ok(exit_outcome(done.outcome(), &done.shortcomings(), exit_zero_on))
    }

    /// Lists the runs of the first vault that opens, newest first; or shows one of them.
    ///
    /// # Errors
    /// No vault can be opened, or there is no such run.
    pub fn runs(
        &self,
        run: Option<&str>,
        limit: usize,
        console: &mut Console,
        ctx: &Context,
    ) -> Result<ProgramOutcome> {
        let vault = self.0.first(ctx)?;
        if let Some(run) = run {
            let report = report::find(&*vault.store, run)?;
            console.answer(&report, || view::run_report(&report, Timestamp::now()))?;
            return Ok(ProgramOutcome::Done);
        }
        let named = report::newest(&*vault.store, limit)?;
        let read = |named: &report::ReportName| report::read(&*vault.store, &named.object);
        if console.on_terminal() {
            let mut runs = Vec::with_capacity(named.len());
            map_ordered(&named, ctx.parallel, read, |named, report| {
                ctx.check("list the runs")?;
                match report {
                    Ok(report) => runs.push(RunSummary::of(&report)),
                    Err(why) => passed_over(named, &why),
                }
                Ok(())
            })?;
            console.print(&(), || view::runs_short(&runs, Timestamp::now()))?;
            return Ok(ProgramOutcome::Done);
        }
        let mut items = console.items();
        items.head(&view::runs_head())?;
        map_ordered(&named, ctx.parallel, read, |named, report| {
            ctx.check("list the runs")?;
            match report {
                Ok(report) => items.item(&report, |report| view::run(&RunSummary::of(report))),
                Err(why) => {
                    passed_over(named, &why);
                    Ok(())
                }
            }
        })?;
        items.end()?;
        Ok(ProgramOutcome::Done)
    }

    /// Copies snapshots from one place to another. Configured vaults are asked for no more than packs that are damaged in the
    /// first place. Where there is no vault to copy to, one is made if it may be.
    ///
    /// # Errors
    /// As [`copy`]. Also: there is no vault to copy from, or none to copy to and none may be made, or something else is there.
    pub fn copy(
        &self,
        (from, to): (&Address, &Address),
        may_make: bool,
        snapshots: &[String],
        console: &mut Console,
        ctx: &Context,
    ) -> Result<ProgramOutcome> {
        let mut source = Vault::find(self.0.store(from)?)?.map_err(|store| {
            let hint = "Check the address after --from. If it is on a volume, is the volume mounted?";
            Vault::missing(&*store).hint(hint)
        })?;
        source.user.host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut named = Vec::with_capacity(snapshots.len());
        for spec in snapshots {
            named.push(select::find(&source, spec)?.0);
        }
        let (target, made) = match Vault::find(self.0.store(to)?)? {
            Ok(vault) => (vault, false),
            Err(store) if !may_make => {
                return Err(Vault::missing(&*store).hint(
                    "Check the address after --to. If it is on a volume, is the volume mounted? `lastgood copy --init` makes the replica.",
                ));
            }
            Err(store) => {
                Vault::check_free(&*store)?;
                (source.replicate(store)?, true)
            }
        };
        let names = if snapshots.is_empty() { copy::lacking(&source, &target)? } else { named };
        // Opened where something is damaged, and not before.
        let others = OnceLock::new();
        let elsewhere =
            |pack: &PackInfo| from_any(others.get_or_init(|| self.replicas_but(&source, [from, to])).iter(), pack);
        let several = self.0.addresses().iter().any(|address| ![from, to].contains(&address));
        let report = copy_with(
            &source,
            (&target, &mut Doubts::read(&*target.store)),
            &names,
            several.then_some(&elsewhere),
            ctx,
        )?;
        let done = Copied { from: from.absolute(), to: to.absolute(), made, report };
        let newer = done.report.not_copied.iter().filter(|over| !over.damaged).count();
        if newer > 0 {
            let snapshots = count_of(newer as u64, "snapshot");
            tracing::error!(
                "{snapshots} of a newer format in {}: a newer version of lastgood reads what it wrote",
                done.from
            );
        }
        if console.quiet() {
            let over = done.report.not_copied.iter().filter(|over| over.damaged).chain(&done.report.hurt);
            over.for_each(|over| {
                tracing::error!("the snapshot {} is not whole in {}: {}", over.snapshot, done.to, printable(&over.why))
            });
        }
        console.report(&done, || view::copied(&done));
        Ok(match done.report.not_copied.is_empty() {
            _ if done.report.damaged() => ProgramOutcome::Damage,
            true => ProgramOutcome::Done,
            // A newer lastgood wrote them.
            false => ProgramOutcome::Failed,
        })
    }

    /// Returns the configured vaults that are replicas of `vault`, without those at `known` places. Others are passed over.
    fn replicas_but(&self, vault: &Vault, known: [&Address; 2]) -> Vec<Vault> {
        let others = self.0.addresses().iter().filter(|address| !known.contains(address));
        let opened = others.filter_map(|address| {
            let opened = self.0.store(address).and_then(Vault::open).and_then(|other| {
                vault.check_same(&other)?;
                Ok(other)
            });
            opened.inspect_err(|why| tracing::debug!("not asked for packs: {}", why.what())).ok()
        });
        opened.collect()
    }
}

/// Logs that a run's report cannot be read.
fn passed_over(named: &report::ReportName, why: &Error) {
    tracing::warn!("the run {} is passed over: {}", named.run, why.what());
}

/// Logs what is damaged in a vault, each object in a line, up to a number of lines.
fn tell_damage(vault: &str, report: &VerifyReport) {
    for Damage { object, why, .. } in report.damage.iter().take(DAMAGE) {
        // Most errors name the object themselves.
        let named = if why.contains(object.as_str()) { String::new() } else { format!("{}: ", printable(object)) };
        tracing::error!("damage in {}: {named}{}", printable(vault), printable(why));
    }
    if report.damage.len() > DAMAGE {
        tracing::error!(
            "{} damaged in {}; --json names them all",
            view::more_of(report.damage.len() - DAMAGE, "is", "are"),
            printable(vault)
        );
    }
}

/// Reports the snapshot that an earlier attempt took, and ends as that attempt did.
fn served_before(
    before: &ServedBefore,
    exit_zero_on: &[report::Outcome],
    console: &mut Console,
) -> Result<ProgramOutcome> {
    let report = before.report.clone().unwrap_or_else(|| EncodedReport::bare(before.run));
    // What cannot be read of it is told as what is not known.
    let (stored, told) = (report.stored(), report.summary().unwrap_or_default());
    let snapshot = told.snapshot.as_deref().unwrap_or("whose report is lost");
    let result = told.result.as_deref().unwrap_or("of unknown state");
    tracing::warn!(
        "an earlier attempt of this task committed the snapshot {}, which is {}; no second one is taken",
        printable(snapshot),
        printable(result)
    );
    let document = report.value();
    console.report(&document, || view::run_report(&document, Timestamp::now()));
    // A result that is not known is a newer program's; a snapshot was taken.
    let outcome = stored.result.unwrap_or(report::Outcome::Complete);
    Ok(exit_outcome(outcome, &stored.shortcomings(outcome), exit_zero_on))
}

/// Reports why nothing had to be restored.
pub fn not_restored(why: &str, console: &mut Console) -> ProgramOutcome {
    let skipped = serde_json::json!({ "snapshot": null, "skipped": why });
    console.report(&skipped, || format!("Nothing was restored: {}\n", printable(why)));
    ProgramOutcome::Done
}

/// Returns the exit code: 0 also if everything that a run fell short of is tolerated.
fn exit_outcome(
    outcome: report::Outcome,
    short: &[report::Outcome],
    exit_zero_on: &[report::Outcome],
) -> ProgramOutcome {
    if short.iter().all(|short| exit_zero_on.contains(short)) { ProgramOutcome::Done } else { outcome.into() }
}

/// The report of a restore that was only described.
#[derive(Serialize)]
struct DryRunReport {
    /// The vault that it would take the snapshot from.
    vault: String,
    /// Nothing was done.
    dry_run: bool,
    #[serde(flatten)]
    preview: Preview,
}
