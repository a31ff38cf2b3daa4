//! What happens to a job between a device taking it and its output.

use std::sync::Arc;

use hyperion_model::Tensor;
use hyperion_primitives::RequestId;

use super::{
    Ask, DeviceIndex, Dropped, JobKey, LEASES_MAX, Machine, Record, State, Work,
    device::REFEREE_MS, remote::Terms,
};
use crate::{Content, Failure};

/// Pairs of outputs kept as evidence.
const EVIDENCE_MAX: usize = 64;

/// One batch on one device, or one job at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) device: DeviceIndex,
    pub(super) model: usize,
    pub(super) rows: u64,
    pub(super) jobs: Vec<JobKey>,
    pub(super) since_us: u64,
    /// For a lease that a worker on another host holds.
    pub(super) terms: Option<Terms>,
}

/// Jobs to be run together.
#[derive(Debug)]
pub struct Batch {
    /// To be named when it ends.
    pub lease: LeaseId,
    /// Place of the model.
    pub model: usize,
    /// In the order in which their outputs are expected.
    pub jobs: Vec<BatchJob>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct BatchJob {
    /// What the output depends on.
    pub content: Content,
    /// Elements of the input tensor.
    pub input: Arc<[u8]>,
    /// Its rows.
    pub rows: u32,
}

/// An output that a claim is to be made of.
#[derive(Clone, Debug)]
pub struct ToSign {
    /// Whose it is.
    pub job: JobKey,
    /// Place of the model.
    pub model: usize,
    /// The request.
    pub ask: Arc<Ask>,
    /// Model, hashes and seed.
    pub content: Content,
    /// Rows of the input.
    pub rows: u32,
    /// What the model said.
    pub output: Arc<Tensor>,
}

/// Two devices gave different bytes: somebody has to ask the scalar reference.
#[derive(Clone, Debug)]
pub struct Dispute {
    /// The job.
    pub job: JobKey,
    /// Place of the model.
    pub model: usize,
    /// Elements of the input tensor.
    pub input: Arc<[u8]>,
    /// What the output depends on.
    pub content: Content,
}

/// Two different outputs for one job. With exact arithmetic one of the devices is broken.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// What was computed.
    pub content: Content,
    /// For whom; `None` for a block's call.
    pub request: Option<RequestId>,
    /// Device and output that came first.
    pub first: (DeviceIndex, Arc<Tensor>),
    /// Device and output that came second.
    pub second: (DeviceIndex, Arc<Tensor>),
    /// What the scalar reference says, once it has spoken.
    pub truth: Option<Arc<Tensor>>,
}

/// What a finished batch leaves to be done.
#[derive(Debug, Default)]
pub struct Finished {
    /// Claims to be made.
    pub to_sign: Vec<ToSign>,
    /// Disagreements to be settled.
    pub disputes: Vec<Dispute>,
    /// Whether more work waits for this device.
    pub more: bool,
}

impl Record {
    fn to_sign(&self, job: JobKey, output: Arc<Tensor>) -> ToSign {
        let ask = self.ask.as_ref().expect("only requests are signed for");
        ToSign {
            job,
            model: self.work.model,
            ask: Arc::clone(ask),
            content: self.work.content,
            rows: self.work.rows,
            output,
        }
    }
}

impl Machine {
    pub(super) fn lease(
        &mut self,
        device: DeviceIndex,
        model: usize,
        jobs: Vec<JobKey>,
        now_us: u64,
    ) -> Batch {
        self.drawn += 1;
        let lease = LeaseId(self.drawn);
        let mut batch = Batch { lease, model, jobs: Vec::with_capacity(jobs.len()) };
        let mut rows = 0;
        for key in &jobs {
            self.leave_queue(*key);
            let record = self.jobs.get_mut(key).expect("a queued job has a record");
            record.state = State::Running(lease);
            self.stats.models[model].queue_us.add(now_us.saturating_sub(record.accepted_us));
            let Work { content, input, rows: own, .. } = &record.work;
            batch.jobs.push(BatchJob { content: *content, input: Arc::clone(input), rows: *own });
            rows += u64::from(*own);
        }
        let held = Lease { device, model, rows, jobs, since_us: now_us, terms: None };
        self.leases.insert(lease, held);
        batch
    }

