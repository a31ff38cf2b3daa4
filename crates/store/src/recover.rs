//! Opening: from what is on disk to the newest view, with every root checked.
//!
//! 1. The last commit record in the tables says where they end.
//! 2. The log's edge is rebuilt: level 0 from the entries behind the last run, each level above from the tile roots
//!    below it. Its root must be the record's.
//! 3. The state is the leaves of height 0 and every diff since, each finding the word it says it replaces. Its root
//!    must be the record's.
//! 4. The tail's blocks follow one by one, each chained to the one before and checked the same way.
//!
//! The leaves of height 0 lie in a table of their own, because the diff of height 0 is only a hash and the log's
//! tables are what is backed up. A store without its last write is a store; a store with a wrong root is refused.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use hyperion_primitives::{B256, keccak256};
use hyperion_verify::{
    commit::{CommitEntry, DiffChunk, DiffEntry, diff_hash},
    log::leaf_hash,
    state::{StatePath, Word},
};

use crate::{
    Head, PageStore, ReadTxn, Result, Seal, StoreConfig, StoreError, Table, TailDisk,
    WriteTxn as _,
    block::{self, Block},
    commit::{append, head_of},
    error::hex,
    key,
    log::{
        Edge, Entries, HashSource, Level, RUN_HASHES, TILE_HASHES, TileCache, commit_leaf, peaks,
        read_record, walk,
    },
    state::{Change, Trie},
    store::next_id,
    tail::Tail,
    view::{StateView, View},
};

/// `hyperion-log/1`, padded, then SHA-256 as the log's hash.
const FORMAT: &[u8; 24] = b"hyperion-log/1\0\0\0\0\0\0\0\0\0\0";
/// Leaves in a value of the genesis table, which then fills 16 pages.
const GENESIS_LEAVES_MAX: usize = 1023;
/// Values of the genesis table in one transaction, well below what LMDB keeps dirty at once.
const GENESIS_PARTS_PER_TXN: usize = 1024;

/// Writes height 0 into empty tables.
///
/// # Errors
///
/// `NotEmpty` when there is a height already; `Format` when the leaves do not ascend.
pub(crate) fn write_genesis<P: PageStore>(
    pages: &P,
    config: &StoreConfig,
    seal: Seal,
    genesis: impl IntoIterator<Item = (StatePath, Word)>,
    blobs: &[Vec<u8>],
) -> Result<()> {
    if pages.read()?.last(Table::Block)?.is_some() {
        return Err(StoreError::NotEmpty { dir: config.dir.clone() });
    }
    let changes: Vec<Change> = genesis.into_iter().map(|(path, word)| (path, Some(word))).collect();
    if let Some(pair) = changes.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        return Err(StoreError::Format {
            what: "order of genesis leaves",
            got: format!("{} before {}", hex(pair[0].0.0.as_slice()), hex(pair[1].0.0.as_slice())),
            expected: "strictly ascending paths".to_owned(),
        });
    }
    let mut parts = (0..).zip(changes.chunks(GENESIS_LEAVES_MAX)).peekable();
    while parts.peek().is_some() {
        let mut txn = pages.write()?;
        for (part, leaves) in parts.by_ref().take(GENESIS_PARTS_PER_TXN) {
            let bytes: Vec<u8> = leaves
                .iter()
                .flat_map(|(path, word)| [path.0, word.unwrap_or_default()])
                .flat_map(|word| word.0)
                .collect();
            txn.put(Table::Genesis, &key::genesis(part), &bytes)?;
        }
        txn.commit()?;
    }
    let trie = Trie::from_leaves(&changes, config.threads);
    let diff: Vec<DiffEntry> =
        changes.iter().map(|&(path, new)| DiffEntry { path, old: None, new }).collect();
    let entry = CommitEntry {
        chain_id: config.chain_id,
        time_ms: seal.time_ms,
        block_hash: seal.block_hash,
        diff_entries: diff.len() as u64,
        state_root: trie.root(),
        diff_hash: diff_hash(&diff),
        ..CommitEntry::default()
    };
    let mut edge = Edge::default();
    let record = append(&mut edge, &[], entry);
    let mut entries = Entries::default();
    entries.push(&entry.encode());
    // The diff itself is the genesis table.
    let blobs = blobs.iter().map(|blob| (keccak256(blob), blob.clone())).collect();
    let block = Block { record, entries, diff: Vec::new(), blobs };
    let mut txn = pages.write()?;
    txn.put(Table::Meta, b"format", &format(config.chain_id))?;
    txn.put(Table::Meta, b"origin", config.origin.as_bytes())?;
    block::write(&mut txn, &[Arc::new(block)], &edge)?;
    txn.commit()
}

