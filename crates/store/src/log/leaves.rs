//! Which entry has a leaf hash.
//!
//! A table on disk under random keys would make every block wait for as many pages as it has entries. Leaf hashes are in
//! the log already, so their order is kept in memory, as the state's is: the first question reads the lowest level
//! once, every later one only what has been appended since. Nothing is written, and nothing has to be recovered.
//!
//! Eight bytes of each hash are kept. An entry whose eight bytes another has had before is kept whole in `others`;
//! there is none until somebody tries some 2^32 entries.

use std::collections::HashMap;

use hyperion_verify::log::LogHash;
use parking_lot::Mutex;

use super::TILE_HASHES;
use crate::Result;

/// Places by leaf hash, of as much of the log as anybody has asked about.
#[derive(Debug, Default)]
pub(crate) struct LeafIndex(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// Entries known here.
    size: u64,
    first: HashMap<u64, u64>,
    others: HashMap<LogHash, u64>,
}

impl LeafIndex {
    /// The first entry below `size` with this leaf hash. `tile` gives the hashes of a tile of level 0, those of its
    /// entries below `size` at least.
    ///
    /// # Errors
    ///
    /// What `tile` returns; what was read before is kept.
    pub(crate) fn find(
        &self,
        leaf: &LogHash,
        size: u64,
        tile: impl Fn(u64) -> Result<Vec<LogHash>>,
    ) -> Result<Option<u64>> {
        let hash_of = |index: u64| -> Result<Option<LogHash>> {
            Ok(tile(index / TILE_HASHES)?.get((index % TILE_HASHES) as usize).copied())
        };
        let mut places = self.0.lock();
        while places.size < size {
            let n = places.size / TILE_HASHES;
            let hashes = tile(n)?;
            let from = (places.size % TILE_HASHES) as usize;
            let to = hashes.len().min((size - n * TILE_HASHES) as usize);
            for hash in &hashes[from..to] {
                places.add(hash, &hash_of)?;
            }
        }
        let Some(&index) = places.first.get(&prefix(leaf)) else { return Ok(None) };
        let other = places.others.get(leaf).copied();
        drop(places);
        // An older reading than the one that was asked last ends earlier.
        if index < size && hash_of(index)?.as_ref() == Some(leaf) {
            return Ok(Some(index));
        }
        Ok(other.filter(|index| *index < size))
    }
}

impl Places {
    /// Adds the next entry. Of several with one hash the first stays.
    fn add(
        &mut self,
        hash: &LogHash,
        hash_of: &impl Fn(u64) -> Result<Option<LogHash>>,
    ) -> Result<()> {
        let index = self.size;
        match self.first.get(&prefix(hash)) {
            None => drop(self.first.insert(prefix(hash), index)),
            Some(&first) => {
                if hash_of(first)?.as_ref() != Some(hash) {
                    self.others.entry(*hash).or_insert(index);
                }
            }
        }
        self.size += 1;
        Ok(())
    }
}

fn prefix(hash: &LogHash) -> u64 {
    u64::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use hyperion_verify::log::leaf_hash;

    use super::*;

    /// Sixteen of 600 hashes share their first eight bytes with another, and one comes twice.
    fn hashes() -> Vec<LogHash> {
        let mut hashes: Vec<LogHash> = (0..600_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        for n in 0..16 {
            let (from, to) = (7 * n, 500 + n);
            let shared: [u8; 8] = *hashes[from].first_chunk().unwrap();
            hashes[to][..8].copy_from_slice(&shared);
        }
        hashes[599] = hashes[3];
        hashes
    }

    #[test]
    fn hashes_that_begin_alike_are_told_apart_and_of_twins_the_first_is_found() {
        let hashes = hashes();
        let tile = |n: u64| {
            let from = (n * TILE_HASHES) as usize;
            Ok(hashes[from..hashes.len().min(from + TILE_HASHES as usize)].to_vec())
        };
        for step in [1, 100, 256, 600] {
            let index = LeafIndex::default();
            for size in (0..=600).step_by(step) {
                for n in [0, 3, 7, 105, 255, 256, 500, 515, 599] {
                    let want = hashes[..size].iter().position(|hash| *hash == hashes[n]);
                    let got = index.find(&hashes[n], size as u64, tile).unwrap();
                    assert_eq!(got, want.map(|at| at as u64), "entry {n} of {size}");
                }
            }
            // A reading of an earlier moment does not see what came later.
            assert_eq!(index.find(&hashes[515], 515, tile).unwrap(), None);
            assert_eq!(index.find(&hashes[400], 400, tile).unwrap(), None);
            assert_eq!(index.find(&leaf_hash(b"nobody"), 600, tile).unwrap(), None);
        }
    }

    #[test]
    fn the_lowest_level_is_read_once_however_often_one_asks() {
        let hashes: Vec<LogHash> = (0..2_560_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let read = Cell::new(0);
        let tile = |n: u64| {
            read.set(read.get() + 1);
            Ok(hashes[(n * TILE_HASHES) as usize..][..TILE_HASHES as usize].to_vec())
        };
        let index = LeafIndex::default();
        assert_eq!(index.find(&leaf_hash(b"nobody"), 2_560, tile).unwrap(), None);
        assert_eq!(read.replace(0), 10);
        for _ in 0..100 {
            assert_eq!(index.find(&leaf_hash(b"nobody"), 2_560, tile).unwrap(), None);
        }
        assert_eq!(read.replace(0), 0, "an unknown hash reads nothing");
        for n in [0, 255, 256, 2_559] {
            assert_eq!(index.find(&hashes[n], 2_560, tile).unwrap(), Some(n as u64));
        }
        assert_eq!(read.get(), 4, "a known one is compared with its entry");
    }

    #[test]
    fn a_tile_that_cannot_be_read_is_an_error_and_is_asked_for_again() {
        let hashes: Vec<LogHash> = (0..300_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let index = LeafIndex::default();
        let broken = |n: u64| match n {
            0 => Ok(hashes[..256].to_vec()),
            _ => Err(crate::StoreError::corrupt("run", &[], "the run is missing")),
        };
        assert!(index.find(&hashes[299], 300, broken).is_err());
        let whole = |n: u64| Ok(if n == 0 { &hashes[..256] } else { &hashes[256..] }.to_vec());
        assert_eq!(index.find(&hashes[299], 300, whole).unwrap(), Some(299));
    }
}
