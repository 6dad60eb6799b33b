//! Commands as a shell reads them, as far as pages write them.

/// Words that stand before a command.
const BEFORE: [&str; 11] = ["exec", "if", "then", "else", "!", "do", "while", "until", "sudo", "nohup", "-"];

/// A command that a page tells a reader to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Arguments of `lastgood`.
    Lastgood(Vec<String>),
    /// Arguments of `gcloud`.
    Gcloud(Vec<String>),
}

/// The commands of a block in a language.
pub fn of_block(language: &str, lines: &[&str]) -> Vec<Command> {
    let text = lines.join("\n");
    match language {
        "sh" => of_shell(&text),
        "text" => drawn(&text),
        "cron" => {
            lines.iter().filter(|line| !line.starts_with('#')).flat_map(|line| of_shell(after(line, 5))).collect()
        }
        "ini" => {
            let joined = text.replace("\\\n", " ");
            let runs = joined.lines().filter_map(|line| line.strip_prefix("Exec")?.split_once('='));
            runs.flat_map(|(_, command)| of_shell(command)).collect()
        }
        "dockerfile" => {
            let joined = text.replace("\\\n", " ");
            joined.lines().flat_map(of_instruction).collect()
        }
        // Output, documents and programs of others.
        _ => Vec::new(),
    }
}

/// The commands in a drawing: `lastgood`, and the words after it that are letters.
fn drawn(text: &str) -> Vec<Command> {
    let commands = text.split("lastgood ").skip(1).map(|rest| {
        let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
        let line = rest.lines().next().unwrap_or_default();
        Command::Lastgood(line.split(' ').take_while(is_word).map(str::to_owned).collect())
    });
    commands.collect()
}

/// What stands after so many words of a line.
fn after(line: &str, words: usize) -> &str {
    (0..words)
        .fold(line.trim(), |rest, _| rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start()))
}

/// The commands of a line of a Dockerfile.
fn of_instruction(line: &str) -> Vec<Command> {
    let Some((_, command)) = line.split_once(' ').filter(|(name, _)| ["RUN", "CMD", "ENTRYPOINT"].contains(name))
    else {
        return Vec::new();
    };
    match serde_json::from_str::<Vec<String>>(command) {
        Ok(words) => named(words),
        Err(_) => of_shell(command),
    }
}

/// The commands of a shell script, with those in `$(…)`, in quotes, and in comments between backticks.
pub fn of_shell(script: &str) -> Vec<Command> {
    let mut found = Vec::new();
    let (mut words, mut word): (Vec<String>, Option<String>) = (Vec::new(), None);
    let mut rest = script;
    while let Some(c) = rest.chars().next() {
        let begins = word.is_none();
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' if rest.starts_with('\n') => {
                words.extend(word.take());
                rest = &rest[1..];
            }
            '#' if begins => {
                let (comment, next) = rest.split_at(rest.find('\n').unwrap_or(rest.len()));
                found.extend(comment.split('`').skip(1).step_by(2).flat_map(of_shell));
                rest = next;
            }
            '\'' | '"' => {
                let (quoted, next) = rest.split_once(c).unwrap_or_else(|| panic!("a quote does not end: {script}"));
                if quoted.starts_with("lastgood ") {
                    found.extend(of_shell(quoted));
                }
                if c == '"' {
                    found.extend(substituted(quoted).into_iter().flat_map(of_shell));
                }
                word.get_or_insert_default().push_str(quoted);
                rest = next;
            }
            '$' if rest.starts_with('(') => {
                let inside = closed(&rest[1..]);
                found.extend(of_shell(inside));
                word.get_or_insert_default().push_str("OUTPUT");
                rest = &rest[inside.len() + 2..];
            }
            '&' if word.as_ref().is_some_and(|word| word.ends_with('>')) => word.get_or_insert_default().push(c),
            '|' | '&' | ';' | '\n' | '(' | ')' => {
                words.extend(word.take());
                found.extend(named(std::mem::take(&mut words)));
            }
            ' ' | '\t' => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    found.extend(named(words));
    found
}

