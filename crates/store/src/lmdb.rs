//! The wall around LMDB: this file alone names `lmdb` and `lmdb_sys`, and it holds the crate's only `unsafe`.
//!
//! `lmdb-rkv` 0.14.0 can be made to read freed memory from safe code: its iterators outlive their cursors,
//! `set_map_size` remaps under live slices, `RwCursor::get` survives a `put`, a failed `begin_nested_txn` is used,
//! and two `open`s of one directory are undefined. None of those is reachable through [`PageStore`]:
//!
//! * the map is sized once, at open; growing it is reopening;
//! * no cursor or iterator leaves a call, and every slice borrows the transaction that pins its page;
//! * a write transaction's `get` borrows it shared, `put` exclusively;
//! * [`DirLock`] keeps a directory open once.
//!
//! Flags are `NO_TLS` and nothing else: no `WRITE_MAP`, `MAP_ASYNC`, `NO_SYNC`, `NO_META_SYNC`, `NO_LOCK` or
//! `NO_MEM_INIT`, and no `DUP_SORT` or `INTEGER_KEY` tables. A commit is therefore: write the pages, `fdatasync`, write
//! the meta page through a descriptor that syncs it.
#![expect(
    unsafe_code,
    reason = "owning read transactions and four calls that lmdb-rkv does not offer"
)]

use std::{
    ffi::{CStr, CString},
    ops::ControlFlow,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::Arc,
};

use lmdb::{
    Cursor as _, Database, DatabaseFlags, Environment, EnvironmentFlags, Error, RoCursor,
    RoTransaction, RwTransaction, Transaction as _, WriteFlags,
};

use crate::{
    DirLock, PageStore, ReadTxn, Result, StoreError, Table, Usage, Visit, WriteTxn, error::hex,
};

/// The LMDB whose behaviour under faults `docs/store.md` describes.
const VERSION: (i32, i32, i32) = (0, 9, 24);
const PAGE_BYTES: u64 = 4096;
const ENOSPC: i32 = 28;

/// What a cursor's move gives: the key where it stands, and the value.
type Step<'t> = lmdb::Result<(Option<&'t [u8]>, &'t [u8])>;

/// Tables in an LMDB environment. Cheap to clone; the environment closes with the last clone and reader.
#[derive(Clone, Debug)]
pub struct Lmdb(Arc<Env>);

#[derive(Debug)]
struct Env {
    environment: Environment,
    tables: [Database; Table::ALL.len()],
    map_bytes: u64,
    // Given back after the environment is closed: fields drop in order.
    _lock: DirLock,
}

impl Env {
    const fn table(&self, table: Table) -> Database {
        self.tables[table as usize]
    }
}

impl Lmdb {
    /// Opens the environment `log` in the locked directory, and creates tables that are missing.
    ///
    /// `map_bytes` of address space are reserved (no memory, no disk) and bound the file until it is opened again.
    ///
    /// # Errors
    ///
    /// When the directory cannot be opened or mapped, or another LMDB than 0.9.24 was linked.
    pub fn open(lock: DirLock, map_bytes: u64) -> Result<Self> {
        check_version()?;
        let map = usize::try_from(map_bytes).map_err(|_| StoreError::TooLarge {
            what: "map_bytes",
            got: map_bytes,
            max: usize::MAX as u64,
        })?;
        let environment = Environment::new()
            .set_flags(EnvironmentFlags::NO_TLS)
            .set_max_dbs(16)
            .set_max_readers(256)
            .set_map_size(map)
            .open_with_permissions(&lock.dir().join("log"), 0o600)
            .map_err(|error| refused("opening the environment", error))?;
        free_dead_readers(&environment)?;
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            // A reader never needs a missing table, so whoever opens first makes them all.
            let database = environment
                .create_db(Some(table.name()), DatabaseFlags::empty())
                .map_err(|error| wrote(error, table, map_bytes))?;
            tables.push(database);
        }
        let tables = tables.try_into().expect("one handle per table");
        Ok(Self(Arc::new(Env { environment, tables, map_bytes, _lock: lock })))
    }

    /// Copies the newest committed moment into `dir`, an empty directory, while reads and writes go on.
    ///
    /// # Errors
    ///
    /// When `dir` holds an environment already or the copy cannot be written.
    pub(crate) fn copy_to(&self, dir: &Path) -> Result<()> {
        let path = CString::new(dir.as_os_str().as_bytes()).map_err(|_| StoreError::Lmdb {
            doing: "copying the environment",
            cause: "the path holds a zero byte".to_owned(),
        })?;
        // SAFETY: `env()` is the live environment that `self` keeps open; `path` is a C string that outlives
        // the call. The copy reads through a read transaction of its own.
        let code = unsafe { lmdb_sys::mdb_env_copy2(self.0.environment.env(), path.as_ptr(), 0) };
        accepted("copying the environment", code)
    }
}

