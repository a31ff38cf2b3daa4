//! Wire ↔ domain, and the one place where a job is built.
//!
//! Every surface turns its message into an [`Ask`], and [`Door::job`] turns that into the engine's `Job`: two ways to
//! the engine would be two products.

use std::sync::Arc;

use bytes::Bytes;
use hyperion_engine::{Answer, Class, Invalid, Job, KeyId, ModelInfo};
use hyperion_primitives::{Address, B256, Dtype, ModelId, RequestId, TensorRoot, U256};
use hyperion_verify::{
    Claim, InputError, Request, SignedClaim,
    claim::{STOP_TEXT_BYTES_MAX, STOP_TEXTS_MAX},
    sign,
};
use serde_json::Value;

use crate::{
    auth::Caller,
    blob::Blob,
    deadline::Deadline,
    door::Door,
    float::{AnyModel, Terms, Work},
    r#gen::v1,
    limits::at_most,
    plain,
    status::{Code, Error},
    writing::drawing,
};

/// A call of any surface, read and not yet judged by the model it names.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) model: AnyModel,
    pub(crate) input: Input,
    /// How a generator is to draw; what is absent or zero is filled in.
    pub(crate) sampling: Option<v1::Sampling>,
    pub(crate) request: Request,
    pub(crate) signature: Option<[u8; 65]>,
    /// Whether the tokens of the answer come with log probabilities.
    pub(crate) logprobs: bool,
}

/// What the model is to read.
#[derive(Debug)]
pub(crate) enum Input {
    /// One tensor, its shape checked by whoever read it.
    Tensor(Blob),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Text for the model's tokenizer.
    Text(String),
    /// Messages for the model's chat template, and tools if the caller named some.
    Chat(Vec<Value>, Option<Value>),
}

impl Input {
    /// Whether the node turns it into token ids, which the caller then has to be told.
    pub(crate) const fn is_words(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Chat(..))
    }
}

/// Text beyond this is tokenized, and input beyond it hashed, where blocking is allowed.
const HEAVY_BYTES: usize = 32 << 10;

