//! From one version to the next, level by level.
//!
//! Down: the nodes of one depth that changes fall under are read together, each parting its changes among its two
//! children, until a range of changes ends at a leaf or in nothing. Up: the results of one depth are joined together,
//! so that one call hashes many of them. Reading and hashing a level at a time is what makes this fast: neither waits
//! for the other end of a chain. Large updates are parted at the top and run on several threads; where they are
//! parted never shows in a hash.

use std::{ops::Range, sync::Arc, thread};

use hyperion_primitives::{B256, keccak::Lanes};
use hyperion_verify::state::{StatePath, Word, combine, leaves, nodes};

use super::{
    Trie,
    arena::{Arena, Kind, Link, Node, SLOT_BYTES},
    version::Version,
};

/// A path and the word it gets; `None` removes.
pub(crate) type Change = (StatePath, Option<Word>);

/// Below this many changes a second thread costs more than it brings.
const CHANGES_PER_THREAD_MIN: usize = 512;
/// Messages gathered for one call of the hasher.
const BATCH: usize = 64;
/// Slots taken from the arena at a time.
const SLOTS: u32 = 256;

/// A trie's successor, not committed yet.
#[derive(Debug)]
pub(crate) struct Updated {
    pub(crate) trie: Trie,
    /// The word each change replaced, in the changes' order.
    pub(crate) replaced: Vec<Option<Word>>,
    /// Memory that the predecessor keeps for itself.
    pub(crate) retired_bytes: usize,
}

impl Trie {
    /// The trie after `changes`, which ascend strictly by path; `self` stays as it is.
    pub(crate) fn update(&self, changes: &[Change], threads: usize) -> Updated {
        debug_assert!(changes.is_sorted_by(|a, b| a.0 < b.0), "one change per path, in path order");
        let base = &self.version;
        let mut words = vec![None; changes.len()];
        let grown = below(&base.arena, base.root, 0, changes, &mut words, threads);
        let leaves = changes.iter().zip(&words).fold(base.leaves, |leaves, (change, old)| {
            leaves + u64::from(change.1.is_some()) - u64::from(old.is_some())
        });
        let retired_bytes = grown.replaced.len() * SLOT_BYTES;
        let version = Version::candidate(base, grown.top, leaves, grown.fresh, grown.replaced);
        let trie = Self { version: Arc::new(version) };
        Updated { trie, replaced: words, retired_bytes }
    }
}

/// A subtree after its changes.
struct Grown {
    top: Link,
    fresh: Vec<u32>,
    replaced: Vec<u32>,
}

/// Updates the subtree at `at`, whose changes these are.
fn below(
    arena: &Arena,
    at: Link,
    depth: usize,
    changes: &[Change],
    words: &mut [Option<Word>],
    threads: usize,
) -> Grown {
    if changes.is_empty() {
        return Grown { top: at, fresh: Vec::new(), replaced: Vec::new() };
    }
    let is_worth_parting = threads > 1 && changes.len() >= 2 * CHANGES_PER_THREAD_MIN;
    if at.node.kind() != Kind::Branch || !is_worth_parting {
        let mut update = Update {
            arena,
            changes,
            words,
            top: Side::Known(at),
            levels: Vec::new(),
            leaves: Vec::new(),
            slots: Vec::new(),
            fresh: Vec::new(),
            replaced: Vec::new(),
        };
        let top = update.run(at, depth);
        arena.recycle(&update.slots);
        return Grown { top, fresh: update.fresh, replaced: update.replaced };
    }
    let split = changes.partition_point(|(path, _)| !path.bit(depth));
    let (changes_left, changes_right) = changes.split_at(split);
    let (words_left, words_right) = words.split_at_mut(split);
    let old = arena.branch(at.node);
    let half = threads / 2;
    let (left, mut right) = thread::scope(|scope| {
        let left =
            scope.spawn(move || below(arena, old[0], depth + 1, changes_left, words_left, half));
        let right = below(arena, old[1], depth + 1, changes_right, words_right, threads - half);
        (left.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), right)
    });
    let new = [left.top, right.top];
    right.fresh.extend(left.fresh);
    right.replaced.extend(left.replaced);
    if new == old {
        return Grown { top: at, ..right };
    }
    right.replaced.push(at.node.slot());
    let top = lone(&new).unwrap_or_else(|| {
        let mut slot = Vec::with_capacity(1);
        arena.take(1, &mut slot);
        let node = arena.put_branch(slot[0], [&new[0], &new[1]]);
        right.fresh.extend(slot);
        Link { node, hash: combine(&new[0].hash, &new[1].hash) }
    });
    Grown { top, ..right }
}

