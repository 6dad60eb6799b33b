//! Checks of the data directory: whether a backup can read it, and whether a restore can bring it back.

mod moved_aside;
mod restore_target;
mod unfinished;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::{io, slice};

use indicatif::HumanCount;

use self::restore_target::{space, target};
use self::unfinished::{COMPLETES, unfinished_above, unfinished_restore};
use super::check::{CheckStatus, DoctorCheck, DoctorSettings};
use super::running::{CheckFindings, CheckRecorder, GoodSnapshot};
use super::space::{existing, size};
use super::walk::{WalkSummary, walk};
use crate::command::RestoreCommand;
use crate::fs::Folder;
use crate::fs::filesystem::remote;
use crate::fs::location::lies_in;
use crate::path::EntryPath;
use crate::restore::killed::Leftover;
use crate::restore::select::NewerFormat;
use crate::restore::{apart, killed};
use crate::source::marker::MARKER;
use crate::vault::root::SnapshotName;

/// The most entries that cannot be read and are named.
const NAMED: usize = 3;

/// The input of the checks of the data directory.
pub struct DataCheckInput {
    /// The directory as it was named.
    data: PathBuf,
    /// Where it is: absolute, symlinks followed as far as it exists.
    at: PathBuf,
    /// The vaults in folders: their names, and where they are.
    vaults: Vec<(String, PathBuf)>,
    /// The vault that a restore takes, and its newest good snapshot.
    good: Option<(String, GoodSnapshot)>,
    /// What a newer lastgood wrote, if a restore is refused for it unless a snapshot is named.
    refused: Option<String>,
    /// The vaults that could be read, and their snapshots.
    snapshots: Vec<(String, Vec<SnapshotName>)>,
}

impl DataCheckInput {
    /// Creates the input from the configuration and what the vaults hold.
    pub fn new(settings: &DoctorSettings, vaults: &[(String, CheckFindings)]) -> Self {
        let folders = settings.vaults.iter().filter_map(|vault| Some((vault.shown(), vault.at.clone()?)));
        let good = vaults.iter().filter_map(|(name, findings)| Some((name.clone(), findings.good?)));
        // If several vaults have it, the first of them counts.
        let good = good.rev().max_by_key(|(_, good)| good.name);
        let newer = vaults.iter().filter_map(|(name, findings)| Some((findings.newer_format?, name)));
        let newer = newer.max().filter(|(at, _)| good.as_ref().is_none_or(|(_, good)| at.is_above(good.name)));
        let refused = newer.map(|(at, vault)| match at {
            NewerFormat::Snapshot(name) => format!("the snapshot {name} in {vault}"),
            NewerFormat::Vault => format!("the vault {vault}"),
        });
        // A restore takes nothing that is older.
        let good = good.filter(|_| refused.is_none());
        let snapshots = vaults.iter().map(|(name, findings)| (name.clone(), findings.snapshots.clone())).collect();
        DataCheckInput {
            data: settings.data.clone(),
            at: settings.data_at.clone(),
            vaults: folders.collect(),
            good,
            refused,
            snapshots,
        }
    }

    /// Returns the vault that a restore takes.
    fn vault(&self) -> Option<&str> {
        self.good.as_ref().map(|(vault, _)| &**vault)
    }

    /// Returns a vault that has the snapshot, preferably the one that a restore takes; that one, too, if `snapshot` is `None`.
    fn vault_with(&self, snapshot: Option<SnapshotName>) -> Option<&str> {
        let Some(name) = snapshot else { return self.vault() };
        let takes = self.vault();
        let has = |held: &&(String, Vec<SnapshotName>)| held.1.contains(&name);
        let mut having = self.snapshots.iter().filter(has).map(|(vault, _)| &**vault);
        let first = having.next();
        having.chain(first).find(|vault| Some(*vault) == takes).or(first)
    }

    /// Returns the command that restores the directory as it is now.
    fn command(&self) -> RestoreCommand<'_> {
        RestoreCommand::of_all(self.vault(), &self.at)
    }

    /// Whether a snapshot may hold what is on volumes in the directory.
    fn holds_volumes(&self) -> bool {
        self.good.as_ref().is_none_or(|(_, good)| !good.one_file_system)
    }

    /// Returns the same, if there is a snapshot to bring back.
    fn restore(&self) -> Option<String> {
        self.vault().map(|_| self.command().to_string())
    }
}

