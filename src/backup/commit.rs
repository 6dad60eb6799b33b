//! The end of a backup: lists, the check that every pack is there, and the root, which is the commit.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;

use super::assemble::Assembly;
use super::base::Base;
use super::packer::Packer;
use super::{Options, doing};
use crate::error::{Error, Result};
use crate::vault::Vault;
use crate::vault::hex::PackId;
use crate::vault::list;
use crate::vault::pack::PackInfo;
use crate::vault::path::EntryPath;
use crate::vault::root::{
    CHECKPOINTS, FORMAT, PackBook, PackList, Place, Root, SNAPSHOTS, SnapshotName, State, Totals,
};

/// What is known of a run from its beginning.
pub struct Run<'a> {
    /// Where it goes.
    pub vault: &'a Vault,
    /// What was asked for.
    pub options: &'a Options,
    /// What it builds on.
    pub base: &'a Base<'a>,
    /// Where the data directory is.
    pub place: Place,
    /// The snapshot's number.
    pub seq: u64,
    /// When it began, by the store's clock.
    pub started: Timestamp,
}

/// A committed root.
pub struct Committed {
    /// Its name.
    pub name: SnapshotName,
    /// Its state.
    pub state: State,
    /// Its sums.
    pub totals: Totals,
    /// Bytes of all objects that the run created, the root among them.
    pub uploaded_bytes: u64,
}

impl Run<'_> {
    /// Commits what was put together so far: a snapshot, or a checkpoint that `covers` a part of it.
    ///
    /// # Errors
    /// A store that fails; a pack that is not as it was stored. Nothing is committed then.
    pub fn commit(
        &self,
        assembly: &mut Assembly,
        packer: &Packer,
        stored: &mut PackBook,
        covers: Option<EntryPath>,
    ) -> Result<Committed> {
        let store = |content: &[u8], reached: &mut HashSet<PackId>, assembly: &mut Assembly| {
            let frame = assembly.index.store(content)?;
            reached.insert(frame.pack);
            Ok::<_, Error>(frame)
        };
        assembly.flush()?;
        let mut reached = assembly.reached.clone();
        let hunks = assembly.hunks.clone();
        let hunks = list::write(hunks, |frame| store(&frame.finish(&[]), &mut reached, assembly))?;
        let problems = assembly.problems.clone();
        let problems = list::write(problems, |frame| store(&frame.finish(&[]), &mut reached, assembly))?;
        assembly.index.flush()?;
        stored.extend(packer.drain()?.into_iter().map(|info| (info.id, info)));

        // The packs can be listed now, all but those that the list itself comes to lie in.
        let mut infos = reached.iter().map(|id| self.info(*id, stored)).collect::<Result<Vec<_>>>()?;
        infos.sort_by_key(|info| info.id);
        let mut holders = HashSet::new();
        let packs = list::write(infos.clone(), |frame| store(&frame.finish(&[]), &mut holders, assembly))?;
        assembly.index.flush()?;
        stored.extend(packer.drain()?.into_iter().map(|info| (info.id, info)));
        let mut holders = holders.iter().map(|id| self.info(*id, stored)).collect::<Result<Vec<_>>>()?;
        holders.sort_by_key(|info| info.id);
        self.check(infos.iter().chain(&holders))?;

        let state = if covers.is_some() { State::Complete } else { self.state(assembly) };
        let uploaded: u64 = stored.values().map(|info| info.size).sum();
        let totals = Totals { uploaded_bytes: uploaded, new_packs: stored.len() as u64, ..assembly.totals };
        let folder = if covers.is_some() { CHECKPOINTS } else { SNAPSHOTS };
        let root = Root {
            format: FORMAT,
            vault: self.vault.config.id,
            seq: self.seq,
            parent: self.base.parent.as_ref().map(|(name, _)| *name),
            started: self.started,
            finished: self.vault.store.now().map_err(|e| e.while_doing(doing(self.options)))?,
            reason: self.options.reason,
            labels: self.options.labels.clone(),
            state,
            data: self.options.data.display().to_string(),
            host: self.options.host.clone(),
            writer: format!("lastgood {}", env!("CARGO_PKG_VERSION")),
            place: self.place.clone(),
            covers,
            totals,
            hunks,
            packs: PackList { list: packs, holders },
            problems,
        };
        let (name, bytes) = root.encode()?;
        let object = name.object(folder);
        self.vault.store.create(&object, &[&bytes]).map_err(|e| e.while_doing(format!("commit {object}")))?;
        Ok(Committed { name, state, totals, uploaded_bytes: uploaded + bytes.len() as u64 })
    }

    fn info(&self, id: PackId, stored: &PackBook) -> Result<PackInfo> {
        let info = stored.get(&id).or_else(|| self.base.packs.book().get(&id)).copied();
        info.ok_or_else(|| Error::failed("list the snapshot's packs", format!("nothing is known of the pack {id}")))
    }

    /// Sees that every pack is in the store, whole, before a root names it.
    fn check<'i>(&self, infos: impl Iterator<Item = &'i PackInfo>) -> Result<()> {
        let mut sizes: HashMap<String, u64> = HashMap::new();
        for folder in ["packs/", "index/"] {
            let listed = self.vault.store.list(folder);
            let listed = listed.map_err(|e| e.while_doing("check that all packs are stored"))?;
            sizes.extend(listed.into_iter().map(|meta| (meta.name, meta.size)));
        }
        for info in infos {
            let why = match sizes.get(&info.name()) {
                Some(size) if *size == info.size => continue,
                Some(size) => format!("{} has {size} bytes, and {} were stored", info.name(), info.size),
                None => format!("{} is not there", info.name()),
            };
            let hint = "Something removed or changed it. `lastgood verify` tells what is damaged; \
                        `lastgood backup --verify-content` after moving the damaged snapshots' roots away stores all anew.";
            return Err(Error::damage("commit the snapshot: not every pack is in the vault", why).hint(hint));
        }
        Ok(())
    }

    fn state(&self, assembly: &Assembly) -> State {
        let Totals { entries, bytes, .. } = assembly.totals;
        // The data directory itself is an entry.
        let empty = entries <= 1;
        let shrunk = self
            .base
            .measure
            .is_some_and(|(had, had_bytes)| entries < had.div_ceil(2) || bytes < had_bytes.div_ceil(2));
        match () {
            () if (empty || shrunk) && !self.options.accept_shrink => State::Suspect,
            () if !assembly.problems.is_empty() => State::Partial,
            () => State::Complete,
        }
    }
}

/// What labels may be, so that a root stays small.
///
/// # Errors
/// More than 32, or one of more than 1 KiB.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let wrong = |why: &str| Err(Error::usage("take the labels", why));
    if labels.len() > 32 {
        return wrong("there may be at most 32");
    }
    if labels.iter().any(|(key, value)| key.is_empty() || key.len() + value.len() > 1024) {
        return wrong("a label needs a name, and name and value together may have at most 1024 bytes");
    }
    Ok(())
}
