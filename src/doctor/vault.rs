//! Checks of what is at a vault's address: the vault, and its snapshots.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::age;
use super::check::{CheckStatus, DoctorCheck, span};
use super::running::{CheckFindings, CheckRecorder, GoodSnapshot};
use crate::error::{Code, Error};
use crate::restore::select::{self, Choice, NewerFormat};
use crate::store::address::argument;
use crate::store::{self, Store};
use crate::text::count_of;
use crate::vault::Vault;
use crate::vault::doubt::Doubts;
use crate::vault::read::PackReader;
use crate::vault::root::Root;

/// The finding about a folder that may not be read begins with this.
pub const UNREADABLE: &str = "it cannot be read";

/// The input of the checks of a vault.
pub struct VaultCheckInput {
    /// The address as people are told it.
    pub name: String,
    /// How old the newest good snapshot may be.
    pub max_age: Duration,
    /// Whether a backup makes a vault there without being told to.
    pub made_unasked: bool,
}

/// Runs the checks.
pub fn check_vault(store: Box<dyn Store>, input: &VaultCheckInput, recorder: &CheckRecorder, stop: &AtomicBool) {
    let vault = match Vault::find(store) {
        Ok(Ok(vault)) => vault,
        Ok(Err(store)) => {
            recorder.lock().missing = true;
            recorder.add(none(input));
            if let Err(why) = Vault::check_free(&*store) {
                recorder.add(DoctorCheck::error("other files", &why, stop));
            }
            return;
        }
        Err(why) => {
            recorder.lock().newer_format = Some(NewerFormat::Vault).filter(|_| why.is_newer_format());
            let is_explained = explains(&mut recorder.lock().checks, &why);
            return recorder.add(match is_explained {
                true => DoctorCheck::skipped("vault", "not looked for, because it may not be read"),
                false => DoctorCheck::error("vault", &why, stop),
            });
        }
    };
    recorder.lock().vault = Some((vault.config.id, vault.config.hash_key));
    let (format, made) = (vault.config.format, vault.config.created.strftime("%Y-%m-%d"));
    recorder.add(DoctorCheck::ok("vault", format!("{}, format {format}, made on {made}", vault.config.id)));
    if let Err(why) = snapshots(&vault, input, recorder) {
        recorder.add(DoctorCheck::error("snapshots", &why, stop));
    }
    doubts(&vault, input, recorder);
}

/// Whether a check of the vault's place has found already why the vault may not be read. The error of a folder knows better what to do.
fn explains(checks: &mut [DoctorCheck], why: &Error) -> bool {
    let of_place = |check: &&mut DoctorCheck| {
        check.outcome == CheckStatus::Problem
            && match why.code() {
                Code::AccessDenied => check.name == "bucket",
                Code::PermissionDenied => check.name == "folder" && check.found.starts_with(UNREADABLE),
                _ => false,
            }
    };
    let Some(check) = checks.iter_mut().find(of_place) else { return false };
    if let Some(advice) = why.advice().filter(|_| check.name == "folder") {
        let reason = why.why().strip_prefix("vault.json may not be read: ").unwrap_or(why.why());
        *check = DoctorCheck::problem("folder", format!("{UNREADABLE}: {reason}")).advice(advice);
    }
    true
}

/// Warns of doubted packs: a hint at damage that somebody should look into. If there are none, nothing is reported.
fn doubts(vault: &Vault, input: &VaultCheckInput, recorder: &CheckRecorder) {
    let mut doubts = Doubts::read(&*vault.store);
    let packs = doubts.packs();
    let verify = format!("lastgood verify --vault {}", argument(&input.name));
    if let Some(first) = packs.first() {
        let more = if packs.len() > 1 { format!(" and {} more", packs.len() - 1) } else { String::new() };
        let newest = recorder.lock().good.as_ref().map(|good| good.name);
        let concerned = newest.and_then(|newest| doubts.concern(&*vault.store, &vault.root(newest).ok()?).ok());
        let newest = match concerned {
            Some(true) => "; the newest good snapshot needs it",
            Some(false) => "; the newest good snapshot needs nothing that is doubted",
            None => "",
        };
        let check = DoctorCheck::warning("doubts", format!("{first}{more} may be damaged, as a run found{newest}"));
        let advice = "The next backup stores again what damaged packs hold, and restores pass them over. This reads all packs, \
                      names the snapshots that are hurt, and lifts doubts that are wrong:";
        recorder.add(check.advice(advice).run(verify));
    }
    for why in doubts.warnings() {
        recorder.add(DoctorCheck::warning("doubts not read", why));
    }
}

