//! Workers on other hosts: devices that hold several jobs at a time, each under a lease, and may go silent.
//!
//! ```text
//! attach --> Out --every known question answered--> Idle <--draw, deliver--> (leases held)
//!             ^                                      |  |
//!             |-- a lease ends, the worker reports a fault, its result differs, it has been idle for long
//!             '-- detach; or barred, for a wrong answer
//! ```
//!
//! A worker says how many jobs of a model it has room for (its credit) and gets at most as many. Each is leased for
//! [`EngineConfig::worker_lease_us`](crate::EngineConfig::worker_lease_us), which heartbeats renew. What a worker held
//! when it went goes back to the front of its line; a result that comes all the same counts if nobody was faster, else
//! it is compared.

use std::{collections::BTreeMap, sync::Arc};

use hyperion_model::Tensor;
use hyperion_ops::DeviceInfo;
use hyperion_primitives::Address;

use super::{
    Ask, Dispute, JobKey, LeaseId, Machine, ToSign, Work,
    device::{Device, DeviceIndex, Duty},
    lease::Finished,
};
use crate::{Class, Content, DeviceStats};

/// Jobs that one worker holds at most, whatever room it says it has.
pub const WORKER_JOBS_MAX: u32 = 1024;
/// Microseconds for which a result that comes after its lease is still compared.
const LATE_US: u64 = 600_000_000;
/// Microseconds for which a worker that answered wrongly may not attach.
const BARRED_US: u64 = 600_000_000;

/// A worker that has proved its key.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Whose claims it signs.
    pub worker: Address,
    /// Per model, whether its weights are resident there.
    pub holds: Vec<bool>,
    /// What it is, for lists and metrics.
    pub info: DeviceInfo,
}

/// Why a worker may not attach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachRefused {
    /// It has answered wrongly.
    #[error("the worker is out of service: {why}; {}", again(*.left_s))]
    Barred {
        /// What it did.
        why: String,
        /// Seconds until it may try again; `None`: not before the node starts anew.
        left_s: Option<u64>,
    },
    /// As many workers are known as may be.
    #[error("{limit} workers are known here, as many as may be")]
    Full {
        /// How many may be.
        limit: usize,
    },
    /// It has none of the models.
    #[error("the worker has none of the models that this node serves")]
    NoModel,
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

fn again(left_s: Option<u64>) -> String {
    left_s.map_or_else(
        || "it may come back once the node was started anew".to_owned(),
        |left_s| format!("it may come back in {left_s} s"),
    )
}

/// One connection of a worker. Once the worker has attached anew, the old one is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    device: DeviceIndex,
    session: u64,
}

impl Seat {
    /// Its place among the devices.
    pub const fn device(self) -> DeviceIndex {
        self.device
    }
}

/// What to tell a worker next.
#[derive(Debug)]
pub enum Order {
    /// Run this, and sign.
    Lease(Box<Leased>),
    /// Answer the known question of this model.
    Probe {
        /// To be named in the answer.
        probe: u64,
        /// Place of the model.
        model: usize,
    },
    /// Nobody wants the answer any more.
    Cancel(LeaseId),
    /// Nothing until woken, or until this time.
    Wait(Option<u64>),
    /// Close the connection.
    End(End),
}

/// Why a worker's connection is to be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The engine has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The worker attached over another connection.
    #[error("a worker with the same key attached over another connection")]
    Superseded,
    /// The worker answered wrongly or broke the rules.
    #[error("the worker is out of service: {0}")]
    Barred(String),
}

/// A job at a worker, with all that its claim will be about.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Its name between node and worker.
    pub lease: LeaseId,
    /// The job.
    pub job: JobKey,
    /// Place of the model.
    pub model: usize,
    /// The request.
    pub ask: Arc<Ask>,
    /// Model, hashes and seed.
    pub content: Content,
    /// Elements of the input tensor.
    pub input: Arc<[u8]>,
    /// Its rows.
    pub rows: u32,
    /// Devices lost under the job before.
    pub attempt: u8,
    /// `challengeUntil` that the claim is to have, Unix seconds.
    pub challenge_until: u64,
}

/// What a worker holds a job under.
#[derive(Debug)]
pub(super) struct Terms {
    leased: Leased,
    until_us: u64,
    /// Whether the job has been taken back; a result may still come.
    ended: bool,
}

/// Why a worker gives a job back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It will not sign for this.
    Refused,
    /// It has no room for the model now.
    NoMemory,
    /// It does not have the model.
    Missing,
    /// It was asked to, or is going.
    Cancelled,
    /// Something broke: it has to answer known questions before it gets more.
    Lost,
}

/// What a worker's result led to.
#[derive(Debug, Default)]
pub struct Delivered {
    /// The job's first result: the worker's claim stands.
    pub to_sign: Option<ToSign>,
    /// It differs from the first.
    pub dispute: Option<Dispute>,
    /// Another result with the same bytes was there already.
    pub duplicate: bool,
}

