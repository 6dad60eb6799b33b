//! What is served where: one table, which requests are matched with and the OpenAPI document is made of.

use http::Method;
use percent_encoding::percent_decode_str;

/// What is done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Reads an event and serves it.
    Event,
    /// Says that the service runs.
    Live,
    /// Says how the state that it keeps is.
    Health,
    /// The same with what runs.
    Status,
    /// Lists snapshots.
    List,
    /// Takes a snapshot.
    Backup,
    /// Restores one.
    Restore,
    /// Verifies the vaults.
    Verify,
    /// Would let old snapshots go.
    Cleanup,
    /// Lists a folder of a snapshot.
    Files,
    /// Sends a file of a snapshot.
    File,
    /// Sends a snapshot.
    Archive,
    /// Lists runs.
    Runs,
    /// Shows one.
    Run,
    /// Numbers, for Prometheus.
    Metrics,
    /// What is served where.
    Document,
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Everybody, and whoever [`Access::Caller`] lets in is told more.
    Part,
    /// Whom the configuration lets in.
    Caller,
    /// Likewise, if `--allow-download` is given.
    Download,
    /// Likewise, if `--allow-restore` is given.
    Restore,
}

/// A parameter in the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryParameter {
    /// `wait=false`: the answer comes before the run has ended.
    Wait,
    /// `limit=N`: the most items.
    Limit,
    /// `path=P`, which must be given: what is meant in a snapshot.
    Path,
    /// `path=P`: the folder that is meant in a snapshot; else the data directory itself.
    Folder,
}

/// What a request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestContent {
    /// Nothing that is looked at.
    Nothing,
    /// An event.
    Event,
    /// An event, or any text: what it asks for is known.
    Message,
    /// What a snapshot is labelled with.
    Labels,
    /// Which snapshot is meant.
    Snapshot,
}

/// A method and a path, and what they lead to.
#[derive(Debug)]
pub struct Route {
    /// GET (HEAD with it) or POST.
    pub method: Method,
    /// Parts in braces stand for any one part.
    pub path: &'static str,
    /// What is done.
    pub does: Endpoint,
    /// Who may ask.
    pub gate: Access,
    /// What the query may say.
    pub query: &'static [QueryParameter],
    /// What the body may say.
    pub carries: RequestContent,
    /// For people.
    pub summary: &'static str,
}

const fn get(
    path: &'static str,
    does: Endpoint,
    gate: Access,
    query: &'static [QueryParameter],
    summary: &'static str,
) -> Route {
    Route { method: Method::GET, path, does, gate, query, carries: RequestContent::Nothing, summary }
}

const fn post(
    path: &'static str,
    does: Endpoint,
    gate: Access,
    carries: RequestContent,
    summary: &'static str,
) -> Route {
    Route { method: Method::POST, path, does, gate, query: &[QueryParameter::Wait], carries, summary }
}

/// Where apps tell of critical errors.
pub const CRITICAL: &str = "/events/critical";

/// All that is served.
pub static ROUTES: [Route; 20] = [
    post("/", Endpoint::Event, Access::Caller, RequestContent::Event, "An event, which says itself what it asks for"),
    post(
        "/events",
        Endpoint::Event,
        Access::Caller,
        RequestContent::Event,
        "An event, which says itself what it asks for",
    ),
    post("/events/backup", Endpoint::Event, Access::Caller, RequestContent::Message, "An event that asks for a backup"),
    post(
        CRITICAL,
        Endpoint::Event,
        Access::Caller,
        RequestContent::Message,
        "An app's critical error: asks for a backup",
    ),
    post("/events/restore", Endpoint::Event, Access::Caller, RequestContent::Event, "An event that asks for a restore"),
    post(
        "/events/verify",
        Endpoint::Event,
        Access::Caller,
        RequestContent::Event,
        "An event that asks for a look at the vault",
    ),
    get("/live", Endpoint::Live, Access::Open, &[], "Whether the service runs"),
    get(
        "/health",
        Endpoint::Health,
        Access::Part,
        &[],
        "Whether there is a good snapshot that is young enough, and more",
    ),
    get("/backup/status", Endpoint::Status, Access::Caller, &[], "The health in full, and what runs"),
    get("/backup/list", Endpoint::List, Access::Caller, &[QueryParameter::Limit], "The snapshots, newest first"),
    post("/backup/trigger", Endpoint::Backup, Access::Caller, RequestContent::Labels, "Takes a snapshot"),
    post("/backup/restore", Endpoint::Restore, Access::Restore, RequestContent::Snapshot, "Puts a snapshot back"),
    post(
        "/backup/verify",
        Endpoint::Verify,
        Access::Caller,
        RequestContent::Nothing,
        "Looks whether the vaults hold what they should",
    ),
    Route {
        method: Method::POST,
        path: "/backup/cleanup",
        does: Endpoint::Cleanup,
        gate: Access::Caller,
        query: &[],
        carries: RequestContent::Nothing,
        summary: "Not yet: nothing lets old snapshots go",
    },
    get(
        "/backup/{id}/files",
        Endpoint::Files,
        Access::Caller,
        &[QueryParameter::Folder],
        "What is in a folder of a snapshot",
    ),
    get("/backup/{id}/file", Endpoint::File, Access::Download, &[QueryParameter::Path], "A file of a snapshot"),
    get("/backup/{id}/archive.tar.zst", Endpoint::Archive, Access::Download, &[], "A snapshot as a tar file"),
    get("/runs", Endpoint::Runs, Access::Caller, &[QueryParameter::Limit], "What was run, newest first"),
    get("/runs/{id}", Endpoint::Run, Access::Caller, &[], "How far a run is, and its report once it is over"),
    get("/metrics", Endpoint::Metrics, Access::Caller, &[], "Numbers for Prometheus"),
];

