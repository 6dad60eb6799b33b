//! Reads what is on the disk: walks the data directory for a backup, and tells whether a file is as it was.
//!
//! The modules are listed in the order of flow.

pub mod place;
pub mod select;
pub mod walk;
pub mod apart;
pub mod listing;
pub mod found;
pub mod marker;
pub mod open;
pub mod flags;
pub mod extra;
pub mod stable;
pub mod folders;
