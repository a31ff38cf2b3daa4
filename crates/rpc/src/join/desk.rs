//! What a worker has taken and what it owes, whether or not it is connected.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hyperion_engine::{Class, Clock, Engine, Failure, InferError, Job, Pushback, Tensor, Ticket};
use hyperion_primitives::{B256, ModelId, RequestId};
use tokio::{sync::mpsc, time::Instant};

use super::{JoinConfig, Joined};
use crate::{
    convert::{self, check_signature, copied, digest, dtype, exactly},
    r#gen::v1::{self, FailureKind, attach_request::Event as Said},
    status::{Code, Error},
};

/// How long a result is kept that the node has not taken, how many, and how many bytes of them.
const KEEP: Duration = Duration::from_secs(600);
const KEPT_MAX: usize = 4096;
const KEPT_BYTES_MAX: usize = 256 << 20;
/// Leases that one heartbeat names; a node takes no more.
const BEATS_MAX: usize = 4096;
/// Leases taken for each slot and model: credit and leases cross on the way.
const LEASES_PER_SLOT: usize = 2;
/// Known questions at a time.
const PROBES_MAX: usize = 64;
/// Seconds by which the clocks of node and worker may differ.
const SKEW_S: u64 = 300;
/// Input beyond this is hashed where blocking is allowed.
const HEAVY_BYTES: usize = 32 << 10;

/// 16 bytes; the node's name for a job that this worker holds.
type LeaseName = [u8; 16];

/// A job that a device has not ended yet.
struct Held {
    job: Job,
    challenge_until: u64,
    /// Gone once the node has cancelled.
    ticket: Option<Ticket>,
}

/// A result that the node has not taken yet.
struct Kept {
    finished: v1::Finished,
    since: Instant,
    sent: bool,
}

/// What comes back from the engine.
enum Done {
    Output(LeaseName, Result<Arc<Tensor>, Failure>),
    Probe(Bytes, Result<B256, InferError>),
}

/// A lease that this worker will not work on.
type Refusal = (FailureKind, String);

pub(super) struct Desk {
    engine: Engine,
    clock: Arc<dyn Clock>,
    slots: usize,
    challenge_s: u64,
    open: bool,
    held: BTreeMap<LeaseName, Held>,
    kept: BTreeMap<LeaseName, Kept>,
    kept_bytes: usize,
    probes: usize,
    /// Unbounded, as a waiter must not block; in it are at most the jobs held and the questions asked.
    tell: mpsc::UnboundedSender<Done>,
    told: mpsc::UnboundedReceiver<Done>,
    /// Messages for the node, if it is there.
    out: Vec<Said>,
    joined: Joined,
}

impl Desk {
    pub(super) fn new(engine: Engine, clock: Arc<dyn Clock>, config: &JoinConfig) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            engine,
            clock,
            slots: config.slots.max(1) as usize,
            challenge_s: config.challenge_s,
            open: true,
            held: BTreeMap::new(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
            probes: 0,
            tell,
            told,
            out: Vec::new(),
            joined: Joined::default(),
        }
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn now_s(&self) -> u64 {
        self.clock.unix_s()
    }

    pub(super) fn joined(&self) -> Joined {
        Joined { undelivered: self.kept.len() as u64, ..self.joined }
    }

    /// Models whose weights are resident and were hashed.
    pub(super) fn models(&self) -> Vec<ModelId> {
        let models = self.engine.models().into_iter().filter(|model| model.ready.is_ok());
        models.map(|model| model.id).collect()
    }

    pub(super) fn welcomed(&mut self) {
        self.joined.sessions += 1;
    }

    /// No more leases.
    pub(super) fn close(&mut self) {
        self.open = false;
        self.credit();
    }

