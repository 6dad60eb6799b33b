//! Stores keep a vault's objects. An object is created once, read whole or by range, listed, and never changed.
//!
//! The trait is blocking. The engine is threads with bounded channels, a local disk has no asynchronous interface, and a
//! network store needs only a handful of requests in flight: one of the engine's threads each. A store whose client is
//! asynchronous enters its runtime inside these methods, so the border between the two worlds is that store's file.

pub mod address;
pub mod awaited;
pub mod gcs;
pub mod local;
pub mod metered;
pub mod open;
pub mod remembering;
pub mod requests;
pub mod retrying;
pub mod staging;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::fs::File;
use std::io;
use std::ops::{Deref, Sub};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use crate::error::{self, Code};
use crate::shell;

/// The object that every vault has, and without which there is no vault.
pub const CONFIG: &str = "vault.json";

/// An object, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The object's name inside the vault, with forward slashes: `packs/….tar.zst`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was created in this store, by the store's clock. A copy of a vault has times of its own.
    pub created: Timestamp,
}

impl Meta {
    /// Returns the object's name if it lies at the top, or else the name of the top folder that it lies in, with the
    /// slash.
    fn at_top(self) -> String {
        match self.name.split_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => self.name,
        }
    }
}

/// Why a store did not do what it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object has that name.
    #[error("{name} does not exist")]
    NotFound {
        /// The object asked for.
        name: String,
    },
    /// An object of that name exists; it was not touched.
    #[error("{name} exists already")]
    AlreadyExists {
        /// The object that was to be created.
        name: String,
    },
    /// The object is shorter than the range that was asked for, or longer than the limit.
    #[error("{name} has {size} bytes, and {wanted} were asked for")]
    OutOfRange {
        /// The object asked for.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// The end of the range, or the limit that it exceeds, in bytes.
        wanted: u64,
    },
    /// The object's bytes do not have the checksum that the store keeps of them, however often they are read.
    #[error("the bytes of {name} do not have the CRC32C that the store keeps of them")]
    Corrupt {
        /// The object asked for.
        name: String,
    },
    /// The object is there, but this process may not read it: it is somebody else's. The object itself is fine.
    #[error("{name} may not be read: {why}")]
    Denied {
        /// The object asked for.
        name: String,
        /// Whose it is.
        why: String,
        /// A hint at what to do about it.
        hint: String,
    },
    /// The object is there and cannot be read, although other objects can: its medium does not return it, or it is not
    /// a file.
    #[error("{name} cannot be read: {why}")]
    Unreadable {
        /// The object asked for.
        name: String,
        /// The system's error.
        why: String,
    },
    /// The store answered and refuses, however often it is asked: no permission, no such bucket, a wrong clock.
    #[error("{doing}: {why}")]
    Refused {
        /// The operation, and the object that it was for.
        doing: String,
        /// The store's answer.
        why: String,
        /// A hint at what to do about it; empty if there is none.
        hint: String,
        /// The code of the error; [`Code::Failed`] where no other one fits.
        code: Code,
    },
    /// The store did not answer, or only with failures that pass, until the time limit was over.
    #[error("{doing}: {why}")]
    Unreachable {
        /// The operation, and the object that it was for.
        doing: String,
        /// The last failure, how often it was tried and for how long.
        why: String,
    },
    /// The program was told to stop before the store had done it.
    #[error("{doing}: it was told to stop")]
    Stopped {
        /// The operation, and the object that it was for.
        doing: String,
    },
    /// The medium failed.
    #[error("{doing}: {source}")]
    Failed {
        /// The operation, and the object or path that it was for.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
}

impl StoreError {
    /// Whether the cause is this machine: it has run out of what a request takes, descriptors or memory.
    pub fn is_shortage(&self) -> bool {
        use rustix::io::Errno;
        let StoreError::Failed { source, .. } = self else { return false };
        let errno = source.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
    }

    /// Turns it into the crate's error; `doing` says what the store was asked to do. A missing or short object is
    /// damage: only names that a root or a listing gave are ever asked for.
    pub fn while_doing(self, doing: impl Into<String>) -> error::Error {
        match self {
            StoreError::Failed { doing: inner, source } => error::Error::io(inner, &source).within(doing).from_store(),
            StoreError::Refused { doing: inner, why, hint, code } => {
                let error = error::Error::failed(inner, why).with_code(code).within(doing).from_store();
                if hint.is_empty() { error } else { error.hint(hint) }
            }
            StoreError::Stopped { doing: inner } => {
                error::Error::failed(inner, "it was told to stop").with_code(Code::Stopped).within(doing).from_store()
            }
            StoreError::Unreachable { doing: inner, why } => {
                error::Error::unreachable(inner, why).within(doing).from_store()
            }
            StoreError::Denied { ref hint, .. } => {
                let hint = hint.clone();
                error::Error::failed(doing, self).with_code(Code::PermissionDenied).hint(hint).from_store()
            }
            StoreError::AlreadyExists { .. } => error::Error::failed(doing, self).with_code(Code::AlreadyExists),
            StoreError::NotFound { .. }
            | StoreError::OutOfRange { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Unreadable { .. } => error::Error::damage(doing, self),
        }
    }
}

/// A store's result.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A place for immutable objects. Names are relative, made of `[A-Za-z0-9._-]` and `/`.
///
/// Every implementation runs the suite in `contract.rs`.
pub trait Store: Send + Sync {
    /// Returns the store's address, for messages.
    fn url(&self) -> String;

