//! Cuts large files into content-defined blocks, so that bytes that moved are found again.
//!
//! FastCDC (Xia et al., 2016, in the 2020 version of the crate `fastcdc`) cuts where the content says so, about every
//! 64 KiB. It is pure: bytes in, lengths out. Another chunker would only find fewer known blocks; no reader depends
//! on it.

use fastcdc::v2020::FastCDC;

/// Shortest block in bytes, except at the end of a file or before a hole.
pub const MIN: usize = 16 << 10;
/// Average size in bytes that blocks aim at.
pub const AVERAGE: usize = 64 << 10;
/// Longest block in bytes.
pub const MAX: usize = 256 << 10;

/// Returns the lengths of the blocks at the start of `bytes`. The rest after them is too short to cut; it belongs at
/// the start of the next call's bytes. At the `end` nothing is left.
pub fn cut(bytes: &[u8], end: bool) -> Vec<usize> {
    let chunker = FastCDC::new(bytes, MIN, AVERAGE, MAX);
    let mut lengths = Vec::with_capacity(bytes.len() / AVERAGE + 1);
    let mut at = 0;
    // A cut depends on at most MAX bytes, so with fewer left the next bytes could move it.
    while bytes.len() - at >= MAX || (end && at < bytes.len()) {
        let (_, next) = chunker.cut(at, bytes.len() - at);
        lengths.push(next - at);
        at = next;
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn noise(length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut out);
        out
    }

    fn blocks(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let (mut out, mut held, mut fed) = (Vec::new(), Vec::new(), 0);
        loop {
            let more = &bytes[fed..bytes.len().min(fed + step)];
            fed += more.len();
            held.extend_from_slice(more);
            let end = fed == bytes.len();
            for length in cut(&held, end) {
                out.push(held.drain(..length).collect());
            }
            if end {
                assert!(held.is_empty());
                return out;
            }
        }
    }

    #[test]
    fn cuts_do_not_depend_on_how_bytes_arrive() {
        let bytes = noise(3_000_000);
        let whole = blocks(&bytes, bytes.len());
        assert_eq!(whole.concat(), bytes);
        assert_eq!(whole, blocks(&bytes, 100_000));
        assert!(whole.iter().all(|b| b.len() <= MAX) && whole[..whole.len() - 1].iter().all(|b| b.len() >= MIN));
        assert!((20..100).contains(&whole.len()), "{}", whole.len());
        assert_eq!(blocks(&[], 1), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_byte_at_the_start_changes_a_block_or_two() {
        let mut bytes = noise(3_000_000);
        let before: HashSet<_> = blocks(&bytes, 1 << 20).into_iter().collect();
        bytes.insert(0, b'x');
        let new = blocks(&bytes, 1 << 20).into_iter().filter(|b| !before.contains(b)).count();
        assert!(new <= 2, "{new} new blocks");
    }
}
