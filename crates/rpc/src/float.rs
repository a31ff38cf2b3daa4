//! Models in floating point, beside the engine's: what a call of one asks, and what comes back.
//!
//! No other answer of this crate is one that nobody can recompute: requests and claims are of tier 0, *attested only*
//! (`docs/float.md`), and the node runs them apart from the engine, behind [`FloatServer`] in builds that have one.
//! Surfaces do not tell them apart: a caller's `AnyModel` model becomes a `Work`, which is answered or streamed.

use std::{fmt, sync::Arc};

use hyperion_engine::{Answer, Drawing, Job, ModelInfo, OnTokens};
use hyperion_primitives::{B256, Dtype, ModelId, RequestId, U256, input_hash, tensor_root};
use hyperion_verify::{Request, SignedClaim};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    answer::{Answered, Place, WaitFor},
    auth::Caller,
    convert::{Form, Input, check_requester, copied, output_form},
    door::{Door, Face},
    r#gen::v1,
    limits::at_most,
    log::checkpoint_of_at_least,
    lookup::exponent,
    status::{Code, Error},
    writing::{of_wire, tokens},
};

/// Serves models in floating point.
pub trait FloatServer: Send + Sync + 'static {
    /// Every model, in the order of configuration.
    fn models(&self) -> &[FloatModel];

    /// The stored answer to a request, while there is one.
    fn stored(&self, request: RequestId) -> Option<Arc<Answer>>;

    /// Runs a job, signs what came of it and offers the claim to the log. `done` hears once, on another thread; if it is
    /// dropped unheard, the model is out of service.
    fn submit(&self, job: FloatJob, done: OnFloat);
}

/// Receives the end of a job.
pub type OnFloat = Box<dyn FnOnce(Result<Arc<Answer>, Error>) + Send>;

/// What is known of a model in floating point. What people see of it is a [`Face`], as of every model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatModel {
    /// The name it is asked for by.
    pub alias: String,
    /// Its identity; never that of an exact model.
    pub id: ModelId,
    /// What it reads and gives.
    pub kind: FloatKind,
    /// Rows of an input at most: images, or tokens, which count with those of the answer.
    pub rows_max: u32,
}

/// What a model reads and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatKind {
    /// Token ids below a bound, and token ids that answer them.
    Generates {
        /// The bound.
        vocabulary: u32,
    },
    /// Token ids below a bound, and one vector of unit length, i16 in Q15.
    Embeds {
        /// The bound.
        vocabulary: u32,
        /// Numbers of the vector.
        width: u32,
    },
    /// Rows of numbers, i32 in Q16, and as many rows that come of them.
    Maps {
        /// Numbers of a row that goes in.
        input: u32,
        /// Numbers of a row that comes out.
        output: u32,
    },
}

impl FloatModel {
    /// What it reads.
    pub(crate) fn reads(&self) -> Form {
        match self.kind {
            FloatKind::Generates { .. } | FloatKind::Embeds { .. } => {
                Form { dtype: Dtype::U32, width: 1 }
            }
            FloatKind::Maps { input, .. } => Form { dtype: Dtype::I32, width: input.into() },
        }
    }

    /// What it gives.
    pub(crate) fn gives(&self) -> Form {
        match self.kind {
            FloatKind::Generates { .. } => Form { dtype: Dtype::U32, width: 1 },
            FloatKind::Embeds { width, .. } => Form { dtype: Dtype::I16, width: width.into() },
            FloatKind::Maps { output, .. } => Form { dtype: Dtype::I32, width: output.into() },
        }
    }

    /// Token ids that it reads are below this.
    const fn vocabulary(&self) -> Option<u32> {
        match self.kind {
            FloatKind::Generates { vocabulary } | FloatKind::Embeds { vocabulary, .. } => {
                Some(vocabulary)
            }
            FloatKind::Maps { .. } => None,
        }
    }

    const fn generates(&self) -> bool {
        matches!(self.kind, FloatKind::Generates { .. })
    }
}

/// A checked request with its input.
#[derive(Clone)]
pub struct FloatJob {
    /// The model.
    pub model: ModelId,
    /// Name of the request.
    pub id: RequestId,
    /// The request, every field filled.
    pub request: Request,
    /// Elements of the input, little-endian: as many as the model takes, token ids in its vocabulary.
    pub input: Arc<[u8]>,
    /// Rows of the input.
    pub rows: u32,
    /// How an answer is drawn, and from which seed; `None` for a model that draws nothing.
    pub draw: Option<(Drawing, B256)>,
    /// Hears each token with its position as it is drawn.
    pub on_tokens: Option<OnTokens>,
    /// Fires when nobody waits any more.
    pub gone: CancellationToken,
}

