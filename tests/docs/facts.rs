//! Tables in pages hold what the program has, and all of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lastgood::error::{Code, Kind};
use lastgood::report::Outcome;
use serde_json::Value;

use super::commands::{helps, indented};
use super::pages::{self, page};
use crate::support::World;
use crate::support::http::Service;

/// Variables that libraries read, and not the source of lastgood: of the log, of panics, of temporary files.
const OF_LIBRARIES: [&str; 5] = ["RUST_LOG", "RUST_BACKTRACE", "TMPDIR", "SSL_CERT_DIR", "GOOGLE_CLOUD_QUOTA_PROJECT"];

/// Literals in the source that look as variables do: words of other programs' interfaces, and variables of tests and of apps.
const NO_VARIABLES: [&str; 12] = [
    "CARGO_PKG_VERSION",
    "FAILED_PRECONDITION",
    "INTERNAL_ERROR",
    "INVALID_ARGUMENT",
    "LASTGOOD_RUN_MARK",
    "LASTGOOD_SOAK",
    "LASTGOOD_TEST_PEER",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "SIGNATURE_REMOVED_BY_GOOGLE",
    "SQLITE_ENABLE_DBPAGE_VTAB",
    "TRIGGER_NAME",
];

/// Variables that hooks are given, and that lastgood does not read.
const GIVEN_TO_HOOKS: [&str; 8] = [
    "LASTGOOD_HOOK",
    "LASTGOOD_ACTION",
    "LASTGOOD_RUN",
    "LASTGOOD_REASON",
    "LASTGOOD_RESULT",
    "LASTGOOD_SNAPSHOT",
    "LASTGOOD_ERROR",
    "LASTGOOD_CODE",
];

/// What a page writes in capitals and is no variable that lastgood reads.
const IN_PAGES: [&str; 5] =
    ["CLOUDSDK_PYTHON", "LASTGOOD_RUN_MARK", "LASTGOOD_SERVICE_HOST", "WRITER_IDENTITY_OF_THE_SINK", "WAL_CHECKPOINT"];

/// The variables of the two guides that docs/migrate.md leads away from.
const OF_GUIDES: [&str; 10] = [
    "AUTO_RESTORE_ON_STARTUP",
    "BACKUP_BUCKET_NAME",
    "BACKUP_ENABLED",
    "BACKUP_INTERVAL_MINUTES",
    "CLOUDSDK_PYTHON",
    "GCP_PROJECT_ID",
    "GCS_BUCKET_NAME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "MAX_LOCAL_BACKUPS",
];

/// The endpoints of the dashboard of one of them.
const ENDPOINTS_OF_GUIDES: [&str; 6] = [
    "GET /health",
    "GET /backup/status",
    "POST /backup/trigger",
    "POST /backup/restore",
    "GET /backup/list",
    "POST /backup/cleanup",
];

/// The texts of all Rust files of src/.
fn sources() -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&pages::root().join("src"), &mut found);
    found.sort();
    assert!(found.len() > 100);
    found.into_iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Whether a text is a name as variables have, of several words.
fn is_name(text: &str) -> bool {
    let words: Vec<&str> = text.split('_').collect();
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    words.len() > 1 && words.iter().all(is_word) && text.starts_with(|c: char| c.is_ascii_uppercase())
}

/// The variables that the source reads.
fn variables() -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    for text in sources() {
        // Names in quotes, between which no quote is.
        let literals = text.split('"').filter(|text| is_name(text) && !NO_VARIABLES.contains(text));
        read.extend(literals.map(str::to_owned));
        for method in ["get", "text", "path", "number", "parsed", "duration", "var", "var_os"] {
            let call = format!("{method}(\"");
            let calls = text.split(&call).skip(1).filter_map(|rest| rest.split('"').next());
            let plain = |name: &&str| name.len() > 2 && name.chars().all(|c| c.is_ascii_uppercase());
            read.extend(calls.filter(plain).map(str::to_owned));
        }
    }
    for given in GIVEN_TO_HOOKS {
        assert!(read.remove(given), "no hook is given {given}");
    }
    assert!(read.contains("PORT") && read.contains("HOME") && read.contains("LASTGOOD_VAULT"), "{read:?}");
    read
}

