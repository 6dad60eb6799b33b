mod below;

use std::fs;
use std::path::Path;
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;

use super::*;
use crate::error::Error;
use crate::lineage::FORMAT;
use crate::restore::sample::context;
use crate::source::marker;
use crate::start::decide::{Decision, OnOther, OnUnreachable, SaveReason, StartAction, StartState, decide};
use crate::start::testing::{BOOT, World, copy, run, write};
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::recording::RecordingStore;
use crate::vault::entry::CheckKind;
use crate::vault::hex::Hex;
use crate::vault::root::{SNAPSHOTS, SnapshotState};

impl World {
    fn gather_of(&self, sites: Vec<Site>, check: Option<CheckKind>, rules: &StartRules) -> Gathered {
        let check = check.map(|kind| DatabaseChecks { kind, patience: std::time::Duration::ZERO });
        let (data, boot) = (self.data.clone(), BOOT.into());
        let options = StartOptions { data, from: "/vault".into(), not_walked: Vec::new(), sqlite: true, check, boot };
        gather(|| Ok(sites), &options, rules, &context()).unwrap()
    }

    fn decide(&self) -> Decision {
        self.decide_by(&StartRules::default())
    }

    fn decide_by(&self, rules: &StartRules) -> Decision {
        decide(&self.gather_of(vec![self.site()], None, rules).facts, rules)
    }

    fn decide_of(&self, sites: Vec<Site>) -> Decision {
        let rules = StartRules::default();
        decide(&self.gather_of(sites, None, &rules).facts, &rules)
    }

    /// Writes a lineage that is some seconds old.
    fn comes_from(&self, snapshot: Option<SnapshotName>, chosen: bool, ago: i64) {
        let vault = self.vault().config.id;
        let written = Timestamp::now() - SignedDuration::from_secs(ago);
        let serial = Hex([7; 16]);
        lineage::write(&self.data, &Lineage { format: FORMAT, vault, snapshot, epoch: 0, serial, chosen, written })
            .unwrap();
    }

    /// Replaces a snapshot's root by a changed one.
    fn rewrite(&self, name: SnapshotName, change: impl FnOnce(&mut Root)) -> SnapshotName {
        let mut root = self.root(name);
        change(&mut root);
        let (new, bytes) = root.encode().unwrap();
        self.store.objects().remove(&name.object(SNAPSHOTS)).unwrap();
        self.store.objects().insert(new.object(SNAPSHOTS), bytes);
        new
    }

    /// A world with a directory of two files in which a snapshot was taken, and another one after a change; the
    /// directory is in another place since.
    fn with_two() -> (World, SnapshotName, SnapshotName) {
        let world = World::new();
        world.write("a", b"aa");
        world.write("s/b", b"bbb");
        let first = world.backup().snapshot;
        let old = world.folder.path().join("old");
        copy(&world.data, &old);
        world.write("a", b"new");
        let second = world.backup().snapshot;
        world.aside("second");
        copy(&old, &world.data);
        (world, first, second)
    }
}

#[track_caller]
fn assert_restores(decision: &Decision, state: StartState, save: Option<SaveReason>, name: SnapshotName) {
    let StartAction::Restore { snapshot, save_first, .. } = decision.action else { panic!("{decision:?}") };
    assert_eq!((decision.state, save_first, snapshot), (state, save, name), "{decision:?}");
}

#[track_caller]
fn assert_starts(decision: &Decision, state: StartState, save: bool) {
    assert_eq!((decision.state, &decision.action), (state, &StartAction::Start { save }), "{decision:?}");
}

#[test]
fn a_directory_without_data_is_missing_or_at_its_first_start() {
    let world = World::new();
    type Fill = fn(&Path);
    let contents: [(&str, Fill); 4] = [
        ("empty", |_| {}),
        ("as a repository has it", |data| fs::write(data.join(".gitkeep"), "").unwrap()),
        ("as a filesystem has it", |data| fs::create_dir_all(data.join("lost+found/x")).unwrap()),
        ("with a lineage", |data| write(&data.join(".lastgood/state.json"), b"x", 0)),
    ];
    for (what, make) in contents {
        make(&world.data);
        let decision = world.decide();
        assert_eq!(
            (decision.state, decision.action),
            (StartState::FirstStart, StartAction::Start { save: false }),
            "{what}"
        );
    }
    world.write("a", b"aa");
    assert_starts(&world.decide(), StartState::FirstStart, true);
    let name = world.backup().snapshot;
    fs::remove_file(world.data.join("a")).unwrap();
    assert_restores(&world.decide(), StartState::Missing, None, name);
    fs::remove_dir_all(&world.data).unwrap();
    let decision = world.decide();
    assert_restores(&decision, StartState::Missing, None, name);
    assert!(decision.why.contains("no such directory") && decision.compared[0].contains(&name.to_string()));
    // A file is no data directory.
    fs::write(&world.data, "").unwrap();
    let options = StartOptions {
        data: world.data.clone(),
        from: String::new(),
        not_walked: Vec::new(),
        sqlite: true,
        check: None,
        boot: BOOT.into(),
    };
    let failed = gather(|| Ok(vec![world.site()]), &options, &StartRules::default(), &context()).unwrap_err();
    assert!(failed.why().contains("not a directory"), "{failed}");
}

