//! The configuration file: precedence, mistakes in it, whom it is trusted from, and what `config` prints.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::docs::commands::indented;
use crate::support::requirements::skipped;
use crate::support::{Ran, World, is_root, paths};

/// Returns a world with files and with `lastgood.toml` in its folder.
fn world(config: &str) -> World {
    let world = World::with_files();
    write(&world, config);
    world
}

fn write(world: &World, config: &str) {
    fs::write(world.path("lastgood.toml"), config).unwrap();
}

/// Runs the program with variables.
fn with(world: &World, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = world.command(args);
    command.envs(variables.iter().copied());
    Ran::of(command)
}

/// Returns what `config` says of a setting of a command: its value, and where that comes from.
fn setting(world: &World, variables: &[(&str, &str)], args: &[&str], name: &str) -> (Value, String) {
    let ran = with(world, variables, &[&["config", "--json"], args].concat());
    let document: Value = serde_json::from_str(ran.ended(0).text()).unwrap();
    let settings = document["settings"].as_array().unwrap();
    let found = settings.iter().find(|setting| setting["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name} in {document}"));
    let from = match found["origin"].as_str().unwrap() {
        "variable" => found["variable"].as_str().unwrap().to_owned(),
        "file" => format!("{}:{}", found["table"].as_str().unwrap(), found["line"]),
        other => other.to_owned(),
    };
    (found["value"].clone(), from)
}

/// Returns the paths in the newest snapshot of a vault.
fn taken(world: &World, vault: &str) -> Vec<String> {
    let listing = world.json(["ls", "latest", "-R", "--no-config", "--vault", vault], 0);
    paths(&listing).into_iter().filter(|path| path.contains('.')).map(str::to_owned).collect()
}

#[test]
fn options_count_before_variables_before_the_file_before_defaults() {
    let world = world("vault = \"of-file\"\n\n[backup]\ninit = true\nexclude = [\"*.log\", \"y.bin\"]\n");
    let vaults = |name: &str| world.path(name).join("vault.json").exists();
    world.run(["backup"]).ended(0);
    assert!(vaults("of-file") && !vaults("backups"));
    assert_eq!(taken(&world, "of-file"), ["a.txt"]);
    with(&world, &[("LASTGOOD_VAULT", "of-variable")], &["backup"]).ended(0);
    assert!(vaults("of-variable") && !vaults("of-option"));
    with(&world, &[("LASTGOOD_VAULT", "of-variable")], &["backup", "--vault", "of-option"]).ended(0);
    assert!(vaults("of-option"));
    // An empty variable is not set.
    with(&world, &[("LASTGOOD_VAULT", "")], &["list"]).ended(0);
    // A list replaces a list.
    world.run(["backup", "--exclude", "a.txt"]).ended(0);
    assert_eq!(taken(&world, "of-file"), ["logs/app.log", "uploads/x/y.bin"]);
    world.run(["backup", "--unset", "exclude"]).ended(0);
    assert_eq!(taken(&world, "of-file").len(), 3);
    // What is on in the file can be switched off.
    world.run(["backup", "--vault", "new", "--unset", "init"]).ended(1).says("[no-vault]");
    for none in [&["backup", "--no-config"][..], &["backup", "--config", "/dev/null"]] {
        world.run(none).ended(0);
    }
    with(&world, &[("LASTGOOD_CONFIG", "/dev/null")], &["backup"]).ended(0);
    assert_eq!(
        (taken(&world, "backups").len(), world.json(["list", "--no-config"], 0).as_array().unwrap().len()),
        (3, 3)
    );
}

