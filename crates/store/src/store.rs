//! The handle: one writer, any number of readers, and what they share.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hyperion_verify::state::{StatePath, Word};
use parking_lot::{Mutex, RwLock};

use crate::{
    CrashPoint, FileTail, FsckReport, Head, Lmdb, LogReader, PageStore, ReadTxn as _, Result, Seal,
    Snapshot, StoreConfig, StoreError, StoreStats, Table, TailDisk, WriteTxn as _,
    block::{self, Block},
    fsck::fsck,
    lock::DirLock,
    log::{Edge, LeafIndex, TileCache},
    recover,
    tail::Tail,
    view::{Published, View},
};

/// The claim log and the state beside it. Clones are handles of one store; it closes with the last of them and of
/// its snapshots.
#[derive(Debug)]
pub struct Store<P: PageStore = Lmdb> {
    pub(crate) inner: Arc<Inner<P>>,
}

impl<P: PageStore> Clone for Store<P> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// What a store is kept in.
pub struct Medium<P> {
    /// The tables.
    pub pages: P,
    /// The file in front of them.
    pub tail: Box<dyn TailDisk>,
    /// The directory whose free space is watched, if it is on a disk.
    pub dir: Option<PathBuf>,
}

impl<P> std::fmt::Debug for Medium<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Medium").field("dir", &self.dir).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Inner<P> {
    pub(crate) pages: P,
    pub(crate) config: StoreConfig,
    pub(crate) tiles: TileCache,
    pub(crate) leaves: LeafIndex,
    pub(crate) writer: Mutex<Writer>,
    published: RwLock<Published>,
    /// Commits through the tail, and transactions of the tables, since open.
    pub(crate) commits: Commits,
    dir: Option<PathBuf>,
    disk_reserve_bytes: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Commits {
    pub(crate) tail: AtomicU64,
    pub(crate) log: AtomicU64,
}

/// Candidates are numbered across all stores, so that one of another store is stale here.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// What only the one writer touches.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) tail: Tail,
    poison: Option<String>,
}

impl Writer {
    /// Refuses to write after a failure that left the disk in doubt.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.poison {
            Some(cause) => Err(StoreError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Runs a write and remembers such a failure.
    pub(crate) fn guard<T>(&mut self, write: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let result = write(self);
        match &result {
            Err(StoreError::Poisoned { cause }) => self.poison = Some(cause.clone()),
            // Where the plan stopped, nobody knows what is on disk, as after a crash.
            Err(stopped @ StoreError::Stopped(_)) => self.poison = Some(stopped.to_string()),
            _ => {}
        }
        result
    }
}

impl Store<Lmdb> {
    /// Opens a store, reads what a crash left and checks both roots against the last commit.
    ///
    /// # Errors
    ///
    /// `AlreadyOpen`, `NoStore`, `Format` for another chain or log; `Corrupt` or `RootMismatch` when the bytes on disk
    /// are not what was committed. Nothing is ever repaired silently.
    pub fn open(config: &StoreConfig) -> Result<Self> {
        let pages = Self::tables(config)?;
        if pages.read()?.last(Table::Block)?.is_none() {
            return Err(StoreError::NoStore);
        }
        let tail = FileTail::open(&config.dir.join("tail"))?;
        Self::open_in(Self::medium(pages, tail, config), config)
    }

    /// Creates a store and commits height 0 from leaves in path order; `config.dir` is empty or does not exist.
    ///
    /// # Errors
    ///
    /// `NotEmpty`, or `Format` when the leaves are not in order.
    pub fn create(
        config: &StoreConfig,
        seal: Seal,
        genesis: impl IntoIterator<Item = (StatePath, Word)>,
    ) -> Result<Self> {
        Self::create_with_blobs(config, seal, genesis, &[])
    }

