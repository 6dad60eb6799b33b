//! Notes which files of a tree are as a snapshot has them, so that another snapshot's tree can take over those that it has, too.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::path::EntryPath;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::Hash;

/// Most files that are noted, in about 20 MiB of memory. The others are read again.
const MOST: usize = 256 << 10;

/// The files of a tree, each with what makes it equal to another one: content, size, owner, mode, time and extended attributes.
#[derive(Debug, Default)]
pub struct FileBook {
    /// By the hash of the path, the hash of all that a restore gives to the file.
    files: Mutex<HashMap<Hash, Hash>>,
}

/// The hash of all that a restore gives to a file. `None` if it is no file whose content is known.
fn content(entry: &Entry) -> Option<Hash> {
    let hash = entry.hash.filter(|_| entry.kind == EntryKind::File)?;
    let mut all = hash.0.to_vec();
    all.extend(entry.size.to_le_bytes());
    all.extend(entry.mtime.to_le_bytes());
    [entry.mode, entry.uid, entry.gid].iter().for_each(|number| all.extend(number.to_le_bytes()));
    for (name, value) in &entry.xattrs {
        for part in [&name.0, &value.0] {
            all.extend((part.len() as u64).to_le_bytes());
            all.extend(part);
        }
    }
    Some(Hash::of(&all))
}

impl FileBook {
    fn files(&self) -> MutexGuard<'_, HashMap<Hash, Hash>> {
        // Nothing panics while it holds the lock.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a file that is there, whole and verified, with everything that the entry says.
    pub fn note(&self, entry: &Entry) {
        let Some(content) = content(entry) else { return };
        let mut files = self.files();
        if files.len() < MOST {
            files.insert(Hash::of(entry.path.bytes()), content);
        }
    }

    /// Whether the file at the path of an entry is what the entry says.
    pub fn holds(&self, entry: &Entry) -> bool {
        let Some(content) = content(entry) else { return false };
        self.files().get(&Hash::of(entry.path.bytes())) == Some(&content)
    }

    /// Forgets a file: it is not there any more, or not as it was.
    pub fn forget(&self, path: &EntryPath) {
        self.files().remove(&Hash::of(path.bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::EscapedBytes;
    use crate::restore::missing;

    #[test]
    fn a_file_is_held_only_if_all_of_it_is_the_same() {
        let path = |path: &str| EntryPath::root().join(path.as_bytes());
        let file = Entry {
            kind: EntryKind::File,
            hash: Some(Hash::of(b"content")),
            size: 7,
            mtime: 5,
            xattrs: vec![(EscapedBytes(b"user.a".to_vec()), EscapedBytes(b"b".to_vec()))],
            ..missing::folder(path("a"), 0o640)
        };
        let book = FileBook::default();
        assert!(!book.holds(&file));
        book.note(&file);
        // Where the content lies in the vault, and what the file was on the disk that it came from, is not restored.
        assert!(book.holds(&Entry { inode: 9, ctime: 9, link: Some("1".into()), ..file.clone() }));
        let xattrs = vec![(EscapedBytes(b"user.ab".to_vec()), EscapedBytes(Vec::new()))];
        for (what, other) in [
            ("path", Entry { path: path("b"), ..file.clone() }),
            ("content", Entry { hash: Some(Hash::of(b"other")), ..file.clone() }),
            ("unknown content", Entry { hash: None, ..file.clone() }),
            ("size", Entry { size: 8, ..file.clone() }),
            ("time", Entry { mtime: 6, ..file.clone() }),
            ("mode", Entry { mode: 0o600, ..file.clone() }),
            ("owner", Entry { uid: 77, ..file.clone() }),
            ("group", Entry { gid: 77, ..file.clone() }),
            ("attributes", Entry { xattrs, ..file.clone() }),
            ("kind", Entry { kind: EntryKind::Folder, ..file.clone() }),
        ] {
            assert!(!book.holds(&other), "{what}");
        }
        book.forget(&file.path);
        assert!(!book.holds(&file));
    }
}
