//! Reads tar archives: ustar, GNU's and PAX headers with long names, sparse files and extended attributes.
//!
//! The library decodes single headers. Its iterator over entries is not used: it keeps a header of extensions in memory whatever its
//! size, and takes an archive that was cut off between two entries for a whole one.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header, PaxExtensions};

use super::found::{self, Found, FoundKind, Take};
use crate::error::{Doing, Error, Result};
use crate::path::escape;

/// Bytes of a block: headers have one, and content is filled up to whole ones.
const BLOCK: u64 = 512;
/// The largest header of extensions that is read, in bytes: names and attributes are smaller by far.
const MAX_EXTENSION: u64 = 4 << 20;
/// Most ranges of a sparse file.
const MAX_RANGES: usize = 1 << 20;

/// What headers before an entry say of it.
#[derive(Default)]
struct Extensions {
    /// Records of PAX headers.
    records: BTreeMap<String, Vec<u8>>,
    /// A name that GNU's header has.
    name: Option<Vec<u8>>,
    /// A link's target that GNU's header has.
    link: Option<Vec<u8>>,
}

impl Extensions {
    fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.records.get(key)?).ok()
    }

    fn number<N: std::str::FromStr>(&self, key: &str) -> Result<Option<N>, String> {
        let Some(value) = self.records.get(key) else { return Ok(None) };
        let number = self.text(key).and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| format!("its {key} is {:?}, which is no number", escape(value)))
    }
}

/// Reads an archive, and gives each entry to `take`. Returns what was left out, for the user.
///
/// # Errors
/// An archive that cannot be read, is cut off, is of a kind that is not understood, or leads out of its folder; an error of `take`.
pub fn read(archive: &mut dyn Read, name: &str, take: &mut Take) -> Result<Vec<String>> {
    let doing = || format!("read {name}");
    let broken = |why: String| Error::failed(doing(), why);
    let (mut global, mut local) = (BTreeMap::new(), Extensions::default());
    let mut has_acls = false;
    loop {
        let mut block = [0; BLOCK as usize];
        if !fill(archive, &mut block).doing(doing)? {
            return Err(broken("it is cut off: its end is missing".into()));
        }
        if block.iter().all(|byte| *byte == 0) {
            // What follows is filling. It is read for the checksum of a compressed archive.
            io::copy(archive, &mut io::sink()).doing(doing)?;
            let left_out = "access control lists, which an archive tells as text".to_owned();
            return Ok(has_acls.then_some(left_out).into_iter().collect());
        }
        let header = Header::from_byte_slice(&block);
        check(header).map_err(broken)?;
        let size = header.entry_size().doing(doing)?;
        match header.entry_type() {
            kind @ (EntryType::GNULongName | EntryType::GNULongLink) => {
                let mut text = extension(archive, size, name)?;
                text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
                let long = if kind == EntryType::GNULongName { &mut local.name } else { &mut local.link };
                *long = Some(text);
            }
            kind @ (EntryType::XHeader | EntryType::XGlobalHeader) => {
                let text = extension(archive, size, name)?;
                let into = if kind == EntryType::XHeader { &mut local.records } else { &mut global };
                records(&text, into).map_err(broken)?;
            }
            // The name of the whole archive.
            kind if kind.as_byte() == b'V' => skip(archive, size, name)?,
            kind => {
                let mut extensions = std::mem::take(&mut local);
                for (key, value) in &global {
                    extensions.records.entry(key.clone()).or_insert_with(|| value.clone());
                }
                has_acls |= extensions.records.keys().any(|key| key.starts_with("SCHILY.acl."));
                entry(archive, header, kind, size, extensions, name, take)?;
            }
        }
    }
}

