//! `hyperion.v1.WorkerService`, the worker's side: a local engine works for a node on another host.
//!
//! [`join()`] dials the node and dials again when the connection ends, for as long as the worker runs. A connection is one
//! `session`; what it has taken and what it owes lives longer, in `desk.rs`: a worker that cannot reach its node finishes
//! what it holds and keeps the results for ten minutes. It signs, so it takes nothing on the node's word: `desk.rs` has
//! the checks, too.

mod desk;

use std::{sync::Arc, time::Duration};

use hyperion_engine::{Clock, DeviceKind, Engine, OPSET};
use hyperion_primitives::{Address, B256};
use hyperion_verify::attach::Attach;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Endpoint};

use self::desk::Desk;
use crate::{
    client::{Bearer, ClientConfig, ClientError, chain, endpoint},
    convert::{copied, digest, exactly},
    r#gen::v1::{
        self, AttachRequest, AttachResponse, attach_request::Event as Said,
        attach_response::Event as Told, worker_service_client::WorkerServiceClient,
    },
    limits::Limits,
    status::Error,
};

/// Between the end of a connection and the next try: at first, and at most. It doubles in between.
const REDIAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the node may take over each step of a greeting, or to take a message.
const STEP: Duration = Duration::from_secs(30);
/// Messages on their way to the node.
const OUT_MESSAGES: usize = 16;
/// Seconds from which on a greeting is too long to be signed.
const EXPIRES_MAX_S: u64 = 600;
/// How often the log says what the worker has done.
const REPORT: Duration = Duration::from_secs(60);

/// What a worker is told about its node, and how it is to behave.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// `http://host:port` or `https://host:port` of the node's gRPC door.
    pub node: String,
    /// Key, certificates.
    pub client: ClientConfig,
    /// The node's own address; another node is refused. `None`: whoever answers there.
    pub node_address: Option<Address>,
    /// Jobs that the worker takes at a time, of all models.
    pub slots: u32,
    /// Seconds for which the worker is willing to be challenged about a claim.
    pub challenge_s: u64,
    /// How long the node is looked for before the worker gives up, until it has been reached once.
    pub patience: Duration,
    /// How long results under way may take once the worker is to end.
    pub drain: Duration,
}

/// Why a worker ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The node was not reached.
    #[error("the node at {node} was not reached within {patience_s} s: {cause}")]
    Unreachable {
        /// As configured.
        node: String,
        /// For how long it was tried.
        patience_s: u64,
        /// What the last try said.
        cause: String,
    },
    /// The node does not want this worker, and will not by asking again.
    #[error("the node refuses this worker: {0}")]
    Refused(String),
    /// The node's address is none.
    #[error("`{0}` is no address of a node: want http://HOST:PORT or https://HOST:PORT")]
    Address(String),
    /// The address or the token cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Results that the node took.
    pub delivered: u64,
    /// Jobs given back.
    pub given_back: u64,
    /// Connections.
    pub sessions: u64,
    /// Results that the node had not taken when the worker ended.
    pub undelivered: u64,
}

/// How a connection ended.
#[derive(Debug)]
enum Ended {
    /// The worker was told to stop, and owes nothing.
    Drained,
    /// The node is to be dialled again.
    Gone { why: String, welcomed: bool },
    /// There is no use in it.
    Refused(String),
}

/// Works for a node until `stop`.
///
/// # Errors
///
/// When the node is not found at the start, or refuses the worker.
pub async fn join(
    engine: Engine,
    clock: Arc<dyn Clock>,
    config: JoinConfig,
    stop: CancellationToken,
) -> Result<Joined, JoinError> {
    if !["http://", "https://"].iter().any(|scheme| config.node.starts_with(scheme)) {
        return Err(JoinError::Address(config.node));
    }
    let bearer = Bearer::new(&config.client)?;
    let node = endpoint(&config.node, &config.client)?;
    let mut desk = Desk::new(engine, clock, &config);
    let mut worker = Worker { config, node, bearer, stop, given_up_at: None };
    let began = Instant::now();
    let mut wait = REDIAL.0;
    loop {
        match worker.dial(&mut desk).await {
            Ended::Drained => return Ok(desk.joined()),
            Ended::Refused(why) => return Err(JoinError::Refused(why)),
            Ended::Gone { why, welcomed } => {
                if welcomed {
                    wait = REDIAL.0;
                }
                let patience = worker.config.patience;
                if desk.joined().sessions == 0 && began.elapsed() >= patience {
                    let (node, patience_s) = (worker.config.node.clone(), patience.as_secs());
                    return Err(JoinError::Unreachable { node, patience_s, cause: why });
                }
                tracing::warn!(%why, wait_ms = wait.as_millis(), "not attached; dialling again");
            }
        }
        let again = Instant::now() + spread(wait);
        wait = (wait * 2).min(REDIAL.1);
        if worker.between(&mut desk, again).await {
            return Ok(desk.joined());
        }
    }
}

