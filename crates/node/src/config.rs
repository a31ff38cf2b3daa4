//! Configuration: two files with two meanings.
//!
//! [`ChainSpec`] (`chain.toml`) is what all nodes of one chain share; its digest is in the log's genesis entry.
//! [`NodeConfig`] (`node.toml`) is what one machine chooses; nothing in it changes a bit of any output.
//! Precedence: command line > `HYPERION_*` (`__` nests) > file > default. An unknown key is an error that names
//! the nearest known one.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use alloy_primitives::{U256, address};
use anyhow::{Context as _, Result, bail};
use figment::{
    Figment, Profile,
    providers::{Env, Format as _, Serialized, Toml},
    value::{Dict, Value},
};
use hyperion_precompile::GasSchedule;
use hyperion_primitives::{Address, B256, keccak256};
use serde::{Deserialize, Serialize};

/// What one machine chooses.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Folder of the log, the state and the keys made on first start.
    pub data_dir: PathBuf,
    /// The chain spec; empty: the devnet's, chain id 31337.
    pub chain_file: PathBuf,
    /// Models to serve, by alias.
    pub models: BTreeMap<String, ModelConfig>,
    /// Models in floating point to serve; empty but in builds with the feature `candle-float`.
    pub float_models: Vec<FloatModelConfig>,
    /// Worker identity.
    pub worker: WorkerConfig,
    /// Workers on other hosts.
    pub workers: WorkersConfig,
    /// The log and its signature.
    pub log: LogConfig,
    /// The gRPC door.
    pub grpc: GrpcConfig,
    /// The HTTP door.
    pub http: HttpConfig,
    /// The metrics door.
    pub metrics: MetricsConfig,
    /// Transport security.
    pub tls: TlsConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// Devices and batches.
    pub engine: EngineSection,
    /// How much may wait.
    pub admission: AdmissionConfig,
    /// When blocks are made.
    pub block: BlockConfig,
    /// Seconds that running work gets on shutdown.
    pub drain_s: u64,
    /// Log lines of the program itself.
    pub trace: TraceConfig,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            chain_file: PathBuf::new(),
            models: BTreeMap::new(),
            float_models: Vec::new(),
            worker: WorkerConfig::default(),
            workers: WorkersConfig::default(),
            log: LogConfig::default(),
            grpc: GrpcConfig::default(),
            http: HttpConfig::default(),
            metrics: MetricsConfig::default(),
            tls: TlsConfig::default(),
            auth: AuthConfig::default(),
            engine: EngineSection::default(),
            admission: AdmissionConfig::default(),
            block: BlockConfig::default(),
            drain_s: 30,
            trace: TraceConfig::default(),
        }
    }
}

/// One model to serve.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// A `.hyp` file, made by `hyperion model import`.
    pub path: PathBuf,
    /// The tokenizer file of a text model; empty: `<path without extension>.tokenizer.json` if it is there.
    pub tokenizer: PathBuf,
    /// For a generator: the alias of a smaller one with the same tokens that proposes tokens to it; empty: none. It changes how
    /// fast answers come and nothing else.
    pub draft: String,
}

/// One model in floating point to serve; its results are attested only.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct FloatModelConfig {
    /// The name it is asked for by.
    pub alias: String,
    /// A folder of Hugging Face's (`config.json`, `.safetensors` files) or a `.gguf` file, with `tokenizer.json` for words.
    pub path: PathBuf,
    /// `cpu`, or `cuda:N` in a build with the feature `candle-cuda`.
    pub device: String,
    /// `f32`, `bf16`, `f16`, or `auto`: f32 on the CPU, the format of the weights on a GPU.
    pub dtype: String,
}

impl Default for FloatModelConfig {
    fn default() -> Self {
        Self {
            alias: String::new(),
            path: PathBuf::new(),
            device: "cpu".to_owned(),
            dtype: "auto".to_owned(),
        }
    }
}

/// Worker identity.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// secp256k1 key that signs claims, 64 hex digits, mode 0600; empty: `worker.key` in `data_dir`, made on first start.
    pub key_file: PathBuf,
    /// Seconds for which the worker keeps what it needs to answer a challenge.
    pub challenge_s: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { key_file: PathBuf::new(), challenge_s: 86_400 }
    }
}

/// Workers on other hosts: who may attach to this node, and how long they may be silent.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersConfig {
    /// Addresses of their keys, as `hyperion key address` prints them; empty: nobody may attach.
    pub keys: Vec<Address>,
    /// Milliseconds without a word after which a worker's jobs go to another.
    pub lease_ms: u64,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self { keys: Vec::new(), lease_ms: 30_000 }
    }
}

