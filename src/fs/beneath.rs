//! Opens what lies beneath one folder, and nothing else: no symlink on the way is followed.
//!
//! A path that is looked up twice may lead to two places: between the two lookups an app may put a symlink where a
//! folder was, and what is read then is not the directory's. So the data directory is opened once, and everything in it
//! is found from that descriptor, by `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS` or, where that is
//! refused (kernels before 5.6, Docker's older seccomp filters, systemd's `RestrictSUIDSGID`), component by component
//! with `O_NOFOLLOW`. Either way a path may be longer than the 4,095 bytes that one system call takes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, Statx, StatxFlags, fstat, openat, openat2, stat, statat, statx,
};
use rustix::io::Errno;

use crate::path::EntryPath;

/// The most bytes of a path in one system call: `PATH_MAX` is 4,096, with the NUL at its end.
const STEP: usize = 4000;

/// An open folder, beneath which things are opened.
#[derive(Debug)]
pub struct Directory {
    folder: OwnedFd,
    stat: Stat,
    /// The folder's path without symlinks, as of its opening.
    path: PathBuf,
    /// Whether `openat2` works here.
    resolves: bool,
    /// Whether paths through `/proc/self/fd` work here.
    proc: bool,
}

impl Directory {
    /// Opens a folder. Symlinks in this path are the user's own, and are followed.
    ///
    /// # Errors
    /// An error of the system; `NOTDIR` for anything but a folder.
    pub fn open(folder: &Path) -> Result<Directory, Errno> {
        // Only SQLite needs the path, and compares it with the descriptor: a path that cannot be found is no reason to
        // fail.
        let path = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let folder = openat(CWD, folder, FOLDER, Mode::empty())?;
        let stat = fstat(&folder)?;
        let resolves = openat2(&folder, ".", FOLDER, Mode::empty(), RESOLVE).is_ok();
        let proc = statat(CWD, through(&folder), AtFlags::empty()).is_ok();
        Ok(Directory { folder, stat, path, resolves, proc })
    }

    /// The folder's status when it was opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// The folder's path, absolute and without symlinks, as of its opening.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's descriptor.
    pub fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// The folder's device and inode.
    pub fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Whether a path still leads to this folder, and not to another one by now.
    pub fn is_at(&self, path: &Path) -> bool {
        stat(path).is_ok_and(|now| (now.st_dev, now.st_ino) == self.id())
    }

    /// Opens what is at `path`, or the folder itself if the path is empty. A symlink is not followed, wherever it is.
    ///
    /// # Errors
    /// An error of the system; `LOOP` or `NOTDIR` where a component of the path is a symlink.
    pub fn open_at(&self, path: &EntryPath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.is_root() {
            return openat(&self.folder, ".", flags, Mode::empty());
        }
        let (above, last) = self.steps(path.bytes())?;
        let from = above.as_ref().map_or(self.folder.as_fd(), AsFd::as_fd);
        match self.resolves {
            true => resolve(from, last, flags),
            false => openat(from, OsStr::from_bytes(last), flags, Mode::empty()),
        }
    }

    /// Opens the folder that `path` is in, for looking up names in it, and returns it with the path's last name.
    ///
    /// # Errors
    /// As [`Directory::open_at`].
    pub fn parent(&self, path: &EntryPath) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok((self.open_at(&path.folder().unwrap_or_default(), flags)?, path.name().to_vec()))
    }

    /// The status of what is at `path`, which may be a symlink.
    ///
    /// # Errors
    /// As [`Directory::open_at`].
    pub fn stat_at(&self, path: &EntryPath) -> Result<Stat, Errno> {
        if path.is_root() {
            return fstat(&self.folder);
        }
        let (above, name) = self.parent(path)?;
        statat(&above, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The identity of the file that is at `path`.
    ///
    /// # Errors
    /// As [`Directory::open_at`].
    pub fn identity_at(&self, path: &EntryPath) -> Result<FileIdentity, Errno> {
        let (above, name) = self.parent(path)?;
        let stat = statx(&above, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW, FileIdentity::FLAGS)?;
        Ok(FileIdentity::of(&stat))
    }

    /// When what is at `path` was made, in seconds and ns since 1970; `None` if its filesystem does not tell, or
    /// nothing is there.
    pub fn born_at(&self, path: &EntryPath) -> Option<(i64, u32)> {
        let (above, name) = self.parent(path).ok()?;
        let stat = statx(&above, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW, FileIdentity::FLAGS);
        stat.ok().and_then(|stat| born(&stat))
    }

    /// Returns a path that leads to `path` through the descriptor of its folder, for system calls that take only paths,
    /// and that descriptor: the path is valid as long as it is open. The last component is not looked up yet.
    ///
    /// # Errors
    /// As [`Directory::open_at`]; `NOSYS` where `/proc` is not mounted.
    pub fn through_proc(&self, path: &EntryPath) -> Result<(OwnedFd, PathBuf), Errno> {
        if !self.proc {
            return Err(Errno::NOSYS);
        }
        let (above, name) = self.parent(path)?;
        let mut at = through(&above);
        at.push(OsStr::from_bytes(&name));
        Ok((above, at))
    }

    /// Descends as far as needed: what is left of the path fits into one system call or, without `openat2`, is its last
    /// component.
    fn steps<'p>(&self, path: &'p [u8]) -> Result<(Option<OwnedFd>, &'p [u8]), Errno> {
        let mut above: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let end = match self.resolves {
                true if rest.len() <= STEP => return Ok((above, rest)),
                // A name has at most 255 bytes, so there is a separator.
                true => rest[..STEP].iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?,
                false => match rest.iter().position(|&b| b == b'/') {
                    None => return Ok((above, rest)),
                    Some(end) => end,
                },
            };
            let from = above.as_ref().map_or(self.folder.as_fd(), AsFd::as_fd);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = match self.resolves {
                true => resolve(from, &rest[..end], flags)?,
                false => openat(from, OsStr::from_bytes(&rest[..end]), flags, Mode::empty())?,
            };
            above = Some(next);
            rest = &rest[end + 1..];
        }
    }
}

