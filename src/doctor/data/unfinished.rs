//! Finds restores that have not finished and leave the data directory incomplete.

use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::DataCheckInput;
use crate::command::RestoreCommand;
use crate::doctor::check::DoctorCheck;
use crate::fs::{Folder, pseudo};
use crate::path::EntryPath;
use crate::restore::mounts;
use crate::source::marker::{self, MARKER, Unfinished};

/// The advice for an interrupted restore of another directory.
pub(super) const COMPLETES: &str =
    "This completes it, with the vault that it was restored from. No backup is taken before that.";

/// Finds a restore that has not finished filling the directory or a volume in it: no backup is taken as long as that is so.
pub(super) fn unfinished_restore(input: &DataCheckInput) -> Option<DoctorCheck> {
    // If the mounts are not known, the check of a restore says why.
    let mut volumes = mounts::below(&input.at).unwrap_or_default();
    volumes.retain(|volume| pseudo::at(&input.at.join(volume.as_path())).is_none());
    let mut folders = std::iter::once(EntryPath::root()).chain(volumes);
    let said = |folder: &EntryPath| Unfinished::at(&input.at.join(folder.as_path())).transpose();
    let (folder, said) = folders.find_map(|folder| said(&folder).map(|said| (folder, said)))?;
    let it = if folder.is_root() { "it".to_owned() } else { format!("the volume {folder} in it") };
    if is_being_restored(&input.at.join(folder.as_path())) {
        let advice = "Until it has ended, no backup is taken, and the app should not be started. Run this again then.";
        return Some(DoctorCheck::warning("directory", format!("a restore into {it} is under way")).advice(advice));
    }
    let unfinished = match said {
        Ok(unfinished) => unfinished,
        Err(unclear) if folder.is_root() => {
            return Some(DoctorCheck::problem("directory", unclear.to_string()).advice(unclear.advice));
        }
        Err(unclear) => {
            return Some(DoctorCheck::problem("directory", format!("{it}: {unclear}")).advice(unclear.advice));
        }
    };
    let of = match (unfinished.is_all(), folder.is_root()) {
        (false, _) => format!("a restore of {unfinished}"),
        (true, true) => "a restore in place".to_owned(),
        (true, false) => "a restore of it".to_owned(),
    };
    let check = DoctorCheck::problem("directory", format!("{it} is broken: {of} was cut off ({MARKER} is there)"));
    let aside = unfinished.was_there(&input.at.join(folder.as_path()));
    let aside = match &aside[..] {
        [] if unfinished.aside.is_empty() => "what was there is in a folder lastgood.replaced-* in it".to_owned(),
        [] => "nothing has been moved aside yet".to_owned(),
        aside => {
            let aside: Vec<_> = aside.iter().map(|at| at.display().to_string()).collect();
            format!("what was there is in {}", aside.join(" and "))
        }
    };
    let (command, lost) = match (input.vault_with(unfinished.snapshot), unfinished.snapshot) {
        (Some(vault), _) => (unfinished.command(Some(vault), &input.at, &folder), String::new()),
        (None, Some(name)) if input.vault().is_some() => {
            let lost = format!(" with the newest good snapshot, since no vault here has {}, which it was of", name.id);
            (RestoreCommand { snapshot: None, ..unfinished.command(input.vault(), &input.at, &folder) }, lost)
        }
        _ => return Some(check.advice(format!("No vault here has a good snapshot that would complete it; {aside}."))),
    };
    Some(check.advice(format!("This completes it{lost}; {aside}:")).run(command.to_string()))
}

/// Finds a restore into a folder around the directory that has not finished, and so has left the directory or what it holds
/// incomplete.
pub(super) fn unfinished_above(input: &DataCheckInput) -> Option<DoctorCheck> {
    let (folder, unfinished) = marker::above(&input.at)?;
    let found =
        format!("it is broken: a restore into {}, around it, was cut off ({MARKER} is there)", folder.display());
    let again = unfinished.command(None, &folder, &EntryPath::root());
    Some(DoctorCheck::problem("directory", found).advice(COMPLETES).run(again.to_string()))
}

/// Whether a restore that is running holds the lock of a folder.
fn is_being_restored(folder: &Path) -> bool {
    let tried = Folder::open(folder).and_then(|folder| folder.readable());
    tried.is_ok_and(|held| flock(held, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
}
