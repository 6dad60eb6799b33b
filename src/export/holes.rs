//! Where a file has holes, and the map of its data that makes it a sparse file in an archive: GNU's PAX format 1.0.
//!
//! The content of such a member is the map, as text that is padded to whole blocks, and then the data, one piece behind the
//! other. GNU tar reads each piece in whole blocks, other programs do not: all pieces but the last are whole blocks.

use std::cmp::Reverse;

use crate::vault::entry::{Entry, Extent, Map, TAR_BLOCK, padding};

/// Holes begin and end at multiples of this many bytes, but for the end of the file: filesystems have no smaller ones, and a map
/// with fewer is shorter.
const ALIGNED: u64 = 4096;
/// The most holes of a file: of more, the smallest are written as zeros, so that the memory and the map stay small.
const MOST: usize = 1 << 18;

/// Whether the entry is a database with all of its blocks in packs: it has no holes, and its map need not be read to see that.
pub fn is_full(entry: &Entry) -> bool {
    entry.map.as_ref().and_then(Map::pages).is_some_and(|pages| {
        let live = pages.live.iter().fold(0u64, |sum, used| sum.saturating_add(used.live));
        live == pages.blocks(entry.size)
    })
}

/// Finds the holes of a file in its extents, which come in order.
#[derive(Debug, Default)]
pub struct HoleFinder {
    holes: Vec<(u64, u64)>,
    /// Where the zeros begin that the last extents had.
    zeros_from: Option<u64>,
    at: u64,
    most: usize,
}

impl HoleFinder {
    /// Returns a finder that has seen nothing yet.
    pub fn new() -> Self {
        HoleFinder { most: MOST, ..HoleFinder::default() }
    }

    /// Takes the next extent of the content.
    pub fn extent(&mut self, extent: &Extent) {
        match extent.pack {
            None => _ = self.zeros_from.get_or_insert(self.at),
            Some(_) => self.end_zeros(self.at / ALIGNED * ALIGNED),
        }
        self.at += extent.length;
    }

    fn end_zeros(&mut self, to: u64) {
        let Some(from) = self.zeros_from.take() else { return };
        let from = from.next_multiple_of(ALIGNED);
        if from < to {
            self.holes.push((from, to));
        }
        if self.holes.len() > self.most {
            self.holes.sort_unstable_by_key(|(from, to)| (Reverse(to - from), *from));
            self.holes.truncate(self.most / 2);
            self.holes.sort_unstable();
        }
    }

    /// Returns the map of the file; `None` if it has no holes.
    pub fn finish(mut self) -> Option<SparseMap> {
        self.end_zeros(self.at);
        (!self.holes.is_empty()).then_some(SparseMap { holes: self.holes, size: self.at })
    }
}

/// The map of a file that has holes.
#[derive(Debug, PartialEq, Eq)]
pub struct SparseMap {
    /// Where each hole begins and ends: in order, not empty, with data between them.
    holes: Vec<(u64, u64)>,
    size: u64,
}

impl SparseMap {
    /// Returns the size of the file, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the holes: where each begins and where it ends, in bytes.
    pub fn holes(&self) -> &[(u64, u64)] {
        &self.holes
    }

    /// Returns how many bytes of the file are data.
    pub fn data(&self) -> u64 {
        self.size - self.holes.iter().map(|(from, to)| to - from).sum::<u64>()
    }

    /// Returns the map as the archive has it, padded to whole blocks. A hole at the end is followed by an empty piece of data:
    /// without it, GNU tar would end the file before the hole.
    pub fn text(&self) -> Vec<u8> {
        let begins = [0].into_iter().chain(self.holes.iter().map(|(_, to)| *to));
        let ends = self.holes.iter().map(|(from, _)| *from).chain([self.size]);
        let is_last = |from: u64| from == self.size;
        let pieces: Vec<_> = begins.zip(ends).filter(|(from, to)| from < to || is_last(*from)).collect();
        let mut text = format!("{}\n", pieces.len());
        for (from, to) in pieces {
            text.push_str(&format!("{from}\n{}\n", to - from));
        }
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len() + padding(bytes.len() as u64) as usize, 0);
        debug_assert!((bytes.len() as u64).is_multiple_of(TAR_BLOCK));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hex::Hex;
    use proptest::prelude::*;

