//! What `run` does around a restore of its data directory, beside the restore itself: the new directory is locked before it is in
//! place, and what snapshots leave out of the old one comes back.
//!
//! `run` moves nothing aside that no snapshot holds, and what `--exclude` and `--include` leave out is in none. Saving it first would
//! break what these options are for: it may be a cache larger than the data, or a secret that must not leave the machine. So it is
//! carried over ([`carry_over`]), after the exchange. A note in `.lastgood` says before the exchange what is to be done, in the
//! new directory and in one that may be filled in place: a `run` that is killed meanwhile has lost nothing, and the next one finds the
//! note and ends it before it looks at the directory. The note says what lay aside before, so that nothing of an older restore is
//! taken.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, fsync, openat, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Around;
use crate::error::{Doing, Error, Result};
use crate::fs::{Folder, SAFE, is_file, open_file};
use crate::lineage::{OWN_FOLDER, own_folder};
use crate::restore::before_exchange::BeforeExchange;
use crate::restore::carried::{carry_over, set_aside};
use crate::restore::killed::{self, Leftover};
use crate::restore::options::RestoreOptions;
use crate::run::lock::RunLock;
use crate::source::select::Select;
use crate::text::count_of;

/// The file in lastgood's own folder that says what is still to be carried over.
const NOTE: &str = "carry.json";
/// The most bytes of it.
const LONGEST: u64 = 1 << 20;
/// Most entries that a warning names.
const NAMED: usize = 3;

/// What is to be carried over after a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CarryNote {
    /// What lay aside before, beside the directory.
    beside: Vec<String>,
    /// The same, inside it.
    inside: Vec<String>,
    /// What snapshots hold.
    include: Vec<String>,
    exclude: Vec<String>,
    sqlite: bool,
}

/// A restore of the data directory that is under way.
pub(super) struct Exchange {
    /// The lock of the new directory. `None` until that is about to be put into place, and where the old one stays.
    staged: Arc<Mutex<Option<RunLock>>>,
}

impl Around {
    /// Prepares a restore: its new directory is to have a lock and a note from its first moment on.
    pub(super) fn prepare_exchange(&self, options: &mut RestoreOptions) -> Result<Exchange> {
        let backup = &self.settings.rules.backup;
        let data = &self.settings.data;
        let named = |folder: Option<&Path>, in_place| match folder.is_some_and(Path::is_dir) {
            true => {
                let names = set_aside(&data.canonicalize().unwrap_or_else(|_| data.clone()), in_place)?;
                Ok(names.iter().map(|name| name.to_string_lossy().into_owned()).collect())
            }
            false => Result::Ok(Vec::new()),
        };
        let note = CarryNote {
            beside: named(data.parent(), false)?,
            inside: named(Some(data), true)?,
            include: backup.include.clone(),
            exclude: backup.exclude.clone(),
            sqlite: backup.sqlite,
        };
        let doing = || format!("note what snapshots leave out of {}", self.settings.data.display());
        let note = serde_json::to_vec(&note).map_err(|why| Error::failed(doing(), why))?;
        if self.has_data() {
            // If it is filled in place, this folder stays.
            write_note(&own_folder(&Folder::open(&self.settings.data).doing(doing)?)?, &note).doing(doing)?;
        }
        let staged = Arc::new(Mutex::new(None));
        let (slot, host, target) = (staged.clone(), backup.host.clone(), self.settings.data.clone());
        options.before_exchange = Some(BeforeExchange::new(move |own| {
            let lock = RunLock::take_staged(own, &target, &host)?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
            write_note(own, &note).doing(|| format!("make {NOTE} in {}", own.path().display()))
        }));
        Ok(Exchange { staged })
    }

    /// Ends a restore that went well: takes over the lock of the new directory, and carries over what snapshots leave out.
    pub(super) fn end_exchange(&self, exchange: &Exchange) -> Result<()> {
        let staged = exchange.staged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let doing = || format!("open {}", self.settings.data.display());
        let directory = Folder::open(&self.settings.data).doing(doing)?;
        // The directory itself stays where it was filled in place.
        if let Some(lock) = staged.filter(|lock| lock.is_of(&directory)) {
            self.term.set_lock(Some(Arc::new(lock)));
        }
        self.finish_carrying()
    }

    /// Carries over what a restore has left to do, also one of a `run` that was killed.
    pub(super) fn finish_carrying(&self) -> Result<()> {
        carry(&self.settings.data)
    }
}

/// Does what the note in a data directory says, if there is one, and removes it.
fn carry(data: &Path) -> Result<()> {
    let doing = || format!("bring back what snapshots leave out of {}", data.display());
    let Some(note) = read_note(data) else { return Ok(()) };
    let select = match Select::new(data, &note.include, &note.exclude, &[], note.sqlite) {
        Ok(select) => select,
        // No `run` notes such patterns. The note is not to keep the app from starting for ever.
        Err(why) => {
            tracing::error!(
                "what snapshots leave out stays in the directory that was moved aside, since {NOTE} in {OWN_FOLDER} cannot be used: {why}"
            );
            forget(data);
            return Ok(());
        }
    };
    let target = data.canonicalize().doing(doing)?;
    // If it was killed just before the exchange, the new content may have the name for the old.
    let unplaced: Vec<_> = killed::leftovers(&target).iter().filter_map(Leftover::unplaced).collect();
    for (in_place, before) in [(false, &note.beside), (true, &note.inside)] {
        for name in set_aside(&target, in_place)? {
            if before.iter().any(|before| *before == name.to_string_lossy()) {
                continue;
            }
            let aside: PathBuf = if in_place { target.join(name) } else { target.with_file_name(name) };
            if unplaced.contains(&aside) || !aside.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                continue;
            }
            let done = carry_over(&aside, &target, &select)?;
            if done.moved > 0 {
                let moved = count_of(done.moved, "path");
                tracing::info!("{moved} that snapshots leave out came over from {}", aside.display());
            }
            if !done.stays.is_empty() {
                let named: Vec<_> = done.stays.iter().take(NAMED).map(|(path, why)| format!("{path}: {why}")).collect();
                let more = done.stays.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                tracing::warn!(
                    "what snapshots leave out is only in {} now: {}{more}",
                    aside.display(),
                    named.join("; ")
                );
            }
            // If somebody moves that directory back, it is not to take anything from another one.
            forget(&aside);
        }
    }
    let open = Folder::open(data).doing(doing)?;
    syncfs(open.readable().doing(doing)?).doing(doing)?;
    forget(data);
    Ok(())
}

