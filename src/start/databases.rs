//! Checks the databases of a data directory, before an app opens them.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;

use super::known::FailedDatabase;
use crate::error::{Code, Error, Result};
use crate::fs::beneath::Directory;
use crate::lineage::is_own;
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::source::found::SourceEntry;
use crate::source::select::Select;
use crate::source::walk::{Met, Walker};
use crate::sqlite::at::DatabaseLocation;
use crate::sqlite::check::Checked;
use crate::sqlite::error::ReadError;
use crate::sqlite::fd_registry;
use crate::sqlite::header::Header;
use crate::sqlite::live::{Live, LiveOptions};
use crate::sqlite::side_files::Role;
use crate::vault::entry::{CheckKind, EntryKind};

/// The smallest database, in bytes: a page.
const SMALLEST: u64 = 512;

/// How databases are checked.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseChecks {
    /// How thoroughly.
    pub kind: CheckKind,
    /// How long a database may stay locked before it is left unchecked.
    pub patience: Duration,
}

/// The result of checking databases.
#[derive(Debug, Default)]
pub struct CheckedDatabases {
    /// How many passed.
    pub sound: u64,
    /// The first that did not.
    pub failed: Option<FailedDatabase>,
    /// Those that could not be checked, and why.
    pub unchecked: Vec<(EntryPath, String)>,
}

/// Checks the databases in a directory, in path order, up to the first that fails. `known` are files that were
/// databases when the newest snapshot was taken: one that is no database now has failed.
///
/// # Errors
/// A directory that cannot be read; a stop.
pub fn check(
    root: &Directory,
    select: &Select,
    known: &[EntryPath],
    how: DatabaseChecks,
    ctx: &Context,
) -> Result<CheckedDatabases> {
    let mut checked = CheckedDatabases::default();
    Walker::quiet(root, select, ctx.stop).whole(|met| {
        ctx.check("check the databases")?;
        let Met::Entry(found) = met else { return Ok(()) };
        let is_file = found.kind == EntryKind::File && found.role != Role::Side && !is_own(&found.path);
        if !is_file || checked.failed.is_some() {
            return Ok(());
        }
        let path = found.path.clone();
        match check_one(root, &found, how, ctx) {
            Ok(Some(Checked::Sound)) => checked.sound += 1,
            Ok(Some(Checked::Damaged(why))) => checked.failed = Some(FailedDatabase { path, why }),
            Ok(Some(Checked::Unknown(why))) => checked.unchecked.push((path, why)),
            Ok(None) if known.contains(&path) => {
                let why = "it was a SQLite database when the newest snapshot was taken, and is none now".into();
                checked.failed = Some(FailedDatabase { path, why });
            }
            Ok(None) => {}
            Err(ReadError::Stopped) => {
                return Err(Error::failed("check the databases", "it was told to stop").with_code(Code::Stopped));
            }
            Err(why) => checked.unchecked.push((path, why.to_string())),
        }
        Ok(())
    })?;
    Ok(checked)
}

/// Checks one file; `None` if it is no database.
fn check_one(
    root: &Directory,
    found: &SourceEntry,
    how: DatabaseChecks,
    ctx: &Context,
) -> Result<Option<Checked>, ReadError> {
    if found.size < SMALLEST {
        return Ok(None);
    }
    let failed = |why: rustix::io::Errno| ReadError::Failed(std::io::Error::from(why).to_string());
    let lock = || fd_registry::lock_inode(found.device, found.inode, ctx.stop).map_err(failed);
    let at = Arc::new(DatabaseLocation::beneath(root, &found.path).map_err(failed)?);
    let opened = fd_registry::open(lock()?, ctx.stop, || at.open("", OFlags::RDONLY)).map_err(failed)?;
    let header = Header::read(&opened.file).map_err(|why| ReadError::Failed(why.to_string()))?;
    if header.is_none() {
        return Ok(None);
    }
    drop(opened);
    let mut live = Live::open(at, lock()?, LiveOptions { patience: how.patience, stop: ctx.stop })?;
    live.begin()?;
    let checked = live.check(how.kind);
    live.end()?;
    checked.map(Some)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;

    use super::*;
    use crate::restore::sample::context;

    fn database(path: &std::path::Path) {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("create table t (a); create index i on t (a)").unwrap();
        for n in 0..2000 {
            connection.execute("insert into t values (?1)", [format!("{n:0100}")]).unwrap();
        }
    }

    #[test]
    fn the_first_damaged_database_is_found_and_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        fs::create_dir(data.join("sub")).unwrap();
        database(&data.join("a.db"));
        database(&data.join("sub/b.db"));
        fs::write(data.join("notes"), vec![b'x'; 4096]).unwrap();
        let run = |known: &[&str], kind| {
            let known: Vec<_> = known.iter().map(|path| EntryPath::new(*path).unwrap()).collect();
            let select = Select::new(data, &[], &[], &[], true).unwrap();
            let root = Directory::open(data).unwrap();
            let how = DatabaseChecks { kind, patience: Duration::ZERO };
            check(&root, &select, &known, how, &context()).unwrap()
        };
        let sound = run(&["a.db"], CheckKind::Full);
        assert!((sound.sound, sound.failed, sound.unchecked.len()) == (2, None, 0));
        let failed = run(&["notes"], CheckKind::Quick).failed.unwrap();
        assert!(failed.path.to_string() == "notes" && failed.why.contains("none now"), "{failed:?}");
        let mut bytes = fs::read(data.join("sub/b.db")).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8192].fill(0x5a);
        fs::write(data.join("sub/b.db"), bytes).unwrap();
        let failed = run(&[], CheckKind::Quick);
        assert_eq!((failed.sound, failed.failed.unwrap().path.to_string()), (1, "sub/b.db".into()));
    }
}