#[test]
fn the_data_directory_and_the_file_itself_are_found_in_order() {
    let world = world("data = \"of-file\"");
    fs::write(world.path("other.toml"), "data = \"of-other\"\n").unwrap();
    fs::write(world.path("third.toml"), "data = \"of-third\"\n").unwrap();
    let other = ("LASTGOOD_CONFIG", "other.toml");
    for command in ["backup", "restore", "doctor"] {
        let run = |variables: &[(&str, &str)], args: &[&str]| {
            setting(&world, variables, &[args, &[command]].concat(), "data").0.as_str().unwrap().to_owned()
        };
        assert_eq!(run(&[], &[]), "of-file");
        assert_eq!(run(&[other], &[]), "of-other");
        assert_eq!(run(&[other], &["--config", "third.toml"]), "of-third");
        assert_eq!(run(&[("LASTGOOD_DATA", "of-variable")], &[]), "of-variable");
        assert!(run(&[], &["--no-config"]).starts_with("./data"));
    }
    world.run(["backup"]).ended(1).says("of-file");
    with(&world, &[("LASTGOOD_DATA", "of-variable")], &["backup"]).ended(1).says("of-variable");
    with(&world, &[("LASTGOOD_DATA", "of-variable")], &["backup", "data"]).ended(0);
    // The named file has to be there.
    world.run(["list", "--config", "none.toml"]).ended(2).says("none.toml");
    with(&world, &[("LASTGOOD_CONFIG", "none.toml")], &["list"]).ended(2).says("none.toml");
    world.run(["list", "--config", "data"]).ended(2).says("it is not a file");
    world.run(["list", "--config", "a.toml", "--no-config"]).ended(2).says("cannot be used with");
}

#[test]
fn what_several_commands_share_stands_once() {
    let file = "webhook-on = \"failure\"\n[backup]\nexclude = [\"a\"]\nlevel = 5\nreason = \"schedule\"\n\
                [restore]\nin-place = true\nskip-damaged = true\n[serve]\nlevel = 7\n[publish]\ntopic = \"t\"\n\
                [publish.critical]\ntopic = \"c\"\nmessage = \"m\"\n";
    let world = world(file);
    let told = |command: &[&str], name: &str| setting(&world, &[], command, name);
    for command in ["backup", "serve", "listen", "dispatched"] {
        assert_eq!(told(&[command], "exclude").1, "backup:3", "{command}");
        assert_eq!(told(&[command], "webhook-on").1, ":1", "{command}");
    }
    assert_eq!(told(&["backup"], "level"), (Value::from("5"), "backup:4".into()));
    assert_eq!(told(&["listen"], "level"), (Value::from("5"), "backup:4".into()));
    assert_eq!(told(&["serve"], "level"), (Value::from("7"), "serve:10".into()));
    assert_eq!(told(&["serve"], "in-place"), (Value::from(true), "restore:7".into()));
    assert_eq!(told(&["restore"], "skip-damaged"), (Value::from(true), "restore:8".into()));
    assert_eq!(told(&["publish", "verify"], "topic"), (Value::from("t"), "publish:12".into()));
    assert_eq!(told(&["publish", "critical"], "topic"), (Value::from("c"), "publish.critical:14".into()));
    // What is said for all commands stops none that has no use for it.
    world.backup();
    write(&world, "webhook-on = \"failure\"\nping = \"not a URL\"\n[backup]\nwebhook = \"nonsense\"\n");
    world.run(["restore"]).ended(0);
    world.run(["verify"]).ended(0);
    world.run(["backup", "--unset", "webhook"]).ended(2).says("LASTGOOD_PING");
    world.run(["backup", "--unset", "ping"]).ended(2).says("LASTGOOD_WEBHOOK");
    world.run(["backup", "--unset", "ping", "--unset", "webhook"]).ended(0);
    world.run(["backup", "--no-config", "--webhook-on", "failure"]).ended(2).says("there is no webhook");
}

#[test]
fn options_that_a_command_requires_may_be_in_the_file() {
    let world = world("[copy]\nfrom = \"backups\"\nto = \"replica\"\ninit = true\n");
    world.backup();
    world.run(["copy"]).ended(0);
    assert!(world.path("replica/vault.json").exists());
    world.run(["copy", "--no-config"]).ended(2).says("--from <URL>");
    world.run(["copy", "--unset", "to"]).ended(2).says("--to <URL>");
}

