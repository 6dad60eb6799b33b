//! A loopback server with the part of Google Cloud Storage's JSON API that a vault needs, as strict as Google's, with the
//! token endpoints of its credentials. It fails in every way that a test asks for, and remembers all requests.
//!
//! The modules are named by path, so that the library's unit tests can include this file from where they are:
//! `#[cfg(test)] #[path = "../../tests/support/cloud/server.rs"] mod server;`.

#[path = "server/answer.rs"]
mod answer;
#[path = "server/api.rs"]
mod api;
#[path = "server/call.rs"]
mod call;
#[path = "server/fields.rs"]
mod fields;
#[path = "server/line.rs"]
mod line;
#[path = "server/log.rs"]
mod log;
#[path = "server/multipart.rs"]
mod multipart;
#[path = "server/objects.rs"]
mod objects;
#[path = "server/script.rs"]
mod script;
#[path = "server/tokens.rs"]
mod tokens;
#[path = "server/wire.rs"]
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use answer::Answer;
pub use call::Kind;
pub use log::Request;
pub use script::{Fault, Point, When};

use call::Call;
use line::Line;
use log::Log;
use objects::Objects;
use script::Script;
use tokens::Tokens;
use wire::{Body, Connection};

/// The bucket that there is.
pub const BUCKET: &str = "test-bucket";

/// The permissions that a writer is granted, and all that it needs.
pub const WRITER: [&str; 3] = ["storage.objects.create", "storage.objects.get", "storage.objects.list"];

/// The state that all connections share.
struct State {
    objects: Objects,
    /// The permissions that are granted; all others are refused, and the refusals are remembered.
    permissions: BTreeSet<String>,
    refused: Vec<String>,
    /// Whether a create-only upload over an object is refused for want of the permission to delete, in place of 412.
    delete_before_precondition: bool,
    /// Fields of the bucket's description besides those that every bucket has.
    bucket: serde_json::Value,
    tokens: Tokens,
    script: Script,
    log: Log,
    /// The seconds that are added to the machine's time.
    skew: i64,
    latency: Duration,
    /// The most objects of a page of a listing.
    page: usize,
    /// The open connections, to be ended with the server.
    connections: Vec<TcpStream>,
    /// How many connections there were.
    accepted: usize,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Told when the server ends.
    ended: Condvar,
    up: Line,
    down: Line,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed holding the lock has said so already.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits; less long when the server ends.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.state();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if state.stopped {
                return;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}

/// A server, which ends when it is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one with the empty bucket [`BUCKET`], the permissions of [`WRITER`] and nothing that fails; no token is asked
    /// for.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            objects: Objects::default(),
            permissions: WRITER.map(str::to_owned).into(),
            refused: Vec::new(),
            delete_before_precondition: false,
            bucket: serde_json::json!({}),
            tokens: Tokens::default(),
            script: Script::default(),
            log: Log::default(),
            skew: 0,
            latency: Duration::ZERO,
            page: 1000,
            connections: Vec::new(),
            accepted: 0,
            stopped: false,
        };
        let (up, down) = (Line::default(), Line::default());
        let shared = Arc::new(Shared { state: Mutex::new(state), ended: Condvar::new(), up, down });
        let listening = std::thread::spawn({
            let shared = shared.clone();
            move || listen(&listener, &shared)
        });
        Server { address, shared, listening: Some(listening) }
    }

    /// `127.0.0.1:9000`, as `GCE_METADATA_HOST` has it.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:9000`, as `STORAGE_EMULATOR_HOST` has it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a rule; of several that fit a request the oldest one that is not used up decides.
    pub fn script(&self, when: When, fault: Fault) {
        self.shared.state().script.add(when, fault);
    }

    /// Gives the bucket these settings, such as `lifecycle`.
    pub fn set_bucket(&self, fields: serde_json::Value) {
        self.shared.state().bucket = fields;
    }

    /// Ends all rules.
    pub fn heal(&self) {
        self.shared.state().script = Script::default();
    }

    /// Returns how many requests met a rule.
    pub fn faults(&self) -> usize {
        self.shared.state().script.met
    }

    /// Returns all requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().log.requests.clone()
    }

    /// Returns the requests of one kind.
    pub fn requests_of(&self, kind: Kind) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.kind == kind).collect()
    }

    /// Forgets the requests, refusals and met rules so far.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.log.requests.clear();
        state.refused.clear();
        state.script.met = 0;
    }

    /// Returns how many connections were opened.
    pub fn connections(&self) -> usize {
        self.shared.state().accepted
    }

    /// Returns the names of all objects, in order.
    pub fn names(&self) -> Vec<String> {
        self.shared.state().objects.names()
    }

    /// Returns an object's bytes.
    pub fn object(&self, name: &str) -> Option<Vec<u8>> {
        self.shared.state().objects.content(name).map(|content| content.to_vec())
    }

    /// Puts an object there, in place of what has its name.
    pub fn put(&self, name: &str, content: impl Into<Vec<u8>>) {
        let time = self.now();
        self.shared.state().objects.put(name, content.into(), time);
    }

    /// Takes an object away.
    pub fn remove(&self, name: &str) {
        assert!(self.shared.state().objects.remove(name), "{name} is not there");
    }

    /// Sets the `customTime` of an object, as a keeper does to let it go.
    pub fn release(&self, name: &str, time: &str) {
        self.shared.state().objects.set_custom_time(name, time);
    }

    /// Grants these permissions and no others.
    pub fn grant(&self, permissions: &[&str]) {
        self.shared.state().permissions = permissions.iter().map(|&name| name.to_owned()).collect();
    }

    /// Returns the permissions that were needed and not held, each with the request that needed it.
    pub fn refused(&self) -> Vec<String> {
        self.shared.state().refused.clone()
    }

    /// Answers a create-only upload over an object with 403, for want of `storage.objects.delete`, in place of 412.
    pub fn check_delete_before_precondition(&self) {
        self.shared.state().delete_before_precondition = true;
    }

    /// Takes the bucket away, with all that is in it, or brings an empty one.
    pub fn bucket_exists(&self, exists: bool) {
        self.shared.state().objects = Objects::default();
        self.shared.state().objects.bucket_missing = !exists;
    }

    /// Asks all requests for a bearer token that was issued here, or for a service account's own JWT.
    pub fn demand_tokens(&self) {
        self.shared.state().tokens.demanded = true;
    }

    /// Takes back all tokens issued so far.
    pub fn revoke_tokens(&self) {
        self.shared.state().tokens.revoke();
    }

    /// Makes tokens that are good for this many requests each, although they are said to be good for an hour.
    pub fn tokens_open(&self, requests: usize) {
        self.shared.state().tokens.uses = requests;
    }

    /// Returns which endpoints issued tokens, one word each: `metadata`, `oauth`, `sts`, `impersonation`.
    pub fn tokens_issued(&self) -> Vec<&'static str> {
        self.shared.state().tokens.issued()
    }

    /// Sets the clock of the `Date` header apart from the machine's, in seconds.
    pub fn skew(&self, seconds: i64) {
        self.shared.state().skew = seconds;
    }

    /// Lets this time pass before each answer.
    pub fn latency(&self, time: Duration) {
        self.shared.state().latency = time;
    }

    /// Limits what passes to and from the server, in bytes per second each way, all connections together; 0 is no limit.
    pub fn bandwidth(&self, bytes_per_second: u64) {
        self.shared.up.limit(bytes_per_second);
        self.shared.down.limit(bytes_per_second);
    }

    /// Gives at most this many objects in a page of a listing, however many are asked for.
    pub fn pages_of(&self, objects: usize) {
        self.shared.state().page = objects;
    }

    fn now(&self) -> jiff::Timestamp {
        now(self.shared.state().skew)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.stopped = true;
            for connection in state.connections.drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        self.shared.ended.notify_all();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn now(skew: i64) -> jiff::Timestamp {
    jiff::Timestamp::now() + jiff::SignedDuration::from_secs(skew)
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else { return };
        let mut state = shared.state();
        if state.stopped {
            return;
        }
        let _ = stream.set_nodelay(true);
        let Ok(known) = stream.try_clone() else { continue };
        state.connections.push(known);
        state.accepted += 1;
        drop(state);
        let shared = shared.clone();
        std::thread::spawn(move || {
            let peer = stream.peer_addr();
            let mut connection = Connection::new(stream);
            // A client that goes away is no fault of the server: the log shows how far it came.
            while let Ok(true) = serve(&mut connection, &shared) {}
            drop(connection);
            shared.state().connections.retain(|other| matches!((other.peer_addr(), &peer), (Ok(a), Ok(b)) if a != *b));
        });
    }
}

