//! Finished claims become blocks: collect, prepare, commit, publish, tell.
//!
//! One thread owns the store's writer. A block is made when claims wait and the interval since the last one is
//! over, or earlier when it is full; without claims there is none. What is told to clients as logged is durable.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hyperion_engine::{Answer, ClaimSink, Clock as _, Engine, Pushback};
use hyperion_primitives::{B256, ClaimDigest, RequestId};
use hyperion_store::{BlockInput, Seal, StoreError};
use hyperion_verify::state::{ClaimWord, StatePath, Word};

use crate::{clock::MachineClock, config::BlockConfig, ledger::Ledger};

/// Milliseconds after which an engine whose claim found no room offers it again.
const RETRY_MS: u64 = 20;

/// Where the engine puts signed claims.
#[derive(Debug)]
pub struct Queue(SyncSender<Arc<Answer>>);

impl ClaimSink for Queue {
    fn offer(&self, answer: Arc<Answer>) -> Result<(), Pushback> {
        self.0.try_send(answer).map_err(|refused| match refused {
            TrySendError::Full(_) => Pushback::LogBehind { retry_ms: RETRY_MS },
            TrySendError::Disconnected(_) => Pushback::Draining,
        })
    }
}

/// A queue of claims and its other end. It holds four blocks' worth.
pub fn queue(config: &BlockConfig) -> (Queue, Receiver<Arc<Answer>>) {
    let (offers, taken) = sync_channel(config.claims_max.saturating_mul(4).max(1));
    (Queue(offers), taken)
}

/// Milliseconds after which an idle producer looks whether it is to stop.
const IDLE_MS: u64 = 50;

/// The producer's thread; told to stop, it ends once everything that was offered is logged.
#[derive(Debug)]
pub struct Producer {
    thread: JoinHandle<Result<(), StoreError>>,
    stop: Arc<AtomicBool>,
}

impl Producer {
    /// Starts the thread. `failed` is called once if the store refuses a block.
    pub fn start(
        config: BlockConfig,
        claims: Receiver<Arc<Answer>>,
        ledger: Arc<Ledger>,
        engine: Engine,
        clock: Arc<MachineClock>,
        failed: impl FnOnce(&StoreError) + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let run = move || {
            let done = run(&config, &claims, &ledger, &engine, &clock, &told);
            if let Err(error) = &done {
                failed(error);
            }
            done
        };
        let thread = thread::Builder::new().name("producer".to_owned()).spawn(run);
        Self { thread: thread.expect("the system gives the program a thread"), stop }
    }

    /// Lets the engine's claims out and waits for the last block.
    ///
    /// # Errors
    ///
    /// What stopped the producer early.
    pub fn stop(self, engine: Engine) -> Result<(), StoreError> {
        self.stop.store(true, Ordering::SeqCst);
        drop(engine);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn run(
    config: &BlockConfig,
    claims: &Receiver<Arc<Answer>>,
    ledger: &Ledger,
    engine: &Engine,
    clock: &MachineClock,
    stop: &AtomicBool,
) -> Result<(), StoreError> {
    let interval_us = config.interval_ms.saturating_mul(1000);
    let mut last_us = clock.now_us().saturating_sub(interval_us);
    loop {
        let first = match claims.recv_timeout(Duration::from_millis(IDLE_MS)) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::SeqCst) => continue,
            Err(_) => return Ok(()),
        };
        let due_us = last_us.saturating_add(interval_us);
        let block = collect(first, claims, config.claims_max, || {
            Duration::from_micros(due_us.saturating_sub(clock.now_us()))
        });
        last_us = clock.now_us();
        let places = commit(&block, ledger, clock)?;
        engine.logged(&places);
    }
}

/// Takes claims until the block is full, its time has come, or nobody will offer any more.
fn collect(
    first: Arc<Answer>,
    claims: &Receiver<Arc<Answer>>,
    claims_max: usize,
    left: impl Fn() -> Duration,
) -> Vec<Arc<Answer>> {
    let mut block = vec![first];
    while block.len() < claims_max {
        match claims.recv_timeout(left()) {
            Ok(next) => block.push(next),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    block
}

/// Makes a block durable and publishes its checkpoint; returns where each claim now stands.
fn commit(
    block: &[Arc<Answer>],
    ledger: &Ledger,
    clock: &MachineClock,
) -> Result<Vec<(RequestId, ClaimDigest, u64)>, StoreError> {
    let store = ledger.store();
    let first_index = store.head().log_size;
    let entries: Vec<Vec<u8>> = block.iter().map(|answer| answer.claim.entry().to_vec()).collect();
    let places: Vec<_> = block
        .iter()
        .zip(first_index..)
        .map(|(answer, index)| (answer.claim.claim.request_id, answer.digest, index))
        .collect();
    let snapshot = store.snapshot();
    let pinned = snapshot.pin()?;
    let diff = words(&places, |path| pinned.get(path).is_some());
    let prepared = store.prepare(BlockInput { diff: &diff, claims: &entries, blobs: &[] })?;
    store.commit(prepared, Seal { time_ms: clock.unix_ms(), block_hash: B256::ZERO })?;
    ledger.publish()?;
    Ok(places)
}

/// State words of a block's claims: each claim's place, and for each request the first claim ever logged for it.
fn words(
    places: &[(RequestId, ClaimDigest, u64)],
    is_known: impl Fn(&StatePath) -> bool,
) -> Vec<(StatePath, Option<Word>)> {
    let mut diff = std::collections::BTreeMap::new();
    for (request, digest, index) in places {
        let claim = StatePath::claim(digest);
        let request = StatePath::request(request);
        if !is_known(&claim) {
            diff.entry(claim).or_insert(Some(ClaimWord::logged(*index, false).word()));
        }
        if !is_known(&request) {
            diff.entry(request).or_insert(Some(digest.0));
        }
    }
    diff.into_iter().collect()
}
