// Rotary positions. Definition: crates/ops/src/rope.rs.

struct RopeParams {
    i32* out;
    i64 out_stride;
    const i32* x;
    i64 stride;
    /// Turns per position of each pair, in units of 2^-64.
    const u64* frequencies;
    /// A quarter of a sine in Q14, both ends included.
    const u32* sines;
    /// Absolute position of each row.
    const u32* positions;
    i64 width;
    i64 head_dim;
    i64 rot;
    /// 1 if columns 2j and 2j + 1 turn together, 0 if j and j + rot / 2 do.
    i64 adjacent;
};

struct Turn {
    i64 cos;
    i64 sin;
};

/// Cosine and sine of phase / 2^64 turns, Q14.
DEVICE Turn turn(const u32* sines, u64 phase) {
    u64 angle = (phase + (1ull << 47)) >> 48;
    i64 sin = sines[angle & 0x3fff], cos = sines[0x4000 - (angle & 0x3fff)];
    // A quarter further, (cos, sin) becomes (-sin, cos).
    i64 quarter = (i64)(angle >> 14), half = quarter >= 2 ? -1 : 1;
    Turn by = {half * (quarter % 2 ? -sin : cos), half * (quarter % 2 ? cos : sin)};
    return by;
}

KERNEL(rope, 256, RopeParams) {
    i64 at = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (at >= p.width) {
        return;
    }
    i64 column = at % p.head_dim;
    const i32* x = p.x + row * p.stride + (at - column);
    i32* out = p.out + row * p.out_stride + (at - column);
    if (column >= p.rot) {
        out[column] = x[column];
    } else if (column < p.rot / 2) { // the first half of the turning columns stands for the pairs
        i64 first = p.adjacent ? 2 * column : column, second = p.adjacent ? first + 1 : column + p.rot / 2;
        Turn by = turn(p.sines, (u64)p.positions[row] * p.frequencies[column]);
        i64 x0 = x[first], x1 = x[second];
        out[first] = sat(rshr(x0 * by.cos - x1 * by.sin, 14));
        out[second] = sat(rshr(x0 * by.sin + x1 * by.cos, 14));
    }
}
