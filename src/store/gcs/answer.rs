//! Reads the API's answers: their headers and their JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use http::header::CONTENT_RANGE;
use jiff::Timestamp;
use serde::Deserialize;

use crate::store::requests::Described;

/// An object as the API describes it; numbers are text there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// The object's whole name, including the vault's prefix.
    pub name: Option<String>,
    /// Its size in bytes.
    pub size: Option<String>,
    /// Its CRC32C, big endian, in Base64.
    pub crc32c: Option<String>,
    /// When it was created in this bucket.
    pub time_created: Option<Timestamp>,
    /// The time since when it has been released.
    pub custom_time: Option<String>,
}

impl Object {
    /// Returns its size and checksum.
    pub fn described(&self) -> Option<Described> {
        let crc32c = self.crc32c.as_deref().and_then(crc32c_from);
        Some(Described { size: self.size.as_deref()?.parse().ok()?, crc32c })
    }
}

fn crc32c_from(text: &str) -> Option<u32> {
    BASE64.decode(text).ok()?.try_into().ok().map(u32::from_be_bytes)
}

/// Returns the CRC32C of the whole object, which is in one of the values of `x-goog-hash`, or with others in one value.
pub fn stored_crc32c(headers: &HeaderMap) -> Option<u32> {
    let values = headers.get_all("x-goog-hash").into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(|hash| crc32c_from(hash.trim().strip_prefix("crc32c=")?))
}

/// Returns the object's size in bytes from `Content-Range: bytes 0-9/100` or `bytes */100`.
pub fn total(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcp::error_text::{LONGEST, message, retry_after};
    use std::time::Duration;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn checksums_and_sizes_come_in_headers() {
        // CRC32C of "123456789", RFC 3720.
        let sum = BASE64.encode(0xe306_9283u32.to_be_bytes());
        let one = headers(&[("x-goog-hash", &format!("md5=JfnnlDI7RTiF9RgfG2JNCw==, crc32c={sum}"))]);
        assert_eq!(stored_crc32c(&one), Some(0xe306_9283));
        let mut two = headers(&[("x-goog-hash", "md5=JfnnlDI7RTiF9RgfG2JNCw==")]);
        two.append("x-goog-hash", format!("crc32c={sum}").parse().unwrap());
        assert_eq!(stored_crc32c(&two), Some(0xe306_9283));
        assert_eq!(stored_crc32c(&headers(&[("x-goog-hash", "crc32c=AAAA")])), None);
        for (text, size) in [("bytes 0-9/100", Some(100)), ("bytes */0", Some(0)), ("bytes 0-9/*", None), ("x", None)] {
            assert_eq!(total(&headers(&[("content-range", text)])), size, "{text}");
        }
    }

    #[test]
    fn waiting_is_asked_for_in_seconds_or_by_a_time() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 01 Jan 2015 00:00:00 GMT"), Some(Duration::ZERO));
        assert!(retry_after("Fri, 01 Jan 2100 00:00:00 GMT").unwrap() > Duration::from_secs(86_400));
        assert_eq!(retry_after("18446744073709551615"), Some(LONGEST));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn errors_are_json_or_text() {
        let json = r#"{"error":{"code":404,"message":"The specified bucket\n does not exist.","errors":[]}}"#;
        assert_eq!(message(json).unwrap(), "The specified bucket does not exist.");
        assert_eq!(message("No such object: b/o"), Some("No such object: b/o".into()));
        assert_eq!(message(" \n"), None);
        assert_eq!(message(&"x".repeat(10_000)).unwrap().len(), 400);
        let object: Object = serde_json::from_str(r#"{"size":"12","crc32c":"4waSgw=="}"#).unwrap();
        assert_eq!(object.described(), Some(Described { size: 12, crc32c: Some(0xe306_9283) }));
    }
}