/// What stands in each `$(…)` of a text.
fn substituted(text: &str) -> Vec<&str> {
    text.match_indices("$(").map(|(at, _)| closed(&text[at + 2..])).collect()
}

/// A text up to the parenthesis that closes it.
fn closed(text: &str) -> &str {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    &text[..end.unwrap_or_else(|| panic!("a parenthesis is not closed: {text}"))]
}

/// A command of ours, or of Google's, with what its own arguments run.
fn named(words: Vec<String>) -> Vec<Command> {
    let is_set = |word: &str| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let mut words = words.into_iter().skip_while(|word| BEFORE.contains(&word.as_str()) || is_set(word));
    let Some(program) = words.next() else { return Vec::new() };
    let mut args = Vec::new();
    while let Some(word) = words.next() {
        match word.trim_start_matches(|c: char| c.is_ascii_digit()) {
            ">" | ">>" | "<" => _ = words.next(),
            word if word.starts_with(['>', '<']) => {}
            _ => args.push(word),
        }
    }
    match program.rsplit('/').next().unwrap_or_default() {
        "lastgood" => vec![Command::Lastgood(args)],
        "cargo" if args.first().is_some_and(|arg| arg == "run") => {
            let at = args.iter().position(|arg| arg == "--");
            at.map(|at| Command::Lastgood(args.split_off(at + 1))).into_iter().collect()
        }
        "gcloud" => {
            // What a container runs.
            let inner = args.iter().filter_map(|arg| arg.strip_prefix("--args="));
            let inner = inner.map(|list| Command::Lastgood(list.split(',').map(str::to_owned).collect()));
            inner.collect::<Vec<_>>().into_iter().chain([Command::Gcloud(args)]).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lastgood(words: &str) -> Command {
        Command::Lastgood(words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect())
    }

    #[test]
    fn commands_are_found_wherever_a_page_writes_them() {
        for (script, expected) in [
            ("lastgood init                  # once; or `lastgood backup --init`", vec!["backup --init", "init"]),
            ("A=b /usr/bin/lastgood \\\n  list --limit 3 > x 2>&1 | wc -l", vec!["list --limit 3"]),
            ("trap 'lastgood publish critical' ERR", vec!["publish critical"]),
            ("a || [ $? -eq 5 ] && exec lastgood doctor &\nlastgood ls x", vec!["doctor", "ls x"]),
            ("echo \"$(lastgood cat latest $(echo a))\" $(lastgood diff a b)", vec!["cat latest OUTPUT", "diff a b"]),
            ("cargo run --release -- backup DIR; cargo run", vec!["backup DIR"]),
            ("gcloud run deploy lastgood --args=serve,--auth=none", vec!["serve --auth=none"]),
            ("echo lastgood backup; mylastgood x", vec![]),
        ] {
            let found: Vec<_> =
                of_shell(script).into_iter().filter(|found| matches!(found, Command::Lastgood(_))).collect();
            assert_eq!(found, expected.into_iter().map(lastgood).collect::<Vec<_>>(), "{script}");
        }
        for (language, line, expected) in [
            ("cron", "0 */6 * * *  lastgood backup /srv/app", "backup /srv/app"),
            ("text", "x ─► lastgood serve ─► y", "serve"),
            ("text", "x ─► lastgood serve", "serve"),
            ("ini", "ExecStart=/usr/local/bin/lastgood backup", "backup"),
            ("dockerfile", "CMD [\"lastgood\", \"serve\"]", "serve"),
            ("dockerfile", "RUN apt-get update && lastgood --version", "--version"),
        ] {
            assert_eq!(of_block(language, &[line]), [lastgood(expected)], "{language}");
        }
        let gcloud = of_shell("curl \"$(gcloud auth print-identity-token --quiet)\" URL");
        assert_eq!(gcloud, [Command::Gcloud(["auth", "print-identity-token", "--quiet"].map(str::to_owned).into())]);
    }
}
