//! Finds what restores left beside the data directory and in it: what was there before, and staging folders of restores that were
//! cut off. Both take space until somebody deletes them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::doctor::check::DoctorCheck;
use crate::fs::Folder;
use crate::restore::staging_names::is_left;
use crate::shell::word;
use crate::source::select::{OWN, is_ours};

/// The most folders that are named.
const NAMED: usize = 3;

/// Returns a check for each of the two, if there is something; `told` is named by another check.
pub(super) fn leftovers(at: &Path, told: &[PathBuf]) -> Vec<DoctorCheck> {
    let (mut aside, mut staging) = (Vec::new(), Vec::new());
    let name = at.file_name().unwrap_or_default();
    for (folder, name) in [(at.parent(), Some(name)), (Some(at), None)] {
        let Some(opened) = folder.and_then(|folder| Folder::open(folder).ok()) else { continue };
        for entry in opened.names().unwrap_or_default() {
            let path = opened.path().join(&entry);
            if told.contains(&path) {
                continue;
            }
            if is_left(&entry, name.unwrap_or_default()) {
                if !is_held(&opened, &entry) {
                    staging.push(path);
                }
            } else if was_moved(&entry, name) {
                aside.push(path);
            }
        }
    }
    let aside = check("moved aside", aside, "what restores moved aside takes space:")
        .map(|check| check.advice("A restore deletes nothing. When nothing is missing in the directory, delete them."));
    let staging = check("staging", staging, "a restore that was cut off has left what it had begun to build:").map(|check| {
        check.advice("The next restore to the directory removes what is its own. Otherwise delete them, while no restore is under way.")
    });
    aside.into_iter().chain(staging).collect()
}

fn check(name: &'static str, mut paths: Vec<PathBuf>, what: &str) -> Option<DoctorCheck> {
    paths.sort();
    let named: Vec<_> = paths.iter().take(NAMED).map(word).collect();
    let more = match paths.len().checked_sub(NAMED) {
        None | Some(0) => String::new(),
        Some(more) => format!(" and {more} more"),
    };
    (!paths.is_empty()).then(|| DoctorCheck::warning(name, format!("{what} {}{more}", named.join(", "))))
}

/// Whether a restore to the directory gave an entry this name, beside the directory of this name or in it.
fn was_moved(entry: &OsStr, name: Option<&OsStr>) -> bool {
    let before = match name {
        Some(name) => [name.as_bytes(), b".replaced-"].concat(),
        None => OWN.as_bytes().to_vec(),
    };
    is_ours(entry.as_bytes()) && entry.as_bytes().starts_with(&before)
}

/// Whether a restore that is running holds a staging folder, or that cannot be told.
fn is_held(folder: &Folder, entry: &OsStr) -> bool {
    let opened = folder.enter(entry).and_then(|staging| staging.readable());
    opened.map_or(true, |open| flock(&open, FlockOperation::NonBlockingLockShared).is_err())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_left_beside_the_directory_and_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let at = root.join("data");
        fs::create_dir(&at).unwrap();
        assert_eq!(leftovers(&at, &[]), []);
        let staging = ".data.lastgood-restoring-0123456789abcdef";
        for name in [
            "data.replaced-20261121T101112Z",
            "data.replaced-20261121T101112Z-2",
            "data2.replaced-20261121T101112Z",
            "data.replaced-yesterday",
            staging,
            ".other.lastgood-restoring-0123456789abcdef",
            "data/lastgood.replaced-20261121T101113Z",
            "data/.lastgood-restoring-0123456789abcdef",
            "data/app.replaced-20261121T101113Z",
        ] {
            fs::create_dir(root.join(name)).unwrap();
        }
        let told = leftovers(&at, &[]);
        let found = |n: usize| told[n].found.replace(&format!("{}/", root.display()), "");
        assert_eq!(told.len(), 2);
        let aside =
            "data/lastgood.replaced-20261121T101113Z, data.replaced-20261121T101112Z, data.replaced-20261121T101112Z-2";
        assert!(found(0).ends_with(&format!(": {aside}")), "{told:?}");
        assert!(found(1).ends_with(&format!(": {staging}, data/.lastgood-restoring-0123456789abcdef")), "{told:?}");
        // A restore that is under way holds its own.
        let held = fs::File::open(root.join(staging)).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let told = leftovers(&at, &[root.join("data.replaced-20261121T101112Z")]);
        assert!(!told[1].found.contains(staging) && !told[0].found.contains("12Z,"), "{told:?}");
    }
}
