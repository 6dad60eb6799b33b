//! Judges whether a snapshot looks like an accident: an unmounted volume, a wiped directory, another directory.
//!
//! A suspect snapshot is kept, but is neither restored nor built upon unless that is asked for. It is compared with
//! the last complete snapshot's contents and place: data that is meant to shrink does so in one and the same place,
//! over and over, while another place that holds much less is most often a volume that is not mounted. Nothing may be
//! blocked for ever: what looks suspect for three days, and is used meanwhile, is as it is meant to be.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};

use crate::path::EntryPath;
use crate::vault::root::{DatabaseRecord, Filters, Mount, SourceIdentity};

/// How long a state must have looked suspect before it is accepted by itself.
pub const ACCEPTED_AFTER: SignedDuration = SignedDuration::from_hours(72);
/// In how many snapshots it must have looked suspect.
const ACCEPTED_IN: usize = 3;

/// The last complete snapshot's contents and place.
#[derive(Debug, Clone)]
pub struct Measure {
    /// Number of entries of every kind.
    pub entries: u64,
    /// Bytes of content, without the side files of raw databases.
    pub bytes: u64,
    /// Where it was taken.
    pub place: SourceIdentity,
    /// Filesystems that were mounted below the data directory.
    pub mounts: Vec<Mount>,
    /// Its databases.
    pub databases: Vec<DatabaseRecord>,
    /// Which entries were selected.
    pub filters: Filters,
}

/// A suspect snapshot that was taken since.
#[derive(Debug, Clone)]
pub struct EarlierSuspect {
    /// When its capture began.
    pub started: Timestamp,
    /// Number of entries of every kind.
    pub entries: u64,
    /// Bytes of content, without the side files of raw databases.
    pub bytes: u64,
    /// When one of its files was last changed, in ns since 1970; 0 if that is not known.
    pub changed: i64,
    /// Filesystems that were mounted below the data directory.
    pub mounts: Vec<Mount>,
}

/// The capture that is judged.
#[derive(Debug, Clone, Copy)]
pub struct Now<'a> {
    /// Number of entries of every kind, including the ones that could not be read.
    pub entries: u64,
    /// Number of entries that are not folders.
    pub leaves: u64,
    /// Bytes of content, without the side files of raw databases.
    pub bytes: u64,
    /// Which entries were selected.
    pub filters: &'a Filters,
    /// Where the data directory is.
    pub place: &'a SourceIdentity,
    /// Filesystems that are mounted below the data directory. `None` if that is not known.
    pub mounts: Option<&'a [Mount]>,
    /// Paths that exist and could not be read, with their sizes in bytes.
    pub unread: &'a BTreeMap<EntryPath, u64>,
    /// Sizes in bytes of the files, databases or not, at the paths of the last complete snapshot's databases.
    pub sizes: &'a HashMap<EntryPath, u64>,
}

/// The verdict on a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureVerdict {
    /// Nothing looks wrong.
    Sound,
    /// It is sound, and somebody should know why it might not have been.
    Noted(String),
    /// It was suspect for so long that it is accepted as it is.
    Accepted(String),
    /// It looks like an accident, and why.
    Suspect(String),
}

/// The reason of a capture that has nothing because of the patterns begins with this; the patterns follow.
pub const NOTHING_CHOSEN: &str = "nothing in the data directory is chosen by";