#[test]
fn options_that_exclude_each_other() {
    let world = world("quiet = true\n[backup]\nno-sqlite = true\n");
    // The command line excludes what the file says.
    assert!(world.run(["backup", "-v", "--check-databases", "quick"]).ended(0).text().contains("Snapshot"));
    assert_eq!(world.run(["backup"]).ended(0).text(), "");
    write(&world, "[backup]\nno-sqlite = true\n\n[serve]\ncheck-databases = \"full\"\n");
    world.run(["backup"]).ended(0);
    let ran = world.run(["serve", "--listen", "127.0.0.1:0"]);
    ran.ended(2).says("line 2").says("line 5").says("check-databases").says("no-sqlite");
    write(&world, "[restore]\nif-missing = true\npath = []\n");
    world.run(["restore"]).ended(0);
}

#[test]
fn mistakes_are_told_with_their_line_and_key() {
    let world = world("");
    for (text, line, why, hint) in [
        ("\n[backup]\nexlude = [\"a\"]", 3, "`backup.exlude`", "Did you mean `exclude`?"),
        ("vualt = \"a\"", 1, "`vualt`", "Did you mean `vault`?"),
        ("exclude = \"a\"", 1, "`exclude`", "`exclude` stands in [backup]."),
        ("\n\n[bakcup]\n", 3, "`bakcup`", "Did you mean the table [backup]?"),
        ("store_timeout = \"2m\"", 1, "`store_timeout`", "Did you mean `store-timeout`?"),
        ("[publish.critcal]", 1, "`publish.critcal`", "Did you mean the table [publish.critical]?"),
        ("[publish]\nmessage = \"a\"", 2, "`publish.message`", "stands in [publish.critical]"),
        ("zzz = 1", 1, "`zzz`", "--example"),
        ("[backup]\nlevel = 20", 2, "20 is not in 1..=19", ""),
        ("[backup]\nlevel = \"fast\"", 2, "invalid digit", ""),
        ("[backup]\nlevel = [1]", 2, "one text or number", ""),
        ("[backup]\ninit = \"perhaps\"", 2, "true or false", ""),
        ("verbose = true", 1, "a number from 0 to 255", ""),
        ("[backup]\nexclude = [true]", 2, "a list of texts", ""),
        ("[backup]\nbusy-timeout = 10", 2, "such as 90s", ""),
        ("[backup]\ncheck-databases = \"fast\"", 2, "it must be quick, full or off", ""),
        ("[backup]\nlabel = [\"a=1\", \"b\"]", 2, "KEY=VALUE", ""),
        ("log-format = \"\"", 1, "it must be text or json", ""),
        ("data = \"\"", 1, "it is empty", ""),
        ("backup = true", 1, "begin it with [backup]", ""),
        ("[vault]\na = 1", 1, "no table", ""),
        ("[[backup]]\nlevel = 1", 1, "it is a table", ""),
        ("[env]\nBACKUP_ENABLE = true", 2, "BACKUP_ENABLE", "Did you mean `BACKUP_ENABLED`?"),
        ("[env]\nLASTGOOD_VAULT = \"a\"", 2, "no option stands for", "the key `vault`"),
        ("[env]\nBACKUP_ENABLED = [1]", 2, "one text, number or truth value", ""),
        ("[env]\nXYZ = \"a\"", 2, "XYZ", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("config = \"a\"", 1, "`config`", ""),
        ("a = 1\na = 2", 2, "duplicate key", "TOML"),
        ("\nvault = \"a", 2, "invalid basic string", "TOML"),
    ] {
        write(&world, text);
        let error = world.json(["list"], 2);
        let (told, hinted) = (error["error"].as_str().unwrap(), error["hint"].as_str().unwrap_or_default());
        assert!(told.contains(&format!("lastgood.toml, line {line}:")), "{text}: {error}");
        assert!(told.contains(why) && hinted.contains(hint), "{text}: {error}");
        assert_eq!(error["code"], "bad-setting", "{text}");
    }
    // A mistake in the table of another command is one, too; help is there nevertheless, and the example.
    write(&world, "[serve]\nlistn = \"a\"");
    world.run(["backup"]).ended(2).says("Did you mean `listen`?");
    for args in [&["--help"][..], &["backup", "--help"], &["--version"], &["config", "--example"]] {
        world.run(args).ended(0);
    }
    // The values are checked where they are used as well.
    write(&world, "[backup]\nwebhook = \"hooks.example.com/secret\"");
    let ran = world.run(["backup"]);
    ran.ended(2).says("--webhook");
    write(&world, "");
    world.run(["list", "--unset", "exlude"]).ended(2).says("Did you mean `exclude`?");
    // Too much, and no text.
    write(&world, &"#".repeat((1 << 20) + 1));
    world.run(["list"]).ended(2).says("1 MiB");
    fs::write(world.path("lastgood.toml"), b"# \xff\n").unwrap();
    world.run(["list"]).ended(2).says("UTF-8");
}

#[test]
fn no_message_shows_a_secret() {
    let world = world("");
    for text in [
        "webhook = \"https://hooks.example.com/SECRET",
        "webhook = [\"https://hooks.example.com/SECRET\"]",
        "webhook = \"hooks.example.com/SECRET\"",
        "ping = \"SECRET\"",
        "ping = \"https://hc-ping.com/SECRET\"\nping = \"https://hc-ping.com/SECRET\"",
        "[env]\nLASTGOOD_TOKEN = \"SECRET",
        "[env]\nLASTGOOD_TOKEN = [\"SECRET\"]",
        "[env]\nLASTGOOD_TOKN = \"SECRET\"",
    ] {
        write(&world, text);
        let ran = world.run(["backup", "--json"]);
        ran.ended(2);
        assert!(!ran.stderr.contains("SECRET") && !ran.text().contains("SECRET"), "{text}: {ran:?}");
    }
}

#[test]
fn a_file_that_another_user_may_have_put_there_is_refused() {
    let world = world("vault = \"theirs\"");
    let file = world.path("lastgood.toml");
    let mode = |mode: u32| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o666);
    let ran = world.run(["list"]);
    ran.ended(2)
        .says("every user of this machine may write to it")
        .says("--config ./lastgood.toml")
        .says("[bad-setting]");
    // Whoever names it trusts it.
    world.run(["list", "--config", "./lastgood.toml"]).ended(1).says("theirs");
    world.run(["list", "--no-config"]).ended(1).says("backups");
    mode(0o664);
    world.run(["list"]).ended(1).says("theirs");
    // Something else than a file.
    fs::remove_file(&file).unwrap();
    let mut fifo = Command::new("mkfifo");
    fifo.arg(&file);
    Ran::of(fifo).ended(0);
    world.run(["list"]).ended(2).says("it is not a file");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    world.run(["list"]).ended(2).says("it is not a file");
    fs::remove_dir(&file).unwrap();
    // A link to a file of this user, and one that leads nowhere.
    fs::write(world.path("real.toml"), "vault = \"mine\"").unwrap();
    symlink("real.toml", &file).unwrap();
    world.run(["list"]).ended(1).says("mine");
    if !is_root() {
        return skipped("root", "only root gives files away");
    }
    std::os::unix::fs::lchown(&file, Some(65534), None).unwrap();
    world.run(["list"]).ended(2).says("it belongs to another user, with the id 65534");
    fs::remove_file(&file).unwrap();
    fs::write(&file, "vault = \"theirs\"").unwrap();
    chown(&file, Some(65534), None).unwrap();
    world.run(["list"]).ended(2).says("it belongs to another user");
    world.run(["list", "--config", "lastgood.toml"]).ended(1).says("theirs");
}

