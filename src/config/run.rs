//! The configuration of `run`.

use std::path::PathBuf;
use std::time::Duration;

use lastgood::error::{Code, Error, Result};
use lastgood::gcp::cloud::Cloud;
use lastgood::mask::Masker;
use lastgood::report::RunEnvironment;
use lastgood::run::freshness::FreshnessRules;
use lastgood::run::output::{CriticalRules, Output};
use lastgood::run::rollback::RollbackSettings;
use lastgood::run::settings::{OnSuperseded, RunSettings};
use lastgood::server::ServerSettings;
use lastgood::server::health::DataProbeSettings;
use lastgood::server::service::{HttpSettings, ServiceSettings};
use lastgood::store::address::Address;

use super::HostEnvironment;
use super::env::Env;
use super::pubsub::pulling;
use super::serve::{Healthy, critical_files, http, max_age, rules};
use super::{start, switches};
use crate::cli;

/// How often a snapshot is taken if nothing says so.
const EVERY: Duration = Duration::from_secs(30 * 60);

/// Settles the configuration of `rollback`.
///
/// # Errors
/// Usage: a variable is not text.
pub fn rollback(args: cli::RollbackArgs, host: &str, env: &Env) -> Result<RollbackSettings> {
    let service = match args.service {
        Some(service) => Some(service),
        None => env.text("LASTGOOD_SERVICE")?,
    };
    Ok(RollbackSettings {
        snapshot: args.snapshot,
        accept_suspect: args.accept_suspect,
        dry_run: args.dry_run,
        service: service.filter(|service| !service.is_empty()),
        take_over: args.take_over,
        handover: args.handover,
        host: host.to_owned(),
    })
}

