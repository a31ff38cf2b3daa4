//! The state: every word of the chain in memory, as a trie that is never changed, only succeeded.
//!
//! ```text
//!            head 7          head 8           a block rewrites the nodes above its words and shares the rest,
//!           /      \        /      \          so an older root stays a whole trie for as long as someone holds it
//!        [ a ]    [ b ] <--+      [ b' ]
//! ```
//!
//! [`Trie`] answers lookups and proofs; `update` makes the successor. Hash rules are `verify::state`'s. This keeps
//! all words in memory and rebuilds them at open; pages on disk come with a later stage behind the same names.

mod update;

use std::sync::Arc;

use hyperion_primitives::B256;
use hyperion_verify::state::{End, StatePath, StateProof, Word};

pub(crate) use update::Change;

/// Words at paths, with every hash known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trie {
    root: Child,
    leaves: u64,
}

/// What hangs below a node.
#[derive(Clone, Debug, Default)]
enum Child {
    #[default]
    Empty,
    Leaf(Arc<Leaf>),
    Branch(Arc<Branch>),
}

#[derive(Debug)]
struct Leaf {
    hash: B256,
    path: StatePath,
    word: Word,
}

#[derive(Debug)]
struct Branch {
    hash: B256,
    left: Child,
    right: Child,
}

impl Branch {
    const fn side(&self, right: bool) -> &Child {
        if right { &self.right } else { &self.left }
    }
}

impl Child {
    /// T of what hangs here.
    fn hash(&self) -> B256 {
        match self {
            Self::Empty => B256::ZERO,
            Self::Leaf(leaf) => leaf.hash,
            Self::Branch(branch) => branch.hash,
        }
    }
}

impl Trie {
    /// The state root; zero when nothing is held.
    pub(crate) fn root(&self) -> B256 {
        self.root.hash()
    }

    /// Words held.
    pub(crate) const fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The word at a path.
    pub(crate) fn get(&self, path: &StatePath) -> Option<Word> {
        let mut at = &self.root;
        let mut depth = 0;
        loop {
            match at {
                Child::Empty => return None,
                Child::Leaf(leaf) => return (leaf.path == *path).then_some(leaf.word),
                Child::Branch(branch) => at = branch.side(path.bit(depth)),
            }
            depth += 1;
        }
    }

    /// Proves what is at a path, or that nothing is.
    pub(crate) fn prove(&self, path: &StatePath) -> StateProof {
        let mut at = &self.root;
        let mut siblings = Vec::new();
        let end = loop {
            match at {
                Child::Empty => break End::Empty,
                Child::Leaf(leaf) if leaf.path == *path => break End::Own,
                Child::Leaf(leaf) => break End::Other { path: leaf.path, word: leaf.word },
                Child::Branch(branch) => {
                    let right = path.bit(siblings.len());
                    siblings.push(branch.side(!right).hash());
                    at = branch.side(right);
                }
            }
        };
        StateProof::new(end, siblings).expect("a path has 256 bits, so no leaf lies deeper")
    }
}

#[cfg(test)]
mod tests;
