//! Tests of ID tokens, against a key server on loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

use super::key_server::{FIRST, KeyServer, KeyServerReply, SECOND, SHORT, base64};
use super::tests::{Log, authorization};
use super::*;

const AUDIENCE: &str = "https://backup.example/events";
const EMAIL: &str = "push@project.iam.gserviceaccount.com";
const OTHER: &str = "scheduler@project.iam.gserviceaccount.com";
const STRANGER: &str = "stranger@elsewhere.example";

const PACE: KeyLoadTimes = KeyLoadTimes {
    between: Duration::from_millis(400),
    fresh: Duration::from_secs(60),
    usable: Duration::from_secs(120),
    patience: Duration::from_millis(2000),
};
/// Times with which there is no second load while a test lasts.
const SLOW_PACE: KeyLoadTimes = KeyLoadTimes { between: Duration::from_secs(60), ..PACE };

fn auth_at(url: String, pace: KeyLoadTimes) -> Authorizer {
    let settings = AuthSettings {
        auth: Some(AuthKind::Oidc),
        audience: Some(AUDIENCE.into()),
        emails: vec![EMAIL.into(), OTHER.into()],
        jwks_url: Some(url),
        ..AuthSettings::default()
    };
    Authorizer::with_pace(AuthPolicy::new(settings).unwrap(), pace).unwrap()
}

fn auth(server: &KeyServer) -> Authorizer {
    auth_at(server.url(), PACE)
}

/// Returns the claims that Google writes into a service account's token.
fn claims() -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": "https://accounts.google.com", "aud": AUDIENCE, "azp": "105512345678901234567", "sub": "105512345678901234567",
        "email": EMAIL, "email_verified": true, "iat": now, "exp": now + 3600,
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

async fn ask(auth: &Authorizer, token: &str) -> Result<Caller, Denied> {
    auth.check(&authorization(format!("Bearer {token}"))).await
}

fn is_unavailable(answer: &Result<Caller, Denied>) -> bool {
    matches!(answer, Err(Denied::Unavailable { retry_after }) if *retry_after <= PACE.between)
}

