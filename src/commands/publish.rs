//! `lastgood publish`: publishes one event, for a script or an app's crash handler.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use lastgood::error::Result;
use lastgood::events::sent::CloudEvent;
use lastgood::gcp::cloud::Cloud;
use lastgood::gcp::pubsub::Publisher;
use lastgood::monitor::Context;
use lastgood::vault::hex::Hex;
use serde_json::json;

use crate::ProgramOutcome;
use crate::config::Publication;
use crate::console::Console;

/// Publishes an event and reports the message's id.
///
/// # Errors
/// The topic does not exist or may not be published to, no answer came in time, or it was told to stop.
pub fn publish(
    publication: Publication,
    cloud: &Cloud,
    console: &mut Console,
    ctx: &Context,
) -> Result<ProgramOutcome> {
    let Publication { topic, kind, source, id, fields, within } = publication;
    let id = match id {
        Some(id) => id,
        None => {
            let mut id = [0; 16];
            (ctx.random)(&mut id)?;
            Hex(id).to_string()
        }
    };
    let sent = CloudEvent { kind, source, id, time: Timestamp::now(), fields };
    let stopped = || ctx.stop.load(Ordering::Relaxed);
    let message = Publisher::new(cloud, topic.clone())?.publish(sent.data(), sent.attributes(), within, stopped)?;
    let event = json!({ "type": sent.kind, "source": sent.source, "id": sent.id, "time": sent.time });
    let told = json!({ "message_id": message, "topic": topic.name(), "event": event });
    console.report(&told, || format!("{message}\n"));
    Ok(ProgramOutcome::Done)
}