impl fmt::Debug for FloatJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FloatJob")
            .field("model", &self.model)
            .field("id", &self.id)
            .field("rows", &self.rows)
            .field("draw", &self.draw)
            .finish_non_exhaustive()
    }
}

/// A model that a caller named.
#[derive(Clone, Debug)]
pub(crate) enum AnyModel {
    Exact(ModelInfo),
    Float(FloatModel),
}

impl AnyModel {
    pub(crate) const fn id(&self) -> ModelId {
        match self {
            Self::Exact(model) => model.id,
            Self::Float(model) => model.id,
        }
    }

    pub(crate) fn generates(&self) -> bool {
        match self {
            Self::Exact(model) => model.model.manifest().generator,
            Self::Float(model) => model.generates(),
        }
    }

    /// Whether an answer can end by a text; in floating point it ends by ids only.
    pub(crate) const fn ends_in_text(&self) -> bool {
        matches!(self, Self::Exact(_))
    }

    /// What it gives.
    pub(crate) fn gives(&self) -> Form {
        match self {
            Self::Exact(model) => output_form(model),
            Self::Float(model) => model.gives(),
        }
    }
}

/// A job of either kind of model.
pub(crate) enum Work {
    Exact(Job),
    Float(FloatJob),
}

impl Work {
    pub(crate) fn id(&self) -> RequestId {
        match self {
            Self::Exact(job) => job.id(),
            Self::Float(job) => job.id,
        }
    }

    pub(crate) fn request(&self) -> &Request {
        match self {
            Self::Exact(job) => job.request(),
            Self::Float(job) => &job.request,
        }
    }

    /// Elements of the input, little-endian.
    pub(crate) fn input(&self) -> &[u8] {
        match self {
            Self::Exact(job) => job.input(),
            Self::Float(job) => &job.input,
        }
    }

    /// A copy of the job, where it asks for log probabilities: only exact ones do.
    pub(crate) fn with_logprobs(&self) -> Option<Job> {
        match self {
            Self::Exact(job) => job.wants_logprobs().then(|| job.clone()),
            Self::Float(_) => None,
        }
    }

    pub(crate) fn drawing(&self) -> Option<&Drawing> {
        match self {
            Self::Exact(job) => job.drawing(),
            Self::Float(job) => job.draw.as_ref().map(|(drawing, _)| drawing),
        }
    }
}

/// What a call of a model in floating point asks, beside the model and its input.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) sampling: Option<v1::Sampling>,
    pub(crate) request: Request,
    pub(crate) signature: Option<[u8; 65]>,
}

/// Tokens of an answer where the request does not say.
const TOKENS_DEFAULT: u32 = 256;
/// Seconds after which an answer is not wanted any more where the request does not say; as for exact models.
const REQUEST_S: u64 = 60;
/// All of the weight, in Q16.
const ALL_Q16: u32 = 1 << 16;

impl Door {
    /// The model in floating point that `name` means: an alias, or `0x` and 64 hex digits.
    pub(crate) fn float_model(&self, name: &str) -> Option<FloatModel> {
        let models = self.float.as_ref()?.models();
        let is_meant = |model: &&FloatModel| model.alias == name || model.id.to_string() == name;
        models.iter().find(is_meant).cloned()
    }

    /// Models in floating point for the wire: without a program and without a count of work, because they have none.
    pub(crate) fn wire_float_models(&self) -> Vec<v1::Model> {
        let spec = |name: &str, form: Form, rows: i64| v1::TensorSpec {
            name: name.to_owned(),
            dtype: form.dtype.code().into(),
            dims: vec![rows, i64::try_from(form.width).unwrap_or(i64::MAX)],
            exponent: exponent(form.dtype),
        };
        let wire = |model: &FloatModel| {
            let face = self.face(model.id);
            let rows = if matches!(model.kind, FloatKind::Embeds { .. }) { 1 } else { -1 };
            v1::Model {
                alias: model.alias.clone(),
                model_id: copied(model.id.0),
                inputs: vec![spec(&face.input, model.reads(), -1)],
                outputs: vec![spec(&face.output, model.gives(), rows)],
                ready: true,
                rows_max: model.rows_max,
                causal: model.generates(),
                generator: model.generates(),
                ..v1::Model::default()
            }
        };
        self.float.iter().flat_map(|float| float.models()).map(wire).collect()
    }

