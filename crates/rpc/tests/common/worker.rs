//! Workers of both kinds: the real one over a local engine, and one that says whatever a test wants.

use std::{sync::Arc, time::Duration};

use hyperion_engine::{Answer, ClaimSink, Clock, Engine, EngineConfig, Pushback, Registry};
use hyperion_ops::Backend;
use hyperion_primitives::{Address, B256};
use hyperion_rpc::{
    client::ClientConfig,
    r#gen::v1::{
        self, AttachRequest, AttachResponse, attach_request::Event as Said,
        attach_response::Event as Told, worker_service_client::WorkerServiceClient,
    },
    join::{JoinConfig, JoinError, Joined, join},
};
use hyperion_verify::{Domain, attach::Attach, sign};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{DOMAIN, Node, RealClock, TestSigner, digits, key, letters};

struct NoLog;

impl ClaimSink for NoLog {
    fn offer(&self, _: Arc<Answer>) -> Result<(), Pushback> {
        Ok(())
    }
}

/// The address of [`key`].
pub(crate) fn address(byte: u8) -> Address {
    sign::address(&key(byte))
}

/// An engine of a worker whose key repeats `byte`.
pub(crate) async fn engine(byte: u8, device: Box<dyn Backend>) -> (Engine, Arc<dyn Clock>) {
    let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
    let mut registry = Registry::new();
    registry.add("digits", digits()).unwrap();
    registry.add("letters", letters()).unwrap();
    let config = EngineConfig { suite: false, ..EngineConfig::default() };
    let signer = Arc::new(TestSigner(key(byte)));
    let engine_clock = Arc::clone(&clock);
    let engine = tokio::task::spawn_blocking(move || {
        let sink = Box::new(NoLog);
        Engine::new(config, registry, vec![device], signer, DOMAIN, engine_clock, sink).unwrap()
    });
    (engine.await.unwrap(), clock)
}

/// A worker at work.
pub(crate) struct Worker {
    pub(crate) engine: Engine,
    pub(crate) stop: CancellationToken,
    pub(crate) joined: JoinHandle<Result<Joined, JoinError>>,
}

/// How a worker joins a node, in a hurry.
pub(crate) fn config(node: &str) -> JoinConfig {
    JoinConfig {
        node: node.to_owned(),
        client: ClientConfig::default(),
        node_address: Some(address(7)),
        slots: 8,
        challenge_s: 30 * 24 * 3600,
        patience: Duration::from_secs(20),
        drain: Duration::from_secs(10),
    }
}

/// The real worker, attached to a node.
pub(crate) async fn start(node: &Node, byte: u8, device: Box<dyn Backend>) -> Worker {
    let worker = start_with(config(&format!("http://{}", node.grpc)), byte, device).await;
    attached(node, byte).await;
    worker
}

pub(crate) async fn start_with(config: JoinConfig, byte: u8, device: Box<dyn Backend>) -> Worker {
    let (engine, clock) = engine(byte, device).await;
    let stop = CancellationToken::new();
    let joined = tokio::spawn(join(engine.clone(), clock, config, stop.clone()));
    Worker { engine, stop, joined }
}

/// Whether a worker is in service.
pub(crate) fn serves(node: &Node, byte: u8) -> bool {
    let name = format!("worker {}", address(byte));
    let devices = node.engine.stats().devices;
    devices.iter().any(|device| device.info.name == name && device.in_service)
}

/// Waits until a worker is in service.
pub(crate) async fn attached(node: &Node, byte: u8) {
    super::until("the worker is in service", || serves(node, byte)).await;
}

/// A connection over which a test speaks as a worker would not.
pub(crate) struct Fake {
    pub(crate) greeting: v1::Greeting,
    pub(crate) lease_ms: u32,
    byte: u8,
    out: mpsc::Sender<AttachRequest>,
    inbound: Streaming<AttachResponse>,
}

impl Fake {
    /// Dials and hears the greeting.
    pub(crate) async fn dial(node: &Node, byte: u8) -> Self {
        let mut client = WorkerServiceClient::new(node.channel().await);
        let (out, sent) = mpsc::channel(64);
        let mut inbound = client.attach(ReceiverStream::new(sent)).await.unwrap().into_inner();
        let first = inbound.message().await.unwrap().unwrap().event;
        let Some(Told::Greeting(greeting)) = first else { panic!("{first:?}") };
        Self { greeting, lease_ms: 0, byte, out, inbound }
    }

    /// A Hello that answers the greeting.
    pub(crate) fn hello(&self) -> v1::Hello {
        hello(self.byte, &self.greeting, &DOMAIN)
    }

    /// Dials, says Hello and is welcomed.
    pub(crate) async fn welcome(node: &Node, byte: u8) -> Self {
        let mut fake = Self::dial(node, byte).await;
        fake.say(Said::Hello(fake.hello())).await;
        let Ok(Told::Welcome(welcome)) = fake.hear().await else { panic!("no welcome") };
        fake.lease_ms = welcome.lease_ms;
        fake
    }

    /// Is welcomed, answers every known question with the help of `engine`, and has room for `slots` jobs about digits.
    pub(crate) async fn serve(node: &Node, byte: u8, engine: &Engine, slots: u32) -> Self {
        let mut fake = Self::welcome(node, byte).await;
        for _ in 0..2 {
            let Ok(Told::Probe(probe)) = fake.hear().await else { panic!("no question") };
            fake.answer(engine, probe).await;
        }
        attached(node, byte).await;
        let model_id = digits().id().0.to_vec().into();
        fake.say(Said::Credit(v1::Credit { model_id, slots })).await;
        fake
    }

