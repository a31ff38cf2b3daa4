//! A device: memory, transfers, and what went wrong.

use std::sync::{Arc, Mutex, PoisonError};

use hyperion_ops::BackendError;
use wgpu::{BufferUsages, ErrorFilter, MapMode, PollType};

/// Transfers start and end at multiples of this.
const WORD_BYTES: u64 = 4;

/// An open device.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    /// Bytes that one binding may hold.
    pub(crate) binding_bytes_max: u64,
    /// Where in a buffer a binding may start.
    pub(crate) binding_align: u64,
    /// Workgroups along one side of a dispatch.
    pub(crate) groups_max: u32,
    buffer_bytes_max: u64,
    /// The first thing that went wrong; the device is not used after it.
    fault: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    pub(crate) fn new(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let fault = Arc::new(Mutex::new(None));
        let note = |fault: &Arc<Mutex<Option<String>>>, what: String| {
            fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        };
        let of_errors = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note(&of_errors, error.to_string());
        }));
        let of_loss = Arc::clone(&fault);
        device.set_device_lost_callback(move |reason, text| {
            note(&of_loss, format!("{reason:?}: {text}"));
        });
        let limits = device.limits();
        Self {
            device,
            queue,
            binding_bytes_max: limits.max_storage_buffer_binding_size,
            binding_align: limits.min_storage_buffer_offset_alignment.into(),
            groups_max: limits.max_compute_workgroups_per_dimension,
            buffer_bytes_max: limits.max_buffer_size,
            fault,
        }
    }

    /// An error once anything went wrong.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().map_or(Ok(()), |what| Err(BackendError::Lost(what.clone())))
    }

    /// Memory for kernels, at least one word.
    pub(crate) fn alloc(&self, bytes: u64) -> Result<wgpu::Buffer, BackendError> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        self.buffer(bytes, usage)
    }

    /// Memory with contents, for kernels to read.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Result<wgpu::Buffer, BackendError> {
        let buffer = self.alloc(bytes.len() as u64)?;
        self.write_whole(&buffer, bytes);
        Ok(buffer)
    }

    /// Writes from a buffer's start; the last word is filled up.
    pub(crate) fn write_whole(&self, buffer: &wgpu::Buffer, bytes: &[u8]) {
        let whole = bytes.len() / 4 * 4;
        self.queue.write_buffer(buffer, 0, &bytes[..whole]);
        if whole < bytes.len() {
            let mut last = [0; 4];
            last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.queue.write_buffer(buffer, whole as u64, &last);
        }
    }

    pub(crate) fn buffer(
        &self,
        bytes: u64,
        usage: BufferUsages,
    ) -> Result<wgpu::Buffer, BackendError> {
        let refused = BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes: 0 };
        let size = bytes.max(WORD_BYTES).checked_next_multiple_of(WORD_BYTES);
        let Some(size) = size.filter(|size| *size <= self.buffer_bytes_max) else {
            return Err(refused);
        };
        let memory = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let descriptor =
            wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        match pollster::block_on(memory.pop()) {
            None => Ok(buffer),
            Some(_) => Err(refused),
        }
    }

    /// Writes bytes at any place of a buffer.
    pub(crate) fn write(
        &self,
        to: &wgpu::Buffer,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let aligned = at.is_multiple_of(WORD_BYTES) && bytes.len().is_multiple_of(4);
        if aligned {
            self.queue.write_buffer(to, at, bytes);
            return self.check();
        }
        // Words that only partly change are read first.
        let start = at / WORD_BYTES * WORD_BYTES;
        let end = (at + bytes.len() as u64).next_multiple_of(WORD_BYTES);
        let mut words = self.read_words(to, start, end)?;
        let offset = usize::try_from(at - start).expect("below 4");
        words[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.queue.write_buffer(to, start, &words);
        self.check()
    }

    /// Waits for all work, then copies bytes from any place of a buffer.
    pub(crate) fn read(
        &self,
        from: &wgpu::Buffer,
        at: u64,
        bytes: &mut [u8],
    ) -> Result<(), BackendError> {
        if bytes.is_empty() {
            return self.check();
        }
        let start = at / WORD_BYTES * WORD_BYTES;
        let end = (at + bytes.len() as u64).next_multiple_of(WORD_BYTES);
        let words = self.read_words(from, start, end)?;
        let offset = usize::try_from(at - start).expect("below 4");
        bytes.copy_from_slice(&words[offset..offset + bytes.len()]);
        Ok(())
    }

    fn read_words(
        &self,
        from: &wgpu::Buffer,
        start: u64,
        end: u64,
    ) -> Result<Vec<u8>, BackendError> {
        let size = end - start;
        let staging = self.buffer(size, BufferUsages::MAP_READ | BufferUsages::COPY_DST)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(from, start, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        let lost = |what: String| BackendError::Lost(what);
        let (done, outcome) = std::sync::mpsc::channel();
        staging.slice(..size).map_async(MapMode::Read, move |mapped| {
            let _ = done.send(mapped); // the receiver lives until the poll below returns
        });
        self.device.poll(PollType::wait_indefinitely()).map_err(|error| lost(error.to_string()))?;
        self.check()?;
        let mapped = outcome.recv().map_err(|_| lost("the device went away".to_owned()))?;
        mapped.map_err(|error| lost(error.to_string()))?;
        let range = staging.slice(..size).get_mapped_range();
        let range = range.map_err(|error| lost(error.to_string()))?;
        Ok(range.to_vec())
    }
}
