//! The configuration of `serve` and `listen`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use lastgood::error::{Code, Error, Result};
use lastgood::gcp::cloud::Cloud;
use lastgood::report::RunEnvironment;
use lastgood::runner::runner::Rules;
use lastgood::server::auth::{self, AuthPolicy};
use lastgood::server::service::{HttpSettings, ServiceSettings};
use lastgood::server::{ServerLimits, ServerSettings, health};
use lastgood::store::address::Address;
use lastgood::vault::root::BackupReason;
use lastgood::{restore, verify};

use super::dispatched::dispatch;
use super::env::Env;
use super::hooks;
use super::pubsub::pulling;
use super::{HostEnvironment, backup_options, restoring, results, switches};
use crate::cli;

/// The port, if the environment names none.
const PORT: u16 = 8080;
/// How old the newest good snapshot may be if nothing says how often one is taken: 26 hours, which is a day for a daily backup
/// and two hours more.
const MAX_AGE: Duration = Duration::from_secs(26 * 3600);
/// How old the newest file in the data directory may be: 2 hours.
const FRESHNESS: Duration = Duration::from_secs(2 * 3600);
/// How old a request for a restore may be when it is read: 15 minutes.
const RESTORE_AGE: Duration = Duration::from_secs(15 * 60);

/// The configuration of a service, which has at least one source of requests.
pub struct ServiceConfig {
    /// The rules for runs; `threads` and `parallel` in them are set later.
    pub rules: Rules,
    /// The sources of requests.
    pub serving: ServiceSettings,
}

impl fmt::Debug for ServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Service");
        shown.field("serving", &self.serving);
        shown.finish_non_exhaustive()
    }
}

/// Settles the configuration of `serve`.
///
/// # Errors
/// Wrong usage, or a token file that cannot be read.
pub fn service(
    args: cli::ServeArgs,
    data: PathBuf,
    (vaults, cloud): (&[Address], &Cloud),
    place: RunEnvironment,
    env: &Env,
    outside: &HostEnvironment,
) -> Result<ServiceConfig> {
    let listen = match args.listen {
        Some(address) => address,
        None => SocketAddr::from((Ipv4Addr::UNSPECIFIED, env.number("PORT")?.unwrap_or(PORT))),
    };
    let pull = pulling(args.pulling, cloud.project.as_deref(), env)?;
    let rules = rules(args.runs, data, (vaults, cloud), place, env, outside)?;
    let healthy = Healthy {
        max_age: max_age(args.max_age, args.interval, env)?,
        freshness: args.data_freshness,
        critical: args.critical_files,
    };
    let access = (listen, args.access);
    let http = http(access, healthy, (&rules, env))?;
    let settings = ServerSettings { background: args.background, ..http.settings };
    let http = Some(HttpSettings { settings, ..http });
    Ok(ServiceConfig { rules, serving: ServiceSettings { http, pull, cloud: cloud.clone() } })
}

/// What counts as healthy, as far as flags say it.
pub(super) struct Healthy {
    /// How old the newest good snapshot may be.
    pub max_age: Duration,
    /// How old the newest file in the data directory may be.
    pub freshness: Option<Duration>,
    /// What must be in the directory.
    pub critical: Vec<String>,
}

/// Settles who may ask over HTTP, and what is answered. Work goes on while no request waits only where the rules name no Cloud Run
/// service, or `background` is set afterwards.
///
/// # Errors
/// Wrong usage, or a token file that cannot be read.
pub(super) fn http(
    (listen, args): (SocketAddr, cli::AccessFlags),
    healthy: Healthy,
    (rules, env): (&Rules, &Env),
) -> Result<HttpSettings> {
    let k_service = rules.place.service.is_some();
    let auth = AuthPolicy::new(auth::AuthSettings {
        auth: args.auth.map(|auth| match auth {
            cli::AuthFlag::Oidc => auth::AuthKind::Oidc,
            cli::AuthFlag::Token => auth::AuthKind::Token,
            cli::AuthFlag::CloudRun => auth::AuthKind::CloudRun,
            cli::AuthFlag::None => auth::AuthKind::None,
        }),
        audience: args.auth_audience,
        emails: args.auth_emails,
        jwks_url: args.auth_keys_url,
        token_file: args.token_file,
        token: env.get("LASTGOOD_TOKEN"),
        insecure: args.insecure,
    })?;
    auth.check_listen(listen, args.insecure, k_service)?;
    let freshness = match healthy.freshness {
        Some(freshness) => freshness,
        None => env.duration("DATA_FRESHNESS")?.unwrap_or(FRESHNESS),
    };
    let critical = critical_files(healthy.critical, env)?;
    let health = health::HealthSettings {
        max_age: healthy.max_age,
        freshness,
        backups_off: rules.backups_off.clone(),
        place: health::DataProbeSettings {
            data: rules.backup.data.clone(),
            not_walked: rules.backup.not_walked.clone(),
            one_file_system: rules.backup.one_file_system,
            critical,
        },
    };
    let settings = ServerSettings {
        public_url: args.public_url,
        allow_download: args.allow_download,
        cloud_run: k_service,
        background: false,
        health,
        limits: ServerLimits { connections: args.connections, ..ServerLimits::default() },
    };
    Ok(HttpSettings { listen, auth, settings })
}

