//! Checks what a transaction's state rests on, and reads a database that uses a log while nobody has it open
//! ([`at_rest`](super::super::at_rest)).

use std::time::{Duration, Instant};

use rustix::fs::{OFlags, Stat, fstat};

use super::super::handle::read_wal;
use super::super::locks::{self, lock_holder};
use super::super::usage;
use super::super::wal_index::{self};
use super::{AccessMode, BeginError, ELSEWHERE, LOCKED, Live, failed};
use crate::fs::holders::Locks;
use crate::fs::times::{self, mtime, settled, wait_a_tick};
use crate::sqlite::error::ReadError;
use crate::sqlite::fd_registry::{self, try_lock_inode};
use crate::sqlite::locks::LockHolder;
use crate::sqlite::side_files::{Id, StatFingerprint, id, looks};
use crate::sqlite::wal_index::IndexFit;

/// How long a program is awaited that came once, and one that came again.
const AWAITED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// The things that have to stay as they are for a transaction's state to stand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// SQLite's locks are enough.
    Locks,
    /// The log and the `-shm` are those that its programs share.
    Shared { wal: Option<Id>, shm: Option<Id> },
    /// Without what its programs share, their writing shows only in the files: the file itself, its log, and what is left of a
    /// `-shm`.
    AtRest { database: StatFingerprint, wal: Option<StatFingerprint>, shm: Option<StatFingerprint> },
}

/// Which file a status is of, and the file's mtime.
pub(super) fn written(stat: &Stat) -> (Id, i64) {
    (id(stat), mtime(stat))
}

impl Live<'_> {
    /// Whether the transaction's state still stands.
    ///
    /// # Errors
    /// A file beside the database that cannot be looked at.
    pub fn stands(&self) -> Result<bool, ReadError> {
        if self.basis == Basis::Locks {
            return Ok(true);
        }
        let (wal, shm) = (self.beside("-wal")?, self.beside("-shm")?);
        let now = self.basis_of(&fstat(&self.file).map_err(failed)?, wal.as_ref(), shm.as_ref());
        Ok(now == self.basis && (self.mode == AccessMode::Shared || self.is_at_rest()))
    }

    /// The basis of reading this database, which uses a log.
    pub(super) fn basis_of(&self, database: &Stat, wal: Option<&Stat>, shm: Option<&Stat>) -> Basis {
        match self.mode {
            AccessMode::Shared => Basis::Shared { wal: wal.map(id), shm: shm.map(id) },
            AccessMode::AtRest { .. } => {
                Basis::AtRest { database: looks(database), wal: wal.map(looks), shm: shm.map(looks) }
            }
        }
    }

    /// Whether nobody is seen to have open this database, which uses a log.
    fn is_at_rest(&self) -> bool {
        self.is_nobodys().is_ok() && !self.shm.as_ref().is_some_and(|shm| locks::is_open(&shm.file))
    }

    /// Fails if a program has the database open and the `-shm` that lies here, if there is one, is not that program's.
    pub(super) fn is_nobodys(&self) -> Result<(), BeginError> {
        match lock_holder(&self.file) {
            LockHolder::No => Ok(()),
            LockHolder::Reading(pid) if self.is_only_read(pid) => Ok(()),
            LockHolder::Reading(_) => Err(BeginError::Index(ELSEWHERE.into())),
            LockHolder::Alone(_) => Err(BeginError::Busy(LOCKED)),
        }
    }

    /// Whether the programs that have the database open only read what lies here.
    fn is_only_read(&self, pid: Option<u32>) -> bool {
        usage::is_only_read(&self.at, &*self.file, pid)
    }

    /// Whether the log that SQLite has open is the one of the `-shm`.
    pub(super) fn is_log_of_index(&self) -> bool {
        let (Some(shm), Some(connection)) = (&self.shm, &self.connection) else { return true };
        // A file that cannot be read is reported by the code that reads it.
        wal_index::is_of(&shm.file, |at, out| read_wal(connection, at, out)).unwrap_or(true)
    }

    /// Whether a program writes to another log than the one that lies here.
    pub(super) fn is_another_log_used(&self, wal: Option<&Stat>) -> bool {
        let (Some(wal), Some(shm)) = (wal, &self.shm) else { return false };
        usage::is_another_log_used(&Locks::read(), &self.at, &*self.file, wal, &shm.file)
    }

    /// Whether the database can be read by a `-shm` that nobody has open: a program that came since our first look has
    /// made it again, and it is the index of everything that the log has.
    ///
    /// While we read by it, no other program makes it again, and what is missing from it would be lost to all. A
    /// program that has the database to itself writes to the log without it. And a machine that fails leaves some pages
    /// of the `-shm` on the disk and not others, as it does with the log and the database, which no look at the `-shm`
    /// alone could tell. A `-shm` that was made again since is whole in this machine's memory, and the program that
    /// made it has checked the log. It was cut then, which shows in its mtime; that is compared with its former value,
    /// not with the clock, as the clock may have been set back since.
    pub(super) fn is_index_whole(&self) -> bool {
        let Some(shm) = &self.shm else { return false };
        let open = || {
            let found = self.at.status("-wal").ok()??;
            let hold = try_lock_inode(found.st_dev, found.st_ino)?;
            fd_registry::open(hold, self.options.stop, || self.at.open("-wal", OFlags::RDONLY)).ok()
        };
        let made_anew = fstat(&shm.file).is_ok_and(|now| Some(written(&now)) != self.first_shm);
        made_anew && open().is_some_and(|wal| wal_index::fit(&shm.file, &wal.file) == IndexFit::All)
    }

    /// Looks at a database that nobody has open, at a moment from which on any write shows in its times.
    pub(super) fn stat_at_rest(
        &mut self,
        wal: Option<&Stat>,
    ) -> Result<(Stat, Option<Stat>, Option<Stat>), BeginError> {
        if (self.met as usize) < AWAITED.len() {
            self.lock = None;
        }
        self.is_nobodys()?;
        let stat = settled(&self.file, times::now).map_err(failed)?.0;
        if let Some(wal) = wal {
            wait_a_tick(wal, times::now());
        }
        let beside = (stat, self.beside("-wal")?, self.beside("-shm")?);
        if !self.is_at_rest() {
            return Err(BeginError::Changed);
        }
        Ok(beside)
    }

    /// Records that a program came while the database was read at rest.
    pub(super) fn somebody_came(&mut self) {
        let long = AWAITED.get(self.met as usize);
        self.awaited = long.map(|long| Instant::now() + self.options.patience.min(*long));
        self.met += 1;
    }

    /// Whether what programs share beside a database that nobody has open has to be kept there, and read by.
    ///
    /// While it is kept, an app cannot close its database for good, nor have it to itself. So a program that came while
    /// the database was read is awaited, since then the database can be read together with it; if it does not come, the
    /// database is read at rest again. Only if it comes each time, and is never met, is there no other way.
    pub(super) fn must_keep_shared_files(&mut self) -> Result<bool, BeginError> {
        if self.met == 0 {
            return Ok(false);
        }
        self.is_nobodys()?;
        if self.awaited.is_some_and(|until| Instant::now() < until) {
            (self.lock, self.connection) = (None, None);
            return Err(BeginError::Awaited);
        }
        Ok(self.met as usize >= AWAITED.len())
    }
}