    /// Creates an object from the given chunks, one after the other. When it returns, the object is durable and whole.
    ///
    /// `AlreadyExists` means that the object really was there before, durable too, and was left alone. After any other
    /// error, nobody may rely on the object. As a rule it is not there; if the medium fails in the very last step, it
    /// may be there all the same, and then it is whole.
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()>;

    /// Returns the whole of an object that has at most `limit` bytes.
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>>;

    /// Returns exactly `length` bytes from `offset`, both in bytes.
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>>;

    /// Returns all objects whose names start with `folder`, which ends in `/`, in the order of their names' bytes; all
    /// objects of the store if `folder` is empty.
    fn list(&self, folder: &str) -> Result<Vec<Meta>>;

    /// Like [`Store::list`], but only with objects whose names are `from` or come after it.
    fn list_from(&self, folder: &str, from: &str) -> Result<Vec<Meta>> {
        let mut objects = self.list(folder)?;
        objects.retain(|object| *object.name >= *from);
        Ok(objects)
    }

    /// Returns the name of something that lies at the top here and is not one of `known`; a folder's name ends in `/`.
    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        Ok(self.list("")?.into_iter().map(Meta::at_top).find(|name| !known.contains(&name.as_str())))
    }

    /// Prepares the place for a vault that is about to be made in it.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the permissions of a folder that users other than its owner and its group can look into. `None` if
    /// nobody else can, or if that cannot be told.
    fn open_to_others(&self) -> Option<u32> {
        None
    }

    /// Returns something in the vault's folder that is unusable for those whose folder it is: its owner, or the group
    /// that shares it. `None` if there is nothing, or if that cannot be told.
    fn unshared(&self) -> Option<crate::store::Unshared> {
        None
    }

    /// Returns the error that this user may not read an object, as far as that is known without reading it. `None` if
    /// nothing says so.
    fn denied(&self, _name: &str) -> Option<StoreError> {
        None
    }

    /// Returns where objects wait until something is about to name them.
    fn staging(&self) -> Box<dyn Staging + '_> {
        Box::new(Direct(self))
    }

    /// Returns how much space is free, and sets `keep` bytes of it aside, or a small part if there is little. `None` if
    /// that cannot be told.
    fn set_aside(&self, _keep: u64) -> Option<FreeSpace> {
        None
    }

    /// Returns the store's time; vaults know no other.
    fn now(&self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    /// Returns how many bytes can be read in the time that one more request takes: reading up to this many unneeded
    /// bytes along is better than another request.
    fn request_worth(&self) -> u64 {
        128 << 10
    }

    /// Returns what was asked of the store so far; `None` if nothing counts it.
    fn traffic(&self) -> Option<Traffic> {
        None
    }

    /// Drops what this machine caches in memory of an object's bytes, so that the next read asks the medium. Does
    /// nothing if nothing is cached, or if the cache cannot be told to.
    fn forget(&self, _name: &str) {}

    /// Waits before an object is asked for again whose answer was wrong by something known beforehand, such as the hash
    /// in its name. `wrong` is how many wrong answers came so far. Returns `false` if another answer would not differ.
    fn may_answer_better(&self, name: &str, wrong: u32) -> bool {
        self.forget(name);
        wrong < 2
    }
}

/// The requests and bytes that went to and from a store that is reached by requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Requests by kind; each attempt counts.
    pub requests: RequestCounts,
    /// Attempts that failed and were followed by another one.
    pub retries: u64,
    /// Bytes of objects that were sent, including those of failed attempts.
    pub sent: u64,
    /// Bytes of objects that were received, including those of failed attempts.
    pub received: u64,
}

/// Requests by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// Requests to create an object.
    pub create: u64,
    /// Requests to read an object or a range of it.
    pub read: u64,
    /// Requests for a page of a listing.
    pub list: u64,
    /// Requests for what is known of one object, including those that only ask for the time.
    pub describe: u64,
}

impl RequestCounts {
    /// Returns the number of requests of all kinds.
    pub fn total(&self) -> u64 {
        self.create + self.read + self.list + self.describe
    }
}

impl Sub for Traffic {
    type Output = Traffic;

