//! Decides when files that were taken over unread are read after all.
//!
//! In another place a file is taken over by its path, size and time. It may be a different file all the same: tools
//! edit a file and set its time back. So each such file is read in one of the next backups. Files are in sixteen
//! [`Parts`]; a backup reads one of the parts that are left, or as many as make about 64 MiB, and the parts follow
//! one another whatever place a backup is made in. So after at most 16 backups each file has been read once since its
//! place changed, even if every backup, or every second one, is in a new place, such as a container that is newly
//! deployed.
//!
//! A root says which parts are left. Entries do not, so a file that was read and found unchanged changes no hunk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::vault::parts::{PARTS, Parts};
use crate::vault::root::Totals;

/// Bytes that can be read in the time that opening a file takes.
const OPENING: u64 = 16 << 10;

/// Returns what reading all files of a snapshot costs, in bytes.
pub fn weight(totals: &Totals) -> u64 {
    totals.bytes.saturating_add(totals.files.saturating_mul(OPENING))
}

/// Returns the parts, among the `unread` ones, that a backup with this turn reads of a directory of this `weight`: at
/// least one, and as many as have about `at_least` bytes.
pub fn due(unread: Parts, turn: u64, weight: u64, at_least: u64) -> Parts {
    // This is a power of two, so that the parts of one turn begin where the previous turn's end.
    let rounds = (weight / at_least.max(1)).checked_next_power_of_two().unwrap_or(u64::MAX).clamp(1, PARTS.into());
    let count = u64::from(PARTS) / rounds;
    unread.first(count as u32, turn.wrapping_mul(count))
}

/// The parts of which something was taken over unread in this backup. One thread decides that, another one records
/// it.
#[derive(Debug, Clone, Default)]
pub struct UnreadParts(Arc<AtomicU16>);

impl UnreadParts {
    /// Adds a part.
    pub fn add(&self, part: Parts) {
        self.0.fetch_or(part.bits(), Ordering::Relaxed);
    }

    /// Returns the parts so far.
    pub fn parts(&self) -> Parts {
        Parts::from_bits(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::stable::AT_LEAST;

    const MIB: u64 = 1 << 20;

    /// Counts the backups from turn `first` on until every part was read, if every `places`th backup is in a new
    /// place.
    fn takes(weight: u64, first: u64, places: u64) -> u64 {
        let (mut unread, mut never) = (Parts::ALL, Parts::ALL);
        for n in 0..1000 {
            if n % places == 0 {
                unread = Parts::ALL;
            }
            let due = due(unread, first + n, weight, AT_LEAST);
            assert!(unread.has(due) && due.is_empty() == unread.is_empty());
            unread = Parts::from_bits(unread.bits() & !due.bits());
            never = Parts::from_bits(never.bits() & !due.bits());
            if never.is_empty() {
                return n + 1;
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn all_is_read_in_sixteen_backups_wherever_they_are_made() {
        for (weight, backups) in
            [(0, 1), (64 * MIB, 1), (100 * MIB, 1), (128 * MIB, 2), (300 * MIB, 4), (1024 * MIB, 16), (u64::MAX, 16)]
        {
            for first in [0, 1, 7, 1000, u64::MAX - 500] {
                for places in [1, 2, 3, 5, 16, 48, 1000] {
                    assert_eq!(takes(weight, first, places), backups, "{weight} from {first}, {places} in a place");
                }
            }
        }
    }
}
