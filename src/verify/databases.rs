//! Restores the databases of a snapshot to a scratch folder, and has SQLite check them.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use tempfile::TempDir;

use crate::error::{Doing, Kind, Result};
use crate::fs::Folder;
use crate::lineage;
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::restore::{self, select};
use crate::sqlite::check::{self, Checked};
use crate::sqlite::system_calls;
use crate::vault::Vault;
use crate::vault::entry::{CaptureMethod, CheckKind};
use crate::vault::read::PackReader;
use crate::vault::root::{DatabaseRecord, SnapshotName};

/// A database of a snapshot, and whether it is one after it was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// The database.
    pub path: EntryPath,
    /// How the database was captured.
    pub taken: CaptureMethod,
    /// The problem that the check found; `None` if it found none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Restores every database of the snapshot that `spec` names, one after the other, and checks it in full. If a database
/// was captured raw, SQLite first recovers it from what its app left beside it, as it would have in its place.
///
/// # Errors
/// Usage: no such snapshot. Failed: a store or disk that fails. Damage to the vault is reported for the database that
/// it hurts.
pub fn check(vault: &Vault, spec: &str, ctx: &Context) -> Result<Vec<Restored>> {
    let (snapshot, root) = select::find(vault, spec)?;
    let packs = PackReader::for_root(&*vault.store, &root)?;
    let mut checked = Vec::new();
    // No restore gives back what an old snapshot has in lastgood's own folder.
    let databases = packs.all(&root.databases)?.into_iter().filter(|database| !lineage::is_own(&database.path));
    for DatabaseRecord { path, taken, .. } in databases {
        ctx.check("check the snapshot's databases")?;
        let doing = || format!("check the database {path} of {snapshot}");
        let scratch = TempDir::with_prefix("lastgood-verify-").doing(doing)?;
        let (above, name) = (scratch.path().parent(), scratch.path().file_name());
        let folder = Folder::open(above.unwrap_or(Path::new(""))).doing(doing)?;
        let folder = folder.enter(name.unwrap_or_default()).doing(doing)?;
        let failed = match get_out(vault, snapshot, &path, scratch.path(), ctx) {
            Ok(()) => look(&scratch.path().join("data").join(path.as_path()), ctx)?,
            Err(why) if why.kind() == Kind::Damage => Some(why.to_string()),
            Err(why) => {
                let hint = "It is restored to a temporary folder; TMPDIR=/somewhere names one with more room.";
                return Err(why.within(doing()).hint(hint));
            }
        };
        // Emptied by descriptor, including what is in folders that the snapshot says nobody may write to.
        folder.empty().doing(doing)?;
        scratch.close().doing(doing)?;
        checked.push(Restored { snapshot, path, taken, failed });
    }
    Ok(checked)
}

/// Restores a database, together with what lies beside it in the snapshot.
fn get_out(vault: &Vault, snapshot: SnapshotName, path: &EntryPath, scratch: &Path, ctx: &Context) -> Result<()> {
    let options = restore::options::RestoreOptions {
        snapshot: snapshot.to_string(),
        paths: vec![path.clone()],
        ..restore::options::RestoreOptions::latest(scratch.join("data"))
    };
    restore::restore(vault, &options, ctx).map(drop)
}

/// Returns the problem with a database, if there is one.
fn look(file: &Path, ctx: &Context) -> Result<Option<String>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    ctx.monitor.finishing("checking the database");
    // Called before the first connection of this process; what is done here is not affected by it.
    system_calls::replaced();
    let checked_file = Connection::open_with_flags(file, flags).and_then(|connection| {
        // The files beside the database are recovered before the first look at it.
        check::check(&connection, CheckKind::Full, ctx.stop)
    });
    ctx.check("check the snapshot's databases")?;
    Ok(match checked_file {
        Ok(Checked::Sound) => None,
        Ok(Checked::Damaged(what)) => Some(what),
        // If something that only the app has is missing, a collation or a module, that says nothing against the file.
        Ok(Checked::Unknown(why)) => {
            tracing::warn!("the database {} could be read, but SQLite could not check it: {why}", file.display());
            None
        }
        Err(why) => Some(why.to_string()),
    })
}
