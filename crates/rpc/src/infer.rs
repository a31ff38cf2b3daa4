//! `hyperion.v1.InferenceService`: the main call, and what belongs to it.

use std::sync::Arc;

use hyperion_engine::{ALTERNATIVES_MAX, Drawing, Logprobs};
use hyperion_primitives::{ClaimDigest, RequestId, TensorRoot};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    answer::{Answered, WaitFor, wire_receipt},
    auth::{Area, Caller},
    blob::Upload,
    convert::{self, Ask, Input, copied, digest, dtype},
    deadline::{self, Deadline},
    door::Door,
    float::Work,
    r#gen::v1,
    limits::at_most,
    receipt,
    status::{Code, Error},
    writing::{Delta, Deltas, Written, tokens, wire_sampling},
};

/// `hyperion.v1.InferenceService`.
#[derive(Clone, Debug)]
pub(crate) struct InferenceService {
    door: Arc<Door>,
}

/// What an answer is told beside its claim.
struct Asked {
    /// The ids that words became.
    input_tokens: Vec<u32>,
    drawing: Option<Drawing>,
    /// Alternatives beside each token.
    alternatives: usize,
}

impl Asked {
    fn of(job: &Work, is_words: bool, alternatives: usize) -> Self {
        let input_tokens = if is_words { tokens(job.input()) } else { Vec::new() };
        Self { input_tokens, drawing: job.drawing().cloned(), alternatives }
    }
}

/// Models of one page at most, and where a caller names no size.
const PAGE_MAX: usize = 256;

impl InferenceService {
    pub(crate) const fn new(door: Arc<Door>) -> Self {
        Self { door }
    }

    async fn answer(&self, request: Request<v1::InferRequest>) -> Result<v1::InferResponse, Error> {
        let door = &self.door;
        let since_us = door.clock.now_us();
        let model = request.get_ref().model.clone();
        let outcome = async {
            let caller = door.admit(&request, Area::Infer)?;
            let deadline = Deadline::of(&request, door.limits.unary_deadline);
            let asked = request.into_inner();
            let wait = WaitFor::of_wire(asked.wait_for)?;
            let work = async {
                let alternatives = asked.logprobs.unwrap_or(0) as usize;
                let ask = self.ask(asked)?;
                let edge = ask.input.is_words();
                let job = door.job(ask, &caller, deadline).await?;
                let asked = Asked::of(&job, edge, alternatives);
                Ok((door.answer(job, wait, &caller).await?, asked))
            };
            let (answered, asked) = deadline.race(work).await?;
            self.response(&answered, asked)
        }
        .await;
        door.observe("grpc", &model, since_us, &outcome);
        outcome
    }

    /// Reads a request; what depends on the model is judged when its job is built.
    fn ask(&self, asked: v1::InferRequest) -> Result<Ask, Error> {
        use v1::infer_request::Input as Wire;
        let limits = &self.door.limits;
        let model = self.door.named(&asked.model)?;
        let input = match asked.input {
            None => return Err(Error::bad_field("input", "give tensors, tokens, text or chat")),
            Some(Wire::Tensors(v1::TensorInput { tensors })) => {
                at_most("tensors", "tensors", tensors.len(), limits.tensors_max)?;
                let [tensor] = <[_; 1]>::try_from(tensors).map_err(|tensors| {
                    let text = format!("the model reads one tensor, {} came", tensors.len());
                    Error::at(Code::InputShape, "tensors", text)
                })?;
                let name = &self.door.face(model.id()).input;
                if !tensor.name.is_empty() && tensor.name != *name {
                    let text = format!("the model's input is `{name}`");
                    return Err(Error::bad_field("tensors.name", text));
                }
                Input::Tensor(self.door.tensor("tensors", tensor)?)
            }
            Some(Wire::Tokens(v1::TokenInput { ids })) => Input::Tokens(ids),
            Some(Wire::Text(text)) => {
                at_most("text", "bytes", text.len(), limits.text_bytes_max)?;
                Input::Text(text)
            }
            Some(Wire::Chat(v1::ChatInput { turns })) => {
                at_most("chat", "turns", turns.len(), limits.turns_max)?;
                let bytes = turns.iter().map(|turn| turn.role.len() + turn.content.len()).sum();
                at_most("chat", "bytes", bytes, limits.text_bytes_max)?;
                let turn =
                    |v1::ChatTurn { role, content }| json!({"role": role, "content": content});
                Input::Chat(turns.into_iter().map(turn).collect(), None)
            }
        };
        if asked.logprobs.is_some_and(|most| most as usize > ALTERNATIVES_MAX) {
            let text = format!("want {ALTERNATIVES_MAX} alternatives at most");
            return Err(Error::bad_field("logprobs", text));
        }
        Ok(Ask {
            model,
            input,
            logprobs: asked.logprobs.is_some(),
            sampling: asked.sampling,
            request: convert::request(asked.request)?,
            signature: convert::signature("request_signature", &asked.request_signature)?,
        })
    }