impl Door {
    /// The job of a call: every check made, every hash filled.
    pub(crate) async fn job(
        self: &Arc<Self>,
        ask: Ask,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Work, Error> {
        let Ask { model, input, sampling, mut request, signature, logprobs } = ask;
        let model = match model {
            AnyModel::Exact(model) => model,
            AnyModel::Float(_) if logprobs => {
                let text = "is not supported by models in floating point";
                return Err(Error::at(Code::UnsupportedParameter, "logprobs", text));
            }
            AnyModel::Float(model) => {
                let terms = Terms { sampling, request, signature };
                return Box::pin(self.float_job(model, input, terms)).await.map(Work::Float);
            }
        };
        let generates = model.model.manifest().generator;
        terms(&mut request, generates, self.clock.unix_s())?;
        let stops = sampling.as_ref().map_or(0, |sampling| sampling.stop_tokens.len());
        at_most("sampling.stop_tokens", "tokens", stops, self.limits.stop_tokens_max)?;
        stop_texts("sampling.stop_texts", sampling.as_ref().map_or(&[], |s| &s.stop_texts))?;
        let draws = sampling.as_ref().is_some_and(|sampling| *sampling != v1::Sampling::default());
        if !generates && draws {
            let text = "the model draws nothing: sampling must be left out";
            return Err(Error::at(Code::SamplingInvalid, "sampling", text));
        }
        if !generates && logprobs {
            return Err(Error::bad_field("logprobs", "this model generates no tokens"));
        }
        let heavy = match &input {
            Input::Tensor(tensor) => tensor.data.len(),
            Input::Tokens(ids) => ids.len() * 4,
            Input::Text(text) => text.len(),
            Input::Chat(messages, tools) => weight(messages, tools.as_ref()),
        } > HEAVY_BYTES;
        let door = Arc::clone(self);
        let complete = move || {
            let input = door.elements(model.id, input_form(&model), input)?;
            if !generates {
                return door.engine.complete(model.id, request, input).map_err(Error::from);
            }
            let in_tokens = u32::try_from(input.len() / 4).unwrap_or(u32::MAX);
            let drawing = drawing(&model, door.face(model.id), sampling, in_tokens)?;
            if !drawing.is_greedy() && request.entropy.is_zero() {
                request.entropy = B256::from(rand::random::<[u8; 32]>());
            }
            let job = door.engine.complete_drawn(model.id, request, input, drawing);
            job.map_err(Error::from)
        };
        let job = if heavy {
            tokio::task::spawn_blocking(complete)
                .await
                .unwrap_or_else(|_| Err(Error::new(Code::Internal, "reading the input failed")))?
        } else {
            complete()?
        };
        check_signature(&job, signature.as_ref())?;
        let class = if signature.is_some() { Class::Paid } else { Class::Free };
        let left_us = u64::try_from(deadline.left().as_micros()).unwrap_or(u64::MAX);
        let job = job
            .class(class)
            .logprobs(logprobs)
            .signature(signature)
            .deadline_us(self.clock.now_us().saturating_add(left_us));
        Ok(Work::Exact(match caller.key_id() {
            Some(id) => job.owner(KeyId::from(id)),
            None => job,
        }))
    }

    /// The elements of the model's one input tensor, little-endian.
    pub(crate) fn elements(
        &self,
        model: ModelId,
        form: Form,
        input: Input,
    ) -> Result<Arc<[u8]>, Error> {
        let ids = match input {
            Input::Tensor(tensor) => {
                form.check("input", &tensor)?;
                return Ok(Arc::from(&tensor.data[..]));
            }
            Input::Tokens(ids) => ids,
            Input::Text(text) => {
                let encoder = self.face(model).text.as_ref().ok_or_else(|| {
                    Error::bad_field("text", format!("this model reads {form}, not text"))
                })?;
                encoder.encode(&text).map_err(|why| Error::bad_field("text", why))?
            }
            Input::Chat(messages, tools) => {
                let refuse = |why: String| Error::at(Code::UnsupportedParameter, "chat", why);
                let writing = self.face(model).writing.as_ref();
                let writing = writing.ok_or_else(|| {
                    refuse("this model generates nothing and takes no chat".to_owned())
                })?;
                writing.decoder.chat(&messages, tools.as_ref()).map_err(refuse)?
            }
        };
        if form.dtype != Dtype::U32 {
            return Err(Error::bad_field(
                "tokens",
                format!("this model reads {form}, not token ids"),
            ));
        }
        if ids.is_empty() {
            return Err(Error::at(Code::InputShape, "tokens", "at least one token is needed"));
        }
        Ok(ids.iter().flat_map(|id| id.to_le_bytes()).collect())
    }

    /// A tensor of the wire, its blob looked up.
    pub(crate) fn tensor(&self, field: &'static str, tensor: v1::Tensor) -> Result<Blob, Error> {
        use v1::tensor::Body;
        at_most(field, "bytes of name", tensor.name.len(), self.limits.name_bytes_max)?;
        at_most(field, "dimensions", tensor.dims.len(), self.limits.dims_max)?;
        let stated = (tensor.dtype != 0).then(|| dtype(field, tensor.dtype)).transpose()?;
        match tensor.body {
            None => Err(Error::bad_field(field, "a tensor has data or names a blob")),
            Some(Body::Data(data)) => {
                let max = self.limits.tensor_bytes_max;
                if data.len() as u64 > max {
                    let text = format!(
                        "{} bytes, at most {max} fit inside a request; put a blob",
                        data.len()
                    );
                    return Err(Error::at(Code::InputTooLarge, field, text));
                }
                let dtype = stated.ok_or_else(|| Error::bad_field(field, "dtype is missing"))?;
                Ok(Blob { dtype, dims: tensor.dims, data })
            }
            Some(Body::Blob(root)) => {
                let root = TensorRoot(digest("blob", &root)?);
                let blob = self.blobs.get(root).ok_or_else(|| {
                    Error::bad_field("blob", format!("{root} is not held; put it again"))
                })?;
                let agrees = stated.is_none_or(|dtype| dtype == blob.dtype)
                    && (tensor.dims.is_empty() || tensor.dims == blob.dims);
                if agrees {
                    Ok(blob)
                } else {
                    Err(Error::bad_field(field, "dtype or dims are not those of the blob"))
                }
            }
        }
    }
}

/// Type and row width of a model's input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) dtype: Dtype,
    pub(crate) width: u64,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[rows, {}]", self.dtype, self.width)
    }
}

