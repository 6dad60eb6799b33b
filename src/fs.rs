//! Works in folders that are held open, so that a symlink put on the way leads nowhere else.
//!
//! The system looks a path up again for every call that is given one. Anybody who may write to a folder on the way can
//! put a symlink there between two calls, and the second call then works elsewhere. So only the place that the user
//! named is reached by its path, symlinks and all ([`Folder::open`]). Everything in it is a name in an open folder: no
//! symlink is followed, and whatever is made, renamed, changed or removed is in that folder, wherever the folder is by
//! now.

pub mod beneath;
pub mod filesystem;
pub mod holders;
pub mod location;
pub mod lock;
pub mod rename;
pub mod times;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, RenameFlags, Stat, StatxAttributes, StatxFlags, chmod, fchmod,
    fstat, mkdirat, openat, renameat_with, statat, statx, unlinkat,
};
use rustix::io::{Errno, Result, fcntl_dupfd_cloexec};

/// Flags for opening that never follow a symlink, and never give the descriptor to a child process.
pub const SAFE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);
/// How long a program may take to write its content into a pipe that is read here.
const PIPE: Duration = Duration::from_secs(10);
/// Most folders of a tree that are open at once while it is removed.
const DEEP: usize = 64;
/// Prefix of the names that deeper folders get when they are moved up into the folder that is being emptied.
pub const DEEP_TREE: &str = ".lastgood-deep-";
/// The mode bits that let anybody but the owner write.
pub const WRITE_OF_OTHERS: RawMode = 0o022;

/// Opens a folder in a folder, for reading its names.
///
/// # Errors
/// As `openat`; anything but a folder is refused.
pub fn open_folder(at: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    openat(at, name, SAFE | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
}

/// How long another program may keep a file to itself by a lease on it: the kernel takes the lease away after 45 s,
/// unless it is told otherwise (fcntl(2), `/proc/sys/fs/lease-break-time`).
pub const LEASE: Duration = Duration::from_secs(50);

/// Opens what a name in a folder stands for, for reading, and returns its status too: where a file is expected there
/// may be a fifo or a device. Opening does not wait for somebody to write into a fifo.
///
/// # Errors
/// As `openat`; a symlink is refused with `LOOP`.
pub fn open_file(at: impl AsFd, name: &OsStr) -> Result<(File, Stat)> {
    let name = single(name)?;
    let began = Instant::now();
    loop {
        match openat(&at, name, SAFE | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            // The attempt to open it has already begun to take the lease away.
            Err(Errno::AGAIN) if began.elapsed() < LEASE => std::thread::sleep(Duration::from_millis(20)),
            Err(why) => return Err(why),
            Ok(opened) => {
                let stat = fstat(&opened)?;
                return Ok((opened.into(), stat));
            }
        }
    }
}

/// Reads a small file that a user named, or what a program writes into a pipe within 10 s. Symlinks are followed.
///
/// # Errors
/// As `open` and `read`; something other than a file or a pipe; more than `most` bytes; a pipe into which nobody
/// writes.
pub fn read_named(path: &Path, most: usize) -> io::Result<(Vec<u8>, Stat)> {
    let file: File = openat(CWD, path, OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?.into();
    let stat = fstat(&file)?;
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Fifo) {
        return Err(io::Error::other(format!("it is {}", what(&stat))));
    }
    let began = Instant::now();
    let mut bytes = Vec::new();
    let mut rest = file.take(most as u64 + 1);
    while let Err(why) = rest.read_to_end(&mut bytes) {
        // For a pipe: what was read so far stays in `bytes`.
        if why.kind() != io::ErrorKind::WouldBlock || began.elapsed() > PIPE {
            return Err(why);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match bytes.len() > most {
        true => Err(io::Error::other(format!("it has more than {most} bytes"))),
        false => Ok((bytes, stat)),
    }
}

/// Whether this is a folder, and not a symlink to one.
pub fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Names the kind of what lies where a folder or a file is expected, for messages.
pub fn what(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a folder",
        FileType::RegularFile => "a file",
        _ => "neither a file nor a folder",
    }
}

/// Lets only a single name be looked up in a folder: in a longer path, symlinks before the last name would be followed.
fn single(name: &OsStr) -> Result<&OsStr> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
        _ => Ok(name),
    }
}

