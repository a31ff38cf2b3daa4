//! Devices, random weights and inputs.

use std::sync::Arc;

use hyperion_engine::KernelPool;
use hyperion_ops::{
    Backend, Cpu, LinearShape, NormKind, NormShape, Parallel, Reference, Serial, Step, View,
    WeightId, Weights,
};
use hyperion_primitives::{Dtype, Mix, w8r};

use crate::Options;

/// Largest code of a row over the spread of its codes, as layer norms of MiniLM leave them.
const PEAK_OVER_SPREAD: f64 = 6.0;

impl Options {
    pub(crate) fn device(&self, threads: usize) -> Cpu {
        let parallel: Arc<dyn Parallel> = match threads {
            1 => Arc::new(Serial),
            _ => Arc::new(KernelPool::new(threads).expect("threads")),
        };
        Cpu::new(self.kernels, parallel)
    }
}

/// Roughly normal numbers: sums of the eight bytes of a word.
pub(crate) fn normal(mix: &mut Mix) -> f64 {
    let sum: u32 = mix.u64().to_le_bytes().into_iter().map(u32::from).sum();
    // Eight bytes have a mean of 1,020 and a variance of 8 * (256^2 - 1) / 12.
    (f64::from(sum) - 1020.0) / 209.0
}

/// Rows of Q16 whose codes spread as those of MiniLM do: one column in forty is four times as large.
pub(crate) fn rows(mix: &mut Mix, rows: usize, width: usize) -> Vec<i32> {
    let spread = 65_536.0;
    (0..rows * width)
        .map(|i| {
            let scale = if i % width % 40 == 7 { spread * PEAK_OVER_SPREAD / 2.5 } else { spread };
            (normal(mix) * scale) as i32
        })
        .collect()
}

/// Rows whose codes are spread evenly over all values.
pub(crate) fn even_rows(mix: &mut Mix, rows: usize, width: usize) -> Vec<i32> {
    (0..rows * width).map(|_| mix.i32(17)).collect()
}

/// A linear layer of normal weights whose results are as large as its inputs.
pub(crate) struct Layer {
    pub(crate) shape: LinearShape,
    codes: Vec<u8>,
    mantissas: Vec<u8>,
    exponents: Vec<i8>,
    bias: Vec<i32>,
}

impl Layer {
    pub(crate) fn new(mix: &mut Mix, k: u32, n: u32) -> Self {
        let shape = LinearShape::new(k, n).expect("within the limits").with_bias();
        let mut codes = vec![0; (n * shape.depth()) as usize];
        for row in codes.chunks_exact_mut(shape.depth() as usize) {
            let plain: Vec<i8> = (0..shape.depth())
                .map(|i| {
                    if i < k { (normal(mix) * 38.0).round().clamp(-127.0, 127.0) as i8 } else { 0 }
                })
                .collect();
            w8r::encode(&plain, row);
        }
        let mantissas = (0..n).map(|_| 128 + mix.below(128) as u8).collect();
        // A step of 200 / 2^17 and a spread of 38 give a gain of 1 at a depth of 300.
        let exponents = (0..n).map(|_| if mix.below(4) == 0 { 16 } else { 17 }).collect();
        let bias = (0..n).map(|_| mix.i32(12)).collect();
        Self { shape, codes, mantissas, exponents, bias }
    }

    pub(crate) fn pack(&self, device: &mut dyn Backend) -> WeightId {
        let weights = Weights::Linear {
            shape: self.shape,
            codes: &self.codes,
            groups: None,
            mantissas: &self.mantissas,
            exponents: &self.exponents,
            bias: Some(&self.bias),
            smooth: None,
        };
        device.pack(&weights).expect("memory")
    }
}

/// A layer norm; one column in forty is scaled up, so that codes spread as those of MiniLM do.
pub(crate) fn pack_norm(
    mix: &mut Mix,
    width: u32,
    device: &mut dyn Backend,
) -> (WeightId, NormShape) {
    let gamma: Vec<i32> =
        (0..width).map(|i| if i % 40 == 7 { 40_000 } else { 16_384 } + mix.i32(11)).collect();
    let beta: Vec<i32> = (0..width).map(|_| mix.i32(12)).collect();
    let id = device.pack(&Weights::Norm { gamma: &gamma, beta: Some(&beta) }).expect("memory");
    (id, NormShape::new(NormKind::Layer, 43, width).expect("within the limits"))
}

/// Reserves a matrix.
pub(crate) fn matrix(device: &mut dyn Backend, rows: usize, width: usize) -> View {
    let buffer = device.alloc((4 * rows * width) as u64).expect("memory");
    let (rows, width) = (rows as u32, width as u32);
    View { buffer, dtype: Dtype::I32, offset: 0, rows, width, stride: width }
}

pub(crate) fn write(device: &mut dyn Backend, view: View, x: &[i32]) {
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    device.write(view.buffer, 0, &bytes).expect("in memory");
}

pub(crate) fn read(device: &mut dyn Backend, view: View) -> Vec<u8> {
    let mut bytes = vec![0; 4 * (view.rows * view.width) as usize];
    device.read(view.buffer, 0, &mut bytes).expect("in memory");
    bytes
}

pub(crate) fn run(device: &mut dyn Backend, steps: &[Step<'_>]) {
    device.run(steps).expect("in memory");
}

/// Builds the same thing on the device and on the definition and compares what it computes.
///
/// `build` packs, writes inputs and returns steps and the views that are compared.
pub(crate) fn compared<T>(
    device: &mut Cpu,
    mut build: impl FnMut(&mut dyn Backend) -> T,
    run: impl Fn(&mut dyn Backend, &T) -> Vec<u8>,
) -> T {
    let mut definition = Reference::default();
    let built = build(&mut definition);
    let want = run(&mut definition, &built);
    let built = build(device);
    assert!(run(device, &built) == want, "the kernels differ from the definition");
    built
}
