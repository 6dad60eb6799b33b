//! Authentication and authorization of HTTP requests: decides who may ask.
//!
//! There are four ways, one of which the configuration chooses:
//! - [`AuthPolicy::Oidc`]: an ID token that Google has signed, for one audience, of one of a list of accounts (`oidc.rs`).
//! - [`AuthPolicy::Token`]: a secret that both sides know (`secret.rs`).
//! - [`AuthPolicy::CloudRun`]: Cloud Run's own check stands in front. From inside, a public service looks the same as one that
//!   Cloud Run guards, so this way never allows a restore nor a download.
//! - [`AuthPolicy::None`]: whoever reaches the port may ask. This is meant for loopback.
//!
//! Only the header `Authorization` is read. Cloud Run prefers `X-Serverless-Authorization` for its own check and takes the
//! signature out of a token that it has checked before a container sees it
//! (<https://docs.cloud.google.com/run/docs/troubleshooting#signature-removed>). So that header never holds anything that
//! could be verified here. A caller that has to pass both checks puts Cloud Run's token there, and ours in `Authorization`.
//!
//! A client is told the status and nothing else. The log says why, in fixed words: nothing that came with a request is in them.

mod keys;
mod oidc;
mod secret;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};

use crate::error::{Code, Error, Result};
use crate::gcp::http_client;

pub use self::keys::KeyLoadTimes;
pub use secret::Secret;

/// The values of `--auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthKind {
    /// `oidc`
    Oidc,
    /// `token`
    Token,
    /// `cloud-run`
    CloudRun,
    /// `none`
    None,
}

impl FromStr for AuthKind {
    type Err = String;

    fn from_str(text: &str) -> Result<AuthKind, String> {
        match text {
            "oidc" => Ok(AuthKind::Oidc),
            "token" => Ok(AuthKind::Token),
            "cloud-run" => Ok(AuthKind::CloudRun),
            "none" => Ok(AuthKind::None),
            _ => Err("it is one of oidc, token, cloud-run, none".into()),
        }
    }
}

/// The flags and variables that say who may ask, as they were given.
#[derive(Default)]
pub struct AuthSettings {
    /// `--auth`
    pub auth: Option<AuthKind>,
    /// `--auth-audience`
    pub audience: Option<String>,
    /// Each `--auth-email`
    pub emails: Vec<String>,
    /// The URL of the keys, if they are not those that Google publishes.
    pub jwks_url: Option<String>,
    /// `--token-file`
    pub token_file: Option<PathBuf>,
    /// `LASTGOOD_TOKEN`; a token file takes precedence over it.
    pub token: Option<OsString>,
    /// `--insecure`
    pub insecure: bool,
}

/// The policy that says who may ask: the checked configuration.
#[derive(Debug, Clone)]
pub enum AuthPolicy {
    /// Callers that show an ID token which Google has signed.
    Oidc {
        /// The audience that the token must be meant for, to the letter.
        audience: String,
        /// The e-mail addresses of the accounts whose token it may be.
        emails: Vec<String>,
        /// The URL of the keys; `None` for Google's own.
        jwks_url: Option<String>,
    },
    /// Callers that show the secret.
    Token(Secret),
    /// Callers that Cloud Run lets through.
    CloudRun,
    /// Everybody.
    None,
}

