use std::path::PathBuf;

use hyperion_verify::note::NoteKey;

use crate::CrashPlan;

/// Where a store lies and what it may use. `StoreConfig::new` gives the defaults.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The store's directory; nothing else may live there.
    pub dir: PathBuf,
    /// EIP-155 id of the chain; part of every commit entry.
    pub chain_id: u64,
    /// Name of the log, the first line of its checkpoints.
    pub origin: String,
    /// Key whose signature a kept checkpoint must bear. Default: none, then only its text is compared.
    pub log_key: Option<NoteKey>,
    /// Address space for the log's tables, and so the most they can grow to. Costs neither memory nor disk.
    /// Default 1 TiB.
    pub log_map_bytes: u64,
    /// Size of the tail, set when the store is created. Default 4 MiB.
    pub tail_bytes: u64,
    /// Blocks in the tail at which they move to the tables; bounds the work of one slow commit. Default 256.
    pub tail_blocks_max: usize,
    /// Encoded bytes above which a block goes to the tables at once. Default 64 KiB.
    pub tail_block_bytes_max: usize,
    /// Threads that hash a large block. Default: those of the machine, 8 at most.
    pub threads: usize,
    /// Heights that `snapshot_at` serves, the head included. Default 256.
    pub snapshot_heights: usize,
    /// Memory for what older heights do not share with newer ones; beyond it fewer heights are kept, but 8 at least.
    /// Default 256 MiB.
    pub snapshot_bytes: usize,
    /// Free disk space below which blocks are refused before anything is written. Default 2 GiB.
    pub disk_reserve_bytes: u64,
    /// Where a test wants a commit to stop. Default: nowhere.
    pub crash: CrashPlan,
}

impl StoreConfig {
    /// The defaults for a directory, a chain and a log's name.
    pub fn new(dir: impl Into<PathBuf>, chain_id: u64, origin: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            chain_id,
            origin: origin.into(),
            log_key: None,
            log_map_bytes: 1 << 40,
            tail_bytes: 4 << 20,
            tail_blocks_max: 256,
            tail_block_bytes_max: 64 << 10,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(8)),
            snapshot_heights: 256,
            snapshot_bytes: 256 << 20,
            disk_reserve_bytes: 2 << 30,
            crash: CrashPlan::default(),
        }
    }
}
