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
use crate::retry::Backoff;

/// Returns the store at an address. It gives up what it is doing once `stop` is set.
///
/// # Errors
/// The credentials cannot be used. Whether the place exists is not checked yet.
pub fn open(address: &Address, cloud: &Cloud, stop: Arc<AtomicBool>) -> error::Result<Box<dyn Store>> {
    Ok(match address {
        Address::Folder(folder) => Box::new(LocalStore::new(folder)),
        Address::Bucket { bucket, prefix } => {
            let bucket = GcsBucket::new(cloud, bucket, prefix, RequestTimeouts::default(), stop.clone())?;
            Box::new(RetryStore::new(bucket, Backoff::new(cloud.patience), stop))
        }
    })
}

/// Opens stores as configured, so that callers need not know how buckets are reached.
#[derive(Debug, Clone)]
pub struct Opener(Cloud);

impl From<Cloud> for Opener {
    fn from(cloud: Cloud) -> Self {
        Opener(cloud)
    }
}

impl Opener {
    /// Opens the store at an address, as [`open`] does.
    ///
    /// # Errors
    /// The errors of [`open`].
    pub fn open(&self, address: &Address, stop: Arc<AtomicBool>) -> error::Result<Box<dyn Store>> {
        open(address, &self.0, stop)
    }

    /// Returns the same opener, but a bucket that does not answer counts as unreachable after this time.
    pub fn within(&self, patience: Duration) -> Self {
        Opener(Cloud { patience, ..self.0.clone() })
    }

    /// Whether the program runs in Cloud Run, where an instance's disk disappears with the instance.
    pub fn is_in_cloud_run(&self) -> bool {
        self.0.in_cloud_run
    }
}
