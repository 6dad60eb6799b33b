//! Somebody swaps a folder for a link while a restore is under way.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::path::EntryPath;
use crate::store::testing::fault::FaultStore;

/// Restores while somebody swaps something in `in/` once the staging folder is there. Returns what the restore said and
/// what `far/` is afterwards, which must be what it was.
fn swapped(
    what: &str,
    chosen: RestoreOptions,
    sample: &SampleVault,
    folder: &Path,
    swap: impl Fn(&Path) + Send + Sync + 'static,
) -> Result<RestoreReport> {
    for victim in ["far/data/a", "far/a", "far/tree"] {
        fs::create_dir_all(folder.join(victim)).unwrap();
        fs::write(folder.join(victim).join("one"), "far").unwrap();
        fs::set_permissions(folder.join(victim), PermissionsExt::from_mode(0o555)).unwrap();
    }
    let before = look(&folder.join("far"));
    let (root, done) = (folder.to_path_buf(), std::sync::Mutex::new(false));
    let store = FaultStore::new(sample.store, move |_, _| {
        let mut done = done.lock().unwrap();
        let names = |at: &Path| fs::read_dir(at).map(|all| all.map(|e| e.unwrap().file_name()).collect::<Vec<_>>());
        let all = [names(&root.join("in")), names(&root.join("in/data"))].into_iter().flatten().flatten();
        if !*done && all.into_iter().any(|name| name.to_string_lossy().contains("lastgood-restoring-")) {
            swap(&root);
            *done = true;
        }
        false
    });
    let vault = Vault::open(Box::new(store)).unwrap();
    let said = restore(&vault, &chosen, &context());
    assert_eq!(look(&folder.join("far")), before, "{what}: {said:?}");
    said
}

#[test]
fn a_folder_that_is_swapped_for_a_link_leads_nothing_elsewhere() {
    use std::os::unix::fs::symlink;
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let one = || vec![EntryPath::new("a/one").unwrap()];
    let replace = |from: &'static str, with: &'static str| {
        move |root: &Path| {
            fs::rename(root.join(from), root.join("moved")).unwrap();
            symlink(root.join(with), root.join(from)).unwrap();
        }
    };
    let staging = |root: &Path| {
        let mut names = fs::read_dir(root.join("in")).unwrap().map(|e| e.unwrap().path());
        let staging = names.find(|name| name.to_string_lossy().contains("lastgood-restoring-")).unwrap();
        fs::rename(&staging, root.join("moved")).unwrap();
        symlink(root.join("far"), &staging).unwrap();
    };
    let world = || {
        let folder = tempfile::tempdir().unwrap();
        old_tree(&folder.path().join("in/data"));
        let target = folder.path().join("in/data");
        (folder, options(&target))
    };

    let what = "the folder around the target";
    let (folder, chosen) = world();
    swapped(what, chosen, &sample, folder.path(), replace("in", "far")).unwrap();
    assert_eq!(look(&folder.path().join("moved/data")), expected(&sample), "{what}");
    assert_eq!(fs::read_dir(folder.path().join("moved")).unwrap().count(), 2, "{what}");

    let what = "the folder around a target of which a part is put back";
    let (folder, chosen) = world();
    swapped(what, RestoreOptions { paths: one(), ..chosen }, &sample, folder.path(), replace("in", "far")).unwrap();
    assert_eq!(look(&folder.path().join("moved/data"))[&b"a/one"[..]], expected(&sample)[&b"a/one"[..]], "{what}");

    let what = "the target that is filled in place";
    let (folder, chosen) = world();
    swapped(what, RestoreOptions { in_place: true, ..chosen }, &sample, folder.path(), replace("in/data", "far/data"))
        .unwrap();
    assert_eq!(look(&folder.path().join("moved"))[&b"b/two"[..]], expected(&sample)[&b"b/two"[..]], "{what}");

    let what = "the target";
    let (folder, chosen) = world();
    swapped(what, chosen, &sample, folder.path(), replace("in/data", "far/data")).unwrap();
    assert_eq!(look(&folder.path().join("in/data")), expected(&sample), "{what}");

    let what = "the target of which a part is put back";
    let (folder, chosen) = world();
    let chosen = RestoreOptions { paths: one(), ..chosen };
    swapped(what, chosen, &sample, folder.path(), replace("in/data", "far/data")).unwrap_err();
    assert_eq!(fs::read_dir(folder.path().join("in")).unwrap().count(), 1, "{what}");

    for in_place in [false, true] {
        let what = "a folder above the entry";
        let (folder, chosen) = world();
        let chosen = RestoreOptions { paths: one(), in_place, ..chosen };
        let said = swapped(what, chosen, &sample, folder.path(), replace("in/data/a", "far/a")).unwrap_err();
        assert!(said.to_string().contains("not a folder"), "{said}");
        assert_eq!(fs::read(folder.path().join("moved/one")).unwrap(), b"old", "{what}");
    }

    let what = "the staging folder";
    for paths in [Vec::new(), one()] {
        let (folder, chosen) = world();
        swapped(what, RestoreOptions { paths, ..chosen }, &sample, folder.path(), staging).unwrap_err();
        let now = look(&folder.path().join("in/data"));
        assert_eq!(now[&b"a/one"[..]], expected(&sample)[&b"a/one"[..]], "{what}");
        assert_eq!(fs::read_dir(folder.path().join("moved")).unwrap().count(), 0, "{what}");
    }
}
