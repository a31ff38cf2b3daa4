// Arithmetic that every kernel shares: rounding, saturation, roots, reductions, the step of a row of codes.
//
// Definitions: crates/ops/src/round.rs and quantize.rs. All kernels are one translation unit: these files, one after
// another, in the order of crates/backend-cuda/src/kernels.rs. Nothing is included, and nothing here is floating point.

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

/// Greatest magnitude of an activation.
#define SAT 1073741823

DEVICE i64 least(i64 a, i64 b) {
    return a < b ? a : b;
}

DEVICE i64 most(i64 a, i64 b) {
    return a > b ? a : b;
}

DEVICE u32 magnitude(i32 x) {
    return x < 0 ? 0u - (u32)x : (u32)x;
}

/// Divides by 2^shift, a tie going up; multiplies where `shift` is negative.
DEVICE i64 rshr(i64 x, i32 shift) {
    return shift > 0 ? (x + (1ll << (shift - 1))) >> shift : (i64)((u64)x << -shift);
}

DEVICE i32 sat(i64 x) {
    return (i32)least(most(x, -(i64)SAT), (i64)SAT);
}

/// sat(rshr(acc * multiplier, shift)), the only way from an accumulator to an activation; shift -14 to 32.
DEVICE i32 req(i32 acc, u32 multiplier, i32 shift) {
    return sat(rshr((i64)acc * (i64)multiplier, shift));
}

/// Bits needed to write `x`.
DEVICE i32 bit_length(u64 x) {
    return 64 - leading_zeros(x);
}

/// floor(a / d), d positive.
DEVICE i64 floor_div(i64 a, i64 d) {
    return a >= 0 ? a / d : -((-a + d - 1) / d);
}

/// Floor of the square root, bit by bit.
DEVICE u32 isqrt32(u32 v) {
    u32 rest = v, root = 0;
    for (u32 bit = 1u << 30; bit != 0; bit >>= 2) {
        if (rest >= root + bit) {
            rest -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return root;
}

/// 1/sqrt(v) is near reciprocal * 2^(-31 - k/2).
struct InverseRoot {
    u32 reciprocal;
    i32 k;
};

/// v is not 0.
DEVICE InverseRoot inv_root(u64 v) {
    i32 k = bit_length(v) - 32;
    k += k & 1;
    u32 top = k >= 0 ? (u32)(v >> k) : (u32)(v << -k);
    InverseRoot root = {(1u << 31) / isqrt32(top), k};
    return root;
}

/// What the codes of a row are computed with: step mantissa * 2^exponent; p, R, e of the definition.
struct Quantizer {
    u32 mantissa;
    i32 exponent;
    i32 drop;
    i32 reciprocal;
    i32 shift;
};

/// The quantizer of a row of this peak.
DEVICE Quantizer quantizer(u32 row_peak, i32 kmin) {
    u32 peak = row_peak > 0 ? row_peak : 1;
    i32 drop = (i32)most(bit_length(peak) - 15, 0);
    u32 cap = (u32)least(rshr(peak, drop), 32767);
    u32 step = (u32)most((cap * 128 + 126) / 127, 128ll << (kmin + 7));
    i32 shift = bit_length(step) - 8;
    u32 mantissa = (step + (1u << shift) - 1) >> shift;
    if (mantissa == 256) {
        mantissa = 128;
        shift += 1;
    }
    Quantizer by = {mantissa, shift - 7 + drop, drop, (i32)((1u << 23) / mantissa), shift};
    return by;
}

/// The code of an element: 8 bits with `bits` 16, 15 bits with `bits` 9.
DEVICE i32 code(const Quantizer& by, i32 x, i32 bits) {
    i32 shortened = (i32)least(most(rshr(x, by.drop), -32767), 32767);
    i32 shift = bits + by.shift;
    return (shortened * by.reciprocal + (1 << (shift - 1))) >> shift;
}

/// The high half of a 15-bit code; the low half is what is left.
DEVICE i32 high_half(i32 code) {
    return (code + 64) >> 7;
}

/// A mantissa and an exponent in one word.
DEVICE u32 pack_step(u32 mantissa, i32 exponent) {
    return mantissa | ((u32)(exponent + 128) << 8);
}

DEVICE u32 step_mantissa(u32 step) {
    return step & 255;
}

DEVICE i32 step_exponent(u32 step) {
    return (i32)(step >> 8) - 128;
}

DEVICE i32 lane() {
    return (i32)(threadIdx.x & 31);
}

DEVICE i32 warp() {
    return (i32)(threadIdx.x >> 5);
}

struct Largest {
    template <class T>
    DEVICE_MEMBER T operator()(T a, T b) const {
        return a > b ? a : b;
    }
};

struct Sum {
    template <class T>
    DEVICE_MEMBER T operator()(T a, T b) const {
        return a + b;
    }
};

/// Over the aligned group of `lanes` lanes (a power of two) that a thread stands in; every lane gets it.
template <class T, class Op>
DEVICE T reduce_lanes(T x, i32 lanes, Op op) {
    for (i32 half = lanes / 2; half > 0; half /= 2) {
        x = op(x, shuffle_xor(x, half));
    }
    return x;
}

/// Over all threads of a block, which has whole warps; every thread gets it.
template <class T, class Op>
DEVICE T reduce_block(T x, Op op) {
    SHARED T parts[32];
    x = reduce_lanes(x, 32, op);
    barrier(); // of whoever reads the parts of a reduction before
    if (lane() == 0) {
        parts[warp()] = x;
    }
    barrier();
    T all = parts[0];
    for (u32 i = 1; i < blockDim.x / 32; i++) {
        all = op(all, parts[i]);
    }
    return all;
}
