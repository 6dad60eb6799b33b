//! The texts of decisions: why a directory is what it is, and what can be done where the app is not started.

use super::{OnUnreachable, StartState};
use crate::start::known::{Chosen, DirectoryContent, FailedDatabase, KnownLineage, Likeness, PutBack, SeedMark};
use crate::vault::root::SnapshotName;

pub const NOT_MOUNTED: &str = "nothing is mounted there, and --require-mount asks for a mount";
pub const MOUNT_IT: &str = "Mount the volume, or leave out --require-mount.";
pub const MAKE_A_VAULT: &str = "A vault that is missing is never taken for a first start: it may be a wrong address. Where there is to be a new one, make \
     it with `lastgood init`, or start with --init.";
pub const NOTHING_TO_RESTORE: &str =
    "The vault has no snapshot that could be restored. Look at the directory; move it away to start with an empty one.";
pub const NAMED_NOT_FOUND: &str =
    "`lastgood list` shows the snapshots. Without --snapshot the newest good one is restored.";
pub const HALF_RESTORED: &str = "a restore into the directory was cut off";
pub const SEED: &str = "it is marked as data that an image brings along, and was not changed since it was marked";

/// Why an empty vault is a first start.
pub fn first_start(has_data: bool, seed: SeedMark) -> String {
    let there = match (has_data, seed) {
        (false, _) => "the directory is empty",
        (true, SeedMark::None) => "the directory has data, which the first backup saves",
        (true, _) => "the directory has the data of an image, which the first backup saves",
    };
    format!("the vault has no snapshots yet, and {there}")
}

/// Why a directory is missing.
pub fn missing(content: &DirectoryContent) -> String {
    match content {
        DirectoryContent::Absent => "there is no such directory",
        _ => "there is no data in the directory",
    }
    .into()
}

/// Why a directory with a damaged database is broken.
pub fn failed(failed: &FailedDatabase) -> String {
    format!("the database {} failed its check: {}", failed.path, failed.why)
}

/// Why a restore comes from a replica.
pub fn replica(why: &str, snapshot: SnapshotName) -> String {
    format!("{why}; {snapshot} is the newest good snapshot that a vault which does answer has")
}

/// Joins two reasons.
pub fn and(first: &str, second: &str) -> String {
    format!("{first}; {second}")
}

/// What to do where no vault answers and the app is not started.
pub fn unreachable(told: Option<OnUnreachable>, lacks_data: bool, half: bool) -> &'static str {
    match (told, lacks_data) {
        _ if half => "The directory is half restored: start again when the vault can be reached.",
        (Some(_), _) => "Start again when the vault can be reached; --on-unreachable fail asks for this.",
        (None, true) => {
            "The app would start without its data. Start again when the vault can be reached, or say --on-unreachable start."
        }
        (None, false) => "Start again when the vault can be reached.",
    }
}

/// Why a directory comes from the snapshot.
pub fn like(likeness: Likeness, changed: Option<bool>, there: SnapshotName) -> String {
    let how = match likeness {
        Likeness::NamesIt => format!("its lineage names {there}, the newest"),
        Likeness::RecordsSerial => {
            format!("{there}, the newest, was taken from it: it records the serial of its lineage")
        }
        Likeness::SamePlace => format!("{there}, the newest, was taken in this very directory"),
        Likeness::Equal | Likeness::No => return format!("it equals {there}, the newest, by metadata"),
    };
    let since = match changed {
        Some(false) => "nothing changed since",
        Some(true) => "something changed since",
        None => "whether something changed since cannot be told",
    };
    format!("{how}; {since}")
}

/// Why a directory is older than a snapshot that was taken from it, or from what it is a copy of.
pub fn put_back(put_back: &PutBack, there: SnapshotName) -> String {
    let (path, why) = (&put_back.path, put_back.why);
    format!(
        "{there}, the newest, was taken from this directory, which was put back to an older state since: {path} {why}"
    )
}

/// Why a directory in which a snapshot was chosen is ahead.
pub fn chosen(from: SnapshotName, there: SnapshotName) -> String {
    format!("{from} was chosen and restored here in place of {there}; what is saved next becomes the newest")
}

/// Why a directory is ahead of what the vaults have.
pub fn newer(from: SnapshotName, there: SnapshotName) -> String {
    format!("its lineage names {from}, which is newer than {there}, the newest that the vaults have")
}

/// Why a directory is stale or diverged.
pub fn older(from: Option<SnapshotName>, chosen: Chosen, changed: Option<bool>, there: SnapshotName) -> String {
    let Some(from) = from else {
        return format!("its lineage names no snapshot, and {there}, the newest, was not taken from it");
    };
    let named = match chosen {
        Chosen::Superseded => {
            format!("{from} was chosen and restored here, and {there} was taken from another directory afterwards")
        }
        _ => format!("its lineage names {from}, and {there} is newer and was not taken from it"),
    };
    let since = match changed {
        Some(false) => "nothing changed here since",
        Some(true) => "something changed here since",
        None => "whether something changed here since cannot be told",
    };
    format!("{named}; {since}")
}

/// Why nobody knows where a directory comes from.
pub fn unknown(lineage: &KnownLineage, seed: SeedMark, there: SnapshotName) -> String {
    let lineage = match (lineage, seed) {
        (KnownLineage::Unclear(why), _) => format!("its lineage cannot be read ({why})"),
        (KnownLineage::OtherVault, _) => "its lineage is about another vault".into(),
        (_, SeedMark::Changed) => "it was changed after it was marked as an image's data, and has no lineage".into(),
        _ => "it has data and no lineage".into(),
    };
    format!("{lineage}, and nothing tells that it comes from {there}, the newest")
}

/// Why a snapshot that was named is restored.
pub fn named(why: &str, named: SnapshotName) -> String {
    format!("{why}; --snapshot names {named}")
}

/// Why a snapshot that was named is not restored.
pub fn named_older(why: &str, named: SnapshotName, good: SnapshotName) -> String {
    format!(
        "{why}; --snapshot names {named}, which is not restored, because {good} is good and newer (`lastgood restore --snapshot` \
         goes back)"
    )
}

/// Why nothing is restored where no snapshot is good, and what can be done.
pub fn none_good(why: &str, state: StartState, newest: SnapshotName, wrong: &str) -> (String, String) {
    let keep = match state {
        StartState::Diverged => " To go on with what is in the directory, say --on-diverged keep.",
        StartState::Unknown => " To go on with what is in the directory, say --on-unknown keep.",
        _ => "",
    };
    let why = format!("{why}; the vault has snapshots, and none of them is good");
    let advice = format!(
        "The newest is {newest}: {wrong}. To start with it all the same, say --snapshot {}; `lastgood list` shows the others.{keep}",
        newest.id
    );
    (why, advice)
}

/// What to do where a rule says that the app is not started.
pub fn told_to_fail(state: StartState) -> String {
    format!(
        "--on-{state} fail asks for this. With `restore`, the directory is saved and the newest good snapshot restored; with \
         `keep`, the directory becomes the newest snapshot."
    )
}
