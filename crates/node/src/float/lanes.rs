//! A thread and a queue for each float model, and the claims about what they answer.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hyperion_engine::{Answer, ClaimSink as _, Clock as _, Drawing, Pushback, Signer as _, Tensor};
use hyperion_float::{Ending, Facts, Generation, Kind, Options};
use hyperion_model::{Tokenizer, import::generation::Generation as Advice};
use hyperion_ops::Sampling as Draws;
use hyperion_primitives::{B256, Dtype, ModelId, RequestId};
use hyperion_rpc::{
    door::Face,
    float::{FloatJob, FloatKind, FloatModel, FloatServer, OnFloat},
    status::{Code, Error},
};
use hyperion_verify::{Claim, SignedClaim};

use super::Notary;
use crate::{
    config::{FloatModelConfig, NodeConfig},
    served::{Served, writing},
    text::Text,
};

/// Answers that are kept, so that a request asked twice is not answered twice.
const KEPT: usize = 1024;
/// How long a full log is left alone.
const SINK_WAIT: Duration = Duration::from_millis(20);
/// When to come back if a queue is full: nobody can say how long an answer takes.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// The float models of a node; nothing where none is configured.
pub(crate) struct Lanes(Option<Arc<Server>>);

/// Every float model, and what they share.
struct Server {
    models: Vec<FloatModel>,
    lanes: Vec<Lane>,
    shared: Arc<Shared>,
}

struct Lane {
    facts: Arc<Facts>,
    face: Face,
    /// `None` once the node ends.
    jobs: Mutex<Option<SyncSender<(FloatJob, OnFloat)>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    notary: Notary,
    /// The newest answers, oldest first.
    kept: Mutex<VecDeque<Arc<Answer>>>,
    ends: AtomicBool,
}

impl Lanes {
    /// Loads every model that the configuration names and starts its thread.
    pub(crate) fn start(config: &NodeConfig, served: &[Served], notary: Notary) -> Result<Self> {
        if config.float_models.is_empty() {
            return Ok(Self(None));
        }
        let shared = Arc::new(Shared {
            notary,
            kept: Mutex::new(VecDeque::new()),
            ends: AtomicBool::new(false),
        });
        let (mut models, mut lanes) = (Vec::<FloatModel>::new(), Vec::new());
        for one in &config.float_models {
            let taken = served.iter().any(|other| other.alias == one.alias)
                || models.iter().any(|other| other.alias == one.alias);
            if taken || one.alias.is_empty() {
                bail!("float_models: alias `{}` is empty or another model's", one.alias);
            }
            let lane = Lane::start(one, config.admission.jobs_max, &shared)?;
            models.push(spoken(&one.alias, &lane.facts));
            lanes.push(lane);
        }
        Ok(Self(Some(Arc::new(Server { models, lanes, shared }))))
    }

    pub(crate) fn server(&self) -> Option<Arc<dyn FloatServer>> {
        self.0.clone().map(|server| server as _)
    }

    /// What people see of each.
    pub(crate) fn faces(&self) -> Vec<(ModelId, Face)> {
        let lanes = self.0.iter().flat_map(|server| &server.lanes);
        lanes.map(|lane| (lane.facts.id, lane.face.clone())).collect()
    }

    /// What a start prints of each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Some(server) = &self.0 else { return Vec::new() };
        let line = |(model, lane): (&FloatModel, &Lane)| {
            let Facts { family, runs_on, .. } = &*lane.facts;
            format!("float {}  {}  {family}  {runs_on}  attested only", model.alias, model.id)
        };
        server.models.iter().zip(&server.lanes).map(line).collect()
    }

    /// Cuts what runs, refuses what waits, and returns once every claim that was signed has been offered to the log.
    pub(crate) fn stop(&self) {
        let Some(server) = &self.0 else { return };
        server.shared.ends.store(true, Ordering::SeqCst);
        for lane in &server.lanes {
            drop(lock(&lane.jobs).take());
        }
        for lane in &server.lanes {
            let thread = lock(&lane.thread).take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!(model = %lane.facts.id, "the float model's thread had panicked");
            }
        }
    }
}

/// What the doors know of a model.
fn spoken(alias: &str, facts: &Facts) -> FloatModel {
    let vocabulary = facts.vocabulary;
    let kind = match &facts.kind {
        Kind::Generates => FloatKind::Generates { vocabulary },
        Kind::Embeds { width } => FloatKind::Embeds { vocabulary, width: *width },
        Kind::Maps { row, width } => {
            let input = row.iter().product::<usize>();
            FloatKind::Maps { input: u32::try_from(input).unwrap_or(u32::MAX), output: *width }
        }
    };
    FloatModel { alias: alias.to_owned(), id: facts.id, kind, rows_max: facts.rows_max }
}

