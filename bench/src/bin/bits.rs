//! Whether every kernel computes the definition's bits, and whether anything but the input shows in an answer
//! (line M1).
//!
//! `bits --cases N --minilm DIR` sweeps every stem of the conformance suite through the definition and every kernel
//! set of this machine, N rows or more per stem, drawn from streams of their own; then it runs MiniLM and the digits
//! classifier in batches of 1, 2, 7 and 32 inputs on one and two threads, and counts the distinct digests of all
//! outputs. It prints one JSON object, and what is done so far on stderr.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use hyperion_engine::KernelPool;
use hyperion_model::{Model, Prepared, Tokenizer, Trust, import::import};
use hyperion_ops::{
    Backend, Cpu, KernelSet, Parallel, Reference, Serial,
    conformance::{Stem, sweep},
};
use hyperion_primitives::{B256, Keccak, tensor_root};
use serde_json::{Value, json};

/// Streams that the cases of a stem are drawn from, so that all cores have work until the end.
const STREAMS: u64 = 16;
/// Inputs per batch.
const BATCHES: [usize; 4] = [1, 2, 7, 32];
/// Inputs of a model; the last batch of 7 has fewer.
const INPUTS: usize = 32;
/// Sets that this project has kernels for, beside the definition.
const SETS: [&str; 3] = ["portable", "avx2", "avx512-vnni"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["--cases", cases, "--minilm", minilm] = arguments[..] else {
        return Err("usage: bits --cases N --minilm DIR".into());
    };
    let models = json!({ "minilm": minilm_digests(Path::new(minilm))?, "digits": digits()? });
    let available: Vec<&str> = KernelSet::available().iter().map(|set| set.name()).collect();
    let skipped: BTreeMap<&str, &str> = SETS
        .into_iter()
        .filter(|set| !available.contains(set))
        .map(|set| (set, "this CPU lacks the instructions"))
        .collect();
    let ops = sweeps(cases.parse()?)?;
    println!("{:#}", json!({ "ops": ops, "models": models, "skipped": skipped }));
    Ok(())
}

/// What the sweeps of a stem found.
#[derive(Clone, Default)]
struct Found {
    cases: u64,
    elements: u64,
    differences: u64,
    /// By kernel set, where there are any.
    differing: BTreeMap<&'static str, u64>,
    seconds: f64,
}

