use crate::Usage;

/// Sizes and counts of a store, for the metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// The log's tables.
    pub log: Usage,
    /// Blocks in the tail that the tables do not hold yet.
    pub tail_blocks: u64,
    /// Blocks committed through the tail since open.
    pub tail_commits: u64,
    /// Transactions of the log's tables since open.
    pub log_commits: u64,
    /// Words of the newest state.
    pub leaves: u64,
    /// Heights that `snapshot_at` serves.
    pub snapshot_heights: u64,
    /// The oldest of them.
    pub snapshot_oldest: u64,
    /// Memory that older heights do not share with the newest.
    pub snapshot_bytes: u64,
}
