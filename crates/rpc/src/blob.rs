//! Large tensors by content: put once in pieces, named by their tensor root from then on.
//!
//! Blobs live in memory for an hour. Room is taken when a blob is announced, by its shape, so a caller learns
//! before the first piece that there is none; whatever ends the call gives the room back.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyperion_engine::Clock;
use hyperion_primitives::{Dtype, TensorHasher, TensorRoot};

use crate::{
    limits::Limits,
    status::{Code, Error},
};

/// A whole tensor: type, shape, and little-endian elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) dtype: Dtype,
    pub(crate) dims: Vec<u64>,
    pub(crate) data: Bytes,
}

/// The blobs that are held, and the room left for more.
pub(crate) struct Blobs {
    held: Mutex<Held>,
    bytes_max: u64,
    blob_bytes_max: u64,
    keep: Duration,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Held {
    blobs: BTreeMap<TensorRoot, (Blob, u64)>, // with the end of its life, in µs
    taken_bytes: u64,                         // of `blobs` and of those under way
}

impl Blobs {
    pub(crate) fn new(limits: &Limits, clock: Arc<dyn Clock>) -> Self {
        Self {
            held: Mutex::default(),
            bytes_max: limits.blobs_bytes_max,
            blob_bytes_max: limits.blob_bytes_max,
            keep: limits.blob_keep,
            clock,
        }
    }

    /// Announces a blob. Its pieces go to [`Upload::push`].
    pub(crate) fn begin(self: &Arc<Self>, dtype: Dtype, dims: &[u64]) -> Result<Upload, Error> {
        let hasher = TensorHasher::new(dtype, dims).ok_or_else(|| {
            Error::bad_field("dims", "a shape is 1 to 8 dimensions, none of them zero")
        })?;
        let size = dims.iter().product::<u64>() * dtype.bytes() as u64; // the hasher checked the product
        if size > self.blob_bytes_max {
            let text = format!("{size} bytes, at most {} are taken", self.blob_bytes_max);
            return Err(Error::at(Code::InputTooLarge, "dims", text));
        }
        let mut held = self.held();
        held.drop_old(self.clock.now_us());
        if held.taken_bytes + size > self.bytes_max {
            let free = self.bytes_max - held.taken_bytes;
            let text = format!("{size} bytes of blob are announced, {free} are free");
            return Err(Error::new(Code::QueueFull, text).retry_after(Duration::from_secs(10)));
        }
        held.taken_bytes += size;
        let room = Room { blobs: Arc::clone(self), bytes: size };
        Ok(Upload { hasher, dtype, dims: dims.to_vec(), data: Vec::new(), size, room })
    }

    /// The blob with this root, if it is still held.
    pub(crate) fn get(&self, root: TensorRoot) -> Option<Blob> {
        let mut held = self.held();
        held.drop_old(self.clock.now_us());
        held.blobs.get(&root).map(|(blob, _)| blob.clone())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held();
        f.debug_struct("Blobs")
            .field("blobs", &held.blobs.len())
            .field("taken_bytes", &held.taken_bytes)
            .finish_non_exhaustive()
    }
}

impl Held {
    fn drop_old(&mut self, now_us: u64) {
        let taken = &mut self.taken_bytes;
        self.blobs.retain(|_, (blob, end_us)| {
            let keep = now_us < *end_us;
            if !keep {
                *taken -= blob.data.len() as u64;
            }
            keep
        });
    }
}

/// Bytes taken out of the common room until dropped or turned into a blob.
struct Room {
    blobs: Arc<Blobs>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.blobs.held().taken_bytes -= self.bytes;
    }
}

/// A blob whose pieces are arriving.
pub(crate) struct Upload {
    hasher: TensorHasher,
    dtype: Dtype,
    dims: Vec<u64>,
    data: Vec<u8>,
    size: u64,
    room: Room,
}

impl Upload {
    /// Appends a piece. Hashes it: about 2 ms for 1 MiB.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        if (self.data.len() + piece.len()) as u64 > self.size {
            let text = format!("the shape says {} bytes, more have come", self.size);
            return Err(Error::bad_field("chunk", text));
        }
        self.hasher.update(piece);
        self.data.extend_from_slice(piece);
        Ok(())
    }

    /// Ends the blob and holds it.
    pub(crate) fn finish(mut self) -> Result<TensorRoot, Error> {
        let got = self.data.len();
        let root = self.hasher.finish().ok_or_else(|| {
            Error::bad_field("chunk", format!("the shape says {} bytes, {got} came", self.size))
        })?;
        let blob = Blob { dtype: self.dtype, dims: self.dims, data: self.data.into() };
        let keep_us = u64::try_from(self.room.blobs.keep.as_micros()).unwrap_or(u64::MAX);
        let end_us = self.room.blobs.clock.now_us().saturating_add(keep_us);
        let mut held = self.room.blobs.held();
        // The same tensor again lives longer and takes no second room.
        if held.blobs.insert(root, (blob, end_us)).is_none() {
            self.room.bytes = 0;
        }
        drop(held);
        Ok(root)
    }
}
