//! Keys of the tables. All are big-endian, so byte order is number order.

use hyperion_verify::log::LogHash;

/// A height's commit record (part 0) and its diff chunks (from part 1).
pub(crate) fn block(height: u64, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&height.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// Height and part of a key of `block`; `None` for another length.
pub(crate) fn read_block(key: &[u8]) -> Option<(u64, u32)> {
    let (height, part) = key.split_first_chunk()?;
    Some((u64::from_be_bytes(*height), u32::from_be_bytes(part.try_into().ok()?)))
}

/// A run: level in the first byte, number in the other seven.
pub(crate) fn run(level: u8, n: u64) -> [u8; 8] {
    (u64::from(level) << 56 | n).to_be_bytes()
}

/// An index or size.
pub(crate) const fn number(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

/// The number a key holds; `None` for another length.
pub(crate) fn read_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// A part of the leaves that height 0 began with.
pub(crate) const fn genesis(part: u32) -> [u8; 4] {
    part.to_be_bytes()
}

/// The hash at place `at` of a run or tile value; `None` beyond it.
pub(crate) fn hash_at(bytes: &[u8], at: usize) -> Option<LogHash> {
    Some(LogHash::from_slice(bytes.get(at * 32..at * 32 + 32)?))
}
