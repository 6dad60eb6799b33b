//! The public keys that tokens are signed with: a JSON Web Key Set (RFC 7517), loaded when it is needed.
//!
//! Anybody can send a token that names a key, so the effect of such a name is bounded: the set is loaded as a whole, at most once
//! in ten seconds, by one request at a time for all that wait. A load goes on when the client that caused it hangs up: otherwise
//! such clients could keep it from ever being done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use tokio::sync::watch;

use crate::error::Result;
use crate::gcp::error_text::with_causes;
use crate::gcp::http_client;

/// The most bytes of an answer; Google's has about 2 KiB.
const MAX_ANSWER: usize = 256 << 10;
/// The bytes of an RSA modulus: keys of 2,048 to 4,096 bits are accepted. Shorter ones can be broken.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=512;

/// The times for loading keys.
#[derive(Debug, Clone, Copy)]
pub struct KeyLoadTimes {
    /// The shortest time between the starts of two loads.
    pub between: Duration,
    /// Keys older than this are loaded again while they still serve.
    pub fresh: Duration,
    /// Keys older than this are not used: a key that was withdrawn must expire at some time, even when the key server does not
    /// answer. Google lets its answer be kept for hours.
    pub usable: Duration,
    /// How long a load may take.
    pub patience: Duration,
}

impl Default for KeyLoadTimes {
    fn default() -> Self {
        KeyLoadTimes {
            between: Duration::from_secs(10),
            fresh: Duration::from_secs(3600),
            usable: Duration::from_secs(6 * 3600),
            patience: Duration::from_secs(5),
        }
    }
}

/// Why there is no key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyError {
    /// It is not among those that were just published.
    Unknown,
    /// They could not be loaded.
    Unavailable {
        /// How long to wait before the next attempt.
        retry_after: Duration,
    },
}

/// The keys of one URL.
pub(super) struct Keys(Arc<KeysInner>);

struct KeysInner {
    url: String,
    client: reqwest::Client,
    pace: KeyLoadTimes,
    state: Mutex<KeysState>,
}

type KeySet = HashMap<String, Arc<DecodingKey>>;

#[derive(Default)]
struct KeysState {
    /// The keys that were loaded last, and when.
    set: Option<(KeySet, Instant)>,
    /// When the last load began.
    tried: Option<Instant>,
    /// Whether the last load failed; `true` also while it is under way.
    failed: bool,
    /// The channel of the load; it closes when the load has ended, however it did.
    loading: Option<watch::Receiver<()>>,
}

impl KeysState {
    /// Returns a key that is not too old, and whether it is fresh.
    fn key(&self, name: &str, pace: &KeyLoadTimes) -> Option<(Arc<DecodingKey>, bool)> {
        let (set, loaded) = self.set.as_ref()?;
        let age = loaded.elapsed();
        let key = set.get(name).filter(|_| age < pace.usable)?;
        Some((key.clone(), age < pace.fresh))
    }

    /// Returns the channel of the load that is under way.
    fn loading(&self) -> Option<watch::Receiver<()>> {
        self.loading.clone().filter(|end| end.has_changed().is_ok())
    }

    /// Returns the error for a key that is not there.
    fn lack(&self, pace: &KeyLoadTimes) -> KeyError {
        if !self.failed {
            return KeyError::Unknown;
        }
        let since = self.tried.map(|at| at.elapsed()).unwrap_or_default();
        KeyError::Unavailable { retry_after: pace.between.saturating_sub(since) }
    }
}

impl Keys {
    /// Creates the key store for `url`. Nothing is loaded yet.
    pub fn new(url: String, pace: KeyLoadTimes) -> Result<Keys> {
        let doing = || format!("prepare to load the keys at {url}");
        let client =
            http_client::client(&url, doing, |client| client.timeout(pace.patience).pool_max_idle_per_host(0))?;
        Ok(Keys(Arc::new(KeysInner { url, client, pace, state: Mutex::default() })))
    }

