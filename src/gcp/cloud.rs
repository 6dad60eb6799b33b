//! The configuration of Google Cloud: how its services are reached. It is not yet a connection.

use std::path::PathBuf;
use std::time::Duration;

/// How long requests to a store that fails are retried, if nothing else is configured.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Google's own endpoint of Cloud Storage.
const GOOGLE: &str = "https://storage.googleapis.com";

/// The configuration of Google Cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// The project, where one is named; only messages need it.
    pub project: Option<String>,
    /// The project that is billed for requests, if it is not the bucket's: a bucket may have its requesters pay.
    pub user_project: Option<String>,
    /// An emulator in place of Google's service, without credentials: `http://127.0.0.1:9000`.
    pub emulator: Option<String>,
    /// Another endpoint of Google's Cloud Storage, with credentials: one of Private Service Connect.
    pub endpoint: Option<String>,
    /// An emulator in place of Google's Pub/Sub, without credentials: `http://127.0.0.1:8085`.
    pub pubsub_emulator: Option<String>,
    /// Another endpoint of Cloud Run's Admin API: a regional or private one, or a stand-in on this machine.
    pub run_endpoint: Option<String>,
    /// The file that `GOOGLE_APPLICATION_CREDENTIALS` names. `google-cloud-auth`, which uses it, reads that variable by itself.
    pub credentials: Option<PathBuf>,
    /// The file that `gcloud auth application-default login` writes. The library looks there, too.
    pub well_known: Option<PathBuf>,
    /// The metadata server's host, if it is not `metadata.google.internal`. The library knows the variable, too.
    pub metadata_host: Option<String>,
    /// Whether this is Cloud Run, where there always is a metadata server.
    pub in_cloud_run: bool,
    /// How long one operation is retried before the store counts as unreachable.
    pub patience: Duration,
}

impl Default for Cloud {
    fn default() -> Self {
        Cloud {
            project: None,
            user_project: None,
            emulator: None,
            endpoint: None,
            pubsub_emulator: None,
            run_endpoint: None,
            credentials: None,
            well_known: None,
            metadata_host: None,
            in_cloud_run: false,
            patience: PATIENCE,
        }
    }
}

impl Cloud {
    /// Returns the base of the URLs of Cloud Storage: scheme, host and port, without a slash at the end.
    pub fn base(&self) -> &str {
        self.emulator.as_deref().or(self.endpoint.as_deref()).unwrap_or(GOOGLE)
    }
}
