//! The service as programs of others see it: a tester of interfaces, and a sender of events.

use serde_json::{Value, json};

use crate::support::http::Service;
use crate::support::{Ran, World, python};

/// <https://schemathesis.readthedocs.io>
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// <https://github.com/cloudevents/sdk-python>
const CLOUDEVENTS: &str = "cloudevents==2.2.0";

#[test]
fn it_does_what_its_openapi_document_says() {
    let Some(_) = python::with(&[SCHEMATHESIS]) else { return };
    let world = World::new();
    world.write("a.txt", "first\n");
    // Nothing waits for a window: its requests are to be answered soon.
    let rules = ["--allow-restore", "--allow-download", "--coalesce", "1ms", "--critical-max", "1000000"];
    let service = Service::start(&world, rules);
    service.post("/backup/trigger", "").is(200);
    let find = |more: &[&str]| {
        let mut python = python::with(&[SCHEMATHESIS]).unwrap();
        python.args(["-m", "schemathesis.cli", "run", &format!("http://{}/openapi.json", service.address)]);
        python.args(["--checks", "all", "--max-examples", "10", "--seed", "1", "--request-timeout", "60"]);
        python.args(["--no-color", "--warnings", "off", "--suppress-health-check", "all"]).args(more);
        let ran = Ran::of({
            python.current_dir(world.path(""));
            python
        });
        assert!(ran.code == Some(0) && ran.text().contains("No issues found"), "{}", ran.text());
    };
    // A route that does not exist yet answers 501, which is documented, and which the client takes for a fault.
    find(&["--exclude-path", "/backup/cleanup"]);
    find(&["--include-path", "/backup/cleanup", "--exclude-checks", "not_a_server_error,positive_data_acceptance"]);
}

/// Sends a critical event in both modes, and prints what is answered.
const SEND: &str = r#"
import json, sys, urllib.request
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
for mode in to_binary_event, to_structured_event:
    attributes = {"type": "dev.lastgood.critical", "source": "//shop/päckchen", "id": f"id {mode.__name__} 100%", "team": "größe"}
    event = CloudEvent(attributes, {"severity": "CRITICAL", "service": "shop", "message": "disk “full”", "order": 17})
    message = mode(event)
    body = message.body if isinstance(message.body, bytes) else message.body.encode()
    for delivery in 1, 2:
        request = urllib.request.Request(sys.argv[1], data=body, headers=dict(message.headers), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            print(json.dumps(json.load(answer)))
"#;

#[test]
fn events_of_the_python_package_are_understood_in_both_modes() {
    let Some(mut python) = python::with(&[CLOUDEVENTS]) else { return };
    let world = World::with_files();
    world.run(["init"]).ended(0);
    let service = Service::start(&world, ["--coalesce", "1ms"]);
    python.args(["-c", SEND, &format!("http://{}/", service.address)]);
    let ran = Ran::of(python);
    ran.ended(0);
    let told: Vec<Value> = ran.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 4);
    for (at, mode) in [(0, "to_binary_event"), (2, "to_structured_event")] {
        let report = &told[at];
        assert_eq!(report, &told[at + 1], "the second delivery is answered with what the first one did");
        let event = &report["events"][0];
        assert_eq!(event["identity"], format!("cloudevent //shop/p%C3%A4ckchen id%20{mode}%20100%25"));
        assert_eq!((&event["message"], &event["service"]), (&json!("disk “full”"), &json!("shop")));
        let labels = &world.json(["list"], 0)[1 - at / 2]["labels"];
        assert_eq!(
            (&labels["team"], &labels["order"], &labels["message"]),
            (&json!("größe"), &json!("17"), &json!("disk “full”"))
        );
    }
    assert_eq!(world.json(["list"], 0).as_array().unwrap().len(), 2);
}
