//! The engine's decisions under a seed: submissions, duplicates, cancels, deadlines, lost and silent devices, workers on
//! other hosts that come and go, a slow log, on a virtual clock.
//!
//! A failing run prints its seed; `SIMULATION_SEED=7 cargo nextest run -p hyperion-engine --test simulation` repeats it,
//! `SIMULATION_SEEDS=2000` runs that many.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use hyperion_engine::{
    Answer, Class, Content, DeviceStats, Drawing, EngineConfig, EngineStats, Failure, KeyId,
    Logprobs, ModelStats, RequestStatus, SignError,
    machine::{
        Arrival, Ask, Batch, Dispute, Fault, Joined, LeaseId, Leased, Machine, Order, Progress,
        Seat, Step, Submitted, Take, TicketId, ToSign, Waiter, Work,
    },
};
use hyperion_model::Tensor;
use hyperion_ops::{DeviceInfo, DeviceKind};
use hyperion_primitives::{
    Address, B256, ClaimDigest, Dtype, Keccak, Mix, ModelId, RequestId, U256,
};
use hyperion_verify::{Claim, Request, Sampling, SignedClaim};
use parking_lot::Mutex;

/// Submissions of one run.
const SUBMISSIONS: u64 = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Submit,
    Cancel,
    /// A device looks for work.
    Look(usize),
    /// A device's batch ends: well, badly, or late.
    End(usize),
    /// A device's test or probe ends.
    Tested(usize),
    Probed(usize),
    /// A worker dials, or its connection breaks.
    Dial(usize),
    Break(usize),
    /// A worker's bell rings.
    Bell(usize),
    /// A worker ends a job: well, badly, or late.
    Result(usize, LeaseId),
    /// A worker answers a known question.
    Answer(usize, u64),
    Heartbeat(usize),
    /// The finisher signs the next claim.
    Sign,
    /// The log takes what waits.
    Log,
    /// The dispatcher looks.
    Expire,
}

/// What a device is at.
#[derive(Debug)]
enum At {
    Nothing,
    Test,
    Probe,
    Batch(Batch),
    Step,
}

/// An answer that a device generates.
#[derive(Debug)]
struct Growing {
    joined: Joined,
    drawn: usize,
}

/// A worker on another host.
#[derive(Debug, Default)]
struct Afar {
    /// Its connection, and its place among the devices once it had one.
    seat: Option<Seat>,
    holds: Vec<bool>,
    /// What it is at, connected or not.
    held: BTreeMap<LeaseId, Leased>,
    slots: u32,
}

/// One submission and what came of it.
#[derive(Debug)]
struct Asked {
    content: Content,
    request: Option<RequestId>,
    ticket: Option<TicketId>,
    outcomes: u32,
    /// Tokens it was told as they came.
    heard: Vec<u8>,
}

type ToldTokens = Arc<Mutex<Vec<(usize, u32, Vec<u32>)>>>;

type Told = Arc<Mutex<VecDeque<(usize, Result<Vec<u8>, Failure>)>>>;

struct World {
    seed: u64,
    mix: Mix,
    now_us: u64,
    machine: Machine,
    events: BTreeSet<(u64, u64, Event)>,
    drawn: u64,
    devices: Vec<At>,
    workers: Vec<Afar>,
    /// Which worker has which place behind the devices.
    places: BTreeMap<usize, usize>,
    /// The model that generates tokens, if one does.
    generator: Option<usize>,
    /// Outputs may come wrong from a device that was silent for too long.
    liars: bool,
    memo: BTreeMap<Content, Arc<Tensor>>,
    asked: Vec<Asked>,
    requests: Vec<(RequestId, Request, Content, Option<KeyId>)>,
    told: Told,
    told_tokens: ToldTokens,
    /// Per device, the answers that it generates.
    growing: Vec<Vec<Growing>>,
    to_sign: VecDeque<ToSign>,
    signing: bool,
    claims: VecDeque<Arc<Answer>>,
    index: u64,
    logged: BTreeMap<RequestId, ClaimDigest>,
    submitted: u64,
    config: EngineConfig,
    /// Everything that happened, hashed: two runs of one seed agree.
    trace: Keccak,
}

