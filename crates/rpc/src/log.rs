//! The claim log for everybody: checkpoints, proofs, entries.
//!
//! [`LogView`] is what this crate reads; the node implements it over its store. `LogService` is the gRPC form of
//! it, and `http.rs` serves the same bytes as C2SP tiles.

use std::sync::Arc;

use bytes::Bytes;
use hyperion_primitives::{B256, ClaimDigest, RequestId};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    auth::Area,
    convert::digest,
    deadline::{self, Deadline},
    door::Door,
    r#gen::v1,
    status::{Code, Error},
};

/// A published checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The signed note: the authoritative form.
    pub note: String,
    /// Entries it covers.
    pub size: u64,
    /// Root of the log over them.
    pub root: B256,
}

/// Where a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its entry in the log.
    pub index: u64,
    /// The highest tier reached: 1, 2, 4 or 5; 0 where the result is attested only.
    pub reached: u8,
    /// Whether a dispute or a proof found it wrong.
    pub disproved: bool,
}

/// The claim log as this crate reads it.
///
/// Every method answers from durable data in logarithmic time, but for the first [`index_of_leaf`](Self::index_of_leaf).
/// Errors are the caller's to see: `checkpoint_unknown`, `claim_not_found`, `bad_field`, `store_poisoned`, `internal`.
pub trait LogView: Send + Sync + 'static {
    /// The newest published checkpoint, now and whenever it changes; `None` before the first.
    fn checkpoints(&self) -> watch::Receiver<Option<Arc<Checkpoint>>>;

    /// The checkpoint of exactly `size` entries.
    ///
    /// # Errors
    ///
    /// `checkpoint_unknown` when no block ended there.
    fn checkpoint(&self, size: u64) -> Result<Checkpoint, Error>;

    /// Entry `index`.
    ///
    /// # Errors
    ///
    /// `checkpoint_unknown` when the log is not that long.
    fn entry(&self, index: u64) -> Result<Vec<u8>, Error>;

    /// Path from entry `index` to the root over `size` entries (RFC 6962, `PATH`), leaf side first.
    ///
    /// # Errors
    ///
    /// `checkpoint_unknown` when `size` exceeds the log, `bad_field` when `index` is not below `size`.
    fn inclusion(&self, index: u64, size: u64) -> Result<Vec<B256>, Error>;

    /// Proof that the first `old` of `new` entries have not changed (RFC 6962, `PROOF`).
    ///
    /// # Errors
    ///
    /// `checkpoint_unknown` when `new` exceeds the log, `bad_field` when `old` is 0 or exceeds `new`.
    fn consistency(&self, old: u64, new: u64) -> Result<Vec<B256>, Error>;

    /// `width` hashes from number `256 n` of `level` on, 32 bytes each.
    ///
    /// # Errors
    ///
    /// `checkpoint_unknown` when the tile is not, or not as far, filled.
    fn tile(&self, level: u8, n: u64, width: u16) -> Result<Vec<u8>, Error>;

    /// `width` entries from number `256 n` on, each behind its length as a big-endian u16.
    ///
    /// # Errors
    ///
    /// `checkpoint_unknown` when there are not so many.
    fn entries(&self, n: u64, width: u16) -> Result<Vec<u8>, Error>;

    /// The first entry with this leaf hash; the first call may read the whole lowest level, later ones may not.
    ///
    /// # Errors
    ///
    /// When the store is poisoned.
    fn index_of_leaf(&self, leaf: B256) -> Result<Option<u64>, Error>;

    /// Where a claim stands; `None` while it is not logged.
    ///
    /// # Errors
    ///
    /// When the store is poisoned.
    fn claim(&self, claim: ClaimDigest) -> Result<Option<Standing>, Error>;

    /// The first claim logged for a request.
    ///
    /// # Errors
    ///
    /// When the store is poisoned.
    fn claim_of(&self, request: RequestId) -> Result<Option<ClaimDigest>, Error>;
}

/// The newest checkpoint of at least `size` entries, waiting for it if need be.
pub(crate) async fn checkpoint_of_at_least(
    log: &dyn LogView,
    size: u64,
) -> Result<Arc<Checkpoint>, Error> {
    let mut newest = log.checkpoints();
    let covers = |checkpoint: &Option<Arc<Checkpoint>>| {
        checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.size >= size)
    };
    let seen = newest.wait_for(covers).await.map_err(|_| draining())?;
    Ok(Arc::clone(seen.as_ref().expect("the condition holds for a checkpoint only")))
}

/// The newest checkpoint now.
pub(crate) fn newest_checkpoint(log: &dyn LogView) -> Result<Arc<Checkpoint>, Error> {
    log.checkpoints()
        .borrow()
        .clone()
        .ok_or_else(|| Error::new(Code::CheckpointUnknown, "nothing has been published yet"))
}

/// Runs a read of the log that may touch many pages on a thread that may wait for them.
pub(crate) async fn read_many<T: Send + 'static>(
    log: &Arc<dyn LogView>,
    read: impl FnOnce(&dyn LogView) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let log = Arc::clone(log);
    tokio::task::spawn_blocking(move || read(&*log))
        .await
        .unwrap_or_else(|_| Err(Error::new(Code::Internal, "reading the log failed")))
}

pub(crate) fn wire_checkpoint(checkpoint: &Checkpoint) -> v1::Checkpoint {
    v1::Checkpoint {
        note: checkpoint.note.clone(),
        size: checkpoint.size,
        root: Bytes::copy_from_slice(checkpoint.root.as_slice()),
    }
}

