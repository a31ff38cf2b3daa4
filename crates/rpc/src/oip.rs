//! The Open Inference Protocol, version 2, as unmodified Triton clients speak it.
//!
//! The models are the same, and so is the way to the engine ([`Door::job`]); a claim comes back in the response's
//! parameters. What a message may hold is read in [`read`], what an answer holds stands in [`outputs`].

mod outputs;
mod read;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hyperion_engine::{Drawing, Histogram, ModelInfo, ModelStats};
use hyperion_primitives::Dtype;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::{
    outputs::{Output, Part},
    read::Asked,
};
use crate::{
    answer::Answered,
    auth::{Area, Caller},
    convert::{input_form, output_bytes},
    deadline::{self, Deadline},
    door::{Door, Face},
    r#gen::inference::{
        self as wire, infer_parameter::ParameterChoice, model_metadata_response::TensorMetadata,
        repository_index_response::ModelIndex,
    },
    receipt_json::SamplingJson,
    status::{Code, Error},
    writing::{Delta, Deltas, Written},
};

/// `inference.GRPCInferenceService`.
#[derive(Clone, Debug)]
pub(crate) struct OpenInference {
    door: Arc<Door>,
}

/// What `ServerMetadata` announces; the last is ours: claims in response parameters.
const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "model_repository", "statistics", "hyperion_claim"];

/// Name of the input of a model that reads text.
pub(crate) const TEXT_INPUT: &str = "text_input";
/// Name of the input that asks for an answer part by part.
const STREAMING_INPUT: &str = "streaming";

/// Answers of a stream, as they come.
type Answers = mpsc::Sender<Result<wire::ModelStreamInferResponse, Status>>;

impl OpenInference {
    pub(crate) const fn new(door: Arc<Door>) -> Self {
        Self { door }
    }

    /// Answers a request. The text of a generator goes to `parts` as it comes, where the request asks for that; what is returned then
    /// is the end of it, with the claim.
    async fn infer(
        &self,
        asked: wire::ModelInferRequest,
        caller: &Caller,
        deadline: Deadline,
        parts: Option<&Answers>,
    ) -> Result<wire::ModelInferResponse, Error> {
        let since_us = self.door.clock.now_us();
        let name = asked.model_name.clone();
        let outcome = deadline.race(self.answered(asked, caller, deadline, parts)).await;
        self.door.observe("oip", &name, since_us, &outcome);
        outcome
    }

    async fn answered(
        &self,
        asked: wire::ModelInferRequest,
        caller: &Caller,
        deadline: Deadline,
        parts: Option<&Answers>,
    ) -> Result<wire::ModelInferResponse, Error> {
        let model = self.model(&asked.model_name, &asked.model_version)?;
        let face = self.door.face(model.id);
        let mut response = wire::ModelInferResponse {
            id: asked.id.clone(),
            model_name: asked.model_name.clone(),
            model_version: model.id.to_string(),
            ..wire::ModelInferResponse::default()
        };
        let Asked { ask, wait, outputs, is_streamed } = read::ask(&self.door, model, asked)?;
        let parts = match parts {
            None if is_streamed => {
                let text = "an answer comes part by part over ModelStreamInfer only";
                return Err(Error::bad_field("inputs.streaming", text));
            }
            parts => parts.filter(|_| is_streamed),
        };
        let job = self.door.job(ask, caller, deadline).await?;
        let drawing = job.drawing().cloned();
        let answered = match (parts, &drawing) {
            (Some(parts), Some(drawing)) => {
                let mut deltas = Deltas::new(face, drawing.clone(), 0);
                let part = |delta| Ok(part(response.clone(), face, &outputs, &delta));
                self.door.stream(job, wait, caller, &mut deltas, (parts, part)).await?
            }
            _ => self.door.answer(job, wait, caller).await?,
        };
        response.parameters = parameters(&answered, drawing.as_ref());
        let output = &answered.answer.output;
        let written = match &drawing {
            Some(drawing) => Some(Written::new(face, drawing, &output.data)?),
            None => None,
        };
        let mut whole = Part {
            dtype: output.dtype,
            dims: output.dims,
            data: output_bytes(&answered.answer),
            text: written.as_ref().map_or("", |written| &written.text),
            finish_reason: written.as_ref().map_or("", |written| written.finish_reason),
        };
        if parts.is_some() {
            // All of it has been sent.
            (whole.dims, whole.data, whole.text) = ([0, 1], Bytes::new(), "");
        }
        outputs::fill(&mut response, face, &outputs, &whole);
        Ok(response)
    }

