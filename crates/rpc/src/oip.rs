//! The Open Inference Protocol, version 2, as unmodified Triton clients speak it.
//!
//! The models are the same, and so is the way to the engine ([`Door::job`]); a claim comes back in the response's
//! parameters. What a message may hold is read in [`read`].

mod read;

use std::{collections::BTreeMap, sync::Arc};

use hyperion_engine::{Histogram, ModelInfo, ModelStats};
use hyperion_primitives::Dtype;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    answer::Answered,
    auth::{Area, Caller},
    convert::{Form, input_form, output_bytes, output_form},
    deadline::{self, Deadline},
    door::Door,
    r#gen::inference::{
        self as wire, infer_parameter::ParameterChoice, model_infer_response::InferOutputTensor,
        model_metadata_response::TensorMetadata, repository_index_response::ModelIndex,
    },
    lookup::output_rows,
    status::{Code, Error},
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

impl OpenInference {
    pub(crate) const fn new(door: Arc<Door>) -> Self {
        Self { door }
    }

    async fn infer(
        &self,
        asked: wire::ModelInferRequest,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<wire::ModelInferResponse, Error> {
        let since_us = self.door.clock.now_us();
        let name = asked.model_name.clone();
        let work = async {
            let (id, model_name) = (asked.id.clone(), asked.model_name.clone());
            let model = self.model(&asked.model_name, &asked.model_version)?;
            let (ask, wait) = read::ask(&self.door, model, asked)?;
            let job = self.door.job(ask, caller, deadline).await?;
            let answered = self.door.answer(job, wait, caller).await?;
            Ok(self.response(id, model_name, &answered))
        };
        let outcome = deadline.race(work).await;
        self.door.observe("oip", &name, since_us, &outcome);
        outcome
    }

    fn response(
        &self,
        id: String,
        model_name: String,
        answered: &Answered,
    ) -> wire::ModelInferResponse {
        let answer = &answered.answer;
        let model = answer.request.model_id;
        let claim = answer.digest.to_string();
        let mut parameters = BTreeMap::from([
            text("receipt_url", format!("/v1/receipts/{claim}")),
            text("claim_digest", claim),
            text("request_id", answer.claim.claim.request_id.to_string()),
            text("model_id", model.to_string()),
            text("output_hash", answer.claim.claim.output_hash.to_string()),
            int("reached", answered.reached.into()),
        ]);
        if let Some(place) = &answered.place {
            parameters.extend([int("log_index", i64::try_from(place.index).unwrap_or(i64::MAX))]);
        }
        let output = InferOutputTensor {
            name: self.door.face(model).output.clone(),
            datatype: datatype(answer.output.dtype).to_owned(),
            shape: answer.output.dims.iter().map(|dim| i64::try_from(*dim).unwrap_or(0)).collect(),
            ..InferOutputTensor::default()
        };
        wire::ModelInferResponse {
            model_name,
            model_version: model.to_string(),
            id,
            parameters,
            outputs: vec![output],
            raw_output_contents: vec![output_bytes(answer)],
        }
    }

    /// One request of a stream. What goes wrong is said inside the answer, and the stream goes on.
    async fn one_of_stream(
        &self,
        asked: wire::ModelInferRequest,
        caller: &Caller,
    ) -> wire::ModelStreamInferResponse {
        let named = wire::ModelInferResponse {
            id: asked.id.clone(),
            model_name: asked.model_name.clone(),
            model_version: asked.model_version.clone(),
            ..wire::ModelInferResponse::default()
        };
        let deadline = Deadline::after(self.door.limits.unary_deadline);
        let (error_message, mut response) = match self.infer(asked, caller, deadline).await {
            Ok(response) => (String::new(), response),
            Err(error) => (format!("{}: {error}", error.code().row().name), named),
        };
        let last = ParameterChoice::BoolParam(true);
        response.parameters.extend([parameter("triton_final_response", last)]);
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
        let tensor = |name: &str, form: Form, rows: i64| TensorMetadata {
            name: name.to_owned(),
            datatype: datatype(form.dtype).to_owned(),
            shape: vec![rows, i64::try_from(form.width).unwrap_or(i64::MAX)],
        };
        let input = if face.text.is_some() {
            TensorMetadata {
                name: TEXT_INPUT.to_owned(),
                datatype: "BYTES".to_owned(),
                shape: vec![1],
            }
        } else {
            tensor(&face.input, input_form(&model), -1)
        };
        Ok(wire::ModelMetadataResponse {
            name: name.to_owned(),
            versions: vec![model.id.to_string()],
            platform: "hyperion_int8".to_owned(),
            inputs: vec![input],
            outputs: vec![tensor(&face.output, output_form(&model), output_rows(&model))],
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
        Ok(Response::new(self.infer(request.into_inner(), &caller, deadline).await?))
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
                    let answer = service.one_of_stream(asked, &caller).await;
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
