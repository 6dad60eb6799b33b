//! Commits a snapshot anew, under a number of another epoch: one root, which names the packs of the snapshot as it is.
//!
//! An instance that takes over does so before its app runs. Whatever an older instance still commits has a number below that of the
//! new root, and so is the newest for no reader.

use jiff::Timestamp;

use super::{Site, SiteState, none_serves};
use crate::error::{Code, Error, Result};
use crate::lineage::Serial;
use crate::monitor::Context;
use crate::restore::select;
use crate::vault::hex::Hex;
use crate::vault::read::{PackReader, absent};
use crate::vault::root::{BackupReason, Root, SNAPSHOTS, SnapshotName, SnapshotState, SourceIdentity, Totals};
use crate::vault::{Vault, seq};

/// The occasion of a snapshot that an instance takes, or commits anew, before its app runs.
pub const START: &str = "start";

/// The occasion of a snapshot that [rollback](crate::run::rollback) commits anew.
pub const ROLLBACK: &str = "rollback";

const BY_HAND: &str =
    "Stop the app and restore it by hand if it is wanted all the same: `lastgood restore --snapshot`.";

/// What is new about a root that is committed anew.
#[derive(Debug, Clone)]
pub struct NewRoot {
    /// The epoch that its number is of.
    pub epoch: u32,
    /// The serial of the directory that goes on from it.
    pub serial: Serial,
    /// The occasion: `start`, `restore` or `rollback`.
    pub origin: &'static str,
    /// The run.
    pub run: Hex<8>,
    /// The host's name, for people.
    pub host: String,
    /// Whether somebody has named the snapshot: a suspect one is good from now on.
    pub accepted: bool,
}

/// Returns the root of a snapshot that somebody has named, to be committed anew.
///
/// # Errors
/// No vault has the snapshot; entries are missing in it, or a database in it failed its check: it would be good nowhere.
pub fn acceptable(sites: Vec<Site>, name: SnapshotName) -> Result<Root> {
    let doing = || format!("make the snapshot {name} the newest");
    let mut failures = Vec::new();
    for site in sites {
        let url = site.url.clone();
        match site.vault().and_then(|vault| vault.root(name)) {
            Ok(root) if root.failed_checks > 0 => {
                let why = select::failed_check(&root);
                return Err(Error::failed(doing(), why).with_code(Code::NoGoodSnapshot).hint(BY_HAND));
            }
            Ok(root) if root.state == SnapshotState::Partial || root.covers.is_some() => {
                let why = "it does not hold all of the data";
                return Err(Error::failed(doing(), why).with_code(Code::NoGoodSnapshot).hint(BY_HAND));
            }
            Ok(root) => return Ok(root),
            Err(why) => failures.push((url, why)),
        }
    }
    Err(none_serves(&doing(), failures))
}

/// Commits a snapshot anew in every vault that holds it whole, and returns its new name. The time is the stores'.
///
/// # Errors
/// No vault holds the snapshot with all its packs; the stores fail; no number is left.
pub fn recommit(sites: Vec<Site>, name: SnapshotName, new: &NewRoot, ctx: &Context) -> Result<SnapshotName> {
    let doing = || format!("commit the snapshot {name} anew");
    let (mut vaults, mut failures) = (Vec::new(), Vec::new());
    for Site { url, found, .. } in sites {
        match found {
            SiteState::Vault(vault) => vaults.push((url, vault)),
            SiteState::Nothing(store) => failures.push((url, Vault::missing(&*store))),
            SiteState::Failed(why) => failures.push((url, why)),
        }
    }
    let mut numbers = Vec::new();
    let mut holders = Vec::new();
    let mut clock = Timestamp::now();
    for (url, vault) in vaults {
        let held = (|| {
            let there = vault.snapshots()?;
            numbers.extend(there.iter().map(|name| name.seq));
            if !there.contains(&name) {
                // Nothing is damaged: it was away when the snapshot was taken.
                return Err(Error::failed(doing(), "it does not have that snapshot"));
            }
            let root = vault.root(name)?;
            let packs = PackReader::for_root(&*vault.store, &root)?;
            if let Some((pack, _)) = absent(&*vault.store, packs.book().values())?.first() {
                let why = format!("{} is not there, or has another size", pack.name());
                return Err(Error::damage(doing(), why));
            }
            clock = clock.max(vault.store.now().map_err(|why| why.while_doing(doing()))?);
            Ok(root)
        })();
        match held {
            Ok(root) => holders.push((url, vault, root)),
            Err(why) => failures.push((url, why)),
        }
    }
    let Some((_, _, root)) = holders.first() else { return Err(none_serves(&doing(), failures)) };
    let number = seq::next_in(new.epoch, numbers, clock);
    let number = number.ok_or_else(|| Error::failed(doing(), format!("no number is left in epoch {}", new.epoch)))?;
    let is_accepted = new.accepted && root.state == SnapshotState::Suspect;
    let root = Root {
        seq: number,
        turn: root.turn.map(|turn| turn.wrapping_add(1)),
        parent: Some(name),
        started: clock,
        finished: clock,
        reason: BackupReason::Manual,
        run: Some(new.run),
        host: new.host.clone(),
        writer: format!("lastgood {}", env!("CARGO_PKG_VERSION")),
        totals: Totals { uploaded_bytes: 0, new_packs: 0, rewritten: 0, ..root.totals },
        serial: Some(new.serial),
        origin: Some(new.origin.into()),
        // Where the snapshot was once taken, there is something newer now: that directory does not go on from it.
        place: if new.origin == ROLLBACK { SourceIdentity::default() } else { root.place.clone() },
        state: if is_accepted { SnapshotState::Complete } else { root.state },
        suspect: root.suspect.clone().filter(|_| !is_accepted),
        diverged: root.diverged.clone().filter(|_| !is_accepted),
        ..root.clone()
    };
    let (new_name, bytes) = root.encode()?;
    let object = new_name.object(SNAPSHOTS);
    let mut made = false;
    for (url, vault, _) in &holders {
        ctx.check(&doing())?;
        match vault.store.create(&object, &[&bytes]) {
            Ok(_) => made = true,
            Err(why) => failures.push((url.clone(), why.while_doing(format!("create {object}")))),
        }
    }
    match made {
        true => {
            for (url, why) in failures {
                ctx.monitor.warn(&format!("the vault {url} does not hold {new_name}: {}", why.what_with_code()));
            }
            Ok(new_name)
        }
        false => Err(none_serves(&doing(), failures)),
    }
}
