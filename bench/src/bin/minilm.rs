//! MiniLM's forward pass on the CPU backend: tokens per second on one and two threads (line M3).
//!
//! `minilm --minilm DIR --seconds S [--profile]` imports the model, compares the output of every batch with the
//! definition's, and then prints one JSON object: tokens per second for one sequence of 128 tokens and for eight, the
//! best median among several repetitions. Repetitions of all shapes take turns, so that a disturbance meets each.
//! `--profile` adds, on stderr, where the time of one thread goes when each step runs alone.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    collections::BTreeMap,
    error::Error,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use hyperion_engine::KernelPool;
use hyperion_model::{Model, Prepared, Trust, import::import};
use hyperion_ops::{
    Backend, BackendError, BufferId, Cpu, DeviceInfo, KernelSet, Parallel, Reference, Serial, Step,
    WeightId, Weights,
};
use hyperion_primitives::{B256, Keccak, Mix, tensor_root};
use serde_json::{Map, Value, json};

/// Threads, sequences, and tokens of each.
const RUNS: [(usize, u32, u32); 3] = [(1, 1, 128), (1, 8, 128), (2, 8, 128)];
const REPETITIONS: u32 = 8;
/// Token ids are drawn from these, as the peer draws them.
const TOKENS: std::ops::Range<u32> = 1_000..30_000;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let mut file = Vec::new();
    import(Path::new(&options.minilm), &mut |_, _| {})?.write(&mut file)?;
    let model = Model::from_bytes(file, Trust::Roots)?;
    let mut runs = Vec::new();
    let mut wanted = BTreeMap::new();
    for (threads, batch, length) in RUNS {
        let inputs = inputs(batch, length);
        let want = match wanted.get(&(batch, length)) {
            Some(want) => *want,
            None => {
                eprintln!("computing {batch}x{length} by the definition");
                let mut definition = Reference::default();
                let prepared = Prepared::load(&model, &mut definition, batch * length)?;
                let want = digest(&prepared, &mut definition, &inputs)?;
                wanted.insert((batch, length), want);
                want
            }
        };
        let parallel: Arc<dyn Parallel> =
            if threads == 1 { Arc::new(Serial) } else { Arc::new(KernelPool::new(threads)?) };
        let mut cpu = Cpu::new(KernelSet::best(), parallel);
        let prepared = Prepared::load(&model, &mut cpu, batch * length)?;
        let got = digest(&prepared, &mut cpu, &inputs)?;
        assert_eq!(got, want, "{threads} threads, {batch}x{length}: not the definition's output");
        let key = format!("threads{threads}_{batch}x{length}");
        runs.push(Run { key, tokens: batch * length, inputs, prepared, cpu, best: 0.0 });
    }
    let window = Duration::from_secs_f64(options.seconds / f64::from(REPETITIONS));
    for _ in 0..REPETITIONS {
        for run in &mut runs {
            run.repeat(window)?;
        }
    }
    if options.profile {
        profile(&model)?;
    }
    let mut report = Map::new();
    report.insert("kernels".into(), KernelSet::best().name().into());
    report.insert("unit".into(), "tokens/s".into());
    report.extend(runs.into_iter().map(|run| (run.key, json!(run.best))));
    println!("{:#}", Value::Object(report));
    Ok(())
}

struct Options {
    minilm: String,
    seconds: f64,
    profile: bool,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let (mut minilm, mut seconds, mut profile) = (None, 5.0, false);
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{name} takes a value"));
            match name.as_str() {
                "--minilm" => minilm = Some(value()?),
                "--seconds" => seconds = value()?.parse()?,
                "--profile" => profile = true,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        let minilm = minilm.ok_or("usage: minilm --minilm DIR [--seconds S] [--profile]")?;
        Ok(Self { minilm, seconds, profile })
    }
}

/// One thing to time.
struct Run {
    key: String,
    tokens: u32,
    inputs: Vec<Vec<u8>>,
    prepared: Prepared,
    cpu: Cpu,
    /// Tokens per second of the best repetition so far.
    best: f64,
}

