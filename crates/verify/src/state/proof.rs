use alloc::vec::Vec;

use hyperion_primitives::B256;

use super::{Leaves, StatePath, Word, leaf, node, root_below, split};
use crate::bytes::Fields;

const VERSION: u8 = 1;
/// The trie hashes with keccak-256.
const KECCAK: u8 = 1;
/// Version, hash, kind, depth.
const HEADER_BYTES: usize = 5;
/// Path and word.
const OTHER_BYTES: usize = 64;

/// Where the path of a proof ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In an empty subtree: the path is absent.
    Empty,
    /// At its own leaf: the path is present.
    Own,
    /// At another leaf that shares the bits walked: the path is absent.
    Other {
        /// That leaf's path.
        path: StatePath,
        /// That leaf's word.
        word: Word,
    },
}

/// Proof that a path holds a word, or nothing, under a state root.
///
/// `1 ‖ hash 1 ‖ kind ‖ depth u16 ‖ bitmap ‖ siblings ‖ (other path ‖ other word)`: bit i of the bitmap, highest first,
/// says that the sibling at level i (0 just below the root) is not zero, and only those are sent. So a root and a path
/// have one encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateProof {
    end: End,
    siblings: Vec<B256>,
}

/// Why bytes are no proof, or prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateProofError {
    /// Another length than its own header calls for.
    #[error("the state proof has {got} bytes, want {want}")]
    Length {
        /// The bytes given.
        got: usize,
        /// The bytes its header, depth and bitmap call for.
        want: usize,
    },
    /// The first three bytes.
    #[error(
        "the state proof begins with version {version}, hash {hash}, kind {kind}; want 1, 1 and 0 to 2"
    )]
    Header {
        /// The first byte.
        version: u8,
        /// The second byte.
        hash: u8,
        /// The third byte.
        kind: u8,
    },
    /// Deeper than a path has bits.
    #[error("the state proof is {got} levels deep, want {max} at most", max = StatePath::BITS)]
    Depth {
        /// The depth found.
        got: u16,
    },
    /// Bits of the bitmap beyond the depth.
    #[error("the bitmap of the state proof has bits set beyond its depth")]
    Padding,
    /// A zero sibling that was sent.
    #[error("sibling {sibling} of the state proof is zero and must not be sent")]
    ZeroSibling {
        /// Which of those sent.
        sibling: usize,
    },
    /// The other leaf is no other leaf, or not on this path.
    #[error("the other leaf {path} does not stand in the way of the path asked for")]
    OtherLeaf {
        /// That leaf's path.
        path: B256,
    },
    /// A proof of presence for an absent word, or the reverse.
    #[error("the state proof is for {}, want {}", presence(*got_present), presence(!*got_present))]
    Presence {
        /// Whether the proof is one of presence.
        got_present: bool,
    },
    /// The proof leads elsewhere.
    #[error("the state proof leads to {got}, want the root {want}")]
    Root {
        /// Where it leads.
        got: B256,
        /// The root it should lead to.
        want: B256,
    },
}

const fn presence(present: bool) -> &'static str {
    if present { "a word" } else { "no word" }
}

impl StateProof {
    /// A proof for `path` in these leaves, by the definition.
    pub fn of(leaves: Leaves<'_>, path: &StatePath) -> Self {
        let (mut below, mut siblings) = (leaves, Vec::new());
        while below.len() > 1 {
            let depth = siblings.len();
            let (left, right) = split(below, depth);
            let (own, sibling) = if path.bit(depth) { (right, left) } else { (left, right) };
            siblings.push(root_below(sibling, depth + 1));
            below = own;
        }
        let end = match below {
            [] => End::Empty,
            [(own, _), ..] if own == path => End::Own,
            [(other, word), ..] => End::Other { path: *other, word: *word },
        };
        Self { end, siblings }
    }

    /// A proof from its parts; siblings from the root down, zero where a subtree is empty. `None` beyond 256 levels.
    pub fn new(end: End, siblings: Vec<B256>) -> Option<Self> {
        (siblings.len() <= StatePath::BITS).then_some(Self { end, siblings })
    }

    /// Where the path ends.
    pub const fn end(&self) -> &End {
        &self.end
    }