    /// One request of a stream. What goes wrong is said inside the answer, and the stream goes on.
    async fn one_of_stream(
        &self,
        asked: wire::ModelInferRequest,
        caller: &Caller,
        answers: &Answers,
    ) -> wire::ModelStreamInferResponse {
        let named = wire::ModelInferResponse {
            id: asked.id.clone(),
            model_name: asked.model_name.clone(),
            model_version: asked.model_version.clone(),
            ..wire::ModelInferResponse::default()
        };
        let deadline = Deadline::after(self.door.limits.stream_deadline);
        let outcome = self.infer(asked, caller, deadline, Some(answers)).await;
        let (error_message, mut response) = match outcome {
            Ok(response) => (String::new(), response),
            Err(error) => (format!("{}: {error}", error.code().row().name), named),
        };
        response.parameters.extend([is_final(true)]);
        wire::ModelStreamInferResponse { error_message, infer_response: Some(response) }
    }

    /// The model of a name and a version; no version means what the name means now.
    fn model(&self, name: &str, version: &str) -> Result<ModelInfo, Error> {
        let model = self.door.model(name)?;
        if version.is_empty() || version == model.id.to_string() {
            return Ok(model);
        }
        let text = format!("`{name}` is {} here, not `{version}`", model.id);
        Err(Error::at(Code::ModelNotFound, "model_version", text))
    }

    fn metadata(&self, name: &str, version: &str) -> Result<wire::ModelMetadataResponse, Error> {
        let model = self.model(name, version)?;
        let face = self.door.face(model.id);
        let tensor = |name: &str, datatype: &str, shape: Vec<i64>| TensorMetadata {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape,
        };
        let form = input_form(&model);
        let width = i64::try_from(form.width).unwrap_or(i64::MAX);
        let mut inputs = vec![match face.text {
            Some(_) => tensor(TEXT_INPUT, "BYTES", vec![1]),
            None => tensor(&face.input, datatype(form.dtype), vec![-1, width]),
        }];
        if face.writing.is_some() {
            inputs.push(tensor(STREAMING_INPUT, "BOOL", vec![1]));
        }
        Ok(wire::ModelMetadataResponse {
            name: name.to_owned(),
            versions: vec![model.id.to_string()],
            platform: "hyperion_int8".to_owned(),
            inputs,
            outputs: Output::metadata(face, &model),
        })
    }

    fn statistics(
        &self,
        asked: &wire::ModelStatisticsRequest,
    ) -> Result<wire::ModelStatisticsResponse, Error> {
        let models = match asked.name.as_str() {
            "" => self.door.engine.models(),
            name => vec![self.model(name, &asked.version)?],
        };
        let stats = self.door.engine.stats();
        let of = |model: &ModelInfo| stats.models.iter().find(|stats| stats.id == model.id);
        let model_stats =
            models.iter().filter_map(|model| Some(statistics_of(model, of(model)?))).collect();
        Ok(wire::ModelStatisticsResponse { model_stats })
    }

    fn index(&self, ready_only: bool) -> wire::RepositoryIndexResponse {
        let models = self.door.engine.models();
        let models = models.iter().filter(|model| !ready_only || model.ready.is_ok());
        let entry = |model: &ModelInfo| {
            let (state, reason) = match &model.ready {
                Ok(()) => ("READY", String::new()),
                Err(why) => ("UNAVAILABLE", why.to_string()),
            };
            let version = model.id.to_string();
            let named = move |name: &String| ModelIndex {
                name: name.clone(),
                version: version.clone(),
                state: state.to_owned(),
                reason: reason.clone(),
            };
            model.aliases.iter().map(named).collect::<Vec<_>>()
        };
        wire::RepositoryIndexResponse { models: models.flat_map(entry).collect() }
    }

