//! Models in floating point, beside the engine's: what a call of one asks, and what comes back.
//!
//! No other answer of this crate is one that nobody can recompute. So these models have a way of their own: the node
//! implements [`FloatServer`] in builds that have one, their requests and claims are of tier 0, *attested only*
//! (`docs/float.md`), and every surface but `InferenceService/Infer` refuses them by name.

use std::{fmt, sync::Arc};

use hyperion_engine::{Answer, Drawing};
use hyperion_primitives::{B256, Dtype, ModelId, RequestId, U256, input_hash, tensor_root};
use hyperion_verify::{Request, Sampling, SignedClaim};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    answer::{Place, WaitFor, wire_receipt},
    auth::Caller,
    convert::{self, check_requester, copied},
    door::Door,
    r#gen::v1,
    limits::at_most,
    log::checkpoint_of_at_least,
    status::{Code, Error},
    writing::{tokens, wire_sampling},
};

/// Serves models in floating point.
pub trait FloatServer: Send + Sync + 'static {
    /// Every model, in the order of configuration.
    fn models(&self) -> &[FloatModel];

    /// Token ids of a text.
    ///
    /// # Errors
    ///
    /// `bad_field` when the model's tokenizer does not take it.
    fn encode(&self, model: ModelId, text: &str) -> Result<Vec<u32>, Error>;

    /// The stored answer to a request, while there is one.
    fn stored(&self, request: RequestId) -> Option<FloatAnswer>;

    /// Runs a job, signs what came of it and offers the claim to the log. `done` hears once, on another thread; if it is
    /// dropped unheard, the model is out of service.
    fn submit(&self, job: FloatJob, done: OnFloat);
}

/// Receives the end of a job.
pub type OnFloat = Box<dyn FnOnce(Result<FloatAnswer, Error>) + Send>;

/// What is known of a model in floating point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatModel {
    /// The name it is asked for by.
    pub alias: String,
    /// Its identity; never that of an exact model.
    pub id: ModelId,
    /// Width of its vector of unit length, Q15; `None`: it generates tokens.
    pub embeds: Option<u32>,
    /// Token ids are below this.
    pub vocabulary: u32,
    /// Tokens that it takes and gives in all, at most.
    pub context: u32,
    /// Ids that end an answer where a request names none, strictly ascending.
    pub ends: Vec<u32>,
}

/// A checked request with its input.
#[derive(Clone, Debug)]
pub struct FloatJob {
    /// The model.
    pub model: ModelId,
    /// Name of the request.
    pub id: RequestId,
    /// The request, every field filled.
    pub request: Request,
    /// What the model reads; as many as it takes, each in its vocabulary.
    pub tokens: Vec<u32>,
    /// How an answer is drawn, and from which seed; `None` for a model that embeds.
    pub draw: Option<(Drawing, B256)>,
    /// Fires when nobody waits any more.
    pub gone: CancellationToken,
}

