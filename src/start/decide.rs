//! Decides what is done with a data directory before an app starts in it. Pure: facts in, a decision out.
//!
//! Two rules hold whatever the facts are. Nothing that no snapshot holds is moved aside before it is saved, and no app
//! starts without its data where a vault has it, or may have it, unless somebody said so. Modification times decide
//! nothing: files of an image are younger than any snapshot.

mod text;

use std::fmt;

use serde::Serialize;

use super::known::{
    Chosen, DirectoryContent, Facts, FailedDatabase, KnownLineage, Likeness, NamedSnapshot, VaultFacts,
};
use crate::vault::root::SnapshotName;

/// What is done about a directory that would be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOther {
    /// It is saved, and the newest good snapshot restored.
    #[default]
    Restore,
    /// It becomes the newest snapshot.
    Keep,
    /// The app is not started.
    Fail,
}

/// What is done while a vault that counts does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnreachable {
    /// The app is not started.
    Fail,
    /// The app is started on what is there, unless a vault that does answer shows it to be older.
    Start,
}

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartRules {
    /// `--on-diverged`.
    pub on_diverged: OnOther,
    /// `--on-unknown`.
    pub on_unknown: OnOther,
    /// `--on-unreachable`. `None`: the app starts if its data is there.
    pub on_unreachable: Option<OnUnreachable>,
    /// `--require-mount`.
    pub require_mount: bool,
    /// `--snapshot`: what is restored in place of the newest good snapshot, if it is newer.
    pub snapshot: Option<String>,
}

/// What a data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartState {
    /// The vault has no snapshot at all.
    FirstStart,
    /// The vault has snapshots, and none that may be restored without being named.
    NoneGood,
    /// The directory is absent or empty.
    Missing,
    /// Nothing is mounted where a mount is required.
    NotMounted,
    /// It holds what an image brings along.
    Seed,
    /// It is what the newest good snapshot holds.
    Fresh,
    /// It comes from the newest good snapshot, and may have changed since.
    Ahead,
    /// It comes from an older snapshot, and nothing changed since.
    Stale,
    /// It comes from an older snapshot, and something changed since.
    Diverged,
    /// Nothing tells where its content comes from.
    Unknown,
    /// It is half restored, or a database in it is damaged.
    Broken,
    /// A vault that counts does not answer, and the others tell nothing against what is done.
    Unreachable,
    /// There is no vault.
    NoVault,
}

/// Why a directory is saved before it is replaced. The word is the snapshot's `diverged` reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaveReason {
    /// It went on from an older snapshot.
    Diverged,
    /// Nobody knows where it comes from.
    Unknown,
    /// A database in it is damaged, and other files may have changed.
    Broken,
}

impl SaveReason {
    /// Whether nothing may be replaced unless the save holds everything. What is broken often cannot be read whole, and
    /// would keep the app from ever starting again.
    pub fn must_be_whole(self) -> bool {
        self != SaveReason::Broken
    }
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum StartAction {
    /// The app starts on what is there.
    Start {
        /// Whether a backup is made at once.
        save: bool,
    },
    /// A snapshot is restored, then the app starts.
    Restore {
        /// The snapshot.
        snapshot: SnapshotName,
        /// Why what is there is saved first. `None` if a snapshot or an image holds it.
        save_first: Option<SaveReason>,
        /// Whether the snapshot was named, and is not simply the newest good one.
        named: bool,
    },
    /// What is there becomes the newest snapshot, and the app starts on it.
    Keep {
        /// The snapshot that was the newest good one, which is pinned. `None` if there was none.
        pin: Option<SnapshotName>,
    },
    /// The app is not started.
    Refuse {
        /// What can be done about it.
        advice: String,
    },
}

/// What a data directory is, and what is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What it is.
    pub state: StartState,
    /// What is done.
    #[serde(flatten)]
    pub action: StartAction,
    /// Why it is that.
    pub why: String,
    /// What was compared.
    pub compared: Vec<String>,
}

/// Decides what is done with a data directory before an app starts in it.
pub fn decide(facts: &Facts, rules: &StartRules) -> Decision {
    let (state, action, why) = Deciding { facts, rules }.decide();
    Decision { state, action, why, compared: facts.compared.clone() }
}

/// What it is, what is done, and why.
type Decided = (StartState, StartAction, String);

#[derive(Clone, Copy)]
struct Deciding<'a> {
    facts: &'a Facts,
    rules: &'a StartRules,
}

impl<'a> Deciding<'a> {
    fn decide(self) -> Decided {
        match (&self.facts.content, &self.facts.vault) {
            (DirectoryContent::NotMounted, _) => refuse(StartState::NotMounted, text::NOT_MOUNTED, text::MOUNT_IT),
            (DirectoryContent::Unfinished { why, advice }, _) => refuse(StartState::Broken, why, advice),
            (_, VaultFacts::NoVault(why)) => refuse(StartState::NoVault, why, text::MAKE_A_VAULT),
            (_, VaultFacts::Unreachable { why, good }) => self.unreachable(why, *good),
            (_, VaultFacts::NoSnapshot) => self.first_start(),
            (_, VaultFacts::NoneGood { newest: there, .. } | VaultFacts::Good(there)) => self.compared(*there),
        }
    }