/// Reads an entry and its content.
fn entry(
    archive: &mut dyn Read,
    header: &Header,
    kind: EntryType,
    size: u64,
    extensions: Extensions,
    archive_name: &str,
    take: &mut Take,
) -> Result<()> {
    let doing = || format!("read {archive_name}");
    let broken = |why: String| Error::failed(doing(), why);
    let raw = extensions.records.get("GNU.sparse.name").or_else(|| extensions.records.get("path"));
    let raw = raw.cloned().or_else(|| extensions.name.clone()).unwrap_or_else(|| header.path_bytes().into_owned());
    let of = |why: String| broken(format!("the entry {:?}: {why}", escape(&raw)));
    let path = found::path(&raw).map_err(broken)?;
    let stored = extensions.number("size").map_err(of)?.unwrap_or(size);
    let link = || {
        let target = extensions.records.get("linkpath").cloned().or_else(|| extensions.link.clone());
        target.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default()
    };
    // Bytes of the ranges of a sparse file, which lie before them.
    let mut map = 0;
    let kind = match kind.as_byte() {
        // Old programs marked a folder by the slash alone.
        b'0' | 0 | b'7' if raw.ends_with(b"/") => FoundKind::Folder,
        b'0' | 0 | b'7' if extensions.records.contains_key("GNU.sparse.major") => {
            let version = (extensions.text("GNU.sparse.major"), extensions.text("GNU.sparse.minor"));
            if version != (Some("1"), Some("0")) {
                return Err(of("it is a sparse file in a form that is not understood".into()));
            }
            let real = extensions.number("GNU.sparse.realsize").map_err(of)?.unwrap_or_default();
            let (ranges, bytes) = ranges_in_content(archive, stored).map_err(of)?;
            map = bytes;
            FoundKind::File(real, ranges)
        }
        b'0' | 0 | b'7' => FoundKind::File(stored, vec![(0, stored)]),
        b'1' => FoundKind::HardLink(found::path(&link()).map_err(of)?),
        b'2' => FoundKind::Symlink(link()),
        b'5' | b'D' => FoundKind::Folder,
        b'3' | b'4' => FoundKind::Other("device"),
        b'6' => FoundKind::Other("named pipe"),
        b'S' => {
            let (real, ranges) = ranges_in_header(archive, header).map_err(of)?;
            FoundKind::File(real, ranges)
        }
        other => return Err(of(format!("it is of the type {:?}, which is not understood", char::from(other)))),
    };
    if let FoundKind::File(real, ranges) = &kind {
        check_ranges(*real, ranges, stored - map).map_err(of)?;
    }
    let id = |key: &str, id: io::Result<u64>| -> Result<Option<u32>, String> {
        let id = extensions.number::<u64>(key)?.or_else(|| id.ok());
        Ok(id.and_then(|id| u32::try_from(id).ok()))
    };
    let owner = id("uid", header.uid()).map_err(of)?.zip(id("gid", header.gid()).map_err(of)?);
    let mtime = match extensions.text("mtime") {
        Some(text) => fraction(text).ok_or_else(|| of(format!("its mtime is {text:?}, which is no time")))?,
        None => (header.mtime().map_or(0, |seconds| seconds.cast_signed()), 0),
    };
    let attributes = extensions.records.iter();
    let attributes = attributes.filter_map(|(key, value)| Some((key.strip_prefix("SCHILY.xattr.")?, value)));
    let attributes = attributes.map(|(key, value)| (key.as_bytes().to_vec(), value.clone())).collect();
    let mode = header.mode().unwrap_or(0o600) & 0o7777;
    let mut content = Whole { archive, left: stored - map, is_cut: false };
    let taken = take(Found { path, kind, mode, owner, mtime, attributes }, &mut content);
    let (left, is_cut) = (content.left, content.is_cut);
    if is_cut {
        return Err(of("it is cut off: the archive ends in its content".into()));
    }
    taken?;
    skip(archive, left, archive_name)?;
    skip(archive, stored.wrapping_neg() % BLOCK, archive_name)
}

/// The content of an entry. It notices where the archive ends before it.
struct Whole<'a> {
    archive: &'a mut dyn Read,
    left: u64,
    is_cut: bool,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.archive.read(&mut buffer[..most])?;
        self.is_cut = read == 0;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Fills a block; `false` where the archive ends before its first byte.
fn fill(archive: &mut dyn Read, block: &mut [u8]) -> io::Result<bool> {
    match archive.read(&mut block[..1])? {
        0 => Ok(false),
        _ => archive.read_exact(&mut block[1..]).map(|()| true),
    }
}

/// Checks the sum of a header.
fn check(header: &Header) -> Result<(), String> {
    let wrong = || "it is no tar archive, or is damaged: a header's sum is wrong".to_owned();
    let bytes = header.as_bytes();
    let sum: u32 =
        bytes.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    match header.cksum() {
        Ok(said) if said == sum => Ok(()),
        _ => Err(wrong()),
    }
}

/// Reads a header of extensions, with what fills it up to a whole block.
fn extension(archive: &mut dyn Read, size: u64, name: &str) -> Result<Vec<u8>> {
    let doing = || format!("read {name}");
    if size > MAX_EXTENSION {
        let why = format!("a header of extensions has {size} bytes, and at most {MAX_EXTENSION} are read");
        return Err(Error::failed(doing(), why));
    }
    let mut text = vec![0; size as usize];
    archive.read_exact(&mut text).doing(doing)?;
    skip(archive, size.wrapping_neg() % BLOCK, name)?;
    Ok(text)
}

