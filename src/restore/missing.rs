//! Folders that a snapshot has no entry for, although it has entries for what lies in them, and what is reported of
//! them.

use crate::path::EntryPath;
use crate::vault::entry::{self, Entry, Extent};
use crate::vault::tree::Remark;

/// Most remarks that are reported one by one.
const TOLD: usize = 100;

/// The mode of a folder that a faulty writer left out.
pub const LEFT_OUT: u32 = 0o755;
/// The mode of a folder whose entry was lost with a damaged part of the vault: it may have been closed to others.
pub const LOST: u32 = 0o700;

/// Makes an entry for a folder of which only the path is known; it belongs to the current user.
pub fn folder(path: EntryPath, mode: u32) -> Entry {
    Entry {
        path,
        kind: entry::EntryKind::Folder,
        size: 0,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: 0,
        ctime: 0,
        inode: 0,
        target: None,
        xattrs: Vec::new(),
        hash: None,
        link: None,
        racy: false,
        header: entry::TAR_BLOCK,
        extents: vec![Extent::zeros(entry::TAR_BLOCK)],
        map: None,
        database: None,
    }
}

/// The text of a remark for a reader, which makes a folder that is missing.
pub fn warning(remark: &Remark) -> String {
    match remark {
        Remark::NoFolder(_) => format!("{remark}; it was made"),
        _ => remark.to_string(),
    }
}

/// The texts of all remarks for a reader. The last line counts the remarks that are too many to list.
pub fn warnings(remarks: &[Remark]) -> Vec<String> {
    let mut texts: Vec<_> = remarks.iter().take(TOLD).map(warning).collect();
    if remarks.len() > TOLD {
        texts.push(format!("the snapshot has {} more such faults; `lastgood verify` names them", remarks.len() - TOLD));
    }
    texts
}