/// Serves one request; whether the connection can carry another one.
fn serve(connection: &mut Connection, shared: &Shared) -> io::Result<bool> {
    let Some(head) = connection.head()? else { return Ok(false) };
    let mut body = Body::of(&head)?;
    let mut call = Call::of(&head);
    while call.needs_more_of(&body) && connection.read(&mut body, 1, &shared.up)? {}
    call.take_name_from(&body);

    let (number, fault, latency, checked) = {
        let mut state = shared.state();
        let number = state.log.begin(&head, &call);
        let needs_token = call.kind != Kind::Token;
        let checked = if needs_token { state.tokens.check(head.header("authorization")) } else { Ok(()) };
        (number, state.script.take(&call), state.latency, checked)
    };
    let reached = |state: &mut State, body: &Body| state.log.read(number, body.bytes.len(), call.media_in(&body.bytes));
    shared.pause(latency);
    if let Some(Point::Upload(bytes)) = fault.as_ref().and_then(Fault::point) {
        while (body.bytes.len() as u64) < bytes && connection.read(&mut body, bytes as usize, &shared.up)? {}
        reached(&mut shared.state(), &body);
        match fault {
            Some(Fault::Stall(_, time)) => shared.pause(time),
            _ => {
                connection.reset();
                return Ok(false);
            }
        }
    }
    if let Some(Fault::Early(status)) = fault {
        let (answer, date) = (call.failed(status), now(shared.state().skew));
        let sent = connection.answer(&answer, false, date, None, shared)?;
        shared.state().log.answered(number, status, sent.bytes);
        shared.pause(Duration::from_secs(600));
        return Ok(false);
    }
    let read = (|| -> io::Result<()> {
        while connection.read(&mut body, usize::MAX, &shared.up)? {}
        Ok(())
    })();
    reached(&mut shared.state(), &body);
    read?;

    let mut answer = match &fault {
        Some(Fault::Status(status, headers)) => call.failed(*status).with(headers),
        Some(Fault::Answer(answer)) => answer.clone(),
        _ => api::answer(&mut shared.state(), &head, &call, &body.bytes, checked),
    };
    if let Some(Fault::DoneBut(status)) = fault {
        answer = call.failed(status);
    }
    if let Some(Fault::Flip(at)) = fault {
        answer.flip(at);
    }
    let date = now(shared.state().skew);
    let sent = connection.answer(&answer, head.method == "HEAD", date, fault.as_ref(), shared)?;
    let mut state = shared.state();
    state.log.answered(number, answer.status, sent.bytes);
    Ok(sent.whole && !head.closes())
}
