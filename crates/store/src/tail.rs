//! The newest small blocks: a file of fixed size in front of the log's tables.
//!
//! An LMDB commit waits for the disk twice, once for pages and once for the meta page. A small block therefore
//! becomes durable as one record here, with one write and one `fdatasync` into blocks that the file already has,
//! and many of them enter the tables in one transaction later.
//!
//! The file is pages of 4 096 bytes: a mark, 1 where a record begins and 2 where it goes on, and 4 095 bytes of it. So
//! no sector of an acknowledged record is written again before its block is in the tables, and nothing inside a
//! record, such as a contract's code, can pass for the beginning of one.
//!
//! After the tables have caught up, writing starts over at the front; what lies behind is recognised by its height.
//! Reading takes records from the front for as long as each is whole and the next height. A crash can only cut off
//! the last, unacknowledged one; a whole record *behind* a broken one is damage and refused.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    Result, StoreError,
    block::Block,
    crash::{CrashPlan, CrashPoint},
};

const PAGE_BYTES: usize = 4096;
const PAGE_PAYLOAD: usize = PAGE_BYTES - 1;
const BEGINS: u8 = 1;
const GOES_ON: u8 = 2;

/// Where the tail's bytes lie.
pub trait TailDisk: Send + 'static {
    /// Every byte; the length is the tail's size for good.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Puts `bytes` at `offset`, durably; both lie inside the size.
    ///
    /// # Errors
    ///
    /// When it is not known to be durable.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// A file whose blocks are all allocated and written once, so that a write changes no metadata.
#[derive(Debug)]
pub struct FileTail(File);

impl FileTail {
    /// Makes the file, which must not exist, with `bytes` zero bytes.
    ///
    /// # Errors
    ///
    /// When the file cannot be made or filled.
    pub fn create(path: &Path, bytes: u64) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(StoreError::io("creating", path))?;
        io::copy(&mut io::repeat(0).take(bytes), &mut &file)
            .and_then(|_| file.sync_all())
            .map_err(StoreError::io("filling", path))?;
        Ok(Self(file))
    }

    /// Opens the file. It is never made anew: without it, blocks that were acknowledged might be missing unseen.
    ///
    /// # Errors
    ///
    /// When the file is missing or cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.map_err(StoreError::io("opening", path))?))
    }
}

impl TailDisk for FileTail {
    fn read(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.0.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)?;
        self.0.sync_data()
    }
}

/// A tail in memory; a clone is the same medium.
#[derive(Clone, Debug)]
pub struct MemTail(Arc<Mutex<MemTailBytes>>);

#[derive(Debug)]
struct MemTailBytes {
    bytes: Vec<u8>,
    next_write_fails: bool,
}

impl MemTail {
    /// A tail of `bytes` zero bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(MemTailBytes { bytes: vec![0; bytes], next_write_fails: false })))
    }

    /// Makes the next write fail after half of it, as a dying disk would.
    pub fn fail_next_write(&self) {
        self.0.lock().next_write_fails = true;
    }

    /// Changes the bytes, as damage would.
    pub fn change(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.0.lock().bytes);
    }
}

impl TailDisk for MemTail {
    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.0.lock().bytes.clone())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut tail = self.0.lock();
        let fails = std::mem::take(&mut tail.next_write_fails);
        let bytes = if fails { &bytes[..bytes.len() / 2] } else { bytes };
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        tail.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        if fails { Err(io::Error::other("made to fail")) } else { Ok(()) }
    }
}

/// The tail and where its next record goes.
pub(crate) struct Tail {
    disk: Box<dyn TailDisk>,
    pages: usize,
    next: usize,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pages, next, .. } = self;
        write!(f, "Tail {{ pages: {pages}, next: {next} }}")
    }
}

impl Tail {
    /// Reads the tail; gives out the blocks that follow `height` in order.
    ///
    /// # Errors
    ///
    /// `Corrupt` when a record is broken and another follows it.
    pub(crate) fn open(disk: Box<dyn TailDisk>, height: u64) -> Result<(Self, Vec<Block>)> {
        let bytes = disk.read().map_err(|error| poisoned(&error))?;
        let pages: Vec<&[u8]> = bytes.chunks_exact(PAGE_BYTES).collect();
        let mut blocks: Vec<Block> = Vec::new();
        let mut next = 0;
        while let Some(block) = record_at(&pages, next) {
            if block.height() != height + 1 + blocks.len() as u64 {
                break;
            }
            next += pages_of(block.tail_bytes());
            blocks.push(block);
        }
        let newest = height + blocks.len() as u64;
        let behind =
            (next..pages.len()).filter_map(|at| Some((at, record_at(&pages, at)?.height())));
        if let Some((at, found)) = behind.into_iter().find(|(_, found)| *found > newest) {
            return Err(StoreError::Corrupt {
                table: "tail",
                key: format!("page {next}"),
                what: format!("height {} is missing, but {found} is at page {at}", newest + 1),
            });
        }
        Ok((Self { disk, pages: pages.len(), next }, blocks))
    }

    /// Whether a record of so many bytes fits behind the ones that are there.
    pub(crate) const fn has_room(&self, record_bytes: usize) -> bool {
        pages_of(record_bytes) <= self.pages - self.next
    }

    /// Makes a record durable; there is room for it.
    ///
    /// # Errors
    ///
    /// `Poisoned`: whether the record is on disk is known only after reopening.
    pub(crate) fn write(&mut self, record: &[u8], crash: &CrashPlan) -> Result<()> {
        let mut pages = Vec::with_capacity(pages_of(record.len()) * PAGE_BYTES);
        let marks = std::iter::once(BEGINS).chain(std::iter::repeat(GOES_ON));
        for (payload, mark) in record.chunks(PAGE_PAYLOAD).zip(marks) {
            pages.push(mark);
            pages.extend_from_slice(payload);
            pages.resize(pages.len().next_multiple_of(PAGE_BYTES), 0);
        }
        let offset = (self.next * PAGE_BYTES) as u64;
        if crash.is_due(CrashPoint::TailTorn) {
            let _ = self.disk.write(offset, &pages[..record.len() / 2]);
            return Err(crash.stop(CrashPoint::TailTorn));
        }
        self.disk.write(offset, &pages).map_err(|error| poisoned(&error))?;
        self.next += pages_of(record.len());
        Ok(())
    }

    /// Starts over at the front: the tables hold every block.
    pub(crate) const fn reset(&mut self) {
        self.next = 0;
    }
}

/// The record that begins at page `at`, if a whole one does.
fn record_at(pages: &[&[u8]], at: usize) -> Option<Block> {
    let (first, rest) = pages.get(at..)?.split_first()?;
    if first[0] != BEGINS {
        return None;
    }
    let mut record = first[1..].to_vec();
    for page in rest.iter().take_while(|page| page[0] == GOES_ON) {
        record.extend_from_slice(&page[1..]);
    }
    Block::from_tail(&record)
}

const fn pages_of(record_bytes: usize) -> usize {
    record_bytes.div_ceil(PAGE_PAYLOAD)
}

fn poisoned(error: &io::Error) -> StoreError {
    StoreError::Poisoned { cause: format!("the tail failed: {error}") }
}
