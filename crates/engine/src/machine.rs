//! Every decision of the engine, without a thread, a clock or a lock.
//!
//! A [`Machine`] is driven by events, each with its time: [`submit`](Machine::submit), [`cancel`](Machine::cancel),
//! [`take`](Machine::take) and so on. What the outside has to do because of an event (call a waiter, wake a
//! device) collects in [`Effects`]. The threads around it live in `shell.rs`; a simulation drives it with a
//! seed instead.
//!
//! ```text
//! Queued --take--> Running --finish--> Signing --signed--> Claimed --logged--> Logged
//!   ^                |  |                |  |
//!   '-- device lost -'  '-- third loss --|--|--> Failed     (also from Queued: deadline, cancel, drain)
//!                                        |  '-- no signature --> Failed
//!                                        '-- nobody waits any more --> Failed
//!
//! Signing, Claimed, Logged --a second device differs--> Disputed --verdict--> back, or Failed
//! ```
//!
//! A job without a request (a block's call, [`Engine::infer_now`](crate::Engine::infer_now)) ends at `finish`,
//! where it hands over its output and is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use hyperion_model::Tensor;
use hyperion_ops::logprob::Logprobs;
use hyperion_primitives::{ClaimDigest, RequestId};
use hyperion_verify::Request;

use crate::{
    Answer, BatchLimits, Class, Content, Drawing, EngineConfig, EngineStats, Failure, KeyId,
    LogPlace, OnDone, OnLogged, OnOutput, OnTokens, RequestStatus,
    queue::{JobKey, Queue},
};

mod admit;
mod device;
mod ending;
mod generation;
mod lease;
mod remote;

pub use device::{DeviceIndex, RETEST_MS, Take};
pub use generation::{Joined, Progress, Step};
pub use lease::{Batch, BatchJob, Dispute, Evidence, Finished, LeaseId, ToSign};
pub use remote::{
    Arrival, AttachRefused, Delivered, End, Fault, Leased, Order, Seat, WORKER_JOBS_MAX,
};

use device::Device;
use lease::Lease;

/// Times that a job may lose its device.
pub const LEASES_MAX: u8 = 3;

/// What a run needs to know.
#[derive(Clone, Debug)]
pub struct Work {
    /// Place of the model in the registry.
    pub model: usize,
    /// What the output depends on.
    pub content: Content,
    /// Elements of the input tensor.
    pub input: Arc<[u8]>,
    /// Its rows.
    pub rows: u32,
    /// How its answer is drawn, for a generator.
    pub drawing: Option<Arc<Drawing>>,
    /// Whether its tokens are told with log probabilities.
    pub logprobs: bool,
    /// Who goes first.
    pub class: Class,
    /// When a wait for it ends, unless a device has begun by then.
    pub deadline_us: Option<u64>,
    /// The key it came with.
    pub owner: Option<KeyId>,
}

/// The request that a claim will answer.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its digest.
    pub id: RequestId,
    /// Every field filled.
    pub request: Request,
    /// The requester's, if there is a requester: a worker on another host asks for it.
    pub signature: Option<[u8; 65]>,
}

impl Ask {
    /// Whether the requester signed: such work is finished once a device has begun.
    fn is_signed(&self) -> bool {
        !self.request.requester.is_zero()
    }
}

/// Who is told how a job ended.
pub enum Waiter {
    /// Wants the claim.
    Answer(OnDone),
    /// Wants the tokens as they come, and the claim.
    Stream(OnTokens, OnDone),
    /// Wants the output only.
    Output(OnOutput),
    /// Wants the tokens as they come, and the output.
    Drawn(OnTokens, OnOutput),
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer(_) => "Answer",
            Self::Stream(..) => "Stream",
            Self::Output(_) => "Output",
            Self::Drawn(..) => "Drawn",
        })
    }
}