/// Runs the checks.
pub fn check_data_directory(input: &DataCheckInput, recorder: &CheckRecorder, stop: &Arc<AtomicBool>) {
    let walked = match walk_directory(input, stop) {
        Ok(walked) => {
            recorder.add(content(input, &walked));
            recorder.add(readable(&walked));
            if let Some(check) = filesystem(&input.at, &walked) {
                recorder.add(check);
            }
            Some(walked)
        }
        Err(failed) => {
            recorder.add(*failed);
            None
        }
    };
    if let Some(check) = apart(input) {
        recorder.add(check);
    }
    let killed = killed::leftovers(&input.at);
    let left = moved_aside::leftovers(&input.at, &killed.iter().map(Leftover::path).collect::<Vec<_>>());
    left.into_iter().for_each(|check| recorder.add(check));
    for left in killed {
        recorder.add(DoctorCheck::warning("killed restore", left.to_string()).advice(left.advice()));
    }
    let (check, staging) = target(input);
    recorder.add(match &input.refused {
        Some(what) if check.outcome != CheckStatus::Problem => refused(what),
        _ => check,
    });
    if let Some(staging) = staging {
        recorder.add(space(input, existing(&staging), walked.as_ref()));
    }
}

/// Returns the check of a restore that is refused for the sake of `what`.
fn refused(what: &str) -> DoctorCheck {
    let found = format!(
        "would be refused unless a snapshot is named: a newer lastgood wrote {what}, which may be the last good state"
    );
    DoctorCheck::problem("restore", found).advice(
        "Use a version of lastgood that reads it. To take an older snapshot on purpose: `lastgood restore --snapshot ID`; \
         `lastgood list` shows the ids.",
    )
}

/// Walks the directory, if it is one.
fn walk_directory(input: &DataCheckInput, stop: &AtomicBool) -> Result<WalkSummary, Box<DoctorCheck>> {
    let name = "directory";
    let meta = match input.at.metadata() {
        Ok(meta) => meta,
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let check = DoctorCheck::problem(name, "it does not exist");
            return Err(Box::new(match input.restore() {
                Some(command) => check
                    .advice("If it is a volume, mount it. If it was lost, this brings the newest good snapshot back:")
                    .run(command),
                None => check.advice(
                    "Name the right one (`lastgood doctor DIR`, LASTGOOD_DATA), or make it. If it is a volume, is it mounted?",
                ),
            }));
        }
        Err(why) => return Err(Box::new(unreadable(name, &why))),
    };
    if !meta.is_dir() {
        return Err(Box::new(
            DoctorCheck::problem(name, "it is not a directory")
                .advice("Name the directory: `lastgood doctor DIR`, LASTGOOD_DATA."),
        ));
    }
    let vaults: Vec<_> = input.vaults.iter().map(|(_, at)| at.as_path()).collect();
    walk(&input.at, &vaults, stop).map_err(|why| Box::new(unreadable(name, &why)))
}

fn unreadable(name: &'static str, why: &io::Error) -> DoctorCheck {
    let advice = "Run it as the user who owns it, as the backup has to, or change its owner or mode.";
    DoctorCheck::problem(name, format!("it cannot be read: {why}")).advice(advice)
}

/// Checks the directory's content.
fn content(input: &DataCheckInput, walked: &WalkSummary) -> DoctorCheck {
    let name = "directory";
    if let Some(check) = unfinished_restore(input).or_else(|| unfinished_above(input)) {
        return check;
    }
    if let Some((folder, unfinished)) = &walked.unfinished {
        let found = format!("{} in it is broken: a restore into it was cut off ({MARKER} is there)", folder.display());
        let again = unfinished.command(None, &input.at.join(folder), &EntryPath::root());
        return DoctorCheck::problem(name, found).advice(COMPLETES).run(again.to_string());
    }
    if walked.entries == 0 {
        let found = "it is empty: that is what a volume that is not mounted looks like";
        return match input.restore() {
            Some(command) => {
                DoctorCheck::problem(name, format!("{found}, and there is a good snapshot of what was in it"))
                    .advice("If it is a volume, mount it. If its content was lost, this brings it back:")
                    .run(command)
            }
            None => DoctorCheck::warning(name, found)
                .advice("If it is a volume, mount it. A backup of an empty directory is not good."),
        };
    }
    let databases = match walked.databases {
        0 => String::new(),
        1 => ", 1 SQLite database".into(),
        n => format!(", {n} SQLite databases"),
    };
    let entries =
        if walked.entries == 1 { "1 entry".into() } else { format!("{} entries", HumanCount(walked.entries)) };
    let part = if walked.whole { "" } else { ", and more, which was not looked at" };
    DoctorCheck::ok(name, format!("{entries}, {}{databases}{part}", size(walked.bytes)))
}

