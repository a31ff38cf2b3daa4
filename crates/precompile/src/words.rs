//! Arguments word by word, strictly: a value has one encoding, and everything else is `BadCalldata`.

use hyperion_primitives::{Address, B256, U256};
use hyperion_verify::abi::InferenceErrors as E;

use crate::plan::Stop;

/// Reads the static head of the arguments.
pub(crate) struct Words<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The argument that is being read, for `BadCalldata`.
    pub(crate) argument: u8,
}

pub(crate) fn bad(argument: u8) -> Stop {
    E::BadCalldata { argument }.into()
}

impl<'a> Words<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, argument: 0 }
    }

    pub(crate) fn word(&mut self) -> Result<B256, Stop> {
        let word = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<32>());
        let word = B256::new(*word.ok_or_else(|| bad(self.argument))?);
        self.at += 32;
        Ok(word)
    }

    /// An unsigned integer of at most this many bits.
    pub(crate) fn uint(&mut self, bits: usize) -> Result<u64, Stop> {
        let value = U256::from_be_bytes(self.word()?.0);
        if value.bit_len() > bits { Err(bad(self.argument)) } else { Ok(value.to()) }
    }

    pub(crate) fn address(&mut self) -> Result<Address, Stop> {
        let word = self.word()?;
        let (high, low) = word.split_at(12);
        if high.iter().any(|byte| *byte != 0) { Err(bad(self.argument)) } else { Ok(Address::from_slice(low)) }
    }

    /// A signed 32-bit integer, sign-extended.
    pub(crate) fn int32(&mut self) -> Result<i32, Stop> {
        let word = self.word()?;
        let value = i32::from_be_bytes(*word.last_chunk().expect("a word has 32 bytes"));
        let fill = if value < 0 { 0xff } else { 0 };
        if word[..28].iter().any(|byte| *byte != fill) { Err(bad(self.argument)) } else { Ok(value) }
    }

    /// Goes on with the next argument.
    pub(crate) const fn next(&mut self) {
        self.argument += 1;
    }

    /// The offset of a dynamic argument, which has exactly one right value.
    pub(crate) fn offset(&mut self, want: usize) -> Result<(), Stop> {
        let argument = self.argument;
        if self.uint(64)? == want as u64 { Ok(()) } else { Err(bad(argument)) }
    }

    /// The end of the arguments.
    pub(crate) fn end(&self) -> Result<(), Stop> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(bad(255)) }
    }
}

/// A `bytes` argument whose length word is at `at`: its length, once the arguments are exactly as long as it says.
pub(crate) fn tail_len(arguments: &[u8], at: usize, argument: u8) -> Result<usize, Stop> {
    let mut words = Words::new(arguments.get(at..).unwrap_or_default());
    words.argument = argument;
    let len = usize::try_from(words.uint(32)?).map_err(|_| bad(argument))?;
    let want = at + 32 + len.next_multiple_of(32);
    match arguments.len().cmp(&want) {
        std::cmp::Ordering::Less => Err(bad(argument)),
        std::cmp::Ordering::Equal => Ok(len),
        std::cmp::Ordering::Greater => Err(bad(255)),
    }
}

/// The bytes of such an argument; what fills its last word up is zero.
pub(crate) fn tail(arguments: &[u8], at: usize, len: usize) -> Result<&[u8], Stop> {
    let (bytes, fill) = arguments[at + 32..].split_at(len);
    if fill.iter().any(|byte| *byte != 0) { Err(bad(255)) } else { Ok(bytes) }
}