/// A waiter and what to tell it; made without any lock held.
pub enum Call {
    /// A claim, or why there is none.
    Answer(OnDone, Result<Arc<Answer>, Failure>),
    /// An output, or why there is none.
    Output(OnOutput, Result<Arc<Tensor>, Failure>),
    /// Tokens of an answer, the position of the first, and how likely they were, if that was asked for.
    Tokens(OnTokens, u32, Vec<u32>, Vec<Logprobs>),
    /// A place in the log.
    Logged(OnLogged, LogPlace),
}

impl Call {
    /// Tells it.
    pub fn make(self) {
        match self {
            Self::Answer(done, outcome) => done(outcome),
            Self::Output(done, outcome) => done(outcome),
            Self::Tokens(tell, position, tokens, logprobs) => tell(position, &tokens, &logprobs),
            Self::Logged(done, place) => done(place),
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(_, outcome) => f.debug_tuple("Answer").field(outcome).finish(),
            Self::Output(_, outcome) => f.debug_tuple("Output").field(outcome).finish(),
            Self::Tokens(_, position, tokens, _) => {
                f.debug_tuple("Tokens").field(position).field(tokens).finish()
            }
            Self::Logged(_, place) => f.debug_tuple("Logged").field(place).finish(),
        }
    }
}

/// A closure that nobody will call. Its end may run anybody's code, so it ends outside, too.
pub enum Dropped {
    /// Of a submission that was pushed back.
    Waiter(Waiter),
    /// Of a request that will not be logged.
    Logged(OnLogged),
}

impl fmt::Debug for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dropped")
    }
}

/// What the outside owes the machine after an event.
#[derive(Debug, Default)]
pub struct Effects {
    /// Answers that were generated, to be remembered before anybody is told.
    pub generated: Vec<(Content, Arc<Tensor>)>,
    /// Waiters to be told, in this order.
    pub calls: Vec<Call>,
    /// Closures to be dropped.
    pub dropped: Vec<Dropped>,
    /// Devices to be woken.
    pub wake: Vec<DeviceIndex>,
    /// Whether [`Machine::next_us`] is earlier than it was when [`Machine::timer_set`] was last called.
    pub timer: bool,
    /// Whether the machine drains, and nothing is queued, running or being signed any more.
    pub drained: bool,
}

/// One wait for a job: a job asked for twice has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TicketId {
    job: JobKey,
    nth: u64,
}

/// What became of a submission.
#[derive(Debug)]
pub enum Submitted {
    /// It waits for a device.
    Queued(TicketId),
    /// It waits for the run of an earlier, identical request.
    Joined(TicketId),
    /// Its output was known: it only has to be signed.
    Known(TicketId, Box<ToSign>),
    /// Its outcome was known and is among the effects.
    Replayed,
}

#[derive(Debug)]
struct Wait {
    nth: u64,
    deadline_us: Option<u64>,
    waiter: Waiter,
    /// Tokens of the answer that it was told.
    heard: usize,
}

#[derive(Debug)]
enum State {
    Queued,
    Running(LeaseId),
    Signing(Arc<Tensor>),
    Claimed(Arc<Answer>),
    Logged(Arc<Answer>, u64),
    Disputed(Box<Self>),
    Failed(Failure),
}

struct Record {
    work: Work,
    ask: Option<Arc<Ask>>,
    state: State,
    accepted_us: u64,
    /// Devices lost under it.
    attempts: u8,
    lost_on: Option<DeviceIndex>,
    /// Whose output it has.
    device: Option<DeviceIndex>,
    /// What was generated of the answer on the device that has it now.
    tokens: Vec<u32>,
    /// One per token, or none.
    logprobs: Vec<Logprobs>,
    waits: Vec<Wait>,
    log_waiters: Vec<OnLogged>,
    claim: Option<ClaimDigest>,
    kept_bytes: u64,
}

impl Record {
    /// Whether the run would be for nobody: no one waits, and no requester signed.
    fn is_abandoned(&self) -> bool {
        self.waits.is_empty() && !self.ask.as_ref().is_some_and(|ask| ask.is_signed())
    }

