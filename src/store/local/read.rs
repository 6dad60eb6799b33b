//! Objects are read: only files that lie in the vault itself, and with errors that tell one bad object from a store that fails.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::folders::{not_followed, split};
use super::{CONFIG, LocalStore, Result, Store, StoreError, access, failed};
use crate::fs::open_file;
use crate::path::shown;

impl LocalStore {
    /// Opens an object's file, as [`LocalStore::open_regular_file`] does. If other objects can be read, the error is about this
    /// object alone.
    pub(super) fn open(&self, name: &str) -> Result<(File, u64)> {
        let unreadable = |why: String| StoreError::Unreadable { name: name.into(), why };
        match self.open_regular_file(name) {
            Err(StoreError::Failed { source, .. }) if is_denied(&source) => Err(self.denied_to_us(name)),
            Err(StoreError::Denied { .. }) => Err(self.denied_to_us(name)),
            Err(StoreError::Refused { why, .. }) if self.can_read_others(name) => Err(unreadable(why)),
            Err(StoreError::Failed { source, .. }) if is_of_object(&source) && self.can_read_others(name) => {
                Err(unreadable(source.to_string()))
            }
            opened => opened,
        }
    }

    /// Opens an object's file, and nothing else that lies in its place.
    pub(super) fn open_regular_file(&self, name: &str) -> Result<(File, u64)> {
        let path = self.path(name);
        let doing = || format!("open {}", shown(&path));
        let (folder, last) = split(name)?;
        let is_file = |there: &Stat| FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
        let no_file = |there: &Stat| not_followed(&path, there, ", not a file");
        let found = self.within(folder, |folder| {
            // Checked before it is opened: opening alone has effects on some devices.
            match folder.look(last).map_err(failed(doing))? {
                Some(there) if is_file(&there) => {}
                Some(there) => return Err(no_file(&there)),
                None => return Ok(None),
            }
            match open_file(folder, last.as_ref()) {
                Ok((file, there)) if is_file(&there) => Ok(Some((file, there.st_size as u64))),
                Ok((_, there)) => Err(no_file(&there)),
                Err(Errno::NOENT) => Ok(None),
                Err(why) => Err(failed(doing)(why)),
            }
        })?;
        found.ok_or_else(|| StoreError::NotFound { name: name.into() })
    }

    pub(super) fn read(&self, name: &str, file: &File, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        let Err(first) = file.read_exact_at(&mut bytes, offset) else { return Ok(bytes) };
        if is_denied(&first) {
            return Err(access::denied(name, &self.folder, &self.path(name)));
        }
        if !is_of_object(&first) {
            return Err(self.not_read(name, offset, length, first));
        }
        self.forget(name);
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            // A disk or a file server that returns nothing at all is a different matter from one bad place on it.
            Err(why) if is_of_object(&why) && self.can_read_others(name) => {
                Err(StoreError::Unreadable { name: name.into(), why: why.to_string() })
            }
            Err(why) => Err(self.not_read(name, offset, length, why)),
        }
    }

    fn not_read(&self, name: &str, offset: u64, length: u64, source: io::Error) -> StoreError {
        StoreError::Failed { doing: format!("read {length} bytes at {offset} of {}", shown(self.path(name))), source }
    }

    /// Whether an object other than this one can be read: the one that every vault has, from the medium and not from
    /// memory.
    fn can_read_others(&self, name: &str) -> bool {
        if name == CONFIG {
            return false;
        }
        self.forget(CONFIG);
        self.open_regular_file(CONFIG).is_ok_and(|(file, _)| file.read_at(&mut [0], 0).is_ok())
    }
}

/// Whether the error is about permissions.
fn is_denied(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::PermissionDenied
}

/// Whether the error may be about this one object: a bad sector, a wrong checksum in the filesystem.
fn is_of_object(why: &io::Error) -> bool {
    let errno = why.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::NODATA))
}
