//! Single tiles of a tensor, opened under its root.
//!
//! A CT1 root is a tree over tiles of 1,024 bytes, so a few elements are shown without the rest: a [`TileRun`] carries
//! neighbouring tiles and, level by level, the sibling left of the run where its first index is odd, then the one right
//! of it where its last index is even and not the level's end.

use alloc::vec::Vec;

use hyperion_primitives::{
    B256, Dtype, TILE_BYTES, TensorRoot, merkle::node, tensor_bytes, tensor_leaf, tensor_root_over,
};

use crate::bytes::Fields;

/// First tile and number of tiles.
const HEADER_BYTES: usize = 10;

/// Neighbouring tiles of a tensor with their path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileRun {
    /// Index of the first tile.
    pub first: u64,
    /// One tile or more, in order; the tensor's last one is filled up with zeros.
    pub tiles: Vec<[u8; TILE_BYTES]>,
    /// Siblings, leaf side first.
    pub path: Vec<B256>,
}

/// Why bytes are no run of tiles, or not the tensor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// Another length than the counts call for.
    #[error("the opening has {got} bytes, want {want}")]
    Length {
        /// The bytes given.
        got: usize,
        /// The bytes its counts call for.
        want: usize,
    },
    /// A run without tiles.
    #[error("the opening has no tiles")]
    Empty,
    /// The shape is none.
    #[error("the shape has rank 0 or above 8, a dimension of zero, or more than 2^64 bytes")]
    Shape,
    /// The run leaves the tensor.
    #[error("tiles {first} and {after} after it are not all among the {count} of the tensor")]
    Outside {
        /// Index of the first tile.
        first: u64,
        /// Tiles that follow it.
        after: u64,
        /// Tiles of the tensor.
        count: u64,
    },
    /// Bytes behind the last element.
    #[error("the last tile is not filled up with zeros")]
    Fill,
    /// The path has another length than the run calls for.
    #[error(
        "the path has {got} hashes, which is not what tiles {first} to {last} of {count} call for"
    )]
    Path {
        /// The hashes given.
        got: usize,
        /// First tile.
        first: u64,
        /// Last tile.
        last: u64,
        /// Tiles of the tensor.
        count: u64,
    },
    /// The path leads elsewhere.
    #[error("the opening leads to {got}, want the tensor root {want}")]
    Root {
        /// Where it leads.
        got: TensorRoot,
        /// The root it should lead to.
        want: TensorRoot,
    },
}

impl TileRun {
    /// Opens tiles `first` to `last` of a tensor's element bytes; `None` when there are no such tiles.
    pub fn open(data: &[u8], first: usize, last: usize) -> Option<Self> {
        let tiles: Vec<_> = data.chunks(TILE_BYTES).map(fill).collect();
        let run = tiles.get(first..=last)?.to_vec();
        let leaves: Vec<_> =
            (0..).zip(&tiles).map(|(index, tile)| tensor_leaf(index, tile)).collect();
        Some(Self { first: first as u64, tiles: run, path: run_path(&leaves, first, last) })
    }

    /// Accepts the tiles as those of the tensor with this root, type and shape.
    ///
    /// # Errors
    ///
    /// When the shape is none, the run leaves it or is empty, the last tile holds more than zeros behind the elements, or
    /// the path has another length or leads elsewhere.
    pub fn check(&self, root: &TensorRoot, dtype: Dtype, dims: &[u64]) -> Result<(), OpeningError> {
        let bytes = tensor_bytes(dtype, dims).ok_or(OpeningError::Shape)?;
        let (first, count) = (self.first, bytes.div_ceil(TILE_BYTES as u64));
        let after = (self.tiles.len() as u64).checked_sub(1).ok_or(OpeningError::Empty)?;
        let outside = OpeningError::Outside { first, after, count };
        let last = first.checked_add(after).filter(|last| *last < count).ok_or(outside)?;
        let used = usize::try_from(bytes % TILE_BYTES as u64).expect("below 1024");
        let tail = self.tiles.last().filter(|_| last + 1 == count && used > 0);
        if tail.is_some_and(|tile| tile[used..].iter().any(|byte| *byte != 0)) {
            return Err(OpeningError::Fill);
        }
        let leaves = (first..).zip(&self.tiles).map(|(index, tile)| tensor_leaf(index, tile));
        let path = OpeningError::Path { got: self.path.len(), first, last, count };
        let merkle = run_root(leaves.collect(), first, count, &self.path).ok_or(path)?;
        let got = tensor_root_over(dtype, dims, &merkle).ok_or(OpeningError::Shape)?;
        if got == *root { Ok(()) } else { Err(OpeningError::Root { got, want: *root }) }
    }