impl AuthPolicy {
    /// Checks the flags. Without `--auth` the result is [`AuthPolicy::None`], which [`AuthPolicy::check_listen`] lets through on
    /// loopback only.
    ///
    /// # Errors
    /// Wrong usage: a flag is missing, contradicts another, or has no meaning in this mode. Also a token file that cannot be
    /// read.
    pub fn new(settings: AuthSettings) -> Result<AuthPolicy> {
        let error = |why: &str, hint: &'static str| Error::usage("settle who may ask", why).hint(hint);
        let wrong = |why, hint| Err(error(why, hint));
        let bad = |why, hint| Err(error(why, hint).with_code(Code::BadSetting));
        let AuthSettings { auth, audience, emails, jwks_url, token_file, token, insecure } = settings;
        if auth != Some(AuthKind::Oidc) && (audience.is_some() || !emails.is_empty() || jwks_url.is_some()) {
            return wrong(
                "an audience, an e-mail address and a URL of keys are for --auth oidc alone",
                "Say --auth oidc, too.",
            );
        }
        if auth != Some(AuthKind::Token) && token_file.is_some() {
            return wrong("--token-file is for --auth token alone", "Say --auth token, too.");
        }
        if auth != Some(AuthKind::None) && insecure {
            let hint = "Leave --insecure out, or say --auth none, too, if everybody who reaches the port may ask.";
            return wrong("--insecure is for --auth none alone", hint);
        }
        match auth {
            None | Some(AuthKind::None) => Ok(AuthPolicy::None),
            Some(AuthKind::CloudRun) => Ok(AuthPolicy::CloudRun),
            Some(AuthKind::Token) => {
                let secret = match (&token_file, &token) {
                    (Some(path), _) => Secret::read(path),
                    (None, Some(token)) => Secret::new(token.as_encoded_bytes()).map_err(|why| {
                        Error::usage("take LASTGOOD_TOKEN", why).with_code(Code::BadSetting).hint(secret::HINT)
                    }),
                    (None, None) => return wrong("--auth token has no token", secret::HINT),
                };
                Ok(AuthPolicy::Token(secret?))
            }
            Some(AuthKind::Oidc) => {
                let Some(audience) = audience.filter(|text| is_word(text)) else {
                    let hint = "Give --auth-audience URL: the audience that Pub/Sub, Cloud Scheduler or the app asks for its \
                                tokens with, to the letter. Without one, they take the URL that they post to.";
                    return bad("--auth oidc has no audience, or one with blanks in it", hint);
                };
                if emails.is_empty() || emails.iter().any(|email| !is_email(email)) {
                    let hint = "Give --auth-email ADDRESS, as often as needed: whole addresses of the service accounts or \
                                people who may ask. Everybody in the world can get a token that Google has signed.";
                    return bad("--auth oidc has no list of e-mail addresses, or one that is no address", hint);
                }
                if jwks_url.as_deref().is_some_and(|url| !url.starts_with("https://") && !is_plain_loopback(url)) {
                    let why =
                        "the place of the keys is not an https:// URL: whoever is on the way could supply other keys";
                    return bad(why, "Give an https:// URL, or none: then Google's own keys are used.");
                }
                Ok(AuthPolicy::Oidc { audience, emails, jwks_url })
            }
        }
    }

    /// Checks whether the service may listen at this address. `k_service` says whether `K_SERVICE` is set, as it is in every
    /// Cloud Run service.
    ///
    /// # Errors
    /// It may not; the error says what to do.
    pub fn check_listen(&self, address: SocketAddr, insecure: bool, k_service: bool) -> Result<()> {
        let wrong = |why: &str, hint: &'static str| {
            Err(Error::usage(format!("serve at {address}"), why).with_code(Code::BadSetting).hint(hint))
        };
        match self {
            AuthPolicy::None if !address.ip().to_canonical().is_loopback() && !insecure => wrong(
                "everybody who reaches that address could ask for backups, as nothing says who may",
                "Say who may: --auth oidc (Pub/Sub, Cloud Scheduler, service accounts), --auth token (a secret), or --auth \
                 cloud-run (Cloud Run's own check). Or listen on 127.0.0.1, or say --auth none --insecure.",
            ),
            AuthPolicy::CloudRun if !k_service => wrong(
                "--auth cloud-run leaves the check to Cloud Run, and this is no Cloud Run service (K_SERVICE is not set)",
                "Use --auth oidc or --auth token here.",
            ),
            _ => Ok(()),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn is_email(text: &str) -> bool {
    is_word(text)
        && !text.contains(['*', ','])
        && text.split_once('@').is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty())
}

fn is_plain_loopback(url: &str) -> bool {
    url.starts_with("http://") && http_client::is_loopback(url)
}

/// A caller that may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    email: Option<String>,
    known: bool,
}

impl Caller {
    /// Whether this caller may have a restore at all; whether anybody may is decided by the configuration (`--allow-restore`).
    pub fn may_restore(&self) -> bool {
        self.known
    }

    /// Whether this caller may have files of snapshots at all; whether anybody may is decided by `--allow-download`.
    pub fn may_download(&self) -> bool {
        self.known
    }

    /// The e-mail address of the token's account, as the configuration writes it; `None` in all ways but `--auth oidc`.
    pub fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }
}