/// The end of a job.
#[derive(Clone, Debug)]
pub struct FloatAnswer {
    /// Output and signed claim.
    pub answer: Arc<Answer>,
    /// The text of generated tokens, for display.
    pub text: String,
    /// `stop` or `length`; empty for a model that embeds.
    pub finish_reason: &'static str,
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
        let spec = |name: &str, dtype: Dtype, dims: [i64; 2], exponent| v1::TensorSpec {
            name: name.to_owned(),
            dtype: dtype.code().into(),
            dims: dims.to_vec(),
            exponent,
        };
        let wire = |model: &FloatModel| v1::Model {
            alias: model.alias.clone(),
            model_id: copied(model.id.0),
            inputs: vec![spec("tokens", Dtype::U32, [-1, 1], 0)],
            outputs: vec![match model.embeds {
                Some(width) => spec("embedding", Dtype::I16, [1, width.into()], 15),
                None => spec("tokens", Dtype::U32, [-1, 1], 0),
            }],
            ready: true,
            rows_max: model.context,
            causal: model.embeds.is_none(),
            generator: model.embeds.is_none(),
            ..v1::Model::default()
        };
        self.float.iter().flat_map(|float| float.models()).map(wire).collect()
    }

    /// Answers a call of a model in floating point. Dropping the future takes the job out of the queue, or cuts it.
    pub(crate) async fn float_answer(
        &self,
        model: &FloatModel,
        asked: v1::InferRequest,
        wait: WaitFor,
        caller: &Caller,
    ) -> Result<v1::InferResponse, Error> {
        let float = self.float.as_ref().ok_or_else(|| {
            Error::new(Code::Internal, "a model in floating point without its server")
        })?;
        let is_text = matches!(asked.input, Some(v1::infer_request::Input::Text(_)));
        let signature = convert::signature("request_signature", &asked.request_signature)?;
        let job = self.float_job(float, model, asked).await?;
        check_requester(job.request.requester, job.id, signature.as_ref())?;
        let input_tokens = if is_text { job.tokens.clone() } else { Vec::new() };
        let sampling = job.draw.as_ref().map(|(drawing, _)| wire_sampling(drawing));

        let replayed = float.stored(job.id);
        let is_replayed = replayed.is_some();
        let answered = match replayed {
            Some(answered) => answered,
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
            WaitFor::Logged | WaitFor::Tier => Some(self.float_place(&answered.answer).await?),
        };
        let FloatAnswer { answer, text, finish_reason } = &answered;
        // As for exact models, generated tokens stand beside the outputs and not among them.
        let (outputs, tokens) = match model.embeds {
            Some(_) => (vec![convert::wire_output("embedding", answer)], Vec::new()),
            None => (Vec::new(), tokens(&answer.output.data)),
        };
        Ok(v1::InferResponse {
            outputs,
            tokens,
            text: text.clone(),
            finish_reason: (*finish_reason).to_owned(),
            sampling,
            request: Some(convert::wire_request(&answer.request)),
            claim: Some(convert::wire_claim(&answer.claim, answer.digest.0)),
            reached: 0,
            receipt: place.as_ref().map(|place| wire_receipt(&answer.claim, answer.digest, place)),
            replayed: is_replayed || answer.replayed,
            fee: "0".to_owned(),
            input_tokens,
            logprobs: Vec::new(),
        })
    }

    /// Every check made, every hash filled.
    async fn float_job(
        &self,
        float: &Arc<dyn FloatServer>,
        model: &FloatModel,
        asked: v1::InferRequest,
    ) -> Result<FloatJob, Error> {
        let tokens = self.float_tokens(float, model, asked.input).await?;
        let draw = draw(model, asked.sampling.as_ref(), self.limits.stop_tokens_max)?;
        let mut request = convert::request(asked.request)?;
        self.float_terms(&mut request)?;
        let bytes: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        let root = tensor_root(Dtype::U32, &[tokens.len() as u64, 1], &bytes)
            .ok_or_else(|| Error::at(Code::InputShape, "tokens", "at least one token is needed"))?;
        fill("request.model_id", &mut request.model_id.0, model.id.0)?;
        fill("request.input_hash", &mut request.input_hash, input_hash(&[root]))?;
        let sampling_hash = draw.as_ref().map_or(B256::ZERO, |draw| draw.sampling().hash());
        fill("request.sampling_hash", &mut request.sampling_hash, sampling_hash)?;
        let is_drawn = draw.as_ref().is_some_and(|draw| !draw.is_greedy());
        match (is_drawn, request.seed_mode) {
            (false, 0) | (true, 1) => {}
            (true, 0) if request.entropy.is_zero() => {
                request.seed_mode = 1;
                request.entropy = B256::new(rand::random());
            }
            (true, _) => {
                let text = "want 1, the request's own entropy";
                return Err(Error::at(Code::SamplingInvalid, "request.seed_mode", text));
            }
            (false, _) => {
                let text = "nothing is drawn: seed_mode must be zero";
                return Err(Error::at(Code::SamplingInvalid, "request.seed_mode", text));
            }
        }
        let id = request.id(&self.engine.domain());
        let seed = request.seed(id, None).map_err(|error| {
            Error::at(Code::SamplingInvalid, "request.entropy", error.to_string())
        })?;
        Ok(FloatJob {
            model: model.id,
            id,
            request,
            tokens,
            draw: draw.map(|drawing| (drawing, seed)),
            gone: CancellationToken::new(),
        })
    }

    async fn float_tokens(
        &self,
        float: &Arc<dyn FloatServer>,
        model: &FloatModel,
        input: Option<v1::infer_request::Input>,
    ) -> Result<Vec<u32>, Error> {
        use v1::infer_request::Input;
        let (field, tokens) = match input {
            Some(Input::Tokens(v1::TokenInput { ids })) => ("tokens", ids),
            Some(Input::Text(text)) => {
                at_most("text", "bytes", text.len(), self.limits.text_bytes_max)?;
                // Where blocking is allowed: nothing says how long a tokenizer takes.
                let (float, id) = (Arc::clone(float), model.id);
                let encoded = tokio::task::spawn_blocking(move || float.encode(id, &text)).await;
                let failed = |_| Error::new(Code::Internal, "reading the text failed");
                ("text", encoded.map_err(failed)??)
            }
            Some(Input::Tensors(_) | Input::Chat(_)) => {
                let text = "a model in floating point takes text or tokens";
                return Err(Error::at(Code::UnsupportedParameter, "input", text));
            }
            None => return Err(Error::bad_field("input", "give tokens or text")),
        };
        if tokens.is_empty() {
            return Err(Error::at(Code::InputShape, field, "at least one token is needed"));
        }
        at_most(field, "tokens", tokens.len(), model.context as usize)?;
        if let Some(id) = tokens.iter().find(|id| **id >= model.vocabulary) {
            let text = format!("{id} is not below the vocabulary, {}", model.vocabulary);
            return Err(Error::at(Code::InputRange, field, text));
        }
        Ok(tokens)
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

    /// The signed claim about a request in floating point that is on its way into the log.
    pub(crate) fn float_claim(&self, request: RequestId) -> Option<SignedClaim> {
        Some(self.float.as_ref()?.stored(request)?.answer.claim.clone())
    }
}

