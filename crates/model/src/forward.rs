//! The forward pass: a program over a batch on a device, one operator a step.

use hyperion_ops::{Backend, BackendError, Sequence};

use hyperion_primitives::tensor_root_of_leaves;

use crate::{
    Model, ModelError, Tensor,
    loaded::{Batch, Loaded},
    plan::Plan,
    program::{Op, Rows},
};

/// Outputs from this size on are hashed on the device, if it hashes: below, the way there costs more than the hashing.
const HASHED_THERE_BYTES: usize = 64 << 10;

/// A model loaded onto a device: weights packed, memory reserved.
///
/// It is used with the device that loaded it and no other.
#[derive(Debug)]
pub struct Prepared {
    manifest: hyperion_verify::Manifest,
    loaded: Loaded,
}

impl Prepared {
    /// Packs the weights and reserves memory for batches of at most `rows_max` rows.
    ///
    /// # Errors
    ///
    /// When the device has too little memory, or the program draws tokens, for which there is [`Decoder`](crate::Decoder).
    /// What was taken is given back.
    pub fn load(
        model: &Model,
        backend: &mut dyn Backend,
        rows_max: u32,
    ) -> Result<Self, ModelError> {
        if let Some(op) = model.program().nodes().iter().position(|node| node.op == Op::Sample) {
            return Err(ModelError::Unsupported { op, name: "sample" });
        }
        let plan = Plan::new(model.program(), rows_max);
        let loaded = Loaded::new(model, backend, plan)?;
        Ok(Self { manifest: *model.manifest(), loaded })
    }

    /// Reserves the buffers, also anew after the device was [reset](Backend::reset).
    ///
    /// # Errors
    ///
    /// When the device has too little memory.
    pub fn reserve(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        self.loaded.reserve(backend)
    }

    /// Gives the packed weights back. Buffers go with the device's [reset](Backend::reset).
    pub fn unload(self, backend: &mut dyn Backend) {
        self.loaded.unload(backend);
    }

    /// Rows of a batch at most.
    pub const fn rows_max(&self) -> u32 {
        self.loaded.plan().rows_max()
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
        backend.run(&self.loaded.steps(&batch, &[]))?;
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
        for step in self.loaded.steps(&batch, &[]) {
            backend.run(&[step])?;
        }
        self.read(backend, &batch).map_err(Into::into)
    }

    fn batch(&self, inputs: &[&[u8]]) -> Result<Batch, ModelError> {
        let max = self.rows_max();
        let mut batch = Batch::default();
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
            batch.chosen.push(end - 1);
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
        let to = self.loaded.view(0, batch).buffer;
        let mut at = 0;
        for input in inputs {
            backend.write(to, at, input)?;
            at += input.len() as u64;
        }
        Ok(())
    }

    fn read(&self, backend: &mut dyn Backend, batch: &Batch) -> Result<Vec<Tensor>, BackendError> {
        let program = self.loaded.program();
        let last = u32::try_from(program.nodes().len()).expect("a program has few nodes");
        let view = self.loaded.view(last, batch);
        let mut outputs = Vec::with_capacity(batch.sequences.len());
        for (index, sequence) in (0_u32..).zip(&batch.sequences) {
            let (row, rows) = match program.output().rows {
                Rows::All => (sequence.row, sequence.rows),
                Rows::Out => (index, 1),
            };
            let data = Loaded::read(backend, view, row, rows)?;
            let mut tensor = Tensor::new(view.dtype, [rows.into(), view.width.into()], data);
            if tensor.data.len() >= HASHED_THERE_BYTES && view.stride == view.width {
                let first = view.offset + u64::from(row) * u64::from(view.stride);
                let (at, bytes) = (first * view.dtype.bytes() as u64, tensor.data.len() as u64);
                let leaves = backend.leaves(view.buffer, at, bytes)?;
                tensor.hashed = leaves
                    .and_then(|leaves| tensor_root_of_leaves(tensor.dtype, &tensor.dims, leaves));
            }
            outputs.push(tensor);
        }
        Ok(outputs)
    }
}