fn format(chain_id: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..24].copy_from_slice(FORMAT);
    bytes[24..].copy_from_slice(&chain_id.to_be_bytes());
    bytes
}

/// The newest view, and the tail behind it.
///
/// # Errors
///
/// As for [`Store::open`](crate::Store::open).
pub(crate) fn recover<P: PageStore>(
    pages: &P,
    tail: Box<dyn TailDisk>,
    config: &StoreConfig,
) -> Result<(View, Tail)> {
    let read = pages.read()?;
    let height = stored_height(&read)?.ok_or(StoreError::NoStore)?;
    check_meta(&read, config)?;
    let record = read_record(&read, height)?;
    let edge = read_edge(&read, record.size_after)?;
    require_root("log", height, edge.root(), record.log_root_after)?;
    let trie = read_state(&read, height, config.threads)?;
    require_root("state", height, trie.root(), record.entry.state_root)?;
    let (tail, blocks) = Tail::open(tail, height)?;
    let head = Head { commit_leaf: commit_leaf(&record), ..head_of(&record) };
    let mut newest = (head, trie, edge);
    let mut pending = Vec::with_capacity(blocks.len());
    for block in blocks {
        newest = follow(newest, &block, config)?;
        pending.push(Arc::new(block));
    }
    let (head, trie, edge) = newest;
    let state = Arc::new(StateView { head, trie, retired_bytes: 0 });
    Ok((View { id: next_id(), state, edge, pending: Arc::new(pending) }, tail))
}

/// Applies a block of the tail as its commit did.
fn follow(
    (head, trie, mut edge): (Head, Trie, Edge),
    block: &Block,
    config: &StoreConfig,
) -> Result<(Head, Trie, Edge)> {
    let entry = block.record.entry;
    let broken = |what: String| StoreError::Corrupt {
        table: "tail",
        key: format!("height {}", entry.height),
        what,
    };
    if entry.parent != head.commit_leaf
        || entry.first_index != head.log_size
        || entry.chain_id != config.chain_id
    {
        return Err(broken("the block does not follow the one before it".to_owned()));
    }
    if diff_hash(&block.diff) != entry.diff_hash {
        return Err(broken("the changes are not those that were committed".to_owned()));
    }
    let changes: Vec<Change> = block.diff.iter().map(|entry| (entry.path, entry.new)).collect();
    let updated = trie.update(&changes, config.threads);
    trie.succeed(&updated.trie);
    let stray = block.diff.iter().zip(&updated.replaced).find(|(entry, old)| entry.old != **old);
    if let Some((entry, _)) = stray {
        return Err(broken(format!("path {} held another word", hex(entry.path.0.as_slice()))));
    }
    require_root("state", entry.height, updated.trie.root(), entry.state_root)?;
    let mut leaves = block.entries.leaf_hashes();
    leaves.pop();
    let record = append(&mut edge, &leaves, entry);
    require_root("log", entry.height, record.log_root_after, block.record.log_root_after)?;
    Ok((head_of(&record), updated.trie, edge))
}

