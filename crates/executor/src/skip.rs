//! Why a transaction of a block is not executed.

use revm::context::result::InvalidTransaction;

/// Why a transaction of a block has no effect at all: no gas, no nonce, no receipt.
///
/// Whoever orders a block's bytes need not execute them, so a block may hold what cannot run. The numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum SkipReason {
    /// The bytes are no transaction.
    Decode = 1,
    /// The signature is malformed, in its upper half, or nobody's.
    Signature = 2,
    /// It names another chain, or none.
    ChainId = 3,
    /// Its nonce is used.
    NonceTooLow = 4,
    /// Nonces before it are missing.
    NonceTooHigh = 5,
    /// The sender cannot pay for all that it allows.
    InsufficientFunds = 6,
    /// Its gas does not cover what it costs before it begins.
    IntrinsicGas = 7,
    /// It asks for more gas than one transaction may.
    GasLimitCap = 8,
    /// It pays less than the block burns.
    FeeBelowBase = 9,
    /// Its tip is higher than its fee.
    TipAboveFee = 10,
    /// What it may use does not fit the block any more.
    BlockGas = 11,
    /// Its sender is a contract.
    SenderHasCode = 12,
    /// A type that the chain does not take.
    UnsupportedType = 13,
    /// The code it creates a contract with is too long.
    InitcodeSize = 14,
    /// Its list of authorizations is empty or malformed.
    AuthorizationList = 15,
    /// Its price times gas, or its cost, leaves 256 bits.
    FeeOverflow = 16,
    /// The sender's nonce is the last one.
    NonceOverflow = 17,
    /// What no reason above names.
    Other = 99,
}

impl SkipReason {
    /// The stable number.
    pub const fn code(self) -> u16 {
        self as u16
    }
}

impl From<&InvalidTransaction> for SkipReason {
    fn from(invalid: &InvalidTransaction) -> Self {
        use InvalidTransaction as Invalid;
        match invalid {
            Invalid::InvalidChainId | Invalid::MissingChainId => Self::ChainId,
            Invalid::NonceTooLow { .. } => Self::NonceTooLow,
            Invalid::NonceTooHigh { .. } => Self::NonceTooHigh,
            Invalid::LackOfFundForMaxFee { .. } => Self::InsufficientFunds,
            Invalid::CallGasCostMoreThanGasLimit { .. }
            | Invalid::GasFloorMoreThanGasLimit { .. } => Self::IntrinsicGas,
            Invalid::TxGasLimitGreaterThanCap { .. } => Self::GasLimitCap,
            Invalid::GasPriceLessThanBasefee => Self::FeeBelowBase,
            Invalid::PriorityFeeGreaterThanMaxFee => Self::TipAboveFee,
            Invalid::CallerGasLimitMoreThanBlock => Self::BlockGas,
            Invalid::RejectCallerWithCode => Self::SenderHasCode,
            Invalid::CreateInitCodeSizeLimit => Self::InitcodeSize,
            Invalid::AuthorizationListInvalidFields | Invalid::EmptyAuthorizationList => {
                Self::AuthorizationList
            }
            Invalid::OverflowPaymentInTransaction => Self::FeeOverflow,
            Invalid::NonceOverflowInTransaction => Self::NonceOverflow,
            Invalid::AccessListNotSupported
            | Invalid::MaxFeePerBlobGasNotSupported
            | Invalid::BlobVersionedHashesNotSupported
            | Invalid::BlobGasPriceGreaterThanMax { .. }
            | Invalid::EmptyBlobs
            | Invalid::BlobCreateTransaction
            | Invalid::TooManyBlobs { .. }
            | Invalid::BlobVersionNotSupported
            | Invalid::AuthorizationListNotSupported
            | Invalid::Eip2930NotSupported
            | Invalid::Eip1559NotSupported
            | Invalid::Eip4844NotSupported
            | Invalid::Eip7702NotSupported
            | Invalid::Eip7873NotSupported
            | Invalid::Eip7873MissingTarget => Self::UnsupportedType,
            Invalid::Str(_) => Self::Other,
        }
    }
}
