//! The tar form of an entry: header blocks that GNU tar, bsdtar and Python's tarfile read.
//!
//! Headers are GNU's: names and link targets over 100 bytes are GNU long-name records, which take any bytes, and sizes
//! of 8 GiB and more are base-256 numbers. Extended attributes, and times before 1970, need a PAX record. Times are in
//! whole seconds only: their nanoseconds are in the entry, where they cost less. An export adds what is in the entry alone.

use std::borrow::Cow;

use tar::{EntryType, Header};

use super::entry::{Entry, EntryKind, TAR_BLOCK, padding};
use crate::path::EntryPath;

/// The end of a tar stream: two blocks of zeros.
pub const END: [u8; 2 * TAR_BLOCK as usize] = [0; 2 * TAR_BLOCK as usize];

/// The beginning of the keywords of extended attributes.
pub const XATTR: &[u8] = b"SCHILY.xattr.";

/// A PAX record: a keyword and its value, which may be any bytes.
pub type Record = (Vec<u8>, Vec<u8>);

/// How a member of an archive holds an entry.
#[derive(Debug, Clone, Copy)]
pub enum Member<'a> {
    /// With its content, if it is a file.
    Whole,
    /// As a hard link to this path, which comes before it.
    LinkTo(&'a EntryPath),
    /// As a sparse file: a map and the data, together this many bytes. PAX records say its size and, if it is ASCII, its name.
    Sparse(u64),
}

/// Returns the name of a path in an archive, without the `/` at a folder's end.
///
/// bsdtar takes a drive letter and backslashes off the beginning of a name, and would extract `c:b` in the place of `b`: `./`
/// stands before such a name.
pub fn name(path: &EntryPath) -> Cow<'_, [u8]> {
    match path.bytes() {
        [] => Cow::Borrowed(b"."),
        name if is_cut_by_bsdtar(path) => Cow::Owned([b"./", name].concat()),
        name => Cow::Borrowed(name),
    }
}

/// Whether bsdtar would extract a member of this name in another place.
pub fn is_cut_by_bsdtar(path: &EntryPath) -> bool {
    matches!(path.bytes(), [b'\\', ..] | [b'a'..=b'z' | b'A'..=b'Z', b':', ..])
}

/// Returns the header blocks of an entry; for a member of a hard-link group, those of a file of its own.
pub fn header(entry: &Entry) -> Vec<u8> {
    member(entry, Member::Whole, &records(entry))
}

/// Returns the header blocks of a member with these PAX records.
pub fn member(entry: &Entry, member: Member, records: &[Record]) -> Vec<u8> {
    let mut name = name(&entry.path).into_owned();
    let link = match member {
        Member::LinkTo(to) => Some(self::name(to)),
        _ => None,
    };
    let target = entry.target.as_ref().map(|target| target.0.as_slice());
    let (kind, size, target) = match (member, entry.kind) {
        (Member::LinkTo(_), _) => (EntryType::Link, 0, link.as_deref()),
        (Member::Sparse(stored), _) => (EntryType::Regular, stored, None),
        (Member::Whole, EntryKind::File) => (EntryType::Regular, entry.size, None),
        (Member::Whole, EntryKind::Folder) => (EntryType::Directory, entry.size, None),
        (Member::Whole, EntryKind::Symlink) => (EntryType::Symlink, entry.size, target),
        (Member::Whole, EntryKind::Fifo) => (EntryType::Fifo, entry.size, None),
    };
    if kind == EntryType::Directory {
        name.push(b'/');
    }
    let mut header = Header::new_gnu();
    if let Member::Sparse(_) = member {
        if name.is_ascii() {
            name = condensed(&name);
        }
        // GNU tar looks for a PAX map only behind a header of POSIX.
        let magic = Header::new_ustar();
        header.as_mut_bytes()[257..265].copy_from_slice(&magic.as_bytes()[257..265]);
    }
    let mut out = pax_header(records);
    for (long, record) in [(target, EntryType::GNULongLink), (Some(&name[..]), EntryType::GNULongName)] {
        if let Some(long) = long.filter(|l| l.len() > 100) {
            long_record(record, long, &mut out);
        }
    }
    let old = header.as_old_mut();
    for (field, bytes) in [(&mut old.name, &name[..]), (&mut old.linkname, target.unwrap_or_default())] {
        let length = bytes.len().min(field.len());
        field[..length].copy_from_slice(&bytes[..length]);
    }
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_size(size);
    header.set_mtime(u64::try_from(entry.mtime.div_euclid(1_000_000_000)).unwrap_or(0));
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out
}

/// Returns the name under which a program that knows no sparse files extracts the map and the data.
fn condensed(name: &[u8]) -> Vec<u8> {
    let (folder, file) = match name.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (&b"."[..], name),
    };
    [folder, b"/GNUSparseFile.0/", file].concat()
}