/// An open folder. Entering it takes no permission to read it.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Folder {
    /// Opens the folder that a user named; symlinks are followed.
    ///
    /// # Errors
    /// As `open`; anything but a folder is refused.
    pub fn open(path: &Path) -> Result<Folder> {
        let named = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fd = openat(CWD, named, OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?;
        Ok(Folder { fd, path: path.to_owned() })
    }

    /// Opens a folder by a path in which there were no symlinks before; there must be none now either.
    ///
    /// # Errors
    /// As [`Folder::enter`]; a path that is not absolute.
    pub fn straight(path: &Path) -> Result<Folder> {
        let below = path.strip_prefix("/").map_err(|_| Errno::INVAL)?;
        Folder::open(Path::new("/"))?.enter_all(below)
    }

    /// The path by which the folder was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a filesystem is mounted at this folder; `None` where the system does not say.
    pub fn is_mount(&self) -> Option<bool> {
        crate::fs::is_mount_at(self, Path::new("")).ok().flatten()
    }

    /// Opens a folder in this one.
    ///
    /// # Errors
    /// As `openat`; what is not itself a folder is refused with `NOTDIR`.
    pub fn enter(&self, name: impl AsRef<OsStr>) -> Result<Folder> {
        let name = single(name.as_ref())?;
        let fd = openat(self, name, SAFE | OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?;
        Ok(Folder { fd, path: self.path.join(name) })
    }

    /// Opens a folder at any depth in this one, or this one again if the path is empty.
    ///
    /// # Errors
    /// As [`Folder::enter`].
    pub fn enter_all(&self, below: &Path) -> Result<Folder> {
        let mut at = Folder { fd: fcntl_dupfd_cloexec(self, 0)?, path: self.path.clone() };
        for part in below.components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL) };
            at = at.enter(name)?;
        }
        Ok(at)
    }

    /// Makes a folder in this one and opens it; it must not exist yet.
    ///
    /// # Errors
    /// As `mkdirat`.
    pub fn make(&self, name: impl AsRef<OsStr>, mode: RawMode) -> Result<Folder> {
        mkdirat(self, single(name.as_ref())?, Mode::from_raw_mode(mode))?;
        self.enter(name)
    }

    /// Makes the missing folders of a path in this one, and opens the last of them.
    ///
    /// # Errors
    /// As `mkdirat`, and as [`Folder::enter`].
    pub fn make_all(&self, below: &Path, mode: RawMode) -> Result<Folder> {
        let mut at = self.enter_all(Path::new(""))?;
        for part in below.components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL) };
            at = match at.make(name, mode) {
                Err(Errno::EXIST) => at.enter(name)?,
                made => made?,
            };
        }
        Ok(at)
    }

    /// The status of what a name in this folder stands for; `None` if nothing is there.
    ///
    /// # Errors
    /// As `fstatat`.
    pub fn look(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>> {
        match statat(self, single(name.as_ref())?, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some),
        }
    }

    /// The names in this folder.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::new(self.readable()?)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Opens the same folder for more than entering it: to be read, locked, changed or made durable.
    ///
    /// # Errors
    /// A folder that may not be read.
    pub fn readable(&self) -> Result<OwnedFd> {
        openat(self, ".", SAFE | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
    }

    /// The folder's permission bits, without the file type.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn mode(&self) -> Result<RawMode> {
        Ok(fstat(self)?.st_mode & 0o7777)
    }

    /// Sets the folder's permission bits.
    ///
    /// # Errors
    /// As `fchmod`.
    pub fn set_mode(&self, mode: RawMode) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self.readable() {
            Ok(folder) => fchmod(folder, mode),
            // A folder that nobody may read can be opened only to be entered, and fchmod does not work on such a
            // descriptor: the path of the descriptor in `/proc` stands for the folder itself.
            Err(why) => match chmod(format!("/proc/self/fd/{}", self.fd.as_raw_fd()), mode) {
                Err(Errno::NOENT) => Err(why),
                done => done,
            },
        }
    }

    /// Removes a file or a symlink in this folder.
    ///
    /// # Errors
    /// As `unlinkat`.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> Result<()> {
        unlinkat(self, single(name.as_ref())?, AtFlags::empty())
    }

    /// Removes an empty folder in this one.
    ///
    /// # Errors
    /// As `unlinkat`.
    pub fn remove_folder(&self, name: impl AsRef<OsStr>) -> Result<()> {
        unlinkat(self, single(name.as_ref())?, AtFlags::REMOVEDIR)
    }

    /// Removes everything in this folder, including what is in folders without write permission. No symlink is
    /// followed.
    ///
    /// # Errors
    /// Anything that cannot be removed; another filesystem that is mounted inside, from which nothing is removed.
    pub fn empty(&self) -> io::Result<()> {
        let device = fstat(self)?.st_dev;
        let mut levels = vec![Level::new(self.enter_all(Path::new(""))?)?];
        let mut moved = 0;
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                let done = levels.pop();
                if let (Some(done), Some(above)) = (done, levels.last()) {
                    above.folder.remove_folder(done.folder.path.file_name().unwrap_or_default())?;
                }
                continue;
            };
            let Some(stat) = level.folder.look(&name)? else { continue };
            if !is_folder(&stat) {
                level.folder.remove_file(&name)?;
                continue;
            }
            let folder = level.folder.enter(&name)?;
            if fstat(&folder)?.st_dev != device || folder.is_mount().unwrap_or(false) {
                let why = format!("another filesystem is mounted in it, at {}", folder.path.display());
                return Err(io::Error::new(io::ErrorKind::CrossesDevices, why));
            }
            let next = Level::new(folder)?;
            if levels.len() >= DEEP {
                // A tree may be deeper than the number of files that may be open: the rest of it moves up. If it cannot
                // be moved, it stays in place.
                let up = OsString::from(format!("{DEEP_TREE}{moved}"));
                moved += 1;
                let above = &levels[levels.len() - 1].folder;
                if renameat_with(above, &name, &levels[0].folder, &up, RenameFlags::NOREPLACE).is_ok() {
                    levels[0].names.push(up);
                    continue;
                }
            }
            levels.push(next);
        }
        Ok(())
    }

    /// Removes a folder in this one, with everything in it.
    ///
    /// # Errors
    /// As [`Folder::empty`].
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.enter(&name)?.empty()?;
        Ok(self.remove_folder(name)?)
    }
}

