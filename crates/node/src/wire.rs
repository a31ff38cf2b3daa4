//! Configuration to a running node: store, models, devices, engine, producer, doors; and the way back down.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hyperion_engine::{Clock, Engine, EngineConfig, ModelInfo, Signer as _};
use hyperion_executor::Words;
use hyperion_primitives::{B256, ModelId};
use hyperion_rpc::{
    auth::{Area, Gate, Keys},
    door::{Door, Parts, Prices},
    float::FloatServer,
    health::Readiness,
    limits::Limits,
    serve::{Listeners, ServeConfig, Shutdown},
    tls::{Tls, TlsFiles},
};
use hyperion_store::{BlockInput, Seal, Store, StoreConfig, StoreError};
use hyperion_verify::{
    Domain,
    note::{KeyKind, NoteSigner},
    state::StatePath,
};

use crate::{
    chain::{self, Chain, Executed, Transactions},
    cli::Exit,
    clock::MachineClock,
    config::{ChainSpec, NodeConfig, Plaintext},
    devices, float,
    keys::{self, WorkerKey},
    ledger::Ledger,
    metrics::Metrics,
    producer::{self, Producer},
    served::{Served, registry},
};

/// A node that serves.
pub struct Node {
    /// Runs and claims.
    pub engine: Engine,
    /// The claim log.
    pub ledger: Arc<Ledger>,
    /// What all nodes share.
    pub chain: ChainSpec,
    /// Takes signed transactions into blocks.
    pub transactions: Transactions,
    clock: Arc<MachineClock>,
    producer: Producer,
    float: float::Lanes,
    readiness: Arc<Ready>,
    drain: Duration,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("chain", &self.chain.chain_id).finish_non_exhaustive()
    }
}

impl NodeConfig {
    /// The engine's part of the configuration.
    pub fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            batch_rows_max: self.engine.batch_rows_max,
            batch_wait_us: self.engine.batch_wait_us,
            answers_max: self.engine.answers_max,
            step_rows_max: self.engine.step_rows_max,
            prompt_rows_max: self.engine.prompt_rows_max,
            cache_bytes_max: self.engine.cache_bytes_max,
            prefix_reuse: self.engine.prefix_reuse,
            draft_tokens: self.engine.draft_tokens,
            queue_jobs_max: self.admission.jobs_max,
            queue_bytes_max: self.admission.bytes_max,
            memo_bytes_max: self.engine.memo_bytes_max,
            keep_s: self.engine.keep_s,
            challenge_window_s: self.worker.challenge_s,
            workers_max: self.workers.keys.len(),
            worker_lease_us: self.workers.lease_ms.saturating_mul(1000),
            ..EngineConfig::default()
        }
    }

    /// The store's part of the configuration.
    pub fn store(&self, chain: &ChainSpec) -> StoreConfig {
        StoreConfig {
            log_map_bytes: self.log.map_bytes,
            disk_reserve_bytes: self.log.disk_reserve_bytes,
            ..StoreConfig::new(self.data_dir.join("log"), chain.chain_id, self.origin(chain))
        }
    }
}

/// The domain of a chain's requests and claims.
pub fn domain(chain: &ChainSpec) -> Domain {
    Domain { chain_id: chain.chain_id, verifying_contract: chain.verifying_contract }
}

/// Opens the log, or creates it where none is; a new one registers `served` at height 0.
fn store(config: &NodeConfig, chain: &ChainSpec) -> Result<Store> {
    let store = config.store(chain);
    if store.dir.is_dir() && fs::read_dir(&store.dir)?.next().is_some() {
        let opened = Store::open(&store).map_err(|error| match error {
            StoreError::Poisoned { .. } => Exit::StorePoisoned.into(),
            other => anyhow::Error::from(other).context(format!("opening {}", store.dir.display())),
        })?;
        require_spec(config, chain, opened.log().record(0)?.entry.block_hash)?;
        return Ok(opened);
    }
    fs::create_dir_all(&store.dir).with_context(|| format!("making {}", store.dir.display()))?;
    let seal = Seal { time_ms: 0, block_hash: chain.digest() };
    let Words { diff, blobs } = chain::genesis_words(chain)?;
    let words = diff.into_iter().filter_map(|(path, word)| Some((path, word?)));
    Ok(Store::create_with_blobs(&store, seal, words, &blobs)?)
}

/// Refuses a chain spec that is not the one `made` at height 0: its blocks would be another chain's.
fn require_spec(config: &NodeConfig, chain: &ChainSpec, made: B256) -> Result<()> {
    let digest = chain.digest();
    if digest == made {
        return Ok(());
    }
    let file = if config.chain_file.as_os_str().is_empty() {
        "the devnet's chain spec (chain_file is empty)".to_owned()
    } else {
        format!("chain file {}", config.chain_file.display())
    };
    let dir = config.data_dir.display();
    bail!(
        "{file} has digest {digest}, but {dir} was made with the chain spec of digest {made}; put that spec back, or start \
         the changed chain in a new data directory"
    )
}

