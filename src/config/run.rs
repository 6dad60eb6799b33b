//! The configuration of `run`.

use std::path::PathBuf;
use std::time::Duration;

use lastgood::error::{Code, Error, Result};
use lastgood::gcp::cloud::Cloud;
use lastgood::report::RunEnvironment;
use lastgood::run::settings::{OnSuperseded, RestartPolicy, RunSettings};
use lastgood::start::decide::{OnForeign, OnUnreachable, StartRules};
use lastgood::store::address::Address;

use super::HostEnvironment;
use super::env::Env;
use super::serve::rules;
use super::switches;
use crate::cli;

/// How often a snapshot is taken if nothing says so.
const EVERY: Duration = Duration::from_secs(30 * 60);

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
    let flags = cli::RunFlags {
        allow_restore: true,
        run_timeout: args.run_timeout,
        coalesce: args.coalesce,
        critical_max: args.critical_max,
        replacing: args.replacing,
        dispatching: cli::DispatchFlags::none(),
        taking: args.taking,
        results: args.results,
    };
    let named = flags.taking.service.is_some() || env.get("LASTGOOD_SERVICE").is_some();
    let rules = rules(flags, data.clone(), (vaults, cloud), place, env, outside)?;
    let foreign = |what| match what {
        cli::OnForeign::Restore => OnForeign::Restore,
        cli::OnForeign::Keep => OnForeign::Keep,
        cli::OnForeign::Fail => OnForeign::Fail,
    };
    Ok(RunSettings {
        data,
        command: args.command,
        every,
        restart: match args.restart {
            cli::Restart::Never => RestartPolicy::Never,
            cli::Restart::OnFailure(times) => RestartPolicy::OnFailure(times),
        },
        grace: args.grace,
        stop_timeout: args.stop_timeout,
        start: StartRules {
            on_diverged: foreign(args.on_diverged),
            on_unknown: foreign(args.on_unknown),
            on_unreachable: args.on_unreachable.map(|what| match what {
                cli::OnUnreachable::Fail => OnUnreachable::Fail,
                cli::OnUnreachable::Start => OnUnreachable::Start,
            }),
            require_mount: args.require_mount,
            snapshot: args.snapshot,
        },
        check_at_start: args.check_at_start,
        keep_replaced: args.keep_replaced,
        handover: args.handover,
        handover_poll: args.handover_poll,
        on_superseded: match args.on_superseded {
            cli::OnSuperseded::Wait => OnSuperseded::Wait,
            cli::OnSuperseded::Exit => OnSuperseded::Exit,
            cli::OnSuperseded::Keep => OnSuperseded::Keep,
        },
        take_over: args.take_over,
        detached: args.detached,
        named_service: named,
        off: switches::backups_off(env)?.then(|| switches::OFF.to_owned()),
        boot: outside.boot.clone(),
        rules,
    })
}