fn le(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The one right output of a content: bytes, or the tokens of a generator.
fn truth(content: &Content) -> Arc<Tensor> {
    let hash = Keccak::tagged(b"sim").update(content.model.0).update(content.input_hash).finish();
    if !content.sampling_hash.is_zero() {
        let tokens = u64::from(tokens_max(content.input_hash));
        let data = hash.iter().cycle().take(4 * tokens as usize).copied().collect();
        return Arc::new(Tensor::new(Dtype::U32, [tokens, 1], data));
    }
    Arc::new(Tensor::new(Dtype::U8, [1, 32], hash.to_vec()))
}

/// Tokens of a generator's answer.
fn tokens_max(input_hash: B256) -> u32 {
    1 + u32::from(input_hash[31] % 23)
}

fn drawing(input_hash: B256) -> Arc<Drawing> {
    let tokens_max = tokens_max(input_hash);
    let sampling = Sampling { tokens_max, top_p_q16: 65_536, ..Sampling::default() };
    Arc::new(Drawing::new(sampling, Vec::new()).expect("greedy draws"))
}

fn lie(content: &Content) -> Arc<Tensor> {
    let mut tensor = Tensor::clone(&truth(content));
    tensor.data[0] ^= 1;
    Arc::new(tensor)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut mix = Mix::new(seed);
        let config = EngineConfig {
            batch_rows_max: 16,
            batch_jobs_max: 1 + mix.below(8) as u32,
            batch_wait_us: [0, 0, 500][mix.below(3) as usize],
            queue_jobs_max: 4 + mix.below(28) as usize,
            queue_bytes_max: 40_000,
            kept_bytes_max: [60_000, u64::MAX][mix.below(2) as usize],
            keep_s: 1 + mix.below(3),
            claims_waiting_max: 20,
            lease_us: 20_000,
            probe_us: 15_000,
            workers_max: mix.below(4) as usize,
            worker_lease_us: 5_000,
            answers_max: 1 + mix.below(6) as u32,
            ..EngineConfig::default()
        };
        let (models, devices) = (1 + mix.below(3) as usize, 1 + mix.below(3) as usize);
        let info = DeviceInfo {
            kind: DeviceKind::Cpu,
            name: "simulated".to_owned(),
            kernels: String::new(),
            threads: 1,
            memory_bytes: 0,
        };
        let stats = EngineStats {
            models: (0..models).map(|model| ModelStats::new(model_id(model))).collect(),
            devices: (0..devices).map(|_| DeviceStats::new(info.clone())).collect(),
            ..EngineStats::default()
        };
        // The first device holds every model, the others some.
        let holds: Vec<Vec<bool>> = (0..devices)
            .map(|device| (0..models).map(|_| device == 0 || mix.below(2) == 0).collect())
            .collect();
        // In half of the runs the last model generates tokens, which no worker on another host does.
        let generator = (seed % 2 == 1).then(|| models - 1);
        let workers = (0..config.workers_max).map(|_| Afar {
            holds: (0..models).map(|model| mix.below(3) > 0 && Some(model) != generator).collect(),
            slots: 1 + mix.below(6) as u32,
            ..Afar::default()
        });
        let workers: Vec<Afar> = workers.collect();
        let generators: Vec<usize> = generator.into_iter().collect();
        let machine = Machine::new(&config, stats, holds, &generators, &[]);
        let mut world = Self {
            seed,
            mix,
            now_us: 0,
            machine,
            events: BTreeSet::new(),
            drawn: 0,
            devices: (0..devices).map(|_| At::Nothing).collect(),
            workers,
            places: BTreeMap::new(),
            liars: seed.is_multiple_of(4),
            memo: BTreeMap::new(),
            asked: Vec::new(),
            requests: Vec::new(),
            told: Told::default(),
            told_tokens: ToldTokens::default(),
            growing: (0..devices).map(|_| Vec::new()).collect(),
            generator,
            to_sign: VecDeque::new(),
            signing: false,
            claims: VecDeque::new(),
            index: 0,
            logged: BTreeMap::new(),
            submitted: 0,
            config,
            trace: Keccak::tagged(b"trace"),
        };
        for device in 0..devices {
            world.after(0, Event::Look(device));
        }
        for worker in 0..world.workers.len() {
            world.after(4_000, Event::Dial(worker));
        }
        world.after(1_000, Event::Submit);
        world.after(5_000, Event::Log);
        world
    }

    fn after(&mut self, us: u64, event: Event) {
        self.drawn += 1;
        self.events.insert((self.now_us + us, self.drawn, event));
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.mix.below(one_in) == 0
    }

    /// Runs until nothing is left to happen, but the log's and the dispatcher's rounds.
    fn run(&mut self) {
        while let Some((at_us, _, event)) = self.events.pop_first() {
            self.now_us = at_us;
            self.trace.u64(at_us);
            self.step(event);
            self.effects();
            self.check_bounds();
            if self.submitted == SUBMISSIONS && self.machine.live() == 0 && self.claims.is_empty() {
                break;
            }
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Submit => self.submit(),
            Event::Cancel => self.cancel(),
            Event::Look(device) => self.look(device),
            Event::End(device) => self.end(device),
            Event::Tested(device) => self.tested(device),
            Event::Probed(device) => self.probed(device),
            Event::Dial(worker) => self.dial(worker),
            Event::Break(worker) => self.break_off(worker),
            Event::Bell(worker) => self.hear_bell(worker),
            Event::Result(worker, lease) => self.result(worker, lease),
            Event::Answer(worker, probe) => self.answer(worker, probe),
            Event::Heartbeat(worker) => self.heartbeat(worker),
            Event::Sign => self.sign(),
            Event::Log => self.log(),
            Event::Expire => {
                self.machine.expire(self.now_us);
                self.set_timer();
            }
        }
    }

    fn set_timer(&mut self) {
        let next_us = self.machine.next_us();
        self.machine.timer_set(next_us);
        if let Some(next_us) = next_us {
            self.after(next_us.saturating_sub(self.now_us), Event::Expire);
        }
    }

    fn effects(&mut self) {
        let effects = self.machine.effects();
        for device in effects.wake {
            match self.places.get(&device) {
                Some(worker) => self.after(0, Event::Bell(*worker)),
                None if device < self.devices.len() => self.after(0, Event::Look(device)),
                // A worker's place whose number it has not heard yet.
                None => {}
            }
        }
        for call in effects.calls {
            call.make();
        }
        if effects.timer {
            self.set_timer();
        }
        let tokens: Vec<_> = self.told_tokens.lock().drain(..).collect();
        for (asked, position, tokens) in tokens {
            let asked = &mut self.asked[asked];
            let follows = asked.heard.len() == 4 * position as usize && asked.outcomes == 0;
            assert!(follows, "seed {}: tokens at {position} after {asked:?}", self.seed);
            asked.heard.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
            let right = truth(&asked.content).data.starts_with(&asked.heard);
            assert!(right, "seed {}: other tokens: {asked:?}", self.seed);
        }
        let told: Vec<_> = self.told.lock().drain(..).collect();
        for (asked, outcome) in told {
            self.hear(asked, &outcome);
        }
        if !self.signing && !self.to_sign.is_empty() {
            self.signing = true;
            let took_us = 50 + self.mix.below(200);
            self.after(took_us, Event::Sign);
        }
    }

    /// A waiter was told: once, and the right bytes.
    fn hear(&mut self, asked: usize, outcome: &Result<Vec<u8>, Failure>) {
        let asked = &mut self.asked[asked];
        asked.outcomes += 1;
        assert_eq!(
            asked.outcomes, 1,
            "seed {}: on_done was called again with {outcome:?}",
            self.seed
        );
        if let (Ok(data), false) = (outcome, self.liars) {
            assert_eq!(*data, truth(&asked.content).data, "seed {}: other bytes", self.seed);
        }
        self.trace.update(format!("{outcome:?}"));
    }

    fn submit(&mut self) {
        if self.submitted == SUBMISSIONS {
            return;
        }
        self.submitted += 1;
        let gap_us = self.mix.below([200, 3_000][usize::from(self.submitted % 100 > 60)]);
        self.after(gap_us, Event::Submit);
        let repeat = !self.requests.is_empty() && self.chance(4);
        let owner = [None, Some(KeyId::from("ann")), Some(KeyId::from("ben"))]
            [self.mix.below(3) as usize]
            .clone();
        let class = [Class::Free, Class::Free, Class::Paid][self.mix.below(3) as usize];
        let deadline_us = self.chance(2).then(|| self.now_us + self.mix.below(20_000));
        let (ask, work) = if repeat {
            let at = self.mix.below(self.requests.len() as u64) as usize;
            let (id, request, content, owner) = self.requests[at].clone();
            let work = self.work(content, class, deadline_us, owner);
            (Some(Ask { id, request, signature: None }), work)
        } else {
            let model = self.mix.below(self.models()) as usize;
            let input_hash = B256::from(U256::from(self.mix.below(150)));
            let sampling_hash = if self.generator == Some(model) {
                drawing(input_hash).sampling().hash()
            } else {
                B256::ZERO
            };
            let content =
                Content { model: model_id(model), input_hash, sampling_hash, seed: B256::ZERO };
            match self.mix.below(6) {
                0 => (None, self.work(content, Class::Chain, None, None)),
                1 => (None, self.work(content, class, None, owner)),
                _ => {
                    let requester =
                        if self.chance(3) { Address::repeat_byte(7) } else { Address::ZERO };
                    let nonce = U256::from(self.submitted);
                    let request = Request { requester, nonce, ..Request::default() };
                    let id = RequestId(B256::from(nonce));
                    self.requests.push((id, request.clone(), content, owner.clone()));
                    (
                        Some(Ask { id, request, signature: None }),
                        self.work(content, class, deadline_us, owner),
                    )
                }
            }
        };
        let nth = self.asked.len();
        let (told, content) = (Arc::clone(&self.told), work.content);
        let request = ask.as_ref().map(|ask| ask.id);
        let waiter = if ask.is_some() {
            let done = Box::new(move |outcome: Result<Arc<Answer>, Failure>| {
                told.lock().push_back((nth, outcome.map(|answer| answer.output.data.clone())));
            });
            if work.drawing.is_some() && self.chance(2) {
                let told = Arc::clone(&self.told_tokens);
                let tell = move |position: u32, tokens: &[u32], _: &[Logprobs]| {
                    told.lock().push((nth, position, tokens.to_vec()));
                };
                Waiter::Stream(Arc::new(tell), done)
            } else {
                Waiter::Answer(done)
            }
        } else {
            Waiter::Output(Box::new(move |outcome: Result<Arc<Tensor>, Failure>| {
                told.lock().push_back((nth, outcome.map(|output| output.data.clone())));
            }))
        };
        let known = self.memo.get(&content).cloned();
        let waiting = self.claims.len() as u64;
        let before = self.machine.stats();
        let outcome = self.machine.submit(ask, work.clone(), waiter, known, waiting, self.now_us);
        self.trace.update(format!("{:?}", outcome.as_ref().err()));
        let ticket = match outcome {
            Ok(Submitted::Queued(ticket) | Submitted::Joined(ticket)) => Some(ticket),
            Ok(Submitted::Known(ticket, to_sign)) => {
                self.to_sign.push_back(*to_sign);
                Some(ticket)
            }
            Ok(Submitted::Replayed) => None,
            Err(pushback) => {
                assert_ne!(
                    work.class,
                    Class::Chain,
                    "seed {}: a block was pushed back: {pushback}",
                    self.seed
                );
                assert_eq!(before.accepted, self.machine.stats().accepted);
                return;
            }
        };
        self.asked.push(Asked { content, request, ticket, outcomes: 0, heard: Vec::new() });
        if ticket.is_some() && self.chance(5) {
            let us = self.mix.below(4_000);
            self.after(us, Event::Cancel);
        }
        if self.chance(40) {
            self.memo.clear();
        }
    }

    fn work(
        &mut self,
        content: Content,
        class: Class,
        deadline_us: Option<u64>,
        owner: Option<KeyId>,
    ) -> Work {
        let model =
            (0..).find(|model| model_id(*model) == content.model).expect("a content of some model");
        let rows = 1 + (content.input_hash[31] % 20) as u32;
        let input = le(&vec![0; rows as usize]).into();
        let drawing = (self.generator == Some(model)).then(|| drawing(content.input_hash));
        Work { model, content, input, rows, drawing, logprobs: false, class, deadline_us, owner }
    }

    fn models(&self) -> u64 {
        self.machine.stats().models.len() as u64
    }

    fn cancel(&mut self) {
        let asked = self.mix.below(self.asked.len() as u64) as usize;
        if let Some(ticket) = self.asked[asked].ticket {
            self.machine.cancel(ticket, self.now_us);
        }
    }

    fn look(&mut self, device: usize) {
        if !matches!(self.devices[device], At::Nothing) {
            return;
        }
        match self.machine.take(device, self.now_us) {
            Take::Batch(batch) => {
                self.check_batch(&batch);
                let took_us = match self.mix.below(if self.liars { 8 } else { 30 }) {
                    // Silent for longer than a lease.
                    0 => 25_000 + self.mix.below(60_000),
                    _ => 100 + 150 * batch.jobs.len() as u64 + self.mix.below(2_000),
                };
                self.devices[device] = At::Batch(batch);
                self.after(took_us, Event::End(device));
            }
            Take::Join(joined) => {
                assert_eq!(Some(joined.model), self.generator, "seed {}", self.seed);
                self.growing[device].push(Growing { joined, drawn: 0 });
                let most = self.config.answers_max as usize;
                assert!(self.growing[device].len() <= 2 * most + 16, "seed {}", self.seed);
                self.after(0, Event::Look(device));
            }
            Take::Step(given_up) => {
                self.growing[device].retain(|growing| !given_up.contains(&growing.joined.lease));
                let most = self.config.answers_max as usize;
                for chain in [true, false] {
                    let own = |growing: &&Growing| (growing.joined.class == Class::Chain) == chain;
                    let count = self.growing[device].iter().filter(own).count();
                    assert!(count <= most, "seed {}: too many", self.seed);
                }
                self.devices[device] = At::Step;
                let took_us = if self.chance(60) { 45_000 } else { 100 + self.mix.below(600) };
                self.after(took_us, Event::End(device));
            }
            Take::Probe => {
                self.devices[device] = At::Probe;
                let took_us = if self.chance(20) { 50_000 } else { 500 };
                self.after(took_us, Event::Probed(device));
            }
            Take::Test => {
                self.devices[device] = At::Test;
                self.after(3_000, Event::Tested(device));
            }
            Take::Wait(Some(until_us)) => {
                let us = until_us.saturating_sub(self.now_us).max(1);
                self.after(us, Event::Look(device));
            }
            Take::Wait(None) | Take::Stop => {}
        }
    }

    fn check_batch(&self, batch: &Batch) {
        let rows: u64 = batch.jobs.iter().map(|job| u64::from(job.rows)).sum();
        let fits = rows <= self.config.batch_rows_max.into() || batch.jobs.len() == 1;
        let few = batch.jobs.len() <= self.config.batch_jobs_max as usize && !batch.jobs.is_empty();
        assert!(fits && few, "seed {}: {rows} rows, {} jobs", self.seed, batch.jobs.len());
    }

    fn end(&mut self, device: usize) {
        let batch = match std::mem::replace(&mut self.devices[device], At::Nothing) {
            At::Batch(batch) => batch,
            At::Step => return self.end_step(device),
            _ => return,
        };
        self.after(0, Event::Look(device));
        let out_of_service = !self.machine.stats().devices[device].in_service;
        if self.chance(if out_of_service { 4 } else { 15 }) {
            self.machine.lost(device, "simulated", self.now_us);
            return;
        }
        let lies = self.liars && out_of_service && self.chance(2);
        let output = |content: &Content| if lies { lie(content) } else { truth(content) };
        let outputs: Vec<_> = batch.jobs.iter().map(|job| output(&job.content)).collect();
        let rows = batch.jobs.iter().map(|job| u64::from(job.rows)).sum();
        if !lies {
            self.memo.extend(batch.jobs.iter().map(|job| (job.content, truth(&job.content))));
        }
        let finished = self.machine.finish(batch.lease, outputs, rows, self.now_us);
        self.to_sign.extend(finished.to_sign);
        assert!(
            self.liars || finished.disputes.is_empty(),
            "seed {}: equal bytes disputed",
            self.seed
        );
        for dispute in finished.disputes {
            self.settle(&dispute);
        }
    }

    /// A step's end: some answers get tokens, as a prompt may still be read.
    fn end_step(&mut self, device: usize) {
        self.after(0, Event::Look(device));
        if self.chance(40) {
            self.machine.lost(device, "simulated", self.now_us);
            return;
        }
        let mut step = Step { rows: 1, ..Step::default() };
        for growing in &mut self.growing[device] {
            let truth = truth(&growing.joined.content);
            let (words, _) = truth.data.as_chunks::<4>();
            let most = self.mix.below(4) as usize;
            let new: Vec<u32> = words[growing.drawn..]
                .iter()
                .take(most)
                .map(|word| u32::from_le_bytes(*word))
                .collect();
            growing.drawn += new.len();
            if !new.is_empty() {
                let ended = growing.drawn == words.len();
                let lease = growing.joined.lease;
                step.progress.push(Progress { lease, tokens: new, logprobs: Vec::new(), ended });
            }
        }
        let ended =
            |growing: &Growing| growing.drawn == growing.joined.drawing.tokens_max() as usize;
        self.growing[device].retain(|growing| !ended(growing));
        let model = self.generator.expect("only a generator steps");
        let finished = self.machine.advance(device, model, step, 100, self.now_us);
        self.to_sign.extend(finished.to_sign);
        assert!(finished.disputes.is_empty(), "seed {}", self.seed);
    }

    fn settle(&mut self, dispute: &Dispute) {
        self.memo.remove(&dispute.content);
        let spoken = (!self.chance(5)).then(|| truth(&dispute.content));
        self.to_sign.extend(self.machine.verdict(dispute, spoken, self.now_us));
    }

    fn tested(&mut self, device: usize) {
        self.devices[device] = At::Nothing;
        self.growing[device].clear();
        if self.chance(4) {
            self.machine.test_failed(device, "simulated", self.now_us);
            self.after(1_000, Event::Look(device));
        } else {
            self.machine.up(device, self.now_us);
        }
    }

    fn probed(&mut self, device: usize) {
        self.devices[device] = At::Nothing;
        if self.chance(10) {
            self.machine.lost(device, "simulated", self.now_us);
        } else {
            self.machine.probed(device, self.now_us);
        }
        self.after(0, Event::Look(device));
    }

    /// A worker connects, if it is not connected.
    fn dial(&mut self, worker: usize) {
        let again_us = 2_000 + self.mix.below(30_000);
        self.after(again_us, Event::Dial(worker));
        // Now and then over a second connection, before the node knows that the first is dead.
        if self.workers[worker].seat.is_some() && !self.chance(10) {
            return;
        }
        let arrival = Arrival {
            worker: Address::repeat_byte(worker as u8 + 1),
            holds: self.workers[worker].holds.clone(),
            info: self.machine.stats().devices[0].info.clone(),
        };
        let Ok(seat) = self.machine.attach(arrival, self.now_us) else { return };
        self.workers[worker].seat = Some(seat);
        self.places.insert(seat.device(), worker);
        self.credit(worker);
        self.after(0, Event::Bell(worker));
        self.after(2_000, Event::Heartbeat(worker));
        let breaks_us = 5_000 + self.mix.below(80_000);
        self.after(breaks_us, Event::Break(worker));
    }

    fn credit(&mut self, worker: usize) {
        let Afar { seat: Some(seat), slots, held, holds } = &self.workers[worker] else { return };
        let free = slots.saturating_sub(held.len() as u32);
        for model in 0..holds.len() {
            self.machine.credit(*seat, model, free);
        }
    }

    fn break_off(&mut self, worker: usize) {
        if let Some(seat) = self.workers[worker].seat.take() {
            self.machine.detach(seat, "simulated", self.now_us);
        }
        if self.chance(2) {
            // The host is gone, and what it held with it.
            self.workers[worker].held.clear();
        }
    }

    fn hear_bell(&mut self, worker: usize) {
        loop {
            let Some(seat) = self.workers[worker].seat else { return };
            match self.machine.draw(seat, 0, self.now_us) {
                Order::Lease(leased) => {
                    assert!(self.workers[worker].holds[leased.model], "seed {}", self.seed);
                    let took_us = match self.mix.below(if self.liars { 6 } else { 20 }) {
                        0 => 6_000 + self.mix.below(30_000),
                        _ => 100 + self.mix.below(2_000),
                    };
                    self.after(took_us, Event::Result(worker, leased.lease));
                    let Afar { held, slots, holds, .. } = &mut self.workers[worker];
                    held.insert(leased.lease, *leased);
                    // Credit is said for each model.
                    let room = *slots as usize * holds.len();
                    assert!(held.len() <= room, "seed {}: more than its room", self.seed);
                }
                Order::Probe { probe, .. } => self.after(300, Event::Answer(worker, probe)),
                Order::Cancel(lease) => {
                    if self.chance(2) && self.workers[worker].held.remove(&lease).is_some() {
                        self.machine.failed(seat, lease, Fault::Cancelled, "told to", self.now_us);
                    }
                }
                Order::Wait(Some(until_us)) => {
                    let us = until_us.saturating_sub(self.now_us).max(1);
                    return self.after(us, Event::Bell(worker));
                }
                Order::Wait(None) => return,
                Order::End(_) => {
                    self.workers[worker].seat = None;
                    return self.machine.detach(seat, "simulated", self.now_us);
                }
            }
        }
    }

    /// A worker has a result. If it is not connected it keeps it; if it is out of service, it may lie: a lie that nothing
    /// is compared with is one that no engine could notice.
    fn result(&mut self, worker: usize, lease: LeaseId) {
        let Some(leased) = self.workers[worker].held.get(&lease).cloned() else { return };
        let Some(seat) = self.workers[worker].seat else {
            return self.after(3_000, Event::Result(worker, lease));
        };
        self.workers[worker].held.remove(&lease);
        if self.chance(15) {
            let faults = [Fault::Refused, Fault::NoMemory, Fault::Missing, Fault::Lost];
            let fault = faults[self.mix.below(4) as usize];
            self.machine.failed(seat, lease, fault, "simulated", self.now_us);
        } else {
            let out_of_service = !self.machine.stats().devices[seat.device()].in_service;
            let lies = self.liars && out_of_service && self.chance(2);
            let output = if lies { lie(&leased.content) } else { truth(&leased.content) };
            let delivered = self.machine.deliver(seat, lease, output, self.now_us);
            self.to_sign.extend(delivered.to_sign);
            assert!(self.liars || delivered.dispute.is_none(), "seed {}: disputed", self.seed);
            if let Some(dispute) = delivered.dispute {
                self.settle(&dispute);
            }
            let again = self.machine.deliver(seat, lease, truth(&leased.content), self.now_us);
            assert!(again.to_sign.is_none() && again.dispute.is_none(), "seed {}", self.seed);
        }
        self.credit(worker);
        self.after(0, Event::Bell(worker));
    }

    fn answer(&mut self, worker: usize, probe: u64) {
        let Some(seat) = self.workers[worker].seat else { return };
        if self.machine.probe_answered(seat, probe).is_none() {
            return;
        }
        if self.liars && self.chance(30) {
            self.machine.bar(seat, "simulated", self.now_us);
        } else {
            self.machine.probe_right(seat, probe, self.now_us);
        }
        self.after(0, Event::Bell(worker));
    }

    fn heartbeat(&mut self, worker: usize) {
        let Some(seat) = self.workers[worker].seat else { return };
        self.after(2_000, Event::Heartbeat(worker));
        let held: Vec<LeaseId> = self.workers[worker].held.keys().copied().collect();
        self.machine.renew(seat, &held, self.now_us);
        self.credit(worker);
    }

    fn sign(&mut self) {
        self.signing = false;
        let Some(to_sign) = self.to_sign.pop_front() else { return };
        let outcome = if self.chance(50) {
            Err(SignError("simulated".to_owned()))
        } else {
            let digest =
                Keccak::tagged(b"claim").update(to_sign.ask.id.0).u64(self.now_us).finish();
            Ok(Arc::new(Answer {
                request: to_sign.ask.request.clone(),
                output: Arc::clone(&to_sign.output),
                claim: SignedClaim { claim: Claim::default(), signature: [0; 65] },
                digest: ClaimDigest(digest),
                replayed: false,
            }))
        };
        let answer = outcome.as_ref().ok().map(Arc::clone);
        if self.machine.signed(&to_sign, outcome, 100, self.now_us) {
            self.claims.extend(answer);
            let id = to_sign.ask.id;
            let again = self.machine.status(id);
            let kept = matches!(again, None | Some(RequestStatus::Claimed(_)));
            assert!(kept, "seed {}: signed, and then {again:?}", self.seed);
        }
    }

    fn log(&mut self) {
        self.after(5_000, Event::Log);
        for _ in 0..self.mix.below(40) {
            let Some(answer) = self.claims.pop_front() else { return };
            let request = RequestId(B256::from(answer.request.nonce));
            self.machine.logged(request, answer.digest, self.index);
            self.index += 1;
            let earlier = self.logged.insert(request, answer.digest);
            // A request is answered again only if its first answer was let go.
            assert!(
                earlier.is_none()
                    || self.config.kept_bytes_max < u64::MAX
                    || self.now_us > 1_000_000,
                "seed {}: two claims for {request}",
                self.seed
            );
            match self.machine.status(request) {
                None | Some(RequestStatus::Logged { .. }) => {}
                Some(RequestStatus::Failed(Failure::Disproved | Failure::Mismatch { .. }))
                    if self.liars => {}
                Some(
                    RequestStatus::Running | RequestStatus::Queued | RequestStatus::Claimed(_),
                ) if earlier.is_some() || self.config.kept_bytes_max < u64::MAX => {}
                other => panic!("seed {}: logged, and then {other:?}", self.seed),
            }
        }
    }

    fn check_bounds(&self) {
        let stats = self.machine.stats();
        // Jobs that lost their device go back beyond the limit: at most a batch per device, and what workers hold.
        let afar: u64 = self.workers.iter().map(|worker| 2 * u64::from(worker.slots)).sum();
        let answers = u64::from(self.config.answers_max) * self.devices.len() as u64;
        let returned = (self.config.batch_jobs_max as usize * self.devices.len()) as u64 + afar;
        let returned = returned + answers;
        let limit = self.config.queue_jobs_max as u64 + returned;
        for model in &stats.models {
            let [_, paid, free] = model.queued;
            assert!(paid <= limit && free <= limit, "seed {}: {:?}", self.seed, model.queued);
        }
        assert!(stats.kept_bytes <= self.config.kept_bytes_max, "seed {}", self.seed);
    }

    /// After the last event: nothing is owed to anybody, and after the retention nothing is kept.
    fn check_end(&mut self) {
        assert_eq!(self.machine.live(), 0, "seed {}", self.seed);
        for (nth, asked) in self.asked.iter().enumerate() {
            assert_eq!(asked.outcomes, 1, "seed {}: submission {nth}: {asked:?}", self.seed);
            let Some(request) = asked.request else { continue };
            match self.machine.status(request) {
                None | Some(RequestStatus::Failed(_) | RequestStatus::Logged { .. }) => {}
                other => panic!("seed {}: {request} ended as {other:?}", self.seed),
            }
        }
        let stats = self.machine.stats();
        assert_eq!(stats.queued_bytes, 0, "seed {}", self.seed);
        for evidence in self.machine.evidence() {
            // Once the reference has spoken, no claim stands on other bytes.
            let (Some(truth), Some(request)) = (evidence.truth, evidence.request) else { continue };
            if let Some(RequestStatus::Logged { answer, .. }) = self.machine.status(request) {
                assert_eq!(answer.output, truth, "seed {}: a wrong claim stands", self.seed);
            }
        }
        assert_eq!(
            stats.results_mismatch > 0,
            !self.machine.evidence().is_empty(),
            "seed {}",
            self.seed
        );
        self.now_us += (self.config.keep_s + 2) * 1_000_000;
        self.machine.expire(self.now_us);
        self.machine.expire(self.now_us);
        assert_eq!(self.machine.jobs(), 0, "seed {}: jobs are kept for ever", self.seed);
        assert_eq!(self.machine.stats().kept_bytes, 0, "seed {}", self.seed);
    }
}

