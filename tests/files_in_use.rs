//! Files that another program keeps to itself while a backup comes to them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::World;

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
