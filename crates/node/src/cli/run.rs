//! `hyperion run`: a node until a signal.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use axum::{Router, http::header, routing::get};
use hyperion_engine::{Clock as _, DeviceStats};
use hyperion_primitives::Address;
use hyperion_rpc::{auth::Keys, serve::Shutdown};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{Exit, out::say};
use crate::{
    clock::MachineClock,
    config::NodeConfig,
    control::Control,
    known_logs,
    metrics::Metrics,
    served::{self, Served, embedded},
    trace,
    wire::{self, Node},
};

/// Seconds between saying "not serving" and taking no more calls, for load balancers to notice.
const NOTICE_S: u64 = 5;

/// Serve models: gRPC, Open Inference Protocol, HTTP, metrics.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Embedded defaults: a temporary data folder, the digits classifier, quick blocks. Nothing is kept.
    #[arg(long)]
    dev: bool,
    #[command(flatten)]
    source: super::config::Source,
    /// The node's data folder, over the configuration's.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// One more model to serve: ALIAS=FILE.hyp; may be repeated.
    #[arg(long = "model", value_name = "ALIAS=FILE")]
    models: Vec<String>,
    /// Devices to run on, over the configuration's: auto, cpu, cpu:avx2, cuda:0, cuda:all, wgpu:0, wgpu:all; commas
    /// between several; none leaves all runs to workers.
    #[arg(long = "device", value_name = "NAMES")]
    devices: Option<String>,
    /// One more worker that may attach from another host, by the address of its key; may be repeated.
    #[arg(long = "worker", value_name = "ADDRESS")]
    workers: Vec<Address>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let clock = MachineClock::new();
    let scratch =
        arguments.dev.then(tempfile::tempdir).transpose().context("a temporary data folder")?;
    let base = scratch
        .as_ref()
        .map_or_else(NodeConfig::default, |folder| NodeConfig::dev(folder.path().into()));
    let mut config = arguments.source.load(base)?;
    if let Some(dir) = &arguments.data_dir {
        config.data_dir.clone_from(dir);
    }
    if let Some(devices) = &arguments.devices {
        config.engine.devices.clone_from(devices);
    }
    config.workers.keys.extend(&arguments.workers);
    for pair in &arguments.models {
        let (alias, path) =
            pair.split_once('=').with_context(|| format!("--model {pair}: want ALIAS=FILE"))?;
        config.models.entry(alias.to_owned()).or_default().path = path.into();
    }
    trace::start(&config.trace)?;
    let mut served = served::models(&config)?;
    if arguments.dev {
        let own = |one: &Served| served.iter().all(|other| other.alias != one.alias);
        let embedded: Vec<Served> = embedded::all()?.into_iter().filter(own).collect();
        served.extend(embedded);
    }
    if served.is_empty() && config.float_models.is_empty() {
        bail!("no model is configured; name one with --model ALIAS=FILE, or start with --dev");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.grpc.serving_threads())
        .enable_all()
        .build()
        .context("the threads that serve sockets")?;
    let is_kept =
        scratch.as_ref().is_none_or(|scratch| !config.data_dir.starts_with(scratch.path()));
    runtime.block_on(serve(&config, served, (arguments.dev, is_kept), &clock))
}

