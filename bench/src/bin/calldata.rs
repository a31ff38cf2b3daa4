//! How many calls of a precompile it takes to lose a block: none should.
//!
//! `calldata [--calls N] [--seed S]` makes N calls of every precompile, 100,000 when nothing is said, in blocks of
//! [`BLOCK`] transactions through the executor, the digits model answering from a real engine. A call comes from the
//! transaction itself or from a contract under every kind of call, with much gas or little, with value or without; its
//! calldata is noise, or a selector that exists and random words, or a good encoding with a few edits.
//!
//! After each of those blocks another one makes a good call, whose result is asserted. Prints one JSON object: for each
//! precompile the calls made, those in blocks that were not executed (`aborted`), and what became of the others. A revert
//! whose data no error of `IInference.sol` explains stops the bench.

#[path = "../mutate.rs"]
mod mutate;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, mpsc},
};

use alloy_sol_types::{SolCall, SolInterface as _, sol};
use hyperion_engine::{
    Answer, ClaimSink, Engine, EngineConfig, KernelPool, ManualClock, Pushback, Registry,
    SignError, Signer,
};
use hyperion_executor::{
    AccountChange, BlockFacts, BlockOutcome, Candidate, ExecEnv, Executor, ExecutorError,
    StateDiff, Tx,
    precompile::{
        Checkpoint, Claim, ClaimWord, Domain, GasSchedule, Logged, Manifest, Precompile, Refusal,
        Rules, View,
        abi::{
            IArbitrate::arbitrateCall,
            IClaims::{checkpointCall, lookupCall, lookupOfCall, outputCall},
            IInference::{inferCall, inferHashCall, inferReturn, modelCall, quoteCall},
            IVerify::{tensorRootCall, verifyProofCall, verifyReceiptCall},
            Inclusion,
            InferenceErrors::UnknownFunction,
            Sampling,
        },
        address,
    },
    revm::{
        bytecode::Bytecode,
        context::{TxEnv, result::ExecutionResult},
        database::{CacheDB, EmptyDB},
        primitives::{Bytes, TxKind, U256},
        state::AccountInfo,
    },
};
use hyperion_model::{Model, Trust, import};
use hyperion_ops::{Cpu, KernelSet};
use hyperion_primitives::{Address, B256, ModelId, RequestId, keccak256};
use hyperion_verify::{
    log::{inclusion_proof, leaf_hash, root_of},
    sign::{self, SigningKey},
};
use mutate::Mutator;
use serde_json::{Value, json};

/// Transactions in a block.
const BLOCK: u64 = 256;
/// The contract that calls under every kind of call.
const PROBE: Address = Address::repeat_byte(0x9b);
const DOMAIN: Domain = Domain { chain_id: 31_337, verifying_contract: address::REQUESTS };

sol! {
    interface Probe {
        function probe(uint256 kind, address target, uint256 gasLimit, uint256 value, bytes calldata data)
            external payable returns (bool ok, bytes memory back, uint256 used);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        let given = at.and_then(|at| arguments.get(at + 1));
        given.map_or(default, |given| given.parse().expect("a number after the option"))
    };
    let (calls, seed) = (value("--calls", 100_000), value("--seed", 1));
    let bench = Bench::new();
    let mut found = BTreeMap::new();
    for precompile in Precompile::ALL {
        let counts = bench.run(precompile, calls, seed);
        eprintln!("{}: {}", precompile.name(), counts.json());
        found.insert(precompile.name(), counts.json());
    }
    println!("{}", json!({ "seed": seed, "precompiles": found }));
}

/// What became of the calls of one precompile.
#[derive(Default)]
struct Counts {
    calls: u64,
    aborted: u64,
    returned: u64,
    refused: u64,
    out_of_gas: u64,
    good_after: u64,
}

impl Counts {
    fn json(&self) -> Value {
        json!({
            "calls": self.calls,
            "aborted": self.aborted,
            "returned": self.returned,
            "refused": self.refused,
            "out_of_gas": self.out_of_gas,
            "good_blocks_after": self.good_after,
        })
    }

