//! What a data directory is before an app starts in it, as text for people.

use std::path::Path;

use indicatif::BinaryBytes;

use super::{line, named, path};
use crate::start::decide::{Decision, SaveReason, StartAction};
use crate::start::seed::Seed;
use crate::text::{columns, count_of, printable};

/// The width of the text, in characters.
const WIDTH: usize = 80;
/// The width of the words on the left.
const INDENT: usize = 11;

/// Says what a directory is, why, what `run` would do, and what was compared.
pub fn state(decision: &Decision, data: &Path) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("{} is {}", path(data), decision.state.in_a_sentence()));
    field(&mut text, "because", &decision.why);
    field(&mut text, "run", &action(&decision.action));
    for (number, compared) in decision.compared.iter().enumerate() {
        field(&mut text, if number == 0 { "compared" } else { "" }, compared);
    }
    text
}

/// Says what `run` would do.
fn action(action: &StartAction) -> String {
    match action {
        StartAction::Start { save: false } => "starts the app".into(),
        StartAction::Start { save: true } => "starts the app, and makes a backup at once".into(),
        StartAction::Restore { snapshot, save_first: None, .. } => {
            format!("restores {}, then starts the app", named(snapshot))
        }
        StartAction::Restore { snapshot, save_first: Some(reason), .. } => {
            let what = match reason {
                SaveReason::Diverged | SaveReason::Unknown => {
                    "saves what is there as a snapshot that is never the newest"
                }
                SaveReason::Broken => "saves what can be read of it as a snapshot that is never the newest",
            };
            format!("{what}, restores {}, then starts the app", named(snapshot))
        }
        StartAction::Keep { pin: Some(pin) } => {
            format!("makes what is there the newest snapshot, keeps {} as well, and starts the app", named(pin))
        }
        StartAction::Keep { pin: None } => "makes what is there the newest snapshot, and starts the app".into(),
        StartAction::Refuse { advice } => format!("does NOT start the app. {advice}"),
    }
}

/// Adds a text with a word on its left, wrapped between words.
pub(super) fn field(text: &mut String, word: &str, what: &str) {
    let mut row = format!("  {word:<width$}", width = INDENT - 2);
    let (mut has_words, what) = (false, printable(what));
    for next in what.split(' ') {
        if has_words && columns(&row) + 1 + columns(next) > WIDTH {
            line(text, format_args!("{row}"));
            (row, has_words) = (" ".repeat(INDENT), false);
        }
        if has_words {
            row.push(' ');
        }
        row.push_str(next);
        has_words = true;
    }
    line(text, format_args!("{row}"));
}

/// Says what was marked, and what the mark means.
pub fn seed(seed: &Seed, data: &Path) -> String {
    let mut text = String::new();
    let files = count_of(seed.files, "file");
    line(&mut text, format_args!("Marked {} as data that an image brings along", path(data)));
    line(&mut text, format_args!("  holds    {files}, {}", BinaryBytes(seed.bytes)));
    let meaning = "Where the vault has a snapshot, `lastgood run` restores that over it. Where it has none, the app starts with it. \
                   Once something writes to it, it is saved before it is replaced.";
    field(&mut text, "means", meaning);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::decide::StartState;

    #[test]
    fn texts_fit_a_terminal() {
        let long = "a word ".repeat(40) + &"x".repeat(100);
        let action = StartAction::Refuse { advice: format!("{}.", "Do this and that. ".repeat(12).trim()) };
        let compared = vec!["first".into(), "second \u{1b}[2J".into()];
        let decision = Decision { state: StartState::NoneGood, action, why: long, compared };
        let text = state(&decision, Path::new("/srv/app/data"));
        let too_long: Vec<_> = text.lines().filter(|line| line.chars().count() > WIDTH).collect();
        assert!(too_long.len() == 1 && too_long[0].ends_with("xxx"), "{text}");
        assert!(text.starts_with("/srv/app/data is without a good snapshot\n  because  a word a word"), "{text}");
        assert!(text.ends_with("  compared first\n           second \\x1b[2J\n"), "{text}");
        assert!(!text.lines().any(|line| line.ends_with(' ')), "{text}");
    }
}
