//! What the tests of the executor share: a chain in memory, keys that sign, models that are small sums.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

pub(crate) mod artifact;
pub(crate) mod double;

use std::{collections::BTreeMap, sync::Arc, thread};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::{eip2718::Encodable2718 as _, eip2930::AccessList};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use alloy_sol_types::SolCall as _;
use hyperion_executor::{
    Answers, AnswersLost, BlockFacts, BlockOutcome, Candidate, ExecEnv, Executor, ExecutorConfig,
    GenesisAccount, Mode, OnAnswers, StateDiff, Tx, TxOutcome, genesis,
    precompile::{
        Checkpoint, Domain, GasSchedule, Logged, Manifest, Rules, Run, View,
        abi::{IInference, Sampling},
        address,
    },
    revm::{
        bytecode::Bytecode,
        database::{CacheDB, EmptyDB},
        state::AccountInfo,
    },
};
use hyperion_primitives::{ModelId, RequestId};
use hyperion_verify::sign::{self, SigningKey};
use parking_lot::Mutex;

/// What a transaction came to.
pub(crate) type TxResult = TxOutcome;

pub(crate) const CHAIN_ID: u64 = 31_337;
/// What every key begins with: ten thousand coins.
pub(crate) const WEALTH: u128 = 10_000 * 10_u128.pow(18);

pub(crate) fn rules() -> Rules {
    Rules {
        domain: Domain { chain_id: CHAIN_ID, verifying_contract: address::REQUESTS },
        schedule: GasSchedule::default(),
    }
}

/// What the precompiles see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) models: BTreeMap<ModelId, Manifest>,
    pub(crate) claims: BTreeMap<RequestId, Logged>,
    pub(crate) roots: BTreeMap<u64, B256>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) failure: Option<String>,
}

impl View for Facts {
    fn model(&self, model: &ModelId) -> Option<Manifest> {
        self.models.get(model).copied()
    }

    fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    fn log_root(&self, size: u64) -> Option<B256> {
        self.roots.get(&size).copied()
    }

    fn claim(&self, request: &RequestId) -> Option<Logged> {
        self.claims.get(request).cloned()
    }

    fn claim_of(&self, request: &RequestId, worker: &Address) -> Option<Logged> {
        self.claim(request).filter(|logged| logged.claim.worker == *worker)
    }

    fn failure(&self) -> Option<String> {
        self.failure.clone()
    }
}

/// Answers by a function of the run, from another thread; keeps every batch asked for.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) batches: Arc<Mutex<Vec<Vec<Run>>>>,
    /// Runs whose answer is lost.
    pub(crate) lost: Arc<Mutex<Vec<Run>>>,
}

impl Table {
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.batches.lock().iter().map(Vec::len).collect()
    }
}

impl Answers for Table {
    fn submit(&self, runs: Vec<Run>, done: OnAnswers) {
        self.batches.lock().push(runs.clone());
        let lost = Arc::clone(&self.lost);
        thread::spawn(move || {
            let answer = |run: Run| {
                if lost.lock().contains(&run) {
                    return Err(AnswersLost { why: "as the test wants it".to_owned() });
                }
                Ok(Arc::from(double::output(&run)))
            };
            done(runs.into_iter().map(answer).collect());
        });
    }
}

/// A key with the nonce of its next transaction.
#[derive(Debug)]
pub(crate) struct Key {
    key: SigningKey,
    pub(crate) nonce: u64,
}

impl Key {
    pub(crate) fn new(seed: u8) -> Self {
        Self { key: SigningKey::from_slice(&[seed; 32]).unwrap(), nonce: 0 }
    }

    pub(crate) fn address(&self) -> Address {
        sign::address(&self.key)
    }

    pub(crate) fn signature(&self, hash: &B256) -> Signature {
        Signature::from_raw(&sign::sign(&self.key, hash)).unwrap()
    }

    /// Signed bytes of a transaction, EIP-2718.
    pub(crate) fn sign<T: SignableTransaction<Signature>>(&self, tx: T) -> Vec<u8>
    where
        TxEnvelope: From<alloy_consensus::Signed<T>>,
    {
        let signature = self.signature(&tx.signature_hash());
        TxEnvelope::from(tx.into_signed(signature)).encoded_2718()
    }

    /// The next transaction of this key.
    pub(crate) fn send(&mut self, to: TxKind, value: u128, data: Vec<u8>) -> Vec<u8> {
        self.send_with_gas(to, value, data, 16_000_000)
    }

    pub(crate) fn send_with_gas(
        &mut self,
        to: TxKind,
        value: u128,
        data: Vec<u8>,
        gas_limit: u64,
    ) -> Vec<u8> {
        let nonce = self.nonce;
        self.nonce += 1;
        self.sign(TxEip1559 { nonce, gas_limit, ..plain(to, value, data) })
    }
}

/// Parameters of a model that draws nothing.
pub(crate) const DRAWS_NOTHING: Sampling = Sampling {
    temperatureQ16: 0,
    topK: 0,
    topPQ16: 0,
    frequencyQ16: 0,
    presenceQ16: 0,
    tokensMax: 0,
    stopHash: B256::ZERO,
};

/// Calldata of `infer`.
pub(crate) fn infer(model: B256, input: Vec<u8>) -> Vec<u8> {
    let (input, sampling, seed) = (input.into(), DRAWS_NOTHING, B256::ZERO);
    IInference::inferCall { modelId: model, input, sampling, seed }.abi_encode()
}

