//! PAX records for what a tar header cannot say: the records that GNU tar, bsdtar and Python's tarfile read.

use super::acl;
use super::holes::SparseMap;
use crate::vault::entry::Entry;
use crate::vault::tar::{self, Record, XATTR, time};

/// The attributes in which the kernel keeps ACLs, and the keywords of their text form.
const ACLS: [(&[u8], &[u8]); 2] =
    [(b"system.posix_acl_access", b"SCHILY.acl.access"), (b"system.posix_acl_default", b"SCHILY.acl.default")];

/// Returns the records of an entry, always in the same order. An ACL is there twice, as GNU tar writes it: as text, and as the
/// attribute that it is, since some programs read only one of the two.
pub fn records(entry: &Entry) -> Vec<Record> {
    let mut records = Vec::new();
    if entry.mtime < 0 || entry.mtime % 1_000_000_000 != 0 {
        records.push((b"mtime".to_vec(), time(entry.mtime).into_bytes()));
    }
    for (attribute, keyword) in ACLS {
        let acl = entry.xattrs.iter().find(|(name, _)| name.0 == attribute);
        if let Some(text) = acl.and_then(|(_, value)| acl::text(&value.0)) {
            records.push((keyword.to_vec(), text.into_bytes()));
        }
    }
    for (name, value) in &entry.xattrs {
        records.push(([XATTR, &keyword(&name.0)].concat(), value.0.clone()));
    }
    records
}

/// Returns the records that make a member of an archive a sparse file.
///
/// The name is among them only if it is ASCII: another one would be converted to the charset of whoever reads it, which fails where
/// it is not UTF-8, and for bsdtar in the locale `C`. The header has it then.
pub fn sparse_records(entry: &Entry, map: &SparseMap) -> Vec<Record> {
    let name = Some(tar::name(&entry.path)).filter(|name| name.is_ascii());
    let name = name.map(|name| (b"GNU.sparse.name".to_vec(), name.into_owned()));
    let version = [(b"GNU.sparse.major".to_vec(), b"1".to_vec()), (b"GNU.sparse.minor".to_vec(), b"0".to_vec())];
    let size = (b"GNU.sparse.realsize".to_vec(), map.size().to_string().into_bytes());
    version.into_iter().chain(name).chain([size]).collect()
}

/// Returns the name of an attribute as a part of a keyword, which ends at its first `=`. GNU tar reads `%3D` as `=` and `%25` as
/// `%`; bsdtar takes both as they are, so that only what GNU tar would misread is written as `%25`.
fn keyword(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, byte) in name.iter().enumerate() {
        let is_read_otherwise = matches!(name.get(at + 1..at + 3), Some(b"3D" | b"25"));
        match byte {
            b'=' => out.extend(b"%3D"),
            b'%' if is_read_otherwise => out.extend(b"%25"),
            byte => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{EntryPath, EscapedBytes};
    use crate::restore::missing;

    fn entry(mtime: i64, xattrs: &[(&[u8], &[u8])]) -> Entry {
        let xattrs =
            xattrs.iter().map(|(name, value)| (EscapedBytes(name.to_vec()), EscapedBytes(value.to_vec()))).collect();
        Entry { mtime, xattrs, ..missing::folder(EntryPath::new("folder").unwrap(), 0o755) }
    }

    fn shown(records: &[Record]) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        records.iter().map(|(keyword, value)| format!("{}={}", text(keyword), text(value))).collect()
    }

    #[test]
    fn a_time_of_whole_seconds_since_1970_needs_no_record() {
        for (mtime, expected) in [
            (0, &[][..]),
            (1_700_000_000_000_000_000, &[]),
            (1_700_000_000_000_000_001, &["mtime=1700000000.000000001"]),
            (-1_000_000_000, &["mtime=-1.000000000"]),
            (-250_000_000, &["mtime=-0.250000000"]),
        ] {
            assert_eq!(shown(&records(&entry(mtime, &[]))), expected, "{mtime}");
        }
    }

    #[test]
    fn an_acl_is_there_as_text_and_as_the_attribute_that_it_is() {
        let acl: &[u8] = &[2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255];
        let names: Vec<_> =
            records(&entry(0, &[(b"system.posix_acl_access", acl), (b"system.posix_acl_default", b"no ACL")]))
                .into_iter()
                .map(|(keyword, _)| String::from_utf8(keyword).unwrap())
                .collect();
        let expected =
            ["SCHILY.acl.access", "SCHILY.xattr.system.posix_acl_access", "SCHILY.xattr.system.posix_acl_default"];
        assert_eq!(names, expected);
    }

    #[test]
    fn names_of_attributes_are_written_as_gnu_tar_reads_them() {
        let attributes: [(&[u8], &[u8]); 5] = [
            (b"user.a=b", b"1"),
            (b"user.100%", b"2"),
            (b"user.%25", b"3"),
            (b"user.%3d%3D", b"4"),
            (b"trusted.x", b"5"),
        ];
        let expected = [
            "SCHILY.xattr.user.a%3Db=1",
            "SCHILY.xattr.user.100%=2",
            "SCHILY.xattr.user.%2525=3",
            "SCHILY.xattr.user.%3d%253D=4",
            "SCHILY.xattr.trusted.x=5",
        ];
        assert_eq!(shown(&records(&entry(0, &attributes))), expected);
    }
}
