//! Pings of a dead man's switch: a backup begins, is complete or fails; nothing else is told, and no run is changed.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::World;
use crate::support::http::Service;
use crate::support::webhook::{Post, Step, Webhook};

const PATH: &str = "/services/T0/secret";

/// Returns how the paths of pings end, and asserts that all are of one run.
#[track_caller]
fn ends(posts: &[Post]) -> Vec<&str> {
    let ids: Vec<_> = posts.iter().map(|post| post.target.split_once("&rid=").expect(&post.target).1).collect();
    assert!(ids.iter().all(|id| id.len() == 36 && *id == ids[0]), "{ids:?}");
    posts.iter().map(|post| post.target.split_once('?').unwrap().0.strip_prefix(PATH).unwrap()).collect()
}

#[test]
fn a_backup_begins_and_is_complete_or_fails() {
    let service = Webhook::new(&[]);
    let world = World::with_files().with("LASTGOOD_PING", service.url());
    let ran = world.run(["backup"]);
    ran.ended(0);
    assert!(!ran.stderr.contains("secret"), "{ran:?}");
    let posts = service.posts();
    assert_eq!(ends(&posts), ["/start", ""]);
    assert!(posts[0].target.contains("?key=secret&rid="), "{}", posts[0].target);
    assert!(posts[0].body == b"A backup begins." && posts[1].headers.contains("content-type: text/plain"), "{posts:?}");
    let text = String::from_utf8(posts[1].body.clone()).unwrap();
    assert!(text.starts_with("The backup on ") && text.contains(" is complete: snapshot "), "{text}");

    // A snapshot that is not complete is no success, and no more is a backup that cannot begin.
    std::fs::remove_dir_all(world.data()).unwrap();
    std::fs::create_dir(world.data()).unwrap();
    world.run(["backup"]).ended(3);
    assert_eq!(ends(&service.posts()[2..]), ["/start", "/fail"]);
    std::fs::remove_dir(world.data()).unwrap();
    world.run(["backup"]).ended(1);
    let posts = service.posts();
    assert_eq!(ends(&posts[4..]), ["/start", "/fail"]);
    let text = String::from_utf8(posts[5].body.clone()).unwrap();
    assert!(text.contains(" failed after ") && text.contains("it does not exist"), "{text}");

    // Nothing but a backup is told.
    world.run(["restore"]).ended(0);
    world.run(["verify"]).ended(0);
    world.run(["backup", "--dry-run"]);
    assert_eq!(service.posts().len(), 6);
}

#[test]
fn a_ping_that_is_not_answered_or_refused_changes_no_run() {
    let world = World::with_files();
    // The beginning hangs for all its time; the end waits for that, and is told.
    let slow = Webhook::new(&[Step::Hang]);
    let began = Instant::now();
    world.run(["backup", "--ping", &slow.url()]).ended(0);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(ends(&slow.wait_for(2)), ["/start", ""]);
    let refusing = Webhook::new(&[Step::Answer(404, ""), Step::Answer(404, "")]);
    let ran = world.run(["backup", "--ping", &refusing.url()]);
    ran.ended(0).says("could not post to the ping service at http://127.0.0.1:").says("404");
    assert!(ran.stderr.matches("ping service").count() == 2 && !ran.stderr.contains("secret"), "{ran:?}");
    // Nobody else would notice that the switch watches nothing.
    let refusing = Webhook::new(&[Step::Answer(404, ""), Step::Answer(404, "")]);
    let ran = world.run(["backup", "--quiet", "--ping", &refusing.url()]);
    ran.ended(0).says("ERROR how the run ").says("could not post to the ping service");
    assert!(ran.stdout.is_empty(), "{ran:?}");
    let refusing = Webhook::new(&[Step::Answer(404, "")]);
    let ran = world.run(["backup", "--quiet", "--webhook", &refusing.url()]);
    assert_eq!((ran.ended(0).stderr.as_str(), refusing.posts().len()), ("", 1));
    // Who knows no beginnings is told how backups end.
    let half = Webhook::new(&[Step::Answer(404, "")]);
    let ran = world.run(["backup", "--ping", &half.url()]);
    assert!(!ran.ended(0).stderr.contains("ping"), "{ran:?}");
}

#[test]
fn a_service_pings_for_its_backups() {
    let hook = Webhook::new(&[]);
    let world = World::with_files().with("LASTGOOD_PING", hook.url());
    world.run(["init"]).ended(0);
    let service = Service::start(&world, []);
    service.post("/events/backup", "nightly").is(200);
    assert_eq!(ends(&hook.wait_for(2)), ["/start", ""]);
}

#[test]
fn the_end_is_told_although_the_beginning_hangs_when_sigterm_comes() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    let slow = Webhook::new(&[Step::Hang]);
    let mut child = world.command(["backup", "--ping", &slow.url()]).spawn().unwrap();
    slow.wait_for(1);
    // The snapshot is there: now it waits for the beginning.
    world.snapshots_once(1, Duration::from_secs(60));
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let told = Instant::now();
    child.wait().unwrap();
    assert!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
    assert_eq!(ends(&slow.posts()), ["/start", ""]);
}
