//! Commands and options that people try and that there are not: the answer names what does it.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What takes the place of retention.
const STAYS: &str = "Nothing in a vault is deleted yet: every snapshot stays, and content that is in it already is not stored \
                     again. `lastgood prune --dry-run` shows what a policy would let go. A vault with the newest snapshot alone is made by `lastgood copy --from OLD --to NEW --init --snapshot \
                     latest`.";
/// What shows a policy.
const POLICY: &str = "Nothing in a vault is deleted yet. `lastgood prune --dry-run --keep last=10,daily=30` shows what a policy would keep \
                      and let go.";
/// What takes snapshots by time.
const BY_TIME: &str = "`lastgood run --every 30m -- APP` takes snapshots while an app runs. Without an app, a timer does: a line of \
                       cron, or systemd, that runs `lastgood backup --reason schedule`.";
/// What says how things are.
const STATUS: &str = "`lastgood list` shows the snapshots, `lastgood runs` how each run ended, `lastgood doctor` what stands in the \
                      way, and `lastgood state` what the data directory is.";
const INIT: &str = "`lastgood init --vault URL` makes a vault. `lastgood backup` makes one by itself in ./backups, and elsewhere \
                    with --init.";
const SERVE: &str = "`lastgood serve` serves over HTTP, `lastgood listen` pulls events, and `lastgood run -- APP` takes snapshots \
                     while an app runs.";
const VAULT: &str = "The option is --vault: a folder, or gs://bucket/prefix.";
const NOT_ENCRYPTED: &str = "lastgood does not encrypt: whoever reads the vault reads the data. Google encrypts buckets at rest; a \
                             folder can be on an encrypted disk.";

/// What names a snapshot: nothing that is stored is changed afterwards.
const LABEL: &str =
    "`lastgood backup --label KEY=VALUE` keeps a label with a snapshot. One that is taken is not changed any more.";

/// Words that are tried as commands, and what does what they are meant for.
const COMMANDS: [(&[&str], &str); 21] = [
    (&["forget", "cleanup", "clean", "expire", "gc", "purge", "rotate", "delete", "remove", "rm"], STAYS),
    (&["watch", "schedule", "cron", "auto", "every"], BY_TIME),
    (&["status", "info", "stats", "stat", "health"], STATUS),
    (&["create", "new", "setup", "make", "initialize", "init-vault", "repo"], INIT),
    (&["daemon", "agent", "server", "start", "service"], SERVE),
    (
        &["snapshots", "history", "versions", "show"],
        "`lastgood list` lists the snapshots, and `lastgood ls SNAPSHOT` what is in one.",
    ),
    (&["log", "logs", "jobs"], "`lastgood runs` lists the runs, and `lastgood runs RUN` shows the report of one."),
    (
        &["check", "fsck", "test", "validate", "scrub"],
        "`lastgood verify` checks the vault, with --read-data every byte in it.",
    ),
    (&["save", "snapshot", "push", "store", "sync", "archive"], "`lastgood backup` takes a snapshot."),
    (
        &["recover", "pull", "get", "download", "extract", "checkout"],
        "`lastgood restore` puts a snapshot back, `lastgood cat SNAPSHOT \
      PATH` writes one file, and `lastgood export` a .tar.zst file.",
    ),
    (
        &["mount", "browse", "find"],
        "`lastgood ls SNAPSHOT -R` lists what is in a snapshot, and `lastgood restore DIR --path PATH` puts a part \
      of it somewhere else. Nothing can be mounted.",
    ),
    (
        &["undo", "revert", "reset"],
        "`lastgood restore` puts a snapshot back here, and `lastgood rollback SNAPSHOT` makes an older one \
      the newest for an app that `lastgood run` runs.",
    ),
    (
        &["replicate", "mirror", "clone"],
        "`lastgood copy --from URL --to URL` copies snapshots; with --vault twice, `lastgood backup` \
      keeps both up to date.",
    ),
    (
        &["hold", "protect", "unprotect"],
        "`lastgood pin SNAPSHOT` keeps a snapshot, and `lastgood unpin SNAPSHOT` takes that back.",
    ),
    (&["tag", "tags", "label", "annotate", "rename"], LABEL),
    (
        &["unlock", "lock", "locks", "break-lock", "force-unlock"],
        "A lock ends with the process that holds it, and there is none to break. `lastgood doctor` says what stands in the way.",
    ),
    (&["version", "about"], "The option --version prints it."),
    (&["compare"], "`lastgood diff A B` shows what differs between two snapshots."),
    (&["exec", "wrap", "supervise"], "`lastgood run -- APP` runs an app."),
    (&["settings", "env", "configure"], "`lastgood config` shows which settings hold, and where each comes from."),
    (
        &["completion", "manual", "manpage"],
        "`lastgood completions SHELL` prints completions, and `lastgood man` the manual page.",
    ),
];

