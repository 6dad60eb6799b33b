//! Opens the store at an address.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::Store;
use super::address::Address;
use super::gcs::{GcsBucket, RequestTimeouts};
use super::local::LocalStore;
use super::retrying::RetryStore;
use crate::error;
use crate::gcp::cloud::Cloud;
use crate::retry::{Backoff, Haste};

/// Returns the store at an address. It gives up what it is doing once `stop` is set.
///
/// # Errors
/// The credentials cannot be used. Whether the place exists is not checked yet.
pub fn open(address: &Address, cloud: &Cloud, stop: Arc<AtomicBool>) -> error::Result<Box<dyn Store>> {
    open_in_haste(address, cloud, stop, Haste::default())
}

fn open_in_haste(
    address: &Address,
    cloud: &Cloud,
    stop: Arc<AtomicBool>,
    haste: Haste,
) -> error::Result<Box<dyn Store>> {
    Ok(match address {
        Address::Folder(folder) => Box::new(LocalStore::new(folder)),
        Address::Bucket { bucket, prefix } => {
            let bucket = GcsBucket::new(cloud, bucket, prefix, RequestTimeouts::default(), stop.clone())?;
            Box::new(RetryStore::new(bucket, Backoff::new(cloud.patience), stop).in_haste(haste))
        }
    })
}

/// Opens stores as configured, so that callers need not know how buckets are reached.
#[derive(Debug, Clone)]
pub struct Opener {
    cloud: Cloud,
    haste: Haste,
}

impl From<Cloud> for Opener {
    fn from(cloud: Cloud) -> Self {
        Opener { cloud, haste: Haste::default() }
    }
}

impl Opener {
    /// Opens the store at an address, as [`open`] does.
    ///
    /// # Errors
    /// The errors of [`open`].
    pub fn open(&self, address: &Address, stop: Arc<AtomicBool>) -> error::Result<Box<dyn Store>> {
        open_in_haste(address, &self.cloud, stop, self.haste.clone())
    }

    /// Returns the same opener, but a bucket that does not answer counts as unreachable after this time.
    pub fn within(&self, patience: Duration) -> Self {
        Opener { cloud: Cloud { patience, ..self.cloud.clone() }, haste: self.haste.clone() }
    }

    /// Returns the time after which a bucket that does not answer counts as unreachable.
    pub fn patience(&self) -> Duration {
        self.cloud.patience
    }

    /// The time by which everything is to be done: all stores that this opener and those made of it open go by it.
    pub fn haste(&self) -> &Haste {
        &self.haste
    }

    /// Whether the program runs in Cloud Run, where an instance's disk disappears with the instance.
    pub fn is_in_cloud_run(&self) -> bool {
        self.cloud.in_cloud_run
    }
}
