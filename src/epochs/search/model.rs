//! The model that the search walks through: a store, and instances each of which is a [`State`] of the protocol and the
//! least of what `run` does around it.

mod refused;
mod run;
mod store;

use std::collections::VecDeque;
use std::time::Duration;

use crate::epochs::protocol::{Answer, Call, EpochKey, Input, Listed, Phase, State};
pub(super) use refused::Refusal;

/// The number of vaults.
const SITES: usize = 2;
/// All instances poll at this interval.
const POLL: Duration = Duration::from_secs(5);

/// The accidents of a search, and how often they may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Instances that die.
    pub(super) crashes: u8,
    /// Creations whose answer is lost, whether they took place or not.
    pub(super) lost: u8,
    /// Instances that are told to stop.
    pub(super) stops: u8,
    /// Snapshots of a greater epoch that are copied into the vault before any instance restores.
    pub(super) imports: u8,
    /// Instances for which one kind of call fails from then on.
    pub(super) refusals: u8,
    /// The greatest number up to which instances begin epochs.
    pub(super) numbers: u32,
}

/// No accident happens, and epochs are begun up to the number 3.
pub(super) const NO_ACCIDENT: Budget = Budget { crashes: 0, lost: 0, stops: 0, imports: 0, refusals: 0, numbers: 3 };

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mutant {
    /// None is.
    None,
    /// Snapshots are ordered by the time at which they were committed, whatever epoch they are labelled with.
    LabelsInsteadOfNumbers,
    /// Only the holder ends its epoch: a successor that has waited long enough goes on without.
    OnlyTheHolderEnds,
    /// Holder and successor each have an end of their own: the holder takes the successor's for nothing.
    TwoEnds,
    /// Only the newest predecessor is waited for.
    OnePredecessor,
    /// Nothing is looked at between the restore and the start of the app.
    NoLastLook,
    /// The restored snapshot is not committed anew after an end by force.
    NoRecommit,
    /// It is committed anew only by the epoch that used force itself.
    RecommitOfOwnForceOnly,
    /// The epochs are listed before the own one is created, and not again.
    ListBeforeCreation,
    /// A number that is taken is shared.
    SharedNumber,
    /// A snapshot counts although nothing was looked at after its commit.
    NoLookAfterCommit,
    /// The last snapshot is committed after the end.
    EndBeforeLastSnapshot,
    /// A waiting instance never asks whether the one that runs lives.
    NeverAsks,
    /// What only tells others something is created before anything else is done, however often that takes.
    TellsUntilHeard,
    /// A read that fails is made until it succeeds, before anything else is done.
    ReadsUntilAnswered,
    /// A holder looks behind an instance that asks, also if it cannot answer.
    LooksBehindUnanswered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Document {
    Epoch { owner: usize, asks: bool },
    Signpost(u32),
}

/// The objects of one number in one vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Objects {
    epoch: Option<Document>,
    yields: bool,
    end: Option<u32>,
    runs: bool,
    alive: bool,
}

