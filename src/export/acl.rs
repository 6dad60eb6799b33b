//! The text form of POSIX ACLs, from what the kernel keeps in `system.posix_acl_access` and `system.posix_acl_default`.

/// The version of the kernel's form, which is the only one.
const VERSION: u32 = 2;

/// Returns an ACL as `getfacl -n` prints it, one entry a line: with numeric ids, so that it says the same on every machine.
/// `None` if `bytes` are not an ACL.
pub fn text(bytes: &[u8]) -> Option<String> {
    let (version, entries) = bytes.split_first_chunk()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() || entries.is_empty() {
        return None;
    }
    let mut text = String::new();
    for [tag0, tag1, perm0, perm1, id @ ..] in entries {
        let id = u32::from_le_bytes(*id);
        let who = match u16::from_le_bytes([*tag0, *tag1]) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let permissions = u16::from_le_bytes([*perm0, *perm1]);
        if permissions > 7 {
            return None;
        }
        let may = |bit: u16, letter| if permissions & bit == 0 { '-' } else { letter };
        text.extend([&*who, ":"]);
        text.extend([may(4, 'r'), may(2, 'w'), may(1, 'x'), '\n']);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn each_kind_of_entry_has_its_text() {
        let none = u32::MAX;
        let bytes = acl(&[(1, 7, none), (2, 6, 1234), (4, 5, none), (8, 1, 70_000), (16, 2, none), (32, 0, none)]);
        let expected = "user::rwx\nuser:1234:rw-\ngroup::r-x\ngroup:70000:--x\nmask::-w-\nother::---\n";
        assert_eq!(text(&bytes).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_no_acl_has_no_text() {
        let whole = acl(&[(1, 7, u32::MAX)]);
        let newer = [&3u32.to_le_bytes()[..], &whole[4..]].concat();
        for bytes in [&[][..], &whole[..3], &whole[..4], &whole[..11], &newer, &acl(&[(3, 7, 0)]), &acl(&[(1, 8, 0)])] {
            assert_eq!(text(bytes), None, "{bytes:?}");
        }
    }
}
