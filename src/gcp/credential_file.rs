//! Reads all of a credentials file that its type needs, so that one that cannot work is told with the field that is wrong.
//!
//! Google's library reads the same fields, though not before it asks for a token, and some of what it says names none of them.

use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

/// The `type` of a service account's key.
const KEY: &str = "service_account";

/// Checks what is needed of a file that has this `type`. A type that is not known is left to the library.
///
/// # Errors
/// Says which field is wrong, and what is wrong with it.
pub fn check(json: &Value, kind: &str) -> Result<(), String> {
    let needed: &[&str] = match kind {
        KEY => &["client_email", "private_key_id", "private_key", "project_id"],
        "authorized_user" => &["client_id", "client_secret", "refresh_token"],
        "external_account" => &["audience", "subject_token_type", "token_url"],
        "impersonated_service_account" => &["service_account_impersonation_url"],
        _ => return Ok(()),
    };
    for name in needed {
        let value = field(json, name)?;
        if is_placeholder(value) {
            return Err(format!("its `{name}` is {value:?}, as in a sample that nobody has filled in"));
        }
    }
    match kind {
        KEY => {
            let account = field(json, "client_email")?;
            if !account.contains('@') {
                return Err(format!("its `client_email` is no account: {account:?}"));
            }
            private_key(field(json, "private_key")?).map_err(|why| {
                format!("its `private_key` is no key that can sign ({why}); is it a sample that nobody has filled in, or cut short?")
            })
        }
        "external_account" => match json.get("credential_source") {
            Some(Value::Object(source)) => match source.get("file") {
                Some(Value::String(file)) => token_file(file),
                Some(_) => Err("in its `credential_source`: its `file` is no text".into()),
                None => Ok(()),
            },
            Some(_) => Err("its `credential_source` is no object".into()),
            None => Err("it has no `credential_source`".into()),
        },
        "impersonated_service_account" => {
            let Some(source) = json.get("source_credentials") else {
                return Err("it has no `source_credentials`".into());
            };
            let kind = field(source, "type").map_err(|why| format!("in its `source_credentials`: {why}"))?;
            check(source, kind).map_err(|why| format!("in its `source_credentials`: {why}"))
        }
        _ => Ok(()),
    }
}

fn field<'j>(json: &'j Value, name: &str) -> Result<&'j str, String> {
    match json.get(name) {
        None | Some(Value::Null) => Err(format!("it has no `{name}`")),
        Some(Value::String(text)) if text.trim().is_empty() => Err(format!("its `{name}` is empty")),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("its `{name}` is no text")),
    }
}

/// Checks that the file with the token of another identity provider is there.
fn token_file(file: &str) -> Result<(), String> {
    match std::fs::metadata(file) {
        Err(why) => Err(format!("in its `credential_source`: its `file` is {file:?}, which cannot be read: {why}")),
        Ok(_) => Ok(()),
    }
}

