//! Gathers from a vault what a plan has to know: its snapshots with the times at which their roots were created there, and its pins.
//! Reads each root once, and each frame of their lists of packs; changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::plan::Plan;
use super::references::{PackKey, References};
use super::snapshot::{Pin, Snapshot};
use super::stop::StoredBytes;
use crate::error::{Kind, Result};
use crate::monitor::Context;
use crate::parallel::ordered::map_ordered;
use crate::store::Meta;
use crate::vault::Vault;
use crate::vault::document::DocumentError;
use crate::vault::frame::FrameRef;
use crate::vault::holds::{self, HOLDS, Hold, MAX_NOTE, UNPINS, Unpin};
use crate::vault::list::List;
use crate::vault::pack::{PackInfo, PackKind};
use crate::vault::pins::{self, MAX_PIN, PINS, snapshot_of};
use crate::vault::read::PackReader;
use crate::vault::root::{Root, SNAPSHOTS, SnapshotName};

/// An object that cannot be read or understood. Nothing may be let go while there is one: what it keeps is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its name.
    pub object: String,
    /// Why.
    pub why: String,
    /// Whether it is damaged; else a newer lastgood wrote it.
    pub damaged: bool,
}

/// A pin or a hold that nobody took back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingPin {
    /// Its object.
    pub object: String,
    /// What it says.
    pub pin: Pin,
}

/// All pins and holds of a vault that nobody took back.
#[derive(Debug, Default)]
pub struct Pins {
    /// By snapshot, in the order of their names.
    pub standing: BTreeMap<SnapshotName, Vec<StandingPin>>,
    /// What cannot be read. Pins and holds among it stand all the same.
    pub unreadable: Vec<Unreadable>,
}

/// What a plan is made of.
#[derive(Debug)]
pub struct Gathered {
    /// The snapshots whose roots can be read, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What cannot be read, by name.
    pub unreadable: Vec<Unreadable>,
    references: References,
}

impl Gathered {
    /// Returns the bytes of all packs, and of those that only snapshots reach which the plan lets go.
    pub fn stored_bytes(&self, plan: &Plan) -> StoredBytes {
        self.references.stored_bytes(plan.judged.iter().map(|judged| judged.verdict.is_kept()))
    }
}

/// Reads the pins and holds of a vault; of `only` this snapshot, if one is given.
///
/// # Errors
/// The store fails.
pub fn pins(vault: &Vault, only: Option<SnapshotName>, ctx: &Context) -> Result<Pins> {
    let mut read = Pins::default();
    let mut taken_back = HashSet::new();
    each::<Unpin>(vault, (UNPINS, MAX_NOTE), only, ctx, holds::parse, |meta, _, unpin| match unpin {
        // What it names has to be of its snapshot, as its own name says.
        Ok(unpin) => {
            taken_back.extend(unpin.pins.into_iter().filter(|pin| holds::kept_by(pin) == Some(unpin.snapshot)))
        }
        Err(why) => read.unreadable.push(unreadable(&meta.name, why)),
    })?;
    let mut stands = |meta: &Meta, snapshot, until: Result<Option<Timestamp>, DocumentError>, is_hold| {
        if taken_back.contains(&meta.name) {
            return;
        }
        let until = until.unwrap_or_else(|why| {
            read.unreadable.push(unreadable(&meta.name, why));
            None
        });
        let pin = Pin { created: meta.created, until, is_hold };
        read.standing.entry(snapshot).or_default().push(StandingPin { object: meta.name.clone(), pin });
    };
    each::<pins::Pin>(vault, (PINS, MAX_PIN), only, ctx, pins::Pin::parse, |meta, snapshot, pin| {
        stands(meta, snapshot, pin.map(|pin| Some(pin.until)), false);
    })?;
    each::<Hold>(vault, (HOLDS, MAX_NOTE), only, ctx, holds::parse, |meta, snapshot, hold| {
        stands(meta, snapshot, hold.map(|hold| hold.until), true);
    })?;
    Ok(read)
}

/// Reads the notes below a folder whose objects are named by a snapshot. Objects of other names are left alone.
fn each<N: Send>(
    vault: &Vault,
    (folder, limit): (&str, u64),
    only: Option<SnapshotName>,
    ctx: &Context,
    parse: fn(&str, &[u8]) -> Result<N, DocumentError>,
    mut take: impl FnMut(&Meta, SnapshotName, Result<N, DocumentError>),
) -> Result<()> {
    let doing = || format!("list {folder} of {}", vault.store.url());
    let listed = vault.store.list(folder).map_err(|why| why.while_doing(doing()))?;
    let named = listed.into_iter().filter_map(|meta| Some((snapshot_of(folder, &meta.name)?, meta)));
    let named: Vec<_> = named.filter(|(snapshot, _)| only.is_none_or(|only| only == *snapshot)).collect();
    let read = |(_, meta): &(SnapshotName, Meta)| {
        let bytes = vault.store.get(&meta.name, limit);
        bytes.map_err(|why| why.while_doing(format!("read {} of {}", meta.name, vault.store.url())))
    };
    map_ordered(&named, ctx.parallel, read, |(snapshot, meta), bytes| {
        ctx.check("read the pins")?;
        let note = match bytes {
            Ok(bytes) => parse(&meta.name, &bytes),
            Err(why) if why.kind() == Kind::Damage => Err(DocumentError::Damaged(why.why().to_owned())),
            Err(why) => return Err(why),
        };
        take(meta, *snapshot, note);
        Ok(())
    })
}