/// Judges a capture by the last complete snapshot and the suspect snapshots since, newest first.
pub fn judge(now: &Now, measure: Option<&Measure>, since: &[EarlierSuspect]) -> CaptureVerdict {
    if now.leaves == 0 {
        return CaptureVerdict::Suspect(match now.filters.is_empty() {
            true => "the data directory is empty: this looks like an unmounted volume".into(),
            false => format!("{NOTHING_CHOSEN} {}", now.filters),
        });
    }
    let Some(measure) = measure else { return CaptureVerdict::Sound };
    if let Some(gone) = now.mounts.and_then(|mounts| missing_mount(measure, mounts)) {
        let Mount { path, filesystem, source } = gone;
        return CaptureVerdict::Suspect(format!("{source} ({filesystem}) is not mounted at {path} any more"));
    }
    let same_place = measure.place.is_where(now.place);
    let half = now.entries < measure.entries.div_ceil(2) || now.bytes < measure.bytes.div_ceil(2);
    let why = match same_place {
        false if half => {
            "it is not the directory of the last complete snapshot (a restore or a new disk replaced it, or it is another one), \
             and holds less than half of that"
        }
        false => return CaptureVerdict::Sound,
        true if now.entries < measure.entries.div_ceil(10) => {
            "it holds less than a tenth of the last complete snapshot's entries"
        }
        true => match lost_database(measure, now) {
            Some(why) => return accepted(now, measure, since, why),
            None if half => {
                return CaptureVerdict::Noted(format!(
                    "it holds less than half of what the last complete snapshot did: {} entries of {}, {} bytes of {}",
                    now.entries, measure.entries, now.bytes, measure.bytes
                ));
            }
            None => return CaptureVerdict::Sound,
        },
    };
    accepted(
        now,
        measure,
        since,
        format!("{why}: {} entries of {}, {} bytes of {}", now.entries, measure.entries, now.bytes, measure.bytes),
    )
}

/// Returns a filesystem that was mounted below the data directory and no longer is.
fn missing_mount<'m>(measure: &'m Measure, mounts: &[Mount]) -> Option<&'m Mount> {
    measure.mounts.iter().find(|was| !mounts.iter().any(|is| is.path == was.path))
}

/// Returns a sentence about a database that is gone, or nearly empty, if there is one.
fn lost_database(measure: &Measure, now: &Now) -> Option<String> {
    // A database that cannot be read is not gone.
    let unread = |path: &EntryPath| path.nearest_in(now.unread).is_some();
    measure.databases.iter().filter(|was| !unread(&was.path)).find_map(|was| {
        let Some(&size) = now.sizes.get(&was.path) else { return Some(format!("the database {} is gone", was.path)) };
        let was_size = was.size?;
        (size < was_size.div_ceil(10)).then(|| {
            format!("the database {} has less than a tenth of what it had: {size} bytes of {was_size}", was.path)
        })
    })
}

/// Returns the verdict for a capture that is suspect for `why`: accepted if that has lasted for long enough.
fn accepted(now: &Now, measure: &Measure, since: &[EarlierSuspect], why: String) -> CaptureVerdict {
    let is_like = |newer: (u64, u64), older: &EarlierSuspect| {
        newer.0 >= older.entries.div_ceil(2) && newer.1 >= older.bytes.div_ceil(2) && older.entries > 1
    };
    let mut newer = (now.entries, now.bytes);
    let mut chain: Vec<&EarlierSuspect> = Vec::new();
    for earlier in since {
        if !is_like(newer, earlier) || missing_mount(measure, &earlier.mounts).is_some() {
            break;
        }
        newer = (earlier.entries, earlier.bytes);
        chain.push(earlier);
    }
    if let (Some(last), Some(first)) = (chain.first(), chain.last()) {
        let long = last.started.duration_since(first.started) >= ACCEPTED_AFTER;
        // Somebody uses it: in a copy that was mounted by mistake, nothing changes.
        let used = last.changed > i64::try_from(first.started.as_nanosecond()).unwrap_or(i64::MAX);
        if chain.len() >= ACCEPTED_IN && long && used {
            return CaptureVerdict::Accepted(format!(
                "snapshots have looked suspect since {}, and the data is in use: this one is accepted as meant ({why})",
                first.started
            ));
        }
    }
    CaptureVerdict::Suspect(why)
}

