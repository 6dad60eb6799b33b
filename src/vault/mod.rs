//! The format: which objects a vault has, and what their bytes mean. `format.md` describes it for other readers.
//!
//! A [`root`] names [`hunk`]s, hunks hold [`entry`]s, entries name ranges of [`pack`]s' content, directly through a [`map`],
//! or through the [`pages`] of a database.

pub mod decoder;
pub mod document;
pub mod doubt;
pub mod entry;
pub mod epochs;
pub mod frame;
pub mod frames;
pub mod hex;
pub mod hunk;
pub mod layers;
pub mod lines;
pub mod list;
pub mod map;
pub mod pack;
pub mod pages;
pub mod parts;
pub mod holds;
pub mod pins;
pub mod read;
pub mod root;
pub mod scattered;
pub mod seq;
pub mod stale;
pub mod state;
pub mod subtree;
pub mod tar;
pub mod tree;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::document::{DocumentError, FORMAT, check_format};
use self::hex::Hex;
use self::root::{CHECKPOINTS, MAX_ROOT, Root, SNAPSHOTS, SnapshotName};
use crate::error::{Code, Error, Kind, Result};
pub use crate::store::CONFIG;
use crate::store::address::argument;
use crate::store::{self, Store};

/// The object that tells a person how to restore without this program.
pub const README: &str = "README.md";
const RESTORE_BY_HAND: &[u8] = include_bytes!("restore-by-hand.md");
/// The first line of every version of that README.
const README_TITLE: &[u8] = b"# This folder is a backup\n";

/// The content of `vault.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultConfig {
    /// The version of the format.
    pub format: u32,
    /// The vault's own random id; roots repeat it.
    pub id: Hex<16>,
    /// When the vault was made.
    pub created: Timestamp,
    /// The key of short block hashes, so that nobody can make blocks collide on purpose.
    pub hash_key: Hex<32>,
    /// How objects are encrypted; always null in this format.
    pub encryption: Option<String>,
    /// The first 16 bytes of the BLAKE3 of this document with this field empty.
    pub check: String,
}

impl VaultConfig {
    fn checksum(&self) -> Result<String> {
        let unchecked = VaultConfig { check: String::new(), ..self.clone() };
        let bytes = serde_json::to_vec(&unchecked)
            .map_err(|e| Error::failed("write vault.json", e).with_code(Code::Internal))?;
        Ok(hex::Hash::of(&bytes).to_string())
    }

    /// Reads `vault.json`.
    ///
    /// # Errors
    /// They have another format, or are not a `vault.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        check_format(bytes)?;
        let damaged = DocumentError::Damaged;
        let config: Self =
            serde_json::from_slice(bytes).map_err(|e| damaged(format!("it is not a vault.json: {e}")))?;
        if config.encryption.is_some() {
            return Err(DocumentError::Encrypted);
        }
        if config.checksum().map_err(|e| damaged(e.to_string()))? != config.check {
            return Err(damaged("its bytes are not those that were written".into()));
        }
        Ok(config)
    }
}

/// Why an object was not obtained.
enum GetFailure {
    /// The answer is wrong.
    Answer(Error),
    /// There was no answer, or none that could be judged.
    Other(Error),
}

impl GetFailure {
    fn of(why: Error) -> Self {
        if why.kind() == Kind::Damage { GetFailure::Answer(why) } else { GetFailure::Other(why) }
    }
}

/// Gets an object that is there and shows by itself whether it is right. Something on the way to a store may answer in
/// its place, so a wrong answer is damage only after it has come again and again.
fn answered<T>(store: &dyn Store, name: &str, mut get: impl FnMut() -> Result<T, GetFailure>) -> Result<T> {
    let mut wrong = 0;
    loop {
        match get() {
            Ok(right) => return Ok(right),
            Err(GetFailure::Other(why)) => return Err(why),
            Err(GetFailure::Answer(why)) => {
                wrong += 1;
                if !store.may_answer_better(name, wrong) {
                    return Err(why);
                }
                tracing::info!("asking for {name} again: {}", why.what());
            }
        }
    }
}

/// An open vault.
pub struct Vault {
    /// Where its objects are.
    pub store: Box<dyn Store>,
    /// The content of `vault.json`.
    pub config: VaultConfig,
    /// The user of the vault; notes about its packs name this user.
    pub user: VaultUser,
}