/// A folder that is being emptied.
struct Level {
    folder: Folder,
    /// The names that are still to be removed.
    names: Vec<OsString>,
}

impl Level {
    fn new(folder: Folder) -> Result<Level> {
        let mode = fstat(&folder)?.st_mode & 0o7777;
        if mode & 0o700 != 0o700 {
            // Whether that was needed shows in the calls that follow: root needs none of it.
            let _ = folder.set_mode(mode | 0o700);
        }
        let names = folder.names()?;
        Ok(Level { folder, names })
    }
}

/// A name in an open folder.
#[derive(Debug, Clone)]
pub struct Spot {
    /// The open folder.
    pub folder: Arc<Folder>,
    /// The name in it.
    pub name: OsString,
}

impl Spot {
    /// Stands for the name `name` in `folder`.
    pub fn new(folder: &Arc<Folder>, name: impl Into<OsString>) -> Spot {
        Spot { folder: folder.clone(), name: name.into() }
    }

    /// The path by which the spot was reached, for messages.
    pub fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// The status of what is there; `None` if nothing is.
    ///
    /// # Errors
    /// As [`Folder::look`].
    pub fn look(&self) -> Result<Option<Stat>> {
        self.folder.look(&self.name)
    }

    /// Opens the folder that is there.
    ///
    /// # Errors
    /// As [`Folder::enter`].
    pub fn enter(&self) -> Result<Folder> {
        self.folder.enter(&self.name)
    }
}

/// Reads a file from offset `at` until the buffer is full or the file ends. Returns how many bytes were read.
///
/// # Errors
/// An error of the system.
pub fn read_some(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(read)
}

/// Whether a filesystem is mounted at a path below an open folder, or at the folder itself if the path is empty; `None`
/// where the system does not say.
///
/// # Errors
/// A path that cannot be looked at.
pub fn is_mount_at(folder: impl AsFd, path: &Path) -> rustix::io::Result<Option<bool>> {
    let told = statx(folder, path, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    let says = told.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    Ok(says.then(|| told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)))
}

#[cfg(test)]
mod tests {
    use crate::fs::rename::{give_name, link_or_rename, rename};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A folder to work in, and another one that is reached only by links, with a file that must stay.
    fn world() -> (tempfile::TempDir, Folder, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (here, far) = (folder.path().join("here"), folder.path().join("far"));
        fs::create_dir(&here).unwrap();
        fs::create_dir(&far).unwrap();
        fs::write(far.join("kept"), "kept").unwrap();
        let here = Folder::open(&here).unwrap();
        (folder, here, far)
    }

