//! The protocol by which one instance of an app takes over from another: one pure function, [`step`].
//!
//! It is given what happened (an answer of the store, a look that is due, what the app's supervisor did) and the time of
//! the instance's own monotonic clock, and returns what to do next. At most one call to the store is outstanding, and
//! while one is, nothing but its answer may be given. `search` drives this function through every interleaving of three
//! instances; `driver` drives it against vaults.
//!
//! An epoch's objects are created once. `<n>.end.json` decides who the writer is: the holder creates it after its last
//! snapshot, or a greater epoch creates it by force, and everyone abides by the one that is there. Only an epoch itself
//! or a greater one ends an epoch.
//!
//! An object that only tells another instance something ([`Call::only_tells`]) is created once its maker has learned
//! what it acts upon, and nothing waits for it: a holder that can read and not write learns all that any holder does. If it
//! cannot answer one that only asks, it gives way to it.
//!
//! A read that fails keeps an instance neither from its other reads nor from acting on what it has read
//! ([`State::reads_on`]). What was not read is never taken for absent where that would start an app, commit, acknowledge,
//! end an epoch by force, or bring a waiting instance back:
//!
//! | sequence | what is not read |
//! |---|---|
//! | a poll, the look before the app starts | the successor's end: it is a successor. Anything else: nothing is known of it |
//! | a round | the same; and a predecessor is not ended by force of which any object was not read in this round |
//! | the look before the app starts, and around a commit | the app is not started, and nothing is committed or acknowledged |
//! | an end by force | it is looked for again in the next round |
//! | ends that tell of force | force is assumed |
//! | a predecessor | it is given the time of one with the longest poll, and read again in each round |
//! | the end of a predecessor, or of an epoch that is watched | it is listed whether it is there; that one may have been made by force |
//! | a watch | nothing is begun; a successor that is overdue is asked whether it lives. An epoch that is listed and not read is watched |
//! | the creation, the listing after it, the own end | it is read until it is known: no app runs that this could blind |

use std::collections::VecDeque;
use std::time::Duration;

use crate::vault::epochs::EpochRecord;

mod answers;
mod words;

pub use words::{Action, Answer, Call, Content, EpochKey, Input, Listed};

/// The longest poll interval that a predecessor is credited with, whatever its object says.
pub const LONGEST_POLL: Duration = Duration::from_secs(60);
/// How long a predecessor may be silent beyond two of its polls.
const SILENCE: Duration = Duration::from_secs(5);
/// How long after the handover's time a successor may take until its app runs. A waiting predecessor then comes back.
const START: Duration = Duration::from_secs(240);
/// How long a waiting instance leaves a successor whose app runs alone before it asks whether that one lives. It doubles
/// with each answer, up to [`LONGEST_ASK`].
const FIRST_ASK: Duration = Duration::from_secs(300);
/// The longest time between two questions of a waiting instance.
const LONGEST_ASK: Duration = Duration::from_secs(3600);
/// The most ends that are read to find out whether one of them was made by force. If there are more, one is assumed.
const JUDGED: usize = 16;

/// A predecessor that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wait {
    key: EpochKey,
    /// When it may be ended by force.
    pub(super) until: Duration,
    /// Whether its epoch could not be read: it has the time of the longest poll then, and is read again in each round.
    is_unread: bool,
    /// Whether it was seen to yield.
    yields: bool,
    pub(super) ended: bool,
    /// Whether it may be ended by force after this round: its time was over when that began, and all was read that it may have told.
    is_due: bool,
}

/// The successor that a waiting instance watches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Watched {
    key: EpochKey,
    runs: bool,
    ended: bool,
    /// When it must have told that its app runs; after that, when it is asked whether it lives.
    pub(super) until: Duration,
}

/// The state between two sequences of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It has no epoch.
    Idle,
    /// It has an epoch and waits for its predecessors.
    Awaiting,
    /// It restores.
    Deciding,
    /// It starts its app.
    Starting,
    /// It holds its epoch.
    Holding,
    /// It has seen its successor, and is about to end.
    Yielding,
    /// Its epoch is over.
    Over,
}

