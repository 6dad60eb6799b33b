//! Carrying over, on two folders.

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
        carry_over(&self.at("aside"), &self.at("data"), &select, None, &mut |_| ()).unwrap()
    }

    /// Whether a file lies 1,000 levels deep in the restored directory.
    fn files_deep(&self) -> bool {
        let deep = Folder::open(&self.at("data")).unwrap().enter_all(Path::new(&"d/".repeat(1000)));
        deep.unwrap().look("x.tmp").unwrap().is_some()
    }

    /// The paths of files below a folder.
    fn files(&self, name: &str) -> Vec<String> {
        tree(&self.at(name)).into_iter().filter(|(_, text)| text != "/").map(|(path, _)| path).collect()
    }
}

#[test]
fn a_database_that_is_left_out_comes_back_with_its_log() {
    for sqlite in [true, false] {
        let all =
            Directories::new(&["a", "cache.db", "cache.db-wal", "cache.db-shm", "old.db-journal", "old.db"], &["a"]);
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
    assert_eq!((done.moved, stays.join(" ")), (1, "folder.tmp file.tmp cache/a sub".to_owned()));
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
    let stays: Vec<_> = done.stays.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(stays, ["gone.db-wal", "app.db-wal"], "{done:?}");
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
    carry_over(&all.at("elsewhere"), &all.at("data"), &select, None, &mut |_| ()).unwrap_err();
}

#[test]
fn a_file_that_only_has_the_name_of_a_log_stays_aside_and_is_told_and_a_folder_is_no_database() {
    let all = Directories::new(&["daily", "daily-journal", "app/x", "app-journal", "z.tmp"], &["daily", "b"]);
    let done = all.carry(&[], &["*-journal", "*.tmp"]);
    let stays: Vec<_> = done.stays.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!((done.moved, stays), (2, vec!["daily-journal".to_owned()]));
    assert_eq!(all.files("data"), ["app-journal", "b", "daily", "z.tmp"]);
}

#[test]
fn where_no_pattern_leaves_anything_out_nothing_is_walked() {
    let all =
        Directories::new(&["a", "deep/x.replaced-20261130T120000Z/y", "lastgood.replaced-20261130T120000Z/z"], &["a"]);
    assert_eq!(all.carry(&[], &[]).moved, 1);
    assert_eq!(all.files("data"), ["a", "lastgood.replaced-20261130T120000Z/z"]);
    let all = Directories::new(&["deep/x.replaced-20261130T120000Z/y"], &["a"]);
    assert_eq!(all.carry(&[], &["*.tmp"]).moved, 1);
    assert_eq!(all.files("data"), ["a", "deep/x.replaced-20261130T120000Z/y"]);
}

#[test]
fn a_tree_deeper_than_any_stack_is_walked() {
    let all = Directories::new(&["top.tmp"], &["a"]);
    let aside = Folder::open(&all.at("aside")).unwrap();
    let mut at = aside.enter_all(Path::new("")).unwrap();
    for _ in 0..1000 {
        at = at.make("d", 0o755).unwrap();
    }
    rustix::fs::mknodat(&at, "x.tmp", rustix::fs::FileType::RegularFile, rustix::fs::Mode::RUSR, 0).unwrap();
    let work = || assert_eq!((all.carry(&[], &["*.tmp"]).moved, all.files_deep()), (2, true));
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, work).unwrap().join().unwrap();
    });
    for name in ["aside", "data"] {
        Folder::open(&all.at(name)).unwrap().empty().unwrap();
    }
}

/// What a call that is killed after its last word leaves is given back by the next one.
#[test]
fn what_a_killed_call_had_opened_gets_its_mode_and_times_back() {
    use std::os::unix::fs::PermissionsExt;
    let all = Directories::new(&["shut/x.tmp", "shut/a"], &["shut/a"]);
    let mode = |path: &str, mode| fs::set_permissions(all.at(path), fs::Permissions::from_mode(mode)).unwrap();
    ["aside/shut", "data/shut"].iter().for_each(|path| mode(path, 0o500));
    let of = |path: &str| {
        let meta = fs::metadata(all.at(path)).unwrap();
        (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec())
    };
    let before = (of("aside/shut"), of("data/shut"));
    let select = Select::new(&all.at("data"), &[], &["*.tmp".into()], &[], true).unwrap();
    let mut told = Vec::new();
    let mut tell = |changed: &ChangedFolder| told.push(changed.clone());
    assert_eq!(carry_over(&all.at("aside"), &all.at("data"), &select, None, &mut tell).unwrap().moved, 1);
    assert_eq!((of("aside/shut"), of("data/shut")), before);
    // As if it had been killed within that folder, and a folder had been about to be made in it.
    ["aside/shut", "data/shut"].iter().for_each(|path| mode(path, 0o700));
    fs::create_dir(all.at("data/shut").join(MAKING)).unwrap();
    let text = serde_json::to_string(told.last().unwrap()).unwrap();
    let read: ChangedFolder = serde_json::from_str(&text).unwrap();
    carry_over(&all.at("aside"), &all.at("data"), &select, Some(&read), &mut |_| ()).unwrap();
    assert_eq!((of("aside/shut"), of("data/shut")), before);
    assert!(!all.at("data/shut").join(MAKING).exists());
    // A mode that somebody has given it since stays.
    mode("data/shut", 0o755);
    carry_over(&all.at("aside"), &all.at("data"), &select, Some(&read), &mut |_| ()).unwrap();
    assert_eq!(of("data/shut").0, 0o755);
}

#[test]
fn a_database_whose_log_a_killed_call_had_moved_comes_after_it() {
    let all = Directories::new(&["cache.db"], &["a", "cache.db-wal"]);
    let select = Select::new(&all.at("data"), &[], &["cache.db".into()], &[], false).unwrap();
    let before = ChangedFolder { sides: vec![EscapedBytes(b"cache.db-wal".to_vec())], ..ChangedFolder::default() };
    let done = carry_over(&all.at("aside"), &all.at("data"), &select, Some(&before), &mut |_| ()).unwrap();
    assert_eq!((done.moved, done.stays), (1, Vec::new()));
}
