//! Clients of `lastgood serve` that are slow, gone, too many or wrong.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::World;
use crate::support::http::{Client, Service};
use crate::support::tree::noise;

/// Returns the number of snapshots, once there are at least this many.
fn snapshots(world: &World, at_least: usize) -> usize {
    let began = Instant::now();
    loop {
        // Before there is a vault, it is an error.
        let list = serde_json::from_slice::<serde_json::Value>(&world.run(["list", "--json"]).stdout).unwrap();
        let count = list.as_array().map_or(0, Vec::len);
        if count >= at_least {
            return count;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{count} snapshots");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_client_that_hangs_up_stops_nothing() {
    let world = World::new();
    world.write("a.bin", noise(1, 8 << 20));
    let service = Service::start(&world, []);
    let mut client = service.connect();
    client.request("POST", "/events/backup", "", b"").unwrap();
    client.hang_up();
    assert_eq!(snapshots(&world, 1), 1);
    let mut client = service.connect();
    client.request("POST", "/backup/trigger", "", b"").unwrap();
    thread::sleep(Duration::from_millis(20));
    drop(client);
    assert_eq!(snapshots(&world, 2), 2);
    assert_eq!(service.get("/live").status, 200);
}

#[test]
fn limits_of_requests() {
    let world = World::with_files();
    let service = Service::start(&world, []);
    let (host, mut client) = (service.address, service.connect());
    let large = client.ask("GET", "/live", &format!("X-Large: {}\r\n", "x".repeat(40 << 10)), b"").unwrap();
    assert_eq!(large.status, 431);
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(service.connect().ask("GET", "/live", &many, b"").unwrap().status, 431);

    // A body of a byte too many, with its length said and in chunks; and one that is just not too large.
    let json = "Content-Type: application/json\r\n";
    let body = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8)).into_bytes();
    assert_eq!(service.connect().ask("POST", "/", json, &body(1 << 20)).unwrap().status, 200);
    let refused = service.connect().ask("POST", "/", json, &body((1 << 20) + 1)).unwrap();
    assert_eq!((refused.status, refused.header("connection")), (413, Some("close")));
    let mut client = service.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n{json}\r\n")).unwrap();
    for _ in 0..40 {
        client.send(format!("{:x}\r\n{}\r\n", 32 << 10, "x".repeat(32 << 10))).unwrap();
    }
    client.send("0\r\n\r\n").unwrap();
    assert_eq!(client.answer(false).unwrap().status, 413);
    // The beginning of a long critical event is taken.
    let cut = service.connect().ask("POST", "/events/critical?wait=true", json, &body((1 << 20) + 1)).unwrap();
    assert_eq!(cut.header("connection"), Some("close"));
    let event = &cut.is(200)["events"][0];
    assert!(event["labels"]["unread"].as_str().unwrap().contains("first 1048576 bytes"), "{event}");
    assert!(event["message"].as_str().unwrap().starts_with("{\"a\":\"xx"));
    service.log_with("not all of it could be read");
    // So it is where only what comes first says that it is one, and whatever is said of waiting.
    let mut severe = br#"{"severity":"CRITICAL","message":""#.to_vec();
    severe.resize((1 << 20) + 1, b'x');
    for path in ["/", "/events/critical?wait=yes%20please", "/events/critical?wait=1"] {
        let cut = service.connect().ask("POST", path, json, &severe).unwrap();
        assert!([200, 202].contains(&cut.status), "{path}: {}", cut.text());
    }
    // A client that announces a large body, and waits for `100 Continue`, gets its answer at once.
    let mut client = service.connect();
    client
        .send(format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"))
        .unwrap();
    let began = Instant::now();
    let mut answer = client.answer(true).unwrap();
    if answer.status == 100 {
        answer = client.answer(false).unwrap();
    }
    assert!(answer.status == 413 && began.elapsed() < Duration::from_secs(20), "{answer:?}");

    for garbage in [
        "GET\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0",
        "GET / HTTP/9.9\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut client = service.connect();
        client.send(garbage).unwrap();
        assert!(client.is_closed_within(Duration::from_secs(20)), "{garbage:?}");
    }
    assert_eq!(service.get("/live").status, 200);
}

#[test]
fn slow_clients_are_let_go() {
    let world = World::with_files();
    let service = Service::start(&world, []);
    let began = Instant::now();
    let mut drips = service.connect();
    drips.send("GET /live HTTP/1.1\r\nX: ").unwrap();
    let mut writer = drips.stream.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        // A byte every quarter of a second, as long as it is taken.
        while writer.write_all(b"x").is_ok() && began.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(250));
        }
    });
    let mut body = service.connect();
    body.send(begun(&service, "Content-Length: 100\r\n") + "half").unwrap();
    assert!(drips.is_closed_within(Duration::from_secs(60)));
    let waited = began.elapsed();
    println!("a slow head was let go after {waited:?}");
    assert!((8..25).contains(&waited.as_secs()), "{waited:?}");
    dripping.join().unwrap();
    let late = body.answer(false).unwrap();
    println!("a slow body was answered after {:?}", began.elapsed());
    assert!(late.status == 408 && began.elapsed() < Duration::from_secs(50), "{late:?} after {:?}", began.elapsed());
}

