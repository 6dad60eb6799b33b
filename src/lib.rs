//! lastgood keeps the state of an app that lives on disposable machines: it takes snapshots of a data directory into a
//! vault, and puts the last good one back.
//!
//! Data flows down this list on backup, and up it on restore.

pub mod backup;
pub mod claims;
pub mod command;
pub mod deadline;
pub mod doctor;
pub mod error;
pub mod events;
pub mod export;
pub mod fs;
pub mod gcp;
pub mod inspect;
pub mod job;
pub mod monitor;
pub mod notify;
pub mod panics;
pub mod parallel;
pub mod path;
pub mod replicas;
pub mod report;
pub mod restore;
pub mod retry;
pub mod runner;
pub mod server;
pub mod shell;
pub mod shutdown;
pub mod source;
pub mod sqlite;
pub mod store;
pub mod subscriber;
pub mod text;
pub mod vault;
pub mod verify;
pub mod view;
