//! Looks at what the vaults have: the newest good snapshot in any of the replicas.

use crate::error::{Error, Kind, Result};
use crate::panics;
use crate::replicas::recommit::START;
use crate::replicas::{Site, SiteState, check_same};
use crate::restore::select::{self, Choice, LATEST, PassedOver};
use crate::start::known::{NamedSnapshot, VaultFacts};
use crate::vault::Vault;
use crate::vault::hex::Hex;
use crate::vault::root::{Root, SnapshotName};

/// The vaults, and what they have.
pub struct Opened {
    /// The vaults that answered, with their addresses, in the order in which they are preferred.
    vaults: Vec<(String, Vault, Listed)>,
    /// The places that have none.
    missing: Vec<Error>,
    /// The places that could not tell.
    away: Vec<(String, Error)>,
    /// Whether the first place is one of these.
    first_is_away: bool,
    /// Whether the first place is one of those that have none.
    first_is_missing: bool,
    /// The snapshot that is known to be damaged: it and newer ones do not count. `None` if none is.
    below: Option<SnapshotName>,
}

/// What one vault has.
enum Listed {
    /// No snapshot.
    Nothing,
    /// Snapshots, and none of them is good: the newest, and what is wrong with it. `None` if its root is damaged.
    NoneGood(PassedOver, Option<Box<Root>>),
    /// The newest good one.
    Good(Box<Choice>),
}

/// A snapshot whose root is damaged, and that is newer than all good ones.
#[derive(Debug, Clone)]
pub struct DamagedRoot {
    /// The snapshot, and why it counts as damaged.
    pub over: PassedOver,
    /// Why a vault was not heard that may have it whole. `None` if all were heard.
    pub unheard: Option<String>,
}

/// A vault that did not answer.
#[derive(Debug, Clone)]
pub struct AwayVault {
    /// Its address.
    url: String,
    /// What should be told of it.
    pub told: String,
}

impl AwayVault {
    /// Whether a text, such as the reason of a decision, tells of this vault.
    pub fn is_named_in(&self, why: &str) -> bool {
        why.contains(&format!("the vault {} cannot be used: ", self.url))
    }
}

/// A snapshot that the directory is compared with, and the vault that has it.
pub struct Newest<'a> {
    pub name: SnapshotName,
    pub root: Root,
    pub vault: &'a Vault,
}

/// Most snapshots that are looked through for the one whose content another one repeats: an instance that only starts repeats one
/// at each start.
const REPEATED: usize = 100;

