//! Restores a snapshot into a staging folder, and puts nothing into place: see [`ahead`](super::ahead).

use std::sync::Arc;

use super::ahead::FilledAhead;
use super::file_book::FileBook;
use super::fill_staging::fill_staging;
use super::options::RestoreOptions;
use super::plan::Planner;
use super::report::RestoreReport;
use super::select::Choice;
use super::target::RestoreTarget;
use super::window::WindowLimits;
use super::{apart, damaged};
use crate::error::{Code, Error, Result};
use crate::fs::filesystem;
use crate::monitor::Context;
use crate::vault::Vault;
use crate::vault::doubt::Doubts;
use crate::vault::read::PackReader;

/// Makes the files of a snapshot in a staging folder beside the target, which is not touched.
///
/// # Errors
/// The target is filled in place, so that the staging folder would be made in it. There is not twice as much space as the
/// snapshot takes: what runs meanwhile, and the restore that follows, need some, too. The errors of a restore.
pub fn fill_ahead(
    vault: &Vault,
    options: &RestoreOptions,
    (choice, doubts): (Choice, &mut Doubts),
    ctx: &Context,
) -> Result<FilledAhead> {
    let Choice { name, root, .. } = choice;
    let doing = || format!("restore {name} beside {}", options.target.display());
    let place = RestoreTarget::check(&options.target, options.how(&root), &[])?;
    apart::check(&place.target, &[], &options.vaults)?;
    if place.keeps_target() {
        return Err(Error::unneeded(doing(), "the directory is filled in place"));
    }
    place.check_writable()?;
    let base = place.base();
    let free = filesystem::free(filesystem::existing(&base)).unwrap_or(None);
    if free.is_some_and(|free| free / 2 < root.totals.bytes) {
        let why = format!("less than twice its {} bytes are free there", root.totals.bytes);
        return Err(Error::failed(doing(), why).with_code(Code::DiskFull));
    }
    let packs = PackReader::for_root(&*vault.store, &root)?;
    let wrong = damaged::find(vault, &packs, true, doubts, ctx)?;
    let (wrong, _) = damaged::without_spare(&packs, &root, wrong)?;
    if let Some((pack, why)) = wrong.first() {
        return Err(Error::damage(doing(), format!("{}: {why}", pack.name())));
    }
    let (staging, left) = place.stage(ctx)?;
    left.iter().for_each(|what| ctx.monitor.warn(what));
    let book = Arc::new(FileBook::default());
    let limits = WindowLimits::suiting(&*vault.store, ctx);
    let planner = Planner { packs: &packs, wanted: place.wanted(), limits, skip_damaged: false, ahead: None, ctx };
    let filled = staging.begin(place.within()).and_then(|tree| {
        let mut report = RestoreReport::begun(name, place.target.clone(), Vec::new());
        let (tree, ..) = fill_staging(&planner, &root, tree.ahead(book.clone()), &place, &mut report)?;
        ctx.check(&doing())?;
        // The restore that follows has the less to write.
        staging.sync()?;
        Ok((tree, staging.settle()?))
    });
    match filled {
        Ok((tree, made)) => Ok(FilledAhead::new(name, (staging, tree), book, made)),
        Err(why) => {
            staging.abandon();
            Err(why)
        }
    }
}
