//! The fast backend: this process's own threads, with kernels chosen at run time.
//!
//! Start with [`region`] (how a list of steps becomes stages), then [`rows`] and [`heads`] (what a thread
//! does in one). Kernels stand beside the definitions of their stems, written over
//! [`Lanes`](crate::lanes::Lanes); [`products`] is what an instruction set adds to those.
//!
//! Threads share a stage by rows, or attention by sequence and head, in few large parts; they meet at the
//! end of a stage only. Where there are so few rows that reading the weights is what takes time, as in decoding, they share
//! the channels of one linear step after another instead ([`linear`]). A result is one of integers, so neither the cut nor
//! the order can change it.

use alloc::{borrow::ToOwned as _, sync::Arc, vec::Vec};
use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

mod aligned;
mod elements;
mod heads;
mod linear;
mod matrix;
mod products;
mod region;
mod rows;
mod weights;
mod words;
mod worker;

pub(crate) use aligned::Aligned;
pub(crate) use products::Products;

#[cfg(target_arch = "x86_64")]
use crate::{Avx2, Avx512};
use crate::{
    Backend, BackendError, BufferId, DeviceInfo, DeviceKind, Parallel, PoolMode, Sequence, Step,
    View, WeightId, Weights, lanes::portable::Portable,
};
use region::{AttentionStep, Region, RowStep, Stage, stages};
use rows::Shared;
use weights::Packed;
use worker::{Need, ROWS, Room, Worker};

/// Which instructions kernels use; a set that this CPU lacks cannot be had.
#[derive(Clone, Copy, Debug)]
pub enum KernelSet {
    /// Plain loops, for any CPU.
    Portable,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl KernelSet {
    /// The fastest set of this CPU.
    pub fn best() -> Self {
        Self::available().pop().expect("plain loops run anywhere")
    }

    /// Every set of this CPU, slowest first.
    pub fn available() -> Vec<Self> {
        let mut sets = alloc::vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            sets.extend(Avx2::detect().map(Self::Avx2));
            sets.extend(Avx512::detect().map(Self::Avx512));
        }
        sets
    }

    /// The name that `hyperion doctor` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512-vnni",
        }
    }
}