/// A user of a vault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultUser {
    /// The run, if it is one that leaves a report.
    pub run: Option<Hex<8>>,
    /// The host's name; empty if it is not known.
    pub host: String,
}

impl Vault {
    /// Opens the vault in `store`. Gives `store` back if there is no `vault.json` and no snapshot either.
    ///
    /// # Errors
    /// The store fails; damage to `vault.json`, its loss included.
    pub fn find(store: Box<dyn Store>) -> Result<Result<Vault, Box<dyn Store>>> {
        let doing = || format!("open the vault {}", store.url());
        let put_back =
            "Put vault.json back from a copy of the vault. README.md in the vault says how to restore without it.";
        let damage = |why: &str| Error::damage(doing(), why).hint(put_back);
        let config = answered(&*store, CONFIG, || match store.get(CONFIG, MAX_ROOT) {
            Ok(bytes) => VaultConfig::parse(&bytes).map(Some).map_err(|why| {
                let is_newer = why.is_newer();
                let error = why.while_doing("read vault.json").within(doing());
                GetFailure::Answer(if is_newer { error } else { error.hint(put_back) })
            }),
            Err(store::StoreError::NotFound { .. }) => {
                match store.list(SNAPSHOTS).map_err(|e| GetFailure::Other(e.while_doing(doing())))?.is_empty() {
                    true => Ok(None),
                    false => Err(GetFailure::Answer(damage("vault.json is missing, but there are snapshots"))),
                }
            }
            Err(why) => Err(GetFailure::of(why.while_doing(doing()))),
        })?;
        Ok(match config {
            Some(config) => Ok(Vault { store, config, user: VaultUser::default() }),
            None => Err(store),
        })
    }

    /// Opens the vault in `store`, where there must be one.
    ///
    /// # Errors
    /// The errors of [`Vault::find`]; there is no vault.
    pub fn open(store: Box<dyn Store>) -> Result<Vault> {
        Self::find(store)?.map_err(|store| Self::missing(&*store))
    }

    /// Returns the "no vault here" error.
    pub fn missing(store: &dyn Store) -> Error {
        let url = store.url();
        let check = match url.starts_with("gs://") {
            true => "Is the address right?",
            false => "Is the address right, and if it is on a volume, is that mounted?",
        };
        Error::failed(format!("open the vault {url}"), "there is no vault (no vault.json)")
            .with_code(Code::NoVault)
            .hint(format!(
                "{check} `lastgood init --vault {}` makes a new, empty vault there, as does `lastgood backup --init`.",
                argument(&url)
            ))
    }

    /// Refuses to make a vault among other things: the address may be wrong, or a vault may have lost its `vault.json`.
    ///
    /// # Errors
    /// Failed: something is there already, or the store fails.
    pub fn check_free(store: &dyn Store) -> Result<()> {
        let doing = || format!("make a vault in {}", store.url());
        // A vault whose creation was cut short has README.md already.
        let other = match store.other_than(&[README, CONFIG]).map_err(|e| e.while_doing(doing()))? {
            None if Self::has_anothers_readme(store).map_err(|e| e.while_doing(doing()))? => Some(README.to_owned()),
            other => other,
        };
        let Some(name) = other else { return Ok(()) };
        match store.get(CONFIG, MAX_ROOT) {
            Err(store::StoreError::NotFound { .. }) => {
                let place = argument(&format!("{}/lastgood", store.url().trim_end_matches('/')));
                Err(Error::failed(doing(), format!("it is not empty ({name}), and has no vault.json"))
                    .with_code(Code::NotEmpty)
                    .hint(format!(
                        "Check the address. A vault has a place of its own: `lastgood init --vault {place}` makes one."
                    )))
            }
            // Another process made the vault just now.
            Ok(_) | Err(store::StoreError::OutOfRange { .. }) => Ok(()),
            Err(why) => Err(why.while_doing(doing())),
        }
    }

    /// Whether there is a README.md that is not a vault's README.
    fn has_anothers_readme(store: &dyn Store) -> store::Result<bool> {
        match store.get(README, MAX_ROOT) {
            Ok(readme) => Ok(!readme.starts_with(README_TITLE)),
            Err(store::StoreError::NotFound { .. }) => Ok(false),
            Err(store::StoreError::OutOfRange { .. }) => Ok(true),
            Err(why) => Err(why),
        }
    }

