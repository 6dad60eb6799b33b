//! Tests of the configuration that the command line and the environment make together.

use super::*;
use clap::Parser;
use lastgood::error::Kind;

/// Returns the configuration of a command line in `/work`, with variables.
pub fn config(line: &str, env: &[(&str, &str)]) -> Result<Config> {
    config_on(line, env, &|_| None)
}

fn config_on(line: &str, env: &[(&str, &str)], kernel: &dyn Fn(&str) -> Option<String>) -> Result<Config> {
    let cli = Cli::try_parse_from(std::iter::once("lastgood").chain(line.split_whitespace())).unwrap();
    let resolve = |path: &Path| {
        let mut whole = PathBuf::from("/work");
        path.components().for_each(|part| match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(whole.pop()),
            part => whole.push(part),
        });
        whole
    };
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
    Config::new(
        cli,
        &HostEnvironment {
            env: &env,
            absolute: &resolve,
            resolve: &resolve,
            resolve_vault: &resolve,
            host: "host".into(),
            boot: String::new(),
            kernel,
        },
    )
}

#[test]
fn files_are_not_trusted_as_long_as_the_kernel_may_hold_their_pages() {
    for (expire, every, seconds) in [
        (None, None, 35),
        (Some("3000\n"), Some("500\n"), 35),
        (Some("500"), Some("100"), 35),
        (Some("60000"), Some("60000"), 1200),
        (Some("3000"), Some("0"), 86_400),
        (Some("-7"), Some("x"), 35),
    ] {
        let kernel = |name: &str| match name {
            "vm/dirty_expire_centisecs" => expire.map(str::to_owned),
            "vm/dirty_writeback_centisecs" => every.map(str::to_owned),
            other => panic!("{other}"),
        };
        match config_on("backup", &[], &kernel).unwrap().task {
            ConfiguredCommand::Run(Job::Backup { options, .. }) => {
                assert_eq!(options.trust.writeback, seconds * 1_000_000_000)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn places(line: &str, env: &[(&str, &str)]) -> (String, String) {
    let config = config(line, env).unwrap();
    let data = match config.task {
        ConfiguredCommand::Run(Job::Backup { options, .. }) => options.data,
        ConfiguredCommand::Run(Job::Restore(options)) => options.target,
        other => panic!("{other:?}"),
    };
    (data.to_str().unwrap().to_owned(), config.vaults[0].to_string())
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_defaults() {
    let set = &[("LASTGOOD_DATA", "/env/data"), ("LASTGOOD_VAULT", "file:///env/vault"), ("K_SERVICE", "app")];
    for (line, env, data, vault) in [
        ("backup", &[][..], "/work/data", "/work/backups"),
        ("restore", &[], "/work/data", "/work/backups"),
        ("backup", &[("K_SERVICE", "app")], "/app/data", "/work/backups"),
        ("restore", &[("CLOUD_RUN_JOB", "nightly")], "/app/data", "/work/backups"),
        ("backup", &[("CLOUD_RUN_WORKER_POOL", "pool")], "/app/data", "/work/backups"),
        ("backup", &[("K_SERVICE", ""), ("LASTGOOD_DATA", ""), ("LASTGOOD_VAULT", "")], "/work/data", "/work/backups"),
        ("backup", set, "/env/data", "/env/vault"),
        ("backup x", set, "/work/x", "/env/vault"),
        ("restore x --vault ../v", set, "/work/x", "/v"),
        ("--vault v restore", set, "/env/data", "/work/v"),
    ] {
        assert_eq!(places(line, env), (data.into(), vault.into()), "{line} {env:?}");
    }
}

#[test]
fn vaults_as_people_configure_them() {
    let gs = "gs://state-1/lastgood";
    for (line, env, vaults) in [
        ("list", &[("BACKUP_BUCKET_NAME", "state-1")][..], &[gs][..]),
        ("list", &[("GCS_BUCKET_NAME", "gs://state-1/")], &[gs]),
        ("list", &[("GCS_BUCKET_NAME", "state-1"), ("BACKUP_BUCKET_NAME", "state-1")], &[gs]),
        ("list", &[("GCS_BUCKET_NAME", "state-1"), ("LASTGOOD_VAULT", "a, gs://b-1/c")], &["/work/a", "gs://b-1/c"]),
        ("list --vault v", &[("GCS_BUCKET_NAME", "a-1"), ("BACKUP_BUCKET_NAME", "b-1")], &["/work/v"]),
        ("list --vault v --vault w", &[("LASTGOOD_VAULT", "a")], &["/work/v", "/work/w"]),
        ("list", &[], &["/work/backups"]),
    ] {
        let found: Vec<_> = config(line, env).unwrap().vaults.iter().map(Address::to_string).collect();
        assert_eq!(found, vaults, "{line} {env:?}");
    }
    for (env, why) in [
        (&[("GCS_BUCKET_NAME", "a-1"), ("BACKUP_BUCKET_NAME", "b-1")][..], "BACKUP_BUCKET_NAME says b-1"),
        (&[("GCS_BUCKET_NAME", "gs://a-1/x")], "the name alone"),
        (&[("LASTGOOD_VAULT", "a,a")], "given twice"),
        (&[("LASTGOOD_VAULT", "a,")], "empty"),
        (&[("GCP_PROJECT_ID", "a"), ("GOOGLE_CLOUD_PROJECT", "b")], "which project"),
        (&[("LASTGOOD_STORE_TIMEOUT", "soon")], "LASTGOOD_STORE_TIMEOUT=soon"),
        (&[("LASTGOOD_PARALLEL", "0")], "LASTGOOD_PARALLEL=0"),
        (&[("LASTGOOD_LOG_FORMAT", "yaml")], "LASTGOOD_LOG_FORMAT=yaml"),
    ] {
        let said = config("list", env).unwrap_err();
        // The hint about a vault's name does not belong to a project.
        let of_vault = said.advice().is_some_and(|hint| hint.contains("--vault"));
        assert_eq!(of_vault, env[0].0 == "GCS_BUCKET_NAME", "{env:?}: {said}");
        assert!(said.word() == "bad-setting" && said.to_string().contains(why), "{env:?}: {said}");
    }
}

#[test]
fn how_buckets_are_reached() {
    let cloud = |line: &str, env: &[(&str, &str)]| config(line, env).unwrap().cloud;
    assert_eq!(cloud("list", &[]), Cloud::default());
    for host in ["127.0.0.1:9000", "http://127.0.0.1:9000/", "http://127.0.0.1:9000/storage/v1/"] {
        let found = cloud("list", &[("STORAGE_EMULATOR_HOST", host)]);
        assert_eq!(found.emulator.as_deref(), Some("http://127.0.0.1:9000"), "{host}");
    }
    let found = cloud("list --store-timeout 5s", &[("LASTGOOD_STORE_TIMEOUT", "1m"), ("GCP_PROJECT_ID", "p")]);
    assert_eq!((found.patience.as_secs(), found.project.as_deref()), (5, Some("p")));
    assert_eq!(cloud("list", &[("LASTGOOD_STORE_TIMEOUT", "1m")]).patience.as_secs(), 60);
    let parallel = |line: &str, env: &[(&str, &str)]| config(line, env).unwrap().parallel;
    assert_eq!(parallel("list --parallel 3", &[("LASTGOOD_PARALLEL", "4")]), Some(3));
    assert_eq!((parallel("list", &[("LASTGOOD_PARALLEL", "4")]), parallel("list", &[])), (Some(4), None));
}

#[test]
fn a_vault_and_a_directory_in_each_others_way_are_refused() {
    for (line, fine) in [
        ("backup data --vault backups", true),
        ("backup data --vault data/backups", true),
        ("backup data --vault data", false),
        ("backup data --vault ./data/.", false),
        ("backup data/in --vault data", false),
        ("backup data --vault ..", false),
        ("backup data --vault database", true),
        ("restore data --vault backups", true),
        ("restore backups/x --vault backups", false),
        ("restore backups --vault backups", false),
        ("restore data --vault data/backups", false),
        ("restore data --if-missing --vault data/backups", false),
        ("restore data --path . --vault data/backups", false),
        ("restore data --path backups/x --vault data/backups", false),
        ("restore data --path app.db --vault data/backups", true),
    ] {
        match config(line, &[]) {
            Ok(_) => assert!(fine, "{line}"),
            Err(why) => assert!(!fine && why.kind() == Kind::Usage, "{line}: {why}"),
        }
    }
    let ConfiguredCommand::Run(Job::Backup { options, init: false }) =
        config("backup data --vault data/b", &[]).unwrap().task
    else {
        panic!()
    };
    assert_eq!(options.not_walked, [PathBuf::from("/work/data/b")]);
}

#[test]
fn a_copy_goes_from_one_place_to_another() {
    let job = config("copy --from a --to gs://bucket/b --snapshot latest --snapshot 12ab", &[]).unwrap().task;
    let ConfiguredCommand::Copy { from, to, init: false, snapshots } = job else { panic!("{job:?}") };
    assert_eq!((from.to_string().as_str(), to.to_string().as_str()), ("/work/a", "gs://bucket/b"));
    assert_eq!(snapshots, ["latest", "12ab"]);
    for same in ["--from a --to ./a", "--from a/../b --to b", "--from gs://bucket/b/ --to gs://bucket/b"] {
        assert_eq!(config(&format!("copy {same}"), &[]).unwrap_err().kind(), Kind::Usage, "{same}");
    }
    let job = config("copy --from a --to b --init", &[]).unwrap().task;
    assert!(matches!(job, ConfiguredCommand::Copy { init: true, .. }), "{job:?}");
    let job = config("backup --init", &[]).unwrap().task;
    assert!(matches!(job, ConfiguredCommand::Run(Job::Backup { init: true, .. })), "{job:?}");
    let tolerated = config("backup --exit-zero-on partial,suspect --exit-zero-on unsound", &[]).unwrap();
    assert_eq!(tolerated.exit_zero_on, [Outcome::Partial, Outcome::Suspect, Outcome::Unsound]);
}

#[test]
fn paths_in_snapshots() {
    for (text, path) in [("a/b", "a/b"), ("./a/", "a"), (".", "."), ("./", "."), (".//", "")] {
        let found = entry_path(OsStr::new(text)).map(|p| p.to_string());
        assert_eq!(found.unwrap_or_default(), path, "{text}");
    }
    assert!(entry_path(OsStr::new("/a")).is_err() && entry_path(OsStr::new("a/../..")).is_err());
}

#[test]
fn what_cannot_go_together() {
    for line in ["--json cat latest a", "--json export latest -o -", "backup --label a=1 --label a=2"] {
        assert_eq!(config(line, &[]).unwrap_err().kind(), Kind::Usage, "{line}");
    }
    let output = |line: &str| {
        OutputOptions::new(&Cli::try_parse_from(format!("lastgood {line}").split_whitespace()).unwrap().global, &|_| {
            None
        })
    };
    assert!(output("list").progress && !output("list --json").progress && !output("-q list").progress);
    assert_eq!(output("list -vv").level, tracing::Level::DEBUG);
    assert_eq!(output("-q list").level, tracing::Level::ERROR);
    let json_log = |env: &[(&str, &str)]| {
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        OutputOptions::new(&Cli::try_parse_from(["lastgood", "list"]).unwrap().global, &env).json_log
    };
    let (cloud, format) = (("K_SERVICE", "app"), "LASTGOOD_LOG_FORMAT");
    assert!(!json_log(&[]) && json_log(&[cloud]) && json_log(&[(format, "JSON")]));
    assert!(!json_log(&[cloud, (format, "text")]) && json_log(&[cloud, (format, "yaml")]));
}

#[test]
fn variables_of_other_backup_scripts_are_used_or_told() {
    for (value, off) in [("false", true), ("OFF", true), ("0", true), (" no ", true), ("true", false), ("", false)] {
        let env = &[("BACKUP_ENABLED", value)][..];
        for (line, by_schedule) in
            [("backup --reason schedule", true), ("backup", false), ("backup --reason critical", false)]
        {
            match config(line, env).unwrap().task {
                ConfiguredCommand::SwitchedOff { scheduled } => assert!(off && scheduled == by_schedule, "{line}"),
                _ => assert!(!off, "{line}: {value}"),
            }
        }
        let ConfiguredCommand::Serve(service) = config("serve --listen 127.0.0.1:0", env).unwrap().task else {
            panic!()
        };
        let health = service.serving.http.unwrap().settings.health;
        assert_eq!((service.rules.backups_off.is_some(), health.backups_off.is_some()), (off, off));
        let ConfiguredCommand::Doctor(place) = config("doctor", env).unwrap().task else { panic!() };
        assert_eq!((place.backups_off.is_some(), place.max_age.as_secs()), (off, 26 * 3600));
        assert!(config("restore", env).is_ok() && config("list", env).is_ok());
    }
    assert_eq!(config("backup", &[("BACKUP_ENABLED", "flase")]).unwrap_err().kind(), Kind::Usage);

    let env =
        &[("AUTO_RESTORE_ON_STARTUP", "true"), ("BACKUP_INTERVAL_MINUTES", "30"), ("MAX_LOCAL_BACKUPS", "10")][..];
    let ConfiguredCommand::Doctor(place) = config("doctor", env).unwrap().task else { panic!() };
    assert_eq!(place.max_age.as_secs(), 3600);
    let told = |line: &str, env| {
        let told = config(line, env).unwrap().unused;
        told.iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["AUTO_RESTORE_ON_STARTUP", "BACKUP_INTERVAL_MINUTES", "MAX_LOCAL_BACKUPS"];
    assert_eq!(told("backup", env), all);
    assert_eq!(told("restore", env), all);
    assert_eq!(told("serve --listen 127.0.0.1:0", env), [all[0], all[2]]);
    assert_eq!(told("list", env), [""; 0]);
    assert_eq!(told("backup", &[("AUTO_RESTORE_ON_STARTUP", "false"), ("MAX_LOCAL_BACKUPS", "")]), [""; 0]);
    // `run` saves as often as it says, and restores whatever it says.
    assert_eq!(told("run -- app", env), [all[2]]);
    assert_eq!(told("run -- app", &[("AUTO_RESTORE_ON_STARTUP", "false")]), [all[0]]);
    assert_eq!(told("run -- app", &[("AUTO_RESTORE_ON_STARTUP", ""), ("MAX_LOCAL_BACKUPS", "no")]), [""; 0]);
}

#[test]
fn a_restore_may_depend_on_what_is_there() {
    let told = |line: &str| match config(line, &[]).unwrap().task {
        ConfiguredCommand::RestoreIf { options: restore::options::RestoreOptions { only, .. }, dry_run } => {
            (only.missing, only.older.map(|older| older.as_secs()), dry_run)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(told("restore --if-missing"), (true, None, false));
    assert_eq!(told("restore --if-missing --if-older 2h"), (true, Some(7200), false));
    assert_eq!(told("restore --dry-run --path a"), (false, None, true));
    assert!(Cli::try_parse_from(["lastgood", "restore", "--if-missing", "--path", "a"]).is_err());
}
