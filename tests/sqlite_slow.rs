//! A slow upload holds no transaction: writers are let through, and the WAL is let go.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::World;
use crate::support::bank::{COUNTER, audit, create};
use crate::support::database_process::{Done, Other, Transfers};
use crate::support::slow::{Slow, backup, vault};

/// Observations during a backup over a slow line.
struct Seen {
    /// How long the whole backup took.
    whole: Duration,
    /// The writer's record of the same time.
    writer: Done,
    /// The WAL at its largest, in bytes.
    wal: u64,
}

/// Backs up a bank of `accounts` whose notes are 8 KB each over a line of `rate` bytes per second, with a writer beside it
/// that keeps to a few accounts; the restored bank must be one committed state of that time.
fn over_a_slow_line(mode: &str, accounts: u64, rate: u64) -> Seen {
    let world = World::new();
    let path = world.data().join("bank.db");
    create(&path, mode, accounts, 8000);
    let vault = vault(Slow::new(&world.path("slow"), rate));
    let mode = if mode == "WAL" { String::new() } else { format!("PRAGMA journal_mode={mode}; ") };
    let transfers = Transfers { seed: 7, rest: 2000, among: 100, ..Transfers::default() };
    let writer = Other::transferring(&path, &format!("{mode}PRAGMA synchronous=OFF"), transfers);
    let mut watcher = Other::serving(&path, "");
    let before = watcher.ask(COUNTER);
    let began = Instant::now();
    let over = AtomicBool::new(false);
    let (report, wal) = std::thread::scope(|scope| {
        let wal = scope.spawn(|| largest(&world.data().join("bank.db-wal"), &over));
        let report = backup(&vault, &world.data());
        over.store(true, Ordering::Relaxed);
        (report, wal.join().unwrap())
    });
    let whole = began.elapsed();
    let after = watcher.ask(COUNTER);
    let writer = writer.finish();
    watcher.close();
    assert!(report.warnings.is_empty() && report.errors.is_empty(), "{report:?}");
    world.json(["restore", "back", "--vault", "slow"], 0);
    let counter = audit(&world.path("back/bank.db"));
    assert!((before..=after).contains(&counter), "{counter}, not {before} to {after}");
    Seen { whole, writer, wal }
}

/// Returns the largest size that a file has, looked at without opening it, until it is `over`.
fn largest(path: &Path, over: &AtomicBool) -> u64 {
    let mut largest = 0;
    while !over.load(Ordering::Relaxed) {
        largest = largest.max(path.metadata().map_or(0, |meta| meta.len()));
        std::thread::sleep(Duration::from_millis(5));
    }
    largest
}

#[test]
fn writers_in_rollback_mode_do_not_wait_for_the_upload() {
    let seen = over_a_slow_line("DELETE", 4000, 4_000_000);
    assert!(seen.whole > Duration::from_secs(7), "the line was not slow: {:?}", seen.whole);
    let longest = Duration::from_millis(seen.writer.longest);
    assert!(longest < seen.whole / 3, "a writer waited {longest:?} of {:?}", seen.whole);
}

#[test]
fn a_wal_does_not_grow_for_as_long_as_the_upload_takes() {
    let seen = over_a_slow_line("WAL", 4000, 4_000_000);
    assert!(seen.whole > Duration::from_secs(7), "the line was not slow: {:?}", seen.whole);
    // Each transfer writes two notes of two pages and what leads to them.
    let written = seen.writer.commits * 6 * 4096;
    assert!(written > 12 << 20, "{written} bytes are too few to mean anything");
    assert!(seen.wal < written / 2, "the WAL grew to {} of {written} bytes", seen.wal);
}

/// 200 MB at 2 MB/s, in both modes: no writer waits longer than hashing takes plus a second. It takes some four minutes:
/// `cargo test --release --test all sqlite_slow::full -- --ignored --nocapture`
#[test]
#[ignore = "takes four minutes; the command is in its comment"]
fn full_size() {
    for mode in ["DELETE", "WAL"] {
        let seen = over_a_slow_line(mode, 16_600, 2_000_000);
        eprintln!(
            "{mode}: {:?} in all, {} commits, the longest {} ms, WAL at most {} bytes",
            seen.whole, seen.writer.commits, seen.writer.longest, seen.wal
        );
        assert!(seen.whole > Duration::from_secs(60));
        assert!(seen.writer.longest < 2000, "a writer waited {} ms", seen.writer.longest);
        assert!(seen.wal < 64 << 20, "the WAL grew to {} bytes", seen.wal);
    }
}
