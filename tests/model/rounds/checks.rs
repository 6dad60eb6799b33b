//! The checks after a backup: of the snapshot that was taken, of the vaults, of `latest`, of older snapshots.

use std::path::Path;
use std::process::Command;

use lastgood::vault::root::{SnapshotName, SnapshotState};
use serde_json::Value;

use super::{Class, OLDER, Rounds, Wrong};
use crate::model::history::Capture;
use crate::model::oracle::Oracle;
use crate::model::suspect::{Snapshot, Verdict, verdict};
use crate::model::tree::{Tree, remove, walk};
use crate::support::compare::differences;

impl Rounds {
    /// Looks at a snapshot.
    pub(super) fn look(&mut self, report: &Value, capture: &Capture, moved: bool) -> Vec<Wrong> {
        let name: SnapshotName = report["snapshot"].as_str().unwrap().parse().unwrap();
        let good = report["good"] == true;
        self.app.counters.count(if good { "good" } else { report["state"].as_str().unwrap() });
        for problem in report["errors"].as_array().into_iter().flatten() {
            let why: String = problem["why"].as_str().unwrap().chars().take(60).collect();
            self.app.counters.count(&format!("problem: {why}"));
        }
        for database in report["databases"].as_array().into_iter().flatten() {
            self.app.counters.count(&format!("databases {}", database["taken"].as_str().unwrap()));
        }
        let mut wrong = self.vaults.held(name, report, &mut self.app.counters);
        let out = self.path("out");
        // A good snapshot comes back unasked.
        let asked = if good { "latest".to_owned() } else { name.to_string() };
        match self.restore(&asked, &out) {
            Ok(came) if came == name => {}
            Ok(came) => {
                wrong.push(Wrong::new(Class::Latest, format!("{name} is good, and latest is {came}")));
                return wrong;
            }
            Err(why) => {
                self.spoilt |= good;
                let class = if good { Class::NotRestorable } else { Class::PartialNotRestorable };
                wrong.push(Wrong::new(class, format!("{name}: {why}")));
                return wrong;
            }
        }
        for list in ["stale", "torn"] {
            let count = report[list].as_array().unwrap().len() as u64;
            self.app.counters.add(list, count);
        }
        let root = self.vaults.root(name);
        let place = self.app.place(&capture.roots, root.place.inode);
        let snapshot = Snapshot::new(&root, report, place, Tree::read(&out));
        wrong.extend(self.judge(&snapshot, report));
        let earlier = self.vaults.before(report);
        let before = earlier.iter().rev().find_map(|(name, spoilt)| match self.taken.get(name) {
            Some(was) if was.good && was.data == self.app.data => Some((!spoilt).then_some(&was.tree.files)),
            Some(_) => None,
            None => Some(None),
        });
        let is_suspect = snapshot.state == SnapshotState::Suspect;
        let oracle = Oracle {
            history: &self.app.history,
            capture,
            report,
            restored: &out,
            before: before.flatten(),
            unread: root.unread.unwrap_or_default(),
            suspect: is_suspect,
        };
        if self.round.is_multiple_of(10) {
            wrong.extend(self.by_hand(name, &out));
            self.app.counters.count("by hand");
        }
        wrong.extend(oracle.check());
        let taken = oracle.taken_unread();
        self.app.counters.add("taken over unread", taken);
        let (kept, linked) = (self.kept(&out), snapshot.tree.linked);
        self.app.counters.add(if moved { "entries adopted" } else { "entries kept" }, kept);
        self.app.counters.add("entries linked", linked);
        self.spoilt &= !good;
        self.taken.insert(name, snapshot);
        if wrong.is_empty() {
            remove(&out);
        }
        if is_suspect {
            self.app.counters.count("latest passes a suspect one over");
            wrong.extend(self.latest());
        }
        wrong
    }

