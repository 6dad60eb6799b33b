//! `lastgood serve` and `lastgood listen`: threads and tasks of the service, from the first request or message to the last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use lastgood::error::{Code, Doing, Error, Result};
use lastgood::gcp::cloud::Cloud;
use lastgood::monitor::{LogMonitor, system_random};
use lastgood::replicas::pool::VaultPool;
use lastgood::runner::runner::Runner;
use lastgood::server::auth::Authorizer;
use lastgood::server::{self, Server};
use lastgood::shutdown::Shutdown;
use lastgood::subscriber;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::ProgramOutcome;
use crate::config::{HttpConfig, ServiceConfig};

/// The number of threads for work that blocks: more than [`server::ServerLimits`] lets clients use at the same time, with some
/// for the health checks.
const BLOCKING: usize = 24;

/// Serves until a signal comes, then finishes what it can in the time that it has.
///
/// # Errors
/// The address cannot be listened at, the subscription cannot be pulled from, or the system gives no threads or no signals.
pub fn serve(
    service: ServiceConfig,
    vaults: Arc<VaultPool>,
    cloud: &Cloud,
    shutdown: &Shutdown,
) -> Result<ProgramOutcome> {
    let runtime = runtime()?;
    service.rules.backups_off.iter().for_each(|why| tracing::warn!("no snapshot is taken: {why}"));
    let runner =
        Arc::new(Runner::new(service.rules, vaults, Arc::new(LogMonitor), system_random, shutdown.stop().clone()));
    let http = service.http.map(|http| bind(http, &runner, &runtime)).transpose()?;
    let (ended, mut work_ended) = oneshot::channel();
    let worker = runner.clone();
    // The sender is dropped in a panic, too. A receiver that has gone does not hear of it.
    let work = move || _ = ended.send(worker.work());
    thread::Builder::new().name("runner".into()).spawn(work).doing(|| "start the thread of the runs")?;
    let done = runtime.block_on(async {
        watch(shutdown)?;
        // HTTP, pulling or both are served; all end together.
        let asked = async {
            match http {
                Some((listener, server)) => server::serve(listener, server, shutdown).await,
                None => true,
            }
        };
        let pulled = async {
            let Some(settings) = &service.pull else { return Ok(true) };
            let pulled = subscriber::pull(&runner, cloud, settings, shutdown).await;
            if pulled.is_err() {
                shutdown.begin();
            }
            pulled
        };
        let both = async { tokio::join!(asked, pulled) };
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

/// Listens at the address, and creates the server that answers there.
fn bind(http: HttpConfig, runner: &Arc<Runner>, runtime: &Runtime) -> Result<(TcpListener, Arc<Server>)> {
    let auth = Authorizer::new(http.auth)?;
    let listener = runtime
        .block_on(TcpListener::bind(http.listen))
        .doing(|| format!("listen on {}", http.listen))
        .map_err(|why| {
            why.hint("Is it this machine's address, and is no other service there? `--listen ADDR` names another one.")
        })?;
    let address = listener.local_addr().doing(|| "find out the address that it listens on")?;
    tracing::info!("listening on {address}");
    Ok((listener, Arc::new(Server::new(runner.clone(), address, auth, http.settings))))
}

fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(BLOCKING).enable_all();
    builder.build().doing(|| "start the service's threads")
}

/// Begins the shutdown at the first SIGTERM or SIGINT.
fn watch(shutdown: &Shutdown) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
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
