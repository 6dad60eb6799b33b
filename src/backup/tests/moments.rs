//! Backups during which an app does something at one exact moment.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;
use crate::backup::options::BeforeCommit;
use crate::skipped::skipped;
use crate::sqlite;
use crate::sqlite::peer::Peer;
use std::time::Duration;

mod databases;
mod files;
mod looks;
mod moved;

/// An action for a moment and a path; returns whether it is done.
type Action = Box<dyn FnMut(Moment, &str) -> bool + Send>;

/// Performs an action until that reports that it is done.
struct App(Mutex<Option<Action>>);

impl Monitor for App {
    fn reached(&self, moment: Moment, path: &EntryPath) {
        let mut action = self.0.lock().unwrap();
        if action.as_mut().is_some_and(|action| action(moment, &path.to_string())) {
            *action = None;
        }
    }
}

impl World {
    /// Makes a backup during which something is done at a moment.
    fn backup_while(
        &mut self,
        at: Moment,
        path: &'static str,
        mut action: impl FnMut(PathBuf) + Send + 'static,
    ) -> BackupReport {
        let report = self.try_backup_while(at, path, move |data| {
            action(data);
            true
        });
        report.unwrap()
    }

    fn try_backup_while(
        &mut self,
        at: Moment,
        path: &'static str,
        mut action: impl FnMut(PathBuf) -> bool + Send + 'static,
    ) -> Result<BackupReport> {
        let data = self.data.path().to_path_buf();
        let action: Action = Box::new(move |moment, now| (moment, now) == (at, path) && action(data.clone()));
        let app = Arc::new(App(Mutex::new(Some(action))));
        self.monitor = app.clone();
        let report = self.try_backup();
        if report.is_ok() {
            assert!(app.0.lock().unwrap().is_none(), "{at:?} {path} was never reached");
        }
        self.monitor = Arc::new(CollectingMonitor::default());
        report
    }

    fn paths(&self, report: &BackupReport) -> Vec<String> {
        self.entries(report.snapshot).iter().map(|(entry, _)| entry.path.to_string()).collect()
    }
}

fn exchange(a: PathBuf, b: PathBuf) {
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn a_panic_of_any_thread_ends_the_run_with_an_error() {
    for moment in [Moment::Listing, Moment::Opening, Moment::Opened, Moment::Reading, Moment::Read] {
        let mut world = World::new();
        (0..5).for_each(|n| world.write(&format!("f/{n}"), &noise(n, 400_000)));
        world.write("other", b"x");
        let action: Action = Box::new(move |now, path| {
            if now == moment && path.starts_with('f') {
                panic!("on purpose");
            }
            false
        });
        world.monitor = Arc::new(Unguarded(Mutex::new(action)));
        match world.try_backup() {
            Err(said) => {
                let said = said.to_string();
                assert!(
                    ["ended in a panic", "ended in the middle"].iter().any(|e| said.contains(e)),
                    "{moment:?}: {said}"
                );
                assert_eq!(world.vault.snapshots().unwrap(), []);
            }
            // A thread that lists ahead of the walk reports that it could not.
            Ok(report) => assert!(moment == Moment::Listing && !report.good, "{moment:?}"),
        }
    }
}

/// Does something at every moment, from several threads at once.
struct Unguarded(Mutex<Action>);

impl Monitor for Unguarded {
    fn reached(&self, moment: Moment, path: &EntryPath) {
        let mut action = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        action(moment, &path.to_string());
    }
}

/// A filesystem that a test mounted.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[test]
fn a_filesystem_that_is_mounted_at_a_new_folder_is_taken() {
    let mut world = World::new();
    world.write("z/file", b"x");
    let (to, mounted) = std::sync::mpsc::channel();
    let report = world.backup_while(Moment::Listing, "z", move |data| {
        let at = data.join("volume");
        fs::create_dir(&at).unwrap();
        let made = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&at).output();
        if made.as_ref().is_ok_and(|made| made.status.success()) {
            fs::write(at.join("file"), "on the volume").unwrap();
            return to.send(Ok(Mounted(at))).unwrap();
        }
        to.send(Err(format!("a tmpfs cannot be mounted: {made:?}"))).unwrap();
    });
    // It stays mounted until the end of the test.
    let _mounted = match mounted.recv().unwrap() {
        Ok(mounted) => mounted,
        Err(why) => return skipped("mount", &why),
    };
    assert_eq!(world.content(report.snapshot, "volume/file"), b"on the volume", "{report:?}");
}