/// The log and its signature.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Ed25519 key that signs checkpoints, 64 hex digits, mode 0600; empty: `log.key` in `data_dir`, made on first start.
    pub key_file: PathBuf,
    /// Name of the log in its checkpoints; empty: `localhost/hyperion/<chain id>`.
    pub origin: String,
    /// Size of the log's memory map in bytes; address space only. It grows by reopening with a larger number.
    pub map_bytes: u64,
    /// Blocks are refused while the disk has fewer free bytes than this.
    pub disk_reserve_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            key_file: PathBuf::new(),
            origin: String::new(),
            map_bytes: 1 << 40,
            disk_reserve_bytes: 2 << 30,
        }
    }
}

/// The gRPC door.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcConfig {
    /// Address.
    pub listen: SocketAddr,
    /// Largest message in or out.
    pub message_bytes_max: usize,
    /// Streams one connection may have open.
    pub streams_max: u32,
    /// Threads that serve sockets; 0 is one for every two cores, 4 at most.
    pub threads: usize,
}

impl GrpcConfig {
    /// Threads that serve sockets, 1 at least. More than the load needs cost small calls a wake-up each.
    pub fn serving_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        if self.threads == 0 { (cores() / 2).clamp(1, 4) } else { self.threads }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8001)),
            message_bytes_max: 64 << 20,
            streams_max: 256,
            threads: 0,
        }
    }
}

/// The HTTP door.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address.
    pub listen: SocketAddr,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8000)) }
    }
}

/// The metrics door.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address of `/metrics`.
    pub listen: SocketAddr,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8002)) }
    }
}

/// Transport security.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Certificate chain, PEM; empty: no TLS.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
    /// Certificates that clients must be signed by, PEM; empty: any client.
    pub client_ca_file: PathBuf,
    /// Where a listener without TLS may stand: `loopback` or `anywhere`.
    pub plaintext: Plaintext,
}

impl Default for TlsConfig {
    fn default() -> Self {
        let none = PathBuf::new;
        Self {
            cert_file: none(),
            key_file: none(),
            client_ca_file: none(),
            plaintext: Plaintext::Loopback,
        }
    }
}

/// Where a listener without TLS may stand.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Plaintext {
    /// On `127.0.0.0/8` and `::1` only.
    Loopback,
    /// On any address: something in front speaks TLS.
    Anywhere,
}

/// Who may call.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// API keys, TOML; empty: nobody needs one. Read again on SIGHUP.
    pub keys_file: PathBuf,
    /// What needs no key although there is a keys file: `infer`, `log`, `receipts`, `models`.
    pub anonymous: Vec<String>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            keys_file: PathBuf::new(),
            anonymous: ["log", "receipts", "models"].map(str::to_owned).into(),
        }
    }
}

/// Devices and batches.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSection {
    /// Names with commas between them: `auto`, `cpu`, `cpu:avx2`, `cuda:0`, `cuda:all`, `wgpu:0`, `wgpu:all`; or `none`.
    pub devices: String,
    /// Bytes of weights and buffers on each GPU at most; 0: what CUDA says is free, 4 GiB where a driver does not say.
    pub gpu_memory_bytes: u64,
    /// Folder of compiled CUDA kernels; empty: `hyperion/kernels` in the user's cache.
    pub kernel_cache: PathBuf,
    /// Threads that run kernels; 0: one per core.
    pub threads: usize,
    /// Rows of a batch at most: tokens for text, inputs for tensors.
    pub batch_rows_max: u32,
    /// Microseconds for which an idle device holds a batch back that is not full; 0 serves at once. Default 500.
    pub batch_wait_us: u64,
    /// Answers that a device generates at once, per model.
    pub answers_max: u32,
    /// Rows of a step of a generator at most: a token of each running answer, and pieces of prompts.
    pub step_rows_max: u32,
    /// Rows of prompts in a step while answers are running; fewer make their tokens come more evenly.
    pub prompt_rows_max: u32,
    /// Bytes of cache per generator and device; the longest sequence always has room.
    pub cache_bytes_max: u64,
    /// Whether a prompt that begins as an earlier text did takes over what was computed of it.
    pub prefix_reuse: bool,
    /// Tokens that a draft model proposes at a time.
    pub draft_tokens: u32,
    /// Bytes of stored answers.
    pub memo_bytes_max: u64,
    /// Seconds for which an answer can be asked for again.
    pub keep_s: u64,
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            devices: "auto".to_owned(),
            gpu_memory_bytes: 0,
            kernel_cache: PathBuf::new(),
            threads: 0,
            batch_rows_max: 1024,
            batch_wait_us: 500,
            answers_max: 32,
            step_rows_max: 512,
            prompt_rows_max: 128,
            cache_bytes_max: 1 << 30,
            prefix_reuse: true,
            draft_tokens: 4,
            memo_bytes_max: 256 << 20,
            keep_s: 3600,
        }
    }
}

