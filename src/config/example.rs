//! The configuration file that `config --example` prints: every option with its help, commented out.

use std::fmt::Write;

use super::file::{ENV, VARIABLES};
use super::options::{Options, Setting, Shape, Table};

/// The width of comments, in columns.
const WIDTH: usize = 80;

const HEAD: &str = "\
# The configuration of lastgood. What stands here holds where neither an option
# on the command line nor a variable says anything.
#
# Nothing is set: take the # away that stands right before a key. The values are
# the defaults or, where there is no default, examples. An option may stand in
# the table of its own command, too, and holds for that command alone there.
";

const VARIABLES_HEAD: &str = "\
# Variables that no option stands for, under their own names. One that is set in
# the environment counts before the one here.
";

/// Values to try, by the name that `--help` gives the value of an option.
const SAMPLES: [(&str, &str); 19] = [
    ("ADDRESS", "scheduler@my-project.iam.gserviceaccount.com"),
    ("ADDR", "127.0.0.1:8080"),
    ("DATE", "2027-01-31"),
    ("DURATION", "10m"),
    ("FILE", "/run/secrets/file"),
    ("GLOB", "*.tmp"),
    ("ID", "event-7"),
    ("KEY=VALUE", "app=shop"),
    ("N", "10"),
    ("NAME", "my-app"),
    ("PATH", "uploads"),
    ("PERCENT", "100"),
    ("POLICY", "last=10,within=48h,daily=30,monthly=12"),
    ("PROJECT", "my-project"),
    ("SNAPSHOT", "latest"),
    ("URL", "https://example.com/secret"),
    ("WHEN", "on-failure"),
    ("job=NAME", "job=projects/my-project/locations/europe-west1/jobs/backup-job"),
    ("projects/P/topics/T", "projects/my-project/topics/results"),
];
/// Values of which one suits any other option.
const OTHERS: [&str; 7] = ["text", "10", "10m", "20s", "127.0.0.1:8080", "https://example.com", "app=shop"];

/// Returns the file.
pub fn example(options: &Options) -> String {
    let mut text = HEAD.to_owned();
    let mut tables = vec![Table::new()];
    for command in options.commands() {
        let above = (1..=command.len()).map(|n| command[..n].to_vec());
        tables.extend(above.filter(|table| !tables.contains(table)).collect::<Vec<_>>());
    }
    for table in &tables {
        let here = options.of_table(table);
        let here: Vec<_> = here.iter().filter(|one| one.home() == &**table && !one.arg.is_hide_set()).collect();
        if here.is_empty() {
            continue;
        }
        if !table.is_empty() {
            line(&mut text, format_args!("\n[{}]", table.join(".")));
        }
        for setting in here {
            text.push('\n');
            wrapped(&mut text, &explained(options, setting, table));
            line(&mut text, format_args!("#{} = {}", setting.key, value(options, setting)));
        }
    }
    line(&mut text, format_args!("\n[{ENV}]\n\n{}", VARIABLES_HEAD.trim_end()));
    for name in VARIABLES {
        line(&mut text, format_args!("#{name} = \"\""));
    }
    text
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    _ = writeln!(text, "{line}");
}

/// Returns the help of an option, with its values and where else it holds.
fn explained(options: &Options, setting: &Setting, table: &Table) -> String {
    let mut text = setting.help();
    if setting.shape() == Shape::One && !setting.arg.get_default_values().is_empty() {
        text += &format!(" [default: {}]", setting.default().unwrap_or_default());
    }
    let values = setting.arg.get_possible_values();
    let values: Vec<_> = values.iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name()).collect();
    if !values.is_empty() && matches!(setting.shape(), Shape::One | Shape::List) {
        text += &format!(" [values: {}]", values.join(", "));
    }
    let also = options.commands().iter().filter(|command| {
        !command.starts_with(table)
            && options.of(command).iter().any(|one| one.key == setting.key && one.home() == &**table)
    });
    let also: Vec<_> = also.map(|command| command.join(" ")).collect();
    if !also.is_empty() && !table.is_empty() {
        text += &format!(" [also for: {}]", also.join(", "));
    }
    text
}

/// Writes a text as comments.
fn wrapped(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let long = word.chars().count() + 1;
        if column == 0 || column + long > WIDTH {
            out.push_str(if column == 0 { "#" } else { "\n#" });
            column = 1;
        }
        out.push(' ');
        out.push_str(word);
        column += long;
    }
    out.push('\n');
}

/// Returns a value that the option takes: its default, or an example.
fn value(options: &Options, setting: &Setting) -> String {
    match setting.shape() {
        Shape::Switch => "false".into(),
        Shape::Count => "0".into(),
        Shape::One => toml(&sample(options, setting)),
        Shape::List => format!("[{}]", toml(&sample(options, setting))),
    }
}

fn sample(options: &Options, setting: &Setting) -> String {
    candidates(setting).into_iter().find(|text| options.check(setting, text).is_ok()).unwrap_or_default()
}

/// Returns values of which the option takes one at least.
pub fn candidates(setting: &Setting) -> Vec<String> {
    let default = setting.default().and_then(|text| text.split([';', ',']).next().map(|text| text.trim().to_owned()));
    let default = default.filter(|text| !text.is_empty() && (!text.contains(' ') || set_by_clap(setting)));
    // `quick for critical events, else off` begins with a value.
    let values = setting.arg.get_possible_values();
    let values = values.iter().map(|value| value.get_name().to_owned());
    let name = setting.value_name();
    let vault = (name == Some("URL") && setting.help().contains("vault")).then(|| "gs://my-state/app".to_owned());
    let named = SAMPLES.iter().filter(|(known, _)| name == Some(*known));
    let named = named.map(|(_, sample)| (*sample).to_owned());
    let others = OTHERS.iter().map(|text| (*text).to_owned());
    default.into_iter().chain(values).chain(vault).chain(named).chain(others).collect()
}

fn set_by_clap(setting: &Setting) -> bool {
    !setting.arg.get_default_values().is_empty()
}

/// Writes a value in TOML: whole numbers as such, everything else in quotes.
fn toml(value: &str) -> String {
    match value.parse::<u32>() {
        Ok(number) => number.to_string(),
        // JSON's strings are strings of TOML.
        Err(_) => serde_json::Value::from(value).to_string(),
    }
}
