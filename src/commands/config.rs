//! `config`: which settings hold, and where each comes from.

use clap::ArgMatches;
use lastgood::error::{Code, Error, Result};
use lastgood::text::{columns, printable};
use serde::Serialize;
use serde_json::{Value, json};

use crate::ProgramOutcome;
use crate::cli::ConfigArgs;
use crate::config::example::example;
use crate::config::file::{ConfigFile, ENV, VARIABLES};
use crate::config::layers::{Effective, Layers, Origin, Variables, effective, set};
use crate::config::options::{Options, Shape, Table};
use crate::config::secret::shown;
use crate::console::Console;

/// The widest value that makes a column wider, in characters.
const WIDEST: usize = 40;

/// A setting, where it comes from, and the commands that it holds for.
#[derive(Debug, Clone, Serialize, PartialEq)]
struct Listed {
    name: String,
    value: Value,
    /// `flag`, `variable`, `file` or `default`.
    origin: &'static str,
    /// The variable that it comes from.
    variable: Option<String>,
    /// The table of the file that it comes from.
    table: Option<String>,
    /// The line of the file that it comes from.
    line: Option<usize>,
    commands: Vec<String>,
}

/// Prints the settings, or the example of a configuration file.
///
/// # Errors
/// Usage: there is no such command. Also an output that cannot be written.
pub fn config(
    layers: &Layers,
    args: &ConfigArgs,
    variables: Variables,
    console: &mut Console,
) -> Result<ProgramOutcome> {
    let options = Options::new();
    if args.example {
        let text = example(&options);
        console.print(&json!({ "example": text }), || text.clone())?;
        return Ok(ProgramOutcome::Done);
    }
    let commands = commands(&options, &args.of)?;
    let mut all: Vec<Listed> = Vec::new();
    for command in &commands {
        for listed in settings(&options, command, layers.given(), &layers.file, variables, !args.of.is_empty()) {
            match all.iter_mut().find(|one| Listed { commands: Vec::new(), ..(*one).clone() } == listed) {
                Some(one) => one.commands.push(command.join(" ")),
                None => all.push(Listed { commands: vec![command.join(" ")], ..listed }),
            }
        }
    }
    let path = layers.file.path.as_ref().map(|path| path.to_string_lossy());
    let everywhere = options.commands().len();
    console.print(&json!({ "file": path, "settings": all }), || {
        text(path.as_deref(), &all, commands.len() == 1, everywhere)
    })?;
    Ok(ProgramOutcome::Done)
}

/// Returns the commands of a name, such as all of `publish`; all commands if there is no name.
fn commands<'o>(options: &'o Options, name: &[String]) -> Result<Vec<&'o Table>> {
    let named: Vec<_> = options.commands().iter().filter(|command| command.starts_with(name)).collect();
    if named.is_empty() {
        let names: Vec<_> = options.commands().iter().map(|command| command.join(" ")).collect();
        return Err(Error::usage(format!("show the settings of `{}`", name.join(" ")), "there is no such command")
            .with_code(Code::BadSetting)
            .hint(format!("There are {}.", names.join(", "))));
    }
    Ok(named)
}

/// Returns the settings of a command, with its defaults if they are wanted.
fn settings(
    options: &Options,
    command: &Table,
    given: &ArgMatches,
    file: &ConfigFile,
    variables: Variables,
    defaults: bool,
) -> Vec<Listed> {
    let mut listed = Vec::new();
    for effective in effective(options, command, Some(given), file, variables) {
        let is_default = effective.origin == Origin::Default;
        if !is_default || (defaults && !effective.setting.arg.is_hide_set()) {
            listed.push(entry(&effective.setting.key, value(&effective), &effective.origin));
        }
    }
    for name in VARIABLES {
        let of_file = file.variable(name).and_then(|given| Some((given.values.first()?.clone(), given.line)));
        let (value, origin) = match (set(variables, name), of_file) {
            (Some(value), _) => (value.to_string_lossy().into_owned(), Origin::Variable(name.to_owned())),
            (None, Some((value, line))) => (value, Origin::File(vec![ENV.to_owned()], line)),
            (None, None) => continue,
        };
        listed.push(entry(name, shown(name, &value).into(), &origin));
    }
    listed
}

