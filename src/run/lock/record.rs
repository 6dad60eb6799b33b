//! Says what the lock says outside of the data directory, where nobody but this user can have written it.
//!
//! A record in the directory goes with it: when it is deleted, exchanged or restored by hand, nothing in it tells what an app has left whose
//! `run` was killed. Some apps insist on a directory that is empty when they start, so that there is none at all. And it is the app's user
//! that owns the directory: root must not end processes because that user has written down their numbers. So the same is written down
//! elsewhere, before the app starts and as long as `run` has it: for root in `/run`, otherwise in `/dev/shm` or `/tmp`. It says something
//! only as long as the numbers of processes do, and these folders forget it at a boot and with the container.
//!
//! Anybody may write to the last two. So the file is named by the user and the directory ([`data_key`]), and is believed only if it is of
//! this user, has no other name, nobody else can write to it or remove it, and it says itself that it is about this directory. Where
//! somebody has put something under its name, or none of the folders can be written to, there is no such record, which is told.
//!
//! It is also how two `run` meet on one path after the directory was deleted under the first one, and its lock with it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, RenameFlags, openat, renameat_with};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{LockHolder, LockWait, STEP, TELL, end_remains, trust};
use crate::error::{Code, Error, Result};
use crate::fs::{Folder, SAFE};
use crate::run::left::{Remains, RunProof};
use crate::run::mark::data_key;
use crate::run::process::{Process, ProcessIdentity};

/// Where the record may be: the first folder that can be written to has it.
const FOLDERS: [&str; 3] = ["/run", "/dev/shm", "/tmp"];
/// The most bytes of it that are read.
const MAX_FILE: u64 = 1 << 20;
/// The most processes without the mark that are written down.
const MAX_UNMARKED: usize = 10_000;

/// The record, until it is dropped.
#[derive(Debug)]
pub struct RunRecord {
    folder: Folder,
    name: String,
    /// Its content.
    said: Mutex<LockHolder>,
}

impl RunRecord {
    /// Writes down that this process runs an app on a directory. `None`, after a warning, if that cannot be written down.
    ///
    /// # Errors
    /// Another `run` has begun to run an app on it meanwhile: [`Code::Locked`].
    pub fn write(data: &Path, host: &str) -> Result<Option<RunRecord>> {
        RunRecord::write_in(&FOLDERS, data, host)
    }

    fn write_in(folders: &[&str], data: &Path, host: &str) -> Result<Option<RunRecord>> {
        let mut whys = Vec::new();
        for folder in folders {
            match RunRecord::write_to(folder, data, host) {
                Ok(Ok(record)) => return Ok(Some(record)),
                Ok(Err(other)) => return Err(runs_elsewhere(data, other)),
                Err(why) => whys.push(format!("{folder}: {why}")),
            }
        }
        tracing::warn!(
            "if this `lastgood run` is killed, the next one may not know all that its app has left, since that cannot be written down \
             outside of {}: {}",
            data.display(),
            whys.join("; ")
        );
        Ok(None)
    }

    /// Writes it to one folder. Returns the number of the other `run` if there is one.
    fn write_to(folder: &str, data: &Path, host: &str) -> io::Result<Result<RunRecord, u32>> {
        let key = data_key(data).ok_or(Errno::NOSYS)?;
        let (folder, name) = (Folder::open(Path::new(folder))?, name(&key));
        remove_drafts(&folder);
        match read(&folder, &name)? {
            Found::None => {}
            Found::Record(other) => match other.proof.as_ref().and_then(RunProof::other_run) {
                Some(other) => return Ok(Err(other)),
                // One of a `run` that is gone has done its duty by now: `end_left` comes before.
                None => folder.remove_file(&name)?,
            },
            Found::Unclear => folder.remove_file(&name)?,
        }
        let record = RunRecord { folder, name, said: Mutex::new(LockHolder::this(host)) };
        let said = record.said.lock().unwrap_or_else(PoisonError::into_inner);
        record.put(&said, RenameFlags::NOREPLACE)?;
        drop(said);
        Ok(Ok(record))
    }

    /// Writes down the app.
    pub fn note_app(&self, pid: u32) {
        self.change(|proof| {
            *proof = proof.clone().with_app(pid);
            true
        });
    }

    /// Writes down what the app has started without its mark, if that is news.
    pub fn note_unmarked(&self, processes: &[ProcessIdentity]) {
        self.change(|proof| proof.set_unmarked(processes, MAX_UNMARKED));
    }

