//! Takes the answers to calls into the state.

use std::time::Duration;

use super::{
    Answer, Call, Content, EpochKey, LONGEST_POLL, Listed, Purpose, SILENCE, START, State, Then, Wait, Watched,
};
use crate::vault::epochs::EpochRecord;

/// How long a predecessor with this poll interval may be silent.
fn silence(poll: Duration) -> Duration {
    2 * poll.min(LONGEST_POLL) + SILENCE
}

impl State {
    pub(super) fn answered(&mut self, now: Duration, call: Call, answer: Answer) {
        match (call, answer) {
            (Call::Create(record, key, content), answer) => self.tried((record, key, content), &answer),
            (call, Answer::Unknown) if self.reads_on(&call) => self.left_unread(now, &call),
            (Call::Read(record, key), answer) if answer != Answer::Unknown => self.read(now, (record, key), &answer),
            (Call::List, Answer::Listed(listed)) => match self.purpose {
                Some(Purpose::Round) => self.listed_ends(&listed),
                Some(Purpose::Watch) if self.watched.is_some() => self.listed_ends(&listed),
                Some(Purpose::Watch) => self.listed_watching(&listed),
                _ => self.listed(&listed),
            },
            (call, _) => self.todo.push_front(call),
        }
    }

    /// Whether an instance goes on without this call if that fails. Otherwise it makes the call until that succeeds.
    pub fn reads_on(&self, call: &Call) -> bool {
        let is_needed = match self.purpose {
            Some(Purpose::Create | Purpose::List | Purpose::Tell | Purpose::End) | None => true,
            Some(
                Purpose::Meet
                | Purpose::Round
                | Purpose::Force
                | Purpose::Judge
                | Purpose::Recheck
                | Purpose::Poll
                | Purpose::BeforeCommit
                | Purpose::AfterCommit
                | Purpose::Watch,
            ) => false,
        };
        matches!(call, Call::Read(..) | Call::List) && !is_needed
    }

    /// Whether this call would tell of a predecessor nothing that cannot be done without: it is given the time of the longest poll.
    pub fn does_without(&self, call: &Call) -> bool {
        let is_older = |key: &EpochKey| key.number < self.number();
        matches!(self.purpose, Some(Purpose::Meet | Purpose::Round))
            && matches!(call, Call::Read(EpochRecord::Epoch, key) if is_older(key))
    }

    /// Goes on without what a call would have told.
    fn left_unread(&mut self, now: Duration, call: &Call) {
        if self.does_without(call) {
            if let (Some(Purpose::Meet), Call::Read(_, key)) = (self.purpose, call) {
                self.meet(*key, now + silence(LONGEST_POLL), true);
            }
            return;
        }
        self.unread = true;
        let Call::Read(record, key) = *call else { return };
        match (self.purpose, record) {
            // It may have answered.
            (Some(Purpose::Round), EpochRecord::Alive) if Some(key) == self.epoch => {
                self.waits.iter_mut().for_each(|wait| wait.is_due = false);
            }
            (_, EpochRecord::Alive) => self.give_way_to(key),
            // It acts on its successor at once: also the next call may fail, and only after a time.
            (Some(Purpose::Round | Purpose::Recheck | Purpose::Poll), EpochRecord::End)
                if self.successor == Some(key.number) =>
            {
                self.todo.clear();
            }
            (Some(Purpose::Round), EpochRecord::End | EpochRecord::Yields) => {
                self.waits.iter_mut().filter(|wait| wait.key == key).for_each(|wait| wait.is_due = false);
                if record == EpochRecord::End && self.waits.iter().any(|wait| wait.key == key) {
                    self.list_ends();
                }
            }
            (Some(Purpose::Judge), _) => self.forced = true,
            // It may be the epoch to watch, rather than one below it. Its other objects tell how it stands.
            (Some(Purpose::Watch), EpochRecord::Epoch) => {
                self.watch_over(now, key);
                self.todo.clear();
            }
            (Some(Purpose::Watch), EpochRecord::End) => self.list_ends(),
            _ => {}
        }
    }

