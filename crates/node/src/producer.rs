//! Finished claims and signed transactions become blocks: collect, execute, prepare, commit, publish, tell.
//!
//! One thread owns the store's writer. A block is made when there is work and the interval since the last one is over,
//! or earlier when it is full; without work there is none. What is told to clients as logged, or to the sender of a
//! transaction as done, is durable. While the disk is too full for a block, the block waits and is tried again; what
//! comes meanwhile fills the queue, and then the engine pushes new work back.

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
use hyperion_executor::{SkipReason, TxOutcome};
use hyperion_primitives::{ClaimDigest, RequestId};
use hyperion_store::{BlockInput, Seal, StoreError};
use hyperion_verify::{
    SignedClaim,
    state::{ClaimWord, StatePath, Word},
};

use crate::{
    chain::{Chain, Executed, Mined, Pending, Transactions, TxRefused},
    clock::MachineClock,
    config::BlockConfig,
    ledger::Ledger,
};

/// Milliseconds after which an engine whose claim found no room offers it again.
const RETRY_MS: u64 = 20;

/// What a block is made of.
#[derive(Debug)]
pub enum Work {
    /// A finished claim.
    Claim(Arc<Answer>),
    /// A signed transaction.
    Tx(Box<Pending>),
}

/// Where the engine puts signed claims.
#[derive(Debug)]
pub struct Queue(SyncSender<Work>);

impl ClaimSink for Queue {
    fn offer(&self, answer: Arc<Answer>) -> Result<(), Pushback> {
        self.0.try_send(Work::Claim(answer)).map_err(|refused| match refused {
            TrySendError::Full(_) => Pushback::LogBehind { retry_ms: RETRY_MS },
            TrySendError::Disconnected(_) => Pushback::Draining,
        })
    }
}

impl Queue {
    /// Another end of the same queue, for claims that the engine does not make.
    pub fn claims(&self) -> Self {
        Self(self.0.clone())
    }

    /// Another end of the same queue, for transactions.
    pub fn transactions(&self, block_gas_max: u64) -> Transactions {
        Transactions::new(self.0.clone(), block_gas_max)
    }
}

/// A queue of work and its other end. It holds four blocks' worth.
pub fn queue(config: &BlockConfig) -> (Queue, Receiver<Work>) {
    let (offers, taken) = sync_channel(config.claims_max.saturating_mul(4).max(1));
    (Queue(offers), taken)
}

/// Milliseconds after which an idle producer looks whether it is to stop.
const IDLE_MS: u64 = 50;

/// How long a block waits after the disk was too full for it: at first, and at most; it doubles in between.
const DISK_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The producer's thread; told to stop, it ends once everything that was offered is logged.
#[derive(Debug)]
pub struct Producer {
    thread: JoinHandle<Result<(), StoreError>>,
    stop: Arc<AtomicBool>,
}

/// What a producer works with.
#[derive(Debug)]
pub struct Parts {
    /// When blocks are made.
    pub config: BlockConfig,
    /// What they are made of.
    pub work: Receiver<Work>,
    /// Where they go.
    pub ledger: Arc<Ledger>,
    /// How their transactions are executed.
    pub chain: Chain,
    /// Who answers their calls, and is told what was logged.
    pub engine: Engine,
    /// The time.
    pub clock: Arc<MachineClock>,
}

