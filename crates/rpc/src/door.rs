//! What every surface shares: the engine, the log, the limits, and who may come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use hyperion_engine::{Clock, Engine, ModelInfo};
use hyperion_primitives::{Address, ModelId};

use crate::{
    auth::{Area, Caller, Gate},
    blob::Blobs,
    float::{AnyModel, FloatServer},
    health::Readiness,
    limits::Limits,
    log::LogView,
    serve::Shutdown,
    status::{Code, Error},
    writing::Writing,
};

/// Turns text into the token ids of one model; the tokenizer whose hash is in the model's identity.
pub trait TextEncoder: Send + Sync + 'static {
    /// Token ids, special ones included.
    ///
    /// # Errors
    ///
    /// When the text cannot be encoded; the sentence is shown to the caller.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String>;
}

/// What a person sees of a model. None of it is in the model's identity.
#[derive(Clone)]
pub struct Face {
    /// Name of the input tensor.
    pub input: String,
    /// Name of the output tensor.
    pub output: String,
    /// SPDX expression of the weights' licence, or empty.
    pub license: String,
    /// For a model that reads text: its tokenizer.
    pub text: Option<Arc<dyn TextEncoder>>,
    /// For a model that generates text.
    pub writing: Option<Writing>,
}

impl Default for Face {
    fn default() -> Self {
        Self {
            input: "input".into(),
            output: "output".into(),
            license: String::new(),
            text: None,
            writing: None,
        }
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Face")
            .field("input", &self.input)
            .field("output", &self.output)
            .field("license", &self.license)
            .field("text", &self.text.is_some())
            .field("writing", &self.writing)
            .finish()
    }
}

/// What a call of a model costs a contract; the node asks its gas schedule.
pub trait Prices: Send + Sync + 'static {
    /// Gas of `INFERENCE.infer` for `input_bytes` of input; `None` above the cap of what runs in a transaction.
    fn gas(&self, model: &ModelInfo, input_bytes: u64, tokens_max: u32) -> Option<u64>;
}

/// Hears of every answered inference; the node counts them.
pub trait Observer: Send + Sync + 'static {
    /// A call of `surface` (`grpc`, `oip`, `http`) ended after `took`. `model` is an alias of a registered model, or
    /// `other`; `code` is `ok` or a code of the error table.
    fn answered(&self, surface: &'static str, model: &str, code: &'static str, took: Duration);
}

/// Everything a door is made of.
pub struct Parts {
    /// Runs and claims.
    pub engine: Engine,
    /// The claim log.
    pub log: Arc<dyn LogView>,
    /// What people see of each model; a model that is not listed gets [`Face::default`].
    pub faces: BTreeMap<ModelId, Face>,
    /// Models in floating point, if the node serves some.
    pub float: Option<Arc<dyn FloatServer>>,
    /// Gas of calls.
    pub prices: Arc<dyn Prices>,
    /// Who may call.
    pub gate: Gate,
    /// Workers that may attach, by the address of their key.
    pub workers: BTreeSet<Address>,
    /// How much they may send.
    pub limits: Limits,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
    /// Whether the node can serve.
    pub readiness: Arc<dyn Readiness>,
    /// Hears of every answer.
    pub observer: Arc<dyn Observer>,
    /// The orderly end.
    pub shutdown: Shutdown,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("faces", &self.faces)
            .field("gate", &self.gate)
            .field("workers", &self.workers)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What every surface shares.
pub struct Door {
    pub(crate) engine: Engine,
    pub(crate) log: Arc<dyn LogView>,
    faces: BTreeMap<ModelId, Face>,
    plain: Face,
    pub(crate) float: Option<Arc<dyn FloatServer>>,
    pub(crate) prices: Arc<dyn Prices>,
    gate: Gate,
    pub(crate) workers: BTreeSet<Address>,
    pub(crate) limits: Limits,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) readiness: Arc<dyn Readiness>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) shutdown: Shutdown,
}

impl Door {
    /// A door of these parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let blobs = Arc::new(Blobs::new(&parts.limits, Arc::clone(&parts.clock)));
        Arc::new(Self {
            engine: parts.engine,
            log: parts.log,
            faces: parts.faces,
            plain: Face::default(),
            float: parts.float,
            prices: parts.prices,
            gate: parts.gate,
            workers: parts.workers,
            limits: parts.limits,
            blobs,
            clock: parts.clock,
            readiness: parts.readiness,
            observer: parts.observer,
            shutdown: parts.shutdown,
        })
    }

    /// Who may call; to replace the keys on SIGHUP.
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Lets a gRPC call in, or says why not.
    pub(crate) fn admit<T>(
        &self,
        request: &tonic::Request<T>,
        area: Area,
    ) -> Result<Caller, Error> {
        let header = request.metadata().get("authorization");
        self.gate.admit(header.map(tonic::metadata::MetadataValue::as_encoded_bytes), area)
    }

    /// Lets an HTTP call in, or says why not.
    pub(crate) fn admit_http(
        &self,
        headers: &axum::http::HeaderMap,
        area: Area,
    ) -> Result<Caller, Error> {
        let header = headers.get(axum::http::header::AUTHORIZATION);
        self.gate.admit(header.map(axum::http::HeaderValue::as_bytes), area)
    }

    /// The exact model that `name` means: an alias, or `0x` and 64 hex digits.
    pub(crate) fn model(&self, name: &str) -> Result<ModelInfo, Error> {
        match self.named(name)? {
            AnyModel::Exact(model) => Ok(model),
            AnyModel::Float(_) => {
                let text = format!("`{name}` runs in floating point, which this call does not do");
                Err(Error::at(Code::Unimplemented, "model", text))
            }
        }
    }

    /// The model that `name` means: an alias, or `0x` and 64 hex digits.
    pub(crate) fn named(&self, name: &str) -> Result<AnyModel, Error> {
        if name.len() > self.limits.name_bytes_max {
            let text = format!("a name has at most {} bytes", self.limits.name_bytes_max);
            return Err(Error::bad_field("model", text));
        }
        let exact = self.engine.resolve(name).map(AnyModel::Exact);
        exact.or_else(|| self.float_model(name).map(AnyModel::Float)).ok_or_else(|| {
            Error::at(Code::ModelNotFound, "model", format!("no model `{name}` here"))
        })
    }

    /// Nothing, or why no work should be sent here.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.shutdown.drain.is_cancelled() {
            return Err("the node is draining".to_owned());
        }
        self.readiness.ready()
    }

    /// What people see of a model.
    pub(crate) fn face(&self, model: ModelId) -> &Face {
        self.faces.get(&model).unwrap_or(&self.plain)
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("faces", &self.faces)
            .field("gate", &self.gate)
            .field("workers", &self.workers)
            .field("limits", &self.limits)
            .field("blobs", &self.blobs)
            .finish_non_exhaustive()
    }
}
