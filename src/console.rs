//! Where the user hears of a run: its report or its error, after the progress bar has gone.

use lastgood::error::{Error, Kind, Result};
use serde::Serialize;

use crate::config::Output;
use crate::stdout::{Items, Stdout, json};
use crate::terminal::{Terminal, printable};

/// Standard output, and how the user wants to hear.
pub struct Console<'t> {
    out: Stdout,
    output: Output,
    terminal: &'t Terminal,
}

impl<'t> Console<'t> {
    pub fn new(out: Stdout, output: Output, terminal: &'t Terminal) -> Self {
        Console { out, output, terminal }
    }

    /// Standard output itself, for bytes that were asked for.
    pub fn out(&mut self) -> &mut Stdout {
        &mut self.out
    }

    /// Whether the user wants to hear of errors only.
    pub fn quiet(&self) -> bool {
        self.output.quiet
    }

    /// Lines, or the items of a JSON array.
    pub fn items(&mut self) -> Items<'_> {
        Items::new(&mut self.out, self.output.json)
    }

    /// Tells what was done: as JSON, as the text that `text` makes, or not at all.
    ///
    /// # Errors
    /// An output that cannot be written.
    pub fn report(&mut self, done: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        self.terminal.clear();
        match self.output {
            Output { json: true, .. } => self.out.report(&json(done)?),
            Output { quiet: true, .. } => Ok(()),
            _ => self.out.report(&text()),
        }
    }

    /// Tells of an error on stderr and, where JSON was asked for and nothing was written yet, on stdout.
    pub fn fail(&mut self, why: &Error) {
        self.terminal.clear();
        if self.output.json_log {
            tracing::error!(hint = why.advice().unwrap_or_default(), "{}", why.what());
        } else {
            eprintln!("lastgood: {}", printable(&why.what()));
            if let Some(advice) = why.advice() {
                eprintln!("  {}", printable(advice));
            }
        }
        if self.output.json && !self.out.used() {
            write_error(&mut self.out, why.kind(), &why.what(), why.advice());
        }
    }
}

/// Writes an error as a JSON document.
pub fn write_error(out: &mut Stdout, kind: Kind, error: &str, hint: Option<&str>) {
    let text = format!("{}\n", serde_json::json!({ "error": error, "kind": kind.name(), "hint": hint }));
    if let Err(why) = out.report(&text) {
        eprintln!("lastgood: {}", why.what());
    }
}
