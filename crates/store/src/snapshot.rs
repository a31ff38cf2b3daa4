//! Readings of one height.
//!
//! A [`Snapshot`] is a height that stays readable for as long as it is held; [`Pinned`] is what reads. In this stage
//! both hold memory only. Keep a `Pinned` for one transaction or one request, never across an `await`: once states
//! are pages on disk it will hold those.

use std::sync::Arc;

use hyperion_primitives::B256;
use hyperion_verify::state::{StatePath, StateProof, Word};

use crate::{Head, Lmdb, PageStore, ReadTxn as _, Result, Table, store::Inner, view::StateView};

/// A consistent reading of one height.
#[derive(Debug)]
pub struct Snapshot<P: PageStore = Lmdb> {
    store: Arc<Inner<P>>,
    state: Arc<StateView>,
}

impl<P: PageStore> Clone for Snapshot<P> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), state: Arc::clone(&self.state) }
    }
}

impl<P: PageStore> Snapshot<P> {
    pub(crate) fn new(store: &Arc<Inner<P>>, state: Arc<StateView>) -> Self {
        Self { store: Arc::clone(store), state }
    }

    /// The height that is read.
    pub fn head(&self) -> &Head {
        &self.state.head
    }

    /// Begins reading.
    ///
    /// # Errors
    ///
    /// None in this stage.
    pub fn pin(&self) -> Result<Pinned<'_, P>> {
        Ok(Pinned { snapshot: self })
    }
}

/// A snapshot being read.
#[derive(Debug)]
pub struct Pinned<'s, P: PageStore = Lmdb> {
    snapshot: &'s Snapshot<P>,
}

impl<P: PageStore> Pinned<'_, P> {
    /// The height that is read.
    pub fn head(&self) -> &Head {
        self.snapshot.head()
    }

    /// The word at a path; `None` when there is none.
    pub fn get(&self, path: &StatePath) -> Option<Word> {
        self.snapshot.state.trie.get(path)
    }

    /// The words at many paths, each in the place of its path.
    ///
    /// # Panics
    ///
    /// When the two slices differ in length.
    pub fn get_many(&self, paths: &[StatePath], out: &mut [Option<Word>]) {
        assert_eq!(paths.len(), out.len(), "one place for each path");
        for (path, out) in paths.iter().zip(out) {
            *out = self.get(path);
        }
    }

    /// The content with this keccak-256, if a block up to the newest one brought it.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub fn blob(&self, hash: &B256) -> Result<Option<Vec<u8>>> {
        let store = &self.snapshot.store;
        let view = store.view();
        let mut pending = view.pending.iter().flat_map(|block| &block.blobs);
        if let Some((_, blob)) = pending.find(|(key, _)| key == hash) {
            return Ok(Some(blob.clone()));
        }
        Ok(store.pages.read()?.get(Table::Blob, hash.as_slice())?.map(<[u8]>::to_vec))
    }

    /// Proves the word at a path, or that there is none, against the height's state root.
    ///
    /// # Errors
    ///
    /// None in this stage.
    pub fn prove(&self, path: &StatePath) -> Result<StateProof> {
        Ok(self.snapshot.state.trie.prove(path))
    }
}
