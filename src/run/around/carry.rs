//! Carries over what snapshots leave out of a data directory that a restore of `run` has replaced ([`carry_over`]).
//!
//! A note in `.lastgood` of the restored directory says what is to be done: it is written before the exchange, so that it is there from
//! the first moment on, and names the one folder that this restore moves the old content to. A `run` that is killed meanwhile has lost
//! nothing, and the next one finds the note and ends it before it looks at the directory. If the restore fails, there is no such folder,
//! and what other restores move aside is never touched.
//!
//! The data is restored whatever becomes of this: an error leaves things aside, is told, and keeps no app from starting.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, fsync, openat, renameat, syncfs};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::backup::options::BackupOptions;
use crate::fs::{Folder, SAFE, WRITE_OF_OTHERS, is_file, open_file};
use crate::lineage::{OWN_FOLDER, own_folder};
use crate::path::EscapedBytes;
use crate::restore::carried::{CarriedOver, ChangedFolder, carry_over};
use crate::source::marker::Unfinished;
use crate::source::select::{Select, is_ours};
use crate::text::count_of;

/// The file in lastgood's own folder that says what is still to be carried over.
const NOTE: &str = "carry.json";
/// Its name until it is whole.
const DRAFT: &str = "carry.json.new";
/// The most bytes of it.
const LONGEST: u64 = 1 << 24;
/// Most entries that a warning names.
const NAMED: usize = 3;

/// What is to be carried over after a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CarryNote {
    /// Where the old content is: a name in the directory, or `../` and a name beside it.
    aside: EscapedBytes,
    /// What snapshots hold.
    include: Vec<String>,
    exclude: Vec<String>,
    sqlite: bool,
    /// The folder that is being changed, if one is.
    changed: Option<ChangedFolder>,
}

impl CarryNote {
    /// Notes what backups leave out.
    pub(super) fn of(backup: &BackupOptions) -> Self {
        CarryNote {
            include: backup.include.clone(),
            exclude: backup.exclude.clone(),
            sqlite: backup.sqlite,
            ..CarryNote::default()
        }
    }

    /// Writes into a directory that is about to be restored that what it leaves out is in `aside`.
    pub(super) fn keep(&self, directory: &Folder, aside: &Path) {
        let note = CarryNote { aside: EscapedBytes(aside.as_os_str().as_bytes().to_vec()), ..self.clone() };
        let kept = own_folder(directory)
            .map_err(|why| why.what())
            .and_then(|own| note.write(&own, true).map_err(|why| why.to_string()));
        if let Err(why) = kept {
            tracing::warn!(
                "what snapshots leave out will stay in what the restore moves aside, as it cannot be noted: {why}"
            );
        }
    }

