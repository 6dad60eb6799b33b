//! Decompresses frames.

use super::pack;
use crate::error::{Error, Result};

/// A decompressor of frames that reuses its memory.
pub struct Decoder(zstd::bulk::Decompressor<'static>);

impl Decoder {
    /// Returns a new decoder.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new() -> Result<Self> {
        zstd::bulk::Decompressor::new().map(Decoder).map_err(|e| Error::failed("start zstd", e))
    }

    /// Decompresses one frame, which must have exactly `length` bytes of content, into `out`, which is overwritten.
    ///
    /// # Errors
    /// A text that says what is wrong with the frame.
    pub fn frame(&mut self, compressed: &[u8], length: u32, out: &mut Vec<u8>) -> Result<(), String> {
        out.clear();
        out.reserve_exact(length as usize);
        // The buffer's capacity is the limit: a frame that claims or holds more is refused.
        let got = self.0.decompress_to_buffer(compressed, out).map_err(|e| format!("zstd: {e}"))?;
        if got != length as usize {
            return Err(format!("a frame has {got} bytes of content where its pack's table says {length}"));
        }
        Ok(())
    }

    /// Returns the length in bytes of the content of a frame that does not say it itself; a longer content than a
    /// pack's frame may have is refused.
    pub(super) fn length(&mut self, compressed: &[u8]) -> Result<u64, String> {
        let mut out = Vec::with_capacity(pack::MAX_FRAME);
        self.0.decompress_to_buffer(compressed, &mut out).map(|got| got as u64).map_err(|e| format!("zstd: {e}"))
    }
}
