//! A claim log in memory, by the slow definitions of `hyperion_verify`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use hyperion_engine::{Answer, Engine};
use hyperion_primitives::{B256, ClaimDigest, RequestId};
use hyperion_rpc::{
    log::{Checkpoint, LogView, Standing},
    status::{Code, Error},
};
use hyperion_verify::{
    KeyKind, NoteKey, NoteSigner,
    log::{consistency_proof, inclusion_proof, leaf_hash, node_hash, root_of},
};
use tokio::sync::watch;

/// Name of the log.
pub(crate) const ORIGIN: &str = "example.org/test";

fn signer() -> NoteSigner {
    NoteSigner::new(ORIGIN, KeyKind::Log, &[9; 32]).unwrap()
}

/// The key that its checkpoints are checked with.
pub(crate) fn log_key() -> NoteKey {
    signer().key().clone()
}

/// The log.
pub(crate) struct Ledger {
    inner: Mutex<Inner>,
    newest: watch::Sender<Option<Arc<Checkpoint>>>,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Vec<u8>>,
    leaves: Vec<B256>,
    claims: BTreeMap<ClaimDigest, Standing>,
    requests: BTreeMap<RequestId, ClaimDigest>,
    checkpoints: BTreeMap<u64, Checkpoint>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::default(), newest: watch::Sender::new(None) }
    }

    /// Appends the claims and an entry that ends the block, publishes, and tells the engine.
    pub(crate) fn log(&self, engine: &Engine, answers: &[Arc<Answer>]) {
        let mut places = Vec::new();
        {
            let mut inner = self.inner.lock().unwrap();
            for answer in answers {
                let index = inner.append(answer.claim.entry().to_vec());
                let standing = Standing { index, reached: 1, disproved: false };
                let id = answer.claim.claim.request_id;
                inner.claims.insert(answer.digest, standing);
                inner.requests.entry(id).or_insert(answer.digest);
                places.push((id, answer.digest, index));
            }
            inner.append(b"\x02\x01 the end of a block".to_vec());
        }
        self.publish();
        engine.logged(&places);
    }

    /// Moves a claim to a tier.
    pub(crate) fn reach(&self, claim: ClaimDigest, tier: u8) {
        self.inner.lock().unwrap().claims.get_mut(&claim).unwrap().reached = tier;
    }

    /// Marks a claim as wrong.
    pub(crate) fn disprove(&self, claim: ClaimDigest) {
        self.inner.lock().unwrap().claims.get_mut(&claim).unwrap().disproved = true;
    }

    /// Ends a block without claims.
    pub(crate) fn tick(&self) {
        self.inner.lock().unwrap().append(b"\x02\x01 the end of a block".to_vec());
        self.publish();
    }

    fn publish(&self) {
        let mut inner = self.inner.lock().unwrap();
        let size = inner.leaves.len() as u64;
        let root = root_of(&inner.leaves);
        let body = hyperion_verify::Checkpoint { origin: ORIGIN.into(), size, root };
        let checkpoint = Checkpoint { note: body.sign(&signer()).to_string(), size, root };
        inner.checkpoints.insert(size, checkpoint.clone());
        drop(inner);
        self.newest.send_replace(Some(Arc::new(checkpoint)));
    }

    fn read<T>(&self, read: impl FnOnce(&Inner) -> Option<T>) -> Result<T, Error> {
        read(&self.inner.lock().unwrap())
            .ok_or_else(|| Error::new(Code::CheckpointUnknown, "the log is not that long"))
    }
}

impl Inner {
    fn append(&mut self, entry: Vec<u8>) -> u64 {
        self.leaves.push(leaf_hash(&entry));
        self.entries.push(entry);
        self.leaves.len() as u64 - 1
    }

    fn first(&self, size: u64) -> Option<&[B256]> {
        self.leaves.get(..usize::try_from(size).ok()?)
    }
}

impl LogView for Ledger {
    fn checkpoints(&self) -> watch::Receiver<Option<Arc<Checkpoint>>> {
        self.newest.subscribe()
    }

    fn checkpoint(&self, size: u64) -> Result<Checkpoint, Error> {
        self.read(|inner| inner.checkpoints.get(&size).cloned())
    }

    fn entry(&self, index: u64) -> Result<Vec<u8>, Error> {
        self.read(|inner| inner.entries.get(usize::try_from(index).ok()?).cloned())
    }

    fn inclusion(&self, index: u64, size: u64) -> Result<Vec<B256>, Error> {
        if index >= size {
            return Err(Error::bad_field("index", format!("{index} is not below {size}")));
        }
        self.read(|inner| inclusion_proof(usize::try_from(index).ok()?, inner.first(size)?))
    }

    fn consistency(&self, old: u64, new: u64) -> Result<Vec<B256>, Error> {
        if old == 0 || old > new {
            return Err(Error::bad_field("old_size", format!("{old} is not 1 to {new}")));
        }
        self.read(|inner| consistency_proof(usize::try_from(old).ok()?, inner.first(new)?))
    }

    fn tile(&self, level: u8, n: u64, width: u16) -> Result<Vec<u8>, Error> {
        self.read(|inner| {
            let mut hashes = inner.leaves.clone();
            for _ in 0..8 * u32::from(level) {
                hashes = hashes.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
            }
            let start = usize::try_from(n).ok()?.checked_mul(256)?;
            let tile = hashes.get(start..start.checked_add(width.into())?)?;
            Some(tile.iter().flat_map(|hash| hash.0).collect())
        })
    }

    fn entries(&self, n: u64, width: u16) -> Result<Vec<u8>, Error> {
        self.read(|inner| {
            let start = usize::try_from(n).ok()?.checked_mul(256)?;
            let entries = inner.entries.get(start..start.checked_add(width.into())?)?;
            let framed = |entry: &Vec<u8>| {
                let length = u16::try_from(entry.len()).unwrap().to_be_bytes();
                length.into_iter().chain(entry.clone()).collect::<Vec<_>>()
            };
            Some(entries.iter().flat_map(framed).collect())
        })
    }

    fn index_of_leaf(&self, leaf: B256) -> Result<Option<u64>, Error> {
        self.read(|inner| {
            Some(inner.leaves.iter().position(|have| *have == leaf).map(|i| i as u64))
        })
    }

    fn claim(&self, claim: ClaimDigest) -> Result<Option<Standing>, Error> {
        self.read(|inner| Some(inner.claims.get(&claim).copied()))
    }

    fn claim_of(&self, request: RequestId) -> Result<Option<ClaimDigest>, Error> {
        self.read(|inner| Some(inner.requests.get(&request).copied()))
    }
}
