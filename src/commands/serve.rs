//! `lastgood serve` and `lastgood listen`: threads and tasks of the service, from the first request or message to the last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use lastgood::error::{Code, Doing, Error, Result};
use lastgood::monitor::{LogMonitor, system_random};
use lastgood::replicas::pool::VaultPool;
use lastgood::runner::runner::Runner;
use lastgood::server::service::{self, Service, Unpullable};
use lastgood::shutdown::Shutdown;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::ProgramOutcome;
use crate::config::ServiceConfig;

/// Serves until a signal comes, then finishes what it can in the time that it has.
///
/// # Errors
/// The address cannot be listened at, the subscription cannot be pulled from, or the system gives no threads or no signals.
pub fn serve(
    service: ServiceConfig,
    vaults: Arc<VaultPool>,
    shutdown: &Shutdown,
    ignored: impl Fn(i32) -> bool,
) -> Result<ProgramOutcome> {
    let runtime = service::runtime()?;
    service.rules.backups_off.iter().for_each(|why| tracing::warn!("no snapshot is taken: {why}"));
    let runner =
        Arc::new(Runner::new(service.rules, vaults, Arc::new(LogMonitor), system_random, shutdown.stop().clone()));
    let serving = Service::open(service.serving, runner.clone(), &runtime)?;
    let (ended, mut work_ended) = oneshot::channel();
    let worker = runner.clone();
    // The sender is dropped in a panic, too. A receiver that has gone does not hear of it.
    let work = move || _ = ended.send(worker.work());
    thread::Builder::new().name("runner".into()).spawn(work).doing(|| "start the thread of the runs")?;
    let done = runtime.block_on(async {
        watch(shutdown, ignored)?;
        let both = serving.serve(shutdown, Unpullable::End);
        let mut both = std::pin::pin!(both);
        let (answered, pulled) = tokio::select! {
            both = &mut both => both,
            // The runner has ended: nothing can be run any more.
            finished = &mut work_ended => {
                // A signal sets the flag by itself; the task that begins the shutdown may hear of it later than the runner's
                // thread does.
                let was_stopped = shutdown.stop().load(Ordering::Relaxed);
                shutdown.begin();
                let (answered, pulled) = both.await;
                if !was_stopped {
                    return Err(Error::failed("serve", "the thread that runs what is asked for ended early")
                        .with_code(Code::Internal));
                }
                return Ok(answered & pulled? & finished.unwrap_or(false));
            }
        };
        let finished = tokio::time::timeout(shutdown.remaining(), work_ended)
            .await
            .is_ok_and(|finished| finished.unwrap_or(false));
        Ok(answered & pulled? & finished)
    });
    // A task that hangs is not waited for: the process ends.
    runtime.shutdown_timeout(Duration::ZERO);
    // Not before: with it go stores, which end threads of their own, and may not do that within an asynchronous task.
    drop(runner);
    match done? {
        true => {
            tracing::info!("ended: all that was asked for is answered");
            Ok(ProgramOutcome::Done)
        }
        false => {
            tracing::error!(
                "ended before all that was asked for was answered and reported in a vault: the time for that was over"
            );
            Ok(ProgramOutcome::Failed)
        }
    }
}

/// Begins the shutdown at the first SIGTERM, SIGINT or SIGHUP; `ignored` says whether a signal was to be ignored when the program was
/// started, as `nohup` has it with SIGHUP: those stay ignored.
fn watch(shutdown: &Shutdown, ignored: impl Fn(i32) -> bool) -> Result<()> {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    for kind in kinds.into_iter().filter(|kind| *kind != SignalKind::hangup() || !ignored(kind.as_raw_value())) {
        let (mut signals, shutdown) = (signal(kind).doing(|| "watch for signals")?, shutdown.clone());
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                tracing::info!("told to stop");
                shutdown.begin();
            }
        });
    }
    Ok(())
}
