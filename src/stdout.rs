//! Standard output: text, or one JSON document, for a reader that may close the pipe.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use lastgood::error::{Code, Doing, Error, Result};
use serde::Serialize;

/// Standard output, buffered.
pub struct Stdout {
    inner: BufWriter<StdoutLock<'static>>,
    used: bool,
    closed: bool,
}

impl Stdout {
    pub fn new() -> Self {
        Stdout { inner: BufWriter::with_capacity(64 << 10, io::stdout().lock()), used: false, closed: false }
    }

    /// Whether anything was written.
    pub fn used(&self) -> bool {
        self.used
    }

    /// Whether the reader has closed the pipe, as `head` does.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Writes a whole report and flushes it. A reader that has closed the pipe does not want it; what was done stays done.
    ///
    /// # Errors
    /// Stdout cannot be written for another reason.
    pub fn report(&mut self, text: &str) -> Result<()> {
        match self.write_all(text.as_bytes()).and_then(|()| self.flush()) {
            Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(()),
            done => done.doing(|| "write the report to stdout"),
        }
    }

    fn heard<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        self.closed |= matches!(&done, Err(why) if why.kind() == ErrorKind::BrokenPipe);
        done
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.used = true;
        let done = self.inner.write(bytes);
        self.heard(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.inner.flush();
        self.heard(done)
    }
}

/// Returns a value as a JSON document of one line.
///
/// # Errors
/// None in practice: every report has a JSON form.
pub fn json(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string(value)
        .map_err(|e| Error::failed("write the report as JSON", e).with_code(Code::Internal))?;
    text.push('\n');
    Ok(text)
}

/// Lines of text, or the items of one JSON array, written as they come. After a failure the array is left open: an incomplete
/// list must not look complete.
pub struct Items<'o> {
    out: &'o mut Stdout,
    json: bool,
    any: bool,
}

impl<'o> Items<'o> {
    pub fn new(out: &'o mut Stdout, json: bool) -> Self {
        Items { out, json, any: false }
    }

    /// Writes the line above the items, if they are text.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn head(&mut self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { writeln!(self.out, "{text}").doing(|| "write to stdout") }
    }

    /// Writes one item: as JSON, or as the text that `text` makes of it.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn item<T: Serialize>(&mut self, item: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let line = if self.json {
            let value =
                serde_json::to_string(item).map_err(|e| Error::failed("write JSON", e).with_code(Code::Internal))?;
            format!("{}{value}", if self.any { ",\n" } else { "[" })
        } else {
            text(item) + "\n"
        };
        self.any = true;
        self.out.write_all(line.as_bytes()).doing(|| "write to stdout")
    }

    /// Ends the list.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn end(self) -> Result<()> {
        let end = match (self.json, self.any) {
            (false, _) => "",
            (true, true) => "]\n",
            (true, false) => "[]\n",
        };
        self.out.write_all(end.as_bytes()).and_then(|()| self.out.flush()).doing(|| "write to stdout")
    }
}
