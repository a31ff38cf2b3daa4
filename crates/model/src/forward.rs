//! The forward pass: a program over a batch on a device, one operator a step.

use hyperion_ops::{Backend, BackendError, BufferId, Sequence, Step, View, WeightId};

use hyperion_primitives::tensor_root_of_leaves;

use crate::{
    Model, ModelError, Tensor,
    plan::Plan,
    program::{Op, Program, Rows, ValueId},
};

/// Outputs from this size on are hashed on the device, if it hashes: below, the way there costs more than the hashing.
const HASHED_THERE_BYTES: usize = 64 << 10;

/// A model loaded onto a device: weights packed, memory reserved.
///
/// It is used with the device that loaded it and no other.
#[derive(Debug)]
pub struct Prepared {
    program: Program,
    manifest: hyperion_verify::Manifest,
    plan: Plan,
    /// Packed weights of each operator that has some.
    weights: Vec<Option<WeightId>>,
    /// One buffer a slot of the plan.
    buffers: Vec<BufferId>,
}

/// Sizes of one batch.
struct Batch {
    sequences: Vec<Sequence>,
    /// Last row of each sequence.
    last_rows: Vec<u32>,
    rows: u32,
}

impl Prepared {
    /// Packs the weights and reserves memory for batches of at most `rows_max` rows.
    ///
    /// # Errors
    ///
    /// When the device has too little memory, or the program draws tokens. What was taken is given back.
    pub fn load(
        model: &Model,
        backend: &mut dyn Backend,
        rows_max: u32,
    ) -> Result<Self, ModelError> {
        let program = model.program().clone();
        if let Some(op) = program.nodes().iter().position(|node| node.op == Op::Sample) {
            return Err(ModelError::Unsupported { op, name: "sample" });
        }
        let plan = Plan::new(&program, rows_max);
        let mut weights = Vec::new();
        for op in 0..u32::try_from(program.nodes().len()).expect("a program has few nodes") {
            let packed = model.with_weights(op, |weights| backend.pack(weights)).transpose();
            match packed {
                Ok(packed) => weights.push(packed),
                Err(error) => {
                    weights.into_iter().flatten().for_each(|id| backend.unpack(id));
                    return Err(error.into());
                }
            }
        }
        let mut prepared =
            Self { program, manifest: *model.manifest(), plan, weights, buffers: Vec::new() };
        if let Err(error) = prepared.reserve(backend) {
            prepared.unload(backend);
            return Err(error.into());
        }
        Ok(prepared)
    }

    /// Reserves the buffers, also anew after the device was [reset](Backend::reset).
    ///
    /// # Errors
    ///
    /// When the device has too little memory.
    pub fn reserve(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        let buffers: Result<_, _> =
            self.plan.slots().iter().map(|bytes| backend.alloc(*bytes)).collect();
        self.buffers = buffers?;
        Ok(())
    }

    /// Gives the packed weights back. Buffers go with the device's [reset](Backend::reset).
    pub fn unload(self, backend: &mut dyn Backend) {
        self.weights.into_iter().flatten().for_each(|id| backend.unpack(id));
    }

    /// Rows of a batch at most.
    pub const fn rows_max(&self) -> u32 {
        self.plan.rows_max()
    }

    /// Runs a batch; outputs come in the order of the inputs, each the bytes that it would have alone.
    ///
    /// `inputs`: little-endian elements of each sequence's input tensor, row-major.
    ///
    /// # Errors
    ///
    /// When an input does not fit the model, the batch has more rows than were planned for, or the device fails.
    pub fn run(
        &self,
        backend: &mut dyn Backend,
        inputs: &[&[u8]],
    ) -> Result<Vec<Tensor>, ModelError> {
        let batch = self.batch(inputs)?;
        self.write(backend, &batch, inputs)?;
        backend.run(&self.steps(&batch))?;
        self.read(backend, &batch).map_err(Into::into)
    }

    /// As [`run`](Self::run), one step a call, so that no backend fuses: every value is really there afterwards.
    ///
    /// # Errors
    ///
    /// As for `run`.
    pub fn run_unfused(
        &self,
        backend: &mut dyn Backend,
        inputs: &[&[u8]],
    ) -> Result<Vec<Tensor>, ModelError> {
        let batch = self.batch(inputs)?;
        self.write(backend, &batch, inputs)?;
        for step in self.steps(&batch) {
            backend.run(&[step])?;
        }
        self.read(backend, &batch).map_err(Into::into)
    }

