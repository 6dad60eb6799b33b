//! Finds what was written to a directory between the look at it, or the snapshot that was taken of it, and the restore that moved it
//! aside.

use std::path::Path;

use super::compare::{Change, Compared, NAMED, Until};
use super::facts::{StartOptions, directory};
use super::known::SeedMark;
use super::seed;
use crate::error::{Error, Result};
use crate::monitor::Context;
use crate::replicas::{Site, SiteState};
use crate::source::walk;
use crate::vault::root::SnapshotName;

/// What holds the data that was in a directory before a restore moved it aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// The snapshot that was taken of it.
    Taken(SnapshotName),
    /// A snapshot that it was compared with: nothing differed.
    Compared(SnapshotName),
    /// The image that brought it along: its mark is in the directory.
    Image,
    /// There was no data. This is the snapshot that was restored.
    Restored(SnapshotName),
}

/// Returns the first entries in `aside` that what holds it does not have as they are there, or of which that cannot be told; none if there
/// are no such entries. What only the snapshot has is not lost.
///
/// # Errors
/// A directory that cannot be read; no vault that has the snapshot; a store that fails; a stop.
pub fn written_since(
    sites: &[Site],
    options: &StartOptions,
    (held, aside): (HeldBy, &Path),
    ctx: &Context,
) -> Result<Vec<String>> {
    let root = walk::open(aside)?;
    let saved = match held {
        HeldBy::Image => {
            // A restore in place leaves the mark where it is: then nothing tells what was the image's.
            let is_the_images = matches!(seed::read(&root, ctx)?, SeedMark::Untouched | SeedMark::None);
            return Ok(if is_the_images { Vec::new() } else { vec!["something is not as the image had it".into()] });
        }
        // Folders alone, and names that say nothing, are in many directories that count as empty.
        HeldBy::Restored(_) if !directory::has_data(&root, options, ctx)? => return Ok(Vec::new()),
        HeldBy::Taken(name) | HeldBy::Compared(name) | HeldBy::Restored(name) => name,
    };
    let place = directory::place(aside, &options.boot, &root)?;
    // What cannot be told is saved, which reads all of it as well.
    let compared = Compared { most_read: u64::MAX, ..place.compared(&root, options, ctx) };
    let mut failure = None;
    for site in sites {
        let SiteState::Vault(vault) = &site.found else { continue };
        let found = vault.root(saved).and_then(|snapshot| compared.with(vault, &snapshot, Until::Different));
        match found {
            Ok(found) => {
                let is_there = |(_, change): &&(_, Change)| *change != Change::Removed;
                let mut named: Vec<_> =
                    found.differences.iter().filter(is_there).map(|(path, _)| path.to_string()).collect();
                named.extend(found.unsure.map(|(path, _)| path.to_string()));
                if found.cut_short && named.len() < NAMED {
                    named.push("…".into());
                }
                return Ok(named);
            }
            Err(why) => failure = Some(why),
        }
    }
    let none = || Error::failed(format!("compare {} with {saved}", aside.display()), "no vault has that snapshot");
    Err(failure.unwrap_or_else(none))
}
