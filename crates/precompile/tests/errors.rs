//! Each error of `IInference.sol`: which call gets it, and what that call costs.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::collections::{BTreeMap, BTreeSet};

use alloy_sol_types::{SolCall as _, SolInterface as _};
use hyperion_precompile::{
    CALLDATA_BYTES_MAX, Call, Checkpoint, Claim, ClaimWord, Domain, GasSchedule, Logged, Manifest,
    Plan, Precompile, Refusal, Rules, View,
    abi::{
        IArbitrate::arbitrateCall,
        IClaims::{checkpointCall, lookupCall, lookupOfCall, outputCall},
        IInference::{inferCall, modelCall, quoteCall},
        IVerify::{tensorRootCall, verifyProofCall, verifyReceiptCall},
        Inclusion,
        InferenceErrors::{
            BadCalldata, CheckpointUnknown, ClaimDisproved, ClaimNotFound, InclusionInvalid,
            InputRange, InputShape, InputTooLarge, ModelInactive, ModelMismatch, ModelNotFound,
            NotNative, SamplingInvalid, SignerMismatch, TierNotReached, TooMuchWork,
            UnknownFunction, ValueNotAccepted,
        },
        Sampling,
    },
    address, plan,
};
use hyperion_primitives::{Address, B256, Dtype, ModelId, ProgramId, RequestId, U256};
use hyperion_verify::{
    Formula, OutputRows,
    log::{inclusion_proof, leaf_hash, root_of},
    sign::{self, SigningKey},
};

const DOMAIN: Domain = Domain { chain_id: 31_337, verifying_contract: address::REQUESTS };
/// Reads up to four token ids below ten; 1,000 multiply-adds and eight elements a token.
const MODEL: B256 = B256::repeat_byte(1);
const RETIRED: B256 = B256::repeat_byte(2);
const FOREIGN: B256 = B256::repeat_byte(3);
/// As `MODEL`, with 1,500,000,000 multiply-adds a token.
const HEAVY: B256 = B256::repeat_byte(4);
/// Writes tokens below ten, after 4,900 rows at most: 1,000 multiply-adds a row and a pair, 100,000 a token.
const WRITER: B256 = B256::repeat_byte(5);
const NOBODY: B256 = B256::repeat_byte(9);
/// Requests whose claim is logged, and found wrong.
const LOGGED: B256 = B256::repeat_byte(0x11);
const DISPROVED: B256 = B256::repeat_byte(0x12);

/// A log of three entries, the claim of `LOGGED` being the second.
struct Facts {
    models: BTreeMap<ModelId, Manifest>,
    claims: BTreeMap<RequestId, Logged>,
    signature: [u8; 65],
    leaves: [B256; 3],
}

impl Facts {
    fn new() -> Self {
        let manifest = Manifest {
            program_id: ProgramId(B256::repeat_byte(7)),
            active: true,
            native: true,
            causal: false,
            generator: false,
            input_dtype: Dtype::U32,
            input_width: 1,
            vocabulary: 10,
            output_dtype: Dtype::I16,
            output_width: 8,
            output_rows: OutputRows::One,
            rows_max: 4,
            macs: Formula { per_row: 1_000, ..Formula::default() },
            elements: Formula { per_row: 8, ..Formula::default() },
            peak_bytes: 1 << 20,
        };
        let heavy = Formula { per_row: 1_500_000_000, ..Formula::default() };
        let writer = Manifest {
            causal: true,
            generator: true,
            output_dtype: Dtype::U32,
            output_width: 1,
            output_rows: OutputRows::Tokens,
            rows_max: 4_900,
            macs: Formula { base: 0, per_row: 1_000, per_pair: 1_000, per_out: 100_000 },
            elements: Formula { base: 0, per_row: 8, per_pair: 8, per_out: 16 },
            ..manifest
        };
        let models = [
            (WRITER, writer),
            (MODEL, manifest),
            (RETIRED, Manifest { active: false, ..manifest }),
            (FOREIGN, Manifest { native: false, ..manifest }),
            (HEAVY, Manifest { macs: heavy, ..manifest }),
        ];
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let claim = Claim {
            request_id: LOGGED.into(),
            model_id: MODEL.into(),
            worker: sign::address(&key),
            tier: 1,
            ..Claim::default()
        };
        let signed = claim.sign(&DOMAIN, &key);
        let leaf = leaf_hash(&signed.entry());
        let word = ClaimWord::logged(1, false);
        let logged = Logged { claim: signed.claim, word };
        let wrong = Logged { word: ClaimWord { disproved: true, ..word }, ..logged.clone() };
        Self {
            models: models.into_iter().map(|(id, manifest)| (ModelId(id), manifest)).collect(),
            claims: [(RequestId(LOGGED), logged), (RequestId(DISPROVED), wrong)].into(),
            signature: signed.signature,
            leaves: [NOBODY, leaf, NOBODY],
        }
    }

