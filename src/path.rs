//! Names in a snapshot: paths, and other bytes that are nearly always text.
//!
//! Names on Unix are bytes. In JSON they are written as text with two escapes: a backslash is `\\` and a byte that is not
//! part of valid UTF-8 is `\xNN`, so that every sequence of bytes has exactly one spelling.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest path that an entry may have, in bytes.
pub const MAX_PATH: usize = 32 << 10;

/// Returns bytes as text, escaped where they are not UTF-8.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains('\\')
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        out.push_str(&chunk.valid().replace('\\', "\\\\"));
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    Cow::Owned(out)
}

/// Returns a path of the filesystem as messages show it: as it is, or escaped if it is not UTF-8.
pub fn shown(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    path.to_str().map_or_else(|| escape(path.as_os_str().as_bytes()).into_owned(), str::to_owned)
}

/// Returns the bytes that [`escape`] wrote as `text`.
///
/// # Errors
/// A backslash that begins no escape, or an escape that was not needed: every name has one spelling.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let out = without_escapes(text.as_bytes())?;
    if text.contains('\\') && escape(&out) != text {
        return Err(format!("{text:?} is not how its bytes are written"));
    }
    Ok(out)
}

/// Returns the bytes that are meant by a text with these escapes, also where an escape was not needed.
fn without_escapes(text: &[u8]) -> Result<Vec<u8>, String> {
    let wrong = |what: &str| format!("{what} in \"{}\"", text.escape_ascii());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&b| b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        rest = match &rest[at + 1..] {
            [b'\\', rest @ ..] => {
                out.push(b'\\');
                rest
            }
            [b'x', high, low, rest @ ..] => {
                let digit = |c: u8| (c as char).to_digit(16).ok_or_else(|| wrong("a bad \\x escape"));
                out.push((digit(*high)? << 4 | digit(*low)?) as u8);
                rest
            }
            _ => return Err(wrong("a backslash that begins no escape")),
        };
    }
    out.extend_from_slice(rest);
    Ok(out)
}

/// Arbitrary bytes, as escaped text in JSON: link targets, names and values of extended attributes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EscapedBytes(pub Vec<u8>);

impl fmt::Debug for EscapedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escape(&self.0))
    }
}

impl Serialize for EscapedBytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for EscapedBytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        unescape(&text).map(EscapedBytes).map_err(de::Error::custom)
    }
}

