//! Tests that a restore that skips damage gets no fewer files than the script that lies in every vault.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::sample::{Rewrite, SampleVault, context};
use super::tests::{damages, noise, options};
use super::*;
use crate::path::EntryPath;
use crate::vault::README;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::Hash;
use crate::vault::list::List;
use crate::vault::pack::{self, PackKind};
use crate::vault::read::tests::table_harms;
use crate::vault::root::{SnapshotName, SnapshotState};
use crate::verify;

/// A tree with some of everything, in many hunks.
fn sample() -> SampleVault {
    let mut sample = SampleVault::new();
    for folder in ["a", "b", "c"] {
        sample.folder(folder);
        for name in ["one", "two"] {
            sample.file(format!("{folder}/{name}"), &noise(350, u64::from(folder.as_bytes()[0]) + name.len() as u64));
        }
    }
    sample.symlink("d", b"a");
    sample.folder("e");
    sample.folder("e/f");
    sample.file("e/f/deep", b"deep");
    sample.database("g");
    sample.file("h", b"one inode").link = Some("g".into());
    let second = sample.entries.last().unwrap().clone();
    sample.entries.push(Entry { path: EntryPath::new("i").unwrap(), ..second });
    let content = sample.put(&noise(900, 9));
    sample.mapped("j", &noise(900, 9), &[content]);
    sample.with_headers();
    sample
}

/// Returns the regular files that have the content which the snapshot records for their path.
fn got(folder: &Path, sample: &SampleVault) -> BTreeMap<Vec<u8>, Hash> {
    let mut files = BTreeMap::new();
    for entry in sample.entries.iter().filter(|entry| entry.kind == EntryKind::File) {
        let place = folder.join(entry.path.as_path());
        let is_file = place.symlink_metadata().is_ok_and(|meta| meta.is_file());
        if is_file && let Ok(bytes) = fs::read(place) {
            files.insert(entry.path.bytes().to_vec(), Hash::of(&bytes));
        }
    }
    files.retain(|path, hash| sample.entries.iter().any(|e| e.path.bytes() == path && e.hash == Some(*hash)));
    files
}

/// Restores with the script. Returns the files that it gets.
fn by_hand(sample: &SampleVault, folder: &Path) -> BTreeMap<Vec<u8>, Hash> {
    let (vault, target) = (folder.join("vault"), folder.join("by hand"));
    for (name, bytes) in sample.store.objects().iter() {
        let place = vault.join(name);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, bytes).unwrap();
    }
    let readme = fs::read_to_string(vault.join(README)).unwrap();
    let script = readme.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    fs::write(folder.join("restore.py"), script).unwrap();
    let mut python = Command::new("python3");
    python.arg(folder.join("restore.py")).arg(&vault).arg(&target).env("TMPDIR", folder);
    // It ends when the tar that it started has ended too, which has the same output.
    python.output().unwrap();
    got(&target, sample)
}

/// Restores a vault in both ways, and compares what they get, except `bad`: an entry that no reader of this program
/// takes, and that the script checks less strictly. Returns how many files each way got.
fn compare(what: &str, sample: &SampleVault, bad: Option<&str>) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let by_hand = by_hand(sample, folder.path());
    let target = folder.path().join("restored");
    let chosen = RestoreOptions { skip_damaged: true, ..options(&target) };
    let report = sample.open().and_then(|vault| restore(&vault, &chosen, &context()));
    let restored = got(&target, sample);
    let fewer: Vec<_> = by_hand
        .keys()
        .filter(|path| !restored.contains_key(*path) && bad.is_none_or(|bad| bad.as_bytes() != *path))
        .map(|p| String::from_utf8_lossy(p))
        .collect();
    assert!(fewer.is_empty(), "{what}: only by hand: {fewer:?}: {report:?}");
    named_by_verify(what, sample, folder.path());
    (by_hand.len(), restored.len())
}

/// Checks that verify finds whatever a restore that skips nothing refuses or warns of. It finds more only of what a
/// restore does not need: the tar headers in data packs.
fn named_by_verify(what: &str, sample: &SampleVault, folder: &Path) {
    let whole = sample.open().and_then(|vault| restore(&vault, &options(&folder.join("whole")), &context()));
    let all = verify::VerifyOptions { read_data: Some(100.0), databases: None };
    let report = verify::verify_store(Box::new(sample.store), &all, &context()).unwrap();
    let clean = whole.as_ref().is_ok_and(|report| report.warnings.is_empty());
    let headers = report.damage.iter().all(|damage| damage.object.starts_with("packs/"));
    assert!(report.sound() == clean || clean && headers, "{what}: {whole:?}, {:?}", report.damage);
    // A snapshot that is chosen is named in the damage.
    let newest = sample.vault.snapshots().unwrap().last().copied();
    let named = |name: &SnapshotName| report.damage.iter().any(|damage| damage.snapshots.contains(name));
    assert!(clean || newest.as_ref().is_none_or(named), "{what}: {:?}", report.damage);
}

