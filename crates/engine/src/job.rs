//! What a caller hands in, what comes back, and every way it can end.

use std::sync::Arc;

use hyperion_model::Tensor;
use hyperion_ops::logprob::Logprobs;
use hyperion_primitives::{B256, ClaimDigest, RequestId};
use hyperion_verify::{InputError, Request, SignedClaim};

use crate::{
    Drawing, SignError,
    machine::{Ask, Work},
};

/// Receives the outcome of a submitted job, exactly once, on a thread of the engine's or the caller's own.
/// It must not block.
pub type OnDone = Box<dyn FnOnce(Result<Arc<Answer>, Failure>) + Send>;

/// Receives the tokens of an answer as they are drawn: the position of the first in the answer, and the tokens. Positions
/// come in order and without gaps, a token once; all of them before the answer. It must not block.
///
/// Beside each token comes how likely it was, where the run that draws it was asked for that ([`Job::logprobs`]), else nothing.
pub type OnTokens = Arc<dyn Fn(u32, &[u32], &[Logprobs]) + Send + Sync>;

/// Receives the output of a call that needs no claim.
pub type OnOutput = Box<dyn FnOnce(Result<Arc<Tensor>, Failure>) + Send>;

/// Receives the outputs of a block's calls, in the order of the calls.
pub type OnBatch = Box<dyn FnOnce(Vec<Result<Arc<Tensor>, InferError>>) + Send>;

/// Receives a claim's place in the log.
pub type OnLogged = Box<dyn FnOnce(LogPlace) + Send>;

/// Who goes first. Within a class, first come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Calls of a block that is being executed: before all other work, and never refused for want of room.
    Chain,
    /// Work that somebody pays for.
    Paid,
    /// Everything else.
    Free,
}

impl Class {
    /// Every class, first served first.
    pub const ALL: [Self; 3] = [Self::Chain, Self::Paid, Self::Free];
}

/// The API key that a job came with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub Arc<str>);

impl From<&str> for KeyId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

/// A checked request with its input; made by [`Engine::complete`](crate::Engine::complete).
#[derive(Clone, Debug)]
pub struct Job {
    pub(crate) ask: Ask,
    pub(crate) work: Work,
}

impl Job {
    /// Name of the work: the EIP-712 digest of [`request`](Self::request).
    pub const fn id(&self) -> RequestId {
        self.ask.id
    }

    /// The request with every field filled.
    pub const fn request(&self) -> &Request {
        &self.ask.request
    }

    /// Rows of the input: tokens of a text, rows of a tensor.
    pub const fn rows(&self) -> u32 {
        self.work.rows
    }

    /// The seed of the run, by the request's rule.
    pub const fn seed(&self) -> B256 {
        self.work.content.seed
    }

    /// How its answer is drawn; `None` for a model that generates nothing.
    pub fn drawing(&self) -> Option<&Drawing> {
        self.work.drawing.as_deref()
    }

    /// Elements of the input, little-endian: what the request's input hash covers.
    pub fn input(&self) -> &[u8] {
        &self.work.input
    }

    /// The same job in another class; [`Class::Free`] unless set.
    #[must_use]
    pub const fn class(mut self, class: Class) -> Self {
        self.work.class = class;
        self
    }

    /// The same job, whose tokens are told with log probabilities: of each token, and of the
    /// [`ALTERNATIVES_MAX`](crate::ALTERNATIVES_MAX) likeliest at its place. It changes neither tokens nor claim.
    #[must_use]
    pub const fn logprobs(mut self, wanted: bool) -> Self {
        self.work.logprobs = wanted;
        self
    }

    /// Whether its tokens are told with log probabilities.
    pub const fn wants_logprobs(&self) -> bool {
        self.work.logprobs
    }

    /// The same job with the requester's signature, which whoever runs it elsewhere asks for. It is not checked here.
    #[must_use]
    pub const fn signature(mut self, signature: Option<[u8; 65]>) -> Self {
        self.ask.signature = signature;
        self
    }

    /// The same job with a deadline in the engine's [`Clock`](crate::Clock); work that has not begun by then
    /// leaves the queue.
    #[must_use]
    pub const fn deadline_us(mut self, deadline_us: u64) -> Self {
        self.work.deadline_us = Some(deadline_us);
        self
    }

    /// The same job on behalf of a key. Unsigned requests are replayed to the key that asked first only.
    #[must_use]
    pub fn owner(mut self, owner: KeyId) -> Self {
        self.work.owner = Some(owner);
        self
    }
}

/// An output and the claim about it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked, every field filled.
    pub request: Request,
    /// What the model said; its root is under the claim's output hash.
    pub output: Arc<Tensor>,
    /// The signed claim.
    pub claim: SignedClaim,
    /// Its name.
    pub digest: ClaimDigest,
    /// Whether this is the stored answer to an earlier, identical request.
    pub replayed: bool,
}

/// Where a claim stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The claim.
    pub digest: ClaimDigest,
    /// Index of its entry.
    pub index: u64,
}

