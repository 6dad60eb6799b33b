//! Computes a file's BLAKE3 from the parts of its hash tree: blocks are hashed separately, by any thread and in any
//! order, and their values are joined in the order of the file. The result is the hash that reading from beginning to
//! end gives.
//!
//! BLAKE3 is a binary tree over chunks of 1,024 bytes (section 2.1 of its paper). A block of a power of two of chunks,
//! at a multiple of its size, is a subtree; its *chaining value* depends on its bytes and its position, and on nothing
//! else.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::hex::Hash;

/// The smallest block that is a subtree, in bytes.
pub const SMALLEST: u64 = blake3::CHUNK_LEN as u64;

/// Returns the chaining value of a block that begins at byte `at` of its file. `at` is a multiple of the block size,
/// which is a power of two and at least [`SMALLEST`]; the file's last block may be shorter, and no block is empty.
pub fn value(block: &[u8], at: u64) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(at).update(block).finalize_non_root()
}

/// Joins the chaining values of a file's blocks, which are all of one size except for the last.
#[derive(Debug, Clone, Default)]
pub struct Subtrees {
    /// The values of complete subtrees, larger before smaller; the set bits of `blocks` say how many blocks each of
    /// them has.
    waiting: Vec<ChainingValue>,
    blocks: u64,
}

impl Subtrees {
    /// Adds the next block's value.
    pub fn push(&mut self, value: ChainingValue) {
        // Two subtrees of one size are joined only when another block follows, so that the last join is the root's.
        let complete = self.blocks.trailing_zeros().min(63);
        let mut pairs = if self.blocks == 0 { 0 } else { complete };
        while pairs > 0
            && let (Some(right), Some(left)) = (self.waiting.pop(), self.waiting.pop())
        {
            self.waiting.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
            pairs -= 1;
        }
        self.waiting.push(value);
        self.blocks += 1;
    }

    /// Returns the file's hash; `None` for fewer than two blocks, whose hash is not a join of subtrees.
    pub fn finish(mut self) -> Option<Hash> {
        let mut right = self.waiting.pop()?;
        while let Some(left) = self.waiting.pop() {
            if self.waiting.is_empty() {
                return Some(Hash::from(&merge_subtrees_root(&left, &right, Mode::Hash)));
            }
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_join_to_the_hash_of_the_whole() {
        let mut content = vec![0; 300 << 10];
        blake3::Hasher::new().update(b"seed").finalize_xof().fill(&mut content);
        for size in [1024, 4096, 65_536] {
            for length in [0, 1, 1024, 1025, 2048, 4096, 4097, 12_288, 65_536, 65_537, 131_072, 200_000, 300 << 10] {
                let mut tree = Subtrees::default();
                for (n, block) in content[..length].chunks(size).enumerate() {
                    tree.push(value(block, (n * size) as u64));
                }
                let expected = (length > size).then(|| Hash::of(&content[..length]));
                assert_eq!(tree.finish(), expected, "{length} bytes in blocks of {size}");
            }
        }
    }
}