    /// Whether an app that started now would start without its data.
    fn lacks_data(self) -> bool {
        self.facts.content != DirectoryContent::Filled || self.facts.is_seed() || self.damaged().is_some()
    }

    /// Returns the database that failed its check, if the directory is the app's own.
    fn damaged(self) -> Option<&'a FailedDatabase> {
        let own = self.facts.content == DirectoryContent::Filled && !self.facts.is_seed();
        self.facts.failed_database.as_ref().filter(|_| own)
    }

    /// Decides where a vault that counts does not answer. Nothing is unknown that a replica which answers tells: an app that started on
    /// what one of them shows to be older would write on beside what was saved since.
    fn unreachable(self, why: &str, good: Option<SnapshotName>) -> Decided {
        let told = self.rules.on_unreachable;
        let start = told.unwrap_or(if self.lacks_data() { OnUnreachable::Fail } else { OnUnreachable::Start });
        let half = self.facts.content == DirectoryContent::HalfRestored;
        match (start, good) {
            (OnUnreachable::Start, Some(snapshot))
                if self.facts.content == DirectoryContent::Filled && !self.facts.is_seed() =>
            {
                let (state, action, found) = self.filled(snapshot);
                match action {
                    StartAction::Start { .. } => {
                        (StartState::Unreachable, StartAction::Start { save: false }, text::and(why, &found))
                    }
                    _ => (state, action, text::and(&found, why)),
                }
            }
            // A replica that answers has what the app would do without.
            (OnUnreachable::Start, Some(snapshot)) => {
                let action = StartAction::Restore { snapshot, save_first: None, named: false };
                (StartState::Unreachable, action, text::replica(why, snapshot))
            }
            (OnUnreachable::Start, None) if !half => {
                (StartState::Unreachable, StartAction::Start { save: false }, why.to_owned())
            }
            _ => refuse(StartState::Unreachable, why, text::unreachable(told, self.lacks_data(), half)),
        }
    }

    fn first_start(self) -> Decided {
        let refuse = |why: &str| refuse(StartState::Broken, why, text::NOTHING_TO_RESTORE);
        if self.facts.content == DirectoryContent::HalfRestored {
            return refuse(text::HALF_RESTORED);
        }
        if let Some(failed) = self.damaged() {
            return refuse(&text::failed(failed));
        }
        let save = self.facts.content == DirectoryContent::Filled;
        (StartState::FirstStart, StartAction::Start { save }, text::first_start(save, self.facts.seed))
    }

    /// Decides where the vault has snapshots; `there` is the one that the directory was compared with.
    fn compared(self, there: SnapshotName) -> Decided {
        match self.facts.content {
            DirectoryContent::HalfRestored => self.restore(StartState::Broken, None, text::HALF_RESTORED.into()),
            DirectoryContent::Filled => self.filled(there),
            _ => self.restore(StartState::Missing, None, text::missing(&self.facts.content)),
        }
    }

    fn filled(self, there: SnapshotName) -> Decided {
        if self.facts.is_seed() {
            return self.restore(StartState::Seed, None, text::SEED.into());
        }
        let (state, why) = self.state(there);
        let save = match state {
            StartState::Diverged => Some(SaveReason::Diverged),
            StartState::Unknown => Some(SaveReason::Unknown),
            _ => None,
        };
        let rule = match state {
            StartState::Diverged => self.rules.on_diverged,
            StartState::Unknown => self.rules.on_unknown,
            StartState::Stale => OnOther::Restore,
            _ => OnOther::Keep,
        };
        if rule == OnOther::Fail {
            return refuse(state, why, text::told_to_fail(state));
        }
        if rule == OnOther::Keep
            && let Some(failed) = self.damaged()
        {
            let changed = state != StartState::Fresh;
            let save = save.or(changed.then_some(SaveReason::Broken));
            return self.restore(StartState::Broken, save, text::failed(failed));
        }
        match (rule, save) {
            (OnOther::Keep, None) => {
                // Without a good snapshot, the next backup may make the first one.
                (state, StartAction::Start { save: state == StartState::Ahead || self.good().is_none() }, why)
            }
            (OnOther::Keep, Some(_)) => (state, StartAction::Keep { pin: self.good() }, why),
            _ => self.restore(state, save, why),
        }
    }

    /// What a directory with data is: fresh, ahead, stale, diverged or unknown.
    fn state(self, there: SnapshotName) -> (StartState, String) {
        let facts = self.facts;
        let is_like = |likeness: &[Likeness]| likeness.contains(&facts.likeness);
        if let KnownLineage::Here { snapshot: Some(from), chosen: Chosen::Yes } = facts.lineage
            && is_like(&[Likeness::No, Likeness::SamePlace])
        {
            return (StartState::Ahead, text::chosen(from, there));
        }
        if let Some(put_back) = &facts.put_back
            && is_like(&[Likeness::RecordsSerial, Likeness::SamePlace])
        {
            let state = match facts.lineage {
                KnownLineage::Here { .. } => StartState::Diverged,
                _ => StartState::Unknown,
            };
            return (state, text::put_back(put_back, there));
        }
        match (facts.likeness, &facts.lineage) {
            // The vault that has it is away, or has lost it: what is here goes on from something newer.
            (Likeness::No, KnownLineage::Here { snapshot: Some(from), .. }) if *from > there => {
                (StartState::Ahead, text::newer(*from, there))
            }
            (Likeness::No, KnownLineage::Here { snapshot, chosen }) => {
                let state = match (snapshot, facts.changed) {
                    (Some(_), Some(false)) => StartState::Stale,
                    _ => StartState::Diverged,
                };
                (state, text::older(*snapshot, *chosen, facts.changed, there))
            }
            (Likeness::No, lineage) => (StartState::Unknown, text::unknown(lineage, facts.seed, there)),
            (likeness, _) => {
                // Equal is equal, whatever else could not be told.
                let fresh = likeness == Likeness::Equal || facts.changed == Some(false);
                (if fresh { StartState::Fresh } else { StartState::Ahead }, text::like(likeness, facts.changed, there))
            }
        }
    }

    /// The newest good snapshot in the vaults that answer.
    fn good(self) -> Option<SnapshotName> {
        match self.facts.vault {
            VaultFacts::Good(name) => Some(name),
            VaultFacts::Unreachable { good, .. } => good,
            _ => None,
        }
    }

    /// Restores the newest good snapshot, or the one that was named if it is newer.
    fn restore(self, state: StartState, save_first: Option<SaveReason>, why: String) -> Decided {
        let restore = |snapshot, named| StartAction::Restore { snapshot, save_first, named };
        match (&self.facts.named, &self.facts.vault) {
            // The vault that does not answer may have the one that is named, and newer ones.
            (_, VaultFacts::Unreachable { good: Some(good), .. }) => (state, restore(*good, false), why),
            (Some(NamedSnapshot::NotFound(not_found)), _) => refuse(state, not_found, text::NAMED_NOT_FOUND),
            (Some(NamedSnapshot::Found(named)), VaultFacts::Good(good)) if named > good => {
                (state, restore(*named, true), text::named(&why, *named))
            }
            // A name that is still given at the next start must not undo what was saved since.
            (Some(NamedSnapshot::Found(named)), VaultFacts::Good(good)) if named < good => {
                (state, restore(*good, false), text::named_older(&why, *named, *good))
            }
            (_, VaultFacts::Good(good)) => (state, restore(*good, false), why),
            (Some(NamedSnapshot::Found(named)), _) => (state, restore(*named, true), text::named(&why, *named)),
            (None, VaultFacts::NoneGood { newest, why: wrong }) => {
                let (why, advice) = text::none_good(&why, state, *newest, wrong);
                refuse(StartState::NoneGood, why, advice)
            }
            (None, _) => refuse(state, why, text::NOTHING_TO_RESTORE),
        }
    }
}

