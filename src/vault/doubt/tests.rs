//! Tests how doubts are made, read and lifted, and doubts that strangers write.

use super::*;
use crate::monitor::system_random;
use crate::restore::sample::{SamplePack, SampleVault};
use crate::restore::tests::noise;
use crate::store::testing::fault::FaultStore;

fn as_who() -> (Finding, &'static VaultUser) {
    static USER: std::sync::LazyLock<VaultUser> =
        std::sync::LazyLock::new(|| VaultUser { run: Some(Hex([7; 8])), host: "here".into() });
    (Finding::Verify, &USER)
}

fn packs(sample: &SampleVault, count: u64) -> Vec<PackInfo> {
    let pack = |n| {
        let mut pack = SamplePack::new(PackKind::Data);
        pack.frame(&noise(500, n));
        pack.store(sample.store)
    };
    (0..count).map(pack).collect()
}

fn book(packs: &[PackInfo]) -> PackBook {
    packs.iter().map(|pack| (pack.id, *pack)).collect()
}

fn spoil(sample: &SampleVault, pack: &PackInfo) {
    sample.store.objects().get_mut(&pack.name()).unwrap()[50] ^= 1;
}

fn doubted(packs: &[PackInfo]) -> Vec<(PackInfo, String)> {
    packs.iter().map(|pack| (*pack, "it is wrong".to_owned())).collect()
}

fn objects(sample: &SampleVault) -> Vec<String> {
    sample.store.objects().keys().filter(|name| name.starts_with(DOUBTS)).cloned().collect()
}

fn test(doubts: &mut Doubts, sample: &SampleVault, packs: &[PackInfo]) -> Vec<PackInfo> {
    let wrong = doubts.test_doubted(&sample.vault, &book(packs), as_who(), &|| Ok(())).unwrap();
    wrong.into_iter().map(|(pack, _)| pack).collect()
}

#[test]
fn a_pack_is_doubted_once_and_the_doubt_is_lifted_when_all_of_its_packs_are_sound() {
    let sample = SampleVault::new();
    let packs = packs(&sample, 3);
    let mut doubts = Doubts::read(&*sample.vault.store);
    assert!(doubts.standing().is_empty() && doubts.warnings().is_empty());
    doubts.doubt(&sample.vault, &doubted(&packs[..2]), as_who(), &system_random);
    let made = objects(&sample);
    assert_eq!((made.len(), doubts.warnings()), (1, vec![]));
    // Neither a run that read the doubts before nor one that reads them now doubts a pack again.
    doubts.doubt(&sample.vault, &doubted(&packs[..1]), as_who(), &system_random);
    let mut again = Doubts::read(&*sample.vault.store);
    assert_eq!(again.standing(), doubts.standing());
    let doubt = &again.standing()[0].doubt;
    assert_eq!((doubt.action.as_str(), doubt.run, doubt.host.as_str()), ("verify", Some(Hex([7; 8])), "here"));
    again.doubt(&sample.vault, &doubted(&packs[1..2]), as_who(), &system_random);
    assert_eq!(objects(&sample), made);

    // One pack is damaged: the doubt stands, and only the packs that are asked about are read.
    spoil(&sample, &packs[0]);
    assert_eq!(test(&mut Doubts::read(&*sample.vault.store), &sample, &packs[1..]), []);
    assert_eq!(test(&mut Doubts::read(&*sample.vault.store), &sample, &packs), [packs[0]]);
    assert_eq!(objects(&sample), made);
    // The pack was put back.
    spoil(&sample, &packs[0]);
    let mut last = Doubts::read(&*sample.vault.store);
    assert_eq!(test(&mut last, &sample, &packs), []);
    assert!(last.standing().is_empty());
    let lifted = made[0].replace(".json", ".lifted.json");
    assert_eq!(objects(&sample), [made[0].clone(), lifted.clone()]);
    let bytes = sample.store.objects()[&lifted].clone();
    assert!(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["made"].is_string());
    // A lifted doubt does not keep anybody from doubting the pack once more.
    let mut anew = Doubts::read(&*sample.vault.store);
    assert!(anew.standing().is_empty());
    anew.doubt(&sample.vault, &doubted(&packs[..1]), as_who(), &system_random);
    assert_eq!(objects(&sample).len(), 3);
}

#[test]
fn a_doubt_of_what_nobody_needs_any_more_is_lifted() {
    let sample = SampleVault::new();
    let packs = packs(&sample, 3);
    Doubts::default().doubt(&sample.vault, &doubted(&packs), as_who(), &system_random);
    let lift = |needed: &[PackInfo], before: &Doubts| {
        let mut doubts = Doubts::read(&*sample.vault.store);
        let wrong = test(&mut doubts, &sample, needed);
        doubts.lift_unneeded(&sample.vault, (&book(needed), before), as_who());
        (wrong, doubts.standing().len())
    };
    spoil(&sample, &packs[0]);
    let before = Doubts::read(&*sample.vault.store);
    assert_eq!(lift(&packs[..2], &before), (vec![packs[0]], 1));
    // A run that doubted it since then may know of something that was not there before.
    assert_eq!(lift(&packs[1..2], &Doubts::default()), (vec![], 1));
    assert_eq!(lift(&packs[1..2], &before), (vec![], 0));
    assert_eq!(objects(&sample).len(), 2);
}