    /// The receipt of the logged claim, which is good.
    fn receipt(&self) -> verifyReceiptCall {
        verifyReceiptCall {
            claim: (&self.claims[&RequestId(LOGGED)].claim).into(),
            signature: self.signature.to_vec().into(),
            proof: Inclusion { index: 1, size: 3, path: inclusion_proof(1, &self.leaves).unwrap() },
        }
    }

    fn bad_receipt(&self, change: impl FnOnce(&mut verifyReceiptCall)) -> Vec<u8> {
        let mut receipt = self.receipt();
        change(&mut receipt);
        receipt.abi_encode()
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
        self.claims.get(request).cloned()
    }

    fn claim_of(&self, request: &RequestId, worker: &Address) -> Option<Logged> {
        self.claim(request).filter(|logged| logged.claim.worker == *worker)
    }
}

fn sampling(top_k: u32) -> Sampling {
    Sampling {
        temperatureQ16: 0,
        topK: top_k,
        topPQ16: 0,
        frequencyQ16: 0,
        presenceQ16: 0,
        tokensMax: 0,
        stopHash: B256::ZERO,
    }
}

/// A run of token ids.
fn infer(model: B256, ids: &[u32]) -> inferCall {
    let input: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    inferCall { modelId: model, input: input.into(), sampling: sampling(0), seed: B256::ZERO }
}

/// The likeliest tokens after a prompt of one.
fn writes(tokens: u32) -> inferCall {
    let sampling = Sampling { topPQ16: 1 << 16, tokensMax: tokens, ..sampling(0) };
    inferCall { sampling, ..infer(WRITER, &[9]) }
}

fn output(request: B256, model: B256, tier: u8) -> Vec<u8> {
    outputCall { requestId: request, modelId: model, minTier: tier }.abi_encode()
}

fn unknown(selector: [u8; 4]) -> Refusal {
    Refusal::UnknownFunction(UnknownFunction { selector: selector.into() })
}

fn bad(argument: u8) -> Refusal {
    Refusal::BadCalldata(BadCalldata { argument })
}

fn asked(facts: &Facts, precompile: Precompile, input: &[u8], value: u64, gas_limit: u64) -> Plan {
    let rules = Rules { domain: DOMAIN, schedule: GasSchedule::default() };
    plan(facts, &rules, &Call { precompile, input, gas_limit, value: U256::from(value) })
}

