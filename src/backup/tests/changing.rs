//! Files that are written to while they are read.

use super::*;

/// Changes a file while it is read, when the monitor hears of the progress.
struct Meddler {
    at: u64,
    seen: std::sync::atomic::AtomicU64,
    done: AtomicBool,
    act: Box<dyn Fn() + Send + Sync>,
    inner: CollectingMonitor,
}

impl Monitor for Meddler {
    fn advance(&self, bytes: u64) {
        let seen = self.seen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if seen >= self.at && !self.done.swap(true, Ordering::Relaxed) {
            (self.act)();
        }
    }
    fn warn(&self, what: &str) {
        self.inner.warn(what);
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_taken_as_it_stands() {
    let grow = |path: &Path| File::options().append(true).open(path).unwrap().write_all(&[7; 100_000]).unwrap();
    let shrink = |path: &Path| File::options().write(true).open(path).unwrap().set_len(2_000_000).unwrap();
    let rewrite =
        |path: &Path| File::options().write(true).open(path).unwrap().write_all_at(b"new", 5_000_000).unwrap();
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    type Act = fn(&Path);
    let acts: [(&str, Act); 4] = [("grow", grow), ("shrink", shrink), ("rewrite", rewrite), ("remove", remove)];
    for (what, act) in acts {
        let mut world = World::new();
        world.write("busy", &noise(3, 6_000_000));
        world.write("calm", b"calm");
        let path = world.data.path().join("busy");
        world.monitor = Arc::new(Meddler {
            at: 3_000_000,
            seen: Default::default(),
            done: AtomicBool::new(false),
            act: Box::new(move || act(&path)),
            inner: CollectingMonitor::default(),
        });
        let report = world.backup();
        assert_eq!((report.state, report.errors.len()), (SnapshotState::Complete, 0), "{what}");
        let content = world.content(report.snapshot, "busy");
        match what {
            // The content from before is whole; the next backup takes the rest.
            "grow" => assert!(content == noise(3, 6_000_000) && report.warnings.is_empty() && report.whole),
            // It was read again, and had come to rest.
            "shrink" => assert_eq!((content.len(), report.warnings.len()), (2_000_000, 0)),
            "rewrite" => assert_eq!((&content[5_000_000..5_000_003], report.warnings.len()), (&b"new"[..], 0)),
            _ => {
                assert_eq!(content, noise(3, 6_000_000));
                assert!(report.warnings[0].contains("removed"), "{:?}", report.warnings);
            }
        }
        assert_eq!(world.content(report.snapshot, "calm"), b"calm");
    }
}

#[test]
fn a_file_that_never_stops_growing_is_whole_up_to_its_first_length() {
    let mut world = World::new();
    world.write("busy", &noise(3, 6_000_000));
    let more = |path: &Path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    world.monitor = Arc::new(Always(world.data.path().join("busy"), more));
    let report = world.backup();
    assert!(report.whole && report.warnings.is_empty(), "{report:?}");
    assert!(world.content(report.snapshot, "busy") == noise(3, 6_000_000));
    assert!(world.entries(report.snapshot).remove(1).0.racy);
}

#[test]
fn a_file_that_never_rests_is_torn_until_a_state_of_it_is_known_and_then_as_it_was() {
    let mut world = World::new();
    world.write("busy", &noise(3, 6_000_000));
    world.write("calm", b"calm");
    let path = world.data.path().join("busy");
    // No earlier version is known: it is taken as it is each time, and does not make the snapshot partial.
    let mut last = Vec::new();
    for _ in 0..2 {
        world.monitor = Arc::new(Always(path.clone(), never_rests));
        let report = world.backup();
        assert_eq!((report.state, report.good, report.whole), (SnapshotState::Complete, true, false));
        assert_eq!((report.torn.len(), report.stale.len(), report.errors.len()), (1, 0, 0));
        assert!(report.torn[0].why.contains("written to while it was read"), "{:?}", report.torn);
        let content = world.content(report.snapshot, "busy");
        assert!(content.starts_with(&noise(3, 6_000_000)[..5_900_000]) && content != last);
        last = content;
    }
    world.monitor = Arc::new(SilentMonitor);
    let whole = world.backup();
    assert!(whole.whole);
    let known = world.content(whole.snapshot, "busy");
    for _ in 0..2 {
        world.monitor = Arc::new(Always(path.clone(), never_rests));
        let report = world.backup();
        assert_eq!((report.good, report.whole, report.torn.len()), (true, false, 0));
        assert_eq!(report.stale[0].since, world.vault.root(whole.snapshot).unwrap().started);
        assert!(world.content(report.snapshot, "busy") == known);
        // The content that was read can be reached by name.
        let root = world.vault.root(report.snapshot).unwrap();
        let mut torn = Vec::new();
        let ctx = Context {
            random: &system_random,
            threads: 1,
            parallel: 1,
            stop: &AtomicBool::new(false),
            monitor: &SilentMonitor,
        };
        let busy = EntryPath::new("busy").unwrap();
        crate::inspect::cat_torn(&world.vault, &root, &busy, &mut torn, &ctx).unwrap();
        assert!(torn.len() == 6_000_000 && torn[..5_900_000] == known[..5_900_000] && torn != known);
        let calm = EntryPath::new("calm").unwrap();
        assert!(crate::inspect::cat_torn(&world.vault, &root, &calm, &mut torn, &ctx).is_err());
    }
    // The content that was read is known the next time: only what changed is stored again.
    world.write("busy", &noise(4, 6_000_000));
    let mut reports = Vec::new();
    for _ in 0..3 {
        world.monitor = Arc::new(Always(path.clone(), never_rests));
        reports.push(world.backup());
    }
    let stored: Vec<_> = reports.iter().map(|report| report.uploaded_bytes).collect();
    assert!(stored[0] > 6_000_000 && stored[1..].iter().all(|stored| *stored < 3_000_000), "{stored:?}");
    // A pack that holds nothing else is not needed for a restore.
    let last = reports[2].snapshot;
    let root = world.vault.root(last).unwrap();
    let mut packs = PackReader::for_root(&world.store, &root).unwrap().book().clone();
    let entries = world.entries(last);
    let tree: HashSet<_> = entries.iter().flat_map(|(entry, _)| entry.packs()).collect();
    packs.retain(|id, pack| pack.kind == crate::vault::pack::PackKind::Data && !tree.contains(id));
    let torn = packs.values().next().unwrap().name();
    world.store.inner().objects().get_mut(&torn).unwrap().clear();
    let folder = tempfile::tempdir().unwrap();
    let wanted = crate::restore::tests::options(&folder.path().join("data"));
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
    let report = crate::restore::restore(&world.vault, &wanted, &ctx).unwrap();
    assert_eq!((report.snapshot, report.instead_of), (last, None));
    assert!(report.warnings.iter().any(|what| what.contains("never came to rest")), "{report:?}");
    world.monitor = Arc::new(SilentMonitor);
    assert!(world.backup().whole);
}

#[test]
fn a_lasting_gap_is_news_when_it_begins_and_after_a_day_a_week_and_a_month() {
    // It is torn if there is no good snapshot with it, and carried over if there is.
    for carried in [false, true] {
        let mut world = World::new();
        world.write("busy", &noise(3, 6_000_000));
        if carried {
            assert!(!world.backup().news);
        }
        let path = world.data.path().join("busy");
        never_rests(&path);
        world.monitor = Arc::new(Always(path, never_rests));
        let (mut since, mut told) = (HashSet::new(), Vec::new());
        let hours = [0, 12, 30, 47, 24 * 6, 24 * 8, 24 * 29, 24 * 31, 24 * 100];
        for at in hours {
            world.store.inner().set_ahead(SignedDuration::from_hours(at));
            let report = world.backup();
            assert_eq!(
                (report.good, report.torn.len(), report.stale.len()),
                (true, !carried as usize, carried as usize)
            );
            let root = world.vault.root(report.snapshot).unwrap();
            let torn = report.torn.iter().map(|torn| torn.since.unwrap_or(root.started));
            since.extend(torn.chain(report.stale.iter().map(|stale| stale.since)));
            told.extend(report.news.then_some(at));
        }
        assert_eq!((told, since.len()), (vec![0, 30, 24 * 8, 24 * 31], 1), "{carried}");
    }
}
