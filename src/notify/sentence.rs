//! Tells a run's end in a sentence or two, for a chat.
//!
//! `&`, `<` and `>` are escaped as Slack asks (<https://docs.slack.dev/messaging/formatting-message-text>), so that no text from
//! outside is a link or calls anybody. Each part is bounded, and so is the whole.

use std::fmt::Write;

use indicatif::{BinaryBytes, HumanCount};
use jiff::SignedDuration;

use crate::replicas::verify::Verified;
use crate::report::{Action, JobOutput, Outcome, Report, RunEnvironment};
use crate::vault::root::BackupReason;
use crate::{backup, replicas};

/// The most bytes of an error, and of the text of a critical event.
const TEXT: usize = 1000;
/// The most bytes of a name or a path.
const NAME: usize = 200;

/// The text that a person is told of a run.
pub fn of(report: &Report, reason: Option<BackupReason>) -> String {
    let mut text = format!("The {} {} ", noun(report.action), place(&report.place));
    let took = took(report);
    match (&report.error, report.result) {
        (Some(failure), result) => {
            let end = match result {
                Outcome::Refused => "was refused",
                Outcome::Damaged => "found damage",
                _ => "failed",
            };
            let after = took.map(|took| format!(" after {took}")).unwrap_or_default();
            add(&mut text, format_args!("{end}{after}: {}", crate::text::one_line(&failure.error, TEXT)));
        }
        (None, result) => {
            let end = match (report.action, result) {
                (Action::Verify, Outcome::Damaged) => "found damage".into(),
                (Action::Verify, Outcome::Failed) => "failed".into(),
                (_, result) => format!("is {result}"),
            };
            add(&mut text, format_args!("{end}"));
            if let Some(what) = done(report) {
                add(&mut text, format_args!(": {what}"));
            }
            if let Some(took) = took {
                add(&mut text, format_args!(", in {took}"));
            }
        }
    }
    if !text.ends_with(['.', '?', '!']) {
        text.push('.');
    }
    if let Some(why) = not_good(report) {
        add(&mut text, format_args!(" {why}."));
    }
    if reason == Some(BackupReason::Critical) {
        text.push_str(&critical(report));
    }
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(more);
}

fn noun(action: Action) -> &'static str {
    match action {
        Action::Backup => "backup",
        Action::Restore => "restore",
        Action::Verify => "verification",
    }
}

fn place(place: &RunEnvironment) -> String {
    match (&place.service, &place.execution) {
        (Some(service), _) => format!("by the service {}", crate::text::one_line(service, NAME)),
        (None, Some(execution)) => format!("by the job execution {}", crate::text::one_line(execution, NAME)),
        (None, None) => format!("on {}", crate::text::one_line(&place.host, NAME)),
    }
}

/// How long the run took. `None` if the run found what another had done.
fn took(report: &Report) -> Option<String> {
    let long = report.finished.duration_since(report.started);
    match long.as_secs_f64() {
        seconds if seconds <= 0.0 => None,
        seconds if seconds < 60.0 => Some(format!("{seconds:.1} s")),
        _ => Some(format!("{:#}", SignedDuration::from_secs(long.as_secs()))),
    }
}

/// Describes what was done.
fn done(report: &Report) -> Option<String> {
    let content = |files: u64, bytes: u64| format!("{}, {}", count(files, "file"), BinaryBytes(bytes));
    Some(match &report.done {
        None => format!("snapshot {}", report.snapshot?.id),
        Some(JobOutput::Backup(done)) => {
            let replicas::backup::ReplicatedBackupReport { taken, .. } = &**done;
            let new = BinaryBytes(taken.uploaded_bytes);
            format!("snapshot {} holds {}; {new} were sent", taken.snapshot.id, content(taken.files, taken.bytes))
        }
        Some(JobOutput::Restore(done)) => {
            let restored = &done.restored;
            let target = crate::text::one_line(&restored.target.to_string_lossy(), NAME);
            let content = content(restored.files, restored.bytes);
            format!("snapshot {} is in {target}: {content}", restored.snapshot.id)
        }
        Some(JobOutput::Verify(vaults)) => vaults.iter().map(verified).collect::<Vec<_>>().join("; "),
    })
}

fn verified(vault: &Verified) -> String {
    let name = crate::text::one_line(&vault.vault, NAME);
    match (&vault.report, &vault.error) {
        (Some(report), _) => {
            let broken = report.databases.iter().filter(|database| database.failed.is_some()).count() as u64;
            let mut text = format!("{name} has {}, {}", count(report.snapshots, "snapshot"), BinaryBytes(report.bytes));
            let newer = report.newer_format.len() as u64;
            for (n, what) in [
                (report.damage.len() as u64, "damaged object"),
                (newer, "newer-format root"),
                (broken, "broken database"),
            ] {
                if n > 0 {
                    add(&mut text, format_args!(", {}", count(n, what)));
                }
            }
            text
        }
        (None, error) => format!("{name}: {}", crate::text::one_line(error.as_deref().unwrap_or("not verified"), NAME)),
    }
}

