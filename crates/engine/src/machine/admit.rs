//! The gate: what is taken, what is pushed back, and what is known already.

use std::sync::Arc;

use hyperion_model::Tensor;
use hyperion_primitives::Mix;

use super::{
    Ask, Dropped, JobKey, Machine, Record, State, Submitted, Waiter, Work,
    device::{LOG_RETRY_MS, REFEREE_MS, RETEST_MS},
};
use crate::{Answer, Class, Failure, Pushback, queue::may_wait};

impl Machine {
    /// Takes a job, or answers a request that is known.
    ///
    /// `known` is the remembered output of equal content, `claims_waiting` how many signed claims wait for the
    /// log.
    ///
    /// # Errors
    ///
    /// When the job is not taken; the waiter is dropped.
    pub fn submit(
        &mut self,
        ask: Option<Ask>,
        work: Work,
        waiter: Waiter,
        known: Option<Arc<Tensor>>,
        claims_waiting: u64,
        now_us: u64,
    ) -> Result<Submitted, Pushback> {
        let earlier = ask.as_ref().and_then(|ask| self.by_request.get(&ask.id).copied());
        let earlier = earlier.filter(|key| self.may_replay(*key));
        let claims_waiting = ask.is_some().then_some(claims_waiting);
        let refused = match earlier {
            Some(key) => self.refuse_again(key, &work, now_us),
            None => {
                let travels = super::travels(ask.as_ref());
                self.refuse(&work, travels, known.is_some(), claims_waiting, now_us)
            }
        };
        if let Err(pushback) = refused {
            self.stats.pushed_back += 1;
            self.effects.dropped.push(Dropped::Waiter(waiter));
            return Err(pushback);
        }
        Ok(match earlier {
            Some(key) => self.again(key, &work, waiter),
            None => self.admit(ask, work, waiter, known, now_us),
        })
    }

    /// Failed requests may be tried again, unless a wrong claim was signed for them.
    fn may_replay(&self, key: JobKey) -> bool {
        match &self.jobs[&key].state {
            State::Failed(failure) => *failure == Failure::Disproved,
            _ => true,
        }
    }

    /// Whether a request that is known has to be pushed back all the same.
    fn refuse_again(&self, key: JobKey, work: &Work, now_us: u64) -> Result<(), Pushback> {
        let record = &self.jobs[&key];
        let ask = record.ask.as_ref().expect("it was found by its request");
        if !ask.is_signed() && record.work.owner != work.owner {
            return Err(Pushback::NonceSpent(ask.id));
        }
        let lives = matches!(record.state, State::Queued | State::Running(_) | State::Signing(_));
        if lives && work.deadline_us.is_some_and(|deadline| deadline <= now_us) {
            return Err(Pushback::Deadline);
        }
        Ok(())
    }

    /// A request that is known: its stored outcome, or a wait for the run under way.
    fn again(&mut self, key: JobKey, work: &Work, waiter: Waiter) -> Submitted {
        let outcome = match &self.jobs[&key].state {
            State::Claimed(answer) | State::Logged(answer, _) => {
                Ok(Arc::new(Answer { replayed: true, ..Answer::clone(answer) }))
            }
            State::Failed(failure) => Err(failure.clone()),
            State::Disputed(_) => Err(Failure::Mismatch { retry_ms: REFEREE_MS }),
            State::Queued | State::Running(_) | State::Signing(_) => {
                self.stats.joined += 1;
                return Submitted::Joined(self.wait(key, work.deadline_us, waiter));
            }
        };
        self.stats.replayed += 1;
        self.tell(waiter, outcome);
        Submitted::Replayed
    }