    /// Learns what lies beside an epoch that was just created. An instance that creates a greater or an equal one later finds
    /// this one in its own listing.
    fn listed(&mut self, listed: &[Listed]) {
        let Some(mine) = self.epoch else { return };
        let greatest = listed.iter().map(|other| other.key.number).max().unwrap_or(mine.number);
        if listed.iter().any(|other| other.key.number >= mine.number && other.key != mine) {
            self.then = Some(if self.asks { Then::Refused } else { Then::Again(greatest) });
            return self.end();
        }
        let lower = || listed.iter().filter(|other| other.key.number < mine.number);
        // An epoch whose app was started has settled what came before it.
        let settled = lower().filter(|other| other.runs).map(|other| other.key.number).max().unwrap_or(0);
        self.judged =
            lower().filter(|other| other.ended && other.key.number >= settled).map(|other| other.key).collect();
        let awaited: Vec<_> = lower().filter(|other| !other.ended).map(|other| other.key).collect();
        let looks_at = awaited.iter().map(|key| EpochKey { number: key.number + 1, ..*key });
        self.unlisted = looks_at.filter(|key| listed.iter().all(|other| other.key != *key)).collect();
        self.begin(Purpose::Meet, awaited.into_iter().map(|key| Call::Read(EpochRecord::Epoch, key)));
    }

    fn listed_watching(&mut self, listed: &[Listed]) {
        self.greatest = listed.iter().map(|other| other.key.number).max().unwrap_or(0).max(self.number());
        let others = listed.iter().filter(|other| !other.ended && Some(other.key) != self.epoch);
        let mut others: Vec<_> = others.map(|other| other.key).collect();
        others.sort();
        self.todo.extend(others.into_iter().rev().map(|key| Call::Read(EpochRecord::Epoch, key)));
    }

    /// Lists the epochs, since an end could not be read: that tells whether it is there.
    fn list_ends(&mut self) {
        if !self.todo.contains(&Call::List) {
            // Before the own end, which is asked for last.
            self.todo.push_front(Call::List);
        }
    }

    /// Learns which of those that are waited for or watched have ended. By whom is not known: it may have been by force.
    fn listed_ends(&mut self, listed: &[Listed]) {
        let has_ended = |key: EpochKey| listed.iter().any(|other| other.key == key && other.ended);
        for wait in self.waits.iter_mut().filter(|wait| !wait.ended && has_ended(wait.key)) {
            wait.ended = true;
            self.forced = true;
        }
        self.watched.iter_mut().for_each(|watched| watched.ended |= has_ended(watched.key));
    }

    /// Waits for a predecessor, and puts up a signpost where it looks for its successor.
    fn meet(&mut self, key: EpochKey, until: Duration, is_unread: bool) {
        self.waits.push(Wait { key, until, is_unread, yields: false, ended: false, is_due: false });
        let looks_at = EpochKey { number: key.number.saturating_add(1), ..key };
        if self.unlisted.contains(&looks_at) {
            let signpost = Content::Signpost(self.number());
            self.todo.push_back(Call::Create(EpochRecord::Epoch, looks_at, signpost));
        }
    }

    /// Whether a predecessor is waited for whose epoch was not read.
    fn is_unread(&self, key: EpochKey) -> bool {
        self.waits.iter().any(|wait| wait.key == key && wait.is_unread)
    }

    fn watch_over(&mut self, now: Duration, key: EpochKey) {
        let until = now + self.handover + START;
        self.watched.get_or_insert(Watched { key, runs: false, ended: false, until });
    }

    /// Learns what became of an object that was to be created.
    fn tried(&mut self, (record, key, content): (EpochRecord, EpochKey, Content), answer: &Answer) {
        let is_unknown = *answer == Answer::Unknown;
        match (record, content) {
            (EpochRecord::Epoch, Content::Epoch { .. }) => match answer {
                Answer::Created => self.made(key),
                _ => self.todo.push_front(Call::Read(EpochRecord::Epoch, key)),
            },
            (EpochRecord::End, _) => match answer {
                Answer::Created => self.over(key, self.number()),
                _ => self.todo.push_front(Call::Read(EpochRecord::End, key)),
            },
            // A signpost.
            (EpochRecord::Epoch, _) if is_unknown => self.todo.push_front(Call::Create(record, key, content)),
            (EpochRecord::Alive, _) if is_unknown => self.todo.push_front(Call::Read(EpochRecord::Alive, key)),
            // The others say the same, whoever made them. Nothing that is done depends on them.
            _ if is_unknown && !self.untold.contains(&(record, key)) => {
                self.untold.push((record, key));
                self.todo.push_front(Call::Create(record, key, content));
            }
            _ if is_unknown => {}
            _ => self.untold.retain(|untold| *untold != (record, key)),
        }
    }

    fn made(&mut self, key: EpochKey) {
        self.epoch = Some(key);
        self.next = key.number.saturating_add(1);
    }

