use alloy_consensus::{
    EthereumTxEnvelope, Transaction as _, TxEip4844, transaction::SignerRecoverable as _,
};
use alloy_eips::eip2718::Decodable2718 as _;
use revm::{
    context::{TxEnv, either::Either},
    primitives::B256,
};

use crate::SkipReason;

/// A transaction with its sender recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tx {
    /// What revm runs.
    pub env: TxEnv,
    /// keccak-256 of the signed bytes.
    pub hash: B256,
}

/// A transaction as a block holds it: executable, or refused before execution.
pub type Candidate = Result<Tx, SkipReason>;

/// EIP-4844's type byte: blobs, which the chain does not carry.
const BLOB_TYPE: u8 = 3;
/// The highest type that exists, EIP-7702.
const TYPE_MAX: u8 = 4;
/// From here on the first byte is that of a list, so the transaction has no type byte.
const LEGACY_FROM: u8 = 0xc0;

impl Tx {
    /// Reads signed bytes in the EIP-2718 form of types 0, 1, 2 and 4, and recovers the sender.
    ///
    /// # Errors
    ///
    /// When the type is another, the bytes are not exactly one transaction, it names no chain, or the signature is not
    /// in its one form. The chain that it names is compared when it is executed.
    pub fn decode(bytes: &[u8]) -> Candidate {
        let first = *bytes.first().ok_or(SkipReason::Decode)?;
        if first == BLOB_TYPE || (first > TYPE_MAX && first < 0x80) {
            return Err(SkipReason::UnsupportedType);
        }
        // A legacy transaction under a type byte of zero would be a second encoding of it.
        if first == 0 || (0x80..LEGACY_FROM).contains(&first) {
            return Err(SkipReason::Decode);
        }
        let envelope = EthereumTxEnvelope::<TxEip4844>::decode_2718_exact(bytes)
            .map_err(|_| SkipReason::Decode)?;
        let chain_id = envelope.chain_id().ok_or(SkipReason::ChainId)?;
        let caller = envelope.recover_signer().map_err(|_| SkipReason::Signature)?;
        let authorizations = envelope.authorization_list().unwrap_or_default();
        let env = TxEnv {
            tx_type: envelope.tx_type().into(),
            caller,
            gas_limit: envelope.gas_limit(),
            gas_price: envelope.max_fee_per_gas(),
            kind: envelope.kind(),
            value: envelope.value(),
            data: envelope.input().clone(),
            nonce: envelope.nonce(),
            chain_id: Some(chain_id),
            access_list: envelope.access_list().cloned().unwrap_or_default(),
            gas_priority_fee: envelope.max_priority_fee_per_gas(),
            authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
            ..TxEnv::default()
        };
        Ok(Self { env, hash: *envelope.tx_hash() })
    }
}
