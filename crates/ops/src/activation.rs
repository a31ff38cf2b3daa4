//! Non-linearities by table: `f(x) = max(x, 0) - c(|x|)`.
//!
//! ```text
//! y = max(x, 0) - c[min(rshr(|x|, 8), len - 1)]
//! ```
//!
//! The identity holds for GELU, its tanh form and SILU; RELU has `c = 0`. One lookup errs by 9.8e-4 at most.

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
            Self::Gelu => 2,
            Self::GeluTanh => 3,
            Self::Silu => 4,
        }
    }

    /// The non-linearity with this code; `None` for a number that names none.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.code() == code)
    }
}
