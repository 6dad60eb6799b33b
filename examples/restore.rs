//! Restores the latest good snapshot of a vault to a directory. What is there is moved aside.
//!
//! ```sh
//! cargo run --example restore -- VAULT DIR
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::restore::{RestoreOptions, restore};
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(folder), Some(target)) = (args.next(), args.next()) else {
        return Err("usage: restore VAULT DIR".into());
    };
    let vault = Vault::open(Box::new(LocalStore::new(folder)))?;
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &system_random, threads: 2, parallel: 4, stop: &stop, monitor: &SilentMonitor };
    // `RestoreOptions` also takes an id or a time, single paths, and what is to be done with a mount point.
    let report = restore(&vault, &RestoreOptions::latest(target), &ctx)?;

    println!("snapshot {} is in {}: {} files", report.snapshot, report.target.display(), report.files);
    if let Some(aside) = &report.moved_aside {
        println!("what was there is in {}", aside.display());
    }
    for older in &report.stale {
        println!("{older:?} is older than the snapshot");
    }
    Ok(())
}
