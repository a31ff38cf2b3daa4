//! Rotary positions: pairs of columns turn by an angle that grows with the absolute position.
//!
//! ```text
//! phase = position * freq_j mod 2^64                     freq_j: turns per position, in units of 2^-64
//! a = (phase + 2^47) >> 48 mod 2^16;  i = a & 0x3fff
//! quadrant a >> 14:  (cos, sin) = (S[2^14 - i],  S[i]), (-S[i],  S[2^14 - i]),
//!                                 (-S[2^14 - i], -S[i]), ( S[i], -S[2^14 - i])              Q14
//! x0' = sat(rshr(x0 * cos - x1 * sin, 14));  x1' = sat(rshr(x0 * sin + x1 * cos, 14))
//! ```
//!
//! The frequencies stand in the model file ([`crate::constant::rope_frequency`] makes them), so no power
//! and no pi is ever taken at run time and the error does not grow with the position.

use hyperion_primitives::limits::{HEAD_DIM_MAX, WIDTH_MAX};

use crate::{
    round::{rshr, sat},
    table::SIN,
};

/// Which two columns of a head turn together, for `j` below `rot / 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// `j` and `j + rot / 2`, as safetensors checkpoints have it.
    Half,
    /// `2j` and `2j + 1`, as llama-architecture GGUF files have it.
    Adjacent,
}

impl Pairing {
    /// The number that a program names it by.
    pub const fn code(self) -> u8 {
        match self {
            Self::Half => 0,
            Self::Adjacent => 1,
        }
    }

    /// The pairing with this code; `None` for a number that names none.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Half),
            1 => Some(Self::Adjacent),
            _ => None,
        }
    }
}

/// Heads and pairing of a rotary step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RopeShape {
    /// Heads of a row.
    pub heads: u32,
    /// Columns of a head.
    pub head_dim: u32,
    /// Columns of a head that turn, even; the rest pass unchanged.
    pub rot: u32,
    /// Which columns turn together.
    pub pairing: Pairing,
}

impl RopeShape {
    /// `None` when a size is 0, `rot` is odd or above `head_dim`, a head is wider than [`HEAD_DIM_MAX`] or
    /// a row wider than [`WIDTH_MAX`].
    pub fn new(heads: u32, head_dim: u32, rot: u32, pairing: Pairing) -> Option<Self> {
        let head = (1..=HEAD_DIM_MAX).contains(&head_dim);
        let row = heads > 0 && heads <= WIDTH_MAX && heads * head_dim.min(WIDTH_MAX) <= WIDTH_MAX;
        let turns = rot >= 2 && rot.is_multiple_of(2) && rot <= head_dim;
        (head && row && turns).then_some(Self { heads, head_dim, rot, pairing })
    }

    /// The two columns of a head that pair `j`, below `rot / 2`, turns.
    pub const fn pair(self, j: u32) -> (u32, u32) {
        match self.pairing {
            Pairing::Half => (j, j + self.rot / 2),
            Pairing::Adjacent => (2 * j, 2 * j + 1),
        }
    }
}

/// Cosine and sine of `position * frequency` turns, Q14.
pub fn cos_sin(frequency: u64, position: u32) -> (i16, i16) {
    // Turns are counted modulo one, so both operations wrap.
    let phase = u64::from(position).wrapping_mul(frequency);
    let angle = phase.wrapping_add(1 << 47) >> 48;
    let place = usize::try_from(angle & 0x3fff).expect("14 bits");
    let entry = |at: usize| i16::try_from(SIN[at]).expect("a sine is 2^14 at most");
    let (sin, cos) = (entry(place), entry((1 << 14) - place));
    match angle >> 14 {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

/// Turns one pair of elements by an angle given as [`cos_sin`].
pub fn turn((x0, x1): (i32, i32), (cos, sin): (i16, i16)) -> (i32, i32) {
    let (x0, x1) = (i64::from(x0), i64::from(x1));
    let (cos, sin) = (i64::from(cos), i64::from(sin));
    // Each product is below 2^44, so each sum is below 2^45.
    (sat(rshr(x0 * cos - x1 * sin, 14)), sat(rshr(x0 * sin + x1 * cos, 14)))
}

/// Turns the rows at absolute positions `position`, `position + 1`, …
///
/// | argument | shape, row-major | range |
/// |---|---|---|
/// | `frequencies` | `[rot / 2]` | turns per position, in units of `2^-64` |
/// | `x`, `out` | `[rows, heads * head_dim]` | Q16 within `+-SAT` |
///
/// # Panics
///
/// When a slice is not of its shape.
pub fn rope(shape: RopeShape, frequencies: &[u64], position: u32, x: &[i32], out: &mut [i32]) {
    let head_dim = shape.head_dim as usize;
    let width = shape.heads as usize * head_dim;
    assert_eq!(frequencies.len(), shape.rot as usize / 2, "one frequency per pair");
    assert_eq!(x.len() % width, 0, "x is [rows, heads * head_dim]");
    out.copy_from_slice(x);
    for (row, position) in out.chunks_exact_mut(width).zip(position..) {
        for head in row.chunks_exact_mut(head_dim) {
            for (j, frequency) in (0..).zip(frequencies) {
                let (first, second) = shape.pair(j);
                let (first, second) = (first as usize, second as usize);
                let turned = turn((head[first], head[second]), cos_sin(*frequency, position));
                (head[first], head[second]) = turned;
            }
        }
    }
}