impl PageStore for Lmdb {
    type Read = LmdbRead;
    type Write<'s> = LmdbWrite<'s>;

    fn read(&self) -> Result<LmdbRead> {
        let env = Arc::clone(&self.0);
        let txn = env.environment.begin_ro_txn().map_err(|e| refused("beginning a read", e))?;
        // SAFETY: the lifetime stands for "while the environment is open". `LmdbRead` holds an `Arc` of the
        // environment and drops it after the transaction (fields drop in order), so the promise is kept.
        let txn = unsafe { core::mem::transmute::<RoTransaction<'_>, RoTransaction<'static>>(txn) };
        Ok(LmdbRead { txn, env })
    }

    fn write(&self) -> Result<LmdbWrite<'_>> {
        let txn = self.0.environment.begin_rw_txn().map_err(|error| match error {
            // A meta page that could not be written; LMDB refuses all writers from then on.
            Error::Panic => poisoned("an earlier commit", error),
            other => refused("beginning a write", other),
        })?;
        Ok(LmdbWrite { txn, env: &self.0 })
    }

    fn usage(&self) -> Result<Usage> {
        let env = &self.0.environment;
        let info = env.info().map_err(|e| refused("reading sizes", e))?;
        let free = env.freelist().map_err(|e| refused("reading the free list", e))?;
        Ok(Usage {
            file_bytes: (info.last_pgno() as u64 + 1) * PAGE_BYTES,
            free_bytes: free as u64 * PAGE_BYTES,
            map_bytes: self.0.map_bytes,
            readers: info.num_readers(),
        })
    }
}

/// A reading of one moment; pins the pages it may return.
#[derive(Debug)]
pub struct LmdbRead {
    // Dropped before `env`, which it points into.
    txn: RoTransaction<'static>,
    env: Arc<Env>,
}

// SAFETY: the environment is opened with NO_TLS, which ties a reader's slot to the transaction instead of the
// thread; LMDB then allows a read transaction to move between threads. `LmdbRead` is not `Sync`.
unsafe impl Send for LmdbRead {}

impl LmdbRead {
    /// A cursor for use within one call; the slices it gives live as long as the transaction.
    fn cursor(&self, table: Table) -> Result<RoCursor<'_>> {
        self.txn.open_ro_cursor(self.env.table(table)).map_err(|e| read_failed(e, table, b""))
    }
}

impl ReadTxn for LmdbRead {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        found(self.txn.get(self.env.table(table), &key), table, key)
    }

    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        let cursor = self.cursor(table)?;
        stepped(cursor.get(None, None, lmdb_sys::MDB_LAST), table)
    }

    fn floor(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        let cursor = self.cursor(table)?;
        match stepped(cursor.get(Some(key), None, lmdb_sys::MDB_SET_RANGE), table)? {
            Some((at, value)) if at == key => Ok(Some((at, value))),
            Some(_) => stepped(cursor.get(None, None, lmdb_sys::MDB_PREV), table),
            None => stepped(cursor.get(None, None, lmdb_sys::MDB_LAST), table),
        }
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let cursor = self.cursor(table)?;
        // LMDB refuses an empty key, and every key is at or above it.
        let mut step = if from.is_empty() {
            cursor.get(None, None, lmdb_sys::MDB_FIRST)
        } else {
            cursor.get(Some(from), None, lmdb_sys::MDB_SET_RANGE)
        };
        while let Some((key, value)) = stepped(step, table)? {
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
            step = cursor.get(None, None, lmdb_sys::MDB_NEXT);
        }
        Ok(())
    }
}

/// The one writer.
#[derive(Debug)]
pub struct LmdbWrite<'s> {
    txn: RwTransaction<'s>,
    env: &'s Env,
}

