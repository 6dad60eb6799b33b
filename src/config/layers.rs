//! Where each setting comes from: the command line, a variable, the configuration file, or the defaults, in this order.
//!
//! What the file or the option's own variable says becomes the default of the option, so that the command line is parsed as ever: its
//! values replace those of the file, and what excludes each other on the command line is compared there alone.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};
use lastgood::error::{Code, Error, Kind, Result};
use lastgood::text::nearest;

use super::file::{ConfigFile, FoundFile, NAME, VARIABLES};
use super::options::{Options, Setting, Shape, Table, command_of, relaxed};
use super::variables;
use crate::cli::{self, Cli, GlobalFlags};

/// The variable that names the file.
const FILE: &str = "LASTGOOD_CONFIG";

/// The fewest characters of a value by which an error is taken to be about it.
const SHOWN: usize = 3;

/// Returns a variable's value, `None` if it is not set.
pub type Variables<'v> = &'v dyn Fn(&str) -> Option<OsString>;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An option on the command line.
    Flag,
    /// A variable of this name.
    Variable(String),
    /// A table of the configuration file, and the line in it.
    File(Table, usize),
    /// Nothing says anything.
    Default,
}

/// An option's value, and where it comes from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The option.
    pub setting: Setting,
    /// The values as they are written there; none for the default.
    pub values: Vec<String>,
    /// Where they come from.
    pub origin: Origin,
}

/// What stands behind the settings of a command line.
#[derive(Debug)]
pub struct Layers {
    /// What the file says.
    pub file: ConfigFile,
    /// What should be said in the log about variables that nobody knows.
    pub unknown: Vec<String>,
    /// What the file says and is taken as if a variable said it.
    as_variables: BTreeMap<String, OsString>,
    /// What variables and the file say of the command's options.
    said: Vec<Effective>,
    matches: ArgMatches,
}

/// The reason why a command line could not be settled.
#[derive(Debug)]
pub enum Unsettled {
    /// It is wrong, or asks for help.
    Arguments(clap::Error),
    /// The configuration file is wrong. The options that all commands have are needed to say so.
    File(Error, Box<GlobalFlags>),
}

impl From<clap::Error> for Unsettled {
    fn from(why: clap::Error) -> Self {
        Unsettled::Arguments(why)
    }
}

/// Settles a command line with the variables of these names, and with the file that it, a variable or the working directory names: the
/// arguments, with what the others say, and what stands behind them.
///
/// # Errors
/// See [`Unsettled`].
pub fn settle(args: &[OsString], variable: Variables, names: &[String]) -> Result<(Cli, Layers), Unsettled> {
    settle_with(args, variable, names, FoundFile::read)
}

