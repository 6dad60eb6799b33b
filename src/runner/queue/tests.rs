use super::*;
use crate::vault::hex::Hex;

/// A queue in which critical events share a run within a minute, two runs an hour; and a clock.
struct World {
    queue: Queue,
    began: Instant,
    requests: u64,
    /// The bytes that each request takes.
    bytes: usize,
}

/// The outcome of asking for the next step.
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

    fn ask(&mut self, action: Action, reason: BackupReason) -> RunId {
        self.requests += 1;
        let run = self.queue.run_to_share(action, self.bytes).unwrap_or(Hex(self.requests.to_be_bytes()));
        let (labels, snapshot, event) = Default::default();
        let request = RunRequest { action, reason, labels, snapshot, event };
        // The request's number goes with it as its message, by which the test finds out what was served.
        let (answer, _) = oneshot::channel();
        let (way, bytes, promise) = (Channel::Http, self.bytes, PromiseState::None);
        self.queue.push(QueuedRequest { run, request, way, at_once: false, bytes, answer, looked: false, promise });
        self.queue.waiting.back_mut().unwrap().request.event.message = Some(self.requests.to_string());
        run
    }

    fn is_full(&self, reason: BackupReason, promise: PromiseState) -> bool {
        let (action, (labels, snapshot, event)) = (Action::Backup, Default::default());
        self.queue.is_full(&RunRequest { action, reason, labels, snapshot, event }, &promise)
    }

    fn critical(&mut self) -> RunId {
        self.ask(Action::Backup, BackupReason::Critical)
    }

    /// Marks the last request as one for which a claim is being entered.
    fn claiming(&mut self, identity: &str) {
        let last = self.queue.waiting.back_mut().unwrap();
        (last.promise, last.request.event.identity) = (PromiseState::Claiming, Some(identity.into()));
    }

    fn at(&mut self, seconds: u64) -> Came {
        self.of(seconds, |_| true)
    }

    fn of(&mut self, seconds: u64, may: impl Fn(Action) -> bool) -> Came {
        let number = |waiting: &QueuedRequest| waiting.request.event.message.as_ref().unwrap().parse().unwrap();
        match self.queue.next(self.began + Duration::from_secs(seconds), may) {
            NextStep::Run(group) => Came::Run(group.iter().map(number).collect()),
            NextStep::PutOff(waiting, runs, after) => Came::PutOff(number(&waiting), runs, after.as_secs()),
            NextStep::Nothing(until) => Came::Nothing(until.map(|until| (until - self.began).as_secs())),
        }
    }
}

#[test]
fn backups_that_wait_share_a_run_and_others_have_their_own() {
    let mut world = World::new();
    assert_eq!(world.at(0), Came::Nothing(None));
    let restore = world.ask(Action::Restore, BackupReason::Manual);
    let first = world.ask(Action::Backup, BackupReason::Manual);
    let verify = world.ask(Action::Verify, BackupReason::Manual);
    assert_eq!(world.ask(Action::Backup, BackupReason::Schedule), first);
    assert_eq!(world.critical(), first);
    let again = world.ask(Action::Verify, BackupReason::Manual);
    assert!(restore != first && verify != first && again != verify);
    assert_eq!(world.at(0), Came::Run(vec![1]));
    assert_eq!(world.at(0), Came::Run(vec![2, 4, 5]));
    // A request that comes when a run has begun waits for the next one.
    assert_ne!(world.ask(Action::Backup, BackupReason::Manual), first);
    assert_eq!(world.at(0), Came::Run(vec![3]));
    assert_eq!(world.at(0), Came::Run(vec![6]));
    assert_eq!(world.at(0), Came::Run(vec![7]));
    assert_eq!(world.at(0), Came::Nothing(None));
}