    /// Counts one call by what a caller sees of it.
    fn note(&mut self, result: &ExecutionResult, through_probe: bool) {
        match result {
            ExecutionResult::Success { output, .. } if through_probe => {
                let back = Probe::probeCall::abi_decode_returns(output.data());
                let back = back.expect("the probe returns what it declares");
                if back.ok {
                    self.returned += 1;
                } else {
                    self.reverted(&back.back);
                }
            }
            ExecutionResult::Success { .. } => self.returned += 1,
            ExecutionResult::Revert { output, .. } => self.reverted(output),
            ExecutionResult::Halt { .. } => self.out_of_gas += 1,
        }
    }

    /// A call without the gas it needs says nothing, every other one names its error.
    fn reverted(&mut self, data: &[u8]) {
        if data.is_empty() {
            self.out_of_gas += 1;
        } else {
            self.refused += 1;
            Refusal::abi_decode(data).expect("an error of the interface");
        }
    }
}

/// Good calls of a precompile.
struct Good {
    /// What mutations start from.
    corpus: Vec<Vec<u8>>,
    /// The first of them gives this.
    returns: Result<Vec<u8>, Vec<u8>>,
}

struct Bench {
    engine: Engine,
    env: ExecEnv,
    facts: Facts,
    digits: ModelId,
    receipt: verifyReceiptCall,
}

