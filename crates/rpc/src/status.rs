//! Every way a call ends without an answer, and what each is called on the wire.
//!
//! [`Code::row`] is the one `match`: a new code does not compile until it has a gRPC status, an HTTP status and a
//! word on retrying. `docs/errors.md` is this table; a test compares them.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use hyperion_engine::{Failure, Pushback};
use serde_json::json;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

/// The stable names of the error table (`docs/errors.md`); [`Row::name`] is what travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the row of each code says what it means")]
pub enum Code {
    BadField,
    UnsupportedParameter,
    InputShape,
    InputRange,
    InputTooLarge,
    SamplingInvalid,
    ModelNotFound,
    ModelInactive,
    NotNative,
    TooMuchWork,
    NoMemory,
    NoWorker,
    QueueFull,
    RateLimited,
    Unauthenticated,
    Forbidden,
    SignatureInvalid,
    NonceSpent,
    Deadline,
    Cancelled,
    ClaimNotFound,
    ModelMismatch,
    TierNotReached,
    ClaimDisproved,
    OutputMismatch,
    InclusionInvalid,
    CheckpointUnknown,
    ProofInvalid,
    StepInvalid,
    ResultMismatch,
    Unimplemented,
    StorePoisoned,
    Draining,
    Internal,
}

/// Whether and when the same call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The answer would be the same.
    No,
    /// After the delay that comes with the error.
    Yes,
    /// Once the log or the dispute has moved on.
    Later,
    /// At another node, or at this one after its restart.
    Elsewhere,
}

/// One row of the error table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Stable name: `ErrorInfo.reason` in gRPC, `error.code` in HTTP.
    pub name: &'static str,
    /// What happened, for the table.
    pub meaning: &'static str,
    /// gRPC status.
    pub grpc: tonic::Code,
    /// HTTP status.
    pub http: u16,
    /// The error that a precompile reverts with in the same case.
    pub solidity: Option<&'static str>,
    /// What the caller may do.
    pub retry: Retry,
}

impl Code {
    /// Every code, in the order of the table.
    pub const ALL: [Self; 34] = [
        Self::BadField,
        Self::UnsupportedParameter,
        Self::InputShape,
        Self::InputRange,
        Self::InputTooLarge,
        Self::SamplingInvalid,
        Self::ModelNotFound,
        Self::ModelInactive,
        Self::NotNative,
        Self::TooMuchWork,
        Self::NoMemory,
        Self::NoWorker,
        Self::QueueFull,
        Self::RateLimited,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::SignatureInvalid,
        Self::NonceSpent,
        Self::Deadline,
        Self::Cancelled,
        Self::ClaimNotFound,
        Self::ModelMismatch,
        Self::TierNotReached,
        Self::ClaimDisproved,
        Self::OutputMismatch,
        Self::InclusionInvalid,
        Self::CheckpointUnknown,
        Self::ProofInvalid,
        Self::StepInvalid,
        Self::ResultMismatch,
        Self::Unimplemented,
        Self::StorePoisoned,
        Self::Draining,
        Self::Internal,
    ];

