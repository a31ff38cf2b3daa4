//! `LayerNorm` and `RMSNorm`, per group of columns.

use hyperion_primitives::limits::WIDTH_MAX;

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `LayerNorm`: the mean is taken away first, and a shift is added.
    Layer,
    /// `RMSNorm`.
    Rms,
}

impl NormKind {
    /// The number that a program names it by.
    pub const fn code(self) -> u8 {
        match self {
            Self::Layer => 0,
            Self::Rms => 1,
        }
    }

    /// The kind with this code; `None` for a number that names none.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Layer),
            1 => Some(Self::Rms),
            _ => None,
        }
    }
}

/// Kind, epsilon and group of a normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NormShape {
    /// Which normalisation.
    pub kind: NormKind,
    /// `floor(epsilon * 2^32 + 1/2)`, in squared units of a Q16 activation.
    pub eps_q32: u32,
    /// Columns that are normalised together: the width of a row, or of a head.
    pub group: u32,
}

impl NormShape {
    /// `None` when the group is 0 or wider than [`WIDTH_MAX`].
    pub fn new(kind: NormKind, eps_q32: u32, group: u32) -> Option<Self> {
        (1..=WIDTH_MAX).contains(&group).then_some(Self { kind, eps_q32, group })
    }
}