    /// Whether a worker on another host may run it: one that gets a claim, and of nobody in particular.
    fn travels(&self) -> bool {
        travels(self.ask.as_deref())
    }
}

/// Whether work under this request may go to another host. A worker signs for requests alone, so a block's calls stay.
fn travels(ask: Option<&Ask>) -> bool {
    ask.is_some_and(|ask| ask.request.worker.is_zero())
}

#[derive(Debug, Default)]
struct ModelState {
    queue: Queue,
    /// Set when no device has room for it: bytes needed, and the most that any device had left.
    unfit: Option<(u64, u64)>,
    /// Smoothed time on a device, in nanoseconds per row.
    row_ns: u64,
    /// Answers that a device generates at once; 0 for a model that generates nothing.
    answers_max: u32,
}

/// See the [module](self).
pub struct Machine {
    batch: BatchLimits,
    queue_jobs_max: usize,
    queue_bytes_max: u64,
    claims_waiting_max: u64,
    kept_bytes_max: u64,
    keep_us: u64,
    lease_us: u64,
    probe_us: u64,
    workers_max: usize,
    worker_lease_us: u64,
    models: Vec<ModelState>,
    devices: Vec<Device>,
    jobs: HashMap<JobKey, Record>,
    by_request: HashMap<RequestId, JobKey>,
    by_claim: HashMap<ClaimDigest, JobKey>,
    leases: BTreeMap<LeaseId, Lease>,
    /// When workers' leases end, and when those that have ended are forgotten.
    lease_ends: BTreeSet<(u64, LeaseId)>,
    deadlines: BTreeSet<(u64, JobKey, u64)>,
    /// Ended jobs with a request, in the order they ended.
    kept: VecDeque<(u64, JobKey)>,
    evidence: VecDeque<Evidence>,
    /// Jobs that are queued, running or being signed.
    live: u64,
    drawn: u64,
    timer_us: Option<u64>,
    draining: bool,
    stopped: bool,
    effects: Effects,
    stats: EngineStats,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("live", &self.live)
            .field("kept", &self.kept.len())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine with `stats.models` models, without work; every device is out of service until
    /// [`up`](Self::up).
    ///
    /// | argument | meaning |
    /// |---|---|
    /// | `stats` | names the models and devices |
    /// | `holds` | per device, the models it has room for |
    /// | `generators` | places of the models that generate tokens |
    /// | `unfit` | per model that no device has room for: bytes needed, most that any device had left |
    pub fn new(
        config: &EngineConfig,
        stats: EngineStats,
        holds: Vec<Vec<bool>>,
        generators: &[usize],
        unfit: &[(usize, u64, u64)],
    ) -> Self {
        let mut models: Vec<ModelState> =
            stats.models.iter().map(|_| ModelState::default()).collect();
        for (model, needed, largest) in unfit {
            models[*model].unfit = Some((*needed, *largest));
        }
        for model in generators {
            models[*model].answers_max = config.answers_max.max(1);
        }
        Self {
            batch: config.batch(),
            queue_jobs_max: config.queue_jobs_max,
            queue_bytes_max: config.queue_bytes_max,
            claims_waiting_max: config.claims_waiting_max as u64,
            kept_bytes_max: config.kept_bytes_max,
            keep_us: config.keep_s.saturating_mul(1_000_000),
            lease_us: config.lease_us,
            probe_us: config.probe_us,
            workers_max: config.workers_max,
            worker_lease_us: config.worker_lease_us,
            models,
            devices: holds.into_iter().map(Device::new).collect(),
            jobs: HashMap::new(),
            by_request: HashMap::new(),
            by_claim: HashMap::new(),
            leases: BTreeMap::new(),
            lease_ends: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            kept: VecDeque::new(),
            evidence: VecDeque::new(),
            live: 0,
            drawn: 0,
            timer_us: None,
            draining: false,
            stopped: false,
            effects: Effects::default(),
            stats,
        }
    }

