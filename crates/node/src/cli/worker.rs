//! `hyperion worker`: this machine's devices, working for a node on another host.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hyperion_engine::{Answer, ClaimSink, Clock, Engine, EngineConfig, Pushback, Signer as _};
use hyperion_primitives::Address;
use hyperion_rpc::{
    client::ClientConfig,
    join::{JoinConfig, JoinError, join},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Exit, out::say};
use crate::{
    clock::MachineClock,
    config::{ChainSpec, NodeConfig},
    devices,
    keys::{self, WorkerKey},
    served::{self, embedded},
    trace, wire,
};

/// Jobs that may wait here for each slot: a node sends as many as there are slots, and twice that while messages cross.
const QUEUE_PER_SLOT: usize = 8;

/// What `--help` ends with.
const EXAMPLE: &str = "\
On both hosts, once:
  hyperion key new --out worker.key              # here; prints the key's address
  hyperion run --worker ADDRESS --model m=m.hyp  # on the node; or list it in workers.keys of node.toml
  hyperion worker --join https://node:8001 --key-file worker.key --model m=m.hyp

Exit codes: 0 asked to end, and ended; 2 usage, or the node refuses this worker; 4 no device passed its
self-test; 5 the node was not reached within --patience-s.";

/// Work for a node on another host with this machine's devices.
///
/// The worker dials the node, so it needs no open port. It signs every result with its own key, which the node has to
/// list. The model files have to be the node's own, to the byte: their ids are compared. When the connection breaks, the
/// worker finishes what it holds, keeps the results for 10 minutes, and dials again after 0.5 s to 30 s. SIGTERM ends it
/// once what it holds is delivered.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The node's gRPC door, http://HOST:PORT or https://HOST:PORT.
    #[arg(long, value_name = "URL")]
    join: String,
    /// Key that signs the results; made by `hyperion key new`. Over `worker.key_file` of the configuration.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// One more model to work on: ALIAS=FILE.hyp; may be repeated.
    #[arg(long = "model", value_name = "ALIAS=FILE")]
    models: Vec<String>,
    /// The digits classifier of `hyperion run --dev`, too.
    #[arg(long)]
    dev: bool,
    /// Devices to run on: auto, cpu, cpu:avx2, wgpu:0, wgpu:all; commas between several.
    #[arg(long = "device", value_name = "NAMES")]
    devices: Option<String>,
    /// Jobs to take at a time, of all models; the devices batch them.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// The node's own address, as it prints it at its start; no other node is worked for. Without it: whoever answers.
    #[arg(long, value_name = "ADDRESS")]
    node_address: Option<Address>,
    /// File with an API key of scope `worker`, for a node that asks for keys.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM of the authority that signed the node's certificate, for https.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// PEM of this worker's certificate and of its key, for a node with `tls.client_ca_file`.
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"])]
    identity_files: Option<Vec<PathBuf>>,
    /// Seconds for which the node is looked for at the start before this ends with exit code 5.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience_s: u64,
    #[command(flatten)]
    source: super::config::Source,
}

impl Arguments {
    fn config(&self) -> Result<NodeConfig> {
        let mut config = self.source.load(NodeConfig::default())?;
        if let Some(devices) = &self.devices {
            config.engine.devices.clone_from(devices);
        }
        if let Some(key_file) = &self.key_file {
            config.worker.key_file.clone_from(key_file);
        }
        for pair in &self.models {
            let (alias, path) =
                pair.split_once('=').with_context(|| format!("--model {pair}: want ALIAS=FILE"))?;
            config.models.entry(alias.to_owned()).or_default().path = path.into();
        }
        Ok(config)
    }

    fn client(&self) -> Result<ClientConfig> {
        let identity_pem = match self.identity_files.as_deref() {
            Some([certificate, key]) => Some((text(certificate)?, text(key)?)),
            _ => None,
        };
        Ok(ClientConfig {
            token: self.token_file.as_deref().map(text).transpose()?,
            ca_pem: self.ca_file.as_deref().map(text).transpose()?,
            identity_pem,
        })
    }
}

fn text(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let clock = Arc::new(MachineClock::new());
    let config = arguments.config()?;
    trace::start(&config.trace)?;
    let client = arguments.client()?;
    if config.worker.key_file.as_os_str().is_empty() {
        bail!(
            "a worker has a key of its own: make one with `hyperion key new --out worker.key`, name it with --key-file"
        );
    }
    let signer = Arc::new(WorkerKey::new(&keys::read(&config.worker.key_file)?)?);
    let mut served = served::models(&config)?;
    if arguments.dev && served.iter().all(|one| one.alias != "digits") {
        served.push(embedded::digits()?);
    }
    if served.is_empty() {
        bail!("no model is named; name the node's with --model ALIAS=FILE");
    }
    let chain = ChainSpec::load(&config.chain_file)?;
    let address = signer.address();
    let slots = arguments.slots as usize;
    let engine = Engine::new(
        EngineConfig {
            queue_jobs_max: config.admission.jobs_max.max(slots * QUEUE_PER_SLOT),
            workers_max: 0,
            ..config.engine_config()
        },
        served::registry(&served)?,
        devices::open(&config.engine)?,
        signer,
        wire::domain(&chain),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Box::new(NoLog),
    );
    let engine = engine.map_err(|error| anyhow::Error::from(error).context(Exit::NoDevice))?;
    let names: Vec<String> = engine
        .stats()
        .devices
        .iter()
        .map(|device| format!("{} {}", device.info.name, device.info.kernels))
        .collect();
    say!(
        "hyperion {}   chain {}   worker {address}   devices {}",
        env!("CARGO_PKG_VERSION"),
        chain.chain_id,
        names.join(", ")
    )?;
    for info in engine.models() {
        say!("model {}  {}", info.aliases.join(", "), info.id)?;
    }
    say!("ready in {:.2} s", Duration::from_micros(clock.now_us()).as_secs_f64())?;
    let join_config = JoinConfig {
        node: arguments.join.clone(),
        client,
        node_address: arguments.node_address,
        slots: arguments.slots,
        challenge_s: config.worker.challenge_s,
        patience: Duration::from_secs(arguments.patience_s),
        drain: Duration::from_secs(config.drain_s),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.grpc.serving_threads())
        .enable_all()
        .build()
        .context("the threads that serve the connection")?;
    let joined = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(end(stop.clone()));
        join(engine, clock, join_config, stop).await
    });
    match joined {
        Ok(joined) => {
            say!(
                "ended   delivered {}   given back {}   undelivered {}",
                joined.delivered,
                joined.given_back,
                joined.undelivered
            )
        }
        Err(error @ JoinError::Unreachable { .. }) => {
            Err(anyhow::Error::from(error).context(Exit::Unreachable))
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for a signal to end.
async fn end(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to end");
    stop.cancel();
}

/// A worker keeps no log: what it signs goes to its node.
struct NoLog;

impl ClaimSink for NoLog {
    fn offer(&self, _: Arc<Answer>) -> Result<(), Pushback> {
        Ok(())
    }
}
