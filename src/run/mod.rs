//! `lastgood run`: an app, its data restored before it starts, and saved while it runs, at a crash and at its end.

pub mod around;
pub mod rollback;
pub mod epoch_end;
pub mod settings;
pub mod app;
pub mod command;
pub mod fit;
pub mod freshness;
pub mod lock;
pub mod left;
pub mod mark;
pub mod process;
pub mod output;
pub mod restart;
pub mod signals;
