//! The configuration of `listen` and `publish`: names of topics and subscriptions, and the event.

use std::ffi::OsString;
use std::time::Duration;

use lastgood::error::{Code, Error, Result};
use lastgood::events::{self, sent};
use lastgood::gcp::pubsub::{Subscription, Topic};
use lastgood::subscriber;
use serde_json::{Map, Value};

use super::env::Env;
use super::labels;
use crate::cli;

const SUBSCRIPTION: &str = "LASTGOOD_SUBSCRIPTION";
const TOPIC: &str = "LASTGOOD_TOPIC";
/// The most bytes of a message attribute's value. <https://docs.cloud.google.com/pubsub/quotas#resource_limits>
const MAX_ATTRIBUTE: usize = 1024;

/// An event to publish, and where.
#[derive(Debug)]
pub struct Publication {
    /// The topic.
    pub topic: Topic,
    /// The event's type.
    pub kind: &'static str,
    /// The event's source.
    pub source: String,
    /// The event's id; `None` for a random one.
    pub id: Option<String>,
    /// The fields of its data.
    pub fields: Map<String, Value>,
    /// How long to try to publish it.
    pub within: Duration,
}

/// Settles where messages are pulled from, if they are.
///
/// # Errors
/// Usage: the name is not that of a subscription.
pub fn pulling(
    args: cli::PullFlags,
    project: Option<&str>,
    env: &Env,
) -> Result<Option<subscriber::SubscriberSettings>> {
    let subscription = match args.subscription {
        Some(name) => Some(Subscription::new(&name, project).map_err(|why| {
            Error::usage(format!("pull from the subscription {name}"), why).with_code(Code::BadSetting)
        })?),
        None => env.parsed(SUBSCRIPTION, |name| Subscription::new(name, project))?,
    };
    Ok(subscription.map(|subscription| subscriber::SubscriberSettings { subscription, hold: args.hold }))
}

