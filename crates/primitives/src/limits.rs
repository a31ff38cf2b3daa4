//! Bounds that a model must keep to be registered (`docs/exact-inference.md`, "Numbers").

/// Greatest depth of a linear step, padded: no `i8` dot product of this length leaves an `i32`.
///
/// `127^2 * (2^17 - 1) < 2^31`.
pub const DEPTH_MAX: u32 = (1 << 17) - 1;
/// Depths are padded to a multiple of this many codes.
pub const DEPTH_PAD: u32 = 32;
/// Greatest width of a row of activations.
pub const WIDTH_MAX: u32 = 16_384;
/// Greatest width of an attention head.
pub const HEAD_DIM_MAX: u32 = 256;
/// Greatest number of positions one sequence may hold.
pub const CONTEXT_MAX: u32 = 65_536;
/// Greatest number of token ids.
pub const VOCABULARY_MAX: u32 = 262_144;
/// Every activation lies in `[-SAT, SAT]`.
///
/// Two of them add without leaving an `i32`, and `2^32 * SAT` stays inside half the Goldilocks prime.
pub const SAT: i32 = (1 << 30) - 1;
/// Attention weights are quantized per block of this many absolute key positions.
pub const KEY_BLOCK: u32 = 256;

const _: () = assert!(127 * 127 * (DEPTH_MAX as u64) < 1 << 31);

/// The padded depth of a linear step with `k` inputs: the next multiple of [`DEPTH_PAD`].
pub const fn padded_depth(k: u32) -> u32 {
    k.div_ceil(DEPTH_PAD) * DEPTH_PAD
}
