//! Transactions become part of a block: executed on the parent's state, summed up in a header.
//!
//! Whoever has signed bytes hands them to [`Transactions`]; the producer takes them in the order of their arrival, runs
//! them with [`Chain::execute`] and tells each sender once its block is durable. A transaction that does not fit a block
//! waits for the next one.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use alloy_consensus::{
    EMPTY_OMMER_ROOT_HASH, EMPTY_ROOT_HASH, Header, Receipt, ReceiptEnvelope, TxType,
    constants::EMPTY_WITHDRAWALS, proofs,
};
use alloy_primitives::{Address, Bloom, Keccak256, U256};
use hyperion_engine::Engine;
use hyperion_executor::{
    BlockFacts, ExecEnv, Executor, GenesisAccount, SkipReason, StateDb, Tx, TxOutcome, Words,
    genesis, precompile::Rules, revm::context::result::ExecutionResult,
};
use hyperion_primitives::{B256, ModelId, sha256};
use hyperion_store::Store;
use hyperion_verify::state::StatePath;

use crate::{config::ChainSpec, producer::Work, wire::domain};

/// Longest signed transaction that is taken, in bytes.
pub const TX_BYTES_MAX: usize = 128 << 10;

/// What `PREVRANDAO` is hashed from, before the parent's hash and the height.
const RANDAO_TAG: &[u8] = b"HYPERION-RANDAO";

/// A transaction of a durable block.
#[derive(Clone, Debug)]
pub struct Mined {
    /// The block.
    pub height: u64,
    /// keccak-256 of the signed bytes.
    pub hash: B256,
    /// What it came to: it ran, or it was skipped without effect.
    pub outcome: TxOutcome,
}

/// Why signed bytes were not taken, or their transaction did not get into a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxRefused {
    /// Too long.
    #[error("the transaction has {got} bytes, want {TX_BYTES_MAX} at most")]
    Length {
        /// Its bytes.
        got: usize,
    },
    /// Not a transaction that a block can hold.
    #[error("transaction refused: {0:?}")]
    Unfit(SkipReason),
    /// Asks for more than a block has.
    #[error("the transaction asks for {got} gas, a block has {max}")]
    Gas {
        /// What it asks for.
        got: u64,
        /// What there is.
        max: u64,
    },
    /// Too many wait already.
    #[error("too many transactions wait; send it again later")]
    Full,
    /// The node ends, or its store refuses blocks.
    #[error("the node takes no more transactions")]
    Closed,
    /// It needs a model's answer that this node does not give; it had no effect and is in no block.
    #[error(
        "model {model} gives no answer on this node ({why}); the transaction had no effect: send it again once the model \
         is served, or to a node that serves it"
    )]
    Unanswered {
        /// The model that was to answer.
        model: ModelId,
        /// Why it does not.
        why: String,
    },
    /// This node cannot execute the block; the transaction had no effect.
    #[error("the block could not be executed here: {0}")]
    Block(String),
}

/// A transaction on its way into a block.
#[derive(Debug)]
pub struct Pending {
    /// The signed bytes.
    pub bytes: Vec<u8>,
    /// The same, read.
    pub tx: Tx,
    /// Where its end is told.
    pub tell: SyncSender<Result<Mined, TxRefused>>,
}

/// Takes signed transactions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transactions {
    queue: SyncSender<Work>,
    block_gas_max: u64,
}

impl Transactions {
    pub(crate) const fn new(queue: SyncSender<Work>, block_gas_max: u64) -> Self {
        Self { queue, block_gas_max }
    }

    /// Hands over signed bytes (EIP-2718); what is returned says once what became of them, when that is durable.
    ///
    /// # Errors
    ///
    /// When they are no transaction that a block could hold, or there is no room.
    pub fn send(&self, bytes: Vec<u8>) -> Result<Receiver<Result<Mined, TxRefused>>, TxRefused> {
        if bytes.len() > TX_BYTES_MAX {
            return Err(TxRefused::Length { got: bytes.len() });
        }
        let tx = Tx::decode(&bytes).map_err(TxRefused::Unfit)?;
        let got = tx.env.gas_limit;
        if got > self.block_gas_max {
            return Err(TxRefused::Gas { got, max: self.block_gas_max });
        }
        let (tell, told) = sync_channel(1);
        self.queue.try_send(Work::Tx(Box::new(Pending { bytes, tx, tell }))).map_err(
            |refused| match refused {
                TrySendError::Full(_) => TxRefused::Full,
                TrySendError::Disconnected(_) => TxRefused::Closed,
            },
        )?;
        Ok(told)
    }
}

/// A block that was executed and is not yet durable.
#[derive(Debug)]
pub struct Executed {
    /// What it changes.
    pub words: Words,
    /// One for each transaction, in order.
    pub outcomes: Vec<TxOutcome>,
    transactions_root: B256,
    receipts_root: B256,
    logs_bloom: Bloom,
    gas_used: u64,
}

impl Default for Executed {
    /// A block without transactions.
    fn default() -> Self {
        Self {
            words: Words::default(),
            outcomes: Vec::new(),
            transactions_root: EMPTY_ROOT_HASH,
            receipts_root: EMPTY_ROOT_HASH,
            logs_bloom: Bloom::ZERO,
            gas_used: 0,
        }
    }
}

/// Executes the blocks of one chain.
#[derive(Debug)]
pub struct Chain {
    spec: ChainSpec,
    beneficiary: Address,
    executor: Executor,
}

impl Chain {
    /// A chain whose tips go to `beneficiary`.
    pub fn new(spec: ChainSpec, beneficiary: Address) -> Self {
        Self { spec, beneficiary, executor: Executor::default() }
    }