#[test]
fn a_secret_that_every_user_can_read_is_told() {
    let world = world("[env]\nLASTGOOD_TOKEN = \"0123456789abcdef0123\"\n");
    world.backup();
    let mode = |mode: u32| fs::set_permissions(world.path("lastgood.toml"), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    world.run(["list"]).ended(0).says("`LASTGOOD_TOKEN` in it is a secret: `chmod 600 lastgood.toml`");
    mode(0o640);
    assert_eq!(world.run(["list"]).ended(0).stderr, "");
    write(&world, "[backup]\nlevel = 3\n");
    mode(0o644);
    assert_eq!(world.run(["list"]).ended(0).stderr, "");
}

#[test]
fn variables_without_an_option_may_be_in_the_file() {
    let world = world("[env]\nBACKUP_ENABLED = false\n");
    world.run(["backup"]).ended(1).says("[backups-off]");
    with(&world, &[("BACKUP_ENABLED", "true")], &["backup"]).ended(0);
    with(&world, &[("BACKUP_ENABLED", "")], &["backup"]).ended(1);
    world.run(["backup", "--unset", "BACKUP_ENABLED"]).ended(0);
    assert_eq!(setting(&world, &[], &[], "BACKUP_ENABLED"), (Value::from("false"), "env:2".into()));
    assert_eq!(setting(&world, &[("BACKUP_ENABLED", "1")], &["list"], "BACKUP_ENABLED").1, "BACKUP_ENABLED");
}

#[test]
fn config_shows_what_holds_and_no_secrets() {
    let file = "webhook = \"https://hooks.example.com/services/SECRET\"\n\n[backup]\nexclude = [\"*.log\"]\n\n[env]\n\
                LASTGOOD_TOKEN = \"SECRET0123456789\"\n";
    let world = world(file);
    let ping = [("LASTGOOD_PING", "https://hc-ping.com/SECRET"), ("LASTGOOD_RESULTS_TOPIC", "projects/p/topics/t")];
    let ran = with(&world, &ping, &["config", "--vault", "v", "backup"]);
    let rows: BTreeSet<String> =
        ran.ended(0).text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in [
        "NAME VALUE FROM",
        "vault v flag",
        "webhook https://hooks.example.com/… lastgood.toml:1",
        "exclude *.log lastgood.toml:4 [backup]",
        "ping https://hc-ping.com/… LASTGOOD_PING",
        "results-topic projects/p/topics/t LASTGOOD_RESULTS_TOPIC",
        "LASTGOOD_TOKEN *** lastgood.toml:7 [env]",
        "level 3 default",
        "init false default",
        "store-timeout 2m default",
    ] {
        assert!(rows.contains(row), "no {row:?} in {rows:#?}");
    }
    for args in [&["config"][..], &["config", "--json"], &["config", "serve"], &["config", "-q", "--json", "backup"]] {
        let ran = with(&world, &ping, args);
        assert!(!ran.ended(0).text().contains("SECRET") && !ran.text().is_empty(), "{ran:?}");
    }
    let all = world.run(["config"]);
    assert!(all.text().contains("all commands") && all.text().contains("backup, serve, listen, dispatched"), "{all:?}");
    assert!(!all.text().contains("default"), "{all:?}");
    // It shows what cannot be used, too.
    write(&world, "vault = \"s3://bucket\"");
    assert_eq!(setting(&world, &[], &["list"], "vault").0, serde_json::json!(["s3://bucket"]));
    world.run(["config", "bakcup"]).ended(2).says("publish critical");
    fs::remove_file(world.path("lastgood.toml")).unwrap();
    let none = with(&world, &[("GCE_METADATA_HOST", "")], &["config"]);
    assert_eq!(none.ended(0).text(), "Configuration file: there is none\nNothing is set.\n");
}

/// Takes away the `#` that stands right before a key.
fn uncommented(example: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic()) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    example.lines().map(line).collect()
}