/// The variables that options have by their names.
fn of_options() -> BTreeSet<String> {
    let options = helps().values().flat_map(|help| described(help)).map(|(option, _)| option);
    let bare = options.filter_map(|option| Some(option.strip_prefix("--")?.split(['=', '[', '.']).next()?.to_owned()));
    bare.map(|option| format!("LASTGOOD_{}", option.to_uppercase().replace('-', "_"))).collect()
}

/// The code in a cell.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Asserts that two sets are one.
#[track_caller]
fn assert_same(what: &str, shown: &BTreeSet<String>, are: &BTreeSet<String>) {
    let (made_up, missing) = (shown.difference(are), are.difference(shown));
    let (made_up, missing): (Vec<_>, Vec<_>) = (made_up.collect(), missing.collect());
    assert!(made_up.is_empty() && missing.is_empty(), "{what}: made up {made_up:?}, missing {missing:?}");
}

#[test]
fn the_table_of_variables_is_that_of_the_program() {
    let rows = page("environment.md").rows();
    let names: Vec<String> = rows.iter().flat_map(|row| code(&row[0])).map(str::to_owned).collect();
    let shown: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(shown.len(), names.len(), "a variable has two rows");
    // Tests name some that follow from an option.
    let named = variables().into_iter().filter(|name| shown.contains(name) || !of_options().contains(name));
    let are = named.chain(OF_LIBRARIES.map(str::to_owned)).collect();
    assert_same("variables", &shown, &are);
    // The option that does the same stands beside the variable.
    let mut beside = 0;
    for (command, help) in helps() {
        for (option, text) in described(help) {
            let named = text.split("[env: ").skip(1).filter_map(|rest| rest.split(']').next());
            for name in named.flat_map(|names| names.split(|c: char| !c.is_ascii_uppercase() && c != '_')) {
                if !is_name(name) {
                    continue;
                }
                let row = rows.iter().find(|row| code(&row[0]).contains(&name));
                let row = row.unwrap_or_else(|| panic!("{command} --help names {name}"));
                assert!(
                    option.is_empty() || code(&row[1]).contains(&&*option),
                    "{command}: {name} and {option} differ"
                );
                beside += 1;
            }
        }
    }
    assert!(beside > 20, "only {beside} options name a variable");
}

/// What a help text says of each option; an argument has no name.
fn described(help: &str) -> Vec<(String, String)> {
    let mut items: Vec<(String, String)> = Vec::new();
    for line in indented(help.split("Usage: ").nth(1).unwrap_or_default()) {
        if line.starts_with(['-', '[', '<'])
            && !line.starts_with("[default")
            && !line.starts_with("[env")
            && !line.starts_with("- ")
        {
            let long = line.split_whitespace().find(|word| word.starts_with("--")).unwrap_or_default();
            items.push((long.to_owned(), String::new()));
        }
        if let Some((_, text)) = items.last_mut() {
            *text += line;
            text.push(' ');
        }
    }
    items
}

