//! The tables as an ordered map in memory: what tests and Miri use, and the second reading of [`PageStore`].
//!
//! A clone is the same store, so dropping everything else and going on with a clone is a reopen.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::{PageStore, ReadTxn, Result, StoreError, Table, Usage, Visit, WriteTxn};

type Map = BTreeMap<(Table, Vec<u8>), Arc<[u8]>>;

/// Tables in an ordered map.
#[derive(Clone, Debug, Default)]
pub struct MemStore(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    committed: RwLock<Arc<Map>>,
    writer: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    next_commit_fails: Option<StoreError>,
    next_put_fails: Option<StoreError>,
}

impl MemStore {
    /// Makes the next commit fail with `error` and change nothing.
    pub fn fail_next_commit(&self, error: StoreError) {
        self.0.writer.lock().next_commit_fails = Some(error);
    }

    /// Makes the next `put` or `append` fail with `error`.
    pub fn fail_next_put(&self, error: StoreError) {
        self.0.writer.lock().next_put_fails = Some(error);
    }
}

impl PageStore for MemStore {
    type Read = MemRead;
    type Write<'s> = MemWrite<'s>;

    fn read(&self) -> Result<MemRead> {
        Ok(MemRead(Arc::clone(&self.0.committed.read())))
    }

    fn write(&self) -> Result<MemWrite<'_>> {
        let writer = self.0.writer.lock();
        let base = Arc::clone(&self.0.committed.read());
        Ok(MemWrite { shared: &self.0, writer, base, changes: BTreeMap::new() })
    }

    fn usage(&self) -> Result<Usage> {
        let map = self.0.committed.read();
        let file_bytes = map.iter().map(|((_, key), value)| key.len() + value.len()).sum::<usize>();
        Ok(Usage { file_bytes: file_bytes as u64, map_bytes: u64::MAX, ..Usage::default() })
    }
}

/// The map at one moment.
#[derive(Debug)]
pub struct MemRead(Arc<Map>);

impl ReadTxn for MemRead {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        Ok(self.0.get(&(table, key.to_vec())).map(AsRef::as_ref))
    }

    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        self.floor(table, &[0xff; 33])
    }

    fn floor(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        let below = self.0.range((table, Vec::new())..=(table, key.to_vec())).next_back();
        Ok(below.map(|((_, key), value)| (key.as_slice(), value.as_ref())))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let rest = (Bound::Included((table, from.to_vec())), Bound::Unbounded);
        for ((of, key), value) in self.0.range(rest) {
            if *of != table || visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}

/// Changes that become one map at commit.
#[derive(Debug)]
pub struct MemWrite<'s> {
    shared: &'s Shared,
    writer: MutexGuard<'s, Writer>,
    base: Arc<Map>,
    changes: Map,
}

impl WriteTxn for MemWrite<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        let key = (table, key.to_vec());
        Ok(self.changes.get(&key).or_else(|| self.base.get(&key)).map(AsRef::as_ref))
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(error) = self.writer.next_put_fails.take() {
            return Err(error);
        }
        self.changes.insert((table, key.to_vec()), value.into());
        Ok(())
    }

    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        let greatest = |map: &Map| {
            map.range((table, Vec::new())..=(table, vec![0xff; 33]))
                .next_back()
                .map(|(k, _)| k.1.clone())
        };
        let is_greatest = [greatest(&self.base), greatest(&self.changes)]
            .iter()
            .flatten()
            .all(|present| present.as_slice() < key);
        if !is_greatest {
            let what = "a key that should end the table is not its greatest";
            return Err(StoreError::corrupt(table.name(), key, what));
        }
        self.put(table, key, value)
    }

    fn commit(mut self) -> Result<()> {
        if let Some(error) = self.writer.next_commit_fails.take() {
            return Err(error);
        }
        // Readings of earlier moments hold the old map; without them nothing is copied.
        let Self { shared, writer, base, changes } = self;
        drop(base);
        Arc::make_mut(&mut shared.committed.write()).extend(changes);
        drop(writer);
        Ok(())
    }
}
