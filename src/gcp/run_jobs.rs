//! The one call by which a service starts a Cloud Run job: `jobs:run` of the Admin API, which overrides the environment
//! variable that names the claim, and nothing else.
//! <https://docs.cloud.google.com/run/docs/reference/rest/v2/projects.locations.jobs/run>
//!
//! The call is repeated, within `TIME`, when it may have failed for a passing reason. That may start the job twice, since an
//! answer can be lost. It does no harm: of two executions one takes the request for the run, and the other ends.
//!
//! Client, credentials and their runtime are made for each call, which is rare, and end with it: nothing of them has to be kept
//! alive between two threads and two jobs.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::RETRY_AFTER;
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Builder;

use super::cloud::Cloud;
use super::credentials::{self, Authenticator, Scope};
use super::error_text::{message, retry_after, with_causes};
use super::http_client;
use crate::error::{Code, Doing, Error, Result};
use crate::monitor::Context;
use crate::retry::{Backoff, Fault};

/// The environment variable that names the claim.
pub const CLAIM: &str = "LASTGOOD_CLAIM";

/// Google's own endpoint.
const GOOGLE: &str = "https://run.googleapis.com";
/// The time for all attempts together: requests wait meanwhile.
const TIME: Duration = Duration::from_secs(30);
/// The longest wait for an answer, after which the call is made again.
const ANSWER: Duration = Duration::from_secs(15);
/// The most bytes of an answer that are read.
const MOST: usize = 1 << 20;

/// The full name of a Cloud Run job: `projects/P/locations/L/jobs/J`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(String);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Target {
    type Err = String;

    /// Parses `job=projects/P/locations/L/jobs/J`.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text
            .strip_prefix("job=")
            .ok_or("only a Cloud Run job can be started: job=projects/P/locations/L/jobs/J")?;
        let of = |chars: &'static str| {
            move |part: &str| {
                let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || chars.contains(c);
                (1..=100).contains(&part.len()) && part.chars().all(known) && !part.starts_with(['-', '.', ':'])
            }
        };
        // In old projects, the id has a domain before it: `example.com:shop`.
        let (is_project, is_word) = (of("-.:"), of("-"));
        match name.split('/').collect::<Vec<_>>()[..] {
            ["projects", project, "locations", location, "jobs", job]
                if is_project(project) && is_word(location) && is_word(job) && !job.ends_with('-') =>
            {
                Ok(Target(name.to_owned()))
            }
            _ => Err("it is not of the form job=projects/PROJECT/locations/REGION/jobs/JOB".into()),
        }
    }
}

/// Starts executions of a job.
#[derive(Debug, Clone)]
pub struct Starter {
    target: Target,
    base: String,
    cloud: Cloud,
}

