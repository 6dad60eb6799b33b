//! Wraps the lines that a terminal shows: at words, and never inside a path, a quotation or a command that somebody may copy.

use std::ffi::OsString;
use std::io;
use std::sync::OnceLock;

use lastgood::text;
use terminal_size::terminal_size_of;

/// The indentation of what follows the first line of an error.
pub const OF_ERROR: usize = 4;
/// The indentation of what follows the first line of a message in the log: it stands below the message, behind the level.
pub const OF_LOG: usize = 6;
/// On a terminal that is narrower than this number of columns, nothing is wrapped.
const NARROWEST: usize = 30;
/// Most words that a path goes on for behind a word with a slash, since names may have spaces.
const WORDS_OF_A_PATH: usize = 4;

/// Texts with spaces that are never broken: what was given as arguments and settings, and the current folder.
static WHOLE: OnceLock<Vec<String>> = OnceLock::new();

/// Keeps these texts whole, wherever a message quotes them. The first call counts.
pub fn keep_whole(texts: impl IntoIterator<Item = OsString>) {
    let texts = texts.into_iter().filter_map(|text| text.into_string().ok());
    let values = texts.map(|text| match text.split_once('=') {
        Some((option, value)) if option.starts_with("--") => value.to_owned(),
        _ => text,
    });
    WHOLE.get_or_init(|| values.filter(|text| text.contains(' ')).collect());
}

/// Returns the text as stderr shows it best: wrapped if it is a terminal, else as it is.
pub fn for_stderr(text: &str, indent: usize) -> String {
    match terminal_size_of(io::stderr()) {
        Some((width, _)) => wrapped(text, width.0.into(), indent, WHOLE.get().map_or(&[], Vec::as_slice)),
        None => text.to_owned(),
    }
}

/// Wraps each line that is longer than `width`. What follows the first line of the text is indented by `indent`, what follows another line
/// as that line is.
fn wrapped(text: &str, width: usize, indent: usize, whole: &[String]) -> String {
    if width < NARROWEST {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let indent = if number == 0 { indent } else { line.len() - line.trim_start().len() };
        // clap wraps it, and it is a command.
        match columns(line) <= width || without_colour(line).starts_with("Usage:") {
            true => out.push_str(line),
            false => wrap_line(line, width, indent, whole, &mut out),
        }
        out.push_str(end);
    }
    out
}

fn wrap_line(line: &str, width: usize, indent: usize, whole: &[String], out: &mut String) {
    let (mut used, mut is_first) = (0, true);
    for piece in pieces(line, whole) {
        let wide = columns(piece);
        if !is_first && used + 1 + wide > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else if !is_first {
            out.push(' ');
            used += 1;
        }
        out.push_str(piece);
        used += wide;
        // Nothing but the indentation of the line itself.
        is_first = is_first && piece.is_empty();
        if is_first {
            out.push(' ');
            used += 1;
        }
    }
}

/// Splits a line at the spaces at which it may be broken.
fn pieces<'l>(line: &'l str, whole: &[String]) -> Vec<&'l str> {
    let spaces: Vec<usize> = line.match_indices(' ').map(|(at, _)| at).collect();
    let mut kept = vec![false; spaces.len()];
    let mut keep = |from: usize, to: usize| {
        for (space, kept) in spaces.iter().zip(&mut kept) {
            *kept |= (from..to).contains(space);
        }
    };
    for text in whole {
        line.match_indices(text.as_str()).for_each(|(at, text)| keep(at, at + text.len()));
    }
    for (from, to) in quotations(line).into_iter().chain(paths(line)) {
        keep(from, to);
    }
    let mut found = Vec::with_capacity(spaces.len() + 1);
    let mut begin = 0;
    for (space, _) in spaces.iter().zip(&kept).filter(|(_, kept)| !**kept) {
        found.push(&line[begin..*space]);
        begin = space + 1;
    }
    found.push(&line[begin..]);
    found
}

/// The places of commands in backquotes, and of what a shell takes as one word. A quotation mark that nothing ends is none.
fn quotations(line: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut before = ' ';
    while let Some(c) = line[at..].chars().next() {
        let opens = c == '`' || matches!(c, '\'' | '"') && !before.is_alphanumeric();
        let length = c.len_utf8();
        let end = match opens {
            true => line[at + length..].find(c).map(|end| at + length + end + length),
            false => None,
        };
        if let Some(end) = end {
            found.push((at, end));
        }
        before = if end.is_some() { ' ' } else { c };
        at = end.unwrap_or(at + length);
    }
    found
}

