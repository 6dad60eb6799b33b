//! Keys, tokens signed with them, and a server on loopback that publishes the keys, for tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rsa::RsaPrivateKey;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::{EncodePublicKey, LineEnding};
use rsa::rand_core::OsRng;
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key with a name.
pub(super) struct Signer {
    pub name: &'static str,
    key: RsaPrivateKey,
}

pub(super) static FIRST: LazyLock<Signer> = LazyLock::new(|| Signer::new("first", 2048));
pub(super) static SECOND: LazyLock<Signer> = LazyLock::new(|| Signer::new("second", 2048));
/// A key that is too short to be trusted.
pub(super) static SHORT: LazyLock<Signer> = LazyLock::new(|| Signer::new("short", 1024));

impl Signer {
    fn new(name: &'static str, bits: usize) -> Signer {
        Signer { name, key: RsaPrivateKey::new(&mut OsRng, bits).unwrap() }
    }

    /// Returns the public key as a server publishes it.
    pub fn public(&self) -> Value {
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.name,
            "n": base64(self.key.n().to_bytes_be()), "e": base64(self.key.e().to_bytes_be()),
        })
    }

    pub fn public_pem(&self) -> String {
        self.key.to_public_key().to_public_key_pem(LineEnding::LF).unwrap()
    }

    pub fn header(&self) -> Header {
        Header { kid: Some(self.name.into()), ..Header::new(Algorithm::RS256) }
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    pub fn sign_as(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_rsa_der(self.key.to_pkcs1_der().unwrap().as_bytes());
        encode(header, claims, &key).unwrap()
    }
}

/// The server's reaction to a request.
#[derive(Clone)]
pub(super) enum KeyServerReply {
    Keys(Vec<Value>),
    Text(String),
    Status(u16),
    /// Sends keys after a delay.
    Slow(Duration, Vec<Value>),
    /// Redirects to another address.
    Elsewhere(String),
    HangUp,
}

pub(super) struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<KeyServerReply>>,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KeyServer {
    pub fn new(answer: KeyServerReply) -> KeyServer {
        Self::at(([127, 0, 0, 1], 0).into(), answer)
    }

    pub fn at(address: SocketAddr, answer: KeyServerReply) -> KeyServer {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (answer, asked, stop) = (answer.clone(), asked.clone(), stop.clone());
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (Ok(stream), answer, asked) = (stream, answer.clone(), asked.clone()) else { continue };
                    std::thread::spawn(move || serve(stream, &answer, &asked));
                }
            }
        });
        KeyServer { address, answer, asked, stop, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}/certs", self.address)
    }

    /// Returns how often the keys were requested.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn set(&self, answer: KeyServerReply) {
        *self.answer.lock().unwrap() = answer;
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let woken = TcpStream::connect(self.address);
        let thread = self.thread.take().unwrap();
        if woken.is_ok() {
            thread.join().unwrap();
        }
    }
}

fn serve(mut stream: TcpStream, answer: &Mutex<KeyServerReply>, asked: &AtomicUsize) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
    }
    assert!(request.starts_with(b"GET /certs HTTP/1.1\r\n"));
    asked.fetch_add(1, Ordering::SeqCst);
    let answer = answer.lock().unwrap().clone();
    let (status, more, body) = match answer {
        KeyServerReply::Keys(keys) => (200, String::new(), json!({ "keys": keys }).to_string()),
        KeyServerReply::Text(text) => (200, String::new(), text),
        KeyServerReply::Status(status) => (status, String::new(), "{}".into()),
        KeyServerReply::Slow(time, keys) => {
            std::thread::sleep(time);
            (200, String::new(), json!({ "keys": keys }).to_string())
        }
        KeyServerReply::Elsewhere(url) => (302, format!("location: {url}\r\n"), String::new()),
        KeyServerReply::HangUp => return,
    };
    let head = format!("HTTP/1.1 {status} It\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // Some tests are about a client that has given up, so an error here is ignored.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}
