//! A run's report as text for people.

use indicatif::BinaryBytes;
use jiff::Timestamp;

use super::start::field;
use super::{age, entries, line, seconds, time};
use crate::report::{RunDetails, RunSummary, StoredReport, WorkDetails};
use crate::text::{count_of, printable};

/// The most events, and the most warnings, that are written out.
const MOST: usize = 5;

/// Describes a run by its stored report, whichever version wrote that: what it was for, how it ended, what it did, and what asked for it.
pub fn run_report(report: &serde_json::Value, now: Timestamp) -> String {
    let (summary, details, stored) = (RunSummary::of(report), RunDetails::of(report), StoredReport::of(report));
    let said = |field: &Option<String>| field.as_deref().map_or_else(|| "of unknown kind".into(), printable);
    let run = said(&summary.run);
    let mut text = String::new();
    line(&mut text, format_args!("Run {run}: {} is {}", said(&summary.action), said(&summary.result)));
    if let Some(began) = stored.started {
        let took = stored.took().map(|took| format!("; took {}", seconds(took.as_secs_f64()))).unwrap_or_default();
        line(&mut text, format_args!("  began    {}, {} ago{took}", time(began), age(now, began)));
    }
    let place = details.place.unwrap_or_default();
    let way = match summary.way.as_deref() {
        Some("command_line") => "the command line".to_owned(),
        Some("cloud_run_job") => "a Cloud Run job".to_owned(),
        Some("http") => "a request over HTTP".to_owned(),
        Some("pub_sub") => "a message of Pub/Sub".to_owned(),
        Some("run") => "`lastgood run`".to_owned(),
        _ => said(&summary.way),
    };
    let on = [("on", Some(&place.host)), ("of", place.service.as_ref()), ("in", place.execution.as_ref())];
    let on = on.into_iter().filter_map(|(word, what)| Some((word, what.filter(|what| !what.is_empty())?)));
    let on: String = on.map(|(word, what)| format!(" {word} {}", printable(what))).collect();
    line(&mut text, format_args!("  by       {way}{on}"));
    if let Some(error) = &details.error {
        let code = if error.code.is_empty() { String::new() } else { format!(" [{}]", error.code) };
        field(&mut text, "FAILED", &format!("{}{code}", error.error));
        if let Some(hint) = &error.hint {
            field(&mut text, "do", hint);
        }
    }
    if let Some(snapshot) = &summary.snapshot {
        line(&mut text, format_args!("  snapshot {}", printable(snapshot)));
    }
    let works = details.backup.iter().chain(&details.restore).chain(&details.verify);
    works.for_each(|work| describe(&mut text, work));
    for failure in details.hook_failures.iter().flatten() {
        field(&mut text, "hook", &format!("{}: {}", failure.hook, failure.error));
    }
    let events = details.events.unwrap_or_default();
    for event in events.iter().take(MOST) {
        let kind = event.kind.as_deref().unwrap_or("an event");
        let message = event.message.iter().map(|message| format!(": {message}")).collect::<String>();
        field(&mut text, "asked by", &format!("{kind}{message}"));
    }
    if let Some(more @ 1..) = events.len().checked_sub(MOST) {
        line(&mut text, format_args!("  asked by {} more", count_of(more as u64, "event")));
    }
    line(&mut text, format_args!("  more     lastgood runs {run} --json"));
    text
}

/// Adds what was done in one vault.
fn describe(text: &mut String, work: &WorkDetails) {
    if let Some(vault) = &work.vault {
        line(text, format_args!("  vault    {}", printable(vault)));
    }
    if let (Some(state), Some(good)) = (&work.state, work.good) {
        let good = if good { "good" } else { "NOT GOOD" };
        line(text, format_args!("  state    {} ({good})", printable(state)));
    }
    if let (Some(count), Some(bytes)) = (work.entries, work.bytes) {
        line(text, format_args!("  holds    {}, {}", entries(count), BinaryBytes(bytes)));
    }
    if let Some(bytes) = work.uploaded_bytes {
        line(text, format_args!("  new      {}", BinaryBytes(bytes)));
    }
    if let Some(target) = &work.target {
        line(text, format_args!("  target   {}", printable(target)));
    }
    if let Some(aside) = &work.moved_aside {
        line(text, format_args!("  before   what was there is in {}", printable(aside)));
    }
    if let (Some(snapshots), Some(damage)) = (work.snapshots, &work.damage) {
        let verdict = if damage.is_empty() { "no damage".to_owned() } else { format!("{} DAMAGED", damage.len()) };
        line(text, format_args!("  verified {}: {verdict}", count_of(snapshots, "snapshot")));
    }
    if let Some(why) = &work.error {
        field(text, "FAILED", why);
    }
    let warnings = work.warnings.as_deref().unwrap_or_default();
    for warning in warnings.iter().take(MOST) {
        field(text, "warning", warning);
    }
    if let Some(more @ 1..) = warnings.len().checked_sub(MOST) {
        line(text, format_args!("  warning  {} more", count_of(more as u64, "warning")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_readable_whoever_wrote_it() {
        let now = "2026-11-30T20:00:00Z".parse().unwrap();
        let report = json!({
            "run": "fd291bbcca1cfe7b", "action": "backup", "result": "failed", "way": "http",
            "started": "2026-11-30T19:00:00Z", "finished": "2026-11-30T19:00:05Z",
            "place": { "host": "vm", "writer": "lastgood 0.1.0" },
            "events": [{ "kind": "error", "message": "it is \u{1b}[2J broken" }],
            "error": { "error": "could not read it", "kind": "failed", "code": "disk-full", "hint": "Free some space." },
            "hook_failures": [{ "hook": "on-failure", "error": "it hangs" }],
        });
        let text = run_report(&report, now);
        assert_eq!(
            text,
            "Run fd291bbcca1cfe7b: backup is failed\n  \
             began    2026-11-30 19:00:00Z, 1 h 0 min ago; took 5.0 s\n  \
             by       a request over HTTP on vm\n  \
             FAILED   could not read it [disk-full]\n  \
             do       Free some space.\n  \
             hook     on-failure: it hangs\n  \
             asked by error: it is \\x1b[2J broken\n  \
             more     lastgood runs fd291bbcca1cfe7b --json\n"
        );
        let verify = json!({ "run": "1", "action": "verify", "result": "damaged",
            "verify": [{ "vault": "/v", "snapshots": 1, "damage": [1, 2], "bytes": 3 }, 7] });
        assert!(run_report(&verify, now).contains("  vault    /v\n  verified 1 snapshot: 2 DAMAGED\n"));
        // A program of the future wrote it.
        for odd in [json!({}), json!({ "run": 5, "place": [], "events": 1, "backup": "x", "error": "y" }), json!(7)] {
            assert!(run_report(&odd, now).starts_with("Run of unknown kind: "), "{odd}");
        }
    }
}
