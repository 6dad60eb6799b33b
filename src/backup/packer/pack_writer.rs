//! Cuts what is appended into frames, and frames into packs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CompressJob, OpenPack, PACK_CONTENT, PACK_LIMIT, Packer, lock, storing_ended};
use crate::error::{Code, Error, Result};
use crate::vault::entry::Extent;
use crate::vault::frame::FrameRef;
use crate::vault::hex::Hash;
use crate::vault::pack::{MAX_FRAME, PackKind};

/// Writes packs of one kind, one after the other.
pub struct PackWriter<'p> {
    packer: &'p Packer<'p>,
    kind: PackKind,
    pack: Option<Arc<OpenPack>>,
    /// Content of the pack so far in bytes, including the unfinished frame.
    position: u64,
    frame: Vec<u8>,
    /// How well earlier content compressed, in 1/256: the estimate for frames that are not compressed yet.
    ratio: u64,
}

impl<'p> PackWriter<'p> {
    /// Creates a writer for packs of `kind`.
    pub fn new(packer: &'p Packer<'p>, kind: PackKind) -> Self {
        PackWriter { packer, kind, pack: None, position: 0, frame: Vec::new(), ratio: 128 }
    }

    /// Appends the parts, one after the other, as one extent. An extent may span frames but never packs.
    ///
    /// # Errors
    /// Fails if the store failed at an earlier pack.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<Extent> {
        debug_assert!(parts.iter().any(|part| !part.is_empty()), "an extent of nothing");
        let pack = self.open_pack()?;
        let offset = self.position;
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(MAX_FRAME - self.frame.len()));
                self.frame.extend_from_slice(now);
                self.position += now.len() as u64;
                rest = later;
                if self.frame.len() == MAX_FRAME {
                    self.end_frame()?;
                }
            }
        }
        Ok(Extent { pack: Some(pack.id), offset, length: self.position - offset })
    }

    /// Stores `content` as a frame of its own, as readers of the index expect.
    ///
    /// # Errors
    /// Fails if the store failed at an earlier pack, or if `content` is empty or larger than a frame may be.
    pub fn frame(&mut self, content: &[u8]) -> Result<FrameRef> {
        if content.is_empty() || content.len() > MAX_FRAME {
            let why = format!("it has {} bytes, and a frame has 1 to {MAX_FRAME}", content.len());
            return Err(Error::failed("store an index frame", why).with_code(Code::Internal));
        }
        let Extent { offset, length, pack } = self.append(&[content])?;
        self.end_frame()?;
        let pack =
            pack.ok_or_else(|| Error::failed("store an index frame", "it has no pack").with_code(Code::Internal))?;
        Ok(FrameRef { pack, offset, length, hash: Hash::of(content) })
    }

    /// Ends the pack; the next bytes begin another one.
    ///
    /// # Errors
    /// Fails if the store failed at an earlier pack.
    pub fn flush(&mut self) -> Result<()> {
        self.end_frame()?;
        self.close()
    }

    /// Returns the pack to append to: the current one, or a new one if that is full.
    fn open_pack(&mut self) -> Result<Arc<OpenPack>> {
        self.packer.shared.check(self.kind)?;
        if let Some(pack) = &self.pack {
            let (compressed, done) =
                (pack.compressed.load(Ordering::Relaxed), pack.content_done.load(Ordering::Relaxed));
            if done > 0 {
                self.ratio = (compressed * 256).div_ceil(done).min(256);
            }
            let waiting = self.position.saturating_sub(done);
            let expected = compressed + waiting * self.ratio / 256;
            let size = self.packer.pack_size;
            if expected < size && compressed + waiting < PACK_LIMIT && self.position < PACK_CONTENT {
                return Ok(pack.clone());
            }
            self.flush()?;
        }
        let pack = self.packer.open(self.kind)?;
        self.pack = Some(pack.clone());
        self.position = 0;
        Ok(pack)
    }

    fn end_frame(&mut self) -> Result<()> {
        let Some(pack) = self.pack.as_ref().filter(|_| !self.frame.is_empty()) else { return Ok(()) };
        let next = self.packer.buffers.try_recv().unwrap_or_default();
        let content = std::mem::replace(&mut self.frame, next);
        let place = {
            let mut frames = lock(&pack.frames);
            frames.missing += 1;
            frames.done.push(None);
            frames.done.len() - 1
        };
        let job = CompressJob { pack: pack.clone(), place, content };
        if self.packer.jobs.send(job).is_err() {
            return Err(
                Error::failed("compress a frame", "the compressing threads ended early").with_code(Code::Internal)
            );
        }
        self.packer.shared.check(self.kind)
    }

    /// Closes the pack, and hands it to the storing threads if its last frame is compressed already.
    fn close(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let whole = {
            let mut frames = lock(&pack.frames);
            frames.closed = true;
            frames.missing == 0
        };
        if whole && self.packer.packs.send(pack).is_err() {
            return Err(storing_ended());
        }
        Ok(())
    }
}
