//! Non-linearities by table.
//!
//! ```text
//! y = max(x, 0) - c[min(rshr(|x|, 8), len - 1)]
//! ```
//!
//! `f(x) = max(x, 0) - c(|x|)` holds for GELU, its tanh form and SILU; RELU has `c = 0`. One lookup errs by
//! 9.8e-4 at most.

use crate::{round::rshr, table};

#[cfg(feature = "std")]
pub(crate) mod kernel;

/// Which non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationTable {
    /// `max(x, 0)`.
    Relu,
    /// `x * Phi(x)`, by the error function.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
}

impl ActivationTable {
    /// Every non-linearity, in code order.
    pub const ALL: [Self; 4] = [Self::Relu, Self::Gelu, Self::GeluTanh, Self::Silu];

    /// The number that a program names it by: 0, or the id of its table.
    pub const fn code(self) -> u8 {
        match self {
            Self::Relu => 0,
            Self::Gelu => table::Table::Gelu.id(),
            Self::GeluTanh => table::Table::GeluTanh.id(),
            Self::Silu => table::Table::Silu.id(),
        }
    }

    /// The non-linearity with this code; `None` for a number that names none.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.code() == code)
    }

    /// `c` in Q16, one entry per `2^-8` of `|x|`; the last stands for everything beyond.
    pub fn corrections(self) -> &'static [u16] {
        match self {
            Self::Relu => &[0],
            Self::Gelu => &table::GELU,
            Self::GeluTanh => &table::GELU_TANH,
            Self::Silu => &table::SILU,
        }
    }
}

/// Applies a non-linearity element by element; `x` is Q16 within `+-SAT`, and so is the result.
///
/// # Panics
///
/// When the lengths differ.
pub fn activation(table: ActivationTable, x: &[i32], out: &mut [i32]) {
    assert_eq!(x.len(), out.len(), "one element per element");
    let corrections = table.corrections();
    for (out, x) in out.iter_mut().zip(x) {
        let place = rshr(x.unsigned_abs().into(), 8).cast_unsigned();
        let place = usize::try_from(place).expect("23 bits").min(corrections.len() - 1);
        *out = (*x).max(0) - i32::from(corrections[place]);
    }
}
