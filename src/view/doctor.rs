//! The doctor's report as text for people: a line for each check, and below it what to do.

use crate::doctor::check::{CheckStatus, DoctorCheck};
use crate::doctor::{DoctorReport, DoctorSection, Subject};

use super::line;
use crate::text::{columns, count_of, printable};

/// The width of a text that no terminal shows, in columns; commands are never broken.
pub const WIDTH: usize = 100;
/// The width of a terminal.
pub const NARROW: usize = 80;
/// The column at which a check's name begins.
const INDENT: usize = 11;

/// Returns the whole report as text of this width.
pub fn doctor(report: &DoctorReport, columns: usize) -> String {
    text(report, verdict(report), columns)
}

/// Returns the report of the age alone as text of this width.
pub fn age(report: &DoctorReport, columns: usize) -> String {
    let verdict = match report.problems {
        0 => "The newest good snapshot of each vault is young enough.".into(),
        _ => verdict(report),
    };
    text(report, verdict, columns)
}

fn text(report: &DoctorReport, verdict: String, columns: usize) -> String {
    let mut text = String::new();
    let checks = report.parts.iter().flat_map(|part| &part.checks);
    let width = checks.map(|check| check.name.len()).max().unwrap_or(0);
    for part in &report.parts {
        line(&mut text, format_args!("{}", heading(part)));
        for check in &part.checks {
            self::check(&mut text, check, width, columns);
        }
        text.push('\n');
    }
    line(&mut text, format_args!("{verdict}"));
    text
}

/// Returns the checks that found a problem, a line each.
pub fn problems(report: &DoctorReport) -> Vec<String> {
    let mut lines = Vec::new();
    for part in &report.parts {
        for check in part.checks.iter().filter(|check| check.outcome == CheckStatus::Problem) {
            lines.push(format!("{}: {}: {}", heading(part), check.name, printable(&check.found)));
        }
    }
    lines
}

fn heading(part: &DoctorSection) -> String {
    let place = printable(&part.place);
    match part.subject {
        Subject::Vault => format!("Vault {place}"),
        Subject::Vaults => "All vaults".into(),
        Subject::Data => format!("Data directory {place}"),
    }
}

fn check(text: &mut String, check: &DoctorCheck, width: usize, columns: usize) {
    let outcome = match check.outcome {
        CheckStatus::Ok => "ok",
        CheckStatus::Skipped => "skipped",
        CheckStatus::Warning => "WARNING",
        CheckStatus::Problem => "PROBLEM",
    };
    let mut found = wrapped(&printable(&check.found), columns.saturating_sub(INDENT + width + 2)).into_iter();
    let first = found.next().unwrap_or_default();
    line(text, format_args!("  {outcome:7}  {:width$}  {first}", check.name));
    for more in found {
        line(text, format_args!("{:indent$}{more}", "", indent = INDENT + width + 2));
    }
    for advice in check.advice.iter().flat_map(|advice| wrapped(&printable(advice), columns.saturating_sub(INDENT))) {
        line(text, format_args!("{:INDENT$}{advice}", ""));
    }
    for command in &check.commands {
        line(text, format_args!("{:INDENT$}  {}", "", printable(command)));
    }
}

fn verdict(report: &DoctorReport) -> String {
    match (report.problems as u64, report.warnings as u64) {
        (0, 0) => "Nothing stands in the way of a backup or a restore.".into(),
        (0, warnings) => format!("No problem, and {}.", count_of(warnings, "warning")),
        (problems, 0) => format!("{} to solve.", count_of(problems, "problem")),
        (problems, warnings) => {
            format!("{} to solve, and {}.", count_of(problems, "problem"), count_of(warnings, "warning"))
        }
    }
}

/// Wraps text into lines of at most `width` columns, unless a word is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_as_people_read_it() {
        let check = |name, outcome, found: &str| DoctorCheck {
            name,
            outcome,
            found: found.into(),
            advice: None,
            commands: Vec::new(),
        };
        let wrong = DoctorCheck {
            advice: Some("Is the name right? ".repeat(6)),
            commands: vec!["gcloud storage ls".into()],
            ..check("bucket", CheckStatus::Problem, "gs://b-1 does not exist\u{1b}[2J")
        };
        let checks = vec![check("may create", CheckStatus::Ok, "held"), wrong];
        let report = DoctorReport {
            problems: 1,
            warnings: 2,
            parts: vec![DoctorSection { subject: Subject::Vault, place: "gs://b-1/x".into(), checks }],
        };
        let text = "\
Vault gs://b-1/x
  ok       may create  held
  PROBLEM  bucket      gs://b-1 does not exist\\x1b[2J
           Is the name right? Is the name right? Is the name right? Is the name right? Is the name
           right? Is the name right?
             gcloud storage ls

1 problem to solve, and 2 warnings.
";
        assert_eq!(doctor(&report, WIDTH), text);
        assert_eq!(problems(&report), ["Vault gs://b-1/x: bucket: gs://b-1 does not exist\\x1b[2J"]);
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrapped("a bc  def", 4), ["a bc", "def"]);
        assert_eq!(wrapped("abcdef g", 3), ["abcdef", "g"]);
        assert_eq!(wrapped("", 3), Vec::<String>::new());
    }
}
