//! The plan: for every snapshot keep or let go.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::bucket::Every;
use super::policy::Policy;
use super::reason::{Keep, Verdict};
use super::snapshot::{PINNED, Snapshot};
use super::span::Span;
use super::view::{Member, View};
use crate::text::count_of;
use crate::vault::hex::Hash;

/// How far a snapshot's own time may be from the time at which its root was created in this vault. One that is farther off was
/// copied, imported or forged.
pub const TAKEN_HERE: Span = Span::hours(1);
/// How long after its own time a snapshot may come here and still displace what came before it: replicas are fed once an hour, a
/// day or a week.
pub const IN_STEP: Span = Span::days(7);
/// What comes here within this time of something else counts as having come together with it: a copy of a whole vault takes hours,
/// and its oldest snapshots come first.
pub const TOGETHER: Span = Span::days(1);

/// The part of a policy that is about a snapshot; the first one that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A pin or a hold keeps it, or it has diverged not long ago.
    Pinned,
    /// It was taken at a critical event, at a shutdown or at a start.
    Critical,
    /// It is partial, suspect, or a database in it failed its check.
    Bad,
    /// All others.
    Rest,
}

/// A snapshot, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged<'s> {
    /// The snapshot.
    pub snapshot: &'s Snapshot,
    /// The part of the policy that is about it.
    pub class: Class,
    /// What becomes of it, and why.
    pub verdict: Verdict,
}

/// What becomes of every snapshot under a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<'s> {
    /// The hash of the policy.
    pub policy: Hash,
    /// Every snapshot, in the order in which they were given.
    pub judged: Vec<Judged<'s>>,
}

impl Plan<'_> {
    /// Returns how many snapshots are let go.
    pub fn let_go(&self) -> usize {
        self.judged.iter().filter(|judged| !judged.verdict.is_kept()).count()
    }

    /// Returns what the log says of `MAX_LOCAL_BACKUPS`: how many snapshots it keeps, and what means that number.
    pub fn max_local_backups(&self, last: u32) -> String {
        let kept = count_of((self.judged.len() - self.let_go()) as u64, "snapshot");
        format!(
            "MAX_LOCAL_BACKUPS={last} keeps {kept}: the last {last}, all good ones of the 7 days before the newest, and what is never \
             let go; `--keep last={last},within=0` means {last}"
        )
    }
}

/// Snapshots that are judged among themselves.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Set<'s> {
    service: Option<&'s str>,
    data: &'s str,
    taken_here: bool,
}

/// Decides for every snapshot whether it is kept or let go, with all reasons. The module's page says by which rules.
pub fn plan<'s>(snapshots: &'s [Snapshot], policy: &Policy, now: Timestamp) -> Plan<'s> {
    let no_policy = |snapshot| Judged {
        snapshot,
        class: class(snapshot, pinned(snapshot, None)),
        verdict: Verdict::Keep(vec![Keep::NoPolicy]),
    };
    let mut plan = Plan { policy: policy.hash(), judged: snapshots.iter().map(no_policy).collect() };
    if policy.is_empty() {
        return plan;
    }
    let mut sets: BTreeMap<Set, Vec<Member>> = BTreeMap::new();
    for (at, snapshot) in snapshots.iter().enumerate() {
        if is_ahead(snapshot, now) {
            // It has no say in what becomes of others, today or later.
            plan.judged[at].verdict = Verdict::Keep(vec![Keep::Future]);
            continue;
        }
        let buckets = Every::ALL.map(|every| every.bucket(snapshot.name.time, &policy.zone));
        let taken_here = lag(snapshot) <= TAKEN_HERE.duration();
        let set = Set { service: snapshot.service.as_deref(), data: &snapshot.data, taken_here };
        sets.entry(set).or_default().push(Member { at, snapshot, unchanged: false, buckets });
    }
    for members in sets.into_values() {
        for (at, class, verdict) in judge(members, policy, now) {
            plan.judged[at] = Judged { class, verdict, ..plan.judged[at] };
        }
    }
    plan
}

/// Returns how long after its own time a snapshot came here.
fn lag(snapshot: &Snapshot) -> jiff::SignedDuration {
    snapshot.created.duration_since(snapshot.name.time)
}