#[test]
fn the_example_has_every_option_and_can_be_used_as_it_is() {
    let world = World::with_files();
    let example = world.run(["config", "--example"]).ended(0).text().to_owned();
    assert_eq!(world.json(["config", "--example"], 0)["example"], example.as_str());
    assert!(example.lines().all(|line| line.chars().count() <= 80 || !line.starts_with("# ")), "{example}");
    write(&world, &example);
    // The tests set this one, so that no metadata server is found.
    let here = [("GCE_METADATA_HOST", "")];
    assert!(with(&world, &here, &["config"]).ended(0).text().ends_with("Nothing is set.\n"));
    world.run(["backup"]).ended(0);
    write(&world, &uncommented(&example));
    let document: Value = serde_json::from_str(with(&world, &here, &["config", "--json"]).ended(0).text()).unwrap();
    let settings = document["settings"].as_array().unwrap();
    let set: BTreeSet<(String, String)> = settings
        .iter()
        .flat_map(|setting| {
            let name = setting["name"].as_str().unwrap();
            // This one is on the command line.
            assert!(setting["origin"] == "file" || name == "json", "{setting}");
            let commands = setting["commands"].as_array().unwrap().iter();
            commands.map(move |command| (command.as_str().unwrap().to_owned(), name.to_owned()))
        })
        .collect();
    let of_the_file = ["help", "version", "config", "no-config", "unset"];
    let mut seen = 0;
    for command in set.iter().map(|(command, _)| command.clone()).collect::<BTreeSet<_>>() {
        let ran = world.run(command.split(' ').chain(["--help", "--all", "--no-config"]));
        let lines = indented(ran.ended(0).text().split("Usage: ").nth(1).unwrap());
        let options = lines.filter(|line| line.starts_with('-')).flat_map(|line| line.split_whitespace().take(2));
        for option in options.filter_map(|word| word.strip_prefix("--")) {
            let end = |c: char| !c.is_ascii_lowercase() && c != '-';
            let option = option.split(end).next().unwrap().to_owned();
            if !of_the_file.contains(&&*option) {
                assert!(set.contains(&(command.clone(), option.clone())), "no {option} of {command} in the example");
                seen += 1;
            }
        }
    }
    assert!(seen > 250, "only {seen} options");
}