/// What a model reads.
pub(crate) fn input_form(model: &ModelInfo) -> Form {
    let manifest = model.model.manifest();
    Form { dtype: manifest.input_dtype, width: u64::from(manifest.input_width) }
}

/// What a model gives.
pub(crate) fn output_form(model: &ModelInfo) -> Form {
    let manifest = model.model.manifest();
    Form { dtype: manifest.output_dtype, width: u64::from(manifest.output_width) }
}

impl Form {
    /// Whether a tensor has this type and `[rows, width]`, and as many bytes as that says.
    fn check(self, field: &'static str, tensor: &Blob) -> Result<(), Error> {
        if tensor.dtype != self.dtype {
            let text = format!("the model reads {self}, this is {}", tensor.dtype);
            return Err(Error::bad_field(field, text));
        }
        let &[rows, width] = &tensor.dims[..] else {
            let text = format!("the model reads {self}, this has {} dimensions", tensor.dims.len());
            return Err(Error::at(Code::InputShape, field, text));
        };
        if rows == 0 || width != self.width {
            let text = format!("the model reads {self}, this is [{rows}, {width}]");
            return Err(Error::at(Code::InputShape, field, text));
        }
        let wanted = rows.checked_mul(width).and_then(|n| n.checked_mul(self.dtype.bytes() as u64));
        if wanted != Some(tensor.data.len() as u64) {
            let text =
                format!("[{rows}, {width}] of {} is not {} bytes", self.dtype, tensor.data.len());
            return Err(Error::bad_field(field, text));
        }
        Ok(())
    }
}

/// Texts that can end an answer: a few, none empty or long.
pub(crate) fn stop_texts(field: &'static str, texts: &[String]) -> Result<(), Error> {
    at_most(field, "texts", texts.len(), STOP_TEXTS_MAX)?;
    for text in texts {
        at_most(field, "bytes", text.len(), STOP_TEXT_BYTES_MAX)?;
        if text.is_empty() {
            return Err(Error::bad_field(field, "an empty text ends nothing"));
        }
    }
    Ok(())
}

/// Bytes of a chat.
fn weight(messages: &[Value], tools: Option<&Value>) -> usize {
    messages.iter().chain(tools).map(|value| value.to_string().len()).sum()
}

/// Fills and judges what depends on no input: tier, seed, deadline, nonce.
fn terms(request: &mut Request, generates: bool, now_s: u64) -> Result<(), Error> {
    match request.tier {
        0 => request.tier = 1,
        1 => {}
        2 | 4 | 5 => {
            let text = format!("tier {} is not served by this node; ask for tier 1", request.tier);
            return Err(Error::at(Code::UnsupportedParameter, "request.tier", text));
        }
        3 => {
            return Err(Error::bad_field(
                "request.tier",
                "tier 3 is an auditor's own verdict, never a state to ask for",
            ));
        }
        tier => return Err(Error::bad_field("request.tier", format!("there is no tier {tier}"))),
    }
    if request.seed_mode != 0 && !generates {
        let text = "the model draws nothing: seed_mode and entropy must be zero";
        return Err(Error::at(Code::SamplingInvalid, "request.seed_mode", text));
    }
    if request.deadline != 0 && request.deadline <= now_s {
        let text = format!("{} has passed, it is {now_s}", request.deadline);
        return Err(Error::at(Code::Deadline, "request.deadline_s", text));
    }
    if request.nonce.is_zero() {
        request.nonce = U256::from_be_bytes(rand::random::<[u8; 32]>());
    }
    Ok(())
}

/// A named requester has to have signed; nobody else may.
pub(crate) fn check_signature(job: &Job, signature: Option<&[u8; 65]>) -> Result<(), Error> {
    check_requester(job.request().requester, job.id(), signature)
}

