//! What a directory is if the newest snapshot is damaged, and does not count.

use super::*;
use crate::replicas::recommit::ROLLBACK;

impl World {
    fn gather_below(&self, sites: Vec<Site>, below: SnapshotName) -> Result<Gathered> {
        let options = StartOptions {
            data: self.data.clone(),
            from: "/vault".into(),
            not_walked: Vec::new(),
            sqlite: true,
            check: None,
            boot: BOOT.into(),
        };
        gather_below(|| Ok(sites), &options, &StartRules::default(), Some(below), &context())
    }

    fn decide_below(&self, below: SnapshotName) -> Decision {
        decide(&self.gather_below(vec![self.site()], below).unwrap().facts, &StartRules::default())
    }

    /// Commits a snapshot once more, under the next number.
    fn repeat(&self, name: SnapshotName, origin: &str) -> SnapshotName {
        let mut root = self.root(name);
        (root.seq, root.parent, root.serial, root.origin) = (name.seq + 1, Some(name), None, Some(origin.into()));
        (root.totals.new_packs, root.totals.uploaded_bytes) = (0, 0);
        let (repeated, bytes) = root.encode().unwrap();
        self.store.objects().insert(repeated.object(SNAPSHOTS), bytes);
        repeated
    }
}

#[test]
fn data_that_comes_from_an_older_snapshot_is_fresh_or_ahead_without_the_damaged_one() {
    let (world, first, second) = World::with_two();
    // Nothing tells where it comes from, but it equals what is left.
    assert_restores(&world.decide(), StartState::Unknown, Some(SaveReason::Unknown), second);
    assert_starts(&world.decide_below(second), StartState::Fresh, false);
    world.comes_from(Some(first), false, 0);
    assert_restores(&world.decide(), StartState::Stale, None, second);
    assert_starts(&world.decide_below(second), StartState::Fresh, false);
    world.write("a", b"more");
    assert_restores(&world.decide(), StartState::Diverged, Some(SaveReason::Diverged), second);
    assert_starts(&world.decide_below(second), StartState::Ahead, true);
    // From a snapshot that is newer than what is left, and is not there any more.
    let lost = SnapshotName { seq: first.seq + 1, ..first };
    world.comes_from(Some(lost), false, 0);
    assert_starts(&world.decide_below(second), StartState::Ahead, true);
    // What nobody knows is no better than what is left.
    fs::remove_dir_all(world.data.join(".lastgood")).unwrap();
    assert_restores(&world.decide_below(second), StartState::Unknown, Some(SaveReason::Unknown), first);
    let none = world.gather_below(vec![world.site()], first).unwrap();
    assert_eq!(none.facts.vault, VaultFacts::NoSnapshot);
}

#[test]
fn a_snapshot_that_was_only_committed_once_more_is_the_one_that_it_repeats() {
    let (world, first, second) = World::with_two();
    let above = |name: SnapshotName| SnapshotName { seq: name.seq + 1, ..name };
    let again = world.repeat(second, "start");
    let thrice = world.repeat(again, "start");
    for names in [second, again, thrice] {
        world.comes_from(Some(names), false, 0);
        assert_starts(&world.decide_below(above(thrice)), StartState::Ahead, true);
    }
    // Otherwise another instance went on from it.
    world.comes_from(Some(second), false, 0);
    assert_restores(&world.decide(), StartState::Diverged, Some(SaveReason::Diverged), thrice);
    world.comes_from(Some(first), false, 0);
    assert_restores(&world.decide_below(above(thrice)), StartState::Stale, None, thrice);
    // Somebody went back on purpose.
    let rolled_back = world.repeat(thrice, ROLLBACK);
    world.comes_from(Some(second), false, 0);
    assert_restores(
        &world.decide_below(above(rolled_back)),
        StartState::Diverged,
        Some(SaveReason::Diverged),
        rolled_back,
    );
}
