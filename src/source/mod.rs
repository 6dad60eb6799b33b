//! Reads what is on the disk: walks the data directory for a backup, and tells whether a file is as it was.

pub mod extra;
pub mod folders;
pub mod found;
pub mod listing;
pub mod marker;
pub mod open;
pub mod place;
pub mod select;
pub mod stable;
pub mod walk;
