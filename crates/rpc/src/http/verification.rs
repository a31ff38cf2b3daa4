//! What OpenAI-shaped surfaces say about an answer beyond OpenAI's form, and take.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hyperion_primitives::U256;
use hyperion_verify::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    answer::{Answered, WaitFor},
    plain::{Decimal, Hex},
    status::Error,
};

/// The `verification` object of a request.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Terms {
    wait_for: Option<String>,
    nonce: Option<Hex<32>>,
    deadline_s: Option<u64>,
    tier: Option<u8>,
}

impl Terms {
    /// As every surface asks.
    pub(super) fn read(self) -> Result<(Request, WaitFor), Error> {
        let request = Request {
            nonce: self.nonce.map_or(U256::ZERO, |nonce| U256::from_be_bytes(nonce.0)),
            deadline: self.deadline_s.unwrap_or(0),
            tier: self.tier.unwrap_or(0),
            ..Request::default()
        };
        let wait = self.wait_for.as_deref().map_or(Ok(WaitFor::Signed), WaitFor::of_name)?;
        Ok((request, wait))
    }
}

/// The `verification` object of an answer.
pub(super) fn verification(answered: &Answered) -> Value {
    let Answered { answer, reached, place, .. } = answered;
    let claim = &answer.claim.claim;
    let digest = answer.digest.to_string();
    let mut verification = json!({
        "receipt_url": format!("/v1/receipts/{digest}"),
        "claim_digest": digest,
        "request_id": claim.request_id.to_string(),
        "model_id": claim.model_id.to_string(),
        "input_hash": claim.input_hash.to_string(),
        "output_hash": claim.output_hash.to_string(),
        "tier": claim.tier,
        "attested_only": answer.claim.is_attested_only(),
        "reached": reached,
        "macs": Decimal(claim.macs),
        "fee": "0",
        "replayed": answer.replayed,
    });
    if let Some(place) = place {
        verification["log_index"] = json!(Decimal(place.index));
    }
    verification
}

/// The same digests as headers.
pub(super) fn headers(answered: &Answered) -> HeaderMap {
    let digests = [
        ("x-hyperion-claim", answered.answer.digest.to_string()),
        ("x-hyperion-request", answered.answer.claim.claim.request_id.to_string()),
    ];
    digests.into_iter().map(|(name, value)| header(name, &value)).collect()
}

/// A digest as a header.
pub(super) fn header(name: &'static str, digest: &str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_str(digest).expect("0x and hex digits"))
}
