//! The keccak tree shared by tensor roots, tensor tables and claim batches.
//!
//! `node = K(0x01 ‖ left ‖ right)`; nodes are paired level by level and an odd last node moves up
//! unchanged, which is the shape of an RFC 6962 tree. Leaves carry their own `0x00` tag.

use alloc::vec::Vec;

use crate::{B256, Keccak, keccak::Lanes};

/// Tag, left and right.
const NODE_BYTES: usize = 65;

/// Hash of an inner node.
pub fn node(left: &B256, right: &B256) -> B256 {
    let mut bytes = [1; NODE_BYTES];
    bytes[1..33].copy_from_slice(left.as_slice());
    bytes[33..].copy_from_slice(right.as_slice());
    Keccak::tagged(&bytes).finish()
}

/// Root over leaf hashes; `None` without leaves.
pub fn root(leaves: impl IntoIterator<Item = B256>) -> Option<B256> {
    let mut tree = Frontier::default();
    leaves.into_iter().for_each(|leaf| tree.push(leaf));
    tree.root()
}

/// Root over leaf hashes at hand, many nodes at a time; `None` without leaves.
pub fn root_of(mut level: Vec<B256>, lanes: Lanes) -> Option<B256> {
    const BATCH: usize = 32;
    let mut pairs = [[1; NODE_BYTES]; BATCH];
    let mut nodes = [B256::ZERO; BATCH];
    while level.len() > 1 {
        let (whole, lone) = (level.len() / 2, level.len() % 2);
        for first in (0..whole).step_by(BATCH) {
            let count = BATCH.min(whole - first);
            for (pair, at) in pairs[..count].iter_mut().zip(first..) {
                pair[1..33].copy_from_slice(level[2 * at].as_slice());
                pair[33..].copy_from_slice(level[2 * at + 1].as_slice());
            }
            lanes.hash(&pairs[..count], &mut nodes[..count]);
            level[first..first + count].copy_from_slice(&nodes[..count]);
        }
        if lone == 1 {
            level[whole] = level[2 * whole];
        }
        level.truncate(whole + lone);
    }
    level.pop()
}

/// Siblings of leaf `index`, leaf side first; `None` when the index is outside.
///
/// Where a node moves up unchanged there is no sibling, so a path may be shorter than the tree is high.
pub fn path(leaves: &[B256], index: usize) -> Option<Vec<B256>> {
    let mut level = leaves.to_vec();
    let mut at = index;
    let mut siblings = Vec::new();
    if index >= level.len() {
        return None;
    }
    while level.len() > 1 {
        if let Some(sibling) = level.get(at ^ 1) {
            siblings.push(*sibling);
        }
        level = level
            .chunks(2)
            .map(|pair| if let [left, right] = pair { node(left, right) } else { pair[0] })
            .collect();
        at /= 2;
    }
    Some(siblings)
}

/// Root that leaf `index` of `count` leaves and its path lead to; `None` when the path's length is not
/// the one that index and count call for.
pub fn root_from_path(leaf: B256, index: u64, count: u64, path: &[B256]) -> Option<B256> {
    if index >= count {
        return None;
    }
    let (mut at, mut last, mut hash) = (index, count - 1, leaf);
    let mut siblings = path.iter();
    while last > 0 {
        if at % 2 == 1 {
            hash = node(siblings.next()?, &hash);
        } else if at < last {
            hash = node(&hash, siblings.next()?);
        }
        at /= 2;
        last /= 2;
    }
    siblings.next().is_none().then_some(hash)
}

/// A tree under construction: one complete subtree per set bit of the leaf count.
#[derive(Clone, Debug, Default)]
pub struct Frontier {
    count: u64,
    subtrees: Vec<B256>,
}

impl Frontier {
    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: B256) {
        let mut hash = leaf;
        let mut count = self.count;
        while count % 2 == 1 {
            let left = self.subtrees.pop().expect("one subtree per set bit of the count");
            hash = node(&left, &hash);
            count /= 2;
        }
        self.subtrees.push(hash);
        self.count += 1;
    }

    /// Leaves so far.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Root over the leaves so far; `None` without leaves.
    pub fn root(&self) -> Option<B256> {
        let mut smaller = self.subtrees.iter().rev();
        let last = *smaller.next()?;
        Some(smaller.fold(last, |right, left| node(left, &right)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<B256> {
        (0..count).map(|i| crate::keccak256([i])).collect()
    }

    /// Pairing level by level, as the specification words it.
    fn by_levels(mut level: Vec<B256>) -> B256 {
        while level.len() > 1 {
            level = level
                .chunks(2)
                .map(|pair| if pair.len() == 2 { node(&pair[0], &pair[1]) } else { pair[0] })
                .collect();
        }
        level[0]
    }

    #[test]
    fn the_frontier_equals_pairing_level_by_level() {
        for count in 1..70 {
            let want = Some(by_levels(leaves(count)));
            assert_eq!(root(leaves(count)), want, "{count} leaves");
            for lanes in Lanes::available() {
                assert_eq!(root_of(leaves(count), lanes), want, "{count} leaves, {}", lanes.name());
            }
        }
        assert_eq!(root([]), None);
        assert_eq!(root_of(Vec::new(), Lanes::PORTABLE), None);
    }

    #[test]
    fn a_path_leads_to_the_root_and_only_at_its_own_length() {
        for count in 1..34 {
            let leaves = leaves(count);
            let want = root(leaves.clone());
            for (index, leaf) in leaves.iter().enumerate() {
                let mut siblings = path(&leaves, index).unwrap();
                let check =
                    |path: &[B256]| root_from_path(*leaf, index as u64, u64::from(count), path);
                assert_eq!(check(&siblings), want);
                siblings.push(B256::ZERO);
                assert_eq!(check(&siblings), None, "one sibling too many");
                siblings.truncate(siblings.len().saturating_sub(2));
                assert!(count == 1 || check(&siblings) != want, "one sibling short");
            }
            assert_eq!(path(&leaves, leaves.len()), None);
        }
    }
}