/// A sequence of calls under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// Creates the epoch.
    Create,
    /// Lists what is there beside it.
    List,
    /// Reads the predecessors, and puts up signposts for them.
    Meet,
    /// Looks at the predecessors, and at its own end and successor.
    Round,
    /// Ends those that are overdue.
    Force,
    /// Reads ends to learn whether one was made by force.
    Judge,
    /// Looks once more before the app starts.
    Recheck,
    /// Tells others that the app runs, that this instance yields, or that it lives.
    Tell,
    /// Looks at its own end and successor.
    Poll,
    /// Looks at its own end before a commit.
    BeforeCommit,
    /// Looks at its own end after a commit.
    AfterCommit,
    /// Ends its own epoch.
    End,
    /// Watches a successor.
    Watch,
}

/// The step after the end of an epoch, where that is not the end of an app that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Then {
    Again(u32),
    Refused,
    Outnumbered(u32),
}

/// The state of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// How long a predecessor that yields may take.
    handover: Duration,
    pub(super) phase: Phase,
    pub(super) purpose: Option<Purpose>,
    pub(super) asked: Option<Call>,
    todo: VecDeque<Call>,
    /// Whether something could not be read in the sequence under way.
    unread: bool,
    epoch: Option<EpochKey>,
    asks: bool,
    /// The number of the object in which the successor shows.
    pub(super) next: u32,
    pub(super) waits: Vec<Wait>,
    /// Objects that a predecessor looks at and the listing did not show.
    unlisted: Vec<EpochKey>,
    /// The greatest number in the last listing of a waiting instance.
    greatest: u32,
    /// Ends that have not been read, of which one may have been made by force.
    judged: Vec<EpochKey>,
    forced: bool,
    /// The number of the epoch that ended this one.
    ended: Option<u32>,
    successor: Option<u32>,
    /// Objects that only tell something, and could not be created: that is tried again with each look.
    untold: Vec<(EpochRecord, EpochKey)>,
    then: Option<Then>,
    pub(super) watched: Option<Watched>,
    ask_after: Duration,
}

impl State {
    /// Returns the state of an instance that has no epoch.
    pub fn new(handover: Duration) -> Self {
        State {
            handover,
            phase: Phase::Idle,
            purpose: None,
            asked: None,
            todo: VecDeque::new(),
            unread: false,
            epoch: None,
            asks: false,
            next: 0,
            waits: Vec::new(),
            unlisted: Vec::new(),
            greatest: 0,
            judged: Vec::new(),
            forced: false,
            ended: None,
            successor: None,
            untold: Vec::new(),
            then: None,
            watched: None,
            ask_after: FIRST_ASK,
        }
    }

    /// Returns the instance's epoch, once it has one.
    pub fn epoch(&self) -> Option<EpochKey> {
        self.epoch
    }

    /// Returns the call to the store whose answer is outstanding.
    pub fn asked(&self) -> Option<&Call> {
        self.asked.as_ref()
    }

    /// Returns what the instance is at.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the number of the epoch that ended this one by force.
    pub fn ended_by(&self) -> Option<u32> {
        self.ended
    }

    /// Returns the predecessors that are waited for and have not ended.
    pub fn awaited(&self) -> impl Iterator<Item = EpochKey> {
        self.waits.iter().filter(|wait| !wait.ended).map(|wait| wait.key)
    }

    fn number(&self) -> u32 {
        self.epoch.map_or(0, |key| key.number)
    }
}