    /// Whether nothing is held and nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.kept.is_empty()
    }

    /// What a new connection begins with: what is held, what is owed, and how much room there is.
    pub(super) fn reopen(&mut self) -> Vec<Said> {
        self.out.clear();
        for kept in self.kept.values_mut() {
            kept.sent = false;
        }
        self.credit();
        let mut events = vec![self.heartbeat()];
        events.extend(self.due());
        events
    }

    pub(super) fn heartbeat(&self) -> Said {
        // What is done needs no lease to be taken; what is not comes first.
        let names = self.held.keys().chain(self.kept.keys()).take(BEATS_MAX);
        Said::Heartbeat(v1::Heartbeat { lease_ids: names.map(copied).collect() })
    }

    /// Messages that are due now.
    pub(super) fn due(&mut self) -> Vec<Said> {
        self.forget();
        let unsent = self.kept.values_mut().filter(|kept| !kept.sent);
        let results = unsent.map(|kept| {
            kept.sent = true;
            Said::Finished(kept.finished.clone())
        });
        let mut events: Vec<Said> = results.collect();
        events.append(&mut self.out);
        events
    }

    /// Says how much room there is, for each model.
    fn credit(&mut self) {
        let free = if self.open { self.slots.saturating_sub(self.held.len()) } else { 0 };
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        self.out.retain(|event| !matches!(event, Said::Credit(_)));
        for model in self.engine.models() {
            let slots = if model.ready.is_ok() { free } else { 0 };
            self.out.push(Said::Credit(v1::Credit { model_id: copied(model.id.0), slots }));
        }
    }

    /// Waits for a job or a question to end.
    pub(super) async fn settled(&mut self) {
        // This desk holds the other end, so there is always one.
        if let Some(done) = self.told.recv().await {
            self.done(done);
        }
        while let Ok(done) = self.told.try_recv() {
            self.done(done);
        }
        self.credit();
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Output(name, outcome) => {
                let Some(held) = self.held.remove(&name) else { return };
                match self.finish(&held, outcome) {
                    Ok(finished) => self.keep(name, finished),
                    Err((kind, detail)) => self.give_back(&name, kind, &detail),
                }
            }
            Done::Probe(probe_id, outcome) => {
                self.probes -= 1;
                match outcome {
                    Ok(hash) => {
                        let output_hash = copied(hash);
                        self.out.push(Said::Probed(v1::Probed { probe_id, output_hash }));
                    }
                    Err(error) => tracing::error!(%error, "a known question has no answer here"),
                }
            }
        }
    }

    /// Signs a result.
    fn finish(
        &self,
        held: &Held,
        outcome: Result<Arc<Tensor>, Failure>,
    ) -> Result<v1::Finished, Refusal> {
        let output = outcome.map_err(|failure| failed(&failure))?;
        let signed = self.engine.claim(&held.job, &output, held.challenge_until);
        let claim = signed.map_err(|error| (FailureKind::Internal, error.to_string()))?;
        let digest = claim.claim.digest(&self.engine.domain());
        Ok(v1::Finished {
            lease_id: Bytes::new(),
            outputs: vec![v1::Tensor {
                name: String::new(),
                dtype: output.dtype.code().into(),
                dims: output.dims.to_vec(),
                body: Some(v1::tensor::Body::Data(copied(&output.data))),
            }],
            claim: Some(convert::wire_claim(&claim, digest.0)),
            device_us: 0,
        })
    }

    fn keep(&mut self, name: LeaseName, mut finished: v1::Finished) {
        finished.lease_id = copied(name);
        self.kept_bytes += bytes(&finished);
        let kept = Kept { finished, since: Instant::now(), sent: false };
        self.kept.insert(name, kept);
    }

    /// Lets results go that are too old or too many; the oldest first.
    fn forget(&mut self) {
        let too_old = |kept: &Kept| kept.since.elapsed() >= KEEP;
        while self.kept.len() > KEPT_MAX
            || self.kept_bytes > KEPT_BYTES_MAX
            || self.kept.values().any(too_old)
        {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.since);
            let Some(name) = oldest.map(|(name, _)| *name) else { return };
            self.drop_kept(&name);
            tracing::warn!("a result was let go that the node had not taken");
        }
    }

    fn drop_kept(&mut self, name: &LeaseName) -> bool {
        let Some(kept) = self.kept.remove(name) else { return false };
        self.kept_bytes -= bytes(&kept.finished);
        true
    }

    fn give_back(&mut self, name: &LeaseName, kind: FailureKind, detail: &str) {
        self.joined.given_back += 1;
        tracing::warn!(?kind, %detail, "a job was given back");
        let (lease_id, detail) = (copied(name), detail.to_owned());
        self.out.push(Said::Failed(v1::Failed { lease_id, kind: kind.into(), detail }));
    }

    /// The node has a result.
    pub(super) fn acknowledged(&mut self, name: &[u8]) {
        let Ok(name) = name.try_into() else { return };
        if self.drop_kept(&name) {
            self.joined.delivered += 1;
        }
    }

    /// Nobody waits for a job any more. What no device has begun ends; a run is never broken off.
    pub(super) fn cancel(&mut self, name: &[u8]) {
        let Ok(name) = LeaseName::try_from(name) else { return };
        if let Some(held) = self.held.get_mut(&name) {
            drop(held.ticket.take());
        }
    }

    /// Takes a job, or gives it back with the reason.
    pub(super) async fn take(&mut self, lease: v1::Lease) {
        let Ok(name) = LeaseName::try_from(&lease.lease_id[..]) else { return };
        if self.held.contains_key(&name) || self.kept.contains_key(&name) {
            return;
        }
        if let Err((kind, detail)) = self.try_take(name, lease).await {
            self.give_back(&name, kind, &detail);
            self.credit();
        }
    }

    async fn try_take(&mut self, name: LeaseName, lease: v1::Lease) -> Result<(), Refusal> {
        if !self.open {
            return Err((FailureKind::Cancelled, "this worker is about to end".to_owned()));
        }
        let models = self.engine.models().len();
        if self.held.len() >= self.slots * models * LEASES_PER_SLOT {
            return Err((FailureKind::NoMemory, format!("{} jobs are held", self.held.len())));
        }
        let now_s = self.clock.unix_s();
        let latest_s = now_s.saturating_add(self.challenge_s).saturating_add(SKEW_S);
        let challenge_until = lease.challenge_until_s;
        if challenge_until > latest_s {
            let text = format!(
                "the claim could be challenged until {challenge_until}, this worker answers for {} s",
                self.challenge_s
            );
            return Err((FailureKind::InputRejected, text));
        }
        let deadline_ms = lease.deadline_ms;
        let engine = self.engine.clone();
        let job = if heavy(&lease) {
            tokio::task::spawn_blocking(move || job(&engine, lease)).await.unwrap_or_else(|_| {
                Err((FailureKind::Internal, "reading the input failed".to_owned()))
            })?
        } else {
            job(&engine, lease)?
        };
        let left_ms = deadline_ms.saturating_sub(now_s.saturating_mul(1_000));
        let deadline_us = self.clock.now_us().saturating_add(left_ms.saturating_mul(1_000));
        let class = if job.request().requester.is_zero() { Class::Free } else { Class::Paid };
        let timed = job.clone().class(class).deadline_us(deadline_us);
        let tell = self.tell.clone();
        let on_output = move |outcome| {
            // An error says that the worker has ended.
            let _ = tell.send(Done::Output(name, outcome));
        };
        let ticket = self.engine.compute(timed, Box::new(on_output));
        let ticket = ticket.map_err(|pushback| pushed_back(&pushback))?;
        self.held.insert(name, Held { job, challenge_until, ticket: Some(ticket) });
        Ok(())
    }

    /// Answers a known question, by a run of its own.
    pub(super) fn probe(&mut self, probe: v1::Probe) {
        let v1::Probe { probe_id, model_id, mut inputs, device: _ } = probe;
        let data = match inputs.pop().and_then(|tensor| tensor.body) {
            Some(v1::tensor::Body::Data(data)) if inputs.is_empty() => data,
            _ => return,
        };
        let Ok(model) = digest("probe.model_id", &model_id) else { return };
        if self.probes >= PROBES_MAX {
            return;
        }
        self.probes += 1;
        let (engine, tell) = (self.engine.clone(), self.tell.clone());
        tokio::task::spawn_blocking(move || {
            let output = engine.recompute_now(model.into(), &data);
            let _ = tell.send(Done::Probe(probe_id, output.map(|output| output.output_hash())));
        });
    }
}

