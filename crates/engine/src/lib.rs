//! Admission, queue, batches, devices, answers: the life of a job.
//!
//! Start with [`Engine`]. Bounded queues, batches that give every request the bits it would get alone,
//! devices that are lost and come back, and claims signed while the next batch runs; `docs/engine.md` tells
//! it in order.
#![deny(unsafe_code)]

mod clock;
mod config;
mod engine;
mod error;
mod job;
mod memo;
mod registry;
mod sign;
mod stats;

pub use clock::{Clock, ManualClock};
pub use config::{BatchLimits, EngineConfig};
pub use engine::{Drained, Engine, InferError, OnBatch, OnDone, OnLogged, Ticket};
pub use error::EngineError;
pub use job::{Answer, Class, Failure, Invalid, Job, KeyId, LogPlace, Pushback, RequestStatus};
pub use memo::Content;
pub use registry::{ModelInfo, Registry, Unready};
pub use sign::{ClaimSink, SignError, Signer};
pub use stats::{BUCKETS, DeviceStats, EngineStats, Histogram, ModelStats};