/// Settings of an answer with its end ids; `None` for a model that embeds.
fn draw(
    model: &FloatModel,
    wire: Option<&v1::Sampling>,
    stop_tokens_max: usize,
) -> Result<Option<Drawing>, Error> {
    let none = v1::Sampling::default();
    let wire = wire.unwrap_or(&none);
    at_most("sampling.stop_tokens", "tokens", wire.stop_tokens.len(), stop_tokens_max)?;
    if model.embeds.is_some() {
        let text = "the model draws nothing: sampling must be left out";
        let refused = Err(Error::at(Code::SamplingInvalid, "sampling", text));
        return if *wire == none { Ok(None) } else { refused };
    }
    let not_built = [
        ("sampling.min_p_q16", wire.min_p_q16 != 0),
        ("sampling.repetition_q16", !matches!(wire.repetition_q16, 0 | 65_536)),
    ];
    if let Some((field, _)) = not_built.iter().find(|(_, asked)| *asked) {
        let text = "is not supported by models in floating point";
        return Err(Error::at(Code::UnsupportedParameter, *field, text));
    }
    let ends =
        if wire.stop_tokens.is_empty() { model.ends.clone() } else { wire.stop_tokens.clone() };
    let sampling = Sampling {
        temperature_q16: wire.temperature_q16,
        top_k: wire.top_k,
        top_p_q16: if wire.top_p_q16 == 0 { ALL_Q16 } else { wire.top_p_q16 },
        frequency_q16: wire.frequency_q16,
        presence_q16: wire.presence_q16,
        tokens_max: match wire.tokens_max {
            0 => TOKENS_DEFAULT,
            most => most.min(model.context),
        },
        ..Sampling::default()
    };
    Ok(Some(Drawing::new(sampling, ends)?))
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
