//! Kills a process that appends blocks, again and again, and checks what the next one finds.
//!
//! The child commits blocks whose content follows from a seed and the height alone, and says so on its standard error
//! once each is durable. The supervisor kills it with SIGKILL at a moment drawn at random, or lets it kill itself at a
//! drawn [`CrashPoint`]; then it reopens the store and compares every new block with a model of its own: claims byte
//! by byte, the state's root from all words, the log's root from all leaf hashes. Each round draws its own mixture of
//! features. A run prints its seed, and the same seed draws the same rounds (when exactly a kill lands, it cannot say).
#![allow(
    unreachable_pub,
    dead_code,
    reason = "included by a test and by a bench, each with its own entry"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use hyperion_primitives::{B256, Mix, keccak256};
use hyperion_store::{BlockInput, CrashPoint, LogHash, Seal, StatePath, Store, StoreConfig, Word};
use hyperion_verify::{
    log::{leaf_hash, node_hash},
    state,
};

/// Rounds that one store lives through before a new one takes its place.
const ROUNDS_PER_STORE: u32 = 16;
/// Longest life of a child.
const LIFE_US_MAX: u64 = 60_000;
const PATHS: u64 = 128;
const SIGKILL: i32 = 9;

/// What the rounds found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub rounds: u64,
    /// Blocks and claims that children acknowledged.
    pub blocks: u64,
    pub claims: u64,
    /// Acknowledged claims that were gone or changed after a reopen.
    pub lost: u64,
    /// Roots, of state or log, that differed from the model.
    pub wrong_roots: u64,
    /// Places that fsck named.
    pub faults: u64,
    /// Blocks that were durable when the kill came before their acknowledgement.
    pub unacknowledged: u64,
    /// Rounds in which the child killed itself at a crash point.
    pub stopped_inside_commit: u64,
}

/// What the child needs to know, as one argument.
#[derive(Clone, Copy, Debug)]
struct Orders {
    /// Seed of the store's blocks.
    store: u64,
    /// Seed of this round's features.
    round: u64,
}

fn config(dir: &Path, round: u64) -> StoreConfig {
    let mut mix = Mix::new(round);
    let mut config = StoreConfig::new(dir, 7, "torture.example/log");
    config.log_map_bytes = 4 << 30;
    config.tail_bytes = 256 << 10;
    config.disk_reserve_bytes = 0;
    config.tail_blocks_max = [0, 3, 40, 256][mix.below(4) as usize];
    config.tail_block_bytes_max = [2 << 10, 64 << 10][mix.below(2) as usize];
    config.threads = 1 + mix.below(2) as usize;
    if mix.below(3) == 0 {
        let point = CrashPoint::ALL[mix.below(CrashPoint::ALL.len() as u64) as usize];
        config.crash.kill_at(point, mix.below(16) as u32);
    }
    config
}

/// The content of a block.
struct Block {
    diff: Vec<(StatePath, Option<Word>)>,
    claims: Vec<Vec<u8>>,
    blobs: Vec<Vec<u8>>,
}