#[test]
fn without_a_lineage_a_directory_is_known_by_its_content_or_its_place() {
    let world = World::new();
    world.write("a", b"aa");
    let name = world.backup().snapshot;
    assert_starts(&world.decide(), StartState::Fresh, false);
    world.write("a", b"changed");
    let ahead = world.decide();
    assert_starts(&ahead, StartState::Ahead, true);
    assert!(ahead.why.contains("in this very directory"), "{ahead:?}");
    // The state file was lost, or is garbage.
    write(&world.data.join(".lastgood/state.json"), b"{", 0);
    assert_starts(&world.decide(), StartState::Ahead, true);
    world.becomes_a_copy();
    let unknown = world.decide();
    assert_restores(&unknown, StartState::Unknown, Some(SaveReason::Unknown), name);
    assert!(unknown.why.contains("state.json") && unknown.compared.concat().contains("a (changed)"), "{unknown:?}");
    let keep = StartRules { on_unknown: OnOther::Keep, ..StartRules::default() };
    assert_eq!(world.decide_by(&keep).action, StartAction::Keep { pin: Some(name) });
    // A copy that equals the snapshot.
    fs::remove_dir_all(&world.data).unwrap();
    world.restore("latest");
    _ = fs::remove_dir_all(world.data.join(".lastgood"));
    assert_starts(&world.decide(), StartState::Fresh, false);
}

#[test]
fn young_files_of_an_image_do_not_win() {
    let world = World::new();
    world.write("a", b"aa");
    let name = world.backup().snapshot;
    world.aside("was");
    write(&world.data.join("a"), b"of the image", 0);
    assert_restores(&world.decide(), StartState::Unknown, Some(SaveReason::Unknown), name);
    crate::start::seed::mark(&world.data, &context()).unwrap();
    assert_restores(&world.decide(), StartState::Seed, None, name);
    // An app started on it without a vault, and wrote.
    write(&world.data.join("rows"), b"1", 0);
    let touched = world.decide();
    assert_restores(&touched, StartState::Unknown, Some(SaveReason::Unknown), name);
    assert!(touched.why.contains("changed after it was marked"), "{touched:?}");
}

#[test]
fn a_lineage_tells_whether_a_directory_is_fresh_ahead_stale_or_diverged() {
    let (world, first, second) = World::with_two();
    world.comes_from(Some(first), false, 0);
    assert_restores(&world.decide(), StartState::Stale, None, second);
    let gathered = world.gather_of(vec![world.site()], None, &StartRules::default());
    assert_eq!(gathered.compared_with, Some(first), "the one that holds it, and not the newest");
    // A serial that the newest snapshot does not record: what is there goes on from the first.
    world.write("s/b", b"other");
    let diverged = world.decide();
    assert_restores(&diverged, StartState::Diverged, Some(SaveReason::Diverged), second);
    assert!(diverged.compared.concat().contains("s/b (changed)"), "{diverged:?}");
    let fail = StartRules { on_diverged: OnOther::Fail, ..StartRules::default() };
    assert!(matches!(world.decide_by(&fail).action, StartAction::Refuse { .. }));
    // The snapshot that it comes from is gone: nobody can tell whether something changed.
    let root = world.store.objects().remove(&first.object(SNAPSHOTS)).unwrap();
    let untold = world.decide();
    assert_restores(&untold, StartState::Diverged, Some(SaveReason::Diverged), second);
    assert!(untold.why.contains("cannot be told"), "{untold:?}");
    world.store.objects().insert(first.object(SNAPSHOTS), root);
    world.comes_from(Some(second), false, 0);
    assert_starts(&world.decide(), StartState::Ahead, true);
    world.comes_from(None, false, 0);
    assert_restores(&world.decide(), StartState::Diverged, Some(SaveReason::Diverged), second);
    world.restore("latest");
    world.comes_from(Some(second), false, 0);
    assert_starts(&world.decide(), StartState::Fresh, false);
    // As if the state file had been put back alone.
    world.comes_from(Some(first), false, 0);
    let equal = world.decide();
    assert_starts(&equal, StartState::Fresh, false);
    assert!(equal.why.contains("equals"), "{equal:?}");
}

