//! Decides whether a restore is needed: what is in the target is looked at before anything is asked of a vault, again
//! when nobody else restores there, and again when everything is ready to be put into place.

use std::io::ErrorKind;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::options::{Only, RestoreOptions};
use crate::error::{Doing, Error, Result};
use crate::fs::lock;
use crate::monitor::Context;
use crate::source::marker::Unfinished;
use crate::source::select::Select;
use crate::source::walk::{self, Met, Walker};
use crate::vault::entry::EntryKind;
use crate::vault::root::SnapshotName;

/// The content of a target, as far as it decides whether a restore is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetContent {
    /// No file: the target does not exist, or holds only folders, or a restore of all of it was not finished.
    NoFiles,
    /// Files; the newest was changed at this time.
    Files(Timestamp),
}

impl Only {
    /// Whether the restore depends on what is there.
    pub fn is_conditional(&self) -> bool {
        self.missing || self.older.is_some()
    }

    /// Returns why the restore is not needed. `None` if it is needed. `newest` returns the snapshot and when its
    /// capture began; it is called only where that matters.
    ///
    /// # Errors
    /// Any error of `newest`.
    pub fn unneeded(
        &self,
        target: &Path,
        there: TargetContent,
        now: Timestamp,
        newest: impl FnOnce() -> Result<(SnapshotName, Timestamp)>,
    ) -> Result<Option<String>> {
        let TargetContent::Files(changed) = there else { return Ok(None) };
        let target = target.display();
        let Some(older) = self.older else { return Ok(Some(format!("there are files in {target}"))) };
        let age = now.duration_since(changed);
        if age < SignedDuration::try_from(older).unwrap_or(SignedDuration::MAX) {
            let age = SignedDuration::from_secs(age.as_secs().max(0));
            return Ok(Some(format!("a file in {target} was changed {age:#} ago")));
        }
        let (name, begun) = newest()?;
        let why = format!("a file in {target} was changed after the snapshot {name} was begun, at {changed:.0}");
        Ok((changed >= begun).then_some(why))
    }

    /// Checks whether the restore of the snapshot `name`, whose capture began at `begun`, is needed with the target as
    /// it is now.
    ///
    /// # Errors
    /// Unneeded: it is not needed. Otherwise as [`target_content`].
    pub fn check(
        &self,
        (options, from): (&RestoreOptions, &str),
        (name, begun): (SnapshotName, Timestamp),
        ctx: &Context,
    ) -> Result<()> {
        if !self.is_conditional() {
            return Ok(());
        }
        let target = &*options.target;
        match self.unneeded(target, target_content(options, from, ctx)?, Timestamp::now(), || Ok((name, begun)))? {
            Some(why) => Err(Error::unneeded(format!("restore to {}", target.display()), why)),
            None => Ok(()),
        }
    }
}

/// As [`target_content`], for a caller that has no lock of the target: it waits for a restore that is at work there.
///
/// # Errors
/// As [`target_content`]; a wait that takes too long; a stop.
pub fn target_content_when_settled(options: &RestoreOptions, from: &str, ctx: &Context) -> Result<TargetContent> {
    let target = &*options.target;
    // Held to the end of the look.
    let locked = match Unfinished::at(target) {
        Ok(None) => None,
        _ => walk::open(target).ok(),
    };
    if let Some(locked) = &locked
        && let Some(note) = lock::lock(locked, lock::LockKind::Shared, lock::RESTORE_WAITS, ctx.stop)?
    {
        ctx.monitor.warn(&note);
    }
    target_content(options, from, ctx)
}