    /// Siblings from the root down, zero where a subtree is empty.
    pub fn siblings(&self) -> &[B256] {
        &self.siblings
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let depth = u16::try_from(self.siblings.len()).expect("256 levels at most");
        let kind = match self.end {
            End::Empty => 0,
            End::Own => 1,
            End::Other { .. } => 2,
        };
        let mut bytes = Vec::from([VERSION, KECCAK, kind]);
        bytes.extend(depth.to_be_bytes());
        bytes.extend(self.siblings.chunks(8).map(|eight| {
            let sent = eight.iter().map(|sibling| !sibling.is_zero());
            sent.enumerate().fold(0, |bits, (i, sent)| bits | (u8::from(sent) << (7 - i)))
        }));
        for sibling in self.siblings.iter().filter(|sibling| !sibling.is_zero()) {
            bytes.extend(sibling);
        }
        if let End::Other { path, word } = self.end {
            bytes.extend(path.0);
            bytes.extend(word);
        }
        bytes
    }

    /// Reads the one encoding of a proof.
    ///
    /// # Errors
    ///
    /// When the bytes are not exactly such an encoding; whether they prove anything is for [`check`](Self::check).
    pub fn decode(bytes: &[u8]) -> Result<Self, StateProofError> {
        let got = bytes.len();
        let length =
            |want| if got < want { Err(StateProofError::Length { got, want }) } else { Ok(()) };
        length(HEADER_BYTES)?;
        let mut fields = Fields::new(bytes);
        let [version, hash, kind] = fields.array();
        if version != VERSION || hash != KECCAK || kind > 2 {
            return Err(StateProofError::Header { version, hash, kind });
        }
        let got_depth = fields.u16();
        let depth = usize::from(got_depth);
        if depth > StatePath::BITS {
            return Err(StateProofError::Depth { got: got_depth });
        }
        let bitmap_bytes = depth.div_ceil(8);
        length(HEADER_BYTES + bitmap_bytes)?;
        let bitmap = fields.slice(bitmap_bytes);
        let sent = bitmap.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
        let other_bytes = if kind == 2 { OTHER_BYTES } else { 0 };
        let want = HEADER_BYTES + bitmap_bytes + 32 * sent + other_bytes;
        if got != want {
            return Err(StateProofError::Length { got, want });
        }
        let is_sent = |level: usize| bitmap[level / 8] >> (7 - level % 8) & 1 == 1;
        if (depth..8 * bitmap_bytes).any(is_sent) {
            return Err(StateProofError::Padding);
        }
        let mut siblings = Vec::with_capacity(depth);
        let mut sibling = 0;
        for level in 0..depth {
            let hash = if is_sent(level) { fields.b256() } else { B256::ZERO };
            if is_sent(level) && hash.is_zero() {
                return Err(StateProofError::ZeroSibling { sibling });
            }
            sibling += usize::from(is_sent(level));
            siblings.push(hash);
        }
        let end = match kind {
            0 => End::Empty,
            1 => End::Own,
            _ => End::Other { path: StatePath(fields.b256()), word: fields.b256() },
        };
        Ok(Self { end, siblings })
    }

    /// Accepts the proof that `path` holds `word`, or nothing when `word` is `None`, under `root`.
    ///
    /// # Errors
    ///
    /// When the proof is one of the contrary, its other leaf does not stand in the way, or it leads to another root.
    pub fn check(
        &self,
        root: &B256,
        path: &StatePath,
        word: Option<&Word>,
    ) -> Result<(), StateProofError> {
        let mut hash = match (&self.end, word) {
            (End::Own, Some(word)) => leaf(path, word),
            (End::Own, None) => return Err(StateProofError::Presence { got_present: true }),
            (_, Some(_)) => return Err(StateProofError::Presence { got_present: false }),
            (End::Empty, None) => B256::ZERO,
            (End::Other { path: other, word }, None) => {
                if other == path || !other.shares(path, self.siblings.len()) {
                    return Err(StateProofError::OtherLeaf { path: other.0 });
                }
                leaf(other, word)
            }
        };
        for (level, sibling) in self.siblings.iter().enumerate().rev() {
            hash = if path.bit(level) { node(sibling, &hash) } else { node(&hash, sibling) };
        }
        if hash == *root { Ok(()) } else { Err(StateProofError::Root { got: hash, want: *root }) }
    }
}
