//! Lists the newest snapshots of a vault and the files of its latest good one, or writes one of them to stdout.
//!
//! ```sh
//! cargo run --example read -- VAULT [FILE]
//! ```

use std::error::Error;
use std::sync::atomic::AtomicBool;

use lastgood::inspect;
use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::path::EntryPath;
use lastgood::restore::select::find;
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: read VAULT [FILE]")?;
    let vault = Vault::open(Box::new(LocalStore::new(folder)))?;
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &system_random, threads: 2, parallel: 4, stop: &stop, monitor: &SilentMonitor };

    let (_, root) = find(&vault, "latest")?;
    if let Some(file) = args.next() {
        let path = EntryPath::new(file)?;
        // The content's hash is checked; where it is wrong, that is an error after the last byte.
        inspect::cat(&vault, &root, &path, &mut std::io::stdout(), &ctx)?;
        return Ok(());
    }
    let show = |listed: inspect::ListedSnapshot| {
        match listed.root {
            Some(root) => println!("{}  {}  {} entries, good: {}", listed.id, listed.created, root.entries, root.good),
            None => println!("{}  damaged: {}", listed.id, listed.damage.unwrap_or_default()),
        }
        Ok(())
    };
    inspect::newest(&vault, 10, show, &ctx)?;
    let show = |entry: inspect::Shown| {
        println!("{:>12}  {}", entry.size, entry.path);
        Ok(())
    };
    inspect::ls(&vault, &root, &EntryPath::root(), true, show, &ctx)?;
    Ok(())
}
