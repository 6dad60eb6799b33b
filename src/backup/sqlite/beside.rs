//! What lies beside databases: `-wal`, `-journal` and `-shm` belong to the database whose name they begin with.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, statat};

use super::{header, registry, side_of};
use crate::backup::read::read_some;
use crate::backup::walk::Role;

/// The ends of the names of what lies beside a database.
pub const SUFFIXES: [&str; 3] = ["-journal", "-shm", "-wal"];

/// The databases of one folder that have something beside them.
#[derive(Debug, Default)]
pub struct Databases(HashMap<Vec<u8>, Role>);

impl Databases {
    /// Whether a name is that of a file beside one of them.
    pub fn is_side(&self, name: &[u8]) -> bool {
        !self.0.is_empty() && database_of(name).is_some_and(|database| self.0.contains_key(database))
    }

    /// What the file of this name is.
    pub fn role(&self, name: &[u8]) -> Role {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// The name, or path, of the database that a side file would belong to by its name.
pub fn database_of(name: &[u8]) -> Option<&[u8]> {
    let database = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix.as_bytes()))?;
    if database.is_empty() || database.ends_with(b"/") { None } else { Some(database) }
}

/// Finds the databases of a folder that have something beside them, among its sorted names.
pub fn databases(folder: &OwnedFd, names: &[Vec<u8>]) -> Databases {
    let mut found = HashMap::new();
    let has = |name: &[u8]| names.binary_search_by(|n| n.as_slice().cmp(name)).is_ok();
    for name in names {
        let Some(database) = database_of(name).filter(|database| has(database)) else { continue };
        if !found.contains_key(database) && is_database(folder, database) {
            let look = |suffix: &str| {
                let name = [database, suffix.as_bytes()].concat();
                let stat = statat(folder, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW).ok()?;
                (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| side_of(&stat))
            };
            found.insert(database.to_vec(), Role::Database { wal: look("-wal"), journal: look("-journal") });
        }
    }
    Databases(found)
}

/// Whether a file is a database by its content; what cannot be read is none, and its reader will say why.
fn is_database(folder: &OwnedFd, name: &[u8]) -> bool {
    let name = OsStr::from_bytes(name);
    let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size == 0 {
        return false;
    }
    let _hold = registry::hold(stat.st_dev, stat.st_ino);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(folder, name, flags, Mode::empty()).map(File::from) else { return false };
    let mut first = [0; 100];
    let database = read_some(&file, 0, &mut first).is_ok_and(|n| header::Header::parse(&first[..n]).is_some());
    // Another file may have come under the name: it is closed under its own hold.
    let _other = match fstat(&file) {
        Ok(now) if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino) => {
            Some(registry::hold(now.st_dev, now.st_ino))
        }
        _ => None,
    };
    drop(file);
    database
}
