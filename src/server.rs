//! `lastgood serve`: events, a REST interface, health and metrics over HTTP/1.1.
//!
//! ```text
//! connection (limits) ──► request ──► route ──► who asks ──► runner: a run ──► its report
//!                                                      └───► reads of the vault, health, metrics
//! ```
//!
//! A client that hangs up stops nothing: its request waits at the [`Runner`], and only the answer is lost. All work that blocks
//! is done on threads of its own, as many at a time as [`ServerLimits`] says. When the program is told to stop, no more
//! connections are accepted, and what is under way is answered within the time of [`Shutdown`].

#![expect(clippy::result_large_err, reason = "an answer is moved a few times for a request, whether it is good or not")]

mod answer;
pub mod auth;
mod connections;
mod download;
mod events;
mod guard;
pub mod health;
pub mod health_data;
pub mod health_looks;
mod limits;
mod metrics;
mod openapi;
mod queries;
pub mod routes;
pub mod service;
mod run_answers;
mod schemas;
mod trace;

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use reqwest::Url;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::Instrument;
use tracing::field::Empty;

pub use self::limits::ServerLimits;

use self::answer::{Reply, ReplyBody};
use self::auth::{Authorizer, Caller, Denied};
use self::connections::{Admission, AdmittedConnection};
use self::guard::Guard;
use self::health::Checkup;
use self::limits::TimedStream;
use self::routes::{Access, Endpoint, Route, RouteMatch};
use self::trace::TraceContext;
use crate::runner::runner::Runner;
use crate::shutdown::Shutdown;

/// The configuration of the service.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The URL at which browsers find the service, if what they send does not say so.
    pub public_url: Option<Url>,
    /// Whether files of snapshots may be downloaded.
    pub allow_download: bool,
    /// Whether this is a Cloud Run service.
    pub cloud_run: bool,
    /// Whether work goes on in Cloud Run while no request is waiting.
    pub background: bool,
    /// The limits of what counts as healthy.
    pub health: health::HealthSettings,
    /// Limits on what a client may take of the service.
    pub limits: ServerLimits,
}

/// The HTTP service.
pub struct Server {
    runner: Arc<Runner>,
    guard: Guard,
    auth: Authorizer,
    settings: ServerSettings,
    checkup: Checkup,
    looks: Arc<Semaphore>,
    listings: Arc<Semaphore>,
    promises: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    /// KiB of large reports that may still be read to be sent.
    report_kib: Arc<Semaphore>,
}

/// Serves connections until the shutdown begins, and finishes those that are under way. Returns whether it could finish them.
pub async fn serve(listener: TcpListener, server: Arc<Server>, shutdown: &Shutdown) -> bool {
    let admission = Admission::new(server.settings.limits.connections, shutdown.clone());
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_until_begun() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = tokio::select! {
                    connection = admission.admit() => connection,
                    _ = shutdown.wait_until_begun() => break,
                };
                tokio::spawn(server.clone().attend(stream, Arc::new(connection), graceful.watcher()));
            }
            Err(why) if is_of_the_client(&why) => {}
            Err(why) => {
                tracing::error!("cannot accept a connection: {why}");
                // Mostly, file descriptors have run out: some are free again when a connection ends.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => true,
        () = shutdown.wait_until_over() => false,
    }
}

