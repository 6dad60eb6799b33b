//! Metrics in Prometheus' text format.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::fmt::Write;

use super::health::{Health, Status};
use crate::runner::runner::RunStats;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the metrics. Counters of this process begin at 0 when it starts.
pub fn text(tally: &RunStats, health: &Health, running: bool) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
        // Writing to a `String` does not fail.
        let _ = writeln!(out, "# HELP lastgood_{name} {help}\n# TYPE lastgood_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "lastgood_{name}{labels} {value}");
        }
    };
    let one = |value: f64| vec![(String::new(), value)];
    let by_action = |action: &str| format!("{{action=\"{action}\"}}");
    let runs = tally.runs.iter();
    let runs = runs.map(|((action, result), n)| (format!("{{action=\"{action}\",result=\"{result}\"}}"), *n as f64));
    family("runs_total", "counter", "Runs that ended, by what they were for and how they ended.", runs.collect());
    let seconds = tally.seconds.iter().map(|(action, seconds)| (by_action(action), *seconds)).collect();
    family("run_seconds_total", "counter", "Time that runs took, by what they were for.", seconds);
    let success = tally.success.iter().map(|(action, time)| (by_action(action), time.as_millisecond() as f64 / 1000.0));
    let help = "When a run last ended complete, by what it was for.";
    family("last_success_timestamp_seconds", "gauge", help, success.collect());
    family("uploaded_bytes_total", "counter", "Bytes of the objects that backups created.", one(tally.uploaded as f64));
    let help = "Requests to stores that were made again.";
    family("store_retries_total", "counter", help, one(tally.retries as f64));
    family("run_in_progress", "gauge", "Whether a run is under way.", one(f64::from(u8::from(running))));
    let newest = |value: fn(&super::health::NewestSnapshot) -> f64| {
        health.snapshot.iter().map(|newest| (String::new(), value(newest))).collect::<Vec<_>>()
    };
    let age = newest(|newest| newest.age_seconds as f64);
    family("newest_good_snapshot_age_seconds", "gauge", "Age of the newest good snapshot.", age);
    let created = newest(|newest| newest.created.as_millisecond() as f64 / 1000.0);
    let help = "When the newest good snapshot was committed.";
    family("newest_good_snapshot_timestamp_seconds", "gauge", help, created);
    let reachable = health.vaults.iter().filter(|vault| vault.reachable).count();
    family("vaults_reachable", "gauge", "Vaults that can be opened.", one(reachable as f64));
    let states = [Status::Healthy, Status::Degraded, Status::Unhealthy].into_iter();
    let states = states
        .map(|status| (format!("{{status=\"{}\"}}", status.name()), f64::from(u8::from(status == health.status))));
    family("health", "gauge", "1 for the status that /health tells.", states.collect());
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("build_info", "gauge", "The program.", vec![(version, 1.0)]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::health::{DataHealth, NewestSnapshot};
    use crate::vault::hex::Hex;
    use crate::vault::root::SnapshotName;
    use jiff::Timestamp;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let time = Timestamp::from_millisecond(1_800_000_000_500).unwrap();
        let mut tally = RunStats { uploaded: 12, retries: 3, ..RunStats::default() };
        tally.runs.insert(("backup", "complete"), 2);
        tally.seconds.insert("backup", 1.25);
        tally.success.insert("backup", time);
        let data = DataHealth {
            present: true,
            newest: None,
            age_seconds: None,
            freshness_seconds: 7200,
            whole: true,
            seen_seconds_ago: Some(0),
            critical_files: Vec::new(),
        };
        let id = SnapshotName { seq: 1, time, id: Hex([0; 8]) };
        let health = Health {
            status: Status::Degraded,
            why: Vec::new(),
            checked: time,
            vaults: Vec::new(),
            snapshot: Some(NewestSnapshot { id, created: time, age_seconds: 60, whole: true }),
            max_age_seconds: 3600,
            data,
            last_run: None,
            last_error: None,
        };
        let text = text(&tally, &health, true);
        for line in [
            "lastgood_runs_total{action=\"backup\",result=\"complete\"} 2",
            "lastgood_run_seconds_total{action=\"backup\"} 1.25",
            "lastgood_last_success_timestamp_seconds{action=\"backup\"} 1800000000.5",
            "lastgood_uploaded_bytes_total 12",
            "lastgood_store_retries_total 3",
            "lastgood_run_in_progress 1",
            "lastgood_newest_good_snapshot_age_seconds 60",
            "lastgood_health{status=\"degraded\"} 1",
            "lastgood_health{status=\"healthy\"} 0",
        ] {
            assert!(text.lines().any(|said| said == line), "no {line} in {text}");
        }
        assert!(text.ends_with('\n'));
    }
}
