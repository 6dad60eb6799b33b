//! Explains network errors: why nothing answers, and what to do about it.

use std::fmt;

/// A proxy that a variable of the environment names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    variable: String,
    /// The address, without a user and a password.
    address: String,
}

impl Proxy {
    /// Creates it from a variable and its value.
    pub fn new(variable: &str, value: &str) -> Self {
        let (scheme, rest) = value.split_once("://").map_or(("", value), |(scheme, rest)| (scheme, rest));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let address = if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") };
        Proxy { variable: variable.into(), address }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {} ({})", self.address, self.variable)
    }
}

/// An explanation of a network error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkProblem {
    /// A description of what happened.
    pub found: String,
    /// Advice on what to do about it.
    pub advice: String,
}

/// Explains why a request to `base` (`https://storage.googleapis.com`) failed with `why`.
pub fn network_problem(why: &str, base: &str, emulator: bool, proxy: Option<&Proxy>) -> NetworkProblem {
    let host = base.split_once("://").map_or(base, |(_, host)| host);
    // Plain http, to this machine or an emulator, never goes through a proxy.
    let proxy = proxy.filter(|_| base.starts_with("https://"));
    let why = why.strip_prefix("error sending request: ").unwrap_or(why);
    let why = why.strip_prefix("client error (Connect): ").unwrap_or(why);
    // In this case the connection to the proxy itself failed.
    let why = why.strip_prefix("tunnel error: failed to create underlying connection: ").unwrap_or(why);
    let low = why.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| low.contains(word));
    let through = proxy.map(|proxy| format!(" through {proxy}")).unwrap_or_default();
    let told = |found: String, advice: &str| NetworkProblem { found: format!("{found}: {why}"), advice: advice.into() };
    let curl = format!("`curl -sSv {base}` shows the same from outside lastgood.");

    let barred = proxy.map_or("not let through".to_owned(), |proxy| format!("not let through by {proxy}"));
    if has(&["407", "proxy authorization required", "proxy authentication required"]) {
        let variable = proxy.map_or("HTTPS_PROXY", |proxy| &proxy.variable);
        let advice = format!("Put user and password into the variable: {variable}=http://USER:PASSWORD@HOST:PORT.");
        return told(format!("{barred}, which asks for a password"), &advice);
    }
    if has(&["tunnel", "socks"]) {
        let advice = format!("Does the proxy allow {host}, port 443? If none is needed: NO_PROXY={host}.");
        return told(barred, &advice);
    }
    if has(&["certificate"]) {
        let found = format!("what answers{through} is not {host}, by its certificate");
        return if has(&["expired", "notvalidyet", "not valid yet"]) {
            told(found, "Is this machine's clock right? `date -u` says; `timedatectl set-ntp true` sets it.")
        } else {
            told(
                found,
                "Are the system's certificates installed (`apt install ca-certificates`)? If a proxy here opens encrypted \
                 connections, name the file of its certificate: SSL_CERT_FILE=/path/ca.pem.",
            )
        };
    }
    if has(&["dns error", "failed to lookup", "name resolution"]) {
        // What comes before the last part says that it is an error of the resolver, four times.
        let why = why.rsplit(": ").next().unwrap_or(why);
        let told =
            |found: String, advice: &str| NetworkProblem { found: format!("{found}: {why}"), advice: advice.into() };
        let advice = format!(
            "Is there a network, and a name server in /etc/resolv.conf? `getent hosts {host}` asks it. Where only a proxy leads \
             out, set HTTPS_PROXY=http://HOST:PORT."
        );
        return match proxy {
            None => told(format!("the name {host} cannot be resolved"), &advice),
            Some(proxy) => told(
                format!("not reached{through}, whose name cannot be resolved"),
                &format!("Is {} right? Unset it where no proxy is needed.", proxy.variable),
            ),
        };
    }
    if has(&["connection refused"]) {
        return if emulator {
            told(
                format!("no emulator answers at {base}"),
                "Start it, or unset STORAGE_EMULATOR_HOST to use Google's service.",
            )
        } else if let Some(proxy) = proxy {
            told(
                format!("not reached{through}, which refuses connections"),
                &format!("Is the proxy running? Correct {}, or unset it where no proxy is needed.", proxy.variable),
            )
        } else {
            told(format!("{host} refuses connections"), &format!("A firewall, or the wrong endpoint? {curl}"))
        };
    }
    if has(&["unreachable", "no route"]) {
        return told(format!("there is no way to {host}{through}"), &format!("Is this machine on a network? {curl}"));
    }
    if has(&["timed out", "no answer", "no bytes", "deadline"]) {
        let advice = match proxy {
            Some(_) => format!("Does the proxy work? {curl}"),
            None => format!(
                "A firewall that drops it, or a network that only a proxy leads out of (HTTPS_PROXY=http://HOST:PORT)? {curl}"
            ),
        };
        return told(format!("{host} does not answer{through}"), &advice);
    }
    if why.starts_with("429") || why.starts_with('5') {
        return told(
            format!("{host} answers, but does not serve"),
            "It may pass: run it again in a minute. https://status.cloud.google.com tells of outages.",
        );
    }
    told(format!("{host} cannot be used{through}"), &curl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_trouble_is_told_apart() {
        let proxy = Proxy::new("HTTPS_PROXY", "http://user:p@ss@proxy.lan:3128");
        assert_eq!(proxy.to_string(), "the proxy http://proxy.lan:3128 (HTTPS_PROXY)");
        let dns = "client error (Connect): dns error: failed to lookup address information: Name or service not known";
        let refused = "client error (Connect): tcp connect error: Connection refused (os error 111)";
        for (why, proxy, found, advice) in [
            (
                dns,
                None,
                "the name storage.googleapis.com cannot be resolved: Name or service not known",
                "getent hosts",
            ),
            (dns, Some(&proxy), "whose name cannot be resolved", "HTTPS_PROXY right"),
            (refused, None, "storage.googleapis.com refuses connections: tcp", "firewall"),
            (
                "error sending request: client error (Connect): tunnel error: failed to create underlying connection: tcp \
                 connect error: Connection refused (os error 111)",
                Some(&proxy),
                "which refuses connections: tcp",
                "running",
            ),
            (refused, Some(&proxy), "through the proxy http://proxy.lan:3128 (HTTPS_PROXY), which refuses", "running"),
            (
                "error sending request: client error (Connect): tunnel error: unsuccessful",
                Some(&proxy),
                "not let through",
                "NO_PROXY",
            ),
            (
                "client error (Connect): tunnel error: proxy authorization required",
                Some(&proxy),
                "a password",
                "USER:PASSWORD",
            ),
            (
                "client error (Connect): invalid peer certificate: UnknownIssuer",
                None,
                "by its certificate",
                "SSL_CERT_FILE",
            ),
            ("client error (Connect): invalid peer certificate: Expired", None, "by its certificate", "clock"),
            ("client error (Connect): operation timed out", None, "does not answer: op", "only a proxy leads"),
            ("no answer for 5 s", Some(&proxy), "does not answer through the proxy", "Does the proxy work"),
            ("client error (Connect): Network is unreachable (os error 101)", None, "no way to", "on a network"),
            ("503 Service Unavailable", None, "does not serve: 503", "status.cloud.google.com"),
            ("something new", None, "cannot be used: something new", "curl -sSv https://storage.googleapis.com"),
        ] {
            let said = network_problem(why, "https://storage.googleapis.com", false, proxy);
            assert!(said.found.contains(found) && said.advice.contains(advice), "{why}: {said:?}");
        }
        let said = network_problem(refused, "http://127.0.0.1:9000", true, Some(&proxy));
        assert!(said.found.contains("no emulator answers at http://127.0.0.1:9000"), "{said:?}");
        assert!(said.advice.contains("STORAGE_EMULATOR_HOST"), "{said:?}");
    }
}
