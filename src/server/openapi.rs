//! The OpenAPI 3.1 document, made from the table of routes.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::events::{MAX_LABEL_NAME, MAX_LABEL_VALUE, MAX_SNAPSHOT};
use super::metrics;
use super::queries::{ITEMS, MAX_ITEMS};
use super::routes::{Access, CRITICAL, DOCUMENT, Endpoint, QueryParameter, ROUTES, RequestContent, Route};
use super::schemas::{named, schemas};
use crate::backup::MAX_LABELS;
use crate::events::vocabulary::MAX_MESSAGE;

/// Returns the document as it is sent.
pub fn document() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| made().to_string());
    &TEXT
}

fn made() -> Value {
    let mut paths = Map::new();
    for route in ROUTES.iter().chain([&DOCUMENT]) {
        let method = route.method.as_str().to_ascii_lowercase();
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lastgood",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Takes snapshots of an app's data directory into a vault, and puts the last good one back. Whoever \
                            may not ask gets 401 or 403 and no detail. Every GET may be a HEAD.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route.query.iter().map(|query| parameter(query, route.path)).collect();
    if route.path.contains("{id}") {
        parameters.insert(0, id(route.does));
    }
    let mut operation = json!({ "summary": route.summary, "responses": responses(route) });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = body(route.carries) {
        operation["requestBody"] = body;
    }
    match route.gate {
        Access::Open => operation["security"] = json!([]),
        // Without a token the answer is short.
        Access::Part => operation["security"] = json!([{}, { "bearer": [] }]),
        // Whether a token is required depends on the configuration.
        Access::Caller | Access::Download | Access::Restore => operation["security"] = json!([{ "bearer": [] }, {}]),
    }
    operation
}

fn id(does: Endpoint) -> Value {
    let (description, schema) = match does {
        Endpoint::Run => ("The run's id.", json!({ "type": "string", "minLength": 1 })),
        _ => (
            "`latest` (the newest good snapshot), an id or the beginning of one, or a time.",
            json!({ "type": "string", "minLength": 1 }),
        ),
    };
    json!({ "name": "id", "in": "path", "required": true, "description": description, "schema": schema })
}

fn parameter(query: &QueryParameter, path: &str) -> Value {
    let (name, required, description, schema) = match query {
        QueryParameter::Wait if path == CRITICAL => (
            "wait",
            false,
            "true or 1: the answer comes with the snapshot. false or 0: it comes at once and names the run to poll, but on Cloud Run \
             without --background. Anything else: as if nothing was said; no critical event is refused for it.",
            json!({}),
        ),
        QueryParameter::Wait => (
            "wait",
            false,
            "false or 0: the answer comes at once and names the run to poll. Refused on Cloud Run without --background.",
            json!({ "type": "string", "enum": ["true", "false", "1", "0"], "default": "true" }),
        ),
        QueryParameter::Limit => (
            "limit",
            false,
            "The most items.",
            json!({ "type": "integer", "minimum": 1, "maximum": MAX_ITEMS, "default": ITEMS }),
        ),
        QueryParameter::Path => (
            "path",
            true,
            "The file, relative to the data directory, as the listing spells it.",
            json!({ "type": "string" }),
        ),
        QueryParameter::Folder => (
            "path",
            false,
            "The folder, or a single entry, relative to the data directory, as the listing spells it.",
            json!({ "type": "string", "default": "." }),
        ),
        QueryParameter::Format => (
            "format",
            false,
            "pax: with times to the nanosecond, ACLs and holes. plain: for programs that know no PAX records.",
            json!({ "type": "string", "enum": ["pax", "plain"], "default": "pax" }),
        ),
    };
    json!({ "name": name, "in": "query", "required": required, "description": description, "schema": schema })
}

fn body(carries: RequestContent) -> Option<Value> {
    let content = match carries {
        RequestContent::Nothing => return None,
        RequestContent::Event | RequestContent::Message => {
            // If the path says what is meant, any body may be its message, and is never refused.
            let schema = match carries {
                RequestContent::Message => json!({}),
                _ => json!({ "type": ["object", "null"] }),
            };
            return Some(json!({
                "description": "A CloudEvent, a Pub/Sub push, a request of Cloud Scheduler, or fields of JSON: what it is, its \
                                headers and its own form tell. Types: dev.lastgood.backup.requested, dev.lastgood.critical, \
                                dev.lastgood.restore.requested, dev.lastgood.verify.requested.",
                "content": { "application/json": {
                    "schema": schema,
                    "examples": {
                        "fields": { "value": { "action": "backup", "service": "shop", "message": "before the update" } },
                        "critical": { "value": { "severity": "CRITICAL", "service": "shop", "message": "disk is failing" } },
                    },
                } },
            }));
        }
        RequestContent::Labels => json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "reason": { "enum": ["manual", "schedule", "critical", "shutdown"] },
                "message": { "type": "string", "maxLength": MAX_MESSAGE },
                "labels": {
                    "type": "object",
                    "maxProperties": MAX_LABELS,
                    "propertyNames": { "minLength": 1, "maxLength": MAX_LABEL_NAME },
                    "additionalProperties": { "type": "string", "maxLength": MAX_LABEL_VALUE },
                },
            },
        }),
        RequestContent::Snapshot => json!({
            "type": "object",
            "additionalProperties": false,
            "properties": { "snapshot": {
                "description": "latest, an id or the beginning of one, or a time.",
                "type": "string", "minLength": 1, "maxLength": MAX_SNAPSHOT, "default": "latest",
            } },
        }),
    };
    Some(json!({ "required": false, "content": { "application/json": { "schema": content } } }))
}

