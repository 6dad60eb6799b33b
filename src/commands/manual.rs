//! `completions` and `man`: what a shell and `man` are given, made of the command line itself.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
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
    write(&script, console)
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
    let man = Man::new(command).source(concat!("lastgood ", env!("CARGO_PKG_VERSION")));
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
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
