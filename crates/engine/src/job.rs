//! What a caller hands in, what comes back, and every way it can end.

use std::{fmt, sync::Arc};

use hyperion_model::{InputError, Tensor};
use hyperion_primitives::{B256, ClaimDigest, RequestId};
use hyperion_verify::{Request, SignedClaim};

use crate::{SignError, memo::Content, registry::ModelIndex};

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
#[derive(Clone)]
pub struct Job {
    pub(crate) id: RequestId,
    pub(crate) request: Request,
    pub(crate) model: ModelIndex,
    pub(crate) content: Content,
    pub(crate) input: Arc<[u8]>,
    pub(crate) rows: u32,
    pub(crate) class: Class,
    pub(crate) deadline_us: Option<u64>,
    pub(crate) owner: Option<KeyId>,
}

impl Job {
    /// Name of the work: the EIP-712 digest of [`request`](Self::request).
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// The request with every field filled.
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// Rows of the input: tokens of a text, rows of a tensor.
    pub const fn rows(&self) -> u32 {
        self.rows
    }

    /// The same job in another class; [`Class::Free`] unless set.
    #[must_use]
    pub const fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// The same job with a deadline in the engine's [`Clock`](crate::Clock); work that has not begun by then
    /// leaves the queue.
    #[must_use]
    pub const fn deadline_us(mut self, deadline_us: u64) -> Self {
        self.deadline_us = Some(deadline_us);
        self
    }

    /// The same job on behalf of a key. Unsigned requests are replayed to the key that asked first only.
    #[must_use]
    pub fn owner(mut self, owner: KeyId) -> Self {
        self.owner = Some(owner);
        self
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("rows", &self.rows)
            .field("class", &self.class)
            .field("deadline_us", &self.deadline_us)
            .finish_non_exhaustive()
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
    /// The input has the wrong shape, or an element out of range.
    #[error(transparent)]
    Input(#[from] InputError),
    /// More rows than the model's context holds.
    #[error("the input has {rows} rows, the model takes {rows_max} at most")]
    TooManyRows {
        /// Rows of the input.
        rows: u64,
        /// Rows that the model takes.
        rows_max: u32,
    },
    /// Sampling parameters for a model that draws nothing.
    #[error("the model samples nothing: sampling must be left out")]
    Sampling,
}

/// Why a job was not taken. The caller's move: come back, or go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Pushback {
    /// The queue has no room, or the caller has more than its share of it.
    #[error("{waiting} jobs wait, {limit} may; try again in {retry_ms} ms")]
    QueueFull {
        /// Jobs waiting, of all callers or of this one.
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
    #[error("{waiting} signed claims wait for the log; try again in {retry_ms} ms")]
    LogBehind {
        /// Claims signed and not taken by the log's producer yet.
        waiting: u64,
        /// When to try again.
        retry_ms: u64,
    },
    /// The model's planned memory fits no device.
    #[error("the model needs {needed_bytes} bytes, the roomiest device has {largest_bytes} left for it")]
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
    /// The engine shut down first.
    #[error("the engine was drained before this job began")]
    Draining,
    /// The result could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