#[test]
fn pages_name_only_variables_that_there_are() {
    let others = OF_LIBRARIES.iter().chain(&IN_PAGES).chain(&GIVEN_TO_HOOKS).map(|name| (*name).to_owned());
    let known: BTreeSet<String> = variables().into_iter().chain(of_options()).chain(others).collect();
    let mut unknown = Vec::new();
    for page in pages::all() {
        let words = page.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        unknown
            .extend(words.filter(|word| is_name(word) && !known.contains(*word)).map(|word| format!("{page}: {word}")));
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn what_the_guides_have_is_in_the_page_that_leads_away_from_them() {
    let known = variables();
    let rows = page("environment.md").rows();
    let explained: BTreeSet<String> = rows.iter().flat_map(|row| code(&row[0])).map(str::to_owned).collect();
    let names = OF_GUIDES.map(str::to_owned);
    assert_same("variables of the guides", &firsts("migrate.md", "Variables"), &names.clone().into());
    // All but the one of `gsutil` are read.
    let unread: Vec<_> = names.iter().filter(|name| !known.contains(*name) || !explained.contains(*name)).collect();
    assert_eq!(unread, ["CLOUDSDK_PYTHON"]);
    let endpoints = ENDPOINTS_OF_GUIDES.map(str::to_owned);
    assert_same("endpoints of the guides", &firsts("migrate.md", "Endpoints"), &endpoints.clone().into());
    let routes = firsts("http-api.md", "Routes");
    assert!(endpoints.iter().all(|endpoint| routes.contains(endpoint)), "{routes:?}");
}

#[test]
fn the_variables_of_hooks_are_those_that_they_are_given() {
    let given = GIVEN_TO_HOOKS.iter().chain(&["LASTGOOD_DATA", "LASTGOOD_VAULT"]).map(|name| (*name).to_owned());
    assert_same("variables of hooks", &firsts("hooks.md", "What a hook gets"), &given.collect());
    // The options stand beside their variables in the first table.
    for row in page("hooks.md").rows().iter().filter(|row| row[0].starts_with("`--")) {
        let variable = code(&row[0])[0].trim_start_matches("--").replace('-', "_").to_uppercase();
        assert_eq!(code(&row[1]), [format!("LASTGOOD_{variable}")]);
    }
}

/// The rows that stand below a heading of a page.
fn rows_below(name: &str, heading: &str) -> Vec<Vec<String>> {
    let mut page = page(name);
    let (_, below) =
        page.text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("{name} has no {heading}"));
    page.text = below.split("\n## ").next().unwrap().to_owned();
    let rows = page.rows();
    assert!(!rows.is_empty(), "{heading} has no table");
    rows
}

/// The first code in the first cell of the rows that stand below a heading of a page.
fn firsts(name: &str, heading: &str) -> BTreeSet<String> {
    let first = |row: &Vec<String>| code(&row[0]).first().map_or_else(|| row[0].clone(), |code| (*code).to_owned());
    rows_below(name, heading).iter().map(first).collect()
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let mut are = BTreeSet::new();
    for text in sources() {
        // The program's own: what its outcomes are as codes, but for that of an app; and what two signals or a closed pipe end it with.
        let outcomes =
            text.split("ProgramOutcome::").skip(1).filter_map(|rest| rest.split_once(" => ")?.1.split(',').next());
        are.extend(outcomes.filter(|code| code.parse::<u8>().is_ok()).map(str::to_owned));
        for name in ["INTERRUPTED", "PIPE_CLOSED"] {
            let code = text.split(&format!("const {name}: u8 = ")).nth(1).and_then(|rest| rest.split(';').next());
            are.extend(code.map(str::to_owned));
        }
    }
    assert!(are.len() >= 8, "{are:?}");
    assert_same("exit codes", &firsts("exit-codes-and-errors.md", "Exit codes"), &are);
    let help = &helps()[""];
    let lines = help.split("Exit codes:").nth(1).unwrap().lines();
    let told = lines.filter_map(|line| line.split_whitespace().next()).filter(|word| word.parse::<u8>().is_ok());
    let told: BTreeSet<String> = told.map(str::to_owned).collect();
    assert!(told.len() == 6 && told.is_subset(&are), "{told:?}");
}

#[test]
fn kinds_and_codes_of_errors_and_results_of_runs_are_those_of_the_program() {
    // A variant that is new is missing here until it is added, which the compiler demands.
    let next = |kind| match kind {
        Kind::Usage => Some(Kind::Failed),
        Kind::Failed => Some(Kind::Unreachable),
        Kind::Unreachable => Some(Kind::Damage),
        Kind::Damage => Some(Kind::NothingYet),
        Kind::NothingYet => Some(Kind::Unneeded),
        Kind::Unneeded => None,
    };
    let kinds = std::iter::successors(Some(Kind::Usage), |kind| next(*kind));
    // Nothing had to be done is no error to anybody: the exit code is 0, and `skipped` says why.
    let told = kinds.filter(|kind| *kind != Kind::Unneeded).map(|kind| kind.name().to_owned());
    assert_same("kinds", &firsts("exit-codes-and-errors.md", "Kinds of errors"), &told.collect());
    let codes = Code::ALL.iter().filter(|code| **code != Code::Unneeded).map(|code| code.word().to_owned());
    assert_same("codes", &firsts("exit-codes-and-errors.md", "Codes of errors"), &codes.collect());
    let next = |outcome| match outcome {
        Outcome::Complete => Some(Outcome::Stale),
        Outcome::Stale => Some(Outcome::IncompleteCopies),
        Outcome::IncompleteCopies => Some(Outcome::Partial),
        Outcome::Partial => Some(Outcome::Suspect),
        Outcome::Suspect => Some(Outcome::Unsound),
        Outcome::Unsound => Some(Outcome::Damaged),
        Outcome::Damaged => Some(Outcome::Failed),
        Outcome::Failed => Some(Outcome::Refused),
        Outcome::Refused => None,
    };
    let results = std::iter::successors(Some(Outcome::Complete), |outcome| next(*outcome));
    let results = results.map(|outcome| outcome.name().to_owned()).collect();
    assert_same("results", &firsts("exit-codes-and-errors.md", "Results of runs"), &results);
}

#[test]
fn every_code_is_that_of_an_error_of_the_program() {
    let is_test = |text: &&str| !text.contains("#[test]");
    let source: String =
        sources().iter().flat_map(|text| text.split("#[cfg(test)]\nmod tests {")).filter(is_test).collect();
    // The two lists of codes themselves are macros and do not name them so.
    let unused: Vec<_> = Code::ALL.iter().filter(|code| !source.contains(&format!("Code::{code:?}"))).collect();
    assert!(unused.is_empty(), "no error has the codes {unused:?}");
}

#[test]
fn every_code_of_an_error_leads_to_a_page_that_says_what_to_do() {
    // `links.rs` shows that the page is there.
    let rows = rows_below("exit-codes-and-errors.md", "Codes of errors");
    let leads = |row: &&Vec<String>| {
        let [_, meaning, what_to_do] = &row[..] else { return false };
        !meaning.is_empty() && !what_to_do.starts_with('[') && what_to_do.contains(".md")
    };
    let lost: Vec<_> = rows.iter().filter(|row| !leads(row)).map(|row| &row[0]).collect();
    assert!(lost.is_empty(), "nothing says what to do about {lost:?}");
    // Whoever begins with the message finds the table.
    assert!(page("troubleshooting.md").text.contains("(exit-codes-and-errors.md#codes-of-errors)"));
}

#[test]
fn messages_in_troubleshooting_are_those_of_the_program() {
    // Literals that go on in the next line, as the program writes them.
    let source: String = sources().join("\n").split("\\\n").map(str::trim_start).collect();
    let rows = page("troubleshooting.md").rows();
    // Words of documents, and Google's own message, are no texts of the program.
    let others = ["does not have storage.objects.", "Retry-After", "\"status\":\"refused\""];
    let messages: Vec<&str> = rows.iter().flat_map(|row| code(&row[0])).filter(|text| !others.contains(text)).collect();
    let missing: Vec<_> = messages.iter().filter(|text| !source.contains(**text)).collect();
    assert!(missing.is_empty(), "the program does not say {missing:?}");
    assert!(messages.len() > 40, "only {} messages", messages.len());
}

#[test]
fn routes_are_those_that_the_service_describes() {
    let world = World::with_files();
    let service = Service::start(&world, []);
    let document: Value = service.get("/openapi.json").is(200);
    let mut are = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        are.extend(methods.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    assert!(are.len() > 15, "{are:?}");
    assert_same("routes", &firsts("http-api.md", "Routes"), &are);
    // Metrics, whose names a dashboard relies on.
    let metrics = service.get("/metrics");
    let named = metrics.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let named = named.map(str::to_owned).collect();
    assert_same("metrics", &firsts("monitoring.md", "Metrics"), &named);
}
