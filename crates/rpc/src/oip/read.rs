//! What a `ModelInferRequest` may hold, and what it means.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyperion_engine::ModelInfo;
use hyperion_primitives::{Address, Dtype, U256};
use hyperion_verify::Request;

use super::{STREAMING_INPUT, TEXT_INPUT, datatype, outputs::Output};
use crate::{
    answer::WaitFor,
    blob::Blob,
    convert::{Ask, Form, Input, input_form},
    door::Door,
    float::AnyModel,
    r#gen::inference::{
        InferParameter, InferTensorContents, ModelInferRequest, infer_parameter::ParameterChoice,
        model_infer_request::InferInputTensor,
    },
    limits::{Limits, at_most},
    plain,
    settings::{Settings, seeded},
    status::{Code, Error},
};

/// A request of the protocol, read.
pub(super) struct Asked {
    /// As every surface asks.
    pub(super) ask: Ask,
    pub(super) wait: WaitFor,
    /// What the answer is to hold.
    pub(super) outputs: Vec<Output>,
    /// Whether the answer is to come part by part.
    pub(super) is_streamed: bool,
}

/// Reads a request.
pub(super) fn ask(door: &Door, model: ModelInfo, asked: ModelInferRequest) -> Result<Asked, Error> {
    let limits = &door.limits;
    let face = door.face(model.id);
    at_most("inputs", "tensors", asked.inputs.len(), limits.tensors_max)?;
    at_most("outputs", "tensors", asked.outputs.len(), limits.tensors_max)?;
    at_most("id", "bytes", asked.id.len(), limits.name_bytes_max)?;
    let outputs = Output::wanted(face, &asked.outputs)?;
    let mut terms = Terms::of(&asked.parameters, face.writing.is_some())?;
    let mut inputs = contents(asked.inputs, asked.raw_input_contents, limits)?;
    let mut is_streamed = false;
    if face.text.is_some() {
        let streaming = inputs.iter().position(|input| input.name == STREAMING_INPUT);
        if let Some(at) = streaming {
            is_streamed = inputs.remove(at).flag()?;
        }
        if is_streamed && face.writing.is_none() {
            let text = "the model generates no text, so its answer has one part";
            return Err(Error::bad_field("inputs.streaming", text));
        }
    }
    let [input] = <[_; 1]>::try_from(inputs).map_err(|inputs| {
        let text = format!("the model reads one tensor, {} came", inputs.len());
        Error::at(Code::InputShape, "inputs", text)
    })?;
    let input = if face.text.is_some() && input.name == TEXT_INPUT {
        Input::Text(input.text(limits)?)
    } else if input.name == face.input {
        input.elements(input_form(&model))?
    } else {
        let text =
            format!("the model has no input `{}`, only `{}`", short(&input.name), face.input);
        return Err(Error::bad_field("inputs", text));
    };
    let sampling = match &face.writing {
        Some(writing) => Some(terms.settings.sampling(writing, true, limits)?),
        None => None,
    };
    if let Some(sampling) = &sampling {
        terms.request = seeded(terms.request, terms.seed, sampling.temperature_q16);
    }
    let ask = Ask {
        model: AnyModel::Exact(model),
        input,
        sampling,
        request: terms.request,
        signature: terms.signature,
        logprobs: false,
    };
    Ok(Asked { ask, wait: terms.wait, outputs, is_streamed })
}

/// One input with its contents, wherever they stood.
struct Named {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    contents: Contents,
}

enum Contents {
    Raw(Bytes),
    Typed(InferTensorContents),
}

/// Puts inputs and contents together: all raw or all typed, never mixed.
fn contents(
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
    limits: &Limits,
) -> Result<Vec<Named>, Error> {
    let typed = inputs.iter().any(|input| input.contents.is_some());
    if !raw.is_empty() && (typed || raw.len() != inputs.len()) {
        let text = format!(
            "{} raw contents for {} inputs; give all inputs raw or all typed",
            raw.len(),
            inputs.len()
        );
        return Err(Error::bad_field("raw_input_contents", text));
    }
    let mut raw = raw.into_iter();
    inputs
        .into_iter()
        .map(|input| {
            at_most("inputs", "bytes of name", input.name.len(), limits.name_bytes_max)?;
            at_most("inputs", "dimensions", input.shape.len(), limits.dims_max)?;
            let contents = match (raw.next(), input.contents) {
                (Some(raw), _) => Contents::Raw(raw),
                (None, Some(typed)) => Contents::Typed(typed),
                (None, None) => {
                    let text = format!("`{}` has no contents", input.name);
                    return Err(Error::bad_field("inputs", text));
                }
            };
            let bytes = match &contents {
                Contents::Raw(raw) => raw.len(),
                Contents::Typed(typed) => prost::Message::encoded_len(typed),
            };
            if bytes as u64 > limits.tensor_bytes_max {
                let text = format!("{bytes} bytes, at most {} are taken", limits.tensor_bytes_max);
                return Err(Error::at(Code::InputTooLarge, "inputs", text));
            }
            let InferInputTensor { name, datatype, shape, .. } = input;
            Ok(Named { name, datatype, shape, contents })
        })
        .collect()
}

