//! The report of `lastgood doctor --json`.

use serde_json::Value;

/// Returns the first check with this name in a report.
#[track_caller]
pub fn check<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["parts"].as_array().unwrap().iter().flat_map(|part| part["checks"].as_array().unwrap());
    checks.into_iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

#[track_caller]
pub fn assert_check(report: &Value, name: &str, outcome: &str, found: &str, advice: &str) {
    let check = check(report, name);
    let whole = format!("{} {}", check["advice"].as_str().unwrap_or_default(), check["commands"]);
    assert_eq!(check["outcome"], outcome, "{report:#}");
    assert!(check["found"].as_str().unwrap().contains(found), "no {found:?} in {check:#}");
    assert!(whole.contains(advice), "no {advice:?} in {check:#}");
}

/// Returns the names and outcomes of the checks that are warnings or problems.
pub fn complaints(report: &Value) -> Vec<(&str, &str)> {
    let checks = report["parts"].as_array().unwrap().iter().flat_map(|part| part["checks"].as_array().unwrap());
    let told = checks.map(|check| (check["name"].as_str().unwrap(), check["outcome"].as_str().unwrap()));
    told.filter(|(_, outcome)| matches!(*outcome, "warning" | "problem")).collect()
}
