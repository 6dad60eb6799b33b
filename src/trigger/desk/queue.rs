//! What waits, and what the next run serves. Pure: the time is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Answer;
use crate::report::{Action, RunId, Way};
use crate::trigger::event::Request;
use crate::trigger::once::Held;
use crate::trigger::order::ROOM;
use crate::vault::root::Reason;

/// Requests that may wait.
pub const WAITING: usize = 1000;
/// In what time runs for critical events are counted.
pub const COUNTED: Duration = Duration::from_secs(3600);

/// A request that waits for its run.
pub struct Waiting {
    /// The run that will serve it.
    pub run: RunId,
    pub request: Request,
    pub way: Way,
    /// How much of the room in its run's report it takes.
    pub bytes: usize,
    /// Whom to tell.
    pub answer: oneshot::Sender<Arc<Answer>>,
    /// Whether it has been looked, since the last run ended, if it is served already.
    pub looked: bool,
    /// Whether its sender was promised a run.
    pub promise: Promise,
}

/// Whether the sender of a request was promised a run.
pub enum Promise {
    /// He waits for the answer.
    None,
    /// He is about to be: a claim is being entered, and until that is clear no run begins with the request, nor is it put off.
    Claiming,
    /// He was, and went away: nobody sends the request again. The claim for it is held.
    Made(Arc<Held>),
}

impl Waiting {
    /// Whether it is one of those that may come in bursts.
    fn is_critical(&self) -> bool {
        self.request.action == Action::Backup && self.request.reason == Reason::Critical
    }

    /// The claim, if its sender was promised a run.
    pub fn promised(&self) -> Option<&Arc<Held>> {
        match &self.promise {
            Promise::Made(held) => Some(held),
            Promise::None | Promise::Claiming => None,
        }
    }

    /// Whether its claim is being entered.
    fn is_claiming(&self) -> bool {
        matches!(self.promise, Promise::Claiming)
    }
}

/// What is to be done next.
pub enum Next {
    /// A run for these: one request, or all backups that wait.
    Run(Vec<Waiting>),
    /// This one is to be told to come again after a while: there have been so many runs for critical events.
    PutOff(Box<Waiting>, usize, Duration),
    /// Nothing before this time, unless something else is asked for.
    Nothing(Option<Instant>),
}

/// A run for critical events.
struct Begun {
    run: RunId,
    at: Instant,
    /// Whether it is one of those whose number is limited.
    counts: bool,
}

/// Requests in the order in which they came, and when runs for critical events began.
pub struct Queue {
    /// After a run for a critical event, further ones wait for so long, to share one.
    coalesce: Duration,
    /// Runs for critical events in an hour.
    critical_max: usize,
    waiting: VecDeque<Waiting>,
    critical: VecDeque<Begun>,
    /// A run that is due, and waits for the claims of its requests to be entered.
    claiming: Option<RunId>,
}

impl Queue {
    pub fn new(coalesce: Duration, critical_max: usize) -> Self {
        Queue { coalesce, critical_max, waiting: VecDeque::new(), critical: VecDeque::new(), claiming: None }
    }

