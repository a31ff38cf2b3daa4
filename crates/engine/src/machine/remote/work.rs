//! A worker's leases: drawn, renewed, delivered, given back, ended; and the known questions between them.

use std::{collections::BTreeMap, sync::Arc};

use hyperion_model::Tensor;

use super::{
    super::{
        JobKey, LeaseId, Machine, Work,
        device::{Device, DeviceIndex, Duty},
        lease::Finished,
    },
    Asked, Delivered, End, Fault, Leased, Order, Seat, Terms, WORKER_JOBS_MAX,
};
use crate::Class;

/// Microseconds for which a result that comes after its lease is still compared.
const LATE_US: u64 = 600_000_000;

impl Machine {
    /// What to tell a worker next. A claim under a lease that begins now is to have this `challenge_until`.
    pub fn draw(&mut self, seat: Seat, challenge_until: u64, now_us: u64) -> Order {
        self.expire(now_us);
        if self.stopped {
            return Order::End(End::Stopped);
        }
        let device = &mut self.devices[seat.device];
        let Some(remote) = &mut device.remote else { return Order::Wait(None) };
        if let Some((why, _)) = &remote.barred {
            return Order::End(End::Barred(why.clone()));
        }
        if remote.session != Some(seat.session) {
            return Order::End(End::Superseded);
        }
        if let Some(lease) = remote.to_cancel.pop() {
            return Order::Cancel(lease);
        }
        let since_us = match device.duty {
            Duty::Idle { since_us } => since_us,
            Duty::Out { .. } if remote.asked_until_us.is_none_or(|until_us| until_us <= now_us) => {
                let until_us = now_us.saturating_add(self.lease_us);
                remote.asked_until_us = Some(until_us);
                return self.ask_all(seat.device);
            }
            Duty::Out { .. }
            | Duty::Probing { .. }
            | Duty::Busy { .. }
            | Duty::Generating { .. } => {
                return self.ask_next(seat.device);
            }
        };
        if let Some(key) = self.next_job(seat.device) {
            return Order::Lease(Box::new(self.lease_to(
                seat.device,
                key,
                challenge_until,
                now_us,
            )));
        }
        let idle = self.devices[seat.device].remote.as_ref().is_some_and(|remote| remote.held == 0);
        if !idle {
            return Order::Wait(None);
        }
        let probe_us = since_us.saturating_add(self.probe_us);
        if probe_us > now_us {
            return Order::Wait(Some(probe_us));
        }
        let until_us = now_us.saturating_add(self.lease_us);
        self.devices[seat.device].duty = Duty::Probing { until_us };
        self.ask_all(seat.device)
    }

    /// Begins to ask a worker the known question of each of its models.
    fn ask_all(&mut self, device: DeviceIndex) -> Order {
        let at = &mut self.devices[device];
        let held = at.holds.iter().enumerate().filter(|(_, holds)| **holds);
        let to_ask = held.map(|(model, _)| model).collect();
        let remote = at.remote.as_mut().expect("a worker's device");
        (remote.to_ask, remote.asked) = (to_ask, BTreeMap::new());
        self.ask_next(device)
    }

    fn ask_next(&mut self, device: DeviceIndex) -> Order {
        let remote = self.devices[device].remote.as_mut().expect("a worker's device");
        let Some(model) = remote.to_ask.pop() else { return Order::Wait(remote.asked_until_us) };
        self.drawn += 1;
        remote.asked.insert(self.drawn, Asked { model, answered: false });
        Order::Probe { probe: self.drawn, model }
    }

    /// An answer to a known question has come: the model it is about, if the worker was asked and has not answered yet.
    pub fn probe_answered(&mut self, seat: Seat, probe: u64) -> Option<usize> {
        let asked = self.seated(seat)?.asked.get_mut(&probe)?;
        (!std::mem::replace(&mut asked.answered, true)).then_some(asked.model)
    }

