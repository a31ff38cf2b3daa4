//! `LayerNorm` and `RMSNorm`, per group of columns.
//!
//! ```text
//! a = max(1, max |x|);  p = max(0, bl(a) - 24);  c_i = rshr(x_i, p)                |c| <= 2^24
//! layer:  mean = floor((2 * sum c + d) / 2d);  c_i -= mean                   |sum c| <= 2^38
//! V = sum c^2;  var = max(1, floor(V / d) + (eps_q32 >> 2p))           V <= 2^62 + 2^12
//! (R, k) = inv_root(var);  t_i = rshr(c_i * R, 17 + k/2)                  Q14, |t| < 2^22
//! y_i = sat(rshr(t_i * gamma_i, 12) + beta_i)
//! ```
//!
//! A row keeps 24 bits here, not 15: beside one massive activation (2,500 next to 1) fifteen bits would
//! leave three for the rest.

use alloc::vec::Vec;

use hyperion_primitives::limits::WIDTH_MAX;

use crate::{
    quantize::peak,
    round::{bit_length, inv_root, rshr, sat},
};

#[cfg(feature = "std")]
pub(crate) mod kernel;

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `LayerNorm`: the mean is taken away first.
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

/// Normalises each group of `shape.group` columns.
///
/// | argument | shape | range |
/// |---|---|---|
/// | `gamma` | `[group]` | Q14, magnitude below `2^22` |
/// | `beta` | `[group]` | Q16 within `+-SAT` |
/// | `x`, `out` | `[groups, group]` | Q16 within `+-SAT` |
///
/// # Panics
///
/// When a slice is not of its shape.
pub fn norm(shape: NormShape, gamma: &[i32], beta: Option<&[i32]>, x: &[i32], out: &mut [i32]) {
    let group = shape.group as usize;
    assert_eq!(gamma.len(), group, "one factor per column");
    assert!(beta.is_none_or(|beta| beta.len() == group), "one shift per column");
    assert_eq!(x.len() % group, 0, "x is [groups, group]");
    assert_eq!(x.len(), out.len(), "one element per element");
    for (x, out) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        let (centred, root) = standardise(shape, x);
        for (i, out) in out.iter_mut().enumerate() {
            let t = rshr(centred[i] * i64::from(root.reciprocal), root.shift);
            let shift = beta.map_or(0, |beta| i64::from(beta[i]));
            // |t * gamma| < 2^44.
            *out = sat(rshr(t * i64::from(gamma[i]), 12) + shift);
        }
    }
}

/// `R` and `17 + k/2` of a group.
struct InverseRoot {
    reciprocal: u32,
    shift: i32,
}

/// The group in 24 bits, centred if the kind says so, and the inverse of its root mean square.
fn standardise(shape: NormShape, x: &[i32]) -> (Vec<i64>, InverseRoot) {
    let d = i64::from(shape.group);
    let drop = bit_length(peak(x).into()).saturating_sub(24);
    let mut c: Vec<i64> = x.iter().map(|x| rshr(i64::from(*x), drop.cast_signed())).collect();
    if shape.kind == NormKind::Layer {
        let sum: i64 = c.iter().sum();
        let mean = (2 * sum + d).div_euclid(2 * d);
        c.iter_mut().for_each(|c| *c -= mean);
    }
    let squares: u64 = c.iter().map(|c| c.unsigned_abs().pow(2)).sum();
    let variance = squares / d.cast_unsigned() + u64::from(shape.eps_q32 >> (2 * drop));
    // The variance is below 2^49, so k is 18 at most and the shift lies in 2..=26.
    let (reciprocal, k) = inv_root(variance.max(1));
    (c, InverseRoot { reciprocal, shift: 17 + k / 2 })
}