/// As [`check_signature`], of a request with this id.
pub(crate) fn check_requester(
    requester: Address,
    id: RequestId,
    signature: Option<&[u8; 65]>,
) -> Result<(), Error> {
    let invalid = |why: String| Error::at(Code::SignatureInvalid, "request_signature", why);
    match (requester.is_zero(), signature) {
        (true, None) => Ok(()),
        (true, Some(_)) => {
            Err(Error::bad_field("request_signature", "an unsigned request has no requester"))
        }
        (false, None) => Err(invalid(format!("requester {requester} has not signed"))),
        (false, Some(signature)) => match sign::recover(&id.0, signature) {
            Err(error) => Err(invalid(error.to_string())),
            Ok(signer) if signer == requester => Ok(()),
            Ok(signer) => {
                Err(invalid(format!("recovered {signer}, the request names {requester}")))
            }
        },
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        let text = invalid.to_string();
        match invalid {
            Invalid::ModelNotFound(_) => Self::at(Code::ModelNotFound, "model", text),
            Invalid::Field { field, why } => Self::bad_field(field, why),
            Invalid::Input(InputError::Shape { .. }) => Self::at(Code::InputShape, "input", text),
            Invalid::Input(InputError::Rows { .. }) => Self::at(Code::InputTooLarge, "input", text),
            Invalid::Input(InputError::Range { .. }) => Self::at(Code::InputRange, "input", text),
            Invalid::Sampling | Invalid::Undrawn | Invalid::Drawing(_) => {
                Self::at(Code::SamplingInvalid, "sampling", text)
            }
            Invalid::Context { .. } => Self::at(Code::InputTooLarge, "input", text),
        }
    }
}

/// 32 bytes.
pub(crate) fn digest(field: &'static str, bytes: &[u8]) -> Result<B256, Error> {
    exactly(field, bytes).map(B256::new)
}

/// 32 bytes, or none for zero.
fn digest_or_zero(field: &'static str, bytes: &[u8]) -> Result<B256, Error> {
    if bytes.is_empty() { Ok(B256::ZERO) } else { digest(field, bytes) }
}

/// 20 bytes, or none for zero.
fn address_or_zero(field: &'static str, bytes: &[u8]) -> Result<Address, Error> {
    if bytes.is_empty() { Ok(Address::ZERO) } else { exactly(field, bytes).map(Address::new) }
}

pub(crate) fn exactly<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], Error> {
    bytes
        .try_into()
        .map_err(|_| Error::bad_field(field, format!("{} bytes, want {N}", bytes.len())))
}

/// An element type by its CT1 code; weights' layouts are no inputs.
pub(crate) fn dtype(field: &'static str, code: i32) -> Result<Dtype, Error> {
    u8::try_from(code)
        .ok()
        .filter(|code| *code <= Dtype::U64.code())
        .and_then(Dtype::from_code)
        .ok_or_else(|| Error::bad_field(field, format!("{code} names no element type")))
}

/// A request of the wire; what is absent or empty is zero.
pub(crate) fn request(wire: Option<v1::Request>) -> Result<Request, Error> {
    let Some(wire) = wire else { return Ok(Request::default()) };
    let small = |field, value| {
        u8::try_from(value).map_err(|_| Error::bad_field(field, format!("{value} is out of range")))
    };
    let fee_max = match wire.fee_max.as_str() {
        "" => 0,
        text => plain::decimal_of(text).ok_or_else(|| {
            Error::bad_field("request.fee_max", "an amount is a decimal number below 2^128")
        })?,
    };
    Ok(Request {
        requester: address_or_zero("request.requester", &wire.requester)?,
        worker: address_or_zero("request.worker", &wire.worker)?,
        model_id: digest_or_zero("request.model_id", &wire.model_id)?.into(),
        input_hash: digest_or_zero("request.input_hash", &wire.input_hash)?,
        sampling_hash: digest_or_zero("request.sampling_hash", &wire.sampling_hash)?,
        tier: small("request.tier", wire.tier)?,
        seed_mode: small("request.seed_mode", wire.seed_mode)?,
        entropy: digest_or_zero("request.entropy", &wire.entropy)?,
        fee_asset: address_or_zero("request.fee_asset", &wire.fee_asset)?,
        fee_max,
        deadline: wire.deadline_s,
        nonce: U256::from_be_bytes(digest_or_zero("request.nonce", &wire.nonce)?.0),
    })
}

