//! `receipt.json`: what a person keeps of an answer, whole in one file.
//!
//! An envelope around the tlog-proof text of [`hyperion_verify::Receipt`], version 1; `docs/http.md` shows one. Bytes
//! are `0x` and lower-case hex, integers of 64 bits and wider decimal strings, narrower ones numbers. Another version
//! is refused, an unknown key ignored. Reading checks the form alone; the functions of [`Envelope`] and of
//! [`hyperion_verify::receipt`] say whether it holds.

use hyperion_engine::Drawing;
use hyperion_primitives::{Address, B256, Dtype, TensorRoot, U256, input_hash, tensor_root};
use hyperion_verify::{
    Claim, Domain, Receipt, ReceiptError, Request, Sampling, SignedClaim, Trust,
    receipt::{AnswerError, check_output, check_request},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::plain::{Decimal, Hex, HexBytes};

/// The version that is written and the only one that is read.
const VERSION: u32 = 1;
/// The repetition penalty that penalises nothing.
const REPETITION_OFF: u32 = 65_536;

/// A receipt with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where the signature counts.
    pub domain: Domain,
    /// What was asked, if the file says so.
    pub request: Option<Request>,
    /// How the answer was drawn, if a generator gave it and the file says so.
    pub sampling: Option<Drawing>,
    /// The claim with its signature.
    pub claim: SignedClaim,
    /// The tlog-proof text; [`Envelope::receipt`] parses it.
    pub proof: String,
    /// What the model read, if the file holds it.
    pub input: Option<Vec<TensorData>>,
    /// What the model gave, if the file holds it.
    pub output: Option<Vec<TensorData>>,
}

/// A tensor with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorData {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, row-major.
    pub dims: Vec<u64>,
    /// Elements, little-endian.
    pub data: Vec<u8>,
}

impl TensorData {
    /// The tensor's root; `None` when shape and length do not agree.
    pub fn root(&self) -> Option<TensorRoot> {
        tensor_root(self.dtype, &self.dims, &self.data)
    }
}

/// Why text is no envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON of the documented form.
    #[error("not a receipt: {0}")]
    Json(#[from] serde_json::Error),
    /// A field has a value that it cannot have.
    #[error("not a receipt: {field} is {got}, want {want}")]
    Field {
        /// Which, as the file spells it.
        field: &'static str,
        /// What stands there.
        got: String,
        /// What could.
        want: String,
    },
}

/// The first thing wrong between an envelope and its own proof, input or output.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The proof, its inclusion, its checkpoint, or the output.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// The proof is about another entry than the claim's.
    #[error("log: the proof is about another entry than this claim's")]
    OtherEntry,
    /// The request is not the one that the claim answers.
    #[error("request: {0}")]
    Request(#[from] AnswerError),
    /// The settings are not those that the claim is about.
    #[error("sampling: the settings hash to {got}, the claim says {want}")]
    Sampling {
        /// Hash of the settings given.
        got: B256,
        /// The claim's.
        want: B256,
    },
    /// A tensor whose bytes do not fill its shape.
    #[error("{0}: a tensor's bytes do not fill its shape")]
    Shape(&'static str),
    /// The input is another.
    #[error("input: the tensors hash to {got}, the claim says {want}")]
    Input {
        /// Hash of the tensors given.
        got: B256,
        /// The claim's.
        want: B256,
    },
}

impl Envelope {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When the text is not an envelope of version 1.
    pub fn parse(text: &str) -> Result<Self, EnvelopeError> {
        serde_json::from_str::<Json>(text)?.try_into()
    }

    /// The file, on one line and with a newline at its end.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string(&Json::from(self)).expect("strings, numbers and lists");
        text.push('\n');
        text
    }

    /// The same as a JSON value.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(Json::from(self)).expect("strings, numbers and lists")
    }

    /// The proof.
    ///
    /// # Errors
    ///
    /// When its text is malformed.
    pub fn receipt(&self) -> Result<Receipt, ReceiptError> {
        self.proof.parse()
    }

    /// Accepts that the log of `trust` holds this very claim; gives the proof.
    ///
    /// # Errors
    ///
    /// When the proof is malformed or of another entry, leads elsewhere, or ends in somebody else's checkpoint.
    pub fn check_log(&self, trust: &Trust) -> Result<Receipt, CheckError> {
        let receipt = self.receipt()?;
        if receipt.entry != self.claim.entry() {
            return Err(CheckError::OtherEntry);
        }
        receipt.check_inclusion().map_err(ReceiptError::from)?;
        receipt.check_checkpoint(trust)?;
        Ok(receipt)
    }

    /// Accepts the request, if there is one, as the one that the claim answers.
    ///
    /// # Errors
    ///
    /// When the claim answers another.
    pub fn check_request(&self) -> Result<(), CheckError> {
        match &self.request {
            Some(request) => Ok(check_request(&self.claim.claim, request, &self.domain, None)?),
            None => Ok(()),
        }
    }

    /// Accepts the settings, if there are some, as those that the claim is about.
    ///
    /// # Errors
    ///
    /// When they hash to something else.
    pub fn check_sampling(&self) -> Result<(), CheckError> {
        let Some(drawing) = &self.sampling else { return Ok(()) };
        let (got, want) = (drawing.sampling().hash(), self.claim.claim.sampling_hash);
        if got == want { Ok(()) } else { Err(CheckError::Sampling { got, want }) }
    }

    /// Accepts the input, if there is one, as the one that the claim is about.
    ///
    /// # Errors
    ///
    /// When it is malformed or hashes to something else.
    pub fn check_input(&self) -> Result<(), CheckError> {
        let Some(tensors) = &self.input else { return Ok(()) };
        let (got, want) = (input_hash(&roots("input", tensors)?), self.claim.claim.input_hash);
        if got == want { Ok(()) } else { Err(CheckError::Input { got, want }) }
    }

    /// Accepts the output, if there is one, as the one that the claim is about.
    ///
    /// # Errors
    ///
    /// When it is malformed or hashes to something else.
    pub fn check_output(&self) -> Result<(), CheckError> {
        let Some(tensors) = &self.output else { return Ok(()) };
        Ok(check_output(&self.claim.claim, &roots("output", tensors)?)?)
    }
}

