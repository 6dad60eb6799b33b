//! Checks the entries of snapshots: their hunks, the maps of their files, and where the pieces of files lie.

use std::collections::{HashSet, hash_map};

use super::{CheckedHunk, Verifier, data};
use crate::error::{Error, Result};
use crate::restore::plan::Walk;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, Extent, MapForm, PageMap};
use crate::vault::hex::PackId;
use crate::vault::list::List;
use crate::vault::pack::{self, PackKind};
use crate::vault::read::PackReader;
use crate::vault::root::{CHECKPOINTS, HunkRef, PackBook, Root, SNAPSHOTS, SnapshotName};
use crate::vault::tree::{self, HunkSummary, SnapshotCheck};

impl Verifier<'_> {
    /// Reads a snapshot's hunks and maps, and a sample of its files, except for what was read for another snapshot.
    pub(super) fn entries(&mut self, name: SnapshotName, root: &Root) -> Result<()> {
        let object = name.object(if root.covers.is_some() { CHECKPOINTS } else { SNAPSHOTS });
        let opened =
            self.reader.for_another(root).and_then(|packs| tree::hunks(&packs, root).map(|hunks| (packs, hunks)));
        let (packs, hunks) = match opened {
            Ok(opened) => opened,
            Err(why) => return self.found.add_named_in(&object, name, why),
        };
        for info in packs.book().values().filter(|info| self.packs.get(&info.id) != Some(info)) {
            let why = format!(
                "what it says of {} differs from what other snapshots say, and from what is stored",
                info.name()
            );
            self.found.add(&object, [name], Error::damage("verify a snapshot", why))?;
        }
        let lists = [
            packs.all(&root.problems).map(drop),
            packs.all(&root.stale).map(drop),
            packs.all(&root.torn).map(drop),
            packs.all(&root.torn_reads).map(drop),
            packs.all(&root.databases).map(drop),
        ];
        for why in lists.into_iter().filter_map(Result::err) {
            self.found.add_named_in(&object, name, why)?;
        }
        let (mut lost, mut read) = (Vec::new(), 0);
        let planner = data::planner(&packs, self.ctx);
        let mut files = Walk::new(|window| data::read(&planner, &window, &mut lost, &mut read));
        let mut decoder = Decoder::new()?;
        let (mut check, mut whole, mut remarks_found) = (SnapshotCheck::default(), true, Vec::new());
        for hunk in &hunks {
            self.ctx.check("verify the vault")?;
            let entries = self.hunk((name, &object), hunk, &packs, &mut decoder)?;
            let known = self.hunks.get(&hunk.frame).filter(|known| known.summary.fits(hunk.entries, &hunk.first));
            match known {
                Some(known) => match check.hunk(&known.summary, || tree::read_hunk(&packs, hunk, &mut decoder)) {
                    Ok(remarks) => remarks_found.extend(remarks),
                    // The hunk was read before, and is not what it was then.
                    Err(why) => self.found.add(&object, [name], why)?,
                },
                None => {
                    whole = false;
                    check.pass_over();
                }
            }
            for entry in entries {
                if self.sample.selects(&entry) {
                    planner.file(entry, &mut files)?;
                }
            }
        }
        files.finish()?;
        // A checkpoint may end between a database and what lies beside it, and so may a snapshot's readable part.
        if whole && root.covers.is_none() {
            remarks_found.extend(check.finish());
        }
        self.found.add_remarks(&object, name, &remarks_found, self.ctx);
        self.files_read += read;
        lost.into_iter().for_each(|lost| self.found.add_file(lost, name));
        Ok(())
    }

    /// Checks a hunk. Returns its entries if no earlier snapshot had it.
    fn hunk(
        &mut self,
        (name, root): (SnapshotName, &str),
        hunk: &HunkRef,
        packs: &PackReader,
        decoder: &mut Decoder,
    ) -> Result<Vec<Entry>> {
        let object = pack::name(PackKind::Index, hunk.frame.pack);
        let mut entries = Vec::new();
        if !self.hunks.contains_key(&hunk.frame) {
            entries = match tree::read_frame(packs, &hunk.frame, decoder) {
                Ok(entries) => entries,
                Err(why) => return self.found.add(&object, [name], why).map(|()| Vec::new()),
            };
            let mut named = HashSet::new();
            for entry in &entries {
                named.extend(entry.packs());
                let placed = entry.extents.iter().try_for_each(|extent| in_range(&self.packs, extent, entry));
                if let Err(why) = placed {
                    self.found.add(&object, [name], why)?;
                } else if let Err(why) = self.map(packs, entry, decoder) {
                    // A map lies in other packs as well.
                    self.found.add_named_in(&object, name, why)?;
                }
            }
            let known = CheckedHunk { packs: named.into_iter().collect(), summary: HunkSummary::of(&entries) };
            self.hunks.insert(hunk.frame, known);
        }
        let Some(known) = self.hunks.get(&hunk.frame) else { return Ok(entries) };
        if !known.summary.fits(hunk.entries, &hunk.first) {
            // Roots that list the hunk as it is are sound.
            let why = format!("the hunk of {} does not hold what the root says", hunk.first);
            self.found.add(root, [name], Error::damage("verify a snapshot", why))?;
        }
        if let Some(stray) = known.packs.iter().chain([&hunk.frame.pack]).find(|pack| !packs.book().contains_key(pack))
        {
            let why = format!("the hunk of {} names the pack {stray}, which the snapshot does not list", hunk.first);
            self.found.add(root, [name], Error::damage("verify a snapshot", why))?;
        }
        Ok(entries)
    }

    /// Reads the frames of a file's map that were not read before; they may name only packs that the entry names.
    fn map(&mut self, packs: &PackReader, entry: &Entry, decoder: &mut Decoder) -> Result<()> {
        let Some(map) = &entry.map else { return Ok(()) };
        let wrong = |why: String| Error::damage(format!("read the map of {}", entry.path), why);
        let allowed: HashSet<PackId> = map.packs.iter().copied().collect();
        let frames = match &map.form {
            MapForm::Blocks(frames) => frames,
            MapForm::Pages(pages) => return self.pages(packs, entry, pages, &allowed),
        };
        let mut total = 0u64;
        tree::each_map_frame(packs, frames, |frame, content| {
            self.ctx.check("verify the vault")?;
            total = total.saturating_add(content);
            let (length, named) = match self.maps.entry(frame) {
                hash_map::Entry::Occupied(seen) => seen.into_mut(),
                hash_map::Entry::Vacant(place) => {
                    let runs = tree::read_map_frame(packs, &frame, decoder)?;
                    runs.iter().try_for_each(|run| in_range(&self.packs, &run.extent, entry))?;
                    let named: HashSet<PackId> = runs.iter().filter_map(|run| run.extent.pack).collect();
                    place.insert((tree::runs_length(&runs), named.into_iter().collect()))
                }
            };
            tree::covers(entry, *length, content)?;
            match named.iter().chain([&frame.pack]).find(|pack| !allowed.contains(pack)) {
                Some(stray) => Err(wrong(format!("it names the pack {stray}, which its entry does not"))),
                None => Ok(()),
            }
        })?;
        match total == entry.size {
            true => Ok(()),
            false => Err(wrong(format!("it covers {total} bytes of {}", entry.size))),
        }
    }

    /// Reads the layers of a page map. The layers, and every block that no newer layer hides, must lie in packs that
    /// the entry names.
    fn pages(&self, packs: &PackReader, entry: &Entry, map: &PageMap, allowed: &HashSet<PackId>) -> Result<()> {
        let named = |pack: PackId| match allowed.contains(&pack) {
            true => Ok(()),
            false => {
                let why = format!("it names the pack {pack}, which its entry does not");
                Err(Error::damage(format!("read the map of {}", entry.path), why))
            }
        };
        for layer in &map.layers {
            if let List::Frames(lists) = layer {
                lists.iter().try_for_each(|list| named(list.pack))?;
            }
            tree::each_map_frame(packs, layer, |frame, _| named(frame.pack))?;
        }
        tree::each_run(packs, entry, |extent| {
            self.ctx.check("verify the vault")?;
            extent.pack.map_or(Ok(()), named)?;
            in_range(&self.packs, &extent, entry)
        })
    }
}

/// Checks that an extent lies in a data pack; a pack that the snapshot does not list is reported elsewhere.
fn in_range(packs: &PackBook, extent: &Extent, entry: &Entry) -> Result<()> {
    match extent.pack.and_then(|pack| packs.get(&pack)) {
        Some(info) if info.kind != PackKind::Data || extent.end() > info.content => {
            let why = format!("it refers to bytes that {} does not hold", info.name());
            Err(Error::damage(format!("verify {}", entry.path), why))
        }
        _ => Ok(()),
    }
}
