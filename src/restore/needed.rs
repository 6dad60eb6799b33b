//! Whether a restore is needed: what is in the target is looked at before anything is asked of a vault.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::fill::MARKER;
use crate::backup::select::Select;
use crate::backup::times;
use crate::backup::walk::{self, Met, Walker};
use crate::error::{Doing, Error, Result};
use crate::monitor::{Context, Silent};
use crate::vault::entry::Kind;
use crate::vault::root::SnapshotName;

/// When a restore takes place. It always does where neither is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Only {
    /// Where there is no file in the target, or a restore in place was cut off.
    pub missing: bool,
    /// Also where no file in the target was changed for this long, and all were before the snapshot was begun.
    pub older: Option<Duration>,
}

/// What is in a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// No file: it is not there, or holds no more than folders, or not all that a restore was to put there.
    Nothing,
    /// Files, of which the newest was changed then.
    Files(Timestamp),
}

impl Only {
    /// Whether the restore depends on what is there.
    pub fn is_conditional(&self) -> bool {
        self.missing || self.older.is_some()
    }

    /// Why the restore is not needed; `None` if it is. `newest` gives the snapshot, and when its capture began: it is asked only
    /// where that matters.
    ///
    /// # Errors
    /// Those of `newest`.
    pub fn unneeded(
        &self,
        target: &Path,
        there: There,
        now: Timestamp,
        newest: impl FnOnce() -> Result<(SnapshotName, Timestamp)>,
    ) -> Result<Option<String>> {
        let There::Files(changed) = there else { return Ok(None) };
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
}

/// Looks at what is in a target.
///
/// # Errors
/// A folder that cannot be read: what is in it may be newer than all else.
pub fn look(target: &Path, ctx: &Context) -> Result<There> {
    let doing = || format!("look whether {} has to be restored", target.display());
    match target.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {}
        // The restore says what is wrong with it.
        Ok(_) => return Ok(There::Nothing),
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(There::Nothing),
        Err(why) => return Err(Error::io(doing(), &why)),
    }
    if target.join(MARKER).symlink_metadata().is_ok() {
        return Ok(There::Nothing);
    }
    let root = walk::open(target)?;
    let select = Select::new(target, &[], &[], &[], false)?;
    let walker = Walker { root: &root, select: &select, threads: 1, now: times::now, stop: ctx.stop, monitor: &Silent };
    let mut newest = None;
    walker.whole(|met| {
        ctx.check("look at what is there")?;
        match met {
            Met::Entry(found) if found.kind != Kind::Folder => newest = newest.max(Some(found.mtime)),
            Met::Failed(path, why) => return Err(Error::failed(doing(), format!("{path}: {why}"))),
            _ => {}
        }
        Ok(())
    })?;
    let Some(newest) = newest else { return Ok(There::Nothing) };
    let time = Timestamp::from_nanosecond(newest.into());
    time.map(There::Files).map_err(|why| std::io::Error::other(why.to_string())).doing(doing)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::SystemTime;

    use super::*;
    use crate::restore::sample::context;
    use crate::vault::hex::Hex;

    #[test]
    fn what_holds_no_file_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let looked = || look(&target, &context()).unwrap();
        assert_eq!(looked(), There::Nothing);
        fs::create_dir_all(target.join("uploads/lost+found")).unwrap();
        assert_eq!(looked(), There::Nothing);
        for (name, seconds) in [("uploads/b", 2_000_000_000), ("a", 1_900_000_000)] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            File::create(target.join(name)).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(looked(), There::Files(Timestamp::from_second(2_000_000_000).unwrap()));
        File::create(target.join(MARKER)).unwrap();
        assert_eq!(looked(), There::Nothing);
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
        assert_eq!(unneeded(missing, There::Nothing, None), None);
        assert!(unneeded(missing, There::Files(at(1)), None).unwrap().contains("there are files in data"));
        let older = Only { missing: false, older: Some(Duration::from_secs(2 * 3600)) };
        assert_eq!(unneeded(older, There::Nothing, None), None);
        assert!(unneeded(older, There::Files(at(9)), None).unwrap().contains("1h ago"));
        // A clock that went back, or a time that a program set.
        assert!(unneeded(older, There::Files(at(11)), None).unwrap().contains("0s ago"));
        assert_eq!(unneeded(older, There::Files(at(8)), Some(9)), None);
        assert!(unneeded(older, There::Files(at(7)), Some(6)).unwrap().contains("after the snapshot"));
        assert!(unneeded(older, There::Files(at(7)), Some(7)).is_some());
    }
}
