// Arithmetic that every shader shares: 64-bit integers as two words, rounding, saturation, roots.
//
// WGSL has no 64-bit integers that every adapter offers, so a signed 64-bit number is `vec2<u32>(low, high)` in two's
// complement. Definitions: crates/ops/src/round.rs. WGSL masks shift amounts, so shifts by 32 or more branch.

/// Threads of a workgroup that works on one row together: a power of two, 64 at most. A GPU wants many; Vulkan in software
/// wants one vector of them, because threads that wait for each other are expensive there.
override GROUP: u32 = 64u;
/// Greatest magnitude of an activation.
const SAT: i32 = 1073741823;

fn add64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn neg64(a: vec2<u32>) -> vec2<u32> {
    return add64(~a, vec2<u32>(1u, 0u));
}

fn widen(a: i32) -> vec2<u32> {
    return vec2<u32>(bitcast<u32>(a), bitcast<u32>(a >> 31u));
}

/// Product of two words, all 64 bits of it.
fn mul_u32(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let p00 = a0 * b0;
    let p01 = a0 * b1;
    let p10 = a1 * b0;
    let middle = (p00 >> 16u) + (p01 & 0xffffu) + (p10 & 0xffffu);
    let low = (p00 & 0xffffu) | (middle << 16u);
    return vec2<u32>(low, a1 * b1 + (p01 >> 16u) + (p10 >> 16u) + (middle >> 16u));
}

fn mul_i32(a: i32, b: i32) -> vec2<u32> {
    let product = mul_u32(bitcast<u32>(a), bitcast<u32>(b));
    let minus_b = select(0u, bitcast<u32>(b), a < 0);
    let minus_a = select(0u, bitcast<u32>(a), b < 0);
    return vec2<u32>(product.x, product.y - minus_b - minus_a);
}

/// `a * 2^shift`, shift 0 to 63.
fn shl64(a: vec2<u32>, shift: u32) -> vec2<u32> {
    if (shift == 0u) {
        return a;
    }
    if (shift >= 32u) {
        return vec2<u32>(0u, a.x << (shift - 32u));
    }
    return vec2<u32>(a.x << shift, (a.y << shift) | (a.x >> (32u - shift)));
}

/// `floor(a / 2^shift)`, shift 0 to 63.
fn shr64(a: vec2<u32>, shift: u32) -> vec2<u32> {
    let high = bitcast<i32>(a.y);
    if (shift == 0u) {
        return a;
    }
    if (shift >= 32u) {
        return vec2<u32>(bitcast<u32>(high >> (shift - 32u)), bitcast<u32>(high >> 31u));
    }
    return vec2<u32>((a.x >> shift) | (a.y << (32u - shift)), bitcast<u32>(high >> shift));
}

/// Divides by `2^shift`, a tie going up; multiplies where `shift` is negative.
fn rshr64(a: vec2<u32>, shift: i32) -> vec2<u32> {
    if (shift > 0) {
        return shr64(add64(a, shl64(vec2<u32>(1u, 0u), u32(shift - 1))), u32(shift));
    }
    return shl64(a, u32(-shift));
}

fn rshr32(a: i32, shift: u32) -> i32 {
    if (shift == 0u) {
        return a;
    }
    return (a + (1i << (shift - 1u))) >> shift;
}

fn sat64(a: vec2<u32>) -> i32 {
    let low = bitcast<i32>(a.x);
    let high = bitcast<i32>(a.y);
    if (high == (low >> 31u)) {
        return clamp(low, -SAT, SAT);
    }
    return select(SAT, -SAT, high < 0);
}

/// `sat(rshr(acc * multiplier, shift))`, the only way from an accumulator to an activation; shift -14 to 32.
fn req(acc: i32, multiplier: u32, shift: i32) -> i32 {
    return sat64(rshr64(mul_i32(acc, i32(multiplier)), shift));
}

