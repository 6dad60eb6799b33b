//! A filesystem with the rules of GCS FUSE, served by this process: no locks, no links, no symlinks, no shared memory for
//! writing, writes that are seen when a file is closed, new inodes at every mount, no durable folders.
//!
//! The program under test is another process, so that it never waits for itself. Tests look at the folder behind the
//! mount, or at the mount from another thread than the one that serves it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLock, ReplyOpen, ReplyStatfs, ReplyWrite, Request, SessionACL,
    TimeOrNow, WriteFlags,
};

use super::bucket::{Bucket, Rules};

/// Nothing is kept by the kernel: every question is asked.
const AT_ONCE: Duration = Duration::ZERO;

/// A mounted bucket; unmounted when dropped.
pub struct GcsFuse {
    at: PathBuf,
    session: Option<BackgroundSession>,
}

impl GcsFuse {
    /// Mounts the folder `behind` at the folder `at`. None where that cannot be had, which in CI is a failure.
    pub fn mount(behind: &Path, at: &Path, rules: Rules) -> Option<Self> {
        let bucket = Bucket::new(behind, rules).unwrap();
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.mount_options = vec![MountOption::FSName("bucket".into()), MountOption::NoDev];
        match fuser::spawn_mount(Served(Mutex::new(bucket)), at, &config) {
            Ok(session) => Some(GcsFuse { at: at.to_owned(), session: Some(session) }),
            Err(why) => {
                super::requirements::skipped("fuse", &format!("it needs /dev/fuse and root: {why}"));
                None
            }
        }
    }
}

impl Drop for GcsFuse {
    fn drop(&mut self) {
        // At once, whoever still has something open: nothing may stay mounted, also not after a failed test.
        let done = Command::new("umount").arg("--lazy").arg(&self.at).status();
        if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("{} stays mounted: {done:?}", self.at.display());
        }
        if let Some(session) = self.session.take()
            && !std::thread::panicking()
        {
            session.join().unwrap();
        }
    }
}

struct Served(Mutex<Bucket>);

impl Served {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(why) => reply.error(why),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Asked for, to be refused: the kernel would lock by itself, which other machines do not see.
        let locks = InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS;
        config.add_capabilities(locks).map_err(|_| io::Error::other("the kernel leaves no locks to FUSE"))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut bucket = self.bucket();
        match bucket.child(parent, name).and_then(|path| bucket.look(&path)) {
            Ok(attributes) => reply.entry(&AT_ONCE, &attributes, Generation(0)),
            Err(why) => reply.error(why),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.bucket().look_at(inode) {
            Ok(attributes) => reply.attr(&AT_ONCE, &attributes),
            Err(why) => reply.error(why),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut bucket = self.bucket();
        let refused = bucket.rules.refuses_attributes && (mode.is_some() || uid.is_some() || gid.is_some());
        let mut set = || {
            if refused {
                return Err(Errno::EPERM);
            }
            size.map_or(Ok(()), |size| bucket.resize(inode, size))?;
            let time = mtime.map(|time| match time {
                TimeOrNow::SpecificTime(time) => time,
                TimeOrNow::Now => SystemTime::now(),
            });
            time.map_or(Ok(()), |time| bucket.set_time(inode, time))?;
            bucket.look_at(inode)
        };
        match set() {
            Ok(attributes) => reply.attr(&AT_ONCE, &attributes),
            Err(why) => reply.error(why),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let mut bucket = self.bucket();
        match bucket.child(parent, name).and_then(|path| bucket.make_folder(&path)) {
            Ok(attributes) => reply.entry(&AT_ONCE, &attributes, Generation(0)),
            Err(why) => reply.error(why),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut bucket = self.bucket();
        done(reply, bucket.child(parent, name).and_then(|path| bucket.remove(&path, false)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut bucket = self.bucket();
        done(reply, bucket.child(parent, name).and_then(|path| bucket.remove(&path, true)));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::ENOSYS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::ENOSYS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::ENOSYS);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut bucket = self.bucket();
        let takes = flags == RenameFlags::RENAME_NOREPLACE && bucket.rules.takes_vaults;
        if !flags.is_empty() && !takes {
            return reply.error(Errno::EINVAL);
        }
        if takes && bucket.child(new_parent, new_name).and_then(|path| bucket.look(&path)).is_ok() {
            return reply.error(Errno::EEXIST);
        }
        let both = bucket.child(parent, name).and_then(|from| Ok((from, bucket.child(new_parent, new_name)?)));
        done(reply, both.and_then(|(from, to)| bucket.rename(&from, &to)));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut bucket = self.bucket();
        match bucket.child(parent, name).and_then(|path| bucket.create(&path)) {
            Ok((attributes, handle)) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&AT_ONCE, &attributes, Generation(0), FileHandle(handle), flags);
            }
            Err(why) => reply.error(why),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        // Without the kernel's cache, a mapping for writing that others see cannot be made.
        let how = if writes { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
        match self.bucket().open(inode, writes) {
            Ok(handle) => reply.opened(FileHandle(handle), how),
            Err(why) => reply.error(why),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.bucket().read(handle.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(why) => reply.error(why),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.bucket().write(handle.0, offset, bytes) {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(why) => reply.error(why),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        done(reply, self.bucket().publish(handle.0));
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.bucket().publish(handle.0));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        done(reply, self.bucket().release(handle.0));
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.bucket().open_folder(inode) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(why) => reply.error(why),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.bucket().listed(handle.0) {
            Ok(listed) => {
                for (n, (inode, kind, name)) in listed.iter().enumerate().skip(offset as usize) {
                    if reply.add(*inode, n as u64 + 1, *kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(why) => reply.error(why),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        done(reply, self.bucket().release(handle.0));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.bucket().rules.takes_vaults {
            true => reply.ok(),
            false => reply.error(Errno::EINVAL),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // As much as anybody wants.
        reply.statfs(1 << 40, 1 << 40, 1 << 40, 1 << 40, 1 << 40, 4096, 255, 4096);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOTSUP);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOTSUP);
    }
}