#[test]
fn every_error_has_its_call_and_its_price() {
    let facts = Facts::new();
    let worker = facts.claims[&RequestId(LOGGED)].claim.worker;
    let quote = |model, bytes, tokens| {
        quoteCall { modelId: model, inputBytes: bytes, tokensMax: tokens }.abi_encode()
    };
    let root = |dims: &[u64], len: usize| {
        tensorRootCall { dtype: 2, dims: dims.to_vec(), data: vec![1; len].into() }.abi_encode()
    };
    let writes = |tokens, change: fn(&mut inferCall)| {
        let mut call = writes(tokens);
        change(&mut call);
        call.abi_encode()
    };
    let with_sampling = |top_k| inferCall { sampling: sampling(top_k), ..infer(MODEL, &[1]) };
    let longer = |mut bytes: Vec<u8>| {
        bytes.push(0);
        bytes
    };
    let proof = verifyProofCall { statement: [1; 4].into(), proof: [2; 4].into() }.abi_encode();
    let step = arbitrateCall { step: [1; 4].into() }.abi_encode();
    let receipt = |change: fn(&mut verifyReceiptCall)| facts.bad_receipt(change);
    use Precompile::{Arbitrate, Claims, Inference, Verify};
    // `infer` costs 3,000 and 3 per word of calldata, 356 bytes and the input's words; then one gas per 1,000
    // multiply-adds, one per eight elements, 250 per tile of input and output.
    let cases = vec![
        ("nothing", Inference, Vec::new(), 0, 60, unknown([0; 4])),
        ("two bytes", Claims, vec![1, 2], 0, 60, unknown([1, 2, 0, 0])),
        ("another's function", Claims, quote(MODEL, 4, 0), 0, 60, unknown(quoteCall::SELECTOR)),
        ("a proof, not built yet", Verify, proof, 0, 60, unknown(verifyProofCall::SELECTOR)),
        ("a step, not built yet", Arbitrate, step, 0, 60, unknown(arbitrateCall::SELECTOR)),
        (
            "calldata over a mebibyte",
            Verify,
            vec![0; CALLDATA_BYTES_MAX + 1],
            0,
            60,
            Refusal::InputTooLarge(InputTooLarge { got: (1 << 20) + 1, max: 1 << 20 }),
        ),
        ("no argument", Inference, modelCall::SELECTOR.to_vec(), 0, 2_700, bad(0)),
        (
            "a header only",
            Inference,
            infer(MODEL, &[1]).abi_encode()[..40].to_vec(),
            0,
            3_006,
            bad(1),
        ),
        (
            "a trailing byte, seen when the run is paid",
            Inference,
            longer(infer(MODEL, &[1]).abi_encode()),
            0,
            3_000 + 3 * 13 + 1 + 1 + 2 * 250,
            bad(255),
        ),
        ("a trailing byte", Claims, longer(checkpointCall {}.abi_encode()), 0, 2_700, bad(255)),
        ("no dimension", Verify, root(&[], 4), 0, 60, bad(1)),
        (
            "a short signature",
            Verify,
            receipt(|call| call.signature = vec![1; 64].into()),
            0,
            6_000,
            bad(1),
        ),
        (
            "a tier that does not exist",
            Verify,
            receipt(|call| call.claim.tier = 9),
            0,
            6_300,
            bad(0),
        ),
        (
            "value with a run",
            Inference,
            infer(MODEL, &[1]).abi_encode(),
            1,
            3_000 + 3 * 13,
            Refusal::ValueNotAccepted(ValueNotAccepted { got: U256::ONE }),
        ),
        (
            "value with a look",
            Claims,
            checkpointCall {}.abi_encode(),
            7,
            2_700,
            Refusal::ValueNotAccepted(ValueNotAccepted { got: U256::from(7) }),
        ),
        (
            "a model of nobody",
            Inference,
            infer(NOBODY, &[1]).abi_encode(),
            0,
            3_039,
            Refusal::ModelNotFound(ModelNotFound { modelId: NOBODY }),
        ),
        (
            "a quote of nobody's",
            Inference,
            quote(NOBODY, 4, 0),
            0,
            2_700,
            Refusal::ModelNotFound(ModelNotFound { modelId: NOBODY }),
        ),
        (
            "a model out of service",
            Inference,
            infer(RETIRED, &[1]).abi_encode(),
            0,
            3_039,
            Refusal::ModelInactive(ModelInactive { modelId: RETIRED }),
        ),
        (
            "a model for workers only",
            Inference,
            infer(FOREIGN, &[1]).abi_encode(),
            0,
            3_039,
            Refusal::NotNative(NotNative { modelId: FOREIGN }),
        ),
        (
            "two tokens of a heavy model",
            Inference,
            infer(HEAVY, &[1, 2]).abi_encode(),
            0,
            3_039,
            Refusal::TooMuchWork(TooMuchWork { got: 3_000_000_000, max: 2_000_000_000 }),
        ),
        (
            "five tokens where four fit",
            Inference,
            infer(MODEL, &[1; 5]).abi_encode(),
            0,
            3_039,
            Refusal::InputTooLarge(InputTooLarge { got: 5, max: 4 }),
        ),
        (
            "no token",
            Inference,
            infer(MODEL, &[]).abi_encode(),
            0,
            3_036,
            Refusal::InputShape(InputShape { gotBytes: 0, rowBytes: 4 }),
        ),
        (
            "half a token's price",
            Inference,
            quote(MODEL, 2, 0),
            0,
            2_700,
            Refusal::InputShape(InputShape { gotBytes: 2, rowBytes: 4 }),
        ),
        (
            "a tensor a byte short",
            Verify,
            root(&[4, 2], 7),
            0,
            60,
            Refusal::InputShape(InputShape { gotBytes: 7, rowBytes: 8 }),
        ),
        (
            "a token beyond the vocabulary, seen when the run is paid",
            Inference,
            infer(MODEL, &[9, 10]).abi_encode(),
            0,
            3_000 + 3 * 13 + 2 + 2 + 2 * 250,
            Refusal::InputRange(InputRange { element: 1, got: 10, max: 9 }),
        ),
        (
            "sampling of a model that draws nothing",
            Inference,
            with_sampling(5).abi_encode(),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 1 }),
        ),
        (
            "a seed of a model that draws nothing",
            Inference,
            inferCall { seed: NOBODY, ..infer(MODEL, &[1]) }.abi_encode(),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 7 }),
        ),
        (
            "tokens of a model that writes none",
            Inference,
            quote(MODEL, 4, 3),
            0,
            2_700,
            Refusal::SamplingInvalid(SamplingInvalid { field: 5 }),
        ),
        (
            "a generator asked for no token",
            Inference,
            writes(0, |_| ()),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 5 }),
        ),
        (
            "a token more than the writer's context",
            Inference,
            writes(5_000, |_| ()),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 5 }),
        ),
        (
            "a quote of them",
            Inference,
            quote(WRITER, 4, 5_000),
            0,
            2_700,
            Refusal::SamplingInvalid(SamplingInvalid { field: 5 }),
        ),
        (
            "more tokens than penalties are counted for",
            Inference,
            writes(4_097, |call| call.sampling.presenceQ16 = 1),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 5 }),
        ),
        (
            "a temperature that is too low",
            Inference,
            writes(2, |call| call.sampling.temperatureQ16 = 655),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 0 }),
        ),
        (
            "no share of the vocabulary",
            Inference,
            writes(2, |call| call.sampling.topPQ16 = 0),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 2 }),
        ),
        (
            "a frequency penalty beyond 32",
            Inference,
            writes(2, |call| call.sampling.frequencyQ16 = (1 << 21) + 1),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 3 }),
        ),
        (
            "a presence penalty below -32",
            Inference,
            writes(2, |call| call.sampling.presenceQ16 = -(1 << 21) - 1),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 4 }),
        ),
        (
            "end ids",
            Inference,
            writes(2, |call| call.sampling.stopHash = NOBODY),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 6 }),
        ),
        (
            "a seed of the likeliest tokens",
            Inference,
            writes(2, |call| call.seed = NOBODY),
            0,
            3_039,
            Refusal::SamplingInvalid(SamplingInvalid { field: 7 }),
        ),
        (
            "more tokens than a call may work for",
            Inference,
            writes(2_000, |_| ()),
            0,
            3_039,
            // 2,000 rows, their pairs, and 2,000 tokens.
            Refusal::TooMuchWork(TooMuchWork {
                got: 2_000 * 1_000 + 1_000 * 2_001 * 1_000 + 2_000 * 100_000,
                max: 2_000_000_000,
            }),
        ),
        (
            "a prompt of a token that is none, seen when the run is paid",
            Inference,
            writes(3, |call| call.input = [10, 0, 0, 0].into()),
            0,
            // Three rows and their six pairs, three tokens; elements; a tile each way.
            3_039 + (3 + 6 + 300) + (3 * 8 + 6 * 8 + 3 * 16) / 8 + 2 * 250,
            Refusal::InputRange(InputRange { element: 0, got: 10, max: 9 }),
        ),
        (
            "a request of nobody",
            Claims,
            lookupCall { requestId: NOBODY }.abi_encode(),
            0,
            2_700,
            Refusal::ClaimNotFound(ClaimNotFound { requestId: NOBODY }),
        ),
        (
            "a request that another worker answered",
            Claims,
            lookupOfCall { requestId: LOGGED, worker: Address::repeat_byte(1) }.abi_encode(),
            0,
            2_700,
            Refusal::ClaimNotFound(ClaimNotFound { requestId: LOGGED }),
        ),
        (
            "the output of a claim that is wrong",
            Claims,
            output(DISPROVED, MODEL, 1),
            0,
            2_700,
            Refusal::ClaimDisproved(ClaimDisproved { requestId: DISPROVED }),
        ),
        (
            "the output of another model",
            Claims,
            output(LOGGED, HEAVY, 1),
            0,
            2_700,
            Refusal::ModelMismatch(ModelMismatch { got: MODEL, want: HEAVY }),
        ),
        (
            "a tier that is still to come",
            Claims,
            output(LOGGED, MODEL, 4),
            0,
            2_700,
            Refusal::TierNotReached(TierNotReached { got: 1, want: 4 }),
        ),
        (
            "a signature of nobody",
            Verify,
            receipt(|call| call.signature = vec![0; 65].into()),
            0,
            6_300,
            Refusal::SignerMismatch(SignerMismatch { got: Address::ZERO, want: worker }),
        ),
        (
            "a size at which no block ended",
            Verify,
            receipt(|call| call.proof.size = 2),
            0,
            6_300,
            Refusal::CheckpointUnknown(CheckpointUnknown { size: 2 }),
        ),
        (
            "a path that leads elsewhere",
            Verify,
            receipt(|call| call.proof.index = 0),
            0,
            6_300,
            Refusal::InclusionInvalid(InclusionInvalid { index: 0, size: 3 }),
        ),
    ];
    let mut met = BTreeSet::new();
    for (name, precompile, input, value, gas, want) in cases {
        match asked(&facts, precompile, &input, value, u64::MAX) {
            Plan::Refuse { gas: used, revert_data } => {
                let got = Refusal::abi_decode(&revert_data).unwrap();
                assert_eq!((got, used), (want.clone(), gas), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
        let enough = asked(&facts, precompile, &input, value, gas);
        assert!(matches!(enough, Plan::Refuse { .. }), "{name}: {enough:?}");
        assert_eq!(asked(&facts, precompile, &input, value, gas - 1), Plan::OutOfGas, "{name}");
        met.insert(want.selector());
    }

    // What comes with proofs and disputes; and `OutputMismatch`, which consumers revert with themselves.
    let others = ["OutputMismatch", "ProofInvalid", "StepInvalid"];
    let missing: Vec<&str> = Refusal::SELECTORS
        .iter()
        .filter(|selector| !met.contains(*selector))
        .map(|selector| Refusal::name_by_selector(*selector).unwrap())
        .collect();
    assert_eq!(BTreeSet::from_iter(missing), BTreeSet::from(others));
}

/// The calls that the table bends are good before.
#[test]
fn the_same_calls_are_taken_when_nothing_is_wrong() {
    let facts = Facts::new();
    let receipt = facts.receipt().abi_encode();
    let claim = &facts.claims[&RequestId(LOGGED)].claim;
    let done = asked(&facts, Precompile::Verify, &receipt, 0, 6_300);
    assert_eq!(done, Plan::Done { gas: 6_300, output: claim.digest(&DOMAIN).0.to_vec() });
    let run = infer(MODEL, &[9, 9]).abi_encode();
    let plan = asked(&facts, Precompile::Inference, &run, 0, 3_543);
    assert!(matches!(plan, Plan::Infer { gas: 3_543, .. }), "{plan:?}");
}

/// A generator's call is priced before it runs: the prompt read and exactly `tokensMax` tokens written, each behind all before it.
#[test]
fn a_generator_is_paid_for_every_token_and_quoted_so() {
    let facts = Facts::new();
    for (ids, tokens, temperature) in [(vec![9], 1, 0), (vec![1, 2, 3], 200, 1 << 16)] {
        let sampling = Sampling { temperatureQ16: temperature, ..writes(tokens).sampling };
        let seed = if temperature == 0 { B256::ZERO } else { NOBODY };
        let call = inferCall { sampling, seed, ..infer(WRITER, &ids) };
        let rows = ids.len() as u64 + u64::from(tokens) - 1;
        let pairs: u64 = (1..=rows).sum();
        let outputs = u64::from(tokens);
        let macs = 1_000 * (rows + pairs) + 100_000 * outputs;
        let tiles = 1 + (4 * outputs).div_ceil(1_024);
        let gas = 3_039 + macs / 1_000 + rows + pairs + 2 * outputs + 250 * tiles;
        let plan = asked(&facts, Precompile::Inference, &call.abi_encode(), 0, gas);
        let Plan::Infer { gas: paid, call: planned } = plan else { panic!("{plan:?}") };
        assert_eq!((paid, planned.dims, planned.dtype), (gas, [outputs, 1], Dtype::U32));
        assert_eq!((planned.run.seed, planned.run.sampling.tokens_max), (seed, tokens));
        let less = asked(&facts, Precompile::Inference, &call.abi_encode(), 0, gas - 1);
        assert_eq!(less, Plan::OutOfGas);

        let quote =
            quoteCall { modelId: WRITER, inputBytes: 4 * ids.len() as u64, tokensMax: tokens };
        let quoted = asked(&facts, Precompile::Inference, &quote.abi_encode(), 0, 2_700);
        let Plan::Done { output, .. } = quoted else { panic!("{quoted:?}") };
        let quoted = quoteCall::abi_decode_returns(&output).unwrap();
        assert_eq!((quoted.gasCost, quoted.macs, quoted.fits), (gas, macs, true));
    }
    let model = modelCall { modelId: WRITER }.abi_encode();
    let Plan::Done { output, .. } = asked(&facts, Precompile::Inference, &model, 0, 2_700) else {
        panic!("the model is registered")
    };
    let model = modelCall::abi_decode_returns(&output).unwrap();
    assert!(model.native && model.generator && model.causal);
    assert_eq!((model.macsPerPair, model.macsPerOut, model.rowsMax), (1_000, 100_000, 4_900));
}
