//! The HTTP door: probes, models, claims, receipts, quotes, and the log as C2SP tiles.
//!
//! Digests are `0x` and lower-case hex, integers of 64 bits decimal strings; errors are the table's, as JSON.

mod embeddings;
mod text;
mod tile;
mod verification;

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, State,
        rejection::{BytesRejection, FailedToBufferBody, PathRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyperion_engine::RequestStatus;
use hyperion_primitives::{ClaimDigest, ModelId, RequestId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    auth::Area,
    convert,
    door::{Door, Face},
    r#gen::v1,
    log::{newest_checkpoint, read_many},
    lookup::Found,
    plain::{self, Decimal, spell},
    receipt_json::{ClaimJson, Envelope},
    status::{Code, Error},
};

type Shared = State<Arc<Door>>;

/// Every route of this crate.
pub(crate) fn router(door: Arc<Door>) -> Router {
    let limit = DefaultBodyLimit::max(door.limits.body_bytes_max);
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/v1/models", get(models))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/completions", post(text::completions))
        .route("/v1/chat/completions", post(text::chat))
        .route("/v1/quote", post(quote))
        .route("/v1/claims/{digest}", get(claim))
        .route("/v1/receipts/{digest}", get(receipt))
        .route("/log/checkpoint", get(checkpoint))
        .route("/log/tile/{*path}", get(tile))
        .layer(limit)
        .with_state(door)
}