#[test]
fn variables_in_the_environment_are_an_option_or_in_the_example() {
    let example = World::new().run(["config", "--example"]).ended(0).text().to_owned();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/environment.md")).unwrap();
    // Set by a platform or by lastgood itself, or read by libraries.
    let outside = |name: &str| {
        let set = ["K_REVISION", "CLOUD_RUN_", "LASTGOOD_CLAIM"];
        let read =
            ["RUST_BACKTRACE", "TMPDIR", "HOME", "GOOGLE_CLOUD_QUOTA_PROJECT", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT"];
        set.iter().chain(&read).any(|known| name.starts_with(known))
    };
    let mut missing = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].split('`').nth(1).unwrap();
        if cells[2].is_empty() && !outside(name) && !example.contains(&format!("\n#{name} = ")) {
            missing.push(name.to_owned());
        }
    }
    assert!(missing.is_empty(), "neither an option nor [env] has {missing:?}");
    assert!(page.contains("| `LASTGOOD_CONFIG` | `--config` |"));
}

#[test]
fn variables_of_other_backup_scripts_are_known() {
    let world = World::with_files();
    // `gsutil` reads CLOUDSDK_PYTHON, and there is no gsutil here.
    for (name, value, command) in [
        ("GOOGLE_CLOUD_PROJECT", "shop", "backup"),
        ("GCP_PROJECT_ID", "shop", "backup"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "config/gcs_credentials.json", "backup"),
        ("BACKUP_BUCKET_NAME", "shop-backups", "restore"),
        ("GCS_BUCKET_NAME", "shop-backups", "restore"),
        ("BACKUP_ENABLED", "true", "backup"),
        ("BACKUP_INTERVAL_MINUTES", "30", "serve"),
        ("AUTO_RESTORE_ON_STARTUP", "true", "backup"),
        ("MAX_LOCAL_BACKUPS", "10", "backup"),
        ("DATA_FRESHNESS", "2h", "serve"),
        ("CRITICAL_FILES", "prices.csv", "serve"),
    ] {
        let ran = with(&world, &[(name, value)], &["config", command, "--json"]);
        let document: Value = serde_json::from_str(ran.ended(0).text()).unwrap();
        let found = document["settings"].as_array().unwrap().iter().find(|setting| setting["variable"] == name);
        assert!(found.is_some_and(|found| found["value"].to_string().contains(value)), "{name}: {document}");
    }
    // What does nothing is told.
    for name in ["AUTO_RESTORE_ON_STARTUP", "MAX_LOCAL_BACKUPS"] {
        with(&world, &[(name, "1")], &["backup"]).ended(0).says(&format!("{name} is set, and is not used"));
    }
    // As often as a backup is expected, doctor expects it.
    with(&world, &[("BACKUP_INTERVAL_MINUTES", "soon")], &["doctor"]).ended(2).says("BACKUP_INTERVAL_MINUTES=soon");
}

#[test]
fn toml_in_pages_can_be_used() {
    let pages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let (world, mut seen) = (World::new(), 0);
    for page in pages.map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("\n```toml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()) {
            write(&world, block);
            world.run(["config"]).ended(0);
            seen += 1;
        }
    }
    assert!(seen > 1, "only {seen} blocks");
}