    /// The canonical encoding: `u64 first ‖ u16 tiles ‖ tiles ‖ u8 hashes ‖ hashes`.
    ///
    /// # Panics
    ///
    /// When there are more than 65,535 tiles or more than 255 hashes, which no tensor's run has.
    pub fn encode(&self) -> Vec<u8> {
        let tiles = u16::try_from(self.tiles.len()).expect("65,535 tiles at most");
        let hashes = u8::try_from(self.path.len()).expect("two hashes a level");
        let mut bytes = Vec::from(self.first.to_be_bytes());
        bytes.extend(tiles.to_be_bytes());
        bytes.extend(self.tiles.as_flattened());
        bytes.push(hashes);
        bytes.extend(self.path.iter().flatten());
        bytes
    }

    /// Reads the one encoding of a run.
    ///
    /// # Errors
    ///
    /// When the bytes are not exactly such an encoding; [`check`](Self::check) judges the rest.
    pub fn decode(bytes: &[u8]) -> Result<Self, OpeningError> {
        let got = bytes.len();
        let header = HEADER_BYTES + 1;
        if got < header {
            return Err(OpeningError::Length { got, want: header });
        }
        let mut fields = Fields::new(bytes);
        let (first, count) = (fields.u64(), usize::from(fields.u16()));
        if count == 0 {
            return Err(OpeningError::Empty);
        }
        let before_path = header + count * TILE_BYTES;
        if got < before_path {
            return Err(OpeningError::Length { got, want: before_path });
        }
        let tiles = (0..count).map(|_| fields.array()).collect();
        let hashes = usize::from(fields.u8());
        let want = before_path + 32 * hashes;
        if got != want {
            return Err(OpeningError::Length { got, want });
        }
        Ok(Self { first, tiles, path: (0..hashes).map(|_| fields.b256()).collect() })
    }
}

fn fill(data: &[u8]) -> [u8; TILE_BYTES] {
    let mut tile = [0; TILE_BYTES];
    tile[..data.len()].copy_from_slice(data);
    tile
}

/// Siblings of leaves `first` to `last`: per level the left one if there is one to the left of an odd first, then the
/// right one.
pub fn run_path(leaves: &[B256], first: usize, last: usize) -> Vec<B256> {
    let (mut level, mut first, mut last) = (leaves.to_vec(), first, last);
    let mut path = Vec::new();
    while level.len() > 1 {
        if first % 2 == 1 {
            path.push(level[first - 1]);
        }
        if last.is_multiple_of(2) {
            path.extend(level.get(last + 1));
        }
        level = level_up(&level);
        first /= 2;
        last /= 2;
    }
    path
}

/// Root that a run of leaf hashes, from leaf `first` of `count` on, and its path lead to; `None` when the run is empty or
/// leaves the tree, or the path's length is not the one called for.
pub fn run_root(run: Vec<B256>, first: u64, count: u64, path: &[B256]) -> Option<B256> {
    let mut last = first.checked_add(run.len() as u64)?.checked_sub(1)?;
    if run.is_empty() || last >= count {
        return None;
    }
    let (mut level, mut first, mut end) = (run, first, count - 1);
    let mut siblings = path.iter();
    while end > 0 {
        if first % 2 == 1 {
            level.insert(0, *siblings.next()?);
        }
        if last.is_multiple_of(2) && last < end {
            level.push(*siblings.next()?);
        }
        level = level_up(&level);
        first /= 2;
        last /= 2;
        end /= 2;
    }
    siblings.next().is_none().then(|| level[0])
}

/// Pairs nodes from an even index on; a lone last one moves up unchanged.
fn level_up(level: &[B256]) -> Vec<B256> {
    let up = |pair: &[B256]| if let [left, right] = pair { node(left, right) } else { pair[0] };
    level.chunks(2).map(up).collect()
}
