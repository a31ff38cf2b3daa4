use sha2::{Digest as _, Sha256};
use sha3::Keccak256;

use crate::{B256, TensorRoot};

/// keccak-256 of one byte string.
pub fn keccak256(bytes: impl AsRef<[u8]>) -> B256 {
    let mut hasher = Keccak::new();
    hasher.update(bytes.as_ref());
    hasher.finish()
}

/// SHA-256 of one byte string.
pub fn sha256(bytes: impl AsRef<[u8]>) -> B256 {
    B256::new(Sha256::digest(bytes.as_ref()).into())
}

/// keccak-256 of a preimage that is written piece by piece.
///
/// Integers go in big-endian, at the width of the method's name; `word` is the 32-byte big-endian form
/// that Solidity's `abi.encode` gives.
#[derive(Clone, Debug, Default)]
pub struct Keccak(Keccak256);

impl Keccak {
    /// An empty preimage.
    pub fn new() -> Self {
        Self::default()
    }

    /// A preimage that begins with `tag`.
    pub fn tagged(tag: &[u8]) -> Self {
        let mut hasher = Self::new();
        hasher.update(tag);
        hasher
    }

    /// Appends raw bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.update(bytes.as_ref());
        self
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.update([value])
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.update(value.to_be_bytes())
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.update(value.to_be_bytes())
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.update(value.to_be_bytes())
    }

    /// Appends a 32-byte word that holds `value`.
    pub fn word(&mut self, value: u64) -> &mut Self {
        self.update([0; 24]).u64(value)
    }

    /// Appends a 32-byte word that holds `value` in two's complement.
    pub fn signed_word(&mut self, value: i64) -> &mut Self {
        let fill = if value < 0 { 0xff } else { 0 };
        self.update([fill; 24]).update(value.to_be_bytes())
    }

    /// The digest of what was appended; the hasher is empty afterwards.
    pub fn finish(&mut self) -> B256 {
        B256::new(self.0.finalize_reset().into())
    }
}

/// `inputHash` of a run: `K("I1" ‖ word n ‖ root_0 …)`, roots in program order.
pub fn input_hash(roots: &[TensorRoot]) -> B256 {
    list_hash(b"I1", roots)
}

/// `outputHash` of a run: `K("O1" ‖ word n ‖ root_0 …)`, roots in program order.
pub fn output_hash(roots: &[TensorRoot]) -> B256 {
    list_hash(b"O1", roots)
}

fn list_hash(tag: &[u8], roots: &[TensorRoot]) -> B256 {
    let mut hasher = Keccak::tagged(tag);
    hasher.word(roots.len() as u64);
    for root in roots {
        hasher.update(root.0);
    }
    hasher.finish()
}
