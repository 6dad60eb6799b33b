//! Reads zip archives. The library reads them, and checks each file's sum.

use std::io::{Read, Seek};

use jiff::civil;
use jiff::tz::TimeZone;
use zip::ZipArchive;
use zip::extra_fields::ExtraField;
use zip::result::ZipError;

use super::found::{self, Found, FoundKind, Take};
use crate::error::{Error, Result};
use crate::path::escape;

/// The most bytes of a symlink's target.
const MAX_LINK: u64 = 4096;

/// Reads an archive, and gives each entry to `take`.
///
/// # Errors
/// As [`super::tar::read`]; an archive with a password.
pub fn read(archive: impl Read + Seek, name: &str, take: &mut Take) -> Result<()> {
    let broken = |why: String| Error::failed(format!("read {name}"), why);
    let mut archive = ZipArchive::new(archive).map_err(|why| broken(text(&why)))?;
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).map_err(|why| broken(text(&why)))?;
        let raw = entry.name_raw().to_vec();
        let of = |why: String| broken(format!("the entry {:?}: {why}", escape(&raw)));
        let path = found::path(&raw).map_err(broken)?;
        let size = entry.size();
        let kind = if entry.is_dir() {
            FoundKind::Folder
        } else if entry.is_symlink() {
            let mut target = Vec::new();
            (&mut entry).take(MAX_LINK).read_to_end(&mut target).map_err(|why| of(why.to_string()))?;
            FoundKind::Symlink(target)
        } else {
            FoundKind::File(size, vec![(0, size)])
        };
        let folder = kind == FoundKind::Folder;
        let mode = entry.unix_mode().map_or(if folder { 0o755 } else { 0o644 }, |mode| mode & 0o7777);
        let told = entry.extra_data_fields().find_map(|field| match field {
            ExtraField::ExtendedTimestamp(times) => times.mod_time(),
            _ => None,
        });
        let mtime = match told {
            // A signed number, says Info-ZIP's extrafld.txt.
            Some(seconds) => i64::from(seconds.cast_signed()),
            None => entry.last_modified().and_then(seconds).unwrap_or(0),
        };
        let found = Found { path, kind, mode, owner: None, mtime: (mtime, 0), attributes: Vec::new() };
        take(found, &mut entry).map_err(|why| why.within(format!("unpack {name}")))?;
    }
    Ok(())
}

/// The time of an entry without a better one: a local time, of which nobody knows where. It counts as UTC.
fn seconds(time: zip::DateTime) -> Option<i64> {
    let year = i16::try_from(time.year()).ok()?;
    let [month, day, hour, minute] = [time.month(), time.day(), time.hour(), time.minute()].map(u8::cast_signed);
    // Zip counts in steps of two seconds, and some programs write 60.
    let second = time.second().min(59).cast_signed();
    let local = civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

fn text(why: &ZipError) -> String {
    match why {
        ZipError::UnsupportedArchive(what) => format!("it is a zip archive that cannot be read: {what}"),
        why => format!("it is no zip archive that can be read: {why}"),
    }
}