impl Run {
    fn repeat(&mut self, window: Duration) -> Result<(), Box<dyn Error>> {
        let inputs: Vec<&[u8]> = self.inputs.iter().map(Vec::as_slice).collect();
        let (end, mut times) = (Instant::now() + window, Vec::new());
        while times.len() < 3 || Instant::now() < end {
            let start = Instant::now();
            self.prepared.run(&mut self.cpu, &inputs)?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        self.best = self.best.max(f64::from(self.tokens) / times[times.len() / 2]);
        Ok(())
    }
}

fn inputs(batch: u32, length: u32) -> Vec<Vec<u8>> {
    let mut mix = Mix::new(1);
    let span = u64::from(TOKENS.end - TOKENS.start);
    let mut token = || TOKENS.start + u32::try_from(mix.below(span)).expect("a token id");
    (0..batch).map(|_| (0..length).flat_map(|_| token().to_le_bytes()).collect()).collect()
}

fn digest(
    prepared: &Prepared,
    backend: &mut dyn Backend,
    inputs: &[Vec<u8>],
) -> Result<B256, Box<dyn Error>> {
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut hasher = Keccak::new();
    for output in prepared.run(backend, &inputs)? {
        let root = tensor_root(output.dtype, &output.dims, &output.data);
        hasher.update(root.ok_or("an output's bytes are of its shape")?.0);
    }
    Ok(hasher.finish())
}

/// Prints the time of each kind of step beside that of the whole.
fn profile(model: &Model) -> Result<(), Box<dyn Error>> {
    let (batch, length) = (1, 128);
    let inputs = inputs(batch, length);
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut timed =
        Timed { cpu: Cpu::new(KernelSet::best(), Arc::new(Serial)), step: 0, best: Vec::new() };
    let prepared = Prepared::load(model, &mut timed, batch * length)?;
    let mut whole = f64::INFINITY;
    for _ in 0..30 {
        timed.step = 0;
        prepared.run_unfused(&mut timed, &inputs)?;
        let start = Instant::now();
        prepared.run(&mut timed.cpu, &inputs)?;
        whole = whole.min(start.elapsed().as_secs_f64());
    }
    let mut kinds = BTreeMap::<String, (f64, u32)>::new();
    for (kind, seconds) in &timed.best {
        let (sum, count) = kinds.entry(kind.clone()).or_default();
        *sum += seconds;
        *count += 1;
    }
    let alone: f64 = timed.best.iter().map(|(_, seconds)| seconds).sum();
    let per_token = 1e6 / f64::from(batch * length);
    let fused = whole * per_token;
    eprintln!("us/token, {batch}x{length}: steps alone {:.1}, fused {fused:.1}", alone * per_token);
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|(_, lhs), (_, rhs)| rhs.0.total_cmp(&lhs.0));
    for (kind, (seconds, count)) in kinds {
        let share = 100.0 * seconds / alone;
        eprintln!("{:8.2}  {share:5.1} %  {count:3} x {kind}", seconds * per_token);
    }
    Ok(())
}

/// A device that knows how long each step took at best, when steps come one by one.
struct Timed {
    cpu: Cpu,
    /// Of the pass under way, the step that is next.
    step: usize,
    best: Vec<(String, f64)>,
}

impl Backend for Timed {
    fn info(&self) -> &DeviceInfo {
        self.cpu.info()
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        self.cpu.pack(weights)
    }

    fn unpack(&mut self, weights: WeightId) {
        self.cpu.unpack(weights);
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        self.cpu.alloc(bytes)
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.cpu.write(to, at, bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        let start = Instant::now();
        self.cpu.run(steps)?;
        let seconds = start.elapsed().as_secs_f64();
        if self.step == self.best.len() {
            self.best.push((kind(&steps[0]), f64::INFINITY));
        }
        let best = &mut self.best[self.step].1;
        *best = best.min(seconds);
        self.step += 1;
        Ok(())
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.cpu.read(from, at, bytes)
    }

    fn reset(&mut self) {
        self.cpu.reset();
    }
}

fn kind(step: &Step<'_>) -> String {
    match step {
        Step::Linear { shape, .. } => format!("linear {}x{}", shape.k, shape.n),
        Step::Attention { .. } => "attention".to_owned(),
        Step::Add { .. } => "add".to_owned(),
        Step::Norm { .. } => "norm".to_owned(),
        Step::Activation { .. } => "activation".to_owned(),
        Step::Pool { .. } => "pool".to_owned(),
        Step::Embed { .. } | Step::Position { .. } => "embedding".to_owned(),
        _ => "other".to_owned(),
    }
}
