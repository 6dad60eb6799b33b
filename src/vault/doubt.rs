//! Doubts: hints that packs of this vault may be damaged, as objects under `doubts/`.
//!
//! A doubt is never a verdict. It changes neither which snapshots are good nor what is kept. A run that is about to act
//! on one first reads the whole pack, once. A pack that is sound counts as if nobody had doubted it, and a doubt whose
//! packs are all sound is lifted, by an object beside it. A doubt is about the vault that it lies in: it is copied to
//! no replica, and says nothing about a replica's pack of the same name.
//!
//! The objects may come from strangers. Their sizes and numbers are limited, unknown fields are ignored, and one that
//! cannot be read is skipped with a warning.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::hex::{Hex, PackId};
use super::pack::{self, PackInfo, PackKind};
use super::read::PackReader;
use super::root::{PackBook, Root};
use super::state::{self, PackState, Tested};
use super::{Vault, VaultUser};
use crate::error::{Code, Error, Result};
use crate::parallel::ordered::map_ordered;
use crate::store::{self, Store};

/// The folder of doubts.
pub const DOUBTS: &str = "doubts/";
/// The version of the form of a doubt.
const FORMAT: u32 = 1;
/// The largest doubt that is read, in bytes.
const MAX_DOUBT: u64 = 256 << 10;
/// The most packs that are looked at in one doubt; more are ignored.
const PACKS: usize = 256;
/// The most standing doubts that are read.
const READ: usize = 256;
/// The most bytes of doubted packs that a run reads before its own work begins; one pack is read in any case.
const READ_AT_MOST: u64 = 1 << 30;
/// The most doubts that one run creates.
const CREATED: usize = 16;
/// The most bytes that are kept of a text in a doubt; a cut text gets an ellipsis on top.
const TEXT: usize = 500;
/// How many doubts are read at the same time.
const PARALLEL: usize = 4;

const LIFTED: &str = ".lifted.json";

/// The activity of a run that finds a pack damaged, or sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// A backup.
    Backup,
    /// A restore.
    Restore,
    /// A verification.
    Verify,
    /// A copy to a replica.
    Copy,
}

impl Finding {
    fn name(self) -> &'static str {
        match self {
            Finding::Backup => "backup",
            Finding::Restore => "restore",
            Finding::Verify => "verify",
            Finding::Copy => "copy",
        }
    }
}

/// A doubted pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubted {
    /// The kind of content that the pack holds.
    pub kind: PackKind,
    /// The random bits of the pack's name.
    pub id: PackId,
    /// The reason: what seemed wrong with the pack.
    #[serde(default)]
    pub why: String,
}

impl Doubted {
    /// Returns the name of the pack's object.
    pub fn name(&self) -> String {
        pack::name(self.kind, self.id)
    }
}

/// The content of a doubt. `action` and the fields after it are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The version of this form.
    #[serde(default)]
    pub format: u32,
    /// The packs that are doubted.
    pub packs: Vec<Doubted>,
    /// When the doubt was made, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Timestamp>,
    /// The activity of the run that made the doubt: `backup`, `restore`, `verify` or `copy`.
    #[serde(default)]
    pub action: String,
    /// The run, if it is one that leaves a report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Hex<8>>,
    /// The host's name.
    #[serde(default)]
    pub host: String,
    /// The program and its version.
    #[serde(default)]
    pub writer: String,
}

impl Doubt {
    /// Reads a doubt. Packs beyond the first 256 are dropped, and long texts are cut.
    ///
    /// # Errors
    /// A text that says what is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut doubt: Doubt = serde_json::from_slice(bytes).map_err(|why| format!("it is not a doubt: {why}"))?;
        doubt.packs.truncate(PACKS);
        let texts = [&mut doubt.action, &mut doubt.host, &mut doubt.writer];
        texts.into_iter().chain(doubt.packs.iter_mut().map(|pack| &mut pack.why)).for_each(shorten);
        Ok(doubt)
    }
}

fn shorten(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push('…');
    }
}

/// The content of the object that lifts a doubt.
#[derive(Debug, Serialize)]
struct Lifting<'a> {
    format: u32,
    made: Timestamp,
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Hex<8>>,
    host: &'a str,
    writer: String,
}

/// A doubt that stands: it is not lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnliftedDoubt {
    /// The name of its object.
    pub object: String,
    /// The content of that object.
    #[serde(flatten)]
    pub doubt: Doubt,
}

