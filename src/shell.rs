//! Quoting for commands that people copy into a shell.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// Whether a character is not shown itself but acts on a terminal: the text around it is then not what it seems to be.
pub fn acts_on_a_terminal(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Quotes a word for a shell, whatever is in it. A word with characters that act on a terminal, or that is not UTF-8, is written
/// in `$'…'`, which shells in use understand.
pub fn word(text: impl AsRef<OsStr>) -> String {
    let bytes = text.as_ref().as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:,@%=".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_owned(),
        Ok(text) if !text.chars().any(acts_on_a_terminal) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => dollar(bytes),
    }
}

/// Does the same with escapes for all that is not plain text.
fn dollar(bytes: &[u8]) -> String {
    let mut out = String::from("$'");
    // The escapes are octal: a digit that follows a hexadecimal escape may be taken for a part of it.
    let octal = |out: &mut String, bytes: &[u8]| bytes.iter().for_each(|byte| _ = write!(out, "\\{byte:03o}"));
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\\' | '\'' => out.extend(['\\', c]),
                c if acts_on_a_terminal(c) => octal(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        octal(&mut out, chunk.invalid());
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn words_are_read_by_a_shell_as_they_were() {
        for (text, expected) in [
            ("gs://b-1/x", "gs://b-1/x"),
            ("", "''"),
            ("/my vault", "'/my vault'"),
            ("/it's here", "'/it'\\''s here'"),
            ("a\nb\t'\\ \u{1b}1é", "$'a\\nb\\t\\'\\\\ \\0331é'"),
        ] {
            assert_eq!(word(text), expected);
        }
        let odd = OsString::from_vec(b"\xff1\n$HOME `x` \"\\\x01".to_vec());
        for text in [&odd, OsStr::new("a b"), OsStr::new("it's; $x"), OsStr::new("*"), OsStr::new("\u{85}x\u{202e}y")] {
            let said = Command::new("bash").arg("-c").arg(format!("printf %s {}", word(text))).output().unwrap();
            assert_eq!(said.stdout, text.as_bytes());
        }
    }
}
