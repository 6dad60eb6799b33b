//! The options that a configuration file may set, as the command line defines them: their keys, tables, variables and values.
//!
//! There is no list of options here. An option that a command gains has its key at once.

use std::collections::BTreeSet;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};

use super::variables;
use crate::cli::Cli;

/// A table of the file by its name: `["publish", "critical"]` is `[publish.critical]`, and an empty one is the file's beginning.
pub type Table = Vec<String>;

/// Groups of options that several commands have, by the name of their type in `cli`, and the table that holds for all of them.
const SHARED: [(&str, &[&str]); 3] =
    [("BackupFlags", &["backup"]), ("RestoreFlags", &["restore"]), ("ResultFlags", &[])];
/// Options that no file sets: they say which file is read, or print something else than the command's result.
const NOT_IN_FILES: [&str; 5] = ["config", "no_config", "unset", "help", "version"];
/// Commands without settings.
const NOT_TABLES: [&str; 4] = ["config", "help", "completions", "man"];

/// The kind of value that an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`.
    Switch,
    /// How often a flag is given.
    Count,
    /// One value.
    One,
    /// A list of values.
    List,
}

/// An option of one command.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Its key in a file: its name on the command line, or `data` for the data directory.
    pub key: String,
    /// Its own variable, where what that says becomes its default: see [`variables`]. `None` if `variables` has it, or it has none.
    pub own_variable: Option<String>,
    /// The variables that the command's help names. They say the same, after its own, in order of precedence; [`Config`] reads them.
    ///
    /// [`Config`]: super::Config
    pub variables: Vec<String>,
    /// The tables that may set it, the first that does counts.
    pub tables: Vec<Table>,
    /// The option itself.
    pub arg: Arg,
    /// A command that has it.
    command: Table,
}

/// The commands and their options.
pub struct Options {
    command: Command,
    commands: Vec<Table>,
}

impl Setting {
    /// Returns what kind of value it takes.
    pub fn shape(&self) -> Shape {
        match self.arg.get_action() {
            ArgAction::SetTrue | ArgAction::SetFalse => Shape::Switch,
            ArgAction::Count => Shape::Count,
            ArgAction::Append => Shape::List,
            _ if self.arg.get_num_args().is_some_and(|number| number.max_values() > 1) => Shape::List,
            _ => Shape::One,
        }
    }

    /// Returns all variables that say the same, in order of precedence.
    pub fn all_variables(&self) -> Vec<String> {
        self.own_variable.iter().chain(&self.variables).cloned().collect()
    }

    /// Returns the name that `--help` gives its value.
    pub fn value_name(&self) -> Option<&str> {
        self.arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str())
    }

    /// Returns the table that it stands in where several commands have it, or the only one.
    pub fn home(&self) -> &[String] {
        self.tables.last().map_or(&[], |table| &**table)
    }

    /// Returns the text of `--help` for it.
    pub fn help(&self) -> String {
        self.arg.get_help().map(ToString::to_string).unwrap_or_default()
    }

    /// Returns the default as `--help` tells it.
    pub fn default(&self) -> Option<String> {
        let set = self.arg.get_default_values();
        let set = set.iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
        match (self.shape(), set.is_empty()) {
            (Shape::Switch | Shape::List, true) => noted(&self.help(), "default").map(str::to_owned),
            (Shape::Count, _) => Some("0".into()),
            (_, false) => Some(set),
            (_, true) => noted(&self.help(), "default").map(str::to_owned),
        }
    }
}

/// Returns what a help text notes in brackets: `[default: 2m]`, `[env: LASTGOOD_VAULT]`.
fn noted<'t>(help: &'t str, what: &str) -> Option<&'t str> {
    let (_, rest) = help.split_once(&format!("[{what}: "))?;
    Some(rest.split(']').next().unwrap_or(rest))
}

/// Returns the variables that a help text names.
fn named_in(help: &str) -> Vec<String> {
    let is_name = |word: &&str| word.contains('_') && word.starts_with(|c: char| c.is_ascii_uppercase());
    let words = |note: &'_ str| {
        let words = note.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        words.filter(is_name).map(str::to_owned).collect::<Vec<_>>()
    };
    noted(help, "env").map(words).unwrap_or_default()
}

/// Returns how a table is written in a file.
pub fn written(table: &[String]) -> String {
    if table.is_empty() { "the beginning of the file".into() } else { format!("[{}]", table.join(".")) }
}

/// The key of the data directory.
const DATA: &str = "data";
/// The key of the policy that says which snapshots are kept.
const KEEP: &str = "keep";
/// Returns a command line's parser that takes a command without the options that it requires: a file may have them.
pub fn relaxed(command: Command) -> Command {
    let command = command.mut_args(|arg| arg.required(false));
    let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, relaxed))
}