/// What [`Engine::status`](crate::Engine::status) knows of a request.
#[derive(Clone, Debug)]
pub enum RequestStatus {
    /// Waiting for a device.
    Queued,
    /// On a device, or being signed.
    Running,
    /// Signed; on its way into the log.
    Claimed(Arc<Answer>),
    /// In the log.
    Logged {
        /// The answer.
        answer: Arc<Answer>,
        /// Index of the claim's entry.
        index: u64,
    },
    /// Ended without an answer.
    Failed(Failure),
}

/// Why a request cannot be made as it stands. The caller's move: change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No model of that name is registered.
    #[error("no model `{0}` is registered")]
    ModelNotFound(String),
    /// A field that was filled in disagrees with the model or the input.
    #[error("{field}: {why}")]
    Field {
        /// The field, as the `.proto` spells it.
        field: &'static str,
        /// What it should have been.
        why: String,
    },
    /// The input has the wrong shape, too many rows, or an element out of range.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Sampling parameters for a model that draws nothing.
    #[error("the model samples nothing: sampling must be left out")]
    Sampling,
    /// A model that generates tokens, asked without a word on how they are drawn.
    #[error("the model generates tokens: say how they are drawn")]
    Undrawn,
    /// Sampling parameters that no answer can be drawn with.
    #[error("{0}")]
    Drawing(String),
    /// Prompt and answer together are longer than the model sees.
    #[error(
        "a prompt of {in_tokens} tokens and an answer of {tokens_max} are more than the {rows_max} positions of the model"
    )]
    Context {
        /// Tokens of the prompt.
        in_tokens: u32,
        /// Tokens that the answer may have.
        tokens_max: u32,
        /// Positions there are; the answer's last token takes none.
        rows_max: u32,
    },
}

/// Why a job was not taken. The caller's move: come back, or go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Pushback {
    /// The queue has no room.
    #[error("{waiting} jobs wait, {limit} may; try again in {retry_ms} ms")]
    QueueFull {
        /// Jobs waiting.
        waiting: u64,
        /// How many may.
        limit: u64,
        /// Estimated time until there is room.
        retry_ms: u64,
    },
    /// The caller has its share of the queue: half of it while others wait.
    #[error("{own} of your jobs wait, {waiting} of {limit} in all; try again in {retry_ms} ms")]
    ShareFull {
        /// Jobs of the caller's that wait.
        own: u64,
        /// Jobs of all callers that wait.
        waiting: u64,
        /// How many may.
        limit: u64,
        /// Estimated time until there is room.
        retry_ms: u64,
    },
    /// The inputs that wait fill their memory.
    #[error("inputs of {waiting_bytes} bytes wait, {limit_bytes} may; try again in {retry_ms} ms")]
    BytesFull {
        /// Bytes waiting.
        waiting_bytes: u64,
        /// How many may.
        limit_bytes: u64,
        /// Estimated time until there is room.
        retry_ms: u64,
    },
    /// Signed claims wait for the log.
    #[error("signed claims wait for the log; try again in {retry_ms} ms")]
    LogBehind {
        /// When to try again.
        retry_ms: u64,
    },
    /// The model's planned memory fits no device.
    #[error(
        "the model needs {needed_bytes} bytes, the roomiest device has {largest_bytes} left for it"
    )]
    NoMemory {
        /// Weights and buffers.
        needed_bytes: u64,
        /// The most that any device had left.
        largest_bytes: u64,
    },
    /// Every device that holds the model is out of service.
    #[error("no device that holds the model is in service; try again in {retry_ms} ms")]
    NoWorker {
        /// When to try again.
        retry_ms: u64,
    },
    /// The deadline has passed already.
    #[error("the deadline has passed")]
    Deadline,
    /// An unsigned request with this id was made with another key.
    #[error("request {0} was first made with another key; draw a new nonce")]
    NonceSpent(RequestId),
    /// The engine is shutting down.
    #[error("the engine is draining")]
    Draining,
}

/// Why an accepted job has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The deadline passed before a device began.
    #[error("the deadline passed before a device was free")]
    Deadline,
    /// The ticket was dropped.
    #[error("the caller went away")]
    Cancelled,
    /// Devices were lost under it, as often as a job may have that.
    #[error("{attempts} devices were lost under this job, the last one: {cause}")]
    NoWorker {
        /// Leases that ended badly.
        attempts: u8,
        /// What the last device said.
        cause: String,
    },
    /// Two devices gave different bytes for this job; the answer is withheld until the scalar reference has
    /// spoken.
    #[error("two devices disagree about this job; try again in {retry_ms} ms")]
    Mismatch {
        /// When to ask again.
        retry_ms: u64,
    },
    /// A claim was signed for it and the scalar reference gives other bytes.
    #[error("the claim that was signed for this job is wrong")]
    Disproved,
    /// The engine shut down first.
    #[error("the engine was drained before this job began")]
    Draining,
    /// The result could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Why a call without a claim has no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The call cannot be made as it stands.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It was not taken.
    #[error(transparent)]
    Pushback(#[from] Pushback),
    /// It was taken and has no output.
    #[error(transparent)]
    Failure(#[from] Failure),
}
