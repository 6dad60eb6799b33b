//! Plans what is left of a damaged snapshot: whatever can be read is planned, and everything that cannot is reported.
//!
//! A bad entry costs itself and no other. Entries out of order are put in order as far as they have been read: within a
//! hunk, and entries that belong after the beginning of the next hunk wait for that. So no entry is lost for having
//! been written in the wrong place, unless what comes after it was planned already.

use super::{Planner, Walk};
use crate::error::{Kind, Result};
use crate::path::EntryPath;
use crate::restore::missing;
use crate::restore::window::Window;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{self, Entry};
use crate::vault::root::Root;
use crate::vault::tree::{self, HunksLeft};

/// Most entries that wait for a later hunk; further ones are lost.
const WAITING: usize = 64 << 10;

/// Plans all wanted entries that can be read.
///
/// # Errors
/// A store that fails; any error of the function that takes windows.
pub fn each_entry<F>(planner: &Planner, root: &Root, walk: &mut Walk<F>) -> Result<()>
where
    F: FnMut(Window) -> Result<()>,
{
    let HunksLeft { hunks, lost } = tree::hunks_left(planner.packs, root)?;
    let mut decoder = Decoder::new()?;
    let mut batch = Batch::default();
    for (n, hunk) in hunks.iter().enumerate() {
        planner.ctx.check("read the snapshot's entries")?;
        for (_, why) in lost.iter().filter(|(before, _)| *before == n) {
            batch.lose(
                hunk.first.clone(),
                format!("entries before this one, in a part of the list that cannot be read: {why}"),
                walk,
            );
        }
        let next = hunks.get(n + 1).map(|next| &next.first);
        if !planner.wanted.touches(&hunk.first, next) {
            continue;
        }
        match tree::read_left(planner.packs, hunk, &mut decoder) {
            Ok(left) => {
                for (path, why) in left.bad {
                    batch.lose(path.unwrap_or_else(|| hunk.first.clone()), why, walk);
                }
                batch.add(left.entries);
            }
            Err(why) if why.kind() == Kind::Damage => {
                let end = next.map_or("to the end".to_owned(), |next| format!("until {next}"));
                batch.lose(hunk.first.clone(), format!("all entries from here {end}: {why}"), walk);
            }
            Err(why) => return Err(why),
        }
        batch.plan(next, planner, walk)?;
    }
    batch.plan(None, planner, walk)?;
    for (_, why) in lost.iter().filter(|(before, _)| *before >= hunks.len()) {
        batch.lose(
            EntryPath::root(),
            format!("the last entries, in a part of the list that cannot be read: {why}"),
            walk,
        );
    }
    Ok(())
}

/// Entries that wait to be planned.
#[derive(Default)]
struct Batch {
    /// Each with its number in the order in which they were written.
    entries: Vec<(u64, Entry)>,
    count: u64,
    /// Whether something was lost since the last entry that was planned.
    gap: bool,
}

impl Batch {
    fn add(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.entries.push((self.count, entry));
            self.count += 1;
        }
        // The sort is stable: of two entries with one path, the first one counts.
        self.entries.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
    }

    fn lose<F: FnMut(Window) -> Result<()>>(&mut self, path: EntryPath, why: String, walk: &mut Walk<F>) {
        walk.not_read(path, why);
        self.gap = true;
    }

    /// Plans the entries before `next`.
    fn plan<F>(&mut self, next: Option<&EntryPath>, planner: &Planner, walk: &mut Walk<F>) -> Result<()>
    where
        F: FnMut(Window) -> Result<()>,
    {
        let until = next.map_or(self.entries.len(), |next| self.entries.partition_point(|(_, e)| e.path < *next));
        let mut waiting = self.entries.split_off(until);
        for (_, entry) in waiting.drain(waiting.len().min(WAITING)..) {
            self.lose(entry.path, "it is too far from where it belongs in the order of paths".into(), walk);
        }
        let mut now = std::mem::replace(&mut self.entries, waiting).into_iter().peekable();
        while let Some((number, entry)) = now.next() {
            let path = entry.path.clone();
            // The entry that came first stays: it lies in a folder of this name, and this entry is not a folder.
            let usurps = |(before, other): &(u64, Entry)| *before < number && other.path.is_in(&path);
            if entry.kind != entry::EntryKind::Folder && now.peek().is_some_and(usurps) {
                self.lose(path, "it comes after entries that lie in a folder of the same name".into(), walk);
                continue;
            }
            let mode = if self.gap { missing::LOST } else { missing::LEFT_OUT };
            match planner.next(entry, mode, walk) {
                Ok(()) => self.gap &= !planner.wanted.selects(&path),
                Err(why) if why.kind() == Kind::Damage => self.lose(path, why.what(), walk),
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }
}
