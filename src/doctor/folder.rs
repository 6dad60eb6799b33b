//! Checks of a vault in a folder: whether it can be written to, and what is there.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::{fs, io};

use rustix::fs::{Access, access};

use super::check::{CheckStatus, DoctorCheck};
use super::running::CheckRecorder;
use super::space::{existing, free, size, writable};
use super::vault;
use crate::fs::filesystem::remote_at;
use crate::fs::{Folder, is_folder, what};
use crate::shell;
use crate::store::local::{LocalStore, TMP};
use crate::store::{Store, to_share};

/// A vault's filesystem with less free space than this, in bytes, counts as full.
const FULL: u64 = 1 << 20;
/// The number of backups like the last one that should still fit.
const BACKUPS: u64 = 10;

/// The input of the checks of a folder.
pub struct FolderCheckInput {
    pub vault: vault::VaultCheckInput,
    pub folder: PathBuf,
    pub in_cloud_run: bool,
}

/// Runs the checks.
pub fn check_folder(input: &FolderCheckInput, recorder: &CheckRecorder, stop: &AtomicBool) {
    let folder = input.folder.as_path();
    let found = place(folder, input.in_cloud_run);
    let usable = found.outcome != CheckStatus::Problem;
    recorder.add(found);
    if !usable && !folder.is_dir() {
        return recorder.add(DoctorCheck::skipped("vault", "not looked for"));
    }
    let store = LocalStore::new(folder);
    if let Some(mode) = store.open_to_others() {
        recorder.add(open(mode, folder));
    }
    if let Some(unshared) = store.unshared() {
        let advice = format!("As its owner or root: {}.", unshared.commands(folder));
        recorder.add(DoctorCheck::warning("access", unshared.what()).advice(advice));
    }
    vault::check_vault(Box::new(store), &input.vault, recorder, stop);
    recorder.add(space(folder, recorder));
}

fn place(folder: &Path, in_cloud_run: bool) -> DoctorCheck {
    let name = "folder";
    let may = "Run it as the user who owns it, or change its owner or mode.";
    let above = existing(folder);
    let kind = remote_at(folder);
    let on = kind.map(|kind| format!(", on {kind}")).unwrap_or_default();
    let check = match fs::metadata(folder) {
        Ok(meta) if !meta.is_dir() => {
            DoctorCheck::problem(name, "it is not a folder").advice("Name another one: `--vault DIR`.")
        }
        Ok(_) => match access(folder, Access::READ_OK | Access::EXEC_OK).map_err(io::Error::from) {
            Err(why) => DoctorCheck::problem(name, format!("{}: {why}", vault::UNREADABLE)).advice(may),
            Ok(()) => match writable(folder) {
                Err(why) => DoctorCheck::problem(name, format!("a backup cannot write to it: {why}")).advice(may),
                Ok(()) => match in_the_way(folder) {
                    Some(what) => {
                        DoctorCheck::problem(name, format!("a backup cannot write to it: {TMP} in it is {what}"))
                            .advice(format!("Move it away: {}", folder.join(TMP).display()))
                    }
                    None => DoctorCheck::ok(name, format!("can be read and written{on}")),
                },
            },
        },
        Err(why) if why.kind() == io::ErrorKind::NotFound => match writable(above) {
            Err(why) => DoctorCheck::problem(
                name,
                format!("does not exist, and {} cannot be written to: {why}", above.display()),
            )
            .advice("Name a folder that can: `--vault DIR` or LASTGOOD_VAULT. If it is a volume, is it mounted?"),
            Ok(()) => DoctorCheck::ok(name, format!("does not exist yet; it can be made{on}")),
        },
        Err(why) => DoctorCheck::problem(name, format!("it cannot be looked at: {why}")).advice(may),
    };
    // In Cloud Run, an instance's disk is its memory. A bucket that is mounted as a volume is FUSE.
    if in_cloud_run && kind.is_none() && check.outcome == CheckStatus::Ok {
        return DoctorCheck::warning(
            name,
            "on the disk of a Cloud Run instance, which is lost with the instance, and the backups with it",
        )
        .advice("Keep the vault in a bucket: `--vault gs://BUCKET/PREFIX`, or BACKUP_BUCKET_NAME.");
    }
    check
}

/// Returns the warning that others may look into a vault's folder: its content may have been closed to them where it came from.
fn open(mode: u32, folder: &Path) -> DoctorCheck {
    DoctorCheck::warning("access", format!("everybody on this machine may look into it (mode {mode:04o})"))
        .advice(format!(
            "It holds copies of files that others may not be allowed to read; what backups store from now on is closed to them. \
             If others restore from it, share it with a group: {}. This closes it:",
            to_share(folder)
        ))
        .run(format!("chmod go-rwx {}", shell::folder(folder)))
}

/// Says what is at the place of a backup's temporary files, if it is not a folder.
fn in_the_way(folder: &Path) -> Option<&'static str> {
    let there = Folder::open(folder).and_then(|folder| folder.look(TMP)).ok()??;
    (!is_folder(&there)).then(|| what(&there))
}

fn space(folder: &Path, recorder: &CheckRecorder) -> DoctorCheck {
    let name = "space";
    let free = match free(existing(folder)) {
        Ok(Some(free)) => free,
        Ok(None) => return DoctorCheck::skipped(name, "the filesystem does not say"),
        Err(why) => return DoctorCheck::skipped(name, format!("not known: {why}")),
    };
    enough(free, recorder.lock().good.map(|good| good.uploaded))
}

/// Checks whether `free` bytes are enough for backups like the last one, which wrote `last` bytes.
fn enough(free: u64, last: Option<u64>) -> DoctorCheck {
    let name = "space";
    let advice = "Free some space, or keep the vault elsewhere: `--vault`.";
    if free < FULL {
        return DoctorCheck::problem(name, format!("full: {} free", size(free))).advice(advice);
    }
    let Some(last) = last else { return DoctorCheck::ok(name, format!("{} free", size(free))) };
    let found = format!("{} free; the last good backup wrote {}", size(free), size(last));
    match free / BACKUPS < last {
        false => DoctorCheck::ok(name, found),
        true => DoctorCheck::warning(name, found).advice(advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_more_backups() {
        for (free, last, outcome) in [
            (FULL - 1, None, CheckStatus::Problem),
            (FULL, None, CheckStatus::Ok),
            (100 << 20, Some(10 << 20), CheckStatus::Ok),
            (99 << 20, Some(10 << 20), CheckStatus::Warning),
        ] {
            assert_eq!(enough(free, last).outcome, outcome, "{free} {last:?}");
        }
    }

    #[test]
    fn where_a_vault_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(place(folder.path(), false).outcome, CheckStatus::Ok);
        assert_eq!(place(&folder.path().join("not/yet"), false).outcome, CheckStatus::Ok);
        assert_eq!(place(&file, false).outcome, CheckStatus::Problem);
        assert_eq!(place(&file.join("below"), false).outcome, CheckStatus::Problem);
        std::os::unix::fs::symlink(folder.path(), folder.path().join(TMP)).unwrap();
        let found = place(folder.path(), false);
        assert!(found.outcome == CheckStatus::Problem && found.found.contains("a symbolic link"), "{}", found.found);
        fs::remove_file(folder.path().join(TMP)).unwrap();
        let lost = place(folder.path(), true);
        assert!(lost.outcome == CheckStatus::Warning && lost.advice.unwrap().contains("gs://"), "{}", lost.found);
    }
}