/// A transaction that pays one wei a gas over a base fee of seven.
pub(crate) fn plain(to: TxKind, value: u128, data: Vec<u8>) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce: 0,
        gas_limit: 16_000_000,
        max_fee_per_gas: 10,
        max_priority_fee_per_gas: 1,
        to,
        value: U256::from(value),
        access_list: AccessList::default(),
        input: data.into(),
    }
}

/// A chain in memory, its blocks applied one by one.
pub(crate) struct Chain {
    pub(crate) state: CacheDB<EmptyDB>,
    pub(crate) facts: Facts,
    pub(crate) height: u64,
    pub(crate) block_gas: u64,
    pub(crate) executor: Executor,
}

impl Chain {
    /// A chain whose keys 1 to 9 are rich and which knows the doubles.
    pub(crate) fn new() -> Self {
        let rich = |seed| {
            let balance = U256::from(WEALTH);
            (Key::new(seed).address(), GenesisAccount { balance, ..GenesisAccount::default() })
        };
        let mut state = CacheDB::new(EmptyDB::default());
        apply(&mut state, &genesis(&(1..10).map(rich).collect()));
        Self {
            state,
            facts: Facts { models: double::manifests(), ..Facts::default() },
            height: 0,
            block_gas: 500_000_000,
            executor: Executor::default(),
        }
    }

    pub(crate) fn env(&self) -> ExecEnv {
        let facts = BlockFacts {
            number: self.height + 1,
            timestamp: 1_700_000_000 + self.height,
            beneficiary: Address::repeat_byte(0xfe),
            gas_limit: self.block_gas,
            base_fee: 7,
            prevrandao: B256::repeat_byte(3),
        };
        ExecEnv::new(rules(), &facts)
    }

    /// Executes a block in both modes, which must agree, and applies it.
    pub(crate) fn block(&mut self, txs: &[Vec<u8>], answers: &impl Answers) -> BlockOutcome {
        let candidates: Vec<Candidate> = txs.iter().map(|bytes| Tx::decode(bytes)).collect();
        let outcome =
            both(&self.executor, &self.env(), &candidates, &self.state, &self.facts, answers);
        apply(&mut self.state, &outcome.diff);
        self.height += 1;
        outcome
    }

    /// Deploys a contract with the next transaction of `key`.
    pub(crate) fn deploy(&mut self, key: &mut Key, initcode: Vec<u8>) -> Address {
        let tx = key.send(TxKind::Create, 0, initcode);
        let outcome = self.block(&[tx], &Table::default());
        outcome.outcomes[0].result().unwrap().created_address().unwrap()
    }

    /// One transaction in a block of its own.
    pub(crate) fn one(&mut self, tx: Vec<u8>) -> TxOutcome {
        self.block(&[tx], &Table::default()).outcomes.remove(0)
    }
}

/// Executes with gathered calls and by the definition; everything but the statistics must be equal.
pub(crate) fn both(
    executor: &Executor,
    env: &ExecEnv,
    txs: &[Candidate],
    state: &CacheDB<EmptyDB>,
    facts: &Facts,
    answers: &impl Answers,
) -> BlockOutcome {
    let gathered = executor.execute(env, txs, state, facts, answers).unwrap();
    let config = ExecutorConfig { mode: Mode::Sequential, ..ExecutorConfig::default() };
    // A second table, so that the definition's batches are not counted; the doubles are functions.
    let oracle = Executor::new(config).execute(env, txs, state, facts, &Table::default()).unwrap();
    assert_eq!(gathered.outcomes, oracle.outcomes);
    assert_eq!(gathered.diff, oracle.diff);
    assert_eq!(gathered.gas_used, oracle.gas_used);
    gathered
}

/// Applies a block's changes to a state in memory.
pub(crate) fn apply(state: &mut CacheDB<EmptyDB>, diff: &StateDiff) {
    use hyperion_executor::AccountChange;
    for (address, change) in &diff.accounts {
        match change.account {
            AccountChange::Same => {}
            AccountChange::Gone => {
                state.insert_account_info(*address, AccountInfo::default());
            }
            AccountChange::Is(account) => {
                let code = diff.codes.get(&account.code_hash);
                let info = AccountInfo {
                    balance: account.balance,
                    nonce: account.nonce,
                    code_hash: account.code_hash,
                    code: code.map(|code| Bytecode::new_raw(code.clone())),
                    account_id: None,
                };
                state.insert_account_info(*address, info);
            }
        }
        for (key, value) in &change.storage {
            state.insert_account_storage(*address, *key, *value).unwrap();
        }
    }
}

/// The bytes that a transaction returned or reverted with.
pub(crate) fn output(outcome: &TxOutcome) -> Bytes {
    outcome.result().unwrap().output().cloned().unwrap_or_default()
}

/// The bytes of a successful call.
#[track_caller]
pub(crate) fn succeeded(outcome: &TxOutcome) -> Bytes {
    let result = outcome.result().unwrap_or_else(|| panic!("{outcome:?}"));
    assert!(result.is_success(), "{result:?}");
    output(outcome)
}

/// The bytes that a transaction reverted with.
#[track_caller]
pub(crate) fn reverted(outcome: &TxOutcome) -> Bytes {
    let result = outcome.result().unwrap_or_else(|| panic!("{outcome:?}"));
    assert!(!result.is_success() && !result.is_halt(), "{result:?}");
    output(outcome)
}
