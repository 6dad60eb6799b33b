//! Tells whether a database's filesystem has what SQLite needs, before SQLite opens anything.

use std::fs::File;

use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::header::LOCKS_AT;
use crate::fs::filesystem::remote;

/// Why a database on this file's filesystem cannot be read through SQLite; `None` if it can.
///
/// # Errors
/// A filesystem that does not say what it is.
pub fn unfit(file: &File) -> Result<Option<String>, Errno> {
    if let Some(name) = remote(file)? {
        return Ok(Some(format!("it lies on {name}, where locks cannot be relied on")));
    }
    let wanted = Flock { start: LOCKS_AT, length: 512, ..Flock::from(FlockType::ReadLock) };
    match fcntl_getlk(file, &wanted) {
        Ok(_) => Ok(None),
        Err(why) => Ok(Some(format!("its filesystem has no locks: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_filesystem_has_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        // A test's folder lies on none of the filesystems that are told apart here.
        assert_eq!(unfit(&File::open(&path).unwrap()).unwrap(), None);
    }
}