    /// Makes a replica of this vault in `store`, which has no vault yet: README.md and `vault.json` as they are here,
    /// and no snapshot. If another process makes it at the same time, it is opened.
    ///
    /// # Errors
    /// The store fails; there is another vault by now.
    pub fn replicate(&self, store: Box<dyn Store>) -> Result<Vault> {
        let doing = || format!("make a replica of the vault {} at {}", self.store.url(), store.url());
        let config = self.store.get(CONFIG, MAX_ROOT).map_err(|e| e.while_doing(doing()))?;
        if VaultConfig::parse(&config).as_ref() != Ok(&self.config) {
            return Err(Error::damage(doing(), format!("{CONFIG} is not what it was when the vault was opened")));
        }
        let readme = match self.store.get(README, MAX_ROOT) {
            Ok(readme) => readme,
            Err(store::StoreError::NotFound { .. }) => RESTORE_BY_HAND.to_vec(),
            Err(why) => return Err(why.while_doing(doing())),
        };
        store.prepare().map_err(|e| e.while_doing(doing()))?;
        for (name, bytes) in [(README, &readme), (CONFIG, &config)] {
            match store.create(name, &[bytes]) {
                Ok(()) | Err(store::StoreError::AlreadyExists { .. }) => {}
                Err(why) => return Err(why.while_doing(doing())),
            }
        }
        let made = Self::open(store)?;
        self.check_same(&made)?;
        Ok(made)
    }

    /// Checks that another vault is a replica of this one.
    ///
    /// # Errors
    /// Usage: it is another vault.
    pub fn check_same(&self, other: &Vault) -> Result<()> {
        let (id, theirs) = (self.config.id, other.config.id);
        if (id, self.config.hash_key) == (theirs, other.config.hash_key) {
            return Ok(());
        }
        let why = match id == theirs {
            true => format!("both say that they are the vault {id}, but their keys differ"),
            false => format!("they are different vaults: the first is {id}, the second {theirs}"),
        };
        let doing = format!("use {} and {} together", self.store.url(), other.store.url());
        Err(Error::usage(doing, why).with_code(Code::DifferentVaults).hint(
            "Vaults that are used together are replicas of one. Use these one by one; `lastgood copy --init --from URL --to URL` makes \
             a replica where there is no vault yet.",
        ))
    }

    /// Makes a new vault: README.md, then `vault.json`.
    ///
    /// # Errors
    /// The store fails, or already holds a vault or something else, such as snapshots whose `vault.json` is lost, which
    /// a new vault would shut out.
    pub fn init(store: Box<dyn Store>, random: impl Fn(&mut [u8]) -> Result<()>) -> Result<Vault> {
        match Self::find(store)? {
            Ok(vault) => Err(Self::exists(&*vault.store)),
            Err(store) => {
                Self::check_free(&*store)?;
                Self::make(store, random)?.map_err(|store| Self::exists(&*store))
            }
        }
    }

    /// Returns the error that a vault exists already.
    pub fn exists(store: &dyn Store) -> Error {
        Error::failed(format!("make a vault at {}", store.url()), "a vault exists there already")
            .with_code(Code::AlreadyExists)
            .hint("It can be used as it is: `lastgood list` shows what it holds.")
    }

    /// Opens the vault in `store`, and makes it if there is none. If several processes do so at the same time, one
    /// makes it, and all open the same vault.
    ///
    /// # Errors
    /// The store fails; damage to `vault.json`.
    pub fn open_or_init(store: Box<dyn Store>, random: impl Fn(&mut [u8]) -> Result<()>) -> Result<Vault> {
        match Self::find(store)? {
            Ok(vault) => Ok(vault),
            Err(store) => Self::make(store, random)?.or_else(Self::open),
        }
    }

