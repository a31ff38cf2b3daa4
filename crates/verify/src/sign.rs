//! secp256k1 signatures over digests, as the EVM checks them.
//!
//! `r ‖ s ‖ v`, 65 bytes, `v` 27 or 28, `s` in the lower half of the group order: so a signature has one form.
//! Signing is deterministic (RFC 6979), so signing again gives the same bytes.

use hyperion_primitives::{Address, B256, keccak256};
pub use k256::ecdsa::SigningKey;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 65;

/// Why a signature names no signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// `v` is neither 27 nor 28.
    #[error("the signature ends in v = {got}, want 27 or 28")]
    RecoveryByte {
        /// The byte found.
        got: u8,
    },
    /// `r` or `s` is zero or not below the group order.
    #[error("r or s of the signature is no scalar of secp256k1")]
    Scalar,
    /// `s` is above half the group order: the mirror image of the one form accepted.
    #[error("s of the signature is in the upper half, want its negative")]
    HighS,
    /// No public key gives this signature for this digest.
    #[error("no key gives this signature for this digest")]
    NoSigner,
}

/// Signs a digest.
///
/// # Panics
///
/// Never in practice: RFC 6979 would have to draw a nonce whose `r` or `s` is zero, one in 2^255.
pub fn sign(key: &SigningKey, digest: &B256) -> [u8; SIGNATURE_BYTES] {
    let (signature, recovery) = key
        .sign_prehash_recoverable(digest.as_slice())
        .expect("a nonce gives r and s other than zero");
    let mut bytes = [0; SIGNATURE_BYTES];
    bytes[..64].copy_from_slice(&signature.to_bytes());
    bytes[64] = 27 + recovery.to_byte();
    bytes
}

/// The address whose key signed a digest.
///
/// # Errors
///
/// When the bytes are not in the one form of a signature, or no key gives it.
pub fn recover(
    digest: &B256,
    signature: &[u8; SIGNATURE_BYTES],
) -> Result<Address, SignatureError> {
    let v = signature[64];
    let recovery = match v {
        27 => RecoveryId::new(false, false),
        28 => RecoveryId::new(true, false),
        got => return Err(SignatureError::RecoveryByte { got }),
    };
    let signature = Signature::from_slice(&signature[..64]).map_err(|_| SignatureError::Scalar)?;
    if signature.normalize_s().is_some() {
        return Err(SignatureError::HighS);
    }
    VerifyingKey::recover_from_prehash(digest.as_slice(), &signature, recovery)
        .map(|key| address_of(&key))
        .map_err(|_| SignatureError::NoSigner)
}

/// The address of a signing key.
pub fn address(key: &SigningKey) -> Address {
    address_of(key.verifying_key())
}

fn address_of(key: &VerifyingKey) -> Address {
    let point = key.to_encoded_point(false);
    Address::from_word(keccak256(&point.as_bytes()[1..]))
}
