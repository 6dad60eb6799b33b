//! Posts a run's end as JSON to a webhook.
//!
//! ```json
//! {"text": "The backup on web-1 is complete: …", "event": {"specversion": "1.0", "type": "dev.lastgood.backup.completed", …}}
//! ```
//!
//! `text` is what Slack's incoming webhooks show (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>),
//! and Mattermost's, Rocket.Chat's and Google Chat's. The event is not spread over the same object, which would be a CloudEvent
//! with one more attribute: Mattermost takes a member `type` for one of its own and refuses the message. Google Chat refuses any
//! member that it does not know (as in ansible/awx#4665), and Slack's documentation leaves open what it does with them; so the
//! hosts that are known to be chats are sent `text` alone. They would show nothing else.

use std::fmt;
use std::time::Duration;

use serde_json::json;

use super::event::Notification;
use super::post::PostTarget;
use crate::error::{Code, Error, Result};
use crate::report::{JobOutput, Outcome, Report};

/// Hosts of chats: they show `text`, and some refuse anything beside it.
const CHATS: [&str; 4] = ["hooks.slack.com", "hooks.slack-gov.com", "chat.googleapis.com", "discord.com"];
/// The results of which the webhook is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WebhookFilter {
    /// All results.
    #[default]
    All,
    /// Results that are not complete.
    NotComplete,
}

/// Where to post, and which results.
#[derive(Clone)]
pub struct Webhook {
    target: PostTarget,
    when: WebhookFilter,
}

impl Webhook {
    /// A webhook at an https URL; http is allowed only on this machine.
    ///
    /// # Errors
    /// A text that says what is wrong with the URL, and holds nothing of it.
    pub fn new(url: &str, when: WebhookFilter) -> Result<Self, String> {
        PostTarget::new(url, "webhook").map(|target| Webhook { target, when })
    }

    /// Whether the webhook is told of this report. If it is told only of runs that are not complete, it hears of a good snapshot
    /// that is not whole when that state begins, and again when it has lasted for long.
    pub(super) fn wants(&self, report: &Report) -> bool {
        let alert = || match &report.done {
            Some(JobOutput::Backup(done)) => done.taken.news || !done.taken.notices.is_empty(),
            _ => false,
        };
        self.when == WebhookFilter::All
            || match report.result {
                Outcome::Complete | Outcome::Stale => alert(),
                _ => true,
            }
    }

    /// Names the operation in errors and log lines.
    pub(super) fn doing(&self) -> String {
        self.target.doing()
    }

    /// The body that is posted.
    ///
    /// # Errors
    /// The body cannot be written as JSON; that of a run always can.
    pub(super) fn body(&self, text: &str, told: &Notification) -> Result<Vec<u8>> {
        let chat = self.target.url().host_str().is_some_and(|host| CHATS.contains(&host));
        let body = if chat { json!({ "text": text }) } else { json!({ "text": text, "event": told.structured()? }) };
        let not_encoded = |why| Error::failed("encode the body for the webhook", why).with_code(Code::Internal);
        serde_json::to_vec(&body).map_err(not_encoded)
    }

    /// Posts until it is answered with success, further tries are of no use, or the time is over. Blocks.
    ///
    /// # Errors
    /// The last answer that was not a success.
    pub(super) fn post(&self, body: Vec<u8>, within: Duration) -> Result<()> {
        self.target.post("application/json", body, within)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("origin", &self.target.origin()).field("when", &self.when).finish()
    }
}
