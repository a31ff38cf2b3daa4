//! What decoding gains from weights of four bits (line L3): one row through linear layers whose weights are read from memory,
//! with eight bits and with four, in turns.
//!
//! `narrow [--seconds S]`: for each shape as many layers as are twice a large cache, on one thread. Before anything is timed, the
//! results of four bits are compared with those of eight bits that hold the same codes. Prints one JSON object.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{error::Error, sync::Arc, time::Instant};

use hyperion_ops::{
    Backend, Cpu, KernelSet, LinearShape, Serial, Step, View, WeightId, Weights, nibbles::widened,
};
use hyperion_primitives::{Dtype, Mix};
use serde_json::{Map, json};

/// Depth and channels: projections of a decoder of 8 billion weights, and of one of a billion.
const SHAPES: [(u32, u32); 4] = [(4_096, 4_096), (4_096, 14_336), (14_336, 4_096), (2_048, 8_192)];
/// Bytes of weights that are read before any is read again.
const BYTES: u64 = 256 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds: f64 = match arguments.as_slice() {
        [] => 3.0,
        [flag, seconds] if flag == "--seconds" => seconds.parse()?,
        _ => return Err("usage: narrow [--seconds S]".into()),
    };
    let kernels = KernelSet::best();
    let mut shapes = Map::new();
    for (k, n) in SHAPES {
        let mut device = Cpu::new(kernels, Arc::new(Serial));
        let shape = LinearShape::new(k, n).ok_or("a shape")?;
        let layers = BYTES.div_ceil(u64::from(k) * u64::from(n));
        let mut mix = Mix::new(7);
        let [mut wide, mut narrow] = [Vec::new(), Vec::new()];
        for _ in 0..layers {
            let weights = Random::new(&mut mix, shape);
            wide.push(weights.pack(&mut device, shape, false)?);
            narrow.push(weights.pack(&mut device, shape, true)?);
        }
        let x: Vec<u8> = (0..k).flat_map(|_| mix.i32(17).to_le_bytes()).collect();
        let input = row(&mut device, k)?;
        device.write(input.buffer, 0, &x)?;
        let outs = [row(&mut device, n)?, row(&mut device, n)?];
        let mut read = |weights, shape, out: View| -> Result<Vec<u8>, Box<dyn Error>> {
            device.run(&[Step::Linear { weights, shape, input, out }])?;
            let mut bytes = vec![0; 4 * n as usize];
            device.read(out.buffer, 0, &mut bytes)?;
            Ok(bytes)
        };
        let same = read(wide[0], shape, outs[0])? == read(narrow[0], shape.with_w4(), outs[1])?;
        assert!(same, "four bits compute what eight bits of the same codes do");

        let mut best = [f64::INFINITY; 2];
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < seconds {
            for (which, (ids, shape)) in
                [(&wide, shape), (&narrow, shape.with_w4())].into_iter().enumerate()
            {
                let start = Instant::now();
                for weights in ids {
                    let (weights, out) = (*weights, outs[which]);
                    device.run(&[Step::Linear { weights, shape, input, out }])?;
                }
                best[which] = best[which].min(start.elapsed().as_secs_f64() / layers as f64);
            }
        }
        let bytes = f64::from(k) * f64::from(n);
        shapes.insert(
            format!("{k}x{n}"),
            json!({
                "eight_bits_us": 1e6 * best[0],
                "four_bits_us": 1e6 * best[1],
                "over_eight_bits": best[0] / best[1],
                "eight_bits_gb_per_s": bytes / best[0] / 1e9,
                "four_bits_gb_per_s": bytes * 17.0 / 32.0 / best[1] / 1e9,
            }),
        );
    }
    println!("{}", json!({"kernels": kernels.name(), "shapes": shapes}));
    Ok(())
}

/// Weights of four bits.
struct Random {
    halves: Vec<u8>,
    groups: Vec<u8>,
    mantissas: Vec<u8>,
    exponents: Vec<i8>,
}

impl Random {
    fn new(mix: &mut Mix, shape: LinearShape) -> Self {
        let codes = shape.n as usize * shape.depth() as usize;
        let mut word = || mix.u64().to_le_bytes();
        // No half is 0.
        let valid = |byte: u8| byte | u8::from(byte & 15 == 0) | u8::from(byte >> 4 == 0) << 4;
        let halves = (0..codes / 16).flat_map(|_| word().map(valid)).collect();
        let groups = (0..codes / 256).flat_map(|_| word().map(|byte| 1 + byte % 17)).collect();
        let channels = shape.n as usize;
        Self { halves, groups, mantissas: vec![200; channels], exponents: vec![20; channels] }
    }

    fn pack(
        &self,
        device: &mut Cpu,
        shape: LinearShape,
        is_narrow: bool,
    ) -> Result<WeightId, Box<dyn Error>> {
        let Self { halves, groups, mantissas, exponents } = self;
        let (bias, smooth) = (None, None);
        let wide = if is_narrow { Vec::new() } else { widened(halves, groups) };
        let (shape, codes, groups) = if is_narrow {
            (shape.with_w4(), halves, Some(groups.as_slice()))
        } else {
            (shape, &wide, None)
        };
        Ok(device.pack(&Weights::Linear {
            shape,
            codes,
            groups,
            mantissas,
            exponents,
            bias,
            smooth,
        })?)
    }
}

fn row(device: &mut Cpu, width: u32) -> Result<View, Box<dyn Error>> {
    let buffer = device.alloc(4 * u64::from(width))?;
    Ok(View { buffer, dtype: Dtype::I32, offset: 0, rows: 1, width, stride: width })
}
