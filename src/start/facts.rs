//! Gathers what is known of a data directory and of its vaults before an app starts.

pub(in crate::start) mod directory;
mod vaults;

use std::path::PathBuf;

use self::directory::Looked;
pub use self::vaults::{AwayVault, DamagedRoot};
use self::vaults::{Newest, Opened};
use super::compare::{Comparison, NAMED, Until};
use super::databases::{self, DatabaseChecks};
use super::decide::StartRules;
use super::known::{Chosen, DirectoryContent, Facts, KnownLineage, Likeness, NamedSnapshot, SeedMark, VaultFacts};
use super::{compare, seed};
use crate::error::{Kind, Result};
use crate::fs::beneath::Directory;
use crate::lineage::{self, Lineage};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::replicas::Site;
use crate::source::place::{self, Likeness as PlaceLikeness};
use crate::source::select::Select;
use crate::source::walk;
use crate::text::count_of;
use crate::vault::read::PackReader;
use crate::vault::root::{Filters, Root, SnapshotName};

/// What the facts are gathered of.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The data directory.
    pub data: PathBuf,
    /// The address of the first vault, for advice.
    pub from: String,
    /// Folders that are not data, such as a vault inside the data directory.
    pub not_walked: Vec<PathBuf>,
    /// Whether files that are SQLite databases by their content are told from others.
    pub sqlite: bool,
    /// How databases are checked, if they are.
    pub check: Option<DatabaseChecks>,
    /// The kernel's boot ID; empty if there is none.
    pub boot: String,
}

/// The facts, and what was found on the way.
#[derive(Debug)]
pub struct Gathered {
    /// What decides.
    pub facts: Facts,
    /// The directory's lineage, if it is about this vault.
    pub lineage: Option<Lineage>,
    /// The snapshot that the directory comes from, as far as it was compared with that.
    pub compared_with: Option<SnapshotName>,
    /// The filters of the snapshot that the directory comes from, as far as it was compared with that: what they leave out is not known
    /// to be in any snapshot.
    pub saved_by: Option<Filters>,
    /// The snapshot whose root is damaged, and that is newer than all good ones, if there is one.
    pub damaged: Option<DamagedRoot>,
    /// The vaults that did not answer.
    pub away: Vec<AwayVault>,
    /// What else should be told, although it decides nothing.
    pub warnings: Vec<String>,
}

/// Looks at a data directory and its vaults. The vaults are only asked for what matters: nothing where the directory
/// must not be used at all, and no entries where it is empty.
///
/// # Errors
/// A directory that cannot be read, or is none; vaults that are not replicas of each other; a stop.
pub fn gather(
    sites: impl FnOnce() -> Result<Vec<Site>>,
    options: &StartOptions,
    rules: &StartRules,
    ctx: &Context,
) -> Result<Gathered> {
    gather_below(sites, options, rules, None, ctx)
}

/// The same, as if a snapshot that is damaged, and all that are newer, were not there. A snapshot that only repeats an older one, as each
/// start commits one, counts as that one if the directory comes from it.
///
/// # Errors
/// As [`gather`]; what a newer lastgood wrote may be newer than all that is left.
pub fn gather_below(
    sites: impl FnOnce() -> Result<Vec<Site>>,
    options: &StartOptions,
    rules: &StartRules,
    below: Option<SnapshotName>,
    ctx: &Context,
) -> Result<Gathered> {
    let mut facts = Facts {
        content: DirectoryContent::Absent,
        seed: SeedMark::None,
        lineage: KnownLineage::None,
        vault: VaultFacts::NoSnapshot,
        likeness: Likeness::No,
        changed: None,
        put_back: None,
        failed_database: None,
        named: None,
        compared: Vec::new(),
    };
    let looked = directory::look(options, rules.require_mount, ctx)?;
    facts.content = looked.content.clone();
    if matches!(looked.content, DirectoryContent::NotMounted | DirectoryContent::Unfinished { .. }) {
        return Ok(Gathered {
            facts,
            lineage: None,
            compared_with: None,
            saved_by: None,
            damaged: None,
            away: Vec::new(),
            warnings: Vec::new(),
        });
    }
    let vaults = vaults::open(sites()?, below)?;
    facts.vault = vaults.facts();
    facts.compared.extend(vaults.told());
    if let Some(spec) = &rules.snapshot {
        facts.named = Some(vaults.named(spec)?);
        if let Some(NamedSnapshot::Found(name)) = &facts.named {
            facts.compared.push(format!("--snapshot {spec} is {name}"));
        }
    }
    let mut gathering =
        Gathering { facts, options, vaults: &vaults, lineage: None, compared_with: None, saved_by: None, ctx };
    if let Looked { root: Some(root), content: DirectoryContent::Filled } = &looked {
        gathering.filled(root)?;
    }
    let Gathering { facts, lineage, compared_with, saved_by, .. } = gathering;
    let (away, warnings) = (vaults.away(), vaults.warnings());
    Ok(Gathered { facts, lineage, compared_with, saved_by, damaged: vaults.damaged_root(), away, warnings })
}

