//! The state: every word of the chain in memory, as a trie that is never changed, only succeeded.
//!
//! ```text
//!            head 7          head 8           a block rewrites the nodes above its words and shares the rest,
//!           /      \        /      \          so an older root stays a whole trie for as long as someone holds it
//!        [ a ]    [ b ] <--+      [ b' ]
//! ```
//!
//! [`Trie`] answers lookups and proofs; `update` makes a candidate for its successor and `succeed` commits one. Hash
//! rules are `verify::state`'s; [`arena`] is where nodes lie, [`version`] says for how long. This keeps all words in
//! memory and rebuilds them at open; pages on disk come with a later stage behind the same names.

mod arena;
mod update;
mod version;

use std::sync::Arc;

use hyperion_primitives::B256;
use hyperion_verify::state::{End, StatePath, StateProof, Word};

use self::{arena::Kind, version::Version};

pub(crate) use update::Change;

/// Words at paths, with every hash known. Clones are the same version.
#[derive(Clone, Debug)]
pub(crate) struct Trie {
    version: Arc<Version>,
}

impl Default for Trie {
    fn default() -> Self {
        Self { version: Arc::new(Version::empty()) }
    }
}

impl Trie {
    /// A committed trie of these words, which ascend strictly by path.
    pub(crate) fn from_leaves(leaves: &[Change], threads: usize) -> Self {
        let empty = Self::default();
        let trie = empty.update(leaves, threads).trie;
        empty.succeed(&trie);
        trie
    }

    /// The state root; zero when nothing is held.
    pub(crate) fn root(&self) -> B256 {
        self.version.root.hash
    }

    /// Words held.
    pub(crate) fn leaves(&self) -> u64 {
        self.version.leaves
    }

    /// Commits `next`, which `update` made from this trie: what it replaced is freed when nobody can read it.
    ///
    /// # Panics
    ///
    /// When it was made from another trie, or this one has a successor.
    pub(crate) fn succeed(&self, next: &Self) {
        Version::succeed(&self.version, &next.version);
    }

    /// The word at a path.
    pub(crate) fn get(&self, path: &StatePath) -> Option<Word> {
        let arena = &self.version.arena;
        let mut at = self.version.root.node;
        let mut depth = 0;
        loop {
            match at.kind() {
                Kind::Empty => return None,
                Kind::Leaf => {
                    let (own, word) = arena.leaf(at);
                    return (own == *path).then_some(word);
                }
                Kind::Branch => at = arena.children(at)[usize::from(path.bit(depth))],
            }
            depth += 1;
        }
    }

    /// Proves what is at a path, or that nothing is.
    pub(crate) fn prove(&self, path: &StatePath) -> StateProof {
        let arena = &self.version.arena;
        let mut at = self.version.root.node;
        let mut siblings = Vec::new();
        let end = loop {
            match at.kind() {
                Kind::Empty => break End::Empty,
                Kind::Leaf => {
                    let (own, word) = arena.leaf(at);
                    break if own == *path { End::Own } else { End::Other { path: own, word } };
                }
                Kind::Branch => {
                    let right = usize::from(path.bit(siblings.len()));
                    let sides = arena.branch(at);
                    siblings.push(sides[1 - right].hash);
                    at = sides[right].node;
                }
            }
        };
        StateProof::new(end, siblings).expect("a path has 256 bits, so no leaf lies deeper")
    }
}

#[cfg(test)]
mod tests;
