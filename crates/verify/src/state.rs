//! The state as a tree: a canonical binary trie over 32-byte words.
//!
//! A word lives at a *path*, `keccak(namespace ‖ key)`; path bit 0 is the highest of byte 0, and a 0 goes left.
//!
//! ```text
//! T({})      = 0
//! T({p: w})  = keccak(p ‖ w)                      with the top bit of byte 0 set
//! T(S)       = keccak(T(S_left) ‖ T(S_right))     with the top bit cleared; |S| >= 2, split at the next path bit
//! ```
//!
//! A leaf's hash holds no depth, so a lone leaf moves up to where its prefix becomes unique: [`combine`] gives T of a
//! union from the two halves alone. Trees are built with `combine`; proofs ([`StateProof`]) are hashed with [`node`],
//! because a proof's levels are real ones.

mod proof;
mod word;

use hyperion_primitives::{
    Address, B256, ClaimDigest, Keccak, ModelId, RequestId, keccak::Lanes, keccak256,
};
pub use proof::{End, StateProof, StateProofError};
pub use word::{AccountWord, ClaimWord, WordError};

/// What the state holds at a path. Zero is a value like any other.
pub type Word = B256;

/// Words at strictly ascending paths.
pub type Leaves<'a> = &'a [(StatePath, Word)];

/// Where a word lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatePath(pub B256);

impl StatePath {
    /// Bits of a path.
    pub const BITS: usize = 256;

    /// The path of a key in a namespace.
    pub fn of(namespace: Namespace, key: &[u8]) -> Self {
        let mut hasher = Keccak::new();
        Self(hasher.u8(namespace as u8).update(key).finish())
    }

    /// [`AccountWord`] of an account.
    pub fn account(address: &Address) -> Self {
        Self::of(Namespace::Account, address.as_slice())
    }

    /// keccak-256 of an account's code, which is a blob; absent without code.
    pub fn code(address: &Address) -> Self {
        Self::of(Namespace::Code, address.as_slice())
    }

    /// The word in an account's storage slot.
    pub fn storage(address: &Address, slot: &B256) -> Self {
        let mut key = [0; 52];
        key[..20].copy_from_slice(address.as_slice());
        key[20..].copy_from_slice(slot.as_slice());
        Self::of(Namespace::Storage, &key)
    }

    /// keccak-256 of a model's manifest, which is a blob.
    pub fn model(model: &ModelId) -> Self {
        Self::of(Namespace::Model, model.as_bytes())
    }

    /// Digest of the first claim logged for a request.
    pub fn request(request: &RequestId) -> Self {
        Self::of(Namespace::Request, request.as_bytes())
    }

    /// Digest of the first claim that a worker logged for a request, where the request's first claim is another's.
    pub fn request_of(request: &RequestId, worker: &Address) -> Self {
        let mut key = [0; 52];
        key[..32].copy_from_slice(request.as_bytes());
        key[32..].copy_from_slice(worker.as_slice());
        Self::of(Namespace::Request, &key)
    }

    /// [`ClaimWord`] of a claim.
    pub fn claim(claim: &ClaimDigest) -> Self {
        Self::of(Namespace::Claim, claim.as_bytes())
    }

    /// Bit `at`, from the highest of byte 0 on.
    ///
    /// # Panics
    ///
    /// When `at` is not below [`BITS`](Self::BITS).
    pub fn bit(&self, at: usize) -> bool {
        self.0[at / 8] >> (7 - at % 8) & 1 == 1
    }

    /// Whether the first `bits` bits are the same.
    pub fn shares(&self, other: &Self, bits: usize) -> bool {
        (0..bits).all(|at| self.bit(at) == other.bit(at))
    }
}

/// What a key names; the byte that its path begins with before hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Namespace {
    /// Address of an account.
    Account = 0x01,
    /// Address of an account with code.
    Code = 0x02,
    /// Address and slot.
    Storage = 0x03,
    /// Model id.
    Model = 0x10,
    /// Request id.
    Request = 0x11,
    /// Claim digest.
    Claim = 0x12,
}

/// Hash of a leaf; its top bit is set.
pub fn leaf(path: &StatePath, word: &Word) -> B256 {
    let mut hash = hash_pair(&path.0, word);
    hash.0[0] |= 0x80;
    hash
}

/// Hash of an inner node; its top bit is clear.
pub fn node(left: &B256, right: &B256) -> B256 {
    let mut hash = hash_pair(left, right);
    hash.0[0] &= 0x7f;
    hash
}

/// Hashes of many leaves: message i is a path and its word.
///
/// # Panics
///
/// When there is not one place in `out` per message.
pub fn leaves(messages: &[[u8; 64]], lanes: Lanes, out: &mut [B256]) {
    lanes.hash(messages, out);
    out.iter_mut().for_each(|hash| hash.0[0] |= 0x80);
}

/// Hashes of many inner nodes: message i is its left and its right hash.
///
/// # Panics
///
/// When there is not one place in `out` per message.
pub fn nodes(messages: &[[u8; 64]], lanes: Lanes, out: &mut [B256]) {
    lanes.hash(messages, out);
    out.iter_mut().for_each(|hash| hash.0[0] &= 0x7f);
}

/// T of a set from T of its two halves.
pub fn combine(left: &B256, right: &B256) -> B256 {
    let lone = |hash: &B256| hash[0] >> 7 == 1;
    if right.is_zero() && (left.is_zero() || lone(left)) {
        *left
    } else if left.is_zero() && lone(right) {
        *right
    } else {
        node(left, right)
    }
}

/// T of leaves in strictly ascending path order, by the definition.
pub fn root_of(leaves: Leaves<'_>) -> B256 {
    root_below(leaves, 0)
}

fn root_below(leaves: Leaves<'_>, depth: usize) -> B256 {
    match leaves {
        [] => B256::ZERO,
        [(path, word)] => leaf(path, word),
        _ => {
            let (left, right) = split(leaves, depth);
            node(&root_below(left, depth + 1), &root_below(right, depth + 1))
        }
    }
}

/// Parts leaves in path order by their bit `depth`.
fn split(leaves: Leaves<'_>, depth: usize) -> (Leaves<'_>, Leaves<'_>) {
    leaves.split_at(leaves.partition_point(|(path, _)| !path.bit(depth)))
}

fn hash_pair(left: &B256, right: &B256) -> B256 {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(left.as_slice());
    bytes[32..].copy_from_slice(right.as_slice());
    keccak256(bytes)
}
