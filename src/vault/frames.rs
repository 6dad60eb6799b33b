//! Finding the frames of a pack without its seek table.
//!
//! Frames tell their own lengths: whoever begins at the first byte and goes from frame to frame comes to where the table
//! begins. There the table of so many frames and nothing else has room, so a walk that ends there missed none.

use super::decoder::Decoder;
use super::pack::{FrameAt, MAX_FRAME, MAX_FRAMES, MAX_PACK, PackInfo, SeekTable, table_length};
use crate::error::Result;
use crate::store;

/// What a zstd frame begins with.
pub const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// No frame is longer, compressed, in bytes: one that does not compress is a little longer than its content.
const LONGEST: u64 = MAX_FRAME as u64 + (128 << 10);
/// Bytes that are read at a time. So much more than a frame is held.
const STEP: u64 = 4 << 20;
/// Content that is decompressed to learn its length, in bytes: of frames that do not say it. Our writers make none.
const DECODED: u64 = 1 << 30;

/// The bytes of an object from a place on, a few MiB of them.
struct ObjectBuffer<R> {
    read: R,
    bytes: Vec<u8>,
    from: u64,
    /// The object's size as it is.
    size: u64,
}

impl<R: FnMut(u64, u64) -> store::Result<Vec<u8>>> ObjectBuffer<R> {
    /// Bytes from `at` on, up to `length` of them; fewer where the object ends before.
    fn at(&mut self, at: u64, length: u64) -> store::Result<&[u8]> {
        while at + length > self.from + self.bytes.len() as u64 {
            let next = self.from + self.bytes.len() as u64;
            let step = STEP.min(self.size.saturating_sub(next));
            if step == 0 {
                break;
            }
            match (self.read)(next, step) {
                Ok(more) => {
                    // Not before there is more: small frames at the end of an object that was cut short would move it each time.
                    self.bytes.drain(..(at - self.from) as usize);
                    self.from = at;
                    self.bytes.extend(more);
                }
                // It was cut short. The frames may be there all the same.
                Err(store::StoreError::OutOfRange { size, .. }) if size < next + step => self.size = size,
                Err(why) => return Err(why),
            }
        }
        let rest = &self.bytes[((at - self.from) as usize).min(self.bytes.len())..];
        Ok(&rest[..rest.len().min(length as usize)])
    }
}

/// Finds the frames of the pack `info`, of which `read` gives so many bytes from a place on. The table that they give is that
/// which was stored, as far as the frames are what was stored: it has the pack's content, and ends where the pack ends. Gives
/// also what is wrong with them.
///
/// # Errors
/// Those of `read`; no memory for zstd.
pub fn find(
    info: &PackInfo,
    read: impl FnMut(u64, u64) -> store::Result<Vec<u8>>,
) -> Result<Result<SeekTable, String>> {
    if info.size > MAX_PACK {
        return Ok(Err(format!("a pack of {} bytes", info.size)));
    }
    let mut held = ObjectBuffer { read, bytes: Vec::new(), from: 0, size: info.size };
    let (mut frames, mut at, mut offset, mut budget) = (Vec::new(), 0u64, 0u64, DECODED);
    let mut decoder = Decoder::new()?;
    loop {
        let table = table_length(frames.len());
        if at + table == info.size {
            return Ok(match offset == info.content {
                true => Ok(SeekTable::of(frames)),
                false => Err(format!("its frames have {offset} bytes of content, and {} were stored", info.content)),
            });
        }
        // What is left for this frame, before the table that then has one entry more.
        let room = info.size.saturating_sub(table_length(frames.len() + 1)).saturating_sub(at);
        if room == 0 || frames.len() >= MAX_FRAMES as usize {
            return Ok(Err("its frames do not end where its seek table began".into()));
        }
        let bytes = held.at(at, room.min(LONGEST));
        let bytes = bytes.map_err(|e| e.while_doing(format!("find the frames of {}", info.name())))?;
        let (compressed, length) = match look(bytes, &mut decoder, &mut budget) {
            Ok(frame) => frame,
            Err(why) => return Ok(Err(format!("{why} at {at}"))),
        };
        if offset + u64::from(length) > info.content {
            return Ok(Err(format!("its frames have more content than the {} bytes that were stored", info.content)));
        }
        frames.push(FrameAt { at, compressed, offset, length });
        at += u64::from(compressed);
        offset += u64::from(length);
    }
}

/// The compressed and the decompressed length of the frame that `bytes` begin with. What is decompressed to learn the latter is
/// taken from the `budget`.
///
/// # Errors
/// Text that says what is wrong with the bytes.
pub fn look(bytes: &[u8], decoder: &mut Decoder, budget: &mut u64) -> Result<(u32, u32), String> {
    if !bytes.starts_with(&MAGIC) {
        return Err("there is no frame".into());
    }
    let wrong = |_| "there is no whole frame".to_owned();
    let compressed = zstd::zstd_safe::find_frame_compressed_size(bytes).map_err(wrong)?;
    let frame = bytes.get(..compressed).ok_or("there is no whole frame")?;
    let length = match zstd::zstd_safe::get_frame_content_size(frame) {
        Ok(Some(length)) => length,
        Ok(None) => {
            let length = decoder.length(frame)?;
            *budget = budget.checked_sub(length).ok_or("there are too many frames that do not say their length")?;
            length
        }
        Err(_) => return Err("there is no whole frame".into()),
    };
    match (u32::try_from(compressed), u32::try_from(length)) {
        (Ok(compressed), Ok(length)) if length > 0 && length as usize <= MAX_FRAME => Ok((compressed, length)),
        _ => Err(format!("there is a frame with {length} bytes of content")),
    }
}
