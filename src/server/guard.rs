//! Checks of a request before anything else is looked at: whether it is clear whom it is for, and whether the page of another
//! site has a browser send it.
//!
//! A browser sends requests for whatever page it shows, also to services on loopback and in a private network, where nothing
//! else keeps strangers out. Two things keep such a page from asking for a run or reading a file, whatever `--auth` is:
//!
//! - A request that may change something is refused with 403 if the browser says that another site asks: by `Sec-Fetch-Site`,
//!   which no page can set, else by `Origin`. Programs send neither. GET and HEAD change nothing.
//!   <https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>
//! - A listener on loopback answers to the names of loopback alone, and else with 421: a page whose own name has been made to
//!   mean 127.0.0.1 (DNS rebinding) is of the same site as the service for its browser. `/live` tells nothing, and is answered
//!   to any name.
//! - A listener elsewhere at which everybody may ask (`--auth none --insecure`) has to be addressed by an IP address, as
//!   `localhost`, by a name that nobody can register (without a dot, or below a [`PRIVATE`] one) or as `--public-url` says, since
//!   no page of a stranger can have such a name; else it answers with 421. A request that reads is judged by the name alone,
//!   since over plain HTTP a browser's GET says nothing else that a page could not say otherwise, and many programs call
//!   themselves Mozilla. A request that may change something has its name judged only if a browser sends it, which says so by
//!   `Sec-Fetch-Site` or `Origin`. With credentials nothing of this is needed: a page of another name has none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{GetAll, HOST, HeaderValue, ORIGIN, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode, Version};
use reqwest::Url;

use super::answer::{self, Reply};
use super::routes::RouteMatch;

/// Suffixes of names that nobody can register: those of private networks (RFC 6761, 6762, 8375; ICANN's `.internal`) and of
/// services in Kubernetes.
const PRIVATE: [&str; 5] = [".internal", ".local", ".localhost", ".home.arpa", ".svc"];

/// Decides which requests are let in.
#[derive(Debug)]
pub struct Guard {
    /// Where the service listens, if that is on loopback.
    loopback: Option<SocketAddr>,
    /// Whether everybody may ask.
    open: bool,
    /// Where browsers find the service, if that is another address than the one they send.
    public: Option<Url>,
}

impl Guard {
    /// Creates the guard of a service that listens at `listen`, which others know as `public`, and at which everybody may ask if
    /// it is `open`.
    pub fn new(listen: SocketAddr, public: Option<Url>, open: bool) -> Self {
        let loopback = Some(listen).filter(|listen| listen.ip().to_canonical().is_loopback());
        Guard { loopback, open, public }
    }

    /// Checks whether a request that leads to `found` is let in.
    ///
    /// # Errors
    /// The answer to a request that is not let in.
    pub fn check(&self, parts: &Parts, found: &RouteMatch) -> Result<(), Reply> {
        let own = authority(parts)?;
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        let codings = parts.headers.get_all(TRANSFER_ENCODING);
        if codings.iter().count() > 1
            || codings.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        {
            let why = "the only transfer coding that is understood is chunked, by itself";
            return Err(answer::last(answer::error(StatusCode::NOT_IMPLEMENTED, why)));
        }
        if let Some(listen) = self.loopback
            && !found.is_live()
            && !own.as_ref().is_some_and(|own| self.is_of_loopback(listen, own))
        {
            let port = listen.port();
            let why = format!(
                "this is a service on loopback: it answers to localhost:{port}, 127.0.0.1:{port} and [::1]:{port}, and \
                 to the host of --public-url"
            );
            return Err(answer::error(StatusCode::MISDIRECTED_REQUEST, why));
        }
        if self.open
            && self.loopback.is_none()
            && !found.is_live()
            && (reads || is_of_a_browser(parts))
            && own.as_ref().is_some_and(|own| !self.is_no_name_of_a_page(own))
        {
            let why = "everybody may ask here, so this service answers only to its address, to localhost, to a name of its own network \
                       (without a dot, or .internal, .local, .svc) and to the host of --public-url: any other name may be \
                       that of a web page which somebody has pointed at this address";
            return Err(answer::error(StatusCode::MISDIRECTED_REQUEST, why));
        }
        if !reads && !self.is_of_this_site(parts, own.as_ref()) {
            let why = "pages of other sites may not ask for this (--public-url names this service's own site)";
            return Err(answer::error(StatusCode::FORBIDDEN, why));
        }
        Ok(())
    }

