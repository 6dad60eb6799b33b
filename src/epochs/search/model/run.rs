//! The part of `run` around the protocol, as far as the model needs it.

use std::time::Duration;

use super::{Mutant, Saving, Task, World};
use crate::epochs::protocol::{Action, Input, Phase, Purpose, State, step};

impl World {
    /// Begins an epoch, if the search goes on to its number.
    pub(super) fn begin(&mut self, who: usize, greatest: u32, asks: Option<usize>) {
        if greatest >= self.left.numbers {
            return self.leave(who);
        }
        let instance = &mut self.instances[who];
        (instance.backed_up, instance.used_force, instance.over_when_asked) = (false, false, false);
        let site = asks.unwrap_or(instance.first);
        instance.early = Vec::new();
        if self.mutant == Mutant::ListBeforeCreation {
            self.instances[who].early = self.listed();
        }
        // It cannot fail: the first thing to do is a call.
        _ = self.give(who, Duration::ZERO, Input::Begin { greatest, site, asks: asks.is_some() });
    }

    /// Stops the app, takes the last snapshot and ends the epoch.
    pub(super) fn stop(&mut self, who: usize) -> Result<(), String> {
        let instance = &mut self.instances[who];
        instance.tasks.clear();
        match instance.state.phase() {
            _ if instance.app => instance.tasks.push_back(Task::Stop),
            Phase::Over | Phase::Idle => self.leave(who),
            _ => self.give(who, Duration::ZERO, Input::Saved)?,
        }
        Ok(())
    }

    pub(super) fn work(&mut self, who: usize) -> Result<(), String> {
        let Some(task) = self.instances[who].tasks.pop_front() else { return Ok(()) };
        let epoch = self.instances[who].state.epoch().map_or(0, |key| key.number);
        let zero = Duration::ZERO;
        match task {
            Task::Restore => {
                let newest = self.newest();
                (self.instances[who].directory, self.instances[who].restored) = (newest.writes, newest.number);
            }
            Task::Recommit => self.save(who),
            Task::Decided => {
                let newest = self.instances[who].restored.0;
                self.give(who, zero, Input::Decided { newest })?;
            }
            Task::Start => {
                let instance = &mut self.instances[who];
                if instance.over_when_asked && self.mutant != Mutant::OnlyTheHolderEnds {
                    return Err("an app was started although its epoch was over when it last asked".to_owned());
                }
                instance.app = true;
                if self.end_of(who).is_none() && self.acknowledged & !self.instances[who].directory != 0 {
                    return Err("an app was started without writes that were acknowledged".to_owned());
                }
                self.instances[who].directory |= 1 << (2 * epoch);
                if self.started.is_none_or(|(started, _)| started < epoch) && self.end_of(who).is_none() {
                    self.started = Some((epoch, self.instances[who].restored));
                }
                self.give(who, zero, Input::Started)?;
            }
            Task::Stop => {
                let instance = &mut self.instances[who];
                // The writes since its last backup.
                instance.directory |= 2 << (2 * epoch);
                instance.app = false;
                if instance.state.phase() == Phase::Over {
                    self.rest(who)?;
                } else if self.mutant == Mutant::EndBeforeLastSnapshot {
                    self.instances[who].saving = Saving::Last;
                    self.give(who, zero, Input::Saved)?;
                } else {
                    instance.saving = Saving::Last;
                    self.give(who, zero, Input::BeforeCommit)?;
                }
            }
            Task::Commit => {
                self.save(who);
                match self.instances[who].saving {
                    Saving::Last if self.mutant == Mutant::EndBeforeLastSnapshot => {
                        self.acknowledged |= self.instances[who].committed;
                        self.rest(who)?;
                    }
                    Saving::Last => self.give(who, zero, Input::Saved)?,
                    _ => self.give(who, zero, Input::Committed)?,
                }
            }
            Task::AskBeforeCommit => self.give(who, zero, Input::BeforeCommit)?,
            Task::AskAfterCommit => self.give(who, zero, Input::Committed)?,
            Task::Begin { greatest, asks } => {
                let greatest = if asks.is_some() { greatest } else { self.greatest().max(greatest) };
                self.begin(who, greatest, asks);
            }
        }
        Ok(())
    }

    /// Goes on after an epoch is over: it leaves, or watches the others.
    fn rest(&mut self, who: usize) -> Result<(), String> {
        let instance = &mut self.instances[who];
        (instance.saving, instance.committed) = (Saving::Nothing, 0);
        if instance.told_to_stop {
            self.leave(who);
            return Ok(());
        }
        self.give(who, Duration::ZERO, Input::Watch)
    }

    /// Gives the protocol an input, and carries out what it says.
    pub(super) fn give(&mut self, who: usize, now: Duration, input: Input) -> Result<(), String> {
        let state = self.instances[who].state.clone();
        let purpose = state.purpose.filter(|_| matches!(input, Input::Answer(_)));
        let (mut state, actions) = step(state, now, input);
        shift(&mut state, now);
        // What could not be read is asked again.
        let again = match purpose.filter(|_| actions.is_empty() && state.asked.is_none()) {
            Some(Purpose::Recheck) => Some(Task::Decided),
            Some(Purpose::BeforeCommit) => Some(Task::AskBeforeCommit),
            Some(Purpose::AfterCommit) => Some(Task::AskAfterCommit),
            _ => None,
        };
        self.instances[who].tasks.extend(again);
        self.instances[who].state = state;
        for action in actions {
            let instance = &mut self.instances[who];
            match action {
                Action::Call(_) => {}
                Action::Decide { forced } => {
                    let forced = match self.mutant {
                        Mutant::NoRecommit => false,
                        Mutant::RecommitOfOwnForceOnly => forced && instance.used_force,
                        _ => forced,
                    };
                    instance.tasks.push_back(Task::Restore);
                    instance.tasks.extend(forced.then_some(Task::Recommit));
                    instance.tasks.push_back(Task::Decided);
                }
                Action::StartApp => instance.tasks.push_back(Task::Start),
                Action::Superseded { .. } => {
                    instance.tasks.clear();
                    match instance.app {
                        true => instance.tasks.push_back(Task::Stop),
                        false => self.give(who, now, Input::Saved)?,
                    }
                }
                Action::Ended { .. } => {
                    instance.tasks.clear();
                    match instance.app {
                        true => instance.tasks.push_back(Task::Stop),
                        false => self.rest(who)?,
                    }
                }
                Action::Commit => instance.tasks.push_back(Task::Commit),
                Action::Acknowledged => self.acknowledged |= instance.committed,
                Action::Over if self.mutant == Mutant::EndBeforeLastSnapshot && instance.saving == Saving::Last => {
                    instance.tasks.push_back(Task::Commit);
                }
                Action::Over => {
                    if instance.saving == Saving::Last {
                        self.acknowledged |= instance.committed;
                    }
                    self.rest(who)?;
                }
                Action::Again { greatest } => instance.tasks.push_back(Task::Begin { greatest, asks: None }),
                Action::Refused => self.rest(who)?,
                Action::Return { asks: Some(_), .. } if self.mutant == Mutant::NeverAsks => {}
                Action::Return { greatest, asks } => instance.tasks.push_back(Task::Begin { greatest, asks }),
            }
        }
        Ok(())
    }
}

/// Sets an instance's clock back to 0, so that equal situations are equal states.
fn shift(state: &mut State, now: Duration) {
    state.waits.iter_mut().for_each(|wait| wait.until = wait.until.saturating_sub(now));
    state.watched.iter_mut().for_each(|watched| watched.until = watched.until.saturating_sub(now));
}
