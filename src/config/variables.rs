//! The variable that each option has: `LASTGOOD_` and the option's name in capitals, `LASTGOOD_STOP_TIMEOUT` for `--stop-timeout`.
//!
//! They follow from the command line, as the keys of a configuration file do, and what they say becomes the default of the option in
//! the same way. A variable that does not concern a command is passed over: an app that `lastgood run` starts has the variables of
//! `run`, and may call another command. The exceptions are names that mean something else: see [`OF_HOOKS`].

use std::collections::BTreeSet;

use lastgood::error::{Code, Error, Result};
use lastgood::run::mark::MARK;
use lastgood::text::nearest;

use super::file::VARIABLES;
use super::options::{Options, Setting, Shape};
use super::secret::shown;
use super::switches::yes_or_no;

/// The beginning of all names.
pub const PREFIX: &str = "LASTGOOD_";
/// Variables that hooks are given. A hook may call `lastgood`, for which they are no settings: `LASTGOOD_SNAPSHOT` must not say
/// which snapshot it restores.
pub const OF_HOOKS: [&str; 8] = [
    "LASTGOOD_ACTION",
    "LASTGOOD_CODE",
    "LASTGOOD_ERROR",
    "LASTGOOD_HOOK",
    "LASTGOOD_REASON",
    "LASTGOOD_RESULT",
    "LASTGOOD_RUN",
    "LASTGOOD_SNAPSHOT",
];
/// Variables that are neither an option of a command nor in a configuration file.
const OTHERS: [&str; 3] = ["LASTGOOD_CLAIM", "LASTGOOD_CONFIG", MARK];

/// Returns the name of an option's variable, by the option's name on the command line; `None` if that means something else.
pub fn name(option: &str) -> Option<String> {
    let name = format!("{PREFIX}{}", option.to_ascii_uppercase().replace('-', "_"));
    (!OF_HOOKS.contains(&&*name)).then_some(name)
}

/// Returns the values in a variable as the command line has them: lists have commas between them, and yes is `true`. There is none if
/// the variable turns off an option that can be given without a value.
pub fn values(options: &Options, setting: &Setting, text: &str) -> Vec<String> {
    match setting.shape() {
        Shape::Switch => vec![yes_or_no(text).map_or_else(|_| text.to_owned(), |yes| yes.to_string())],
        // A number may be 1 or 0, too.
        Shape::Count if text.trim().parse::<u8>().is_ok() => vec![text.trim().to_owned()],
        Shape::Count => vec![yes_or_no(text).map_or_else(|_| text.to_owned(), |yes| u8::from(yes).to_string())],
        Shape::One => one(options, setting, text).into_iter().collect(),
        // A regular expression may have commas, and says itself that one of several may match.
        Shape::List if setting.value_name() == Some("REGEX") => vec![text.to_owned()],
        Shape::List => parts(text),
    }
}

/// Returns the value of an option that has one. `None` if it is turned off.
fn one(options: &Options, setting: &Setting, text: &str) -> Option<String> {
    let (trimmed, is_valid) = (text.trim(), |text: &str| options.check(setting, text).is_ok());
    let is_number = trimmed.parse::<f64>().is_ok() && is_valid(trimmed);
    if let (Ok(yes), false) = (yes_or_no(text), is_number)
        && let Some(bare) = options.bare(setting)
    {
        return yes.then_some(bare);
    }
    // A blank around a number, a length of time or one of several words cannot be meant; one in a path or a command can.
    let value = if trimmed != text && !is_valid(text) && is_valid(trimmed) { trimmed } else { text };
    Some(value.to_owned())
}