/// Appends a GNU record that carries a name too long for the header that follows.
fn long_record(kind: EntryType, name: &[u8], out: &mut Vec<u8>) {
    let header = of_a_record(Header::new_gnu(), b"././@LongLink", kind, name.len() as u64 + 1);
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(name);
    out.resize(out.len() + 1 + padding(name.len() as u64 + 1) as usize, 0);
}

/// Completes the header of a record, which is no entry. To BusyBox, a header without a name would be the end of the archive.
fn of_a_record(mut header: Header, name: &[u8], kind: EntryType, size: u64) -> Header {
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Returns the PAX records for what a GNU header cannot say; none for nearly every entry.
///
/// An attribute whose name is not UTF-8 or has a `=` has no PAX form: the entry alone carries it.
pub fn records(entry: &Entry) -> Vec<Record> {
    let mut records = Vec::new();
    if entry.mtime < 0 {
        records.push((b"mtime".to_vec(), time(entry.mtime).into_bytes()));
    }
    for (name, value) in &entry.xattrs {
        if std::str::from_utf8(&name.0).is_ok_and(|name| !name.contains('=')) {
            records.push(([XATTR, &name.0].concat(), value.0.clone()));
        }
    }
    records
}

/// Returns a time in nanoseconds since 1970 as PAX has it: a decimal fraction of seconds.
pub fn time(nanos: i64) -> String {
    let (seconds, nanos) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    match seconds < 0 {
        false => format!("{seconds}.{nanos:09}"),
        // A time of -1.75 s is given as -2 s and 0.25 s.
        true if nanos == 0 => format!("{seconds}.{nanos:09}"),
        true => format!("-{}.{:09}", -seconds - 1, 1_000_000_000 - nanos),
    }
}

/// Returns a PAX header with these records; nothing if there are none.
fn pax_header(records: &[Record]) -> Vec<u8> {
    let mut content = Vec::new();
    for (keyword, value) in records {
        // The length counts its own digits.
        let rest = keyword.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        let begin = format!("{length} ");
        content.extend([begin.as_bytes(), keyword, b"=", value, b"\n"].concat());
    }
    if content.is_empty() {
        return content;
    }
    let header = of_a_record(Header::new_ustar(), b"././@PaxHeader", EntryType::XHeader, content.len() as u64);
    content.resize(content.len() + padding(content.len() as u64) as usize, 0);
    [&header.as_bytes()[..], &content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hunk::tests::any_entry;
    use proptest::prelude::*;
    use std::io::Read;

    proptest! {
        #[test]
        fn pax_records_are_those_of_the_tar_crate(key in "[a-zA-Z.]{1,120}", value in prop::collection::vec(any::<u8>(), 0..1200)) {
            let mut builder = tar::Builder::new(Vec::new());
            builder.append_pax_extensions([(key.as_str(), value.as_slice()), ("mtime", b"1")]).unwrap();
            let mut expected = builder.into_inner().unwrap();
            expected.truncate(expected.len() - END.len());
            let records = [(key.into_bytes(), value), (b"mtime".to_vec(), b"1".to_vec())];
            let header = pax_header(&records);
            prop_assert_eq!(&header[512..], &expected[512..]);
            let (header, expected) = (Header::from_byte_slice(&header[..512]), Header::from_byte_slice(&expected[..512]));
            prop_assert_eq!(header.entry_type(), expected.entry_type());
            prop_assert_eq!(header.size().unwrap(), expected.size().unwrap());
            prop_assert_eq!(&*header.path_bytes(), b"././@PaxHeader");
        }

        #[test]
        fn the_tar_crate_reads_every_header(mut entry in any_entry(), deep in 0..300usize) {
            for _ in 0..deep / 10 {
                entry.path = entry.path.join(b"longer and ever longer names");
            }
            entry.size = entry.size.min(2000) * u64::from(entry.kind == EntryKind::File);
            let mut stream = header(&entry);
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
            let mut path = name(&entry.path).into_owned();
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

    #[test]
    fn names_that_bsdtar_would_cut_begin_with_a_dot() {
        for (path, expected) in [
            ("c:b", "./c:b"),
            ("Z:", "./Z:"),
            ("\\b/c", "./\\b/c"),
            ("cc:b", "cc:b"),
            ("1:b", "1:b"),
            ("a/c:b", "a/c:b"),
            ("a\\b", "a\\b"),
        ] {
            let path = EntryPath::new(path).unwrap();
            assert_eq!(String::from_utf8_lossy(&name(&path)), expected);
            assert_eq!(is_cut_by_bsdtar(&path), expected.starts_with('.'));
        }
        assert_eq!(*name(&EntryPath::root()), *b".");
    }

    #[test]
    fn a_time_is_a_decimal_fraction() {
        let times = [0, 5_000_000_001, -1, -1_000_000_000, -1_750_000_000, i64::MIN, i64::MAX];
        let expected = [
            "0.000000000",
            "5.000000001",
            "-0.000000001",
            "-1.000000000",
            "-1.750000000",
            "-9223372036.854775808",
            "9223372036.854775807",
        ];
        assert_eq!(times.map(time), expected);
    }
}