fn entry(name: &str, value: Value, origin: &Origin) -> Listed {
    let (word, variable, table, line) = match origin {
        Origin::Flag => ("flag", None, None, None),
        Origin::Variable(name) => ("variable", Some(name.clone()), None, None),
        Origin::File(table, line) => ("file", None, Some(table.join(".")), Some(*line)),
        Origin::Default => ("default", None, None, None),
    };
    Listed { name: name.to_owned(), value, origin: word, variable, table, line, commands: Vec::new() }
}

/// Returns the value of an option as JSON, without what is secret in it.
fn value(effective: &Effective) -> Value {
    let Effective { setting, values, origin } = effective;
    // The name of a variable may say that it is a secret where that of its option does not.
    let hidden = |value: &String| match origin {
        Origin::Variable(name) => shown(name, &shown(&setting.key, value)).into_owned(),
        _ => shown(&setting.key, value).into_owned(),
    };
    let default = || match setting.default() {
        Some(text) => vec![text],
        None => Vec::new(),
    };
    let values = if *origin == Origin::Default { default() } else { values.iter().map(hidden).collect() };
    let first = values.first();
    match setting.shape() {
        Shape::Switch => (first.is_some_and(|value| value == "true")).into(),
        Shape::Count => first.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default().into(),
        Shape::One => first.map(|value| Value::from(&**value)).unwrap_or_default(),
        Shape::List => values.into(),
    }
}

/// Returns the settings as text for people: those of one command, or of several of all commands, whose number is `everywhere`.
fn text(path: Option<&str>, all: &[Listed], one: bool, everywhere: usize) -> String {
    let file = path.map_or("there is none".into(), printable);
    let value = |listed: &Listed| match &listed.value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Array(values) => {
            values.iter().map(|value| printable(value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let from = |listed: &Listed| match (&listed.variable, listed.line, listed.table.as_deref()) {
        (Some(name), _, _) => name.clone(),
        (_, Some(line), Some("")) => format!("{file}:{line}"),
        (_, Some(line), Some(table)) => format!("{file}:{line} [{table}]"),
        _ => listed.origin.to_owned(),
    };
    let rows: Vec<_> = all.iter().map(|listed| (&*listed.name, value(listed), from(listed), listed)).collect();
    let wide = columns;
    let names = rows.iter().map(|(name, ..)| wide(name)).max().unwrap_or_default().max(4);
    let values = rows.iter().map(|(_, value, ..)| wide(value)).filter(|width| *width <= WIDEST).max();
    let values = values.unwrap_or_default().max(5);
    let froms = if one { 0 } else { rows.iter().map(|(_, _, from, _)| wide(from)).max().unwrap_or_default().max(4) };
    let mut text = format!("Configuration file: {file}\n");
    if rows.is_empty() {
        return text + "Nothing is set.\n";
    }
    let mut add = |name: &str, value: &str, from: &str, commands: &str| {
        let pad = |text: &str, width: usize| " ".repeat(width.saturating_sub(columns(text)));
        let (value_pad, from_pad) = (pad(value, values), pad(from, froms));
        let line = format!("{name:names$}  {value}{value_pad}  {from}{from_pad}  {commands}");
        text.push_str(line.trim_end());
        text.push('\n');
    };
    add("NAME", "VALUE", "FROM", if one { "" } else { "FOR" });
    for (name, value, from, listed) in &rows {
        let commands = match listed.commands.len() == everywhere {
            true => "all commands".to_owned(),
            false => listed.commands.join(", "),
        };
        add(name, value, from, if one { "" } else { &commands });
    }
    text
}
