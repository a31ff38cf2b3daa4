//! keccak-256 of many messages of one length.
//!
//! A tree hashes thousands of messages that do not depend on each other, so a CPU with wide registers runs the permutation
//! on four of them at once ([`Lanes`]). One message after the other is the definition; the lanes equal it.

#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod avx2;

use alloc::vec::Vec;

use crate::{B256, keccak256};

/// A way of hashing many messages; holding one is the permission to use its instructions.
#[derive(Clone, Copy, Debug)]
pub struct Lanes(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Portable,
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    Avx2(avx2::Avx2),
}

impl Lanes {
    /// One message after the other, on any CPU.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// The fastest way this CPU has. Without the feature `std` nothing is known of the CPU.
    pub fn best() -> Self {
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        if let Some(avx2) = avx2::Avx2::detect() {
            return Self(Kind::Avx2(avx2));
        }
        Self::PORTABLE
    }

    /// Every way this CPU has, for tests that compare them.
    pub fn available() -> Vec<Self> {
        let best = Self::best();
        if best.name() == Self::PORTABLE.name() {
            [best].into()
        } else {
            [Self::PORTABLE, best].into()
        }
    }

    /// Lower-case name, as tests print it.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx2(_) => "avx2",
        }
    }

    /// Writes the keccak-256 of message i to `out[i]`.
    ///
    /// # Panics
    ///
    /// When there is not one place in `out` per message.
    pub fn hash<const N: usize>(self, messages: &[[u8; N]], out: &mut [B256]) {
        assert_eq!(messages.len(), out.len(), "one place per message");
        match self.0 {
            Kind::Portable => one_by_one(messages, out),
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx2(avx2) => {
                let (fours, rest) = messages.as_chunks::<4>();
                let (hashed, last) = out.split_at_mut(4 * fours.len());
                for (four, out) in fours.iter().zip(hashed.as_chunks_mut::<4>().0) {
                    *out = avx2.hash4(four.each_ref().map(<[u8; N]>::as_slice));
                }
                // Two lanes of four are already faster than two messages one by one.
                match rest {
                    [] | [_] => one_by_one(rest, last),
                    [first, ..] => {
                        let lane = |i| rest.get(i).unwrap_or(first).as_slice();
                        let hashes = avx2.hash4(core::array::from_fn(lane));
                        last.copy_from_slice(&hashes[..rest.len()]);
                    }
                }
            }
        }
    }
}

fn one_by_one<const N: usize>(messages: &[[u8; N]], out: &mut [B256]) {
    for (message, out) in messages.iter().zip(out) {
        *out = keccak256(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mix;

    /// All counts to three rounds of four, so that every remainder occurs, with different bytes in every lane.
    fn every_way_equals_the_definition<const N: usize>() {
        let mut mix = Mix::new(N as u64);
        let messages: Vec<[u8; N]> =
            (0..13).map(|_| core::array::from_fn(|_| mix.u64().to_le_bytes()[0])).collect();
        let want: Vec<B256> = messages.iter().map(keccak256).collect();
        for lanes in Lanes::available() {
            for count in 0..=messages.len() {
                let mut out = alloc::vec![B256::ZERO; count];
                lanes.hash(&messages[..count], &mut out);
                assert_eq!(out, want[..count], "{} x {N} bytes, {}", count, lanes.name());
            }
        }
    }

    #[test]
    fn lanes_equal_one_message_after_the_other() {
        if Lanes::available().len() == 1 {
            println!("skipped: no AVX2, nothing but the definition to compare");
        }
        every_way_equals_the_definition::<0>();
        every_way_equals_the_definition::<1>();
        every_way_equals_the_definition::<64>();
        every_way_equals_the_definition::<65>();
        // One byte before, at and behind the end of a block, where the padding folds into one byte or opens a new block.
        every_way_equals_the_definition::<134>();
        every_way_equals_the_definition::<135>();
        every_way_equals_the_definition::<136>();
        every_way_equals_the_definition::<137>();
        every_way_equals_the_definition::<271>();
        every_way_equals_the_definition::<272>();
        every_way_equals_the_definition::<1036>();
    }
}