/// Returns how old the newest good snapshot may be: what is given, else twice the interval, of which the environment may tell.
///
/// # Errors
/// Usage: the variable is not a number of minutes.
pub(super) fn max_age(given: Option<Duration>, interval: Option<Duration>, env: &Env) -> Result<Duration> {
    let interval = match interval {
        Some(interval) => Some(interval),
        None => {
            let minutes = env.number::<u32>("BACKUP_INTERVAL_MINUTES")?;
            minutes.map(|minutes| Duration::from_secs(u64::from(minutes) * 60))
        }
    };
    let two = interval.filter(|interval| !interval.is_zero()).map(|interval| interval * 2);
    Ok(given.or(two).unwrap_or(MAX_AGE))
}

/// Settles the configuration of `listen`, which only pulls.
///
/// # Errors
/// Wrong usage, such as no subscription.
pub fn listener(
    args: cli::ListenArgs,
    data: PathBuf,
    (vaults, cloud): (&[Address], &Cloud),
    place: RunEnvironment,
    env: &Env,
    outside: &HostEnvironment,
) -> Result<ServiceConfig> {
    let pull = pulling(args.pulling, cloud.project.as_deref(), env)?.ok_or_else(|| {
        Error::usage("listen", "no subscription is named")
            .hint("Name it: `--subscription projects/PROJECT/subscriptions/NAME`, or LASTGOOD_SUBSCRIPTION.")
    })?;
    Ok(ServiceConfig {
        rules: rules(args.runs, data, (vaults, cloud), place, env, outside)?,
        serving: ServiceSettings { http: None, pull: Some(pull), cloud: cloud.clone() },
    })
}

/// Settles the rules for runs that others ask for.
pub(super) fn rules(
    args: cli::RunFlags,
    data: PathBuf,
    (vaults, cloud): (&[Address], &Cloud),
    place: RunEnvironment,
    env: &Env,
    outside: &HostEnvironment,
) -> Result<Rules> {
    let init = args.taking.init;
    let notify = results::notify(args.results, true, &place, cloud, env)?;
    let hooks = hooks::hooks(args.hooks.into(), env)?;
    let mut backup = backup_options(data.clone(), vaults, args.taking, BackupReason::Manual, outside)?;
    let backups_off = switches::backups_off(env)?.then(|| switches::OFF.to_owned());
    for name in ["K_SERVICE", "RENDER_SERVICE_NAME", "FLY_APP_NAME"] {
        if backup.service.is_none() {
            backup.service = env.text(name)?;
        }
    }
    // Checked now, and not when somebody needs it.
    let restore = match args.allow_restore {
        true => restoring(data, Vec::new(), vaults, outside)?,
        false => restore::options::RestoreOptions::latest(data),
    };
    let cli::RestoreFlags { in_place, around_mounts, while_in_use } = args.replacing;
    let restore = restore::options::RestoreOptions { in_place, around_mounts, while_in_use, ..restore };
    Ok(Rules {
        backup,
        term: None,
        init,
        restore,
        verify: verify::VerifyOptions { read_data: None, databases: None },
        backups_off,
        allow_restore: args.allow_restore,
        restore_age: RESTORE_AGE,
        run_timeout: args.run_timeout,
        coalesce: args.coalesce,
        critical_max: args.critical_max.get(),
        dispatch: dispatch(args.dispatching, cloud)?,
        place,
        worker_pool: env.text("CLOUD_RUN_WORKER_POOL")?,
        notify,
        hooks,
        threads: 1,
        parallel: 1,
    })
}

