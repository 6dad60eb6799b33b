//! Compares two snapshots: both are read in order, side by side; hunks that they share are not read at all.

use std::cmp::Ordering;

use serde::Serialize;

use super::entries::{Entries, tell_mended};
use crate::error::Result;
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::vault::Vault;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::read::PackReader;
use crate::vault::root::Root;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the second snapshot has it.
    Added,
    /// Only the first snapshot has it.
    Removed,
    /// Both have it, and it differs.
    Modified,
}

/// A property that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangedProperty {
    /// The entry's type: a file became a folder, for example.
    Type,
    /// The bytes of a file.
    Content,
    /// Where a symlink points.
    Target,
    /// The permission bits.
    Mode,
    /// The user or group.
    Owner,
    /// The time of the last change.
    Time,
    /// The extended attributes.
    Xattrs,
}

impl ChangedProperty {
    /// The property's name.
    pub fn name(self) -> &'static str {
        match self {
            ChangedProperty::Type => "type",
            ChangedProperty::Content => "content",
            ChangedProperty::Target => "target",
            ChangedProperty::Mode => "mode",
            ChangedProperty::Owner => "owner",
            ChangedProperty::Time => "time",
            ChangedProperty::Xattrs => "xattrs",
        }
    }
}

/// One entry that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The entry.
    pub path: EntryPath,
    /// How it differs.
    pub change: Change,
    /// The properties that differ, if both have the entry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<ChangedProperty>,
    /// The entry's type; that in the second snapshot, if both have it.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// Length of its content in bytes; that in the second snapshot, if both have it.
    pub size: u64,
}

impl Difference {
    fn of(entry: Entry, change: Change, what: Vec<ChangedProperty>) -> Self {
        Difference { path: entry.path, change, what, kind: entry.kind, size: entry.size }
    }
}

/// Calls `take` with every difference from the snapshot `a` to `b`, in the order of their paths.
///
/// # Errors
/// A store that fails; damage; those of `take`.
pub fn diff(
    vault: &Vault,
    a: &Root,
    b: &Root,
    mut take: impl FnMut(Difference) -> Result<()>,
    ctx: &Context,
) -> Result<()> {
    let packs_a = PackReader::for_root(&*vault.store, a)?;
    // Packs that both share are read once.
    let packs_b = packs_a.for_another(b)?;
    let (mut a, mut b) = (Entries::all(&packs_a, a)?, Entries::all(&packs_b, b)?);
    let (mut left, mut right) = (None, None);
    loop {
        ctx.check("compare two snapshots")?;
        if left.is_none() && right.is_none() {
            Entries::skip_common(&mut a, &mut b);
        }
        let x = if left.is_some() { left.take() } else { a.next()? };
        let y = if right.is_some() { right.take() } else { b.next()? };
        let order = match (&x, &y) {
            (Some(x), Some(y)) => x.path.cmp(&y.path),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => {
                tell_mended(&packs_a, ctx);
                return Ok(());
            }
        };
        match (order, x, y) {
            (Ordering::Less, Some(x), y) => {
                right = y;
                take(Difference::of(x, Change::Removed, Vec::new()))?;
            }
            (Ordering::Greater, x, Some(y)) => {
                left = x;
                take(Difference::of(y, Change::Added, Vec::new()))?;
            }
            (_, Some(x), Some(y)) => {
                let what = changes(&x, &y);
                if !what.is_empty() {
                    take(Difference::of(y, Change::Modified, what))?;
                }
            }
            (_, None, _) | (_, _, None) => {}
        }
    }
}

/// The properties that differ between two entries of one path.
fn changes(a: &Entry, b: &Entry) -> Vec<ChangedProperty> {
    let found = [
        (ChangedProperty::Type, a.kind != b.kind),
        (ChangedProperty::Content, a.kind == b.kind && (a.size, a.hash) != (b.size, b.hash)),
        (ChangedProperty::Target, a.kind == b.kind && a.target != b.target),
        (ChangedProperty::Mode, a.mode != b.mode),
        (ChangedProperty::Owner, (a.uid, a.gid) != (b.uid, b.gid)),
        (ChangedProperty::Time, a.mtime != b.mtime),
        (ChangedProperty::Xattrs, a.xattrs != b.xattrs),
    ];
    found.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}