    fn response(&self, answered: &Answered, asked: Asked) -> Result<v1::InferResponse, Error> {
        let Answered { answer, reached, place, logprobs } = answered;
        let face = self.door.face(answer.request.model_id);
        let Asked { input_tokens, drawing, alternatives } = asked;
        let mut response = v1::InferResponse {
            request: Some(convert::wire_request(&answer.request)),
            claim: Some(convert::wire_claim(&answer.claim, answer.digest.0)),
            reached: (*reached).into(),
            receipt: place.as_ref().map(|place| wire_receipt(&answer.claim, answer.digest, place)),
            replayed: answer.replayed,
            fee: "0".to_owned(),
            input_tokens,
            ..v1::InferResponse::default()
        };
        match drawing {
            None => response.outputs = vec![convert::wire_output(&face.output, answer)],
            Some(drawing) => {
                let written = Written::new(face, &drawing, &answer.output.data)?;
                response.tokens = written.tokens;
                response.text = written.text;
                response.finish_reason = written.finish_reason.to_owned();
                response.sampling = Some(wire_sampling(&drawing));
                response.logprobs = wire_logprobs(logprobs, alternatives);
            }
        }
        Ok(response)
    }

    /// Sends `Accepted`, a generator's tokens as they come, then `done`.
    async fn stream(
        &self,
        asked: v1::InferStreamRequest,
        caller: &Caller,
        deadline: Deadline,
        events: &mpsc::Sender<Result<v1::InferStreamResponse, Status>>,
    ) -> Result<(), Error> {
        let request = asked.request.ok_or_else(|| Error::bad_field("request", "is missing"))?;
        let wait = WaitFor::of_wire(request.wait_for)?;
        let alternatives = request.logprobs.unwrap_or(0) as usize;
        let ask = self.ask(request)?;
        let model_id = ask.model.id();
        let edge = ask.input.is_words();
        if asked.resume_at != 0 && !ask.model.generates() {
            let text = "this model generates no tokens; there is nothing to resume";
            return Err(Error::bad_field("resume_at", text));
        }
        let job = self.door.job(ask, caller, deadline).await?;
        let of_job = Asked::of(&job, edge, alternatives);
        let stats = self.door.engine.stats();
        let waiting: u64 = stats
            .models
            .iter()
            .filter(|model| model.id == model_id)
            .flat_map(|model| model.queued)
            .sum();
        let accepted = v1::infer_stream_response::Event::Accepted(v1::Accepted {
            request_id: copied(job.id().0),
            model_id: copied(model_id.0),
            queue_position: u32::try_from(waiting).unwrap_or(u32::MAX),
        });
        self.send(events, accepted).await?;
        let answered = match &of_job.drawing {
            None => self.door.answer(job, wait, caller).await?,
            Some(drawing) => {
                let face = self.door.face(model_id);
                let mut deltas = Deltas::new(face, drawing.clone(), asked.resume_at);
                let sent = (events, |delta| wire_delta(delta, alternatives));
                self.door.stream(job, wait, caller, &mut deltas, sent).await?
            }
        };
        let done = v1::infer_stream_response::Event::Done(self.response(&answered, of_job)?);
        self.send(events, done).await
    }

    async fn send(
        &self,
        events: &mpsc::Sender<Result<v1::InferStreamResponse, Status>>,
        event: v1::infer_stream_response::Event,
    ) -> Result<(), Error> {
        events
            .send(Ok(v1::InferStreamResponse { event: Some(event) }))
            .await
            .map_err(|_| Error::new(Code::Cancelled, "the caller went away"))
    }

    fn quote(&self, request: &Request<v1::QuoteRequest>) -> Result<v1::QuoteResponse, Error> {
        self.door.admit(request, Area::Models)?;
        let v1::QuoteRequest { model, input_bytes, tokens_max, tier } = request.get_ref();
        self.door.quote(model, *input_bytes, *tokens_max, *tier)
    }