/// The same, with what finds the file.
pub(super) fn settle_with(
    args: &[OsString],
    variable: Variables,
    names: &[String],
    read: impl FnOnce(Option<PathBuf>) -> Result<Option<FoundFile>>,
) -> Result<(Cli, Layers), Unsettled> {
    let (args, all) = &cli::help::asked(args);
    let (matches, missing) = match cli::help::arranged(Cli::command(), *all).try_get_matches_from(args) {
        // It may be in the file.
        Err(why) if why.kind() == ErrorKind::MissingRequiredArgument => {
            match relaxed(Cli::command()).try_get_matches_from(args) {
                Ok(matches) => (matches, Some(why)),
                Err(_) => return Err(why.into()),
            }
        }
        other => (other?, None),
    };
    let global = GlobalFlags::from_arg_matches(&matches)?;
    let (command, own) = command_of(&matches);
    let read = || -> Result<(ConfigFile, Vec<Effective>, Vec<String>)> {
        let cli::ConfigFlags { config, no_config, unset } = &global.settings;
        // The example helps with a file that is wrong.
        let example = command == ["config"] && own.get_flag("example");
        let named = config.clone().or_else(|| set(variable, FILE).map(PathBuf::from));
        let found = if *no_config || example { None } else { read(named)? };
        let names: Vec<_> = names.iter().filter(|name| name.starts_with(variables::PREFIX)).cloned().collect();
        if found.is_none() && unset.is_empty() && names.is_empty() {
            return Ok((ConfigFile::default(), Vec::new(), Vec::new()));
        }
        let options = Options::new();
        check_unset(unset, &options)?;
        let mut file = found.map(|found| ConfigFile::parse(&found, &options)).transpose()?.unwrap_or_default();
        unset.iter().for_each(|name| file.forget(name));
        let effective = effective(&options, &command, Some(own), &file, variable);
        effective.iter().try_for_each(|effective| effective.check(&options, variable))?;
        check_conflicts(&options, &command, &effective, &file)?;
        Ok((file, effective, variables::unknown(&options, &names)))
    };
    let (file, effective, unknown) = match read() {
        Ok(read) => read,
        Err(why) => return Err(Unsettled::File(why, Box::new(global))),
    };
    let as_default = effective.iter().filter(|effective| {
        (matches!(effective.origin, Origin::File(..)) || effective.is_of_own_variable()) && effective.is_on()
    });
    let (as_variables, defaults): (Vec<_>, Vec<_>) = as_default.partition(|effective| effective.is_for_all());
    let cli = match (missing, defaults.is_empty()) {
        (Some(why), true) => return Err(why.into()),
        (None, true) => Cli::from_arg_matches(&matches)?,
        (_, false) => {
            let parser = with_defaults(Cli::command(), &command, &defaults);
            Cli::from_arg_matches(&parser.try_get_matches_from(args)?)?
        }
    };
    let pair =
        |effective: &Effective| Some((effective.setting.variables.first()?.clone(), effective.values.first()?.into()));
    let as_variables = as_variables.into_iter().filter_map(pair).collect();
    let mut said = effective;
    said.retain(|effective| matches!(effective.origin, Origin::Variable(_) | Origin::File(..)));
    Ok((cli, Layers { file, unknown, as_variables, said, matches }))
}

/// Returns a variable's value; `None` if it is not set or empty.
pub fn set(variable: Variables, name: &str) -> Option<OsString> {
    variable(name).filter(|value| !value.is_empty())
}

/// Checks that what is to be left out is something that a file can have.
fn check_unset(unset: &[String], options: &Options) -> Result<()> {
    let all = || options.commands().iter().flat_map(|command| options.of(command)).map(|setting| setting.key);
    for name in unset {
        if VARIABLES.contains(&&**name) || all().any(|key| key == *name) {
            continue;
        }
        let error = Error::usage(format!("unset `{name}`"), "no option has this name").with_code(Code::BadSetting);
        return Err(match nearest(name, all()) {
            Some(near) => error.hint(format!("Did you mean `{near}`?")),
            None => error.hint("It is the option's name without dashes: `--unset exclude`."),
        });
    }
    Ok(())
}

/// Returns the value of each option of a command, and where it comes from. `given` are the arguments on the command line.
pub fn effective(
    options: &Options,
    command: &[String],
    given: Option<&ArgMatches>,
    file: &ConfigFile,
    variable: Variables,
) -> Vec<Effective> {
    let settle = |setting: Setting| {
        let typed = given.and_then(|given| typed(&setting, given));
        let named = || setting.all_variables().into_iter().find_map(|name| Some((set(variable, &name)?, name)));
        let (values, origin) = if let Some(values) = typed {
            (values, Origin::Flag)
        } else if let Some((value, name)) = named() {
            (variables::values(options, &setting, &value.to_string_lossy()), Origin::Variable(name))
        } else if let Some((table, given)) = file.get(&setting) {
            (given.values.clone(), Origin::File(table.clone(), given.line))
        } else {
            (Vec::new(), Origin::Default)
        };
        Effective { setting, values, origin }
    };
    let mut all: Vec<Effective> = options.of(command).into_iter().map(settle).collect();
    for (one, other) in conflicts(options, command, &all) {
        // What is said where precedence is higher excludes the other.
        match all[one].origin.rank().cmp(&all[other].origin.rank()) {
            Ordering::Greater => all[one].forget(),
            Ordering::Less => all[other].forget(),
            Ordering::Equal => {}
        }
    }
    all
}