/// The same time, a fifth shorter to a fifth longer: workers do not come back all at once.
fn spread(time: Duration) -> Duration {
    time * (80 + u32::from(rand::random::<u8>()) * 40 / 255) / 100
}

struct Worker {
    config: JoinConfig,
    node: Endpoint,
    bearer: Bearer,
    stop: CancellationToken,
    /// Once told to stop: when results under way are given up.
    given_up_at: Option<Instant>,
}

impl Worker {
    /// Waits for the next try while results come in. Whether the worker is to end instead.
    async fn between(&mut self, desk: &mut Desk, again: Instant) -> bool {
        loop {
            tokio::select! {
                () = sleep_until(again) => return self.is_over(desk),
                () = desk.settled() => {}
                () = self.stop.cancelled(), if self.given_up_at.is_none() => self.wind_up(),
            }
            if self.is_over(desk) {
                return true;
            }
        }
    }

    fn wind_up(&mut self) {
        self.given_up_at = Some(Instant::now() + self.config.drain);
    }

    /// Whether the worker was told to stop, and owes nothing or has no more time.
    fn is_over(&self, desk: &Desk) -> bool {
        self.given_up_at.is_some_and(|at| desk.is_empty() || at <= Instant::now())
    }

    /// One connection, from dialling to its end.
    async fn dial(&mut self, desk: &mut Desk) -> Ended {
        let mut welcomed = false;
        match self.session(desk, &mut welcomed).await {
            Ok(()) => Ended::Drained,
            Err(Trouble::Transport(error)) => Ended::Gone { why: chain(&error), welcomed },
            Err(Trouble::Status(status)) => {
                let why = format!("{}: {}", status.code(), status.message());
                match status.code() {
                    Code::Unauthenticated
                    | Code::PermissionDenied
                    | Code::FailedPrecondition
                    | Code::InvalidArgument
                    | Code::Unimplemented
                    | Code::Aborted => Ended::Refused(why),
                    _ => Ended::Gone { why, welcomed },
                }
            }
        }
    }