/// Names the vaults that do not hold the snapshot, and why the first of them does not.
fn not_held(done: &replicas::backup::ReplicatedBackupReport) -> String {
    let (mut names, mut first) = (Vec::new(), None);
    for held in done.vaults.iter().filter(|held| !held.holds) {
        names.push(crate::text::one_line(&held.vault, NAME));
        first = first.or(held.why.as_deref());
    }
    let why = first.map(|why| format!(": {}", crate::text::one_line(why, TEXT))).unwrap_or_default();
    format!("It is not in {}{why}", names.join(", "))
}

/// Why the result is not a good one, if no error says so.
fn not_good(report: &Report) -> Option<String> {
    match (&report.done, report.result) {
        (Some(JobOutput::Backup(done)), Outcome::Stale) => Some(not_whole(&done.taken)),
        (Some(JobOutput::Backup(done)), Outcome::IncompleteCopies) => Some(not_held(done)),
        (Some(JobOutput::Backup(done)), Outcome::Partial) => {
            Some(format!("{} could not be read", entries(done.taken.errors.len() as u64)))
        }
        (Some(JobOutput::Restore(done)), Outcome::Partial) if done.restored.not_restored.is_empty() => {
            let newest = done.restored.instead_of?.id;
            Some(format!("A newer snapshot, {newest}, is damaged; this one is older"))
        }
        (Some(JobOutput::Restore(done)), Outcome::Partial) => {
            Some(format!("{} could not be restored", entries(done.restored.not_restored.len() as u64)))
        }
        (Some(JobOutput::Backup(done)), Outcome::Suspect) if done.taken.diverged => {
            Some(crate::text::one_line(done.taken.suspect.as_deref().unwrap_or("The data has diverged"), TEXT))
        }
        (done, Outcome::Suspect) => {
            let why = match done {
                Some(JobOutput::Backup(done)) => done.taken.suspect.as_deref(),
                _ => None,
            };
            let why = why.unwrap_or("an unmounted volume, or a directory that was wiped");
            Some(format!("It looks like an accident: {}", crate::text::one_line(why, TEXT)))
        }
        (Some(JobOutput::Backup(done)), Outcome::Complete) => {
            done.taken.notices.first().map(|why| crate::text::one_line(why, TEXT))
        }
        (_, Outcome::Unsound) => Some("A database in it failed its check".into()),
        _ => None,
    }
}

/// Names what a good snapshot lacks: the first such entry, and how many more there are.
fn not_whole(taken: &backup::BackupReport) -> String {
    let stale = taken
        .stale
        .iter()
        .map(|item| (&item.path, format!("is as of {}", item.since.strftime("%Y-%m-%d %H:%M:%SZ")), &item.why));
    let missing = taken.errors.iter().map(|item| (&item.path, "is missing".to_owned(), &item.why));
    let torn = taken.torn.iter().map(|item| (&item.path, "may be torn".to_owned(), &item.why));
    let mut all = stale.chain(missing).chain(torn);
    let Some((path, what, why)) = all.next() else { return "Not all of it is what was there".into() };
    let more = match all.count() {
        0 => String::new(),
        more => format!("; {} more", entries(more as u64)),
    };
    let (path, why) =
        (crate::text::one_line(&crate::text::entry_name(path.bytes()), NAME), crate::text::one_line(why, TEXT));
    format!("{path} {what}: {why}{more}. Mend it, or leave it out with --exclude")
}

/// The critical event that the run was for, the first if there are several.
fn critical(report: &Report) -> String {
    let mut of_apps = report.events.iter().filter(|event| event.message.is_some() || event.service.is_some());
    let Some(event) = of_apps.next() else { return " It was made for a critical event.".into() };
    let service = event.service.as_deref().map(|service| format!(" of {}", crate::text::one_line(service, NAME)));
    let message = event.message.as_deref().map(|message| format!(": {}", crate::text::one_line(message, TEXT)));
    let more = match of_apps.count() {
        0 => String::new(),
        n => format!(" (and {} more)", HumanCount(n as u64)),
    };
    format!(" It was made for a critical event{}{more}{}", service.unwrap_or_default(), message.unwrap_or_default())
}

fn entries(n: u64) -> String {
    if n == 1 { "1 entry".into() } else { format!("{} entries", HumanCount(n)) }
}

fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", HumanCount(n), if n == 1 { "" } else { "s" })
}