/// Why a caller may not ask, as far as a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// There are no credentials, or no good ones.
    Unauthorized,
    /// The credentials are good, and their owner may not ask.
    Forbidden,
    /// It cannot be decided just now.
    Unavailable {
        /// How long to wait before the next attempt.
        retry_after: Duration,
    },
}

impl Denied {
    /// Returns the HTTP status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Denied::Unauthorized => StatusCode::UNAUTHORIZED,
            Denied::Forbidden => StatusCode::FORBIDDEN,
            Denied::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the header that belongs to that status (RFC 9110, sections 11.6.1 and 10.2.3).
    pub fn header(self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Denied::Unauthorized => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Denied::Forbidden => None,
            Denied::Unavailable { retry_after } => {
                let seconds = retry_after.as_millis().div_ceil(1000).clamp(1, 3600) as u32;
                Some((RETRY_AFTER, HeaderValue::from(seconds)))
            }
        }
    }
}

/// Decides for every request whether its sender may ask.
pub struct Authorizer(AuthBackend);

enum AuthBackend {
    Oidc(Box<oidc::Oidc>),
    Token(Secret),
    CloudRun,
    Open,
}

impl Authorizer {
    /// Whether everybody may ask.
    pub fn is_open(&self) -> bool {
        matches!(self.0, AuthBackend::Open)
    }

    /// Creates what the policy needs. Nothing is sent yet.
    ///
    /// # Errors
    /// The system has no certificates.
    pub fn new(mode: AuthPolicy) -> Result<Authorizer> {
        Self::with_pace(mode, KeyLoadTimes::default())
    }

    /// Does the same with other times for loading keys.
    ///
    /// # Errors
    /// As [`Authorizer::new`].
    pub fn with_pace(mode: AuthPolicy, pace: KeyLoadTimes) -> Result<Authorizer> {
        Ok(Authorizer(match mode {
            AuthPolicy::Oidc { audience, emails, jwks_url } => {
                AuthBackend::Oidc(Box::new(oidc::Oidc::new(&audience, emails, jwks_url, pace)?))
            }
            AuthPolicy::Token(secret) => AuthBackend::Token(secret),
            AuthPolicy::CloudRun => AuthBackend::CloudRun,
            AuthPolicy::None => AuthBackend::Open,
        }))
    }

    /// Checks whether the sender of these headers may ask.
    ///
    /// # Errors
    /// The sender may not, or it cannot be decided just now; the log says why.
    pub async fn check(&self, headers: &HeaderMap) -> Result<Caller, Denied> {
        let token = || {
            bearer(headers).map_err(|why| {
                tracing::debug!("a request is refused: {why}");
                Denied::Unauthorized
            })
        };
        match &self.0 {
            AuthBackend::Oidc(oidc) => {
                let email = oidc.check(token()?).await?;
                Ok(Caller { email: Some(email.to_owned()), known: true })
            }
            AuthBackend::Token(secret) if secret.is(token()?) => Ok(Caller { email: None, known: true }),
            AuthBackend::Token(_) => {
                tracing::warn!(
                    "a request is refused: its bearer token is not the one of LASTGOOD_TOKEN or --token-file"
                );
                Err(Denied::Unauthorized)
            }
            AuthBackend::CloudRun => Ok(Caller { email: None, known: false }),
            AuthBackend::Open => Ok(Caller { email: None, known: true }),
        }
    }
}

/// Returns the one bearer token of a request (RFC 6750, section 2.1), or why there is none.
fn bearer(headers: &HeaderMap) -> Result<&str, &'static str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or("it has no Authorization header")?;
    if values.next().is_some() {
        return Err("it has more than one Authorization header");
    }
    let text = value.to_str().map_err(|_| "its Authorization header is not ASCII")?;
    let (scheme, token) =
        text.trim_ascii().split_once(' ').ok_or("its Authorization header is not a scheme and a token")?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err("its Authorization header is of another scheme than Bearer");
    }
    let token = token.trim_ascii_start();
    if token.is_empty() || token.contains([' ', '\t', ',']) {
        return Err("its Authorization header has not one token");
    }
    Ok(token)
}

#[cfg(test)]
mod key_server;

#[cfg(test)]
mod oidc_tests;

#[cfg(test)]
mod tests;
