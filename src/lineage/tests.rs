use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, mknodat};

use super::*;

fn lineage(serial: u8) -> Lineage {
    Lineage {
        format: FORMAT,
        vault: Hex([1; 16]),
        snapshot: Some("1790000000-20260921T142640Z-00112233aabbccdd".parse().unwrap()),
        epoch: 7,
        serial: Hex([serial; 16]),
        chosen: false,
        written: "2026-09-21T14:26:41.5Z".parse().unwrap(),
    }
}

fn directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    fs::create_dir(&data).unwrap();
    (scratch, data)
}

#[test]
fn what_was_written_is_read_and_nothing_else_is_left() {
    let (_scratch, data) = directory();
    assert_eq!(read(&data.join("absent")), Ok(None));
    assert_eq!(read(&data), Ok(None));
    fs::create_dir(data.join(OWN_FOLDER)).unwrap();
    fs::write(data.join(OWN_FOLDER).join(SEED), "").unwrap();
    assert_eq!(read(&data), Ok(None));
    for next in [lineage(1), Lineage { chosen: true, snapshot: None, ..lineage(2) }] {
        write(&data, &next).unwrap();
        assert_eq!(read(&data), Ok(Some(next)));
        let names: Vec<_> =
            fs::read_dir(data.join(OWN_FOLDER)).unwrap().map(|name| name.unwrap().file_name()).collect();
        assert_eq!(names, [STATE]);
    }
    let old = fs::File::create(data.join(OWN_FOLDER).join("state.json.00")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    write(&data, &lineage(3)).unwrap();
    assert_eq!(fs::read_dir(data.join(OWN_FOLDER)).unwrap().count(), 1);
}

#[test]
fn the_file_is_as_it_is_documented() {
    let text = r#"{"format":1,"vault":"01010101010101010101010101010101","snapshot":"1790000000-20260921T142640Z-00112233aabbccdd","epoch":7,"serial":"05050505050505050505050505050505","written":"2026-09-21T14:26:41.5Z"}"#;
    assert_eq!(serde_json::to_string(&lineage(5)).unwrap(), text);
    let more = text.replace("\"epoch\"", "\"of a later version\":[1],\"epoch\"");
    assert_eq!(parse(more.as_bytes()), Ok(lineage(5)));
    let chosen = text.replace("\"written\"", "\"chosen\":true,\"written\"");
    assert!(parse(chosen.as_bytes()).unwrap().chosen);
}

#[test]
fn what_is_no_lineage_is_unclear() {
    let (_scratch, data) = directory();
    let state = data.join(OWN_FOLDER).join(STATE);
    fs::create_dir(data.join(OWN_FOLDER)).unwrap();
    let newer = serde_json::to_string(&lineage(1)).unwrap().replace("\"format\":1", "\"format\":2");
    let cut = &newer[..40];
    let long = " ".repeat(70_000);
    for (text, expected) in
        [(newer.as_str(), "format 2"), (cut, "not a lineage"), ("", "not a lineage"), (&long, "more than 65536 bytes")]
    {
        fs::write(&state, text).unwrap();
        let why = read(&data).unwrap_err().to_string();
        assert!(why.starts_with(".lastgood/state.json") && why.contains(expected), "{why}");
    }
    write(&data, &lineage(1)).unwrap();
    assert_eq!(read(&data), Ok(Some(lineage(1))));
}

#[test]
fn nothing_that_was_planted_is_followed_or_waited_for() {
    let (scratch, data) = directory();
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    write(scratch.path(), &lineage(9)).unwrap();
    fs::copy(scratch.path().join(".lastgood/state.json"), outside.join(STATE)).unwrap();
    let before = fs::read(outside.join(STATE)).unwrap();

    symlink(&outside, data.join(OWN_FOLDER)).unwrap();
    assert_eq!(read(&data).unwrap_err().to_string(), ".lastgood is a symbolic link, and not lastgood's folder");
    let error = write(&data, &lineage(1)).unwrap_err();
    assert!(error.why().contains("a symbolic link has that name") && error.advice().is_some(), "{error}");
    fs::remove_file(data.join(OWN_FOLDER)).unwrap();

    let state = data.join(OWN_FOLDER).join(STATE);
    fs::create_dir(data.join(OWN_FOLDER)).unwrap();
    symlink(outside.join(STATE), &state).unwrap();
    assert!(read(&data).unwrap_err().to_string().contains("is a symbolic link"));
    write(&data, &lineage(2)).unwrap();
    assert_eq!(read(&data), Ok(Some(lineage(2))));

    fs::remove_file(&state).unwrap();
    mknodat(CWD, &state, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(read(&data).unwrap_err().to_string().contains("is neither a file nor a folder"));
    write(&data, &lineage(3)).unwrap();
    assert_eq!(read(&data), Ok(Some(lineage(3))));

    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    assert!(read(&data).unwrap_err().to_string().contains("is a folder"));
    assert!(write(&data, &lineage(4)).is_err());
    assert_eq!(fs::read_dir(data.join(OWN_FOLDER)).unwrap().count(), 1, "the temporary file is gone");

    assert_eq!(fs::read(outside.join(STATE)).unwrap(), before);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn only_the_folder_at_the_top_is_lastgood_s() {
    for (path, own) in [
        (".lastgood", true),
        (".lastgood/state.json", true),
        (".lastgood/a/b", true),
        (".lastgood-restoring-x", false),
        ("a/.lastgood", false),
        (".", false),
    ] {
        assert_eq!(is_own(&EntryPath::new(path).unwrap()), own, "{path}");
    }
}
