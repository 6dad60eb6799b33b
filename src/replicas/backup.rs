//! Backs up into the vault among several that has the newest snapshot and can take another, and copies it to the
//! others.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::copy::{copy_with, from_any};
use super::{Site, SiteState, check_same, none_serves, passed_over};
use crate::backup::commit::UNSURE;
use crate::backup::doubted::user;
use crate::backup::options::BackupOptions;
use crate::backup::{self, newer_format};
use crate::error::{Code, Error, Kind, Result};
use crate::monitor::Context;
use crate::shell::folder;
use crate::store::address::{argument, to_folder};
use crate::store::{self, to_share};
use crate::vault::doubt::{Doubts, Finding, in_all, told};
use crate::vault::hex::PackId;
use crate::vault::pack::PackInfo;
use crate::vault::read::PackReader;
use crate::vault::root::{BackupReason, MAX_ROOT, PackBook, SNAPSHOTS, SnapshotName, SnapshotState};
use crate::vault::state::PackState;
use crate::vault::{Vault, seq};

/// The oldest that a snapshot may be for a backup to hand it on to a vault that lacks it: older ones are left to
/// `copy`, so that a vault that was away for long does not keep a backup busy.
const HANDED_ON: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Number of the newest snapshots whose needed packs are looked up.
const NEWEST: usize = 4;
/// How much a store's clock, which tells whole seconds, may be off when it is asked again.
const TICK: SignedDuration = SignedDuration::from_secs(2);

/// The result of a backup, and which vaults hold the snapshot.
#[derive(Debug, Serialize)]
pub struct ReplicatedBackupReport {
    /// The result of the backup.
    #[serde(flatten)]
    pub taken: backup::BackupReport,
    /// The vault that it went to.
    pub vault: String,
    /// All vaults, in the order in which they were named.
    pub vaults: Vec<ReplicaReport>,
}

/// A vault, after a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaReport {
    /// Its address.
    pub vault: String,
    /// Whether it holds the snapshot and, as far as is known, gives it back whole.
    pub holds: bool,
    /// Why it does not.
    pub why: Option<String>,
    /// Whether the vault was made by this backup.
    pub made: bool,
    /// Number of snapshots that were copied to it: this one, and others that were taken while it was away.
    pub copied_snapshots: u64,
    /// Number of objects of these snapshots.
    pub copied_objects: u64,
    /// Bytes of these objects.
    pub copied_bytes: u64,
}

/// One of the vaults.
struct Replica {
    url: String,
    /// The vault, or why it is not used.
    vault: Result<Vault, Error>,
    made: bool,
    fleeting: bool,
    /// The snapshots that it held before, oldest first.
    names: Vec<SnapshotName>,
    /// The doubts about its packs.
    doubts: Mutex<Doubts>,
}

