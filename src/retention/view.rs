//! What a snapshot is judged among: the snapshots that may displace it, in an order in which they are only added.

use std::collections::BTreeMap;
use std::ops::Bound;

use jiff::{SignedDuration, Timestamp};

use super::bucket::{Bucket, Every};
use super::policy::Policy;
use super::reason::{Keep, LetGo};
use super::snapshot::Snapshot;
use super::span::Span;
use crate::vault::root::SnapshotName;

/// How much older than the newest a good snapshot is that is kept beside it in any case: what destroyed the data may have been
/// backed up since.
pub const DAY_OLDER: Span = Span::hours(24);

/// A snapshot of a set, and what the set says of it.
pub struct Member<'s> {
    /// Its place among all snapshots.
    pub at: usize,
    /// The snapshot.
    pub snapshot: &'s Snapshot,
    /// Whether it holds what the routine snapshot that came before it holds.
    pub unchanged: bool,
    /// The buckets that it falls into.
    pub buckets: [Bucket; 5],
}

/// The order in which one snapshot is newer than another, by time.
type Order = (Timestamp, SnapshotName);

impl Member<'_> {
    fn order(&self) -> Order {
        (self.snapshot.name.time, self.snapshot.name)
    }

    /// Whether `last` and buckets are about it.
    pub fn counts(&self) -> bool {
        self.snapshot.good && self.snapshot.occasion.is_routine() && !self.unchanged
    }
}

/// The newest one, by time and by name: `latest` goes by names, and whoever forges a name must not take the place of what is newest
/// by time.
#[derive(Default, Clone, Copy)]
struct Newest {
    by_time: Option<Order>,
    by_name: Option<SnapshotName>,
}

impl Newest {
    fn add(&mut self, order: Order) {
        self.by_time = self.by_time.max(Some(order));
        self.by_name = self.by_name.max(Some(order.1));
    }

    fn is(&self, order: Order) -> bool {
        self.by_time == Some(order) || self.by_name == Some(order.1)
    }

    /// Whether it is newer than `order` in either way of counting.
    fn is_after(&self, order: Order) -> bool {
        self.by_time > Some(order) && self.by_name > Some(order.1)
    }
}

/// What is never let go, for a part of the snapshots: for all, or for those that are routine.
#[derive(Default)]
struct Picks {
    good: Newest,
    whole: Newest,
    checked: Newest,
    proven: Newest,
    bad: Newest,
    /// All good ones in order, to find those that are a day older than the newest.
    good_by_time: Vec<Order>,
    /// The time that durations count back from.
    reference: Option<Timestamp>,
}

/// Returns the time that a snapshot tells. The earlier of the two is never ahead of the clock, and so time alone does not move it.
fn told_by(snapshot: &Snapshot) -> Timestamp {
    snapshot.name.time.min(snapshot.created)
}

fn insert(into: &mut Vec<Order>, order: Order) {
    let at = into.partition_point(|other| *other < order);
    into.insert(at, order);
}

impl Picks {
    fn add(&mut self, snapshot: &Snapshot, order: Order) {
        if !snapshot.good {
            if snapshot.partial_or_suspect {
                self.bad.add(order);
            }
            return;
        }
        self.good.add(order);
        insert(&mut self.good_by_time, order);
        self.reference = self.reference.max(Some(told_by(snapshot)));
        for (is, newest) in [
            (snapshot.whole, &mut self.whole),
            (snapshot.checked, &mut self.checked),
            (snapshot.proven, &mut self.proven),
        ] {
            if is {
                newest.add(order);
            }
        }
    }

    fn reasons(&self, snapshot: &Snapshot, order: Order, keep: &mut Vec<Keep>) {
        if !snapshot.good {
            if snapshot.partial_or_suspect && self.bad.is(order) && !self.good.is_after(order) {
                keep.push(Keep::NewestBad);
            }
            return;
        }
        let picks = [
            (true, self.good, Keep::NewestGood),
            (snapshot.whole, self.whole, Keep::NewestWhole),
            (snapshot.checked, self.checked, Keep::NewestChecked),
            (snapshot.proven, self.proven, Keep::NewestProven),
        ];
        keep.extend(picks.iter().filter(|(is, newest, _)| *is && newest.is(order)).map(|(_, _, why)| *why));
        let newest = self.good_by_time.last().map_or(order.0, |(time, _)| *time);
        let limit = newest.saturating_sub(DAY_OLDER.duration()).unwrap_or(Timestamp::MIN);
        let older = self.good_by_time.partition_point(|(time, _)| *time <= limit);
        if older.checked_sub(1).and_then(|at| self.good_by_time.get(at)) == Some(&order) {
            keep.push(Keep::NewestDayOlder);
        }
    }
}

