//! Slots for connections: how many there may be at once, and which one gives way when all are taken.
//!
//! ```text
//! connection ──► a slot, a free one or that of the connection that has waited longest for its client
//!            └─► all are in use: at the door ──► /live is answered there
//!                                             └─► any other request: in line for a slot, or 503 if the line is full
//! ```
//!
//! So a client that opens connections and asks for nothing keeps nobody else out, and `/live` is answered however much there is
//! to do. No connection stays at the door for longer than its request's head takes to come, which is at once: else it makes room
//! for the next one. Nothing is waited for there, no body and no client that is slow. The line is as long as the queue of
//! requests that wait for a run, so that a burst of events is served; the first in line gets a slot first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{Mutex as Turns, Notify, Semaphore};
use tokio::time::timeout;

use super::limits::Phase;
use crate::runner::runner::WAITING;
use crate::shutdown::Shutdown;

/// The most connections at the door at the same time.
const DOOR: usize = 128;
/// File descriptors that a service needs besides its connections: vaults, data, the log.
const FILES: u64 = 256;
/// A connection at the door whose request has not come after this time makes room for the next one: a client that asks for
/// something sends it with its first packet. So a thousand connections get through in a second.
const AT_ONCE: Duration = Duration::from_millis(100);
/// A connection that has waited for its client for less than this is not closed: its client sends one request after the other, or
/// its first request is on its way.
const SHORT: Duration = Duration::from_secs(1);
/// How often `wait` checks whether a connection has waited for longer than that.
const TICK: Duration = Duration::from_millis(50);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No thread panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A limited number of slots.
struct SlotPool {
    most: usize,
    /// A connection that has waited for its client for less than this is not closed.
    short: Duration,
    taken: Mutex<Vec<Phase>>,
    /// Notified when a slot is free, or a connection in one waits for its client again.
    freed: Arc<Notify>,
    /// Held by the first in line: the lock is fair.
    turns: Turns<()>,
}

/// A connection's slot, which is free again when this is dropped.
struct Slot {
    of: Arc<SlotPool>,
    phase: Phase,
}

impl SlotPool {
    fn new(most: usize, short: Duration) -> Arc<Self> {
        Arc::new(SlotPool { most, short, taken: Mutex::default(), freed: Arc::default(), turns: Turns::default() })
    }

    /// Takes a slot: a free one, or that of the connection that has waited longest for its client, which is closed. `None` if
    /// there is none.
    fn take(self: &Arc<Self>, phase: &Phase) -> Option<Slot> {
        let mut taken = lock(&self.taken);
        if taken.len() >= self.most {
            let mut waiting: Vec<_> =
                taken.iter().enumerate().filter_map(|(at, phase)| Some((phase.waits_since()?, at))).collect();
            waiting.retain(|(since, _)| since.elapsed() >= self.short);
            waiting.sort_unstable();
            // A connection whose client has sent something meanwhile stays open.
            let (_, at) = waiting.into_iter().find(|(_, at)| taken[*at].close())?;
            taken.swap_remove(at);
        }
        phase.enters(&self.freed);
        taken.push(phase.clone());
        Some(Slot { of: self.clone(), phase: phase.clone() })
    }

    /// Waits for a slot; the first to come gets one first.
    async fn wait(self: &Arc<Self>, phase: &Phase) -> Slot {
        let _turn = self.turns.lock().await;
        loop {
            if let Some(slot) = self.take(phase) {
                return slot;
            }
            // There is no notice when a connection has waited for long enough.
            let _ = timeout(TICK, self.freed.notified()).await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.of.taken).retain(|phase| !phase.is(&self.phase));
        self.of.freed.notify_one();
    }
}

/// All slots of a service: those of connections, the door and the line.
pub struct Admission {
    slots: Arc<SlotPool>,
    door: Arc<SlotPool>,
    line: Semaphore,
    /// How many may stand in line.
    length: usize,
    shutdown: Shutdown,
}

/// The error that a request cannot be answered now.
#[derive(Debug, PartialEq, Eq)]
pub struct Overloaded;

impl Admission {
    /// Creates slots for `connections` connections. The line is as long as the queue for runs, or shorter where the process may
    /// open only few files, but not shorter than `connections`.
    pub fn new(connections: usize, shutdown: Shutdown) -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let others = FILES.saturating_add((connections + DOOR) as u64);
        let length = usize::try_from(files.saturating_sub(others)).unwrap_or(WAITING).min(WAITING);
        Self::with(connections, length.max(connections), (SHORT, AT_ONCE), shutdown)
    }

    fn with(
        connections: usize,
        length: usize,
        (short, at_once): (Duration, Duration),
        shutdown: Shutdown,
    ) -> Arc<Self> {
        let (slots, door) = (SlotPool::new(connections, short), SlotPool::new(DOOR, at_once));
        Arc::new(Admission { slots, door, line: Semaphore::new(length), length, shutdown })
    }

    /// Whether any connection stands in line.
    fn is_line(&self) -> bool {
        self.line.available_permits() < self.length
    }

    /// Lets a connection in: to a slot, or else to the door.
    pub async fn admit(self: &Arc<Self>) -> AdmittedConnection {
        let phase = Phase::default();
        // Connections that stand in line come first.
        let free = if self.is_line() { None } else { self.slots.take(&phase) };
        let (slot, at_door) = match free {
            Some(slot) => (slot, false),
            None => (self.door.wait(&phase).await, true),
        };
        AdmittedConnection {
            admission: self.clone(),
            phase,
            slot: Mutex::new(Some(slot)),
            at_door: Mutex::new(at_door),
        }
    }
}

