//! The server that other tests take for Google Cloud Storage is as strict as it claims to be, and fails as it is told.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::cloud::emulator::Emulator;
use crate::support::cloud::server::{Answer, BUCKET, Fault, Kind, Point, Server, When};

/// An answer as it came.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.host()).unwrap()
}

/// Reads one answer.
fn answer(stream: &mut TcpStream) -> std::io::Result<Got> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.push(byte[0]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let got = Got { status: head[9..12].parse().unwrap(), head, body: Vec::new() };
    let mut body = vec![0; got.header("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut body)?;
    Ok(Got { body, ..got })
}

fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn try_send(server: &Server, method: &str, target: &str, headers: &str, body: &[u8]) -> std::io::Result<Got> {
    let mut stream = connect(server);
    stream.write_all(&request(method, target, headers, body))?;
    answer(&mut stream)
}

fn send(server: &Server, method: &str, target: &str, headers: &str, body: &[u8]) -> Got {
    try_send(server, method, target, headers, body).unwrap()
}

fn get(server: &Server, target: &str, headers: &str) -> Got {
    send(server, "GET", target, headers, b"")
}

const MULTIPART: &str = "Content-Type: multipart/related; boundary=XYZ\r\n";

fn parts(metadata: &Value, content: &[u8]) -> Vec<u8> {
    let head = format!("--XYZ\r\nContent-Type: application/json\r\n\r\n{metadata}\r\n--XYZ\r\n\r\n");
    [head.as_bytes(), content, b"\r\n--XYZ--\r\n"].concat()
}

fn upload(query: &str) -> String {
    format!("/upload/storage/v1/b/{BUCKET}/o?uploadType=multipart{query}")
}

fn create(server: &Server, name: &str, content: &[u8]) -> std::io::Result<Got> {
    let crc = BASE64_STANDARD.encode(crc32c::crc32c(content).to_be_bytes());
    let body = parts(&json!({"name": name, "crc32c": crc}), content);
    try_send(server, "POST", &upload("&ifGenerationMatch=0"), MULTIPART, &body)
}

fn object(name: &str) -> String {
    format!("/storage/v1/b/{BUCKET}/o/{}", name.replace('/', "%2F"))
}

fn media(name: &str) -> String {
    format!("{}?alt=media", object(name))
}

#[test]
fn objects_are_created_once_and_read_by_range() {
    let server = Server::start();
    let made = create(&server, "a/b", b"hello, world").unwrap();
    assert_eq!((made.status, made.json()["size"].as_str()), (200, Some("12")));
    assert_eq!(made.json()["crc32c"], BASE64_STANDARD.encode(crc32c::crc32c(b"hello, world").to_be_bytes()));
    let again = create(&server, "a/b", b"other").unwrap();
    assert_eq!((again.status, &again.json()["error"]["errors"][0]["reason"]), (412, &json!("conditionNotMet")));
    assert_eq!(server.object("a/b").unwrap(), b"hello, world");

    let wrong = parts(&json!({"name": "c", "crc32c": "AAAAAA=="}), b"x");
    let wrong = send(&server, "POST", &upload("&ifGenerationMatch=0"), MULTIPART, &wrong);
    assert!(wrong.status == 400 && wrong.json()["error"]["message"].as_str().unwrap().contains("CRC32C"), "{wrong:?}");
    assert_eq!(server.names(), ["a/b"]);

    let got = get(&server, &media("a/b"), "");
    assert_eq!((got.status, got.body.as_slice()), (200, b"hello, world".as_slice()));
    let hash = format!("crc32c={}", made.json()["crc32c"].as_str().unwrap());
    assert_eq!(got.header("x-goog-hash"), Some(hash.as_str()));
    assert_eq!(got.header("x-goog-stored-content-length"), Some("12"));
    let generation = got.header("x-goog-generation").unwrap();
    assert_eq!(made.json()["generation"], generation);
    for (range, status, body, part) in [
        ("bytes=7-", 206, "world", "bytes 7-11/12"),
        ("bytes=0-4", 206, "hello", "bytes 0-4/12"),
        ("bytes=-3", 206, "rld", "bytes 9-11/12"),
        ("bytes=7-99", 206, "world", "bytes 7-11/12"),
        ("bytes=12-", 416, "Request range not satisfiable", "bytes */12"),
    ] {
        let got = get(&server, &media("a/b"), &format!("Range: {range}\r\n"));
        assert_eq!((got.status, got.body.as_slice()), (status, body.as_bytes()), "{range}");
        assert_eq!(got.header("content-range"), Some(part));
    }
    assert_eq!(get(&server, &format!("{}&generation={generation}", media("a/b")), "").status, 200);
    assert_eq!(get(&server, &format!("{}&generation=7", media("a/b")), "").status, 404);
    let lost = get(&server, &media("nothing"), "");
    assert_eq!((lost.status, lost.body), (404, format!("No such object: {BUCKET}/nothing").into_bytes()));
    let lost = get(&server, &object("nothing"), "");
    assert_eq!((lost.status, lost.json()["error"]["errors"][0]["reason"].as_str()), (404, Some("notFound")));
    // A slash that is not encoded leads elsewhere.
    assert_eq!(get(&server, &format!("/storage/v1/b/{BUCKET}/o/a/b"), "").status, 404);
    assert_eq!(get(&server, "/storage/v1/b/other/o", "").json()["error"]["code"], 404);
    let misspelt = get(&server, &format!("{}?filds=size", object("a/b")), "");
    assert_eq!(misspelt.status, 400);
}

#[test]
fn listings_come_in_pages() {
    let server = Server::start();
    for name in ["a/1", "a/2", "a/3", "a/4", "b/1"] {
        server.put(name, name);
    }
    server.release("a/3", "2026-01-02T03:04:05Z");
    let list = |query: &str| {
        let got = get(&server, &format!("/storage/v1/b/{BUCKET}/o?{query}"), "");
        assert_eq!(got.status, 200, "{got:?}");
        got.json()
    };
    let mask = "fields=nextPageToken,items(name,size,customTime)&prefix=a/";
    let first = list(&format!("{mask}&maxResults=2"));
    assert_eq!(first["items"], json!([{"name": "a/1", "size": "3"}, {"name": "a/2", "size": "3"}]));
    let second = list(&format!("{mask}&maxResults=2&pageToken={}", first["nextPageToken"].as_str().unwrap()));
    let released = json!({"name": "a/3", "size": "3", "customTime": "2026-01-02T03:04:05Z"});
    assert_eq!(second, json!({"items": [released, {"name": "a/4", "size": "3"}]}));
    assert_eq!(list("prefix=c/"), json!({"kind": "storage#objects"}));
    server.pages_of(1);
    assert_eq!(list(mask)["items"].as_array().unwrap().len(), 1);
    assert_eq!(get(&server, &format!("/storage/v1/b/{BUCKET}/o?fields=items(nam)"), "").status, 400);
    assert_eq!(get(&server, &format!("/storage/v1/b/{BUCKET}/o?pageToken=%21"), "").status, 400);
    let kinds: Vec<_> = server.requests_of(Kind::List).iter().map(|list| list.status).collect();
    assert_eq!(kinds.len(), 6);
}

#[test]
fn what_was_not_granted_is_refused_and_remembered() {
    let server = Server::start();
    server.put("a", "x");
    let ask = "permissions=storage.objects.create&permissions=storage.objects.delete";
    let held = get(&server, &format!("/storage/v1/b/{BUCKET}/iam/testPermissions?{ask}"), "");
    assert_eq!(held.json()["permissions"], json!(["storage.objects.create"]));
    assert_eq!(server.refused(), [""; 0]);
    let body = parts(&json!({"name": "a"}), b"y");
    let over = send(&server, "POST", &upload(""), MULTIPART, &body);
    assert_eq!(over.status, 403);
    assert!(over.json()["error"]["message"].as_str().unwrap().contains("storage.objects.delete"), "{over:?}");
    assert_eq!(send(&server, "DELETE", &object("a"), "", b"").status, 403);
    assert_eq!(send(&server, "PATCH", &object("a"), "", b"{}").status, 403);
    assert_eq!(get(&server, &format!("/storage/v1/b/{BUCKET}"), "").status, 403);
    let needed: Vec<_> = server.refused().iter().map(|said| said.split(' ').next().unwrap().to_owned()).collect();
    let all = ["storage.objects.delete", "storage.objects.delete", "storage.objects.update", "storage.buckets.get"];
    assert_eq!(needed, all);
    server.grant(&["storage.objects.get", "storage.buckets.get"]);
    assert_eq!(get(&server, &format!("/storage/v1/b/{BUCKET}"), "").json()["name"], BUCKET);
    // A caller that may not list does not learn that an object is missing.
    assert_eq!(get(&server, &media("nothing"), "").status, 403);
    assert_eq!(server.object("a").unwrap(), b"x");
}

#[test]
fn tokens_are_issued_demanded_and_taken_back() {
    let server = Server::start();
    server.put("a", "x");
    server.demand_tokens();
    let anonymous = get(&server, &object("a"), "");
    assert_eq!((anonymous.status, &anonymous.json()["error"]["errors"][0]["reason"]), (401, &json!("required")));
    let with = |token: &str| get(&server, &object("a"), &format!("Authorization: Bearer {token}\r\n")).status;
    let metadata = "/computeMetadata/v1/instance/service-accounts/default/token";
    assert_eq!(get(&server, metadata, "").status, 403);
    let token = |got: Got| got.json()["access_token"].as_str().unwrap().to_owned();
    let first = token(get(&server, metadata, "Metadata-Flavor: Google\r\n"));
    assert_eq!((with(&first), with("other")), (200, 401));
    let refresh = json!({"grant_type": "refresh_token", "refresh_token": "r", "client_id": "c", "client_secret": "s"});
    let json_type = "Content-Type: application/json\r\n";
    let second = token(send(&server, "POST", "/token", json_type, refresh.to_string().as_bytes()));
    assert_eq!(with(&second), 200);
    server.revoke_tokens();
    assert_eq!((with(&first), with(&second)), (401, 401));
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let exchange = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=t\
                    &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt";
    let third = token(send(&server, "POST", "/v1/token", form, exchange.as_bytes()));
    let path = "/v1/projects/-/serviceAccounts/w@p.iam.gserviceaccount.com:generateAccessToken";
    let bearer = format!("Authorization: Bearer {third}\r\n{json_type}");
    let fourth = send(&server, "POST", path, &bearer, b"{}").json()["accessToken"].as_str().unwrap().to_owned();
    assert_eq!((with(&third), with(&fourth)), (200, 200));
    assert_eq!(server.tokens_issued(), ["metadata", "oauth", "sts", "impersonation"]);
    let claims = |exp: i64| BASE64_URL_SAFE_NO_PAD.encode(json!({"iss": "w", "scope": "s", "exp": exp}).to_string());
    assert_eq!(with(&format!("e30.{}.sig", claims(i64::MAX))), 200);
    assert_eq!(with(&format!("e30.{}.sig", claims(1))), 401);
}

#[test]
fn it_fails_as_it_is_told() {
    let server = Server::start();
    server.put("a", vec![7; 100_000]);
    let read = || try_send(&server, "GET", &media("a"), "", b"");

    server.script(When::read("a").after(1).times(2), Fault::retry_after(429, 7));
    assert_eq!(read().unwrap().status, 200);
    let busy = read().unwrap();
    assert_eq!((busy.status, busy.header("retry-after")), (429, Some("7")));
    assert_eq!((read().unwrap().status, read().unwrap().status), (429, 200));
    assert_eq!(server.faults(), 2);
    server.script(When::any(), Fault::Answer(Answer::new(200, "text/plain", "odd")));
    assert_eq!(read().unwrap().body, b"odd");

    for point in [Point::Upload(0), Point::Answer, Point::Head, Point::Body(50_000)] {
        server.script(When::read("a"), Fault::Reset(point));
        assert_eq!(read().unwrap_err().kind(), ErrorKind::ConnectionReset, "{point:?}");
        let time = Duration::from_millis(200);
        server.script(When::read("a"), Fault::Stall(point, time));
        let begin = Instant::now();
        assert_eq!(read().unwrap().body.len(), 100_000);
        assert!(begin.elapsed() >= time, "{point:?}");
    }
    server.script(When::read("a"), Fault::Cut(70_000));
    assert_eq!(read().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(server.requests().last().unwrap().sent, 70_000);
    server.script(When::read("a"), Fault::Flip(90_000));
    let flipped = read().unwrap().body;
    let wrong: Vec<usize> = (0..flipped.len()).filter(|&at| flipped[at] != 7).collect();
    assert_eq!(wrong, [90_000]);
    assert_eq!(read().unwrap().body, [7; 100_000]);

    server.script(When::create("lost"), Fault::Reset(Point::Answer));
    assert!(create(&server, "lost", b"stored").is_err());
    assert_eq!(server.object("lost").unwrap(), b"stored");
    server.script(When::create("unsure"), Fault::DoneBut(503));
    assert_eq!(create(&server, "unsure", b"stored").unwrap().status, 503);
    assert_eq!(server.object("unsure").unwrap(), b"stored");
    server.script(When::create("half"), Fault::Reset(Point::Upload(500_000)));
    assert!(create(&server, "half", &[3; 3_000_000]).is_err());
    assert_eq!(server.object("half"), None);
    let half = server.requests_of(Kind::Create).pop().unwrap();
    assert_eq!((half.name.as_deref(), half.body, half.status), (Some("half"), 500_000, None));
    assert!((499_000..500_000).contains(&half.media), "{half:?}");

    server.script(When::any().always(), Fault::status(503));
    assert_eq!(read().unwrap().status, 503);
    server.heal();
    server.forget();
    assert_eq!(read().unwrap().status, 200);
    assert_eq!((server.requests().len(), server.faults()), (1, 0));
}

#[test]
fn time_bandwidth_and_connections() {
    let server = Server::start();
    server.put("a", vec![1; 200_000]);
    let date = |server: &Server| {
        let got = get(server, &object("a"), "");
        jiff::fmt::rfc2822::parse(got.header("date").unwrap()).unwrap().timestamp()
    };
    let now = date(&server);
    server.skew(-600);
    assert!((590..=610).contains(&(now.as_second() - date(&server).as_second())));
    server.bandwidth(1_000_000);
    server.latency(Duration::from_millis(100));
    let begin = Instant::now();
    let mut stream = connect(&server);
    for _ in 0..2 {
        // One connection, two requests.
        stream.write_all(&request("GET", &media("a"), "", b"")).unwrap();
        assert_eq!(answer(&mut stream).unwrap().body.len(), 200_000);
    }
    assert!((0.5..3.0).contains(&begin.elapsed().as_secs_f64()), "{:?}", begin.elapsed());
    assert_eq!(server.connections(), 3);
    server.bandwidth(0);
    // In chunks, as a client sends what it does not know the size of.
    let body = parts(&json!({"name": "chunked"}), b"0123456789");
    stream.write_all(format!("POST {} HTTP/1.1\r\nHost: test\r\n{MULTIPART}", upload("")).as_bytes()).unwrap();
    stream.write_all(b"Transfer-Encoding: chunked\r\n\r\n").unwrap();
    for chunk in body.chunks(7) {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).unwrap();
        stream.write_all(&[chunk, b"\r\n"].concat()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(answer(&mut stream).unwrap().status, 200);
    assert_eq!(server.object("chunked").unwrap(), b"0123456789");
    drop(server);
    assert!(answer(&mut stream).is_err(), "the connection outlives the server");
}

#[test]
fn an_emulator_starts_and_ends() {
    let Some(emulator) = Emulator::start() else { return };
    assert!(emulator.objects().is_dir());
    let host = emulator.url().trim_start_matches("http://").to_owned();
    drop(emulator);
    assert_eq!(TcpStream::connect(host).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