    /// Whether a name is one of loopback, with the port of the listener, or the public one.
    fn is_of_loopback(&self, listen: SocketAddr, own: &Authority) -> bool {
        let Ok(own) = Url::parse(&format!("http://{own}")) else { return false };
        let address = own.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        let known = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), listen.ip().to_canonical()];
        let named = own.host_str() == Some("localhost") || address.is_some_and(|ip| known.contains(&ip.to_canonical()));
        let here = named && own.port_or_known_default() == Some(listen.port());
        here || self.is_public(own.authority())
    }

    /// Whether no page of another site can have this name: it is an address, the machine's own or another name that nobody can
    /// register, or the public one.
    fn is_no_name_of_a_page(&self, own: &Authority) -> bool {
        let host = own.host();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let single = !host.is_empty() && !host.contains('.');
        let lower = host.to_ascii_lowercase();
        let private = PRIVATE.iter().any(|end| lower.len() > end.len() && lower.ends_with(end));
        address || single || private || self.is_public(own.as_str())
    }

    fn is_public(&self, authority: &str) -> bool {
        self.public.as_ref().is_some_and(|public| is_at(public, authority))
    }

    /// Whether the browser says that the page that asks is of this site, or says nothing about it.
    fn is_of_this_site(&self, parts: &Parts, own: Option<&Authority>) -> bool {
        let all = |values: GetAll<HeaderValue>, is: &dyn Fn(&HeaderValue) -> bool| {
            let mut values = values.into_iter().peekable();
            values.peek().is_some().then(|| values.all(is))
        };
        let site = all(parts.headers.get_all("sec-fetch-site"), &|site| site == "same-origin" || site == "none");
        let origin = || all(parts.headers.get_all(ORIGIN), &|origin| self.is_own_origin(origin, own));
        site.or_else(origin).unwrap_or(true)
    }

    /// Whether an origin is the public one, or the one that the request itself is sent to. A proxy in front may have removed TLS,
    /// so that only the browser knows the scheme.
    fn is_own_origin(&self, origin: &HeaderValue, own: Option<&Authority>) -> bool {
        let Some(origin) = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok()) else { return false };
        let public = self.public.as_ref().is_some_and(|public| public.origin() == origin.origin());
        public || own.is_some_and(|own| is_at(&origin, own.as_str()))
    }
}

/// Whether a browser sends the request: with any request that may change something, it says where that comes from.
fn is_of_a_browser(parts: &Parts) -> bool {
    parts.headers.contains_key("sec-fetch-site") || parts.headers.contains_key(ORIGIN)
}

/// Whether a URL leads to an authority, whose port may be left out where it is that of the URL's scheme.
fn is_at(url: &Url, authority: &str) -> bool {
    Url::parse(&format!("{}://{authority}", url.scheme())).is_ok_and(|at| url.origin() == at.origin())
}

