//! A program on a device: weights packed, memory reserved, operators turned into steps.

use hyperion_ops::{Backend, BackendError, BufferId, Cache, Sequence, Step, View, WeightId};

use crate::{
    Model, ModelError,
    plan::Plan,
    program::{Op, Program, Rows, ValueId},
};

/// A program with its weights and memory on one device.
#[derive(Debug)]
pub(crate) struct Loaded {
    program: Program,
    plan: Plan,
    /// Packed weights of each operator that has some.
    weights: Vec<Option<WeightId>>,
    /// One buffer a slot of the plan.
    buffers: Vec<BufferId>,
}

/// Sizes of one batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) sequences: Vec<Sequence>,
    /// Rows that produce output.
    pub(crate) chosen: Vec<u32>,
    pub(crate) rows: u32,
}

impl Loaded {
    /// Packs the weights and reserves the plan's memory; what was taken before a refusal is given back.
    pub(crate) fn new(
        model: &Model,
        backend: &mut dyn Backend,
        plan: Plan,
    ) -> Result<Self, ModelError> {
        let program = model.program().clone();
        let mut loaded = Self { program, plan, weights: Vec::new(), buffers: Vec::new() };
        match loaded.take(model, backend) {
            Ok(()) => Ok(loaded),
            Err(error) => {
                loaded.unload(backend);
                Err(error.into())
            }
        }
    }

    fn take(&mut self, model: &Model, backend: &mut dyn Backend) -> Result<(), BackendError> {
        for op in 0..u32::try_from(self.program.nodes().len()).expect("a program has few nodes") {
            let packed = model.with_weights(op, |weights| backend.pack(weights)).transpose()?;
            self.weights.push(packed);
        }
        self.reserve(backend)
    }

    /// Reserves the buffers.
    pub(crate) fn reserve(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        let buffers: Result<_, _> =
            self.plan.slots().iter().map(|bytes| backend.alloc(*bytes)).collect();
        self.buffers = buffers?;
        Ok(())
    }

    /// Gives the packed weights back.
    pub(crate) fn unload(self, backend: &mut dyn Backend) {
        self.weights.into_iter().flatten().for_each(|id| backend.unpack(id));
    }

    pub(crate) const fn program(&self) -> &Program {
        &self.program
    }

    pub(crate) const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where a value of a batch lies.
    pub(crate) fn view(&self, value: ValueId, batch: &Batch) -> View {
        let shape = self.program.shape(value);
        let place = self.plan.place(value);
        let rows = match shape.rows {
            Rows::All => batch.rows,
            Rows::Out => u32::try_from(batch.chosen.len()).expect("no more rows than there are"),
        };
        View {
            buffer: self.buffers[place.slot],
            dtype: shape.dtype,
            offset: place.column.into(),
            rows,
            width: shape.width,
            stride: place.stride,
        }
    }

    /// The steps of a batch; with `caches`, one per attention, keys and values go there and come from there.
    ///
    /// What computes no row is left out, and so are draws, which are the caller's.
    pub(crate) fn steps<'b>(&self, batch: &'b Batch, caches: &[Cache<'b>]) -> Vec<Step<'b>> {
        let sequences = batch.sequences.as_slice();
        let mut caches = caches.iter();
        let mut steps = Vec::with_capacity(self.program.nodes().len());
        for (value, node) in (1..).zip(self.program.nodes()) {
            let read = |at: usize| self.view(node.inputs[at], batch);
            let (input, out) = (read(0), self.view(value, batch));
            if out.rows == 0 {
                continue;
            }
            let packed = || {
                self.weights[value as usize - 1]
                    .expect("the operator has weights, so they were packed")
            };
            steps.push(match node.op {
                Op::Embed { .. } => Step::Embed { table: packed(), tokens: input, out },
                Op::Position { .. } => Step::Position { table: packed(), sequences, input, out },
                Op::Norm(shape) => Step::Norm { weights: packed(), shape, input, out },
                Op::Linear(shape) => Step::Linear { weights: packed(), shape, input, out },
                Op::Rope(shape) => {
                    Step::Rope { frequencies: packed(), shape, sequences, input, out }
                }
                Op::Attention(shape) => {
                    let (q, k, v) = (input, read(1), read(2));
                    match caches.next() {
                        None => Step::Attention { shape, sequences, q, k, v, out },
                        Some(cache) => {
                            let cache = *cache;
                            Step::CachedAttention { shape, sequences, cache, q, k, v, out }
                        }
                    }
                }
                Op::Columns { .. } | Op::Sample => continue,
                Op::Activation(table) => Step::Activation { table, input, out },
                Op::Softcap(cap) => Step::Softcap { cap, input, out },
                Op::Gate => Step::Gate { gate: input, up: read(1), out },
                Op::Add => Step::Add { lhs: input, rhs: read(1), out },
                Op::LastRow => Step::Rows { rows: &batch.chosen, input, out },
                Op::Pool { mode, unit } => Step::Pool { mode, unit, sequences, input, out },
                Op::Argmax => Step::Argmax { input, out },
            });
        }
        steps
    }

    /// Reads `rows` rows of a view from row `row` on.
    pub(crate) fn read(
        backend: &mut dyn Backend,
        view: View,
        row: u32,
        rows: u32,
    ) -> Result<Vec<u8>, BackendError> {
        let row_bytes = view.width as usize * view.dtype.bytes();
        let stride = u64::from(view.stride) * view.dtype.bytes() as u64;
        let first = view.offset * view.dtype.bytes() as u64;
        let mut data = vec![0; row_bytes * rows as usize];
        if stride == row_bytes as u64 {
            backend.read(view.buffer, first + u64::from(row) * stride, &mut data)?;
        } else {
            for (line, at) in data.chunks_exact_mut(row_bytes).zip(u64::from(row)..) {
                backend.read(view.buffer, first + at * stride, line)?;
            }
        }
        Ok(data)
    }
}