    /// What this code is called on each surface.
    pub const fn row(self) -> Row {
        use Retry::{Elsewhere, Later, No, Yes};
        use tonic::Code as Grpc;
        let (name, grpc, http, solidity, retry, meaning) = match self {
            Self::BadField => (
                "bad_field",
                Grpc::InvalidArgument,
                400,
                Some("BadCalldata(uint8)"),
                No,
                "a field has the wrong length, number or form; the error names it",
            ),
            Self::UnsupportedParameter => (
                "unsupported_parameter",
                Grpc::InvalidArgument,
                400,
                None,
                No,
                "a parameter that would change the answer and is not built",
            ),
            Self::InputShape => (
                "input_shape",
                Grpc::InvalidArgument,
                400,
                Some("InputShape(uint64,uint64)"),
                No,
                "the input has not the model's shape",
            ),
            Self::InputRange => (
                "input_range",
                Grpc::InvalidArgument,
                400,
                Some("InputRange(uint64,int64,int64)"),
                No,
                "an element lies outside what the model takes",
            ),
            Self::InputTooLarge => (
                "input_too_large",
                Grpc::InvalidArgument,
                413,
                Some("InputTooLarge(uint64,uint64)"),
                No,
                "more bytes, rows or items than a limit allows",
            ),
            Self::SamplingInvalid => (
                "sampling_invalid",
                Grpc::InvalidArgument,
                400,
                Some("SamplingInvalid(uint8)"),
                No,
                "a sampling parameter is out of range, or the model samples nothing",
            ),
            Self::ModelNotFound => (
                "model_not_found",
                Grpc::NotFound,
                404,
                Some("ModelNotFound(bytes32)"),
                No,
                "no such alias or model id",
            ),
            Self::ModelInactive => (
                "model_inactive",
                Grpc::FailedPrecondition,
                409,
                Some("ModelInactive(bytes32)"),
                No,
                "the model was taken out of service",
            ),
            Self::NotNative => (
                "not_native",
                Grpc::FailedPrecondition,
                409,
                Some("NotNative(bytes32)"),
                No,
                "the model does not run inside transactions",
            ),
            Self::TooMuchWork => (
                "too_much_work",
                Grpc::FailedPrecondition,
                422,
                Some("TooMuchWork(uint64,uint64)"),
                No,
                "more multiplications than a transaction may ask for",
            ),
            Self::NoMemory => (
                "no_memory",
                Grpc::FailedPrecondition,
                422,
                None,
                No,
                "the planned memory fits no device",
            ),
            Self::NoWorker => {
                ("no_worker", Grpc::Unavailable, 503, None, Yes, "no device could run the request")
            }
            Self::QueueFull => (
                "queue_full",
                Grpc::ResourceExhausted,
                503,
                None,
                Yes,
                "the queue has no room; the delay is its estimated drain time",
            ),
            Self::RateLimited => (
                "rate_limited",
                Grpc::ResourceExhausted,
                429,
                None,
                Yes,
                "the key's rate or its jobs in flight are used up",
            ),
            Self::Unauthenticated => (
                "unauthenticated",
                Grpc::Unauthenticated,
                401,
                None,
                No,
                "a key is needed, or the one sent is unknown, wrong or expired",
            ),
            Self::Forbidden => (
                "forbidden",
                Grpc::PermissionDenied,
                403,
                None,
                No,
                "the key lacks the scope, or a worker may not attach",
            ),
            Self::SignatureInvalid => (
                "signature_invalid",
                Grpc::PermissionDenied,
                402,
                Some("SignerMismatch(address,address)"),
                No,
                "the request's signature is not its requester's",
            ),
            Self::NonceSpent => (
                "nonce_spent",
                Grpc::AlreadyExists,
                409,
                None,
                No,
                "the same unsigned request was first made with another key; draw a new nonce",
            ),
            Self::Deadline => (
                "deadline",
                Grpc::DeadlineExceeded,
                504,
                None,
                Yes,
                "the deadline passed first; what was signed or paid goes on",
            ),
            Self::Cancelled => {
                ("cancelled", Grpc::Cancelled, 499, None, Yes, "the caller went away")
            }
            Self::ClaimNotFound => (
                "claim_not_found",
                Grpc::NotFound,
                404,
                Some("ClaimNotFound(bytes32)"),
                Later,
                "no claim or request with this digest is known or logged yet",
            ),
            Self::ModelMismatch => (
                "model_mismatch",
                Grpc::InvalidArgument,
                422,
                Some("ModelMismatch(bytes32,bytes32)"),
                No,
                "the claim is about another model",
            ),
            Self::TierNotReached => (
                "tier_not_reached",
                Grpc::FailedPrecondition,
                409,
                Some("TierNotReached(uint8,uint8)"),
                Later,
                "the claim has not reached the tier that is asked for",
            ),
            Self::ClaimDisproved => (
                "claim_disproved",
                Grpc::Aborted,
                410,
                Some("ClaimDisproved(bytes32)"),
                No,
                "the claim was proved wrong",
            ),
            Self::OutputMismatch => (
                "output_mismatch",
                Grpc::InvalidArgument,
                422,
                Some("OutputMismatch(bytes32,bytes32)"),
                No,
                "the bytes given are not those that the claim commits to",
            ),
            Self::InclusionInvalid => (
                "inclusion_invalid",
                Grpc::InvalidArgument,
                422,
                Some("InclusionInvalid(uint64,uint64)"),
                No,
                "the path does not lead to the checkpoint's root",
            ),
            Self::CheckpointUnknown => (
                "checkpoint_unknown",
                Grpc::OutOfRange,
                404,
                Some("CheckpointUnknown(uint64)"),
                Later,
                "the log has no checkpoint of this size",
            ),
            Self::ProofInvalid => (
                "proof_invalid",
                Grpc::InvalidArgument,
                422,
                Some("ProofInvalid(uint32)"),
                No,
                "a succinct proof does not hold",
            ),
            Self::StepInvalid => (
                "step_invalid",
                Grpc::InvalidArgument,
                422,
                Some("StepInvalid(uint16,uint32)"),
                No,
                "a disputed step is malformed or does not follow",
            ),
            Self::ResultMismatch => (
                "result_mismatch",
                Grpc::Aborted,
                503,
                None,
                Yes,
                "two devices disagree; the answer is withheld until the reference has spoken",
            ),
            Self::Unimplemented => (
                "unimplemented",
                Grpc::Unimplemented,
                501,
                Some("UnknownFunction(bytes4)"),
                No,
                "the surface names it and this build does not serve it",
            ),
            Self::StorePoisoned => (
                "store_poisoned",
                Grpc::Unavailable,
                503,
                None,
                Elsewhere,
                "the store refuses writes after a fault; reopening recovers it",
            ),
            Self::Draining => {
                ("draining", Grpc::Unavailable, 503, None, Elsewhere, "the node is shutting down")
            }
            Self::Internal => {
                ("internal", Grpc::Internal, 500, None, No, "a fault of this program; it is logged")
            }
        };
        Row { name, meaning, grpc, http, solidity, retry }
    }
}

