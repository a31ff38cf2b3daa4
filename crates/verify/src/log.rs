//! The claim log as a tree: RFC 6962 over SHA-256.
//!
//! ```text
//! leaf(entry)  = SHA-256(0x00 ‖ entry)
//! node(l, r)   = SHA-256(0x01 ‖ l ‖ r)
//! root([])     = SHA-256("")
//! root(leaves) = node(root(leaves[..k]), root(leaves[k..]))     k the largest power of two below their number
//! ```
//!
//! An *inclusion proof* leads from one leaf to a root, a *consistency proof* shows that an older root's leaves begin a
//! newer root's. The checkers are the iterative ones of RFC 9162; the makers here are the slow definitions of RFC 6962
//! and need every leaf, which a store does not.

use alloc::vec::Vec;

use hyperion_primitives::B256;
use sha2::{Digest as _, Sha256};

/// A hash of the log's tree.
pub type LogHash = B256;

/// Root of the log without entries: SHA-256 of nothing.
pub const EMPTY_ROOT: LogHash = B256::new([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// Hash of an entry.
pub fn leaf_hash(entry: &[u8]) -> LogHash {
    let mut hasher = Sha256::new_with_prefix([0]);
    hasher.update(entry);
    B256::new(hasher.finalize().into())
}

/// Hash of an inner node.
pub fn node_hash(left: &LogHash, right: &LogHash) -> LogHash {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(left.as_slice());
    bytes[33..].copy_from_slice(right.as_slice());
    B256::new(Sha256::digest(bytes).into())
}

/// Why an inclusion proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InclusionError {
    /// The index lies outside the tree.
    #[error("leaf {index} is outside a tree of {size} leaves")]
    IndexOutOfTree {
        /// The leaf's index.
        index: u64,
        /// Leaves of the tree.
        size: u64,
    },
    /// The path has another length than index and size call for.
    #[error("the inclusion path has {got} hashes, want {want}")]
    Length {
        /// The hashes given.
        got: usize,
        /// The hashes that lead from this leaf to the root.
        want: usize,
    },
    /// The path leads elsewhere.
    #[error("the inclusion path leads to {got}, want the root {want}")]
    Root {
        /// Where the path leads.
        got: LogHash,
        /// The root it should lead to.
        want: LogHash,
    },
}

/// Why a consistency proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsistencyError {
    /// The tree cannot have shrunk.
    #[error("a tree of {old} leaves cannot have become one of {new}")]
    Shrunk {
        /// Leaves of the older tree.
        old: u64,
        /// Leaves of the newer tree.
        new: u64,
    },
    /// The proof has another length than the two sizes call for.
    #[error("the consistency proof has {got} hashes, want {want}")]
    Length {
        /// The hashes given.
        got: usize,
        /// The hashes that two trees of these sizes need.
        want: usize,
    },
    /// The proof does not contain the older root.
    #[error("the consistency proof gives {got} for the older root, want {want}")]
    OldRoot {
        /// What the proof gives.
        got: LogHash,
        /// The root known before.
        want: LogHash,
    },
    /// The proof does not lead to the newer root.
    #[error("the consistency proof gives {got} for the newer root, want {want}")]
    NewRoot {
        /// What the proof gives.
        got: LogHash,
        /// The root now claimed.
        want: LogHash,
    },
}

/// Hashes of an inclusion path: below the point where the paths of this and the last leaf part, and above it.
fn path_lengths(index: u64, size: u64) -> (u32, u32) {
    let inner = u64::BITS - (index ^ (size - 1)).leading_zeros();
    (inner, index.checked_shr(inner).unwrap_or(0).count_ones())
}

