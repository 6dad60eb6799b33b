//! The commands of the command line.

pub mod publish;
pub mod serve;
pub mod vaults;