/// Why a call has no answer: a code, a sentence, the field at fault, and when to come back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    retry: Option<Duration>,
}

impl Error {
    /// An error with a sentence that says what to do next, if there is something to do.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), field: None, retry: None }
    }

    /// [`Code::BadField`] about the field `field`; the message begins with its name.
    pub fn bad_field(field: impl Into<Cow<'static, str>>, why: impl AsRef<str>) -> Self {
        Self::at(Code::BadField, field, why)
    }

    /// An error about one field; the message begins with its name.
    pub fn at(code: Code, field: impl Into<Cow<'static, str>>, why: impl AsRef<str>) -> Self {
        let field = field.into();
        let message = format!("{field}: {}", why.as_ref());
        Self { field: Some(field), ..Self::new(code, message) }
    }

    /// The same, to be tried again after `delay`.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry = Some(delay);
        self
    }

    /// Which row of the table this is.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The field at fault, as the request spells it.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// When to come back; set for every code whose row says [`Retry::Yes`] and whose wait is known.
    pub const fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The body that HTTP answers with.
    pub fn to_json(&self) -> serde_json::Value {
        let row = self.code.row();
        let kind = if row.http < 500 { "invalid_request_error" } else { "server_error" };
        json!({"error": {
            "code": row.name, "message": self.message, "type": kind, "param": self.field,
        }})
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let row = error.code.row();
        let mut details = ErrorDetails::new();
        details.set_error_info(row.name, "hyperion", std::collections::HashMap::new());
        if let Some(field) = &error.field {
            details.add_bad_request_violation(field.as_ref(), error.message.as_ref());
        }
        if let Some(delay) = error.retry {
            details.set_retry_info(Some(delay));
        }
        Self::with_error_details(row.grpc, error.message, details)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.row().http)
            .expect("the table holds statuses from 400 to 504");
        let mut response = (status, axum::Json(self.to_json())).into_response();
        if let Some(delay) = self.retry {
            let seconds = delay.as_millis().div_ceil(1000).max(1);
            let value = HeaderValue::from_str(&seconds.to_string()).expect("decimal digits");
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response
    }
}

