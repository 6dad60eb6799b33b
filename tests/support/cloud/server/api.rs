//! The answers to the requests of the JSON API.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::{Call, Kind};
use super::objects::crc32c_text;
use super::tokens::Refusal;
use super::wire::Head;
use super::{BUCKET, State, fields, multipart, now};

/// Parameters that are known; Google refuses others, too, where they are misspelt.
const PARAMETERS: [&str; 13] = [
    "alt",
    "fields",
    "generation",
    "ifGenerationMatch",
    "maxResults",
    "name",
    "pageToken",
    "permissions",
    "prefix",
    "prettyPrint",
    "startOffset",
    "uploadType",
    "userProject",
];

/// Does what a request asks for, whose credentials were checked when it came.
pub fn answer(state: &mut State, head: &Head, call: &Call, body: &[u8], checked: Result<(), Refusal>) -> Answer {
    if call.kind == Kind::Token {
        return state.tokens.answer(head, body);
    }
    match checked {
        Ok(()) => {}
        Err(Refusal::Invalid) => return call.failed(401),
        Err(Refusal::Anonymous) => {
            let why = "Anonymous caller does not have storage.objects access to the Google Cloud Storage object. \
                       Permission denied on resource (or it may not exist).";
            let challenge = r#"Bearer realm="https://accounts.google.com/""#;
            return call.refused(401, "required", why).header("WWW-Authenticate", challenge);
        }
    }
    if let Some((name, _)) = head.query.iter().find(|(name, _)| !PARAMETERS.contains(&name.as_str())) {
        return call.refused(400, "badRequest", &format!("Unknown name \"{name}\": Cannot bind query parameter."));
    }
    let missing = state.objects.bucket_missing || call.bucket.as_deref() != Some(BUCKET);
    if call.bucket.is_some() && missing {
        return call.refused(404, "notFound", "The specified bucket does not exist.");
    }
    let needed = match (call.kind, head.method.as_str()) {
        (Kind::Create, _) => Some("storage.objects.create"),
        (Kind::Read | Kind::Describe, _) => Some("storage.objects.get"),
        (Kind::List, _) => Some("storage.objects.list"),
        (Kind::Bucket, _) => Some("storage.buckets.get"),
        (Kind::Other, "DELETE") => Some("storage.objects.delete"),
        (Kind::Other, "PATCH" | "PUT" | "POST") => Some("storage.objects.update"),
        (Kind::Other, _) if head.path == "/storage/v1/b" => Some("storage.buckets.list"),
        _ => None,
    };
    if let Some(permission) = needed
        && !state.permissions.contains(permission)
    {
        return refuse(state, permission, head, call);
    }
    match call.kind {
        Kind::Create => create(state, head, call, body),
        Kind::Read | Kind::Describe => read(state, head, call),
        Kind::List => list(state, head, call),
        Kind::Permissions => permissions(state, head, call),
        Kind::Bucket => {
            let mut bucket = json!({"kind": "storage#bucket", "id": BUCKET, "name": BUCKET, "location": "EUROPE-WEST1",
                "locationType": "region", "storageClass": "STANDARD", "etag": "CAE="});
            for (name, value) in state.bucket.as_object().into_iter().flatten() {
                bucket[name] = value.clone();
            }
            selected(200, &bucket, head, call)
        }
        Kind::Token | Kind::Other => Answer::text(404, "Not Found"),
    }
}

fn refuse(state: &mut State, permission: &str, head: &Head, call: &Call) -> Answer {
    state.refused.push(format!("{permission} for {} {}", head.method, head.target));
    let what = if permission.starts_with("storage.buckets.") || call.kind == Kind::List { "bucket" } else { "object" };
    let why = format!(
        "writer@test-project.iam.gserviceaccount.com does not have {permission} access to the Google Cloud Storage \
         {what}. Permission '{permission}' denied on resource (or it may not exist)."
    );
    call.refused(403, "forbidden", &why)
}

fn selected(status: u16, resource: &Value, head: &Head, call: &Call) -> Answer {
    match fields::select(resource, head.parameter("fields")) {
        Ok(selected) => Answer::json(status, &selected),
        Err(why) => call.refused(400, "invalidParameter", &why),
    }
}

