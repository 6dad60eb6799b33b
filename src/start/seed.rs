//! Data that an image brings along: `.lastgood/seed` marks it, so that a snapshot of the vault takes precedence over it.
//!
//! At image build there is no vault, and later nothing tells an image's files from an app's: both have times younger
//! than the snapshots. The mark tells them apart, as long as the data is what it was then: an app that started on it
//! without a vault has written to it, and what it wrote must not be replaced unsaved. So the mark holds a digest of
//! what is there, by path, size and modification time in seconds, which image layers and copies keep.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fsync, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::known::SeedMark;
use crate::error::{Doing, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::{Folder, SAFE, open_file};
use crate::lineage::{self, OWN_FOLDER, SEED, is_own};
use crate::monitor::Context;
use crate::source::select::Select;
use crate::source::walk::{self, Met, Walker};
use crate::sqlite::side_files::Role;
use crate::vault::entry::EntryKind;
use crate::vault::hex::Hash;

/// The version of the mark.
const FORMAT: u32 = 1;
/// The most bytes of a mark.
const LONGEST: u64 = 1 << 12;

/// What is marked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// The version of the mark.
    format: u32,
    /// Files of every kind.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// A hash of their paths, sizes and times.
    digest: Hash,
}

/// Marks a directory's content as data that an image brings along.
///
/// # Errors
/// A directory that cannot be read or written to, has no files, or was restored or saved already.
pub fn mark(data: &Path, ctx: &Context) -> Result<Seed> {
    let doing = || format!("mark {} as data of an image", data.display());
    let root = walk::open(data)?;
    match lineage::read(root.path()) {
        Ok(None) => {}
        Ok(Some(lineage)) => {
            let why = match lineage.snapshot {
                Some(snapshot) => format!("it comes from the snapshot {snapshot}"),
                None => "it belongs to a vault already".into(),
            };
            return Err(Error::failed(doing(), why).hint(format!(
                "A mark is for new data, while an image is built. To use this directory as such, remove {OWN_FOLDER} in it."
            )));
        }
        Err(unclear) => return Err(Error::failed(doing(), unclear).hint(format!("Remove {OWN_FOLDER} in it."))),
    }
    let seed = digest(&root, ctx)?;
    if seed.files == 0 {
        return Err(Error::failed(doing(), "there is no file in it").hint("An empty directory needs no mark."));
    }
    let own = lineage::own_folder(&Folder::open(data).doing(doing)?)?;
    let mut text = serde_json::to_vec(&seed).map_err(|why| Error::failed(doing(), why))?;
    text.push(b'\n');
    let write = || {
        match own.remove_file(SEED) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(why) => return Err(why.into()),
        }
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let mut file = File::from(openat(&own, SEED, flags, Mode::from_raw_mode(0o644))?);
        file.write_all(&text)?;
        file.sync_all()
    };
    write().doing(doing)?;
    own.readable().and_then(fsync).doing(doing)?;
    Ok(seed)
}

/// Tells whether a directory's content is marked, and still what it was then. A mark that cannot be read counts for one
/// of data that was changed.
///
/// # Errors
/// A directory that cannot be read.
pub fn read(root: &Directory, ctx: &Context) -> Result<SeedMark> {
    let marked = match Folder::straight(root.path()).and_then(|data| data.enter(OWN_FOLDER)) {
        Ok(own) => match open_file(&own, SEED.as_ref()) {
            Ok((file, _)) => file,
            Err(Errno::NOENT) => return Ok(SeedMark::None),
            Err(_) => return Ok(SeedMark::Changed),
        },
        Err(_) => return Ok(SeedMark::None),
    };
    let mut text = Vec::new();
    let read = std::io::Read::take(marked, LONGEST);
    let seed = std::io::Read::read_to_end(&mut { read }, &mut text).ok().and_then(|_| parse(&text));
    match seed {
        Some(seed) if digest(root, ctx)? == seed => Ok(SeedMark::Untouched),
        _ => Ok(SeedMark::Changed),
    }
}

fn parse(text: &[u8]) -> Option<Seed> {
    serde_json::from_slice(text).ok().filter(|seed: &Seed| seed.format == FORMAT)
}