/// Returns all answers of a route.
fn responses(route: &Route) -> Value {
    let mut answers = Map::new();
    let mut say = |status: u16, description: &str, kind: &str, schema: Value| {
        let content = json!({ kind: { "schema": schema } });
        answers.insert(status.to_string(), json!({ "description": description, "content": content }));
    };
    let json = "application/json";
    let binary = || json!({ "type": "string", "format": "binary" });
    let list = |name: &str| json!({ "type": "array", "items": named(name) });
    match route.does {
        Endpoint::Live => {
            say(200, "It runs.", json, json!({ "type": "object", "properties": { "status": { "const": "live" } } }))
        }
        Endpoint::Document => say(200, "This document.", json, json!({ "type": "object" })),
        Endpoint::Health => {
            let health = || json!({ "anyOf": [named("Health"), named("HealthStatus")] });
            say(200, "Healthy or degraded; in full for who may ask.", json, health());
            say(503, "Unhealthy.", json, health());
        }
        Endpoint::Status => say(200, "The health in full, whatever it is, and what runs.", json, named("Health")),
        Endpoint::List => say(200, "Snapshots, newest first.", json, list("Snapshot")),
        Endpoint::Files => say(200, "Entries in order; cut off if something fails in the middle.", json, list("Entry")),
        Endpoint::File => {
            say(200, "Its bytes; cut off if something fails in the middle.", "application/octet-stream", binary())
        }
        Endpoint::Archive => {
            say(200, "A .tar.zst; cut off if something fails in the middle.", "application/zstd", binary())
        }
        Endpoint::Runs => say(200, "Runs, newest first.", json, list("RunSummary")),
        Endpoint::Run => say(200, "How far it is.", json, named("Run")),
        Endpoint::Metrics => say(200, "Prometheus' text format.", metrics::CONTENT_TYPE, json!({ "type": "string" })),
        Endpoint::Cleanup => say(501, "Not in this version.", json, named("Error")),
        Endpoint::Event => {
            let schema = json!({ "anyOf": [named("Report"), named("NotDone")] });
            say(200, "The report of the run that served it, now or before; or why it is never served.", json, schema);
        }
        Endpoint::Backup | Endpoint::Restore | Endpoint::Verify => {
            say(
                200,
                "The report of the run. It may have found damage, or something that is not whole.",
                json,
                named("Report"),
            );
        }
    }
    if route.query.contains(&QueryParameter::Wait) {
        let either = || json!({ "anyOf": [named("Report"), named("Error")] });
        let noted = if route.path == CRITICAL { ", and without wait for who sends nothing twice" } else { "" };
        let accepted = format!("With wait=false{noted}: it is noted in the vault, and this is where to poll.");
        say(202, &accepted, json, named("Accepted"));
        say(
            409,
            "It is served elsewhere, and may be asked for again (Retry-After); or it cannot be done.",
            json,
            either(),
        );
        say(503, "It failed, or has no room now, and may succeed later.", json, either());
        if route.does != Endpoint::Event {
            say(500, "Damage stands in the way.", json, either());
        }
    }
    if !route.query.is_empty() || route.carries != RequestContent::Nothing {
        say(400, "It cannot be understood.", json, named("Error"));
    }
    if route.carries != RequestContent::Nothing {
        say(408, "The body took too long.", json, named("Error"));
        say(413, "The body is larger than 1 MiB.", json, named("Error"));
    }
    if matches!(route.carries, RequestContent::Labels | RequestContent::Snapshot) {
        say(415, "The body is not JSON by its Content-Type.", json, named("Error"));
    }
    if matches!(route.does, Endpoint::Files | Endpoint::File | Endpoint::Archive | Endpoint::Run | Endpoint::Restore) {
        say(404, "There is no such snapshot, file or run.", json, named("Error"));
    }
    if matches!(
        route.does,
        Endpoint::List | Endpoint::Files | Endpoint::File | Endpoint::Archive | Endpoint::Run | Endpoint::Runs
    ) {
        say(500, "The vault is damaged there.", json, named("Error"));
        say(503, "The vault does not serve it now, or there is no room for another download.", json, named("Error"));
    }
    if matches!(route.gate, Access::Caller | Access::Download | Access::Restore) {
        say(401, "No token, or a wrong one.", json, named("Error"));
        say(403, "Not this caller, not here at all, or not for a page of another site.", json, named("Error"));
    }
    if route.does != Endpoint::Live {
        say(421, "The header Host names what may be a page of another site.", json, named("Error"));
    }
    // The answer when it cannot be decided just now who may ask.
    if matches!(route.does, Endpoint::Status | Endpoint::Metrics | Endpoint::Cleanup) {
        say(503, "It cannot be told now who asks.", json, named("Error"));
    }
    answers.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_every_reference_leads_somewhere() {
        let document: Value = serde_json::from_str(document()).unwrap();
        let mut described = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                described += 1;
                let is = |route: &&Route| route.path == path && route.method.as_str().eq_ignore_ascii_case(method);
                assert!(ROUTES.iter().chain([&DOCUMENT]).any(|route| is(&route)), "{method} {path}");
                assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
            }
        }
        assert_eq!(described, ROUTES.len() + 1);
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/").skip(1) {
            let pointer = format!("/{}", reference.split('"').next().unwrap());
            assert!(document.pointer(&pointer).is_some(), "{pointer}");
        }
    }
}
