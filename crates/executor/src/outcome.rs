use std::collections::BTreeMap;

use hyperion_primitives::ModelId;

use revm::{
    context::result::ExecutionResult,
    primitives::{Address, B256, Bytes, U256},
};

use crate::{AnswersLost, SkipReason};

/// What a block came to; nothing outside this value was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockOutcome {
    /// One for each transaction, in order.
    pub outcomes: Vec<TxOutcome>,
    /// What the block changes.
    pub diff: StateDiff,
    /// Gas used by all transactions.
    pub gas_used: u64,
    /// How the answers were fetched; no part of the result.
    pub stats: BlockStats,
}

/// What a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxOutcome {
    /// It ran: to its end, into a revert, or into a halt.
    Executed {
        /// Status, output, logs.
        result: ExecutionResult,
        /// Gas that it paid for.
        gas_used: u64,
        /// The same, with all transactions before it.
        cumulative_gas_used: u64,
    },
    /// It has no effect at all.
    Skipped(SkipReason),
    /// It is left out of the block that is proposed: it needs an answer that does not come here. Never part of a block.
    SetAside {
        /// The model that was to answer.
        model: ModelId,
        /// Why there is no answer.
        lost: AnswersLost,
    },
}

impl TxOutcome {
    /// The result, if it ran.
    pub const fn result(&self) -> Option<&ExecutionResult> {
        match self {
            Self::Executed { result, .. } => Some(result),
            Self::Skipped(_) | Self::SetAside { .. } => None,
        }
    }
}

/// How a block's answers were fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Batches asked for.
    pub batches: u64,
    /// Distinct runs in them.
    pub runs: u64,
    /// Transactions tried ahead, twice counted twice.
    pub tried: u64,
    /// Calls that no batch had foreseen when their transaction reached them.
    pub unforeseen: u64,
}

/// Accounts and code that a block changes, net: what ends as it began is not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateDiff {
    /// Changed accounts.
    pub accounts: BTreeMap<Address, AccountDiff>,
    /// Code of accounts whose code changed, by keccak-256.
    pub codes: BTreeMap<B256, Bytes>,
}

/// What changes of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountDiff {
    /// Balance, nonce and code.
    pub account: AccountChange,
    /// Changed slots; zero clears.
    pub storage: BTreeMap<U256, U256>,
}

/// What changes of an account beside its storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccountChange {
    /// Nothing.
    #[default]
    Same,
    /// It is empty or was destroyed.
    Gone,
    /// It is this now.
    Is(AccountState),
}

/// An account beside its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountState {
    /// In wei.
    pub balance: U256,
    /// Transactions sent, contracts created.
    pub nonce: u64,
    /// keccak-256 of its code; that of nothing without code.
    pub code_hash: B256,
}
