use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::vault::hex::Hex;

/// Marks a whole folder as half restored.
pub fn write_all(folder: &Path) {
    let at = Arc::new(Folder::open(folder).unwrap());
    set(&at, &at, Some(&Unfinished::default())).unwrap();
}

/// Makes a folder later than any before it.
pub fn make_later(folder: &Path) {
    // The clock of a filesystem goes in steps.
    std::thread::sleep(std::time::Duration::from_millis(30));
    fs::create_dir(folder).unwrap();
}

fn paths<const N: usize>(paths: [&str; N]) -> Vec<EntryPath> {
    paths.map(|path| EntryPath::new(path).unwrap()).into()
}

fn some<const N: usize>(names: [&str; N], aside: &str) -> Unfinished {
    Unfinished { paths: paths(names), aside: vec![aside.into()], ..Unfinished::default() }
}

/// The options of the restore that completes the unfinished one.
fn options(unfinished: &Unfinished, folder: &EntryPath) -> String {
    let command = unfinished.of(RestoreCommand::new(None, "/none".into()), folder).to_string();
    command.strip_prefix("lastgood restore").and_then(|rest| rest.strip_suffix(" /none")).unwrap().to_owned()
}

const INSIDE: &str = "lastgood.replaced-20261121T101112Z";
const BESIDE: &str = "../data.replaced-20261121T101113Z-2";

#[test]
fn a_marker_says_what_every_restore_left_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let at = Arc::new(Folder::open(folder.path()).unwrap());
    let via = tempfile::tempdir().unwrap();
    let via = Arc::new(Folder::open(via.path()).unwrap());
    assert_eq!(Unfinished::read(&at), Ok(None));
    let odd = || some(["a\n b", "-x/y", "app.db"], INSIDE);
    assert_eq!(mark(&at, &via, &odd()).unwrap(), None);
    assert_eq!(Unfinished::at(folder.path()), Ok(Some(odd())));
    assert_eq!(options(&odd(), &EntryPath::root()), " --path 'a\\x0a b' --path ./-x/y --path app.db");
    assert_eq!(options(&odd(), &paths(["vol"])[0]), " --path 'vol/a\\x0a b' --path vol/-x/y --path vol/app.db");

    assert_eq!(mark(&at, &via, &some(["app.db", "z"], BESIDE)).unwrap(), Some(odd()));
    let both = Unfinished::read(&at).unwrap().unwrap();
    assert_eq!(both.to_string(), "-x/y, a\n b, app.db and 1 more");
    assert_eq!(both.aside, [INSIDE, BESIDE].map(PathBuf::from));
    assert_eq!(mark(&at, &via, &Unfinished::default()).unwrap(), Some(both.clone()));
    let all = Unfinished::read(&at).unwrap().unwrap();
    assert_eq!((all.is_all(), &all.aside), (true, &both.aside));
    // A restore that was undone removes its own part of the marker.
    set(&at, &via, Some(&both)).unwrap();
    assert_eq!(Unfinished::read(&at), Ok(Some(both)));
    assert_eq!(at.names().unwrap(), [MARKER]);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    set(&at, &via, None).unwrap();
    assert_eq!(at.names().unwrap().len(), 0);
}

#[test]
fn what_is_restored_again_is_finished() {
    let left = some(["a/b", "app.db", "app.db-wal"], INSIDE);
    let wal = paths(["app.db-wal"]);
    assert_eq!(left.without(&[], &[]), None);
    // A file beside a database is done once it has been put back too, or no longer exists.
    assert_eq!(left.without(&paths(["a", "app.db"]), &[]), Some(some(["app.db-wal"], INSIDE)));
    assert_eq!(left.without(&paths(["a", "app.db", "app.db-wal"]), &[]), None);
    assert_eq!(left.without(&paths(["a", "app.db"]), &wal), None);
    assert_eq!(left.without(&paths(["app.db", "b"]), &wal), Some(some(["a/b"], INSIDE)));
    assert_eq!(left.without(&paths(["a/b/c"]), &[]), Some(left.clone()));
    let all = Unfinished::default();
    assert_eq!((all.without(&paths(["a"]), &wal), all.without(&[], &[])), (Some(all.clone()), None));
}