fn block(store: u64, height: u64) -> Block {
    let mut mix = Mix::new(store ^ height.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let claims = match mix.below(50) {
        0 => 1_000 + mix.below(3_097),
        1..5 => 200 + mix.below(100),
        5..15 => 5 + mix.below(56),
        _ => 1 + mix.below(4),
    };
    let claims = (0..claims)
        .map(|_| {
            let mut claim: Vec<u8> = (0..42).flat_map(|_| mix.u64().to_be_bytes()).collect();
            claim[..2].copy_from_slice(&[1, 1]);
            claim
        })
        .collect();
    let diff: BTreeMap<StatePath, Option<Word>> = (0..mix.below(12))
        .map(|_| {
            let path = StatePath(keccak256(mix.below(PATHS).to_be_bytes()));
            (path, (mix.below(4) > 0).then(|| keccak256(mix.u64().to_be_bytes())))
        })
        .collect();
    let blobs = (mix.below(8) == 0).then(|| vec![mix.u64() as u8; 600]).into_iter().collect();
    Block { diff: diff.into_iter().collect(), claims, blobs }
}

fn seal(height: u64) -> Seal {
    Seal { time_ms: height, block_hash: keccak256(height.to_be_bytes()) }
}

/// The child: appends until it is killed.
pub fn child(dir: &Path, orders: &str) {
    let (store, round) = orders.split_once(' ').expect("two seeds");
    let orders =
        Orders { store: store.parse().expect("a seed"), round: round.parse().expect("a seed") };
    let config = config(dir, orders.round);
    let store = if dir.exists() {
        Store::open(&config).expect("a sound store")
    } else {
        Store::create(&config, seal(0), []).expect("a new folder")
    };
    let mut acknowledge = std::io::stderr();
    let overlaps = Mix::new(!orders.round).below(2) == 1;
    let mut next = None;
    loop {
        let height = store.head().height + 1;
        let prepare = |base: &_, height| {
            let block = block(orders.store, height);
            let input =
                BlockInput { diff: &block.diff, claims: &block.claims, blobs: &block.blobs };
            store.prepare_on(base, input).expect("a sound block")
        };
        let prepared = next.take().unwrap_or_else(|| prepare(&store.base(), height));
        if overlaps {
            next = Some(prepare(&prepared.base(), height + 1));
        }
        let head = store.commit(prepared, seal(height)).expect("room on the disk");
        let line = format!("ack {} {} {}\n", head.height, head.log_root, head.state_root);
        acknowledge.write_all(line.as_bytes()).expect("the supervisor listens");
    }
}

/// What the store must hold, kept the slow and obvious way.
struct Model {
    seed: u64,
    height: u64,
    state: BTreeMap<StatePath, Word>,
    size: u64,
    peaks: Vec<LogHash>,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self { seed, height: 0, state: BTreeMap::new(), size: 0, peaks: Vec::new() }
    }

    fn push(&mut self, entry: &[u8]) {
        let mut hash = leaf_hash(entry);
        for _ in 0..self.size.trailing_ones() {
            hash = node_hash(&self.peaks.pop().expect("one for each bit of the size"), &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    fn log_root(&self) -> LogHash {
        let (last, larger) = self.peaks.split_last().expect("a log has its first commit");
        larger.iter().rev().fold(*last, |right, left| node_hash(left, &right))
    }

    /// Follows a block and compares it with what the store says; counts differences.
    fn follow(&mut self, store: &Store, outcome: &mut Outcome) {
        let log = store.log();
        let record = log.record(self.height + 1).expect("a height below the head");
        self.height += 1;
        let block = block(self.seed, self.height);
        for claim in &block.claims {
            outcome.lost += u64::from(log.entry(self.size).ok().as_ref() != Some(claim));
            self.push(claim);
        }
        let commit = record.entry.encode();
        outcome.lost += u64::from(log.entry(self.size).ok().as_deref() != Some(&commit[..]));
        self.push(&commit);
        for (path, word) in block.diff {
            match word {
                Some(word) => self.state.insert(path, word),
                None => self.state.remove(&path),
            };
        }
        let leaves: Vec<_> = self.state.iter().map(|(path, word)| (*path, *word)).collect();
        outcome.wrong_roots += u64::from(record.entry.state_root != state::root_of(&leaves))
            + u64::from(record.log_root_after != self.log_root());
    }
}

/// One block that a child said was durable.
struct Acknowledged {
    height: u64,
    log_root: LogHash,
    state_root: B256,
}

/// Runs the rounds below `dir`; `command` starts this program as a child in a directory with orders.
pub fn run(
    dir: &Path,
    seed: u64,
    rounds: u32,
    command: impl Fn(&Path, &str) -> Command,
) -> Outcome {
    let mut mix = Mix::new(seed);
    let mut outcome = Outcome::default();
    let mut place = PathBuf::new();
    let mut model = Model::new(0);
    for round in 0..rounds {
        if round % ROUNDS_PER_STORE == 0 {
            let _ = fs::remove_dir_all(&place);
            place = dir.join(format!("store-{round}"));
            model = Model::new(mix.u64());
        }
        let orders = Orders { store: model.seed, round: mix.u64() };
        let text = format!("{} {}", orders.store, orders.round);
        let acknowledged =
            live_and_die(command(&place, &text), mix.below(LIFE_US_MAX), &mut outcome);
        // A store that was killed while it was being created is none yet.
        if check(&place, &acknowledged, &mut model, &mut outcome).is_none() {
            assert!(acknowledged.is_empty(), "round {round}: no store, but acknowledged blocks");
            let _ = fs::remove_dir_all(&place);
        }
        outcome.rounds += 1;
    }
    outcome
}

/// Starts a child, kills it after a while, and gives out what it acknowledged.
fn live_and_die(mut command: Command, life_us: u64, outcome: &mut Outcome) -> Vec<Acknowledged> {
    let mut child: Child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("this program again");
    let lines = BufReader::new(child.stderr.take().expect("piped above")).lines();
    let (first, began) = mpsc::channel();
    let (done, ended) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        for line in lines.map_while(Result::ok) {
            read.push(line);
            let _ = first.send(());
        }
        drop(first);
        let _ = done.send(());
        read
    });
    // Half of the lives are counted from the first block on, so that not all of them end while opening.
    if life_us.is_multiple_of(2) {
        let _ = began.recv();
    }
    let killed_itself = ended.recv_timeout(Duration::from_micros(life_us)).is_ok();
    let _ = child.kill();
    let status = child.wait().expect("the child was started");
    let lines = reader.join().expect("a reader of lines");
    assert_eq!(status.signal(), Some(SIGKILL), "the child failed: {}", lines.join("\n"));
    outcome.stopped_inside_commit += u64::from(killed_itself);
    // The last line may be half a line: its block counts as not acknowledged.
    let read = |line: &String| {
        let mut words = line.strip_prefix("ack ")?.split(' ');
        Some(Acknowledged {
            height: words.next()?.parse().ok()?,
            log_root: words.next()?.parse().ok()?,
            state_root: words.next()?.parse().ok()?,
        })
    };
    lines.iter().filter_map(read).collect()
}

/// Reopens the store and compares it with the model; `None` when there is no store.
fn check(
    dir: &Path,
    acknowledged: &[Acknowledged],
    model: &mut Model,
    outcome: &mut Outcome,
) -> Option<()> {
    let config = config(dir, 1);
    let store = match Store::open(&config) {
        Ok(store) => store,
        Err(hyperion_store::StoreError::NoStore) => return None,
        Err(error) => panic!("the store does not open: {error}"),
    };
    if model.size == 0 {
        model.push(&store.log().entry(0).expect("a store has its first commit"));
    }
    let head = store.head();
    let newest = acknowledged.last().map_or(0, |ack| ack.height);
    outcome.blocks += acknowledged.len() as u64;
    for height in model.height + 1..=newest {
        outcome.claims += block(model.seed, height).claims.len() as u64;
        if height > head.height {
            outcome.lost += block(model.seed, height).claims.len() as u64;
        }
    }
    outcome.unacknowledged += head.height.saturating_sub(newest.max(model.height));
    while model.height < head.height {
        model.follow(&store, outcome);
    }
    for ack in acknowledged.iter().filter(|ack| ack.height <= head.height) {
        let record = store.log().record(ack.height).expect("a height below the head");
        outcome.wrong_roots += u64::from(record.log_root_after != ack.log_root)
            + u64::from(record.entry.state_root != ack.state_root);
    }
    drop(store);
    let report = Store::fsck(&config).expect("a store");
    for fault in &report.faults {
        eprintln!("fsck: {fault}");
    }
    outcome.faults += report.faults.len() as u64;
    Some(())
}
