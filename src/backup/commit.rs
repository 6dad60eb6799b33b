//! Ends a backup: writes the lists, checks that every pack is there, and writes the root, which is the commit.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::assemble::{Assembly, MANY};
use super::options::{BackupOptions, doing};
use super::packer::Packer;
use super::parent::Parent;
use super::suspect::{self, CaptureVerdict, Measure, Now};
use super::unread::UnreadParts;
use super::writer::WrittenHunks;
use crate::error::{Code, Error, Kind, Result};
use crate::lineage::Serial;
use crate::store::Staging;
use crate::vault::hex::PackId;
use crate::vault::pack::PackInfo;
use crate::vault::read::absent;
use crate::vault::root::{
    CHECKPOINTS, FORMAT, Mount, PackList, Root, SNAPSHOTS, SnapshotName, SnapshotState, SourceIdentity, Totals,
};
use crate::vault::{Vault, list};

/// The hint of an error by which it is not known whether a snapshot was committed: the store's answer was not waited for.
pub const UNSURE: &str = "It is not known whether the snapshot was made: `lastgood list` shows it if it was.";

/// Everything about a run that is known from its start.
#[derive(Clone)]
pub struct BackupRun<'a> {
    /// The vault that the backup goes into.
    pub vault: &'a Vault,
    /// The options of the backup.
    pub options: &'a BackupOptions,
    /// The parent snapshot that it builds on.
    pub base: &'a Parent<'a>,
    /// Where the data directory is.
    pub place: SourceIdentity,
    /// Filesystems that are mounted below it. `None` if that is not known.
    pub mounts: Option<Vec<Mount>>,
    /// The parts of files that were taken over unread.
    pub unread: UnreadParts,
    /// When the run began, by the store's clock.
    pub started: Timestamp,
    /// The serial of the data directory's lineage.
    pub serial: Option<Serial>,
    /// Where its packs are kept until a root names them.
    pub staging: &'a dyn Staging,
    /// Bytes that were free when it began, if that is known.
    pub free: Option<u64>,
}

/// How an attempt to commit ended.
pub enum CommitOutcome {
    /// The root is in the vault.
    Committed(Committed),
    /// Packs that the snapshot would name are not in the vault, or not as they were stored. Nothing was committed.
    Absent(HashSet<PackId>),
    /// The store does not accept a checkpoint, which is only an aid. Everything it would have named is stored.
    NoCheckpoint(Error),
}

/// A committed root.
pub struct Committed {
    /// Its name.
    pub name: SnapshotName,
    /// Its state.
    pub state: SnapshotState,
    /// Why it is suspect.
    pub suspect: Option<String>,
    /// Whether it may be restored without being asked for by name.
    pub good: bool,
    /// Whether it equals the data directory.
    pub whole: bool,
    /// Whether what it lacks is new, or has lasted for long.
    pub news: bool,
    /// Notices that somebody should get, however good the snapshot is.
    pub notices: Vec<String>,
    /// Its sums.
    pub totals: Totals,
    /// Bytes of all objects that the run created, including the root.
    pub uploaded_bytes: u64,
}