/// What people see of a model that lies in `folder`: its words, and for a generator the advice there.
fn face(folder: &Path, facts: &Facts) -> Result<Face> {
    let (input, output) = match facts.kind {
        Kind::Generates => ("tokens", "tokens"),
        Kind::Embeds { .. } => ("tokens", "embedding"),
        Kind::Maps { .. } => ("pixels", "logits"),
    };
    let plain = Face { input: input.into(), output: output.into(), ..Face::default() };
    let Some(file) = &facts.tokenizer else { return Ok(plain) };
    match facts.kind {
        Kind::Generates => {
            let mut advice = Advice::of(folder)?;
            if advice.end_ids.is_empty() {
                advice.end_ids.clone_from(&facts.advice.end_ids);
            }
            advice.chat_template = advice.chat_template.or(facts.advice.chat_template.clone());
            // Not built for models in floating point, which refuse them.
            advice.sampling.min_p_q16 = Draws::GREEDY.min_p_q16;
            advice.sampling.repetition_q16 = Draws::GREEDY.repetition_q16;
            let text = Arc::new(Text::new(Tokenizer::whole(file)?, &advice)?);
            let writing = Some(writing(&text, Some(&advice)));
            Ok(Face { text: Some(text), writing, ..plain })
        }
        Kind::Embeds { .. } => {
            let text = Text::plain(Tokenizer::open(file, facts.rows_max)?);
            Ok(Face { text: Some(Arc::new(text)), ..plain })
        }
        Kind::Maps { .. } => Ok(plain),
    }
}