/// Takes what happened at the time `now`, and returns the new state and what to do.
pub fn step(mut state: State, now: Duration, input: Input) -> (State, Vec<Action>) {
    let mut actions = Vec::new();
    match input {
        Input::Answer(answer) => {
            if let Some(call) = state.asked.take() {
                state.answered(now, call, answer);
            }
        }
        Input::Begin { greatest, site, asks } => {
            let ask_after = if asks { state.ask_after } else { FIRST_ASK };
            state = State { asks, ask_after, ..State::new(state.handover) };
            state.create(EpochKey { number: greatest.saturating_add(1), site });
        }
        Input::Look => state.look(now),
        // A snapshot that was copied here has a greater number than any that this epoch could take.
        Input::Decided { newest } if newest > state.number() => {
            state.then = Some(Then::Again(newest));
            state.end();
        }
        Input::Decided { .. } if state.phase == Phase::Deciding => state.ask_about_epoch(Purpose::Recheck),
        Input::Started => {
            state.phase = Phase::Holding;
            let content = Content::By(state.number());
            state.begin(Purpose::Tell, state.own(|key| Call::Create(EpochRecord::Runs, key, content)));
        }
        Input::BeforeCommit => state.begin(Purpose::BeforeCommit, state.own(|key| Call::Read(EpochRecord::End, key))),
        Input::Committed => state.begin(Purpose::AfterCommit, state.own(|key| Call::Read(EpochRecord::End, key))),
        Input::Saved if state.phase != Phase::Over => {
            (state.purpose, state.asked, state.unread) = (None, None, false);
            state.todo.clear();
            state.end();
        }
        Input::Outnumbered { newest } if state.epoch.is_some() && state.phase != Phase::Over => {
            state.then = Some(Then::Outnumbered(newest));
            state.end();
        }
        Input::Watch => (state.phase, state.watched) = (Phase::Over, None),
        Input::Decided { .. } | Input::Saved | Input::Outnumbered { .. } => {}
    }
    while state.asked.is_none() {
        if let Some(call) = state.todo.pop_front() {
            state.asked = Some(call.clone());
            actions.push(Action::Call(call));
        } else if let Some(purpose) = state.purpose.take() {
            state.conclude(now, purpose, &mut actions);
            state.unread = false;
        } else {
            break;
        }
    }
    (state, actions)
}

impl State {
    fn begin(&mut self, purpose: Purpose, calls: impl IntoIterator<Item = Call>) {
        self.purpose = Some(purpose);
        self.todo.extend(calls);
    }

    fn own(&self, call: impl Fn(EpochKey) -> Call) -> Option<Call> {
        self.epoch.map(call)
    }

    fn create(&mut self, key: EpochKey) {
        let content = Content::Epoch { asks: self.asks };
        self.begin(Purpose::Create, [Call::Create(EpochRecord::Epoch, key, content)]);
    }

    /// Asks for the successor and then, last, for the end of the own epoch: what is done next relies on the end.
    fn ask_about_epoch(&mut self, purpose: Purpose) {
        let next = self.next;
        let successor = self.own(|key| Call::Read(EpochRecord::Epoch, EpochKey { number: next, ..key }));
        let end = self.own(|key| Call::Read(EpochRecord::End, key));
        self.begin(purpose, successor.into_iter().chain(end));
    }

    fn end(&mut self) {
        let content = Content::By(self.number());
        self.begin(Purpose::End, self.own(|key| Call::Create(EpochRecord::End, key, content)));
    }

    fn look(&mut self, now: Duration) {
        match self.phase {
            Phase::Awaiting => {
                let alive = self.own(|key| Call::Read(EpochRecord::Alive, key)).filter(|_| self.asks);
                let mut calls: Vec<_> = alive.into_iter().collect();
                for wait in self.waits.iter_mut().filter(|wait| !wait.ended) {
                    wait.is_due = now >= wait.until;
                    calls.extend(wait.is_unread.then_some(Call::Read(EpochRecord::Epoch, wait.key)));
                    calls.push(Call::Read(EpochRecord::End, wait.key));
                    calls.extend((!wait.yields).then_some(Call::Read(EpochRecord::Yields, wait.key)));
                }
                self.begin(Purpose::Round, calls);
                self.ask_about_epoch(Purpose::Round);
            }
            Phase::Deciding | Phase::Holding => self.ask_about_epoch(Purpose::Poll),
            Phase::Yielding => self.begin(Purpose::Poll, self.own(|key| Call::Read(EpochRecord::End, key))),
            Phase::Over => {
                let calls = match &self.watched {
                    None => vec![Call::List],
                    Some(watched) => {
                        let runs = (!watched.runs).then_some(Call::Read(EpochRecord::Runs, watched.key));
                        runs.into_iter().chain([Call::Read(EpochRecord::End, watched.key)]).collect()
                    }
                };
                self.begin(Purpose::Watch, calls);
            }
            Phase::Idle | Phase::Starting => {}
        }
    }