/// The places that may be a path with spaces: from a word with a slash to one that has a slash inside, too, or that ends a clause.
fn paths(line: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::new();
    let mut at = 0;
    for word in line.split(' ') {
        words.push((at, word));
        at += word.len() + 1;
    }
    let ends = |word: &str| word.ends_with([':', ',', ';', '.', ')', ']']);
    let mut found = Vec::new();
    for (number, (from, word)) in words.iter().enumerate().filter(|(_, (_, word))| word.contains('/') && !ends(word)) {
        let after = &words[number + 1..words.len().min(number + 1 + WORDS_OF_A_PATH)];
        let goes_on = |word: &str| word.find('/').is_some_and(|slash| slash > 0) && !word.contains("://");
        let last = after.iter().position(|(_, word)| goes_on(word) || ends(word) || word.starts_with('/'));
        if let Some((to, last)) = last.map(|last| after[last]).filter(|(_, last)| !last.starts_with('/')) {
            found.push((*from + word.len(), to + last.len()));
        }
    }
    found
}

/// The number of columns of a text, without the sequences that colour it.
fn columns(text: &str) -> usize {
    text::columns(&without_colour(text))
}

fn without_colour(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("\u{1b}[") {
        plain.push_str(&rest[..at]);
        let sequence = &rest[at + 2..];
        rest = sequence.find(|c: char| c.is_ascii_alphabetic()).map_or("", |end| &sequence[end + 1..]);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_40(text: &str) -> Vec<String> {
        wrapped(text, 40, 4, &["/my own vault".to_owned()]).lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_broken_at_words_and_indented() {
        assert_eq!(at_40("short"), ["short"]);
        assert_eq!(
            at_40(
                "lastgood: could not do what was asked for: it is broken\n  And this is a hint that is longer than a line.\n"
            ),
            [
                "lastgood: could not do what was asked",
                "    for: it is broken",
                "  And this is a hint that is longer than",
                "  a line."
            ]
        );
        let told = at_40("\u{1b}[33m WARN\u{1b}[0m one two three four five six seven eight");
        assert_eq!(told, ["\u{1b}[33m WARN\u{1b}[0m one two three four five six seven", "    eight"]);
        assert_eq!(wrapped("a b c", 4, 4, &[]), "a b c");
    }

    #[test]
    fn columns_are_counted_and_not_characters() {
        for text in [
            "the folder 備份 資料 夾子 備份 資料 夾子 has no file",
            "cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301}",
        ] {
            let lines = at_40(text);
            assert!(lines.len() == 2 && lines.iter().all(|line| columns(line) <= 40), "{lines:?}");
            assert!(columns(&lines[0]) > 34, "{lines:?}");
        }
        // Eight words of four columns and the spaces between them fit, however many characters they have.
        let fits = "cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301}";
        assert_eq!(at_40(fits), [fits]);
    }

    #[test]
    fn what_may_be_copied_is_whole() {
        for (text, whole) in [
            (
                "could not find it there: run `lastgood restore --in-place x` for that",
                "`lastgood restore --in-place x`",
            ),
            ("could not find it there: not in '/a folder of mine/with x' at all", "'/a folder of mine/with x'"),
            ("could not find it anywhere at all in /srv/my vault: there is none", "/srv/my vault:"),
            ("could not find it anywhere at all /srv/my files/of x/vault now", "/srv/my files/of x/vault"),
            ("could not find it anywhere at all in /my own vault is what it says", "/my own vault"),
            (
                "could not find it /a/path/that/is/longer/than/the/line/itself/is/wide today",
                "/a/path/that/is/longer/than/the/line/itself/is/wide",
            ),
        ] {
            let lines = at_40(text);
            assert!(lines.len() > 1 && lines.iter().any(|line| line.contains(whole)), "{lines:?}");
            let joined: Vec<_> = lines.iter().map(|line| line.trim()).collect();
            assert_eq!(joined.join(" "), text);
        }
        // An apostrophe opens nothing, and two paths are two.
        let told = at_40("the app's data isn't there although the app's log says that it is there");
        assert!(told.iter().all(|line| line.len() <= 40), "{told:?}");
        let told = at_40("it was moved from /a/folder/that/is/long /to/another/one");
        assert_eq!(told, ["it was moved from /a/folder/that/is/long", "    /to/another/one"]);
        assert_eq!(at_40("Usage: lastgood backup [OPTIONS] [DIR] and so on").len(), 1);
    }
}
