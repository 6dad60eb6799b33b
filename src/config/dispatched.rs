//! The configuration of runs in a Cloud Run job: of the service that starts it, and of the job.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use lastgood::claims::lease::ClaimName;
use lastgood::error::{Code, Error, Result};
use lastgood::gcp::cloud::Cloud;
use lastgood::gcp::run_jobs::{CLAIM, Starter, Target};
use lastgood::report::RunEnvironment;
use lastgood::runner::runner::{Dispatch, Rules};
use lastgood::store::address::Address;

use super::HostEnvironment;
use super::env::Env;
use super::serve::rules;
use crate::cli;

/// The configuration of an execution of the job.
pub struct DispatchedConfig {
    /// The claim whose request it carries out.
    pub claim: ClaimName,
    /// The rules for it; `threads` and `parallel` in them are set later.
    pub rules: Rules,
}

impl fmt::Debug for DispatchedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatched").field("claim", &self.claim).finish_non_exhaustive()
    }
}

/// Returns the job that is started for each run, if there is one.
///
/// # Errors
/// Usage: the name is not that of a job. Also credentials that cannot be used.
pub fn dispatch(args: cli::DispatchFlags, cloud: &Cloud) -> Result<Option<Dispatch>> {
    let Some(text) = args.dispatch else { return Ok(None) };
    let wrong = |why: String| Error::usage(format!("use --dispatch {text}"), why).with_code(Code::BadSetting);
    let job: Target = text.parse().map_err(wrong)?;
    Ok(Some(Dispatch::new(Starter::new(job, cloud)?, args.dispatch_wait)))
}

/// Settles the configuration of an execution.
///
/// # Errors
/// Usage: there is no claim, its name is not valid, or paths are wrong.
pub fn dispatched(
    args: cli::DispatchedArgs,
    data: PathBuf,
    vaults: (&[Address], &Cloud),
    place: RunEnvironment,
    env: &Env,
    outside: &HostEnvironment,
) -> Result<DispatchedConfig> {
    let claim = env.parsed(CLAIM, str::parse)?.ok_or_else(|| {
        Error::usage("carry out what a service asked for", format!("{CLAIM} is not set, which names the claim")).hint(
            "`lastgood serve --dispatch job=…` starts the job and sets it. By hand, `lastgood backup` takes a snapshot.",
        )
    })?;
    let cli::DispatchedArgs { allow_restore, replacing, taking, results, hooks, .. } = args;
    let runs = cli::RunFlags {
        allow_restore,
        replacing,
        taking,
        results,
        hooks,
        // The request says how long it may take, and the service decided when it is run.
        run_timeout: Duration::MAX,
        coalesce: Duration::ZERO,
        critical_max: NonZeroUsize::MAX,
        dispatching: cli::DispatchFlags { dispatch: None, dispatch_wait: Duration::ZERO },
    };
    let rules = rules(runs, data, vaults, place, env, outside)?;
    Ok(DispatchedConfig { claim, rules })
}

#[cfg(test)]
mod tests {
    use lastgood::error::Kind;

    use super::super::tests::config;
    use super::*;
    use crate::config::ConfiguredCommand;

    const NAME: &str = "0123456789abcdef0123456789abcdef/1";

    #[test]
    fn a_job_is_told_its_claim_and_nothing_else_by_the_environment() {
        let told = |line: &str, claim: &str| -> Result<DispatchedConfig> {
            let ConfiguredCommand::Dispatched(told) = config(line, &[(CLAIM, claim)])?.task else {
                panic!("{line} does nothing")
            };
            Ok(*told)
        };
        let found = told("dispatched /srv/app --allow-restore --in-place --exclude tmp", NAME).unwrap();
        assert_eq!((found.claim.to_string().as_str(), found.rules.allow_restore), (NAME, true));
        assert_eq!(
            (found.rules.backup.exclude.as_slice(), found.rules.restore.in_place),
            (&["tmp".to_owned()][..], true)
        );
        for wrong in ["", "1", "../../etc/1", "0123456789abcdef0123456789abcdef/1.order"] {
            assert_eq!(told("dispatched", wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
        let why = config("dispatched", &[]).unwrap_err();
        assert!(why.kind() == Kind::Usage && why.to_string().contains("--dispatch"), "{why}");
        assert_eq!(told("dispatched data --vault data", NAME).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn a_service_is_told_which_job_it_starts() {
        let local = ("LASTGOOD_RUN_ENDPOINT", "http://127.0.0.1:9");
        let told = |line: &str, env: &[(&str, &str)]| -> Result<Option<(String, u64)>> {
            let ConfiguredCommand::Serve(service) = config(&format!("serve --listen 127.0.0.1:0 {line}"), env)?.task
            else {
                panic!("{line} serves nothing")
            };
            Ok(service.rules.dispatch.map(|dispatch| (dispatch.job, dispatch.wait.as_secs())))
        };
        assert_eq!(told("", &[]).unwrap(), None);
        let name = "projects/p/locations/europe-west1/jobs/long";
        assert_eq!(told(&format!("--dispatch job={name}"), &[local]).unwrap(), Some((name.to_owned(), 240)));
        let listen = format!("listen --subscription projects/p/subscriptions/backups --dispatch job={name}");
        let ConfiguredCommand::Serve(listening) = config(&listen, &[local]).unwrap().task else {
            panic!("it does not listen")
        };
        assert_eq!(listening.rules.dispatch.unwrap().job, name);
        let line = format!("--dispatch job={name} --dispatch-wait 50m");
        assert_eq!(told(&line, &[]).unwrap().unwrap().1, 3000);
        for (line, env) in [
            ("--dispatch long", &[local][..]),
            ("--dispatch job=long", &[local]),
            ("--dispatch service=projects/p/locations/l/services/s", &[local]),
            ("--dispatch job=projects/p/locations/l/jobs/long", &[("LASTGOOD_RUN_ENDPOINT", "http://example.com")]),
        ] {
            assert_eq!(told(line, env).unwrap_err().kind(), Kind::Usage, "{line}");
        }
    }
}
