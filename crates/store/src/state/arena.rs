//! Where the trie's nodes lie: slots of 72 bytes, named by number, written before anyone can see them.
//!
//! | words of 8 bytes | branch | leaf |
//! |---|---|---|
//! | 0 | left node, right node | 0 |
//! | 1–4 | left hash | path |
//! | 5–8 | right hash | word |
//!
//! A branch holds its children's hashes, so an update reads the nodes on its paths and never their siblings. Slots are
//! plain atomics read and written relaxed: what orders them is the lock or channel through which a version reaches its
//! reader, and a slot is written again only when no version that names it is left ([`super::version`]). Slots are made
//! in segments that never move.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use hyperion_primitives::B256;
use hyperion_verify::state::{StatePath, Word};
use parking_lot::Mutex;

/// Slots of a segment, a little over a megabyte.
const SEGMENT: u32 = 1 << 14;
/// Most slots: 19 GB, some hundred million words of state.
const SLOTS_MAX: u32 = 1 << 28;
const WORDS: usize = 9;

/// Bytes of a slot.
pub(super) const SLOT_BYTES: usize = WORDS * 8;

/// A node by its slot, and what kind it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Node(u32);

/// What a node's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Empty,
    Leaf,
    Branch,
}

impl Node {
    /// Nothing hangs here.
    pub(super) const EMPTY: Self = Self(0);
    const LEAF: u32 = 1 << 31;

    /// A leaf, or a branch, in `slot`.
    const fn new(slot: u32, is_leaf: bool) -> Self {
        // Number 0 means empty, so slots count from 1 here.
        Self((slot + 1) | if is_leaf { Self::LEAF } else { 0 })
    }

    pub(super) const fn kind(self) -> Kind {
        match self.0 {
            0 => Kind::Empty,
            n if n & Self::LEAF != 0 => Kind::Leaf,
            _ => Kind::Branch,
        }
    }

    pub(super) const fn slot(self) -> u32 {
        (self.0 & !Self::LEAF) - 1
    }
}

/// A node and its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) node: Node,
    pub(super) hash: B256,
}

impl Link {
    /// An empty subtree, whose hash is zero.
    pub(super) const EMPTY: Self = Self { node: Node::EMPTY, hash: B256::ZERO };
}

#[derive(Debug, Default)]
struct Slot([AtomicU64; WORDS]);

impl Slot {
    fn read(&self, first: usize) -> B256 {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(&self.0[first..]) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        B256::new(bytes)
    }

    fn write(&self, first: usize, value: &B256) {
        for (bytes, word) in value.0.as_chunks().0.iter().zip(&self.0[first..]) {
            word.store(u64::from_ne_bytes(*bytes), Relaxed);
        }
    }
}

/// All slots of a store's versions.
#[derive(Debug)]
pub(super) struct Arena {
    segments: Box<[OnceLock<Box<[Slot]>>]>,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    recycled: Vec<u32>,
    /// Slots from here on were never given out.
    next: u32,
}

impl Default for Arena {
    fn default() -> Self {
        let segments = (0..SLOTS_MAX / SEGMENT).map(|_| OnceLock::new()).collect();
        Self { segments, free: Mutex::default() }
    }
}

impl Arena {
    fn slot(&self, slot: u32) -> &Slot {
        let segment = self.segments[(slot / SEGMENT) as usize]
            .get_or_init(|| (0..SEGMENT).map(|_| Slot::default()).collect());
        &segment[(slot % SEGMENT) as usize]
    }

    /// The children of a branch.
    pub(super) fn children(&self, branch: Node) -> [Node; 2] {
        let pair = self.slot(branch.slot()).0[0].load(Relaxed);
        [Node((pair >> 32) as u32), Node(pair as u32)]
    }

    /// The children of a branch with their hashes.
    pub(super) fn branch(&self, branch: Node) -> [Link; 2] {
        let slot = self.slot(branch.slot());
        let [left, right] = self.children(branch);
        [Link { node: left, hash: slot.read(1) }, Link { node: right, hash: slot.read(5) }]
    }

    /// Path and word of a leaf.
    pub(super) fn leaf(&self, leaf: Node) -> (StatePath, Word) {
        let slot = self.slot(leaf.slot());
        (StatePath(slot.read(1)), slot.read(5))
    }

    /// Writes a branch into a slot that nobody names.
    pub(super) fn put_branch(&self, slot: u32, [left, right]: [&Link; 2]) -> Node {
        let to = self.slot(slot);
        to.0[0].store(u64::from(left.node.0) << 32 | u64::from(right.node.0), Relaxed);
        to.write(1, &left.hash);
        to.write(5, &right.hash);
        Node::new(slot, false)
    }

    /// Writes a leaf into a slot that nobody names.
    pub(super) fn put_leaf(&self, slot: u32, path: &StatePath, word: &Word) -> Node {
        let to = self.slot(slot);
        to.write(1, &path.0);
        to.write(5, word);
        Node::new(slot, true)
    }

    /// Takes slots that nobody names.
    ///
    /// # Panics
    ///
    /// Beyond [`SLOTS_MAX`].
    pub(super) fn take(&self, count: u32, out: &mut Vec<u32>) {
        let mut free = self.free.lock();
        let kept = free.recycled.len().saturating_sub(count as usize);
        let fresh = count - (free.recycled.len() - kept) as u32;
        out.extend(free.recycled.drain(kept..));
        let end = free.next + fresh;
        assert!(end <= SLOTS_MAX, "a state of more than {SLOTS_MAX} nodes is not kept in memory");
        out.extend(free.next..end);
        free.next = end;
    }

    /// Gives back slots that nobody names any more.
    pub(super) fn recycle(&self, slots: &[u32]) {
        self.free.lock().recycled.extend_from_slice(slots);
    }

    /// Slots that are given out.
    #[cfg(test)]
    pub(super) fn live(&self) -> usize {
        let free = self.free.lock();
        free.next as usize - free.recycled.len()
    }
}
