//! `lastgood serve` over HTTP: what is asked for is done, and answered as it says.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::cloud::{self, vault_in};
use crate::support::compare::assert_same;
use crate::support::http::{Answer, Service};
use crate::support::tree::noise;
use crate::support::{Ran, World};

/// Snapshots in the vault, newest first.
pub fn snapshots(world: &World) -> Vec<Value> {
    world.json(["list"], 0).as_array().unwrap().clone()
}

/// Returns a CloudEvent in binary mode.
fn event(service: &Service, kind: &str, id: &str, body: &str) -> Answer {
    let headers = format!(
        "ce-specversion: 1.0\r\nce-id: {id}\r\nce-source: //test/app\r\nce-type: {kind}\r\nContent-Type: application/json\r\n"
    );
    service.connect().ask("POST", "/", &headers, body.as_bytes()).unwrap()
}

#[test]
fn events_of_every_kind_make_snapshots_and_a_redelivery_makes_none() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    let service = Service::start(&world, []);
    let report = event(&service, "dev.lastgood.backup.requested", "1", "{}").is(200);
    assert_eq!(
        (&report["action"], &report["result"], &report["way"]),
        (&json!("backup"), &json!("complete"), &json!("http"))
    );
    assert_eq!(report["events"][0]["kind"], "dev.lastgood.backup.requested");
    // The same event again, whatever its body, is answered with the same report.
    for _ in 0..2 {
        assert_eq!(event(&service, "dev.lastgood.backup.requested", "1", "{}").is(200), report);
    }
    assert_eq!(snapshots(&world).len(), 1);

    let body = r#"{"severity":"CRITICAL","service":"shop","message":"two\nlines","order":"17"}"#;
    let report = event(&service, "dev.lastgood.critical", "2", body).is(200);
    let snapshot = &snapshots(&world)[0];
    assert_eq!((&snapshot["id"], &snapshot["reason"]), (&report["snapshot"], &json!("critical")));
    assert_eq!((&snapshot["labels"]["service"], &snapshot["labels"]["order"]), (&json!("shop"), &json!("17")));
    assert!(!snapshot["labels"]["message"].as_str().unwrap().contains('\n'));

    let structured = r#"{"specversion":"1.0","id":"3","source":"s","type":"dev.lastgood.backup.requested"}"#;
    let headers = "Content-Type: application/cloudevents+json\r\n";
    service.connect().ask("POST", "/events", headers, structured.as_bytes()).unwrap().is(200);
    let push = r#"{"message":{"data":"eyJhY3Rpb24iOiJiYWNrdXAifQ==","messageId":"4"},"subscription":"projects/p/subscriptions/s"}"#;
    let first = service.post("/", push).is(200);
    assert_eq!(service.post("/", push).is(200), first);
    let headers = "User-Agent: Google-Cloud-Scheduler\r\nX-CloudScheduler: true\r\n";
    let report = service.connect().ask("POST", "/", headers, b"whatever").unwrap().is(200);
    let scheduled = snapshots(&world);
    assert_eq!((&scheduled[0]["id"], &scheduled[0]["reason"]), (&report["snapshot"], &json!("schedule")));
    service.post("/events/backup", "").is(200);
    assert_eq!(snapshots(&world).len(), 6);
    let verified = service.post("/events/verify", "").is(200);
    assert_eq!((&verified["action"], &verified["result"]), (&json!("verify"), &json!("complete")));

    // An event that asks for nothing, events that are never served, and bodies that are no event.
    let ignored = event(&service, "google.cloud.storage.object.v1.finalized", "5", r#"{"name":"x"}"#).is(200);
    assert_eq!(ignored["status"], "ignored");
    for refused in [service.post("/", r#"{"action":"destroy"}"#), service.post("/events/restore", "")] {
        let refused = refused.is(200);
        assert!(refused["status"] == "refused" && refused["why"].is_string(), "{refused}");
    }
    let log = service.log_with("an event is refused");
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("an event is refused")), "{log}");
    for wrong in ["[1]", "{", r#"{"message":{"data":"%%%"},"subscription":"s"}"#] {
        assert!(service.post("/", wrong).is(400)["error"].is_string(), "{wrong}");
    }
    // A batch is neither done nor taken for done.
    let batch = "Content-Type: application/cloudevents-batch+json\r\n";
    assert_eq!(service.connect().ask("POST", "/events/critical", batch, b"[]").unwrap().status, 400);
    // Messages that Google publishes without an envelope are understood, and lastgood's own log starts nothing.
    let incident = r#"{"version":"1.2","incident":{"state":"open","summary":"shop fails"}}"#;
    let refused = service.post("/", incident).is(200);
    assert!(refused["why"].as_str().unwrap().contains("/events/critical"), "{refused}");
    let own = r#"{"logName":"projects/p/logs/x","insertId":"1","severity":"ERROR","textPayload":"x","labels":{"dev.lastgood/writer":"lastgood"}}"#;
    assert_eq!(service.post("/", own).is(200)["status"], "ignored");
    assert_eq!(snapshots(&world).len(), 6);
    // Neither bodies nor queries are logged.
    assert!(!service.log().contains("order") && !service.log().contains("destroy\""), "{}", service.log());
}