    /// Runs transactions on top of the newest block of `store`, at a time in Unix seconds; changes nothing. One that
    /// needs a model which gives no answer here is set aside, and the block is that of the others.
    ///
    /// # Errors
    ///
    /// When the block cannot be executed here: the state cannot be read. Nothing that a transaction says leads to it.
    pub fn execute(
        &self,
        store: &Store,
        engine: &Engine,
        txs: &[Pending],
        time_s: u64,
    ) -> Result<Executed, TxRefused> {
        if txs.is_empty() {
            return Ok(Executed::default());
        }
        let failed = |error: &dyn std::fmt::Display| TxRefused::Block(error.to_string());
        let snapshot = store.snapshot();
        let pinned = snapshot.pin().map_err(|error| failed(&error))?;
        let parent = snapshot.pin().map_err(|error| failed(&error))?;
        let number = pinned.head().height + 1;
        let parent_hash = parent_hash(store).map_err(|error| failed(&error))?;
        let facts = BlockFacts {
            number,
            timestamp: time_s,
            beneficiary: self.beneficiary,
            gas_limit: self.spec.block_gas_max,
            base_fee: self.spec.base_fee,
            prevrandao: prevrandao(parent_hash, number),
        };
        let rules = Rules { domain: domain(&self.spec), schedule: self.spec.gas };
        let state = StateDb::new(pinned, store.log());
        let candidates: Vec<_> = txs.iter().map(|pending| Ok(pending.tx.clone())).collect();
        let outcome = self
            .executor
            .propose(&ExecEnv::new(rules, &facts), &candidates, &state, &state, engine)
            .map_err(|error| failed(&error))?;
        let words = outcome.diff.words(|path| parent.get(path)).map_err(|error| failed(&error))?;

        let executed = || {
            txs.iter().zip(&outcome.outcomes).filter_map(|(pending, outcome)| match outcome {
                TxOutcome::Executed { result, cumulative_gas_used, .. } => {
                    Some((pending, result, *cumulative_gas_used))
                }
                TxOutcome::Skipped(_) | TxOutcome::SetAside { .. } => None,
            })
        };
        let bytes: Vec<_> = executed().map(|(pending, ..)| pending.bytes.as_slice()).collect();
        let transactions_root =
            proofs::ordered_trie_root_with_encoder(&bytes, |tx, out| out.extend_from_slice(tx));
        let receipts: Vec<_> =
            executed().map(|(pending, result, gas)| receipt(&pending.tx, result, gas)).collect();
        let logs_bloom =
            receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | *receipt.logs_bloom());
        Ok(Executed {
            words,
            transactions_root,
            receipts_root: proofs::calculate_receipt_root(&receipts),
            logs_bloom,
            gas_used: outcome.gas_used,
            outcomes: outcome.outcomes,
        })
    }

    /// Hash of an executed block's header, once the root of the state after it is known.
    ///
    /// The header is Ethereum's but for the root, which is that of this chain's own tree.
    ///
    /// # Errors
    ///
    /// When the parent cannot be read.
    pub fn hash(
        &self,
        store: &Store,
        executed: &Executed,
        state_root: B256,
        number: u64,
        time_s: u64,
    ) -> Result<B256, hyperion_store::StoreError> {
        let parent_hash = parent_hash(store)?;
        let header = Header {
            parent_hash,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: self.beneficiary,
            state_root,
            transactions_root: executed.transactions_root,
            receipts_root: executed.receipts_root,
            logs_bloom: executed.logs_bloom,
            number,
            gas_limit: self.spec.block_gas_max,
            gas_used: executed.gas_used,
            timestamp: time_s,
            mix_hash: prevrandao(parent_hash, number),
            base_fee_per_gas: Some(self.spec.base_fee),
            withdrawals_root: Some(EMPTY_WITHDRAWALS),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(B256::ZERO),
            // EIP-7685: no requests.
            requests_hash: Some(sha256(b"")),
            ..Header::default()
        };
        Ok(header.hash_slow())
    }
}

/// The state at height 0: what the spec allocates, and the precompiles.
///
/// # Errors
///
/// When the balances do not fit a chain.
pub fn genesis_words(spec: &ChainSpec) -> anyhow::Result<Words> {
    let total = spec.alloc.values().try_fold(U256::ZERO, |sum, balance| sum.checked_add(*balance));
    if total.is_none_or(|total| total > U256::from(u128::MAX)) {
        anyhow::bail!("the allocated balances add up to 2^128 wei or more");
    }
    let rich = |(address, balance): (&Address, &U256)| {
        (*address, GenesisAccount { balance: *balance, ..GenesisAccount::default() })
    };
    let accounts: BTreeMap<_, _> = spec.alloc.iter().map(rich).collect();
    let mut words = genesis(&accounts).words(|_: &StatePath| None)?;
    words.diff.sort_by_key(|(path, _)| *path);
    Ok(words)
}

fn parent_hash(store: &Store) -> Result<B256, hyperion_store::StoreError> {
    Ok(store.log().record(store.head().height)?.entry.block_hash)
}

/// Known before the block is made: not random, and nothing may be drawn from it.
fn prevrandao(parent_hash: B256, number: u64) -> B256 {
    let mut hash = Keccak256::new();
    hash.update(RANDAO_TAG);
    hash.update(parent_hash);
    hash.update(number.to_be_bytes());
    hash.finalize()
}

fn receipt(tx: &Tx, result: &ExecutionResult, cumulative_gas_used: u64) -> ReceiptEnvelope {
    let receipt = Receipt {
        status: result.is_success().into(),
        cumulative_gas_used,
        logs: result.logs().to_vec(),
    };
    let tx_type = TxType::try_from(tx.env.tx_type).unwrap_or(TxType::Legacy);
    ReceiptEnvelope::from_typed(tx_type, receipt)
}