#[test]
fn what_goes_on_from_a_lost_snapshot_is_not_replaced_by_an_older_one() {
    let (world, first, second) = World::with_two();
    world.write("a", b"more");
    world.comes_from(Some(second), false, 0);
    world.store.objects().remove(&second.object(SNAPSHOTS)).unwrap();
    let ahead = world.decide();
    assert_starts(&ahead, StartState::Ahead, true);
    assert!(ahead.why.contains(&first.to_string()) && ahead.why.contains(&second.to_string()), "{ahead:?}");
}

#[test]
fn a_snapshot_that_somebody_chose_stays_until_another_directory_was_saved() {
    let (world, first, second) = World::with_two();
    world.comes_from(Some(first), true, 0);
    assert_starts(&world.decide(), StartState::Ahead, true);
    // Chosen before the second snapshot was begun.
    world.comes_from(Some(first), true, 600);
    let superseded = world.decide();
    assert_restores(&superseded, StartState::Stale, None, second);
    assert!(superseded.why.contains("afterwards"), "{superseded:?}");
}

#[test]
fn the_lineage_of_another_vault_says_nothing_here() {
    let (world, first, second) = World::with_two();
    world.comes_from(Some(first), true, 0);
    let path = world.data.join(".lastgood/state.json");
    let text = fs::read_to_string(&path).unwrap().replace(&world.vault().config.id.to_string(), &"ab".repeat(16));
    fs::write(&path, text).unwrap();
    let gathered = world.gather_of(vec![world.site()], None, &StartRules::default());
    assert_eq!((gathered.facts.lineage, gathered.lineage), (KnownLineage::OtherVault, None));
    assert_restores(&world.decide(), StartState::Unknown, Some(SaveReason::Unknown), second);
}

#[test]
fn where_no_snapshot_is_good_a_person_chooses() {
    let (world, first, second) = World::with_two();
    let suspect = |root: &mut Root| {
        (root.state, root.suspect) = (SnapshotState::Suspect, Some("it is nearly empty".into()));
    };
    world.rewrite(first, suspect);
    let second = world.rewrite(second, suspect);
    fs::remove_dir_all(&world.data).unwrap();
    let none = world.decide();
    let StartAction::Refuse { advice } = &none.action else { panic!("{none:?}") };
    assert!(none.state == StartState::NoneGood && advice.contains(&second.id.to_string()), "{none:?}");
    let rules = |spec: &str| StartRules { snapshot: Some(spec.into()), ..StartRules::default() };
    assert_restores(&world.decide_by(&rules(&second.id.to_string())), StartState::Missing, None, second);
    let unknown = world.decide_by(&rules("ffff"));
    assert!(matches!(unknown.action, StartAction::Refuse { .. }) && unknown.why.contains("ffff"), "{unknown:?}");
}

#[test]
fn a_name_that_is_left_in_the_command_does_not_go_back() {
    let (world, first, second) = World::with_two();
    fs::remove_dir_all(&world.data).unwrap();
    let rules = StartRules { snapshot: Some(first.id.to_string()), ..StartRules::default() };
    let decision = world.decide_by(&rules);
    assert_restores(&decision, StartState::Missing, None, second);
    assert!(decision.why.contains("which is not restored"), "{decision:?}");
}

#[test]
fn what_a_cut_off_restore_left_is_broken() {
    let (world, _, second) = World::with_two();
    marker::tests::write_all(&world.data);
    assert_restores(&world.decide(), StartState::Broken, None, second);
    fs::write(world.data.join(marker::MARKER), "garbage").unwrap();
    let unclear = world.decide();
    assert!(matches!(unclear.action, StartAction::Refuse { .. }) && unclear.state == StartState::Broken, "{unclear:?}");
}

