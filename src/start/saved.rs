//! Finds the snapshot that holds a directory which is about to be saved because it has diverged: an app that fails at each
//! start on the same image must not fill the vault with that image's content.

use super::compare::{Compared, Until};
use super::facts::{StartOptions, directory};
use crate::backup::descent;
use crate::error::{Kind, Result};
use crate::monitor::Context;
use crate::replicas::{Site, SiteState};
use crate::source::walk;
use crate::vault::root::{Filters, SnapshotName};

/// How many of the newest snapshots of diverged directories are compared with the directory.
const COMPARED: usize = 4;

/// Returns a pinned snapshot of a diverged directory that equals the directory, and that leaves out nothing that one with these filters
/// would hold. `None` if there is none, or if that could not be told.
///
/// # Errors
/// A directory that cannot be read; a store that fails; a stop.
pub fn saved_before(
    sites: &[Site],
    options: &StartOptions,
    filters: &Filters,
    ctx: &Context,
) -> Result<Option<SnapshotName>> {
    let root = walk::open(&options.data)?;
    let place = directory::place(&options.data, &options.boot, &root)?;
    // It decides that something is replaced without being saved. A backup, which follows otherwise, would read all of it as well.
    let compared = Compared { most_read: u64::MAX, strict: true, ..place.compared(&root, options, ctx) };
    let vaults = sites.iter().filter_map(|site| match &site.found {
        SiteState::Vault(vault) => Some(vault),
        SiteState::Nothing(_) | SiteState::Failed(_) => None,
    });
    let mut seen = Vec::new();
    for vault in vaults {
        for (name, snapshot) in descent::saved_before(vault, COMPARED)? {
            if !holds_all(&snapshot.filters, filters) || seen.contains(&name) {
                continue;
            }
            match compared.with(vault, &snapshot, Until::Different) {
                Ok(comparison) if comparison.changed() == Some(false) => return Ok(Some(name)),
                Ok(_) => seen.push(name),
                // It holds nothing safely, here.
                Err(why) if why.kind() == Kind::Damage => {}
                Err(why) => return Err(why),
            }
        }
    }
    Ok(None)
}