#[test]
fn the_rest_interface() {
    let world = World::with_files();
    let service = Service::start(&world, ["--allow-restore"]);
    assert_eq!(service.get("/live").is(200), json!({ "status": "live" }));
    let body = r#"{"reason":"critical","message":"before the update","labels":{"version":"1.2"}}"#;
    let report = service.post("/backup/trigger", body).is(200);
    let list = service.get("/backup/list").is(200);
    assert_eq!(list, world.json(["list"], 0));
    assert_eq!((&list[0]["id"], &list[0]["reason"]), (&report["snapshot"], &json!("critical")));
    assert_eq!(list[0]["labels"], json!({ "message": "before the update", "version": "1.2" }));
    world.write("a.txt", "changed");
    service.post("/backup/trigger", "").is(200);
    assert_eq!(service.get("/backup/list?limit=1").is(200).as_array().unwrap().len(), 1);
    assert_eq!(service.get("/backup/list?limit=0").status, 400);

    let files = service.get("/backup/latest/files").is(200);
    assert_eq!(files, world.json(["ls", "latest"], 0));
    let inside = service.get("/backup/latest/files?path=uploads%2Fx").is(200);
    assert_eq!(inside[0]["path"], "uploads/x/y.bin");
    for missing in
        ["/backup/latest/files?path=none", "/backup/ffff/files", "/backup/latest/files?path=%2Fetc", "/none", "/runs/x"]
    {
        assert!(service.get(missing).is(404)["error"].is_string(), "{missing}");
    }

    let runs = service.get("/runs").is(200);
    assert_eq!(runs.as_array().unwrap().len(), 2);
    let run = service.get(&format!("/runs/{}", report["run"].as_str().unwrap())).is(200);
    assert_eq!((&run["status"], &run["report"]), (&json!("over"), &report));

    let restored = service.post("/backup/restore", &json!({ "snapshot": list[0]["id"] }).to_string()).is(200);
    assert_eq!(restored["result"], "complete");
    assert_eq!(fs::read_to_string(world.data().join("a.txt")).unwrap(), "first\n");
    assert_eq!(service.post("/backup/restore", r#"{"snapshot":"ffff"}"#).status, 404);
    assert_eq!(service.post("/backup/restore", r#"{"snapshot":null}"#).status, 400);
    assert_eq!(service.post("/backup/verify", "").is(200)["result"], "complete");
    assert_eq!(service.post("/backup/cleanup", "").status, 501);

    for wrong in ["{", r#"{"vault":"gs://other"}"#, r#"{"labels":{"a":1}}"#, "[]"] {
        assert!(service.post("/backup/trigger", wrong).is(400)["error"].is_string(), "{wrong}");
    }
    assert_eq!(service.post("/backup/trigger?wait=perhaps", "").status, 400);
    assert_eq!(service.post("/?wait=perhaps", r#"{"severity":"INFO"}"#).status, 400);
    let form = service.connect().ask("POST", "/backup/trigger", "Content-Type: text/plain\r\n", b"{}").unwrap();
    assert_eq!(form.status, 415);

    for (method, path, allowed) in
        [("GET", "/", "POST"), ("PUT", "/runs", "GET, HEAD"), ("DELETE", "/backup/trigger", "POST")]
    {
        let refused = service.connect().ask(method, path, "", b"").unwrap();
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    // A HEAD has the length of what a GET gives, and the connection goes on.
    let mut client = service.connect();
    let get = client.ask("GET", "/runs", "", b"").unwrap();
    let head = client.ask("HEAD", "/runs", "", b"").unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, get.header("content-length")));
    assert_eq!(client.ask("HEAD", "/backup/latest/files", "", b"").unwrap().status, 200);
    assert_eq!(client.ask("GET", "/live", "", b"").unwrap().status, 200);
}

#[test]
fn a_restore_needs_to_be_allowed() {
    let world = World::with_files();
    let service = Service::start(&world, []);
    service.post("/backup/trigger", "").is(200);
    assert!(service.post("/backup/restore", "").is(403)["error"].as_str().unwrap().contains("--allow-restore"));
    world.write("a.txt", "changed");
    let refused = event(&service, "dev.lastgood.restore.requested", "1", "{}").is(200);
    assert_eq!(refused["status"], "refused");
    assert_eq!(fs::read_to_string(world.data().join("a.txt")).unwrap(), "changed");
    drop(service);
    let service = Service::start(&world, ["--allow-restore"]);
    let old = r#"{"specversion":"1.0","id":"2","source":"s","type":"dev.lastgood.restore.requested","time":"2020-01-01T00:00:00Z"}"#;
    assert_eq!(service.post("/events", old).is(200)["status"], "refused");
    assert_eq!(event(&service, "dev.lastgood.restore.requested", "3", "{}").is(200)["result"], "complete");
    assert_eq!(fs::read_to_string(world.data().join("a.txt")).unwrap(), "first\n");
}

#[test]
fn a_web_page_can_ask_for_nothing() {
    let world = World::with_files();
    let token = "0123456789abcdef0123456789abcdef";
    let none =
        Service::start(&world, ["--allow-restore", "--allow-download", "--public-url", "https://backup.example.com"]);
    let world_with = world.with("LASTGOOD_TOKEN", token);
    let with_token = Service::start(&world_with, ["--auth", "token", "--allow-restore", "--allow-download"]);
    for service in [&none, &with_token] {
        let send = |method: &str, path: &str, headers: &str| {
            let headers = format!("Authorization: Bearer {token}\r\n{headers}");
            service.connect().ask(method, path, &headers, b"").unwrap().status
        };
        // The headers that a form, `fetch` with `no-cors` and a browser without Fetch Metadata send for a page of another site.
        for headers in
            ["Sec-Fetch-Site: cross-site\r\n", "Sec-Fetch-Site: same-site\r\n", "Origin: http://evil.example\r\n"]
        {
            for path in [
                "/",
                "/events",
                "/events/backup",
                "/events/critical",
                "/events/restore",
                "/backup/trigger",
                "/backup/restore",
            ] {
                assert_eq!(send("POST", path, headers), 403, "{path} {headers}");
            }
        }
        let rebound = format!(
            "POST /backup/trigger HTTP/1.1\r\nHost: evil.example:{}\r\nContent-Length: 0\r\n\r\n",
            service.address.port()
        );
        let mut client = service.connect();
        client.send(rebound.replace("POST /backup/trigger", "GET /backup/list")).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 421);
        client.send(rebound).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 421);
        assert!(!world_with.vault().exists());
        assert_eq!(send("GET", "/health", "Sec-Fetch-Site: cross-site\r\n"), 503);
    }
    let own = format!("Origin: http://{}\r\n", none.address);
    for headers in ["Origin: https://backup.example.com\r\n", "Sec-Fetch-Site: same-origin\r\n", &own, ""] {
        none.connect().ask("POST", "/backup/trigger", headers, b"").unwrap().is(200);
    }
    world_with.run(["serve", "--public-url", "backup.example.com"]).ended(2).says("--public-url");
}

#[test]
fn a_run_can_be_polled_also_after_a_restart() {
    let world = World::with_files();
    let mut service = Service::start(&world, []);
    let accepted = service.post("/backup/trigger?wait=false", "").is(202);
    let poll = accepted["poll"].as_str().unwrap();
    assert_eq!(poll, format!("/runs/{}", accepted["run"].as_str().unwrap()));
    let began = Instant::now();
    let over = loop {
        let run = service.get(poll).is(200);
        assert_eq!(run["run"], accepted["run"]);
        match run["status"].as_str().unwrap() {
            "over" => break run,
            "waiting" | "running" => assert!(began.elapsed() < Duration::from_secs(60), "{run}"),
            other => panic!("{other}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((&over["report"]["result"], &over["retry"]), (&json!("complete"), &json!(false)));
    assert_eq!(service.end(Signal::TERM).0, Some(0));
    let service = Service::start(&world, []);
    assert_eq!(service.get(poll).is(200), over);
    assert_eq!(service.get("/runs/0123456789abcdef").status, 404);
}

#[test]
fn on_cloud_run_nothing_is_promised_for_after_the_answer() {
    let world = World::with_files().with("K_SERVICE", "backup").with("LASTGOOD_DATA", "data");
    let service = Service::start(&world, []);
    assert!(service.post("/events/backup?wait=false", "").is(400)["error"].as_str().unwrap().contains("--background"));
    service.post("/events/backup", "").is(200);
    let service = Service::start(&world, ["--background"]);
    service.post("/events/backup?wait=false", "").is(202);
    // The log is JSON there, and knows of the request.
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let headers = format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\n");
    service.connect().ask("POST", "/events/verify?secret=1", &headers, b"").unwrap().is(200);
    let log = service.log_with("/events/verify");
    let line = |text: &str| -> Value {
        let line = log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text} in {log}"));
        serde_json::from_str(line).unwrap()
    };
    let answered = line("/events/verify");
    assert_eq!(answered["httpRequest"]["requestUrl"], "/events/verify");
    assert_eq!(answered["logging.googleapis.com/spanId"], "b7ad6b7169203331");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn downloads_are_what_was_stored() {
    let world = World::with_everything();
    let service = Service::start(&world, ["--allow-download"]);
    service.post("/backup/trigger", "").is(200);
    let file = service.get("/backup/latest/file?path=sizes/large%20text");
    assert_eq!((file.status, file.whole), (200, true));
    assert!(file.body == fs::read(world.data().join("sizes/large text")).unwrap());
    assert_eq!(file.header("content-type"), Some("application/octet-stream"));
    assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
    let name = file.header("content-disposition").unwrap();
    assert_eq!(name, "attachment; filename=\"large text\"; filename*=UTF-8''large%20text");
    let odd = service.get("/backup/latest/file?path=names/not%20utf-8%20%ff%fe");
    assert_eq!((odd.status, &*odd.body), (200, &b"not utf-8 \xff\xfe"[..]));
    let empty = service.get("/backup/latest/file?path=sizes/0");
    assert_eq!((empty.status, empty.whole, empty.body.len()), (200, true, 0));
    for missing in ["file?path=none", "file?path=names", "file?path=../x"] {
        assert_eq!(service.get(&format!("/backup/latest/{missing}")).status, 404, "{missing}");
    }
    assert_eq!(service.get("/backup/latest/file").status, 400);

    let archive = service.get("/backup/latest/archive.tar.zst");
    assert_eq!((archive.status, archive.whole), (200, true));
    let id = snapshots(&world)[0]["id"].as_str().unwrap().to_owned();
    assert!(archive.header("content-disposition").unwrap().contains(&format!("\"{id}.tar.zst\"")));
    world.run(["export", "latest", "-o", "exported.tar.zst"]).ended(0);
    let unpacked = |name: &str, bytes: &[u8]| {
        fs::create_dir(world.path(name)).unwrap();
        fs::write(world.path(format!("{name}.tar")), zstd::decode_all(bytes).unwrap()).unwrap();
        let mut tar = std::process::Command::new("tar");
        tar.arg("xpf").arg(world.path(format!("{name}.tar"))).arg("-C").arg(world.path(name)).arg("--xattrs");
        Ran::of(tar).ended(0);
    };
    assert!(archive.body == fs::read(world.path("exported.tar.zst")).unwrap());
    world.run(["export", "latest", "-o", "plain.tar.zst", "--format", "plain"]).ended(0);
    let plain = service.get("/backup/latest/archive.tar.zst?format=plain");
    assert!(plain.status == 200 && plain.body == fs::read(world.path("plain.tar.zst")).unwrap());
    assert_eq!(service.get("/backup/latest/archive.tar.zst?format=zip").status, 400);
    unpacked("a", &archive.body);
    unpacked("b", &fs::read(world.path("exported.tar.zst")).unwrap());
    assert_same(&world.path("b"), &world.path("a"));

    // One that breaks off is seen to: one of the last of several packs has gone.
    world.write("zz.bin", noise(1, 80 << 20));
    service.post("/backup/trigger", "").is(200);
    let packs = fs::read_dir(world.vault().join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let last = packs.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap();
    fs::rename(&last, world.path("pack")).unwrap();
    for path in ["/backup/latest/file?path=zz.bin", "/backup/latest/archive.tar.zst"] {
        let cut = service.get(path);
        // Packs are looked for ahead: it may be missed before the first byte is sent, or after.
        match cut.status {
            200 => {
                assert!(!cut.whole, "{path}: {} bytes", cut.body.len());
                service.log_with("broke off");
            }
            status => assert_eq!(status, 500, "{path}"),
        }
    }
    fs::rename(world.path("pack"), last).unwrap();

    // Two at once. Their clients take nothing, and the kernel takes little for them.
    let begin = |service: &Service| {
        let began = Instant::now();
        loop {
            let mut client = service.connect();
            socket2::SockRef::from(&client.stream).set_recv_buffer_size(4096).unwrap();
            client.request("GET", "/backup/latest/archive.tar.zst", "", b"").unwrap();
            // The place of one that ended just now may not be free yet.
            match client.answer(true).unwrap().status {
                200 => break client,
                status => assert!(status == 503 && began.elapsed() < Duration::from_secs(20), "{status}"),
            }
        }
    };
    let slow = [begin(&service), begin(&service)];
    let full = service.get("/backup/latest/archive.tar.zst");
    assert_eq!((full.status, full.header("retry-after")), (503, Some("10")));
    slow.into_iter().for_each(|client| client.hang_up());
    let began = Instant::now();
    while service.get("/backup/latest/file?path=sizes/1").status != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "the places of those who hung up are not free again");
        std::thread::sleep(Duration::from_millis(50));
    }
    let closed = Service::start(&world, []);
    assert_eq!(closed.get("/backup/latest/file?path=sizes/1").status, 403);
    assert_eq!(closed.get("/backup/latest/archive.tar.zst").status, 403);
    assert_eq!(closed.get("/backup/latest/files").status, 200);
}

#[test]
fn who_has_the_token_may_ask() {
    let world = World::with_files();
    let token = "0123456789abcdef0123456789abcdef";
    fs::write(world.path("token"), format!("{token}\n")).unwrap();
    let service =
        Service::start(&world, ["--auth", "token", "--token-file", "token", "--allow-download", "--allow-restore"]);
    let with = |method: &str, path: &str, header: &str| service.connect().ask(method, path, header, b"").unwrap();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    for wrong in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic YTpi\r\n"] {
        for (method, path) in [
            ("POST", "/"),
            ("POST", "/backup/trigger"),
            ("POST", "/backup/restore"),
            ("GET", "/backup/list"),
            ("GET", "/backup/latest/archive.tar.zst"),
            ("GET", "/metrics"),
            ("GET", "/runs/0123456789abcdef"),
            ("GET", "/nothing"),
            ("PUT", "/"),
        ] {
            let denied = with(method, path, wrong);
            assert_eq!((denied.status, denied.header("www-authenticate")), (401, Some("Bearer")), "{method} {path}");
            assert_eq!(denied.json(), json!({ "error": "Unauthorized" }));
        }
        assert_eq!(with("GET", "/live", wrong).status, 200);
        assert_eq!(with("GET", "/openapi.json", wrong).status, 200);
        let health = with("GET", "/health", wrong).json();
        assert_eq!(health, json!({ "status": health["status"] }));
    }
    assert_eq!(with("POST", "/events/backup", &bearer).status, 200);
    assert_eq!(with("GET", "/backup/latest/file?path=a.txt", &bearer).status, 200);
    assert!(with("GET", "/health", &bearer).json()["vaults"].is_array());
    assert!(!service.log().contains(token) && !service.log().contains("wrong\""));
    world.run(["serve", "--listen", "0.0.0.0:0"]).ended(2).says("--auth");
}

#[test]
fn sigterm_in_the_middle_of_a_run_ends_the_service_in_time() {
    let (server, world) = vault_in(World::new());
    for n in 0..30 {
        world.write(&format!("{n}.bin"), noise(n, 1_000_000));
    }
    server.bandwidth(2 << 20);
    let mut service = Service::start(&world, []);
    let mut client = service.connect();
    client.request("POST", "/events/backup", "", b"").unwrap();
    let mut idle = service.connect();
    idle.ask("GET", "/live", "", b"").unwrap();
    let began = Instant::now();
    while !server.names().iter().any(|name| name.contains("/packs/")) {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", service.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let (code, took) = service.end(Signal::TERM);
    println!("it ended {took:?} after SIGTERM");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(code, Some(0), "{}", service.log());
    // Whoever waits hears that it may be asked for again.
    let answer = client.answer(false).unwrap();
    assert!(answer.status == 503 && answer.json()["result"] == "failed", "{}", answer.text());
    assert_eq!(cloud::snapshots(&world), [""; 0]);
    server.bandwidth(0);
    world.run(["backup"]).ended(0);
}

#[test]
fn where_backups_are_switched_off_what_asks_for_one_is_refused() {
    let world = World::with_files();
    world.backup();
    let world = world.with("BACKUP_ENABLED", "false").with("AUTO_RESTORE_ON_STARTUP", "true");
    let service = Service::start(&world, []);
    service.log_with("AUTO_RESTORE_ON_STARTUP is set, and is not used by this command");
    let refused = event(&service, "dev.lastgood.critical", "1", "{}").is(200);
    assert!(refused["status"] == "refused" && refused["why"].as_str().unwrap().contains("BACKUP_ENABLED"), "{refused}");
    assert!(service.post("/backup/trigger", "").is(409)["error"].as_str().unwrap().contains("BACKUP_ENABLED"));
    assert_eq!(service.post("/backup/verify", "").is(200)["result"], "complete");
    let health = service.get("/health").is(200);
    assert!(health["status"] == "degraded" && health["why"].to_string().contains("switched off"), "{health}");
    assert_eq!(snapshots(&world).len(), 1);
}
