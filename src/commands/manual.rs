//! `completions` and `man`: what a shell and `man` are given, made of the command line itself.

use std::io::{self, Write};

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use lastgood::error::{Code, Doing, Error, Result};

use crate::ProgramOutcome;
use crate::cli::help::{arranged, examples};
use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::console::Console;

/// Prints what a shell completes command lines with.
///
/// # Errors
/// Stdout cannot be written.
pub fn completions(args: &CompletionsArgs, console: &mut Console) -> Result<ProgramOutcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut arranged(Cli::command(), true), "lastgood", &mut script);
    if args.shell == Shell::Bash {
        script = commands_first(&String::from_utf8_lossy(&script)).into_bytes();
    }
    write(&script, console)
}

/// What bash is given to choose from, as `clap_complete` writes it.
const OFFERED: &str = r#"compgen -W "${opts}" -- "${cur}""#;
/// Leaves out options where commands can stand and the word does not begin with a dash: other shells do so by themselves.
const OFFER: &str = r#"_lastgood_offered() {
    local word words=""
    if [[ "$2" != -* ]] ; then
        for word in $1 ; do
            [[ "${word}" == -* ]] || words+=" ${word}"
        done
    fi
    echo "${words:-$1}"
}

"#;

/// Returns the script for bash so that it offers commands before options.
fn commands_first(script: &str) -> String {
    let offered = r#"compgen -W "$(_lastgood_offered "${opts}" "${cur}")" -- "${cur}""#;
    format!("{OFFER}{}", script.replace(OFFERED, offered))
}

/// Prints the manual page of the program or of a command.
///
/// # Errors
/// Usage: there is no such command. Also an output that cannot be written.
pub fn man(args: &ManArgs, console: &mut Console) -> Result<ProgramOutcome> {
    let name = args.command.join(" ");
    let mut command = arranged(Cli::command(), true);
    command.build();
    let of = args.command.iter().try_fold(&command, |command, name| command.find_subcommand(name));
    let of = of.ok_or_else(|| {
        Error::usage(format!("show the manual page of `lastgood {name}`"), "there is no such command")
            .with_code(Code::Usage)
            .hint("`lastgood --help` lists the commands.")
    })?;
    let mut text = Vec::new();
    page(of.clone(), &mut text).doing(|| "make the manual page")?;
    write(&text, console)
}

/// Writes a page: as `clap_mangen` does, with the examples before the options.
fn page(command: Command, out: &mut dyn Write) -> io::Result<()> {
    let examples = examples(&command);
    let (options, subcommands) = (command.get_arguments().count() > 0, command.has_subcommands());
    let more = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let versioned = command.get_version().is_some();
    let synopsis = synopsis(&command);
    // Without a date, the source would stand in its place.
    let man = Man::new(command).date(" ").source(concat!("lastgood ", env!("CARGO_PKG_VERSION")));
    man.render_title(out)?;
    man.render_name_section(out)?;
    synopsis.to_writer(out)?;
    man.render_description_section(out)?;
    if !examples.is_empty() {
        section("EXAMPLES", &examples, out)?;
    }
    if options {
        man.render_options_section(out)?;
    }
    if subcommands {
        man.render_subcommands_section(out)?;
    }
    match more.strip_prefix("Exit codes:\n") {
        Some(codes) => section("EXIT STATUS", codes, out)?,
        None if more.is_empty() => {}
        None => man.render_extra_section(out)?,
    }
    // Commands have none of their own.
    if versioned { man.render_version_section(out) } else { Ok(()) }
}

/// Returns how the command is called: `clap_mangen` leaves out the values of options.
fn synopsis(command: &Command) -> Roff {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut line = vec![bold(name)];
    let shown = |arg: &&Arg| !arg.is_hide_set();
    for option in command.get_arguments().filter(|arg| !arg.is_positional()).filter(shown) {
        let (before, after) = if option.is_required_set() { (" ", "") } else { (" [", "]") };
        let names = option.get_short().map(|short| format!("-{short}"));
        let names = names.into_iter().chain(option.get_long().map(|long| format!("--{long}")));
        line.extend([roman(before), bold(names.collect::<Vec<_>>().join("|"))]);
        if option.get_action().takes_values() {
            line.extend([roman(" "), italic(values(option))]);
        }
        let repeats = matches!(option.get_action(), ArgAction::Append | ArgAction::Count);
        line.push(roman(format!("{after}{}", if repeats { "..." } else { "" })));
    }
    for argument in command.get_positionals().filter(shown) {
        let (before, after) = if argument.is_required_set() { (" ", "") } else { (" [", "]") };
        let repeats = argument.get_num_args().is_some_and(|count| count.max_values() > 1);
        line.extend([roman(before), italic(values(argument)), roman(after), roman(if repeats { "..." } else { "" })]);
    }
    if command.has_subcommands() {
        line.extend([roman(" "), italic("COMMAND")]);
    }
    let mut roff = Roff::default();
    roff.control("SH", ["SYNOPSIS"]).text(line);
    roff
}

/// The names of an argument's values, as help has them.
fn values(arg: &Arg) -> String {
    match arg.get_value_names() {
        Some(names) => names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "),
        None => arg.get_id().as_str().to_uppercase(),
    }
}

/// Writes a section whose lines stay as they are.
fn section(heading: &str, text: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut roff = Roff::default();
    roff.control("SH", [heading]).control("nf", []);
    text.lines().for_each(|line| _ = roff.text([roman(line)]));
    roff.control("fi", []).to_writer(out)
}

fn write(text: &[u8], console: &mut Console) -> Result<ProgramOutcome> {
    let out = console.out();
    out.write_all(text).and_then(|()| out.flush()).doing(|| "write to stdout")?;
    Ok(ProgramOutcome::Done)
}