    /// As [`create`](Self::create), with the contents that genesis words name by hash.
    ///
    /// # Errors
    ///
    /// As for `create`.
    pub fn create_with_blobs(
        config: &StoreConfig,
        seal: Seal,
        genesis: impl IntoIterator<Item = (StatePath, Word)>,
        blobs: &[Vec<u8>],
    ) -> Result<Self> {
        let dir = &config.dir;
        match fs::read_dir(dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(StoreError::NotEmpty { dir: dir.clone() });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir).map_err(StoreError::io("creating", dir))?;
            }
            Err(error) => return Err(StoreError::io("listing", dir)(error)),
        }
        let log = dir.join("log");
        fs::create_dir(&log).map_err(StoreError::io("creating", &log))?;
        let pages = Self::tables(config)?;
        let tail = FileTail::create(&dir.join("tail"), config.tail_bytes)?;
        let medium = Self::medium(pages, tail, config);
        let store = Self::create_in(medium, config, seal, genesis, blobs)?;
        // The files' names must survive a loss of power as their contents do.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        for named in [Some(log.as_path()), Some(dir), parent].into_iter().flatten() {
            fs::File::open(named)
                .and_then(|dir| dir.sync_all())
                .map_err(StoreError::io("syncing", named))?;
        }
        Ok(store)
    }

    /// Copies the log's tables into `dir`, an empty or new directory, as of the newest height; reads and writes go on
    /// meanwhile, but for the moment in which the tail moves to the tables. The copy opens as a store.
    ///
    /// # Errors
    ///
    /// When `dir` holds something already or cannot be written.
    pub fn backup(&self, dir: &Path) -> Result<()> {
        self.flush()?;
        let log = dir.join("log");
        fs::create_dir_all(&log).map_err(StoreError::io("creating", &log))?;
        self.inner.pages.copy_to(&log)?;
        FileTail::create(&dir.join("tail"), self.inner.config.tail_bytes)?;
        let synced = fs::File::open(log.join("data.mdb"))
            .and_then(|data| data.sync_all())
            .and_then(|()| fs::File::open(&log)?.sync_all())
            .and_then(|()| fs::File::open(dir)?.sync_all());
        synced.map_err(StoreError::io("syncing", &log))
    }

    /// Checks the store in `config.dir`, which must not be open.
    ///
    /// # Errors
    ///
    /// When there is no store, it is of another format, chain or log, or it cannot be read at all; what is wrong
    /// inside it is in the report.
    pub fn fsck(config: &StoreConfig) -> Result<FsckReport> {
        let pages = Self::tables(config)?;
        let tail = FileTail::open(&config.dir.join("tail"))?;
        fsck(Self::medium(pages, tail, config), config)
    }

    fn tables(config: &StoreConfig) -> Result<Lmdb> {
        if !config.dir.join("log").is_dir() {
            return Err(StoreError::NoStore);
        }
        Lmdb::open(DirLock::take(&config.dir)?, config.log_map_bytes)
    }

    fn medium(pages: Lmdb, tail: FileTail, config: &StoreConfig) -> Medium<Lmdb> {
        Medium { pages, tail: Box::new(tail), dir: Some(config.dir.clone()) }
    }
}

impl<P: PageStore> Store<P> {
    /// As [`Store::open`], from tables and a tail that are open already.
    ///
    /// # Errors
    ///
    /// As for `open`.
    pub fn open_in(medium: Medium<P>, config: &StoreConfig) -> Result<Self> {
        let (view, tail) = recover::recover(&medium.pages, medium.tail, config)?;
        Ok(Self::assemble(medium.pages, medium.dir, config, view, tail))
    }

    /// As [`Store::create`], in tables and a tail that are empty.
    ///
    /// # Errors
    ///
    /// As for `create`.
    pub fn create_in(
        medium: Medium<P>,
        config: &StoreConfig,
        seal: Seal,
        genesis: impl IntoIterator<Item = (StatePath, Word)>,
        blobs: &[Vec<u8>],
    ) -> Result<Self> {
        recover::write_genesis(&medium.pages, config, seal, genesis, blobs)?;
        Self::open_in(medium, config)
    }

