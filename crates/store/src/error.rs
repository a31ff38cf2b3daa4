//! Everything the store can refuse, sorted by whose move it is.
//!
//! A caller's mistake names the limit it broke; damage names table and key; a fault of the disk says what to
//! do next. After [`StoreError::Poisoned`] every write fails and views keep serving the last published height.

use std::path::{Path, PathBuf};

use crate::crash::CrashPoint;

/// The store's result.
pub type Result<T, E = StoreError> = core::result::Result<T, E>;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    // The caller's move.
    /// Another handle, in this process or another, has the directory open.
    #[error("{} is open already; a store has one owner at a time", dir.display())]
    AlreadyOpen {
        /// The store's directory.
        dir: PathBuf,
    },
    /// `create` found files where the store should go.
    #[error("{} is not empty; `create` needs an empty directory", dir.display())]
    NotEmpty {
        /// The store's directory.
        dir: PathBuf,
    },
    /// `open` found no committed height.
    #[error("no store here: height 0 was never committed; remove what is left and create it again")]
    NoStore,
    /// The store was made by another version, or for another chain.
    #[error("the store's {what} is {got}, this node expects {expected}")]
    Format {
        /// Which property differs.
        what: &'static str,
        /// The value on disk.
        got: String,
        /// The value asked for.
        expected: String,
    },
    /// Another candidate was committed since this one was prepared; prepare it again.
    #[error(
        "the block was prepared on another block than the head at height {head}; prepare it again"
    )]
    StalePrepared {
        /// The head's height.
        head: u64,
    },
    /// A block exceeds a bound of the format.
    #[error("{what}: {got}, at most {max}")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// The size given.
        got: u64,
        /// The bound.
        max: u64,
    },
    /// An entry that the log does not take.
    #[error("claim {position} of the block: {what}")]
    BadEntry {
        /// Place in the block, from 0.
        position: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two words for one path in one block.
    #[error("path {path} occurs twice in one block")]
    DuplicatePath {
        /// The path, in hexadecimal.
        path: String,
    },
    /// The height left the window that `snapshot_at` serves.
    #[error("height {height} is not held; the oldest snapshot is {oldest}")]
    SnapshotTooOld {
        /// The height asked for.
        height: u64,
        /// The oldest height held.
        oldest: u64,
    },
    /// The height is not committed yet.
    #[error("height {height} is above the head at {head}")]
    AboveHead {
        /// The height asked for.
        height: u64,
        /// The head's height.
        head: u64,
    },
    /// The index, tile or size lies beyond the log.
    #[error("{what} {index} is outside a log of {size} entries")]
    OutsideLog {
        /// What was asked for.
        what: &'static str,
        /// Which one.
        index: u64,
        /// Entries in the log.
        size: u64,
    },
    /// Checkpoints exist for sizes that end a block only.
    #[error("no block ends at size {size}, so there is no checkpoint of it")]
    NotABlockEnd {
        /// The size asked for.
        size: u64,
    },
    /// A note that does not speak of this log at this size.
    #[error("note for size {size}: {what}")]
    BadNote {
        /// The size the note was offered for.
        size: u64,
        /// What is wrong with it.
        what: String,
    },

    // The operator's move.
    /// The memory map is full; everything committed is intact.
    #[error(
        "table `{table}` does not fit into the map of {map_bytes} bytes; reopen with a larger map_bytes"
    )]
    MapFull {
        /// The table that was written.
        table: &'static str,
        /// The map's size.
        map_bytes: u64,
    },
    /// The disk is full; nothing was changed and the block may be tried again.
    #[error("the disk is full; free some space and try the block again")]
    DiskFull,
    /// Less is free than the reserve; refused before anything was written.
    #[error(
        "{free_bytes} bytes are free, the reserve is {reserve_bytes}; free some space or lower disk_reserve_bytes"
    )]
    DiskLow {
        /// Bytes free for this user.
        free_bytes: u64,
        /// The configured reserve.
        reserve_bytes: u64,
    },
    /// A write failed in a way after which the kernel's page cache cannot be trusted.
    #[error(
        "the store refuses writes since {cause}; restart to recover, nothing acknowledged is lost"
    )]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// The operating system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// LMDB refused in a way that has no name of its own here.
    #[error("LMDB, {doing}: {cause}")]
    Lmdb {
        /// What was being done.
        doing: &'static str,
        /// LMDB's answer.
        cause: String,
    },

    // Damage.
    /// Bytes on disk contradict themselves; `fsck` lists every such place.
    #[error("table `{table}`, key {key}: {what}")]
    Corrupt {
        /// The table, or `tail`.
        table: &'static str,
        /// The key in hexadecimal, or a place in words.
        key: String,
        /// What contradicts what.
        what: String,
    },
    /// The state or log rebuilt at open is not the one that was committed.
    #[error("{what} root at height {height} is {got}, committed was {expected}")]
    RootMismatch {
        /// `state` or `log`.
        what: &'static str,
        /// The height checked.
        height: u64,
        /// The root that was rebuilt.
        got: String,
        /// The root in the commit record.
        expected: String,
    },
    /// The diff of a height is gone.
    #[error("the state difference of height {height} is missing")]
    DiffMissing {
        /// The height.
        height: u64,
    },

    // A test's move.
    /// A [`CrashPlan`](crate::CrashPlan) asked to stop here.
    #[error("stopped at {0:?}, as the crash plan asked")]
    Stopped(CrashPoint),
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    pub(crate) fn corrupt(table: &'static str, key: &[u8], what: impl Into<String>) -> Self {
        Self::Corrupt { table, key: hex(key), what: what.into() }
    }
}

/// Lower-case hexadecimal, for messages.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
