//! A GPU: its bits against the CPU's, and its rates.
//!
//! `gpu --minilm DIR [--digits DIR] [--device wgpu:0] [--seconds 2] [--only bits|gemm|minilm|large] [--batches 256]` prints one
//! JSON object:
//!
//! * `bits`: the conformance suite, and outputs of digits (every batch of 1 to `--batches`) and MiniLM against the CPU's.
//! * `gemm`: whole linear steps, quantization and requantization included; through wgpu also against an f32 shader of the
//!   same tile on the same shapes (`peer.rs`).
//! * `minilm`: tokens per second of whole forward passes, and of their linear steps alone: the rate that products predict.
//! * `large` (not through software): products of 8,192 cubed, MiniLM with 256 texts of 128 tokens and the hashing of its
//!   outputs, attention over 2,048 keys. What `bench/peers/gpu_torch.py` does as well.
//!
//! Results are compared with the CPU's before anything is timed, except those of `large`, of which rows are. On a software
//! adapter the "GPU" is the CPU's cores.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod large;
mod peer;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use hyperion_backend_wgpu::Wgpu;
use hyperion_model::{
    Model, Prepared, Trust,
    file::Parts,
    import::{bert, mlp},
};
use hyperion_ops::{
    Backend, BackendError, BufferId, Cpu, DeviceInfo, KernelSet, LinearShape, Serial, Step, View,
    WeightId, Weights, conformance,
};
use hyperion_primitives::{Dtype, Mix, w8r};
use serde_json::{Map, Value, json};

/// Rows, depth and channels: MiniLM's layers, and larger ones.
const SHAPES: [(u32, u32, u32); 6] = [
    (128, 384, 1152),
    (128, 384, 384),
    (128, 384, 1536),
    (128, 1536, 384),
    (1024, 384, 1536),
    (512, 1024, 1024),
];
const MEMORY_BYTES: u64 = 4 << 30;
/// Turns of each kind of step.
const ROUNDS: usize = 2;

struct Options {
    minilm: String,
    digits: String,
    device: String,
    seconds: f64,
    only: Option<String>,
    batches: usize,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self {
            minilm: String::new(),
            digits: concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/digits").to_owned(),
            device: "wgpu:0".to_owned(),
            seconds: 2.0,
            only: None,
            batches: 64,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().expect("every option has a value");
            match name.as_str() {
                "--minilm" => options.minilm = value,
                "--digits" => options.digits = value,
                "--device" => options.device = value,
                "--seconds" => options.seconds = value.parse().expect("--seconds N"),
                "--only" => options.only = Some(value),
                "--batches" => options.batches = value.parse().expect("--batches N"),
                _ => panic!("unknown option {name}"),
            }
        }
        options
    }

    /// The adapter of `wgpu:N`.
    fn adapter(&self) -> Option<usize> {
        self.device.strip_prefix("wgpu:").map(|index| index.parse().expect("--device wgpu:N"))
    }

    /// The device, and what it is.
    fn open(&self) -> (Box<dyn Backend>, Value) {
        if let Some(index) = self.adapter() {
            let device = Wgpu::open(index, MEMORY_BYTES).expect("the adapter opens");
            let adapter = device.adapter().clone();
            let described = json!({
                "device": self.device,
                "name": adapter.name,
                "kind": adapter.kind.name(),
                "api": adapter.api,
                "driver": adapter.driver,
            });
            return (Box::new(device), described);
        }
        let index = self.device.strip_prefix("cuda:").and_then(|index| index.parse().ok());
        let index = index.expect("--device cuda:N or wgpu:N");
        let cache = std::env::temp_dir().join("hyperion-kernels");
        let device = hyperion_backend_cuda::open(index, u64::MAX, Some(&cache));
        let device = device.unwrap_or_else(|error| panic!("{}: {error}", self.device));
        let about = device.description();
        let (major, minor) = about.architecture;
        let described = json!({
            "device": self.device,
            "name": about.name,
            "kind": "discrete",
            "api": "cuda",
            "architecture": format!("sm_{major}{minor}"),
            "memory_bytes": about.memory_bytes,
            "driver": about.driver,
        });
        (Box::new(device), described)
    }

    /// The least time of `work`, in seconds.
    fn best(&self, mut work: impl FnMut()) -> f64 {
        work();
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        let mut best = f64::INFINITY;
        let mut count = 0;
        while count < 2 || Instant::now() < end {
            let start = Instant::now();
            work();
            best = best.min(start.elapsed().as_secs_f64());
            count += 1;
        }
        best
    }
}

fn main() {
    let options = Options::parse();
    let (mut device, described) = options.open();
    let mut report = Map::new();
    report.insert("adapter".into(), described);
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    if wanted("bits") {
        report.insert("bits".into(), bits(&options, &mut *device));
    }
    if wanted("gemm") {
        report.insert("gemm".into(), gemm(&options, &mut *device));
    }
    let is_software = report["adapter"]["kind"] == "software";
    if wanted("large") && !is_software {
        report.insert("large".into(), large::run(&options, &mut *device));
    }
    if wanted("minilm") {
        report.insert("minilm".into(), minilm(&options, device));
    }
    println!("{:#}", Value::Object(report));
}