impl Lane {
    fn start(one: &FloatModelConfig, jobs_max: usize, shared: &Arc<Shared>) -> Result<Self> {
        let options = Options { device: one.device.clone(), dtype: one.dtype.clone() };
        let mut model = hyperion_float::FloatModel::open(&one.path, &options)
            .with_context(|| format!("float model {}", one.alias))?;
        let facts = model.facts();
        let folder = if one.path.is_dir() { Some(&*one.path) } else { one.path.parent() };
        let face = face(folder.unwrap_or(Path::new(".")), &facts)
            .with_context(|| format!("float model {}", one.alias))?;
        let (jobs, taken) = sync_channel(jobs_max.max(1));
        let shared = Arc::clone(shared);
        let run = move || run(&mut model, &taken, &shared);
        let thread = thread::Builder::new().name(format!("float {}", one.alias)).spawn(run);
        let thread = thread.context("a thread for a float model")?;
        Ok(Self { facts, face, jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }
}

impl Server {
    fn lane(&self, model: ModelId) -> Result<&Lane, Error> {
        self.lanes.iter().find(|lane| lane.facts.id == model).ok_or_else(|| {
            Error::at(Code::ModelNotFound, "model", format!("no float model {model} here"))
        })
    }
}

impl FloatServer for Server {
    fn models(&self) -> &[FloatModel] {
        &self.models
    }

    fn stored(&self, request: RequestId) -> Option<Arc<Answer>> {
        self.shared.stored(request)
    }

    fn submit(&self, job: FloatJob, done: OnFloat) {
        let lane = match self.lane(job.model) {
            Ok(lane) => lane,
            Err(error) => return done(Err(error)),
        };
        // Dropped unheard where the node ends, or the model's thread has.
        let Some(jobs) = lock(&lane.jobs).clone() else { return };
        if let Err(TrySendError::Full((_, done))) = jobs.try_send((job, done)) {
            let error = Error::at(Code::QueueFull, "model", "too many jobs wait for it");
            done(Err(error.retry_after(FULL_RETRY)));
        }
    }
}

/// The thread of a model: one job after the other, until nobody can hand in more.
fn run(
    model: &mut hyperion_float::FloatModel,
    jobs: &Receiver<(FloatJob, OnFloat)>,
    shared: &Shared,
) {
    while let Ok((job, done)) = jobs.recv() {
        // Asked twice, it is answered once: two claims about one request are two answers.
        let outcome = match shared.stored(job.id) {
            Some(answered) => Ok(answered),
            None => answer(model, job, shared),
        };
        done(outcome);
    }
}

fn answer(
    model: &mut hyperion_float::FloatModel,
    job: FloatJob,
    shared: &Shared,
) -> Result<Arc<Answer>, Error> {
    let goes_on = || !job.gone.is_cancelled() && !shared.ends.load(Ordering::SeqCst);
    let cut = || match shared.ends.load(Ordering::SeqCst) {
        true => Error::new(Code::Draining, "the node ends"),
        false => Error::new(Code::Cancelled, "the caller went away"),
    };
    if !goes_on() {
        return Err(cut());
    }
    let failed = |error: hyperion_float::FloatError| {
        tracing::error!(%error, model = %job.model, "a float model failed");
        Error::new(Code::Internal, error.to_string())
    };
    let output = match (&job.draw, &model.facts().kind) {
        (Some((drawing, seed)), _) => {
            let how = generation(drawing, *seed);
            let mut position = 0;
            let mut told = |token| {
                if let Some(on_tokens) = &job.on_tokens {
                    on_tokens(position, &[token], &[]);
                }
                position += 1;
                goes_on()
            };
            let told = model.generate(&words(&job.input), &how, &mut told).map_err(failed)?;
            if told.ending == Ending::Cut {
                return Err(cut());
            }
            let data: Vec<u8> = told.tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
            Tensor::new(Dtype::U32, [told.tokens.len() as u64, 1], data)
        }
        (None, Kind::Maps { .. }) => {
            let rows: Vec<i32> = words(&job.input).into_iter().map(u32::cast_signed).collect();
            let out = model.map(&rows).map_err(failed)?;
            let width = out.len() as u64 / u64::from(job.rows.max(1));
            let data: Vec<u8> = out.iter().flat_map(|code| code.to_le_bytes()).collect();
            Tensor::new(Dtype::I32, [job.rows.into(), width], data)
        }
        (None, _) => {
            let vector = model.embed(&words(&job.input)).map_err(failed)?;
            let data: Vec<u8> = vector.iter().flat_map(|code| code.to_le_bytes()).collect();
            Tensor::new(Dtype::I16, [1, vector.len() as u64], data)
        }
    };
    shared.vouch(job, output)
}

/// Words of four bytes, little-endian.
fn words(input: &[u8]) -> Vec<u32> {
    input.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// A request's settings as candle takes them.
fn generation(drawing: &Drawing, seed: B256) -> Generation {
    let sampling = drawing.sampling();
    let real = |q16: i64| q16 as f64 / 65_536.0;
    let (first, _) = seed.0.split_first_chunk::<8>().expect("a seed has 32 bytes");
    #[expect(clippy::cast_possible_truncation, reason = "logits are no more exact than an f32")]
    let penalty = |q16: i32| real(q16.into()) as f32;
    Generation {
        temperature: real(sampling.temperature_q16.into()),
        top_k: sampling.top_k as usize,
        top_p: real(sampling.top_p_q16.into()),
        frequency: penalty(sampling.frequency_q16),
        presence: penalty(sampling.presence_q16),
        tokens_max: sampling.tokens_max,
        ends: drawing.stop_ids().to_vec(),
        seed: u64::from_be_bytes(*first),
    }
}

impl Shared {
    fn stored(&self, request: RequestId) -> Option<Arc<Answer>> {
        let kept = lock(&self.kept);
        kept.iter().find(|kept| kept.claim.claim.request_id == request).cloned()
    }

    /// Signs that `output` answers the job, keeps the answer and offers the claim to the log.
    fn vouch(&self, job: FloatJob, output: Tensor) -> Result<Arc<Answer>, Error> {
        let Notary { signer, domain, challenge_s, clock, claims } = &self.notary;
        let rows = |rows: usize| u32::try_from(rows).unwrap_or(u32::MAX);
        let out_tokens = if job.draw.is_some() { rows(output.data.len() / 4) } else { 0 };
        let claim = Claim {
            request_id: job.id,
            model_id: job.model,
            input_hash: job.request.input_hash,
            output_hash: output.output_hash(),
            sampling_hash: job.request.sampling_hash,
            seed: job.draw.as_ref().map_or(B256::ZERO, |(_, seed)| *seed),
            trace_root: B256::ZERO,
            in_tokens: job.rows,
            out_tokens,
            // There is no program that work could be counted by.
            macs: 0,
            challenge_until: clock.unix_s().saturating_add(*challenge_s),
            tier: 0,
            worker: signer.address(),
        };
        let digest = claim.digest(domain);
        let signature =
            signer.sign(digest.0).map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        let claim = SignedClaim { claim, signature };
        let answer = Answer {
            request: job.request,
            output: Arc::new(output),
            claim,
            digest,
            replayed: false,
        };
        let answer = Arc::new(answer);
        while let Err(refused) = claims.offer(Arc::clone(&answer)) {
            // A node that ends does not wait for a full disk; nobody was told of this claim.
            if refused == Pushback::Draining || self.ends.load(Ordering::SeqCst) {
                return Err(Pushback::Draining.into());
            }
            thread::park_timeout(SINK_WAIT);
        }
        let mut kept = lock(&self.kept);
        kept.push_back(Arc::clone(&answer));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(answer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
