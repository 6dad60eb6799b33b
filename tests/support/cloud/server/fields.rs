//! The `fields` parameter: `nextPageToken,items(name,size)`.

use serde_json::{Map, Value};

/// The fields that the answers of this server can have.
const KNOWN: [&str; 24] = [
    "kind",
    "id",
    "name",
    "bucket",
    "generation",
    "metageneration",
    "contentType",
    "storageClass",
    "size",
    "crc32c",
    "etag",
    "timeCreated",
    "updated",
    "timeStorageClassUpdated",
    "timeFinalized",
    "customTime",
    "nextPageToken",
    "items",
    "prefixes",
    "permissions",
    "location",
    "locationType",
    "lifecycle",
    "softDeletePolicy",
];

/// Names, each with what is selected of it.
struct Selection(Vec<(String, Option<Selection>)>);

/// Returns the fields that a mask selects; text that says what is wrong with it.
pub fn select(value: &Value, mask: Option<&str>) -> Result<Value, String> {
    let Some(mask) = mask.filter(|mask| *mask != "*") else { return Ok(value.clone()) };
    let wrong = || format!("Invalid field selection {mask}");
    let (selection, rest) = parse(mask).ok_or_else(wrong)?;
    if !rest.is_empty() {
        return Err(wrong());
    }
    Ok(apply(value, &selection))
}

fn parse(text: &str) -> Option<(Selection, &str)> {
    let (mut fields, mut rest) = (Vec::new(), text);
    loop {
        let (field, after) = parse_field(rest)?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Some((Selection(fields), after)),
        }
    }
}

fn parse_field(text: &str) -> Option<((String, Option<Selection>), &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if !KNOWN.contains(&name) {
        return None;
    }
    let (inner, rest) = if let Some(rest) = rest.strip_prefix('(') {
        let (inner, rest) = parse(rest)?;
        (Some(inner), rest.strip_prefix(')')?)
    } else if let Some(rest) = rest.strip_prefix('/') {
        let (field, rest) = parse_field(rest)?;
        (Some(Selection(vec![field])), rest)
    } else {
        (None, rest)
    };
    Some(((name.to_owned(), inner), rest))
}

fn apply(value: &Value, selection: &Selection) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| apply(item, selection)).collect(),
        Value::Object(fields) => {
            let chosen = selection.0.iter().filter_map(|(name, inner)| {
                let value = fields.get(name)?;
                Some((name.clone(), inner.as_ref().map_or_else(|| value.clone(), |inner| apply(value, inner))))
            });
            Value::Object(chosen.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}
