//! The configuration of `run`.

use std::path::PathBuf;
use std::time::Duration;

use lastgood::error::{Code, Error, Result};
use lastgood::gcp::cloud::Cloud;
use lastgood::mask::Masker;
use lastgood::report::RunEnvironment;
use lastgood::run::output::{CriticalRules, Output};
use lastgood::run::settings::{OnSuperseded, RunSettings};
use lastgood::store::address::Address;

use super::HostEnvironment;
use super::env::Env;
use super::serve::rules;
use super::{start, switches};
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
    let rules = rules(flags, data.clone(), (vaults, cloud), place, env, outside)?;
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
    let start = start::start(data.clone(), vaults, args.start, outside);
    Ok(RunSettings {
        data,
        command: args.command,
        every,
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
        rules,
    })
}