/// An entry's path below the data directory; the data directory itself is the empty path, written `.`.
///
/// It is not absolute and has no `.`, `..`, empty components or NUL, so that joining it to a folder stays in that
/// folder. The order is that of a depth-first walk with names compared as bytes: component by component.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Returns the path of the data directory itself.
    pub fn root() -> Self {
        EntryPath(Vec::new())
    }

    /// Checks a path and wraps it; `.` is the data directory.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, String> {
        let bytes = bytes.into();
        let wrong = |why| Err(format!("the path {:?} {why}", escape(&bytes[..bytes.len().min(200)])));
        if bytes == b"." {
            return Ok(Self::root());
        }
        if bytes.len() > MAX_PATH {
            return wrong("is too long");
        }
        for part in bytes.split(|&b| b == b'/') {
            match part {
                b"" => return wrong("is absolute or has an empty component"),
                b"." | b".." => return wrong("has a component . or .."),
                _ if part.contains(&0) => return wrong("has a NUL byte"),
                _ => {}
            }
        }
        Ok(EntryPath(bytes))
    }

    /// Parses a path as people and programs give it: spelled as any output has it, where a backslash is `\\\\` and any byte may
    /// be `\xNN`, or with the bytes themselves; with `./` before it or `/` after it, too.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn given(text: &[u8]) -> Result<Self, String> {
        let mut text = text;
        if text.is_empty() {
            return Err("the path is empty".into());
        }
        while let Some(rest) = text.strip_prefix(b"./") {
            text = rest;
        }
        while let Some(rest) = text.strip_suffix(b"/")
            && !rest.is_empty()
        {
            text = rest;
        }
        match without_escapes(text) {
            Ok(bytes) if bytes.is_empty() => Ok(Self::root()),
            Ok(bytes) => Self::new(bytes),
            Err(why) => Err(format!("{why}: a backslash is written as \\\\, and \\xNN is a byte")),
        }
    }

    /// Returns the path of `name` in this folder.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        EntryPath(path)
    }

    /// Returns the bytes, with `/` between components; empty for the data directory.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the data directory itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes of the path of the folder that it is in; `None` for the data directory.
    pub fn parent(&self) -> Option<&[u8]> {
        (!self.is_root()).then(|| match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => &self.0[..at],
            None => &[],
        })
    }

    /// Like [`EntryPath::parent`], as a path of its own.
    pub fn folder(&self) -> Option<EntryPath> {
        // The part of a path before a separator is a path.
        self.parent().map(|above| EntryPath(above.to_vec()))
    }

    /// Returns the folders above it, the nearest first; the last one is the data directory.
    pub fn folders(&self) -> impl Iterator<Item = EntryPath> {
        std::iter::successors(self.folder(), EntryPath::folder)
    }

    /// Returns itself, and then the folders above it.
    pub fn and_folders(&self) -> impl Iterator<Item = EntryPath> {
        std::iter::once(self.clone()).chain(self.folders())
    }

    /// Returns what `map` has for it, or for the nearest folder above it that is in the map.
    pub fn nearest_in<'m, T>(&self, map: &'m BTreeMap<EntryPath, T>) -> Option<&'m T> {
        if map.is_empty() { None } else { self.and_folders().find_map(|path| map.get(&path)) }
    }

    /// Returns its last component.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }

    /// Whether `self` is `above` or lies in it.
    pub fn is_in(&self, above: &EntryPath) -> bool {
        match self.0.strip_prefix(above.0.as_slice()) {
            Some(rest) => above.is_root() || rest.is_empty() || rest[0] == b'/',
            None => false,
        }
    }

    /// Returns the same path as seen from the folder `above`; `None` if it does not lie in there.
    pub fn below(&self, above: &EntryPath) -> Option<EntryPath> {
        let rest = self.is_in(above).then(|| &self.0[above.0.len()..])?;
        Some(EntryPath(rest.strip_prefix(b"/").unwrap_or(rest).to_vec()))
    }

    /// Whether it is one of the paths of `above` or lies in one; they are in order, and none is below another.
    pub fn is_in_one_of(&self, above: &[EntryPath]) -> bool {
        // The paths in a folder come right after it.
        let before = above.partition_point(|path| path <= self);
        before > 0 && self.is_in(&above[before - 1])
    }

    /// Returns it as a relative path of the filesystem; empty for the data directory.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // A separator sorts before every byte of a name, so that the order of bytes becomes that of components.
        let rank = |b: &u8| if *b == b'/' { 0 } else { *b };
        let common = self.0.iter().zip(&other.0).position(|(a, b)| a != b);
        match common {
            Some(at) => rank(&self.0[at]).cmp(&rank(&other.0[at])),
            None => self.0.len().cmp(&other.0.len()),
        }
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { "" })?;
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for EntryPath {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.is_root() { to.serialize_str(".") } else { to.serialize_str(&escape(&self.0)) }
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = EscapedBytes::deserialize(from)?;
        EntryPath::new(bytes.0).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text).unwrap()
    }

    #[test]
    fn what_lies_in_one_of_several() {
        let paths = |all: &[&str]| all.iter().map(|path| EntryPath::new(*path).unwrap()).collect::<Vec<_>>();
        let above = paths(&["a/b", "a b", "c", "c.d/e"]);
        for path in paths(&["a/b", "a/b/x/y", "a b/x", "c", "c/z", "c.d/e/f"]) {
            assert!(path.is_in_one_of(&above), "{path}");
        }
        for path in paths(&["a", "a/bb", "a/a", "b", "c.d", "c.d/f", "d", "0"]) {
            assert!(!path.is_in_one_of(&above), "{path}");
        }
        assert!(EntryPath::new("a").unwrap().is_in_one_of(&[EntryPath::root()]));
        assert!(!EntryPath::new("a").unwrap().is_in_one_of(&[]));
    }

    #[test]
    fn a_path_as_seen_from_a_folder_above_it() {
        for (of, above, expected) in
            [("a/b/c", "a", Some("b/c")), ("a/b", "a/b", Some(".")), ("ab", "a", None), ("a", ".", Some("a"))]
        {
            assert_eq!(path(of).below(&path(above)), expected.map(path), "{of} from {above}");
        }
    }

    #[test]
    fn what_leaves_the_folder_is_no_path() {
        for bad in ["", "/", "/a", "a/", "a//b", "..", "a/..", "a/../b", "./a", "a/.", "a\0b"] {
            assert!(EntryPath::new(bad).is_err(), "{bad:?}");
        }
        for good in [".", "a", "...", "a/..b", "-", "a b/\n"] {
            assert!(EntryPath::new(good).is_ok(), "{good:?}");
        }
        assert!(EntryPath::new(vec![b'a'; MAX_PATH + 1]).is_err());
    }

    #[test]
    fn a_path_is_given_as_it_is_shown_or_as_it_is() {
        let given: [(&[u8], &[u8]); 9] = [
            (b"a/b", b"a/b"),
            (b"./a/b//", b"a/b"),
            (b"./-x", b"-x"),
            (b"./", b""),
            (b".", b""),
            (b"a\\\\b", b"a\\b"),
            (b"n\\x0al", b"n\nl"),
            (b"n\nl\xff", b"n\nl\xff"),
            (b"\\xFF\\x41", b"\xffA"),
        ];
        for (text, bytes) in given {
            assert_eq!(EntryPath::given(text).unwrap().bytes(), bytes, "{}", text.escape_ascii());
        }
        for (bad, why) in
            [("", "empty"), ("a\\b", "written as \\\\"), ("\\x4", "\\xNN"), ("\\x2e./a", ".."), ("\\x00", "NUL")]
        {
            assert!(EntryPath::given(bad.as_bytes()).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn the_order_is_that_of_a_walk() {
        let order = [".", "a", "a/b", "a/b/c", "a\u{1}", "a b", "a-b", "a.b", "a0", "b"];
        let mut sorted: Vec<_> = order.iter().rev().map(|p| path(p)).collect();
        sorted.sort();
        assert_eq!(sorted, order.map(path));
    }

    #[test]
    fn containment_is_by_component() {
        assert!(path("a/b").is_in(&path("a")));
        assert!(path("a").is_in(&path("a")));
        assert!(path("a").is_in(&path(".")));
        assert!(!path("ab").is_in(&path("a")));
        assert!(!path("a").is_in(&path("a/b")));
        assert_eq!(path("a/b/c").parent(), Some(&b"a/b"[..]));
        assert_eq!(path("a").parent(), Some(&b""[..]));
        assert_eq!(path(".").parent(), None);
        assert_eq!(["a/b/c", "a", "."].map(|p| path(p).folder()), [Some(path("a/b")), Some(path(".")), None]);
    }

    proptest! {
        #[test]
        fn every_name_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = escape(&bytes).into_owned();
            prop_assert_eq!(unescape(&text).unwrap(), bytes);
        }

        #[test]
        fn unescape_takes_any_text(text in "\\PC*|[\\\\xX0-9a-f]*") {
            let _ = unescape(&text);
        }

        #[test]
        fn order_by_components(a in "[ab.!/]{1,8}", b in "[ab.!/]{1,8}") {
            if let (Ok(a), Ok(b)) = (EntryPath::new(a), EntryPath::new(b)) {
                let parts = |p: &EntryPath| p.bytes().split(|&c| c == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
                prop_assert_eq!(a.cmp(&b), parts(&a).cmp(&parts(&b)));
            }
        }
    }
}
