//! Reads what is left of damaged hunks and of a damaged list of hunks: each entry stands alone.

use super::read_hunk;
use crate::error::{Error, Kind, Result};
use crate::path::EntryPath;
use crate::vault::decoder::Decoder;
use crate::vault::entry::Entry;
use crate::vault::hunk;
use crate::vault::list::{self, List};
use crate::vault::pack::{self, PackKind};
use crate::vault::read::PackReader;
use crate::vault::root::{HunkRef, Root};

/// The readable part of a damaged hunk.
#[derive(Debug, Default)]
pub struct SalvagedHunk {
    /// The entries that can be read, exactly as the hunk has them.
    pub entries: Vec<Entry>,
    /// Problems, where something cannot be read or is not as the root says: the path, if it is known, and why.
    pub bad: Vec<(Option<EntryPath>, String)>,
}

/// Reads all entries of a hunk that can be read.
///
/// # Errors
/// The store fails; damage, if not even the frame is the one that was stored.
pub fn read_left(packs: &PackReader, hunk: &HunkRef, decoder: &mut Decoder) -> Result<SalvagedHunk> {
    match read_hunk(packs, hunk, decoder) {
        Err(why) if why.kind() == Kind::Damage => {}
        read => return read.map(|entries| SalvagedHunk { entries, bad: Vec::new() }),
    }
    let bytes = packs.index_frame(&hunk.frame, decoder)?;
    let mut left = each_line(&bytes)
        .map_err(|why| Error::damage(format!("read {}", pack::name(PackKind::Index, hunk.frame.pack)), why))?;
    let count = (left.entries.len() + left.bad.len()) as u64;
    if count != hunk.entries {
        left.bad.push((None, format!("the hunk holds {count} entries where the root says {}", hunk.entries)));
    } else if left.bad.is_empty() {
        left.bad.push((None, "the hunk begins with another entry than the root says".into()));
    }
    Ok(left)
}

/// Returns the entries of a hunk's lines; each line below the head is parsed on its own.
fn each_line(bytes: &[u8]) -> Result<SalvagedHunk, String> {
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let head = lines.next().unwrap_or_default();
    hunk::parse(head)?;
    let mut left = SalvagedHunk::default();
    for line in lines {
        match hunk::parse(&[head, line].concat()) {
            Ok(entries) => left.entries.extend(entries),
            Err(why) => left.bad.push((path_of(line), why)),
        }
    }
    Ok(left)
}

/// Returns the path that a line gives, if that much of it can be understood.
fn path_of(line: &[u8]) -> Option<EntryPath> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    serde_json::from_value(value.get("path")?.clone()).ok()
}

/// The readable part of a snapshot's list of hunks.
#[derive(Debug, Default)]
pub struct HunksLeft {
    /// The hunks, in order.
    pub hunks: Vec<HunkRef>,
    /// Where hunks are missing, and why: before the hunk of this index.
    pub lost: Vec<(usize, String)>,
}

/// Reads the part of the list of hunks that can be read.
///
/// # Errors
/// The store fails.
pub fn hunks_left(packs: &PackReader, root: &Root) -> Result<HunksLeft> {
    let frames = match &root.hunks {
        List::Items(hunks) => return Ok(HunksLeft { hunks: hunks.clone(), lost: Vec::new() }),
        List::Frames(frames) => frames,
    };
    let (mut left, mut decoder) = (HunksLeft::default(), Decoder::new()?);
    for frame in frames {
        let read = packs.index_frame(frame, &mut decoder).and_then(|bytes| {
            let name = || format!("read {}", pack::name(PackKind::Index, frame.pack));
            list::parse::<HunkRef>(&bytes).map_err(|why| Error::damage(name(), why))
        });
        match read {
            Ok(hunks) => left.hunks.extend(hunks),
            Err(why) if why.kind() == Kind::Damage => left.lost.push((left.hunks.len(), why.to_string())),
            Err(why) => return Err(why),
        }
    }
    Ok(left)
}