#[test]
fn a_damaged_database_is_restored_if_checks_are_asked_for() {
    let world = World::new();
    let path = world.data.join("app.db");
    let database = Connection::open(&path).unwrap();
    database.execute_batch("create table t (a)").unwrap();
    for n in 0..2000 {
        database.execute("insert into t values (?1)", [format!("{n:0100}")]).unwrap();
    }
    drop(database);
    let name = world.backup().snapshot;
    let rules = StartRules::default();
    let checked =
        |world: &World| decide(&world.gather_of(vec![world.site()], Some(CheckKind::Quick), &rules).facts, &rules);
    let sound = checked(&world);
    assert!(sound.state != StartState::Broken && sound.compared.concat().contains("1 database passed"), "{sound:?}");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    assert_starts(&world.decide(), StartState::Ahead, true);
    assert_restores(&checked(&world), StartState::Broken, Some(SaveReason::Broken), name);
}

fn away(url: &str) -> Site {
    Site::probe(url.into(), false, Err(Error::unreachable("ask", "it timed out")))
}

fn nowhere(url: &str) -> Site {
    Site::probe(url.into(), false, Ok(Box::new(MemoryStore::default())))
}

#[test]
fn a_vault_that_is_away_or_missing_is_no_first_start() {
    let (world, _, second) = World::with_two();
    world.comes_from(Some(second), false, 0);
    let there = world.decide_of(vec![away("/a")]);
    assert_starts(&there, StartState::Unreachable, false);
    assert!(there.why.contains("it timed out"), "{there:?}");
    // Only the first vault is needed; the others are told of.
    let gathered = world.gather_of(vec![world.site(), away("/b")], None, &StartRules::default());
    assert!(gathered.facts.vault == VaultFacts::Good(second) && gathered.away[0].told.contains("/b"), "{gathered:?}");
    fs::remove_dir_all(&world.data).unwrap();
    let refused = |decision: Decision| match decision.action {
        StartAction::Refuse { .. } => decision.state,
        _ => panic!("{decision:?}"),
    };
    assert_eq!(refused(world.decide_of(vec![away("/a")])), StartState::Unreachable);
    assert_eq!(refused(world.decide_of(vec![away("/a"), world.site()])), StartState::Unreachable);
    assert_eq!(refused(world.decide_of(vec![nowhere("/a")])), StartState::NoVault);
    // Another vault has no snapshot yet; the one that is away may have some.
    let empty = World::new();
    assert_eq!(refused(world.decide_of(vec![empty.site(), away("/b")])), StartState::Unreachable);
    assert_eq!(refused(world.decide_of(vec![empty.site(), nowhere("/b")])), StartState::Unreachable);
    let start = StartRules { on_unreachable: Some(OnUnreachable::Start), ..StartRules::default() };
    let replica = world.gather_of(vec![away("/a"), world.site()], None, &start);
    assert_restores(&decide(&replica.facts, &start), StartState::Unreachable, None, second);
}

#[test]
fn what_a_replica_that_answers_tells_is_not_unknown() {
    let (world, first, second) = World::with_two();
    let without_first = || [away("/a"), nowhere("/a")].map(|first| vec![first, world.site()]);
    let is_told =
        |decision: &Decision| ["it timed out", "there is no vault"].iter().any(|why| decision.why.contains(why));
    world.comes_from(Some(first), false, 0);
    for sites in without_first() {
        assert_restores(&world.decide_of(sites), StartState::Stale, None, second);
    }
    world.write("a", b"changed");
    for sites in without_first() {
        let decision = world.decide_of(sites);
        assert_restores(&decision, StartState::Diverged, Some(SaveReason::Diverged), second);
        assert!(decision.why.contains("its lineage names") && is_told(&decision), "{decision:?}");
    }
    world.comes_from(Some(second), false, 0);
    for sites in without_first() {
        let decision = world.decide_of(sites);
        assert_starts(&decision, StartState::Unreachable, false);
        assert!(is_told(&decision) && decision.why.contains("something changed since"), "{decision:?}");
    }
    // Where there is no data, the vault that is not there may have what is newer.
    fs::remove_dir_all(&world.data).unwrap();
    for sites in without_first() {
        let decision = world.decide_of(sites);
        assert!(matches!(decision.action, StartAction::Refuse { .. }), "{decision:?}");
    }
}

