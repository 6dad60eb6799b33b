//! Tells what a snapshot cannot hold of its entries: the flags of `chattr`, and times that 64 bits of nanoseconds do not reach.
//!
//! Flags are looked at when an entry is read: setting one moves the change time of a file, so that the next backup reads it.

use std::collections::BTreeSet;

use crate::path::EntryPath;
use crate::source::flags::InodeFlags;

/// The most entries of each kind that are counted.
const COUNTED: usize = 1000;

/// What was met so far.
#[derive(Debug, Default)]
pub struct NotKept {
    flagged: BTreeSet<EntryPath>,
    beyond_time: BTreeSet<EntryPath>,
}

impl NotKept {
    /// Looks at an entry: at its flags, and at its time in ns since 1970, which is the last one or the first one there is where the
    /// true one is beyond it.
    pub fn look(&mut self, path: &EntryPath, flags: InodeFlags, mtime: i64) {
        let is_beyond = mtime == i64::MAX || mtime < i64::MIN + 1_000_000_000;
        for (paths, is_met) in [(&mut self.flagged, flags.any()), (&mut self.beyond_time, is_beyond)] {
            if is_met && paths.len() < COUNTED {
                paths.insert(path.clone());
            }
        }
    }

    /// Returns a warning for each kind that was met.
    pub fn warnings(&self) -> Vec<String> {
        let kinds = [
            (&self.flagged, "flags that a snapshot does not keep (chattr +i or +a)"),
            (
                &self.beyond_time,
                "a time of change at or beyond the first (1677) or last (2262) one that a snapshot can hold: it has the nearest one",
            ),
        ];
        let warning = |(paths, what): (&BTreeSet<EntryPath>, &str)| {
            let first = paths.first()?;
            Some(match paths.len() {
                1 => format!("{first} has {what}"),
                COUNTED.. => format!("{COUNTED} entries or more, among them {first}, have {what}"),
                count => format!("{count} entries, among them {first}, have {what}"),
            })
        };
        kinds.into_iter().filter_map(warning).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_read_twice_counts_once() {
        let path = |n: usize| EntryPath::new(format!("file {n}")).unwrap();
        let append_only = InodeFlags { append_only: true, ..InodeFlags::default() };
        let mut not_kept = NotKept::default();
        not_kept.look(&path(1), InodeFlags::default(), 0);
        assert_eq!(not_kept.warnings(), [""; 0]);
        not_kept.look(&path(2), append_only, i64::MAX);
        not_kept.look(&path(2), append_only, i64::MAX);
        assert_eq!(
            not_kept.warnings(),
            [
                "file 2 has flags that a snapshot does not keep (chattr +i or +a)",
                "file 2 has a time of change at or beyond the first (1677) or last (2262) one that a snapshot can hold: it has the nearest one",
            ]
        );
        not_kept.look(&path(3), append_only, i64::MAX - 1);
        assert!(not_kept.warnings()[0].starts_with("2 entries, among them file 2, have flags "));
        assert!(not_kept.warnings()[1].starts_with("file 2 has a time "));
        (0..2 * COUNTED).for_each(|n| not_kept.look(&path(n), append_only, i64::MIN + 5));
        assert!(not_kept.warnings().iter().all(|warning| warning.starts_with("1000 entries or more, among them ")));
    }
}
