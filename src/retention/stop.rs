//! When a plan lets go so much that a person is to look at it first.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use super::plan::{Judged, Plan};
use super::reason::{Keep, Verdict};
use super::view::DAY_OLDER;
use crate::text::count_of;

/// Good snapshots of one service and data path from which on more than half of them alone stop a plan. Fewer are of a directory
/// that was backed up a few times.
const FEW: u64 = 10;

/// Bytes of packs in the vault, as listed there. What roots say of sizes does not enter it, since whoever writes roots could hide
/// behind it what goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredBytes {
    /// All of them.
    pub all: u64,
    /// Those that only snapshots reach which are let go.
    pub freed: u64,
}

/// Why a plan stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// More than half of the good snapshots are let go.
    MostSnapshots {
        /// Good snapshots that are let go.
        let_go: u64,
        /// Good snapshots.
        of: u64,
        /// The data path and the service, if it is more than half of theirs.
        data: Option<(String, Option<String>)>,
    },
    /// More than half of the bytes are freed.
    MostBytes(StoredBytes),
    /// The last good snapshot of a data path and service that is a day older than the newest is let go.
    LastDayOlder(String, Option<String>),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |data: &str, service: &Option<String>| match service {
            Some(service) => format!("{data} of {service}"),
            None => data.to_owned(),
        };
        match self {
            Stop::MostSnapshots { let_go, of: all, data } => {
                write!(f, "more than half of the good snapshots would go: {let_go} of {all}")?;
                data.as_ref().map_or(Ok(()), |(data, service)| write!(f, " of {}", of(data, service)))
            }
            Stop::MostBytes(bytes) => {
                write!(f, "more than half of the bytes would go: {} of {}", bytes.freed, count_of(bytes.all, "byte"))
            }
            Stop::LastDayOlder(data, service) => {
                write!(
                    f,
                    "the last good snapshot of {} that is a day older than the newest would go",
                    of(data, service)
                )
            }
        }
    }
}

impl Plan<'_> {
    /// Returns why the plan stops; empty if it does not. `accepted` is how many snapshots a person said may go.
    pub fn stops(&self, bytes: StoredBytes, accepted: Option<u64>) -> Vec<Stop> {
        if accepted.is_some_and(|most| self.let_go() as u64 <= most) {
            return Vec::new();
        }
        let mut stops = Vec::new();
        // What is from the future is kept whatever it is, and must not make the others look few.
        let is_future = |judged: &Judged| matches!(&judged.verdict, Verdict::Keep(why) if why.contains(&Keep::Future));
        let good: Vec<_> = self.judged.iter().filter(|judged| judged.snapshot.good && !is_future(judged)).collect();
        if let Some((let_go, of)) = most(&good) {
            stops.push(Stop::MostSnapshots { let_go, of, data: None });
        }
        if u128::from(bytes.freed) * 2 > u128::from(bytes.all) {
            stops.push(Stop::MostBytes(bytes));
        }
        let mut by_data: BTreeMap<_, Vec<&Judged>> = BTreeMap::new();
        for judged in good {
            by_data.entry((&judged.snapshot.data, &judged.snapshot.service)).or_default().push(judged);
        }
        for ((data, service), good) in by_data {
            // Good snapshots of other services, which a stranger may add by the thousand, must not hide it.
            if let Some((let_go, of)) = most(&good).filter(|(_, of)| *of >= FEW && stops.is_empty()) {
                stops.push(Stop::MostSnapshots { let_go, of, data: Some((data.clone(), service.clone())) });
            }
            if last_day_older_goes(&good) {
                stops.push(Stop::LastDayOlder(data.clone(), service.clone()));
            }
        }
        stops
    }
}

/// Returns how many are let go, and of how many, if that is more than half.
fn most(good: &[&Judged]) -> Option<(u64, u64)> {
    let let_go = good.iter().filter(|judged| !judged.verdict.is_kept()).count() as u64;
    let of = good.len() as u64;
    (let_go * 2 > of).then_some((let_go, of))
}

fn last_day_older_goes(good: &[&Judged]) -> bool {
    let newest = good.iter().map(|judged| judged.snapshot.name.time.min(judged.snapshot.created)).max();
    let Some(newest) = newest else { return false };
    let limit = newest.saturating_sub(DAY_OLDER.duration()).unwrap_or(Timestamp::MIN);
    let mut older = good.iter().filter(|judged| judged.snapshot.name.time <= limit).peekable();
    older.peek().is_some() && older.all(|judged| !judged.verdict.is_kept())
}
