//! A search through everything that three instances can do to each other: it drives [`step`](super::protocol::step), the
//! function that `run` uses, over a model of a store, with crashes, lost answers and arbitrary pauses between any two
//! calls, and checks after each step that nobody's data is lost. It also shows that the protocol needs its rules: with
//! one of them left out, the same search finds the fault.
//!
//! Time is abstract: an instance may come to any of its deadlines at any moment, since it, or all the others, may have
//! been paused. So what holds here holds for any speed, any clock and any interval.
//!
//! The promises:
//!
//! 1. At most one app runs as *current*: its epoch has not ended. An app whose epoch was ended by force runs on until its
//!    instance has looked the next time, and is stopped before anything else is done then. No app is started whose epoch
//!    was over when its instance asked the store for the last time.
//! 2. An acknowledged write is in the newest snapshot, always, and in the directory of every app that is started. A snapshot
//!    is acknowledged by a look at the own end after its commit, or by the end that its own instance makes.
//! 3. Once the app of an epoch was started, the newest snapshot is of that epoch or a greater one, or is the one that was
//!    restored then. So nothing that a superseded instance commits later is ever the newest.
//! 4. From any state, if one instance lives and no more accidents happen, an app runs in the end. No instance is needed for that which
//!    cannot make one kind of call, as one that may read and not write.
//! 5. And no app runs on in the end whose epoch was ended, whatever kind of call fails for its instance. One that can read its own end
//!    learns of it, whatever else it cannot read.
//! 6. An instance that only asks is answered by the holder that sees it, or that one's app is stopped.

mod model;
mod mutants;
mod walks;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use model::{Budget, Move, Mutant, World};
use walks::walk;

/// The outcome of a search.
struct Found {
    states: usize,
    /// The promise that was broken, and the steps that lead there.
    fault: Option<(String, Vec<String>)>,
    /// Whether every state that can be reached was visited.
    complete: bool,
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Visits the states that can be reached from `start`, the nearest first, until there is a fault or `most` were visited.
/// From every `fair`th state it also lets all instances go on without further accidents, until one runs its app.
fn search(start: &World, most: usize, fair: usize) -> Found {
    let mut seen: HashMap<u64, Option<(u64, Move)>> = HashMap::new();
    let mut queue = VecDeque::from([start.clone()]);
    seen.insert(fingerprint(start), None);
    let mut visited = 0;
    while let Some(world) = queue.pop_front() {
        visited += 1;
        let here = fingerprint(&world);
        if fair > 0
            && visited % fair == 0
            && let Err(why) = world.clone().ends_well()
        {
            return Found { states: seen.len(), fault: Some((why, trace(start, &seen, here, None))), complete: false };
        }
        for step in world.moves() {
            let mut next = world.clone();
            if let Err(why) = next.make(step) {
                let trace = trace(start, &seen, here, Some(step));
                return Found { states: seen.len(), fault: Some((why, trace)), complete: false };
            }
            let there = fingerprint(&next);
            if let Entry::Vacant(new) = seen.entry(there) {
                new.insert(Some((here, step)));
                queue.push_back(next);
            }
        }
        if seen.len() >= most {
            return Found { states: seen.len(), fault: None, complete: false };
        }
    }
    Found { states: seen.len(), fault: None, complete: true }
}

/// Returns what happens on the way to a state, and then `last`.
fn trace(start: &World, seen: &HashMap<u64, Option<(u64, Move)>>, state: u64, last: Option<Move>) -> Vec<String> {
    let mut moves: Vec<Move> = last.into_iter().collect();
    let mut at = state;
    while let Some(Some((before, step))) = seen.get(&at) {
        moves.push(*step);
        at = *before;
    }
    let mut world = start.clone();
    let told = moves.into_iter().rev().map(|step| {
        let told = world.tell(step);
        _ = world.make(step);
        told
    });
    told.collect()
}

/// Checks that neither a search nor walks find a fault.
fn finds_nothing(name: &str, start: &World, least: usize, walks: usize) {
    let found = search(start, least, 40);
    let walked = walk(start, walks, 160, 1);
    let (states, complete) = (found.states, found.complete);
    if let Some((why, trace)) = found.fault.or(walked.fault) {
        panic!("{name}: {why}\n  {}", trace.join("\n  "));
    }
    let all = if complete { ", all there are" } else { "" };
    println!("{name}: {states} states{all}; walks of {} steps", walked.steps);
    assert!(complete || states >= least, "{name}: only {states} states");
}

/// The accidents of the searches, and the greatest number to which epochs are begun.
const BUDGETS: [Budget; 4] = [
    Budget { crashes: 1, lost: 1, stops: 0, imports: 0, refusals: 0, numbers: 3 },
    Budget { crashes: 2, lost: 2, stops: 1, imports: 0, refusals: 0, numbers: 6 },
    Budget { crashes: 0, lost: 0, stops: 2, imports: 0, refusals: 0, numbers: 5 },
    Budget { crashes: 1, lost: 0, stops: 0, imports: 0, refusals: 1, numbers: 4 },
];

fn scenarios(budget: Budget) -> [(&'static str, World); 3] {
    let imports = Budget { imports: 1, ..budget };
    [
        ("one runs and two come", World::new(budget, true, [0, 0, 0], Mutant::None)),
        ("none runs, and a snapshot of a greater epoch appears", World::new(imports, false, [0, 0, 0], Mutant::None)),
        ("they name the vaults in different orders", World::new(budget, true, [0, 0, 1], Mutant::None)),
    ]
}

#[test]
fn three_instances_lose_nothing_in_a_short_search() {
    for (name, start) in BUDGETS.into_iter().flat_map(scenarios) {
        finds_nothing(name, &start, 4000, 500);
    }
}

/// Visits every state that two instances can come to.
fn two_lose_nothing(budget: Budget) {
    let found = search(&World::new(budget, true, [0, 0, 0], Mutant::None).of_two(), usize::MAX, 12);
    println!("two instances: {} states, all there are", found.states);
    assert!(found.complete && found.fault.is_none(), "{:?}", found.fault);
}

#[test]
fn two_instances_are_searched_in_full() {
    two_lose_nothing(Budget { crashes: 1, lost: 0, stops: 0, imports: 0, refusals: 0, numbers: 2 });
    two_lose_nothing(Budget { crashes: 0, lost: 0, stops: 0, imports: 0, refusals: 1, numbers: 2 });
}

/// Visits as many states of each scenario, and takes as many steps of walks, as `LASTGOOD_SOAK` says.
#[test]
#[ignore = "it visits as many states as LASTGOOD_SOAK says"]
fn three_instances_lose_nothing_in_a_long_search() {
    #[expect(clippy::disallowed_methods, reason = "a test asks how much it is to do")]
    let soak = std::env::var("LASTGOOD_SOAK").ok().and_then(|states| states.parse::<usize>().ok());
    let states = soak.filter(|states| *states > 1).unwrap_or(300_000);
    two_lose_nothing(Budget { crashes: 1, lost: 1, stops: 1, imports: 0, refusals: 0, numbers: 3 });
    for (name, start) in BUDGETS.into_iter().flat_map(scenarios) {
        finds_nothing(name, &start, states, states / 20);
    }
}
