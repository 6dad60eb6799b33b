//! Computes a file's BLAKE3 from pieces of any length that come in any order, without reading the file again.
//!
//! A piece is cut into whole subtrees of the file's hash tree ([`subtree`]), which are hashed at once, and at most two
//! parts of chunks, whose bytes are kept until the rest of their chunks has come. Neighbouring subtrees become one. So
//! the memory that it takes grows with the number of stretches that the pieces so far form, not with the file.

use std::collections::BTreeMap;

use blake3::CHUNK_LEN;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::hex::Hash;
use super::subtree;
use crate::error::Result;

const CHUNK: u64 = CHUNK_LEN as u64;
/// The most zeros of a hole that are hashed in one go, as a power of two of chunks.
const HOLE: u32 = 16;

/// The pieces of a file that have come so far.
#[derive(Debug)]
pub struct Scattered {
    size: u64,
    /// Complete subtrees by their first chunk: the power of two that is their size in chunks, and their chaining value.
    /// The last subtrees of the file may be smaller than that.
    nodes: BTreeMap<u64, (u32, ChainingValue)>,
    /// Chunks that have come in part, with the number of bytes that have.
    partial: BTreeMap<u64, (usize, Box<[u8; CHUNK_LEN]>)>,
    /// All chunks before this one are there.
    filled: u64,
}

/// A piece of a file, hashed as far as it can be by itself.
#[derive(Debug)]
pub struct Hashed<'a> {
    nodes: Vec<(u64, u32, ChainingValue)>,
    /// The positions and bytes of parts of chunks.
    edges: [(u64, &'a [u8]); 2],
}

/// Returns how many chunks a file of `size` bytes has.
fn chunks(size: u64) -> u64 {
    size.div_ceil(CHUNK)
}

/// Returns the size of the largest subtree that begins at chunk `first`, ends before `end` or with the file of `all`
/// chunks, and is not the whole file; as a power of two of chunks. `first` is before `end`, and the file has at least
/// two chunks.
fn largest(first: u64, end: u64, all: u64) -> u32 {
    // A subtree that reaches the end of the file may have fewer chunks than its power of two.
    let length = end - first;
    let fits = if end == all { u64::BITS - (length - 1).leading_zeros() } else { length.ilog2() };
    let whole = u64::BITS - (all - 1).leading_zeros() - 1;
    fits.min(first.trailing_zeros()).min(whole)
}

/// Hashes the piece at `at` of a file of `size` bytes; the piece is not the whole file.
pub fn hash(bytes: &[u8], at: u64, size: u64) -> Hashed<'_> {
    let end = at + bytes.len() as u64;
    let all = chunks(size);
    let mut hashed = Hashed { nodes: Vec::new(), edges: [(at, &[]), (end, &[])] };
    // A file of one chunk has no subtree but itself.
    let (first, last) = if all < 2 {
        (end, end)
    } else {
        let last = if end == size { end } else { end / CHUNK * CHUNK };
        (at.next_multiple_of(CHUNK).min(end), last)
    };
    let (head, rest) = bytes.split_at((first - at) as usize);
    hashed.edges[0].1 = head;
    if last <= first {
        // The piece has no whole chunk.
        hashed.edges[1] = (first, rest);
        return hashed;
    }
    let (mut whole, tail) = rest.split_at((last - first) as usize);
    hashed.edges[1] = (last, tail);
    let (mut chunk, end) = (first / CHUNK, chunks(last));
    while chunk < end {
        let power = largest(chunk, end, all);
        let node;
        (node, whole) = whole.split_at(whole.len().min(CHUNK_LEN << power));
        hashed.nodes.push((chunk, power, subtree::value(node, chunk * CHUNK)));
        chunk += 1 << power;
    }
    hashed
}

impl Scattered {
    /// Returns the state for a file of `size` bytes of which no piece has come.
    pub fn new(size: u64) -> Self {
        Scattered { size, nodes: BTreeMap::new(), partial: BTreeMap::new(), filled: 0 }
    }

    /// Adds a piece, none of whose bytes have come before.
    pub fn add(&mut self, piece: &Hashed) {
        for (chunk, power, value) in &piece.nodes {
            self.node(*chunk, *power, *value);
        }
        for (at, bytes) in piece.edges {
            self.part(at, bytes);
        }
    }

