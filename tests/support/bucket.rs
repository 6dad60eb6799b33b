//! A folder seen through the rules of GCS FUSE, for the filesystem beside this file: what is written is seen when it is
//! closed, files have no other attributes than a size and a time, and inodes get new numbers at every mount.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo};
use tempfile::TempDir;

/// The behaviour in which filesystems of this kind differ.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Folders that are not empty can be renamed.
    pub folders_move: bool,
    /// Owner and mode are refused; otherwise a change of them is taken and has no effect.
    pub refuses_attributes: bool,
    /// A write fails when the file is closed, not before.
    pub fails_on_close: bool,
    /// Folders are durable, and a rename can leave what is in its way: a vault can be here.
    pub takes_vaults: bool,
}

/// As GCS FUSE does it with a flat bucket.
pub const GCS: Rules =
    Rules { folders_move: false, refuses_attributes: false, fails_on_close: false, takes_vaults: false };

/// As the share of a server does it.
pub const SHARE: Rules = Rules { folders_move: true, takes_vaults: true, ..GCS };

/// A file that is being written.
struct Draft {
    content: File,
    writers: usize,
    changed: bool,
    mtime: Option<SystemTime>,
}

/// The object of a handle.
enum Handle {
    Read(File),
    Write(u64),
    Folder(Vec<(INodeNo, FileType, OsString)>),
}

/// The folder, and what is open of it.
pub struct Bucket {
    root: PathBuf,
    scratch: TempDir,
    pub rules: Rules,
    paths: HashMap<u64, PathBuf>,
    inodes: HashMap<PathBuf, u64>,
    next_inode: u64,
    drafts: HashMap<u64, Draft>,
    handles: HashMap<u64, Handle>,
    next_handle: u64,
}

/// Where the inodes of the next mount begin.
static NEXT_MOUNT: AtomicU64 = AtomicU64::new(1);

impl Bucket {
    pub fn new(root: &Path, rules: Rules) -> io::Result<Self> {
        let root = root.canonicalize()?;
        // Beside the folder, so that a draft becomes a file of it by a rename.
        let scratch = tempfile::tempdir_in(root.parent().unwrap_or(&root))?;
        let next_inode = NEXT_MOUNT.fetch_add(1, Ordering::Relaxed) << 32;
        let mut bucket = Bucket {
            root,
            scratch,
            rules,
            paths: HashMap::new(),
            inodes: HashMap::new(),
            next_inode,
            drafts: HashMap::new(),
            handles: HashMap::new(),
            next_handle: 1,
        };
        bucket.paths.insert(INodeNo::ROOT.0, PathBuf::new());
        bucket.inodes.insert(PathBuf::new(), INodeNo::ROOT.0);
        Ok(bucket)
    }

    fn path(&self, inode: INodeNo) -> Result<&Path, Errno> {
        self.paths.get(&inode.0).map(PathBuf::as_path).ok_or(Errno::ENOENT)
    }

    /// Returns the path of a name, below the folder.
    pub fn child(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        Ok(self.path(parent)?.join(name))
    }

    fn inode(&mut self, path: &Path) -> u64 {
        if let Some(inode) = self.inodes.get(path) {
            return *inode;
        }
        self.next_inode += 1;
        self.inodes.insert(path.to_owned(), self.next_inode);
        self.paths.insert(self.next_inode, path.to_owned());
        self.next_inode
    }

    /// Returns the attributes of what lies at a path.
    pub fn look(&mut self, path: &Path) -> Result<FileAttr, Errno> {
        let meta = self.root.join(path).symlink_metadata()?;
        let inode = self.inode(path);
        self.attributes(inode, &meta)
    }

    pub fn look_at(&mut self, inode: INodeNo) -> Result<FileAttr, Errno> {
        let path = self.path(inode)?.to_owned();
        self.look(&path)
    }

