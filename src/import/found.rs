//! What an archive holds, whatever its format.

use std::io::Read;

use crate::path::EntryPath;

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path, without a slash or `./` at the beginning.
    pub path: EntryPath,
    /// What it is.
    pub kind: FoundKind,
    /// Its permission bits.
    pub mode: u32,
    /// The numbers of its owner and group, if the archive tells them.
    pub owner: Option<(u32, u32)>,
    /// Its modification time, in seconds and ns since 1970.
    pub mtime: (i64, u32),
    /// Its extended attributes: names and values.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry of an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundKind {
    /// A folder.
    Folder,
    /// A file of this many bytes, of which the archive holds these ranges: offset and length. All else is zeros.
    File(u64, Vec<(u64, u64)>),
    /// A symlink, and where it points to.
    Symlink(Vec<u8>),
    /// Another name of the file at a path.
    HardLink(EntryPath),
    /// Something that no data directory needs: a device, a named pipe.
    Other(&'static str),
}

/// Takes what an archive holds, entry by entry; the reader gives the bytes of a file's ranges, one after the other.
pub type Take<'t> = dyn FnMut(Found, &mut dyn Read) -> crate::error::Result<()> + 't;

/// Reads a path as archives have it: with `./` or `/` before it, with `/` after it, and with empty components.
///
/// # Errors
/// A text that says what is wrong with it: it leads out of the archive's folder, for example.
pub fn path(bytes: &[u8]) -> Result<EntryPath, String> {
    let parts: Vec<_> = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    match parts.is_empty() {
        true => Ok(EntryPath::root()),
        false => EntryPath::new(parts.join(&b'/')),
    }
}
