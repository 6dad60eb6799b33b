//! Commands that pages name without running them: the programs understand them, and what they take is explained.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::OnceLock;
use std::thread;
use std::{env, fs};

use tempfile::{NamedTempFile, TempDir};

use super::pages::{self, Page};
use super::words::{self, Command};
use crate::support::World;
use crate::support::requirements::skipped;

/// The languages that a block may be in. Blocks of the last four are documents, or programs of others, and hold no commands.
/// What is in a block of `hcl` is checked by `infra/tests/check_readme.py`, and in one of `toml` by `tests/config.rs`.
const LANGUAGES: [&str; 10] = ["console", "sh", "cron", "ini", "dockerfile", "text", "json", "sql", "toml", "hcl"];

/// All commands that a page names and that are not run, each with a word where that is.
fn named(page: &Page) -> Vec<(String, Command)> {
    let mut named = Vec::new();
    for block in page.blocks() {
        assert!(LANGUAGES.contains(&block.language), "{page}:{}: a block in `{}`", block.line, block.language);
        let commands = words::of_block(block.language, &block.lines);
        named.extend(commands.into_iter().map(|command| (format!("{page}:{}", block.line), command)));
    }
    for span in page.spans().into_iter().filter(|span| span.starts_with("lastgood ") || span.starts_with("gcloud ")) {
        named.extend(words::of_shell(&span).into_iter().map(|command| (format!("{page}: {span}"), command)));
    }
    named
}

/// The lines of a help text that are indented, without that: prose is not.
pub fn indented(help: &str) -> impl Iterator<Item = &str> {
    help.lines().filter(|line| line.starts_with(' ')).map(str::trim)
}

/// The options that a help text describes.
fn options(help: &str) -> BTreeSet<String> {
    let described = help.split("Usage: ").nth(1).unwrap_or_default();
    let lines = indented(described).filter(|line| line.starts_with('-'));
    let words =
        lines.flat_map(|line| line.split_whitespace().take(2).chain(line.split_once(", ").map(|(_, rest)| rest)));
    let long = words.filter_map(|word| word.strip_prefix("--"));
    long.map(|word| format!("--{}", word.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap()))
        .collect()
}

/// Each command of `lastgood`, such as `publish critical`, and its help.
pub fn helps() -> &'static BTreeMap<String, String> {
    static HELPS: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    HELPS.get_or_init(|| {
        let world = World::new();
        let mut helps = BTreeMap::new();
        let mut left = vec![Vec::<String>::new()];
        while let Some(command) = left.pop() {
            let ran = world.run(command.iter().map(String::as_str).chain(["--help", "--all"]));
            let help = ran.ended(0).text().to_owned();
            // The program's own are in groups, above its options.
            let commands = match command.is_empty() {
                true => help.split("\nOptions of all commands:").next(),
                false => help.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()),
            };
            let commands = commands.unwrap_or_default();
            let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
            let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
            left.extend(names.map(|name| command.iter().cloned().chain([name.to_owned()]).collect()));
            helps.insert(command.join(" "), help);
        }
        assert!(helps.len() > 15, "{:?}", helps.keys());
        helps
    })
}

/// Why the program does not understand arguments; nothing if it does.
fn misunderstood(world: &World, args: &[String]) -> Option<String> {
    // Brackets and dots are those of a synopsis: `[DATA]`, `[--snapshot ID]...`.
    let plain = args.iter().map(|arg| arg.trim_start_matches('[').trim_end_matches("...").trim_end_matches(']'));
    // Any command understands the options that all of them have.
    let plain = plain.map(|arg| match arg {
        "COMMAND" => "backup",
        "SHELL" => "bash",
        arg => arg,
    });
    // Behind two dashes is the app that `run` starts.
    let plain: Vec<&str> = plain.take_while(|arg| *arg != "--").filter(|arg| !arg.is_empty()).collect();
    let ran = world.run(plain.iter().copied().chain(["--help", "--all"]));
    if ran.code != Some(0) {
        return Some(ran.stderr);
    }
    let help = ran.text();
    let known = options(help);
    let flags =
        plain.iter().filter(|arg| arg.starts_with("--") && arg.len() > 2).map(|arg| arg.split('=').next().unwrap());
    let unknown: Vec<&str> =
        flags.filter(|flag| !known.contains(*flag) && !["--help", "--version"].contains(flag)).collect();
    (!unknown.is_empty()).then(|| format!("--help does not tell of {unknown:?}"))
}

