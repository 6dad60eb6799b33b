//! What instances say of each other's promises.

use super::promises::{claim_of, expire, open_claims, over, promise, told};
use super::*;

fn restores(world: &World) -> Desk {
    let mut desk = world.desk();
    desk.rules.allow_restore = true;
    desk
}

fn restore(id: &str) -> Request {
    Request { action: Action::Restore, ..request(id) }
}

#[test]
fn a_report_that_is_stored_late_counts_for_more_than_one_that_says_nothing_was_done() {
    let world = World::new();
    assert_eq!(report(&serve(&world.desk(), request("0")))["result"], "complete");
    let desk = restores(&world);
    let run = promise(&desk, restore("1"));
    let (runs, away) = (world.vault().join("runs"), world.folder.path().join("away"));
    // No vault takes the report for a while, in which another instance reports the run as failed.
    fs::rename(&runs, &away).unwrap();
    fs::write(&runs, "").unwrap();
    desk.serve(desk.next().expect("a run is due"));
    assert_eq!(report(&over(&desk, run))["result"], "complete");
    fs::remove_file(&runs).unwrap();
    fs::rename(&away, &runs).unwrap();
    expire(&world, "1", 2);
    let other = world.desk();
    other.look_at_promises(&mut other.watch(), Instant::now());
    assert_eq!((told(&world, run).0, open_claims(&world.vault())), ("failed".to_owned(), 0));
    desk.look_at_promises(&mut desk.watch(), Instant::now());
    assert_eq!((world.count("runs"), told(&world, run).0), (3, "complete".to_owned()));
    let vault = other.context(|ctx| other.vaults.first(ctx)).unwrap();
    assert_eq!(crate::report::find(&*vault.store, &run.to_string()).unwrap()["result"], "complete");
    // Whoever asks either of them is told by the vault.
    assert!(other.progress(run).is_none() && desk.progress(run).is_none());
    assert!(claim_of(&world, "1").join("done.json").exists());
}