fn unreadable(object: &str, why: DocumentError) -> Unreadable {
    Unreadable { object: object.to_owned(), damaged: !why.is_newer(), why: why.to_string() }
}

/// What is taken from a root, with the packs of those frames of its list that were not read for another root.
struct RootFacts {
    snapshot: Snapshot,
    packs: Vec<PackKey>,
    frames: Vec<FrameRef>,
    read: Vec<(FrameRef, Vec<PackKey>)>,
}

/// Gathers what a plan is made of.
///
/// # Errors
/// The store fails. What is damaged or of a newer format is no error here, and is named in the result.
pub fn gather(vault: &Vault, ctx: &Context) -> Result<Gathered> {
    let store = &*vault.store;
    let list =
        |folder: &str| store.list(folder).map_err(|why| why.while_doing(format!("list {folder} of {}", store.url())));
    let roots = list(SNAPSHOTS)?.into_iter();
    let named = roots.filter_map(|meta| Some((SnapshotName::parse_object(SNAPSHOTS, &meta.name)?, meta.created)));
    let mut named: Vec<_> = named.collect();
    named.sort_unstable();
    let mut sizes = HashMap::new();
    for (kind, folder, end) in [(PackKind::Data, "packs/", ".tar.zst"), (PackKind::Index, "index/", ".jsonl.zst")] {
        for meta in list(folder)? {
            let id = meta.name.strip_prefix(folder).and_then(|name| name.strip_suffix(end)?.parse().ok());
            _ = id.map(|id| sizes.insert((kind, id), meta.size));
        }
    }
    let mut pins = pins(vault, None, ctx)?;
    let mut all = Gathered {
        snapshots: Vec::with_capacity(named.len()),
        unreadable: std::mem::take(&mut pins.unreadable),
        references: References::new(sizes),
    };
    let reader = PackReader::new(store, HashMap::new());
    let known = Mutex::new(HashSet::new());
    let read = |(name, created): &(SnapshotName, Timestamp)| facts(vault, &reader, &known, *name, *created);
    map_ordered(&named, ctx.parallel, read, |(name, _), facts| {
        ctx.check("read the snapshots")?;
        match facts {
            Ok(mut facts) => {
                let pinned = pins.standing.remove(name).unwrap_or_default();
                facts.snapshot.pins = pinned.into_iter().map(|standing| standing.pin).collect();
                all.references.add(&facts.snapshot, facts.packs.into_iter(), &facts.frames);
                facts.read.into_iter().for_each(|(frame, packs)| all.references.add_frame(frame, packs));
                all.snapshots.push(facts.snapshot);
            }
            Err(why) if why.kind() == Kind::Damage || why.is_newer_format() => {
                let damaged = !why.is_newer_format();
                all.unreadable.push(Unreadable { object: name.object(SNAPSHOTS), why: why.what(), damaged });
            }
            Err(why) => return Err(why),
        }
        Ok(())
    })?;
    all.unreadable.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(all)
}

fn facts(
    vault: &Vault,
    reader: &PackReader,
    known: &Mutex<HashSet<FrameRef>>,
    name: SnapshotName,
    created: Timestamp,
) -> Result<RootFacts> {
    let root: Root = vault.root(name)?;
    let databases = match &root.databases {
        List::Items(items) => items.clone(),
        frames => reader.for_another(&root)?.all(frames)?,
    };
    let snapshot = Snapshot::of(name, &root, created, &databases)?;
    let key = |pack: &PackInfo| (pack.kind, pack.id);
    let mut facts =
        RootFacts { snapshot, packs: root.holders().map(key).collect(), frames: Vec::new(), read: Vec::new() };
    let List::Frames(frames) = root.packs.list else { return Ok(facts) };
    let lists = reader.with(root.packs.holders.iter().copied());
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    for frame in &frames {
        if !lock().insert(*frame) {
            continue;
        }
        let mut packs = Vec::new();
        let read = lists.each(&List::Frames(vec![*frame]), |pack: PackInfo| {
            packs.push(key(&pack));
            Ok(())
        });
        if let Err(why) = read {
            // The next root that names it is to be named, too.
            lock().remove(frame);
            return Err(why);
        }
        facts.read.push((*frame, packs));
    }
    facts.frames = frames;
    Ok(facts)
}
