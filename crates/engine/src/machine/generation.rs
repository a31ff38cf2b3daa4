//! Answers that grow. A device generates many at a time: jobs join it one by one, each under a lease of its own, and after
//! every step the device says what came.
//!
//! ```text
//! Idle --join--> Generating --step, advance--> Generating --the last answer ends--> Idle
//!                    ^ '--a batch of another model, between two steps--'
//! ```

use std::sync::Arc;

use hyperion_ops::logprob::Logprobs;
use hyperion_primitives::B256;

use super::{
    Call, DeviceIndex, JobKey, LeaseId, Machine, State, Take, Waiter,
    device::Duty,
    lease::{Finished, Lease},
};
use crate::{Class, Content, Drawing, Failure, OnTokens, generator::output};

/// A job that a device begins to generate an answer for.
#[derive(Clone, Debug)]
pub struct Joined {
    /// To be named when something came of it.
    pub lease: LeaseId,
    /// Place of the model.
    pub model: usize,
    /// What the answer depends on.
    pub content: Content,
    /// Token ids of the prompt, little-endian.
    pub prompt: Arc<[u8]>,
    /// How the answer is drawn.
    pub drawing: Arc<Drawing>,
    /// The seed of its draws.
    pub seed: B256,
    /// Who goes first.
    pub class: Class,
    /// Whether to say how likely its tokens were.
    pub logprobs: bool,
}

/// What a step brought one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whose.
    pub lease: LeaseId,
    /// Tokens that were drawn, in order.
    pub tokens: Vec<u32>,
    /// How likely each of them was, if that was asked for.
    pub logprobs: Vec<Logprobs>,
    /// Whether the answer is complete.
    pub ended: bool,
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What came, answer by answer.
    pub progress: Vec<Progress>,
    /// Rows that went over the device, without a draft model's.
    pub rows: u64,
    /// Proposals of the draft model that were looked at.
    pub proposed: u64,
    /// Of these, those that were right.
    pub accepted: u64,
}

/// What a device holds of answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Leases of the running answers.
    pub(super) leases: Vec<LeaseId>,
    /// Answers that nobody wants any more; the device hears of them before its next step.
    given_up: Vec<LeaseId>,
    /// Whether a step has to come before the next batch.
    pub(super) owes_step: bool,
}

impl Answers {
    pub(super) const fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.given_up.is_empty()
    }
}

impl Machine {
    /// Has a device run a step, and hear of the answers that nobody wants any more.
    pub(super) fn step(&mut self, device: DeviceIndex, now_us: u64) -> Take {
        let until_us = now_us.saturating_add(self.lease_us);
        let at = &mut self.devices[device];
        at.duty = Duty::Generating { until_us };
        at.answers.owes_step = false;
        Take::Step(std::mem::take(&mut at.answers.given_up))
    }

    /// Whether a device may take one more answer of a model. The device with the fewest goes first, and a job that has lost
    /// a device generates alone, so that one which breaks devices takes no others with it.
    ///
    /// A block's calls have places of their own, and nobody else begins on a device for which one waits.
    pub(super) fn may_join(&self, device: DeviceIndex, model: usize, key: JobKey) -> bool {
        let own = &self.devices[device].answers.leases;
        if self.is_alone(device, key) {
            return own.is_empty();
        }
        let chain = self.is_chain(key);
        if !chain && self.chain_waits(device).next().is_some() {
            return false;
        }
        let held = |at: &super::device::Device| {
            let leases = at.answers.leases.iter();
            leases.filter(|lease| !chain || self.is_chain(self.answer(**lease))).count()
        };
        let fewer = |(at, other): (usize, &super::device::Device)| {
            at != device
                && other.is_local()
                && other.serves(model)
                && !matches!(other.duty, Duty::Busy { .. })
                && held(other) < held(&self.devices[device])
        };
        let places = own.iter().filter(|lease| self.is_chain(self.answer(**lease)) == chain);
        places.count() < self.models[model].answers_max as usize
            && !self.devices.iter().enumerate().any(fewer)
    }

    /// The job of an answer.
    fn answer(&self, lease: LeaseId) -> JobKey {
        self.leases[&lease].jobs[0]
    }

    fn is_chain(&self, key: JobKey) -> bool {
        self.jobs[&key].work.class == Class::Chain
    }

    /// Whether a job cannot generate beside what a device has.
    fn is_alone(&self, device: DeviceIndex, key: JobKey) -> bool {
        let is_suspect = |key: JobKey| self.jobs[&key].attempts > 0;
        let mut own = self.devices[device].answers.leases.iter();
        is_suspect(key) || own.any(|lease| is_suspect(self.answer(*lease)))
    }

    /// The first of a block's calls that wait to generate on a device, model by model.
    fn chain_waits(&self, device: DeviceIndex) -> impl Iterator<Item = JobKey> {
        let generators = (0..self.models.len()).filter(|model| self.models[*model].answers_max > 0);
        generators.filter_map(move |model| self.eligible(device, model, Class::Chain).next())
    }

    /// Makes way for a block's call that cannot generate beside what a device has: all but blocks' answers go back to their
    /// places in the lines, and begin anew later.
    pub(super) fn make_way(&mut self, device: DeviceIndex) {
        if !self.chain_waits(device).any(|key| self.is_alone(device, key)) {
            return;
        }
        for lease in self.devices[device].answers.leases.clone() {
            let key = self.answer(lease);
            if self.is_chain(key) {
                continue;
            }
            let answers = &mut self.devices[device].answers;
            answers.leases.retain(|own| *own != lease);
            answers.given_up.push(lease);
            self.leases.remove(&lease);
            self.enter_queue(key);
        }
    }

