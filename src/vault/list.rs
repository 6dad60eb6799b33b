//! Long lists: written in place while they are short, cut into frames of an index pack when they are not.
//!
//! Frames end where the hash of an item says so, not after a fixed number of items, so that a list that changes in one
//! place shares all its other frames with the list that it came from.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::frame::FrameRef;
use super::hex::Hash;
use super::lines::{FrameBuilder, Lines};
use crate::error::{Code, Error, Result};

/// Items in place, or the frames that hold them, in order. There is one level: a list frame holds items only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum List<T> {
    /// The items themselves.
    Items(Vec<T>),
    /// Index frames, each a run of items.
    Frames(Vec<FrameRef>),
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List::Items(Vec::new())
    }
}

/// A list with more bytes of JSON than this is cut into frames.
const IN_PLACE: usize = 16 << 10;
/// A list frame ends after an item whose hash's low bits are zero: every 256th, on average.
const CUT_MASK: u8 = 0xff;
/// A list frame also ends after the item with which it exceeds this many bytes.
const MAX_FRAME: usize = 512 << 10;

/// Returns a list with its items in place if they are few; otherwise as frames, for each of which `store` is called
/// once.
///
/// # Errors
/// The errors of `store`.
pub fn write<T: Serialize>(items: Vec<T>, mut store: impl FnMut(FrameBuilder) -> Result<FrameRef>) -> Result<List<T>> {
    let lines = items.iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>();
    let lines = lines.map_err(|e| Error::failed("write a list", e).with_code(Code::Internal))?;
    if lines.iter().map(|line| line.len() + 1).sum::<usize>() <= IN_PLACE {
        return Ok(List::Items(items));
    }
    let mut frames = Vec::new();
    let mut frame = FrameBuilder::new("list");
    for line in lines {
        frame.line(&line);
        if Hash::of(&line).0[0] & CUT_MASK == 0 || frame.len() > MAX_FRAME {
            frames.push(store(std::mem::replace(&mut frame, FrameBuilder::new("list")))?);
        }
    }
    if !frame.is_empty() {
        frames.push(store(frame)?);
    }
    Ok(List::Frames(frames))
}

/// Returns the items of one list frame.
///
/// # Errors
/// A text that says what is wrong with the bytes.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<T>, String> {
    let (lines, _) = Lines::parse("list", bytes)?;
    lines.map(|line| serde_json::from_slice(line).map_err(|e| format!("a list item: {e}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(items: Vec<String>) -> (List<String>, Vec<Vec<u8>>) {
        let mut frames = Vec::new();
        let list = write(items, |frame| {
            let bytes = frame.finish(&[]);
            let reference = FrameRef {
                pack: Hash::of(b"pack"),
                offset: frames.len() as u64,
                length: bytes.len() as u64,
                hash: Hash::of(&bytes),
            };
            frames.push(bytes);
            Ok(reference)
        });
        (list.unwrap(), frames)
    }

    #[test]
    fn short_lists_stay_and_long_ones_share_frames() {
        let short: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(stored(short.clone()).0, List::Items(short));

        let long: Vec<_> = (0..5000).map(|n| format!("item {n}")).collect();
        let (list, frames) = stored(long.clone());
        let List::Frames(references) = list else { panic!("5000 items stay in place") };
        assert_eq!(references.len(), frames.len());
        let back: Vec<String> = frames.iter().flat_map(|f| parse::<String>(f).unwrap()).collect();
        assert_eq!(back, long);

        let mut more = long;
        more.insert(2500, "one more".into());
        let (_, after) = stored(more);
        let new = after.iter().filter(|f| !frames.contains(f)).count();
        assert!(new <= 2, "{new} of {} frames are new", after.len());
    }

    #[test]
    fn a_frame_of_another_kind_is_refused() {
        let bytes = FrameBuilder::new("hunk").finish(&[]);
        assert!(parse::<String>(&bytes).unwrap_err().contains("hunk"));
    }
}