#[test]
fn what_a_report_has_no_room_for_has_a_run_of_its_own_from_the_beginning() {
    let mut world = World::new();
    world.bytes = ROOM / 2;
    let first = world.ask(Action::Backup, BackupReason::Manual);
    assert_eq!(world.ask(Action::Backup, BackupReason::Manual), first);
    let second = world.ask(Action::Backup, BackupReason::Manual);
    assert_ne!(second, first);
    world.bytes = ROOM / 2 + 1;
    let third = world.ask(Action::Backup, BackupReason::Manual);
    assert!(third != first && third != second);
    world.bytes = ROOM - 2 * (ROOM / 2);
    assert_eq!(world.ask(Action::Backup, BackupReason::Manual), if world.bytes == 0 { first } else { second });
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
    // Other requests that are due do not wait for the window, and take along those that do.
    world.critical();
    world.ask(Action::Verify, BackupReason::Manual);
    assert_eq!(world.at(71), Came::Run(vec![5]));
    world.ask(Action::Backup, BackupReason::Schedule);
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
    world.ask(Action::Backup, BackupReason::Manual);
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
    assert!(world.queue.claimed(
        Hex(3u64.to_be_bytes()),
        "a",
        PromiseState::Made(crate::claims::idempotent::tests::held())
    ));
    world.critical();
    let verify = world.ask(Action::Verify, BackupReason::Manual);
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
    let first = world.ask(Action::Backup, BackupReason::Manual);
    assert_eq!(world.critical(), first);
    world.claiming("a");
    // It keeps nothing else from being done.
    let verify = world.ask(Action::Verify, BackupReason::Manual);
    world.claiming("b");
    world.ask(Action::Verify, BackupReason::Manual);
    assert_eq!(world.at(0), Came::Run(vec![4]));
    assert_eq!(world.at(0), Came::Nothing(None));
    // A request that comes now would make it wait for longer.
    let second = world.ask(Action::Backup, BackupReason::Manual);
    assert_ne!(second, first);
    assert_eq!(world.at(0), Came::Nothing(None));
    assert!(
        world.queue.claimed(first, "a", PromiseState::None) && !world.queue.claimed(first, "a", PromiseState::None)
    );
    assert_eq!(world.at(0), Came::Run(vec![1, 2]));
    assert_eq!(world.at(0), Came::Run(vec![5]));
    // A request that turns out to be served elsewhere waits no longer.
    assert!(world.queue.withdraw(verify, "b").is_some() && !world.queue.awaits(verify));
    // While it waits for something else, others share its run.
    let third = world.critical();
    world.claiming("c");
    assert_eq!(world.at(1), Came::Nothing(Some(60)));
    assert_eq!(world.critical(), third);
    assert!(world.queue.next_unlooked().is_none() && world.queue.take_by_identity("c").is_empty());
    assert_eq!(world.at(60), Came::Nothing(None));
    assert!(world.queue.claimed(third, "c", PromiseState::None));
    assert_eq!(world.at(60), Came::Run(vec![6, 7]));
}

#[test]
fn a_run_that_came_to_nothing_keeps_no_event_from_being_served() {
    let mut world = World::new();
    // After redeliveries that others had served, nothing is left.
    for seconds in [0, 1, 2] {
        let run = world.critical();
        assert!(matches!(world.at(seconds), Came::Run(_)));
        world.queue.forget_run(run);
    }
    // A run that fails is repeated when the window is over, however often it fails.
    let run = world.critical();
    assert_eq!(world.at(60), Came::Run(vec![4]));
    world.queue.uncount(run);
    for number in 5..10 {
        let (run, end) = (world.critical(), (number - 3) * 60);
        assert_eq!(world.at(end - 1), Came::Nothing(Some(end)));
        assert_eq!(world.at(end), Came::Run(vec![number]));
        world.queue.uncount(run);
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
    let looked = |world: &mut World| std::iter::from_fn(|| world.queue.next_unlooked()).collect::<Vec<_>>();
    assert_eq!((looked(&mut world), looked(&mut world).len()), (vec!["a".to_owned(), "b".to_owned()], 0));
    world.queue.look(true);
    assert_eq!(world.queue.next_unlooked().as_deref(), Some("a"));
    world.queue.look(false);
    assert_eq!(world.queue.next_unlooked(), None);
    let taken = world.queue.take_by_identity("a");
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
    world.ask(Action::Backup, BackupReason::Manual);
    world.ask(Action::Verify, BackupReason::Manual);
    let no_backup = |action| action != Action::Backup;
    assert_eq!(world.of(0, no_backup), Came::Run(vec![2]));
    assert_eq!(world.of(0, no_backup), Came::Nothing(None));
    assert_eq!(world.at(0), Came::Run(vec![1]));
    for _ in 0..WAITING {
        assert!(!world.is_full(BackupReason::Manual, PromiseState::None));
        world.critical();
    }
    assert!(world.is_full(BackupReason::Manual, PromiseState::None));
    assert_eq!(world.queue.clear().count(), WAITING);
    assert!(!world.is_full(BackupReason::Manual, PromiseState::None));
}

#[test]
fn critical_events_that_wait_for_an_hour_keep_nothing_else_out() {
    let mut world = World::new();
    for n in 0..WAITING {
        assert!(!world.is_full(BackupReason::Critical, PromiseState::Claiming));
        world.critical();
        world.claiming(&n.to_string());
    }
    assert!(
        world.is_full(BackupReason::Critical, PromiseState::Claiming) && world.queue.promised_critical() == WAITING
    );
    // Requests that are waited for, and whatever is asked for by hand.
    assert!(
        !world.is_full(BackupReason::Critical, PromiseState::None)
            && !world.is_full(BackupReason::Manual, PromiseState::Claiming)
    );
    for _ in 0..WAITING {
        world.ask(Action::Restore, BackupReason::Manual);
    }
    assert!(
        world.is_full(BackupReason::Critical, PromiseState::None)
            && world.is_full(BackupReason::Manual, PromiseState::Claiming)
    );
}
