//! A linear layer: [`quantize`](mod@crate::quantize), [`gemm`](mod@crate::gemm),
//! [`requantize`](mod@crate::requantize).
//!
//! ```text
//! q, A, kx = quantize(x, -7)            a15: quantize_fine(x, 0), two products with the same weights
//! acc_n    = sum over i of q_i * W_ni
//! y_n      = sat(req(acc_n, A * B_n, kw_n - kx) + bias_n)
//! smooth:    first x_i = sat(rshr(x_i * g_i, 14))
//! ```

use alloc::{vec, vec::Vec};

use hyperion_primitives::limits::{DEPTH_MAX, VOCABULARY_MAX, padded_depth};

use crate::{
    gemm::{GemmShape, gemm},
    quantize::{KMIN, KMIN_FINE, quantize, quantize_fine, smooth, split},
    requantize::{Channels, requantize, requantize_fine},
};

/// Sizes and flags of a linear layer; holding one means that no accumulator leaves an `i32`.
///
/// Sizes come from [`new`](Self::new) only; any combination of the flags is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LinearShape {
    /// Inputs of a row.
    pub k: u32,
    /// Outputs of a row.
    pub n: u32,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether inputs are quantized to 15 bits (twice the products).
    pub a15: bool,
    /// Whether inputs are first multiplied by a factor per column.
    pub smooth: bool,
    /// Whether weights have four bits ([`nibbles`](mod@crate::nibbles)).
    pub w4: bool,
}

impl LinearShape {
    /// A layer of `k` inputs and `n` outputs without bias, `a15` or `smooth`.
    ///
    /// `None` when a size is 0, the padded depth exceeds [`DEPTH_MAX`], or `n` exceeds
    /// [`VOCABULARY_MAX`].
    pub fn new(k: u32, n: u32) -> Option<Self> {
        let deep = k > 0 && k <= DEPTH_MAX && padded_depth(k) <= DEPTH_MAX;
        let fits = deep && n > 0 && n <= VOCABULARY_MAX;
        fits.then_some(Self { k, n, bias: false, a15: false, smooth: false, w4: false })
    }

    /// The same layer with a bias.
    #[must_use]
    pub const fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// The same layer on 15-bit inputs.
    #[must_use]
    pub const fn with_a15(self) -> Self {
        Self { a15: true, ..self }
    }

    /// The same layer with a factor per input column.
    #[must_use]
    pub const fn with_smooth(self) -> Self {
        Self { smooth: true, ..self }
    }

    /// The same layer on weights of four bits.
    #[must_use]
    pub const fn with_w4(self) -> Self {
        Self { w4: true, ..self }
    }

    /// The padded depth `K`: codes per output channel, a multiple of 32.
    pub const fn depth(self) -> u32 {
        padded_depth(self.k)
    }
}

/// Weights of a linear layer as plain codes.
#[derive(Clone, Copy, Debug)]
pub struct LinearWeights<'a> {
    /// `[n, K]`, -127 to 127, 0 beyond column `k`.
    pub codes: &'a [i8],
    /// Scale and bias of the output channels; the bias is there exactly when the shape says so.
    pub channels: Channels<'a>,
    /// Q14 factors `[k]`, there exactly when the shape says so.
    pub smooth: Option<&'a [u16]>,
}

/// Applies a linear layer to each row.
///
/// | argument | shape, row-major | range |
/// |---|---|---|
/// | `x` | `[rows, k]` | Q16 within `+-SAT` |
/// | `out` | `[rows, n]` | Q16 within `+-SAT` |
///
/// # Panics
///
/// When a slice is not of its shape.
pub fn linear(shape: LinearShape, weights: &LinearWeights<'_>, x: &[i32], out: &mut [i32]) {
    let (k, n, depth) = (shape.k as usize, shape.n as usize, shape.depth() as usize);
    assert_eq!(x.len() % k, 0, "x is [rows, k]");
    assert_eq!(x.len() / k * n, out.len(), "out is [rows, n]");
    assert_eq!(shape.bias, weights.channels.bias.is_some(), "a bias where the shape says so");
    assert_eq!(shape.smooth, weights.smooth.is_some(), "factors where the shape says so");
    let product = GemmShape::new(1, n, depth).expect("a linear shape bounds the depth");
    let multiply = |codes: &[i8]| {
        let mut acc = vec![0; n];
        gemm(product, codes, weights.codes, &mut acc);
        acc
    };
    let mut smoothed = vec![0; k];
    for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        let x = match weights.smooth {
            Some(factors) => {
                smooth(x, factors, &mut smoothed);
                &smoothed
            }
            None => x,
        };
        if shape.a15 {
            let mut codes = vec![0; depth];
            let scale = quantize_fine(x, KMIN_FINE, &mut codes[..k]);
            let (hi, lo): (Vec<i8>, Vec<i8>) = codes.into_iter().map(split).unzip();
            requantize_fine(scale, &weights.channels, &multiply(&hi), &multiply(&lo), out);
        } else {
            let mut codes = vec![0; depth];
            let scale = quantize(x, KMIN, &mut codes[..k]);
            requantize(scale, &weights.channels, &multiply(&codes), out);
        }
    }
}
