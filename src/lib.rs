//! lastgood keeps the state of an app that lives on disposable machines: it takes snapshots of a data directory into a
//! vault, and puts the last good one back.
//!
//! The modules are listed in the order of flow: each may use those below it, and none above. `ARCHITECTURE.md` draws the
//! map; `tests/architecture.rs` holds it.

pub mod run;
pub mod server;
#[cfg_attr(not(feature = "pubsub"), path = "subscriber_without_pubsub.rs")]
pub mod subscriber;
pub mod view;
pub mod doctor;
pub mod runner;
pub mod claims;
pub mod events;
pub mod job;
pub mod hooks;
pub mod notify;
pub mod report;
pub mod epochs;
pub mod start;
pub mod import;
pub mod replicas;
pub mod verify;
pub mod inspect;
pub mod export;
pub mod retention;
pub mod restore;
pub mod backup;
pub mod source;
pub mod sqlite;
pub mod lineage;
pub mod command;
pub mod vault;
pub mod store;
pub mod gcp;
pub mod retry;
pub mod children;
pub mod shutdown;
pub mod deadline;
pub mod panics;
pub mod parallel;
pub mod monitor;
pub mod fs;
pub mod mask;
pub mod text;
pub mod shell;
pub mod path;
pub mod error;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests ask the environment what they may skip")]
#[path = "../tests/support/skipped.rs"]
mod skipped;
