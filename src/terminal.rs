//! Shows progress to people: as a bar on a terminal, elsewhere as a line in the log now and then.
//!
//! Warnings and the log go the same way in both cases, through `tracing`, whose writer ([`Stderr`]) lifts the bar for as
//! long as it writes.

mod screen;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use lastgood::monitor::Monitor;
use lastgood::text::printable;
use tracing_subscriber::fmt::MakeWriter;

use self::screen::Screen;
use crate::stderr;
use crate::wrap;

/// How often progress is logged if there is no bar.
const LOG_EVERY: Duration = Duration::from_secs(15);

/// The fewest columns in which the whole of a line fits; on a narrower terminal it is a shorter one.
const WIDE: u16 = 72;

/// The lines: with a total, without one, and when all bytes are done.
const WITH_TOTAL: &str = "{msg} [{wide_bar}] {binary_bytes} of {binary_total_bytes}{pace}";
const WITHOUT_TOTAL: &str = "{msg} {spinner} {binary_bytes}, {binary_bytes_per_sec}, {elapsed}";
const FINISHING: &str = "{msg} {spinner} {binary_bytes} done, {prefix}";
/// The same for narrow terminals.
const NARROW: [&str; 3] = ["{percent} %", "{binary_bytes}", "{prefix}"];

/// A monitor that shows a bar on stderr, or logs.
pub struct Terminal {
    bar: ProgressBar,
    shown: bool,
    done: AtomicU64,
    total: AtomicU64,
    log: Mutex<ProgressLog>,
}

struct ProgressLog {
    what: String,
    began: Instant,
    last: Instant,
}

impl Terminal {
    /// Creates a monitor, with a bar if one is wanted and stderr is a terminal.
    pub fn new(wanted: bool) -> Self {
        let shown = wanted && io::stderr().is_terminal();
        let target = if shown {
            ProgressDrawTarget::term_like_with_hz(Box::<Screen>::default(), 5)
        } else {
            ProgressDrawTarget::hidden()
        };
        let now = Instant::now();
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style(1));
        Terminal {
            bar,
            shown,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            log: Mutex::new(ProgressLog { what: String::new(), began: now, last: now }),
        }
    }

    /// Returns the writer for a log that programs read: stderr, above the bar.
    pub fn stderr(&self) -> Stderr {
        Stderr { bar: self.bar.clone(), wraps: false }
    }

    /// Returns the writer for a log that people read: what is wider than the terminal is wrapped.
    pub fn lines(&self) -> Stderr {
        Stderr { wraps: true, ..self.stderr() }
    }

    /// Removes the bar for good.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Returns the line for the log, when it is time for one.
    fn line(&self, now: Instant, done: u64) -> Option<String> {
        // A thread that finds the lock taken leaves the line to the other one: this is called for every block.
        let mut log = self.log.try_lock().ok()?;
        if now.saturating_duration_since(log.last) < LOG_EVERY {
            return None;
        }
        log.last = now;
        let total = self.total.load(Ordering::Relaxed);
        let of = if total == 0 { String::new() } else { format!(" of {}", BinaryBytes(total)) };
        let rate = done as f64 / now.saturating_duration_since(log.began).as_secs_f64();
        Some(format!("{}: {}{of}, {}/s", log.what, BinaryBytes(done), BinaryBytes(rate as u64)))
    }
}

/// The style of one of the lines: with a total, without one, when all bytes are done.
fn style(which: usize) -> ProgressStyle {
    let template = if screen::width() < WIDE { NARROW[which] } else { [WITH_TOTAL, WITHOUT_TOTAL, FINISHING][which] };
    // The templates are constants, and valid: a test builds them.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ").with_key("pace", |state: &ProgressState, text: &mut dyn fmt::Write| {
        // Writing to a line that is drawn does not fail.
        let _ = text.write_str(&pace(state.pos(), state.per_sec(), state.eta()));
    })
}

