//! What the precompiles cost; consensus data, kept in `chain.toml`.
//!
//! Prices follow from lengths and static counts alone, so they are known before any work and equal on every node. The
//! reference is the slowest machine that may validate, at 50 Mgas and 50 G multiply-adds a second and core: 1 gas is
//! 20 ns. Every division rounds up.

use hyperion_verify::manifest::Manifest;
use serde::{Deserialize, Serialize};

/// The constants of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GasSchedule {
    /// `infer`, `inferHash`: before anything is read.
    pub infer_base_gas: u64,
    /// `infer`, `inferHash`: per 32-byte word of calldata.
    pub infer_word_gas: u64,
    /// Multiply-adds for one gas.
    pub macs_per_gas: u64,
    /// Elements written by operators for one gas.
    pub elements_per_gas: u64,
    /// Hashing of one 1,024-byte tile of a tensor.
    pub tile_gas: u64,
    /// One look-up in the state.
    pub lookup_gas: u64,
    /// `tensorRoot`: before the tiles.
    pub root_base_gas: u64,
    /// `verifyReceipt`: signature and checkpoint.
    pub receipt_base_gas: u64,
    /// `verifyReceipt`: per hash of the path.
    pub path_node_gas: u64,
    /// Multiply-adds of one call at most.
    pub macs_max: u64,
}

impl Default for GasSchedule {
    fn default() -> Self {
        Self {
            infer_base_gas: 3_000,
            infer_word_gas: 3,
            macs_per_gas: 1_000,
            elements_per_gas: 8,
            tile_gas: 250,
            lookup_gas: 2_700,
            root_base_gas: 60,
            receipt_base_gas: 6_000,
            path_node_gas: 150,
            macs_max: 2_000_000_000,
        }
    }
}

impl GasSchedule {
    /// First part of `infer`'s price: fixed, and calldata of this many bytes.
    pub const fn infer_calldata(&self, calldata_bytes: u64) -> u64 {
        self.infer_base_gas + self.infer_word_gas * calldata_bytes.div_ceil(32)
    }

    /// Second part of `infer`'s price: the work of a run; `None` when the run does not fit the model.
    pub fn infer_work(&self, manifest: &Manifest, in_tokens: u32, out_tokens: u32) -> Option<u64> {
        let macs = manifest.macs(in_tokens, out_tokens)?.div_ceil(self.macs_per_gas.max(1));
        let elements = manifest.elements(in_tokens, out_tokens)?.div_ceil(self.elements_per_gas.max(1));
        let tiles = manifest.tiles(in_tokens, out_tokens)?.checked_mul(self.tile_gas)?;
        macs.checked_add(elements)?.checked_add(tiles)
    }
}
