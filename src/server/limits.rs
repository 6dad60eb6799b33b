//! Limits on what a client may take of the service: of its memory, its time and its connections.
//!
//! A connection is in one of three phases, and each has its time limit: idle ([`ServerLimits::idle`]), in the middle of a
//! request's head ([`ServerLimits::head_time`]), or served. While it is served, its client must go on taking what it is sent
//! ([`ServerLimits::stalled`]), and send its body within [`ServerLimits::body_time`]. So a client that is slow, or gone without a
//! word, holds only its own connection, and that not for long. It holds it for less long where others need the slot: a connection
//! that waits for its client may be closed for another one, also if the client takes nothing of its answer ([`STUCK`]), or goes
//! on sending a body that nobody wants.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

/// A client that has taken nothing of what it is sent for this long counts as one that the connection waits for, as does a client
/// that asks for nothing. A client that takes what it can pauses for this long only when packets are lost again and again.
const STUCK: Duration = Duration::from_secs(5);

/// How long the service waits for a client that sends a body which nobody wants.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The limits on connections, requests and concurrent work.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Connections at the same time; when there are more, a connection that waits for its client is closed.
    pub connections: usize,
    /// The most bytes of a request's head.
    pub head: usize,
    /// The most headers of a request.
    pub headers: usize,
    /// The longest time from a head's first byte to its last.
    pub head_time: Duration,
    /// The most bytes of a request's body.
    pub body: usize,
    /// The longest time from the end of the head to the end of the body.
    pub body_time: Duration,
    /// The longest time for which a connection may be idle.
    pub idle: Duration,
    /// The longest time for which a client may take nothing of what it is sent.
    pub stalled: Duration,
    /// Downloads at the same time.
    pub downloads: usize,
    /// Reads of the vault at the same time, apart from listings and downloads.
    pub looks: usize,
    /// Listings of files at the same time; each takes as long as its client does.
    pub listings: usize,
    /// KiB of large reports that are held in memory to be sent, at the same time.
    pub reports: usize,
    /// Promises that are written to a vault at the same time; they have a limit of their own, so that no read keeps one waiting.
    pub promises: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits {
            connections: 100,
            head: 16 << 10,
            headers: 64,
            head_time: Duration::from_secs(10),
            body: 1 << 20,
            body_time: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            stalled: Duration::from_secs(30),
            downloads: 2,
            looks: 6,
            listings: 4,
            reports: 64 << 10,
            promises: 4,
        }
    }
}

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum UnreadBody {
    /// It is larger than it may be.
    TooLarge,
    /// It did not arrive in time.
    TooSlow,
    /// The connection failed, or what came is no body.
    Broken,
}

/// Reads a whole body.
///
/// # Errors
/// It exceeds a limit, or it breaks off.
pub async fn read(body: &mut Incoming, limits: &ServerLimits) -> Result<Vec<u8>, UnreadBody> {
    if body.size_hint().lower() > limits.body as u64 {
        return Err(UnreadBody::TooLarge);
    }
    match read_beginning(body, limits).await? {
        (bytes, true) => Ok(bytes),
        (_, false) => Err(UnreadBody::TooLarge),
    }
}

/// Reads at most as many bytes of a body as it may have. The flag says whether that is all of it.
///
/// # Errors
/// It takes too long, or it breaks off.
pub async fn read_beginning(body: &mut Incoming, limits: &ServerLimits) -> Result<(Vec<u8>, bool), UnreadBody> {
    let deadline = Instant::now() + limits.body_time;
    let mut bytes = Vec::new();
    while let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(|_| UnreadBody::TooSlow)? {
        let Ok(data) = frame.map_err(|_| UnreadBody::Broken)?.into_data() else { continue };
        let room = limits.body - bytes.len();
        bytes.extend_from_slice(&data[..room.min(data.len())]);
        if data.len() > room {
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}

/// Reads and discards what is left of a body that nobody wants, up to four times the size that a body may have: a client that is
/// still sending when its connection ends may never see the answer. Data that has not come after `patience` is not waited for.
pub async fn throw_away(body: &mut Incoming, patience: Duration, phase: &Phase, limits: &ServerLimits) {
    if body.is_end_stream() {
        return;
    }
    let _drains = phase.drains();
    let deadline = Instant::now() + limits.body_time.min(patience);
    let mut left = limits.body * 4;
    while !body.is_end_stream() && left > 0 {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len)),
            Ok(Some(Err(_)) | None) | Err(_) => return,
        }
    }
}

/// The activity of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionActivity {
    Idle,
    Head,
    Served,
    Closed,
}

