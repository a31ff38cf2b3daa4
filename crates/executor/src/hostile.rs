//! Calldata that nobody meant well, for tests and for whoever measures how many calls it takes to lose a block.
//!
//! A call is made by a small contract that hands its own calldata on under `CALL`, `CALLCODE`, `DELEGATECALL` or
//! `STATICCALL`, or by the transaction itself; with little gas or much, with value or without. The calldata is noise, or a
//! good call with a few bytes, words or its length changed.

use alloy_sol_types::{SolCall, SolInterface as _};
use hyperion_precompile::{
    Precompile, Refusal, Rules, View,
    abi::{
        IArbitrate::arbitrateCall,
        IClaims::{checkpointCall, lookupCall, lookupOfCall, outputCall},
        IInference::{inferCall, inferHashCall, modelCall, quoteCall},
        IVerify::{tensorRootCall, verifyProofCall, verifyReceiptCall},
        Inclusion, InferenceClaim, Sampling,
    },
};
use hyperion_primitives::{Mix, ModelId};
use revm::{
    bytecode::Bytecode,
    context::{TxEnv, result::ExecutionResult},
    database::{CacheDB, EmptyDB},
    primitives::{Address, B256, Bytes, TxKind, U256},
    state::AccountInfo,
};

use crate::{Answers, BlockFacts, Candidate, ExecEnv, Executor, SkipReason, Tx, TxOutcome};

/// Calls in one block.
const BLOCK: u64 = 64;
/// Who sends a block's transaction at a place. Each has a sender of its own: one that is not executed leaves its sender's
/// nonce as it was, and so would make the next ones of the same sender wait for it.
const fn sender(place: u64) -> Address {
    let mut bytes = [0x5e; 20];
    bytes[19] = (place % BLOCK) as u8;
    Address::new(bytes)
}

/// What became of the calls of one precompile.
#[derive(Clone, Debug)]
pub struct Found {
    /// The precompile called.
    pub precompile: Precompile,
    /// Calls made: those executed, those skipped and those aborted.
    pub calls: u64,
    /// Calls that were executed: they returned, reverted or ran out of gas.
    pub executed: u64,
    /// Calls that were not: their gas did not even cover their calldata.
    pub skipped: u64,
    /// Calls that returned.
    pub returned: u64,
    /// Calls that reverted.
    pub refused: u64,
    /// Calls whose gas did not suffice.
    pub out_of_gas: u64,
    /// Reverts whose data is none of the interface's errors.
    pub untyped: u64,
    /// Calls in blocks that were not executed.
    pub aborted: u64,
    /// Why the first of those was not.
    pub first_abort: Option<String>,
    /// The first reason but intrinsic gas for which a call was not executed; there should be none.
    pub stray_skip: Option<SkipReason>,
}

/// Makes `calls` calls of each precompile, drawn from `seed`. `models` are ids that `view` knows.
pub fn run(
    seed: u64,
    calls: u64,
    rules: Rules,
    view: &(dyn View + Sync),
    models: &[ModelId],
    answers: &impl Answers,
) -> Vec<Found> {
    let env = ExecEnv::new(rules, &BlockFacts { gas_limit: u64::MAX, ..BlockFacts::default() });
    let executor = Executor::default();
    let one = |precompile: Precompile| {
        let mut found = Found {
            precompile,
            calls: 0,
            executed: 0,
            skipped: 0,
            returned: 0,
            refused: 0,
            out_of_gas: 0,
            untyped: 0,
            aborted: 0,
            first_abort: None,
            stray_skip: None,
        };
        let mut mix = Mix::new(seed ^ (precompile.address()[19] as u64) << 32);
        let state = relays(precompile);
        while found.calls < calls {
            let count = BLOCK.min(calls - found.calls);
            let txs: Vec<Candidate> =
                (0..count).map(|place| Ok(tx(&mut mix, &env, precompile, models, place))).collect();
            found.calls += count;
            match executor.execute(&env, &txs, &state, view, answers) {
                Ok(outcome) => {
                    outcome.outcomes.iter().for_each(|outcome| note(&mut found, outcome));
                }
                Err(error) => {
                    found.aborted += count;
                    found.first_abort.get_or_insert_with(|| error.to_string());
                }
            }
        }
        found
    };
    Precompile::ALL.map(one).into()
}

