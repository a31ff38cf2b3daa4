//! The handle that the rest of the program holds.

use std::{
    fmt,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::{self, JoinHandle},
};

use hyperion_model::{Model, Plan, Tensor};
use hyperion_ops::Backend;
use hyperion_primitives::{
    Address, B256, ClaimDigest, ModelId, RequestId, input_hash, tensor_root,
};
use hyperion_verify::{Domain, Request, SignedClaim, claim::TIER_MAX};

use crate::{
    ClaimSink, Class, Clock, Content, DeviceStats, Drawing, EngineConfig, EngineError, EngineStats,
    Evidence, Failure, InferError, Invalid, Job, ModelInfo, ModelStats, OnDone, OnLogged, OnOutput,
    OnTokens, Pushback, Registry, RequestStatus, SignError, Signer, Unready,
    claim::Notary,
    generator,
    machine::{Ask, Machine, Submitted, TicketId, Waiter, Work},
    memo::Memo,
    outbox::Outbox,
    placement::{Placement, place},
    shell::{FINISHER_BATCHES, Shell, ToFinisher},
    worker::Worker,
};

/// Seconds that a request without a deadline of its own gets.
const REQUEST_S: u64 = 60;

/// Takes the job out of the queue when dropped, unless a device has begun.
///
/// Keep it as long as the answer is wanted: `let _ = engine.submit(…)` cancels at once.
#[must_use = "dropping a ticket cancels its job"]
pub struct Ticket {
    shell: Arc<Shell>,
    id: Option<TicketId>,
}

impl Ticket {
    /// Lets the job go on without this ticket.
    pub fn detach(mut self) {
        self.id = None;
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.id).finish()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shell.event(|machine, now_us| machine.cancel(id, now_us));
        }
    }
}

/// What a drain left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Jobs that ended while draining, by themselves.
    pub finished: u64,
    /// Jobs cut off at the deadline before a device began.
    pub cut: u64,
    /// Jobs that a device was still at when the deadline passed.
    pub running: u64,
    /// Signed claims that the log's producer did not take.
    pub unlogged: u64,
}

/// Admission, queue, batches, devices, answers. Cheap to clone; the last clone to go stops the threads.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shell: Arc<Shell>,
    /// Per model: what is known of it before it runs.
    facts: Arc<[ModelFacts]>,
    _threads: Arc<Threads>,
}

#[derive(Debug)]
struct ModelFacts {
    aliases: Vec<String>,
    memory_bytes: u64,
    unfit: Option<Unready>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("models", &self.shell.models).finish_non_exhaustive()
    }
}

/// The engine's threads; dropping it stops them.
struct Threads {
    shell: Arc<Shell>,
    devices: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shell.event(Machine::stop);
        self.shell.ring_all();
        let own = thread::current().id();
        // A waiter may hold the last engine; its thread cannot wait for itself.
        let join = |threads: &mut Vec<JoinHandle<()>>| {
            for thread in threads.drain(..).filter(|thread| thread.thread().id() != own) {
                // A thread that panicked has said so on standard error.
                let _ = thread.join();
            }
        };
        join(&mut self.devices);
        self.shell.dismiss_finisher();
        join(&mut self.others);
        self.shell.outbox.close();
    }
}

/// Bytes that a device needs to hold the model at `index`, and the model that drafts for it.
fn needs(models: &Registry, index: usize, config: &EngineConfig) -> u64 {
    let model = &models.models()[index];
    if !model.manifest().generator {
        let plan = Plan::new(model.program(), batch_rows(model, config));
        return model.weights_bytes().saturating_add(plan.bytes());
    }
    let of = |model: &Model| generator::bytes(model, generator::limits(model, config));
    let draft = models.draft(index).map_or(0, |draft| of(draft));
    of(model).saturating_add(draft)
}

/// Rows of a model's batches: the longest input has to fit, and a batch never grows beyond the limit.
pub(crate) fn batch_rows(model: &Model, config: &EngineConfig) -> u32 {
    model.manifest().rows_max.max(config.batch_rows_max)
}

