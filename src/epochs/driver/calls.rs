//! The calls of the protocol, made to vaults.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::{EpochDriver, Progress};
use crate::epochs::admission::Standing;
use crate::epochs::protocol::{Answer, Call, Content, EpochKey, Listed, Purpose};
use crate::error::{Code, Error, Result};
use crate::monitor::Context;
use crate::replicas::{Site, SiteState};
use crate::store::{Store, StoreError};
use crate::text::one_line;
use crate::vault::Vault;
use crate::vault::epochs::{EPOCHS, EpochDocument, EpochMark, EpochRecord, FORMAT, MAX_EPOCH, counts, of_snapshot};
use crate::vault::root::{SnapshotName, SourceIdentity};

/// How many of the newest snapshots are read to find a good one.
const ROOTS: usize = 8;

/// One of the vaults.
pub(super) struct EpochSite {
    url: String,
    vault: Result<Vault>,
    /// The store by which the epoch is looked at while the app runs.
    pub(super) quick: Option<Arc<dyn Store>>,
}

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as any other call to the vault: nothing is held meanwhile.
    Long,
    /// As long as a poll. A successor waits for two of them, and then takes the holder for dead.
    Poll,
    /// As long as a poll, and no longer than this epoch lasts, in which an app runs.
    Holding(EpochKey),
    /// As long as last words may take, once the program is told to stop.
    LastWords,
}

impl EpochSite {
    pub(super) fn new(site: Site) -> Self {
        let vault = match site.found {
            SiteState::Vault(vault) => Ok(vault),
            SiteState::Nothing(store) => Err(Vault::missing(&*store)),
            SiteState::Failed(why) => Err(why),
        };
        EpochSite { url: site.url, vault, quick: None }
    }
}

/// A newcomer's view of the vaults, before it begins.
pub(super) struct Survey {
    /// The greatest number of an epoch, and of the epoch of a snapshot.
    pub(super) greatest: u32,
    pub(super) standing: Standing,
    /// The time, by the first vault's clock.
    pub(super) now: Timestamp,
}

impl EpochDriver {
    /// Returns a vault by its place in the list.
    fn vault(&self, site: usize) -> Result<&Vault> {
        let site = self
            .sites
            .get(site)
            .ok_or_else(|| Error::failed("use a vault's epochs", "there is no such vault").with_code(Code::Internal))?;
        site.vault.as_ref().map_err(|why| why.clone().within(format!("use the epochs of {}", site.url)))
    }

    fn store(&self, site: usize, patience: Patience) -> Result<&dyn Store> {
        let vault = self.vault(site)?;
        let other = match patience {
            Patience::Long => None,
            Patience::Poll | Patience::Holding(_) => self.sites[site].quick.as_ref(),
            Patience::LastWords => self.last_words.get().filter(|_| site == 0),
        };
        Ok(other.map_or(&*vault.store, |store| &**store))
    }

    /// Asks all vaults. One that does not answer is passed over, but for the first, in which epochs are made.
    /// That is told once, until it answers.
    fn each<T>(
        &self,
        progress: &mut Progress,
        ask: impl Fn(&Vault) -> Result<T>,
        ctx: &Context,
    ) -> Result<Vec<(usize, T)>> {
        let mut answers = Vec::with_capacity(self.sites.len());
        for site in 0..self.sites.len().max(1) {
            match self.vault(site).and_then(&ask) {
                Ok(answer) => {
                    progress.silent.retain(|other| *other != site);
                    answers.push((site, answer));
                }
                Err(why) if site == 0 => return Err(why),
                Err(_) if progress.silent.contains(&site) => {}
                Err(why) => {
                    progress.silent.push(site);
                    let url = &self.sites[site].url;
                    ctx.monitor.warn(&format!("epochs in the vault {url} are not known: {}", why.what_with_code()));
                }
            }
        }
        Ok(answers)
    }

    /// Looks at what is there before an epoch is begun.
    pub(super) fn survey(&self, progress: &mut Progress, ctx: &Context) -> Result<Survey> {
        let snapshots = self.each(progress, Vault::snapshots, ctx)?;
        let newest = snapshots.iter().filter_map(|(_, names)| names.last()).map(|name| of_snapshot(*name)).max();
        progress.newest = progress.newest.max(newest.unwrap_or(0));
        let mut listed = self.list(progress, ctx)?;
        listed.sort_by_key(|epoch| epoch.key);
        let greatest = listed.iter().map(|epoch| epoch.key.number).max().unwrap_or(0).max(progress.newest);
        if !counts(greatest.saturating_add(1), progress.newest) || greatest == u32::MAX {
            let why = format!("epoch {greatest} exists, and the newest snapshot is of epoch {}", progress.newest);
            return Err(Error::damage("begin an epoch", format!("no number is left: {why}")));
        }
        let mut standing = Standing::default();
        for epoch in listed.iter().rev() {
            if standing.newest.is_some() && (epoch.ended || standing.live.is_some()) {
                continue;
            }
            let document = match self.document(epoch.key, Patience::Long) {
                // It is over, and only its service and its place in a row are not known.
                Err(why) if epoch.ended => {
                    self.report_unread(progress, &why, ctx);
                    continue;
                }
                // This instance has run, and has waited for that one: nothing but its end by force is left to be done.
                Err(why) if progress.has_waited => {
                    self.report_unread(progress, &why, ctx);
                    Some(EpochDocument::parse(b""))
                }
                document => document?,
            };
            let Some(document) = document.filter(|document| document.successor.is_none()) else { continue };
            if !epoch.ended
                && standing.live.is_none()
                && !self.is_dead(progress, (epoch.key, &document), Patience::Long)?
            {
                standing.live = Some((epoch.key.number, document.clone()));
            }
            // One that only asks takes nothing over.
            if standing.newest.is_none() && !document.asks {
                standing.newest = Some(document);
            }
        }
        progress.live = standing.live.as_ref().map(|(number, _)| *number);
        if !self.options.take_over {
            standing.service = self.service_of_newest(&snapshots);
        }
        let now = self.vault(0)?.store.now().map_err(|why| why.while_doing("ask the store for the time"))?;
        Ok(Survey { greatest, standing, now })
    }