/// Bits needed to write `a`.
fn bit_length(a: u32) -> u32 {
    return 32u - countLeadingZeros(a);
}

fn bit_length64(a: vec2<u32>) -> u32 {
    return select(bit_length(a.x), 32u + bit_length(a.y), a.y != 0u);
}

/// `floor(a / d)` of an unsigned number; d below 2^24.
fn div64(a: vec2<u32>, d: u32) -> vec2<u32> {
    var quotient = vec2<u32>(0u, a.y / d);
    var rest = a.y % d;
    for (var digit = 0u; digit < 4u; digit++) {
        let shift = 24u - 8u * digit;
        let part = (rest << 8u) | ((a.x >> shift) & 255u);
        quotient.x |= (part / d) << shift;
        rest = part % d;
    }
    return quotient;
}

/// `floor(a / d)` of a signed number; d below 2^24.
fn div64_floor(a: vec2<u32>, d: u32) -> vec2<u32> {
    if (bitcast<i32>(a.y) >= 0) {
        return div64(a, d);
    }
    return neg64(div64(add64(neg64(a), vec2<u32>(d - 1u, 0u)), d));
}

/// Floor of the square root, bit by bit.
fn isqrt32(a: u32) -> u32 {
    var rest = a;
    var root = 0u;
    var bit = 1u << 30u;
    for (var i = 0u; i < 16u; i++) {
        if (rest >= root + bit) {
            rest -= root + bit;
            root = (root >> 1u) + bit;
        } else {
            root = root >> 1u;
        }
        bit = bit >> 2u;
    }
    return root;
}

/// `(R, k)` with `1/sqrt(v)` near `R * 2^(-31 - k/2)`; v is not 0.
fn inv_root(v: vec2<u32>) -> vec2<i32> {
    var k = i32(bit_length64(v)) - 32;
    k += k & 1;
    var top: u32;
    if (k >= 0) {
        top = shr64(v, u32(k)).x;
    } else {
        top = v.x << u32(-k);
    }
    return vec2<i32>(i32(0x80000000u / isqrt32(top)), k);
}

/// What the codes of a row are computed with: step `mantissa * 2^exponent`, `p`, `R`, `e` of the definition.
struct Quantizer {
    mantissa: u32,
    exponent: i32,
    drop: u32,
    reciprocal: i32,
    shift: u32,
}

/// The quantizer of a row of this peak. Definition: crates/ops/src/quantize.rs.
fn quantizer(row_peak: u32, kmin: i32) -> Quantizer {
    let peak = max(row_peak, 1u);
    let drop = u32(max(i32(bit_length(peak)) - 15, 0));
    let cap = min(u32(rshr32(i32(peak), drop)), 32767u);
    let step = max((cap * 128u + 126u) / 127u, 128u << u32(kmin + 7));
    var shift = bit_length(step) - 8u;
    var mantissa = (step + (1u << shift) - 1u) >> shift;
    if (mantissa == 256u) {
        mantissa = 128u;
        shift += 1u;
    }
    let exponent = i32(shift) - 7 + i32(drop);
    return Quantizer(mantissa, exponent, drop, i32((1u << 23u) / mantissa), shift);
}

/// The code of an element: 8 bits with `bits` 16, 15 bits with `bits` 9.
fn code(by: Quantizer, x: i32, bits: u32) -> i32 {
    let short = clamp(rshr32(x, by.drop), -32767, 32767);
    let shift = bits + by.shift;
    return (short * by.reciprocal + (1i << (shift - 1u))) >> shift;
}

/// A mantissa and an exponent in one word.
fn pack_step(mantissa: u32, exponent: i32) -> u32 {
    return mantissa | (u32(exponent + 128) << 8u);
}

fn step_mantissa(step: u32) -> u32 {
    return step & 255u;
}

fn step_exponent(step: u32) -> i32 {
    return i32(step >> 8u) - 128;
}
