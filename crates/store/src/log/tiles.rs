//! Where a hash of the tree is found.
//!
//! A node of height 8 L + r is the root of 2^r neighbouring hashes of level L, all inside one tile. A full tile never
//! changes, so its 255 inner nodes are worked out once and kept for the tiles used last.

use std::{collections::VecDeque, sync::Arc};

use hyperion_verify::log::{LogHash, node_hash};
use parking_lot::Mutex;

use super::{Level, RUN_BYTES, RUN_HASHES, TILE_HASHES};
use crate::{ReadTxn, Result, StoreError, Table, key};

/// Tiles kept, 16 KiB each.
const TILES: usize = 64;

/// A full tile's hashes and all nodes above them, level by level; the root is the last.
type Expanded = Arc<[LogHash]>;

/// The expanded tiles used last, newest first.
#[derive(Debug, Default)]
pub(crate) struct TileCache(Mutex<VecDeque<((u8, u64), Expanded)>>);

impl TileCache {
    fn get(&self, tile: (u8, u64)) -> Option<Expanded> {
        let mut tiles = self.0.lock();
        let at = tiles.iter().position(|(key, _)| *key == tile)?;
        let found = tiles.remove(at)?;
        let nodes = Arc::clone(&found.1);
        tiles.push_front(found);
        Some(nodes)
    }

    fn put(&self, tile: (u8, u64), nodes: Expanded) {
        let mut tiles = self.0.lock();
        tiles.push_front((tile, nodes));
        tiles.truncate(TILES);
    }
}

/// The hashes of one moment.
pub(crate) struct HashSource<'a, R> {
    pub(crate) levels: &'a [Level],
    pub(crate) read: &'a R,
    pub(crate) cache: &'a TileCache,
}

impl<R: ReadTxn> HashSource<'_, R> {
    /// Hash `index` of a binary level: the root of the complete subtree of 2^height entries that is its number
    /// `index`. The caller has checked that the log is that long.
    ///
    /// # Errors
    ///
    /// When a run is missing or has another length.
    pub(crate) fn node(&self, height: u32, index: u64) -> Result<LogHash> {
        let level = (height / 8) as u8;
        let r = height % 8;
        let first = index << r;
        let held = &self.levels[usize::from(level)];
        if r == 0
            && let Some(hash) = held.get(first)
        {
            return Ok(hash);
        }
        let n = first / TILE_HASHES;
        if held.count() >= (n + 1) * TILE_HASHES {
            let within = (first % TILE_HASHES) >> r;
            // Heights 0 to r - 1 of a tile have 256, 128, … nodes.
            let below = 512 - (512 >> r);
            return Ok(self.expanded(level, n)?[below + within as usize]);
        }
        let mut hashes = (first..first + (1 << r))
            .map(|at| held.get(at).ok_or_else(|| missing(level, at)))
            .collect::<Result<Vec<_>>>()?;
        while hashes.len() > 1 {
            hashes = hashes.chunks(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
        }
        Ok(hashes[0])
    }

    fn expanded(&self, level: u8, n: u64) -> Result<Expanded> {
        if let Some(nodes) = self.cache.get((level, n)) {
            return Ok(nodes);
        }
        let mut nodes = Vec::with_capacity(511);
        nodes.extend(self.tile(level, n)?);
        let mut at = 0;
        while at + 1 < nodes.len() {
            nodes.push(node_hash(&nodes[at], &nodes[at + 1]));
            at += 2;
        }
        let nodes: Expanded = nodes.into();
        self.cache.put((level, n), Arc::clone(&nodes));
        Ok(nodes)
    }

    /// The hashes of a tile: 256, or those there are at the end of the level.
    ///
    /// # Errors
    ///
    /// As for `node`.
    pub(crate) fn tile(&self, level: u8, n: u64) -> Result<Vec<LogHash>> {
        let held = &self.levels[usize::from(level)];
        if let Some(hashes) = held.tile(n) {
            return Ok(hashes.to_vec());
        }
        let run = self.run(level, n * TILE_HASHES / RUN_HASHES)?;
        let first = (n * TILE_HASHES % RUN_HASHES) as usize;
        Ok((first..first + TILE_HASHES as usize)
            .map(|at| key::hash_at(run, at).expect("the run's length was checked"))
            .collect())
    }

    /// A run's value, of [`RUN_BYTES`].
    pub(crate) fn run(&self, level: u8, n: u64) -> Result<&[u8]> {
        let key = key::run(level, n);
        match self.read.get(Table::Run, &key)? {
            Some(run) if run.len() == RUN_BYTES => Ok(run),
            Some(run) => Err(StoreError::corrupt(
                "run",
                &key,
                format!("{} bytes, a run has {RUN_BYTES}", run.len()),
            )),
            None => Err(missing(level, n * RUN_HASHES)),
        }
    }
}

fn missing(level: u8, index: u64) -> StoreError {
    StoreError::corrupt("run", &key::run(level, index / RUN_HASHES), "the run is missing")
}