    fn models(
        &self,
        request: &Request<v1::ListModelsRequest>,
    ) -> Result<v1::ListModelsResponse, Error> {
        self.door.admit(request, Area::Models)?;
        let v1::ListModelsRequest { page_size, page_token } = request.get_ref();
        let start: usize = match page_token.as_str() {
            "" => 0,
            token => token
                .parse()
                .map_err(|_| Error::bad_field("page_token", "is not one that this node gave"))?,
        };
        let size = match usize::try_from(*page_size).unwrap_or(PAGE_MAX) {
            0 => PAGE_MAX,
            size => size.min(PAGE_MAX),
        };
        let mut all: Vec<_> =
            self.door.engine.models().iter().map(|model| self.door.wire_model(model)).collect();
        all.extend(self.door.wire_float_models());
        let models: Vec<_> = all.iter().skip(start).take(size).cloned().collect();
        let next = start.saturating_add(models.len());
        let next_page_token = if next < all.len() { next.to_string() } else { String::new() };
        Ok(v1::ListModelsResponse { models, next_page_token })
    }

    fn claim(&self, request: &Request<v1::GetClaimRequest>) -> Result<v1::GetClaimResponse, Error> {
        use v1::get_claim_request::Key;
        self.door.admit(request, Area::Receipts)?;
        let found = match &request.get_ref().key {
            None => return Err(Error::bad_field("key", "give a claim digest or a request id")),
            Some(Key::ClaimDigest(bytes)) => {
                self.door.find_claim(ClaimDigest(digest("claim_digest", bytes)?))?
            }
            Some(Key::RequestId(bytes)) => {
                self.door.find_request(RequestId(digest("request_id", bytes)?))?
            }
        };
        let domain = self.door.engine.domain();
        Ok(v1::GetClaimResponse {
            state: found.state.into(),
            reason: found.reason.to_owned(),
            claim: found
                .claim
                .map(|claim| convert::wire_claim(&claim, claim.claim.digest(&domain).0)),
            reached: found.reached.into(),
            index: found.index.unwrap_or(0),
        })
    }

