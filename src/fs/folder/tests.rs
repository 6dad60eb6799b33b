use crate::fs::rename::{give_name, link_or_rename, rename};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A folder to work in, and another one that is reached only by links, with a file that must stay.
fn world() -> (tempfile::TempDir, Folder, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (here, far) = (folder.path().join("here"), folder.path().join("far"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&far).unwrap();
    fs::write(far.join("kept"), "kept").unwrap();
    let here = Folder::open(&here).unwrap();
    (folder, here, far)
}

fn untouched(far: &Path) {
    let names: Vec<_> = fs::read_dir(far).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["kept"]);
    assert_eq!(fs::read(far.join("kept")).unwrap(), b"kept");
    assert_eq!(far.metadata().unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn no_link_is_followed_and_no_path_is_a_name() {
    let (_folder, here, far) = world();
    fs::set_permissions(&far, fs::Permissions::from_mode(0o755)).unwrap();
    symlink(&far, here.path().join("link")).unwrap();
    assert_eq!(here.enter("link").unwrap_err(), Errno::NOTDIR);
    assert_eq!(here.enter_all(Path::new("link/x")).unwrap_err(), Errno::NOTDIR);
    assert_eq!(here.make_all(Path::new("link/x"), 0o700).unwrap_err(), Errno::NOTDIR);
    assert!(here.remove_tree("link").is_err());
    for name in ["", ".", "..", "../far", "link/kept", "/"] {
        assert_eq!(here.remove_file(name).unwrap_err(), Errno::INVAL, "{name:?}");
        assert_eq!(here.enter(name).unwrap_err(), Errno::INVAL, "{name:?}");
    }
    assert!(here.enter_all(Path::new("../far")).is_err());
    untouched(&far);
}

#[test]
fn what_is_emptied_is_the_open_folder_and_not_what_its_links_name() {
    let (_folder, here, far) = world();
    fs::set_permissions(&far, fs::Permissions::from_mode(0o755)).unwrap();
    let here = Arc::new(here);
    let closed = here.path().join("tree/closed/deep");
    fs::create_dir_all(&closed).unwrap();
    fs::write(closed.join("file"), "").unwrap();
    symlink(&far, closed.join("link")).unwrap();
    symlink(far.join("kept"), here.path().join("tree/link")).unwrap();
    for (path, mode) in [(&closed, 0o000), (&here.path().join("tree/closed"), 0o500)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // The folder is open, and somebody puts a link in its place.
    let tree = here.enter("tree").unwrap();
    fs::rename(here.path().join("tree"), here.path().join("away")).unwrap();
    symlink(&far, here.path().join("tree")).unwrap();
    tree.empty().unwrap();
    assert!(here.remove_folder("tree").is_err());
    assert_eq!(fs::read_dir(here.path().join("away")).unwrap().count(), 0);
    untouched(&far);

    // A mode is set, and a folder renamed, under the name that the folder has now.
    let (from, to) = (Spot::new(&here, "tree"), Spot::new(&here, "renamed"));
    assert!(from.enter().is_err());
    rename(&from, &to).unwrap();
    assert!(here.path().join("renamed").is_symlink());
    untouched(&far);
}

#[test]
fn a_tree_that_is_deeper_than_files_may_be_open_is_removed() {
    let (_folder, here, _) = world();
    let mut at = here.make("top", 0o700).unwrap();
    for _ in 0..3 * DEEP {
        at = at.make("d", 0o700).unwrap();
        fs::write(Path::new("/proc/self/fd").join(at.fd.as_raw_fd().to_string()).join("file"), "").unwrap();
    }
    here.remove_tree("top").unwrap();
    assert!(here.names().unwrap().is_empty());
}

#[test]
fn a_folder_that_nobody_may_read_gets_its_mode_by_its_descriptor() {
    let (_folder, here, _) = world();
    let inner = here.make("inner", 0o000).unwrap();
    inner.set_mode(0o750).unwrap();
    assert_eq!(here.look("inner").unwrap().unwrap().st_mode & 0o777, 0o750);
    let told = chmod(format!("/proc/self/fd/{}", inner.fd.as_raw_fd()), Mode::from_raw_mode(0o710));
    assert_eq!((told, here.look("inner").unwrap().unwrap().st_mode & 0o777), (Ok(()), 0o710));
}

#[test]
fn a_file_that_has_its_name_has_it_whatever_the_call_said() {
    for fallback in [false, true] {
        let (_folder, here, _) = world();
        let at = |name: &str| here.path().join(name);
        let name = |file: &fs::File, to: &str| {
            let (from, to) = ((&here, OsStr::new("from")), (&here, OsStr::new(to)));
            if fallback { link_or_rename(file, from, to) } else { give_name(file, from, to) }
        };
        let file = fs::File::create(at("from")).unwrap();
        fs::write(at("taken"), "").unwrap();
        assert_eq!(name(&file, "taken"), Ok(false));
        assert_eq!((at("from").exists(), name(&file, "to")), (true, Ok(true)));
        assert_eq!(here.names().unwrap().len(), 2);

        // The file has been linked, and the answer was lost.
        let file = fs::File::create(at("from")).unwrap();
        fs::hard_link(at("from"), at("linked")).unwrap();
        assert_eq!((name(&file, "linked"), at("from").exists()), (Ok(true), false));
        // The file has been renamed, and the answer was lost.
        let file = fs::File::create(at("renamed")).unwrap();
        assert_eq!(name(&file, "renamed"), Ok(true));
        assert_eq!(name(&file, "none").unwrap_err(), Errno::NOENT);
    }
}
