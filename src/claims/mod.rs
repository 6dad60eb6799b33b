//! At least once becomes once: claims in the vault say which event or request is being served, by whom, and what came of it.

pub mod dispatch_request;
pub mod ended_runs;
pub mod execution;
pub mod folder;
pub mod idempotent;
pub mod lease;
pub mod name;
pub mod promise;
pub mod recover;
