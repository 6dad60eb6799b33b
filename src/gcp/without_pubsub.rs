//! Stands in for [`gcp::pubsub`](crate::gcp::pubsub) in a program that is built without the feature `pubsub`, and so without
//! Google's client.
//!
//! Every name of a topic or a subscription is refused, so that each of these types has no value, and no function that needs one
//! is ever called.

use std::fmt;
use std::time::Duration;

use super::cloud::Cloud;
use crate::error::Result;

/// The error for every name.
const WITHOUT: &str = "this lastgood was built without Pub/Sub. Build it with the feature `pubsub`, which is on by default: \
                       `cargo build --release`";

/// Has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Never {}

/// The full name of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic(Never);

/// The full name of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription(Never);

impl Topic {
    /// Refuses every name.
    ///
    /// # Errors
    /// Always: the text says that there is no Pub/Sub.
    pub fn new(_name: &str, _project: Option<&str>) -> Result<Self, String> {
        Err(WITHOUT.into())
    }

    /// Returns the full name.
    pub fn name(&self) -> &str {
        match self.0 {}
    }
}

impl Subscription {
    /// Refuses every name.
    ///
    /// # Errors
    /// Always: the text says that there is no Pub/Sub.
    pub fn new(_name: &str, _project: Option<&str>) -> Result<Self, String> {
        Err(WITHOUT.into())
    }

    /// Returns the full name.
    pub fn name(&self) -> &str {
        match self.0 {}
    }

    /// Stands for any use of a subscription, of which there is none.
    pub fn never<T>(&self) -> T {
        match self.0 {}
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Publishes to one topic.
pub struct Publisher(Topic);

impl Publisher {
    /// Creates a publisher for a topic.
    ///
    /// # Errors
    /// None: there is no topic.
    pub fn new(_cloud: &Cloud, topic: Topic) -> Result<Self> {
        Ok(Publisher(topic))
    }

    /// Publishes a message.
    ///
    /// # Errors
    /// None: there is no topic.
    pub fn publish(
        &self,
        _data: Vec<u8>,
        _attributes: impl IntoIterator<Item = (String, String)>,
        _within: Duration,
        _stopped: impl Fn() -> bool,
    ) -> Result<String> {
        match self.0.0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_or_a_subscription_is_an_error_that_says_how_to_build_with_pubsub() {
        let topic = Topic::new("projects/p/topics/backup", None).unwrap_err();
        let subscription = Subscription::new("projects/p/subscriptions/pull", None).unwrap_err();
        assert!(topic.contains("the feature `pubsub`") && topic == subscription, "{topic}");
    }
}