    /// Returns the key of this name. Loads the keys if it is not there, or no longer fresh, and the last load is long enough ago.
    pub async fn find(&self, name: &str) -> Result<Arc<DecodingKey>, KeyError> {
        let pace = &self.0.pace;
        let mut end = {
            let mut state = self.0.state();
            let known = state.key(name, pace);
            if let Some((key, true)) = known {
                return Ok(key);
            }
            let end = state.loading().or_else(|| self.0.load(&mut state));
            match (known, end) {
                // Old keys are used while new ones are on their way.
                (Some((key, _)), _) => return Ok(key),
                (None, Some(end)) => end,
                (None, None) => return Err(state.lack(pace)),
            }
        };
        // The sender sends nothing: an error means that it was dropped, at the end of the load.
        while end.changed().await.is_ok() {}
        let state = self.0.state();
        state.key(name, pace).map(|(key, _)| key).ok_or_else(|| state.lack(pace))
    }
}

impl KeysInner {
    fn state(&self) -> MutexGuard<'_, KeysState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a load, if the last one is long enough ago.
    fn load(self: &Arc<Self>, state: &mut KeysState) -> Option<watch::Receiver<()>> {
        if state.tried.is_some_and(|at| at.elapsed() < self.pace.between) {
            return None;
        }
        let (running, end) = watch::channel(());
        state.tried = Some(Instant::now());
        state.failed = true;
        state.loading = Some(end.clone());
        let shared = self.clone();
        tokio::spawn(async move {
            let loaded = shared.fetch().await;
            let mut state = shared.state();
            match loaded {
                Ok(set) => {
                    tracing::debug!(keys = set.len(), "loaded the keys at {}", shared.url);
                    state.set = Some((set, Instant::now()));
                    state.failed = false;
                }
                Err(why) => tracing::warn!("could not load the keys at {}: {why}", shared.url),
            }
            drop(state);
            drop(running);
        });
        Some(end)
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let mut answer = self.client.get(&self.url).send().await.map_err(|why| with_causes(&why))?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("the answer is {}", answer.status()));
        }
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|why| with_causes(&why))? {
            if text.len() + chunk.len() > MAX_ANSWER {
                return Err(format!("the answer is longer than {MAX_ANSWER} bytes"));
            }
            text.extend_from_slice(&chunk);
        }
        read(&text)
    }
}

/// Parses a key set, and returns the keys that can sign ID tokens. Others are left out, as RFC 7517, section 5, says.
fn read(text: &[u8]) -> Result<KeySet, String> {
    #[derive(Deserialize)]
    struct KeySetDocument {
        keys: Vec<serde_json::Value>,
    }
    #[derive(Deserialize)]
    struct Jwk {
        kty: String,
        kid: String,
        n: String,
        e: String,
        r#use: Option<String>,
        alg: Option<String>,
    }
    let answer: KeySetDocument =
        serde_json::from_slice(text).map_err(|why| format!("the answer is not a set of keys: {why}"))?;
    let usable = |value| {
        let key: Jwk = serde_json::from_value(value).ok()?;
        let fits = key.kty == "RSA"
            && key.r#use.is_none_or(|r#use| r#use == "sig")
            && key.alg.is_none_or(|algorithm| algorithm == "RS256");
        let public = DecodingKey::from_rsa_components(&key.n, &key.e).ok().filter(|_| fits)?;
        let DecodingKeyKind::RsaModulusExponent { n, .. } = public.kind() else { return None };
        let length = n.iter().skip_while(|&&byte| byte == 0).count();
        MODULUS.contains(&length).then(|| (key.kid, Arc::new(public)))
    };
    let set: KeySet = answer.keys.into_iter().filter_map(usable).collect();
    if set.is_empty() { Err("the answer has no RSA key for signatures".into()) } else { Ok(set) }
}
