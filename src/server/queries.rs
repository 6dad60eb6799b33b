//! Requests that look: what snapshots there are, what is in them, what was run.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::answer::{self, Reply};
use super::health::{Health, Status};
use super::{Server, routes, run_answers};
use crate::claims::idempotent;
use crate::error::{Code, Error, Result};
use crate::inspect::{self, ListedSnapshot};
use crate::monitor::Context;
use crate::parallel::budget::ByteBudget;
use crate::parallel::ordered::map_ordered;
use crate::path::EntryPath;
use crate::report::{self, EncodedReport, RunId};
use crate::runner::beside::AppStatus;
use crate::runner::runner::{RunProgress, Runner};

/// Items of a list, where the query does not say how many, and at most.
pub const ITEMS: usize = 20;
pub const MAX_ITEMS: usize = 1000;
/// The bytes of a report from which on it takes room.
const LARGE: usize = 64 << 10;

/// The health and, where this program runs an app, how that is.
#[derive(Serialize)]
struct HealthDocument<'h> {
    #[serde(flatten)]
    health: &'h Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<AppStatus>,
}

/// The health in full, or its status alone.
pub fn health(health: &Health, app: Option<AppStatus>, in_full: bool) -> Reply {
    let status = match health.status {
        Status::Healthy | Status::Degraded => StatusCode::OK,
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    match in_full {
        true => answer::json(status, &HealthDocument { health, app }),
        false => answer::json(status, &json!({ "status": health.status })),
    }
}

impl Server {
    /// Does what blocks on a thread, when one of those for it is free. It is done to its end, whoever hangs up.
    ///
    /// # Errors
    /// The answer that tells what failed.
    pub(super) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Runner, &Context) -> Result<T> + Send + 'static,
    ) -> Result<T, Reply> {
        let permit = self.looks.clone().acquire_owned().await;
        let runner = self.runner.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            runner.context(|ctx| work(&runner, ctx))
        });
        let ended = |_| Err(Error::failed("serve a request", "a thread ended early").with_code(Code::Internal));
        done.await.unwrap_or_else(ended).map_err(|why| answer::failed(&why))
    }

    /// `GET /backup/status`
    pub(super) async fn status(&self) -> Reply {
        let health = self.checkup.health().await;
        #[derive(Serialize)]
        struct StatusDocument<'h> {
            #[serde(flatten)]
            health: HealthDocument<'h>,
            running: Option<RunId>,
        }
        let health = HealthDocument { health: &health, app: self.app() };
        answer::json(StatusCode::OK, &StatusDocument { health, running: self.runner.running() })
    }

    /// How the app is that this program runs. `None` if it runs none.
    pub(super) fn app(&self) -> Option<AppStatus> {
        self.runner.rules().app().map(|app| app.status())
    }

    /// `GET /backup/list`
    pub(super) async fn list(&self, query: Option<&str>) -> Reply {
        let most = match limit(query) {
            Ok(most) => most,
            Err(reply) => return reply,
        };
        let list = move |runner: &Runner, ctx: &Context| {
            let mut listed: Vec<ListedSnapshot> = Vec::new();
            let take = |snapshot| {
                listed.push(snapshot);
                Ok(())
            };
            inspect::newest(&runner.vaults().first(ctx)?, most, take, ctx)?;
            Ok(listed)
        };
        reply(self.run_blocking(list).await)
    }

    /// `GET /backup/{id}/files`
    pub(super) async fn files(&self, id: String, query: Option<&str>) -> Reply {
        let path = match routes::parameter(query, "path") {
            None => EntryPath::root(),
            Some(bytes) if bytes.is_empty() => EntryPath::root(),
            Some(bytes) => match path(bytes) {
                Ok(path) => path,
                Err(reply) => return reply,
            },
        };
        self.stream(None, move |runner, ctx, out| {
            let (vault, root) = runner.vaults().find(&id, ctx)?;
            let mut any = false;
            inspect::ls(
                &vault,
                &root,
                &path,
                false,
                |entry| {
                    out.write(if any { b",\n" } else { b"[" })?;
                    any = true;
                    out.json(&entry)
                },
                ctx,
            )?;
            out.write(if any { b"]\n" } else { b"[]\n" })
        })
        .await
        .unwrap_or_else(|reply| reply)
    }

    /// `GET /runs`
    pub(super) async fn runs(&self, query: Option<&str>) -> Reply {
        let most = match limit(query) {
            Ok(most) => most,
            Err(reply) => return reply,
        };
        let list = move |runner: &Runner, ctx: &Context| {
            let vault = runner.vaults().first(ctx)?;
            let named = report::newest(&*vault.store, most)?;
            let mut runs = Vec::with_capacity(named.len());
            let room = ByteBudget::new(report::AT_ONCE);
            let read = |named: &report::ReportName| {
                let _room = room.reserve(named.size);
                report::told(&*vault.store, &named.object).and_then(|report| report.summary())
            };
            map_ordered(&named, ctx.parallel, read, |named, report| {
                ctx.check("list the runs")?;
                match report {
                    Ok(report) => runs.push(report),
                    Err(why) => tracing::warn!("the run {} is passed over: {}", named.run, why.what()),
                }
                Ok(())
            })?;
            Ok(runs)
        };
        reply(self.run_blocking(list).await)
    }

    /// `GET /runs/{id}`
    pub(super) async fn run(&self, id: &str) -> Reply {
        let unknown = || {
            let body = json!({ "error": "no run of this id is known here", "code": Code::UnknownRun.word() });
            answer::json(StatusCode::NOT_FOUND, &body)
        };
        let Ok(run) = id.parse::<RunId>() else { return unknown() };
        match self.runner.progress(run) {
            Some(RunProgress::Waiting) => answer::json(StatusCode::OK, &json!({ "run": run, "status": "waiting" })),
            Some(RunProgress::Running) => answer::json(StatusCode::OK, &json!({ "run": run, "status": "running" })),
            Some(RunProgress::Over(answer)) => run_answers::over(run, &answer),
            None => {
                match self.run_blocking(move |runner, ctx| idempotent::report_of(run, runner.vaults(), ctx)).await {
                    Ok(Some(idempotent::FoundReport { report, .. })) => {
                        self.large(&report, run_answers::reported(run, report.retry(), &report))
                    }
                    Ok(None) => unknown(),
                    Err(reply) => reply,
                }
            }
        }
    }

    /// An answer with a report that is kept for it alone: if that is large, it takes its part of the room for such.
    fn large(&self, report: &EncodedReport, mut reply: Reply) -> Reply {
        let size = report.json().len();
        if size < LARGE {
            return reply;
        }
        let Ok(room) = self.report_kib.clone().try_acquire_many_owned(u32::try_from(size >> 10).unwrap_or(u32::MAX))
        else {
            let body = json!({ "error": "too many large reports are being sent", "status": "later" });
            return answer::later(StatusCode::SERVICE_UNAVAILABLE, &body, Duration::from_secs(10));
        };
        reply.body_mut().hold(room);
        reply
    }
}

fn reply(done: Result<impl Serialize, Reply>) -> Reply {
    done.map_or_else(|reply| reply, |items| answer::json(StatusCode::OK, &items))
}

/// The most items that a query asks for.
fn limit(query: Option<&str>) -> Result<usize, Reply> {
    let Some(text) = routes::parameter(query, "limit") else { return Ok(ITEMS) };
    match std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()) {
        Some(most @ 1..=MAX_ITEMS) => Ok(most),
        _ => Err(answer::error(StatusCode::BAD_REQUEST, format!("limit must be a number from 1 to {MAX_ITEMS}"))),
    }
}

/// A path in a snapshot; one that cannot be is not there.
pub fn path(bytes: Vec<u8>) -> Result<EntryPath, Reply> {
    let why =
        |why| Err(answer::error(StatusCode::NOT_FOUND, format!("{why}; a path is relative to the data directory")));
    EntryPath::given(&bytes).or_else(why)
}