pub(crate) fn wire_path(path: &[B256]) -> Vec<Bytes> {
    path.iter().map(|hash| Bytes::copy_from_slice(hash.as_slice())).collect()
}

fn draining() -> Error {
    Error::new(Code::Draining, "the node is shutting down")
}

/// `hyperion.v1.LogService`.
#[derive(Clone, Debug)]
pub(crate) struct LogService {
    door: Arc<Door>,
}

/// Most entries of one `GetLeaves`.
const LEAVES_MAX: u32 = 256;

impl LogService {
    pub(crate) const fn new(door: Arc<Door>) -> Self {
        Self { door }
    }

    async fn checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<v1::Checkpoint, Error> {
        self.door.admit(&request, Area::Log)?;
        let deadline = Deadline::of(&request, self.door.limits.unary_deadline);
        let size = request.get_ref().size_min;
        let log = &*self.door.log;
        let checkpoint = match size {
            0 => newest_checkpoint(log)?,
            _ => deadline.race(checkpoint_of_at_least(log, size)).await?,
        };
        Ok(wire_checkpoint(&checkpoint))
    }

    async fn inclusion(
        &self,
        request: Request<v1::GetInclusionProofRequest>,
    ) -> Result<v1::GetInclusionProofResponse, Error> {
        use v1::get_inclusion_proof_request::Leaf;
        self.door.admit(&request, Area::Log)?;
        let asked = request.into_inner();
        let log = &self.door.log;
        let size = match asked.size {
            0 => newest_checkpoint(&**log)?.size,
            size => size,
        };
        let unknown = || Error::new(Code::ClaimNotFound, "the log has no such entry");
        let index = match asked.leaf {
            None => {
                return Err(Error::bad_field(
                    "leaf",
                    "give an index, a leaf hash or a claim digest",
                ));
            }
            Some(Leaf::Index(index)) => index,
            Some(Leaf::ClaimDigest(bytes)) => {
                let claim = ClaimDigest(digest("claim_digest", &bytes)?);
                log.claim(claim)?.ok_or_else(unknown)?.index
            }
            Some(Leaf::LeafHash(bytes)) => {
                let leaf = digest("leaf_hash", &bytes)?;
                read_many(log, move |log| log.index_of_leaf(leaf)).await?.ok_or_else(unknown)?
            }
        };
        let path = wire_path(&log.inclusion(index, size)?);
        Ok(v1::GetInclusionProofResponse { index, size, path })
    }

    async fn leaves(
        &self,
        request: Request<v1::GetLeavesRequest>,
    ) -> Result<v1::GetLeavesResponse, Error> {
        self.door.admit(&request, Area::Log)?;
        let v1::GetLeavesRequest { start, count } = request.into_inner();
        if !(1..=LEAVES_MAX).contains(&count) {
            return Err(Error::bad_field("count", format!("{count} is not 1 to {LEAVES_MAX}")));
        }
        let size = newest_checkpoint(&*self.door.log)?.size;
        let end = start.saturating_add(u64::from(count)).min(size);
        if start >= end {
            return Err(Error::at(
                Code::CheckpointUnknown,
                "start",
                format!("the log has {size} entries"),
            ));
        }
        let read = move |log: &dyn LogView| {
            (start..end).map(|index| log.entry(index).map(Bytes::from)).collect()
        };
        Ok(v1::GetLeavesResponse { leaves: read_many(&self.door.log, read).await? })
    }
}

#[tonic::async_trait]
impl v1::log_service_server::LogService for LogService {
    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        let checkpoint = Some(self.checkpoint(request).await?);
        Ok(Response::new(v1::GetCheckpointResponse { checkpoint }))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<v1::GetInclusionProofRequest>,
    ) -> Result<Response<v1::GetInclusionProofResponse>, Status> {
        Ok(Response::new(self.inclusion(request).await?))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Status> {
        self.door.admit(&request, Area::Log)?;
        let v1::GetConsistencyProofRequest { old_size, new_size } = request.into_inner();
        let path = wire_path(&self.door.log.consistency(old_size, new_size)?);
        Ok(Response::new(v1::GetConsistencyProofResponse { path }))
    }

    async fn get_leaves(
        &self,
        request: Request<v1::GetLeavesRequest>,
    ) -> Result<Response<v1::GetLeavesResponse>, Status> {
        Ok(Response::new(self.leaves(request).await?))
    }

    type WatchCheckpointsStream = ReceiverStream<Result<v1::WatchCheckpointsResponse, Status>>;

    /// Every checkpoint from the newest on, until the caller's own deadline or the node's end.
    async fn watch_checkpoints(
        &self,
        request: Request<v1::WatchCheckpointsRequest>,
    ) -> Result<Response<Self::WatchCheckpointsStream>, Status> {
        self.door.admit(&request, Area::Log)?;
        let deadline = Deadline::own(&request);
        let mut newest = self.door.log.checkpoints();
        let end = self.door.shutdown.stop.clone();
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            newest.mark_changed();
            let over = loop {
                tokio::select! {
                    () = send.closed() => return,
                    () = end.cancelled() => break draining(),
                    () = deadline::passes(deadline) => break deadline::passed(),
                    changed = newest.changed() => if changed.is_err() { break draining() },
                }
                let checkpoint = newest.borrow_and_update().as_deref().map(wire_checkpoint);
                if checkpoint.is_some() {
                    let seen = v1::WatchCheckpointsResponse { checkpoint };
                    if send.send(Ok(seen)).await.is_err() {
                        return;
                    }
                }
            };
            drop(send.send(Err(over.into())).await);
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}