/// What a snapshot is judged among.
pub struct View<'p> {
    policy: &'p Policy,
    all: Picks,
    routine: Picks,
    /// The snapshots that `last` and buckets are about, in order.
    counted: Vec<Order>,
    /// The time of the newest of them.
    history: Option<Timestamp>,
    /// The newest of those in each bucket.
    buckets: [BTreeMap<Bucket, Order>; 5],
}

impl<'p> View<'p> {
    /// Creates one of no snapshots.
    pub fn new(policy: &'p Policy) -> Self {
        let (all, routine) = Default::default();
        View { policy, all, routine, counted: Vec::new(), history: None, buckets: Default::default() }
    }

    /// Adds a snapshot, that may displace those that are judged from now on.
    pub fn add(&mut self, member: &Member) {
        let order = member.order();
        self.all.add(member.snapshot, order);
        if member.snapshot.occasion.is_routine() {
            self.routine.add(member.snapshot, order);
        }
        if member.counts() {
            insert(&mut self.counted, order);
            self.history = self.history.max(Some(told_by(member.snapshot)));
            for (buckets, bucket) in self.buckets.iter_mut().zip(member.buckets) {
                let newest = buckets.entry(bucket).or_insert(order);
                *newest = order.max(*newest);
            }
        }
    }

    /// Returns the time that durations count back from for a snapshot. What comes in floods makes only its own kind older: a crash loop
    /// what was taken at events, and a schedule in which nothing changes what it took since the last change. The history is older than
    /// the newest good snapshot of the history.
    pub fn reference(&self, member: &Member) -> Option<Timestamp> {
        match member.snapshot.occasion.is_routine() {
            false => self.all.reference,
            true if member.unchanged && self.counted.last() < Some(&member.order()) => self.routine.reference,
            true => self.history,
        }
    }

    /// Adds the reasons for which no policy lets a snapshot go.
    pub fn never_let_go(&self, member: &Member, keep: &mut Vec<Keep>) {
        let (snapshot, order) = (member.snapshot, member.order());
        self.all.reasons(snapshot, order, keep);
        if snapshot.occasion.is_routine() {
            self.routine.reasons(snapshot, order, keep);
            if snapshot.good && self.routine.good.is(order) {
                keep.push(Keep::NewestRoutine);
            }
        }
    }

    /// Returns the choice of `last` and of the buckets.
    pub fn choose(&self, member: &Member, keep: &mut Vec<Keep>, let_go: &mut Vec<LetGo>) {
        if !member.counts() {
            let at_an_event = !member.snapshot.occasion.is_routine();
            let_go.push(if at_an_event { LetGo::AtAnEvent } else { LetGo::Unchanged });
            return;
        }
        let order = member.order();
        if let Some(last) = self.policy.last {
            let newer = self.counted.len() - self.counted.partition_point(|other| *other <= order);
            match newer < last as usize {
                true => keep.push(Keep::Last(last)),
                false => let_go.push(LetGo::NotLast(last)),
            }
        }
        let buckets = Every::ALL.into_iter().zip(self.policy.buckets).zip(&self.buckets).zip(member.buckets);
        for (((every, count), taken), bucket) in buckets {
            let Some(count) = count else { continue };
            let newer = taken.range((Bound::Excluded(bucket), Bound::Unbounded)).take(count as usize).count();
            if newer >= count as usize {
                let_go.push(LetGo::Beyond(every, count));
            } else if taken.get(&bucket).is_some_and(|newest| *newest > order) {
                let_go.push(LetGo::NewerIn(every));
            } else {
                keep.push(Keep::Newest(every));
            }
        }
    }

    /// Applies a rule about an age, counted from the reference. `None` has no rule. An age of exactly that length is too old.
    pub fn younger(
        &self,
        member: &Member,
        rule: Option<Span>,
        why: fn(Span) -> Keep,
        keep: &mut Vec<Keep>,
        let_go: &mut Vec<LetGo>,
    ) {
        match (rule, self.reference(member)) {
            (None, _) => keep.push(Keep::NoRule),
            (_, None) => keep.push(Keep::NoReference),
            (Some(span), Some(reference)) => match age(member.snapshot, reference) < span.duration() {
                true => keep.push(why(span)),
                false => let_go.push(LetGo::Old(span)),
            },
        }
    }
}

fn age(snapshot: &Snapshot, reference: Timestamp) -> SignedDuration {
    reference.duration_since(snapshot.name.time)
}