/// A known question that a worker was asked.
#[derive(Debug)]
struct Asked {
    model: usize,
    /// Whether an answer has come and is being judged: each question has one.
    answered: bool,
}

#[derive(Debug)]
pub(super) struct Remote {
    worker: Address,
    /// The connection that counts.
    session: Option<u64>,
    /// Per model: jobs for which it has room.
    credits: Vec<u32>,
    /// Jobs leased to it.
    held: u32,
    /// Known questions that it is to be asked, and those that it has been.
    to_ask: Vec<usize>,
    asked: BTreeMap<u64, Asked>,
    to_cancel: Vec<LeaseId>,
    draining: bool,
    /// Why it may not attach, and until when.
    barred: Option<(String, u64)>,
}

impl Remote {
    pub(super) const fn takes_work(&self) -> bool {
        self.session.is_some() && !self.draining
    }

    pub(super) const fn is_barred(&self) -> bool {
        self.barred.is_some()
    }
}

impl Machine {
    /// Gives a worker a seat. An earlier connection of the same worker loses its own.
    ///
    /// # Errors
    ///
    /// When the worker has answered wrongly, has none of the models, or there are too many.
    pub fn attach(&mut self, arrival: Arrival, now_us: u64) -> Result<Seat, AttachRefused> {
        let Arrival { worker, holds, info } = arrival;
        if self.stopped {
            return Err(AttachRefused::Stopped);
        }
        if !holds.contains(&true) {
            return Err(AttachRefused::NoModel);
        }
        let known = self.devices.iter().position(|device| {
            device.remote.as_ref().is_some_and(|remote| remote.worker == worker)
        });
        let device = match known {
            Some(device) => self.let_back(device, now_us)?,
            None => self.seat_for(worker, info.clone())?,
        };
        self.drawn += 1;
        let session = self.drawn;
        let at = &mut self.devices[device];
        at.holds = holds;
        at.out("it has just attached");
        let remote = at.remote.as_mut().expect("a worker's device");
        remote.session = Some(session);
        remote.credits.iter_mut().for_each(|slots| *slots = 0);
        remote.asked.clear();
        remote.to_ask.clear();
        remote.to_cancel.clear();
        remote.draining = false;
        self.stats.devices[device].info = info;
        self.effects.wake.push(device);
        Ok(Seat { device, session })
    }

    /// A known worker comes back: whatever an earlier connection of it held is taken back first.
    fn let_back(&mut self, device: DeviceIndex, now_us: u64) -> Result<DeviceIndex, AttachRefused> {
        let remote = self.devices[device].remote.as_mut().expect("a worker's device");
        match &remote.barred {
            Some((why, until_us)) if *until_us > now_us => {
                let left_s =
                    (*until_us < u64::MAX).then(|| (until_us - now_us).div_ceil(1_000_000));
                return Err(AttachRefused::Barred { why: why.clone(), left_s });
            }
            _ => remote.barred = None,
        }
        self.take_all_back(device, "the worker attached anew", now_us);
        Ok(device)
    }

    fn seat_for(
        &mut self,
        worker: Address,
        info: DeviceInfo,
    ) -> Result<DeviceIndex, AttachRefused> {
        let known = self.devices.iter().filter(|device| !device.is_local()).count();
        if known >= self.workers_max {
            return Err(AttachRefused::Full { limit: self.workers_max });
        }
        let mut device = Device::new(vec![false; self.models.len()]);
        device.remote = Some(Remote {
            worker,
            session: None,
            credits: vec![0; self.models.len()],
            held: 0,
            to_ask: Vec::new(),
            asked: BTreeMap::new(),
            to_cancel: Vec::new(),
            draining: false,
            barred: None,
        });
        self.devices.push(device);
        self.stats.devices.push(DeviceStats::new(info));
        Ok(self.devices.len() - 1)
    }

    /// The worker of a seat that is still its own.
    fn seated(&mut self, seat: Seat) -> Option<&mut Remote> {
        let remote = self.devices[seat.device].remote.as_mut()?;
        (remote.session == Some(seat.session)).then_some(remote)
    }

    /// A worker's connection is gone: what it held goes back to the front of its line.
    pub fn detach(&mut self, seat: Seat, why: &str, now_us: u64) {
        let Some(remote) = self.seated(seat) else { return };
        remote.session = None;
        self.devices[seat.device].out(why);
        self.take_all_back(seat.device, why, now_us);
        self.wake_all();
    }

    fn take_all_back(&mut self, device: DeviceIndex, why: &str, now_us: u64) {
        let held: Vec<LeaseId> = self.lease_ends.iter().map(|(_, lease)| *lease).collect();
        for lease in held {
            if self.leases.get(&lease).is_some_and(|lease| lease.device == device) {
                self.end_lease(lease, why, now_us);
            }
        }
    }

