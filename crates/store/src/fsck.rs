//! Checks a closed store from its entries and leaves up, and names every place that is wrong.
//!
//! Nothing that can be derived is believed: runs are rebuilt from entries, roots from hashes, records from commit
//! entries, the state from genesis and diffs with its root compared at every height.

use std::{fmt, ops::ControlFlow};

use hyperion_primitives::{B256, keccak256, sha256};
use hyperion_verify::{
    commit::{COMMIT_KIND, CommitRecord, DIFF_ENTRY_BYTES},
    log::{LogHash, leaf_hash},
};

use crate::{
    Medium, PageStore, ReadTxn, Result, StoreConfig, StoreError, Table,
    error::hex,
    key,
    log::{Edge, read_note, read_record, walk},
    recover::{check_meta, read_genesis, recover, scan_diffs, stored_height},
    state::{Change, Trie},
};

/// One place that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The table, or `tail`.
    pub table: &'static str,
    /// The key in hexadecimal.
    pub key: String,
    /// What contradicts what.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table `{}`, key {}: {}", self.table, self.key, self.what)
    }
}

/// What was checked, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Blocks in the tables, genesis included.
    pub blocks: u64,
    /// Entries in the tables.
    pub entries: u64,
    /// Runs compared with their entries.
    pub runs: u64,
    /// Words of the newest stored state.
    pub leaves: u64,
    /// Blobs compared with their hash.
    pub blobs: u64,
    /// Signed checkpoints compared with the log.
    pub notes: u64,
    /// Blocks in the tail that the tables do not hold.
    pub tail_blocks: u64,
    /// Every place that is wrong, in the order found; empty when the store is sound.
    pub faults: Vec<Fault>,
}

impl FsckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, table: Table, key: &[u8], what: impl Into<String>) {
        self.faults.push(Fault { table: table.name(), key: hex(key), what: what.into() });
    }
}

/// As [`Store::fsck`](crate::Store::fsck), on tables and a tail that are open already.
///
/// # Errors
///
/// As for `Store::fsck`.
pub fn fsck<P: PageStore>(medium: Medium<P>, config: &StoreConfig) -> Result<FsckReport> {
    let mut report = FsckReport::default();
    let read = medium.pages.read()?;
    let Some(height) = stored_height(&read)? else { return Err(StoreError::NoStore) };
    check_meta(&read, config)?;
    let records = check_records(&read, height, config, &mut report)?;
    check_log(&read, &records, &mut report)?;
    check_state(&read, &records, &mut report)?;
    check_blobs(&read, &mut report)?;
    check_notes(&read, &records, config, &mut report)?;
    drop(read);
    // Opening checks the tail against what precedes it, and the short way to the roots besides.
    match recover(&medium.pages, medium.tail, config) {
        Ok((view, _)) => report.tail_blocks = view.pending.len() as u64,
        Err(StoreError::Corrupt { table, key, what }) => {
            report.faults.push(Fault { table, key, what });
        }
        Err(error) => report.faults.push(Fault {
            table: "tail",
            key: format!("after height {height}"),
            what: error.to_string(),
        }),
    }
    Ok(report)
}

/// The records of all heights, chained; a height whose record cannot be read is missing at the end.
fn check_records(
    read: &impl ReadTxn,
    height: u64,
    config: &StoreConfig,
    report: &mut FsckReport,
) -> Result<Vec<CommitRecord>> {
    let mut records: Vec<CommitRecord> = Vec::new();
    for at in 0..=height {
        let record = match read_record(read, at) {
            Ok(record) => record,
            Err(StoreError::Corrupt { table, key, what }) => {
                report.faults.push(Fault { table, key, what });
                break;
            }
            Err(error) => return Err(error),
        };
        let entry = record.entry;
        let (parent, first_index) = records.last().map_or((B256::ZERO, 0), |before| {
            (leaf_hash(&before.entry.encode()), before.size_after)
        });
        let key = key::block(at, 0);
        for (holds, what) in [
            (entry.height == at, "the record is of another height"),
            (entry.chain_id == config.chain_id, "the record is of another chain"),
            (entry.parent == parent, "the parent is not the commit before"),
            (
                entry.first_index == first_index,
                "the block does not begin where the one before ends",
            ),
        ] {
            if !holds {
                report.fault(Table::Block, &key, what);
            }
        }
        records.push(record);
    }
    report.blocks = records.len() as u64;
    Ok(records)
}

