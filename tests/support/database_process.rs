//! Processes of their own that use a database, as an app does beside a backup: SQLite's locks mean nothing within one
//! process, and only another one sees what a backup does to the files.
//!
//! Such a process is this test binary again, told by a variable what to do. It hears on stdin, answers on stdout, and ends
//! when stdin is closed: with the test that started it, however that ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use serde::{Deserialize, Serialize};

use super::bank;
use super::seeded_random::Dice;

/// The variable with the task of a process of this binary, as JSON.
const JOB: &str = "LASTGOOD_TEST_JOB";
/// No such process lives longer, whatever happens.
const LIMIT: Duration = Duration::from_secs(280);
/// Lines that are for the test begin so; libtest writes others.
const MARK: char = '@';

/// A task of another process.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    database: PathBuf,
    /// SQL that it begins with.
    first: String,
    then: Then,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Then {
    /// Run each line from stdin as SQL, over one connection that stays open.
    Serve,
    /// Move money in the bank until told to end.
    Transfer(Transfers),
    /// Insert rows into `t(id, x)` until told to end, each over a connection of its own that waits so many milliseconds for
    /// locks, with pauses by this chance.
    Insert { patience: u64, seed: u64 },
}

/// How a bank's writer behaves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Transfers {
    /// Where its chance begins.
    pub seed: u64,
    /// Checkpoints of all kinds and VACUUMs in between.
    pub upkeep: bool,
    /// It rests for this many microseconds after each transaction.
    pub rest: u64,
    /// Transfers go only between this many of the first accounts; 0 means all.
    pub among: u64,
    /// Each transaction has a connection of its own, which is closed again.
    pub reopens: bool,
    /// It goes from a WAL to a rollback journal and back.
    pub switches: bool,
}

/// The record of a bank's writer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Transactions committed.
    pub commits: u64,
    /// The longest time that one of them took, waiting for locks included, in milliseconds.
    pub longest: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// VACUUMs made.
    pub vacuums: u64,
    /// Changes of the journal mode made.
    pub switches: u64,
    /// The errors of inserts that failed.
    pub failures: Vec<String>,
}

/// Another process. It is killed when it goes out of scope.
pub struct Other {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Other {
    /// Creates one that opens `database`, runs `first`, keeps the connection open and does as it is asked.
    pub fn serving(database: &Path, first: &str) -> Self {
        Other::start(&Job { database: database.into(), first: first.into(), then: Then::Serve })
    }

    /// Creates one that moves money, after `first`, and has done so once.
    pub fn transferring(database: &Path, first: &str, transfers: Transfers) -> Self {
        Other::start(&Job { database: database.into(), first: first.into(), then: Then::Transfer(transfers) })
    }

    /// Creates one that inserts rows as the user 65534, having inserted one; `program` is a copy of this binary that this
    /// user can start.
    pub fn inserting(program: &Path, database: &Path, patience: u64, seed: u64) -> Self {
        let mut command = Command::new(program);
        command.uid(65_534).gid(65_534).current_dir("/");
        let then = Then::Insert { patience, seed };
        Other::start_as(command, &Job { database: database.into(), first: String::new(), then })
    }

    fn start(job: &Job) -> Self {
        Other::start_as(Command::new(std::env::current_exe().unwrap()), job)
    }