#[test]
fn a_mount_is_asked_for_before_anything_else() {
    let world = World::new();
    let rules = StartRules { require_mount: true, ..StartRules::default() };
    let options = |data: &Path| StartOptions {
        data: data.into(),
        from: String::new(),
        not_walked: Vec::new(),
        sqlite: true,
        check: None,
        boot: BOOT.into(),
    };
    let content = |data: &Path| {
        gather(|| Ok(vec![world.site()]), &options(data), &rules, &context()).map(|gathered| gathered.facts.content)
    };
    // The root of all is always mounted, and says nothing.
    assert_eq!(content(Path::new("/lastgood-no-such-folder")).unwrap(), DirectoryContent::NotMounted);
    assert_eq!(content(Path::new("/proc/lastgood-no-such-folder")).unwrap(), DirectoryContent::Absent);
}

#[test]
fn a_fresh_start_costs_few_requests_and_no_packs_of_data() {
    let world = World::new();
    for n in 0..300 {
        world.write(&format!("s/{n}"), b"some bytes");
    }
    world.backup();
    let store: &'static RecordingStore<&'static MemoryStore> = Box::leak(Box::new(RecordingStore::new(world.store)));
    let site = Site::probe("/vault".into(), false, Ok(Box::new(store)));
    assert_starts(&world.decide_of(vec![site]), StartState::Fresh, false);
    let calls = store.take();
    assert!(calls.len() <= 8 && !calls.iter().any(|call| call.name.starts_with("packs/")), "{calls:?}");
}

#[test]
fn a_moved_directory_is_known_by_its_place() {
    let world = World::new();
    world.write("a", b"aa");
    world.backup();
    world.write("a", b"more");
    let moved = world.aside("moved");
    run(Command::new("mv").args([&moved, &world.data]));
    assert_starts(&world.decide(), StartState::Ahead, true);
}

#[test]
fn a_snapshot_that_another_job_took_of_the_directory_leaves_it_fresh_unless_it_was_put_back() {
    let (world, first, _) = World::with_two();
    world.comes_from(Some(first), false, 0);
    let older = world.folder.path().join("older");
    copy(&world.data, &older);
    world.write("s/b", b"going on");
    world.write("s/c", b"new");
    let third = world.backup().snapshot;
    let fresh = world.decide();
    assert_starts(&fresh, StartState::Fresh, false);
    assert!(fresh.why.contains("records the serial"), "{fresh:?}");
    // The app goes on, and deletes what it no longer needs.
    fs::remove_file(world.data.join("s/c")).unwrap();
    assert_starts(&world.decide(), StartState::Ahead, true);
    // So does a copy of all of it.
    fs::remove_dir_all(&world.data).unwrap();
    world.restore("latest");
    fs::remove_dir_all(world.data.join(".lastgood")).unwrap();
    copy(&older.join(".lastgood"), &world.data.join(".lastgood"));
    world.write("d", b"more");
    assert_starts(&world.decide(), StartState::Ahead, true);
    // The same lineage over an older state: a copy that was put back.
    fs::remove_dir_all(&world.data).unwrap();
    copy(&older, &world.data);
    let put_back = world.decide();
    assert_restores(&put_back, StartState::Diverged, Some(SaveReason::Diverged), third);
    assert!(put_back.why.contains("put back") && put_back.why.contains("s/c"), "{put_back:?}");
}

#[test]
fn a_snapshot_that_is_committed_anew_for_the_directory_is_the_one_that_it_comes_from() {
    let (world, _, second) = World::with_two();
    fs::remove_dir_all(&world.data).unwrap();
    world.restore("latest");
    world.comes_from(Some(second), false, 0);
    // The app has gone on in another place than the one that the snapshot was taken in, and `run` was killed in the middle of the next
    // start.
    fs::remove_file(world.data.join("s/b")).unwrap();
    world.write("a", b"going on");
    let anew = |serial: u8, packs: u64| {
        let mut root = world.root(second);
        root.seq += 1;
        (root.parent, root.serial, root.totals.new_packs, root.totals.uploaded_bytes) =
            (Some(second), Some(Hex([serial; 16])), packs, packs);
        let (name, bytes) = root.encode().unwrap();
        world.store.objects().insert(name.object(SNAPSHOTS), bytes);
        let decision = world.decide();
        world.store.objects().remove(&name.object(SNAPSHOTS)).unwrap();
        (decision, name)
    };
    assert_starts(&anew(7, 0).0, StartState::Ahead, true);
    // For another directory.
    let (decision, name) = anew(8, 0);
    assert_restores(&decision, StartState::Diverged, Some(SaveReason::Diverged), name);
    // A snapshot of its own: the directory was put back to an older state.
    let (decision, name) = anew(7, 1);
    assert_restores(&decision, StartState::Diverged, Some(SaveReason::Diverged), name);
}