    /// A batch has its outputs. Of two results of one job the first counts; the second is compared with it.
    ///
    /// `rows_run` is how many rows really went over the device: known and equal contents need none.
    ///
    /// # Panics
    ///
    /// When `outputs` has another length than the batch.
    pub fn finish(
        &mut self,
        lease: LeaseId,
        outputs: Vec<Arc<Tensor>>,
        rows_run: u64,
        now_us: u64,
    ) -> Finished {
        let Some(Lease { device, model, jobs, since_us, .. }) = self.leases.remove(&lease) else {
            return Finished::default();
        };
        assert_eq!(jobs.len(), outputs.len(), "one output per job of a batch");
        self.idle(device, lease, now_us);
        self.note_run(device, model, rows_run, now_us.saturating_sub(since_us));
        let mut finished = Finished::default();
        for (key, output) in jobs.into_iter().zip(outputs) {
            self.result(key, device, output, now_us, &mut finished);
        }
        finished.more = self.next_line(device, now_us).is_some();
        finished
    }

    /// One job's output: the first counts, a later one is compared with it.
    pub(super) fn result(
        &mut self,
        key: JobKey,
        device: DeviceIndex,
        output: Arc<Tensor>,
        now_us: u64,
        finished: &mut Finished,
    ) {
        let Some(record) = self.jobs.get_mut(&key) else { return };
        match &record.state {
            State::Queued | State::Running(_) => {
                let model = record.work.model;
                if matches!(record.state, State::Queued) {
                    self.leave_queue(key);
                }
                self.stats.models[model].jobs += 1;
                finished.to_sign.extend(self.accept(key, Some(device), output, now_us));
            }
            State::Signing(first) if *first != output => {
                let first = Arc::clone(first);
                finished.disputes.extend(self.dispute(key, first, (device, output)));
            }
            State::Claimed(answer) | State::Logged(answer, _) if answer.output != output => {
                let first = Arc::clone(&answer.output);
                finished.disputes.extend(self.dispute(key, first, (device, output)));
            }
            _ => {}
        }
    }

    /// Counts a run, and learns from it how long a row takes; not from a worker's, whose time is the network's, too.
    pub(super) fn note_run(&mut self, device: DeviceIndex, model: usize, rows: u64, took_us: u64) {
        if rows == 0 {
            return;
        }
        let stats = &mut self.stats.models[model];
        stats.batches += 1;
        stats.rows += rows;
        stats.run_us.add(took_us);
        self.stats.devices[device].busy_us += took_us;
        if !self.devices[device].is_local() {
            return;
        }
        let now_ns = took_us.saturating_mul(1_000) / rows;
        let row_ns = &mut self.models[model].row_ns;
        *row_ns =
            if *row_ns == 0 { now_ns } else { row_ns.saturating_mul(7).saturating_add(now_ns) / 8 };
    }

    /// The first output of a job: the end of one without a request, a claim to be made of another.
    pub(super) fn accept(
        &mut self,
        key: JobKey,
        device: Option<DeviceIndex>,
        output: Arc<Tensor>,
        now_us: u64,
    ) -> Option<ToSign> {
        let record = self.jobs.get_mut(&key).expect("only jobs that live get an output");
        if record.ask.is_none() {
            self.end_output(key, &output, now_us);
            return None;
        }
        if record.is_abandoned() {
            self.fail(key, &Failure::Cancelled, now_us);
            return None;
        }
        let to_sign = record.to_sign(key, Arc::clone(&output));
        record.device = device;
        record.state = State::Signing(output);
        Some(to_sign)
    }

