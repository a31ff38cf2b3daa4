//! Rotary positions.

use hyperion_primitives::limits::{HEAD_DIM_MAX, WIDTH_MAX};

/// Which two columns of a head turn together.
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
}
