//! Publishes a run's end to a Pub/Sub topic.

use std::time::Duration;

use super::event::TopicMessage;
use crate::error::Result;
use crate::gcp::cloud::Cloud;
use crate::gcp::pubsub::{Publisher, Topic};

/// The topic for results, and how it is reached.
#[derive(Debug, Clone)]
pub struct ResultTopic {
    topic: Topic,
    cloud: Cloud,
}

impl ResultTopic {
    /// A topic that is reached through `cloud`. Nothing is asked of it yet.
    pub fn new(topic: Topic, cloud: Cloud) -> Self {
        ResultTopic { topic, cloud }
    }

    /// Names the operation in errors and log lines.
    pub(super) fn doing(&self) -> String {
        format!("publish to {}", self.topic)
    }

    /// Publishes a message. Blocks; the caller has a deadline.
    ///
    /// # Errors
    /// Like [`Publisher::publish`].
    pub(super) fn publish(&self, (data, attributes): TopicMessage, within: Duration) -> Result<()> {
        Publisher::new(&self.cloud, self.topic.clone())?.publish(data, attributes, within, || false).map(drop)
    }
}
