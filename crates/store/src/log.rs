//! The claim log: an append-only RFC 6962 tree in the form that tlog clients read.
//!
//! [`LogReader`] serves entries, tiles, proofs and checkpoints of one moment. Hashes come from three places: the
//! [`edge`] in memory, runs in the tables, and a small cache of expanded tiles ([`tiles`]).

mod bundle;
mod edge;
mod leaves;
mod note;
mod proof;
mod read;
mod tiles;

pub(crate) use self::{
    note::parse as read_note,
    read::{commit_leaf, read_record},
};
pub(crate) use bundle::{Entries, check_claim, walk};
pub(crate) use edge::{Edge, Level, RUN_BYTES, RUN_HASHES, TILE_HASHES};
pub(crate) use leaves::LeafIndex;
pub(crate) use proof::peaks;
pub use read::LogReader;
pub(crate) use tiles::{HashSource, TileCache};

#[cfg(test)]
mod tests;