impl Engine {
    /// Starts the devices, loads every model that fits, and returns when each device is in service or has
    /// failed its first test.
    ///
    /// # Errors
    ///
    /// When there is no device and no worker may attach, no device came into service, or the system gives no threads.
    pub fn new(
        config: EngineConfig,
        models: Registry,
        devices: Vec<Box<dyn Backend>>,
        signer: Arc<dyn Signer>,
        domain: Domain,
        clock: Arc<dyn Clock>,
        sink: Box<dyn ClaimSink>,
    ) -> Result<Self, EngineError> {
        let bytes: Vec<u64> =
            (0..models.models().len()).map(|index| needs(&models, index, &config)).collect();
        let memory: Vec<u64> = devices.iter().map(|device| device.info().memory_bytes).collect();
        let placement = place(&bytes, &memory);
        let facts = facts(&models, &bytes, &placement);
        let stats = EngineStats {
            models: models.models().iter().map(|model| ModelStats::new(model.id())).collect(),
            devices: devices.iter().map(|device| DeviceStats::new(device.info().clone())).collect(),
            ..EngineStats::default()
        };
        let generates = |index: &usize| models.models()[*index].manifest().generator;
        let generators: Vec<usize> = (0..bytes.len()).filter(generates).collect();
        let holds = placement.holds.clone();
        let machine = Machine::new(&config, stats, holds, &generators, &placement.unfit);
        let (to_finisher, batches) = sync_channel(FINISHER_BATCHES);
        let notary = Notary { domain, signer, window_s: config.challenge_window_s };
        let keeps = (Memo::new(config.memo_bytes_max), Outbox::new(sink));
        let shell = Arc::new(Shell::new(
            models,
            clock,
            notary,
            keeps,
            (machine, devices.len()),
            to_finisher,
        ));
        let devices = devices.into_iter().zip(placement.holds).collect();
        let threads = Threads::start(&shell, devices, batches, &config)?;
        Ok(Self { shell, facts: facts.into(), _threads: Arc::new(threads) })
    }

    /// The domain that requests and claims are hashed in.
    pub fn domain(&self) -> Domain {
        self.shell.notary.domain
    }

    /// Whose claims these are.
    pub fn worker(&self) -> Address {
        self.shell.notary.signer.address()
    }

    /// Signs with the worker's key.
    pub fn signer(&self) -> &dyn Signer {
        &*self.shell.notary.signer
    }

    /// Every registered model, in the order of registration.
    pub fn models(&self) -> Vec<ModelInfo> {
        (0..self.facts.len()).map(|index| self.info(index)).collect()
    }

    /// A model by alias, or by `0x` and 64 hex digits.
    pub fn resolve(&self, name: &str) -> Option<ModelInfo> {
        self.shell.models.find(name).map(|index| self.info(index))
    }

    fn info(&self, index: usize) -> ModelInfo {
        let (model, facts) = (&self.shell.models.models()[index], &self.facts[index]);
        let (served, draining) =
            self.shell.look(|machine| (machine.is_served(index), machine.is_draining()));
        let here = !self.shell.bells.is_empty();
        let ready = match facts.unfit {
            // A worker on another host may have the room that no device has.
            Some(unready) if !served && here => Err(unready),
            _ if draining => Err(Unready::Draining),
            _ if !served => Err(Unready::NoDevice),
            _ => Ok(()),
        };
        ModelInfo {
            aliases: facts.aliases.clone(),
            id: model.id(),
            model: Arc::clone(model),
            rows_max: model.manifest().rows_max,
            memory_bytes: facts.memory_bytes,
            ready,
        }
    }