/// The doubts that stand in a vault, and what a run found out about their packs.
#[derive(Debug, Default)]
pub struct Doubts {
    standing: Vec<UnliftedDoubt>,
    tested: HashMap<PackId, (PackInfo, Tested)>,
    /// Warnings about the doubts themselves.
    warnings: Vec<String>,
}

impl Doubts {
    /// Reads the doubts of a vault that are not lifted. Doubts that cannot be read, even all of them, are skipped with
    /// a warning: a hint that is not heard stops nobody.
    pub fn read(store: &dyn Store) -> Self {
        let mut doubts = Doubts::default();
        let listed = match store.list(DOUBTS) {
            Ok(listed) => listed,
            Err(why) => {
                let why = why.while_doing(format!("list the doubts of {}", store.url()));
                doubts.warnings.push(format!("doubts about packs are not known: {}", why.what()));
                return doubts;
            }
        };
        let id = |name: &str, ending: &str| name.strip_prefix(DOUBTS)?.strip_suffix(ending)?.parse::<Hex<8>>().ok();
        let lifted: HashSet<_> = listed.iter().filter_map(|object| id(&object.name, LIFTED)).collect();
        let mut names: Vec<_> = listed.iter().filter_map(|object| id(&object.name, ".json")).collect();
        names.retain(|name| !lifted.contains(name));
        if names.len() > READ {
            doubts.warnings.push(format!(
                "{} doubts stand in {}: only {READ} of them are read",
                names.len(),
                store.url()
            ));
            names.truncate(READ);
        }
        let read = |name: &Hex<8>| store.get(&object(*name), MAX_DOUBT);
        let taken = map_ordered(&names, PARALLEL, read, |name, read| {
            let object = object(*name);
            let said = match read {
                Ok(bytes) => Doubt::parse(&bytes),
                Err(store::StoreError::NotFound { .. }) => return Ok(()),
                Err(why) => Err(why.to_string()),
            };
            match said {
                Ok(doubt) => doubts.standing.push(UnliftedDoubt { object, doubt }),
                Err(why) => doubts.warnings.push(format!("the doubt {object} is passed over: {why}")),
            }
            Ok(())
        });
        if let Err(why) = taken {
            doubts.warnings.push(format!("not all doubts about packs are known: {}", why.what()));
        }
        doubts
    }

    /// Returns the doubts that are not lifted.
    pub fn standing(&self) -> &[UnliftedDoubt] {
        &self.standing
    }

    /// Returns the names of the packs that standing doubts name, in order.
    pub fn packs(&self) -> BTreeSet<String> {
        self.standing.iter().flat_map(|standing| &standing.doubt.packs).map(Doubted::name).collect()
    }

    /// Returns the ids of the packs that standing doubts name.
    pub fn ids(&self) -> HashSet<PackId> {
        self.standing.iter().flat_map(|standing| &standing.doubt.packs).map(|doubted| doubted.id).collect()
    }

    /// Returns the ids of the packs that standing doubts name and this run has not read.
    pub fn untested(&self) -> HashSet<PackId> {
        let mut ids = self.ids();
        ids.retain(|id| !self.tested.contains_key(id));
        ids
    }

    /// Takes the warnings about the doubts themselves: each is returned once.
    pub fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Whether a standing doubt names the pack.
    pub fn names(&self, pack: &PackInfo) -> bool {
        let is_it = |doubted: &Doubted| (doubted.kind, doubted.id) == (pack.kind, pack.id);
        self.standing.iter().any(|standing| standing.doubt.packs.iter().any(is_it))
    }

    /// Whether a snapshot needs a pack that a standing doubt names.
    ///
    /// # Errors
    /// The store fails; damage.
    pub fn concern(&self, store: &dyn Store, root: &Root) -> Result<bool> {
        Ok(PackReader::for_root(store, root)?.book().values().any(|pack| self.names(pack)))
    }

    /// Returns what reading the whole pack in this run found; `None` if this run has not read it.
    pub fn tested(&self, pack: &PackInfo) -> Option<&Tested> {
        self.tested.get(&pack.id).filter(|(info, _)| info == pack).map(|(_, tested)| tested)
    }

