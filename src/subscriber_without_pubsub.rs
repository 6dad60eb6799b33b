//! Stands in for [`crate::subscriber`] in a program that is built without the feature `pubsub`: there is no subscription, so that
//! nothing is ever pulled.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::gcp::cloud::Cloud;
use crate::gcp::pubsub::Subscription;
use crate::runner::runner::Runner;
use crate::shutdown::Shutdown;

/// What the configuration says of pulling.
#[derive(Debug, Clone)]
pub struct SubscriberSettings {
    /// From where.
    pub subscription: Subscription,
    /// For how long at most a message is held that could not be served, before it is given back.
    pub hold: Duration,
}

/// Pulls messages.
///
/// # Errors
/// None: there is no subscription.
pub async fn pull(
    _runner: &Arc<Runner>,
    _cloud: &Cloud,
    settings: &SubscriberSettings,
    _shutdown: &Shutdown,
) -> Result<bool> {
    settings.subscription.never()
}
