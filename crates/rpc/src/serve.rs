//! The two listeners, gRPC and HTTP, from an address to the last answer.
//!
//! [`Listeners::bind`] takes the sockets, so ports and refusals are known before anything runs;
//! [`Listeners::serve`] serves until the shutdown's `stop` and then gives calls under way some time to end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

use crate::{
    deadline::Arrivals,
    door::Door,
    r#gen::{
        DESCRIPTOR, inference::grpc_inference_service_server::GrpcInferenceServiceServer,
        v1::inference_service_server::InferenceServiceServer,
        v1::log_service_server::LogServiceServer, v1::worker_service_server::WorkerServiceServer,
    },
    health, http,
    infer::InferenceService,
    log::LogService,
    oip::OpenInference,
    tls::{Terms, Tls, accept},
    worker::WorkerService,
};

/// Where plain, unencrypted listeners may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plaintext {
    /// On loopback addresses only.
    #[default]
    Loopback,
    /// Anywhere: something in front of the node encrypts.
    Anywhere,
}

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// gRPC; 127.0.0.1:8001. Port 0 takes any free one.
    pub grpc: SocketAddr,
    /// HTTP; 127.0.0.1:8000. Port 0 takes any free one.
    pub http: SocketAddr,
    /// Certificates; `None` listens in plain text.
    pub tls: Option<Arc<Tls>>,
    /// Where plain text is allowed; loopback.
    pub plaintext: Plaintext,
    /// Connections that each listener serves at once; 4,096. More wait in the kernel until one closes.
    pub connections_max: usize,
    /// How long a new connection may take to send its HTTP/2 preface, or anything else; 10 s.
    pub greeting_wait: Duration,
    /// Streams one HTTP/2 connection may have open; 256.
    pub streams_max: u32,
    /// How long calls under way may take once the listeners have stopped; 30 s.
    pub grace: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            grpc: SocketAddr::from(([127, 0, 0, 1], 8001)),
            http: SocketAddr::from(([127, 0, 0, 1], 8000)),
            tls: None,
            plaintext: Plaintext::Loopback,
            connections_max: 4096,
            greeting_wait: Duration::from_secs(10),
            streams_max: 256,
            grace: Duration::from_secs(30),
        }
    }
}

/// The two steps of an orderly end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Health says `NOT_SERVING` from here on; calls are still taken.
    pub drain: CancellationToken,
    /// No connection is taken any more; watchers are told; calls under way end.
    pub stop: CancellationToken,
}

/// Why the listeners could not be set up or went down.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Plain text on an address that others can reach.
    #[error(
        "{surface} would listen in plain text on {address}: configure tls.cert_file and tls.key_file, \
         listen on a loopback address, or allow it with tls.plaintext = \"anywhere\""
    )]
    Plaintext {
        /// `grpc` or `http`.
        surface: &'static str,
        /// The address asked for.
        address: SocketAddr,
    },
    /// An address could not be taken.
    #[error("{surface} cannot listen on {address}: {cause}")]
    Bind {
        /// `grpc` or `http`.
        surface: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The server itself failed.
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Sockets that are taken and not served yet.
#[derive(Debug)]
pub struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    config: ServeConfig,
}

impl Listeners {
    /// Takes both addresses.
    ///
    /// # Errors
    ///
    /// When an address is taken, or would be served in plain text where that is not allowed.
    pub async fn bind(config: ServeConfig) -> Result<Self, ServeError> {
        let grpc = bind("grpc", config.grpc, &config).await?;
        let http = bind("http", config.http, &config).await?;
        Ok(Self { grpc, http, config })
    }

    /// Where gRPC listens.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc.local_addr().unwrap_or(self.config.grpc)
    }

    /// Where HTTP listens.
    pub fn http_address(&self) -> SocketAddr {
        self.http.local_addr().unwrap_or(self.config.http)
    }

    /// Serves until `stop` of the door's shutdown, then waits for calls under way, at most the grace time.
    /// `pages` are further HTTP routes, beside those of this crate.
    ///
    /// # Errors
    ///
    /// When a server fails.
    pub async fn serve(self, door: Arc<Door>, pages: axum::Router) -> Result<(), ServeError> {
        let Self { grpc, http, config } = self;
        let Shutdown { drain, stop } = door.shutdown.clone();
        let (reporter, health) = tonic_health::server::health_reporter();
        tokio::spawn(health::report(Arc::clone(&door), reporter, drain, stop.clone()));

        let max = door.limits.message_bytes_max;
        let mut routes = Routes::builder();
        routes
            .add_service(
                InferenceServiceServer::new(InferenceService::new(Arc::clone(&door)))
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .add_service(
                GrpcInferenceServiceServer::new(OpenInference::new(Arc::clone(&door)))
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .add_service(LogServiceServer::new(LogService::new(Arc::clone(&door))))
            .add_service(
                WorkerServiceServer::new(WorkerService::new(Arc::clone(&door)))
                    .max_decoding_message_size(WorkerService::message_bytes_max(&door))
                    .max_encoding_message_size(max),
            )
            .add_service(health)
            .add_service(reflection().build_v1().expect("the checked-in descriptors are whole"))
            .add_service(
                reflection().build_v1alpha().expect("the checked-in descriptors are whole"),
            );
        let routes = routes.routes().prepare();

        let accepted = |listener, protocols| {
            let (tls, connections_max) = (config.tls.clone(), config.connections_max);
            let greeting_wait = config.greeting_wait;
            let terms = Terms { tls, protocols, connections_max, greeting_wait };
            ReceiverStream::new(accept(listener, terms, stop.clone()))
        };
        let grpc = server(&config).serve_with_incoming_shutdown(
            Arrivals(routes),
            accepted(grpc, &[b"h2"]),
            stop.clone().cancelled_owned(),
        );
        let http = server(&config).accept_http1(true).serve_with_incoming_shutdown(
            http::router(door).merge(pages),
            accepted(http, &[b"h2", b"http/1.1"]),
            stop.clone().cancelled_owned(),
        );
        let both = async { tokio::try_join!(grpc, http) };
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(config.grace).await;
        };
        tokio::select! {
            ended = both => drop(ended?),
            () = too_late => tracing::warn!("calls still under way were cut off"),
        }
        Ok(())
    }
}

async fn bind(
    surface: &'static str,
    address: SocketAddr,
    config: &ServeConfig,
) -> Result<TcpListener, ServeError> {
    let open = config.tls.is_none() && config.plaintext == Plaintext::Loopback;
    if open && !address.ip().is_loopback() {
        return Err(ServeError::Plaintext { surface, address });
    }
    TcpListener::bind(address).await.map_err(|cause| ServeError::Bind { surface, address, cause })
}

/// Bytes of one stream, and of a connection, that a peer may send ahead. Fixed: windows that adapt cost a ping and its
/// answer with every small call.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What both servers share: pings that find dead peers, windows, and bounds on what a peer may open.
fn server(config: &ServeConfig) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_max_header_list_size(16 << 10)
        .max_concurrent_streams(config.streams_max)
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
