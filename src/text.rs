//! Makes text from outside fit to be shown, and numbers of things readable.

use indicatif::HumanCount;
use unicode_width::UnicodeWidthStr;

use crate::path;
use crate::shell::acts_on_a_terminal;

/// Returns a number of things as people read it: `1 snapshot`, `1,200 snapshots`.
pub fn count_of(count: u64, what: &str) -> String {
    format!("{} {what}{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

/// Returns how many columns of a terminal a text takes: a character of Chinese and an emoji take two, and an accent of its own none.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// Puts text from outside on one line: control characters, line ends and characters that turn the direction of text are written
/// as escapes. A text longer than `most` bytes is cut between characters, and marked as cut.
pub fn one_line(text: &str, most: usize) -> String {
    let text = escape(text);
    if text.len() <= most {
        return text;
    }
    let kept = text.floor_char_boundary(most.saturating_sub(CUT.len()));
    format!("{}{CUT}", &text[..kept])
}

/// The end of a text that was cut.
pub(crate) const CUT: &str = "… (cut)";

pub(crate) fn escape(text: &str) -> String {
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

/// Makes everything visible in text from outside (names of files, answers of systems) that could act on a terminal: control
/// characters, and those that turn the direction of text. Bytes are written as `\xNN`, as everywhere.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts_on_a_terminal(c) {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns a path in a snapshot, or a name, on one line: as JSON spells it, and with characters that act on a terminal as bytes,
/// too. [`path::EntryPath::given`] takes it back.
pub fn entry_name(bytes: &[u8]) -> String {
    if bytes.is_empty() { ".".into() } else { printable(&path::escape(bytes)) }
}

/// How alike two words are, from 0 to 1, of which one is taken for a misspelling of the other.
const ALIKE: f64 = 0.8;

/// Returns the word that another one is probably a misspelling of.
pub fn nearest(wrong: &str, words: impl Iterator<Item = String>) -> Option<String> {
    let alike = words.map(|word| (strsim::jaro_winkler(&word, wrong), word)).filter(|(alike, _)| *alike > ALIKE);
    alike.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::EntryPath;

    #[test]
    fn names_do_no_harm_and_have_one_spelling() {
        assert_eq!(entry_name(b""), ".");
        assert_eq!(entry_name(b"a\x1b[2J"), "a\\x1b[2J");
        assert_eq!(entry_name(b"a\\x1b"), "a\\\\x1b");
        assert_eq!(entry_name(b"\xff\n"), "\\xff\\x0a");
    }

    #[test]
    fn one_is_not_many() {
        for (count, text) in [(0, "0 packs"), (1, "1 pack"), (1200, "1,200 packs")] {
            assert_eq!(count_of(count, "pack"), text);
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_made_visible() {
        assert_eq!(printable("größe \u{1b}[2J\n\u{202e}"), "größe \\x1b[2J\\x0a\\xe2\\x80\\xae");
    }

    proptest! {
        #[test]
        fn every_path_that_is_shown_can_be_given(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
            if let Ok(path) = EntryPath::new(bytes) {
                for text in [path.to_string(), entry_name(path.bytes())] {
                    prop_assert_eq!(EntryPath::given(text.as_bytes()).unwrap(), path.clone());
                }
            }
        }
    }
}