    fn batch(&self, inputs: &[&[u8]]) -> Result<Batch, ModelError> {
        let max = self.plan.rows_max();
        let mut batch = Batch { sequences: Vec::new(), last_rows: Vec::new(), rows: 0 };
        for (index, input) in inputs.iter().enumerate() {
            let rows = self
                .manifest
                .check_input(input)
                .map_err(|cause| ModelError::Input { index, cause })?;
            let end = u64::from(batch.rows) + u64::from(rows);
            let end = u32::try_from(end)
                .ok()
                .filter(|end| *end <= max)
                .ok_or(ModelError::Rows { got: end, max })?;
            batch.sequences.push(Sequence { row: batch.rows, rows, position: 0 });
            batch.last_rows.push(end - 1);
            batch.rows = end;
        }
        if batch.rows == 0 {
            return Err(ModelError::Rows { got: 0, max });
        }
        Ok(batch)
    }

    fn write(
        &self,
        backend: &mut dyn Backend,
        batch: &Batch,
        inputs: &[&[u8]],
    ) -> Result<(), BackendError> {
        let to = self.view(0, batch).buffer;
        let mut at = 0;
        for input in inputs {
            backend.write(to, at, input)?;
            at += input.len() as u64;
        }
        Ok(())
    }

    fn view(&self, value: ValueId, batch: &Batch) -> View {
        let shape = self.program.shape(value);
        let place = self.plan.place(value);
        let rows = match shape.rows {
            Rows::All => batch.rows,
            Rows::Out => u32::try_from(batch.sequences.len()).expect("no more sequences than rows"),
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

    fn steps<'b>(&self, batch: &'b Batch) -> Vec<Step<'b>> {
        let sequences = batch.sequences.as_slice();
        let mut steps = Vec::with_capacity(self.program.nodes().len());
        for (value, node) in (1..).zip(self.program.nodes()) {
            let read = |at: usize| self.view(node.inputs[at], batch);
            let (input, out) = (read(0), self.view(value, batch));
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
                    Step::Attention { shape, sequences, q: input, k: read(1), v: read(2), out }
                }
                Op::Columns { .. } => continue,
                Op::Activation(table) => Step::Activation { table, input, out },
                Op::Gate => Step::Gate { gate: input, up: read(1), out },
                Op::Add => Step::Add { lhs: input, rhs: read(1), out },
                Op::LastRow => Step::Rows { rows: &batch.last_rows, input, out },
                Op::Pool { mode, unit } => Step::Pool { mode, unit, sequences, input, out },
                Op::Argmax => Step::Argmax { input, out },
                Op::Sample => unreachable!("refused when the model was loaded"),
            });
        }
        steps
    }

    fn read(&self, backend: &mut dyn Backend, batch: &Batch) -> Result<Vec<Tensor>, BackendError> {
        let last = u32::try_from(self.program.nodes().len()).expect("a program has few nodes");
        let view = self.view(last, batch);
        let row_bytes = view.width as usize * view.dtype.bytes();
        let stride = u64::from(view.stride) * view.dtype.bytes() as u64;
        let first = view.offset * view.dtype.bytes() as u64;
        let mut outputs = Vec::with_capacity(batch.sequences.len());
        for (index, sequence) in (0_u32..).zip(&batch.sequences) {
            let (row, rows) = match self.program.output().rows {
                Rows::All => (sequence.row, sequence.rows),
                Rows::Out => (index, 1),
            };
            let mut data = vec![0; row_bytes * rows as usize];
            if stride == row_bytes as u64 {
                backend.read(view.buffer, first + u64::from(row) * stride, &mut data)?;
            } else {
                for (line, at) in data.chunks_exact_mut(row_bytes).zip(u64::from(row)..) {
                    backend.read(view.buffer, first + at * stride, line)?;
                }
            }
            let mut tensor = Tensor::new(view.dtype, [rows.into(), view.width.into()], data);
            if stride == row_bytes as u64 && tensor.data.len() >= HASHED_THERE_BYTES {
                let (at, bytes) = (first + u64::from(row) * stride, tensor.data.len() as u64);
                let leaves = backend.leaves(view.buffer, at, bytes)?;
                tensor.hashed = leaves
                    .and_then(|leaves| tensor_root_of_leaves(tensor.dtype, &tensor.dims, leaves));
            }
            outputs.push(tensor);
        }
        Ok(outputs)
    }
}