/// Whether a connection failed before it was accepted.
fn is_of_the_client(why: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(why.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Server {
    /// Creates a service that listens at an address and passes requests to a runner, whose work another thread does.
    pub fn new(runner: Arc<Runner>, listen: SocketAddr, auth: Authorizer, settings: ServerSettings) -> Self {
        let ServerLimits { looks, listings, reports, promises, downloads, .. } = settings.limits;
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let (looks, listings) = (semaphore(looks), semaphore(listings));
        let (promises, downloads) = (semaphore(promises), semaphore(downloads));
        let checkup = Checkup::new(runner.clone(), settings.health.clone());
        let guard = Guard::new(listen, settings.public_url.clone(), auth.is_open());
        Server {
            runner,
            guard,
            auth,
            settings,
            checkup,
            looks,
            listings,
            promises,
            downloads,
            report_kib: semaphore(reports),
        }
    }

    /// Serves one connection to its end.
    async fn attend(self: Arc<Self>, stream: TcpStream, connection: Arc<AdmittedConnection>, watcher: Watcher) {
        if let Err(why) = stream.set_nodelay(true) {
            tracing::debug!("cannot set TCP_NODELAY on a connection: {why}");
        }
        let (limits, phase) = (&self.settings.limits, connection.phase());
        let io = TokioIo::new(TimedStream::new(stream, phase.clone(), limits));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // It counts from the end of the last answer.
            .header_read_timeout(limits.idle)
            .max_headers(limits.headers)
            .max_header_size(limits.head)
            .max_buf_size(limits.head.max(64 << 10));
        let service = service_fn(|request: Request<Incoming>| {
            let (server, connection, served) = (self.clone(), connection.clone(), phase.served());
            let asks = request.method() == Method::POST;
            let answering = async move { server.answer(request, &connection).await };
            // A request for a run is a task of its own from now on: hyper drops the future that it awaits when a client hangs up,
            // even before it has polled it once. A request that only reads may be dropped.
            let answering = served.map(|served| match asks {
                true => (served, Either::Left(tokio::spawn(answering))),
                false => (served, Either::Right(answering)),
            });
            async move {
                // The connection was closed just now, to give its slot to another one: the request is not begun.
                let Some((served, answering)) = answering else { return pending().await };
                let mut reply = match answering {
                    Either::Right(answering) => answering.await,
                    Either::Left(task) => task.await.unwrap_or_else(|why| {
                        tracing::error!("a request was not answered: {why}");
                        answer::error(
                            StatusCode::INTERNAL_SERVER_ERROR,
                            "something went wrong inside lastgood; the log says more",
                        )
                    }),
                };
                reply.body_mut().keep(served);
                Ok::<_, Infallible>(reply)
            }
        });
        tokio::select! {
            ended = watcher.watch(builder.serve_connection(io, service)) => if let Err(why) = ended {
                tracing::debug!("a connection ended early: {why}");
            },
            () = phase.closed() => tracing::debug!("closed a connection that waited for its client, to make room for another one"),
        }
    }

    /// Answers a request, and logs that without its query, headers and body.
    async fn answer(&self, request: Request<Incoming>, connection: &AdmittedConnection) -> Reply {
        let (parts, body) = request.into_parts();
        let span = tracing::info_span!(
            "request",
            http.request_method = parts.method.as_str(),
            http.request_url = parts.uri.path(),
            http.status = Empty,
            http.latency = Empty,
            trace = Empty,
            span_id = Empty,
            trace_sampled = Empty,
        );
        if let Some(TraceContext { trace, span: id, sampled }) = TraceContext::of(&parts.headers) {
            span.record("trace", trace).record("span_id", id).record("trace_sampled", sampled);
        }
        self.answer_within(parts, body, connection).instrument(span).await
    }

    async fn answer_within(&self, parts: Parts, mut body: Incoming, connection: &AdmittedConnection) -> Reply {
        let began = Instant::now();
        let mut reply = self.route(&parts, &mut body, connection).await;
        let mut patience = limits::PATIENCE;
        if connection.is_contended() {
            reply = answer::last(reply);
        }
        if connection.at_door() {
            // Others wait for the door.
            patience = Duration::ZERO;
        }
        limits::throw_away(&mut body, patience, connection.phase(), &self.settings.limits).await;
        if parts.method == Method::HEAD {
            // A stream that nobody reads ends here.
            let length = reply.body().size_hint().exact();
            *reply.body_mut() = ReplyBody::whole("");
            if let Some(length) = length {
                reply.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
        }
        let status = reply.status().as_u16();
        let span = tracing::Span::current();
        span.record("http.status", status).record("http.latency", format!("{:.6}s", began.elapsed().as_secs_f64()));
        // Requests that only read come often.
        match parts.method {
            Method::POST => tracing::info!("answered: {status}"),
            _ => tracing::debug!("answered: {status}"),
        }
        reply
    }

    async fn route(&self, parts: &Parts, body: &mut Incoming, connection: &AdmittedConnection) -> Reply {
        let found = routes::find(&parts.method, parts.uri.path());
        if let Err(reply) = self.guard.check(parts, &found) {
            return reply;
        }
        if !found.is_live()
            && let Err(connections::Overloaded) = connection.wait_for_slot().await
        {
            let body = serde_json::json!({ "error": "too many requests are waiting already", "status": "later" });
            return answer::later(StatusCode::SERVICE_UNAVAILABLE, &body, Duration::from_secs(10));
        }
        let (route, part) = match found {
            RouteMatch::Route(route, part) => (route, part.unwrap_or_default()),
            other => {
                return match (self.auth.check(&parts.headers).await, other) {
                    (Err(denied), _) => refused(denied),
                    (_, RouteMatch::Method(allowed)) => answer::not_allowed(&allowed),
                    _ => answer::error(StatusCode::NOT_FOUND, "there is nothing at this path"),
                };
            }
        };
        match route.gate {
            Access::Open => self.open(route.does),
            Access::Part => {
                let health = self.checkup.health().await;
                queries::health(&health, self.app(), self.auth.check(&parts.headers).await.is_ok())
            }
            gate => match self.auth.check(&parts.headers).await {
                Err(denied) => refused(denied),
                Ok(caller) => match self.gate(gate, &caller) {
                    Err(why) => answer::error(StatusCode::FORBIDDEN, why),
                    Ok(()) => self.known(route, part, &caller, parts, body).await,
                },
            },
        }
    }

    /// Checks whether a caller may use the endpoints of this kind at all.
    fn gate(&self, gate: Access, caller: &Caller) -> Result<(), &'static str> {
        match gate {
            Access::Restore if !self.runner.rules().allow_restore => {
                Err("restores are not allowed here (--allow-restore)")
            }
            Access::Restore if !caller.may_restore() => Err("with --auth cloud-run nobody may ask for a restore"),
            Access::Download if !self.settings.allow_download => {
                Err("downloads are not allowed here (--allow-download)")
            }
            Access::Download if !caller.may_download() => Err("with --auth cloud-run nobody may download files"),
            _ => Ok(()),
        }
    }

    fn open(&self, does: Endpoint) -> Reply {
        match does {
            Endpoint::Document => {
                answer::reply(StatusCode::OK, "application/json", ReplyBody::whole(openapi::document()))
            }
            _ => answer::json(StatusCode::OK, &serde_json::json!({ "status": "live" })),
        }
    }

    async fn known(&self, route: &Route, part: String, caller: &Caller, parts: &Parts, body: &mut Incoming) -> Reply {
        let query = parts.uri.query();
        match route.does {
            Endpoint::Event => self.event(parts, caller, body).await,
            Endpoint::Backup => self.backup(parts, body).await,
            Endpoint::Restore => self.restore(parts, body).await,
            Endpoint::Verify => self.verify(parts).await,
            Endpoint::Cleanup => {
                answer::error(StatusCode::NOT_IMPLEMENTED, "this version of lastgood deletes no snapshots")
            }
            Endpoint::Status => self.status().await,
            Endpoint::List => self.list(query).await,
            Endpoint::Files => self.files(part, query).await,
            Endpoint::File => self.file(part, query).await,
            Endpoint::Archive => self.archive(part, query).await,
            Endpoint::Runs => self.runs(query).await,
            Endpoint::Run => self.run(&part).await,
            Endpoint::Metrics => {
                let text =
                    metrics::text(&self.runner.stats(), &*self.checkup.health().await, self.runner.running().is_some());
                answer::reply(StatusCode::OK, metrics::CONTENT_TYPE, ReplyBody::whole(text))
            }
            // These are open, and were answered before.
            Endpoint::Live | Endpoint::Health | Endpoint::Document => self.open(route.does),
        }
    }
}

/// Returns the answer to a caller that may not ask.
fn refused(denied: Denied) -> Reply {
    let status = denied.status();
    let mut reply = answer::error(status, status.canonical_reason().unwrap_or_default());
    if let Some((name, value)) = denied.header() {
        reply.headers_mut().insert(name, value);
    }
    reply
}