fn roots(what: &'static str, tensors: &[TensorData]) -> Result<Vec<TensorRoot>, CheckError> {
    tensors.iter().map(TensorData::root).collect::<Option<_>>().ok_or(CheckError::Shape(what))
}

#[derive(Serialize, Deserialize)]
struct Json {
    version: u32,
    domain: DomainJson,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    request: Option<RequestJson>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    sampling: Option<SamplingJson>,
    claim: ClaimJson,
    signature: Hex<65>,
    proof: String,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    input: Option<Vec<TensorJson>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    output: Option<Vec<TensorJson>>,
}

/// A key that may be absent but is not null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(de: D) -> Result<Option<T>, D::Error> {
    T::deserialize(de).map(Some)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DomainJson {
    name: String,
    version: String,
    chain_id: Decimal<u64>,
    verifying_contract: Hex<20>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestJson {
    requester: Hex<20>,
    worker: Hex<20>,
    model_id: Hex<32>,
    input_hash: Hex<32>,
    sampling_hash: Hex<32>,
    tier: u8,
    seed_mode: u8,
    entropy: Hex<32>,
    fee_asset: Hex<20>,
    fee_max: Decimal<u128>,
    deadline: Decimal<u64>,
    nonce: Decimal<U256>,
}

/// How an answer was drawn, as JSON spells it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SamplingJson {
    temperature_q16: u32,
    top_k: u32,
    #[serde(rename = "topPQ16")]
    top_p_q16: u32,
    frequency_q16: i32,
    presence_q16: i32,
    tokens_max: u32,
    stop_tokens: Vec<u32>,
    /// Absent where no text ends the answer.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    stop_texts: Option<Vec<String>>,
    /// Absent where it is off, so that settings have one spelling.
    #[serde(
        rename = "minPQ16",
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    min_p_q16: Option<u32>,
    /// Absent where it is off.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    repetition_q16: Option<u32>,
}

/// A claim as JSON spells it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClaimJson {
    request_id: Hex<32>,
    model_id: Hex<32>,
    input_hash: Hex<32>,
    output_hash: Hex<32>,
    sampling_hash: Hex<32>,
    seed: Hex<32>,
    trace_root: Hex<32>,
    in_tokens: u32,
    out_tokens: u32,
    macs: Decimal<u64>,
    challenge_until: Decimal<u64>,
    tier: u8,
    worker: Hex<20>,
}

