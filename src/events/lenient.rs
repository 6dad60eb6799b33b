//! Reads JSON that is not quite valid, as some programs write it, and tells what it can of data that is not JSON at all.

use super::vocabulary::{CRITICAL, Severity};

/// The words that Python writes for values that are not numbers in JSON.
const NO_NUMBERS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// JSON with `null` in place of `NaN` and `Infinity`, numbers that are too large as text, no comma after the last element, and
/// U+FFFD in place of half a character (`\ud83d`), as in a text that was cut. `None` if the data has none of these.
pub fn json(data: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::with_capacity(data.len()), data);
    let (mut quoted, mut mended) = (false, false);
    while let [first, after @ ..] = rest {
        let (length, instead) = match quoted {
            true => in_text(rest),
            false => outside(rest),
        };
        quoted ^= *first == b'"';
        match instead {
            Some(instead) => {
                out.extend(instead);
                mended = true;
            }
            None => out.extend(rest.iter().take(length)),
        }
        rest = rest.get(length..).unwrap_or(&after[after.len()..]);
    }
    mended.then_some(out)
}

/// How many bytes inside a string belong together, and what is written in their place.
fn in_text(rest: &[u8]) -> (usize, Option<Vec<u8>>) {
    match (rest, unit(rest)) {
        (_, Some(0xd800..0xdc00)) => match rest.get(6..).and_then(unit) {
            Some(0xdc00..0xe000) => (12, None),
            _ => (6, Some(b"\\ufffd".to_vec())),
        },
        (_, Some(0xdc00..0xe000)) => (6, Some(b"\\ufffd".to_vec())),
        ([b'\\', ..], _) => (2, None),
        _ => (1, None),
    }
}

/// The number of an escape such as `\u00e4` that begins here.
fn unit(rest: &[u8]) -> Option<u16> {
    let digits = rest.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// How many bytes between strings belong together, and what is written in their place.
fn outside(rest: &[u8]) -> (usize, Option<Vec<u8>>) {
    if let Some(name) = NO_NUMBERS.iter().find(|name| rest.starts_with(name)) {
        return (name.len(), Some(b"null".to_vec()));
    }
    match rest.first() {
        Some(b',') => {
            let next = rest[1..].iter().find(|c| !c.is_ascii_whitespace());
            (1, matches!(next, Some(b'}' | b']')).then(Vec::new))
        }
        Some(b'-' | b'0'..=b'9') => {
            let is_number = |c: &&u8| matches!(c, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
            let length = rest.iter().take_while(is_number).count();
            let number = String::from_utf8_lossy(&rest[..length]);
            let too_large = number.parse::<f64>().is_ok_and(f64::is_infinite);
            (length, too_large.then(|| format!("\"{number}\"").into_bytes()))
        }
        _ => (1, None),
    }
}

/// Whether data that is not JSON, perhaps as it is cut off, says that it is a critical event: by its type or its severity.
pub fn says_critical(data: &[u8]) -> bool {
    says(data, "type", |word| word == CRITICAL)
        || says(data, "severity", |word| Severity::of(word) == Severity::Serious)
}

/// Whether a field of this name has such a value somewhere in the data.
fn says(data: &[u8], name: &str, is: impl Fn(&str) -> bool) -> bool {
    let name = format!("\"{name}\"");
    let value = |at: usize| {
        let value = data[at + name.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let word = value.strip_prefix(b"\"")?;
        let end = word.iter().position(|c| *c == b'"')?;
        std::str::from_utf8(&word[..end]).ok()
    };
    let places = data.windows(name.len()).enumerate().filter(|(_, found)| *found == name.as_bytes());
    places.filter_map(|(at, _)| value(at)).any(is)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_json_but_for_a_habit_is_read() {
        for (text, value) in [
            (r#"{"a": 1e400, "b": [-1E999,1e3]}"#, json!({ "a": "1e400", "b": ["-1E999", 1e3] })),
            ("{\"a\":[1,2,\n],\"b\":2,}", json!({ "a": [1, 2], "b": 2 })),
            (
                r#"["\ud83d", "\ude00x", "\ud83d\ude00", "\ud83d\u0041", "\\ud83d"]"#,
                json!(["\u{fffd}", "\u{fffd}x", "😀", "\u{fffd}A", "\\ud83d"]),
            ),
            (r#"{"a,}": "NaN,]", "b": NaN, "c": -Infinity,}"#, json!({ "a,}": "NaN,]", "b": null, "c": null })),
            (&format!("[{}]", "9".repeat(400)), json!(["9".repeat(400)])),
        ] {
            let mended = json(text.as_bytes()).unwrap_or_else(|| text.into());
            assert_eq!(serde_json::from_slice::<Value>(&mended).unwrap(), value, "{text}");
        }
        for text in ["", "[1]", "\"\\", "\\", "{\"a", "\"\\u12", "-", r#""\ud83d\u"#, "\"\\ud83d\\"] {
            let _ = json(text.as_bytes());
        }
        assert_eq!(json(br#"{"a":"x","b":[1,2.5e3]}"#), None);
    }

    #[test]
    fn what_is_cut_off_may_say_that_it_is_critical() {
        for text in [
            r#"{"type":"dev.lastgood.critical","data":"x"#,
            "{\"type\" :\n\"dev.lastgood.critical\"",
            r#"{"text":"x","severity": "fatal", "message":"#,
        ] {
            assert!(says_critical(text.as_bytes()), "{text}");
        }
        for text in ["", "\"type\"", "\"type\":", "\"severity\":\"INFO\"", "dev.lastgood.critical", "\"severity\":7"] {
            assert!(!says_critical(text.as_bytes()), "{text}");
        }
    }
}