    /// What the events since the last call ask of the outside.
    pub fn effects(&mut self) -> Effects {
        let next = self.next_us();
        self.effects.timer = match (next, self.timer_us) {
            (Some(next), Some(set)) => next < set,
            (Some(_), None) => true,
            (None, _) => false,
        };
        self.effects.drained = self.draining && self.live == 0;
        std::mem::take(&mut self.effects)
    }

    /// Adds a wait to a job that has not ended.
    fn wait(&mut self, job: JobKey, deadline_us: Option<u64>, waiter: Waiter) -> TicketId {
        self.drawn += 1;
        let nth = self.drawn;
        let record = self.jobs.get_mut(&job).expect("waits are for jobs that live");
        if let (State::Queued, Some(deadline_us)) = (&record.state, deadline_us) {
            self.deadlines.insert((deadline_us, job, nth));
        }
        record.waits.push(Wait { nth, deadline_us, waiter, heard: 0 });
        self.tell_tokens(job);
        TicketId { job, nth }
    }

    /// Ends one wait. A queued job that nobody waits for leaves the queue; a running one is finished if its
    /// requester signed. Nothing happens when the wait is over already.
    pub fn cancel(&mut self, ticket: TicketId, now_us: u64) {
        self.end_wait(ticket.job, ticket.nth, &Failure::Cancelled, now_us);
    }

    fn end_wait(&mut self, job: JobKey, nth: u64, why: &Failure, now_us: u64) {
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let Some(at) = record.waits.iter().position(|wait| wait.nth == nth) else { return };
        let wait = record.waits.remove(at);
        if let Some(deadline_us) = wait.deadline_us {
            self.deadlines.remove(&(deadline_us, job, nth));
        }
        let nobody_waits = record.waits.is_empty();
        let is_queued = matches!(record.state, State::Queued);
        let leased = match record.state {
            State::Running(lease) if record.is_abandoned() => Some(lease),
            _ => None,
        };
        self.tell(wait.waiter, Err(why.clone()));
        if let Some(lease) = leased
            && !self.give_up(lease, why, now_us)
        {
            self.call_off(lease);
        }
        if nobody_waits && is_queued {
            self.leave_queue(job);
            self.fail(job, why, now_us);
        }
    }