/// What takes the place of a branch above these two: nothing, or a leaf that has become lone.
fn lone([left, right]: &[Link; 2]) -> Option<Link> {
    match (left.node.kind(), right.node.kind()) {
        (Kind::Empty, Kind::Empty | Kind::Leaf) => Some(*right),
        (Kind::Leaf, Kind::Empty) => Some(*left),
        _ => None,
    }
}

/// A place that changes fall under and that has, or gets, two sides.
struct Fork {
    /// The branch that was here, if there was one.
    old: Node,
    parent: Parent,
    sides: [Side; 2],
    is_changed: bool,
}

impl Fork {
    fn put(&mut self, right: bool, side: Side) {
        let place = &mut self.sides[usize::from(right)];
        self.is_changed |= *place != side;
        *place = side;
    }
}

/// Where a subtree hangs: a fork by its number in the level above, and the side of it.
#[derive(Clone, Copy)]
struct Parent {
    fork: usize,
    right: bool,
}

/// A subtree: known, or a new leaf by its number, which is hashed with all others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Known(Link),
    Fresh(usize),
}

/// A subtree to be visited: what is there and which changes fall under it.
struct Visit {
    at: Link,
    range: Range<usize>,
    parent: Parent,
}

/// One thread's part of an update.
struct Update<'a> {
    arena: &'a Arena,
    changes: &'a [Change],
    words: &'a mut [Option<Word>],
    /// Where the topmost visit's result goes.
    top: Side,
    /// Forks by depth, below the top.
    levels: Vec<Vec<Fork>>,
    leaves: Vec<(Node, StatePath, Word)>,
    /// Slots taken and not used yet.
    slots: Vec<u32>,
    fresh: Vec<u32>,
    replaced: Vec<u32>,
}