fn through(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// Flags that open a folder so that it can be listed.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn resolve(from: BorrowedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    // The kernel answers AGAIN whenever a folder on the way was renamed meanwhile, however often that happens.
    for _ in 0..100 {
        match openat2(from, OsStr::from_bytes(path), flags, Mode::empty(), RESOLVE) {
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// Identifies a file, beyond its name. Inode numbers are used again as soon as a file is gone; together with the time
/// of its birth or, where the filesystem does not tell that, its size and times, they tell one file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: (u32, u32),
    inode: u64,
    born: Option<(i64, u32)>,
    /// Size, mtime and ctime, if there is no birth time.
    looks: Option<[i64; 5]>,
}

impl FileIdentity {
    /// The `statx` fields that [`FileIdentity::of`] needs.
    pub const FLAGS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

    /// The identity of the file that `statx` describes.
    pub fn of(stat: &Statx) -> FileIdentity {
        let born = born(stat);
        let looks = [
            i64::try_from(stat.stx_size).unwrap_or(i64::MAX),
            stat.stx_mtime.tv_sec,
            stat.stx_mtime.tv_nsec.into(),
            stat.stx_ctime.tv_sec,
            stat.stx_ctime.tv_nsec.into(),
        ];
        FileIdentity {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            looks: born.is_none().then_some(looks),
            born,
        }
    }

    /// The identity of an open file.
    ///
    /// # Errors
    /// An error of the system.
    pub fn of_file(file: impl AsFd) -> Result<FileIdentity, Errno> {
        Ok(FileIdentity::of(&statx(file, "", AtFlags::EMPTY_PATH, FileIdentity::FLAGS)?))
    }
}

/// When the file that `statx` describes was made, in seconds and ns since 1970; `None` if its filesystem does not tell.
pub fn born(stat: &Statx) -> Option<(i64, u32)> {
    let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    /// Runs a test in the folder `data` of a scratch folder, once with `openat2` and once without.
    fn both(test: impl Fn(&Path, &Directory)) {
        for resolves in [true, false] {
            let scratch = tempfile::tempdir().unwrap();
            let data = scratch.path().join("data");
            fs::create_dir_all(data.join("a/b")).unwrap();
            fs::write(data.join("a/b/file"), "content").unwrap();
            let root = Directory::open(&data).unwrap();
            test(&data, &Directory { resolves: root.resolves && resolves, ..root });
        }
    }

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text).unwrap()
    }

    fn read(root: &Directory, at: &str) -> Result<String, Errno> {
        let mut content = String::new();
        fs::File::from(root.open_at(&path(at), OFlags::RDONLY)?).read_to_string(&mut content).unwrap();
        Ok(content)
    }

    #[test]
    fn no_symlink_is_followed_wherever_it_is() {
        both(|data, root| {
            assert_eq!(read(root, "a/b/file").unwrap(), "content");
            symlink("a", data.join("inside")).unwrap();
            symlink(data.parent().unwrap(), data.join("outside")).unwrap();
            symlink("file", data.join("a/b/link")).unwrap();
            for at in ["inside/b/file", "outside/data/a/b/file", "a/b/link"] {
                assert!(matches!(read(root, at), Err(Errno::LOOP | Errno::NOTDIR)), "{at}");
            }
            assert!(root.stat_at(&path("inside/b/file")).is_err());
            assert_eq!(root.stat_at(&path("a/b/link")).unwrap().st_size, 4);
            assert_eq!(root.stat_at(&path(".")).unwrap().st_ino, root.id().1);
        });
    }

    #[test]
    fn the_folder_stays_the_one_that_was_opened() {
        both(|data, root| {
            fs::rename(data, data.with_extension("gone")).unwrap();
            fs::create_dir(data).unwrap();
            assert_eq!(read(root, "a/b/file").unwrap(), "content");
        });
    }

    #[test]
    fn a_path_may_be_longer_than_a_system_call_takes() {
        both(|_, root| {
            let name = "d".repeat(250);
            let mut folder = root.open_at(&path("a"), OFlags::DIRECTORY).unwrap();
            let mut at = path("a");
            for _ in 0..40 {
                rustix::fs::mkdirat(&folder, &*name, Mode::RWXU).unwrap();
                folder = openat(&folder, &*name, FOLDER, Mode::empty()).unwrap();
                at = at.join(name.as_bytes());
            }
            openat(&folder, "file", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap();
            assert!(at.bytes().len() > 10_000);
            let file = root.open_at(&at.join(b"file"), OFlags::RDONLY).unwrap();
            assert_eq!(fstat(file).unwrap().st_ino, root.stat_at(&at.join(b"file")).unwrap().st_ino);
        });
    }

    #[test]
    fn a_file_that_took_a_name_is_another_one() {
        both(|data, root| {
            let opened = root.open_at(&path("a/b/file"), OFlags::RDONLY).unwrap();
            let first = FileIdentity::of_file(&opened).unwrap();
            fs::hard_link(data.join("a/b/file"), data.join("second")).unwrap();
            assert_eq!(root.identity_at(&path("second")).unwrap(), first);
            fs::write(data.join("new"), "content").unwrap();
            fs::rename(data.join("new"), data.join("second")).unwrap();
            assert_ne!(root.identity_at(&path("second")).unwrap(), first);
        });
    }
}
