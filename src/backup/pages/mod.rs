//! A SQLite database on its way into a snapshot, compared block by block with what the vault has of it.

pub mod compaction;
pub mod known;
pub mod reader;
pub mod scan;
