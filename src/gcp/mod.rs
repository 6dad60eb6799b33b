//! Google Cloud, without anything of vaults: how its services are reached, with which credentials, and what its errors mean.

pub mod cloud;
pub mod credentials;
mod credential_file;
pub(crate) mod error_text;
pub mod http_client;
#[cfg_attr(not(feature = "pubsub"), path = "without_pubsub.rs")]
pub mod pubsub;
pub mod run_jobs;
