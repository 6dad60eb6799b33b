//! What is known of how long backups take before this process has taken any: on a new machine, or after a restart.
//!
//! The reports in the vault say it. They are read on a thread of its own when the app runs, so that no start waits for it: one listing
//! of a week's reports, and the two newest of backups.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use super::Around;
use crate::error::{Doing, Result};
use crate::report::{self, Action, ReportName};
use crate::run::fit::LAST;

/// How many backups are read.
const BACKUPS: usize = 2;
/// A longer report is not read: it lists thousands of files that could not be.
const LONGEST: u64 = 1 << 20;

impl Around {
    /// Warns, if a last snapshot will not fit into `--grace` by the reports of earlier backups. Reads them once.
    pub(super) fn watch_time_of_earlier(self: &Arc<Self>) {
        let mut fit = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        if self.settings.detached || !fit.asks_for_earlier() {
            return;
        }
        drop(fit);
        let around = self.clone();
        let work = move || match around.earlier_backups() {
            Ok(took) => {
                let time = around.settings.grace.saturating_sub(LAST);
                let mut fit = around.fit.lock().unwrap_or_else(PoisonError::into_inner);
                fit.earlier_took(&took, time).iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Err(why) => tracing::debug!("how long earlier backups took is not known: {}", why.what()),
        };
        let started = thread::Builder::new().name("earlier".into()).spawn(work);
        if let Err(why) = started.doing(|| "start a thread that reads reports") {
            tracing::debug!("{why}");
        }
    }

    /// Returns how long the last backups took, the newest one last.
    fn earlier_backups(&self) -> Result<Vec<Duration>> {
        let Some(address) = self.vaults.addresses().first() else { return Ok(Vec::new()) };
        let store = self.vaults.store(address)?;
        let named = report::recent(&*store)?;
        let is_backup =
            |named: &&ReportName| named.action == Some(Action::Backup) && named.stays() && named.size <= LONGEST;
        let mut took = Vec::new();
        for named in named.iter().filter(is_backup).take(BACKUPS) {
            took.extend(report::told(&*store, &named.object)?.stored().took());
        }
        took.reverse();
        Ok(took)
    }
}
