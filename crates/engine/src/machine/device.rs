//! Which device does what, and which does nothing.

use super::{Batch, JobKey, Joined, LeaseId, Machine, Record, generation::Answers, remote::Remote};
use crate::{
    Class, Failure,
    batch::{has_room, is_due},
};

/// Milliseconds after which a device that failed its self-test is tested again.
pub const RETEST_MS: u64 = 1_000;
/// Milliseconds in which the scalar reference has probably spoken.
pub(crate) const REFEREE_MS: u64 = 5_000;
/// Milliseconds in which the log's producer has probably caught up.
pub(crate) const LOG_RETRY_MS: u64 = 200;
/// Failed self-tests in a row after which jobs no longer wait for a device.
const TESTS_MAX: u32 = 3;

/// Place of a device: first those that the engine was given, then workers in the order in which they first attached.
pub type DeviceIndex = usize;

/// What a device does next.
#[derive(Debug)]
pub enum Take {
    /// Run this.
    Batch(Batch),
    /// Take this answer in.
    Join(Joined),
    /// Give these answers up, then run a step of each generator that has any.
    Step(Vec<LeaseId>),
    /// Answer a known question: the device has been idle for long.
    Probe,
    /// Sleep until woken, or until this time.
    Wait(Option<u64>),
    /// Pass the self-test and load the models, then say [`Machine::up`].
    Test,
    /// Go home.
    Stop,
}

#[derive(Debug)]
pub(super) enum Duty {
    /// Out of service.
    Out {
        reason: String,
        failed_tests: u32,
    },
    Idle {
        since_us: u64,
    },
    Busy {
        lease: LeaseId,
        until_us: u64,
    },
    Probing {
        until_us: u64,
    },
    /// At answers, and at no batch.
    Generating {
        until_us: u64,
    },
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) holds: Vec<bool>,
    /// Of a worker: never busy, since it holds several leases at a time.
    pub(super) duty: Duty,
    /// Why it has to be tested after its batch.
    pub(super) condemned: Option<&'static str>,
    /// Answers that it generates.
    pub(super) answers: Answers,
    /// For a worker on another host.
    pub(super) remote: Option<Remote>,
}

impl Device {
    pub(super) fn new(holds: Vec<bool>) -> Self {
        Self {
            holds,
            duty: Duty::Out { reason: "starting".to_owned(), failed_tests: 0 },
            condemned: None,
            answers: Answers::default(),
            remote: None,
        }
    }

    /// Takes it out of service until it passes its test.
    pub(super) fn out(&mut self, reason: &str) {
        self.duty = Duty::Out { reason: reason.to_owned(), failed_tests: 0 };
        if let Some(remote) = &mut self.remote {
            remote.forget_asking();
        }
    }

    pub(super) const fn is_local(&self) -> bool {
        self.remote.is_none()
    }

    pub(super) const fn is_in_service(&self) -> bool {
        !matches!(self.duty, Duty::Out { .. })
    }

    pub(super) fn reason(&self) -> String {
        match &self.duty {
            Duty::Out { reason, .. } => reason.clone(),
            _ => String::new(),
        }
    }

    /// Whether it is in service, holds the model and takes work.
    pub(super) fn serves(&self, model: usize) -> bool {
        let takes = self.remote.as_ref().is_none_or(Remote::takes_work);
        self.holds[model] && self.is_in_service() && takes
    }

    /// Whether a job may still hope for it.
    fn may_serve(&self, model: usize) -> bool {
        let hopeless = matches!(self.duty, Duty::Out { failed_tests: TESTS_MAX.., .. });
        let barred = self.remote.as_ref().is_some_and(Remote::is_barred);
        self.holds[model] && !hopeless && !barred
    }
}

impl Machine {
    /// A device passed its self-test and has loaded its models.
    pub fn up(&mut self, device: DeviceIndex, now_us: u64) {
        self.devices[device].duty = Duty::Idle { since_us: now_us };
        self.devices[device].condemned = None;
        self.effects.wake.push(device);
    }

