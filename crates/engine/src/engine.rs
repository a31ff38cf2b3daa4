//! The handle that the rest of the program holds.

use std::sync::Arc;

use hyperion_model::Tensor;
use hyperion_ops::Backend;
use hyperion_primitives::{Address, B256, ClaimDigest, ModelId, RequestId};
use hyperion_verify::{Domain, Request};

use crate::{
    Answer, ClaimSink, Clock, EngineConfig, EngineError, EngineStats, Failure, Invalid, Job, LogPlace,
    ModelInfo, Pushback, Registry, RequestStatus, Signer,
};

/// Receives the outcome of a submitted job, exactly once, on a thread of the engine's or the caller's own.
/// It must not block.
pub type OnDone = Box<dyn FnOnce(Result<Arc<Answer>, Failure>) + Send>;

/// Receives a claim's place in the log.
pub type OnLogged = Box<dyn FnOnce(LogPlace) + Send>;

/// Receives the outputs of a block's calls, in the order of the calls.
pub type OnBatch = Box<dyn FnOnce(Vec<Result<Arc<Tensor>, InferError>>) + Send>;

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

/// Takes the job out of the queue when dropped, unless a device has begun.
#[derive(Debug)]
pub struct Ticket(());

/// What a drain left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Jobs that ended with an answer while draining.
    pub finished: u64,
    /// Jobs cut off at the deadline.
    pub cut: u64,
}

/// Admission, queue, batches, devices, answers. Cheap to clone; the last clone to go stops the threads.
#[derive(Clone)]
pub struct Engine(());

impl Engine {
    /// Starts the devices, loads every model that fits, and returns when each device is in service or out of
    /// it.
    ///
    /// # Errors
    ///
    /// When there is no device, or none came into service.
    pub fn new(
        config: EngineConfig,
        models: Registry,
        devices: Vec<Box<dyn Backend>>,
        signer: Arc<dyn Signer>,
        domain: Domain,
        clock: Arc<dyn Clock>,
        sink: Box<dyn ClaimSink>,
    ) -> Result<Self, EngineError> {
        drop((config, models, devices, signer, domain, clock, sink));
        unimplemented!()
    }

    /// The domain that requests and claims are hashed in.
    pub fn domain(&self) -> Domain {
        unimplemented!()
    }

    /// Whose claims these are.
    pub fn worker(&self) -> Address {
        unimplemented!()
    }

    /// Every registered model.
    pub fn models(&self) -> Vec<ModelInfo> {
        unimplemented!()
    }

    /// A model by alias, or by `0x` and 64 hex digits.
    pub fn resolve(&self, name: &str) -> Option<ModelInfo> {
        let _ = name;
        unimplemented!()
    }

    /// Checks a request and its input, fills the fields that are zero (`model_id`, `input_hash`, `deadline`)
    /// and hashes it. The nonce is the caller's to draw.
    ///
    /// `input`: little-endian elements of the model's one input tensor, row-major.
    ///
    /// # Errors
    ///
    /// When the model is unknown, a filled field disagrees with the model or the input, or the input has the
    /// wrong shape or range.
    pub fn complete(&self, model: ModelId, request: Request, input: Arc<[u8]>) -> Result<Job, Invalid> {
        let _ = (model, request, input);
        unimplemented!()
    }

    /// Takes a job. Asked again for a request that is known, it waits for the run under way or answers from
    /// the store, `replayed`.
    ///
    /// # Errors
    ///
    /// When the job is not taken; `on_done` is then dropped uncalled.
    pub fn submit(&self, job: Job, on_done: OnDone) -> Result<Ticket, Pushback> {
        drop((job, on_done));
        unimplemented!()
    }

    /// Runs one input through the same queue, class free, without a claim, and waits for the output.
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete) and [`submit`](Self::submit), or when the run fails.
    pub fn infer_now(&self, model: ModelId, input: &[u8]) -> Result<Arc<Tensor>, InferError> {
        let _ = (model, input);
        unimplemented!()
    }

    /// Runs the calls of a block before all other work; equal calls once, known ones not at all. No claim is
    /// signed. `done` may be called before this returns.
    pub fn run_batch(&self, calls: Vec<(ModelId, Arc<[u8]>)>, done: OnBatch) {
        drop((calls, done));
        unimplemented!()
    }

    /// The output of a call without sampling, if it is remembered.
    pub fn remembered(&self, model: ModelId, input_hash: B256) -> Option<Arc<Tensor>> {
        let _ = (model, input_hash);
        unimplemented!()
    }

    /// What is known of a request; `None` when it never came, or was let go after [`EngineConfig::keep_s`].
    pub fn status(&self, request: RequestId) -> Option<RequestStatus> {
        let _ = request;
        unimplemented!()
    }

    /// The request that a kept claim answers.
    pub fn request_of(&self, claim: ClaimDigest) -> Option<RequestId> {
        let _ = claim;
        unimplemented!()
    }

    /// Calls `waiter` once the request's claim is in the log; at once if it is. Dropped uncalled when the
    /// request fails or is let go.
    pub fn on_logged(&self, request: RequestId, waiter: OnLogged) {
        let _ = request;
        drop(waiter);
        unimplemented!()
    }

    /// The producer's word after a durable commit: these claims stand in the log at these indices.
    pub fn logged(&self, places: &[(RequestId, ClaimDigest, u64)]) {
        let _ = places;
        unimplemented!()
    }

    /// Estimated milliseconds until a job that came now would begin.
    pub fn wait_ms(&self, model: ModelId) -> u64 {
        let _ = model;
        unimplemented!()
    }

    /// Takes no new work, and returns when what waits has ended or `deadline_us` of the clock has passed; what
    /// has not begun by then fails with [`Failure::Draining`].
    pub fn drain(&self, deadline_us: u64) -> Drained {
        let _ = deadline_us;
        unimplemented!()
    }

    /// Counters and depths, now.
    pub fn stats(&self) -> EngineStats {
        unimplemented!()
    }

    /// Makes every sleeping thread look at the clock again; for clocks that jump.
    pub fn tick(&self) {
        unimplemented!()
    }
}
