//! `POST /v1/embeddings`: OpenAI's shape, with a claim.
//!
//! The parameters that would change the answer and are not built are refused: ignoring one in silence would make the
//! receipt a half-truth. `user` is the one that changes nothing.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyperion_primitives::{Dtype, U256};
use hyperion_verify::Request;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::read;
use crate::{
    answer::{Answered, WaitFor},
    auth::Area,
    convert::{Ask, Input, output_form},
    deadline::Deadline,
    door::Door,
    limits::at_most,
    plain::{Decimal, Hex},
    status::{Code, Error},
};

#[derive(Deserialize)]
struct Body {
    model: String,
    input: Value,
    #[serde(default)]
    encoding_format: Encoding,
    #[serde(default)]
    verification: Verification,
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

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verification {
    wait_for: Option<String>,
    nonce: Option<Hex<32>>,
    deadline_s: Option<u64>,
    tier: Option<u8>,
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
    let model = door.model(&asked.model)?;
    if door.face(model.id).text.is_none() || output_form(&model).dtype != Dtype::I16 {
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
    let terms = asked.verification;
    let request = Request {
        nonce: terms.nonce.map_or(U256::ZERO, |nonce| U256::from_be_bytes(nonce.0)),
        deadline: terms.deadline_s.unwrap_or(0),
        tier: terms.tier.unwrap_or(0),
        ..Request::default()
    };
    let wait = terms.wait_for.as_deref().map_or(Ok(WaitFor::Signed), WaitFor::of_name)?;
    Ok((Ask { model, input: Input::Text(text), request, signature: None }, wait))
}

fn response(model: String, encoding: Encoding, answered: &Answered) -> Response {
    let Answered { answer, reached, place } = answered;
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
    let digest = answer.digest.to_string();
    let mut verification = json!({
        "receipt_url": format!("/v1/receipts/{digest}"),
        "claim_digest": digest,
        "request_id": claim.request_id.to_string(),
        "model_id": claim.model_id.to_string(),
        "input_hash": claim.input_hash.to_string(),
        "output_hash": claim.output_hash.to_string(),
        "tier": claim.tier,
        "reached": reached,
        "macs": Decimal(claim.macs),
        "fee": "0",
        "replayed": answer.replayed,
    });
    if let Some(place) = place {
        verification["log_index"] = json!(Decimal(place.index));
    }
    let body = Embedded {
        object: "list",
        model,
        data: [Embedding { object: "embedding", index: 0, embedding }],
        usage: Usage { prompt_tokens: claim.in_tokens, total_tokens: claim.in_tokens },
        verification,
    };
    let digests = [
        ("x-hyperion-claim", answer.digest.to_string()),
        ("x-hyperion-request", claim.request_id.to_string()),
    ];
    let headers: HeaderMap = digests
        .into_iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(&value).expect("0x and hex digits");
            (HeaderName::from_static(name), value)
        })
        .collect();
    (headers, Json(body)).into_response()
}