    fn write(&self, own: &Folder, durably: bool) -> std::io::Result<()> {
        // What has its name may be another name of some other file.
        match own.remove_file(DRAFT) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(why) => return Err(why.into()),
        }
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let mut file = File::from(openat(own, DRAFT, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        if durably {
            file.sync_all()?;
        }
        renameat(own, DRAFT, own, NOTE)?;
        match own.readable().and_then(|own| if durably { fsync(own) } else { Ok(()) }) {
            // A mounted bucket.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Reads the note in lastgood's own folder. `None` if there is none.
    fn read(own: &Folder) -> Result<Option<Self>, String> {
        let (file, stat) = match open_file(own, NOTE.as_ref()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(|why| why.to_string())?,
        };
        // The directory may be another user's, who can put anything there.
        if !is_file(&stat) || stat.st_uid != geteuid().as_raw() || stat.st_mode & WRITE_OF_OTHERS != 0 {
            return Err("it is not a file of this user, or others may write to it".into());
        }
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text).map_err(|why| why.to_string())?;
        serde_json::from_slice(&text).map(Some).map_err(|why| why.to_string())
    }

    /// Where the old content is. `None` if no restore moves anything to there, or nothing is there.
    fn aside(&self, data: &Path) -> Option<PathBuf> {
        let path = Path::new(OsStr::from_bytes(&self.aside.0));
        let (name, at) = match path.components().collect::<Vec<_>>()[..] {
            [Component::Normal(name)] => (name, data.join(name)),
            [Component::ParentDir, Component::Normal(name)] => (name, data.with_file_name(name)),
            _ => return None,
        };
        let is_there = at.symlink_metadata().is_ok_and(|found| found.is_dir());
        (is_there && is_ours(name.as_bytes())).then_some(at)
    }
}

/// Does what the note in a data directory says, if there is one, and removes it. Returns what could not be done.
pub(super) fn carry(data: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let Ok(directory) = Folder::open(data) else { return warnings };
    let Some(own) = folder_of_note(data, &directory) else { return warnings };
    let shown = own.path().join(NOTE);
    let stays = "what snapshots leave out may still be in what a restore moved aside";
    match CarryNote::read(&own) {
        Ok(None) => return warnings,
        Ok(Some(note)) => match carried(data, &own, &note) {
            Ok((aside, done)) => warnings.extend(tell(&aside, &done)),
            Err(why) => warnings.extend(why.map(|why| format!("{stays}: {why}"))),
        },
        Err(why) => warnings.push(format!("{stays}: {} cannot be used: {why}", shown.display())),
    }
    // A disk that fails is told by all that is done next.
    if let Err(why) = directory.readable().and_then(syncfs) {
        tracing::debug!("{} was not written to the disk: {why}", data.display());
    }
    for name in [DRAFT, NOTE] {
        match own.remove_file(name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(why) => warnings.push(format!("{} stays: {why}", shown.with_file_name(name).display())),
        }
    }
    warnings
}

/// Returns lastgood's own folder in a directory. If that has no note, and a restore that filled the directory was killed, it is the one
/// that this restore has moved aside, where that has one. `None` if there is none.
fn folder_of_note(data: &Path, directory: &Folder) -> Option<Folder> {
    let has_note = |own: &Folder| matches!(own.look(NOTE), Ok(Some(_)));
    let own = directory.enter(OWN_FOLDER).ok();
    if own.as_ref().is_some_and(has_note) {
        return own;
    }
    let moved = || {
        let unfinished = Unfinished::read_own(directory).ok()??;
        let target = data.canonicalize().ok()?;
        let of = |aside: &PathBuf| {
            let aside = EscapedBytes(aside.as_os_str().as_bytes().to_vec());
            let at = CarryNote { aside: aside.clone(), ..CarryNote::default() }.aside(&target)?;
            let own = Folder::straight(&at).and_then(|folder| folder.enter(OWN_FOLDER)).ok()?;
            // A note that was moved aside when it was done with, or by another restore, is about something else.
            CarryNote::read(&own).is_ok_and(|note| note.is_some_and(|note| note.aside == aside)).then_some(own)
        };
        unfinished.paths.is_empty().then(|| unfinished.aside.iter().find_map(of)).flatten()
    };
    moved().or(own)
}

/// Carries over what a note says, and returns from where. The error is `None` if nothing was moved aside.
fn carried(data: &Path, own: &Folder, note: &CarryNote) -> Result<(PathBuf, CarriedOver), Option<String>> {
    let text = |why: &dyn std::fmt::Display| Some(why.to_string());
    let target = data.canonicalize().map_err(|why| text(&why))?;
    let Some(aside) = note.aside(&target) else { return Err(None) };
    let select = Select::new(&target, &note.include, &note.exclude, &[], note.sqlite).map_err(|why| text(&why))?;
    let mut tell = |changed: &ChangedFolder| {
        let note = CarryNote { changed: Some(changed.clone()), ..note.clone() };
        // Not to the disk each time: this is for a program that is killed.
        if let Err(why) = note.write(own, false) {
            tracing::debug!("{NOTE} is not written: {why}");
        }
    };
    let done =
        carry_over(&aside, &target, &select, note.changed.as_ref(), &mut tell).map_err(|why| text(&why.what()))?;
    Ok((aside, done))
}

/// Says what came over, and returns what did not.
fn tell(aside: &Path, done: &CarriedOver) -> Option<String> {
    if done.moved > 0 {
        tracing::info!("{} that snapshots leave out came over from {}", count_of(done.moved, "path"), aside.display());
    }
    let named: Vec<_> = done.stays.iter().take(NAMED).map(|(path, why)| format!("{path}: {why}")).collect();
    let more = match done.stays.len().checked_sub(named.len())? {
        0 if named.is_empty() => return None,
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let named = named.join("; ");
    Some(format!("what snapshots leave out, or may, is only in {} now: {named}{more}", aside.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const ASIDE: &str = "data.replaced-20261130T120000Z";

    fn keep(data: &Path, aside: &str, exclude: &str) {
        let note = CarryNote { exclude: vec![exclude.to_owned()], sqlite: true, ..CarryNote::default() };
        note.keep(&Folder::open(data).unwrap(), Path::new(aside));
        assert!(data.join(OWN_FOLDER).join(NOTE).exists());
    }

    /// Makes a scratch folder with these files, and returns the directory `data` in it.
    fn scratch(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        for path in files {
            let path = scratch.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let data = scratch.path().canonicalize().unwrap().join("data");
        (scratch, data)
    }

    #[test]
    fn what_this_restore_moved_aside_comes_over_and_nothing_of_another() {
        let old = "data.replaced-20261130T110000Z";
        let inside = "lastgood.replaced-20261130T120000Z";
        let files = [format!("{old}/old.tmp"), format!("{ASIDE}/new.tmp"), format!("data/{inside}/in.tmp")];
        let (scratch, data) = scratch(&["data/a", &files[0], &files[1], &files[2]]);
        assert_eq!(carry(&data), [""; 0]);
        assert!(!data.join("new.tmp").exists(), "there is no note");
        keep(&data, &format!("../{ASIDE}"), "*.tmp");
        assert_eq!(carry(&data), [""; 0]);
        assert!(data.join("new.tmp").exists() && !data.join("in.tmp").exists() && !data.join("old.tmp").exists());
        assert!(!data.join(OWN_FOLDER).join(NOTE).exists());
        keep(&data, inside, "*.tmp");
        assert_eq!(carry(&data), [""; 0]);
        assert!(data.join("in.tmp").exists() && scratch.path().join(old).join("old.tmp").exists());
        // A restore that failed has moved nothing aside.
        keep(&data, "../data.replaced-20261130T130000Z", "*.tmp");
        assert_eq!(carry(&data), [""; 0]);
        assert!(!data.join("old.tmp").exists() && !data.join(OWN_FOLDER).join(NOTE).exists());
    }

    #[test]
    fn a_note_that_cannot_be_used_is_told_once_and_keeps_no_app_from_starting() {
        let (_scratch, data) = scratch(&["data/a", &format!("{ASIDE}/new.tmp")]);
        let aside = format!("../{ASIDE}");
        let note = data.join(OWN_FOLDER).join(NOTE);
        let spoil: [&dyn Fn(); 4] = [
            &|| keep(&data, &aside, "*.{tmp"),
            &|| fs::write(&note, "{}").unwrap(),
            &|| {
                keep(&data, &aside, "*.tmp");
                fs::set_permissions(&note, fs::Permissions::from_mode(0o666)).unwrap();
            },
            &|| symlink(data.join("a"), &note).unwrap(),
        ];
        for spoil in spoil {
            spoil();
            assert_eq!(carry(&data).len(), 1);
            assert_eq!(carry(&data), [""; 0]);
            assert!(!data.join("new.tmp").exists() && data.join("a").exists());
        }
    }

    #[test]
    fn a_planted_note_or_link_leads_nowhere() {
        let (scratch, data) = scratch(&["data/a", "far/x.tmp", "far/note"]);
        let far = scratch.path().join("far");
        symlink(&far, scratch.path().join(ASIDE)).unwrap();
        for aside in [&*format!("../{ASIDE}"), "../far", "/", "..", "../../x"] {
            keep(&data, aside, "*.tmp");
            assert_eq!(carry(&data), [""; 0]);
            assert!(far.join("x.tmp").exists() && !data.join("x.tmp").exists(), "{aside}");
        }
        let own = data.join(OWN_FOLDER);
        [DRAFT, NOTE].iter().for_each(|name| symlink(far.join("note"), own.join(name)).unwrap());
        keep(&data, "../data.replaced-20261130T130000Z", "*.tmp");
        assert_eq!(fs::read_to_string(far.join("note")).unwrap(), "");
    }
}