/// Returns what stands between commas, but for those in braces: `*.{log,tmp}` is one pattern.
fn parts(text: &str) -> Vec<String> {
    let mut depth = 0usize;
    let split = text.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    split.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Checks the values of an option's own variable as the command line does.
///
/// # Errors
/// Usage: one of them is not valid.
pub fn check(options: &Options, setting: &Setting, name: &str, values: &[String]) -> Result<()> {
    for value in values {
        let checked = match setting.shape() {
            Shape::Switch if value == "true" || value == "false" => Ok(()),
            Shape::Switch => yes_or_no(value).map(drop),
            Shape::Count => value.parse::<u8>().map(drop).map_err(|_| "it is not a number from 0 to 255".to_owned()),
            Shape::One | Shape::List => options.check(setting, value),
        };
        checked.map_err(|why| wrong(name, value, why))?;
    }
    Ok(())
}

/// Returns the error that a variable's value is wrong.
pub fn wrong(name: &str, value: &str, why: impl Into<String>) -> Error {
    Error::usage(format!("use {name}={}", shown(name, value)), why.into()).with_code(Code::BadSetting)
}

/// Returns messages about variables that begin as those of lastgood do, and that no command knows.
pub fn unknown(options: &Options, names: &[String]) -> Vec<String> {
    let mut known: BTreeSet<String> =
        options.commands().iter().flat_map(|command| options.of(command)).flat_map(|one| one.all_variables()).collect();
    known.extend(OF_HOOKS.iter().chain(&OTHERS).chain(&VARIABLES).map(|name| (*name).to_owned()));
    let wrong = names.iter().filter(|name| name.starts_with(PREFIX) && !known.contains(*name) && !of_a_service(name));
    let message = |name: &String| {
        let bare = |name: &str| name.strip_prefix(PREFIX).map(str::to_owned);
        let near = nearest(&name[PREFIX.len()..], known.iter().filter_map(|name| bare(name)));
        match near {
            Some(near) => format!("{name} is set, and lastgood has no such variable: did you mean {PREFIX}{near}?"),
            None => {
                format!("{name} is set, and lastgood has no such variable: `lastgood config --example` has all options")
            }
        }
    };
    wrong.map(message).collect()
}

/// Whether Kubernetes sets it in each container, for a service whose name begins with `lastgood`: `LASTGOOD_SERVICE_HOST`.
fn of_a_service(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let words: Vec<&str> = name.split('_').collect();
    let ends = |end: &[&str]| words.ends_with(end);
    let of_port =
        words.windows(3).any(|three| three[0] == "PORT" && is_number(three[1]) && ["TCP", "UDP"].contains(&three[2]));
    let named_port = words.windows(2).any(|two| two == ["SERVICE", "PORT"]);
    of_port || named_port || ends(&["SERVICE", "HOST"]) || ends(&["PORT"])
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::example::candidates;
    use super::super::file::{ConfigFile, FoundFile};
    use super::super::layers::{Origin, Unsettled, effective, settle_with};
    use super::*;

    /// What a command cannot do without.
    const ARGUMENTS: [(&str, &[&str]); 13] = [
        ("import", &["a.tar"]),
        ("pin", &["latest"]),
        ("unpin", &["latest"]),
        ("run", &["--", "true"]),
        ("copy", &["--from=a", "--to=b"]),
        ("ls", &["latest"]),
        ("cat", &["latest", "a"]),
        ("diff", &["a", "b"]),
        ("export", &["latest", "--output=a"]),
        ("seed", &["a"]),
        ("publish critical", &["--message=a"]),
        ("rollback", &["abcd"]),
        ("config", &[]),
    ];

    /// Settles a command line with variables and the text of a file: what came of it, and what is told of variables.
    fn settled(args: &[String], variables: &[(&str, &str)], file: &str) -> Result<(String, Vec<String>), String> {
        let args: Vec<OsString> = std::iter::once("lastgood".into()).chain(args.iter().map(OsString::from)).collect();
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        let names: Vec<String> = variables.iter().map(|(name, _)| (*name).to_owned()).collect();
        match settle_with(&args, &get, &names, |_| Ok(Some(FoundFile::of_text(file)))) {
            Ok((cli, layers)) => Ok((format!("{cli:?}"), layers.unknown)),
            Err(Unsettled::Arguments(why)) => Err(why.to_string()),
            Err(Unsettled::File(why, _)) => Err(why.to_string()),
        }
    }

    /// The same for a command line in one text.
    fn line(text: &str, variables: &[(&str, &str)], file: &str) -> Result<String, String> {
        let args: Vec<String> = text.split(' ').map(str::to_owned).collect();
        settled(&args, variables, file).map(|(cli, _)| cli)
    }

    #[test]
    fn each_variable_says_what_its_option_says() {
        let options = Options::new();
        let (mut own, mut named) = (0, 0);
        for command in options.commands() {
            let needed =
                ARGUMENTS.iter().find(|(name, _)| *name == command.join(" ")).map_or(&[][..], |(_, args)| args);
            for setting in options.of(command) {
                let samples = match setting.shape() {
                    Shape::Switch => vec!["yes".to_owned()],
                    Shape::Count => vec!["2".to_owned()],
                    Shape::One | Shape::List => candidates(&setting),
                };
                let is_plain = matches!(setting.shape(), Shape::Switch | Shape::Count);
                let sample = |value: &String| is_plain || options.check(&setting, value).is_ok();
                for variable in &setting.variables {
                    let value = samples.iter().find(|value| sample(value)).unwrap();
                    let get = |name: &str| (name == variable).then(|| value.into());
                    let all = effective(&options, command, None, &ConfigFile::default(), &get);
                    let found = all.iter().find(|one| one.setting.key == setting.key).unwrap();
                    assert_eq!(found.origin, Origin::Variable(variable.clone()), "{command:?}");
                    named += 1;
                }
                let Some(variable) = &setting.own_variable else { continue };
                let option = format!("--{}", setting.key);
                let needed = needed.iter().filter(|arg| !arg.starts_with(&format!("{option}=")));
                let with = |more: &[String]| {
                    [command, more, &needed.clone().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()].concat()
                };
                let by_option = |value: &str| match setting.shape() {
                    Shape::Switch => settled(&with(std::slice::from_ref(&option)), &[], ""),
                    Shape::Count => settled(&with(&[option.clone(), option.clone()]), &[], ""),
                    Shape::One | Shape::List => settled(&with(&[format!("{option}={value}")]), &[], ""),
                };
                let plain = settled(&with(&[]), &[], "").ok();
                let is_other = |value: &&String| sample(value) && by_option(value).is_ok_and(|cli| Some(cli) != plain);
                let value =
                    samples.iter().find(is_other).unwrap_or_else(|| panic!("no value for {command:?} {option}"));
                let by_variable = settled(&with(&[]), &[(variable, value)], "");
                assert_eq!(by_variable, by_option(value), "{command:?} {variable}={value}");
                own += 1;
            }
        }
        assert!(own > 150 && named > 50, "{own} own variables, {named} others");
    }

    #[test]
    fn options_count_before_variables_before_the_file() {
        let grace = |text: &str, variables: &[(&str, &str)]| {
            let cli = line(text, variables, "[run]\ngrace = \"3s\"\n").unwrap();
            cli.split("grace: ").nth(1).unwrap().split(',').next().unwrap().to_owned()
        };
        let set = [("LASTGOOD_GRACE", "7s")];
        assert_eq!(grace("run -- true", &[]), "3s");
        assert_eq!(grace("run -- true", &set), "7s");
        assert_eq!(grace("run --grace 9s -- true", &set), "9s");
        assert_eq!(grace("run -- true", &[("LASTGOOD_GRACE", "")]), "3s");
        let init = |value: &str| line("backup", &[("LASTGOOD_INIT", value)], "[backup]\ninit = true\n").unwrap();
        assert!(init("no").contains("init: false") && init("on").contains("init: true"));
        // What excludes it counts before it, where that has a higher precedence.
        let set = [("LASTGOOD_NO_SQLITE", "true")];
        let cli = line("backup --check-databases quick", &set, "").unwrap();
        assert!(cli.contains("no_sqlite: false") && cli.contains("Quick"), "{cli}");
        let cli = line("backup", &set, "[backup]\ncheck-databases = \"full\"\n").unwrap();
        assert!(cli.contains("no_sqlite: true") && cli.contains("check_databases: None"), "{cli}");
        let both = [set[0], ("LASTGOOD_CHECK_DATABASES", "full")];
        let why = line("backup", &both, "").unwrap_err();
        assert!(why.contains("LASTGOOD_NO_SQLITE") && why.contains("LASTGOOD_CHECK_DATABASES"), "{why}");
    }

    #[test]
    fn lists_have_commas_between_their_values() {
        assert_eq!(parts(" *.log, cache,*.{tmp,bak} ,,"), ["*.log", "cache", "*.{tmp,bak}"]);
        assert_eq!(parts("a}b,c"), ["a}b", "c"]);
        let cli = line("run -- true", &[("LASTGOOD_CRITICAL_ON", "^ERROR,|x{1,3}"), ("LASTGOOD_EXCLUDE", "a,b")], "");
        let cli = cli.unwrap();
        assert!(cli.contains(r#"["^ERROR,|x{1,3}"]"#) && cli.contains(r#"exclude: ["a", "b"]"#), "{cli}");
        assert!(line("backup", &[("LASTGOOD_LABEL", "a=1,b=2")], "").unwrap().contains(r#"[("a", "1"), ("b", "2")]"#));
    }

    #[test]
    fn what_concerns_another_command_is_passed_over() {
        let plain = line("backup", &[], "").unwrap();
        for set in [
            ("LASTGOOD_EVERY", "10m"),
            ("LASTGOOD_GRACE", "nonsense"),
            ("LASTGOOD_RESTART", "on-failure"),
            // A hook that calls lastgood has them.
            ("LASTGOOD_REASON", "schedule"),
            ("LASTGOOD_SNAPSHOT", "abcd"),
            ("LASTGOOD_HOOK", "after-backup"),
        ] {
            let args = ["backup".to_owned()];
            assert_eq!(settled(&args, &[set], "").unwrap(), (plain.clone(), Vec::new()), "{set:?}");
        }
        assert_eq!(line("restore", &[("LASTGOOD_SNAPSHOT", "abcd")], ""), line("restore", &[], ""));
        assert_eq!(name("stop-timeout").as_deref(), Some("LASTGOOD_STOP_TIMEOUT"));
        assert_eq!((name("reason"), name("snapshot")), (None, None));
    }

    #[test]
    fn wrong_values_are_told_with_the_variable() {
        for (variable, value, why) in [
            ("LASTGOOD_GRACE", "soon", "such as 90s"),
            ("LASTGOOD_INIT", "perhaps", "it must be true or false"),
            ("LASTGOOD_CRITICAL_ON", "(", "unclosed group"),
            ("LASTGOOD_CRITICAL_COUNT", "0", "it must be a whole number from 1"),
            ("LASTGOOD_CHECK_AT_START", "perhaps", "it must be quick or full"),
            ("LASTGOOD_VERBOSE", "much", "from 0 to 255"),
            ("LASTGOOD_ON_SUPERSEDED", "stay", "it must be wait, exit or keep"),
            ("LASTGOOD_LABEL", "a=1,b", "KEY=VALUE"),
        ] {
            let command = if variable == "LASTGOOD_LABEL" { "backup" } else { "run -- true" };
            let told = line(command, &[(variable, value)], "").unwrap_err();
            assert!(told.contains(variable) && told.contains(why), "{told}");
        }
    }

    #[test]
    fn blanks_that_cannot_be_meant_do_not_count() {
        for (variable, value, option) in [
            ("LASTGOOD_GRACE", " 20s ", "--grace=20s"),
            ("LASTGOOD_CRITICAL_COUNT", "7 ", "--critical-count=7"),
            ("LASTGOOD_ON_SUPERSEDED", " exit", "--on-superseded=exit"),
            ("LASTGOOD_DETACHED", " yes ", "--detached"),
            ("LASTGOOD_EVERY", "off ", "--every=off"),
            ("LASTGOOD_VERBOSE", " 2", "-vv"),
        ] {
            assert_eq!(
                line("run -- true", &[(variable, value)], ""),
                line(&format!("run {option} -- true"), &[], ""),
                "{variable}"
            );
        }
        // A command or an expression is as it is.
        let hook =
            settled(&["run".into(), "--".into(), "true".into()], &[("LASTGOOD_CRITICAL_ON", " E ")], "").unwrap();
        assert!(hook.0.contains("\" E \""), "{}", hook.0);
    }

    #[test]
    fn what_stands_without_a_value_is_switched_as_a_flag_is() {
        let run = |variables: &[(&str, &str)], file: &str| line("run -- true", variables, file);
        let with = |option: &str| line(&format!("run {option} -- true"), &[], "");
        for yes in ["true", "YES", " on ", "1", "quick"] {
            assert_eq!(run(&[("LASTGOOD_CHECK_AT_START", yes)], ""), with("--check-at-start"), "{yes}");
        }
        assert_eq!(run(&[("LASTGOOD_CHECK_AT_START", "full")], ""), with("--check-at-start=full"));
        let (on, off) = ("[run]\ncheck-at-start = true\n", "[run]\ncheck-at-start = false\n");
        assert_eq!(run(&[], on), with("--check-at-start"));
        assert_eq!(run(&[], off), line("run -- true", &[], ""));
        for no in ["false", "no", "Off", "0"] {
            assert_eq!(run(&[("LASTGOOD_CHECK_AT_START", no)], on), run(&[], off), "{no}");
        }
        // A number stays one.
        let verify = |value: &str| line("verify", &[("LASTGOOD_READ_DATA", value)], "");
        assert_eq!(
            (verify("1"), verify("yes")),
            (line("verify --read-data=1", &[], ""), line("verify --read-data", &[], ""))
        );
        for yes in ["true", "\"on\"", "1", "\"yes\""] {
            assert_eq!(run(&[], &format!("[run]\ndetached = {yes}\n")), with("--detached"), "{yes}");
        }
    }

    #[test]
    fn unknown_variables_are_told_with_the_nearest_one() {
        let named = |name: &str| format!("{PREFIX}{}", name.to_uppercase());
        let told = |name: &str| settled(&["list".to_owned()], &[(name, "x")], "").unwrap().1;
        for (name, near) in [("grce", "grace"), ("valut", "vault"), ("tokn", "token")] {
            let (name, near) = (named(name), format!("did you mean {}?", named(near)));
            let told = told(&name);
            assert!(told.len() == 1 && told[0].contains(&name) && told[0].contains(&near), "{name}: {told:?}");
        }
        assert!(told(&named("qqq"))[0].contains("config --example"));
        for name in [
            "claim",
            "config",
            "code",
            "every",
            "run_endpoint",
            // Of Kubernetes, for services whose names begin so.
            "service_host",
            "service_port_http",
            "port",
            "port_8080_tcp_addr",
            "shop_service_port",
        ] {
            assert_eq!(told(&named(name)), Vec::<String>::new(), "{name}");
        }
    }
}