/// Whether a data directory holds data, by the rule that tells a directory that is [empty](DirectoryContent::Empty) from one that is
/// [filled](DirectoryContent::Filled). `false` if there is none.
///
/// # Errors
/// It cannot be read, or is no directory.
pub fn has_data(options: &StartOptions, ctx: &Context) -> Result<bool> {
    if !options.data.exists() {
        return Ok(false);
    }
    directory::has_data(&walk::open(&options.data)?, options, ctx)
}

/// The facts so far.
struct Gathering<'a> {
    facts: Facts,
    options: &'a StartOptions,
    vaults: &'a Opened,
    lineage: Option<Lineage>,
    compared_with: Option<SnapshotName>,
    saved_by: Option<Filters>,
    ctx: &'a Context<'a>,
}

impl Gathering<'_> {
    /// Gathers the facts of a directory with data.
    fn filled(&mut self, root: &Directory) -> Result<()> {
        self.facts.seed = seed::read(root, self.ctx)?;
        let lineage = lineage::read(root.path());
        let vaults = self.vaults;
        let here = lineage.as_ref().ok().and_then(Option::as_ref).filter(|here| vaults.id() == Some(here.vault));
        let comes_from = |newest: &Newest| {
            here.is_some_and(|here| here.snapshot == Some(newest.name) || newest.root.serial == Some(here.serial))
        };
        let newest = vaults.newest().map(|newest| vaults.repeated(newest, comes_from)).transpose()?;
        self.facts.lineage = match &lineage {
            Ok(None) => KnownLineage::None,
            Err(unclear) => KnownLineage::Unclear(unclear.to_string()),
            Ok(Some(lineage)) if self.vaults.id().is_some_and(|id| id != lineage.vault) => KnownLineage::OtherVault,
            Ok(Some(lineage)) => {
                let begun_since = newest.as_ref().is_some_and(|newest| newest.root.started > lineage.written);
                let chosen = match (lineage.chosen, begun_since) {
                    (false, _) => Chosen::No,
                    (true, false) => Chosen::Yes,
                    (true, true) => Chosen::Superseded,
                };
                self.lineage = Some(lineage.clone());
                KnownLineage::Here { snapshot: lineage.snapshot, chosen }
            }
        };
        self.facts.compared.push(self.lineage_in_words());
        if let Some(newest) = &newest {
            self.compare(root, newest)?;
        }
        self.check_databases(root, newest.as_ref())
    }

    fn lineage_in_words(&self) -> String {
        match (&self.facts.lineage, self.facts.seed) {
            (KnownLineage::None, SeedMark::None) => "the directory has no lineage (.lastgood/state.json)".into(),
            (KnownLineage::None, _) => "the directory is marked as an image's data (.lastgood/seed)".into(),
            (KnownLineage::Unclear(why), _) => why.clone(),
            (KnownLineage::OtherVault, _) => "the lineage is about another vault".into(),
            (KnownLineage::Here { snapshot: None, .. }, _) => "the lineage names no snapshot".into(),
            (KnownLineage::Here { snapshot: Some(name), chosen }, _) => match chosen {
                Chosen::No => format!("the lineage names {name}"),
                Chosen::Yes | Chosen::Superseded => format!("the lineage names {name}, which was chosen"),
            },
        }
    }

    /// Compares the directory with the newest good snapshot, and with the one that its lineage names.
    fn compare(&mut self, root: &Directory, newest: &Newest) -> Result<()> {
        let place = directory::place(&self.options.data, &self.options.boot, root)?;
        let compared = place.compared(root, self.options, self.ctx);
        let with = |newest: &Newest, until| match compared.with(newest.vault, &newest.root, until) {
            Ok(comparison) => Ok(Ok(comparison)),
            Err(why) if why.kind() == Kind::Damage || why.kind() == Kind::Unreachable => Ok(Err(why.what())),
            Err(why) => Err(why),
        };
        let names = self.lineage.as_ref().and_then(|lineage| lineage.snapshot);
        let serial = newest.root.serial;
        let records = self.lineage.as_ref().is_some_and(|lineage| serial == Some(lineage.serial));
        let same_place = place::compare(&newest.root.place, &place.identity, place.numbered) == PlaceLikeness::Same;
        // A lineage that names another snapshot knows better, unless the snapshot is of a program that records no serial.
        let of_this_place = same_place && (self.lineage.is_none() || serial.is_none());
        let names_it = names == Some(newest.name) || records && is_anew(&newest.root, names);
        let until = if !names_it && (records || of_this_place) { Until::End } else { Until::Different };
        let result = with(newest, until)?;
        self.facts.compared.push(in_words(newest.name, &result));
        let result = result.ok();
        let equal = result.as_ref().is_some_and(|result| result.changed() == Some(false));
        self.facts.likeness = match () {
            () if names_it => Likeness::NamesIt,
            () if records => Likeness::RecordsSerial,
            () if equal => Likeness::Equal,
            () if of_this_place => Likeness::SamePlace,
            () => Likeness::No,
        };
        self.facts.changed = result.as_ref().and_then(Comparison::changed);
        self.facts.put_back = result.and_then(|result| result.put_back);
        if self.facts.likeness != Likeness::No {
            self.compared_with = Some(newest.name);
            self.saved_by = Some(newest.root.filters.clone());
            return Ok(());
        }
        let Some(named) = names else {
            self.facts.changed = None;
            return Ok(());
        };
        let result = match self.vaults.find(named)? {
            Ok(older) => {
                self.compared_with = Some(older.name);
                self.saved_by = Some(older.root.filters.clone());
                with(&older, Until::Different)?
            }
            Err(why) => Err(why),
        };
        self.facts.compared.push(in_words(named, &result));
        self.facts.changed = result.ok().as_ref().and_then(Comparison::changed);
        Ok(())
    }

    fn check_databases(&mut self, root: &Directory, newest: Option<&Newest>) -> Result<()> {
        let Some(how) = self.options.check else { return Ok(()) };
        let filters = newest.map(|newest| newest.root.filters.clone()).unwrap_or_default();
        let select = Select::by(root.path(), &filters, &self.options.not_walked, self.options.sqlite)?;
        let known = newest.map_or_else(Vec::new, databases_of);
        let checked = databases::check(root, &select, &known, how, self.ctx)?;
        self.facts.compared.push(match &checked.failed {
            Some(failed) => format!("the database {} failed its check: {}", failed.path, failed.why),
            None => format!("{} passed the check", count_of(checked.sound, "database")),
        });
        let unchecked = checked.unchecked.iter().take(NAMED);
        let unchecked = unchecked.map(|(path, why)| format!("the database {path} could not be checked: {why}"));
        self.facts.compared.extend(unchecked);
        self.facts.failed_database = checked.failed;
        Ok(())
    }
}

