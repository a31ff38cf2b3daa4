use alloc::{boxed::Box, vec::Vec};

use crate::{B256, Dtype, Keccak, TensorRoot, keccak::Lanes, merkle};

/// Bytes under one leaf of a tensor root; the last tile is filled up with zeros.
pub const TILE_BYTES: usize = 1024;

/// Leaf of tile `index`: `K(0x00 ‖ "CT1" ‖ u64 index ‖ tile)`.
pub fn tensor_leaf(index: u64, tile: &[u8; TILE_BYTES]) -> B256 {
    Keccak::tagged(b"\0CT1").u64(index).update(tile).finish()
}

/// CT1 root of a tensor: the one commitment to its type, shape and elements.
///
/// | argument | meaning |
/// |---|---|
/// | `dims` | rank 1 to 8, none zero |
/// | `data` | elements row-major, little-endian, unpadded |
///
/// `root = K(0x02 ‖ dtype ‖ rank ‖ u64 dims… ‖ merkle)` over [`tensor_leaf`]s (`docs/claims.md`, "CT1").
/// `None` when a dimension is zero, the rank is not 1 to 8, or the length is not what the shape says.
pub fn tensor_root(dtype: Dtype, dims: &[u64], data: &[u8]) -> Option<TensorRoot> {
    let mut hasher = TensorHasher::new(dtype, dims)?;
    hasher.update(data);
    hasher.finish()
}

/// [`tensor_root`] of values that turn into little-endian bytes one by one.
pub fn tensor_root_of<const N: usize>(
    dtype: Dtype,
    dims: &[u64],
    elements: impl IntoIterator<Item = [u8; N]>,
) -> Option<TensorRoot> {
    let mut hasher = TensorHasher::new(dtype, dims)?;
    elements.into_iter().for_each(|element| hasher.update(&element));
    hasher.finish()
}

/// [`tensor_root`] of a tensor whose tiles have this Merkle root; `None` when the shape is not a shape.
pub fn tensor_root_over(dtype: Dtype, dims: &[u64], merkle: &B256) -> Option<TensorRoot> {
    tensor_bytes(dtype, dims)?;
    let rank = u8::try_from(dims.len()).expect("a shape has rank 8 at most");
    let mut root = Keccak::tagged(&[2, dtype.code(), rank]);
    dims.iter().for_each(|dim| {
        root.u64(*dim);
    });
    Some(TensorRoot(root.update(merkle).finish()))
}

/// [`tensor_root`] of a tensor whose [`tensor_leaf`]s were made elsewhere; `None` when the shape is not a shape, or has another
/// number of tiles.
pub fn tensor_root_of_leaves(dtype: Dtype, dims: &[u64], leaves: Vec<B256>) -> Option<TensorRoot> {
    let tiles = tensor_bytes(dtype, dims)?.div_ceil(TILE_BYTES as u64);
    (leaves.len() as u64 == tiles).then_some(())?;
    tensor_root_over(dtype, dims, &merkle::root_of(leaves, Lanes::best())?)
}

/// Bytes of a tensor's elements; `None` when the rank is not 1 to 8, a dimension is zero, or the product leaves a `u64`.
pub fn tensor_bytes(dtype: Dtype, dims: &[u64]) -> Option<u64> {
    if dims.is_empty() || dims.len() > 8 || dims.contains(&0) {
        return None;
    }
    dims.iter().try_fold(dtype.bytes() as u64, |product, dim| product.checked_mul(*dim))
}

/// A [`tensor_root`] under construction, for tensors that arrive in pieces.
#[derive(Clone, Debug)]
pub struct TensorHasher {
    dtype: Dtype,
    dims: Vec<u64>,
    missing_bytes: u64,
    excess: bool,
    lanes: Lanes,
    batch: Box<[[u8; LEAF_BYTES]; BATCH]>,
    closed: usize,
    filled: usize,
    leaves: Vec<B256>,
}

/// Tag, index and tile.
const LEAF_BYTES: usize = 12 + TILE_BYTES;
/// Tiles that wait to be hashed together.
const BATCH: usize = 4;

impl TensorHasher {
    /// Starts a tensor; `None` when the shape is not a shape (see [`tensor_root`]).
    pub fn new(dtype: Dtype, dims: &[u64]) -> Option<Self> {
        let missing_bytes = tensor_bytes(dtype, dims)?;
        Some(Self {
            dtype,
            dims: dims.to_vec(),
            missing_bytes,
            excess: false,
            lanes: Lanes::best(),
            batch: Box::new([[0; LEAF_BYTES]; BATCH]),
            closed: 0,
            filled: 0,
            leaves: Vec::new(),
        })
    }

