//! Checks whether the bucket's own rules would delete what a vault needs: a snapshot of today needs objects of any age.
//!
//! The rules are those of <https://docs.cloud.google.com/storage/docs/lifecycle>.

use std::time::Duration;

use serde_json::Value;

use super::check::{DoctorCheck, span};
use crate::shell::word;

/// The permission that the question needs; the roles that a backup needs do not have it.
pub const MAY_ASK: &str = "storage.buckets.get";
/// What is asked for.
pub const FIELDS: &str = "lifecycle,softDeletePolicy";

const NAME: &str = "lifecycle";

/// The beginnings of the names of a vault's objects that no rule may delete by age. What is in its other folders, such as reports
/// of runs, is needed for some time only.
const NEEDED: [&str; 6] = ["packs/", "index/", "snapshots/", "vault.json", "epochs/", "pins/"];
/// How the names of these objects end.
const ENDINGS: [&str; 3] = [".tar.zst", ".jsonl.zst", ".json"];

/// Conditions of a rule that hold for no object as a backup makes it: for versions that were replaced or deleted, and for objects
/// that somebody has given a `customTime`.
const NEVER_LIVE: [&str; 6] = [
    "daysSinceCustomTime",
    "customTimeBefore",
    "daysSinceNoncurrentTime",
    "noncurrentTimeBefore",
    "numNewerVersions",
    // As `"isLive": false`.
    "isLive",
];

/// Returns the check that the bucket may not be asked.
pub fn unasked() -> DoctorCheck {
    DoctorCheck::skipped(NAME, format!("could not be asked: {MAY_ASK} is not held")).advice(
        "No rule of the bucket may delete objects by their age. Somebody who may look finds out with its description.",
    )
}

/// Returns the check from the bucket's answer. The names of the vault's objects begin with `prefix`.
pub fn judge(answer: Result<Value, String>, bucket: &str, prefix: &str) -> DoctorCheck {
    let described = match answer {
        Ok(described) => described,
        Err(why) => return DoctorCheck::skipped(NAME, format!("could not be asked: {why}")),
    };
    let rules = described["lifecycle"]["rule"].as_array().map_or(&[][..], Vec::as_slice);
    let soft =
        match described["softDeletePolicy"]["retentionDurationSeconds"].as_str().and_then(|text| text.parse().ok()) {
            Some(0) => "; soft delete is off, so what is deleted is gone".to_owned(),
            Some(seconds) => format!("; soft delete keeps what is deleted for {}", span(Duration::from_secs(seconds))),
            None => String::new(),
        };
    let Some(rule) = rules.iter().find(|rule| destroys(rule, prefix)) else {
        return DoctorCheck::ok(NAME, format!("no rule of the bucket deletes what a snapshot needs{soft}"));
    };
    let condition = &rule["condition"];
    let what = match condition["age"].as_u64() {
        Some(days) => format!("objects that are {days} days old"),
        None => format!("objects by the condition {condition}"),
    };
    let found = format!(
        "a rule of the bucket deletes {what}, which destroys the vault: a backup stores only what is new, and the newest snapshot \
         needs objects of any age{soft}"
    );
    let bucket = word(format!("gs://{bucket}"));
    DoctorCheck::warning(NAME, found)
        .advice(
            "Take that rule away, or limit it to other prefixes. The first command shows the rules, the second sets those of a file that \
             you have changed. `lastgood verify` says whether something is missing already.",
        )
        .run(format!("gcloud storage buckets describe {bucket} --format='json(lifecycle_config)'"))
        .run(format!("gcloud storage buckets update {bucket} --lifecycle-file=FILE"))
}