/// Options that are tried, and what does what they are meant for. The first word is the only command that lacks the option, if others
/// have it.
const OPTIONS: [(&str, &[&str], &str); 12] = [
    ("", &["--every", "--watch", "--schedule", "--cron"], BY_TIME),
    ("backup", &["--interval"], BY_TIME),
    ("", &["--prune", "--forget", "--retention", "--cleanup", "--delete", "--max-backups", "--rotate"], STAYS),
    ("", &["--keep"], POLICY),
    ("", &["--keep-last", "--keep-daily", "--keep-weekly", "--keep-monthly", "--keep-within"], POLICY),
    ("", &["--daemon", "--background"], SERVE),
    ("", &["--repo", "--repository", "--bucket", "--dest", "--destination", "--output-dir"], VAULT),
    ("", &["--password", "--password-file", "--encrypt", "--key"], NOT_ENCRYPTED),
    ("", &["--tag", "--tags", "--message", "--name"], LABEL),
    ("backup", &["--dry-run"], "A backup changes nothing in the data. `lastgood doctor` says whether it would work."),
    (
        "list",
        &["--since", "--until", "--before", "--after", "--last"],
        "`lastgood list --limit 20` shows the newest 20 snapshots, and `lastgood list --json` has the time of each. A day names the last \
         snapshot of that day: `lastgood restore --snapshot 2026-11-28`.",
    ),
    ("restore", &["--target", "--to", "--dest"], "The directory is the argument: `lastgood restore DIR`."),
];

/// The commands that are given an argument too many, and how what it is meant for is said.
const ARGUMENTS: [(&str, &str); 6] = [
    ("init", "The vault is an option: `lastgood init --vault URL`, with a folder or gs://bucket/prefix."),
    (
        "list",
        "The vault is an option: `lastgood list --vault URL`. What is in a snapshot is shown by `lastgood ls SNAPSHOT`.",
    ),
    ("verify", "The vault is an option: `lastgood verify --vault URL`. All its snapshots are verified."),
    ("backup", "The vault is an option: `lastgood backup DIR --vault URL`. One snapshot is of one directory."),
    (
        "restore",
        "The snapshot is an option: `lastgood restore DIR --snapshot latest`. So is a part of it: --path PATH.",
    ),
    ("copy", "Both vaults are options: `lastgood copy --from URL --to URL`."),
];

/// Returns the answer to arguments that name what there is not; `None` if nothing is known of it. `args` are the arguments.
pub fn answer(why: &clap::Error, args: &[String]) -> Option<&'static str> {
    let word = |kind| match why.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match why.kind() {
        ErrorKind::InvalidSubcommand => of_command(word(ContextKind::InvalidSubcommand)?),
        ErrorKind::UnknownArgument => {
            let option = word(ContextKind::InvalidArg)?;
            let command = args.iter().skip(1).find(|arg| !arg.starts_with('-'));
            let command = command.map_or("", |command| command);
            match option.starts_with('-') {
                true => of_option(command, option.split('=').next()?),
                false => ARGUMENTS.iter().find(|(of, _)| *of == command).map(|(_, answer)| *answer),
            }
        }
        _ => None,
    }
}

fn of_command(word: &str) -> Option<&'static str> {
    COMMANDS.iter().find(|(words, _)| words.contains(&word)).map(|(_, answer)| *answer)
}

fn of_option(command: &str, option: &str) -> Option<&'static str> {
    let own = |of: &str| OPTIONS.iter().find(|(only, options, _)| *only == of && options.contains(&option));
    own(command).or_else(|| own("")).map(|(_, _, answer)| *answer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn what_answers_name_is_there_and_what_they_answer_is_not() {
        let mut command = Cli::command();
        command.build();
        let mut seen = BTreeSet::new();
        for (words, answer) in COMMANDS {
            for word in words {
                assert!(command.find_subcommand(word).is_none() && seen.insert(*word), "{word}");
            }
            names_commands(&command, answer);
        }
        for (of, answer) in ARGUMENTS {
            assert!(command.find_subcommand(of).is_some(), "{of}");
            names_commands(&command, answer);
        }
        for (only, options, answer) in OPTIONS {
            for option in options {
                let name = &option[2..];
                let has = |sub: &clap::Command| sub.get_arguments().any(|arg| arg.get_long() == Some(name));
                if only.is_empty() {
                    assert!(!has(command.find_subcommand("backup").unwrap()), "{option}");
                } else {
                    assert!(!has(command.find_subcommand(only).unwrap()), "{only} {option}");
                }
            }
            names_commands(&command, answer);
        }
    }

    /// Every command and every option that an answer names.
    #[track_caller]
    fn names_commands(command: &clap::Command, answer: &str) {
        for span in answer.split('`').skip(1).step_by(2) {
            let mut words = span.split_whitespace();
            assert_eq!(words.next(), Some("lastgood"), "{answer}");
            let sub = words.next().and_then(|name| command.find_subcommand(name)).unwrap_or_else(|| panic!("{answer}"));
            for option in words.take_while(|word| *word != "--").filter_map(|word| word.strip_prefix("--")) {
                assert!(sub.get_arguments().any(|arg| arg.get_long() == Some(option)), "{option}: {answer}");
            }
        }
    }

    #[test]
    fn an_option_may_be_missing_in_one_command_only() {
        assert_eq!(of_option("backup", "--interval"), Some(BY_TIME));
        assert_eq!(of_option("list", "--interval"), None);
        assert_eq!(of_option("list", "--keep-daily"), Some(POLICY));
        assert_eq!((of_command("forget"), of_command("forgets")), (Some(STAYS), None));
    }
}
