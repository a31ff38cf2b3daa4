//! What a model takes is known before it is loaded, and a device that has less refuses it whole.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use common::Folder;
use hyperion_model::{Model, ModelError, Plan, Prepared};
use hyperion_ops::{
    Backend, BackendError, BufferId, DeviceInfo, Reference, Step, WeightId, Weights,
};
use hyperion_primitives::Mix;

/// Counts what is reserved, and has room for so many buffers.
struct Counting {
    inner: Reference,
    buffers_max: usize,
    reserved: Vec<u64>,
    packed: usize,
}

impl Counting {
    fn new(buffers_max: usize) -> Self {
        Self { inner: Reference::default(), buffers_max, reserved: Vec::new(), packed: 0 }
    }
}

impl Backend for Counting {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        self.packed += 1;
        self.inner.pack(weights)
    }

    fn unpack(&mut self, weights: WeightId) {
        self.packed -= 1;
        self.inner.unpack(weights);
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        if self.reserved.len() == self.buffers_max {
            return Err(BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes: 0 });
        }
        self.reserved.push(bytes);
        self.inner.alloc(bytes)
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write(to, at, bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        self.inner.run(steps)
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.inner.read(from, at, bytes)
    }

    fn reset(&mut self) {
        self.reserved.clear();
        self.inner.reset();
    }
}

fn run_full(prepared: &Prepared, backend: &mut dyn Backend) -> Vec<u8> {
    let input = common::tokens(&mut Mix::new(2), 48);
    prepared.run(backend, &[&input]).unwrap().remove(0).data
}

#[test]
fn the_plan_is_what_is_reserved_and_no_run_reserves_more() {
    let model = Folder::bert().model();
    for rows_max in [48, 64, 500] {
        let mut backend = Counting::new(usize::MAX);
        let prepared = Prepared::load(&model, &mut backend, rows_max).unwrap();
        let plan = Plan::new(model.program(), rows_max);
        assert_eq!(backend.reserved.iter().sum::<u64>(), plan.bytes());
        run_full(&prepared, &mut backend);
        assert_eq!(backend.reserved.iter().sum::<u64>(), plan.bytes());
    }
    let full = Plan::new(model.program(), model.program().context());
    assert_eq!(model.manifest().peak_bytes, full.bytes());
}

#[test]
fn a_device_without_room_keeps_nothing_of_the_model() {
    let model = Folder::bert().model();
    for buffers_max in 0..3 {
        let mut backend = Counting::new(buffers_max);
        let error = Prepared::load(&model, &mut backend, 48).unwrap_err();
        assert!(matches!(error, ModelError::Backend(BackendError::OutOfMemory { .. })), "{error}");
        assert_eq!(backend.packed, 0, "weights were given back");
    }
    let mut backend = Reference::new(1000);
    assert!(Prepared::load(&model, &mut backend, 48).is_err());
}

#[test]
fn memory_comes_and_goes_with_the_model() {
    let model = Folder::bert().model();
    let mut backend = Counting::new(usize::MAX);
    let mut prepared = Prepared::load(&model, &mut backend, 48).unwrap();
    let want = run_full(&prepared, &mut backend);
    // After a device was reset, the weights are still there and buffers are reserved anew.
    backend.reset();
    prepared.reserve(&mut backend).unwrap();
    assert_eq!(run_full(&prepared, &mut backend), want);
    prepared.unload(&mut backend);
    assert_eq!(backend.packed, 0);
}

#[test]
fn weights_that_are_tied_count_once() {
    let model = Folder::bert().model();
    let listed: u64 = model.records().iter().map(|record| record.bytes).sum();
    assert_eq!(model.weights_bytes(), listed, "an encoder ties nothing");
    assert!(model.file_bytes() > listed);
    assert!(Model::tensor(&model, 0, 3).is_none(), "an embedding has three tensors");
}
