//! Text from outside, made fit to be shown.

/// Text from outside: control characters, line ends and what turns the direction of text are written as escapes, and
/// what is longer than `most` bytes is cut between characters, and says so.
pub fn one_line(one_line: &str, most: usize) -> String {
    let one_line = escape(one_line);
    if one_line.len() <= most {
        return one_line;
    }
    let kept = one_line.floor_char_boundary(most.saturating_sub(CUT.len()));
    format!("{}{CUT}", &one_line[..kept])
}

/// What ends a text that was cut.
pub(crate) const CUT: &str = "… (cut)";

pub(crate) fn escape(one_line: &str) -> String {
    let mut out = String::with_capacity(one_line.len());
    for c in one_line.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
