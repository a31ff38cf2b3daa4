//! `POST /v1/completions` and `POST /v1/chat/completions`: OpenAI's shapes, whole or as server-sent events, with a claim.
//! `text/asked.rs` reads what is asked, this page answers it.

mod asked;
mod odds;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use hyperion_engine::{Drawing, Logprobs};
use hyperion_primitives::B256;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use self::{
    asked::{Body, ask},
    odds::Odds,
};
use super::{
    read,
    verification::{header, headers, verification},
};
use crate::{
    answer::{Answered, WaitFor},
    auth::{Area, Caller},
    deadline::Deadline,
    door::{Door, Face},
    float::Work,
    receipt_json::SamplingJson,
    status::{Code, Error},
    writing::{Delta, Deltas, Written},
};

/// Which of the two shapes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Completion,
    Chat,
}

pub(super) async fn completions(
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    serve(door, &headers, body, Shape::Completion).await
}

pub(super) async fn chat(
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    serve(door, &headers, body, Shape::Chat).await
}

async fn serve(
    door: Arc<Door>,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    shape: Shape,
) -> Result<Response, Error> {
    let caller = door.admit_http(headers, Area::Infer)?;
    let since_us = door.clock.now_us();
    let body: Body = read(&door, body)?;
    let model = body.model.clone();
    let (stream, usage) =
        (body.stream, body.stream_options.as_ref().is_some_and(|options| options.include_usage));
    let limits = &door.limits;
    let longest = if stream { limits.stream_deadline } else { limits.unary_deadline };
    let deadline = Deadline::after(longest);
    let begun = async {
        let (ask, wait, alternatives) = ask(&door, body, shape)?;
        let job = door.job(ask, &caller, deadline).await?;
        Ok((job, wait, alternatives))
    };
    let begun = deadline.race(begun).await;
    let (job, wait, alternatives) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            door.observe::<()>("http", &model, since_us, &Err(error.clone()));
            return Err(error);
        }
    };
    let reply = Reply::new(&door, shape, model, &job, alternatives);
    if stream {
        return Ok(reply.stream(door, job, wait, caller, deadline, (since_us, usage)));
    }
    let outcome = deadline.race(door.answer(job, wait, &caller)).await;
    door.observe("http", &reply.model, since_us, &outcome);
    reply.whole(&door, &outcome?)
}

/// What stays the same through an answer.
struct Reply {
    shape: Shape,
    id: String,
    model: String,
    created: u64,
    drawing: Drawing,
    request_id: String,
    entropy: B256,
    /// Where log probabilities were asked for.
    odds: Option<Odds>,
}

/// What a stream's task hands over.
enum Piece {
    Delta(Delta),
    Event(Event),
}

