//! Requests and messages that ask for backups and restores while the app runs: `--listen` and `--subscription`.
//!
//! It is the service of `lastgood serve`, with the same runner as the app's own backups. The address is taken before an epoch is, so that
//! one that is in use stops nobody else's app; requests for backups and restores are put off until this instance's app runs. The app
//! knows nothing of it: the port in `PORT` is the app's.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use jiff::Timestamp;
use tokio::runtime::Runtime;

use super::RunEvent;
use super::backups::{BackupCause, SavedBackup};
use super::restored::RestoreAsk;
use super::term::Term;
use crate::error::{Code, Doing, Error, Result};
use crate::job::{self, FinishedJob, Job, Origin};
use crate::monitor::Context;
use crate::replicas::pool::VaultPool;
use crate::report::RunId;
use crate::restore::options::RestoreOptions;
use crate::runner::answer::Answer;
use crate::runner::beside::{AppBeside, AppState, AppStatus};
use crate::runner::runner::Runner;
use crate::server::service::{self, Service, ServiceSettings, Unpullable};
use crate::shutdown::Shutdown;

/// How long answers that are under way may take after the last snapshot: the time of `--grace` is nearly over.
const ANSWERED: Duration = Duration::from_millis(500);
/// How often a restore that waits for its turn looks whether the app is still there.
const LOOK: Duration = Duration::from_millis(100);

/// A service that holds its address and serves nothing yet.
pub struct Opened {
    service: Service,
    runtime: Runtime,
}

/// A service that is served on a thread of its own.
pub struct Listening {
    shutdown: Shutdown,
    thread: JoinHandle<()>,
}

impl Opened {
    /// Takes the address.
    ///
    /// # Errors
    /// As [`Service::open`].
    pub fn open(settings: ServiceSettings, runner: &Arc<Runner>) -> Result<Opened> {
        let runtime = service::runtime()?;
        Ok(Opened { service: Service::open(settings, runner.clone(), &runtime)?, runtime })
    }

    /// Serves from now on.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn serve(self) -> Result<Listening> {
        // Its own flag: when the program is told to stop, the app is stopped and saved first.
        let shutdown = Shutdown::within(Arc::default(), ANSWERED);
        let Opened { service, runtime } = self;
        let until = shutdown.clone();
        let work = move || {
            // Neither a connection nor a subscription that fails ends the app.
            _ = runtime.block_on(service.serve(&until, Unpullable::TryAgain));
            runtime.shutdown_timeout(Duration::ZERO);
        };
        let thread = thread::Builder::new().name("service".into()).spawn(work);
        Ok(Listening { shutdown, thread: thread.doing(|| "start the thread of the service")? })
    }
}

impl Listening {
    /// Takes no more requests.
    pub fn begin_end(&self) {
        self.shutdown.begin();
    }

    /// Waits for what is being answered, for a moment.
    pub fn end(self) {
        let until = Instant::now() + ANSWERED;
        while !self.thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The app as the runner sees it.
pub struct Beside {
    status: Mutex<(AppState, Timestamp)>,
    term: Arc<Term>,
    vaults: Arc<VaultPool>,
    send: Sender<RunEvent>,
}

impl Beside {
    /// An app that is to be started. Restores that are asked for are sent to `send`.
    pub fn new(term: Arc<Term>, vaults: Arc<VaultPool>, send: Sender<RunEvent>) -> Self {
        Beside { status: Mutex::new((AppState::Starting, Timestamp::now())), term, vaults, send }
    }

    /// Notes how far the app is.
    pub fn set(&self, state: AppState) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.0 != state {
            *status = (state, Timestamp::now());
        }
    }
}

impl AppBeside for Beside {
    fn status(&self) -> AppStatus {
        let (state, since) = *self.status.lock().unwrap_or_else(PoisonError::into_inner);
        AppStatus { state, since, epoch: self.term.epoch() }
    }

    fn restore(&self, run: RunId, options: &RestoreOptions, cause: Origin, ctx: &Context) -> FinishedJob {
        let (answer, answered) = bounded(1);
        let asked = RestoreAsk { run, options: options.clone(), cause: cause.clone(), answer };
        let asked = Arc::new(Mutex::new(Some(asked)));
        // If it is not taken, its sender goes with it.
        let withdraw = || asked.lock().unwrap_or_else(PoisonError::into_inner).take().is_some();
        let mut waits = self.send.send(RunEvent::Restore(asked.clone())).is_ok();
        while waits {
            match answered.recv_timeout(LOOK) {
                Ok(ran) => return ran,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let is_late = ctx.check("restore").is_err() || self.status().refuses().is_some();
                    waits = !(is_late && withdraw());
                }
            }
        }
        let why = self.status().refuses().unwrap_or("the app has ended, or is about to");
        let why = Error::failed(format!("restore to {}", options.target.display()), why)
            .with_code(Code::Stopped)
            .hint("Nothing was changed. Ask for it again once the app runs.");
        job::not_run(run, &Job::Restore(options.clone()), cause, why, &self.vaults, ctx)
    }

    fn saved(&self, run: RunId, answer: &Arc<Answer>) {
        let saved = SavedBackup { run, cause: BackupCause::Request, answer: answer.clone(), unfinished: None };
        // The receiver lives as long as the program.
        let _ = self.send.send(RunEvent::Saved(saved));
    }
}
