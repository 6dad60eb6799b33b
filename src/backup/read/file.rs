//! Reads one file: whole, in pieces, or as a database.

use std::fs::File;
use std::io;

use crossbeam_channel::Sender;
use rustix::fs::{SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;

use super::{ReadContext, SMALL};
use crate::backup::large::Large;
use crate::backup::message::{CapturedFile, Disconnected, ReadEvent, Why, finish};
use crate::backup::pages::reader::{DatabaseReader, ReadMethod};
use crate::fs::read_some;
use crate::fs::times::{mtime, settled};
use crate::monitor::Moment;
use crate::path::EntryPath;
use crate::source::found::SourceEntry;
use crate::source::open::open_under_lock;
use crate::source::stable::{compare, is_beyond_its_size};
use crate::sqlite::error::ReadError;
use crate::sqlite::fd_registry::LockedFile;
use crate::sqlite::header::{Header, SMALLEST_PAGE};
use crate::sqlite::side_files;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::Hash;

/// Why a database that is recognized only by its side files is taken raw.
const ENCRYPTED: &str = "it does not begin like a database, but a log of a database lies beside it: it is encrypted";

/// Reads a file. A small one is returned as one event; of a large one or a database, everything but the end has been
/// sent into the channel when this returns.
pub(super) fn read_file(
    reading: ReadContext,
    found: &SourceEntry,
    known: &Option<Box<Entry>>,
    sampled: bool,
    to: &Sender<Vec<ReadEvent>>,
    before: &mut Vec<ReadEvent>,
) -> Result<Result<ReadEvent, Errno>, Disconnected> {
    let (path, ctx) = (&found.path, reading.ctx);
    // Variables are dropped in reverse order of declaration: the file is closed before its lock is released.
    let hold;
    let (file, stat);
    LockedFile { file, stat, inode_lock: hold } = match open_under_lock(reading.root, found, reading.ctx.stop) {
        Ok(opened) => opened,
        Err(why) => return Ok(Err(why)),
    };
    let Some(opened) = SourceEntry::new(path.clone(), &stat).filter(|opened| opened.kind == EntryKind::File) else {
        return Ok(Err(Errno::LOOP));
    };
    if reading.numbers_tell && (opened.device, opened.inode) != (found.device, found.inode) {
        // It was replaced; or folders were exchanged for a moment, and this file belongs to another name.
        before.push(ReadEvent::Later(path.clone(), Why::Read(opened.inode)));
    }
    ctx.monitor.reached(Moment::Opened, path);
    let mut first = [0; 100];
    let begins = if reading.databases.enabled { read_some(&file, 0, &mut first).unwrap_or(0) } else { 0 };
    // An encrypted database does not say that it is one, but the side files that SQLite leaves show it. If a file's
    // size is 0, SQLite reads nothing, whatever is in it.
    let plain = opened.size > 0 && Header::parse(&first[..begins]).is_some();
    let pages = begins == first.len() && opened.size.is_multiple_of(SMALLEST_PAGE.into());
    let own = (opened.device, opened.inode);
    let encrypted = || !plain && pages && side_files::has_log(reading.root, path, own, ctx.stop);
    if plain || encrypted() {
        drop(file);
        let mut begin = || {
            let mut first = std::mem::take(before);
            first.push(ReadEvent::Database(known.clone(), sampled));
            to.send(first).map_err(|_| Disconnected)
        };
        let reader = DatabaseReader {
            root: reading.root,
            base: reading.base,
            select: reading.select,
            settings: reading.databases,
            to,
            ctx,
        };
        let how = match plain {
            true => ReadMethod::Live(hold),
            false => {
                // It is locked again together with its side files.
                drop(hold);
                ReadMethod::Raw(ENCRYPTED)
            }
        };
        return match reader.take(&opened, known.as_deref(), how, &mut begin)? {
            Ok(part) => {
                if let ReadEvent::DatabaseEnd(ended) = &part
                    && reading.numbers_tell
                    && ended.content.found.inode != found.inode
                {
                    // Earlier events have been sent already; this one only concerns the look at the end.
                    before.push(ReadEvent::Later(path.clone(), Why::Read(ended.content.found.inode)));
                }
                Ok(Ok(part))
            }
            Err(ReadError::Replaced) => Ok(Err(Errno::NOENT)),
            Err(why) => Ok(Ok(ReadEvent::Failed(path.clone(), why.to_string(), opened.size))),
        };
    }
    let holes = opened.sparse && !matches!(seek(&file, SeekFrom::Hole(0)), Ok(at) if at >= opened.size);
    if opened.size <= SMALL && !holes {
        match read_small(&file, path, reading) {
            Ok(Some((mut content, bytes))) => {
                content.became_database(encrypted());
                ctx.monitor.advance(bytes.len() as u64);
                before.extend(aftermath(&file, found, known.as_deref(), &content));
                return Ok(Ok(ReadEvent::File(Box::new(content), bytes, known.clone(), sampled)));
            }
            // It is read again from its beginning, in pieces.
            Ok(None) => {}
            Err(why) => {
                return Ok(Ok(ReadEvent::Failed(path.clone(), format!("it cannot be read: {why}"), opened.size)));
            }
        }
    }
    // Earlier events are sent first; this thread stays with the file to its end.
    let mut first = std::mem::take(before);
    first.push(ReadEvent::Begin(known.clone(), sampled));
    to.send(first).map_err(|_| Disconnected)?;
    Ok(Ok(match Large::new(&file, path, to, ctx).read(reading.trust)? {
        Ok(mut content) => {
            content.became_database(encrypted());
            before.extend(aftermath(&file, found, known.as_deref(), &content));
            ReadEvent::End(content)
        }
        Err(why) => ReadEvent::Failed(path.clone(), format!("it cannot be read: {why}"), opened.size),
    }))
}

/// Returns what must follow at the end because of what happened to a file since it was listed.
fn aftermath(file: &File, listed: &SourceEntry, known: Option<&Entry>, content: &CapturedFile) -> Vec<ReadEvent> {
    let mut out = Vec::new();
    if content.torn && fstat(file).is_ok_and(|now| now.st_nlink == 0) {
        // The file that has its name now may be whole.
        out.push(ReadEvent::Later(listed.path.clone(), Why::Unread));
    }
    if content.found.size < listed.size || known.is_some_and(|known| content.found.size < known.size) {
        out.push(ReadEvent::Shrank);
    }
    out
}

/// Reads a small file, and once more if it changed. `None` if it has become a large one, or does not report its size.
/// A file that only grew is taken up to its first length, as [`Large::read`] does.
pub(super) fn read_small(
    file: &File,
    path: &EntryPath,
    reading: ReadContext,
) -> io::Result<Option<(CapturedFile, Vec<u8>)>> {
    let mut grown: Option<(Stat, Vec<u8>)> = None;
    for last in [false, true] {
        let (stat, began) = settled(file, reading.trust.now)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > SMALL {
            return Ok(None);
        }
        let length = size as usize;
        let mut bytes = vec![0; length + 1];
        let read = read_some(file, 0, &mut bytes)?;
        if read > length && is_beyond_its_size(file, size)? {
            return Ok(None);
        }
        let read = read.min(length);
        bytes.truncate(read);
        reading.ctx.monitor.reached(Moment::Read, path);
        let after = fstat(file)?;
        let happened = compare(&stat, &after, read as u64);
        let torn = happened.as_ref().is_some_and(|happened| happened.torn);
        if torn
            && let Some((first, before)) = grown.take()
            && bytes.starts_with(&before)
        {
            let (hash, read) = (Hash::of(&before), before.len() as u64);
            return Ok(Some((finish(file, path, &first, read, true, hash, None)?, before)));
        }
        if last || !torn {
            let hash = Hash::of(&bytes);
            let racy = happened.is_some() || reading.trust.is_file_racy(file, mtime(&stat), began);
            return Ok(Some((finish(file, path, &stat, read as u64, racy, hash, happened)?, bytes)));
        }
        if happened.is_some_and(|happened| happened.grew) {
            grown = Some((stat, bytes));
        }
    }
    Err(io::Error::other("it keeps changing"))
}
