//! From one trie to the next.
//!
//! `shape` walks old nodes and changes together and drafts the new nodes, children before parents, without hashing;
//! `hash` then hashes the drafts level by level from the deepest up, so that one call sees many independent inputs;
//! `freeze` turns them into shared nodes. Large updates are parted at the root and run on several threads: where
//! they are parted never shows in a hash.

use std::{ops::Range, sync::Arc, thread};

use hyperion_primitives::{B256, keccak::Lanes};
use hyperion_verify::state::{StatePath, Word, combine, leaves, nodes};

use super::{Branch, Child, Leaf, Trie};

/// A path and the word it gets; `None` removes.
pub(crate) type Change = (StatePath, Option<Word>);

/// Below this many changes a second thread costs more than it brings.
const CHANGES_PER_THREAD_MIN: usize = 512;
/// Messages gathered for one call of the hasher.
const BATCH: usize = 32;

/// A trie's successor.
#[derive(Debug)]
pub(crate) struct Updated {
    pub(crate) trie: Trie,
    /// The word each change replaced, in the changes' order.
    pub(crate) replaced: Vec<Option<Word>>,
    /// Memory of the nodes that the predecessor does not share.
    pub(crate) fresh_bytes: usize,
}

impl Trie {
    /// The trie after `changes`, which ascend strictly by path; `self` stays as it is.
    pub(crate) fn update(&self, changes: &[Change], threads: usize) -> Updated {
        debug_assert!(changes.is_sorted_by(|a, b| a.0 < b.0), "one change per path, in path order");
        let mut replaced = vec![None; changes.len()];
        let (root, fresh_bytes) = below(&self.root, 0, changes, &mut replaced, threads);
        let leaves = changes.iter().zip(&replaced).fold(self.leaves, |leaves, (change, old)| {
            leaves + u64::from(change.1.is_some()) - u64::from(old.is_some())
        });
        Updated { trie: Self { root, leaves }, replaced, fresh_bytes }
    }
}

/// Updates one subtree; returns it with the bytes of its new nodes.
fn below(
    at: &Child,
    depth: usize,
    changes: &[Change],
    replaced: &mut [Option<Word>],
    threads: usize,
) -> (Child, usize) {
    if let Child::Branch(branch) = at
        && threads > 1
        && changes.len() >= 2 * CHANGES_PER_THREAD_MIN
    {
        let split = changes.partition_point(|(path, _)| !path.bit(depth));
        let (changes_left, changes_right) = changes.split_at(split);
        let (replaced_left, replaced_right) = replaced.split_at_mut(split);
        let ((left, bytes_left), (right, bytes_right)) = thread::scope(|scope| {
            let half = threads / 2;
            let other = scope
                .spawn(move || below(&branch.left, depth + 1, changes_left, replaced_left, half));
            let right =
                below(&branch.right, depth + 1, changes_right, replaced_right, threads - half);
            (other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), right)
        });
        let bytes = bytes_left + bytes_right + BRANCH_BYTES;
        return (joined(left, right), bytes);
    }
    let mut draft = Draft { changes, replaced, leaves: Vec::new(), branches: Vec::new() };
    let top = draft.shape(at, depth, 0..changes.len());
    let bytes = draft.leaves.len() * LEAF_BYTES + draft.branches.len() * BRANCH_BYTES;
    (draft.freeze(top), bytes)
}

/// Heap bytes of a shared node: its fields and two counts.
const LEAF_BYTES: usize = size_of::<Leaf>() + 2 * size_of::<usize>();
const BRANCH_BYTES: usize = size_of::<Branch>() + 2 * size_of::<usize>();

fn joined(left: Child, right: Child) -> Child {
    match (&left, &right) {
        (Child::Empty, Child::Empty | Child::Leaf(_)) => right,
        (Child::Leaf(_), Child::Empty) => left,
        _ => {
            let hash = combine(&left.hash(), &right.hash());
            Child::Branch(Arc::new(Branch { hash, left, right }))
        }
    }
}

/// A node of the successor: one of the old trie's, or a drafted one by its place in the draft.
enum Node {
    Old(Child),
    Leaf(usize),
    Branch(usize),
}