    /// Appends element bytes; pieces may end anywhere.
    pub fn update(&mut self, mut data: &[u8]) {
        match self.missing_bytes.checked_sub(data.len() as u64) {
            Some(missing) => self.missing_bytes = missing,
            None => self.excess = true,
        }
        while !data.is_empty() {
            let (piece, rest) = data.split_at(data.len().min(TILE_BYTES - self.filled));
            let start = LEAF_BYTES - TILE_BYTES + self.filled;
            self.batch[self.closed][start..start + piece.len()].copy_from_slice(piece);
            self.filled += piece.len();
            data = rest;
            if self.filled == TILE_BYTES {
                self.close_tile();
            }
        }
    }

    /// The root; `None` when fewer or more bytes came than the shape says.
    pub fn finish(mut self) -> Option<TensorRoot> {
        if self.missing_bytes > 0 || self.excess {
            return None;
        }
        if self.filled > 0 {
            self.batch[self.closed][LEAF_BYTES - TILE_BYTES + self.filled..].fill(0);
            self.close_tile();
        }
        self.hash_batch();
        tensor_root_over(self.dtype, &self.dims, &merkle::root_of(self.leaves, self.lanes)?)
    }

    fn close_tile(&mut self) {
        let index = (self.leaves.len() + self.closed) as u64;
        let (tag, rest) = self.batch[self.closed].split_at_mut(4);
        tag.copy_from_slice(b"\0CT1");
        rest[..8].copy_from_slice(&index.to_be_bytes());
        self.closed += 1;
        self.filled = 0;
        if self.closed == BATCH {
            self.hash_batch();
        }
    }

    fn hash_batch(&mut self) {
        let mut hashes = [B256::ZERO; BATCH];
        self.lanes.hash(&self.batch[..self.closed], &mut hashes[..self.closed]);
        self.leaves.extend_from_slice(&hashes[..self.closed]);
        self.closed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_vectors_root() {
        let values = [1_i32, -2, 3, 0, 70_000, -70_000];
        let root = tensor_root_of(Dtype::I32, &[2, 3], values.map(i32::to_le_bytes)).unwrap();
        assert_eq!(
            root.to_string(),
            "0xcfed5279e6681938fdbe057e513765e558523a050d9839f5d002ea24a0fa2997"
        );
    }

    /// The tile hashed by itself, and the tree built leaf by leaf.
    #[test]
    fn batches_of_tiles_give_the_root_of_single_tiles() {
        let data: Vec<u8> =
            (0..13 * TILE_BYTES as u64).map(|i| (i % 251).to_le_bytes()[0]).collect();
        for len in [1, 1023, 1024, 1025, 3 * 1024, 4 * 1024, 4 * 1024 + 1, 9 * 1024 - 1, 13 * 1024]
        {
            let leaves = data[..len].chunks(TILE_BYTES).zip(0..).map(|(piece, index)| {
                let mut tile = [0; TILE_BYTES];
                tile[..piece.len()].copy_from_slice(piece);
                tensor_leaf(index, &tile)
            });
            let dims = [len as u64];
            let want = tensor_root_over(Dtype::U8, &dims, &merkle::root(leaves).unwrap());
            assert_eq!(tensor_root(Dtype::U8, &dims, &data[..len]), want, "{len} bytes");
        }
    }

    #[test]
    fn pieces_do_not_change_the_root_and_lengths_must_fit() {
        let data: Vec<u8> = (0..5000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let whole = tensor_root(Dtype::U8, &[5, 1000], &data);
        assert!(whole.is_some());
        for cut in [0, 1, 1023, 1024, 1025, 4096, 4999] {
            let mut hasher = TensorHasher::new(Dtype::U8, &[5, 1000]).unwrap();
            hasher.update(&data[..cut]);
            hasher.update(&data[cut..]);
            assert_eq!(hasher.finish(), whole, "cut at {cut}");
        }
        let cases = [
            ("a byte short", Dtype::U8, &[5, 1000][..], 4999),
            ("a byte long", Dtype::U8, &[5, 999], 4996),
            ("no dimension", Dtype::U8, &[], 0),
            ("a dimension of zero", Dtype::U8, &[0, 5], 0),
            ("nine dimensions", Dtype::U8, &[1; 9], 1),
            ("a product beyond u64", Dtype::U8, &[u64::MAX, 2], 0),
        ];
        for (name, dtype, dims, len) in cases {
            assert_eq!(tensor_root(dtype, dims, &data[..len]), None, "{name}");
        }
    }
}