/// The phase of a connection, shared by its stream, its requests and the slots for connections.
#[derive(Clone, Default)]
pub struct Phase(Arc<PhaseInner>);

struct PhaseInner {
    state: Mutex<ConnectionState>,
    closed: Notify,
}

struct ConnectionState {
    doing: ConnectionActivity,
    /// Since when it has waited for its client; it does not wait while a request is served.
    since: Instant,
    /// Since when the client has taken nothing of what is still to be sent. This matters on its own, since a request counts as
    /// served when all of its answer is in a buffer.
    sends: Option<Instant>,
    /// How long a client may take nothing before the connection counts as waiting for it: [`STUCK`], except in tests.
    stuck: Duration,
    /// Since when a body has been discarded.
    drains: Option<Instant>,
    /// Notified when it waits for its client again.
    tell: Option<Arc<Notify>>,
}

impl Default for PhaseInner {
    fn default() -> Self {
        let (doing, since) = (ConnectionActivity::Idle, Instant::now());
        let state = ConnectionState { doing, since, sends: None, stuck: STUCK, drains: None, tell: None };
        PhaseInner { state: Mutex::new(state), closed: Notify::new() }
    }
}

impl ConnectionState {
    /// Since when only its client has kept the connection from going on.
    fn waits_since(&self) -> Option<Instant> {
        match self.doing {
            ConnectionActivity::Closed => None,
            _ if self.sends.is_some() => self.sends.filter(|_| self.is_stuck()),
            ConnectionActivity::Idle | ConnectionActivity::Head => Some(self.since),
            ConnectionActivity::Served => self.drains,
        }
    }

    fn is_stuck(&self) -> bool {
        self.sends.is_some_and(|since| since.elapsed() >= self.stuck)
    }
}

impl Phase {
    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        // No thread panics while it holds the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both belong to the same connection.
    pub fn is(&self, other: &Phase) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Notes that a request is being served for as long as the returned guard lives. `None` if the connection is being closed.
    pub fn served(&self) -> Option<ServingGuard> {
        let mut state = self.state();
        if state.doing == ConnectionActivity::Closed {
            return None;
        }
        state.doing = ConnectionActivity::Served;
        Some(ServingGuard(self.clone()))
    }

    /// Since when the connection has waited for its client; `None` if it does not wait, as while a request is served whose client
    /// takes what it is sent.
    pub fn waits_since(&self) -> Option<Instant> {
        self.state().waits_since()
    }

    /// Notes that a body is being discarded for as long as the returned guard lives.
    fn drains(&self) -> DrainGuard {
        self.state().drains = Some(Instant::now());
        DrainGuard(self.clone())
    }

    /// Closes the connection if it waits for its client. Returns whether it was closed.
    pub fn close(&self) -> bool {
        let mut state = self.state();
        let waits = state.waits_since().is_some();
        if waits {
            state.doing = ConnectionActivity::Closed;
            // `Notify` keeps this until somebody listens.
            self.0.closed.notify_one();
        }
        waits
    }

    /// Waits until the connection is to be closed and all that was answered is sent; what is left is dropped if its client takes
    /// nothing of it.
    pub async fn closed(&self) {
        loop {
            self.0.closed.notified().await;
            let state = self.state();
            if state.doing == ConnectionActivity::Closed && (state.sends.is_none() || state.is_stuck()) {
                return;
            }
        }
    }

    /// Notes whether something is still to be sent.
    fn sends(&self, sends: bool) {
        let mut state = self.state();
        state.sends = sends.then(Instant::now);
        if state.doing == ConnectionActivity::Closed {
            self.0.closed.notify_one();
        }
    }

    /// Notes that it has a slot from now on, in which its waiting time begins; `who` is notified whenever a request is answered.
    pub fn enters(&self, who: &Arc<Notify>) {
        let mut state = self.state();
        (state.tell, state.since) = (Some(who.clone()), Instant::now());
    }

    fn begin_head(&self) {
        let mut state = self.state();
        // Data that comes while a request is served belongs to that request, or to the next one, which has its turn later.
        if state.doing == ConnectionActivity::Idle {
            state.doing = ConnectionActivity::Head;
        }
    }

    fn in_head(&self) -> bool {
        self.state().doing == ConnectionActivity::Head
    }
}

/// Marks a body as being discarded until it is dropped.
struct DrainGuard(Phase);

impl Drop for DrainGuard {
    fn drop(&mut self) {
        self.0.state().drains = None;
    }
}

/// Marks a request as being served; dropped at the end of its answer.
pub struct ServingGuard(Phase);

