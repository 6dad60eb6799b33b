//! The part of an event's text that is kept, and its form: a snapshot's root stays small, and a log line one line.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::backup::{MAX_LABEL, MAX_LABELS};
use crate::text::{escape, one_line};

/// The most bytes of a label's name.
const MAX_NAME: usize = 256;
/// The label that says for how many others there was no room.
pub const LEFT_OUT: &str = "left_out";

/// The labels that fit, out of those given in the order of their weight; if two have one name, the first is taken.
///
/// Names and values are put on [one line](one_line). A value that is too long is cut. A label without a name, with too long a
/// name, with a name that is taken by another value, or over the most that fit is left out. The label [`LEFT_OUT`] counts these
/// and `left_out` more; if it is given again, it is counted on, so that the result may be given to this function again, and
/// joined with others.
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
        let value = one_line(&value, MAX_LABEL - name.len());
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
        // A label of that name whose value is not a number gives way.
        labels.insert(LEFT_OUT.to_owned(), left_out.to_string());
    }
    labels
}