/// Whether a rule deletes objects of the vault that are as a backup has made them.
fn destroys(rule: &Value, prefix: &str) -> bool {
    let condition = &rule["condition"];
    let texts = |name: &str| -> Option<Vec<&str>> {
        Some(condition[name].as_array()?.iter().filter_map(Value::as_str).collect())
    };
    let has = |name: &str| match &condition[name] {
        Value::Null => false,
        Value::Bool(is) => !is,
        // No version is newer than a live object.
        Value::Number(number) if name == "numNewerVersions" => number.as_u64() != Some(0),
        _ => true,
    };
    if rule["action"]["type"] != "Delete" || NEVER_LIVE.iter().any(|name| has(name)) {
        return false;
    }
    let fits = |begin: &str| {
        NEEDED
            .iter()
            .map(|name| format!("{prefix}{name}"))
            .any(|name| name.starts_with(begin) || begin.starts_with(&*name))
    };
    let ends = |end: &str| ENDINGS.iter().any(|ending| ending.ends_with(end) || end.ends_with(ending));
    texts("matchesPrefix").is_none_or(|begins| begins.is_empty() || begins.into_iter().any(fits))
        && texts("matchesSuffix").is_none_or(|all| all.is_empty() || all.into_iter().any(ends))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::check::CheckStatus;

    #[test]
    fn rules_that_destroy_a_vault_and_rules_that_do_not() {
        let rule = |condition: Value| json!({"action": {"type": "Delete"}, "condition": condition});
        for (rule, destroyed) in [
            (rule(json!({"age": 30})), true),
            (rule(json!({})), true),
            (rule(json!({"createdBefore": "2026-01-01"})), true),
            (rule(json!({"age": 30, "isLive": true})), true),
            (rule(json!({"age": 30, "matchesStorageClass": ["STANDARD"]})), true),
            (rule(json!({"age": 30, "numNewerVersions": 0})), true),
            (rule(json!({"age": 30, "matchesPrefix": ["app/"]})), true),
            (rule(json!({"age": 30, "matchesPrefix": ["other/", "app/packs/a"]})), true),
            (rule(json!({"age": 30, "matchesPrefix": ["ap"]})), true),
            (rule(json!({"age": 30, "matchesSuffix": [".zst"]})), true),
            (rule(json!({"age": 30, "matchesSuffix": [".log"]})), false),
            (rule(json!({"age": 30, "matchesPrefix": ["application/", "app2"]})), false),
            // The rules of `infra/`.
            (rule(json!({"age": 90, "matchesPrefix": ["app/runs/"]})), false),
            (rule(json!({"age": 45, "matchesPrefix": ["app/claims/", "app/checkpoints/"]})), false),
            (rule(json!({"daysSinceCustomTime": 7, "matchesPrefix": ["app/"]})), false),
            (rule(json!({"age": 7, "isLive": false})), false),
            (rule(json!({"daysSinceNoncurrentTime": 7})), false),
            (rule(json!({"numNewerVersions": 3})), false),
            (
                json!({"action": {"type": "SetStorageClass", "storageClass": "NEARLINE"}, "condition": {"age": 30}}),
                false,
            ),
            (json!({"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}}), false),
        ] {
            assert_eq!(destroys(&rule, "app/"), destroyed, "{rule}");
        }
        assert!(destroys(&rule(json!({"age": 1, "matchesPrefix": ["packs/"]})), ""));
    }

    #[test]
    fn what_is_told_of_a_bucket() {
        let rules = json!({"lifecycle": {"rule": [{"action": {"type": "Delete"}, "condition": {"age": 30}}]},
            "softDeletePolicy": {"retentionDurationSeconds": "604800"}});
        let told = judge(Ok(rules), "b-1", "app/");
        assert_eq!(told.outcome, CheckStatus::Warning);
        assert!(told.found.contains("30 days old") && told.found.ends_with("for 7 d 0 h"), "{told:?}");
        assert!(told.commands[0].contains("describe gs://b-1"), "{told:?}");
        let told = judge(Ok(json!({"softDeletePolicy": {"retentionDurationSeconds": "0"}})), "b-1", "app/");
        assert!(told.outcome == CheckStatus::Ok && told.found.contains("soft delete is off"), "{told:?}");
        let told = judge(Err("403 Forbidden".into()), "b-1", "app/");
        assert!(told.outcome == CheckStatus::Skipped && told.found.contains("403 Forbidden"), "{told:?}");
    }
}
