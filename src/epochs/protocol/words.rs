//! The inputs and actions of the protocol, its calls and their answers.

use std::time::Duration;

use crate::vault::epochs::EpochRecord;

/// An epoch's number, and the vault that its objects lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochKey {
    /// The number.
    pub number: u32,
    /// The vault, as its place in this instance's list of vaults.
    pub site: usize,
}

/// The content of an object that is to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// An epoch of this instance; one that only `asks` gives way to a holder that answers.
    Epoch {
        /// Whether it only asks.
        asks: bool,
    },
    /// A signpost in the place where an older holder looks for its successor, with the number of this instance's epoch.
    Signpost(u32),
    /// All other objects: the number of this instance's epoch.
    By(u32),
}

/// A call to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Call {
    /// Lists the epochs in every vault that answers.
    List,
    /// Reads an object.
    Read(EpochRecord, EpochKey),
    /// Creates an object.
    Create(EpochRecord, EpochKey, Content),
}

impl Call {
    /// Whether it creates an object that only tells another instance something. Such a call may be answered with
    /// [`Answer::Unknown`] whenever it fails: what this instance does does not wait for it.
    pub fn only_tells(&self) -> bool {
        matches!(self, Call::Create(EpochRecord::Yields | EpochRecord::Runs | EpochRecord::Alive, ..))
    }
}

/// An epoch as a listing shows it: which of its objects there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listed {
    /// Its number and vault.
    pub key: EpochKey,
    /// Whether it has ended.
    pub ended: bool,
    /// Whether its app was started.
    pub runs: bool,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// All epochs, in no order.
    Listed(Vec<Listed>),
    /// The object does not exist.
    Absent,
    /// An epoch.
    Epoch {
        /// Whether it is this instance's.
        mine: bool,
        /// The poll interval of its holder.
        poll: Duration,
        /// Whether it only asks.
        asks: bool,
        /// Whether its holder is known to have died: it ran on this directory of this machine, and its lock is free.
        dead: bool,
    },
    /// A signpost to the epoch of this number.
    Signpost(u32),
    /// An end, and the number of the epoch that made it.
    End(u32),
    /// Another object, which is there.
    Present,
    /// The object was created.
    Created,
    /// An object of that name was there before.
    Exists,
    /// The store failed, and the object may have been created. If [`State::reads_on`](super::State::reads_on) does not hold for a call
    /// that reads or lists, that is made until it succeeds.
    Unknown,
}

/// An event, for the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// The instance wants an epoch.
    Begin {
        /// The greatest number that is known, of epochs and of snapshots.
        greatest: u32,
        /// The vault to make the epoch in.
        site: usize,
        /// Whether it only asks if the holder lives.
        asks: bool,
    },
    /// The store has answered the outstanding call.
    Answer(Answer),
    /// It is time to look at the store.
    Look,
    /// The directory is as it is to be and, where that was asked for, committed in this epoch.
    Decided {
        /// The epoch of the newest snapshot that was listed meanwhile, 0 if there is none.
        newest: u32,
    },
    /// The app was started.
    Started,
    /// A snapshot is about to be committed.
    BeforeCommit,
    /// A snapshot was committed.
    Committed,
    /// The app does not run, and the last snapshot is committed.
    Saved,
    /// A snapshot of a greater epoch was found: the history goes on elsewhere.
    Outnumbered {
        /// The epoch of that snapshot.
        newest: u32,
    },
    /// Comes back to watching the newer epochs, after all of this instance's own is over.
    Watch,
}

/// An order of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Makes a call to the store, and gives its answer back.
    Call(Call),
    /// All predecessors have ended: list snapshots, decide and restore. If an epoch was ended by force, what is in the
    /// directory then must be committed in this epoch before the app runs. Answered with [`Input::Decided`].
    Decide {
        /// Whether an epoch was ended by force.
        forced: bool,
    },
    /// Starts the app. Answered with [`Input::Started`].
    StartApp,
    /// A greater epoch was begun: stop the app, take the last snapshot, and give [`Input::Saved`]. It is not to wait for the
    /// calls that follow, which only tell the successor that this is done.
    Superseded {
        /// The number of that epoch, or of the signpost to it.
        by: u32,
    },
    /// The epoch is over by another's hand. The app is to stop, and what is saved from now on is diverged.
    Ended {
        /// The number of the epoch that ended it.
        by: u32,
    },
    /// The snapshot may be committed.
    Commit,
    /// The snapshot that was committed is the app's history: every later holder restores it or a newer one.
    Acknowledged,
    /// The epoch was ended by its holder.
    Over,
    /// The number is taken or too small: begin again above this one.
    Again {
        /// The greatest number that is known.
        greatest: u32,
    },
    /// The holder of the older epoch lives: the one that only asked is over.
    Refused,
    /// A waiting instance is to begin an epoch.
    Return {
        /// The greatest number of an epoch that is known.
        greatest: u32,
        /// The vault of the epoch whose holder is to be asked whether it lives; `None` if it need not be asked.
        asks: Option<usize>,
    },
}
