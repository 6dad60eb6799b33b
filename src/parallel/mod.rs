//! Work that several threads do at once: an ordered map, and a byte budget.

pub mod budget;
pub mod ordered;
