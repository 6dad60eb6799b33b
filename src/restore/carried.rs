//! Brings back what snapshots leave out of a directory that a restore has replaced: `--exclude` and `--include` say that it is not
//! part of the data, so a restore of the data is not to take it away.
//!
//! It is done after the exchange and not before: until then the directory is as it was, whatever happens. Each entry moves by one
//! rename that replaces nothing, so at any moment it is in one of the two directories, and whoever begins again ends it. What the
//! snapshot has brought under the same name stays, and so does the other one, where it was moved aside.
//!
//! Entries that are left out as a whole, such as a folder of caches, are one rename, however large they are. A folder that is not left
//! out itself is made if the snapshot does not have it, with the attributes that it had.
//!
//! **Side files** of databases (`-wal`, `-journal`, `-shm`) never come back beside a database that the snapshot has brought: an old
//! log would be played into it. They go with their database, even if a pattern says `*-wal`, or names the database alone. Nor does a
//! database come back beside a log that the snapshot has brought, which it has where databases are not told from other files.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Stat;

use super::in_place::REPLACED;
use super::staging_names::shortened;
use super::steps::{FolderAttributes, outwards};
use crate::error::{Doing, Result};
use crate::fs::rename::rename;
use crate::fs::{Folder, Spot, is_file, is_folder};
use crate::lineage::OWN_FOLDER;
use crate::path::EntryPath;
use crate::source::marker::MARKER;
use crate::source::select::{Select, is_ours};
use crate::sqlite::side_files::SUFFIXES;
use crate::vault::entry::EntryKind;

/// What was brought back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CarriedOver {
    /// The number of entries that were moved; a folder with all that is in it is one.
    pub moved: u64,
    /// Entries that stay aside, since something else has their names, or since they cannot be moved: each with the reason.
    pub stays: Vec<(EntryPath, String)>,
}

/// Moves back from `aside`, which was the content of `target`, what `select` leaves out of snapshots.
///
/// # Errors
/// A folder that cannot be read, made or changed. What is not moved then is where it was, and may be moved by another call.
pub fn carry_over(aside: &Path, target: &Path, select: &Select) -> Result<CarriedOver> {
    let open = |path: &Path| Folder::straight(path).doing(|| format!("open {}", path.display()));
    let (from, to) = (Arc::new(open(aside)?), Arc::new(open(target)?));
    let mut carrying = Carrying { select, done: CarriedOver::default(), sides: HashSet::new() };
    carrying.folder(&from, Some(&to), &EntryPath::root(), false)?;
    Ok(carrying.done)
}

struct Carrying<'s> {
    select: &'s Select,
    done: CarriedOver,
    /// Side files that were moved.
    sides: HashSet<EntryPath>,
}