impl Named {
    /// The one element of a BOOL tensor.
    fn flag(self) -> Result<bool, Error> {
        let element = match &self.contents {
            Contents::Raw(raw) => match raw[..] {
                [0] => Some(false),
                [1] => Some(true),
                _ => None,
            },
            Contents::Typed(typed) => match typed.bool_contents[..] {
                [flag] => Some(flag),
                _ => None,
            },
        };
        let one = self.datatype == "BOOL" && self.shape.iter().all(|dim| *dim == 1);
        element.filter(|_| one).ok_or_else(|| {
            let text = "want one BOOL, shape [1]; raw, it is a byte of 0 or 1";
            Error::bad_field("inputs.streaming", text)
        })
    }

    /// The one text of a BYTES tensor.
    fn text(self, limits: &Limits) -> Result<String, Error> {
        let field = "inputs.text_input";
        if self.datatype != "BYTES" {
            let text = format!("text is BYTES, not {}", short(&self.datatype));
            return Err(Error::bad_field(field, text));
        }
        let element = match self.contents {
            Contents::Raw(raw) => one_raw_element(&raw),
            Contents::Typed(typed) => {
                <[_; 1]>::try_from(typed.bytes_contents).ok().map(|[one]| one)
            }
        };
        let one = !self.shape.is_empty() && self.shape.iter().all(|dim| *dim == 1);
        let (Some(element), true) = (element, one) else {
            let text = format!(
                "one text is read at a time: shape [1], not {:?}; raw, it is its length as a \
                 little-endian u32 and as many bytes",
                self.shape
            );
            return Err(Error::at(Code::InputShape, field, text));
        };
        at_most(field, "bytes", element.len(), limits.text_bytes_max)?;
        String::from_utf8(element.to_vec())
            .map_err(|_| Error::bad_field(field, "the text is not UTF-8"))
    }

    /// The tensor, in the form that the model reads.
    fn elements(self, form: Form) -> Result<Input, Error> {
        let want = datatype(form.dtype);
        if self.datatype != want {
            return Err(Error::bad_field("inputs.datatype", refused_type(&self.datatype, form)));
        }
        let dims = self
            .shape
            .iter()
            .map(|dim| u64::try_from(*dim).ok().filter(|dim| *dim > 0))
            .collect::<Option<Vec<u64>>>()
            .ok_or_else(|| {
                Error::bad_field(
                    "inputs.shape",
                    format!("{:?}: dimensions are 1 or more", self.shape),
                )
            })?;
        // Token ids come as [n], [n, 1] or [1, n]; the committed form is [n, 1].
        let dims = match dims[..] {
            [n] | [1, n] if form == (Form { dtype: Dtype::U32, width: 1 }) => vec![n, 1],
            _ => dims,
        };
        let data = match self.contents {
            Contents::Raw(raw) => raw,
            Contents::Typed(typed) => typed_elements(typed, form.dtype)?,
        };
        Ok(Input::Tensor(Blob { dtype: form.dtype, dims, data }))
    }
}

/// The element of a raw BYTES tensor that holds one: its length as a little-endian u32, then its bytes.
fn one_raw_element(raw: &Bytes) -> Option<Bytes> {
    let (length, element) = raw.split_first_chunk::<4>()?;
    let whole = usize::try_from(u32::from_le_bytes(*length)).ok() == Some(element.len());
    whole.then(|| raw.slice(4..))
}

/// Typed contents as little-endian elements. Models read 32-bit integers only.
fn typed_elements(typed: InferTensorContents, dtype: Dtype) -> Result<Bytes, Error> {
    let InferTensorContents { int_contents, uint_contents, .. } = typed;
    let bytes: Vec<u8> = match dtype {
        Dtype::I32 => int_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::U32 => uint_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::I8 | Dtype::U8 | Dtype::I16 | Dtype::U16 | Dtype::I64 | Dtype::U64 | Dtype::W8r => {
            let text = format!("{} tensors are taken raw only", datatype(dtype));
            return Err(Error::bad_field("inputs.contents", text));
        }
    };
    Ok(bytes.into())
}

/// Why a data type is refused, and what to send.
fn refused_type(got: &str, form: Form) -> String {
    let want = datatype(form.dtype);
    match got {
        "FP16" | "FP32" | "FP64" | "BF16" if form.dtype == Dtype::I32 => format!(
            "{got} is not taken: what is committed are integers. Multiply by 65536, round, and send {want}"
        ),
        _ => format!("the model reads {want}, not {}", short(got)),
    }
}

/// What the request's parameters say.
struct Terms {
    request: Request,
    signature: Option<[u8; 65]>,
    wait: WaitFor,
    settings: Settings,
    seed: Option<i64>,
}

impl Terms {
    fn of(parameters: &BTreeMap<String, InferParameter>, draws: bool) -> Result<Self, Error> {
        let mut terms = Self {
            request: Request::default(),
            signature: None,
            wait: WaitFor::Signed,
            settings: Settings::default(),
            seed: None,
        };
        for (name, parameter) in parameters {
            let value = parameter.parameter_choice.as_ref();
            if !terms.set(name, value)? {
                terms.take(name, value)?;
            } else if !draws {
                let text = "the model draws nothing: sampling must be left out";
                return Err(Error::at(Code::SamplingInvalid, format!("parameters.{name}"), text));
            }
        }
        Ok(terms)
    }

