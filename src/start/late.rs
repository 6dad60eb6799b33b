//! Finds what was written to a directory between the snapshot that was taken of it and the restore that moved it aside.

use std::path::Path;

use super::compare::{Change, Compared, NAMED, Until};
use super::facts::{StartOptions, directory};
use crate::error::{Error, Result};
use crate::monitor::Context;
use crate::replicas::{Site, SiteState};
use crate::source::walk;
use crate::vault::root::SnapshotName;

/// Returns the first entries in `aside` that the snapshot does not have as they are there, or of which that cannot be told; none if there
/// are no such entries. What only the snapshot has is not lost.
///
/// # Errors
/// A directory that cannot be read; no vault that has the snapshot; a store that fails; a stop.
pub fn written_since(
    sites: &[Site],
    options: &StartOptions,
    (saved, aside): (SnapshotName, &Path),
    ctx: &Context,
) -> Result<Vec<String>> {
    let root = walk::open(aside)?;
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
