//! Whether things fit into the time that a platform gives: the last snapshot after SIGTERM, and a start.

use std::time::Duration;

/// The longest time that Cloud Run gives a start, until the app listens.
/// <https://docs.cloud.google.com/run/docs/configuring/healthchecks#startup-probes>
const CLOUD_RUN_START: Duration = Duration::from_secs(240);
/// The time that is left to the app of it at least.
const APP: Duration = Duration::from_secs(20);

/// What is left of the time for the end of the epoch, once the last backup is given up.
pub const LAST: Duration = Duration::from_millis(800);

/// What is known of how long backups take, and what was told of it.
#[derive(Debug, Default)]
pub struct FitWatch {
    last: Option<Duration>,
    asked_for_earlier: bool,
    told_backup: bool,
    told_start: bool,
}

impl FitWatch {
    /// Takes the time of a backup, and returns a warning if a last snapshot will not fit into `time`: once. One backup alone tells
    /// nothing, since the first one may store everything, and the next ones only what changed.
    pub fn backup_took(&mut self, took: Duration, time: Duration) -> Option<String> {
        let before = self.last.replace(took)?;
        if self.told_backup || before.min(took) <= time {
            return None;
        }
        self.told_backup = true;
        let (before, took, time) = (before.as_secs_f64(), took.as_secs_f64(), time.as_secs_f64());
        Some(format!(
            "a last snapshot will not fit into --grace: the last two backups took {before:.1} s and {took:.1} s, and after SIGTERM there \
             are {time:.1} s for it. What is written after the last backup is lost then, if the disk is. Give more time, with --grace and the \
             platform's own setting, or leave out what need not be saved (--exclude)"
        ))
    }

    /// Whether a backup of what is written in one interval takes no longer than `time`, as far as is known.
    pub fn one_interval_fits(&self, time: Duration) -> bool {
        self.last.is_none_or(|last| last <= time)
    }

    /// Whether the times of earlier backups are wanted: once, unless one was taken here already.
    pub fn asks_for_earlier(&mut self) -> bool {
        !std::mem::replace(&mut self.asked_for_earlier, true) && self.last.is_none()
    }

    /// Takes the times of the last backups before those of this process, the newest one last, and returns the same warning. Does nothing
    /// once a backup was taken here.
    pub fn earlier_took(&mut self, earlier: &[Duration], time: Duration) -> Option<String> {
        match self.last {
            Some(_) => None,
            None => earlier.iter().filter_map(|took| self.backup_took(*took, time)).last(),
        }
    }

    /// Takes the time of a restore of this many bytes before the app's start, and returns a warning if a start will not fit into the
    /// time that Cloud Run gives: once.
    pub fn restore_took(&mut self, took: Duration, bytes: u64, handover: Duration) -> Option<String> {
        let left = CLOUD_RUN_START.saturating_sub(handover).saturating_sub(took);
        if self.told_start || left >= APP {
            return None;
        }
        self.told_start = true;
        let (seconds, limit) = (took.as_secs_f64(), CLOUD_RUN_START.as_secs());
        let rate = bytes as f64 / 1e6 / seconds.max(0.001);
        Some(format!(
            "the restore took {seconds:.0} s ({:.0} MB, {rate:.1} MB/s). Together with {} s to wait for another instance (--handover), that \
             leaves the app {} s of the {limit} s in which Cloud Run wants it to listen: shorten --handover, give the service more CPU, or keep \
             less in the data directory",
            bytes as f64 / 1e6,
            handover.as_secs(),
            left.as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_warns_once_when_two_backups_in_a_row_take_too_long() {
        let (mut fit, time) = (FitWatch::default(), 9 * SECOND);
        // The first one stores everything.
        assert_eq!(fit.backup_took(60 * SECOND, time), None);
        assert!(!fit.one_interval_fits(time) && FitWatch::default().one_interval_fits(time));
        assert_eq!(fit.backup_took(2 * SECOND, time), None);
        assert!(fit.one_interval_fits(time));
        assert_eq!(fit.backup_took(20 * SECOND, time), None);
        let told = fit.backup_took(15 * SECOND, time).unwrap();
        assert!(told.contains("20.0 s and 15.0 s") && told.contains("9.0 s for it"), "{told}");
        assert_eq!(fit.backup_took(15 * SECOND, time), None);
    }

    #[test]
    fn earlier_backups_count_until_there_is_one_of_its_own() {
        let time = 9 * SECOND;
        let mut fit = FitWatch::default();
        assert!(fit.asks_for_earlier() && !fit.asks_for_earlier());
        let told = fit.earlier_took(&[20 * SECOND, 12 * SECOND], time).unwrap();
        assert!(told.contains("20.0 s and 12.0 s"), "{told}");
        let mut fit = FitWatch::default();
        assert_eq!(fit.earlier_took(&[20 * SECOND], time), None);
        assert!(fit.backup_took(15 * SECOND, time).is_some());
        let mut fit = FitWatch::default();
        assert_eq!(fit.backup_took(SECOND, time), None);
        assert!(!fit.asks_for_earlier());
        assert_eq!(fit.earlier_took(&[20 * SECOND, 12 * SECOND], time), None);
    }

    #[test]
    fn it_warns_when_a_restore_leaves_the_app_too_little_of_a_start() {
        let (mut fit, handover) = (FitWatch::default(), 90 * SECOND);
        assert_eq!(fit.restore_took(130 * SECOND, 1_000_000_000, handover), None);
        let told = fit.restore_took(140 * SECOND, 1_400_000_000, handover).unwrap();
        assert!(told.contains("1400 MB, 10.0 MB/s") && told.contains("leaves the app 10 s of the 240 s"), "{told}");
        assert_eq!(fit.restore_took(140 * SECOND, 1, handover), None);
        assert!(FitWatch::default().restore_took(SECOND, 1, 300 * SECOND).is_some());
    }
}
