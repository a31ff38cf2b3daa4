//! A forward pass of MiniLM's shape on random weights: tokens per second, and where one thread's time goes.

use std::time::Instant;

use hyperion_ops::{ActivationTable, AttentionShape, Backend, Sequence, Step, View};
use hyperion_primitives::Mix;
use serde_json::{Map, Value, json};

use crate::{
    Options,
    rig::{self, Layer},
};

const WIDTH: u32 = 384;
const INNER: u32 = 1536;
const HEADS: u32 = 12;
const BLOCKS: usize = 6;

/// Sizes of the batches timed.
const BATCHES: [(u32, u32); 4] = [(1, 16), (1, 128), (8, 128), (1, 512)];

pub(crate) fn run(options: &Options) -> Vec<(&'static str, Value)> {
    let mut rates = Map::new();
    for threads in [1, 2] {
        for (batch, length) in BATCHES {
            let mut device = options.device(threads);
            let sequences = sequences(batch, length);
            let steps = compared(&mut device, &sequences);
            let (_, median) = options.time(0.5, || rig::run(&mut device, &steps.0));
            let rate = f64::from(batch * length) / median;
            rates.insert(format!("threads{threads}_{batch}x{length}"), json!(rate));
        }
    }
    let mut device = options.device(1);
    let sequences = sequences(1, 128);
    let (steps, ..) = compared(&mut device, &sequences);
    vec![
        ("forward_tokens_per_s", Value::Object(rates)),
        ("forward_us_per_token_by_step_1x128", shares(options, &mut device, &steps)),
    ]
}

fn sequences(batch: u32, length: u32) -> Vec<Sequence> {
    (0..batch).map(|i| Sequence { row: i * length, rows: length, position: 0 }).collect()
}

/// Packs the blocks, and compares what they compute with the definition on a short batch.
fn compared<'s>(
    device: &mut hyperion_ops::Cpu,
    sequences: &'s [Sequence],
) -> (Vec<Step<'s>>, View) {
    let short =
        [Sequence { row: 0, rows: 5, position: 0 }, Sequence { row: 5, rows: 3, position: 0 }];
    rig::compared(
        device,
        |device| blocks(device, &short),
        |device, (steps, out)| {
            rig::run(device, steps);
            rig::read(device, *out)
        },
    );
    blocks(device, sequences)
}

/// Post-norm encoder blocks without the embedding; the input is written once and never changed.
fn blocks<'s>(device: &mut dyn Backend, sequences: &'s [Sequence]) -> (Vec<Step<'s>>, View) {
    let mut mix = Mix::new(5);
    let rows: usize = sequences.iter().map(|sequence| sequence.rows as usize).sum();
    let matrix = |device: &mut dyn Backend, width| rig::matrix(device, rows, width as usize);
    let input = matrix(device, WIDTH);
    rig::write(device, input, &rig::rows(&mut mix, rows, WIDTH as usize));
    let (qkv, context) = (matrix(device, 3 * WIDTH), matrix(device, WIDTH));
    let (projected, sum) = (matrix(device, WIDTH), matrix(device, WIDTH));
    let (up, active) = (matrix(device, INNER), matrix(device, INNER));
    let values = [matrix(device, WIDTH), matrix(device, WIDTH), matrix(device, WIDTH)];
    let shape = AttentionShape::new(HEADS, HEADS, WIDTH / HEADS).expect("within the limits");
    let mut steps = Vec::new();
    let mut x = input;
    for block in 0..BLOCKS {
        let linear = |steps: &mut Vec<Step<'s>>,
                      device: &mut dyn Backend,
                      mix: &mut Mix,
                      input: View,
                      out: View| {
            let layer = Layer::new(mix, input.width, out.width);
            steps.push(Step::Linear {
                weights: layer.pack(device),
                shape: layer.shape,
                input,
                out,
            });
        };
        linear(&mut steps, device, &mut mix, x, qkv);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.columns(part * WIDTH, WIDTH));
        steps.push(Step::Attention { shape, sequences, q, k, v, out: context });
        linear(&mut steps, device, &mut mix, context, projected);
        steps.push(Step::Add { lhs: x, rhs: projected, out: sum });
        let (weights, norm) = rig::pack_norm(&mut mix, WIDTH, device);
        let middle = values[2];
        steps.push(Step::Norm { weights, shape: norm, input: sum, out: middle });
        linear(&mut steps, device, &mut mix, middle, up);
        steps.push(Step::Activation { table: ActivationTable::Gelu, input: up, out: active });
        linear(&mut steps, device, &mut mix, active, projected);
        steps.push(Step::Add { lhs: middle, rhs: projected, out: sum });
        let (weights, norm) = rig::pack_norm(&mut mix, WIDTH, device);
        x = values[block % 2];
        steps.push(Step::Norm { weights, shape: norm, input: sum, out: x });
    }
    (steps, x)
}

/// Time of each kind of step, run one by one and so without what steps share.
fn shares(options: &Options, device: &mut hyperion_ops::Cpu, steps: &[Step<'_>]) -> Value {
    let mut best = vec![f64::INFINITY; steps.len()];
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < options.seconds * 0.5 {
        for (best, step) in best.iter_mut().zip(steps) {
            let start = Instant::now();
            rig::run(device, std::slice::from_ref(step));
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    let mut total = Map::new();
    for (best, step) in best.into_iter().zip(steps) {
        let name = match step {
            Step::Linear { shape, .. } => format!("linear {}x{}", shape.k, shape.n),
            Step::Attention { .. } => "attention".to_owned(),
            Step::Add { .. } => "add".to_owned(),
            Step::Norm { .. } => "norm".to_owned(),
            _ => "activation".to_owned(),
        };
        let sum = total.get(&name).and_then(Value::as_f64).unwrap_or(0.0);
        total.insert(name, json!(sum + best * 1e6 / 128.0));
    }
    Value::Object(total)
}
