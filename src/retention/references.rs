//! Which packs only snapshots reach that are let go.
//!
//! Neighbours name almost the same packs, so that what is kept of each pack and list frame is the runs of snapshots that name it: memory
//! grows with packs and with changes, and not with snapshots times packs.

use std::collections::{HashMap, HashSet};

use super::snapshot::Snapshot;
use super::stop::StoredBytes;
use crate::vault::frame::FrameRef;
use crate::vault::hex::PackId;
use crate::vault::pack::PackKind;

/// What a pack is told by.
pub type PackKey = (PackKind, PackId);

/// Snapshots in a row, of one service and data path.
#[derive(Debug, Clone, Copy)]
struct Run {
    line: u32,
    first: u32,
    last: u32,
}

/// The snapshots that name something.
#[derive(Debug, Clone, Default)]
struct NamedBy(Vec<Run>);

impl NamedBy {
    fn add(&mut self, (line, at): (u32, u32)) {
        match self.0.iter_mut().rev().find(|run| run.line == line) {
            Some(run) if run.last == at || run.last + 1 == at => run.last = at,
            _ => self.0.push(Run { line, first: at, last: at }),
        }
    }

    /// Whether one of them is kept. `kept` holds for each line how many of its first snapshots are kept.
    fn any(&self, kept: &[Vec<u32>]) -> bool {
        self.0.iter().any(|run| {
            let before = |at: u32| kept.get(run.line as usize).and_then(|line| line.get(at as usize)).copied();
            before(run.last + 1) > before(run.first)
        })
    }
}

/// The packs of a vault, and which snapshots name each.
#[derive(Debug, Default)]
pub struct References {
    /// The size in bytes that the store lists of each pack.
    sizes: HashMap<PackKey, u64>,
    lines: HashMap<(Option<String>, String), u32>,
    lengths: Vec<u32>,
    /// The line of each snapshot, and its place in it.
    places: Vec<(u32, u32)>,
    packs: HashMap<PackKey, NamedBy>,
    frames: HashMap<FrameRef, NamedBy>,
    /// The packs that each list frame names.
    content: HashMap<FrameRef, Vec<PackKey>>,
}

impl References {
    /// Creates it with the packs that are in the vault, and their sizes in bytes.
    pub fn new(sizes: HashMap<PackKey, u64>) -> Self {
        References { sizes, ..References::default() }
    }

    /// Adds the next snapshot, with the packs and the list frames of packs that its root names itself.
    pub fn add(&mut self, snapshot: &Snapshot, packs: impl Iterator<Item = PackKey>, frames: &[FrameRef]) {
        let of = (snapshot.service.clone(), snapshot.data.clone());
        let new = self.lengths.len() as u32;
        let line = *self.lines.entry(of).or_insert(new);
        if line == new {
            self.lengths.push(0);
        }
        let length = self.lengths.get_mut(line as usize);
        let at = length.map_or(0, |length| std::mem::replace(length, *length + 1));
        self.places.push((line, at));
        packs.for_each(|pack| self.packs.entry(pack).or_default().add((line, at)));
        frames.iter().for_each(|frame| self.frames.entry(*frame).or_default().add((line, at)));
    }

    /// Adds the packs that a list frame names.
    pub fn add_frame(&mut self, frame: FrameRef, packs: Vec<PackKey>) {
        self.content.insert(frame, packs);
    }

    /// Returns the bytes of all packs, and of those that only snapshots name which are not kept. `kept` says of each snapshot, in the order
    /// in which they were added, whether it is. Packs that no snapshot names are not among those that are freed.
    pub fn stored_bytes(&self, kept: impl Iterator<Item = bool>) -> StoredBytes {
        let mut before: Vec<Vec<u32>> = self.lengths.iter().map(|length| vec![0; *length as usize + 1]).collect();
        for ((line, at), kept) in self.places.iter().zip(kept) {
            if let Some(count) = before.get_mut(*line as usize).and_then(|line| line.get_mut(*at as usize + 1)) {
                *count = u32::from(kept);
            }
        }
        for line in &mut before {
            let mut sum = 0;
            for count in line {
                sum += *count;
                *count = sum;
            }
        }
        let (mut stay, mut go) = (HashSet::new(), HashSet::new());
        for (pack, named) in &self.packs {
            _ = if named.any(&before) { stay.insert(*pack) } else { go.insert(*pack) };
        }
        for (frame, named) in &self.frames {
            let packs = self.content.get(frame).into_iter().flatten();
            if named.any(&before) { stay.extend(packs) } else { go.extend(packs) }
        }
        let freed = go.difference(&stay).filter_map(|pack| self.sizes.get(pack)).sum();
        StoredBytes { all: self.sizes.values().sum(), freed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::tests::table::{now, snapshot};
    use crate::vault::hex::Hex;

    #[test]
    fn packs_that_only_let_go_snapshots_name_are_freed() {
        let pack = |n: u8| (PackKind::Data, Hex([n; 16]));
        let frame = |n: u8| FrameRef { pack: Hex([n; 16]), offset: 0, length: 1, hash: Hex([n; 16]) };
        let mut all = References::new((0..8).map(|n| (pack(n), 1 << n)).collect());
        let other = |data: &str| Snapshot { data: data.into(), ..snapshot(now(), "") };
        let (a, b) = (other("/a"), other("/b"));
        // Pack 0 is garbage; 1 is of the first of /a alone; 2 of the first and third; 3 of all of /a; 4 of the first of /a and of /b.
        all.add(&a, [1, 2, 3, 4].map(pack).into_iter(), &[frame(1)]);
        all.add(&b, [4].map(pack).into_iter(), &[]);
        all.add(&a, [3].map(pack).into_iter(), &[frame(1), frame(2)]);
        all.add(&a, [2, 3].map(pack).into_iter(), &[frame(2)]);
        all.add_frame(frame(1), vec![pack(5), pack(6)]);
        all.add_frame(frame(2), vec![pack(6), pack(7)]);
        let bits = |kept: [bool; 4]| all.stored_bytes(kept.into_iter());
        let freed = |packs: &[u8]| StoredBytes { all: 255, freed: packs.iter().map(|n| 1 << n).sum() };
        for (kept, packs) in [
            ([true, true, true, true], &[][..]),
            ([false, true, true, true], &[1]),
            ([false, true, false, true], &[1, 5]),
            ([false, false, false, true], &[1, 4, 5]),
            ([true, true, false, false], &[7]),
            ([false, true, true, false], &[1, 2]),
            ([false, true, false, false], &[1, 2, 3, 5, 6, 7]),
            ([false, false, false, false], &[1, 2, 3, 4, 5, 6, 7]),
        ] {
            assert_eq!(bits(kept), freed(packs), "{kept:?}");
        }
    }
}
