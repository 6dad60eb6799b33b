//! Runs another process, for tests: locks do not bind the process that has them, and looking at a file from this
//! process would drop them. It is this test program again, running [`another_process`] and doing what it is told line
//! by line.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

/// The variable that is set for the other process.
const TOLD: &str = "LASTGOOD_TEST_PEER";
/// Number of rows of the table that is written to.
const ROWS: i64 = 100;
/// Prefix of a line that is an answer; the test harness prints other lines.
const ANSWER: &str = "answer ";

#[derive(Debug, Serialize, Deserialize)]
enum PeerCommand {
    /// Opens a database, instead of the one before.
    Open(Vec<u8>),
    /// Closes the database.
    Close,
    /// Executes statements.
    Run(String),
    /// Queries one value.
    Ask(String),
    /// Reads a database live.
    Live(Vec<u8>),
    /// Lists a folder.
    Look(Vec<u8>),
    /// Begins to write to a database without pause, with checkpoints of this kind in between.
    Hammer(Vec<u8>, Option<String>),
    /// Ends the writing.
    Rest,
}

/// The contents of a folder: hash, size and mtime by name.
pub type FolderContents = BTreeMap<Vec<u8>, (String, u64, i128)>;

/// The other process; killed when it is dropped.
pub struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    pub fn start() -> Peer {
        Peer::of(&mut Command::new(std::env::current_exe().unwrap()))
    }

    /// Starts a process with no rights but those that everybody has; `folder` is where everybody can start it from.
    pub fn nobody(folder: &Path) -> Peer {
        let (program, copy) = (std::env::current_exe().unwrap(), folder.join("peer"));
        fs::hard_link(&program, &copy).or_else(|_| fs::copy(&program, &copy).map(drop)).unwrap();
        let mut command = Command::new(copy);
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        Peer::of(command.current_dir("/"))
    }

    fn of(command: &mut Command) -> Peer {
        let mut child = command
            .args(["--exact", "sqlite::peer::another_process", "--ignored", "--nocapture"])
            .env(TOLD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Peer { child, orders, answers: BufReader::new(answers).lines() }
    }

    /// Starts a process that has a database open.
    pub fn with(path: &Path) -> Peer {
        let mut peer = Peer::start();
        peer.open(path);
        peer
    }

    /// Opens a database, instead of the one before.
    pub fn open(&mut self, path: &Path) {
        self.order(&PeerCommand::Open(path.as_os_str().as_bytes().to_vec())).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn order(&mut self, order: &PeerCommand) -> Result<String, String> {
        writeln!(self.orders, "{}", serde_json::to_string(order).unwrap()).unwrap();
        let mut lines = self.answers.by_ref().map(Result::unwrap);
        // The harness's own output may come before it in the same line.
        let answer = lines.find_map(|line| Some(line.split_once(ANSWER)?.1.to_owned())).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Closes the database, which a drop does not do: it kills the process.
    pub fn close(mut self) {
        self.order(&PeerCommand::Close).unwrap();
    }

    pub fn run(&mut self, sql: &str) -> Result<String, String> {
        self.order(&PeerCommand::Run(sql.into()))
    }

    pub fn ask(&mut self, sql: &str) -> String {
        self.order(&PeerCommand::Ask(sql.into())).unwrap()
    }

    /// Reads a database live; returns the sum and the count of `x` in `t`, whether it uses a log, and whether it was
    /// one state.
    pub fn live(&mut self, path: &Path) -> Result<String, String> {
        self.order(&PeerCommand::Live(path.as_os_str().as_bytes().to_vec()))
    }

    pub fn look(&mut self, folder: &Path) -> FolderContents {
        let said = self.order(&PeerCommand::Look(folder.as_os_str().as_bytes().to_vec())).unwrap();
        serde_json::from_str::<Vec<_>>(&said).unwrap().into_iter().collect()
    }

    /// Starts writing to the table `t(id, x)` without pause, keeping the sum of `x`.
    pub fn hammer(&mut self, path: &Path, checkpoint: Option<&str>) {
        let path = path.as_os_str().as_bytes().to_vec();
        self.order(&PeerCommand::Hammer(path, checkpoint.map(str::to_owned))).unwrap();
    }

    /// Ends the writing; returns how many commits there were.
    pub fn rest(&mut self) -> u64 {
        self.order(&PeerCommand::Rest).unwrap().parse().unwrap()
    }

    /// Ends the process with SIGKILL, in the middle of what it does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "other tests start it as another process"]
#[expect(clippy::disallowed_methods, reason = "how it is told that it is the other process")]
fn another_process() {
    if std::env::var_os(TOLD).is_none() {
        return;
    }
    let mut served = PeerServer::default();
    for line in std::io::stdin().lock().lines() {
        let answer = served.serve(serde_json::from_str(&line.unwrap()).unwrap());
        let mut out = std::io::stdout().lock();
        writeln!(out, "{ANSWER}{}", serde_json::to_string(&answer).unwrap()).unwrap();
        out.flush().unwrap();
    }
    std::process::exit(0);
}

#[derive(Default)]
struct PeerServer {
    connection: Option<Connection>,
    hammer: Option<(Arc<AtomicBool>, JoinHandle<u64>)>,
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn opened(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    connection
}

impl PeerServer {
    fn serve(&mut self, order: PeerCommand) -> Result<String, String> {
        let connection = self.connection.as_ref();
        match order {
            PeerCommand::Open(bytes) => {
                self.connection = None;
                self.connection = Some(opened(&path(bytes)));
                Ok(String::new())
            }
            PeerCommand::Close => {
                self.connection.take().unwrap().close().unwrap();
                Ok(String::new())
            }
            PeerCommand::Run(sql) => {
                connection.unwrap().execute_batch(&sql).map(|()| String::new()).map_err(|e| e.to_string())
            }
            PeerCommand::Ask(sql) => {
                let value = connection.unwrap().query_row(&sql, [], |row| row.get::<_, rusqlite::types::Value>(0));
                value
                    .map(|value| match value {
                        rusqlite::types::Value::Integer(n) => n.to_string(),
                        rusqlite::types::Value::Text(text) => text,
                        other => format!("{other:?}"),
                    })
                    .map_err(|e| e.to_string())
            }
            PeerCommand::Live(bytes) => live(&path(bytes)),
            PeerCommand::Look(folder) => {
                let mut listing = FolderContents::new();
                for found in fs::read_dir(path(folder)).unwrap() {
                    let found = found.unwrap();
                    let stat = found.metadata().unwrap();
                    let hash = blake3::hash(&fs::read(found.path()).unwrap()).to_string();
                    let mtime = i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec());
                    listing.insert(found.file_name().into_vec(), (hash, stat.len(), mtime));
                }
                Ok(serde_json::to_string(&listing.into_iter().collect::<Vec<_>>()).unwrap())
            }
            PeerCommand::Hammer(bytes, checkpoint) => {
                let stop = Arc::new(AtomicBool::new(false));
                let stopped = stop.clone();
                let path = path(bytes);
                self.hammer = Some((stop, std::thread::spawn(move || hammer(&path, checkpoint, &stopped))));
                Ok(String::new())
            }
            PeerCommand::Rest => {
                let (stop, thread) = self.hammer.take().unwrap();
                stop.store(true, Ordering::Relaxed);
                Ok(thread.join().unwrap().to_string())
            }
        }
    }
}

fn live(path: &Path) -> Result<String, String> {
    let mut live = super::tests::try_open(path, super::tests::HASTY).map_err(|error| format!("{error:?}"))?;
    let state = live.begin().map_err(|error| format!("{error:?}"))?;
    let bytes = super::tests::taken(&live, &state);
    let steady = live.end().map_err(|error| format!("{error:?}"))?;
    Ok(format!("{:?} {} {steady}", super::tests::restored(&bytes), state.logged))
}

/// Moves one from a row to another, again and again until it is told to stop.
fn hammer(path: &Path, checkpoint: Option<String>, stop: &AtomicBool) -> u64 {
    let connection = opened(path);
    let mut commits = 0;
    for n in 1_i64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (from, to) = (n * 7919 % ROWS + 1, n * 104_729 % ROWS + 1);
        let moved = connection.execute_batch(&format!(
            "begin immediate; update t set x = x - 1 where id = {from}; update t set x = x + 1 where id = {to};
             insert into junk(b) values (randomblob(2000)); delete from junk where id < last_insert_rowid() - 50; commit"
        ));
        match moved {
            Ok(()) => commits += 1,
            // A reader is in the way.
            Err(_) if connection.is_autocommit() => {}
            Err(_) => connection.execute_batch("rollback").unwrap(),
        }
        if let Some(kind) = checkpoint.as_ref().filter(|_| n % 17 == 0) {
            // Busy is an answer in the row, or an error; either is as good here.
            let _ = connection.query_row(&format!("pragma wal_checkpoint({kind})"), [], |_| Ok(()));
        }
    }
    commits
}
