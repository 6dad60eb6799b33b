//! Which vaults are made, opened and refused.

use super::*;
use crate::monitor::system_random;
use crate::vault::README;

#[test]
fn no_vault_is_made_where_another_may_be() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    one.away(true);
    let why = world.try_backup().unwrap_err();
    says(&why, &["not known whether one", "lastgood init --vault two"]);
    assert!(two.store.objects().is_empty());
    // `init` by hand says that the other place has none; the first vault becomes a replica when it is back.
    init(vec![two.site()], &context()).unwrap();
    let first = world.backup();
    assert_eq!(holds(&first), [false, true]);
    one.away(false);
    let second = world.backup();
    assert_eq!((second.vault.as_str(), holds(&second)), ("two", vec![true, true]));
    assert_eq!(one.vault().config, two.vault().config);
}

#[test]
fn one_vault_is_made_and_the_others_become_replicas_of_it() {
    let mut world = World::new();
    world.places.push(Place::new("three"));
    let made = |places: &[InitReport]| places.iter().map(|place| place.made).collect::<Vec<_>>();
    world.places[1].away(true);
    assert!(init(world.sites(), &context()).is_err());
    assert!(world.places[0].store.objects().is_empty(), "nothing is made before all were asked");
    world.places[1].away(false);
    let (vault, places) = init(vec![world.places[1].site()], &context()).unwrap();
    assert_eq!(made(&places), [true]);
    let (same, places) = init(world.sites(), &context()).unwrap();
    assert_eq!((same.config, made(&places)), (vault.config, vec![true, false, true]));
    let names: Vec<_> = world.places[2].store.objects().keys().cloned().collect();
    assert_eq!(names, [README, CONFIG]);
    let why = init(world.sites(), &context()).err().unwrap();
    says(&why, &["exists there already"]);
}

#[test]
fn a_place_that_cannot_be_written_to_is_passed_over() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    one.fails("create", "");
    let report = world.backup();
    assert_eq!((report.vault.as_str(), holds(&report)), ("two", vec![false, true]));
    assert!(one.store.objects().is_empty());
    two.fails("create", "");
    let why = world.try_backup().unwrap_err();
    says(&why, &["none of the 2 vaults", "one: ", "two: ", "injected fault"]);
    assert_eq!(two.names(), [report.taken.snapshot]);
}

#[test]
fn different_vaults_are_refused() {
    let world = World::new();
    for place in &world.places {
        Vault::init(Box::new(place.store), system_random).unwrap();
    }
    let ids: Vec<_> = world.places.iter().map(|place| place.vault().config.id.to_string()).collect();
    let what = ["one by one", &*ids[0], &*ids[1]];
    let refused = |why: Error| {
        assert_eq!(why.kind(), Kind::Usage);
        says(&why, &what);
    };
    refused(world.try_backup().unwrap_err());
    refused(world.restore(&world.options("latest")).unwrap_err());
    refused(init(world.sites(), &context()).err().unwrap());
    world.places.iter().for_each(|place| assert_eq!(place.names(), []));
}

#[test]
fn the_first_vault_that_opens_is_used() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    init(world.sites(), &context()).unwrap();
    one.spoil(CONFIG);
    let vault = first(world.sites(), &world.context()).unwrap();
    assert_eq!(vault.config, two.vault().config);
    assert!(world.heard.warnings()[0].contains("the vault one is passed over"));
    // The vaults after it are not asked.
    *one.store.objects() = two.store.objects().clone();
    let mut asked = Vec::new();
    let sites = world.places.iter().map(|place| {
        asked.push(place.url);
        place.site()
    });
    first(sites, &world.context()).unwrap();
    assert_eq!(asked, ["one"]);
    world.places.iter().for_each(|place| place.spoil(CONFIG));
    let why = first(world.sites(), &world.context()).err().unwrap();
    assert_eq!(why.kind(), Kind::Damage);
    says(&why, &["one: ", "two: "]);
}

#[test]
fn code_and_hint_are_of_one_failure_of_the_kind_that_counts() {
    let none = || Error::failed("open b", "no vault").with_code(Code::NoVault).hint("Make one.");
    let full = || Error::failed("write to c", "full").with_code(Code::DiskFull).hint("Free some space.");
    let away = || Error::unreachable("open a", "no answer");
    let plain = || Error::failed("open d", "it failed");
    let said = |failures: &[(&str, Error)]| {
        let failures = failures.iter().map(|(url, why)| ((*url).to_owned(), why.clone())).collect();
        let error = none_serves("list", failures);
        (error.kind(), error.word(), error.advice().map(str::to_owned))
    };
    // Another vault's hint would be followed in the wrong place.
    assert_eq!(said(&[("a", away()), ("b", none())]), (Kind::Unreachable, "unreachable", None));
    assert_eq!(said(&[("b", none()), ("c", full())]), (Kind::Failed, "no-vault", Some("b: Make one.".into())));
    assert_eq!(said(&[("d", plain()), ("c", full())]), (Kind::Failed, "disk-full", Some("c: Free some space.".into())));
    assert_eq!(said(&[("d", plain()), ("d", plain())]), (Kind::Failed, "failed", None));
}
