//! Looks at what is in a data directory.

use std::io::ErrorKind;
use std::path::Path;

use super::StartOptions;
use crate::error::{Doing, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::{filesystem, location, lock};
use crate::lineage::is_own;
use crate::monitor::Context;
use crate::source::marker::Unfinished;
use crate::source::place;
use crate::source::select::Select;
use crate::source::walk::{self, Met, Walker};
use crate::start::compare::{Compared, MOST_READ};
use crate::start::known::DirectoryContent;
use crate::vault::entry::EntryKind;
use crate::vault::root::SourceIdentity;

/// Names of files that a repository or a desktop puts into a folder that is otherwise empty.
const NOT_DATA: [&str; 6] = [".gitkeep", ".keep", ".gitignore", ".placeholder", ".DS_Store", "Thumbs.db"];

/// What is in a directory, and the directory itself where it could be opened.
pub struct Looked {
    pub content: DirectoryContent,
    pub root: Option<Directory>,
}

/// Looks at what is in a directory. A restore that is at work there is waited for.
pub fn look(options: &StartOptions, require_mount: bool, ctx: &Context) -> Result<Looked> {
    let data = &*options.data;
    let only = |content| Ok(Looked { content, root: None });
    if require_mount && !is_mounted(data) {
        return only(DirectoryContent::NotMounted);
    }
    match data.metadata() {
        Ok(_) => {}
        Err(why) if why.kind() == ErrorKind::NotFound => return only(DirectoryContent::Absent),
        Err(why) => return Err(Error::io(format!("look at the data directory {}", data.display()), &why)),
    }
    let root = settled(data, ctx)?;
    let unfinished = |why: Error| DirectoryContent::Unfinished {
        why: why.why().to_owned(),
        advice: why.advice().unwrap_or("Restore again to complete it.").to_owned(),
    };
    if Unfinished::read(root.folder()).is_ok_and(|marked| marked.is_some_and(|unfinished| unfinished.is_all())) {
        return Ok(Looked { content: DirectoryContent::HalfRestored, root: Some(root) });
    }
    if let Err(why) = walk::check_finished(data, &root, &options.from).and_then(|()| walk::check_above(data)) {
        return only(unfinished(why));
    }
    let content = if has_data(&root, options, ctx)? { DirectoryContent::Filled } else { DirectoryContent::Empty };
    Ok(Looked { content, root: Some(root) })
}

/// Opens a directory, and waits for a restore that is at work there.
fn settled(data: &Path, ctx: &Context) -> Result<Directory> {
    let root = walk::open(data)?;
    if matches!(Unfinished::read(root.folder()), Ok(None)) {
        return Ok(root);
    }
    if let Some(note) = lock::lock(&root, lock::LockKind::Shared, lock::RESTORE_WAITS, ctx.stop)? {
        ctx.monitor.warn(&note);
    }
    // The restore may have put another directory there.
    walk::open(data)
}

/// Whether the directory, or a folder above it other than the root of all, is a mount point.
fn is_mounted(data: &Path) -> bool {
    let at = location::resolve(data).unwrap_or_else(|_| data.to_owned());
    let above = at.ancestors().filter(|folder| folder.parent().is_some());
    above.filter(|folder| folder.exists()).any(|folder| filesystem::is_mount(folder).unwrap_or(false))
}

/// Whether there is anything but folders and names that say nothing.
pub fn has_data(root: &Directory, options: &StartOptions, ctx: &Context) -> Result<bool> {
    let doing = || format!("look at the data directory {}", root.path().display());
    let select = Select::new(root.path(), &[], &[], &options.not_walked, false)?;
    let mut found_some = false;
    let walked = Walker::quiet(root, &select, ctx.stop).whole(|met| {
        ctx.check(&doing())?;
        match met {
            Met::Entry(found) if found.kind == EntryKind::Folder || is_own(&found.path) => return Ok(()),
            Met::Entry(found) if NOT_DATA.iter().any(|name| found.path.name() == name.as_bytes()) => return Ok(()),
            // Only its owner may look into it.
            Met::Failed(path, _) if path.name() == b"lost+found" => return Ok(()),
            Met::Failed(path, why) => return Err(Error::failed(doing(), format!("{path}: {why}"))),
            Met::Entry(_) | Met::Skipped(..) => found_some = true,
            Met::Listed(_) | Met::Away(_) => return Ok(()),
        }
        // That is enough.
        Err(Error::unneeded(doing(), "there is data"))
    });
    if found_some { Ok(true) } else { walked.map(|()| false) }
}

/// Where a directory is.
pub struct Place {
    pub identity: SourceIdentity,
    pub numbered: bool,
}

impl Place {
    /// Returns the directory that is here for comparisons, in which little is read, and only where times do not tell.
    pub fn compared<'a>(&'a self, root: &'a Directory, options: &'a StartOptions, ctx: &'a Context) -> Compared<'a> {
        Compared {
            root,
            place: &self.identity,
            numbered: self.numbered,
            not_walked: &options.not_walked,
            sqlite: options.sqlite,
            most_read: MOST_READ,
            strict: false,
            ctx,
        }
    }
}

/// Finds out where a directory is.
pub fn place(data: &Path, boot: &str, root: &Directory) -> Result<Place> {
    let doing = || format!("look at the data directory {}", data.display());
    let mounted = filesystem::mounted().unwrap_or_default();
    let remote = filesystem::remote(root.folder()).doing(doing)?;
    let identity = place::identify(data, boot, root, remote.is_some(), &mounted)?;
    Ok(Place { identity, numbered: remote.is_none() })
}