/// Accepts a proof that `leaf` is leaf `index` of the tree of `size` leaves with this root (RFC 9162, 2.1.3.2).
///
/// # Errors
///
/// When the index is outside the tree, the path's length is not the one for these numbers, or it leads elsewhere.
pub fn check_inclusion(
    leaf: &LogHash,
    index: u64,
    size: u64,
    path: &[LogHash],
    root: &LogHash,
) -> Result<(), InclusionError> {
    if index >= size {
        return Err(InclusionError::IndexOutOfTree { index, size });
    }
    let (inner, border) = path_lengths(index, size);
    let want = (inner + border) as usize;
    if path.len() != want {
        return Err(InclusionError::Length { got: path.len(), want });
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if at % 2 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at % 2 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    if hash == *root { Ok(()) } else { Err(InclusionError::Root { got: hash, want: *root }) }
}

/// Accepts a proof that the `old` leaves under `old_root` begin the `new` leaves under `new_root` (RFC 9162, 2.1.4.2).
///
/// Nothing is proved about an empty older tree but that its root is [`EMPTY_ROOT`]; equal sizes need equal roots.
///
/// # Errors
///
/// When the tree shrank, the proof's length is not the one for these sizes, or it does not lead to one of the roots.
pub fn check_consistency(
    old: u64,
    new: u64,
    old_root: &LogHash,
    new_root: &LogHash,
    proof: &[LogHash],
) -> Result<(), ConsistencyError> {
    if old > new {
        return Err(ConsistencyError::Shrunk { old, new });
    }
    let want = consistency_length(old, new);
    if proof.len() != want {
        return Err(ConsistencyError::Length { got: proof.len(), want });
    }
    let old_is = |got| {
        if got == *old_root {
            Ok(())
        } else {
            Err(ConsistencyError::OldRoot { got, want: *old_root })
        }
    };
    let new_is = |got| {
        if got == *new_root {
            Ok(())
        } else {
            Err(ConsistencyError::NewRoot { got, want: *new_root })
        }
    };
    if old == 0 {
        old_is(EMPTY_ROOT)?;
        return if new == 0 { new_is(EMPTY_ROOT) } else { Ok(()) };
    }
    if old == new {
        return new_is(*old_root);
    }
    // A complete older tree is itself the first node of the proof, and is not sent.
    let (first, rest) = match proof.split_first() {
        Some((first, rest)) if !old.is_power_of_two() => (*first, rest),
        _ => (*old_root, proof),
    };
    let (mut at, mut last) = (old - 1, new - 1);
    while at % 2 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in rest {
        if at % 2 == 1 || at == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while at % 2 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    old_is(old_hash)?;
    new_is(new_hash)
}

/// Hashes of the consistency proof between two sizes, `old <= new`.
fn consistency_length(old: u64, new: u64) -> usize {
    if old == 0 || old == new {
        return 0;
    }
    let (inner, border) = path_lengths(old - 1, new);
    (inner - old.trailing_zeros() + border + u32::from(!old.is_power_of_two())) as usize
}

/// Root over leaf hashes, by the definition.
pub fn root_of(leaves: &[LogHash]) -> LogHash {
    match leaves {
        [] => EMPTY_ROOT,
        [leaf] => *leaf,
        _ => {
            let (left, right) = split(leaves);
            node_hash(&root_of(left), &root_of(right))
        }
    }
}

/// Inclusion proof of leaf `index`, leaf side first (RFC 6962, `PATH`); `None` outside the tree.
pub fn inclusion_proof(index: usize, leaves: &[LogHash]) -> Option<Vec<LogHash>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let (left, right) = split(leaves);
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (inclusion_proof(index, left)?, right),
        Some(index) => (inclusion_proof(index, right)?, left),
    };
    path.push(root_of(sibling));
    Some(path)
}

/// Consistency proof from the first `old` leaves to all of them (RFC 6962, `PROOF`); `None` when there are fewer.
///
/// Empty for an `old` of 0, which the RFC does not define.
pub fn consistency_proof(old: usize, leaves: &[LogHash]) -> Option<Vec<LogHash>> {
    match old {
        0 => Some(Vec::new()),
        _ => (old <= leaves.len()).then(|| subproof(old, leaves, true)),
    }
}

/// RFC 6962, `SUBPROOF`; `whole` while the older tree's root needs no hash of its own.
fn subproof(old: usize, leaves: &[LogHash], whole: bool) -> Vec<LogHash> {
    if old == leaves.len() {
        return if whole { Vec::new() } else { [root_of(leaves)].into() };
    }
    let (left, right) = split(leaves);
    let (mut proof, sibling) = match old.checked_sub(left.len()) {
        None | Some(0) => (subproof(old, left, whole), right),
        Some(old) => (subproof(old, right, false), left),
    };
    proof.push(root_of(sibling));
    proof
}

/// Splits two leaves or more at the largest power of two below their number.
fn split(leaves: &[LogHash]) -> (&[LogHash], &[LogHash]) {
    leaves.split_at(leaves.len().next_power_of_two() / 2)
}
