//! How `--help` is arranged: what a command is for, examples, and what is needed most. `--help --all` explains every option.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// The help of `lastgood` alone: where a newcomer begins.
pub const BEGIN: &str = "lastgood keeps the state of apps that live on disposable machines.

  lastgood backup       take a snapshot of ./data into ./backups
  lastgood list         list the snapshots
  lastgood restore      put the newest good one back; what is there moves aside
  lastgood run -- APP   run an app: its data is restored before, and saved while
                        it runs, at a crash and at the end
  lastgood doctor       find out what stands in the way

`lastgood --help` lists all commands; `lastgood COMMAND --help` begins with
examples.
";

/// The width of a terminal, in characters.
const WIDTH: usize = 80;

/// The commands by what they are for.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Snapshots", &["backup", "restore", "list", "ls", "cat", "diff", "export", "import", "pin", "unpin"]),
    ("Apps", &["run", "state", "seed", "rollback"]),
    ("Vaults", &["init", "copy", "prune", "verify", "runs", "doctor"]),
    ("Services and events", &["serve", "listen", "publish", "dispatched"]),
    ("The program itself", &["config", "completions", "man"]),
];

/// Examples of commands whose arguments have none beside them.
const EXAMPLES: [(&str, &str); 15] = [
    ("unpin", "  lastgood unpin 5f0c"),
    ("init", "  lastgood init --vault /mnt/backups\n  lastgood init --vault gs://my-state/app"),
    (
        "list",
        "  lastgood list\n  # all of another vault, for a program\n  lastgood list --vault /mnt/backups --limit 10000 --json",
    ),
    (
        "runs",
        "  lastgood runs\n  # what one did, and why it failed\n  lastgood runs 3c3bb986\n  lastgood runs 3c3bb986 --json",
    ),
    (
        "ls",
        "  lastgood ls latest\n  # all that is in a folder of it, as of a day\n  lastgood ls 2026-11-20 uploads --recursive",
    ),
    ("cat", "  lastgood cat latest settings.toml\n  lastgood cat 8d0f notes.txt > notes.txt"),
    ("diff", "  lastgood diff 8d0f latest\n  lastgood diff 2026-11-20 2026-11-21"),
    (
        "export",
        "  lastgood export latest -o snapshot.tar.zst\n  # into a program\n  lastgood export latest -o - | zstd -dc | tar t",
    ),
    (
        "verify",
        "  # everything is there\n  lastgood verify\n  # and undamaged: every byte is read\n  lastgood verify --read-data\n  \
         # the databases of the newest good snapshot are restored and checked\n  lastgood verify --databases",
    ),
    (
        "doctor",
        "  lastgood doctor\n  lastgood doctor /srv/app --vault gs://my-state/app\n  # for a schedule: fails when the newest \
         snapshot is too old\n  lastgood doctor --only age --max-age 26h",
    ),
    ("state", "  lastgood state\n  lastgood state /srv/app --vault gs://my-state/app"),
    (
        "publish critical",
        "  lastgood publish critical --topic projects/shop/topics/backups \\\n    --message 'disk full'",
    ),
    ("publish backup", "  lastgood publish backup --topic projects/shop/topics/backups"),
    ("publish verify", "  lastgood publish verify --topic projects/shop/topics/backups"),
    ("publish restore", "  lastgood publish restore --topic projects/shop/topics/backups \\\n    --snapshot 8d0f"),
];

/// Options of all commands that `--help` shows.
const OF_ALL: [&str; 4] = ["vaults", "json", "quiet", "verbose"];