impl From<Pushback> for Error {
    fn from(pushback: Pushback) -> Self {
        let text = pushback.to_string();
        let later = |code, ms| Self::new(code, text.clone()).retry_after(Duration::from_millis(ms));
        match pushback {
            Pushback::QueueFull { retry_ms, .. }
            | Pushback::ShareFull { retry_ms, .. }
            | Pushback::BytesFull { retry_ms, .. }
            | Pushback::LogBehind { retry_ms, .. } => later(Code::QueueFull, retry_ms),
            Pushback::NoWorker { retry_ms } => later(Code::NoWorker, retry_ms),
            Pushback::NoMemory { .. } => Self::new(Code::NoMemory, text),
            Pushback::Deadline => Self::new(Code::Deadline, text),
            Pushback::NonceSpent(_) => Self::at(Code::NonceSpent, "request.nonce", text),
            Pushback::Draining => Self::new(Code::Draining, text),
        }
    }
}

impl From<&Failure> for Error {
    fn from(failure: &Failure) -> Self {
        let text = failure.to_string();
        let later = |code, ms| Self::new(code, text.clone()).retry_after(Duration::from_millis(ms));
        match failure {
            Failure::Deadline => Self::new(Code::Deadline, text),
            Failure::Cancelled => Self::new(Code::Cancelled, text),
            Failure::NoWorker { .. } => later(Code::NoWorker, NO_WORKER_RETRY_MS),
            Failure::Mismatch { retry_ms } => later(Code::ResultMismatch, *retry_ms),
            Failure::Disproved => Self::new(Code::ClaimDisproved, text),
            Failure::Draining => Self::new(Code::Draining, text),
            Failure::Sign(_) => Self::new(Code::Internal, text),
        }
    }
}

/// When to ask again after a job that was lost with its devices: one of them may have passed its self-test by then.
const NO_WORKER_RETRY_MS: u64 = 1000;

/// The table as `docs/errors.md` prints it.
pub fn table() -> String {
    let mut text = String::from(
        "| code | meaning | gRPC | HTTP | Solidity | retry |\n|---|---|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let Row { name, meaning, grpc, http, solidity, retry } = code.row();
        let solidity = solidity.map_or_else(
            || "–".to_owned(),
            |signature| {
                let digest = hyperion_primitives::keccak256(signature);
                format!("`{signature}` 0x{}", hex::encode(&digest[..4]))
            },
        );
        let retry = match retry {
            Retry::No => "no",
            Retry::Yes => "yes",
            Retry::Later => "later",
            Retry::Elsewhere => "elsewhere",
        };
        let grpc = spelled(grpc);
        writeln!(text, "| `{name}` | {meaning} | {grpc} | {http} | {solidity} | {retry} |")
            .expect("a string takes every write");
    }
    text
}

/// `InvalidArgument` → `INVALID_ARGUMENT`, the spelling of the gRPC documentation.
fn spelled(code: tonic::Code) -> String {
    let mut text = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_a_place_in_the_table() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.row().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for (place, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, place, "{code:?} is out of order");
        }
    }

    #[test]
    fn an_error_says_its_reason_its_field_and_its_delay() {
        let error =
            Error::at(Code::QueueFull, "model", "no room").retry_after(Duration::from_millis(70));
        assert_eq!(error.clone().into_response().headers()[RETRY_AFTER], "1");
        let status = Status::from(error);
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.message(), "model: no room");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("queue_full", "hyperion"));
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "model");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(70)));
    }
}
