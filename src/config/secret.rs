//! What is secret among the settings, and how it is shown.

use std::borrow::Cow;

use lastgood::mask::Masker;
use reqwest::Url;

/// Options that are secrets as a whole: whoever has the URL can use it.
const URLS: [&str; 2] = ["webhook", "ping"];
/// Options that are commands: of these, what looks like a secret is hidden.
const COMMANDS: [&str; 5] = ["before-backup", "after-backup", "before-restore", "after-restore", "on-failure"];
/// Ends of the names of options and variables that are secrets.
const ENDS: [&str; 4] = ["token", "secret", "password", "key"];
/// What is shown in place of a secret.
const HIDDEN: &str = "***";

/// Whether the value of an option or a variable is a secret, by its name.
pub fn is_secret(name: &str) -> bool {
    let name = as_option(name);
    URLS.contains(&&*name) || ENDS.contains(&name.rsplit('-').next().unwrap_or_default())
}

/// Whether the value of an option or a variable is a command, by its name.
fn is_command(name: &str) -> bool {
    COMMANDS.contains(&&*as_option(name))
}

/// Returns the name of an option, of which `name` may be the variable.
fn as_option(name: &str) -> String {
    name.strip_prefix("LASTGOOD_").unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// Returns a value as it may be shown: no token, and URLs without what comes after the host, where their secrets are.
pub fn shown<'v>(name: &str, value: &'v str) -> Cow<'v, str> {
    let hidden: Vec<Cow<str>> = value.split(' ').map(without_path).collect();
    match is_secret(name) {
        // A secret that is not a URL, such as one whose beginning is missing, is hidden as a whole.
        true if Url::parse(value.trim()).is_ok_and(|url| url.has_host()) => without_path(value.trim()),
        true if value.is_empty() => value.into(),
        true => HIDDEN.into(),
        false if is_command(name) => masked(&hidden.join(" ")).into(),
        false if hidden.iter().all(|word| matches!(word, Cow::Borrowed(_))) => value.into(),
        false => hidden.join(" ").into(),
    }
}

/// Returns a command without what looks like a secret, as in the output of an app.
fn masked(command: &str) -> String {
    let masker = Masker::new::<&str>(&[]);
    masker
        .map_or_else(|_| HIDDEN.into(), |masker| String::from_utf8_lossy(&masker.mask(command.as_bytes())).into_owned())
}

/// Returns a word without the path, the query and the user of the URL in it.
fn without_path(word: &str) -> Cow<'_, str> {
    let lower = word.to_ascii_lowercase();
    let Some(at) = ["https://", "http://"].into_iter().filter_map(|scheme| lower.find(scheme)).min() else {
        return word.into();
    };
    let (before, url) = word.split_at(at);
    let Ok(url) = Url::parse(url) else { return format!("{before}{HIDDEN}").into() };
    let plain = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    match plain && url.username().is_empty() && url.password().is_none() {
        true => word.into(),
        false => format!("{before}{}/…", url.origin().ascii_serialization()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden() {
        for (name, value, expected) in [
            ("webhook", "https://hooks.example.com/services/T0/B0/x", "https://hooks.example.com/…"),
            ("LASTGOOD_WEBHOOK", "https://hooks.example.com:8443/x?y", "https://hooks.example.com:8443/…"),
            ("webhook", "hooks.example.com/services/x", "***"),
            ("ping", "https://hc-ping.com/0b", "https://hc-ping.com/…"),
            ("LASTGOOD_TOKEN", "0123", "***"),
            ("LASTGOOD_TOKEN", "", ""),
            ("token-file", "/run/secrets/token", "/run/secrets/token"),
            ("public-url", "https://me:pass@example.com", "https://example.com/…"),
            ("after-backup", "curl -d a https://example.com/secret", "curl -d a https://example.com/…"),
            ("after-backup", "curl --url=HTTPS://example.com/secret", "curl --url=https://example.com/…"),
            ("after-backup", "curl https://[secret", "curl ***"),
            ("auth-audience", "https://example.com", "https://example.com"),
            ("results-topic", "projects/p/topics/t", "projects/p/topics/t"),
            ("vault", "gs://bucket/app", "gs://bucket/app"),
        ] {
            assert_eq!(shown(name, value), expected, "{name}");
        }
        for name in ["before-backup", "LASTGOOD_ON_FAILURE"] {
            let command = shown(name, "curl -H \"Authorization: Bearer abc123secret\" https://example.com/x");
            assert!(!command.contains("abc123secret") && command.contains("https://example.com/…"), "{command}");
        }
        assert!(is_secret("LASTGOOD_PING") && is_secret("api-key") && !is_secret("auth-keys-url"));
    }
}
