//! Why a plan keeps a snapshot, or lets it go.

use std::fmt;

use jiff::Timestamp;

use super::bucket::Every;
use super::span::Span;
use crate::text::count_of;

/// Why a snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// There is no policy.
    NoPolicy,
    /// The policy has no rule about snapshots like this.
    NoRule,
    /// There is no good snapshot that its age could be counted from.
    NoReference,
    /// A pin or a hold keeps it; `None` is for ever.
    Pinned(Option<Timestamp>),
    /// It has diverged, and is kept like a pinned one until then.
    Diverged(Timestamp),
    /// It is from the future.
    Future,
    /// `last`.
    Last(u32),
    /// `within`.
    Within(Span),
    /// `hourly`, `daily`, `weekly`, `monthly` or `yearly`.
    Newest(Every),
    /// `critical`.
    Critical(Span),
    /// `bad`.
    Bad(Span),
    /// It is the newest good snapshot.
    NewestGood,
    /// It is the newest good and whole one.
    NewestWhole,
    /// It is the newest good one whose databases were checked.
    NewestChecked,
    /// It is the newest good one that a drill has restored.
    NewestProven,
    /// It is the newest good one that was scheduled or asked for.
    NewestRoutine,
    /// It is the newest good one that is at least a day older than the newest.
    NewestDayOlder,
    /// It is the newest partial or suspect one, and no good one is newer.
    NewestBad,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::NoPolicy => f.write_str("there is no policy"),
            Keep::NoRule => f.write_str("the policy has no rule about it"),
            Keep::NoReference => f.write_str("there is no good snapshot that its age is counted from"),
            Keep::Pinned(Some(until)) => write!(f, "pinned until {until}"),
            Keep::Pinned(None) => f.write_str("pinned"),
            Keep::Diverged(until) => write!(f, "diverged, kept until {until}"),
            Keep::Future => f.write_str("from the future"),
            Keep::Last(count) => write!(f, "last={count}"),
            Keep::Newest(every) => write!(f, "{}: newest of its {}", every.key(), every.noun()),
            Keep::Within(span) => write!(f, "within={span}"),
            Keep::Critical(span) => write!(f, "critical={span}"),
            Keep::Bad(span) => write!(f, "bad={span}"),
            Keep::NewestGood => f.write_str("newest good"),
            Keep::NewestWhole => f.write_str("newest whole"),
            Keep::NewestChecked => f.write_str("newest with checked databases"),
            Keep::NewestProven => f.write_str("newest that a drill restored"),
            Keep::NewestRoutine => f.write_str("newest scheduled or manual"),
            Keep::NewestDayOlder => f.write_str("newest that is a day older than the newest"),
            Keep::NewestBad => f.write_str("newest partial or suspect, and no good one is newer"),
        }
    }
}

/// Why a rule does not keep a snapshot that is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LetGo {
    /// It was taken at an event, and so `last` and buckets are not about it.
    AtAnEvent,
    /// It holds what the snapshot before it holds, and so `last` and buckets are not about it.
    Unchanged,
    /// So many newer ones are there.
    NotLast(u32),
    /// A newer one of the same hour, day, week, month or year is there.
    NewerIn(Every),
    /// So many newer hours, days, weeks, months or years have snapshots.
    Beyond(Every, u32),
    /// It is as old as that, or older.
    Old(Span),
}

impl fmt::Display for LetGo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LetGo::AtAnEvent => f.write_str("taken at an event"),
            LetGo::Unchanged => f.write_str("nothing had changed"),
            LetGo::NotLast(count) => write!(f, "not one of the last {count}"),
            LetGo::NewerIn(every) => write!(f, "a newer one of that {}", every.noun()),
            LetGo::Beyond(every, count) => write!(f, "{} with newer ones", count_of((*count).into(), every.noun())),
            LetGo::Old(span) => write!(f, "{span} older than the newest"),
        }
    }
}

/// What becomes of a snapshot, with all reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is kept, for each of these reasons alone.
    Keep(Vec<Keep>),
    /// It is let go: no rule keeps it, and these say why not.
    LetGo(Vec<LetGo>),
}

impl Verdict {
    /// Whether the snapshot is kept.
    pub fn is_kept(&self) -> bool {
        matches!(self, Verdict::Keep(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = match self {
            Verdict::Keep(why) => why.iter().map(Keep::to_string).collect(),
            Verdict::LetGo(why) => why.iter().map(LetGo::to_string).collect(),
        };
        f.write_str(&texts.join("; "))
    }
}