/// Whether a root is that of a snapshot which was committed anew, and holds nothing else than the one that is named. `run` gives the directory the serial of such a
/// root first: one that was killed before it wrote the new name there, too, leaves a lineage that names the old one.
fn is_anew(root: &Root, named: Option<SnapshotName>) -> bool {
    named.is_some() && root.parent == named && root.totals.new_packs == 0 && root.totals.uploaded_bytes == 0
}

/// The databases of a snapshot. None if its list cannot be read: then files that are no databases any more pass.
fn databases_of(newest: &Newest) -> Vec<EntryPath> {
    let read =
        PackReader::for_root(&*newest.vault.store, &newest.root).and_then(|packs| packs.all(&newest.root.databases));
    read.unwrap_or_default().into_iter().map(|database| database.path).collect()
}

/// What a comparison found, for people.
fn in_words(name: SnapshotName, result: &Result<Comparison, String>) -> String {
    let result = match result {
        Ok(result) => result,
        Err(why) => return format!("compared with {name}: it cannot be read: {why}"),
    };
    let how = |change: &compare::Change| match change {
        compare::Change::Added => "new",
        compare::Change::Removed => "gone",
        compare::Change::Modified => "changed",
    };
    let named: Vec<_> = result.differences.iter().map(|(path, change)| format!("{path} ({})", how(change))).collect();
    let more = if named.len() >= NAMED { ", …" } else { "" };
    let found = match (named.is_empty(), &result.unsure) {
        (false, _) => format!("{}{more}", named.join(", ")),
        (true, Some((path, why))) => format!("nothing differs, as far as can be told; {path}: {why}"),
        (true, None) => "nothing differs".into(),
    };
    format!("compared with {name}: {found}")
}

#[cfg(test)]
mod tests;
