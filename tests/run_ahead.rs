//! `lastgood run`: an instance that has to wait for another one restores the newest snapshot beside its directory meanwhile, and what
//! has changed since is all that it reads when the other one has ended.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::World;
use crate::support::cloud::server::{Kind, Request, Server};
use crate::support::cloud::vault_in;
use crate::support::compare::assert_same;
use crate::support::counter::{WITHIN, until, without_terminal};
use crate::support::process::Running;
use crate::support::tree::{noise, set_mtime};

/// The large files of the data, and the bytes of each.
const LARGE: u64 = 16;
const EACH: usize = 4 << 20;
/// An app that writes once more when it is told to end.
const LAST_WORDS: &str = "trap 'sleep 1; echo last >small; rm vanishes; chmod 600 mode; touch appears; exit 0' TERM; while :; do sleep 0.1; done";
const READY: &str = "is restored beside the data directory";

/// An instance with data in `data` that has saved it in a bucket.
fn first() -> (Server, World, Running) {
    let (server, world) = vault_in(World::with_everything());
    for file in 0..LARGE {
        world.write(&format!("large/{file}"), noise(1000 + file, EACH));
    }
    for name in ["small", "vanishes", "mode"] {
        world.write(name, name);
    }
    let app = format!("cd data; {LAST_WORDS}");
    let a = start(&world, "data", &["sh", "-c", &app]);
    a.log_with("run ended: backup is complete");
    (server, world, a)
}

fn start(world: &World, data: &str, app: &[&str]) -> Running {
    let options = ["run", "--every", "off", "--handover-poll", "200ms", "--stop-timeout", "20s", "--"];
    let mut command = world.command([&options[..], app].concat());
    command.env("LASTGOOD_DATA", world.path(data));
    Running::start(without_terminal(&command), "")
}

/// The bytes that were read of packs.
fn read(requests: &[Request]) -> u64 {
    let of_pack = |request: &&Request| {
        request.kind == Kind::Read && request.name.as_ref().is_some_and(|name| name.contains("packs/"))
    };
    requests.iter().filter(of_pack).map(|request| request.sent).sum()
}

/// Removes lastgood's own folder, which no snapshot has.
fn without_own(folder: PathBuf) -> PathBuf {
    let times = fs::metadata(&folder).unwrap();
    fs::remove_dir_all(folder.join(".lastgood")).unwrap();
    use std::os::unix::fs::MetadataExt;
    set_mtime(&folder, times.mtime(), times.mtime_nsec());
    folder
}

/// Waits until nothing is staged any more: what is left over is removed when the app runs.
#[track_caller]
fn nothing_stays(world: &World, run: &Running) {
    until("the end of what was staged", WITHIN, || run.log(), || staged(world).is_empty().then_some(()));
}

/// The staging folders beside the data directories.
fn staged(world: &World) -> Vec<String> {
    let names = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names(&world.path("")).map(|name| name.into_string().unwrap());
    names.filter(|name| name.contains("lastgood-restoring")).collect()
}

#[test]
fn after_its_epoch_an_instance_reads_only_what_has_changed_since() {
    let (server, world, mut a) = first();
    server.forget();
    let mut b = start(&world, "b", &["sleep", "60"]);
    let log = b.log_with("the app has started");
    let requests = server.requests();
    assert!(log.contains(READY), "{log}");
    assert!(log.find(READY) < log.find("this instance is of epoch 2"), "{log}");
    let is_epoch = |request: &Request| {
        request.method == "POST" && request.name.as_ref().is_some_and(|name| name.ends_with("epochs/2.json"))
    };
    let taken = requests.iter().position(is_epoch).unwrap();
    let (before, after) = (read(&requests[..taken]), read(&requests[taken..]));
    assert!(before >= LARGE * EACH as u64, "{before} bytes before the epoch");
    // A frame of a pack holds several files, and what both instances read is counted.
    assert!(after < 2 * EACH as u64, "{after} bytes since: {:#?}", &requests[taken..]);
    nothing_stays(&world, &b);
    assert_eq!(b.end(Signal::TERM).0, Some(143), "{}", b.log());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    assert_eq!(fs::read_to_string(world.path("b/small")).unwrap(), "last\n");
    assert_same(&without_own(world.data()), &without_own(world.path("b")));
}

#[test]
fn an_instance_that_is_killed_while_it_waits_leaves_nothing_for_long() {
    let (_server, world, mut a) = first();
    let mut b = start(&world, "b", &["sleep", "60"]);
    b.log_with(READY);
    b.log_with("waiting for the end of epoch 1");
    b.end(Signal::KILL);
    assert_eq!(staged(&world).len(), 1);
    assert!(!world.path("b").exists());
    a.log_with("this one waits until that has ended");
    let mut b = start(&world, "b", &["sleep", "60"]);
    b.log_with_within("the app has started", 1, std::time::Duration::from_secs(60));
    nothing_stays(&world, &b);
    assert_eq!(b.end(Signal::TERM).0, Some(143), "{}", b.log());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    assert_same(&without_own(world.data()), &without_own(world.path("b")));
}