/// The CPU as a device.
pub struct Cpu {
    info: DeviceInfo,
    kernels: KernelSet,
    parallel: Arc<dyn Parallel>,
    used_bytes: u64,
    buffers: Vec<Aligned<i32>>,
    weights: Vec<Option<Packed>>,
    weight_bytes: Vec<u64>,
    context: Aligned<i32>,
    context_len: usize,
    need: Need,
    workers: Vec<Mutex<Room>>,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Cpu {
    /// A device that runs its parts on `parallel`, and takes as much memory as the process gets.
    pub fn new(kernels: KernelSet, parallel: Arc<dyn Parallel>) -> Self {
        Self::with_memory(kernels, parallel, u64::MAX)
    }

    /// A device whose weights, buffers and working room take `memory_bytes` at most.
    pub fn with_memory(kernels: KernelSet, parallel: Arc<dyn Parallel>, memory_bytes: u64) -> Self {
        let info = DeviceInfo {
            kind: DeviceKind::Cpu,
            name: "cpu".to_owned(),
            kernels: kernels.name().to_owned(),
            threads: parallel.threads(),
            memory_bytes,
        };
        Self {
            info,
            kernels,
            parallel,
            used_bytes: 0,
            buffers: Vec::new(),
            weights: Vec::new(),
            weight_bytes: Vec::new(),
            context: Aligned::default(),
            context_len: 0,
            need: Need::default(),
            workers: Vec::new(),
        }
    }

    /// Takes `bytes` of what is left for what `make` makes.
    fn claim<T>(
        &mut self,
        bytes: u64,
        make: impl FnOnce() -> Option<T>,
    ) -> Result<T, BackendError> {
        let free_bytes = self.info.memory_bytes - self.used_bytes;
        if bytes > free_bytes {
            return Err(BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes });
        }
        let refused = BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes: 0 };
        let made = make().ok_or(refused)?;
        self.used_bytes += bytes;
        Ok(made)
    }

    /// Makes sure that every thread has the room that these steps need.
    fn reserve(&mut self, steps: &[Step<'_>], stages: &[Stage<'_>]) -> Result<(), BackendError> {
        let mut need = self.need;
        need.cover(steps, stages, |id| {
            self.weights[id.0 as usize].as_ref().expect("packed weights")
        });
        if need != self.need || self.workers.is_empty() {
            // One for each thread, and one for whoever holds rows that all threads work on.
            let rooms = self.parallel.threads().max(1) + 1;
            self.used_bytes -= self.workers.len() as u64 * self.need.bytes();
            (self.need, self.workers) = (Need::default(), Vec::new());
            let make = || (0..rooms).map(|_| Room::new(need).map(Mutex::new)).collect();
            self.workers = self.claim(rooms as u64 * need.bytes(), make)?;
            self.need = need;
        }
        let context = |stage: &Stage<'_>| match stage {
            Stage::Attention(step) => heads::context_len(*step),
            _ => 0,
        };
        let len = stages.iter().map(context).max().unwrap_or(0);
        if len > self.context_len {
            self.used_bytes -= Aligned::<i32>::bytes(self.context_len);
            (self.context, self.context_len) = (Aligned::default(), 0);
            self.used_bytes += Aligned::<i32>::bytes(0);
            self.context = self.claim(Aligned::<i32>::bytes(len), || Aligned::new(len))?;
            self.used_bytes -= Aligned::<i32>::bytes(0);
            self.context_len = len;
        }
        Ok(())
    }

    fn run_with<K: Products>(&mut self, k: K, steps: &[Step<'_>]) -> Result<(), BackendError> {
        let stages = stages(steps);
        self.reserve(steps, &stages)?;
        for stage in &stages {
            match *stage {
                Stage::Rows(ref region) if region.is_few() => self.few_rows(k, region),
                Stage::Rows(ref region) => self.rows(k, region),
                Stage::Attention(step) => self.attention(k, step),
                Stage::Choose { rows, input, out } => self.choose(rows, input, out),
                Stage::Pool { mode, unit, sequences, input, out } => {
                    self.pool(k, (mode, unit), sequences, input, out);
                }
                Stage::Apart(ref step) => self.apart(k, step)?,
            }
        }
        Ok(())
    }

    fn rows<K: Products>(&mut self, k: K, region: &Region<'_>) {
        let threads = self.parallel.threads().max(1);
        // Equal parts, the same number for every thread.
        let parts = region.rows.div_ceil(ROWS).next_multiple_of(threads).min(region.rows);
        let chunk = region.rows.div_ceil(parts);
        let parts = region.extents.split(&mut self.buffers, chunk);
        let parts: Vec<_> = parts.into_iter().map(Mutex::new).collect();
        let context = self.context.as_slice();
        let shared = Shared { weights: &self.weights, context };
        let workers = &self.workers;
        self.parallel.run(parts.len(), &|part| {
            let (mut part, mut room) = (lock(&parts[part]), free(workers, part));
            let Room { private, worker } = &mut *room;
            let mut part = region.extents.complete(&mut part, private.as_mut_slice());
            for step in &region.steps {
                rows::run(k, shared, *step, &mut part, worker);
            }
        });
    }

    /// Takes all rows through the steps at once; threads share the channels of each linear one.
    fn few_rows<K: Products>(&mut self, k: K, region: &Region<'_>) {
        let mut parts = region.extents.split(&mut self.buffers, region.rows);
        let (lead, rooms) = self.workers.split_last().expect("one more than threads");
        let Room { private, worker } = &mut *lock(lead);
        let mut part = region.extents.complete(&mut parts[0], private.as_mut_slice());
        let shared = Shared { weights: &self.weights, context: self.context.as_slice() };
        for step in &region.steps {
            if let RowStep::Linear { weights, input, out, then } = *step {
                let layer = shared.layer(weights);
                linear::encode(k, layer, &part, input, worker);
                let threads = (&*self.parallel, rooms);
                linear::spread(k, layer, worker, threads, (part.output(out), then));
            } else {
                rows::run(k, shared, *step, &mut part, worker);
            }
        }
    }

    fn attention<K: Products>(&mut self, k: K, step: AttentionStep<'_>) {
        if let Some(cache) = step.cache {
            let mut pages = core::mem::take(&mut self.buffers[cache.buffer.0 as usize]);
            heads::append(k, &self.buffers, step, cache, pages.as_mut_slice());
            self.buffers[cache.buffer.0 as usize] = pages;
        }
        let mut groups = heads::groups(step, self.context.as_mut_slice());
        // Groups differ in length, so threads take them as they get free, in few portions.
        let portions = if self.parallel.threads() > 1 { 8 * self.parallel.threads() } else { 1 };
        let portion = groups.len().div_ceil(portions).max(1);
        let parts: Vec<_> = groups.chunks_mut(portion).map(Mutex::new).collect();
        let (buffers, workers) = (&self.buffers, &self.workers);
        self.parallel.run(parts.len(), &|part| {
            let (mut groups, mut room) = (lock(&parts[part]), free(workers, part));
            for group in groups.iter_mut() {
                heads::run(k, buffers, step, group, &mut room.worker);
            }
        });
    }

    /// Copies rows of any type, byte by byte where they are not words.
    fn choose(&mut self, rows: &[u32], input: View, out: View) {
        let size = input.dtype.bytes();
        let mut bytes = alloc::vec![0; input.width as usize * size];
        for (to, from) in (0..).zip(rows) {
            self.read_bytes(input.buffer, byte(input, *from), &mut bytes);
            self.write_bytes(out.buffer, byte(out, to), &bytes);
        }
    }

    fn pool<K: Products>(
        &mut self,
        k: K,
        (mode, unit): (PoolMode, bool),
        sequences: &[Sequence],
        input: View,
        out: View,
    ) {
        let width = input.width as usize;
        for (to, sequence) in (0..).zip(sequences) {
            let mut room = free(&self.workers, 0);
            let Worker { pooled: sums, row, .. } = &mut room.worker;
            let (sums, row) = (&mut sums[..width], &mut row[..width]);
            sums.fill(0);
            let words = self.buffers[input.buffer.0 as usize].as_slice();
            let start = byte(input, sequence.row) / 4;
            for chosen in elements::pooled(mode, sequence.rows as usize) {
                let x = &words[start + chosen * input.stride as usize..][..width];
                k.vectorize(elements::Sum { x, sums });
            }
            let at = byte(out, to);
            let words = self.buffers[out.buffer.0 as usize].as_mut_slice();
            if unit {
                for (i, y) in elements::pool_unit(sums).enumerate() {
                    words::write_bytes(words, at + 2 * i, &y.to_le_bytes());
                }
            } else {
                let count = if mode == PoolMode::Mean { i64::from(sequence.rows) } else { 1 };
                row.iter_mut()
                    .zip(elements::pool_mean(count, sums))
                    .for_each(|(y, mean)| *y = mean);
                words[at / 4..][..width].copy_from_slice(row);
            }
        }
    }

    /// Runs a step on copies of its inputs.
    fn apart<K: Products>(&mut self, k: K, step: &Step<'_>) -> Result<(), BackendError> {
        let copies = self.buffers.len();
        let [first, second, out] = region::views(step);
        let mut moved = [first, second, out];
        for (i, view) in moved.iter_mut().enumerate() {
            let buffer = self.alloc(4 * u64::from(view.rows) * u64::from(view.width))?;
            let source = *view;
            *view = View { buffer, offset: 0, stride: view.width, ..source };
            if i < 2 {
                self.copy(source, *view);
            }
        }
        let [first, second, copy] = moved;
        let step = match *step {
            Step::Embed { table, .. } => Step::Embed { table, tokens: first, out: copy },
            Step::Position { table, sequences, .. } => {
                Step::Position { table, sequences, input: first, out: copy }
            }
            Step::Norm { weights, shape, .. } => {
                Step::Norm { weights, shape, input: first, out: copy }
            }
            Step::Linear { weights, shape, .. } => {
                Step::Linear { weights, shape, input: first, out: copy }
            }
            Step::Rope { frequencies, shape, sequences, .. } => {
                Step::Rope { frequencies, shape, sequences, input: first, out: copy }
            }
            Step::Activation { table, .. } => Step::Activation { table, input: first, out: copy },
            Step::Softcap { cap, .. } => Step::Softcap { cap, input: first, out: copy },
            Step::Gate { .. } => Step::Gate { gate: first, up: second, out: copy },
            Step::Add { .. } => Step::Add { lhs: first, rhs: second, out: copy },
            Step::Argmax { .. } => Step::Argmax { input: first, out: copy },
            Step::Rows { .. }
            | Step::Pool { .. }
            | Step::Attention { .. }
            | Step::CachedAttention { .. } => {
                unreachable!("these are stages of their own")
            }
        };
        let outcome = self.run_with(k, &[step]);
        self.copy(copy, out);
        for buffer in self.buffers.drain(copies..) {
            self.used_bytes -= Aligned::<i32>::bytes(buffer.as_slice().len());
        }
        outcome
    }

    /// Copies a matrix of words.
    fn copy(&mut self, from: View, to: View) {
        let rows: Vec<u32> = (0..from.rows).collect();
        self.choose(&rows, from, to);
    }

    fn read_bytes(&self, from: BufferId, at: usize, bytes: &mut [u8]) {
        words::read_bytes(self.buffers[from.0 as usize].as_slice(), at, bytes);
    }

    fn write_bytes(&mut self, to: BufferId, at: usize, bytes: &[u8]) {
        words::write_bytes(self.buffers[to.0 as usize].as_mut_slice(), at, bytes);
    }
}