fn bytes(finished: &v1::Finished) -> usize {
    let data = |tensor: &v1::Tensor| match &tensor.body {
        Some(v1::tensor::Body::Data(data)) => data.len(),
        _ => 0,
    };
    1024 + finished.outputs.iter().map(data).sum::<usize>()
}

fn heavy(lease: &v1::Lease) -> bool {
    let is_heavy = |tensor: &v1::Tensor| matches!(&tensor.body, Some(v1::tensor::Body::Data(data)) if data.len() > HEAVY_BYTES);
    lease.inputs.iter().any(is_heavy)
}

/// The job of a lease. What the worker is going to sign it has checked: that the request is whole and is the one named,
/// that the input is what the request commits to, and that a requester who is named has signed.
fn job(engine: &Engine, lease: v1::Lease) -> Result<Job, Refusal> {
    let rejected = |error: Error| (FailureKind::InputRejected, error.to_string());
    read(engine, lease).map_err(|error| match error.code() {
        Code::ModelNotFound => (FailureKind::ModelMissing, error.to_string()),
        _ => rejected(error),
    })
}

fn read(engine: &Engine, lease: v1::Lease) -> Result<Job, Error> {
    let v1::Lease { request, request_id, mut inputs, sampling, seed, request_signature, .. } =
        lease;
    if lease.stream || lease.eager_trace || sampling.is_some_and(|s| s != v1::Sampling::default()) {
        let text = "these models neither stream, nor draw, nor are traced ahead";
        return Err(Error::new(Code::UnsupportedParameter, text));
    }
    let request = convert::request(request)?;
    let id = RequestId(digest("request_id", &request_id)?);
    let tensor = inputs.pop().filter(|_| inputs.is_empty());
    let tensor = tensor.ok_or_else(|| Error::bad_field("inputs", "want one tensor"))?;
    let Some(v1::tensor::Body::Data(data)) = tensor.body else {
        return Err(Error::bad_field("inputs", "the data has to be in the message"));
    };
    dtype("inputs", tensor.dtype)?;
    let job = engine.complete(request.model_id, request.clone(), Arc::from(&data[..]))?;
    if *job.request() != request || job.id() != id {
        let text = format!("the request is {}, the lease names {id}", job.id());
        return Err(Error::bad_field("request", text));
    }
    if !seed.is_empty() && digest("seed", &seed)? != job.seed() {
        return Err(Error::bad_field("seed", "is not the one of the request"));
    }
    let signature = match &request_signature[..] {
        [] => None,
        bytes => Some(exactly("request_signature", bytes)?),
    };
    check_signature(&job, signature.as_ref())?;
    Ok(job)
}

fn failed(failure: &Failure) -> Refusal {
    let kind = match failure {
        Failure::Deadline | Failure::Cancelled | Failure::Draining => FailureKind::Cancelled,
        Failure::NoWorker { .. } => FailureKind::DeviceLost,
        Failure::Mismatch { .. } | Failure::Disproved | Failure::Sign(_) => FailureKind::Internal,
    };
    (kind, failure.to_string())
}

fn pushed_back(pushback: &Pushback) -> Refusal {
    let kind = match pushback {
        Pushback::QueueFull { .. }
        | Pushback::ShareFull { .. }
        | Pushback::BytesFull { .. }
        | Pushback::LogBehind { .. }
        | Pushback::NoMemory { .. } => FailureKind::NoMemory,
        Pushback::NoWorker { .. } => FailureKind::DeviceLost,
        Pushback::Deadline | Pushback::Draining => FailureKind::Cancelled,
        Pushback::NonceSpent(_) => FailureKind::Internal,
    };
    (kind, pushback.to_string())
}
