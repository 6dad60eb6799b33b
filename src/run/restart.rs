//! Whether an app that has ended is started again, and when; pure.

use std::str::FromStr;
use std::time::Duration;

use crate::children::ProgramEnd;

/// The wait before the first restart; it doubles with each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// An app that ran for this long has begun well: restarts are counted from 0, and wait as the first one.
const RAN_WELL: Duration = Duration::from_secs(60);

/// When an app that has ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    Never,
    /// When it failed.
    OnFailure {
        /// The most restarts in a row. `None`: any number.
        most: Option<u32>,
    },
}

/// What to do after the app has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartDecision {
    /// It is over.
    End,
    /// Start it again after this time.
    After {
        /// How long to wait first.
        wait: Duration,
        /// The number of this restart in a row, from 1.
        restart: u32,
    },
}

impl RestartPolicy {
    /// Decides what to do after an end: `ran` is how long the app ran, and `restarts` how often it was started again in a row
    /// before.
    pub fn after(self, end: ProgramEnd, ran: Duration, restarts: u32) -> RestartDecision {
        let most = match self {
            RestartPolicy::OnFailure { most } if !end.is_success() => most,
            RestartPolicy::OnFailure { .. } | RestartPolicy::Never => return RestartDecision::End,
        };
        let restart = if ran >= RAN_WELL { 1 } else { restarts.saturating_add(1) };
        if most.is_some_and(|most| restart > most) {
            return RestartDecision::End;
        }
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(restart - 1)).min(LONGEST);
        RestartDecision::After { wait, restart }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    /// Parses `never`, `on-failure` or `on-failure:N`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').map_or((text, None), |(word, most)| (word, Some(most))) {
            ("never" | "no", None) => Ok(RestartPolicy::Never),
            ("on-failure", None) => Ok(RestartPolicy::OnFailure { most: None }),
            ("on-failure", Some(most)) => match most.parse() {
                Ok(most) => Ok(RestartPolicy::OnFailure { most: Some(most) }),
                Err(_) => Err(format!("{most} is not a number of restarts, as in on-failure:3")),
            },
            _ => Err("it is never, on-failure or on-failure:N".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read() {
        for (text, policy) in [
            ("never", RestartPolicy::Never),
            ("on-failure", RestartPolicy::OnFailure { most: None }),
            ("on-failure:3", RestartPolicy::OnFailure { most: Some(3) }),
        ] {
            assert_eq!(text.parse(), Ok(policy));
        }
        for text in ["", "always", "never:1", "on-failure:", "on-failure:-1", "on-failure:x"] {
            assert!(text.parse::<RestartPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_app_that_failed_is_started_again_later_each_time() {
        let after = |policy: &str, end, ran, restarts| match policy.parse::<RestartPolicy>().unwrap().after(
            end,
            Duration::from_secs(ran),
            restarts,
        ) {
            RestartDecision::End => None,
            RestartDecision::After { wait, restart } => Some((wait.as_secs(), restart)),
        };
        let (ended, failed, killed) = (ProgramEnd::Code(0), ProgramEnd::Code(1), ProgramEnd::Signal(9));
        for (policy, end, ran, restarts, expected) in [
            ("never", failed, 1, 0, None),
            ("never", killed, 600, 0, None),
            ("on-failure", ended, 600, 0, None),
            ("on-failure", failed, 1, 0, Some((1, 1))),
            ("on-failure", killed, 1, 1, Some((2, 2))),
            ("on-failure", ProgramEnd::Unknown, 1, 5, Some((32, 6))),
            ("on-failure", failed, 1, 6, Some((60, 7))),
            ("on-failure", failed, 1, u32::MAX, Some((60, u32::MAX))),
            ("on-failure", failed, 60, 7, Some((1, 1))),
            ("on-failure:0", failed, 1, 0, None),
            ("on-failure:2", failed, 1, 1, Some((2, 2))),
            ("on-failure:2", failed, 59, 2, None),
            ("on-failure:2", failed, 60, 2, Some((1, 1))),
        ] {
            assert_eq!(after(policy, end, ran, restarts), expected, "{policy} {end:?} {ran} {restarts}");
        }
    }
}
