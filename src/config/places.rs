//! Settles where this runs, where its vaults are, and how Google Cloud is reached.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use lastgood::error::{Code, Error, Result};
use lastgood::gcp::cloud::{Cloud, PATIENCE};
use lastgood::report::RunEnvironment;
use lastgood::store::address::{Address, DEFAULT};

use super::HostEnvironment;
use super::env::Env;
use crate::cli;

/// The prefix of the vault in a bucket, if only the bucket is named.
const PREFIX: &str = "lastgood";

/// Parses a vault's address; that of a folder becomes its absolute path.
///
/// # Errors
/// Usage: the address is of an unknown kind.
pub fn address(given: &OsStr, outside: &HostEnvironment) -> Result<Address> {
    let address = Address::parse(given).map_err(|why| why.with_code(Code::BadSetting))?;
    Ok(absolute(address, outside))
}

fn absolute(address: Address, outside: &HostEnvironment) -> Address {
    match address {
        Address::Folder(path) => Address::Folder((outside.absolute)(&path)),
        bucket => bucket,
    }
}

/// Returns where this runs, from the environment.
pub fn place(env: &Env, host: &str) -> RunEnvironment {
    let text = |name: &str| env.get(name).map(|value| value.to_string_lossy().into_owned());
    RunEnvironment {
        host: host.to_owned(),
        writer: format!("lastgood {}", env!("CARGO_PKG_VERSION")),
        execution: text("CLOUD_RUN_EXECUTION"),
        task: text("CLOUD_RUN_TASK_INDEX"),
        attempt: text("CLOUD_RUN_TASK_ATTEMPT"),
        service: text("K_SERVICE"),
        revision: text("K_REVISION"),
    }
}

/// Returns the vaults to use, the preferred one first: those of the flags, else those of lastgood's own variable, else the bucket
/// that other backup scripts know by one of two names, else a folder beside the data.
///
/// # Errors
/// Usage: an address is of an unknown kind, or the same one is given twice, or two variables differ.
pub fn vaults(flags: Vec<OsString>, env: &Env, outside: &HostEnvironment) -> Result<Vec<Address>> {
    let mut named = flags;
    if named.is_empty()
        && let Some(list) = env.get("LASTGOOD_VAULT")
    {
        named = list.as_bytes().split(|b| *b == b',').map(|part| OsStr::from_bytes(part.trim_ascii()).into()).collect();
    }
    let mut vaults: Vec<Address> = Vec::with_capacity(named.len());
    for given in named {
        let address = address(&given, outside)?;
        if vaults.contains(&address) {
            return Err(
                Error::usage(format!("use the vault {address}"), "it is given twice").with_code(Code::BadSetting)
            );
        }
        vaults.push(address);
    }
    if vaults.is_empty() {
        let hint = "Unset one of the two, or name the vault: `--vault URL`.";
        vaults.push(match env.same("bucket", &["BACKUP_BUCKET_NAME", "GCS_BUCKET_NAME"], hint)? {
            None => absolute(Address::Folder(DEFAULT.into()), outside),
            Some((name, value)) => {
                let doing = || format!("use the bucket {value} of {name}");
                let bare = value.strip_prefix("gs://").unwrap_or(&value).trim_end_matches('/');
                Address::bucket(bare, PREFIX).map_err(|why| {
                    Error::usage(doing(), why)
                        .with_code(Code::BadSetting)
                        .hint("Give the name alone; `--vault gs://bucket/prefix` names a prefix, too.")
                })?
            }
        });
    }
    Ok(vaults)
}

/// Settles how Google Cloud is reached.
///
/// # Errors
/// Usage: a variable's value is not valid.
pub fn cloud(flags: &cli::CloudFlags, env: &Env) -> Result<Cloud> {
    let with_scheme = |host: String| if host.contains("://") { host } else { format!("http://{host}") };
    let bare = |url: String| url.trim_end_matches('/').to_owned();
    let storage = env.text("STORAGE_EMULATOR_HOST")?.map(with_scheme).map(bare);
    let patience = match flags.store_timeout {
        Some(time) => time,
        None => env.duration("LASTGOOD_STORE_TIMEOUT")?.unwrap_or(PATIENCE),
    };
    Ok(Cloud {
        project: env
            .same("project", &["GOOGLE_CLOUD_PROJECT", "GCP_PROJECT_ID"], "Unset one of the two.")?
            .map(|(_, project)| project),
        user_project: match &flags.user_project {
            Some(project) => Some(project.clone()),
            None => env.text("LASTGOOD_USER_PROJECT")?,
        },
        emulator: storage.map(|url| url.trim_end_matches("/storage/v1").to_owned()),
        endpoint: env.text("LASTGOOD_STORAGE_ENDPOINT")?.map(bare),
        pubsub_emulator: env.text("PUBSUB_EMULATOR_HOST")?.map(with_scheme).map(bare),
        run_endpoint: env.text("LASTGOOD_RUN_ENDPOINT")?.map(bare),
        credentials: env.path("GOOGLE_APPLICATION_CREDENTIALS"),
        well_known: env.path("HOME").map(|home| home.join(".config/gcloud/application_default_credentials.json")),
        metadata_host: env.text("GCE_METADATA_HOST")?,
        in_cloud_run: env.in_cloud_run(),
        patience,
    })
}
