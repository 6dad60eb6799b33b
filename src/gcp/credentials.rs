//! The credentials that requests to Google carry.
//!
//! Google's own `google-cloud-auth` finds them (Application Default Credentials, AIP-4110), fetches tokens and renews them in
//! time. Two things that it leaves open are done here: to say which kind was found, and to say soon, with advice, when there is
//! none. Without this, a laptop without credentials would ask for a metadata server until its patience ends.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use google_cloud_auth::credentials::{Builder, CacheableResource, Credentials};
use http::{Extensions, HeaderMap};
use serde::Serialize;

use super::cloud::Cloud;
use super::credential_file;
use super::error_text::with_causes;
use crate::error::Code;
use crate::fs::read_named;
use crate::retry::Fault;

/// The purpose of a token. IAM decides what of that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To read and write objects.
    Storage,
    /// Any API of Google Cloud: to start a Cloud Run job, there is no narrower scope.
    Platform,
}

impl Scope {
    fn url(self) -> &'static str {
        match self {
            Scope::Storage => "https://www.googleapis.com/auth/devstorage.read_write",
            Scope::Platform => "https://www.googleapis.com/auth/cloud-platform",
        }
    }
}

/// The longest wait for a token, after which it is asked for again.
const TOKEN_TIME: Duration = Duration::from_secs(20);
/// The longest wait for the metadata server, which is next to this machine: it answers at once or is not there.
const METADATA_TIME: Duration = Duration::from_secs(2);
/// The most bytes of a credentials file; it usually has a few kilobytes.
pub const LARGEST: usize = 1 << 20;
const METADATA_HOST: &str = "metadata.google.internal";

/// The kind of credentials that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CredentialSource {
    /// No credentials: an emulator asks for none.
    Emulator,
    /// A credentials file of some `type`, and the account that it names.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its `type`: `service_account`, `authorized_user`, `external_account`, `impersonated_service_account`.
        r#type: String,
        /// The account, if the file names it.
        account: Option<String>,
    },
    /// The service account of the machine or the Cloud Run service, from the metadata server.
    Metadata {
        /// The server that is asked.
        host: String,
    },
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialSource::Emulator => write!(f, "none: an emulator is used"),
            CredentialSource::File { path, r#type, account } => {
                let account = account.as_ref().map(|account| format!(" of {account}")).unwrap_or_default();
                write!(f, "{} file {}{account}", r#type.replace('_', " "), path.display())
            }
            CredentialSource::Metadata { host } => {
                write!(f, "the attached service account, from the metadata server {host}")
            }
        }
    }
}

/// Finds out which credentials will be used, without any request.
///
/// # Errors
/// The file cannot be used; the error says why, and what to do about it.
pub fn find(cloud: &Cloud) -> Result<CredentialSource, Fault> {
    if cloud.emulator.is_some() {
        return Ok(CredentialSource::Emulator);
    }
    if let Some(path) = &cloud.credentials {
        return read(path).map_err(|why| {
            let why = format!("GOOGLE_APPLICATION_CREDENTIALS names {}: {why}", path.display());
            let hint = "Set it to the path of a key file (`gcloud iam service-accounts keys create FILE --iam-account=ACCOUNT` makes one) or \
                        of a configuration that Google made. Or unset it, and log in with `gcloud auth application-default login`; \
                        inside Cloud Run neither is needed.";
            unusable(why, hint)
        });
    }
    match &cloud.well_known {
        Some(path) if path.exists() => read(path).map_err(|why| {
            unusable(format!("{}: {why}", path.display()), "Run `gcloud auth application-default login` again.")
        }),
        _ => {
            Ok(CredentialSource::Metadata { host: cloud.metadata_host.clone().unwrap_or_else(|| METADATA_HOST.into()) })
        }
    }
}

/// Returns the fault that there are no credentials, or that those that there are cannot be used.
fn unusable(why: String, hint: &str) -> Fault {
    Fault::refused(why, hint).with_code(Code::NoCredentials)
}

