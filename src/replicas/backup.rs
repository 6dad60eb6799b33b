//! Backing up into the first of several vaults that can take it, and copying to the others.

use serde::Serialize;

use super::{Found, Site, check_same, none_serves, passed_over};
use crate::backup::{self, Options};
use crate::copy::copy;
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::vault::Vault;
use crate::vault::root::SnapshotName;

/// What a backup did, and which vaults hold the snapshot.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the backup did.
    #[serde(flatten)]
    pub taken: backup::Report,
    /// The vault that it went to.
    pub vault: String,
    /// All vaults, in the order in which they were named.
    pub vaults: Vec<Held>,
}

/// A vault, after a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Its address.
    pub vault: String,
    /// Whether it holds the snapshot.
    pub holds: bool,
    /// Why it does not.
    pub why: Option<String>,
    /// Whether it was made by this backup.
    pub made: bool,
    /// Snapshots that were copied to it: this one, and others that were taken while it was away.
    pub copied_snapshots: u64,
    /// Objects of these.
    pub copied_objects: u64,
    /// Bytes of these objects.
    pub copied_bytes: u64,
}

/// One of the vaults.
struct Replica {
    url: String,
    /// The vault; or why it is not used.
    vault: Result<Vault, Error>,
    made: bool,
    /// The snapshots that it had before, oldest first.
    names: Vec<SnapshotName>,
}

impl Replica {
    fn vault(&self) -> Option<&Vault> {
        self.vault.as_ref().ok()
    }
}