fn refuse(state: StartState, why: impl Into<String>, advice: impl Into<String>) -> Decided {
    (state, StartAction::Refuse { advice: advice.into() }, why.into())
}

impl StartState {
    /// Completes a sentence that begins with the directory and `is`.
    pub fn in_a_sentence(self) -> &'static str {
        match self {
            StartState::FirstStart => "at its first start",
            StartState::NoneGood => "without a good snapshot",
            StartState::Missing => "missing",
            StartState::NotMounted => "not mounted",
            StartState::Seed => "a seed",
            StartState::Fresh => "fresh",
            StartState::Ahead => "ahead",
            StartState::Stale => "stale",
            StartState::Diverged => "diverged",
            StartState::Unknown => "unknown",
            StartState::Broken => "broken",
            StartState::Unreachable => "out of reach of its vault",
            StartState::NoVault => "without a vault",
        }
    }
}

impl fmt::Display for StartState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StartState::FirstStart => "first start",
            StartState::NoneGood => "no good snapshot",
            StartState::Missing => "missing",
            StartState::NotMounted => "not mounted",
            StartState::Seed => "seed",
            StartState::Fresh => "fresh",
            StartState::Ahead => "ahead",
            StartState::Stale => "stale",
            StartState::Diverged => "diverged",
            StartState::Unknown => "unknown",
            StartState::Broken => "broken",
            StartState::Unreachable => "vault unreachable",
            StartState::NoVault => "no vault",
        })
    }
}

#[cfg(test)]
mod tests;