impl Replica {
    /// Warnings about the place that stop no backup.
    fn concerns(&self) -> Vec<String> {
        let Some(vault) = self.vault() else { return Vec::new() };
        let url = &self.url;
        let open = vault.store.open_to_others().map(|mode| {
            format!(
                "everybody on this machine may look into the vault {url} (mode {mode:04o}), but what is stored from now on is closed to \
                 others: `chmod go-rwx {}` closes all; to share it with a group: {}",
                folder(&to_folder(url)),
                to_share(&to_folder(url))
            )
        });
        let unshared = vault
            .store
            .unshared()
            .map(|unshared| format!("the vault {url}: {}: {}", unshared.what(), unshared.commands(&to_folder(url))));
        let fleeting = self.fleeting.then(|| {
            format!("the vault {url} is on the disk of a Cloud Run instance, and is lost with it: keep it in a bucket")
        });
        open.into_iter().chain(unshared).chain(fleeting).collect()
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        // The doubts are right even if a thread that read them panicked.
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vault(&self) -> Option<&Vault> {
        self.vault.as_ref().ok()
    }
}

/// Takes a snapshot into the first vault that has the newest one and can take another, and copies it to the others.
/// Each vault also gets the snapshots of the last 7 days that it lacks and another one has. An empty vault gets this
/// snapshot only; `copy` brings the others.
///
/// In a place with no vault, a replica of the others is made if that is allowed; if there is none at all, a new vault
/// is made in the first place.
///
/// # Errors
/// Usage: the vaults are not replicas of one. A first vault that is damaged, or missing where none may be made. No
/// vault that can take the snapshot; a vault that would have to be made while another place, which may hold it, cannot
/// be asked; a vault that a newer lastgood wrote, or a snapshot in one of them that is newer than the newest good one of
/// all. As [`backup::backup`]. If there is a report, at least one vault holds the snapshot.
pub fn back_up(sites: Vec<Site>, options: &BackupOptions, ctx: &Context) -> Result<ReplicatedBackupReport> {
    let mut warnings = Vec::new();
    let mut warn = |what: String| {
        ctx.monitor.warn(&what);
        warnings.push(what);
    };
    let mut replicas = prepare(sites, options.first_may_be_missing, ctx, &mut warn)?;
    replicas.iter().flat_map(Replica::concerns).for_each(&mut warn);
    // A single vault need not be asked what it has.
    if replicas.len() > 1 {
        let mut leading = true;
        for replica in &mut replicas {
            match replica.vault().map(Vault::snapshots) {
                Some(Ok(names)) => (replica.names, leading) = (names, false),
                Some(Err(why)) => {
                    if leading {
                        warn(passed_over(&replica.url, &why));
                    }
                    replica.vault = Err(why);
                }
                None => {}
            }
        }
    }
    // A backup builds on the newest snapshot there is, and carries over from it: a vault that was away gets the
    // snapshot from the vault that has the newest one. A new vault has nothing to build on.
    let mut order: Vec<_> = (0..replicas.len()).collect();
    order.sort_by_key(|at| (replicas[*at].made, Reverse(replicas[*at].names.last().copied())));
    let mut options = options.clone();
    options.numbers = replicas.iter().flat_map(|replica| &replica.names).map(|name| name.seq).collect();
    options.clock_ahead = clock_ahead(&replicas, &options);
    if replicas.len() > 1 {
        let open = order.iter().filter_map(|at| replicas[*at].vault().map(|vault| (&replicas[*at], vault)));
        let open: Vec<_> = open.map(|(replica, vault)| (&*replica.url, vault, &*replica.names)).collect();
        newer_format::check_all(&open, options.epoch)?;
    }
    options.spoiled_elsewhere = spoiled_elsewhere(&replicas, &order, &options, ctx, &mut warn)?;
    let mut taken = None;
    for at in order {
        let Some(vault) = replicas[at].vault() else { continue };
        match backup::backup(vault, &options, ctx) {
            Ok(report) => {
                taken = Some((at, report));
                break;
            }
            Err(why) if why.of_store() && replicas.len() > 1 => {
                // The root may exist although its store did not say so.
                ctx.check("take a snapshot").map_err(|stopped| match why.code() {
                    Code::Stopped => why.clone(),
                    _ => stopped.hint(UNSURE),
                })?;
                let url = &replicas[at].url;
                warn(format!("the vault {url} did not take the snapshot: {}", why.what()));
                replicas[at].vault = Err(why);
                // The root may exist although its store did not say so. Its number was given before now.
                let given = options.clock().saturating_add(TICK).unwrap_or(Timestamp::MAX);
                let newest = seq::epoch(options.numbers.iter().copied().max().unwrap_or(0));
                let epoch = options.epoch.unwrap_or(newest);
                options.numbers.extend(seq::next_in(epoch, options.numbers.iter().copied(), given));
            }
            Err(why) => return Err(why),
        }
    }
    let Some((primary, mut report)) = taken else {
        let failures = replicas.into_iter().filter_map(|replica| Some((replica.url, replica.vault.err()?))).collect();
        return Err(none_serves(&format!("back up {}", options.data.display()), failures));
    };
    let mut vaults = Vec::with_capacity(replicas.len());
    for at in 0..replicas.len() {
        let replica_report = share(&replicas, primary, at, report.snapshot, ctx, &mut warn);
        if let Some(why) = &replica_report.why {
            // The caller that reports it logs it as what it is: an error.
            report.warnings.push(format!("the vault {} does not hold the snapshot: {why}", replica_report.vault));
        }
        vaults.push(replica_report);
    }
    // A person who is present sees it; for a schedule that runs unseen it may mean a volume that is not mounted.
    let unseen = options.reason != BackupReason::Manual;
    for replica_report in vaults.iter().filter(|replica_report| replica_report.made && unseen) {
        let what = format!("there was no vault at {}, and one was made: is its volume mounted?", replica_report.vault);
        ctx.monitor.warn(&what);
        report.notices.push(what.clone());
        report.warnings.push(what);
    }
    report.warnings.splice(..0, warnings);
    Ok(ReplicatedBackupReport { taken: report, vault: replicas.swap_remove(primary).url, vaults })
}

/// Reads the doubts of all vaults but the first one to be backed up to, whose backup reads its own, and tests the
/// doubted packs in them that the newest snapshot of the first one needs. Returns the packs that are damaged: a
/// snapshot that names none of them is whole everywhere.
///
/// # Errors
/// Being told to stop. A store that fails keeps no backup from happening, and shows when the snapshot is to be copied
/// there.
fn spoiled_elsewhere(
    replicas: &[Replica],
    order: &[usize],
    options: &BackupOptions,
    ctx: &Context,
    warn: &mut impl FnMut(String),
) -> Result<HashSet<PackId>> {
    let mut there = order.iter().filter_map(|at| Some((&replicas[*at], replicas[*at].vault()?)));
    let Some((first, source)) = there.next() else { return Ok(HashSet::new()) };
    let others: Vec<_> = there.collect();
    std::thread::scope(|scope| {
        for (replica, vault) in &others {
            scope.spawn(|| *replica.doubts() = Doubts::read(&*vault.store));
        }
    });
    let mut spoiled = HashSet::new();
    let mut book = None;
    for (replica, vault) in others {
        let doubts = &mut *replica.doubts();
        if doubts.standing().is_empty() {
            continue;
        }
        // The newest snapshot may be suspect, and then not everything that the backup builds on.
        let needed = || {
            let mut needed = PackBook::new();
            for name in first.names.iter().rev().take(NEWEST) {
                // A root or list that cannot be read is reported by the backup that builds on it.
                let Ok(root) = source.root(*name) else { continue };
                let Ok(packs) = PackReader::for_root(&*source.store, &root) else { continue };
                needed.extend(packs.book().iter().map(|(id, pack)| (*id, *pack)));
                if root.state != SnapshotState::Suspect {
                    break;
                }
            }
            needed
        };
        let book = book.get_or_insert_with(needed);
        match doubts.test_doubted(vault, book, (Finding::Backup, &user(options)), &|| ctx.check("take a snapshot")) {
            Ok(mut wrong) => {
                // Packs that are missing there are sent again.
                wrong.retain(|(_, tested)| tested.state != PackState::Absent);
                if let Some((pack, tested)) = wrong.first() {
                    let more = in_all(wrong.len());
                    let what = "its content is stored again, so that the snapshot is whole in all vaults";
                    warn(format!("in {}, {}{more}; {what}", replica.url, told(pack, &tested.state)));
                }
                spoiled.extend(wrong.into_iter().map(|(pack, _)| pack.id));
            }
            Err(why) if why.of_store() => {}
            Err(why) => return Err(why),
        }
    }
    Ok(spoiled)
}

/// Makes the vault if there is none and one may be made, ahead of a backup that would make it: requests for that backup
/// can then be claimed there. Returns whether there is a vault now.
///
/// # Errors
/// A place that cannot be asked, or does not take a vault.
pub fn make(sites: Vec<Site>, ctx: &Context) -> Result<bool> {
    let replicas = prepare(sites, false, ctx, &mut |why| ctx.monitor.warn(&why))?;
    Ok(replicas.iter().any(|replica| replica.vault().is_some()))
}

/// By how much the fastest clock of the vaults is ahead of this machine's. A vault that does not answer does not count:
/// the code that needs it asks again, and is told why. Vaults that have just been listed tell the time without another
/// request.
fn clock_ahead(replicas: &[Replica], options: &BackupOptions) -> SignedDuration {
    let machine = BackupOptions { clock_ahead: SignedDuration::ZERO, ..options.clone() };
    let now = || replicas.iter().filter(|_| replicas.len() > 1).filter_map(|replica| replica.vault()?.store.now().ok());
    now().map(|now| now.duration_since(machine.clock())).max().unwrap_or_default().max(SignedDuration::ZERO)
}

/// Opens or makes the vault in each place. The reason why a vault is passed over is told once the backup has been
/// taken, and before that only if the backup would have gone to that vault first.
fn prepare(
    sites: Vec<Site>,
    first_may_be_missing: bool,
    ctx: &Context,
    warn: &mut impl FnMut(String),
) -> Result<Vec<Replica>> {
    check_same(&sites)?;
    let alone = sites.len() == 1;
    let first_vault = sites.iter().position(|site| site.vault_if_open().is_some());
    // If none can be used, the error names all of them.
    let hopeless = sites.iter().all(|site| matches!(site.found, SiteState::Failed(_)));
    let (mut replicas, mut empty, mut unknown) = (Vec::with_capacity(sites.len()), Vec::new(), None);
    for (at, Site { url, may_make, fleeting, found }) in sites.into_iter().enumerate() {
        // Before the first vault, only what is away is passed over; without any vault, one is made in the first place
        // or not at all.
        let leading = first_vault.map_or(at == 0, |first| at < first);
        let vault = match found {
            SiteState::Vault(vault) => Ok(vault),
            SiteState::Failed(why) if alone || leading && matches!(why.kind(), Kind::Damage | Kind::Usage) => {
                return Err(why);
            }
            // It may hold a newer state than all others.
            SiteState::Failed(why) if why.is_newer_format() => return Err(why),
            SiteState::Failed(why) => {
                if leading && !hopeless {
                    warn(passed_over(&url, &why));
                }
                unknown.get_or_insert(at);
                Err(why)
            }
            SiteState::Nothing(store) => {
                let missing = Vault::missing(&*store);
                // Nothing is made in a place that is passed over, also where the default address would allow it.
                let is_passed_over = first_may_be_missing && first_vault.is_some_and(|first| at < first);
                match if may_make && !is_passed_over {
                    Vault::check_free(&*store)
                } else {
                    Err(Vault::missing(&*store))
                } {
                    Ok(()) => {
                        empty.push((at, store));
                        Err(missing)
                    }
                    Err(why) if is_passed_over => {
                        warn(passed_over(&url, &why));
                        Err(why)
                    }
                    Err(why) if alone || leading && !why.of_store() => return Err(why),
                    Err(why) => Err(why),
                }
            }
        };
        replicas.push(Replica { url, vault, made: false, fleeting, names: Vec::new(), doubts: Mutex::default() });
    }
    let mut source = first_vault;
    for (at, store) in empty {
        let made = match (source.and_then(|source| replicas[source].vault()), unknown) {
            (Some(vault), _) => vault.replicate(store),
            (None, Some(unknown)) => return Err(may_be_another(&replicas[at], &replicas[unknown])),
            (None, None) => Vault::open_or_init(store, ctx.random),
        };
        match made {
            Ok(vault) => {
                source.get_or_insert(at);
                (replicas[at].vault, replicas[at].made) = (Ok(vault), true);
            }
            Err(why) if alone || !why.of_store() => return Err(why),
            Err(why) => {
                if source.is_none() {
                    warn(passed_over(&replicas[at].url, &why));
                }
                replicas[at].vault = Err(why);
            }
        }
    }
    Ok(replicas)
}

/// The error that no vault is made in a place because another place, which cannot be asked, may hold one: the two
/// vaults would stay different for ever.
fn may_be_another(place: &Replica, unknown: &Replica) -> Error {
    let cause = unknown.vault.as_ref().err();
    let said = cause.map(Error::what).unwrap_or_default();
    let doing = format!("make a vault at {}", place.url);
    let why = format!("it is not known whether {} holds the vault already: {said}", unknown.url);
    let error = match cause.map(Error::kind) {
        Some(Kind::Unreachable) => Error::unreachable(doing, why),
        _ => Error::failed(doing, why),
    };
    // What keeps the other place from being asked is what has to be mended.
    let error = match cause.filter(|cause| cause.kind() == Kind::Failed) {
        Some(cause) => error.with_code(cause.code()),
        None => error,
    };
    error.hint(format!(
        "If it holds none: `lastgood init --vault {}` makes the vault, and the others become replicas of it.",
        argument(&place.url)
    ))
}

/// Copies to a vault what it lacks: the new snapshot, and those of the last 7 days that another vault has. Snapshots
/// that were let go there are not copied to it again.
fn share(
    replicas: &[Replica],
    primary: usize,
    at: usize,
    new: SnapshotName,
    ctx: &Context,
    warn: &mut impl FnMut(String),
) -> ReplicaReport {
    let replica = &replicas[at];
    let mut replica_report =
        ReplicaReport { vault: replica.url.clone(), made: replica.made, ..ReplicaReport::default() };
    let to = match &replica.vault {
        Ok(vault) => vault,
        Err(why) => return ReplicaReport { why: Some(why.what()), ..replica_report },
    };
    replica_report.holds = at == primary;
    // A snapshot that one vault cannot give, because it is damaged there, may come from the next one.
    let mut done = HashSet::new();
    // Only the first vault has the new snapshot, so it comes first.
    for source in [primary].into_iter().chain((0..replicas.len()).filter(|source| *source != primary)) {
        let Some(from) = replicas[source].vault().filter(|_| source != at) else { continue };
        let mut names = lacking(&replicas[source], replica, new);
        names.retain(|name| !done.contains(name));
        if !names.is_empty() {
            names.retain(|name| is_gone(to, *name));
        }
        names.extend(Some(new).filter(|_| source == primary));
        if names.is_empty() {
            continue;
        }
        // Another replica may have what is damaged there.
        let others = || {
            let others = replicas.iter().enumerate().filter(|(other, _)| ![source, at].contains(other));
            others.filter_map(|(_, replica)| replica.vault())
        };
        let elsewhere = |pack: &PackInfo| from_any(others(), pack);
        let several = others().next().is_some();
        let doubts = &mut *replica.doubts();
        if at == primary && doubts.standing().is_empty() {
            // That vault's backup has read them for itself only.
            *doubts = Doubts::read(&*to.store);
        }
        match copy_with(from, (to, doubts), &names, several.then_some(&elsewhere), ctx) {
            Ok(copied) => {
                replica_report.copied_snapshots += copied.snapshots.len() as u64;
                replica_report.copied_objects += copied.objects;
                replica_report.copied_bytes += copied.bytes;
                let lost: HashSet<_> = copied.not_copied.iter().map(|lost| lost.snapshot).collect();
                done.extend(names.into_iter().filter(|name| !lost.contains(name)));
                if source == primary {
                    let lost = copied.not_copied.into_iter().chain(copied.hurt).find(|lost| lost.snapshot == new);
                    replica_report.holds = lost.is_none();
                    replica_report.why = lost.map(|lost| lost.why);
                }
            }
            Err(why) if source == primary => replica_report.why = Some(why.what()),
            Err(why) => warn(format!(
                "snapshots of {} that {} lacks are not copied there: {}",
                replicas[source].url,
                replica_report.vault,
                why.what()
            )),
        }
    }
    replica_report
}

/// The snapshots of one vault that another one lacks and is to get beside a new one, oldest first: those of the last 7
/// days. Empty if the other one has no snapshot at all.
fn lacking(from: &Replica, to: &Replica, new: SnapshotName) -> Vec<SnapshotName> {
    let since = new.time.saturating_sub(HANDED_ON).unwrap_or(Timestamp::MIN);
    let lacks = |name: &&SnapshotName| name.time >= since && to.names.binary_search(name).is_err();
    from.names.iter().filter(|_| !to.names.is_empty()).filter(lacks).copied().collect()
}

/// Whether a vault really does not have a snapshot that it does not list. A root that was let go, and has not been
/// deleted yet, is in no listing and can still be read: such a snapshot is not to come back.
fn is_gone(vault: &Vault, name: SnapshotName) -> bool {
    match vault.store.get(&name.object(SNAPSHOTS), MAX_ROOT) {
        Ok(_) | Err(store::StoreError::OutOfRange { .. }) => {
            tracing::info!("the snapshot {name} is not handed on to {}: it was let go there", vault.store.url());
            false
        }
        // A store that fails does so again at the copy, which reports it.
        Err(_) => true,
    }
}
