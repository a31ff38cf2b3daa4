//! A chain's facts for calls of precompiles, and good calls over them.

use std::{collections::BTreeMap, io::Cursor, path::Path, sync::Arc};

use alloy_sol_types::SolCall as _;
use hyperion_executor::precompile::{
    Checkpoint, Claim, ClaimWord, Domain, GasSchedule, Logged, Manifest, Precompile, Rules, View,
    abi::{
        IArbitrate::arbitrateCall,
        IClaims::{checkpointCall, lookupCall, lookupOfCall, outputCall},
        IInference::{inferCall, inferHashCall, modelCall, quoteCall},
        IVerify::{tensorRootCall, verifyProofCall, verifyReceiptCall},
        Inclusion, Sampling,
    },
    address,
};
use hyperion_model::{Model, Trust, import};
use hyperion_primitives::{Address, B256, ModelId, RequestId, keccak256};
use hyperion_verify::{
    log::{inclusion_proof, leaf_hash, root_of},
    sign::{self, SigningKey},
};

/// What claims are signed for.
pub const DOMAIN: Domain = Domain { chain_id: 31_337, verifying_contract: address::REQUESTS };
/// Registered, but no block may run it.
const FOREIGN: ModelId = ModelId(B256::repeat_byte(0xf3));
/// An image of a seven, as the digits model reads it.
pub const SEVEN: &[u8] = include_bytes!("../../fixtures/digits/seven.i32");

/// Bytes of the committed digits model's file.
pub fn digits() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits");
    let mut bytes = Vec::new();
    import::mlp(&folder).expect("the committed model").write(&mut bytes).expect("memory");
    bytes
}

/// The committed text model.
fn pydoc() -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/pydoc");
    let mut file = Cursor::new(Vec::new());
    import::write(&folder, &mut file, &mut |_, _| {}).expect("the committed model");
    Model::from_bytes(file.into_inner(), Trust::Roots).expect("just written")
}

/// What the precompiles see: three models, and a log of three entries, the second of them a claim.
#[derive(Debug)]
pub struct Facts {
    /// The models that run: one that reads digits, one that writes.
    pub digits: Arc<Model>,
    pub pydoc: Arc<Model>,
    /// The claim.
    pub logged: Logged,
    models: BTreeMap<ModelId, Manifest>,
    signature: [u8; 65],
    leaves: [B256; 3],
}

impl Facts {
    /// The facts; always the same.
    pub fn new() -> Self {
        let digits = Model::from_bytes(digits(), Trust::Roots).expect("just written");
        let pydoc = pydoc();
        let key = SigningKey::from_slice(&[7; 32]).expect("a scalar");
        let claim = Claim {
            request_id: RequestId(keccak256("request")),
            model_id: digits.id(),
            output_hash: keccak256("output"),
            worker: sign::address(&key),
            tier: 1,
            ..Claim::default()
        };
        let signed = claim.sign(&DOMAIN, &key);
        let leaves = [keccak256([0]), leaf_hash(&signed.entry()), keccak256([2])];
        let manifest = *digits.manifest();
        let foreign = Manifest { native: false, ..manifest };
        let logged = Logged { claim: signed.claim, word: ClaimWord::logged(1, false) };
        Self {
            models: BTreeMap::from([
                (digits.id(), manifest),
                (pydoc.id(), *pydoc.manifest()),
                (FOREIGN, foreign),
            ]),
            digits: Arc::new(digits),
            pydoc: Arc::new(pydoc),
            logged,
            signature: signed.signature,
            leaves,
        }
    }

    /// The rules that the calls are made under.
    pub fn rules() -> Rules {
        Rules { domain: DOMAIN, schedule: GasSchedule::default() }
    }

    /// One call of each function of a precompile, the one that reaches deepest first.
    pub fn good(&self, precompile: Precompile) -> Vec<Vec<u8>> {
        let model = self.digits.id().0;
        let claim = &self.logged.claim;
        let request = claim.request_id.0;
        match precompile {
            Precompile::Inference => {
                let infer = inferCall {
                    modelId: model,
                    input: SEVEN.into(),
                    sampling: none(),
                    seed: B256::ZERO,
                };
                let hash = inferHashCall {
                    modelId: model,
                    input: SEVEN.into(),
                    sampling: none(),
                    seed: B256::ZERO,
                };
                let foreign = inferCall { modelId: FOREIGN.0, ..infer.clone() };
                let quote = quoteCall { modelId: model, inputBytes: 256, tokensMax: 0 };
                let writer = self.pydoc.id().0;
                let writes = |temperature, seed| inferCall {
                    modelId: writer,
                    input: [3, 77, 1, 4].into_iter().flat_map(u32::to_le_bytes).collect(),
                    sampling: Sampling {
                        temperatureQ16: temperature,
                        topPQ16: 1 << 16,
                        tokensMax: 3,
                        ..none()
                    },
                    seed,
                };
                let text = quoteCall { modelId: writer, inputBytes: 16, tokensMax: 3 };
                vec![
                    infer.abi_encode(),
                    hash.abi_encode(),
                    foreign.abi_encode(),
                    quote.abi_encode(),
                    writes(0, B256::ZERO).abi_encode(),
                    writes(1 << 16, keccak256("seed")).abi_encode(),
                    text.abi_encode(),
                    modelCall { modelId: model }.abi_encode(),
                ]
            }
            Precompile::Claims => vec![
                outputCall { requestId: request, modelId: model, minTier: 1 }.abi_encode(),
                lookupCall { requestId: request }.abi_encode(),
                lookupOfCall { requestId: request, worker: claim.worker }.abi_encode(),
                checkpointCall {}.abi_encode(),
            ],
            Precompile::Verify => {
                let path = inclusion_proof(1, &self.leaves).expect("three leaves");
                let receipt = verifyReceiptCall {
                    claim: claim.into(),
                    signature: self.signature.to_vec().into(),
                    proof: Inclusion { index: 1, size: 3, path },
                };
                let root = tensorRootCall { dtype: 2, dims: vec![300], data: vec![9; 300].into() };
                let proof =
                    verifyProofCall { statement: vec![1; 40].into(), proof: vec![2; 100].into() };
                vec![receipt.abi_encode(), root.abi_encode(), proof.abi_encode()]
            }
            Precompile::Arbitrate => vec![arbitrateCall { step: vec![1; 70].into() }.abi_encode()],
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
