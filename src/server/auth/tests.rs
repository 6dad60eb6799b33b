//! Tests of settings, addresses, the header, and the secret; those of Google's tokens are in `oidc_tests`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use super::*;

pub(super) const SECRET: &str = "correct-horse-battery";

/// Collects everything that is logged while it lives, at every level.
pub(super) struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _second: tracing::Dispatch,
    _guard: tracing::subscriber::DefaultGuard,
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn start() -> Log {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Sink(sink.clone()))
            .finish();
        // With one subscriber alone, a log statement that another test's thread reaches first, where nobody listens, is silent
        // for all threads.
        let second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
        Log { text, _second: second, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

pub(super) fn authorization(value: impl AsRef<[u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_bytes(value.as_ref()).unwrap());
    headers
}

fn oidc() -> AuthSettings {
    AuthSettings {
        auth: Some(AuthKind::Oidc),
        audience: Some("https://backup.example".into()),
        emails: vec!["push@project.iam.gserviceaccount.com".into()],
        ..AuthSettings::default()
    }
}

fn token(text: &str) -> AuthSettings {
    AuthSettings { auth: Some(AuthKind::Token), token: Some(text.into()), ..AuthSettings::default() }
}

fn refused(settings: AuthSettings) -> String {
    let why = AuthPolicy::new(settings).unwrap_err();
    assert!(why.advice().is_some(), "{why}");
    why.to_string()
}

#[test]
fn settings_that_fit() {
    assert!(matches!(AuthPolicy::new(AuthSettings::default()).unwrap(), AuthPolicy::None));
    assert!(matches!(
        AuthPolicy::new(AuthSettings { auth: Some(AuthKind::None), insecure: true, ..AuthSettings::default() })
            .unwrap(),
        AuthPolicy::None
    ));
    assert!(matches!(
        AuthPolicy::new(AuthSettings { auth: Some(AuthKind::CloudRun), ..AuthSettings::default() }).unwrap(),
        AuthPolicy::CloudRun
    ));
    assert!(matches!(AuthPolicy::new(token(SECRET)).unwrap(), AuthPolicy::Token(_)));
    // The variable may be set for the sake of a client.
    assert!(matches!(
        AuthPolicy::new(AuthSettings { token: Some(SECRET.into()), ..oidc() }).unwrap(),
        AuthPolicy::Oidc { .. }
    ));
    for url in ["https://keys.example/certs", "http://127.0.0.1:8000/certs", "http://[::1]/certs"] {
        assert!(AuthPolicy::new(AuthSettings { jwks_url: Some(url.into()), ..oidc() }).is_ok(), "{url}");
    }
    for (name, kind) in [
        ("oidc", AuthKind::Oidc),
        ("token", AuthKind::Token),
        ("cloud-run", AuthKind::CloudRun),
        ("none", AuthKind::None),
    ] {
        assert_eq!(name.parse::<AuthKind>().unwrap(), kind);
    }
    assert!("OIDC".parse::<AuthKind>().is_err());
}

#[test]
fn settings_that_lack_or_contradict_are_refused() {
    assert!(refused(AuthSettings { audience: None, ..oidc() }).contains("--auth-audience"));
    assert!(refused(AuthSettings { audience: Some(String::new()), ..oidc() }).contains("--auth-audience"));
    assert!(
        refused(AuthSettings { audience: Some("https://a.example ".into()), ..oidc() }).contains("--auth-audience")
    );
    assert!(refused(AuthSettings { emails: Vec::new(), ..oidc() }).contains("--auth-email"));
    for email in ["", "nobody", "@example.com", "a@", "*@example.com", "a@b.example,c@d.example", "a@b.example "] {
        let emails = vec!["good@example.com".into(), email.into()];
        assert!(refused(AuthSettings { emails, ..oidc() }).contains("--auth-email"), "{email:?}");
    }
    for url in ["http://keys.example/certs", "http://127.0.0.1.example/certs", "ftp://127.0.0.1/", "certs"] {
        assert!(refused(AuthSettings { jwks_url: Some(url.into()), ..oidc() }).contains("https://"), "{url}");
    }
    assert!(
        refused(AuthSettings { auth: Some(AuthKind::Token), ..AuthSettings::default() }).contains("LASTGOOD_TOKEN")
    );
    assert!(refused(AuthSettings { auth: None, ..oidc() }).contains("--auth oidc"));
    assert!(refused(AuthSettings { auth: Some(AuthKind::CloudRun), ..oidc() }).contains("--auth oidc"));
    assert!(refused(AuthSettings { token_file: Some("token".into()), ..oidc() }).contains("--auth token"));
    assert!(refused(AuthSettings { insecure: true, ..oidc() }).contains("--auth none"));
    assert!(refused(AuthSettings { insecure: true, ..AuthSettings::default() }).contains("--auth none"));
}

#[test]
fn a_token_that_cannot_serve_is_refused_without_repeating_it() {
    let long = "x".repeat(5000);
    for bad in [
        "",
        "short-secret-15",
        "blanks in the middle of it",
        "tab\tin-the-middle-of",
        "comma,in-the-middle-of",
        "two-lines-of-text\nare-no-token",
        "ünïcödé-is-no-header",
        &long,
    ] {
        let why = refused(token(bad));
        assert!(bad.is_empty() || !why.contains(bad), "{why}");
        assert!(why.contains("LASTGOOD_TOKEN"), "{why}");
        assert_eq!(AuthPolicy::new(token(bad)).unwrap_err().word(), "bad-setting");
    }
    let bytes = std::os::unix::ffi::OsStringExt::from_vec(b"\xff\xfe-is-not-any-text".to_vec());
    assert!(refused(AuthSettings { token: Some(bytes), ..token("") }).contains("ASCII"));
    assert!(AuthPolicy::new(token("sixteen-chars-16")).is_ok());
    assert_eq!(format!("{:?}", AuthPolicy::new(token(SECRET)).unwrap()), "Token(Secret)");
}

#[tokio::test]
async fn a_token_file_is_read_once_without_its_line_end_and_before_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let settings = || AuthSettings {
        auth: Some(AuthKind::Token),
        token_file: Some(path.clone()),
        token: Some(OsString::from("another-token-entirely")),
        ..AuthSettings::default()
    };
    let missing = AuthPolicy::new(settings()).unwrap_err().to_string();
    assert!(missing.contains(path.to_str().unwrap()), "{missing}");
    let longest = "x".repeat(4096);
    for (end, secret) in [("", SECRET), ("\n", SECRET), ("\r\n", SECRET), ("\r\n", &longest)] {
        std::fs::write(&path, format!("{secret}{end}")).unwrap();
        let auth = Authorizer::new(AuthPolicy::new(settings()).unwrap()).unwrap();
        std::fs::write(&path, "a-new-token-in-the-file").unwrap();
        assert!(auth.check(&authorization(format!("Bearer {secret}"))).await.is_ok());
        for other in ["another-token-entirely", "a-new-token-in-the-file"] {
            assert_eq!(auth.check(&authorization(format!("Bearer {other}"))).await, Err(Denied::Unauthorized));
        }
    }
    for bad in ["short\n".to_owned(), format!("{SECRET}\n\n"), format!("{longest}x"), format!("{longest}\r\nx")] {
        std::fs::write(&path, &bad).unwrap();
        let why = AuthPolicy::new(settings()).unwrap_err().to_string();
        assert!(why.contains(path.to_str().unwrap()) && !why.contains(bad.trim()), "{why}");
    }
}

