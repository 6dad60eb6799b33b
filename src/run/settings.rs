//! The settings of `run`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::freshness::FreshnessRules;
use super::output::Output;
use super::restart::RestartPolicy;
use crate::epochs::protocol::LONGEST_POLL;
use crate::runner::runner::Rules;
use crate::server::service::ServiceSettings;
use crate::start::decide::StartRules;
use crate::start::facts::StartOptions;

/// The least time that a call may take which asks whether another instance takes over: a bucket whose calls take longer than a short poll
/// is asked all the same.
const SHORTEST_LOOK: Duration = Duration::from_millis(2500);

/// What is done when another instance has taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSuperseded {
    /// It waits without its app, and comes back when the other one has ended or never started its own.
    Wait,
    /// It ends.
    Exit,
    /// It goes on running the app; what it saves is diverged.
    Keep,
}

/// The settings of `run`.
pub struct RunSettings {
    /// The app's data directory: absolute.
    pub data: PathBuf,
    /// The app and its arguments; not empty.
    pub command: Vec<OsString>,
    /// How often a snapshot is taken. `None`: never by time.
    pub every: Option<Duration>,
    /// What watches the app's output. `None`: it is inherited.
    pub output: Option<Output>,
    /// What is watched of the data while the app runs.
    pub freshness: FreshnessRules,
    /// When the app is started again.
    pub restart: RestartPolicy,
    /// The time from SIGTERM until all is over.
    pub grace: Duration,
    /// The time that the app may take to end before it is killed.
    pub stop_timeout: Duration,
    /// What is done with the data directory before the app starts.
    pub start: StartRules,
    /// How the directory is looked at for that.
    pub look: StartOptions,
    /// How long an instance that runs already may take to save and end.
    pub handover: Duration,
    /// How often this instance asks whether another one takes over.
    pub handover_poll: Duration,
    /// What is done when one has.
    pub on_superseded: OnSuperseded,
    /// Whether it starts also where another service or machine is at work.
    pub take_over: bool,
    /// Whether the app runs on a copy of the data, of which nothing is saved.
    pub detached: bool,
    /// Why the app is run and nothing else is done. `None`: backups are on.
    pub off: Option<String>,
    /// The sources of requests and messages, if there are any.
    pub serving: Option<ServiceSettings>,
    /// How backups and restores are done; `threads` and `parallel` in them are set later.
    pub rules: Rules,
}

impl fmt::Debug for RunSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RunSettings");
        shown.field("data", &self.data).field("command", &self.command).field("every", &self.every);
        shown.finish_non_exhaustive()
    }
}

impl RunSettings {
    /// Returns how long a call may take that asks whether another instance takes over. That one waits for two polls, none of them
    /// longer than [`LONGEST_POLL`], and 5 s: with a short poll, a call may take half of those 5 s.
    pub fn look_at_epoch(&self) -> Duration {
        self.handover_poll.clamp(SHORTEST_LOOK, LONGEST_POLL)
    }
}