/// Goes through a directory.
fn digest(root: &Directory, ctx: &Context) -> Result<Seed> {
    let select = Select::new(root.path(), &[], &[], &[], true)?;
    let mut seed = Seed { format: FORMAT, files: 0, bytes: 0, digest: Hash::of(b"") };
    let mut hasher = blake3::Hasher::new();
    Walker::quiet(root, &select, ctx.stop).whole(|met| {
        ctx.check("look at an image's data")?;
        match met {
            // Programs that only read a database may make a `-shm`.
            Met::Entry(found) if found.role == Role::Side && found.path.bytes().ends_with(b"-shm") => {}
            Met::Entry(found) if found.kind != EntryKind::Folder && !is_own(&found.path) => {
                seed.files += 1;
                seed.bytes += found.size;
                let seconds = found.mtime.div_euclid(1_000_000_000);
                hasher.update(&(found.path.bytes().len() as u64).to_le_bytes()).update(found.path.bytes());
                hasher.update(&[found.kind as u8]).update(&found.size.to_le_bytes()).update(&seconds.to_le_bytes());
            }
            _ => {}
        }
        Ok(())
    })?;
    seed.digest = Hash::from(&hasher.finalize());
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::restore::sample::context;

    #[test]
    fn an_image_is_known_again_until_somebody_writes_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir_all(data.join("sub")).unwrap();
        let look = |data: &Path| read(&Directory::open(data).unwrap(), &context()).unwrap();
        assert_eq!(look(&data), SeedMark::None);
        let empty = mark(&data, &context()).unwrap_err();
        assert!(empty.why().contains("no file") && !data.join(OWN_FOLDER).exists(), "{empty}");
        fs::write(data.join("a"), "aa").unwrap();
        fs::write(data.join("sub/b"), "bbb").unwrap();
        let seed = mark(&data, &context()).unwrap();
        assert_eq!((seed.files, seed.bytes), (2, 5));
        assert_eq!(look(&data), SeedMark::Untouched);
        // As a layer of an image, with times in whole seconds, and as a copy.
        let layer = folder.path().join("layer");
        let copied = std::process::Command::new("cp").arg("-a").args([&data, &layer]).status().unwrap();
        assert!(copied.success());
        for path in ["a", "sub/b"] {
            let file = File::options().write(true).open(layer.join(path)).unwrap();
            let time = file.metadata().unwrap().modified().unwrap();
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(since)).unwrap();
        }
        assert_eq!(look(&layer), SeedMark::Untouched);
        type Harm = fn(&Path);
        let harms: [(&str, Harm); 4] = [
            ("a new file", |data| fs::write(data.join("c"), "").unwrap()),
            ("a file that is gone", |data| fs::remove_file(data.join("a")).unwrap()),
            ("a longer file", |data| fs::write(data.join("sub/b"), "bbbb").unwrap()),
            ("a mark that is cut off", |data| fs::write(data.join(OWN_FOLDER).join(SEED), "{").unwrap()),
        ];
        for (what, harm) in harms {
            let copy = folder.path().join("copy");
            let copied = std::process::Command::new("cp").arg("-a").args([&data, &copy]).status().unwrap();
            assert!(copied.success());
            assert_eq!(look(&copy), SeedMark::Untouched);
            harm(&copy);
            assert_eq!(look(&copy), SeedMark::Changed, "{what}");
            fs::remove_dir_all(&copy).unwrap();
        }
        let time = SystemTime::now() + Duration::from_secs(60);
        File::options().write(true).open(data.join("a")).unwrap().set_modified(time).unwrap();
        assert_eq!(look(&data), SeedMark::Changed);
        // It can be marked anew, but not once it belongs to a vault.
        mark(&data, &context()).unwrap();
        assert_eq!(look(&data), SeedMark::Untouched);
        fs::write(data.join(OWN_FOLDER).join(lineage::STATE), "{}").unwrap();
        assert!(mark(&data, &context()).unwrap_err().advice().is_some_and(|advice| advice.contains(OWN_FOLDER)));
    }
}
