//! Reads the entries of a snapshot on demand: all of them, or those of the hunks that can hold a path.

use crate::error::Result;
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::restore::missing;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::read::PackReader;
use crate::vault::root::{HunkRef, Root};
use crate::vault::tree::{self, TreeCheck};

/// Returns entries one by one, holding one hunk at a time.
pub struct Entries<'p> {
    packs: &'p PackReader<'p>,
    hunks: std::vec::IntoIter<HunkRef>,
    entries: std::vec::IntoIter<Entry>,
    check: TreeCheck,
    /// Folders that have no entry, and the entry before which they come.
    made: std::vec::IntoIter<Entry>,
    then: Option<Entry>,
    /// The folder for which all hunks that can hold it are read, and whether to all depths.
    complete: Option<(EntryPath, bool)>,
    decoder: Decoder,
}

impl<'p> Entries<'p> {
    /// Reads all entries of a snapshot.
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn all(packs: &'p PackReader<'p>, root: &Root) -> Result<Self> {
        Self::of(packs, tree::hunks(packs, root)?)
    }

    /// Reads the entries of the hunks that can hold `path`, its children and, with `deep`, everything in them; other
    /// entries are among them. If a folder in that range has no entry, one is made up.
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn in_path(packs: &'p PackReader<'p>, root: &Root, path: &EntryPath, deep: bool) -> Result<Self> {
        let entries = Self::of(packs, holding(tree::hunks(packs, root)?, path, deep))?;
        Ok(Entries { complete: Some((path.clone(), deep)), ..entries })
    }

    /// Reads the entries of what was read torn, which do not form a tree.
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn torn(packs: &'p PackReader<'p>, root: &Root) -> Result<Self> {
        Self::of(packs, packs.all(&root.torn_reads)?)
    }

    fn of(packs: &'p PackReader<'p>, hunks: Vec<HunkRef>) -> Result<Self> {
        let nothing = || Vec::new().into_iter();
        let (check, decoder) = (TreeCheck::default(), Decoder::new()?);
        let (hunks, complete) = (hunks.into_iter(), None);
        Ok(Entries { packs, hunks, entries: nothing(), check, made: nothing(), then: None, complete, decoder })
    }

    /// Returns the next entry, and whether it was made up.
    ///
    /// # Errors
    /// A store that fails; damage, including entries that are out of order or below something that is not a folder.
    pub fn next_or_made(&mut self) -> Result<Option<(Entry, bool)>> {
        loop {
            if let Some(folder) = self.made.next() {
                return Ok(Some((folder, true)));
            }
            if let Some(entry) = self.then.take() {
                return Ok(Some((entry, false)));
            }
            if let Some(entry) = self.entries.next() {
                let missing = self.check.next(&entry.path, entry.kind == EntryKind::Folder)?;
                let missing = missing.into_iter().filter(|folder| self.could_be_told(folder));
                let made: Vec<_> = missing.map(|folder| missing::folder(folder, missing::LEFT_OUT)).collect();
                (self.made, self.then) = (made.into_iter(), Some(entry));
                continue;
            }
            let Some(hunk) = self.hunks.next() else { return Ok(None) };
            self.entries = tree::read_hunk(self.packs, &hunk, &mut self.decoder)?.into_iter();
        }
    }

    /// Returns the next entry.
    ///
    /// # Errors
    /// As [`Entries::next_or_made`].
    pub fn next(&mut self) -> Result<Option<Entry>> {
        Ok(self.next_or_made()?.map(|(entry, _)| entry))
    }

    /// Whether the entry of a folder would have been read if there were one.
    fn could_be_told(&self, folder: &EntryPath) -> bool {
        self.complete.as_ref().is_some_and(|(path, deep)| {
            folder == path || folder.is_in(path) && (*deep || folder.parent() == Some(path.bytes()))
        })
    }