impl Backend for Cpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        let bytes = Packed::bytes(weights);
        let packed = self.claim(bytes, || Packed::new(weights))?;
        self.weights.push(Some(packed));
        self.weight_bytes.push(bytes);
        Ok(WeightId(id(self.weights.len() - 1)))
    }

    fn unpack(&mut self, weights: WeightId) {
        let index = weights.0 as usize;
        self.weights[index].take().expect("unpacked once only");
        self.used_bytes -= self.weight_bytes[index];
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        let out_of_memory = || BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes: 0 };
        let len = usize::try_from(bytes.div_ceil(4)).map_err(|_| out_of_memory())?;
        if len > isize::MAX.unsigned_abs() / 8 {
            return Err(out_of_memory());
        }
        let buffer = self.claim(Aligned::<i32>::bytes(len), || Aligned::new(len))?;
        self.buffers.push(buffer);
        Ok(BufferId(id(self.buffers.len() - 1)))
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.write_bytes(to, usize::try_from(at).expect("inside the buffer"), bytes);
        Ok(())
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        match self.kernels {
            KernelSet::Portable => self.run_with(Portable, steps),
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx2(avx2) => self.run_with(avx2, steps),
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx512(avx512) => self.run_with(avx512, steps),
        }
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.read_bytes(from, usize::try_from(at).expect("inside the buffer"), bytes);
        Ok(())
    }

    fn reset(&mut self) {
        for buffer in self.buffers.drain(..) {
            self.used_bytes -= Aligned::<i32>::bytes(buffer.as_slice().len());
        }
    }
}

/// The part's own lock, which nobody else holds; a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker that no other part uses; there are as many as threads.
fn free(workers: &[Mutex<Room>], part: usize) -> MutexGuard<'_, Room> {
    let unused = workers.iter().find_map(|worker| worker.try_lock().ok());
    unused.unwrap_or_else(|| lock(&workers[part % workers.len()]))
}

/// The byte at which a row of a view starts.
fn byte(view: View, row: u32) -> usize {
    let offset = usize::try_from(view.offset).expect("inside the buffer");
    (offset + row as usize * view.stride as usize) * view.dtype.bytes()
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 buffers and weights")
}
