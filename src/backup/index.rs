//! Writes the frames of index packs: hunks, maps and lists. A frame that the vault already has is named again, not
//! written again.

use std::collections::HashMap;

use super::packer::{PackWriter, Packer};
use super::parent::Parent;
use crate::error::Result;
use crate::vault::frame::FrameRef;
use crate::vault::hex::Hash;
use crate::vault::list::List;
use crate::vault::pack::PackKind;

/// Writes index frames.
pub struct IndexWriter<'p> {
    writer: PackWriter<'p>,
    known: HashMap<Hash, FrameRef>,
}

impl<'p> IndexWriter<'p> {
    /// Creates a writer that uses `packer`; the hunks and lists of `base` are known.
    pub fn new(packer: &'p Packer<'p>, base: &Parent) -> Self {
        let mut known: HashMap<_, _> = base.hunks.iter().map(|hunk| (hunk.frame.hash, hunk.frame)).collect();
        if let Some((_, root)) = &base.parent {
            let mut learn = |frames: &[FrameRef]| known.extend(frames.iter().map(|frame| (frame.hash, *frame)));
            if let List::Frames(frames) = &root.hunks {
                learn(frames);
            }
            if let List::Frames(frames) = &root.packs.list {
                learn(frames);
            }
            if let List::Frames(frames) = &root.problems {
                learn(frames);
            }
        }
        known.retain(|_, frame| base.has(frame.pack));
        IndexWriter { writer: PackWriter::new(packer, PackKind::Index), known }
    }

    /// Returns where this content is, after storing it if it was not known.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn store(&mut self, content: &[u8]) -> Result<FrameRef> {
        let hash = Hash::of(content);
        if let Some(frame) = self.known.get(&hash).filter(|frame| frame.length == content.len() as u64) {
            return Ok(*frame);
        }
        let frame = self.writer.frame(content)?;
        self.known.insert(hash, frame);
        Ok(frame)
    }

    /// Ends the pack.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn flush(&mut self) -> Result<()> {
        self.writer.flush()
    }
}
