//! What of an event's text is kept, and in what form: a snapshot's root stays small, and a log line one line.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::backup::{MAX_LABEL, MAX_LABELS};

/// The most bytes of a label's name.
const MAX_NAME: usize = 256;
/// What ends a text that was cut.
const CUT: &str = "… (cut)";
/// The label that says how many others there was no room for.
pub const LEFT_OUT: &str = "left_out";

/// The labels that fit, of those given in the order of their weight; of two with one name the first is taken.
///
/// Names and values are [`text`]. A value that is too long is cut; what has no name or too long a name, a name that is
/// taken by another value, and whatever is over the most is left out. The label [`LEFT_OUT`] counts those and
/// `left_out` more; given again, it is counted on, so what this gave may be given to it again, and joined with others.
pub fn fit(pairs: impl IntoIterator<Item = (String, String)>, left_out: usize) -> BTreeMap<String, String> {
    let (mut labels, mut order, mut left_out) = (BTreeMap::new(), Vec::new(), left_out);
    for (name, value) in pairs {
        if name == LEFT_OUT
            && let Ok(more) = value.parse::<usize>()
        {
            left_out = left_out.saturating_add(more);
            continue;
        }
        let name = escape(&name);
        if name.is_empty() || name.len() > MAX_NAME {
            left_out = left_out.saturating_add(1);
            continue;
        }
        let value = text(&value, MAX_LABEL - name.len());
        match labels.entry(name) {
            Entry::Vacant(entry) => {
                order.push(entry.key().clone());
                entry.insert(value);
            }
            Entry::Occupied(entry) if *entry.get() == value => {}
            Entry::Occupied(_) => left_out = left_out.saturating_add(1),
        }
    }
    let room = if left_out > 0 || order.len() > MAX_LABELS { MAX_LABELS - 1 } else { MAX_LABELS };
    for name in order.iter().skip(room) {
        labels.remove(name);
        left_out = left_out.saturating_add(1);
    }
    if left_out > 0 {
        // A label of that name whose value is no number gives way.
        labels.insert(LEFT_OUT.to_owned(), left_out.to_string());
    }
    labels
}

/// Text from outside: control characters, line ends and what turns the direction of text are written as escapes, and
/// what is longer than `most` bytes is cut between characters, and says so.
pub fn text(text: &str, most: usize) -> String {
    let text = escape(text);
    if text.len() <= most {
        return text;
    }
    let kept = text.floor_char_boundary(most.saturating_sub(CUT.len()));
    format!("{}{CUT}", &text[..kept])
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
