//! The Terraform module in `infra/` starts lastgood with arguments that it knows, and reads from its log what it writes there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Ran, World};

/// What stands in an argument for what Terraform knows when it is applied.
const VALUES: [(&str, &str); 4] = [
    ("${var.max_age}", "26h"),
    ("${var.verify_read_percent}", "10"),
    ("${local.job_path}/${google_cloud_run_v2_job.job[\"work\"].name}", "projects/p/locations/l/jobs/shop-work"),
    ("${local.run_seconds}", "3600"),
];

/// Returns the quoted strings of a list in Terraform's language, from after its bracket on.
fn strings(mut list: &str) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        list = list.trim_start_matches([' ', ',', '\n']);
        let Some(rest) = list.strip_prefix('"') else { return found };
        // Quotes within `${…}` do not end the string.
        let mut depth = 0;
        let end = rest.char_indices().find(|&(at, c)| {
            match c {
                '{' if rest[..at].ends_with('$') => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            c == '"' && depth == 0
        });
        let (text, after) = rest.split_at(end.unwrap().0);
        found.push(VALUES.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value)));
        list = &after[1..];
    }
}

/// Returns the text of a file of the module without its comments.
fn code(file: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("infra").join(file)).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Returns all lists of arguments of a file, each with the command that it begins with or belongs to. A bracket after a name is an
/// index, and no list.
fn argument_lists(file: &str) -> Vec<Vec<String>> {
    let text = code(file);
    let lists = text.match_indices('[').filter(|&(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric()));
    lists.map(|(at, _)| strings(&text[at + 1..])).filter(|list| !list.is_empty()).collect()
}

#[test]
fn jobs_and_service_are_started_with_arguments_that_exist() {
    let world = World::new();
    let mut commands = Vec::new();
    for list in argument_lists("jobs.tf").into_iter().chain(argument_lists("service.tf")) {
        let command = match list[0].starts_with("--") {
            // More of the service's arguments.
            true => [vec!["serve".to_owned()], list].concat(),
            false => list,
        };
        // Options of a mount.
        if command[0].contains('=') {
            continue;
        }
        // What comes last is wrong. An argument that is wrong before it would be what is complained of.
        let ran = world.run(command.iter().map(String::as_str).chain(["--log-format", "nonsense"]));
        ran.ended(2).says("nonsense");
        assert!(!ran.stderr.contains("subcommand"), "{ran:?}");
        assert!(!command.iter().any(|argument| argument.contains('$')), "no value for {command:?}");
        commands.push(command[0].clone());
    }
    commands.sort();
    commands.dedup();
    assert_eq!(commands, ["backup", "dispatched", "doctor", "restore", "serve", "verify"]);
}

#[test]
fn examples_run_their_apps_by_arguments_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let world = World::new();
    for (app, dockerfile) in [("streamlit-sqlite", "streamlit run app.py"), ("price-logger", "logger.py")] {
        let lists = argument_lists(&format!("examples/{app}/main.tf"));
        let command =
            lists.iter().find(|list| list[0] == "lastgood").unwrap_or_else(|| panic!("{app} does not run it"));
        let docker = fs::read_to_string(root.join("examples").join(app).join("Dockerfile")).unwrap();
        let (_, entry) = docker.split_once("\nENTRYPOINT [").unwrap();
        for list in [command.clone(), strings(entry)] {
            assert_eq!((&*list[0], &*list[1], list.last().unwrap().as_str()), ("lastgood", "run", "--"), "{app}");
            let options = list[1..list.len() - 1].iter().map(String::as_str);
            world.run(options.chain(["--log-format", "nonsense", "--", "true"])).ended(2).says("nonsense");
        }
        // The app is the one of the image, with the data where that has it.
        let text = code(&format!("examples/{app}/main.tf"));
        let args = &lists[1 + lists.iter().position(|list| list[0] == "lastgood").unwrap()];
        assert!(args.join(" ").contains(dockerfile) && docker.contains(dockerfile), "{args:?}");
        assert!(docker.contains("LASTGOOD_DATA=/app/data") && text.contains("\"/app/data\""), "{app}");
        // A vault is made by a person there: the account may not.
        assert!(!command.contains(&"--init".to_owned()), "{command:?}");
    }
}