/// The newest height in the tables.
pub(crate) fn stored_height(read: &impl ReadTxn) -> Result<Option<u64>> {
    let Some((key, _)) = read.last(Table::Block)? else { return Ok(None) };
    let (height, _) = key::read_block(key)
        .ok_or_else(|| StoreError::corrupt("block", key, "a key of this table has 12 bytes"))?;
    Ok(Some(height))
}

/// Refuses tables of another format, chain or log.
pub(crate) fn check_meta(read: &impl ReadTxn, config: &StoreConfig) -> Result<()> {
    let value = |name: &str| -> Result<Vec<u8>> {
        let found = read.get(Table::Meta, name.as_bytes())?;
        found
            .map(<[u8]>::to_vec)
            .ok_or_else(|| StoreError::corrupt("meta", name.as_bytes(), "the value is missing"))
    };
    let got = value("format")?;
    let expected = format(config.chain_id);
    if got[..24.min(got.len())] != expected[..24] {
        return Err(StoreError::Format {
            what: "format",
            got: hex(&got),
            expected: hex(&expected),
        });
    }
    if got[24..] != expected[24..] {
        let chain = key::read_number(&got[24..]).map_or_else(|| hex(&got), |id| id.to_string());
        let expected = config.chain_id.to_string();
        return Err(StoreError::Format { what: "chain id", got: chain, expected });
    }
    let origin = value("origin")?;
    if origin != config.origin.as_bytes() {
        let got = String::from_utf8_lossy(&origin).into_owned();
        return Err(StoreError::Format { what: "origin", got, expected: config.origin.clone() });
    }
    Ok(())
}

/// Rebuilds the log's end at a size that ends a block.
pub(crate) fn read_edge(read: &impl ReadTxn, size: u64) -> Result<Edge> {
    let mut levels = vec![read_level_0(read, size)?];
    while let Some(below) = levels.last() {
        let count = below.count() / TILE_HASHES;
        if count == 0 {
            break;
        }
        let l = levels.len() as u8;
        let mut level = Level::from(count - count % RUN_HASHES);
        for tile in level.base()..count {
            level.push(tile_root(read, l - 1, below, tile)?);
        }
        levels.push(level);
    }
    // The peaks are nodes of the tree whose levels are known now.
    let inconsistent =
        || StoreError::corrupt("leaf", &key::number(size), "the levels do not fit together");
    let cache = TileCache::default();
    let source = HashSource { levels: &levels, read, cache: &cache };
    let peaks = peaks(size, &mut |height, n| source.node(height, n))?;
    Edge::new(size, levels, peaks).ok_or_else(inconsistent)
}