    fn assemble(
        pages: P,
        dir: Option<PathBuf>,
        config: &StoreConfig,
        view: View,
        tail: Tail,
    ) -> Self {
        let writer = Writer { tail, poison: None };
        let inner = Inner {
            pages,
            config: config.clone(),
            tiles: TileCache::default(),
            leaves: LeafIndex::default(),
            writer: Mutex::new(writer),
            published: RwLock::new(Published::new(view)),
            commits: Commits::default(),
            dir,
            disk_reserve_bytes: AtomicU64::new(config.disk_reserve_bytes),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sets the free disk space below which blocks are refused from now on, over the configuration's.
    pub fn set_disk_reserve(&self, bytes: u64) {
        self.inner.disk_reserve_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The newest durable height.
    pub fn head(&self) -> Head {
        *self.inner.view().head()
    }

    /// A consistent reading of the newest height.
    pub fn snapshot(&self) -> Snapshot<P> {
        Snapshot::new(&self.inner, Arc::clone(&self.inner.view().state))
    }

    /// The same for an older height inside the window.
    ///
    /// # Errors
    ///
    /// `SnapshotTooOld` with the oldest height held, or `AboveHead`.
    pub fn snapshot_at(&self, height: u64) -> Result<Snapshot<P>> {
        let published = self.inner.published.read();
        let head = published.view.head().height;
        if height > head {
            return Err(StoreError::AboveHead { height, head });
        }
        let state =
            published.at(height).map_err(|oldest| StoreError::SnapshotTooOld { height, oldest })?;
        Ok(Snapshot::new(&self.inner, state))
    }

    /// Entries, tiles, proofs and checkpoints of the log.
    pub fn log(&self) -> LogReader<'_, P> {
        LogReader::new(&self.inner)
    }

    /// Moves the blocks of the tail to the tables; for a backup, or before a long rest.
    ///
    /// # Errors
    ///
    /// As for a commit; the blocks then stay in the tail.
    pub fn flush(&self) -> Result<()> {
        let mut writer = self.inner.writer.lock();
        writer.check()?;
        let view = self.inner.view();
        if view.pending.is_empty() {
            return Ok(());
        }
        writer.guard(|_| self.inner.write_log(&view.pending, &view.edge))?;
        writer.tail.reset();
        let mut next = View::clone(&view);
        next.pending = Arc::default();
        next.edge.drop_finished_runs();
        self.inner.published.write().replace(next);
        Ok(())
    }

    /// Sizes and counts, for the metrics page.
    ///
    /// # Errors
    ///
    /// When the tables cannot be measured.
    pub fn stats(&self) -> Result<StoreStats> {
        let usage = self.inner.pages.usage()?;
        let commits = &self.inner.commits;
        let published = self.inner.published.read();
        Ok(StoreStats {
            log: usage,
            tail_blocks: published.view.pending.len() as u64,
            tail_commits: commits.tail.load(Ordering::Relaxed),
            log_commits: commits.log.load(Ordering::Relaxed),
            leaves: published.view.state.trie.leaves(),
            snapshot_heights: published.heights() as u64,
            snapshot_oldest: published.oldest(),
            snapshot_bytes: published.retired_bytes() as u64,
        })
    }
}

impl<P: PageStore> Inner<P> {
    /// The newest view.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.published.read().view)
    }

    /// Makes `view` the newest.
    pub(crate) fn publish(&self, view: View) {
        let (heights, bytes) = (self.config.snapshot_heights, self.config.snapshot_bytes);
        let gone = self.published.write().advance(view, heights, bytes);
        // Freeing many nodes takes a while, and readers need not wait for it.
        drop(gone);
    }

    /// One transaction for consecutive blocks; `edge` is the log's end after the last.
    pub(crate) fn write_log(&self, blocks: &[Arc<Block>], edge: &Edge) -> Result<()> {
        let mut txn = self.pages.write()?;
        block::write(&mut txn, blocks, edge)?;
        self.config.crash.pass(CrashPoint::LogWritten)?;
        txn.commit()?;
        self.commits.log.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// One transaction beside the blocks.
    pub(crate) fn write_aside(
        &self,
        fill: impl FnOnce(&mut P::Write<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut writer = self.writer.lock();
        writer.check()?;
        self.check_disk()?;
        writer.guard(|_| {
            let mut txn = self.pages.write()?;
            fill(&mut txn)?;
            txn.commit()
        })
    }

    /// Refuses to write into the reserve.
    pub(crate) fn check_disk(&self) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let stat = rustix::fs::statvfs(dir)
            .map_err(|errno| StoreError::io("measuring", dir)(errno.into()))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        let reserve_bytes = self.disk_reserve_bytes.load(Ordering::Relaxed);
        if free_bytes < reserve_bytes {
            return Err(StoreError::DiskLow { free_bytes, reserve_bytes });
        }
        Ok(())
    }
}
