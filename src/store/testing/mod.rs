//! Stores for tests: one in memory, some that fail, lag, flip bits or record what is asked of them, and the suite that
//! every store runs.

pub mod bitflip;
#[cfg(test)]
pub mod contract;
pub mod fault;
pub mod latency;
pub mod memory;
pub mod recording;