/// Returns the head of a request whose body is to come.
fn begun(service: &Service, headers: &str) -> String {
    format!("POST /events/backup HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", service.address)
}

#[test]
fn who_asks_for_nothing_keeps_nobody_out() {
    let world = World::with_files();
    let service = Service::start(&world, ["--connections", "3"]);
    // Idle from the first, in the middle of a head, and idle after an answer; more of them than there is room for.
    let mut idle: Vec<_> = (0..200).map(|_| service.connect()).collect();
    for client in idle.iter_mut().skip(100) {
        client.send("POST / HT").unwrap();
    }
    assert_eq!(service.get("/live").status, 200);
    service.post("/backup/trigger", "").is(200);
    assert!(idle[0].is_closed_within(Duration::from_secs(20)) && idle[100].is_closed_within(Duration::from_secs(20)));
    let mut kept = service.connect();
    assert_eq!(kept.ask("GET", "/live", "", b"").unwrap().status, 200);

    // Three that are served: none of them gives way.
    let body = r#"{"a":1}"#;
    let mut served: Vec<_> = (0..3)
        .map(|_| {
            let mut client = service.connect();
            let length = body.len();
            let headers =
                format!("Content-Type: application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n");
            client.send(begun(&service, &headers)).unwrap();
            assert_eq!(client.answer(true).unwrap().status, 100);
            client
        })
        .collect();
    assert!(kept.is_closed_within(Duration::from_secs(20)));
    let live = |service: &Service| {
        let live = service.get("/live");
        assert_eq!((live.status, live.header("connection")), (200, Some("close")));
    };
    live(&service);
    // Many more stand in line, and each makes room for the next one when it is answered.
    let mut line: Vec<_> = (0..300)
        .map(|_| {
            let mut client = service.connect();
            client.request("GET", "/openapi.json", "", b"").unwrap();
            client
        })
        .collect();
    live(&service);
    served[0].send(body).unwrap();
    assert_eq!(served[0].answer(false).unwrap().status, 200);
    let began = Instant::now();
    for client in &mut line {
        client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 200);
    }
    println!("300 in line were answered after {:?}", began.elapsed());
    assert_eq!(service.get("/live").status, 200);
    for client in &mut served[1..] {
        client.send(body).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 200);
    }
}

#[test]
fn live_is_answered_whoever_holds_the_door() {
    let world = World::with_files();
    let service = Service::start(&world, ["--connections", "2"]);
    // The places: one whose body does not come, one that does not take what it asks for.
    let mut half = service.connect();
    half.send(begun(&service, "Content-Length: 100\r\nExpect: 100-continue\r\n")).unwrap();
    assert_eq!(half.answer(true).unwrap().status, 100);
    let mut deaf = service.connect();
    deaf.stream.set_nonblocking(true).unwrap();
    let ask = format!("GET /openapi.json HTTP/1.1\r\nHost: {}\r\n\r\n", service.address).repeat(1000);
    let began = Instant::now();
    // Until nothing more is taken: the service waits for it to take its answers.
    while deaf.stream.write_all(ask.as_bytes()).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    // The door: refused, with bodies that do not come, more of them than there is room for, and again and again.
    let refused = format!(
        "POST /live HTTP/1.1\r\nHost: {}\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 100\r\n\r\nx",
        service.address
    );
    let stop = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (service, refused, stop) = (&service, &refused, &stop);
        for _ in 0..180 {
            scope.spawn(move || {
                while stop.load(Ordering::Relaxed) == 0 {
                    let mut client = service.connect();
                    // It is closed under its hands, mostly.
                    let _ = client.send(refused);
                    client.is_closed_within(Duration::from_secs(20));
                }
            });
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let asked = Instant::now();
            assert_eq!(service.get("/live").status, 200);
            slowest = slowest.max(asked.elapsed());
        }
        println!("the slowest of 20 answers took {slowest:?}");
        // Each that is refused would hold its place at the door for five seconds: 180 of them for a minute.
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
        // One that takes nothing is closed for others, and they are served.
        assert_eq!(service.get("/openapi.json").status, 200);
        stop.store(1, Ordering::Relaxed);
    });
    deaf.stream.set_nonblocking(false).unwrap();
    assert!(deaf.is_closed_within(Duration::from_secs(20)));
}