    fn sub(self, before: Traffic) -> Traffic {
        let (now, then) = (self.requests, before.requests);
        Traffic {
            requests: RequestCounts {
                create: now.create - then.create,
                read: now.read - then.read,
                list: now.list - then.list,
                describe: now.describe - then.describe,
            },
            retries: self.retries - before.retries,
            sent: self.sent - before.sent,
            received: self.received - before.received,
        }
    }
}

/// Passes methods of [`Store`] on to another store, in the `impl` of a store that does others of them in its own way.
macro_rules! pass_on {
    ($to:expr; $(fn $method:ident(&$self:ident $(, $arg:ident: $type:ty)*) $(-> $answer:ty)?;)+) => {
        $(fn $method(&$self $(, $arg: $type)*) $(-> $answer)? {
            $to.$method($($arg),*)
        })+
    };
}
pub(crate) use pass_on;

/// Whatever points to a store is a store too: a reference, a box, an `Arc`.
impl<P> Store for P
where
    P: Deref<Target: Store> + Send + Sync,
{
    pass_on! {
        (**self);
        fn url(&self) -> String;
        fn create(&self, name: &str, body: &[&[u8]]) -> Result<()>;
        fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>>;
        fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>>;
        fn list(&self, folder: &str) -> Result<Vec<Meta>>;
        fn list_from(&self, folder: &str, from: &str) -> Result<Vec<Meta>>;
        fn other_than(&self, known: &[&str]) -> Result<Option<String>>;
        fn prepare(&self) -> Result<()>;
        fn open_to_others(&self) -> Option<u32>;
        fn unshared(&self) -> Option<crate::store::Unshared>;
        fn denied(&self, name: &str) -> Option<StoreError>;
        fn staging(&self) -> Box<dyn Staging + '_>;
        fn set_aside(&self, keep: u64) -> Option<FreeSpace>;
        fn now(&self) -> Result<Timestamp>;
        fn request_worth(&self) -> u64;
        fn traffic(&self) -> Option<Traffic>;
        fn forget(&self, name: &str);
        fn may_answer_better(&self, name: &str, wrong: u32) -> bool;
    }
}

/// Takes objects that nothing names yet. When it is dropped, those that were not published are gone, unless they are
/// objects already.
pub trait Staging: Send + Sync {
    /// Stores an object, as [`Store::create`] does, but it need not show up in the store until it is published.
    ///
    /// # Errors
    /// The errors of [`Store::create`].
    fn put(&self, name: &str, body: &[&[u8]]) -> Result<()>;

    /// Makes the waiting objects that are `wanted` objects of the store. They are durable when it returns.
    ///
    /// # Errors
    /// The errors of [`Store::create`]. Some of the objects may have been published by then.
    fn publish(&self, wanted: &dyn Fn(&str) -> bool) -> Result<()>;
}

/// A staging without a waiting area: an object that is put is in the store at once.
pub struct Direct<'s, S: ?Sized>(pub &'s S);

impl<S: Store + ?Sized> Staging for Direct<'_, S> {
    fn put(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        self.0.create(name, body)
    }

    fn publish(&self, _: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }
}

/// How much space a filesystem has.
#[derive(Debug)]
pub struct FreeSpace {
    /// Bytes that were free, including those that are set aside.
    pub free: u64,
    /// An unnamed file that takes up the bytes that are set aside; they are free again when it is closed, however the
    /// process ends.
    pub kept: Option<File>,
}

/// A part of a vault that the vault's owner or group may not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unshared {
    /// The group that the vault is shared with may not use the part of this name.
    Group(String),
    /// The vault's owner may not use this part.
    Owner {
        /// The name of the part.
        name: String,
        /// The user that the vault belongs to.
        owner: u32,
        /// The user that the part belongs to.
        of: u32,
    },
}

impl Unshared {
    /// Says what is wrong.
    pub fn what(&self) -> String {
        match self {
            Unshared::Group(name) => {
                format!("it is shared with its group, which may not use all of it ({name}, for example)")
            }
            Unshared::Owner { name, owner, of } => {
                format!("it belongs to the user {owner}, who may not use all of it ({name} belongs to the user {of})")
            }
        }
    }

    /// Returns the commands that mend it, for the vault in `folder`.
    pub fn commands(&self, folder: &Path) -> String {
        match self {
            Unshared::Group(_) => to_share(folder),
            Unshared::Owner { owner, .. } => {
                format!(
                    "`chown -R {owner} {}`, and run backups as that user or as root who may give files away",
                    shell::folder(folder)
                )
            }
        }
    }
}

/// Returns the commands that give all of a vault to a group.
pub fn to_share(folder: &Path) -> String {
    let folder = shell::folder(folder);
    format!("`chgrp -R GROUP {folder}` and `chmod -R u+rwX,g+rwX,o-rwx {folder}`")
}
