//! Which snapshots a policy keeps and which it lets go. [`plan::plan`] says so for every snapshot, with all reasons. It is pure, and
//! deletes nothing.
//!
//! # The policy
//!
//! One text has all rules, in any order: `last=10,within=48h,daily=30,monthly=12`. Each rule only ever adds to what is kept.
//!
//! | rule | keeps |
//! |---|---|
//! | `last=N` | the newest N good snapshots |
//! | `hourly=N`, `daily=N`, `weekly=N`, `monthly=N`, `yearly=N` | the newest good one of each of the newest N hours, days … that have any |
//! | `within=DURATION` | every good snapshot that is younger; 7 days if there is a rule of the two kinds above and `within` is not said |
//! | `critical=DURATION` | what was taken at a critical event, at a shutdown or at a start, and is younger; what `within` says, if not said |
//! | `bad=DURATION` | what is partial, suspect or failed the check of a database, and is younger; what `within` says, if not said |
//! | `zone=NAME` | nothing: it is the time zone of the hours, days, weeks, months and years; UTC if not said |
//!
//! Durations are written `36h`, `7d`, `2w` or `1d12h`, and 0 is one. Without a policy everything is kept, and so is what a policy has
//! no rule about: `critical=30d` alone is about nothing else. The first class that fits a snapshot is the one that counts: pinned, critical,
//! bad, and all others.
//!
//! # What a snapshot is judged among
//!
//! Snapshots of one service and data path are judged by themselves. Among them, what was taken here is apart from what was copied,
//! imported or forged: roots that were created in this vault more than an hour after their own time. The same rules hold there, by the
//! snapshots' own times.
//!
//! Of those, what comes later displaces nothing: a snapshot is judged among what came here before it or within a day after it
//! ([`plan::TOGETHER`]: a copy of a vault takes hours), and among what came here within 7 days of its own time ([`plan::IN_STEP`]), so
//! that a replica which is fed once a day or week is thinned out as the original is. It follows that of one day, say, both the snapshot that
//! came first and a newer one that came later may be kept.
//!
//! # What lets nothing go
//!
//! **Time alone.** Durations count back from the newest good snapshot among those it is judged among, and not from the clock. A
//! scheduler that stopped, and a clock that is a year ahead, change nothing.
//!
//! **Floods.** `last` and the buckets are about scheduled and manual snapshots in which something had changed. What a crash loop takes is
//! not counted there, and neither is a snapshot with the same hunks and packs as the scheduled or manual good one that came here before
//! it. Nor do they make the history older: its durations count back from the newest good snapshot of the history. What was taken at an
//! event is as old as the newest good one of all says, and what was taken since the last change as the newest good scheduled or
//! manual one says: an app that idles for a year does not leave a year of equal snapshots, but the first of them. The only thing that
//! moves with a crash loop is which good snapshot is the newest that is a day older than the newest of all.
//!
//! No rule can tell forged scheduled snapshots from true ones if they are good, hold something new and are made as time goes on. They
//! displace what as many true ones would: nothing that is younger than `within`, and nothing of the hours, days and months before them but
//! as time goes on.
//!
//! **What is from the future**: what has a time after now, or had one when it came here. It is kept, and has no say in what becomes of
//! others.
//!
//! **Doubts** do not enter a plan. What is good, [`Root::good`](crate::vault::root::Root::good) alone says: for `latest`, for
//! health, and here.
//!
//! # What no policy lets go
//!
//! - the newest good snapshot, by its time and by its name, by which `latest` goes;
//! - the newest good one in which nothing is stale, missing or torn;
//! - the newest good one that has databases, all of which passed their check;
//! - the newest good one that a drill has restored;
//! - the newest good one that was scheduled or manual;
//! - the newest good one that is at least 24 hours older than the newest good one;
//! - the newest partial or suspect one, until a good one is newer;
//! - what is pinned, until the time of newer snapshots is past the end of the pin: under `pins/` 90 days after its creation here at most;
//! - what has diverged, in any case until 90 days after it came here;
//! - what is from the future; and everything, where nothing is good.
//!
//! Each of the newest ones is kept twice where they differ: the newest of all, and the newest of those that are scheduled or manual.
//!
//! A plan that lets go most of what there is stops: see [`stop`].

pub mod bucket;
pub mod gather;
pub mod plan;
pub mod policy;
pub mod reason;
pub mod references;
pub mod snapshot;
pub mod span;
pub mod stop;
pub mod view;

#[cfg(test)]
mod tests;
