//! `lastgood publish`, and what it stands on, against Google's Pub/Sub emulator.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lastgood::gcp::cloud::Cloud;
use lastgood::gcp::pubsub::{Publisher, Topic};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::pubsub::PubSub;
use crate::support::{Ran, World};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn what_is_published_arrives_and_a_topic_that_is_not_there_is_told() {
    let Some(pubsub) = PubSub::shared() else { return };
    let topic = pubsub.topic("events");
    let subscription = pubsub.subscription("look", &topic, json!({}));
    let cloud = Cloud { pubsub_emulator: Some(format!("http://{}", pubsub.host())), ..Cloud::default() };
    let publisher = Publisher::new(&cloud, Topic::new("events", Some("demo")).unwrap()).unwrap();
    let (within, attributes) = (Duration::from_secs(20), [("ce-type".to_owned(), "dev.lastgood.critical".to_owned())]);
    let id = publisher.publish(b"{}".to_vec(), attributes, within, || false).unwrap();
    assert!(!id.is_empty());
    let taken = pubsub.take(&subscription, within);
    assert_eq!(taken, [(b"{}".to_vec(), json!({ "ce-type": "dev.lastgood.critical" }))]);

    let nowhere = Publisher::new(&cloud, Topic::new("nowhere", Some("demo")).unwrap()).unwrap();
    let why = nowhere.publish(Vec::new(), [], within, || false).unwrap_err();
    assert!(why.what().starts_with("could not publish to projects/demo/topics/nowhere: "), "{why}");
    assert!(why.advice().unwrap().contains("roles/pubsub.publisher"));
}

#[test]
fn a_script_publishes_an_event() {
    let Some(pubsub) = PubSub::shared() else { return };
    let topic = pubsub.topic("scripts");
    let subscription = pubsub.subscription("scripts", &topic, json!({}));
    let world = World::new().with("PUBSUB_EMULATOR_HOST", pubsub.host()).with("GOOGLE_CLOUD_PROJECT", "demo");
    let line =
        ["publish", "critical", "--topic", "scripts", "--message", "-x failed", "--service", "shop", "--label", "a=b"];
    let told = world.json(line, 0);
    assert_eq!((&told["topic"], &told["event"]["type"]), (&json!(topic), &json!("dev.lastgood.critical")));
    let taken = pubsub.take(&subscription, SOON);
    let (data, attributes) = &taken[0];
    let said = json!({ "severity": "CRITICAL", "message": "-x failed", "service": "shop", "labels": { "a": "b" } });
    assert_eq!(serde_json::from_slice::<Value>(data).unwrap(), said);
    for (attribute, value) in [("ce-id", "id"), ("ce-source", "source"), ("ce-time", "time")] {
        assert_eq!(attributes[attribute], told["event"][value], "{attributes}");
    }
    assert_eq!(
        (&attributes["ce-specversion"], &attributes["content-type"]),
        (&json!("1.0"), &json!("application/json"))
    );

    // Ids are random unless they are given; the message's is all that is printed.
    let world = world.with("LASTGOOD_TOPIC", &topic);
    for line in [&["publish", "verify"][..], &["publish", "verify"], &["publish", "backup", "--id", "7"]] {
        let ran = world.run(line);
        assert!(ran.ended(0).text().trim().parse::<u64>().is_ok(), "{ran:?}");
    }
    let mut ids = Vec::new();
    while ids.len() < 3 {
        ids.extend(
            pubsub.take(&subscription, SOON).into_iter().map(|(_, told)| told["ce-id"].as_str().unwrap().to_owned()),
        );
    }
    ids.sort();
    ids.dedup();
    assert!(ids.len() == 3 && ids.contains(&"7".into()), "{ids:?}");

    world.run(["publish", "verify", "--topic", "nowhere"]).ended(1).says("roles/pubsub.publisher");
    // The end of a log, cut in the middle of a letter.
    let mut command = world.command(["publish", "critical", "--message"]);
    Ran::of({
        command.arg(OsStr::from_bytes(b"disk full \xc3"));
        command
    })
    .ended(0);
    let (data, _) = &pubsub.take(&subscription, SOON)[0];
    assert_eq!(serde_json::from_slice::<Value>(data).unwrap()["message"], "disk full \u{fffd}");
}

#[test]
fn who_does_not_answer_is_not_waited_for_longer_than_was_said() {
    let world = World::new().with("LASTGOOD_TOPIC", "projects/demo/topics/events");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let publish = |timeout| {
        let mut command = world.command(["publish", "verify", "--timeout", timeout]);
        command.env("PUBSUB_EMULATOR_HOST", silent.local_addr().unwrap().to_string());
        command
    };
    // The time to start a program comes on top.
    let began = Instant::now();
    Ran::of(publish("1s")).ended(1).says("no answer came within 1 s").says("PUBSUB_EMULATOR_HOST");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    silent.set_nonblocking(true).unwrap();
    while silent.accept().is_ok() {}

    // Nor when it is told to stop.
    let publishing = publish("5m").stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let _connected = loop {
        match silent.accept() {
            Ok(connected) => break connected,
            Err(why) => assert!(began.elapsed() < SOON, "it does not connect: {why}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    kill_process(Pid::from_child(&publishing), Signal::TERM).unwrap();
    let told = Instant::now();
    let ended = publishing.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("it was told to stop"), "{:?} {said}", ended.status);
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}
