//! Google Cloud Pub/Sub: how it is reached, what topics and subscriptions are called, and publishing to one.
//!
//! The client is Google's own crate. Two things that it leaves open are done here: it does not look at `PUBSUB_EMULATOR_HOST`,
//! and without credentials it would ask for a metadata server for minutes before it says so.

use std::fmt;
use std::time::Duration;

use google_cloud_auth::credentials::{Credentials, anonymous};
use google_cloud_pubsub::client;
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Code, Doing, Error, Result};
use crate::gcp::cloud::Cloud;
use crate::gcp::credentials;
use crate::gcp::error_text::with_causes;
use crate::gcp::http_client::use_ring;

/// The most characters of a resource's name. <https://docs.cloud.google.com/pubsub/docs/pubsub-basics#resource_names>
const MAX_NAME: usize = 255;
/// How often `publish` checks whether it was stopped.
const TICK: Duration = Duration::from_millis(50);

/// The full name of a topic: `projects/P/topics/T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic(String);

/// The full name of a subscription: `projects/P/subscriptions/S`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription(String);

impl Topic {
    /// Parses a topic's full name, or its own name where the project is known.
    ///
    /// # Errors
    /// The name is not valid; the text says why.
    pub fn new(name: &str, project: Option<&str>) -> Result<Self, String> {
        full("topics", name, project).map(Topic)
    }

    /// Returns the full name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Subscription {
    /// Parses a subscription's full name, or its own name where the project is known.
    ///
    /// # Errors
    /// The name is not valid; the text says why.
    pub fn new(name: &str, project: Option<&str>) -> Result<Self, String> {
        full("subscriptions", name, project).map(Subscription)
    }

    /// Returns the full name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the full name of a resource.
fn full(kind: &str, name: &str, project: Option<&str>) -> Result<String, String> {
    let is_id = |id: &str| {
        let mut chars = id.chars();
        let begins = chars.next().is_some_and(|first| first.is_ascii_alphabetic());
        let rest = chars.all(|c| c.is_ascii_alphanumeric() || "-_.~+%".contains(c));
        begins && rest && (3..=MAX_NAME).contains(&id.len())
    };
    // In old projects, the id has a domain before it: `example.com:shop`.
    let is_project = |id: &str| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    // An id has no capitals.
    let is_sample = |id: &str| !id.is_empty() && id.chars().all(|c| c.is_ascii_uppercase() || "-_".contains(c));
    match (name.split('/').collect::<Vec<_>>().as_slice(), project) {
        (["projects", project, ..], _) if is_sample(project) => {
            Err(format!("{project} stands for the id of a project: `gcloud projects list` shows those that there are"))
        }
        (["projects", project, of, id], _) if is_project(project) && *of == kind && is_id(id) => Ok(name.to_owned()),
        ([id], Some(project)) if is_id(id) && is_project(project) => Ok(format!("projects/{project}/{kind}/{id}")),
        ([id], None) if is_id(id) => {
            Err(format!("the project is not known: write projects/PROJECT/{kind}/{id}, or set GOOGLE_CLOUD_PROJECT"))
        }
        _ => Err(format!(
            "it is not of the form projects/PROJECT/{kind}/NAME, with a NAME of 3 to {MAX_NAME} letters, digits and -_.~+% that \
             begins with a letter"
        )),
    }
}

/// How Pub/Sub is reached.
#[derive(Debug, Clone)]
pub struct PubsubAccess {
    /// The endpoint, if it is not Google's: `http://127.0.0.1:8085`.
    pub endpoint: Option<String>,
    /// The credentials to use, if the client does not find them by itself.
    pub credentials: Option<Credentials>,
}

impl PubsubAccess {
    /// Settles the access from the configuration.
    ///
    /// # Errors
    /// The credentials cannot be used.
    pub fn new(cloud: &Cloud, doing: impl Fn() -> String) -> Result<Self> {
        use_ring();
        if let Some(emulator) = &cloud.pubsub_emulator {
            let credentials = Some(anonymous::Builder::new().build());
            return Ok(PubsubAccess { endpoint: Some(emulator.clone()), credentials });
        }
        // An emulator of another service changes nothing here.
        let google = Cloud { emulator: None, ..cloud.clone() };
        credentials::find(&google).map_err(|fault| fault.while_doing(doing()))?;
        Ok(PubsubAccess { endpoint: None, credentials: None })
    }