    /// The hunk that the next entry begins; `None` if it begins none.
    fn next_hunk(&self) -> Option<&HunkRef> {
        if self.entries.len() == 0 && self.then.is_none() { self.hunks.as_slice().first() } else { None }
    }

    /// Skips the hunks that come next in both, without reading them: what they hold is the same.
    pub fn skip_common(a: &mut Self, b: &mut Self) {
        while let (Some(x), Some(y)) = (a.next_hunk(), b.next_hunk())
            && x.frame == y.frame
        {
            a.hunks.next();
            b.hunks.next();
        }
    }
}

/// Chooses the hunks that can hold `path`, its children and, with `deep`, everything in them.
fn holding(hunks: Vec<HunkRef>, path: &EntryPath, deep: bool) -> Vec<HunkRef> {
    let from = hunks.partition_point(|h| h.first <= *path).saturating_sub(1);
    let to = hunks.iter().skip(from + 1).position(|h| h.first > *path && !h.first.is_in(path));
    let to = to.map_or(hunks.len(), |n| from + 1 + n);
    let nexts: Vec<_> = hunks.iter().skip(1).map(|h| h.first.clone()).collect();
    let inside = |n: usize, hunk: &HunkRef| {
        // If this hunk and the one after it begin within the same child, this one has nothing but what is in that
        // child.
        let child = child(path, &hunk.first).filter(|c| c.len() < hunk.first.bytes().len());
        child.is_some() && child == nexts.get(n).and_then(|next| self::child(path, next))
    };
    let chosen = hunks.into_iter().enumerate().take(to).skip(from);
    chosen.filter(|(n, hunk)| deep || !inside(*n, hunk)).map(|(_, hunk)| hunk).collect()
}

/// The path of the child of `above` that `path` is or lies in.
fn child<'a>(above: &EntryPath, path: &'a EntryPath) -> Option<&'a [u8]> {
    if path == above || !path.is_in(above) {
        return None;
    }
    let start = if above.is_root() { 0 } else { above.bytes().len() + 1 };
    let end = path.bytes()[start..].iter().position(|&b| b == b'/').map_or(path.bytes().len(), |n| start + n);
    Some(&path.bytes()[..end])
}

/// Warns about packs that are damaged and could be read all the same.
pub(crate) fn tell_mended(packs: &PackReader, ctx: &Context) {
    packs.mended().values().for_each(|what| ctx.monitor.warn(what));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::frame::FrameRef;
    use crate::vault::hex::{Hash, Hex};

    fn chosen(firsts: &[&str], path: &str, deep: bool) -> Vec<String> {
        let hunk = |first: &&str| HunkRef {
            maps: 0,
            frame: FrameRef { pack: Hex([0; 16]), offset: 0, length: 1, hash: Hash::of(first.as_bytes()) },
            entries: 1,
            first: EntryPath::new(*first).unwrap(),
        };
        let hunks = holding(firsts.iter().map(hunk).collect(), &EntryPath::new(path).unwrap(), deep);
        hunks.iter().map(|h| h.first.to_string()).collect()
    }

    #[test]
    fn only_hunks_that_can_hold_it_are_read() {
        let firsts = [".", "a/b", "a/c/1", "a/c/5", "a/c/9", "b", "c/d/e"];
        assert_eq!(chosen(&firsts, ".", true), firsts);
        assert_eq!(chosen(&firsts, ".", false), [".", "a/c/9", "b", "c/d/e"]);
        assert_eq!(chosen(&firsts, "a", false), [".", "a/b", "a/c/9"]);
        assert_eq!(chosen(&firsts, "a", true), [".", "a/b", "a/c/1", "a/c/5", "a/c/9"]);
        assert_eq!(chosen(&firsts, "a/c/5", false), ["a/c/5"]);
        assert_eq!(chosen(&firsts, "a/c/6", false), ["a/c/5"]);
        assert_eq!(chosen(&firsts, "z", false), ["c/d/e"]);
        assert_eq!(chosen(&[], "z", false), Vec::<String>::new());
    }
}