/// How much may wait.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// Jobs queued per model.
    pub jobs_max: usize,
    /// Bytes of inputs queued in all.
    pub bytes_max: u64,
    /// Connections that each of the gRPC and the HTTP listener serves at once; more wait until one closes.
    pub connections_max: usize,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self { jobs_max: 1024, bytes_max: 1 << 30, connections_max: 4096 }
    }
}

/// When blocks are made.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct BlockConfig {
    /// Milliseconds from one block to the next while something waits; without work there is no block.
    pub interval_ms: u64,
    /// Claims and transactions of a block, together, at most; that many waiting end a block early.
    pub claims_max: usize,
}

impl Default for BlockConfig {
    fn default() -> Self {
        Self { interval_ms: 1000, claims_max: 4096 }
    }
}

/// Log lines of the program itself.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct TraceConfig {
    /// `auto` (pretty on a terminal, else JSON), `pretty` or `json`.
    pub format: String,
    /// Filter in the syntax of `tracing-subscriber`, such as `info,hyperion_engine=debug`.
    pub filter: String,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { format: "auto".to_owned(), filter: "info".to_owned() }
    }
}

impl NodeConfig {
    /// Embedded defaults of `hyperion run --dev`: a folder of its own and quick blocks.
    pub fn dev(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            block: BlockConfig { interval_ms: 50, ..BlockConfig::default() },
            ..Self::default()
        }
    }

    /// Reads the configuration.
    ///
    /// `file` is optional; `overrides` are `key=value` pairs of the command line, values in TOML or bare text.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, a key is unknown, or a value does not fit its key.
    pub fn load(base: Self, file: Option<&Path>, overrides: &[String]) -> Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(base));
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading {}", path.display()))?;
            let table: toml::Table = text.parse().with_context(|| format!("{}", path.display()))?;
            let known = known_keys();
            for key in flatten_toml(&table) {
                known_key(&known, &key).with_context(|| match line_of(&text, &key) {
                    Some(line) => format!("{}:{line}", path.display()),
                    None => path.display().to_string(),
                })?;
            }
            figment = figment.merge(Toml::string(&text));
        }
        let environment = Env::prefixed("HYPERION_").ignore(&["fixtures", "require"]).split("__");
        for key in flatten(
            &figment::Provider::data(&environment)?.remove(&Profile::Default).unwrap_or_default(),
        ) {
            let variable = format!("HYPERION_{}", key.to_uppercase().replace('.', "__"));
            known_key(&known_keys(), &key)
                .with_context(|| format!("environment variable {variable}"))?;
        }
        figment = figment.merge(environment);
        for pair in overrides {
            let (key, value) =
                pair.split_once('=').with_context(|| format!("`--set {pair}`: want KEY=VALUE"))?;
            known_key(&known_keys(), key).with_context(|| format!("`--set {pair}`"))?;
            // A value that is no TOML by itself, such as a path, is text.
            let assignment = format!("{key} = {value}");
            let text = if assignment.parse::<toml::Table>().is_ok() {
                assignment
            } else {
                format!("{key} = {value:?}")
            };
            figment = figment.merge(Toml::string(&text));
        }
        figment.extract().context("configuration")
    }

    /// The log's name in its checkpoints.
    pub fn origin(&self, chain: &ChainSpec) -> String {
        if self.log.origin.is_empty() {
            format!("localhost/hyperion/{}", chain.chain_id)
        } else {
            self.log.origin.clone()
        }
    }

    /// Where the worker's key is.
    pub fn worker_key(&self) -> PathBuf {
        or_in(&self.worker.key_file, &self.data_dir, "worker.key")
    }

    /// Where the log's key is.
    pub fn log_key(&self) -> PathBuf {
        or_in(&self.log.key_file, &self.data_dir, "log.key")
    }
}

fn or_in(path: &Path, folder: &Path, name: &str) -> PathBuf {
    if path.as_os_str().is_empty() { folder.join(name) } else { path.to_path_buf() }
}

/// What all nodes of a chain share. Its digest is the genesis entry's block hash.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct ChainSpec {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Contract named by the EIP-712 domain of requests and claims.
    pub verifying_contract: Address,
    /// Version of the operator set.
    pub opset: u16,
    /// Gas limit of a block.
    pub block_gas_max: u64,
    /// Wei that each gas burns.
    pub base_fee: u64,
    /// Balances at height 0, in wei. Absent from a file: nobody has any.
    #[serde(default = "BTreeMap::new")]
    pub alloc: BTreeMap<Address, U256>,
    /// What inference costs inside a block.
    pub gas: GasSchedule,
}

