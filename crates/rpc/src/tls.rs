//! Connections as the servers take them: plain TCP, or TLS by rustls over ring.
//!
//! A listener serves a bounded number of connections; more wait in the kernel until one closes. So that nobody holds a
//! place by silence, a peer has to show its protocol within a time: HTTP/2 by its preface, HTTP/1 by anything else. Behind
//! that the servers' own clocks run: 30 s for the head of an HTTP/1 request, pings for HTTP/2.
//!
//! Handshakes happen beside the accept loop, so a peer that stalls in one holds up nobody. The configuration is
//! read for each connection, so [`Tls::reload`] changes certificates without a restart.

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Sleep,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
        server::{VerifierBuilderError, WebPkiClientVerifier},
    },
    server::TlsStream,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// Where the certificates are; PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate chain, its own first.
    pub cert_file: PathBuf,
    /// The key of the first certificate.
    pub key_file: PathBuf,
    /// Authorities of client certificates. With it, a client without a certificate of theirs is refused.
    pub client_ca_file: Option<PathBuf>,
}

/// Why certificates were refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM of the wanted kind.
    #[error("{path}: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{0}: holds no certificate")]
    Empty(PathBuf),
    /// Key and certificate do not belong together, or are of an unknown kind.
    #[error("the certificate and its key are refused: {0}")]
    Identity(#[from] rustls::Error),
    /// The client authorities cannot be used.
    #[error("the client authorities are refused: {0}")]
    ClientCa(#[from] VerifierBuilderError),
}

/// A loaded TLS configuration that can be loaded anew.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Loads certificates.
    ///
    /// # Errors
    ///
    /// When a file is unreadable or its content is refused.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let config = RwLock::new(Arc::new(server_config(&files)?));
        Ok(Self { files, config })
    }

    /// Loads the same files again; connections that exist keep what they have.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); the certificates in use stay then.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(server_config(&self.files)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What a connection is accepted with that may speak one of `protocols`.
    fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        let mut config = ServerConfig::clone(&config);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn server_config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let provider = Arc::new(ring::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|cause| TlsError::File { path: files.key_file.clone(), cause })?;
    Ok(builder.with_single_cert(certificates(&files.cert_file)?, key)?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refused = |cause| TlsError::File { path: path.to_owned(), cause };
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(refused)?
        .collect::<Result<_, _>>()
        .map_err(refused)?;
    if all.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(all)
}

/// Handshakes under way at once; further connections wait in the kernel.
const HANDSHAKES_MAX: usize = 256;
/// How long a peer may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which connections are taken.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Certificates; `None` takes plain text.
    pub(crate) tls: Option<Arc<Tls>>,
    /// What ALPN offers.
    pub(crate) protocols: &'static [&'static [u8]],
    /// Connections at once, 1 at least.
    pub(crate) connections_max: usize,
    /// How long a peer may take to show its protocol.
    pub(crate) greeting_wait: Duration,
}

/// Accepts connections until `stop`; those ready to be served come out of the channel.
pub(crate) fn accept(
    listener: TcpListener,
    terms: Terms,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Io>> {
    let Terms { tls, protocols, connections_max, greeting_wait } = terms;
    let (ready, connections) = mpsc::channel(1);
    tokio::spawn(async move {
        let connections_max = connections_max.clamp(1, Semaphore::MAX_PERMITS);
        let connections = Arc::new(Semaphore::new(connections_max));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            if connections.available_permits() == 0 {
                tracing::warn!(connections_max, "a listener is full; new connections wait");
            }
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = async {
                    let place = Arc::clone(&connections).acquire_owned().await;
                    let place = place.expect("the semaphore is never closed");
                    listener.accept().await.map(|(stream, _)| (stream, place))
                } => accepted,
            };
            let (stream, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_the_peers(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "accepting connections pauses");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Small answers leave at once. A socket that refuses the option still works.
            drop(stream.set_nodelay(true));
            let Some(tls) = &tls else {
                let io = Io::new(Stream::Plain(stream), place, greeting_wait);
                if ready.send(Ok(io)).await.is_err() {
                    return;
                }
                continue;
            };
            let turn = Arc::clone(&handshakes).acquire_owned().await;
            let (acceptor, ready) = (tls.acceptor(protocols), ready.clone());
            tokio::spawn(async move {
                let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
                drop(turn);
                match handshake {
                    Ok(Ok(stream)) => {
                        let io = Io::new(Stream::Tls(Box::new(stream)), place, greeting_wait);
                        drop(ready.send(Ok(io)).await);
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            });
        }
    });
    connections
}

/// Whether only this one connection is lost.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One connection, and its place among those of its listener.
pub(crate) struct Io {
    stream: Stream,
    greeting: Option<Greeting>,
    _place: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    fn new(stream: Stream, place: OwnedSemaphorePermit, greeting_wait: Duration) -> Self {
        let deadline = Box::pin(tokio::time::sleep(greeting_wait));
        Self { stream, greeting: Some(Greeting { awaited: PREFACE, deadline }), _place: place }
    }
}

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol is not known yet: everything so far is the preface's beginning.
struct Greeting {
    awaited: &'static [u8],
    deadline: Pin<Box<Sleep>>,
}

impl Greeting {
    /// Whether the protocol is known with these bytes.
    fn ends_with(&mut self, bytes: &[u8]) -> bool {
        let (both, rest) = self.awaited.split_at(bytes.len().min(self.awaited.len()));
        self.awaited = rest;
        rest.is_empty() || !bytes.starts_with(both)
    }
}

/// The other end of a connection, as tonic hands it to requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(
    #[expect(dead_code, reason = "shown by Debug in traces")] Option<SocketAddr>,
);

impl Connected for Io {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match &self.stream {
            Stream::Plain(stream) => Peer(stream.peer_addr().ok()),
            Stream::Tls(stream) => Peer(stream.get_ref().0.peer_addr().ok()),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, greeting, .. } = self.get_mut();
        let before = buffer.filled().len();
        let read = match stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if let Some(awaited) = greeting {
            if read.is_pending() && awaited.deadline.as_mut().poll(context).is_ready() {
                let late = "the peer did not show its protocol in time";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, late)));
            }
            if awaited.ends_with(&buffer.filled()[before..]) {
                *greeting = None;
            }
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
