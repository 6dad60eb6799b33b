//! Whether an instance may begin an epoch at all: it is not to take over by accident, and two instances that want to run
//! at once are to come to rest.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::error::{Code, Error};
use crate::text::one_line;
use crate::vault::epochs::EpochDocument;

/// Epochs that take over from a live instance within this time of each other, and of the time that the later one had to wait, are in a
/// row.
const QUICK: SignedDuration = SignedDuration::from_mins(10);
/// The number of epochs in a row after which the next one that would take over waits.
const FREE: u32 = 3;
/// How long it waits then; the time doubles with each epoch.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// The most bytes of a name that are shown.
const SHOWN: usize = 80;

/// An instance that wants an epoch.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer<'a> {
    /// Its service, if it was named.
    pub service: Option<&'a str>,
    /// Its host's name.
    pub host: &'a str,
    /// Whether it was started on a terminal.
    pub on_terminal: bool,
    /// Whether it takes over whoever runs.
    pub take_over: bool,
    /// Whether it runs no app, and only makes another snapshot the newest: then it ends at once, and an instance that ran comes back.
    pub is_rollback: bool,
}

/// The epochs that are there, as far as they matter for a newcomer.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The newest epoch.
    pub newest: Option<EpochDocument>,
    /// The newest epoch that has not ended and whose holder may live, with its number.
    pub live: Option<(u32, EpochDocument)>,
    /// The service of the newest good snapshot, if it was named.
    pub service: Option<String>,
}

/// The decision about a newcomer.
#[derive(Debug)]
pub enum Admission {
    /// It may begin an epoch, which is the `row`th in quick succession. Epochs that took over from nobody do not count.
    Admit {
        /// That number.
        row: u32,
    },
    /// It is to wait first, since it would take over from a live instance once more.
    Wait {
        /// For how long.
        time: Duration,
        /// The number of epochs in quick succession, with this one.
        row: u32,
        /// The warning for people.
        why: String,
    },
    /// It must not begin.
    Refuse(Box<Error>),
}

/// Decides about a newcomer at the time `now` of the store.
pub fn admit(standing: &Standing, newcomer: &Newcomer, now: Timestamp) -> Admission {
    if !newcomer.take_over
        && let Some(why) = another(standing, newcomer)
    {
        let error = Error::failed("begin an epoch", why).with_code(Code::OtherWriter).hint(
            "If this one is to take over, add `--take-over`. To try the app beside it, without saving anything: `--detached`. For another \
             app, use a vault of its own.",
        );
        return Admission::Refuse(Box::new(error));
    }
    let quick = standing.newest.as_ref().filter(|newest| {
        let started = newest.started.filter(|started| is_quick(*started, newest.row, now));
        started.is_some()
    });
    let before = quick.map_or(0, |newest| newest.row);
    if newcomer.is_rollback {
        // It is no instance that wants to run beside another one: it neither waits nor has the next one wait.
        return Admission::Admit { row: before.max(1) };
    }
    // An instance that follows one that has ended, as at each orderly restart, takes over from nobody.
    let row = before.saturating_add(u32::from(standing.live.is_some())).max(1);
    let time = wait(before);
    match &standing.live {
        Some((_, live)) if !time.is_zero() => {
            let why = format!(
                "two instances want to run the app at once: {before} epochs were begun in quick succession, and {} has not ended. Waiting {} s \
                 before taking over from it. Run one instance, or give each one a vault of its own",
                holder(live),
                time.as_secs()
            );
            Admission::Wait { time, row, why }
        }
        _ => Admission::Admit { row },
    }
}

/// Whether an epoch that is begun now follows in the row of one that was the `row`th and began at `started`.
fn is_quick(started: Timestamp, row: u32, now: Timestamp) -> bool {
    let waited = SignedDuration::try_from(wait(row)).unwrap_or(QUICK);
    now.duration_since(started) < QUICK.saturating_add(waited)
}