#[test]
fn a_token_file_that_everybody_may_read_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, SECRET).unwrap();
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let log = Log::start();
        Secret::read(&path).unwrap();
        assert_eq!(log.text().contains("chmod"), warned, "{mode:o}: {}", log.text());
        assert!(!log.text().contains(SECRET));
    }
}

#[test]
fn off_loopback_somebody_must_say_who_may_ask() {
    let none = AuthPolicy::new(AuthSettings::default()).unwrap();
    for address in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        assert!(none.check_listen(address.parse().unwrap(), false, false).is_ok(), "{address}");
    }
    for address in ["0.0.0.0:8080", "10.0.0.1:80", "[::]:80", "[::ffff:10.0.0.1]:80", "192.168.0.2:80"] {
        let address: SocketAddr = address.parse().unwrap();
        for k_service in [false, true] {
            let why = none.check_listen(address, false, k_service).unwrap_err();
            assert!(why.advice().unwrap().contains("--auth oidc"), "{why}");
        }
        assert!(none.check_listen(address, true, false).is_ok());
        for mode in [AuthPolicy::new(oidc()).unwrap(), AuthPolicy::new(token(SECRET)).unwrap()] {
            assert!(mode.check_listen(address, false, false).is_ok());
        }
        assert!(AuthPolicy::CloudRun.check_listen(address, false, true).is_ok());
        let why = AuthPolicy::CloudRun.check_listen(address, true, false).unwrap_err().to_string();
        assert!(why.contains("K_SERVICE"), "{why}");
    }
    assert!(AuthPolicy::CloudRun.check_listen("127.0.0.1:80".parse().unwrap(), false, false).is_err());
}

