//! Streams the entries that snapshots know, a hunk at a time.

use std::collections::VecDeque;

use super::{Parent, ParentEntry, Section, join_units};
use crate::error::{Kind, Result};
use crate::path::EntryPath;
use crate::vault::decoder::Decoder;
use crate::vault::tree;

/// Known entries that are sent at a time if two snapshots are joined.
pub(super) const TOGETHER: usize = 512;

/// The entries of sections, one after the other.
pub(super) struct Stream<'b> {
    base: &'b Parent<'b>,
    hunks: std::vec::IntoIter<(&'b Section, usize)>,
    decoder: Decoder,
    ready: VecDeque<ParentEntry>,
}

impl<'b> Stream<'b> {
    pub(super) fn new(base: &'b Parent<'b>, sections: &'b [Section]) -> Result<Self> {
        let hunks = sections.iter().flat_map(|section| (0..section.hunks.len()).map(move |n| (section, n)));
        let hunks = hunks.collect::<Vec<_>>().into_iter();
        Ok(Stream { base, hunks, decoder: Decoder::new()?, ready: VecDeque::new() })
    }

    /// Returns the known entries of the next hunk that can be read. `None` at the end.
    pub(super) fn hunk(&mut self, warn: &impl Fn(String)) -> Result<Option<Vec<ParentEntry>>> {
        for (section, n) in self.hunks.by_ref() {
            let hunk = &section.hunks[n];
            let next = section.hunks.get(n + 1).map(|next| &next.first);
            if let (Some(after), Some(next)) = (&section.after, next)
                && next <= after
            {
                continue;
            }
            let entries = match tree::read_hunk(&self.base.packs, hunk, &mut self.decoder) {
                Ok(entries) => entries,
                // Nothing can be stored there either.
                Err(why) if why.kind() == Kind::Unreachable => return Err(why),
                Err(why) => {
                    warn(format!(
                        "entries of the parent snapshot from {} on cannot be read from the vault, and are taken as new: {why}",
                        hunk.first
                    ));
                    continue;
                }
            };
            let mut known: Vec<_> = entries
                .into_iter()
                .filter(|entry| section.after.as_ref().is_none_or(|after| entry.path > *after))
                .filter_map(|entry| self.base.known(entry, section.terms))
                .collect();
            join_units(&mut known);
            return Ok(Some(known));
        }
        Ok(None)
    }

    /// Returns the path of the next entry.
    pub(super) fn peek(&mut self, warn: &impl Fn(String)) -> Result<Option<&EntryPath>> {
        while self.ready.is_empty() {
            match self.hunk(warn)? {
                Some(known) => self.ready.extend(known),
                None => return Ok(None),
            }
        }
        Ok(self.ready.front().map(|known| &known.entry.path))
    }

    /// Takes the next entry, after `peek`.
    pub(super) fn next(&mut self) -> Option<ParentEntry> {
        self.ready.pop_front()
    }
}