/// Whether a snapshot with the filters `theirs` leaves out nothing that one with `ours` would hold: they are the same, or more is excluded
/// now. It is compared with the directory by its own filters, so it holds what they leave in.
pub fn holds_all(theirs: &Filters, ours: &Filters) -> bool {
    theirs.include == ours.include
        && (ours.one_file_system || !theirs.one_file_system)
        && theirs.exclude.iter().all(|pattern| ours.exclude.contains(pattern))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::error::Code;
    use crate::monitor::system_random;
    use crate::restore::sample::context;
    use crate::skipped::skipped;
    use crate::start::testing::{BOOT, World, copy};
    use crate::vault::pins::{self, Pin};

    fn find(world: &World, filters: &Filters) -> Result<Option<SnapshotName>> {
        let options = StartOptions {
            data: world.data.clone(),
            from: "/vault".into(),
            not_walked: Vec::new(),
            sqlite: true,
            check: None,
            boot: BOOT.into(),
        };
        saved_before(&[world.site()], &options, filters, &context())
    }

    #[test]
    fn a_copy_of_what_was_saved_is_known_and_what_differs_is_not() {
        let mut world = World::new();
        world.write("a", b"1");
        world.write("sub/b", b"2");
        world.options.diverged = Some("nobody knows where it comes from".into());
        let saved = world.backup().snapshot;
        let all = Filters::default();
        assert_eq!(find(&world, &all).unwrap(), None, "nothing keeps it");
        let pin = Pin::new(saved, Timestamp::MAX, "diverged", None);
        pins::store(&world.vault(), &pin, &system_random).unwrap();
        assert_eq!(find(&world, &all).unwrap(), Some(saved));
        // A container that starts again has new inodes.
        let before = world.data.with_extension("before");
        std::fs::rename(&world.data, &before).unwrap();
        copy(&before, &world.data);
        assert_eq!(find(&world, &all).unwrap(), Some(saved));
        let some = Filters { exclude: vec!["*.log".into()], ..Filters::default() };
        assert_eq!(find(&world, &some).unwrap(), Some(saved), "it holds more than is asked for");
        let some = Filters { include: vec!["a".into()], ..Filters::default() };
        assert_eq!(find(&world, &some).unwrap(), None, "other files may be left out");
        let less = |exclude: &str| Filters { exclude: vec![exclude.into()], ..Filters::default() };
        assert!(holds_all(&less("*.log"), &less("*.log")));
        let one = Filters { one_file_system: true, ..Filters::default() };
        assert!(holds_all(&all, &one) && holds_all(&one, &one) && !holds_all(&one, &all));
        assert!(!holds_all(&less("*.log"), &all) && !holds_all(&less("*.log"), &less("*.tmp")));
        // Nothing that a restore would bring back may differ, whatever the times are.
        let b = world.data.join("sub/b");
        let (times, mode) =
            (std::fs::metadata(&b).unwrap().modified().unwrap(), std::fs::metadata(&b).unwrap().permissions());
        let at = |text: &str| {
            std::fs::write(&b, text).unwrap();
            std::fs::File::open(&b).unwrap().set_modified(times).unwrap();
        };
        at("4");
        assert_eq!(find(&world, &all).unwrap(), None, "other content, the same size and time");
        at("2");
        assert_eq!(find(&world, &all).unwrap(), Some(saved));
        std::fs::set_permissions(&b, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(find(&world, &all).unwrap(), None, "another mode");
        std::fs::set_permissions(&b, mode).unwrap();
        match rustix::fs::setxattr(&b, "user.label", b"", rustix::fs::XattrFlags::empty()) {
            Ok(()) => {
                assert_eq!(find(&world, &all).unwrap(), None, "an attribute");
                rustix::fs::removexattr(&b, "user.label").unwrap();
            }
            Err(_) => skipped("xattrs", "the filesystem of the tests has no extended attributes"),
        }
        std::fs::hard_link(&b, world.data.with_extension("link")).unwrap();
        assert_eq!(find(&world, &all).unwrap(), None, "another name");
        std::fs::remove_file(world.data.with_extension("link")).unwrap();
        assert_eq!(find(&world, &all).unwrap(), Some(saved));
        world.write("sub/b", b"3");
        assert_eq!(find(&world, &all).unwrap(), None);
        std::fs::remove_dir_all(&world.data).unwrap();
        assert_eq!(find(&world, &all).unwrap_err().code(), Code::NoData);
    }

    #[test]
    fn a_database_with_a_log_is_known_by_what_both_hold() {
        let mut world = World::new();
        // An image that was made while the database was open.
        let image = tempfile::tempdir().unwrap();
        let database = rusqlite::Connection::open(image.path().join("a.db")).unwrap();
        database.execute_batch("pragma journal_mode = wal; pragma wal_autocheckpoint = 0").unwrap();
        database.execute_batch("create table t (x); insert into t values (1)").unwrap();
        let from_image = |world: &World| {
            std::fs::remove_dir_all(&world.data).unwrap();
            std::fs::create_dir(&world.data).unwrap();
            for name in ["a.db", "a.db-wal"] {
                std::fs::copy(image.path().join(name), world.data.join(name)).unwrap();
            }
            assert!(world.data.join("a.db-wal").metadata().unwrap().len() > 0);
        };
        from_image(&world);
        world.options.diverged = Some("nobody knows where it comes from".into());
        let saved = world.backup().snapshot;
        let pin = Pin::new(saved, Timestamp::MAX, "diverged", None);
        pins::store(&world.vault(), &pin, &system_random).unwrap();
        let find = |world: &World| find(world, &Filters::default()).unwrap();
        assert_eq!(find(&world), Some(saved));
        from_image(&world);
        assert_eq!(find(&world), Some(saved), "the next start of the container");
        // The file of the database is the same.
        database.execute_batch("update t set x = 2").unwrap();
        from_image(&world);
        assert_eq!(find(&world), None, "the log holds something else");
    }
}