impl LmdbWrite<'_> {
    fn set(&mut self, table: Table, key: &[u8], value: &[u8], flags: WriteFlags) -> Result<()> {
        self.txn.put(self.env.table(table), &key, &value, flags).map_err(|error| match error {
            Error::KeyExist => StoreError::corrupt(
                table.name(),
                key,
                "a key that should end the table is not its greatest",
            ),
            other => wrote(other, table, self.env.map_bytes),
        })
    }
}

impl WriteTxn for LmdbWrite<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        found(self.txn.get(self.env.table(table), &key), table, key)
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.set(table, key, value, WriteFlags::empty())
    }

    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.set(table, key, value, WriteFlags::APPEND)
    }

    fn commit(self) -> Result<()> {
        self.txn.commit().map_err(|error| match error {
            // Data pages found no room: the previous meta page still rules and a later commit may succeed.
            Error::Other(ENOSPC) => StoreError::DiskFull,
            // A failed fdatasync may have dropped dirty pages, so that trying again would prove nothing.
            other => poisoned("a commit", other),
        })
    }
}

fn check_version() -> Result<()> {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: the three pointers are valid for writes of a C int; the returned text is static and unused.
    let _ = unsafe { lmdb_sys::mdb_version(&mut major, &mut minor, &mut patch) };
    if (major, minor, patch) == VERSION {
        return Ok(());
    }
    Err(StoreError::Format {
        what: "LMDB",
        got: format!("{major}.{minor}.{patch}"),
        expected: format!("{}.{}.{}, built from source", VERSION.0, VERSION.1, VERSION.2),
    })
}

/// A process that was killed leaves its reader slots behind, and each would pin its pages for ever.
fn free_dead_readers(environment: &Environment) -> Result<()> {
    let mut dead = 0;
    // SAFETY: `env()` is the live environment; `dead` is valid for a write of a C int.
    let code = unsafe { lmdb_sys::mdb_reader_check(environment.env(), &mut dead) };
    accepted("checking reader slots", code)
}

fn accepted(doing: &'static str, code: i32) -> Result<()> {
    if code == lmdb_sys::MDB_SUCCESS {
        return Ok(());
    }
    // SAFETY: `mdb_strerror` takes any code and returns a pointer to a C string.
    let text = unsafe { lmdb_sys::mdb_strerror(code) };
    let cause = if text.is_null() {
        format!("code {code}")
    } else {
        // SAFETY: the text is not null, ends in a zero byte and is not written to while this thread reads it
        // (LMDB's own texts are static; the system's belong to the calling thread).
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    Err(StoreError::Lmdb { doing, cause })
}

fn found<'t>(got: lmdb::Result<&'t [u8]>, table: Table, key: &[u8]) -> Result<Option<&'t [u8]>> {
    match got {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(read_failed(error, table, key)),
    }
}

/// Where a cursor went; `None` past either end.
fn stepped<'t>(step: Step<'t>, table: Table) -> Result<Option<(&'t [u8], &'t [u8])>> {
    match step {
        Ok((Some(key), value)) => Ok(Some((key, value))),
        Ok((None, _)) | Err(Error::NotFound) => Ok(None),
        Err(error) => Err(read_failed(error, table, b"")),
    }
}

fn read_failed(error: Error, table: Table, key: &[u8]) -> StoreError {
    match error {
        Error::PageNotFound | Error::Corrupted | Error::CursorFull => {
            StoreError::corrupt(table.name(), key, format!("LMDB: {error}"))
        }
        other => StoreError::Lmdb {
            doing: "reading",
            cause: format!("table `{}`, key {}: {other}", table.name(), hex(key)),
        },
    }
}

fn wrote(error: Error, table: Table, map_bytes: u64) -> StoreError {
    match error {
        Error::MapFull => StoreError::MapFull { table: table.name(), map_bytes },
        Error::Other(ENOSPC) => StoreError::DiskFull,
        other => refused("writing a table", other),
    }
}

fn refused(doing: &'static str, error: Error) -> StoreError {
    StoreError::Lmdb { doing, cause: error.to_string() }
}

fn poisoned(what: &str, error: Error) -> StoreError {
    StoreError::Poisoned { cause: format!("{what} failed: {error}") }
}