    fn receipt(
        &self,
        request: &Request<v1::GetReceiptRequest>,
    ) -> Result<v1::GetReceiptResponse, Error> {
        self.door.admit(request, Area::Receipts)?;
        let v1::GetReceiptRequest { claim_digest, size } = request.get_ref();
        let claim = ClaimDigest(digest("claim_digest", claim_digest)?);
        let (signed, place) = self.door.place_of(claim, *size)?;
        Ok(v1::GetReceiptResponse {
            receipt: Some(wire_receipt(&signed, claim, &place)),
            tlog_proof: receipt::receipt(&signed, &place)?.to_string(),
        })
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<v1::PutBlobResponse, Status> {
        self.door.admit(&request, Area::Infer)?;
        let deadline = Deadline::of(&request, self.door.limits.stream_deadline);
        let mut pieces = request.into_inner();
        let work = async {
            let mut upload: Option<Upload> = None;
            loop {
                let piece = match pieces.message().await {
                    Ok(Some(piece)) => piece,
                    Ok(None) => break,
                    Err(status) => return Ok(Err(broken_off(status))),
                };
                let v1::PutBlobRequest { dtype: code, dims, chunk } = piece;
                at_most("chunk", "bytes", chunk.len(), self.door.limits.chunk_bytes_max)?;
                let mut under_way = match upload.take() {
                    None => self.door.blobs.begin(dtype("dtype", code)?, &dims)?,
                    Some(_) if code != 0 || !dims.is_empty() => {
                        let text = "type and shape are said once, in the first message";
                        return Err(Error::bad_field("dims", text));
                    }
                    Some(under_way) => under_way,
                };
                upload = Some(blocking(move || under_way.push(&chunk).map(|()| under_way)).await?);
            }
            let upload = upload.ok_or_else(|| Error::bad_field("dtype", "no message came"))?;
            let root = blocking(move || upload.finish()).await?;
            Ok(Ok(v1::PutBlobResponse { root: copied(root.0) }))
        };
        deadline.race(work).await?
    }

    fn get_blob(
        &self,
        request: &Request<v1::GetBlobRequest>,
    ) -> Result<ReceiverStream<Result<v1::GetBlobResponse, Status>>, Error> {
        self.door.admit(request, Area::Infer)?;
        let deadline = Deadline::of(request, self.door.limits.stream_deadline);
        let v1::GetBlobRequest { root, offset } = request.get_ref();
        let root = TensorRoot(digest("root", root)?);
        let blob =
            self.door.blobs.get(root).ok_or_else(|| {
                Error::bad_field("root", format!("{root} is not held; put it again"))
            })?;
        let offset = usize::try_from(*offset).ok().filter(|offset| *offset <= blob.data.len());
        let mut rest = match offset {
            Some(offset) => blob.data.slice(offset..),
            None => return Err(Error::bad_field("offset", "lies beyond the blob's end")),
        };
        let piece_bytes = self.door.limits.chunk_bytes_max;
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            while !rest.is_empty() {
                let chunk = rest.split_to(rest.len().min(piece_bytes));
                let sent = tokio::select! {
                    sent = send.send(Ok(v1::GetBlobResponse { chunk })) => sent,
                    () = deadline::passes(Some(deadline)) => {
                        send.send(Err(deadline::passed().into())).await
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(receive))
    }
}

/// What a caller's stream ends with that broke off. Bytes that are no message, and a message over the limit, keep the
/// status that they have in every other call.
fn broken_off(status: Status) -> Status {
    match status.code() {
        tonic::Code::Internal | tonic::Code::OutOfRange => status,
        _ => {
            let text = format!("the stream broke off: {}", status.message());
            Error::new(Code::Cancelled, text).into()
        }
    }
}

/// Hashing and copying of large pieces, where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::new(Code::Internal, "taking the blob failed")))
}

/// Part of an answer for the wire.
/// What is told of tokens, with so many alternatives at most.
fn wire_logprobs(logprobs: &[Logprobs], alternatives: usize) -> Vec<v1::TokenLogprobs> {
    let wire = |told: &Logprobs| {
        let (top_tokens, top_logprobs_q16) =
            told.top_q16.iter().take(alternatives).copied().unzip();
        v1::TokenLogprobs { logprob_q16: told.own_q16, top_tokens, top_logprobs_q16 }
    };
    logprobs.iter().map(wire).collect()
}

fn wire_delta(delta: Delta, alternatives: usize) -> Result<v1::InferStreamResponse, Status> {
    let Delta { position, tokens, text, logprobs } = delta;
    let logprobs = wire_logprobs(&logprobs, alternatives);
    let delta = v1::Delta { position, tokens, text: text.into(), logprobs };
    let event = Some(v1::infer_stream_response::Event::Delta(delta));
    Ok(v1::InferStreamResponse { event })
}

#[tonic::async_trait]
impl v1::inference_service_server::InferenceService for InferenceService {
    async fn infer(
        &self,
        request: Request<v1::InferRequest>,
    ) -> Result<Response<v1::InferResponse>, Status> {
        Ok(Response::new(self.answer(request).await?))
    }

    type InferStreamStream = ReceiverStream<Result<v1::InferStreamResponse, Status>>;

    async fn infer_stream(
        &self,
        request: Request<v1::InferStreamRequest>,
    ) -> Result<Response<Self::InferStreamStream>, Status> {
        let caller = self.door.admit(&request, Area::Infer)?;
        let deadline = Deadline::of(&request, self.door.limits.stream_deadline);
        let asked = request.into_inner();
        let service = self.clone();
        let (events, receive) = mpsc::channel(4);
        tokio::spawn(async move {
            let since_us = service.door.clock.now_us();
            let model =
                asked.request.as_ref().map_or_else(String::new, |inner| inner.model.clone());
            let work = service.stream(asked, &caller, deadline, &events);
            let outcome = tokio::select! {
                outcome = deadline.race(work) => outcome,
                () = events.closed() => Err(Error::new(Code::Cancelled, "the caller went away")),
            };
            service.door.observe("grpc", &model, since_us, &outcome);
            if let Err(error) = outcome {
                drop(events.send(Err(error.into())).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn quote(
        &self,
        request: Request<v1::QuoteRequest>,
    ) -> Result<Response<v1::QuoteResponse>, Status> {
        Ok(Response::new(Self::quote(self, &request)?))
    }

    async fn list_models(
        &self,
        request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        Ok(Response::new(self.models(&request)?))
    }

    async fn get_claim(
        &self,
        request: Request<v1::GetClaimRequest>,
    ) -> Result<Response<v1::GetClaimResponse>, Status> {
        Ok(Response::new(self.claim(&request)?))
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        Ok(Response::new(self.receipt(&request)?))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        Ok(Response::new(Self::put_blob(self, request).await?))
    }

    type GetBlobStream = ReceiverStream<Result<v1::GetBlobResponse, Status>>;

    async fn get_blob(
        &self,
        request: Request<v1::GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        Ok(Response::new(Self::get_blob(self, &request)?))
    }
}
