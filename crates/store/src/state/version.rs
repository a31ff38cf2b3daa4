//! Which version of the state may still be read, and which slots that keeps.
//!
//! ```text
//! V3 --next--> V4 --next--> V5 (head)        an older version holds the one after it, so V4 lives as long as V3;
//!                           ^                when V4 goes, nobody can read V4 or anything older, and the slots
//!                           |base            that V5 replaced are free
//!                           C  (candidate)   a candidate holds what it stands on; abandoned, its own slots are free
//! ```
//!
//! Committing a candidate turns the arrow around: the base gets its `next`, and the candidate lets go of its base.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::arena::{Arena, Link};

/// One version of the state.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) arena: Arc<Arena>,
    pub(super) root: Link,
    pub(super) leaves: u64,
    draft: Mutex<Option<Draft>>,
    next: OnceLock<Next>,
}

/// What a version has while it is a candidate.
#[derive(Debug)]
struct Draft {
    base: Arc<Version>,
    /// Slots that it wrote.
    fresh: Vec<u32>,
    /// Slots of the base that it does not name.
    replaced: Vec<u32>,
}

#[derive(Debug)]
struct Next {
    version: Arc<Version>,
    replaced: Vec<u32>,
}

impl Version {
    /// The version that holds nothing, with slots of its own.
    pub(super) fn empty() -> Self {
        Self {
            arena: Arc::default(),
            root: Link::EMPTY,
            leaves: 0,
            draft: Mutex::default(),
            next: OnceLock::new(),
        }
    }

    /// A candidate that stands on `base`.
    pub(super) fn candidate(
        base: &Arc<Self>,
        root: Link,
        leaves: u64,
        fresh: Vec<u32>,
        replaced: Vec<u32>,
    ) -> Self {
        let draft = Draft { base: Arc::clone(base), fresh, replaced };
        Self {
            arena: Arc::clone(&base.arena),
            root,
            leaves,
            draft: Mutex::new(Some(draft)),
            next: OnceLock::new(),
        }
    }

    /// Makes `next`, a candidate on `base`, its successor.
    ///
    /// # Panics
    ///
    /// When `base` has a successor, or `next` is no candidate on it.
    pub(super) fn succeed(base: &Arc<Self>, next: &Arc<Self>) {
        let draft = next.draft.lock().take().expect("a version is committed once");
        assert!(Arc::ptr_eq(base, &draft.base), "a candidate succeeds the version it stands on");
        let next = Next { version: Arc::clone(next), replaced: draft.replaced };
        base.next.set(next).expect("a version has one successor");
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        if let Some(draft) = self.draft.get_mut().take() {
            self.arena.recycle(&draft.fresh);
        }
        // Step by step: versions may go by the thousand when the oldest reader goes.
        let mut next = self.next.take();
        while let Some(Next { version, replaced }) = next {
            self.arena.recycle(&replaced);
            next = Arc::into_inner(version).and_then(|mut version| version.next.take());
        }
    }
}