    /// Answers a known question rightly.
    pub(crate) async fn answer(&self, engine: &Engine, probe: v1::Probe) {
        let v1::Probe { probe_id, model_id, inputs, .. } = probe;
        let model = B256::from_slice(&model_id).into();
        let Some(v1::tensor::Body::Data(data)) = inputs[0].body.clone() else { panic!() };
        let engine = engine.clone();
        let output = tokio::task::spawn_blocking(move || engine.recompute_now(model, &data));
        let output_hash = output.await.unwrap().unwrap().output_hash().to_vec().into();
        self.say(Said::Probed(v1::Probed { probe_id, output_hash })).await;
    }

    pub(crate) async fn say(&self, event: Said) {
        // A node that has closed the connection hears nothing; the test sees that when it listens.
        let _ = self.out.send(AttachRequest { event: Some(event) }).await;
    }

    pub(crate) async fn say_nothing(&self) {
        let _ = self.out.send(AttachRequest { event: None }).await;
    }

    /// The next message, or what the connection ended with.
    pub(crate) async fn hear(&mut self) -> Result<Told, Status> {
        let heard = tokio::time::timeout(Duration::from_secs(30), self.inbound.message()).await;
        match heard.expect("the node says something")? {
            Some(message) => Ok(message.event.unwrap()),
            None => Err(Status::ok("the node closed the connection")),
        }
    }

    /// What the connection ends with, whatever is said before.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }

    /// The next lease, whatever is said before.
    pub(crate) async fn lease(&mut self) -> v1::Lease {
        loop {
            if let Told::Lease(lease) = self.hear().await.unwrap() {
                return lease;
            }
        }
    }

    /// What an honest worker answers to a lease.
    pub(crate) async fn finished(&self, engine: &Engine, lease: &v1::Lease) -> v1::Finished {
        let input = lease.inputs[0].body.clone();
        let Some(v1::tensor::Body::Data(data)) = input else { panic!() };
        let (engine, byte, lease) = (engine.clone(), self.byte, lease.clone());
        tokio::task::spawn_blocking(move || {
            let output = engine.infer_now(digits().id(), &data).unwrap();
            finished(byte, &lease, &output.data)
        })
        .await
        .unwrap()
    }
}

/// A Hello in answer to a greeting.
pub(crate) fn hello(byte: u8, greeting: &v1::Greeting, domain: &Domain) -> v1::Hello {
    let attach = Attach {
        worker: address(byte),
        node: Address::from_slice(&greeting.node),
        session: B256::from_slice(&greeting.session),
        build: B256::ZERO,
        expires: greeting.expires_s,
    };
    let signature = sign::sign(&key(byte), &attach.digest(domain));
    v1::Hello {
        worker: attach.worker.to_vec().into(),
        signature: signature.to_vec().into(),
        build: Vec::new().into(),
        opset: hyperion_ops::OPSET.into(),
        devices: Vec::new(),
        models: [digits().id(), letters().id()].map(|id| id.0.to_vec().into()).into(),
    }
}

/// A signed result about digits with this output, right or wrong.
pub(crate) fn finished(byte: u8, lease: &v1::Lease, output: &[u8]) -> v1::Finished {
    use hyperion_primitives::{Dtype, output_hash, tensor_root};
    let root = tensor_root(Dtype::I32, &[1, 10], output).unwrap();
    let request = lease.request.clone().unwrap();
    let macs = digits().manifest().macs(1, 0).unwrap();
    let mut finished = v1::Finished {
        lease_id: lease.lease_id.clone(),
        outputs: vec![v1::Tensor {
            name: String::new(),
            dtype: v1::Dtype::I32.into(),
            dims: vec![1, 10],
            body: Some(v1::tensor::Body::Data(output.to_vec().into())),
        }],
        claim: Some(v1::SignedClaim {
            claim: Some(v1::Claim {
                request_id: lease.request_id.clone(),
                model_id: request.model_id,
                input_hash: request.input_hash,
                output_hash: output_hash(&[root]).to_vec().into(),
                sampling_hash: vec![0; 32].into(),
                seed: vec![0; 32].into(),
                trace_root: vec![0; 32].into(),
                in_tokens: 1,
                out_tokens: 0,
                macs,
                challenge_until_s: lease.challenge_until_s,
                tier: 1,
                worker: address(byte).to_vec().into(),
            }),
            ..v1::SignedClaim::default()
        }),
        device_us: 0,
    };
    resign(byte, &mut finished);
    finished
}

/// Signs the claim of a result as it stands.
pub(crate) fn resign(byte: u8, finished: &mut v1::Finished) {
    let signed = finished.claim.as_mut().unwrap();
    let claim = signed.claim.clone().unwrap();
    let b256 = |bytes: &[u8]| B256::from_slice(bytes);
    let claim = hyperion_verify::Claim {
        request_id: b256(&claim.request_id).into(),
        model_id: b256(&claim.model_id).into(),
        input_hash: b256(&claim.input_hash),
        output_hash: b256(&claim.output_hash),
        sampling_hash: b256(&claim.sampling_hash),
        seed: b256(&claim.seed),
        trace_root: b256(&claim.trace_root),
        in_tokens: claim.in_tokens,
        out_tokens: claim.out_tokens,
        macs: claim.macs,
        challenge_until: claim.challenge_until_s,
        tier: u8::try_from(claim.tier).unwrap(),
        worker: Address::from_slice(&claim.worker),
    };
    signed.signature = sign::sign(&key(byte), &claim.digest(&DOMAIN).0).to_vec().into();
}
