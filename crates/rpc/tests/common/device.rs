//! A device that stops when told to: the reference, behind a door.

use std::sync::{Arc, Condvar, Mutex};

use hyperion_ops::{
    Backend, BackendError, BufferId, DeviceInfo, Reference, Step, WeightId, Weights,
};

/// Opens and closes a [`Stopping`] device, and counts what it ran.
#[derive(Clone, Default)]
pub(crate) struct Hold(Arc<(Mutex<Held>, Condvar)>);

#[derive(Default)]
struct Held {
    closed: bool,
    waiting: bool,
    runs: u64,
}

impl Hold {
    /// Lets nothing start from here on.
    pub(crate) fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    /// Lets everything go.
    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    /// Whether the device stands still with work in its hands.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.0.lock().unwrap().waiting
    }

    /// Batches that began.
    pub(crate) fn runs(&self) -> u64 {
        self.0.0.lock().unwrap().runs
    }

    fn pass(&self) {
        let mut held = self.0.0.lock().unwrap();
        held.runs += 1;
        held.waiting = held.closed;
        while held.closed {
            held = self.0.1.wait(held).unwrap();
        }
        held.waiting = false;
    }
}

/// The reference device behind a [`Hold`].
pub(crate) struct Stopping {
    inner: Reference,
    hold: Hold,
}

impl Stopping {
    pub(crate) fn new(hold: &Hold) -> Self {
        Self { inner: Reference::new(1 << 30), hold: hold.clone() }
    }
}

impl Backend for Stopping {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        self.inner.pack(weights)
    }

    fn unpack(&mut self, weights: WeightId) {
        self.inner.unpack(weights);
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        self.inner.alloc(bytes)
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write(to, at, bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        self.hold.pass();
        self.inner.run(steps)
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.inner.read(from, at, bytes)
    }

    fn reset(&mut self) {
        self.inner.reset();
    }
}
