//! The store at an address.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Store;
use super::address::Address;
use super::gcs::{GcsBucket, Limits};
use super::local::LocalStore;
use super::retrying::RetryStore;
use crate::error;
use crate::gcp::cloud::Cloud;
use crate::retry::Pace;

/// The store at an address. It gives up what it is doing once `stop` is set.
///
/// # Errors
/// Credentials that cannot be used. Whether the place exists is not asked yet.
pub fn open(address: &Address, cloud: &Cloud, stop: Arc<AtomicBool>) -> error::Result<Box<dyn Store>> {
    Ok(match address {
        Address::Folder(folder) => Box::new(LocalStore::new(folder)),
        Address::Bucket { bucket, prefix } => {
            let bucket = GcsBucket::new(cloud, bucket, prefix, Limits::default(), stop.clone())?;
            Box::new(RetryStore::new(bucket, Pace::new(cloud.patience), stop))
        }
    })
}