/// Looks at what is in a target, apart from vaults; `from` is the address of the vault that is restored from.
///
/// # Errors
/// A folder that cannot be read: what is in it may be newer than all else. A target in which a restore of some paths
/// was not finished.
pub fn target_content(options: &RestoreOptions, from: &str, ctx: &Context) -> Result<TargetContent> {
    let target = &*options.target;
    let doing = || format!("look whether {} has to be restored", target.display());
    match target.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {}
        // The restore says what is wrong with it.
        Ok(_) => return Ok(TargetContent::NoFiles),
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(TargetContent::NoFiles),
        Err(why) => return Err(Error::io(doing(), &why)),
    }
    // If a restore of single paths was not finished, all else is the app's, and nobody has asked to restore that: it is
    // an error below, as is a marker that does not tell what was not finished.
    if Unfinished::at(target).is_ok_and(|marked| marked.is_some_and(|unfinished| unfinished.is_all())) {
        return Ok(TargetContent::NoFiles);
    }
    let root = walk::open(target)?;
    walk::check_finished(target, &root, from)?;
    let select = Select::new(target, &[], &[], &options.vaults, false)?;
    let walker = Walker { restored_from: Some(from), ..Walker::quiet(&root, &select, ctx.stop) };
    let mut newest = None;
    walker.whole(|met| {
        ctx.check("look at what is there")?;
        match met {
            Met::Entry(found) if found.kind != EntryKind::Folder => newest = newest.max(Some(found.mtime)),
            Met::Failed(path, why) => return Err(Error::failed(doing(), format!("{path}: {why}"))),
            _ => {}
        }
        Ok(())
    })?;
    let Some(newest) = newest else { return Ok(TargetContent::NoFiles) };
    let time = Timestamp::from_nanosecond(newest.into());
    time.map(TargetContent::Files).map_err(|why| std::io::Error::other(why.to_string())).doing(doing)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::error;
    use crate::restore::restore;
    use crate::restore::sample::context;
    use crate::restore::staging_names::STAGING;
    use crate::restore::tests::{options, small};
    use crate::source::marker::{self, MARKER};
    use crate::store::testing::fault::FaultStore;
    use crate::vault::Vault;
    use crate::vault::hex::Hex;
    use crate::vault::root::SnapshotState;

    #[test]
    fn what_holds_no_file_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let looked = || target_content(&options(&target), "/v", &context()).unwrap();
        assert_eq!(looked(), TargetContent::NoFiles);
        fs::create_dir_all(target.join("uploads/lost+found")).unwrap();
        assert_eq!(looked(), TargetContent::NoFiles);
        for (name, seconds) in [("uploads/b", 2_000_000_000), ("a", 1_900_000_000)] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            File::create(target.join(name)).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(looked(), TargetContent::Files(Timestamp::from_second(2_000_000_000).unwrap()));
        marker::tests::write_all(&target);
        assert_eq!(looked(), TargetContent::NoFiles);
        // A marker that cannot be read does not say what is unfinished: the files may be newer than all else.
        for text in ["", "some text"] {
            fs::write(target.join(MARKER), text).unwrap();
            let said = target_content(&options(&target), "/v", &context()).unwrap_err();
            assert!(said.why().contains(MARKER) && said.advice().is_some(), "{said}");
        }
    }

    #[test]
    fn a_restore_that_is_at_work_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        marker::tests::write_all(folder.path());
        let held = crate::fs::beneath::Directory::open(folder.path()).unwrap();
        lock::lock(&held, lock::LockKind::Exclusive, Duration::ZERO, &AtomicBool::new(false)).unwrap();
        let stop = AtomicBool::new(true);
        let ctx = Context { stop: &stop, ..context() };
        let said = target_content_when_settled(&options(folder.path()), "/v", &ctx).unwrap_err().to_string();
        assert!(said.contains("lock the directory"), "{said}");
        drop(held);
        assert_eq!(target_content_when_settled(&options(folder.path()), "/v", &ctx).unwrap(), TargetContent::NoFiles);
    }

    #[test]
    fn a_restore_never_goes_back_behind_what_is_there() {
        let at = |hours: i64| Timestamp::from_second(2_000_000_000 + hours * 3600).unwrap();
        let name = SnapshotName { seq: 1, time: at(0), id: Hex([1; 8]) };
        let unneeded = |only: Only, there, begun: Option<i64>| {
            let newest = || Ok((name, at(begun.expect("no snapshot is asked for"))));
            only.unneeded(Path::new("data"), there, at(10), newest).unwrap()
        };
        let missing = Only { missing: true, older: None };
        assert_eq!(unneeded(missing, TargetContent::NoFiles, None), None);
        assert!(unneeded(missing, TargetContent::Files(at(1)), None).unwrap().contains("there are files in data"));
        let older = Only { missing: false, older: Some(Duration::from_secs(2 * 3600)) };
        assert_eq!(unneeded(older, TargetContent::NoFiles, None), None);
        assert!(unneeded(older, TargetContent::Files(at(9)), None).unwrap().contains("1h ago"));
        // A clock that went back, or a time that a program set.
        assert!(unneeded(older, TargetContent::Files(at(11)), None).unwrap().contains("0s ago"));
        assert_eq!(unneeded(older, TargetContent::Files(at(8)), Some(9)), None);
        assert!(unneeded(older, TargetContent::Files(at(7)), Some(6)).unwrap().contains("after the snapshot"));
        assert!(unneeded(older, TargetContent::Files(at(7)), Some(7)).is_some());
    }

    #[test]
    fn a_directory_that_comes_while_a_path_is_restored_keeps_what_is_in_it() {
        let mut sample = small();
        sample.commit(SnapshotState::Complete);
        let path = sample.entries.iter().find(|entry| entry.kind == EntryKind::File).unwrap().path.clone();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let (above, data) = (folder.path().to_owned(), target.clone());
        let store = FaultStore::new(sample.store, move |_, _| {
            let names = fs::read_dir(&above).unwrap().map(|entry| entry.unwrap().file_name());
            if names.into_iter().any(|name| name.to_string_lossy().contains(STAGING)) {
                fs::create_dir_all(&data).unwrap();
                fs::write(data.join("row"), "new").unwrap();
            }
            false
        });
        let vault = Vault::open(Box::new(store)).unwrap();
        let chosen = RestoreOptions { paths: vec![path.clone()], ..options(&target) };
        restore(&vault, &chosen, &context()).unwrap();
        assert_eq!(fs::read(target.join("row")).unwrap(), b"new");
        assert!(target.join(path.as_path()).exists());
    }

    #[test]
    fn what_comes_while_the_snapshot_is_read_does_not_move_aside() {
        let mut sample = small();
        sample.commit(SnapshotState::Complete);
        let names =
            |at: &Path| fs::read_dir(at).into_iter().flatten().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        for (in_place, exists) in [(false, false), (false, true), (true, false), (true, true)] {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("data");
            if exists {
                fs::create_dir(&target).unwrap();
            }
            let (above, data, written) = (folder.path().to_owned(), target.clone(), AtomicBool::new(false));
            let store = FaultStore::new(sample.store, move |_, _| {
                let staged =
                    [names(&above), names(&data)].concat().iter().any(|name| name.to_string_lossy().contains(STAGING));
                if staged && !written.swap(true, Ordering::Relaxed) {
                    fs::create_dir_all(&data).unwrap();
                    fs::write(data.join("row"), "new").unwrap();
                }
                false
            });
            let vault = Vault::open(Box::new(store)).unwrap();
            for older in [None, Some(Duration::from_secs(3600))] {
                let chosen =
                    RestoreOptions { in_place, only: Only { missing: older.is_none(), older }, ..options(&target) };
                let said = restore(&vault, &chosen, &context()).unwrap_err();
                assert_eq!(said.kind(), error::Kind::Unneeded, "{said}");
                assert!(said.why().contains(&format!("in {}", target.display())), "{said}");
                assert_eq!((names(folder.path()), names(&target)), (vec!["data".into()], vec!["row".into()]));
                assert_eq!(fs::read(target.join("row")).unwrap(), b"new");
            }
        }
    }
}