impl BackupRun<'_> {
    /// Returns how many bytes of new packs a checkpoint may name: half of the space that was free. Its packs
    /// stay in the vault, even if no later backup has a use for them since their files are gone by then; the other half
    /// is left for the backups that do without them.
    pub fn may_keep(&self) -> u64 {
        self.free.map_or(u64::MAX, |free| free / 2)
    }

    /// Commits what was `written`: a snapshot, or a checkpoint that covers a part of it.
    ///
    /// # Errors
    /// Fails if the store does, or if `before_commit` refuses. Nothing is committed then.
    pub fn commit(
        &self,
        assembly: &mut Assembly,
        packer: &Packer,
        written: WrittenHunks,
        checkpoint: bool,
    ) -> Result<CommitOutcome> {
        let store = |content: &[u8], reached: &mut HashSet<PackId>, assembly: &mut Assembly| {
            let frame = assembly.index.store(content)?;
            reached.insert(frame.pack);
            Ok::<_, Error>(frame)
        };
        if !checkpoint && assembly.read_nothing() {
            let first = assembly.first_unread().map(|(path, why)| format!("{path}: {why}")).unwrap_or_default();
            return Err(Error::failed(doing(self.options), format!("no file in it can be read. {first}"))
                .with_code(Code::NoData)
                .hint("Look at its disk or mount, and at who may read it. The snapshots before are as they were."));
        }
        assembly.flush()?;
        let WrittenHunks { hunks, mut reached, mut totals, until } = written;
        let covers = checkpoint.then_some(until);
        let hunks = list::write(hunks, |frame| store(&frame.finish(&[]), &mut reached, assembly))?;
        let news = !checkpoint && assembly.is_news(self.started)?;
        let problems: Vec<_> = assembly.lacking.problems.values().cloned().collect();
        let problems = list::write(problems, |frame| store(&frame.finish(&[]), &mut reached, assembly))?;
        let stale = list::write(assembly.stale(), |frame| store(&frame.finish(&[]), &mut reached, assembly))?;
        let torn = list::write(assembly.torn(), |frame| store(&frame.finish(&[]), &mut reached, assembly))?;
        let (torn_reads, packs) = if checkpoint { Default::default() } else { assembly.write_torn_reads()? };
        reached.extend(packs);
        let torn_reads = list::write(torn_reads, |frame| store(&frame.finish(&[]), &mut reached, assembly))?;
        let failed_checks = assembly.failed_checks();
        let databases = assembly.database_records.clone();
        let databases = list::write(databases, |frame| store(&frame.finish(&[]), &mut reached, assembly))?;
        assembly.index.flush()?;
        assembly.stored.extend(packer.drain()?.into_iter().map(|info| (info.id, info)));

        // All packs can be listed now, except the ones that will hold the list itself.
        let mut infos = reached.iter().map(|id| self.info(*id, assembly)).collect::<Result<Vec<_>>>()?;
        infos.sort_by_key(|info| info.id);
        let mut holders = HashSet::new();
        let packs = list::write(infos.clone(), |frame| store(&frame.finish(&[]), &mut holders, assembly))?;
        assembly.index.flush()?;
        assembly.stored.extend(packer.drain()?.into_iter().map(|info| (info.id, info)));
        let mut holders = holders.iter().map(|id| self.info(*id, assembly)).collect::<Result<Vec<_>>>()?;
        holders.sort_by_key(|info| info.id);
        let named: HashSet<_> = infos.iter().chain(&holders).map(PackInfo::name).collect();
        let publish = self.staging.publish(&|name| named.contains(name));
        publish.map_err(|e| e.while_doing(doing(self.options)))?;
        let absent = absent(&*self.vault.store, infos.iter().chain(&holders))?;
        if !absent.is_empty() {
            return Ok(CommitOutcome::Absent(absent.into_iter().map(|(info, _)| info.id).collect()));
        }
        // Nothing takes content from these packs; a snapshot that named one all the same could not be restored.
        if let Some(lost) = infos.iter().chain(&holders).find(|info| !self.base.may_name(info.id)) {
            let why = format!("the snapshot would name {}, which is damaged or was missing", lost.name());
            return Err(Error::failed(doing(self.options), why).with_code(Code::Internal).hint(
                "This is a fault of lastgood: please report it. `lastgood backup` into a new vault takes a snapshot.",
            ));
        }

        let (mut state, mut suspect, mut notices) = (SnapshotState::Complete, None, Vec::new());
        if covers.is_none() {
            let verdict = self.judge(assembly, &totals);
            state = self.state(assembly, &verdict);
            match verdict {
                _ if self.base.descent.diverged.is_some() => suspect.clone_from(&self.base.descent.diverged),
                CaptureVerdict::Suspect(why) if state == SnapshotState::Suspect => suspect = Some(why),
                CaptureVerdict::Noted(why) if !self.options.accept_shrink => assembly.warn(why),
                CaptureVerdict::Accepted(why) => notices.push(why),
                CaptureVerdict::Sound | CaptureVerdict::Noted(_) | CaptureVerdict::Suspect(_) => {}
            }
            let good = state == SnapshotState::Complete && failed_checks == 0;
            // An instance that has an epoch has taken over in order, from another host most often.
            let by_itself = self.options.epoch.is_none();
            if let Some(other) = self.base.other_data.as_ref().filter(|_| good && by_itself) {
                assembly.warn(format!("the last complete snapshot is of {other}; from now on `latest` is this one"));
            }
            if let Some(why) = self.other_filters() {
                assembly.warn(why);
            }
            totals.rewritten = assembly.rewritten();
            // If it is so in every snapshot, nobody wants to hear it each time.
            let before = self.base.parent.as_ref().map_or(0, |(_, root)| root.totals.rewritten);
            notices.extend(assembly.mostly_changed().filter(|_| before < MANY));
            notices.iter().for_each(|why| assembly.warn(why.clone()));
        }
        let uploaded: u64 = assembly.stored.values().map(|info| info.size).sum();
        let totals = Totals { uploaded_bytes: uploaded, new_packs: assembly.stored.len() as u64, ..totals };
        let folder = if covers.is_some() { CHECKPOINTS } else { SNAPSHOTS };
        let root = Root {
            format: FORMAT,
            vault: self.vault.config.id,
            seq: self.base.seq,
            turn: Some(self.base.turn),
            parent: self.base.parent.as_ref().map(|(name, _)| *name),
            started: self.started,
            finished: match &self.options.past {
                Some(past) => past.time,
                None => self.vault.store.now().map_err(|e| e.while_doing(doing(self.options)))?,
            },
            reason: self.options.reason,
            run: self.options.run,
            labels: self.options.labels.clone(),
            state,
            suspect,
            diverged: self.base.descent.diverged.clone(),
            serial: self.serial,
            origin: self.options.origin.clone(),
            data: self.options.recorded_data().display().to_string(),
            host: self.options.host.clone(),
            writer: format!("lastgood {}", env!("CARGO_PKG_VERSION")),
            place: self.place.clone(),
            // Mounts that cannot be told are recorded as they were.
            mounts: self
                .mounts
                .clone()
                .or_else(|| self.base.measure.as_ref().map(|m| m.mounts.clone()))
                .unwrap_or_default(),
            unread: Some(self.unread.parts()),
            covers,
            totals,
            hunks,
            packs: PackList { list: packs, holders },
            problems,
            stale,
            torn,
            torn_reads,
            service: self.options.service.clone(),
            filters: self.base.filters.clone(),
            databases,
            failed_checks,
        };
        if let Some(before) = self.options.before_commit.as_ref().filter(|_| root.covers.is_none()) {
            before.ask()?;
        }
        let (name, bytes) = root.encode()?;
        let object = name.object(folder);
        let created =
            self.vault.store.create(&object, &[&bytes]).map_err(|e| e.while_doing(format!("commit {object}")));
        match created {
            Err(why) if checkpoint && why.kind() != Kind::Unreachable => return Ok(CommitOutcome::NoCheckpoint(why)),
            Err(why) if why.code() == Code::Stopped => return Err(why.hint(UNSURE)),
            created => created?,
        }
        let uploaded_bytes = uploaded + bytes.len() as u64;
        let (good, whole) = (root.good(), root.whole());
        if let Some(after) = self.options.after_commit.as_ref().filter(|_| root.covers.is_none()) {
            after.tell(self.options.run, name, good);
        }
        Ok(CommitOutcome::Committed(Committed {
            name,
            state,
            suspect: root.suspect,
            good,
            whole,
            news,
            notices,
            totals,
            uploaded_bytes,
        }))
    }

    fn info(&self, id: PackId, assembly: &Assembly) -> Result<PackInfo> {
        let info = assembly.pack(id).or_else(|| self.base.packs.book().get(&id).copied());
        info.ok_or_else(|| {
            Error::failed("list the snapshot's packs", format!("nothing is known of the pack {id}"))
                .with_code(Code::Internal)
        })
    }

    /// Returns a warning if other entries are selected than in the last complete snapshot.
    fn other_filters(&self) -> Option<String> {
        let Measure { filters, .. } = self.base.measure.as_ref()?;
        let now = &self.base.filters;
        (now != filters).then(|| {
            format!("other entries are chosen than for the last complete snapshot: {now}, and before {filters}")
        })
    }

    /// Judges the capture.
    fn judge(&self, assembly: &Assembly, totals: &Totals) -> CaptureVerdict {
        // Entries that exist and cannot be read have not vanished.
        let entries = totals.entries + assembly.unread.len() as u64;
        // For files that were not read, the size is whatever the filesystem says.
        let unread = assembly.unread.values().fold(0u64, |all, size| all.saturating_add(*size));
        let bytes = (totals.bytes - totals.beside).saturating_add(unread);
        let (sizes, unread) = (&assembly.judged.sizes, &assembly.unread);
        let leaves = assembly.judged.leaves + unread.len() as u64;
        let filters = &self.base.filters;
        // If there are entries all the same, the mounted data was copied there.
        let inhabited = |was: &&Mount| assembly.judged.inhabited.contains(&was.path);
        let copied = self.base.measure.iter().flat_map(|measure| &measure.mounts).filter(inhabited).cloned();
        let mounts: Option<Vec<_>> = self.mounts.clone().map(|mounts| mounts.into_iter().chain(copied).collect());
        let now = Now { entries, leaves, bytes, filters, place: &self.place, mounts: mounts.as_deref(), sizes, unread };
        suspect::judge(&now, self.base.measure.as_ref(), &self.base.suspects)
    }

    fn state(&self, assembly: &Assembly, verdict: &CaptureVerdict) -> SnapshotState {
        match verdict {
            // However often it is taken: it is not the newest state of this history.
            _ if self.base.descent.diverged.is_some() => SnapshotState::Suspect,
            CaptureVerdict::Suspect(_) if !self.options.accept_shrink => SnapshotState::Suspect,
            // If there already is a good snapshot, entries that it does not have either do not make this one partial.
            _ if !assembly.lacking.problems.is_empty() && self.base.good.is_none() && !self.options.accept_missing => {
                SnapshotState::Partial
            }
            _ => SnapshotState::Complete,
        }
    }
}

/// Most labels of a snapshot.
pub const MAX_LABELS: usize = 32;
/// Most bytes of a label: its name and its value together.
pub const MAX_LABEL: usize = 1024;

/// Checks that labels are few and short, so that a root stays small.
///
/// # Errors
/// Fails if there are more than [`MAX_LABELS`], or if one is nameless or longer than [`MAX_LABEL`].
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let wrong = |why: &str| Err(Error::usage("label the snapshot", why).with_code(Code::BadSetting));
    if labels.len() > MAX_LABELS {
        return wrong(&format!("a snapshot has at most {MAX_LABELS} labels"));
    }
    if labels.iter().any(|(key, value)| key.is_empty() || key.len() + value.len() > MAX_LABEL) {
        return wrong(&format!("a label needs a name, and its name and value together have at most {MAX_LABEL} bytes"));
    }
    Ok(())
}
