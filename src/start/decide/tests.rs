use std::collections::BTreeSet;

use super::*;
use crate::path::EntryPath;
use crate::start::known::{PutBack, SeedMark};
use crate::vault::hex::Hex;

/// A snapshot's name; the greater number is the newer one.
fn snapshot(seq: u64) -> SnapshotName {
    SnapshotName { seq, time: jiff::Timestamp::UNIX_EPOCH, id: Hex([seq as u8; 8]) }
}

/// The snapshot that the directory is compared with, and one that is older, and one that is newer.
const THERE: u64 = 5;
const OLDER: u64 = 3;
const NEWER: u64 = 8;

fn entry(path: &str) -> EntryPath {
    EntryPath::new(path).unwrap()
}

/// One combination of all that decides.
struct Case {
    facts: Facts,
    rules: StartRules,
}

/// Calls `take` with every combination of the facts and rules. What a directory without data has of lineage and
/// likeness is only taken all together or not at all.
fn every_case(mut take: impl FnMut(&Case)) -> usize {
    let unfinished = || DirectoryContent::Unfinished { why: "a path".into(), advice: "Complete it.".into() };
    let contents = [
        DirectoryContent::NotMounted,
        DirectoryContent::Absent,
        DirectoryContent::Empty,
        DirectoryContent::HalfRestored,
        unfinished(),
        DirectoryContent::Filled,
    ];
    let mut lineages = vec![KnownLineage::None, KnownLineage::Unclear("torn".into()), KnownLineage::OtherVault];
    for from in [None, Some(OLDER), Some(THERE), Some(NEWER)] {
        for chosen in [Chosen::No, Chosen::Yes, Chosen::Superseded] {
            lineages.push(KnownLineage::Here { snapshot: from.map(snapshot), chosen });
        }
    }
    let vaults = [
        VaultFacts::NoVault("no vault".into()),
        VaultFacts::Unreachable { why: "no answer".into(), good: None },
        VaultFacts::Unreachable { why: "no answer".into(), good: Some(snapshot(THERE)) },
        VaultFacts::NoSnapshot,
        VaultFacts::NoneGood { newest: snapshot(THERE), why: "it is suspect".into() },
        VaultFacts::Good(snapshot(THERE)),
    ];
    let named = [
        None,
        Some(NamedSnapshot::Found(snapshot(OLDER))),
        Some(NamedSnapshot::Found(snapshot(NEWER))),
        Some(NamedSnapshot::NotFound("no such snapshot".into())),
    ];
    use Likeness::{Equal, NamesIt, No, RecordsSerial, SamePlace};
    let mut likes = Vec::new();
    for likeness in [NamesIt, RecordsSerial, Equal, SamePlace, No] {
        for changed in [None, Some(false), Some(true)] {
            for put_back in [false, true] {
                for failed in [false, true] {
                    likes.push((likeness, changed, put_back, failed));
                }
            }
        }
    }
    let mut rules = Vec::new();
    for on_diverged in [OnOther::Restore, OnOther::Keep, OnOther::Fail] {
        for on_unknown in [OnOther::Restore, OnOther::Keep, OnOther::Fail] {
            for on_unreachable in [None, Some(OnUnreachable::Fail), Some(OnUnreachable::Start)] {
                rules.push(StartRules { on_diverged, on_unknown, on_unreachable, ..StartRules::default() });
            }
        }
    }
    let mut count = 0;
    for content in &contents {
        let likes = match content {
            DirectoryContent::Filled => &likes[..],
            _ => &[(No, None, false, false), (Equal, Some(false), true, true)],
        };
        for seed in [SeedMark::None, SeedMark::Untouched, SeedMark::Changed] {
            for lineage in &lineages {
                for vault in &vaults {
                    for (likeness, changed, put_back, failed) in likes {
                        for named in &named {
                            let put_back = put_back.then(|| PutBack { path: entry("a"), why: "is not there" });
                            let failed = failed.then(|| FailedDatabase { path: entry("b"), why: "malformed".into() });
                            let facts = Facts {
                                content: content.clone(),
                                seed,
                                lineage: lineage.clone(),
                                vault: vault.clone(),
                                likeness: *likeness,
                                changed: *changed,
                                put_back,
                                failed_database: failed,
                                named: named.clone(),
                                compared: Vec::new(),
                            };
                            let mut case = Case { facts, rules: StartRules::default() };
                            for rules in &rules {
                                case.rules = rules.clone();
                                take(&case);
                                count += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    count
}

impl Case {
    fn untouched_seed(&self) -> bool {
        (&self.facts.seed, &self.facts.lineage) == (&SeedMark::Untouched, &KnownLineage::None)
    }

    /// Whether a word of a table holds here.
    fn is(&self, word: &str) -> bool {
        use DirectoryContent as Content;
        let Facts { content, vault, likeness, changed, put_back, named, .. } = &self.facts;
        let (from, chosen) = match &self.facts.lineage {
            KnownLineage::Here { snapshot, chosen } => (Some(*snapshot), Some(*chosen)),
            _ => (None, None),
        };
        let damaged = *content == Content::Filled && self.facts.failed_database.is_some() && !self.untouched_seed();
        match word {
            "nothing mounted" => *content == Content::NotMounted,
            "absent" => *content == Content::Absent,
            "empty" => *content == Content::Empty,
            "half restored" => *content == Content::HalfRestored,
            "paths half restored" => matches!(content, Content::Unfinished { .. }),
            "seed" => *content == Content::Filled && self.untouched_seed(),
            "data" => *content == Content::Filled,
            "data is missing" => *content != Content::Filled || self.untouched_seed() || damaged,
            "damaged database" => damaged,
            "no vault" => matches!(vault, VaultFacts::NoVault(_)),
            "unreachable" => matches!(vault, VaultFacts::Unreachable { .. }),
            "a replica answers" => matches!(vault, VaultFacts::Unreachable { good: Some(_), .. }),
            "no snapshot" => *vault == VaultFacts::NoSnapshot,
            "none good" => matches!(vault, VaultFacts::NoneGood { .. }),
            "lineage is here" => from.is_some(),
            "lineage names none" => from == Some(None),
            "lineage older" => from == Some(Some(snapshot(OLDER))),
            "lineage same" => from == Some(Some(snapshot(THERE))),
            "lineage newer" => from == Some(Some(snapshot(NEWER))),
            "chosen" => chosen == Some(Chosen::Yes) && from != Some(None),
            "comes from it" => matches!(likeness, Likeness::NamesIt | Likeness::RecordsSerial | Likeness::SamePlace),
            "records serial" => *likeness == Likeness::RecordsSerial,
            "same place" => *likeness == Likeness::SamePlace,
            "equal" => *likeness == Likeness::Equal,
            "unlike" => *likeness == Likeness::No,
            "unchanged" => *changed == Some(false),
            "put back" => put_back.is_some(),
            "named older" => *named == Some(NamedSnapshot::Found(snapshot(OLDER))),
            "named newer" => *named == Some(NamedSnapshot::Found(snapshot(NEWER))),
            "named unknown" => matches!(named, Some(NamedSnapshot::NotFound(_))),
            "on-diverged restore" => self.rules.on_diverged == OnOther::Restore,
            "on-diverged keep" => self.rules.on_diverged == OnOther::Keep,
            "on-diverged fail" => self.rules.on_diverged == OnOther::Fail,
            "on-unknown restore" => self.rules.on_unknown == OnOther::Restore,
            "on-unknown keep" => self.rules.on_unknown == OnOther::Keep,
            "on-unknown fail" => self.rules.on_unknown == OnOther::Fail,
            "on-unreachable start" => self.rules.on_unreachable == Some(OnUnreachable::Start),
            "on-unreachable fail" => self.rules.on_unreachable == Some(OnUnreachable::Fail),
            _ => panic!("{word} is no word of a table"),
        }
    }
}

/// A table: in each row the words that must hold, separated by commas, and what follows. The first row that fits counts.
type Table = &'static [(&'static str, &'static str)];

/// Before anything is compared. `…` goes on in the next table.
const BEFORE: Table = &[
    ("nothing mounted", "not mounted: refuse"),
    ("paths half restored", "broken: refuse"),
    ("no vault", "no vault: refuse"),
    ("unreachable, on-unreachable fail", "vault unreachable: refuse"),
    ("unreachable, on-unreachable start, a replica answers, seed", "vault unreachable: restore"),
    ("unreachable, on-unreachable start, a replica answers, data", "…"),
    ("unreachable, on-unreachable start, a replica answers", "vault unreachable: restore"),
    ("unreachable, half restored", "vault unreachable: refuse"),
    ("unreachable, on-unreachable start", "vault unreachable: start"),
    ("unreachable, data is missing", "vault unreachable: refuse"),
    ("unreachable, a replica answers", "…"),
    ("unreachable", "vault unreachable: start"),
    ("no snapshot, half restored", "broken: refuse"),
    ("no snapshot, damaged database", "broken: refuse"),
    ("no snapshot, data", "first start: start, save"),
    ("no snapshot", "first start: start"),
    ("half restored", "broken: restore"),
    ("absent", "missing: restore"),
    ("empty", "missing: restore"),
    ("seed", "seed: restore"),
    ("", "…"),
];

/// The state of a directory with data, where the vault has snapshots.
const STATES: Table = &[
    ("chosen, unlike", "ahead"),
    ("chosen, same place", "ahead"),
    ("records serial, put back, lineage is here", "diverged"),
    ("records serial, put back", "unknown"),
    ("same place, put back, lineage is here", "diverged"),
    ("same place, put back", "unknown"),
    ("comes from it, unchanged", "fresh"),
    ("comes from it", "ahead"),
    ("equal", "fresh"),
    ("lineage newer", "ahead"),
    ("lineage older, unchanged", "stale"),
    ("lineage same, unchanged", "stale"),
    ("lineage older", "diverged"),
    ("lineage same", "diverged"),
    ("lineage names none", "diverged"),
    ("", "unknown"),
];

/// What is done about it; the state is a word, too. Where the first vault does not answer, the directory is compared with what the
/// others have: the app starts where they tell nothing against it, without a backup at once, and all else is done as with them alone.
const ACTIONS: Table = &[
    ("is diverged, on-diverged fail", "diverged: refuse"),
    ("is unknown, on-unknown fail", "unknown: refuse"),
    ("is diverged, on-diverged keep, damaged database", "broken: save, restore"),
    ("is unknown, on-unknown keep, damaged database", "broken: save, restore"),
    ("is ahead, damaged database", "broken: save, restore"),
    ("is fresh, damaged database", "broken: restore"),
    ("is diverged, on-diverged keep", "diverged: keep"),
    ("is unknown, on-unknown keep", "unknown: keep"),
    ("is diverged, on-diverged restore", "diverged: save, restore"),
    ("is unknown, on-unknown restore", "unknown: save, restore"),
    ("is stale", "stale: restore"),
    ("is ahead, unreachable", "vault unreachable: start"),
    ("is fresh, unreachable", "vault unreachable: start"),
    ("is ahead", "ahead: start, save"),
    ("is fresh, none good", "fresh: start, save"),
    ("is fresh", "fresh: start"),
];

/// What is restored, wherever a table above says that something is, and a vault is there to restore from.
const RESTORES: Table = &[
    ("unreachable", "the newest"),
    ("named unknown", "refuse"),
    ("none good, named newer", "the named"),
    ("none good, named older", "the named"),
    ("none good", "refuse, for none is good"),
    ("named newer", "the named"),
    ("", "the newest"),
];

/// Returns what the first row that fits says, and notes that it was needed.
fn look_up(table: Table, case: &Case, state: &str, used: &mut BTreeSet<(&str, &str)>) -> &'static str {
    let holds = |word: &str| match word.strip_prefix("is ") {
        Some(word) => word == state,
        None => word.is_empty() || case.is(word),
    };
    let fits = |words: &str| words.split(", ").all(holds);
    let row = table.iter().find(|(words, _)| fits(words));
    let row = row.unwrap_or_else(|| panic!("no row fits {:?} by {:?}", case.facts, case.rules));
    used.insert(*row);
    row.1
}

fn in_words(decision: &Decision) -> String {
    let action = match &decision.action {
        StartAction::Start { save: false } => "start",
        StartAction::Start { save: true } => "start, save",
        StartAction::Restore { save_first: None, .. } => "restore",
        StartAction::Restore { save_first: Some(_), .. } => "save, restore",
        StartAction::Keep { .. } => "keep",
        StartAction::Refuse { .. } => "refuse",
    };
    format!("{}: {action}", decision.state)
}

#[test]
fn every_combination_is_decided_as_the_tables_say() {
    let mut used = BTreeSet::new();
    let count = every_case(|case| {
        let mut expected = look_up(BEFORE, case, "", &mut used);
        if expected == "…" {
            let state = look_up(STATES, case, "", &mut used);
            expected = look_up(ACTIONS, case, state, &mut used);
        }
        let (mut expected, mut restored) = (expected.to_owned(), None);
        if expected.ends_with("restore") {
            let state = expected.split(':').next().unwrap().to_owned();
            match look_up(RESTORES, case, "", &mut used) {
                "refuse" => expected = format!("{state}: refuse"),
                "refuse, for none is good" => expected = "no good snapshot: refuse".into(),
                what => restored = Some(what == "the named"),
            }
        }
        let decision = decide(&case.facts, &case.rules);
        assert_eq!(in_words(&decision), expected, "{:?} by {:?}: {}", case.facts, case.rules, decision.why);
        if let StartAction::Restore { snapshot: name, named, .. } = decision.action {
            assert_eq!(Some(named), restored);
            let given = if case.is("named older") { OLDER } else { NEWER };
            assert_eq!(name, snapshot(if named { given } else { THERE }));
        }
    });
    assert!(count > 2_000_000, "{count}");
    // A row that is never the first to fit says nothing.
    for row in [BEFORE, STATES, ACTIONS, RESTORES].concat() {
        assert!(used.contains(&row), "{row:?} is never used");
    }
}

#[test]
fn nothing_is_lost_whatever_the_facts_are() {
    every_case(|case| {
        let decision = decide(&case.facts, &case.rules);
        let said = || format!("{decision:?} of {:?} by {:?}", case.facts, case.rules);
        let snapshots = case.is("none good") || matches!(case.facts.vault, VaultFacts::Good(_));
        match &decision.action {
            StartAction::Restore { save_first, snapshot: restored, .. } => {
                let held = !case.is("data") || case.is("seed");
                let held = held || matches!(decision.state, StartState::Stale) && case.is("unchanged");
                let held = held || case.is("unchanged") && case.is("comes from it") || case.is("equal");
                assert!(save_first.is_some() || held, "something is moved aside that nothing holds: {}", said());
                let older = case.is("named older") && *restored == snapshot(OLDER);
                assert!(!older || case.is("none good"), "something older than the newest good one: {}", said());
            }
            StartAction::Start { save } => {
                assert!(!(snapshots && case.is("data is missing")), "an app starts without its data: {}", said());
                let told = case.is("on-unreachable start");
                let missing = case.is("unreachable") && case.is("data is missing");
                assert!(!missing || told, "an app starts without its data, which a vault may have: {}", said());
                assert!(!(missing && case.is("a replica answers")), "a replica has what it does without: {}", said());
                let older = matches!(decision.state, StartState::Stale | StartState::Diverged | StartState::Unknown);
                assert!(!older, "{}", said());
                // A vault that answers shows that something newer was saved, or does not know the data.
                let proven = case.is("data") && !case.is("seed") && (case.is("a replica answers") || snapshots);
                let state = look_up(STATES, case, "", &mut BTreeSet::new());
                let older = matches!(state, "stale" | "diverged" | "unknown");
                assert!(!(proven && older), "an app starts on data that a vault shows to be older: {}", said());
                assert!(!save || !case.is("unreachable"), "{}", said());
            }
            StartAction::Keep { pin } => {
                let told = match decision.state {
                    StartState::Diverged => case.is("on-diverged keep"),
                    StartState::Unknown => case.is("on-unknown keep"),
                    _ => false,
                };
                assert!(told && !case.is("damaged database"), "{}", said());
                assert_eq!(pin.is_some(), !case.is("none good"), "{}", said());
                assert!(!case.is("unreachable") || case.is("a replica answers"), "{}", said());
            }
            StartAction::Refuse { advice } => assert!(advice.ends_with('.'), "{}", said()),
        }
        assert!(!decision.why.is_empty() && !decision.why.ends_with('.'), "{}", said());
    });
}

#[test]
fn a_directory_that_fits_the_vault_is_not_replaced() {
    every_case(|case| {
        let decision = decide(&case.facts, &case.rules);
        let ahead = case.is("data") && !case.is("damaged database") && !case.is("seed") && !case.is("put back");
        if ahead && case.is("comes from it") && matches!(case.facts.vault, VaultFacts::Good(_)) {
            let starts = matches!(decision.action, StartAction::Start { .. });
            assert!(starts, "{decision:?} of {:?} by {:?}", case.facts, case.rules);
        }
    });
}

#[test]
fn a_refusal_says_what_can_be_done() {
    let facts = Facts {
        content: DirectoryContent::Absent,
        seed: SeedMark::None,
        lineage: KnownLineage::None,
        vault: VaultFacts::NoneGood { newest: snapshot(THERE), why: "it is suspect: it is empty".into() },
        likeness: Likeness::No,
        changed: None,
        put_back: None,
        failed_database: None,
        named: None,
        compared: Vec::new(),
    };
    let advice = |facts: &Facts, rules: &StartRules| match decide(facts, rules).action {
        StartAction::Refuse { advice } => advice,
        action => panic!("{action:?}"),
    };
    let said = advice(&facts, &StartRules::default());
    assert!(said.contains("--snapshot 0505050505050505") && said.contains("it is empty"), "{said}");
    assert!(!said.contains("--on-unknown"), "{said}");
    let filled = Facts { content: DirectoryContent::Filled, ..facts.clone() };
    assert!(advice(&filled, &StartRules::default()).contains("--on-unknown keep"));
    let away = VaultFacts::Unreachable { why: "it timed out".into(), good: None };
    let away = Facts { vault: away, ..facts };
    assert!(advice(&away, &StartRules::default()).contains("--on-unreachable start"));
    let rules = StartRules { on_unknown: OnOther::Fail, ..StartRules::default() };
    assert!(advice(&filled, &rules).contains("--on-unknown fail"));
}
