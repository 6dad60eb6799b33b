//! Random walks, which go deeper than a search that takes all states in turn.

use super::model::{Move, World};

/// The outcome of a number of walks.
pub(super) struct Walked {
    /// All steps that were taken.
    pub(super) steps: usize,
    /// The promise that was broken, and the steps that lead there.
    pub(super) fault: Option<(String, Vec<String>)>,
}

/// A generator of random numbers (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Takes `walks` walks of at most `length` random steps each. After each, all instances go on until one runs its app. The
/// steps that lead to a fault are as few as leaving out single ones makes them.
pub(super) fn walk(start: &World, walks: usize, length: usize, seed: u64) -> Walked {
    let mut random = Random(seed);
    let mut steps = 0;
    for _ in 0..walks {
        let mut world = start.clone();
        let mut taken = Vec::new();
        let mut fault = None;
        // An instance that is paused, and for how many steps.
        let mut paused = (0, 0);
        for _ in 0..random.below(length) {
            paused = match paused {
                (_, 0) if random.below(16) == 0 => (random.below(3), random.below(60)),
                (who, left) => (who, usize::saturating_sub(left, 1)),
            };
            let awake = |who| paused.1 == 0 || who != Some(paused.0);
            let Some(step) = choose(&world, &mut random, taken.last(), awake) else { break };
            taken.push(step);
            steps += 1;
            if let Err(why) = world.make(step) {
                fault = Some(why);
                break;
            }
        }
        fault = fault.or_else(|| world.ends_well().err());
        if let Some(why) = fault {
            let taken = shorten(start, taken, &why);
            return Walked { steps, fault: Some((why, told(start, &taken))) };
        }
    }
    Walked { steps, fault: None }
}

/// Chooses the next step. An instance often goes on for a while before another one does.
fn choose(
    world: &World,
    random: &mut Random,
    last: Option<&Move>,
    awake: impl Fn(Option<usize>) -> bool,
) -> Option<Move> {
    let mut moves = world.moves();
    moves.retain(|step| awake(step.who()));
    let goes_on = |step: &&Move| {
        matches!(step, Move::Answer(_) | Move::Task(_)) && last.is_some_and(|last| last.who() == step.who())
    };
    match moves.iter().find(goes_on) {
        Some(step) if random.below(8) > 0 => Some(*step),
        _ => (!moves.is_empty()).then(|| moves[random.below(moves.len())]),
    }
}

/// Replays the steps that are possible, and returns what goes wrong.
fn replay(start: &World, steps: &[Move]) -> Option<String> {
    let mut world = start.clone();
    for step in steps {
        if !world.moves().contains(step) {
            return None;
        }
        if let Err(why) = world.make(*step) {
            return Some(why);
        }
    }
    world.ends_well().err()
}

fn shorten(start: &World, mut steps: Vec<Move>, why: &str) -> Vec<Move> {
    for size in [8, 4, 2, 1, 1] {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match replay(start, &fewer) {
                Some(same) if same == why => steps = fewer,
                _ => at += 1,
            }
        }
    }
    steps
}

fn told(start: &World, steps: &[Move]) -> Vec<String> {
    let mut world = start.clone();
    let told = steps.iter().map(|step| {
        let told = world.tell(*step);
        _ = world.make(*step);
        told
    });
    told.collect()
}