#[derive(Serialize, Deserialize)]
struct TensorJson {
    dtype: String,
    dims: Vec<Decimal<u64>>,
    data: HexBytes,
}

impl From<&Envelope> for Json {
    fn from(envelope: &Envelope) -> Self {
        let tensors = |tensors: &Option<Vec<TensorData>>| {
            tensors.as_ref().map(|tensors| tensors.iter().map(TensorJson::from).collect())
        };
        Self {
            version: VERSION,
            domain: DomainJson {
                name: Domain::NAME.to_owned(),
                version: Domain::VERSION.to_owned(),
                chain_id: Decimal(envelope.domain.chain_id),
                verifying_contract: Hex(envelope.domain.verifying_contract.into_array()),
            },
            request: envelope.request.as_ref().map(RequestJson::from),
            sampling: envelope.sampling.as_ref().map(SamplingJson::from),
            claim: ClaimJson::from(&envelope.claim.claim),
            signature: Hex(envelope.claim.signature),
            proof: envelope.proof.clone(),
            input: tensors(&envelope.input),
            output: tensors(&envelope.output),
        }
    }
}

impl TryFrom<Json> for Envelope {
    type Error = EnvelopeError;

    fn try_from(json: Json) -> Result<Self, EnvelopeError> {
        let same = |field, got: String, want: String| {
            if got == want { Ok(()) } else { Err(EnvelopeError::Field { field, got, want }) }
        };
        same("version", json.version.to_string(), VERSION.to_string())?;
        same("domain.name", json.domain.name, Domain::NAME.to_owned())?;
        same("domain.version", json.domain.version, Domain::VERSION.to_owned())?;
        let tensors = |tensors: Option<Vec<TensorJson>>| {
            tensors.map(|list| list.into_iter().map(TensorData::try_from).collect()).transpose()
        };
        Ok(Self {
            domain: Domain {
                chain_id: json.domain.chain_id.0,
                verifying_contract: Address::new(json.domain.verifying_contract.0),
            },
            request: json.request.map(Request::from),
            sampling: json.sampling.map(Drawing::try_from).transpose()?,
            claim: SignedClaim { claim: json.claim.into(), signature: json.signature.0 },
            proof: json.proof,
            input: tensors(json.input)?,
            output: tensors(json.output)?,
        })
    }
}

impl From<&Drawing> for SamplingJson {
    fn from(drawing: &Drawing) -> Self {
        let sampling = drawing.sampling();
        Self {
            temperature_q16: sampling.temperature_q16,
            top_k: sampling.top_k,
            top_p_q16: sampling.top_p_q16,
            frequency_q16: sampling.frequency_q16,
            presence_q16: sampling.presence_q16,
            tokens_max: sampling.tokens_max,
            stop_tokens: drawing.stop_ids().to_vec(),
            stop_texts: Some(drawing.stop_texts().to_vec()).filter(|texts| !texts.is_empty()),
            min_p_q16: Some(sampling.min_p_q16).filter(|q16| *q16 != 0),
            repetition_q16: Some(sampling.repetition()).filter(|q16| *q16 != REPETITION_OFF),
        }
    }
}

impl TryFrom<SamplingJson> for Drawing {
    type Error = EnvelopeError;

    fn try_from(json: SamplingJson) -> Result<Self, EnvelopeError> {
        let sampling = Sampling {
            temperature_q16: json.temperature_q16,
            top_k: json.top_k,
            top_p_q16: json.top_p_q16,
            frequency_q16: json.frequency_q16,
            presence_q16: json.presence_q16,
            tokens_max: json.tokens_max,
            min_p_q16: json.min_p_q16.unwrap_or(0),
            repetition_q16: json.repetition_q16.unwrap_or(REPETITION_OFF),
            ..Sampling::default()
        };
        let off_said = json.stop_texts.as_ref().is_some_and(Vec::is_empty)
            || json.min_p_q16 == Some(0)
            || matches!(json.repetition_q16, Some(0 | REPETITION_OFF));
        let stops = (json.stop_tokens.clone(), json.stop_texts.clone().unwrap_or_default());
        let drawing = Self::new(sampling, json.stop_tokens)
            .and_then(|drawing| drawing.with_stop_texts(json.stop_texts.unwrap_or_default()));
        let field =
            |got: String, want: String| EnvelopeError::Field { field: "sampling", got, want };
        let drawing = drawing.map_err(|why| {
            field("out of range".to_owned(), format!("settings that can be: {why}"))
        })?;
        // Another order, or "off" spelled out, would hash alike: two files that differ would say the same.
        if off_said {
            return Err(field(
                "a setting that is off".to_owned(),
                "minPQ16, repetitionQ16 and stopTexts where they are on".to_owned(),
            ));
        }
        if drawing.stop_ids() != stops.0 {
            return Err(field("stopTokens in disorder".to_owned(), "ascending ids".to_owned()));
        }
        if drawing.stop_texts() != stops.1 {
            return Err(field("stopTexts in disorder".to_owned(), "ascending texts".to_owned()));
        }
        Ok(drawing)
    }
}