async fn ready(State(door): Shared) -> Response {
    match door.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn models(State(door): Shared, headers: HeaderMap) -> Result<Json<Value>, Error> {
    door.admit_http(&headers, Area::Models)?;
    let exact = door.engine.models();
    let exact =
        exact.iter().map(|model| (model.id, model.aliases.clone(), door.wire_model(model), 1));
    let float = door.wire_float_models().into_iter().filter_map(|wire| {
        let id = ModelId(convert::digest("model_id", &wire.model_id).ok()?);
        Some((id, vec![wire.alias.clone()], wire, 0))
    });
    let entries = |(id, aliases, wire, tier): (ModelId, Vec<String>, v1::Model, u8)| {
        model_json(door.face(id), &aliases, &wire, tier)
    };
    let data: Vec<Value> = exact.chain(float).flat_map(entries).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

/// One entry per alias, in the shape that OpenAI clients list, with what they do not know under `hyperion`. `tier` is the
/// least that a claim about the model has: 0 is attested only.
fn model_json(face: &Face, aliases: &[String], wire: &v1::Model, tier: u8) -> Vec<Value> {
    let tensor = |spec: &v1::TensorSpec| {
        let dtype = u8::try_from(spec.dtype).ok().and_then(hyperion_primitives::Dtype::from_code);
        json!({
            "name": spec.name, "dtype": dtype.map(|dtype| dtype.name()), "dims": spec.dims,
            "exponent": spec.exponent,
        })
    };
    let hyperion = json!({
        "modelId": spell(&wire.model_id),
        "programId": spell(&wire.program_id),
        "inputs": wire.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "outputs": wire.outputs.iter().map(tensor).collect::<Vec<_>>(),
        "text": face.text.is_some(),
        "tier": tier,
        "attestedOnly": tier == 0,
        "native": wire.native,
        "ready": wire.ready,
        "notReadyReason": wire.not_ready_reason,
        "license": wire.license,
        "macsBase": Decimal(wire.macs_base),
        "macsPerRow": Decimal(wire.macs_per_row),
        "macsPerPair": Decimal(wire.macs_per_pair),
        "macsPerOut": Decimal(wire.macs_per_out),
        "rowsMax": wire.rows_max,
    });
    let entry = |alias: &String| json!({"id": alias, "object": "model", "created": 0, "owned_by": "hyperion", "hyperion": hyperion});
    aliases.iter().map(entry).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct QuoteAsk {
    model: String,
    input_bytes: Decimal<u64>,
    #[serde(default)]
    tokens_max: u32,
    #[serde(default)]
    tier: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QuoteAnswer {
    macs: Decimal<u64>,
    peak_bytes: Decimal<u64>,
    gas: Decimal<u64>,
    fee: String,
    valid_until: Decimal<u64>,
    queue_ms: u32,
}

async fn quote(
    State(door): Shared,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<QuoteAnswer>, Error> {
    door.admit_http(&headers, Area::Models)?;
    let asked: QuoteAsk = read(&door, body)?;
    let quote = door.quote(&asked.model, asked.input_bytes.0, asked.tokens_max, asked.tier)?;
    Ok(Json(QuoteAnswer {
        macs: Decimal(quote.macs),
        peak_bytes: Decimal(quote.peak_bytes),
        gas: Decimal(quote.gas),
        fee: quote.fee,
        valid_until: Decimal(quote.valid_until_s),
        queue_ms: quote.queue_ms,
    }))
}

/// A JSON body of the documented form.
fn read<T: for<'de> Deserialize<'de>>(
    door: &Door,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Error> {
    let body = body.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            let text = format!("at most {} bytes are taken", door.limits.body_bytes_max);
            Error::at(Code::InputTooLarge, "body", text)
        }
        other => Error::bad_field("body", format!("broke off: {other}")),
    })?;
    serde_json::from_slice(&body).map_err(|error| Error::bad_field("body", error.to_string()))
}

/// The end of a path.
fn end_of(path: Result<Path<String>, PathRejection>, what: &'static str) -> Result<String, Error> {
    path.map(|Path(text)| text).map_err(|_| Error::bad_field(what, "is not UTF-8"))
}

/// The digest at the end of a path.
fn digest_of(text: &str) -> Result<[u8; 32], Error> {
    plain::array_of(text)
        .ok_or_else(|| Error::bad_field("digest", "is 0x and 64 lower-case hex digits"))
}

async fn claim(
    State(door): Shared,
    headers: HeaderMap,
    digest: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Error> {
    door.admit_http(&headers, Area::Receipts)?;
    let digest = digest_of(&end_of(digest, "digest")?)?;
    let found = match door.find_claim(ClaimDigest::from(digest)) {
        Err(error) if error.code() == Code::ClaimNotFound => {
            door.find_request(RequestId::from(digest))?
        }
        found => found?,
    };
    Ok(Json(claim_json(&door, &found)))
}

fn claim_json(door: &Door, found: &Found) -> Value {
    let state = found.state.as_str_name().trim_start_matches("REQUEST_STATE_").to_lowercase();
    let mut json = json!({"state": state});
    if !found.reason.is_empty() {
        json["reason"] = found.reason.into();
    }
    if let Some(signed) = &found.claim {
        json["claimDigest"] = signed.claim.digest(&door.engine.domain()).to_string().into();
        json["claim"] = json!(ClaimJson::from(&signed.claim));
        json["signature"] = spell(&signed.signature).into();
        json["reached"] = found.reached.into();
    }
    if let Some(index) = found.index {
        json["index"] = index.to_string().into();
    }
    json
}

async fn receipt(
    State(door): Shared,
    headers: HeaderMap,
    digest: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Error> {
    door.admit_http(&headers, Area::Receipts)?;
    let digest = ClaimDigest::from(digest_of(&end_of(digest, "digest")?)?);
    let (signed, place) = door.place_of(digest, 0)?;
    // The request is public: its hash is in the claim, and only whoever holds the digest can ask. Inputs and
    // outputs are the caller's own and stay out.
    let request = match door.engine.status(signed.claim.request_id) {
        Some(RequestStatus::Claimed(answer) | RequestStatus::Logged { answer, .. }) => {
            Some(answer.request.clone())
        }
        Some(RequestStatus::Queued | RequestStatus::Running | RequestStatus::Failed(_)) => None,
        None => door.float_stored(signed.claim.request_id).map(|answer| answer.request.clone()),
    };
    let proof = crate::receipt::receipt(&signed, &place)?.to_string();
    let envelope = Envelope {
        domain: door.engine.domain(),
        request,
        sampling: None,
        claim: signed,
        proof,
        input: None,
        output: None,
    };
    Ok(Json(envelope.to_value()))
}

async fn checkpoint(State(door): Shared, headers: HeaderMap) -> Result<Response, Error> {
    door.admit_http(&headers, Area::Log)?;
    let note = newest_checkpoint(&*door.log)?.note.clone();
    let kind =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    Ok((kind, note).into_response())
}

async fn tile(
    State(door): Shared,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    door.admit_http(&headers, Area::Log)?;
    let asked: tile::Tile = end_of(path, "tile")?.parse().map_err(|()| {
        let mut text =
            String::from("is <level>/<n> or entries/<n>, with .p/<width> if it is not full");
        write!(text, "; n is written x001/x234/067 for {}", 1_234_067).expect("a string takes it");
        Error::bad_field("tile", text)
    })?;
    let bytes = read_many(&door.log, move |log| match asked.level {
        Some(level) => log.tile(level, asked.n, asked.width),
        None => log.entries(asked.n, asked.width),
    })
    .await?;
    let kind = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((kind, bytes).into_response())
}
