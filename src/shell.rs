//! Quoting for commands that people copy into a shell.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether a character is not shown itself but acts on a terminal: the text around it is then not what it seems to be.
pub fn acts_on_a_terminal(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Quotes the path of a folder for a shell, in one line. A shell takes line ends off the end of what a command prints, and only some
/// shells know `$'…'`: a slash keeps them.
pub fn folder(path: &Path) -> String {
    match path.as_os_str().as_bytes().ends_with(b"\n") {
        true => word(path.join("")),
        false => word(path),
    }
}

/// Quotes a word for a shell, whatever is in it. A word with characters that act on a terminal, or that is not UTF-8, is written as
/// what `printf` makes of escapes: a POSIX shell such as dash does not know `$'…'`. Line ends at its end are themselves: there is no other
/// way that all shells know, but for a [`folder`].
pub fn word(text: impl AsRef<OsStr>) -> String {
    let bytes = text.as_ref().as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:,@%=".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_owned(),
        Ok(text) if !text.chars().any(acts_on_a_terminal) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let kept = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == b'\n').count();
            let line_ends = "\n".repeat(bytes.len() - kept);
            format!("\"$(printf '{}'){line_ends}\"", escaped(&bytes[..kept]))
        }
    }
}

/// Returns bytes with escapes for all that is not plain text, as the format of `printf` has them.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    // The escapes are octal: a digit that follows a hexadecimal escape may be taken for a part of it.
    let octal = |out: &mut String, bytes: &[u8]| bytes.iter().for_each(|byte| _ = write!(out, "\\{byte:03o}"));
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\\' => out.push_str("\\\\"),
                '\'' => octal(&mut out, b"'"),
                '%' => out.push_str("%%"),
                // A format that begins with a dash may be taken for an option.
                '-' if out.is_empty() => octal(&mut out, b"-"),
                c if acts_on_a_terminal(c) => octal(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        octal(&mut out, chunk.invalid());
    }
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
            ("a\nb\t'\\ \u{1b}1é%", r#""$(printf 'a\nb\t\047\\ \0331é%%')""#),
            ("a'\n", "\"$(printf 'a\\047')\n\""),
        ] {
            assert_eq!(word(text), expected);
        }
        let odd = OsString::from_vec(b"-\xff1\n$HOME `x` \"\\\x01 $(x) %s %% !!".to_vec());
        let texts = [&*odd, OsStr::new("a b"), OsStr::new("it's; $x"), OsStr::new("*"), OsStr::new("\u{85}x\u{202e}y")];
        for shell in ["sh", "bash"] {
            for text in texts {
                let said = Command::new(shell).arg("-c").arg(format!("printf %s {}", word(text))).output().unwrap();
                assert_eq!(said.stdout, text.as_bytes(), "{shell}");
            }
        }
        for shell in ["sh", "bash"] {
            for (given, expected) in [(word("a\n'\n\n"), "a\n'\n\n"), (folder(Path::new("/a\nb\n")), "/a\nb\n/")] {
                let said = Command::new(shell).arg("-c").arg(format!("printf %s {given}")).output().unwrap();
                assert_eq!(said.stdout, expected.as_bytes(), "{shell}");
            }
        }
        assert_eq!(folder(Path::new("/a b")), "'/a b'");
    }
}