/// What `--help` shows of commands that have many options: the names of the arguments. Other commands show all that is their own.
const COMMON: [(&str, &[&str]); 8] = [
    ("backup", &["data", "labels", "init", "include", "exclude", "check_databases"]),
    ("restore", &["target", "snapshot", "paths", "in_place", "if_missing", "dry_run"]),
    ("run", &["data", "command", "init", "every", "restart", "grace", "listen", "allow_restore", "exclude"]),
    ("serve", &["data", "listen", "auth", "allow_restore", "subscription", "interval", "init", "exclude"]),
    ("listen", &["data", "subscription", "allow_restore", "init", "exclude"]),
    ("dispatched", &["data", "allow_restore"]),
    ("verify", &["read_data", "databases"]),
    ("state", &["data", "snapshot", "check_at_start"]),
];

/// Arranges the help of the program and of each command; `all` says whether every option is explained.
pub fn arranged(command: Command, all: bool) -> Command {
    let heading = *command.get_styles().get_header();
    let groups = groups(&command, &heading);
    let command = arranged_below(command, "", all, &heading);
    let usage = command.get_styles().get_usage();
    let template = format!(
        "{{about-with-newline}}\n{usage}Usage:{usage:#} lastgood COMMAND [OPTIONS]\n\n{groups}\n\
         {heading}Options of all commands:{heading:#}\n{{options}}{{after-help}}"
    );
    command.disable_help_subcommand(true).help_template(template)
}

/// The commands in their groups, each with what it is for.
fn groups(command: &Command, heading: &impl std::fmt::Display) -> String {
    let mut text = String::new();
    for (group, names) in GROUPS {
        text.push_str(&format!("{heading}{group}:{heading:#}\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&wrapped(&format!("  {name:<12}"), &about));
        }
        text.push('\n');
    }
    text.pop();
    text
}

/// Wraps a text to the width of a terminal: behind `begin` in the first line, and under that in the others.
pub fn wrapped(begin: &str, text: &str) -> String {
    let (mut lines, mut row) = (String::new(), begin.to_owned());
    let mut has_words = false;
    for word in text.split(' ') {
        if has_words && row.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&format!("{row}\n"));
            (row, has_words) = (" ".repeat(begin.chars().count()), false);
        }
        if has_words {
            row.push(' ');
        }
        row.push_str(word);
        has_words = true;
    }
    format!("{lines}{row}\n")
}

fn arranged_below(command: Command, name: &str, all: bool, heading: &(impl std::fmt::Display + Clone)) -> Command {
    let common = COMMON.iter().find(|(of, _)| *of == name).map(|(_, common)| *common);
    let is_shown = |arg: &Arg| match arg.is_global_set() {
        true => OF_ALL.contains(&arg.get_id().as_str()),
        false => common.is_none_or(|common| common.contains(&arg.get_id().as_str())),
    };
    let hidden: Vec<_> = command.get_arguments().filter(|arg| !is_shown(arg)).map(|arg| arg.get_id().clone()).collect();
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (beside, rest) = match after.strip_prefix("Example") {
        Some(text) => {
            let (_, text) = text.split_once('\n').unwrap_or_default();
            text.split_once("\n\n").unwrap_or((text, ""))
        }
        None => ("", &*after),
    };
    let own = EXAMPLES.iter().find(|(of, _)| *of == name).map(|(_, text)| *text);
    let examples = own.unwrap_or(beside).to_owned();
    let more = if name.is_empty() { "lastgood".to_owned() } else { format!("lastgood {name}") };
    let more = format!("`{more} --help --all` explains every option.");
    let rest = if all { rest.to_owned() } else { more };
    let subs: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let mut command = command
        .disable_help_flag(true)
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::Help)
                .help_heading("Options of all commands")
                .display_order(1000)
                .help("Print this; --help --all explains every option"),
        )
        .after_help(rest);
    if !examples.is_empty() {
        let template = format!(
            "{{about-with-newline}}\n{heading}Examples:{heading:#}\n{{before-help}}{{usage-heading}} {{usage}}\n\n{{all-args}}{{after-help}}"
        );
        command = command.before_help(examples).help_template(template);
    }
    for id in hidden.into_iter().filter(|_| !all) {
        command = command.mut_arg(id, |arg| arg.hide_short_help(true));
    }
    for sub in subs {
        let path = format!("{name} {sub}").trim_start().to_owned();
        command = command.mut_subcommand(sub, |sub| arranged_below(sub, &path, all, heading));
    }
    command
}