/// Returns the names of the command that was given, and its own arguments.
pub fn command_of(matches: &ArgMatches) -> (Table, &ArgMatches) {
    let (mut names, mut inner) = (Vec::new(), matches);
    while let Some((name, next)) = inner.subcommand() {
        names.push(name.to_owned());
        inner = next;
    }
    (names, inner)
}

impl Options {
    /// Collects the options of all commands.
    pub fn new() -> Self {
        let mut command = Cli::command();
        command.build();
        let mut commands = Vec::new();
        let mut left = vec![(Table::new(), &command)];
        while let Some((names, inner)) = left.pop() {
            let subs: Vec<_> = inner.get_subcommands().filter(|sub| !NOT_TABLES.contains(&sub.get_name())).collect();
            if subs.is_empty() {
                commands.push(names);
                continue;
            }
            let below = subs.into_iter().rev().map(|sub| ([&names[..], &[sub.get_name().to_owned()]].concat(), sub));
            left.extend(below);
        }
        Options { command, commands }
    }

    /// Returns the names of all commands, in the order of `--help`.
    pub fn commands(&self) -> &[Table] {
        &self.commands
    }

    fn parser(&self, command: &[String]) -> Option<&Command> {
        command.iter().try_fold(&self.command, |inner, name| inner.find_subcommand(name))
    }

    /// Whether a table of this name can be in a file.
    pub fn is_table(&self, table: &[String]) -> bool {
        self.commands.iter().any(|command| command.starts_with(table))
    }

    /// Returns the options of a command that a file may set.
    pub fn of(&self, command: &[String]) -> Vec<Setting> {
        let Some(parser) = self.parser(command) else { return Vec::new() };
        let setting = |arg: &Arg| {
            let names = named_in(&arg.get_help().map(ToString::to_string).unwrap_or_default());
            let key = match (arg.get_long(), names.first().and_then(|name| name.strip_prefix("LASTGOOD_"))) {
                (Some(long), _) => long.to_owned(),
                // An argument without a name can be set where a variable does the same.
                (None, Some(name)) => name.to_ascii_lowercase().replace('_', "-"),
                (None, None) => return None,
            };
            let group = |name: &str| {
                parser
                    .get_groups()
                    .any(|group| group.get_id() == name && group.get_args().any(|member| member == arg.get_id()))
            };
            let shared = match SHARED.iter().find(|(name, _)| group(name)) {
                Some((_, table)) => Some(table.iter().map(|name| (*name).to_owned()).collect()),
                // The data directory is one for all commands, also where it is an option, and so is the policy.
                None if arg.is_global_set() || arg.is_positional() || [DATA, KEEP].contains(&&*key) => {
                    Some(Table::new())
                }
                None => None,
            };
            let mut tables: Vec<Table> = vec![command.to_vec()];
            // What holds for several commands of a kind is what all of them have.
            let above = (1..command.len()).rev().map(|n| command[..n].to_vec());
            tables.extend(above.filter(|table| arg.get_long().is_some_and(|long| self.all_have(table, long))));
            if let Some(table) = shared.filter(|table| !tables.contains(table)) {
                tables.push(table);
            }
            let own = arg.get_long().and_then(variables::name).filter(|name| !names.contains(name));
            let (arg, command) = (arg.clone(), command.to_vec());
            Some(Setting { key, own_variable: own, variables: names, tables, arg, command })
        };
        let args = parser.get_arguments().filter(|arg| !NOT_IN_FILES.contains(&arg.get_id().as_str()));
        args.filter_map(setting).collect()
    }

    /// Whether all commands of a kind have an option.
    fn all_have(&self, table: &[String], long: &str) -> bool {
        let mut below = self.commands.iter().filter(|command| command.starts_with(table));
        below.all(|command| {
            self.parser(command).is_some_and(|parser| parser.get_arguments().any(|arg| arg.get_long() == Some(long)))
        })
    }

    /// Returns the options that a table may set, those that all commands have first.
    pub fn of_table(&self, table: &[String]) -> Vec<Setting> {
        let below = self.commands.iter().filter(|command| command.starts_with(table));
        let mut all: Vec<Setting> = below.flat_map(|command| self.of(command)).collect();
        all.sort_by_key(|setting| !setting.arg.is_global_set());
        let mut seen = BTreeSet::new();
        all.retain(|setting| setting.tables.iter().any(|one| one == table) && seen.insert(setting.key.clone()));
        all
    }

    /// Returns the pairs of a command's options that exclude each other, by their ids.
    pub fn conflicts(&self, command: &[String]) -> Vec<(String, String)> {
        let Some(parser) = self.parser(command) else { return Vec::new() };
        let pairs = parser.get_arguments().flat_map(|arg| {
            // The root alone knows the conflicts of what all commands have.
            let of = if arg.is_global_set() { &self.command } else { parser };
            of.get_arg_conflicts_with(arg).into_iter().map(move |other| (arg.get_id(), other.get_id()))
        });
        pairs.map(|(one, other)| (one.to_string(), other.to_string())).collect()
    }