/// Settles what is to be published.
///
/// # Errors
/// Usage: there is no topic, or its name is not valid; a label is given twice; the id is empty, or an attribute is too long.
pub fn publication(args: cli::PublishCommand, project: Option<&str>, host: &str, env: &Env) -> Result<Publication> {
    // The message may be the end of a log, cut anywhere: bytes that are not UTF-8 are replaced, not refused.
    let text = |message: OsString| Value::from(message.to_string_lossy());
    let mut fields = Map::new();
    let (kind, sending) = match args {
        cli::PublishCommand::Critical { message, severity, sending } => {
            fields.insert("severity".into(), severity.into());
            fields.insert("message".into(), text(message));
            (events::vocabulary::CRITICAL, sending)
        }
        cli::PublishCommand::Backup { message, sending } => {
            fields.extend(message.map(|message| ("message".into(), text(message))));
            (events::vocabulary::BACKUP_REQUESTED, sending)
        }
        cli::PublishCommand::Verify { sending } => (events::vocabulary::VERIFY_REQUESTED, sending),
        cli::PublishCommand::Restore { snapshot, sending } => {
            fields.extend(snapshot.map(|snapshot| ("snapshot".into(), snapshot.into())));
            (events::vocabulary::RESTORE_REQUESTED, sending)
        }
    };
    let cli::PublishFlags { topic, service, labels: given, id, timeout } = sending;
    let topic = match topic {
        Some(name) => Some(
            Topic::new(&name, project)
                .map_err(|why| Error::usage(format!("publish to the topic {name}"), why).with_code(Code::BadSetting))?,
        ),
        None => env.parsed(TOPIC, |name| Topic::new(name, project))?,
    };
    let topic = topic.ok_or_else(|| {
        Error::usage("publish", "no topic is named")
            .hint("Name it: `--topic projects/PROJECT/topics/NAME`, or LASTGOOD_TOPIC.")
    })?;
    if id.as_deref().is_some_and(str::is_empty) {
        return Err(Error::usage("publish", "the event's id is empty")
            .with_code(Code::BadSetting)
            .hint("Without --id it is a random one."));
    }
    let source = sent::source(host, service.as_deref());
    for (flag, text) in [("--id", id.as_deref().unwrap_or_default()), ("--service", &source)] {
        if text.len() > MAX_ATTRIBUTE {
            let why =
                format!("{flag} makes an attribute of {} bytes, and Pub/Sub takes at most {MAX_ATTRIBUTE}", text.len());
            return Err(Error::usage("publish", why)
                .with_code(Code::BadSetting)
                .hint("Put the long part into --message or --label."));
        }
    }
    fields.extend(service.map(|service| ("service".into(), service.into())));
    let labels: Map<_, _> = labels(given)?.into_iter().map(|(name, value)| (name, value.into())).collect();
    if !labels.is_empty() {
        fields.insert("labels".into(), labels.into());
    }
    Ok(Publication { topic, kind, source, id, fields, within: timeout })
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::tests::config;
    use super::*;
    use crate::config::ConfiguredCommand;
    use lastgood::error::Kind;
    use serde_json::json;

    const PROJECT: (&str, &str) = ("GOOGLE_CLOUD_PROJECT", "shop");

    fn subscription(line: &str, env: &[(&str, &str)]) -> Result<Option<String>> {
        config(line, env).map(|config: Config| match config.task {
            ConfiguredCommand::Serve(service) => service.serving.pull.map(|pull| pull.subscription.name().to_owned()),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn where_messages_are_pulled_from() {
        let full = "projects/shop/subscriptions/backups";
        let named = (SUBSCRIPTION, "backups");
        for (line, env) in [
            ("listen --subscription projects/shop/subscriptions/backups", &[][..]),
            ("listen --subscription backups", &[PROJECT]),
            ("listen", &[PROJECT, named]),
            ("serve --listen 127.0.0.1:0 --subscription backups", &[PROJECT]),
            ("serve --listen 127.0.0.1:0", &[PROJECT, named]),
        ] {
            assert_eq!(subscription(line, env).unwrap().as_deref(), Some(full), "{line}");
        }
        assert_eq!(subscription("serve --listen 127.0.0.1:0", &[PROJECT]).unwrap(), None);
        for (line, env) in [
            ("listen", &[PROJECT][..]),
            ("listen --subscription backups", &[]),
            ("listen", &[named]),
            ("listen --subscription projects/shop/topics/backups", &[PROJECT]),
            ("serve --listen 127.0.0.1:0 --subscription a/b", &[PROJECT]),
        ] {
            assert_eq!(subscription(line, env).unwrap_err().kind(), Kind::Usage, "{line}");
        }
    }

    fn publication(line: &str, env: &[(&str, &str)]) -> Result<Publication> {
        config(line, env).map(|config| match config.task {
            ConfiguredCommand::Publish(publication) => *publication,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn what_is_published_and_where() {
        let all =
            "publish critical --topic backups --message full --service web --label a=b --label action=restore --id 7";
        let told = publication(all, &[PROJECT]).unwrap();
        assert_eq!((told.topic.name(), told.kind), ("projects/shop/topics/backups", "dev.lastgood.critical"));
        assert_eq!((&*told.source, told.id.as_deref(), told.within.as_secs()), ("//host/web", Some("7"), 10));
        let fields = json!({ "severity": "CRITICAL", "message": "full", "service": "web",
                             "labels": { "a": "b", "action": "restore" } });
        assert_eq!(json!(told.fields), fields);
        let env = [(TOPIC, "projects/p/topics/all")];
        for (line, kind, fields) in [
            ("backup", "dev.lastgood.backup.requested", json!({})),
            ("backup --message nightly", "dev.lastgood.backup.requested", json!({ "message": "nightly" })),
            ("verify", "dev.lastgood.verify.requested", json!({})),
            ("restore", "dev.lastgood.restore.requested", json!({})),
            ("restore --snapshot abcd", "dev.lastgood.restore.requested", json!({ "snapshot": "abcd" })),
        ] {
            let told = publication(&format!("publish {line}"), &env).unwrap();
            assert_eq!((told.topic.name(), told.kind), ("projects/p/topics/all", kind), "{line}");
            assert_eq!((json!(told.fields), &*told.source), (fields, "//host/lastgood"), "{line}");
        }
        for (line, env) in [
            ("publish verify", &[PROJECT][..]),
            ("publish verify --topic backups", &[]),
            ("publish verify --topic projects/p/subscriptions/backups", &[]),
            ("publish verify --label a=1 --label a=2", &env),
            ("publish verify --id=", &env),
            (&*format!("publish verify --id {}", "7".repeat(1025)), &env),
            (&*format!("publish verify --service {}", "ä".repeat(200)), &env),
        ] {
            assert_eq!(publication(line, env).unwrap_err().kind(), Kind::Usage, "{line}");
        }
    }
}
