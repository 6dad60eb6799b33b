//! Takes a snapshot of a directory into a vault in a folder, and tells how far it is.
//!
//! ```sh
//! cargo run --example snapshot -- DIR VAULT
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lastgood::backup::{BackupOptions, backup};
use lastgood::monitor::{Context, Monitor, system_random};
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;

/// Prints warnings at once, and counts the bytes that were read. The backup calls it from several threads.
#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
}

impl Monitor for Progress {
    fn begin(&self, what: &str, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => println!("{what}: {bytes} bytes"),
            None => println!("{what}"),
        }
    }

    fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn warn(&self, what: &str) {
        eprintln!("warning: {what}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(data), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: snapshot DIR VAULT".into());
    };
    // The vault is made where there is none.
    let vault = Vault::open_or_init(Box::new(LocalStore::new(folder)), system_random)?;

    let progress = Progress::default();
    // A handler of signals would set this one to true.
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &system_random, threads: 2, parallel: 4, stop: &stop, monitor: &progress };
    let options = BackupOptions { data, exclude: vec!["*.tmp".into()], ..BackupOptions::default() };
    let report = backup(&vault, &options, &ctx)?;

    println!("snapshot {}, good: {}, {} entries", report.snapshot, report.good, report.entries);
    println!("{} bytes done, {} of them read", progress.bytes.into_inner(), report.read_bytes);
    println!("{} bytes were written to the vault", report.uploaded_bytes);
    Ok(())
}