impl Drop for ServingGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if state.doing == ConnectionActivity::Closed {
            return;
        }
        (state.doing, state.since) = (ConnectionActivity::Idle, Instant::now());
        if let Some(who) = &state.tell {
            who.notify_one();
        }
    }
}

/// A stream that fails when a head takes too long, or when the other side takes nothing for too long.
pub struct TimedStream {
    stream: TcpStream,
    phase: Phase,
    head_time: Duration,
    stalled: Duration,
    head: Option<Pin<Box<Sleep>>>,
    write: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    /// Wraps a new connection.
    pub fn new(stream: TcpStream, phase: Phase, limits: &ServerLimits) -> Self {
        let ServerLimits { head_time, stalled, .. } = *limits;
        TimedStream { stream, phase, head_time, stalled, head: None, write: None }
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            if self.write.take().is_some() {
                self.phase.sends(false);
            }
            return done;
        }
        if self.write.is_none() {
            self.phase.sends(true);
        }
        let stalled = self.stalled;
        let timer = self.write.get_or_insert_with(|| Box::pin(sleep(stalled)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.phase.begin_head();
        }
        if !self.phase.in_head() {
            self.head = None;
            return done;
        }
        let head_time = self.head_time;
        let timer = self.head.get_or_insert_with(|| Box::pin(sleep(head_time)));
        // The timer is polled in any case: only then does it wake the connection later.
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of the request took too long")));
        }
        done
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.written(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair(limits: &ServerLimits) -> (TcpStream, TimedStream, Phase) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let phase = Phase::default();
        (client, TimedStream::new(listener.accept().await.unwrap().0, phase.clone(), limits), phase)
    }

    #[tokio::test]
    async fn a_head_has_its_time_and_what_is_served_has_not() {
        let limits = ServerLimits { head_time: Duration::from_millis(150), ..ServerLimits::default() };
        let (mut client, mut patient, phase) = pair(&limits).await;
        let mut byte = [0];
        // An idle connection has no time limit here.
        assert!(tokio::time::timeout(Duration::from_millis(300), patient.read_exact(&mut byte)).await.is_err());
        client.write_all(b"GE").await.unwrap();
        patient.read_exact(&mut byte).await.unwrap();
        let served = phase.served().unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), patient.read_exact(&mut [0; 2])).await.is_err());
        drop(served);
        client.write_all(b"G").await.unwrap();
        patient.read_exact(&mut byte).await.unwrap();
        let late = patient.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_let_go() {
        let limits = ServerLimits { stalled: Duration::from_millis(150), ..ServerLimits::default() };
        let (client, mut patient, _) = pair(&limits).await;
        let much = vec![0; 64 << 20];
        assert_eq!(patient.write_all(&much).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(client);
    }

    #[tokio::test]
    async fn what_is_closed_is_closed_when_its_answer_is_sent() {
        let (mut client, mut patient, phase) = pair(&ServerLimits::default()).await;
        let is_closed = || async { tokio::time::timeout(Duration::from_millis(10), phase.closed()).await.is_ok() };
        // All of the answer is on its way, and the connection is closed before the client has taken it.
        assert!(phase.close() && phase.served().is_none());
        let much = vec![0; 64 << 20];
        {
            let mut sending = Box::pin(patient.write_all(&much));
            assert!(tokio::time::timeout(Duration::from_millis(100), &mut sending).await.is_err());
            assert!(!is_closed().await && phase.waits_since().is_none());
            let taking = async {
                let mut taken = vec![0; much.len()];
                client.read_exact(&mut taken).await
            };
            let (sent, taken) = tokio::join!(sending, taking);
            sent.unwrap();
            taken.unwrap();
        }
        assert!(is_closed().await);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_closed_for_another_one() {
        let phase = Phase::default();
        let served = phase.served().unwrap();
        phase.state().stuck = Duration::from_secs(600);
        phase.sends(true);
        assert!(phase.waits_since().is_none() && !phase.close());
        phase.state().stuck = Duration::ZERO;
        // It has taken all.
        phase.sends(false);
        assert!(phase.waits_since().is_none() && !phase.close());
        phase.sends(true);
        assert!(phase.waits_since().is_some() && phase.close());
        phase.closed().await;
        // A guard that is dropped with the connection does not open it again.
        drop(served);
        assert!(phase.served().is_none() && phase.waits_since().is_none());
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_is_waited_for() {
        let phase = Phase::default();
        let _served = phase.served().unwrap();
        assert!(phase.waits_since().is_none());
        let drains = phase.drains();
        assert!(phase.waits_since().is_some());
        drop(drains);
        assert!(phase.waits_since().is_none() && !phase.close());
        let _drains = phase.drains();
        assert!(phase.close());
        phase.closed().await;
    }
}