    /// Runs a job and waits as far as `wait` says. Dropping the future takes the job out of the queue, or cuts it.
    pub(crate) async fn float_answered(
        &self,
        job: FloatJob,
        wait: WaitFor,
        caller: &Caller,
    ) -> Result<Answered, Error> {
        let float = self.float.as_ref().ok_or_else(|| {
            Error::new(Code::Internal, "a model in floating point without its server")
        })?;
        let answer = match float.stored(job.id) {
            Some(stored) => Arc::new(Answer { replayed: true, ..Answer::clone(&stored) }),
            None if self.log.claim_of(job.id)?.is_some() => {
                let text = format!("request {} was answered before; draw a new nonce", job.id);
                return Err(Error::at(Code::NonceSpent, "request.nonce", text));
            }
            None => {
                let _place = caller.take_place()?;
                let _gone = job.gone.clone().drop_guard();
                let (done, outcome) = oneshot::channel();
                float.submit(job, Box::new(|outcome| drop(done.send(outcome))));
                let text = "the model is out of service until the node starts again";
                outcome.await.map_err(|_| Error::new(Code::NoWorker, text))??
            }
        };
        let place = match wait {
            WaitFor::Signed => None,
            // Tier 0 is reached by being logged.
            WaitFor::Logged | WaitFor::Tier => Some(self.float_place(&answer).await?),
        };
        Ok(Answered { answer, reached: 0, place, logprobs: Vec::new() })
    }

    /// The job of a call: every check made, every hash filled.
    pub(crate) async fn float_job(
        self: &Arc<Self>,
        model: FloatModel,
        input: Input,
        terms: Terms,
    ) -> Result<FloatJob, Error> {
        let Terms { sampling, mut request, signature } = terms;
        let draw = draw(&model, self.face(model.id), sampling, self.limits.stop_tokens_max)?;
        self.float_terms(&mut request)?;
        // Where blocking is allowed: nothing says how long a tokenizer takes.
        let (door, form, id) = (Arc::clone(self), model.reads(), model.id);
        let read = tokio::task::spawn_blocking(move || door.elements(id, form, input)).await;
        let input = read.map_err(|_| Error::new(Code::Internal, "reading the input failed"))??;
        let rows = rows(&model, form, &input)?;
        let root = tensor_root(form.dtype, &[rows.into(), form.width], &input)
            .ok_or_else(|| Error::at(Code::InputShape, "input", "at least one row is needed"))?;
        fill("request.model_id", &mut request.model_id.0, model.id.0)?;
        fill("request.input_hash", &mut request.input_hash, input_hash(&[root]))?;
        let sampling_hash = draw.as_ref().map_or(B256::ZERO, |draw| draw.sampling().hash());
        fill("request.sampling_hash", &mut request.sampling_hash, sampling_hash)?;
        let is_drawn = draw.as_ref().is_some_and(|draw| !draw.is_greedy());
        match (is_drawn, request.seed_mode) {
            (false, 0) | (true, 1) => {}
            (true, 0) => request.seed_mode = 1,
            (true, _) => {
                let text = "want 1, the request's own entropy";
                return Err(Error::at(Code::SamplingInvalid, "request.seed_mode", text));
            }
            (false, _) => {
                let text = "nothing is drawn: seed_mode must be zero";
                return Err(Error::at(Code::SamplingInvalid, "request.seed_mode", text));
            }
        }
        if is_drawn && request.entropy.is_zero() {
            request.entropy = B256::new(rand::random());
        }
        let id = request.id(&self.engine.domain());
        check_requester(request.requester, id, signature.as_ref())?;
        let seed = request.seed(id, None).map_err(|error| {
            Error::at(Code::SamplingInvalid, "request.entropy", error.to_string())
        })?;
        Ok(FloatJob {
            model: model.id,
            id,
            request,
            input,
            rows,
            draw: draw.map(|drawing| (drawing, seed)),
            on_tokens: None,
            gone: CancellationToken::new(),
        })
    }

    /// Fills and judges what depends on no model. A tier above 0 is refused here, so that nobody takes what is attested
    /// only for more.
    fn float_terms(&self, request: &mut Request) -> Result<(), Error> {
        if request.tier != 0 {
            let text = format!(
                "tier {}: results in floating point are attested only, which is tier 0; nobody can recompute them",
                request.tier
            );
            return Err(Error::at(Code::TierNotReached, "request.tier", text));
        }
        let worker = self.engine.worker();
        if !request.worker.is_zero() && request.worker != worker {
            return Err(Error::bad_field("request.worker", format!("this worker is {worker}")));
        }
        let now_s = self.clock.unix_s();
        if request.deadline == 0 {
            request.deadline = now_s.saturating_add(REQUEST_S);
        } else if request.deadline <= now_s {
            let text = format!("{} has passed, it is {now_s}", request.deadline);
            return Err(Error::at(Code::Deadline, "request.deadline_s", text));
        }
        if request.nonce.is_zero() {
            request.nonce = U256::from_be_bytes(rand::random::<[u8; 32]>());
        }
        Ok(())
    }

