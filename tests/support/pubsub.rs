//! Google's Pub/Sub emulator, which comes with the Google Cloud SDK.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::requirements;

/// The project of all topics and subscriptions.
pub const PROJECT: &str = "demo";
/// A Java program takes seconds to start, on a busy machine more.
const START: Duration = Duration::from_secs(90);

/// An emulator that runs.
pub struct PubSub {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

/// Returns the attributes of a CloudEvent in binary mode.
pub fn cloud_event(kind: &str, id: &str) -> Value {
    json!({ "ce-specversion": "1.0", "ce-type": kind, "ce-source": "//test/app", "ce-id": id })
}

/// One that tests share which run at the same time. It ends with the last of them: what a test process leaves behind in its
/// statics is not dropped.
static SHARED: Mutex<Weak<PubSub>> = Mutex::new(Weak::new());

impl PubSub {
    /// Returns an emulator that other tests use at the same time, so that names are a test's own; `None`, after printing
    /// why, if it is not available.
    pub fn shared() -> Option<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(emulator) = shared.upgrade() {
            return Some(emulator);
        }
        let emulator = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&emulator);
        Some(emulator)
    }

    /// Starts a new one without topics; `None`, after printing why, if it is not available.
    pub fn start() -> Option<Self> {
        let Some(jar) = jar() else {
            requirements::skipped("pubsub-emulator", "Google's Pub/Sub emulator comes with the Google Cloud SDK");
            return None;
        };
        if Command::new("java").arg("-version").output().is_err() {
            requirements::skipped("java", "Google's Pub/Sub emulator needs it");
            return None;
        }
        // A port that was free a moment ago may be taken by the time the emulator comes to it.
        Some(
            (0..5)
                .find_map(|_| Self::on(&jar, requirements::free_port()))
                .expect("the Pub/Sub emulator does not start"),
        )
    }

    fn on(jar: &Path, port: u16) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let process = Command::new("java")
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-jar"])
            .arg(jar)
            .args(["--host=127.0.0.1", &format!("--port={port}")])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut emulator = PubSub { process, port, folder };
        let began = Instant::now();
        while began.elapsed() < START {
            if emulator.process.try_wait().unwrap().is_some() {
                eprintln!("the Pub/Sub emulator: {}", emulator.log());
                return None;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() && emulator.ask("GET", "/", "").0 == 200 {
                return Some(emulator);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the Pub/Sub emulator does not answer after {START:?}: {}", emulator.log());
    }

    /// Ends it with all that it holds, and starts an empty one at the same port.
    pub fn restart(&mut self) {
        self.end();
        let jar = jar().unwrap();
        *self = (0..20).find_map(|_| Self::on(&jar, self.port)).expect("the Pub/Sub emulator does not start again");
    }

    fn end(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Returns `127.0.0.1:8085`, as `PUBSUB_EMULATOR_HOST` has it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Makes a topic; its full name.
    pub fn topic(&self, id: &str) -> String {
        let name = format!("projects/{PROJECT}/topics/{id}");
        self.call("PUT", &format!("/v1/{name}"), &json!({}));
        name
    }

    /// Makes a subscription of a topic, with what else it is to be; its full name.
    pub fn subscription(&self, id: &str, topic: &str, mut more: Value) -> String {
        let name = format!("projects/{PROJECT}/subscriptions/{id}");
        more["topic"] = topic.into();
        self.call("PUT", &format!("/v1/{name}"), &more);
        name
    }

    /// Takes a subscription away, with the messages in it.
    pub fn remove(&self, subscription: &str) {
        self.call("DELETE", &format!("/v1/{subscription}"), &json!({}));
    }

    /// Publishes a message; its id.
    pub fn publish(&self, topic: &str, data: &[u8], attributes: Value) -> String {
        let message = json!({ "data": STANDARD.encode(data), "attributes": attributes });
        let published = self.call("POST", &format!("/v1/{topic}:publish"), &json!({ "messages": [message] }));
        published["messageIds"][0].as_str().unwrap().to_owned()
    }

    /// Takes the messages that wait in a subscription, at least one, and acknowledges them: data and attributes.
    pub fn take(&self, subscription: &str, within: Duration) -> Vec<(Vec<u8>, Value)> {
        let began = Instant::now();
        loop {
            let wanted = json!({ "maxMessages": 100, "returnImmediately": true });
            let pulled = self.call("POST", &format!("/v1/{subscription}:pull"), &wanted);
            if let Some(messages) = pulled["receivedMessages"].as_array().filter(|messages| !messages.is_empty()) {
                let ids: Vec<_> = messages.iter().map(|message| &message["ackId"]).collect();
                self.call("POST", &format!("/v1/{subscription}:acknowledge"), &json!({ "ackIds": ids }));
                let read = |received: &Value| {
                    let message = &received["message"];
                    let data = STANDARD.decode(message["data"].as_str().unwrap_or_default()).unwrap();
                    (data, message["attributes"].clone())
                };
                return messages.iter().map(read).collect();
            }
            assert!(began.elapsed() < within, "no message came to {subscription}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Sends a request to its REST interface, and returns the answer.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, text) = self.ask(method, path, &body.to_string());
        assert_eq!(status, 200, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else { return (0, String::new()) };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.host(),
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = BufReader::new(stream);
        let (mut line, mut status, mut length) = (String::new(), 0, None);
        while answer.read_line(&mut line).unwrap_or(0) > 2 {
            if status == 0 {
                status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
            line.clear();
        }
        let mut text = vec![0; length.unwrap_or(0)];
        answer.read_exact(&mut text).unwrap_or_default();
        (status, String::from_utf8_lossy(&text).into_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PubSub {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the emulator's program, where the SDK is.
fn jar() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&on_path).filter_map(|folder| folder.join("gcloud").canonicalize().ok());
    let roots = installed.filter_map(|gcloud| Some(gcloud.parent()?.parent()?.to_owned()));
    let usual = ["/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk", "/snap/google-cloud-cli/current"];
    roots.chain(usual.map(PathBuf::from)).find_map(|root| {
        let files = std::fs::read_dir(root.join("platform/pubsub-emulator/lib")).ok()?;
        let mut files = files.filter_map(Result::ok).map(|file| file.path());
        files.find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("cloud-pubsub-emulator") && name.ends_with("-all.jar")
        })
    })
}
