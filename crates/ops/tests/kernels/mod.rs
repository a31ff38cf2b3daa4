//! What the tests of kernels share: this machine's devices, and steps run on any of them.

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use hyperion_ops::{
    Backend, BufferId, Cpu, KernelSet, LinearShape, Parallel, Reference, Serial, Step, View,
    WeightId, Weights,
};
use hyperion_primitives::{Dtype, w8r};

/// Threads that take parts as they come; more of them than this machine may have cores.
pub(crate) struct Threads(pub(crate) usize);

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= parts {
                    return;
                }
                part(index);
            }
        };
        thread::scope(|scope| (0..self.0).for_each(|_| drop(scope.spawn(work))));
    }
}

/// Every kernel set of this machine on each number of threads; says which sets it lacks.
pub(crate) fn devices(threads: &[usize]) -> Vec<(String, Cpu)> {
    let sets = KernelSet::available();
    for (name, says) in [("avx2", "AVX2"), ("avx512-vnni", "AVX-512 VNNI")] {
        if sets.iter().all(|set| set.name() != name) {
            println!("skipped: no {says}");
        }
    }
    let device = |set: KernelSet, threads: usize| {
        let parallel: Arc<dyn Parallel> =
            if threads == 1 { Arc::new(Serial) } else { Arc::new(Threads(threads)) };
        (format!("{} on {threads} threads", set.name()), Cpu::new(set, parallel))
    };
    let pairs = sets.into_iter().flat_map(|set| threads.iter().map(move |threads| (set, *threads)));
    pairs.map(|(set, threads)| device(set, threads)).collect()
}

/// Asserts that every device gives what the definition gives.
pub(crate) fn equal<T: PartialEq + std::fmt::Debug>(
    threads: &[usize],
    run: impl Fn(&mut dyn Backend) -> T,
) {
    let want = run(&mut Reference::default());
    for (name, mut device) in devices(threads) {
        let got = run(&mut device);
        assert!(got == want, "{name} differs from the definition");
    }
}

/// A matrix without gaps in a buffer of its own.
pub(crate) fn matrix(device: &mut dyn Backend, rows: usize, width: usize) -> View {
    let buffer = device.alloc(4 * (rows * width) as u64).unwrap();
    view(buffer, 0, rows, width)
}

/// A matrix without gaps from element `offset` on.
pub(crate) fn view(buffer: BufferId, offset: usize, rows: usize, width: usize) -> View {
    let [rows, width] = [rows, width].map(|size| u32::try_from(size).unwrap());
    View { buffer, dtype: Dtype::I32, offset: offset as u64, rows, width, stride: width }
}

/// A matrix with these elements.
pub(crate) fn input(device: &mut dyn Backend, width: usize, x: &[i32]) -> View {
    let view = matrix(device, x.len() / width, width);
    write(device, view, x);
    view
}

/// Writes a matrix without gaps.
pub(crate) fn write(device: &mut dyn Backend, view: View, x: &[i32]) {
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    device.write(view.buffer, 4 * view.offset, &bytes).unwrap();
}

/// Reads a matrix, row by row.
pub(crate) fn read(device: &mut dyn Backend, view: View) -> Vec<i32> {
    let mut elements = Vec::new();
    for row in 0..u64::from(view.rows) {
        let mut bytes = vec![0; 4 * view.width as usize];
        let at = 4 * (view.offset + row * u64::from(view.stride));
        device.read(view.buffer, at, &mut bytes).unwrap();
        elements.extend(bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)));
    }
    elements
}

/// A linear layer as its parts.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) shape: LinearShape,
    /// `[n, k]`.
    pub(crate) codes: Vec<i8>,
    pub(crate) mantissas: Vec<u8>,
    pub(crate) exponents: Vec<i8>,
    pub(crate) bias: Vec<i32>,
}

impl Layer {
    pub(crate) fn pack(&self, device: &mut dyn Backend) -> WeightId {
        let (k, depth) = (self.shape.k as usize, self.shape.depth() as usize);
        let mut committed = vec![0; self.shape.n as usize * depth];
        for (bytes, codes) in committed.chunks_mut(depth).zip(self.codes.chunks(k)) {
            let mut padded = codes.to_vec();
            padded.resize(depth, 0);
            w8r::encode(&padded, bytes);
        }
        let weights = Weights::Linear {
            shape: self.shape,
            codes: &committed,
            groups: None,
            mantissas: &self.mantissas,
            exponents: &self.exponents,
            bias: self.shape.bias.then_some(&self.bias),
            smooth: None,
        };
        device.pack(&weights).unwrap()
    }

    /// Applies the layer to rows in one step.
    pub(crate) fn apply(&self, device: &mut dyn Backend, x: &[i32]) -> Vec<i32> {
        let weights = self.pack(device);
        let input = input(device, self.shape.k as usize, x);
        let out = matrix(device, input.rows as usize, self.shape.n as usize);
        device.run(&[Step::Linear { weights, shape: self.shape, input, out }]).unwrap();
        let y = read(device, out);
        device.unpack(weights);
        device.reset();
        y
    }
}