/// A snapshot: its number (epoch and turn), the writes that it holds, and its place in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Snapshot {
    number: (u32, u32),
    writes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Task {
    Restore,
    Recommit,
    Decided,
    Start,
    Stop,
    Commit,
    /// Asks again about a commit: the store has not answered.
    AskBeforeCommit,
    AskAfterCommit,
    Begin {
        greatest: u32,
        asks: Option<usize>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Saving {
    Nothing,
    Backup,
    Last,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Instance {
    state: State,
    alive: bool,
    /// Whether it was started.
    begun: bool,
    /// The first vault of its list.
    first: usize,
    tasks: VecDeque<Task>,
    app: bool,
    /// The writes in its directory.
    directory: u32,
    /// The snapshot that it restored.
    restored: (u32, u32),
    saving: Saving,
    backed_up: bool,
    /// The writes of its last snapshot.
    committed: u32,
    told_to_stop: bool,
    /// Whether its epoch had been ended by another one when it last asked the store for anything.
    over_when_asked: bool,
    /// Whether it ended an epoch by force.
    used_force: bool,
    /// The listing of the mutant that lists too early.
    early: Vec<Listed>,
}

/// A step of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// An instance is started.
    Begin(usize),
    /// The store answers the outstanding call.
    Answer(usize),
    /// The store answers with an error, after it has done what was asked, or not.
    Lose(usize, bool),
    /// `run` does what is next.
    Task(usize),
    /// The instance looks at the store, after a time in which no deadline passes or all up to its first one do.
    Look(usize, bool),
    /// A backup of the running app begins.
    BackUp(usize),
    /// It is told to stop.
    Stop(usize),
    /// It dies, and its app with it.
    Crash(usize),
    /// One kind of its calls fails from now on, for ever.
    Refuse(usize, Refusal),
    /// A snapshot of a greater epoch appears.
    Import,
}

impl Move {
    /// Returns the instance that takes the step.
    pub(super) fn who(self) -> Option<usize> {
        match self {
            Move::Begin(who)
            | Move::Answer(who)
            | Move::Lose(who, _)
            | Move::Task(who)
            | Move::Look(who, _)
            | Move::BackUp(who)
            | Move::Stop(who)
            | Move::Crash(who)
            | Move::Refuse(who, _) => Some(who),
            Move::Import => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    sites: [Vec<Objects>; SITES],
    /// The newest snapshot of each epoch, and the one that was committed last.
    snapshots: Vec<Option<Snapshot>>,
    last: Snapshot,
    instances: [Instance; 3],
    /// The writes that were acknowledged.
    acknowledged: u32,
    /// The greatest epoch whose app was started, and what it had restored.
    started: Option<(u32, (u32, u32))>,
    /// The instance for which one kind of call fails.
    refused: Option<(usize, Refusal)>,
    left: Budget,
    mutant: Mutant,
}

impl World {
    /// Returns a world in which the first instance runs in epoch 1, or in which none does; `first` is the first vault of
    /// each one's list.
    pub(super) fn new(left: Budget, runs: bool, first: [usize; 3], mutant: Mutant) -> Self {
        let initial = Snapshot { number: (0, 1), writes: 1 };
        let instance = |first| Instance {
            state: State::new(Duration::from_secs(90)),
            alive: true,
            begun: false,
            first,
            tasks: VecDeque::new(),
            app: false,
            directory: 0,
            restored: (0, 0),
            saving: Saving::Nothing,
            backed_up: false,
            committed: 0,
            told_to_stop: false,
            over_when_asked: false,
            used_force: false,
            early: Vec::new(),
        };
        let mut world = World {
            sites: [const { Vec::new() }; SITES],
            snapshots: vec![Some(initial)],
            last: initial,
            instances: first.map(instance),
            acknowledged: 1,
            started: None,
            refused: None,
            left,
            mutant,
        };
        if runs {
            // Alone, and without accidents, everything succeeds.
            world.make(Move::Begin(0)).unwrap();
            while !world.runs_as_current() {
                let step = if world.instances[0].state.asked.is_some() { Move::Answer(0) } else { Move::Task(0) };
                world.make(step).unwrap();
            }
            while world.instances[0].state.asked.is_some() {
                world.make(Move::Answer(0)).unwrap();
            }
        }
        world
    }

    /// Returns the same world without its third instance.
    pub(super) fn of_two(mut self) -> Self {
        self.leave(2);
        self
    }

    /// Returns the same world once its first instance is about to commit a snapshot.
    pub(super) fn about_to_commit(mut self) -> Self {
        self.make(Move::BackUp(0)).unwrap();
        self.make(Move::Answer(0)).unwrap();
        self
    }

    fn at(&mut self, key: EpochKey) -> &mut Objects {
        let objects = &mut self.sites[key.site];
        let number = key.number as usize;
        if objects.len() <= number {
            objects.resize(number + 1, Objects::default());
        }
        &mut objects[number]
    }

    fn newest(&self) -> Snapshot {
        match self.mutant {
            Mutant::LabelsInsteadOfNumbers => self.last,
            _ => self.snapshots.iter().flatten().next_back().copied().unwrap_or(self.last),
        }
    }

    /// The greatest number of an epoch or a snapshot.
    fn greatest(&self) -> u32 {
        let of_site = |site: &Vec<Objects>| site.iter().rposition(|objects| objects.epoch.is_some()).unwrap_or(0);
        let epochs = self.sites.iter().map(of_site).max().unwrap_or(0);
        epochs.max(self.snapshots.len() - 1) as u32
    }

    fn end_of(&self, who: usize) -> Option<u32> {
        let key = self.instances[who].state.epoch()?;
        self.sites[key.site].get(key.number as usize)?.end.filter(|by| *by != key.number)
    }

    /// Whether the app of an instance runs, and its epoch has not ended.
    fn is_current(&self, who: usize) -> bool {
        self.instances[who].app && self.end_of(who).is_none()
    }

    fn runs_as_current(&self) -> bool {
        (0..3).any(|who| self.is_current(who))
    }

    /// Returns the steps that are possible.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (who, instance) in self.instances.iter().enumerate().filter(|(_, instance)| instance.alive) {
            if !instance.begun {
                // Instances that have not been started are alike.
                if who == 0 || self.instances[who - 1].begun {
                    moves.push(Move::Begin(who));
                }
                continue;
            }
            match &instance.state.asked {
                Some(call) => {
                    moves.extend((!self.is_stuck(who)).then_some(Move::Answer(who)));
                    if self.left.lost > 0 && matches!(call, Call::Create(..)) {
                        moves.extend([Move::Lose(who, true), Move::Lose(who, false)]);
                    }
                    if self.left.lost > 0 && instance.state.reads_on(call) {
                        moves.push(Move::Lose(who, false));
                    }
                }
                None => {
                    let task = instance.tasks.front();
                    moves.extend(task.map(|_| Move::Task(who)));
                    if self.left.lost > 0 && matches!(task, Some(Task::Commit | Task::Recommit)) {
                        moves.push(Move::Lose(who, true));
                    }
                    let is_long = matches!(task, Some(Task::Restore | Task::Recommit | Task::Commit));
                    let asks = matches!(task, Some(Task::AskBeforeCommit | Task::AskAfterCommit));
                    if (task.is_none() || is_long || asks) && self.may_look(who) {
                        moves.push(Move::Look(who, false));
                        moves.extend(
                            (task.is_none() && deadline(&instance.state).is_some()).then_some(Move::Look(who, true)),
                        );
                    }
                    if task.is_none() && instance.app && !instance.backed_up {
                        moves.push(Move::BackUp(who));
                    }
                    let interruptible = matches!(task, None | Some(Task::Restore | Task::Recommit));
                    if self.left.stops > 0 && !instance.told_to_stop && interruptible {
                        moves.push(Move::Stop(who));
                    }
                }
            }
            if self.left.crashes > 0 {
                moves.push(Move::Crash(who));
            }
            if self.left.refusals > 0 {
                moves.extend(Refusal::ALL.map(|what| Move::Refuse(who, what)));
            }
        }
        if self.left.imports > 0 && self.instances.iter().all(|one| one.restored == (0, 0)) {
            moves.push(Move::Import);
        }
        moves
    }

    fn may_look(&self, who: usize) -> bool {
        !matches!(self.instances[who].state.phase(), Phase::Idle | Phase::Starting)
    }

    /// Takes a step.
    ///
    /// # Errors
    /// It breaks a promise.
    pub(super) fn make(&mut self, step: Move) -> Result<(), String> {
        let zero = Duration::ZERO;
        match step {
            Move::Begin(who) => {
                self.instances[who].begun = true;
                self.begin(who, self.greatest(), None);
            }
            Move::Answer(who) => {
                let answer = if self.fails(who) { Answer::Unknown } else { self.ask(who) };
                self.give(who, zero, Input::Answer(answer))?;
            }
            Move::Lose(who, done) => {
                self.left.lost -= 1;
                if self.instances[who].state.asked.is_none() {
                    // A root was committed, and nobody knows: it is committed once more.
                    self.save(who);
                } else {
                    if done {
                        self.ask(who);
                    }
                    self.give(who, zero, Input::Answer(Answer::Unknown))?;
                }
            }
            Move::Task(who) => self.work(who)?,
            Move::Look(who, late) => {
                let now = if late { deadline(&self.instances[who].state).unwrap_or(zero) } else { zero };
                self.give(who, now, Input::Look)?;
            }
            Move::BackUp(who) => {
                (self.instances[who].backed_up, self.instances[who].saving) = (true, Saving::Backup);
                self.give(who, zero, Input::BeforeCommit)?;
            }
            Move::Stop(who) => {
                self.left.stops -= 1;
                self.instances[who].told_to_stop = true;
                self.stop(who)?;
            }
            Move::Crash(who) => {
                self.left.crashes -= 1;
                self.leave(who);
            }
            Move::Refuse(who, what) => {
                self.left.refusals -= 1;
                self.refused = Some((who, what));
            }
            Move::Import => {
                self.left.imports -= 1;
                let number = (self.greatest() + 2, 1);
                self.commit(Snapshot { number, writes: self.newest().writes });
            }
        }
        self.check()
    }

    fn leave(&mut self, who: usize) {
        let instance = &mut self.instances[who];
        (instance.alive, instance.app) = (false, false);
        // Its knowledge does not matter any more.
        (instance.state, instance.early) = (State::new(Duration::ZERO), Vec::new());
        instance.tasks.clear();
    }

    /// Checks what must hold at all times.
    fn check(&self) -> Result<(), String> {
        let current: Vec<_> = (0..3).filter(|who| self.is_current(*who)).collect();
        if current.len() > 1 {
            return Err(format!("the apps of {current:?} run, and no epoch of them is over"));
        }
        for (who, one) in self.instances.iter().enumerate().filter(|(_, one)| one.app) {
            if one.state.phase() == Phase::Over && one.tasks.front() != Some(&Task::Stop) {
                return Err(format!("the app of {who} runs on, although its instance knows that its epoch is over"));
            }
            if let Some(number) = self.unanswered(who) {
                return Err(format!(
                    "the app of {who} runs on, and the instance of epoch {number} asks and is not answered"
                ));
            }
        }
        let newest = self.newest();
        if self.acknowledged & !newest.writes != 0 {
            return Err("the newest snapshot lacks writes that were acknowledged".to_owned());
        }
        if let Some((epoch, restored)) = self.started
            && newest.number.0 < epoch
            && newest.number != restored
        {
            let what = format!("{} of epoch {}", newest.number.1, newest.number.0);
            return Err(format!("the newest snapshot is {what}, taken after epoch {epoch} restored and began to run"));
        }
        Ok(())
    }

    /// Says what a step is, in the world in which it is taken.
    pub(super) fn tell(&self, step: Move) -> String {
        let Some(who) = step.who() else { return format!("{step:?}") };
        let instance = &self.instances[who];
        let (asked, task) = (&instance.state.asked, instance.tasks.front());
        let number = instance.state.epoch().map_or(0, |key| key.number);
        format!("{who} in epoch {number}: {step:?} {:?}", (asked.as_ref().filter(|_| task.is_none()), task))
    }

    pub(super) fn mutant(&self) -> Mutant {
        self.mutant
    }

    pub(super) fn early(&self, who: usize) -> &[Listed] {
        &self.instances[who].early
    }

    pub(super) fn state(&self, who: usize) -> &State {
        &self.instances[who].state
    }

    pub(super) fn owner_shares(&mut self, key: EpochKey) -> bool {
        self.at(key).epoch.is_some()
    }
}

/// The first deadline that is still to come.
fn deadline(state: &State) -> Option<Duration> {
    let waits = state.waits.iter().filter(|wait| !wait.ended).map(|wait| wait.until);
    waits.chain(state.watched.iter().map(|watched| watched.until)).filter(|until| *until > Duration::ZERO).min()
}