/// Returns the examples of a command that [`arranged`] has arranged; empty if it has none.
pub fn examples(command: &Command) -> String {
    command.get_before_help().map(ToString::to_string).unwrap_or_default()
}

/// Returns the arguments as the parser takes them, and whether every option is to be explained: `help COMMAND` is `COMMAND --help`, and
/// `--help` is the short form unless `--all` is there, too.
pub fn asked(args: &[OsString]) -> (Vec<OsString>, bool) {
    let mut args = args.to_vec();
    if args.get(1).is_some_and(|arg| arg == "help") {
        args.remove(1);
        args.push("--help".into());
    }
    // Behind two dashes is the app that `run` starts.
    let end = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let is_help = |arg: &OsString| arg == "--help" || arg == "-h";
    if !args[..end].iter().any(is_help) {
        return (args, false);
    }
    let all = args[..end].iter().any(|arg| arg == "--all");
    let asked =
        args.into_iter().enumerate().filter(|(at, arg)| *at >= end || arg != "--all").map(|(at, arg)| {
            if at < end && is_help(&arg) { if all { "--help".into() } else { "-h".into() } } else { arg }
        });
    (asked.collect(), all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn found<'c>(command: &'c Command, name: &str) -> &'c Command {
        name.split(' ').fold(command, |command, name| command.find_subcommand(name).unwrap_or_else(|| panic!("{name}")))
    }

    #[test]
    fn what_is_listed_here_is_there() {
        let mut command = Cli::command();
        command.build();
        let listed: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().map(|name| (*name).to_owned())).collect();
        let names: BTreeSet<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let names: BTreeSet<_> = names.into_iter().filter(|name| name != "help").collect();
        assert_eq!((listed.len(), listed.iter().cloned().collect()), (names.len(), names));
        for (name, common) in COMMON {
            let ids: Vec<_> = found(&command, name).get_arguments().map(|arg| arg.get_id().as_str()).collect();
            assert!(common.iter().all(|id| ids.contains(id)), "{name}: {ids:?}");
        }
        for id in OF_ALL {
            assert!(command.get_arguments().any(|arg| arg.get_id() == id && arg.is_global_set()), "{id}");
        }
        EXAMPLES.iter().for_each(|(name, _)| _ = found(&command, name));
        arranged(Cli::command(), true).debug_assert();
        arranged(Cli::command(), false).debug_assert();
    }

    #[test]
    fn examples_are_commands_and_fit_a_terminal() {
        for (name, text) in EXAMPLES {
            let commands: Vec<_> = text.lines().filter(|line| line.starts_with("  lastgood ")).collect();
            assert!(commands.iter().any(|line| line.contains(&format!("lastgood {name}"))), "{name}");
            assert!(text.lines().all(|line| line.starts_with("  ") && line.chars().count() <= 80), "{text}");
        }
        assert!(BEGIN.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn help_is_asked_for_in_several_ways() {
        let asked = |args: &str| {
            let args: Vec<_> = format!("lastgood {args}").split_whitespace().map(OsString::from).collect();
            let (args, all) = super::asked(&args);
            (args[1..].join(std::ffi::OsStr::new(" ")).into_string().unwrap(), all)
        };
        for (args, told) in [
            ("backup --help", ("backup -h", false)),
            ("backup -h", ("backup -h", false)),
            ("backup --help --all", ("backup --help", true)),
            ("--all backup -h", ("backup --help", true)),
            ("help", ("-h", false)),
            ("help publish critical", ("publish critical -h", false)),
            ("help backup --all", ("backup --help", true)),
            ("run -- app --help --all", ("run -- app --help --all", false)),
            ("backup --all", ("backup --all", false)),
        ] {
            assert_eq!(asked(args), (told.0.to_owned(), told.1), "{args}");
        }
    }
}