    fn admit(
        &mut self,
        ask: Option<Ask>,
        work: Work,
        waiter: Waiter,
        known: Option<Arc<Tensor>>,
        now_us: u64,
    ) -> Submitted {
        self.drawn += 1;
        let key = JobKey(self.drawn);
        if let Some(ask) = &ask {
            self.by_request.insert(ask.id, key);
        }
        let (model, deadline_us) = (work.model, work.deadline_us);
        let record = Record {
            work,
            ask: ask.map(Arc::new),
            state: State::Queued,
            accepted_us: now_us,
            attempts: 0,
            lost_on: None,
            device: None,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            waits: Vec::with_capacity(1),
            log_waiters: Vec::new(),
            claim: None,
            kept_bytes: 0,
        };
        self.jobs.insert(key, record);
        self.live += 1;
        self.stats.accepted += 1;
        if let Some(output) = known {
            self.stats.memo_hits += 1;
            let ticket = self.wait(key, None, waiter);
            return match self.accept(key, None, output, now_us) {
                Some(to_sign) => Submitted::Known(ticket, Box::new(to_sign)),
                None => Submitted::Replayed,
            };
        }
        self.enter_queue(key);
        let ticket = self.wait(key, deadline_us, waiter);
        self.wake(model);
        Submitted::Queued(ticket)
    }

    /// The gate. A block's calls pass it whenever one of the engine's own devices could ever run them.
    fn refuse(
        &self,
        work: &Work,
        travels: bool,
        is_known: bool,
        claims_waiting: Option<u64>,
        now_us: u64,
    ) -> Result<(), Pushback> {
        let model = &self.models[work.model];
        let served =
            if travels { self.is_served(work.model) } else { self.is_served_here(work.model) };
        if let Some((needed_bytes, largest_bytes)) = model.unfit.filter(|_| !served) {
            // A worker that holds it may come, or come back.
            return Err(if travels && self.workers_max > 0 {
                Pushback::NoWorker { retry_ms: RETEST_MS }
            } else {
                Pushback::NoMemory { needed_bytes, largest_bytes }
            });
        }
        if self.stopped {
            return Err(Pushback::Draining);
        }
        if work.class == Class::Chain {
            return Ok(());
        }
        if self.draining {
            return Err(Pushback::Draining);
        }
        if work.deadline_us.is_some_and(|deadline| deadline <= now_us) {
            return Err(Pushback::Deadline);
        }
        if claims_waiting.is_some_and(|waiting| waiting >= self.claims_waiting_max) {
            return Err(Pushback::LogBehind { retry_ms: LOG_RETRY_MS });
        }
        if is_known {
            return Ok(());
        }
        if !served {
            return Err(Pushback::NoWorker { retry_ms: RETEST_MS });
        }
        let retry_ms = || self.retry_ms(work.model);
        let line = model.queue.line(work.class);
        let (waiting, own) = (line.len(), line.held(&work.owner));
        if !may_wait(self.queue_jobs_max, waiting, own) {
            let (waiting, limit) = (waiting as u64, self.queue_jobs_max as u64);
            return Err(if waiting < limit {
                Pushback::ShareFull { own: own as u64, waiting, limit, retry_ms: retry_ms() }
            } else {
                Pushback::QueueFull { waiting, limit, retry_ms: retry_ms() }
            });
        }
        let (waiting_bytes, limit_bytes) = (self.stats.queued_bytes, self.queue_bytes_max);
        if waiting_bytes.saturating_add(work.input.len() as u64) > limit_bytes {
            return Err(Pushback::BytesFull { waiting_bytes, limit_bytes, retry_ms: retry_ms() });
        }
        Ok(())
    }

    /// Estimated microseconds until a job of this model that came now would begin.
    pub fn wait_us(&self, model: usize) -> u64 {
        let devices =
            self.devices.iter().filter(|device| device.serves(model)).count().max(1) as u64;
        let held: u64 =
            self.leases.values().filter(|lease| lease.model == model).map(|lease| lease.rows).sum();
        let rows = self.models[model].queue.rows() + held;
        rows.saturating_mul(self.models[model].row_ns) / 1_000 / devices
    }

    /// The estimate for a caller that is to come back: 50 ms to 10 s, spread by a fifth either way so that
    /// they do not all come at once.
    fn retry_ms(&self, model: usize) -> u64 {
        let estimate = (self.wait_us(model) / 1_000).clamp(50, 10_000);
        estimate * (80 + Mix::new(self.drawn ^ self.stats.pushed_back).below(41)) / 100
    }
}