/// The API's answer: a long-running operation, which names the execution.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Operation {
    metadata: OperationMetadata,
    error: Option<OperationError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OperationMetadata {
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OperationError {
    message: String,
}

impl Starter {
    /// Creates a starter for this job; nothing is sent yet.
    ///
    /// # Errors
    /// Usage: the endpoint would see the credentials unencrypted. Also credentials that cannot be used.
    pub fn new(target: Target, cloud: &Cloud) -> Result<Self> {
        let doing = || format!("start the job {target}");
        let base = cloud.run_endpoint.clone().unwrap_or_else(|| GOOGLE.into());
        let url = Url::parse(&base).map_err(|why| {
            Error::usage(doing(), format!("the endpoint is not a URL: {why}")).with_code(Code::BadSetting)
        })?;
        let plain = url.scheme() == "http" && http_client::is_loopback(&base);
        if url.scheme() != "https" && !plain {
            let why = format!(
                "the endpoint {} is not encrypted: others could read the credentials on the way",
                http_client::origin(&base)
            );
            return Err(Error::usage(doing(), why)
                .with_code(Code::BadSetting)
                .hint("Let LASTGOOD_RUN_ENDPOINT begin with https://, or unset it."));
        }
        // A stand-in for the API on this machine is given credentials only where a file of them is named. An emulator of another
        // service changes nothing here.
        let emulator = (plain && cloud.credentials.is_none()).then(|| base.clone());
        let cloud = Cloud { emulator, ..cloud.clone() };
        credentials::find(&cloud).map_err(|fault| fault.while_doing(doing()))?;
        Ok(Starter { target, base, cloud })
    }

    /// Returns the job.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Starts an execution for a claim. Returns its name, if the answer has it.
    ///
    /// # Errors
    /// The execution could not be started, or, if no answer came, may have been started all the same.
    pub fn start(&self, claim: &str, ctx: &Context) -> Result<Option<String>> {
        let doing = || format!("start the job {}", self.target);
        let client = http_client::client(&self.base, doing, |client| client.connect_timeout(ANSWER))?;
        let credentials =
            Authenticator::new(&self.cloud, Scope::Platform).map_err(|fault| fault.while_doing(doing()))?;
        let runtime = Builder::new_current_thread().enable_all().build().doing(doing)?;
        let done = runtime.block_on(async {
            tokio::select! {
                biased;
                started = self.attempts(claim, &client, &credentials, ctx) => started,
                () = stopped(ctx.stop) => Err(Fault::Stopped),
            }
        });
        done.map_err(|fault| fault.while_doing(doing()))
    }

    async fn attempts(
        &self,
        claim: &str,
        client: &Client,
        credentials: &Authenticator,
        ctx: &Context<'_>,
    ) -> Result<Option<String>, Fault> {
        let (began, pace, mut failures) = (Instant::now(), Backoff::new(TIME), 0);
        loop {
            let (why, after) = match self.attempt(claim, client, credentials).await {
                Err(Fault::Passing { why, after }) => (why, after),
                // The token was dropped; another one may do.
                Err(Fault::Token { why }) if failures == 0 => (why, Some(Duration::ZERO)),
                other => return other,
            };
            failures += 1;
            let mut random = [0; 8];
            (ctx.random)(&mut random).map_err(|why| Fault::refused(why.what(), "Try again."))?;
            let pause = after.unwrap_or_else(|| pace.pause(failures, u64::from_le_bytes(random)));
            if began.elapsed() + pause >= TIME {
                return Err(Fault::passing(why));
            }
            ctx.monitor.warn(&format!("starting the job {} again: {why}", self.target));
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(
        &self,
        claim: &str,
        client: &Client,
        credentials: &Authenticator,
    ) -> Result<Option<String>, Fault> {
        let url = format!("{}/v2/{}:run", self.base, self.target);
        let variable = json!({ "name": CLAIM, "value": claim });
        let body = json!({ "overrides": { "containerOverrides": [{ "env": [variable] }] } });
        let headers = credentials.headers(client).await?;
        let sent = client.post(url).headers(headers).json(&body).timeout(ANSWER).send().await;
        let answer = sent.map_err(|why| Fault::passing(with_causes(&why.without_url())))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = limited(answer).await;
        if status.is_success() {
            // The execution is started, however much of the answer arrived.
            let operation: Operation = serde_json::from_str(&text).unwrap_or_default();
            return match operation.error {
                Some(OperationError { message }) => {
                    Err(Fault::refused(crate::text::one_line(&message, 400), "Look at the job in the console."))
                }
                None => Ok(operation.metadata.name.map(|name| crate::text::one_line(&name, 300))),
            };
        }
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(retry_after);
        let why = format!("{status}{}", message(&text).map(|text| format!(": {text}")).unwrap_or_default());
        Err(match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT => {
                Fault::Passing { why, after }
            }
            status if status.is_server_error() => Fault::Passing { why, after },
            StatusCode::UNAUTHORIZED => {
                credentials.renew();
                Fault::Token { why }
            }
            StatusCode::FORBIDDEN => Fault::refused(
                why,
                format!(
                    "The credentials ({}) may not do this. Grant roles/run.jobsExecutorWithOverrides on the job: `gcloud run \
                     jobs add-iam-policy-binding JOB --region REGION --member serviceAccount:ACCOUNT \
                     --role roles/run.jobsExecutorWithOverrides`.",
                    credentials.found()
                ),
            )
            .with_code(Code::AccessDenied),
            StatusCode::NOT_FOUND => Fault::refused(
                why,
                "There is no such job: check project, region and name in --dispatch; `gcloud run jobs list` shows \
                 the jobs that exist.",
            ),
            _ => Fault::refused(
                why,
                "Check the name of the job in --dispatch, and that the Cloud Run Admin API is enabled.",
            ),
        })
    }
}

/// Waits until the program is told to stop.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the body of an answer, or what came of it, at most [`MOST`] bytes.
async fn limited(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MOST
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(MOST - bytes.len())]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_in_full() {
        let parse = |text: &str| text.parse::<Target>().map(|target| target.to_string());
        for name in [
            "projects/shop-1/locations/europe-west1/jobs/backup",
            "projects/example.com:shop/locations/us-central1/jobs/b",
            "projects/123456789/locations/us-central1/jobs/long-backup",
        ] {
            assert_eq!(parse(&format!("job={name}")).unwrap(), name);
        }
        for wrong in [
            "",
            "job=",
            "backup",
            "projects/p/locations/l/jobs/j",
            "service=projects/p/locations/l/services/s",
            "job=projects/p/locations/l/jobs/",
            "job=projects/p/locations/l/jobs/j/executions/e",
            "job=projects/p/locations/l/jobs/J",
            "job=projects/p/locations/l/jobs/j-",
            "job=projects/p/locations/l/jobs/-j",
            "job=projects/p/locations/../jobs/j",
            "job=projects/p/locations/l/jobs/j:run",
            "job=projects/p/locations/l/jobs/j?x",
            "job=projects/p/regions/l/jobs/j",
            "job= projects/p/locations/l/jobs/j",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_not_sent_in_the_clear() {
        let target = || "job=projects/p/locations/l/jobs/j".parse::<Target>().unwrap();
        let new = |endpoint: &str| {
            let cloud = Cloud { run_endpoint: Some(endpoint.into()), ..Cloud::default() };
            Starter::new(target(), &cloud).map(|starter| starter.cloud.emulator.is_some())
        };
        assert!(new("http://127.0.0.1:8080").unwrap());
        assert!(!new("https://europe-west1-run.googleapis.com").unwrap());
        for wrong in ["http://run.example.com", "run.googleapis.com", "ftp://127.0.0.1", "", "127.0.0.1:8080"] {
            assert!(new(wrong).is_err(), "{wrong}");
        }
        let emulator = Some("http://127.0.0.1:1".to_owned());
        let storage = Starter::new(target(), &Cloud { emulator, ..Cloud::default() }).unwrap();
        assert_eq!((storage.base.as_str(), storage.cloud.emulator), (GOOGLE, None));
    }
}