/// Returns the mounts below a folder among all mounts of this machine, by their paths in the folder.
pub fn mounts_below(folder: &std::path::Path, all: &[crate::fs::filesystem::Mounted]) -> Vec<Mount> {
    use std::os::unix::ffi::OsStrExt;
    let mut mounts: Vec<_> = all
        .iter()
        .filter_map(|mounted| {
            let path = mounted.at.strip_prefix(folder).ok().filter(|path| !path.as_os_str().is_empty())?;
            let path = EntryPath::new(path.as_os_str().as_bytes()).ok()?;
            Some(Mount { path, filesystem: mounted.filesystem.clone(), source: mounted.source.clone() })
        })
        .collect();
    mounts.sort_by(|a, b| a.path.cmp(&b.path));
    // A filesystem that is mounted over another one hides it.
    mounts.dedup_by(|later, earlier| {
        let same = later.path == earlier.path;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::entry::CaptureMethod;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text).unwrap()
    }

    fn place(inode: u64) -> SourceIdentity {
        SourceIdentity { boot: "b".into(), device: 1, inode, born: Some(5), ..SourceIdentity::default() }
    }

    fn mount(at: &str) -> Mount {
        Mount { path: path(at), filesystem: "ext4".into(), source: "/dev/sdb".into() }
    }

    fn database(at: &str, size: Option<u64>) -> DatabaseRecord {
        DatabaseRecord { path: path(at), taken: CaptureMethod::Live, why: None, check: None, size }
    }

    fn measure() -> Measure {
        let databases = vec![database("app.db", Some(1000)), database("old.db", None)];
        let (place, mounts) = (place(7), vec![mount("uploads")]);
        Measure { entries: 100, bytes: 10_000, place, mounts, databases, filters: Filters::default() }
    }

    const DAY: i64 = 86_400;

    fn earlier(at: i64, entries: u64, changed: i64) -> EarlierSuspect {
        let started = Timestamp::from_second(at).unwrap();
        EarlierSuspect {
            started,
            entries,
            bytes: 4000,
            changed: changed * 1_000_000_000,
            mounts: vec![mount("uploads")],
        }
    }

    fn word(verdict: &CaptureVerdict) -> &'static str {
        match verdict {
            CaptureVerdict::Sound => "sound",
            CaptureVerdict::Noted(_) => "noted",
            CaptureVerdict::Accepted(_) => "accepted",
            CaptureVerdict::Suspect(_) => "suspect",
        }
    }

    #[test]
    fn what_is_suspect() {
        let sizes = |all: &[(&str, u64)]| all.iter().map(|(at, size)| (path(at), *size)).collect::<HashMap<_, _>>();
        let both = sizes(&[("app.db", 1000), ("old.db", 1)]);
        let unread = BTreeMap::new();
        for (entries, bytes, inode, mounts, sizes, verdict) in [
            (1, 0, 7, vec![], &both, "suspect"),
            (100, 10_000, 7, vec![mount("uploads")], &both, "sound"),
            (100, 10_000, 8, vec![mount("uploads")], &sizes(&[]), "sound"),
            (100, 10_000, 7, vec![], &both, "suspect"),
            (49, 10_000, 8, vec![mount("uploads")], &both, "suspect"),
            (100, 4999, 8, vec![mount("uploads")], &both, "suspect"),
            (50, 5000, 8, vec![mount("uploads")], &both, "sound"),
            // In the same place a log may be rotated away.
            (49, 1, 7, vec![mount("uploads")], &both, "noted"),
            (10, 1, 7, vec![mount("uploads")], &both, "noted"),
            (9, 9000, 7, vec![mount("uploads")], &both, "suspect"),
            (100, 10_000, 7, vec![mount("uploads")], &sizes(&[("app.db", 1000)]), "suspect"),
            (100, 10_000, 7, vec![mount("uploads")], &sizes(&[("app.db", 99), ("old.db", 1)]), "suspect"),
            (100, 10_000, 7, vec![mount("uploads")], &sizes(&[("app.db", 100), ("old.db", 1)]), "sound"),
        ] {
            let place = place(inode);
            let (leaves, filters) = (entries - 1, &Filters::default());
            let now =
                Now { entries, leaves, bytes, filters, place: &place, mounts: Some(&mounts), sizes, unread: &unread };
            let said = judge(&now, Some(&measure()), &[]);
            assert_eq!(word(&said), verdict, "{now:?}: {said:?}");
        }
        let (sizes, at) = (HashMap::new(), place(7));
        let filters = &Filters::default();
        let now = Now {
            entries: 2,
            leaves: 1,
            bytes: 1,
            filters,
            place: &at,
            mounts: Some(&[]),
            sizes: &sizes,
            unread: &unread,
        };
        let typo = Filters { include: vec!["typo".into()], ..Filters::default() };
        let nothing = judge(&Now { leaves: 0, filters: &typo, ..now }, None, &[]);
        assert_eq!(
            nothing,
            CaptureVerdict::Suspect("nothing in the data directory is chosen by --include typo".into())
        );
        assert_eq!(judge(&now, None, &[]), CaptureVerdict::Sound);
        // Entries that cannot be read are not gone, and without a list of mounts nothing is said of them.
        let unread = BTreeMap::from([(path("app.db"), 1000), (path("old.db"), 1)]);
        let now = Now { entries: 100, bytes: 10_000, mounts: None, unread: &unread, ..now };
        assert_eq!(judge(&now, Some(&measure()), &[]), CaptureVerdict::Sound);
    }

    #[test]
    fn what_is_suspect_for_long_and_used_is_accepted() {
        let at = place(8);
        let mounts = [mount("uploads")];
        let (sizes, unread) = (HashMap::new(), BTreeMap::new());
        let filters = &Filters::default();
        let now = Now {
            entries: 40,
            leaves: 30,
            bytes: 4000,
            filters,
            place: &at,
            mounts: Some(&mounts),
            sizes: &sizes,
            unread: &unread,
        };
        let days = |days: &[i64], used| -> Vec<EarlierSuspect> {
            days.iter().map(|day| earlier(day * DAY, 40, if used { day * DAY } else { 0 })).collect()
        };
        let said = |since: &[EarlierSuspect]| word(&judge(&now, Some(&measure()), since));
        assert_eq!(said(&days(&[], true)), "suspect");
        assert_eq!(said(&days(&[13, 10], true)), "suspect");
        assert_eq!(said(&days(&[12, 11, 10], true)), "suspect");
        assert_eq!(said(&days(&[13, 11, 10], true)), "accepted");
        assert_eq!(said(&days(&[13, 11, 10], false)), "suspect");
        // It goes on shrinking, or was something else on the first day.
        let mut shrinks = days(&[13, 11, 10], true);
        shrinks[2].entries = 90;
        assert_eq!(said(&shrinks), "suspect");
        let mut unmounted = days(&[13, 11, 10], true);
        unmounted[1].mounts.clear();
        assert_eq!(said(&unmounted), "suspect");
        // Empty snapshots, and ones with a missing mount, are never accepted.
        let empty = Now { entries: 1, leaves: 0, bytes: 0, ..now };
        let empties: Vec<_> = [13, 11, 10].map(|day| earlier(day * DAY, 1, 0)).into();
        assert_eq!(word(&judge(&empty, Some(&measure()), &empties)), "suspect");
        let unmounted = Now { mounts: Some(&[]), ..now };
        assert_eq!(word(&judge(&unmounted, Some(&measure()), &days(&[13, 11, 10], true))), "suspect");
    }

    #[test]
    fn mounts_are_named_by_their_paths_in_the_directory() {
        let mounted = |at: &str, source: &str| crate::fs::filesystem::Mounted {
            device: String::new(),
            root: "/".into(),
            at: at.into(),
            filesystem: "ext4".into(),
            source: source.into(),
        };
        let all = [
            mounted("/", "a"),
            mounted("/data", "b"),
            mounted("/data/y", "c"),
            mounted("/data/x", "d"),
            mounted("/data/y", "e"),
        ];
        let below = mounts_below(std::path::Path::new("/data"), &all);
        let told: Vec<_> = below.iter().map(|mount| (mount.path.to_string(), &*mount.source)).collect();
        assert_eq!(told, [("x".to_owned(), "d"), ("y".to_owned(), "e")]);
    }
}