/// Parses the pattern of a critical file; returns it as it is given and as it is matched.
pub(super) fn critical_files(given: Vec<String>, env: &Env) -> Result<Vec<(String, GlobMatcher)>> {
    let (mut critical, mut of) = (given, "");
    if critical.is_empty()
        && let Some(list) = env.text("CRITICAL_FILES")?
    {
        of = " of CRITICAL_FILES";
        critical = list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    }
    critical.into_iter().map(|text| pattern(&text, of)).collect()
}

fn pattern(text: &str, of: &str) -> Result<(String, GlobMatcher)> {
    let wrong =
        |why: String| Error::usage(format!("look for the critical file {text}{of}"), why).with_code(Code::BadSetting);
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(wrong("it must be a path below the data directory, or a pattern for one".into()));
    }
    let bare = text.strip_prefix("./").unwrap_or(text);
    let glob = GlobBuilder::new(bare).literal_separator(true).build().map_err(|why| wrong(why.to_string()))?;
    Ok((bare.to_owned(), glob.compile_matcher()))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::tests::config;
    use super::*;
    use crate::config::ConfiguredCommand;
    use lastgood::error::Kind;

    fn service(line: &str, env: &[(&str, &str)]) -> Result<ServiceConfig> {
        config(line, env).map(|config: Config| match config.task {
            ConfiguredCommand::Serve(service) => *service,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn where_it_listens_and_who_may_ask() {
        let token = ("LASTGOOD_TOKEN", "0123456789abcdef0123");
        for (line, env, listen) in [
            ("serve --listen 127.0.0.1:0", &[][..], "127.0.0.1:0"),
            ("serve --auth token", &[token], "0.0.0.0:8080"),
            ("serve --auth token", &[token, ("PORT", "9000")], "0.0.0.0:9000"),
            ("serve --auth none --insecure", &[], "0.0.0.0:8080"),
            ("serve --auth cloud-run", &[("K_SERVICE", "backup"), ("PORT", "80")], "0.0.0.0:80"),
        ] {
            assert_eq!(service(line, env).unwrap().serving.http.unwrap().listen.to_string(), listen, "{line}");
        }
        for (line, env) in [
            ("serve", &[][..]),
            ("serve --auth none", &[]),
            ("serve --auth cloud-run", &[]),
            ("serve --auth token", &[]),
            ("serve --listen 127.0.0.1:0 --insecure", &[]),
            ("serve --auth oidc --auth-audience https://a", &[]),
            ("serve --auth none --insecure", &[("PORT", "70000")]),
            ("serve --listen 127.0.0.1:0", &[("DATA_FRESHNESS", "soon")]),
            ("serve --listen 127.0.0.1:0 --critical-file ../a", &[]),
            ("serve --listen 127.0.0.1:0 --critical-file a[", &[]),
            ("serve data --listen 127.0.0.1:0 --vault data", &[]),
            ("serve data --listen 127.0.0.1:0 --allow-restore --vault data/vault", &[]),
        ] {
            assert_eq!(service(line, env).unwrap_err().kind(), Kind::Usage, "{line}");
        }
    }

    #[test]
    fn what_is_healthy() {
        let ages = |line: &str, env: &[(&str, &str)]| {
            let health = service(&format!("serve --listen 127.0.0.1:0 {line}"), env)
                .unwrap()
                .serving
                .http
                .unwrap()
                .settings
                .health;
            (health.max_age.as_secs(), health.freshness.as_secs())
        };
        assert_eq!(ages("", &[]), (26 * 3600, 7200));
        let env = &[("BACKUP_INTERVAL_MINUTES", "30"), ("DATA_FRESHNESS", "10m")];
        assert_eq!(ages("", env), (3600, 600));
        assert_eq!(ages("--interval 1m --data-freshness 1h", env), (120, 3600));
        assert_eq!(ages("--max-age 5h", env).0, 18_000);
        let named = |line: &str| {
            let line = format!("serve --listen 127.0.0.1:0 {line}");
            let service = service(&line, &[("CRITICAL_FILES", "*.csv, ./state.json,")]).unwrap();
            let place = service.serving.http.unwrap().settings.health.place;
            place.critical.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(named(""), ["*.csv", "state.json"]);
        assert_eq!(named("--critical-file a --critical-file b"), ["a", "b"]);
    }
}