impl Carrying<'_> {
    /// Moves what is left out from one folder to the other; all of it if the folder `is_left_out` itself. Without a folder to move it
    /// to, nothing is moved. Returns whether something is to be moved that was not.
    fn folder(
        &mut self,
        from: &Arc<Folder>,
        to: Option<&Arc<Folder>>,
        path: &EntryPath,
        is_left_out: bool,
    ) -> Result<bool> {
        let mut changes = Changes::default();
        let done = self.entries((from, to), path, is_left_out, &mut changes);
        changes.end().doing(|| format!("give {} its attributes back", from.path().display()))?;
        done
    }

    fn entries(
        &mut self,
        (from, to): (&Arc<Folder>, Option<&Arc<Folder>>),
        path: &EntryPath,
        is_left_out: bool,
        changes: &mut Changes,
    ) -> Result<bool> {
        let doing = |folder: &Folder| format!("bring back what snapshots leave out of {}", folder.path().display());
        for name in &outwards(from)? {
            let child = path.join(name.as_bytes());
            if path.is_root() && (name == OWN_FOLDER || name == MARKER) {
                continue;
            }
            let Some(stat) = from.look(name).doing(|| doing(from))? else { continue };
            let there = match to {
                Some(to) => to.look(name).doing(|| doing(to))?,
                None => None,
            };
            let left_out = is_left_out
                || !self.select.selects_path(&child, kind(&stat))
                || is_file(&stat) && self.is_side_of_left_out((from, to), name, path);
            if is_folder(&stat) && (!left_out || there.is_some()) {
                if there.as_ref().is_some_and(|there| !is_folder(there)) {
                    let below = Arc::new(from.enter(name).doing(|| doing(from))?);
                    if left_out || self.folder(&below, None, &child, false)? {
                        self.stays(child, "the snapshot has something else of that name");
                    }
                    continue;
                }
                let below = Arc::new(from.enter(name).doing(|| doing(from))?);
                let into = match (&there, to) {
                    (Some(_), Some(to)) => Some(Arc::new(to.enter(name).doing(|| doing(to))?)),
                    _ => None,
                };
                let missing = self.folder(&below, into.as_ref(), &child, left_out)?;
                let Some(to) = to.filter(|_| missing) else {
                    if missing {
                        return Ok(true);
                    }
                    continue;
                };
                // Only now is it known that the folder is needed.
                changes.begin(&[from, to]).doing(|| doing(to))?;
                let made = Arc::new(to.make(name, 0o700).doing(|| doing(to))?);
                self.folder(&below, Some(&made), &child, left_out)?;
                let attributes = FolderAttributes::read(&below).doing(|| doing(&below))?;
                attributes.apply_to(&made).doing(|| doing(&made))?;
                continue;
            }
            if !left_out || is_file(&stat) && self.belongs_elsewhere(from, to, name, path, is_left_out) {
                continue;
            }
            let Some(to) = to else { return Ok(true) };
            if there.is_some() {
                self.stays(child, "the snapshot has something of that name");
                continue;
            }
            if is_file(&stat) && self.meets_a_log(to, name, path) {
                self.stays(child, "the snapshot has a log of that name, which would be played into it");
                continue;
            }
            changes.begin(&[from, to]).doing(|| doing(to))?;
            match rename(&Spot::new(from, name), &Spot::new(to, name)) {
                Ok(()) => {
                    self.done.moved += 1;
                    if base_of(name).is_some() {
                        self.sides.insert(child);
                    }
                }
                Err(why) => self.stays(child, &std::io::Error::from(why).to_string()),
            }
        }
        Ok(false)
    }

    fn stays(&mut self, path: EntryPath, why: &str) {
        self.done.stays.push((path, why.to_owned()));
    }

    /// Whether a file is the side file of a database that is left out: it is left out with that, whatever the patterns say of it.
    fn is_side_of_left_out(
        &self,
        (from, to): (&Folder, Option<&Arc<Folder>>),
        name: &OsStr,
        above: &EntryPath,
    ) -> bool {
        let Some(base) = base_of(name) else { return false };
        let is_in = |folder: &Folder| matches!(folder.look(OsStr::from_bytes(base)), Ok(Some(_)));
        !self.select.selects_path(&above.join(base), EntryKind::File) && (is_in(from) || to.is_some_and(|to| is_in(to)))
    }

    /// Whether the snapshot may have brought a log that a database would take for its own. Where databases are told from other files,
    /// no snapshot has the log of one that is left out.
    fn meets_a_log(&self, to: &Folder, name: &OsStr, above: &EntryPath) -> bool {
        !self.select.sqlite
            && SUFFIXES.iter().any(|side| {
                let beside = [name.as_bytes(), side.as_bytes()].concat();
                let path = above.join(&beside);
                !self.sides.contains(&path)
                    && self.select.selects_path(&path, EntryKind::File)
                    && !matches!(to.look(OsStr::from_bytes(&beside)), Ok(None))
            })
    }

    /// Whether a file would be the side file of a database that is not brought back with it.
    fn belongs_elsewhere(
        &self,
        from: &Folder,
        to: Option<&Arc<Folder>>,
        name: &OsStr,
        above: &EntryPath,
        all: bool,
    ) -> bool {
        let Some(base) = base_of(name) else { return false };
        let comes_from = |folder: &Folder| matches!(folder.look(OsStr::from_bytes(base)), Ok(Some(_)) | Err(_));
        let is_taken = to.is_some_and(|to| comes_from(to));
        let path = above.join(base);
        is_taken || comes_from(from) && !all && self.select.selects_path(&path, EntryKind::File)
    }
}

