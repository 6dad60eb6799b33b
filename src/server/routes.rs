//! What is served where: one table, which requests are matched with and the OpenAPI document is made of.

use http::Method;
use percent_encoding::percent_decode_str;

/// What is done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
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
pub enum Gate {
    /// Everybody.
    Open,
    /// Everybody, and whoever [`Gate::Caller`] lets in is told more.
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
pub enum Query {
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
pub enum Carries {
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
    pub does: Does,
    /// Who may ask.
    pub gate: Gate,
    /// What the query may say.
    pub query: &'static [Query],
    /// What the body may say.
    pub carries: Carries,
    /// For people.
    pub summary: &'static str,
}

const fn get(path: &'static str, does: Does, gate: Gate, query: &'static [Query], summary: &'static str) -> Route {
    Route { method: Method::GET, path, does, gate, query, carries: Carries::Nothing, summary }
}

const fn post(path: &'static str, does: Does, gate: Gate, carries: Carries, summary: &'static str) -> Route {
    Route { method: Method::POST, path, does, gate, query: &[Query::Wait], carries, summary }
}

/// Where apps tell of critical errors.
pub const CRITICAL: &str = "/events/critical";

/// All that is served.
pub static ROUTES: [Route; 20] = [
    post("/", Does::Event, Gate::Caller, Carries::Event, "An event, which says itself what it asks for"),
    post("/events", Does::Event, Gate::Caller, Carries::Event, "An event, which says itself what it asks for"),
    post("/events/backup", Does::Event, Gate::Caller, Carries::Message, "An event that asks for a backup"),
    post(CRITICAL, Does::Event, Gate::Caller, Carries::Message, "An app's critical error: asks for a backup"),
    post("/events/restore", Does::Event, Gate::Caller, Carries::Event, "An event that asks for a restore"),
    post("/events/verify", Does::Event, Gate::Caller, Carries::Event, "An event that asks for a look at the vault"),
    get("/live", Does::Live, Gate::Open, &[], "Whether the service runs"),
    get("/health", Does::Health, Gate::Part, &[], "Whether there is a good snapshot that is young enough, and more"),
    get("/backup/status", Does::Status, Gate::Caller, &[], "The health in full, and what runs"),
    get("/backup/list", Does::List, Gate::Caller, &[Query::Limit], "The snapshots, newest first"),
    post("/backup/trigger", Does::Backup, Gate::Caller, Carries::Labels, "Takes a snapshot"),
    post("/backup/restore", Does::Restore, Gate::Restore, Carries::Snapshot, "Puts a snapshot back"),
    post(
        "/backup/verify",
        Does::Verify,
        Gate::Caller,
        Carries::Nothing,
        "Looks whether the vaults hold what they should",
    ),
    Route {
        method: Method::POST,
        path: "/backup/cleanup",
        does: Does::Cleanup,
        gate: Gate::Caller,
        query: &[],
        carries: Carries::Nothing,
        summary: "Not yet: nothing lets old snapshots go",
    },
    get("/backup/{id}/files", Does::Files, Gate::Caller, &[Query::Folder], "What is in a folder of a snapshot"),
    get("/backup/{id}/file", Does::File, Gate::Download, &[Query::Path], "A file of a snapshot"),
    get("/backup/{id}/archive.tar.zst", Does::Archive, Gate::Download, &[], "A snapshot as a tar file"),
    get("/runs", Does::Runs, Gate::Caller, &[Query::Limit], "What was run, newest first"),
    get("/runs/{id}", Does::Run, Gate::Caller, &[], "How far a run is, and its report once it is over"),
    get("/metrics", Does::Metrics, Gate::Caller, &[], "Numbers for Prometheus"),
];

/// The document itself: it cannot be in the table that it is made of without being described by itself.
pub static DOCUMENT: Route = get("/openapi.json", Does::Document, Gate::Open, &[], "This document");

/// Where a request leads to.
#[derive(Debug)]
pub enum Found {
    /// To this, with what stands in the place of the part in braces.
    Route(&'static Route, Option<String>),
    /// To nothing by this method; these are allowed.
    Method(String),
    /// To nothing.
    Nothing,
}

impl Found {
    /// Whether it is what says that the service runs: it tells nothing, and is answered to everybody, whatever else there is to do.
    pub fn is_live(&self) -> bool {
        matches!(self, Found::Route(route, _) if route.does == Does::Live)
    }
}

/// Finds what a request leads to; a slash at the end of a path changes nothing.
pub fn find(method: &Method, path: &str) -> Found {
    let wanted = if *method == Method::HEAD { &Method::GET } else { method };
    let mut allowed = Vec::new();
    for route in ROUTES.iter().chain([&DOCUMENT]) {
        let Some(part) = matched(route.path, path) else { continue };
        if route.method == *wanted {
            return Found::Route(route, part);
        }
        allowed.push(if route.method == Method::GET { "GET, HEAD" } else { "POST" });
    }
    match allowed.is_empty() {
        true => Found::Nothing,
        false => Found::Method(allowed.join(", ")),
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

    fn does(method: Method, path: &str) -> Option<(Does, Option<String>)> {
        match find(&method, path) {
            Found::Route(route, part) => Some((route.does, part)),
            _ => None,
        }
    }

    #[test]
    fn every_route_is_found_by_its_own_path_and_no_other() {
        for route in &ROUTES {
            let path = route.path.replace("{id}", "latest");
            let Found::Route(found, _) = find(&route.method, &path) else { panic!("{path}") };
            assert!(std::ptr::eq(found, route), "{path} leads to {}", found.path);
        }
        let id = |text: &str| Some(text.to_owned());
        assert_eq!(does(Method::HEAD, "/health/"), Some((Does::Health, None)));
        assert_eq!(
            does(Method::GET, "/backup/2026-11-21T10%3A00%3A00Z/files"),
            Some((Does::Files, id("2026-11-21T10:00:00Z")))
        );
        assert_eq!(does(Method::GET, "/backup/a%2Fb/file"), Some((Does::File, id("a/b"))));
        for none in ["/backup//files", "/backup/%ff/files", "/nothing", "/events/other", "/runs/a/b", ""] {
            assert!(matches!(find(&Method::GET, none), Found::Nothing), "{none}");
        }
        for (method, path, allowed) in [
            (Method::GET, "/", "POST"),
            (Method::POST, "/health", "GET, HEAD"),
            (Method::DELETE, "/runs/1", "GET, HEAD"),
            (Method::OPTIONS, "/backup/trigger", "POST"),
            (Method::HEAD, "/events", "POST"),
        ] {
            let Found::Method(said) = find(&method, path) else { panic!("{method} {path}") };
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