/// How long a newcomer waits after so many epochs in a row.
fn wait(row: u32) -> Duration {
    match row.checked_sub(FREE) {
        None => Duration::ZERO,
        Some(more) => FIRST_WAIT.saturating_mul(2_u32.saturating_pow(more)).min(LONGEST_WAIT),
    }
}

/// Says what tells that the vault is another's.
fn another(standing: &Standing, newcomer: &Newcomer) -> Option<String> {
    let is_other = |service: &&str| newcomer.service != Some(*service);
    if let Some((number, live)) = &standing.live {
        let what = format!("{} has not ended its epoch {number}", holder(live));
        if let Some(service) = live.service.as_deref().filter(is_other) {
            return Some(format!("{what}, and is of the service {}", one_line(service, SHOWN)));
        }
        if newcomer.on_terminal && live.host != newcomer.host {
            return Some(what);
        }
    }
    let service = standing.service.as_deref().filter(is_other)?;
    Some(format!("the newest good snapshot is of the service {}", one_line(service, SHOWN)))
}

/// Names the holder of an epoch, for people.
pub fn holder(epoch: &EpochDocument) -> String {
    let host = if epoch.host.is_empty() { "another instance".into() } else { one_line(&epoch.host, SHOWN) };
    let revision = epoch.revision.as_deref().map(|revision| format!(" ({})", one_line(revision, SHOWN)));
    let since = epoch.started.map(|started| format!(", which began at {}", started.strftime("%Y-%m-%d %H:%M:%SZ")));
    format!("{host}{}{}", revision.unwrap_or_default(), since.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Newcomer =
        Newcomer { service: Some("shop"), host: "here", on_terminal: false, take_over: false, is_rollback: false };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn epoch(started: i64, row: u32) -> EpochDocument {
        let host = "there".into();
        EpochDocument {
            service: Some("shop".into()),
            host,
            started: Some(at(started)),
            row,
            ..EpochDocument::default()
        }
    }

    fn standing(epoch: EpochDocument) -> Standing {
        Standing { newest: Some(epoch.clone()), live: Some((7, epoch)), service: Some("shop".into()) }
    }

    #[test]
    fn another_service_or_a_terminal_does_not_take_over_by_accident() {
        let live = || standing(epoch(0, 1));
        let ended = || Standing { live: None, ..live() };
        let unnamed = || {
            let epoch = EpochDocument { service: None, ..epoch(0, 1) };
            Standing { newest: Some(epoch.clone()), live: Some((7, epoch)), service: None }
        };
        let other = Newcomer { service: Some("blog"), ..ME };
        let nameless = Newcomer { service: None, ..ME };
        let terminal = Newcomer { on_terminal: true, ..ME };
        let forced = |newcomer| Newcomer { take_over: true, ..newcomer };
        for (what, standing, newcomer, refused) in [
            ("a new vault", Standing::default(), ME, None),
            ("the next revision", live(), ME, None),
            (
                "another service while it runs",
                live(),
                other,
                Some("has not ended its epoch 7, and is of the service shop"),
            ),
            ("another service after it", ended(), other, Some("the newest good snapshot is of the service shop")),
            ("no service", live(), nameless, Some("of the service shop")),
            ("services that nobody named", unnamed(), nameless, None),
            ("a service over one that nobody named", unnamed(), ME, None),
            ("a terminal while another machine runs", live(), terminal, Some("there, which began at 2026-09-21")),
            ("a terminal on the same machine", live(), Newcomer { host: "there", ..terminal }, None),
            ("a terminal when nobody runs", ended(), terminal, None),
            ("another service that insists", live(), forced(other), None),
            ("a terminal that insists", live(), forced(terminal), None),
        ] {
            match (admit(&standing, &newcomer, at(5000)), refused) {
                (Admission::Admit { .. }, None) => {}
                (Admission::Refuse(error), Some(expected)) => {
                    assert_eq!(error.code(), Code::OtherWriter);
                    assert!(error.what().contains(expected), "{what}: {}", error.what());
                }
                (decision, _) => panic!("{what}: {decision:?}"),
            }
        }
    }

    /// A supervisor that restarts whatever exits, with two instances that exit when they are superseded.
    #[test]
    fn two_instances_that_restart_for_ever_come_to_rest_at_one_epoch_in_ten_minutes() {
        let (mut now, mut newest) = (0, None);
        let mut waits = Vec::new();
        for _ in 0..14 {
            let standing = newest.clone().map(standing).unwrap_or_default();
            let row = match admit(&standing, &ME, at(now)) {
                Admission::Admit { row } => row,
                Admission::Wait { time, row, why } => {
                    assert!(why.contains("two instances want to run the app at once"), "{why}");
                    waits.push(time.as_secs());
                    now += time.as_secs() as i64;
                    row
                }
                Admission::Refuse(error) => panic!("{}", error.what()),
            };
            newest = Some(epoch(now, row));
            // The handover.
            now += 20;
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 600, 600, 600, 600, 600]);
    }

    #[test]
    fn orderly_restarts_do_not_count_and_the_deploy_after_them_waits_for_nothing() {
        let mut newest = None;
        for restart in 0..8 {
            let standing = Standing { newest, service: Some("shop".into()), live: None };
            let Admission::Admit { row } = admit(&standing, &ME, at(restart * 30)) else { panic!("{restart} waits") };
            assert_eq!(row, 1, "{restart}");
            newest = Some(epoch(restart * 30, row));
        }
        let deploy = standing(newest.unwrap());
        assert!(matches!(admit(&deploy, &ME, at(250)), Admission::Admit { row: 2 }));
    }

    /// Each takes over from the app, which comes back after it.
    #[test]
    fn rollbacks_one_after_the_other_do_not_count_and_wait_for_nothing() {
        let mut newest = epoch(0, 1);
        for round in 1..6 {
            let rollback = Newcomer { is_rollback: true, ..ME };
            let Admission::Admit { row } = admit(&standing(newest), &rollback, at(round * 30)) else {
                panic!("rollback {round} waits")
            };
            assert_eq!(row, 1, "{round}");
            newest = epoch(round * 30, row);
            let back = Standing { newest: Some(newest), service: Some("shop".into()), live: None };
            let Admission::Admit { row } = admit(&back, &ME, at(round * 30 + 10)) else {
                panic!("the app waits after rollback {round}")
            };
            assert_eq!(row, 1, "{round}");
            newest = epoch(round * 30 + 10, row);
        }
        // Instances that are about to come to rest are not set going again by it.
        let rollback = Newcomer { is_rollback: true, ..ME };
        assert!(matches!(admit(&standing(epoch(0, 4)), &rollback, at(10)), Admission::Admit { row: 4 }));
        let other = Newcomer { service: Some("blog"), ..rollback };
        assert!(matches!(admit(&standing(epoch(0, 1)), &other, at(10)), Admission::Refuse(_)));
    }

    #[test]
    fn deploys_that_are_far_apart_and_instances_that_have_ended_are_not_waited_for() {
        let admitted = |standing: &Standing, now| match admit(standing, &ME, at(now)) {
            Admission::Admit { row } => Some(row),
            _ => None,
        };
        assert_eq!(admitted(&standing(epoch(0, 2)), 599), Some(3));
        assert_eq!(admitted(&standing(epoch(0, 3)), 599), None);
        assert_eq!(admitted(&standing(epoch(0, 3)), 615), Some(1));
        assert_eq!(admitted(&Standing { live: None, ..standing(epoch(0, 9)) }, 5), Some(9));
        // Clocks that differ, and documents that tell nothing.
        assert_eq!(admitted(&standing(epoch(50, 1)), 0), Some(2));
        assert_eq!(
            admitted(&standing(EpochDocument { service: Some("shop".into()), ..EpochDocument::default() }), 0),
            Some(1)
        );
        assert_eq!(admitted(&standing(epoch(0, u32::MAX)), 700_000), Some(1));
    }
}