/// The name of the database that a file may be the side file of.
fn base_of(name: &OsStr) -> Option<&[u8]> {
    let base = SUFFIXES.iter().find_map(|side| name.as_bytes().strip_suffix(side.as_bytes()));
    base.filter(|base| !base.is_empty())
}

/// The kind of an entry, as far as a selection asks for it.
fn kind(stat: &Stat) -> EntryKind {
    if is_folder(stat) { EntryKind::Folder } else { EntryKind::File }
}

/// Folders that are changed, and the attributes that they get back.
#[derive(Default)]
struct Changes(Vec<(Arc<Folder>, FolderAttributes)>);

impl Changes {
    /// Makes folders writable, once.
    fn begin(&mut self, folders: &[&Arc<Folder>]) -> rustix::io::Result<()> {
        if !self.0.is_empty() {
            return Ok(());
        }
        for folder in folders {
            let (mode, attributes) = (folder.mode()?, FolderAttributes::read(folder)?);
            self.0.push(((*folder).clone(), attributes));
            if mode & 0o700 != 0o700 {
                folder.set_mode(mode | 0o700)?;
            }
        }
        Ok(())
    }

    /// Gives the folders back what they had: their times above all, by which the next look compares them with the snapshot.
    fn end(self) -> rustix::io::Result<()> {
        self.0.iter().try_for_each(|(folder, attributes)| attributes.apply_to(folder))
    }
}