    /// Returns the finder's holes for runs of data (true) and zeros.
    fn found(most: usize, runs: &[(bool, u64)]) -> Option<SparseMap> {
        let mut finder = HoleFinder { most, ..HoleFinder::new() };
        for (is_data, length) in runs {
            let pack = is_data.then_some(Hex([1; 16]));
            finder.extent(&Extent { pack, offset: 0, length: *length });
        }
        finder.finish()
    }

    fn text(runs: &[(bool, u64)]) -> Option<String> {
        let text = String::from_utf8(found(MOST, runs)?.text()).unwrap();
        assert!(text.len().is_multiple_of(512));
        Some(text.trim_end_matches('\0').replace('\n', " "))
    }

    #[test]
    fn maps_are_those_of_gnu_tar() {
        assert_eq!(text(&[]), None);
        assert_eq!(text(&[(true, 10_000)]), None);
        assert_eq!(text(&[(false, 5 << 20)]).as_deref(), Some("1 5242880 0 "));
        assert_eq!(text(&[(false, 4096), (true, 7)]).as_deref(), Some("1 4096 7 "));
        assert_eq!(text(&[(true, 4096), (false, 8192)]).as_deref(), Some("2 0 4096 12288 0 "));
        let tebibyte = 1 << 40;
        let expected = format!("2 1048576 4096 {tebibyte} 0 ");
        assert_eq!(text(&[(false, 1 << 20), (true, 4096), (false, tebibyte - (1 << 20) - 4096)]), Some(expected));
    }

    #[test]
    fn holes_are_whole_blocks_of_filesystems() {
        // The last hole may end with the file.
        assert_eq!(text(&[(true, 100), (false, 4096), (true, 1)]), None);
        assert_eq!(text(&[(true, 100), (false, 9000), (true, 1)]).as_deref(), Some("2 0 4096 8192 909 "));
        assert_eq!(text(&[(true, 100), (false, 5000)]).as_deref(), Some("2 0 4096 5100 0 "));
        assert_eq!(text(&[(false, 3000), (false, 3000), (true, 5)]).as_deref(), Some("1 4096 1909 "));
    }

    #[test]
    fn of_too_many_holes_the_smallest_are_zeros() {
        let runs: Vec<_> = (1..=9u64).flat_map(|n| [(false, n * 4096), (true, 4096)]).collect();
        let map = found(8, &runs).unwrap();
        assert_eq!(map.holes().iter().map(|(from, to)| (to - from) / 4096).collect::<Vec<_>>(), [6, 7, 8, 9]);
    }

    proptest! {
        #[test]
        fn holes_lie_in_zeros_and_data_is_whole_blocks(runs in prop::collection::vec((any::<bool>(), 1..20_000u64), 0..40), most in 1..9usize) {
            let size: u64 = runs.iter().map(|(_, length)| length).sum();
            let Some(map) = found(most, &runs) else { return Ok(()) };
            prop_assert_eq!(map.size(), size);
            let mut is_zero = Vec::new();
            for (is_data, length) in &runs {
                is_zero.resize(is_zero.len() + *length as usize, !is_data);
            }
            for (from, to) in map.holes() {
                prop_assert!(is_zero[*from as usize..*to as usize].iter().all(|zero| *zero));
            }
            let text = String::from_utf8(map.text()).unwrap();
            let numbers: Vec<u64> = text.trim_end_matches('\0').lines().map(|line| line.parse().unwrap()).collect();
            let pieces: Vec<_> = numbers[1..].chunks(2).map(|piece| (piece[0], piece[1])).collect();
            prop_assert_eq!(numbers[0], pieces.len() as u64);
            prop_assert_eq!(pieces.iter().map(|(_, length)| length).sum::<u64>(), map.data());
            prop_assert_eq!(pieces.last().map(|(from, length)| from + length), Some(size));
            for (from, length) in &pieces[..pieces.len() - 1] {
                prop_assert!(length.is_multiple_of(512) && *length > 0 && from.is_multiple_of(512));
            }
        }
    }
}