    /// Takes a setting of draws; whether it is one.
    fn set(&mut self, name: &str, value: Option<&ParameterChoice>) -> Result<bool, Error> {
        let wrong = |what: &str| {
            Error::at(Code::SamplingInvalid, format!("parameters.{name}"), format!("is {what}"))
        };
        let settings = &mut self.settings;
        let place = match name {
            "temperature" => &mut settings.temperature,
            "top_p" => &mut settings.top_p,
            "min_p" => &mut settings.min_p,
            "frequency_penalty" => &mut settings.frequency_penalty,
            "presence_penalty" => &mut settings.presence_penalty,
            "repetition_penalty" => &mut settings.repetition_penalty,
            "top_k" | "max_tokens" => {
                let most = unsigned(value).and_then(|most| u32::try_from(most).ok());
                if name == "top_k" {
                    settings.top_k = Some(most.ok_or_else(|| wrong("a number of tokens"))?);
                } else {
                    let most = most.filter(|most| *most > 0);
                    settings.tokens_max =
                        most.ok_or_else(|| wrong("a number of tokens above 0"))?;
                }
                return Ok(true);
            }
            "seed" => {
                let seed = match value {
                    Some(ParameterChoice::Int64Param(seed)) => Some(*seed),
                    _ => unsigned(value).and_then(|seed| i64::try_from(seed).ok()),
                };
                self.seed = Some(seed.ok_or_else(|| wrong("a signed integer of 64 bits"))?);
                return Ok(true);
            }
            "stop" => {
                let text = string(value).ok_or_else(|| wrong("one text"))?;
                settings.stop = Some(vec![text.to_owned()]);
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *place = Some(number(value).ok_or_else(|| wrong("a number"))?);
        Ok(true)
    }

    fn take(&mut self, name: &str, value: Option<&ParameterChoice>) -> Result<(), Error> {
        let field = || format!("parameters.{name}");
        let wanted = |what: &str| Error::bad_field(field(), format!("is {what}"));
        match name {
            "tier" => {
                let tier = unsigned(value).and_then(|tier| u8::try_from(tier).ok());
                self.request.tier = tier.ok_or_else(|| wanted("a tier's number"))?;
            }
            "deadline_s" => {
                let seconds = unsigned(value);
                self.request.deadline = seconds.ok_or_else(|| wanted("a Unix time in seconds"))?;
            }
            "wait_for" => {
                let state = string(value).ok_or_else(|| wanted("signed, logged or tier"))?;
                self.wait = WaitFor::of_name(state)?;
            }
            "nonce" => {
                let nonce = string(value).and_then(plain::array_of::<32>);
                let nonce = nonce.ok_or_else(|| wanted("0x and 64 lower-case hex digits"))?;
                self.request.nonce = U256::from_be_bytes(nonce);
            }
            "requester" => {
                let requester = string(value).and_then(plain::array_of::<20>);
                let requester =
                    requester.ok_or_else(|| wanted("0x and 40 lower-case hex digits"))?;
                self.request.requester = Address::new(requester);
            }
            "request_signature" => {
                let signature = string(value).and_then(plain::array_of::<65>);
                let signature =
                    signature.ok_or_else(|| wanted("0x and 130 lower-case hex digits"))?;
                self.signature = Some(signature);
            }
            // Asks for a last response that says it is the last: ours always comes, and has the claim.
            "triton_enable_empty_final_response" => {}
            _ => {
                let text = "this parameter is not known here";
                return Err(Error::at(Code::UnsupportedParameter, short(&field()), text));
            }
        }
        Ok(())
    }
}

fn unsigned(value: Option<&ParameterChoice>) -> Option<u64> {
    match value? {
        ParameterChoice::Int64Param(value) => u64::try_from(*value).ok(),
        ParameterChoice::Uint64Param(value) => Some(*value),
        ParameterChoice::BoolParam(_)
        | ParameterChoice::StringParam(_)
        | ParameterChoice::DoubleParam(_) => None,
    }
}

/// A number; clients that know no floating point parameter send its decimal text.
fn number(value: Option<&ParameterChoice>) -> Option<f64> {
    match value? {
        ParameterChoice::DoubleParam(value) => Some(*value),
        ParameterChoice::Int64Param(value) => Some(*value as f64),
        ParameterChoice::Uint64Param(value) => Some(*value as f64),
        ParameterChoice::StringParam(text) => text.parse().ok(),
        ParameterChoice::BoolParam(_) => None,
    }
}

fn string(value: Option<&ParameterChoice>) -> Option<&str> {
    match value? {
        ParameterChoice::StringParam(value) => Some(value),
        ParameterChoice::BoolParam(_)
        | ParameterChoice::Int64Param(_)
        | ParameterChoice::DoubleParam(_)
        | ParameterChoice::Uint64Param(_) => None,
    }
}

/// A caller's word, cut to what fits a sentence.
pub(super) fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
