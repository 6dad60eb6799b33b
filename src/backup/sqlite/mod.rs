//! SQLite databases, read while their apps write to them.
//!
//! [`live`] opens one through SQLite and begins a read transaction: its state is that of one commit. Most pages are then read
//! straight from the file; those that the [`wal`] may have newer ones of come through SQLite. What cannot be read so without
//! risk says why ([`trouble`], [`filesystem`]) and is taken raw. [`registry`] keeps everything else in this process away from a
//! file while SQLite has locks on it, and [`side`] removes the files beside it that exist only for us.

pub mod check;
pub mod filesystem;
mod handle;
pub mod header;
pub mod live;
pub mod registry;
pub mod side;
pub mod trouble;
pub mod wal;

#[cfg(test)]
mod peer;
#[cfg(test)]
mod tests;