async fn pass_interval() {
    tokio::time::sleep(PACE.between + Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_good_token_says_whose_it_is() {
    let server = KeyServer::new(KeyServerReply::Keys(vec![SECOND.public(), FIRST.public()]));
    let auth = auth(&server);
    let caller = ask(&auth, &FIRST.sign(&claims())).await.unwrap();
    assert_eq!(caller.email(), Some(EMAIL));
    assert!(caller.may_restore() && caller.may_download());
    for (claims, email) in [
        (with("email", json!(OTHER)), OTHER),
        (with("email", json!(OTHER.to_uppercase())), OTHER),
        (with("iss", json!("accounts.google.com")), EMAIL),
        (with("nbf", json!(get_current_timestamp())), EMAIL),
        (with("exp", json!(get_current_timestamp() - 5)), EMAIL),
        (with("iat", json!(get_current_timestamp() + 5)), EMAIL),
    ] {
        assert_eq!(ask(&auth, &SECOND.sign(&claims)).await.unwrap().email(), Some(email), "{claims}");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_token_with_a_wrong_claim_is_refused() {
    let server = KeyServer::new(KeyServerReply::Keys(vec![FIRST.public()]));
    let auth = auth(&server);
    let now = get_current_timestamp();
    let unauthorized = [
        with("aud", json!("https://backup.example")),
        with("aud", json!(format!("{AUDIENCE}/"))),
        with("aud", json!(7)),
        with("aud", json!([])),
        with("aud", Value::Null),
        without("aud"),
        with("iss", json!("https://accounts.google.com.evil.example")),
        with("iss", json!("https://securetoken.google.com/project")),
        with("iss", json!([])),
        without("iss"),
        with("exp", json!(now - 60)),
        with("exp", json!(0)),
        with("exp", json!(-1)),
        with("exp", json!("tomorrow")),
        with("exp", json!(1e300)),
        without("exp"),
        with("nbf", json!(now + 60)),
        with("nbf", json!("yesterday")),
        with("iat", json!(now + 60)),
        with("iat", json!("now")),
        without("iat"),
        with("email", json!([EMAIL])),
        with("email_verified", json!("true")),
        with("email_verified", json!(1)),
        json!([]),
        json!("text"),
        Value::Null,
    ];
    for claims in unauthorized {
        assert_eq!(ask(&auth, &FIRST.sign(&claims)).await, Err(Denied::Unauthorized), "{claims}");
    }
    let forbidden = [
        with("email", json!(STRANGER)),
        with("email", json!(format!("{EMAIL}.example"))),
        with("email", json!(format!(" {EMAIL}"))),
        with("email", json!("")),
        without("email"),
        with("email_verified", json!(false)),
        without("email_verified"),
        with("email_verified", Value::Null),
    ];
    for claims in forbidden {
        assert_eq!(ask(&auth, &FIRST.sign(&claims)).await, Err(Denied::Forbidden), "{claims}");
    }
    assert!(ask(&auth, &FIRST.sign(&claims())).await.is_ok());
    assert_eq!(server.asked(), 1);
}

/// Returns tokens that are signed in a wrong way or not at all.
fn forged() -> Vec<(&'static str, String)> {
    let good = FIRST.sign(&claims());
    let (body, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = body.split_once('.').unwrap();
    let made = |header: Value, signature: &str| format!("{}.{payload}.{signature}", base64(header.to_string()));
    let hmac = |secret: &[u8]| {
        let header = Header { kid: Some(FIRST.name.into()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap()
    };
    let modulus = FIRST.public()["n"].as_str().unwrap().to_owned();
    let mut nameless = FIRST.header();
    nameless.kid = None;
    let named = |name: &str| Header { kid: Some(name.into()), ..FIRST.header() };
    let mut bits = signature.to_owned();
    bits.replace_range(..1, if bits.starts_with('A') { "B" } else { "A" });
    let key_inside = json!({"alg": "RS256", "kid": "first", "jwk": SECOND.public(), "jku": "http://127.0.0.1:1/"});
    vec![
        ("alg none", made(json!({"alg": "none", "kid": "first"}), "")),
        ("alg None", made(json!({"alg": "None", "kid": "first"}), "")),
        ("alg none with a signature", made(json!({"alg": "none", "kid": "first"}), signature)),
        ("no alg", made(json!({"kid": "first"}), signature)),
        ("HS256 with the public key", hmac(FIRST.public_pem().as_bytes())),
        ("HS256 with the modulus", hmac(modulus.as_bytes())),
        ("HS256 with nothing", hmac(b"")),
        ("RS512", FIRST.sign_as(&Header { alg: Algorithm::RS512, ..FIRST.header() }, &claims())),
        ("PS256", FIRST.sign_as(&Header { alg: Algorithm::PS256, ..FIRST.header() }, &claims())),
        ("no key name", FIRST.sign_as(&nameless, &claims())),
        ("an empty key name", FIRST.sign_as(&named(""), &claims())),
        ("a long key name", FIRST.sign_as(&named(&"x".repeat(300)), &claims())),
        ("a key name that is no text", made(json!({"alg": "RS256", "kid": 1}), signature)),
        ("another key under that name", SECOND.sign_as(&FIRST.header(), &claims())),
        ("another key in the header", made(key_inside, signature)),
        ("unknown extensions", FIRST.sign_as(&Header { crit: Some(vec!["b64".into()]), ..FIRST.header() }, &claims())),
        ("another payload", format!("{head}.{}.{signature}", base64(with("email", json!(OTHER)).to_string()))),
        ("a flipped bit", format!("{body}.{bits}")),
        ("no signature", format!("{body}.")),
        ("two parts", body.to_owned()),
        ("four parts", format!("{good}.{signature}")),
        ("nothing", "..".to_owned()),
        ("no base64", "!.!.!".to_owned()),
        ("a signature that Cloud Run removed", format!("{body}.SIGNATURE_REMOVED_BY_GOOGLE")),
        ("very long", format!("{body}.{}", signature.repeat(40))),
        ("an access token", "ya29.a0AfH6SMBx_an-access-token".to_owned()),
    ]
}

#[tokio::test]
async fn a_forged_token_is_refused_and_loads_nothing() {
    let server = KeyServer::new(KeyServerReply::Keys(vec![FIRST.public()]));
    let auth = auth(&server);
    assert!(ask(&auth, &FIRST.sign(&claims())).await.is_ok());
    pass_interval().await;
    for (what, token) in forged() {
        assert_eq!(ask(&auth, &token).await, Err(Denied::Unauthorized), "{what}");
    }
    let mut elsewhere = HeaderMap::new();
    let good = FIRST.sign(&claims());
    elsewhere.insert("x-serverless-authorization", HeaderValue::from_str(&format!("Bearer {good}")).unwrap());
    assert_eq!(auth.check(&elsewhere).await, Err(Denied::Unauthorized));
    assert!(ask(&auth, &good).await.is_ok());
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_thousand_made_up_key_names_cause_one_load_and_keep_nobody_out() {
    let server = KeyServer::new(KeyServerReply::Keys(vec![FIRST.public()]));
    let auth = auth_at(server.url(), SLOW_PACE);
    let good = FIRST.sign(&claims());
    let (_, rest) = good.split_once('.').unwrap();
    for i in 0..1000 {
        let head = base64(json!({"alg": "RS256", "kid": format!("junk {i}")}).to_string());
        assert_eq!(ask(&auth, &format!("{head}.{rest}")).await, Err(Denied::Unauthorized));
        if i % 100 == 0 {
            assert!(ask(&auth, &good).await.is_ok());
        }
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_new_key_is_found_once_the_interval_has_passed_and_a_withdrawn_one_ends() {
    let server = KeyServer::new(KeyServerReply::Keys(vec![FIRST.public()]));
    let (auth, slow) = (auth(&server), auth_at(server.url(), SLOW_PACE));
    let (first, second) = (FIRST.sign(&claims()), SECOND.sign(&claims()));
    assert!(ask(&auth, &first).await.is_ok());
    assert!(ask(&slow, &first).await.is_ok());
    server.set(KeyServerReply::Keys(vec![SECOND.public()]));
    assert_eq!(ask(&slow, &second).await, Err(Denied::Unauthorized));
    assert!(ask(&slow, &first).await.is_ok());
    assert_eq!(server.asked(), 2);
    pass_interval().await;
    assert!(ask(&auth, &second).await.is_ok());
    assert_eq!(server.asked(), 3);
    assert_eq!(ask(&auth, &first).await, Err(Denied::Unauthorized));
    let loads = server.asked();
    pass_interval().await;
    assert!(ask(&auth, &second).await.is_ok());
    assert_eq!(server.asked(), loads);
}

#[tokio::test]
async fn old_keys_serve_while_new_ones_are_loaded_and_not_for_ever() {
    let server = KeyServer::new(KeyServerReply::Keys(vec![FIRST.public()]));
    let pace = KeyLoadTimes { fresh: Duration::from_millis(500), usable: Duration::from_secs(4), ..PACE };
    let auth = auth_at(server.url(), pace);
    let token = FIRST.sign(&claims());
    assert!(ask(&auth, &token).await.is_ok());
    server.set(KeyServerReply::Status(500));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(ask(&auth, &token).await.is_ok());
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(is_unavailable(&ask(&auth, &token).await));
    server.set(KeyServerReply::Keys(vec![FIRST.public()]));
    pass_interval().await;
    assert!(ask(&auth, &token).await.is_ok());
    assert!(server.asked() >= 3);
}

#[tokio::test]
async fn a_key_server_that_is_down_at_first_makes_503_and_then_serves() {
    let address = KeyServer::new(KeyServerReply::HangUp).address();
    let url = format!("http://{address}/certs");
    let (auth, slow) = (auth_at(url.clone(), PACE), auth_at(url, SLOW_PACE));
    let token = FIRST.sign(&claims());
    assert!(is_unavailable(&ask(&auth, &token).await));
    assert!(matches!(ask(&slow, &token).await, Err(Denied::Unavailable { .. })));
    // This is too early for another load: the answer says so, and when to come again, without a request to the server.
    let server = KeyServer::at(address, KeyServerReply::Keys(vec![FIRST.public()]));
    let Err(Denied::Unavailable { retry_after }) = ask(&slow, &token).await else { panic!() };
    assert!(retry_after > PACE.between && retry_after <= SLOW_PACE.between);
    assert_eq!(server.asked(), 0);
    pass_interval().await;
    assert!(ask(&auth, &token).await.is_ok());
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn answers_that_are_no_keys_make_503_and_the_known_keys_still_serve() {
    let server = KeyServer::new(KeyServerReply::Keys(vec![FIRST.public()]));
    let mut unfit = vec![SHORT.public()];
    for (name, value) in [("use", "enc"), ("alg", "RS512"), ("kty", "EC"), ("n", "?"), ("n", ""), ("e", "?")] {
        let mut key = SECOND.public();
        key[name] = value.into();
        unfit.push(key);
    }
    let (known, unknown) = (FIRST.sign(&claims()), SECOND.sign(&claims()));
    let other = KeyServer::new(KeyServerReply::Keys(vec![SECOND.public()]));
    for bad in [
        KeyServerReply::Status(500),
        KeyServerReply::Status(404),
        KeyServerReply::Status(204),
        KeyServerReply::HangUp,
        KeyServerReply::Text("<html>".into()),
        KeyServerReply::Text("{}".into()),
        KeyServerReply::Text("{\"keys\":{}}".into()),
        KeyServerReply::Text(format!("{{\"keys\":[\"{}\"]}}", "x".repeat(300 << 10))),
        KeyServerReply::Keys(Vec::new()),
        KeyServerReply::Keys(vec![json!(null), json!("key"), json!({"kid": "second"})]),
        KeyServerReply::Keys(unfit),
        KeyServerReply::Slow(PACE.patience + Duration::from_millis(500), vec![SECOND.public()]),
        KeyServerReply::Elsewhere(other.url()),
    ] {
        let cold = auth(&server);
        let warm = auth(&server);
        server.set(KeyServerReply::Keys(vec![FIRST.public()]));
        assert!(ask(&warm, &known).await.is_ok());
        server.set(bad);
        pass_interval().await;
        let begun = Instant::now();
        assert!(matches!(ask(&cold, &unknown).await, Err(Denied::Unavailable { .. })));
        assert!(matches!(ask(&warm, &unknown).await, Err(Denied::Unavailable { .. })));
        assert!(begun.elapsed() < 2 * PACE.patience + Duration::from_secs(1));
        assert!(ask(&warm, &known).await.is_ok());
    }
    assert_eq!(other.asked(), 0);
}

#[tokio::test]
async fn keys_of_other_kinds_are_left_out() {
    let curve = json!({"kty": "EC", "crv": "P-256", "kid": "curve", "x": "AA", "y": "AA", "use": "sig"});
    let mut bare = FIRST.public();
    bare.as_object_mut().unwrap().retain(|name, _| ["kty", "kid", "n", "e"].contains(&name.as_str()));
    let server = KeyServer::new(KeyServerReply::Keys(vec![curve, json!({"kty": "new"}), SHORT.public(), bare]));
    let auth = auth(&server);
    assert!(ask(&auth, &FIRST.sign(&claims())).await.is_ok());
    assert_eq!(ask(&auth, &SHORT.sign(&claims())).await, Err(Denied::Unauthorized));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_tokens_at_once_wait_for_one_load_and_all_pass() {
    let server = KeyServer::new(KeyServerReply::Slow(Duration::from_millis(200), vec![FIRST.public()]));
    let auth = Arc::new(auth(&server));
    let tokens: Vec<String> = (0..100).map(|i| FIRST.sign(&with("sub", json!(i.to_string())))).collect();
    let asked: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            let auth = auth.clone();
            tokio::spawn(async move { ask(&auth, &token).await })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().email(), Some(EMAIL));
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_the_load() {
    let server = KeyServer::new(KeyServerReply::Slow(Duration::from_millis(1000), vec![FIRST.public()]));
    let auth = auth_at(server.url(), SLOW_PACE);
    let token = FIRST.sign(&claims());
    for _ in 0..3 {
        let gone = tokio::time::timeout(Duration::from_millis(20), ask(&auth, &token)).await;
        assert!(gone.is_err());
    }
    assert!(ask(&auth, &token).await.is_ok());
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn nothing_of_a_token_is_logged() {
    let log = Log::start();
    let server = KeyServer::new(KeyServerReply::Status(500));
    let auth = auth(&server);
    let mut shown: Vec<String> = forged().into_iter().map(|(_, token)| token).collect();
    for claims in [
        claims(),
        with("email", json!(STRANGER)),
        with("aud", json!("https://aud.example")),
        without("email"),
        with("exp", json!(1)),
        with("iss", json!("https://iss.example")),
        with("iat", json!("text of iat")),
    ] {
        shown.push(FIRST.sign(&claims));
        shown.push(SECOND.sign(&claims));
    }
    assert!(is_unavailable(&ask(&auth, &FIRST.sign(&claims())).await));
    server.set(KeyServerReply::Keys(vec![FIRST.public()]));
    pass_interval().await;
    for token in &shown {
        let _ = ask(&auth, token).await;
    }
    let text = log.text();
    for said in [
        "the answer is 500",
        "could not be loaded",
        "loaded the keys",
        "not one of the published ones",
        "has expired",
        "not one that --auth-email allows",
        "another audience",
        "not issued by Google",
        "not signed with RS256",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let parts = shown.iter().flat_map(|token| token.split('.')).filter(|part| part.len() > 3);
    for part in parts.filter(|part| *part != "SIGNATURE_REMOVED_BY_GOOGLE") {
        assert!(!text.contains(part), "{part}: {text}");
    }
    for said in [
        EMAIL,
        OTHER,
        STRANGER,
        "aud.example",
        "iss.example",
        "text of iat",
        "105512345678901234567",
        "first",
        "second",
    ] {
        assert!(!text.contains(said), "{said}: {text}");
    }
}
