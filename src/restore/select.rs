//! Finds the snapshot that is meant.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::error::{Code, Error, Kind, Result};
use crate::vault::Vault;
use crate::vault::root::{Root, SnapshotName, SnapshotState};

/// What stands for the newest good snapshot.
pub const LATEST: &str = "latest";
/// The hint on how a snapshot is named.
const FORMS: &str =
    "Give `latest`, the beginning of an id, a time such as 2026-11-21T10:00:00Z, or a day such as 2026-11-21.";
/// The most snapshots that an error names.
const CANDIDATES: usize = 5;

/// A snapshot that is newer than the chosen one and was not chosen: it is not good, or it is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// Why it was not chosen.
    pub why: String,
    /// Whether the reason is damage: without it, the snapshot might have been chosen.
    #[serde(skip)]
    pub damaged: bool,
}

/// Returns the newest snapshot that was passed over because it is damaged.
pub fn newest_damaged(passed_over: &[PassedOver]) -> Option<SnapshotName> {
    passed_over.iter().filter(|over| over.damaged).map(|over| over.snapshot).max()
}

/// A chosen snapshot, and the snapshots that were passed over for it.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Its name.
    pub name: SnapshotName,
    /// Its root.
    pub root: Root,
    /// Newer snapshots that are not good, newest first; empty if the snapshot was named by its id.
    pub passed_over: Vec<PassedOver>,
    /// Whether it was named by its id, so that no other one will do.
    pub named: bool,
}

/// What only a newer lastgood can read, among what might have been meant; the greater one is the newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NewerFormat {
    /// A snapshot. Whether it is good is not known.
    Snapshot(SnapshotName),
    /// A whole vault, whatever its snapshots are.
    Vault,
}

impl NewerFormat {
    /// Whether it may be a newer state than a snapshot is.
    pub fn is_above(self, snapshot: SnapshotName) -> bool {
        self > NewerFormat::Snapshot(snapshot)
    }
}

/// Why no snapshot was chosen.
#[derive(Debug)]
pub struct Unchosen {
    /// The error.
    pub why: Error,
    /// Snapshots that might have been meant, newest first; if the root of one could not be read, all older ones are
    /// among them.
    pub passed_over: Vec<PassedOver>,
    /// The snapshot of a newer format at which the search ended, if that is the reason.
    pub newer_format: Option<Box<NewerFormat>>,
}

impl From<Error> for Unchosen {
    fn from(why: Error) -> Self {
        Unchosen { why, passed_over: Vec::new(), newer_format: None }
    }
}

/// Finds the snapshot that `spec` means: `latest`, an id or a whole name or the beginning of one, or a time.
///
/// # Errors
/// As [`choose`].
pub fn find(vault: &Vault, spec: &str) -> Result<(SnapshotName, Root)> {
    let choice = choose(vault, spec)?;
    for over in choice.passed_over.iter().filter(|over| over.damaged) {
        tracing::warn!("the snapshot {} is passed over: {}", over.snapshot, over.why);
    }
    Ok((choice.name, choice.root))
}

/// As [`find`], and returns which newer snapshots were passed over.
///
/// `latest` is the newest good snapshot; a time (RFC 3339, or a date and time in UTC) means the newest good one that is not after
/// it, and a date the newest good one of that whole day in UTC. An id is taken whatever its snapshot's state.
///
/// A snapshot that a newer lastgood wrote may be good, and is not passed over: an older one in its place would be taken
/// for the last state there was.
///
/// # Errors
/// Usage: nothing, or more than one snapshot, fits. NothingYet: there is no snapshot. Failed: there is no good one, or the
/// newest that may be good is of a newer format. Damage: the named root is damaged.
pub fn choose(vault: &Vault, spec: &str) -> Result<Choice> {
    search(vault, spec).map_err(|unchosen| unchosen.why)
}