#[test]
fn a_whole_vault_comes_back_in_both_ways() {
    let mut sample = sample();
    sample.commit(SnapshotState::Complete);
    let files = sample.entries.iter().filter(|entry| entry.kind == EntryKind::File).count();
    assert_eq!(compare("whole", &sample, None), (files, files));
}

#[test]
fn damaged_objects_cost_no_more_than_by_hand() {
    for (how, damage) in damages() {
        for pack in [0, 1, 7, 9, usize::MAX] {
            let mut sample = sample();
            sample.commit(SnapshotState::Complete);
            let name = sample.packs.get(pack).map_or(sample.index_pack(), |pack| pack.name());
            damage(&sample, &name);
            compare(&format!("{how} {name}"), &sample, None);
        }
    }
}

/// zstd takes a pack's frames without its table, and so does a restore, which also does so where zstd does not.
#[test]
fn a_damaged_seek_table_costs_nothing() {
    for (how, zstd_takes_it, harm) in table_harms() {
        for pack in [0, 7, 9, usize::MAX] {
            let mut sample = sample();
            sample.commit(SnapshotState::Complete);
            let name = sample.packs.get(pack).map_or(sample.index_pack(), |pack| pack.name());
            {
                let mut objects = sample.store.objects();
                let bytes = objects.get_mut(&name).unwrap();
                let frames = u32::from_le_bytes(bytes[bytes.len() - 9..][..4].try_into().unwrap());
                let table = bytes.len() - pack::table_length(frames as usize) as usize;
                harm(bytes, table);
            }
            let what = format!("{how} {name}");
            let (by_hand, restored) = compare(&what, &sample, None);
            assert_eq!(restored, 11, "{what}");
            assert!(by_hand == 11 || !zstd_takes_it, "{what}: {by_hand}");

            // It is damage, and both say so; only an object of another size keeps a restore from beginning.
            let folder = tempfile::tempdir().unwrap();
            let skip_damaged = how.starts_with("cut");
            let chosen = RestoreOptions { skip_damaged, ..options(&folder.path().join("data")) };
            let report = restore(&sample.open().unwrap(), &chosen, &context()).unwrap();
            let told = report.warnings.iter().filter(|what| what.contains("the seek table of") && what.contains(&name));
            assert_eq!((told.count(), report.not_restored.len()), (1, 0), "{what}: {report:?}");
            let report = verify::verify(&sample.vault, &verify::VerifyOptions::default(), &context()).unwrap();
            let [damage] = &report.damage[..] else { panic!("{what}: {:?}", report.damage) };
            assert!(damage.object == name && damage.snapshots.len() == 1, "{what}: {damage:?}");
            assert!(skip_damaged || damage.why.contains("was found without it"), "{what}: {damage:?}");
        }
    }
}

/// Early writers gave two files one `link`; each has the content that is recorded for it.
#[test]
fn a_link_of_two_contents_is_two_files() {
    let mut sample = SampleVault::new();
    for (path, content) in [("a", &b"first"[..]), ("b", b"second"), ("c", b"first"), ("d", b"second")] {
        sample.file(path, content).link = Some("g".into());
    }
    sample.with_headers();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(by_hand(&sample, folder.path()).len(), 4);
    // The first names of both contents keep the others.
    let inode = |name: &str| fs::metadata(folder.path().join("by hand").join(name)).unwrap().ino();
    assert!(inode("a") == inode("c") && inode("b") == inode("d") && inode("a") != inode("b"));
}

/// Puts something else in the place of a line of a hunk.
fn instead(hunk: usize, line: usize, text: &str) -> Rewrite {
    let text = text.to_owned();
    Box::new(move |n, lines| {
        if n == hunk {
            lines[line] = text.clone();
        }
    })
}

fn change(hunk: usize, line: usize, from: &str, to: &str) -> Rewrite {
    let (from, to) = (from.to_owned(), to.to_owned());
    Box::new(move |n, lines| {
        if n == hunk {
            assert!(lines[line].contains(&from), "{}", lines[line]);
            lines[line] = lines[line].replace(&from, &to);
        }
    })
}

fn lines(hunk: usize, change: fn(&mut Vec<String>)) -> Rewrite {
    Box::new(move |n, lines| {
        if n == hunk {
            change(lines)
        }
    })
}

