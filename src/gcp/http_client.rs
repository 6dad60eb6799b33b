//! The HTTP client for all requests: storage, keys, webhooks, the Cloud Run API.

use std::net::IpAddr;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url, retry};

use crate::error::{Error, Result};
use crate::gcp::error_text::with_causes;

/// Creates a client for URLs that begin like `base`. It follows no redirects, since the server that a redirect leads to may have
/// no business with what is sent. It repeats nothing: that is decided where the meaning of a request is known. A URL with
/// `http://` is on this machine, and goes through no proxy. `settle` adds what the caller needs.
///
/// # Errors
/// The system has no certificates.
pub fn client(
    base: &str,
    doing: impl Fn() -> String,
    settle: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> Result<Client> {
    use_ring();
    let user = concat!("lastgood/", env!("CARGO_PKG_VERSION"));
    let mut client = Client::builder().user_agent(user).http1_only().redirect(Policy::none()).retry(retry::never());
    if base.starts_with("http://") {
        client = client.no_proxy();
    }
    settle(client).build().map_err(|why| {
        Error::failed(doing(), with_causes(&why)).hint("Are the system's certificates installed (ca-certificates)?")
    })
}

/// Makes TLS use ring, unless the program has settled on another provider, which is as good.
pub fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Returns scheme, host and port of a URL, to be shown: what else it has may be a password.
pub fn origin(url: &str) -> String {
    let origin = Url::parse(url).ok().map(|url| url.origin()).filter(|origin| origin.is_tuple());
    origin.map_or_else(|| "an address that is not a URL".into(), |origin| origin.ascii_serialization())
}

/// Whether an endpoint is on this machine.
pub fn is_loopback(base: &str) -> bool {
    let host = Url::parse(base).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_without_what_may_be_secret() {
        assert_eq!(
            origin("http://user:secret@proxy.example.com:8080/path?key=secret"),
            "http://proxy.example.com:8080"
        );
        for odd in ["secret", "secret:secret@host", "file:///secret", ""] {
            assert!(!origin(odd).contains("secret"), "{odd}: {}", origin(odd));
        }
    }

    #[test]
    fn what_is_on_this_machine() {
        for here in ["http://localhost:1/x", "http://127.0.0.1", "http://[::1]:8080", "https://127.9.9.9/"] {
            assert!(is_loopback(here), "{here}");
        }
        for away in ["http://example.com", "http://127.0.0.1.example.com", "http://10.0.0.1", "localhost", ""] {
            assert!(!is_loopback(away), "{away}");
        }
    }
}
