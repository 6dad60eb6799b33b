//! JSON schemas of the documents that the service answers with.

use serde_json::{Value, json};

/// Returns a reference to one of [`schemas`].
pub fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Returns all schemas, by name.
pub fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let maybe_text = || json!({ "type": ["string", "null"] });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let maybe_count = || json!({ "type": ["integer", "null"], "minimum": 0 });
    let yes_or_no = || json!({ "type": "boolean" });
    let time = || json!({ "type": "string", "format": "date-time" });
    let maybe_time = || json!({ "type": ["string", "null"], "format": "date-time" });
    let texts = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let run = || json!({ "type": "string", "pattern": "^[0-9a-f]{16}$" });
    let action = || json!({ "enum": ["backup", "restore", "verify"] });
    let results =
        ["complete", "stale", "incomplete-copies", "partial", "suspect", "unsound", "damaged", "failed", "refused"];
    let result = || json!({ "enum": results });
    let code = || json!({ "type": "string", "description": "What went wrong, as a fixed word. Words may be added." });
    let health = || json!({ "enum": ["healthy", "degraded", "unhealthy"] });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties });
    let last = object(
        &["run", "action", "result", "finished", "error"],
        json!({
            "run": run(),
            "action": action(),
            "result": result(),
            "finished": time(),
            "error": maybe_text(),
            "code": code(),
        }),
    );
    json!({
        "Error": object(&["error"], json!({ "error": text(), "code": code(), "hint": text(), "status": text() })),
        "NotDone": object(&["status", "why"], json!({ "status": { "enum": ["ignored", "refused"] }, "why": text() })),
        "Accepted": object(&["run", "poll"], json!({ "run": run(), "poll": text() })),
        "Report": object(&["run"], json!({
            "format": count(),
            "run": run(),
            "action": action(),
            "result": result(),
            "way": { "enum": ["command_line", "cloud_run_job", "http", "pub_sub", "run"] },
            "events": { "type": "array", "items": { "type": "object" } },
            "place": { "type": "object" },
            "started": time(),
            "finished": time(),
            "snapshot": maybe_text(),
            "error": { "type": ["object", "null"], "required": ["error", "kind"], "properties": {
                "error": text(), "kind": { "enum": ["usage", "failed", "unreachable", "damage", "nothing-yet"] },
                "code": code(), "hint": text(),
            } },
            "hook_failures": { "type": "array", "items": object(&["hook", "error"], json!({ "hook": text(), "error": text() })) },
            "backup": { "type": "object" },
            "restore": { "type": "object" },
            "verify": { "type": "array", "items": { "type": "object" } },
        })),
        "Run": object(&["run", "status"], json!({
            "run": run(),
            "status": { "enum": ["waiting", "running", "over", "elsewhere", "later", "refused"] },
            "retry": yes_or_no(),
            "report": named("Report"),
            "why": text(),
            "retry_after_seconds": count(),
        })),
        "RunSummary": object(&["run", "action", "result", "started", "finished"], json!({
            "run": run(),
            "action": action(),
            "result": result(),
            "way": text(),
            "started": time(),
            "finished": time(),
            "snapshot": maybe_text(),
            "error": maybe_text(),
        })),
        "Snapshot": object(&["id", "created"], json!({
            "id": text(),
            "created": time(),
            "damage": text(),
            "newer_format": text(),
            "reason": { "enum": ["manual", "schedule", "critical", "shutdown"] },
            "origin": text(),
            "repeats": text(),
            "state": { "enum": ["complete", "partial", "suspect"] },
            "diverged": text(),
            "good": yes_or_no(),
            "whole": yes_or_no(),
            "failed_checks": count(),
            "entries": count(),
            "files": count(),
            "bytes": count(),
            "uploaded_bytes": count(),
            "parent": maybe_text(),
            "labels": texts(),
            "data": text(),
            "host": text(),
            "service": maybe_text(),
            "filters": object(&[], json!({
                "include": { "type": "array", "items": text() },
                "exclude": { "type": "array", "items": text() },
                "one_file_system": yes_or_no(),
            })),
        })),
        "Entry": object(&["path", "type", "size", "mode", "uid", "gid", "mtime"], json!({
            "path": text(),
            "type": text(),
            "size": count(),
            "mode": { "type": "string", "pattern": "^[0-7]{4,}$" },
            "uid": count(),
            "gid": count(),
            "mtime": time(),
            "target": text(),
            "hash": { "type": "string", "pattern": "^[0-9a-f]{32}$" },
            "stale_since": time(),
        })),
        "HealthStatus": {
            "type": "object", "required": ["status"], "additionalProperties": false, "properties": { "status": health() },
        },
        "Health": object(
            &["status", "why", "checked", "vaults", "snapshot", "max_age_seconds", "data", "last_run", "last_error"],
            json!({
                "status": health(),
                "why": { "type": "array", "items": text() },
                "checked": time(),
                "vaults": { "type": "array", "items": object(
                    &["vault", "reachable", "error", "seen_seconds_ago"],
                    json!({
                        "vault": text(),
                        "reachable": yes_or_no(),
                        "error": maybe_text(),
                        "seen_seconds_ago": maybe_count(),
                    }),
                ) },
                "snapshot": { "anyOf": [
                    { "type": "null" },
                    object(&["id", "created", "age_seconds", "whole"], json!({
                        "id": text(), "created": time(), "age_seconds": count(), "whole": yes_or_no(),
                    })),
                ] },
                "max_age_seconds": count(),
                "data": object(
                    &[
                        "present",
                        "newest",
                        "age_seconds",
                        "freshness_seconds",
                        "whole",
                        "seen_seconds_ago",
                        "critical_files",
                    ],
                    json!({
                        "present": yes_or_no(),
                        "newest": maybe_time(),
                        "age_seconds": maybe_count(),
                        "freshness_seconds": count(),
                        "whole": yes_or_no(),
                        "seen_seconds_ago": maybe_count(),
                        "critical_files": { "type": "array", "items": object(
                            &["pattern", "present"],
                            json!({ "pattern": text(), "present": { "type": ["boolean", "null"] } }),
                        ) },
                    }),
                ),
                "last_run": { "anyOf": [{ "type": "null" }, last] },
                "last_error": maybe_text(),
                "app": object(&["state", "since", "epoch"], json!({
                    "state": { "enum": ["starting", "running", "restoring", "ending", "waiting"] },
                    "since": time(),
                    "epoch": maybe_count(),
                })),
                "running": maybe_text(),
            }),
        ),
    })
}
