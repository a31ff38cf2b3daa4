//! Checkpoints: what a log signs, and what witnesses sign again.
//!
//! The text is C2SP's signed note over a checkpoint, whole lines of UTF-8:
//!
//! ```text
//! origin                                                    the log's name
//! size                                                      decimal, no leading zero
//! base64(root)
//!
//! — name base64(key id ‖ signature)                         the log: Ed25519 over the three lines above
//! — name base64(key id ‖ u64 time ‖ signature)              a witness: over "cosignature/v1\ntime <t>\n" and those lines
//! ```
//!
//! Lines of keys that nobody here knows are kept as they are and not judged.

mod key;

use alloc::{borrow::ToOwned as _, format, string::String, vec::Vec};
use core::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyperion_primitives::B256;
use key::is_key_name;
pub use key::{KeyError, KeyKind, NoteKey, NoteSigner};

use crate::log::LogHash;

/// Most bytes of a signed note.
pub const NOTE_BYTES_MAX: usize = 96 * 1024;

/// A log's size and root, under the log's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Entries covered.
    pub size: u64,
    /// Root over them.
    pub root: LogHash,
}

/// Why text is no signed checkpoint, or not signed by whom it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than any note is.
    #[error("the note has {got} bytes, want {NOTE_BYTES_MAX} at most")]
    Length {
        /// The bytes given.
        got: usize,
    },
    /// A line is not what stands there.
    #[error("line {line} of the note is no {want}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What belongs there.
        want: &'static str,
    },
    /// The key signs other things.
    #[error("{name} is no {want:?} key")]
    Kind {
        /// The key's name.
        name: String,
        /// The kind needed here.
        want: KeyKind,
    },
    /// Another log's checkpoint.
    #[error("the checkpoint is of {got}, want {want}")]
    Origin {
        /// The checkpoint's origin.
        got: String,
        /// The log's name.
        want: String,
    },
    /// No line by the key.
    #[error("{name} has not signed this checkpoint")]
    Unsigned {
        /// The key's name.
        name: String,
    },
    /// The key's line does not verify.
    #[error("the signature of {name} on this checkpoint is wrong")]
    Signature {
        /// The key's name.
        name: String,
    },
}

impl Checkpoint {
    /// The three lines that are signed.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Reads the three lines.
    ///
    /// # Errors
    ///
    /// When they are not exactly three whole lines of a checkpoint.
    pub fn parse(body: &str) -> Result<Self, NoteError> {
        let mut lines = Lines::new(body);
        let checkpoint = Self::read(&mut lines)?;
        lines.end().map(|()| checkpoint)
    }

    fn read(lines: &mut Lines<'_>) -> Result<Self, NoteError> {
        let origin = lines.next("origin", |line| {
            let plain = !line.is_empty() && !line.chars().any(char::is_control);
            plain.then(|| line.to_owned())
        })?;
        let size = lines.next("size", decimal)?;
        let root = lines.next("base64 of a root", hash)?;
        Ok(Self { origin, size, root })
    }

    /// The checkpoint with the log's signature under it.
    pub fn sign(self, signer: &NoteSigner) -> SignedNote {
        let line = signer.line(&[], self.body().as_bytes());
        SignedNote { checkpoint: self, signatures: Vec::from([line]) }
    }
}

/// One line under a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLine {
    /// Name of the key.
    pub name: String,
    /// [`NoteKey::id`] of the key.
    pub key_id: [u8; 4],
    /// What follows the id: a signature, behind a time in a witness's line. Not empty.
    pub payload: Vec<u8>,
}

impl SignatureLine {
    fn read(line: &str) -> Option<Self> {
        let (name, base64) = line.strip_prefix("— ")?.split_once(' ')?;
        let bytes = STANDARD.decode(base64).ok()?;
        let (key_id, payload) = bytes.split_first_chunk()?;
        let whole = is_key_name(name) && !payload.is_empty();
        whole.then(|| Self { name: name.to_owned(), key_id: *key_id, payload: payload.to_vec() })
    }
}

impl fmt::Display for SignatureLine {
    /// The line, with its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::from(self.key_id);
        bytes.extend(&self.payload);
        writeln!(f, "— {} {}", self.name, STANDARD.encode(bytes))
    }
}

/// A checkpoint with the signatures under it.
///
/// [`FromStr`] accepts exactly the texts that [`Display`](fmt::Display) writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    /// What is signed.
    pub checkpoint: Checkpoint,
    /// One line or more; the log's first, as a rule.
    pub signatures: Vec<SignatureLine>,
}