/// Checks whether all that was looked at can be read.
fn readable(walked: &WalkSummary) -> DoctorCheck {
    let name = "readable";
    if walked.unreadable == 0 {
        return DoctorCheck::ok(name, if walked.whole { "all of it" } else { "all that was looked at" });
    }
    let named: Vec<_> =
        walked.first_unreadable.iter().take(NAMED).map(|(path, why)| format!("{}: {why}", path.display())).collect();
    let more = match walked.unreadable.saturating_sub(named.len() as u64) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    DoctorCheck::problem(name, format!("{}{more}", named.join("; "))).advice(
        "A snapshot has them as they were when they could be read last, or not at all, and is not whole. Run backups as the \
         user who owns them or as root, change their modes, or leave them out on purpose: `--exclude`.",
    )
}

/// Says what the directory's filesystem means for databases.
fn filesystem(at: &Path, walked: &WalkSummary) -> Option<DoctorCheck> {
    let name = "filesystem";
    let kind = match kind(at) {
        Ok(kind) => kind,
        Err(why) => return Some(DoctorCheck::skipped(name, format!("not known: {why}"))),
    };
    let Some(kind) = kind else { return Some(DoctorCheck::ok(name, "local")) };
    Some(match walked.databases {
        0 => DoctorCheck::ok(name, format!("{kind}, of another machine or program: fine for files, not for SQLite databases")),
        _ => DoctorCheck::warning(name, format!("SQLite databases are on {kind}, where no lock can be relied on"))
            .advice(
                "They are taken as plain files, unchecked (`raw`), and the app itself can damage them there. Keep them on a local disk, \
                 in Cloud Run the instance's own: `lastgood restore` puts them there at the start, backups keep them.",
            ),
    })
}

/// Returns the kind of the filesystem, if it is another machine's or program's.
fn kind(at: &Path) -> io::Result<Option<&'static str>> {
    Ok(remote(Folder::open(at)?)?)
}