    /// Whether no more may wait.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING
    }

    /// The run that a request of this kind would share. All backups that wait share one, as long as its report has room for what
    /// asks for them; but for a run that is due and waits for claims only: else one promise after the other would keep it from
    /// beginning. Nothing else shares any.
    pub fn shared(&self, action: Action, bytes: usize) -> Option<RunId> {
        let open = |waiting: &&Waiting| is_backup(waiting) && self.claiming != Some(waiting.run);
        let mut runs: Vec<(RunId, usize)> = Vec::new();
        for waiting in self.waiting.iter().filter(open) {
            match runs.iter_mut().find(|(run, _)| *run == waiting.run) {
                Some((_, taken)) => *taken = taken.saturating_add(waiting.bytes),
                None => runs.push((waiting.run, waiting.bytes)),
            }
        }
        let fits = |(_, taken): &&(RunId, usize)| taken.saturating_add(bytes) <= ROOM;
        runs.iter().find(fits).filter(|_| action == Action::Backup).map(|(run, _)| *run)
    }

    pub fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// What was due and is not served by the run that began: it comes next.
    pub fn put_back(&mut self, waiting: Waiting) {
        self.waiting.push_front(waiting);
    }

    /// All that waits, which does so no longer.
    pub fn clear(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        std::mem::take(&mut self.waiting).into_iter()
    }

    /// Whether somebody waits for this run.
    pub fn awaits(&self, run: RunId) -> bool {
        self.waiting.iter().any(|waiting| waiting.run == run)
    }

    /// The identity of an event that waits, of which it has not been looked whether it is served already; from now on it has.
    /// A claim says so by itself.
    pub fn unlooked(&mut self) -> Option<String> {
        let identity = |waiting: &Waiting| waiting.request.event.identity.clone();
        let unclaimed = |waiting: &&Waiting| !waiting.looked && matches!(waiting.promise, Promise::None);
        let found = self.waiting.iter().filter(unclaimed).find_map(identity)?;
        for waiting in &mut self.waiting {
            waiting.looked |= waiting.request.event.identity.as_ref() == Some(&found);
        }
        Some(found)
    }

    /// Says of all that waits that it has been looked for, or is to be looked for again, as after a run.
    pub fn look(&mut self, again: bool) {
        self.waiting.iter_mut().for_each(|waiting| waiting.looked = !again);
    }

    /// Says what came of a claim that was being entered for a run, by an event of this identity. Tells whether the request waits
    /// still; it does, unless all that waits was answered.
    pub fn claimed(&mut self, run: RunId, identity: &str, promise: Promise) -> bool {
        let found = self.waiting.iter_mut().find(|waiting| is_claiming_for(waiting, run, identity));
        found.map(|waiting| waiting.promise = promise).is_some()
    }

    /// A request for which a claim was being entered, which waits no longer.
    pub fn withdraw(&mut self, run: RunId, identity: &str) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| is_claiming_for(waiting, run, identity))?;
        self.waiting.remove(at)
    }

    /// All that waits by an event of this identity, which does so no longer; but what is being claimed, as that gives the answer.
    pub fn take(&mut self, identity: &str) -> Vec<Waiting> {
        let is =
            |waiting: &Waiting| !waiting.is_claiming() && waiting.request.event.identity.as_deref() == Some(identity);
        let (taken, rest): (Vec<_>, Vec<_>) = self.clear().partition(is);
        self.waiting = rest.into();
        taken
    }

    /// Nothing was run, since others serve the events or did: it is as if the run had not begun.
    pub fn not_run(&mut self, run: RunId) {
        self.critical.retain(|begun| begun.run != run);
    }

    /// A run took no snapshot: it is none of those that are limited, lest what passes keeps later events from being served.
    /// Further ones wait for the window all the same, lest what fails at once is run again for each.
    pub fn failed(&mut self, run: RunId) {
        self.critical.iter_mut().filter(|begun| begun.run == run).for_each(|begun| begun.counts = false);
    }

    /// What is to be done now; `may` says of which kinds a run may begin.
    pub fn next(&mut self, now: Instant, may: impl Fn(Action) -> bool) -> Next {
        let kept = COUNTED.max(self.coalesce);
        while self.critical.front().is_some_and(|begun| now.duration_since(begun.at) >= kept) {
            self.critical.pop_front();
        }
        let window = self.critical.back().map(|begun| begun.at + self.coalesce).filter(|end| *end > now);
        let is_due = |waiting: &Waiting| may(waiting.request.action) && !(waiting.is_critical() && window.is_some());
        // Whatever else is due takes the critical ones along, at no cost.
        let alone = !self.waiting.iter().any(|waiting| is_due(waiting) && is_backup(waiting) && !waiting.is_critical());
        let age = |begun: &Begun| now.duration_since(begun.at);
        let mut counted = self.critical.iter().filter(|begun| begun.counts && age(begun) < COUNTED);
        let (free, others) = (counted.next().map(|begun| COUNTED.saturating_sub(age(begun))), counted.count());
        let runs = others + usize::from(free.is_some());
        let (full, free) = (alone && runs >= self.critical_max, free.unwrap_or(COUNTED));
        // Nobody would come again for one that was promised: it waits here.
        let is_promise = |waiting: &Waiting| !matches!(waiting.promise, Promise::None);
        let stays = |waiting: &Waiting| full && waiting.is_critical() && is_promise(waiting);
        let due = self.waiting.iter().find(|waiting| !full && is_due(waiting) && is_backup(waiting));
        let is_claiming = |run: &RunId| self.waiting.iter().any(|waiting| waiting.run == *run && waiting.is_claiming());
        self.claiming = due.map(|waiting| waiting.run).filter(is_claiming);
        let may_begin = |waiting: &Waiting| match is_backup(waiting) {
            true => self.claiming.is_none(),
            false => !waiting.is_claiming(),
        };
        let next = |waiting: &Waiting| is_due(waiting) && !stays(waiting) && may_begin(waiting);
        let Some(at) = self.waiting.iter().position(next) else {
            let waits = self.waiting.iter().any(Waiting::is_critical);
            let until = window.or_else(|| self.waiting.iter().any(stays).then(|| now + free));
            return Next::Nothing(until.filter(|_| waits));
        };
        if self.waiting[at].request.action != Action::Backup {
            return Next::Run(self.waiting.remove(at).into_iter().collect());
        }
        if full && let Some(waiting) = self.waiting.remove(at) {
            return Next::PutOff(waiting.into(), runs, free);
        }
        let run = self.waiting[at].run;
        let (group, rest): (Vec<_>, Vec<_>) = self.clear().partition(|waiting| waiting.run == run);
        self.waiting = rest.into();
        if let Some(first) = group.first().filter(|_| group.iter().any(Waiting::is_critical)) {
            self.critical.push_back(Begun { run: first.run, at: now, counts: true });
        }
        Next::Run(group)
    }
}