    /// Returns the service of the newest good snapshot. One that cannot be read is passed over: it says nothing.
    fn service_of_newest(&self, snapshots: &[(usize, Vec<SnapshotName>)]) -> Option<String> {
        let named = |(site, names): &(usize, Vec<SnapshotName>)| names.iter().map(|name| (*name, *site)).collect();
        let mut all: Vec<(SnapshotName, usize)> = snapshots.iter().map(named).collect::<Vec<Vec<_>>>().concat();
        all.sort();
        let roots = all.into_iter().rev().take(ROOTS).filter_map(|(name, site)| self.vault(site).ok()?.root(name).ok());
        roots.into_iter().find(|root| root.good())?.service
    }

    /// The directory whose lock this process holds. `None` since this instance has waited for its return: it had let the lock go for that.
    fn locked(&self, progress: &Progress) -> Option<&SourceIdentity> {
        self.options.locked.as_ref().filter(|_| !progress.has_waited)
    }

    /// Whether the holder of an epoch is known to have died: it ran on this directory of this machine, and this process
    /// holds the very lock that it held. A restore may have replaced the directory between the epoch's beginning and its app's.
    fn is_dead(
        &self,
        progress: &Progress,
        (key, document): (EpochKey, &EpochDocument),
        patience: Patience,
    ) -> Result<bool> {
        let Some(here) = self.locked(progress) else { return Ok(false) };
        let held = document.run.is_some_and(|run| self.options.lock_runs.contains(&run));
        let is_here = |place: &SourceIdentity| place == here;
        let is_certain = here.source.is_none() && here.born.is_some() && !here.boot.is_empty();
        if !is_certain || document.host != self.options.host || !held {
            return Ok(false);
        }
        if document.place.as_ref().is_some_and(is_here) {
            return Ok(true);
        }
        let runs = self.get(EpochRecord::Runs, key, patience)?.and_then(|bytes| EpochMark::parse(&bytes));
        Ok(runs.and_then(|mark| mark.place).as_ref().is_some_and(is_here))
    }

    fn list(&self, progress: &mut Progress, ctx: &Context) -> Result<Vec<Listed>> {
        let doing = |vault: &Vault| format!("list the epochs of {}", vault.store.url());
        let lists =
            self.each(progress, |vault| vault.store.list(EPOCHS).map_err(|why| why.while_doing(doing(vault))), ctx)?;
        let mut all = Vec::new();
        for (site, objects) in lists {
            let mut found = std::collections::BTreeMap::<u32, (bool, bool, bool)>::new();
            for (record, number) in objects.iter().filter_map(|object| EpochRecord::parse_object(&object.name)) {
                let (is_there, ended, runs) = found.entry(number).or_default();
                match record {
                    EpochRecord::Epoch => *is_there = true,
                    EpochRecord::End => *ended = true,
                    EpochRecord::Runs => *runs = true,
                    EpochRecord::Yields | EpochRecord::Alive => {}
                }
            }
            for (number, (_, ended, runs)) in found.into_iter().filter(|(_, (is_there, ..))| *is_there) {
                if counts(number, progress.newest) {
                    all.push(Listed { key: EpochKey { number, site }, ended, runs });
                } else if !progress.ignored.contains(&number) {
                    progress.ignored.push(number);
                    let (url, newest) = (&self.sites[site].url, progress.newest);
                    ctx.monitor.warn(&format!(
                        "the epoch {number} in {url} is ignored: the newest snapshot is of epoch {newest}, and no instance counts that far"
                    ));
                }
            }
        }
        Ok(all)
    }