impl Node {
    const EMPTY: Self = Self::Old(Child::Empty);

    const fn is_empty(&self) -> bool {
        matches!(self, Self::Old(Child::Empty))
    }

    const fn is_leaf(&self) -> bool {
        matches!(self, Self::Leaf(_) | Self::Old(Child::Leaf(_)))
    }
}

struct DraftBranch {
    depth: usize,
    left: Node,
    right: Node,
}

/// New nodes without hashes; children stand before their parents.
struct Draft<'a> {
    changes: &'a [Change],
    replaced: &'a mut [Option<Word>],
    leaves: Vec<(StatePath, Word)>,
    branches: Vec<DraftBranch>,
}

impl Draft<'_> {
    /// Drafts the subtree at `at` after the changes of `range`, all of which belong below it.
    fn shape(&mut self, at: &Child, depth: usize, range: Range<usize>) -> Node {
        if range.is_empty() {
            return Node::Old(at.clone());
        }
        match at {
            Child::Empty => self.grow(None, depth, range),
            Child::Leaf(leaf) => self.grow(Some(leaf), depth, range),
            Child::Branch(branch) => {
                let middle = self.middle(depth, &range);
                let left = self.shape(&branch.left, depth + 1, range.start..middle);
                let right = self.shape(&branch.right, depth + 1, middle..range.end);
                if is_same(&left, &branch.left) && is_same(&right, &branch.right) {
                    return Node::Old(at.clone());
                }
                self.join(depth, left, right)
            }
        }
    }

    /// Drafts a subtree of which at most one leaf existed.
    fn grow(&mut self, old: Option<&Arc<Leaf>>, depth: usize, range: Range<usize>) -> Node {
        let Some(old) = old else {
            return self.grow_fresh(depth, range);
        };
        let place = self.changes[range.clone()].binary_search_by(|(path, _)| path.cmp(&old.path));
        if let Ok(at) = place {
            let at = range.start + at;
            self.replaced[at] = Some(old.word);
            if self.changes[at].1 != Some(old.word) || range.len() > 1 {
                // Its successor, if any, is among the changes.
                return self.grow_fresh(depth, range);
            }
            return Node::Old(Child::Leaf(Arc::clone(old)));
        }
        if self.changes[range.clone()].iter().all(|(_, word)| word.is_none()) {
            return Node::Old(Child::Leaf(Arc::clone(old)));
        }
        let middle = self.middle(depth, &range);
        let (mut left, mut right) = (None, None);
        *if old.path.bit(depth) { &mut right } else { &mut left } = Some(old);
        let left = self.grow_or_keep(left, depth + 1, range.start..middle);
        let right = self.grow_or_keep(right, depth + 1, middle..range.end);
        self.join(depth, left, right)
    }

    fn grow_or_keep(&mut self, old: Option<&Arc<Leaf>>, depth: usize, range: Range<usize>) -> Node {
        match old {
            Some(old) if range.is_empty() => Node::Old(Child::Leaf(Arc::clone(old))),
            old => self.grow(old, depth, range),
        }
    }

    /// Drafts a subtree from the words of `range` alone.
    fn grow_fresh(&mut self, depth: usize, range: Range<usize>) -> Node {
        let mut words = range.clone().filter(|at| self.changes[*at].1.is_some());
        let Some(first) = words.next() else {
            return Node::EMPTY;
        };
        if words.next().is_none() {
            let (path, word) = self.changes[first];
            self.leaves.push((path, word.expect("the filter kept it")));
            return Node::Leaf(self.leaves.len() - 1);
        }
        let middle = self.middle(depth, &range);
        let left = self.grow_fresh(depth + 1, range.start..middle);
        let right = self.grow_fresh(depth + 1, middle..range.end);
        self.join(depth, left, right)
    }

    /// A node above two subtrees, or the lone leaf that takes its place.
    fn join(&mut self, depth: usize, left: Node, right: Node) -> Node {
        if left.is_empty() && (right.is_empty() || right.is_leaf()) {
            right
        } else if right.is_empty() && left.is_leaf() {
            left
        } else {
            self.branches.push(DraftBranch { depth, left, right });
            Node::Branch(self.branches.len() - 1)
        }
    }

    /// Where the changes of `range` with a 1 at bit `depth` begin.
    fn middle(&self, depth: usize, range: &Range<usize>) -> usize {
        range.start + self.changes[range.clone()].partition_point(|(path, _)| !path.bit(depth))
    }

    /// Hashes the drafts and gives out the node `top`.
    fn freeze(self, top: Node) -> Child {
        let (leaf_hashes, branch_hashes) = self.hash();
        let mut leaves: Vec<Child> = self
            .leaves
            .iter()
            .zip(leaf_hashes)
            .map(|(&(path, word), hash)| Child::Leaf(Arc::new(Leaf { hash, path, word })))
            .collect();
        let mut branches: Vec<Child> = Vec::with_capacity(self.branches.len());
        for (draft, hash) in self.branches.into_iter().zip(branch_hashes) {
            let left = taken(draft.left, &mut leaves, &mut branches);
            let right = taken(draft.right, &mut leaves, &mut branches);
            branches.push(Child::Branch(Arc::new(Branch { hash, left, right })));
        }
        taken(top, &mut leaves, &mut branches)
    }

    fn hash(&self) -> (Vec<B256>, Vec<B256>) {
        let lanes = Lanes::best();
        let mut leaf_hashes = vec![B256::ZERO; self.leaves.len()];
        let mut messages = [[0; 64]; BATCH];
        for (words, hashes) in self.leaves.chunks(BATCH).zip(leaf_hashes.chunks_mut(BATCH)) {
            for (message, (path, word)) in messages.iter_mut().zip(words) {
                *message = message_of(&path.0, word);
            }
            leaves(&messages[..words.len()], lanes, hashes);
        }
        let mut branch_hashes = vec![B256::ZERO; self.branches.len()];
        let mut hashes = [B256::ZERO; BATCH];
        for depth in self.by_depth().iter().rev() {
            for places in depth.chunks(BATCH) {
                for (message, at) in messages.iter_mut().zip(places) {
                    let hash_of = |node: &Node| match node {
                        Node::Old(child) => child.hash(),
                        Node::Leaf(at) => leaf_hashes[*at],
                        Node::Branch(at) => branch_hashes[*at],
                    };
                    let draft = &self.branches[*at];
                    *message = message_of(&hash_of(&draft.left), &hash_of(&draft.right));
                }
                nodes(&messages[..places.len()], lanes, &mut hashes[..places.len()]);
                for (at, hash) in places.iter().zip(hashes) {
                    branch_hashes[*at] = hash;
                }
            }
        }
        (leaf_hashes, branch_hashes)
    }

    /// The places of the drafted branches of each depth.
    fn by_depth(&self) -> Vec<Vec<usize>> {
        let mut places = vec![Vec::new(); StatePath::BITS];
        for (at, branch) in self.branches.iter().enumerate() {
            places[branch.depth].push(at);
        }
        places
    }
}

fn message_of(left: &B256, right: &B256) -> [u8; 64] {
    let mut message = [0; 64];
    message[..32].copy_from_slice(left.as_slice());
    message[32..].copy_from_slice(right.as_slice());
    message
}

/// The frozen form of a node; each drafted one has one parent, so it is moved out.
fn taken(node: Node, leaves: &mut [Child], branches: &mut [Child]) -> Child {
    match node {
        Node::Old(child) => child,
        Node::Leaf(at) => std::mem::take(&mut leaves[at]),
        Node::Branch(at) => std::mem::take(&mut branches[at]),
    }
}

fn is_same(node: &Node, old: &Child) -> bool {
    match (node, old) {
        (Node::Old(Child::Empty), Child::Empty) => true,
        (Node::Old(Child::Leaf(new)), Child::Leaf(old)) => Arc::ptr_eq(new, old),
        (Node::Old(Child::Branch(new)), Child::Branch(old)) => Arc::ptr_eq(new, old),
        _ => false,
    }
}