/// Returns the places of options that are set and exclude each other.
fn conflicts(options: &Options, command: &[String], all: &[Effective]) -> Vec<(usize, usize)> {
    let at = |id: &str| all.iter().position(|effective| effective.setting.arg.get_id() == id && effective.is_on());
    options.conflicts(command).iter().filter_map(|(one, other)| Some((at(one)?, at(other)?))).collect()
}

/// Checks that no two options in the file, or in variables, exclude each other.
///
/// # Errors
/// Two do.
fn check_conflicts(options: &Options, command: &[String], all: &[Effective], file: &ConfigFile) -> Result<()> {
    for (one, other) in conflicts(options, command, all) {
        if let (Origin::File(_, line), Origin::File(_, beside)) = (&all[one].origin, &all[other].origin) {
            let path = file.path.as_deref().unwrap_or_else(|| NAME.as_ref()).display();
            let [one, other] = [one, other].map(|at| &all[at].setting.key);
            let why = format!("it cannot be used with `{other}` in line {beside}");
            return Err(Error::usage(format!("use `{one}` in {path}, line {line}"), why).with_code(Code::BadSetting));
        }
        if let (Origin::Variable(one), Origin::Variable(other)) = (&all[one].origin, &all[other].origin) {
            let why = format!("it cannot be used with {other}");
            return Err(Error::usage(format!("use {one}"), why).with_code(Code::BadSetting));
        }
    }
    Ok(())
}

/// Returns the values of an option that is on the command line.
fn typed(setting: &Setting, given: &ArgMatches) -> Option<Vec<String>> {
    let id = setting.arg.get_id().as_str();
    // Arguments of another command may not have it.
    if !given.try_contains_id(id).unwrap_or(false) || given.value_source(id) != Some(ValueSource::CommandLine) {
        return None;
    }
    Some(match setting.shape() {
        Shape::Switch => vec!["true".into()],
        Shape::Count => vec![given.get_count(id).to_string()],
        Shape::One | Shape::List => given.get_raw(id)?.map(|value| value.to_string_lossy().into_owned()).collect(),
    })
}

impl Origin {
    /// The place among what counts: the least counts first.
    fn rank(&self) -> u8 {
        match self {
            Origin::Flag => 0,
            Origin::Variable(_) => 1,
            Origin::File(..) => 2,
            Origin::Default => 3,
        }
    }
}

impl Effective {
    /// Whether its own variable says it, which nothing else reads.
    fn is_of_own_variable(&self) -> bool {
        matches!(&self.origin, Origin::Variable(name) if self.setting.own_variable.as_ref() == Some(name))
    }

    /// Checks what its own variable says.
    ///
    /// # Errors
    /// Usage: the value is not valid.
    fn check(&self, options: &Options, variable: Variables) -> Result<()> {
        match &self.origin {
            Origin::Variable(name) if self.is_of_own_variable() => {
                if set(variable, name).is_some_and(|value| value.to_str().is_none()) {
                    return Err(variables::wrong(name, "…", "it is not UTF-8"));
                }
                variables::check(options, &self.setting, name, &self.values)
            }
            _ => Ok(()),
        }
    }

    /// Whether it changes what a command does.
    fn is_on(&self) -> bool {
        match (self.setting.shape(), self.values.first()) {
            (_, None) => false,
            (Shape::Switch, Some(value)) => value == "true",
            (Shape::Count, Some(value)) => value != "0",
            (Shape::One | Shape::List, Some(_)) => true,
        }
    }

    /// Whether the file says it for all commands, also for those that have no use for it. What it says is taken as if a variable
    /// said it, since a variable that does not concern a command does not make it fail: `webhook-on` without a webhook, or the
    /// `ping` of backups in a restore.
    fn is_for_all(&self) -> bool {
        let Setting { arg, variables, .. } = &self.setting;
        let of_file = matches!(self.origin, Origin::File(..));
        of_file
            && self.setting.home().is_empty()
            && !arg.is_global_set()
            && !arg.is_positional()
            && !variables.is_empty()
    }

