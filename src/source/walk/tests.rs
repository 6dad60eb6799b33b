use super::*;
use crate::source::marker;
use std::fs;

fn paths(data: &Path, select: &Select, threads: usize) -> Vec<String> {
    let mut out = Vec::new();
    let (root, stop) = (open(data).unwrap(), AtomicBool::new(false));
    let walker = Walker { threads, now: || 0, restored_from: Some("/v"), ..Walker::quiet(&root, select, &stop) };
    let mut listed = 0;
    walker
        .whole(|met| {
            match met {
                Met::Entry(found) => out.push(found.path.to_string()),
                Met::Listed(_) => listed += 1,
                Met::Away(path) => out.push(format!("{path} is away")),
                Met::Skipped(path, why) => out.push(format!("{path}: {why}")),
                Met::Failed(path, why) => out.push(format!("{path} failed: {why}")),
            }
            Ok(())
        })
        .unwrap();
    assert!(listed > 0);
    out
}

fn tree() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    for folder in ["a", "a/deep/er", "a.d", "b", "data.replaced-20261121T101112Z", "b.replaced-now"] {
        fs::create_dir_all(data.path().join(folder)).unwrap();
    }
    for file in ["a/x.csv", "a/deep/er/y.json", "a.d/z", "a b", "b/w.csv", "data.replaced-20261121T101112Z/old"] {
        fs::write(data.path().join(file), file).unwrap();
    }
    data
}

#[test]
fn all_in_path_order_whatever_the_threads() {
    let data = tree();
    let all = Select::new(Path::new("data"), &[], &[], &[], true).unwrap();
    let expected = [
        ".",
        "a",
        "a/deep",
        "a/deep/er",
        "a/deep/er/y.json",
        "a/x.csv",
        "a b",
        "a.d",
        "a.d/z",
        "b",
        "b/w.csv",
        "b.replaced-now",
    ];
    for threads in [0, 1, 4] {
        assert_eq!(paths(data.path(), &all, threads), expected);
    }
    let root = open(data.path()).unwrap();
    let (told, wrong) = all.left_out(&root).unwrap();
    assert!(wrong && told.starts_with("data.replaced-20261121T101112Z: left out"), "{told}");
    // What a program is at work in is nothing to see to.
    let staging = data.path().join(".lastgood-restoring-0123456789abcdef");
    fs::create_dir(&staging).unwrap();
    let told = || {
        paths(data.path(), &all, 0);
        all.left_out(&root).unwrap().0
    };
    assert!(told().starts_with(".lastgood-restoring-0123456789abcdef, data.replaced-"), "{}", told());
    let held = fs::File::open(&staging).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(!told().contains("restoring"));
    drop(held);
    assert!(told().contains("restoring"));
    paths(data.path(), &all, 0);
    fs::remove_dir(&staging).unwrap();
    assert!(!all.left_out(&root).unwrap().0.contains("restoring"));
}

#[test]
fn what_is_selected() {
    let data = tree();
    let some = Select::new(
        data.path(),
        &["*.csv".into(), "a/**/y.json".into()],
        &["b".into()],
        &[data.path().join("a.d")],
        true,
    )
    .unwrap();
    let expected = [".", "a", "a/deep", "a/deep/er", "a/deep/er/y.json", "a/x.csv", "b.replaced-now"];
    assert_eq!(paths(data.path(), &some, 2), expected);
    for pattern in ["a", "a/", "/a", "./a/", data.path().join("a").to_str().unwrap()] {
        let select = Select::new(data.path(), &[pattern.into()], &[], &[], true).unwrap();
        let found = paths(data.path(), &select, 1);
        for (path, taken) in [("a/x.csv", true), ("a/deep/er/y.json", true), ("a b", false), ("b/w.csv", false)] {
            assert_eq!(found.contains(&path.into()), taken, "{pattern}: {found:?}");
        }
        assert_eq!(select.unmet(), [], "{pattern}");
    }
    for pattern in ["a[", "", "/", ".", "./", "..", "a/../b", "!a"] {
        let said = Select::new(data.path(), &[], &[pattern.into()], &[], true).unwrap_err();
        assert_eq!(said.kind(), crate::error::Kind::Usage, "{pattern}");
    }
    for pattern in ["./a", "/a", "a/", data.path().join("a").to_str().unwrap()] {
        let select = Select::new(data.path(), &[], &[pattern.into()], &[], true).unwrap();
        let found = paths(data.path(), &select, 1);
        assert!(
            found.contains(&"b/w.csv".into()) && !found.iter().any(|p| p.starts_with("a/")),
            "{pattern}: {found:?}"
        );
    }
}

