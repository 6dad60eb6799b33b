//! `import`: snapshots of old archives.

use std::fmt::Write;

use lastgood::error::Result;
use lastgood::import::{self, ImportOptions, ImportReport};
use lastgood::monitor::Context;
use lastgood::replicas::pool::VaultPool;
use lastgood::text::{count_of, printable};

use crate::ProgramOutcome;
use crate::console::Console;

/// Imports archives, and tells what became of each.
///
/// # Errors
/// As [`import::import`].
pub fn import(
    options: &ImportOptions,
    vaults: &VaultPool,
    console: &mut Console,
    ctx: &Context,
) -> Result<ProgramOutcome> {
    let done = import::import(vaults, options, ctx)?;
    console.report(&done, || text(&done));
    let lacks = |archive: &import::ImportedArchive| archive.vaults.iter().any(|vault| !vault.holds);
    Ok(match done.failed() > 0 || done.archives.iter().any(lacks) {
        true => ProgramOutcome::NotWhole,
        false => ProgramOutcome::Done,
    })
}

fn text(done: &ImportReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for archive in &done.archives {
        let name = printable(&archive.archive);
        let _ = match (&archive.error, archive.snapshot) {
            (Some(why), _) => writeln!(text, "{name} was not imported: {}", printable(why)),
            (None, Some(snapshot)) if archive.known => {
                writeln!(text, "{name} is there already: {}", snapshot.id)
            }
            (None, Some(snapshot)) => {
                writeln!(text, "{name} is snapshot {}, of {}", snapshot.id, snapshot.time.strftime("%F %TZ"))
            }
            (None, None) => Ok(()),
        };
        if let Some(hint) = &archive.hint {
            let _ = writeln!(text, "  {}", printable(hint));
        }
        if archive.snapshot.is_some() && !archive.known {
            let size = indicatif::BinaryBytes(archive.bytes);
            let _ = write!(text, "  holds    {}, {size}", lastgood::view::entries(archive.entries));
            let _ = match &archive.folder {
                Some(folder) if !folder.is_root() => writeln!(text, ", of the folder {folder} in it"),
                _ => writeln!(text),
            };
            if !archive.good {
                let _ = writeln!(text, "  state    it is not good: `lastgood list` says what it is");
            }
        }
        for vault in archive.vaults.iter().filter(|vault| !vault.holds) {
            let why = vault.why.as_deref().unwrap_or("nobody knows why");
            let _ = writeln!(text, "  lacks    {}: {}", printable(&vault.vault), printable(why));
        }
        for warning in &archive.warnings {
            let _ = writeln!(text, "  note     {}", printable(warning));
        }
    }
    let imported = done.archives.iter().filter(|archive| archive.snapshot.is_some() && !archive.known).count();
    let _ = write!(text, "{} imported", count_of(imported as u64, "archive"));
    if done.failed() > 0 {
        let _ = write!(text, ", {} not", done.failed());
    }
    text.push('\n');
    text
}