fn model_id(model: usize) -> ModelId {
    ModelId(B256::repeat_byte(model as u8 + 1))
}

fn simulate(seed: u64) -> (B256, EngineStats) {
    let mut world = World::new(seed);
    world.run();
    let stats = world.machine.stats();
    world.check_end();
    (world.trace.finish(), stats)
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_job_ends_once_with_the_same_bytes_and_nothing_leaks() {
    let seeds = match variable("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("SIMULATION_SEEDS").unwrap_or(200),
    };
    let (first, last) = (seeds.start, seeds.end);
    println!("seeds {first} to {last}");
    let mut seen = EngineStats::default();
    let mut tokens = 0;
    for seed in seeds {
        let stats = std::panic::catch_unwind(|| simulate(seed).1).unwrap_or_else(|panic| {
            eprintln!("SIMULATION_SEED={seed} repeats it");
            std::panic::resume_unwind(panic)
        });
        seen.joined += stats.joined;
        seen.replayed += stats.replayed;
        seen.memo_hits += stats.memo_hits;
        seen.pushed_back += stats.pushed_back;
        seen.claimed += stats.claimed;
        seen.logged += stats.logged;
        seen.deadline += stats.deadline;
        seen.cancelled += stats.cancelled;
        seen.failed += stats.failed;
        seen.devices_lost += stats.devices_lost;
        seen.results_mismatch += stats.results_mismatch;
        seen.leases_ended += stats.leases_ended;
        tokens += stats.models.iter().map(|model| model.tokens).sum::<u64>();
    }
    if last - first >= 100 {
        let reached = [
            ("joined", seen.joined),
            ("replayed", seen.replayed),
            ("known", seen.memo_hits),
            ("pushed back", seen.pushed_back),
            ("claimed", seen.claimed),
            ("logged", seen.logged),
            ("deadline", seen.deadline),
            ("cancelled", seen.cancelled),
            ("failed", seen.failed),
            ("devices lost", seen.devices_lost),
            ("results differ", seen.results_mismatch),
            ("leases ended", seen.leases_ended),
            ("tokens", tokens),
        ];
        println!("{reached:?}");
        for (name, count) in reached {
            assert!(count > 0, "no seed came to: {name}");
        }
    }
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in 0..8 {
        assert_eq!(simulate(seed).0, simulate(seed).0, "seed {seed}");
    }
}