impl Bench {
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits");
        let mut bytes = Vec::new();
        let parts = import::mlp(&folder).expect("the committed model");
        parts.write(&mut bytes).expect("memory");
        let model = Arc::new(Model::from_bytes(bytes, Trust::Roots).expect("just written"));
        let rules = Rules { domain: DOMAIN, schedule: GasSchedule::default() };
        let facts = BlockFacts { gas_limit: u64::MAX, ..BlockFacts::default() };
        let (facts, env) = (Facts::of(&model), ExecEnv::new(rules, &facts));
        let receipt = facts.receipt();
        Self { digits: model.id(), engine: engine(model), env, facts, receipt }
    }

    fn run(&self, precompile: Precompile, calls: u64, seed: u64) -> Counts {
        let good = self.good(precompile);
        let mut chain = Chain::new();
        let mut mutator = Mutator::new(seed ^ u64::from(precompile.address()[19]) << 32);
        let mut counts = Counts::default();
        while counts.calls < calls {
            let count = BLOCK.min(calls - counts.calls);
            let asked: Vec<TxEnv> =
                (0..count).map(|_| call(&mut mutator, precompile, &good.corpus)).collect();
            let through_probe: Vec<bool> =
                asked.iter().map(|tx| tx.kind == TxKind::Call(PROBE)).collect();
            counts.calls += count;
            match chain.block(self, asked) {
                Ok(outcome) => {
                    for (outcome, through_probe) in outcome.outcomes.iter().zip(through_probe) {
                        let result = outcome.result();
                        // Whoever sends has the nonce and the gas that it takes to be executed.
                        let result = result.unwrap_or_else(|| panic!("skipped: {outcome:?}"));
                        counts.note(result, through_probe);
                    }
                }
                Err(error) => {
                    eprintln!("{}: a block is lost: {error}", precompile.name());
                    counts.aborted += count;
                }
            }
            self.a_good_call(&mut chain, precompile, &good);
            counts.good_after += 1;
        }
        counts
    }

    /// The block after: one good call, and what it gives.
    fn a_good_call(&self, chain: &mut Chain, precompile: Precompile, good: &Good) {
        let tx = TxEnv {
            kind: TxKind::Call(precompile.address()),
            data: good.corpus[0].clone().into(),
            gas_limit: 1_000_000,
            ..TxEnv::default()
        };
        let outcome = chain.block(self, vec![tx]).expect("a block with one good call");
        let result = outcome.outcomes[0].result().expect("a transaction that is executed");
        let got = match result {
            ExecutionResult::Success { output, .. } => Ok(output.data().to_vec()),
            ExecutionResult::Revert { output, .. } => Err(output.to_vec()),
            ExecutionResult::Halt { reason, .. } => panic!("{}: {reason:?}", precompile.name()),
        };
        assert_eq!(got, good.returns, "{}: the good call", precompile.name());
    }

    fn good(&self, precompile: Precompile) -> Good {
        let model = self.digits.0;
        let claim = &self.facts.logged.claim;
        let request = claim.request_id.0;
        match precompile {
            Precompile::Inference => {
                let input = include_bytes!("../../../fixtures/digits/seven.i32");
                let input_of_run = (self.digits, Arc::from(&input[..]));
                let (done, outputs) = mpsc::channel();
                let tell = move |outputs| drop(done.send(outputs));
                self.engine.run_batch(vec![input_of_run], Box::new(tell));
                let output = outputs.recv().expect("the engine lives").remove(0);
                let output = output.expect("an answer");
                let elements = output.elements();
                assert_eq!((0..10).max_by_key(|digit| elements[*digit]), Some(7));
                let returned = inferReturn {
                    outputHash: output.output_hash(),
                    output: output.data.clone().into(),
                };
                let infer = inferCall {
                    modelId: model,
                    input: Bytes::from_static(input),
                    sampling: none(),
                    seed: B256::ZERO,
                };
                let hash = inferHashCall {
                    modelId: model,
                    input: infer.input.clone(),
                    sampling: none(),
                    seed: B256::ZERO,
                };
                let foreign = inferCall { modelId: FOREIGN.0, ..infer.clone() };
                let quote = quoteCall { modelId: model, inputBytes: 256, tokensMax: 0 };
                Good {
                    returns: Ok(inferCall::abi_encode_returns(&returned)),
                    corpus: vec![
                        infer.abi_encode(),
                        hash.abi_encode(),
                        foreign.abi_encode(),
                        quote.abi_encode(),
                        modelCall { modelId: model }.abi_encode(),
                    ],
                }
            }
            Precompile::Claims => Good {
                returns: Ok(claim.output_hash.to_vec()),
                corpus: vec![
                    outputCall { requestId: request, modelId: model, minTier: 1 }.abi_encode(),
                    lookupCall { requestId: request }.abi_encode(),
                    lookupOfCall { requestId: request, worker: claim.worker }.abi_encode(),
                    checkpointCall {}.abi_encode(),
                ],
            },
            Precompile::Verify => {
                let root = tensorRootCall { dtype: 2, dims: vec![300], data: vec![9; 300].into() };
                let proof =
                    verifyProofCall { statement: vec![1; 40].into(), proof: vec![2; 100].into() };
                Good {
                    returns: Ok(claim.digest(&DOMAIN).0.to_vec()),
                    corpus: vec![self.receipt.abi_encode(), root.abi_encode(), proof.abi_encode()],
                }
            }
            // It decides nothing yet, and says so.
            Precompile::Arbitrate => {
                let refused = UnknownFunction { selector: arbitrateCall::SELECTOR.into() };
                Good {
                    returns: Err(Refusal::UnknownFunction(refused).abi_encode()),
                    corpus: vec![arbitrateCall { step: vec![1; 70].into() }.abi_encode()],
                }
            }
        }
    }
}