#[tokio::test]
async fn behind_cloud_run_and_without_a_check_everybody_may_ask_but_not_for_the_same() {
    for headers in [HeaderMap::new(), authorization("Bearer whatever"), authorization(b"\xff\xfe")] {
        let caller = Authorizer::new(AuthPolicy::CloudRun).unwrap().check(&headers).await.unwrap();
        assert!(!caller.may_restore() && !caller.may_download() && caller.email().is_none());
        let caller = Authorizer::new(AuthPolicy::None).unwrap().check(&headers).await.unwrap();
        assert!(caller.may_restore() && caller.may_download() && caller.email().is_none());
    }
}

#[tokio::test]
async fn the_right_token_passes_and_no_other() {
    let auth = Authorizer::new(AuthPolicy::new(token(SECRET)).unwrap()).unwrap();
    for right in ["Bearer", "bearer", "BEARER", "Bearer  ", " Bearer"].map(|scheme| format!("{scheme} {SECRET}")) {
        let caller = auth.check(&authorization(&right)).await.unwrap();
        assert!(caller.may_restore() && caller.may_download(), "{right}");
    }
    assert!(auth.check(&authorization(format!("Bearer {SECRET} "))).await.is_ok());
    let wrong = [
        "Bearer correct-horse-batterz".to_owned(),
        format!("Bearer {}", &SECRET[..SECRET.len() - 1]),
        format!("Bearer {SECRET}x"),
        format!("Bearer {SECRET} {SECRET}"),
        format!("Bearer {SECRET},Bearer {SECRET}"),
        format!("Bearer {SECRET}\t"),
        format!("Bearer x,{SECRET}"),
        format!("Bearer\t{SECRET}"),
        format!("Bearer{SECRET}"),
        format!("Bearers {SECRET}"),
        format!("Basic {SECRET}"),
        SECRET.to_owned(),
        format!("Bearer {}", SECRET.to_uppercase()),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        String::new(),
        " ".to_owned(),
    ];
    let log = Log::start();
    for wrong in &wrong {
        let answer = auth.check(&authorization(wrong)).await;
        if wrong.ends_with('\t') {
            // Blanks around a header's value are not a part of it.
            assert!(answer.is_ok());
        } else {
            assert_eq!(answer, Err(Denied::Unauthorized), "{wrong:?}");
        }
    }
    let bytes = [b"Bearer ", SECRET.as_bytes(), b"\xff"].concat();
    assert_eq!(auth.check(&authorization(bytes)).await, Err(Denied::Unauthorized));
    assert_eq!(auth.check(&authorization(b"\xff\xfe\x80")).await, Err(Denied::Unauthorized));
    assert_eq!(auth.check(&HeaderMap::new()).await, Err(Denied::Unauthorized));
    let mut two = authorization(format!("Bearer {SECRET}"));
    two.append(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {SECRET}")).unwrap());
    assert_eq!(auth.check(&two).await, Err(Denied::Unauthorized));
    let mut elsewhere = HeaderMap::new();
    elsewhere.insert("x-serverless-authorization", HeaderValue::from_str(&format!("Bearer {SECRET}")).unwrap());
    assert_eq!(auth.check(&elsewhere).await, Err(Denied::Unauthorized));

    let text = log.text();
    assert!(
        text.contains("is not the one of LASTGOOD_TOKEN") && text.contains("more than one Authorization"),
        "{text}"
    );
    for secret in [SECRET, &SECRET[..8], "CORRECT", "batterz"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn a_client_is_told_the_status_and_what_http_demands() {
    assert_eq!(Denied::Unauthorized.status(), 401);
    assert_eq!(Denied::Unauthorized.header(), Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))));
    assert_eq!((Denied::Forbidden.status(), Denied::Forbidden.header()), (StatusCode::FORBIDDEN, None));
    for (time, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (9999, "10"), (u64::MAX, "3600")] {
        let denied = Denied::Unavailable { retry_after: Duration::from_millis(time) };
        assert_eq!(denied.status(), 503);
        assert_eq!(denied.header(), Some((RETRY_AFTER, HeaderValue::from_static(seconds))));
    }
}

#[test]
fn a_check_can_run_in_any_task() {
    fn goes_between_threads<T: Send>(_: T) {}
    let auth = Authorizer::new(AuthPolicy::None).unwrap();
    goes_between_threads(auth.check(&HeaderMap::new()));
    goes_between_threads(auth);
}
