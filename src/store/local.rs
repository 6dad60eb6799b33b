//! A folder as a store.
//!
//! Creating an object: a temporary file in `tmp/`, fsync, rename without replacing, fsync of the folder. So a crash leaves
//! at most a file in `tmp/`, which the next writer sweeps a day later, and an object that is seen is whole and durable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Error, Meta, Result, Store};

/// The folder for files that are not objects yet.
const TMP: &str = "tmp";
/// Files in `tmp/` of an age that no running write has.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// A store in a folder of a mounted filesystem.
#[derive(Debug)]
pub struct LocalStore {
    folder: PathBuf,
    serial: AtomicU64,
}

impl LocalStore {
    /// A store in `folder`, which need not exist: the first object creates it.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        LocalStore { folder: folder.into(), serial: AtomicU64::new(0) }
    }

    /// Where the objects are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, name: &str) -> PathBuf {
        debug_assert!(name.split('/').all(|part| !part.is_empty() && !part.starts_with('.')), "object name {name:?}");
        self.folder.join(name)
    }

    /// Removes what killed writers left in `tmp/` more than a day ago. What cannot be removed waits for the next time.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.folder.join(TMP)) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).map(|t| SystemTime::now().duration_since(t));
            if let Ok(Ok(age)) = age
                && age > STALE
                && let Err(why) = fs::remove_file(entry.path())
            {
                tracing::debug!("could not sweep {}: {why}", entry.path().display());
            }
        }
    }

    /// Makes the folder that an object goes into, durably.
    fn make_folder(&self, folder: &Path) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let failed = |source| Error::Failed { doing: format!("create the folder {}", folder.display()), source };
        fs::create_dir_all(folder).map_err(failed)?;
        for made in folder.ancestors().take_while(|f| f.starts_with(&self.folder)) {
            sync_folder(made)?;
            if let Some(above) = made.parent().filter(|p| !p.as_os_str().is_empty()) {
                sync_folder(above)?;
            }
        }
        Ok(())
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|source| Error::Failed { doing: format!("fsync the folder {}", folder.display()), source })
}

/// Gives a finished file its name, unless that name is taken.
///
/// Filesystems without `RENAME_NOREPLACE` get a hard link, and those with neither (some FUSE mounts) a plain rename after
/// a look: no two writers choose the same name there, since names are random or carry the hash of the content.
fn name_file(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        done => return Ok(done?),
    }
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Err(why),
        Err(_) if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

impl Store for LocalStore {
    fn url(&self) -> String {
        self.folder.display().to_string()
    }

    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.folder).to_path_buf();
        let tmp = self.folder.join(TMP);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        if serial == 0 {
            self.sweep();
        }
        self.make_folder(&folder)?;
        self.make_folder(&tmp)?;
        let mut random = [0u8; 8];
        getrandom::fill(&mut random)
            .map_err(|e| Error::Failed { doing: "get random bytes".into(), source: io::Error::other(e.to_string()) })?;
        let tmp = tmp.join(format!("{:016x}-{serial}", u64::from_be_bytes(random)));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&tmp)?;
            for chunk in body {
                file.write_all(chunk)?;
            }
            file.sync_all()?;
            name_file(&tmp, &path)
        })();
        match written {
            Ok(()) => sync_folder(&folder),
            Err(source) => {
                // Best effort: what stays behind is swept later.
                let _ = fs::remove_file(&tmp);
                match source.kind() {
                    io::ErrorKind::AlreadyExists => Err(Error::AlreadyExists { name: name.into() }),
                    _ => Err(Error::Failed { doing: format!("write {}", path.display()), source }),
                }
            }
        }
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (file, size) = self.open(name)?;
        if size > limit {
            return Err(Error::OutOfRange { name: name.into(), size, wanted: limit });
        }
        self.read(name, &file, 0, size)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        let (file, size) = self.open(name)?;
        match offset.checked_add(length) {
            Some(end) if end <= size => self.read(name, &file, offset, length),
            end => Err(Error::OutOfRange { name: name.into(), size, wanted: end.unwrap_or(u64::MAX) }),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(within) = folders.pop() {
            let path = self.folder.join(&within);
            let failed = |source| Error::Failed { doing: format!("list {}", path.display()), source };
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
                Err(why) => return Err(failed(why)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                // A name that is not ours is not an object.
                let Ok(last) = entry.file_name().into_string() else { continue };
                let name = format!("{within}{last}");
                match entry.metadata() {
                    Ok(meta) if meta.is_dir() && name == TMP => {}
                    Ok(meta) if meta.is_dir() => folders.push(name + "/"),
                    Ok(meta) => found.push(Meta { name, size: meta.len() }),
                    Err(why) if why.kind() == io::ErrorKind::NotFound => {}
                    Err(why) => return Err(failed(why)),
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        let failed = |source| Error::Failed { doing: format!("list {}", self.folder.display()), source };
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(failed(why)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A new filesystem has the first.
            if name != "lost+found" && name != TMP && !known.contains(&name.as_str()) {
                let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                return Ok(Some(if folder { name + "/" } else { name }));
            }
        }
        Ok(None)
    }
}

impl LocalStore {
    fn open(&self, name: &str) -> Result<(File, u64)> {
        let path = self.path(name);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { name: name.into() },
            _ => Error::Failed { doing: format!("open {}", path.display()), source },
        };
        let file = File::open(&path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(failed(io::Error::other("it is not a file")));
        }
        Ok((file, meta.len()))
    }

    fn read(&self, name: &str, file: &File, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset).map_err(|source| Error::Failed {
            doing: format!("read {length} bytes at {offset} of {}", self.path(name).display()),
            source,
        })?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;

    #[test]
    fn keeps_the_contract() {
        contract::run(&|| {
            let folder = tempfile::tempdir().unwrap();
            let store = LocalStore::new(folder.path().join("deep/vault"));
            (Box::new(store), Box::new(folder))
        });
    }

    #[test]
    fn a_failed_write_leaves_no_object() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path());
        fs::write(folder.path().join("packs"), "in the way").unwrap();
        let said = store.create("packs/a", &[b"x"]).unwrap_err().to_string();
        assert!(said.contains("packs"), "{said}");
        assert_eq!(store.list("tmp/").unwrap(), []);
    }
}