    /// Adds bytes of one chunk.
    fn part(&mut self, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (chunk, from) = (at / CHUNK, (at % CHUNK) as usize);
        let (have, content) = self.partial.entry(chunk).or_insert_with(|| (0, Box::new([0; CHUNK_LEN])));
        content[from..from + bytes.len()].copy_from_slice(bytes);
        *have += bytes.len();
        if *have as u64 >= CHUNK.min(self.size - chunk * CHUNK) && chunks(self.size) > 1 {
            self.close(chunk);
        }
    }

    /// Hashes a chunk that is complete, or whose missing bytes are zeros.
    fn close(&mut self, chunk: u64) {
        if let Some((_, content)) = self.partial.remove(&chunk) {
            let length = CHUNK.min(self.size - chunk * CHUNK) as usize;
            self.node(chunk, 0, subtree::value(&content[..length], chunk * CHUNK));
        }
    }

    /// Adds a subtree, and joins it with its neighbour as long as that is there.
    fn node(&mut self, mut first: u64, mut power: u32, mut value: ChainingValue) {
        let all = chunks(self.size);
        loop {
            let length = 1 << power;
            // The last join makes the root, and is left to `finish`.
            if first & !(2 * length - 1) == 0 && 2 * length >= all {
                break;
            }
            if first & length != 0 {
                let before = first - length;
                match self.nodes.get(&before) {
                    Some((other, left)) if *other == power => {
                        value = merge_subtrees_non_root(left, &value, Mode::Hash);
                        self.nodes.remove(&before);
                        first = before;
                    }
                    _ => break,
                }
            } else if first + length < all {
                match self.nodes.get(&(first + length)) {
                    Some((other, right)) if *other == power => {
                        value = merge_subtrees_non_root(&value, right, Mode::Hash);
                        self.nodes.remove(&(first + length));
                    }
                    _ => break,
                }
            }
            // If the file ends before its right neighbour would begin, the subtree is its own parent, too.
            power += 1;
        }
        self.nodes.insert(first, (power, value));
    }

    /// Takes what has not come of the first `end` bytes of the file as zeros; `go_on` is called now and then.
    ///
    /// # Errors
    /// The errors of `go_on`.
    pub fn fill(&mut self, end: u64, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
        let all = chunks(self.size);
        if all < 2 {
            return Ok(());
        }
        // A chunk that `end` lies within is filled later, once its own end is covered.
        let end = if end >= self.size { all } else { end / CHUNK };
        while let Some((&chunk, _)) = self.partial.first_key_value().filter(|(chunk, _)| **chunk < end) {
            self.close(chunk);
        }
        while self.filled < end {
            if let Some((&first, &(power, _))) = self.nodes.range(..=self.filled).next_back()
                && first + (1 << power) > self.filled
            {
                self.filled = first + (1 << power);
                continue;
            }
            let next = self.nodes.range(self.filled..).next().map_or(end, |(first, _)| (*first).min(end));
            go_on()?;
            let power = largest(self.filled, next, all).min(HOLE);
            let length = (CHUNK << power).min(self.size - self.filled * CHUNK);
            self.node(self.filled, power, zeros(length, self.filled * CHUNK));
        }
        Ok(())
    }

    /// Returns the file's hash; `None` if the file is not complete.
    pub fn finish(&self) -> Option<Hash> {
        let all = chunks(self.size);
        if all < 2 {
            let content = self.partial.get(&0).map_or(&[0; CHUNK_LEN], |(_, content)| &**content);
            return Some(Hash::of(&content[..self.size as usize]));
        }
        let half = all.next_power_of_two() / 2;
        let (left, right) = (self.nodes.get(&0)?, self.nodes.get(&half)?);
        let whole = 1 << left.0 == half && 1 << right.0 >= all - half && self.nodes.len() == 2;
        (whole && self.partial.is_empty()).then(|| Hash::from(&merge_subtrees_root(&left.1, &right.1, Mode::Hash)))
    }
}

