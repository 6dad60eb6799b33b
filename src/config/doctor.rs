//! The configuration of `doctor`.

use std::path::PathBuf;
use std::time::Duration;

use lastgood::doctor::Proxy;
use lastgood::doctor::check::{DoctorSettings, VaultLocation};
use lastgood::gcp::cloud::Cloud;
use lastgood::store::address::Address;

use super::HostEnvironment;

/// Variables that name a proxy for https, in order of precedence.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Returns the settings as they are configured, however they fit together: to say what is wrong with them is the doctor's task.
pub fn doctor_settings(
    data: PathBuf,
    vaults: &[Address],
    cloud: &Cloud,
    max_age: Duration,
    outside: &HostEnvironment,
) -> DoctorSettings {
    let vault = |address: &Address| VaultLocation {
        address: address.clone(),
        at: match address {
            Address::Folder(path) => Some((outside.resolve_vault)(path)),
            Address::Bucket { .. } => None,
        },
    };
    let proxy = PROXIES.iter().find_map(|name| {
        let value = (outside.env)(name).filter(|value| !value.is_empty())?;
        Some(Proxy::new(name, &value.to_string_lossy()))
    });
    let data_at = (outside.resolve)(&data);
    let vaults = vaults.iter().map(vault).collect();
    DoctorSettings { vaults, cloud: cloud.clone(), proxy, data, data_at, backups_off: None, max_age, only_age: false }
}
