//! `lastgood serve`: threads and tasks of the service, from the first request to the last.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lastgood::error::{Doing, Error, Result};
use lastgood::monitor::{Log, system_random};
use lastgood::replicas::vaults::Vaults;
use lastgood::trigger::auth::Auth;
use lastgood::trigger::desk::Desk;
use lastgood::trigger::ending::Ending;
use lastgood::trigger::http::{self, Server};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::Outcome;
use crate::config::Service;

/// Threads that do what blocks.
const BLOCKING: usize = 16;

/// Serves until a signal comes; then finishes what it can in the time that it has.
///
/// # Errors
/// An address that cannot be listened at; a system that gives no threads or no signals.
pub fn serve(service: Service, vaults: Arc<Vaults>, ending: &Ending) -> Result<Outcome> {
    let runtime = runtime()?;
    let auth = Auth::new(service.auth)?;
    let desk = Arc::new(Desk::new(service.rules, vaults, Arc::new(Log), system_random, ending.stop().clone()));
    let listener = runtime
        .block_on(TcpListener::bind(service.listen))
        .doing(|| format!("listen at {}", service.listen))
        .map_err(|why| why.hint("Is another service there? `--listen ADDR` names another address."))?;
    let address = listener.local_addr().doing(|| "find out the address")?;

    let (ended, mut work_ended) = oneshot::channel::<()>();
    let worker = desk.clone();
    let work = move || {
        // Dropped in a panic, too.
        let _ended = ended;
        worker.work();
    };
    thread::Builder::new().name("desk".into()).spawn(work).doing(|| "start a thread")?;
    let server = Arc::new(Server::new(desk, auth, service.settings));
    tracing::info!("listening on {address}");
    let done = runtime.block_on(async {
        watch(ending)?;
        let mut served = std::pin::pin!(http::serve(listener, server, ending));
        let answered = tokio::select! {
            answered = &mut served => answered,
            // Nothing can be run any more.
            _ = &mut work_ended => {
                let told = ending.left() < lastgood::trigger::ending::TIME;
                ending.begin();
                let answered = served.await;
                if !told {
                    return Err(Error::failed("serve", "the thread that runs what is asked for ended early"));
                }
                return Ok(answered);
            }
        };
        let over = tokio::time::timeout(ending.left(), work_ended).await.is_ok();
        Ok(answered && over)
    });
    // What hangs is not waited for: the process ends.
    runtime.shutdown_timeout(Duration::ZERO);
    match done? {
        true => {
            tracing::info!("ended: all that was asked for is answered");
            Ok(Outcome::Done)
        }
        false => {
            tracing::error!("ended before all that was asked for was answered: the time was over");
            Ok(Outcome::Failed)
        }
    }
}

fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(BLOCKING).enable_all();
    builder.build().doing(|| "start the service's threads")
}

/// Begins the end at the first SIGTERM or SIGINT.
fn watch(ending: &Ending) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signals, ending) = (signal(kind).doing(|| "watch for signals")?, ending.clone());
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                tracing::info!("told to stop");
                ending.begin();
            }
        });
    }
    Ok(())
}
