//! Finds who stands in the target: this program, and the programs that started it.
//!
//! A start script goes into the data directory, restores it, and starts the app there; a container does so by its
//! `WORKDIR`. If the directory were exchanged, they would all go on in the old one, which is aside then, and whatever
//! the app wrote would be lost. So the folder itself stays and is filled; if one of them works in a folder in it that
//! cannot stay, nothing is done.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, process};

use crate::error::{Code, Error};
use crate::shell::folder;

use serde::Serialize;

/// The warning of a report about a target that was filled because somebody stands in it.
pub const FILLED: &str = "the target was filled in place, because this program, or one that started it, works in it";

/// This process and its ancestors, each followed by the one that started it, as far as they are visible.
pub fn ancestry() -> impl Iterator<Item = u32> {
    let parent = |of: &u32| {
        let status = fs::read_to_string(format!("/proc/{of}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
    };
    // The limit ends a ring of processes, which can appear while processes end and begin.
    std::iter::successors(Some(process::id()), parent).take(1000).take_while(|pid| *pid != 0)
}

/// Whether this process or an ancestor works in this very folder, an absolute path without symlinks.
pub fn is_in(target: &Path) -> bool {
    below(target).any(|(_, folder)| folder == target)
}

/// The folders, the target itself or below it, that this process and its ancestors work in, each with the process id. A
/// program of another user may not be visible.
pub(super) fn below(target: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    let identity = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    let top = identity(target);
    ancestry().filter_map(move |pid| {
        let link = PathBuf::from(format!("/proc/{pid}/cwd"));
        let (path, folder) = match pid == process::id() {
            // This works without /proc too.
            true => (std::env::current_dir().ok()?, identity(Path::new("."))?),
            false => (fs::read_link(&link).ok()?, identity(&link)?),
        };
        // The folder may have another name too, where it is mounted elsewhere, and in another container the name means
        // another folder.
        if Some(folder) == top {
            return Some((pid, target.to_owned()));
        }
        (path.starts_with(target) && identity(&path) == Some(folder)).then_some((pid, path))
    })
}

/// The error that one of them is in the way, with advice on what can be done.
pub fn refusal(target: &Path, user: &FileUser) -> Error {
    let who = match user.pid == process::id() {
        true => "this program works".to_owned(),
        false => format!("{} (process {}), which started this one, works", user.program, user.pid),
    };
    let why = format!("{who} in {}, which moves aside: it would go on working in the old folder", user.file.display());
    Error::failed(format!("replace {}", target.display()), why).with_code(Code::InUse).hint(format!(
        "Run it from {} itself or from outside of it: `cd {}`, or the WORKDIR of the container.",
        target.display(),
        folder(target)
    ))
}

/// A program that has a file open which is to be replaced, or works in a folder that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileUser {
    /// Its process id.
    pub pid: u32,
    /// Its name, as `ps` shows it; empty where it is not known.
    pub program: String,
    /// One of its files, or the folder that it works in.
    pub file: PathBuf,
}