/// Settles the configuration of `run`.
///
/// # Errors
/// Wrong usage.
pub fn run(
    args: cli::RunArgs,
    data: PathBuf,
    (vaults, cloud): (&[Address], &Cloud),
    place: RunEnvironment,
    env: &Env,
    outside: &HostEnvironment,
) -> Result<RunSettings> {
    // A restore cannot take the place of a link: what it leads to is the directory.
    let data = (outside.resolve)(&data);
    let every = match args.every {
        Some(cli::Every::Off) => None,
        Some(cli::Every::Interval(every)) => Some(every),
        None => match env.number::<u32>("BACKUP_INTERVAL_MINUTES")? {
            Some(0) => None,
            Some(minutes) => Some(Duration::from_secs(u64::from(minutes) * 60)),
            None => Some(EVERY),
        },
    };
    if args.command.first().is_none_or(|command| command.is_empty()) {
        return Err(Error::usage("run the app", "its command is empty")
            .with_code(Code::BadSetting)
            .hint("Name it after --: `lastgood run -- python app.py`."));
    }
    let take_over = args.taking.take_over;
    let flags = cli::RunFlags {
        allow_restore: true,
        run_timeout: args.run_timeout,
        coalesce: args.coalesce,
        critical_max: args.critical_max,
        replacing: args.replacing,
        dispatching: cli::DispatchFlags::none(),
        taking: args.taking,
        hooks: args.hooks,
        results: args.results,
    };
    let mut rules = rules(flags, data.clone(), (vaults, cloud), place, env, outside)?;
    // Before the app starts, `run` restores by itself.
    rules.allow_restore = args.allow_restore;
    let pull = pulling(args.pulling, cloud.project.as_deref(), env)?;
    let cli::AccessFlags { auth, allow_download, insecure, public_url, .. } = &args.access;
    let guards = [
        ("--auth", auth.is_some()),
        ("--allow-download", *allow_download),
        ("--insecure", *insecure),
        ("--public-url", public_url.is_some()),
    ];
    if let (None, Some((guard, _))) = (args.listen, guards.into_iter().find(|(_, is_on)| *is_on)) {
        return Err(Error::usage(format!("use {guard}"), "nothing is served over HTTP")
            .with_code(Code::BadSetting)
            .hint("Say where: `--listen ADDR`. PORT is the app's, and says nothing to `run`."));
    }
    let listen = args.listen.map(|listen| {
        let healthy = Healthy {
            max_age: max_age(None, Some(every.unwrap_or_default()), env)?,
            freshness: args.data_freshness,
            critical: args.critical_files.clone(),
        };
        let http = http((listen, args.access), healthy, (&rules, env))?;
        // Backups by time need a processor at all times, too.
        Ok::<_, Error>(HttpSettings { settings: ServerSettings { background: true, ..http.settings }, ..http })
    });
    let serving = ServiceSettings { http: listen.transpose()?, pull, cloud: cloud.clone() };
    let serving = Some(serving).filter(|serving| serving.http.is_some() || serving.pull.is_some());
    let wrong = |option: &'static str| {
        move |why: String| Error::usage(format!("use {option}"), why).with_code(Code::BadSetting)
    };
    let output = match args.no_output {
        true => None,
        false => Some(Output::new(
            CriticalRules::new(&args.critical_on, args.critical_count.get(), args.critical_within)
                .map_err(wrong("--critical-on"))?,
            Masker::new(&args.mask).map_err(wrong("--mask"))?,
        )),
    };
    let freshness = FreshnessRules {
        freshness: match args.data_freshness {
            Some(freshness) => Some(freshness),
            None => env.duration("DATA_FRESHNESS")?,
        },
        place: DataProbeSettings {
            data: data.clone(),
            not_walked: rules.backup.not_walked.clone(),
            one_file_system: rules.backup.one_file_system,
            critical: critical_files(args.critical_files, env)?,
        },
        saves: args.critical_on_stale,
    };
    if freshness.saves && freshness.is_empty() {
        return Err(Error::usage("use --critical-on-stale", "nothing is watched")
            .with_code(Code::BadSetting)
            .hint("Say what: --data-freshness 2h, or --critical-file prices.csv."));
    }
    let start = start::start(data.clone(), vaults, args.start, outside)?;
    Ok(RunSettings {
        data,
        command: args.command,
        every,
        freshness,
        restart: args.restart,
        output,
        grace: args.grace,
        stop_timeout: args.stop_timeout,
        start: start.rules,
        look: start.options,
        handover: args.handover,
        handover_poll: args.handover_poll,
        on_superseded: match args.on_superseded {
            cli::OnSuperseded::Wait => OnSuperseded::Wait,
            cli::OnSuperseded::Exit => OnSuperseded::Exit,
            cli::OnSuperseded::Keep => OnSuperseded::Keep,
        },
        take_over,
        detached: args.detached,
        off: switches::backups_off(env)?.then(|| switches::OFF.to_owned()),
        serving,
        rules,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;
    use crate::config::ConfiguredCommand;
    use lastgood::error::Kind;

    fn settings(options: &str, env: &[(&str, &str)]) -> Result<RunSettings> {
        config(&format!("run {options} -- app"), env).map(|config| match config.task {
            ConfiguredCommand::RunApp(settings) => *settings,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn what_is_served_beside_the_app() {
        let port = ("PORT", "9000");
        assert!(settings("", &[port]).unwrap().serving.is_none());
        let run = settings("--listen 127.0.0.1:7000 --every 10m", &[port, ("CRITICAL_FILES", "*.db")]).unwrap();
        assert!(!run.rules.allow_restore);
        let http = run.serving.unwrap().http.unwrap();
        assert_eq!(http.listen.to_string(), "127.0.0.1:7000");
        let health = http.settings.health;
        assert_eq!((health.max_age.as_secs(), health.place.critical.len()), (1200, 1));
        assert!(http.settings.background);
        let run = settings("--listen 127.0.0.1:0 --allow-restore --every off", &[]).unwrap();
        assert!(run.rules.allow_restore);
        assert_eq!(run.serving.unwrap().http.unwrap().settings.health.max_age.as_secs(), 26 * 3600);
        let env = [("GOOGLE_CLOUD_PROJECT", "shop"), ("LASTGOOD_SUBSCRIPTION", "backups")];
        let pulls = settings("", &env).unwrap().serving.unwrap();
        assert!(pulls.http.is_none() && pulls.pull.is_some());
        for wrong in [
            "--listen 0.0.0.0:7000",
            "--auth none",
            "--insecure",
            "--allow-download",
            "--listen 127.0.0.1:0 --insecure",
        ] {
            assert_eq!(settings(wrong, &[]).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn which_service_rolls_back() {
        let service = |line: &str, env: &[(&str, &str)]| match config(line, env).unwrap().task {
            ConfiguredCommand::Rollback(settings) => settings.service,
            other => panic!("{other:?}"),
        };
        let named = [("LASTGOOD_SERVICE", "shop"), ("K_SERVICE", "other")];
        assert_eq!(service("rollback abcd", &named).as_deref(), Some("shop"));
        assert_eq!(service("rollback abcd --service blog", &named).as_deref(), Some("blog"));
        assert_eq!(service("rollback abcd", &[]), None);
    }
}
