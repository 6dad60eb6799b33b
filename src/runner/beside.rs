//! The app that a runner's requests are about, where this program runs it: `lastgood run` with `--listen` or `--subscription`.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::answer::Answer;
use crate::job::{FinishedJob, Origin};
use crate::monitor::Context;
use crate::report::RunId;
use crate::restore::options::RestoreOptions;

/// How far the app is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AppState {
    /// It is to be started: an epoch is taken, or data restored.
    Starting,
    /// It runs, or is about to be started again after a crash.
    Running,
    /// A restore that was asked for is under way.
    Restoring,
    /// It is stopped, and its last snapshot taken.
    Ending,
    /// Another instance runs it.
    Waiting,
}

/// How the app is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AppStatus {
    /// How far it is.
    pub state: AppState,
    /// Since when.
    pub since: Timestamp,
    /// The epoch of this instance. `None` without one.
    pub epoch: Option<u32>,
}

/// The app, as far as the runner needs it. Its methods are called by the runner's threads.
pub trait AppBeside: Send + Sync {
    /// Returns how the app is.
    fn status(&self) -> AppStatus;

    /// Restores a snapshot in the place of the app's data, while the app is stopped. Returns when the run is over and its report
    /// stored; nothing else is run meanwhile.
    fn restore(&self, run: RunId, options: &RestoreOptions, cause: Origin, ctx: &Context) -> FinishedJob;

    /// Is told how a backup ended that others had asked for.
    fn saved(&self, run: RunId, answer: &Arc<Answer>);
}

impl AppStatus {
    /// Why nothing is backed up or restored for others now. `None` while it may be: only then is the directory this instance's, and
    /// looked after.
    pub fn refuses(&self) -> Option<&'static str> {
        match self.state {
            AppState::Running | AppState::Restoring => None,
            AppState::Starting => Some("the app is not started yet"),
            AppState::Ending => Some("the app is being stopped"),
            AppState::Waiting => Some("another instance runs the app"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_for_others_unless_the_app_runs_here() {
        let status = |state| AppStatus { state, since: Timestamp::UNIX_EPOCH, epoch: Some(7) };
        for (state, told, serves) in [
            (AppState::Starting, "starting", false),
            (AppState::Running, "running", true),
            (AppState::Restoring, "restoring", true),
            (AppState::Ending, "ending", false),
            (AppState::Waiting, "waiting", false),
        ] {
            assert_eq!(status(state).refuses().is_none(), serves, "{state:?}");
            let json = serde_json::to_value(status(state)).unwrap();
            assert_eq!(json, serde_json::json!({ "state": told, "since": "1970-01-01T00:00:00Z", "epoch": 7 }));
        }
    }
}