    /// Waits until the log knows a claim that the engine did not make.
    async fn float_place(&self, answer: &Answer) -> Result<Place, Error> {
        let mut news = self.log.checkpoints();
        loop {
            news.borrow_and_update();
            if let Some(standing) = self.log.claim(answer.digest)? {
                let index = standing.index;
                let checkpoint = checkpoint_of_at_least(&*self.log, index + 1).await?;
                let path = self.log.inclusion(index, checkpoint.size)?;
                return Ok(Place { index, path, checkpoint });
            }
            news.changed().await.map_err(|_| {
                Error::new(Code::Draining, "the node ended before the claim was logged")
            })?;
        }
    }

    /// The answer to a request in floating point, while the node keeps it.
    pub(crate) fn float_stored(&self, request: RequestId) -> Option<Arc<Answer>> {
        self.float.as_ref()?.stored(request)
    }

    /// The signed claim about a request in floating point that is on its way into the log.
    pub(crate) fn float_claim(&self, request: RequestId) -> Option<SignedClaim> {
        Some(self.float_stored(request)?.claim.clone())
    }
}

/// Rows of an input, as many as the model takes and, where they are token ids, each in its vocabulary.
fn rows(model: &FloatModel, form: Form, input: &[u8]) -> Result<u32, Error> {
    let rows = input.len() / (form.dtype.bytes() * form.width as usize).max(1);
    let Some(vocabulary) = model.vocabulary() else {
        at_most("input", "rows", rows, model.rows_max as usize)?;
        return Ok(u32::try_from(rows).unwrap_or(u32::MAX));
    };
    at_most("tokens", "tokens", rows, model.rows_max as usize)?;
    if let Some(id) = tokens(input).into_iter().find(|id| *id >= vocabulary) {
        let text = format!("{id} is not below the vocabulary, {vocabulary}");
        return Err(Error::at(Code::InputRange, "tokens", text));
    }
    Ok(u32::try_from(rows).unwrap_or(u32::MAX))
}

/// Settings of an answer with its end ids; `None` for a model that draws nothing.
fn draw(
    model: &FloatModel,
    face: &Face,
    wire: Option<v1::Sampling>,
    stop_tokens_max: usize,
) -> Result<Option<Drawing>, Error> {
    let wire = wire.unwrap_or_default();
    at_most("sampling.stop_tokens", "tokens", wire.stop_tokens.len(), stop_tokens_max)?;
    if !model.generates() {
        let text = "the model draws nothing: sampling must be left out";
        let refused = Err(Error::at(Code::SamplingInvalid, "sampling", text));
        return if wire == v1::Sampling::default() { Ok(None) } else { refused };
    }
    let not_built = [
        ("sampling.stop_texts", !wire.stop_texts.is_empty()),
        ("sampling.min_p_q16", wire.min_p_q16 != 0),
        ("sampling.repetition_q16", !matches!(wire.repetition_q16, 0 | 65_536)),
    ];
    if let Some((field, _)) = not_built.iter().find(|(_, asked)| *asked) {
        let text = "is not supported by models in floating point";
        return Err(Error::at(Code::UnsupportedParameter, *field, text));
    }
    let own = || face.writing.as_ref().map_or_else(Vec::new, |writing| writing.end_ids.clone());
    of_wire(v1::Sampling {
        top_p_q16: if wire.top_p_q16 == 0 { ALL_Q16 } else { wire.top_p_q16 },
        tokens_max: match wire.tokens_max {
            0 => TOKENS_DEFAULT.min(model.rows_max),
            most => most.min(model.rows_max),
        },
        stop_tokens: if wire.stop_tokens.is_empty() { own() } else { wire.stop_tokens.clone() },
        ..wire
    })
    .map(Some)
}

/// Fills a digest that is zero; another than `value` is refused.
fn fill(field: &'static str, digest: &mut B256, value: B256) -> Result<(), Error> {
    if digest.is_zero() {
        *digest = value;
    }
    if *digest == value {
        return Ok(());
    }
    Err(Error::bad_field(field, format!("want {value}, or zero")))
}

impl fmt::Debug for dyn FloatServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.models()).finish()
    }
}