    /// Has a device begin the answer that is first in a line.
    pub(super) fn join(
        &mut self,
        device: DeviceIndex,
        model: usize,
        class: Class,
        now_us: u64,
    ) -> Joined {
        let key = self.eligible(device, model, class).next().expect("a line's turn has a job");
        self.drawn += 1;
        let lease = LeaseId(self.drawn);
        self.leave_queue(key);
        let record = self.jobs.get_mut(&key).expect("a queued job has a record");
        record.state = State::Running(lease);
        record.tokens.clear();
        record.logprobs.clear();
        self.stats.models[model].queue_us.add(now_us.saturating_sub(record.accepted_us));
        let drawing = record.work.drawing.as_ref().expect("the engine checked the job");
        let joined = Joined {
            lease,
            model,
            content: record.work.content,
            prompt: Arc::clone(&record.work.input),
            drawing: Arc::clone(drawing),
            seed: record.work.content.seed,
            class,
            logprobs: record.work.logprobs,
        };
        let rows = u64::from(record.work.rows) + u64::from(drawing.tokens_max());
        let held = Lease { device, model, rows, jobs: vec![key], since_us: now_us, terms: None };
        self.leases.insert(lease, held);
        let at = &mut self.devices[device];
        at.answers.leases.push(lease);
        at.duty = Duty::Generating { until_us: now_us.saturating_add(self.lease_us) };
        if self.models[model].queue.len() > 0 {
            self.wake(model);
        }
        joined
    }

    /// A step of a device is done: tokens go to those who listen, complete answers to be claimed.
    ///
    /// The step was one of `model`, and took `took_us`.
    pub fn advance(
        &mut self,
        device: DeviceIndex,
        model: usize,
        step: Step,
        took_us: u64,
        now_us: u64,
    ) -> Finished {
        let mut finished = Finished::default();
        let Step { progress, rows, proposed, accepted } = step;
        self.stats.models[model].proposed += proposed;
        self.stats.models[model].accepted += accepted;
        for Progress { lease, tokens, logprobs, ended } in progress {
            // Given up meanwhile, or the device was silent for too long.
            let Some(held) = self.leases.get(&lease).filter(|held| held.device == device) else {
                continue;
            };
            let key = held.jobs[0];
            self.stats.models[model].tokens += tokens.len() as u64;
            let record = self.jobs.get_mut(&key).expect("a leased job lives");
            record.tokens.extend(tokens);
            record.logprobs.extend(logprobs);
            self.tell_tokens(key);
            if ended {
                self.leases.remove(&lease);
                self.devices[device].answers.leases.retain(|own| *own != lease);
                let record = &self.jobs[&key];
                let output = Arc::new(output(&record.tokens));
                self.effects.generated.push((record.work.content, Arc::clone(&output)));
                self.result(key, device, output, now_us, &mut finished);
            }
        }
        self.note_run(device, model, rows, took_us);
        self.settle_duty(device, now_us);
        finished.more = true;
        finished
    }

    /// After a step or a batch: a device without answers is idle.
    pub fn settle_duty(&mut self, device: DeviceIndex, now_us: u64) {
        let at = &mut self.devices[device];
        if !matches!(at.duty, Duty::Generating { .. } | Duty::Idle { .. }) {
            return;
        }
        if let Some(why) = at.condemned.take() {
            at.out(why);
            self.close_answers(device, why, now_us);
            self.wake_all();
            return;
        }
        at.duty = if at.answers.is_empty() {
            Duty::Idle { since_us: now_us }
        } else {
            Duty::Generating { until_us: now_us.saturating_add(self.lease_us) }
        };
    }

    /// Tells those who listen to a job the tokens that they have not heard.
    pub(super) fn tell_tokens(&mut self, key: JobKey) {
        let Some(record) = self.jobs.get_mut(&key) else { return };
        for wait in &mut record.waits {
            if let Waiter::Stream(on_tokens, _) | Waiter::Drawn(on_tokens, _) = &wait.waiter
                && let Some(unheard) = record.tokens.get(wait.heard..).filter(|new| !new.is_empty())
            {
                let position = u32::try_from(wait.heard).expect("an answer's length");
                let logprobs = record.logprobs.get(wait.heard..).unwrap_or_default().to_vec();
                let on_tokens = OnTokens::clone(on_tokens);
                let call = Call::Tokens(on_tokens, position, unheard.to_vec(), logprobs);
                self.effects.calls.push(call);
                wait.heard = record.tokens.len();
            }
        }
    }

    /// Ends an answer that nobody wants. `false` when the lease is no answer's.
    pub(super) fn give_up(&mut self, lease: LeaseId, why: &Failure, now_us: u64) -> bool {
        let Some(held) = self.leases.get(&lease) else { return false };
        let (device, key) = (held.device, held.jobs[0]);
        let answers = &mut self.devices[device].answers;
        if !answers.leases.contains(&lease) {
            return false;
        }
        answers.leases.retain(|own| *own != lease);
        answers.given_up.push(lease);
        self.leases.remove(&lease);
        self.fail(key, why, now_us);
        true
    }

    /// Takes every answer back from a device that no longer serves.
    pub(super) fn close_answers(&mut self, device: DeviceIndex, cause: &str, now_us: u64) {
        let answers = std::mem::take(&mut self.devices[device].answers);
        for lease in answers.leases {
            self.give_back(lease, cause, now_us);
            self.leases.remove(&lease);
        }
    }

    /// Ends every running answer.
    pub(super) fn cut_answers(&mut self, now_us: u64) {
        for device in 0..self.devices.len() {
            for lease in self.devices[device].answers.leases.clone() {
                self.give_up(lease, &Failure::Draining, now_us);
            }
        }
    }
}