/// The document itself: it cannot be in the table that it is made of without being described by itself.
pub static DOCUMENT: Route = get("/openapi.json", Endpoint::Document, Access::Open, &[], "This document");

/// Where a request leads to.
#[derive(Debug)]
pub enum RouteMatch {
    /// To this, with what stands in the place of the part in braces.
    Route(&'static Route, Option<String>),
    /// To nothing by this method; these are allowed.
    Method(String),
    /// To nothing.
    Nothing,
}

impl RouteMatch {
    /// Whether it is what says that the service runs: it tells nothing, and is answered to everybody, whatever else there is to do.
    pub fn is_live(&self) -> bool {
        matches!(self, RouteMatch::Route(route, _) if route.does == Endpoint::Live)
    }
}

/// Finds what a request leads to; a slash at the end of a path changes nothing.
pub fn find(method: &Method, path: &str) -> RouteMatch {
    let wanted = if *method == Method::HEAD { &Method::GET } else { method };
    let mut allowed = Vec::new();
    for route in ROUTES.iter().chain([&DOCUMENT]) {
        let Some(part) = matched(route.path, path) else { continue };
        if route.method == *wanted {
            return RouteMatch::Route(route, part);
        }
        allowed.push(if route.method == Method::GET { "GET, HEAD" } else { "POST" });
    }
    match allowed.is_empty() {
        true => RouteMatch::Nothing,
        false => RouteMatch::Method(allowed.join(", ")),
    }
}

/// Whether a path fits a pattern; then what stands for the part in braces, where there is one.
fn matched(pattern: &str, path: &str) -> Option<Option<String>> {
    let path = path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path);
    let (mut pattern, mut parts, mut found) = (pattern.split('/'), path.split('/'), None);
    loop {
        match (pattern.next(), parts.next()) {
            (None, None) => return Some(found),
            (Some(name), Some(part)) if name.starts_with('{') && !part.is_empty() => {
                found = Some(percent_decode_str(part).decode_utf8().ok()?.into_owned());
            }
            (Some(name), Some(part)) if name == part => {}
            _ => return None,
        }
    }
}

/// The first value of a parameter in a query, decoded as forms have it.
pub fn parameter(query: Option<&str>, name: &str) -> Option<Vec<u8>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name.as_bytes()).then(|| decoded(value))
    })
}

fn decoded(text: &str) -> Vec<u8> {
    percent_decode_str(&text.replace('+', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn does(method: Method, path: &str) -> Option<(Endpoint, Option<String>)> {
        match find(&method, path) {
            RouteMatch::Route(route, part) => Some((route.does, part)),
            _ => None,
        }
    }

    #[test]
    fn every_route_is_found_by_its_own_path_and_no_other() {
        for route in &ROUTES {
            let path = route.path.replace("{id}", "latest");
            let RouteMatch::Route(found, _) = find(&route.method, &path) else { panic!("{path}") };
            assert!(std::ptr::eq(found, route), "{path} leads to {}", found.path);
        }
        let id = |text: &str| Some(text.to_owned());
        assert_eq!(does(Method::HEAD, "/health/"), Some((Endpoint::Health, None)));
        assert_eq!(
            does(Method::GET, "/backup/2026-11-21T10%3A00%3A00Z/files"),
            Some((Endpoint::Files, id("2026-11-21T10:00:00Z")))
        );
        assert_eq!(does(Method::GET, "/backup/a%2Fb/file"), Some((Endpoint::File, id("a/b"))));
        for none in ["/backup//files", "/backup/%ff/files", "/nothing", "/events/other", "/runs/a/b", ""] {
            assert!(matches!(find(&Method::GET, none), RouteMatch::Nothing), "{none}");
        }
        for (method, path, allowed) in [
            (Method::GET, "/", "POST"),
            (Method::POST, "/health", "GET, HEAD"),
            (Method::DELETE, "/runs/1", "GET, HEAD"),
            (Method::OPTIONS, "/backup/trigger", "POST"),
            (Method::HEAD, "/events", "POST"),
        ] {
            let RouteMatch::Method(said) = find(&method, path) else { panic!("{method} {path}") };
            assert_eq!(said, allowed);
        }
    }

    #[test]
    fn queries() {
        let get = |query: &str, name: &str| parameter(Some(query), name);
        assert_eq!(get("a=1&path=x%20y+z%2B&path=2", "path"), Some(b"x y z+".to_vec()));
        assert_eq!((get("path", "path"), get("p%61th=%ff", "path")), (Some(vec![]), Some(vec![0xff])));
        assert_eq!((get("paths=1", "path"), parameter(None, "path")), (None, None));
    }
}