/// Checks whether the vaults and the directory are in each other's way.
fn apart(input: &DataCheckInput) -> Option<DoctorCheck> {
    let name = "apart";
    let advice = "Keep the vault beside the data directory, not around it or in it: `--vault URL`.";
    input.vaults.iter().find_map(|(vault, at)| {
        let found = if lies_in(&input.at, at) {
            format!("the directory is the vault {vault} or lies in it: neither a backup nor a restore works")
        } else if apart::check(&input.at, &[], slice::from_ref(at)).is_err() {
            format!("the vault {vault} lies in the directory: a restore would move it aside, and is refused")
        } else {
            return None;
        };
        Some(DoctorCheck::problem(name, found).advice(advice))
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};

    use super::*;
    use crate::restore::target::is_exchangeable;
    use crate::source::marker::{self, Unfinished};
    use crate::vault::hex::Hex;

    fn about(at: &Path, good: Option<u64>) -> DataCheckInput {
        let name = SnapshotName { seq: 1, time: jiff::Timestamp::UNIX_EPOCH, id: Hex([1; 8]) };
        let good = good
            .map(|bytes| ("gs://b-1/x".to_owned(), GoodSnapshot { name, bytes, uploaded: 1, one_file_system: false }));
        DataCheckInput {
            data: at.into(),
            at: at.into(),
            vaults: Vec::new(),
            good,
            refused: None,
            snapshots: Vec::new(),
        }
    }

    fn checks(input: &DataCheckInput) -> Vec<DoctorCheck> {
        let recorder = CheckRecorder::default();
        check_data_directory(input, &recorder, &Arc::default());
        recorder.lock().checks.clone()
    }

    #[test]
    fn a_missing_an_empty_and_a_broken_directory_with_what_brings_them_back() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().join("data");
        let first = |good| checks(&about(&at, good)).swap_remove(0);
        let command = format!("lastgood restore --vault gs://b-1/x {}", at.display());
        let in_place = format!("lastgood restore --vault gs://b-1/x --in-place {}", at.display());

        let missing = first(Some(10));
        assert_eq!((missing.outcome, &missing.commands[..]), (CheckStatus::Problem, &[command.clone()][..]));
        assert!(first(None).outcome == CheckStatus::Problem && first(None).commands.is_empty());

        std::fs::create_dir(&at).unwrap();
        let empty = first(Some(10));
        assert_eq!((empty.outcome, &empty.commands[..]), (CheckStatus::Problem, &[command][..]));
        assert_eq!(first(None).outcome, CheckStatus::Warning);

        std::fs::write(at.join(MARKER), "").unwrap();
        let unclear = first(Some(10));
        assert_eq!((unclear.outcome, unclear.commands.len()), (CheckStatus::Problem, 0));
        assert!(unclear.found.contains(MARKER) && unclear.advice.is_some(), "{unclear:?}");
        marker::tests::write_all(&at);
        let broken = first(Some(10));
        assert_eq!((broken.outcome, &broken.commands[..]), (CheckStatus::Problem, &[in_place][..]));
        let held = std::fs::File::open(&at).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        assert_eq!(first(Some(10)).found, "a restore into it is under way");
        drop(held);
        std::fs::remove_file(at.join(MARKER)).unwrap();

        std::fs::create_dir(at.join("sub")).unwrap();
        marker::tests::write_all(&at.join("sub"));
        let nested = first(Some(10));
        assert_eq!(nested.outcome, CheckStatus::Problem);
        assert!(nested.found.starts_with("sub in it is broken"), "{nested:?}");
        std::fs::remove_dir_all(at.join("sub")).unwrap();

        let (sub, above) = (at.join("sub"), marker::tests::write_all);
        std::fs::create_dir(&sub).unwrap();
        above(&at);
        let inside = checks(&about(&sub, Some(10))).swap_remove(0);
        assert!(inside.found.contains(&format!("a restore into {}, around it", at.display())), "{inside:?}");
        std::fs::remove_dir(&sub).unwrap();
        std::fs::remove_file(at.join(MARKER)).unwrap();

        std::fs::write(at.join("a"), "abc").unwrap();
        let all = checks(&about(&at, Some(10)));
        assert!(all.iter().all(|check| check.outcome == CheckStatus::Ok), "{all:?}");
        assert!(all[0].found.starts_with("1 entry, 3 B"), "{all:?}");

        let full = checks(&about(&at, Some(u64::MAX)));
        assert_eq!(full.last().map(|check| (check.name, check.outcome)), Some(("space", CheckStatus::Problem)));
    }

    #[test]
    fn what_completes_a_restore_is_of_a_vault_that_has_its_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        let name = |id| SnapshotName { seq: 1, time: jiff::Timestamp::UNIX_EPOCH, id: Hex([id; 8]) };
        let left = Unfinished { snapshot: Some(name(2)), ..Unfinished::default() };
        let opened = Arc::new(Folder::open(&at).unwrap());
        marker::mark(&opened, &opened, &left).unwrap();
        let command = |held: &[(&str, u8)]| {
            let snapshots = held.iter().map(|(vault, id)| ((*vault).to_owned(), vec![name(*id)])).collect();
            let check = unfinished_restore(&DataCheckInput { snapshots, ..about(&at, Some(10)) }).unwrap();
            (check.advice.unwrap(), check.commands.concat())
        };
        let snapshot = " --snapshot 0202020202020202 ";
        let (_, own) = command(&[("/v", 2), ("gs://b-1/x", 2)]);
        assert!(own.contains("--vault gs://b-1/x ") && own.contains(snapshot), "{own}");
        let (_, other) = command(&[("gs://b-1/x", 1), ("/v", 2)]);
        assert!(other.contains("--vault /v ") && other.contains(snapshot), "{other}");
        let (advice, none) = command(&[("gs://b-1/x", 1)]);
        assert!(none.contains("--vault gs://b-1/x ") && !none.contains("--snapshot"), "{none}");
        assert!(advice.contains("no vault here has 0202020202020202"), "{advice}");
    }

    #[test]
    fn a_vault_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        for (data, vault, wrong) in
            [("d", "v", None), ("d", "d/v", Some("lies in the directory")), ("v/d", "v", Some("is the vault"))]
        {
            let mut input = about(&at.join(data), None);
            input.vaults.push(("v".into(), at.join(vault)));
            let found = apart(&input).map(|check| check.found);
            assert_eq!(found.is_some(), wrong.is_some());
            assert!(found.unwrap_or_default().contains(wrong.unwrap_or_default()), "{data} {vault}");
        }
    }

    #[test]
    fn a_folder_that_can_be_renamed_is_known_without_renaming_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("data");
        std::fs::create_dir(&at).unwrap();
        assert!(is_exchangeable(&at).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_cannot_be_exchanged() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let input = DataCheckInput { data: link, ..about(&real, None) };
        let (check, staging) = target(&input);
        assert!(
            check.outcome == CheckStatus::Problem && check.found.contains("symbolic link") && staging.is_none(),
            "{check:?}"
        );
    }
}