/// One transaction: how the call is made, and what it says.
fn call(mutator: &mut Mutator, precompile: Precompile, corpus: &[Vec<u8>]) -> TxEnv {
    let data = calldata(mutator, corpus);
    let value = if mutator.below(8) == 0 { U256::from(mutator.below(1_000)) } else { U256::ZERO };
    let (to, data) = if mutator.below(3) == 0 {
        (precompile.address(), data)
    } else {
        let gas = match mutator.below(4) {
            0 => mutator.word() % 8_000,
            1 => mutator.word() % 100_000,
            _ => u64::MAX,
        };
        let call = Probe::probeCall {
            kind: U256::from(mutator.below(4)),
            target: precompile.address(),
            gasLimit: U256::from(gas),
            value,
            data: data.into(),
        };
        (PROBE, call.abi_encode())
    };
    let own = match mutator.below(4) {
        0 => mutator.word() % 60_000,
        1 => 100_000 + mutator.word() % 400_000,
        _ => 10_000_000,
    };
    TxEnv {
        kind: TxKind::Call(to),
        value,
        // What a transaction costs before it begins is at most 40 gas a byte.
        gas_limit: 21_000 + 40 * data.len() as u64 + own,
        data: data.into(),
        ..TxEnv::default()
    }
}

/// Noise, a known selector over random words, or a good call with a few edits.
fn calldata(mutator: &mut Mutator, corpus: &[Vec<u8>]) -> Vec<u8> {
    match mutator.below(6) {
        0 => mutator.next(&[]),
        1 => {
            let pick = mutator.below(corpus.len());
            let mut data = corpus[pick][..4].to_vec();
            for _ in 0..mutator.below(24) {
                let mut word = [0; 32];
                // Half of the words are small, as offsets and lengths are.
                let filled = if mutator.below(2) == 0 { 31 } else { 0 };
                for byte in &mut word[filled..] {
                    *byte = mutator.word().to_be_bytes()[0];
                }
                data.extend(word);
            }
            data
        }
        _ => mutator.next(corpus),
    }
}

/// A chain in memory: one sender for each place in a block.
struct Chain {
    state: CacheDB<EmptyDB>,
    executor: Executor,
    nonces: Vec<u64>,
}

impl Chain {
    fn new() -> Self {
        let mut state = CacheDB::new(EmptyDB::default());
        for place in 0..BLOCK {
            let rich = AccountInfo { balance: U256::MAX >> 16, ..AccountInfo::default() };
            state.insert_account_info(sender(place as usize), rich);
        }
        let artifact = include_str!("../../../contracts/artifacts/Probe.json");
        let artifact: Value = serde_json::from_str(artifact).expect("the committed artifact");
        let code: Bytes = artifact["runtime"].as_str().expect("code").parse().expect("hex");
        state.insert_account_info(PROBE, AccountInfo::from_bytecode(Bytecode::new_raw(code)));
        Self { state, executor: Executor::default(), nonces: vec![0; BLOCK as usize] }
    }

    /// Executes a block on top of the last one.
    fn block(&mut self, bench: &Bench, txs: Vec<TxEnv>) -> Result<BlockOutcome, ExecutorError> {
        let chain_id = Some(DOMAIN.chain_id);
        let candidates: Vec<Candidate> = (0..)
            .zip(txs)
            .map(|(place, tx)| {
                let (caller, nonce) = (sender(place), self.nonces[place]);
                Ok(Tx { env: TxEnv { caller, nonce, chain_id, ..tx }, hash: B256::ZERO })
            })
            .collect();
        let (env, engine) = (&bench.env, &bench.engine);
        let outcome = self.executor.execute(env, &candidates, &self.state, &bench.facts, engine)?;
        self.nonces[..candidates.len()].iter_mut().for_each(|nonce| *nonce += 1);
        self.apply(&outcome.diff);
        Ok(outcome)
    }

    fn apply(&mut self, diff: &StateDiff) {
        for (address, change) in &diff.accounts {
            match change.account {
                AccountChange::Same => {}
                AccountChange::Gone => {
                    self.state.insert_account_info(*address, AccountInfo::default());
                }
                AccountChange::Is(account) => {
                    let known = self.state.cache.accounts.get(address);
                    let code = known.and_then(|known| known.info.code.clone());
                    let info = AccountInfo {
                        balance: account.balance,
                        nonce: account.nonce,
                        code_hash: account.code_hash,
                        code,
                        account_id: None,
                    };
                    self.state.insert_account_info(*address, info);
                }
            }
            for (key, value) in &change.storage {
                let kept = self.state.insert_account_storage(*address, *key, *value);
                kept.expect("an empty database reads");
            }
        }
    }
}

