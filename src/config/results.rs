//! The configuration of notifications, which tell how a run ended.

use lastgood::error::{Code, Error, Result};
use lastgood::gcp::cloud::Cloud;
use lastgood::gcp::pubsub::Topic;
use lastgood::notify::{self, Notifier, Ping, ResultTopic, Webhook, WebhookFilter};
use lastgood::report::RunEnvironment;

use super::env::Env;
use crate::cli;

/// Settles whom to tell how a run ended; `pings` says whether the command takes backups, of which alone a dead man's switch is told:
/// a restore, and the app that waits for it, is not to fail by a variable that does not concern it.
///
/// # Errors
/// Usage: a topic or a URL is not valid, or `--webhook-on` is given without a URL. No message shows the URL.
pub fn notify(
    args: cli::ResultFlags,
    pings: bool,
    place: &RunEnvironment,
    cloud: &Cloud,
    env: &Env,
) -> Result<Notifier> {
    let topic = match args.results_topic {
        Some(topic) => Some(topic),
        None => env.text("LASTGOOD_RESULTS_TOPIC")?,
    };
    let topic = topic.map(|name| {
        let wrong = |why| Error::usage(format!("publish results to {name}"), why).with_code(Code::BadSetting);
        Topic::new(name.trim(), cloud.project.as_deref()).map_err(wrong)
    });
    let topic = topic.transpose()?.map(|topic| ResultTopic::new(topic, cloud.clone()));
    let on = match args.webhook_on {
        Some(on) => on,
        None => env.choice("LASTGOOD_WEBHOOK_ON")?.unwrap_or(cli::WebhookOn::All),
    };
    let when = match on {
        cli::WebhookOn::All => WebhookFilter::All,
        cli::WebhookOn::Failure => WebhookFilter::NotComplete,
    };
    let url = match args.webhook {
        Some(url) => Some(url),
        None => env.text("LASTGOOD_WEBHOOK")?,
    };
    let wrong = |why| {
        Error::usage("use the URL of --webhook or LASTGOOD_WEBHOOK", why)
            .with_code(Code::BadSetting)
            .hint("Give the whole URL, as the service that takes the results shows it: https://…")
    };
    let webhook = url.map(|url| Webhook::new(&url, when).map_err(wrong)).transpose()?;
    if webhook.is_none() && args.webhook_on.is_some() {
        return Err(Error::usage("use --webhook-on", "there is no webhook").hint("Set LASTGOOD_WEBHOOK to its URL."));
    }
    let ping = match args.ping {
        Some(url) => Some(url),
        None if pings => env.text("LASTGOOD_PING")?,
        None => None,
    };
    let wrong = |why| {
        Error::usage("use the URL of --ping or LASTGOOD_PING", why)
            .with_code(Code::BadSetting)
            .hint("Give the whole URL, as the service that watches the backups shows it: https://…")
    };
    let ping = ping.map(|url| Ping::new(&url).map_err(wrong)).transpose()?;
    let job = env.text("CLOUD_RUN_JOB")?;
    Ok(Notifier::new(notify::source(place, job.as_deref()), topic, webhook, ping))
}

#[cfg(test)]
mod tests {
    use lastgood::error::Kind;

    use super::super::tests::config;

    #[test]
    fn who_is_told() {
        let hook = "https://hooks.example.com/services/T0/B0/secret";
        let told = |line: &str, env: &[(&str, &str)]| format!("{:?}", config(line, env).unwrap().notify);
        assert_eq!(told("backup", &[]), "Nobody");
        assert_eq!(told("list", &[("LASTGOOD_WEBHOOK", hook)]), "Nobody");
        for line in ["backup", "restore", "verify"] {
            let flags = told(&format!("{line} --webhook {hook} --results-topic projects/p/topics/ended"), &[]);
            let env = &[("LASTGOOD_WEBHOOK", hook), ("LASTGOOD_RESULTS_TOPIC", "ended"), ("GCP_PROJECT_ID", "p")];
            for told in [flags, told(line, env)] {
                assert!(
                    told.contains("projects/p/topics/ended") && told.contains("//lastgood.dev/hosts/host"),
                    "{told}"
                );
                assert!(told.contains("https://hooks.example.com") && told.contains("when: All"), "{told}");
                assert!(!told.contains("secret") && !told.contains("services/T0"), "{told}");
            }
        }
        let ping = "https://hc-ping.com/secret";
        assert_eq!(told("restore", &[("LASTGOOD_PING", "not a URL")]), "Nobody");
        for told in [told(&format!("backup --ping {ping}"), &[]), told("backup", &[("LASTGOOD_PING", ping)])] {
            assert!(told.contains("https://hc-ping.com") && !told.contains("secret"), "{told}");
        }
        let failures = told("backup", &[("LASTGOOD_WEBHOOK", hook), ("LASTGOOD_WEBHOOK_ON", "failure")]);
        assert!(failures.contains("NotComplete"), "{failures}");
        let all = told("backup --webhook-on all", &[("LASTGOOD_WEBHOOK", hook), ("LASTGOOD_WEBHOOK_ON", "failure")]);
        assert!(all.contains("when: All"), "{all}");
        let job = told("backup", &[("LASTGOOD_WEBHOOK", hook), ("CLOUD_RUN_JOB", "nightly")]);
        assert!(job.contains("//lastgood.dev/jobs/nightly"), "{job}");
    }

    #[test]
    fn what_cannot_be_told() {
        for (line, env) in [
            ("backup --webhook http://example.com/secret", &[][..]),
            ("backup --webhook ftp://example.com/secret", &[]),
            ("restore", &[("LASTGOOD_WEBHOOK", "example.com/secret")]),
            ("verify --webhook https://", &[]),
            ("backup", &[("LASTGOOD_WEBHOOK", "https://example.com/secret"), ("LASTGOOD_WEBHOOK_ON", "never")]),
            ("backup --results-topic ended", &[]),
            ("backup --results-topic projects/p/subscriptions/ended", &[]),
            ("serve --listen 127.0.0.1:0 --webhook http://example.com/secret", &[]),
            ("backup --webhook-on failure", &[]),
            ("backup --ping http://example.com/secret", &[]),
            ("serve --listen 127.0.0.1:0", &[("LASTGOOD_PING", "secret")]),
            ("backup", &[("LASTGOOD_PING", "secret")]),
        ] {
            let why = config(line, env).unwrap_err();
            assert!(why.kind() == Kind::Usage && !why.to_string().contains("secret"), "{line}: {why}");
        }
        for fine in ["http://127.0.0.1:8080/x", "http://localhost/x", "http://[::1]:9/x"] {
            config(&format!("backup --webhook {fine}"), &[]).unwrap();
        }
    }
}
