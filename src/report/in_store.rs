//! Reports in a vault's store: how they are named, listed, found and read.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Action, EncodedReport, MAX_REPORT, Outcome, RUNS, RunId, StoredReport};
use crate::error::{Code, Error, Result};
use crate::store::{self, Store};

/// How names have the time.
pub(super) const TIME: &str = "%Y%m%dT%H%M%SZ";
/// So far back the newest runs are looked for first: a run every half hour makes a third of a page of a listing.
const RECENT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What the name of a report's object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportName {
    /// The object.
    pub object: String,
    /// Its bytes.
    pub size: u64,
    /// The run.
    pub run: RunId,
    /// When it began.
    pub started: Timestamp,
    /// What it was for. Names of early programs do not say it; those of later ones may have a word that is not known.
    pub action: Option<Action>,
    /// How it ended, likewise.
    pub result: Option<Outcome>,
}

impl ReportName {
    /// Whether what it tells of stays so: [`Outcome::stays`].
    pub fn stays(&self) -> bool {
        self.result.zip(self.action).is_some_and(|(result, action)| result.stays(action))
    }
}

/// Of a run's reports, newest first, the one that counts: the newest by which it was done. An instance that could not see that may have
/// reported it as failed later.
pub fn that_counts(found: &[ReportName]) -> Option<&ReportName> {
    found.iter().find(|named| named.stays()).or_else(|| found.first())
}

/// The reports in a vault's store, newest first.
///
/// # Errors
/// A store that fails.
pub fn list(store: &dyn Store) -> Result<Vec<ReportName>> {
    list_from(store, RUNS)
}

/// The newest reports in a vault's store, newest first, `most` of them at most. Few are listed where there are many.
///
/// # Errors
/// A store that fails.
pub fn newest(store: &dyn Store, most: usize) -> Result<Vec<ReportName>> {
    let mut named = recent(store)?;
    if named.len() < most {
        named = list(store)?;
    }
    named.truncate(most);
    Ok(named)
}

/// The reports of the last week in a vault's store, newest first, by one listing.
///
/// # Errors
/// A store that fails.
pub fn recent(store: &dyn Store) -> Result<Vec<ReportName>> {
    let now = store.now().map_err(|why| why.while_doing("ask the store for the time"))?;
    let since = now.saturating_sub(RECENT).unwrap_or(Timestamp::MIN).strftime(TIME);
    list_from(store, &format!("{RUNS}{since}"))
}

fn list_from(store: &dyn Store, from: &str) -> Result<Vec<ReportName>> {
    let objects = store.list_from(RUNS, from);
    let objects = objects.map_err(|why| why.while_doing(format!("list the runs of {}", store.url())))?;
    let mut named: Vec<_> = objects.into_iter().filter_map(|object| parse(object.name, object.size)).collect();
    named.reverse();
    Ok(named)
}

/// Reads `<time>-<run>-<action>-<result>`, and what early programs wrote: `<time>-<run>`.
pub(super) fn parse(object: String, size: u64) -> Option<ReportName> {
    let mut parts = object.strip_prefix(RUNS)?.strip_suffix(".json")?.splitn(4, '-');
    let time = jiff::civil::DateTime::strptime(TIME, parts.next()?).ok()?;
    let started = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    let run = parts.next()?.parse().ok()?;
    let (action, result) = (parts.next().and_then(word), parts.next().and_then(word));
    Some(ReportName { object, size, run, started, action, result })
}

/// A word of a name, as documents have it.
fn word<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}

/// The report of a run, or of the only one whose name begins so. Where several attempts at it left one each, that is the newest by which
/// it was done, else the newest.
///
/// # Errors
/// Usage: none or several begin so. A store that fails.
pub fn find(store: &dyn Store, run: &str) -> Result<serde_json::Value> {
    let doing = || format!("find the run {run}");
    let unknown = |why: &str| Error::usage(doing(), why).with_code(Code::UnknownRun);
    let mut found = list(store)?;
    found.retain(|named| !run.is_empty() && named.run.to_string().starts_with(run));
    let Some(counts) = that_counts(&found) else {
        return Err(unknown("no run's id begins so").hint("`lastgood runs` lists them."));
    };
    let runs = found.iter().map(|named| named.run).collect::<HashSet<_>>().len();
    if runs > 1 {
        return Err(unknown(&format!("{runs} runs' ids begin so")).hint("Give more of the id."));
    }
    // Of attempts that began within one second the last one to end counts.
    let together = found.iter().filter(|named| (named.started, named.stays()) == (counts.started, counts.stays()));
    let reports = together.map(|named| read(store, &named.object)).collect::<Result<Vec<_>>>()?;
    let finished = |report: &serde_json::Value| StoredReport::of(report).finished;
    reports.into_iter().max_by_key(finished).ok_or_else(|| Error::failed(doing(), "its report is gone"))
}

/// A report by its object's name, which says whose it is, whatever stands in it: by its name a run is listed and found, and a
/// copy under another name must not pass for it.
///
/// # Errors
/// A store that fails; bytes that are no report.
pub fn read(store: &dyn Store, object: &str) -> Result<serde_json::Value> {
    let bytes = bytes(store, object)?;
    let mut report = serde_json::from_slice(&bytes).map_err(|why| Error::damage(format!("read {object}"), why))?;
    name(&mut report, object);
    Ok(report)
}

/// The same as it is stored, where it says of which run it is: all of it may be many times as large in memory.
///
/// # Errors
/// As [`read`].
pub fn told(store: &dyn Store, object: &str) -> Result<EncodedReport> {
    let damaged = |why| Error::damage(format!("read {object}"), why);
    let told = EncodedReport::read(bytes(store, object)?).map_err(damaged)?;
    match parse(object.to_owned(), 0) {
        Some(named) if told.run() != Some(named.run) => {
            let mut report = told.value();
            name(&mut report, object);
            EncodedReport::read(report.to_string().into()).map_err(damaged)
        }
        _ => Ok(told),
    }
}

/// The bytes of a report.
fn bytes(store: &dyn Store, object: &str) -> Result<Vec<u8>> {
    let doing = || format!("read {object}");
    // A claim may name any object, and whoever sent the event is answered with this one.
    if object.strip_prefix(RUNS).is_none_or(|name| name.is_empty() || name.starts_with('.') || name.contains('/')) {
        return Err(Error::damage(doing(), "no report has such a name"));
    }
    match store.get(object, MAX_REPORT) {
        Err(store::StoreError::NotFound { .. }) => Err(Error::failed(doing(), "it is not there")),
        other => other.map_err(|why| why.while_doing(doing())),
    }
}

/// Says in a report of which run it is, by its object's name.
fn name(report: &mut serde_json::Value, object: &str) {
    if let (Some(named), Some(fields)) = (parse(object.to_owned(), 0), report.as_object_mut()) {
        let run = serde_json::Value::from(named.run.to_string());
        if fields.get("run") != Some(&run) {
            tracing::warn!("{object} says that it is of another run than its name; the name counts");
            fields.insert("run".to_owned(), run);
        }
    }
}
