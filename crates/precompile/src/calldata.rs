//! Calldata read as words, in the one encoding that Solidity produces.
//!
//! Offsets are not followed but compared: in the canonical encoding each dynamic argument starts where the one before
//! it ends. [`Arguments`] reads the header (fixed words, offsets, lengths); [`Arguments::exactly`] and
//! [`Arguments::bytes`] accept the rest. Together they take exactly the bytes that decoding and encoding again gives back,
//! which a test holds them to.

use hyperion_primitives::{Address, B256};

use crate::refusal::{Refusal, WHOLE, bad_calldata};

/// Bytes of a word.
const WORD: usize = 32;

/// The words behind the selector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments<'a>(&'a [u8]);

/// Where the bytes of a dynamic argument lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    /// First word of the bytes.
    start: usize,
    /// Bytes, padding not counted.
    pub(crate) len: usize,
}

impl Tail {
    /// The first word after the padding.
    pub(crate) const fn end(&self) -> usize {
        self.start + self.len.div_ceil(WORD)
    }
}

impl<'a> Arguments<'a> {
    /// The bytes after the selector.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Word `at`, which belongs to `argument`.
    pub(crate) fn word(&self, at: usize, argument: u8) -> Result<B256, Refusal> {
        let (words, _) = self.0.as_chunks::<WORD>();
        words.get(at).map(B256::from).ok_or(bad_calldata(argument))
    }

    fn uint<const N: usize>(&self, at: usize, argument: u8) -> Result<[u8; N], Refusal> {
        let word = self.word(at, argument)?;
        let (fill, value) = word.split_at(WORD - N);
        if fill.iter().any(|byte| *byte != 0) {
            return Err(bad_calldata(argument));
        }
        Ok(value.try_into().expect("N bytes are left"))
    }

    pub(crate) fn u8(&self, at: usize, argument: u8) -> Result<u8, Refusal> {
        self.uint(at, argument).map(u8::from_be_bytes)
    }

    pub(crate) fn u32(&self, at: usize, argument: u8) -> Result<u32, Refusal> {
        self.uint(at, argument).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&self, at: usize, argument: u8) -> Result<u64, Refusal> {
        self.uint(at, argument).map(u64::from_be_bytes)
    }

    pub(crate) fn address(&self, at: usize, argument: u8) -> Result<Address, Refusal> {
        self.uint::<20>(at, argument).map(Address::from)
    }

    pub(crate) fn i32(&self, at: usize, argument: u8) -> Result<i32, Refusal> {
        let word = self.word(at, argument)?;
        let (fill, value) = word.split_at(WORD - 4);
        let value = i32::from_be_bytes(value.try_into().expect("4 bytes are left"));
        let sign = if value < 0 { 0xff } else { 0 };
        if fill.iter().any(|byte| *byte != sign) {
            return Err(bad_calldata(argument));
        }
        Ok(value)
    }

    /// Accepts word `at` as the offset of word `start`, counted from word `base`.
    pub(crate) fn offset(
        &self,
        at: usize,
        argument: u8,
        base: usize,
        start: usize,
    ) -> Result<(), Refusal> {
        let want = WORD * (start - base);
        if self.u64(at, argument)? != want as u64 {
            return Err(bad_calldata(argument));
        }
        Ok(())
    }

    /// A length in word `at`, followed by that many units of `unit` bytes, all of them there.
    pub(crate) fn tail(&self, at: usize, argument: u8, unit: usize) -> Result<Tail, Refusal> {
        let count = self.u64(at, argument)?;
        let start = at + 1;
        let room = self.0.len().saturating_sub(WORD * start);
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(unit));
        let len = len.filter(|len| *len <= room).ok_or(bad_calldata(argument))?;
        Ok(Tail { start, len })
    }

    /// Accepts a whole of exactly `words` words.
    pub(crate) fn exactly(&self, words: usize) -> Result<(), Refusal> {
        if self.0.len() == WORD * words { Ok(()) } else { Err(bad_calldata(WHOLE)) }
    }

    /// The bytes of a tail whose padding is there and zero.
    pub(crate) fn bytes(&self, tail: Tail) -> Result<&'a [u8], Refusal> {
        let padded = self.0.get(WORD * tail.start..WORD * tail.end()).ok_or(bad_calldata(WHOLE))?;
        let (bytes, padding) = padded.split_at(tail.len);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(bad_calldata(WHOLE));
        }
        Ok(bytes)
    }

    /// The words of a tail counted in words.
    pub(crate) fn words(&self, tail: Tail) -> Result<Vec<B256>, Refusal> {
        let (words, _) = self.bytes(tail)?.as_chunks::<WORD>();
        Ok(words.iter().map(B256::from).collect())
    }
}

/// Small damage to calldata, for the tests of the readers.
#[cfg(test)]
pub(crate) mod mutation {
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    pub(crate) enum Edit {
        /// Adds to the byte at a place, counted round the end.
        Add(usize, u8),
        /// Cuts the end off.
        Cut(usize),
        /// Appends a byte a few times.
        Extend(u8, usize),
        /// Puts a number into a word.
        Word(usize, u64),
    }

    impl Edit {
        pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
            match *self {
                Self::Add(at, by) if !bytes.is_empty() => {
                    let at = at % bytes.len();
                    bytes[at] = bytes[at].wrapping_add(by);
                }
                Self::Word(at, value) if bytes.len() >= 32 => {
                    let start = 32 * (at % (bytes.len() / 32));
                    bytes[start..start + 24].fill(0);
                    bytes[start + 24..start + 32].copy_from_slice(&value.to_be_bytes());
                }
                Self::Cut(by) => bytes.truncate(bytes.len().saturating_sub(by)),
                Self::Extend(byte, times) => bytes.extend(std::iter::repeat_n(byte, times)),
                Self::Add(..) | Self::Word(..) => {}
            }
        }
    }

    /// One to three edits.
    pub(crate) fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let small = prop_oneof![0..200_u64, (0..20_u64).prop_map(|words| 32 * words), any::<u64>()];
        let edit = prop_oneof![
            4 => (any::<usize>(), 1..=255_u8).prop_map(|(at, by)| Edit::Add(at, by)),
            1 => (1..70_usize).prop_map(Edit::Cut),
            1 => (any::<u8>(), 1..70_usize).prop_map(|(byte, times)| Edit::Extend(byte, times)),
            4 => (any::<usize>(), small).prop_map(|(at, value)| Edit::Word(at, value)),
        ];
        prop::collection::vec(edit, 1..=3)
    }
}
