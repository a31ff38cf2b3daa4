//! What a worker does not do on its node's word: sign for a request that is not whole, an input that is not the
//! request's, a requester who has not signed; and what it does without its node.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{
    DOMAIN, digits, image, key,
    worker::{self, address},
};
use hyperion_ops::Reference;
use hyperion_primitives::{B256, Dtype, U256, input_hash, tensor_root};
use hyperion_rpc::{
    r#gen::v1::{
        self, AttachRequest, AttachResponse,
        attach_request::Event as Said,
        attach_response::Event as Told,
        worker_service_server::{WorkerService, WorkerServiceServer},
    },
    join::{JoinConfig, JoinError},
};
use hyperion_verify::{Request, sign};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Response, Status, Streaming};

/// One connection, from the node's end.
struct Link {
    out: mpsc::Sender<Result<AttachResponse, Status>>,
    inbound: Streaming<AttachRequest>,
}

impl Link {
    async fn tell(&self, event: Told) {
        self.out.send(Ok(AttachResponse { event: Some(event) })).await.unwrap();
    }

    async fn hear(&mut self) -> Said {
        let heard = tokio::time::timeout(Duration::from_secs(30), self.inbound.message()).await;
        heard.expect("the worker says something").unwrap().unwrap().event.unwrap()
    }

    /// The next message that is neither room nor a sign of life.
    async fn news(&mut self) -> Said {
        loop {
            match self.hear().await {
                Said::Credit(_) | Said::Heartbeat(_) => {}
                news => return news,
            }
        }
    }

    /// Welcomes whoever says Hello.
    async fn welcome(&mut self) {
        let node = address(7).to_vec().into();
        let session = vec![5; 32].into();
        self.tell(Told::Greeting(v1::Greeting { node, session, expires_s: 0 })).await;
        let Said::Hello(hello) = self.hear().await else { panic!() };
        assert_eq!(hello.worker, address(9).to_vec());
        let (lease_ms, heartbeat_ms) = (30_000, 200);
        self.tell(Told::Welcome(v1::Welcome { lease_ms, heartbeat_ms, result_bytes_max: 1 << 20 }))
            .await;
    }
}

/// A node that does what a test says.
struct Scripted {
    links: mpsc::Sender<Link>,
}

#[tonic::async_trait]
impl WorkerService for Scripted {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;

