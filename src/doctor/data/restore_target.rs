//! Checks whether a restore can replace the data directory, and whether what it brings back fits.

use std::io;
use std::path::{Path, PathBuf};

use super::{DataCheckInput, kind};
use crate::command::RestoreCommand;
use crate::doctor::check::DoctorCheck;
use crate::doctor::space::{existing, free, size, writable};
use crate::doctor::walk::WalkSummary;
use crate::fs::filesystem::is_mount;
use crate::restore::target::{self, is_exchangeable};

/// Checks whether a restore can replace the directory; returns also where it would make the new one.
pub(super) fn target(input: &DataCheckInput) -> (DoctorCheck, Option<PathBuf>) {
    let name = "restore";
    let exists = input.at.is_dir();
    let mount = exists && is_mount(&input.at).unwrap_or(false);
    let found = target::RestoreTarget::check(
        &input.data,
        target::ReplaceMode { in_place: mount, around_mounts: true, lacks_mounts: false },
        &[],
    );
    let found = match found {
        Ok(found) => found,
        Err(why) => return (DoctorCheck::problem(name, why.what()).advice(why.advice().unwrap_or_default()), None),
    };
    if let Some(first) = found.kept().first() {
        let commands = RestoreCommand::with_volumes(input.vault(), &input.at, None, |_| input.holds_volumes());
        let more = match commands.len() {
            0..=2 => String::new(),
            all => format!(" and {} more", all - 2),
        };
        let found = format!(
            "something else is mounted in it, at {first}{more}: a mount is never moved, so the directory cannot be \
             replaced as a whole"
        );
        let advice = match commands.len() {
            2 => "The first of these fills everything around it, the second what is on it:".to_owned(),
            3.. => "The first of these fills everything around them, and each of the others what is on one:".to_owned(),
            _ if input.at.join(first.as_path()).is_dir() => "This fills everything around it:".to_owned(),
            _ => {
                let alone = "What is mounted by itself is restored to another folder and copied from there.";
                format!("{alone} This fills everything around it:")
            }
        };
        let check = DoctorCheck::warning(name, found).advice(advice);
        let check = commands.iter().fold(check, |check, command| check.run(command.to_string()));
        return (check, Some(input.at.clone()));
    }
    let parent = input.at.parent().unwrap_or(Path::new("/"));
    let (beside, inside) = (writable(existing(parent)), writable(&input.at));
    let change = |why: &io::Error| match why.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "It is mounted read-only: mount it so that it can be written to.",
        _ => "Run it as a user who may write there, or change its owner or mode.",
    };
    match (mount, beside) {
        (true, _) if inside.is_ok() => {
            let found = "it is a mount point, which cannot be replaced: a restore with --in-place fills it";
            (DoctorCheck::ok(name, found), Some(input.at.clone()))
        }
        (true, _) => {
            let advice = inside.as_ref().err().map(change).unwrap_or_default();
            (DoctorCheck::problem(name, "it is a mount point that cannot be written to").advice(advice), None)
        }
        (false, Ok(())) => {
            let beside = parent.display();
            let found = match exists && kind(&input.at).is_ok_and(|kind| kind == Some("FUSE")) {
                // Whether folders can be moved there cannot be found out without moving one.
                true => format!("would build the new directory in {beside}; a mounted bucket may need --in-place"),
                false if exists && !is_exchangeable(&input.at).unwrap_or(true) => {
                    format!(
                        "would build the new content in {beside} and move it into the directory, which is a folder of the \
                         container's image"
                    )
                }
                false if exists => format!("would build the new directory in {beside} and put it in place of this one"),
                false => format!("would make the directory in {beside}"),
            };
            (DoctorCheck::ok(name, found), Some(parent.to_owned()))
        }
        (false, Err(why)) if inside.is_ok() => {
            let found = format!("the new directory cannot be built in {} ({why})", parent.display());
            let in_place = RestoreCommand { in_place: true, ..input.command() };
            let check =
                DoctorCheck::warning(name, found).advice("This fills the directory itself:").run(in_place.to_string());
            (check, Some(input.at.clone()))
        }
        (false, Err(why)) => {
            let found = format!("{} cannot be written to: {why}", parent.display());
            (DoctorCheck::problem(name, found).advice(change(&why)), None)
        }
    }
}

/// Checks whether the restored data fits where it is made, beside what is there now.
pub(super) fn space(input: &DataCheckInput, staging: &Path, walked: Option<&WalkSummary>) -> DoctorCheck {
    let name = "space";
    let free = match free(staging) {
        Ok(Some(free)) => free,
        Ok(None) => return DoctorCheck::skipped(name, format!("the filesystem of {} does not say", staging.display())),
        Err(why) => return DoctorCheck::skipped(name, format!("not known: {why}")),
    };
    match (input.good.as_ref().map(|(_, good)| good.bytes), walked.filter(|walked| walked.whole)) {
        (Some(bytes), _) => fits(free, bytes, "the newest good snapshot"),
        (None, Some(walked)) if walked.entries > 0 => fits(free, walked.bytes, "what is there now"),
        _ => DoctorCheck::ok(name, format!("{} free", size(free))),
    }
}

fn fits(free: u64, bytes: u64, what: &str) -> DoctorCheck {
    let found = format!("{} free; {what} takes {}", size(free), size(bytes));
    match free < bytes {
        false => DoctorCheck::ok("space", found),
        true => DoctorCheck::problem("space", found).advice(
            "A restore builds the new directory beside the old one. Free some space, or restore to another place: \
             `lastgood restore DIR`.",
        ),
    }
}