/// A connection that was let in, and where it is.
pub struct AdmittedConnection {
    admission: Arc<Admission>,
    phase: Phase,
    slot: Mutex<Option<Slot>>,
    at_door: Mutex<bool>,
}

impl AdmittedConnection {
    /// Returns its phase.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether it is at the door, where nothing is waited for.
    pub fn at_door(&self) -> bool {
        *lock(&self.at_door)
    }

    /// Whether no more than one request is to be answered, since others wait for its slot.
    pub fn is_contended(&self) -> bool {
        self.at_door() || self.admission.is_line()
    }

    /// Waits for a slot, if the connection is at the door.
    ///
    /// # Errors
    /// Too many wait already, or the service is shutting down.
    pub async fn wait_for_slot(&self) -> Result<(), Overloaded> {
        if !self.at_door() {
            return Ok(());
        }
        let _in_line = self.admission.line.try_acquire().map_err(|_| Overloaded)?;
        // The next connection may have the door.
        drop(lock(&self.slot).take());
        let slot = tokio::select! {
            slot = self.admission.slots.wait(&self.phase) => slot,
            _ = self.admission.shutdown.wait_until_begun() => return Err(Overloaded),
        };
        *lock(&self.slot) = Some(slot);
        *lock(&self.at_door) = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: usize) -> Arc<Admission> {
        Admission::with(connections, connections, (Duration::ZERO, Duration::ZERO), Shutdown::new(Arc::default()))
    }

    async fn is_closed(connection: &AdmittedConnection) -> bool {
        timeout(Duration::ZERO, connection.phase().closed()).await.is_ok()
    }

    #[tokio::test]
    async fn who_has_waited_longest_for_its_client_gives_way() {
        let admission = admission(3);
        let [one, two, three] = [admission.admit().await, admission.admit().await, admission.admit().await];
        // The first one has been answered since, and waits again; the second is served.
        drop(one.phase().served());
        let served = two.phase().served().unwrap();
        let four = admission.admit().await;
        assert!(!four.at_door() && is_closed(&three).await && !is_closed(&one).await && !is_closed(&two).await);
        assert!(three.phase().served().is_none(), "what comes too late is not begun");
        let five = admission.admit().await;
        assert!(!five.at_door() && is_closed(&one).await);
        // A connection that is over leaves its slot.
        drop((three, one, four));
        let six = admission.admit().await;
        assert!(!six.at_door() && !is_closed(&five).await && !is_closed(&two).await);
        drop(served);
    }

    #[tokio::test]
    async fn at_the_door_one_request_is_answered_and_others_stand_in_line() {
        let admission = admission(1);
        let first = admission.admit().await;
        let served = first.phase().served().unwrap();
        let late = admission.admit().await;
        assert!(late.at_door());
        // While it stands in line it takes no place at the door, which has room for as many as before.
        let mut sits = Box::pin(late.wait_for_slot());
        assert!(timeout(Duration::ZERO, &mut sits).await.is_err());
        let mut at_door = Vec::new();
        for _ in 0..DOOR + 2 {
            at_door.push(admission.admit().await);
        }
        assert!(is_closed(&at_door[0]).await && is_closed(&at_door[1]).await && !is_closed(&at_door[2]).await);
        assert_eq!(at_door[2].wait_for_slot().await, Err(Overloaded));
        // The first one waits for its client: its slot is taken over.
        drop(served);
        assert_eq!(sits.await, Ok(()));
        assert!(!late.at_door() && is_closed(&first).await);
    }

    #[tokio::test]
    async fn who_has_not_waited_for_long_is_not_closed() {
        let long = Duration::from_secs(600);
        let admission = Admission::with(1, 1, (long, long), Shutdown::new(Arc::default()));
        let first = admission.admit().await;
        let second = admission.admit().await;
        assert!(second.at_door() && !is_closed(&first).await);
        drop(first);
        assert_eq!(second.wait_for_slot().await, Ok(()));
    }

    #[tokio::test]
    async fn who_came_first_has_a_place_first() {
        let admission = Admission::with(1, 3, (Duration::ZERO, Duration::ZERO), Shutdown::new(Arc::default()));
        let first = admission.admit().await;
        let served = first.phase().served().unwrap();
        let late = [admission.admit().await, admission.admit().await, admission.admit().await];
        assert!(
            !first.is_contended()
                && late.iter().all(|connection| connection.at_door() && connection.phase().served().is_some())
        );
        let mut sits: Vec<_> = late.iter().map(|connection| Box::pin(connection.wait_for_slot())).collect();
        for sits in &mut sits {
            assert!(timeout(Duration::ZERO, sits).await.is_err());
        }
        // The connection that is served gives up its slot afterwards.
        assert!(first.is_contended());
        drop((served, first));
        let mut sits = sits.into_iter();
        for connection in &late {
            assert_eq!(sits.next().unwrap().await, Ok(()));
            drop(lock(&connection.slot).take());
        }
        assert!(!late[0].is_contended());
    }

    #[tokio::test]
    async fn the_time_at_the_door_begins_there() {
        let phase = Phase::default();
        std::thread::sleep(Duration::from_millis(20));
        let door = SlotPool::new(1, Duration::from_millis(10));
        let _place = door.take(&phase).unwrap();
        assert!(phase.waits_since().unwrap().elapsed() < Duration::from_millis(10));
    }

    #[tokio::test]
    async fn nobody_stands_in_line_when_the_service_ends() {
        let shutdown = Shutdown::new(Arc::default());
        let admission = Admission::new(1, shutdown.clone());
        let first = admission.admit().await;
        let _served = first.phase().served().unwrap();
        let late = admission.admit().await;
        shutdown.begin();
        assert_eq!(late.wait_for_slot().await, Err(Overloaded));
    }
}
