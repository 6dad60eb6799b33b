//! The sources of requests for runs: HTTP, a subscription, or both. They are served beside whatever else a program does, until a shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use super::auth::{AuthPolicy, Authorizer};
use super::{Server, ServerSettings, serve};
use crate::error::{Doing, Result};
use crate::gcp::cloud::Cloud;
use crate::runner::runner::Runner;
use crate::shutdown::Shutdown;
use crate::subscriber::{self, SubscriberSettings};

/// The number of threads for work that blocks: more than [`super::ServerLimits`] lets clients use at the same time, with some
/// for the health checks.
const BLOCKING: usize = 24;
/// How long it takes until a subscription is tried again that could not be pulled from at all.
const AGAIN: Duration = Duration::from_secs(60);

/// The configuration of HTTP.
#[derive(Debug)]
pub struct HttpSettings {
    /// The address that it listens at.
    pub listen: SocketAddr,
    /// The policy that decides who may ask.
    pub auth: AuthPolicy,
    /// How it answers.
    pub settings: ServerSettings,
}

/// The configuration of what is served.
#[derive(Debug)]
pub struct ServiceSettings {
    /// Requests over HTTP, if it serves HTTP.
    pub http: Option<HttpSettings>,
    /// Messages that are pulled, if it pulls any.
    pub pull: Option<SubscriberSettings>,
    /// How Pub/Sub is reached.
    pub cloud: Cloud,
}

/// How a subscription is treated that cannot be pulled from at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpullable {
    /// The service ends: it would do nothing that it is there for.
    End,
    /// It is an error in the log, and is tried again: something else is at work here.
    TryAgain,
}

/// A service that holds its address already, and serves nothing yet.
pub struct Service {
    http: Option<(TcpListener, Arc<Server>)>,
    pull: Option<SubscriberSettings>,
    cloud: Cloud,
    runner: Arc<Runner>,
}

/// Starts the threads that services need.
///
/// # Errors
/// The system gives none.
pub fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(BLOCKING).enable_all();
    builder.build().doing(|| "start the service's threads")
}

impl Service {
    /// Listens at the address, if there is one. Requests go to `runner`, whose work another thread does.
    ///
    /// # Errors
    /// The address cannot be listened at; who may ask cannot be told.
    pub fn open(settings: ServiceSettings, runner: Arc<Runner>, runtime: &Runtime) -> Result<Service> {
        let ServiceSettings { http, pull, cloud } = settings;
        let http = http.map(|http| bind(http, &runner, runtime)).transpose()?;
        Ok(Service { http, pull, cloud, runner })
    }

    /// Serves HTTP, pulls, or both, until the shutdown begins; both end together. Returns whether all was answered in time, for
    /// each.
    ///
    /// # Errors
    /// Of the second result: the subscription cannot be pulled from.
    pub async fn serve(self, shutdown: &Shutdown, unpullable: Unpullable) -> (bool, Result<bool>) {
        let Service { http, pull, cloud, runner } = self;
        let asked = async {
            match http {
                Some((listener, server)) => serve(listener, server, shutdown).await,
                None => true,
            }
        };
        let pulled = async {
            let Some(settings) = &pull else { return Ok(true) };
            loop {
                let pulled = subscriber::pull(&runner, &cloud, settings, shutdown).await;
                match &pulled {
                    Err(why) if unpullable == Unpullable::TryAgain => tracing::error!("no event is pulled: {why}"),
                    Err(_) => {
                        shutdown.begin();
                        return pulled;
                    }
                    Ok(_) => return pulled,
                }
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    _ = shutdown.wait_until_begun() => return Ok(true),
                }
            }
        };
        tokio::join!(asked, pulled)
    }
}

/// Listens at the address, and creates the server that answers there.
fn bind(http: HttpSettings, runner: &Arc<Runner>, runtime: &Runtime) -> Result<(TcpListener, Arc<Server>)> {
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