/// Returns the names that stand after `start` and before the first character that `ends` takes.
fn names(text: &str, start: &str, ends: impl Fn(char) -> bool + Copy) -> BTreeSet<String> {
    text.split(start).skip(1).map(|rest| rest.split(ends).next().unwrap().to_owned()).collect()
}

/// Returns the lines of a run's log that have all these fields.
fn lines_with(ran: &Ran, fields: &[&str]) -> Vec<Value> {
    let lines = ran.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| fields.iter().all(|&field| line.get(field).is_some())).collect()
}

/// The key by which Cloud Logging takes a line's labels from JSON.
const LABELS: &str = "logging.googleapis.com/labels";

#[test]
fn alerts_and_metrics_read_fields_that_the_log_has() {
    let world = World::with_files();
    let json = ["--log-format", "json"];
    let run = |args: &[&str]| world.run(args.iter().copied().chain(json));
    let complete = run(&["backup"]);
    complete.ended(0);
    let failed = run(&["backup", "nowhere"]);
    failed.ended(1);
    let age = run(&["doctor", "--only", "age"]);
    age.ended(0);

    // The one line of each that the filters choose: `local.run_line`, and the metric age-seconds.
    let only = |ran: &Ran, fields: &[&str]| -> Value {
        let lines = lines_with(ran, fields);
        assert_eq!(lines.len(), 1, "{ran:?}");
        lines[0].clone()
    };
    let (complete, failed) = (only(&complete, &["seconds", "run"]), only(&failed, &["seconds", "run"]));
    assert_eq!(lines_with(&age, &["seconds", "run"]), Vec::<Value>::new());
    let age = only(&age, &["newest_good_snapshot_age_seconds"]);

    // Each field that the module reads, whether it is read as a number, and the lines that need it.
    let fields: [(&str, bool, &[&Value]); 7] = [
        ("action", false, &[&complete, &failed]),
        // Nothing, where nothing went wrong: a label that is extracted from it is empty then.
        ("code", false, &[&failed]),
        ("newest_good_snapshot_age_seconds", true, &[&age]),
        ("result", false, &[&complete, &failed]),
        ("run", false, &[&complete, &failed]),
        ("seconds", true, &[&complete, &failed]),
        ("uploaded_bytes", true, &[&complete]),
    ];
    let text = [code("alerts.tf"), code("monitoring.tf")].concat();
    let read = names(&text, "jsonPayload.", |c: char| !c.is_alphanumeric() && c != '_');
    assert_eq!(read, fields.iter().map(|(name, ..)| (*name).to_owned()).collect());
    for (name, number, lines) in fields {
        for line in lines {
            assert!(if number { line[name].is_number() } else { line[name].is_string() }, "{name}: {line}");
        }
    }
    let labels = names(&text, "labels.\\\"", |c| c == '\\');
    assert_eq!(labels.len(), 1, "{labels:?}");
    for line in [&complete, &failed, &age] {
        assert!(labels.iter().all(|label| line[LABELS][label].is_string()), "{labels:?}: {line}");
    }

    // The words that filters compare with: `jsonPayload.result != \"complete\"`.
    let compared: BTreeSet<_> = text
        .split("jsonPayload.")
        .skip(1)
        .filter_map(|rest| {
            let mut words = rest.split([' ', '\n']);
            let (name, how, value) = (words.next()?, words.next()?, words.next()?);
            ["=", "!="].contains(&how).then(|| (name, how, value.trim_matches(['\\', '"'])))
        })
        .collect();
    assert_eq!(compared, BTreeSet::from([("action", "=", "backup"), ("result", "!=", "complete")]));
    assert_eq!((&complete["action"], &failed["action"]), (&"backup".into(), &"backup".into()));
    assert_eq!((&complete["result"], &failed["result"]), (&"complete".into(), &"failed".into()));
    assert_eq!(failed["code"], "no-data");
}