impl Producer {
    /// Starts the thread. `failed` is called once if the store refuses a block for good.
    pub fn start(parts: Parts, failed: impl FnOnce(&StoreError) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let run = move || {
            let done = run(&parts, &told);
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
        self.thread.thread().unpark();
        drop(engine);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn run(parts: &Parts, stop: &AtomicBool) -> Result<(), StoreError> {
    let Parts { config, work, clock, .. } = parts;
    let interval_us = config.interval_ms.saturating_mul(1000);
    let mut last_us = clock.now_us().saturating_sub(interval_us);
    let mut block = Block::default();
    loop {
        if block.is_empty() {
            match work.recv_timeout(Duration::from_millis(IDLE_MS)) {
                Ok(first) => block.add(first),
                Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::SeqCst) => continue,
                Err(_) => return Ok(()),
            }
        }
        let due_us = last_us.saturating_add(interval_us);
        block.fill(work, config.claims_max, || {
            Duration::from_micros(due_us.saturating_sub(clock.now_us()))
        });
        last_us = clock.now_us();
        settle(parts, &mut block, stop)?;
    }
}

/// Makes a block durable, however long the disk is too full for it; told to stop, it tries once more.
fn settle(parts: &Parts, block: &mut Block, stop: &AtomicBool) -> Result<(), StoreError> {
    let (mut wait, wait_max) = DISK_WAIT;
    while let Err(error) = block.commit(parts) {
        // The store left everything as it was, and the block is still here. A full map stays full until it is reopened.
        let may_pass = matches!(error, StoreError::DiskLow { .. } | StoreError::DiskFull);
        if !may_pass || stop.load(Ordering::SeqCst) {
            return Err(error);
        }
        if parts.ledger.refusal().is_none() {
            tracing::error!(%error, "the next block waits for free disk space");
        }
        parts.ledger.refused(error.to_string());
        thread::park_timeout(wait);
        wait = wait.saturating_mul(2).min(wait_max);
    }
    if parts.ledger.accepted() {
        tracing::info!("blocks are made again");
    }
    Ok(())
}

/// A block in the making.
#[derive(Debug, Default)]
struct Block {
    claims: Vec<Arc<Answer>>,
    txs: Vec<Pending>,
}

impl Block {
    const fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.txs.is_empty()
    }

    fn add(&mut self, work: Work) {
        match work {
            Work::Claim(answer) => self.claims.push(answer),
            Work::Tx(pending) => self.txs.push(*pending),
        }
    }

    /// Takes work until the block is full, its time has come, or nobody will offer any more.
    fn fill(&mut self, work: &Receiver<Work>, most: usize, left: impl Fn() -> Duration) {
        while self.claims.len() + self.txs.len() < most {
            match work.recv_timeout(left()) {
                Ok(next) => self.add(next),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
    }

    /// Makes the block durable and publishes its checkpoint; what did not fit into it stays for the next. After an error
    /// all of it is still there.
    fn commit(&mut self, parts: &Parts) -> Result<(), StoreError> {
        let Parts { ledger, chain, engine, clock, .. } = parts;
        let store = ledger.store();
        let head = store.head();
        // The chain's time never goes back, whatever the machine's clock does.
        let parent_ms = store.log().record(head.height)?.entry.time_ms;
        let time_ms = clock.unix_ms().max(parent_ms);
        let time_s = time_ms / 1000;

        let Self { claims, txs } = self;
        let executed = match chain.execute(store, engine, txs, time_s) {
            Ok(executed) => executed,
            Err(error) => {
                tracing::error!(%error, transactions = txs.len(), "a block goes on without its transactions");
                for pending in txs.drain(..) {
                    tell(&pending, Err(error.clone()));
                }
                Executed::default()
            }
        };
        let entries: Vec<Vec<u8>> =
            claims.iter().map(|answer| answer.claim.entry().to_vec()).collect();
        let places: Vec<_> = claims
            .iter()
            .zip(head.log_size..)
            .map(|(answer, index)| (answer.claim.claim.request_id, answer.digest, index))
            .collect();
        let snapshot = store.snapshot();
        let pinned = snapshot.pin()?;
        let signed = claims.iter().map(|answer| &answer.claim);
        let mut diff = words(signed.zip(&places), |path| pinned.get(path).is_some());
        diff.extend(executed.words.diff.iter().copied());
        diff.sort_by_key(|(path, _)| *path);
        let blobs = &executed.words.blobs;
        let prepared = store.prepare(BlockInput { diff: &diff, claims: &entries, blobs })?;
        let height = prepared.height();
        let block_hash = chain.hash(store, &executed, prepared.state_root(), height, time_s)?;
        store.commit(prepared, Seal { time_ms, block_hash })?;
        ledger.publish()?;
        engine.logged(&places);

        claims.clear();
        let mut rest = Vec::new();
        let mut aside = 0_usize;
        for (pending, outcome) in txs.drain(..).zip(executed.outcomes) {
            match outcome {
                TxOutcome::Skipped(SkipReason::BlockGas) => rest.push(pending),
                TxOutcome::SetAside { model, lost } => {
                    aside += 1;
                    tell(&pending, Err(TxRefused::Unanswered { model, why: lost.why }));
                }
                outcome => {
                    let hash = pending.tx.hash;
                    tell(&pending, Ok(Mined { height, hash, outcome }));
                }
            }
        }
        *txs = rest;
        if aside > 0 {
            tracing::warn!(aside, height, "transactions need models that give no answer here");
        }
        Ok(())
    }
}

/// Tells a sender; one who has gone does not hear it.
fn tell(pending: &Pending, end: Result<Mined, TxRefused>) {
    let _ = pending.tell.try_send(end);
}

/// State words of a block's claims: each claim's place, and for each request the first claim ever logged for it.
fn words<'a>(
    claims: impl Iterator<Item = (&'a SignedClaim, &'a (RequestId, ClaimDigest, u64))>,
    is_known: impl Fn(&StatePath) -> bool,
) -> Vec<(StatePath, Option<Word>)> {
    let mut diff = std::collections::BTreeMap::new();
    for (signed, (request, digest, index)) in claims {
        let claim = StatePath::claim(digest);
        let request = StatePath::request(request);
        if !is_known(&claim) {
            diff.entry(claim).or_insert(Some(ClaimWord::of(signed, *index).word()));
        }
        if !is_known(&request) {
            diff.entry(request).or_insert(Some(digest.0));
        }
    }
    diff.into_iter().collect()
}
