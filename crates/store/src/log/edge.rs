//! The growing end of the log's tree: every hash that no run on disk holds yet.
//!
//! Level 0 holds entry hashes, and hash i of level L + 1 is the root of the 256 hashes [256 i, 256 i + 256) of level
//! L, a *tile*. Sixteen tiles make a *run*; when the store has written one, the edge drops it. Beside the levels
//! stand the *peaks*: the roots of the complete subtrees that the size's bits name, largest first. Appending an entry
//! merges peaks as a binary counter carries, and every merge at height 8 L is a hash of level L.

use std::sync::Arc;

use hyperion_verify::log::{EMPTY_ROOT, LogHash, node_hash};

/// Hashes of a full tile.
pub(crate) const TILE_HASHES: u64 = 256;
/// Hashes of a run.
pub(crate) const RUN_HASHES: u64 = 4096;
/// Bytes of a run: sixteen tiles, then their roots.
pub(crate) const RUN_BYTES: usize = 4096 * 32 + 16 * 32;

const TILE: usize = TILE_HASHES as usize;
const RUN_TILES: usize = 16;

/// The end of one level. Clones share full tiles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    /// Index of the first hash held, a multiple of [`RUN_HASHES`].
    base: u64,
    full: Vec<Arc<[LogHash]>>,
    open: Vec<LogHash>,
}

impl Level {
    /// A level whose first `base` hashes are in runs.
    pub(crate) fn from(base: u64) -> Self {
        debug_assert_eq!(base % RUN_HASHES, 0, "runs end at multiples of 4096");
        Self { base, ..Self::default() }
    }

    /// Hashes of the level, those in runs included.
    pub(crate) fn count(&self) -> u64 {
        self.base + (self.full.len() * TILE + self.open.len()) as u64
    }

    /// Index of the first hash held here.
    pub(crate) const fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn push(&mut self, hash: LogHash) {
        self.open.push(hash);
        if self.open.len() == TILE {
            self.full.push(Arc::from(self.open.as_slice()));
            self.open.clear();
        }
    }

    /// The hash at `index`; `None` when it is in a run, or not there yet.
    pub(crate) fn get(&self, index: u64) -> Option<LogHash> {
        let at = usize::try_from(index.checked_sub(self.base)?).ok()?;
        match self.full.get(at / TILE) {
            Some(tile) => Some(tile[at % TILE]),
            None => self.open.get(at - self.full.len() * TILE).copied(),
        }
    }

    /// The hashes of tile `n`, 256 or, at the end of the level, fewer; `None` when it is in a run or not begun.
    pub(crate) fn tile(&self, n: u64) -> Option<&[LogHash]> {
        let at = usize::try_from(n.checked_sub(self.base / TILE_HASHES)?).ok()?;
        match self.full.get(at) {
            Some(tile) => Some(tile),
            None => (at == self.full.len() && !self.open.is_empty()).then_some(&self.open),
        }
    }
}

/// Every level's end, and the peaks.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Level>,
    peaks: Vec<LogHash>,
}

impl Default for Edge {
    fn default() -> Self {
        Self { size: 0, levels: vec![Level::default()], peaks: Vec::new() }
    }
}

impl Edge {
    /// The end of a log of `size` entries, from its levels; `None` when they do not fit together.
    pub(crate) fn new(size: u64, levels: Vec<Level>, peaks: Vec<LogHash>) -> Option<Self> {
        let fits = levels
            .iter()
            .zip(0u32..)
            .all(|(level, l)| level.count() == size.checked_shr(8 * l).unwrap_or(0));
        let ends = size.checked_shr(8 * levels.len() as u32).unwrap_or(0) == 0;
        (fits && ends && peaks.len() == size.count_ones() as usize).then_some(Self {
            size,
            levels,
            peaks,
        })
    }

    /// Entries of the log.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Appends an entry by its leaf hash.
    pub(crate) fn push(&mut self, leaf: LogHash) {
        self.levels[0].push(leaf);
        let mut hash = leaf;
        let merges = self.size.trailing_ones();
        for height in 1..=merges {
            let left = self.peaks.pop().expect("one peak for each bit of the size");
            hash = node_hash(&left, &hash);
            if height % 8 == 0 {
                let level = height as usize / 8;
                if level == self.levels.len() {
                    self.levels.push(Level::default());
                }
                self.levels[level].push(hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// Root of the log.
    pub(crate) fn root(&self) -> LogHash {
        let mut smaller = self.peaks.iter().rev();
        smaller
            .next()
            .map_or(EMPTY_ROOT, |last| smaller.fold(*last, |right, left| node_hash(left, &right)))
    }

    /// Runs that are complete and still held, as (level, number, bytes), level by level.
    pub(crate) fn finished_runs(&self) -> impl Iterator<Item = (u8, u64, Vec<u8>)> + '_ {
        self.levels.iter().zip(0u8..).flat_map(move |(level, l)| {
            let runs = level.full.chunks_exact(RUN_TILES);
            (level.base / RUN_HASHES..).zip(runs).map(move |(n, tiles)| {
                let mut bytes = Vec::with_capacity(RUN_BYTES);
                for hash in tiles.iter().flat_map(|tile| tile.iter()) {
                    bytes.extend_from_slice(hash.as_slice());
                }
                for tile in (n * RUN_TILES as u64..).take(RUN_TILES) {
                    // A tile's root joins the level above when its last hash comes, and leaves with a run that
                    // ends later than this one.
                    let root = self.levels[usize::from(l) + 1].get(tile);
                    bytes.extend_from_slice(
                        root.expect("held above, see the line before").as_slice(),
                    );
                }
                (l, n, bytes)
            })
        })
    }

    /// Forgets the finished runs, which are on disk now.
    pub(crate) fn drop_finished_runs(&mut self) {
        for level in &mut self.levels {
            let runs = level.full.len() / RUN_TILES;
            level.full.drain(..runs * RUN_TILES);
            level.base += runs as u64 * RUN_HASHES;
        }
    }
}