fn built(parts: &Parts) -> Model {
    let mut file = Vec::new();
    parts.write(&mut file).expect("memory");
    Model::from_bytes(file, Trust::Roots).expect("what was just written")
}

fn digits(options: &Options) -> Model {
    built(&mlp(Path::new(&options.digits)).expect("--digits DIR"))
}

fn encoder(options: &Options) -> Model {
    built(&bert(Path::new(&options.minilm), &mut |_, _| {}).expect("--minilm DIR"))
}

fn tokens(mix: &mut Mix, count: u32) -> Vec<u8> {
    (0..count).flat_map(|_| (1_000 + mix.below(29_000) as u32).to_le_bytes()).collect()
}

/// Bytes of all outputs that differ from the CPU's.
fn differing(model: &Model, device: &mut dyn Backend, inputs: &[Vec<u8>], rows: u32) -> usize {
    let mut cpu = Cpu::new(KernelSet::best(), Arc::new(Serial));
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut outputs = Vec::new();
    for device in [&mut cpu as &mut dyn Backend, &mut *device] {
        let prepared = Prepared::load(model, device, rows).expect("memory");
        let answers = prepared.run(device, &inputs).expect("the device lives");
        prepared.unload(device);
        device.reset();
        outputs.push(answers.into_iter().flat_map(|tensor| tensor.data).collect::<Vec<u8>>());
    }
    assert_eq!(outputs[0].len(), outputs[1].len());
    outputs[0].iter().zip(&outputs[1]).filter(|(lhs, rhs)| lhs != rhs).count()
}

fn bits(options: &Options, device: &mut dyn Backend) -> Value {
    eprintln!("the conformance suite");
    let report = conformance::check(device).expect("the device lives");
    let stems: Vec<&str> = report.differences().iter().map(|stem| stem.name()).collect();
    let mut mix = Mix::new(3);
    let (model, mut differences) = (digits(options), 0);
    eprintln!("digits, batches of 1 to {}", options.batches);
    for batch in 1..=options.batches {
        let image = |mix: &mut Mix| (0..64).flat_map(|_| mix.i32(17).to_le_bytes()).collect();
        let inputs: Vec<Vec<u8>> = (0..batch).map(|_| image(&mut mix)).collect();
        differences += differing(&model, device, &inputs, batch as u32);
    }
    let (model, mut encoder_differences) = (encoder(options), 0);
    let batches = [1, 2, 7, 32, 256].into_iter().filter(|batch| *batch <= options.batches);
    for batch in batches.clone() {
        eprintln!("minilm, a batch of {batch}");
        let lengths: Vec<u32> = (0..batch).map(|_| 3 + mix.below(62) as u32).collect();
        let inputs: Vec<Vec<u8>> = lengths.iter().map(|len| tokens(&mut mix, *len)).collect();
        encoder_differences += differing(&model, device, &inputs, lengths.iter().sum());
    }
    json!({
        "stems": report.sections.len(),
        "stems_that_differ": stems,
        "digits": { "batches": options.batches, "differing_bytes": differences },
        "minilm": { "batches": batches.collect::<Vec<_>>(), "differing_bytes": encoder_differences },
    })
}

/// Multiply-adds per second of linear steps, and of the peer's f32 products.
fn gemm(options: &Options, device: &mut dyn Backend) -> Value {
    let mut shapes = Map::new();
    let peer = options.adapter().map(peer::Peer::open);
    for (rows, k, n) in SHAPES {
        eprintln!("gemm {rows}x{k}x{n}");
        let mut mix = Mix::new(1);
        let x: Vec<u8> = (0..rows * k).flat_map(|_| mix.i32(17).to_le_bytes()).collect();
        let layer = Layer::new(&mut mix, k, n);
        let mut cpu = Cpu::new(KernelSet::best(), Arc::new(Serial));
        let mut outputs = Vec::new();
        let mut best = 0.0;
        for device in [&mut cpu as &mut dyn Backend, &mut *device] {
            let (weights, input, out) =
                (layer.pack(device), matrix(device, rows, k), matrix(device, rows, n));
            device.write(input.buffer, 0, &x).expect("in memory");
            let step = [Step::Linear { weights, shape: layer.shape, input, out }];
            device.run(&step).expect("the device lives");
            let mut bytes = vec![0; 4 * (rows * n) as usize];
            device.read(out.buffer, 0, &mut bytes).expect("the device lives");
            outputs.push(bytes);
            if outputs.len() == 2 {
                assert!(outputs[0] == outputs[1], "{rows}x{k}x{n}: other bits than the CPU");
                best = options.best(|| {
                    device.run(&step).expect("the device lives");
                    device.read(out.buffer, 0, &mut [0; 4]).expect("the device lives");
                });
            }
            device.unpack(weights);
            device.reset();
        }
        let all = f64::from(rows) * f64::from(k) * f64::from(n);
        let mut figures = json!({ "int8_multiply_adds_per_s": all / best });
        if let Some(peer) = &peer {
            let float = peer.products(options, rows, k, n);
            figures["f32_multiply_adds_per_s"] = json!(all / float);
            figures["over_f32"] = json!(float / best);
        }
        shapes.insert(format!("{rows}x{k}x{n}"), figures);
    }
    Value::Object(shapes)
}

