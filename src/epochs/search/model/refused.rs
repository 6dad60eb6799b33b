//! Calls that fail for ever, and what becomes of the instances in the end.

use super::{Budget, Document, Move, Mutant, NO_ACCIDENT, Task, World, deadline};
use crate::epochs::protocol::{Call, EpochKey, Input, Phase};
use crate::vault::epochs::EpochRecord;

/// The kind of call that fails for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::epochs::search) enum Refusal {
    /// It may read, and not write.
    AllCreations,
    /// It cannot create this object.
    Creation(EpochRecord),
    /// It cannot read this object, of whichever epoch.
    Reading(EpochRecord),
    /// It cannot read the ends of other epochs than its own.
    ReadingEndsOfOthers,
    /// It cannot read the epoch of this number.
    ReadingOne(u32),
    /// It cannot list the epochs.
    Listing,
}

impl Refusal {
    pub(super) const ALL: [Refusal; 14] = [
        Refusal::AllCreations,
        Refusal::Creation(EpochRecord::Yields),
        Refusal::Creation(EpochRecord::Runs),
        Refusal::Creation(EpochRecord::Alive),
        Refusal::Creation(EpochRecord::End),
        Refusal::Reading(EpochRecord::Epoch),
        Refusal::Reading(EpochRecord::End),
        Refusal::Reading(EpochRecord::Yields),
        Refusal::Reading(EpochRecord::Runs),
        Refusal::Reading(EpochRecord::Alive),
        Refusal::ReadingEndsOfOthers,
        Refusal::ReadingOne(1),
        Refusal::ReadingOne(2),
        Refusal::Listing,
    ];

    fn is_of(self, call: &Call, own: Option<EpochKey>) -> bool {
        match (self, call) {
            (Refusal::AllCreations, Call::Create(..)) | (Refusal::Listing, Call::List) => true,
            (Refusal::Creation(refused), Call::Create(record, ..))
            | (Refusal::Reading(refused), Call::Read(record, _)) => refused == *record,
            (Refusal::ReadingEndsOfOthers, Call::Read(EpochRecord::End, key)) => own != Some(*key),
            (Refusal::ReadingOne(number), Call::Read(EpochRecord::Epoch, key)) => number == key.number,
            _ => false,
        }
    }

    /// Whether an instance with this refusal can read whether its epoch was ended, and creates whatever it wants.
    fn leaves_own_end(self) -> bool {
        !matches!(self, Refusal::AllCreations | Refusal::Creation(_) | Refusal::Reading(EpochRecord::End))
    }
}

impl World {
    /// Returns the same world, in which one kind of call fails for an instance.
    pub(in crate::epochs::search) fn refusing(mut self, who: usize, what: Refusal) -> Self {
        self.refused = Some((who, what));
        self
    }

    /// Whether the outstanding call of an instance fails.
    pub(super) fn fails(&self, who: usize) -> bool {
        let state = &self.instances[who].state;
        let is_of = |what: Refusal| state.asked.as_ref().is_some_and(|call| what.is_of(call, state.epoch()));
        self.refusal_of(who).is_some_and(is_of)
    }

    fn refusal_of(&self, who: usize) -> Option<Refusal> {
        self.refused.filter(|(refused, _)| *refused == who).map(|(_, what)| what)
    }

    /// Whether `run` asks what it has asked already, and in vain.
    fn asks_in_vain(&self, who: usize) -> bool {
        let task = self.instances[who].tasks.front();
        self.refusal_of(who).is_some()
            && matches!(task, Some(Task::Decided | Task::AskBeforeCommit | Task::AskAfterCommit))
    }

    /// Whether an instance goes on in an epoch that was ended, as it could know.
    fn misses_its_end(&self, who: usize) -> bool {
        let phase = self.instances[who].state.phase();
        matches!(phase, Phase::Awaiting | Phase::Deciding | Phase::Holding | Phase::Yielding)
            && self.end_of(who).is_some()
            && self.refusal_of(who).is_none_or(Refusal::leaves_own_end)
    }

    /// Whether it fails, and the instance makes it again and does nothing else.
    pub(super) fn is_stuck(&self, who: usize) -> bool {
        let state = &self.instances[who].state;
        let Some(call) = state.asked.as_ref().filter(|_| self.fails(who)) else { return false };
        match call {
            Call::Create(..) => call.only_tells() && self.mutant == Mutant::TellsUntilHeard,
            Call::Read(..) | Call::List => !state.reads_on(call) || self.mutant == Mutant::ReadsUntilAnswered,
        }
    }