/// As [`choose`], but if none is chosen, the error has what is known of snapshots that might have been meant.
///
/// # Errors
/// As [`choose`].
pub fn search(vault: &Vault, spec: &str) -> Result<Choice, Unchosen> {
    if spec.trim().is_empty() {
        let error = Error::usage("find the snapshot", "the name that was given for it is empty");
        return Err(error.with_code(Code::UnknownSnapshot).hint(FORMS).into());
    }
    let names = vault.snapshots()?;
    if spec == LATEST {
        return search_good(vault, &names, "the newest good snapshot");
    }
    let by_id: Vec<_> = names.iter().filter(|name| is_named(name, spec)).collect();
    match by_id[..] {
        [name] => {
            let root = vault.root(*name)?;
            return Ok(Choice { name: *name, root, passed_over: Vec::new(), named: true });
        }
        [] => {}
        _ => {
            let why = format!("the ids of {} snapshots begin with it: {}", by_id.len(), list(by_id.iter().copied()));
            return Err(Error::usage(format!("find the snapshot {spec}"), why)
                .with_code(Code::UnknownSnapshot)
                .hint("Give more of the id.")
                .into());
        }
    }
    let Some(when) = When::parse(spec) else {
        let known = match names.is_empty() {
            true => "the vault has no snapshots".to_owned(),
            false => {
                let are = if names.len() == 1 { "only snapshot is" } else { "newest snapshots are" };
                format!("no id begins with it, and it is not a time; the {are} {}", list(names.iter().rev()))
            }
        };
        return Err(Error::usage(format!("find the snapshot {spec}"), known)
            .with_code(Code::UnknownSnapshot)
            .hint(FORMS)
            .into());
    };
    if names.is_empty() {
        return search_good(vault, &names, "a good snapshot");
    }
    let fit: Vec<_> = names.iter().filter(|name| when.takes(name.time)).copied().collect();
    if fit.is_empty() {
        return Err(when.none_of(&names).into());
    }
    search_good(vault, &fit, &format!("a good snapshot {when}"))
}

/// When the snapshot was taken that is meant.
enum When {
    /// Up to this time.
    NotAfter(Timestamp),
    /// On this day in UTC, which begins and ends at these times; the end is not a part of it.
    On(Date, [Timestamp; 2]),
}

impl When {
    /// Parses RFC 3339, or a date and time, or a date, in UTC.
    fn parse(spec: &str) -> Option<When> {
        let utc = |time: DateTime| time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
        if let Some(day) = spec.parse::<Date>().ok().filter(|_| spec.len() <= 10) {
            let begins = |day: Date| utc(day.to_datetime(Time::midnight()));
            return Some(When::On(day, [begins(day)?, begins(day.tomorrow().ok()?)?]));
        }
        let time = spec.parse::<Timestamp>().ok();
        time.or_else(|| spec.parse::<DateTime>().ok().and_then(utc)).map(When::NotAfter)
    }

    fn takes(&self, time: Timestamp) -> bool {
        match self {
            When::NotAfter(last) => time <= *last,
            When::On(_, [begin, end]) => (*begin..*end).contains(&time),
        }
    }

    /// The error that none of the snapshots was taken then.
    fn none_of(&self, names: &[SnapshotName]) -> Error {
        let before = match self {
            When::On(_, [begin, _]) => names.iter().filter(|name| name.time < *begin).max_by_key(|name| name.time),
            When::NotAfter(_) => None,
        };
        let (why, hint) = match (before, names.iter().min_by_key(|name| name.time)) {
            (Some(before), _) => {
                let hint =
                    "A time means the newest good snapshot that was there then, and an id the snapshot of this id.";
                (format!("there is none; the newest before it is {before}"), hint)
            }
            (None, Some(first)) => {
                (format!("the first is {first}"), "`lastgood list` shows the snapshots and their times.")
            }
            (None, None) => ("there is none".to_owned(), "Take one with `lastgood backup`."),
        };
        Error::usage(format!("find a snapshot {self}"), why).with_code(Code::UnknownSnapshot).hint(hint)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::NotAfter(time) => write!(f, "not after {time}"),
            When::On(day, _) => write!(f, "of {day} (UTC)"),
        }
    }
}

fn is_named(name: &SnapshotName, spec: &str) -> bool {
    let is_id = (1..=16).contains(&spec.len()) && spec.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    // A whole name begins with the ten digits of its number; no time does.
    (is_id && name.id.to_string().starts_with(spec)) || (spec.len() >= 10 && name.to_string().starts_with(spec))
}

fn list<'a>(names: impl ExactSizeIterator<Item = &'a SnapshotName>) -> String {
    let more = names.len().saturating_sub(CANDIDATES);
    let shown: Vec<_> = names.take(CANDIDATES).map(SnapshotName::to_string).collect();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &rest
}

