//! Replaces what SQLite does to the files of a database that is only read.
//!
//! Even for a reader, SQLite creates what it misses beside a database, deletes a log beside an empty one and, as root,
//! gives the database's owner and mode to what it finds there. None of this can be turned off, so the system calls that
//! it makes are replaced by ones that do none of it in a thread that is [`changing_nothing`].
//!
//! The first program that has a `-shm` open cuts it and makes it again: it keeps others out for that long, and would
//! kill a program that has it mapped and has lost its lock on it, as happens to programs that copied their own files,
//! or became a daemon. A thread that reads [`after_others`], or [`as_left`], is never that first one.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::transmute;
use std::ptr;
use std::sync::LazyLock;
use std::thread::LocalKey;

use rusqlite::ffi;

use super::locks::OPEN;

type OpenFn = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type UnlinkFn = unsafe extern "C" fn(*const c_char) -> c_int;
type FchmodFn = unsafe extern "C" fn(c_int, libc::mode_t) -> c_int;
type FcntlFn = unsafe extern "C" fn(c_int, c_int, *mut c_void) -> c_int;
type FchownFn = unsafe extern "C" fn(c_int, libc::uid_t, libc::gid_t) -> c_int;

thread_local! {
    static NOTHING: Cell<bool> = const { Cell::new(false) };
    static FIRST: Cell<FirstShmOpen> = const { Cell::new(FirstShmOpen::MakesAnew) };
    static WAS_FIRST: Cell<bool> = const { Cell::new(false) };
}

/// How SQLite treats a `-shm` that no other program has open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstShmOpen {
    MakesAnew,
    Fails,
    TakesItAsLeft,
}

/// Whether SQLite's system calls are replaced.
static REPLACED: LazyLock<bool> = LazyLock::new(|| {
    // SAFETY: SQLite calls each function by its name with these arguments; pointers to functions are alike in size.
    let calls = unsafe {
        [
            (c"unlink", transmute::<UnlinkFn, unsafe extern "C" fn()>(unlink)),
            (c"open", transmute::<OpenFn, unsafe extern "C" fn()>(open)),
            (c"fchmod", transmute::<FchmodFn, unsafe extern "C" fn()>(fchmod)),
            (c"fchown", transmute::<FchownFn, unsafe extern "C" fn()>(fchown)),
            // It is called with a third argument, whatever that is; all processors of Linux pass that argument to a
            // function that declares one.
            (c"fcntl", transmute::<FcntlFn, unsafe extern "C" fn()>(fcntl)),
        ]
    };
    calls.into_iter().all(|(name, call)| replace(name, call))
});

fn replace(name: &CStr, call: unsafe extern "C" fn()) -> bool {
    // SAFETY: the default VFS exists for as long as the program runs; it keeps the pointer to the function, not the
    // name.
    unsafe {
        let Some(vfs) = ffi::sqlite3_vfs_find(ptr::null()).as_mut() else { return false };
        vfs.xSetSystemCall.is_some_and(|set| set(vfs, name.as_ptr(), Some(call)) == ffi::SQLITE_OK)
    }
}

/// Replaces SQLite's system calls. It has to be called before the first connection, since threads do not agree on when
/// it happens. Returns whether it could be done.
pub fn replaced() -> bool {
    *REPLACED
}

/// Runs `doing` while SQLite, in this thread, creates and deletes no file, and gives no file another mode or owner.
pub fn changing_nothing<T>(doing: impl FnOnce() -> T) -> T {
    with(&NOTHING, true, doing)
}

/// Runs `doing` while SQLite, in this thread, opens a `-shm` only if another program has it open. Also returns whether
/// SQLite failed because no other program had it open.
pub fn after_others<T>(doing: impl FnOnce() -> T) -> (T, bool) {
    WAS_FIRST.set(false);
    (with(&FIRST, FirstShmOpen::Fails, doing), WAS_FIRST.get())
}

/// Runs `doing` while SQLite, in this thread, takes a `-shm` that no other program has open as it was left.
pub fn as_left<T>(doing: impl FnOnce() -> T) -> T {
    with(&FIRST, FirstShmOpen::TakesItAsLeft, doing)
}

fn with<V: Copy + 'static, T>(set: &'static LocalKey<Cell<V>>, to: V, doing: impl FnOnce() -> T) -> T {
    struct ResetOnDrop<V: Copy + 'static>(&'static LocalKey<Cell<V>>, V);
    impl<V: Copy + 'static> Drop for ResetOnDrop<V> {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _before = ResetOnDrop(set, set.replace(to));
    doing()
}

unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    let flags = if NOTHING.get() { flags & !libc::O_CREAT } else { flags };
    // SAFETY: SQLite's own call.
    unsafe { libc::open(path, flags, mode) }
}

unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    if NOTHING.get() {
        // SAFETY: the `errno` is this thread's own.
        unsafe { *libc::__errno_location() = libc::EPERM };
        return -1;
    }
    // SAFETY: SQLite's own call.
    unsafe { libc::unlink(path) }
}

unsafe extern "C" fn fchmod(file: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: SQLite's own call.
    if NOTHING.get() { 0 } else { unsafe { libc::fchmod(file, mode) } }
}

unsafe extern "C" fn fchown(file: c_int, user: libc::uid_t, group: libc::gid_t) -> c_int {
    // SAFETY: SQLite's own call.
    if NOTHING.get() { 0 } else { unsafe { libc::fchown(file, user, group) } }
}

unsafe extern "C" fn fcntl(file: c_int, command: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: SQLite's own call.
    let result = unsafe { libc::fcntl(file, command, argument) };
    if result != 0 || command != libc::F_GETLK || FIRST.get() == FirstShmOpen::MakesAnew {
        return result;
    }
    // SAFETY: the argument of this command is a lock, which the call has filled in.
    let lock = unsafe { &mut *argument.cast::<libc::flock>() };
    // SQLite asks for this lock before anything else.
    if (lock.l_start, lock.l_len) != OPEN || c_int::from(lock.l_type) != libc::F_UNLCK {
        return result;
    }
    if FIRST.get() == FirstShmOpen::TakesItAsLeft {
        // The answer is as if another reader had it open: SQLite then opens it beside that one.
        lock.l_type = libc::F_RDLCK as _;
        return result;
    }
    WAS_FIRST.set(true);
    // If the answer were that another program keeps it, SQLite would wait for 10 seconds.
    // SAFETY: the `errno` is this thread's own.
    unsafe { *libc::__errno_location() = libc::EAGAIN };
    -1
}

#[cfg(test)]
mod tests {
    use super::super::peer::Peer;
    use super::*;
    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    #[test]
    fn a_log_beside_an_empty_database_stays() {
        assert!(replaced());
        let folder = tempfile::tempdir().unwrap();
        let (path, log) = (folder.path().join("app.db"), folder.path().join("app.db-wal"));
        std::fs::write(&path, "").unwrap();
        std::fs::write(&log, "what SQLite deletes").unwrap();
        let pages = || {
            let connection = Connection::open(&path).unwrap();
            connection.query_row("pragma schema_version", [], |row| row.get::<_, i64>(0))
        };
        changing_nothing(|| pages().unwrap_err());
        assert!(log.exists());
        pages().unwrap();
        assert!(!log.exists());
    }

    #[test]
    fn who_comes_after_others_is_never_the_first() {
        assert!(replaced());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let mut writer = Peer::with(&path);
        writer.run("pragma journal_mode = wal; create table t(x)").unwrap();
        let opened = || {
            let connection = Connection::open(&path).unwrap();
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
            connection
        };
        let count = || {
            let connection = opened();
            after_others(|| connection.query_row("select count(*) from t", [], |row| row.get::<_, i64>(0)))
        };
        assert_eq!(count(), (Ok(0), false));
        writer.kill();
        let (refused, first) = count();
        assert!(refused.is_err() && first);
        let shm = folder.path().join("app.db-shm");
        let left = std::fs::metadata(&shm).unwrap().modified().unwrap();
        let connection = opened();
        let read = || connection.query_row("select count(*) from t", [], |row| row.get::<_, i64>(0));
        assert_eq!(as_left(read), Ok(0));
        assert_eq!(std::fs::metadata(&shm).unwrap().modified().unwrap(), left);
        let mut next = Peer::with(&path);
        assert_eq!(next.ask("select count(*) from t"), "0");
        assert_eq!(count(), (Ok(0), false));
    }

    #[test]
    fn sqlite_creates_what_it_misses_but_for_a_thread_that_changes_nothing() {
        assert!(replaced());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let make = || Connection::open(&path).and_then(|connection| connection.execute_batch("create table t(x)"));
        changing_nothing(|| make().unwrap_err());
        assert!(!path.exists());
        changing_nothing(|| std::thread::scope(|scope| scope.spawn(make).join().unwrap())).unwrap();
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
        make().unwrap();
    }
}