#[test]
fn critical_events_are_taken_among_clients_that_take_no_answers() {
    let world = World::with_files();
    let service = Service::start(&world, ["--connections", "20"]);
    service.post("/backup/trigger", "").is(200);
    let ask = format!("GET /openapi.json HTTP/1.1\r\nHost: {}\r\n\r\n", service.address).repeat(200);
    let mut deaf: Vec<_> = (0..60).map(|_| service.connect()).collect();
    for client in &mut deaf {
        client.stream.set_nonblocking(true).unwrap();
        // Until nothing more is taken.
        while client.stream.write_all(ask.as_bytes()).is_ok() {}
    }
    thread::scope(|scope| {
        for n in 0..30 {
            let service = &service;
            scope.spawn(move || {
                let mut client = service.connect();
                client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
                let event = format!("[ERROR] disk {n} is full");
                let answer = client.ask("POST", "/events/critical", "", event.as_bytes()).unwrap();
                assert_eq!(answer.status, 202, "{}", answer.text());
            });
        }
    });
}

/// Does something on a kept connection as HTTP's clients do: once more on a new one where it was closed before anything was
/// answered, since others waited for its place (RFC 9112, section 9.5).
fn kept<T>(service: &Service, client: &mut Client, mut does: impl FnMut(&mut Client) -> io::Result<T>) -> T {
    does(client)
        .or_else(|_| {
            *client = service.connect();
            does(client)
        })
        .unwrap()
}

#[test]
fn a_thousand_requests_with_bad_clients_among_them_cost_no_memory() {
    let world = World::with_files();
    let service = Service::start(&world, ["--allow-download"]);
    service.post("/backup/trigger", "").is(200);
    let (good, address, large) = (AtomicUsize::new(0), service.address, vec![b'x'; 200_000]);
    let storm = || {
        thread::scope(|scope| {
            for n in 0..50 {
                let (service, good, large) = (&service, &good, &large);
                scope.spawn(move || {
                    let mut client = service.connect();
                    for m in 0..20 {
                        let (answer, status) = match (n + m) % 10 {
                            // Gone in the middle of a head, of a body, of an answer.
                            0 => {
                                kept(service, &mut client, |client| client.send("POST /events HTTP/1.1\r\nHo"));
                                std::mem::replace(&mut client, service.connect()).hang_up();
                                continue;
                            }
                            1 => {
                                let head =
                                    format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 500000\r\n\r\n{{");
                                kept(service, &mut client, |client| client.send(&head));
                                std::mem::replace(&mut client, service.connect()).hang_up();
                                continue;
                            }
                            2 => {
                                let path = "/backup/latest/archive.tar.zst";
                                kept(service, &mut client, |client| client.request("GET", path, "", b""));
                                std::mem::replace(&mut client, service.connect()).hang_up();
                                continue;
                            }
                            // Slow.
                            3 => {
                                let parts = ["GET /live HT", "TP/1.1\r\nHo", "st: x\r\n\r", "\n"];
                                let answer = kept(service, &mut client, |client| {
                                    for part in parts {
                                        client.send(part)?;
                                        thread::sleep(Duration::from_millis(5));
                                    }
                                    client.answer(false)
                                });
                                (answer, 200)
                            }
                            4 => (kept(service, &mut client, |client| client.ask("POST", "/", "", large)), 400),
                            5 => (kept(service, &mut client, |client| client.ask("GET", "/backup/list", "", b"")), 200),
                            6 => {
                                let ignored = br#"{"severity":"INFO","message":"nothing"}"#;
                                let json = "Content-Type: application/json\r\n";
                                (kept(service, &mut client, |client| client.ask("POST", "/", json, ignored)), 200)
                            }
                            _ => {
                                let path = ["/health", "/metrics", "/openapi.json"][m % 3];
                                (kept(service, &mut client, |client| client.ask("GET", path, "", b"")), 200)
                            }
                        };
                        assert!(answer.status == status && answer.whole, "{}", answer.status);
                        good.fetch_add(1, Ordering::Relaxed);
                        // Where others wait for a place nothing else is answered on this one.
                        if answer.header("connection") == Some("close") {
                            client = service.connect();
                        }
                    }
                });
            }
        });
    };
    storm();
    let (before, threads) = (service.memory(), service.threads());
    assert_eq!(good.load(Ordering::Relaxed), 700);
    for _ in 0..3 {
        storm();
    }
    let after = service.memory();
    println!(
        "{} good answers; {} MiB before, {} MiB after; {threads} threads, then {}",
        good.load(Ordering::Relaxed),
        before >> 20,
        after >> 20,
        service.threads()
    );
    assert!(after < before + (16 << 20), "{before} bytes before, {after} after");
    assert!(service.threads() < 40);
    assert_eq!(service.get("/live").status, 200);
    service.post("/backup/trigger", "").is(200);
}
