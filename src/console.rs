//! Prints the result of a run, its report or its error, after the progress bar has gone.

use std::io::{self, IsTerminal};

use lastgood::error::{Code, Error, Kind, Result};
use serde::Serialize;

use crate::config::OutputOptions;
use crate::log::LogTime;
use crate::stderr;
use crate::stdout::{Items, Stdout, json};
use crate::terminal::Terminal;
use crate::wrap;
use lastgood::text::printable;

/// Standard output, and how the user wants the results.
pub struct Console<'t> {
    out: Stdout,
    output: OutputOptions,
    terminal: &'t Terminal,
}

impl<'t> Console<'t> {
    pub fn new(out: Stdout, output: OutputOptions, terminal: &'t Terminal) -> Self {
        Console { out, output, terminal }
    }

    /// Returns standard output itself, for content that was asked for.
    pub fn out(&mut self) -> &mut Stdout {
        &mut self.out
    }

    /// Whether the log on stderr is JSON.
    pub fn json_log(&self) -> bool {
        self.output.json_log
    }

    /// Whether the user wants errors only.
    pub fn quiet(&self) -> bool {
        self.output.quiet
    }

    /// Whether a person sees at once what is written as text: then it fits the width of a terminal, and everything else gets all of
    /// it in a form that stays.
    pub fn on_terminal(&self) -> bool {
        !self.output.json && io::stdout().is_terminal()
    }

    /// Starts a list: lines, or the items of a JSON array.
    pub fn items(&mut self) -> Items<'_> {
        Items::new(&mut self.out, self.output.json)
    }

    /// Reports what was done: as JSON, as the text that `text` makes, or not at all. It is done whether anybody reads that or
    /// not: if stdout cannot be written to, the log says so.
    pub fn report(&mut self, done: &impl Serialize, text: impl FnOnce() -> String) {
        if let Err(why) = self.answer(done, text) {
            tracing::error!("{}; the work itself is over, and the exit code says how it ended", printable(&why.what()));
        }
    }

    /// Reports what was found out, which is all that the command is for, as [`report`](Self::report) does.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn answer(&mut self, done: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        self.terminal.clear();
        match self.output {
            OutputOptions { json: true, .. } => self.out.report(&json(done)?),
            OutputOptions { quiet: true, .. } => Ok(()),
            _ => self.out.report(&text()),
        }
    }

    /// Prints what the command was asked to print, also for a user who wants errors only.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn print(&mut self, done: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        self.terminal.clear();
        let text = if self.output.json { json(done)? } else { text() };
        self.out.report(&text)
    }

    /// Reports an error on stderr and, where JSON was asked for and nothing was written yet, on stdout.
    ///
    /// `stopped` says what is true after a signal has stopped the work and its error has no more to say than that; `None` for work
    /// of which nothing is known then. An error that has more to say tells it itself.
    pub fn fail(&mut self, why: &Error, stopped: Option<&str>) {
        self.terminal.clear();
        let is_stopped = why.code() == Code::Stopped;
        let stopped = stopped.filter(|_| is_stopped && why.advice().is_none());
        if self.output.json_log {
            tracing::error!(code = why.word(), hint = why.advice().unwrap_or_default(), "{}", why.what());
        } else {
            let advice = why.advice().map(|advice| format!("  {}\n", printable(advice))).unwrap_or_default();
            let what = match stopped {
                Some(stopped) => format!("Stopped. {stopped}"),
                None if is_stopped => format!("Stopped: {}", printable(&why.what())),
                None => format!("lastgood: {}", printable(&why.what_with_code())),
            };
            let time = if io::stderr().is_terminal() { String::new() } else { format!("{} ", LogTime::now()) };
            stderr::write(wrap::for_stderr(&format!("{time}{what}\n{advice}"), wrap::OF_ERROR).as_bytes());
        }
        if self.output.json && !self.out.used() {
            write_error(&mut self.out, why.kind(), why.word(), &why.what(), why.advice());
        }
    }
}

/// Writes an error as a JSON document; `code` is one of the words of [`lastgood::error::Code`].
pub fn write_error(out: &mut Stdout, kind: Kind, code: &str, error: &str, hint: Option<&str>) {
    let document = serde_json::json!({ "error": error, "kind": kind.name(), "code": code, "hint": hint });
    let text = format!("{document}\n");
    if let Err(why) = out.report(&text) {
        stderr::write(format!("lastgood: {}\n", why.what()).as_bytes());
    }
}