fn note(found: &mut Found, outcome: &TxOutcome) {
    let result = match outcome {
        TxOutcome::Executed { result, .. } => result,
        TxOutcome::Skipped(reason) => {
            found.skipped += 1;
            if *reason != SkipReason::IntrinsicGas {
                found.stray_skip.get_or_insert(*reason);
            }
            return;
        }
        TxOutcome::SetAside { .. } => {
            // `execute` stops at a lost answer, so nothing is set aside.
            found.skipped += 1;
            return;
        }
    };
    found.executed += 1;
    match result {
        ExecutionResult::Success { .. } => found.returned += 1,
        ExecutionResult::Revert { output, .. } => {
            // The relay says nothing of its own: an empty revert is that of a call without gas.
            if output.is_empty() {
                found.out_of_gas += 1;
            } else {
                found.refused += 1;
                found.untyped += u64::from(Refusal::abi_decode(output).is_err());
            }
        }
        ExecutionResult::Halt { .. } => found.out_of_gas += 1,
    }
}

/// How a call is made.
const KINDS: [u8; 4] = [0xf1, 0xf2, 0xf4, 0xfa];

/// A state with one relay for each kind of call: it hands its calldata and its gas to the precompile, and gives back
/// what comes.
fn relays(precompile: Precompile) -> CacheDB<EmptyDB> {
    let mut state = CacheDB::new(EmptyDB::default());
    let rich = AccountInfo { balance: U256::MAX >> 8, ..AccountInfo::default() };
    for place in 0..BLOCK {
        state.insert_account_info(sender(place), rich.clone());
    }
    for kind in KINDS {
        // CALLDATACOPY(0, 0, CALLDATASIZE), and no return area.
        let mut code = vec![0x36, 0x5f, 0x5f, 0x37, 0x5f, 0x5f, 0x36, 0x5f];
        if matches!(kind, 0xf1 | 0xf2) {
            code.push(0x34); // CALLVALUE
        }
        code.push(0x73); // PUSH20
        code.extend(precompile.address());
        code.extend([0x5a, kind]); // GAS, the call
        // RETURNDATACOPY(0, 0, RETURNDATASIZE), then RETURN if the call succeeded and REVERT if it did not.
        code.extend([0x3d, 0x5f, 0x5f, 0x3e]);
        let target = u8::try_from(code.len() + 6).expect("a short program");
        code.extend([0x60, target, 0x57, 0x3d, 0x5f, 0xfd, 0x5b, 0x3d, 0x5f, 0xf3]);
        let info = AccountInfo::from_bytecode(Bytecode::new_raw(Bytes::from(code)));
        state.insert_account_info(relay(kind), info);
    }
    state
}

const fn relay(kind: u8) -> Address {
    Address::with_last_byte(kind)
}

fn tx(mix: &mut Mix, env: &ExecEnv, precompile: Precompile, models: &[ModelId], place: u64) -> Tx {
    let data = calldata(mix, precompile, models);
    let to = match mix.below(5) {
        0 => precompile.address(),
        kind => relay(KINDS[kind as usize - 1]),
    };
    let gas_limit = match mix.below(4) {
        0 => 21_000 + mix.below(60_000),
        1 => 100_000 + mix.below(400_000),
        _ => 16_000_000,
    };
    let value = if mix.below(8) == 0 { U256::from(mix.below(1_000)) } else { U256::ZERO };
    let env = TxEnv {
        caller: sender(place),
        nonce: 0,
        gas_limit,
        kind: TxKind::Call(to),
        value,
        data: data.into(),
        chain_id: Some(env.cfg.chain_id),
        ..TxEnv::default()
    };
    Tx { env, hash: B256::ZERO }
}

/// Noise, or a good call with something changed.
fn calldata(mix: &mut Mix, precompile: Precompile, models: &[ModelId]) -> Vec<u8> {
    if mix.below(8) == 0 {
        let len = mix.below(600) as usize;
        return bytes(mix, len);
    }
    let mut data = good(mix, precompile, models);
    for _ in 0..mix.below(4) {
        damage(mix, &mut data);
    }
    data
}

fn damage(mix: &mut Mix, data: &mut Vec<u8>) {
    let len = data.len() as u64;
    match mix.below(6) {
        0 => data.truncate(mix.below(len + 1) as usize),
        1 => {
            let more = mix.below(70) as usize;
            let more = bytes(mix, more);
            data.extend(more);
        }
        2 | 3 if len > 0 => data[mix.below(len) as usize] ^= 1 << mix.below(8),
        _ if len >= 36 => {
            let at = 4 + 32 * mix.below((len - 4) / 32) as usize;
            let extremes = [0, 1, 31, 32, 64, 320, 1 << 20, u64::MAX, 1 << 63];
            let word = &mut data[at..at + 32];
            match mix.below(3) {
                0 => word.fill(0xff),
                1 => word[..16].copy_from_slice(&[0x80; 16]),
                _ => {
                    let extreme = extremes[mix.below(extremes.len() as u64) as usize];
                    word.fill(0);
                    word[24..].copy_from_slice(&extreme.to_be_bytes());
                }
            }
        }
        _ => {}
    }
}