    /// Checks a request and its input, fills the fields that are zero (`model_id`, `input_hash`, `tier`,
    /// `deadline`) and hashes it. The nonce is the caller's to draw.
    ///
    /// `input`: little-endian elements of the model's one input tensor, row-major.
    ///
    /// # Errors
    ///
    /// When the model is unknown, a filled field disagrees with the model or the input, or the input has the
    /// wrong shape or range.
    pub fn complete(
        &self,
        model: ModelId,
        request: Request,
        input: Arc<[u8]>,
    ) -> Result<Job, Invalid> {
        let work = self.work(model, input, None, Class::Free)?;
        if !request.sampling_hash.is_zero() {
            return Err(Invalid::Sampling);
        }
        if request.seed_mode != 0 || !request.entropy.is_zero() {
            return field(
                "request.seed_mode",
                "a model that draws nothing takes no seed".to_owned(),
            );
        }
        self.fill_in(model, request, work)
    }

    /// As [`complete`](Self::complete), for a model that generates tokens: fills `sampling_hash` and, where the draws need a
    /// seed and the request says no mode, `seed_mode` 1 over the request's entropy. The entropy is the caller's to draw.
    ///
    /// `prompt`: token ids, little-endian.
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete), or when prompt and answer do not fit the model, or the seed's mode does not fit the
    /// draws.
    pub fn complete_drawn(
        &self,
        model: ModelId,
        mut request: Request,
        prompt: Arc<[u8]>,
        drawing: Drawing,
    ) -> Result<Job, Invalid> {
        let is_greedy = drawing.is_greedy();
        let work = self.work(model, prompt, Some(Arc::new(drawing)), Class::Free)?;
        let sampling_hash = work.content.sampling_hash;
        fill("request.sampling_hash", &mut request.sampling_hash, sampling_hash)?;
        match request.seed_mode {
            0 if is_greedy => {}
            0 => request.seed_mode = 1,
            1 if !is_greedy => {}
            mode => {
                let why =
                    format!("mode {mode} is not for these draws: want 0 at temperature 0, else 1");
                return field("request.seed_mode", why);
            }
        }
        if is_greedy && !request.entropy.is_zero() {
            return field("request.entropy", "draws at temperature 0 take no seed".to_owned());
        }
        self.fill_in(model, request, work)
    }

    /// Fills what is left of a request, and hashes it.
    fn fill_in(
        &self,
        model: ModelId,
        mut request: Request,
        mut work: Work,
    ) -> Result<Job, Invalid> {
        fill("request.model_id", &mut request.model_id.0, model.0)?;
        fill("request.input_hash", &mut request.input_hash, work.content.input_hash)?;
        if !request.worker.is_zero() && request.worker != self.worker() {
            return field("request.worker", format!("this worker is {}", self.worker()));
        }
        match request.tier {
            0 => request.tier = 1,
            tier if tier > TIER_MAX => {
                return field("request.tier", format!("want 1 to {TIER_MAX}"));
            }
            _ => {}
        }
        if request.deadline == 0 {
            request.deadline = self.shell.clock.unix_s().saturating_add(REQUEST_S);
        }
        let id = request.id(&self.shell.notary.domain);
        work.content.seed =
            request.seed(id, None).expect("mode 0 without entropy, and mode 1, have a seed");
        Ok(Job { ask: Ask { id, request, signature: None }, work })
    }

    /// Checks an input and hashes it.
    pub(crate) fn work(
        &self,
        model: ModelId,
        input: Arc<[u8]>,
        drawing: Option<Arc<Drawing>>,
        class: Class,
    ) -> Result<Work, Invalid> {
        let index = self.shell.models.index(model);
        let index = index.ok_or_else(|| Invalid::ModelNotFound(model.to_string()))?;
        let manifest = self.shell.models.models()[index].manifest();
        match (&drawing, manifest.generator) {
            (None, true) => return Err(Invalid::Undrawn),
            (Some(_), false) => return Err(Invalid::Sampling),
            _ => {}
        }
        let rows = manifest.check_input(&input)?;
        if let Some(drawing) = &drawing {
            drawing.check(manifest, rows)?;
        }
        let dims = [rows.into(), manifest.input_width.into()];
        let root =
            tensor_root(manifest.input_dtype, &dims, &input).expect("the manifest took the shape");
        let content = Content {
            model,
            input_hash: input_hash(&[root]),
            sampling_hash: drawing.as_ref().map_or(B256::ZERO, |drawing| drawing.sampling().hash()),
            seed: B256::ZERO,
        };
        let (deadline_us, owner) = (None, None);
        let logprobs = false;
        Ok(Work {
            model: index,
            content,
            input,
            rows,
            drawing,
            logprobs,
            class,
            deadline_us,
            owner,
        })
    }

    /// Takes a job. Asked again for a request that is known, it waits for the run under way or answers from
    /// the store, `replayed`.
    ///
    /// # Errors
    ///
    /// When the job is not taken; `on_done` is then dropped uncalled.
    pub fn submit(&self, job: Job, on_done: OnDone) -> Result<Ticket, Pushback> {
        let (ask, work) = self.timed(job);
        let id = self.put(Some(ask), work, Waiter::Answer(on_done))?;
        Ok(Ticket { shell: Arc::clone(&self.shell), id })
    }

    /// As [`submit`](Self::submit), and tells the tokens of the answer as they are drawn. Of an answer that is known already
    /// none are told: it comes whole.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn submit_stream(
        &self,
        job: Job,
        on_tokens: OnTokens,
        on_done: OnDone,
    ) -> Result<Ticket, Pushback> {
        let (ask, work) = self.timed(job);
        let id = self.put(Some(ask), work, Waiter::Stream(on_tokens, on_done))?;
        Ok(Ticket { shell: Arc::clone(&self.shell), id })
    }

    /// Takes a job of which only the output is wanted; [`claim`](Self::claim) makes a claim of it.
    ///
    /// # Errors
    ///
    /// When the job is not taken; `on_output` is then dropped uncalled.
    pub fn compute(&self, job: Job, on_output: OnOutput) -> Result<Ticket, Pushback> {
        let (_, work) = self.timed(job);
        let id = self.put(None, work, Waiter::Output(on_output))?;
        Ok(Ticket { shell: Arc::clone(&self.shell), id })
    }

    /// As [`compute`](Self::compute), and tells the tokens of the answer as they are drawn: how likely they were, for a request
    /// that an earlier run answered.
    ///
    /// # Errors
    ///
    /// As [`compute`](Self::compute).
    pub fn compute_stream(
        &self,
        job: Job,
        on_tokens: OnTokens,
        on_output: OnOutput,
    ) -> Result<Ticket, Pushback> {
        let (_, work) = self.timed(job);
        let id = self.put(None, work, Waiter::Drawn(on_tokens, on_output))?;
        Ok(Ticket { shell: Arc::clone(&self.shell), id })
    }

    /// Signs that `output` answers `job`. Whoever calls this vouches for it with the worker's key.
    ///
    /// # Errors
    ///
    /// When the key cannot be used.
    pub fn claim(
        &self,
        job: &Job,
        output: &Tensor,
        challenge_until: u64,
    ) -> Result<SignedClaim, SignError> {
        self.shell.notary.sign(&self.shell.models, job, output, challenge_until)
    }

    /// The request's own deadline in this clock: no answer is wanted after it.
    fn timed(&self, job: Job) -> (Ask, Work) {
        let Job { ask, mut work } = job;
        let clock = &self.shell.clock;
        let left_us = ask.request.deadline.saturating_sub(clock.unix_s()).saturating_mul(1_000_000);
        let own_us = clock.now_us().saturating_add(left_us);
        work.deadline_us =
            Some(work.deadline_us.map_or(own_us, |deadline_us| deadline_us.min(own_us)));
        (ask, work)
    }

    /// Submits, and has claims made of what is known.
    fn put(
        &self,
        ask: Option<Ask>,
        work: Work,
        waiter: Waiter,
    ) -> Result<Option<TicketId>, Pushback> {
        let shell = &self.shell;
        // An output that is remembered says nothing of how likely its tokens were.
        let known = if work.logprobs { None } else { shell.memo.get(&work.content) };
        let waiting = shell.outbox.waiting();
        let submitted = shell
            .event(|machine, now_us| machine.submit(ask, work, waiter, known, waiting, now_us))?;
        Ok(match submitted {
            Submitted::Queued(ticket) | Submitted::Joined(ticket) => Some(ticket),
            Submitted::Known(ticket, to_sign) => {
                shell.finish(vec![*to_sign], false);
                Some(ticket)
            }
            Submitted::Replayed => None,
        })
    }

    /// As [`infer_now`](Self::infer_now), but anew also where the output is remembered.
    ///
    /// # Errors
    ///
    /// As [`infer_now`](Self::infer_now).
    pub fn recompute_now(&self, model: ModelId, input: &[u8]) -> Result<Arc<Tensor>, InferError> {
        self.shell.memo.remove(&self.work(model, input.into(), None, Class::Free)?.content);
        self.infer_now(model, input)
    }

    /// Runs one input through the same queue, class free, without a claim, and waits for the output. Not to
    /// be called from a waiter.
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete) and [`submit`](Self::submit), or when the run fails.
    pub fn infer_now(&self, model: ModelId, input: &[u8]) -> Result<Arc<Tensor>, InferError> {
        let work = self.work(model, input.into(), None, Class::Free)?;
        let (tell, told) = sync_channel(1);
        // The receiver waits below, so there is room and somebody listens.
        let waiter = Waiter::Output(Box::new(move |outcome| drop(tell.send(outcome))));
        self.put(None, work, waiter)?;
        Ok(told.recv().unwrap_or(Err(Failure::Draining))?)
    }

    /// The output of a call without sampling, if it is remembered.
    pub fn remembered(&self, model: ModelId, input_hash: B256) -> Option<Arc<Tensor>> {
        let content = Content { model, input_hash, sampling_hash: B256::ZERO, seed: B256::ZERO };
        self.shell.memo.get(&content)
    }

    /// What is known of a request; `None` when it never came, or was let go after [`EngineConfig::keep_s`].
    pub fn status(&self, request: RequestId) -> Option<RequestStatus> {
        self.shell.look(|machine| machine.status(request))
    }

    /// The request that a kept claim answers.
    pub fn request_of(&self, claim: ClaimDigest) -> Option<RequestId> {
        self.shell.look(|machine| machine.request_of(claim))
    }

    /// Calls `waiter` once the request's claim is in the log; at once if it is. Dropped uncalled when the
    /// request is unknown, fails or is let go.
    pub fn on_logged(&self, request: RequestId, waiter: OnLogged) {
        self.shell.event(|machine, _| machine.on_logged(request, waiter));
    }

    /// The producer's word after a durable commit: these claims stand in the log at these indices.
    pub fn logged(&self, places: &[(RequestId, ClaimDigest, u64)]) {
        self.shell.event(|machine, _| {
            for (request, digest, index) in places {
                machine.logged(*request, *digest, *index);
            }
        });
        self.shell.outbox.flush();
    }

    /// Estimated milliseconds until a job that came now would begin; 0 for an unknown model.
    pub fn wait_ms(&self, model: ModelId) -> u64 {
        let index = self.shell.models.index(model);
        index.map_or(0, |index| self.shell.look(|machine| machine.wait_us(index)) / 1_000)
    }

    /// Takes no new work except a block's, and returns when what waits has ended and the log's producer has
    /// taken the claims, or when `deadline_us` of the clock has passed; what no device has begun by then fails
    /// with [`Failure::Draining`]. The sink is dropped at the end.
    pub fn drain(&self, deadline_us: u64) -> Drained {
        let shell = &self.shell;
        let before = shell.event(|machine, _| {
            machine.drain();
            machine.live()
        });
        shell.ring_all();
        loop {
            shell.outbox.flush();
            let left_us = deadline_us.saturating_sub(shell.clock.now_us());
            if shell.is_quiet() || left_us == 0 {
                break;
            }
            shell.drained.wait(Some(left_us.min(DRAIN_LOOK_US)));
        }
        let (cut, running) = shell.event(|machine, now_us| (machine.cut(now_us), machine.live()));
        shell.outbox.close();
        let unlogged = shell.outbox.waiting();
        Drained { finished: before.saturating_sub(cut + running), cut, running, unlogged }
    }

    /// Microseconds for which a worker on another host holds a job without a word.
    pub fn worker_lease_us(&self) -> u64 {
        self.shell.look(Machine::worker_lease_us)
    }

    /// Counters and depths, now.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            claims_waiting: self.shell.outbox.waiting(),
            memo_bytes: self.shell.memo.bytes(),
            ..self.shell.look(Machine::stats)
        }
    }

    /// Pairs of outputs that differ although they should not, the oldest first; the last 64.
    pub fn evidence(&self) -> Vec<Evidence> {
        self.shell.look(Machine::evidence)
    }

    /// Makes every sleeping thread look at the clock again; for clocks that jump.
    pub fn tick(&self) {
        self.shell.ring_all();
    }
}

