//! A target that other programs use while it is to be replaced.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::World;
use crate::support::requirements::as_nobody;
use crate::support::tree::set_mode;

/// A program that has opened a file, and locked it as SQLite does.
struct App(Child);

impl App {
    fn with(file: &Path) -> App {
        let script = "import fcntl,sys\nf=open(sys.argv[1],'r+b')\nfcntl.lockf(f,fcntl.LOCK_SH|fcntl.LOCK_NB,1,0)\n\
                      print('y',flush=True)\nsys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).unwrap();
        App(child)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn nothing_is_replaced_while_a_program_has_it_open() {
    let world = World::with_files();
    world.write("deep/app.db", "database");
    world.backup();
    let was = fs::metadata(world.data()).unwrap().ino();
    let app = App::with(&world.data().join("deep/app.db"));
    for args in [&["restore"][..], &["restore", "--in-place"], &["restore", "--path", "deep/app.db"]] {
        let ran = world.run(args);
        ran.ended(1).says(&format!("(process {}: ", app.0.id())).says("deep/app.db)").says("--while-in-use");
    }
    // Files that it does not use are restored beside it, and a restore to another folder is not refused.
    world.json(["restore", "--path", "a.txt"], 0);
    world.restore("elsewhere");
    assert_eq!(fs::metadata(world.data()).unwrap().ino(), was);

    let report = world.json(["restore", "--while-in-use"], 0);
    assert_eq!(report["in_use"][0]["pid"], app.0.id());
    assert!(report["in_use"][0]["file"].as_str().unwrap().ends_with("data/deep/app.db"), "{report}");
    // The app has the old file, which is no file of the directory any more.
    let text = world.run(["restore"]);
    assert!(text.ended(0).text().contains("restart"), "{text:?}");
    drop(app);
    assert_eq!(world.json(["restore"], 0)["in_use"], serde_json::json!([]));
}

#[test]
fn a_program_of_another_user_is_known_by_its_locks() {
    let world = World::with_files();
    world.write("deep/app.db", "database");
    world.backup();
    world.restore("open/data");
    let given = Command::new("chmod").arg("-R").arg("a+rwX").args([world.vault(), world.path("open")]).status();
    assert!(given.unwrap().success());
    set_mode(&world.path("open"), 0o777);
    let vault = world.vault();
    let restore = || as_nobody(&world, &["restore", "open/data", "--vault", vault.to_str().unwrap()]);
    let app = App::with(&world.path("open/data/deep/app.db"));
    let Some(ran) = restore() else { return };
    ran.ended(1).says(&format!("(process {}: ", app.0.id())).says("deep/app.db)");
    drop(app);
    restore().unwrap().ended(0);
}
