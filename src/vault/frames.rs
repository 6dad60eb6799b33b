//! Finds the frames of a pack without its seek table.
//!
//! Frames tell their own lengths: a walk that begins at the first byte and goes from frame to frame arrives where the
//! table begins. At that place, only the table of exactly this many frames fits, so a walk that ends there missed none.

use super::decoder::Decoder;
use super::pack::{FrameAt, MAX_FRAME, MAX_FRAMES, MAX_PACK, PackInfo, SeekTable, table_length};
use crate::error::Result;
use crate::store;

/// The bytes that a zstd frame begins with.
pub const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// The longest possible frame, compressed, in bytes: a frame that does not compress is a little longer than its
/// content.
const LONGEST: u64 = MAX_FRAME as u64 + (128 << 10);
/// How many bytes are read at a time. That much is held in memory beyond one frame.
const STEP: u64 = 4 << 20;
/// The most content that is decompressed in all to learn its length, in bytes, for frames that do not say it. Our
/// writers make no such frames.
const DECODED: u64 = 1 << 30;

/// The bytes of an object from some offset on, a few MiB of them.
struct ObjectBuffer<R> {
    read: R,
    bytes: Vec<u8>,
    from: u64,
    /// The object's actual size in bytes.
    size: u64,
}

impl<R: FnMut(u64, u64) -> store::Result<Vec<u8>>> ObjectBuffer<R> {
    /// Returns up to `length` bytes from `at` on; fewer if the object ends before.
    fn at(&mut self, at: u64, length: u64) -> store::Result<&[u8]> {
        while at + length > self.from + self.bytes.len() as u64 {
            let next = self.from + self.bytes.len() as u64;
            let step = STEP.min(self.size.saturating_sub(next));
            if step == 0 {
                break;
            }
            match (self.read)(next, step) {
                Ok(more) => {
                    // This waits until there are more bytes: otherwise small frames at the end of an object that was
                    // cut short would move the rest each time.
                    self.bytes.drain(..(at - self.from) as usize);
                    self.from = at;
                    self.bytes.extend(more);
                }
                // The object was cut short. The frames may be there all the same.
                Err(store::StoreError::OutOfRange { size, .. }) if size < next + step => self.size = size,
                Err(why) => return Err(why),
            }
        }
        let rest = &self.bytes[((at - self.from) as usize).min(self.bytes.len())..];
        Ok(&rest[..rest.len().min(length as usize)])
    }
}

/// Finds the frames of the pack `info`; `read` returns a number of bytes from an offset on. The table that results is
/// the stored one, provided that the frames are the stored ones: it has the pack's content, and ends where the pack
/// ends. The inner error says what is wrong with the frames.
///
/// # Errors
/// The errors of `read`; no memory for zstd.
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
        // The space for this frame: the table after it has one entry more.
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

/// Returns the compressed and the decompressed length of the frame that `bytes` begin with. The content that has to be
/// decompressed to learn the latter is taken from the `budget`.
///
/// # Errors
/// A text that says what is wrong with the bytes.
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
