//! How what was put together comes to an end: as a checkpoint, as the snapshot, or to be begun once more.

use std::collections::{BTreeMap, HashSet};

use super::Assembly;
use crate::backup::message::Why;
use crate::backup::writer::{SnapshotWriter, WrittenHunks};
use crate::error::Result;
use crate::path::EntryPath;
use crate::vault::decoder::Decoder;
use crate::vault::hex::PackId;
use crate::vault::read::PackReader;
use crate::vault::root::HunkRef;
use crate::vault::tree;

impl<'a> Assembly<'a> {
    /// Ends what is being written for a checkpoint; none where nothing could be in it.
    ///
    /// # Errors
    /// A store that fails.
    pub fn checkpoint(&mut self) -> Result<Option<WrittenHunks>> {
        self.data.flush()?;
        self.writer.checkpoint(&mut self.index)
    }

    /// What a last checkpoint may say is done, after a failure or a stop: whole units of which all packs are stored, in as many of
    /// this run's packs as take `most` bytes. Packs of which that is not known yet are waited for by the caller before. None where
    /// nothing could be in it. The snapshot cannot be gone on with.
    ///
    /// # Errors
    /// A store that fails.
    pub fn rescue(&mut self, most: u64) -> Result<Option<WrittenHunks>> {
        self.index.flush()?;
        self.stored.extend(self.packer.drain()?.into_iter().map(|info| (info.id, info)));
        if let Some(earlier) = self.earlier.take() {
            return Ok(Some(earlier));
        }
        let (base, stored, carried, staging) = (self.base, &self.stored, &self.carried, self.staging);
        let (mut named, mut bytes) = (HashSet::new(), 0);
        let has = |pack: PackId| {
            let known = || carried.contains_key(&pack) || base.packs.book().contains_key(&pack);
            let Some(info) = stored.get(&pack) else { return base.may_name(pack) && known() };
            if !named.contains(&pack) && bytes + info.size <= most {
                named.insert(pack);
                bytes += info.size;
            }
            named.contains(&pack)
        };
        let read = |hunk: &HunkRef| {
            let index = |name: &str| stored.get(&hunk.frame.pack).is_some_and(|info| info.name() == name);
            staging.publish(&index).map_err(|why| why.while_doing("end a checkpoint"))?;
            tree::read_hunk(&base.packs.with(stored.values().copied()), hunk, &mut Decoder::new()?)
        };
        self.writer.durable(&mut self.index, has, read)
    }

    /// Ends the snapshot as it is now.
    ///
    /// # Errors
    /// One that readers would refuse; a store that fails.
    pub fn finish(&mut self) -> Result<WrittenHunks> {
        self.add_held(None)?;
        self.writer.finish(&mut self.index)
    }

    /// Makes the content of finished entries durable.
    ///
    /// # Errors
    /// A store that fails.
    pub fn flush(&mut self) -> Result<()> {
        self.data.flush()
    }

    /// The entries that are to be looked at once more.
    pub fn take_later(&mut self) -> BTreeMap<EntryPath, Why> {
        std::mem::take(&mut self.later)
    }

    /// Makes what was stored of the index readable: what waits until something names it is not in the store yet.
    pub(super) fn publish_index(&self) -> Result<()> {
        let is_index = |name: &str| name.starts_with("index/");
        self.staging.publish(&is_index).map_err(|why| why.while_doing("store the index"))
    }

    /// Begins to write the snapshot once more, from what has been written and what comes of `taken` paths. Makes what has been
    /// written readable, and gives a reader for it.
    ///
    /// # Errors
    /// A store that fails.
    pub fn begin_again(&mut self, taken: &[EntryPath], written: &WrittenHunks) -> Result<PackReader<'a>> {
        // An open pack would be waited for.
        self.data.flush()?;
        self.index.flush()?;
        self.stored.extend(self.packer.drain()?.into_iter().map(|info| (info.id, info)));
        self.publish_index()?;
        self.earlier = Some(written.clone());
        self.writer = SnapshotWriter::default();
        self.links.clear();
        let again = |path: &EntryPath| path.is_in_one_of(taken);
        self.aside = self.lacking.take(again);
        self.unread.retain(|path, _| !again(path));
        self.database_records.clear();
        self.judged.sizes.clear();
        (self.judged.watched, self.judged.leaves) = (0, 0);
        self.databases.clear();
        self.beside.clear();
        self.raw.clear();
        self.refused = None;
        Ok(self.base.packs.with(self.stored.values().chain(self.carried.values()).copied().collect::<Vec<_>>()))
    }
}
