//! Files that another program keeps to itself while a backup comes to them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{World, number};

/// Takes a lease, as a file server does, and gives it up a moment after somebody else opens the file.
const HOLDER: &str = "
import fcntl, os, signal, sys, time
f = os.open(sys.argv[1], os.O_RDWR)
def give_up(*_):
    time.sleep(0.3)
    fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    os._exit(0)
signal.signal(signal.SIGIO, give_up)
fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('taken', flush=True)
while True:
    time.sleep(0.05)
";

#[test]
fn a_lease_is_waited_for() {
    let world = World::with_files();
    let mut holder = Command::new("python3");
    holder.args(["-c", HOLDER]).arg(world.data().join("a.txt")).stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "taken\n");
    let report = world.json(["backup", "data"], 0);
    assert_eq!(report["good"], true, "{report}");
    assert!(holder.wait().unwrap().success());
}

/// In `/proc`, as on FUSE with `direct_io`, a file's size is 0 whatever is in it.
#[test]
fn a_file_that_does_not_know_its_size_comes_back_whole() {
    let world = World::new();
    let folder = Path::new("/proc/sys/kernel/random");
    let report = world.json(["backup", "/proc/sys/kernel/random", "--include", "boot_id"], 0);
    assert_eq!(number(&report, "files"), 1);
    let expected = fs::read(folder.join("boot_id")).unwrap();
    assert_eq!(world.run(["cat", "latest", "boot_id"]).ended(0).text().as_bytes(), expected);
    world.json(["restore", "out"], 0);
    assert_eq!(fs::read(world.path("out/boot_id")).unwrap(), expected);
}
