//! Rounding, saturation and roots.
//!
//! ```text
//! rshr(x, s)    s > 0: (x + 2^(s-1)) >> s, so half goes towards plus infinity; s < 0: x * 2^-s
//! sat(x)        clamp to +-SAT, SAT = 2^30 - 1
//! req(a, M, s)  sat(rshr(a * M, s)), the only way from an accumulator to an activation
//! fit(M, s)     brings a row's (M, s) into req's domain when s > 32
//! wide(a, m, s) rshr(a * m, s) with 31-bit factors: what kernels evaluate req with
//! inv_root(v)   (R, k) with 1/sqrt(v) ~ R * 2^(-31 - k/2), relative error below 2^-14
//! ```
//!
//! Beside these, only right shifts of non-negative numbers lose bits (`exp2_neg`, and attention's weights).

use hyperion_primitives::limits::SAT;

/// Bits needed to write `x`; 0 for 0, 8 for 255.
pub const fn bit_length(x: u64) -> u32 {
    u64::BITS - x.leading_zeros()
}

/// Divides by `2^shift`, a tie going towards plus infinity; multiplies where `shift` is negative.
///
/// `shift` is in `-62..=62`, and the caller's bounds keep `x * 2^-shift` and `x + 2^(shift - 1)` inside
/// an `i64`.
pub const fn rshr(x: i64, shift: i32) -> i64 {
    if shift > 0 { (x + (1 << (shift - 1))) >> shift } else { x << -shift }
}

/// Clamps to the range of an activation, `-SAT..=SAT`.
pub fn sat(x: i64) -> i32 {
    let bounded = x.clamp(-i64::from(SAT), i64::from(SAT));
    i32::try_from(bounded).expect("clamped to 31 bits on the line above")
}

/// Requantizes: `sat(rshr(acc * multiplier, shift))`.
///
/// | argument | range |
/// |---|---|
/// | `acc` | any but `i32::MIN` |
/// | `multiplier` | below `2^16` |
/// | `shift` | `-14..=32` |
pub fn req(acc: i32, multiplier: u32, shift: i32) -> i32 {
    debug_assert!(acc != i32::MIN && multiplier < 1 << 16 && (-14..=32).contains(&shift));
    // |acc * multiplier| < 2^47, so a left shift by 14 stays below 2^61.
    sat(rshr(i64::from(acc) * i64::from(multiplier), shift))
}

/// Brings a row's multiplier and shift into the domain of [`req`]: shifts above 32 go into the multiplier.
pub fn fit(multiplier: u32, shift: i32) -> (u32, i32) {
    if shift > 32 { (multiplier >> (shift - 32).min(31), 32) } else { (multiplier, shift) }
}

/// `rshr(acc * multiplier, shift)` with `|acc|, multiplier < 2^31` and `shift` in `1..=62`.
///
/// Kernels evaluate a whole row of [`req`] with it: `req(a, A*B, kw - kx)` equals `sat(wide(a, A*mw, S))`
/// where `mw = B * 2^(15 - (kw - low))` and `S = low + 15 - kx` is the same for every channel.
pub fn wide(acc: i32, multiplier: u32, shift: u32) -> i64 {
    debug_assert!(acc != i32::MIN && multiplier < 1 << 31 && (1..=62).contains(&shift));
    // The product is below 2^62 and the rounding term at most 2^61.
    (i64::from(acc) * i64::from(multiplier) + (1 << (shift - 1))) >> shift
}

/// Floor of the square root.
pub const fn isqrt32(v: u32) -> u32 {
    v.isqrt()
}

/// `(R, k)` with `1/sqrt(v)` near `R * 2^(-31 - k/2)`; `R` in `2^15..=2^16`, `k` even in `-30..=32`.
///
/// # Panics
///
/// When `v` is 0.
pub fn inv_root(v: u64) -> (u32, i32) {
    assert!(v > 0, "the root of zero has no inverse");
    let k = bit_length(v).cast_signed() - 32;
    let k = k + (k & 1);
    let top = if k >= 0 { v >> k } else { v << -k };
    let top = u32::try_from(top).expect("shifted to 31 or 32 bits");
    ((1 << 31) / isqrt32(top), k)
}