/// Whether a snapshot is from the future: it was created after `now`, or names a time that had not come when it was created.
fn is_ahead(snapshot: &Snapshot, now: Timestamp) -> bool {
    snapshot.name.time.min(snapshot.created) > now || lag(snapshot) < -TAKEN_HERE.duration()
}

/// Judges the snapshots of a set.
fn judge(mut members: Vec<Member>, policy: &Policy, now: Timestamp) -> Vec<(usize, Class, Verdict)> {
    // As they came here: what comes later is what may be forged.
    members.sort_by_key(|member| (member.snapshot.created, member.snapshot.name.time, member.snapshot.name));
    let mut before = None;
    for member in &mut members {
        if member.snapshot.good && member.snapshot.occasion.is_routine() {
            member.unchanged = before == Some(member.snapshot.content);
            before = Some(member.snapshot.content);
        }
    }
    let mut view = View::new(policy);
    let is_in_step = |member: &&Member| lag(member.snapshot) <= IN_STEP.duration();
    members.iter().filter(is_in_step).for_each(|member| view.add(member));
    let mut late = members.iter().filter(|member| !is_in_step(member)).peekable();
    let mut judged = Vec::with_capacity(members.len());
    for member in &members {
        let together = member.snapshot.created.saturating_add(TOGETHER.duration()).unwrap_or(Timestamp::MAX);
        while let Some(next) = late.next_if(|next| next.snapshot.created <= together) {
            view.add(next);
        }
        let (class, verdict) = judge_one(member, &view, policy, now);
        judged.push((member.at, class, verdict));
    }
    judged
}

fn judge_one(member: &Member, view: &View, policy: &Policy, now: Timestamp) -> (Class, Verdict) {
    let snapshot = member.snapshot;
    let (mut keep, mut let_go) = (Vec::new(), Vec::new());
    let pinned = pinned(snapshot, view.reference(member));
    keep.extend(pinned);
    if snapshot.name.time > now {
        keep.push(Keep::Future);
    }
    view.never_let_go(member, &mut keep);
    let mut rule = |span: Option<Span>, why: fn(Span) -> Keep, keep: &mut Vec<Keep>| {
        view.younger(member, span, why, keep, &mut let_go);
    };
    match class(snapshot, None) {
        Class::Critical => {
            rule(policy.critical(), Keep::Critical, &mut keep);
            // Where `critical` is not said, it is what `within` says.
            if snapshot.good && policy.critical.is_some() && policy.within().is_some() {
                rule(policy.within(), Keep::Within, &mut keep);
            }
        }
        Class::Bad => rule(policy.bad(), Keep::Bad, &mut keep),
        Class::Pinned | Class::Rest => {
            rule(policy.within(), Keep::Within, &mut keep);
            view.choose(member, &mut keep, &mut let_go);
        }
    }
    keep.sort_unstable();
    keep.dedup();
    let_go.dedup();
    let verdict = if keep.is_empty() { Verdict::LetGo(let_go) } else { Verdict::Keep(keep) };
    (class(snapshot, pinned), verdict)
}

/// Returns the part of the policy that is about a snapshot, `pinned` being the reason for which it is pinned.
fn class(snapshot: &Snapshot, pinned: Option<Keep>) -> Class {
    match pinned {
        Some(_) => Class::Pinned,
        None if snapshot.occasion.is_critical() => Class::Critical,
        None if !snapshot.good => Class::Bad,
        None => Class::Rest,
    }
}

/// Returns why a snapshot is pinned: the pin that ends last, and else its having diverged. Pins end as everything does, by the
/// time of newer snapshots, and where there are none they do not end.
fn pinned(snapshot: &Snapshot, reference: Option<Timestamp>) -> Option<Keep> {
    // No reference is before every end.
    let holds = |end: Option<Timestamp>| end.is_none() || reference < end;
    let ends = snapshot.pins.iter().map(super::snapshot::Pin::ends).filter(|end| holds(*end));
    let last = ends.max_by_key(|end| end.unwrap_or(Timestamp::MAX));
    let diverged = || {
        let end = snapshot.created.saturating_add(PINNED.duration()).unwrap_or(Timestamp::MAX);
        (snapshot.diverged && holds(Some(end))).then_some(Keep::Diverged(end))
    };
    last.map(Keep::Pinned).or_else(diverged)
}
