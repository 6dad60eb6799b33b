//! The rules that the protocol needs: with one of them left out, the search finds what goes wrong. A mutant is made around
//! the protocol's function, which stays as it is: its calls are answered as if the rule did not exist.

use super::model::{Budget, Mutant, NO_ACCIDENT, Refusal, World};
use super::walks::walk;
use crate::epochs::protocol::{Answer, Call, EpochKey, Phase, Purpose};
use crate::vault::epochs::EpochRecord;

impl World {
    /// Returns the answer that a mutant makes up for a call.
    pub(super) fn mutated(&mut self, who: usize, call: &Call) -> Option<Answer> {
        let state = self.state(who);
        let (purpose, own, phase) = (state.purpose, state.epoch(), state.phase());
        let is_own = |key: &EpochKey| own == Some(*key);
        match (self.mutant(), call) {
            (Mutant::OnlyTheHolderEnds, Call::Create(EpochRecord::End, key, _)) if !is_own(key) => {
                Some(Answer::Created)
            }
            (Mutant::OnlyTheHolderEnds, Call::Read(EpochRecord::End, key)) if is_own(key) => Some(Answer::Absent),
            (Mutant::TwoEnds, Call::Create(EpochRecord::End, key, _)) if is_own(key) => Some(Answer::Created),
            (Mutant::OnePredecessor, Call::List) if purpose == Some(Purpose::List) => {
                let mut all = self.listed();
                let newest =
                    all.iter().map(|one| one.key.number).filter(|n| Some(*n) < own.map(|key| key.number)).max();
                all.retain(|one| Some(one.key.number) >= newest);
                Some(Answer::Listed(all))
            }
            (Mutant::NoLastLook, Call::Read(..)) if purpose == Some(Purpose::Recheck) => Some(Answer::Absent),
            (Mutant::ListBeforeCreation, Call::List) if phase == Phase::Idle => {
                Some(Answer::Listed(self.early(who).to_vec()))
            }
            (Mutant::SharedNumber, Call::Create(EpochRecord::Epoch, key, _)) if self.owner_shares(*key) => {
                Some(Answer::Created)
            }
            (Mutant::LooksBehindUnanswered, Call::Read(EpochRecord::Alive, key)) if !is_own(key) => {
                Some(Answer::Present)
            }
            (Mutant::NoLookAfterCommit, Call::Read(..)) if purpose == Some(Purpose::AfterCommit) => {
                Some(Answer::Absent)
            }
            _ => None,
        }
    }
}

/// A seed with which all faults are found soon.
const SEED: u64 = 6;

#[test]
fn each_rule_that_is_left_out_is_found() {
    const TWO_RUN: &str = "run, and no epoch of them is over";
    const LOST: &str = "lacks writes that were acknowledged";
    const LATE: &str = "restored and began to run";
    const DATA: &[&str] = &[LATE, LOST, "started without writes that were acknowledged"];
    const ANY: &[&str] = &[TWO_RUN, DATA[0], DATA[1], DATA[2]];
    const OVER: &str = "its epoch was over when it last asked";
    const NONE_RUNS: &str = "no app ever runs again";
    let stop = Budget { stops: 1, numbers: 4, ..NO_ACCIDENT };
    let import = Budget { imports: 1, numbers: 4, ..NO_ACCIDENT };
    let crash = Budget { crashes: 1, ..NO_ACCIDENT };
    let refusal = Budget { refusals: 1, ..NO_ACCIDENT };
    for (mutant, runs, budget, expected) in [
        (Mutant::LabelsInsteadOfNumbers, true, NO_ACCIDENT, DATA),
        (Mutant::OnlyTheHolderEnds, true, NO_ACCIDENT, ANY),
        (Mutant::TwoEnds, true, NO_ACCIDENT, &[LOST]),
        (Mutant::OnePredecessor, true, stop, ANY),
        (Mutant::NoLastLook, true, NO_ACCIDENT, &[OVER]),
        (Mutant::NoRecommit, true, NO_ACCIDENT, &[LATE]),
        (Mutant::RecommitOfOwnForceOnly, true, stop, &[LATE]),
        (Mutant::ListBeforeCreation, false, import, ANY),
        (Mutant::SharedNumber, false, NO_ACCIDENT, ANY),
        (Mutant::NoLookAfterCommit, true, NO_ACCIDENT, &[LOST]),
        (Mutant::EndBeforeLastSnapshot, true, NO_ACCIDENT, DATA),
        (Mutant::NeverAsks, true, crash, &[NONE_RUNS]),
        (Mutant::TellsUntilHeard, true, refusal, &["runs on for ever"]),
        (Mutant::ReadsUntilAnswered, true, refusal, &["runs on for ever", "never learns that its epoch was ended"]),
        (Mutant::LooksBehindUnanswered, true, refusal, &["asks and is not answered"]),
    ] {
        let start = World::new(budget, runs, [0, 0, 0], mutant);
        // The fault shows when a paused instance commits late.
        let is_late = matches!(mutant, Mutant::NoRecommit | Mutant::RecommitOfOwnForceOnly);
        let start = if is_late { start.about_to_commit() } else { start };
        let walked = walk(&start, 400_000, 120, SEED);
        let Some((why, trace)) = walked.fault else { panic!("{mutant:?}: no fault in {} steps", walked.steps) };
        let told = trace.join("\n  ");
        println!("{mutant:?}: {why}: found in {} steps, shown by {}:\n  {told}", walked.steps, trace.len());
        assert!(expected.iter().any(|expected| why.contains(expected)), "{mutant:?}: {why}\n  {told}");
    }
}

/// Whichever object it is: an instance that reads it until it is answered is blind for all else.
#[test]
fn each_object_that_is_read_until_it_is_answered_is_found() {
    const MUTANT: Mutant = Mutant::ReadsUntilAnswered;
    let records = [EpochRecord::Epoch, EpochRecord::End, EpochRecord::Yields, EpochRecord::Runs, EpochRecord::Alive];
    for what in records.map(Refusal::Reading).into_iter().chain([Refusal::ReadingEndsOfOthers]) {
        let fault = (0..3).find_map(|who| {
            let start = World::new(Budget { crashes: 1, numbers: 4, ..NO_ACCIDENT }, true, [0, 0, 0], MUTANT);
            let fault = walk(&start.refusing(who, what), 2000, 120, SEED).fault?;
            Some(format!("{who}: {}\n  {}", fault.0, fault.1.join("\n  ")))
        });
        let fault = fault.unwrap_or_else(|| panic!("{what:?}: no fault"));
        println!("{what:?}: {fault}");
    }
}
