//! A device that can be told to stop at a gate, to break under one input, or to answer wrongly.

use std::sync::Arc;

use hyperion_ops::{
    Backend, BackendError, BufferId, DeviceInfo, Reference, Step, WeightId, Weights,
};
use parking_lot::{Condvar, Mutex};

/// How a device breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Lost,
    Panic,
}

#[derive(Debug, Default)]
struct State {
    /// Runs wait while it is closed.
    closed: bool,
    /// Runs that have come to the closed gate.
    at_gate: u64,
    /// Bytes written that break the next run, how, and how often.
    poison: Option<(Vec<u8>, Fault, u32)>,
    poisoned: bool,
    lies: bool,
    runs: u64,
    seen: Vec<Vec<u8>>,
}

/// The strings of a [`Scripted`] device, held by the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Arc<(Mutex<State>, Condvar)>);

impl Script {
    /// The next run stops, and all after it, until [`open`](Self::open).
    pub(crate) fn close(&self) {
        self.0.0.lock().closed = true;
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().closed = false;
        self.0.1.notify_all();
    }

    /// Returns once `count` runs have come to the closed gate, in all.
    pub(crate) fn wait_at_gate(&self, count: u64) {
        let mut state = self.0.0.lock();
        while state.at_gate < count {
            self.0.1.wait(&mut state);
        }
    }

    /// The next `times` runs that read `input` break.
    pub(crate) fn poison(&self, input: &[u8], fault: Fault, times: u32) {
        self.0.0.lock().poison = Some((input.to_vec(), fault, times));
    }

    /// From now on the first byte that is read is wrong.
    pub(crate) fn lie(&self, lies: bool) {
        self.0.0.lock().lies = lies;
    }

    /// Whether a run stands at the closed gate, or has.
    pub(crate) fn is_at_gate(&self) -> bool {
        self.0.0.lock().at_gate > 0
    }

    /// Inputs in the order in which they came.
    pub(crate) fn seen(&self) -> Vec<Vec<u8>> {
        self.0.0.lock().seen.clone()
    }

    /// Runs so far.
    pub(crate) fn runs(&self) -> u64 {
        self.0.0.lock().runs
    }
}

/// The device whose run comes to the closed gate first.
pub(crate) fn first_at_gate(scripts: &[Script]) -> usize {
    loop {
        if let Some(device) = scripts.iter().position(Script::is_at_gate) {
            return device;
        }
        std::thread::yield_now();
    }
}

/// The reference, on strings.
#[derive(Debug)]
pub(crate) struct Scripted {
    info: DeviceInfo,
    inner: Reference,
    script: Script,
}

/// A device that says it has `memory_bytes`, and its strings.
pub(crate) fn scripted(memory_bytes: u64) -> (Scripted, Script) {
    let script = Script::default();
    let inner = Reference::default();
    let info = DeviceInfo { memory_bytes, ..inner.info().clone() };
    (Scripted { info, inner, script: script.clone() }, script)
}

impl Backend for Scripted {
    fn info(&self) -> &DeviceInfo {
        &self.info
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
        let mut state = self.script.0.0.lock();
        let hit = state.poison.as_ref().is_some_and(|(poison, ..)| poison == bytes);
        state.poisoned |= hit;
        state.seen.push(bytes.to_vec());
        drop(state);
        self.inner.write(to, at, bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        let (state, bell) = &*self.script.0;
        let mut state = state.lock();
        state.runs += 1;
        if state.closed {
            state.at_gate += 1;
            bell.notify_all();
            while state.closed {
                bell.wait(&mut state);
            }
        }
        if std::mem::take(&mut state.poisoned) {
            let (_, fault, times) = state.poison.as_mut().unwrap();
            *times -= 1;
            let fault = *fault;
            if *times == 0 {
                state.poison = None;
            }
            drop(state);
            match fault {
                Fault::Lost => return Err(BackendError::Lost("told to".to_owned())),
                Fault::Panic => panic!("told to"),
            }
        }
        drop(state);
        self.inner.run(steps)
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.inner.read(from, at, bytes)?;
        if self.script.0.0.lock().lies {
            bytes[0] ^= 1;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.inner.reset();
    }
}
