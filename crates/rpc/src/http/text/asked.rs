//! What OpenAI's callers may ask, and what becomes of it.
//!
//! Numbers become the sampler's own as [`settings`](crate::settings) says, and come back in `verification.sampling`. A parameter that
//! would change the answer and is not built is refused.

use hyperion_engine::ALTERNATIVES_MAX;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shape;
use crate::{
    answer::WaitFor,
    convert::{Ask, Input},
    door::Door,
    http::verification::Terms,
    limits::at_most,
    settings::{Settings, seeded},
    status::{Code, Error},
};

/// Tokens of a completion where the caller names no limit; OpenAI's own default.
const COMPLETION_TOKENS: u32 = 16;

#[derive(Deserialize)]
pub(super) struct Body {
    pub(super) model: String,
    prompt: Option<Value>,
    messages: Option<Vec<Value>>,
    tools: Option<Value>,
    #[serde(default)]
    pub(super) stream: bool,
    #[serde(default)]
    pub(super) stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    seed: Option<i64>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stop: Option<Value>,
    logprobs: Option<Value>,
    top_logprobs: Option<Value>,
    #[serde(default)]
    verification: Terms,
    /// Change nothing and are not hashed.
    #[serde(default, rename = "user")]
    _user: Value,
    #[serde(default, rename = "metadata")]
    _metadata: Value,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

/// A body as every surface asks, and how many alternatives are told beside each token, if log probabilities are asked for.
pub(super) fn ask(
    door: &Door,
    body: Body,
    shape: Shape,
) -> Result<(Ask, WaitFor, Option<usize>), Error> {
    refuse_others(&body.others)?;
    let alternatives = alternatives(&body, shape)?;
    let model = door.named(&body.model)?;
    let face = door.face(model.id());
    let writing = face
        .writing
        .as_ref()
        .ok_or_else(|| Error::bad_field("model", "this model does not generate text"))?;
    let limits = &door.limits;
    let sampling = settings(&body, shape)?.sampling(writing, model.ends_in_text(), limits)?;
    let input = match shape {
        Shape::Completion => {
            if body.messages.is_some() || body.tools.is_some() {
                return Err(Error::bad_field("messages", "is for /v1/chat/completions"));
            }
            prompt(body.prompt, limits.text_bytes_max)?
        }
        Shape::Chat => {
            if body.prompt.is_some() {
                return Err(Error::bad_field("prompt", "is for /v1/completions"));
            }
            let messages = body.messages.unwrap_or_default();
            at_most("messages", "messages", messages.len(), limits.turns_max)?;
            if messages.is_empty() {
                return Err(Error::bad_field("messages", "give at least one"));
            }
            let messages: Vec<Value> =
                messages.into_iter().map(message).collect::<Result<_, _>>()?;
            let tools =
                body.tools.filter(|tools| tools.as_array().is_none_or(|all| !all.is_empty()));
            let bytes = messages.iter().chain(&tools).map(|value| value.to_string().len()).sum();
            at_most("messages", "bytes", bytes, limits.text_bytes_max)?;
            Input::Chat(messages, tools)
        }
    };
    let (request, wait) = body.verification.read()?;
    let request = seeded(request, body.seed, sampling.temperature_q16);
    let (sampling, logprobs) = (Some(sampling), alternatives.is_some());
    let ask = Ask { model, input, sampling, request, signature: None, logprobs };
    Ok((ask, wait, alternatives))
}

/// `logprobs: n` of completions, `logprobs: true, top_logprobs: n` of chats.
fn alternatives(body: &Body, shape: Shape) -> Result<Option<usize>, Error> {
    let given = |value: &Option<Value>| value.clone().filter(|value| !value.is_null());
    let (logprobs, top) = (given(&body.logprobs), given(&body.top_logprobs));
    let number = |field, value: &Value| {
        let most = value.as_u64().and_then(|most| usize::try_from(most).ok());
        most.filter(|most| *most <= ALTERNATIVES_MAX).ok_or_else(|| {
            Error::bad_field(field, format!("is a number from 0 to {ALTERNATIVES_MAX}"))
        })
    };
    let top = top.map(|value| number("top_logprobs", &value)).transpose()?;
    match (shape, logprobs, top) {
        (_, None | Some(Value::Bool(false)), None | Some(0)) => Ok(None),
        (Shape::Chat, Some(Value::Bool(true)), top) => Ok(Some(top.unwrap_or(0))),
        (Shape::Chat, None | Some(Value::Bool(false)), Some(_)) => {
            Err(Error::bad_field("top_logprobs", "is told where logprobs is true"))
        }
        (Shape::Chat, ..) => Err(Error::bad_field("logprobs", "is true or false")),
        (Shape::Completion, _, Some(most)) if most > 0 => {
            Err(Error::bad_field("top_logprobs", "is for /v1/chat/completions"))
        }
        (Shape::Completion, None, _) => Ok(None),
        (Shape::Completion, Some(value), _) => number("logprobs", &value).map(Some),
    }
}

/// Parameters that are not built are refused, but for values that ask for nothing.
fn refuse_others(others: &Map<String, Value>) -> Result<(), Error> {
    let asks = |name: &str, value: &Value| match (name, value) {
        (_, Value::Null | Value::Bool(false)) => false,
        ("n" | "best_of", value) => *value != json!(1),
        ("logit_bias", Value::Object(bias)) => !bias.is_empty(),
        ("response_format", value) => value["type"] != json!("text"),
        ("tool_choice", value) => *value != json!("auto"),
        _ => true,
    };
    match others.iter().find(|(name, value)| asks(name, value)) {
        None => Ok(()),
        Some((name, _)) => {
            let name: String = name.chars().take(64).collect();
            Err(Error::at(Code::UnsupportedParameter, name, "is not supported here"))
        }
    }
}

/// What a body says of draws.
fn settings(body: &Body, shape: Shape) -> Result<Settings, Error> {
    let tokens_max = match (body.max_tokens, body.max_completion_tokens) {
        (Some(0), _) | (_, Some(0)) => {
            return Err(Error::bad_field("max_tokens", "an answer has a token at least"));
        }
        (Some(a), Some(b)) if a != b => {
            let text = "max_tokens and max_completion_tokens differ";
            return Err(Error::bad_field("max_completion_tokens", text));
        }
        (Some(most), _) | (None, Some(most)) => most,
        (None, None) if shape == Shape::Completion => COMPLETION_TOKENS,
        (None, None) => 0,
    };
    Ok(Settings {
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        min_p: body.min_p,
        frequency_penalty: body.frequency_penalty,
        presence_penalty: body.presence_penalty,
        repetition_penalty: body.repetition_penalty,
        tokens_max,
        stop: stop(body.stop.as_ref())?,
    })
}

/// One stop string, or a list of them.
fn stop(value: Option<&Value>) -> Result<Option<Vec<String>>, Error> {
    let strings = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let string = |value: &Value| value.as_str().map(str::to_owned);
    let strings: Option<Vec<String>> = strings.iter().map(string).collect();
    let wrong = || Error::bad_field("stop", "is a string or a list of strings");
    strings.ok_or_else(wrong).map(Some)
}

/// One text, or one list of token ids.
fn prompt(prompt: Option<Value>, text_bytes_max: usize) -> Result<Input, Error> {
    let one = || {
        let why = "one string, or one list of token ids: each claim is about one input";
        Error::at(Code::UnsupportedParameter, "prompt", why)
    };
    match prompt.ok_or_else(|| Error::bad_field("prompt", "is missing"))? {
        Value::String(text) => {
            at_most("prompt", "bytes", text.len(), text_bytes_max)?;
            Ok(Input::Text(text))
        }
        Value::Array(mut list) if list.len() == 1 && !list[0].is_number() => {
            self::prompt(list.pop(), text_bytes_max)
        }
        Value::Array(list) => {
            let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids: Option<Vec<u32>> = list.iter().map(id).collect();
            ids.filter(|ids| !ids.is_empty()).map(Input::Tokens).ok_or_else(one)
        }
        _ => Err(one()),
    }
}

/// A message for the template: content that comes in parts is joined, everything else passes.
fn message(mut message: Value) -> Result<Value, Error> {
    let wrong = |why: &'static str| Error::bad_field("messages", why);
    let object = message.as_object_mut().ok_or_else(|| wrong("is a list of objects"))?;
    if !object.get("role").is_some_and(Value::is_string) {
        return Err(wrong("each has a role"));
    }
    match object.get("content") {
        Some(Value::String(_)) => {}
        None | Some(Value::Null) => {
            object.insert("content".to_owned(), "".into());
        }
        Some(Value::Array(parts)) => {
            let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Some(text.to_owned()),
                _ => None,
            };
            let parts: Option<Vec<String>> = parts.iter().map(text).collect();
            let parts = parts.ok_or_else(|| wrong("content is text; other parts are not read"))?;
            object.insert("content".to_owned(), parts.concat().into());
        }
        Some(_) => return Err(wrong("content is a string")),
    }
    Ok(message)
}