    /// Returns the epoch of an instance that only asks, that a holder has seen and has not answered.
    pub(super) fn unanswered(&self, who: usize) -> Option<u32> {
        let one = &self.instances[who];
        let key = one.state.epoch()?;
        let rests = one.state.phase() == Phase::Holding && one.state.asked.is_none();
        let asks = |number: &u32| {
            let objects = self.sites[key.site].get(*number as usize);
            objects.is_some_and(|objects| {
                matches!(objects.epoch, Some(Document::Epoch { asks: true, .. }))
                    && !objects.alive
                    && objects.end.is_none()
            })
        };
        (key.number + 1..one.state.next).filter(|_| rests).find(asks)
    }

    /// Lets all instances go on at their own pace, without further accidents, until one runs its app and no app runs whose epoch is over.
    ///
    /// # Errors
    /// None ever runs its app, although one lives that was not told to stop and for which no call fails that it needs. Or one goes on
    /// running the app of an epoch that was ended, or never learns that its epoch was.
    pub(in crate::epochs::search) fn ends_well(mut self) -> Result<(), String> {
        self.left = Budget { numbers: 12, ..NO_ACCIDENT };
        let lives = |world: &World| world.instances.iter().any(|one| one.alive && !one.told_to_stop);
        let is_refused = |world: &World, who| world.refusal_of(who).is_some();
        let over = |world: &World| (0..3).find(|who| world.instances[*who].app && world.end_of(*who).is_some());
        for round in 0..240 {
            if !lives(&self) {
                return Ok(());
            }
            // Living instances have answered each other when time goes on, for all of them.
            let may_wait = |who: &usize| self.instances[*who].alive && !self.is_stuck(*who);
            let time = (0..3).filter(may_wait).filter_map(|who| deadline(&self.instances[who].state)).min();
            let time = time.filter(|_| round % 6 == 5).unwrap_or_default();
            for who in 0..3 {
                let mut made = 0;
                // What fails for ever is tried in vain.
                let most = if is_refused(&self, who) { 40 } else { 200 };
                let mut asked_again = false;
                while let Some(step) = self.next_alone(who).filter(|_| made < most) {
                    if matches!(step, Move::Task(_))
                        && self.asks_in_vain(who)
                        && std::mem::replace(&mut asked_again, true)
                    {
                        break;
                    }
                    self.make(step)?;
                    made += 1;
                }
                let one = &self.instances[who];
                if one.alive && one.state.asked.is_none() && self.may_look(who) {
                    self.give(who, time, Input::Look)?;
                    self.check()?;
                }
            }
            let rests =
                |who| self.next_alone(who).is_none_or(|step| matches!(step, Move::Answer(_)) || self.asks_in_vain(who));
            let able = |who: usize| {
                let one = &self.instances[who];
                // That the app of another one runs only spares a question.
                let needs_it = |what| what != Refusal::Reading(EpochRecord::Runs);
                one.alive && !one.told_to_stop && !self.refusal_of(who).is_some_and(needs_it)
            };
            let is_served = self.runs_as_current() || !(0..3).any(able);
            let none_is_over = over(&self).is_none() && !(0..3).any(|who| self.misses_its_end(who));
            if is_served && (0..3).all(rests) && none_is_over {
                return Ok(());
            }
        }
        if let Some(who) = over(&self) {
            return Err(format!("the app of {who} runs on for ever, although its epoch was ended"));
        }
        if let Some(who) = (0..3).find(|who| self.misses_its_end(*who)) {
            return Err(format!("instance {who} never learns that its epoch was ended"));
        }
        Err("no app ever runs again, although an instance lives".to_owned())
    }

    fn next_alone(&self, who: usize) -> Option<Move> {
        let instance = &self.instances[who];
        match () {
            () if !instance.alive => None,
            () if !instance.begun => Some(Move::Begin(who)),
            () if instance.state.asked.is_some() => (!self.is_stuck(who)).then_some(Move::Answer(who)),
            () => instance.tasks.front().map(|_| Move::Task(who)),
        }
    }
}