/// Reads the note in a data directory. `None` if there is none that can be understood.
fn read_note(data: &Path) -> Option<CarryNote> {
    let own = Folder::open(data).and_then(|data| data.enter(OWN_FOLDER)).ok()?;
    let (file, stat) = open_file(&own, NOTE.as_ref()).ok()?;
    let mut text = Vec::new();
    if !is_file(&stat) || file.take(LONGEST).read_to_end(&mut text).is_err() {
        return None;
    }
    serde_json::from_slice(&text).ok()
}

/// Writes the note into lastgood's own folder, durably.
fn write_note(own: &Folder, note: &[u8]) -> std::io::Result<()> {
    // What has its name may be another name of some other file.
    match own.remove_file(NOTE) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(why) => return Err(why.into()),
    }
    let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let mut file = File::from(openat(own, NOTE, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(note)?;
    file.sync_all()?;
    match own.readable().and_then(fsync) {
        // A mounted bucket.
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        done => Ok(done?),
    }
}

/// Removes the note from a directory, if it has one.
fn forget(directory: &Path) {
    let removed = Folder::open(directory).and_then(|directory| directory.enter(OWN_FOLDER)?.remove_file(NOTE));
    if let Err(why) = removed.or_else(|why| if why == Errno::NOENT { Ok(()) } else { Err(why) }) {
        tracing::warn!("{NOTE} in {OWN_FOLDER} of {} stays: {why}", directory.display());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn note(data: &Path, beside: &[&str], exclude: &str) {
        let beside = beside.iter().map(|&name| name.to_owned()).collect();
        let exclude = vec![exclude.to_owned()];
        let note = CarryNote { beside, inside: Vec::new(), include: Vec::new(), exclude, sqlite: true };
        let own = own_folder(&Folder::open(data).unwrap()).unwrap();
        write_note(&own, &serde_json::to_vec(&note).unwrap()).unwrap();
    }

    #[test]
    fn what_a_killed_run_had_not_carried_over_comes_over_and_nothing_of_an_older_restore() {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        let make = |path: &str| {
            fs::create_dir_all(scratch.path().join(path).parent().unwrap()).unwrap();
            fs::write(scratch.path().join(path), "").unwrap();
        };
        let (old, new, inside) =
            ("data.replaced-20261130T110000Z", "data.replaced-20261130T120000Z", "lastgood.replaced-20261130T120000Z");
        for path in ["data/a", &format!("{old}/old.tmp"), &format!("{new}/new.tmp"), &format!("data/{inside}/in.tmp")] {
            make(path);
        }
        fs::create_dir_all(scratch.path().join(new).join(OWN_FOLDER)).unwrap();
        carry(&data).unwrap();
        assert!(!data.join("new.tmp").exists(), "there is no note");
        note(&data, &[old], "*.tmp");
        fs::copy(data.join(OWN_FOLDER).join(NOTE), scratch.path().join(new).join(OWN_FOLDER).join(NOTE)).unwrap();
        carry(&data).unwrap();
        assert!(data.join("new.tmp").exists() && data.join("in.tmp").exists() && !data.join("old.tmp").exists());
        assert!(scratch.path().join(old).join("old.tmp").exists());
        for directory in [&data, &scratch.path().join(new)] {
            assert!(!directory.join(OWN_FOLDER).join(NOTE).exists(), "{directory:?}");
        }
        // Patterns that nobody can read keep no app from starting.
        note(&data, &[old], "*.{tmp");
        carry(&data).unwrap();
        assert!(!data.join(OWN_FOLDER).join(NOTE).exists());
        make(&format!("{new}/later.tmp"));
        carry(&data).unwrap();
        assert!(!data.join("later.tmp").exists());
    }

    #[test]
    fn a_planted_note_or_link_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, far) = (scratch.path().join("data"), scratch.path().join("far"));
        fs::create_dir(&data).unwrap();
        fs::create_dir(&far).unwrap();
        fs::write(far.join("x.tmp"), "").unwrap();
        std::os::unix::fs::symlink(&far, scratch.path().join("data.replaced-20261130T120000Z")).unwrap();
        note(&data, &[], "*.tmp");
        carry(&data).unwrap();
        assert!(far.join("x.tmp").exists() && !data.join("x.tmp").exists());
        fs::write(far.join("note"), "of somebody").unwrap();
        std::os::unix::fs::symlink(far.join("note"), data.join(OWN_FOLDER).join(NOTE)).unwrap();
        assert_eq!(read_note(&data), None);
        note(&data, &[], "*.tmp");
        assert_eq!(fs::read_to_string(far.join("note")).unwrap(), "of somebody");
    }
}
