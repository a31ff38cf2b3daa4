//! Proofs from single nodes instead of all leaves: RFC 6962's `PATH` and `PROOF` over any node lookup.

use hyperion_verify::log::{LogHash, node_hash};

/// Looks up the root of a complete subtree of 2^height entries by its number.
pub(crate) trait Nodes<E>: FnMut(u32, u64) -> Result<LogHash, E> {}
impl<E, F: FnMut(u32, u64) -> Result<LogHash, E>> Nodes<E> for F {}

/// Root of the entries from `from` to before `to`, which begin where a subtree of that size may begin.
pub(crate) fn subtree_root<E>(from: u64, to: u64, node: &mut impl Nodes<E>) -> Result<LogHash, E> {
    let len = to - from;
    if len.is_power_of_two() {
        let height = len.trailing_zeros();
        return node(height, from >> height);
    }
    let middle = from + split(len);
    let left = subtree_root(from, middle, node)?;
    let right = subtree_root(middle, to, node)?;
    Ok(node_hash(&left, &right))
}

/// The complete subtrees that make up a log of `size` entries, largest first.
pub(crate) fn peaks<E>(size: u64, node: &mut impl Nodes<E>) -> Result<Vec<LogHash>, E> {
    let heights = (0..u64::BITS).rev().filter(|height| size >> height & 1 == 1);
    heights.map(|height| node(height, (size >> height) - 1)).collect()
}

/// `PATH(index, D[size])`, leaf side first; `index < size`.
pub(crate) fn inclusion<E>(
    index: u64,
    size: u64,
    node: &mut impl Nodes<E>,
) -> Result<Vec<LogHash>, E> {
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(subtree_root(middle, to, node)?);
            to = middle;
        } else {
            path.push(subtree_root(from, middle, node)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// `PROOF(old, D[new])`; empty for an `old` of 0; `old <= new`.
pub(crate) fn consistency<E>(
    old: u64,
    new: u64,
    node: &mut impl Nodes<E>,
) -> Result<Vec<LogHash>, E> {
    let (mut from, mut to) = (0, new);
    let mut proof = Vec::new();
    if old == 0 || old == new {
        return Ok(proof);
    }
    while old != to {
        let middle = from + split(to - from);
        if old <= middle {
            proof.push(subtree_root(middle, to, node)?);
            to = middle;
        } else {
            proof.push(subtree_root(from, middle, node)?);
            from = middle;
        }
    }
    // The older tree's last subtree is its own root only when it is the whole older tree.
    if from != 0 {
        proof.push(subtree_root(from, to, node)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The largest power of two below `len`, which is 2 or more.
const fn split(len: u64) -> u64 {
    1 << (len - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyperion_verify::log::{consistency_proof, inclusion_proof, leaf_hash, root_of};

    use super::*;

    #[test]
    fn every_proof_up_to_130_entries_equals_the_definition() {
        let leaves: Vec<LogHash> = (0..130u8).map(|i| leaf_hash(&[i])).collect();
        let mut node = |height: u32, index: u64| {
            let from = (index << height) as usize;
            Ok::<_, Infallible>(root_of(&leaves[from..from + (1 << height)]))
        };
        for new in 1..=leaves.len() {
            let tree = &leaves[..new];
            assert_eq!(subtree_root(0, new as u64, &mut node), Ok(root_of(tree)));
            for index in 0..new {
                let got = inclusion(index as u64, new as u64, &mut node).unwrap();
                assert_eq!(Some(got), inclusion_proof(index, tree), "leaf {index} of {new}");
            }
            for old in 0..=new {
                let got = consistency(old as u64, new as u64, &mut node).unwrap();
                assert_eq!(Some(got), consistency_proof(old, tree), "{old} to {new}");
            }
        }
    }
}
