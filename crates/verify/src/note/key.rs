use alloc::{borrow::ToOwned as _, string::String, vec::Vec};
use core::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::SignatureLine;

/// What a key signs; the byte that C2SP gives the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyKind {
    /// Ed25519 over the three lines: a log.
    Log = 1,
    /// Ed25519 over a time and the three lines: a witness.
    Witness = 4,
}

/// Why a key is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The name cannot stand in a signature line.
    #[error("the key name {got:?} is empty, or has a space, a control character or a plus")]
    Name {
        /// The name given.
        got: String,
    },
    /// The bytes are no point of the curve.
    #[error("the public key is no point of Ed25519")]
    Point,
    /// The text is not `name+hash+base64`.
    #[error("a verifier key reads name+8 hex digits+base64; got {got:?}")]
    Form {
        /// The text given.
        got: String,
    },
    /// The hash in the text is not the key's.
    #[error("the key's id is {got:02x?}, its text says {want:02x?}")]
    Id {
        /// The id of the key given.
        got: [u8; 4],
        /// The id in the text.
        want: [u8; 4],
    },
}

/// A public key under a name, as signature lines name it.
///
/// Its text form, read by [`FromStr`] and written by [`Display`](fmt::Display), is C2SP's verifier key:
/// `name+hex id+base64(kind ‖ public key)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    kind: KeyKind,
    public: VerifyingKey,
    id: [u8; 4],
}

impl NoteKey {
    /// A key from its name, kind and 32 public bytes.
    ///
    /// # Errors
    ///
    /// When the name is empty or has spaces, control characters or a plus, or the bytes are no point of the curve.
    pub fn new(name: &str, kind: KeyKind, public: &[u8; 32]) -> Result<Self, KeyError> {
        let public = VerifyingKey::from_bytes(public).map_err(|_| KeyError::Point)?;
        Self::of(name, kind, public)
    }

    fn of(name: &str, kind: KeyKind, public: VerifyingKey) -> Result<Self, KeyError> {
        if !is_key_name(name) {
            return Err(KeyError::Name { got: name.to_owned() });
        }
        let mut hasher = Sha256::new_with_prefix(name);
        hasher.update([b'\n', kind as u8]);
        hasher.update(public.as_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let id = *digest.first_chunk().expect("a digest has 32 bytes");
        Ok(Self { name: name.to_owned(), kind, public, id })
    }

    /// The name; a log's is its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the key signs.
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// `SHA-256(name ‖ 0x0A ‖ kind ‖ public key)[..4]`.
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The 32 public bytes.
    pub fn public(&self) -> &[u8; 32] {
        self.public.as_bytes()
    }

    /// Whether `line` names this key.
    pub fn wrote(&self, line: &SignatureLine) -> bool {
        line.name == self.name && line.key_id == self.id
    }

    /// Whether `signature` is this key's over `message`; small-order points and other malleable forms are refused.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.public.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [self.kind as u8; 33];
        bytes[1..].copy_from_slice(self.public.as_bytes());
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id), STANDARD.encode(bytes))
    }
}

impl FromStr for NoteKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let form = || KeyError::Form { got: text.to_owned() };
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(form());
        };
        let bytes: [u8; 33] =
            STANDARD.decode(key).ok().and_then(|b| b.try_into().ok()).ok_or_else(form)?;
        let kind = match bytes[0] {
            1 => KeyKind::Log,
            4 => KeyKind::Witness,
            _ => return Err(form()),
        };
        let lower = id.len() == 8 && id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let id = u32::from_str_radix(id, 16).ok().filter(|_| lower).ok_or_else(form)?;
        let key = Self::new(name, kind, bytes[1..].try_into().expect("33 less one"))?;
        let want = id.to_be_bytes();
        if key.id != want {
            return Err(KeyError::Id { got: key.id, want });
        }
        Ok(key)
    }
}

/// A secret key with its name. Ed25519 is deterministic, so signing again after a crash repeats the same bytes.
#[derive(Clone, Debug)]
pub struct NoteSigner {
    key: NoteKey,
    secret: SigningKey,
}

impl NoteSigner {
    /// A signer from its 32 secret bytes.
    ///
    /// # Errors
    ///
    /// When the name is empty or has spaces, control characters or a plus.
    pub fn new(name: &str, kind: KeyKind, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let secret = SigningKey::from_bytes(seed);
        Ok(Self { key: NoteKey::of(name, kind, secret.verifying_key())?, secret })
    }

    /// The public half.
    pub const fn key(&self) -> &NoteKey {
        &self.key
    }

    /// A signature line whose payload is `prefix` and the signature over `message`.
    pub(super) fn line(&self, prefix: &[u8], message: &[u8]) -> SignatureLine {
        let mut payload = Vec::from(prefix);
        payload.extend(self.secret.sign(message).to_bytes());
        SignatureLine { name: self.key.name.clone(), key_id: self.key.id, payload }
    }
}

/// Whether a name can stand in a signature line.
pub(super) fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}