    /// A device failed its self-test, or could not load.
    pub fn test_failed(&mut self, device: DeviceIndex, why: &str, now_us: u64) {
        let failed_tests = match self.devices[device].duty {
            Duty::Out { failed_tests, .. } => failed_tests.saturating_add(1),
            _ => 1,
        };
        self.devices[device].duty = Duty::Out { reason: why.to_owned(), failed_tests };
        for model in 0..self.models.len() {
            let hopes = |local: bool| {
                let mut able = self.devices.iter().filter(|device| device.may_serve(model));
                able.any(|device| device.is_local() || !local)
            };
            let (here, anywhere) = (hopes(true), hopes(false));
            let is_lost = |key: &JobKey| !(here || anywhere && self.jobs[key].travels());
            let keys: Vec<JobKey> = self.models[model].queue.keys().filter(is_lost).collect();
            for key in keys {
                let attempts = self.jobs[&key].attempts;
                self.leave_queue(key);
                self.fail(key, &Failure::NoWorker { attempts, cause: why.to_owned() }, now_us);
            }
        }
    }

    /// A device failed under its work: the work goes back to the front of its line, or fails after
    /// [`LEASES_MAX`](super::LEASES_MAX) such losses. The device is out of service until
    /// [`up`](Self::up).
    pub fn lost(&mut self, device: DeviceIndex, cause: &str, now_us: u64) {
        self.stats.devices_lost += 1;
        let duty = Duty::Out { reason: cause.to_owned(), failed_tests: 0 };
        if let Duty::Busy { lease, .. } = std::mem::replace(&mut self.devices[device].duty, duty) {
            self.give_back(lease, cause, now_us);
        }
        self.close_answers(device, cause, now_us);
        // A lease that had ended before is closed too: its device will not report any more.
        self.leases.retain(|_, lease| lease.device != device);
        self.wake_all();
    }

    /// A device answered a known question rightly.
    pub fn probed(&mut self, device: DeviceIndex, now_us: u64) {
        if matches!(self.devices[device].duty, Duty::Probing { .. }) {
            self.devices[device].duty = Duty::Idle { since_us: now_us };
            self.stats.devices[device].probes += 1;
        }
    }

    /// Ends the service of a device until its self-test: at once, or after its batch.
    pub(super) fn condemn(&mut self, device: DeviceIndex, why: &'static str) {
        let at = &mut self.devices[device];
        match at.duty {
            Duty::Out { .. } => {}
            Duty::Busy { .. } | Duty::Generating { .. } => at.condemned = Some(why),
            Duty::Idle { .. } | Duty::Probing { .. } => {
                at.out(why);
                self.effects.wake.push(device);
                self.wake_all();
            }
        }
    }

    /// Ends the work of a device on a lease, if that is what it is at.
    pub(super) fn idle(&mut self, device: DeviceIndex, lease: LeaseId, now_us: u64) {
        let at = &mut self.devices[device];
        if !matches!(at.duty, Duty::Busy { lease: held, .. } if held == lease) {
            return;
        }
        at.duty = match at.condemned.take() {
            None => Duty::Idle { since_us: now_us },
            Some(why) => Duty::Out { reason: why.to_owned(), failed_tests: 0 },
        };
        if at.is_in_service() {
            self.settle_duty(device, now_us);
        } else {
            let why = self.devices[device].reason();
            self.close_answers(device, &why, now_us);
            self.wake_all();
        }
    }