/// How fast it goes and how long it takes; nothing as long as nothing is known of that.
fn pace(done: u64, per_second: f64, left: Duration) -> String {
    match (done, left.as_secs()) {
        (0, _) => String::new(),
        (_, left) if left < 90 => format!(", {}/s, {left} s left", BinaryBytes(per_second as u64)),
        (_, left) if left < 90 * 60 => format!(", {}/s, {} min left", BinaryBytes(per_second as u64), left / 60),
        (_, left) => format!(", {}/s, {} h left", BinaryBytes(per_second as u64), left / 3600),
    }
}

impl Monitor for Terminal {
    fn begin(&self, what: &str, bytes: Option<u64>) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(bytes.unwrap_or(0), Ordering::Relaxed);
        let now = Instant::now();
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) =
            ProgressLog { what: what.to_owned(), began: now, last: now };
        tracing::info!("{what}");
        if self.shown {
            // Every call may draw: the line that needs a length comes when there is one.
            self.bar.set_style(style(1));
            self.bar.set_message(printable(what));
            self.bar.reset();
            match bytes {
                Some(bytes) => {
                    self.bar.set_length(bytes);
                    self.bar.set_style(style(0));
                }
                None => self.bar.unset_length(),
            }
            self.bar.enable_steady_tick(Duration::from_millis(250));
        }
    }

    fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        if self.shown {
            self.bar.set_length(bytes);
            self.bar.set_style(style(0));
        }
    }

    fn finishing(&self, what: &str) {
        tracing::info!("{what}");
        if self.shown {
            self.bar.set_prefix(what.to_owned());
            self.bar.set_style(style(2));
        }
    }

    fn advance(&self, bytes: u64) {
        if self.shown {
            self.bar.inc(bytes);
            return;
        }
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if tracing::enabled!(tracing::Level::INFO)
            && let Some(line) = self.line(Instant::now(), done)
        {
            tracing::info!("{line}");
        }
    }

    fn warn(&self, what: &str) {
        tracing::warn!("{}", printable(what));
    }

    fn wants_total(&self) -> bool {
        self.shown
    }
}

/// Writes to stderr with the bar out of the way, or drops what cannot be written there.
#[derive(Clone)]
pub struct Stderr {
    bar: ProgressBar,
    wraps: bool,
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            // Each event of the log comes as a whole.
            Ok(text) if self.wraps => {
                let text = wrap::for_stderr(text, wrap::OF_LOG);
                self.bar.suspend(|| stderr::write(text.as_bytes()));
            }
            _ => self.bar.suspend(|| stderr::write(bytes)),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Stderr {
    type Writer = Stderr;

    fn make_writer(&self) -> Stderr {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_templates() {
        for template in [WITH_TOTAL, WITHOUT_TOTAL, FINISHING].iter().chain(&NARROW) {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn the_time_that_is_left_is_told_once_something_is_done() {
        let mib = 1_048_576.0;
        assert_eq!(pace(0, 0.0, Duration::ZERO), "");
        assert_eq!(pace(1, 5.0 * mib, Duration::from_secs(3)), ", 5.00 MiB/s, 3 s left");
        assert_eq!(pace(1, 5.0 * mib, Duration::from_secs(600)), ", 5.00 MiB/s, 10 min left");
        assert_eq!(pace(1, 5.0 * mib, Duration::from_secs(40_000)), ", 5.00 MiB/s, 11 h left");
    }

    #[test]
    fn without_a_terminal_a_line_now_and_then() {
        let terminal = Terminal::new(false);
        assert!(!terminal.wants_total());
        terminal.begin("back up", Some(4 << 20));
        assert_eq!(terminal.line(Instant::now(), 1 << 20), None);
        let later = Instant::now() + LOG_EVERY * 2;
        let line = terminal.line(later, 1 << 20).unwrap();
        assert!(line.starts_with("back up: 1.00 MiB of 4.00 MiB, "), "{line}");
        assert_eq!(terminal.line(later, 1 << 20), None);
    }
}
