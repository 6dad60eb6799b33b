//! The corpora of the fuzz targets, as ordinary tests: real samples, hostile ones, and whatever a fuzzer found.

#[path = "../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

/// Calls `property` with every file of a target's corpus.
fn each(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        // The name of the sample that fails is the last one printed.
        println!("{}", path.display());
        property(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 5, "only {count} samples in {}", folder.display());
}

#[test]
fn roots() {
    each("root", properties::root);
}

#[test]
fn hunks() {
    each("hunk", properties::hunk);
}

#[test]
fn maps() {
    each("map", properties::map);
}

#[test]
fn pages() {
    each("pages", properties::pages);
}

#[test]
fn seek_tables() {
    each("seek_table", properties::seek_table);
}

#[test]
fn lists() {
    each("list", properties::list);
}

#[test]
fn entry_paths() {
    each("entry_path", properties::entry_path);
}

#[test]
fn every_target_has_a_corpus_and_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(root.join(folder))
            .unwrap()
            .map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let tested = ["entry_path", "hunk", "list", "map", "pages", "root", "seek_table"];
    assert_eq!(names("corpus"), tested);
    assert_eq!(names("fuzz_targets"), tested);
}