/// Returns the authority that a request is for (RFC 9112, sections 3.2 and 3.3): that of its target, else the one Host header.
/// HTTP/1.0 need not have either.
fn authority(parts: &Parts) -> Result<Option<Authority>, Reply> {
    let wrong = |why: &str| Err(answer::last(answer::error(StatusCode::BAD_REQUEST, why)));
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let read =
        |host: &HeaderValue| Authority::try_from(host.as_bytes()).ok().filter(|host| !host.as_str().contains('@'));
    match (host.map(read), another) {
        (_, Some(_)) => wrong("it has more than one Host header"),
        (Some(None), _) => wrong("its Host header is not a host and a port"),
        (None, _) if parts.version == Version::HTTP_11 => wrong("it has no Host header"),
        (host, _) => Ok(parts.uri.authority().cloned().or(host.flatten())),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::routes;
    use super::*;

    /// Returns the status of a request, whose head is given as text; 200 if it is let in.
    fn status(guard: &Guard, head: &str) -> u16 {
        let mut lines = head.lines();
        let mut first = lines.next().unwrap().split(' ');
        let (method, target) = (first.next().unwrap(), first.next().unwrap());
        let version = if first.next() == Some("1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut request = Request::builder().method(method).uri(target).version(version);
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        let found = routes::find(&parts.method, parts.uri.path());
        guard.check(&parts, &found).map_or_else(|reply| reply.status().as_u16(), |()| 200)
    }

    fn guard(listen: &str, public: Option<&str>) -> Guard {
        Guard::new(listen.parse().unwrap(), public.map(|url| url.parse().unwrap()), false)
    }

    #[test]
    fn where_everybody_may_ask_it_has_to_be_called_as_no_page_is() {
        let public = "https://backup.example.com";
        let open = Guard { open: true, ..guard("10.0.0.1:8080", Some(public)) };
        let browsers = ["Sec-Fetch-Site: same-origin", "Origin: http://HOST"];
        // PowerShell and monitoring programs call themselves so.
        let programs =
            ["", "User-Agent: curl/8.5", "User-Agent: Mozilla/5.0 (Windows NT; de-DE) WindowsPowerShell/5.1"];
        for (host, expected) in [
            ("10.0.0.1:8080", 200),
            ("192.168.0.1", 200),
            ("[fd00::1]:8080", 200),
            ("localhost:8080", 200),
            ("LocalHost", 200),
            ("lastgood:8080", 200),
            ("backup.example.com", 200),
            ("evil.example:8080", 421),
            ("10.0.0.1.nip.io:8080", 421),
            ("localhost.evil.example", 421),
            ("backup.example.com.evil.example", 421),
            ("lastgood.monitoring.svc:8080", 200),
            ("lastgood.monitoring.svc.cluster.local:8080", 200),
            ("vm.c.project.Internal", 200),
            ("internal.example", 421),
            ("lastgood.:8080", 421),
            (".:8080", 421),
        ] {
            for headers in browsers.iter().chain(&programs) {
                let headers = headers.replace("HOST", host);
                let get = format!("GET /backup/list\nHost: {host}\n{headers}");
                assert_eq!(status(&open, &get), expected, "{get}");
                assert_eq!(status(&open, &get.replace("GET /backup/list", "HEAD /none")), expected, "{get}");
                assert_eq!(status(&open, &get.replace("/backup/list", "/live")), 200);
            }
            for headers in browsers {
                let post = format!("POST /backup/trigger\nHost: {host}\n{}", headers.replace("HOST", host));
                assert_eq!(status(&open, &post), expected, "{post}");
            }
            for headers in programs {
                assert_eq!(status(&open, &format!("POST /backup/trigger\nHost: {host}\n{headers}")), 200, "{host}");
            }
        }
        // No page can have a browser leave out the Host header.
        assert_eq!(status(&open, "GET /health 1.0"), 200);
        // Credentials are enough: a page of another name does not have them.
        let closed = guard("10.0.0.1:8080", None);
        assert_eq!(status(&closed, &format!("GET /backup/list\nHost: evil.example\n{}", browsers[0])), 200);
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let guard = guard("0.0.0.0:8080", Some("https://backup.example.com"));
        for (headers, expected) in [
            ("", 200),
            ("Sec-Fetch-Site: same-origin", 200),
            ("Sec-Fetch-Site: none", 200),
            ("Sec-Fetch-Site: same-origin\nOrigin: https://evil.example", 200),
            ("Sec-Fetch-Site: cross-site", 403),
            ("Sec-Fetch-Site: same-site", 403),
            ("Sec-Fetch-Site: ", 403),
            ("Sec-Fetch-Site: Same-Origin", 403),
            ("Sec-Fetch-Site: same-origin\nSec-Fetch-Site: cross-site", 403),
            ("Sec-Fetch-Site: cross-site\nOrigin: http://me:8080", 403),
            ("Origin: http://me:8080", 200),
            ("Origin: https://ME:8080", 200),
            ("Origin: https://backup.example.com", 200),
            ("Origin: https://backup.example.com:443", 200),
            ("Origin: http://backup.example.com", 403),
            ("Origin: https://backup.example.com.evil.example", 403),
            ("Origin: http://me", 403),
            ("Origin: http://me:3000", 403),
            ("Origin: http://me:8080\nOrigin: http://evil.example", 403),
            ("Origin: null", 403),
            ("Origin: file://", 403),
            ("Origin: chrome-extension://me:8080", 403),
            ("Origin: ", 403),
            ("Origin: me:8080", 403),
        ] {
            for path in ["/", "/events/critical", "/backup/trigger", "/backup/restore", "/live", "/none", "/runs/1"] {
                for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "X"] {
                    let head = format!("{method} {path}\nHost: me:8080\n{headers}");
                    assert_eq!(status(&guard, &head), expected, "{head}");
                }
                for method in ["GET", "HEAD"] {
                    assert_eq!(status(&guard, &format!("{method} {path}\nHost: me:8080\n{headers}")), 200);
                }
            }
        }
        // The default port of the scheme may be left out.
        assert_eq!(status(&guard, "POST /\nHost: x.run.app\nOrigin: https://x.run.app"), 200);
        assert_eq!(status(&guard, "POST /\nHost: x.run.app:443\nOrigin: https://x.run.app"), 200);
        assert_eq!(status(&guard, "POST /\nHost: x.run.app:443\nOrigin: http://x.run.app"), 403);
    }

    #[test]
    fn a_listener_on_loopback_answers_to_its_own_names() {
        for listen in ["127.0.0.1:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
            let guard = guard(listen, Some("https://backup.example.com/x"));
            for host in [
                "localhost:8080",
                "LocalHost:8080",
                "127.0.0.1:8080",
                "[::1]:8080",
                "backup.example.com",
                "backup.example.com:443",
            ] {
                assert_eq!(status(&guard, &format!("GET /backup/list\nHost: {host}")), 200, "{host}");
            }
            for host in [
                "evil.example:8080",
                "localhost",
                "localhost:80",
                "localhost.evil.example:8080",
                "localhost.:8080",
                "127.0.0.1",
                "127.0.0.9:8080",
                "192.168.0.1:8080",
                "[::2]:8080",
                "backup.example.com:8080",
            ] {
                for method in ["GET", "POST"] {
                    for path in ["/", "/health", "/backup/latest/archive.tar.zst", "/none"] {
                        assert_eq!(status(&guard, &format!("{method} {path}\nHost: {host}")), 421, "{host} {path}");
                    }
                }
                assert_eq!(status(&guard, &format!("GET /live\nHost: {host}")), 200, "{host}");
            }
            // The target takes precedence over the header.
            assert_eq!(status(&guard, "GET http://evil.example:8080/health\nHost: localhost:8080"), 421);
            assert_eq!(status(&guard, "GET http://localhost:8080/health\nHost: evil.example"), 200);
            assert_eq!(status(&guard, "GET /health 1.0"), 421);
        }
        let other = guard("127.0.0.9:80", None);
        assert_eq!(status(&other, "GET /health\nHost: 127.0.0.9"), 200);
        assert_eq!(status(&other, "GET /health\nHost: localhost"), 200);
        let open = guard("10.0.0.1:8080", None);
        assert_eq!(status(&open, "GET /health\nHost: anything"), 200);
        assert_eq!(status(&open, "GET /health 1.0"), 200);
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let guard = guard("0.0.0.0:8080", None);
        for path in ["/live", "/", "/none"] {
            for (headers, expected) in [
                ("", 400),
                ("Host: a\nHost: a", 400),
                ("Host: a\nHost: b", 400),
                ("Host: ", 400),
                ("Host: a/b", 400),
                ("Host: user@a", 400),
                ("Host: a:b:c", 400),
                ("Host: a\nTransfer-Encoding: chunked", 200),
                ("Host: a\nTransfer-Encoding: Chunked", 200),
                ("Host: a\nTransfer-Encoding: gzip, chunked", 501),
                ("Host: a\nTransfer-Encoding: gzip\nTransfer-Encoding: chunked", 501),
                ("Host: a\nTransfer-Encoding: chunked, chunked", 501),
                ("Host: a\nTransfer-Encoding: identity", 501),
            ] {
                for method in ["GET", "POST"] {
                    assert_eq!(status(&guard, &format!("{method} {path}\n{headers}")), expected, "{path} {headers}");
                }
            }
        }
    }
}