/// Compares all kernel sets on `cases` rows of every stem.
fn sweeps(cases: u64) -> Result<Value, Box<dyn Error>> {
    let sets = KernelSet::available();
    // One stream after another over all stems, so that a slow stem is not left to one core in the end.
    let tasks: Vec<(Stem, u64)> =
        Stem::ALL.into_iter().flat_map(|stem| (0..STREAMS).map(move |s| (stem, s))).collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<Stem, Found>::new()));
    let cores = thread::available_parallelism().map_or(1, Into::into);
    thread::scope(|scope| {
        let work = || -> Result<(), hyperion_ops::BackendError> {
            while let Some((stem, stream)) = tasks.get(next.fetch_add(1, Relaxed)) {
                let one = swept(*stem, *stream, cases.div_ceil(STREAMS), &sets)?;
                let mut found = found.lock().expect("no sweep panics while it holds this");
                let all = found.entry(*stem).or_default();
                all.cases += one.cases;
                all.elements += one.elements;
                all.differences += one.differences;
                all.seconds += one.seconds;
                one.differing
                    .iter()
                    .for_each(|(set, n)| *all.differing.entry(set).or_default() += n);
                if stream + 1 == STREAMS {
                    let Found { cases, differences, seconds, .. } = all;
                    let name = stem.name();
                    eprintln!("{name}: {cases} cases, {differences} differences, {seconds:.1} s");
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no sweep panics"))
    })?;
    let found = found.into_inner().expect("all workers returned");
    let report = found.into_iter().map(|(stem, found)| (stem.name().to_owned(), found.json(stem)));
    Ok(Value::Object(report.collect()))
}

fn swept(
    stem: Stem,
    stream: u64,
    cases: u64,
    sets: &[KernelSet],
) -> Result<Found, hyperion_ops::BackendError> {
    let start = Instant::now();
    let mut definition = Reference::default();
    let mut devices: Vec<Cpu> = if stem.on_device() {
        sets.iter().map(|set| Cpu::new(*set, Arc::new(Serial))).collect()
    } else {
        Vec::new()
    };
    let mut others: Vec<&mut dyn Backend> =
        devices.iter_mut().map(|device| device as &mut dyn Backend).collect();
    // Streams of `check` start at 1, 2, ...; these lie elsewhere.
    let seed = (stem as u64 + 1) << 32 | (stream + 1) << 16;
    let tally = sweep(stem, cases, seed, &mut definition, &mut others)?;
    let differing = sets.iter().map(|set| set.name()).zip(tally.differences.iter().copied());
    Ok(Found {
        cases: tally.cases,
        elements: tally.elements,
        differences: tally.differences.iter().sum(),
        differing: differing.collect(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

impl Found {
    fn json(&self, stem: Stem) -> Value {
        let mut value = json!({
            "cases": self.cases,
            "elements": self.elements,
            "differences": self.differences,
            "kernel_sets": self.differing.keys().collect::<Vec<_>>(),
            "core_seconds": self.seconds,
        });
        if !stem.on_device() {
            value["note"] = "the same scalar code on every device: nothing to compare".into();
        }
        if self.differences > 0 {
            value["differences_by_set"] = json!(self.differing);
        }
        value
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn imported(source: &Path) -> Result<Model, Box<dyn Error>> {
    let mut file = Vec::new();
    import(source, &mut |_, _| {})?.write(&mut file)?;
    Ok(Model::from_bytes(file, Trust::Roots)?)
}

fn minilm_digests(source: &Path) -> Result<Value, Box<dyn Error>> {
    let model = imported(source)?;
    let tokenizer = Tokenizer::open(&source.join("tokenizer.json"), model.program().context())?;
    let tokenizer = tokenizer.for_model(model.tokenizer_hash())?;
    let text = std::fs::read_to_string(fixtures().join("sentences.txt"))?;
    // Every other line, so that the shortest and the longest both come with others in a batch.
    let lines = text.lines().step_by(2).take(INPUTS);
    let inputs: Vec<Vec<u8>> = lines
        .map(|line| {
            let tokens = tokenizer.encode(line)?;
            Ok(tokens.into_iter().flat_map(u32::to_le_bytes).collect())
        })
        .collect::<Result<_, Box<dyn Error>>>()?;
    digests("minilm", &model, &inputs)
}

fn digits() -> Result<Value, Box<dyn Error>> {
    let source = fixtures().join("digits");
    let model = imported(&source)?;
    let text = std::fs::read_to_string(source.join("test.csv"))?;
    let inputs: Vec<Vec<u8>> = text
        .lines()
        .take(INPUTS)
        .map(|line| {
            let numbers = line.split(',').skip(1).map(str::parse::<i32>);
            let pixels = numbers.collect::<Result<Vec<_>, _>>()?;
            // A pixel is sixteenths: 16 is 1.0, which is 65,536 in Q16.
            Ok(pixels.into_iter().flat_map(|pixel| (pixel * 4096).to_le_bytes()).collect())
        })
        .collect::<Result<_, Box<dyn Error>>>()?;
    digests("digits", &model, &inputs)
}

/// Counts the digests of all outputs over devices, threads and batches.
fn digests(name: &str, model: &Model, inputs: &[Vec<u8>]) -> Result<Value, Box<dyn Error>> {
    assert_eq!(inputs.len(), INPUTS, "the fixtures have enough inputs");
    let rows = u32::try_from(inputs.iter().map(Vec::len).sum::<usize>() / 4)?;
    let threads: [(usize, Arc<dyn Parallel>); 2] =
        [(1, Arc::new(Serial)), (2, Arc::new(KernelPool::new(2)?))];
    let mut found = BTreeSet::new();
    let mut runs = 0;
    let mut take = |backend: &mut dyn Backend, label: String| -> Result<(), Box<dyn Error>> {
        let prepared = Prepared::load(model, backend, rows)?;
        for batch in BATCHES {
            let start = Instant::now();
            let digest = digest(&prepared, backend, inputs, batch)?;
            eprintln!(
                "{name}, {label}, batches of {batch}: {digest}, {:.2} s",
                start.elapsed().as_secs_f64()
            );
            found.insert(digest);
            runs += 1;
        }
        Ok(())
    };
    take(&mut Reference::default(), "definition".to_owned())?;
    for set in KernelSet::available() {
        for (threads, parallel) in &threads {
            let mut cpu = Cpu::new(set, Arc::clone(parallel));
            take(&mut cpu, format!("{}, {threads} threads", set.name()))?;
        }
    }
    Ok(json!({ "digests": found.len(), "inputs": inputs.len(), "runs": runs }))
}

/// Digest of the outputs in the order of the inputs, whatever batches they ran in.
fn digest(
    prepared: &Prepared,
    backend: &mut dyn Backend,
    inputs: &[Vec<u8>],
    batch: usize,
) -> Result<B256, Box<dyn Error>> {
    let mut hasher = Keccak::new();
    for inputs in inputs.chunks(batch) {
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        for output in prepared.run(backend, &inputs)? {
            let root = tensor_root(output.dtype, &output.dims, &output.data);
            hasher.update(root.ok_or("an output's bytes are of its shape")?.0);
        }
    }
    Ok(hasher.finish())
}