#[test]
fn what_somebody_else_read_is_not_read_again() {
    let sample = SampleVault::new();
    let packs = packs(&sample, 2);
    let mut doubts = Doubts::default();
    doubts.doubt(&sample.vault, &doubted(&packs), as_who(), &system_random);
    doubts.know_sound(&packs);
    let nothing = || -> Result<()> { panic!("it is read") };
    assert_eq!(doubts.test_doubted(&sample.vault, &book(&packs), as_who(), &nothing).unwrap(), []);
    assert!(doubts.standing().is_empty());
}

#[test]
fn a_pack_is_read_once_in_a_run() {
    let sample = SampleVault::new();
    let packs = packs(&sample, 1);
    let mut doubts = Doubts::default();
    assert!(doubts.test(&*sample.vault.store, &packs[0], &|| Ok(())).unwrap().is_sound());
    spoil(&sample, &packs[0]);
    assert!(doubts.test(&*sample.vault.store, &packs[0], &|| panic!()).unwrap().is_sound());
    // Another root says that something else was stored.
    let other = PackInfo { crc32c: 1, ..packs[0] };
    assert!(!doubts.test(&*sample.vault.store, &other, &|| Ok(())).unwrap().is_sound());
}

#[test]
fn who_may_not_create_one_is_told_and_goes_on() {
    let sample = SampleVault::new();
    let packs = packs(&sample, 2);
    let refusing = FaultStore::new(sample.store, |verb, name| verb == "create" && name.starts_with(DOUBTS));
    let vault = Vault { store: Box::new(refusing), ..sample.vault };
    let mut doubts = Doubts::default();
    doubts.doubt(&vault, &doubted(&packs), as_who(), &system_random);
    let said = doubts.warnings();
    assert!(said.len() == 1 && said[0].contains("could not be noted") && said[0].contains("and 1 more"), "{said:?}");
    // It may not be lifted either: its pack is tested, and the doubt stands.
    let standing = Doubt {
        format: FORMAT,
        packs: vec![Doubted { kind: PackKind::Data, id: packs[0].id, why: String::new() }],
        made: None,
        action: String::new(),
        run: None,
        host: String::new(),
        writer: String::new(),
    };
    sample.store.create(&object(Hex([1; 8])), &[&serde_json::to_vec(&standing).unwrap()]).unwrap();
    let mut doubts = Doubts::read(&*vault.store);
    assert_eq!(doubts.standing().len(), 1);
    assert_eq!(doubts.test_doubted(&vault, &book(&packs), as_who(), &|| Ok(())).unwrap(), []);
    assert_eq!(Doubts::read(&*vault.store).standing().len(), 1);
}

#[test]
fn what_strangers_write_is_passed_over() {
    let sample = SampleVault::new();
    let id = |n: u64| object(Hex(n.to_be_bytes()));
    let put = |name: &str, bytes: &[u8]| sample.store.create(name, &[bytes]).unwrap();
    put("doubts/readme.txt", b"?");
    put("doubts/xy.json", b"?");
    put(&id(1), b"{");
    put(&id(2), &vec![b' '; MAX_DOUBT as usize + 1]);
    put(&id(3), br#"{"packs":[{"kind":"other","id":"00000000000000000000000000000000"}]}"#);
    // Doubts of another version, with more fields in them, and about no pack.
    put(&id(4), br#"{"format":9,"new":{},"packs":[{"kind":"data","id":"00000000000000000000000000000000","new":1}]}"#);
    put(&id(5), br#"{"packs":[]}"#);
    let pack = format!(r#"{{"kind":"data","id":"{}","why":"{}"}}"#, "0".repeat(32), "é".repeat(400));
    put(&id(6), format!(r#"{{"packs":[{}]}}"#, vec![pack; PACKS + 9].join(",")).as_bytes());
    let mut doubts = Doubts::read(&*sample.vault.store);
    let standing: Vec<_> = doubts.standing().iter().map(|standing| standing.object.clone()).collect();
    assert_eq!(standing, [id(4), id(5), id(6)]);
    let long = &doubts.standing()[2].doubt;
    assert_eq!((long.packs.len(), long.packs[0].why.len() <= TEXT + 3), (PACKS, true));
    let said = doubts.warnings();
    assert!(said.len() == 3 && said.iter().all(|said| said.contains("is passed over")), "{said:?}");
    assert_eq!(test(&mut doubts, &sample, &[]), []);
    for n in 10..10 + READ as u64 {
        put(&id(n), br#"{"packs":[]}"#);
    }
    let mut doubts = Doubts::read(&*sample.vault.store);
    assert!(doubts.standing().len() < READ && doubts.warnings().iter().any(|said| said.contains("are read")));
    // Doubts that cannot be listed are not known to anybody.
    let deaf = FaultStore::new(sample.store, |verb, _| verb == "list");
    let mut doubts = Doubts::read(&deaf);
    assert!(doubts.standing().is_empty() && doubts.warnings()[0].contains("not known"));
}
