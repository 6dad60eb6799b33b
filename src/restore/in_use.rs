//! Finds the programs that use what a restore is about to replace.
//!
//! The files that they have open move aside with everything else: they go on writing to the old files, and all of that
//! is lost to whoever opens the new ones. So a restore looks for such programs before it changes anything.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io, process};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::standing::{self, FileUser};
use crate::error::{Code, Error};
use crate::fs::holders::{Locks, program};

/// Most programs that an error names.
const NAMED: usize = 3;

/// Returns the programs that have a file below one of `places` (absolute paths without symlinks) open, mapped or
/// locked, or work in a folder there, as far as this process may know: it sees the files of its own user's programs,
/// or, as root, of all programs in its container; of other programs it sees only the locks (SQLite's among them) that
/// they hold just then.
pub fn users(places: &[PathBuf]) -> Vec<FileUser> {
    if places.is_empty() {
        return Vec::new();
    }
    let mut found = BTreeMap::new();
    let mut hidden = HashSet::new();
    for pid in processes() {
        match used_below(pid, places) {
            Ok(Some(file)) => _ = found.insert(pid, file),
            Ok(None) => {}
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => _ = hidden.insert(pid),
            // It has ended.
            Err(_) => {}
        }
    }
    let mut locks = if hidden.is_empty() { Locks::default() } else { Locks::read() };
    locks.retain(|pid| hidden.contains(&pid));
    if !locks.is_empty() {
        places.iter().for_each(|place| locked_below(place, &locks, &mut found));
    }
    let user = |(pid, file)| FileUser { pid, program: program(pid), file };
    found.into_iter().map(user).collect()
}

/// The error that these programs are in the way, with advice on what can be done.
pub fn refusal(target: &Path, users: &[FileUser]) -> Error {
    let name = |user: &FileUser| {
        let program = if user.program.is_empty() { "a program" } else { &user.program };
        format!("{program} (process {}: {})", user.pid, user.file.display())
    };
    let named: Vec<_> = users.iter().take(NAMED).map(name).collect();
    let more = match users.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let why = format!("programs use files in it: {}{more}", named.join(", "));
    Error::failed(format!("replace {}", target.display()), why).with_code(Code::InUse).hint(
        "Stop them and run it again. With --while-in-use the restore is done anyway: until they are restarted, they go on with the old \
         files, and what they write is not in the new ones.",
    )
}

/// All processes except this one, as far as they are visible.
fn processes() -> impl Iterator<Item = u32> {
    // Without /proc nothing is known.
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid != process::id())
}

/// A file below one of `places` that a process has open or mapped, or the folder there that it works in.
fn used_below(pid: u32, places: &[PathBuf]) -> io::Result<Option<PathBuf>> {
    if let Some(file) = open_below(pid, places)? {
        return Ok(Some(file));
    }
    let is_below = |path: &Path| places.iter().any(|place| path.starts_with(place));
    // "7f0c… rw-s 00000000 08:01 131    /srv/app/data/app.db-shm"; a path may have spaces.
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped =
        maps.split(|&b| b == b'\n').filter_map(|line| line.iter().position(|&b| b == b'/').map(|at| &line[at..]));
    let mut mapped = mapped.map(|path| Path::new(OsStr::from_bytes(path)));
    if let Some(file) = mapped.find(|path| is_below(path) && path.is_file()) {
        return Ok(Some(file.to_owned()));
    }
    // Names that the process opens later are looked up from there. For the shell that runs this program, `standing`
    // knows more.
    let folder = fs::read_link(format!("/proc/{pid}/cwd"));
    Ok(folder
        .ok()
        .filter(|folder| is_below(folder) && folder.is_dir() && !standing::ancestry().any(|above| above == pid)))
}

/// A file below one of `places` that a process has open.
fn open_below(pid: u32, places: &[PathBuf]) -> io::Result<Option<PathBuf>> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    for entry in fs::read_dir(&folder)? {
        let link = entry?.path();
        let Ok(path) = fs::read_link(&link) else { continue };
        if !places.iter().any(|place| path.starts_with(place)) {
            continue;
        }
        // In another container, a different file may have that path, and a file that was removed has no path.
        if let (Ok(open), Ok(there)) = (fs::metadata(&link), fs::symlink_metadata(&path))
            && open.is_file()
            && (open.dev(), open.ino()) == (there.dev(), there.ino())
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Adds to `found` the processes that hold locks of `place` or of files below it, each with one such file.
fn locked_below(place: &Path, locks: &Locks, found: &mut BTreeMap<u32, PathBuf>) {
    let mut look = |path: &Path| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(there) = openat(CWD, path, flags, Mode::empty()) else { return };
        for lock in locks.of(there) {
            found.entry(lock.pid).or_insert_with(|| path.to_owned());
        }
    };
    look(place);
    let mut open = vec![place.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                // The listing itself tells the inode number; only a match needs a look at the file.
                Ok(kind) if kind.is_file() && locks.has_inode(entry.ino()) => look(&entry.path()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    use rustix::fs::{major, minor};

    use super::*;

    /// A program that has a file open.
    struct Holder(Child);

    impl Holder {
        fn of(file: &Path) -> Holder {
            let script = "exec 3<>\"$1\"; echo y; read x";
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).unwrap();
            Holder(child)
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_program_that_has_a_file_open_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        for name in ["data/deep", "data-other", "data/gone"] {
            fs::create_dir_all(at.join(name)).unwrap();
            fs::write(at.join(name).join("file"), "x").unwrap();
        }
        let place = [at.join("data")];
        let _other = Holder::of(&at.join("data-other/file"));
        let _gone = Holder::of(&at.join("data/gone/file"));
        fs::remove_file(at.join("data/gone/file")).unwrap();
        // This process itself is not reported.
        let _own = File::open(at.join("data/deep/file")).unwrap();
        assert_eq!(users(&place), []);
        let holder = Holder::of(&at.join("data/deep/file"));
        let file = at.join("data/deep/file");
        let expected = FileUser { pid: holder.0.id(), program: "sh".into(), file: file.clone() };
        assert_eq!(users(&place), std::slice::from_ref(&expected));
        assert_eq!(users(&[at.join("data-other"), file]).len(), 2);
        let refusal = refusal(&place[0], &vec![expected; 5]);
        let said = refusal.to_string();
        assert_eq!(refusal.word(), "in-use");
        assert!(
            said.contains("sh (process") && said.contains("and 2 more") && said.contains("--while-in-use"),
            "{said}"
        );
    }

    #[test]
    fn a_program_that_may_not_be_looked_at_is_known_by_its_locks() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        fs::create_dir(at.join("deep")).unwrap();
        let file = at.join("deep/file");
        fs::write(&file, "x").unwrap();
        fs::write(at.join("other"), "x").unwrap();
        let there = fs::metadata(&file).unwrap();
        let (major, minor) = (major(there.dev()), minor(there.dev()));
        let locks = format!("1: POSIX  ADVISORY  WRITE 7 {major:02x}:{minor:02x}:{} 0 EOF", there.ino());
        let locks = Locks::parse(&locks, "");
        let below = |place: &Path| {
            let mut found = BTreeMap::new();
            locked_below(place, &locks, &mut found);
            found
        };
        for place in [&at, &file] {
            assert_eq!(below(place), BTreeMap::from([(7, file.clone())]));
        }
        assert_eq!(below(&at.join("other")), BTreeMap::new());
    }
}