async fn serve(
    config: &NodeConfig,
    served: Vec<Served>,
    (is_dev, is_kept): (bool, bool),
    clock: &MachineClock,
) -> Result<()> {
    let listeners = wire::listen(config).await?;
    let metrics_listener = TcpListener::bind(config.metrics.listen)
        .await
        .with_context(|| format!("metrics cannot listen on {}", config.metrics.listen))?;
    let poisoned = CancellationToken::new();
    let fired = poisoned.clone();
    let node = Node::start(config, &served, move |error| {
        tracing::error!(%error, "the store refuses blocks");
        fired.cancel();
    })?;
    let stats = node.engine.stats();
    let named = |device: &DeviceStats| format!("{} {}", device.info.name, device.info.kernels);
    let backend = stats.devices.first().map_or_else(|| "none".to_owned(), named);
    let threads = stats.devices.first().map_or(0, |device| device.info.threads);
    let metrics =
        Arc::new(Metrics::new(node.engine.clone(), Arc::clone(&node.ledger), backend.clone()));

    let data =
        if is_kept { config.data_dir.display().to_string() } else { "<temporary>".to_owned() };
    say!(
        "hyperion {}   chain {}   data {data}   devices {backend} ({threads} threads)",
        env!("CARGO_PKG_VERSION"),
        node.chain.chain_id
    )?;
    say!(
        "grpc {}   http {}   metrics {}",
        listeners.grpc_address(),
        listeners.http_address(),
        metrics_listener.local_addr()?
    )?;
    if !config.workers.keys.is_empty() {
        let (node, keys) = (node.engine.worker(), config.workers.keys.len());
        say!("workers {keys} may attach to node {node}")?;
    }
    say!("log key {}", node.ledger.key())?;
    if let Err(error) = known_logs::remember(&node.ledger.key(), is_dev) {
        tracing::warn!("receipts need --log-key here: {error:#}");
    }
    for info in node.engine.models() {
        let manifest = info.model.manifest();
        let native = if manifest.native { "native" } else { "claims only" };
        let macs = manifest.macs(1, manifest.generator.into()).unwrap_or_default();
        let ready =
            info.ready.map_or_else(|error| error.to_string(), |()| "known answer ok".to_owned());
        say!(
            "model {}  {}  {native}  {macs} MAC a row  {ready}",
            info.aliases.join(", "),
            info.id
        )?;
    }

    for line in node.float_lines() {
        say!("{line}")?;
    }

    let shutdown = Shutdown::default();
    let door = node.door(config, &served, &metrics, shutdown.clone())?;
    let page = Arc::clone(&metrics);
    let scrape = move || async move {
        let kind =
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        (kind, page.page().unwrap_or_default())
    };
    let stop = shutdown.stop.clone();
    tokio::spawn(async move {
        let pages = Router::new().route("/metrics", get(scrape));
        let end = async move { stop.cancelled().await };
        if let Err(error) = axum::serve(metrics_listener, pages).with_graceful_shutdown(end).await {
            tracing::error!(%error, "the metrics page went down");
        }
    });
    let keys_file = config.auth.keys_file.clone();
    let reloaded = Arc::clone(&door);
    tokio::spawn(async move {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        while hangup.recv().await.is_some() && !keys_file.as_os_str().is_empty() {
            match Keys::read(&keys_file) {
                Ok(keys) => {
                    tracing::info!(keys = keys.len(), "read the API keys again");
                    reloaded.gate().replace(keys);
                }
                Err(error) => tracing::error!(%error, "the API keys stay as they were"),
            }
        }
    });
    let control = Control::bind(&config.data_dir, Arc::clone(&node.ledger));
    let control = control
        .inspect_err(
            |error| tracing::warn!(%error, "`hyperion log` cannot ask while this node runs"),
        )
        .map(|control| tokio::spawn(control.serve(shutdown.stop.clone())));
    let notice = Duration::from_secs(if is_dev { 0 } else { NOTICE_S });
    tokio::spawn(end(shutdown, poisoned.clone(), notice));
    say!("ready in {:.2} s", Duration::from_micros(clock.now_us()).as_secs_f64())?;
    listeners.serve(door, Router::new()).await?;
    if let Ok(control) = control {
        control.await.context("the control socket")?;
    }
    drop(metrics);
    let stopped = tokio::task::spawn_blocking(move || node.stop()).await.context("stopping")?;
    if poisoned.is_cancelled() {
        bail!(Exit::StorePoisoned);
    }
    stopped
}

/// Waits for a reason to end, then says "not serving", waits, and stops taking calls; a second signal skips the wait.
async fn end(shutdown: Shutdown, poisoned: CancellationToken, notice: Duration) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    let mut asked = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = asked() => tracing::info!("asked to end"),
        () = poisoned.cancelled() => {}
    }
    shutdown.drain.cancel();
    tokio::select! {
        () = tokio::time::sleep(notice) => {}
        () = asked() => {}
    }
    shutdown.stop.cancel();
}