fn read(path: &Path) -> Result<CredentialSource, String> {
    // The library reads it once more: a pipe would be empty then.
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err("it is not a file".into());
    }
    let (text, _) = read_named(path, LARGEST).map_err(|why| why.to_string())?;
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|why| format!("it is not JSON: {why}"))?;
    let text = |name: &str| json.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let r#type = text("type").ok_or("it has no `type`, so it is not a credentials file")?;
    credential_file::check(&json, &r#type)?;
    let impersonated = text("service_account_impersonation_url")
        .and_then(|url| Some(url.rsplit_once('/')?.1.split(':').next()?.to_owned()));
    let account = text("client_email").or(impersonated).or_else(|| text("account").filter(|name| !name.is_empty()));
    Ok(CredentialSource::File { path: path.into(), r#type, account })
}

/// Provides the headers that authenticate requests.
pub struct Authenticator {
    found: CredentialSource,
    scope: Scope,
    in_cloud_run: bool,
    /// Made at the first request, since making them starts tasks of the runtime.
    credentials: Mutex<Option<Credentials>>,
}

impl Authenticator {
    /// Creates an authenticator with the credentials that [`find`] finds.
    ///
    /// # Errors
    /// As [`find`].
    pub fn new(cloud: &Cloud, scope: Scope) -> Result<Self, Fault> {
        Ok(Authenticator {
            found: find(cloud)?,
            scope,
            in_cloud_run: cloud.in_cloud_run,
            credentials: Mutex::default(),
        })
    }

    /// Returns the kind of credentials that was found.
    pub fn found(&self) -> &CredentialSource {
        &self.found
    }

    /// Returns the headers for a request; they are empty for an emulator.
    ///
    /// # Errors
    /// There is no token: none can be had at all, or none just now.
    pub async fn headers(&self, client: &reqwest::Client) -> Result<HeaderMap, Fault> {
        if self.found == CredentialSource::Emulator {
            return Ok(HeaderMap::new());
        }
        let known = self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let credentials = match known {
            Some(credentials) => credentials,
            None => {
                if let CredentialSource::Metadata { host } = &self.found {
                    self.look_for(host, client).await?;
                }
                let made = Builder::default().with_scopes([self.scope.url()]).build();
                let made = made.map_err(|why| unusable(format!("{}: {}", self.found, with_causes(&why)), WHERE))?;
                self.credentials.lock().unwrap_or_else(PoisonError::into_inner).insert(made).clone()
            }
        };
        let token = tokio::time::timeout(TOKEN_TIME, credentials.headers(Extensions::new())).await;
        match token {
            Ok(Ok(CacheableResource::New { data, .. })) => Ok(data),
            Ok(Ok(CacheableResource::NotModified)) => {
                Err(Fault::passing("no new token came, and there is no older one"))
            }
            Ok(Err(why)) if why.is_transient() => {
                self.renew();
                Err(Fault::passing(format!("no token: {}", refusal(&why))))
            }
            Ok(Err(why)) => Err(unusable(format!("no token with {}: {}", self.found, refusal(&why)), WHERE)),
            Err(_) => Err(Fault::passing(format!("no token came within {} s", TOKEN_TIME.as_secs()))),
        }
    }

    /// Forgets the token, so that the next request gets another one.
    pub fn renew(&self) {
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the account, if the file or the metadata server names it.
    pub async fn account(&self, client: &reqwest::Client) -> Option<String> {
        match &self.found {
            CredentialSource::Emulator => None,
            CredentialSource::File { account, .. } => account.clone(),
            CredentialSource::Metadata { host } => {
                let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/email");
                let asked = client.get(url).header("Metadata-Flavor", "Google").timeout(METADATA_TIME).send().await;
                let email = asked.ok()?.error_for_status().ok()?.text().await.ok()?;
                Some(email.trim().to_owned()).filter(|email| email.contains('@') && email.len() < 256)
            }
        }
    }

    /// Makes sure that there is a metadata server; otherwise, the library would wait for it.
    async fn look_for(&self, host: &str, client: &reqwest::Client) -> Result<(), Fault> {
        let asked = client.get(format!("http://{host}/")).header("Metadata-Flavor", "Google").timeout(METADATA_TIME);
        match asked.send().await {
            Ok(_) => Ok(()),
            // A server that takes the connection is there, and may answer another time.
            Err(why) if self.in_cloud_run || !(why.is_connect() || why.is_timeout()) => {
                Err(Fault::passing(format!("the metadata server {host}: {}", with_causes(&why.without_url()))))
            }
            Err(why) => Err(unusable(
                format!(
                    "no credentials were found: GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud has no login, and there \
                     is no metadata server ({host}: {})",
                    with_causes(&why.without_url())
                ),
                WHERE,
            )),
        }
    }
}

const WHERE: &str = "On a laptop: `gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS with the path of \
                     a key file. In Cloud Run nothing is needed: the service account attached to it is used. `lastgood \
                     doctor` shows what is found.";

/// Phrases of the library around the actual reason.
const AROUND: [&str; 5] = [
    "Request to fetch the token failed. Subsequent calls with this credential will also fail.",
    "cannot create the authentication headers",
    "cannot create auth headers",
    "and future attempts will not succeed",
    "but future attempts may succeed",
];

/// Says why there is no token, in the words of the server that refused it, where they are among those of the library.
fn refusal(why: &dyn std::error::Error) -> String {
    let text = with_causes(why);
    let body = text.split_once("body=<").and_then(|(_, rest)| rest.rsplit_once('>'));
    let json: Option<serde_json::Value> = body.and_then(|(body, _)| serde_json::from_str(body).ok());
    if let Some(json) = json {
        // The error forms of OAuth and of Google's other services.
        let error = json.get("error").unwrap_or_default();
        let parts = [error.as_str(), error["message"].as_str(), json["error_description"].as_str()];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if !parts.is_empty() {
            return parts.join(": ");
        }
    }
    let text = AROUND.iter().fold(text, |text, around| text.replace(around, ""));
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" :", ":");
    text.trim_matches([':', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Told(&'static str);

    #[test]
    fn the_reason_without_what_is_said_around_it() {
        for (told, reason) in [
            (
                "Request to fetch the token failed. Subsequent calls with this credential will also fail. and future \
                 attempts will not succeed: cannot create the authentication headers failed to refresh user access token, \
                 body=<{\n \"error\": \"invalid_grant\",\n \"error_description\": \"Token has been expired or \
                 revoked.\"\n}> and future attempts will not succeed: HTTP status client error (400 Bad Request)",
                "invalid_grant: Token has been expired or revoked.",
            ),
            (
                "failed to fetch token, body=<{\"error\": {\"code\": 403, \"message\": \"Permission denied\"}}> and future \
                 attempts will not succeed",
                "Permission denied",
            ),
            (
                "failed to parse the key: InvalidCharacter(95) and future attempts will not succeed",
                "failed to parse the key: InvalidCharacter(95)",
            ),
            ("failed, body=<no JSON> but future attempts may succeed: timed out", "failed, body=<no JSON>: timed out"),
        ] {
            assert_eq!(refusal(&Told(told)), reason);
        }
    }
}
