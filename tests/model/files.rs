//! The app's acts on files and symlinks.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use lastgood::vault::hex::Hash;
use rustix::fs::{XattrFlags, setxattr};

use super::app::App;
use super::engine::frozen;
use super::history::{File, Id, What, join, split};

/// Two writes within one tick of the kernel's clock may leave the same time: no reader could tell them apart.
pub const TICK: Duration = Duration::from_millis(12);
/// Large files that it keeps.
const LARGE: usize = 3;
/// A file that is larger takes several reads.
const SEVERAL: usize = 256 << 10;

/// Returns the inode number of what is at a path.
pub fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).ino()
}

/// Waits until what was written at a time can be told from what is written now.
pub fn wait_since(at: Instant) {
    std::thread::sleep(TICK.saturating_sub(at.elapsed()));
}

impl App {
    /// Makes a file at a free path.
    pub fn make(&mut self, path: &str, bytes: Vec<u8>) -> Id {
        let whole = self.at(path);
        let hash = Hash::of(&bytes);
        let empty = Hash::of(b"");
        // It is there, and empty, before it is written.
        let now = self.history.now;
        frozen(self.engine, || fs::write(&whole, &bytes).unwrap());
        let file = File { bytes, versions: vec![(now, empty), (now + 1, hash)], at: Instant::now() };
        let id = self.history.add(What::File(file), inode(&whole));
        self.history.contents.insert(hash, id);
        self.history.put(path, id);
        self.history.now += 1;
        id
    }

    /// Removes one name of a file or symlink.
    pub fn unlink(&mut self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
        self.history.take(path);
    }

    /// Makes a small file or a large one; of too many, some go instead.
    pub fn create(&mut self, large: bool) -> Option<String> {
        if self.crowded() {
            return if self.dice.roll(20) == 0 { self.remove_tree() } else { self.unlink_one() };
        }
        let length = match large {
            true if self.large() < LARGE => 300_000 + self.dice.roll(600_000) as usize,
            true => return None,
            false => 1 + self.dice.roll(3_000) as usize,
        };
        let path = self.pick_free(false)?;
        let bytes = self.content(length);
        self.make(&path, bytes);
        Some(format!("{path} of {length} bytes"))
    }

    fn large(&self) -> usize {
        self.all(|_, what| matches!(what, What::File(file) if file.bytes.len() > SEVERAL)).len()
    }

    /// Waits until a change of the file shows; what it holds.
    fn before_change(&mut self, id: Id) -> Vec<u8> {
        let file = self.history.file(id).unwrap();
        wait_since(file.at);
        file.bytes.clone()
    }

    /// Writes into a file where it lies, at once as far as a reader can tell.
    fn write_at(&mut self, path: &str, id: Id, at: usize, new: &[u8], mut bytes: Vec<u8>) {
        let file = OpenOptions::new().write(true).open(self.at(path)).unwrap();
        frozen(self.engine, || file.write_all_at(new, at as u64).unwrap());
        let end = at + new.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[at..end].copy_from_slice(new);
        self.history.write(id, bytes);
    }

    /// Writes somewhere into a file.
    pub fn overwrite(&mut self) -> Option<String> {
        let (path, id) = self.pick_file()?;
        let bytes = self.before_change(id);
        if bytes.is_empty() {
            return None;
        }
        let at = self.dice.roll(bytes.len() as u64) as usize;
        let most = (bytes.len() - at).min(if self.dice.roll(3) == 0 { 400_000 } else { 8_000 });
        let length = 1 + self.dice.roll(most as u64) as usize;
        let new = self.content(length);
        self.write_at(&path, id, at, &new, bytes);
        Some(format!("{path}: {length} bytes at {at}"))
    }

    /// Writes at the end of a file.
    pub fn append(&mut self) -> Option<String> {
        let (path, id) = self.pick_file()?;
        let bytes = self.before_change(id);
        let length = 1 + self.dice.roll(2_000) as usize;
        let new = self.content(length);
        let end = bytes.len();
        if end + length > 1_200_000 {
            return None;
        }
        self.write_at(&path, id, end, &new, bytes);
        Some(format!("{path}: {length} bytes after {end}"))
    }

    /// Cuts a file off, or writes it again from its beginning.
    pub fn truncate(&mut self) -> Option<String> {
        let (path, id) = self.pick_file()?;
        let mut bytes = self.before_change(id);
        if bytes.is_empty() {
            return None;
        }
        let length = if self.dice.roll(3) == 0 { 0 } else { self.dice.roll(bytes.len() as u64) as usize };
        let file = OpenOptions::new().write(true).open(self.at(&path)).unwrap();
        file.set_len(length as u64).unwrap();
        bytes.truncate(length);
        self.history.write(id, bytes);
        if length == 0 {
            // As a program does that opens it to write it again.
            let length = 1 + self.dice.roll(3_000) as usize;
            let new = self.content(length);
            self.write_at(&path, id, 0, &new, Vec::new());
        }
        Some(format!("{path} to {length} bytes"))
    }

    /// Writes a new file beside one, and renames it over that.
    pub fn replace(&mut self) -> Option<String> {
        let (path, id) = self.pick_file()?;
        self.replace_one(&path, id)
    }

    /// Replaces a certain file, if it is there.
    pub fn replace_again(&mut self, path: &str, when: &str) {
        let file = self.history.look(path).filter(|id| self.history.file(*id).is_some());
        if file.and_then(|id| self.replace_one(path, id)).is_some() {
            self.log.push(format!("{when}: {path} is replaced"));
        }
    }

