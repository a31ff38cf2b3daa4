// Values softly kept within a cap. Definition: crates/ops/src/softcap.rs.

/// A cap in Q16, and `R`; 0 is no cap.
struct Cap {
    i64 q16;
    i64 inverse;
};

/// `cap * tanh(x / cap)`; `powers` are 2^(-i/256) in Q28.
DEVICE i32 softcapped(const Cap& cap, const u32* powers, i32 x) {
    // Octaves in Q20; the product is below 2^60.
    i64 octaves = ((i64)magnitude(x) * cap.inverse + (1 << 23)) >> 24;
    u32 d = (u32)least(octaves, (1 << 25) - 1), index = (d >> 12) & 255;
    u32 low = powers[index], next = index < 255 ? powers[index + 1] : 1u << 27;
    u32 e = (low - (((low - next) * (d & 4095) + 2048) >> 12)) >> (d >> 20);
    u64 quotient = (u64)((1u << 28) - e) * (u64)cap.q16 / ((1u << 28) + e);
    return x < 0 ? -(i32)quotient : (i32)quotient;
}

/// A score in 1/256 of an octave; the cap is in octaves.
DEVICE i32 capped_score(const Cap& cap, const u32* powers, i32 score) {
    i32 near = (i32)most(least(score, 1 << 21), -(1 << 21));
    return (softcapped(cap, powers, near * 256) + 128) >> 8;
}

struct SoftcapParams {
    i32* out;
    i64 out_stride;
    const i32* x;
    i64 stride;
    i64 width;
    const u32* powers;
    Cap cap;
};

KERNEL(softcap, 256, SoftcapParams) {
    i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (column < p.width) {
        p.out[row * p.out_stride + column] = softcapped(p.cap, p.powers, p.x[row * p.stride + column]);
    }
}