    /// Notes that an epoch was ended by the epoch of the number `by`.
    fn over(&mut self, key: EpochKey, by: u32) {
        if Some(key) == self.epoch {
            self.ended = (by != key.number).then_some(by);
        }
        self.forced |= by != key.number && Some(key) != self.epoch;
        self.waits.iter_mut().filter(|wait| wait.key == key).for_each(|wait| wait.ended = true);
        self.watched.iter_mut().filter(|watched| watched.key == key).for_each(|watched| watched.ended = true);
    }

    /// Learns what an object says, or that it does not exist.
    fn read(&mut self, now: Duration, (record, key): (EpochRecord, EpochKey), answer: &Answer) {
        match (self.purpose, record, answer) {
            (Some(Purpose::Create), EpochRecord::Epoch, answer) => match answer {
                Answer::Epoch { mine: true, .. } => self.made(key),
                Answer::Absent => self.create(key),
                _ if self.asks => {}
                _ => self.create(EpochKey { number: key.number.saturating_add(1), ..key }),
            },
            (Some(Purpose::Meet), EpochRecord::Epoch, Answer::Epoch { poll, dead, .. }) => {
                let until = if *dead { now } else { now + silence(*poll) };
                self.meet(key, until, false);
            }
            (Some(Purpose::Round), EpochRecord::Epoch, answer) if self.is_unread(key) => match answer {
                Answer::Epoch { poll, dead, .. } => {
                    let until = if *dead { now } else { now + silence(*poll) };
                    for wait in self.waits.iter_mut().filter(|wait| wait.key == key) {
                        (wait.until, wait.is_unread) = (wait.until.min(until), false);
                    }
                }
                // A signpost is nobody's epoch.
                _ => self.waits.retain(|wait| wait.key != key),
            },
            (Some(Purpose::Watch), EpochRecord::Epoch, Answer::Epoch { .. }) if self.watched.is_none() => {
                self.watch_over(now, key);
            }
            (Some(Purpose::Meet | Purpose::Watch), EpochRecord::Epoch, _) => {}
            (_, EpochRecord::Epoch, Answer::Epoch { asks: true, .. }) => {
                // It is told, and gives way: the next successor shows behind it.
                self.todo.push_front(Call::Create(EpochRecord::Alive, key, Content::By(self.number())));
                self.look_behind(key);
            }
            // One that has ended already has left this epoch alone.
            (_, EpochRecord::Epoch, Answer::Epoch { .. }) => {
                self.successor = Some(key.number);
                self.todo.push_front(Call::Read(EpochRecord::End, key));
            }
            (_, EpochRecord::Epoch, Answer::Signpost(number)) => self.successor = Some(*number),
            (purpose, EpochRecord::End, Answer::End(by)) => {
                self.over(key, *by);
                if self.successor == Some(key.number) && self.next == key.number && purpose != Some(Purpose::Watch) {
                    self.successor = None;
                    self.look_behind(key);
                }
            }
            (Some(Purpose::Force | Purpose::End), EpochRecord::End, Answer::Absent) => {
                self.todo.push_front(Call::Create(EpochRecord::End, key, Content::By(self.number())));
            }
            (_, EpochRecord::Yields, Answer::Present) => {
                for wait in self.waits.iter_mut().filter(|wait| wait.key == key) {
                    (wait.yields, wait.until, wait.is_due) = (true, now + self.handover, false);
                }
            }
            (_, EpochRecord::Alive, Answer::Present) if Some(key) == self.epoch => self.then = Some(Then::Refused),
            (_, EpochRecord::Alive, Answer::Absent) if Some(key) != self.epoch => self.give_way_to(key),
            (_, EpochRecord::Runs, Answer::Present) => {
                for watched in self.watched.iter_mut().filter(|watched| watched.key == key) {
                    (watched.runs, watched.until) = (true, now + self.ask_after);
                }
            }
            _ => {}
        }
    }

    /// Takes an instance that asks, and could not be answered, for the successor: it is going to take this one for dead. It may have ended.
    fn give_way_to(&mut self, key: EpochKey) {
        (self.successor, self.next) = (Some(key.number), key.number);
        let is_behind =
            |call: &Call| matches!(call, Call::Read(EpochRecord::Epoch, other) if other.number > key.number);
        self.todo.retain(|call| !is_behind(call));
        self.todo.push_front(Call::Read(EpochRecord::End, key));
    }

    fn look_behind(&mut self, key: EpochKey) {
        self.next = key.number.saturating_add(1);
        // Before the own end, which is asked for last.
        let at =
            self.todo.iter().position(|call| Some(call) == self.own(|key| Call::Read(EpochRecord::End, key)).as_ref());
        let call = Call::Read(EpochRecord::Epoch, EpochKey { number: self.next, ..key });
        self.todo.insert(at.unwrap_or(self.todo.len()), call);
    }
}