const NONE: &str = "there is none at this address: no vault.json, and no snapshots";

/// Returns the check for an address without a vault. A first backup makes a vault at the default place, and none elsewhere, where
/// the address may be wrong.
fn none(input: &VaultCheckInput) -> DoctorCheck {
    let init = format!("lastgood init --vault {}", argument(&input.name));
    match input.name.strip_prefix("gs://").and_then(|rest| rest.split('/').next()) {
        Some(bucket) => DoctorCheck::problem("vault", NONE)
            .advice(
                "If there should be one, the prefix is wrong: the first command lists the vaults in the bucket. The second \
                 makes a new, empty one.",
            )
            .run(format!("gcloud storage ls 'gs://{bucket}/**vault.json'"))
            .run(init),
        None if input.made_unasked => DoctorCheck::warning("vault", NONE).advice(
            "The first `lastgood backup` makes one. If there should be one already: is the address right, is its volume \
             mounted?",
        ),
        None => DoctorCheck::problem("vault", NONE)
            .advice("If there should be one: is the address right, is its volume mounted? This makes a new, empty one:")
            .run(init),
    }
}

/// Replaces the check of a missing vault if several are used together: it is then no vault of its own but a replica of the
/// others.
pub fn replicas_to_make(vaults: &mut [(String, CheckFindings)]) {
    if vaults.len() < 2 {
        return;
    }
    let there = vaults.iter().find(|(_, findings)| findings.vault.is_some()).map(|(name, _)| argument(name));
    let all: String = vaults.iter().map(|(name, _)| format!(" --vault {}", argument(name))).collect();
    for (name, findings) in vaults.iter_mut().filter(|(_, findings)| findings.missing) {
        let Some(check) = findings.checks.iter_mut().find(|check| check.name == "vault") else { continue };
        *check = match &there {
            Some(there) => DoctorCheck::warning("vault", NONE)
                .advice("If there should be one, the address is wrong. This makes a replica of the other vault here:")
                .run(format!("lastgood copy --init --from {there} --to {}", argument(name))),
            None => DoctorCheck::new("vault", check.outcome, NONE)
                .advice("If there should be one, the address is wrong. This makes a new one, and replicas of it:")
                .run(format!("lastgood init{all}")),
        };
    }
}

fn snapshots(vault: &Vault, input: &VaultCheckInput, recorder: &CheckRecorder) -> crate::error::Result<()> {
    let names = vault.snapshots()?;
    let Some(newest) = names.last().copied() else {
        recorder.add(DoctorCheck::warning("snapshots", "none yet").advice("Take one: `lastgood backup`."));
        return Ok(());
    };
    recorder.lock().newest = Some(newest);
    recorder.lock().snapshots.clone_from(&names);
    let now = vault.store.now().map_err(|why| why.while_doing("ask for the time"))?;
    let age = |then: jiff::Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or_default();
    let count = names.len();
    let chosen = select::search_good(vault, &names, "the newest good snapshot").map_err(|unchosen| {
        recorder.lock().newer_format = unchosen.newer_format.map(|at| *at);
        unchosen.why
    });
    let Choice { name, root, passed_over, .. } = chosen?;
    recorder.lock().good = Some(GoodSnapshot {
        name,
        bytes: root.totals.bytes,
        uploaded: root.uploaded_bytes(),
        one_file_system: root.filters.one_file_system,
    });
    recorder.add(match passed_over.first() {
        None if !root.whole() => DoctorCheck::warning(
            "snapshots",
            format!("{count}; the newest, {}, is good but not whole: something could not be read", name.id),
        )
        .advice("What could not be read is in it as it was before, or missing. The run's report says what and why: `lastgood runs`."),
        None => DoctorCheck::ok("snapshots", format!("{count}; the newest, {}, is good", name.id)),
        Some(passed) => DoctorCheck::warning(
            "snapshots",
            format!(
                "{count}; the newest, {} of {} ago, is not good: {}",
                newest.id,
                span(age(newest.time)),
                passed.why
            ),
        )
        .advice(format!("A restore takes {}, the newest good one. `lastgood list` shows all of them.", name.id)),
    });
    readable(vault, &root, recorder)?;
    recorder.add(age::judge(root.finished, now, input.max_age));
    Ok(())
}