/// Says what is wrong with a snapshot in which databases failed their check.
pub fn failed_check(root: &Root) -> &'static str {
    match root.failed_checks {
        1 => "a database in it failed its check when it was taken",
        _ => "databases in it failed their check when it was taken",
    }
}

/// Returns the last good snapshot of `names`, which are in order.
///
/// # Errors
/// NothingYet: there is no snapshot. Failed: there is no good one, or the newest that may be good is of a newer format, or
/// the store fails.
pub fn newest_good(vault: &Vault, names: &[SnapshotName], wanted: &str) -> Result<Choice> {
    search_good(vault, names, wanted).map_err(|unchosen| unchosen.why)
}

/// As [`newest_good`], and says what is known of snapshots that might have been meant if none is chosen.
///
/// # Errors
/// As [`newest_good`].
pub fn search_good(vault: &Vault, names: &[SnapshotName], wanted: &str) -> Result<Choice, Unchosen> {
    let mut passed_over: Vec<PassedOver> = Vec::new();
    let good = vault.newest_good(names, |at, not_good| {
        let name = names[at];
        let mut damaged = false;
        let why = match not_good {
            Ok(root) if root.covers.is_some() => "it is a checkpoint".to_owned(),
            Ok(root) if root.state == SnapshotState::Complete => failed_check(&root).to_owned(),
            Ok(root) => match root.suspect {
                Some(why) => format!("it is {}: {why}", root.state),
                None => format!("it is {}", root.state),
            },
            Err(damage) if damage.kind() == Kind::Damage => {
                damaged = true;
                format!("its root is damaged: {}", damage.what())
            }
            Err(why) if why.is_newer_format() => {
                let newer_format = Some(Box::new(NewerFormat::Snapshot(name)));
                let why = why.within(format!("find {wanted} in {}", vault.store.url()));
                let passed_over = std::mem::take(&mut passed_over);
                return Err(Unchosen { why: with_way_out(why), passed_over, newer_format });
            }
            Err(why) => {
                let why_unread = format!("its root could not be read: {}", why.what());
                let left = names[..=at].iter().rev();
                passed_over.extend(left.map(|name| PassedOver {
                    snapshot: *name,
                    why: why_unread.clone(),
                    damaged: true,
                }));
                return Err(Unchosen { why, passed_over: std::mem::take(&mut passed_over), newer_format: None });
            }
        };
        passed_over.push(PassedOver { snapshot: name, why, damaged });
        Ok(())
    })?;
    if let Some((name, root)) = good {
        return Ok(Choice { name, root, passed_over, named: false });
    }
    let doing = format!("find {wanted} in {}", vault.store.url());
    let why = match passed_over.iter().find(|over| !over.damaged).or(passed_over.first()) {
        None => Error::nothing_yet(doing, "the vault has no snapshots").hint("Take one with `lastgood backup`."),
        // Damage of the newest ones comes before what is wrong with older ones, which may be far from what was there last.
        Some(_) if passed_over[0].damaged => {
            let newest = &passed_over[0];
            let damaged = passed_over.iter().filter(|over| over.damaged).count();
            let (snapshot, why) = (newest.snapshot, &newest.why);
            let why = match names.len() {
                1 => format!("its only snapshot, {snapshot}, is damaged: {why}"),
                count => {
                    format!(
                        "none of its {count} snapshots is good, and {damaged} of them damaged; the newest is {snapshot}: {why}"
                    )
                }
            };
            Error::damage(doing, why).hint("`lastgood verify` says what is damaged, and what can still be read.")
        }
        Some(newest) => Error::failed(
            doing,
            match names.len() {
                1 => "its only snapshot is not good".to_owned(),
                count => format!("none of its {count} snapshots is good"),
            },
        )
        .with_code(Code::NoGoodSnapshot)
        .hint(format!(
            "The newest is {}: {}. To use it all the same, name it by its id, {}, in place of `latest`.",
            newest.snapshot, newest.why, newest.snapshot.id
        )),
    };
    Err(Unchosen { why, passed_over, newer_format: None })
}

/// Adds to the error that something is of a newer format how to choose an older snapshot on purpose.
pub fn with_way_out(why: Error) -> Error {
    let advice = why.advice().unwrap_or_default();
    let hint = format!(
        "{advice} Nothing older is taken in its place, as it may be good. To take an older snapshot on purpose, name it by its \
         id, for a restore with `--snapshot ID`: `lastgood list` shows the ids."
    );
    why.hint(hint)
}
