//! Two devices, one of which fails: what callers notice, and how long a wrong bit lives (line G5).
//!
//! `faults [--minilm DIR] [--seconds 4]` prints one JSON object:
//!
//! * `removed`: 64 callers keep digits busy; in the middle one device stops answering, as an unplugged one does, for a
//!   second. Every answer is compared with the CPU's.
//! * `flipped`: a bit of a weight flips on an idle device. How long until it is out of service, in intervals of the canary
//!   (known question), and whether it serves right bits once its weights are packed anew.
//!
//! One device is the first GPU adapter of the machine where there is one, else both are CPUs.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../stand_ins.rs"]
#[allow(dead_code, reason = "what only doors are handed")]
mod stand_ins;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use hyperion_backend_wgpu::{Wgpu, adapters};
use hyperion_engine::{Engine, EngineConfig, Registry};
use hyperion_model::{Model, Prepared, Trust, import::mlp};
use hyperion_ops::{
    Backend, BackendError, BufferId, Cpu, DeviceInfo, KernelSet, Serial, Step, WeightId, Weights,
};
use hyperion_primitives::{Address, Mix, U256};
use hyperion_verify::{Domain, Request};
use serde_json::{Value, json};
use stand_ins::{Key, RealClock, Sink};

const DOMAIN: Domain = Domain { chain_id: 31_337, verifying_contract: Address::repeat_byte(0x52) };
const CALLERS: u64 = 64;
/// Time from one known question to an idle device to the next.
const CANARY: Duration = Duration::from_secs(1);

fn main() {
    let seconds = std::env::args().skip_while(|word| word != "--seconds").nth(1);
    let seconds: f64 = seconds.map_or(4.0, |text| text.parse().expect("--seconds N"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits");
    let mut file = Vec::new();
    mlp(&folder).expect("the committed model").write(&mut file).expect("memory");
    let model = Arc::new(Model::from_bytes(file, Trust::Roots).expect("what was just written"));

    let faults = Faults::default();
    let cpu = || Box::new(Cpu::new(KernelSet::best(), Arc::new(Serial)));
    let weak: Box<dyn Backend> = match adapters().first() {
        Some(adapter) => Box::new(Wgpu::open(adapter.index, 1 << 30).expect("it opens")),
        None => cpu(),
    };
    let weak = Faulty { inner: weak, faults: faults.clone(), packed: Vec::new(), first: None };
    let mut registry = Registry::new();
    registry.add("digits", Arc::clone(&model)).expect("a name");
    let (sink, claims) = mpsc::channel();
    thread::spawn(move || claims.into_iter().for_each(drop));
    let config = EngineConfig {
        probe_us: CANARY.as_micros() as u64,
        // The callers wait while a device is tested; the suite would only make that longer.
        suite: false,
        ..EngineConfig::default()
    };
    let engine = Engine::new(
        config,
        registry,
        vec![cpu(), Box::new(weak)],
        Arc::new(Key::fixed()),
        DOMAIN,
        Arc::new(RealClock::start()),
        Box::new(Sink(sink)),
    )
    .expect("two devices");
    wait(|| engine.stats().devices.iter().all(|device| device.in_service));
    let report = json!({
        "devices": engine.stats().devices.iter().map(|d| d.info.name.clone()).collect::<Vec<_>>(),
        "removed": removed(&engine, &model, &faults, Duration::from_secs_f64(seconds)),
        "flipped": flipped(&engine, &model, &faults),
    });
    println!("{report:#}");
}

/// Waits for something that happens within seconds.
fn wait(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never happened");
        thread::sleep(Duration::from_millis(1));
    }
}

fn image(mix: &mut Mix) -> Vec<u8> {
    (0..64).flat_map(|_| mix.i32(17).to_le_bytes()).collect()
}

/// The CPU's outputs for the inputs of one caller.
fn wanted(model: &Model, inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut cpu = Cpu::new(KernelSet::best(), Arc::new(Serial));
    let prepared = Prepared::load(model, &mut cpu, 1).expect("memory");
    let one = |input: &Vec<u8>| {
        let outputs = prepared.run(&mut cpu, &[input]).expect("memory");
        outputs.into_iter().next().expect("one output").data
    };
    inputs.iter().map(one).collect()
}

/// Asks for one answer; `None` when the engine gave none.
fn ask(engine: &Engine, nonce: u64, input: &[u8]) -> Option<Vec<u8>> {
    let model = engine.resolve("digits").expect("registered");
    let request = Request { nonce: U256::from(nonce), ..Request::default() };
    let job = engine.complete(model.id, request, input.into()).expect("a good input");
    let (done, outcome) = mpsc::channel();
    let tell = Box::new(move |outcome| drop(done.send(outcome)));
    let _ticket = engine.submit(job, tell).ok()?;
    Some(outcome.recv().ok()?.ok()?.output.data.clone())
}

fn removed(engine: &Engine, model: &Model, faults: &Faults, time: Duration) -> Value {
    let (over, asked, lost, wrong) = <(AtomicBool, AtomicU64, AtomicU64, AtomicU64)>::default();
    let before = engine.stats().devices_lost;
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (over, asked, lost, wrong) = (&over, &asked, &lost, &wrong);
            scope.spawn(move || {
                let mut mix = Mix::new(caller);
                let mut nonce = caller << 32;
                while !over.load(SeqCst) {
                    let inputs: Vec<Vec<u8>> = (0..16).map(|_| image(&mut mix)).collect();
                    for (input, want) in inputs.iter().zip(wanted(model, &inputs)) {
                        nonce += 1;
                        asked.fetch_add(1, SeqCst);
                        match ask(engine, nonce, input) {
                            None => lost.fetch_add(1, SeqCst),
                            Some(got) => wrong.fetch_add(u64::from(got != want), SeqCst),
                        };
                    }
                }
            });
        }
        thread::sleep(time / 2);
        faults.removed.store(true, SeqCst);
        thread::sleep(Duration::from_secs(1));
        faults.removed.store(false, SeqCst);
        thread::sleep(time / 2);
        over.store(true, SeqCst);
    });
    json!({
        "callers": CALLERS,
        "asked": asked.into_inner(),
        "lost": lost.into_inner(),
        "wrong": wrong.into_inner(),
        "devices_lost": engine.stats().devices_lost - before,
    })
}