/// Entries in order, the commit entries among them, the log's root after each block, and every run.
fn check_log(read: &impl ReadTxn, records: &[CommitRecord], report: &mut FsckReport) -> Result<()> {
    let mut edge = Edge::default();
    let mut blocks = records.iter();
    let mut block = blocks.next();
    let mut runs = 0;
    let mut failed = Ok(());
    read.scan(Table::Leaf, &[], &mut |at, bundle| {
        let index = edge.size();
        if key::read_number(at) != Some(index) {
            report.fault(Table::Leaf, at, format!("entry {index} should begin here"));
            return ControlFlow::Break(());
        }
        let mut entries = 0;
        for entry in walk(bundle) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(what) => {
                    report.fault(Table::Leaf, at, what);
                    return ControlFlow::Break(());
                }
            };
            entries += 1;
            edge.push(leaf_hash(entry));
            let ends_block = block.is_some_and(|record| record.size_after == edge.size());
            if !ends_block && entry[0] == COMMIT_KIND {
                let what =
                    format!("entry {} ends a block where no record says so", edge.size() - 1);
                report.fault(Table::Leaf, at, what);
            }
            if ends_block && let Some(record) = block {
                check_block_end(at, entry, &edge, record, report);
                block = blocks.next();
            }
        }
        if index % 256 + entries > 256 {
            report.fault(Table::Leaf, at, "the bundle crosses a multiple of 256");
        }
        match check_runs(read, &edge, report) {
            Ok(checked) => runs += checked,
            Err(error) => {
                failed = Err(error);
                return ControlFlow::Break(());
            }
        }
        edge.drop_finished_runs();
        ControlFlow::Continue(())
    })?;
    failed?;
    report.entries = edge.size();
    report.runs = runs;
    let want = records.last().map_or(0, |record| record.size_after);
    if edge.size() != want {
        let what = format!("{} sound entries, the records count {want}", edge.size());
        report.fault(Table::Leaf, &key::number(edge.size()), what);
    }
    let mut stored = 0;
    read.scan(Table::Run, &[], &mut |_, _| {
        stored += 1;
        ControlFlow::Continue(())
    })?;
    if stored != runs {
        report.fault(Table::Run, &[], format!("{stored} runs, the entries make {runs}"));
    }
    Ok(())
}

fn check_block_end(
    at: &[u8],
    entry: &[u8],
    edge: &Edge,
    record: &CommitRecord,
    report: &mut FsckReport,
) {
    if entry != record.entry.encode() {
        let what = format!("entry {} is not the commit of its record", edge.size() - 1);
        report.fault(Table::Leaf, at, what);
    }
    if edge.root() != record.log_root_after {
        let what = format!("the log's root is {}, not {}", edge.root(), record.log_root_after);
        report.fault(Table::Block, &key::block(record.entry.height, 0), what);
    }
}

/// Compares the runs that just came to their end with the stored ones.
fn check_runs(read: &impl ReadTxn, edge: &Edge, report: &mut FsckReport) -> Result<u64> {
    let mut checked = 0;
    for (level, n, want) in edge.finished_runs() {
        let key = key::run(level, n);
        match read.get(Table::Run, &key)? {
            Some(run) if run == want => {}
            Some(_) => report.fault(Table::Run, &key, "the run is not that of its entries"),
            None => report.fault(Table::Run, &key, "the run is missing"),
        }
        checked += 1;
    }
    Ok(checked)
}

