//! The part of a terminal that the progress bar may use: all columns but a few at the end of each line.
//!
//! The terminal itself shows `^C` where the cursor is. If the bar ended in the last column, that would begin another line, and only
//! the second of the two would be cleared.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::TermLike;
use terminal_size::terminal_size_of;

/// The size of a terminal that does not tell it, in columns and lines.
const SIZE: (u16, u16) = (80, 24);
/// The columns that are left free: those of `^C`, and that of the cursor after it.
const FREE: u16 = 3;

/// Returns how wide the terminal is at stderr, in columns.
pub fn width() -> u16 {
    terminal_size_of(io::stderr()).map_or(SIZE.0, |(width, _)| width.0)
}

/// Draws on the terminal at stderr; what is drawn is shown at a flush.
#[derive(Debug, Default)]
pub struct Screen {
    drawn: Mutex<Vec<u8>>,
}

impl Screen {
    fn draw(&self, text: &str) -> io::Result<()> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner).extend(text.as_bytes());
        Ok(())
    }

    fn move_cursor(&self, by: usize, way: char) -> io::Result<()> {
        if by == 0 { Ok(()) } else { self.draw(&format!("\x1b[{by}{way}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        width().saturating_sub(FREE).max(1)
    }

    fn height(&self) -> u16 {
        terminal_size_of(io::stderr()).map_or(SIZE.1, |(_, height)| height.0)
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(text)?;
        self.draw("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stderr = io::stderr().lock();
        stderr.write_all(&std::mem::take(&mut *drawn))?;
        stderr.flush()
    }
}
