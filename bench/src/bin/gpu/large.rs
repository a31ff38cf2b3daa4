//! Sizes that a data-centre GPU is bought for.

use hyperion_model::Prepared;
use hyperion_ops::{AttentionShape, Backend, Cpu, KernelSet, Sequence, Serial, Step};
use hyperion_primitives::Mix;
use serde_json::{Value, json};

use super::{Layer, Options, encoder, matrix, tokens};

/// Rows, depth and channels.
const PRODUCT: u32 = 8_192;
/// Texts and tokens of each.
const TEXTS: u32 = 256;
const TOKENS: u32 = 128;
/// Sequences, their rows, heads and columns of a head.
const SEQUENCES: u32 = 4;
const KEYS: u32 = 2_048;
const HEADS: u32 = 16;
const HEAD_DIM: u32 = 64;

pub(super) fn run(options: &Options, device: &mut dyn Backend) -> Value {
    json!({
        "gemm": product(options, device),
        "minilm": minilm(options, device),
        "attention": attention(options, device),
    })
}

fn random(mix: &mut Mix, count: u64) -> Vec<u8> {
    (0..count).flat_map(|_| mix.i32(17).to_le_bytes()).collect()
}

/// A whole linear step, quantization and requantization included; its first row is compared with the CPU's.
fn product(options: &Options, device: &mut dyn Backend) -> Value {
    eprintln!("large: a product of {PRODUCT} cubed");
    let mut mix = Mix::new(1);
    let layer = Layer::new(&mut mix, PRODUCT, PRODUCT);
    let x = random(&mut mix, u64::from(PRODUCT) * u64::from(PRODUCT));
    let mut cpu = Cpu::new(KernelSet::best(), std::sync::Arc::new(Serial));
    let row = 4 * PRODUCT as usize;
    let want = {
        let weights = layer.pack(&mut cpu);
        let (input, out) = (matrix(&mut cpu, 1, PRODUCT), matrix(&mut cpu, 1, PRODUCT));
        cpu.write(input.buffer, 0, &x[..row]).expect("in memory");
        cpu.run(&[Step::Linear { weights, shape: layer.shape, input, out }]).expect("in memory");
        let mut bytes = vec![0; row];
        cpu.read(out.buffer, 0, &mut bytes).expect("in memory");
        bytes
    };
    let weights = layer.pack(device);
    let (input, out) = (matrix(device, PRODUCT, PRODUCT), matrix(device, PRODUCT, PRODUCT));
    device.write(input.buffer, 0, &x).expect("the device lives");
    let step = [Step::Linear { weights, shape: layer.shape, input, out }];
    device.run(&step).expect("the device lives");
    let mut bytes = vec![0; row];
    device.read(out.buffer, 0, &mut bytes).expect("the device lives");
    assert!(bytes == want, "other bits than the CPU");
    let seconds = options.best(|| {
        device.run(&step).expect("the device lives");
        device.read(out.buffer, 0, &mut [0; 4]).expect("the device lives");
    });
    device.unpack(weights);
    device.reset();
    let operations = 2.0 * f64::from(PRODUCT).powi(3);
    // Inputs in 32 bits are read, codes written and read, weights read once, outputs written.
    let bytes = f64::from(PRODUCT).powi(2) * (4.0 + 1.0 + 1.0 + 1.0 + 4.0);
    json!({
        "seconds": seconds,
        "operations": operations,
        "bytes": bytes,
        "tera_operations_per_s": operations / seconds / 1e12,
        "giga_bytes_per_s": bytes / seconds / 1e9,
    })
}

/// Tokens per second, and what the hashing of the outputs adds.
fn minilm(options: &Options, device: &mut dyn Backend) -> Value {
    eprintln!("large: minilm, {TEXTS} texts of {TOKENS} tokens");
    let model = encoder(options);
    let mut mix = Mix::new(5);
    let inputs: Vec<Vec<u8>> = (0..TEXTS).map(|_| tokens(&mut mix, TOKENS)).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let rows = TEXTS * TOKENS;
    let prepared = Prepared::load(&model, device, rows).expect("memory");
    let whole = options.best(|| drop(prepared.run(device, &inputs).expect("the device lives")));
    let outputs = prepared.run(device, &inputs).expect("the device lives");
    let hashing = options.best(|| {
        assert!(outputs.iter().all(|output| !output.root().0.is_zero()), "a hash is not zero");
    });
    prepared.unload(device);
    device.reset();
    json!({
        "seconds": whole,
        "tokens_per_s": f64::from(rows) / whole,
        "hashing_seconds": hashing,
        "hashing_share": hashing / whole,
    })
}

/// Multiply-adds per second of exact attention.
fn attention(options: &Options, device: &mut dyn Backend) -> Value {
    eprintln!("large: attention, {SEQUENCES} sequences of {KEYS} keys");
    let shape = AttentionShape::new(HEADS, HEADS, HEAD_DIM).expect("within the limits");
    let (rows, width) = (SEQUENCES * KEYS, HEADS * HEAD_DIM);
    let mut mix = Mix::new(9);
    let views = [(); 4].map(|()| matrix(device, rows, width));
    for view in &views[..3] {
        let x = random(&mut mix, u64::from(rows) * u64::from(width));
        device.write(view.buffer, 0, &x).expect("the device lives");
    }
    let sequences: Vec<Sequence> = (0..SEQUENCES)
        .map(|index| Sequence { row: index * KEYS, rows: KEYS, position: 0 })
        .collect();
    let [q, k, v, out] = views;
    let step = [Step::Attention { shape, sequences: &sequences, q, k, v, out }];
    device.run(&step).expect("the device lives");
    let seconds = options.best(|| {
        device.run(&step).expect("the device lives");
        device.read(out.buffer, 0, &mut [0; 4]).expect("the device lives");
    });
    device.reset();
    let pairs = f64::from(SEQUENCES) * f64::from(KEYS).powi(2) * f64::from(width);
    json!({ "seconds": seconds, "tera_operations_per_s": 4.0 * pairs / seconds / 1e12 })
}