    /// Goes on after a sequence of calls.
    fn conclude(&mut self, now: Duration, purpose: Purpose, actions: &mut Vec<Action>) {
        match purpose {
            Purpose::Create => match self.epoch {
                Some(_) => self.begin(Purpose::List, [Call::List]),
                // One that only asks has lost the number to another one.
                None => {
                    self.phase = Phase::Over;
                    actions.push(Action::Refused);
                }
            },
            Purpose::List => {}
            Purpose::Meet => {
                self.phase = Phase::Awaiting;
                match self.waits.is_empty() {
                    // It looks once more before its app starts.
                    true => self.begin(Purpose::Force, []),
                    false => self.look(now),
                }
            }
            Purpose::Round if self.is_over(actions) => {}
            Purpose::Round if self.then.is_some() => self.end(),
            Purpose::Round if self.successor.is_some() => self.yield_to(actions),
            Purpose::Round => {
                let content = Content::By(self.number());
                let overdue = self.waits.iter().filter(|wait| !wait.ended && wait.is_due);
                let calls: Vec<_> = overdue.map(|wait| Call::Create(EpochRecord::End, wait.key, content)).collect();
                self.waits.iter_mut().for_each(|wait| wait.is_due = false);
                self.begin(Purpose::Force, calls);
            }
            Purpose::Force if self.waits.iter().all(|wait| wait.ended) => {
                self.forced |= self.judged.len() > JUDGED;
                let judged = std::mem::take(&mut self.judged);
                let calls = judged.into_iter().map(|key| Call::Read(EpochRecord::End, key));
                let calls: Vec<_> = calls.filter(|_| !self.forced).collect();
                self.begin(Purpose::Judge, calls);
            }
            Purpose::Judge => {
                self.phase = Phase::Deciding;
                actions.push(Action::Decide { forced: self.forced });
            }
            Purpose::Recheck | Purpose::Poll if self.is_over(actions) => {}
            Purpose::Recheck | Purpose::Poll if self.successor.is_some() && self.phase != Phase::Yielding => {
                self.yield_to(actions);
            }
            Purpose::Recheck if self.unread => {}
            Purpose::Recheck => {
                self.phase = Phase::Starting;
                actions.push(Action::StartApp);
            }
            Purpose::BeforeCommit => {
                if !self.is_over(actions) && !self.unread {
                    actions.push(Action::Commit);
                }
            }
            Purpose::AfterCommit => {
                if !self.is_over(actions) && !self.unread {
                    actions.push(Action::Acknowledged);
                }
            }
            Purpose::End => {
                let end = match self.then.take() {
                    Some(Then::Again(greatest)) => Action::Again { greatest },
                    Some(Then::Refused) => Action::Refused,
                    Some(Then::Outnumbered(by)) => {
                        self.ended = Some(by);
                        Action::Ended { by }
                    }
                    None if self.is_over(actions) => return,
                    None => Action::Over,
                };
                self.phase = Phase::Over;
                actions.push(end);
            }
            Purpose::Watch => self.watch(now, actions),
            Purpose::Poll if !self.untold.is_empty() => {
                let content = Content::By(self.number());
                let calls: Vec<_> =
                    self.untold.iter().map(|(record, key)| Call::Create(*record, *key, content)).collect();
                self.begin(Purpose::Tell, calls);
            }
            Purpose::Force | Purpose::Tell | Purpose::Poll => {}
        }
    }

    /// Whether the epoch was ended by another one, which is told then.
    fn is_over(&mut self, actions: &mut Vec<Action>) -> bool {
        let Some(by) = self.ended else { return false };
        self.phase = Phase::Over;
        actions.push(Action::Ended { by });
        true
    }

    /// Says at once that the app is to be stopped. Only then the successor is told.
    fn yield_to(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Yielding;
        actions.push(Action::Superseded { by: self.successor.unwrap_or(self.next) });
        let content = Content::By(self.number());
        self.begin(Purpose::Tell, self.own(|key| Call::Create(EpochRecord::Yields, key, content)));
    }

    fn watch(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let greatest = self.greatest;
        match &self.watched {
            None if self.unread => {}
            None => actions.push(Action::Return { greatest, asks: None }),
            Some(watched) if watched.ended => {
                self.watched = None;
                self.begin(Purpose::Watch, [Call::List]);
            }
            Some(watched) if now >= watched.until => {
                // Its app may run, and that was not read.
                let asks = (watched.runs || self.unread).then_some(watched.key.site);
                if asks.is_some() {
                    self.ask_after = (self.ask_after * 2).min(LONGEST_ASK);
                }
                self.watched = None;
                actions.push(Action::Return { greatest, asks });
            }
            Some(_) => {}
        }
    }
}
