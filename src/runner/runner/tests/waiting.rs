//! Critical events that wait with a promise of a run.

use super::promises::promise;
use super::*;

#[test]
fn critical_events_that_wait_keep_no_backup_by_hand_out() {
    let world = World::new();
    let runner = world.runner();
    let first = promise(&runner, labelled("1", BackupReason::Critical, &[]));
    let held = lock(&runner.state).queue.clear().next().and_then(|waiting| waiting.promised().cloned()).unwrap();
    for _ in 0..WAITING {
        let (answer, _) = oneshot::channel();
        let (request, promise) = (labelled("1", BackupReason::Critical, &[]), PromiseState::Made(held.clone()));
        let waiting = QueuedRequest {
            run: first,
            request,
            way: Channel::Http,
            at_once: false,
            bytes: 1,
            answer,
            looked: true,
            promise,
        };
        lock(&runner.state).queue.push(waiting);
    }
    assert!(runner.overload_warning().is_some_and(|said| said.contains("1000 critical events wait")));
    let refused = runner.promise(labelled("2", BackupReason::Critical, &[]), Channel::Http);
    assert!(matches!(refused, Err(NotPromised::Answered(Answer::Later(..)))));
    ask(&runner, request(""));
    promise(&runner, RunRequest { action: Action::Verify, ..request("") });
    lock(&runner.state).queue.clear().for_each(drop);
    assert!(runner.overload_warning().is_none());
}
