//! Compares extended attributes, as far as they are somebody's and a backup records them.

use crate::path::EscapedBytes;

/// The attributes that users and their programs set: they are data, as a file's content is.
const OF_USERS: &[u8] = b"user.";
/// The attributes that say who may do what: access control lists, and a program's privileges. Where modes do not count, they do not.
const OF_ACCESS: [&[u8]; 2] = [b"system.posix_acl_", b"security.capability"];
/// Labels, and signatures of content, that the system gives to files by its own rules; some systems do so at every start of a container.
const OF_THE_SYSTEM: &[u8] = b"security.";
/// Above this many bytes of attributes, a backup may store an entry without them.
const MAY_BE_TOO_MUCH: usize = 256 << 10;

/// Names and values.
pub type Attributes = [(EscapedBytes, EscapedBytes)];

/// Which attributes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// All but the system's own.
    All,
    /// Those of users, and those of access.
    Here,
    /// Those of users, where the snapshot was taken in another place. What is absent does not count: copies lose attributes, and so does
    /// a restore to a filesystem that has none.
    InCopy,
}

impl Counted {
    /// Whether something that counts differs between an entry and its record.
    pub fn differ(self, now: &Attributes, then: &Attributes) -> bool {
        let is_new = |one: &(EscapedBytes, EscapedBytes)| self.counts(&one.0.0) && !then.contains(one);
        let is_absent = |one: &(EscapedBytes, EscapedBytes)| self.counts(&one.0.0) && !now.contains(one);
        now.iter().any(is_new) || self != Counted::InCopy && then.iter().any(is_absent)
    }

    fn counts(self, name: &[u8]) -> bool {
        let is_of_access = || OF_ACCESS.iter().any(|prefix| name.starts_with(prefix));
        match self {
            Counted::All => is_of_access() || !name.starts_with(OF_THE_SYSTEM),
            Counted::Here => is_of_access() || name.starts_with(OF_USERS),
            Counted::InCopy => name.starts_with(OF_USERS),
        }
    }
}

/// Whether these may be too many bytes for a backup.
pub fn may_be_too_much(attributes: &Attributes) -> bool {
    attributes.iter().map(|(name, value)| name.0.len() + value.0.len()).sum::<usize>() > MAY_BE_TOO_MUCH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<(EscapedBytes, EscapedBytes)> {
        names.iter().map(|name| (EscapedBytes(name.as_bytes().to_vec()), EscapedBytes(b"1".to_vec()))).collect()
    }

    #[test]
    fn what_counts_where() {
        use Counted::{All, Here, InCopy};
        for (name, of) in [
            ("user.label", &[All, Here, InCopy][..]),
            ("system.posix_acl_access", &[All, Here]),
            ("security.capability", &[All, Here]),
            ("trusted.x", &[All]),
            ("system.nfs4_acl", &[All]),
            ("security.selinux", &[]),
        ] {
            for counted in [All, Here, InCopy] {
                let counts = of.contains(&counted);
                assert_eq!(counted.differ(&list(&[name]), &[]), counts, "{name} {counted:?}");
                assert_eq!(counted.differ(&[], &list(&[name])), counts && counted != InCopy, "{name} {counted:?}");
                let other = vec![(EscapedBytes(name.as_bytes().to_vec()), EscapedBytes(b"2".to_vec()))];
                assert_eq!(counted.differ(&other, &list(&[name])), counts, "{name} {counted:?}");
                let two = [list(&[name]), list(&["user.a"])].concat();
                assert!(!counted.differ(&two, &list(&["user.a", name])), "{name} {counted:?}");
            }
        }
    }
}
