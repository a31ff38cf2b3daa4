//! What the tests of the engine share: tiny models, a device that does as it is told, a clock that stands still.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

pub(crate) mod device;
pub(crate) mod model;

use std::sync::{
    Arc,
    mpsc::{Receiver, channel},
};

use hyperion_engine::{
    Answer, ClaimSink, Engine, EngineConfig, Failure, Job, ManualClock, Pushback, Registry,
    SignError, Signer, Ticket,
};
use hyperion_model::Model;
use hyperion_ops::Backend;
use hyperion_primitives::{Address, B256, U256};
use hyperion_verify::{
    Domain, Request,
    sign::{SigningKey, address, sign},
};
use parking_lot::Mutex;

/// Unix time at which every test begins.
pub(crate) const UNIX_S: u64 = 1_800_000_000;

/// A worker's key in memory.
pub(crate) struct Key(SigningKey);

impl Key {
    pub(crate) fn new() -> Self {
        Self(SigningKey::from_slice(&[7; 32]).unwrap())
    }
}

impl Signer for Key {
    fn address(&self) -> Address {
        address(&self.0)
    }

    fn sign(&self, digest: B256) -> Result<[u8; 65], SignError> {
        Ok(sign(&self.0, &digest))
    }
}

/// Claims as the log's producer gets them, with room for so many more.
#[derive(Clone, Default)]
pub(crate) struct Sink {
    pub(crate) claims: Arc<Mutex<Vec<Arc<Answer>>>>,
    pub(crate) room: Arc<Mutex<Option<usize>>>,
}

impl ClaimSink for Sink {
    fn offer(&self, answer: Arc<Answer>) -> Result<(), Pushback> {
        if let Some(room) = &mut *self.room.lock() {
            *room = room.checked_sub(1).ok_or(Pushback::LogBehind { retry_ms: 1 })?;
        }
        self.claims.lock().push(answer);
        Ok(())
    }
}

pub(crate) fn domain() -> Domain {
    Domain { chain_id: 31_337, verifying_contract: Address::repeat_byte(0x52) }
}

/// An engine and what surrounds it.
pub(crate) struct Setup {
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) sink: Sink,
    pub(crate) models: Vec<Arc<Model>>,
    nonce: Mutex<u64>,
}

pub(crate) type Outcome = Result<Arc<Answer>, Failure>;

impl Setup {
    /// An engine over `devices` that serves `models` as m0, m1, …
    pub(crate) fn new(
        config: EngineConfig,
        models: Vec<Arc<Model>>,
        devices: Vec<Box<dyn Backend>>,
    ) -> Self {
        Self::with_drafts(config, models, devices, &[])
    }

    /// As [`new`](Self::new), with models that draft for others.
    pub(crate) fn with_drafts(
        config: EngineConfig,
        models: Vec<Arc<Model>>,
        devices: Vec<Box<dyn Backend>>,
        drafts: &[(&str, &str)],
    ) -> Self {
        let mut registry = Registry::new();
        for (index, model) in models.iter().enumerate() {
            registry.add(&format!("m{index}"), Arc::clone(model)).unwrap();
        }
        for (alias, draft) in drafts {
            registry.set_draft(alias, draft).unwrap();
        }
        let (clock, sink) = (Arc::new(ManualClock::new(UNIX_S)), Sink::default());
        let offered = Box::new(sink.clone());
        let engine = Engine::new(
            config,
            registry,
            devices,
            Arc::new(Key::new()),
            domain(),
            clock.clone(),
            offered,
        );
        Self { engine: engine.unwrap(), clock, sink, models, nonce: Mutex::new(0) }
    }

    /// One device, one classifier.
    pub(crate) fn classifier(config: EngineConfig, device: impl Backend + 'static) -> Self {
        Self::new(config, vec![model::classifier(1)], vec![Box::new(device)])
    }

    /// A job with a nonce of its own.
    pub(crate) fn job(&self, input: &[u8]) -> Job {
        let mut nonce = self.nonce.lock();
        *nonce += 1;
        let nonce = U256::from(*nonce);
        self.job_with(Request { nonce, deadline: u64::MAX, ..Request::default() }, input)
    }

    pub(crate) fn job_with(&self, request: Request, input: &[u8]) -> Job {
        self.engine.complete(self.models[0].id(), request, input.into()).unwrap()
    }

    /// Submits and gives the end of a channel at which the outcome will arrive.
    pub(crate) fn submit(&self, job: Job) -> (Ticket, Receiver<Outcome>) {
        self.try_submit(job).unwrap()
    }

    pub(crate) fn try_submit(&self, job: Job) -> Result<(Ticket, Receiver<Outcome>), Pushback> {
        let (tell, told) = channel();
        self.engine
            .submit(job, Box::new(move |outcome| drop(tell.send(outcome))))
            .map(|ticket| (ticket, told))
    }

    /// Moves the clock and makes everybody look.
    pub(crate) fn advance_us(&self, us: u64) {
        self.clock.advance_us(us);
        self.engine.tick();
    }
}

/// Two devices that hold one classifier.
pub(crate) fn two(config: EngineConfig) -> (Setup, [device::Script; 2]) {
    let [(one, first), (other, second)] = [(); 2].map(|()| device::scripted(u64::MAX));
    let devices: Vec<Box<dyn Backend>> = vec![Box::new(one), Box::new(other)];
    (Setup::new(config, vec![model::classifier(1)], devices), [first, second])
}

/// The defaults without what a jumping clock would set off, and without the suite, which takes the definitions
/// seconds.
pub(crate) fn config() -> EngineConfig {
    EngineConfig { suite: false, lease_us: u64::MAX, probe_us: u64::MAX, ..EngineConfig::default() }
}