/// Chain id of the devnet.
pub const DEV_CHAIN_ID: u64 = 31_337;

/// Accounts of the public test mnemonic (`test test test test test test test test test test test junk`), in the order of
/// their derivation. Everybody has their keys, so only the devnet allocates to them.
pub const DEV_ACCOUNTS: [Address; 10] = [
    address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
    address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    address!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
    address!("0x90F79bf6EB2c4f870365E785982E1f101E93b906"),
    address!("0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65"),
    address!("0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc"),
    address!("0x976EA74026E726554dB657fA54763abd0C3a0aa9"),
    address!("0x14dC79964da2C08b23698B3D3cc7Ca32193d9955"),
    address!("0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f"),
    address!("0xa0Ee7A142d267C1f36714E4a8F75612F20a79720"),
];

/// Ten thousand coins.
const DEV_BALANCE: U256 = U256::from_limbs([0x19e0_c9ba_b240_0000, 0x21e, 0, 0]);

impl Default for ChainSpec {
    fn default() -> Self {
        Self {
            chain_id: DEV_CHAIN_ID,
            verifying_contract: hyperion_precompile::address::REQUESTS,
            opset: 1,
            block_gas_max: 50_000_000,
            base_fee: 1_000_000_000,
            alloc: DEV_ACCOUNTS.map(|account| (account, DEV_BALANCE)).into(),
            gas: GasSchedule::default(),
        }
    }
}

impl ChainSpec {
    /// Reads `chain.toml`; an empty path is the devnet.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or says something that is no chain spec.
    pub fn load(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let spec: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        if spec.opset != 1 {
            bail!(
                "{}: operator set {} is asked for, this program has set 1",
                path.display(),
                spec.opset
            );
        }
        let GasSchedule { macs_per_gas, elements_per_gas, .. } = spec.gas;
        for (key, value) in [("macs_per_gas", macs_per_gas), ("elements_per_gas", elements_per_gas)]
        {
            if value == 0 {
                bail!("{}: [gas] {key} = 0: a gas buys 1 or more", path.display());
            }
        }
        if let Some(account) = DEV_ACCOUNTS.iter().find(|account| spec.alloc.contains_key(*account))
            && spec.chain_id != DEV_CHAIN_ID
        {
            bail!(
                "{}: {account} is an account of the public test mnemonic, and everybody has its key; only chain \
                 {DEV_CHAIN_ID} may allocate to it",
                path.display()
            );
        }
        Ok(spec)
    }

    /// keccak-256 of the spec in its one spelling: every key, in the order of this struct, as TOML.
    pub fn digest(&self) -> B256 {
        keccak256(toml::to_string(self).expect("a chain spec is a table of numbers and text"))
    }
}

/// Every key of `node.toml`, dotted.
fn known_keys() -> Vec<String> {
    let mut example = NodeConfig::default();
    example.models.insert("*".to_owned(), ModelConfig::default());
    flatten_toml(&toml::Table::try_from(&example).expect("the defaults are a table"))
}

fn flatten_toml(table: &toml::Table) -> Vec<String> {
    let nested = table.iter().flat_map(|(key, value)| match value {
        toml::Value::Table(inner) => {
            flatten_toml(inner).iter().map(|rest| format!("{key}.{rest}")).collect()
        }
        _ => vec![key.clone()],
    });
    nested.collect()
}

fn flatten(dict: &Dict) -> Vec<String> {
    let nested = dict.iter().flat_map(|(key, value)| match value {
        Value::Dict(_, inner) => {
            flatten(inner).iter().map(|rest| format!("{key}.{rest}")).collect()
        }
        _ => vec![key.clone()],
    });
    nested.collect()
}

/// Refuses a key that does not exist, naming the nearest that does.
fn known_key(known: &[String], key: &str) -> Result<()> {
    let parts: Vec<&str> = key.split('.').collect();
    let generic = match parts.as_slice() {
        ["models", _, rest @ ..] => {
            ["models", "*"].iter().chain(rest).copied().collect::<Vec<_>>().join(".")
        }
        _ => key.to_owned(),
    };
    if known.contains(&generic) {
        return Ok(());
    }
    let nearest = known.iter().min_by_key(|candidate| distance(candidate, &generic));
    bail!("unknown key `{key}`; the nearest known key is `{}`", nearest.expect("there are keys"));
}

/// Edit distance of two keys (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    *row.last().expect("a row has one cell more than b has letters")
}

/// The first line of a TOML text that assigns the last part of `key`.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let last = key.rsplit('.').next()?;
    let assigns = |line: &str| {
        line.split_once('=').is_some_and(|(left, _)| left.trim().rsplit('.').next() == Some(last))
    };
    text.lines().position(assigns).map(|index| index + 1)
}