    /// Returns the packs of `book` that this run read whole and found not to be what was stored.
    pub fn damaged(&self, book: &PackBook) -> Vec<(PackInfo, Tested)> {
        let tested =
            self.tested.values().filter(|(pack, tested)| book.get(&pack.id) == Some(pack) && !tested.is_sound());
        let mut damaged: Vec<_> = tested.cloned().collect();
        damaged.sort_by_key(|(pack, _)| pack.name());
        damaged
    }

    /// Reads the whole pack, unless this run has done so already, and returns what was found. Before it reads, it calls
    /// `go_on`.
    ///
    /// # Errors
    /// The errors of `go_on`; the store refuses or cannot be reached.
    pub fn test(&mut self, store: &dyn Store, pack: &PackInfo, go_on: &dyn Fn() -> Result<()>) -> Result<&Tested> {
        if self.tested(pack).is_none() {
            go_on()?;
            let tested = state::test(store, pack)?;
            self.tested.insert(pack.id, (*pack, tested));
        }
        let tested = self.tested.get(&pack.id).map(|(_, tested)| tested);
        tested
            .ok_or_else(|| Error::failed(format!("test {}", pack.name()), "it was not read").with_code(Code::Internal))
    }

    /// Records that another reader read these packs and found them sound: the doubted ones among them need not be read
    /// again.
    pub fn know_sound(&mut self, packs: &[PackInfo]) {
        let doubted = self.ids();
        let tested = Tested { state: PackState::Present, readable: true };
        let sound =
            packs.iter().filter(|pack| doubted.contains(&pack.id)).map(|pack| (pack.id, (*pack, tested.clone())));
        self.tested.extend(sound);
    }