/// Takes a snapshot into the first vault that can take it, and copies it to the others, with those that they lack and that
/// are newer than their newest. A vault that is empty gets this snapshot only; `copy` brings the others.
///
/// Where there is no vault yet, a replica of the others is made if it may be; without any, a new vault in the first place.
///
/// # Errors
/// Usage: the vaults are not replicas of one. A first vault that is damaged, or missing where none may be made. No vault
/// that can take it; a vault that would have to be made while another place cannot be asked whether it holds it. As
/// [`backup::backup`]. With a report, at least one vault holds the snapshot.
pub fn back_up(sites: Vec<Site>, options: &Options, ctx: &Context) -> Result<Report> {
    let mut warnings = Vec::new();
    let mut warn = |what: String| {
        ctx.monitor.warn(&what);
        warnings.push(what);
    };
    let mut replicas = prepare(sites, ctx, &mut warn)?;
    // One alone need not be asked what it has.
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
    // A vault that is new has nothing to build on.
    let old = |made: bool| replicas.iter().enumerate().filter(move |(_, replica)| replica.made == made);
    let order: Vec<_> = old(false).chain(old(true)).map(|(at, _)| at).collect();
    let mut options = options.clone();
    options.seq_after = replicas.iter().flat_map(|replica| &replica.names).map(|name| name.seq).max().unwrap_or(0);
    let mut taken = None;
    for at in order {
        let Some(vault) = replicas[at].vault() else { continue };
        match backup::backup(vault, &options, ctx) {
            Ok(report) => {
                taken = Some((at, report));
                break;
            }
            Err(why) if why.of_store() && replicas.len() > 1 => {
                ctx.check("take a snapshot")?;
                let url = &replicas[at].url;
                warn(format!("the vault {url} did not take the snapshot: {}", why.what()));
                replicas[at].vault = Err(why);
                // The root may be there although its store did not say so.
                options.seq_after += 1;
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
        let held = share(&replicas, primary, at, report.snapshot, ctx, &mut warn);
        if let Some(why) = &held.why {
            // Who reports it logs it as what it is: an error.
            report.warnings.push(format!("the vault {} does not hold the snapshot: {why}", held.vault));
        }
        vaults.push(held);
    }
    report.warnings.splice(..0, warnings);
    Ok(Report { taken: report, vault: replicas.swap_remove(primary).url, vaults })
}

/// Opens or makes the vault in each place. Why one does without it is told when the backup has been taken, and before that
/// only where the backup would have gone there first.
fn prepare(sites: Vec<Site>, ctx: &Context, warn: &mut impl FnMut(String)) -> Result<Vec<Replica>> {
    check_same(&sites)?;
    let alone = sites.len() == 1;
    let first_vault = sites.iter().position(|site| site.held().is_some());
    let (mut replicas, mut empty, mut unknown) = (Vec::with_capacity(sites.len()), Vec::new(), None);
    for (at, Site { url, may_make, found }) in sites.into_iter().enumerate() {
        // Up to the first vault only what is away is passed over; without any, a vault is made in the first place or not
        // at all.
        let leading = first_vault.map_or(at == 0, |first| at < first);
        let vault = match found {
            Found::Vault(vault) => Ok(vault),
            Found::Failed(why) if alone || leading && matches!(why.kind(), Kind::Damage | Kind::Usage) => {
                return Err(why);
            }
            Found::Failed(why) => {
                if leading {
                    warn(passed_over(&url, &why));
                }
                unknown.get_or_insert(at);
                Err(why)
            }
            Found::Nothing(store) => {
                let missing = Vault::missing(&*store);
                match if may_make { Vault::check_free(&*store) } else { Err(Vault::missing(&*store)) } {
                    Ok(()) => {
                        empty.push((at, store));
                        Err(missing)
                    }
                    Err(why) if alone || leading && !why.of_store() => return Err(why),
                    Err(why) => Err(why),
                }
            }
        };
        replicas.push(Replica { url, vault, made: false, names: Vec::new() });
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

/// The error that no vault is made in a place because another place, which cannot be asked, may hold one: the two would be
/// different ones for ever.
fn may_be_another(place: &Replica, unknown: &Replica) -> Error {
    let said = unknown.vault.as_ref().err().map(Error::what).unwrap_or_default();
    let kind = unknown.vault.as_ref().err().map(Error::kind);
    let doing = format!("make a vault at {}", place.url);
    let why = format!("it is not known whether {} holds the vault already: {said}", unknown.url);
    let error = match kind {
        Some(Kind::Unreachable) => Error::unreachable(doing, why),
        _ => Error::failed(doing, why),
    };
    error.hint(format!(
        "If it holds none: `lastgood init --vault {}` makes the vault, and the others become replicas of it.",
        place.url
    ))
}

/// Copies to a vault what it lacks of the new snapshot and of those that are newer than its newest was.
fn share(
    replicas: &[Replica],
    primary: usize,
    at: usize,
    new: SnapshotName,
    ctx: &Context,
    warn: &mut impl FnMut(String),
) -> Held {
    let replica = &replicas[at];
    let mut held = Held { vault: replica.url.clone(), made: replica.made, ..Held::default() };
    let to = match &replica.vault {
        Ok(vault) => vault,
        Err(why) => return Held { why: Some(why.what()), ..held },
    };
    held.holds = at == primary;
    let newest = replica.names.last();
    let lacks = |name: &SnapshotName| newest.is_some_and(|newest| name > newest) && !replica.names.contains(name);
    let mut wanted: Vec<SnapshotName> = replicas[primary].names.iter().filter(|name| lacks(name)).copied().collect();
    wanted.push(new);
    let mut asked = wanted.clone();
    let mut sources = vec![(primary, wanted)];
    for (source, other) in replicas.iter().enumerate().filter(|(source, _)| *source != primary) {
        let more: Vec<_> = other.names.iter().filter(|name| lacks(name) && !asked.contains(name)).copied().collect();
        asked.extend(&more);
        sources.push((source, more));
    }
    for (source, names) in sources {
        let Some(from) = replicas[source].vault().filter(|_| source != at && !names.is_empty()) else { continue };
        match copy(from, to, &names, ctx) {
            Ok(copied) => {
                held.copied_snapshots += copied.snapshots.len() as u64;
                held.copied_objects += copied.objects;
                held.copied_bytes += copied.bytes;
                if source == primary {
                    let lost = copied.not_copied.into_iter().find(|lost| lost.snapshot == new);
                    held.holds = lost.is_none();
                    held.why = lost.map(|lost| lost.why);
                }
            }
            Err(why) if source == primary => held.why = Some(why.what()),
            Err(why) => {
                warn(format!("snapshots of {} that {} lacks: {}", replicas[source].url, held.vault, why.what()))
            }
        }
    }
    held
}
