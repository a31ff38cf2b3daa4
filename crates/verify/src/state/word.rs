use super::Word;
use crate::{
    SignedClaim,
    bytes::{Fields, Writer},
};

/// Why a word is not what its namespace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// The version byte of an account.
    #[error("account word version {got}, want 1")]
    Version {
        /// The byte found.
        got: u8,
    },
    /// Bytes that are always zero are not.
    #[error("the word has bits set that mean nothing")]
    Reserved,
    /// A tier that is never state.
    #[error("tiers {got:#010b} of a claim word, want bits 1, 2, 4, 5 only")]
    Tiers {
        /// The byte found.
        got: u8,
    },
    /// The disproved flag.
    #[error("disproved is {got}, want 0 or 1")]
    Disproved {
        /// The byte found.
        got: u8,
    },
}

/// An account: `1 ‖ 4 zero ‖ code size u24 ‖ nonce u64 ‖ balance u128`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountWord {
    /// Bytes of its code, below 2^24.
    pub code_bytes: u32,
    /// Transactions sent.
    pub nonce: u64,
    /// In wei.
    pub balance: u128,
}

impl AccountWord {
    const VERSION: u8 = 1;

    /// The word.
    ///
    /// # Panics
    ///
    /// When the code has 2^24 bytes or more, which no chain allows.
    pub fn word(&self) -> Word {
        let [over, size @ ..] = self.code_bytes.to_be_bytes();
        assert_eq!(over, 0, "code of {} bytes", self.code_bytes);
        let mut word = Word::ZERO;
        Writer::new(&mut word.0)
            .put([Self::VERSION, 0, 0, 0, 0])
            .put(size)
            .put(self.nonce.to_be_bytes())
            .put(self.balance.to_be_bytes())
            .done();
        word
    }

    /// Reads an account's word.
    ///
    /// # Errors
    ///
    /// When it has another version or stray bits.
    pub fn from_word(word: &Word) -> Result<Self, WordError> {
        let mut fields = Fields::new(word.as_slice());
        let version = fields.u8();
        if version != Self::VERSION {
            return Err(WordError::Version { got: version });
        }
        if fields.u32() != 0 {
            return Err(WordError::Reserved);
        }
        let [high, middle, low] = fields.array();
        Ok(Self {
            code_bytes: u32::from_be_bytes([0, high, middle, low]),
            nonce: fields.u64(),
            balance: u128::from_be_bytes(fields.array()),
        })
    }
}

/// Where a claim stands: `tiers ‖ disproved ‖ 22 zero ‖ log index u64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimWord {
    /// Bit t is set once tier t is reached; t is 1, 2, 4 or 5.
    pub tiers: u8,
    /// Whether the claim was found wrong.
    pub disproved: bool,
    /// Its entry in the log.
    pub index: u64,
}

impl ClaimWord {
    /// Tiers that are ever state; 3 is an auditor's own verdict.
    const TIERS: u8 = 0b11_0110;

    /// The word of a claim just logged: tier 1 reached, or 5 when the block computed it itself.
    pub const fn logged(index: u64, of_block: bool) -> Self {
        Self { tiers: if of_block { 1 << 5 } else { 1 << 1 }, disproved: false, index }
    }

    /// The word of a claim just logged: as [`logged`](Self::logged) says, and no tier where the result is attested only.
    pub fn of(claim: &SignedClaim, index: u64) -> Self {
        if claim.is_attested_only() {
            Self { index, ..Self::default() }
        } else {
            Self::logged(index, claim.is_of_block())
        }
    }

    /// The highest tier reached; 0 when none is, as for what is attested only.
    pub const fn reached(&self) -> u8 {
        match self.tiers.checked_ilog2() {
            #[expect(clippy::cast_possible_truncation, reason = "7 at most")]
            Some(tier) => tier as u8,
            None => 0,
        }
    }

    /// The word.
    pub fn word(&self) -> Word {
        let mut word = Word::ZERO;
        word.0[0] = self.tiers;
        word.0[1] = self.disproved.into();
        word.0[24..].copy_from_slice(&self.index.to_be_bytes());
        word
    }

    /// Reads a claim's word.
    ///
    /// # Errors
    ///
    /// When a tier is set that is never state, the flag is neither 0 nor 1, or there are stray bits.
    pub fn from_word(word: &Word) -> Result<Self, WordError> {
        let mut fields = Fields::new(word.as_slice());
        let [tiers, disproved] = fields.array();
        if tiers & !Self::TIERS != 0 {
            return Err(WordError::Tiers { got: tiers });
        }
        if disproved > 1 {
            return Err(WordError::Disproved { got: disproved });
        }
        if fields.array() != [0; 22] {
            return Err(WordError::Reserved);
        }
        Ok(Self { tiers, disproved: disproved == 1, index: fields.u64() })
    }
}
