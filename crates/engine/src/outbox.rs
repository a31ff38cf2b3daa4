//! Signed claims between the engine and the log's producer.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{Answer, ClaimSink};

/// Offers claims in the order of signing and keeps those that the sink has no room for.
///
/// The sink is the only foreign code that runs under a lock of the engine's: that is why
/// [`offer`](ClaimSink::offer) must neither block nor call the engine.
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    waiting: AtomicU64,
}

struct Inner {
    /// `None` once closed.
    sink: Option<Box<dyn ClaimSink>>,
    kept: VecDeque<Arc<Answer>>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl Outbox {
    pub(crate) fn new(sink: Box<dyn ClaimSink>) -> Self {
        Self {
            inner: Mutex::new(Inner { sink: Some(sink), kept: VecDeque::new() }),
            waiting: AtomicU64::new(0),
        }
    }

    pub(crate) fn offer(&self, answer: Arc<Answer>) {
        let mut inner = self.inner.lock();
        inner.kept.push_back(answer);
        self.offer_kept(&mut inner);
    }

    /// Offers again what the sink had no room for.
    pub(crate) fn flush(&self) {
        if self.waiting() > 0 {
            self.offer_kept(&mut self.inner.lock());
        }
    }

    fn offer_kept(&self, inner: &mut Inner) {
        let Inner { sink, kept } = inner;
        let Some(sink) = sink else { return };
        while let Some(answer) = kept.front() {
            if sink.offer(Arc::clone(answer)).is_err() {
                break;
            }
            kept.pop_front();
        }
        self.waiting.store(kept.len() as u64, Ordering::Relaxed);
    }

    /// Drops the sink, so that whoever is at its other end knows that no claim comes any more.
    pub(crate) fn close(&self) {
        let sink = self.inner.lock().sink.take();
        drop(sink);
    }

    /// Claims that the sink has not taken yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}
