//! Whole linear steps, quantization and requantization included, as a share of the peak.

use hyperion_ops::Step;
use hyperion_primitives::Mix;
use serde_json::{Map, Value, json};

use crate::{
    Options, peak,
    rig::{self, Layer},
};

/// Rows, depth and channels: MiniLM's four layers at 128 tokens and more, and some others.
const SHAPES: [(usize, u32, u32); 7] = [
    (128, 384, 1152),
    (128, 384, 384),
    (128, 384, 1536),
    (128, 1536, 384),
    (1024, 384, 1536),
    (128, 1024, 1024),
    (512, 4096, 1024),
];

pub(crate) fn run(options: &Options) -> Vec<(&'static str, Value)> {
    let (mut share, mut even, mut rates) = (Map::new(), Map::new(), Map::new());
    for (rows, k, n) in SHAPES {
        let key = format!("{rows}x{k}x{n}");
        // The clock changes with what the core does; measured side by side it is the same for both.
        let peak = peak::multiply_adds(options);
        let rate = linear(options, (rows, k, n), rig::rows);
        share.insert(key.clone(), json!(rate / peak));
        rates.insert(key.clone(), json!(rate));
        even.insert(key, json!(linear(options, (rows, k, n), rig::even_rows) / peak));
    }
    let mut few = Map::new();
    for (rows, k, n) in [(1, 384, 1536), (4, 384, 1536), (16, 384, 1536), (1, 4096, 4096)] {
        few.insert(format!("{rows}x{k}x{n}"), json!(linear(options, (rows, k, n), rig::rows)));
    }
    vec![
        ("gemm_share_of_peak", Value::Object(share)),
        ("gemm_multiply_adds_per_s", Value::Object(rates)),
        ("gemm_share_of_peak_evenly_spread_codes", Value::Object(even)),
        ("gemm_few_rows_multiply_adds_per_s", Value::Object(few)),
    ]
}

/// Multiply-adds per second of one linear step.
fn linear(
    options: &Options,
    (rows, k, n): (usize, u32, u32),
    input: fn(&mut Mix, usize, usize) -> Vec<i32>,
) -> f64 {
    let mut device = options.device(1);
    let mut mix = Mix::new(1);
    let layer = Layer::new(&mut mix, k, n);
    let x = input(&mut mix, rows, k as usize);
    let step = rig::compared(
        &mut device,
        |device| {
            let weights = layer.pack(device);
            let (input, out) =
                (rig::matrix(device, rows, k as usize), rig::matrix(device, rows, n as usize));
            rig::write(device, input, &x);
            (Step::Linear { weights, shape: layer.shape, input, out }, out)
        },
        |device, (step, out)| {
            rig::run(device, std::slice::from_ref(step));
            rig::read(device, *out)
        },
    );
    let (best, _) = options.time(0.2, || rig::run(&mut device, std::slice::from_ref(&step.0)));
    rows as f64 * f64::from(k) * f64::from(n) / best
}
