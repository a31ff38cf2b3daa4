//! What an engine and a door are handed in a bench: a clock, a key, a way out for claims, and nothing for the rest.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hyperion_engine::{Answer, ClaimSink, Clock, Engine, ModelInfo, Pushback, SignError, Signer};
use hyperion_primitives::{Address, B256, ClaimDigest, RequestId};
use hyperion_rpc::{
    auth::Gate,
    door::{Door, Observer, Parts, Prices},
    health::Readiness,
    limits::Limits,
    log::{Checkpoint, LogView, Standing},
    serve::Shutdown,
    status::{Code, Error},
};
use hyperion_verify::sign;
use tokio::sync::watch;

/// Time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// The machine's clocks; the monotonic one begins with it.
#[derive(Debug)]
pub struct RealClock(Instant);

impl RealClock {
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for RealClock {
    fn now_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).expect("a short bench")
    }

    fn unix_s(&self) -> u64 {
        now().as_secs()
    }
}

/// The worker's key.
pub struct Key(sign::SigningKey);

impl Key {
    /// The same in every run.
    pub fn fixed() -> Self {
        Self(sign::SigningKey::from_slice(&[7; 32]).expect("a scalar"))
    }
}

impl Signer for Key {
    fn address(&self) -> Address {
        sign::address(&self.0)
    }

    fn sign(&self, digest: B256) -> Result<[u8; 65], SignError> {
        Ok(sign::sign(&self.0, &digest))
    }
}

/// Sends claims to whoever logs them.
pub struct Sink(pub mpsc::Sender<Arc<Answer>>);

impl ClaimSink for Sink {
    fn offer(&self, answer: Arc<Answer>) -> Result<(), Pushback> {
        self.0.send(answer).map_err(|_| Pushback::Draining)
    }
}

/// A door of this engine with nothing behind the rest.
#[allow(dead_code, reason = "for benches with a door")]
pub fn door(engine: &Engine, clock: &Arc<RealClock>, shutdown: &Shutdown) -> Arc<Door> {
    Door::new(Parts {
        engine: engine.clone(),
        float: None,
        log: Arc::new(Nothing),
        faces: Default::default(),
        prices: Arc::new(Nothing),
        gate: Gate::open(Arc::clone(clock) as _),
        workers: Default::default(),
        limits: Limits::default(),
        clock: Arc::clone(clock) as _,
        readiness: Arc::new(Nothing),
        observer: Arc::new(Nothing),
        shutdown: shutdown.clone(),
    })
}

/// Prices nothing, is always ready, watches nothing, and holds no log.
#[allow(dead_code, reason = "for benches with a door")]
pub struct Nothing;

impl Prices for Nothing {
    fn gas(&self, _: &ModelInfo, _: u64, _: u32) -> Option<u64> {
        None
    }
}

impl Readiness for Nothing {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Observer for Nothing {
    fn answered(&self, _: &'static str, _: &str, _: &'static str, _: Duration) {}
}

#[allow(dead_code, reason = "for benches with a door")]
fn none<T>() -> Result<T, Error> {
    Err(Error::new(Code::Unimplemented, "this bench waits for signatures only"))
}

impl LogView for Nothing {
    fn checkpoints(&self) -> watch::Receiver<Option<Arc<Checkpoint>>> {
        watch::channel(None).1
    }

    fn checkpoint(&self, _: u64) -> Result<Checkpoint, Error> {
        none()
    }

    fn entry(&self, _: u64) -> Result<Vec<u8>, Error> {
        none()
    }

    fn inclusion(&self, _: u64, _: u64) -> Result<Vec<B256>, Error> {
        none()
    }

    fn consistency(&self, _: u64, _: u64) -> Result<Vec<B256>, Error> {
        none()
    }

    fn tile(&self, _: u8, _: u64, _: u16) -> Result<Vec<u8>, Error> {
        none()
    }

    fn entries(&self, _: u64, _: u16) -> Result<Vec<u8>, Error> {
        none()
    }

    fn index_of_leaf(&self, _: B256) -> Result<Option<u64>, Error> {
        none()
    }

    fn claim(&self, _: ClaimDigest) -> Result<Option<Standing>, Error> {
        none()
    }

    fn claim_of(&self, _: RequestId) -> Result<Option<ClaimDigest>, Error> {
        none()
    }
}