/// Returns the chaining value of a subtree of zeros.
fn zeros(mut length: u64, at: u64) -> ChainingValue {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(at);
    while length > 0 {
        let step = length.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..step as usize]);
        length -= step;
    }
    hasher.finalize_non_root()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;

    fn noise(length: usize) -> Vec<u8> {
        let mut content = vec![0; length];
        blake3::Hasher::new().update(b"seed").finalize_xof().fill(&mut content);
        content
    }

    /// A strategy for a length, and pieces of it in the order in which they come: where each begins and ends, and
    /// whether it is a hole.
    fn cut() -> impl Strategy<Value = (usize, Vec<(usize, usize, bool)>)> {
        let near = |n: usize| prop_oneof![Just(n), n.saturating_sub(3)..n + 3];
        let chunk = (0usize..70).prop_flat_map(move |n| near(n * CHUNK_LEN));
        let cuts = proptest::collection::vec(prop_oneof![chunk.clone(), 0usize..70_000], 0..40);
        (chunk.prop_map(|n| n.max(1)), cuts).prop_flat_map(|(length, mut cuts)| {
            cuts.retain(|at| *at < length);
            cuts.extend([0, length]);
            cuts.sort_unstable();
            cuts.dedup();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
            let holes = proptest::collection::vec(proptest::bool::weighted(0.2), pieces.len());
            let pieces = holes.prop_map(move |holes| {
                pieces.iter().zip(holes).map(|((from, to), hole)| (*from, *to, hole)).collect::<Vec<_>>()
            });
            (Just(length), pieces.prop_shuffle())
        })
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_give_the_hash_of_the_whole((length, pieces) in cut(), settled in 0usize..70_000) {
            let mut content = noise(length);
            for (from, to, hole) in &pieces {
                if *hole {
                    content[*from..*to].fill(0);
                }
            }
            let mut scattered = Scattered::new(length as u64);
            let data = |(from, to, hole): &&(usize, usize, bool)| !hole && (*from, *to) != (0, length);
            // Pieces that begin before a certain place come first, and holes there are filled before the others come.
            let settled = pieces.iter().map(|(from, ..)| *from).filter(|from| *from <= settled).max().unwrap_or(0);
            let (early, late): (Vec<_>, Vec<_>) = pieces.iter().filter(data).partition(|(from, ..)| *from < settled);
            for &(from, to, _) in early {
                scattered.add(&hash(&content[from..to], from as u64, length as u64));
            }
            scattered.fill(settled as u64, &|| Ok(())).unwrap();
            for &(from, to, _) in late {
                scattered.add(&hash(&content[from..to], from as u64, length as u64));
            }
            scattered.fill(length as u64, &|| Ok(())).unwrap();
            if pieces.len() > 1 || pieces[0].2 {
                prop_assert_eq!(scattered.finish(), Some(Hash::of(&content)));
            }
        }
    }

    #[test]
    fn what_is_not_all_there_has_no_hash() {
        for length in [1025, 2048, 2049, 4096, 5000, 8192] {
            let content = noise(length);
            let places: Vec<_> = (0..length).step_by(CHUNK_LEN).collect();
            for missing in &places {
                let mut scattered = Scattered::new(length as u64);
                for at in places.iter().filter(|at| *at != missing) {
                    let piece = &content[*at..length.min(at + CHUNK_LEN)];
                    scattered.add(&hash(piece, *at as u64, length as u64));
                }
                assert_eq!(scattered.finish(), None, "{length} bytes without those at {missing}");
            }
        }
    }

    #[test]
    fn the_memory_that_it_takes_is_that_of_the_stretches() {
        let content = noise(1 << 20);
        let size = 1 << 40;
        let mut scattered = Scattered::new(size);
        for at in (0..64u64).rev() {
            scattered.add(&hash(&content, (at << 20) + 300, size));
        }
        assert!(scattered.nodes.len() <= 40, "{} nodes", scattered.nodes.len());
        assert_eq!(scattered.partial.len(), 2);
    }

    #[test]
    fn filling_a_hole_can_be_stopped() {
        let mut scattered = Scattered::new(1 << 50);
        let stop = || Err(Error::failed("go on", "it was told to stop"));
        assert!(scattered.fill(1 << 50, &stop).is_err());
        assert_eq!(scattered.finish(), None);
    }
}
