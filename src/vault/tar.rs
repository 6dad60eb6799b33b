//! The tar form of an entry: header blocks that GNU tar, bsdtar and Python's tarfile read.
//!
//! Headers are GNU's: names and link targets over 100 bytes are GNU long-name records, which take any bytes, and sizes
//! of 8 GiB and more are base-256 numbers. Extended attributes, and times before 1970, need a PAX record. Times are in
//! whole seconds only: their nanoseconds are in the entry, where they cost less.

use tar::{EntryType, Header};

use super::entry::{Entry, EntryKind, TAR_BLOCK, padding};
use crate::path::EntryPath;

/// The end of a tar stream: two blocks of zeros.
pub const END: [u8; 2 * TAR_BLOCK as usize] = [0; 2 * TAR_BLOCK as usize];

/// Returns the header blocks of an entry; for a member of a hard-link group, those of a file of its own.
///
/// # Errors
/// The extended attributes do not fit.
pub fn header(entry: &Entry) -> std::io::Result<Vec<u8>> {
    let (kind, target) = match entry.kind {
        EntryKind::File => (EntryType::Regular, None),
        EntryKind::Folder => (EntryType::Directory, None),
        EntryKind::Symlink => (EntryType::Symlink, entry.target.as_ref().map(|t| t.0.as_slice())),
        EntryKind::Fifo => (EntryType::Fifo, None),
    };
    blocks(entry, kind, entry.size, target)
}

/// Returns the header blocks of an entry that is stored as a hard link to `to`, which comes before it.
///
/// # Errors
/// The errors of [`header`].
pub fn link_header(entry: &Entry, to: &EntryPath) -> std::io::Result<Vec<u8>> {
    blocks(entry, EntryType::Link, 0, Some(to.bytes()))
}

fn blocks(entry: &Entry, kind: EntryType, size: u64, target: Option<&[u8]>) -> std::io::Result<Vec<u8>> {
    let mut name = entry.path.bytes().to_vec();
    if entry.path.is_root() {
        name.push(b'.');
    }
    if kind == EntryType::Directory {
        name.push(b'/');
    }
    let mut out = pax_records(entry)?;
    let mut header = Header::new_gnu();
    for (long, record) in [(target, EntryType::GNULongLink), (Some(&name[..]), EntryType::GNULongName)] {
        if let Some(long) = long.filter(|l| l.len() > 100) {
            long_record(record, long, &mut out);
        }
    }
    if let Some(gnu) = header.as_gnu_mut() {
        let fill = |field: &mut [u8], bytes: &[u8]| {
            let length = bytes.len().min(field.len());
            field[..length].copy_from_slice(&bytes[..length]);
        };
        fill(&mut gnu.name, &name);
        fill(&mut gnu.linkname, target.unwrap_or_default());
    }
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_size(size);
    header.set_mtime(u64::try_from(entry.mtime.div_euclid(1_000_000_000)).unwrap_or(0));
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    Ok(out)
}

/// Appends a GNU record that carries a name too long for the header that follows.
fn long_record(kind: EntryType, name: &[u8], out: &mut Vec<u8>) {
    let mut header = Header::new_gnu();
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name[..13].copy_from_slice(b"././@LongLink");
    }
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(name.len() as u64 + 1);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(name);
    out.resize(out.len() + 1 + padding(name.len() as u64 + 1) as usize, 0);
}

/// Returns the PAX header for what a GNU header cannot say; empty for nearly every entry.
///
/// An attribute whose name is not UTF-8 or has a `=` has no PAX form: the entry alone carries it.
fn pax_records(entry: &Entry) -> std::io::Result<Vec<u8>> {
    let mut records = Vec::new();
    if entry.mtime < 0 {
        let (seconds, nanos) = (entry.mtime.div_euclid(1_000_000_000), entry.mtime.rem_euclid(1_000_000_000));
        // A time of -1.75 s is given as -2 s and 0.25 s; PAX writes it as a decimal fraction.
        let (whole, fraction) = if nanos == 0 { (-seconds, 0) } else { (-seconds - 1, 1_000_000_000 - nanos) };
        records.push(("mtime".to_owned(), format!("-{whole}.{fraction:09}").into_bytes()));
    }
    for (name, value) in &entry.xattrs {
        if let Ok(name) = std::str::from_utf8(&name.0)
            && !name.contains('=')
        {
            records.push((format!("SCHILY.xattr.{name}"), value.0.clone()));
        }
    }
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().map(|(k, v)| (k.as_str(), v.as_slice())))?;
    let mut out = builder.into_inner()?;
    out.truncate(out.len().saturating_sub(END.len()));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hunk::tests::any_entry;
    use proptest::prelude::*;
    use std::io::Read;

    proptest! {
        #[test]
        fn the_tar_crate_reads_every_header(mut entry in any_entry(), deep in 0..300usize) {
            for _ in 0..deep / 10 {
                entry.path = entry.path.join(b"longer and ever longer names");
            }
            entry.size = entry.size.min(2000) * u64::from(entry.kind == EntryKind::File);
            let mut stream = header(&entry).unwrap();
            prop_assert_eq!(stream.len() as u64 % TAR_BLOCK, 0);
            // The tar crate reads PAX records line by line, and so no value with a line break; look at the bytes instead.
            if let Some((_, value)) = entry.xattrs.first() {
                let record = [b"SCHILY.xattr.user.x=", &value.0[..], b"\n"].concat();
                prop_assert!(stream.windows(record.len()).any(|w| w == record));
            }
            stream.resize(stream.len() + (entry.size + padding(entry.size)) as usize, 7);
            stream.extend(END);
            let mut archive = tar::Archive::new(&stream[..]);
            let mut entries = archive.entries().unwrap();
            let mut read = entries.next().unwrap().unwrap();
            let mut path = entry.path.bytes().to_vec();
            if entry.kind == EntryKind::Folder { path.push(b'/'); }
            prop_assert_eq!(read.path_bytes().into_owned(), path);
            prop_assert_eq!(read.header().mode().unwrap(), entry.mode);
            prop_assert_eq!(read.header().uid().unwrap(), u64::from(entry.uid));
            prop_assert_eq!(read.link_name_bytes().map(|l| l.into_owned()), entry.target.as_ref().map(|t| t.0.clone()));
            let mut content = Vec::new();
            read.read_to_end(&mut content).unwrap();
            prop_assert_eq!(content.len() as u64, entry.size);
            prop_assert!(entries.next().is_none());
        }
    }
}
