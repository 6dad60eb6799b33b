//! Collects the damage that was found: one broken object hides no other.

use std::collections::{BTreeMap, BTreeSet};

use super::data::UnreadableFile;
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::vault::root::{SNAPSHOTS, SnapshotName};
use crate::vault::tree::Remark;

use serde::Serialize;

/// Damage by object and, for a file in it, by path: the first reason for each, and the snapshots known to be hurt.
#[derive(Default)]
pub struct DamageBook {
    objects: BTreeMap<(String, String), (String, BTreeSet<SnapshotName>)>,
}

impl DamageBook {
    /// Records damage to an object; returns every other failure.
    ///
    /// # Errors
    /// A failure that is not damage.
    pub fn add(&mut self, object: &str, hurt: impl IntoIterator<Item = SnapshotName>, why: Error) -> Result<()> {
        if why.kind() != Kind::Damage {
            return Err(why);
        }
        let key = (object.to_owned(), String::new());
        self.objects.entry(key).or_insert_with(|| (why.what(), BTreeSet::new())).1.extend(hurt);
        Ok(())
    }

    /// Records that something named in an object cannot be read. If the reason is another object that is known to be
    /// damaged, only that one counts as damaged: this one is sound, and hurts no snapshot.
    ///
    /// # Errors
    /// A failure that is not damage.
    pub fn add_named_in(&mut self, object: &str, name: SnapshotName, why: Error) -> Result<()> {
        let text = why.what();
        let named = self.objects.keys().find(|(known, detail)| detail.is_empty() && text.contains(known.as_str()));
        match named.map(|(known, _)| known.clone()) {
            Some(known) if why.kind() == Kind::Damage && known != object => self.hurts(&known, name),
            _ => return self.add(object, [name], why),
        }
        Ok(())
    }

    /// Records a file that cannot be read, unless the reason is an object that is known to be damaged.
    pub fn add_file(&mut self, lost: UnreadableFile, name: SnapshotName) {
        // One of its packs is known to be damaged, or the reason names an object that is.
        let known = |object: &str| lost.objects.iter().any(|o| o == object) || lost.why.contains(object);
        if self.objects.keys().any(|(object, detail)| detail.is_empty() && known(object)) {
            return;
        }
        let object = lost.objects.into_iter().next().unwrap_or_else(|| name.object(SNAPSHOTS));
        let found = self.objects.entry((object, lost.path)).or_insert_with(|| (lost.why, BTreeSet::new()));
        found.1.insert(name);
    }

    /// Records what is wrong with the entries of a snapshot.
    pub fn add_remarks(&mut self, object: &str, name: SnapshotName, remarks: &[Remark], ctx: &Context) {
        for remark in remarks {
            let why = remark.to_string();
            if !remark.is_damage() {
                ctx.monitor.warn(&format!("{object}: {why}"));
                continue;
            }
            let key = (object.to_owned(), why.clone());
            self.objects.entry(key).or_insert_with(|| (why, BTreeSet::new())).1.insert(name);
        }
    }

    /// Whether an object is damaged.
    pub fn has(&self, object: &str) -> bool {
        self.objects.contains_key(&(object.to_owned(), String::new()))
    }

    /// Records that a snapshot needs a damaged object.
    pub fn hurts(&mut self, object: &str, name: SnapshotName) {
        self.objects.entry((object.to_owned(), String::new())).or_default().1.insert(name);
    }

    /// All damage that was found, in the order of objects.
    pub fn damage(self) -> Vec<Damage> {
        let damage = |((object, _), (why, snapshots)): ((String, String), (String, BTreeSet<_>))| Damage {
            object,
            why,
            snapshots: snapshots.into_iter().collect(),
        };
        self.objects.into_iter().map(damage).collect()
    }
}

/// An object that is not what was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The object's name.
    pub object: String,
    /// The problem with it.
    pub why: String,
    /// The snapshots that cannot be restored whole because of it.
    pub snapshots: Vec<SnapshotName>,
}
