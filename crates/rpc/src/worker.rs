//! `hyperion.v1.WorkerService`, the node's side: workers on other hosts attach and are devices of the engine.
//!
//! ```text
//! connect -> Greeting -> Hello (signed) -> Welcome -> { Credit Lease Heartbeat Finished Failed Probe Probed }* -> close
//! ```
//!
//! A stream is one task ([`Session`]): it sends what the engine says is next and hands over what the worker says. All
//! decisions are the engine's ([`hyperion_engine::Attachment`]); here are limits, decoding and time. [`crate::join`] is
//! the other end.

mod hello;
mod wire;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use hyperion_engine::{
    Attachment, Breach, Outcome,
    machine::{AttachRefused, End, Order, WORKER_JOBS_MAX},
};
use hyperion_primitives::Address;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::{hello::Hello, wire::LeaseNames};
use crate::{
    auth::Area,
    convert::{self, copied, digest},
    door::Door,
    r#gen::v1::{
        self, AttachRequest, AttachResponse, attach_request::Event as Said,
        attach_response::Event as Told, worker_service_server,
    },
    limits::at_most,
    status::{Code, Error},
};

/// Connections whose worker has not said who it is yet.
const HELLOS_MAX: usize = 32;
/// How long a worker may take to say it.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// Messages on their way to one worker; more wait in the engine.
const OUT_MESSAGES: usize = 4;
/// Bytes of a message of a worker beside its output.
const MESSAGE_BYTES: usize = 128 << 10;
/// Heartbeats in the time of a lease.
const HEARTBEATS: u32 = 3;
/// Output beyond this is hashed where blocking is allowed.
const HEAVY_BYTES: usize = 32 << 10;
/// Acknowledgements that may wait for a worker which sends and does not read.
const DUE_MAX: usize = 2 * WORKER_JOBS_MAX as usize;
/// The longest sleep between two looks; some days.
const WAIT_US_MAX: u64 = 1 << 38;
/// How often a node that is about to stop looks whether its last jobs have ended.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// `hyperion.v1.WorkerService`.
#[derive(Clone, Debug)]
pub(crate) struct WorkerService {
    door: Arc<Door>,
    hellos: Arc<Semaphore>,
    names: LeaseNames,
}

impl WorkerService {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        Self { door, hellos: Arc::new(Semaphore::new(HELLOS_MAX)), names: LeaseNames::draw() }
    }

    /// Bytes of the largest message that a worker has a reason to send.
    pub(crate) fn message_bytes_max(door: &Door) -> usize {
        let output = usize::try_from(door.engine.output_bytes_max()).unwrap_or(usize::MAX);
        output.saturating_add(MESSAGE_BYTES).min(door.limits.message_bytes_max)
    }

    /// A connection from the greeting to its end.
    async fn serve(
        self,
        mut inbound: Streaming<AttachRequest>,
        out: mpsc::Sender<Result<AttachResponse, Status>>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<(), Status> {
        let door = &self.door;
        let lease = Duration::from_micros(door.engine.worker_lease_us());
        let asked = hello::greeting(door);
        tell(&out, Told::Greeting(hello::wire(&asked))).await?;
        let said = timeout(HELLO_WAIT, inbound.message())
            .await
            .map_err(|_| Error::new(Code::Deadline, "no Hello came within 10 s"))??;
        let Some(Said::Hello(hello)) = said.and_then(|message| message.event) else {
            return Err(Error::bad_field("event", "the first message is a Hello").into());
        };
        let Hello { worker, models, info } = hello::read(door, &asked, hello)?;
        let bell = Arc::new(Notify::new());
        let ring = Arc::clone(&bell);
        let attached =
            door.engine.attach(worker, &models, info, Arc::new(move || ring.notify_one()));
        let attachment = attached.map_err(|error| refused(&error))?;
        drop(permit);
        tracing::info!(%worker, models = models.len(), "a worker attached");
        let welcome = v1::Welcome {
            lease_ms: millis(lease),
            heartbeat_ms: millis(lease / HEARTBEATS),
            result_bytes_max: u32::try_from(Self::message_bytes_max(door)).unwrap_or(u32::MAX),
        };
        tell(&out, Told::Welcome(welcome)).await?;
        let session = Session {
            door: Arc::clone(door),
            names: self.names,
            attachment: Arc::new(attachment),
            worker,
            out,
            due: VecDeque::new(),
            lease,
        };
        session.run(inbound, &bell).await
    }
}

/// Sends one of the first messages, for which there is always room.
async fn tell(
    out: &mpsc::Sender<Result<AttachResponse, Status>>,
    event: Told,
) -> Result<(), Status> {
    out.send(Ok(AttachResponse { event: Some(event) })).await.map_err(|_| gone())
}

