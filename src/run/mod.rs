//! Runs an app, and keeps its data: the app's process, its output, and the lock of its directory.

pub mod app;
pub mod command;
pub mod lock;
pub mod output;
pub mod restart;
pub mod signals;
