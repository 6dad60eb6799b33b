//! The table of routes: requests are matched with it, and the OpenAPI document is made from it.

use http::Method;
use percent_encoding::percent_decode_str;

/// The endpoints: what is done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Reads an event and serves it.
    Event,
    /// Says that the service runs.
    Live,
    /// Returns the health.
    Health,
    /// Returns the health in full, and the run that is under way.
    Status,
    /// Lists snapshots.
    List,
    /// Takes a snapshot.
    Backup,
    /// Restores a snapshot.
    Restore,
    /// Verifies the vaults.
    Verify,
    /// Would delete old snapshots; not implemented yet.
    Cleanup,
    /// Lists a folder of a snapshot.
    Files,
    /// Sends a file of a snapshot.
    File,
    /// Sends a snapshot.
    Archive,
    /// Lists runs.
    Runs,
    /// Shows one run.
    Run,
    /// Sends the metrics for Prometheus.
    Metrics,
    /// Sends the OpenAPI document.
    Document,
}

/// The callers that may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Everybody, and whoever [`Access::Caller`] lets in is told more.
    Part,
    /// Callers that the configuration lets in.
    Caller,
    /// The same callers, if `--allow-download` is given and this way of authentication permits it.
    Download,
    /// The same callers, if `--allow-restore` is given and this way of authentication permits it.
    Restore,
}

/// A parameter in the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryParameter {
    /// `wait=false`: the answer comes before the run has ended.
    Wait,
    /// `limit=N`: the most items.
    Limit,
    /// `path=P`, which is required: a path in a snapshot.
    Path,
    /// `path=P`: a folder of a snapshot; without it, the data directory itself.
    Folder,
    /// `format=F`: the form of an archive.
    Format,
}

/// The content that a request's body may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestContent {
    /// Nothing; a body is not looked at.
    Nothing,
    /// An event.
    Event,
    /// An event, or any text: the path says what it asks for.
    Message,
    /// The labels, the message and the reason of a snapshot.
    Labels,
    /// The snapshot that is meant.
    Snapshot,
}

/// A method and a path, and what they lead to.
#[derive(Debug)]
pub struct Route {
    /// GET, which includes HEAD, or POST.
    pub method: Method,
    /// The path, in which a part in braces stands for any one part.
    pub path: &'static str,
    /// The endpoint that serves it.
    pub does: Endpoint,
    /// The callers that may use it.
    pub gate: Access,
    /// The parameters that the query may have.
    pub query: &'static [QueryParameter],
    /// The content that the body may have.
    pub carries: RequestContent,
    /// A description for people.
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

/// The path at which apps report critical errors.
pub const CRITICAL: &str = "/events/critical";

/// All routes but [`DOCUMENT`].
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
        summary: "Not in this version: it deletes no snapshots",
    },
    get(
        "/backup/{id}/files",
        Endpoint::Files,
        Access::Caller,
        &[QueryParameter::Folder],
        "What is in a folder of a snapshot",
    ),
    get("/backup/{id}/file", Endpoint::File, Access::Download, &[QueryParameter::Path], "A file of a snapshot"),
    get(
        "/backup/{id}/archive.tar.zst",
        Endpoint::Archive,
        Access::Download,
        &[QueryParameter::Format],
        "A snapshot as a tar file",
    ),
    get("/runs", Endpoint::Runs, Access::Caller, &[QueryParameter::Limit], "What was run, newest first"),
    get("/runs/{id}", Endpoint::Run, Access::Caller, &[], "How far a run is, and its report once it is over"),
    get("/metrics", Endpoint::Metrics, Access::Caller, &[], "Numbers for Prometheus"),
];

/// The OpenAPI document. It is not in [`ROUTES`], from which it is made, and so does not describe itself.
pub static DOCUMENT: Route = get("/openapi.json", Endpoint::Document, Access::Open, &[], "This document");

/// The result of matching a request with the routes.
#[derive(Debug)]
pub enum RouteMatch {
    /// It leads to this route; with what stands in the place of the part in braces, decoded.
    Route(&'static Route, Option<String>),
    /// The path has no route for this method; these are allowed.
    Method(String),
    /// No route has this path.
    Nothing,
}

impl RouteMatch {
    /// Whether it is `/live`, which says that the service runs: it reveals nothing, and is answered to everybody, whatever else
    /// there is to do.
    pub fn is_live(&self) -> bool {
        matches!(self, RouteMatch::Route(route, _) if route.does == Endpoint::Live)
    }
}

/// Finds the route of a request; a slash at the end of the path changes nothing.
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

/// Matches a path with a pattern. `None` if it does not fit, else what stands for the part in braces, if there is one.
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

/// Returns the first value of a parameter in a query, decoded as forms are.
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
