use super::file::read_small;
use super::*;
use crate::backup::BackupOptions;
use crate::monitor::{SilentMonitor, system_random};
use crate::path::{EntryPath, EscapedBytes};
use crate::store::testing::memory::MemoryStore;
use crate::vault::Vault;
use crate::vault::hex::Hash;
use crate::vault::root::SourceIdentity;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Runs `work` with a context that reads `data`.
fn with_context<T>(data: &Path, work: impl FnOnce(ReadContext) -> T) -> T {
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &system_random, threads: 1, parallel: 2, stop: &stop, monitor: &SilentMonitor };
    let vault = Vault::init(Box::<MemoryStore>::default(), system_random).unwrap();
    let place = SourceIdentity::default();
    let options = BackupOptions::default();
    let of = (Path::new("/data"), None);
    let base = Parent::find(&vault, of, (&options, &Ok(None)), &place, true, &Default::default(), |_| {}).unwrap();
    let databases = crate::backup::pages::reader::DatabaseOptions {
        enabled: true,
        check: None,
        patience: Duration::ZERO,
        key: [0; 32],
        trust: Trust::default(),
    };
    let root = Directory::open(data).unwrap();
    let select = Select::new(data, &[], &[], &[], true).unwrap();
    let reading = ReadContext {
        root: &root,
        select: &select,
        began: i64::MAX,
        numbers_tell: true,
        base: &base,
        databases: &databases,
        trust: Trust::default(),
        ctx: &ctx,
    };
    work(reading)
}

/// Returns the event for a path that was listed as a file of `size` bytes.
fn looked(data: &Path, name: &str, size: u64) -> ReadEvent {
    let stat = rustix::fs::stat(data.join("file")).unwrap();
    let found = SourceEntry { size, ..SourceEntry::new(EntryPath::new(name).unwrap(), &stat).unwrap() };
    let (to, from) = bounded(4);
    with_context(data, |reading| take_steps(reading, vec![MergeStep::Read(found, None)], &to).unwrap());
    // It may be preceded by paths to look at once more.
    from.recv().unwrap().pop().unwrap()
}

#[test]
fn a_small_file_that_becomes_large_before_it_is_read_is_not_read_as_a_small_one() {
    let data = tempfile::tempdir().unwrap();
    let file = File::create(data.path().join("file")).unwrap();
    // The clock has moved on when it is read.
    file.set_len(1 << 40).unwrap();
    let path = EntryPath::new("file").unwrap();
    let read = with_context(data.path(), |reading| read_small(&file, &path, reading));
    assert!(read.unwrap().is_none());
}

#[test]
fn a_file_that_does_not_know_its_size_is_read_to_its_end() {
    let data = Path::new("/proc/sys/kernel/random");
    let stat = rustix::fs::stat(data.join("boot_id")).unwrap();
    assert_eq!(stat.st_size, 0);
    let found = SourceEntry::new(EntryPath::new("boot_id").unwrap(), &stat).unwrap();
    let (to, from) = bounded(8);
    with_context(data, |reading| take_steps(reading, vec![MergeStep::Read(found, None)], &to).unwrap());
    drop(to);
    let expected = fs::read(data.join("boot_id")).unwrap();
    let parts: Vec<_> = from.iter().flatten().collect();
    let [ReadEvent::Begin(None, false), ReadEvent::Blocks(bytes, _), ReadEvent::End(content)] = &parts[..] else {
        panic!()
    };
    assert_eq!((bytes, content.found.size, content.hash), (&expected, 37, Hash::of(&expected)));
    assert!(!content.torn && content.note.is_none());
}

#[test]
fn what_took_the_place_of_a_file_is_taken_as_what_it_is() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("file"), "content").unwrap();
    symlink("elsewhere", data.path().join("link")).unwrap();
    fs::create_dir(data.path().join("folder")).unwrap();
    let ReadEvent::File(content, bytes, None, false) = looked(data.path(), "file", 3) else { panic!("a file") };
    assert_eq!((content.found.size, &bytes[..], content.hash), (7, &b"content"[..], Hash::of(b"content")));
    let ReadEvent::Other(found, None, extra) = looked(data.path(), "link", 3) else { panic!("a symlink") };
    assert_eq!((found.kind, extra.target), (EntryKind::Symlink, Some(EscapedBytes(b"elsewhere".to_vec()))));
    assert!(matches!(looked(data.path(), "folder", 3), ReadEvent::Later(_, Why::Unread)));
    assert!(matches!(looked(data.path(), "none", 3), ReadEvent::Later(_, Why::Gone)));
}