    fn replace_one(&mut self, path: &str, id: Id) -> Option<String> {
        let length = match self.history.file(id)?.bytes.len() {
            large if large > SEVERAL => large,
            _ => 1 + self.dice.roll(3_000) as usize,
        };
        let new = join(split(path).0, &format!("~{}", self.serial()));
        let bytes = self.content(length);
        self.make(&new, bytes);
        fs::rename(self.at(&new), self.at(path)).unwrap();
        self.history.rename(&new, path);
        Some(format!("{path} by {length} bytes"))
    }

    /// Writes into a file through a memory map.
    pub fn map_write(&mut self) -> Option<String> {
        let (path, id) = self.pick_file()?;
        let mut bytes = self.before_change(id);
        if bytes.is_empty() {
            return None;
        }
        let at = self.dice.roll(bytes.len() as u64) as usize;
        let length = (bytes.len() - at).min(1 + self.dice.roll(5_000) as usize);
        let new = self.content(length);
        let file = OpenOptions::new().read(true).write(true).open(self.at(&path)).unwrap();
        frozen(self.engine, || store(&file, bytes.len(), at, &new));
        bytes[at..at + length].copy_from_slice(&new);
        self.history.write(id, bytes);
        Some(format!("{path}: {length} bytes at {at}"))
    }

    /// Renames a file, now and then over another one.
    pub fn rename_file(&mut self) -> Option<String> {
        let (path, id) = self.pick_file()?;
        let to = match self.dice.roll(4) {
            0 => self.pick_file()?.0,
            _ => self.pick_free(false)?,
        };
        // A rename of one name of a file over another one of it does nothing.
        if self.history.look(&to) == Some(id) {
            return None;
        }
        fs::rename(self.at(&path), self.at(&to)).unwrap();
        self.history.rename(&path, &to);
        Some(format!("{path} to {to}"))
    }

    /// Gives a file one more name.
    pub fn link(&mut self) -> Option<String> {
        let (path, id) = self.pick_file()?;
        let to = self.pick_free(false)?;
        fs::hard_link(self.at(&path), self.at(&to)).unwrap();
        self.history.put(&to, id);
        Some(format!("{path} as {to}"))
    }

    /// Removes a name of a file, or a symlink.
    pub fn unlink_one(&mut self) -> Option<String> {
        let all = self.all(|_, what| matches!(what, What::File(_) | What::Symlink(_)));
        let (path, _) = self.pick(all)?;
        self.unlink(&path);
        Some(path)
    }

    /// Removes all names of linked files, and at once makes others, which get the same inode numbers.
    pub fn relink(&mut self) -> Option<String> {
        let mut linked = self.all(|_, what| matches!(what, What::File(file) if file.bytes.len() < SEVERAL));
        linked.retain(|(_, id)| self.history.objects[*id].names > 1);
        let mut did = String::new();
        if let Some((_, id)) = self.pick(linked.clone()) {
            for (path, _) in linked.iter().filter(|(_, other)| *other == id) {
                self.unlink(path);
                did += &format!("{path} goes, ");
            }
        }
        let (first, length) = (self.pick_free(false)?, 1 + self.dice.roll(3_000) as usize);
        let bytes = self.content(length);
        let id = self.make(&first, bytes);
        let second = self.pick_free(false)?;
        fs::hard_link(self.at(&first), self.at(&second)).unwrap();
        self.history.put(&second, id);
        Some(did + &format!("{first} comes with {second}, inode {}", self.history.objects[id].inode))
    }

    /// Makes a symlink that leads nowhere, or out of the data directory.
    pub fn symlink(&mut self) -> Option<String> {
        let path = self.pick_free(true)?;
        let target = match self.dice.roll(4) {
            0 => format!("nowhere{}", self.serial()),
            _ => self.base.join("secret").display().to_string(),
        };
        symlink(&target, self.at(&path)).unwrap();
        let id = self.history.add(What::Symlink(target), inode(&self.at(&path)));
        self.history.put(&path, id);
        Some(path)
    }

    /// Changes permissions.
    pub fn chmod(&mut self) -> Option<String> {
        let all = self.all(|path, what| !path.is_empty() && !matches!(what, What::Symlink(_)));
        let (path, id) = self.pick(all)?;
        let folder = self.history.children(id).is_some();
        let mode = if folder { 0o700 } else { 0o600 } + self.dice.roll(8) as u32;
        fs::set_permissions(self.at(&path), fs::Permissions::from_mode(mode)).unwrap();
        Some(format!("{path} {mode:o}"))
    }

    /// Sets an extended attribute.
    pub fn xattr(&mut self) -> Option<String> {
        let (path, _) = self.pick_file()?;
        let value = self.serial().to_string();
        // Not every filesystem has them.
        let _ = setxattr(self.at(&path), "user.lastgood", value.as_bytes(), XattrFlags::empty());
        Some(path)
    }
}

/// Stores through a memory map, and has the kernel write it back.
fn store(file: &fs::File, length: usize, at: usize, new: &[u8]) {
    use std::os::fd::AsRawFd;
    // SAFETY: the map is as long as the file, which nobody else makes shorter, and is gone at the end; `new` fits into it.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let map = libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(new.as_ptr(), map.cast::<u8>().add(at), new.len());
        assert_eq!(libc::msync(map, length, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(map, length), 0);
    }
}