fn flipped(engine: &Engine, model: &Model, faults: &Faults) -> Value {
    wait(|| engine.stats().devices[1].in_service);
    let probes = engine.stats().devices[1].probes;
    // Just after a known question, so that the wrong bit lives as long as it can.
    wait(|| engine.stats().devices[1].probes > probes);
    let lost = engine.stats().devices_lost;
    faults.flip.store(true, SeqCst);
    let since = Instant::now();
    // Counted, since a device whose model is small is back sooner than a look at it comes.
    wait(|| engine.stats().devices_lost > lost);
    let caught = since.elapsed();
    wait(|| engine.stats().devices[1].in_service);
    let mut mix = Mix::new(99);
    let inputs: Vec<Vec<u8>> = (0..200).map(|_| image(&mut mix)).collect();
    let answers = inputs.iter().enumerate().map(|(i, input)| ask(engine, i as u64, input));
    let wrong = answers
        .zip(wanted(model, &inputs))
        .filter(|(got, want)| got.as_ref() != Some(want))
        .count();
    json!({
        "canary_s": CANARY.as_secs_f64(),
        "caught_after_s": caught.as_secs_f64(),
        "caught_after_intervals": caught.as_secs_f64() / CANARY.as_secs_f64(),
        "wrong_afterwards": wrong,
    })
}

/// What is to go wrong.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Whether the device answers nothing.
    removed: Arc<AtomicBool>,
    /// Whether a bit of its first layer flips before its next run.
    flip: Arc<AtomicBool>,
}

/// A device that does what [`Faults`] says.
struct Faulty {
    inner: Box<dyn Backend>,
    faults: Faults,
    /// Ids of the device inside, by those given out.
    packed: Vec<WeightId>,
    /// The first layer that was packed: its number and what it is made of.
    first: Option<(usize, Layer)>,
}

struct Layer {
    shape: hyperion_ops::LinearShape,
    codes: Vec<u8>,
    mantissas: Vec<u8>,
    exponents: Vec<i8>,
    bias: Option<Vec<i32>>,
}

impl Faulty {
    fn present(&self) -> Result<(), BackendError> {
        if self.faults.removed.load(SeqCst) {
            return Err(BackendError::Lost("unplugged".to_owned()));
        }
        Ok(())
    }

    fn flip(&mut self) -> Result<(), BackendError> {
        let Some((index, layer)) = &mut self.first else { return Ok(()) };
        // The top bit of a code: committed bytes have 128 added.
        layer.codes[5] ^= 0x40;
        let weights = Weights::Linear {
            shape: layer.shape,
            codes: &layer.codes,
            groups: None,
            mantissas: &layer.mantissas,
            exponents: &layer.exponents,
            bias: layer.bias.as_deref(),
            smooth: None,
        };
        let flipped = self.inner.pack(&weights)?;
        let old = std::mem::replace(&mut self.packed[*index], flipped);
        self.inner.unpack(old);
        Ok(())
    }

    /// A step with the ids of the device inside.
    fn inside<'s>(&self, step: &Step<'s>) -> Step<'s> {
        let inside = |id: WeightId| self.packed[id.0 as usize];
        match *step {
            Step::Linear { weights, shape, input, out } => {
                Step::Linear { weights: inside(weights), shape, input, out }
            }
            Step::Embed { .. } | Step::Position { .. } | Step::Norm { .. } | Step::Rope { .. } => {
                unreachable!("a perceptron has none of these")
            }
            step => step,
        }
    }
}

impl Backend for Faulty {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        self.present()?;
        if let Weights::Linear {
            shape,
            codes,
            groups: None,
            mantissas,
            exponents,
            bias,
            smooth: None,
        } = *weights
        {
            let layer = Layer {
                shape,
                codes: codes.to_vec(),
                mantissas: mantissas.to_vec(),
                exponents: exponents.to_vec(),
                bias: bias.map(<[i32]>::to_vec),
            };
            self.first.get_or_insert((self.packed.len(), layer));
        }
        let id = self.inner.pack(weights)?;
        self.packed.push(id);
        Ok(WeightId(self.packed.len() as u32 - 1))
    }

    fn unpack(&mut self, weights: WeightId) {
        let index = weights.0 as usize;
        if self.first.as_ref().is_some_and(|(first, _)| *first == index) {
            self.first = None;
        }
        self.inner.unpack(self.packed[index]);
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        self.present()?;
        self.inner.alloc(bytes)
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.present()?;
        self.inner.write(to, at, bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        self.present()?;
        if self.faults.flip.swap(false, SeqCst) {
            self.flip()?;
        }
        let steps: Vec<Step<'_>> = steps.iter().map(|step| self.inside(step)).collect();
        self.inner.run(&steps)
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.present()?;
        self.inner.read(from, at, bytes)
    }

    fn reset(&mut self) {
        self.inner.reset();
    }
}