    /// What a device does next. Asked again, it may say otherwise.
    pub fn take(&mut self, device: DeviceIndex, now_us: u64) -> Take {
        // Nothing begins whose deadline has passed.
        self.expire(now_us);
        let since_us = match self.devices[device].duty {
            _ if self.stopped => return Take::Stop,
            Duty::Out { .. } => return Take::Test,
            Duty::Idle { since_us } => since_us,
            Duty::Generating { .. } => now_us,
            Duty::Busy { .. } | Duty::Probing { .. } => return Take::Wait(None),
        };
        if self.devices[device].answers.owes_step {
            return self.step(device, now_us);
        }
        self.make_way(device);
        let next = self.next_line(device, now_us);
        let answers = !self.devices[device].answers.is_empty();
        if let Some((model, class)) = next {
            if self.models[model].answers_max > 0 {
                return Take::Join(self.join(device, model, class, now_us));
            }
            self.devices[device].answers.owes_step = answers;
            let keys = self.form(device, model, class);
            let until_us = now_us.saturating_add(self.lease_us);
            let batch = self.lease(device, model, keys, now_us);
            self.devices[device].duty = Duty::Busy { lease: batch.lease, until_us };
            if self.models[model].queue.len() > 0 {
                self.wake(model);
            }
            return Take::Batch(batch);
        }
        if answers {
            return self.step(device, now_us);
        }
        let probe_us = since_us.saturating_add(self.probe_us);
        if probe_us <= now_us {
            let until_us = now_us.saturating_add(self.lease_us);
            self.devices[device].duty = Duty::Probing { until_us };
            return Take::Probe;
        }
        Take::Wait(
            self.next_due_us(device).map_or(Some(probe_us), |due_us| Some(due_us.min(probe_us))),
        )
    }

    /// The model whose turn it is on this device, and the class that earned it the turn: the oldest job of the
    /// highest class.
    pub(super) fn next_line(&self, device: DeviceIndex, now_us: u64) -> Option<(usize, Class)> {
        Class::ALL.into_iter().find_map(|class| {
            let candidates = (0..self.models.len()).filter_map(|model| {
                let key = self.eligible(device, model, class).next()?;
                let is_due = if self.models[model].answers_max > 0 {
                    self.may_join(device, model, key)
                } else {
                    class == Class::Chain || self.is_model_due(device, model, now_us)
                };
                is_due.then_some((key, model))
            });
            candidates.min().map(|(_, model)| (model, class))
        })
    }

    /// Jobs of a line that this device may run, in order. A job avoids the device it was lost on while another
    /// that may run it serves its model.
    pub(super) fn eligible(
        &self,
        device: DeviceIndex,
        model: usize,
        class: Class,
    ) -> impl Iterator<Item = JobKey> {
        let (held, is_local) = (self.devices[device].holds[model], self.devices[device].is_local());
        let others = |local: bool| {
            let mut others = self.devices.iter().enumerate().filter(|(at, _)| *at != device);
            others.any(|(_, other)| other.serves(model) && (other.is_local() || !local))
        };
        let (others_here, others_anywhere) = (others(true), others(false));
        let line = self.models[model].queue.line(class).keys();
        line.filter(move |key| {
            let record = &self.jobs[key];
            let others = if record.travels() { others_anywhere } else { others_here };
            let avoids = others && record.lost_on == Some(device);
            held && (is_local || record.travels()) && !avoids
        })
    }

    /// Paid and free jobs of a model that this device may run, in the order of service.
    fn shared(&self, device: DeviceIndex, model: usize) -> impl Iterator<Item = JobKey> {
        [Class::Paid, Class::Free]
            .into_iter()
            .flat_map(move |class| self.eligible(device, model, class))
    }

    fn is_model_due(&self, device: DeviceIndex, model: usize, now_us: u64) -> bool {
        let queue = &self.models[model].queue;
        let (paid, free) = (queue.line(Class::Paid), queue.line(Class::Free));
        let (rows, jobs) = (paid.rows() + free.rows(), (paid.len() + free.len()) as u64);
        self.oldest(device, model).is_some_and(|oldest| {
            self.draining
                || oldest.attempts > 0
                || is_due(self.batch, rows, jobs, oldest.accepted_us, now_us)
        })
    }

