//! The settings of the driver, and its answers to `run`.

use std::time::Duration;

#[cfg(doc)]
use super::EpochDriver;
use crate::vault::hex::Hex;
use crate::vault::root::SourceIdentity;

/// The settings of an instance that wants to hold epochs.
#[derive(Debug, Clone)]
pub struct EpochOptions {
    /// How long a predecessor that yields may take until it is ended by force.
    pub handover: Duration,
    /// How often the holder looks for a successor.
    pub poll: Duration,
    /// The app's service, if it was named.
    pub service: Option<String>,
    /// The service's revision.
    pub revision: Option<String>,
    /// The host's name.
    pub host: String,
    /// The data directory, where it is on a filesystem of this machine and this process holds its lock.
    pub locked: Option<SourceIdentity>,
    /// The runs of epochs whose instances have held that very lock: if they ran on that directory, they have died, and their apps with
    /// them. A lock whose file somebody has made since says nothing of who ran there before.
    pub lock_runs: Vec<Hex<8>>,
    /// Whether `run` was started on a terminal.
    pub on_terminal: bool,
    /// Whether it takes over whoever runs.
    pub take_over: bool,
    /// Whether it is of a rollback, which runs no app.
    pub is_rollback: bool,
    /// The run.
    pub run: Hex<8>,
}

/// An epoch that was begun: all older ones have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub epoch: u32,
    /// Whether an older one was ended by force. The restored snapshot must then be committed in this epoch before the app
    /// runs.
    pub forced: bool,
}

/// The result of an attempt to begin an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It was begun.
    Begun(Begun),
    /// A greater epoch was begun meanwhile, and this one is over.
    Superseded {
        /// The number of that epoch.
        by: u32,
    },
}

/// Whether the app may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// It may. The next thing to do is to start it, and to call [`EpochDriver::running`].
    Start,
    /// A snapshot of a greater epoch is there: begin again.
    Again,
    /// A greater epoch was begun, and this one is over.
    Superseded {
        /// The number of that epoch.
        by: u32,
    },
}

/// How an epoch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It is held.
    Held,
    /// A greater epoch was begun: stop the app, take the last snapshot, and call [`EpochDriver::end`].
    Superseded {
        /// The number of that epoch.
        by: u32,
    },
    /// It was ended by another one: stop the app. All snapshots from now on are diverged.
    Ended {
        /// The number of that epoch; its own, after [`EpochDriver::end`].
        by: u32,
    },
    /// It is held, and nothing was done for this time: the processor was throttled, or the machine slept.
    Gap(Duration),
    /// It is not known: the vault has not answered for this time.
    Unknown {
        /// That time.
        since: Duration,
        /// Why not.
        why: String,
    },
}

/// Whether a snapshot belongs to the app's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// It does.
    Good,
    /// Another epoch ended this one: the snapshot is diverged.
    Diverged {
        /// The number of that epoch.
        by: u32,
    },
}