/// Puts the manifests of models that the state does not know yet into a block of their own.
fn register(ledger: &Ledger, chain: &Chain, served: &[Served], clock: &MachineClock) -> Result<()> {
    let store = ledger.store();
    let snapshot = store.snapshot();
    let known = snapshot.pin()?;
    let mut words = BTreeMap::new();
    let mut blobs = Vec::new();
    for one in served {
        let path = StatePath::model(&one.model.id());
        let manifest = one.model.manifest();
        if known.get(&path) != Some(manifest.hash()) {
            words.insert(path, Some(manifest.hash()));
            blobs.push(manifest.encode().to_vec());
        }
    }
    if words.is_empty() {
        return Ok(());
    }
    let diff: Vec<_> = words.into_iter().collect();
    let prepared = store.prepare(BlockInput { diff: &diff, claims: &[], blobs: &blobs })?;
    let parent_ms = store.log().record(store.head().height)?.entry.time_ms;
    let time_ms = clock.unix_ms().max(parent_ms);
    let (root, height) = (prepared.state_root(), prepared.height());
    let block_hash = chain.hash(store, &Executed::default(), root, height, time_ms / 1000)?;
    store.commit(prepared, Seal { time_ms, block_hash })?;
    ledger.publish()?;
    Ok(())
}

impl Node {
    /// Opens the store, loads the models, starts engine and producer.
    ///
    /// `failed` is called once if the store refuses a block for good later on.
    ///
    /// # Errors
    ///
    /// When anything cannot be opened, or no device passes its self-test.
    pub fn start(
        config: &NodeConfig,
        served: &[Served],
        failed: impl FnOnce(&StoreError) + Send + 'static,
    ) -> Result<Self> {
        let spec = ChainSpec::load(&config.chain_file)?;
        fs::create_dir_all(&config.data_dir)
            .with_context(|| format!("making {}", config.data_dir.display()))?;
        let signer = Arc::new(WorkerKey::new(&keys::read_or_create(&config.worker_key())?)?);
        let log_key = keys::read_or_create(&config.log_key())?;
        let note_signer = NoteSigner::new(&config.origin(&spec), KeyKind::Log, &log_key)?;
        fs::write(config.data_dir.join("log.pub"), format!("{}\n", note_signer.key()))?;
        let clock = Arc::new(MachineClock::new());
        let chain = Chain::new(spec.clone(), signer.address());
        let ledger = Arc::new(Ledger::new(store(config, &spec)?, note_signer)?);
        register(&ledger, &chain, served, &clock)?;

        let registry = registry(served)?;
        let (sink, work) = producer::queue(&config.block);
        let transactions = sink.transactions(spec.block_gas_max);
        let notary = float::Notary {
            signer: Arc::clone(&signer),
            domain: domain(&spec),
            challenge_s: config.worker.challenge_s,
            clock: Arc::clone(&clock),
            claims: sink.claims(),
        };
        let float = float::Lanes::start(config, served, notary)?;
        let devices = devices::open(&config.engine)?;
        let clock_of_engine: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let engine = Engine::new(
            config.engine_config(),
            registry,
            devices,
            signer,
            domain(&spec),
            clock_of_engine,
            Box::new(sink),
        );
        let engine = engine.map_err(|error| anyhow::Error::from(error).context(Exit::NoDevice))?;
        let readiness = Arc::new(Ready {
            engine: engine.clone(),
            has_float: !config.float_models.is_empty(),
            ledger: Arc::clone(&ledger),
            poisoned: AtomicBool::new(false),
        });
        let poisoned = Arc::clone(&readiness);
        let failed = move |error: &StoreError| {
            poisoned.poisoned.store(true, Ordering::SeqCst);
            failed(error);
        };
        let parts = producer::Parts {
            config: config.block.clone(),
            work,
            ledger: Arc::clone(&ledger),
            chain,
            engine: engine.clone(),
            clock: Arc::clone(&clock),
        };
        let producer = Producer::start(parts, failed);
        let drain = Duration::from_secs(config.drain_s);
        let chain = spec;
        Ok(Self { engine, ledger, chain, transactions, clock, producer, float, readiness, drain })
    }

    /// The models in floating point, if there are some.
    pub fn float(&self) -> Option<Arc<dyn FloatServer>> {
        self.float.server()
    }

    /// What a start prints of each model in floating point.
    pub fn float_lines(&self) -> Vec<String> {
        self.float.lines()
    }