    /// The job that has waited longest, of those at the heads of the shared lines.
    fn oldest(&self, device: DeviceIndex, model: usize) -> Option<&Record> {
        let heads =
            [Class::Paid, Class::Free].map(|class| self.eligible(device, model, class).next());
        heads.into_iter().flatten().min().map(|key| &self.jobs[&key])
    }

    fn next_due_us(&self, device: DeviceIndex) -> Option<u64> {
        let oldest = (0..self.models.len()).filter_map(|model| self.oldest(device, model));
        oldest.map(|record| record.accepted_us.saturating_add(self.batch.wait_us_max)).min()
    }

    /// The jobs of the next batch. A job that has lost a device runs alone, so that one which breaks devices
    /// takes no others with it.
    fn form(&self, device: DeviceIndex, model: usize, class: Class) -> Vec<JobKey> {
        let mut chosen = Vec::new();
        let mut rows = 0;
        let lines: Box<dyn Iterator<Item = JobKey> + '_> = match class {
            Class::Chain => Box::new(self.eligible(device, model, class)),
            Class::Paid | Class::Free => Box::new(self.shared(device, model)),
        };
        for key in lines {
            let record = &self.jobs[&key];
            if record.attempts > 0 && !chosen.is_empty() {
                continue;
            }
            if !has_room(self.batch, rows, chosen.len() as u64, record.work.rows) {
                break;
            }
            chosen.push(key);
            rows += u64::from(record.work.rows);
            if record.attempts > 0 {
                break;
            }
        }
        chosen
    }

    /// Whether any device in service holds the model.
    pub fn is_served(&self, model: usize) -> bool {
        self.devices.iter().any(|device| device.serves(model))
    }

    /// Whether one of the engine's own devices in service holds the model: a block's call goes to no other.
    pub(super) fn is_served_here(&self, model: usize) -> bool {
        self.devices.iter().any(|device| device.is_local() && device.serves(model))
    }

    /// Wakes one idle device for a model, else the worker with the most room for it.
    pub(super) fn wake(&mut self, model: usize) {
        let idle = |device: &Device| {
            device.is_local() && device.holds[model] && matches!(device.duty, Duty::Idle { .. })
        };
        let local = self.devices.iter().position(idle);
        self.effects.wake.extend(local.or_else(|| self.roomiest(model)));
    }

    /// Wakes every idle device, workers among them: what each may run has changed.
    pub(super) fn wake_all(&mut self) {
        let idle = |(_, device): &(usize, &Device)| matches!(device.duty, Duty::Idle { .. });
        let idle = self.devices.iter().enumerate().filter(idle).map(|(at, _)| at);
        self.effects.wake.extend(idle);
    }

    /// Takes silent devices out of service.
    pub(super) fn expire_devices(&mut self, now_us: u64) {
        for device in 0..self.devices.len() {
            let lease = match self.devices[device].duty {
                Duty::Busy { lease, until_us } if until_us <= now_us => Some(lease),
                Duty::Probing { until_us } | Duty::Generating { until_us }
                    if until_us <= now_us =>
                {
                    None
                }
                _ => continue,
            };
            let reason = "the device has been silent for longer than a lease";
            self.stats.devices_lost += 1;
            self.devices[device].out(reason);
            if let Some(lease) = lease {
                self.give_back(lease, reason, now_us);
            }
            self.close_answers(device, reason, now_us);
            if !self.devices[device].is_local() {
                self.effects.wake.push(device);
            }
            self.wake_all();
        }
    }

    pub(super) fn next_device_us(&self) -> Option<u64> {
        let leases = self.lease_ends.first().map(|(at_us, _)| *at_us);
        let ends = self.devices.iter().filter_map(|device| match device.duty {
            Duty::Busy { until_us, .. }
            | Duty::Probing { until_us }
            | Duty::Generating { until_us } => Some(until_us),
            Duty::Out { .. } | Duty::Idle { .. } => None,
        });
        ends.chain(leases).min()
    }
}
