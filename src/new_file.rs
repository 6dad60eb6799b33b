//! A file that has its name only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lastgood::error::{Doing, Error, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// A file under a temporary name; removed when it is dropped unfinished.
pub struct NewFile {
    path: PathBuf,
    tmp: PathBuf,
    file: File,
}

impl NewFile {
    /// Begins the file `path`, which must not exist.
    ///
    /// # Errors
    /// A file that exists; a folder that cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let doing = || format!("create {}", path.display());
        let Some(name) = path.file_name() else { return Err(Error::usage(doing(), "it is not the name of a file")) };
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let mut tmp = std::ffi::OsString::from(".");
        tmp.push(name);
        tmp.push(format!(".{}.part", std::process::id()));
        let tmp = path.with_file_name(tmp);
        let file = OpenOptions::new().write(true).create_new(true).open(&tmp).doing(doing)?;
        Ok(NewFile { path: path.to_owned(), tmp, file })
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// A disk that fails; a file of that name that has appeared meanwhile.
    pub fn finish(self) -> Result<()> {
        let doing = || format!("finish {}", self.path.display());
        self.file.sync_all().doing(doing)?;
        match renameat_with(CWD, &self.tmp, CWD, &self.path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Err(exists(&self.path)),
            // Filesystems without NOREPLACE: a hard link does not replace either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                fs::hard_link(&self.tmp, &self.path).doing(doing)?;
            }
            done => done.doing(doing)?,
        }
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).doing(doing)
    }
}

fn exists(path: &Path) -> Error {
    Error::usage(format!("create {}", path.display()), "it exists already")
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
        // After `finish` there is nothing left under that name, as a rule.
        if let Err(why) = fs::remove_file(&self.tmp)
            && why.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} stays behind: {why}", self.tmp.display());
        }
    }
}

#[cfg(test)]
mod tests {
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
        let late = folder.path().join("b");
        let file = NewFile::create(&late).unwrap();
        fs::write(&late, "first").unwrap();
        assert!(file.finish().is_err());
        assert_eq!((fs::read(&late).unwrap(), names()), (b"first".to_vec(), 2));
    }
}
