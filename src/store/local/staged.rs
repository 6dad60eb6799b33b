//! The staging of a folder: packs that are not objects yet are whole and durable files in `tmp/`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::folders::{make, split, sync};
use super::temporary::Temporary;
use super::{LocalStore, Result, Staging, StoreError, TMP, failed};
use crate::fs::open_file;
use crate::path::shown;

/// How often the waiting files get a new mtime, so that no other writer takes them for those of a killed one and sweeps
/// them.
const TOUCHED: Duration = Duration::from_secs(3600);

/// Files that wait until they become objects.
pub struct Staged<'s> {
    store: &'s LocalStore,
    waiting: Mutex<StagedFiles>,
}

struct StagedFiles {
    /// The names of the temporary files, by the names of the objects that they are to become.
    files: BTreeMap<String, String>,
    touched: Instant,
}

impl<'s> Staged<'s> {
    /// Returns a staging without files.
    pub fn new(store: &'s LocalStore) -> Self {
        Staged { store, waiting: Mutex::new(StagedFiles { files: BTreeMap::new(), touched: Instant::now() }) }
    }

    fn waiting(&self) -> MutexGuard<'_, StagedFiles> {
        // The map is intact between any two statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staging for Staged<'_> {
    fn put(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        let temporary = self.store.write(&self.store.make_top()?, name, body)?;
        let mut waiting = self.waiting();
        waiting.files.insert(name.into(), temporary.name);
        if waiting.touched.elapsed() > TOUCHED {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            for file in waiting.files.values() {
                let times = Timestamps { last_access: now, last_modification: now };
                if let Err(why) = utimensat(&temporary.tmp, file, &times, AtFlags::SYMLINK_NOFOLLOW) {
                    tracing::debug!("could not renew the mtime of {file}: {why}");
                }
            }
            waiting.touched = Instant::now();
        }
        Ok(())
    }

    fn publish(&self, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let names: Vec<_> = self.waiting().files.keys().filter(|name| wanted(name)).cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let top = self.store.make_top()?;
        let folders: BTreeSet<&str> = names.iter().map(|name| Ok(split(name)?.0)).collect::<Result<_>>()?;
        let folders: BTreeMap<&str, _> =
            folders.into_iter().map(|folder| Ok((folder, make(&top, folder)?))).collect::<Result<_>>()?;
        for name in &names {
            let Some(temporary) = self.waiting().files.remove(name) else { continue };
            let tmp = make(&top, TMP)?;
            let doing = || format!("write {}", shown(self.store.path(name)));
            let (file, _) = open_file(&tmp, temporary.as_ref()).map_err(failed(doing))?;
            let from = Temporary { tmp, name: temporary, file };
            let (folder, last) = split(name)?;
            if !self.store.give_name(name, &from, (&folders[folder], last))? {
                return Err(StoreError::AlreadyExists { name: name.clone() });
            }
        }
        folders.values().try_for_each(sync)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        let files = std::mem::take(&mut self.waiting().files);
        if files.is_empty() {
            return;
        }
        // A file that stays behind is swept later.
        let found = self.store.within(TMP, |tmp| {
            for file in files.into_values() {
                if let Err(why) = tmp.remove_file(&file) {
                    tracing::debug!("could not remove the temporary file {file}: {why}");
                }
            }
            Ok(Some(()))
        });
        if let Err(why) = found {
            tracing::debug!("could not remove temporary files in {TMP}: {why}");
        }
    }
}