fn records(text: &[u8], into: &mut BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    for record in PaxExtensions::new(text) {
        let record = record.map_err(|why| format!("a header of extensions cannot be read: {why}"))?;
        let key = record.key().map_err(|why| format!("a header of extensions cannot be read: {why}"))?;
        into.insert(key.to_owned(), record.value_bytes().to_vec());
    }
    Ok(())
}

/// Skips bytes of an archive.
fn skip(archive: &mut dyn Read, bytes: u64, name: &str) -> Result<()> {
    let skipped = io::copy(&mut archive.take(bytes), &mut io::sink()).doing(|| format!("read {name}"))?;
    match skipped == bytes {
        true => Ok(()),
        false => Err(Error::failed(format!("read {name}"), "it is cut off: its end is missing")),
    }
}

/// Reads the ranges of a sparse file of PAX's form 1.0: decimal numbers, a line each, before the content. Returns them and the bytes
/// that they take.
fn ranges_in_content(archive: &mut dyn Read, stored: u64) -> Result<(Vec<(u64, u64)>, u64), String> {
    let wrong = |why: &str| format!("the ranges of a sparse file cannot be read: {why}");
    let mut block = [0; BLOCK as usize];
    let (mut at, mut read) = (block.len(), 0);
    let mut number = || -> Result<u64, String> {
        let mut value: Option<u64> = None;
        loop {
            if at == block.len() {
                if read + BLOCK > stored {
                    return Err(wrong("they have no end"));
                }
                archive.read_exact(&mut block).map_err(|why| wrong(&why.to_string()))?;
                (at, read) = (0, read + BLOCK);
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'0'..=b'9' => {
                    let more =
                        value.unwrap_or(0).checked_mul(10).and_then(|tens| tens.checked_add(u64::from(byte - b'0')));
                    value = Some(more.ok_or_else(|| wrong("a number is too large"))?);
                }
                b'\n' => return value.ok_or_else(|| wrong("a line is empty")),
                _ => return Err(wrong("they are not numbers")),
            }
        }
    };
    let count = number()?;
    let count = usize::try_from(count).ok().filter(|count| *count <= MAX_RANGES).ok_or_else(|| wrong("too many"))?;
    let mut ranges = Vec::new();
    for _ in 0..count {
        ranges.push((number()?, number()?));
    }
    Ok((ranges, read))
}

/// Reads the ranges of a sparse file of GNU's older form: in its header, and in blocks behind that. Returns the file's size and them.
fn ranges_in_header(archive: &mut dyn Read, header: &Header) -> Result<(u64, Vec<(u64, u64)>), String> {
    let wrong = |why: io::Error| format!("the ranges of a sparse file cannot be read: {why}");
    let gnu = header.as_gnu().ok_or("it is a sparse file without GNU's header")?;
    let mut ranges = Vec::new();
    let mut add = |some: &[GnuSparseHeader]| -> Result<(), String> {
        for range in some.iter().filter(|range| !range.is_empty()) {
            ranges.push((range.offset().map_err(wrong)?, range.length().map_err(wrong)?));
        }
        match ranges.len() > MAX_RANGES {
            true => Err("it is a sparse file of too many ranges".into()),
            false => Ok(()),
        }
    };
    add(&gnu.sparse)?;
    let mut goes_on = gnu.is_extended();
    while goes_on {
        let mut more = GnuExtSparseHeader::new();
        archive.read_exact(more.as_mut_bytes()).map_err(wrong)?;
        add(&more.sparse)?;
        goes_on = more.is_extended();
    }
    Ok((gnu.real_size().map_err(wrong)?, ranges))
}

/// Checks that ranges are in order, lie in the file, and are as many bytes as the archive stores.
fn check_ranges(size: u64, ranges: &[(u64, u64)], stored: u64) -> Result<(), String> {
    let (mut end, mut sum) = (0, 0u64);
    for (offset, length) in ranges {
        let next = offset.checked_add(*length).filter(|next| *next <= size);
        let Some(next) = next.filter(|_| *offset >= end) else {
            return Err("the ranges of a sparse file are in no order, or lie beyond its end".into());
        };
        (end, sum) = (next, sum + length);
    }
    match sum == stored {
        true => Ok(()),
        false => Err("the ranges of a sparse file are not what is stored of it".into()),
    }
}

/// Reads a time of PAX: seconds since 1970 with a fraction, before 1970 with a minus sign. Returns seconds and ns.
fn fraction(text: &str) -> Option<(i64, u32)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{part:0<9}")[..9].parse().ok()?;
    // -1.25 is a quarter of a second before the second -1.
    match whole.starts_with('-') && nanos > 0 {
        true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        false => Some((seconds, nanos)),
    }
}