fn good(mix: &mut Mix, precompile: Precompile, models: &[ModelId]) -> Vec<u8> {
    let known = mix.below(models.len().max(1) as u64) as usize;
    let known = models.get(known).copied().unwrap_or_default();
    let model = if mix.below(6) == 0 { B256::ZERO } else { known.0 };
    let length = [0, 4, 40, 256, 512, 1_024][mix.below(6) as usize];
    match (precompile, mix.below(4)) {
        (Precompile::Inference, 0) => modelCall { modelId: model }.abi_encode(),
        (Precompile::Inference, 1) => {
            let input_bytes = [0, 4, 256, 257, 65_536, u64::MAX][mix.below(6) as usize];
            let tokens = [0, 0, 1, 2, 5_000, u32::MAX][mix.below(6) as usize];
            quoteCall { modelId: model, inputBytes: input_bytes, tokensMax: tokens }.abi_encode()
        }
        (Precompile::Inference, form) => {
            let (sampling, seed) = sampling(mix);
            let call = inferCall {
                modelId: model,
                // Token ids below 256, or pixels just above black.
                input: (0..length).map(|i| if i % 4 == 0 { i as u8 } else { 0 }).collect(),
                sampling,
                seed,
            };
            let mut data = call.abi_encode();
            if form == 3 {
                data[..4].copy_from_slice(&inferHashCall::SELECTOR);
            }
            data
        }
        (Precompile::Claims, 0) => checkpointCall {}.abi_encode(),
        (Precompile::Claims, 1) => lookupCall { requestId: model }.abi_encode(),
        (Precompile::Claims, 2) => {
            lookupOfCall { requestId: model, worker: sender(0) }.abi_encode()
        }
        (Precompile::Claims, _) => {
            outputCall { requestId: model, modelId: model, minTier: 1 }.abi_encode()
        }
        (Precompile::Verify, 0) => {
            verifyProofCall { statement: Bytes::from(vec![1; 40]), proof: Bytes::new() }
                .abi_encode()
        }
        (Precompile::Verify, 1) => receipt(mix, model),
        (Precompile::Verify, _) => {
            let data = Bytes::from(bytes(mix, length));
            tensorRootCall { dtype: 2, dims: vec![length as u64], data }.abi_encode()
        }
        (Precompile::Arbitrate, _) => {
            arbitrateCall { step: Bytes::from(bytes(mix, length)) }.abi_encode()
        }
    }
}

/// Draws as a generator takes them or nearly so, or none at all.
fn sampling(mix: &mut Mix) -> (Sampling, B256) {
    let mut pick = |values: &[u32]| values[mix.below(values.len() as u64) as usize];
    let draws = pick(&[0, 1]);
    let warm = draws * pick(&[0, 0, 655, 656, 1 << 16, u32::MAX]);
    let penalties = [0, 0, 1 << 16, 1 << 21, (1 << 21) + 1, 1 << 31];
    let sampling = Sampling {
        temperatureQ16: warm,
        topK: draws * pick(&[0, 0, 40, u32::MAX]),
        topPQ16: draws * pick(&[1 << 16, 1 << 16, 1 << 15, 0]),
        frequencyQ16: (draws * pick(&penalties)).cast_signed(),
        presenceQ16: (draws * pick(&penalties)).cast_signed(),
        tokensMax: draws * pick(&[1, 3, 3, 12, 600, 4_097, 65_536]),
        stopHash: if draws * pick(&[0, 0, 0, 1]) == 1 { B256::repeat_byte(1) } else { B256::ZERO },
    };
    let seed = if warm > 0 && pick(&[0, 1]) == 1 { B256::repeat_byte(3) } else { B256::ZERO };
    (sampling, seed)
}

fn receipt(mix: &mut Mix, model: B256) -> Vec<u8> {
    let path = (0..mix.below(24)).map(|_| B256::from_slice(&bytes(mix, 32))).collect();
    let claim = InferenceClaim {
        requestId: model,
        modelId: model,
        inputHash: model,
        outputHash: model,
        samplingHash: B256::ZERO,
        seed: B256::ZERO,
        traceRoot: B256::ZERO,
        inTokens: 1,
        outTokens: 0,
        macs: 1,
        challengeUntil: 0,
        tier: mix.below(7) as u8,
        worker: sender(0),
    };
    let proof = Inclusion { index: mix.below(10), size: mix.below(20), path };
    verifyReceiptCall { claim, signature: Bytes::from(bytes(mix, 65)), proof }.abi_encode()
}

fn bytes(mix: &mut Mix, len: usize) -> Vec<u8> {
    (0..len).map(|_| mix.below(256) as u8).collect()
}
