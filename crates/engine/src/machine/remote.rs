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

use hyperion_ops::DeviceInfo;
use hyperion_primitives::Address;

use super::{
    Ask, Dispute, JobKey, LeaseId, Machine, ToSign,
    device::{Device, DeviceIndex, Duty},
};
use crate::{Content, DeviceStats};

mod work;

/// Jobs that one worker holds at most, whatever room it says it has.
pub const WORKER_JOBS_MAX: u32 = 1024;
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
    /// While it is out of service and being asked: when the questions are asked anew.
    asked_until_us: Option<u64>,
    to_cancel: Vec<LeaseId>,
    draining: bool,
    /// Why it may not attach, and until when.
    barred: Option<(String, u64)>,
}

impl Remote {
    /// Whatever it was asked, it has to be asked anew.
    pub(super) const fn forget_asking(&mut self) {
        self.asked_until_us = None;
    }

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
            asked_until_us: None,
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

    /// Microseconds that a lease lasts without a word.
    pub const fn worker_lease_us(&self) -> u64 {
        self.worker_lease_us
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
