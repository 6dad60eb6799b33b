//! Backs up SQLite databases, compared block by block with what the vault has of them.

pub mod compaction;
pub mod known;
pub mod reader;
pub mod scan;