/// Microseconds after which a drain looks whether the log's producer has room again.
const DRAIN_LOOK_US: u64 = 10_000;

/// A device, and whether it has room for each model.
type Equipped = (Box<dyn Backend>, Vec<bool>);

impl Threads {
    fn start(
        shell: &Arc<Shell>,
        devices: Vec<Equipped>,
        batches: Receiver<ToFinisher>,
        config: &EngineConfig,
    ) -> Result<Self, EngineError> {
        let mut threads =
            Self { shell: Arc::clone(shell), devices: Vec::new(), others: Vec::new() };
        let spawn = |name: String, life: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name)
                .spawn(life)
                .map_err(|error| EngineError::Thread(error.to_string()))
        };
        let finishing = Arc::clone(shell);
        let life = move || finishing.finisher(&batches);
        threads.others.push(spawn("finisher".to_owned(), Box::new(life))?);
        let dispatching = Arc::clone(shell);
        threads
            .others
            .push(spawn("dispatcher".to_owned(), Box::new(move || dispatching.dispatcher()))?);
        let count = devices.len();
        let (tested, tests) = sync_channel(count.max(1));
        for (index, (backend, holds)) in devices.into_iter().enumerate() {
            let worker = Worker::new(Arc::clone(shell), index, backend, holds, *config);
            let tested = tested.clone();
            threads
                .devices
                .push(spawn(format!("device-{index}"), Box::new(move || worker.run(tested)))?);
        }
        drop(tested);
        let outcomes: Vec<Result<(), String>> = tests.iter().take(count).collect();
        let waits_for_workers = count == 0 && config.workers_max > 0;
        if outcomes.iter().any(Result::is_ok) || waits_for_workers {
            return Ok(threads);
        }
        let reasons: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
        Err(EngineError::NoDevice(if reasons.is_empty() {
            "none was given".to_owned()
        } else {
            reasons.join("; ")
        }))
    }
}

fn facts(models: &Registry, bytes: &[u64], placement: &Placement) -> Vec<ModelFacts> {
    let fact = |index: usize| {
        let unfit = placement.unfit.iter().find(|(model, ..)| *model == index);
        let unfit = unfit.map(|(_, needed, largest)| Unready::NoMemory {
            needed_bytes: *needed,
            largest_bytes: *largest,
        });
        ModelFacts { aliases: models.aliases(index), memory_bytes: bytes[index], unfit }
    };
    (0..models.models().len()).map(fact).collect()
}

/// Fills a field that is zero; one that is filled has to agree.
fn fill(name: &'static str, got: &mut B256, want: B256) -> Result<(), Invalid> {
    if got.is_zero() {
        *got = want;
    }
    if *got == want {
        Ok(())
    } else {
        field(name, format!("got {got}, the input and model give {want}"))
    }
}

fn field<T>(field: &'static str, why: String) -> Result<T, Invalid> {
    Err(Invalid::Field { field, why })
}