    fn forget(&mut self) {
        self.values.clear();
        self.origin = Origin::Default;
    }
}

/// Makes what the file and variables say the defaults of a command's options.
fn with_defaults(parser: Command, command: &[String], said: &[&Effective]) -> Command {
    let (global, own): (Vec<&Effective>, Vec<&Effective>) =
        said.iter().copied().partition(|effective| effective.setting.arg.is_global_set());
    let with = |parser: Command, all: &[&Effective]| {
        all.iter().fold(parser, |parser, effective| {
            let values = effective.values.clone();
            let set = |arg: Arg| arg.required(false).default_values(values);
            parser.mut_arg(effective.setting.arg.get_id().as_str(), set)
        })
    };
    fn inside(parser: Command, names: &[String], change: &dyn Fn(Command) -> Command) -> Command {
        match names {
            [] => change(parser),
            [first, rest @ ..] => parser.mut_subcommand(first, |parser| inside(parser, rest, change)),
        }
    }
    inside(with(parser, &global), command, &|parser| with(parser, &own))
}

impl Layers {
    /// Returns a variable: that of the environment, or else what the file says of it.
    pub fn variable(&self, variable: Variables, name: &str) -> Option<OsString> {
        let of_file = || self.file.variable(name)?.values.first().map(OsString::from);
        set(variable, name).or_else(|| self.as_variables.get(name).cloned()).or_else(of_file)
    }

    /// Adds to an error about settings where those that it names come from, if that is a variable or the file and it does not say so.
    pub fn explain(&self, why: Error) -> Error {
        if why.kind() != Kind::Usage {
            return why;
        }
        let text = why.what();
        let comes_from = |effective: &Effective| {
            let Effective { setting, values, origin } = effective;
            let option = format!("--{}", setting.key);
            let has_value = matches!(setting.shape(), Shape::One | Shape::List);
            let mut values = values.iter().filter(|value| has_value && value.chars().count() >= SHOWN);
            let named = match has_word(&text, &option) {
                true => &option,
                false => values.find(|value| has_word(&text, value))?,
            };
            let origin = match origin {
                Origin::Variable(name) => name.clone(),
                Origin::File(_, line) => {
                    let path = self.file.path.as_deref().unwrap_or_else(|| NAME.as_ref()).display();
                    format!("`{}` in {path}, line {line}", setting.key)
                }
                Origin::Flag | Origin::Default => return None,
            };
            (!text.contains(&origin)).then(|| format!("{named} comes from {origin}"))
        };
        let all: Vec<_> = self.said.iter().filter_map(comes_from).collect();
        if all.is_empty() { why } else { why.note(&all.join(", ")) }
    }

    /// Returns the arguments that all commands have and that are on the command line.
    pub fn given(&self) -> &ArgMatches {
        command_of(&self.matches).1
    }
}