    /// Reads an object. `None` if it does not exist; empty if it is too large to be one of an epoch.
    fn get(&self, record: EpochRecord, key: EpochKey, patience: Patience) -> Result<Option<Vec<u8>>> {
        let store = self.store(key.site, patience)?;
        let name = record.object(key.number);
        let read = match self.watched(key.site, patience).filter(|(own, _)| (EpochRecord::End, *own) != (record, key)) {
            Some((own, store)) => {
                let name = name.clone();
                self.while_held(own, store, move |store| store.get(&name, MAX_EPOCH))
            }
            None => store.get(&name, MAX_EPOCH),
        };
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(StoreError::OutOfRange { .. }) => Ok(Some(Vec::new())),
            Err(why) => Err(why.while_doing(format!("read {name} of {}", store.url()))),
        }
    }

    fn document(&self, key: EpochKey, patience: Patience) -> Result<Option<EpochDocument>> {
        Ok(self.get(EpochRecord::Epoch, key, patience)?.map(|bytes| EpochDocument::parse(&bytes)))
    }

    /// Makes a call. `failed` tells whether a creation has failed before: the second time it is an error, and the call
    /// stays outstanding.
    pub(super) fn call(
        &self,
        progress: &mut Progress,
        call: &Call,
        failed: &mut bool,
        ctx: &Context,
    ) -> Result<Answer> {
        let patience = match progress.state.purpose {
            // A round makes all its reads, and one that hangs is not to keep it from the others for long.
            Some(Purpose::Round) if progress.patience == Patience::Long => Patience::Poll,
            _ => Self::patience(progress),
        };
        match call {
            Call::List => self.list(progress, ctx).map(Answer::Listed),
            Call::Read(EpochRecord::Epoch, key) => Ok(match self.document(*key, patience)? {
                None => Answer::Absent,
                Some(EpochDocument { successor: Some(number), .. }) => Answer::Signpost(number),
                Some(document) => Answer::Epoch {
                    mine: document.run == Some(self.options.run),
                    poll: std::time::Duration::from_millis(document.poll_ms),
                    asks: document.asks,
                    dead: self.is_dead(progress, (*key, &document), patience)?,
                },
            }),
            Call::Read(record, key) => Ok(match self.get(*record, *key, patience)? {
                None => Answer::Absent,
                // No epoch has the number 0: an end that does not say by whom it was made counts as one by force.
                Some(bytes) if *record == EpochRecord::End => {
                    Answer::End(EpochMark::parse(&bytes).map_or(0, |mark| mark.by))
                }
                Some(_) => Answer::Present,
            }),
            Call::Create(record, key, content) => self.create(progress, (*record, *key, *content), failed),
        }
    }

    fn create(
        &self,
        progress: &mut Progress,
        (record, key, content): (EpochRecord, EpochKey, Content),
        failed: &mut bool,
    ) -> Result<Answer> {
        let patience = Self::patience(progress);
        let store = self.store(key.site, patience)?;
        let name = record.object(key.number);
        let doing = || format!("create {name} in {}", store.url());
        let bytes = self.encode(progress, store, (record, key, content)).map_err(|why| why.within(doing()))?;
        let created = match self.watched(key.site, patience).filter(|_| record != EpochRecord::End) {
            Some((own, store)) => {
                let name = name.clone();
                self.while_held(own, store, move |store| store.create(&name, &[&bytes]))
            }
            None => store.create(&name, &[&bytes]),
        };
        match created {
            Ok(()) => Ok(Answer::Created),
            Err(StoreError::AlreadyExists { .. }) => Ok(Answer::Exists),
            // Whether it is there is asked then, also after a refusal: an end may be another's.
            Err(why) if !*failed => {
                *failed = true;
                // A look tries again what it could not tell.
                if !progress.uncreated.contains(&name) {
                    tracing::info!("{name} may not have been created: {}", one_line(&why.to_string(), super::SHOWN));
                    progress.uncreated.push(name);
                }
                Ok(Answer::Unknown)
            }
            Err(why) => Err(why.while_doing(doing())),
        }
    }

    fn encode(
        &self,
        progress: &Progress,
        store: &dyn Store,
        (record, key, content): (EpochRecord, EpochKey, Content),
    ) -> Result<Vec<u8>> {
        let options = &self.options;
        let now = store.now().map_err(|why| why.while_doing("ask the store for the time"))?;
        let writer = format!("lastgood {}", env!("CARGO_PKG_VERSION"));
        match content {
            Content::Epoch { asks } => json(&EpochDocument {
                format: FORMAT,
                run: Some(options.run),
                successor: None,
                asks,
                service: options.service.clone(),
                revision: options.revision.clone(),
                host: options.host.clone(),
                place: self.locked(progress).cloned(),
                poll_ms: u64::try_from(options.poll.as_millis()).unwrap_or(u64::MAX),
                started: Some(now),
                row: progress.row,
                writer,
            }),
            Content::Signpost(number) => json(&EpochDocument {
                format: FORMAT,
                successor: Some(number),
                host: options.host.clone(),
                started: Some(now),
                writer,
                ..EpochDocument::default()
            }),
            Content::By(by) => json(&EpochMark {
                format: FORMAT,
                by,
                run: Some(options.run),
                at: Some(now),
                snapshot: progress.last.filter(|_| record == EpochRecord::End && by == key.number),
                place: progress.place.clone().filter(|_| record == EpochRecord::Runs),
                host: options.host.clone(),
                writer,
            }),
        }
    }
}

fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(document)
        .map_err(|why| Error::failed("write the document", why).with_code(Code::Internal))?;
    bytes.push(b'\n');
    Ok(bytes)
}