/// Returns the names of what restores have moved aside of `target`: beside it, or inside it where it was filled in place.
///
/// # Errors
/// A folder that cannot be read.
pub fn set_aside(target: &Path, in_place: bool) -> Result<Vec<OsString>> {
    let beside = target.parent().zip(target.file_name()).filter(|_| !in_place);
    let (base, stem) = match beside {
        Some((parent, name)) => {
            let mut stem = shortened(name, ".replaced-20261130T120000Z-999".len());
            stem.push(".replaced-");
            (parent, stem)
        }
        None => (target, REPLACED.into()),
    };
    let names = Folder::open(base).and_then(|base| base.names());
    let names = names.doing(|| format!("look for what restores moved aside in {}", base.display()))?;
    let is_one = |name: &OsString| name.as_bytes().starts_with(stem.as_bytes()) && is_ours(name.as_bytes());
    Ok(names.into_iter().filter(is_one).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Returns what lies below a folder: the text of files, `/` for folders, and the kind of others.
    fn tree(at: &Path) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut left = vec![at.to_owned()];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = path.symlink_metadata().unwrap().file_type();
                let text = match (kind.is_dir(), kind.is_file()) {
                    (true, _) => "/".into(),
                    (_, true) => fs::read_to_string(&path).unwrap(),
                    _ => "other".into(),
                };
                found.insert(path.strip_prefix(at).unwrap().display().to_string(), text);
                if kind.is_dir() {
                    left.push(path);
                }
            }
        }
        found
    }

    struct Directories(tempfile::TempDir);

    impl Directories {
        /// Makes what was moved aside, and what a snapshot has brought in its place.
        fn new(aside: &[&str], target: &[&str]) -> Self {
            let all = Directories(tempfile::tempdir().unwrap());
            for (name, paths, text) in [("aside", aside, "old"), ("data", target, "new")] {
                fs::create_dir(all.at(name)).unwrap();
                for path in paths {
                    let at = all.at(name).join(path);
                    match path.strip_suffix('/') {
                        Some(_) => fs::create_dir_all(at).unwrap(),
                        None => {
                            fs::create_dir_all(at.parent().unwrap()).unwrap();
                            fs::write(at, text).unwrap();
                        }
                    }
                }
            }
            all
        }

        fn at(&self, name: &str) -> std::path::PathBuf {
            self.0.path().canonicalize().unwrap().join(name)
        }

        fn carry(&self, include: &[&str], exclude: &[&str]) -> CarriedOver {
            self.carry_as((include, exclude), true)
        }

        /// The same; `sqlite` says whether databases are told from other files.
        fn carry_as(&self, (include, exclude): (&[&str], &[&str]), sqlite: bool) -> CarriedOver {
            let [include, exclude] =
                [include, exclude].map(|all| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>());
            let select = Select::new(&self.at("data"), &include, &exclude, &[], sqlite).unwrap();
            carry_over(&self.at("aside"), &self.at("data"), &select).unwrap()
        }

        /// The paths of files below a folder.
        fn files(&self, name: &str) -> Vec<String> {
            tree(&self.at(name)).into_iter().filter(|(_, text)| text != "/").map(|(path, _)| path).collect()
        }
    }

    #[test]
    fn a_database_that_is_left_out_comes_back_with_its_log() {
        for sqlite in [true, false] {
            let all = Directories::new(
                &["a", "cache.db", "cache.db-wal", "cache.db-shm", "old.db-journal", "old.db"],
                &["a"],
            );
            let done = all.carry_as((&[], &["cache.db", "old.db"]), sqlite);
            assert_eq!(done.stays, []);
            let came = ["a", "cache.db", "cache.db-shm", "cache.db-wal", "old.db", "old.db-journal"];
            assert_eq!(all.files("data"), came, "{sqlite}");
            assert_eq!(all.files("aside"), ["a"]);
        }
    }

    #[test]
    fn a_database_does_not_come_back_beside_the_log_of_another_one() {
        let all = Directories::new(&["cache.db"], &["cache.db-wal"]);
        let done = all.carry_as((&[], &["cache.db"]), false);
        assert_eq!(done.stays.len(), 1, "{done:?}");
        assert_eq!((all.files("aside"), all.files("data")), (vec!["cache.db".into()], vec!["cache.db-wal".to_owned()]));
        // One that comes from the same directory is its own, and one that a snapshot cannot have is, too.
        let all = Directories::new(&["cache.db", "cache.db-wal"], &[]);
        assert_eq!(all.carry_as((&[], &["cache.db"]), false).moved, 2);
        let all = Directories::new(&["cache.db"], &["cache.db-wal"]);
        assert_eq!(all.carry(&[], &["cache.db"]).moved, 1);
    }

    #[test]
    fn what_is_left_out_comes_back_and_the_data_does_not() {
        let aside =
            ["a", "cache/deep/x", "logs/app.tmp", "logs/app.log", "new/only.tmp", "kept/file", ".lastgood/state.json"];
        let all = Directories::new(&aside, &["a", "logs/app.log", ".lastgood/state.json"]);
        symlink("/etc", all.at("aside/link.tmp")).unwrap();
        let _socket = UnixListener::bind(all.at("aside/socket.tmp")).unwrap();
        let before = fs::metadata(all.at("data/logs")).unwrap();
        fs::set_permissions(all.at("aside/new"), std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
        let done = all.carry(&[], &["cache", "*.tmp"]);
        assert_eq!((done.moved, done.stays), (5, Vec::new()));
        let data =
            [".lastgood/state.json", "a", "cache/deep/x", "link.tmp", "logs/app.log", "logs/app.tmp", "new/only.tmp"];
        assert_eq!(all.files("data"), [&data[..], &["socket.tmp"]].concat());
        assert_eq!(all.files("aside"), [".lastgood/state.json", "a", "kept/file", "logs/app.log"]);
        let (logs, new) = (fs::metadata(all.at("data/logs")).unwrap(), fs::metadata(all.at("data/new")).unwrap());
        assert_eq!((logs.mtime(), logs.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
        assert_eq!(new.mode() & 0o777, 0o750);
        // Once more, as after a kill: nothing is left to do.
        assert_eq!(all.carry(&[], &["cache", "*.tmp"]), CarriedOver::default());
    }

    #[test]
    fn nothing_that_the_snapshot_brings_is_replaced() {
        let aside = ["cache/a", "cache/b", "file.tmp", "folder.tmp/x", "sub/y.tmp"];
        let all = Directories::new(&aside, &["cache/a", "file.tmp", "folder.tmp", "sub"]);
        let done = all.carry(&[], &["cache", "*.tmp"]);
        let stays: Vec<_> = done.stays.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!((done.moved, stays.join(" ")), (1, "sub folder.tmp file.tmp cache/a".to_owned()));
        assert_eq!(all.files("aside"), ["cache/a", "file.tmp", "folder.tmp/x", "sub/y.tmp"]);
        let brought = tree(&all.at("data"));
        assert!(["cache/a", "file.tmp", "folder.tmp", "sub"].iter().all(|path| brought[*path] == "new"), "{brought:?}");
        assert_eq!(brought["cache/b"], "old");
    }

    #[test]
    fn a_log_comes_back_with_its_database_alone() {
        let aside = [
            "app.db",
            "app.db-wal",
            "gone.db-wal",
            "cache.db",
            "cache.db-wal",
            "my-journal",
            "cache/c.db",
            "cache/c.db-wal",
        ];
        let all = Directories::new(&aside, &["app.db", "gone.db"]);
        let done = all.carry(&[], &["*-wal", "cache.db", "cache", "my-journal"]);
        assert_eq!(done.stays, Vec::new());
        assert_eq!(
            all.files("data"),
            ["app.db", "cache.db", "cache.db-wal", "cache/c.db", "cache/c.db-wal", "gone.db", "my-journal"]
        );
        assert_eq!(all.files("aside"), ["app.db", "app.db-wal", "gone.db-wal"]);
        // With --include, what is beside a database that is included is the data's.
        let all = Directories::new(&["app.db", "app.db-wal", "notes.txt", "x.csv"], &["app.db"]);
        all.carry(&["*.db", "*.csv"], &[]);
        assert_eq!(all.files("data"), ["app.db", "notes.txt"]);
    }

    #[test]
    fn a_planted_link_leads_nowhere() {
        let all = Directories::new(&["logs/app.tmp"], &["a"]);
        fs::create_dir(all.at("far")).unwrap();
        symlink(all.at("far"), all.at("data/logs")).unwrap();
        all.carry(&[], &["*.tmp"]);
        assert_eq!((all.files("far"), all.files("aside")), (Vec::new(), vec!["logs/app.tmp".to_owned()]));
        symlink(all.at("aside"), all.at("elsewhere")).unwrap();
        let select = Select::new(&all.at("data"), &[], &[], &[], true).unwrap();
        carry_over(&all.at("elsewhere"), &all.at("data"), &select).unwrap_err();
    }

    #[test]
    fn only_names_of_restores_of_this_directory_are_found() {
        let all = Directories::new(&[], &["lastgood.replaced-20261130T120000Z/x", "other/"]);
        let aside = ["data.replaced-20261130T120000Z", "data.replaced-20261130T120000Z-2"];
        for name in aside.iter().chain(&["data.replaced-mine", "datas.replaced-20261130T120000Z", "data.replaced-"]) {
            fs::create_dir(all.at(name)).unwrap();
        }
        let mut found = set_aside(&all.at("data"), false).unwrap();
        found.sort();
        assert_eq!(found, aside);
        assert_eq!(set_aside(&all.at("data"), true).unwrap(), ["lastgood.replaced-20261130T120000Z"]);
    }
}