fn gone() -> Status {
    Error::new(Code::Cancelled, "the worker went away").into()
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn refused(error: &AttachRefused) -> Status {
    let text = error.to_string();
    match error {
        AttachRefused::Barred { .. } => Error::new(Code::Forbidden, text).into(),
        AttachRefused::Full { .. } => Status::resource_exhausted(text),
        AttachRefused::NoModel => Status::failed_precondition(text),
        AttachRefused::Stopped => Error::new(Code::Draining, text).into(),
    }
}

/// A worker that has been welcomed.
#[derive(Debug)]
struct Session {
    door: Arc<Door>,
    names: LeaseNames,
    attachment: Arc<Attachment>,
    worker: Address,
    out: mpsc::Sender<Result<AttachResponse, Status>>,
    /// What is due to the worker. Never more than a lease and acknowledgements of what it sent.
    due: VecDeque<Told>,
    lease: Duration,
}

impl Session {
    async fn run(
        mut self,
        mut inbound: Streaming<AttachRequest>,
        bell: &Notify,
    ) -> Result<(), Status> {
        let stop = self.door.shutdown.stop.clone();
        let out = self.out.clone();
        let (mut silent_at, mut unread_at) = (Instant::now() + self.lease, None);
        let mut stopping = false;
        loop {
            let look_at = if self.due.is_empty() { self.draw()? } else { None };
            if self.due.is_empty() {
                unread_at = None;
            } else {
                unread_at.get_or_insert(Instant::now() + self.lease.max(HELLO_WAIT));
            }
            tokio::select! {
                place = out.reserve(), if !self.due.is_empty() => {
                    let place = place.map_err(|_| gone())?;
                    place.send(Ok(AttachResponse { event: self.due.pop_front() }));
                    unread_at = None;
                }
                message = inbound.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    let event = message.event;
                    self.hear(event.ok_or_else(|| Error::bad_field("event", "is missing"))?).await?;
                    silent_at = Instant::now() + self.lease;
                }
                () = bell.notified() => {}
                () = passes(look_at) => {}
                () = passes(unread_at) => {
                    return Err(Error::new(Code::Deadline, "the worker does not read").into());
                }
                () = sleep_until(silent_at) => {
                    let text = "no heartbeat came for as long as a lease lasts";
                    return Err(Error::new(Code::Deadline, text).into());
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.due.push_back(Told::Drain(v1::Drain { grace_ms: millis(self.lease) }));
                }
                () = tokio::time::sleep(STOP_LOOK), if stopping => {
                    // Calls under way may still need this worker.
                    if self.door.engine.is_idle() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Puts what the engine says is next among what is due; gives when to look again at the latest.
    fn draw(&mut self) -> Result<Option<Instant>, Status> {
        self.due.push_back(match self.attachment.next() {
            Order::Lease(leased) => {
                let manifest = self.attachment.model(leased.model).manifest();
                Told::Lease(self.names.lease(&leased, manifest))
            }
            Order::Probe { probe, model: index } => {
                let model = self.attachment.model(index);
                let input = self.attachment.question(index);
                Told::Probe(v1::Probe {
                    probe_id: self.names.of(probe),
                    model_id: copied(model.id().0),
                    inputs: vec![wire::input(model.manifest(), input.into())],
                    device: String::new(),
                })
            }
            Order::Cancel(lease) => Told::Cancel(v1::Cancel { lease_id: self.names.of(lease.0) }),
            Order::Wait(until_us) => {
                let now_us = self.door.clock.now_us();
                let left = |until_us: u64| until_us.saturating_sub(now_us).min(WAIT_US_MAX);
                let left = until_us.map(|until_us| Duration::from_micros(left(until_us)));
                return Ok(left.map(|left| Instant::now() + left));
            }
            Order::End(why) => return Err(ended(&why)),
        });
        Ok(None)
    }

    async fn hear(&mut self, event: Said) -> Result<(), Status> {
        match event {
            Said::Hello(_) => Err(Error::bad_field("event", "a Hello is said once").into()),
            Said::Progress(_) => {
                Err(Error::bad_field("event", "these models generate no tokens").into())
            }
            Said::Credit(v1::Credit { model_id, slots }) => {
                self.attachment.credit(digest("credit.model_id", &model_id)?.into(), slots);
                Ok(())
            }
            Said::Heartbeat(v1::Heartbeat { lease_ids }) => {
                at_most(
                    "heartbeat.lease_ids",
                    "leases",
                    lease_ids.len(),
                    4 * WORKER_JOBS_MAX as usize,
                )?;
                let mut held = Vec::with_capacity(lease_ids.len());
                for id in &lease_ids {
                    held.extend(self.names.lease_of("heartbeat.lease_ids", id)?);
                }
                self.attachment.renew(&held);
                Ok(())
            }
            Said::Finished(finished) => self.finished(finished).await,
            Said::Failed(failed) => {
                let fault = wire::fault(failed.kind);
                let Some(lease) = self.names.lease_of("failed.lease_id", &failed.lease_id)? else {
                    return Ok(());
                };
                let why: String = failed.detail.chars().take(wire::DETAIL_CHARS_MAX).collect();
                tracing::warn!(worker = %self.worker, ?fault, %why, "a worker gave a job back");
                self.attachment.failed(lease, fault, &format!("worker {}: {why}", self.worker));
                Ok(())
            }
            Said::Probed(v1::Probed { probe_id, output_hash }) => {
                let Some(probe) = self.names.number_of("probed.probe_id", &probe_id)? else {
                    return Ok(());
                };
                let hash = digest("probed.output_hash", &output_hash)?;
                self.blocking(move |attachment| attachment.probed(probe, hash))
                    .await?
                    .map_err(|breach| self.breach(&breach))
            }
            Said::Draining(v1::Draining {}) => {
                tracing::info!(worker = %self.worker, "a worker takes no more work");
                self.attachment.draining();
                Ok(())
            }
        }
    }

    async fn finished(&mut self, finished: v1::Finished) -> Result<(), Status> {
        let v1::Finished { lease_id, outputs, claim, device_us: _ } = finished;
        let Some(lease) = self.names.lease_of("finished.lease_id", &lease_id)? else {
            // Of an earlier life of this node, in which nobody waits any more.
            return self.acknowledge(lease_id, false);
        };
        let claim = claim.ok_or_else(|| Error::bad_field("finished.claim", "is missing"))?;
        let (output, claim) = (wire::output(outputs)?, convert::claim(claim)?);
        let heavy = output.data.len() > HEAVY_BYTES;
        let outcome = if heavy {
            self.blocking(move |attachment| attachment.deliver(lease, output, claim)).await?
        } else {
            self.attachment.deliver(lease, output, claim)
        };
        let duplicate = match outcome.map_err(|breach| self.breach(&breach))? {
            Outcome::Taken => false,
            Outcome::Late { equal } => equal,
            Outcome::Differs(dispute) => {
                tracing::error!(worker = %self.worker, "a worker's result differs from an earlier one");
                self.blocking(move |attachment| attachment.settle(&dispute)).await?;
                false
            }
        };
        self.acknowledge(lease_id, duplicate)
    }

    fn acknowledge(&mut self, lease_id: Bytes, duplicate: bool) -> Result<(), Status> {
        if self.due.len() >= DUE_MAX {
            return Err(Error::new(Code::Deadline, "the worker sends and does not read").into());
        }
        self.due.push_back(Told::Ack(v1::FinishedAck { lease_id, duplicate }));
        Ok(())
    }

    /// Runs what may have to ask the scalar reference, where blocking is allowed; one at a time for each worker.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Attachment) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let attachment = Arc::clone(&self.attachment);
        tokio::task::spawn_blocking(move || work(&attachment))
            .await
            .map_err(|_| Error::new(Code::Internal, "judging a worker's message failed").into())
    }

    fn breach(&self, breach: &Breach) -> Status {
        tracing::error!(worker = %self.worker, %breach, "a worker is put out of service");
        ended(&End::Barred(breach.to_string()))
    }
}

fn ended(why: &End) -> Status {
    let text = why.to_string();
    match why {
        End::Stopped => Error::new(Code::Draining, text).into(),
        End::Superseded => Status::aborted(text),
        End::Barred(_) => Error::new(Code::Forbidden, text).into(),
    }
}

async fn passes(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[tonic::async_trait]
impl worker_service_server::WorkerService for WorkerService {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.door.admit(&request, Area::Worker)?;
        if self.door.workers.is_empty() {
            let text = "no worker may attach here: whoever runs the node lists their addresses in workers.keys";
            return Err(Error::new(Code::Forbidden, text).into());
        }
        let permit = Arc::clone(&self.hellos).try_acquire_owned().map_err(|_| {
            let text = format!("{HELLOS_MAX} connections are saying hello");
            Error::new(Code::RateLimited, text).retry_after(HELLO_WAIT)
        })?;
        let (out, receive) = mpsc::channel(OUT_MESSAGES);
        let service = self.clone();
        tokio::spawn(async move {
            let told = out.clone();
            if let Err(status) = service.serve(request.into_inner(), out, permit).await {
                tracing::info!(%status, "a worker's connection ended");
                // Where nobody reads, nobody is told.
                let _ = timeout(HELLO_WAIT, told.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}
