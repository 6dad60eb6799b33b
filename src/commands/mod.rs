//! The commands of the command line.

pub mod config;
pub mod doctor;
pub mod export;
pub mod import;
pub mod keep;
pub mod look;
pub mod manual;
pub mod publish;
pub mod rollback;
pub mod serve;
pub mod start;
pub mod vaults;
