//! `POST /v1/embeddings`: OpenAI's shape, with a claim.
//!
//! The parameters that would change the answer and are not built are refused: ignoring one in silence would make the
//! receipt a half-truth. `user` is the one that changes nothing.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyperion_primitives::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    read,
    verification::{Terms, headers, verification},
};
use crate::{
    answer::{Answered, WaitFor},
    auth::Area,
    convert::{Ask, Input},
    deadline::Deadline,
    door::Door,
    limits::at_most,
    status::{Code, Error},
};

#[derive(Deserialize)]
struct Body {
    model: String,
    input: Value,
    #[serde(default)]
    encoding_format: Encoding,
    #[serde(default)]
    verification: Terms,
    /// Changes nothing and is not hashed.
    #[serde(default, rename = "user")]
    _user: Value,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

#[derive(Serialize)]
struct Embedded {
    object: &'static str,
    model: String,
    data: [Embedding; 1],
    usage: Usage,
    verification: Value,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: u32,
    embedding: Value,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

pub(super) async fn embeddings(
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let caller = door.admit_http(&headers, Area::Infer)?;
    let deadline = Deadline::after(door.limits.unary_deadline);
    let since_us = door.clock.now_us();
    let asked: Body = read(&door, body)?;
    let (name, encoding) = (asked.model.clone(), asked.encoding_format);
    let work = async {
        let (ask, wait) = ask(&door, asked)?;
        let job = door.job(ask, &caller, deadline).await?;
        door.answer(job, wait, &caller).await
    };
    let outcome = deadline.race(work).await;
    door.observe("http", &name, since_us, &outcome);
    Ok(response(name, encoding, &outcome?))
}

/// A body as every surface asks.
fn ask(door: &Door, asked: Body) -> Result<(Ask, WaitFor), Error> {
    if let Some(other) = asked.others.keys().next() {
        let other: String = other.chars().take(64).collect();
        return Err(Error::at(Code::UnsupportedParameter, other, "is not supported here"));
    }
    let model = door.named(&asked.model)?;
    if door.face(model.id()).text.is_none() || model.gives().dtype != Dtype::I16 {
        return Err(Error::bad_field("model", "this model does not turn text into an embedding"));
    }
    let text = match asked.input {
        Value::String(text) => text,
        Value::Array(mut texts) if texts.len() == 1 && texts[0].is_string() => {
            texts.remove(0).as_str().map(str::to_owned).expect("a string, by the guard")
        }
        _ => {
            let why = "one string: each claim is about one input";
            return Err(Error::at(Code::UnsupportedParameter, "input", why));
        }
    };
    at_most("input", "bytes", text.len(), door.limits.text_bytes_max)?;
    let (request, wait) = asked.verification.read()?;
    let input = Input::Text(text);
    Ok((Ask { model, input, sampling: None, request, signature: None, logprobs: false }, wait))
}

fn response(model: String, encoding: Encoding, answered: &Answered) -> Response {
    let answer = &answered.answer;
    let claim = &answer.claim.claim;
    let (elements, _) = answer.output.data.as_chunks::<2>();
    // An i16 in Q15 is exact in an f32: it has 16 bits, and a power of two divides it.
    let floats = elements.iter().map(|element| f32::from(i16::from_le_bytes(*element)) / 32_768.0);
    let embedding = match encoding {
        Encoding::Float => floats.collect(),
        Encoding::Base64 => {
            STANDARD.encode(floats.flat_map(f32::to_le_bytes).collect::<Vec<_>>()).into()
        }
    };
    let body = Embedded {
        object: "list",
        model,
        data: [Embedding { object: "embedding", index: 0, embedding }],
        usage: Usage { prompt_tokens: claim.in_tokens, total_tokens: claim.in_tokens },
        verification: verification(answered),
    };
    (headers(answered), Json(body)).into_response()
}
