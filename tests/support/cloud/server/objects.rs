//! The bucket's objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::BUCKET;

/// One object of one generation.
pub struct Object {
    pub content: Arc<Vec<u8>>,
    pub generation: u64,
    pub content_type: String,
    crc32c: u32,
    created: Timestamp,
    custom_time: Option<String>,
}

/// Returns a CRC32C as Google writes it: base64 of its bytes, the highest one first.
pub fn crc32c_text(crc: u32) -> String {
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

impl Object {
    pub fn crc32c(&self) -> String {
        crc32c_text(self.crc32c)
    }

    /// Returns its resource as the API gives it.
    pub fn resource(&self, name: &str) -> Value {
        let (generation, created) = (self.generation.to_string(), format!("{:.3}", self.created));
        let mut resource = json!({
            "kind": "storage#object",
            "id": format!("{BUCKET}/{name}/{generation}"),
            "name": name,
            "bucket": BUCKET,
            "generation": generation,
            "metageneration": "1",
            "contentType": self.content_type,
            "storageClass": "STANDARD",
            "size": self.content.len().to_string(),
            "crc32c": self.crc32c(),
            "etag": BASE64_STANDARD.encode(&generation),
            "timeCreated": created,
            "updated": created,
            "timeStorageClassUpdated": created,
            "timeFinalized": created,
        });
        if let Some(time) = &self.custom_time {
            resource["customTime"] = time.as_str().into();
        }
        resource
    }
}

/// All of them, by name.
#[derive(Default)]
pub struct Objects {
    pub bucket_missing: bool,
    objects: BTreeMap<String, Object>,
    generations: u64,
}

impl Objects {
    pub fn get(&self, name: &str) -> Option<&Object> {
        self.objects.get(name)
    }

    pub fn names(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    pub fn content(&self, name: &str) -> Option<&[u8]> {
        self.objects.get(name).map(|object| object.content.as_slice())
    }

    /// Makes this the object of that name; a new generation.
    pub fn put(&mut self, name: &str, content: Vec<u8>, created: Timestamp) -> &mut Object {
        self.generations += 1;
        let object = Object {
            crc32c: crc32c::crc32c(&content),
            content: Arc::new(content),
            generation: 1_700_000_000_000_000 + self.generations,
            content_type: "application/octet-stream".into(),
            created,
            custom_time: None,
        };
        self.objects.insert(name.to_owned(), object);
        self.objects.get_mut(name).expect("it was inserted")
    }

    pub fn remove(&mut self, name: &str) -> bool {
        self.objects.remove(name).is_some()
    }

    pub fn set_custom_time(&mut self, name: &str, time: &str) {
        let object = self.objects.get_mut(name).unwrap_or_else(|| panic!("{name} is not there"));
        object.custom_time = Some(time.to_owned());
    }

    /// Returns at most `limit` objects whose names start with `prefix`, are not before `from` and come after `after`, in
    /// order; whether there are more.
    pub fn page(&self, prefix: &str, from: &str, after: Option<&str>, limit: usize) -> (Vec<(&str, &Object)>, bool) {
        let from = after.unwrap_or_default().max(prefix).max(from);
        let mut found = self.objects.range(from.to_owned()..).map(|(name, object)| (name.as_str(), object));
        let mut page = Vec::new();
        for (name, object) in found.by_ref() {
            if !name.starts_with(prefix) {
                break;
            }
            if Some(name) == after {
                continue;
            }
            if page.len() == limit {
                return (page, true);
            }
            page.push((name, object));
        }
        (page, false)
    }
}
