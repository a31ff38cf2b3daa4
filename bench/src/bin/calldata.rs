//! How many calls of a precompile it takes to lose a block: none should.
//!
//! `calldata [--calls N] [--seed S]` makes N calls of every precompile, 100,000 when nothing is said, in blocks of
//! [`BLOCK`] transactions through the executor, the digits model and the text model answering from a real engine. A call comes from the
//! transaction itself or from a contract under every kind of call, with much gas or little, with value or without; its
//! calldata is noise, or a selector that exists and random words, or a good encoding with a few edits.
//!
//! After each of those blocks another one makes a good call, whose result is asserted. Prints one JSON object: for each
//! precompile the calls made, those in blocks that were not executed (`aborted`), and what became of the others. A revert
//! whose data no error of `IInference.sol` explains stops the bench.

#[path = "../facts.rs"]
mod facts;
#[path = "../mutate.rs"]
mod mutate;

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
};

use alloy_sol_types::{SolCall as _, SolInterface as _, sol};
use facts::{DOMAIN, Facts, SEVEN};
use hyperion_engine::{
    Answer, BlockCall, ClaimSink, Engine, EngineConfig, KernelPool, ManualClock, Pushback,
    Registry, SignError, Signer,
};
use hyperion_executor::{
    AccountChange, BlockFacts, BlockOutcome, Candidate, ExecEnv, Executor, ExecutorError,
    StateDiff, Tx,
    precompile::{
        Precompile, Refusal,
        abi::{
            IArbitrate::arbitrateCall,
            IInference::{inferCall, inferReturn},
            InferenceErrors::UnknownFunction,
        },
    },
    revm::{
        bytecode::Bytecode,
        context::{TxEnv, result::ExecutionResult},
        database::{CacheDB, EmptyDB},
        primitives::{Bytes, TxKind, U256},
        state::AccountInfo,
    },
};
use hyperion_ops::{Cpu, KernelSet};
use hyperion_primitives::{Address, B256};
use mutate::Mutator;
use serde_json::{Value, json};

/// Transactions in a block.
const BLOCK: u64 = 256;
/// The contract that calls under every kind of call.
const PROBE: Address = Address::repeat_byte(0x9b);

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
}

impl Bench {
    fn new() -> Self {
        let block = BlockFacts { gas_limit: u64::MAX, ..BlockFacts::default() };
        let (facts, env) = (Facts::new(), ExecEnv::new(Facts::rules(), &block));
        Self { engine: engine(&facts), env, facts }
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

    /// What the first good call of a precompile gives.
    fn good(&self, precompile: Precompile) -> Good {
        let claim = &self.facts.logged.claim;
        let returns = match precompile {
            Precompile::Inference => Ok(self.seven()),
            Precompile::Claims => Ok(claim.output_hash.to_vec()),
            Precompile::Verify => Ok(claim.digest(&DOMAIN).0.to_vec()),
            // It decides nothing yet, and says so.
            Precompile::Arbitrate => {
                let refused = UnknownFunction { selector: arbitrateCall::SELECTOR.into() };
                Err(Refusal::UnknownFunction(refused).abi_encode())
            }
        };
        Good { corpus: self.facts.good(precompile), returns }
    }

    /// What `infer` returns of the seven.
    fn seven(&self) -> Vec<u8> {
        let (done, outputs) = mpsc::channel();
        let tell = move |outputs| drop(done.send(outputs));
        self.engine
            .run_batch(vec![BlockCall::plain(self.facts.digits.id(), SEVEN)], Box::new(tell));
        let output = outputs.recv().expect("the engine lives").remove(0).expect("an answer");
        let elements = output.elements();
        assert_eq!((0..10).max_by_key(|digit| elements[*digit]), Some(7));
        inferCall::abi_encode_returns(&inferReturn {
            outputHash: output.output_hash(),
            output: output.data.clone().into(),
        })
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

fn engine(facts: &Facts) -> Engine {
    let mut registry = Registry::new();
    registry.add("digits", Arc::clone(&facts.digits)).expect("a name");
    registry.add("pydoc", Arc::clone(&facts.pydoc)).expect("a name");
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