    /// A worker answered a known question rightly. With the last one it is in service.
    pub fn probe_right(&mut self, seat: Seat, probe: u64, now_us: u64) {
        let Some(remote) = self.seated(seat) else { return };
        if remote.asked.remove(&probe).is_none() {
            return;
        }
        self.stats.devices[seat.device].probes += 1;
        let device = &mut self.devices[seat.device];
        let remote = device.remote.as_mut().expect("it has a seat");
        if !remote.asked.is_empty() || !remote.to_ask.is_empty() {
            return;
        }
        // A question from before it went out of service does not bring it back.
        let is_tested = remote.asked_until_us.take().is_some();
        if is_tested || matches!(device.duty, Duty::Probing { .. }) {
            device.duty = Duty::Idle { since_us: now_us };
            self.wake_all();
        }
    }

    /// The job whose turn it is at a worker: the oldest of the highest class, of models for which it has room. What an
    /// idle device here is about to take stays here.
    fn next_job(&self, device: DeviceIndex) -> Option<JobKey> {
        let remote = self.devices[device].remote.as_ref()?;
        if !remote.takes_work() || remote.held >= WORKER_JOBS_MAX {
            return None;
        }
        [Class::Paid, Class::Free].into_iter().find_map(|class| {
            let models = remote.credits.iter().enumerate().filter(|(_, slots)| **slots > 0);
            let heads = models.filter_map(|(model, _)| {
                let head = self.eligible(device, model, class).next()?;
                (!self.is_taken_here(model, class, head)).then_some(head)
            });
            heads.min()
        })
    }

    /// Whether an idle device here may run the job: it has been woken for it.
    fn is_taken_here(&self, model: usize, class: Class, job: JobKey) -> bool {
        let idle = |device: &Device| {
            device.is_local() && device.holds[model] && matches!(device.duty, Duty::Idle { .. })
        };
        let mut idle = self.devices.iter().enumerate().filter(|(_, device)| idle(device));
        idle.any(|(at, _)| self.eligible(at, model, class).any(|key| key == job))
    }

    fn lease_to(
        &mut self,
        device: DeviceIndex,
        key: JobKey,
        challenge_until: u64,
        now_us: u64,
    ) -> Leased {
        let model = self.jobs[&key].work.model;
        let lease = self.lease(device, model, vec![key], now_us).lease;
        let record = &self.jobs[&key];
        let Work { content, input, rows, .. } = &record.work;
        let leased = Leased {
            lease,
            job: key,
            model,
            ask: Arc::clone(record.ask.as_ref().expect("only requests go to other hosts")),
            content: *content,
            input: Arc::clone(input),
            rows: *rows,
            attempt: record.attempts,
            challenge_until,
        };
        let until_us = now_us.saturating_add(self.worker_lease_us.min(self.lease_us));
        self.lease_ends.insert((until_us, lease));
        let held = self.leases.get_mut(&lease).expect("it was leased above");
        held.terms = Some(Terms { leased: leased.clone(), until_us, ended: false });
        let remote = self.devices[device].remote.as_mut().expect("a worker's device");
        remote.held += 1;
        remote.credits[model] -= 1;
        if self.models[model].queue.len() > 0 {
            self.wake(model);
        }
        leased
    }

    /// A worker still is at these jobs. No renewal makes a lease longer than a device may be silent.
    pub fn renew(&mut self, seat: Seat, leases: &[LeaseId], now_us: u64) {
        if self.seated(seat).is_none() {
            return;
        }
        for lease in leases {
            let Some(held) = self.leases.get_mut(lease) else { continue };
            let latest_us = held.since_us.saturating_add(self.lease_us);
            let Some(terms) = &mut held.terms else { continue };
            if held.device == seat.device && !terms.ended {
                let until_us = now_us.saturating_add(self.worker_lease_us).min(latest_us);
                self.lease_ends.remove(&(terms.until_us, *lease));
                self.lease_ends.insert((until_us, *lease));
                terms.until_us = until_us;
            }
        }
    }

    /// Takes a job back; a result that comes all the same is compared.
    pub(super) fn end_lease(&mut self, lease: LeaseId, why: &str, now_us: u64) {
        let Some(held) = self.leases.get_mut(&lease) else { return };
        let Some(terms) = held.terms.as_mut().filter(|terms| !terms.ended) else { return };
        terms.ended = true;
        self.lease_ends.remove(&(terms.until_us, lease));
        terms.until_us = now_us.saturating_add(LATE_US);
        self.lease_ends.insert((terms.until_us, lease));
        let device = held.device;
        // Its estimate counts what runs; this runs for nobody.
        held.rows = 0;
        self.stats.leases_ended += 1;
        self.let_go_of(device, now_us);
        self.give_back(lease, why, now_us);
        self.wake_all();
    }