/// Level 0 from the entries behind the last run.
fn read_level_0(read: &impl ReadTxn, size: u64) -> Result<Level> {
    let mut level = Level::from(size - size % RUN_HASHES);
    let mut damage = None;
    read.scan(Table::Leaf, &key::number(level.base()), &mut |at, bundle| {
        if level.count() >= size {
            damage = Some(StoreError::corrupt("leaf", at, "entries behind the last commit"));
            return ControlFlow::Break(());
        }
        if key::read_number(at) != Some(level.count()) {
            damage = Some(StoreError::corrupt("leaf", at, "the bundle is not the next one"));
            return ControlFlow::Break(());
        }
        for entry in walk(bundle) {
            match entry {
                Ok(entry) => level.push(leaf_hash(entry)),
                Err(what) => {
                    damage = Some(StoreError::corrupt("leaf", at, what));
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some(damage) = damage {
        return Err(damage);
    }
    if level.count() != size {
        let what = format!("{} entries, the last commit counts {size}", level.count());
        return Err(StoreError::corrupt("leaf", &key::number(level.count()), what));
    }
    Ok(level)
}

/// Root of a full tile, from its run or from the hashes still held.
fn tile_root(read: &impl ReadTxn, level: u8, held: &Level, tile: u64) -> Result<B256> {
    if let Some(hashes) = held.tile(tile) {
        return Ok(hyperion_verify::log::root_of(hashes));
    }
    let run_tiles = RUN_HASHES / TILE_HASHES;
    let key = key::run(level, tile / run_tiles);
    let run = read.get(Table::Run, &key)?;
    let at = (RUN_HASHES + tile % run_tiles) as usize;
    run.and_then(|run| key::hash_at(run, at))
        .ok_or_else(|| StoreError::corrupt("run", &key, "the run is missing or short"))
}

/// The state at a stored height: the leaves of height 0, then every diff.
fn read_state(read: &impl ReadTxn, height: u64, threads: usize) -> Result<Trie> {
    let leaves = read_genesis(read)?;
    let trie = Trie::from_leaves(&leaves, threads);
    let genesis = read_record(read, 0)?;
    require_root("state", 0, trie.root(), genesis.entry.state_root)?;
    // Hashing once at the end is enough: the words are what the diffs chain, and the last root covers them all.
    let mut words: BTreeMap<StatePath, Option<Word>> = BTreeMap::new();
    scan_diffs(read, 1, height, &mut |at, chunk| {
        for entry in &chunk.entries {
            let old = words.get(&entry.path).copied().unwrap_or_else(|| trie.get(&entry.path));
            if old != entry.old {
                let what = format!("path {} held another word", hex(entry.path.0.as_slice()));
                return Err(StoreError::corrupt("block", at, what));
            }
            words.insert(entry.path, entry.new);
        }
        Ok(())
    })?;
    let changes: Vec<Change> = words.into_iter().collect();
    let newest = trie.update(&changes, threads).trie;
    trie.succeed(&newest);
    Ok(newest)
}

/// The leaves of height 0, in path order.
pub(crate) fn read_genesis(read: &impl ReadTxn) -> Result<Vec<Change>> {
    let mut leaves: Vec<Change> = Vec::new();
    let mut damage = None;
    read.scan(Table::Genesis, &[], &mut |at, bytes| {
        let before = leaves.len();
        leaves.extend(bytes.chunks_exact(64).map(|leaf| {
            (StatePath(B256::from_slice(&leaf[..32])), Some(Word::from_slice(&leaf[32..])))
        }));
        let ascend = leaves[before.saturating_sub(1)..].is_sorted_by(|a, b| a.0 < b.0);
        if bytes.len() % 64 != 0 || !ascend {
            damage = Some(StoreError::corrupt("genesis", at, "no leaves in path order"));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    damage.map_or(Ok(leaves), Err)
}

/// Visits the diff chunks of heights `from` to `to`, in order, with their keys.
///
/// # Errors
///
/// `Corrupt` when a chunk is no chunk, or not the one its key says; and what `visit` returns.
pub(crate) fn scan_diffs(
    read: &impl ReadTxn,
    from: u64,
    to: u64,
    visit: &mut dyn FnMut(&[u8], DiffChunk) -> Result<()>,
) -> Result<()> {
    let mut damage = Ok(());
    read.scan(Table::Block, &key::block(from, 1), &mut |at, bytes| {
        let result = match key::read_block(at) {
            Some((height, _)) if height > to => return ControlFlow::Break(()),
            Some((_, 0)) => return ControlFlow::Continue(()),
            place => read_chunk(at, place, bytes).and_then(|chunk| visit(at, chunk)),
        };
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                damage = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    damage
}

fn read_chunk(at: &[u8], place: Option<(u64, u32)>, bytes: &[u8]) -> Result<DiffChunk> {
    let chunk = DiffChunk::decode(bytes)
        .map_err(|error| StoreError::corrupt("block", at, error.to_string()))?;
    if place != Some((chunk.height, chunk.part)) {
        return Err(StoreError::corrupt(
            "block",
            at,
            "the chunk belongs to another height or part",
        ));
    }
    Ok(chunk)
}

fn require_root(what: &'static str, height: u64, got: B256, expected: B256) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(StoreError::RootMismatch {
        what,
        height,
        got: got.to_string(),
        expected: expected.to_string(),
    })
}