    /// Returns what to check when Pub/Sub does not answer.
    pub fn advice(&self) -> String {
        match &self.endpoint {
            Some(emulator) => format!("Is the emulator running that PUBSUB_EMULATOR_HOST names ({emulator})?"),
            None => "Can Pub/Sub be reached from here, and are there credentials? `gcloud auth application-default login` makes some; \
                     `lastgood doctor` shows which are found."
                .into(),
        }
    }
}

/// Publishes to one topic. It blocks, so it is for threads that may block.
pub struct Publisher {
    topic: Topic,
    access: PubsubAccess,
    client: client::Publisher,
    handle: Handle,
    /// Taken when this is dropped; `Some` until then.
    runtime: Option<Runtime>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A task that hangs, such as a DNS lookup, is not waited for.
            runtime.shutdown_background();
        }
    }
}

impl Publisher {
    /// Creates a publisher for a topic; nothing is sent yet.
    ///
    /// # Errors
    /// The credentials cannot be used, or the system has no threads or no certificates.
    pub fn new(cloud: &Cloud, topic: Topic) -> Result<Self> {
        let doing = || format!("publish to {topic}");
        let access = PubsubAccess::new(cloud, doing)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().doing(doing)?;
        let client = runtime.block_on(async {
            // One message is published at a time, so none has to wait for others.
            let mut builder = client::Publisher::builder(topic.name()).set_message_count_threshold(1);
            if let Some(endpoint) = &access.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            if let Some(credentials) = &access.credentials {
                builder = builder.with_credentials(credentials.clone());
            }
            builder.build().await
        });
        let client = client.map_err(|why| {
            let code = if why.is_default_credentials() { Code::NoCredentials } else { Code::Failed };
            Error::failed(doing(), with_causes(&why)).with_code(code).hint(access.advice())
        })?;
        Ok(Publisher { topic, access, client, handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Publishes a message, retrying until it is accepted, the time `within` is over or `stopped` says so. Returns its id.
    ///
    /// # Errors
    /// The topic does not exist or may not be published to, the service does not answer, or it was stopped.
    pub fn publish(
        &self,
        data: Vec<u8>,
        attributes: impl IntoIterator<Item = (String, String)>,
        within: Duration,
        stopped: impl Fn() -> bool,
    ) -> Result<String> {
        let doing = || format!("publish to {}", self.topic);
        let message = Message::new().set_data(data).set_attributes(attributes);
        let stopped = async {
            while !stopped() {
                tokio::time::sleep(TICK).await;
            }
        };
        let published = self.handle.block_on(async {
            tokio::select! {
                published = tokio::time::timeout(within, self.client.publish(message)) => Some(published),
                () = stopped => None,
            }
        });
        let Some(published) = published else {
            return Err(Error::failed(doing(), "it was told to stop").with_code(Code::Stopped));
        };
        match published {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(why)) => Err(Error::failed(doing(), with_causes(&why)).with_code(code_of(&why)).hint(
                "Does the topic exist (`gcloud pubsub topics create TOPIC`), and does this account have the role \
                 roles/pubsub.publisher on it?",
            )),
            Err(_) => Err(Error::unreachable(doing(), format!("no answer came within {} s", within.as_secs_f64()))
                .hint(self.access.advice())),
        }
    }
}

/// Returns the code of the error that a message was not published because of `why`.
fn code_of(why: &PublishError) -> Code {
    let PublishError::Rpc(why) = why else { return Code::Failed };
    match why.status().map(|status| status.code.name()) {
        Some("PERMISSION_DENIED") => Code::AccessDenied,
        Some("UNAUTHENTICATED") => Code::NoCredentials,
        None if why.is_authentication() => Code::NoCredentials,
        _ => Code::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_full_or_completed() {
        let topic = |name: &str, project| Topic::new(name, project).map(|topic| topic.name().to_owned());
        for (name, project, full) in [
            ("projects/demo/topics/backup", None, "projects/demo/topics/backup"),
            ("projects/demo/topics/backup", Some("other"), "projects/demo/topics/backup"),
            ("backup-now", Some("example.com:demo"), "projects/example.com:demo/topics/backup-now"),
        ] {
            assert_eq!(topic(name, project).unwrap(), full);
        }
        for (name, project) in [
            ("backup", None),
            ("", Some("p")),
            ("ab", Some("p")),
            ("1abc", Some("p")),
            ("a b c", Some("p")),
            ("projects/p/subscriptions/backup", None),
            ("projects//topics/backup", None),
            ("projects/p/topics/backup/more", None),
            ("topics/backup", Some("p")),
            ("projects/PROJECT/topics/backup", None),
            ("projects/YOUR-PROJECT_ID/topics/backup", None),
        ] {
            assert!(topic(name, project).is_err(), "{name}");
        }
        assert!(topic("backup", None).unwrap_err().contains("GOOGLE_CLOUD_PROJECT"));
        assert!(topic("ab", Some("p")).unwrap_err().contains("3 to 255"));
        let subscription = Subscription::new("pull", Some("p")).unwrap();
        assert_eq!(subscription.name(), "projects/p/subscriptions/pull");
        assert!(Subscription::new("projects/p/topics/backup", None).is_err());
    }
}
