//! What the store's tests share: small stores, drawn blocks, and the plain model they are compared with.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part, and fails there"
)]

use std::collections::BTreeMap;

use hyperion_primitives::{B256, Mix, keccak256};
use hyperion_store::{
    BlockInput, Head, Lmdb, LogHash, Medium, MemStore, MemTail, PageStore, Seal, StatePath, Store,
    StoreConfig, Word,
};
use hyperion_verify::{
    log::{consistency_proof, inclusion_proof, leaf_hash, root_of},
    state,
};

pub const CHAIN: u64 = 133_717;
pub const ORIGIN: &str = "example.org/hyperion/133717";

/// A configuration for small stores: little map, little tail, no reserve.
pub fn config(dir: impl Into<std::path::PathBuf>) -> StoreConfig {
    let mut config = StoreConfig::new(dir, CHAIN, ORIGIN);
    config.log_map_bytes = 256 << 20;
    config.tail_bytes = 64 << 10;
    config.tail_blocks_max = 8;
    config.tail_block_bytes_max = 16 << 10;
    config.disk_reserve_bytes = 0;
    config
}

/// Tables and tail in memory; clones are the same medium, so a second one reopens what the first left.
#[derive(Clone, Debug)]
pub struct Memory {
    pub pages: MemStore,
    pub tail: MemTail,
}

impl Memory {
    pub fn new(config: &StoreConfig) -> Self {
        Self { pages: MemStore::default(), tail: MemTail::new(config.tail_bytes as usize) }
    }

    pub fn medium(&self) -> Medium<MemStore> {
        Medium { pages: self.pages.clone(), tail: Box::new(self.tail.clone()), dir: None }
    }

    pub fn create(&self, config: &StoreConfig) -> Store<MemStore> {
        Store::create_in(self.medium(), config, seal(0), [], &[]).unwrap()
    }

    pub fn open(&self, config: &StoreConfig) -> Store<MemStore> {
        Store::open_in(self.medium(), config).unwrap()
    }
}

pub fn create(config: &StoreConfig) -> Store<Lmdb> {
    Store::create(config, seal(0), []).unwrap()
}

pub fn seal(height: u64) -> Seal {
    Seal { time_ms: 1_767_225_600_000 + height, block_hash: keccak256(height.to_be_bytes()) }
}

pub fn path(n: u64) -> StatePath {
    StatePath(keccak256(n.to_be_bytes()))
}

/// A block's content, owned.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub diff: Vec<(StatePath, Option<Word>)>,
    pub claims: Vec<Vec<u8>>,
    pub blobs: Vec<Vec<u8>>,
}

impl Draft {
    /// Claims of a few lengths; words at paths below `paths`, some removed.
    pub fn drawn(mix: &mut Mix, claims: usize, words: usize, paths: u64) -> Self {
        let claims = (0..claims)
            .map(|_| {
                let len = [2, 336, 337, 4096][mix.below(16).saturating_sub(12) as usize];
                let mut claim: Vec<u8> = (0..len).map(|_| mix.u64() as u8).collect();
                claim[0] = 1;
                claim
            })
            .collect();
        let diff: BTreeMap<StatePath, Option<Word>> = (0..words)
            .map(|_| {
                let word =
                    (mix.below(4) > 0).then(|| Word::from(keccak256(mix.u64().to_be_bytes())));
                (path(mix.below(paths)), word)
            })
            .collect();
        let blobs = (0..mix.below(2)).map(|_| vec![mix.u64() as u8; 40]).collect();
        Self { diff: diff.into_iter().collect(), claims, blobs }
    }

    pub fn input(&self) -> BlockInput<'_> {
        BlockInput { diff: &self.diff, claims: &self.claims, blobs: &self.blobs }
    }

    pub fn commit<P: PageStore>(&self, store: &Store<P>) -> Head {
        let prepared = store.prepare(self.input()).unwrap();
        let seal = seal(prepared.height());
        store.commit(prepared, seal).unwrap()
    }
}

/// The same history, kept the slow and obvious way.
#[derive(Clone, Debug)]
pub struct Model {
    /// Words after each height.
    pub states: Vec<BTreeMap<StatePath, Word>>,
    /// Log size after each height.
    pub sizes: Vec<u64>,
    pub entries: Vec<Vec<u8>>,
    pub blobs: Vec<Vec<u8>>,
}

impl Model {
    /// The model of a new store, whose log holds its first commit.
    pub fn new<P: PageStore>(store: &Store<P>) -> Self {
        let entries = vec![store.log().entry(0).unwrap()];
        Self { states: vec![BTreeMap::new()], sizes: vec![1], entries, blobs: Vec::new() }
    }