/// Whether a text has another one as a word of its own.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '/');
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command as Given;

    /// Settles a command line with the text of a file and with variables.
    fn settled(line: &str, file: &str, variables: &[(&str, &str)]) -> Result<Cli, String> {
        let args: Vec<OsString> = std::iter::once("lastgood").chain(line.split(' ')).map(OsString::from).collect();
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        let names: Vec<_> = variables.iter().map(|(name, _)| (*name).to_owned()).collect();
        match settle_with(&args, &variable, &names, |_| Ok(Some(FoundFile::of_text(file)))) {
            Ok((cli, _)) => Ok(cli),
            Err(Unsettled::Arguments(why)) => Err(why.to_string()),
            Err(Unsettled::File(why, _)) => Err(why.to_string()),
        }
    }

    #[test]
    fn what_the_file_says_is_a_default() {
        let file = "verbose = 2\nvault = [\"a\", \"b\"]\nstore-timeout = \"9s\"\n[backup]\nexit-zero-on = \"stale,partial\"\n\
                    label = [\"a=1\"]\ninit = true\nverify-content = false\n[verify]\nread-data = 2.5\n";
        let backup = |line: &str, variables: &[(&str, &str)]| {
            let cli = settled(line, file, variables).unwrap();
            let Given::Backup(args) = cli.command else { panic!("{line}") };
            (cli.global, args)
        };
        let (global, args) = backup("backup", &[]);
        assert_eq!((global.verbose, &*global.vaults), (2, &["a".into(), "b".into()][..]));
        assert_eq!(global.cloud.store_timeout.unwrap().as_secs(), 9);
        assert_eq!(
            (args.exit_zero_on.len(), args.labels.len(), args.taking.init, args.taking.verify_content),
            (2, 1, true, false)
        );
        let (global, args) = backup("-v backup --vault c --label b=2 --label c=3 --exit-zero-on unsound", &[]);
        assert_eq!((global.verbose, &*global.vaults), (1, &["c".into()][..]));
        assert_eq!((args.exit_zero_on.len(), args.labels.len()), (1, 2));
        // These variables are read later: here is only nothing that would count before them.
        let (global, _) = backup("backup", &[("GCS_BUCKET_NAME", "a"), ("LASTGOOD_STORE_TIMEOUT", "1s")]);
        assert!(global.vaults.is_empty() && global.cloud.store_timeout.is_none());
        let Given::Verify(args) = settled("verify", file, &[]).unwrap().command else { panic!() };
        assert_eq!(args.read_data, Some(2.5));
        let (global, args) = backup("backup --unset init --unset verbose", &[]);
        assert_eq!((global.verbose, args.taking.init), (0, false));
    }

    #[test]
    fn an_error_names_the_variable_or_the_line_that_it_is_about() {
        let args: Vec<OsString> = ["lastgood", "run", "--", "true"].map(OsString::from).into();
        let explained = |file: &str, variable: (&str, &str), why: Error| {
            let get = |name: &str| (name == variable.0).then(|| OsString::from(variable.1));
            let names = [variable.0.to_owned()];
            let settled = settle_with(&args, &get, &names, |_| Ok(Some(FoundFile::of_text(file))));
            let Ok((_, layers)) = settled else { panic!("{file}") };
            layers.explain(why).what()
        };
        let stale = || Error::usage("use --critical-on-stale", "nothing is watched");
        assert_eq!(
            explained("", ("LASTGOOD_CRITICAL_ON_STALE", "true"), stale()),
            "could not use --critical-on-stale: nothing is watched (--critical-on-stale comes from LASTGOOD_CRITICAL_ON_STALE)"
        );
        let told = explained("[run]\ncritical-on-stale = true\n", ("A", ""), stale());
        assert!(
            told.ends_with("(--critical-on-stale comes from `critical-on-stale` in lastgood.toml, line 2)"),
            "{told}"
        );
        let topic = || Error::usage("publish results to a topic!", "no");
        let told = explained("results-topic = \"topic!\"\n", ("A", ""), topic());
        assert!(told.ends_with("(topic! comes from `results-topic` in lastgood.toml, line 1)"), "{told}");
        for why in [Error::usage("use --critical-on", "no"), Error::failed("use --critical-on-stale", "no")] {
            let told = explained("", ("LASTGOOD_CRITICAL_ON_STALE", "true"), why);
            assert!(told.ends_with(": no"), "{told}");
        }
    }

    #[test]
    fn what_stays_wrong_usage() {
        assert!(settled("copy --from a", "", &[]).unwrap_err().contains("--to <URL>"));
        assert!(settled("copy --frm a", "[copy]\nto = \"b\"", &[]).unwrap_err().contains("--frm"));
        assert!(settled("copy --from a", "[copy]\nto = \"b\"", &[]).is_ok());
        assert!(settled("backup --level 20", "[backup]\nlevel = 2", &[]).unwrap_err().contains("1..=19"));
    }
}
