//! A thin client of this node's own gRPC, for the command line and for tests.
//!
//! It adds a key to each call and turns answers into receipts; it believes nothing that a receipt does not show.

use std::time::Duration;

use hyperion_primitives::{ClaimDigest, Dtype};
use hyperion_verify::{Domain, Request};
use tonic::{
    metadata::{Ascii, MetadataValue, errors::InvalidMetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    convert,
    r#gen::v1::{
        self, inference_service_client::InferenceServiceClient,
        log_service_client::LogServiceClient,
    },
    limits::Limits,
    receipt,
    receipt_json::{Envelope, TensorData},
    status::Error,
    writing,
};

/// How to reach a node.
#[derive(Clone, Debug, Default)]
pub struct ClientConfig {
    /// The token of a key, `hyp.<id>.<secret>`.
    pub token: Option<String>,
    /// PEM of the authorities to trust, for `https://` addresses.
    pub ca_pem: Option<String>,
    /// PEM of a certificate and its key, for a node that asks for one.
    pub identity_pem: Option<(String, String)>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none, or nobody answers there.
    #[error("cannot reach {address}: {}", chain(.cause))]
    Unreachable {
        /// The address as given.
        address: String,
        /// What the transport said.
        cause: tonic::transport::Error,
    },
    /// The token cannot be sent.
    #[error("the token holds characters that cannot be sent")]
    Token(#[from] InvalidMetadataValue),
    /// An answer that is not of the documented form.
    #[error("the node's answer is malformed: {0}")]
    Answer(#[from] Error),
    /// The answer came without what a receipt needs.
    #[error("the answer has no {0}; ask with wait_for = logged")]
    Incomplete(&'static str),
}

/// An error with its causes; a transport error alone says "transport error".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Adds the key to each call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// The key of `config`, if it has one.
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self(match &config.token {
            Some(token) => Some(format!("Bearer {token}").parse()?),
            None => None,
        }))
    }
}

impl Interceptor for Bearer {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A connection to a node.
#[derive(Clone, Debug)]
pub struct Client {
    /// `hyperion.v1.InferenceService`.
    pub inference: InferenceServiceClient<InterceptedService<Channel, Bearer>>,
    /// `hyperion.v1.LogService`.
    pub log: LogServiceClient<InterceptedService<Channel, Bearer>>,
}

impl Client {
    /// Connects to `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    ///
    /// When the address is malformed, nobody answers, or the token cannot be sent.
    pub async fn connect(address: &str, config: &ClientConfig) -> Result<Self, ClientError> {
        let unreachable = |cause| ClientError::Unreachable { address: address.to_owned(), cause };
        let channel = endpoint(address, config)?.connect().await.map_err(unreachable)?;
        let bearer = Bearer::new(config)?;
        let max = Limits::default().message_bytes_max;
        Ok(Self {
            inference: InferenceServiceClient::with_interceptor(channel.clone(), bearer.clone())
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
            log: LogServiceClient::with_interceptor(channel, bearer),
        })
    }
}

/// Seconds after which a connection over which nothing comes is pinged, and seconds that the answer may take.
const PING_S: u64 = 20;
const PONG_S: u64 = 10;

/// Where `http://host:port` or `https://host:port` is, and how to connect; a peer that is gone is noticed.
pub(crate) fn endpoint(address: &str, config: &ClientConfig) -> Result<Endpoint, ClientError> {
    let unreachable = |cause| ClientError::Unreachable { address: address.to_owned(), cause };
    let mut endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(unreachable)?
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(PING_S))
        .keep_alive_timeout(Duration::from_secs(PONG_S))
        .connect_timeout(Duration::from_secs(10));
    if address.starts_with("https://") {
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &config.ca_pem {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &config.identity_pem {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint.tls_config(tls).map_err(unreachable)?;
    }
    Ok(endpoint)
}

/// The receipt of an answer that was asked for with `wait_for = logged`. Nothing of it is checked yet.
///
/// `input` is what the caller sent, if it is to stand in the file.
///
/// # Errors
///
/// When the answer has no receipt or is malformed.
pub fn envelope(
    domain: Domain,
    answer: v1::InferResponse,
    input: Option<Vec<TensorData>>,
) -> Result<Envelope, ClientError> {
    let wire = answer.receipt.ok_or(ClientError::Incomplete("receipt"))?;
    let (claim, proof) = receipt::of_wire(wire)?;
    let request: Request = convert::request(answer.request)?;
    let sampling = answer.sampling.map(writing::of_wire).transpose()?;
    let output = if sampling.is_some() {
        let data = answer.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        vec![TensorData { dtype: Dtype::U32, dims: vec![answer.tokens.len() as u64, 1], data }]
    } else {
        answer.outputs.into_iter().map(tensor_data).collect::<Result<_, _>>()?
    };
    Ok(Envelope {
        domain,
        request: Some(request),
        sampling,
        claim,
        proof: proof.to_string(),
        input,
        output: Some(output),
    })
}

/// A tensor of an answer.
///
/// # Errors
///
/// When its type is unknown or its data is not inline.
pub fn tensor_data(tensor: v1::Tensor) -> Result<TensorData, Error> {
    let dtype = convert::dtype("outputs", tensor.dtype)?;
    match tensor.body {
        Some(v1::tensor::Body::Data(data)) => {
            Ok(TensorData { dtype, dims: tensor.dims, data: data.into() })
        }
        Some(v1::tensor::Body::Blob(_)) | None => {
            Err(Error::bad_field("outputs", "the data is not in the message"))
        }
    }
}

/// The digest of an answer's claim, computed anew; the one in the message is a copy that nobody relies on.
///
/// # Errors
///
/// When the answer has no claim or a malformed one.
pub fn claim_digest(
    domain: &Domain,
    answer: &v1::InferResponse,
) -> Result<ClaimDigest, ClientError> {
    let claim = answer.claim.clone().ok_or(ClientError::Incomplete("claim"))?;
    Ok(convert::claim(claim)?.claim.digest(domain))
}