    /// How many jobs of a model a worker has room for now; not a difference.
    pub fn credit(&mut self, seat: Seat, model: usize, slots: u32) {
        let Some(remote) = self.seated(seat) else { return };
        remote.credits[model] = slots.min(WORKER_JOBS_MAX);
        self.effects.wake.push(seat.device);
    }

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
            Duty::Out { .. } => return self.ask_all(seat.device, now_us),
            Duty::Probing { .. } | Duty::Busy { .. } => return self.ask_next(seat.device),
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
        self.ask_all(seat.device, now_us)
    }

    /// Begins to ask a worker the known question of each of its models.
    fn ask_all(&mut self, device: DeviceIndex, now_us: u64) -> Order {
        let at = &mut self.devices[device];
        at.duty = Duty::Probing { until_us: now_us.saturating_add(self.lease_us) };
        let held = at.holds.iter().enumerate().filter(|(_, holds)| **holds);
        let to_ask = held.map(|(model, _)| model).collect();
        let remote = at.remote.as_mut().expect("a worker's device");
        (remote.to_ask, remote.asked) = (to_ask, BTreeMap::new());
        self.ask_next(device)
    }

    fn ask_next(&mut self, device: DeviceIndex) -> Order {
        let remote = self.devices[device].remote.as_mut().expect("a worker's device");
        let Some(model) = remote.to_ask.pop() else { return Order::Wait(None) };
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
        let remote = device.remote.as_ref().expect("it has a seat");
        let is_last = remote.asked.is_empty() && remote.to_ask.is_empty();
        if is_last && matches!(device.duty, Duty::Probing { .. }) {
            device.duty = Duty::Idle { since_us: now_us };
            self.wake_all();
        }
    }

    /// Whom to wake for a model when no device of the engine's own is idle.
    pub(super) fn roomiest(&self, model: usize) -> Option<DeviceIndex> {
        let room = |(at, device): (DeviceIndex, &Device)| {
            let remote = device.remote.as_ref()?;
            let slots = remote.credits[model];
            (device.serves(model) && slots > 0 && matches!(device.duty, Duty::Idle { .. }))
                .then_some((slots, at))
        };
        let workers = self.devices.iter().enumerate().filter_map(room);
        workers.max_by_key(|(slots, at)| (*slots, usize::MAX - at)).map(|(_, at)| at)
    }

    /// The job whose turn it is at a worker: the oldest of the highest class, of models for which it has room.
    fn next_job(&self, device: DeviceIndex) -> Option<JobKey> {
        let remote = self.devices[device].remote.as_ref()?;
        if !remote.takes_work() || remote.held >= WORKER_JOBS_MAX {
            return None;
        }
        [Class::Paid, Class::Free].into_iter().find_map(|class| {
            let models = remote.credits.iter().enumerate().filter(|(_, slots)| **slots > 0);
            let heads = models.filter_map(|(model, _)| self.eligible(device, model, class).next());
            heads.min()
        })
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

    /// Microseconds that a lease lasts without a word.
    pub const fn worker_lease_us(&self) -> u64 {
        self.worker_lease_us
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
    fn end_lease(&mut self, lease: LeaseId, why: &str, now_us: u64) {
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
    pub(super) fn expire_leases(&mut self, now_us: u64) {
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
    pub(super) fn call_off(&mut self, lease: LeaseId) {
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

    /// A worker takes no more work and finishes what it holds.
    pub fn draining(&mut self, seat: Seat) {
        if let Some(remote) = self.seated(seat) {
            remote.draining = true;
            self.wake_all();
        }
    }

    /// Jobs that a worker holds; none once its seat is another's.
    pub fn held(&self, seat: Seat) -> u32 {
        let remote = self.devices[seat.device].remote.as_ref();
        let seated = remote.filter(|remote| remote.session == Some(seat.session));
        seated.map_or(0, |remote| remote.held)
    }

    /// A worker broke the rules or answered a known question wrongly: out, and not back for ten minutes.
    pub fn bar(&mut self, seat: Seat, why: &str, now_us: u64) {
        if self.seated(seat).is_some() {
            self.shut_out(seat.device, why, now_us.saturating_add(BARRED_US), now_us);
        }
    }

    /// The scalar reference gives other bytes than this device gave. A device of the engine's own is tested; a worker,
    /// of which nothing more can be found out from here, is out for good.
    pub(super) fn disprove(&mut self, device: DeviceIndex, now_us: u64) {
        let why = "the scalar reference disproved its result";
        self.shut_out(device, why, u64::MAX, now_us);
    }

    fn shut_out(&mut self, device: DeviceIndex, why: &str, until_us: u64, now_us: u64) {
        let at = &mut self.devices[device];
        let Some(remote) = &mut at.remote else { return };
        remote.barred = Some((why.to_owned(), until_us));
        at.out(why);
        self.stats.devices_lost += 1;
        self.take_all_back(device, why, now_us);
        self.effects.wake.push(device);
        self.wake_all();
    }

    /// Puts the counts of workers into `stats`.
    pub(super) fn count_workers(&self, stats: &mut crate::EngineStats) {
        let remotes = self.devices.iter().filter_map(|device| device.remote.as_ref());
        for remote in remotes.filter(|remote| remote.session.is_some()) {
            stats.workers += 1;
            stats.leases += u64::from(remote.held);
        }
    }
}