fn is_backup(waiting: &Waiting) -> bool {
    waiting.request.action == Action::Backup
}

fn is_claiming_for(waiting: &Waiting, run: RunId, identity: &str) -> bool {
    waiting.is_claiming() && waiting.run == run && waiting.request.event.identity.as_deref() == Some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hex::Hex;

    /// A queue in which critical events share a run within a minute, two runs an hour; and a clock.
    struct World {
        queue: Queue,
        began: Instant,
        requests: u64,
        /// The room that each takes.
        bytes: usize,
    }

    /// What came of asking.
    #[derive(Debug, PartialEq)]
    enum Came {
        Run(Vec<u64>),
        PutOff(u64, usize, u64),
        Nothing(Option<u64>),
    }

    impl World {
        fn new() -> Self {
            let (coalesce, began) = (Duration::from_secs(60), Instant::now());
            World { queue: Queue::new(coalesce, 2), began, requests: 0, bytes: 1 }
        }

        fn ask(&mut self, action: Action, reason: Reason) -> RunId {
            self.requests += 1;
            let run = self.queue.shared(action, self.bytes).unwrap_or(Hex(self.requests.to_be_bytes()));
            let (labels, snapshot, event) = Default::default();
            let request = Request { action, reason, labels, snapshot, event };
            // Its number goes with it as its way back.
            let (answer, _) = oneshot::channel();
            let (way, bytes, promise) = (Way::Http, self.bytes, Promise::None);
            self.queue.push(Waiting { run, request, way, bytes, answer, looked: false, promise });
            self.queue.waiting.back_mut().unwrap().request.event.message = Some(self.requests.to_string());
            run
        }

        fn critical(&mut self) -> RunId {
            self.ask(Action::Backup, Reason::Critical)
        }

        /// A claim is being entered for what came last.
        fn claiming(&mut self, identity: &str) {
            let last = self.queue.waiting.back_mut().unwrap();
            (last.promise, last.request.event.identity) = (Promise::Claiming, Some(identity.into()));
        }

        fn at(&mut self, seconds: u64) -> Came {
            self.of(seconds, |_| true)
        }

        fn of(&mut self, seconds: u64, may: impl Fn(Action) -> bool) -> Came {
            let number = |waiting: &Waiting| waiting.request.event.message.as_ref().unwrap().parse().unwrap();
            match self.queue.next(self.began + Duration::from_secs(seconds), may) {
                Next::Run(group) => Came::Run(group.iter().map(number).collect()),
                Next::PutOff(waiting, runs, after) => Came::PutOff(number(&waiting), runs, after.as_secs()),
                Next::Nothing(until) => Came::Nothing(until.map(|until| (until - self.began).as_secs())),
            }
        }
    }

    #[test]
    fn backups_that_wait_share_a_run_and_others_have_their_own() {
        let mut world = World::new();
        assert_eq!(world.at(0), Came::Nothing(None));
        let restore = world.ask(Action::Restore, Reason::Manual);
        let first = world.ask(Action::Backup, Reason::Manual);
        let verify = world.ask(Action::Verify, Reason::Manual);
        assert_eq!(world.ask(Action::Backup, Reason::Schedule), first);
        assert_eq!(world.critical(), first);
        let again = world.ask(Action::Verify, Reason::Manual);
        assert!(restore != first && verify != first && again != verify);
        assert_eq!(world.at(0), Came::Run(vec![1]));
        assert_eq!(world.at(0), Came::Run(vec![2, 4, 5]));
        // What comes when a run has begun waits for the next one.
        assert_ne!(world.ask(Action::Backup, Reason::Manual), first);
        assert_eq!(world.at(0), Came::Run(vec![3]));
        assert_eq!(world.at(0), Came::Run(vec![6]));
        assert_eq!(world.at(0), Came::Run(vec![7]));
        assert_eq!(world.at(0), Came::Nothing(None));
    }

    #[test]
    fn what_a_report_has_no_room_for_has_a_run_of_its_own_from_the_beginning() {
        let mut world = World::new();
        world.bytes = ROOM / 2;
        let first = world.ask(Action::Backup, Reason::Manual);
        assert_eq!(world.ask(Action::Backup, Reason::Manual), first);
        let second = world.ask(Action::Backup, Reason::Manual);
        assert_ne!(second, first);
        world.bytes = ROOM / 2 + 1;
        let third = world.ask(Action::Backup, Reason::Manual);
        assert!(third != first && third != second);
        world.bytes = ROOM - 2 * (ROOM / 2);
        assert_eq!(world.ask(Action::Backup, Reason::Manual), if world.bytes == 0 { first } else { second });
        let of_run = |came: &Came| matches!(came, Came::Run(group) if !group.is_empty());
        assert!((0..3).all(|_| of_run(&world.at(0))) && !of_run(&world.at(0)));
    }

    #[test]
    fn of_a_burst_one_runs_at_once_and_the_rest_when_the_window_is_over() {
        let mut world = World::new();
        world.critical();
        assert_eq!(world.at(10), Came::Run(vec![1]));
        world.critical();
        world.critical();
        assert_eq!(world.at(11), Came::Nothing(Some(70)));
        assert_eq!(world.at(69), Came::Nothing(Some(70)));
        assert_eq!(world.at(70), Came::Run(vec![2, 3]));
        assert_eq!(world.at(70), Came::Nothing(None));
        // What else is due does not wait for the window, and takes along what does.
        world.critical();
        world.ask(Action::Verify, Reason::Manual);
        assert_eq!(world.at(71), Came::Run(vec![5]));
        world.ask(Action::Backup, Reason::Schedule);
        assert_eq!(world.at(72), Came::Run(vec![4, 6]));
    }

    #[test]
    fn runs_for_critical_events_are_bounded_by_the_hour() {
        let mut world = World::new();
        for (number, seconds) in [(1, 0), (2, 100)] {
            world.critical();
            assert_eq!(world.at(seconds), Came::Run(vec![number]));
        }
        world.critical();
        world.critical();
        assert_eq!(world.at(200), Came::PutOff(3, 2, 3400));
        assert_eq!(world.at(200), Came::PutOff(4, 2, 3400));
        assert_eq!(world.at(200), Came::Nothing(None));
        // A backup that is run anyway takes them along, and counts.
        world.critical();
        world.ask(Action::Backup, Reason::Manual);
        assert_eq!(world.at(300), Came::Run(vec![5, 6]));
        world.critical();
        assert_eq!(world.at(3599), Came::PutOff(7, 3, 1));
        world.critical();
        assert_eq!(world.at(3600), Came::PutOff(8, 2, 100));
        world.critical();
        assert_eq!(world.at(3700), Came::Run(vec![9]));
    }

    #[test]
    fn what_was_promised_waits_where_others_are_put_off() {
        let mut world = World::new();
        for (number, seconds) in [(1, 0), (2, 100)] {
            world.critical();
            assert_eq!(world.at(seconds), Came::Run(vec![number]));
        }
        world.critical();
        world.claiming("a");
        assert_eq!(world.at(160), Came::Nothing(Some(3600)));
        assert!(world.queue.claimed(Hex(3u64.to_be_bytes()), "a", Promise::Made(crate::trigger::once::tests::held())));
        world.critical();
        let verify = world.ask(Action::Verify, Reason::Manual);
        assert_eq!(world.at(200), Came::PutOff(4, 2, 3400));
        // It keeps nothing else from being done.
        assert_eq!(world.at(200), Came::Run(vec![5]));
        assert!(!world.queue.awaits(verify));
        assert_eq!(world.at(200), Came::Nothing(Some(3600)));
        assert_eq!(world.at(3600), Came::Run(vec![3]));
    }

    #[test]
    fn no_run_begins_with_what_is_being_claimed() {
        let mut world = World::new();
        let first = world.ask(Action::Backup, Reason::Manual);
        assert_eq!(world.critical(), first);
        world.claiming("a");
        // It keeps nothing else from being done.
        let verify = world.ask(Action::Verify, Reason::Manual);
        world.claiming("b");
        world.ask(Action::Verify, Reason::Manual);
        assert_eq!(world.at(0), Came::Run(vec![4]));
        assert_eq!(world.at(0), Came::Nothing(None));
        // What comes now would make it wait for longer.
        let second = world.ask(Action::Backup, Reason::Manual);
        assert_ne!(second, first);
        assert_eq!(world.at(0), Came::Nothing(None));
        assert!(world.queue.claimed(first, "a", Promise::None) && !world.queue.claimed(first, "a", Promise::None));
        assert_eq!(world.at(0), Came::Run(vec![1, 2]));
        assert_eq!(world.at(0), Came::Run(vec![5]));
        // What turns out to be served elsewhere waits no longer.
        assert!(world.queue.withdraw(verify, "b").is_some() && !world.queue.awaits(verify));
        // While it waits for something else, others share its run.
        let third = world.critical();
        world.claiming("c");
        assert_eq!(world.at(1), Came::Nothing(Some(60)));
        assert_eq!(world.critical(), third);
        assert!(world.queue.unlooked().is_none() && world.queue.take("c").is_empty());
        assert_eq!(world.at(60), Came::Nothing(None));
        assert!(world.queue.claimed(third, "c", Promise::None));
        assert_eq!(world.at(60), Came::Run(vec![6, 7]));
    }

    #[test]
    fn a_run_that_came_to_nothing_keeps_no_event_from_being_served() {
        let mut world = World::new();
        // Of two redeliveries that others had served, nothing is left.
        for seconds in [0, 1, 2] {
            let run = world.critical();
            assert!(matches!(world.at(seconds), Came::Run(_)));
            world.queue.not_run(run);
        }
        // What fails is run again when the window is over, however often it fails.
        let run = world.critical();
        assert_eq!(world.at(60), Came::Run(vec![4]));
        world.queue.failed(run);
        for number in 5..10 {
            let (run, end) = (world.critical(), (number - 3) * 60);
            assert_eq!(world.at(end - 1), Came::Nothing(Some(end)));
            assert_eq!(world.at(end), Came::Run(vec![number]));
            world.queue.failed(run);
        }
    }

    #[test]
    fn what_waits_is_looked_for_once_after_each_run() {
        let mut world = World::new();
        for identity in ["a", "", "b", "a"] {
            world.critical();
            let event = &mut world.queue.waiting.back_mut().unwrap().request.event;
            event.identity = Some(identity.to_owned()).filter(|identity| !identity.is_empty());
        }
        let looked = |world: &mut World| std::iter::from_fn(|| world.queue.unlooked()).collect::<Vec<_>>();
        assert_eq!((looked(&mut world), looked(&mut world).len()), (vec!["a".to_owned(), "b".to_owned()], 0));
        world.queue.look(true);
        assert_eq!(world.queue.unlooked().as_deref(), Some("a"));
        world.queue.look(false);
        assert_eq!(world.queue.unlooked(), None);
        let taken = world.queue.take("a");
        assert!(taken.len() == 2 && world.queue.awaits(taken[0].run));
        assert_eq!(world.at(0), Came::Run(vec![2, 3]));
        assert!(!world.queue.awaits(taken[0].run));
    }

    #[test]
    fn a_window_may_be_longer_than_an_hour() {
        let mut world = World::new();
        world.queue.coalesce = Duration::from_secs(7200);
        world.critical();
        assert_eq!(world.at(0), Came::Run(vec![1]));
        world.critical();
        assert_eq!(world.at(3700), Came::Nothing(Some(7200)));
        assert_eq!(world.at(7200), Came::Run(vec![2]));
    }

    #[test]
    fn what_may_not_begin_yet_waits_and_lets_others_pass() {
        let mut world = World::new();
        world.ask(Action::Backup, Reason::Manual);
        world.ask(Action::Verify, Reason::Manual);
        let no_backup = |action| action != Action::Backup;
        assert_eq!(world.of(0, no_backup), Came::Run(vec![2]));
        assert_eq!(world.of(0, no_backup), Came::Nothing(None));
        assert_eq!(world.at(0), Came::Run(vec![1]));
        for _ in 0..WAITING {
            assert!(!world.queue.is_full());
            world.critical();
        }
        assert!(world.queue.is_full());
        assert_eq!(world.queue.clear().count(), WAITING);
        assert!(!world.queue.is_full());
    }
}