impl Reply {
    fn new(
        door: &Door,
        shape: Shape,
        model: String,
        job: &Work,
        alternatives: Option<usize>,
    ) -> Self {
        let writing = door.face(job.request().model_id).writing.as_ref();
        let odds = alternatives.zip(writing).map(|(alternatives, writing)| Odds {
            shape,
            alternatives,
            decoder: Arc::clone(&writing.decoder),
        });
        let request_id = job.id().to_string();
        let kind = if shape == Shape::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            shape,
            id: format!("{kind}-{request_id}"),
            model,
            created: door.clock.unix_s(),
            drawing: job.drawing().cloned().expect("the model was asked for its writing"),
            request_id,
            entropy: job.request().entropy,
            odds,
        }
    }

    fn object(&self, is_chunk: bool) -> &'static str {
        match (self.shape, is_chunk) {
            (Shape::Completion, _) => "text_completion",
            (Shape::Chat, false) => "chat.completion",
            (Shape::Chat, true) => "chat.completion.chunk",
        }
    }

    fn body(&self, is_chunk: bool, choices: &Value) -> Value {
        json!({
            "id": self.id, "object": self.object(is_chunk), "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    fn verification(&self, answered: &Answered) -> Value {
        let mut verification = verification(answered);
        verification["sampling"] = json!(SamplingJson::from(&self.drawing));
        verification["seed"] = json!(answered.answer.claim.claim.seed.to_string());
        if !self.entropy.is_zero() {
            verification["entropy"] = json!(self.entropy.to_string());
        }
        verification
    }

    /// The whole answer in one body.
    fn whole(&self, door: &Door, answered: &Answered) -> Result<Response, Error> {
        let face = door.face(answered.answer.request.model_id);
        let written = Written::new(face, &self.drawing, &answered.answer.output.data)?;
        let logprobs = self.logprobs(&written.tokens, &answered.logprobs, &mut 0);
        let choice = match self.shape {
            Shape::Completion => json!({
                "index": 0, "text": written.text, "logprobs": logprobs,
                "finish_reason": written.finish_reason,
            }),
            Shape::Chat => json!({
                "index": 0, "logprobs": logprobs, "finish_reason": written.finish_reason,
                "message": {"role": "assistant", "content": written.text, "refusal": null},
            }),
        };
        let mut body = self.body(false, &json!([choice]));
        body["usage"] = usage(answered);
        body["verification"] = self.verification(answered);
        Ok((headers(answered), Json(body)).into_response())
    }

    /// `logprobs` of tokens that begin `offset` characters into the text; `null` where nothing was asked for.
    fn logprobs(&self, tokens: &[u32], told: &[Logprobs], offset: &mut usize) -> Value {
        match &self.odds {
            Some(odds) if !told.is_empty() => odds.of(tokens, told, offset),
            _ => Value::Null,
        }
    }

    /// A piece of the answer.
    fn chunk(&self, text: &str, finish_reason: Option<&str>, logprobs: &Value) -> Value {
        let choice = match self.shape {
            Shape::Completion => json!({
                "index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason,
            }),
            Shape::Chat => {
                let delta = if text.is_empty() { json!({}) } else { json!({"content": text}) };
                json!({
                    "index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason,
                })
            }
        };
        self.body(true, &json!([choice]))
    }

    /// The answer as server-sent events.
    fn stream(
        self,
        door: Arc<Door>,
        job: Work,
        wait: WaitFor,
        caller: Caller,
        deadline: Deadline,
        (since_us, usage): (u64, bool),
    ) -> Response {
        let request = header("x-hyperion-request", &self.request_id);
        let (events, pieces) = mpsc::channel(4);
        let reply = Arc::new(self);
        let spelled = Arc::clone(&reply);
        tokio::spawn(async move {
            let work = reply.run(&door, job, wait, &caller, &events, usage);
            let outcome = tokio::select! {
                outcome = deadline.race(work) => outcome,
                () = events.closed() => Err(Error::new(Code::Cancelled, "the caller went away")),
            };
            door.observe("http", &reply.model, since_us, &outcome);
            if let Err(error) = outcome {
                // Nobody may be left to hear it.
                let _ = events.send(Piece::Event(data(&error.to_json()))).await;
            }
        });
        let mut offset = 0;
        let spell = move |piece| {
            Ok::<_, Infallible>(match piece {
                Piece::Delta(Delta { tokens, text, logprobs, .. }) => {
                    let logprobs = spelled.logprobs(&tokens, &logprobs, &mut offset);
                    data(&spelled.chunk(&text, None, &logprobs))
                }
                Piece::Event(event) => event,
            })
        };
        let events = ReceiverStream::new(pieces).map(spell);
        ([request], Sse::new(events).keep_alive(KeepAlive::default())).into_response()
    }

    async fn run(
        &self,
        door: &Arc<Door>,
        job: Work,
        wait: WaitFor,
        caller: &Caller,
        events: &mpsc::Sender<Piece>,
        wants_usage: bool,
    ) -> Result<(), Error> {
        let gone = |_| Error::new(Code::Cancelled, "the caller went away");
        if self.shape == Shape::Chat {
            let role = json!([{
                "index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null,
                "finish_reason": null,
            }]);
            events.send(Piece::Event(data(&self.body(true, &role)))).await.map_err(gone)?;
        }
        let face: &Face = door.face(job.request().model_id);
        let mut deltas = Deltas::new(face, self.drawing.clone(), 0);
        let sent = (events, Piece::Delta);
        let answered = door.stream(job, wait, caller, &mut deltas, sent).await?;
        let written = Written::new(face, &self.drawing, &answered.answer.output.data)?;
        let mut last = self.chunk("", Some(written.finish_reason), &Value::Null);
        last["verification"] = self.verification(&answered);
        events.send(Piece::Event(data(&last))).await.map_err(gone)?;
        if wants_usage {
            let mut body = self.body(true, &json!([]));
            body["usage"] = usage(&answered);
            events.send(Piece::Event(data(&body))).await.map_err(gone)?;
        }
        events.send(Piece::Event(Event::default().data("[DONE]"))).await.map_err(gone)
    }
}

fn usage(answered: &Answered) -> Value {
    let claim = &answered.answer.claim.claim;
    json!({
        "prompt_tokens": claim.in_tokens,
        "completion_tokens": claim.out_tokens,
        "total_tokens": u64::from(claim.in_tokens) + u64::from(claim.out_tokens),
    })
}

fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}
