//! Tokens, and the endpoints that issue them: a machine's metadata server, OAuth for people's accounts, the security token
//! service for workloads of elsewhere, and impersonation.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::answer::Answer;
use super::wire::{Head, decoded};

/// The service account that the metadata server names.
const ACCOUNT: &str = "writer@test-project.iam.gserviceaccount.com";

struct Token {
    text: String,
    by: &'static str,
    /// How many requests it opens still.
    left: usize,
}

/// The tokens that were issued, in order.
pub struct Tokens {
    /// Whether requests need one.
    pub demanded: bool,
    /// For how long they are said to be good, in seconds.
    pub lifetime: u64,
    /// How many requests each opens.
    pub uses: usize,
    all: Vec<Token>,
}

impl Default for Tokens {
    fn default() -> Self {
        Tokens { demanded: false, lifetime: 3600, uses: usize::MAX, all: Vec::new() }
    }
}

/// A fault in a request's credentials.
pub enum Refusal {
    /// There are none.
    Anonymous,
    /// They are not good, or not any more.
    Invalid,
}

impl Tokens {
    pub fn issued(&self) -> Vec<&'static str> {
        self.all.iter().map(|token| token.by).collect()
    }

    pub fn revoke(&mut self) {
        self.all.iter_mut().for_each(|token| token.left = 0);
    }

    fn issue(&mut self, by: &'static str) -> String {
        let text = format!("ya29.{by}-{}", self.all.len() + 1);
        self.all.push(Token { text: text.clone(), by, left: self.uses });
        text
    }

    /// Whether a request may use this token.
    fn opens(&mut self, text: &str) -> bool {
        let token = self.all.iter_mut().find(|token| token.text == text && token.left > 0);
        token.map(|token| token.left -= 1).is_some()
    }

    /// Checks the `Authorization` header of a request.
    pub fn check(&mut self, authorization: Option<&str>) -> Result<(), Refusal> {
        if !self.demanded {
            return Ok(());
        }
        let token = authorization.ok_or(Refusal::Anonymous)?.strip_prefix("Bearer ").ok_or(Refusal::Invalid)?;
        if self.opens(token) || is_own_jwt(token) { Ok(()) } else { Err(Refusal::Invalid) }
    }

    /// Answers a request to one of the endpoints.
    pub fn answer(&mut self, head: &Head, body: &[u8]) -> Answer {
        if head.path == "/" {
            return Answer::new(200, "application/text", "computeMetadata/\n").header("Metadata-Flavor", "Google");
        }
        if let Some(path) = head.path.strip_prefix("/computeMetadata/v1/") {
            return self.metadata(path, head).header("Metadata-Flavor", "Google");
        }
        if head.path.ends_with(":generateAccessToken") {
            let token = head.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
            if !token.is_some_and(|token| self.opens(token)) {
                return Answer::error(401, "authError", "Request had invalid authentication credentials.");
            }
            let expires = Timestamp::now() + SignedDuration::from_secs(self.lifetime as i64);
            let token = self.issue("impersonation");
            return Answer::json(200, &json!({"accessToken": token, "expireTime": format!("{expires:.0}")}));
        }
        let fields = fields(head, body);
        let field = |name: &str| fields.get(name).and_then(Value::as_str).filter(|value| !value.is_empty());
        let wrong = |error: &str, why: &str| Answer::json(400, &json!({"error": error, "error_description": why}));
        let of = |by: &'static str, tokens: &mut Self| json!({"access_token": tokens.issue(by), "expires_in": tokens.lifetime, "token_type": "Bearer"});
        let grant = field("grant_type").unwrap_or_default();
        match (head.path.as_str(), grant) {
            ("/token", "refresh_token") => match field("refresh_token") {
                None => wrong("invalid_request", "Missing required parameter: refresh_token"),
                Some(token) if token.contains("revoked") => {
                    wrong("invalid_grant", "Token has been expired or revoked.")
                }
                Some(_) => Answer::json(200, &of("oauth", self)),
            },
            ("/v1/token", "urn:ietf:params:oauth:grant-type:token-exchange") => {
                if field("subject_token").is_none() || field("subject_token_type").is_none() {
                    return wrong("invalid_request", "Invalid or missing subject_token.");
                }
                let mut answer = of("sts", self);
                answer["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token".into();
                Answer::json(200, &answer)
            }
            _ => wrong("unsupported_grant_type", &format!("Invalid grant_type: {grant}")),
        }
    }

    fn metadata(&mut self, path: &str, head: &Head) -> Answer {
        if head.header("metadata-flavor") != Some("Google") {
            return Answer::text(403, "Missing Metadata-Flavor:Google header.");
        }
        let account = path.strip_prefix("instance/service-accounts/").and_then(|rest| rest.split_once('/'));
        match (path, account) {
            (_, Some(("default", "token"))) => {
                let token = self.issue("metadata");
                Answer::json(200, &json!({"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"}))
            }
            (_, Some(("default", "email"))) => Answer::new(200, "application/text", ACCOUNT),
            ("universe/universe-domain", _) => Answer::new(200, "application/text", "googleapis.com"),
            ("project/project-id", _) => Answer::new(200, "application/text", "test-project"),
            _ => Answer::text(404, "<title>Error 404 (Not Found)!!1</title>"),
        }
    }
}

/// Whether this is what a service account signs for itself in place of asking for a token. The signature is not checked.
fn is_own_jwt(token: &str) -> bool {
    let mut parts = token.split('.').skip(1);
    let (Some(claims), Some(_signature), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let Ok(claims) = BASE64_URL_SAFE_NO_PAD.decode(claims) else { return false };
    let Ok(claims) = serde_json::from_slice::<Value>(&claims) else { return false };
    claims["iss"].is_string()
        && (claims["aud"].is_string() || claims["scope"].is_string())
        && claims["exp"].as_i64().is_some_and(|end| end > Timestamp::now().as_second())
}

/// Returns the fields of a form or of a JSON document.
fn fields(head: &Head, body: &[u8]) -> Value {
    if head.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        return serde_json::from_slice(body).unwrap_or_default();
    }
    let text = String::from_utf8_lossy(body).replace('+', " ");
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decoded(key), Value::from(decoded(value)))).collect()
}
