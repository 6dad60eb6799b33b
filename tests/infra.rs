//! The Terraform module in `infra/` starts lastgood with arguments that it knows.

use std::fs;
use std::path::Path;

use crate::support::World;

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

/// Returns all lists of arguments of a file, each with the command that it begins with or belongs to.
fn argument_lists(file: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("infra").join(file)).unwrap();
    let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    code.join("\n").split('[').skip(1).map(strings).filter(|list| !list.is_empty()).collect()
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
        if command[0].contains([' ', '.', '/', '$']) || ["work", "job", "backup"] == [command[0].as_str(); 3] {
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
