//! Files that an app changes through a shared memory map, which need not move any of their times.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::World;
use crate::support::requirements::Mounted;
use crate::support::tree::set_mtime;

/// Maps the file `s`, stores `first!` into it, and then each line that it is given.
const APP: &str = "
import mmap, sys
f = open('data/s', 'r+b')
m = mmap.mmap(f.fileno(), 0)
m[0:6] = b'first!'
print('stored', flush=True)
for line in sys.stdin:
    m[0:6] = line.strip().encode()
    print('stored', flush=True)
";

/// An app that keeps a file mapped.
struct App {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl App {
    fn start(world: &World) -> Self {
        world.write("s", [0; 65536]);
        // Enough that the backup does not come to the file in the moment in which it begins.
        (0..20).for_each(|n| world.write(&format!("f{n}"), "x"));
        let mut python = Command::new("python3");
        python.args(["-c", APP]).current_dir(world.path("")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut app = App { child, to, from };
        app.stored();
        app
    }

    fn store(&mut self, what: &str) {
        writeln!(self.to, "{what}").unwrap();
        self.stored();
    }

    fn stored(&mut self) {
        let mut said = String::new();
        self.from.read_line(&mut said).unwrap();
        assert_eq!(said, "stored\n");
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stored(world: &World) -> String {
    world.backup();
    let content = world.run(["cat", "latest", "s"]);
    content.ended(0);
    String::from_utf8_lossy(&content.stdout[..6]).into_owned()
}

#[test]
fn what_is_stored_before_the_page_is_written_out_is_seen() {
    let world = World::new();
    let mut app = App::start(&world);
    // The clock has moved on for good, and the page is dirty still.
    std::thread::sleep(std::time::Duration::from_millis(2200));
    assert_eq!(stored(&world), "first!");
    app.store("second");
    assert_eq!(stored(&world), "second");
}

/// A file in memory whose times were set long ago, and which changes through its map between two backups.
fn changes_in_memory(world: &World) {
    let mut app = App::start(world);
    let path = world.data().join("s");
    set_mtime(&path, 1_700_000_000, 5);
    assert_eq!(stored(world), "first!");
    let times = || std::fs::metadata(&path).map(|is| (is.modified().unwrap(), is.len())).unwrap();
    let before = times();
    app.store("second");
    assert_eq!(times(), before, "no time tells of it");
    assert_eq!(stored(world), "second");
}

#[test]
fn files_in_memory_are_read_each_time() {
    let world = World::new();
    let Some(_mounted) = Mounted::new(world.data(), "64m") else { return };
    changes_in_memory(&world);
}

#[test]
fn files_of_a_container_in_memory_are_read_each_time() {
    let world = World::new();
    let Some(_memory) = Mounted::new(world.path("layers"), "64m") else { return };
    let Some(_mounted) = Mounted::overlay(&world.path("layers"), world.data(), "") else { return };
    changes_in_memory(&world);
}

#[test]
fn files_of_a_container_on_a_disk_are_not() {
    let world = World::new();
    std::fs::create_dir(world.path("layers")).unwrap();
    let Some(_mounted) = Mounted::overlay(&world.path("layers"), world.data(), "") else { return };
    world.write("file", [7; 10_000]);
    set_mtime(&world.data().join("file"), 1_700_000_000, 5);
    let read: Vec<_> = (0..4).map(|_| world.backup()["read_bytes"].as_u64().unwrap()).collect();
    // One backup in 64 reads it all the same.
    assert!(read[0] == 10_000 && read.iter().filter(|read| **read == 0).count() >= 2, "{read:?}");
}
