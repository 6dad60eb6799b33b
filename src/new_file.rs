//! A file that gets its name only when it is complete.
//!
//! The folder is held open from the beginning to the end: names are created and removed in that folder, whatever its path means
//! by then.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lastgood::error::{Code, Doing, Error, Result};
use lastgood::fs::rename::give_name;
use lastgood::fs::{Folder, SAFE};
use lastgood::text::printable;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, fsync, openat};
use rustix::io::Errno;

/// A file under a temporary name; it is removed when this is dropped unfinished.
pub struct NewFile {
    path: PathBuf,
    folder: Folder,
    name: OsString,
    tmp: OsString,
    file: File,
    /// Whether the temporary name is still this file's.
    unfinished: bool,
}

impl NewFile {
    /// Creates the file that will be `path`, which must not exist.
    ///
    /// # Errors
    /// The file exists, or the folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let doing = || format!("create {}", path.display());
        let Some(name) = path.file_name() else {
            return Err(Error::usage(doing(), "it is not the name of a file").with_code(Code::BadSetting));
        };
        let folder = Folder::open(path.parent().unwrap_or(Path::new(""))).doing(doing)?;
        if let Some(there) = folder.look(name).doing(doing)? {
            let is_device = !matches!(
                FileType::from_raw_mode(there.st_mode),
                FileType::RegularFile | FileType::Directory | FileType::Symlink
            );
            return Err(match is_device {
                true => Error::usage(doing(), "it is not a file")
                    .with_code(Code::AlreadyExists)
                    .hint("Name a file that does not exist yet, or write to stdout: `-o -`."),
                false => exists(path),
            });
        }
        let mut tmp = OsString::from(".");
        tmp.push(name);
        tmp.push(format!(".{}.part", std::process::id()));
        tell_leftovers(path, name);
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        // Its content comes from files that may have been closed to others.
        let file: File = openat(&folder, &tmp, flags, Mode::from_raw_mode(0o600)).doing(doing)?.into();
        // It tells others that this process still writes to it. A filesystem without locks has only the number in the name for that.
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(NewFile { path: path.to_owned(), name: name.to_owned(), folder, tmp, file, unfinished: true })
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// The disk fails, or a file of that name has appeared meanwhile.
    pub fn finish(mut self) -> Result<()> {
        let doing = || format!("finish {}", self.path.display());
        self.file.sync_all().doing(doing)?;
        let name: (&Folder, &OsStr) = (&self.folder, &self.name);
        if !give_name(&self.file, (&self.folder, &self.tmp), name).doing(doing)? {
            return Err(exists(&self.path));
        }
        self.unfinished = false;
        let doing = || format!("finish {}", self.path.display());
        self.folder.readable().and_then(fsync).doing(doing)
    }
}

/// Warns of files that this program made for the same path and did not complete, as it was killed.
fn tell_leftovers(path: &Path, name: &OsStr) {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (file, begin) = (entry.file_name(), [b".", name.as_bytes(), b"."].concat());
        let number = file.as_bytes().strip_prefix(&*begin).and_then(|rest| rest.strip_suffix(b".part"));
        let is_ours = number.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
        if is_ours && is_left(&folder.join(&file)) {
            let left = path.with_file_name(&file);
            tracing::warn!(
                "{} is left of an export that was killed: delete it",
                printable(&left.display().to_string())
            );
        }
    }
}

/// Whether no process has a file locked. One that cannot be opened or locked counts as used.
fn is_left(file: &Path) -> bool {
    let opened = openat(CWD, file, SAFE | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
    opened.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

fn exists(path: &Path) -> Error {
    Error::usage(format!("create {}", path.display()), "it exists already")
        .with_code(Code::AlreadyExists)
        .hint("Name another file, or move that one away first.")
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.unfinished
            && let Err(why) = self.folder.remove_file(&self.tmp)
            && why != Errno::NOENT
        {
            tracing::warn!(
                "could not remove the temporary file {}: {why}",
                self.path.with_file_name(&self.tmp).display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn it_has_its_name_when_it_is_whole_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.zst");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(names(), 0);

        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names()), (b"whole".to_vec(), 1));

        assert!(NewFile::create(&path).is_err());
        let device = NewFile::create(Path::new("/dev/null")).err().unwrap();
        assert!(device.advice().unwrap().contains("-o -"), "{device}");
        let late = folder.path().join("b");
        let file = NewFile::create(&late).unwrap();
        fs::write(&late, "first").unwrap();
        assert!(file.finish().is_err());
        assert_eq!((fs::read(&late).unwrap(), names()), (b"first".to_vec(), 2));
    }

    #[test]
    fn a_file_is_left_when_nobody_writes_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let file = NewFile::create(&path).unwrap();
        let tmp = folder.path().join(&file.tmp);
        assert!(!is_left(&tmp) && !is_left(&path));
        drop(file);
        fs::write(&tmp, "of a process that is gone").unwrap();
        assert!(is_left(&tmp));
    }

    #[test]
    fn a_folder_that_is_swapped_for_a_link_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("out")).unwrap();
        fs::create_dir(at("far")).unwrap();
        for finished in [true, false] {
            let mut file = NewFile::create(&at("out/a")).unwrap();
            file.write_all(b"whole").unwrap();
            let tmp = file.tmp.clone();
            fs::rename(at("out"), at("moved")).unwrap();
            symlink("far", at("out")).unwrap();
            // A file of the temporary name, in the folder that the path leads to meanwhile.
            fs::write(at("far").join(&tmp), "another's").unwrap();
            if finished {
                file.finish().unwrap()
            } else {
                drop(file)
            }
            assert_eq!(fs::read_dir(at("far")).unwrap().count(), 1);
            assert_eq!(fs::read(at("far").join(&tmp)).unwrap(), b"another's");
            assert_eq!(fs::read_dir(at("moved")).unwrap().count(), usize::from(finished));
            fs::remove_file(at("out")).unwrap();
            fs::rename(at("moved"), at("out")).unwrap();
            let _ = fs::remove_file(at("out/a"));
        }
    }
}