    /// Makes a vault; gives `store` back if it holds one already.
    fn make(store: Box<dyn Store>, random: impl Fn(&mut [u8]) -> Result<()>) -> Result<Result<Vault, Box<dyn Store>>> {
        let doing = || format!("make a vault at {}", store.url());
        let (mut id, mut key) = ([0; 16], [0; 32]);
        random(&mut id)?;
        random(&mut key)?;
        let mut config = VaultConfig {
            format: FORMAT,
            id: Hex(id),
            created: store.now().map_err(|e| e.while_doing(doing()))?,
            hash_key: Hex(key),
            encryption: None,
            check: String::new(),
        };
        config.check = config.checksum()?;
        store.prepare().map_err(|e| e.while_doing(doing()))?;
        match store.create(README, &[RESTORE_BY_HAND]) {
            Ok(()) | Err(store::StoreError::AlreadyExists { .. }) => {}
            Err(why) => return Err(why.while_doing(doing())),
        }
        let mut bytes = serde_json::to_vec(&config).map_err(|e| Error::failed(doing(), e).with_code(Code::Internal))?;
        bytes.push(b'\n');
        match store.create(CONFIG, &[&bytes]) {
            Ok(()) => Ok(Ok(Vault { store, config, user: VaultUser::default() })),
            Err(store::StoreError::AlreadyExists { .. }) => Ok(Err(store)),
            Err(why) => Err(why.while_doing(doing())),
        }
    }

    /// Returns the names of all snapshots, oldest first: by sequence number, then time.
    ///
    /// # Errors
    /// The store fails.
    pub fn snapshots(&self) -> Result<Vec<SnapshotName>> {
        self.names(SNAPSHOTS)
    }

    /// Returns the names of all checkpoints, oldest first.
    ///
    /// # Errors
    /// The store fails.
    pub fn checkpoints(&self) -> Result<Vec<SnapshotName>> {
        self.names(CHECKPOINTS)
    }

    fn names(&self, folder: &str) -> Result<Vec<SnapshotName>> {
        let doing = || format!("list the {} of {}", folder.trim_end_matches('/'), self.store.url());
        let objects = self.store.list(folder).map_err(|e| e.while_doing(doing()))?;
        let mut names = Vec::with_capacity(objects.len());
        for object in objects {
            match SnapshotName::parse_object(folder, &object.name) {
                Some(name) => names.push(name),
                None => tracing::warn!("{} does not have the name of a snapshot and is ignored", object.name),
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads a snapshot's root.
    ///
    /// # Errors
    /// The store fails. Damage: the root is missing, altered, or of another vault. Failed, with the code of a newer format: a
    /// newer version of lastgood wrote it.
    pub fn root(&self, name: SnapshotName) -> Result<Root> {
        self.read_root(SNAPSHOTS, name).map(|(root, _)| root)
    }

    /// Finds the last good one of `names`, which are in order. `pass` is told the place of each newer one that is passed over, and what
    /// it is.
    ///
    /// # Errors
    /// The errors of `pass`, which end the search.
    pub fn newest_good<E>(
        &self,
        names: &[SnapshotName],
        mut pass: impl FnMut(usize, Result<Root>) -> Result<(), E>,
    ) -> Result<Option<(SnapshotName, Root)>, E> {
        for (at, name) in names.iter().enumerate().rev() {
            match self.root(*name) {
                Ok(root) if root.good() => return Ok(Some((*name, root))),
                not_good => pass(at, not_good)?,
            }
        }
        Ok(None)
    }

    /// Reads a snapshot's root, and returns it with its bytes as they are stored.
    ///
    /// # Errors
    /// The errors of [`Vault::root`].
    pub fn root_as_stored(&self, name: SnapshotName) -> Result<(Root, Vec<u8>)> {
        self.read_root(SNAPSHOTS, name)
    }

    /// Reads a checkpoint's root.
    ///
    /// # Errors
    /// The errors of [`Vault::root`].
    pub fn checkpoint(&self, name: SnapshotName) -> Result<Root> {
        self.read_root(CHECKPOINTS, name).map(|(root, _)| root)
    }

    fn read_root(&self, folder: &str, name: SnapshotName) -> Result<(Root, Vec<u8>)> {
        let doing = || format!("read the root of snapshot {name}");
        let object = name.object(folder);
        let bytes = answered(&*self.store, &object, || {
            let bytes = self.store.get(&object, MAX_ROOT).map_err(|e| GetFailure::of(e.while_doing(doing())))?;
            name.check_bytes(&bytes).map_err(|why| GetFailure::Answer(Error::damage(doing(), why)))?;
            Ok(bytes)
        })?;
        let root = Root::parse(name, &bytes)?;
        if root.vault != self.config.id {
            let why = format!("it belongs to the vault {}, and this one is {}", root.vault, self.config.id);
            return Err(Error::damage(doing(), why));
        }
        Ok((root, bytes))
    }
}

#[cfg(test)]
mod tests;
