//! The output of a hook, which goes into the log.

use std::io::{self, PipeReader};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::children::more_output;
use crate::mask::{KeyLines, Masker};
use crate::text::{count_of, one_line};

/// The most bytes of an output that are logged.
const LOGGED: usize = 64 << 10;
/// The most bytes of a line.
const LINE: usize = 1 << 10;
/// The bytes that are read at the same time.
const AT_ONCE: usize = 16 << 10;
/// How long the end of an output is waited for once the hook has ended: what has left its group may have it open.
const END: Duration = Duration::from_secs(1);

/// The output of a hook that is read.
pub struct HookOutput {
    /// The last line that is not empty.
    end: Receiver<Option<String>>,
}

impl HookOutput {
    /// Begins to read it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn read(from: PipeReader, hook: &'static str, masker: Masker) -> io::Result<HookOutput> {
        let (tell, end) = bounded(1);
        let work = move || {
            let lines = LogLines { hook, masker, key: KeyLines::default(), logged: 0, left_out: 0, last: None };
            // If nobody waits any more, nobody wants to know.
            let _ = tell.send(lines.read(from));
        };
        thread::Builder::new().name("hook".into()).spawn(work)?;
        Ok(HookOutput { end })
    }

    /// Waits for its end. Returns the last line that is not empty, masked.
    pub fn finish(self) -> Option<String> {
        self.end.recv_timeout(END).ok().flatten()
    }
}

/// The lines of an output, as they are logged.
struct LogLines {
    hook: &'static str,
    masker: Masker,
    key: KeyLines,
    logged: usize,
    left_out: u64,
    last: Option<String>,
}

impl LogLines {
    fn read(mut self, mut from: PipeReader) -> Option<String> {
        let (mut buffer, mut line) = (vec![0; AT_ONCE], Vec::new());
        while let Some(bytes) = more_output(&mut from, &mut buffer) {
            for &byte in bytes {
                match byte {
                    b'\n' | b'\r' => self.end_line(&mut line),
                    // The rest of a long line is dropped.
                    byte if line.len() < LINE => line.push(byte),
                    _ => {}
                }
            }
        }
        self.end_line(&mut line);
        if self.left_out > 0 {
            tracing::info!(target: "lastgood::hook", hook = self.hook, "… {} left out", count_of(self.left_out, "more line"));
        }
        self.last
    }

    fn end_line(&mut self, line: &mut Vec<u8>) {
        let masked = self.masker.line(line, &mut self.key);
        let text = one_line(String::from_utf8_lossy(&masked).trim_end(), 2 * LINE);
        line.clear();
        if text.is_empty() {
            return;
        }
        if self.logged + text.len() <= LOGGED {
            self.logged += text.len();
            tracing::info!(target: "lastgood::hook", hook = self.hook, "{text}");
        } else {
            self.left_out += 1;
        }
        self.last = Some(text);
    }
}
