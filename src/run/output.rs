//! Watches the output of the app while it is passed on: keeps its last lines, and finds those that tell of a critical error.
//!
//! Nothing here changes or delays what is passed on, or is kept longer than the last lines: a line of any length, and one that
//! never ends, takes bounded memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use regex::bytes::Regex;

use crate::mask::{KeyLines, MASKED, Masker, expression};

/// The most lines that are kept.
pub const KEPT_LINES: usize = 200;
/// The most bytes of the lines that are kept.
pub const KEPT_BYTES: usize = 64 << 10;
/// The most bytes of one line that is kept.
const KEPT_OF_LINE: usize = 4 << 10;
/// The most bytes of a line that expressions are matched against.
const MATCHED_OF_LINE: usize = 64 << 10;
/// The most bytes of the line that is told with a match.
const TOLD_OF_LINE: usize = 1 << 10;
/// The shortest time between two matches that are told: what comes meanwhile is counted.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Which lines tell of a critical error, and how many it takes.
#[derive(Debug, Clone, Default)]
pub struct CriticalRules {
    /// Expressions; a line that any matches counts.
    pub expressions: Vec<Regex>,
    /// How many lines it takes; at least 1.
    pub count: usize,
    /// The time within which these lines come.
    pub within: Duration,
}

impl CriticalRules {
    /// Rules for expressions that a user wrote.
    ///
    /// # Errors
    /// An expression that cannot be used, and why.
    pub fn new<S: AsRef<str>>(expressions: &[S], count: usize, within: Duration) -> Result<Self, String> {
        let expressions = expressions.iter().map(|text| expression(text.as_ref())).collect::<Result<_, _>>()?;
        Ok(CriticalRules { expressions, count: count.max(1), within })
    }
}

/// Lines told of a critical error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputMatch {
    /// The expression that the last of them matches.
    pub pattern: String,
    /// How many lines there were since the last ones that were told.
    pub count: u64,
    /// The last of them, masked and cut.
    pub line: String,
}

/// Watches the output of an app, over its restarts.
#[derive(Debug)]
pub struct Output {
    rules: CriticalRules,
    masker: Masker,
    state: Mutex<OutputState>,
}

#[derive(Debug, Default)]
struct OutputState {
    last: LastLines,
    critical: CriticalLines,
}

/// Where the lines of one stream end.
#[derive(Debug, Default)]
pub struct Lines {
    /// The line that has not ended, as far as it is matched.
    line: Vec<u8>,
    /// Bytes of it that are not there.
    cut: u64,
    /// Whether a line that ends now replaces the one before, as a terminal shows it.
    replaces: bool,
    /// The number of the line before.
    last: Option<u64>,
    key: KeyLines,
}

impl Output {
    /// Watches an output by these rules.
    pub fn new(rules: CriticalRules, masker: Masker) -> Self {
        Output { rules, masker, state: Mutex::default() }
    }