#[test]
fn a_marker_that_is_cut_off_or_foreign_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join(MARKER);
    let at = Arc::new(Folder::open(folder.path()).unwrap());
    let unclear = |why: &str| {
        let said = Unfinished::at(folder.path()).unwrap_err();
        assert!(said.to_string().contains(why), "{said}");
        let refused = mark(&at, &at, &Unfinished::default()).unwrap_err().to_string();
        assert!(refused.contains(why) && refused.contains(said.advice), "{refused}");
    };
    let whole = some(["a", "b"], INSIDE).text();
    let longer = [ALL.as_bytes(), &vec![0; LONGEST as usize]].concat();
    let path = [&whole[..], b"path ../x\0"].concat();
    for text in [&whole[..whole.len() - 1], b"", b"some text", SOME.as_bytes(), &path, &longer] {
        fs::write(&marker, text).unwrap();
        unclear("not a restore's");
    }
    // Only a restore may say where people are led to.
    fs::write(&marker, [ALL.as_bytes(), b"aside ../../etc\0aside /x\0aside mine\0"].concat()).unwrap();
    assert_eq!(Unfinished::at(folder.path()), Ok(Some(Unfinished::default())));
    fs::remove_file(&marker).unwrap();
    fs::create_dir(&marker).unwrap();
    unclear("is a folder");
    fs::remove_dir(&marker).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&marker).unwrap();
    unclear("is neither a file nor a folder");
    fs::remove_file(&marker).unwrap();
    std::os::unix::fs::symlink(MARKER, &marker).unwrap();
    unclear("is a symbolic link");
    assert_eq!(at.names().unwrap(), [MARKER]);
}

#[test]
fn a_marker_that_was_copied_says_nothing_of_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let [own, other] = ["own", "other"].map(|name| folder.path().join(name));
    [&own, &other].into_iter().for_each(|at| make_later(at));
    write_all(&own);
    fs::copy(own.join(MARKER), other.join(MARKER)).unwrap();
    let read = |at: &Path| [Unfinished::read, Unfinished::read_own].map(|read| read(Folder::open(at).unwrap()));
    let all = || Ok(Some(Unfinished::default()));
    assert_eq!(read(&own), [all(), all()]);
    assert_eq!(read(&other), [all(), Ok(None)]);
    // The marker goes where its folder goes.
    fs::rename(&own, folder.path().join("moved")).unwrap();
    assert_eq!(read(&folder.path().join("moved")), [all(), all()]);
    fs::write(other.join(MARKER), ALL).unwrap();
    assert_eq!(read(&other), [all(), Ok(None)]);
}

#[test]
fn a_restore_into_a_folder_around_concerns_what_it_was_of() {
    let folder = tempfile::tempdir().unwrap();
    let srv = folder.path().canonicalize().unwrap().join("srv");
    fs::create_dir_all(srv.join("app1/data")).unwrap();
    let at = Arc::new(Folder::open(&srv).unwrap());
    let found = |data: &str| above(&srv.join(data)).map(|(folder, _)| folder);
    for (names, data, is) in [
        (&["app1/app.db"][..], "app1", true),
        (&["app1"], "app1/data", true),
        (&["app1/app.db"], "app1/data", false),
        (&["app2"], "app1", false),
        (&[], "app1/data", true),
        // The data directory has its own marker for that.
        (&[], "", false),
    ] {
        let paths = names.iter().map(|name| EntryPath::new(*name).unwrap()).collect();
        set(&at, &at, Some(&Unfinished { paths, ..Unfinished::default() })).unwrap();
        assert_eq!(found(data), is.then(|| srv.clone()), "{names:?} {data}");
    }
    if geteuid().is_root() {
        std::os::unix::fs::chown(srv.join(MARKER), Some(1234), None).unwrap();
        assert_eq!(found("app1"), None);
        std::os::unix::fs::chown(&srv, Some(1234), None).unwrap();
        assert_eq!(found("app1"), Some(srv.clone()));
    }
}