/// Genesis leaves, then every diff against the words it replaces, its hash and the root after it.
fn check_state(
    read: &impl ReadTxn,
    records: &[CommitRecord],
    report: &mut FsckReport,
) -> Result<()> {
    let Some((genesis, later)) = records.split_first() else { return Ok(()) };
    let leaves = match read_genesis(read) {
        Ok(leaves) => leaves,
        Err(StoreError::Corrupt { table, key, what }) => {
            report.faults.push(Fault { table, key, what });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut trie = Trie::from_leaves(&leaves, 1);
    if trie.root() != genesis.entry.state_root {
        let what = format!("root {}, committed was {}", trie.root(), genesis.entry.state_root);
        report.fault(Table::Genesis, &[], what);
    }
    for record in later {
        let entry = record.entry;
        let key = key::block(entry.height, 0);
        let (mut changes, mut olds, mut bytes) = (Vec::<Change>::new(), Vec::new(), Vec::new());
        let mut part = 0;
        let scanned = scan_diffs(read, entry.height, entry.height, &mut |at, chunk| {
            part += 1;
            if chunk.part != part {
                return Err(StoreError::corrupt("block", at, format!("part {part} is missing")));
            }
            for entry in &chunk.entries {
                changes.push((entry.path, entry.new));
                olds.push(entry.old);
                bytes.extend_from_slice(&entry.encode());
            }
            Ok(())
        });
        match scanned {
            Ok(()) => {}
            Err(StoreError::Corrupt { table, key, what }) => {
                report.faults.push(Fault { table, key, what });
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if entry.diff_entries != (bytes.len() / DIFF_ENTRY_BYTES) as u64
            || entry.diff_hash != sha256(&bytes)
            || !changes.is_sorted_by(|a, b| a.0 < b.0)
        {
            report.fault(Table::Block, &key, "the diff is not the one committed");
            return Ok(());
        }
        let updated = trie.update(&changes, 1);
        trie.succeed(&updated.trie);
        if updated.replaced != olds {
            report.fault(Table::Block, &key, "the diff replaces words that were not there");
        }
        if updated.trie.root() != entry.state_root {
            let what = format!("state root {}, not {}", updated.trie.root(), entry.state_root);
            report.fault(Table::Block, &key, what);
            return Ok(());
        }
        trie = updated.trie;
    }
    report.leaves = trie.leaves();
    Ok(())
}

fn check_blobs(read: &impl ReadTxn, report: &mut FsckReport) -> Result<()> {
    read.scan(Table::Blob, &[], &mut |at, blob| {
        report.blobs += 1;
        if keccak256(blob).as_slice() != at {
            report.fault(Table::Blob, at, "the content has another hash");
        }
        ControlFlow::Continue(())
    })
}

fn check_notes(
    read: &impl ReadTxn,
    records: &[CommitRecord],
    config: &StoreConfig,
    report: &mut FsckReport,
) -> Result<()> {
    let root_at = |size: u64| -> Option<LogHash> {
        let at = records.binary_search_by(|record| record.size_after.cmp(&size)).ok()?;
        Some(records[at].log_root_after)
    };
    let stored = records.last().map_or(0, |record| record.size_after);
    read.scan(Table::Note, &[], &mut |at, text| {
        report.notes += 1;
        let size = key::read_number(at);
        let note = match read_note(at, text) {
            Ok(note) => note,
            Err(error) => {
                report.fault(Table::Note, at, error.to_string());
                return ControlFlow::Continue(());
            }
        };
        let checkpoint = &note.checkpoint;
        if Some(checkpoint.size) != size || checkpoint.origin != config.origin {
            report.fault(Table::Note, at, "the note is of another size or log");
        } else if checkpoint.size <= stored && root_at(checkpoint.size) != Some(checkpoint.root) {
            report.fault(Table::Note, at, "the note's root is not the log's");
        }
        if let Some(key) = &config.log_key
            && let Err(error) = note.verify(key)
        {
            report.fault(Table::Note, at, error.to_string());
        }
        ControlFlow::Continue(())
    })
}