/// Checks whether this user may read what the newest good snapshot needs, as far as the store can tell without reading it.
fn readable(vault: &Vault, root: &Root, recorder: &CheckRecorder) -> crate::error::Result<()> {
    let packs = PackReader::for_root(&*vault.store, root)?;
    let closed: Vec<_> = packs.book().values().filter_map(|pack| vault.store.denied(&pack.name())).collect();
    if let Some(store::StoreError::Denied { name, why, hint }) = closed.first() {
        let found = format!("{} of it may not be read, such as {name}: {why}", count_of(closed.len() as u64, "pack"));
        recorder.add(DoctorCheck::problem("packs", found).advice(hint.clone()));
    }
    Ok(())
}

/// Checks several vaults together: they are to be replicas of one vault, and each should have every snapshot.
pub fn together(vaults: &[(String, CheckFindings)]) -> Vec<DoctorCheck> {
    let open: Vec<_> = vaults.iter().filter_map(|(name, findings)| Some((name, findings, findings.vault?))).collect();
    let [(first, _, id), rest @ ..] = &open[..] else {
        return vec![DoctorCheck::skipped("replicas", "none of the vaults could be opened")];
    };
    let mut checks = Vec::new();
    let others: Vec<&str> = rest.iter().filter(|(.., other)| other != id).map(|(name, ..)| name.as_str()).collect();
    checks.push(match (rest, others.is_empty()) {
        ([], _) => DoctorCheck::skipped("replicas", format!("only {first} could be opened")),
        (_, true) => DoctorCheck::ok("replicas", format!("of one vault, {}", id.0)),
        (_, false) => {
            DoctorCheck::problem("replicas", format!("different vaults: {} is not a replica of {first}", others.join(", "))).advice(
                "Vaults that are used together are replicas of one. Use different ones one by one; where there is no vault yet, \
                 `lastgood copy --init --from URL --to URL` makes a replica.",
            )
        }
    });
    let newest = open.iter().filter(|(.., other)| other == id).max_by_key(|(_, findings, _)| findings.newest);
    let Some((leader, CheckFindings { newest: Some(newest), .. }, _)) = newest else { return checks };
    let behind: Vec<_> = open
        .iter()
        .filter(|(_, findings, other)| other == id && findings.newest != Some(*newest))
        .map(|(name, ..)| name)
        .collect();
    checks.push(match behind[..] {
        [] if others.is_empty() && !rest.is_empty() => {
            DoctorCheck::ok("copies", format!("each has the newest snapshot, {}", newest.id))
        }
        [] => return checks,
        _ => {
            let list: Vec<_> = behind.iter().map(|name| name.as_str()).collect();
            let found = format!("the newest snapshot, {}, is in {leader} and not in {}", newest.id, list.join(", "));
            behind
                .iter()
                .fold(DoctorCheck::warning("copies", found).advice("The next backup copies it, or:"), |check, to| {
                    check.run(format!("lastgood copy --from {} --to {}", argument(leader), argument(to)))
                })
        }
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::CheckStatus;
    use crate::vault::hex::Hex;
    use crate::vault::root::SnapshotName;

    fn findings(id: Option<u8>, seq: Option<u64>) -> CheckFindings {
        let name = |seq| SnapshotName { seq, time: jiff::Timestamp::UNIX_EPOCH, id: Hex([seq as u8; 8]) };
        CheckFindings {
            vault: id.map(|id| (Hex([id; 16]), Hex([0; 32]))),
            newest: seq.map(name),
            ..CheckFindings::default()
        }
    }

    fn about(name: &str) -> VaultCheckInput {
        VaultCheckInput { name: name.into(), max_age: Duration::from_secs(2 * 3600), made_unasked: false }
    }

    #[test]
    fn a_snapshot_of_the_future_is_not_young() {
        let mut sample = crate::restore::sample::SampleVault::new();
        sample.file("a", b"x");
        let newest = sample.commit(crate::vault::root::SnapshotState::Complete);
        for (hours, outcome) in [(-2, CheckStatus::Warning), (1, CheckStatus::Ok), (3, CheckStatus::Warning)] {
            let now = newest.time + jiff::SignedDuration::from_hours(hours);
            sample.store.set_ahead(now.duration_since(jiff::Timestamp::now()));
            let input = about("/v");
            let recorder = CheckRecorder::default();
            check_vault(Box::new(sample.store), &input, &recorder, &AtomicBool::new(false));
            let age = recorder.lock().checks.iter().find(|check| check.name == "age").cloned().unwrap();
            assert_eq!((age.outcome, age.found.contains("from now")), (outcome, hours < 0), "{hours}: {age:?}");
        }
    }

    #[test]
    fn vaults_that_are_used_together() {
        use CheckStatus::{Ok, Problem, Skipped, Warning};
        for (vaults, replicas, copies) in [
            (&[(Some(1), Some(3)), (Some(1), Some(3))][..], Ok, Some(Ok)),
            (&[(Some(1), Some(3)), (Some(1), Some(4)), (Some(1), None)], Ok, Some(Warning)),
            (&[(Some(1), None), (Some(1), None)], Ok, None),
            (&[(Some(1), Some(3)), (Some(2), Some(4))], Problem, None),
            (&[(None, None), (Some(2), Some(4))], Skipped, None),
            (&[(None, None), (None, None)], Skipped, None),
        ] {
            let findings: Vec<_> = vaults.iter().map(|(id, seq)| findings(*id, *seq)).collect();
            let named: Vec<_> =
                findings.into_iter().enumerate().map(|(n, findings)| (format!("/v{n}"), findings)).collect();
            let checks = together(&named);
            assert_eq!(checks[0].outcome, replicas, "{vaults:?}: {checks:?}");
            assert_eq!(checks.get(1).map(|check| check.outcome), copies, "{vaults:?}: {checks:?}");
        }
        let there = ("gs://b-1/x y".to_owned(), findings(Some(1), Some(4)));
        let checks = together(&[("/a".into(), findings(Some(1), Some(3))), there.clone()]);
        assert_eq!(checks[1].commands, ["lastgood copy --from 'gs://b-1/x y' --to /a"]);

        // A new vault of its own would be no replica.
        let missing =
            CheckFindings { missing: true, checks: vec![none(&about("gs://b-2/x"))], ..CheckFindings::default() };
        let mut vaults = [("gs://b-2/x".to_owned(), missing), there];
        assert!(vaults[0].1.checks[0].commands[1].contains("lastgood init"), "{vaults:?}");
        replicas_to_make(&mut vaults);
        assert_eq!(vaults[0].1.checks[0].commands, ["lastgood copy --init --from 'gs://b-1/x y' --to gs://b-2/x"]);
        assert_eq!(vaults[0].1.checks[0].outcome, Warning);
        let mut vaults = ["gs://b-2/x", "gs://b-3/x"].map(|name| {
            (
                name.to_owned(),
                CheckFindings { missing: true, checks: vec![none(&about(name))], ..CheckFindings::default() },
            )
        });
        replicas_to_make(&mut vaults);
        for (_, findings) in &vaults {
            assert_eq!(findings.checks[0].commands, ["lastgood init --vault gs://b-2/x --vault gs://b-3/x"]);
            assert_eq!(findings.checks[0].outcome, Problem);
        }
    }
}
