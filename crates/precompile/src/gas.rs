//! What a call costs.
//!
//! One gas is 20 ns of the slowest validator allowed: AVX2, 50 GMAC/s on a core, 50 Mgas/s. Everything is charged from
//! calldata lengths and static counts, before the work it pays for.

use hyperion_verify::manifest::NATIVE_MACS_MAX;
use serde::{Deserialize, Serialize};

/// The gas schedule; consensus data of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GasSchedule {
    /// A call that names no function: 60, as the cheapest function.
    pub unknown: u64,
    /// `infer`, `inferHash`, first stage: 3,000, for reading the model and the dispatch of a run.
    pub infer: u64,
    /// The same stage, per 32 bytes of calldata begun: 3, as Ethereum charges for copying.
    pub infer_word: u64,
    /// Multiply-adds that one gas buys, 1 or more: 1,000, which is 20 ns of 50 GMAC/s.
    pub macs_per_gas: u64,
    /// Elements written by operators that one gas buys, 1 or more: 8; what is no multiply-add was 39 % of a MiniLM run.
    pub elements_per_gas: u64,
    /// Hashing one CT1 tile of 1,024 bytes: 250, keccak at 5 ns a byte.
    pub tile: u64,
    /// `quote`, `model`, `checkpoint`, `lookup`, `lookupOf`, `output`: 2,700, one cold state read.
    pub lookup: u64,
    /// `tensorRoot`, first stage: 60.
    pub tensor_root: u64,
    /// `verifyReceipt`, first stage: 6,000, one signature recovered.
    pub verify_receipt: u64,
    /// Per hash of an inclusion path: 150.
    pub path_node: u64,
    /// Most multiply-adds of one call: 2,000,000,000, 40 ms of one core.
    pub macs_max: u64,
}

impl Default for GasSchedule {
    fn default() -> Self {
        Self {
            unknown: 60,
            infer: 3_000,
            infer_word: 3,
            macs_per_gas: 1_000,
            elements_per_gas: 8,
            tile: 250,
            lookup: 2_700,
            tensor_root: 60,
            verify_receipt: 6_000,
            path_node: 150,
            macs_max: NATIVE_MACS_MAX,
        }
    }
}

impl GasSchedule {
    /// First stage of a run, from the bytes of calldata.
    pub const fn entry(&self, calldata_bytes: u64) -> u64 {
        let words = calldata_bytes.div_ceil(32);
        self.infer.saturating_add(self.infer_word.saturating_mul(words))
    }

    /// Second stage of a run, from its static counts; each term is rounded up.
    ///
    /// # Panics
    ///
    /// When `macs_per_gas` or `elements_per_gas` is 0.
    pub const fn run(&self, macs: u64, elements: u64, tiles: u64) -> u64 {
        macs.div_ceil(self.macs_per_gas)
            .saturating_add(elements.div_ceil(self.elements_per_gas))
            .saturating_add(self.tiles(tiles))
    }

    /// Hashing this many tiles.
    pub const fn tiles(&self, tiles: u64) -> u64 {
        self.tile.saturating_mul(tiles)
    }

    /// Hashing an inclusion path.
    pub const fn path(&self, nodes: u64) -> u64 {
        self.path_node.saturating_mul(nodes)
    }
}