    /// Loading and unloading: for administrators, and not while the node runs.
    fn administer<T>(&self, request: &Request<T>) -> Result<(), Error> {
        self.door.admit(request, Area::Admin)?;
        Err(Error::new(
            Code::Unimplemented,
            "models are named in the node's configuration and loaded at its start",
        ))
    }
}

fn statistics_of(model: &ModelInfo, stats: &ModelStats) -> wire::ModelStatistics {
    let duration = |times: &Histogram| wire::StatisticDuration {
        count: times.count(),
        ns: times.sum_us.saturating_mul(1000),
    };
    let total = stats.queue_us.sum_us.saturating_add(stats.run_us.sum_us);
    wire::ModelStatistics {
        name: model.aliases.first().cloned().unwrap_or_default(),
        version: model.id.to_string(),
        last_inference: 0,
        inference_count: stats.rows,
        execution_count: stats.batches,
        inference_stats: Some(wire::InferStatistics {
            success: Some(wire::StatisticDuration {
                count: stats.jobs,
                ns: total.saturating_mul(1000),
            }),
            queue: Some(duration(&stats.queue_us)),
            compute_infer: Some(duration(&stats.run_us)),
            ..wire::InferStatistics::default()
        }),
        batch_stats: Vec::new(),
    }
}

/// What is told beside an answer: its claim, and how it was drawn.
fn parameters(
    answered: &Answered,
    drawing: Option<&Drawing>,
) -> BTreeMap<String, wire::InferParameter> {
    let answer = &answered.answer;
    let claim = &answer.claim.claim;
    let digest = answer.digest.to_string();
    let mut parameters = BTreeMap::from([
        text("receipt_url", format!("/v1/receipts/{digest}")),
        text("claim_digest", digest),
        text("request_id", claim.request_id.to_string()),
        text("model_id", claim.model_id.to_string()),
        text("output_hash", claim.output_hash.to_string()),
        int("reached", answered.reached.into()),
    ]);
    if let Some(place) = &answered.place {
        parameters.extend([int("log_index", i64::try_from(place.index).unwrap_or(i64::MAX))]);
    }
    if let Some(drawing) = drawing {
        let spelled = serde_json::to_string(&SamplingJson::from(drawing));
        parameters.extend([
            text("sampling", spelled.expect("numbers and texts")),
            text("seed", claim.seed.to_string()),
            text("entropy", answer.request.entropy.to_string()),
            int("in_tokens", claim.in_tokens.into()),
            int("out_tokens", claim.out_tokens.into()),
        ]);
    }
    parameters
}

/// Part of an answer, in a response that says whose it is.
fn part(
    mut response: wire::ModelInferResponse,
    face: &Face,
    outputs: &[Output],
    delta: &Delta,
) -> wire::ModelStreamInferResponse {
    let part = Part {
        dtype: Dtype::U32,
        dims: [delta.tokens.len() as u64, 1],
        data: delta.tokens.iter().flat_map(|token| token.to_le_bytes()).collect(),
        text: &delta.text,
        finish_reason: "",
    };
    outputs::fill(&mut response, face, outputs, &part);
    response.parameters.extend([is_final(false)]);
    wire::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

/// Whether more is to come for the same request.
fn is_final(is_final: bool) -> (String, wire::InferParameter) {
    parameter("triton_final_response", ParameterChoice::BoolParam(is_final))
}

/// The protocol's name of an element type.
const fn datatype(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::I8 => "INT8",
        Dtype::U8 | Dtype::W8r => "UINT8",
        Dtype::I16 => "INT16",
        Dtype::U16 => "UINT16",
        Dtype::I32 => "INT32",
        Dtype::U32 => "UINT32",
        Dtype::I64 => "INT64",
        Dtype::U64 => "UINT64",
    }
}

fn parameter(name: &str, choice: ParameterChoice) -> (String, wire::InferParameter) {
    (name.to_owned(), wire::InferParameter { parameter_choice: Some(choice) })
}