    async fn session(&mut self, desk: &mut Desk, welcomed: &mut bool) -> Result<(), Trouble> {
        let channel = self.node.connect().await?;
        let max = Limits::default().message_bytes_max;
        let mut client = WorkerServiceClient::with_interceptor(channel, self.bearer.clone())
            .max_decoding_message_size(max)
            .max_encoding_message_size(max);
        let (out, sent) = mpsc::channel(OUT_MESSAGES);
        let out = Out(out);
        let attach = client.attach(ReceiverStream::new(sent));
        let mut inbound = timeout(STEP, attach).await.map_err(late)??.into_inner();
        let Told::Greeting(greeting) = next(&mut inbound).await? else {
            return Err(unexpected("a Greeting").into());
        };
        out.send(Said::Hello(self.hello(desk, &greeting)?)).await?;
        let Told::Welcome(welcome) = next(&mut inbound).await? else {
            return Err(unexpected("a Welcome").into());
        };
        *welcomed = true;
        desk.welcomed();
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.max(10).into());
        tracing::info!(node = %self.config.node, lease_ms = welcome.lease_ms, "attached");
        for event in desk.reopen() {
            out.send(event).await?;
        }
        if self.given_up_at.is_some() {
            out.send(Said::Draining(v1::Draining {})).await?;
        }
        self.work(desk, &mut inbound, &out, heartbeat).await
    }

    /// The life of a connection after the welcome.
    async fn work(
        &mut self,
        desk: &mut Desk,
        inbound: &mut Streaming<AttachResponse>,
        out: &Out,
        heartbeat: Duration,
    ) -> Result<(), Trouble> {
        let mut beat_at = Instant::now() + beat(heartbeat);
        let mut report_at = Instant::now() + REPORT;
        loop {
            for event in desk.due() {
                out.send(event).await?;
            }
            if self.is_over(desk) {
                return Ok(());
            }
            let given_up_at = self.given_up_at;
            tokio::select! {
                message = inbound.message() => {
                    let Some(message) = message? else {
                        return Err(Status::unavailable("the node closed the connection").into());
                    };
                    if let Some(event) = message.event {
                        self.hear(desk, event).await?;
                    }
                }
                () = desk.settled() => {}
                () = sleep_until(beat_at) => {
                    beat_at = Instant::now() + beat(heartbeat);
                    out.send(desk.heartbeat()).await?;
                }
                () = sleep_until(report_at) => {
                    report_at = Instant::now() + REPORT;
                    let v = desk.joined();
                    tracing::info!(delivered = v.delivered, given_back = v.given_back, "working");
                }
                () = self.stop.cancelled(), if given_up_at.is_none() => {
                    self.wind_up();
                    desk.close();
                    out.send(Said::Draining(v1::Draining {})).await?;
                }
                () = sleep_until(given_up_at.unwrap_or(beat_at)), if given_up_at.is_some() => {}
            }
        }
    }

    async fn hear(&self, desk: &mut Desk, event: Told) -> Result<(), Status> {
        match event {
            Told::Greeting(_) | Told::Welcome(_) => Err(unexpected("a Lease")),
            Told::Lease(lease) => {
                desk.take(lease).await;
                Ok(())
            }
            Told::Cancel(v1::Cancel { lease_id }) => {
                desk.cancel(&lease_id);
                Ok(())
            }
            Told::Ack(v1::FinishedAck { lease_id, duplicate: _ }) => {
                desk.acknowledged(&lease_id);
                Ok(())
            }
            Told::Probe(probe) => {
                desk.probe(probe);
                Ok(())
            }
            Told::Drain(_) => {
                tracing::info!("the node is about to stop");
                Ok(())
            }
        }
    }

    /// Proves this worker's key to the node that greeted.
    fn hello(&self, desk: &Desk, greeting: &v1::Greeting) -> Result<v1::Hello, Status> {
        let engine = desk.engine();
        let attach = Attach {
            worker: engine.worker(),
            node: Address::new(exactly("greeting.node", &greeting.node)?),
            session: digest("greeting.session", &greeting.session)?,
            build: B256::ZERO,
            expires: greeting.expires_s,
        };
        if let Some(want) = self.config.node_address.filter(|want| *want != attach.node) {
            let text = format!("the node says that it is {}, expected {want}", attach.node);
            return Err(Status::permission_denied(text));
        }
        if attach.expires > desk.now_s().saturating_add(EXPIRES_MAX_S) {
            return Err(Status::failed_precondition(
                "the greeting would be valid for too long; compare the clocks of node and worker",
            ));
        }
        let signed = engine.signer().sign(attach.digest(&engine.domain()));
        let signature = signed.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let devices = engine.stats().devices.into_iter().map(|device| v1::Device {
            name: device.info.name,
            kind: kind(device.info.kind).to_owned(),
            driver: device.info.kernels,
            memory_bytes: device.info.memory_bytes,
            macs_per_s: 0,
        });
        Ok(v1::Hello {
            worker: copied(attach.worker),
            signature: copied(signature),
            build: copied(attach.build),
            opset: OPSET.into(),
            devices: devices.collect(),
            models: desk.models().into_iter().map(|id| copied(id.0)).collect(),
        })
    }
}

const fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Cpu => "cpu",
        DeviceKind::Wgpu => "wgpu",
        DeviceKind::Cuda => "cuda",
    }
}

/// A heartbeat's time, a tenth shorter to a tenth longer.
fn beat(heartbeat: Duration) -> Duration {
    heartbeat * (90 + u32::from(rand::random::<u8>()) * 20 / 255) / 100
}

/// Why a connection ended.
#[derive(Debug)]
enum Trouble {
    Transport(tonic::transport::Error),
    Status(Status),
}

impl From<tonic::transport::Error> for Trouble {
    fn from(error: tonic::transport::Error) -> Self {
        Self::Transport(error)
    }
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn late(_: tokio::time::error::Elapsed) -> Status {
    Status::deadline_exceeded("the node does not answer")
}

fn unexpected(want: &str) -> Status {
    Error::bad_field("event", format!("the node sent something else where {want} was due")).into()
}

async fn next(inbound: &mut Streaming<AttachResponse>) -> Result<Told, Status> {
    let message = timeout(STEP, inbound.message()).await.map_err(late)??;
    let message = message.ok_or_else(|| Status::unavailable("the node closed the connection"))?;
    message.event.ok_or_else(|| unexpected("a message"))
}

/// Messages to the node.
struct Out(mpsc::Sender<AttachRequest>);

impl Out {
    async fn send(&self, event: Said) -> Result<(), Status> {
        let sent = timeout(STEP, self.0.send(AttachRequest { event: Some(event) })).await;
        // Why the stream broke off is what reading it says; but a reader that waits for this write never learns it.
        sent.map_err(late)?.map_err(|_| Status::unavailable("the connection broke off"))
    }
}