    fn change(&self, change: impl FnOnce(&mut RunProof) -> bool) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.proof.as_mut().is_some_and(change)
            && let Err(why) = self.put(&said, RenameFlags::empty())
        {
            let path = self.folder.path().join(&self.name);
            tracing::warn!("what the app has started is not written down in {}: {why}", path.display());
        }
    }

    /// Puts what it says in place, in one step: a longer write may be cut short where this program is killed.
    fn put(&self, said: &LockHolder, how: RenameFlags) -> io::Result<()> {
        let (folder, new) = (&self.folder, format!("{}.{}", self.name, std::process::id()));
        match folder.remove_file(&new) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(why) => return Err(why.into()),
        }
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let mut file = File::from(openat(folder, &*new, flags, Mode::RUSR | Mode::WUSR)?);
        let put = serde_json::to_vec(said).map_err(io::Error::from).and_then(|text| {
            file.write_all(&text)?;
            Ok(renameat_with(folder, &*new, folder, &*self.name, how)?)
        });
        if put.is_err() {
            // It is of no use, and does no harm.
            let _ = folder.remove_file(&new);
        }
        put
    }

    /// Ends what an app has left that ran on this directory when its `run` was killed: by this record, by that of the killed one, or by the
    /// mark of the directory alone. A `run` that is there is waited for.
    ///
    /// # Errors
    /// A process does not end, or a `run` is there for longer than that is waited for: [`Code::Locked`]; a stop.
    pub fn end_left(data: &Path, wait: &LockWait) -> Result<()> {
        RunRecord::end_left_in(&FOLDERS, data, wait)
    }

    fn end_left_in(folders: &[&str], data: &Path, wait: &LockWait) -> Result<()> {
        let Some(key) = data_key(data) else { return Ok(()) };
        let name = name(&key);
        let record = |folder: &&str| {
            let folder = Folder::open(Path::new(folder)).ok()?;
            match read(&folder, &name) {
                Ok(Found::Record(said)) => said.proof.map(|proof| (folder, proof)),
                _ => None,
            }
        };
        let (began, mut told) = (Instant::now(), false);
        let records: Vec<_> = loop {
            let records: Vec<_> = folders.iter().filter_map(record).collect();
            let Some(other) = records.iter().find_map(|(_, proof)| proof.other_run()) else { break records };
            if wait.stop.load(Ordering::Relaxed) {
                let doing = format!("start the app on {}", data.display());
                return Err(Error::failed(doing, "it was told to stop").with_code(Code::Stopped));
            }
            if began.elapsed() >= wait.patience {
                return Err(runs_elsewhere(data, other));
            }
            if !told && began.elapsed() >= TELL {
                tracing::warn!(
                    "process {other}, another `lastgood run`, runs an app on {}: waiting up to {} s for it",
                    data.display(),
                    wait.patience.as_secs()
                );
                told = true;
            }
            std::thread::sleep(STEP.min(wait.patience.saturating_sub(began.elapsed())));
        };
        let gone: Vec<_> = records.into_iter().filter(|(_, proof)| proof.is_gone()).collect();
        let end = |proof| {
            let doing = || format!("start the app on {}", data.display());
            end_remains(&Remains { data: Some(&key), proof }, wait).map_err(|why| why.into_error(doing()))
        };
        if gone.is_empty() {
            return end(None);
        }
        for (folder, proof) in &gone {
            end(Some(proof))?;
            // It may be gone already: another one may do the same.
            let _ = folder.remove_file(&name);
        }
        Ok(())
    }
}

impl Drop for RunRecord {
    fn drop(&mut self) {
        let said = self.said.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Another `run` on this directory may have put its own there.
        if matches!(read(&self.folder, &self.name), Ok(Found::Record(there)) if there.proof == said.proof) {
            let _ = self.folder.remove_file(&self.name);
        }
    }
}

fn runs_elsewhere(data: &Path, other: u32) -> Error {
    let why = format!("process {other}, another `lastgood run`, runs an app on it");
    Error::failed(format!("start the app on {}", data.display()), why)
        .with_code(Code::Locked)
        .hint("One `lastgood run` at a time runs on a directory: end that one first.")
}

/// The name of the record of this user's `run` on a directory.
fn name(key: &str) -> String {
    format!("{}{key}.json", prefix())
}

/// The beginning of the names of this user's records.
fn prefix() -> String {
    format!("lastgood-run-{}-", geteuid().as_raw())
}

/// Removes the drafts of this user's processes that were killed before they had put them in place. A file of that name which is somebody
/// else's stays.
fn remove_drafts(folder: &Folder) {
    let prefix = prefix();
    let is_left = |name: &str| {
        let process = name.strip_prefix(&prefix).and_then(|rest| rest.rsplit_once(".json."))?.1.parse::<u32>().ok()?;
        let flags = SAFE | OFlags::RDONLY | OFlags::NONBLOCK;
        let draft: File = openat(folder, name, flags, Mode::empty()).ok()?.into();
        (Process::look(process).is_none() && trust::is_own(&draft)).then_some(())
    };
    for name in folder.names().unwrap_or_default() {
        // Another process may have removed it by now.
        if name.to_str().and_then(is_left).is_some() {
            let _ = folder.remove_file(&name);
        }
    }
}

/// Tells what is found under the name of a record.
enum Found {
    None,
    Record(Box<LockHolder>),
    /// This user's file, which says something else.
    Unclear,
}

