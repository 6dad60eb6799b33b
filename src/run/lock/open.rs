//! Opens the file of the lock.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::error::Error;
use crate::fs::{Folder, SAFE, is_file, what};
use crate::lineage::RUN_LOCK;

/// Opens the file; makes it if it is not there.
pub fn open(folder: &Folder) -> io::Result<File> {
    // A fifo does not block it.
    let flags = SAFE | OFlags::RDWR | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = loop {
        match openat(folder, RUN_LOCK, flags, mode) {
            Ok(file) => break file,
            Err(Errno::NOENT) => {}
            Err(why) => return Err(why.into()),
        }
        match openat(folder, RUN_LOCK, flags | OFlags::CREATE | OFlags::EXCL, mode) {
            Ok(file) => break file,
            // Another process was faster.
            Err(Errno::EXIST) => {}
            Err(why) => return Err(why.into()),
        }
    };
    let file = File::from(file);
    let stat = fstat(&file)?;
    match is_file(&stat) {
        true => Ok(file),
        false => Err(io::Error::other(format!("it is {}", what(&stat)))),
    }
}

/// The error that it cannot be opened.
pub fn not_opened(path: &Path, why: &io::Error) -> Error {
    let doing = format!("open {}", path.display());
    match why.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => {
            Error::failed(doing, "it is a symbolic link").hint("Remove it: lastgood makes a file there.")
        }
        _ => Error::io(doing, why),
    }
}