    /// Whether a snapshot is suspect exactly if it has to be.
    fn judge(&mut self, snapshot: &Snapshot, report: &Value) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if snapshot.place.is_none() {
            wrong.push(Wrong::new(Class::Suspect, "it is said to be of a directory that was not there"));
        }
        if report["entries"] != snapshot.tree.entries {
            wrong.push(Wrong::new(Class::Suspect, format!("it has {} entries", snapshot.tree.entries)));
        }
        let is_suspect = snapshot.state == SnapshotState::Suspect;
        if self.meant {
            if is_suspect {
                wrong.push(Wrong::new(Class::Suspect, "it was meant, and is suspect"));
            }
            return wrong;
        }
        // Entries that cannot be read are not gone, and the report does not say how much they were.
        let unread = ["errors", "stale"].iter().any(|list| report[list].as_array().is_some_and(|all| !all.is_empty()));
        let before = self.vaults.before(report);
        let earlier: Option<Vec<_>> = before.iter().rev().map(|(name, _)| self.taken.get(name)).collect();
        let Some(earlier) = earlier.filter(|_| !unread) else {
            self.app.counters.count("not judged");
            return wrong;
        };
        let verdict = verdict(snapshot, earlier.iter().copied());
        let accepted = report["notices"].to_string().contains("have looked suspect since");
        if is_suspect != (verdict == Verdict::Suspect) || accepted != (verdict == Verdict::Accepted) {
            let said = format!("{verdict:?} is due, and it is {}: {}", snapshot.state, report["suspect"]);
            wrong.push(Wrong::new(Class::Suspect, said));
        }
        let follows = earlier.first().is_some_and(|last| last.state == SnapshotState::Suspect);
        match verdict {
            Verdict::Suspect => {}
            Verdict::Accepted => self.app.counters.count("accepted"),
            Verdict::Sound if follows => self.app.counters.count("good after suspect"),
            Verdict::Sound => {}
        }
        wrong
    }

    /// Checks that `latest` is the newest good snapshot.
    fn latest(&mut self) -> Option<Wrong> {
        let newest = self.taken.iter().rfind(|(_, taken)| taken.good);
        let (name, print) = newest.map(|(name, taken)| (*name, taken.tree.print))?;
        // One that could not be restored from the beginning was told of.
        if self.spoilt || !self.vaults.is_sound(name) {
            return None;
        }
        let out = self.path("older");
        let wrong = match self.restore("latest", &out) {
            Ok(came) if came != name => Some(Wrong::new(Class::Latest, format!("{name} is due, and {came} came"))),
            Ok(_) if Tree::read(&out).print == print => None,
            Ok(_) => Some(Wrong::new(Class::OlderDamaged, format!("latest, {name}, is not what it was"))),
            Err(why) => Some(Wrong::new(Class::OlderDamaged, format!("latest, {name}: {why}"))),
        };
        remove(&out);
        wrong
    }

    /// Returns the number of files of a snapshot of which nothing was read.
    fn kept(&self, out: &Path) -> u64 {
        walk(out).iter().filter(|path| out.join(path).is_file() && !self.opened.contains(path.as_str())).count() as u64
    }

    fn restore(&mut self, snapshot: &str, target: &Path) -> Result<SnapshotName, String> {
        self.app.counters.count("restores");
        self.vaults.restore(snapshot, target)
    }

    /// Checks that snapshots that were good before are good still, and that whole vaults are whole.
    pub(super) fn older(&mut self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if self.round.is_multiple_of(5) {
            let good = self.taken.iter().rev().filter(|(name, taken)| taken.good && self.vaults.is_sound(**name));
            let good: Vec<_> = good.take(OLDER).map(|(name, taken)| (*name, taken.tree.print)).collect();
            if !good.is_empty() {
                let (name, was) = good[self.roll(good.len() as u64) as usize];
                let out = self.path("older");
                self.app.counters.count("older restores");
                match self.restore(&name.to_string(), &out) {
                    Ok(_) if Tree::read(&out).print == was => {}
                    Ok(_) => wrong.push(Wrong::new(Class::OlderDamaged, format!("{name} is not what it was"))),
                    Err(why) => wrong.push(Wrong::new(Class::OlderDamaged, format!("{name}: {why}"))),
                }
                remove(&out);
            }
            wrong.extend(self.latest());
        }
        if self.round.is_multiple_of(20) {
            self.app.counters.count("verified");
            wrong.extend(self.vaults.verify());
        }
        wrong
    }

    /// Compares the result of the script for restoring by hand with a restore.
    fn by_hand(&self, name: SnapshotName, out: &Path) -> Option<Wrong> {
        let (vault, target) = (self.vaults.with(name)?, self.path("by-hand"));
        remove(&target);
        let mut python = Command::new("python3");
        python.arg(self.app.base.join("restore.py")).args([vault, &target]).arg(name.to_string());
        let done = python.output().unwrap();
        if !done.status.success() {
            return Some(Wrong::new(Class::ByHand, String::from_utf8_lossy(&done.stderr)));
        }
        let mut all = differences(out, &target);
        all.retain(|difference| !difference.contains(": holes: "));
        remove(&target);
        (!all.is_empty()).then(|| Wrong::new(Class::ByHand, format!("{all:?}")))
    }
}
