//! Reports of runs, for tests.

use jiff::Timestamp;

use super::{Action, Channel, Outcome, Report, RunEnvironment};
use crate::vault::hex::Hex;

/// The report of a run that took a second and ended with this result, without what was done.
pub fn report(action: Action, result: Outcome) -> Report {
    let started: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
    Report {
        format: Report::format(),
        run: Hex([1, 2, 3, 4, 5, 6, 7, 8]),
        action,
        result,
        way: Channel::Http,
        events: Vec::new(),
        place: RunEnvironment::default(),
        started,
        finished: "2026-11-30T10:00:01Z".parse().unwrap(),
        snapshot: None,
        error: None,
        hook_failures: Vec::new(),
        done: None,
    }
}