    /// The doors of this node.
    ///
    /// # Errors
    ///
    /// When the keys file is not one.
    pub fn door(
        &self,
        config: &NodeConfig,
        served: &[Served],
        metrics: &Arc<Metrics>,
        shutdown: Shutdown,
    ) -> Result<Arc<Door>> {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let gate = if config.auth.keys_file.as_os_str().is_empty() {
            Gate::open(Arc::clone(&clock))
        } else {
            let areas =
                config.auth.anonymous.iter().map(|name| area(name)).collect::<Result<_>>()?;
            Gate::keyed(Keys::read(&config.auth.keys_file)?, areas, Arc::clone(&clock))
        };
        let exact = served.iter().map(|one| (one.model.id(), one.face()));
        let faces = exact.chain(self.float.faces()).collect();
        Ok(Door::new(Parts {
            engine: self.engine.clone(),
            log: Arc::clone(&self.ledger) as _,
            faces,
            float: self.float(),
            prices: Arc::new(Gas(self.chain.clone())),
            gate,
            workers: config.workers.keys.iter().copied().collect(),
            limits: Limits {
                message_bytes_max: config.grpc.message_bytes_max,
                ..Limits::default()
            },
            clock,
            readiness: Arc::clone(&self.readiness) as _,
            observer: Arc::clone(metrics) as _,
            shutdown,
        }))
    }

    /// Ends in order: no new work, what waits is finished or cut at the drain time, what was signed is logged.
    ///
    /// # Errors
    ///
    /// When the store refused the last blocks.
    pub fn stop(self) -> Result<()> {
        let deadline_us =
            self.clock.now_us() + u64::try_from(self.drain.as_micros()).unwrap_or(u64::MAX);
        let drained = self.engine.drain(deadline_us);
        tracing::info!(
            finished = drained.finished,
            cut = drained.cut,
            unlogged = drained.unlogged,
            "drained"
        );
        self.float.stop();
        // Engine and readiness hold the sink; the producer ends when the last of them is gone.
        drop(self.readiness);
        self.producer.stop(self.engine)?;
        self.ledger.store().flush()?;
        Ok(())
    }
}

/// Sockets of a configuration.
///
/// # Errors
///
/// When a certificate cannot be read, or an address is taken or would be served in plain text where it must not be.
pub async fn listen(config: &NodeConfig) -> Result<Listeners> {
    let file = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    let tls = match (file(&config.tls.cert_file), file(&config.tls.key_file)) {
        (Some(cert_file), Some(key_file)) => {
            let client_ca_file = file(&config.tls.client_ca_file);
            Some(Arc::new(Tls::load(TlsFiles { cert_file, key_file, client_ca_file })?))
        }
        (None, None) => None,
        _ => bail!("tls.cert_file and tls.key_file go together; one of them is empty"),
    };
    let plaintext = match config.tls.plaintext {
        Plaintext::Loopback => hyperion_rpc::serve::Plaintext::Loopback,
        Plaintext::Anywhere => hyperion_rpc::serve::Plaintext::Anywhere,
    };
    Ok(Listeners::bind(ServeConfig {
        grpc: config.grpc.listen,
        http: config.http.listen,
        tls,
        plaintext,
        connections_max: config.admission.connections_max,
        streams_max: config.grpc.streams_max,
        grace: Duration::from_secs(config.drain_s),
        ..ServeConfig::default()
    })
    .await?)
}

fn area(name: &str) -> Result<Area> {
    Ok(match name {
        "log" => Area::Log,
        "receipts" => Area::Receipts,
        "models" => Area::Models,
        "infer" => Area::Infer,
        _ => bail!("auth.anonymous: `{name}` is none of log, receipts, models, infer"),
    })
}

struct Gas(ChainSpec);

impl Prices for Gas {
    fn gas(&self, model: &ModelInfo, input_bytes: u64, tokens_max: u32) -> Option<u64> {
        let (schedule, manifest) = (&self.0.gas, model.model.manifest());
        let rows = manifest.input_rows(input_bytes).ok()?;
        let macs = manifest.macs(rows, tokens_max).filter(|macs| *macs <= schedule.macs_max)?;
        let work = schedule.run(
            macs,
            manifest.elements(rows, tokens_max)?,
            manifest.tiles(rows, tokens_max)?,
        );
        // Selector, ten words of the head, the input's length, and the input in whole words.
        let calldata_bytes = 4 + 32 * 11 + input_bytes.next_multiple_of(32);
        manifest.native.then(|| schedule.entry(calldata_bytes).saturating_add(work))
    }
}

struct Ready {
    engine: Engine,
    has_float: bool,
    ledger: Arc<Ledger>,
    poisoned: AtomicBool,
}

impl Readiness for Ready {
    fn ready(&self) -> Result<(), String> {
        if self.poisoned.load(Ordering::SeqCst) {
            return Err("the store refuses writes; restart the node".to_owned());
        }
        if let Some(why) = self.ledger.refusal() {
            return Err(format!("the next block waits: {why}"));
        }
        let models = self.engine.models();
        if self.has_float {
            return Ok(());
        }
        if models.is_empty() {
            return Err("no model is configured".to_owned());
        }
        let reasons: Vec<String> =
            models.iter().filter_map(|model| model.ready.err()).map(|e| e.to_string()).collect();
        if reasons.len() == models.len() { Err(reasons.join("; ")) } else { Ok(()) }
    }
}

/// What a model is called in lists.
pub fn short(id: ModelId) -> String {
    let text = id.to_string();
    format!("{}…{}", &text[..10], &text[text.len() - 4..])
}