/// Whether a value stands for one that is to be filled in, or has a part that does, as in `projects/PROJECT_NUMBER/…`. None that
/// Google makes does so.
fn is_placeholder(value: &str) -> bool {
    let begins = [
        "YOUR_",
        "YOUR-",
        "your_",
        "your-client",
        "your-private",
        "your-refresh",
        "<",
        "[",
        "{",
        "...",
        "REPLACE",
        "xxxx",
    ];
    let is_name = |part: &str| {
        part.contains('_')
            && part.starts_with(|c: char| c.is_ascii_uppercase())
            && part.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    begins.iter().any(|begin| value.starts_with(begin)) || value.split(['/', ':', '@', '.']).any(is_name)
}

/// Checks a key as the library that signs with it reads it.
fn private_key(text: &str) -> Result<(), String> {
    if !text.contains('\n') && text.contains("\\n") {
        return Err("its line ends are a backslash and an n: something has escaped them twice".into());
    }
    // Errors of the parser may quote what they were given.
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| "it is not PEM".to_owned())?;
    if !matches!(key, PrivateKeyDer::Pkcs8(_)) {
        return Err("it does not begin with -----BEGIN PRIVATE KEY-----".into());
    }
    let key = default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| "its content is not that of a key".to_owned())?;
    match key.choose_scheme(&[rustls::SignatureScheme::RSA_PKCS1_SHA256]) {
        Some(_) => Ok(()),
        None => Err("it is not an RSA key".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_field_that_is_wrong_is_named() {
        let key = |private_key: &str| json!({"client_email": "a@b", "private_key_id": "1", "project_id": "p", "private_key": private_key});
        let person = |token: &str| json!({"client_id": "c", "client_secret": "s", "refresh_token": token});
        let imp = |source: Value| json!({"service_account_impersonation_url": "u", "source_credentials": source});
        let sample = "-----BEGIN PRIVATE KEY-----\nYOUR_Private_Key\n-----END PRIVATE KEY-----\n";
        for (json, kind, said) in [
            (json!({}), KEY, "no `client_email`"),
            (json!({"client_email": 5}), KEY, "`client_email` is no text"),
            (key(""), KEY, "`private_key` is empty"),
            (key("YOUR_Private_Key"), KEY, "`private_key` is \"YOUR_Private_Key\""),
            (key(sample), KEY, "`private_key` is no key that can sign (it is not PEM)"),
            (key(&sample.replace("YOUR_Private_Key", "AAAA")), KEY, "its content is not that of a key"),
            (key(&sample.replace('\n', "\\n")), KEY, "escaped them twice"),
            (key(&sample.replace("PRIVATE", "RSA PRIVATE").replace("YOUR_Private_Key", "AAAA")), KEY, "BEGIN PRIVATE"),
            (
                json!({"client_email": "your account", "private_key_id": "1", "project_id": "p", "private_key": "k"}),
                KEY,
                "no account",
            ),
            (person("YOUR_Refresh_Token"), "authorized_user", "`refresh_token` is"),
            (json!({"client_id": "c"}), "authorized_user", "no `client_secret`"),
            (
                json!({"audience": "a", "subject_token_type": "t", "token_url": "u"}),
                "external_account",
                "no `credential_source`",
            ),
            (imp(Value::Null), "impersonated_service_account", "in its `source_credentials`: it has no `type`"),
            (
                imp(json!({"type": "authorized_user"})),
                "impersonated_service_account",
                "credentials`: it has no `client_id`",
            ),
        ] {
            let why = check(&json, kind).unwrap_err();
            assert!(why.contains(said), "{json}: {why}");
            assert!(!why.contains("AAAA"), "{why}");
        }
        assert_eq!(check(&person("1//0"), "authorized_user"), Ok(()));
        let pool = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/POOL/providers/PROVIDER";
        let token = tempfile::NamedTempFile::new().unwrap();
        let external = |audience: &str, file: &str| json!({"audience": audience, "subject_token_type": "t", "token_url": "u", "credential_source": {"file": file}});
        let there = token.path().to_str().unwrap();
        let filled = pool.replace("POOL", "my-pool").replace("PROVIDER", "my-provider");
        for (json, kind, said) in [
            (external(&pool.replace("123/", "PROJECT_NUMBER/"), there), "external_account", "projects/PROJECT_NUMBER"),
            (external(&pool.replace("POOL/", "POOL_ID/"), there), "external_account", "in a sample"),
            (external(&filled, "/path/to/token"), "external_account", "/path/to/token"),
            (
                json!({"service_account_impersonation_url": "https://i.example/v1/projects/-/serviceAccounts/SERVICE_ACCOUNT_EMAIL:generateAccessToken"}),
                "impersonated_service_account",
                "serviceAccounts/SERVICE_ACCOUNT_EMAIL",
            ),
        ] {
            let why = check(&json, kind).unwrap_err();
            assert!(why.contains(said), "{json}: {why}");
        }
        assert_eq!(check(&external(&filled, there), "external_account"), Ok(()));
        assert_eq!(
            check(
                &json!({"audience": "a", "subject_token_type": "t", "token_url": "u", "credential_source": {"url": "http://x"}}),
                "external_account"
            ),
            Ok(())
        );
        assert_eq!(check(&json!({}), "of_tomorrow"), Ok(()));
    }
}