fn sender(place: usize) -> Address {
    let mut address = Address::repeat_byte(0x5e);
    address[18..].copy_from_slice(&u16::try_from(place).expect("a small block").to_be_bytes());
    address
}

/// Registered, but no block may run it.
const FOREIGN: ModelId = ModelId(B256::repeat_byte(0xf3));

/// What the precompiles see: two models, and a log of three entries, the second of them a claim.
struct Facts {
    models: BTreeMap<ModelId, Manifest>,
    logged: Logged,
    signature: [u8; 65],
    leaves: [B256; 3],
}

impl Facts {
    fn of(model: &Model) -> Self {
        let key = SigningKey::from_slice(&[7; 32]).expect("a scalar");
        let claim = Claim {
            request_id: RequestId(keccak256("request")),
            model_id: model.id(),
            output_hash: keccak256("output"),
            worker: sign::address(&key),
            tier: 1,
            ..Claim::default()
        };
        let signed = claim.sign(&DOMAIN, &key);
        let leaves = [keccak256([0]), leaf_hash(&signed.entry()), keccak256([2])];
        let digits = *model.manifest();
        let foreign = Manifest { native: false, ..digits };
        let logged = Logged { claim: signed.claim, word: ClaimWord::logged(1, false) };
        Self {
            models: BTreeMap::from([(model.id(), digits), (FOREIGN, foreign)]),
            logged,
            signature: signed.signature,
            leaves,
        }
    }

    fn receipt(&self) -> verifyReceiptCall {
        let path = inclusion_proof(1, &self.leaves).expect("three leaves");
        verifyReceiptCall {
            claim: (&self.logged.claim).into(),
            signature: self.signature.to_vec().into(),
            proof: Inclusion { index: 1, size: 3, path },
        }
    }
}

impl View for Facts {
    fn model(&self, model: &ModelId) -> Option<Manifest> {
        self.models.get(model).copied()
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { size: 3, root: root_of(&self.leaves), height: 1 }
    }

    fn log_root(&self, size: u64) -> Option<B256> {
        (size == 3).then(|| root_of(&self.leaves))
    }

    fn claim(&self, request: &RequestId) -> Option<Logged> {
        (*request == self.logged.claim.request_id).then(|| self.logged.clone())
    }

    fn claim_of(&self, request: &RequestId, worker: &Address) -> Option<Logged> {
        self.claim(request).filter(|logged| logged.claim.worker == *worker)
    }
}

/// What a model that draws nothing takes.
fn none() -> Sampling {
    Sampling {
        temperatureQ16: 0,
        topK: 0,
        topPQ16: 0,
        frequencyQ16: 0,
        presenceQ16: 0,
        tokensMax: 0,
        stopHash: B256::ZERO,
    }
}

fn engine(digits: Arc<Model>) -> Engine {
    let mut registry = Registry::new();
    registry.add("digits", digits).expect("a name");
    let pool = Arc::new(KernelPool::new(1).expect("the system gives a thread"));
    let device = Box::new(Cpu::new(KernelSet::best(), pool));
    let (config, signer) = (EngineConfig::default(), Arc::new(Nobody));
    let clock = Arc::new(ManualClock::default());
    Engine::new(config, registry, vec![device], signer, DOMAIN, clock, Box::new(Nobody))
        .expect("a device in service")
}

/// Signs, and keeps nothing: the calls of a block need no claims.
struct Nobody;

impl Signer for Nobody {
    fn address(&self) -> Address {
        Address::ZERO
    }

    fn sign(&self, _: B256) -> Result<[u8; 65], SignError> {
        unreachable!("a block's calls are not signed")
    }
}

impl ClaimSink for Nobody {
    fn offer(&self, _: Arc<Answer>) -> Result<(), Pushback> {
        Ok(())
    }
}