fn create(state: &mut State, head: &Head, call: &Call, body: &[u8]) -> Answer {
    let invalid = |why: &str| call.refused(400, "invalid", why);
    if head.parameter("uploadType") != Some("multipart") {
        return invalid("This server takes multipart uploads only.");
    }
    let Some(boundary) = &call.boundary else { return invalid("Multipart upload without a boundary.") };
    let parts = multipart::start(body, boundary);
    let Some((metadata, from)) = parts else { return invalid("Missing end boundary in multipart body.") };
    let Some(end) = multipart::end(body, from, boundary) else {
        return invalid("Missing end boundary in multipart body.");
    };
    let Ok(metadata) = serde_json::from_slice::<Value>(&body[metadata]) else {
        return call.refused(400, "parseError", "Parse Error");
    };
    let known = ["name", "contentType", "crc32c", "metadata"];
    if let Some(field) = metadata.as_object().and_then(|m| m.keys().find(|key| !known.contains(&key.as_str()))) {
        return invalid(&format!("This server knows no {field} of an object to be created."));
    }
    let Some(name) = call.name.as_deref().filter(|name| (1..=1024).contains(&name.len())) else {
        return call.refused(400, "required", "Required");
    };
    if metadata["name"].as_str().is_some_and(|other| other != name) {
        return invalid(&format!("Value '{name}' in the query is not the name in the metadata."));
    }
    let content = &body[from..end];
    let crc = crc32c_text(crc32c::crc32c(content));
    if let Some(given) = metadata["crc32c"].as_str()
        && given != crc
    {
        return invalid(&format!("Provided CRC32C \"{given}\" doesn't match calculated CRC32C \"{crc}\"."));
    }
    let there = state.objects.get(name).map(|object| object.generation);
    let may_delete = state.permissions.contains("storage.objects.delete");
    if there.is_some() && !may_delete && state.delete_before_precondition {
        return refuse(state, "storage.objects.delete", head, call);
    }
    match head.parameter("ifGenerationMatch").map(str::parse::<u64>) {
        None => {}
        Some(Err(_)) => return invalid("Invalid value for ifGenerationMatch."),
        Some(Ok(wanted)) if wanted == there.unwrap_or(0) => {}
        Some(Ok(_)) => return call.failed(412),
    }
    if there.is_some() && !may_delete {
        return refuse(state, "storage.objects.delete", head, call);
    }
    let created = now(state.skew);
    let object = state.objects.put(name, content.to_vec(), created);
    if let Some(kind) = metadata["contentType"].as_str() {
        object.content_type = kind.into();
    }
    selected(200, &object.resource(name), head, call)
}

fn read(state: &mut State, head: &Head, call: &Call) -> Answer {
    let name = call.name.as_deref().unwrap_or_default();
    let Some(object) = state.objects.get(name) else {
        // A caller that may not list does not learn what is missing.
        if !state.permissions.contains("storage.objects.list") {
            return refuse(state, "storage.objects.list", head, call);
        }
        return call.failed(404);
    };
    let generation = object.generation.to_string();
    if head.parameter("generation").is_some_and(|wanted| wanted != generation) {
        return call.refused(404, "notFound", &format!("No such object: {BUCKET}/{name}#{generation}"));
    }
    if head.parameter("ifGenerationMatch").is_some_and(|wanted| wanted != generation) {
        return call.failed(412);
    }
    if call.kind == Kind::Describe {
        return selected(200, &object.resource(name), head, call);
    }
    let size = object.content.len();
    let part = match head.header("range").map(|range| span(range, size)) {
        None | Some(None) => None,
        Some(Some(Err(()))) => return call.failed(416).header("Content-Range", format!("bytes */{size}")),
        Some(Some(Ok(part))) => Some(part),
    };
    let status = if part.is_some() { 206 } else { 200 };
    let span = part.clone().unwrap_or(0..size);
    let mut answer = Answer::part(status, &object.content_type, object.content.clone(), span)
        .header("Accept-Ranges", "bytes")
        .header("ETag", format!("\"{generation}\""))
        .header("x-goog-generation", &generation)
        .header("x-goog-metageneration", 1)
        .header("x-goog-storage-class", "STANDARD")
        .header("x-goog-stored-content-encoding", "identity")
        .header("x-goog-stored-content-length", size)
        .header("x-goog-hash", format!("crc32c={}", object.crc32c()));
    if let Some(part) = part {
        answer = answer.header("Content-Range", format!("bytes {}-{}/{size}", part.start, part.end - 1));
    }
    answer
}

/// Returns the range of an object that a `Range` header selects: `None` if the header is to be ignored, an error if the
/// object has nothing of it.
fn span(header: &str, size: usize) -> Option<Result<std::ops::Range<usize>, ()>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let part = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first > last => return None,
        (Ok(first), Ok(last)) => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(last)) if first.is_empty() => size.saturating_sub(last)..size,
        _ => return None,
    };
    Some(if part.start < part.end { Ok(part) } else { Err(()) })
}

fn list(state: &State, head: &Head, call: &Call) -> Answer {
    let wanted = head.parameter("maxResults").map_or(Ok(1000), str::parse);
    let Ok(wanted @ 1..) = wanted else { return call.refused(400, "invalid", "Invalid value for maxResults.") };
    let after = head.parameter("pageToken").map(|token| BASE64_URL_SAFE.decode(token).map(String::from_utf8));
    let after = match after {
        None => None,
        Some(Ok(Ok(name))) => Some(name),
        Some(_) => return call.refused(400, "invalid", "Invalid argument."),
    };
    let prefix = head.parameter("prefix").unwrap_or_default();
    let from = head.parameter("startOffset").unwrap_or_default();
    let (found, more) = state.objects.page(prefix, from, after.as_deref(), wanted.min(state.page));
    let mut page = json!({"kind": "storage#objects"});
    if let (true, Some((last, _))) = (more, found.last()) {
        page["nextPageToken"] = BASE64_URL_SAFE.encode(last).into();
    }
    if !found.is_empty() {
        page["items"] = found.iter().map(|(name, object)| object.resource(name)).collect();
    }
    selected(200, &page, head, call)
}

fn permissions(state: &State, head: &Head, call: &Call) -> Answer {
    let asked: Vec<&str> =
        head.query.iter().filter(|(name, _)| name == "permissions").map(|(_, value)| value.as_str()).collect();
    if asked.is_empty() {
        return call.refused(400, "required", "Required");
    }
    let held: Vec<&str> = asked.into_iter().filter(|name| state.permissions.contains(*name)).collect();
    let mut answer = json!({"kind": "storage#testIamPermissionsResponse"});
    if !held.is_empty() {
        answer["permissions"] = held.into();
    }
    selected(200, &answer, head, call)
}