    fn start_as(mut command: Command, job: &Job) -> Self {
        command.args(["--exact", "support::database_process::entry", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(JOB, serde_json::to_string(job).unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut other = Other { child, stdin, stdout };
        assert_eq!(other.hear(), "ready", "{job:?}");
        other
    }

    /// Returns the next line that is for the test.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the other process ended: {:?}", self.child.wait());
            if let Some((_, said)) = line.trim_end().split_once(MARK) {
                return said.to_owned();
            }
        }
    }

    /// Runs one line of SQL in it; the first number of what that gives, or 0 where it gives nothing.
    pub fn ask(&mut self, sql: &str) -> i64 {
        writeln!(self.stdin.as_mut().unwrap(), "{sql}").unwrap();
        let said = self.hear();
        said.parse().unwrap_or_else(|_| panic!("{sql}: {said}"))
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it close its connection and end.
    pub fn close(mut self) {
        self.stdin = None;
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "the other process ended with {ended}");
    }

    /// Lets a writer end, and hears what it did.
    pub fn finish(mut self) -> Done {
        self.stdin = None;
        let said = self.hear();
        self.close();
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The beginning of the other processes; without a job it does nothing.
#[test]
#[ignore = "the beginning of processes that other tests start"]
fn entry() {
    let Ok(job) = std::env::var(JOB) else { return };
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        eprintln!("a process beside a test came to its time limit");
        std::process::exit(1);
    });
    let job: Job = serde_json::from_str(&job).unwrap();
    let (to, from) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if to.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    if let Then::Insert { patience, seed } = job.then {
        return insert(&job.database, patience, seed, &from);
    }
    let db = open(&job.database);
    patiently(|| db.execute_batch(&job.first));
    match job.then.clone() {
        Then::Insert { .. } => {}
        Then::Serve => serve(&db, &from),
        Then::Transfer(transfers) => transfer(db, &job, &transfers, &from),
    }
}

fn say(what: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{MARK}{what}").unwrap();
    stdout.flush().unwrap();
}

/// Returns a connection that waits for locks as [`patiently`] does.
pub fn open(database: &Path) -> Connection {
    let db = Connection::open(database).unwrap();
    db.busy_timeout(Duration::from_millis(5)).unwrap();
    db
}

/// Asks for a lock every millisecond for as long as it takes: SQLite's own way of waiting asks ever more rarely, and
/// starves beside others who ask often.
pub fn patiently<T>(mut ask: impl FnMut() -> rusqlite::Result<T>) -> T {
    loop {
        match ask() {
            Err(why) if why.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done.unwrap(),
        }
    }
}

fn serve(db: &Connection, lines: &Receiver<String>) {
    say("ready");
    while let Ok(sql) = lines.recv() {
        let found = patiently(|| {
            let mut statement = db.prepare(&sql)?;
            let mut rows = statement.query([])?;
            Ok(rows.next()?.and_then(|row| row.get::<_, i64>(0).ok()).unwrap_or(0))
        });
        say(&found.to_string());
    }
}

fn insert(database: &Path, patience: u64, seed: u64, lines: &Receiver<String>) {
    let mut dice = Dice(seed);
    let mut done = Done::default();
    while lines.try_recv() != Err(TryRecvError::Disconnected) {
        let inserted = Connection::open(database).and_then(|db| {
            db.busy_timeout(Duration::from_millis(patience))?;
            db.execute_batch(
                "PRAGMA synchronous=OFF; INSERT INTO t VALUES ((SELECT count(*) + 1 FROM t), randomblob(200))",
            )?;
            db.close().map_err(|(_, why)| why)
        });
        match inserted {
            Ok(()) => done.commits += 1,
            Err(why) => done.failures.push(why.to_string()),
        }
        if done.commits == 1 {
            say("ready");
        }
        std::thread::sleep(Duration::from_micros(dice.roll(3000)));
    }
    say(&serde_json::to_string(&done).unwrap());
}

fn transfer(mut db: Connection, job: &Job, transfers: &Transfers, lines: &Receiver<String>) {
    let mut clerk = bank::Clerk::new(&db, transfers);
    let mut done = Done::default();
    loop {
        let began = Instant::now();
        clerk.transfer(&db);
        done.commits += 1;
        done.longest = done.longest.max(began.elapsed().as_millis() as u64);
        if done.commits == 1 {
            say("ready");
        }
        if lines.try_recv() == Err(TryRecvError::Disconnected) {
            break;
        }
        if transfers.upkeep {
            clerk.keep_up(&db, &mut done);
        }
        if transfers.switches && done.commits.is_multiple_of(5) {
            done.switches += u64::from(clerk.switch(&db));
        }
        if transfers.reopens {
            drop(db);
            db = open(&job.database);
            patiently(|| db.execute_batch(&job.first));
        }
        if transfers.rest > 0 {
            std::thread::sleep(Duration::from_micros(transfers.rest));
        }
    }
    say(&serde_json::to_string(&done).unwrap());
}
