//! Verifies ID tokens that Google has signed.
//!
//! `google-cloud-auth` has a verifier for them (`credentials::idtoken::verifier`, 1.18), which is not used, because of what its
//! source says:
//! - It keeps only the key that was asked for, of all that an answer holds. With one load in ten seconds, somebody who sends
//!   made-up key names could take every one of them, and no true token would ever find its key.
//! - An unknown key and a key server that is down are one error, so that 401 and 503 cannot be told apart.
//! - A cold cache fails all but one of concurrent calls, and a load has no time limit.
//! - It takes the algorithm from the token, lets tokens without an audience or an issuer pass, and panics on a token
//!   without `email_verified` when it is to check the e-mail.
//!
//! So tokens are verified by `jsonwebtoken`, which that crate uses too, and the keys are loaded by [`super::keys`]. The rules are
//! those of RFC 7519, OpenID Connect Core 1.0 section 3.1.3.7, and
//! <https://developers.google.com/identity/openid-connect/openid-connect>.
//! Results are not kept: a verification takes a third of a millisecond, and a key that was withdrawn ends with its set.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header, get_current_timestamp};
use serde::Deserialize;

use super::Denied;
use super::keys::{KeyError, KeyLoadTimes, Keys};
use crate::error::Result;

/// The URL at which Google publishes the keys of its ID tokens (`jwks_uri` of accounts.google.com's discovery document).
const GOOGLE: &str = "https://www.googleapis.com/oauth2/v3/certs";
/// The issuers that Google uses: it signs under both names.
const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];
/// How far two clocks may be apart, in seconds: as far as Google's verifier allows.
const LEEWAY: u64 = 10;
/// The most bytes of a token; Google's have about 1 KiB.
const MAX_TOKEN: usize = 8192;
const MAX_KEY_NAME: usize = 256;
/// The text that Cloud Run puts in place of a signature that it has checked.
const REMOVED: &str = ".SIGNATURE_REMOVED_BY_GOOGLE";

/// The claims that are read besides those that [`Validation`] checks.
#[derive(Deserialize)]
struct Claims {
    /// When it was issued, in seconds since 1970.
    iat: f64,
    email: Option<String>,
    email_verified: Option<bool>,
}

pub(super) struct Oidc {
    emails: Vec<String>,
    validation: Validation,
    keys: Keys,
}

/// Why a token is refused: the answer, and the log's words for it.
struct TokenRefusal(Denied, &'static str);

fn unauthorized(why: &'static str) -> TokenRefusal {
    TokenRefusal(Denied::Unauthorized, why)
}

fn forbidden(why: &'static str) -> TokenRefusal {
    TokenRefusal(Denied::Forbidden, why)
}

impl Oidc {
    pub fn new(audience: &str, emails: Vec<String>, jwks_url: Option<String>, pace: KeyLoadTimes) -> Result<Oidc> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_audience(&[audience]);
        validation.set_issuer(&ISSUERS);
        // Without this, a token that lacks one of them passes.
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Ok(Oidc { emails, validation, keys: Keys::new(jwks_url.unwrap_or_else(|| GOOGLE.into()), pace)? })
    }

    /// Returns the e-mail address of the token's account, as it is in the configured list.
    pub async fn check(&self, token: &str) -> Result<&str, Denied> {
        self.verify(token).await.map_err(|TokenRefusal(denied, why)| {
            tracing::warn!(status = denied.status().as_u16(), "a request is refused: {why}");
            denied
        })
    }

    async fn verify(&self, token: &str) -> Result<&str, TokenRefusal> {
        if token.len() > MAX_TOKEN {
            return Err(unauthorized("its bearer token is too long for an ID token"));
        }
        if token.ends_with(REMOVED) {
            return Err(unauthorized(
                "Cloud Run has checked its ID token and removed the signature, so that it cannot be checked here. Use \
                 --auth cloud-run, or let the callers send Cloud Run's token as X-Serverless-Authorization and another as \
                 Authorization, or deploy the service with --no-invoker-iam-check",
            ));
        }
        let header = decode_header(token).map_err(|_| unauthorized("its bearer token is not a signed JWT"))?;
        if header.alg != Algorithm::RS256 {
            return Err(unauthorized("its ID token is not signed with RS256"));
        }
        if header.crit.is_some() {
            return Err(unauthorized("its ID token demands extensions that are not known (crit)"));
        }
        let name = header.kid.filter(|name| !name.is_empty() && name.len() <= MAX_KEY_NAME);
        let name = name.ok_or_else(|| unauthorized("its ID token does not name its key (kid)"))?;
        let key = self.keys.find(&name).await.map_err(|lack| match lack {
            KeyError::Unknown => {
                unauthorized("its ID token is signed with a key that is not one of the published ones")
            }
            KeyError::Unavailable { retry_after } => TokenRefusal(
                Denied::Unavailable { retry_after },
                "the keys to check its ID token with could not be loaded",
            ),
        })?;
        let claims =
            decode::<Claims>(token, &key, &self.validation).map_err(|why| unauthorized(reason(why.kind())))?.claims;
        if claims.iat > (get_current_timestamp() + LEEWAY) as f64 {
            return Err(unauthorized("its ID token is not valid yet (iat): is this machine's clock right?"));
        }
        let email = claims.email.ok_or_else(|| {
            forbidden(
                "its ID token has no e-mail address: ask for one that has (`--include-email`, `includeEmail`, `format=full`)",
            )
        })?;
        if claims.email_verified != Some(true) {
            return Err(forbidden("the e-mail address of its ID token is not verified"));
        }
        let email = self.emails.iter().find(|allowed| allowed.eq_ignore_ascii_case(&email));
        email
            .map(String::as_str)
            .ok_or_else(|| forbidden("the e-mail address of its ID token is not one that --auth-email allows"))
    }
}

/// Returns the log's words for an error. The library's own could repeat what is in the token.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "the signature of its ID token is wrong",
        ErrorKind::ExpiredSignature => "its ID token has expired",
        ErrorKind::ImmatureSignature => "its ID token is not valid yet (nbf): is this machine's clock right?",
        ErrorKind::InvalidIssuer => "its ID token is not issued by Google",
        ErrorKind::InvalidAudience => "its ID token is for another audience than --auth-audience",
        ErrorKind::MissingRequiredClaim(_) => "its ID token lacks an expiry, an issuer or an audience",
        ErrorKind::InvalidKeyFormat | ErrorKind::InvalidRsaKey(_) => "the published key of its ID token cannot be used",
        _ => "its ID token is malformed",
    }
}