#[test]
fn what_is_too_long_is_not_marked_as_something_else() {
    let long: Vec<_> = (0..500).map(|n| EntryPath::new(format!("{n}{}", "/long".repeat(600))).unwrap()).collect();
    assert!(Unfinished::can_name(&long[..300]) && !Unfinished::can_name(&long));
    let folder = tempfile::tempdir().unwrap();
    let at = Arc::new(Folder::open(folder.path()).unwrap());
    let half = |paths: &[EntryPath]| Unfinished { paths: paths.to_vec(), ..Unfinished::default() };
    mark(&at, &at, &half(&long[..300])).unwrap();
    let said = mark(&at, &at, &half(&long[300..])).unwrap_err().to_string();
    assert!(said.contains("too many"), "{said}");
    assert_eq!(Unfinished::read(&at).unwrap().map(|said| said.paths.len()), Some(300));
    assert_eq!(at.names().unwrap(), [MARKER]);
}

#[test]
fn every_user_may_read_a_marker_whatever_the_mask() {
    let folder = tempfile::tempdir().unwrap();
    let at = Arc::new(Folder::open(folder.path()).unwrap());
    let said = Unfinished { paths: paths(["a"]), ..Unfinished::default() };
    mark(&at, &at, &said).unwrap();
    let mode = || fs::metadata(folder.path().join(MARKER)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o644);
    fs::set_permissions(folder.path().join(MARKER), fs::Permissions::from_mode(0o000)).unwrap();
    if !rustix::process::geteuid().is_root() {
        let said = Unfinished::at(folder.path()).unwrap_err();
        assert!(said.to_string().contains("mode 0") && said.advice.contains("chmod 644"), "{said}");
    }
}

#[test]
fn a_marker_names_the_snapshot_that_completes_it() {
    let name = |id| SnapshotName { seq: 1, time: jiff::Timestamp::UNIX_EPOCH, id: Hex([id; 8]) };
    let of = |id, path| Unfinished { snapshot: Some(name(id)), ..some([path], INSIDE) };
    let (one, root) = (of(1, "a"), EntryPath::root());
    assert_eq!(Unfinished::parse(&one.text()), Some(one.clone()));
    assert_eq!(options(&one, &root), " --path a --snapshot 0101010101010101");
    assert_eq!(one.and(&of(1, "b")).snapshot, Some(name(1)));
    // If there are two snapshots, neither may have all of the paths.
    assert_eq!(options(&one.and(&of(2, "b")), &root), " --path a --path b");
    let all = Unfinished { snapshot: Some(name(2)), ..Unfinished::default() };
    assert_eq!(Unfinished { aside: Vec::new(), ..one.and(&all) }, all);
    assert_eq!(options(&all, &root), " --in-place --snapshot 0202020202020202");
    // A marker as an older program wrote it, and with what a newer one may add.
    let text = [SOME.as_bytes(), b"path a\0of tomorrow\0"].concat();
    assert_eq!(Unfinished::parse(&text), Some(Unfinished { paths: paths(["a"]), ..Unfinished::default() }));
}

#[test]
fn what_completes_it_follows_from_where_the_old_is() {
    let (root, volume) = (EntryPath::root(), paths(["my vol"]).remove(0));
    let all = |aside: &str| Unfinished { aside: vec![aside.into()], ..Unfinished::default() };
    assert_eq!(options(&Unfinished::default(), &root), " --in-place");
    assert_eq!(options(&all(INSIDE), &root), " --in-place");
    assert_eq!(options(&all(BESIDE), &root), "");
    assert_eq!(options(&all(INSIDE), &volume), " --path 'my vol'");
    for (unfinished, expected) in
        [(all(INSIDE), " --around-mounts"), (some(["a"], BESIDE), " --around-mounts --path a")]
    {
        let around = Unfinished { around: true, ..unfinished };
        assert_eq!(options(&around, &root), expected);
        assert_eq!(Unfinished::parse(&around.text()), Some(around));
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    assert_eq!(all(BESIDE).was_there(&data).len(), 0);
    fs::create_dir_all(data.join(BESIDE.trim_start_matches("../"))).unwrap();
    assert_eq!(all(BESIDE.trim_start_matches("../")).was_there(&data).len(), 1);
}