    fn untouched(far: &Path) {
        let names: Vec<_> = fs::read_dir(far).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["kept"]);
        assert_eq!(fs::read(far.join("kept")).unwrap(), b"kept");
        assert_eq!(far.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn no_link_is_followed_and_no_path_is_a_name() {
        let (_folder, here, far) = world();
        fs::set_permissions(&far, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&far, here.path().join("link")).unwrap();
        assert_eq!(here.enter("link").unwrap_err(), Errno::NOTDIR);
        assert_eq!(here.enter_all(Path::new("link/x")).unwrap_err(), Errno::NOTDIR);
        assert_eq!(here.make_all(Path::new("link/x"), 0o700).unwrap_err(), Errno::NOTDIR);
        assert!(here.remove_tree("link").is_err());
        for name in ["", ".", "..", "../far", "link/kept", "/"] {
            assert_eq!(here.remove_file(name).unwrap_err(), Errno::INVAL, "{name:?}");
            assert_eq!(here.enter(name).unwrap_err(), Errno::INVAL, "{name:?}");
        }
        assert!(here.enter_all(Path::new("../far")).is_err());
        untouched(&far);
    }

    #[test]
    fn what_is_emptied_is_the_open_folder_and_not_what_its_links_name() {
        let (_folder, here, far) = world();
        fs::set_permissions(&far, fs::Permissions::from_mode(0o755)).unwrap();
        let here = Arc::new(here);
        let closed = here.path().join("tree/closed/deep");
        fs::create_dir_all(&closed).unwrap();
        fs::write(closed.join("file"), "").unwrap();
        symlink(&far, closed.join("link")).unwrap();
        symlink(far.join("kept"), here.path().join("tree/link")).unwrap();
        for (path, mode) in [(&closed, 0o000), (&here.path().join("tree/closed"), 0o500)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        // The folder is open, and somebody puts a link in its place.
        let tree = here.enter("tree").unwrap();
        fs::rename(here.path().join("tree"), here.path().join("away")).unwrap();
        symlink(&far, here.path().join("tree")).unwrap();
        tree.empty().unwrap();
        assert!(here.remove_folder("tree").is_err());
        assert_eq!(fs::read_dir(here.path().join("away")).unwrap().count(), 0);
        untouched(&far);

        // A mode is set, and a folder renamed, under the name that the folder has now.
        let (from, to) = (Spot::new(&here, "tree"), Spot::new(&here, "renamed"));
        assert!(from.enter().is_err());
        rename(&from, &to).unwrap();
        assert!(here.path().join("renamed").is_symlink());
        untouched(&far);
    }

    #[test]
    fn a_tree_that_is_deeper_than_files_may_be_open_is_removed() {
        let (_folder, here, _) = world();
        let mut at = here.make("top", 0o700).unwrap();
        for _ in 0..3 * DEEP {
            at = at.make("d", 0o700).unwrap();
            fs::write(Path::new("/proc/self/fd").join(at.fd.as_raw_fd().to_string()).join("file"), "").unwrap();
        }
        here.remove_tree("top").unwrap();
        assert!(here.names().unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_nobody_may_read_gets_its_mode_by_its_descriptor() {
        let (_folder, here, _) = world();
        let inner = here.make("inner", 0o000).unwrap();
        inner.set_mode(0o750).unwrap();
        assert_eq!(here.look("inner").unwrap().unwrap().st_mode & 0o777, 0o750);
        let told = chmod(format!("/proc/self/fd/{}", inner.fd.as_raw_fd()), Mode::from_raw_mode(0o710));
        assert_eq!((told, here.look("inner").unwrap().unwrap().st_mode & 0o777), (Ok(()), 0o710));
    }

    #[test]
    fn a_file_that_has_its_name_has_it_whatever_the_call_said() {
        for fallback in [false, true] {
            let (_folder, here, _) = world();
            let at = |name: &str| here.path().join(name);
            let name = |file: &fs::File, to: &str| {
                let (from, to) = ((&here, OsStr::new("from")), (&here, OsStr::new(to)));
                if fallback { link_or_rename(file, from, to) } else { give_name(file, from, to) }
            };
            let file = fs::File::create(at("from")).unwrap();
            fs::write(at("taken"), "").unwrap();
            assert_eq!(name(&file, "taken"), Ok(false));
            assert_eq!((at("from").exists(), name(&file, "to")), (true, Ok(true)));
            assert_eq!(here.names().unwrap().len(), 2);

            // The file has been linked, and the answer was lost.
            let file = fs::File::create(at("from")).unwrap();
            fs::hard_link(at("from"), at("linked")).unwrap();
            assert_eq!((name(&file, "linked"), at("from").exists()), (Ok(true), false));
            // The file has been renamed, and the answer was lost.
            let file = fs::File::create(at("renamed")).unwrap();
            assert_eq!(name(&file, "renamed"), Ok(true));
            assert_eq!(name(&file, "none").unwrap_err(), Errno::NOENT);
        }
    }
}
