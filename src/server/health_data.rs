//! Checks the data directory for the health: when its newest file was modified, and whether the critical files are there.

use std::collections::VecDeque;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use globset::GlobMatcher;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::lineage::OWN_FOLDER;
use crate::source::apart::ApartPaths;
use crate::source::select::{NotWalked, is_ours};

/// The time limit of a check.
const TIME: Duration = Duration::from_secs(3);

/// The settings of the check.
#[derive(Debug, Clone, Default)]
pub struct DataProbeSettings {
    /// The data directory.
    pub data: PathBuf,
    /// Folders that are not walked: vaults.
    pub not_walked: Vec<PathBuf>,
    /// Whether backups leave out everything that is mounted below the directory.
    pub one_file_system: bool,
    /// The critical files: patterns for paths below the directory, as they were given and as they are matched.
    pub critical: Vec<(String, GlobMatcher)>,
}

/// The result of the check.
#[derive(Debug, Clone, Default)]
pub struct DataFindings {
    /// When the newest file was last modified.
    pub newest: Option<Timestamp>,
    /// Whether all of the directory was seen.
    pub whole: bool,
    /// Why nothing could be seen.
    pub error: Option<String>,
    /// The critical files.
    pub critical: Vec<CriticalFile>,
    /// How long the check of the directory itself took.
    pub took: Duration,
}

/// How far ahead of the clock a file may be dated: clocks of servers differ.
const AHEAD: SignedDuration = SignedDuration::from_secs(60);

/// Checks the directory, the entries near its top first.
pub fn probe_data(place: &DataProbeSettings, stop: &AtomicBool) -> DataFindings {
    // Before the time begins: a vault that hangs may take some.
    let not_walked = NotWalked::new(&place.data, &place.not_walked);
    let (began, now) = (Instant::now(), Timestamp::now());
    // Whether each is there, and whether one of its name has any content.
    let apart = ApartPaths::new(&place.data, place.one_file_system);
    let named = |name: &str| match apart.has_or_is_above(Path::new(name)) {
        true => (false, false),
        false => look(&place.data.join(name)),
    };
    let mut found: Vec<(bool, bool)> = place.critical.iter().map(|(name, _)| named(name)).collect();
    let mut seen = DataFindings { whole: true, ..DataFindings::default() };
    let mut waiting = VecDeque::from([PathBuf::new()]);
    'walk: while let Some(below) = waiting.pop_front() {
        let listing = match fs::read_dir(place.data.join(&below)) {
            Ok(listing) => listing,
            Err(why) if below.as_os_str().is_empty() => {
                seen.error = Some(why.to_string());
                break;
            }
            // The folder has disappeared meanwhile, or a backup says what is wrong with it.
            Err(_) => continue,
        };
        for entry in listing.flatten() {
            if began.elapsed() > TIME || stop.load(Ordering::Relaxed) {
                seen.whole = false;
                break 'walk;
            }
            let (path, Ok(meta)) = (below.join(entry.file_name()), entry.metadata()) else { continue };
            if path == Path::new(OWN_FOLDER) {
                continue;
            }
            if apart.has(&path, meta.dev()) {
                continue;
            }
            if meta.is_dir() {
                if !is_ours(entry.file_name().as_bytes()) && !not_walked.has(&path, (meta.dev(), meta.ino())) {
                    waiting.push_back(path);
                }
                continue;
            }
            for ((_, pattern), found) in place.critical.iter().zip(&mut found) {
                if pattern.is_match(&path) {
                    *found = (true, found.1 || meta.len() > 0);
                }
            }
            if meta.is_file() {
                seen.newest = seen.newest.max(last_write(&meta, now));
            }
        }
    }
    let told = |((pattern, _), (found, filled)): (&(String, GlobMatcher), (bool, bool))| CriticalFile {
        pattern: pattern.clone(),
        present: (found || seen.whole).then_some(found),
        filled: (filled || seen.whole).then_some(filled),
    };
    seen.critical = place.critical.iter().zip(found).map(told).collect();
    seen.took = began.elapsed();
    seen
}

/// When a file was last written to. One that is dated ahead, as an archive may have it, would count as fresh until then: of that, the
/// time counts at which its metadata was changed.
fn last_write(meta: &Metadata, now: Timestamp) -> Option<Timestamp> {
    let modified = meta.modified().ok().and_then(|modified| Timestamp::try_from(modified).ok());
    let changed = || Timestamp::from_second(meta.ctime()).ok();
    modified.filter(|modified| *modified <= now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX)).or_else(changed)
}

/// Whether something is there, and whether it has any content.
fn look(path: &Path) -> (bool, bool) {
    fs::metadata(path).map_or((false, false), |meta| (true, meta.is_dir() || meta.len() > 0))
}

/// A critical file, which has to be there.
#[derive(Debug, Clone, Serialize)]
pub struct CriticalFile {
    /// Its name, or a pattern.
    pub pattern: String,
    /// Whether there is one; `None` if that was not seen in time.
    pub present: Option<bool>,
    /// Whether one of them has any content; `None` if that was not seen in time.
    #[serde(skip)]
    pub filled: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::GlobBuilder;

    #[test]
    fn the_newest_file_and_what_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["sub", "vault", "data.replaced-20261121T101112Z"] {
            fs::create_dir(at(name)).unwrap();
        }
        let times =
            [("old.csv", 100), ("sub/app.db", 200), ("vault/p", 300), ("data.replaced-20261121T101112Z/x.log", 400)];
        for (name, seconds) in times {
            let file = fs::File::create(at(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        }
        let pattern = |text: &str| {
            let glob = GlobBuilder::new(text).literal_separator(true).build().unwrap();
            (text.to_owned(), glob.compile_matcher())
        };
        let critical = ["*.csv", "*.db", "sub/*.db", "**/*.db", "x.log", "sub", "[a].txt"].map(pattern).to_vec();
        let not_walked = vec![at("vault").canonicalize().unwrap()];
        let place = DataProbeSettings { data: folder.path().to_owned(), not_walked, one_file_system: false, critical };
        let seen = probe_data(&place, &AtomicBool::new(false));
        let present: Vec<_> = seen.critical.iter().map(|critical| critical.present).collect();
        assert_eq!(present, [true, false, true, true, false, true, false].map(Some));
        assert!(seen.critical.iter().all(|critical| critical.filled == Some(critical.pattern == "sub")), "{seen:?}");
        fs::write(at("old.csv"), "1").unwrap();
        fs::File::open(at("old.csv")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(probe_data(&place, &AtomicBool::new(false)).critical[0].filled, Some(true));
        assert_eq!((seen.newest, seen.whole), (Timestamp::from_second(200).ok(), true));

        // A file that is dated ahead is as new as the change of its metadata.
        let ahead = std::time::SystemTime::now() + Duration::from_secs(3600);
        fs::File::open(at("old.csv")).unwrap().set_modified(ahead).unwrap();
        let newest = probe_data(&place, &AtomicBool::new(false)).newest.unwrap();
        assert!(newest <= Timestamp::now() && newest > Timestamp::from_second(1000).unwrap(), "{newest}");

        let stopped = probe_data(&place, &AtomicBool::new(true));
        assert!(!stopped.whole && stopped.critical[1].present.is_none() && stopped.critical[5].present == Some(true));
        let gone = probe_data(
            &DataProbeSettings { data: at("gone"), ..DataProbeSettings::default() },
            &AtomicBool::new(false),
        );
        assert!(gone.error.is_some());
    }
}
