//! A frame of a pack, as an entry or a list names it.

use serde::{Deserialize, Serialize};

use super::hex::{Hash, PackId};

/// One frame of an index pack, with the hash that its content must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameRef {
    /// The index pack.
    pub pack: PackId,
    /// Where the frame's content begins in the pack's content, in bytes.
    pub offset: u64,
    /// The length of its content, in bytes.
    pub length: u64,
    /// The first 16 bytes of the BLAKE3 of its content.
    pub hash: Hash,
}
