//! Calls that fail for ever, and what becomes of the instances in the end.

use super::{Budget, Move, Mutant, NO_ACCIDENT, World, deadline};
use crate::epochs::protocol::{Call, Input};
use crate::vault::epochs::EpochRecord;

/// The kind of call that fails for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::epochs::search) enum Refusal {
    /// It may read, and not write.
    AllCreations,
    /// It cannot create this object.
    Creation(EpochRecord),
    /// It cannot read what the others have begun.
    ReadingEpochs,
}

impl Refusal {
    pub(super) const ALL: [Refusal; 6] = [
        Refusal::AllCreations,
        Refusal::Creation(EpochRecord::Yields),
        Refusal::Creation(EpochRecord::Runs),
        Refusal::Creation(EpochRecord::Alive),
        Refusal::Creation(EpochRecord::End),
        Refusal::ReadingEpochs,
    ];

    fn is_of(self, call: &Call) -> bool {
        match (self, call) {
            (Refusal::AllCreations, Call::Create(..)) => true,
            (Refusal::Creation(refused), Call::Create(record, ..)) => refused == *record,
            (Refusal::ReadingEpochs, Call::Read(record, _)) => *record == EpochRecord::Epoch,
            _ => false,
        }
    }
}

impl World {
    /// Whether the outstanding call of an instance fails.
    pub(super) fn fails(&self, who: usize) -> bool {
        let asked = self.instances[who].state.asked.as_ref();
        self.refused.is_some_and(|(refused, what)| refused == who && asked.is_some_and(|call| what.is_of(call)))
    }

    /// Whether it fails, and the instance makes it again and does nothing else.
    pub(super) fn is_stuck(&self, who: usize) -> bool {
        let state = &self.instances[who].state;
        let Some(call) = state.asked.as_ref().filter(|_| self.fails(who)) else { return false };
        match call {
            Call::Create(..) => call.only_tells() && self.mutant == Mutant::TellsUntilHeard,
            Call::Read(..) | Call::List => !state.reads_on(call),
        }
    }

    /// Lets all instances go on at their own pace, without further accidents, until one runs its app and no app runs whose epoch is over.
    ///
    /// # Errors
    /// None ever runs its app, although one lives that was not told to stop and for which no call fails. Or one goes on running the app
    /// of an epoch that was ended.
    pub(in crate::epochs::search) fn ends_well(mut self) -> Result<(), String> {
        self.left = Budget { numbers: 12, ..NO_ACCIDENT };
        let lives = |world: &World| world.instances.iter().any(|one| one.alive && !one.told_to_stop);
        let is_refused = |world: &World, who| world.refused.is_some_and(|(refused, _)| refused == who);
        let over = |world: &World| (0..3).find(|who| world.instances[*who].app && world.end_of(*who).is_some());
        for round in 0..240 {
            if !lives(&self) {
                return Ok(());
            }
            // Living instances have answered each other when time goes on, for all of them.
            let may_wait = |who: &usize| {
                let one = &self.instances[*who];
                one.alive && (one.state.asked.is_none() || !is_refused(&self, *who))
            };
            let time = (0..3).filter(may_wait).filter_map(|who| deadline(&self.instances[who].state)).min();
            let time = time.filter(|_| round % 6 == 5).unwrap_or_default();
            for who in 0..3 {
                let mut made = 0;
                // What fails for ever is tried in vain.
                let most = if is_refused(&self, who) { 40 } else { 200 };
                while let Some(step) = self.next_alone(who).filter(|_| made < most) {
                    self.make(step)?;
                    made += 1;
                }
                let one = &self.instances[who];
                if one.alive && one.state.asked.is_none() && self.may_look(who) {
                    self.give(who, time, Input::Look)?;
                    self.check()?;
                }
            }
            let rests = |who| self.next_alone(who).is_none_or(|step| matches!(step, Move::Answer(_)));
            let able = |who: usize| {
                let one = &self.instances[who];
                one.alive && !one.told_to_stop && !is_refused(&self, who)
            };
            let is_served = self.runs_as_current() || !(0..3).any(able);
            if is_served && (0..3).all(rests) && over(&self).is_none() {
                return Ok(());
            }
        }
        if let Some(who) = over(&self) {
            return Err(format!("the app of {who} runs on for ever, although its epoch was ended"));
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