    async fn attach(
        &self,
        request: tonic::Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (out, receive) = mpsc::channel(16);
        let link = Link { out, inbound: request.into_inner() };
        self.links.send(link).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

async fn node() -> (SocketAddr, mpsc::Receiver<Link>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (links, connected) = mpsc::channel(4);
    let server = tonic::transport::Server::builder()
        .add_service(WorkerServiceServer::new(Scripted { links }))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (address, connected)
}

fn config(address: SocketAddr) -> JoinConfig {
    worker::config(&format!("http://{address}"))
}

/// A lease of a request that is as it should be.
fn lease(name: u8, signed: bool) -> v1::Lease {
    let input = image(name.into());
    let requester = key(3);
    let root = tensor_root(Dtype::I32, &[1, 64], &input).unwrap();
    let request = Request {
        requester: if signed {
            sign::address(&requester)
        } else {
            hyperion_primitives::Address::ZERO
        },
        model_id: digits().id(),
        input_hash: input_hash(&[root]),
        tier: 1,
        deadline: u64::from(u32::MAX),
        nonce: U256::from(name),
        ..Request::default()
    };
    let id = request.id(&DOMAIN);
    v1::Lease {
        lease_id: vec![name; 16].into(),
        request: Some(v1::Request {
            requester: request.requester.to_vec().into(),
            model_id: request.model_id.0.to_vec().into(),
            input_hash: request.input_hash.to_vec().into(),
            tier: 1,
            deadline_s: request.deadline,
            nonce: request.nonce.to_be_bytes::<32>().to_vec().into(),
            ..v1::Request::default()
        }),
        request_id: id.0.to_vec().into(),
        attempt: 0,
        inputs: vec![v1::Tensor {
            name: String::new(),
            dtype: v1::Dtype::I32.into(),
            dims: vec![1, 64],
            body: Some(v1::tensor::Body::Data(input.into())),
        }],
        sampling: None,
        seed: vec![0; 32].into(),
        deadline_ms: u64::from(u32::MAX) * 1000,
        stream: false,
        eager_trace: false,
        challenge_until_s: 1_000,
        request_signature: if signed {
            sign::sign(&requester, &id.0).to_vec().into()
        } else {
            Vec::new().into()
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_false_lease_is_given_back_with_the_reason() {
    use v1::FailureKind::{InputRejected, ModelMissing};
    let (address, mut connected) = node().await;
    let worker = worker::start_with(config(address), 9, Box::new(Reference::new(1 << 30))).await;
    let mut link = connected.recv().await.unwrap();
    link.welcome().await;

    for (name, signed) in [(1, false), (2, true)] {
        link.tell(Told::Lease(lease(name, signed))).await;
        let Said::Finished(finished) = link.news().await else { panic!() };
        assert_eq!(finished.lease_id, vec![name; 16]);
        assert_eq!(finished.claim.unwrap().claim.unwrap().challenge_until_s, 1_000);
    }

    type Change = fn(&mut v1::Lease);
    fn request(lease: &mut v1::Lease) -> &mut v1::Request {
        lease.request.as_mut().unwrap()
    }
    let cases: [(&str, bool, Change, v1::FailureKind, &str); 16] = [
        (
            "another id",
            false,
            |l| l.request_id = vec![1; 32].into(),
            InputRejected,
            "the lease names",
        ),
        ("no id", false, |l| l.request_id.clear(), InputRejected, "request_id"),
        ("no request", false, |l| l.request = None, ModelMissing, "no model"),
        (
            "another model",
            false,
            |l| request(l).model_id = vec![9; 32].into(),
            ModelMissing,
            "0909",
        ),
        ("another input", false, |l| l.inputs[0].body = other(256), InputRejected, "input_hash"),
        (
            "no input hash",
            false,
            |l| request(l).input_hash.clear(),
            InputRejected,
            "the lease names",
        ),
        ("half a row", false, |l| l.inputs[0].body = other(100), InputRejected, "row"),
        ("no input", false, |l| l.inputs.clear(), InputRejected, "want one tensor"),
        ("two inputs", false, |l| l.inputs.push(l.inputs[0].clone()), InputRejected, "one tensor"),
        ("another seed", false, |l| l.seed = vec![1; 32].into(), InputRejected, "seed"),
        ("a stream", false, |l| l.stream = true, InputRejected, "stream"),
        (
            "another's work",
            false,
            |l| request(l).worker = vec![4; 20].into(),
            InputRejected,
            "worker",
        ),
        ("ever challenged", false, |l| l.challenge_until_s = u64::MAX, InputRejected, "challenged"),
        (
            "a signature gone",
            true,
            |l| l.request_signature.clear(),
            InputRejected,
            "has not signed",
        ),
        ("another's signature", true, |l| l.request_signature = sig(), InputRejected, "recovered"),
        (
            "an unasked signature",
            false,
            |l| l.request_signature = sig(),
            InputRejected,
            "requester",
        ),
    ];
    for (nth, (name, signed, change, kind, text)) in cases.into_iter().enumerate() {
        let mut lease = lease(u8::try_from(nth).unwrap() + 10, signed);
        change(&mut lease);
        let id = lease.lease_id.clone();
        link.tell(Told::Lease(lease)).await;
        let Said::Failed(failed) = link.news().await else { panic!("{name}: it was taken") };
        assert_eq!((&failed.lease_id, failed.kind()), (&id, kind), "{name}: {}", failed.detail);
        assert!(failed.detail.contains(text), "{name}: {}", failed.detail);
    }
    assert_eq!(worker.engine.stats().claimed, 0, "claims are made for the node alone");
}

fn other(bytes: usize) -> Option<v1::tensor::Body> {
    Some(v1::tensor::Body::Data(vec![0; bytes].into()))
}

fn sig() -> bytes::Bytes {
    sign::sign(&key(5), &B256::ZERO).to_vec().into()
}

/// The connection breaks over a result: the worker dials again and brings it, until the node says that it has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_kept_until_the_node_has_it() {
    let (address, mut connected) = node().await;
    let worker = worker::start_with(config(address), 9, Box::new(Reference::new(1 << 30))).await;
    let mut link = connected.recv().await.unwrap();
    link.welcome().await;
    link.tell(Told::Lease(lease(1, false))).await;
    let Said::Finished(first) = link.news().await else { panic!() };
    drop(link);

    let mut link = connected.recv().await.unwrap();
    link.welcome().await;
    let Said::Heartbeat(held) = link.hear().await else { panic!("it says what it holds first") };
    assert_eq!(held.lease_ids, [vec![1; 16]]);
    let Said::Finished(second) = link.news().await else { panic!() };
    assert_eq!(second, first);
    let lease_id = first.lease_id.clone();
    link.tell(Told::Ack(v1::FinishedAck { lease_id, duplicate: false })).await;
    drop(link);

    let mut link = connected.recv().await.unwrap();
    link.welcome().await;
    let Said::Heartbeat(held) = link.hear().await else { panic!() };
    assert!(held.lease_ids.is_empty());
    worker.stop.cancel();
    let joined = worker.joined.await.unwrap().unwrap();
    assert_eq!((joined.delivered, joined.undelivered, joined.sessions), (1, 0, 3));
}

/// Told to end while the node is away, a worker gives the node its time, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_end_waits_for_its_node_only_so_long() {
    let (address, mut connected) = node().await;
    let config = JoinConfig { drain: Duration::from_millis(300), ..config(address) };
    let worker = worker::start_with(config, 9, Box::new(Reference::new(1 << 30))).await;
    let mut link = connected.recv().await.unwrap();
    link.welcome().await;
    link.tell(Told::Lease(lease(1, false))).await;
    let Said::Finished(_) = link.news().await else { panic!() };
    worker.stop.cancel();
    let Said::Draining(_) = link.news().await else { panic!("it takes no more") };
    let joined = worker.joined.await.unwrap().unwrap();
    assert_eq!((joined.delivered, joined.undelivered), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_there_is_looked_for_only_so_long() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = JoinConfig { patience: Duration::ZERO, ..config(address) };
    let worker = worker::start_with(config, 9, Box::new(Reference::new(1 << 30))).await;
    let ended = worker.joined.await.unwrap();
    let Err(JoinError::Unreachable { cause, .. }) = ended else { panic!("{ended:?}") };
    assert!(cause.contains("refused"), "{cause}");
    let nowhere = JoinConfig { node: "nowhere at all".to_owned(), ..worker::config("") };
    let worker = worker::start_with(nowhere, 9, Box::new(Reference::new(1 << 30))).await;
    assert!(matches!(worker.joined.await.unwrap(), Err(JoinError::Address(_))));
}