    /// Ends everything whose time has come: waits, leases, probes, stored answers.
    pub fn expire(&mut self, now_us: u64) {
        while let Some((deadline_us, job, nth)) = self.deadlines.first().copied()
            && deadline_us <= now_us
        {
            self.end_wait(job, nth, &Failure::Deadline, now_us);
        }
        self.expire_devices(now_us);
        self.expire_leases(now_us);
        self.let_go(now_us);
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn next_us(&self) -> Option<u64> {
        let deadline = self.deadlines.first().map(|(deadline_us, ..)| *deadline_us);
        [deadline, self.next_device_us(), self.next_kept_us()].into_iter().flatten().min()
    }

    /// Notes when [`expire`](Self::expire) is going to be called, so that [`Effects::timer`] can tell when
    /// that is too late.
    pub const fn timer_set(&mut self, at_us: Option<u64>) {
        self.timer_us = at_us;
    }

    /// Takes a queued job out of its line.
    fn leave_queue(&mut self, key: JobKey) {
        let record = &self.jobs[&key];
        let Work { model, class, rows, owner, .. } = &record.work;
        self.models[*model].queue.line_mut(*class).remove(key, *rows, owner);
        self.stats.queued_bytes -= record.work.input.len() as u64;
        for wait in &record.waits {
            if let Some(deadline_us) = wait.deadline_us {
                self.deadlines.remove(&(deadline_us, key, wait.nth));
            }
        }
    }

    /// Puts a job into its line, at its place by age.
    fn enter_queue(&mut self, key: JobKey) {
        let record = self.jobs.get_mut(&key).expect("only jobs that live are queued");
        record.state = State::Queued;
        let Work { model, class, rows, owner, .. } = &record.work;
        self.models[*model].queue.line_mut(*class).insert(key, *rows, owner);
        self.stats.queued_bytes += record.work.input.len() as u64;
        for wait in &record.waits {
            if let Some(deadline_us) = wait.deadline_us {
                self.deadlines.insert((deadline_us, key, wait.nth));
            }
        }
    }

    /// Puts a waiter's outcome among the calls.
    fn tell(&mut self, waiter: Waiter, outcome: Result<Arc<Answer>, Failure>) {
        self.effects.calls.push(match waiter {
            Waiter::Answer(done) | Waiter::Stream(_, done) => Call::Answer(done, outcome),
            Waiter::Output(done) | Waiter::Drawn(_, done) => {
                Call::Output(done, outcome.map(|answer| Arc::clone(&answer.output)))
            }
        });
    }

    /// What is known of a request.
    pub fn status(&self, request: RequestId) -> Option<RequestStatus> {
        let record = &self.jobs[self.by_request.get(&request)?];
        Some(match &record.state {
            State::Queued => RequestStatus::Queued,
            State::Running(_) | State::Signing(_) => RequestStatus::Running,
            State::Claimed(answer) => RequestStatus::Claimed(Arc::clone(answer)),
            State::Logged(answer, index) => {
                RequestStatus::Logged { answer: Arc::clone(answer), index: *index }
            }
            State::Disputed(_) => {
                RequestStatus::Failed(Failure::Mismatch { retry_ms: device::REFEREE_MS })
            }
            State::Failed(failure) => RequestStatus::Failed(failure.clone()),
        })
    }

    /// The request that a kept claim answers.
    pub fn request_of(&self, claim: ClaimDigest) -> Option<RequestId> {
        let record = &self.jobs[self.by_claim.get(&claim)?];
        record.ask.as_ref().map(|ask| ask.id)
    }

    /// Takes no new work except a block's from now on, and no longer holds batches back.
    pub fn drain(&mut self) {
        self.draining = true;
        self.effects.wake.extend(0..self.devices.len());
    }

    /// Fails everything that waits; what runs may finish. Gives the number of jobs cut.
    pub fn cut(&mut self, now_us: u64) -> u64 {
        self.draining = true;
        let keys: Vec<JobKey> = self.models.iter().flat_map(|model| model.queue.keys()).collect();
        for key in &keys {
            self.leave_queue(*key);
            self.fail(*key, &Failure::Draining, now_us);
        }
        keys.len() as u64
    }

    /// [`cut`](Self::cut)s, takes nothing any more, and sends every device home.
    pub fn stop(&mut self, now_us: u64) {
        self.cut(now_us);
        self.cut_answers(now_us);
        self.stopped = true;
        self.effects.wake.extend(0..self.devices.len());
    }

    /// Pairs of outputs that differ, the oldest first; the last 64.
    pub fn evidence(&self) -> Vec<Evidence> {
        self.evidence.iter().cloned().collect()
    }

    /// Jobs queued, running or being signed.
    pub const fn live(&self) -> u64 {
        self.live
    }

    /// Jobs that it knows of: those that live, and those that ended and are kept.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Whether only a block's work is taken.
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether [`stop`](Self::stop) was called.
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Counters and depths.
    pub fn stats(&self) -> EngineStats {
        let mut stats = self.stats.clone();
        for (stats, model) in stats.models.iter_mut().zip(&self.models) {
            stats.queued = Class::ALL.map(|class| model.queue.line(class).len() as u64);
        }
        for (stats, device) in stats.devices.iter_mut().zip(&self.devices) {
            stats.in_service = device.is_in_service();
            stats.reason = device.reason();
        }
        self.count_workers(&mut stats);
        stats
    }
}