/// A signature of the wire; `None` when empty.
pub(crate) fn signature(field: &'static str, bytes: &[u8]) -> Result<Option<[u8; 65]>, Error> {
    if bytes.is_empty() { Ok(None) } else { exactly(field, bytes).map(Some) }
}

/// A request for the wire, every field spelled out.
pub(crate) fn wire_request(request: &Request) -> v1::Request {
    v1::Request {
        requester: copied(request.requester),
        worker: copied(request.worker),
        model_id: copied(request.model_id.0),
        input_hash: copied(request.input_hash),
        sampling_hash: copied(request.sampling_hash),
        tier: request.tier.into(),
        seed_mode: request.seed_mode.into(),
        entropy: copied(request.entropy),
        fee_asset: copied(request.fee_asset),
        fee_max: request.fee_max.to_string(),
        deadline_s: request.deadline,
        nonce: copied(request.nonce.to_be_bytes::<32>()),
    }
}

/// A signed claim for the wire, with its name.
pub(crate) fn wire_claim(signed: &SignedClaim, digest: B256) -> v1::SignedClaim {
    let Claim { request_id, model_id, in_tokens, out_tokens, macs, tier, worker, .. } =
        signed.claim;
    let claim = &signed.claim;
    v1::SignedClaim {
        claim: Some(v1::Claim {
            request_id: copied(request_id.0),
            model_id: copied(model_id.0),
            input_hash: copied(claim.input_hash),
            output_hash: copied(claim.output_hash),
            sampling_hash: copied(claim.sampling_hash),
            seed: copied(claim.seed),
            trace_root: copied(claim.trace_root),
            in_tokens,
            out_tokens,
            macs,
            challenge_until_s: claim.challenge_until,
            tier: tier.into(),
            worker: copied(worker),
        }),
        signature: copied(signed.signature),
        claim_digest: copied(digest),
    }
}

/// A signed claim of the wire; its stated digest is left to whoever recomputes it.
pub(crate) fn claim(wire: v1::SignedClaim) -> Result<SignedClaim, Error> {
    let claim = wire.claim.ok_or_else(|| Error::bad_field("claim", "is missing"))?;
    let tier = u8::try_from(claim.tier)
        .map_err(|_| Error::bad_field("claim.tier", format!("there is no tier {}", claim.tier)))?;
    Ok(SignedClaim {
        claim: Claim {
            request_id: digest("claim.request_id", &claim.request_id)?.into(),
            model_id: digest("claim.model_id", &claim.model_id)?.into(),
            input_hash: digest("claim.input_hash", &claim.input_hash)?,
            output_hash: digest("claim.output_hash", &claim.output_hash)?,
            sampling_hash: digest("claim.sampling_hash", &claim.sampling_hash)?,
            seed: digest("claim.seed", &claim.seed)?,
            trace_root: digest("claim.trace_root", &claim.trace_root)?,
            in_tokens: claim.in_tokens,
            out_tokens: claim.out_tokens,
            macs: claim.macs,
            challenge_until: claim.challenge_until_s,
            tier,
            worker: Address::new(exactly("claim.worker", &claim.worker)?),
        },
        signature: exactly("claim.signature", &wire.signature)?,
    })
}

/// The output of an answer for the wire. Its bytes are shared, not copied.
pub(crate) fn wire_output(name: &str, answer: &Arc<Answer>) -> v1::Tensor {
    let output = &answer.output;
    v1::Tensor {
        name: name.to_owned(),
        dtype: output.dtype.code().into(),
        dims: output.dims.to_vec(),
        body: Some(v1::tensor::Body::Data(output_bytes(answer))),
    }
}

/// The elements of an answer's output, shared with it.
pub(crate) fn output_bytes(answer: &Arc<Answer>) -> Bytes {
    struct Output(Arc<Answer>);
    impl AsRef<[u8]> for Output {
        fn as_ref(&self) -> &[u8] {
            &self.0.output.data
        }
    }
    Bytes::from_owner(Output(Arc::clone(answer)))
}

/// A copy of a digest, an address or a signature.
pub(crate) fn copied(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}