#[test]
fn lastgood_understands_its_commands() {
    let world = World::new();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages::all() {
        for (at, command) in named(&page) {
            let Command::Lastgood(args) = command else { continue };
            seen += 1;
            wrong.extend(misunderstood(&world, &args).map(|why| format!("{at}: lastgood {}: {why}", args.join(" "))));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 100, "only {seen} commands are found");
    // An option or a value that there is not is found.
    for args in [
        "backup --inlcude x",
        "bakcup",
        "run --evry 30m -- app",
        "backup --check-databases=fast",
        "serve --auth-keys-url x",
    ] {
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        assert!(misunderstood(&world, &args).is_some(), "{args:?}");
    }
}

#[test]
fn every_command_and_every_option_is_in_a_page() {
    let pages = pages::all();
    let code: BTreeSet<String> = pages.iter().flat_map(code_of).collect();
    let holds = |wanted: &str| {
        let is = |text: &String| {
            text.match_indices(wanted).any(|(at, _)| {
                let next = text[at + wanted.len()..].chars().next();
                next.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-')
            })
        };
        code.iter().any(is)
    };
    let mut missing = Vec::new();
    for (command, help) in helps().iter().filter(|(command, _)| !command.is_empty()) {
        if !holds(&format!("lastgood {command}")) {
            missing.push(format!("lastgood {command}"));
        }
        missing.extend(options(help).into_iter().filter(|option| option != "--help" && !holds(option)));
    }
    missing.sort();
    missing.dedup();
    assert!(missing.is_empty(), "no page tells of {missing:?}");
    assert!(!holds("lastgood backpu") && !holds("--limi"));
}

/// All code of a page, a line or a span each.
fn code_of(page: &Page) -> Vec<String> {
    let blocks = page.blocks();
    let lines = blocks.iter().flat_map(|block| block.lines.iter().map(|line| (*line).to_owned()));
    lines.chain(page.spans()).collect()
}

/// Google's commands and their options: from the tree that gcloud completes command lines with, and where that lacks something, as it
/// does for commands in beta, from the help texts. Each of these takes gcloud seconds, so they are kept beside what cargo builds, for
/// each version.
struct Google {
    /// The options of each command that the tree has, by the command's words.
    tree: BTreeMap<String, BTreeSet<String>>,
    kept: PathBuf,
    /// Where gcloud writes, and finds nobody's configuration.
    config: TempDir,
}

impl Google {
    /// Those of the gcloud that is here, if one is.
    fn new() -> Option<Self> {
        let version = Process::new("gcloud").arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&version.stdout);
        let version: String = version.lines().next()?.chars().map(|c| if c == ' ' { '-' } else { c }).collect();
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("help-{version}"));
        fs::create_dir_all(&kept).unwrap();
        Some(Google { tree: Self::tree().unwrap_or_default(), kept, config: tempfile::tempdir().unwrap() })
    }

    /// The tree of the gcloud that is here: a file of Python with one name in it. `None` if it has none.
    fn tree() -> Option<BTreeMap<String, BTreeSet<String>>> {
        const LIST: &str = "import runpy, sys
def walk(words, node):
    if words and not node['commands']:
        print(' '.join(words), *node['flags'], sep='\\t')
    for word, below in node['commands'].items():
        walk([*words, word], below)
walk([], runpy.run_path(sys.argv[1])['STATIC_COMPLETION_CLI_TREE'])";
        let program =
            env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join("gcloud")).find(|at| at.exists())?;
        let tree = fs::canonicalize(program).ok()?.parent()?.parent()?.join("data/cli/gcloud_completions.py");
        let ran =
            Process::new("python3").args(["-c", LIST]).arg(tree).output().ok().filter(|ran| ran.status.success())?;
        let lines = String::from_utf8(ran.stdout).ok()?;
        let command = |line: &str| {
            let mut words = line.split('\t').map(str::to_owned);
            Some((words.next()?, words.collect()))
        };
        lines.lines().map(command).collect()
    }

    /// Whether the tree has the command and all options of its uses.
    fn completes(&self, words: &[String], uses: &[Use]) -> bool {
        // Words behind the command are its arguments.
        let Some(options) = (1..=words.len()).find_map(|end| self.tree.get(&words[..end].join(" "))) else {
            return false;
        };
        uses.iter().flat_map(|(_, flags)| flags).all(|flag| options.contains(flag))
    }

    /// The help of a command, plain; the error's text if there is no such command.
    fn help(&self, words: &[String]) -> Result<String, String> {
        let kept = self.kept.join(words.join("-"));
        if let Ok(help) = fs::read_to_string(&kept) {
            return Ok(help);
        }
        let mut gcloud = Process::new("gcloud");
        gcloud.args(words).arg("--help").env("CLOUDSDK_CONFIG", self.config.path()).env("NO_COLOR", "1");
        for variable in ["CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK"] {
            gcloud.env(variable, "true");
        }
        let ran = gcloud.output().map_err(|why| why.to_string())?;
        if !ran.status.success() {
            return Err(String::from_utf8_lossy(&ran.stderr).into_owned());
        }
        let help = plain(&String::from_utf8_lossy(&ran.stdout));
        // Another process may keep the same at the same time.
        let mut file = NamedTempFile::new_in(&self.kept).unwrap();
        file.write_all(help.as_bytes()).unwrap();
        file.persist(kept).unwrap();
        Ok(help)
    }
}