/// A linear layer of random weights.
struct Layer {
    shape: LinearShape,
    codes: Vec<u8>,
    mantissas: Vec<u8>,
    exponents: Vec<i8>,
}

impl Layer {
    fn new(mix: &mut Mix, k: u32, n: u32) -> Self {
        let shape = LinearShape::new(k, n).expect("within the limits");
        let mut codes = vec![0; (n * shape.depth()) as usize];
        for row in codes.chunks_exact_mut(shape.depth() as usize) {
            let plain: Vec<i8> =
                (0..shape.depth()).map(|i| if i < k { mix.i32(6) as i8 } else { 0 }).collect();
            w8r::encode(&plain, row);
        }
        let mantissas = (0..n).map(|_| 128 + mix.below(128) as u8).collect();
        let exponents = (0..n).map(|_| 16).collect();
        Self { shape, codes, mantissas, exponents }
    }

    fn pack(&self, device: &mut dyn Backend) -> WeightId {
        let weights = Weights::Linear {
            shape: self.shape,
            codes: &self.codes,
            groups: None,
            mantissas: &self.mantissas,
            exponents: &self.exponents,
            bias: None,
            smooth: None,
        };
        device.pack(&weights).expect("memory")
    }
}

fn matrix(device: &mut dyn Backend, rows: u32, width: u32) -> View {
    let buffer = device.alloc(4 * u64::from(rows) * u64::from(width)).expect("memory");
    View { buffer, dtype: Dtype::I32, offset: 0, rows, width, stride: width }
}

/// Tokens per second of MiniLM, whole and its linear steps alone.
fn minilm(options: &Options, device: Box<dyn Backend>) -> Value {
    let model = encoder(options);
    let mut shapes = Map::new();
    let mut device = Filtered { device, kind: every };
    for (batch, length) in [(1, 128), (8, 128)] {
        let rows = batch * length;
        let mut mix = Mix::new(5);
        let inputs: Vec<Vec<u8>> = (0..batch).map(|_| tokens(&mut mix, length)).collect();
        assert_eq!(differing(&model, &mut *device.device, &inputs, rows), 0, "other bits");
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let prepared = Prepared::load(&model, &mut device, rows).expect("memory");
        // In turns, so that a machine that slows down or speeds up meets all kinds alike.
        let mut seconds = [f64::INFINITY; KINDS.len()];
        for _ in 0..ROUNDS {
            for ((name, kind), best) in KINDS.iter().zip(&mut seconds) {
                eprintln!("minilm {batch}x{length}: {name}");
                device.kind = *kind;
                let work = || drop(prepared.run(&mut device, &inputs).expect("the device lives"));
                *best = best.min(options.best(work));
            }
        }
        let alone: Map<String, Value> = KINDS
            .iter()
            .zip(seconds)
            .skip(1)
            .map(|((name, _), seconds)| ((*name).to_owned(), json!(seconds)))
            .collect();
        device.kind = every;
        prepared.unload(&mut device);
        device.reset();
        let rate = |seconds: f64| f64::from(rows) / seconds;
        shapes.insert(
            format!("{batch}x{length}"),
            json!({
                "tokens_per_s": rate(seconds[0]),
                "linear_alone_tokens_per_s": rate(seconds[1]),
                "share_of_predicted": seconds[1] / seconds[0],
                "seconds_alone": alone,
            }),
        );
    }
    Value::Object(shapes)
}

type Kind = fn(&Step<'_>) -> bool;

fn every(_: &Step<'_>) -> bool {
    true
}

/// All steps, the linear ones alone, and the others by kind.
const KINDS: [(&str, Kind); 5] = [
    ("whole", every),
    ("linear", |step| matches!(step, Step::Linear { .. })),
    ("attention", |step| matches!(step, Step::Attention { .. })),
    ("norm", |step| matches!(step, Step::Norm { .. })),
    ("elementwise", |step| matches!(step, Step::Add { .. } | Step::Activation { .. })),
];

/// A device that can leave out every step but those of a kind.
struct Filtered {
    device: Box<dyn Backend>,
    kind: Kind,
}

impl Backend for Filtered {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        self.device.pack(weights)
    }

    fn unpack(&mut self, weights: WeightId) {
        self.device.unpack(weights);
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        self.device.alloc(bytes)
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.device.write(to, at, bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        let steps: Vec<Step<'_>> = steps.iter().filter(|step| (self.kind)(step)).copied().collect();
        self.device.run(&steps)
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.device.read(from, at, bytes)
    }

    fn reset(&mut self) {
        self.device.reset();
    }
}