    /// A worker holds a job less.
    fn let_go_of(&mut self, device: DeviceIndex, now_us: u64) {
        let at = &mut self.devices[device];
        if let Some(remote) = &mut at.remote {
            remote.held -= 1;
        }
        if let Duty::Idle { since_us } = &mut at.duty {
            *since_us = now_us;
        }
    }

    /// Ends leases whose time is over, and forgets those that ended long ago.
    pub(in crate::machine) fn expire_leases(&mut self, now_us: u64) {
        while let Some((at_us, lease)) = self.lease_ends.first().copied()
            && at_us <= now_us
        {
            let Some(held) = self.leases.get(&lease) else {
                self.lease_ends.remove(&(at_us, lease));
                continue;
            };
            let device = held.device;
            if held.terms.as_ref().is_none_or(|terms| terms.ended) {
                self.lease_ends.remove(&(at_us, lease));
                self.leases.remove(&lease);
                continue;
            }
            let why = "the worker has been silent about a job for longer than a lease";
            self.stats.devices_lost += 1;
            self.devices[device].out(why);
            self.end_lease(lease, why, now_us);
            self.effects.wake.push(device);
            self.wake_all();
        }
    }

    /// Tells a worker that nobody waits for a job any more.
    pub(in crate::machine) fn call_off(&mut self, lease: LeaseId) {
        let Some(held) = self.leases.get(&lease) else { return };
        let device = held.device;
        if let Some(remote) = &mut self.devices[device].remote {
            remote.to_cancel.push(lease);
            self.effects.wake.push(device);
        }
    }

    /// What a worker's result under this lease has to be about; `None` when nobody knows the lease any more.
    pub fn leased(&self, seat: Seat, lease: LeaseId) -> Option<Leased> {
        let held = self.leases.get(&lease).filter(|held| held.device == seat.device)?;
        held.terms.as_ref().map(|terms| terms.leased.clone())
    }

    /// A worker's result, its claim checked. The first result of a job counts; a later one is compared with it.
    pub fn deliver(
        &mut self,
        seat: Seat,
        lease: LeaseId,
        output: Arc<Tensor>,
        now_us: u64,
    ) -> Delivered {
        if self.seated(seat).is_none() || self.leased(seat, lease).is_none() {
            return Delivered::default();
        }
        let Some(held) = self.leases.remove(&lease) else { return Delivered::default() };
        let Some(terms) = held.terms else { return Delivered::default() };
        self.lease_ends.remove(&(terms.until_us, lease));
        if !terms.ended {
            self.let_go_of(seat.device, now_us);
        }
        let took_us = now_us.saturating_sub(held.since_us);
        self.note_run(seat.device, held.model, terms.leased.rows.into(), took_us);
        let key = terms.leased.job;
        let is_known = self.jobs.contains_key(&key);
        let mut finished = Finished::default();
        self.result(key, seat.device, output, now_us, &mut finished);
        let (to_sign, dispute) = (finished.to_sign.pop(), finished.disputes.pop());
        let duplicate = is_known && to_sign.is_none() && dispute.is_none();
        Delivered { to_sign, dispute, duplicate }
    }

    /// A worker gives a job back.
    pub fn failed(&mut self, seat: Seat, lease: LeaseId, fault: Fault, why: &str, now_us: u64) {
        if self.seated(seat).is_none() {
            return;
        }
        let Some(leased) = self.leased(seat, lease) else { return };
        let device = &mut self.devices[seat.device];
        let remote = device.remote.as_mut().expect("it has a seat");
        match fault {
            Fault::Refused | Fault::Cancelled => {}
            Fault::NoMemory => remote.credits[leased.model] = 0,
            Fault::Missing => device.holds[leased.model] = false,
            Fault::Lost => {
                device.out(why);
                self.stats.devices_lost += 1;
                self.effects.wake.push(seat.device);
            }
        }
        self.end_lease(lease, why, now_us);
        self.wake_all();
    }
}