    /// Follows a block that `store` has just committed.
    pub fn follow<P: PageStore>(&mut self, draft: &Draft, store: &Store<P>) {
        let mut state = self.states.last().unwrap().clone();
        for (path, word) in &draft.diff {
            match word {
                Some(word) => state.insert(*path, *word),
                None => state.remove(path),
            };
        }
        self.states.push(state);
        self.entries.extend(draft.claims.iter().cloned());
        self.entries.push(store.log().entry(self.entries.len() as u64).unwrap());
        self.sizes.push(self.entries.len() as u64);
        self.blobs.extend(draft.blobs.iter().cloned());
    }

    pub fn height(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub fn state_root(&self, height: u64) -> B256 {
        let leaves: Vec<_> = self.states[height as usize].iter().map(|(p, w)| (*p, *w)).collect();
        state::root_of(&leaves)
    }

    pub fn leaves(&self, size: u64) -> Vec<LogHash> {
        self.entries[..size as usize].iter().map(|entry| leaf_hash(entry)).collect()
    }

    /// Compares everything readable with the model.
    pub fn check<P: PageStore>(&self, store: &Store<P>, mix: &mut Mix) {
        let head = store.head();
        assert_eq!(head.height, self.height());
        assert_eq!(head.log_size, *self.sizes.last().unwrap());
        assert_eq!(head.state_root, self.state_root(head.height), "state root");
        let leaves = self.leaves(head.log_size);
        assert_eq!(head.log_root, root_of(&leaves), "log root");
        self.check_log(store, mix, &leaves);
        self.check_state(store, mix);
    }

    fn check_log<P: PageStore>(&self, store: &Store<P>, mix: &mut Mix, leaves: &[LogHash]) {
        let log = store.log();
        let size = log.size();
        for _ in 0..6 {
            let index = mix.below(size);
            let at = index as usize;
            assert_eq!(log.entry(index).unwrap(), self.entries[at], "entry {index}");
            assert_eq!(log.leaf(index).unwrap(), leaves[at], "leaf {index}");
            let of = index + 1 + mix.below(size - index);
            let want = inclusion_proof(at, &leaves[..of as usize]).unwrap();
            assert_eq!(log.inclusion(index, of).unwrap(), want, "entry {index} in {of}");
            let want = consistency_proof(at, &leaves[..of as usize]).unwrap();
            assert_eq!(log.consistency(index, of).unwrap(), want, "{index} to {of}");
            let (n, width) = (index / 256, (size - index / 256 * 256).min(256));
            let width = 1 + mix.below(width);
            let first = 256 * n as usize;
            let want: Vec<u8> =
                leaves[first..first + width as usize].iter().flat_map(|h| h.0).collect();
            assert_eq!(log.tile(0, n, width as u16).unwrap(), want, "tile {n}, {width}");
            let mut want = Vec::new();
            for entry in &self.entries[first..first + width as usize] {
                want.extend((entry.len() as u16).to_be_bytes());
                want.extend(entry);
            }
            assert_eq!(log.entries(n, width as u16).unwrap(), want, "bundle {n}, {width}");
            let height = self.sizes.partition_point(|after| *after <= index);
            assert_eq!(log.height_of(index).unwrap(), height as u64, "height of {index}");
            let body = log.checkpoint_body(self.sizes[height]).unwrap();
            assert!(body.starts_with(&format!("{ORIGIN}\n{}\n", self.sizes[height])), "{body}");
        }
    }

    fn check_state<P: PageStore>(&self, store: &Store<P>, mix: &mut Mix) {
        let head = store.head();
        for _ in 0..6 {
            let path = path(mix.below(48));
            let height = mix.below(head.height + 1);
            let want = self.states[height as usize].get(&path).copied();
            assert_eq!(store.value_at(height, &path).unwrap(), want, "value at {height}");
            if let Ok(snapshot) = store.snapshot_at(height) {
                let pinned = snapshot.pin().unwrap();
                assert_eq!(pinned.get(&path), want, "snapshot at {height}");
                let proof = pinned.prove(&path).unwrap();
                proof.check(&pinned.head().state_root, &path, want.as_ref()).unwrap();
                assert_eq!(pinned.head().state_root, self.state_root(height));
            }
        }
        let snapshot = store.snapshot();
        let pinned = snapshot.pin().unwrap();
        for blob in &self.blobs {
            assert_eq!(pinned.blob(&keccak256(blob)).unwrap().as_ref(), Some(blob));
        }
        assert_eq!(pinned.blob(&B256::repeat_byte(3)).unwrap(), None);
    }
}