fn text(name: &str, value: String) -> (String, wire::InferParameter) {
    parameter(name, ParameterChoice::StringParam(value))
}

fn int(name: &str, value: i64) -> (String, wire::InferParameter) {
    parameter(name, ParameterChoice::Int64Param(value))
}

#[tonic::async_trait]
impl wire::grpc_inference_service_server::GrpcInferenceService for OpenInference {
    async fn server_live(
        &self,
        _: Request<wire::ServerLiveRequest>,
    ) -> Result<Response<wire::ServerLiveResponse>, Status> {
        Ok(Response::new(wire::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<wire::ServerReadyRequest>,
    ) -> Result<Response<wire::ServerReadyResponse>, Status> {
        let ready = self.door.ready().is_ok();
        Ok(Response::new(wire::ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<wire::ModelReadyRequest>,
    ) -> Result<Response<wire::ModelReadyResponse>, Status> {
        self.door.admit(&request, Area::Models)?;
        let wire::ModelReadyRequest { name, version } = request.get_ref();
        let ready = self.model(name, version).is_ok_and(|model| model.ready.is_ok());
        Ok(Response::new(wire::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<wire::ServerMetadataRequest>,
    ) -> Result<Response<wire::ServerMetadataResponse>, Status> {
        Ok(Response::new(wire::ServerMetadataResponse {
            name: "hyperion".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<wire::ModelMetadataRequest>,
    ) -> Result<Response<wire::ModelMetadataResponse>, Status> {
        self.door.admit(&request, Area::Models)?;
        let wire::ModelMetadataRequest { name, version } = request.get_ref();
        Ok(Response::new(self.metadata(name, version)?))
    }

    async fn model_infer(
        &self,
        request: Request<wire::ModelInferRequest>,
    ) -> Result<Response<wire::ModelInferResponse>, Status> {
        let caller = self.door.admit(&request, Area::Infer)?;
        let deadline = Deadline::of(&request, self.door.limits.unary_deadline);
        Ok(Response::new(self.infer(request.into_inner(), &caller, deadline, None).await?))
    }

    type ModelStreamInferStream = ReceiverStream<Result<wire::ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<wire::ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let caller = self.door.admit(&request, Area::Infer)?;
        let end = Deadline::own(&request);
        let service = self.clone();
        let mut asked = request.into_inner();
        let (answers, receive) = mpsc::channel(4);
        tokio::spawn(async move {
            let serve = async {
                while let Some(asked) = asked.message().await? {
                    let answer = service.one_of_stream(asked, &caller, &answers).await;
                    if answers.send(Ok(answer)).await.is_err() {
                        break;
                    }
                }
                Ok::<(), Status>(())
            };
            let ended = tokio::select! {
                ended = serve => ended,
                () = answers.closed() => return,
                () = deadline::passes(end) => Err(deadline::passed().into()),
            };
            if let Err(status) = ended {
                drop(answers.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn model_statistics(
        &self,
        request: Request<wire::ModelStatisticsRequest>,
    ) -> Result<Response<wire::ModelStatisticsResponse>, Status> {
        self.door.admit(&request, Area::Models)?;
        Ok(Response::new(self.statistics(request.get_ref())?))
    }

    async fn repository_index(
        &self,
        request: Request<wire::RepositoryIndexRequest>,
    ) -> Result<Response<wire::RepositoryIndexResponse>, Status> {
        self.door.admit(&request, Area::Models)?;
        Ok(Response::new(self.index(request.get_ref().ready)))
    }

    async fn repository_model_load(
        &self,
        request: Request<wire::RepositoryModelLoadRequest>,
    ) -> Result<Response<wire::RepositoryModelLoadResponse>, Status> {
        self.administer(&request)?;
        Ok(Response::new(wire::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<wire::RepositoryModelUnloadRequest>,
    ) -> Result<Response<wire::RepositoryModelUnloadResponse>, Status> {
        self.administer(&request)?;
        Ok(Response::new(wire::RepositoryModelUnloadResponse {}))
    }
}
