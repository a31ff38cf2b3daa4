//! The claim log as `rpc` reads it: the store, and the key that signs its checkpoints.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use hyperion_primitives::{B256, ClaimDigest, RequestId};
use hyperion_rpc::{
    log::{Checkpoint, LogView, Standing},
    status::{Code, Error},
};
use hyperion_store::{Store, StoreError};
use hyperion_verify::{
    note::{NoteKey, NoteSigner},
    state::{ClaimWord, StatePath},
};
use tokio::sync::watch;

/// A store with the key of its log.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    signer: NoteSigner,
    newest: watch::Sender<Option<Arc<Checkpoint>>>,
    refusals: AtomicU64,
    refusal: Mutex<Option<String>>,
}

impl Ledger {
    /// Publishes what the store holds already.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn new(store: Store, signer: NoteSigner) -> Result<Self, StoreError> {
        let newest = watch::Sender::new(None);
        let (refusals, refusal) = (AtomicU64::new(0), Mutex::new(None));
        let ledger = Self { store, signer, newest, refusals, refusal };
        ledger.publish()?;
        Ok(ledger)
    }

    /// Public key of the log, which readers of receipts are given.
    pub fn key(&self) -> NoteKey {
        self.signer.key().clone()
    }

    /// The store.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Signs and publishes the newest checkpoint; called once its block is durable.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn publish(&self) -> Result<(), StoreError> {
        let checkpoint = self.signed(self.store.head().log_size)?;
        self.newest.send_replace(Some(Arc::new(checkpoint)));
        Ok(())
    }

    /// Notes that the store refused a block which waits and is tried again.
    pub fn refused(&self, why: String) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Notes that the store took a block; whether it refused that block before.
    pub fn accepted(&self) -> bool {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    /// Why the next block waits, if the store refused it.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Blocks refused since the start, tries counted.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// The signature is deterministic, so any earlier checkpoint can be signed again and is the same text.
    fn signed(&self, size: u64) -> Result<Checkpoint, StoreError> {
        let note = self.store.log().checkpoint(size)?.sign(&self.signer);
        Ok(Checkpoint { size, root: note.checkpoint.root, note: note.to_string() })
    }

    fn word(&self, path: &StatePath) -> Result<Option<B256>, Error> {
        let snapshot = self.store.snapshot();
        Ok(snapshot.pin().map_err(refused)?.get(path))
    }
}

impl LogView for Ledger {
    fn checkpoints(&self) -> watch::Receiver<Option<Arc<Checkpoint>>> {
        self.newest.subscribe()
    }

    fn checkpoint(&self, size: u64) -> Result<Checkpoint, Error> {
        self.signed(size).map_err(refused)
    }

    fn entry(&self, index: u64) -> Result<Vec<u8>, Error> {
        self.store.log().entry(index).map_err(refused)
    }

    fn inclusion(&self, index: u64, size: u64) -> Result<Vec<B256>, Error> {
        if index >= size {
            return Err(Error::bad_field(
                "index",
                format!("{index} is not below the size, {size}"),
            ));
        }
        self.store.log().inclusion(index, size).map_err(refused)
    }

    fn consistency(&self, old: u64, new: u64) -> Result<Vec<B256>, Error> {
        if old == 0 || old > new {
            return Err(Error::bad_field("old_size", format!("want 1 to {new}, got {old}")));
        }
        self.store.log().consistency(old, new).map_err(refused)
    }

    fn tile(&self, level: u8, n: u64, width: u16) -> Result<Vec<u8>, Error> {
        self.store.log().tile(level, n, width).map_err(refused)
    }

    fn entries(&self, n: u64, width: u16) -> Result<Vec<u8>, Error> {
        self.store.log().entries(n, width).map_err(refused)
    }

    fn index_of_leaf(&self, leaf: B256) -> Result<Option<u64>, Error> {
        self.store.log().index_of(&leaf).map_err(refused)
    }

    fn claim(&self, claim: ClaimDigest) -> Result<Option<Standing>, Error> {
        let Some(word) = self.word(&StatePath::claim(&claim))? else { return Ok(None) };
        let word = ClaimWord::from_word(&word)
            .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        Ok(Some(Standing { index: word.index, reached: word.reached(), disproved: word.disproved }))
    }

    fn claim_of(&self, request: RequestId) -> Result<Option<ClaimDigest>, Error> {
        Ok(self.word(&StatePath::request(&request))?.map(ClaimDigest))
    }
}

/// What a caller sees of a store that said no.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
fn refused(error: StoreError) -> Error {
    let code = match error {
        StoreError::OutsideLog { .. }
        | StoreError::NotABlockEnd { .. }
        | StoreError::AboveHead { .. }
        | StoreError::SnapshotTooOld { .. } => Code::CheckpointUnknown,
        StoreError::Poisoned { .. } => Code::StorePoisoned,
        _ => Code::Internal,
    };
    Error::new(code, error.to_string())
}
