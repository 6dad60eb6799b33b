//! Refuses a data directory that a restore has left half restored.

use std::path::Path;

use crate::error::{Code, Error, Result};
use crate::fs::beneath::Directory;
use crate::path::EntryPath;
use crate::source::marker::{self, MARKER, Unclear, Unfinished};

/// Checks that no restore into the data directory, from `vault`, was left unfinished. A caller that holds the
/// directory's lock cannot mistake a restore at work for an unfinished one.
///
/// # Errors
/// A restore was not finished, or nobody knows.
pub fn check_finished(data: &Path, root: &Directory, vault: &str) -> Result<()> {
    match Unfinished::read(root.folder()).transpose() {
        Some(marker_content) => Err(half_restored((data, vault), &EntryPath::root(), &marker_content)),
        None => Ok(()),
    }
}

/// Checks that no restore into a folder around the data directory, of this directory or something in it, was left
/// unfinished.
///
/// # Errors
/// A restore was not finished.
pub fn check_above(data: &Path) -> Result<()> {
    let Some((folder, unfinished)) = marker::above(data) else { return Ok(()) };
    let (doing, shown) = (format!("read the data directory {}", data.display()), folder.display());
    let again = unfinished.command(None, &folder, &EntryPath::root());
    let why = format!("a restore into {shown}, around it, has not been finished (there is {MARKER})");
    Err(Error::failed(doing, why)
        .with_code(Code::Unfinished)
        .hint(format!("`{again}`, with the vault that it restored from, finishes it.")))
}

/// The error that a folder, the data directory itself or one in it, is half restored.
pub(super) fn half_restored(
    (data, vault): (&Path, &str),
    folder: &EntryPath,
    marker_content: &Result<Unfinished, Unclear>,
) -> Error {
    let marker = folder.join(MARKER.as_bytes());
    let doing = format!("read the data directory {}", data.display());
    let unfinished = match marker_content {
        Ok(unfinished) => unfinished,
        Err(unclear) if folder.is_root() => {
            return Error::failed(doing, unclear.to_string()).with_code(unclear.code).hint(unclear.advice);
        }
        Err(unclear) => {
            return Error::failed(doing, format!("{folder}: {unclear}")).with_code(unclear.code).hint(unclear.advice);
        }
    };
    let of = if unfinished.is_all() { "in place".to_owned() } else { format!("of {unfinished}") };
    let why = format!("a restore {of} has not been finished (there is {marker})");
    let again = unfinished.command(Some(vault), data, folder);
    let again = format!("`{again}` finishes it. If it restored from another vault, name that one.");
    Error::failed(doing, why).with_code(Code::Unfinished).hint(again)
}