    /// Two outputs that differ: both are kept, the answer is withheld, and both devices are tested.
    fn dispute(
        &mut self,
        key: JobKey,
        first: Arc<Tensor>,
        second: (DeviceIndex, Arc<Tensor>),
    ) -> Option<Dispute> {
        self.stats.results_mismatch += 1;
        let record = self.jobs.get_mut(&key)?;
        let device = record.device?;
        let before = std::mem::replace(&mut record.state, State::Queued);
        record.state = State::Disputed(Box::new(before));
        let Work { model, input, content, .. } = &record.work;
        let dispute =
            Dispute { job: key, model: *model, input: Arc::clone(input), content: *content };
        let request = record.ask.as_ref().map(|ask| ask.id);
        for wait in std::mem::take(&mut record.waits) {
            self.tell(wait.waiter, Err(Failure::Mismatch { retry_ms: REFEREE_MS }));
        }
        if self.evidence.len() == EVIDENCE_MAX {
            self.evidence.pop_front();
        }
        for device in [device, second.0] {
            self.condemn(device, "its result differed from another device's");
        }
        let content = dispute.content;
        self.evidence.push_back(Evidence {
            content,
            request,
            first: (device, first),
            second,
            truth: None,
        });
        Some(dispute)
    }

    /// The scalar reference has spoken; `None` if it could not. A claim that was right stands, an output that
    /// was not signed yet is replaced, and a wrong claim fails its request for good.
    pub fn verdict(
        &mut self,
        dispute: &Dispute,
        truth: Option<Arc<Tensor>>,
        now_us: u64,
    ) -> Option<ToSign> {
        let about = |evidence: &&mut Evidence| evidence.content == dispute.content;
        let mut wrong = Vec::new();
        for evidence in self.evidence.iter_mut().filter(about) {
            evidence.truth.clone_from(&truth);
            let Some(truth) = &truth else { continue };
            let both = [&evidence.first, &evidence.second].into_iter();
            wrong.extend(both.filter(|(_, output)| output != truth).map(|(device, _)| *device));
        }
        for device in wrong {
            self.disprove(device, now_us);
        }
        let key = dispute.job;
        let record = self.jobs.get_mut(&key)?;
        let State::Disputed(before) = &mut record.state else { return None };
        let before = std::mem::replace(&mut **before, State::Queued);
        match (before, truth) {
            (State::Signing(_), Some(truth)) => {
                record.state = State::Signing(Arc::clone(&truth));
                Some(record.to_sign(key, truth))
            }
            (State::Signing(_), None) => {
                self.fail(key, &Failure::Mismatch { retry_ms: REFEREE_MS }, now_us);
                None
            }
            (before @ (State::Claimed(_) | State::Logged(..)), truth) => {
                let stands = match (&before, truth) {
                    (State::Claimed(answer) | State::Logged(answer, _), Some(truth)) => {
                        answer.output == truth
                    }
                    _ => false,
                };
                if stands {
                    record.state = before;
                } else {
                    record.state = State::Failed(Failure::Disproved);
                    let unheard = record.log_waiters.drain(..).map(Dropped::Logged);
                    self.effects.dropped.extend(unheard);
                }
                None
            }
            (before, _) => {
                record.state = before;
                None
            }
        }
    }

    /// Takes the jobs of a batch back from its device, without ending the lease: a result may still come.
    pub(super) fn give_back(&mut self, lease: LeaseId, cause: &str, now_us: u64) {
        let Some(lease_held) = self.leases.get(&lease) else { return };
        let (device, jobs) = (lease_held.device, lease_held.jobs.clone());
        for key in jobs {
            let Some(record) = self.jobs.get_mut(&key) else { continue };
            if !matches!(record.state, State::Running(held) if held == lease) {
                continue;
            }
            record.attempts += 1;
            record.lost_on = Some(device);
            let attempts = record.attempts;
            if attempts >= LEASES_MAX {
                self.fail(key, &Failure::NoWorker { attempts, cause: cause.to_owned() }, now_us);
            } else if record.is_abandoned() && record.ask.is_some() {
                self.fail(key, &Failure::Cancelled, now_us);
            } else {
                self.enter_queue(key);
            }
        }
    }
}