/// A text without the sequences that make a terminal print it bold or underlined.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)).collect::<String>()
}

/// Every option that a text of Google's names, `--[no-]x` in both forms.
fn options_of_google(help: &str) -> BTreeSet<String> {
    let both = help.replace("--[no-]", "--no-").to_owned() + &help.replace("--[no-]", "--");
    let names = both.match_indices("--").map(|(at, _)| {
        let name = &both[at + 2..];
        &name[..name.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(name.len())]
    });
    names.filter(|name| !name.is_empty()).map(|name| format!("--{name}")).collect()
}

/// Where a page uses a command of Google's, and the options that it gives.
type Use = (String, Vec<String>);

#[test]
fn gcloud_knows_its_commands() {
    let mut uses: BTreeMap<Vec<String>, Vec<Use>> = BTreeMap::new();
    for page in pages::all() {
        for (at, command) in named(&page) {
            let Command::Gcloud(args) = command else { continue };
            let is_word =
                |arg: &&String| arg.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !arg.starts_with('-');
            let words: Vec<String> = args.iter().take_while(is_word).cloned().collect();
            let flags =
                args.iter().filter(|arg| arg.starts_with("--")).map(|arg| arg.split('=').next().unwrap().to_owned());
            uses.entry(words).or_default().push((at, flags.collect()));
        }
    }
    assert!(uses.len() > 10, "only {} commands are found", uses.len());
    let Some(google) = Google::new() else { return skipped("gcloud", "there is no gcloud here") };
    // One that there is not, and an option that there is not, are found.
    let made_up = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert!(wrong(&made_up("run jbos create"), &[], &google).is_some());
    let no_option = ("here".to_owned(), vec!["--audience".to_owned()]);
    assert!(wrong(&made_up("auth print-identity-token"), &[no_option], &google).is_some());
    let uses: Vec<_> = uses.into_iter().collect();
    let google = &google;
    let found: Vec<String> = thread::scope(|scope| {
        let halves = uses.chunks(uses.len().div_ceil(2));
        let search = |half: &[(Vec<String>, Vec<Use>)]| {
            half.iter().filter_map(|(words, uses)| wrong(words, uses, google)).collect::<Vec<_>>()
        };
        let threads: Vec<_> = halves.map(|half| scope.spawn(move || search(half))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What is wrong with uses of one command of Google's.
fn wrong(words: &[String], uses: &[Use], google: &Google) -> Option<String> {
    if google.completes(words, uses) {
        return None;
    }
    let name = format!("gcloud {}", words.join(" "));
    let help = match google.help(words) {
        Ok(help) => help,
        Err(why) => return Some(format!("{name}: {why}")),
    };
    // A word behind a group that is no command of it would show the group's help.
    let shown = help.lines().nth(1).unwrap_or_default().trim().split(" - ").next().unwrap_or_default().to_owned();
    let group = help.contains("COMMAND is one of the following") || help.contains("GROUP is one of the following");
    if shown.is_empty() || !name.starts_with(&shown) || group {
        return Some(format!("{name}: it is no command; there is {shown}"));
    }
    let known = options_of_google(&help);
    let flags = uses.iter().flat_map(|(at, flags)| flags.iter().map(move |flag| (at, flag)));
    let unknown = flags.filter(|(_, flag)| !known.contains(*flag));
    let unknown: Vec<String> = unknown.map(|(at, flag)| format!("{at}: {name} has no {flag}")).collect();
    (!unknown.is_empty()).then(|| unknown.join("\n"))
}
