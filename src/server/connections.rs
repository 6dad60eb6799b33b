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
            if let Some(place) = self.take(phase) {
                return place;
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
    places: Arc<SlotPool>,
    door: Arc<SlotPool>,
    line: Semaphore,
    /// How many may stand in line.
    length: usize,
    ending: Shutdown,
}

/// The error that a request cannot be answered now.
#[derive(Debug, PartialEq, Eq)]
pub struct Overloaded;

impl Admission {
    /// Creates slots for `connections` connections. The line is as long as the queue for runs, or shorter where the process may
    /// open only few files, but not shorter than `connections`.
    pub fn new(connections: usize, ending: Shutdown) -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let others = FILES.saturating_add((connections + DOOR) as u64);
        let length = usize::try_from(files.saturating_sub(others)).unwrap_or(WAITING).min(WAITING);
        Self::with(connections, length.max(connections), (SHORT, AT_ONCE), ending)
    }

    fn with(connections: usize, length: usize, (short, at_once): (Duration, Duration), ending: Shutdown) -> Arc<Self> {
        let (places, door) = (SlotPool::new(connections, short), SlotPool::new(DOOR, at_once));
        Arc::new(Admission { places, door, line: Semaphore::new(length), length, ending })
    }

    /// Whether any connection stands in line.
    fn is_line(&self) -> bool {
        self.line.available_permits() < self.length
    }

    /// Lets a connection in: to a slot, or else to the door.
    pub async fn enter(self: &Arc<Self>) -> AdmittedConnection {
        let phase = Phase::default();
        // Connections that stand in line come first.
        let free = if self.is_line() { None } else { self.places.take(&phase) };
        let (place, at_door) = match free {
            Some(place) => (place, false),
            None => (self.door.wait(&phase).await, true),
        };
        AdmittedConnection { rooms: self.clone(), phase, place: Mutex::new(Some(place)), at_door: Mutex::new(at_door) }
    }
}

/// A connection that was let in, and where it is.
pub struct AdmittedConnection {
    rooms: Arc<Admission>,
    phase: Phase,
    place: Mutex<Option<Slot>>,
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
    pub fn is_wanted(&self) -> bool {
        self.at_door() || self.rooms.is_line()
    }

    /// Waits for a slot, if the connection is at the door.
    ///
    /// # Errors
    /// Too many wait already, or the service is shutting down.
    pub async fn sit(&self) -> Result<(), Overloaded> {
        if !self.at_door() {
            return Ok(());
        }
        let _in_line = self.rooms.line.try_acquire().map_err(|_| Overloaded)?;
        // The next connection may have the door.
        drop(lock(&self.place).take());
        let place = tokio::select! {
            place = self.rooms.places.wait(&self.phase) => place,
            _ = self.rooms.ending.begun() => return Err(Overloaded),
        };
        *lock(&self.place) = Some(place);
        *lock(&self.at_door) = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(connections: usize) -> Arc<Admission> {
        Admission::with(connections, connections, (Duration::ZERO, Duration::ZERO), Shutdown::new(Arc::default()))
    }

    async fn is_closed(seat: &AdmittedConnection) -> bool {
        timeout(Duration::ZERO, seat.phase().closed()).await.is_ok()
    }

    #[tokio::test]
    async fn who_has_waited_longest_for_its_client_gives_way() {
        let rooms = rooms(3);
        let [one, two, three] = [rooms.enter().await, rooms.enter().await, rooms.enter().await];
        // The first one has been answered since, and waits again; the second is served.
        drop(one.phase().served());
        let served = two.phase().served().unwrap();
        let four = rooms.enter().await;
        assert!(!four.at_door() && is_closed(&three).await && !is_closed(&one).await && !is_closed(&two).await);
        assert!(three.phase().served().is_none(), "what comes too late is not begun");
        let five = rooms.enter().await;
        assert!(!five.at_door() && is_closed(&one).await);
        // A connection that is over leaves its slot.
        drop((three, one, four));
        let six = rooms.enter().await;
        assert!(!six.at_door() && !is_closed(&five).await && !is_closed(&two).await);
        drop(served);
    }

    #[tokio::test]
    async fn at_the_door_one_request_is_answered_and_others_stand_in_line() {
        let rooms = rooms(1);
        let first = rooms.enter().await;
        let served = first.phase().served().unwrap();
        let late = rooms.enter().await;
        assert!(late.at_door());
        // While it stands in line it takes no place at the door, which has room for as many as before.
        let mut sits = Box::pin(late.sit());
        assert!(timeout(Duration::ZERO, &mut sits).await.is_err());
        let mut at_door = Vec::new();
        for _ in 0..DOOR + 2 {
            at_door.push(rooms.enter().await);
        }
        assert!(is_closed(&at_door[0]).await && is_closed(&at_door[1]).await && !is_closed(&at_door[2]).await);
        assert_eq!(at_door[2].sit().await, Err(Overloaded));
        // The first one waits for its client: its slot is taken over.
        drop(served);
        assert_eq!(sits.await, Ok(()));
        assert!(!late.at_door() && is_closed(&first).await);
    }

    #[tokio::test]
    async fn who_has_not_waited_for_long_is_not_closed() {
        let long = Duration::from_secs(600);
        let rooms = Admission::with(1, 1, (long, long), Shutdown::new(Arc::default()));
        let first = rooms.enter().await;
        let second = rooms.enter().await;
        assert!(second.at_door() && !is_closed(&first).await);
        drop(first);
        assert_eq!(second.sit().await, Ok(()));
    }

    #[tokio::test]
    async fn who_came_first_has_a_place_first() {
        let rooms = Admission::with(1, 3, (Duration::ZERO, Duration::ZERO), Shutdown::new(Arc::default()));
        let first = rooms.enter().await;
        let served = first.phase().served().unwrap();
        let late = [rooms.enter().await, rooms.enter().await, rooms.enter().await];
        assert!(!first.is_wanted() && late.iter().all(|seat| seat.at_door() && seat.phase().served().is_some()));
        let mut sits: Vec<_> = late.iter().map(|seat| Box::pin(seat.sit())).collect();
        for sits in &mut sits {
            assert!(timeout(Duration::ZERO, sits).await.is_err());
        }
        // The connection that is served gives up its slot afterwards.
        assert!(first.is_wanted());
        drop((served, first));
        let mut sits = sits.into_iter();
        for seat in &late {
            assert_eq!(sits.next().unwrap().await, Ok(()));
            drop(lock(&seat.place).take());
        }
        assert!(!late[0].is_wanted());
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
        let ending = Shutdown::new(Arc::default());
        let rooms = Admission::new(1, ending.clone());
        let first = rooms.enter().await;
        let _served = first.phase().served().unwrap();
        let late = rooms.enter().await;
        ending.begin();
        assert_eq!(late.sit().await, Err(Overloaded));
    }
}