/// Opens the vaults, and finds out what each has, at all of them at the same time. With `below`, only snapshots count that are older.
///
/// # Errors
/// Vaults that are not replicas of one; with `below`, something that a newer lastgood wrote, and that may be newer than what is found; a
/// thread that ends in a panic.
pub fn open(sites: Vec<Site>, below: Option<SnapshotName>) -> Result<Opened> {
    check_same(&sites)?;
    let ask = |site: Site| match site.found {
        SiteState::Vault(vault) => (site.url, list(&vault, below).map(|listed| Ok((vault, listed)))),
        SiteState::Nothing(store) => (site.url, Ok(Err(Vault::missing(&*store)))),
        SiteState::Failed(why) => (site.url, Err(why)),
    };
    let asked: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = sites.into_iter().map(|site| scope.spawn(move || ask(site))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let (vaults, missing, away) = (Vec::new(), Vec::new(), Vec::new());
    let mut opened = Opened { vaults, missing, away, first_is_away: false, first_is_missing: false, below };
    for (number, asked) in asked.into_iter().enumerate() {
        match asked.map_err(|panic| panics::error("look into the vaults", &*panic))? {
            (url, Ok(Ok((vault, listed)))) => opened.vaults.push((url, vault, listed)),
            (_, Ok(Err(missing))) => {
                opened.first_is_missing |= number == 0;
                opened.missing.push(missing);
            }
            (_, Err(why)) if below.is_some() && why.is_newer_format() => return Err(why),
            (url, Err(why)) => {
                opened.first_is_away |= number == 0;
                opened.away.push((url, why));
            }
        }
    }
    opened.below = below.or_else(|| opened.damaged().map(|over| over.snapshot));
    Ok(opened)
}

fn list(vault: &Vault, below: Option<SnapshotName>) -> Result<Listed> {
    let found = match below {
        None => select::search(vault, LATEST),
        Some(below) => {
            let mut names = vault.snapshots()?;
            names.retain(|name| *name < below);
            select::search_good(vault, &names, "an older good snapshot")
        }
    };
    match found {
        Ok(choice) => Ok(Listed::Good(Box::new(choice))),
        Err(unchosen) if unchosen.why.kind() == Kind::NothingYet => Ok(Listed::Nothing),
        Err(unchosen) if unchosen.why.kind() == Kind::Unreachable => Err(unchosen.why),
        Err(unchosen) if below.is_some() && unchosen.newer_format.is_some() => Err(unchosen.why),
        Err(unchosen) => match unchosen.passed_over.into_iter().next() {
            Some(newest) => {
                let root = vault.root(newest.snapshot).ok().map(Box::new);
                Ok(Listed::NoneGood(newest, root))
            }
            None => Err(unchosen.why),
        },
    }
}

/// The snapshot that a root repeats, as each start commits one. `None` if it is another one: what somebody went back to on purpose counts
/// as newer than what it repeats.
fn repeats(root: &Root) -> Option<SnapshotName> {
    let is_anew = root.totals.new_packs == 0 && root.totals.uploaded_bytes == 0;
    root.parent.filter(|_| is_anew && root.origin.as_deref() == Some(START))
}

impl Opened {
    /// Returns what they have, all in all.
    pub fn facts(&self) -> VaultFacts {
        let good = self.good().map(|(_, choice)| choice.name);
        let away = self.away.first().map(|(url, why)| format!("the vault {url} cannot be used: {}", why.what()));
        // A volume that is not mounted, most often: the vault on it may know more than the others do. If that is not the first one, it matters
        // where the others know of no good snapshot.
        let matters = self.first_is_missing || good.is_none();
        let lost = self.missing.first().zip(self.vaults.first()).filter(|_| matters);
        if let Some((why, (other, ..))) = lost {
            let why = format!(
                "{}, although there is one at {other} (if it was never made, `lastgood init` with each --vault makes it a replica)",
                why.what()
            );
            return VaultFacts::Unreachable { why, good };
        }
        let mut none_good: Vec<_> = self.none_good().map(|(_, newest, _)| newest).collect();
        none_good.sort_by_key(|newest| newest.snapshot);
        match (away, good, none_good.last()) {
            // What another one has may be newer, and every backup goes to all of them: only the first one matters where
            // others have snapshots.
            (Some(why), good, _) if self.first_is_away || good.is_none() => VaultFacts::Unreachable { why, good },
            (_, Some(good), _) => VaultFacts::Good(good),
            (_, None, Some(newest)) => VaultFacts::NoneGood { newest: newest.snapshot, why: newest.why.clone() },
            (_, None, None) if !self.vaults.is_empty() => VaultFacts::NoSnapshot,
            _ => VaultFacts::NoVault(self.missing.first().map_or("no vault is named".into(), Error::what)),
        }
    }

    fn good(&self) -> Option<(&Vault, &Choice)> {
        let good = self.vaults.iter().filter_map(|(_, vault, listed)| match listed {
            Listed::Good(choice) => Some((vault, &**choice)),
            _ => None,
        });
        // Of several that have it, the first is preferred.
        good.rev().max_by_key(|(_, choice)| choice.name)
    }

    /// Returns the damaged snapshot that is newer than all good ones, if there is one: it might have been chosen.
    pub fn damaged_root(&self) -> Option<DamagedRoot> {
        let unheard = self.away.first().map(|(_, why)| why).or(self.missing.first());
        Some(DamagedRoot { over: self.damaged()?.clone(), unheard: unheard.map(Error::what) })
    }

    fn damaged(&self) -> Option<&PassedOver> {
        let (_, good) = self.good()?;
        let over = self.vaults.iter().flat_map(|(_, _, listed)| match listed {
            Listed::Good(choice) => &choice.passed_over[..],
            Listed::NoneGood(newest, _) => std::slice::from_ref(newest),
            Listed::Nothing => &[],
        });
        // If one vault knows that a snapshot is not good, nothing is lost with another one's copy.
        let is_known = |at: SnapshotName| over.clone().any(|over| over.snapshot == at && !over.damaged);
        let damaged = over.clone().filter(|over| over.damaged && over.snapshot > good.name && !is_known(over.snapshot));
        damaged.max_by_key(|over| over.snapshot)
    }

    fn none_good(&self) -> impl Iterator<Item = (&Vault, &PassedOver, Option<&Root>)> {
        self.vaults.iter().filter_map(|(_, vault, listed)| match listed {
            Listed::NoneGood(newest, root) => Some((vault, newest, root.as_deref())),
            _ => None,
        })
    }

    /// The newest good snapshot; where none is good, the newest one whose root can be read.
    pub fn newest(&self) -> Option<Newest<'_>> {
        if let Some((vault, choice)) = self.good() {
            return Some(Newest { name: choice.name, root: choice.root.clone(), vault });
        }
        let read = self.none_good().filter_map(|(vault, newest, root)| Some((vault, newest.snapshot, root?)));
        let (vault, name, root) = read.max_by_key(|(_, name, _)| *name)?;
        Some(Newest { name, root: root.clone(), vault })
    }

    /// Where newer snapshots do not count, returns the snapshot whose content `newest` repeats, if `is_known` says so of one: an
    /// instance commits the snapshot that it starts with once more in its own epoch. Otherwise returns `newest`.
    ///
    /// # Errors
    /// A store that fails, other than by damage.
    pub fn repeated<'a>(&'a self, newest: Newest<'a>, is_known: impl Fn(&Newest) -> bool) -> Result<Newest<'a>> {
        let mut next = self.below.and_then(|_| repeats(&newest.root));
        for _ in 0..REPEATED {
            if is_known(&newest) {
                break;
            }
            let Some(Ok(repeated)) = next.map(|name| self.find(name)).transpose()? else { break };
            if is_known(&repeated) {
                return Ok(repeated);
            }
            next = repeats(&repeated.root);
        }
        Ok(newest)
    }

    /// The vault's id, which all of them share.
    pub fn id(&self) -> Option<Hex<16>> {
        self.vaults.first().map(|(_, vault, _)| vault.config.id)
    }

    /// Finds a snapshot by its name in the first vault that has it; the inner error says why none gives it.
    pub fn find(&self, name: SnapshotName) -> Result<Result<Newest<'_>, String>> {
        let mut why = "no vault has it any more".to_owned();
        for (_, vault, _) in &self.vaults {
            match vault.root(name) {
                Ok(root) => return Ok(Ok(Newest { name, root, vault })),
                Err(error) if matches!(error.kind(), Kind::Damage | Kind::Unreachable) => why = error.what(),
                Err(error) => return Err(error),
            }
        }
        Ok(Err(why))
    }

    /// Finds the snapshot that somebody names.
    pub fn named(&self, spec: &str) -> Result<NamedSnapshot> {
        let mut not_found = None;
        for (_, vault, _) in &self.vaults {
            match select::choose(vault, spec) {
                Ok(choice) => return Ok(NamedSnapshot::Found(choice.name)),
                Err(why) => not_found = not_found.or(Some(why.what())),
            }
        }
        Ok(NamedSnapshot::NotFound(not_found.unwrap_or_else(|| format!("no vault has the snapshot {spec}"))))
    }

    /// What was found in the vaults, for people.
    pub fn told(&self) -> Vec<String> {
        let has = |listed: &Listed| match listed {
            Listed::Nothing => "there is no snapshot".to_owned(),
            Listed::NoneGood(newest, _) => {
                format!("there is no good snapshot; the newest is {}: {}", newest.snapshot, newest.why)
            }
            Listed::Good(choice) => format!("the newest good snapshot is {}", choice.name),
        };
        let several = self.vaults.len() + self.missing.len() + self.away.len() > 1;
        let in_vault = |(url, _, listed): &(String, Vault, Listed)| match several {
            true => format!("{url}: {}", has(listed)),
            false => has(listed),
        };
        let vaults = self.vaults.iter().map(in_vault);
        vaults.chain(self.missing.iter().map(Error::what)).collect()
    }

    /// The vaults that did not answer.
    pub fn away(&self) -> Vec<AwayVault> {
        let told = |url: &String, why: &Error| format!("the vault {url} is passed over: {}", why.what_with_code());
        self.away.iter().map(|(url, why)| AwayVault { url: url.clone(), told: told(url, why) }).collect()
    }

    /// What should be told although it decides nothing: snapshots that are damaged.
    pub fn warnings(&self) -> Vec<String> {
        let damaged = self.good().into_iter().flat_map(|(_, choice)| &choice.passed_over);
        let damaged = damaged.filter(|over| over.damaged);
        damaged.map(|over| format!("the snapshot {} is passed over: {}", over.snapshot, over.why)).collect()
    }
}
