//! Ends an assembly: as a checkpoint, as the snapshot, or to begin it again.

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
    /// Ends what was written so far for a checkpoint. `None` if it would be empty.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn checkpoint(&mut self) -> Result<Option<WrittenHunks>> {
        self.data.flush()?;
        self.writer.checkpoint(&mut self.index)
    }

    /// Returns what a last checkpoint may cover, after a failure or a stop: whole units whose packs are all stored,
    /// with at most `most` bytes in packs of this run. The caller has already waited for packs that were still being
    /// stored. `None` if the checkpoint would be empty. The snapshot cannot be continued afterwards.
    ///
    /// # Errors
    /// Fails if the store does.
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
    /// Fails if readers would refuse the snapshot, or if the store fails.
    pub fn finish(&mut self) -> Result<WrittenHunks> {
        self.add_waiting_sides(None)?;
        self.writer.finish(&mut self.index)
    }

    /// Hands the content of finished entries to the packer, so that it becomes durable.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn flush(&mut self) -> Result<()> {
        self.data.flush()
    }

    /// Takes the entries that are to be looked at once more.
    pub fn take_later(&mut self) -> BTreeMap<EntryPath, Why> {
        std::mem::take(&mut self.later)
    }

    /// Makes the stored index packs readable: until they are published they may wait outside of the store.
    pub(super) fn publish_index(&self) -> Result<()> {
        let is_index = |name: &str| name.starts_with("index/");
        self.staging.publish(&is_index).map_err(|why| why.while_doing("store the index"))
    }

    /// Begins to write the snapshot again, from what has been written and the results for the `taken` paths. Makes
    /// what has been written readable, and returns a reader for it.
    ///
    /// # Errors
    /// Fails if the store does.
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
        self.lacking_before = self.lacking.take(again);
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