impl From<&Request> for RequestJson {
    fn from(request: &Request) -> Self {
        Self {
            requester: Hex(request.requester.into_array()),
            worker: Hex(request.worker.into_array()),
            model_id: Hex(request.model_id.0.0),
            input_hash: Hex(request.input_hash.0),
            sampling_hash: Hex(request.sampling_hash.0),
            tier: request.tier,
            seed_mode: request.seed_mode,
            entropy: Hex(request.entropy.0),
            fee_asset: Hex(request.fee_asset.into_array()),
            fee_max: Decimal(request.fee_max),
            deadline: Decimal(request.deadline),
            nonce: Decimal(request.nonce),
        }
    }
}

impl From<RequestJson> for Request {
    fn from(json: RequestJson) -> Self {
        Self {
            requester: Address::new(json.requester.0),
            worker: Address::new(json.worker.0),
            model_id: json.model_id.0.into(),
            input_hash: B256::new(json.input_hash.0),
            sampling_hash: B256::new(json.sampling_hash.0),
            tier: json.tier,
            seed_mode: json.seed_mode,
            entropy: B256::new(json.entropy.0),
            fee_asset: Address::new(json.fee_asset.0),
            fee_max: json.fee_max.0,
            deadline: json.deadline.0,
            nonce: json.nonce.0,
        }
    }
}

impl From<&Claim> for ClaimJson {
    fn from(claim: &Claim) -> Self {
        Self {
            request_id: Hex(claim.request_id.0.0),
            model_id: Hex(claim.model_id.0.0),
            input_hash: Hex(claim.input_hash.0),
            output_hash: Hex(claim.output_hash.0),
            sampling_hash: Hex(claim.sampling_hash.0),
            seed: Hex(claim.seed.0),
            trace_root: Hex(claim.trace_root.0),
            in_tokens: claim.in_tokens,
            out_tokens: claim.out_tokens,
            macs: Decimal(claim.macs),
            challenge_until: Decimal(claim.challenge_until),
            tier: claim.tier,
            worker: Hex(claim.worker.into_array()),
        }
    }
}

impl From<ClaimJson> for Claim {
    fn from(json: ClaimJson) -> Self {
        Self {
            request_id: json.request_id.0.into(),
            model_id: json.model_id.0.into(),
            input_hash: B256::new(json.input_hash.0),
            output_hash: B256::new(json.output_hash.0),
            sampling_hash: B256::new(json.sampling_hash.0),
            seed: B256::new(json.seed.0),
            trace_root: B256::new(json.trace_root.0),
            in_tokens: json.in_tokens,
            out_tokens: json.out_tokens,
            macs: json.macs.0,
            challenge_until: json.challenge_until.0,
            tier: json.tier,
            worker: Address::new(json.worker.0),
        }
    }
}

impl From<&TensorData> for TensorJson {
    fn from(tensor: &TensorData) -> Self {
        Self {
            dtype: tensor.dtype.name().to_owned(),
            dims: tensor.dims.iter().copied().map(Decimal).collect(),
            data: HexBytes(tensor.data.clone()),
        }
    }
}

impl TryFrom<TensorJson> for TensorData {
    type Error = EnvelopeError;

    fn try_from(json: TensorJson) -> Result<Self, EnvelopeError> {
        let dtype = Dtype::from_name(&json.dtype).filter(|dtype| *dtype != Dtype::W8r);
        let dtype = dtype.ok_or_else(|| EnvelopeError::Field {
            field: "dtype",
            got: json.dtype.clone(),
            want: "i8 to u64".to_owned(),
        })?;
        Ok(Self {
            dtype,
            dims: json.dims.into_iter().map(|dim| dim.0).collect(),
            data: json.data.0,
        })
    }
}