/// Reads the record of a name, if there is one.
///
/// # Errors
/// It is not to be believed.
fn read(folder: &Folder, name: &str) -> io::Result<Found> {
    if !trust::is_own_place(&folder.path().join(name)) {
        return Err(io::Error::other("others can replace what is there"));
    }
    let file: File = match openat(folder, name, SAFE | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        Ok(file) => file.into(),
        Err(Errno::NOENT) => return Ok(Found::None),
        Err(why) => return Err(why.into()),
    };
    if !trust::is_own(&file) {
        return Err(io::Error::other("somebody else has made the file that is there"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text)?;
    let said: Option<LockHolder> = serde_json::from_slice(&text).ok();
    // A file that somebody has renamed is about another directory.
    let is_of = |said: &LockHolder| {
        said.proof.as_ref().and_then(RunProof::data).is_none_or(|data| name.ends_with(&format!("-{data}.json")))
    };
    Ok(said.filter(is_of).map_or(Found::Unclear, |said| Found::Record(Box::new(said))))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
    }

    fn end_left(folders: &[&str], data: &Path) -> Result<()> {
        let (never, time) = (AtomicBool::new(false), Duration::ZERO);
        RunRecord::end_left_in(folders, data, &LockWait { host: "", patience: time, stop_timeout: time, stop: &never })
    }

    /// Changes when the `run` of a record began.
    fn begun_at(path: &Path, change: impl Fn(u64) -> u64) {
        let mut noted: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let start = &mut noted["proof"]["run"]["start"];
        *start = change(start.as_u64().unwrap()).into();
        fs::write(path, noted.to_string()).unwrap();
    }

    #[test]
    fn it_is_there_until_it_is_dropped_and_where_it_can_be() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = [first.path().to_str().unwrap(), second.path().to_str().unwrap()];
        let data = first.path().join("data");
        let write = |folders: &[&str]| RunRecord::write_in(folders, &data, "web-1").unwrap();
        let written = write(&folders).unwrap();
        let path = files(first.path()).remove(0);
        written.note_app(std::process::id());
        let many: Vec<_> = (1..3000).map(|pid| ProcessIdentity { pid, start: 1 }).collect();
        written.note_unmarked(&many);
        assert!(fs::read_to_string(&path).unwrap().contains("[2999,1]") && files(first.path()).len() == 1);
        // This `run` waits for no other, and another one that follows has its own record.
        end_left(&folders, &data).unwrap();
        let next = RunRecord::write_in(&folders, &data, "web-2").unwrap().unwrap();
        drop(written);
        assert!(fs::read_to_string(&path).unwrap().contains("web-2"));
        drop(next);
        assert!(!path.exists());
        // What anybody could have written is not believed.
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let elsewhere = write(&folders);
        assert_eq!(files(second.path()).len(), 1);
        drop(elsewhere);
        fs::remove_file(&path).unwrap();
        symlink(second.path().join("planted"), &path).unwrap();
        assert!(write(&folders[..1]).is_none() && files(second.path()).is_empty());
        fs::remove_file(&path).unwrap();
        // Nor is it written where anybody can replace it.
        fs::set_permissions(first.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(write(&folders[..1]).is_none() && files(first.path()).is_empty());
        fs::set_permissions(first.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(write(&folders[..1]).is_some());
    }

    #[test]
    fn that_of_a_run_that_is_gone_goes_and_one_that_is_there_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().to_str().unwrap();
        let data = Path::new("/nowhere/data");
        let written = RunRecord::write_in(&[folder], data, "web-1").unwrap().unwrap();
        let path = files(scratch.path()).remove(0);
        begun_at(&path, |start| start + 1);
        end_left(&[folder], data).unwrap();
        assert!(!path.exists());
        drop(written);
        // Another process's, which is there.
        let written = RunRecord::write_in(&[folder], data, "web-1").unwrap().unwrap();
        let mut noted: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        noted["proof"]["run"] = serde_json::to_value(ProcessIdentity { pid: 1, start: first() }).unwrap();
        fs::write(&path, noted.to_string()).unwrap();
        for why in [end_left(&[folder], data).unwrap_err(), RunRecord::write_in(&[folder], data, "").unwrap_err()] {
            assert!(why.code() == Code::Locked && why.to_string().contains("process 1, another"), "{why}");
        }
        drop(written);
        assert!(path.exists());
    }

    #[test]
    fn a_draft_of_a_process_that_was_killed_goes_and_any_other_file_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().to_str().unwrap();
        let key = data_key(Path::new("/nowhere/other")).unwrap();
        // No system has processes of this number.
        let (dead, here) = (u32::MAX, std::process::id());
        let draft = |process: u32| scratch.path().join(format!("{}.{process}", name(&key)));
        fs::write(draft(dead), "").unwrap();
        fs::write(draft(here), "").unwrap();
        let kept = [draft(here), scratch.path().join(format!("{}.x", name(&key))), scratch.path().join("other.json.1")];
        kept[1..].iter().for_each(|path| fs::write(path, "").unwrap());
        symlink(&kept[2], draft(dead - 1)).unwrap();
        drop(RunRecord::write_in(&[folder], Path::new("/nowhere/data"), "web-1").unwrap().unwrap());
        assert!(!draft(dead).exists() && draft(dead - 1).symlink_metadata().is_ok());
        kept.iter().for_each(|path| assert!(path.exists(), "{path:?}"));
    }

    /// When process 1 began.
    fn first() -> u64 {
        crate::run::process::Process::look(1).unwrap().identity.start
    }
}