    fn attributes(&self, inode: u64, meta: &Metadata) -> Result<FileAttr, Errno> {
        // Other kinds of files are no objects of a bucket.
        let kind = match FileType::from_std(meta.file_type()) {
            Some(kind @ (FileType::RegularFile | FileType::Directory)) => kind,
            _ => return Err(Errno::ENOENT),
        };
        let (mut size, mut time) = (meta.len(), meta.modified()?);
        if let Some(draft) = self.drafts.get(&inode) {
            let now = draft.content.metadata()?;
            size = now.len();
            if draft.changed {
                time = draft.mtime.map_or_else(|| now.modified(), Ok)?;
            }
        }
        let perm = if kind == FileType::Directory { 0o755 } else { 0o644 };
        let (blocks, nlink) = (size.div_ceil(512), 1);
        Ok(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn keep(&mut self, handle: Handle) -> u64 {
        self.next_handle += 1;
        self.handles.insert(self.next_handle, handle);
        self.next_handle
    }

    /// Makes a file and opens it for writing.
    pub fn create(&mut self, path: &Path) -> Result<(FileAttr, u64), Errno> {
        File::create_new(self.root.join(path))?;
        let inode = self.inode(path);
        let handle = self.write_to(inode)?;
        Ok((self.look(path)?, handle))
    }

    pub fn open(&mut self, inode: INodeNo, writes: bool) -> Result<u64, Errno> {
        if writes {
            return self.write_to(inode.0);
        }
        let file = File::open(self.root.join(self.path(inode)?))?;
        Ok(self.keep(Handle::Read(file)))
    }

    fn write_to(&mut self, inode: u64) -> Result<u64, Errno> {
        if !self.drafts.contains_key(&inode) {
            let draft = self.scratch.path().join(inode.to_string());
            fs::copy(self.root.join(self.path(INodeNo(inode))?), &draft)?;
            let content = OpenOptions::new().read(true).write(true).open(&draft)?;
            self.drafts.insert(inode, Draft { content, writers: 0, changed: false, mtime: None });
        }
        if let Some(draft) = self.drafts.get_mut(&inode) {
            draft.writers += 1;
        }
        Ok(self.keep(Handle::Write(inode)))
    }

    /// Opens a folder: what is listed is what is in it now.
    pub fn open_folder(&mut self, inode: INodeNo) -> Result<u64, Errno> {
        let path = self.path(inode)?.to_owned();
        let mut listed =
            vec![(inode, FileType::Directory, OsString::from(".")), (inode, FileType::Directory, OsString::from(".."))];
        for entry in fs::read_dir(self.root.join(&path))? {
            let entry = entry?;
            if let Some(kind @ (FileType::RegularFile | FileType::Directory)) = FileType::from_std(entry.file_type()?) {
                let name = entry.file_name();
                listed.push((INodeNo(self.inode(&path.join(&name))), kind, name));
            }
        }
        Ok(self.keep(Handle::Folder(listed)))
    }

    pub fn listed(&self, handle: u64) -> Result<&[(INodeNo, FileType, OsString)], Errno> {
        match self.handles.get(&handle) {
            Some(Handle::Folder(listed)) => Ok(listed),
            _ => Err(Errno::EBADF),
        }
    }

    pub fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let file = match self.handles.get(&handle) {
            Some(Handle::Read(file)) => file,
            Some(Handle::Write(inode)) => &self.drafts.get(inode).ok_or(Errno::EBADF)?.content,
            _ => return Err(Errno::EBADF),
        };
        let mut bytes = vec![0; size as usize];
        let mut have = 0;
        while have < bytes.len() {
            match file.read_at(&mut bytes[have..], offset + have as u64)? {
                0 => break,
                n => have += n,
            }
        }
        bytes.truncate(have);
        Ok(bytes)
    }

    pub fn write(&mut self, handle: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let Some(Handle::Write(inode)) = self.handles.get(&handle) else { return Err(Errno::EBADF) };
        let draft = self.drafts.get_mut(inode).ok_or(Errno::EBADF)?;
        draft.content.write_all_at(bytes, offset)?;
        (draft.changed, draft.mtime) = (true, None);
        Ok(())
    }

    pub fn resize(&mut self, inode: INodeNo, size: u64) -> Result<(), Errno> {
        match self.drafts.get_mut(&inode.0) {
            Some(draft) => {
                draft.content.set_len(size)?;
                (draft.changed, draft.mtime) = (true, None);
                Ok(())
            }
            None => Ok(OpenOptions::new().write(true).open(self.root.join(self.path(inode)?))?.set_len(size)?),
        }
    }

    /// Sets the time of a file; that of a folder is not kept.
    pub fn set_time(&mut self, inode: INodeNo, time: SystemTime) -> Result<(), Errno> {
        let real = self.root.join(self.path(inode)?);
        if let Some(draft) = self.drafts.get_mut(&inode.0).filter(|draft| draft.changed) {
            draft.mtime = Some(time);
        } else if real.is_file() {
            File::open(real)?.set_times(FileTimes::new().set_modified(time))?;
        }
        Ok(())
    }

    /// Makes what was written through a handle be seen.
    pub fn publish(&mut self, handle: u64) -> Result<(), Errno> {
        let Some(Handle::Write(inode)) = self.handles.get(&handle) else { return Ok(()) };
        let inode = *inode;
        let Some(draft) = self.drafts.get_mut(&inode).filter(|draft| draft.changed) else { return Ok(()) };
        if self.rules.fails_on_close {
            return Err(Errno::EIO);
        }
        // A file that was removed meanwhile stays so.
        if let Some(path) = self.paths.get(&inode).filter(|path| self.inodes.get(*path) == Some(&inode)) {
            let whole = self.scratch.path().join("whole");
            fs::copy(self.scratch.path().join(inode.to_string()), &whole)?;
            if let Some(time) = draft.mtime {
                File::open(&whole)?.set_times(FileTimes::new().set_modified(time))?;
            }
            fs::rename(whole, self.root.join(path))?;
        }
        draft.changed = false;
        Ok(())
    }

    pub fn release(&mut self, handle: u64) -> Result<(), Errno> {
        let Some(Handle::Write(inode)) = self.handles.remove(&handle) else { return Ok(()) };
        let Some(draft) = self.drafts.get_mut(&inode) else { return Ok(()) };
        draft.writers -= 1;
        if draft.writers == 0 {
            self.drafts.remove(&inode);
            fs::remove_file(self.scratch.path().join(inode.to_string()))?;
        }
        Ok(())
    }

    pub fn make_folder(&mut self, path: &Path) -> Result<FileAttr, Errno> {
        fs::create_dir(self.root.join(path))?;
        self.look(path)
    }

    pub fn remove(&mut self, path: &Path, folder: bool) -> Result<(), Errno> {
        let real = self.root.join(path);
        if folder {
            fs::remove_dir(real)?
        } else {
            fs::remove_file(real)?
        }
        self.inodes.remove(path);
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let real = self.root.join(from);
        if real.is_dir() && !self.rules.folders_move && fs::read_dir(&real)?.next().is_some() {
            // GCS FUSE answers this where it would have to copy more objects than it was allowed to.
            return Err(Errno::EMFILE);
        }
        fs::rename(real, self.root.join(to))?;
        self.inodes.remove(to);
        let moved: Vec<_> = self.inodes.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for old in moved {
            if let (Some(inode), Ok(rest)) = (self.inodes.remove(&old), old.strip_prefix(from)) {
                let new = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
                self.paths.insert(inode, new.clone());
                self.inodes.insert(new, inode);
            }
        }
        Ok(())
    }
}