    /// Tests the packs of `book` that are doubted, and lifts the doubts that turn out to be wrong. Returns the packs
    /// that are not sound.
    ///
    /// # Errors
    /// The errors of [`Doubts::test`].
    pub fn test_doubted(
        &mut self,
        vault: &Vault,
        book: &PackBook,
        (finding, user): (Finding, &VaultUser),
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<(PackInfo, Tested)>> {
        let doubted = self.standing.iter().flat_map(|standing| &standing.doubt.packs);
        let known = |doubted: &Doubted| book.get(&doubted.id).filter(|pack| pack.kind == doubted.kind).copied();
        let mut packs: Vec<_> = doubted.filter_map(known).collect();
        packs.sort_by_key(PackInfo::name);
        packs.dedup();
        let (mut wrong, mut read) = (Vec::new(), 0);
        for pack in packs {
            // Doubts are hints, and may be a stranger's: they must not keep a run busy for ever. The remaining packs
            // have their turn once these doubts are lifted.
            if self.tested(&pack).is_none() {
                read += pack.size;
            }
            if read > READ_AT_MOST && read > pack.size {
                break;
            }
            let tested = self.test(&*vault.store, &pack, go_on)?;
            if !tested.is_sound() {
                wrong.push((pack, tested.clone()));
            }
        }
        self.lift(vault, |_| false, (finding, user));
        Ok(wrong)
    }

    /// Lifts the doubts that stood `before` and that no longer matter: each of their packs is either not in `book`, or
    /// was tested and is sound. `book` has every pack that a snapshot or checkpoint of the vault named after `before`
    /// was read, so nobody needs a pack that is not in it. A later doubt may be about a pack that was added since.
    pub fn lift_unneeded(
        &mut self,
        vault: &Vault,
        (book, before): (&PackBook, &Doubts),
        as_who: (Finding, &VaultUser),
    ) {
        let (early, late): (Vec<_>, Vec<_>) = std::mem::take(&mut self.standing)
            .into_iter()
            .partition(|standing| before.standing.iter().any(|before| before.object == standing.object));
        self.standing = early;
        let unneeded = |doubted: &Doubted| book.get(&doubted.id).is_none_or(|pack| pack.kind != doubted.kind);
        self.lift(vault, unneeded, as_who);
        self.standing.extend(late);
    }

    /// Lifts the doubts whose packs are all `unneeded`, or tested and sound. A doubt that cannot be lifted remains, and
    /// its packs are tested again by the next run.
    fn lift(&mut self, vault: &Vault, unneeded: impl Fn(&Doubted) -> bool, (finding, user): (Finding, &VaultUser)) {
        let tested = &self.tested;
        let is_sound = |doubted: &Doubted| {
            tested.get(&doubted.id).is_some_and(|(pack, tested)| pack.kind == doubted.kind && tested.is_sound())
        };
        let over = |doubted: &Doubted| is_sound(doubted) || unneeded(doubted);
        let wrong =
            |standing: &UnliftedDoubt| !standing.doubt.packs.is_empty() && standing.doubt.packs.iter().all(over);
        let (lifted, standing): (Vec<_>, Vec<_>) = std::mem::take(&mut self.standing).into_iter().partition(wrong);
        self.standing = standing;
        for UnliftedDoubt { object, .. } in lifted {
            let made = vault.store.now().map_err(|why| why.while_doing("ask the store for the time"));
            let done = made.and_then(|made| {
                let (action, host) = (finding.name(), user.host.as_str());
                let lifting = Lifting { format: FORMAT, made, action, run: user.run, host, writer: writer() };
                let object = format!("{}{LIFTED}", object.trim_end_matches(".json"));
                create(vault, &object, &lifting)
            });
            match done {
                Ok(()) => tracing::info!("the doubt {object} is lifted: no pack that it names is damaged and needed"),
                Err(why) => tracing::info!("the doubt {object} is wrong and could not be lifted: {}", why.what()),
            }
        }
    }

    /// Doubts packs, each given with what is wrong with it, except for those that a standing doubt names already. If
    /// the doubt may not be written, a warning says so, and the run's report is the only place that mentions it.
    pub fn doubt(
        &mut self,
        vault: &Vault,
        damaged: &[(PackInfo, String)],
        (finding, user): (Finding, &VaultUser),
        random: &dyn Fn(&mut [u8]) -> Result<()>,
    ) {
        let new = damaged.iter().filter(|(pack, _)| !self.names(pack));
        let mut new: Vec<_> = new
            .map(|(pack, why)| {
                let mut why = why.clone();
                shorten(&mut why);
                Doubted { kind: pack.kind, id: pack.id, why }
            })
            .collect();
        new.sort_by_key(Doubted::name);
        new.dedup_by_key(|doubted| doubted.name());
        for packs in new.chunks(PACKS).take(CREATED) {
            let done = (|| {
                let mut id = [0; 8];
                random(&mut id)?;
                let made = vault.store.now().map_err(|why| why.while_doing("ask the store for the time"))?;
                let doubt = Doubt {
                    format: FORMAT,
                    packs: packs.to_vec(),
                    made: Some(made),
                    action: finding.name().into(),
                    run: user.run,
                    host: user.host.clone(),
                    writer: writer(),
                };
                let object = object(Hex(id));
                create(vault, &object, &doubt)?;
                Ok::<_, Error>(UnliftedDoubt { object, doubt })
            })();
            match done {
                Ok(standing) => self.standing.push(standing),
                Err(why) => {
                    let more = if packs.len() > 1 { format!(" and {} more", packs.len() - 1) } else { String::new() };
                    self.warnings.push(format!(
                        "{}{more}: the damage could not be noted in {}, and only this report tells of it: {}",
                        packs[0].name(),
                        vault.store.url(),
                        why.what()
                    ));
                }
            }
        }
    }
}

fn object(id: Hex<8>) -> String {
    format!("{DOUBTS}{id}.json")
}

fn writer() -> String {
    format!("lastgood {}", env!("CARGO_PKG_VERSION"))
}

fn create(vault: &Vault, object: &str, what: &impl Serialize) -> Result<()> {
    let doing = || format!("create {object} in {}", vault.store.url());
    let mut bytes = serde_json::to_vec(what).map_err(|why| Error::failed(doing(), why).with_code(Code::Internal))?;
    bytes.push(b'\n');
    match vault.store.create(object, &[&bytes]) {
        // Another run has lifted it.
        Ok(()) | Err(store::StoreError::AlreadyExists { .. }) => Ok(()),
        Err(why) => Err(why.while_doing(doing())),
    }
}

/// Returns what to report of a pack that is not sound.
pub fn told(pack: &PackInfo, state: &PackState) -> String {
    let name = pack.name();
    match state {
        PackState::Damaged(why) => format!("{name} is not what was stored: {why}"),
        state => format!("{name}: {state}"),
    }
}

/// Returns a note that there are more packs than the one that is reported; empty if there are not.
pub fn in_all(packs: usize) -> String {
    if packs > 1 { format!(" ({packs} packs in all)") } else { String::new() }
}

#[cfg(test)]
mod tests;