#[test]
fn entries_are_walked_again_as_in_the_whole_walk() {
    let data = tree();
    let all = Select::new(Path::new("data"), &[], &[], &[], true).unwrap();
    let (root, stop) = (open(data.path()).unwrap(), AtomicBool::new(false));
    for threads in [0, 2] {
        let walker = Walker { threads, now: || 0, restored_from: Some("/v"), ..Walker::quiet(&root, &all, &stop) };
        let paths = ["a/deep", "a/gone", "a/x.csv", "a b", "b", "gone/x"].map(|path| EntryPath::new(path).unwrap());
        let mut found = Vec::new();
        let take = |met: Met| {
            found.extend(matches!(met, Met::Entry(_)).then(|| met.path().to_string()));
            Ok(())
        };
        walker.some(&paths, take).unwrap();
        assert_eq!(found, ["a/deep", "a/deep/er", "a/deep/er/y.json", "a/x.csv", "a b", "b", "b/w.csv"]);
    }
}

#[test]
fn no_filter_hides_that_a_restore_was_not_finished() {
    for (include, exclude) in [(&[][..], &[][..]), (&["*.csv".to_owned()], &[]), (&[], &[".*".to_owned()])] {
        let data = tree();
        let select = Select::new(data.path(), include, exclude, &[], true).unwrap();
        // A file of that name that may be anybody's.
        fs::write(data.path().join("a").join(MARKER), "some text").unwrap();
        assert!(paths(data.path(), &select, 1).contains(&"a/x.csv".into()));
        let (root, stop) = (open(data.path()).unwrap(), AtomicBool::new(false));
        let walker = Walker { now: || 0, restored_from: Some("/v"), ..Walker::quiet(&root, &select, &stop) };
        // A folder that was a restore's target by itself.
        marker::tests::write_all(&data.path().join("a"));
        for said in [walker.whole(|_| Ok(())), walker.some(&[EntryPath::new("a").unwrap()], |_| Ok(()))] {
            let said = said.unwrap_err();
            assert!(said.why().contains("there is a/.lastgood-in-place"), "{said}");
            assert!(
                said.advice().unwrap().contains("restore --vault /v --in-place")
                    && said.advice().unwrap().contains("/a` finishes")
            );
        }
        // A marker that was copied there says nothing about this folder.
        let later = data.path().join("later");
        marker::tests::make_later(&later);
        fs::copy(data.path().join("a").join(MARKER), later.join(MARKER)).unwrap();
        fs::remove_file(data.path().join("a").join(MARKER)).unwrap();
        walker.whole(|_| Ok(())).unwrap();
        fs::remove_file(later.join(MARKER)).unwrap();
        marker::tests::write_all(data.path());
        for said in [walker.whole(|_| Ok(())), walker.some(&[EntryPath::new("a").unwrap()], |_| Ok(()))] {
            assert!(said.unwrap_err().to_string().contains("has not been finished"));
        }
    }
}

#[test]
fn the_command_that_ends_it_is_of_the_directory_whatever_it_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("my\ndata");
    std::fs::create_dir(&data).unwrap();
    marker::tests::write_all(&data);
    let said = check_finished(&data, &open(&data).unwrap(), "/my vault").unwrap_err();
    let advice = said.advice().unwrap();
    assert!(advice.contains("restore --vault '/my vault'") && advice.contains("/my\\ndata')\"` finishes"), "{said:?}");
}

#[test]
fn sockets_are_skipped_and_missing_data_is_an_error() {
    let data = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(data.path().join("s")).unwrap();
    let all = Select::new(Path::new("data"), &[], &[], &[], true).unwrap();
    assert_eq!(paths(data.path(), &all, 1), [".", "s: it is a socket"]);
    let said = open(&data.path().join("none")).unwrap_err().to_string();
    assert!(said.contains("does not exist") && said.contains("lastgood restore"), "{said}");
    let said = open(&data.path().join("s")).unwrap_err().to_string();
    assert!(said.contains("not a directory"), "{said}");
    marker::tests::write_all(data.path());
    let said = check_finished(data.path(), &open(data.path()).unwrap(), "/v").unwrap_err();
    assert!(said.to_string().contains("has not been finished"), "{said}");
}