/// The hunks are [. a a/one a/two] [b b/one b/two c] [c/one c/two d e] [e/f e/f/deep g h] [i j]; line 0 is the head. In
/// each case, only the bad files themselves are lost, and this many remain.
#[test]
fn a_bad_entry_costs_itself() {
    let all = 11;
    let cases: Vec<(&str, Rewrite, usize)> = vec![
        ("no JSON", instead(1, 2, "{\"path\":"), all - 1),
        ("not an entry", instead(1, 2, "[]"), all - 1),
        ("an impossible mode", change(1, 3, "\"mode\":420", "\"mode\":42000"), all - 1),
        ("an unknown type", change(2, 1, "\"file\"", "\"socket\""), all - 1),
        ("a pack that is not numbered", change(2, 1, "\"extents\":[[", "\"extents\":[[9"), all - 1),
        ("a folder that cannot be read", instead(1, 1, "{}"), all),
        ("a first folder that cannot be read", instead(0, 1, "{}"), all),
        ("out of order in a hunk", lines(1, |lines| lines.swap(1, 4)), all),
        ("out of order between hunks", lines(1, |lines| lines[1] = lines[1].replace("\"b\"", "\"zz\"")), all),
        ("an entry of an earlier hunk", lines(2, |lines| lines[1] = lines[1].replace("c/one", "a/one")), all - 1),
        ("an entry twice", lines(1, |lines| lines.push(lines[2].clone())), all),
        ("an entry too few", lines(1, |lines| _ = lines.remove(2)), all - 1),
        ("no entry for a folder", lines(1, |lines| _ = lines.remove(1)), all),
        ("below a file", lines(1, |lines| lines[3] = lines[3].replace("b/two", "b/one/two")), all - 1),
        ("below a symlink", lines(2, |lines| lines[4] = lines[4].replace("\"e\"", "\"d/e\"")), all),
        ("a way out", lines(2, |lines| lines[4] = lines[4].replace("\"e\"", "\"../e\"")), all),
        (
            "a symlink after what is in it",
            lines(2, |lines| {
                lines[3] = lines[3].replace("\"d\"", "\"c\"");
                lines.swap(3, 1);
            }),
            all,
        ),
        ("no head", instead(1, 0, "{}"), all - 2),
    ];
    for (what, rewrite, left) in cases {
        let bad = match what {
            "an impossible mode" => Some("b/two"),
            "an unknown type" => Some("c/one"),
            _ => None,
        };
        let mut sample = sample();
        sample.rewrite = Some(rewrite);
        sample.commit(SnapshotState::Complete);
        let (_, restored) = compare(what, &sample, bad);
        assert_eq!(restored, left, "{what}");
    }
}

/// tar makes the folders that have no header, so the script gets what is in them.
#[test]
fn what_lies_in_a_missing_folder_comes_back_by_hand() {
    let mut sample = sample();
    sample.entries.retain(|entry| entry.path.bytes() != b"e" && entry.path.bytes() != b"e/f");
    sample.commit(SnapshotState::Complete);
    assert_eq!(compare("orphans", &sample, None), (11, 11));
}

#[test]
fn a_part_of_the_list_of_hunks_costs_its_own_hunks() {
    for (lost, left) in [(0, 7), (1, 6), (2, 9)] {
        let mut sample = sample();
        sample.listed = 2;
        let name = sample.commit(SnapshotState::Complete);
        let List::Frames(frames) = sample.vault.root(name).unwrap().hunks else { panic!("a list in place") };
        sample.store.objects().remove(&pack::name(PackKind::Index, frames[lost].pack)).unwrap();
        let (by_hand, restored) = compare("a list frame", &sample, None);
        assert!(by_hand <= restored);
        assert_eq!(restored, left, "{lost}");
    }
}

/// Lines at random places are lost, twice there, or changed with others.
#[test]
fn no_disorder_costs_more_than_by_hand() {
    for seed in 0..24u64 {
        let dice = move |n: usize, at: usize| usize::from(noise(64, seed * 100 + n as u64)[at]);
        let mut sample = sample();
        sample.rewrite = Some(Box::new(move |n, lines| {
            for turn in 0..dice(n, 0) % 3 {
                let (a, b) =
                    (dice(n, 3 * turn + 1) % (lines.len() - 1) + 1, dice(n, 3 * turn + 2) % (lines.len() - 1) + 1);
                match dice(n, 3 * turn + 3) % 6 {
                    0 => lines.insert(a, lines[b].clone()),
                    1 => lines[a].truncate(b * 7),
                    2 if lines.len() > 2 => _ = lines.remove(a),
                    3 => lines[a] = lines[a].replace("\"path\":\"c", "\"path\":\"e"),
                    _ => lines.swap(a, b),
                }
            }
        }));
        sample.commit(SnapshotState::Complete);
        compare(&format!("seed {seed}"), &sample, None);
    }
}