impl Update<'_> {
    fn run(&mut self, at: Link, depth: usize) -> Link {
        self.descend(at, depth);
        let hashes = self.hash_leaves();
        self.ascend(&hashes);
        self.known(self.top, &hashes)
    }

    fn descend(&mut self, at: Link, top_depth: usize) {
        let parent = Parent { fork: 0, right: false };
        let mut visits = vec![Visit { at, range: 0..self.changes.len(), parent }];
        for depth in top_depth.. {
            let mut forks = Vec::new();
            let mut below = Vec::with_capacity(visits.len());
            for visit in visits {
                let parent = visit.parent;
                match self.visit(visit, depth, forks.len(), &mut below) {
                    Ok(fork) => forks.push(fork),
                    Err(side) => self.deliver(parent, side),
                }
            }
            if forks.is_empty() {
                break;
            }
            self.levels.push(forks);
            visits = below;
        }
    }

    /// Looks at one place: a fork, whose sides with changes join `below` as children of number `fork`, or a result.
    fn visit(
        &mut self,
        visit: Visit,
        depth: usize,
        fork: usize,
        below: &mut Vec<Visit>,
    ) -> Result<Fork, Side> {
        let Visit { at, range, parent } = visit;
        let mut old = Node::EMPTY;
        let sides = match at.node.kind() {
            Kind::Branch => {
                old = at.node;
                self.arena.branch(at.node)
            }
            Kind::Leaf => match self.visit_leaf(at, &range)? {
                Some(path) if path.bit(depth) => [Link::EMPTY, at],
                Some(_) => [at, Link::EMPTY],
                None => self.visit_empty(&range)?,
            },
            Kind::Empty => self.visit_empty(&range)?,
        };
        let changes = &self.changes[range.clone()];
        let middle = range.start + changes.partition_point(|(path, _)| !path.bit(depth));
        for (right, range) in [(false, range.start..middle), (true, middle..range.end)] {
            if !range.is_empty() {
                let at = sides[usize::from(right)];
                below.push(Visit { at, range, parent: Parent { fork, right } });
            }
        }
        Ok(Fork { old, parent, sides: sides.map(Side::Known), is_changed: false })
    }

    /// An old leaf under changes: `Err` when it stays alone; its path when others come beside it; `None` when its own
    /// path is among the changes, which then decide everything.
    fn visit_leaf(&mut self, at: Link, range: &Range<usize>) -> Result<Option<StatePath>, Side> {
        let (path, word) = self.arena.leaf(at.node);
        let changes = &self.changes[range.clone()];
        if let Ok(own) = changes.binary_search_by(|(other, _)| other.cmp(&path)) {
            self.words[range.start + own] = Some(word);
            if changes.len() == 1 && changes[own].1 == Some(word) {
                return Err(Side::Known(at));
            }
            self.replaced.push(at.node.slot());
            return Ok(None);
        }
        if changes.iter().all(|(_, word)| word.is_none()) {
            return Err(Side::Known(at));
        }
        Ok(Some(path))
    }

    /// No old leaf under changes: `Err` when none or one comes, else two empty sides to fill.
    fn visit_empty(&mut self, range: &Range<usize>) -> Result<[Link; 2], Side> {
        let mut words = self.changes[range.clone()]
            .iter()
            .filter_map(|(path, word)| word.map(|word| (*path, word)));
        let Some((path, word)) = words.next() else {
            return Err(Side::Known(Link::EMPTY));
        };
        if words.next().is_some() {
            return Ok([Link::EMPTY; 2]);
        }
        let slot = self.take();
        self.leaves.push((self.arena.put_leaf(slot, &path, &word), path, word));
        Err(Side::Fresh(self.leaves.len() - 1))
    }

    fn ascend(&mut self, leaf_hashes: &[B256]) {
        while let Some(forks) = self.levels.pop() {
            for (fork, joined) in forks.iter().zip(self.join(&forks, leaf_hashes)) {
                if let Some(link) = joined {
                    self.deliver(fork.parent, Side::Known(link));
                }
            }
        }
    }

    /// What stands in the place of each fork of a level; `None` where nothing changed.
    fn join(&mut self, forks: &[Fork], leaf_hashes: &[B256]) -> Vec<Option<Link>> {
        let mut joined = vec![None; forks.len()];
        let mut branches: Vec<(usize, [Link; 2])> = Vec::with_capacity(forks.len());
        for (at, fork) in forks.iter().enumerate() {
            if fork.old != Node::EMPTY {
                if !fork.is_changed {
                    continue;
                }
                self.replaced.push(fork.old.slot());
            }
            let sides = fork.sides.map(|side| self.known(side, leaf_hashes));
            match lone(&sides) {
                Some(link) => joined[at] = Some(link),
                None => branches.push((at, sides)),
            }
        }
        let mut messages = [[0; 64]; BATCH];
        let mut hashes = [B256::ZERO; BATCH];
        for branches in branches.chunks(BATCH) {
            for (message, (_, [left, right])) in messages.iter_mut().zip(branches) {
                *message = message_of(&left.hash, &right.hash);
            }
            nodes(&messages[..branches.len()], Lanes::best(), &mut hashes[..branches.len()]);
            for ((at, [left, right]), hash) in branches.iter().zip(hashes) {
                let slot = self.take();
                joined[*at] = Some(Link { node: self.arena.put_branch(slot, [left, right]), hash });
            }
        }
        joined
    }

    fn hash_leaves(&self) -> Vec<B256> {
        let mut hashes = vec![B256::ZERO; self.leaves.len()];
        let mut messages = [[0; 64]; BATCH];
        for (fresh, hashes) in self.leaves.chunks(BATCH).zip(hashes.chunks_mut(BATCH)) {
            for (message, (_, path, word)) in messages.iter_mut().zip(fresh) {
                *message = message_of(&path.0, word);
            }
            leaves(&messages[..fresh.len()], Lanes::best(), hashes);
        }
        hashes
    }

    /// Hands a result to the fork above, in the last level there is.
    fn deliver(&mut self, to: Parent, side: Side) {
        match self.levels.last_mut() {
            Some(above) => above[to.fork].put(to.right, side),
            None => self.top = side,
        }
    }

    fn known(&self, side: Side, leaf_hashes: &[B256]) -> Link {
        match side {
            Side::Known(link) => link,
            Side::Fresh(at) => Link { node: self.leaves[at].0, hash: leaf_hashes[at] },
        }
    }

    fn take(&mut self) -> u32 {
        if self.slots.is_empty() {
            self.arena.take(SLOTS, &mut self.slots);
        }
        let slot = self.slots.pop().expect("taken above");
        self.fresh.push(slot);
        slot
    }
}

fn message_of(left: &B256, right: &B256) -> [u8; 64] {
    let mut message = [0; 64];
    message[..32].copy_from_slice(left.as_slice());
    message[32..].copy_from_slice(right.as_slice());
    message
}