    /// Returns the value that an option has if it is given without one. `None` if it cannot be.
    pub fn bare(&self, setting: &Setting) -> Option<String> {
        let may =
            setting.shape() == Shape::One && setting.arg.get_num_args().is_some_and(|number| number.min_values() == 0);
        let parser = self.parser(&setting.command).filter(|_| may)?;
        let parser = relaxed(parser.clone()).no_binary_name(true);
        let given = parser.try_get_matches_from([format!("--{}", setting.key)]).ok()?;
        let mut values = given.get_raw(setting.arg.get_id().as_str())?;
        values.next().map(|value| value.to_string_lossy().into_owned())
    }

    /// Checks a value as the command line does.
    ///
    /// # Errors
    /// A text that says what is wrong with the value, without the value itself where that may be a secret.
    pub fn check(&self, setting: &Setting, value: &str) -> Result<(), String> {
        let Some(parser) = self.parser(&setting.command) else { return Ok(()) };
        if setting.arg.is_positional() {
            return if value.is_empty() { Err("it is empty".into()) } else { Ok(()) };
        }
        let parser = relaxed(parser.clone()).no_binary_name(true);
        match parser.try_get_matches_from([format!("--{}={value}", setting.key)]) {
            Ok(_) => Ok(()),
            Err(why) => said(&why).map_or(Ok(()), Err),
        }
    }
}

/// Returns what the command line says is wrong with a value; `None` if it complains about something else, such as an option that
/// is missing.
fn said(why: &clap::Error) -> Option<String> {
    match why.kind() {
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(why);
            Some(source.map_or_else(|| "it is not valid".to_owned(), ToString::to_string))
        }
        ErrorKind::InvalidValue => match why.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !valid.is_empty() => Some(format!("it must be {}", one_of(valid))),
            _ => Some("it is empty".into()),
        },
        ErrorKind::InvalidUtf8 | ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues | ErrorKind::NoEquals => {
            Some("it is not valid".into())
        }
        _ => None,
    }
}

/// Lists alternatives: `a, b or c`.
pub fn one_of(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Table {
        name.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn what_a_help_text_notes() {
        let text = "The app [env: LASTGOOD_A, with commas; else B_C or D for gs://NAME/x] [default: 2m]";
        assert_eq!(named_in(text).join(" "), "LASTGOOD_A B_C");
        assert_eq!(noted(text, "default"), Some("2m"));
        assert_eq!((named_in("The app"), noted("The app", "default")), (Vec::new(), None));
    }

    #[test]
    fn every_option_has_a_place_and_no_key_is_a_table() {
        let options = Options::new();
        let mut keys = 0;
        for command in options.commands() {
            for setting in options.of(command) {
                let home = options.of_table(setting.home());
                assert!(home.iter().any(|one| one.key == setting.key), "{command:?} {}", setting.key);
                assert!(
                    setting.tables[0] == *command && setting.tables.len() <= command.len() + 1,
                    "{:?}",
                    setting.tables
                );
                for table in &setting.tables {
                    let below = [&table[..], std::slice::from_ref(&setting.key)].concat();
                    assert!(!options.is_table(&below), "{below:?} is a table");
                }
                keys += 1;
            }
        }
        assert!(keys > 250, "only {keys} options");
        let home = |command: &str, key: &str| {
            let all = options.of(&table(command));
            let found = all.iter().find(|setting| setting.key == key).map(|setting| setting.home().join(" "));
            found.unwrap_or_else(|| panic!("{command} has no {key}"))
        };
        for (command, key, expected) in [
            ("serve", "exclude", "backup"),
            ("backup", "exclude", "backup"),
            ("dispatched", "in-place", "restore"),
            ("restore", "data", ""),
            ("run", "data", ""),
            ("doctor", "data", ""),
            ("listen", "webhook", ""),
            ("list", "vault", ""),
            ("serve", "listen", "serve"),
            ("listen", "allow-restore", "listen"),
            ("publish verify", "topic", "publish"),
            ("publish critical", "severity", "publish critical"),
        ] {
            assert_eq!(home(command, key), expected, "{command} {key}");
        }
        // Each shared group is one that the command line has.
        for (group, _) in SHARED {
            let has = |command: &Table| {
                let parser = options.parser(command);
                parser.is_some_and(|parser| {
                    parser.get_groups().any(|one| one.get_id() == group && one.get_args().next().is_some())
                })
            };
            assert!(options.commands().iter().filter(|command| has(command)).count() > 1, "{group}");
        }
    }

    #[test]
    fn what_excludes_each_other() {
        let options = Options::new();
        let all = options.conflicts(&table("backup"));
        for pair in [("check_databases", "no_sqlite"), ("quiet", "verbose")] {
            assert!(all.iter().any(|(one, other)| (&**one, &**other) == pair), "{pair:?} in {all:?}");
        }
    }
}
