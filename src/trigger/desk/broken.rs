//! Promises of instances that are gone.
//!
//! An instance that is killed leaves open the claims of requests that it had promised a run, and nobody sends those again. So each
//! instance looks for such claims when it begins. When the time of one is over, its run is reported as failed: in the vault,
//! under the id that was promised; to whoever is told of results; and in the health, as the last run. The request is not served
//! any more: hours after a critical error a snapshot says little of it, and a restore may do harm.
//!
//! Should the run end after all, its own report is the newer one, and counts. Two instances that find the same promise at the
//! same moment may both report it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Answer, Desk};
use crate::error::{Error, Kind, Result};
use crate::job;
use crate::report::Action;
use crate::store::address::Address;
use crate::trigger::claim::promise::{self, Open};
use crate::trigger::event::Request;
use crate::trigger::once::{self, Resumed};
use crate::vault::Vault;

/// How often it is looked whether the time of a promise is over, and what could not be seen is looked for again.
const OFTEN: Duration = Duration::from_secs(60);
/// How often it is looked whether the service ends.
const TICK: Duration = Duration::from_millis(100);

/// A promise of another instance.
struct Promised<'d> {
    vault: &'d Address,
    open: Open,
    /// When its time is over.
    until: Instant,
}

impl Desk {
    /// Looks for promises of other instances, and reports those that are not kept, until all have ended or the desk is told to
    /// stop.
    pub(super) fn watch_promises(&self) {
        let mut unseen: Vec<_> = self.vaults.addresses().iter().collect();
        let (mut promised, mut next) = (Vec::new(), Instant::now());
        while !self.stop.load(Ordering::Relaxed) && (!unseen.is_empty() || !promised.is_empty()) {
            if Instant::now() >= next {
                unseen.retain(|vault| match self.promises_in(vault) {
                    Ok(found) => {
                        promised.extend(found);
                        false
                    }
                    Err(why) => {
                        tracing::debug!("whether promises are open cannot be seen now: {}", why.what());
                        true
                    }
                });
                promised.retain(|promise| !self.is_over(promise));
                next = Instant::now() + OFTEN;
            }
            std::thread::sleep(TICK);
        }
    }

    fn promises_in<'d>(&self, vault: &'d Address) -> Result<Vec<Promised<'d>>> {
        // Without a vault there are none.
        let Ok(found) = Vault::find(self.vaults.store(vault)?)? else { return Ok(Vec::new()) };
        let open = promise::open(&*found.store)?;
        // What was promised here meanwhile is in good hands.
        let others = open.into_iter().filter(|open| self.progress(open.run).is_none());
        let promised: Vec<_> = others.map(|open| Promised { vault, until: Instant::now() + open.left, open }).collect();
        if let Some(longest) = promised.iter().map(|promised| promised.open.left.as_secs()).max() {
            let count = promised.len();
            tracing::warn!(
                "{count} requests that another instance has promised to serve in {vault} are open: those that stay so are \
                 reported as failed, the last in {longest} s"
            );
        }
        Ok(promised)
    }

    /// Whether a promise need not be looked at any more.
    fn is_over(&self, promised: &Promised) -> bool {
        if Instant::now() < promised.until {
            return false;
        }
        let reported = self.report_unkept(promised);
        if let Err(why) = &reported {
            let run = promised.open.run;
            tracing::warn!("it cannot be seen now what became of the run {run}, which was promised: {}", why.what());
        }
        reported.is_ok()
    }

    /// Reports a promise as not kept, unless something says by now how it ended, or its run has left a report or a snapshot.
    fn report_unkept(&self, Promised { vault: address, open, .. }: &Promised) -> Result<()> {
        let Open { name, run, identity, host, promise, .. } = open;
        let cause = self.cause(promise.way, vec![promise.event.clone()]);
        let asker = self.asker(identity.clone(), promise.action, *run);
        self.context(|ctx| {
            let vault = Vault::open(self.vaults.store(address)?)?;
            let resumed = once::resume(name, vault, address, &asker, (&cause, false), &self.vaults, ctx)?;
            let Resumed::Held(held) = resumed else { return Ok(()) };
            // It may have been killed when it had told how it ended, and had not settled its claims.
            let kept = match once::report_of(*run, &self.vaults, ctx) {
                Err(why) if why.kind() == Kind::Damage => {
                    tracing::warn!("the report of the run {run}, which was promised, is passed over: {}", why.what());
                    None
                }
                other => other?,
            };
            if let Some(kept) = kept {
                let ended = Answer::read(kept.report.clone());
                return held.close_by(&kept, matches!(ended, Some(Answer::Done { retry: false, .. })));
            }
            let why = format!("the service at {host}, which had promised it, ended before the run did");
            let hint = match promise.action {
                Action::Backup => "Nobody sends it again: `lastgood backup` takes a snapshot now.",
                Action::Restore | Action::Verify => {
                    "Nobody sends it again: ask for it once more if it is still wanted."
                }
            };
            let why = Error::failed("serve a request", why).hint(hint);
            tracing::error!("the run {run}, which was promised, never ended: {}", why.what());
            let (labels, snapshot) = Default::default();
            let request = Request {
                action: promise.action,
                reason: promise.reason,
                labels,
                snapshot,
                event: promise.event.clone(),
            };
            let ran = job::not_run(*run, &self.rules.job(&request, None), cause.clone(), why, &self.vaults, ctx);
            self.count((&ran.report).into());
            held.close(&ran, &self.vaults, ctx);
            ran.tell(ctx);
            Ok(())
        })
    }
}