impl SignedNote {
    /// Accepts the note as the log's.
    ///
    /// # Errors
    ///
    /// When the key is no log's, the checkpoint is of another log, or the log's line is missing or wrong.
    pub fn verify(&self, log: &NoteKey) -> Result<(), NoteError> {
        require(log, KeyKind::Log)?;
        if self.checkpoint.origin != log.name() {
            let (got, want) = (self.checkpoint.origin.clone(), log.name().to_owned());
            return Err(NoteError::Origin { got, want });
        }
        let payload = self.payload_of(log)?;
        let body = self.checkpoint.body();
        let signed =
            payload.try_into().is_ok_and(|signature| log.signed(body.as_bytes(), signature));
        if signed { Ok(()) } else { Err(wrong(log)) }
    }

    /// The Unix second at which a witness saw this checkpoint extend all it had seen before.
    ///
    /// # Errors
    ///
    /// When the key is no witness's, or its line is missing or wrong.
    pub fn cosigned_at(&self, witness: &NoteKey) -> Result<u64, NoteError> {
        require(witness, KeyKind::Witness)?;
        let (time, signature) =
            self.payload_of(witness)?.split_first_chunk().ok_or_else(|| wrong(witness))?;
        let time = u64::from_be_bytes(*time);
        let message = self.cosigned_text(time);
        let signed =
            signature.try_into().is_ok_and(|bytes| witness.signed(message.as_bytes(), bytes));
        if signed { Ok(time) } else { Err(wrong(witness)) }
    }

    /// Appends a witness's line.
    pub fn cosign(&mut self, witness: &NoteSigner, time_s: u64) {
        let message = self.cosigned_text(time_s);
        self.signatures.push(witness.line(&time_s.to_be_bytes(), message.as_bytes()));
    }

    fn cosigned_text(&self, time_s: u64) -> String {
        format!("cosignature/v1\ntime {time_s}\n{}", self.checkpoint.body())
    }

    /// Payload of the first line that names the key.
    fn payload_of(&self, key: &NoteKey) -> Result<&[u8], NoteError> {
        let line = self.signatures.iter().find(|line| key.wrote(line));
        Ok(&line.ok_or_else(|| NoteError::Unsigned { name: key.name().to_owned() })?.payload)
    }

    /// Reads a note that ends where the text does.
    pub(crate) fn read(lines: &mut Lines<'_>) -> Result<Self, NoteError> {
        let checkpoint = Checkpoint::read(lines)?;
        lines.next("blank line", |line| line.is_empty().then_some(()))?;
        let mut signatures = Vec::new();
        while signatures.is_empty() || !lines.is_empty() {
            signatures.push(lines.next("signature line", SignatureLine::read)?);
        }
        Ok(Self { checkpoint, signatures })
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.checkpoint.body())?;
        self.signatures.iter().try_for_each(|line| line.fmt(f))
    }
}

impl FromStr for SignedNote {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Length { got: text.len() });
        }
        Self::read(&mut Lines::new(text))
    }
}

fn require(key: &NoteKey, want: KeyKind) -> Result<(), NoteError> {
    if key.kind() == want {
        return Ok(());
    }
    Err(NoteError::Kind { name: key.name().to_owned(), want })
}

fn wrong(key: &NoteKey) -> NoteError {
    NoteError::Signature { name: key.name().to_owned() }
}

/// Whole lines of a text, read one after the other.
pub(crate) struct Lines<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lines<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1 }
    }

    const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes a line, newline included, if `read` accepts it.
    pub(crate) fn next<T>(
        &mut self,
        want: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, NoteError> {
        let error = NoteError::Line { line: self.line, want };
        let (line, rest) = self.rest.split_once('\n').ok_or_else(|| error.clone())?;
        let value = read(line).ok_or(error)?;
        self.rest = rest;
        self.line += 1;
        Ok(value)
    }

    /// Takes lines, `max` at most, while `read` accepts them.
    pub(crate) fn take_while<T>(
        &mut self,
        max: usize,
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Vec<T> {
        core::iter::from_fn(|| self.next("", &read).ok()).take(max).collect()
    }

    const fn end(&self) -> Result<(), NoteError> {
        if self.is_empty() {
            return Ok(());
        }
        Err(NoteError::Line { line: self.line, want: "line of it; the note ends before" })
    }
}

/// A number in its one decimal form.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let digits =
        text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| digits)
}

/// Base64 of 32 bytes.
pub(crate) fn hash(text: &str) -> Option<B256> {
    Some(B256::new(STANDARD.decode(text).ok()?.try_into().ok()?))
}