    /// Takes bytes of a stream, whose lines are counted in `lines`. Calls `told` for each match that is to be told.
    pub fn take(&self, bytes: &[u8], lines: &mut Lines, now: Instant, mut told: impl FnMut(OutputMatch)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            lines.add(&rest[..end]);
            self.end_line(lines, now, &mut told);
            // A carriage return and a newline are one end: the second one ends nothing.
            lines.replaces = rest[end] == b'\r';
            rest = &rest[end + 1..];
        }
        lines.add(rest);
    }

    /// Takes the end of a stream: its last line may have no end.
    pub fn end(&self, lines: &mut Lines, now: Instant, mut told: impl FnMut(OutputMatch)) {
        self.end_line(lines, now, &mut told);
        *lines = Lines::default();
    }

    fn end_line(&self, lines: &mut Lines, now: Instant, told: &mut impl FnMut(OutputMatch)) {
        let (line, cut) = (std::mem::take(&mut lines.line), std::mem::take(&mut lines.cut));
        if line.is_empty() {
            return;
        }
        let replaces = std::mem::take(&mut lines.replaces);
        let pattern = self.rules.expressions.iter().find(|expression| expression.is_match(&line));
        let of_key = self.masker.is_of_key(&line, &mut lines.key);
        let mut state = self.lock();
        if let Some(pattern) = pattern
            && let Some(count) = state.critical.add(now, &self.rules)
        {
            let line = text(&self.masker.mask(&line), 0, TOLD_OF_LINE);
            told(OutputMatch { pattern: pattern.as_str().to_owned(), count, line });
        }
        let replaced = lines.last.filter(|_| replaces);
        lines.last = Some(state.last.add(KeptLine::new(line, cut, of_key), replaced));
    }

    /// The last lines of the output, masked: 200 lines and 64 KiB at most. They are as the app wrote them otherwise, but for escape
    /// sequences that colour them, and may hold any characters.
    pub fn last_lines(&self) -> Vec<String> {
        let shown = |line: &KeptLine| match line.of_key {
            true => MASKED.to_owned(),
            false => text(&self.masker.mask(&line.text), line.cut, KEPT_OF_LINE),
        };
        let kept: Vec<KeptLine> = self.lock().last.lines.iter().cloned().collect();
        let mut lines: VecDeque<String> = kept.iter().map(shown).collect();
        // What stands for a short secret is longer.
        let mut bytes: usize = lines.iter().map(String::len).sum();
        while bytes > KEPT_BYTES {
            bytes -= lines.pop_front().map_or(bytes, |line| line.len());
        }
        lines.into()
    }

    fn lock(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(MATCHED_OF_LINE - self.line.len());
        self.line.extend_from_slice(&bytes[..taken]);
        self.cut += (bytes.len() - taken) as u64;
    }
}

/// Returns a line as text, cut to its first `most` bytes; `cut` bytes of it are gone already.
fn text(line: &[u8], cut: u64, most: usize) -> String {
    let mut text = String::from_utf8_lossy(&line[..line.len().min(most)]).into_owned();
    let cut = cut + line.len().saturating_sub(most) as u64;
    if cut > 0 {
        text.push_str(&format!("… ({cut} more bytes)"));
    }
    text
}

/// A line that is kept, as it was written: it is masked when it is shown.
#[derive(Debug, Clone)]
struct KeptLine {
    number: u64,
    text: Vec<u8>,
    /// Bytes of it that are not there.
    cut: u64,
    /// Whether it is a part of a key of several lines.
    of_key: bool,
}

impl KeptLine {
    fn new(mut text: Vec<u8>, cut: u64, of_key: bool) -> Self {
        let cut = cut + text.len().saturating_sub(KEPT_OF_LINE) as u64;
        text.truncate(KEPT_OF_LINE);
        text.shrink_to_fit();
        KeptLine { number: 0, text, cut, of_key }
    }
}

/// The last lines of an output.
#[derive(Debug, Default)]
struct LastLines {
    lines: VecDeque<KeptLine>,
    bytes: usize,
    number: u64,
}

impl LastLines {
    /// Adds a line, in the place of the last one if that has the number `replaced`. Returns the line's number.
    fn add(&mut self, line: KeptLine, replaced: Option<u64>) -> u64 {
        if let Some(last) = self.lines.pop_back_if(|last| replaced == Some(last.number)) {
            self.bytes -= last.text.len();
        }
        self.number += 1;
        self.bytes += line.text.len();
        self.lines.push_back(KeptLine { number: self.number, ..line });
        while self.lines.len() > KEPT_LINES || self.bytes > KEPT_BYTES {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.text.len();
        }
        self.number
    }
}

/// The lines that tell of a critical error, and are not told yet.
#[derive(Debug, Default)]
struct CriticalLines {
    /// When the last ones came, as many as it takes at most.
    times: VecDeque<Instant>,
    /// How many came since the last ones that were told.
    count: u64,
    told: Option<Instant>,
}

impl CriticalLines {
    /// Counts a line. Returns how many there are if that is to be told now.
    fn add(&mut self, now: Instant, rules: &CriticalRules) -> Option<u64> {
        self.count += 1;
        self.times.push_back(now);
        while self.times.len() > rules.count.max(1) {
            self.times.pop_front();
        }
        let enough = self.times.len() == rules.count.max(1);
        let close = self.times.front().is_some_and(|first| now.saturating_duration_since(*first) <= rules.within);
        let due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
        if !(enough && close && due) {
            return None;
        }
        self.times.clear();
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests;
