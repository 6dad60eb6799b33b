//! `export`: a snapshot as an archive.

use std::io::{self, IsTerminal};

use lastgood::error::{Doing, Error, Result};
use lastgood::export::ArchiveFormat;
use lastgood::monitor::Context;
use lastgood::replicas::pool::VaultPool;
use lastgood::{export, view};

use crate::config::Destination;
use crate::console::Console;
use crate::new_file::NewFile;
use crate::{ProgramOutcome, absolute};

/// Exports a snapshot to a file, which has its name only when it is whole, or to stdout.
///
/// # Errors
/// Usage: a terminal. No such snapshot; damage; an output that cannot be written.
pub fn export(
    vaults: &VaultPool,
    snapshot: &str,
    format: ArchiveFormat,
    to: Destination,
    console: &mut Console,
    ctx: &Context,
) -> Result<ProgramOutcome> {
    match to {
        Destination::Stdout => {
            if io::stdout().is_terminal() {
                return Err(Error::usage("export to stdout", "it is a terminal").hint(
                    "Name a file (`-o snapshot.tar.zst`), or send it to a program: `lastgood export latest -o - | zstd -dc | tar t`.",
                ));
            }
            let (vault, root) = vaults.find(snapshot, ctx)?;
            export::export(&vault, &root, format, console.out(), ctx)?;
            io::Write::flush(console.out()).doing(|| "write the export to stdout")?;
        }
        Destination::File(path) => {
            let (vault, root) = vaults.find(snapshot, ctx)?;
            let mut file = NewFile::create(&path)?;
            let done = export::export(&vault, &root, format, &mut file, ctx)?;
            ctx.monitor.syncing();
            file.finish()?;
            console.report(&done, || format!("Exported to {}\n", view::path(&absolute(&path))));
        }
    }
    Ok(ProgramOutcome::Done)
}
