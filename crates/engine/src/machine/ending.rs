//! How jobs end, and how long one can ask for them afterwards.

use std::sync::Arc;

use hyperion_model::Tensor;
use hyperion_primitives::{ClaimDigest, RequestId};

use super::{Call, Dropped, JobKey, Machine, State, ToSign, Waiter};
use crate::{Answer, Failure, LogPlace, OnLogged, SignError};

/// What a kept job weighs beside its output.
const KEPT_BYTES: u64 = 1024;

impl Machine {
    /// A claim was signed, or not. Gives whether the claim is to go into the log: not if its output was
    /// disputed in the meantime.
    pub fn signed(
        &mut self,
        to_sign: &ToSign,
        outcome: Result<Arc<Answer>, SignError>,
        took_us: u64,
        now_us: u64,
    ) -> bool {
        let key = to_sign.job;
        let Some(record) = self.jobs.get_mut(&key) else { return false };
        if !matches!(&record.state, State::Signing(output) if Arc::ptr_eq(output, &to_sign.output))
        {
            return false;
        }
        self.stats.sign_us.add(took_us);
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.fail(key, &error.into(), now_us);
                return false;
            }
        };
        record.state = State::Claimed(Arc::clone(&answer));
        self.stats.claimed += 1;
        self.stats.answer_us.add(now_us.saturating_sub(record.accepted_us));
        record.claim = Some(answer.digest);
        for wait in std::mem::take(&mut record.waits) {
            self.tell(wait.waiter, Ok(Arc::clone(&answer)));
        }
        self.by_claim.insert(answer.digest, key);
        self.live -= 1;
        self.keep(key, answer.output.data.len() as u64, now_us);
        true
    }

    /// Hands over the output of a job without a request, and forgets it.
    pub(super) fn end_output(&mut self, key: JobKey, output: &Arc<Tensor>, now_us: u64) {
        let record = self.jobs.remove(&key).expect("only jobs that live end");
        self.live -= 1;
        self.stats.answer_us.add(now_us.saturating_sub(record.accepted_us));
        for wait in record.waits {
            if let Waiter::Output(done) | Waiter::Drawn(_, done) = wait.waiter {
                self.effects.calls.push(Call::Output(done, Ok(Arc::clone(output))));
            }
        }
    }

    /// Ends a job without an answer.
    pub(super) fn fail(&mut self, key: JobKey, why: &Failure, now_us: u64) {
        let record = self.jobs.get_mut(&key).expect("only jobs that live end");
        *match why {
            Failure::Deadline => &mut self.stats.deadline,
            Failure::Cancelled => &mut self.stats.cancelled,
            _ => &mut self.stats.failed,
        } += 1;
        self.live -= 1;
        let unheard = record.log_waiters.drain(..).map(Dropped::Logged);
        self.effects.dropped.extend(unheard);
        record.state = State::Failed(why.clone());
        let waits = std::mem::take(&mut record.waits);
        let has_request = record.ask.is_some();
        for wait in waits {
            self.tell(wait.waiter, Err(why.clone()));
        }
        if has_request {
            self.keep(key, 0, now_us);
        } else {
            self.jobs.remove(&key);
        }
    }

    /// Keeps an ended job for those who ask again; the oldest make room.
    fn keep(&mut self, key: JobKey, output_bytes: u64, now_us: u64) {
        let record = self.jobs.get_mut(&key).expect("it has just ended");
        record.tokens = Vec::new();
        record.logprobs = Vec::new();
        if record.attempts == 0 {
            // No second result can come, so nobody will ask the reference about this input.
            record.work.input = Arc::default();
        }
        record.kept_bytes = KEPT_BYTES + output_bytes + record.work.input.len() as u64;
        self.stats.kept_bytes += record.kept_bytes;
        self.kept.push_back((now_us, key));
        while self.stats.kept_bytes > self.kept_bytes_max {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.forget(oldest);
        }
    }

    /// Lets jobs go whose time is over. A claim on its way into the log stays for another round.
    pub(super) fn let_go(&mut self, now_us: u64) {
        for _ in 0..self.kept.len() {
            let Some((ended_us, key)) = self.kept.front().copied() else { break };
            if ended_us.saturating_add(self.keep_us) > now_us {
                break;
            }
            self.kept.pop_front();
            if matches!(self.jobs[&key].state, State::Claimed(_)) {
                self.kept.push_back((now_us, key));
            } else {
                self.forget(key);
            }
        }
    }

    /// When the next kept job leaves, to the second: they leave in company.
    pub(super) fn next_kept_us(&self) -> Option<u64> {
        let (ended_us, _) = self.kept.front()?;
        let at_us = ended_us.saturating_add(self.keep_us);
        Some(at_us.checked_next_multiple_of(1_000_000).unwrap_or(at_us))
    }

    fn forget(&mut self, key: JobKey) {
        let record = self.jobs.remove(&key).expect("kept jobs have a record");
        self.stats.kept_bytes -= record.kept_bytes;
        if let Some(ask) = &record.ask
            && self.by_request.get(&ask.id) == Some(&key)
        {
            self.by_request.remove(&ask.id);
        }
        if let Some(claim) = record.claim {
            self.by_claim.remove(&claim);
        }
        self.effects.dropped.extend(record.log_waiters.into_iter().map(Dropped::Logged));
    }

    /// A claim stands in the log.
    pub fn logged(&mut self, request: RequestId, digest: ClaimDigest, index: u64) {
        self.stats.logged += 1;
        let Some(key) = self.by_request.get(&request) else { return };
        let record = self.jobs.get_mut(key).expect("a request's job is kept");
        let state = match &mut record.state {
            State::Disputed(before) => &mut **before,
            state => state,
        };
        let answer = match state {
            State::Claimed(answer) if answer.digest == digest => Arc::clone(answer),
            _ => return,
        };
        *state = State::Logged(answer, index);
        let place = LogPlace { digest, index };
        let told = record.log_waiters.drain(..).map(|waiter| Call::Logged(waiter, place));
        self.effects.calls.extend(told);
    }

    /// Calls `waiter` once the request's claim is in the log; drops it when that cannot happen.
    pub fn on_logged(&mut self, request: RequestId, waiter: OnLogged) {
        let Some(key) = self.by_request.get(&request) else {
            return self.effects.dropped.push(Dropped::Logged(waiter));
        };
        let record = self.jobs.get_mut(key).expect("a request's job is kept");
        match &record.state {
            State::Logged(answer, index) => {
                let place = LogPlace { digest: answer.digest, index: *index };
                self.effects.calls.push(Call::Logged(waiter, place));
            }
            State::Failed(_) => self.effects.dropped.push(Dropped::Logged(waiter)),
            _ => record.log_waiters.push(waiter),
        }
    }
}
