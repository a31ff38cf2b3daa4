//! The claim log and the state beside it: what a node keeps, durably.
//!
//! The *log* is an append-only RFC 6962 tree of claims and of every block's commit, served in the form that tlog
//! clients read. The *state* is a trie over 32-byte words whose root stands in each commit. The log is the truth,
//! the state is derived from it. `docs/store.md` fixes every byte.
//!
//! Start with [`Store`] and `commit.rs`, which tells a block in order. [`Snapshot`] reads the state, [`LogReader`] the
//! log. `lmdb.rs` is the one file that knows LMDB; behind it stand a file for the newest small blocks (`tail.rs`),
//! what is visible (`view.rs`), opening after a crash (`recover.rs`) and the check of everything (`fsck.rs`).
#![deny(unsafe_code)]

mod block;
mod commit;
mod config;
mod crash;
mod error;
mod fsck;
mod history;
mod key;
mod lmdb;
mod lock;
mod log;
mod mem;
mod page;
mod recover;
mod snapshot;
mod state;
mod stats;
mod store;
mod tail;
mod view;

pub use commit::{BLOB_BYTES_MAX, Base, BlockInput, CLAIMS_MAX, DIFF_ENTRIES_MAX, Prepared, Seal};
pub use config::StoreConfig;
pub use crash::{CrashPlan, CrashPoint};
pub use error::{Result, StoreError};
pub use fsck::{Fault, FsckReport, fsck};
pub use hyperion_verify::{
    log::LogHash,
    state::{StatePath, StateProof, Word},
};
pub use lmdb::{Lmdb, LmdbRead, LmdbWrite};
pub use lock::DirLock;
pub use log::LogReader;
pub use mem::{MemRead, MemStore, MemWrite};
pub use page::{PageStore, ReadTxn, Table, Usage, Visit, WriteTxn};
pub use snapshot::{Pinned, Snapshot};
pub use stats::StoreStats;
pub use store::{Medium, Store};
pub use tail::{FileTail, MemTail, TailDisk};
pub use view::Head;
