//! Admission, queue, batches, devices, answers: the life of a job.
//!
//! Start with [`Engine`]. [`machine`] holds every decision as plain state, `shell.rs` and `worker.rs` the threads
//! around it; `docs/engine.md` tells it in order.
#![deny(unsafe_code)]

mod attach;
mod batch;
mod bell;
mod block;
mod claim;
mod clock;
mod config;
mod drawing;
mod engine;
mod error;
mod generator;
mod job;
mod known;
pub mod machine;
mod memo;
mod outbox;
mod placement;
mod pool;
mod queue;
mod registry;
mod shell;
mod sign;
mod stats;
mod worker;

pub use attach::{Attachment, Breach, OnWake, Outcome};
pub use batch::{has_room, is_due};
pub use block::BlockCall;
pub use clock::{Clock, ManualClock};
pub use config::{BatchLimits, EngineConfig};
pub use drawing::{Drawing, PENALISED_TOKENS_MAX};
pub use engine::{Drained, Engine, Ticket};
pub use error::EngineError;
pub use hyperion_model::{Tensor, TokenBytes};
pub use hyperion_ops::logprob::{ALTERNATIVES_MAX, Logprobs};
pub use hyperion_ops::{DeviceInfo, DeviceKind, OPSET};
pub use job::{
    Answer, Class, Failure, InferError, Invalid, Job, KeyId, LogPlace, OnBatch, OnDone, OnLogged,
    OnOutput, OnTokens, Pushback, RequestStatus,
};
pub use machine::Evidence;
pub use memo::Content;
pub use pool::KernelPool;
pub use queue::{JobKey, may_wait};
pub use registry::{ModelInfo, Registry, Unready};
pub use sign::{ClaimSink, SignError, Signer};
pub use stats::{BUCKETS, DeviceStats, EngineStats, Histogram, ModelStats};
